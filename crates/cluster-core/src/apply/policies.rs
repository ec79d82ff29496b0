//! Commands about which activations members and copies take.

use std::collections::BTreeSet;

use keelson_types::{
    ActivationPolicy, CopyId, DatabaseId, MemberId, RefusalReason, SUSPEND_COMMENT_CHARS_MAX,
};

use super::{Applied, refuse};
use crate::command::{Answer, Command};
use crate::event::EventKind;
use crate::member::{Maintenance, Member, MemberActivation};
use crate::state::ClusterState;

impl ClusterState {
    pub(super) fn apply_policy(&mut self, index: u64, command: &Command) -> Applied {
        match command {
            Command::SetActivation { member, activation } => {
                self.set_activation(index, *member, activation)
            }
            Command::SetCopyPolicy { database, copy, policy } => {
                self.set_copy_policy(index, (*database, *copy), *policy)
            }
            Command::BeginMaintenance { member, comment } => {
                self.begin_maintenance(index, *member, comment)
            }
            Command::EndMaintenance { member } => self.end_maintenance(index, *member),
            Command::StopMembers { members, comment } => {
                self.stop_members(index, members, comment.as_deref())
            }
            _ => refuse(RefusalReason::Internal, "not a command about policies"),
        }
    }

    /// F126: a stopped member gets no lease; whoever is active there is moved by that.
    fn stop_members(
        &mut self,
        index: u64,
        members: &BTreeSet<MemberId>,
        comment: Option<&str>,
    ) -> Applied {
        let holds_data =
            |member: &&Member| !member.config.data_address.is_empty() && member.stopped.is_none();
        let mut left = self.members.values().filter(holds_data);
        if comment.is_some() && left.all(|member| members.contains(&member.config.id)) {
            return refuse(RefusalReason::Precondition, "no member that holds data would be left");
        }
        let since_unix_ms = self.clock_unix_ms;
        for id in members {
            let member = self.member_mut(*id)?;
            if member.stopped.is_some() == comment.is_some() {
                continue;
            }
            member.stopped =
                comment.map(|comment| Maintenance { since_unix_ms, comment: comment.to_owned() });
            let kind = match comment {
                Some(comment) => EventKind::SiteStopped { comment: comment.to_owned() },
                None => EventKind::SiteStarted,
            };
            self.event(index, Some(*id), None, kind);
        }
        Ok(Answer::Done)
    }

    /// F25-F28. A preferred maximum above the maximum could never be reached.
    fn set_activation(&mut self, index: u64, id: MemberId, new: &MemberActivation) -> Applied {
        let limits = (new.max_active_preferred, new.max_active);
        if let (Some(preferred), Some(most)) = limits
            && preferred > most
        {
            let message = format!("a preferred maximum of {preferred} is above the maximum {most}");
            return refuse(RefusalReason::BadArgument, message);
        }
        let member = self.member_mut(id)?;
        if member.config.data_address.is_empty() {
            let message = format!("{} is a witness and holds no copies", member.config.name);
            return refuse(RefusalReason::Precondition, message);
        }
        if member.activation != *new {
            member.activation = *new;
            self.event(index, Some(id), None, EventKind::ActivationSet(*new));
        }
        Ok(Answer::Done)
    }

    fn set_copy_policy(
        &mut self,
        index: u64,
        (id, copy): (DatabaseId, CopyId),
        policy: ActivationPolicy,
    ) -> Applied {
        let config = super::databases::known_copy(self.database_mut(id)?, copy)?;
        if config.policy != policy {
            config.policy = policy;
            let member = config.member;
            self.event(index, Some(member), Some(id), EventKind::CopyPolicySet { copy, policy });
        }
        Ok(Answer::Done)
    }

    /// A repetition renews the comment and keeps the beginning.
    fn begin_maintenance(&mut self, index: u64, id: MemberId, comment: &str) -> Applied {
        if comment.chars().count() > SUSPEND_COMMENT_CHARS_MAX {
            let message = format!("a comment has at most {SUSPEND_COMMENT_CHARS_MAX} characters");
            return refuse(RefusalReason::BadArgument, message);
        }
        let now = self.clock_unix_ms;
        let member = self.member_mut(id)?;
        let since_unix_ms = member.maintenance.as_ref().map_or(now, |known| known.since_unix_ms);
        let begun = Maintenance { since_unix_ms, comment: comment.to_owned() };
        if member.maintenance.as_ref() != Some(&begun) {
            member.maintenance = Some(begun);
            let kind = EventKind::MaintenanceBegun { comment: comment.to_owned() };
            self.event(index, Some(id), None, kind);
        }
        Ok(Answer::Done)
    }

    fn end_maintenance(&mut self, index: u64, id: MemberId) -> Applied {
        if self.member_mut(id)?.maintenance.take().is_some() {
            self.event(index, Some(id), None, EventKind::MaintenanceEnded);
        }
        Ok(Answer::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{DB, Log, copy, create, member};

    /// F27: both limits are kept; they must make sense together.
    #[test]
    fn a_preferred_maximum_above_the_maximum_is_refused() {
        let mut log = Log::with_members(1);
        let set = |max_active_preferred| Command::SetActivation {
            member: member(1),
            activation: MemberActivation {
                max_active: Some(3),
                max_active_preferred,
                ..MemberActivation::default()
            },
        };
        log.refused(RefusalReason::BadArgument, &set(Some(4)));
        log.ok(&set(Some(3)));
        assert_eq!(log.state.members[&member(1)].activation.max_active_preferred, Some(3));
    }

    /// F124, F125, and unlike the model: what an administrator set is there afterwards.
    #[test]
    fn maintenance_leaves_an_operators_policy_alone() {
        let mut log = Log::with_members(1);
        let activation =
            MemberActivation { policy: ActivationPolicy::Blocked, ..MemberActivation::default() };
        log.ok(&Command::SetActivation { member: member(1), activation });
        let begin = Command::BeginMaintenance { member: member(1), comment: "disk".into() };
        log.ok(&begin);
        assert!(log.state.members[&member(1)].is_left());
        let events = log.state.events.len();
        log.ok(&begin);
        assert_eq!(log.state.events.len(), events, "a repetition is no event");
        log.ok(&Command::EndMaintenance { member: member(1) });
        let member = &log.state.members[&member(1)];
        assert_eq!((member.activation, &member.maintenance), (activation, &None));
    }

    /// F126: somebody must be left; a repetition is no event; what is stopped counts for nobody.
    #[test]
    fn a_site_is_stopped_and_started() {
        let mut log = Log::with_members(3);
        let stop = |members: &[u128], comment: Option<&str>| Command::StopMembers {
            members: members.iter().map(|n| member(*n)).collect(),
            comment: comment.map(str::to_owned),
        };
        log.refused(RefusalReason::Precondition, &stop(&[1, 2, 3], Some("flood")));
        log.ok(&stop(&[1, 2], Some("flood")));
        log.refused(RefusalReason::Precondition, &stop(&[3], Some("fire")));
        assert!(log.state.members[&member(1)].is_gone());
        let events = log.state.events.len();
        log.ok(&stop(&[1, 2], Some("flood")));
        assert_eq!(log.state.events.len(), events);
        log.ok(&stop(&[1, 2], None));
        assert!(!log.state.members[&member(1)].is_gone());
        assert_eq!(log.state.events.len(), events + 2);
    }

    #[test]
    fn the_policy_of_a_copy_is_set() {
        let mut log = Log::with_members(2);
        log.ok(&create(1, &[1, 2]));
        let policy = ActivationPolicy::IntrasiteOnly;
        log.ok(&Command::SetCopyPolicy { database: DB, copy: copy(2), policy });
        assert_eq!(log.state.databases[&DB].copies[&copy(2)].policy, policy);
        let unknown = Command::SetCopyPolicy { database: DB, copy: copy(9), policy };
        log.refused(RefusalReason::UnknownCopy, &unknown);
    }
}
