//! What operators do to copies: suspend and resume them, let them lag.

use std::time::Duration;

use keelson_cluster_core::Command;
use keelson_types::{CopyId, DatabaseId, LagSettings, ResumeRequest, SuspendRequest};

use super::consensus::Origin;
use super::{Fault, Happening, World, database_id, member_id};
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
            }
            if lagged {
                self.set_copy_lag(database, member, LagSettings::default());
            }
        }
    }
}
