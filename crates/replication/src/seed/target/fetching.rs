//! What the target of a seed asks of its source, and how it takes the answers.

use std::cmp::Reverse;
use std::time::Duration;

use keelson_copy_core::paths::{Overrides, Purpose};
use keelson_copy_core::seed::{Offered, SeedEvent, SourceFailure};
use keelson_format::{SeedFile, SeedManifest, SeedPlace};
use keelson_net::{Lane as ChannelLane, PeerChannel};
use keelson_types::{CheckpointId, CopyId, MemberId, RefusalReason, SeedScope};
use keelson_wire::v1::replication_client::ReplicationClient;
use keelson_wire::{ids, refusal_of, v1};
use tokio::time::timeout;
use tonic::{Status, Streaming};

use super::arriving::Arriving;
use super::following::SoFar;
use super::{Result, Stopped, Target, failed};
use crate::fetch::client;
use crate::seed::place::{Incoming, PlaceError, Refused as NotTaken};
use crate::seed::room::Needs;

/// A source that says nothing for so long is gone.
pub(super) const SILENCE: Duration = Duration::from_secs(20);
/// How often a file may come wrong before the source is given up.
const WRONG_MAX: u32 = 3;

impl Target {
    /// A client of a source over the best way there is, and whether what is sent is compressed. The
    /// progress tells the way of what the seed is about.
    async fn client(
        &mut self,
        member: MemberId,
        purpose: Purpose,
    ) -> Option<(ReplicationClient<PeerChannel>, bool)> {
        let peer = self.context.member(member)?;
        let (network, compression) = (self.order.network.as_deref(), self.order.compression);
        let seeding = (purpose, Overrides { network, compression });
        let (way, channel) = self.context.reach(&peer, seeding, ChannelLane::Bulk).await;
        if purpose == self.purpose() {
            self.progress.network = way.network.unwrap_or_default();
            self.progress.compressed = way.compressed;
        }
        Some((client(channel), way.compressed))
    }

    /// What the seed is about, for the choice of the network.
    const fn purpose(&self) -> Purpose {
        if self.order.scope.makes_copy() { Purpose::Seeding } else { Purpose::CatalogSeeding }
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

    pub(super) async fn open(
        &mut self,
        member: MemberId,
        copy: CopyId,
        checkpoint: Option<CheckpointId>,
    ) -> Result<SeedEvent> {
        let Some((mut client, _)) = self.client(member, self.purpose()).await else {
            return Ok(no_member());
        };
        let request = v1::OpenSeedRequest {
            handshake: Some(self.context.handshake()),
            database: ids::bytes(self.shared.database),
            copy: ids::bytes(copy),
            operation: ids::bytes(self.order.operation),
            checkpoint: checkpoint.map(ids::bytes).unwrap_or_default(),
            parts: match self.order.scope {
                SeedScope::Database => v1::SeedParts::Database,
                SeedScope::Everything => v1::SeedParts::Everything,
                SeedScope::Catalog => v1::SeedParts::Catalog,
            }
            .into(),
        };
        let mut answers = match self.within(client.open_seed(request)).await? {
            Ok(answers) => answers.into_inner(),
            Err(event) => return Ok(event),
        };
        loop {
            match self.within(answers.message()).await? {
                Ok(Some(answer)) if answer.manifest.is_empty() => {
                    self.progress.note = answer.waits_for;
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
        let wanted = self.order.scope;
        let places = manifest.places();
        let index = places.contains(&SeedPlace::Catalog);
        if places.contains(&SeedPlace::Store) != wanted.makes_copy()
            || index && !wanted.takes_catalog()
            || !index && !wanted.makes_copy()
        {
            let text = format!("the source gives {places:?} where {wanted} is wanted");
            return SeedEvent::SourceFailed(SourceFailure::Unfit, text);
        }
        let wanted = manifest.clone();
        let looked = self.on_disk(move |files| files.prepare(&wanted)).await;
        let here = match looked {
            Ok(looked) => looked,
            Err(error) => return failed(error),
        };
        let missing = |places: &[SeedPlace]| -> u64 {
            let files = manifest.files.iter().zip(&here);
            let missing = files.filter(|(file, here)| places.contains(&file.place) && !**here);
            missing.map(|(file, _)| file.bytes).sum()
        };
        let needs = Needs {
            store: missing(&[SeedPlace::Store, SeedPlace::Catalog]),
            log: missing(&[SeedPlace::Log]),
        };
        let checkpoint = manifest.checkpoint;
        if self.manifest.as_ref().is_none_or(|known| known.checkpoint != checkpoint) {
            self.followed = SoFar::default();
        }
        self.here = here;
        self.manifest = Some(manifest);
        self.count();
        // Claimed first, so that of two seeds at once one sees the other.
        self.claim.set(needs);
        let claim = self.claim.clone();
        let free = match self.on_disk(move |_| claim.free()).await {
            Ok(free) => free,
            Err(error) => return failed(error),
        };
        let (store, log) = ((needs.store, free.store), (needs.log, free.log));
        SeedEvent::Offered(Offered { checkpoint, store, log, one_volume: free.one_volume })
    }

    /// Fetches what is missing, and the log behind it meanwhile.
    pub(super) async fn transfer(
        &mut self,
        member: MemberId,
        checkpoint: CheckpointId,
    ) -> Result<SeedEvent> {
        let event = self.transfer_files(member, checkpoint).await;
        self.stop_following().await;
        event
    }

    /// Fetches the files that are missing, the index over its own way (F56).
    async fn transfer_files(
        &mut self,
        member: MemberId,
        checkpoint: CheckpointId,
    ) -> Result<SeedEvent> {
        let Some(manifest) = self.manifest.clone() else { return Ok(broken()) };
        // Staging may have been cleared since it was looked at.
        let wanted = manifest.clone();
        match self.on_disk(move |files| files.prepare(&wanted)).await {
            Ok(here) => self.here = here,
            Err(error) => return Ok(failed(error)),
        }
        self.count();
        self.follow();
        for purpose in [Purpose::Seeding, Purpose::CatalogSeeding] {
            let index = purpose == Purpose::CatalogSeeding;
            let files = (0..).zip(manifest.files.iter().zip(&self.here));
            let files = files
                .filter(|(_, (file, here))| !**here && (file.place == SeedPlace::Catalog) == index);
            let files = in_order(manifest.files.as_slice(), files.map(|(number, _)| number));
            if files.is_empty() {
                continue;
            }
            let from = (member, purpose, checkpoint);
            if let Some(event) = self.fetch(&manifest, from, files).await? {
                return Ok(event);
            }
        }
        Ok(SeedEvent::Transferred)
    }

    /// Fetches files of the checkpoint; an event if something went wrong.
    async fn fetch(
        &mut self,
        manifest: &SeedManifest,
        (member, purpose, checkpoint): (MemberId, Purpose, CheckpointId),
        files: Vec<u32>,
    ) -> Result<Option<SeedEvent>> {
        let Some((mut client, compressed)) = self.client(member, purpose).await else {
            return Ok(Some(no_member()));
        };
        let Some(number) = files.first() else { return Ok(None) };
        let mut first = match self.incoming(manifest, *number, true).await {
            Ok(incoming) => Some(incoming),
            Err(error) => return Ok(Some(failed(error))),
        };
        let request = v1::FetchSeedRequest {
            handshake: Some(self.context.handshake()),
            database: ids::bytes(self.shared.database),
            operation: ids::bytes(self.order.operation),
            checkpoint: ids::bytes(checkpoint),
            files: files.clone(),
            no_throttle: self.order.no_throttle,
            offset: first.as_ref().map_or(0, Incoming::at),
            compressed,
        };
        let mut chunks = match self.within(client.fetch_seed(request)).await? {
            Ok(chunks) => chunks.into_inner(),
            Err(event) => return Ok(Some(event)),
        };
        let mut arriving =
            Arriving::new(self.context.clone(), member, self.files.clone(), self.claim.clone());
        let mut received = None;
        for number in files {
            let incoming = match first.take() {
                Some(incoming) => Ok(incoming),
                None => self.incoming(manifest, number, false).await,
            };
            let taken = match incoming {
                Ok(incoming) => {
                    arriving.begin(incoming);
                    self.receive(manifest, number, &mut arriving, &mut chunks).await
                }
                Err(error) => Ok(Some(failed(error))),
            };
            if !matches!(taken, Ok(None)) {
                received = Some(taken);
                break;
            }
        }
        let settled = arriving.settle().await;
        let event = received.unwrap_or(Ok(None))?;
        Ok(event.or_else(|| self.durable(settled)))
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
        let pools = &self.context.seed_pools;
        // What is there already is read; the source sends nothing yet.
        let pool = if go_on { &pools.chores } else { &pools.chunks };
        self.on_threads(pool, move |files| files.receive(&file, go_on)).await
    }

    /// Receives one file, whose end is settled later; an event if something went wrong.
    async fn receive(
        &mut self,
        manifest: &SeedManifest,
        number: u32,
        arriving: &mut Arriving,
        chunks: &mut Streaming<v1::SeedChunk>,
    ) -> Result<Option<SeedEvent>> {
        let bytes = manifest.files.get(number as usize).map_or(0, |file| file.bytes);
        loop {
            let chunk = match self.within(chunks.message()).await? {
                Ok(Some(chunk)) if chunk.file == number => chunk,
                Ok(_) => return Ok(Some(broken())),
                Err(event) => return Ok(Some(event)),
            };
            self.progress.bytes_received += chunk.body.len() as u64;
            let plain = plain_bytes(&chunk);
            self.plain_received += plain;
            let end = chunk.offset.saturating_add(plain);
            if let Err(not_taken) = arriving.take(chunk).await {
                return Ok(Some(self.not_taken(not_taken)));
            }
            self.tell_if_due();
            if end >= bytes {
                break;
            }
        }
        let before = arriving.finish(number).await;
        Ok(self.durable(before))
    }

    /// Counts a file that is durable.
    fn durable(&mut self, file: std::result::Result<Option<u32>, NotTaken>) -> Option<SeedEvent> {
        match file {
            Ok(None) => None,
            Ok(Some(number)) => {
                self.here[number as usize] = true;
                self.wrong = 0;
                self.count();
                self.follow();
                None
            }
            Err(not_taken) => Some(self.not_taken(not_taken)),
        }
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
}

/// The log first, and of that the newest generation, behind which the log goes on at once; so what
/// is here of it has no gap.
fn in_order(all: &[SeedFile], wanted: impl Iterator<Item = u32>) -> Vec<u32> {
    let is_log =
        |number: &u32| all.get(*number as usize).is_some_and(|f| f.place == SeedPlace::Log);
    let (mut files, others): (Vec<_>, Vec<_>) = wanted.partition(is_log);
    files.sort_by_key(|number| Reverse(all.get(*number as usize).map(|file| &file.name)));
    files.extend(others);
    files
}

/// Bytes of the file that a chunk holds.
fn plain_bytes(chunk: &v1::SeedChunk) -> u64 {
    match chunk.packed_from {
        0 => chunk.body.len() as u64,
        packed => packed.into(),
    }
}

pub(super) fn wrong(text: String) -> SeedEvent {
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
