//! What operators ask for, sent to whoever may answer it.
//!
//! Changes go to the leader: a follower refuses them and names the leader, which is followed at
//! once. A member that cannot be reached is passed over. A change that may have taken effect is
//! sent again only because the server recognises the ids chosen here (databases, operations) or
//! refuses it as already done.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use keelson_types::{DatabaseId, OperationId, RefusalReason};
use keelson_wire::{ids, v1};
use tokio::time::{Instant, sleep_until, timeout_at};
use tonic::{Response, Status};
use uuid::Uuid;

use crate::ClientError;
use crate::backoff::Backoff;
use crate::client::Shared;
use crate::database::timed;
use crate::error::Failure;
use crate::salvage::member_of;

/// How many times a named leader is followed without waiting.
const REDIRECTS_AT_ONCE: u32 = 3;

/// How long one member has to answer a question. Status pages collect from all members within 1 s.
const READ_LIMIT: Duration = Duration::from_secs(4);

/// The Admin service of the cluster; cheap to clone.
#[derive(Clone)]
pub struct Admin {
    shared: Arc<Shared>,
    leader: Arc<Mutex<Option<String>>>,
}

/// Calls one method of the service at whichever member may answer.
macro_rules! ask {
    ($self:ident, $kind:expr, $method:ident, $message:expr) => {{
        let message = $message;
        $self
            .call($kind, |address, limit| {
                let mut client = $self.shared.pool.admin(&address);
                let message = message.clone();
                async move { client.$method(timed(message, limit)).await }
            })
            .await
    }};
}

mod copies;
mod moves;
mod tokens;

pub use tokens::TokenRequest;

/// Whether a call may be sent to several members in turn while it is unanswered.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Any member answers.
    Question,
    /// Only the leader answers, and soon: one that does not is asked again like any other.
    LeaderQuestion,
    /// Only the leader answers, and may take all the time that there is.
    Change,
}

impl Kind {
    fn is_for_leader(self) -> bool {
        self != Self::Question
    }
}

impl Admin {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, leader: Arc::default() }
    }

    /// Makes a cluster of one out of the first endpoint.
    ///
    /// # Errors
    /// `already_exists` or `precondition` if it is in a cluster already.
    pub async fn init_cluster(&self) -> Result<v1::InitClusterResponse, ClientError> {
        ask!(self, Kind::Change, init_cluster, v1::InitClusterRequest {})
    }

    /// Members, leader, and what is wrong.
    ///
    /// # Errors
    /// No member answers.
    pub async fn cluster_status(&self) -> Result<v1::ClusterStatusResponse, ClientError> {
        ask!(self, Kind::Question, cluster_status, v1::ClusterStatusRequest {})
    }

    /// Adds the running server `name` at `control_address`.
    ///
    /// # Errors
    /// `foreign_cluster` if it is in another one, `second_holder` or `already_exists` for a name in
    /// use.
    pub async fn add_member(
        &self,
        control_address: &str,
        name: &str,
    ) -> Result<v1::AddMemberResponse, ClientError> {
        let (control_address, name) = (control_address.into(), name.into());
        let message = v1::AddMemberRequest { control_address, name, witness: false };
        ask!(self, Kind::Change, add_member, message)
    }

    /// Adds the running witness `name` at `control_address`.
    ///
    /// # Errors
    /// As for [`Self::add_member`]; `precondition` if it is no witness, or would have no vote.
    pub async fn add_witness(
        &self,
        control_address: &str,
        name: &str,
    ) -> Result<v1::AddMemberResponse, ClientError> {
        let (control_address, name) = (control_address.into(), name.into());
        let message = v1::AddMemberRequest { control_address, name, witness: true };
        ask!(self, Kind::Change, add_member, message)
    }

    /// Removes a witness; with `what_if` only says whether that would be refused.
    ///
    /// # Errors
    /// `unknown_member`; `precondition` for a member with data.
    pub async fn remove_witness(&self, name: &str, what_if: bool) -> Result<(), ClientError> {
        let message = v1::RemoveMemberRequest { name: name.into(), what_if, witness: true };
        ask!(self, Kind::Change, remove_member, message)?;
        Ok(())
    }

    /// Removes a member without copies; with `what_if` only says whether that would be refused.
    ///
    /// # Errors
    /// `unknown_member`, or `in_use` while it holds copies.
    pub async fn remove_member(&self, name: &str, what_if: bool) -> Result<(), ClientError> {
        let message = v1::RemoveMemberRequest { name: name.into(), what_if, witness: false };
        ask!(self, Kind::Change, remove_member, message)?;
        Ok(())
    }

    /// Changes what is known of a member, and which activations it takes; the answer names the
    /// databases that are moved away.
    ///
    /// # Errors
    /// `unknown_member`, `bad_argument`.
    pub async fn set_member(
        &self,
        request: v1::SetMemberRequest,
    ) -> Result<Vec<v1::MoveRow>, ClientError> {
        Ok(ask!(self, Kind::Change, set_member, request)?.moves)
    }

    /// Creates a database with a copy on each of `members`, in order of activation preference.
    ///
    /// # Errors
    /// `already_exists`, `unknown_member`, `bad_name`.
    pub async fn create_database(
        &self,
        name: &str,
        members: Vec<String>,
        settings: v1::DatabaseSettings,
    ) -> Result<v1::CreateDatabaseResponse, ClientError> {
        let message = v1::CreateDatabaseRequest {
            name: name.into(),
            database: ids::bytes(DatabaseId::new(Uuid::new_v4())),
            members,
            settings: Some(settings),
        };
        ask!(self, Kind::Change, create_database, message)
    }

    /// Takes a database out of the cluster; the files of its copies stay, and the answer names
    /// them.
    ///
    /// # Errors
    /// `unknown_database`.
    pub async fn remove_database(
        &self,
        name: &str,
    ) -> Result<v1::RemoveDatabaseResponse, ClientError> {
        ask!(self, Kind::Change, remove_database, v1::RemoveDatabaseRequest { name: name.into() })
    }

    /// Changes settings of a database.
    ///
    /// # Errors
    /// `unknown_database`, `bad_argument`.
    pub async fn set_database(
        &self,
        name: &str,
        settings: v1::DatabaseSettings,
    ) -> Result<(), ClientError> {
        let message = v1::SetDatabaseRequest { name: name.into(), settings: Some(settings) };
        ask!(self, Kind::Change, set_database, message)?;
        Ok(())
    }

    /// Says that the log before a position is in a backup, so that it may go without circular
    /// logging (F99).
    ///
    /// # Errors
    /// `unknown_database`; `precondition` if the active does not know so much log to be committed,
    /// or does not answer.
    pub async fn note_backup(&self, name: &str, up_to: v1::Position) -> Result<(), ClientError> {
        let message = v1::NoteBackupRequest { name: name.into(), up_to: Some(up_to) };
        ask!(self, Kind::Change, note_backup, message)?;
        Ok(())
    }

    /// Everything the cluster knows of a database.
    ///
    /// # Errors
    /// `unknown_database`.
    pub async fn show_database(&self, name: &str) -> Result<v1::DatabaseInfo, ClientError> {
        let message = v1::ShowDatabaseRequest { name: name.into() };
        let answer = ask!(self, Kind::Question, show_database, message)?;
        answer.database.ok_or_else(|| {
            ClientError::new(RefusalReason::Internal, "the answer names no database")
        })
    }

    /// All settings of the cluster.
    ///
    /// # Errors
    /// No member answers.
    pub async fn list_settings(&self) -> Result<Vec<v1::SettingRow>, ClientError> {
        let answer = ask!(self, Kind::Question, list_settings, v1::ListSettingsRequest {})?;
        Ok(answer.settings)
    }

    /// Sets a setting of the cluster, or resets it; or only checks whether that would be done.
    ///
    /// # Errors
    /// `unknown_setting`, `bad_argument`.
    pub async fn set_setting(
        &self,
        message: v1::SetSettingRequest,
    ) -> Result<v1::SettingRow, ClientError> {
        let answer = ask!(self, Kind::Change, set_setting, message)?;
        answer
            .setting
            .ok_or_else(|| ClientError::new(RefusalReason::Internal, "the answer names no setting"))
    }

    /// Networks, who is on them, and which way log goes.
    ///
    /// # Errors
    /// No member answers.
    pub async fn list_networks(&self) -> Result<v1::ListNetworksResponse, ClientError> {
        ask!(self, Kind::Question, list_networks, v1::ListNetworksRequest {})
    }

    /// Volumes of the members that have several; of one member if it is named.
    ///
    /// # Errors
    /// `unknown_member`; no member answers.
    pub async fn list_volumes(
        &self,
        member: impl Into<String>,
    ) -> Result<v1::ListVolumesResponse, ClientError> {
        let member = member.into();
        ask!(self, Kind::Question, list_volumes, v1::ListVolumesRequest { member })
    }

    /// Says that the disk of a failed volume was replaced by an empty one; or only checks that.
    ///
    /// # Errors
    /// `unknown_member`, `bad_argument`, `precondition`.
    pub async fn replace_volume(
        &self,
        message: v1::ReplaceVolumeRequest,
    ) -> Result<(), ClientError> {
        ask!(self, Kind::Change, replace_volume, message).map(drop)
    }

    /// Adds, changes or removes a network, or changes a policy; or only checks that.
    ///
    /// # Errors
    /// `bad_argument`, `encryption_required`.
    pub async fn set_network(&self, message: v1::SetNetworkRequest) -> Result<(), ClientError> {
        ask!(self, Kind::Change, set_network, message).map(drop)
    }

    /// Starts mounting a database.
    ///
    /// # Errors
    /// `unknown_database`, `no_lossless_copy`.
    pub async fn mount_database(&self, name: &str) -> Result<OperationId, ClientError> {
        let message = v1::MountDatabaseRequest { name: name.into(), ..Default::default() };
        self.mount_with(message).await
    }

    /// Starts mounting a database although acknowledged writes may be gone, if no copy can be
    /// opened without loss; an empty `on` means any copy.
    ///
    /// # Errors
    /// `unknown_database`, `unknown_member`, `unknown_copy`; the operation ends with `target_unfit`
    /// if no copy that may be opened answers.
    pub async fn mount_with_loss(&self, name: &str, on: &str) -> Result<OperationId, ClientError> {
        self.mount_with(loss_request(name, on)).await
    }

    async fn mount_with(
        &self,
        message: v1::MountDatabaseRequest,
    ) -> Result<OperationId, ClientError> {
        let operation = ids::bytes(new_operation());
        let message = v1::MountDatabaseRequest { operation, ..message };
        started(ask!(self, Kind::Change, mount_database, message)?)
    }

    /// What [`Self::mount_with_loss`] would do now.
    ///
    /// # Errors
    /// `unknown_database`, `unknown_member`, `unknown_copy`.
    pub async fn preview_mount(
        &self,
        name: &str,
        on: &str,
    ) -> Result<v1::PreviewMountResponse, ClientError> {
        ask!(self, Kind::Change, preview_mount, loss_request(name, on))
    }

    /// Starts dismounting a database: it serves nothing until it is mounted again.
    ///
    /// # Errors
    /// `unknown_database`.
    pub async fn dismount_database(&self, name: &str) -> Result<OperationId, ClientError> {
        let operation = ids::bytes(new_operation());
        let message = v1::DismountDatabaseRequest { name: name.into(), operation };
        started(ask!(self, Kind::Change, dismount_database, message)?)
    }

    /// The newest events, oldest of them first.
    ///
    /// # Errors
    /// No member answers.
    pub async fn list_events(&self, limit: u32) -> Result<Vec<v1::EventInfo>, ClientError> {
        Ok(ask!(self, Kind::Question, list_events, v1::ListEventsRequest { limit })?.events)
    }

    /// The newest lines of the audit of a member as JSON, oldest of them first; of access only, if
    /// changes are left out.
    ///
    /// # Errors
    /// `unknown_member`; the member does not answer.
    pub async fn list_audit(
        &self,
        member: &str,
        limit: u32,
        access_only: bool,
    ) -> Result<Vec<String>, ClientError> {
        let address = member_of(&self.shared, member).await?.control;
        let mut admin = self.shared.pool.admin(&address);
        let request = v1::ListAuditRequest { limit, access_only };
        let answer = admin.list_audit(timed(request, READ_LIMIT)).await;
        let answer = answer.map_err(|status| Failure::of(&status, &address).error)?;
        Ok(answer.into_inner().lines)
    }

    /// The newest decision records as JSON, oldest of them first; an empty name means all
    /// databases.
    ///
    /// # Errors
    /// No member answers.
    pub async fn list_decisions(
        &self,
        database: &str,
        limit: u32,
    ) -> Result<Vec<String>, ClientError> {
        let message = v1::ListDecisionsRequest { database: database.into(), limit };
        Ok(ask!(self, Kind::Question, list_decisions, message)?.decisions)
    }

    /// The loop of all control calls; see the module's first lines.
    pub(crate) async fn call<T, F, Fut>(&self, kind: Kind, attempt: F) -> Result<T, ClientError>
    where
        F: Fn(String, Duration) -> Fut,
        Fut: Future<Output = Result<Response<T>, Status>>,
    {
        let deadline = Instant::now() + self.shared.options.deadline;
        let mut backoff = Backoff::new();
        let mut round = Round::new(self, kind);
        loop {
            let Some(address) = round.next() else {
                let until = Instant::now() + backoff.next_wait().max(Duration::from_millis(20));
                if until >= deadline || round.is_hopeless() {
                    return Err(round.verdict());
                }
                sleep_until(until).await;
                round.again(self);
                continue;
            };
            let limit = match kind {
                Kind::Question | Kind::LeaderQuestion => deadline.min(Instant::now() + READ_LIMIT),
                Kind::Change => deadline,
            };
            let left = limit.saturating_duration_since(Instant::now());
            let failure = match timeout_at(limit, attempt(address.clone(), left)).await {
                Ok(Ok(answer)) => {
                    self.note_leader(kind, Some(address));
                    return Ok(answer.into_inner());
                }
                Ok(Err(status)) => Failure::of(&status, &address),
                Err(_) => Failure::given_up(format!("{address} did not answer in time")),
            };
            if !failure.transport && !failure.error.is_retryable() {
                return Err(failure.error);
            }
            self.note_leader(kind, None);
            round.failed(failure);
        }
    }

    fn note_leader(&self, kind: Kind, address: Option<String>) {
        if kind.is_for_leader() {
            *self.leader.lock().unwrap_or_else(PoisonError::into_inner) = address;
        }
    }
}

impl fmt::Debug for Admin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admin").finish_non_exhaustive()
    }
}

/// The addresses still to be asked before waiting, and what the others said.
struct Round {
    waiting: Vec<String>,
    redirects: u32,
    failures: Vec<ClientError>,
    answered: bool,
    rounds: u32,
}

/// Rounds after which a cluster in which nothing at all answers is given up.
const SILENT_ROUNDS_MAX: u32 = 8;

impl Round {
    fn new(admin: &Admin, kind: Kind) -> Self {
        let mut round = Self {
            waiting: Vec::new(),
            redirects: 0,
            failures: Vec::new(),
            answered: false,
            rounds: 0,
        };
        round.fill(admin);
        let leader = admin.leader.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let (true, Some(leader)) = (kind.is_for_leader(), leader) {
            round.first(leader);
        }
        round
    }

    fn fill(&mut self, admin: &Admin) {
        self.waiting = admin.shared.topology.control_addresses();
        self.waiting.reverse();
    }

    fn first(&mut self, address: String) {
        self.waiting.retain(|other| *other != address);
        self.waiting.push(address);
    }

    fn next(&mut self) -> Option<String> {
        self.waiting.pop()
    }

    fn again(&mut self, admin: &Admin) {
        self.rounds += 1;
        self.failures.clear();
        self.redirects = 0;
        self.fill(admin);
    }

    fn failed(&mut self, failure: Failure) {
        self.answered |= !failure.transport;
        if let Some(address) = failure.address
            && self.redirects < REDIRECTS_AT_ONCE
        {
            self.redirects += 1;
            self.first(address);
        }
        self.failures.push(failure.error);
    }

    /// Nothing ever answered, several times: the addresses or the certificates are wrong, or all is
    /// down. A wrong certificate does not mend itself.
    fn is_hopeless(&self) -> bool {
        let certificate = |error: &ClientError| error.reason == RefusalReason::BadCertificate;
        !self.answered
            && (self.rounds >= SILENT_ROUNDS_MAX || self.failures.iter().any(certificate))
    }

    fn verdict(self) -> ClientError {
        crate::topology::worst_of(self.failures)
    }
}

fn loss_request(name: &str, on: &str) -> v1::MountDatabaseRequest {
    v1::MountDatabaseRequest {
        name: name.into(),
        accept_loss: true,
        on: on.into(),
        ..Default::default()
    }
}

fn new_operation() -> OperationId {
    OperationId::new(Uuid::new_v4())
}

fn started(answer: v1::OperationStarted) -> Result<OperationId, ClientError> {
    ids::operation(&answer.operation).map_err(|invalid| {
        ClientError::new(RefusalReason::Internal, format!("malformed answer: {invalid}"))
    })
}
