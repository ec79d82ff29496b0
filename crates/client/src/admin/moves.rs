//! Moving databases on purpose, maintenance, and what tells why and whether all is well.

use keelson_types::OperationId;
use keelson_wire::{ids, v1};

use super::{Admin, Kind, new_operation, started};
use crate::ClientError;
use crate::database::timed;

impl Admin {
    /// Starts moving the active role of a database to the copy on member `to`.
    ///
    /// # Errors
    /// `target_unfit`, `unknown_copy`, `unknown_database`, `unknown_member`.
    pub async fn switchover(
        &self,
        database: &str,
        to: &str,
        comment: &str,
    ) -> Result<OperationId, ClientError> {
        let message = v1::SwitchoverRequest {
            database: database.into(),
            to: to.into(),
            operation: ids::bytes(new_operation()),
            comment: comment.into(),
        };
        started(ask!(self, Kind::Change, switchover, message)?)
    }

    /// Moves one database, all of a member, or brings home those that prefer one; the answer has
    /// every check of each. A move of one database gets its operation here, so that the same call
    /// sent again moves nothing twice; of several, those that moved already are active elsewhere.
    ///
    /// # Errors
    /// `bad_argument`, `unknown_database`, `unknown_member`. A database that is not moved is a row
    /// of the answer with its code.
    pub async fn move_databases(
        &self,
        message: v1::MoveRequest,
    ) -> Result<Vec<v1::MoveRow>, ClientError> {
        let single = !message.database.is_empty() && !message.what_if;
        let operation = if single { ids::bytes(new_operation()) } else { bytes::Bytes::new() };
        let message = v1::MoveRequest { operation, ..message };
        Ok(ask!(self, Kind::Change, move_databases, message)?.moves)
    }

    /// Why a decision fell, decided again from its record with the changes of `what_if`.
    ///
    /// # Errors
    /// `bad_argument` for a decision that is not kept, or a change without meaning.
    pub async fn explain_decision(
        &self,
        index: u64,
        what_if: Vec<String>,
    ) -> Result<v1::ExplainDecisionResponse, ClientError> {
        let message = v1::ExplainDecisionRequest { index, what_if };
        ask!(self, Kind::Question, explain_decision, message)
    }

    /// Moves the databases of a member away and lets nothing be activated there by itself.
    ///
    /// # Errors
    /// Of the first database that cannot be moved; the maintenance is taken back then.
    pub async fn begin_maintenance(
        &self,
        message: v1::BeginMaintenanceRequest,
    ) -> Result<Vec<v1::MoveRow>, ClientError> {
        Ok(ask!(self, Kind::Change, begin_maintenance, message)?.moves)
    }

    /// Ends it; databases come back with preference moves, or on request.
    ///
    /// # Errors
    /// `unknown_member`.
    pub async fn end_maintenance(&self, member: &str) -> Result<(), ClientError> {
        let message = v1::EndMaintenanceRequest { member: member.into() };
        ask!(self, Kind::Change, end_maintenance, message).map(drop)
    }

    /// Stops a site, or starts it again; the answer names its members and the databases that are
    /// moved away.
    ///
    /// # Errors
    /// `bad_argument` for a site without members; `precondition` if the leader stands there, or too
    /// little would be left.
    pub async fn change_site(
        &self,
        message: v1::ChangeSiteRequest,
    ) -> Result<v1::ChangeSiteResponse, ClientError> {
        ask!(self, Kind::Change, change_site, message)
    }

    /// Spreads active databases over members, or members and sites; the answer has the moves and
    /// the distribution before and after.
    ///
    /// # Errors
    /// `bad_argument` for a deviation over 100 %.
    pub async fn redistribute(
        &self,
        message: v1::RedistributeRequest,
    ) -> Result<v1::RedistributeResponse, ClientError> {
        ask!(self, Kind::Change, redistribute, message)
    }

    /// The named tests of a member, or of all if the name is empty.
    ///
    /// # Errors
    /// `unknown_member`, or no member answers.
    pub async fn health(&self, member: &str) -> Result<Vec<v1::HealthRow>, ClientError> {
        let message = v1::HealthRequest { member: member.into() };
        Ok(ask!(self, Kind::Question, health, message)?.rows)
    }

    /// Whether a database, or each if the name is empty, has enough copies.
    ///
    /// # Errors
    /// `unknown_database`, or no member answers.
    pub async fn redundancy(&self, database: &str) -> Result<Vec<v1::RedundancyRow>, ClientError> {
        let message = v1::RedundancyRequest { database: database.into() };
        Ok(ask!(self, Kind::Question, redundancy, message)?.rows)
    }
}
