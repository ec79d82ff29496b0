//! The target of a seed: carries out what `copy_core::seed` decides.
//!
//! One task per seed. It ends when consensus takes the order back, whichever way the seed went; its
//! blocking work is done in pieces of at most one file's sync, and is never left alone half way.

use std::collections::VecDeque;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use keelson_copy_core::seed::{
    SeedAction, SeedConfig, SeedEvent, SeedMachine, SeedRecord, SourceCandidate,
};
use keelson_format::{SeedManifest, SeedPlace};
use keelson_net::{Lane as ChannelLane, SPANS};
use keelson_types::{
    LogEnd, MemberId, OperationId, RefusalReason, Refused, SeedOrder, SeedPhase, SeedProgress,
};
use keelson_wire::{ids, v1};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tracing::field::Empty;
use tracing::{Instrument, Span, info_span};

use super::blocking;
use super::place::{PlaceError, Refused as NotTaken, SeedFiles};
use super::room::Claim;
use crate::catalog;
use crate::context::{CopyHandle, PlaneContext};
use crate::fetch::client;
use crate::gate::boottime_now;
use crate::pool::Pool;
use crate::shared::CopyShared;

mod arriving;
mod fetching;
mod following;

use fetching::SILENCE;
use following::{Following, Parts, SoFar};

/// How often progress is told.
const TELL_EVERY: Duration = Duration::from_secs(1);
/// A rate is that of so long at least: phases end at any time.
const RATED_EVERY: Duration = Duration::from_millis(500);
/// How often the end is told until consensus has taken it, and how often a waiting seed renews its
/// hold.
const TELL_AGAIN: Duration = Duration::from_secs(2);

/// One seed on its target.
pub(crate) struct Target {
    pub(crate) context: Arc<PlaneContext>,
    handle: CopyHandle,
    pub(crate) shared: Arc<CopyShared>,
    pub(crate) order: SeedOrder,
    pub(crate) candidates: watch::Receiver<Vec<SourceCandidate>>,
    pub(crate) stop: CancellationToken,
    files: SeedFiles,
    claim: Arc<Claim>,
    manifest: Option<SeedManifest>,
    /// Of the manifest: which are here.
    here: Vec<bool>,
    /// Fetches the log behind the checkpoint while files arrive, and how far it is.
    following: Option<Following>,
    followed: SoFar,
    progress: SeedProgress,
    /// Bytes of files that came, as they lie there.
    plain_received: u64,
    told: Told,
    wrong: u32,
    /// The span of the phase, within that of the seed.
    phase: Span,
}

/// What was told last, and where the rates were taken last.
struct Told {
    at: Instant,
    rated: Instant,
    received: u64,
    plain: u64,
}

impl std::fmt::Debug for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Target").field("operation", &self.order.operation).finish_non_exhaustive()
    }
}

/// The seed was stopped while something was awaited.
struct Stopped;

type Result<T, E = Stopped> = std::result::Result<T, E>;

impl Target {
    pub(crate) fn new(
        context: Arc<PlaneContext>,
        handle: CopyHandle,
        order: SeedOrder,
        candidates: watch::Receiver<Vec<SourceCandidate>>,
        stop: CancellationToken,
    ) -> Self {
        let shared = handle.shared.clone();
        let progress = SeedProgress { scope: order.scope, ..SeedProgress::default() };
        let files = SeedFiles::new(context.places.clone(), shared.database);
        let claim = Claim::new(context.seed_room.clone(), context.places.clone(), shared.database);
        let now = Instant::now();
        let told = Told { at: now, rated: now, received: 0, plain: 0 };
        Self {
            context,
            handle,
            shared,
            order,
            candidates,
            stop,
            files,
            claim: Arc::new(claim),
            manifest: None,
            here: Vec::new(),
            following: None,
            followed: SoFar::default(),
            progress,
            plain_received: 0,
            told,
            wrong: 0,
            phase: Span::none(),
        }
    }

    /// Runs until it is stopped.
    pub(crate) async fn run(mut self) {
        let operation = self.order.operation;
        tracing::info!(database = %self.shared.name, %operation, "a seed begins");
        let span = info_span!(
            target: SPANS, parent: None, "seed",
            keelson.database = %self.shared.name, keelson.operation = %operation,
            keelson.outcome = Empty, otel.status_code = Empty,
        );
        // It ends only by being stopped.
        let Err(Stopped) = self.drive().instrument(span).await else { return };
        self.close_source();
    }

    async fn drive(&mut self) -> Result<()> {
        let order = self.order.clone();
        let mut machine = SeedMachine::new(SeedConfig::default(), order, self.shared.copy);
        let mut actions = Vec::new();
        self.leave_volume().await?;
        let first = self.candidates.borrow_and_update().clone();
        machine.step(boottime_now(), SeedEvent::Candidates(first), &mut actions);
        loop {
            let mut queue: VecDeque<_> = actions.drain(..).collect();
            while let Some(action) = queue.pop_front() {
                let (received, files) = (self.progress.bytes_received, self.progress.files_done);
                let event = self.act(action).await?;
                if self.progress.bytes_received > received {
                    machine.progressed();
                }
                if self.progress.files_done > files {
                    machine.kept();
                }
                let changed = self.candidates.has_changed().unwrap_or(false);
                if changed {
                    let now = self.candidates.borrow_and_update().clone();
                    machine.step(boottime_now(), SeedEvent::Candidates(now), &mut actions);
                }
                if let Some(event) = event {
                    machine.step(boottime_now(), event, &mut actions);
                }
                queue.extend(actions.drain(..));
            }
            let wake = machine.next_wake().map(|tick| tick.since(boottime_now()));
            let pause = tokio::time::sleep(wake.unwrap_or(TELL_AGAIN));
            tokio::select! {
                () = self.stop.cancelled() => return Err(Stopped),
                () = pause => {
                    machine.step(boottime_now(), SeedEvent::Wake, &mut actions);
                    if wake.is_none() || self.told.at.elapsed() >= TELL_AGAIN {
                        self.tell();
                    }
                }
                changed = self.candidates.changed() => {
                    if changed.is_err() {
                        return Err(Stopped);
                    }
                    let now = self.candidates.borrow_and_update().clone();
                    machine.step(boottime_now(), SeedEvent::Candidates(now), &mut actions);
                }
            }
        }
    }

    /// Goes to a spare volume, if that is the order. What cannot be done ends the seed: its old
    /// place is one where nothing can be written.
    async fn leave_volume(&mut self) -> Result<()> {
        let Some(spare) = self.order.spare.clone() else { return Ok(()) };
        let (reason, text) = match self.on_disk(move |files| files.leave_volume(&spare)).await {
            Ok(news) => {
                if let Some(news) = news {
                    self.context.tell(Some(self.shared.database), &news);
                }
                return Ok(());
            }
            Err(PlaceError { full: true, text }) => (RefusalReason::NoSpaceForSeed, text),
            Err(PlaceError { full: false, text }) => (RefusalReason::SeedTargetFailed, text),
        };
        self.end(Some(Refused::new(reason, text))).await.map(drop)
    }

    /// Carries an action out; most end in an event.
    async fn act(&mut self, action: SeedAction) -> Result<Option<SeedEvent>> {
        if self.stop.is_cancelled() {
            return Err(Stopped);
        }
        Ok(match action {
            SeedAction::Look => Some(self.look().await),
            SeedAction::Clear(record) => {
                let (opener, copy) = (self.context.opener.0.clone(), self.shared.copy);
                let clear =
                    move |files: &SeedFiles| files.clear(record.as_ref(), Some(copy), &*opener);
                Some(self.on_disk(clear).await.map_or_else(failed, |()| SeedEvent::Cleared))
            }
            SeedAction::Save(record) => {
                let save = move |files: &SeedFiles| files.save(&record);
                Some(self.on_disk(save).await.map_or_else(failed, |()| SeedEvent::Saved))
            }
            SeedAction::Open(member, copy, checkpoint) => {
                Some(self.open(member, copy, checkpoint).await?)
            }
            SeedAction::Transfer(member, checkpoint) => {
                Some(self.transfer(member, checkpoint).await?)
            }
            SeedAction::Install(record) => Some(self.install(record).await),
            SeedAction::Report { phase, source, note } => {
                let (database, operation) = (&self.shared.name, self.order.operation);
                let from = source.map(|member| self.context.name_of(member));
                tracing::info!(%database, %operation, %phase, ?from, note, "seed");
                if self.phase.is_none() || self.progress.phase != phase {
                    self.phase = phase_span(phase, from.as_deref());
                }
                (self.progress.phase, self.progress.source) = (phase, source);
                self.progress.note = note;
                self.show_index();
                self.tell();
                None
            }
            SeedAction::Finish => return self.end(None).await,
            SeedAction::Abort(refused) => return self.end(Some(refused)).await,
        })
    }

    async fn on_disk<T: Send + 'static>(
        &self,
        work: impl FnOnce(&SeedFiles) -> std::result::Result<T, PlaceError> + Send + 'static,
    ) -> std::result::Result<T, PlaceError> {
        self.on_threads(&self.context.seed_pools.chores, work).await
    }

    async fn on_threads<T: Send + 'static>(
        &self,
        pool: &Pool,
        work: impl FnOnce(&SeedFiles) -> std::result::Result<T, PlaceError> + Send + 'static,
    ) -> std::result::Result<T, PlaceError> {
        let files = self.files.clone();
        let done = blocking(pool, move || work(&files)).await;
        done.unwrap_or_else(|text| Err(PlaceError { full: false, text }))
    }

    async fn look(&self) -> SeedEvent {
        let left = self.on_disk(SeedFiles::look).await;
        left.map_or_else(failed, |left| SeedEvent::Looked(left.record, left.installed))
    }

    async fn install(&mut self, record: SeedRecord) -> SeedEvent {
        let Some(manifest) = self.manifest.clone() else {
            return SeedEvent::DiskFailed(false, "there is no manifest".into());
        };
        if !record.makes_copy() {
            return self.install_index(record).await;
        }
        let (context, files) = (self.context.clone(), self.files.clone());
        let reached = self.followed.durable.map(|end| end.position);
        let work = async move {
            let install = move || files.install(&manifest, &record, reached);
            blocking(&context.seed_pools.chores, install).await
        };
        let mut work = pin!(work);
        let installed = loop {
            tokio::select! {
                installed = &mut work => break installed,
                // All of the log is read once more: the hold must not end meanwhile.
                () = tokio::time::sleep(TELL_AGAIN) => self.tell(),
            }
        };
        let installed = installed.unwrap_or_else(|text| Err(PlaceError { full: false, text }));
        installed.map_or_else(failed, |()| SeedEvent::Installed)
    }

    /// Puts an index in place while nobody works on the one that is there. Keys that came in doubt
    /// meanwhile are not what the source had: then it goes again, and the copy makes one later.
    async fn install_index(&mut self, record: SeedRecord) -> SeedEvent {
        let context = self.context.clone();
        let _turn = context.catalogs.turn(self.shared.database).await;
        let slot = &self.shared.catalog;
        let doubts = slot.doubts();
        let in_doubt = || {
            let marked = self.shared.marked.load(Ordering::SeqCst);
            marked || slot.doubts() != doubts
        };
        let doubtful = || {
            let text = "keys of the copy are in doubt; it makes an index once they are not";
            SeedEvent::DiskFailed(false, text.into())
        };
        let Some(there) = catalog::directory_of_copy(&self.handle).await else {
            return SeedEvent::DiskFailed(false, "the copy is being opened".into());
        };
        if in_doubt() {
            return doubtful();
        }
        slot.close();
        let (files, to) = (self.files.clone(), there.clone());
        let work = move || files.install_index(&record, &to);
        let installed = blocking(&self.context.seed_pools.chores, work).await;
        match installed {
            Ok(Ok(())) if in_doubt() => {
                slot.doubt(&there);
                doubtful()
            }
            Ok(Ok(())) => SeedEvent::Installed,
            Ok(Err(NotTaken::Wrong(text))) => fetching::wrong(text),
            Ok(Err(NotTaken::Disk(error))) => failed(error),
            Err(text) => SeedEvent::DiskFailed(false, text),
        }
    }

    /// Tells the end until consensus has taken the order back.
    async fn end(&mut self, refused: Option<Refused>) -> Result<Option<SeedEvent>> {
        let (code, message) = match &refused {
            None => (String::new(), String::new()),
            Some(refused) => (refused.reason.code().0.to_owned(), refused.message.clone()),
        };
        match &refused {
            None => {
                Span::current().record("keelson.outcome", "in_place");
                tracing::info!(database = %self.shared.name, "what was seeded is in place");
                self.close_source();
            }
            Some(refused) => {
                Span::current().record("keelson.outcome", refused.reason.code().0);
                Span::current().record("otel.status_code", "ERROR");
                tracing::warn!(database = %self.shared.name, %refused, "seed failed");
            }
        }
        loop {
            let report = v1::SeedReport {
                ended: true,
                code: code.clone(),
                message: message.clone(),
                ..self.report()
            };
            self.context.report(0, v1::data_to_control::Message::Seed(report));
            tokio::select! {
                () = self.stop.cancelled() => return Err(Stopped),
                () = tokio::time::sleep(TELL_AGAIN) => {}
            }
        }
    }

    fn report(&self) -> v1::SeedReport {
        let needed = self.needs_log_from();
        v1::SeedReport {
            database: ids::bytes(self.shared.database),
            copy: ids::bytes(self.shared.copy),
            operation: ids::bytes(self.order.operation),
            progress: serde_json::to_vec(&self.progress).unwrap_or_default().into(),
            from: needed.map(|end| end.position.into()),
            from_epoch: needed.map(|end| end.epoch.into()),
            ..v1::SeedReport::default()
        }
    }

    /// The log that must not go: behind what is durable here, which a seed that goes on knows only
    /// once it has looked.
    fn needs_log_from(&self) -> Option<LogEnd> {
        let manifest = self.manifest.as_ref()?;
        let follows = self.order.scope.makes_copy() && manifest.bytes_of(SeedPlace::Log) > 0;
        if follows { self.followed.durable } else { Some(manifest.at) }
    }

    /// Begins to fetch the log behind the checkpoint once the generation is here that it ends in.
    fn follow(&mut self) {
        let Some((manifest, feeder)) = self.manifest.as_ref().zip(self.progress.source) else {
            return;
        };
        let log = manifest.files.iter().zip(&self.here).filter(|(f, _)| f.place == SeedPlace::Log);
        let here = log.max_by_key(|(file, _)| &file.name).is_some_and(|(_, here)| *here);
        if self.following.is_some() || !self.order.scope.makes_copy() || !here {
            return;
        }
        let parts = Parts {
            context: self.context.clone(),
            shared: self.shared.clone(),
            order: self.order.clone(),
            candidates: self.candidates.clone(),
            files: self.files.clone(),
            claim: self.claim.clone(),
            manifest: manifest.clone(),
            feeder,
        };
        self.following = Some(Following::start(parts));
    }

    /// Until the next transfer; nobody else may have the log open.
    async fn stop_following(&mut self) {
        if let Some(following) = self.following.take() {
            self.followed = following.end().await;
            self.followed.source = None;
        }
    }

    fn tell(&mut self) {
        let now = Instant::now();
        self.told.at = now;
        if let Some(following) = &self.following {
            self.followed = following.so_far();
        }
        (self.progress.log_source, self.progress.log_bytes) =
            (self.followed.source, self.followed.bytes);
        let since = now.duration_since(self.told.rated);
        if since >= RATED_EVERY {
            let (received, plain) = (self.progress.bytes_received, self.plain_received);
            let rates = [(received, self.told.received), (plain, self.told.plain)];
            let [of_network, of_files] = rates.map(|(now, before)| {
                let millis = since.as_millis().max(1) as u64;
                now.saturating_sub(before).saturating_mul(1_000) / millis
            });
            // The mean of what was and what is: files end in pauses.
            let mean = |before, now| if before == 0 { now } else { (before + now) / 2 };
            let progress = &mut self.progress;
            progress.bytes_per_second = mean(progress.bytes_per_second, of_network);
            progress.plain_bytes_per_second = mean(progress.plain_bytes_per_second, of_files);
            self.told = Told { at: now, rated: now, received, plain };
        }
        self.context.report(0, v1::data_to_control::Message::Seed(self.report()));
    }

    fn count(&mut self) {
        let Some(manifest) = &self.manifest else { return };
        let done = manifest.files.iter().zip(&self.here).filter(|(_, here)| **here);
        let (files, bytes) = done.fold((0, 0), |(n, sum), (file, _)| (n + 1, sum + file.bytes));
        (self.progress.files_done, self.progress.bytes_done) = (files, bytes);
        self.progress.files = manifest.files.len() as u64;
        self.progress.bytes = manifest.bytes();
        self.show_index();
    }

    /// How far the index is, for the status of the copy.
    fn show_index(&self) {
        let manifest = self.manifest.as_ref();
        let all = manifest.map_or(0, |manifest| manifest.bytes_of(SeedPlace::Catalog));
        let files = manifest.into_iter().flat_map(|m| m.files.iter().zip(&self.here));
        let here = files.filter(|(file, here)| file.place == SeedPlace::Catalog && **here);
        let done: u64 = here.map(|(file, _)| file.bytes).sum();
        let percent = u32::try_from((done * 100).checked_div(all).unwrap_or(0)).unwrap_or(100);
        let source = self.progress.source.map(|member| self.context.name_of(member));
        self.shared.catalog.seeds(percent, &source.unwrap_or_default());
    }

    fn tell_if_due(&mut self) {
        if self.told.at.elapsed() >= TELL_EVERY {
            self.tell();
        }
    }

    /// Lets the source forget its checkpoint; if it does not hear, it does so after a while.
    fn close_source(&self) {
        if let Some(member) = self.progress.source {
            close(&self.context, member, self.shared.database, self.order.operation);
        }
    }
}

/// Tells a source that its checkpoint is not needed any more.
pub(crate) fn close(
    context: &Arc<PlaneContext>,
    member: MemberId,
    database: keelson_types::DatabaseId,
    operation: OperationId,
) {
    let Some(peer) = context.member(member) else { return };
    let mut client = client(context.channel(&peer, ChannelLane::Bulk));
    let request = v1::CloseSeedRequest {
        handshake: Some(context.handshake()),
        database: ids::bytes(database),
        operation: ids::bytes(operation),
    };
    tokio::spawn(async move {
        let closed = timeout(SILENCE, client.close_seed(request)).await;
        if !matches!(closed, Ok(Ok(_))) {
            tracing::debug!(%member, %operation, "the source keeps its checkpoint for a while");
        }
    });
}

fn phase_span(phase: SeedPhase, from: Option<&str>) -> Span {
    info_span!(
        target: SPANS, "seed.phase",
        otel.name = %format_args!("seed.{phase}"), keelson.source = from.unwrap_or_default(),
    )
}

fn failed(error: PlaceError) -> SeedEvent {
    SeedEvent::DiskFailed(error.full, error.text)
}
