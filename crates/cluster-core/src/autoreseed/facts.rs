//! What a verdict on a failed copy depends on, as values: the same facts give the same verdict, now
//! and from a decision record (G8).

use keelson_types::{
    ClusterSettings, CopyStatus, FailureTag, OldFiles, SeedScope, Setting, SpareOrder, SuspendedBy,
    VolumeState,
};
use serde::{Deserialize, Serialize};

use super::{
    AutoReseed, CopySeen, Look, OnVolume, RESUMES_MAX, ReseedVerdict, ReseedWish,
    SEEDS_AT_ONCE_MAX, SEEDS_MAX, SPARES_MAX, Seen, failed_on, order, seeding_on,
};
use crate::failure::{FailureAction, response};
use crate::seed::{first_failure, seed_checks, unfit_source};

/// Everything that a verdict on one copy depends on.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ReseedFacts {
    /// The wall clock of the look, in Unix milliseconds.
    pub now: u64,
    /// The settings of automatic reseed that were changed.
    #[serde(default)]
    pub settings: ClusterSettings,
    /// The switch of the database.
    pub on: bool,
    /// Whether the database is wanted open.
    pub open: bool,
    /// Who suspended the copy, if it is suspended.
    pub suspended: Option<SuspendedBy>,
    /// Since when, in Unix milliseconds.
    pub suspended_since: Option<u64>,
    /// Since when it is failed without that.
    pub failed_since: Option<u64>,
    /// For what it was suspended.
    pub failure: Option<FailureTag>,
    /// Log that it needs is gone.
    pub cut_off: bool,
    /// What was tried.
    pub progress: Option<AutoReseed>,
    /// What its member said of it.
    pub seen: Option<CopySeen>,
    /// Name of its member.
    pub member: String,
    /// What keeps its member from being used.
    pub away: Option<Away>,
    /// Copies there that the system suspended.
    pub failed_there: usize,
    /// Seeds there.
    pub seeds_there: usize,
    /// Other copies that it could be made from.
    pub sources: usize,
    /// What would refuse the seed.
    pub seed_refusal: Option<String>,
    /// The volume that it lies on, if its member has several.
    #[serde(default)]
    pub volume: Option<OnVolume>,
}

/// Why a member is left alone.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Away {
    /// It is under maintenance.
    Maintenance,
    /// It does not answer.
    Silent,
}

impl Look<'_> {
    /// The facts of a copy that may be the business of automation; nothing of any other.
    pub(super) fn facts(&self, seen: Option<&Seen>) -> Option<ReseedFacts> {
        let own = seen.and_then(|seen| seen.get(&self.copy)).copied();
        let (config, state) = (self.config, self.state);
        let stopped = config.is_stopped();
        let failed = own.is_some_and(|own| own.is_failed());
        if !stopped && !failed && config.autoreseed.is_none() {
            return None;
        }
        let well = |id| seen.is_none_or(|seen| seen.get(id).is_some_and(CopySeen::is_well));
        let sources = self.database.copies.iter().filter(|(id, other)| {
            let fit = unfit_source(other, SeedScope::Everything).is_none();
            **id != self.copy && fit && well(*id)
        });
        let probe = order(
            keelson_types::OperationId::from_u128(0),
            keelson_types::CopyId::from_u128(0),
            OldFiles::Keep,
        );
        let checks = seed_checks(state, (self.database.id, self.copy), &probe);
        let member = state.members.get(&config.member);
        let silent = |gone: bool| gone || seen.is_some_and(|seen| !seen.contains_key(&self.copy));
        let away = member.and_then(|member| match member.maintenance.is_some() {
            true => Some(Away::Maintenance),
            false => silent(member.is_gone()).then_some(Away::Silent),
        });
        let changed = state.settings.changed().iter();
        let pause = Setting::VolumeProbePause.info().name;
        let ours =
            changed.filter(|(name, _)| name.starts_with("autoreseed") || name.as_str() == pause);
        Some(ReseedFacts {
            now: self.now,
            settings: ClusterSettings::from_changed(
                ours.map(|(name, value)| (name.clone(), *value)).collect(),
            ),
            on: self.database.settings.autoreseed,
            open: self.database.intent == keelson_types::MountIntent::Mounted,
            suspended: stopped.then_some(config.suspension.by),
            suspended_since: config.suspension.replication.map(|stop| stop.since_unix_ms),
            failed_since: self.since,
            failure: config.failure,
            cut_off: config.cut_off,
            progress: config.autoreseed,
            seen: own,
            member: member.map(|member| member.config.name.to_string()).unwrap_or_default(),
            away,
            failed_there: failed_on(state, config.member),
            seeds_there: seeding_on(state, config.member),
            sources: sources.count(),
            seed_refusal: first_failure(&checks).map(|refusal| refusal.message),
            volume: self.volume(seen),
        })
    }
}

impl ReseedFacts {
    /// What follows.
    #[must_use]
    pub fn verdict(&self) -> ReseedVerdict {
        let well = self.suspended.is_none() && self.seen.is_some_and(|own| own.is_well());
        if self.progress.is_some() && well {
            return ReseedVerdict::Act(ReseedWish::Done);
        }
        match self.suspended {
            None => self.running(),
            Some(SuspendedBy::Operator | SuspendedBy::DiscardedTimeline) => ReseedVerdict::Nothing,
            Some(SuspendedBy::Fault) => self.suspended(),
        }
    }

    fn setting(&self, setting: Setting) -> u64 {
        self.settings.number(setting)
    }

    fn is_off(&self) -> Option<&'static str> {
        if !self.settings.is_on(Setting::Autoreseed) {
            return Some("automatic reseed is off in this cluster");
        }
        (!self.on).then_some("automatic reseed is off for the database")
    }

    /// A copy that nobody suspended, and which may be failed for too long.
    fn running(&self) -> ReseedVerdict {
        let Some(own) = self.seen else { return ReseedVerdict::Nothing };
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
        let due = self.failed_since.unwrap_or(self.now).saturating_add(after);
        match due <= self.now {
            true => ReseedVerdict::Act(ReseedWish::Suspend(tag)),
            false => ReseedVerdict::Wait(due),
        }
    }

    /// A copy that the system suspended.
    fn suspended(&self) -> ReseedVerdict {
        if let Some(why) = self.not_automatic() {
            return ReseedVerdict::Blocked(why);
        }
        let progress = self.progress.unwrap_or_default();
        let due = self.due(&progress);
        if due > self.now {
            return ReseedVerdict::Wait(due);
        }
        if progress.stopped {
            return ReseedVerdict::Act(ReseedWish::Reset);
        }
        if let Some(why) = self.not_now() {
            return ReseedVerdict::Blocked(why);
        }
        // What misses log is helped by no other try.
        let tries = if self.cut_off { 0 } else { RESUMES_MAX };
        if progress.seeds + progress.spares == 0 && progress.resumes < tries {
            return ReseedVerdict::Act(ReseedWish::Resume);
        }
        match &self.volume {
            // One more look at it says which way to go; a seed in place would be wasted.
            Some(OnVolume { state: VolumeState::Suspect, .. }) => {
                let pause = self.setting(Setting::VolumeProbePause);
                ReseedVerdict::Wait(self.now.saturating_add(pause))
            }
            Some(volume) if volume.state.is_lost() => self.spare(volume, progress.spares),
            _ if progress.seeds >= SEEDS_MAX => ReseedVerdict::Act(ReseedWish::Stop),
            _ => self.seed(),
        }
    }

    /// What is left to a person, whatever the time.
    fn not_automatic(&self) -> Option<String> {
        if let Some(why) = self.is_off() {
            return Some(why.into());
        }
        let Some(tag) = self.failure else {
            return Some("its member did not say of what kind the failure is".into());
        };
        let lasting = response(tag).lasting;
        (lasting != FailureAction::Reseed)
            .then(|| format!("a failure of the kind {tag} is left to a person ({lasting})"))
    }

    /// When the next step is due, in Unix milliseconds.
    fn due(&self, progress: &AutoReseed) -> u64 {
        let since = self.suspended_since.unwrap_or(self.now);
        let (from, pause) = match progress {
            AutoReseed { stopped: true, .. } => {
                (progress.last_unix_ms, Setting::AutoreseedResetAfter)
            }
            AutoReseed { seeds: 1.., .. } | AutoReseed { spares: 1.., .. } => {
                (progress.last_unix_ms, Setting::AutoreseedSeedPause)
            }
            AutoReseed { resumes: 1.., .. } => {
                (progress.last_unix_ms, Setting::AutoreseedResumePause)
            }
            AutoReseed { .. } => (since, Setting::AutoreseedAfter),
        };
        from.saturating_add(self.setting(pause))
    }

    /// The limits that may be over at the next look (F130).
    fn not_now(&self) -> Option<String> {
        let name = &self.member;
        match self.away {
            Some(Away::Maintenance) => return Some(format!("{name} is under maintenance")),
            Some(Away::Silent) => return Some(format!("{name} does not answer")),
            None => {}
        }
        let most = self.setting(Setting::AutoreseedCopiesMax);
        (most > 0 && self.failed_there as u64 > most).then(|| {
            format!(
                "more than {most} copies on {name} have failed: that looks like a fault of the \
                 server, not of a copy"
            )
        })
    }

    fn seed(&self) -> ReseedVerdict {
        match self.no_seed() {
            Some(why) => ReseedVerdict::Blocked(why),
            // Whatever is wrong with it: salvage lies beside its log, and a fork that nobody cut
            // may be in it (G4). An operator deletes the old files.
            None => ReseedVerdict::Act(ReseedWish::Seed(OldFiles::Keep)),
        }
    }

    /// *AssignSpare* of F129: its volume is lost, and another one takes its place.
    fn spare(&self, volume: &OnVolume, tries: u32) -> ReseedVerdict {
        if tries >= SPARES_MAX {
            return ReseedVerdict::Act(ReseedWish::Stop);
        }
        match volume.stays(&self.member).or_else(|| self.no_seed()) {
            Some(why) => ReseedVerdict::Blocked(why),
            None => {
                let (leaves, bytes) = (volume.path.clone(), volume.bytes);
                ReseedVerdict::Act(ReseedWish::AssignSpare(SpareOrder { leaves, bytes }))
            }
        }
    }

    /// Why no seed could be begun now, wherever it went.
    fn no_seed(&self) -> Option<String> {
        if !self.open {
            return Some("the database is dismounted".into());
        }
        if self.sources == 0 {
            return Some("no other copy is healthy".into());
        }
        if self.seeds_there >= SEEDS_AT_ONCE_MAX {
            return Some(format!("{SEEDS_AT_ONCE_MAX} seeds run on its member"));
        }
        self.seed_refusal.clone()
    }
}
