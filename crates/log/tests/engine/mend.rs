//! Mending: whatever byte rots, in any file, is found by reading and put right from another copy,
//! at any crash, while the log is open or after it was opened with damage.

use keelson_env::{Disk, SimDisk};
use keelson_format::{CursorState, FrameInfo};
use keelson_log::{Log, LogError};
use keelson_types::{Generation, Position};

use crate::harness::{Copy, file_of, names, open, read_all, sim};

/// Two copies with the same three generations, the last one open.
fn twins() -> (SimDisk, Copy, Copy) {
    let (disk, other) = (sim(), sim());
    let (mut copy, mut twin) = (Copy::on(&disk), Copy::on(&other));
    for copy in [&mut copy, &mut twin] {
        copy.begin(1).expect("begins");
        copy.commit_many(9, 900);
    }
    assert_eq!(copy.log.position(), twin.log.position());
    assert_eq!(copy.log.position().generation, Generation(3));
    (disk, copy, twin)
}

/// Where the first damage lies that reading the whole log meets.
fn damage_of(log: &Log) -> Option<Position> {
    let mut reader = log.reader();
    let mut at = Position { generation: log.first_generation()?, offset: 0 };
    loop {
        match reader.read(at, log.position(), 1_500) {
            Ok(chunks) => at = chunks.last()?.end,
            Err(LogError::Damaged(damage)) => return Some(damage.position),
            Err(error) => panic!("{error}"),
        }
    }
}

/// As a driver does it: verified bytes of the twin from the damage on, until the own ones follow.
fn mend(log: &mut Log, twin: &Copy, damage: Position) -> Result<(), LogError> {
    let mut state: CursorState = log.state_before(damage)?;
    let mut reader = twin.reader();
    loop {
        let chunks = reader.read(state.position, twin.log.position(), 1)?;
        let Some(chunk) = chunks.first() else { return Ok(()) };
        state.verify(chunk).expect("the twin's log continues ours");
        log.mend(chunk)?;
        if log.goes_on(&state)? {
            return Ok(());
        }
    }
}

fn size(disk: &SimDisk, generation: u64) -> u64 {
    disk.open(&file_of(generation)).expect("opens").size().expect("has one")
}

/// Places that were written: behind the end of the open generation lie zeros.
fn written(disk: &SimDisk, copy: &Copy) -> Vec<(u64, u64)> {
    let end = copy.log.position();
    let length = |g: u64| if g == end.generation.0 { end.offset } else { size(disk, g) };
    (1..=end.generation.0).flat_map(|g| (0..length(g)).step_by(13).map(move |at| (g, at))).collect()
}

fn frames(copy: &Copy) -> Vec<FrameInfo> {
    read_all(&copy.log)
}

/// S15: any byte, in a closed generation or in the open one, while the log goes on.
#[test]
fn any_byte_that_rots_is_found_and_mended_while_the_log_is_written() {
    let (disk, mut copy, mut twin) = twins();
    for (number, (generation, offset)) in written(&disk, &copy).into_iter().enumerate() {
        assert!(disk.flip_bit(&file_of(generation), offset, (number % 8) as u8));
        let damage = damage_of(&copy.log).expect("found");
        assert!(damage.generation.0 == generation, "{damage} for {generation}:{offset}");
        mend(&mut copy.log, &twin, damage).expect("mended");
        assert_eq!(damage_of(&copy.log), None, "{generation}:{offset}");
    }
    for copy in [&mut copy, &mut twin] {
        copy.commit_many(3, 900);
    }
    assert_eq!(frames(&copy), frames(&twin));
    let kept = names(&disk).iter().filter(|name| name.starts_with("damaged-")).count();
    assert!((1..=16).contains(&kept), "{kept} pieces are kept aside");
}

/// R4: a log that was opened with damage has its acknowledged bytes again after a mend, and only
/// then reaches its floor. Recovery reads back to the floor; what rotted before it is found later.
#[test]
fn a_log_opened_with_damage_is_whole_again_after_the_mend() {
    for (generation, offset, seen) in
        [(3, 3, true), (3, 600, true), (2, 700, false), (2, 20, true), (1, 530, false)]
    {
        let (disk, copy, twin) = twins();
        let end = copy.log.position();
        drop(copy);
        assert!(disk.flip_bit(&file_of(generation), offset, 2));
        let (mut log, recovery) = open(&disk, end).expect("opens");
        assert_eq!(recovery.damage.is_some(), seen, "{generation}:{offset}");
        let found = recovery.damage.map(|damage| damage.position).or_else(|| damage_of(&log));
        mend(&mut log, &twin, found.expect("found")).expect("mended");
        drop(log);
        let (log, recovery) = open(&disk, end).expect("opens");
        assert_eq!(recovery.damage, None, "{generation}:{offset}");
        assert_eq!(log.position(), end);
        assert_eq!(read_all(&log), frames(&twin));
    }
}

#[test]
fn a_lost_file_comes_back() {
    let (disk, mut copy, twin) = twins();
    disk.remove(&file_of(2)).expect("removes");
    let damage = damage_of(&copy.log).expect("found");
    mend(&mut copy.log, &twin, damage).expect("mended");
    assert_eq!(damage_of(&copy.log), None);
    assert_eq!(frames(&copy), frames(&twin));
}

#[test]
fn a_crash_in_a_mend_leaves_the_damage_or_nothing() {
    let run = |disk: &SimDisk, twin: &Copy| -> Result<(), LogError> {
        let (mut log, recovery) = open(disk, twin.log.position())?;
        match recovery.damage {
            Some(damage) => mend(&mut log, twin, damage.position),
            None => Ok(()),
        }
    };
    let damaged = || {
        let (disk, copy, twin) = twins();
        drop(copy);
        assert!(disk.flip_bit(&file_of(3), 600, 5));
        (disk, twin)
    };
    let (dry, twin) = damaged();
    let before = dry.operations();
    run(&dry, &twin).expect("works");
    for step in before + 1..=dry.operations() {
        for seed in 0..4 {
            let (disk, twin) = damaged();
            disk.crash_at(step);
            let _ = run(&disk, &twin);
            disk.crash(seed);
            run(&disk, &twin).expect("mended at the next start");
            let (log, recovery) = open(&disk, twin.log.position()).expect("opens");
            assert_eq!(recovery.damage, None, "step {step}, seed {seed}");
            assert_eq!(read_all(&log), frames(&twin));
        }
    }
}

#[test]
fn bytes_beyond_the_durable_end_or_before_the_log_are_refused() {
    let (_disk, mut copy, mut twin) = twins();
    let end = twin.log.position();
    twin.commit(10).expect("commits");
    let beyond = twin.reader().read(end, twin.log.position(), 1).expect("reads");
    assert!(matches!(copy.log.mend(&beyond[0]), Err(LogError::NotABorder(_))));
    let first = Position { generation: Generation(1), offset: 0 };
    let old = twin.reader().read(first, end, 1).expect("reads");
    copy.log.truncate_before(Generation(2)).expect("truncates");
    assert!(matches!(copy.log.mend(&old[0]), Err(LogError::Truncated { .. })));
}
