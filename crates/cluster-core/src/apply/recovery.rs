//! The cluster is forced up without the majority that was lost (F126, review S19).
//!
//! What consensus recorded last may never have come here: rules that lost actives changed, epochs
//! in which they served. So nothing that this state knows proves that a write is safe. Of every
//! copy on a lost member it is therefore recorded that it may have acknowledged anything by itself,
//! as the rule of one more epoch that a proof must pass (R2). A database with such a copy opens
//! when that copy is reached again, or by an operator's word (`mount --accept-loss`); any other
//! one by itself. The record goes with the first epoch that is established, like any other.
//!
//! All epochs from now on have the higher generation, so whatever the lost members allocated
//! meanwhile loses every comparison.

use keelson_types::{
    CommitConstraint, CommitRule, CopyId, DatabaseId, DatabaseState, IncarnationId, MountIntent,
    Participant, RefusalReason,
};

use super::{Applied, refuse};
use crate::command::Answer;
use crate::decision::ActivationReason;
use crate::event::EventKind;
use crate::member::Maintenance;
use crate::site_recovery::SiteRecovery;
use crate::state::{ClusterState, RuleRecord};

impl ClusterState {
    pub(super) fn recover_site(&mut self, index: u64, recovery: &SiteRecovery) -> Applied {
        let current = self.recovery_generation;
        if recovery.generation <= current {
            let message = format!("the recovery generation is {current} already");
            return refuse(RefusalReason::Precondition, message);
        }
        let mut holders = self.members.values().filter(|m| !m.config.data_address.is_empty());
        if holders.all(|member| recovery.lost.contains(&member.config.id)) {
            return refuse(RefusalReason::Precondition, "no member that holds data would be left");
        }
        self.recovery_generation = recovery.generation;
        self.take_for_lost(recovery);
        let databases: Vec<_> = self.databases.keys().copied().collect();
        for id in databases {
            self.recover_database(index, id, recovery)?;
        }
        let SiteRecovery { generation, lost, comment } = recovery.clone();
        let kind = EventKind::SiteRecovered { generation, lost, comment };
        self.event(index, None, None, kind);
        Ok(Answer::Done)
    }

    /// Stops the lost members, and nobody else: what is left is meant to serve.
    fn take_for_lost(&mut self, recovery: &SiteRecovery) {
        let since_unix_ms = self.clock_unix_ms;
        let ids: Vec<_> = self.members.keys().copied().collect();
        for id in ids {
            let Some(member) = self.members.get_mut(&id) else { continue };
            let comment = recovery.comment.clone();
            let stopped =
                recovery.lost.contains(&id).then_some(Maintenance { since_unix_ms, comment });
            if member.stopped.is_some() != stopped.is_some() {
                member.stopped = stopped;
            }
        }
    }

    fn recover_database(&mut self, index: u64, id: DatabaseId, recovery: &SiteRecovery) -> Applied {
        let doubts = self.doubts(id, recovery);
        let database = self.database_mut(id)?;
        database.unestablished.splice(0..0, doubts);
        let wanted = database.intent == MountIntent::Mounted;
        if wanted && database.state != DatabaseState::New {
            self.allocate(index, id, &ActivationReason::SiteRecovered)?;
        }
        Ok(Answer::Done)
    }

    /// What is recorded of the lost copies: each may have acknowledged by itself.
    fn doubts(&self, id: DatabaseId, recovery: &SiteRecovery) -> Vec<RuleRecord> {
        let Some(database) = self.databases.get(&id) else { return Vec::new() };
        let lost = database.copies.iter().filter(|(_, c)| recovery.lost.contains(&c.member));
        let doubt = |(copy, config): (&CopyId, &crate::state::CopyConfig)| {
            let member = self.members.get(&config.member)?;
            let life = member.incarnation.or(member.previous);
            let participant = Participant {
                copy: *copy,
                member: config.member,
                site: member.config.site.clone(),
            };
            let rule = CommitRule {
                version: database.rule.as_ref().map_or(0, |rule| rule.version),
                active: *copy,
                constraint: CommitConstraint::None,
                participants: vec![participant],
            };
            let life = life.unwrap_or(IncarnationId::from_u128(0));
            Some(RuleRecord::new(database.epoch, life, rule))
        };
        lost.filter_map(doubt).collect()
    }
}

#[cfg(test)]
mod tests;
