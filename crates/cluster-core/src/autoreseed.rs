//! Automatic reseed: what is tried with a passive copy that stays failed, step by step (F128-F131).
//!
//! A copy that is *Failed* for a while is suspended as one that does not heal. A copy that the
//! system suspended is resumed a few times after a while; if it still fails, it is seeded in place
//! a few times, with longer pauses; then it is left to a person, and after days it begins again.
//! Each step is one command, so that a new leader goes on where the last one stopped, and one
//! event.
//!
//! Limits (F130), each with a sentence that status and events show: never what an operator or an
//! activation at an instant suspended; only failures whose row in [`crate::response`] says
//! *reseed*; no member with too many failed copies, which looks like a fault of the server; no
//! member that is away or under maintenance; not without a healthy source. The old files go only if
//! the copy holds nothing but the beginning of its active's log and two others hold all of it (G4).

use std::collections::BTreeMap;

use keelson_types::{
    ClusterSettings, CopyId, CopyStatus, DatabaseId, FailureTag, MemberId, MountIntent, OldFiles,
    OperationId, SeedOrder, SeedScope, Setting, SuspendedBy,
};
use serde::{Deserialize, Serialize};

use crate::failure::{FailureAction, response};
use crate::seed::{first_failure, seed_checks, unfit_source};
use crate::state::{ClusterState, CopyConfig, Database};

#[cfg(test)]
mod tests;

/// Resumes before a copy is seeded (F129).
pub const RESUMES_MAX: u32 = 3;
/// Seeds before it is left to a person (F129).
pub const SEEDS_MAX: u32 = 5;
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
    /// Seeds so far.
    pub seeds: u32,
    /// Everything was tried: it waits for a person, or for the reset.
    #[serde(default)]
    pub stopped: bool,
}

impl AutoReseed {
    /// Steps so far; a command names the number that it follows.
    #[must_use]
    pub const fn steps(&self) -> u32 {
        self.resumes + self.seeds + self.stopped as u32
    }
}

/// A step, as a command carries it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReseedStep {
    /// Give the fault another try.
    Resume,
    /// Make the copy anew from another one, in place.
    Seed(SeedOrder),
    /// Leave it to a person.
    Stop,
    /// Begin again.
    Reset,
    /// The copy is well: nothing is left to do.
    Done,
}

/// What is to be done with a copy now.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ReseedWish {
    /// Suspend it: it does not heal by itself.
    Suspend(FailureTag),
    /// See [`ReseedStep`].
    Resume,
    /// Seed it; the caller draws the ids.
    Seed(OldFiles),
    /// See [`ReseedStep`].
    Stop,
    /// See [`ReseedStep`].
    Reset,
    /// See [`ReseedStep`].
    Done,
}

/// The verdict on a copy.
#[derive(Clone, PartialEq, Eq, Debug)]
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
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
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
}

impl ReseedWatch {
    /// Looks at all copies. `now` is the wall clock in Unix milliseconds.
    pub fn look(&mut self, state: &ClusterState, seen: &Seen, now: u64) -> Vec<ReseedOrder> {
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
                let look = Look { state, database, copy: *copy, config, since, now };
                match look.verdict(Some(seen)) {
                    ReseedVerdict::Nothing | ReseedVerdict::Wait(_) => continue,
                    ReseedVerdict::Blocked(why) => drop(blocked.insert(*copy, why)),
                    ReseedVerdict::Act(wish) => {
                        // What one look orders is not in the state yet.
                        let seeds = begun.entry(config.member).or_insert(0_usize);
                        let is_seed = matches!(wish, ReseedWish::Seed(_));
                        if is_seed && *seeds + seeding_on(state, config.member) >= SEEDS_AT_ONCE_MAX
                        {
                            continue;
                        }
                        *seeds += usize::from(is_seed);
                        let (database, copy) = (database.id, *copy);
                        orders.push(ReseedOrder { database, copy, wish: Ok(wish) });
                    }
                }
            }
        }
        orders.extend(self.news(state, &blocked));
        self.told = blocked;
        orders
    }

    /// Obstacles that were not told yet.
    fn news(&self, state: &ClusterState, blocked: &BTreeMap<CopyId, String>) -> Vec<ReseedOrder> {
        let fresh = blocked.iter().filter(|(copy, why)| self.told.get(*copy) != Some(*why));
        let told = fresh.filter_map(|(copy, why)| {
            let mut databases = state.databases.values();
            let database = databases.find(|database| database.copies.contains_key(copy))?.id;
            Some(ReseedOrder { database, copy: *copy, wish: Err(why.clone()) })
        });
        told.collect()
    }
}

/// The verdict on one copy from the replicated state alone, for status pages: what members say is
/// taken as good.
#[must_use]
pub fn standing(
    state: &ClusterState,
    database: &Database,
    copy: CopyId,
    now: u64,
) -> ReseedVerdict {
    let Some(config) = database.copies.get(&copy) else { return ReseedVerdict::Nothing };
    Look { state, database, copy, config, since: None, now }.verdict(None)
}

/// One copy under the eyes of the leader.
struct Look<'a> {
    state: &'a ClusterState,
    database: &'a Database,
    copy: CopyId,
    config: &'a CopyConfig,
    /// Since when it is failed without being suspended, in Unix milliseconds.
    since: Option<u64>,
    now: u64,
}

impl Look<'_> {
    fn verdict(&self, seen: Option<&Seen>) -> ReseedVerdict {
        let own = seen.and_then(|seen| seen.get(&self.copy)).copied();
        let active = self.database.target == Some(self.copy);
        let well = !self.config.is_stopped() && own.is_some_and(|own| own.is_well());
        if self.config.autoreseed.is_some() && well {
            return ReseedVerdict::Act(ReseedWish::Done);
        }
        if active || self.config.is_remade() {
            return ReseedVerdict::Nothing;
        }
        if !self.config.is_stopped() {
            return self.running(own);
        }
        match self.config.suspension.by {
            SuspendedBy::Operator | SuspendedBy::DiscardedTimeline => ReseedVerdict::Nothing,
            SuspendedBy::Fault => self.suspended(seen),
        }
    }

    fn setting(&self, setting: Setting) -> u64 {
        settings(self.state).number(setting)
    }

    fn is_off(&self) -> Option<&'static str> {
        if !settings(self.state).is_on(Setting::Autoreseed) {
            return Some("automatic reseed is off in this cluster");
        }
        (!self.database.settings.autoreseed).then_some("automatic reseed is off for the database")
    }

    /// A copy that nobody suspended, and which may be failed for too long.
    fn running(&self, own: Option<CopySeen>) -> ReseedVerdict {
        let Some(own) = own else { return ReseedVerdict::Nothing };
        let reseeds = |tag: &FailureTag| response(*tag).lasting == FailureAction::Reseed;
        let Some(tag) = own.tag.filter(|tag| own.is_failed() && reseeds(tag)) else {
            return ReseedVerdict::Nothing;
        };
        if let Some(why) = self.is_off() {
            return ReseedVerdict::Blocked(why.into());
        }
        // A copy that is being mended may need long, and is not to be stopped in the middle of it.
        let mends =
            own.status == CopyStatus::Failed && response(tag).passive == FailureAction::Mend;
        let patience = if mends { self.setting(Setting::AutoreseedSeedPause) } else { 0 };
        let after = self.setting(Setting::AutoreseedFailedAfter).saturating_add(patience);
        let due = self.since.unwrap_or(self.now).saturating_add(after);
        match due <= self.now {
            true => ReseedVerdict::Act(ReseedWish::Suspend(tag)),
            false => ReseedVerdict::Wait(due),
        }
    }

    /// A copy that the system suspended.
    fn suspended(&self, seen: Option<&Seen>) -> ReseedVerdict {
        if let Some(why) = self.not_automatic() {
            return ReseedVerdict::Blocked(why);
        }
        let progress = self.config.autoreseed.unwrap_or_default();
        let due = self.due(&progress);
        if due > self.now {
            return ReseedVerdict::Wait(due);
        }
        if progress.stopped {
            return ReseedVerdict::Act(ReseedWish::Reset);
        }
        if let Some(why) = self.not_now(seen) {
            return ReseedVerdict::Blocked(why);
        }
        // What misses log is helped by no other try.
        let tries = if self.config.cut_off { 0 } else { RESUMES_MAX };
        if progress.seeds == 0 && progress.resumes < tries {
            return ReseedVerdict::Act(ReseedWish::Resume);
        }
        if progress.seeds >= SEEDS_MAX {
            return ReseedVerdict::Act(ReseedWish::Stop);
        }
        self.seed(seen)
    }

    /// What is left to a person, whatever the time.
    fn not_automatic(&self) -> Option<String> {
        if let Some(why) = self.is_off() {
            return Some(why.into());
        }
        let Some(tag) = self.config.failure else {
            return Some("its member did not say of what kind the failure is".into());
        };
        let lasting = response(tag).lasting;
        (lasting != FailureAction::Reseed)
            .then(|| format!("a failure of the kind {tag} is left to a person ({lasting})"))
    }

    /// When the next step is due, in Unix milliseconds.
    fn due(&self, progress: &AutoReseed) -> u64 {
        let since = self.config.suspension.replication.map_or(self.now, |stop| stop.since_unix_ms);
        let (from, pause) = match progress {
            AutoReseed { stopped: true, .. } => {
                (progress.last_unix_ms, Setting::AutoreseedResetAfter)
            }
            AutoReseed { seeds: 1.., .. } => (progress.last_unix_ms, Setting::AutoreseedSeedPause),
            AutoReseed { resumes: 1.., .. } => {
                (progress.last_unix_ms, Setting::AutoreseedResumePause)
            }
            AutoReseed { .. } => (since, Setting::AutoreseedAfter),
        };
        from.saturating_add(self.setting(pause))
    }

    /// The limits that may be over at the next look (F130).
    fn not_now(&self, seen: Option<&Seen>) -> Option<String> {
        let member = self.state.members.get(&self.config.member)?;
        let name = &member.config.name;
        if member.maintenance.is_some() {
            return Some(format!("{name} is under maintenance"));
        }
        if member.is_gone() || seen.is_some_and(|seen| !seen.contains_key(&self.copy)) {
            return Some(format!("{name} does not answer"));
        }
        let most = self.setting(Setting::AutoreseedCopiesMax);
        let failed = failed_on(self.state, self.config.member);
        (most > 0 && failed as u64 > most).then(|| {
            format!(
                "more than {most} copies on {name} have failed: that looks like a fault of the \
                 server, not of a copy"
            )
        })
    }

    fn seed(&self, seen: Option<&Seen>) -> ReseedVerdict {
        if self.database.intent == MountIntent::Dismounted {
            return ReseedVerdict::Blocked("the database is dismounted".into());
        }
        let others = self.database.copies.iter().filter(|(id, config)| {
            let well = |seen: &Seen| seen.get(*id).is_some_and(CopySeen::is_well);
            let fit = unfit_source(config, SeedScope::Everything).is_none();
            **id != self.copy && fit && seen.is_none_or(well)
        });
        let others = others.count();
        if others == 0 {
            return ReseedVerdict::Blocked("no other copy is healthy".into());
        }
        if seeding_on(self.state, self.config.member) >= SEEDS_AT_ONCE_MAX {
            return ReseedVerdict::Blocked(format!("{SEEDS_AT_ONCE_MAX} seeds run on its member"));
        }
        // Whatever is wrong with it: salvage lies beside its log, and a fork that nobody cut may be
        // in it (G4). An operator deletes the old files.
        let old_files = OldFiles::Keep;
        let probe = order(OperationId::from_u128(0), CopyId::from_u128(0), old_files);
        match first_failure(&seed_checks(self.state, (self.database.id, self.copy), &probe)) {
            Some(refusal) => ReseedVerdict::Blocked(refusal.message),
            None => ReseedVerdict::Act(ReseedWish::Seed(old_files)),
        }
    }
}

/// The order of an automatic seed: any healthy source, throttled, resumed at its end.
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
    }
}

const fn settings(state: &ClusterState) -> &ClusterSettings {
    &state.settings
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
