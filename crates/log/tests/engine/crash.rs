//! A crash at every changing disk call of a scenario, with several outcomes each: nothing that was
//! reported durable is lost, nothing false is reported, and the log goes on.

use keelson_env::SimDisk;
use keelson_format::FrameInfo;
use keelson_log::{LogError, verify};
use keelson_types::{Generation, Position};

use crate::harness::{Copy, home, names, open, read_all, sim};

const SEEDS: u64 = 6;

/// What a scenario was told before it crashed.
#[derive(Default)]
struct Told {
    /// Frames reported durable and not cut.
    durable: Vec<FrameInfo>,
    /// Generations before this may be gone.
    truncated: Generation,
    /// A cut to here was begun.
    cut: Option<Position>,
    /// Durable frames behind that cut: in the log, or in a salvage file.
    fork: Vec<FrameInfo>,
}

impl Told {
    /// Durable frames that must still be there.
    fn required(&self) -> Vec<&FrameInfo> {
        let cut = self.cut.unwrap_or(Position::new(u64::MAX, 0));
        self.durable
            .iter()
            .filter(|frame| frame.header.position.generation >= self.truncated)
            .filter(|frame| frame.end().position <= cut)
            .collect()
    }
}

fn group(copy: &mut Copy, told: &mut Told, sizes: &[usize]) -> Result<(), LogError> {
    let frames: Result<Vec<_>, _> = sizes.iter().map(|bytes| copy.append(*bytes)).collect();
    copy.log.sync()?;
    told.durable.extend(frames?);
    Ok(())
}

/// Epochs, groups, rolls, a large frame, truncation, recycling and a cut.
fn active(disk: &SimDisk, told: &mut Told) -> Result<(), LogError> {
    let (mut copy, _) = Copy::open(disk)?;
    copy.begin(1)?;
    group(&mut copy, told, &[10])?;
    group(&mut copy, told, &[900, 20, 700])?;
    group(&mut copy, told, &[1_500, 1_500, 1_500])?;
    copy.begin(2)?;
    group(&mut copy, told, &[300])?;
    group(&mut copy, told, &[6_000, 40])?;
    told.truncated = Generation(3);
    copy.log.truncate_before(Generation(3))?;
    group(&mut copy, told, &[2_000, 2_000])?;
    group(&mut copy, told, &[700])?;
    // A fork of several groups, whose frames call each other durable, over three generations.
    let to = copy.cursor.position();
    group(&mut copy, told, &[60])?;
    copy.begin(3)?;
    for bytes in [100, 200, 3_000, 3_000] {
        group(&mut copy, told, &[bytes])?;
    }
    told.cut = Some(to);
    told.fork = told.durable.clone();
    told.fork.retain(|frame| frame.end().position > to);
    copy.log.cut(to)?;
    told.durable.retain(|frame| frame.end().position <= to);
    told.cut = None;
    copy.cursor = keelson_format::Cursor::new(copy.log.state_at(to)?, *copy.cursor.config());
    copy.begin(4)?;
    group(&mut copy, told, &[50, 60])
}

fn salvaged(disk: &SimDisk, frame: &FrameInfo) -> bool {
    names(disk).iter().filter(|name| name.starts_with("salvage-")).any(|name| {
        let bytes = disk.bytes(&home().join(name)).expect("listed");
        bytes.windows(frame.bytes.len()).any(|window| window == frame.bytes)
    })
}

fn check(disk: &SimDisk, told: &Told, what: &str) {
    let (mut copy, recovery) = Copy::open(disk).unwrap_or_else(|e| panic!("{what}: {e}"));
    assert_eq!(recovery.damage, None, "{what}");
    let required = told.required();
    let found = read_all(&copy.log);
    for frame in &required {
        assert!(found.contains(frame), "{what}: lost {:?}", frame.header.position);
    }
    let lost = told.fork.iter().filter(|frame| !found.contains(frame));
    for frame in lost {
        assert!(salvaged(disk, frame), "{what}: {:?} is not saved", frame.header.position);
    }
    if let Some(last) = required.last() {
        assert!(recovery.state.end >= last.end() || told.cut.is_some(), "{what}");
    }
    // It goes on in a new epoch, on the same files.
    copy.begin(9).unwrap_or_else(|e| panic!("{what}: {e}"));
    let frame = copy.commit(700).unwrap_or_else(|e| panic!("{what}: {e}"));
    let count = found.len() + 1;
    drop(copy);
    disk.crash(1);
    let (log, recovery) = open(disk, frame.end().position).expect("opens");
    assert_eq!((recovery.damage, recovery.state.end), (None, frame.end()), "{what}");
    assert_eq!(read_all(&log).len(), count, "{what}");
    let report = verify(disk, &home()).expect("reads");
    assert!(report.is_intact(), "{what}: {:?}", report.damages);
}

fn at_every_step(scenario: fn(&SimDisk, &mut Told) -> Result<(), LogError>) {
    let dry = sim();
    scenario(&dry, &mut Told::default()).expect("the scenario works without a crash");
    let steps = dry.operations();
    assert!(steps > 40, "only {steps} steps");
    for step in 1..=steps {
        for seed in 0..SEEDS {
            let disk = sim();
            let mut told = Told::default();
            disk.crash_at(step);
            assert!(scenario(&disk, &mut told).is_err(), "step {step} was not reached");
            disk.crash(seed * 1_000 + step);
            check(&disk, &told, &format!("step {step} of {steps}, seed {seed}"));
        }
    }
}

#[test]
fn active_crashes_at_every_step() {
    at_every_step(active);
}

#[test]
fn active_process_dies_at_every_step() {
    let dry = sim();
    active(&dry, &mut Told::default()).expect("works");
    for step in 1..=dry.operations() {
        let disk = sim();
        let mut told = Told::default();
        disk.crash_at(step);
        assert!(active(&disk, &mut told).is_err());
        disk.restart_process();
        check(&disk, &told, &format!("step {step}"));
    }
}

#[test]
fn recovery_crashes_at_every_step_of_its_own() {
    for seed in 0..40 {
        let torn = || {
            let disk = sim();
            let mut told = Told::default();
            let mut copy = Copy::on(&disk);
            copy.begin(1).expect("writes");
            group(&mut copy, &mut told, &[100, 200]).expect("writes");
            // Torn: several frames and two new generations, never synced.
            for bytes in [900, 900, 2_000, 2_000, 2_000, 100] {
                copy.append(bytes).expect("writes");
            }
            disk.crash(seed);
            (disk, told)
        };
        let (disk, _) = torn();
        let before = disk.operations();
        open(&disk, Position::ZERO).expect("opens");
        for step in before + 1..=disk.operations() {
            let (disk, told) = torn();
            disk.crash_at(step);
            assert!(open(&disk, Position::ZERO).is_err());
            disk.crash(seed + step);
            check(&disk, &told, &format!("seed {seed}, step {step}"));
        }
    }
}

/// A passive writes groups of frames that already claim to be durable on the active.
#[test]
fn a_passive_crashes_at_every_step_and_loses_nothing_acknowledged() {
    let source_disk = sim();
    let mut source = Copy::on(&source_disk);
    source.begin(1).expect("writes");
    source.commit_many(12, 600);
    let chunks = source.reader().read(Position::ZERO, source.log.position(), 1 << 20);
    let chunks = chunks.expect("reads");
    let run = |disk: &SimDisk, acked: &mut Position| -> Result<(), LogError> {
        let (mut copy, _) = Copy::open(disk)?;
        for chunk in &chunks {
            copy.receive(std::slice::from_ref(chunk))?;
            *acked = copy.log.sync()?.position;
        }
        Ok(())
    };
    let dry = sim();
    run(&dry, &mut Position::default()).expect("works");
    let mut damaged = 0;
    for step in 1..=dry.operations() {
        for seed in 0..SEEDS {
            let disk = sim();
            let mut acked = Position::ZERO;
            disk.crash_at(step);
            assert!(run(&disk, &mut acked).is_err());
            disk.crash(seed * 500 + step);
            let (mut log, recovery) = open(&disk, acked).expect("opens");
            assert!(recovery.state.end.position >= acked, "step {step}, seed {seed}");
            if recovery.damage.is_some() {
                damaged += 1;
                log.cut(recovery.state.position).expect("cuts");
            }
            // The rest is fetched again and gives the same bytes.
            let mut copy = Copy::on(&disk);
            let more = source.reader().read(copy.log.position(), source.log.position(), 1 << 20);
            copy.receive(&more.expect("reads")).expect("continues");
            copy.log.sync().expect("syncs");
            assert_eq!(read_all(&copy.log), read_all(&source.log));
        }
    }
    assert!(damaged > 0, "torn groups of a passive are never taken for damage: check the claims");
}
