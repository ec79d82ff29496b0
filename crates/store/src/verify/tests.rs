//! Whatever byte of a store's files rots is found, and nothing is found where nothing rotted.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

use bytes::Bytes;
use keelson_env::{KvStore, ReplayFrame, StoreError, StoreOpener};
use keelson_types::{Epoch, HybridTime, LogEnd, Position, Record};
use tempfile::TempDir;

use crate::{StoreFactory, StoreLimits};

fn factory() -> StoreFactory {
    StoreFactory::new(&StoreLimits::default()).expect("starts")
}

/// Flushes and compacts all the time.
fn small_memtables() -> StoreFactory {
    StoreFactory::new(&StoreLimits { memtable_bytes: 64 * 1024, ..StoreLimits::default() })
        .expect("starts")
}

fn frame(number: u64) -> ReplayFrame {
    let key = |n: u64| Bytes::from(format!("{:05}", n * 7 % 400));
    let put = |n: u64| Record::Put { key: key(n), value: Bytes::from(n.to_string().repeat(30)) };
    let mut records: Vec<_> = (number * 5..number * 5 + 5).map(put).collect();
    if number.is_multiple_of(50) {
        records.push(Record::DeleteRange { from: key(100), to: key(130) });
    }
    ReplayFrame {
        end: LogEnd { epoch: Epoch::new(0, 1), position: Position::new(1, 512 + number * 100) },
        time: HybridTime::default(),
        first_sequence: number * 6,
        records,
    }
}

fn filled(factory: &StoreFactory, path: &Path) -> Arc<dyn KvStore> {
    let store = factory.open(path).expect("opens");
    for number in 1..=300 {
        store.replay(&[frame(number)]).expect("replays");
        if number % 100 == 0 {
            store.checkpoint().expect("checkpoints");
        }
    }
    store
}

fn files(path: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(path).expect("lists").map(|entry| entry.expect("reads").path());
    let mut files: Vec<_> =
        entries.filter(|path| fs::metadata(path).is_ok_and(|m| m.len() > 0)).collect();
    files.sort();
    files
}

fn flip(path: &Path, offset: usize, bit: u8) {
    let mut bytes = fs::read(path).expect("reads");
    bytes[offset] ^= 1 << bit;
    fs::write(path, bytes).expect("writes");
}

/// Flips a byte here and there in each file; names the places that a check did not see.
fn unseen(factory: &StoreFactory, path: &Path, at: Position) -> Vec<String> {
    let mut unseen = Vec::new();
    for file in files(path) {
        let length = fs::metadata(&file).expect("has one").len() as usize;
        let step = (length / 20).max(1);
        for (number, offset) in (0..length).step_by(step).enumerate() {
            let offset = (offset + number % step).min(length - 1);
            flip(&file, offset, (number % 8) as u8);
            match factory.verify(path, at, &mut |_| {}) {
                Err(StoreError::Damaged(_)) => flip(&file, offset, (number % 8) as u8),
                Ok(verified) if !verified.mended.is_empty() => {}
                other => {
                    unseen.push(format!("{}:{offset} of {length}: {other:?}", file.display()));
                    flip(&file, offset, (number % 8) as u8);
                }
            }
        }
    }
    assert!(factory.verify(path, at, &mut |_| {}).is_ok(), "all is right again");
    unseen
}

/// S15, G5: tables, manifest, `CURRENT`, `OPTIONS`, in an open store, a closed one and one that was
/// opened again.
#[test]
fn a_rotten_byte_in_any_file_is_found() {
    let temporary = TempDir::new().expect("a directory");
    let (path, factory) = (temporary.path().join("store"), factory());
    let store = filled(&factory, &path);
    let at = store.checkpointed();
    assert_eq!(unseen(&factory, &path, at), Vec::<String>::new());
    drop(store);
    assert_eq!(unseen(&factory, &path, at), Vec::<String>::new());
    // RocksDB writes an `OPTIONS` file at each opening and keeps the one before.
    drop(factory.open(&path).expect("opens again"));
    assert_eq!(unseen(&factory, &path, at), Vec::<String>::new());
    assert!(!temporary.path().join("store.scrub").exists());
}

#[test]
fn a_lost_file_and_an_older_state_are_found() {
    let temporary = TempDir::new().expect("a directory");
    let (path, factory) = (temporary.path().join("store"), factory());
    let store = filled(&factory, &path);
    let at = store.checkpointed();
    drop(store);
    let later = Position { offset: at.offset + 1, ..at };
    let older = factory.verify(&path, later, &mut |_| {});
    assert!(matches!(older, Err(StoreError::Damaged(_))), "{older:?}");
    let table = files(&path).into_iter().find(|f| f.extension().is_some_and(|e| e == "sst"));
    fs::remove_file(table.expect("a table")).expect("removes");
    let lost = factory.verify(&path, at, &mut |_| {});
    assert!(matches!(lost, Err(StoreError::Damaged(_))), "{lost:?}");
    factory.destroy(&path).expect("removes");
    assert!(!path.exists());
    factory.destroy(&path).expect("nothing is left to do");
}

#[test]
fn a_check_beside_a_busy_writer_finds_nothing() {
    let temporary = TempDir::new().expect("a directory");
    let (path, factory) = (temporary.path().join("store"), small_memtables());
    let store = filled(&factory, &path);
    thread::scope(|scope| {
        let writing = scope.spawn(|| {
            for number in 301..2_000 {
                store.replay(&[frame(number)]).expect("replays");
            }
        });
        let mut checks = 0;
        while !writing.is_finished() || checks == 0 {
            let at = store.checkpointed();
            let mut read = 0;
            factory.verify(&path, at, &mut |bytes| read += bytes).expect("sound");
            assert!(read > 0);
            checks += 1;
        }
        writing.join().expect("wrote");
    });
}
