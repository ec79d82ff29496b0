//! What operators do to copies: suspend and resume them, let them lag.

use std::time::Duration;

use keelson_cluster_core::{ActivateAt, Command};
use keelson_format::Item;
use keelson_types::{
    CopyId, DatabaseId, LagSettings, LogEnd, ResumeRequest, SuspendRequest, SuspendedBy,
};

use super::consensus::Origin;
use super::{Fault, Happening, World, database_id, member_id};
use crate::copy_node::CopyNode;
use crate::params::{MS, SEC};

impl World {
    /// The copy of a database on a member, as it is recorded.
    fn recorded_copy(&self, database: usize, member: usize) -> Option<(DatabaseId, CopyId)> {
        let id = database_id(database);
        let copy = self.reference.databases[&id].copy_on(member_id(member))?;
        Some((id, copy))
    }

    fn ask_leader(&mut self, command: Command) {
        if let Some(leader) = self.ready_leader() {
            self.propose(leader, command, Origin::None);
        }
    }

    pub(crate) fn suspend_copy(&mut self, member: usize) {
        let database = self.random.below(self.params.databases as u64) as usize;
        let activation_only = self.random.chance(1, 4);
        let delay = self.between((200 * MS, 6 * SEC));
        let Some((id, copy)) = self.recorded_copy(database, member) else { return };
        let request = SuspendRequest { activation_only, ..SuspendRequest::default() };
        self.ask_leader(Command::SuspendCopy { database: id, copy, request });
        self.after(delay, Happening::Undo(Fault::Suspended { database, member }));
    }

    pub(crate) fn resume_copy(&mut self, database: usize, member: usize) {
        let Some((id, copy)) = self.recorded_copy(database, member) else { return };
        let request = ResumeRequest::default();
        self.ask_leader(Command::ResumeCopy { database: id, copy, request });
    }

    /// An operator makes an instant of a copy the truth: one between its store and its log's end.
    pub(crate) fn take_back(&mut self, member: usize) {
        let database = self.random.below(self.params.databases as u64) as usize;
        let (pick, resync_others) = (self.random.next_u64(), self.random.chance(1, 3));
        let delay = self.between((200 * MS, 6 * SEC));
        let Some(ends) = self.copy(member, database).map(instants) else { return };
        let Some(kept) = ends.get(pick as usize % ends.len().max(1)) else { return };
        let order = ActivateAt { on: member_id(member), kept: *kept, resync_others };
        self.activate_at(database_id(database), order);
        self.after(delay, Happening::Undo(Fault::Held { database }));
    }

    /// Everybody may give up the discarded timeline that it holds.
    pub(crate) fn release_holders(&mut self, database: usize) {
        let id = database_id(database);
        let copies = self.reference.databases[&id].copies.iter();
        let by = SuspendedBy::DiscardedTimeline;
        let holders = copies.filter(|(_, c)| c.is_stopped() && c.suspension.by == by);
        let holders: Vec<_> = holders.map(|(copy, _)| *copy).collect();
        for copy in holders {
            let request = ResumeRequest {
                release_discarded: true,
                before_retention: true,
                ..ResumeRequest::default()
            };
            self.ask_leader(Command::ResumeCopy { database: id, copy, request });
        }
    }

    pub(crate) fn let_copy_lag(&mut self, member: usize) {
        let database = self.random.below(self.params.databases as u64) as usize;
        let lag = Duration::from_millis(100 + self.random.below(3_000));
        let delay = self.between((500 * MS, 6 * SEC));
        let lag = LagSettings::new(lag, Duration::ZERO).unwrap_or_default();
        self.set_copy_lag(database, member, lag);
        self.after(delay, Happening::Undo(Fault::Lagged { database, member }));
    }

    pub(crate) fn set_copy_lag(&mut self, database: usize, member: usize, lag: LagSettings) {
        let Some((id, copy)) = self.recorded_copy(database, member) else { return };
        let (preference, leaving) = (None, None);
        let lag = Some(lag);
        self.ask_leader(Command::SetCopy { database: id, copy, preference, leaving, lag });
    }

    /// At the end every copy goes on and none lags.
    pub(crate) fn release_copies(&mut self, database: usize) {
        for member in 0..self.params.members {
            let Some((id, copy)) = self.recorded_copy(database, member) else { continue };
            let config = &self.reference.databases[&id].copies[&copy];
            let (suspended, lagged) = (!config.suspension.is_none(), config.lag.is_lagged());
            if suspended {
                self.resume_copy(database, member);
                self.release_holders(database);
            }
            if lagged {
                self.set_copy_lag(database, member, LagSettings::default());
            }
        }
    }
}

/// The instants at which a copy could be activated: the frames that its store has not replayed.
fn instants(copy: &CopyNode) -> Vec<LogEnd> {
    let (mut at, end) = (copy.machine.view().replayed, copy.log.end().position);
    let mut reader = copy.log.reader();
    let mut found = Vec::new();
    while at < end {
        let Ok(chunks) = reader.read(at, end, 1024 * 1024) else { break };
        let Some(last) = chunks.last() else { break };
        for item in chunks.iter().flat_map(keelson_format::Chunk::items) {
            if let Ok(Item::Frame(frame)) = item
                && frame.end().position > at
            {
                found.push(frame.end());
            }
        }
        at = last.end;
    }
    found
}
