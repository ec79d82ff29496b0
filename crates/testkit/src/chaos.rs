//! Chaos: real processes under seeded random faults, with writers and an oracle, and histories of
//! registers that are checked for linearizability.
//!
//! A fault is drawn as a whole, so that the seed alone decides which one comes and whom it hits. It
//! is held for a while, undone, and followed by a wait until every copy counts again: each fault
//! meets a cluster that may lose one member without losing anything. (`kill_loop` of the black-box
//! tests hits clusters that have not recovered.) What is measured is the longest time without an
//! acknowledged write, from the fault until the cluster was whole again.

mod containers;
mod expiry;
mod fault;
mod ground;
mod history;
mod hold;
mod hosting;
mod processes;
mod registers;
mod script;
mod table;

use std::ops::Range;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

pub use fault::{HOLD_MILLIS, Kind, Victim};
pub use hosting::prepare;
pub use script::{Script, time};

use crate::{Verified, Writer, WriterOptions};
use containers::Containers;
use fault::Fault;
use ground::Ground;
use hold::Held;
use processes::Processes;
use registers::Registers;
use table::Table;

/// The database that is written.
const DATABASE: &str = "DB1";

/// Writes that must be acknowledged after a fault was undone, before the next one.
const WRITES_AFTER: u64 = 50;

/// Where members run.
#[derive(Clone, Debug)]
pub enum Where {
    /// As processes of this machine, of a cluster that the run makes.
    Processes {
        /// Another version of the program, which members change to and back.
        other: Option<PathBuf>,
    },
    /// In the containers that this file tells of, as `cargo xtask chaos --docker` writes it.
    Containers(PathBuf),
}

/// What a run is like.
#[derive(Clone, Debug)]
pub struct ChaosOptions {
    /// Decides everything that is drawn.
    pub seed: u64,
    /// How many faults.
    pub faults: u32,
    /// Which kinds; each comes once before any comes again.
    pub kinds: Vec<Kind>,
    /// Whom they hit.
    pub victim: Victim,
    /// How long they are held, in milliseconds. Those that take longer than `degrade_after` or
    /// `dismount_after` of the database show what a cluster does when it gives up waiting.
    pub hold_millis: Range<u64>,
    /// Faults that are named, instead of so many drawn ones.
    pub script: Option<Script>,
    /// Writes under way at the same time.
    pub writers: usize,
    /// Pause of a writer between two writes.
    pub pause: Duration,
    /// What is hit.
    pub place: Where,
}

/// What a run found.
#[derive(Debug)]
pub struct Outcome {
    /// Gaps by kind of fault, as text.
    pub table: String,
    /// Of the oracle of acknowledged writes.
    pub verified: Verified,
    /// Register operations in histories that were found linearizable, and histories.
    pub operations: usize,
    /// How many histories.
    pub histories: usize,
    /// All of it.
    pub took: Duration,
}

/// Runs faults until there were as many as asked for, then proves that nothing was lost.
///
/// # Errors
/// A lost or wrong record, a history that no order explains, copies that differ or do not come
/// back, an unexpected error in a log; all with the seed.
pub async fn run(options: &ChaosOptions) -> Result<Outcome> {
    match &options.place {
        Where::Processes { other } => {
            run_on(Processes::start(&options.kinds, other.clone()).await?, options).await
        }
        Where::Containers(file) => run_on(Containers::open(file).await?, options).await,
    }
}

async fn run_on(ground: impl Ground, options: &ChaosOptions) -> Result<Outcome> {
    let started = Instant::now();
    let mut field = Field::prepare(ground, options).await?;
    let database = field.ground.view().client.database(DATABASE);
    let registers = Registers::start(&database, options.seed).await?;
    field.writer.progress(100).await?;
    let kinds = field.possible(&options.kinds)?;
    match &options.script {
        Some(script) => play(&mut field, script).await?,
        None => draw(&mut field, &kinds, options).await?,
    }
    let Field { ground, writer, table, copies, .. } = field;
    let (operations, histories) = registers.stop().await?;
    let oracle = writer.stop().await?;
    let verified = oracle.verify(&database).await?;
    ground.view().wait_until_caught_up(DATABASE).await?;
    ground.view().equal_digest(DATABASE, copies).await?;
    ground.check_logs().await?;
    let took = started.elapsed();
    Ok(Outcome { table: table.to_string(), verified, operations, histories, took })
}

/// The faults of a script.
async fn play<G: Ground>(field: &mut Field<G>, script: &Script) -> Result<()> {
    for kind in script.kinds() {
        if let Some(why) = field.ground.lacks(kind) {
            bail!("{kind} cannot be done here: {why}");
        }
    }
    for line in 0..script.faults() {
        let active = field.place().await?;
        let leader = field.ground.view().client.admin().cluster_status().await?.leader;
        let fault = script.fault(line, field.ground.places(), (&active, &leader))?;
        let what = || format!("fault {} of the script", line + 1);
        field.round(line + 1, &fault).await.with_context(what)?;
    }
    Ok(())
}

/// As many as the options say, drawn.
async fn draw<G: Ground>(
    field: &mut Field<G>,
    kinds: &[Kind],
    options: &ChaosOptions,
) -> Result<()> {
    let mut random = StdRng::seed_from_u64(options.seed);
    let mut bag = Vec::new();
    for number in 1..=options.faults {
        if bag.is_empty() {
            refill(&mut bag, kinds, &mut random);
        }
        let kind = bag.pop().context("no kind of fault was chosen")?;
        let active = field.place().await?;
        let whom = (options.victim, &options.hold_millis);
        let fault = Fault::draw(kind, field.ground.places(), &active, whom, &mut random);
        field.round(number as usize, &fault).await.with_context(|| {
            format!("fault {number} ({kind}) of a run with seed {}", options.seed)
        })?;
    }
    Ok(())
}

/// Every kind once in a drawn order, then again.
fn refill(bag: &mut Vec<Kind>, kinds: &[Kind], random: &mut StdRng) {
    bag.extend(kinds);
    for last in (1..bag.len()).rev() {
        bag.swap(last, random.random_range(0..=last));
    }
}

/// A cluster under fire.
struct Field<G> {
    ground: G,
    writer: Writer,
    victim: Victim,
    /// Of the database.
    copies: usize,
    table: Table,
}

impl<G: Ground> Field<G> {
    /// Makes the database, with a copy on every member, and begins to write.
    async fn prepare(ground: G, options: &ChaosOptions) -> Result<Self> {
        match &options.script {
            Some(script) => println!("chaos: the {} faults of a script", script.faults()),
            None => println!("chaos: {} faults with seed {}", options.faults, options.seed),
        }
        let view = ground.view();
        // What is measured is how a failover goes, however many there were before.
        let unlimited = ["cluster", "settings", "set", "certificate_moves", "0"];
        view.cli.succeed(unlimited).await?;
        let members: Vec<_> = ground.places().iter().filter(|place| !place.witness).collect();
        let names: Vec<_> = members.iter().map(|place| place.name.as_str()).collect();
        let (names, copies) = (names.join(","), names.len());
        // Where there are sites, what was acknowledged must outlive any of them.
        let sites = members.iter().any(|place| place.site != members[0].site);
        let constraint = if sites { "second_datacenter" } else { "auto" };
        let create = ["database", "create", DATABASE, "--on", &names];
        let create = create.into_iter().chain(["--commit-constraint", constraint]);
        view.cli.succeed(create).await?;
        view.active_of(DATABASE).await?;
        view.wait_until_counting(DATABASE).await?;
        let (tasks, pause) = (options.writers, options.pause);
        let writers = WriterOptions { tasks, pause, ..WriterOptions::default() };
        let writer = Writer::start(view.client.database(DATABASE), writers);
        Ok(Self { ground, writer, victim: options.victim, copies, table: Table::default() })
    }

    /// The kinds that can be done here. Says which cannot.
    fn possible(&self, kinds: &[Kind]) -> Result<Vec<Kind>> {
        let mut possible = Vec::new();
        for kind in kinds {
            match self.ground.lacks(*kind) {
                None => possible.push(*kind),
                Some(why) => println!("chaos: NOT DONE: {kind}: {why}"),
            }
        }
        ensure!(!possible.is_empty(), "none of these kinds can be done here");
        Ok(possible)
    }

    async fn round(&mut self, number: usize, fault: &Fault) -> Result<()> {
        self.writer.reset_gap();
        let begun = Instant::now();
        let held = fault.hold(&mut self.ground, &self.writer).await;
        let held = held.with_context(|| fault.to_string())?;
        self.writer.progress(WRITES_AFTER).await?;
        self.ground.view().wait_until_up(self.ground.places().len()).await?;
        self.ground.view().wait_until_counting(DATABASE).await?;
        let (gap, began) = (self.writer.longest_gap(), self.writer.gap_began());
        println!(
            "chaos: {number}: {fault}: gap {} ms after {began:.1?}, whole after {:.1?}",
            gap.as_millis(),
            begun.elapsed()
        );
        match held {
            Held::Done => self.table.add(fault.kind, gap),
            Held::Refused => self.table.add_refused(fault.kind),
        }
        Ok(())
    }

    /// Moves the active to where the victim has to be, and says where it is.
    async fn place(&self) -> Result<String> {
        let view = self.ground.view();
        let active = view.active_of(DATABASE).await?;
        let leader = view.client.admin().cluster_status().await?.leader;
        let mut members = self.ground.places().iter().filter(|place| !place.witness);
        let wanted = match self.victim {
            Victim::Any => return Ok(active),
            Victim::Active if active == leader => members.find(|place| place.name != leader),
            Victim::Leader if active != leader => members.find(|place| place.name == leader),
            Victim::Active | Victim::Leader => return Ok(active),
        };
        let wanted = &wanted.context("no member with a copy is like that")?.name;
        hold::switchover(view, wanted).await?;
        view.wait_until_counting(DATABASE).await?;
        Ok(wanted.clone())
    }
}
