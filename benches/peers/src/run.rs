//! One run: every system in turn, started, measured and removed, as many rounds as the plan says.
//!
//! Only one system runs at a time, so that none pays for another's idling. The order is the same in
//! every round; what of the machine drifts is spread over all by the rounds.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::disk;
use crate::load::{self, Work, Writers, millis};
use crate::options::{Kind, Plan};
use crate::place::Place;
use crate::report::{Results, Row, Sample};
use crate::target::{self, Fault, Purpose, Target};

/// Clients that fill, and that write batches.
const FEW: usize = 8;
/// Clients that write while the active role moves.
const WRITERS: usize = 4;
/// Puts that must be acknowledged before a fault and after it.
const PROGRESS: u64 = 200;

const LOADS: [(Row, Work, usize); 5] = [
    (Row::Puts1, Work::Put, 1),
    (Row::Puts16, Work::Put, 16),
    (Row::Puts64, Work::Put, 64),
    (Row::Gets64, Work::Get, 64),
    (Row::Batches, Work::Batch, FEW),
];

/// Measures everything into `results`. What a system fails at is a note, and the run goes on.
pub(crate) async fn run(kinds: &[Kind], plan: &Plan, place: &Place, results: &mut Results) {
    for round in 1..=plan.rounds {
        for kind in kinds {
            let title = kind.title();
            eprintln!("peers: round {round} of {}: {title}", plan.rounds);
            if let Err(error) = one(*kind, plan, place, results).await {
                let note = format!("{title}, round {round}: {error:#}");
                eprintln!("peers: {note}");
                results.notes.push(note);
            }
        }
    }
}

async fn one(kind: Kind, plan: &Plan, place: &Place, results: &mut Results) -> Result<()> {
    place.clear()?;
    let disk = disk::measure(place.path(), plan.duration.min(Duration::from_secs(2)));
    results.add(Row::Disk, kind, disk.context("measure the disk")?);
    let mut target = target::start(kind, place).await.context("start it")?;
    results.versions.insert(kind, target.version());
    let mut round = Round { kind, plan, target: &mut *target, results };
    round.fill(plan.keys * plan.value_bytes as u64).await.context("fill it")?;
    for (row, work, clients) in LOADS {
        round.load(row, work, clients).await.with_context(|| format!("{row:?}"))?;
    }
    let abilities = round.target.abilities();
    if abilities.catches_up {
        round.catch_up().await.context("let a copy catch up")?;
    }
    let (bytes, seconds) = round.target.seed().await.context("seed a copy")?;
    round.add_megabytes(Row::Seed, bytes, seconds);
    round.target.expect_faults().await.context("prepare for faults")?;
    round.gaps(Row::Switchover, plan.switchovers, None).await.context("switch over")?;
    let fault = Some(Fault::Member);
    round.gaps(Row::MemberKilled, plan.kills, fault).await.context("kill the member")?;
    if abilities.has_data_process {
        let fault = Some(Fault::Process);
        round.gaps(Row::ProcessKilled, plan.kills, fault).await.context("kill the process")?;
    }
    Ok(())
}

/// One system in one round.
struct Round<'a> {
    kind: Kind,
    plan: &'a Plan,
    target: &'a mut dyn Target,
    results: &'a mut Results,
}

impl Round<'_> {
    async fn fill(&self, bytes: u64) -> Result<u64> {
        load::fill(self.target.connect(FEW, Purpose::Load).await?, self.plan, bytes).await
    }

    async fn load(&mut self, row: Row, work: Work, clients: usize) -> Result<()> {
        let connections = self.target.connect(clients, Purpose::Load).await?;
        let seen = load::run(connections, work, self.plan).await?;
        let records = if work == Work::Batch { self.plan.batch } else { 1 };
        let rate = seen.latencies.len() as f64 / self.plan.duration.as_secs_f64();
        let sample = Sample::with_latencies(rate * records as f64, millis(&seen.latencies));
        self.results.add(row, self.kind, sample);
        if seen.errors > 0 {
            let title = self.kind.title();
            let note = format!("{title}, {row:?}: {} errors: {}", seen.errors, seen.last_error);
            self.results.notes.push(note);
        }
        Ok(())
    }

    fn add_megabytes(&mut self, row: Row, bytes: u64, seconds: f64) {
        let sample = Sample::new(bytes as f64 / 1e6 / seconds.max(1e-9));
        self.results.add(row, self.kind, sample);
    }

    async fn catch_up(&mut self) -> Result<()> {
        self.target.stop_passive().await?;
        let bytes = self.fill(self.plan.catch_up_bytes).await?;
        let begun = Instant::now();
        self.target.catch_up().await?;
        self.add_megabytes(Row::CatchUp, bytes, begun.elapsed().as_secs_f64());
        self.target.recover().await
    }

    /// The longest time without an acknowledged put around each fault; `None` is a switchover.
    async fn gaps(&mut self, row: Row, count: u32, fault: Option<Fault>) -> Result<()> {
        for _ in 0..count {
            let connections = self.target.connect(WRITERS, Purpose::Fault).await?;
            let writers = Writers::start(connections, self.plan);
            writers.progress(PROGRESS).await?;
            writers.reset_gap();
            match fault {
                None => self.target.switch_over().await?,
                Some(fault) => self.target.kill(fault).await?,
            }
            writers.progress(PROGRESS).await?;
            let gap = writers.longest_gap();
            writers.stop().await;
            self.results.add(row, self.kind, Sample::new(gap.as_secs_f64() * 1e3));
            self.target.recover().await?;
        }
        Ok(())
    }
}
