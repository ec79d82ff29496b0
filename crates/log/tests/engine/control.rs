//! The control file: a crash at every step leaves the old or the new record, and a full disk is no
//! hindrance.

use std::path::PathBuf;

use keelson_env::SimDisk;
use keelson_format::ControlRecord;
use keelson_log::{ControlFile, ControlFileError};
use keelson_types::{CopyId, DatabaseId, Epoch, LogId, StoreId};

use crate::harness::{sim, stream};

fn path() -> PathBuf {
    PathBuf::from("/volume/control")
}

fn record(counter: u64) -> ControlRecord {
    let (copy, database) = (CopyId::from_u128(1), DatabaseId::from_u128(2));
    let (log, store) = (LogId::from_u128(4), StoreId::from_u128(5));
    let mut record = ControlRecord::new(copy, database, stream(), log, store);
    record.sealed = Epoch::new(0, counter);
    // Several sectors, different in each record, so that a write can tear.
    record.suspended = Some(char::from(b'a' + (counter % 26) as u8).to_string().repeat(500));
    record.extensions = vec![(1, vec![counter as u8; 1_000])];
    record
}

fn run(disk: &SimDisk, told: &mut u64) -> Result<(), ControlFileError> {
    let (mut file, found) = ControlFile::open(disk, &path())?;
    assert_eq!(found, None);
    for counter in 1..=5 {
        file.write(&record(counter))?;
        *told = counter;
    }
    Ok(())
}

#[test]
fn a_crash_at_every_step_leaves_the_old_or_the_new_record() {
    let dry = sim();
    run(&dry, &mut 0).expect("works");
    for step in 1..=dry.operations() {
        for seed in 0..20 {
            let disk = sim();
            let mut told = 0;
            disk.crash_at(step);
            assert!(run(&disk, &mut told).is_err());
            disk.crash(seed);
            let (mut file, found) = ControlFile::open(&disk, &path()).expect("opens");
            let sealed = found.map_or(0, |record| record.sealed.counter);
            assert!(sealed == told || sealed == told + 1, "step {step}: {sealed} after {told}");
            file.write(&record(9)).expect("goes on");
            disk.crash(seed);
            let (_, found) = ControlFile::open(&disk, &path()).expect("opens");
            assert_eq!(found, Some(record(9)));
        }
    }
}

#[test]
fn rot_in_the_first_record_of_all_is_no_loss() {
    let disk = sim();
    let (mut file, _) = ControlFile::open(&disk, &path()).expect("opens");
    file.write(&record(1)).expect("writes");
    disk.flip_bit(&path(), 50, 0);
    let (_, found) = ControlFile::open(&disk, &path()).expect("opens");
    assert_eq!(found, Some(record(1)));
    disk.flip_bit(&path(), 50 + keelson_format::CONTROL_SLOT_BYTES as u64, 0);
    assert!(ControlFile::open(&disk, &path()).is_err(), "both slots");
}

#[test]
fn a_seal_is_persisted_on_a_full_volume() {
    let disk = sim();
    let (mut file, _) = ControlFile::open(&disk, &path()).expect("opens");
    disk.set_quota(Some(0));
    for counter in 1..=4 {
        file.write(&record(counter)).expect("needs no space");
    }
    let (_, found) = ControlFile::open(&disk, &path()).expect("opens");
    assert_eq!(found, Some(record(4)));
}

#[test]
fn a_failed_sync_is_not_retried_and_its_record_not_believed() {
    let disk = sim();
    let (mut file, _) = ControlFile::open(&disk, &path()).expect("opens");
    file.write(&record(1)).expect("writes");
    disk.fail_sync(1);
    assert!(file.write(&record(2)).is_err());
    assert!(file.write(&record(3)).is_err(), "the file must be opened again");
    let (mut file, found) = ControlFile::open(&disk, &path()).expect("opens");
    assert_eq!(found, Some(record(1)), "the page cache still shows the second record");
    file.write(&record(3)).expect("writes");
}

/// Whatever byte of the file rots, the newest promise is still known, the rot is seen, and the next
/// write mends it.
#[test]
fn a_rotten_byte_anywhere_forgets_no_promise() {
    let disk = sim();
    let (mut file, _) = ControlFile::open(&disk, &path()).expect("opens");
    for counter in 1..=3 {
        file.write(&record(counter)).expect("writes");
    }
    for offset in (0..2 * keelson_format::CONTROL_SLOT_BYTES as u64).step_by(97) {
        assert_eq!(file.holds(&record(3)), Ok(true));
        assert!(disk.flip_bit(&path(), offset, 6));
        assert_eq!(file.holds(&record(3)), Ok(false), "{offset}");
        let (mut opened, found) = ControlFile::open(&disk, &path()).expect("opens");
        assert_eq!(found, Some(record(3)), "{offset}");
        opened.write(&record(3)).expect("writes");
        file = opened;
    }
}
