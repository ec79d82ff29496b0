//! Tests of catalogs as directories: snapshots, and what is made of them.

use super::*;
use keelson_types::{Epoch, LogEnd, Position};

fn end(offset: u64) -> LogEnd {
    LogEnd { epoch: Epoch::new(0, 1), position: Position::new(1, offset) }
}

fn commit(catalog: &mut Catalog, keys: std::ops::Range<u32>, at: u64) {
    let mut writer = catalog.writer(Vec::new()).unwrap();
    for key in keys {
        writer.put(format!("k{key}").as_bytes(), br#"{"word":"weaving"}"#).unwrap();
    }
    writer.commit(end(at)).unwrap();
    writer.close().unwrap();
    catalog.reload().unwrap();
}

fn reflects(catalog: &Catalog) -> LogEnd {
    catalog.reflected().unwrap().unwrap().end
}

/// F64: a snapshot stands still, is whole, owns its files, and can be written to on its own.
#[test]
fn a_snapshot_is_a_catalog_of_its_own() {
    let home = tempfile::tempdir().unwrap();
    let (here, there) = (home.path().join("a"), home.path().join("b"));
    let mut catalog = Catalog::create(&here).unwrap();
    assert!(matches!(catalog.snapshot(&there), Err(CatalogError::Damaged(_))), "no commit");
    commit(&mut catalog, 0..30, 100);
    commit(&mut catalog, 20..40, 200);
    let mut snapshot = catalog.snapshot(&there).unwrap();
    commit(&mut catalog, 40..60, 300);
    assert_eq!((snapshot.document_count(), reflects(&snapshot)), (40, end(200)));
    assert!(snapshot.verify().unwrap() > 0);
    commit(&mut snapshot, 100..101, 250);
    assert_eq!((snapshot.document_count(), reflects(&snapshot)), (41, end(250)));
    assert_eq!((catalog.document_count(), reflects(&catalog)), (60, end(300)));
    drop(snapshot);
    // What has no list of its own files finds no damage in them.
    std::fs::remove_file(there.join(OWNED)).unwrap();
    let term = std::fs::read_dir(&there).unwrap().flatten().map(|entry| entry.path());
    let term = term.filter(|path| path.extension().is_some_and(|e| e == "term"));
    for path in term.collect::<Vec<_>>() {
        let mut bytes = std::fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        // Another file: the hard link of the first catalog stays as it is.
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, bytes).unwrap();
    }
    let verified = Catalog::adopt(&there).and_then(|adopted| adopted.verify());
    assert!(matches!(verified, Err(CatalogError::Damaged(_))), "{verified:?}");
    assert!(catalog.verify().is_ok());
}

/// What a search sees and what is said of it can be taken together: a commit changes no value that
/// somebody holds.
#[test]
fn a_value_sees_one_commit_until_it_is_reloaded() {
    let home = tempfile::tempdir().unwrap();
    let mut catalog = Catalog::create(home.path()).unwrap();
    commit(&mut catalog, 0..10, 100);
    let mut before = catalog.clone();
    commit(&mut catalog, 10..25, 200);
    assert_eq!((before.document_count(), catalog.document_count()), (10, 25));
    before.reload().unwrap();
    assert_eq!(before.document_count(), 25);
}

#[test]
fn what_is_no_catalog_is_not_adopted() {
    let home = tempfile::tempdir().unwrap();
    assert!(matches!(Catalog::adopt(home.path()), Err(CatalogError::Damaged(_))));
    std::fs::write(home.path().join(LIST), b"{}").unwrap();
    assert!(matches!(Catalog::adopt(home.path()), Err(CatalogError::Damaged(_))));
}
