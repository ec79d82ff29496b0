//! Tests of what searches see beside what is said of it.

use std::path::Path;
use std::sync::Arc;

use keelson_types::{ContentIndexSettings, Epoch};

use super::*;

fn end(offset: u64) -> LogEnd {
    LogEnd { epoch: Epoch::new(0, 1), position: Position::new(1, offset) }
}

/// A record more, as the log position says.
fn commit(mut catalog: Catalog, number: u64, slot: &CatalogSlot) {
    let mut writer = catalog.writer(Vec::new()).unwrap();
    writer.put(&number.to_be_bytes(), b"word").unwrap();
    writer.commit(end(number)).unwrap();
    writer.close().unwrap();
    catalog.reload().unwrap();
    slot.shows(catalog, end(number));
}

fn wanted(directory: &Path) -> (CatalogSlot, Catalog) {
    let slot = CatalogSlot::default();
    let settings = ContentIndexSettings { enabled: true, ..ContentIndexSettings::default() };
    slot.want(Wanted { settings, ..Wanted::default() });
    slot.rests(ContentIndexState::Healthy, String::new());
    (slot, Catalog::create(directory).unwrap())
}

/// What an answer says that it reflects is what it was searched in, whatever is committed between
/// the two and however long the search waits.
#[test]
fn an_index_and_what_it_reflects_are_taken_together() {
    const COMMITS: u64 = 60;
    let home = tempfile::tempdir().unwrap();
    let (slot, catalog) = wanted(home.path());
    commit(catalog.clone(), 1, &slot);
    let slot = Arc::new(slot);
    let writer = std::thread::spawn({
        let slot = slot.clone();
        move || (2..=COMMITS).for_each(|number| commit(catalog.clone(), number, &slot))
    });
    let mut seen = Vec::new();
    loop {
        let (catalog, searchable) = slot.for_search("DB1").unwrap();
        std::thread::yield_now();
        let reflects = searchable.reflects.position.offset;
        assert_eq!(catalog.document_count(), reflects, "of another commit");
        seen.push(reflects);
        if reflects == COMMITS {
            break;
        }
    }
    writer.join().unwrap();
    seen.dedup();
    assert!(seen.len() > 2, "searches ran beside the writer: {seen:?}");
}
