//! Tests of what a seed does on its target's disk, each crash between two steps included.

use keelson_copy_core::seed::Staged;
use keelson_env::MemStoreOpener;
use keelson_format::SeedManifest;
use keelson_log::OsDisk;
use keelson_types::{CheckpointId, EpochTable, LogEnd, MemberId, OldFiles, OperationId, StreamId};
use tempfile::TempDir;
use xxhash_rust::xxh3::xxh3_128;

use super::*;
use crate::open::{Identity, open_copy};
use crate::shared::CopyShared;

const DATABASE: DatabaseId = DatabaseId::from_u128(7);
const OLD: CopyId = CopyId::from_u128(1);
const NEW: CopyId = CopyId::from_u128(2);

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
        let places = Places { disk, data, logs, noting: Arc::default() };
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
    place.files.install(&manifest(), NEW).unwrap();
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
    place.files.install(&manifest(), NEW).unwrap();
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
        place.files.save(&record(old_files)).unwrap();
        stage(&place);
        place.files.install(&manifest(), NEW).unwrap();
        let cleaned = place.files.clean_up(Some(NEW), None, &place.stores);
        assert_eq!(cleaned, Ok(false), "the old copy is not closed yet");
        place.open(NEW);
        assert_eq!(place.files.in_use(), Ok(Some(NEW)));
        assert_eq!(place.files.clean_up(Some(NEW), None, &place.stores), Ok(true));
        assert_eq!(log.exists(), stays, "{old_files:?}");
        let aside = place.files.control_aside(OLD);
        assert_eq!(aside.exists(), stays);
        assert!(place.files.is_clean());
        assert!(place.files.installed(SeedPlace::Store, NEW).join("000007.sst").exists());
    }
}
