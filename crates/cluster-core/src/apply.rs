//! Applying commands to the replicated state.
//!
//! Deterministic: the result depends on the state, the index and the command alone, so every member
//! that applies the same log has the same state. A refused command changes nothing but the recorded
//! clock. No command can fail half way: all checks of an item come before its first change.

mod copies;
mod databases;
mod epochs;
mod members;
mod policies;
mod records;
mod recovery;
mod rehearsals;
mod reseeds;
mod seeds;
mod settings;
mod tokens;
mod turns;

use keelson_types::{DatabaseId, IncarnationId, MemberId, RefusalReason, Weakness};

use crate::command::{Answer, Command, Outcome, Refusal};
use crate::event::{Event, EventKind};
use crate::member::Member;
use crate::state::{ClusterState, Database};

/// Result of one command inside this module.
type Applied = Result<Answer, Refusal>;

/// Shorthand for a refusal.
fn refuse<T>(reason: RefusalReason, message: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal::new(reason, message))
}

impl ClusterState {
    /// Applies one command of the log. `index` is the command's log index and rises from call to
    /// call.
    pub fn apply(&mut self, index: u64, command: &Command) -> Outcome {
        self.apply_with(index, command, Weakness::None)
    }

    /// [`Self::apply`] with one rule switched off, for the simulator only.
    pub fn apply_with(&mut self, index: u64, command: &Command, weakness: Weakness) -> Outcome {
        let outcome = self.apply_one(index, command, weakness);
        self.databases.settle();
        outcome
    }

    fn apply_one(&mut self, index: u64, command: &Command, weakness: Weakness) -> Outcome {
        let applied = match command {
            Command::Batch(commands) => {
                let outcomes = commands.iter().map(|c| self.apply_one(index, c, weakness));
                Ok(Answer::Batch(outcomes.collect()))
            }
            Command::Stamped { unix_ms, command } => {
                self.clock_unix_ms = self.clock_unix_ms.max(*unix_ms);
                return self.apply_one(index, command, weakness);
            }
            Command::OfLife { member, incarnation, command } => {
                let lives = self.check_life(*member, *incarnation);
                match lives.and_then(|()| self.check_own_copy(*member, command)) {
                    Ok(()) => return self.apply_one(index, command, weakness),
                    Err(refusal) => Err(refusal),
                }
            }
            Command::AllocateEpochs(items) => Ok(self.allocate_epochs(index, items)),
            Command::Activate(items) => Ok(self.activate(index, items, weakness)),
            other => self.apply_single(index, other),
        };
        applied.map_or_else(Outcome::Refused, Outcome::Ok)
    }

    fn apply_single(&mut self, index: u64, command: &Command) -> Applied {
        match command {
            Command::InitCluster { .. }
            | Command::AddMember { .. }
            | Command::SetMember { .. }
            | Command::RemoveMember { .. }
            | Command::StartIncarnation { .. }
            | Command::ConfirmIncarnation { .. }
            | Command::NoteSilence { .. }
            | Command::CertifyDeath { .. }
            | Command::ReleaseIncarnation { .. }
            | Command::PermitMounts { .. }
            | Command::RecoverSite(_) => self.apply_member(index, command),
            Command::Established { database, epoch } => self.established(index, *database, *epoch),
            Command::ChangeRule { database, epoch, expected_version, rule } => {
                self.change_rule(index, *database, *epoch, *expected_version, rule)
            }
            Command::SetCeiling { database, epoch, number, ceiling } => {
                self.set_ceiling(*database, *epoch, *number, *ceiling)
            }
            Command::SwitchLag { database, copy, switch } => {
                self.switch_lag(index, (*database, *copy), switch)
            }
            Command::SuspendFailed { database, copy, resumes, comment, needs_seed, tag } => {
                let why = (comment.as_str(), *tag, *needs_seed);
                self.suspend_failed(index, (*database, *copy), *resumes, why)
            }
            Command::ReseedStep { database, copy, steps, step } => {
                self.reseed_step(index, (*database, *copy), *steps, step)
            }
            Command::MarkCutOff { database, epoch, copies, operations } => {
                self.mark_cut_off(index, (*database, *epoch), copies, operations)
            }
            Command::ClearCutOff { database, epoch, copy } => {
                self.clear_cut_off(*database, *epoch, *copy)
            }
            Command::HoldLog { database, hold } => self.hold_log(*database, hold),
            Command::ReleaseLog { database, operation } => self.release_log(*database, *operation),
            Command::BeginSeed { .. } | Command::ReportSeed { .. } | Command::EndSeed { .. } => {
                self.apply_seed(index, command)
            }
            Command::EndRehearsal { operation, result } => {
                self.end_rehearsal(index, *operation, result)
            }
            Command::ChangeSetting { name, value } => self.change_setting(index, name, *value),
            Command::SetNetwork { name, network } => self.set_network(index, name, network.clone()),
            Command::SetCompression { policy } => self.set_compression(index, *policy),
            Command::IssueToken { token, replace } => self.issue_token(index, token, *replace),
            Command::RevokeToken { name } => self.revoke_token(index, name),
            Command::SetActivation { .. }
            | Command::SetCopyPolicy { .. }
            | Command::BeginMaintenance { .. }
            | Command::StopMembers { .. }
            | Command::EndMaintenance { .. } => self.apply_policy(index, command),
            Command::AppendEvent { .. }
            | Command::RecordDecision(_)
            | Command::PutOperation { .. }
            | Command::UpdateOperation { .. } => self.apply_record(index, command),
            _ => self.apply_database(index, command),
        }
    }

    fn event(
        &mut self,
        index: u64,
        member: Option<MemberId>,
        database: Option<DatabaseId>,
        kind: EventKind,
    ) {
        let unix_ms = self.clock_unix_ms;
        self.events.push(Event { index, unix_ms, member, database, kind });
    }

    /// Only the member of a copy says that it forgot.
    fn check_own_copy(&self, member: MemberId, command: &Command) -> Result<(), Refusal> {
        let Command::ReplaceCopy { database, old, .. } = command else { return Ok(()) };
        let copy = self.databases.get(database).and_then(|database| database.copies.get(old));
        match copy.is_some_and(|copy| copy.member != member) {
            true => refuse(RefusalReason::Precondition, "it is a copy of another member"),
            false => Ok(()),
        }
    }

    fn check_life(&self, member: MemberId, incarnation: IncarnationId) -> Result<(), Refusal> {
        let recorded = self.members.get(&member).and_then(|member| member.incarnation);
        if recorded == Some(incarnation) {
            return Ok(());
        }
        refuse(RefusalReason::Precondition, "not the recorded life of the data process")
    }

    fn member_mut(&mut self, id: MemberId) -> Result<&mut Member, Refusal> {
        let unknown = || Refusal::new(RefusalReason::UnknownMember, format!("no member {id}"));
        self.members.get_mut(&id).ok_or_else(unknown)
    }

    fn database(&self, id: DatabaseId) -> Result<&Database, Refusal> {
        let unknown = || Refusal::new(RefusalReason::UnknownDatabase, format!("no database {id}"));
        self.databases.get(&id).ok_or_else(unknown)
    }

    fn database_mut(&mut self, id: DatabaseId) -> Result<&mut Database, Refusal> {
        let unknown = || Refusal::new(RefusalReason::UnknownDatabase, format!("no database {id}"));
        self.databases.get_mut(&id).ok_or_else(unknown)
    }

    /// Notes that the pairs which the target's member serves change with this command (R9).
    fn touch_assignments(&mut self, index: u64, database: DatabaseId) {
        let member = self.databases.get(&database).and_then(Database::target_member);
        if let Some(member) = member {
            self.members.set_assignment_revision(member, index);
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
