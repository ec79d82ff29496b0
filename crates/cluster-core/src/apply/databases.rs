//! Commands about databases and copies.

use std::collections::BTreeMap;

use keelson_types::{
    ActivationPolicy, ClusterSettings, CommitConstraint, CopyId, DatabaseId, DatabaseName,
    DatabaseState, Discard, Epoch, HeldTimeline, LagSettings, LagSwitch, MountIntent,
    RefusalReason, ResumeRequest, StreamId, SuspendFacts, SuspendRequest, SuspendedBy, Suspension,
};

use super::{Applied, refuse};
use crate::command::{Answer, Command, Refusal};
use crate::decision::ActivationReason;
use crate::event::EventKind;
use crate::retention::{may_release, next_end_unix_ms, take_over};
use crate::ring::Ring;
use crate::state::{
    ClusterState, ConstraintSetting, CopyConfig, CopyKind, Database, DatabaseSettings, NewCopy,
};

const MIB: u64 = 1024 * 1024;

impl ClusterState {
    pub(super) fn apply_database(&mut self, index: u64, command: &Command) -> Applied {
        match command {
            Command::CreateDatabase { id, name, stream, settings, copies } => {
                self.create_database(index, (*id, name, *stream), settings, copies)
            }
            Command::RemoveDatabase { database, force } => {
                self.remove_database(index, *database, *force)
            }
            Command::AddCopy { database, copy } => self.add_copy(index, *database, copy),
            Command::SetCopy { database, copy, preference, leaving, lag } => {
                self.set_copy(index, (*database, *copy), *preference, *leaving, *lag)
            }
            Command::SuspendCopy { database, copy, request } => {
                self.suspend_copy(index, (*database, *copy), request)
            }
            Command::ResumeCopy { database, copy, request } => {
                self.resume_copy(index, (*database, *copy), *request)
            }
            Command::EndSuspensions => Ok(self.end_suspensions(index)),
            Command::ReplaceCopy { database, old, new } => {
                self.check_not_remade(*database, *old)?;
                let known = self.database(*database)?;
                if known.target.is_none() && known.copies.contains_key(old) {
                    // Its files may be all that is left (G4): first another copy has to serve.
                    let what = format!("no copy of {} is active", known.name);
                    return refuse(RefusalReason::Precondition, what);
                }
                self.replace_copy(index, *database, *old, *new)
            }
            Command::RemoveCopy { database, copy } => self.remove_copy(index, *database, *copy),
            Command::SetMountIntent { database, intent } => {
                self.set_mount_intent(index, *database, *intent)
            }
            Command::SetDatabase { database, settings } => {
                check_settings(settings, self.database(*database)?.ha_copy_count())?;
                self.database_mut(*database)?.settings = settings.clone();
                Ok(Answer::Done)
            }
            Command::NoteBackup { database, up_to } => {
                let database = self.database_mut(*database)?;
                database.backed_up = database.backed_up.max(Some(*up_to));
                Ok(Answer::Done)
            }
            _ => refuse(RefusalReason::Internal, "not a command about databases"),
        }
    }

    fn create_database(
        &mut self,
        index: u64,
        (id, name, stream): (DatabaseId, &DatabaseName, StreamId),
        settings: &DatabaseSettings,
        copies: &[NewCopy],
    ) -> Applied {
        if let Some(known) = self.databases.get(&id) {
            if known.name == *name && known.stream == stream {
                return Ok(Answer::Done);
            }
            return refuse(RefusalReason::AlreadyExists, format!("database {id} exists"));
        }
        if self.database_named(name.as_str()).is_some() {
            return refuse(RefusalReason::AlreadyExists, format!("database {name} exists"));
        }
        let mut database = Database {
            id,
            name: name.clone(),
            created_at_index: index,
            settings: DatabaseSettings {
                guarantee: settings.guarantee.after_copy_added(copies.len()),
                ..settings.clone()
            },
            intent: MountIntent::Mounted,
            copies: BTreeMap::new(),
            stream,
            epoch: Epoch::ZERO,
            assigned_at: index,
            state: DatabaseState::New,
            target: None,
            binding: None,
            rule: None,
            unestablished: Vec::new(),
            history: Ring::default(),
            holds: Vec::new(),
            backed_up: None,
            receipts: Ring::default(),
            turned_back: None,
            redundancy_told: None,
        };
        for copy in copies {
            self.check_new_copy(&database, copy)?;
            database.copies.insert(copy.copy, new_copy(index, copy));
        }
        if copies.is_empty() {
            return refuse(RefusalReason::BadArgument, "a database needs at least one copy");
        }
        if database.ha_copy_count() == 0 {
            return refuse(RefusalReason::BadArgument, "a database needs at least one HA copy");
        }
        check_settings(settings, database.ha_copy_count())?;
        self.databases.insert(id, database);
        self.event(index, None, Some(id), EventKind::DatabaseCreated);
        Ok(Answer::Done)
    }

    fn check_new_copy(&self, database: &Database, copy: &NewCopy) -> Result<(), Refusal> {
        let Some(member) = self.members.get(&copy.member) else {
            return refuse(RefusalReason::UnknownMember, format!("no member {}", copy.member));
        };
        if member.config.data_address.is_empty() {
            let message = format!("{} is a witness and holds no copies", member.config.name);
            return refuse(RefusalReason::Precondition, message);
        }
        if database.copies.contains_key(&copy.copy) {
            return refuse(RefusalReason::AlreadyExists, format!("copy {} exists", copy.copy));
        }
        if database.copy_on(copy.member).is_some() {
            let message = format!("{} already holds a copy", member.config.name);
            return refuse(RefusalReason::AlreadyExists, message);
        }
        Ok(())
    }

    fn remove_database(&mut self, index: u64, id: DatabaseId, force: bool) -> Applied {
        let database = self.database(id)?;
        if database.intent == MountIntent::Mounted && !force {
            let message = format!("{} is wanted open; dismount it first", database.name);
            return refuse(RefusalReason::Precondition, message);
        }
        self.touch_assignments(index, id);
        self.forget_seeds(id);
        self.databases.remove(&id);
        self.event(index, None, Some(id), EventKind::DatabaseRemoved);
        Ok(Answer::Done)
    }

    fn add_copy(&mut self, index: u64, id: DatabaseId, copy: &NewCopy) -> Applied {
        let database = self.database(id)?;
        if database.copies.get(&copy.copy).is_some_and(|known| known.member == copy.member) {
            return Ok(Answer::Done);
        }
        self.check_new_copy(database, copy)?;
        let database = self.database_mut(id)?;
        database.copies.insert(copy.copy, new_copy(index, copy));
        database.settings.guarantee =
            database.settings.guarantee.after_copy_added(database.copies.len());
        self.event(index, Some(copy.member), Some(id), EventKind::CopyAdded(copy.copy));
        Ok(Answer::Done)
    }

    fn set_copy(
        &mut self,
        index: u64,
        (id, copy): (DatabaseId, CopyId),
        preference: Option<u32>,
        leaving: Option<bool>,
        lag: Option<LagSettings>,
    ) -> Applied {
        if leaving == Some(true) {
            self.check_removable(id, copy)?;
        }
        let database = self.database(id)?;
        if lag.is_some_and(|lag| lag.is_lagged()) {
            check_may_lag(database, copy)?;
        }
        let config = known_copy(self.database_mut(id)?, copy)?;
        config.preference = preference.unwrap_or(config.preference);
        config.leaving = leaving.unwrap_or(config.leaving);
        let Some(lag) = lag.filter(|lag| *lag != config.lag) else { return Ok(Answer::Done) };
        config.lag = lag;
        config.kind = if lag.is_lagged() { CopyKind::Lagged } else { CopyKind::Ha };
        let member = config.member;
        let (replay_lag, truncation_lag) =
            (lag.replay_lag().as_secs(), lag.truncation_lag().as_secs());
        let kind = EventKind::CopyLagSet { copy, replay_lag, truncation_lag };
        self.event(index, Some(member), Some(id), kind);
        Ok(Answer::Done)
    }

    fn suspend_facts(&self, id: DatabaseId, copy: CopyId) -> Result<SuspendFacts, Refusal> {
        let database = self.database(id)?;
        let active = database.target == Some(copy) && database.intent == MountIntent::Mounted;
        let seeding = database.copies.get(&copy).is_some_and(|config| config.is_remade());
        Ok(SuspendFacts { active, seeding, now_unix_ms: self.clock_unix_ms })
    }

    fn suspend_copy(
        &mut self,
        index: u64,
        (id, copy): (DatabaseId, CopyId),
        request: &SuspendRequest,
    ) -> Applied {
        let facts = self.suspend_facts(id, copy)?;
        let config = known_copy(self.database_mut(id)?, copy)?;
        config.suspension = config.suspension.suspend(request, &facts)?;
        let member = config.member;
        let (activation_only, comment) = (request.activation_only, request.comment.clone());
        let kind = EventKind::CopySuspended { copy, activation_only, comment };
        self.event(index, Some(member), Some(id), kind);
        Ok(Answer::Done)
    }

    fn resume_copy(
        &mut self,
        index: u64,
        (id, copy): (DatabaseId, CopyId),
        request: ResumeRequest,
    ) -> Applied {
        let facts = self.suspend_facts(id, copy)?;
        if request.release_discarded && !request.before_retention {
            may_release(self.database(id)?, copy, &self.settings, self.clock_unix_ms)?;
        }
        let config = known_copy(self.database_mut(id)?, copy)?;
        config.suspension = config.suspension.resume(&request, &facts)?;
        config.resumes += 1;
        config.cut_off = false;
        // A removal that came to no end is taken back.
        config.leaving = false;
        (config.failure, config.autoreseed) = (None, None);
        let member = config.member;
        self.event(index, Some(member), Some(id), EventKind::CopyResumed(copy));
        Ok(Answer::Done)
    }

    fn end_suspensions(&mut self, index: u64) -> Answer {
        let now = self.clock_unix_ms;
        let (mut ended, mut over) = (Vec::new(), Vec::new());
        let due =
            |database: &&Database| database.copies.values().any(|c| is_due(c, &self.settings, now));
        let due: Vec<_> = self.databases.values().filter(due).map(|database| database.id).collect();
        for id in &due {
            let Some(database) = self.databases.get_mut(id) else { continue };
            for (copy, config) in &mut database.copies {
                let due = take_over(config, &self.settings, now);
                over.extend(due.into_iter().map(|held| (*id, *copy, config.member, held)));
            }
            let resting = database.copies.iter_mut().filter(|(_, c)| !c.is_remade());
            for (copy, config) in resting {
                let left = config.suspension.at(now);
                if left != config.suspension {
                    config.suspension = left;
                    ended.push((*id, *copy, config.member));
                }
            }
        }
        for (id, copy, member) in ended {
            self.event(index, Some(member), Some(id), EventKind::CopyResumed(copy));
        }
        for (id, copy, member, HeldTimeline { discard: Discard { epoch, kept }, .. }) in over {
            let kind = EventKind::DiscardedRetentionOver { copy, epoch, kept };
            self.event(index, Some(member), Some(id), kind);
        }
        Answer::Done
    }

    /// A seed that runs gives the copy a new id itself.
    fn check_not_remade(&self, id: DatabaseId, copy: CopyId) -> Result<(), Refusal> {
        let config = self.database(id)?.copies.get(&copy);
        if config.is_some_and(CopyConfig::is_remade) {
            let message = "the copy is being seeded, which gives it a new id";
            return refuse(RefusalReason::SeedInProgress, message);
        }
        Ok(())
    }

    pub(super) fn replace_copy(
        &mut self,
        index: u64,
        id: DatabaseId,
        old: CopyId,
        new: CopyId,
    ) -> Applied {
        let database = self.database_mut(id)?;
        if !database.copies.contains_key(&old) && database.copies.contains_key(&new) {
            return Ok(Answer::Done);
        }
        if database.copies.contains_key(&new) {
            return refuse(RefusalReason::AlreadyExists, format!("copy {new} exists"));
        }
        known_copy(database, old)?;
        if database.target == Some(old) {
            return refuse(RefusalReason::Precondition, "the copy is the active one");
        }
        self.end_index_seed(index, id, old)?;
        let database = self.database_mut(id)?;
        if let Some(copy) = database.copies.remove(&old) {
            let member = copy.member;
            // A fresh copy has neither the fault of the old one nor its missing log.
            let suspension = match copy.suspension.by {
                SuspendedBy::Fault => copy.suspension.when_replication_goes_on(),
                _ => copy.suspension.of_another_copy(),
            };
            let fresh = CopyConfig {
                added_at_index: index,
                cut_off: false,
                failure: None,
                // It was another copy that rehearsed.
                rehearsal: None,
                suspension,
                ..copy
            };
            database.copies.insert(new, fresh);
            self.event(index, Some(member), Some(id), EventKind::CopyRemoved(old));
            self.event(index, Some(member), Some(id), EventKind::CopyAdded(new));
        }
        Ok(Answer::Done)
    }

    /// Whether a copy may be removed once its active has dropped it from the commit rule.
    ///
    /// # Errors
    /// Why not.
    pub fn check_removable(&self, id: DatabaseId, copy: CopyId) -> Result<(), Refusal> {
        let database = self.database(id)?;
        let Some(config) = database.copies.get(&copy) else {
            let message = format!("{} has no copy {copy}", database.name);
            return refuse(RefusalReason::UnknownCopy, message);
        };
        if config.seeding.is_some() {
            let message = "the copy is being seeded; cancel the operation first";
            return refuse(RefusalReason::SeedInProgress, message);
        }
        if database.target == Some(copy) {
            let message = "the copy is the active one; move the database first";
            return refuse(RefusalReason::Precondition, message);
        }
        if database.copies.len() == 1 {
            return refuse(RefusalReason::Precondition, "the last copy goes with its database");
        }
        let serving = database.target.is_some() && database.intent == MountIntent::Mounted;
        if database.counts(copy) && !serving {
            // C14: it may hold what no other copy has, and nobody can drop it from the rule.
            let message = "the copy counts in the commit rule and no copy is open that could drop \
                           it; mount the database first";
            return refuse(RefusalReason::Precondition, message);
        }
        may_release(database, copy, &self.settings, self.clock_unix_ms)?;
        check_enough_without(database, copy)
    }

    fn remove_copy(&mut self, index: u64, id: DatabaseId, copy: CopyId) -> Applied {
        self.check_removable(id, copy)?;
        let database = self.database_mut(id)?;
        let member = known_copy(database, copy)?.member;
        if database.counts(copy) {
            let message = "the copy counts in the commit rule; mark it as leaving and retry \
                           when the active has dropped it";
            return refuse(RefusalReason::Precondition, message);
        }
        database.copies.remove(&copy);
        self.event(index, Some(member), Some(id), EventKind::CopyRemoved(copy));
        Ok(Answer::Done)
    }

    fn set_mount_intent(&mut self, index: u64, id: DatabaseId, intent: MountIntent) -> Applied {
        if self.database(id)?.intent == intent {
            return Ok(Answer::Done);
        }
        self.touch_assignments(index, id);
        let database = self.database_mut(id)?;
        database.intent = intent;
        let used = database.epoch != Epoch::ZERO;
        self.event(index, None, Some(id), EventKind::IntentChanged(intent));
        if intent == MountIntent::Mounted && used {
            self.allocate(index, id, &ActivationReason::Mount)?;
        }
        Ok(Answer::Done)
    }
}

fn new_copy(index: u64, copy: &NewCopy) -> CopyConfig {
    CopyConfig {
        member: copy.member,
        preference: copy.preference,
        kind: copy.kind,
        leaving: false,
        added_at_index: index,
        suspension: Suspension::default(),
        lag: LagSettings::default(),
        resumes: 0,
        cut_off: false,
        lag_switch: LagSwitch::default(),
        seeding: None,
        policy: ActivationPolicy::default(),
        failure: None,
        autoreseed: None,
        rehearsal: None,
    }
}

pub(super) fn known_copy(
    database: &mut Database,
    copy: CopyId,
) -> Result<&mut CopyConfig, Refusal> {
    let message = format!("{} has no copy {copy}", database.name);
    let unknown = || Refusal::new(RefusalReason::UnknownCopy, message);
    database.copies.get_mut(&copy).ok_or_else(unknown)
}

/// An explicit constraint needs somebody who can meet it (review C10).
fn check_settings(settings: &DatabaseSettings, ha_copies: usize) -> Result<(), Refusal> {
    if !(MIB..=1024 * MIB).contains(&settings.generation_bytes) {
        let message =
            format!("generation_bytes {} is not 1 MiB to 1 GiB", settings.generation_bytes);
        return refuse(RefusalReason::BadArgument, message);
    }
    match settings.constraint {
        ConstraintSetting::Explicit(constraint)
            if constraint != CommitConstraint::None && ha_copies < 2 =>
        {
            let message = format!("{constraint} needs at least two HA copies");
            refuse(RefusalReason::Precondition, message)
        }
        _ => Ok(()),
    }
}

/// A copy with a replay lag is no HA copy any more: another one must be there, and a commit rule
/// that counts it must be able to let it go.
fn check_may_lag(database: &Database, copy: CopyId) -> Result<(), Refusal> {
    if database.target == Some(copy) {
        let message = "the copy is the active one; move the database first";
        return refuse(RefusalReason::Precondition, message);
    }
    let mut rest = database.clone();
    rest.copies.remove(&copy);
    if database.wanted_constraint() != rest.wanted_constraint() {
        // By itself the rule would become one that acknowledges what no other copy has.
        let message = "no other copy would be left that writes wait for, so the active would \
                       acknowledge alone; if that is meant, say it first (keelson database set \
                       NAME --commit-constraint none)";
        return refuse(RefusalReason::Precondition, message);
    }
    check_enough_without(database, copy)
}

/// Whether the settings can still be met when the copy is gone.
fn check_enough_without(database: &Database, copy: CopyId) -> Result<(), Refusal> {
    let mut rest = database.clone();
    rest.copies.remove(&copy);
    if rest.ha_copy_count() == 0 {
        return refuse(RefusalReason::Precondition, "the last HA copy cannot be removed");
    }
    check_settings(&rest.settings, rest.ha_copy_count())
}

/// Whether something of the copy ends by now: a suspension, or the retention of a timeline.
fn is_due(config: &CopyConfig, settings: &ClusterSettings, now_unix_ms: u64) -> bool {
    let over = next_end_unix_ms(config, settings).is_some_and(|end| end <= now_unix_ms);
    over || (!config.is_remade() && config.suspension.at(now_unix_ms) != config.suspension)
}
