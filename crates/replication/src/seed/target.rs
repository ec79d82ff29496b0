//! The target of a seed: carries out what `copy_core::seed` decides.
//!
//! One task per seed. It ends when consensus takes the order back, whichever way the seed went; its
//! blocking work is done in pieces of at most one file's sync, and is never left alone half way.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use keelson_copy_core::paths::{Overrides, Purpose};
use keelson_copy_core::seed::{
    Offered, SeedAction, SeedConfig, SeedEvent, SeedMachine, SourceCandidate, SourceFailure,
};
use keelson_format::{SeedManifest, unpack};
use keelson_net::{Lane as ChannelLane, PeerChannel};
use keelson_types::{
    CheckpointId, CopyId, MemberId, OperationId, RefusalReason, Refused, SeedOrder, SeedProgress,
};
use keelson_wire::v1::replication_client::ReplicationClient;
use keelson_wire::{ids, refusal_of, v1};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};

use super::place::{Incoming, PlaceError, Refused as NotTaken, SeedFiles};
use super::{CHUNK_BYTES, blocking};
use crate::context::PlaneContext;
use crate::fetch::client;
use crate::gate::boottime_now;
use crate::shared::CopyShared;

/// A source that says nothing for so long is gone.
const SILENCE: Duration = Duration::from_secs(20);
/// How often progress is told.
const TELL_EVERY: Duration = Duration::from_secs(1);
/// How often the end is told until consensus has taken it, and how often a waiting seed renews its
/// hold.
const TELL_AGAIN: Duration = Duration::from_secs(2);
/// How often a file may come wrong before the source is given up.
const WRONG_MAX: u32 = 3;

/// One seed on its target.
pub(crate) struct Target {
    pub(crate) context: Arc<PlaneContext>,
    pub(crate) shared: Arc<CopyShared>,
    pub(crate) order: SeedOrder,
    pub(crate) candidates: watch::Receiver<Vec<SourceCandidate>>,
    pub(crate) stop: CancellationToken,
    files: SeedFiles,
    manifest: Option<SeedManifest>,
    /// Of the manifest: which are here.
    here: Vec<bool>,
    progress: SeedProgress,
    told: Told,
    wrong: u32,
}

/// What was told last, for the rate.
struct Told {
    at: Instant,
    received: u64,
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
        shared: Arc<CopyShared>,
        order: SeedOrder,
        candidates: watch::Receiver<Vec<SourceCandidate>>,
        stop: CancellationToken,
    ) -> Self {
        let files = SeedFiles::new(context.places.clone(), shared.database);
        let told = Told { at: Instant::now(), received: 0 };
        Self {
            context,
            shared,
            order,
            candidates,
            stop,
            files,
            manifest: None,
            here: Vec::new(),
            progress: SeedProgress::default(),
            told,
            wrong: 0,
        }
    }

    /// Runs until it is stopped.
    pub(crate) async fn run(mut self) {
        let operation = self.order.operation;
        tracing::info!(database = %self.shared.name, %operation, "a seed begins");
        // It ends only by being stopped.
        let Err(Stopped) = self.drive().await else { return };
        self.close_source();
    }

    async fn drive(&mut self) -> Result<()> {
        let order = self.order.clone();
        let mut machine = SeedMachine::new(SeedConfig::default(), order, self.shared.copy);
        let mut actions = Vec::new();
        let first = self.candidates.borrow_and_update().clone();
        machine.step(boottime_now(), SeedEvent::Candidates(first), &mut actions);
        loop {
            let mut queue: VecDeque<_> = actions.drain(..).collect();
            while let Some(action) = queue.pop_front() {
                let received = self.progress.bytes_received;
                let event = self.act(action).await?;
                if self.progress.bytes_received > received {
                    machine.progressed();
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
            SeedAction::Install => Some(self.install().await),
            SeedAction::Report { phase, source, note } => {
                let (database, operation) = (&self.shared.name, self.order.operation);
                let from = source.map(|member| self.context.name_of(member));
                tracing::info!(%database, %operation, %phase, ?from, note, "seed");
                (self.progress.phase, self.progress.source) = (phase, source);
                self.progress.note = note;
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
        let files = self.files.clone();
        let done = blocking(&self.context.seed_pool, move || work(&files)).await;
        done.unwrap_or_else(|text| Err(PlaceError { full: false, text }))
    }

    async fn look(&self) -> SeedEvent {
        let left = self.on_disk(SeedFiles::look).await;
        left.map_or_else(failed, |left| SeedEvent::Looked(left.record, left.installed))
    }

    async fn install(&mut self) -> SeedEvent {
        let (Some(manifest), copy) = (self.manifest.clone(), self.order.copy) else {
            return SeedEvent::DiskFailed(false, "there is no manifest".into());
        };
        let installed = self.on_disk(move |files| files.install(&manifest, copy)).await;
        installed.map_or_else(failed, |()| SeedEvent::Installed)
    }

    /// Tells the end until consensus has taken the order back.
    async fn end(&mut self, refused: Option<Refused>) -> Result<Option<SeedEvent>> {
        let (code, message) = match &refused {
            None => (String::new(), String::new()),
            Some(refused) => (refused.reason.code().0.to_owned(), refused.message.clone()),
        };
        match &refused {
            None => {
                tracing::info!(database = %self.shared.name, "the seeded copy is in place");
                self.close_source();
            }
            Some(refused) => tracing::warn!(database = %self.shared.name, %refused, "seed failed"),
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
        v1::SeedReport {
            database: ids::bytes(self.shared.database),
            copy: ids::bytes(self.shared.copy),
            operation: ids::bytes(self.order.operation),
            progress: serde_json::to_vec(&self.progress).unwrap_or_default().into(),
            from: self.manifest.as_ref().map(|manifest| manifest.at.position.into()),
            ..v1::SeedReport::default()
        }
    }

    fn tell(&mut self) {
        let (now, received) = (Instant::now(), self.progress.bytes_received);
        let millis = now.duration_since(self.told.at).as_millis().max(1) as u64;
        let rate = received.saturating_sub(self.told.received).saturating_mul(1_000) / millis;
        let before = self.progress.bytes_per_second;
        // The mean of what was and what is: files end in pauses.
        self.progress.bytes_per_second = if before == 0 { rate } else { (before + rate) / 2 };
        self.told = Told { at: now, received };
        self.context.report(0, v1::data_to_control::Message::Seed(self.report()));
    }

    fn tell_if_due(&mut self) {
        if self.told.at.elapsed() >= TELL_EVERY {
            self.tell();
        }
    }

    /// A client of a source over the best way there is, which the progress tells.
    async fn client(&mut self, member: MemberId) -> Option<ReplicationClient<PeerChannel>> {
        let peer = self.context.member(member)?;
        let (network, compression) = (self.order.network.as_deref(), self.order.compression);
        let seeding = (Purpose::Seeding, Overrides { network, compression });
        let (way, channel) = self.context.reach(&peer, seeding, ChannelLane::Bulk).await;
        self.progress.network = way.network.unwrap_or_default();
        self.progress.compressed = way.compressed;
        Some(client(channel))
    }

    /// What the network says within time, unless the seed is stopped meanwhile.
    async fn within<T>(
        &self,
        call: impl Future<Output = std::result::Result<T, Status>>,
    ) -> Result<std::result::Result<T, SeedEvent>> {
        tokio::select! {
            () = self.stop.cancelled() => Err(Stopped),
            answer = timeout(SILENCE, call) => Ok(match answer {
                Ok(Ok(answer)) => Ok(answer),
                Ok(Err(status)) => Err(source_failed(&status)),
                Err(_) => {
                    let text = format!("the source says nothing for {SILENCE:?}");
                    Err(SeedEvent::SourceFailed(SourceFailure::Unreachable, text))
                }
            }),
        }
    }

    async fn open(
        &mut self,
        member: MemberId,
        copy: CopyId,
        checkpoint: Option<CheckpointId>,
    ) -> Result<SeedEvent> {
        let Some(mut client) = self.client(member).await else { return Ok(no_member()) };
        let request = v1::OpenSeedRequest {
            handshake: Some(self.context.handshake()),
            database: ids::bytes(self.shared.database),
            copy: ids::bytes(copy),
            operation: ids::bytes(self.order.operation),
            checkpoint: checkpoint.map(ids::bytes).unwrap_or_default(),
        };
        let mut answers = match self.within(client.open_seed(request)).await? {
            Ok(answers) => answers.into_inner(),
            Err(event) => return Ok(event),
        };
        loop {
            match self.within(answers.message()).await? {
                Ok(Some(answer)) if answer.manifest.is_empty() => {
                    (self.progress.bytes_done, self.progress.bytes) =
                        (answer.bytes_read, answer.bytes_total);
                    self.tell_if_due();
                }
                Ok(Some(answer)) => return Ok(self.take_manifest(&answer.manifest).await),
                Ok(None) => return Ok(broken()),
                Err(event) => return Ok(event),
            }
        }
    }

    async fn take_manifest(&mut self, bytes: &[u8]) -> SeedEvent {
        let manifest = match SeedManifest::decode(bytes) {
            Ok(manifest) if manifest.database == self.shared.database => manifest,
            Ok(_) => return wrong("the manifest is of another database".into()),
            Err(error) => return wrong(format!("the manifest does not decode: {error}")),
        };
        if manifest.stream != self.shared.stream {
            return wrong("the manifest is of another log stream".into());
        }
        let wanted = manifest.clone();
        let looked = self.on_disk(move |files| Ok((files.prepare(&wanted)?, files.free()?))).await;
        let (here, free) = match looked {
            Ok(looked) => looked,
            Err(error) => return failed(error),
        };
        let missing = |place| -> u64 {
            let files = manifest.files.iter().zip(&here);
            let missing = files.filter(|(file, here)| file.place == place && !**here);
            missing.map(|(file, _)| file.bytes).sum()
        };
        let offered = Offered {
            checkpoint: manifest.checkpoint,
            store: (missing(keelson_format::SeedPlace::Store), free.0),
            log: (missing(keelson_format::SeedPlace::Log), free.1),
            one_volume: free.2,
        };
        self.here = here;
        self.manifest = Some(manifest);
        self.count();
        SeedEvent::Offered(offered)
    }

    fn count(&mut self) {
        let Some(manifest) = &self.manifest else { return };
        let done = manifest.files.iter().zip(&self.here).filter(|(_, here)| **here);
        let (files, bytes) = done.fold((0, 0), |(n, sum), (file, _)| (n + 1, sum + file.bytes));
        (self.progress.files_done, self.progress.bytes_done) = (files, bytes);
        self.progress.files = manifest.files.len() as u64;
        self.progress.bytes = manifest.bytes();
    }

    async fn transfer(&mut self, member: MemberId, checkpoint: CheckpointId) -> Result<SeedEvent> {
        let Some(manifest) = self.manifest.clone() else { return Ok(broken()) };
        // Staging may have been cleared since it was looked at.
        let wanted = manifest.clone();
        match self.on_disk(move |files| files.prepare(&wanted)).await {
            Ok(here) => self.here = here,
            Err(error) => return Ok(failed(error)),
        }
        self.count();
        let missing = (0..).zip(&self.here).filter(|(_, here)| !**here).map(|(number, _)| number);
        let files: Vec<u32> = missing.collect();
        if files.is_empty() {
            return Ok(SeedEvent::Transferred);
        }
        let Some(mut client) = self.client(member).await else { return Ok(no_member()) };
        let mut first = match self.incoming(&manifest, files[0], true).await {
            Ok(incoming) => Some(incoming),
            Err(error) => return Ok(failed(error)),
        };
        let request = v1::FetchSeedRequest {
            handshake: Some(self.context.handshake()),
            database: ids::bytes(self.shared.database),
            operation: ids::bytes(self.order.operation),
            checkpoint: ids::bytes(checkpoint),
            files: files.clone(),
            no_throttle: self.order.no_throttle,
            offset: first.as_ref().map_or(0, Incoming::at),
            compressed: self.progress.compressed,
        };
        let mut chunks = match self.within(client.fetch_seed(request)).await? {
            Ok(chunks) => chunks.into_inner(),
            Err(event) => return Ok(event),
        };
        for number in files {
            let incoming = match first.take() {
                Some(incoming) => Ok(incoming),
                None => self.incoming(&manifest, number, false).await,
            };
            let incoming = match incoming {
                Ok(incoming) => incoming,
                Err(error) => return Ok(failed(error)),
            };
            if let Some(event) = self.receive(number, incoming, &mut chunks).await? {
                return Ok(event);
            }
        }
        Ok(SeedEvent::Transferred)
    }

    async fn incoming(
        &self,
        manifest: &SeedManifest,
        number: u32,
        go_on: bool,
    ) -> std::result::Result<Incoming, PlaceError> {
        // A file that came wrong begins anew.
        let go_on = go_on && self.wrong == 0;
        let file = manifest.files.get(number as usize).cloned();
        let missing = || PlaceError { full: false, text: "no such file in the manifest".into() };
        let file = file.ok_or_else(missing)?;
        self.on_disk(move |files| files.receive(&file, go_on)).await
    }

    /// Receives one file; an event if something went wrong.
    async fn receive(
        &mut self,
        number: u32,
        mut incoming: Incoming,
        chunks: &mut Streaming<v1::SeedChunk>,
    ) -> Result<Option<SeedEvent>> {
        loop {
            let chunk = match self.within(chunks.message()).await? {
                Ok(Some(chunk)) if chunk.file == number => chunk,
                Ok(_) => return Ok(Some(broken())),
                Err(event) => return Ok(Some(event)),
            };
            self.progress.bytes_received += chunk.body.len() as u64;
            incoming = match self.take(incoming, chunk).await {
                Ok(incoming) => incoming,
                Err(not_taken) => return Ok(Some(self.not_taken(not_taken))),
            };
            self.tell_if_due();
            if incoming.is_complete() {
                break;
            }
        }
        let files = self.files.clone();
        let finished = blocking(&self.context.seed_pool, move || incoming.finish(&files)).await;
        if let Err(not_taken) = finished.unwrap_or_else(panicked) {
            return Ok(Some(self.not_taken(not_taken)));
        }
        self.here[number as usize] = true;
        self.wrong = 0;
        self.count();
        Ok(None)
    }

    async fn take(
        &self,
        mut incoming: Incoming,
        chunk: v1::SeedChunk,
    ) -> std::result::Result<Incoming, NotTaken> {
        let taken = blocking(&self.context.seed_pool, move || {
            let body = unpack(chunk.body, chunk.packed_from, CHUNK_BYTES);
            let body = body.map_err(|error| NotTaken::Wrong(error.to_string()))?;
            incoming.take(chunk.offset, chunk.crc, &body)?;
            Ok(incoming)
        });
        taken.await.unwrap_or_else(panicked)
    }

    /// A file that came wrong is fetched again a few times.
    fn not_taken(&mut self, not_taken: NotTaken) -> SeedEvent {
        match not_taken {
            NotTaken::Disk(error) => failed(error),
            NotTaken::Wrong(text) => {
                self.wrong += 1;
                let why = match self.wrong < WRONG_MAX {
                    true => SourceFailure::Unreachable,
                    false => SourceFailure::Wrong,
                };
                tracing::warn!(database = %self.shared.name, text, "a file of a seed came wrong");
                SeedEvent::SourceFailed(why, text)
            }
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

fn panicked<T>(text: String) -> std::result::Result<T, NotTaken> {
    Err(NotTaken::Disk(PlaceError { full: false, text }))
}

fn failed(error: PlaceError) -> SeedEvent {
    SeedEvent::DiskFailed(error.full, error.text)
}

fn wrong(text: String) -> SeedEvent {
    SeedEvent::SourceFailed(SourceFailure::Wrong, text)
}

fn broken() -> SeedEvent {
    let text = "the source ended early".into();
    SeedEvent::SourceFailed(SourceFailure::Unreachable, text)
}

fn no_member() -> SeedEvent {
    let text = "the source is no member any more".into();
    SeedEvent::SourceFailed(SourceFailure::Unfit, text)
}

fn source_failed(status: &Status) -> SeedEvent {
    let refusal = refusal_of(status);
    let why = match refusal.reason {
        RefusalReason::Truncated => SourceFailure::CheckpointGone,
        RefusalReason::SourceUnfit => SourceFailure::Unfit,
        // Its copy may be opened in a moment.
        _ => SourceFailure::Unreachable,
    };
    SeedEvent::SourceFailed(why, refusal.message)
}
