//! Expanded truncation: what log goes against the ordinary rules when a volume runs out of space
//! (F104-F107; "loose truncation" in the model).
//!
//! Each copy watches its own free space and decides by itself. The active may ignore the single
//! oldest straggler, never another one beside it; a passive keeps the newest log and some before
//! its required range. Nothing here breaks these:
//!
//! - a copy's own recovery never loses log, nor do copies that are protected;
//! - the last other HA copy is never cut off (review S16.4);
//! - a copy that will be cut off, and a hold that gives way, are recorded first: the answer is
//!   [`Expanded::MarkFirst`] until they are;
//! - sacrifices are made in [`YIELD_ORDER`], as few as let any generation go, and told.

mod forecast;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

pub use forecast::{CutCandidate, Forecast, SPACE_SAMPLES_MAX, SpaceHistory, SpaceSample};
use keelson_types::{
    Automation, Automations, ClusterSettings, CopyId, HoldKind, LOG_UNIT_BYTES, LogHold, LogSizes,
    MemberId, OperationId, Position, Setting,
};

use crate::room::RESERVE_BYTES;

/// Logs (MiB) that a passive keeps unless set otherwise.
pub const LOGS_ON_PASSIVE: u64 = 100_000;
/// Logs (MiB) that the active keeps unless set otherwise.
pub const LOGS_ON_ACTIVE: u64 = 10_000;

/// A passive that has not reported to its active for so long is not on its way.
pub const REPORTS_AFTER: Duration = Duration::from_secs(30);

/// The settings (F104), one set per cluster.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ExpandedSettings {
    /// Passive copies that the active protects; 0 switches the feature off.
    pub min_copies_to_protect: u32,
    /// Free space below this starts it.
    pub min_free_bytes: u64,
    /// Logs (MiB) to keep, on active and passive alike; unset: [`LOGS_ON_ACTIVE`] and
    /// [`LOGS_ON_PASSIVE`].
    pub min_logs_to_protect: Option<u64>,
}

impl From<&ClusterSettings> for ExpandedSettings {
    fn from(settings: &ClusterSettings) -> Self {
        let copies = settings.number(Setting::ExpandedCopies);
        Self {
            min_copies_to_protect: u32::try_from(copies).unwrap_or(u32::MAX),
            min_free_bytes: settings.number(Setting::ExpandedLowSpace),
            min_logs_to_protect: settings.get(Setting::ExpandedLogs),
        }
    }
}

impl ExpandedSettings {
    /// The same for one database, which may have it off.
    #[must_use]
    pub fn of_database(self, automations: &Automations) -> Self {
        match automations.is_on(Automation::ExpandedTruncation) {
            true => self,
            false => Self { min_copies_to_protect: 0, ..self },
        }
    }

    /// Whether this much free space is below the floor; never while the feature is off.
    #[must_use]
    pub const fn is_short(&self, free_bytes: u64) -> bool {
        self.min_copies_to_protect > 0 && free_bytes < self.min_free_bytes
    }

    /// Free space at which a volume with this much is to be looked at before the time, so that log
    /// that comes fast does not eat the floor up between two looks: the floor, and below it every
    /// sixteenth of what is left above the reserve.
    #[must_use]
    pub fn look_below(&self, free_bytes: u64) -> u64 {
        if self.min_copies_to_protect == 0 {
            return 0;
        }
        if free_bytes >= self.min_free_bytes {
            return self.min_free_bytes;
        }
        let step = (free_bytes.saturating_sub(RESERVE_BYTES) / 16).max(LOG_UNIT_BYTES);
        free_bytes.saturating_sub(step)
    }
}

/// A passive copy, as the active sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PassiveFacts {
    /// The copy.
    pub copy: CopyId,
    /// Its member.
    pub member: MemberId,
    /// An HA copy that is not leaving and does not wait for a seed; lagged copies are none.
    pub ha: bool,
    /// Log before this it does not need from others: checkpointed for an HA copy, inspected for a
    /// lagged one; `Position::ZERO` if it never reported.
    pub needs_from: Position,
    /// It reported its positions to this active.
    pub heard: bool,
    /// It is recorded as cut off (or was, and has not been seeded since).
    pub marked: bool,
}

/// What a copy is, with what only that role knows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ExpandedRole<'a> {
    /// It may ignore a straggler.
    Active {
        /// The passive copies that are not leaving, and the one that is cut off among them.
        passives: &'a [PassiveFacts],
        /// How long it has served.
        serving_for: Duration,
    },
    /// It looks at itself only.
    Passive {
        /// Start of the newest epoch that it knows to be established. Log from there on may be
        /// what the commit rule counts on (review S16.4).
        established_start: Position,
    },
}

/// Everything that expanded truncation depends on.
#[derive(Clone, Copy, Debug)]
pub struct ExpandedInputs<'a> {
    /// The settings.
    pub settings: ExpandedSettings,
    /// Free space of the volume that holds the copy's log.
    pub free_bytes: u64,
    /// What the ordinary rules allow ([`crate::truncate`]).
    pub ordinary: Position,
    /// Log before this is gone already.
    pub truncated: Position,
    /// The copy's checkpoint: its recovery begins here.
    pub required_low: Position,
    /// End of the copy's log.
    pub newest: Position,
    /// Sizes of the copy's generations.
    pub sizes: &'a LogSizes,
    /// Active or passive.
    pub role: ExpandedRole<'a>,
    /// Circular logging is on: log need not be backed up.
    pub circular_logging: bool,
    /// Log before this is in a backup.
    pub backed_up: Option<Position>,
    /// Holds of the database.
    pub holds: &'a [LogHold],
    /// Log from here on is needed in this process: a checkpoint or a fork that is being made. It
    /// never gives way.
    pub local_hold: Option<Position>,
    /// The consensus clock, by which holds expire, in Unix milliseconds.
    pub now_unix_ms: u64,
}

/// Something that is given up for space.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Sacrifice {
    /// Holds of this kind.
    Hold(HoldKind),
    /// The copy that is furthest behind; it has to be seeded.
    Straggler,
}

/// In this order things are given up: what can be made again first, then the copy that is furthest
/// behind, last the work that would otherwise restore a copy.
pub const YIELD_ORDER: [Sacrifice; 6] = [
    Sacrifice::Hold(HoldKind::Fork),
    Sacrifice::Hold(HoldKind::Backup),
    Sacrifice::Straggler,
    Sacrifice::Hold(HoldKind::Seed),
    Sacrifice::Hold(HoldKind::Resync),
    Sacrifice::Hold(HoldKind::RangeRepair),
];

/// Why the oldest straggler may not be cut off.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum CutRefusal {
    /// There is no passive copy.
    NoPassive,
    /// All passive copies are protected by the setting.
    Protected,
    /// It is the last other HA copy.
    LastOther,
    /// Another copy is cut off already and not yet seeded: only one at a time.
    OneAtATime,
    /// A copy has not reported its positions yet to an active that is young: who is furthest behind
    /// is not known.
    TooYoung,
}

impl fmt::Display for CutRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::NoPassive => "there is no passive copy",
            Self::Protected => "all passive copies are protected",
            Self::LastOther => "it is the last other HA copy",
            Self::OneAtATime => "another copy is cut off and not yet seeded",
            Self::TooYoung => "who is furthest behind is not known yet",
        })
    }
}

/// What expanded truncation does now.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Expanded {
    /// The feature is off (`min_copies_to_protect` is 0).
    Off,
    /// There is space enough, or log goes by the ordinary rules now; they hold.
    Enough,
    /// Space is short and the rules let nothing more go; `cut` says why not the straggler (nothing
    /// on a passive, or if cutting it would not help either).
    Stuck {
        /// Why the straggler stays.
        cut: Option<CutRefusal>,
    },
    /// These have to be recorded before log up to there may go: the copies as cut off, the holds as
    /// given up. Until then nothing goes.
    MarkFirst {
        /// Copies that will need a seed.
        copies: Vec<CopyId>,
        /// Operations that lose their hold.
        operations: Vec<OperationId>,
        /// Start of the first generation that would stay.
        up_to: Position,
    },
    /// Everything needed is recorded: log before this may go.
    Truncate {
        /// Start of the first generation that stays.
        up_to: Position,
    },
}

/// What expanded truncation does now. Bounded by copies and holds.
#[must_use]
pub fn expanded_truncation(inputs: &ExpandedInputs<'_>) -> Expanded {
    if inputs.settings.min_copies_to_protect == 0 {
        return Expanded::Off;
    }
    // What goes by the ordinary rules may be enough: nothing is given up before that has gone.
    let ordinary_goes = inputs.ordinary.generation > inputs.truncated.generation;
    if ordinary_goes || !inputs.settings.is_short(inputs.free_bytes) {
        return Expanded::Enough;
    }
    let cut = cut_candidate(inputs);
    let Some(given_up) = fewest_sacrifices(inputs, cut.ok()) else {
        let active = matches!(inputs.role, ExpandedRole::Active { .. });
        return Expanded::Stuck { cut: cut.err().filter(|_| active) };
    };
    let plan = Plan::new(inputs, cut.ok(), &given_up);
    let (copies, operations) = plan.unrecorded(inputs);
    let up_to = plan.up_to;
    if copies.is_empty() && operations.is_empty() {
        Expanded::Truncate { up_to }
    } else {
        Expanded::MarkFirst { copies, operations, up_to }
    }
}

/// The copy that the active may ignore: the one furthest behind, and only one at a time (F105).
/// Forecasts name it before space is short.
///
/// # Errors
/// Why none may be cut off; on a passive, [`CutRefusal::NoPassive`].
pub fn cut_candidate(inputs: &ExpandedInputs<'_>) -> Result<CopyId, CutRefusal> {
    let ExpandedRole::Active { passives, serving_for } = inputs.role else {
        return Err(CutRefusal::NoPassive);
    };
    if passives.iter().any(|passive| passive.marked) {
        return Err(CutRefusal::OneAtATime);
    }
    if serving_for < REPORTS_AFTER && passives.iter().any(|passive| !passive.heard) {
        return Err(CutRefusal::TooYoung);
    }
    let oldest = passives.iter().min_by_key(|passive| (passive.needs_from, passive.copy));
    let oldest = oldest.ok_or(CutRefusal::NoPassive)?;
    let protected = usize::try_from(inputs.settings.min_copies_to_protect).unwrap_or(usize::MAX);
    if passives.len() <= protected {
        return Err(CutRefusal::Protected);
    }
    let other_ha = passives.iter().any(|passive| passive.ha && passive.copy != oldest.copy);
    if oldest.ha && !other_ha {
        return Err(CutRefusal::LastOther);
    }
    Ok(oldest.copy)
}

/// Whether a copy that is marked as cut off came back before log that it needs had gone: it has all
/// that the active still has, and is with it in the open generation. One that is only on its way
/// stays marked, for its log is about to go.
#[must_use]
pub fn came_back(inspected: Position, truncated: Position, newest: Position) -> bool {
    inspected >= truncated && inspected.generation >= newest.generation
}

/// The smallest sacrifice that lets at least one generation go: the list is walked until something
/// would go, then everything that turns out not to be in the way is taken back, dearest first.
fn fewest_sacrifices(
    inputs: &ExpandedInputs<'_>,
    straggler: Option<CopyId>,
) -> Option<BTreeSet<Sacrifice>> {
    let mut given_up = BTreeSet::new();
    let frees = |given_up: &BTreeSet<Sacrifice>| {
        Plan::new(inputs, straggler, given_up).up_to > inputs.ordinary.max(inputs.truncated)
    };
    let mut remaining = YIELD_ORDER.iter();
    while !frees(&given_up) {
        given_up.insert(*remaining.next()?);
    }
    for sacrifice in YIELD_ORDER.iter().rev() {
        if given_up.remove(sacrifice) && !frees(&given_up) {
            given_up.insert(*sacrifice);
        }
    }
    Some(given_up)
}

/// How far log would go with some things given up.
struct Plan<'a> {
    up_to: Position,
    straggler: Option<&'a PassiveFacts>,
    given_up: &'a BTreeSet<Sacrifice>,
}

impl<'a> Plan<'a> {
    fn new(
        inputs: &ExpandedInputs<'a>,
        straggler: Option<CopyId>,
        given_up: &'a BTreeSet<Sacrifice>,
    ) -> Self {
        let ignored = straggler.filter(|_| given_up.contains(&Sacrifice::Straggler));
        let keep_from = match inputs.role {
            ExpandedRole::Active { passives, .. } => keep_on_active(inputs, passives, ignored),
            ExpandedRole::Passive { established_start } => {
                keep_on_passive(inputs).min(established_start)
            }
        };
        let passives: &[PassiveFacts] = match inputs.role {
            ExpandedRole::Active { passives, .. } => passives,
            ExpandedRole::Passive { .. } => &[],
        };
        // Holds are of the database: only its active gives one up (F105).
        let active = matches!(inputs.role, ExpandedRole::Active { .. });
        let given = |hold: &LogHold| active && given_up.contains(&Sacrifice::Hold(hold.kind));
        let held = live_holds(inputs).filter(|hold| !given(hold)).map(|hold| hold.from);
        let held = held.chain(inputs.local_hold).min();
        let backup = if inputs.circular_logging { None } else { Some(inputs.backed_up) };
        let limit = [held, backup.map(Option::unwrap_or_default)].into_iter().flatten().min();
        let lowest = limit.map_or(keep_from, |limit| keep_from.min(limit));
        Self {
            up_to: Position { generation: lowest.generation, offset: 0 },
            straggler: passives.iter().find(|passive| Some(passive.copy) == ignored),
            given_up,
        }
    }

    /// What is given up in fact and not recorded yet: what needs log that would go.
    fn unrecorded(&self, inputs: &ExpandedInputs<'_>) -> (Vec<CopyId>, Vec<OperationId>) {
        let straggler = self.straggler.filter(|passive| passive.needs_from < self.up_to);
        let yields = |hold: &&LogHold| {
            hold.from < self.up_to && self.given_up.contains(&Sacrifice::Hold(hold.kind))
        };
        let operations = live_holds(inputs).filter(yields).map(|hold| hold.operation);
        (straggler.map(|passive| passive.copy).into_iter().collect(), operations.collect())
    }
}

fn live_holds<'a>(inputs: &ExpandedInputs<'a>) -> impl Iterator<Item = &'a LogHold> + use<'a> {
    let now = inputs.now_unix_ms;
    inputs.holds.iter().filter(move |hold| hold.is_live(now))
}

/// F105: `min(required range of the active, what protected passives need)`, and some logs before
/// that. Copies that are cut off already need nothing.
fn keep_on_active(
    inputs: &ExpandedInputs<'_>,
    passives: &[PassiveFacts],
    ignored: Option<CopyId>,
) -> Position {
    let respected = |p: &&PassiveFacts| !p.marked && Some(p.copy) != ignored;
    let needed = passives.iter().filter(respected).map(|passive| passive.needs_from).min();
    let lowest = needed.map_or(inputs.required_low, |from| from.min(inputs.required_low));
    let logs = inputs.settings.min_logs_to_protect.unwrap_or(LOGS_ON_ACTIVE);
    inputs.sizes.back(lowest, log_bytes(logs))
}

/// F106: the newest logs, and a tenth of that number before the required range.
fn keep_on_passive(inputs: &ExpandedInputs<'_>) -> Position {
    let logs = inputs.settings.min_logs_to_protect.unwrap_or(LOGS_ON_PASSIVE);
    let newest = inputs.sizes.back(inputs.newest, log_bytes(logs));
    newest.min(inputs.sizes.back(inputs.required_low, log_bytes(logs / 10)))
}

const fn log_bytes(logs: u64) -> u64 {
    logs.saturating_mul(LOG_UNIT_BYTES)
}
