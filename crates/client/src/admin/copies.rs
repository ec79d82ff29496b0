//! Copies: made, seeded, suspended, read at an instant, compared, read through; and whether enough
//! of them follow.

use keelson_types::{CopyId, OperationId};
use keelson_wire::{ids, v1};
use uuid::Uuid;

use super::{Admin, Kind, new_operation, started};
use crate::ClientError;
use crate::database::timed;

impl Admin {
    /// Adds a copy that takes the log from its start, or is seeded if that is gone; the answer
    /// names the seed then.
    ///
    /// # Errors
    /// As for [`Self::add_copy_with`].
    pub async fn add_copy(
        &self,
        database: &str,
        member: &str,
        preference: Option<u32>,
    ) -> Result<v1::AddCopyResponse, ClientError> {
        let (database, member) = (database.into(), member.into());
        let message = v1::AddCopyRequest { database, member, preference, ..Default::default() };
        self.add_copy_with(message).await
    }

    /// The same with all options; ids that are empty are drawn.
    ///
    /// # Errors
    /// `unknown_database`, `unknown_member`, `already_exists`, `bad_argument` for the preference 0;
    /// `source_unfit` for a source that cannot be one. Unless the seed is postponed: `precondition`
    /// for a dismounted database, `activating` while none of its copies serves, `unreachable` for
    /// a member that does not answer.
    pub async fn add_copy_with(
        &self,
        message: v1::AddCopyRequest,
    ) -> Result<v1::AddCopyResponse, ClientError> {
        let message = v1::AddCopyRequest {
            copy: ids::bytes(CopyId::new(Uuid::new_v4())),
            operation: ids::bytes(new_operation()),
            ..message
        };
        ask!(self, Kind::Change, add_copy, message)
    }

    /// Checks whether a suspended copy can be made anew from another one and, unless `what_if` is
    /// set, begins it.
    ///
    /// # Errors
    /// The first check that failed: `not_suspended`, `source_unfit`, `no_space_for_seed`,
    /// `seed_in_progress`, `no_catalog`, `precondition`, `unknown_copy`.
    pub async fn seed_copy(
        &self,
        message: v1::SeedCopyRequest,
    ) -> Result<v1::SeedCopyResponse, ClientError> {
        let operation = ids::bytes(new_operation());
        ask!(self, Kind::Change, seed_copy, v1::SeedCopyRequest { operation, ..message })
    }

    /// Takes a copy out of the cluster; its files stay, and the answer names them. With `what_if`
    /// it only says whether that would be refused.
    ///
    /// # Errors
    /// `unknown_copy`; `precondition` for the active or the last copy.
    pub async fn remove_copy(
        &self,
        database: &str,
        member: &str,
        what_if: bool,
    ) -> Result<v1::RemoveCopyResponse, ClientError> {
        let (database, member) = (database.into(), member.into());
        let message = v1::RemoveCopyRequest { database, member, what_if };
        ask!(self, Kind::Change, remove_copy, message)
    }

    /// Stops copying and replay of a passive copy, or only its automatic activation.
    ///
    /// # Errors
    /// `precondition` for the active copy, `bad_argument` for a comment over 512 characters or a
    /// time of zero or over a year, `unknown_copy`.
    pub async fn suspend_copy(&self, message: v1::SuspendCopyRequest) -> Result<(), ClientError> {
        ask!(self, Kind::Change, suspend_copy, message).map(drop)
    }

    /// Lets a suspended copy go on, and gives the fault of a failed one another try.
    ///
    /// # Errors
    /// `unknown_copy`; `precondition` for a holder of a discarded timeline.
    pub async fn resume_copy(&self, message: v1::ResumeCopyRequest) -> Result<(), ClientError> {
        ask!(self, Kind::Change, resume_copy, message).map(drop)
    }

    /// Lets a passive copy fetch user keys in `from..to` anew from another copy; its whole store if
    /// both are empty. Answered once that is durably noted; the status of the copy shows the rest.
    ///
    /// # Errors
    /// `precondition` for the active copy, `bad_argument` for an empty range, `unknown_copy`.
    pub async fn repair_copy(&self, message: v1::RepairCopyRequest) -> Result<(), ClientError> {
        ask!(self, Kind::Change, repair_copy, message).map(drop)
    }

    /// Changes the preference and the lags of a copy.
    ///
    /// # Errors
    /// `bad_argument` for lags that are not 0 to 14 days, `precondition` for a replay lag of the
    /// active or the last HA copy, `unknown_copy`.
    pub async fn set_copy(&self, message: v1::SetCopyRequest) -> Result<(), ClientError> {
        ask!(self, Kind::Change, set_copy, message).map(drop)
    }

    /// Whether a writer of much may go on: are enough copies there, healthy and close enough?
    ///
    /// # Errors
    /// `unknown_database`, `bad_argument` for an unknown constraint, `activating`, `no_leader`: the
    /// leader answers, since another member may not know of an activation yet.
    pub async fn guarantee_health(
        &self,
        message: v1::GuaranteeRequest,
    ) -> Result<v1::GuaranteeResponse, ClientError> {
        ask!(self, Kind::LeaderQuestion, guarantee_health, message)
    }

    /// Whether what was written is replayed on enough copies.
    ///
    /// # Errors
    /// As [`Self::guarantee_health`]; `bad_argument` for a token of another database, `discarded`
    /// for that of a write that an activation gave up.
    pub async fn guarantee_flush(
        &self,
        message: v1::GuaranteeRequest,
    ) -> Result<v1::GuaranteeResponse, ClientError> {
        ask!(self, Kind::LeaderQuestion, guarantee_flush, message)
    }

    /// State of copies, collected from all members now; empty names mean all.
    ///
    /// # Errors
    /// `unknown_database`, `unknown_member`, or no member answers.
    pub async fn copy_status(
        &self,
        database: &str,
        member: &str,
    ) -> Result<Vec<v1::CopyStatusRow>, ClientError> {
        let message = v1::CopyStatusRequest { database: database.into(), member: member.into() };
        Ok(ask!(self, Kind::Question, copy_status, message)?.rows)
    }

    /// Begins to build a fork of a copy at an instant; [`Self::list_forks`] says when it is ready.
    ///
    /// # Errors
    /// `instant_out_of_reach` with the span that the copy can show, `already_exists`,
    /// `fork_budget`, `bad_name`, `unknown_copy`.
    pub async fn create_fork(
        &self,
        message: v1::CreateForkRequest,
    ) -> Result<v1::ForkInfo, ClientError> {
        ask!(self, Kind::Change, create_fork, message)
    }

    /// Starts making an instant of a copy the truth; what lies behind it is given up, and kept by
    /// the other copies until they are released.
    ///
    /// # Errors
    /// `instant_out_of_reach`, `precondition` for the active copy, `unknown_copy`.
    pub async fn activate_copy(
        &self,
        message: v1::ActivateCopyRequest,
    ) -> Result<OperationId, ClientError> {
        let message = v1::ActivateCopyRequest { operation: ids::bytes(new_operation()), ..message };
        started(ask!(self, Kind::Change, activate_copy, message)?)
    }

    /// What [`Self::activate_copy`] would do now.
    ///
    /// # Errors
    /// As for [`Self::activate_copy`].
    pub async fn preview_activation(
        &self,
        message: v1::ActivateCopyRequest,
    ) -> Result<v1::PreviewActivationResponse, ClientError> {
        ask!(self, Kind::Change, preview_activation, message)
    }

    /// The forks of a database, or of all if the name is empty.
    ///
    /// # Errors
    /// No member answers.
    pub async fn list_forks(&self, database: &str) -> Result<v1::ListForksResponse, ClientError> {
        let message = v1::ListForksRequest { database: database.into() };
        ask!(self, Kind::Question, list_forks, message)
    }

    /// Drops a fork and its files.
    ///
    /// # Errors
    /// `unknown_fork`, `unknown_member`; `precondition` while it is built.
    pub async fn drop_fork(&self, message: v1::DropForkRequest) -> Result<(), ClientError> {
        ask!(self, Kind::Change, drop_fork, message).map(drop)
    }

    /// Compares the content of all reachable copies at one position of the log.
    ///
    /// # Errors
    /// `unknown_database`, or a refusal of the active copy.
    pub async fn compare_digests(
        &self,
        database: &str,
    ) -> Result<v1::CompareDigestsResponse, ClientError> {
        let message = v1::CompareDigestsRequest { database: database.into() };
        ask!(self, Kind::Change, compare_digests, message)
    }

    /// Begins to read the copies of a database through, or only the one on `member` (empty: all).
    /// [`Self::copy_status`] shows how far they are and what they found.
    ///
    /// # Errors
    /// `unknown_database`, `unknown_member`, `unknown_copy`.
    pub async fn scrub_copies(
        &self,
        database: &str,
        member: &str,
    ) -> Result<v1::ScrubCopiesResponse, ClientError> {
        let (database, member) = (database.into(), member.into());
        ask!(self, Kind::Question, scrub_copies, v1::ScrubCopiesRequest { database, member })
    }
}
