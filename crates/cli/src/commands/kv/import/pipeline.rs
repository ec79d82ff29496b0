//! Writes batches through several lanes and remembers, with every batch, how far each lane has
//! come.
//!
//! A lane writes one batch after the other. So "this lane has written its batches below `n`", kept
//! in the same atomic write as the batch, says exactly which batches are in the database, whenever
//! an import is killed. The reader runs on a thread of its own and is held back by the lanes' short
//! queues.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use keelson_client::{ClientError, Database, Session, WriteBatch};
use keelson_types::RefusalReason;
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};

use super::batch::{Batch, Found};
use super::lanes::{LANES, Lanes};
use super::numbered;
use super::pace::{Pace, may_write};
use super::progress::Records;
use super::report::Report;
use super::source::Source;
use crate::failure::{Failure, Outcome};

/// Batches that wait in front of a lane.
const WAITING_MAX: usize = 2;

/// How an import begins.
#[derive(Clone, Copy, Debug)]
pub(super) struct Start {
    /// From the beginning, even if an earlier run did not end.
    pub(super) restart: bool,
    /// Numbered records of another source are no reason not to.
    pub(super) overwrite: bool,
}

/// Reads everything and writes nothing.
pub(super) async fn count(source: Source, report: Report) -> Outcome<Report> {
    let report = Arc::new(Mutex::new(report));
    let shared = report.clone();
    let read = move || {
        each_batch(source, &shared, |_, batch| {
            imported(&shared, &batch);
            true
        })
    };
    join(tokio::task::spawn_blocking(read).await)?;
    Ok(unwrap(report))
}

/// Imports `source` into `database`.
pub(super) async fn run(
    database: &Database,
    source: Source,
    start: Start,
    (pace, report): (Option<Pace>, Report),
) -> Outcome<Report> {
    // A pipe cannot be read again, so nobody would go on from there.
    let records = source.is_resumable().then(|| Records::of(&source));
    let session = database.session().await?;
    let begun = match &records {
        Some(records) => records.begin(database, &session, start.restart).await?,
        None => None,
    };
    if begun.is_none() && !start.overwrite {
        numbered::nothing_is_there(database, &source).await?;
    }
    let progress = begun.unwrap_or_default();
    let report = Arc::new(Mutex::new(report));
    // Closed until the first answer; nobody is asked without a pace.
    let (gate, open) = watch::channel(pace.is_none());
    let mut open_gate = Some(gate);
    let pace =
        pace.and_then(|pace| Some(tokio::spawn(pace.keep(open_gate.take()?, report.clone()))));
    let mut lanes = JoinSet::new();
    let mut senders = Vec::new();
    for lane in 0..LANES {
        let (sender, batches) = mpsc::channel(WAITING_MAX);
        senders.push(sender);
        let key = records.as_ref().map(|records| records.key(lane));
        let lane = Lane { key, batches, gate: open.clone() };
        lanes.spawn(lane.write(session.clone(), report.clone()));
    }
    let shared = report.clone();
    let reader = tokio::task::spawn_blocking(move || {
        each_batch(source, &shared, |lane, batch| {
            if batch.counts && batch.index < progress[lane] {
                lock(&shared, |report| report.skipped(batch.records.len() as u64));
                return true;
            }
            // A lane that failed takes nothing any more: stop reading.
            senders[lane].blocking_send(batch).is_ok()
        })
    });
    let mut failure = None;
    while let Some(ended) = lanes.join_next().await {
        if let Err(error) = join(ended.map(|result| result.map_err(Failure::from))) {
            failure.get_or_insert(error);
        }
    }
    let read = join(reader.await);
    if let Some(error) = given_up(pace).await {
        failure.get_or_insert(error);
    }
    let report = unwrap(report);
    if let Some(error) = failure {
        let done = report.records();
        let next = match records.is_some() {
            true => "the same command continues it",
            false => "start it anew with the whole input",
        };
        return Err(error.during(&format!("the import stopped after {done} records; {next}")));
    }
    read?;
    if let Some(records) = records {
        records.clear(&session).await?;
    }
    Ok(report)
}

/// Reads all records into batches of lanes; `take` returns false to stop.
fn each_batch(
    mut source: Source,
    report: &Mutex<Report>,
    mut take: impl FnMut(usize, Batch) -> bool,
) -> Outcome {
    let mut lanes = Lanes::default();
    let mut counts = true;
    while let Some(found) = source.next()? {
        match found {
            Found::Bad { place, reason } => lock(report, |report| report.bad(&place, &reason)),
            Found::Unread { place, reason } => {
                counts = false;
                lock(report, |report| report.bad(&place, &reason));
            }
            Found::Note { place, text } => lock(report, |report| report.note(&place, &text)),
            Found::Record { key, value, .. } => {
                if let Some((lane, batch)) = lanes.add(key, value)
                    && !take(lane, Batch { read: source.read_bytes(), counts, ..batch })
                {
                    return Ok(());
                }
            }
        }
    }
    let read = source.read_bytes();
    for (lane, batch) in lanes.rest() {
        if !take(lane, Batch { read, counts, ..batch }) {
            break;
        }
    }
    Ok(())
}

/// Why the pace ended before the import, if it did; else it ends now.
async fn given_up(pace: Option<JoinHandle<Failure>>) -> Option<Failure> {
    let pace = pace?;
    pace.abort();
    // An error means that it had not ended.
    pace.await.ok()
}

struct Lane {
    /// Of its progress; none if the import cannot be continued.
    key: Option<Bytes>,
    batches: mpsc::Receiver<Batch>,
    gate: watch::Receiver<bool>,
}

impl Lane {
    async fn write(
        mut self,
        session: Session,
        report: Arc<Mutex<Report>>,
    ) -> Result<(), ClientError> {
        while let Some(batch) = self.batches.recv().await {
            if !may_write(&mut self.gate).await {
                break; // Why it was given up is told elsewhere.
            }
            let mut write = WriteBatch::new();
            for (key, value) in &batch.records {
                write.push_put(key.clone(), value.clone());
            }
            // The lane has written everything of its own below the number behind this batch.
            if let Some(key) = self.key.as_ref().filter(|_| batch.counts) {
                write.push_put(key.clone(), (batch.index + 1).to_string());
            }
            session.write(write).await?;
            imported(&report, &batch);
        }
        Ok(())
    }
}

fn imported(report: &Mutex<Report>, batch: &Batch) {
    let (records, bytes) = (batch.records.len() as u64, batch.bytes as u64);
    lock(report, |report| report.imported(records, bytes, batch.read));
}

pub(super) fn lock<T>(report: &Mutex<Report>, change: impl FnOnce(&mut Report) -> T) -> T {
    change(&mut report.lock().unwrap_or_else(PoisonError::into_inner))
}

fn unwrap(report: Arc<Mutex<Report>>) -> Report {
    let report = Arc::try_unwrap(report).ok().expect("reader and lanes have ended");
    report.into_inner().unwrap_or_else(PoisonError::into_inner)
}

fn join<T>(ended: Result<Outcome<T>, tokio::task::JoinError>) -> Outcome<T> {
    ended.unwrap_or_else(|error| {
        Err(Failure::new(RefusalReason::Internal, format!("a part of the import failed: {error}")))
    })
}

#[cfg(test)]
mod tests {
    use super::super::{Format, Shape};
    use super::*;
    use crate::context::Global;
    use crate::output;

    /// The next run may read that file and make other batches: none behind it says how far the
    /// import has come.
    #[test]
    fn behind_an_unreadable_file_no_batch_counts() {
        let root = std::env::temp_dir().join(format!("keelson-pipeline-{}", uuid::Uuid::new_v4()));
        std::fs::create_dir_all(&root).unwrap();
        for name in ["a", "b", "c"] {
            std::fs::write(root.join(name), "{\"n\":1}\n".repeat(4_000)).unwrap();
        }
        let source = Source::open(&root, Some(Format::JsonLines), Shape::default()).unwrap();
        std::fs::remove_file(root.join("b")).unwrap();
        let output = output::Format::Json;
        let global = Global { client: None, token_file: None, output, yes: false, what_if: true };
        let report = Mutex::new(Report::new(&global, "DB1", &root, &source));
        let mut counts = Vec::new();
        let mut records = 0;
        each_batch(source, &report, |_, batch| {
            counts.push(batch.counts);
            records += batch.records.len();
            true
        })
        .unwrap();
        let first = counts.iter().position(|counts| !counts).unwrap();
        assert!(first > 0 && counts[first..].iter().all(|counts| !counts), "{counts:?}");
        assert_eq!((records, lock(&report, |report| report.bad_count())), (8_000, 1));
        std::fs::remove_dir_all(&root).unwrap();
    }
}
