//! The log behind the checkpoint is fetched beside its files, from the first second on.
//!
//! So no copy keeps log for longer than a seed needs to take it (the hold in consensus follows what
//! is durable here), and the new copy opens close to where the active stands. Only what the other
//! side knows to be committed is asked for: it is never taken back. Whoever answers differently, or
//! not at all, is passed over; a seed never fails for want of this log, since the hold keeps it.
//! When this member's volume gets short it ends, and the rest comes once the seed is installed.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use keelson_copy_core::paths::{Overrides, Purpose};
use keelson_copy_core::seed::{SourceCandidate, choose_log_source};
use keelson_format::{Chunk, SeedManifest, SeedPlace, unpack};
use keelson_net::{DATA_MESSAGE_BYTES_MAX, Lane as ChannelLane};
use keelson_types::{LogEnd, MemberId, Position, SeedOrder};
use keelson_wire::{epoch_rows, ids, v1};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::Streaming;
use tracing::Instrument;

use crate::context::PlaneContext;
use crate::fetch::{SILENCE, client, next};
use crate::pool::Pool;
use crate::seed::blocking;
use crate::seed::place::{PlaceError, Refused as NotTaken, SeedFiles};
use crate::seed::room::Claim;
use crate::seed::staged::StagedLog;
use crate::shared::CopyShared;

/// Log that is not durable, at most, in bytes.
const UNSYNCED_MAX: u64 = 8 * 1024 * 1024;
/// Pause when hardly anything is missing, and when no copy has more.
const PAUSE: Duration = Duration::from_secs(1);

/// Pause after this member's disk did not let the staged log be opened.
const REOPEN_PAUSE: Duration = Duration::from_secs(10);

/// How far it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct SoFar {
    /// Who sent last.
    pub(super) source: Option<MemberId>,
    /// Durable up to here; nothing as long as nobody looked, and then the hold stays where it is.
    pub(super) durable: Option<LogEnd>,
    /// Bytes behind the checkpoint.
    pub(super) bytes: u64,
}

/// What it works with.
pub(super) struct Parts {
    pub(super) context: Arc<PlaneContext>,
    pub(super) shared: Arc<CopyShared>,
    pub(super) order: SeedOrder,
    pub(super) candidates: watch::Receiver<Vec<SourceCandidate>>,
    pub(super) files: SeedFiles,
    pub(super) claim: Arc<Claim>,
    pub(super) manifest: SeedManifest,
    /// Who sends the files.
    pub(super) feeder: MemberId,
}

/// It runs until it is stopped, or cannot go on.
pub(super) struct Following {
    task: JoinHandle<()>,
    /// A target that ends otherwise stops it, too.
    stop: DropGuard,
    so_far: watch::Receiver<SoFar>,
}

impl Following {
    pub(super) fn start(parts: Parts) -> Self {
        let (told, so_far) = watch::channel(SoFar::default());
        let stop = CancellationToken::new();
        let excluded = BTreeSet::new();
        let follower = Follower { parts, told, excluded, stop: stop.clone() };
        Self {
            task: tokio::spawn(follower.run().in_current_span()),
            stop: stop.drop_guard(),
            so_far,
        }
    }

    pub(super) fn so_far(&self) -> SoFar {
        *self.so_far.borrow()
    }

    /// Ends it, and waits until it has let go of its files.
    pub(super) async fn end(self) -> SoFar {
        drop(self.stop);
        // One that panicked has let go, too.
        let _ = self.task.await;
        *self.so_far.borrow()
    }
}

/// Why no more log comes.
enum Ended {
    /// From this copy now.
    Source(String),
    /// At all.
    Disk(PlaceError),
    /// It was stopped.
    Stopped,
}

impl From<PlaceError> for Ended {
    fn from(error: PlaceError) -> Self {
        Self::Disk(error)
    }
}

type Shared = Arc<Mutex<StagedLog>>;

fn lock(log: &Shared) -> MutexGuard<'_, StagedLog> {
    log.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Follower {
    parts: Parts,
    told: watch::Sender<SoFar>,
    /// Copies that had nothing more to give since the last pause.
    excluded: BTreeSet<MemberId>,
    stop: CancellationToken,
}

impl Follower {
    async fn run(mut self) {
        let database = self.parts.shared.name.to_string();
        let log = loop {
            match self.open().await {
                Ok(Some(log)) => break Arc::new(Mutex::new(log)),
                Ok(None) => {
                    tracing::warn!(database, "no log comes beside the seed");
                    // The hold stays where the checkpoint is.
                    let at = self.parts.manifest.at;
                    self.told.send_modify(|so_far| so_far.durable = Some(at));
                    return;
                }
                Err(error) => {
                    // What is there is not known: the hold stays where it is.
                    tracing::warn!(database, why = error.text, "the log beside the seed");
                    if self.unless_stopped(tokio::time::sleep(REOPEN_PAUSE)).await.is_err() {
                        return;
                    }
                }
            }
        };
        self.tell(&log);
        if let Some(error) = self.follow(&log).await {
            tracing::warn!(database, why = error.text, "no more log comes beside the seed");
            self.told.send_modify(|so_far| so_far.source = None);
        }
        if let Err(error) = self.sync(&log).await {
            tracing::warn!(database, why = error.text, "the log beside the seed");
        }
    }

    async fn open(&self) -> Result<Option<StagedLog>, PlaceError> {
        let (files, manifest) = (self.parts.files.clone(), self.parts.manifest.clone());
        // It reads all of the log.
        let pool = &self.parts.context.seed_pools.chores;
        self.on_disk(pool, move || files.staged_log(&manifest)).await
    }

    /// Work that was begun is waited for, whoever stops this.
    async fn on_disk<T: Send + 'static>(
        &self,
        pool: &Pool,
        work: impl FnOnce() -> Result<T, PlaceError> + Send + 'static,
    ) -> Result<T, PlaceError> {
        let done = blocking(pool, work).await;
        done.unwrap_or_else(|text| Err(PlaceError { full: false, text }))
    }

    /// Asks one copy after the other, until it is stopped or this member's disk takes no more.
    async fn follow(&mut self, log: &Shared) -> Option<PlaceError> {
        loop {
            let Some(source) = self.choose() else {
                self.excluded.clear();
                self.unless_stopped(tokio::time::sleep(PAUSE)).await.ok()?;
                continue;
            };
            match self.fetch(source, log).await {
                Ok(0) => {
                    // Another one may have more.
                    self.excluded.insert(source);
                }
                // Not frame by frame.
                Ok(bytes) if bytes < UNSYNCED_MAX => {
                    self.unless_stopped(tokio::time::sleep(PAUSE)).await.ok()?;
                }
                Ok(_) => {}
                Err(Ended::Source(why)) => {
                    tracing::debug!(member = %source, why, "another copy is asked for log");
                    self.excluded.insert(source);
                }
                Err(Ended::Disk(error)) => return Some(error),
                Err(Ended::Stopped) => return None,
            }
        }
    }

    /// Waits for the network, or a pause.
    async fn unless_stopped<T>(&self, wait: impl Future<Output = T>) -> Result<T, Ended> {
        self.stop.run_until_cancelled(wait).await.ok_or(Ended::Stopped)
    }

    fn choose(&self) -> Option<MemberId> {
        let (only, feeder) = (self.parts.order.source, self.parts.feeder);
        let candidates = self.parts.candidates.borrow();
        let chosen = choose_log_source(only, &candidates, feeder, &self.excluded);
        chosen.map(|chosen| chosen.member)
    }

    /// Fetches what a copy has that is not here; says how much that was.
    async fn fetch(&mut self, member: MemberId, log: &Shared) -> Result<u64, Ended> {
        let asked = self.unless_stopped(self.ask(member, log)).await?;
        let mut stream = asked.map_err(Ended::Source)?;
        let first = self.unless_stopped(next(&mut stream)).await?.map_err(Ended::Source)?;
        let first = first.ok_or_else(|| Ended::Source("it sent nothing".into()))?;
        let (matched, end) = (LogEnd::from(first.matched.unwrap_or_default()), lock(log).end());
        if matched.position != end.position {
            // It is behind, or on another timeline.
            return Err(Ended::Source(format!("it shares the log up to {matched}, not {end}")));
        }
        let (bytes, ended) = self.take_all(&mut stream, member, log).await;
        if bytes > 0 {
            // However it ended: what is durable need not be kept by others.
            self.sync(log).await?;
        }
        ended.map(|()| bytes)
    }

    /// Takes what a copy sends; says how much that was.
    async fn take_all(
        &self,
        stream: &mut Streaming<v1::FetchLogResponse>,
        member: MemberId,
        log: &Shared,
    ) -> (u64, Result<(), Ended>) {
        let (mut bytes, mut unsynced) = (0, 0);
        loop {
            let taken = match self.unless_stopped(next(stream)).await {
                Ok(Ok(Some(message))) => self.take(message, log).await,
                Ok(Ok(None)) => return (bytes, Ok(())),
                Ok(Err(why)) => return (bytes, Err(Ended::Source(why))),
                Err(stopped) => return (bytes, Err(stopped)),
            };
            let length = match taken {
                Ok(length) => length,
                Err(ended) => return (bytes, Err(ended)),
            };
            self.told.send_modify(|so_far| so_far.source = Some(member));
            (bytes, unsynced) = (bytes + length, unsynced + length);
            if unsynced >= UNSYNCED_MAX {
                if let Err(error) = self.sync(log).await {
                    return (bytes, Err(error.into()));
                }
                unsynced = 0;
            }
        }
    }

    async fn ask(
        &self,
        member: MemberId,
        log: &Shared,
    ) -> Result<Streaming<v1::FetchLogResponse>, String> {
        let (context, order) = (&self.parts.context, &self.parts.order);
        let peer = context.member(member).ok_or("it is no member any more")?;
        let (network, compression) = (order.network.as_deref(), order.compression);
        let seeding = (Purpose::Seeding, Overrides { network, compression });
        let (way, channel) = context.reach(&peer, seeding, ChannelLane::Bulk).await;
        let (epochs, end) = {
            let log = lock(log);
            (epoch_rows(log.table()), log.end().position)
        };
        let request = v1::FetchLogRequest {
            handshake: Some(context.handshake()),
            database: ids::bytes(self.parts.shared.database),
            stream: ids::bytes(self.parts.shared.stream),
            epochs,
            end: Some(end.into()),
            wanted: None,
            committed: true,
            compressed: way.compressed,
        };
        let mut client = client(channel);
        let call = timeout(SILENCE, client.fetch_log(request)).await;
        let response = call.map_err(|_| "it does not answer")?;
        Ok(response.map_err(|status| status.message().to_owned())?.into_inner())
    }

    /// Appends what one message holds; says how many bytes that are.
    async fn take(&self, message: v1::FetchLogResponse, log: &Shared) -> Result<u64, Ended> {
        let (log, claim) = (log.clone(), self.parts.claim.clone());
        let taken = self.on_disk(&self.parts.context.seed_pools.chunks, move || {
            let position = message.position.map(Position::from).unwrap_or_default();
            let body = match unpack(message.body, message.packed_from, DATA_MESSAGE_BYTES_MAX) {
                Ok(body) => body,
                Err(error) => return Ok(Err(error.to_string())),
            };
            let length = body.len() as u64;
            claim.take_unclaimed(SeedPlace::Log, length)?;
            match lock(&log).append(Chunk::new(position, body)) {
                Ok(()) => Ok(Ok(length)),
                Err(NotTaken::Wrong(text)) => Ok(Err(text)),
                Err(NotTaken::Disk(error)) => Err(error),
            }
        });
        taken.await?.map_err(Ended::Source)
    }

    async fn sync(&self, log: &Shared) -> Result<(), PlaceError> {
        let syncing = log.clone();
        let pool = &self.parts.context.seed_pools.chunks;
        self.on_disk(pool, move || lock(&syncing).sync()).await?;
        self.tell(log);
        Ok(())
    }

    fn tell(&self, log: &Shared) {
        let log = lock(log);
        let (durable, bytes) = (Some(log.durable()), log.bytes_behind());
        drop(log);
        self.told.send_modify(|so_far| (so_far.durable, so_far.bytes) = (durable, bytes));
    }
}
