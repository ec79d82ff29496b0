//! Tests of `rocks_store`.

use std::fs;
use std::path::PathBuf;

use keelson_env::StoreOpener;
use keelson_env::kv_suite::{
    CASES, applied, contents, delete_range, digest, frame, mixed_frames, model_digest, put, session,
};
use keelson_types::{Record, SessionRecord};
use tempfile::TempDir;

use super::*;
use crate::{StoreFactory, StoreLimits};

fn factory() -> StoreFactory {
    StoreFactory::new(&StoreLimits::default()).expect("factory")
}

/// Memtables so small that RocksDB flushes by itself all the time.
fn small_memtables() -> StoreFactory {
    let limits = StoreLimits { memtable_bytes: 64 * 1024, ..StoreLimits::default() };
    StoreFactory::new(&limits).expect("factory")
}

fn directory() -> (TempDir, PathBuf) {
    let temporary = TempDir::new().expect("temporary directory");
    let path = temporary.path().join("databases/db/store-1");
    (temporary, path)
}

fn tables(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).expect("list").map(|entry| entry.expect("entry").path());
    entries.filter(|path| path.extension().is_some_and(|x| x == "sst")).collect()
}

fn value(index: u64, length: usize) -> Vec<u8> {
    let mut state = index;
    let mut byte = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        state.to_be_bytes()[0]
    };
    std::iter::repeat_with(&mut byte).take(length).collect()
}

/// Frames of one incompressible KiB each.
fn filling_frames(count: u64) -> Vec<ReplayFrame> {
    let record = |index: u64| vec![put(format!("key-{:06}", index % 5_000), value(index, 1_024))];
    (1..=count).map(|index| frame(index * 1_100, record(index))).collect()
}

#[test]
fn passes_the_suite() {
    let (_temporary, path) = directory();
    let factory = factory();
    for (name, case) in CASES {
        case(&factory, &path.join(name));
    }
}

#[test]
fn passes_the_suite_with_small_memtables() {
    let (_temporary, path) = directory();
    let factory = small_memtables();
    let waits_for_no_flush = |name: &str| name != "a_checkpoint_survives_the_handle";
    for (name, case) in CASES.iter().filter(|(name, _)| waits_for_no_flush(name)) {
        case(&factory, &path.join(name));
    }
}

#[test]
fn a_store_dropped_at_any_time_reopens_at_a_border_not_before_the_checkpoint() {
    let (_temporary, path) = directory();
    let factory = small_memtables();
    let frames = filling_frames(3_000);
    let mut replayed = 0;
    let mut beyond_checkpoint = false;
    for round in [100, 7, 450, 1, 900, 333] {
        let store = factory.open(&path).expect("open");
        assert_eq!(store.replayed().position, store.checkpointed());
        let target = (replayed + round).min(frames.len());
        let checkpoint_at = replayed + round / 3;
        store.replay(&frames[replayed..checkpoint_at]).expect("replay");
        let checkpoint = store.checkpoint().expect("checkpoint");
        for piece in frames[checkpoint_at..target].chunks(17) {
            store.replay(piece).expect("replay");
        }
        let known = store.checkpointed();
        drop(store);
        let store = factory.open(&path).expect("open");
        let at = store.replayed();
        assert!(at.position >= known && known >= checkpoint, "{at} {known} {checkpoint}");
        beyond_checkpoint |= at.position > checkpoint;
        replayed = if at == LogEnd::ZERO {
            0
        } else {
            frames.iter().position(|frame| frame.end == at).expect("a border") + 1
        };
        assert_eq!(digest(&store), model_digest(&frames[..replayed]));
    }
    assert!(beyond_checkpoint, "no memtable was flushed by itself; the test shows too little");
}

#[test]
fn full_memtables_move_the_checkpoint() {
    let (_temporary, path) = directory();
    let store = small_memtables().open(&path).expect("open");
    let mut last = Position::ZERO;
    for piece in filling_frames(600).chunks(10) {
        store.replay(piece).expect("replay");
        let now = store.checkpointed();
        assert!(now >= last, "the checkpoint went back from {last} to {now}");
        assert!(now <= store.replayed().position);
        last = now;
    }
    let deadline = Instant::now() + Duration::from_secs(30);
    while store.checkpointed() == Position::ZERO {
        assert!(Instant::now() < deadline, "no flush was seen");
        thread::yield_now();
    }
}

#[test]
fn a_damaged_table_is_found_when_it_is_read() {
    let (_temporary, path) = directory();
    let factory = factory();
    let store = factory.open(&path).expect("open");
    store.replay(&filling_frames(500)).expect("replay");
    store.checkpoint().expect("checkpoint");
    drop(store);
    let table = tables(&path).pop().expect("a table");
    let mut bytes = fs::read(&table).expect("read");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&table, bytes).expect("write");
    // Another factory: the first one has the blocks in its cache. It does not know that the store
    // is being closed on a thread of the first one.
    let other = StoreFactory::new(&StoreLimits::default()).expect("factory");
    let deadline = Instant::now() + Duration::from_secs(30);
    let store = loop {
        match other.open(&path) {
            Ok(store) => break store,
            Err(error) if error.to_string().contains("LOCK") && Instant::now() < deadline => {
                thread::yield_now();
            }
            Err(error) => panic!("data blocks are not read at open: {error}"),
        }
    };
    let snapshot = store.snapshot().expect("snapshot");
    let scan = snapshot.scan(&[], None, usize::MAX, usize::MAX);
    assert!(matches!(scan, Err(StoreError::Damaged(_))), "{:?}", scan.map(|items| items.len()));
    assert!(matches!(snapshot.digest(), Err(StoreError::Damaged(_))));
    let reads = (0..5_000).map(|index| snapshot.get(format!("key-{index:06}").as_bytes()));
    let damaged = reads.filter(|read| matches!(read, Err(StoreError::Damaged(_)))).count();
    assert!((1..50).contains(&damaged), "{damaged} keys are lost with one block");
}

#[test]
fn a_store_without_its_manifest_is_not_created_anew() {
    let (_temporary, path) = directory();
    let factory = factory();
    let store = factory.open(&path).expect("open");
    store.replay(&filling_frames(10)).expect("replay");
    store.checkpoint().expect("checkpoint");
    drop(store);
    let table = tables(&path).pop().expect("a table");
    let (current, kept) = (path.join("CURRENT"), path.join("kept"));
    fs::rename(&current, &kept).expect("rename");
    assert!(matches!(factory.open(&path), Err(StoreError::Damaged(_))));
    let manifest = path.join(fs::read_to_string(&kept).expect("read").trim());
    let kept_manifest = path.join("kept-manifest");
    fs::rename(&manifest, &kept_manifest).expect("rename");
    assert!(matches!(factory.open(&path), Err(StoreError::Damaged(_))));
    fs::rename(&kept_manifest, &manifest).expect("rename");
    fs::rename(&kept, &current).expect("rename");
    fs::remove_file(table).expect("remove");
    assert!(matches!(factory.open(&path), Err(StoreError::Damaged(_))));
}

#[test]
fn a_store_of_a_newer_version_is_refused() {
    let (_temporary, path) = directory();
    let factory = factory();
    let store = factory.open_store(&path).expect("open");
    store.replay(&[frame(10, vec![put("a", "1")])]).expect("replay");
    let newer = (keys::FORMAT_VERSION + 1).to_le_bytes();
    store.db.put_opt(keys::VERSION_KEY, newer, &store.write_options).expect("put");
    store.checkpoint().expect("checkpoint");
    drop(store);
    let error = factory.open(&path).err().expect("refused");
    let known = keys::FORMAT_VERSION;
    assert!(
        matches!(error, StoreError::NewerFormat { found, known: k } if found == k + 1 && k == known)
    );
    assert_eq!(error.to_string(), "the store has format 2, this version knows formats up to 1");
}

#[test]
fn a_failed_flush_closes_the_store_to_writes_until_it_is_reopened() {
    let (_temporary, path) = directory();
    let factory = factory();
    let frames = mixed_frames(6, 40);
    let store = factory.open(&path).expect("open");
    store.replay(&frames[..20]).expect("replay");
    store.checkpoint().expect("checkpoint");
    store.replay(&frames[20..30]).expect("replay");
    let moved = path.with_extension("moved");
    fs::rename(&path, &moved).expect("rename");
    assert!(matches!(store.checkpoint(), Err(StoreError::Failed(_))));
    fs::rename(&moved, &path).expect("rename");
    assert!(matches!(store.replay(&frames[30..]), Err(StoreError::Failed(_))));
    assert!(matches!(store.checkpoint(), Err(StoreError::Failed(_))));
    assert_eq!(digest(&store), model_digest(&frames[..30]), "reads go on");
    drop(store);
    let store = factory.open(&path).expect("open");
    assert_eq!(store.replayed(), frames[19].end);
    store.replay(&frames[20..]).expect("replay");
    assert_eq!(digest(&store), model_digest(&frames));
}

#[test]
fn after_a_failure_that_rocksdb_survives_the_store_stays_closed_too() {
    let (_temporary, path) = directory();
    let factory = factory();
    let store = factory.open_store(&path).expect("open");
    store.replay(&[frame(10, vec![session(1, SessionRecord::Open)])]).expect("replay");
    let key = keys::session_key(SessionId::from_u128(1));
    store.db.put_opt(key, "rubbish", &store.write_options).expect("put");
    let refused = store.replay(&[frame(20, vec![put("a", "1"), applied(1, 1, 1)])]);
    assert!(matches!(refused, Err(StoreError::Damaged(_))));
    assert!(matches!(store.replay(&[frame(20, vec![])]), Err(StoreError::Damaged(_))));
    assert!(matches!(store.checkpoint(), Err(StoreError::Damaged(_))));
    assert_eq!(store.get(b"a").expect("get"), None, "a part of the refused batch was applied");
    drop(store);
    assert_eq!(factory.open(&path).expect("open").replayed(), LogEnd::ZERO);
}

#[test]
fn many_range_deletes_start_a_flush() {
    let (_temporary, path) = directory();
    let factory = factory();
    let store = factory.open(&path).expect("open");
    let range = || delete_range(b"a", b"b");
    let count = usize::try_from(RANGE_TOMBSTONES_MAX).expect("small");
    store.replay(&[frame(10, (1..count).map(|_| range()).collect())]).expect("replay");
    assert_eq!(store.checkpointed(), Position::ZERO);
    store.replay(&[frame(20, vec![put("a1", "1"), range(), put("a2", "2")])]).expect("replay");
    let deadline = Instant::now() + Duration::from_secs(30);
    while store.checkpointed() == Position::ZERO {
        assert!(Instant::now() < deadline, "no flush was started");
        thread::yield_now();
    }
    assert_eq!(store.checkpointed(), Position::new(1, 20));
    assert_eq!(contents(&store).len(), 1);
}

#[test]
fn a_checkpoint_taken_beside_replay_stands_at_a_border() {
    let (_temporary, path) = directory();
    let factory = factory();
    let frames = filling_frames(40_000);
    let store = factory.open(&path.join("source")).expect("open");
    store.replay(&frames[..100]).expect("replay");
    let target = path.join("deep/below/target");
    let done = AtomicBool::new(false);
    let end = thread::scope(|scope| {
        scope.spawn(|| {
            for piece in frames[100..].chunks(5) {
                store.replay(piece).expect("replay");
                if done.load(Ordering::Acquire) {
                    break;
                }
            }
        });
        let end = store.create_checkpoint(&target).expect("checkpoint");
        done.store(true, Ordering::Release);
        end
    });
    assert!(end.position >= frames[99].end.position);
    let copy = factory.open(&target).expect("open");
    assert_eq!(copy.replayed(), end);
    let count = frames.iter().position(|frame| frame.end == end).expect("a border") + 1;
    assert_eq!(digest(&copy), model_digest(&frames[..count]));
}

#[test]
fn readers_beside_a_writer_see_borders_only() {
    let (_temporary, path) = directory();
    let store: Arc<dyn KvStore> = Arc::new(small_memtables().open_store(&path).expect("open"));
    let record = |index: u64| -> Vec<Record> {
        let text = index.to_string();
        vec![put("a", text.clone()), put("b", value(index, 300)), put("z", text)]
    };
    let frames: Vec<_> = (1..=2_000).map(|index| frame(index, record(index))).collect();
    thread::scope(|scope| {
        let replaying = scope.spawn(|| {
            frames.chunks(3).for_each(|piece| store.replay(piece).expect("replay"));
        });
        while !replaying.is_finished() {
            let snapshot = store.clone().snapshot().expect("snapshot");
            let at = snapshot.at().position.offset;
            let expected = (at > 0).then(|| Bytes::from(at.to_string()));
            assert_eq!(snapshot.get(b"a").expect("get"), expected);
            assert_eq!(snapshot.get(b"z").expect("get"), expected);
            assert!(store.checkpointed() <= store.replayed().position);
        }
        replaying.join().expect("replayed");
    });
}

#[test]
fn size_grows_with_what_is_flushed() {
    let (_temporary, path) = directory();
    let store = factory().open(&path).expect("open");
    store.replay(&filling_frames(1_000)).expect("replay");
    store.checkpoint().expect("checkpoint");
    assert!((1_000_000..1_300_000).contains(&store.size_bytes()), "{}", store.size_bytes());
}

#[test]
fn memory_of_memtables_is_shared_and_reported() {
    let (_temporary, path) = directory();
    let factory = factory();
    let stores: Vec<_> =
        (0..3).map(|i| factory.open(&path.join(i.to_string())).expect("open")).collect();
    for store in &stores {
        store.replay(&filling_frames(1_000)).expect("replay");
    }
    let memory = factory.memory();
    assert!(memory.memtables_bytes >= 3_000_000 && memory.total_bytes >= memory.memtables_bytes);
    for store in &stores {
        store.checkpoint().expect("checkpoint");
    }
    assert!(factory.memory().memtables_bytes < memory.memtables_bytes / 2);
}

/// The last handle may go in any thread, while another one wants the store again.
#[test]
fn a_store_is_opened_while_another_thread_lets_it_go() {
    let (_temporary, path) = directory();
    let factory = small_memtables();
    for round in 0..60 {
        let store = factory.open(&path).expect("open");
        store.replay(&filling_frames(200)[usize::from(round > 0) * 200..]).expect("replay");
        let held = Arc::downgrade(&store);
        let lets_go = thread::spawn(move || drop(store));
        while held.strong_count() > 0 {
            std::hint::spin_loop();
        }
        // As the slot of a copy does it: nobody holds it, but maybe it is not closed.
        let opened = loop {
            match factory.open(&path) {
                Err(StoreError::InUse) => thread::yield_now(),
                opened => break opened,
            }
        };
        let failed = opened.as_ref().err().map(ToString::to_string);
        assert_eq!(failed, None, "round {round}");
        lets_go.join().expect("let go");
    }
    assert!(!factory.in_use(&path.join("other")));
}
