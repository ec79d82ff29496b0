//! What lies in the directory: recycling, zeros ahead, full volumes, the number of syncs.

use std::sync::Arc;

use keelson_log::{LogError, verify};
use keelson_types::{Generation, Position};

use crate::harness::{Copy, file_of, home, names, open, read_all, sim};

fn active() -> (keelson_env::SimDisk, Copy) {
    let disk = sim();
    let mut copy = Copy::on(&disk);
    copy.begin(1).expect("writes");
    (disk, copy)
}

/// Files with old frames behind the new ones, in another epoch or in the same one.
fn recycle(new_epoch: bool) {
    let (disk, mut copy) = active();
    copy.commit_many(16, 1_000);
    assert_eq!(copy.log.truncate_before(Generation(5)), Ok(4));
    let spares = || names(&disk).iter().filter(|name| name.starts_with("spare-")).count();
    assert_eq!((spares(), copy.log.spare_count()), (2, 2), "two are kept, two are removed");
    if new_epoch {
        copy.begin(2).expect("writes");
    } else {
        let chunk = copy.cursor.close_generation(9).expect("it has frames");
        copy.log.write(&[chunk]).expect("rolls");
    }
    // A few frames in a recycled file: behind them lie old frames, whole and intact.
    let frames = copy.commit_many(2, 100);
    assert_eq!(spares(), 1);
    let end = frames[1].end();
    let stale = disk.bytes(&file_of(end.position.generation.0)).expect("exists");
    assert!(stale.len() as u64 > end.position.offset + 1_000, "old bytes lie behind the end");
    drop(copy);
    disk.crash(8);
    let (copy, recovery) = Copy::open(&disk).expect("opens");
    assert_eq!(recovery.state.end, end);
    assert_eq!((recovery.damage, recovery.cut), (None, None), "stale bytes are not a torn tail");
    assert_eq!(copy.log.spare_count(), 1);
    assert!(verify(&disk, &home()).expect("reads").is_intact());
    assert_eq!(copy.log.first_generation(), Some(Generation(5)));
}

#[test]
fn truncated_files_are_written_again_and_their_stale_bytes_mean_nothing() {
    recycle(true);
    recycle(false);
}

#[test]
fn spares_beyond_the_limit_are_removed_when_the_log_opens() {
    let (disk, mut copy) = active();
    copy.commit_many(12, 1_000);
    copy.log.truncate_before(Generation(4)).expect("truncates");
    assert_eq!(copy.log.spare_count(), 2);
    drop(copy);
    let config = keelson_log::LogConfig { recycle_max: 1, ..crate::harness::CONFIG };
    let shared = Arc::new(disk.clone());
    let stream = crate::harness::stream();
    let (log, _) =
        keelson_log::Log::open(shared, &home(), config, stream, Position::ZERO).expect("opens");
    assert_eq!(log.spare_count(), 1);
    assert_eq!(names(&disk).iter().filter(|name| name.starts_with("spare-")).count(), 1);
}

#[test]
fn the_last_generation_is_never_truncated() {
    let (_, mut copy) = active();
    copy.commit_many(6, 1_000);
    let last = copy.cursor.position().generation;
    copy.log.truncate_before(Generation(99)).expect("truncates");
    assert_eq!(copy.log.first_generation(), Some(last));
    assert_eq!(copy.log.truncate_before(last), Ok(0));
    assert_eq!(copy.log.kept_bytes(), copy.cursor.position().offset);
}

#[test]
fn a_full_volume_refuses_a_write_cleanly_and_takes_it_when_space_returns() {
    for free in [0, 1, 100, 600, 1_100, 1_700] {
        let (disk, mut copy) = active();
        copy.commit_many(2, 300);
        let (position, frames) = (copy.cursor.position(), read_all(&copy.log));
        let used: u64 = disk.bytes(&file_of(1)).expect("exists").len() as u64;
        disk.set_quota(Some(used + free));
        let error = copy.append(5_000).expect_err("no room");
        assert_eq!(error, LogError::NoSpace, "free {free}");
        assert_eq!(copy.log.position(), position);
        copy.log.sync().expect("not poisoned");
        assert_eq!(read_all(&copy.log), frames);
        assert!(!names(&disk).contains(&format!("{:016x}.klog", 2)), "free {free}");
        assert!(verify(&disk, &home()).expect("reads").is_intact());
        disk.set_quota(None);
        let frame = copy.commit(5_000).expect("takes it now");
        drop(copy);
        disk.crash(free);
        let (_, recovery) = open(&disk, Position::ZERO).expect("opens");
        assert_eq!((recovery.state.end, recovery.damage), (frame.end(), None));
    }
}

#[test]
fn the_last_bytes_of_a_volume_go_to_frames_not_to_zeros() {
    let (disk, mut copy) = active();
    copy.commit(10).expect("writes");
    let end = copy.cursor.position().offset;
    let length = disk.bytes(&file_of(1)).expect("exists").len() as u64;
    assert!(length > end, "zeros lie ahead");
    disk.set_quota(Some(length + 300));
    let bytes = usize::try_from(length - end).expect("small");
    copy.commit(bytes).expect("fits without zeros");
    assert_eq!(disk.bytes(&file_of(1)).expect("exists").len() as u64, copy.log.position().offset);
}

#[test]
fn a_group_costs_one_sync_and_a_roll_one_more() {
    let (disk, mut copy) = active();
    copy.commit(10).expect("writes");
    let before = disk.syncs();
    copy.append(100).expect("writes");
    copy.append(100).expect("writes");
    copy.log.sync().expect("syncs");
    assert_eq!(disk.syncs() - before, 1);
    copy.log.sync().expect("syncs");
    assert_eq!(disk.syncs() - before, 1, "nothing to sync");
    let before = disk.syncs();
    copy.append(100).expect("writes");
    copy.append(4_000).expect("rolls");
    copy.log.sync().expect("syncs");
    assert_eq!(disk.syncs() - before, 2, "one per file");
}

#[test]
fn a_group_in_written_blocks_is_one_disk_call() {
    let (disk, mut copy) = active();
    copy.commit(10).expect("writes");
    let before = disk.operations();
    copy.append(100).expect("writes");
    assert_eq!(disk.operations() - before, 1);
}

#[test]
fn a_rolled_generation_is_cut_to_its_length() {
    let (disk, mut copy) = active();
    copy.commit_many(8, 1_000);
    for generation in 1..copy.cursor.position().generation.0 {
        let next = copy.log.header(Generation(generation + 1)).expect("kept");
        let length = disk.bytes(&file_of(generation)).expect("exists").len() as u64;
        assert_eq!(length, next.previous_end.offset);
    }
}
