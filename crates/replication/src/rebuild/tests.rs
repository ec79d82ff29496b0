//! Giving a store up, over simulated disks.

use std::path::Path;
use std::sync::Arc;

use keelson_env::{Disk, MemStoreOpener, SimDisk};
use keelson_types::{CopyId, DatabaseId, Position, StoreId, StreamId};

use crate::open::{Identity, OpenCopy, Places, open_copy};
use crate::rebuild::{Condemned, condemn, remove};
use crate::shared::CopyShared;

fn places() -> Places {
    let disk = Arc::new(SimDisk::new());
    disk.create_dir_all(Path::new("/data/databases")).unwrap();
    Places { disk, data: "/data".into(), logs: "/logs".into(), noting: Arc::default() }
}

fn identity() -> Identity {
    Identity {
        database: DatabaseId::from_bytes([7; 16]),
        copy: CopyId::from_bytes([1; 16]),
        stream: StreamId::from_bytes([9; 16]),
        generation_bytes: 1024 * 1024,
        resumes: 0,
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
