//! Writes batches through several lanes and remembers, with every batch, how far each lane has
//! come.
//!
//! Batch `n` goes through lane `n % 8`, and a lane writes one batch after the other. So "this lane
//! has written its batches below `n`", kept in the same atomic write as the batch, says exactly
//! which batches are in the database, whenever an import is killed. The reader runs on a thread of
//! its own and is held back by the lanes' short queues.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use keelson_client::{ClientError, Database, Session, WriteBatch};
use keelson_types::RefusalReason;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::batch::{Batch, Found};
use super::report::Report;
use super::source::Source;
use crate::commands::kv::reserved;
use crate::failure::{Failure, Outcome};

/// Batches under way together.
const LANES: u64 = 8;

/// Batches that wait in front of a lane.
const WAITING_MAX: usize = 2;

/// How far each lane has come: the first batch number that it has not written.
type Progress = Vec<u64>;

/// Reads everything and writes nothing.
pub(super) async fn count(source: Source, report: Report) -> Outcome<Report> {
    let report = Arc::new(Mutex::new(report));
    let shared = report.clone();
    let read = move || {
        each_batch(source, &shared, |batch| {
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
    restart: bool,
    report: Report,
) -> Outcome<Report> {
    let identity = source.identity();
    let progress = if restart { vec![0; LANES as usize] } else { load(database, identity).await? };
    let session = database.session().await?;
    let report = Arc::new(Mutex::new(report));
    let mut lanes = JoinSet::new();
    let mut senders = Vec::new();
    for lane in 0..LANES {
        let (sender, batches) = mpsc::channel(WAITING_MAX);
        senders.push(sender);
        let key = progress_key(identity, lane);
        lanes.spawn(write_lane(session.clone(), key, batches, report.clone()));
    }
    let shared = report.clone();
    let reader = tokio::task::spawn_blocking(move || {
        each_batch(source, &shared, |batch| {
            let lane = (batch.index % LANES) as usize;
            if batch.index < progress[lane] {
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
    let report = unwrap(report);
    if let Some(error) = failure {
        let done = report.records();
        return Err(error.during(&format!(
            "the import stopped after {done} records; the same command continues it"
        )));
    }
    read?;
    clear(&session, identity).await?;
    Ok(report)
}

/// Reads all records into batches; `take` returns false to stop.
fn each_batch(
    mut source: Source,
    report: &Mutex<Report>,
    mut take: impl FnMut(Batch) -> bool,
) -> Outcome {
    let mut batch = Batch::default();
    while let Some(found) = source.next()? {
        match found {
            Found::Bad { place, reason } => lock(report, |report| report.bad(&place, &reason)),
            Found::Record { key, value, .. } => {
                batch.add(key, value);
                if batch.is_full() {
                    batch.read = source.read_bytes();
                    let next = Batch { index: batch.index + 1, ..Batch::default() };
                    if !take(std::mem::replace(&mut batch, next)) {
                        return Ok(());
                    }
                }
            }
        }
    }
    batch.read = source.read_bytes();
    if !batch.records.is_empty() {
        take(batch);
    }
    Ok(())
}

async fn write_lane(
    session: Session,
    progress_key: Bytes,
    mut batches: mpsc::Receiver<Batch>,
    report: Arc<Mutex<Report>>,
) -> Result<(), ClientError> {
    while let Some(batch) = batches.recv().await {
        let mut write = WriteBatch::new();
        for (key, value) in &batch.records {
            write.push_put(key.clone(), value.clone());
        }
        // The lane has written everything of its own below the number behind this batch.
        write.push_put(progress_key.clone(), (batch.index + 1).to_string());
        session.write(write).await?;
        imported(&report, &batch);
    }
    Ok(())
}

async fn load(database: &Database, identity: u64) -> Outcome<Progress> {
    let mut progress = Vec::new();
    for lane in 0..LANES {
        let value = database.get(progress_key(identity, lane)).await?.unwrap_or_default();
        let number = std::str::from_utf8(&value).ok().and_then(|text| text.parse().ok());
        progress.push(number.unwrap_or(0));
    }
    Ok(progress)
}

/// Removes the progress records of an import that has ended.
async fn clear(session: &Session, identity: u64) -> Outcome {
    let keys = (0..LANES).map(|lane| progress_key(identity, lane));
    session.write(keys.fold(WriteBatch::new(), WriteBatch::delete)).await?;
    Ok(())
}

fn progress_key(identity: u64, lane: u64) -> Bytes {
    [reserved::PREFIX, format!("import/{identity:016x}/{lane}").as_bytes()].concat().into()
}

fn imported(report: &Mutex<Report>, batch: &Batch) {
    let (records, bytes) = (batch.records.len() as u64, batch.bytes as u64);
    lock(report, |report| report.imported(records, bytes, batch.read));
}

fn lock<T>(report: &Mutex<Report>, change: impl FnOnce(&mut Report) -> T) -> T {
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
