//! The lane over a simulated disk.

use std::path::Path;

use keelson_env::SimDisk;
use keelson_format::{Cursor, CursorState, FramingConfig};
use keelson_log::LogConfig;
use keelson_types::{DatabaseId, EpochStart, LogId, Record, StoreId};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::*;

const FRAMING: FramingConfig = FramingConfig { generation_bytes: 1024 * 1024, compress: false };

struct Bench {
    disk: Arc<SimDisk>,
    worker: LogWorker,
    told: UnboundedReceiver<Completion>,
    cursor: Cursor,
}

fn bench() -> Bench {
    let disk = Arc::new(SimDisk::new());
    let (shared, directory) = (Arc::new(CopyShared::for_tests()), PathBuf::from("/data"));
    disk.create_dir_all(Path::new("/data/log")).expect("made");
    let config = LogConfig { generation_bytes: 1024 * 1024, ..LogConfig::default() };
    let log = Path::new("/data/log");
    let (log, recovery) =
        Log::open(disk.clone(), log, config, shared.stream, Position::ZERO).expect("opened");
    let (control, _) = ControlFile::open(&*disk, &directory.join("control")).expect("opened");
    let record = ControlRecord::new(
        shared.copy,
        DatabaseId::from_bytes([7; 16]),
        shared.stream,
        LogId::from_bytes([1; 16]),
        StoreId::from_bytes([1; 16]),
    );
    let state: CursorState = recovery.state;
    let mut cursor = Cursor::new(state, FRAMING);
    let (done, told) = unbounded_channel();
    let (broken, refusing) = (false, false);
    let mut worker = LogWorker {
        shared,
        log,
        control,
        record,
        done,
        broken,
        refusing,
        generation_bytes: 1024 * 1024,
        syncs: Arc::default(),
        meters: Arc::default(),
        places: Places {
            disk: disk.clone(),
            data: directory.clone(),
            logs: directory.clone(),
            noting: Arc::default(),
            volumes: Arc::default(),
        },
        opener: Arc::new(keelson_env::MemStoreOpener::new()),
        disk: disk.clone(),
        directory,
    };
    let (header, _) = cursor.begin_epoch(Epoch::new(0, 1), 1).expect("begun");
    worker.work(vec![LogJob::Write { chunks: vec![header], end: cursor.end() }]);
    Bench { disk, worker, told, cursor }
}

impl Bench {
    fn frame(&mut self, bytes: usize) -> LogJob {
        let record = Record::Put { key: "k".into(), value: vec![7; bytes].into() };
        let encoded = self.cursor.encode(&[record], 1, Position::ZERO, Position::ZERO);
        let encoded = encoded.expect("small");
        LogJob::Write { chunks: encoded.chunks, end: encoded.frame.end() }
    }

    fn told(&mut self) -> Vec<&'static str> {
        let told = std::iter::from_fn(|| self.told.try_recv().ok());
        told.map(|completion| match completion {
            Completion::Logged { .. } => "logged",
            Completion::LogFailed(CopyFault::DiskFull) => "full",
            Completion::LogCut { .. } => "cut",
            Completion::ControlSaved(_) => "saved",
            _ => "other",
        })
        .collect()
    }
}

/// A passive on a full volume came back only by a restart: its lane had dropped the cut.
#[test]
fn a_write_without_space_leaves_the_log_open_for_seals_and_a_cut() {
    let mut bench = bench();
    let first = bench.frame(100);
    bench.worker.work(vec![first]);
    assert_eq!(bench.told(), ["logged", "logged"]);
    let good = bench.worker.log.durable_end();
    bench.disk.set_quota(Some(0));
    let frames = vec![bench.frame(300_000), bench.frame(10)];
    bench.worker.work(frames);
    let table = EpochTable::new();
    bench.worker.work(vec![LogJob::Control { save: 1, sealed: Epoch::new(0, 2), table }]);
    let to = good.position;
    bench.worker.work(vec![LogJob::Cut { to, then: AfterCut::Machine }]);
    assert_eq!(bench.told(), ["full", "saved", "cut"]);
    bench.disk.set_quota(None);
    let state = bench.worker.log.state_at(to).expect("a border");
    bench.cursor = Cursor::new(state, FRAMING);
    let again = bench.frame(100);
    bench.worker.work(vec![again]);
    assert_eq!(bench.told(), ["logged"]);
    assert!(bench.worker.log.durable_end() > good);
}

/// A log of epoch 1 whose fork, epoch 3, is saved in the control file; gives where it begins.
fn forked() -> (Bench, Position) {
    let mut bench = bench();
    let first = bench.frame(100);
    bench.worker.work(vec![first]);
    let fork = bench.cursor.end().position;
    let (header, row) = bench.cursor.begin_epoch(Epoch::new(0, 3), 1).expect("begun");
    bench.worker.work(vec![LogJob::Write { chunks: vec![header], end: bench.cursor.end() }]);
    let frame = bench.frame(100);
    let mut table = EpochTable::new();
    table
        .push(EpochStart { epoch: Epoch::new(0, 1), previous_end: Position::ZERO, chain: 0 })
        .expect("the first");
    table.push(row).expect("rising");
    bench.worker.work(vec![frame, LogJob::Control { save: 1, sealed: Epoch::new(0, 5), table }]);
    (bench, fork)
}

/// What an activation does that pulls the rest of an epoch: it cuts its fork and goes on behind.
fn cut_and_go_on(bench: &mut Bench, fork: Position) {
    bench.worker.work(vec![LogJob::Cut { to: fork, then: AfterCut::Pull }]);
    let Ok(state) = bench.worker.log.state_at(fork) else { return };
    bench.cursor = Cursor::new(state, FRAMING);
    let frames = vec![bench.frame(200), bench.frame(200)];
    bench.worker.work(frames);
}

/// Nothing saves the table between the cut of a fork and the next epoch: the log goes on past the
/// place where the fork began, and its row must be gone by then, wherever the power fails.
#[test]
fn no_crash_around_a_cut_leaves_an_epoch_of_the_fork() {
    let (mut bench, fork) = forked();
    let before = bench.disk.operations();
    cut_and_go_on(&mut bench, fork);
    let steps = bench.disk.operations() - before;
    assert!(steps > 4, "{steps} steps");
    let mut went_on = 0;
    for (step, seed) in (1..=steps + 1).flat_map(|step| (0..4).map(move |seed| (step, seed))) {
        let (mut bench, fork) = forked();
        bench.disk.crash_at(bench.disk.operations() + step);
        cut_and_go_on(&mut bench, fork);
        bench.disk.crash(seed);
        let (_, record) =
            ControlFile::open(&*bench.disk, Path::new("/data/control")).expect("readable");
        let record = record.expect("written");
        let config = LogConfig { generation_bytes: 1024 * 1024, ..LogConfig::default() };
        let (disk, stream) = (bench.disk.clone(), bench.worker.shared.stream);
        let opened = Log::open(disk, Path::new("/data/log"), config, stream, record.durable_floor);
        let (_, recovery) = opened.expect("readable");
        let found = crate::open::epochs_of(&record.epoch_table, &recovery).last_epoch();
        let end = recovery.state.end;
        assert_eq!(found, end.epoch, "step {step}, seed {seed}: the log ends at {end}");
        went_on += usize::from(end.epoch == Epoch::new(0, 1) && end.position > fork);
    }
    assert!(went_on > 0, "no case went on behind the fork");
}
