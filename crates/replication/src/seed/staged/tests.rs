//! The staged log over a simulated disk: how it grows, and what a crash leaves of it.

use keelson_env::SimDisk;
use keelson_format::{Cursor, FramingConfig, SeedFile};
use keelson_types::{CheckpointId, CopyId, DatabaseId, Epoch, Position, Record, StreamId};

use super::*;

const STREAM: StreamId = StreamId::from_u128(9);
const FRAMING: FramingConfig = FramingConfig { generation_bytes: 1024 * 1024, compress: false };

/// What another copy holds: a checkpoint, and log behind it.
struct Source {
    cursor: Cursor,
    manifest: SeedManifest,
}

impl Source {
    /// A checkpoint of a few frames that lies in staging.
    fn staged(disk: &Arc<SimDisk>) -> Self {
        let cursor = Cursor::new(CursorState::empty(STREAM), FRAMING);
        let mut manifest = SeedManifest {
            checkpoint: CheckpointId::from_u128(5),
            database: DatabaseId::from_u128(7),
            stream: STREAM,
            source: CopyId::from_u128(3),
            at: LogEnd::ZERO,
            epochs: EpochTable::new(),
            files: Vec::new(),
        };
        let mut this = Self { cursor, manifest: manifest.clone() };
        let mut chunks = vec![this.epoch(1)];
        chunks.extend((0..3).flat_map(|_| this.frame(1_000)));
        let shared: Arc<dyn Disk> = disk.clone();
        let config = LogConfig { zero_ahead_bytes: 0, ..LogConfig::default() };
        let (mut log, _) =
            Log::open(shared, place(), config, STREAM, Position::ZERO).expect("opened");
        log.write(&chunks).expect("written");
        log.sync().expect("synced");
        drop(log);
        for entry in disk.list(place()).expect("listed") {
            let file = disk.open(&place().join(&entry.name)).expect("opened");
            let end = this.cursor.position().offset;
            file.set_len(end).expect("cut");
            file.sync().expect("synced");
            let (place, name) = (SeedPlace::Log, entry.name);
            manifest.files.push(SeedFile { place, name, bytes: end, digest: 0 });
        }
        manifest.at = this.cursor.end();
        manifest.epochs.clone_from(&this.manifest.epochs);
        this.manifest = manifest;
        this
    }

    fn epoch(&mut self, counter: u64) -> Chunk {
        let (header, start) = self.cursor.begin_epoch(Epoch::new(0, counter), 1).expect("it rises");
        self.manifest.epochs.push(start).expect("it rises");
        header
    }

    fn frame(&mut self, bytes: usize) -> Vec<Chunk> {
        let record = Record::Put { key: "k".into(), value: vec![7; bytes].into() };
        let encoded = self.cursor.encode(&[record], 1, Position::ZERO, Position::ZERO);
        encoded.expect("small").chunks
    }
}

fn place() -> &'static Path {
    Path::new("/staging")
}

fn open(disk: &Arc<SimDisk>, manifest: &SeedManifest) -> Option<StagedLog> {
    let disk: Arc<dyn Disk> = disk.clone();
    StagedLog::open(&disk, place(), manifest).expect("the disk works")
}

/// Behind the checkpoint it takes frames, generations and epochs, and knows them when it is opened
/// again.
#[test]
fn it_goes_on_behind_the_checkpoint() {
    let disk = Arc::new(SimDisk::new());
    let mut source = Source::staged(&disk);
    let manifest = source.manifest.clone();
    let mut log = open(&disk, &manifest).expect("whole");
    assert_eq!((log.end(), log.durable(), log.bytes_behind()), (manifest.at, manifest.at, 0));
    let mut chunks: Vec<_> = (0..3).flat_map(|_| source.frame(500_000)).collect();
    chunks.push(source.epoch(2));
    chunks.extend(source.frame(10));
    for chunk in &chunks {
        log.append(chunk.clone()).expect("it goes on");
    }
    assert_eq!(log.durable(), manifest.at, "nothing is synced");
    log.sync().expect("synced");
    let end = source.cursor.end();
    assert_eq!((log.end(), log.durable()), (end, end));
    assert_eq!(log.table().last_epoch(), Epoch::new(0, 2));
    assert!(log.bytes_behind() > 1_500_000, "{}", log.bytes_behind());
    log.append(chunks[0].clone()).expect("it is here already");
    assert_eq!(log.end(), end);
    drop(log);
    let log = open(&disk, &manifest).expect("whole");
    assert_eq!((log.end(), log.table()), (end, &source.manifest.epochs));
}

/// A crash may keep the header of a generation and lose its frames.
#[test]
fn it_goes_on_behind_a_generation_without_a_frame() {
    let disk = Arc::new(SimDisk::new());
    let mut source = Source::staged(&disk);
    let manifest = source.manifest.clone();
    let header = source.epoch(2);
    let frames = source.frame(10);
    let mut log = open(&disk, &manifest).expect("whole");
    log.append(header.clone()).expect("it goes on");
    log.sync().expect("synced");
    drop(log);
    let mut log = open(&disk, &manifest).expect("whole");
    assert_eq!(log.end(), manifest.at);
    let both = [header.bytes, frames[0].bytes.clone()].concat();
    log.append(Chunk::new(header.position, both.into())).expect("the header is here");
    assert_eq!(log.end(), source.cursor.end());
}

#[test]
fn what_does_not_continue_it_is_refused_and_changes_nothing() {
    let disk = Arc::new(SimDisk::new());
    let mut source = Source::staged(&disk);
    let manifest = source.manifest.clone();
    let mut log = open(&disk, &manifest).expect("whole");
    let (lost, next) = (source.frame(10), source.frame(10));
    assert!(matches!(log.append(next[0].clone()), Err(NotTaken::Wrong(_))), "a gap");
    let mut rotten = lost[0].bytes.to_vec();
    *rotten.last_mut().expect("some") ^= 1;
    let rotten = Chunk::new(lost[0].position, rotten.into());
    assert!(matches!(log.append(rotten), Err(NotTaken::Wrong(_))), "a checksum");
    for chunk in lost.into_iter().chain(next) {
        log.append(chunk).expect("it goes on");
    }
    assert_eq!(log.end(), source.cursor.end());
}

/// A crash of the machine takes what was not synced, at worst back to what was durable.
#[test]
fn a_crash_keeps_what_was_durable() {
    for seed in 0..20 {
        let disk = Arc::new(SimDisk::new());
        let mut source = Source::staged(&disk);
        let manifest = source.manifest.clone();
        let mut log = open(&disk, &manifest).expect("whole");
        source.frame(5_000).into_iter().for_each(|chunk| log.append(chunk).expect("taken"));
        log.sync().expect("synced");
        let durable = log.durable();
        let more: Vec<_> = (0..4).flat_map(|_| source.frame(300_000)).collect();
        more.into_iter().for_each(|chunk| log.append(chunk).expect("taken"));
        drop(log);
        disk.crash(seed);
        let log = open(&disk, &manifest).expect("whole");
        assert!(log.end().position >= durable.position, "crash {seed}: {}", log.end());
    }
}

/// Rotten log behind the checkpoint is fetched once more; the checkpoint's own stays.
#[test]
fn damage_takes_it_back_to_the_checkpoint() {
    let disk = Arc::new(SimDisk::new());
    let mut source = Source::staged(&disk);
    let manifest = source.manifest.clone();
    let mut log = open(&disk, &manifest).expect("whole");
    for _ in 0..4 {
        source.frame(600_000).into_iter().for_each(|chunk| log.append(chunk).expect("taken"));
        log.sync().expect("synced");
    }
    drop(log);
    let first = disk.list(place()).expect("listed").remove(0).name;
    assert!(disk.list(place()).expect("listed").len() > 1);
    let path = place().join(&first);
    assert!(disk.flip_bit(&path, manifest.at.position.offset + 300_000, 1));
    let log = open(&disk, &manifest).expect("the checkpoint is whole");
    assert!(log.end().position < source.cursor.end().position, "what is behind is gone");
    assert!(log.end() >= manifest.at);
    drop(log);
    assert!(disk.flip_bit(&path, manifest.at.position.offset - 10, 1));
    assert!(open(&disk, &manifest).is_none(), "the new copy mends it");
}

#[test]
fn a_checkpoint_without_log_has_none() {
    let disk = Arc::new(SimDisk::new());
    let manifest = SeedManifest { files: Vec::new(), ..Source::staged(&disk).manifest };
    assert!(open(&disk, &manifest).is_none());
}
