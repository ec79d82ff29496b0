//! Automatic reseed: what is tried with a passive copy that stays failed, step by step (F128-F131).
//!
//! A copy that is *Failed* for a while is suspended as one that does not heal. A copy that the
//! system suspended is resumed a few times after a while; if it still fails, it is seeded a few
//! times, with longer pauses: on a spare volume if its own has failed, else in place. Then it is
//! left to a person, and after days it begins again. Each step is one command, so that a new leader
//! goes on where the last one stopped, and one event.
//!
//! Limits (F130), each with a sentence that status and events show: never what an operator or an
//! activation at an instant suspended; only failures whose row in [`crate::response`] says
//! *reseed*; no member with too many failed copies, which looks like a fault of the server; no
//! member that is away or under maintenance; not without a healthy source. The old files go only if
//! the copy holds nothing but the beginning of its active's log and two others hold all of it (G4).

use std::collections::BTreeMap;

use keelson_types::{
    CopyId, CopyStatus, DatabaseId, FailureTag, MemberId, OldFiles, OperationId, SeedOrder,
    SeedScope, SpareOrder, SuspendedBy,
};
use serde::{Deserialize, Serialize};

use crate::state::{ClusterState, CopyConfig, Database};

mod facts;
mod volumes;

pub use facts::{Away, ReseedFacts};
pub use volumes::{CopyPlace, OnVolume, SeenPlaces, VolumeSeen};

#[cfg(test)]
mod tests;

/// Resumes before a copy is seeded (F129).
pub const RESUMES_MAX: u32 = 3;
/// Seeds before it is left to a person (F129).
pub const SEEDS_MAX: u32 = 5;
/// Seeds on a spare volume before it is left to a person (F129).
pub const SPARES_MAX: u32 = 5;
/// Seeds that one member takes at a time by itself.
pub const SEEDS_AT_ONCE_MAX: usize = 2;

/// How far the automatic reseed of a copy is. Part of its configuration; gone once it is well.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct AutoReseed {
    /// When the first step was taken, in Unix milliseconds.
    pub began_unix_ms: u64,
    /// When the last one was.
    pub last_unix_ms: u64,
    /// Resumes so far.
    pub resumes: u32,
    /// Seeds in place so far.
    pub seeds: u32,
    /// Seeds on a spare volume so far.
    #[serde(default)]
    pub spares: u32,
    /// Everything was tried: it waits for a person, or for the reset.
    #[serde(default)]
    pub stopped: bool,
}

impl AutoReseed {
    /// Steps so far; a command names the number that it follows.
    #[must_use]
    pub const fn steps(&self) -> u32 {
        self.resumes + self.seeds + self.spares + self.stopped as u32
    }
}

/// A step, as a command carries it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReseedStep {
    /// Give the fault another try.
    Resume,
    /// Make the copy anew from another one, in place or on the spare that the order speaks of.
    Seed(SeedOrder),
    /// Leave it to a person.
    Stop,
    /// Begin again.
    Reset,
    /// The copy is well: nothing is left to do.
    Done,
}

/// What is to be done with a copy now.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReseedWish {
    /// Suspend it: it does not heal by itself.
    Suspend(FailureTag),
    /// See [`ReseedStep`].
    Resume,
    /// Seed it in place; the caller draws the ids.
    Seed(OldFiles),
    /// Seed it on a spare volume; its old files stay where they are.
    AssignSpare(SpareOrder),
    /// See [`ReseedStep`].
    Stop,
    /// See [`ReseedStep`].
    Reset,
    /// See [`ReseedStep`].
    Done,
}

impl ReseedWish {
    const fn is_seed(&self) -> bool {
        matches!(self, Self::Seed(_) | Self::AssignSpare(_))
    }
}

/// The verdict on a copy.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReseedVerdict {
    /// Nothing is wrong, or it is not the business of automation.
    Nothing,
    /// The next look is due at this wall clock, in Unix milliseconds.
    Wait(u64),
    /// Why the next step is not taken, though it is due.
    Blocked(String),
    /// The next step.
    Act(ReseedWish),
}

/// What the member of a copy said.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct CopySeen {
    /// Its status.
    pub status: CopyStatus,
    /// The class of its failure.
    pub tag: Option<FailureTag>,
}

impl CopySeen {
    const fn is_failed(&self) -> bool {
        matches!(self.status, CopyStatus::Failed | CopyStatus::FailedAndSuspended)
    }

    const fn is_well(&self) -> bool {
        matches!(self.status, CopyStatus::Mounted | CopyStatus::Healthy | CopyStatus::SeedingSource)
    }
}

/// What members said of all copies; copies of silent members are not in it.
pub type Seen = BTreeMap<CopyId, CopySeen>;

/// The leader's memory between two looks: since when copies are failed that are not suspended yet.
/// A new leader begins to count anew, which only makes it slower.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ReseedWatch {
    failed_since: BTreeMap<CopyId, u64>,
    /// The obstacle that was told last of each copy.
    told: BTreeMap<CopyId, String>,
}

/// Something to do or to tell.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ReseedOrder {
    /// The database.
    pub database: DatabaseId,
    /// The copy.
    pub copy: CopyId,
    /// What is to be done, or the new reason why nothing is.
    pub wish: Result<ReseedWish, String>,
    /// What it was decided from.
    pub facts: Box<ReseedFacts>,
}

impl ReseedWatch {
    /// Looks at all copies. `now` is the wall clock in Unix milliseconds.
    pub fn look(
        &mut self,
        state: &ClusterState,
        (seen, places): (&Seen, &SeenPlaces),
        now: u64,
    ) -> Vec<ReseedOrder> {
        self.failed_since.retain(|copy, _| seen.get(copy).is_some_and(CopySeen::is_failed));
        let failed = seen.iter().filter(|(_, seen)| seen.is_failed());
        for (copy, _) in failed {
            self.failed_since.entry(*copy).or_insert(now);
        }
        let mut orders = Vec::new();
        let (mut begun, mut blocked) = (BTreeMap::new(), BTreeMap::new());
        for database in state.databases.values() {
            for (copy, config) in &database.copies {
                let since = self.failed_since.get(copy).copied();
                let look = Look { state, database, copy: *copy, config, places, since, now };
                let (verdict, Some(facts)) = look.verdict(Some(seen)) else { continue };
                let facts = Box::new(facts);
                match verdict {
                    ReseedVerdict::Nothing | ReseedVerdict::Wait(_) => continue,
                    ReseedVerdict::Blocked(why) => {
                        let (database, copy, wish) = (database.id, *copy, Err(why));
                        blocked.insert(copy, ReseedOrder { database, copy, wish, facts });
                    }
                    ReseedVerdict::Act(wish) => {
                        // What one look orders is not in the state yet.
                        let seeds = begun.entry(config.member).or_insert(0_usize);
                        let is_seed = wish.is_seed();
                        if is_seed && *seeds + seeding_on(state, config.member) >= SEEDS_AT_ONCE_MAX
                        {
                            continue;
                        }
                        *seeds += usize::from(is_seed);
                        let (database, copy) = (database.id, *copy);
                        orders.push(ReseedOrder { database, copy, wish: Ok(wish), facts });
                    }
                }
            }
        }
        let why = |order: &ReseedOrder| order.wish.clone().err().unwrap_or_default();
        let fresh = |order: &&ReseedOrder| self.told.get(&order.copy) != Some(&why(order));
        orders.extend(blocked.values().filter(fresh).cloned());
        self.told = blocked.iter().map(|(copy, order)| (*copy, why(order))).collect();
        orders
    }
}

/// The verdict on one copy from the replicated state and what is known of volumes, for status
/// pages: what members say of copies is taken as good.
#[must_use]
pub fn standing(
    state: &ClusterState,
    database: &Database,
    copy: CopyId,
    places: &SeenPlaces,
    now: u64,
) -> ReseedVerdict {
    let Some(config) = database.copies.get(&copy) else { return ReseedVerdict::Nothing };
    Look { state, database, copy, config, places, since: None, now }.verdict(None).0
}

/// One copy under the eyes of the leader.
struct Look<'a> {
    state: &'a ClusterState,
    database: &'a Database,
    copy: CopyId,
    config: &'a CopyConfig,
    places: &'a SeenPlaces,
    /// Since when it is failed without being suspended, in Unix milliseconds.
    since: Option<u64>,
    now: u64,
}

impl Look<'_> {
    fn verdict(&self, seen: Option<&Seen>) -> (ReseedVerdict, Option<ReseedFacts>) {
        let active = self.database.target == Some(self.copy);
        if let Some(facts) = self.facts(seen) {
            let verdict = facts.verdict();
            // Of an active, and of one that is being seeded, only the end is told.
            let ends = verdict == ReseedVerdict::Act(ReseedWish::Done);
            if ends || !(active || self.config.is_remade()) {
                return (verdict, Some(facts));
            }
        }
        (ReseedVerdict::Nothing, None)
    }
}

/// The order of an automatic seed in place: any healthy source, throttled, resumed at its end.
#[must_use]
pub const fn order(operation: OperationId, copy: CopyId, old_files: OldFiles) -> SeedOrder {
    SeedOrder {
        operation,
        copy,
        scope: SeedScope::Everything,
        source: None,
        old_files,
        manual_resume: false,
        no_throttle: false,
        network: None,
        compression: None,
        spare: None,
    }
}

fn copies_on(state: &ClusterState, member: MemberId) -> impl Iterator<Item = &CopyConfig> {
    let copies = state.databases.values().flat_map(|database| database.copies.values());
    copies.filter(move |copy| copy.member == member)
}

/// Copies of a member that the system suspended.
fn failed_on(state: &ClusterState, member: MemberId) -> usize {
    let failed = |copy: &&CopyConfig| copy.is_stopped() && copy.suspension.by == SuspendedBy::Fault;
    copies_on(state, member).filter(failed).count()
}

fn seeding_on(state: &ClusterState, member: MemberId) -> usize {
    copies_on(state, member).filter(|copy| copy.seeding.is_some()).count()
}
