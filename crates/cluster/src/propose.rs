//! Proposes commands: here if this member leads, else by asking the leader.
//!
//! An error says that the outcome is not known (or that nothing was proposed); commands with ids or
//! expected values may then be proposed again and get the outcome of the first time.

use std::sync::Arc;
use std::time::Duration;

use keelson_cluster_core::{Answer, ClusterState, Command, LeaseRefusal, Outcome};
use keelson_net::Lane;
use keelson_types::{MemberId, RefusalReason};
use keelson_wire::Refusal;
use keelson_wire::v1::ProposeRequest;
use openraft::error::{ClientWriteError, RaftError};
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use crate::clock;
use crate::context::Context;
use crate::manager_task::LeaderInput;
use crate::peers::call;
use crate::raft_types::{ClusterNode, NodeId};

/// How long one proposal is waited for: several elections.
const PROPOSAL_DEADLINE: Duration = Duration::from_secs(5);
/// First pause between two attempts to learn an outcome; doubles up to [`RETRY_MAX`].
const RETRY_MIN: Duration = Duration::from_millis(50);
/// Longest pause; about an election.
const RETRY_MAX: Duration = Duration::from_millis(800);

/// A command that was applied, and where in the log.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Proposed {
    /// Its index; whoever has applied it knows the state that the outcome speaks of.
    pub(crate) index: u64,
    /// What became of it.
    pub(crate) outcome: Outcome,
}

impl Proposed {
    /// # Errors
    /// The refusal, as the client sees it.
    pub(crate) fn answer(self) -> Result<(u64, Answer), Refusal> {
        let index = self.index;
        self.outcome.into_result().map(|answer| (index, answer)).map_err(refusal)
    }
}

/// A refusal of the replicated state, for the wire.
pub(crate) fn refusal(refusal: keelson_cluster_core::Refusal) -> Refusal {
    Refusal::new(refusal.reason, refusal.message)
}

/// A refused lease or start, for the wire.
pub(crate) fn lease_refusal(refusal: &LeaseRefusal) -> Refusal {
    let reason = match refusal {
        LeaseRefusal::NotLeader | LeaseRefusal::TermNotApplied | LeaseRefusal::NoQuorum => {
            RefusalReason::NoLeader
        }
        LeaseRefusal::SecondHolder => RefusalReason::SecondHolder,
        LeaseRefusal::NotRecorded
        | LeaseRefusal::Ended
        | LeaseRefusal::Stopped
        | LeaseRefusal::WaitsForPredecessor { .. } => RefusalReason::Precondition,
    };
    Refusal::new(reason, refusal.to_string())
}

impl Context {
    /// Proposes a command wherever the leader is.
    ///
    /// # Errors
    /// The outcome is unknown, or there is no leader.
    pub(crate) async fn propose(&self, command: Command) -> Result<Proposed, Refusal> {
        if self.is_leader() {
            return self.propose_here(command).await;
        }
        let Some((id, leader)) = self.leader().filter(|(id, _)| *id != self.node) else {
            return Err(self.not_leader());
        };
        let body = serde_json::to_vec(&command).expect("commands have string keys only");
        let mut client = self.peers.cluster(&leader.name, &leader.control_address, Lane::Control);
        let request = ProposeRequest { command: body.into() };
        let send = |request| async move { client.propose(request).await };
        let response = call(PROPOSAL_DEADLINE, request, send).await?;
        serde_json::from_slice(&response.outcome).map_err(|error| {
            let what = format!("node {id} answered what cannot be read: {error}");
            Refusal::new(RefusalReason::Internal, what)
        })
    }

    /// Proposes a command on the leader, which this member must be.
    ///
    /// # Errors
    /// As for [`Self::propose`].
    pub(crate) async fn propose_here(&self, command: Command) -> Result<Proposed, Refusal> {
        if let Command::StartIncarnation { member, incarnation } = &command {
            let (reply, verdict) = oneshot::channel();
            let (member, incarnation) = (*member, *incarnation);
            self.ask_leader_task(LeaderInput::MayStart { member, incarnation, reply }).await?;
            match verdict.await {
                Ok(Ok(())) => {}
                Ok(Err(refused)) => return Err(lease_refusal(&refused)),
                Err(_) => return Err(self.not_leader()),
            }
        }
        let written = async {
            self.may_record().await;
            self.raft.client_write(stamped(command)).await
        };
        match tokio::time::timeout(PROPOSAL_DEADLINE, written).await {
            Ok(Ok(response)) => {
                Ok(Proposed { index: response.log_id.index, outcome: response.data })
            }
            Ok(Err(error)) => Err(self.write_error(&error)),
            Err(_) => {
                let what = format!("the command was not recorded within {PROPOSAL_DEADLINE:?}");
                Err(Refusal::new(RefusalReason::DeadlineExceeded, what))
            }
        }
    }

    /// What would become of a command that was applied now; nothing is recorded.
    ///
    /// # Errors
    /// The refusal, as the client sees it.
    pub(crate) fn rehearse(&self, command: Command) -> Result<(), Refusal> {
        self.rehearsed(command).map(drop)
    }

    /// The same with what the answer would be.
    pub(crate) fn rehearsed(&self, command: Command) -> Result<Answer, Refusal> {
        let (mut state, index) = self.applied.read_all(|all| (all.state.clone(), all.index()));
        let outcome = state.apply(index + 1, &stamped(command));
        outcome.into_result().map_err(refusal)
    }

    /// A failed write to the consensus log, as the client sees it.
    pub(crate) fn write_error(
        &self,
        error: &RaftError<NodeId, ClientWriteError<NodeId, ClusterNode>>,
    ) -> Refusal {
        match error {
            RaftError::APIError(ClientWriteError::ForwardToLeader(_)) => self.not_leader(),
            RaftError::APIError(ClientWriteError::ChangeMembershipError(error)) => {
                Refusal::new(RefusalReason::Precondition, error.to_string())
            }
            RaftError::Fatal(fatal) => {
                Refusal::new(RefusalReason::NoLeader, format!("consensus has stopped: {fatal}"))
            }
        }
    }

    /// # Errors
    /// `no_leader` while the control plane stops.
    pub(crate) async fn ask_leader_task(&self, input: LeaderInput) -> Result<(), Refusal> {
        self.leader
            .send(input)
            .await
            .map_err(|_| Refusal::new(RefusalReason::NoLeader, "the control process is stopping"))
    }

    /// Proposes again and again until the outcome is known, or `wanted` says that it no longer
    /// matters.
    pub(crate) async fn propose_until_known(
        self: &Arc<Self>,
        command: Command,
        wanted: impl Fn(&ClusterState) -> bool,
    ) -> Option<Proposed> {
        let mut pause = RETRY_MIN;
        while self.applied.read(&wanted) {
            match self.propose(command.clone()).await {
                Ok(proposed) => return Some(proposed),
                Err(refusal) => tracing::debug!(%refusal, "a proposal is repeated"),
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(RETRY_MAX);
        }
        None
    }
}

/// A command with this member's wall clock.
pub(crate) fn stamped(command: Command) -> Command {
    Command::Stamped { unix_ms: clock::unix_millis(), command: Box::new(command) }
}

/// Whether another member may propose this through the leader: only what a member says of itself
/// and of the databases it serves. Everything else comes from operators, by the `Admin` service.
pub(crate) fn member_may_propose(sender: MemberId, command: &Command) -> bool {
    match command {
        Command::StartIncarnation { member, .. } => *member == sender,
        Command::OfLife { member, command, .. } => {
            *member == sender && data_process_may_propose(sender, command)
        }
        Command::AppendEvent { member, .. } => *member == Some(sender),
        _ => false,
    }
}

/// What the recorded life of a member's data process may say of its copies.
fn data_process_may_propose(sender: MemberId, command: &Command) -> bool {
    match command {
        Command::AppendEvent { member, .. } => *member == Some(sender),
        Command::Established { .. }
        | Command::ChangeRule { .. }
        | Command::SetCeiling { .. }
        | Command::AllocateEpochs(_)
        | Command::SuspendFailed { .. }
        | Command::MarkCutOff { .. }
        | Command::ClearCutOff { .. }
        | Command::ReplaceCopy { .. }
        | Command::HoldLog { .. }
        | Command::ReportSeed { .. }
        | Command::EndSeed { .. }
        | Command::ReleaseLog { .. } => true,
        _ => false,
    }
}
