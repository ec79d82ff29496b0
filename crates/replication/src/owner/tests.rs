//! The owner with real lanes, on a directory of its own; what the control process and other members
//! say is said by the test.

use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

use keelson_copy_core::{Assignment, MountOrder, OpenOffer, PeerCopy};
use keelson_env::{Disk, DiskError, DiskErrorKind, DiskVerb, MemStoreOpener, SimDisk};
use keelson_format::{Chunk, Cursor, CursorState};
use keelson_log::{ControlFile, LogError};
use keelson_net::certs::{Authority, CertRequest, Validity};
use keelson_net::{Connector, TlsFiles, TlsStore};
use keelson_types::{
    Automations, CommitConstraint, CommitRule, ContentIndexSettings, DatabaseId, Epoch, EpochStart,
    HoldClock, IncarnationId, LagSettings, LagSwitch, MountIntent, Participant, Record,
    RefusalReason, SiteName, StreamId, Suspension, Tick,
};
use keelson_wire::v1;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::*;
use crate::context::{ContextParts, Registry};
use crate::digest::Digests;
use crate::gate::ServeGate;
use crate::message::FromTarget;
use crate::open::{Identity, Places};
use crate::owner::idle::CLOSE_AFTER;
use crate::supervise::Supervised;

const DATABASE: DatabaseId = DatabaseId::from_u128(7);
const STREAM: StreamId = StreamId::from_u128(9);
const OWN: MemberId = MemberId::from_u128(101);
const OWN_COPY: CopyId = CopyId::from_u128(1);
const OTHER: MemberId = MemberId::from_u128(102);
const OTHER_COPY: CopyId = CopyId::from_u128(2);
const FRAMING: FramingConfig = FramingConfig { generation_bytes: 1024 * 1024, compress: false };
/// How often is looked at what no completion tells.
const LOOK: Duration = Duration::from_millis(5);
/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(30);

/// A volume and its stores, over several lives of the process.
struct Volume {
    disk: Arc<SimDisk>,
    stores: MemStoreOpener,
    /// Certificates for connections that nobody makes.
    tls: Arc<TlsStore>,
    _home: tempfile::TempDir,
}

impl Volume {
    fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        let path = |name: &str| home.path().join(name);
        let authority = Authority::create("test", Validity::days(1)).unwrap();
        let request = CertRequest::member("m1", &[]).valid(Validity::days(1));
        std::fs::write(path("ca"), authority.cert_pem()).unwrap();
        authority.issue(&request).unwrap().write(&path("cert"), &path("key")).unwrap();
        let files = TlsFiles { ca: path("ca"), cert: path("cert"), key: path("key") };
        let disk = Arc::new(SimDisk::new());
        disk.create_dir_all(Path::new("/data/databases")).unwrap();
        let (stores, tls) = (MemStoreOpener::new(), TlsStore::open(files).unwrap());
        Self { disk, stores, tls, _home: home }
    }

    /// A life of the process, with this copy opened.
    async fn life(&self) -> Life {
        let (reports, told) = unbounded_channel();
        let context = Arc::new(
            PlaneContext::start(ContextParts {
                member: OWN,
                incarnation: IncarnationId::from_u128(1),
                places: Places {
                    disk: self.disk.clone(),
                    data: "/data".into(),
                    logs: "/data".into(),
                    noting: Arc::default(),
                    volumes: Arc::default(),
                },
                opener: Arc::new(self.stores.clone()),
                connector: Connector::new(self.tls.clone()),
                reports,
                quiet: || {},
            })
            .unwrap(),
        );
        let copy = OWN_COPY;
        let gate = ServeGate::new(context.lease.clone());
        let shared = Arc::new(CopyShared::new(DATABASE, copy, "DB1".into(), STREAM, gate));
        let supervised = Supervised {
            context,
            registry: Arc::new(Registry::default()),
            shared,
            identity: Identity {
                database: DATABASE,
                copy,
                stream: STREAM,
                generation_bytes: FRAMING.generation_bytes,
                resumes: 0,
                others: 1,
                admitted: false,
            },
            digests: Arc::new(Digests::new()),
            directions: Arc::new(Directions::default()),
            sources: Arc::default(),
        };
        // Threads of the life before let their store go in their own time.
        let released = async {
            while self.stores.is_open() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, released).await.expect("nobody holds the store");
        let (done, completions) = unbounded_channel();
        let owner = supervised.open(done, 0).await;
        Life { supervised, owner, completions, _told: told }
    }
}

/// See [`Volume::life`]. Dropping it is the death of the process, as far as the owner goes.
struct Life {
    supervised: Supervised,
    owner: Owner,
    completions: UnboundedReceiver<Completion>,
    _told: UnboundedReceiver<v1::DataToControl>,
}

type Answers = UnboundedReceiver<Result<v1::TargetMessage, tonic::Status>>;

impl Life {
    /// The next owner of the same life.
    async fn reopen(mut self) -> Self {
        self.owner.stopped().await;
        self.supervised.shared.store.retire();
        self.supervised.shared.reopened();
        let (done, completions) = unbounded_channel();
        let owner = self.supervised.open(done, 1).await;
        Self { owner, completions, ..self }
    }

    /// A clean end of the process.
    async fn end(mut self) {
        self.owner.end_try();
        self.owner.stopped().await;
    }

    /// Handles what comes until the probe gives something.
    async fn wait<T>(&mut self, what: &str, mut probe: impl FnMut(&Owner) -> Option<T>) -> T {
        let mut looks = tokio::time::interval(LOOK);
        let wait = async {
            loop {
                self.owner.turn();
                if let Some(found) = probe(&self.owner) {
                    return found;
                }
                let wake = self.owner.wake_at();
                tokio::select! {
                    biased;
                    Some(completion) = self.completions.recv() => self.owner.completed(completion),
                    () = sleep_until(wake) => self.owner.woken(),
                    _ = looks.tick() => {}
                }
            }
        };
        let waited = tokio::time::timeout(PATIENCE, wait).await;
        waited.unwrap_or_else(|_| panic!("in vain: {what}"))
    }

    async fn until(&mut self, what: &str, holds: impl Fn(&Owner) -> bool) {
        self.wait(what, |owner| holds(owner).then_some(())).await;
    }

    fn told(&mut self, message: Message) {
        self.owner.told(message);
        self.owner.turn();
    }

    fn assigned(&mut self, active: Option<CopyId>) {
        self.supervised.directions.assigned(assigned(active));
        self.owner.take_news();
        self.owner.turn();
    }

    fn lease(&mut self) {
        self.owner.context.lease.renew(Tick(u64::MAX / 2), u64::MAX);
        self.supervised.directions.lease(LeaseNews::Back);
        self.owner.take_news();
        self.owner.turn();
    }

    /// Takes the offer of the other member, whose log this is.
    async fn follows(&mut self, log: &OthersLog) -> Answers {
        let (reply, mut answers) = unbounded_channel();
        let (offer, copy) = (log.offer(), OWN_COPY);
        self.told(Message::FromSource(OTHER, FromSource::Open { offer, copy, reply }));
        let opened = self.answer(&mut answers).await;
        assert!(matches!(opened, v1::target_message::Message::Opened(_)), "{opened:?}");
        self.told(Message::FromSource(OTHER, FromSource::Matched { epoch: log.epoch }));
        answers
    }

    async fn answer(&mut self, answers: &mut Answers) -> v1::target_message::Message {
        let answer = self.wait("an answer", |_| answers.try_recv().ok()).await;
        answer.unwrap().message.unwrap()
    }

    /// The reason of the next refusal; acknowledgements may come before it.
    async fn refusal(&mut self, answers: &mut Answers) -> String {
        loop {
            match self.answer(answers).await {
                v1::target_message::Message::Refused(refused) => return refused.code,
                v1::target_message::Message::Ack(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    /// Takes the frames of the other member, and makes them durable.
    async fn takes(&mut self, log: &mut OthersLog, committed: Position) {
        for chunk in std::mem::take(&mut log.chunks) {
            let frames = FromSource::Frames { epoch: log.epoch, chunk, committed };
            self.told(Message::FromSource(OTHER, frames));
        }
        let end = log.cursor.end();
        self.until("the frames are durable", |owner| owner.machine.durable() == end).await;
    }

    /// From now on replay kills the process: it says which tries stand, and nothing comes of it.
    fn store_that_kills(&mut self, disk: &Arc<SimDisk>) -> Arc<AtomicU32> {
        let (seen, disk) = (Arc::new(AtomicU32::new(0)), disk.clone());
        let says = seen.clone();
        let dies = move |jobs: Vec<StoreJob>| {
            if jobs.iter().any(|job| matches!(job, StoreJob::Replay { .. })) {
                // One more than there are, so that none at all is seen, too.
                says.store(tries(&disk) + 1, Ordering::SeqCst);
            }
        };
        let lane = self.owner.context.stores.lane(dies, || {});
        self.owner.files.as_mut().unwrap().store = lane;
        seen
    }

    /// The tries that stood when the store killed the process.
    async fn killed(&mut self, seen: &AtomicU32) -> u32 {
        let dead = |_: &Owner| Some(seen.load(Ordering::SeqCst)).filter(|seen| *seen > 0);
        self.wait("replay", dead).await - 1
    }

    async fn sealed(&mut self, epoch: Epoch) {
        let (reply, sealed) = oneshot::channel();
        self.told(Message::Seal(epoch, reply));
        self.until("the seal is answered", |owner| owner.seals.is_empty()).await;
        assert!(sealed.await.unwrap().is_ok());
    }

    /// Orders a mount with what the log holds.
    fn mount(&mut self, epoch: Epoch) -> oneshot::Receiver<Result<(), MountFailure>> {
        let (rule, required_end) = (alone(), self.owner.machine.end());
        let order = MountOrder { epoch, rule, required_end, sources: Vec::new(), ceiling: None };
        let (reply, mounted) = oneshot::channel();
        self.told(Message::Mount(order, reply));
        mounted
    }

    /// Opens an epoch and serves, alone.
    async fn serves(&mut self, epoch: Epoch) {
        self.assigned(None);
        self.lease();
        self.sealed(epoch).await;
        let mounted = self.mount(epoch);
        self.until("it serves", |owner| owner.mounts.is_empty()).await;
        assert_eq!(mounted.await.unwrap(), Ok(()));
        self.assigned(Some(OWN_COPY));
    }
}

/// The log of another member.
struct OthersLog {
    epoch: Epoch,
    row: EpochStart,
    cursor: Cursor,
    /// What was not sent yet.
    chunks: Vec<Chunk>,
}

impl OthersLog {
    fn new(epoch: Epoch) -> Self {
        let mut cursor = Cursor::new(CursorState::empty(STREAM), FRAMING);
        let (header, row) = cursor.begin_epoch(epoch, 1).unwrap();
        Self { epoch, row, cursor, chunks: vec![header] }
    }

    /// A frame that says that all before it is committed; gives where it begins.
    fn frame(&mut self) -> Position {
        let before = self.cursor.end().position;
        let record = Record::Put { key: "k".into(), value: "v".into() };
        self.chunks.extend(self.cursor.encode(&[record], 1, before, before).unwrap().chunks);
        before
    }

    fn end(&self) -> Position {
        self.cursor.end().position
    }

    fn offer(&self) -> OpenOffer {
        OpenOffer {
            member: OTHER,
            epoch: self.epoch,
            stream: STREAM,
            table: EpochTable::from_rows(vec![self.row]).unwrap(),
            end: self.end(),
            committed: Position::ZERO,
            log_from: Position::ZERO,
        }
    }
}

fn participant(copy: CopyId, member: MemberId) -> Participant {
    Participant { copy, member, site: SiteName::new("a").unwrap() }
}

/// A rule that the own copy meets by itself.
fn alone() -> CommitRule {
    CommitRule {
        version: 1,
        active: OWN_COPY,
        constraint: CommitConstraint::SecondCopy,
        participants: vec![participant(OWN_COPY, OWN)],
    }
}

fn assigned(active: Option<CopyId>) -> Assigned {
    let peer = |copy, member, may_count| {
        let Participant { copy, member, site } = participant(copy, member);
        PeerCopy { copy, member, site, may_count, suspended: false }
    };
    let assignment = Assignment {
        bounded: false,
        ceiling: keelson_copy_core::RecordedCeiling::default(),
        epoch: Epoch::new(0, 1),
        active,
        rule: active.map(|_| alone()),
        constraint: CommitConstraint::SecondCopy,
        // The other one gets the log, and does not count.
        copies: vec![peer(OWN_COPY, OWN, true), peer(OTHER_COPY, OTHER, false)],
        degrade_after: None,
        dismount_after: Duration::from_secs(30),
        suspension: Suspension::NONE,
        discards: Vec::new(),
    };
    Assigned {
        assignment,
        generation_bytes: FRAMING.generation_bytes,
        compress: false,
        resumes: 0,
        lag: LagSettings::default(),
        circular_logging: false,
        backed_up: None,
        intent: MountIntent::Mounted,
        lag_switch: LagSwitch::enable(),
        holds: Vec::new(),
        hold_clock: HoldClock::default(),
        content_index: ContentIndexSettings::default(),
        automations: Automations::default(),
        others: Vec::new(),
        seeds_catalog: false,
    }
}

/// What the control file says of tries.
fn tries(disk: &SimDisk) -> u32 {
    let path = Path::new("/data/databases").join(DATABASE.to_string()).join("control");
    let (_, record) = ControlFile::open(disk, &path).unwrap();
    record.unwrap().start_tries
}

fn first() -> Epoch {
    Epoch::new(0, 1)
}

/// S9.6: what kills the process is mostly a frame in the store, and the first one is replayed only
/// with the first lease, long after the files were opened.
#[tokio::test]
async fn replay_that_takes_the_process_along_ends_in_a_crash_loop() {
    let volume = Volume::new();
    let mut log = OthersLog::new(first());
    log.frame();
    log.frame();
    let mut life = volume.life().await;
    life.assigned(None);
    life.follows(&log).await;
    life.takes(&mut log, Position::ZERO).await;
    life.end().await;
    assert_eq!(tries(&volume.disk), 0, "a life without a lease that ended well");
    for death in 1..=5 {
        let mut life = volume.life().await;
        let seen = life.store_that_kills(&volume.disk);
        life.assigned(None);
        assert_eq!(seen.load(Ordering::SeqCst), 0, "there is no lease");
        life.lease();
        assert_eq!(life.killed(&seen).await, death);
        // Its threads end with it; one that still writes would meet the next life.
        drop(life);
        volume.disk.restart_process();
    }
    let life = volume.life().await;
    assert_eq!(life.owner.fault(), Some(CopyFault::CrashLoop));
}

/// A mount replays what nobody had said to be committed before; the next life must know of it.
#[tokio::test]
async fn replay_of_a_mount_counts_too() {
    let volume = Volume::new();
    let mut log = OthersLog::new(first());
    log.frame();
    let mut life = volume.life().await;
    life.assigned(None);
    life.lease();
    life.follows(&log).await;
    let all = log.end();
    life.takes(&mut log, all).await;
    life.until("all is replayed", |owner| owner.shared.replayed.load() == all).await;
    life.until("the start is good", |_| tries(&volume.disk) == 0).await;
    log.frame();
    life.takes(&mut log, all).await;
    let seen = life.store_that_kills(&volume.disk);
    life.sealed(Epoch::new(0, 2)).await;
    let _mounted = life.mount(Epoch::new(0, 2));
    assert_eq!(life.killed(&seen).await, 1);
    drop(life);
    volume.disk.restart_process();
    // What the next life replays depends on how far the dead one came; its try stands before.
    let _life = volume.life().await;
    assert_eq!(tries(&volume.disk), 2, "that of the life that died, and its own");
}

/// A mount of a copy that has replayed everything writes no try, and ends with none.
#[tokio::test]
async fn a_mount_that_serves_leaves_no_try() {
    let volume = Volume::new();
    let mut life = volume.life().await;
    life.serves(first()).await;
    life.until("no try is left", |_| tries(&volume.disk) == 0).await;
    life.end().await;
    let mut life = volume.life().await;
    life.assigned(None);
    life.lease();
    life.until("the start is good", |_| tries(&volume.disk) == 0).await;
}

/// Only what takes the process along is a crash: the process looks after a copy that fails.
#[tokio::test]
async fn a_copy_that_is_opened_anew_in_the_same_life_does_not_count() {
    let volume = Volume::new();
    let mut life = volume.life().await;
    for _ in 0..10 {
        life = life.reopen().await;
        assert_eq!((life.owner.fault(), tries(&volume.disk)), (None, 1));
    }
    life.end().await;
    assert_eq!(tries(&volume.disk), 0);
}

/// Its source believes that it takes log still.
#[tokio::test]
async fn a_passive_that_failed_and_healed_is_offered_the_log_again() {
    let volume = Volume::new();
    let log = OthersLog::new(first());
    let mut life = volume.life().await;
    life.assigned(None);
    let mut answers = life.follows(&log).await;
    life.owner.completed(Completion::StoreFailed(CopyFault::Store("gone".into())));
    let failed = RefusalReason::CopyFailed.code().0;
    assert_eq!(life.refusal(&mut answers).await, failed);
    let mut life = life.reopen().await;
    let again = RefusalReason::Activating.code().0;
    assert_eq!(life.refusal(&mut answers).await, again);
    assert_eq!(life.owner.fault(), None);
}

/// Nothing may follow them that would show the gap.
#[tokio::test]
async fn frames_that_do_not_unpack_make_the_source_offer_again() {
    let volume = Volume::new();
    let log = OthersLog::new(first());
    let mut life = volume.life().await;
    life.assigned(None);
    let mut answers = life.follows(&log).await;
    life.told(Message::FromSource(OTHER, FromSource::Garbled { epoch: log.epoch }));
    assert_eq!(life.refusal(&mut answers).await, RefusalReason::Activating.code().0);
    assert_eq!(life.owner.machine.expects(log.epoch), None);
}

#[tokio::test]
async fn a_copy_to_which_the_log_cannot_be_read_is_offered_it_again() {
    let volume = Volume::new();
    let mut life = volume.life().await;
    life.serves(first()).await;
    let (sender, mut sent) = unbounded_channel();
    life.told(Message::Session(OTHER, Some(sender)));
    let offers = |sent: &mut UnboundedReceiver<v1::SourceMessage>| {
        let offer = |message: v1::SourceMessage| match message.message {
            Some(v1::source_message::Message::Open(_)) => Some(()),
            _ => None,
        };
        std::iter::from_fn(|| sent.try_recv().ok()).find_map(offer)
    };
    life.wait("an offer", |_| offers(&mut sent)).await;
    for _ in 0..2 {
        let (epoch, chain) = (first(), CursorState::empty(STREAM).chain);
        let matched = Position::ZERO;
        let opened = FromTarget::Opened { copy: OTHER_COPY, epoch, matched, chain };
        life.told(Message::FromTarget(opened));
        let next = |owner: &Owner| owner.peers.get(&OTHER_COPY).map(|peer| peer.next);
        let from = life.wait("it is shipped to", next).await;
        let error =
            DiskError::new(Path::new("/data"), DiskVerb::Read, DiskErrorKind::Io("EIO".into()));
        life.owner.peer_read(OTHER_COPY, epoch, from, Err(LogError::Disk(error)));
        assert!(life.owner.peers.is_empty());
        assert_eq!(life.owner.unreadable, Some(from), "said once");
        life.wait("another offer", |_| offers(&mut sent)).await;
    }
}

/// A header is log, too: it waits until there is room, and is not forgotten.
#[tokio::test]
async fn an_idle_generation_is_closed_only_where_there_is_room() {
    let volume = Volume::new();
    let mut life = volume.life().await;
    life.serves(first()).await;
    let (start, before) = (Instant::now(), life.owner.cursor.position());
    life.owner.idle.wrote(start);
    volume.disk.set_quota(Some(0));
    life.owner.close_idle_generation(start + CLOSE_AFTER);
    assert_eq!(life.owner.cursor.position(), before);
    volume.disk.set_quota(None);
    life.owner.close_idle_generation(start + CLOSE_AFTER);
    assert_eq!(life.owner.cursor.position(), before, "it looks again after another silence");
    life.owner.close_idle_generation(start + 2 * CLOSE_AFTER);
    assert_eq!(life.owner.cursor.position().generation, before.generation.next());
    life.until("it is written", |owner| owner.frames_in_flight == 0).await;
    assert_eq!(life.owner.fault(), None);
}
