//! Whatever rots in a store, what is rescued is right outside of what is named as lost, and little
//! is lost where a little rotted.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use keelson_env::{KvStore, ReplayFrame, Rescued, StoreItem, StoreOpener};
use keelson_types::{
    Epoch, HybridTime, LogEnd, Position, Record, SessionId, SessionRecord, Span, StoreKey,
};
use tempfile::TempDir;

use crate::{StoreFactory, StoreLimits};

fn end(number: u64) -> LogEnd {
    LogEnd { epoch: Epoch::new(0, 1), position: Position::new(1, 512 + number * 100) }
}

fn key(number: u64) -> Bytes {
    Bytes::from(format!("{:05}", number * 7 % 1_500))
}

fn frame(number: u64) -> ReplayFrame {
    let put = |n: u64| Record::Put { key: key(n), value: Bytes::from(n.to_string().repeat(30)) };
    let session = SessionId::from_u128(u128::from(number % 40) << 64);
    let mut records: Vec<_> = (number * 5..number * 5 + 5).map(put).collect();
    records.push(Record::Session { session, change: SessionRecord::Open });
    records.push(Record::Delete { key: key(number * 11) });
    if number.is_multiple_of(50) {
        records.push(Record::DeleteRange { from: key(100), to: key(130) });
    }
    let time = HybridTime::from_unix_millis(number * 10_000);
    ReplayFrame { end: end(number), time, first_sequence: number * 9, records }
}

/// Frames up to `last`: the first half in one table of the last level, the rest in two above it.
fn filled(path: &Path, last: u64) -> StoreFactory {
    let factory = StoreFactory::new(&StoreLimits::default()).expect("starts");
    let store = factory.open(path).expect("opens");
    let quarter = last / 4;
    for number in 1..=last {
        store.replay(&[frame(number)]).expect("replays");
        let part = if number <= 2 * quarter { quarter / 2 } else { quarter };
        if number % part == 0 {
            store.checkpoint().expect("checkpoints");
        }
        // Four tables are as many as it takes for them to be merged.
        while number == 2 * quarter && files(path, "sst").len() > 1 {
            std::thread::yield_now();
        }
    }
    drop(store);
    factory
}

fn content(factory: &StoreFactory, path: &Path) -> BTreeMap<StoreKey, Bytes> {
    let store = factory.open(path).expect("opens");
    let snapshot = store.snapshot().expect("taken");
    let items = snapshot.read_span(&Span::all(), usize::MAX, usize::MAX);
    let items: Vec<StoreItem> = items.expect("every block can be read");
    items.into_iter().collect()
}

/// Closing goes on beside us, and removes tables that are not needed any more.
fn closed(factory: &StoreFactory, path: &Path) {
    while factory.in_use(path) {
        std::thread::yield_now();
    }
}

fn files(path: &Path, extension: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(path).expect("lists").map(|entry| entry.expect("reads").path());
    let wanted = |path: &PathBuf| path.extension().is_some_and(|found| found == extension);
    let mut files: Vec<_> = entries.filter(wanted).collect();
    files.sort();
    files
}

fn flip(path: &Path, offset: usize) {
    let mut bytes = fs::read(path).expect("reads");
    bytes[offset] ^= 0x10;
    fs::write(path, bytes).expect("writes");
}

fn assert_right(
    rescued: &Rescued,
    expected: &BTreeMap<StoreKey, Bytes>,
    found: &BTreeMap<StoreKey, Bytes>,
) {
    let outside = |key: &StoreKey| !rescued.lost.iter().any(|span| span.covers(key));
    let kept = |content: &BTreeMap<StoreKey, Bytes>| {
        let kept = content.iter().filter(|(key, _)| outside(key));
        kept.map(|(key, value)| (key.clone(), value.clone())).collect::<Vec<_>>()
    };
    assert_eq!(kept(found), kept(expected), "{rescued:?}");
}

/// S15: what was fetched makes the store whole, and its log can go on.
fn repair(store: &dyn KvStore, rescued: &Rescued, expected: &BTreeMap<StoreKey, Bytes>) {
    let wanted = |key: &StoreKey| rescued.lost.iter().any(|span| span.covers(key));
    let items = expected.iter().filter(|(key, _)| wanted(key));
    let items: Vec<_> = items.map(|(key, value)| (key.clone(), value.clone())).collect();
    store.overwrite(&rescued.lost, &items).expect("overwritten");
    store.checkpoint().expect("checkpointed");
}

#[test]
fn a_byte_of_a_table_costs_a_few_keys_and_none_outside_of_what_is_named() {
    const LAST: u64 = 400;
    let directory = TempDir::new().expect("made");
    let (path, to) = (directory.path().join("store"), directory.path().join("new"));
    let factory = filled(&path, LAST);
    let expected = content(&factory, &path);
    let digest = |path: &Path| {
        let store = factory.open(path).expect("opens");
        store.snapshot().expect("taken").digest().expect("read")
    };
    let right = digest(&path);
    closed(&factory, &path);
    let tables = files(&path, "sst");
    assert_eq!(tables.len(), 3, "{tables:?}");
    let (mut small, mut positions_lost, mut all) = (0, 0, 0);
    for table in &tables {
        let length = fs::metadata(table).expect("has one").len() as usize;
        for offset in (0..12).map(|part| part * (length - 1) / 11) {
            flip(table, offset);
            let rescued = factory.rescue(&path, &to, end(3)).expect("rescued");
            let found = content(&factory, &to);
            assert_right(&rescued, &expected, &found);
            let is_lost = |key: &&StoreKey| rescued.lost.iter().any(|span| span.covers(key));
            let lost = expected.keys().filter(is_lost).count();
            all += 1;
            small += usize::from(rescued.lost.len() == 1 && lost < expected.len() / 5);
            let store = factory.open(&to).expect("opens");
            match rescued.at {
                Some(at) => assert_eq!(at, end(LAST)),
                None => positions_lost += 1,
            }
            assert_eq!(store.replayed(), rescued.at.unwrap_or(end(3)), "{rescued:?}");
            repair(&*store, &rescued, &expected);
            // Frames repeated over what has them already change nothing.
            let again = (1..=LAST).filter(|number| end(*number) > store.replayed());
            again.for_each(|number| store.replay(&[frame(number)]).expect("replays"));
            let idle = store.idle_sessions(HybridTime(u64::MAX), 1_000).expect("read");
            assert_eq!(idle.len(), 40, "each session once in the index");
            store.checkpoint().expect("checkpointed");
            drop(store);
            assert_eq!(digest(&to), right, "offset {offset} of {table:?}");
            flip(table, offset);
        }
    }
    assert!(small * 3 > all, "only {small} of {all} damages cost little");
    assert!(positions_lost > 0 && positions_lost < all, "{positions_lost} of {all}");
    let rescued = factory.rescue(&path, &to, end(3)).expect("rescued");
    assert_eq!(rescued, Rescued { lost: vec![], lost_bytes: 0, at: Some(end(LAST)) });
    assert_eq!(digest(&to), right, "nothing was wrong");
    assert_eq!(digest(&path), right, "the old one was not touched");
    assert!(!directory.path().join("store.rescue").exists());
}

#[test]
fn a_table_that_is_gone_or_cut_off_costs_its_range() {
    let directory = TempDir::new().expect("made");
    let (path, to) = (directory.path().join("store"), directory.path().join("new"));
    let factory = filled(&path, 200);
    let expected = content(&factory, &path);
    closed(&factory, &path);
    for table in files(&path, "sst") {
        let bytes = fs::read(&table).expect("reads");
        for length in [None, Some(bytes.len() / 2)] {
            match length {
                Some(length) => fs::write(&table, &bytes[..length]).expect("writes"),
                None => fs::remove_file(&table).expect("removes"),
            }
            let rescued = factory.rescue(&path, &to, end(3)).expect("rescued");
            assert!(!rescued.lost.is_empty() && rescued.lost_bytes > 0);
            assert_right(&rescued, &expected, &content(&factory, &to));
            fs::write(&table, &bytes).expect("writes");
        }
    }
}

#[test]
fn without_its_list_of_tables_everything_of_a_store_is_lost() {
    let directory = TempDir::new().expect("made");
    let (path, to) = (directory.path().join("store"), directory.path().join("new"));
    let factory = filled(&path, 100);
    closed(&factory, &path);
    let everything = |rescued: Rescued| {
        assert_eq!((&rescued.lost[..], rescued.at), (&[Span::all()][..], None), "{rescued:?}");
        let store = factory.open(&to).expect("opens");
        assert_eq!(store.replayed(), end(30));
        drop(store);
        assert!(content(&factory, &to).is_empty());
    };
    flip(&path.join("CURRENT"), 3);
    everything(factory.rescue(&path, &to, end(30)).expect("rescued"));
    flip(&path.join("CURRENT"), 3);
    let name = fs::read_to_string(path.join("CURRENT")).expect("reads");
    let manifest = path.join(name.trim());
    flip(&manifest, 30);
    everything(factory.rescue(&path, &to, end(30)).expect("rescued"));
    flip(&manifest, 30);
    // A store that is older than the log that is left.
    let rescued = factory.rescue(&path, &to, end(101)).expect("rescued");
    assert_eq!((rescued.lost, rescued.at), (vec![Span::all()], None));
}
