//! Seeding: how a copy is made anew from another one (F52-F69), decided on its own member.
//!
//! [`SeedMachine::step`] takes one event and pushes actions. One action is under way at a time, and
//! each of those that take time ends in exactly one event. Beside it stand plain functions: which
//! source is read ([`choose_source`]), what is done with what a seed left ([`after_seed`]), and how
//! fast a source may send ([`throttle`]).
//!
//! Invariants:
//! 1. A file gets its name in the staging directory once its digest is that of the manifest and it
//!    is durable; so what has a name is never sent again while the source keeps the checkpoint.
//! 2. Files of two checkpoints never meet: before another one is begun, staging is cleared.
//! 3. Nothing of the copy that is there changes before all files are verified: the new ones are
//!    installed by one write of the new copy's own control file, beside the old one (G4). An index
//!    alone is installed by one rename, behind the record that says that it is whole.
//! 4. What is removed lies in staging, or is named by the id of the seed's own new copy, or, on an
//!    operator's word and once consensus took the new copy in, by the old copy's own record.
//! 5. The record is durable before anything that it speaks of exists.
//!
//! A crash leaves the record: with the same order the seed goes on from its checkpoint, or from the
//! beginning if the source gave that up; without it everything is cleared.

mod record;
mod source;
#[cfg(test)]
mod tests;
pub mod throttle;

use std::collections::BTreeSet;
use std::time::Duration;

use keelson_types::{
    CheckpointId, CopyId, MemberId, RefusalReason, Refused, SEED_RESERVE_BYTES, SeedOrder,
    SeedPhase, Tick,
};

pub use record::{Cleanup, SEED_RECORD_BYTES_MAX, SeedRecord, Staged, after_seed};
pub use source::{SourceCandidate, Standing, choose_log_source, choose_source};

/// Bounds of a seed.
#[derive(Clone, Copy, Debug)]
pub struct SeedConfig {
    /// A source that does not answer, or none at all, is waited for so long.
    pub patience: Duration,
    /// First pause before a source is asked again; doubles up to [`Self::pause_max`].
    pub pause_min: Duration,
    /// Longest pause.
    pub pause_max: Duration,
    /// How often a seed begins anew from another checkpoint or source.
    pub restarts_max: u32,
}

impl Default for SeedConfig {
    fn default() -> Self {
        Self {
            patience: Duration::from_secs(90),
            pause_min: Duration::from_millis(250),
            pause_max: Duration::from_secs(4),
            restarts_max: 16,
        }
    }
}

/// Why a source gave nothing, or nothing more.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SourceFailure {
    /// It does not answer, or the connection broke.
    Unreachable,
    /// It does not have the checkpoint any more.
    CheckpointGone,
    /// Its copy does not fit: it failed, is suspended, lags, or is not whole.
    Unfit,
    /// What it sent is not what its manifest says, again and again.
    Wrong,
}

/// A checkpoint that a source offers, beside what is here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Offered {
    /// Which.
    pub checkpoint: CheckpointId,
    /// Bytes of store and index that are not here yet, and free bytes of the volume.
    pub store: (u64, u64),
    /// The same of log.
    pub log: (u64, u64),
    /// Log and store lie on one volume, whose space both need.
    pub one_volume: bool,
}

/// What happens to a seed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SeedEvent {
    /// What an earlier life left: its record, and whether what it made is in place.
    Looked(Option<SeedRecord>, bool),
    /// Who could be a source, as consensus says now.
    Candidates(Vec<SourceCandidate>),
    /// Staging is empty.
    Cleared,
    /// The record is durable.
    Saved,
    /// The source has a checkpoint.
    Offered(Offered),
    /// The source failed; with words for people.
    SourceFailed(SourceFailure, String),
    /// All files are verified and durable.
    Transferred,
    /// The new copy's control file is written, or the index is in place.
    Installed,
    /// The own disk failed; true if it is full.
    DiskFailed(bool, String),
    /// Time has passed.
    Wake,
}

/// What is to be done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SeedAction {
    /// Look for what an earlier life left; ends in `Looked`.
    Look,
    /// Remove what a seed left, of this record or of none; ends in `Cleared`.
    Clear(Option<SeedRecord>),
    /// Make the record durable; ends in `Saved`.
    Save(SeedRecord),
    /// Ask a source for this checkpoint, or a new one; ends in `Offered` or `SourceFailed`.
    Open(MemberId, CopyId, Option<CheckpointId>),
    /// Fetch, verify and keep the files that are missing; ends in `Transferred` or `SourceFailed`.
    Transfer(MemberId, CheckpointId),
    /// Make this record durable and put the files in place; ends in `Installed`, or in
    /// `SourceFailed` if they turn out to be of no use.
    Install(SeedRecord),
    /// Tell where the seed is.
    Report {
        /// The phase.
        phase: SeedPhase,
        /// Who feeds it.
        source: Option<MemberId>,
        /// For people.
        note: String,
    },
    /// Tell consensus that the new copy, or index, is in place. Nothing follows.
    Finish,
    /// Tell consensus that the seed failed. Nothing follows but that the order goes.
    Abort(Refused),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Step {
    Begun,
    Looking,
    /// Staging is being cleared; then a source is chosen, or the offer is taken.
    Clearing(Option<CheckpointId>),
    /// Without a source since then.
    Searching,
    Opening(Option<CheckpointId>),
    Saving(CheckpointId),
    Transferring(CheckpointId),
    Installing(CheckpointId),
    Pausing(Tick),
    Over,
}

/// See the module page.
#[derive(Debug)]
pub struct SeedMachine {
    config: SeedConfig,
    order: SeedOrder,
    /// The copy that is there.
    old: CopyId,
    candidates: Vec<SourceCandidate>,
    /// Sources that turned out not to fit.
    excluded: BTreeSet<MemberId>,
    source: Option<(MemberId, CopyId)>,
    /// The checkpoint that is staged.
    staged: Option<CheckpointId>,
    step: Step,
    /// Since when nothing went on.
    stalled: Option<Tick>,
    tries: u32,
    /// Since when the own disk fails, and how often; no file was kept since.
    failing: Option<(Tick, u32)>,
    restarts: u32,
    note: String,
    told: Option<(SeedPhase, Option<MemberId>, String)>,
}

impl SeedMachine {
    /// A seed of `old` by this order; the first event is `Candidates`.
    #[must_use]
    pub fn new(config: SeedConfig, order: SeedOrder, old: CopyId) -> Self {
        Self {
            config,
            order,
            old,
            candidates: Vec::new(),
            excluded: BTreeSet::new(),
            source: None,
            staged: None,
            step: Step::Begun,
            stalled: None,
            tries: 0,
            failing: None,
            restarts: 0,
            note: String::new(),
            told: None,
        }
    }

    /// When `Wake` is wanted.
    #[must_use]
    pub const fn next_wake(&self) -> Option<Tick> {
        match self.step {
            Step::Pausing(until) => Some(until),
            _ => None,
        }
    }

    /// Takes an event. Events that belong to no step under way change nothing.
    pub fn step(&mut self, now: Tick, event: SeedEvent, actions: &mut Vec<SeedAction>) {
        match (self.step, event) {
            (_, SeedEvent::Candidates(candidates)) => {
                self.candidates = candidates;
                if self.step == Step::Begun {
                    self.report(SeedPhase::Preparing, actions);
                    self.step = Step::Looking;
                    actions.push(SeedAction::Look);
                }
            }
            (Step::Looking, SeedEvent::Looked(record, installed)) => {
                self.looked(now, record, installed, actions);
            }
            (Step::Clearing(None), SeedEvent::Cleared) => {
                self.staged = None;
                self.search(now, actions);
            }
            (Step::Clearing(Some(checkpoint)), SeedEvent::Cleared) => {
                self.save(checkpoint, actions)
            }
            (Step::Opening(_), SeedEvent::Offered(offered)) => self.offered(offered, actions),
            (Step::Saving(checkpoint), SeedEvent::Saved) => {
                self.staged = Some(checkpoint);
                self.transfer(checkpoint, actions);
            }
            (Step::Transferring(checkpoint), SeedEvent::Transferred) => {
                (self.stalled, self.tries) = (None, 0);
                self.install(checkpoint, actions);
            }
            (Step::Installing(_), SeedEvent::Installed) => self.finish(actions),
            (
                Step::Opening(_) | Step::Transferring(_) | Step::Installing(_),
                SeedEvent::SourceFailed(why, text),
            ) => self.source_failed(now, &why, text, actions),
            (Step::Pausing(until), SeedEvent::Wake) if now >= until => self.search(now, actions),
            (Step::Over | Step::Begun, SeedEvent::DiskFailed(..)) => {}
            (_, SeedEvent::DiskFailed(full, text)) => self.disk_failed(now, full, text, actions),
            _ => {}
        }
    }

    /// Bytes arrived: the source is well.
    pub const fn progressed(&mut self) {
        self.stalled = None;
        self.tries = 0;
    }

    /// Files became durable: the own disk is well.
    pub const fn kept(&mut self) {
        self.failing = None;
    }

    fn looked(
        &mut self,
        now: Tick,
        record: Option<SeedRecord>,
        installed: bool,
        actions: &mut Vec<SeedAction>,
    ) {
        match record {
            Some(record) if record.operation == self.order.operation => {
                if installed {
                    return self.finish(actions);
                }
                if let Some((member, copy, checkpoint)) = record.staged.checkpoint() {
                    self.source = Some((member, copy));
                    self.staged = Some(checkpoint);
                }
                self.search(now, actions);
            }
            other => self.clear(other, None, actions),
        }
    }

    fn clear(
        &mut self,
        record: Option<SeedRecord>,
        then: Option<CheckpointId>,
        actions: &mut Vec<SeedAction>,
    ) {
        self.step = Step::Clearing(then);
        actions.push(SeedAction::Clear(record));
    }

    /// Goes on with the present source while it is worth it, else with the best other one.
    fn search(&mut self, now: Tick, actions: &mut Vec<SeedAction>) {
        let present = self.source.filter(|source| self.may_go_on(*source));
        let best = || {
            let best = choose_source(self.order.source, &self.candidates, &self.excluded)?;
            Some((best.member, best.copy))
        };
        let Some((member, copy)) = present.or_else(best) else {
            self.step = Step::Searching;
            let text = self.no_source();
            return self.stall(now, text, actions);
        };
        if self.source != Some((member, copy)) {
            self.source = Some((member, copy));
            if self.staged.take().is_some() {
                // Files of another source are of no use.
                return self.clear(Some(self.record(Staged::Nothing)), None, actions);
            }
        }
        self.report(SeedPhase::Checkpointing, actions);
        self.step = Step::Opening(self.staged);
        actions.push(SeedAction::Open(member, copy, self.staged));
    }

    /// Whether the source that was read last is asked again. One that is away keeps its checkpoint:
    /// it is waited for before everything is fetched from another one.
    fn may_go_on(&self, (member, copy): (MemberId, CopyId)) -> bool {
        let mut known = self.candidates.iter();
        known.any(|known| {
            let there = known.standing.is_fit()
                || known.standing == Standing::Away && self.staged.is_some();
            (known.member, known.copy) == (member, copy) && there
        }) && !self.excluded.contains(&member)
            && self.order.source.is_none_or(|only| only == member)
    }

    fn no_source(&self) -> String {
        let unfit = self
            .candidates
            .iter()
            .filter(|candidate| self.order.source.is_none_or(|only| only == candidate.member));
        let whys: BTreeSet<_> =
            unfit.filter(|c| !c.standing.is_fit()).map(|c| c.standing.to_string()).collect();
        let whys: Vec<_> = whys.into_iter().collect();
        match (self.note.is_empty(), whys.is_empty()) {
            (false, _) => self.note.clone(),
            (true, false) => format!("no copy can be the source: {}", whys.join("; ")),
            (true, true) => "no copy can be the source".into(),
        }
    }

    fn offered(&mut self, offered: Offered, actions: &mut Vec<SeedAction>) {
        (self.stalled, self.tries) = (None, 0);
        if let Some(refused) = lacks_room(&offered) {
            return self.abort(refused, actions);
        }
        if self.staged == Some(offered.checkpoint) {
            return self.transfer(offered.checkpoint, actions);
        }
        self.staged = None;
        self.clear(Some(self.record(Staged::Nothing)), Some(offered.checkpoint), actions);
    }

    fn record(&self, staged: Staged) -> SeedRecord {
        SeedRecord {
            operation: self.order.operation,
            old: self.old,
            new: if self.order.scope.makes_copy() { self.order.copy } else { self.old },
            old_files: self.order.old_files,
            staged,
        }
    }

    fn save(&mut self, checkpoint: CheckpointId, actions: &mut Vec<SeedAction>) {
        let Some((member, copy)) = self.source else { return };
        self.step = Step::Saving(checkpoint);
        let staged = Staged::Checkpoint(member, copy, checkpoint);
        actions.push(SeedAction::Save(self.record(staged)));
    }

    fn transfer(&mut self, checkpoint: CheckpointId, actions: &mut Vec<SeedAction>) {
        let Some((member, _)) = self.source else { return };
        self.report(SeedPhase::Transferring, actions);
        self.step = Step::Transferring(checkpoint);
        actions.push(SeedAction::Transfer(member, checkpoint));
    }

    fn install(&mut self, checkpoint: CheckpointId, actions: &mut Vec<SeedAction>) {
        let Some((member, copy)) = self.source else { return };
        self.report(SeedPhase::Installing, actions);
        self.step = Step::Installing(checkpoint);
        let staged = Staged::Verified(member, copy, checkpoint);
        actions.push(SeedAction::Install(self.record(staged)));
    }

    fn finish(&mut self, actions: &mut Vec<SeedAction>) {
        self.note.clear();
        self.report(SeedPhase::Resuming, actions);
        self.step = Step::Over;
        actions.push(SeedAction::Finish);
    }

    fn abort(&mut self, refused: Refused, actions: &mut Vec<SeedAction>) {
        self.step = Step::Over;
        actions.push(SeedAction::Abort(refused));
    }

    fn source_failed(
        &mut self,
        now: Tick,
        why: &SourceFailure,
        text: String,
        actions: &mut Vec<SeedAction>,
    ) {
        let Some((member, _)) = self.source else { return };
        match why {
            SourceFailure::Unreachable => self.stall(now, text, actions),
            SourceFailure::CheckpointGone => {
                if self.begin_again(text, actions) {
                    self.staged = None;
                    self.clear(Some(self.record(Staged::Nothing)), None, actions);
                }
            }
            SourceFailure::Unfit | SourceFailure::Wrong => {
                let alone = self.order.source.is_some();
                if alone && *why == SourceFailure::Unfit {
                    // It may be well again in a moment.
                    return self.stall(now, text, actions);
                }
                if alone {
                    let refused = Refused::new(RefusalReason::SeedSourceFailed, text);
                    return self.abort(refused, actions);
                }
                if self.begin_again(text, actions) {
                    self.excluded.insert(member);
                    self.search(now, actions);
                }
            }
        }
    }

    /// Notes why the seed begins anew, unless it did so too often.
    fn begin_again(&mut self, text: String, actions: &mut Vec<SeedAction>) -> bool {
        self.restarts += 1;
        self.note = text;
        if self.restarts <= self.config.restarts_max {
            return true;
        }
        let text = format!("begun {} times; at last: {}", self.restarts, self.note);
        self.abort(Refused::new(RefusalReason::SeedSourceFailed, text), actions);
        false
    }

    /// Waits; gives the source up, or the seed, when patience ends.
    fn stall(&mut self, now: Tick, text: String, actions: &mut Vec<SeedAction>) {
        let since = *self.stalled.get_or_insert(now);
        let over = now.since(since) >= self.config.patience;
        self.note = text;
        let present = self.source.map(|(member, _)| member);
        if over {
            let others = present.is_some_and(|member| {
                let mut excluded = self.excluded.clone();
                excluded.insert(member);
                choose_source(self.order.source, &self.candidates, &excluded).is_some()
            });
            if let (true, Some(member)) = (others, present) {
                self.excluded.insert(member);
                (self.stalled, self.tries) = (None, 0);
                if self.begin_again(self.note.clone(), actions) {
                    self.search(now, actions);
                }
                return;
            }
            let refused = Refused::new(RefusalReason::SeedSourceFailed, self.note.clone());
            return self.abort(refused, actions);
        }
        self.tries += 1;
        self.pause(now, self.tries, actions);
    }

    fn pause(&mut self, now: Tick, tries: u32, actions: &mut Vec<SeedAction>) {
        let doubled = 2u32.saturating_pow(tries.saturating_sub(1).min(10));
        let pause = self.config.pause_min.saturating_mul(doubled);
        let phase = self.told.as_ref().map_or(SeedPhase::Preparing, |told| told.0);
        self.report(phase, actions);
        self.step = Step::Pausing(now.after(pause.min(self.config.pause_max)));
    }

    /// A full disk ends the seed: what was there is untouched. Other failures of the disk are tried
    /// again a few times.
    fn disk_failed(&mut self, now: Tick, full: bool, text: String, actions: &mut Vec<SeedAction>) {
        if full {
            return self.abort(Refused::new(RefusalReason::NoSpaceForSeed, text), actions);
        }
        // No source is to blame, and another one would fare alike.
        let (since, times) = self.failing.unwrap_or((now, 0));
        self.failing = Some((since, times + 1));
        if now.since(since) >= self.config.patience {
            return self.abort(Refused::new(RefusalReason::SeedTargetFailed, text), actions);
        }
        self.note = text;
        self.pause(now, times + 1, actions);
    }

    fn report(&mut self, phase: SeedPhase, actions: &mut Vec<SeedAction>) {
        let source = self.source.map(|(member, _)| member);
        let now = (phase, source, self.note.clone());
        if self.told.as_ref() != Some(&now) {
            self.told = Some(now.clone());
            let (phase, source, note) = now;
            actions.push(SeedAction::Report { phase, source, note });
        }
    }
}

/// Space is found out before a byte is sent (F59).
fn lacks_room(offered: &Offered) -> Option<Refused> {
    let (store, log) = (offered.store, offered.log);
    let needs = match offered.one_volume {
        true => vec![(store.0.saturating_add(log.0), store.1, "store and log")],
        false => vec![(store.0, store.1, "store"), (log.0, log.1, "log")],
    };
    let (needed, free, what) = needs.into_iter().find(|(needed, free, _)| {
        // What is here already asks for nothing.
        *needed > 0 && needed.saturating_add(SEED_RESERVE_BYTES) > *free
    })?;
    let text = format!(
        "the {what} need {needed} bytes beside the old files and {SEED_RESERVE_BYTES} that stay \
         free; the volume has {free}"
    );
    Some(Refused::new(RefusalReason::NoSpaceForSeed, text))
}
