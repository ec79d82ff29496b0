//! Tests of `sim_disk`.

use std::path::PathBuf;

use super::*;
use crate::disk_conformance;

fn home() -> PathBuf {
    PathBuf::from("/log")
}

fn disk() -> SimDisk {
    let disk = SimDisk::new();
    disk.create_dir_all(&home()).expect("creates");
    disk
}

fn file(disk: &SimDisk, name: &str) -> Arc<dyn DiskFile> {
    let file = disk.create(&home().join(name)).expect("creates");
    disk.sync_dir(&home()).expect("syncs");
    file
}

fn bytes(disk: &SimDisk, name: &str) -> Vec<u8> {
    disk.bytes(&home().join(name)).expect("exists")
}

#[test]
fn it_conforms() {
    let disk = disk();
    disk_conformance::all(&disk, &home());
}

#[test]
fn a_crash_keeps_synced_bytes_and_tears_the_rest_by_sector() {
    let mut torn = 0;
    for seed in 0..200 {
        let disk = disk();
        let file = file(&disk, "f");
        file.write_at(0, &[1; 2_048]).expect("writes");
        file.sync().expect("syncs");
        file.write_at(600, &[2; 1_000]).expect("writes");
        disk.crash(seed);
        let found = bytes(&disk, "f");
        assert_eq!(found[..600], [1; 600]);
        assert_eq!(found[1_600..], [1; 448]);
        let sectors: Vec<u8> = [700, 1_100, 1_590].map(|at: usize| found[at]).to_vec();
        torn += u32::from(sectors.contains(&1) && sectors.contains(&2));
        assert!(found[600..1_024].iter().all(|b| *b == found[600]), "a sector is whole");
    }
    assert!(torn > 20, "only {torn} of 200 crashes tore the write");
}

#[test]
fn the_same_seed_crashes_the_same_way() {
    let run = |seed| {
        let disk = disk();
        let file = file(&disk, "f");
        file.write_at(0, &[7; 10_000]).expect("writes");
        disk.crash(seed);
        bytes(&disk, "f")
    };
    assert_eq!(run(5), run(5));
    assert!((0..20).any(|seed| run(seed) != run(5)));
}

#[test]
fn names_are_durable_only_after_sync_dir() {
    let mut kept = 0;
    for seed in 0..60 {
        let disk = disk();
        file(&disk, "old").write_at(0, b"x").expect("writes");
        disk.rename(&home().join("old"), &home().join("new")).expect("renames");
        disk.crash(seed);
        let new = disk.exists(&home().join("new")).expect("answers");
        let old = disk.exists(&home().join("old")).expect("answers");
        assert_ne!(new, old, "exactly one name survives");
        kept += u32::from(new);
    }
    assert!(kept > 0 && kept < 60, "{kept} of 60 renames survived");
    let disk = disk();
    file(&disk, "old");
    disk.rename(&home().join("old"), &home().join("new")).expect("renames");
    disk.sync_dir(&home()).expect("syncs");
    (0..20).for_each(|seed| disk.crash(seed));
    assert!(disk.exists(&home().join("new")).expect("answers"));
}

#[test]
fn after_a_failed_sync_reads_lie_until_the_cache_is_dropped() {
    let disk = disk();
    let file = file(&disk, "f");
    file.write_at(0, &[1; 512]).expect("writes");
    file.sync().expect("syncs");
    file.write_at(0, &[2; 512]).expect("writes");
    disk.fail_sync(1);
    assert!(file.sync().is_err());
    file.sync().expect("the second sync has nothing to write and succeeds");
    assert_eq!(bytes(&disk, "f"), [2; 512]);
    file.drop_cache().expect("drops");
    assert_eq!(bytes(&disk, "f"), [1; 512]);
}

#[test]
fn a_full_volume_takes_a_part_and_lets_existing_bytes_be_overwritten() {
    let disk = disk();
    let file = file(&disk, "f");
    disk.set_quota(Some(1_000));
    let error = file.write_at(0, &[1; 1_500]).expect_err("full");
    assert!(error.is_no_space());
    assert_eq!(file.size().expect("answers"), 1_000);
    file.write_at(10, &[2; 100]).expect("overwrites");
    assert!(file.allocate(0, 1_001).expect_err("full").is_no_space());
    assert_eq!(disk.free_bytes(&home()).expect("answers"), 0);
}

#[test]
fn a_crash_at_a_numbered_call_stops_everything_until_restart() {
    let disk = disk();
    let file = file(&disk, "f");
    let start = disk.operations();
    disk.crash_at(start + 2);
    file.write_at(0, b"one").expect("before the crash");
    let crashed = file.write_at(3, b"two").expect_err("crashes");
    assert_eq!(crashed.kind, DiskErrorKind::Crashed);
    assert!(file.sync().is_err() && disk.list(&home()).is_err());
    disk.crash(1);
    assert!(file.size().is_err(), "handles die");
    assert!(disk.open(&home().join("f")).is_ok());
}

#[test]
fn a_killed_process_loses_nothing() {
    let disk = disk();
    let file = file(&disk, "f");
    file.write_at(0, b"unsynced").expect("writes");
    disk.restart_process();
    assert_eq!(bytes(&disk, "f"), b"unsynced");
    assert!(file.size().is_err());
}

#[test]
fn a_duplicate_is_independent_and_rot_is_durable() {
    let disk = disk();
    file(&disk, "f").write_at(0, &[0; 4]).expect("writes");
    let twin = disk.duplicate();
    assert!(twin.flip_bit(&home().join("f"), 1, 3));
    twin.crash(9);
    assert_eq!(bytes(&twin, "f"), [0, 8, 0, 0]);
    assert_eq!(bytes(&disk, "f"), [0; 4]);
    assert!(!twin.flip_bit(&home().join("f"), 4, 0));
    twin.wipe();
    assert!(!twin.exists(&home().join("f")).expect("answers"));
}
