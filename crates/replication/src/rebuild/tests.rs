//! Giving a store up, over simulated disks.

use std::path::Path;
use std::sync::Arc;

use keelson_copy_core::range_fetch::{Fetched, Mark, Purpose, Span, Spans, StoreKey};
use keelson_env::{Disk, MemStoreOpener, ReplayFrame, SimDisk, StoreOpener};
use keelson_format::{Cursor, CursorState, FramingConfig};
use keelson_types::{CopyFault, CopyId, DatabaseId, Epoch, Position, Record, StoreId, StreamId};

use crate::mark_file;
use crate::open::{Identity, OpenCopy, Places, open_copy};
use crate::rebuild::{Condemned, Doubt, condemn, remove};
use crate::shared::CopyShared;

fn places() -> Places {
    let disk = Arc::new(SimDisk::new());
    disk.create_dir_all(Path::new("/data/databases")).unwrap();
    Places {
        disk,
        data: "/data".into(),
        logs: "/logs".into(),
        noting: Arc::default(),
        volumes: Arc::default(),
    }
}

fn identity() -> Identity {
    Identity {
        database: DatabaseId::from_bytes([7; 16]),
        copy: CopyId::from_bytes([1; 16]),
        stream: StreamId::from_bytes([9; 16]),
        generation_bytes: 1024 * 1024,
        resumes: 0,
        others: 2,
        admitted: false,
    }
}

/// A start of the process; what it held is dropped.
fn open(places: &Places, stores: &MemStoreOpener) -> OpenCopy {
    open_copy(places, stores, &identity(), &CopyShared::for_tests()).unwrap()
}

fn lies_there(places: &Places, stores: &MemStoreOpener, store: StoreId) -> bool {
    stores.exists(&places.store(identity().database, store))
}

/// S15: a store that rotted is made anew beside the damaged one, which is kept until the next one.
#[test]
fn a_rotten_store_is_given_up_at_an_open_and_one_is_kept_as_evidence() {
    let (places, stores) = (places(), MemStoreOpener::new());
    let first = open(&places, &stores).record.store;
    stores.rot(&places.store(identity().database, first));
    let opened = open(&places, &stores);
    let second = opened.record.store;
    assert_ne!(second, first);
    assert_eq!(opened.found.len(), 1, "it is told");
    assert_eq!(Condemned::read(&opened.record).stores, [first]);
    assert!(lies_there(&places, &stores, first), "evidence");
    assert_eq!(open(&places, &stores).record.store, second, "kept in the control file");
    stores.rot(&places.store(identity().database, second));
    let third = open(&places, &stores);
    assert_eq!(Condemned::read(&third.record).stores, [second]);
    assert!(!lies_there(&places, &stores, first), "the older evidence");
    assert!(
        lies_there(&places, &stores, second) && lies_there(&places, &stores, third.record.store)
    );
}

#[test]
fn what_was_given_up_is_removed_once_and_the_mark_only_rises() {
    let (places, stores) = (places(), MemStoreOpener::new());
    let mut record = open(&places, &stores).record;
    let (database, first) = (identity().database, record.store);
    condemn(&places, &stores, database, &mut record, Position::new(3, 700));
    condemn(&places, &stores, database, &mut record, Position::new(2, 900));
    let mut condemned = Condemned::read(&record);
    assert_eq!(condemned.until, Position::new(3, 700));
    assert!(!lies_there(&places, &stores, first));
    remove(&places, &stores, database, &mut condemned);
    assert_eq!(condemned.stores, []);
}

const FRAMING: FramingConfig = FramingConfig { generation_bytes: 1024 * 1024, compress: false };

/// A copy whose log begins with its third generation and whose store holds five keys; where it
/// stands.
fn truncated(places: &Places, stores: &MemStoreOpener) -> Position {
    let mut copy = open(places, stores);
    let mut cursor = Cursor::new(CursorState::empty(identity().stream), FRAMING);
    let (header, _) = cursor.begin_epoch(Epoch::new(0, 1), 1).unwrap();
    copy.log.write(&[header]).unwrap();
    let directory = places.store(identity().database, copy.record.store);
    let store = CopyShared::for_tests().store.open(stores, &directory).unwrap();
    for key in ["a", "b", "c", "d", "e"] {
        let records = vec![Record::Put { key: key.into(), value: key.into() }];
        let encoded = cursor.encode(&records, 1, Position::ZERO, Position::ZERO).unwrap();
        copy.log.write(&encoded.chunks).unwrap();
        let (end, time) = (encoded.frame.end(), Default::default());
        store.replay(&[ReplayFrame { end, time, first_sequence: 1, records }]).unwrap();
        copy.log.write(&[cursor.close_generation(1).unwrap()]).unwrap();
    }
    copy.log.sync().unwrap();
    let at = store.checkpoint().unwrap();
    copy.log.truncate_before(keelson_types::Generation(3)).unwrap();
    at
}

fn some_keys() -> Span {
    Span::new(StoreKey::User("b".into()), Some(StoreKey::User("d".into()))).unwrap()
}

fn mark_of(copy: &OpenCopy) -> Mark {
    copy.mark.clone().expect("a mark")
}

/// What the store of a copy holds.
fn keys(copy: &OpenCopy, stores: &MemStoreOpener) -> Vec<StoreKey> {
    let store = stores.open(&copy.store_directory).unwrap();
    let items = store.snapshot().unwrap().read_span(&Span::all(), 10, 1_000).unwrap();
    items.into_iter().map(|(key, _)| key).collect()
}

/// S15: where the log does not reach back, the sound keys stay, and a mark names the others.
#[test]
fn what_is_sound_of_a_store_without_its_log_stays_and_the_rest_is_marked() {
    let (places, stores) = (places(), MemStoreOpener::new());
    let at = truncated(&places, &stores);
    let first = open(&places, &stores).record.store;
    stores.rot_keys(&places.store(identity().database, first), some_keys());
    let copy = open(&places, &stores);
    assert_ne!(copy.record.store, first);
    assert!(lies_there(&places, &stores, first), "evidence");
    let mark = mark_of(&copy);
    assert_eq!((mark.spans.list(), mark.floor), (&[some_keys()][..], at));
    assert_eq!((&mark.purpose, &mark.q), (&Purpose::Repair, &None));
    assert_eq!((copy.recovered.replayed, copy.found.len()), (at, 1));
    assert_eq!(keys(&copy, &stores).len(), 3);
    // The next start goes on with both.
    let again = open(&places, &stores);
    assert_eq!((again.record.store, again.mark), (copy.record.store, Some(mark)));
}

/// A store in use is doubted first, and taken apart when it is opened the next time.
#[test]
fn a_doubted_content_is_given_up_as_a_whole() {
    let (places, stores) = (places(), MemStoreOpener::new());
    let end = truncated(&places, &stores);
    let mut copy = open(&places, &stores);
    let first = copy.record.store;
    Doubt::put(Some(Doubt::Content), &mut copy.record);
    copy.control.write(&copy.record).unwrap();
    let copy = open(&places, &stores);
    assert_ne!(copy.record.store, first);
    assert_eq!(Doubt::read(&copy.record), None, "it was looked into");
    let mark = mark_of(&copy);
    assert_eq!(mark.spans, [Span::all()].into_iter().collect::<Spans>());
    assert!(mark.floor >= end, "no snapshot before the end of the log will do");
    let begins = copy.recovered.replayed;
    assert!(begins > Position::ZERO && begins.generation.0 <= 3, "where the log begins: {begins}");
    assert_eq!(keys(&copy, &stores), []);
}

#[test]
fn without_another_copy_a_damaged_store_is_left_as_it_is() {
    let (places, stores) = (places(), MemStoreOpener::new());
    truncated(&places, &stores);
    let first = open(&places, &stores).record.store;
    stores.rot_keys(&places.store(identity().database, first), some_keys());
    let alone = Identity { others: 0, ..identity() };
    let opened = open_copy(&places, &stores, &alone, &CopyShared::for_tests());
    assert!(matches!(opened, Err(CopyFault::StoreDamaged(_))));
    // One that is only doubted is opened all the same.
    let other = MemStoreOpener::new();
    let places_too = self::places();
    truncated(&places_too, &other);
    let mut copy = open(&places_too, &other);
    Doubt::put(Some(Doubt::Files), &mut copy.record);
    copy.control.write(&copy.record).unwrap();
    drop(copy);
    let opened = open_copy(&places_too, &other, &alone, &CopyShared::for_tests()).unwrap();
    assert_eq!((keys(&opened, &other).len(), opened.mark), (5, None));
    assert_eq!(mark_of(&open(&places, &stores)).spans.list(), [some_keys()], "with another copy");
}

/// A mark that does not decode speaks of any key.
#[test]
fn a_rotten_mark_gives_the_whole_store_up() {
    let (places, stores) = (places(), MemStoreOpener::new());
    truncated(&places, &stores);
    let first = open(&places, &stores).record.store;
    stores.rot_keys(&places.store(identity().database, first), some_keys());
    let second = open(&places, &stores).record;
    let path = mark_file::path(&places.database(identity().database), second.copy);
    let file = places.disk.open(&path).unwrap();
    file.write_at(30, &[0xff; 4]).unwrap();
    let copy = open(&places, &stores);
    assert_ne!(copy.record.store, second.store);
    assert_eq!(mark_of(&copy).spans.list(), [Span::all()]);
    assert_eq!(mark_of(&copy).fetched, Fetched::Before(StoreKey::FIRST));
}

/// S15: a crash at each step of the disk leaves the old store or the new one, never a new one
/// without its mark.
#[test]
fn a_crash_leaves_no_store_without_its_mark() {
    let (mut old, mut new) = (0, 0);
    for step in 1..40 {
        let disk = Arc::new(SimDisk::new());
        disk.create_dir_all(Path::new("/data/databases")).unwrap();
        let places = Places {
            disk: disk.clone(),
            data: "/data".into(),
            logs: "/logs".into(),
            noting: Arc::default(),
            volumes: Arc::default(),
        };
        let stores = MemStoreOpener::new();
        truncated(&places, &stores);
        let first = open(&places, &stores).record.store;
        stores.rot_keys(&places.store(identity().database, first), some_keys());
        disk.crash_at(disk.operations() + step);
        let opened = open_copy(&places, &stores, &identity(), &CopyShared::for_tests());
        drop(opened);
        disk.crash(step);
        stores.crash(step);
        let identity = Identity { resumes: step, ..identity() };
        let copy = open_copy(&places, &stores, &identity, &CopyShared::for_tests()).unwrap();
        match copy.found.is_empty() {
            true => new += 1,
            false => old += 1,
        }
        assert_eq!(mark_of(&copy).spans.list(), [some_keys()], "step {step}");
        assert_eq!(keys(&copy, &stores).len(), 3);
    }
    assert!(old > 3 && new > 3, "{old} {new}");
}
