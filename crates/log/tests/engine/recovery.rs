//! What recovery calls torn, what it calls damage, and what it refuses to open.

use keelson_env::{Disk, SimDisk};
use keelson_format::{Chunk, CursorState};
use keelson_log::{DamageKind, Evidence, Log, LogError, verify};
use keelson_types::{Generation, Position, StreamId};

use crate::harness::{CONFIG, Copy, file_of, home, names, open, read_all, sim, stream};

fn committed(frames: usize, bytes: usize) -> (SimDisk, Copy) {
    let disk = sim();
    let mut copy = Copy::on(&disk);
    copy.begin(1).expect("writes");
    copy.commit_many(frames, bytes);
    (disk, copy)
}

#[test]
fn an_empty_directory_is_an_empty_log() {
    let disk = sim();
    let (log, recovery) = open(&disk, Position::ZERO).expect("opens");
    assert_eq!(recovery.state, CursorState::empty(stream()));
    assert_eq!((recovery.first, recovery.damage, recovery.cut), (None, None, None));
    assert_eq!(log.position(), Position::ZERO);
}

#[test]
fn a_clean_log_opens_where_it_ended() {
    let (disk, copy) = committed(20, 500);
    let state = *copy.cursor.state();
    let frames = read_all(&copy.log);
    drop(copy);
    disk.crash(3);
    let (log, recovery) = open(&disk, Position::ZERO).expect("opens");
    assert_eq!(recovery.state, state);
    assert_eq!((recovery.damage, recovery.cut), (None, None));
    assert_eq!(recovery.committed, frames[18].end().position, "of the last frame's claim");
    assert_eq!(recovery.epochs.len(), 1);
    assert_eq!(read_all(&log), frames);
}

/// Two frames of one group, of which the first does not reach the disk.
#[test]
fn a_hole_that_nobody_called_durable_is_torn() {
    let (disk, mut copy) = committed(3, 500);
    let end = copy.cursor.end();
    let first = copy.append(100).expect("writes");
    copy.append(100).expect("writes");
    copy.log.sync().expect("syncs, but the test undoes it");
    drop(copy);
    disk.flip_bit(&file_of(1), first.header.position.offset + 5, 0);
    let (log, recovery) = open(&disk, Position::ZERO).expect("opens");
    assert_eq!((recovery.state.end, recovery.damage), (end, None));
    let cut = recovery.cut.expect("cut");
    assert_eq!((cut.position, cut.frames), (end.position, 1));
    assert_eq!(read_all(&log).len(), 3);
}

#[test]
fn a_hole_before_a_frame_that_calls_it_durable_is_damage() {
    let (disk, copy) = committed(5, 100);
    let frames = read_all(&copy.log);
    drop(copy);
    for (index, byte) in [(2, 0), (2, 50), (3, 111), (1, 150)] {
        let disk = disk.duplicate();
        let at = frames[index].header.position;
        disk.flip_bit(&file_of(1), at.offset + byte, 4);
        let (mut log, recovery) = open(&disk, Position::ZERO).expect("opens");
        let damage = recovery.damage.expect("damage");
        assert_eq!(damage.position, at, "frame {index}, byte {byte}");
        assert!(matches!(damage.evidence, Evidence::LaterFrame { .. }), "{damage}");
        assert_eq!(recovery.state.position, at);
        let refused = log.write(&[]).expect_err("takes no writes");
        assert_eq!(refused, LogError::Damaged(damage));
        assert_eq!(read_all(&log), frames[..index]);
        assert_eq!(verify(&disk, &home()).expect("reads").damages[0].position, at);
        let report = log.cut(at).expect("cuts");
        assert!(report.salvage.is_some());
        assert_eq!(log.damage(), None);
    }
}

#[test]
fn the_last_frame_is_damage_only_if_the_copy_knows_better() {
    let (disk, copy) = committed(3, 100);
    let last = read_all(&copy.log)[2].clone();
    drop(copy);
    disk.flip_bit(&file_of(1), last.header.position.offset + 120, 1);
    let (twin, floor) = (disk.duplicate(), last.end().position);
    let (_, recovery) = open(&twin, Position::ZERO).expect("opens");
    assert_eq!((recovery.damage, recovery.cut.map(|cut| cut.position)), {
        (None, Some(last.header.position))
    });
    let (_, recovery) = open(&disk, floor).expect("opens");
    let damage = recovery.damage.expect("damage");
    assert_eq!((damage.position, damage.evidence), (last.header.position, Evidence::Floor(floor)));
    assert_eq!(damage.kind.code(), "payload_checksum");
}

#[test]
fn a_floor_beyond_everything_is_damage_at_the_end() {
    let (disk, copy) = committed(3, 100);
    let end = copy.cursor.position();
    drop(copy);
    let floor = Position::new(2, 700);
    let (_, recovery) = open(&disk, floor).expect("opens");
    let damage = recovery.damage.expect("a file is lost");
    assert_eq!((damage.position, damage.evidence), (end, Evidence::Floor(floor)));
}

#[test]
fn a_missing_generation_is_damage_at_the_end_before_it() {
    let (disk, copy) = committed(20, 900);
    let end = copy.log.header(Generation(3)).expect("kept").previous_end;
    drop(copy);
    disk.remove(&file_of(3)).expect("removes");
    let (mut log, recovery) = open(&disk, Position::ZERO).expect("opens");
    let damage = recovery.damage.expect("damage");
    assert_eq!(damage.kind, DamageKind::MissingGeneration(Generation(3)));
    assert_eq!(damage.position, end);
    let report = log.cut(end).expect("cuts");
    assert!(report.salvaged_bytes > 0);
    assert!(!names(&disk).contains(&format!("{:016x}.klog", 4)));
    assert_eq!(log.position(), end);
}

#[test]
fn a_broken_header_is_damage_at_the_end_before_it() {
    let (disk, copy) = committed(12, 900);
    let end = copy.log.header(Generation(2)).expect("kept").previous_end;
    drop(copy);
    disk.flip_bit(&file_of(2), 70, 0);
    let (_, recovery) = open(&disk, Position::ZERO).expect("opens");
    let damage = recovery.damage.expect("damage");
    assert_eq!((damage.position, damage.kind.code()), (end, "header_checksum"));
}

#[test]
fn a_hole_in_a_closed_generation_is_found_when_the_tail_does_not_vouch_for_it() {
    let disk = sim();
    let mut copy = Copy::on(&disk);
    copy.begin(1).expect("writes");
    copy.commit_many(2, 100);
    // One group over three generations: none of its frames calls any other durable.
    let group: Vec<_> = (0..3).map(|_| copy.append(3_000).expect("writes")).collect();
    copy.log.sync().expect("syncs");
    drop(copy);
    disk.flip_bit(&file_of(2), group[1].header.position.offset + 300, 2);
    let (log, recovery) = open(&disk, Position::ZERO).expect("opens");
    assert_eq!(recovery.damage, None);
    assert_eq!(recovery.state.position, group[1].header.position);
    assert_eq!(recovery.cut.expect("cut").frames, 2, "the broken frame's header and the last one");
    assert_eq!(read_all(&log).len(), 3);
    assert!(!names(&disk).contains(&format!("{:016x}.klog", 3)));
}

#[test]
fn bytes_of_a_failed_sync_are_not_reported_after_a_restart() {
    let (disk, mut copy) = committed(2, 100);
    let end = copy.cursor.end();
    copy.append(100).expect("writes");
    disk.fail_sync(1);
    let error = copy.log.sync().expect_err("fails");
    assert!(matches!(error, LogError::Poisoned(_)), "{error}");
    assert!(matches!(copy.append(10), Err(LogError::Poisoned(_))), "never again");
    assert!(matches!(copy.log.sync(), Err(LogError::Poisoned(_))), "never retried");
    assert_eq!(copy.log.durable_end(), end);
    drop(copy);
    disk.restart_process();
    let (_, recovery) = open(&disk, Position::ZERO).expect("opens");
    assert_eq!(recovery.state.end, end, "the page cache still shows the frame");
}

#[test]
fn a_failed_write_poisons() {
    let (disk, mut copy) = committed(2, 100);
    disk.fail_write(1);
    assert!(matches!(copy.append(100), Err(LogError::Poisoned(_))));
    assert!(matches!(copy.log.truncate_before(Generation(1)), Err(LogError::Poisoned(_))));
    assert!(matches!(copy.log.cut(Position::new(1, 512)), Err(LogError::Poisoned(_))));
    assert_eq!(read_all(&copy.log).len(), 2, "readers go on");
}

#[test]
fn another_stream_and_a_newer_format_are_refused() {
    let (disk, copy) = committed(2, 100);
    let chunk = copy.reader().read(Position::ZERO, copy.log.position(), 1).expect("reads");
    drop(copy);
    let other = StreamId::from_u128(1);
    let shared = std::sync::Arc::new(disk.clone());
    let opened = Log::open(shared, &home(), CONFIG, other, Position::ZERO);
    let error = opened.expect_err("another stream");
    assert_eq!(error, LogError::WrongStream { expected: other, found: stream() });
    let mut header = chunk[0].bytes[..512].to_vec();
    header[8] = 9;
    let crc = crc32fast::hash(&header[..508]);
    header[508..].copy_from_slice(&crc.to_le_bytes());
    disk.open(&file_of(1)).expect("opens").write_at(0, &header).expect("writes");
    let error = open(&disk, Position::ZERO).expect_err("newer");
    assert_eq!(error, LogError::NewerFormat { generation: Generation(1), version: 9 });
}

#[test]
fn a_torn_header_of_the_first_generation_leaves_an_empty_log() {
    let disk = sim();
    let mut copy = Copy::on(&disk);
    copy.begin(1).expect("writes");
    drop(copy);
    disk.flip_bit(&file_of(1), 20, 0);
    let (mut log, recovery) = open(&disk, Position::ZERO).expect("opens");
    assert_eq!(recovery.state, CursorState::empty(stream()));
    assert!(recovery.cut.is_some());
    let mut cursor = keelson_format::Cursor::new(recovery.state, crate::harness::FRAMING);
    let (chunk, _) = cursor.begin_epoch(keelson_types::Epoch::new(0, 2), 0).expect("rises");
    log.write(&[chunk]).expect("begins again");
}

#[test]
fn a_generation_of_an_epoch_without_frames_keeps_the_exact_end() {
    let (disk, mut copy) = committed(2, 100);
    let end = copy.cursor.end();
    copy.begin(2).expect("writes");
    copy.begin(3).expect("writes");
    copy.log.sync().expect("syncs");
    drop(copy);
    let (_, recovery) = open(&disk, Position::ZERO).expect("opens");
    assert_eq!(recovery.state.end, end, "the last frame's, not the last header's");
    assert_eq!(recovery.state.epoch, keelson_types::Epoch::new(0, 3));
    assert_eq!(recovery.state.position, Position::new(3, 512));
    assert_eq!(recovery.epochs.len(), 3);
    assert!(recovery.committed > Position::ZERO, "frames before the empty generations were read");
}

#[test]
fn every_flipped_bit_of_a_log_is_found() {
    let (disk, copy) = committed(4, 60);
    let length = copy.log.position().offset;
    let last = read_all(&copy.log)[3].header.position.offset;
    drop(copy);
    for offset in 0..length {
        let disk = disk.duplicate();
        disk.flip_bit(&file_of(1), offset, (offset % 8) as u8);
        let (_, recovery) = open(&disk, Position::new(1, length)).expect("opens");
        let damage = recovery.damage.unwrap_or_else(|| panic!("byte {offset} went unnoticed"));
        assert!(damage.position.offset <= offset.min(last), "byte {offset}: {damage}");
    }
}

#[test]
fn a_chunk_that_does_not_continue_is_refused_and_nothing_is_written() {
    let (disk, mut copy) = committed(2, 100);
    let before = disk.operations();
    let at = copy.cursor.position();
    let away = Chunk::new(Position::new(1, at.offset + 1), bytes::Bytes::from_static(b"x"));
    let error = copy.log.write(&[away]).expect_err("refused");
    assert!(matches!(error, LogError::NotContiguous { .. }), "{error}");
    let header = Chunk::new(Position::new(2, 0), bytes::Bytes::from_static(&[0; 512]));
    let error = copy.log.write(&[header]).expect_err("refused");
    assert!(matches!(error, LogError::Header { .. }), "{error}");
    assert_eq!(disk.operations(), before);
}

/// A passive got frames of an active that had them durable long ago, and died before its own sync.
/// What it finds in the cache and reports as its end must survive a power loss from then on.
#[test]
fn what_a_dead_passive_left_in_the_cache_is_durable_once_it_is_reported() {
    let (_, active) = committed(60, 300);
    let end = active.log.position();
    let chunks = active.reader().read(Position::ZERO, end, usize::MAX).expect("reads");
    for seed in 0..20 {
        let disk = sim();
        let mut passive = Copy::on(&disk);
        passive.receive(&chunks).expect("takes the log");
        drop(passive);
        disk.restart_process();
        let (log, recovery) = open(&disk, Position::ZERO).expect("opens");
        assert_eq!(recovery.state.position, end, "nothing was lost with the process");
        drop(log);
        disk.crash(seed);
        let (log, recovery) = open(&disk, Position::ZERO).expect("opens");
        assert_eq!((recovery.damage, recovery.state.position), (None, end), "seed {seed}");
        assert_eq!(read_all(&log).len(), 60, "seed {seed}");
    }
}
