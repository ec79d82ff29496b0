//! Tests of what a seed does on its target's disk, each crash between two steps included.

use std::sync::Arc;

use keelson_copy_core::seed::Staged;
use keelson_env::MemStoreOpener;
use keelson_format::SeedManifest;
use keelson_log::OsDisk;
use keelson_types::{CheckpointId, EpochTable, LogEnd, MemberId, OldFiles, OperationId, StreamId};
use tempfile::TempDir;
use xxhash_rust::xxh3::xxh3_128;

use super::*;
use crate::open::{Identity, open_copy};
use crate::seed::CHUNK_BYTES;
use crate::shared::CopyShared;

const DATABASE: DatabaseId = DatabaseId::from_u128(7);
const OLD: CopyId = CopyId::from_u128(1);
const NEW: CopyId = CopyId::from_u128(2);
const SALVAGE: &str = "salvage-0.3-0000000000000001-512.klog";

struct Place {
    home: TempDir,
    files: SeedFiles,
    stores: MemStoreOpener,
}

impl Place {
    fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        let (data, logs) = (home.path().join("data"), home.path().join("logs"));
        let disk = Arc::new(OsDisk::new());
        disk.create_dir_all(&data.join("databases")).unwrap();
        let places = Places { disk, data, logs, noting: Arc::default(), volumes: Arc::default() };
        let files = SeedFiles::new(places, DATABASE);
        Self { home, files, stores: MemStoreOpener::new() }
    }

    /// Opens a copy as the supervision does, and closes it.
    fn open(&self, copy: CopyId) {
        let identity = Identity {
            database: DATABASE,
            copy,
            stream: StreamId::from_u128(9),
            generation_bytes: 1024 * 1024,
            resumes: 0,
            others: 2,
            admitted: false,
        };
        let shared = CopyShared::for_tests();
        open_copy(&self.files.places, &self.stores, &identity, &shared).unwrap();
    }

    fn names(&self) -> Vec<String> {
        let home = self.home.path().join("data/databases").join(DATABASE.to_string());
        let entries = OsDisk::new().list(&home).unwrap_or_default();
        entries.into_iter().map(|entry| entry.name).collect()
    }
}

fn body() -> Vec<u8> {
    (0..2 * CHUNK_BYTES + 77).map(|at| (at % 251) as u8).collect()
}

fn manifest() -> SeedManifest {
    let file = SeedFile {
        place: SeedPlace::Store,
        name: "000007.sst".into(),
        bytes: body().len() as u64,
        digest: xxh3_128(&body()),
    };
    SeedManifest {
        checkpoint: CheckpointId::from_u128(5),
        database: DATABASE,
        stream: StreamId::from_u128(9),
        source: CopyId::from_u128(3),
        at: LogEnd::ZERO,
        epochs: EpochTable::new(),
        files: vec![file],
    }
}

fn record(old_files: OldFiles) -> SeedRecord {
    let source = (MemberId::from_u128(3), CopyId::from_u128(3));
    SeedRecord {
        operation: OperationId::from_u128(4),
        old: OLD,
        new: NEW,
        old_files,
        staged: Staged::Checkpoint(source.0, source.1, CheckpointId::from_u128(5)),
    }
}

fn verified(record: SeedRecord) -> SeedRecord {
    let (member, copy, checkpoint) = record.staged.checkpoint().unwrap();
    SeedRecord { staged: Staged::Verified(member, copy, checkpoint), ..record }
}

/// The record of a seed of the index alone.
fn index_record() -> SeedRecord {
    SeedRecord { new: OLD, ..record(OldFiles::Keep) }
}

/// Stages the files of an index that holds `word`.
fn stage_index(place: &Place, word: &str) {
    let source = tempfile::tempdir().unwrap();
    fill_index(source.path(), word);
    let staging = place.files.staging(SeedPlace::Catalog);
    place.files.make(SeedPlace::Catalog).unwrap();
    for entry in std::fs::read_dir(source.path()).unwrap().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if !name.starts_with('.') {
            std::fs::copy(entry.path(), staging.join(name)).unwrap();
        }
    }
}

fn fill_index(directory: &Path, word: &str) {
    let catalog = Catalog::create(directory).unwrap();
    let mut writer = catalog.writer(vec![word.to_owned()]).unwrap();
    writer.put(b"k", word.as_bytes()).unwrap();
    writer.commit(LogEnd::ZERO).unwrap();
    writer.close().unwrap();
}

/// Which index lies in a directory.
fn word_of(directory: &Path) -> Option<String> {
    let reflected = Catalog::open(directory).unwrap()?.reflected().unwrap().unwrap();
    reflected.fields.first().cloned()
}

/// Sends what is missing of the file.
fn send(incoming: &mut Incoming, body: &[u8]) -> Result<(), Refused> {
    while !incoming.is_complete() {
        let at = usize::try_from(incoming.at()).unwrap();
        let chunk = &body[at..body.len().min(at + CHUNK_BYTES)];
        incoming.take(at as u64, crc32fast::hash(chunk), chunk)?;
    }
    Ok(())
}

fn stage(place: &Place) {
    let manifest = manifest();
    assert_eq!(place.files.prepare(&manifest), Ok(vec![false]));
    let mut incoming = place.files.receive(&manifest.files[0], false).unwrap();
    send(&mut incoming, &body()).unwrap();
    incoming.finish(&place.files).unwrap();
    assert_eq!(place.files.prepare(&manifest), Ok(vec![true]));
}

/// F63: a name means verified and durable; an interrupted file goes on behind its whole chunks.
#[test]
fn a_file_gets_its_name_once_it_is_what_the_manifest_says() {
    let (place, manifest) = (Place::new(), manifest());
    let file = &manifest.files[0];
    place.files.prepare(&manifest).unwrap();
    let mut first = place.files.receive(file, false).unwrap();
    let chunk = &body()[..CHUNK_BYTES];
    first.take(0, crc32fast::hash(chunk), chunk).unwrap();
    assert!(matches!(first.take(0, crc32fast::hash(chunk), chunk), Err(Refused::Wrong(_))));
    let (at, next) = (CHUNK_BYTES as u64, &body()[CHUNK_BYTES..CHUNK_BYTES + 9]);
    assert!(matches!(first.take(at, 1, next), Err(Refused::Wrong(_))), "its checksum");
    first.take(at, crc32fast::hash(next), next).unwrap();
    drop(first);
    assert_eq!(place.files.prepare(&manifest), Ok(vec![false]));
    let mut again = place.files.receive(file, true).unwrap();
    assert_eq!(again.at(), CHUNK_BYTES as u64, "the nine bytes come again, the chunk does not");
    let mut wrong = body();
    *wrong.last_mut().unwrap() ^= 1;
    send(&mut again, &wrong).unwrap();
    assert!(matches!(again.finish(&place.files), Err(Refused::Wrong(_))));
    assert_eq!(place.files.prepare(&manifest), Ok(vec![false]), "whole, and not what it should be");
    stage(&place);
}

/// A whole file that a crash left without its name is verified, not sent again.
#[test]
fn a_whole_file_without_its_name_is_taken_up() {
    let (place, manifest) = (Place::new(), manifest());
    place.files.prepare(&manifest).unwrap();
    let mut incoming = place.files.receive(&manifest.files[0], false).unwrap();
    send(&mut incoming, &body()).unwrap();
    drop(incoming);
    assert_eq!(place.files.prepare(&manifest), Ok(vec![true]));
}

/// A crash between the renames of an install is taken back; one behind the control file is not.
#[test]
fn half_an_install_is_taken_back() {
    let place = Place::new();
    place.open(OLD);
    place.files.save(&record(OldFiles::Keep)).unwrap();
    stage(&place);
    let (staging, there) =
        (place.files.staging(SeedPlace::Store), place.files.installed(SeedPlace::Store, NEW));
    std::fs::rename(&staging, &there).unwrap();
    let left = place.files.look().unwrap();
    assert_eq!((left.record, left.installed), (Some(record(OldFiles::Keep)), false));
    assert!(!there.exists());
    assert_eq!(place.files.prepare(&manifest()), Ok(vec![true]), "nothing is sent again");
    place.files.install(&manifest(), &verified(record(OldFiles::Keep)), None).unwrap();
    assert!(place.files.look().unwrap().installed && there.exists());
}

/// G4: a seed that was given up takes its own files with it and nothing else.
#[test]
fn a_seed_that_was_given_up_leaves_the_old_copy_alone() {
    let place = Place::new();
    place.open(OLD);
    let before = place.names();
    place.files.save(&record(OldFiles::Delete)).unwrap();
    stage(&place);
    place.files.install(&manifest(), &verified(record(OldFiles::Delete)), None).unwrap();
    assert_eq!(place.files.clean_up(Some(OLD), None, &place.stores), Ok(true));
    assert_eq!(place.names(), before);
    assert!(place.files.is_clean());
}

/// The new copy is what is opened once consensus names it; the old files go then, if they are to.
#[test]
fn an_installed_copy_takes_the_place_of_the_old_one() {
    for (old_files, stays) in [(OldFiles::Keep, true), (OldFiles::Delete, false)] {
        let place = Place::new();
        place.open(OLD);
        // It has log, so it is not gone for being empty.
        let log = place.files.places.log(DATABASE, LogId::from_bytes(OLD.into_bytes()));
        std::fs::write(log.join("0000000000000001.klog"), b"log").unwrap();
        std::fs::write(log.join(SALVAGE), b"cut").unwrap();
        place.files.save(&record(old_files)).unwrap();
        stage(&place);
        place.files.install(&manifest(), &verified(record(old_files)), None).unwrap();
        let cleaned = place.files.clean_up(Some(NEW), None, &place.stores);
        assert_eq!(cleaned, Ok(false), "the old copy is not closed yet");
        place.open(NEW);
        assert_eq!(place.files.in_use(), Ok(Some(NEW)));
        assert_eq!(place.files.clean_up(Some(NEW), None, &place.stores), Ok(true));
        assert_eq!(log.exists(), stays, "{old_files:?}");
        // G4: what was cut is nobody's to delete but an operator's.
        let heir = place.files.places.log(DATABASE, LogId::from_bytes(NEW.into_bytes()));
        assert_eq!((log.join(SALVAGE).exists(), heir.join(SALVAGE).exists()), (stays, !stays));
        let aside = place.files.control_aside(OLD);
        assert_eq!(aside.exists(), stays);
        assert!(place.files.is_clean());
        assert!(place.files.installed(SeedPlace::Store, NEW).join("000007.sst").exists());
    }
}

/// F64: an index alone is put in place by one rename; a crash on either side of it is told apart,
/// and nothing else of the copy is touched.
#[test]
fn an_index_takes_the_place_of_the_one_that_was_there() {
    let place = Place::new();
    place.open(OLD);
    let there = place.files.installed(SeedPlace::Catalog, OLD);
    fill_index(&there, "old");
    let before = place.names();
    place.files.save(&index_record()).unwrap();
    stage_index(&place, "new");
    assert!(!place.files.is_clean() && !place.files.look().unwrap().installed);
    // The crash comes before the rename.
    let record = verified(index_record());
    place.files.save(&record).unwrap();
    let left = place.files.look().unwrap();
    assert_eq!((left.record, left.installed), (Some(record), false));
    place.files.install_index(&record, &there).unwrap();
    assert_eq!(word_of(&there).as_deref(), Some("new"));
    let left = place.files.look().unwrap();
    assert_eq!((left.record, left.installed), (Some(record), true));
    assert_eq!(place.files.clean_up(Some(OLD), None, &place.stores), Ok(true));
    assert_eq!(place.names(), before);
    assert!(place.files.is_clean());
}

/// What came and is no index is refused, and the one that is there stays.
#[test]
fn an_index_that_does_not_open_is_not_put_in_place() {
    let place = Place::new();
    place.open(OLD);
    let there = place.files.installed(SeedPlace::Catalog, OLD);
    fill_index(&there, "old");
    stage_index(&place, "new");
    std::fs::write(place.files.staging(SeedPlace::Catalog).join("meta.json"), b"{}").unwrap();
    let refused = place.files.install_index(&verified(index_record()), &there);
    assert!(matches!(refused, Err(Refused::Wrong(_))), "{refused:?}");
    assert_eq!(word_of(&there).as_deref(), Some("old"));
}

/// G4: the record of an index names the copy that is there; clearing up behind it never touches a
/// file of a copy, even if that was replaced and lies aside since.
#[test]
fn a_seed_of_an_index_takes_no_copy_with_it() {
    let place = Place::new();
    place.open(OLD);
    // It has log, so it is not gone for being empty.
    let log = place.files.places.log(DATABASE, LogId::from_bytes(OLD.into_bytes()));
    std::fs::write(log.join("0000000000000001.klog"), b"log").unwrap();
    place.files.save(&record(OldFiles::Keep)).unwrap();
    stage(&place);
    place.files.install(&manifest(), &verified(record(OldFiles::Keep)), None).unwrap();
    place.open(NEW);
    assert_eq!(place.files.clean_up(Some(NEW), None, &place.stores), Ok(true));
    let before = place.names();
    assert!(before.contains(&format!("control-{OLD}")), "the old copy lies aside: {before:?}");
    for left in [index_record(), verified(index_record())] {
        place.files.save(&left).unwrap();
        stage_index(&place, "new");
        assert_eq!(place.files.clean_up(Some(NEW), None, &place.stores), Ok(true));
        place.files.clear(Some(&left), Some(NEW), &place.stores).unwrap();
        assert_eq!(place.names(), before);
    }
}

/// F53: a copy's index comes with it, and is its own from the install on; one that is of no use is
/// left out.
#[test]
fn an_index_is_installed_with_its_copy() {
    for (usable, word) in [(true, Some("new")), (false, None)] {
        let place = Place::new();
        place.open(OLD);
        let mut manifest = manifest();
        manifest.files.push(SeedFile {
            place: SeedPlace::Catalog,
            name: "meta.json".into(),
            bytes: 2,
            digest: 0,
        });
        place.files.save(&record(OldFiles::Keep)).unwrap();
        stage(&place);
        stage_index(&place, "new");
        if !usable {
            let list = place.files.staging(SeedPlace::Catalog).join("meta.json");
            std::fs::write(list, b"{}").unwrap();
        }
        place.files.install(&manifest, &verified(record(OldFiles::Keep)), None).unwrap();
        let there = place.files.installed(SeedPlace::Catalog, NEW);
        assert_eq!(word_of(&there).as_deref(), word);
        assert!(place.files.look().unwrap().installed);
        assert_eq!(place.files.clean_up(Some(OLD), None, &place.stores), Ok(true));
        assert!(!there.exists() && place.files.is_clean(), "given up");
    }
}

/// G4: a copy that is in use is never cleared away, whatever whoever asks believes to be assigned.
#[test]
fn a_seeded_copy_in_use_is_not_cleared_by_an_old_belief() {
    let place = Place::new();
    place.open(OLD);
    place.files.save(&record(OldFiles::Keep)).unwrap();
    stage(&place);
    let record = verified(record(OldFiles::Keep));
    place.files.install(&manifest(), &record, None).unwrap();
    place.open(NEW);
    assert_eq!(place.files.clean_up(Some(OLD), None, &place.stores), Ok(true));
    assert!(place.files.installed(SeedPlace::Store, NEW).join("000007.sst").exists());
}
