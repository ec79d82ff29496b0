//! Serving seeds: the calls that a target makes.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use keelson_env::DiskFile;
use keelson_format::{SeedPlace, pack};
use keelson_types::{CheckpointId, RefusalReason, SeedScope};
use keelson_wire::{Refusal, ids, v1};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout};
use tonic::Status;

use super::blocking;
use super::making::make;
use super::pace::{Pace, chunk_bytes};
use super::source::{Source, Standing};
use crate::context::{CopyHandle, PlaneContext};
use crate::message::Message;
use crate::service::ReplicationService;
use crate::traffic::PeerCounts;

/// Chunks read ahead of the target.
const AHEAD: usize = 4;
/// How often a target hears how much of the checkpoint is read.
const TELL_EVERY: Duration = Duration::from_millis(500);

/// A checkpoint that is read comes no further for so long at most: what hangs ends with a reason,
/// and the target asks another source. An index is verified within it, without a word.
const STILL_MAX: Duration = Duration::from_secs(15 * 60);
/// A target that waits in line for so long is sent to another source.
const LINE_MAX: Duration = Duration::from_secs(60 * 60);

type Out<T> = mpsc::Sender<Result<T, Status>>;

/// The copy, or its index, is read for a seed as long as this lives; its status says so.
pub(super) struct Feeding {
    copy: CopyHandle,
    database: bool,
    catalog: bool,
}

impl Feeding {
    pub(super) fn new(copy: &CopyHandle, database: bool, catalog: bool) -> Self {
        let this = Self { copy: copy.clone(), database, catalog };
        for count in this.counts() {
            count.fetch_add(1, Ordering::Relaxed);
        }
        let _ = copy.mailbox.try_send(Message::SeedStanding);
        this
    }

    fn counts(&self) -> impl Iterator<Item = &AtomicUsize> {
        let feeding = &self.copy.shared.feeding;
        let counts = [(self.database, &feeding.database), (self.catalog, &feeding.catalog)];
        counts.into_iter().filter_map(|(read, count)| read.then_some(count))
    }
}

impl Drop for Feeding {
    fn drop(&mut self) {
        for count in self.counts() {
            count.fetch_sub(1, Ordering::Relaxed);
        }
        let _ = self.copy.mailbox.try_send(Message::SeedStanding);
    }
}

impl ReplicationService {
    /// Answers with the checkpoint asked for, or with the one of the operation, which is begun if
    /// there is none; what it takes is told on the way.
    pub(crate) fn open_seed_stream(
        &self,
        request: &v1::OpenSeedRequest,
    ) -> Result<mpsc::Receiver<Result<v1::OpenSeedResponse, Status>>, Refusal> {
        let (database, id) = (ids::database(&request.database)?, ids::copy(&request.copy)?);
        let operation = ids::operation(&request.operation)?;
        let scope = match request.parts() {
            v1::SeedParts::Database => SeedScope::Database,
            v1::SeedParts::Everything => SeedScope::Everything,
            v1::SeedParts::Catalog => SeedScope::Catalog,
        };
        let unknown = || Refusal::new(RefusalReason::UnknownCopy, "no such copy here");
        let copy = self.registry.get(database).filter(|copy| copy.shared.copy == id);
        let copy = copy.ok_or_else(unknown)?;
        let (sender, responses) = mpsc::channel(AHEAD);
        let context = self.context.clone();
        let key = (database, operation);
        if !request.checkpoint.is_empty() {
            let known = CheckpointId::from_slice(&request.checkpoint);
            let known = known.and_then(|known| context.seeds.find(key, known));
            let lost = || Refusal::new(RefusalReason::Truncated, "the checkpoint is gone");
            let known = known.ok_or_else(lost)?;
            let _ = sender.try_send(Ok(complete(&known)));
            return Ok(responses);
        }
        let (standing, building) = context.seeds.ask(key, id);
        if let Some(building) = building {
            tokio::spawn(make(context, copy, scope, building));
        }
        tokio::spawn(tell(standing, sender));
        Ok(responses)
    }

    /// Sends files of a checkpoint.
    pub(crate) fn fetch_seed_stream(
        &self,
        request: v1::FetchSeedRequest,
        counts: Arc<PeerCounts>,
    ) -> Result<mpsc::Receiver<Result<v1::SeedChunk, Status>>, Refusal> {
        let database = ids::database(&request.database)?;
        let key = (database, ids::operation(&request.operation)?);
        let known = CheckpointId::from_slice(&request.checkpoint);
        let known = known.and_then(|known| self.context.seeds.find(key, known));
        let lost = || Refusal::new(RefusalReason::Truncated, "the checkpoint is gone");
        let source = known.ok_or_else(lost)?;
        let files = request.files.iter().map(|file| source.manifest.files.get(*file as usize));
        let Some(files) = files.collect::<Option<Vec<_>>>() else {
            let what = "no such file in the checkpoint";
            return Err(Refusal::new(RefusalReason::BadArgument, what));
        };
        let indexes = files.iter().filter(|file| file.place == SeedPlace::Catalog).count();
        let parts = (indexes < files.len(), indexes > 0);
        let (sender, chunks) = mpsc::channel(AHEAD);
        let feeding = self.registry.get(database);
        let feeding = feeding.map(|copy| Feeding::new(&copy, parts.0, parts.1));
        let context = self.context.clone();
        tokio::spawn(async move {
            let _feeding = feeding;
            if let Err(refusal) = send(&context, (&source, &counts), &request, &sender).await {
                let _ = sender.send(Err(refusal.into())).await;
            }
        });
        Ok(chunks)
    }
}

/// How long a target has waited, and since when no more of its checkpoint was read.
struct Patience {
    begun: Instant,
    bytes: u64,
    since: Instant,
}

impl Patience {
    const fn new(now: Instant) -> Self {
        Self { begun: now, bytes: 0, since: now }
    }

    /// Why it is to ask another source, if it is.
    fn end(&mut self, standing: &Standing, now: Instant) -> Option<String> {
        match standing {
            Standing::Waiting(what) => {
                self.since = now;
                let long = now.duration_since(self.begun) >= LINE_MAX;
                long.then(|| format!("{what}: waited for {LINE_MAX:?}"))
            }
            Standing::Reading { bytes_read, .. } => {
                if *bytes_read != self.bytes {
                    (self.bytes, self.since) = (*bytes_read, now);
                }
                let long = now.duration_since(self.since) >= STILL_MAX;
                long.then(|| format!("nothing of the checkpoint was read for {STILL_MAX:?}"))
            }
            Standing::Ready(_) | Standing::Failed(_) => None,
        }
    }
}

/// Tells a target how far its checkpoint is, and at the end what is in it. It is told again and
/// again even if nothing goes on: a target that hears nothing looks for another source.
async fn tell(mut standing: watch::Receiver<Standing>, sender: Out<v1::OpenSeedResponse>) {
    let mut patience = Patience::new(Instant::now());
    loop {
        let now = standing.borrow_and_update().clone();
        if let Some(why) = patience.end(&now, Instant::now()) {
            let unfit = Refusal::new(RefusalReason::SourceUnfit, why);
            let _ = sender.send(Err(unfit.into())).await;
            return;
        }
        let so_far = match now {
            Standing::Ready(source) => {
                // One that went meanwhile asks again, and finds it.
                let _ = sender.send(Ok(complete(&source))).await;
                return;
            }
            Standing::Failed(refusal) => {
                let _ = sender.send(Err(refusal.into())).await;
                return;
            }
            Standing::Waiting(what) => {
                v1::OpenSeedResponse { waits_for: what.into(), ..Default::default() }
            }
            Standing::Reading { bytes_read, bytes_total } => {
                v1::OpenSeedResponse { bytes_read, bytes_total, ..Default::default() }
            }
        };
        if sender.send(Ok(so_far)).await.is_err() {
            return;
        }
        // Nobody else changes it once its maker is gone, and that one leaves an end behind.
        let _ = timeout(TELL_EVERY, standing.wait_for(Standing::is_over)).await;
    }
}

fn complete(source: &Source) -> v1::OpenSeedResponse {
    let bytes = source.manifest.bytes();
    let manifest = source.manifest.encode().into();
    let waits_for = String::new();
    v1::OpenSeedResponse { bytes_read: bytes, bytes_total: bytes, manifest, waits_for }
}

async fn send(
    context: &Arc<PlaneContext>,
    (source, counts): (&Arc<Source>, &PeerCounts),
    request: &v1::FetchSeedRequest,
    sender: &Out<v1::SeedChunk>,
) -> Result<(), Refusal> {
    let mut pace = Pace::new(context, request.no_throttle);
    let mut first = request.offset;
    for number in &request.files {
        let Some(file) = source.manifest.files.get(*number as usize) else { continue };
        let path = source.path(file);
        let disk = context.places.disk.clone();
        let failed = |why: String| Refusal::new(RefusalReason::SourceUnfit, why);
        let opened = blocking(&context.seed_pools.chunks, move || disk.open(&path));
        let open = opened.await.map_err(failed)?.map_err(|error| failed(error.to_string()))?;
        let mut offset = std::mem::take(&mut first);
        loop {
            let bytes = chunk_bytes(context);
            let place = (*number, offset, request.compressed);
            let (chunk, length) = read(context, &open, place, bytes).await.map_err(failed)?;
            let end = offset + length as u64;
            counts.seed_sent.carried(&chunk.body, chunk.packed_from);
            if sender.send(Ok(chunk)).await.is_err() {
                return Ok(());
            }
            source.touch();
            offset = end;
            // Behind the end of a file, too: an index is many small ones.
            pace.after(context, length).await;
            if offset >= file.bytes || length == 0 {
                break;
            }
        }
    }
    Ok(())
}

/// A chunk, and how much of the file it is.
async fn read(
    context: &PlaneContext,
    file: &Arc<dyn DiskFile>,
    (number, offset, compressed): (u32, u64, bool),
    bytes: usize,
) -> Result<(v1::SeedChunk, usize), String> {
    let file = file.clone();
    let read = blocking(&context.seed_pools.chunks, move || {
        let mut body = vec![0; bytes];
        let count = file.read_at(offset, &mut body).map_err(|error| error.to_string())?;
        body.truncate(count);
        let crc = crc32fast::hash(&body);
        let (body, packed_from) = if compressed { pack(body.into()) } else { (body.into(), 0) };
        Ok::<_, String>((v1::SeedChunk { file: number, offset, crc, body, packed_from }, count))
    });
    read.await?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_build_that_hangs_is_told_from_one_that_is_slow() {
        let begin = Instant::now();
        let mut patience = Patience::new(begin);
        let mut hangs = |bytes_read, after| {
            let reading = Standing::Reading { bytes_read, bytes_total: 9 };
            patience.end(&reading, begin + after).is_some()
        };
        let late = STILL_MAX - Duration::from_secs(1);
        assert!(!hangs(0, late));
        assert!(!hangs(1, STILL_MAX), "it goes on");
        assert!(!hangs(1, STILL_MAX + late));
        assert!(hangs(1, STILL_MAX * 2));
    }

    #[test]
    fn nobody_waits_in_line_for_ever() {
        let begin = Instant::now();
        let mut patience = Patience::new(begin);
        let late = LINE_MAX - Duration::from_secs(1);
        let mut end = |standing: &Standing, after| patience.end(standing, begin + after);
        assert_eq!(end(&Standing::Waiting("a place"), late), None);
        let reading = Standing::Reading { bytes_read: 0, bytes_total: 9 };
        assert_eq!(end(&reading, LINE_MAX), None, "its turn came, and begins now");
        assert!(end(&Standing::Waiting("a place"), LINE_MAX).is_some());
    }

    /// A target gives a source up that says nothing for a while: an index may take longer to be
    /// verified.
    #[tokio::test]
    async fn a_target_hears_of_a_build_that_does_not_go_on() {
        let standing = watch::Sender::new(Standing::Reading { bytes_read: 3, bytes_total: 9 });
        let (sender, mut answers) = mpsc::channel(AHEAD);
        tokio::spawn(tell(standing.subscribe(), sender));
        for _ in 0..3 {
            let answer = answers.recv().await.unwrap().unwrap();
            assert_eq!((answer.bytes_read, answer.bytes_total), (3, 9));
        }
        standing.send_replace(Standing::Waiting("its turn"));
        let mut said = Vec::new();
        while said.last().is_none_or(String::is_empty) {
            said.push(answers.recv().await.unwrap().unwrap().waits_for);
        }
        assert_eq!(said.last().map(String::as_str), Some("its turn"));
        standing.send_replace(Standing::Failed(Refusal::new(RefusalReason::SourceUnfit, "no")));
        while answers.recv().await.unwrap().is_ok() {}
        assert!(answers.recv().await.is_none());
    }
}
