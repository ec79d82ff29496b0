//! What all copies of a member share: identity, pools, stores, connections, reports to the control
//! process.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock, RwLock};

use keelson_copy_core::divergence::RungCost;
use keelson_copy_core::lag::BootId;
use keelson_copy_core::paths::{End, Overrides, Purpose, Way, ways};
use keelson_copy_core::range_fetch::FetchCost;
use keelson_copy_core::{RecordedCeiling, StopReason};
use keelson_env::StoreOpener;
use keelson_net::{CallMeters, Connector, Expect, Lane as ChannelLane, PeerChannel, TokenBook};
use keelson_types::{
    AuditLine, ClusterId, ClusterSettings, CommitRule, CopyFault, CopyId, DatabaseId, Epoch,
    IncarnationId, MemberId, MemberName, Networks, News, OperationId,
};
use keelson_wire::{PROTOCOL_MAX, PROTOCOL_MIN, ids, v1};
use tokio::sync::{Semaphore, mpsc, watch};

use crate::ahead::Ahead;
use crate::catalog::Catalogs;
use crate::forks::Forks;
use crate::gate::LeaseClock;
use crate::log_paths::LogPaths;
use crate::message::SourceSender;
use crate::meters::Meters;
use crate::open::Places;
use crate::pool::Pool;
use crate::reach::Reach;
use crate::repair::donating::Donations;
use crate::room::{Room, Rooms};
use crate::scrub::Scrubbing;
use crate::seed::{SeedPools, SeedRoom, SeedSources, SyncTimes};
use crate::shared::CopyShared;
use crate::space::{Space, Volumes};
use crate::traffic::Traffic;

/// Copies that catch up from files at the same time; each has up to 8 MiB on its way.
const CATCHING_UP_MAX: usize = 16;

/// Which boot of the machine this is. Without an answer every start counts as a new boot.
fn boot_id() -> BootId {
    let read = std::fs::read_to_string("/proc/sys/kernel/random/boot_id");
    let id = read.ok().and_then(|text| text.trim().parse::<uuid::Uuid>().ok());
    BootId(id.unwrap_or_else(uuid::Uuid::new_v4).as_u128())
}

/// Another member, as consensus knows it.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    pub(crate) name: MemberName,
    pub(crate) site: String,
    pub(crate) data_address: String,
    /// Where its data process listens besides, for other members.
    pub(crate) replication_addresses: Vec<String>,
    pub(crate) alive: bool,
}

impl Peer {
    fn end(&self) -> End<'_> {
        let (client, replication) = (&self.data_address, &self.replication_addresses);
        End { site: &self.site, client, replication }
    }
}

/// See the module page.
#[derive(Debug)]
pub(crate) struct PlaneContext {
    pub(crate) member: MemberId,
    /// Known from the first message of the control process on.
    pub(crate) cluster: OnceLock<ClusterId>,
    pub(crate) incarnation: IncarnationId,
    pub(crate) places: Places,
    pub(crate) rooms: Rooms,
    pub(crate) opener: Stores,
    pub(crate) lease: Arc<LeaseClock>,
    pub(crate) connector: Connector,
    pub(crate) logs: Pool,
    pub(crate) stores: Pool,
    pub(crate) readers: Arc<Pool>,
    /// For what reads a whole store, so that short reads never wait for it.
    pub(crate) scans: Arc<Pool>,
    /// Snapshots of stores that others fetch keys from.
    pub(crate) donations: Arc<Donations>,
    /// Turns to catch a passive up from files.
    pub(crate) catching_up: Arc<Semaphore>,
    pub(crate) members: RwLock<BTreeMap<MemberId, Peer>>,
    /// As last heard from the control process.
    pub(crate) networks: RwLock<Networks>,
    /// The access tokens that count here, as last heard from the control process.
    pub(crate) tokens: TokenBook,
    /// How log goes to the others, for status pages.
    pub(crate) log_paths: LogPaths,
    /// Whose data process answers.
    pub(crate) reach: Reach,
    /// Who indexes what.
    pub(crate) catalogs: Catalogs,
    /// Answers that are read ahead of clients.
    pub(crate) ahead: Ahead,
    /// For scrubs, which sleep most of the time.
    pub(crate) scrubs: Arc<Pool>,
    pub(crate) scrubbing: Scrubbing,
    /// To the control process; bounded by what the copies have to report.
    pub(crate) reports: mpsc::UnboundedSender<v1::DataToControl>,
    /// As last heard from the control process.
    pub(crate) settings: watch::Sender<ClusterSettings>,
    pub(crate) space: Space,
    pub(crate) forks: Arc<Forks>,
    /// Checkpoints that targets of seeds read.
    pub(crate) seeds: Arc<SeedSources>,
    pub(crate) seed_pools: SeedPools,
    /// What the seeds that arrive here still need of the volumes.
    pub(crate) seed_room: Arc<SeedRoom>,
    pub(crate) syncs: Arc<SyncTimes>,
    pub(crate) meters: Arc<Meters>,
    pub(crate) calls: CallMeters,
    pub(crate) traffic: Traffic,
    /// Of this machine; tells whether ticks of an earlier life compare.
    pub(crate) boot: BootId,
}

/// The opener of stores, with a debug face.
#[derive(Clone)]
pub(crate) struct Stores(pub(crate) Arc<dyn StoreOpener>);

impl std::fmt::Debug for Stores {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Stores")
    }
}

/// What a context is made of.
pub(crate) struct ContextParts {
    pub(crate) member: MemberId,
    pub(crate) incarnation: IncarnationId,
    pub(crate) places: Places,
    pub(crate) opener: Arc<dyn StoreOpener>,
    pub(crate) connector: Connector,
    pub(crate) reports: mpsc::UnboundedSender<v1::DataToControl>,
    /// What threads do first that shall take no more than the others leave.
    pub(crate) quiet: fn(),
}

impl PlaneContext {
    pub(crate) fn start(parts: ContextParts) -> std::io::Result<Self> {
        let forks = Forks::open(&parts.places.data, parts.places.disk.clone());
        let seeds = SeedSources::open(&parts.places.data, parts.places.disk.clone());
        Ok(Self {
            forks: Arc::new(forks),
            seeds: Arc::new(seeds),
            seed_pools: SeedPools::start()?,
            seed_room: Arc::default(),
            syncs: Arc::default(),
            meters: Arc::default(),
            calls: CallMeters::default(),
            traffic: Traffic::default(),
            member: parts.member,
            cluster: OnceLock::new(),
            incarnation: parts.incarnation,
            rooms: Rooms::of(&parts.places),
            places: parts.places,
            opener: Stores(parts.opener),
            lease: Arc::default(),
            connector: parts.connector,
            logs: Pool::start("log", 6)?,
            stores: Pool::start("store", 3)?,
            readers: Arc::new(Pool::start("read", 3)?),
            scans: Arc::new(Pool::start("scan", 1)?),
            catalogs: Catalogs::start(parts.quiet)?,
            scrubs: Arc::new(Pool::start("scrub", 1)?),
            scrubbing: Scrubbing::default(),
            ahead: Ahead::default(),
            donations: Arc::default(),
            catching_up: Arc::new(Semaphore::new(CATCHING_UP_MAX)),
            members: RwLock::default(),
            networks: RwLock::default(),
            tokens: TokenBook::default(),
            log_paths: LogPaths::default(),
            reach: Reach::default(),
            reports: parts.reports,
            boot: boot_id(),
            settings: watch::Sender::new(ClusterSettings::default()),
            space: Space::default(),
        })
    }

    /// Whether log of this copy takes space that expanded truncation defends.
    pub(crate) fn is_short_of_log_space(&self, database: DatabaseId) -> bool {
        self.volumes_of(database).is_short(&self.settings.borrow())
    }

    /// The last look at the volumes of a copy.
    pub(crate) fn volumes_of(&self, database: DatabaseId) -> Volumes {
        self.space.volumes(&self.places.roots(database).data)
    }

    /// The room that a copy has.
    pub(crate) fn room_of(&self, database: DatabaseId) -> Arc<Room> {
        self.rooms.of_database(database)
    }

    pub(crate) fn member(&self, member: MemberId) -> Option<Peer> {
        let members = self.members.read().unwrap_or_else(std::sync::PoisonError::into_inner);
        members.get(&member).cloned()
    }

    /// The other members that hold data.
    pub(crate) fn other_holders(&self) -> Vec<(MemberId, Peer)> {
        let members = self.members.read().unwrap_or_else(std::sync::PoisonError::into_inner);
        let others = members.iter().filter(|(id, _)| **id != self.member);
        let holders = others.filter(|(_, peer)| !peer.data_address.is_empty());
        holders.map(|(id, peer)| (*id, peer.clone())).collect()
    }

    /// The name of a member, or its id if it does not belong to the cluster.
    pub(crate) fn name_of(&self, member: MemberId) -> String {
        self.member(member).map_or_else(|| member.to_string(), |peer| peer.name.to_string())
    }

    /// The member of this name, if it belongs to the cluster.
    pub(crate) fn member_named(&self, name: &MemberName) -> Option<MemberId> {
        let members = self.members.read().unwrap_or_else(std::sync::PoisonError::into_inner);
        members.iter().find(|(_, peer)| peer.name == *name).map(|(id, _)| *id)
    }

    /// A channel to a member's data process.
    pub(crate) fn channel(&self, peer: &Peer, lane: ChannelLane) -> PeerChannel {
        self.connector.channel(&peer.data_address, Expect::Member(peer.name.clone()), lane)
    }

    /// The ways to a member, best first; at least one.
    pub(crate) fn ways(&self, peer: &Peer, purpose: Purpose, overrides: Overrides<'_>) -> Vec<Way> {
        let networks = self.networks.read().unwrap_or_else(std::sync::PoisonError::into_inner);
        let own = self.member(self.member);
        let none = End { site: "", client: "", replication: &[] };
        let own = own.as_ref().map_or(none, Peer::end);
        ways(&networks, (own, peer.end()), purpose, overrides)
    }

    /// The best way to a member's data process that can be connected to now (F117). The last one
    /// is taken without trying: whoever calls over it hears what is wrong.
    pub(crate) async fn reach(
        &self,
        peer: &Peer,
        (purpose, overrides): (Purpose, Overrides<'_>),
        lane: ChannelLane,
    ) -> (Way, PeerChannel) {
        let mut ways = self.ways(peer, purpose, overrides);
        let last = ways.pop().unwrap_or_else(|| Way::to(&peer.data_address));
        for way in ways {
            let channel = self.channel_on(peer, &way, lane);
            match channel.connect().await {
                Ok(()) => return (way, channel),
                Err(failure) => tracing::debug!(%failure, "another way is tried"),
            }
        }
        let channel = self.channel_on(peer, &last, lane);
        (last, channel)
    }

    /// A channel to a member's data process over one of its ways.
    pub(crate) fn channel_on(&self, peer: &Peer, way: &Way, lane: ChannelLane) -> PeerChannel {
        self.connector.channel(&way.address, Expect::Member(peer.name.clone()), lane)
    }

    pub(crate) fn handshake(&self) -> v1::Handshake {
        v1::Handshake {
            protocol_min: PROTOCOL_MIN,
            protocol_max: PROTOCOL_MAX,
            cluster: self.cluster.get().map(|id| ids::bytes(*id)).unwrap_or_default(),
            recovery: 0,
            member: ids::bytes(self.member),
            incarnation: ids::bytes(self.incarnation),
        }
    }

    pub(crate) fn report(&self, reply_to: u64, message: v1::data_to_control::Message) {
        // Without a control process this process is about to end.
        let _ = self.reports.send(v1::DataToControl { reply_to, message: Some(message) });
    }

    pub(crate) fn report_established(&self, shared: &CopyShared, epoch: Epoch) {
        let report = v1::EstablishedReport {
            database: ids::bytes(shared.database),
            epoch: Some(epoch.into()),
        };
        self.report(0, v1::data_to_control::Message::Established(report));
    }

    /// What a copy does to get back onto its active's log, or did.
    pub(crate) fn report_divergence(
        &self,
        shared: &CopyShared,
        rung: &str,
        cost: RungCost,
        (fetch, rounds): (FetchCost, u32),
        finished: bool,
    ) {
        let report = v1::DivergenceReport {
            database: ids::bytes(shared.database),
            copy: ids::bytes(shared.copy),
            rung: rung.into(),
            salvage_bytes: cost.salvage_bytes,
            replay_bytes: cost.replay_bytes,
            keys: fetch.keys,
            bytes: fetch.bytes,
            rounds,
            finished,
        };
        self.report(0, v1::data_to_control::Message::Divergence(report));
    }

    pub(crate) fn propose_rule(
        &self,
        shared: &CopyShared,
        epoch: Epoch,
        expected_version: u64,
        rule: &CommitRule,
    ) {
        tracing::info!(
            database = %shared.name,
            %epoch,
            participants = rule.participants.len(),
            constraint = %rule.constraint,
            "proposing a commit rule"
        );
        let proposal = v1::ProposeRule {
            database: ids::bytes(shared.database),
            epoch: Some(epoch.into()),
            expected_version,
            rule: Some(rule.into()),
            reason: String::new(),
        };
        self.report(0, v1::data_to_control::Message::ProposeRule(proposal));
    }

    /// Proposes a ceiling of what is committed.
    pub(crate) fn propose_ceiling(
        &self,
        shared: &CopyShared,
        epoch: Epoch,
        proposal: &RecordedCeiling,
    ) {
        let ceiling = proposal.ceiling.map(|ceiling| serde_json::to_vec(&ceiling));
        let proposal = v1::ProposeCeiling {
            database: ids::bytes(shared.database),
            epoch: Some(epoch.into()),
            number: proposal.number,
            ceiling: ceiling.transpose().expect("numbers only").unwrap_or_default().into(),
        };
        self.report(0, v1::data_to_control::Message::ProposeCeiling(proposal));
    }

    /// Leaves something for the list of events, of a copy or of the member as a whole.
    pub(crate) fn tell(&self, database: Option<DatabaseId>, news: &News) {
        tracing::info!(?database, ?news, "told the cluster");
        let Ok(json) = serde_json::to_vec(news) else { return };
        let database = database.map(ids::bytes).unwrap_or_default();
        let report = v1::NewsReport { database, news: json.into() };
        self.report(0, v1::data_to_control::Message::News(report));
    }

    /// Leaves a line for the audit of this member.
    pub(crate) fn audit(&self, line: &AuditLine) {
        let Ok(json) = serde_json::to_vec(line) else { return };
        let report = v1::AuditReport { line: json.into() };
        self.report(0, v1::data_to_control::Message::Audit(report));
    }

    /// The copy failed for a reason that does not heal.
    pub(crate) fn report_stopped(&self, shared: &CopyShared, resumes: u64, fault: &CopyFault) {
        let report = v1::CopyStopped {
            database: ids::bytes(shared.database),
            copy: ids::bytes(shared.copy),
            resumes,
            comment: fault.to_string(),
            needs_seed: matches!(fault, CopyFault::MissingLog(_)),
            tag: fault.tag().to_string(),
        };
        self.report(0, v1::data_to_control::Message::CopyStopped(report));
    }

    /// The copy lost its files, and asks for the id under which it is another copy; or `found` them
    /// again before it got one.
    pub(crate) fn report_forgotten(&self, shared: &CopyShared, found: bool) {
        let (database, copy) = (ids::bytes(shared.database), ids::bytes(shared.copy));
        let report = v1::CopyForgot { database, copy, found };
        self.report(0, v1::data_to_control::Message::CopyForgot(report));
    }

    /// A copy that was marked as cut off has all log that it needs.
    pub(crate) fn report_not_cut_off(&self, shared: &CopyShared, epoch: Epoch, copy: CopyId) {
        let report = v1::ClearCutOff {
            database: ids::bytes(shared.database),
            epoch: Some(epoch.into()),
            copy: ids::bytes(copy),
        };
        self.report(0, v1::data_to_control::Message::ClearCutOff(report));
    }

    /// Log that these copies and operations need is about to go.
    pub(crate) fn report_cut_off(
        &self,
        shared: &CopyShared,
        epoch: Epoch,
        copies: &[CopyId],
        operations: &[OperationId],
    ) {
        let report = v1::MarkCutOff {
            database: ids::bytes(shared.database),
            epoch: Some(epoch.into()),
            copies: copies.iter().map(|id| ids::bytes(*id)).collect(),
            operations: operations.iter().map(|id| ids::bytes(*id)).collect(),
        };
        self.report(0, v1::data_to_control::Message::MarkCutOff(report));
    }

    pub(crate) fn report_given_up(&self, shared: &CopyShared, epoch: Epoch, reason: &StopReason) {
        let tag = match reason {
            StopReason::Failed(fault) => fault.tag().to_string(),
            _ => String::new(),
        };
        let report = v1::EpochGivenUp {
            tag,
            database: ids::bytes(shared.database),
            epoch: Some(epoch.into()),
            reason: format!("{reason:?}"),
        };
        self.report(0, v1::data_to_control::Message::GivenUp(report));
    }
}

/// The copies of this member by database.
#[derive(Debug, Default)]
pub(crate) struct Registry(RwLock<Copies>);

#[derive(Debug, Default)]
struct Copies {
    sessions: BTreeMap<MemberId, SourceSender>,
    by_id: BTreeMap<DatabaseId, CopyHandle>,
    by_name: BTreeMap<String, DatabaseId>,
}

/// How to reach a copy's owner.
#[derive(Clone, Debug)]
pub(crate) struct CopyHandle {
    pub(crate) shared: Arc<CopyShared>,
    pub(crate) mailbox: mpsc::Sender<crate::message::Message>,
    pub(crate) directions: Arc<crate::directions::Directions>,
    pub(crate) digests: Arc<crate::digest::Digests>,
}

impl Registry {
    pub(crate) fn get(&self, database: DatabaseId) -> Option<CopyHandle> {
        let copies = self.0.read().unwrap_or_else(std::sync::PoisonError::into_inner);
        copies.by_id.get(&database).cloned()
    }

    pub(crate) fn named(&self, name: &str) -> Option<CopyHandle> {
        let copies = self.0.read().unwrap_or_else(std::sync::PoisonError::into_inner);
        copies.by_name.get(name).and_then(|id| copies.by_id.get(id)).cloned()
    }

    pub(crate) fn all(&self) -> Vec<CopyHandle> {
        let copies = self.0.read().unwrap_or_else(std::sync::PoisonError::into_inner);
        copies.by_id.values().cloned().collect()
    }

    /// Remembers the session to a member for copies that are opened later.
    pub(crate) fn set_session(&self, member: MemberId, sender: Option<&SourceSender>) {
        let mut copies = self.0.write().unwrap_or_else(std::sync::PoisonError::into_inner);
        match sender {
            Some(sender) => drop(copies.sessions.insert(member, sender.clone())),
            None => drop(copies.sessions.remove(&member)),
        }
    }

    pub(crate) fn sessions(&self) -> BTreeMap<MemberId, SourceSender> {
        let copies = self.0.read().unwrap_or_else(std::sync::PoisonError::into_inner);
        copies.sessions.clone()
    }

    pub(crate) fn insert(&self, handle: CopyHandle) {
        let mut copies = self.0.write().unwrap_or_else(std::sync::PoisonError::into_inner);
        copies.by_name.insert(handle.shared.name.clone(), handle.shared.database);
        copies.by_id.insert(handle.shared.database, handle);
    }

    pub(crate) fn remove(&self, database: DatabaseId) -> Option<CopyHandle> {
        let mut copies = self.0.write().unwrap_or_else(std::sync::PoisonError::into_inner);
        let handle = copies.by_id.remove(&database)?;
        copies.by_name.remove(&handle.shared.name);
        Some(handle)
    }
}
