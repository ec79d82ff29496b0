//! Serving seeds: the calls that a target makes.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use keelson_copy_core::seed::throttle::Throttle;
use keelson_env::DiskFile;
use keelson_format::{SeedPlace, pack};
use keelson_types::{
    CheckpointId, CopyStatus, HoldKind, LogHold, OperationId, Position, RefusalReason, SeedScope,
    Setting,
};
use keelson_wire::{Refusal, ids, v1};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tonic::Status;

use super::source::{Material, Source};
use super::{CHUNK_BYTES, blocking};
use crate::context::{CopyHandle, PlaneContext};
use crate::kv::open_store;
use crate::message::Message;
use crate::owner::unix_millis;
use crate::service::ReplicationService;
use crate::shared::CopyShared;

/// Chunks read ahead of the target.
const AHEAD: usize = 4;
/// How often the throttle looks at the commits of this member.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// How often a target hears how much of the checkpoint is read.
const TELL_EVERY: Duration = Duration::from_millis(500);

type Out<T> = mpsc::Sender<Result<T, Status>>;

/// The copy, or its index, is read for a seed as long as this lives; its status says so.
struct Feeding {
    copy: CopyHandle,
    database: bool,
    catalog: bool,
}

impl Feeding {
    fn new(copy: &CopyHandle, database: bool, catalog: bool) -> Self {
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

/// Keeps log here while a checkpoint is made; from then on the hold in consensus does.
struct Hold(Arc<CopyShared>, OperationId);

impl Hold {
    fn take(of: &Arc<CopyShared>, operation: OperationId, index: Option<Position>) -> Self {
        let from = of.checkpointed.load();
        let hold = LogHold {
            operation,
            kind: HoldKind::Seed,
            from: index.map_or(from, |index| index.min(from)),
            taken_unix_ms: unix_millis(),
            expires_unix_ms: u64::MAX,
        };
        of.holds.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(hold);
        Self(of.clone(), operation)
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let holds = self.0.holds.lock();
        let mut holds = holds.unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(index) = holds.iter().position(|hold| hold.operation == self.1) {
            holds.remove(index);
        }
    }
}

fn gone() -> Refusal {
    Refusal::new(RefusalReason::Activating, "the copy is being reopened")
}

impl ReplicationService {
    /// Answers with the checkpoint asked for, or begins a new one; what it takes is told on the
    /// way.
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
        if !request.checkpoint.is_empty() {
            let known = CheckpointId::from_slice(&request.checkpoint);
            let known = known.and_then(|known| context.seeds.find((database, operation), known));
            let lost = || Refusal::new(RefusalReason::Truncated, "the checkpoint is gone");
            let known = known.ok_or_else(lost)?;
            let _ = sender.try_send(Ok(complete(&known)));
            return Ok(responses);
        }
        tokio::spawn(async move {
            if let Err(refusal) = begin(&context, &copy, (operation, scope), &sender).await {
                // The target has gone if this fails.
                let _ = sender.send(Err(refusal.into())).await;
            }
        });
        Ok(responses)
    }

    /// Sends files of a checkpoint.
    pub(crate) fn fetch_seed_stream(
        &self,
        request: v1::FetchSeedRequest,
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
            if let Err(refusal) = send(&context, &source, &request, &sender).await {
                let _ = sender.send(Err(refusal.into())).await;
            }
        });
        Ok(chunks)
    }
}

fn complete(source: &Source) -> v1::OpenSeedResponse {
    let bytes = source.manifest.bytes();
    let manifest = source.manifest.encode().into();
    v1::OpenSeedResponse { bytes_read: bytes, bytes_total: bytes, manifest }
}

/// Makes a checkpoint of a healthy copy.
async fn begin(
    context: &Arc<PlaneContext>,
    copy: &CopyHandle,
    (operation, scope): (OperationId, SeedScope),
    sender: &Out<v1::OpenSeedResponse>,
) -> Result<(), Refusal> {
    check_health(context, copy).await?;
    let index = scope.takes_catalog().then(|| copy.shared.catalog.for_seed());
    let index = match (index, scope.makes_copy()) {
        (Some(Err(what)), false) => return Err(unfit(context, what)),
        (index, _) => index.and_then(Result::ok),
    };
    let _feeding = Feeding::new(copy, scope.makes_copy(), index.is_some());
    let reflects = index.as_ref().map(|(_, searchable)| searchable.reflects.position);
    let hold = Hold::take(&copy.shared, operation, reflects);
    let store = match scope.makes_copy() {
        true => Some(open_store(copy).await?),
        false => None,
    };
    let (reply, log) = oneshot::channel();
    copy.mailbox.send(Message::LogView(reply)).await.map_err(|_| gone())?;
    let log = log.await.map_err(|_| gone())??;
    let material = Material {
        shared: copy.shared.clone(),
        store,
        generation_bytes: index.as_ref().map_or(0, |(_, index)| index.generation_bytes),
        catalog: index.map(|(catalog, _)| catalog),
        reader: log.reader,
        epochs: log.table,
    };
    let (worker, told) = (context.clone(), sender.clone());
    let key = (copy.shared.database, operation);
    let built = blocking(&context.seed_pool, move || {
        let _hold = hold;
        let building = worker.seeds.begin(key)?;
        let mut last = std::time::Instant::now();
        let mut read = |bytes_read, bytes_total| {
            if last.elapsed() < TELL_EVERY {
                return true;
            }
            last = std::time::Instant::now();
            let manifest = bytes::Bytes::new();
            let so_far = v1::OpenSeedResponse { bytes_read, bytes_total, manifest };
            // A full channel means that the target is slow, a closed one that it has gone.
            !matches!(told.try_send(Ok(so_far)), Err(mpsc::error::TrySendError::Closed(_)))
        };
        let failed = |why| Refusal::new(RefusalReason::SourceUnfit, why);
        worker.seeds.build(&building, material, &mut read).map_err(failed)
    });
    let internal = |why| Refusal::new(RefusalReason::Internal, why);
    let built = built.await.map_err(internal)?;
    // If its index turned out to be damaged.
    context.catalogs.look(copy.shared.database, Duration::ZERO);
    let source = built?;
    let (name, bytes) = (&copy.shared.name, source.manifest.bytes());
    tracing::info!(database = %name, %operation, bytes, "a checkpoint for a seed is ready");
    if sender.send(Ok(complete(&source))).await.is_err() {
        // The target has gone meanwhile; one that comes back asks for another checkpoint.
        let seeds = context.seeds.clone();
        blocking(&context.seed_pool, move || seeds.close(key)).await.map_err(internal)?;
    }
    Ok(())
}

/// F54: any healthy copy; not one whose store is old on purpose, or in doubt.
async fn check_health(context: &PlaneContext, copy: &CopyHandle) -> Result<(), Refusal> {
    let (reply, view) = oneshot::channel();
    copy.mailbox.send(Message::View(reply)).await.map_err(|_| gone())?;
    let view = view.await.map_err(|_| gone())?;
    let status = view.view.status;
    let healthy =
        matches!(status, CopyStatus::Mounted | CopyStatus::Healthy | CopyStatus::SeedingSource);
    if !healthy {
        return Err(unfit(context, format!("is {status}: {}", view.view.reason)));
    }
    if copy.shared.is_lagged() {
        return Err(unfit(context, "lags".into()));
    }
    if copy.shared.marked.load(Ordering::SeqCst) {
        return Err(unfit(context, "is not whole".into()));
    }
    Ok(())
}

fn unfit(context: &PlaneContext, what: String) -> Refusal {
    let at = context.name_of(context.member);
    Refusal::new(RefusalReason::SourceUnfit, format!("the copy on {at} {what}"))
}

/// Holds back what would slow the member's commits down.
struct Pace {
    throttle: Option<Throttle>,
    looked: Instant,
    totals: super::measure::SyncTotals,
    /// Not before this.
    next: Instant,
}

impl Pace {
    fn new(context: &PlaneContext, no_throttle: bool) -> Self {
        let now = Instant::now();
        let throttle = (!no_throttle).then(|| Throttle::new(context.syncs.of_late()));
        Self { throttle, looked: now, totals: context.syncs.totals(), next: now }
    }

    async fn after(&mut self, context: &PlaneContext, bytes: usize) {
        let bound = context.settings.borrow().number(Setting::SeedRateMax);
        let mut pause = bounded_pause(bytes as u64, bound);
        if let Some(throttle) = &mut self.throttle {
            if self.looked.elapsed() >= LOOK_EVERY {
                let totals = context.syncs.totals();
                throttle.observe(totals.mean_since(self.totals));
                (self.looked, self.totals) = (Instant::now(), totals);
            }
            pause = pause.max(throttle.pause_after(bytes as u64));
        }
        if !pause.is_zero() {
            self.next = self.next.max(Instant::now()) + pause;
            tokio::time::sleep_until(self.next).await;
        }
    }
}

/// How long bytes take at a rate; 0 is no bound.
fn bounded_pause(bytes: u64, bound: u64) -> Duration {
    let micros = bytes.saturating_mul(1_000_000).checked_div(bound);
    micros.map_or(Duration::ZERO, Duration::from_micros)
}

async fn send(
    context: &Arc<PlaneContext>,
    source: &Arc<Source>,
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
        let opened = blocking(&context.seed_pool, move || disk.open(&path));
        let open = opened.await.map_err(failed)?.map_err(|error| failed(error.to_string()))?;
        let mut offset = std::mem::take(&mut first);
        loop {
            let place = (*number, offset, request.compressed);
            let (chunk, length) = read(context, &open, place).await.map_err(failed)?;
            let end = offset + length as u64;
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
) -> Result<(v1::SeedChunk, usize), String> {
    let file = file.clone();
    let read = blocking(&context.seed_pool, move || {
        let mut body = vec![0; CHUNK_BYTES];
        let count = file.read_at(offset, &mut body).map_err(|error| error.to_string())?;
        body.truncate(count);
        let crc = crc32fast::hash(&body);
        let (body, packed_from) = if compressed { pack(body.into()) } else { (body.into(), 0) };
        Ok::<_, String>((v1::SeedChunk { file: number, offset, crc, body, packed_from }, count))
    });
    read.await?
}
