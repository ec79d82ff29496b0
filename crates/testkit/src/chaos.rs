//! Chaos: real processes under seeded random faults, with writers and an oracle, and histories of
//! registers that are checked for linearizability.
//!
//! A fault is drawn as a whole, so that the seed alone decides which one comes and whom it hits. It
//! is held for a while, undone, and followed by a wait until every copy counts again: each fault
//! meets a cluster that may lose one member without losing anything. (`kill_loop` of the black-box
//! tests hits clusters that have not recovered.) What is measured is the longest time without an
//! acknowledged write, from the fault until the cluster was whole again.

mod fault;
mod history;
mod registers;
mod table;

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

pub use fault::{Kind, Victim};

use crate::{Cluster, ClusterOptions, Verified, Writer, WriterOptions};
use fault::{EXPECTED_ERRORS, Fault, SETTINGS};
use registers::Registers;
use table::Table;

/// Writes that must be acknowledged after a fault was undone, before the next one.
const WRITES_AFTER: u64 = 50;

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
    /// Writes under way at the same time.
    pub writers: usize,
    /// Pause of a writer between two writes.
    pub pause: Duration,
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
    let started = Instant::now();
    println!("chaos: {} faults with seed {}", options.faults, options.seed);
    let cluster = ClusterOptions { network: true, settings: SETTINGS.into(), ..Default::default() };
    let cluster = Cluster::start_with(cluster).await?;
    // What is measured is how a failover goes, however many there were before.
    let unlimited = ["cluster", "settings", "set", "certificate_moves", "0"];
    cluster.cli().succeed(unlimited).await?;
    cluster.create_database("DB1", &["m1", "m2", "m3"]).await?;
    cluster.wait_until_counting("DB1").await?;
    let database = cluster.client().database("DB1");
    let (tasks, pause) = (options.writers, options.pause);
    let writers = WriterOptions { tasks, pause, ..WriterOptions::default() };
    let writer = Writer::start(database.clone(), writers);
    let registers = Registers::start(&database, options.seed).await?;
    writer.progress(100).await?;
    let victim = options.victim;
    let mut range = Range { cluster, writer, victim, table: Table::default() };
    let mut random = StdRng::seed_from_u64(options.seed);
    let mut bag = Vec::new();
    for number in 1..=options.faults {
        if bag.is_empty() {
            refill(&mut bag, &options.kinds, &mut random);
        }
        let kind = bag.pop().context("no kind of fault was chosen")?;
        range.round(number, kind, &mut random).await.with_context(|| {
            format!("fault {number} ({kind}) of a run with seed {}", options.seed)
        })?;
    }
    let Range { cluster, writer, table, .. } = range;
    let (operations, histories) = registers.stop().await?;
    let oracle = writer.stop().await?;
    let verified = oracle.verify(&database).await?;
    cluster.wait_until_caught_up("DB1").await?;
    cluster.equal_digest("DB1", 3).await?;
    cluster.assert_clean_logs(EXPECTED_ERRORS)?;
    let took = started.elapsed();
    Ok(Outcome { table: table.to_string(), verified, operations, histories, took })
}

/// Every kind once in a drawn order, then again.
fn refill(bag: &mut Vec<Kind>, kinds: &[Kind], random: &mut StdRng) {
    bag.extend(kinds);
    for last in (1..bag.len()).rev() {
        bag.swap(last, random.random_range(0..=last));
    }
}

/// A cluster under fire.
struct Range {
    cluster: Cluster,
    writer: Writer,
    victim: Victim,
    table: Table,
}

impl Range {
    async fn round(&mut self, number: u32, kind: Kind, random: &mut StdRng) -> Result<()> {
        let active = self.place().await?;
        let fault = Fault::draw(kind, &self.cluster.names(), &active, self.victim, random);
        self.writer.reset_gap();
        let begun = Instant::now();
        fault.hold(&mut self.cluster, &self.writer).await?;
        self.writer.progress(WRITES_AFTER).await?;
        self.cluster.wait_until_whole().await?;
        self.cluster.wait_until_counting("DB1").await?;
        let (gap, took) = (self.writer.longest_gap(), begun.elapsed());
        println!("chaos: {number}: {fault}: gap {} ms, whole after {took:.1?}", gap.as_millis());
        self.table.add(kind, gap);
        Ok(())
    }

    /// Moves the active to where the victim has to be, and says where it is.
    async fn place(&self) -> Result<String> {
        let active = self.cluster.active_of("DB1").await?;
        let leader = self.cluster.client().admin().cluster_status().await?.leader;
        let wanted = match self.victim {
            Victim::Any => return Ok(active),
            Victim::Active if active == leader => {
                self.cluster.names().into_iter().find(|name| *name != leader)
            }
            Victim::Leader if active != leader => Some(leader),
            Victim::Active | Victim::Leader => return Ok(active),
        };
        let wanted = wanted.context("one member only")?;
        fault::switchover(&self.cluster, &wanted).await?;
        self.cluster.wait_until_counting("DB1").await?;
        Ok(wanted)
    }
}
