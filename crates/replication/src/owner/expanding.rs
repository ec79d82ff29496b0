//! Expanded truncation: log that goes against the ordinary rules while the log volume is short of
//! space (F104-F106). What may go is decided by `copy_core::expanded_truncation`; here are its
//! inputs, and what is told.
//!
//! A copy that will be cut off is recorded in consensus before any log goes: the request is
//! repeated at every look at the volume until the assignment shows it.

use keelson_copy_core::expanded_truncation::{
    CutRefusal, Expanded, ExpandedInputs, ExpandedRole, ExpandedSettings, PassiveFacts,
    cut_candidate, expanded_truncation,
};
use keelson_copy_core::truncate::Truncation;
use keelson_types::{CopyId, MemberId, News, OperationId, Position};

use crate::gate::boottime_now;
use crate::message::Assigned;
use crate::owner::Owner;

/// What was told last, so that a state that lasts is one event.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) enum Told {
    /// The ordinary rules hold.
    #[default]
    Ordinary,
    /// Log went.
    Truncating,
    /// These are to be marked first.
    Marking(Vec<CopyId>, Vec<OperationId>),
    /// Nothing more may go.
    Stuck(Option<CutRefusal>),
}

impl Owner {
    /// Raises the ordinary decision if space is short and the rules of expanded truncation let
    /// more go.
    pub(super) fn expand_truncation(&mut self, decided: &mut Truncation) {
        if self.truncation.unlooked {
            return; // Log has gone since the last look, perhaps enough.
        }
        let Some(free_bytes) = self.context.volumes_of(self.shared.database).log.free_bytes else {
            return;
        };
        let Some(assigned) = self.assigned.clone() else { return };
        match self.expanded(&assigned, decided.up_to, free_bytes) {
            Expanded::Off | Expanded::Enough => self.truncation.told = Told::Ordinary,
            Expanded::Stuck { cut } => {
                let reason = cut.map_or_else(
                    || "what is left is needed by the copy itself".to_owned(),
                    |cut| cut.to_string(),
                );
                let news = News::ExpandedTruncationStuck { free_bytes, reason };
                self.tell_expanded(Told::Stuck(cut), &news);
            }
            Expanded::MarkFirst { copies, operations, up_to } => {
                let epoch = assigned.assignment.epoch;
                self.context.report_cut_off(&self.shared, epoch, &copies, &operations);
                let news = self.expanded_news(&assigned, &copies, free_bytes, up_to);
                self.tell_expanded(Told::Marking(copies, operations), &news);
            }
            Expanded::Truncate { up_to } => {
                decided.up_to = decided.up_to.max(up_to);
                let news = self.expanded_news(&assigned, &[], free_bytes, up_to);
                self.tell_expanded(Told::Truncating, &news);
            }
        }
    }

    fn tell_expanded(&mut self, told: Told, news: &News) {
        if self.truncation.told != told {
            self.truncation.told = told;
            self.context.tell(Some(self.shared.database), news);
        }
    }

    fn expanded_news(
        &self,
        assigned: &Assigned,
        copies: &[CopyId],
        free_bytes: u64,
        up_to: Position,
    ) -> News {
        let cut = assigned.others.iter().filter(|other| copies.contains(&other.copy));
        let cut_off = cut.map(|other| self.context.name_of(other.member)).collect();
        News::ExpandedTruncation { free_bytes, up_to: up_to.to_string(), cut_off }
    }

    fn expanded(&self, assigned: &Assigned, ordinary: Position, free_bytes: u64) -> Expanded {
        let passives = self.passives(assigned);
        self.with_expanded_inputs(assigned, &passives, (ordinary, free_bytes), |inputs| {
            expanded_truncation(&inputs)
        })
    }

    /// The copy that expanded truncation would cut off, at an active.
    pub(super) fn would_be_cut(&self) -> Option<(CopyId, MemberId)> {
        let assigned = self.assigned.as_ref()?;
        let passives = self.passives(assigned);
        let ordinary = self.truncation.first;
        let cut = self.with_expanded_inputs(assigned, &passives, (ordinary, 0), |inputs| {
            cut_candidate(&inputs).ok()
        })?;
        passives.iter().find(|passive| passive.copy == cut).map(|p| (p.copy, p.member))
    }

    fn with_expanded_inputs<T>(
        &self,
        assigned: &Assigned,
        passives: &[PassiveFacts],
        (ordinary, free_bytes): (Position, u64),
        decide: impl FnOnce(ExpandedInputs<'_>) -> T,
    ) -> T {
        let role = match &self.writer {
            Some(_) => {
                let since = self.truncation.serving_since.unwrap_or_else(boottime_now);
                let serving_for = boottime_now().since(since);
                ExpandedRole::Active { passives, serving_for }
            }
            None => ExpandedRole::Passive { established_start: self.established_start() },
        };
        let index = self.shared.index();
        decide(ExpandedInputs {
            settings: ExpandedSettings::from(&*self.context.settings.borrow())
                .of_database(&assigned.automations),
            free_bytes,
            ordinary,
            truncated: self.truncation.first,
            required_low: self.shared.checkpointed.load(),
            newest: self.machine.durable().position,
            sizes: &index.sizes,
            role,
            circular_logging: assigned.circular_logging,
            backed_up: assigned.backed_up,
            holds: &assigned.holds,
            local_hold: self.shared.local_hold(),
            now_unix_ms: assigned.hold_clock.now(boottime_now()),
        })
    }

    /// The other copies that still need log, and the one that is cut off.
    fn passives(&self, assigned: &Assigned) -> Vec<PassiveFacts> {
        let others = assigned.others.iter().filter(|other| !other.leaving);
        let passive = others.map(|other| {
            let reported = self.reported.get(&other.copy).copied();
            let heard = reported.is_some();
            let reported = reported.unwrap_or_default();
            PassiveFacts {
                heard,
                copy: other.copy,
                member: other.member,
                ha: !other.lagged && !other.cut_off,
                needs_from: if other.lagged { reported.inspected } else { reported.checkpointed },
                marked: other.cut_off,
            }
        });
        passive.collect()
    }

    /// Start of the newest epoch of this log of which something is committed.
    fn established_start(&self) -> Position {
        let committed = self.machine.committed();
        let mut starts = self.machine.table().rows().iter().map(|row| row.previous_end);
        starts.rfind(|start| *start < committed).unwrap_or(Position::ZERO)
    }
}
