//! Starts and stops the control plane of a member.
//!
//! It starts whether or not the member is in a cluster: without one it answers `Identify`,
//! `InitCluster` and `Join`, and nothing else happens. All tasks have an owner, the tracker of the
//! context, and end with its token.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use keelson_net::{CONTROL_MESSAGE_BYTES_MAX, CallMeters, Connector, Lane, Membership, TokenBook};
use keelson_types::IncarnationId;
use keelson_wire::v1::admin_server::AdminServer;
use keelson_wire::v1::cluster_server::ClusterServer;
use keelson_wire::v1::operations_server::OperationsServer;
use keelson_wire::v1::{IdentifyRequest, ReleaseLeaseRequest, StopOrder, control_to_data};
use keelson_wire::{Refusal, ids};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::service::Routes;

use crate::activations::{self, Activations};
use crate::admin::AdminApi;
use crate::applied::Applied;
use crate::assignments::Assigner;
use crate::audit_log::AuditLog;
use crate::cluster_service::ClusterApi;
use crate::context::{Context, Identity};
use crate::data_link::{DataEvent, DataLink};
use crate::generation::Generation;
use crate::leases::{Progress, Renewer, probe};
use crate::loyalty::{self, Loyalty};
use crate::manager_task::{INBOX, LeaderInput, LeaderTask};
use crate::membership::{self, Neighbours};
use crate::network::{ClusterCell, Network};
use crate::operations::OperationsApi;
use crate::peers::{Peers, call};
use crate::picture::Pictures;
use crate::quorum::QuorumClock;
use crate::raft_types::{Raft, node_id};
use crate::storage::{self, Opened, Storage, StorageFault};
use crate::timings::Timings;
use crate::{rounds, scheduled, standing_down, suspensions, tokens};

/// How long the address of the last life may take to answer.
const IDENTIFY_DEADLINE: Duration = Duration::from_secs(1);
/// How long a clean stop waits for the data process to stop serving.
const STOP_DEADLINE: Duration = Duration::from_secs(5);
/// How long a clean stop tries to give the lease back.
const RELEASE_DEADLINE: Duration = Duration::from_secs(1);
/// How long consensus may take to stop when it was left behind.
const LEAVE_DEADLINE: Duration = Duration::from_secs(5);
/// Grants on their way from the renewer to the assigner.
const GRANTS: usize = 16;

/// What a control plane needs to know.
#[derive(Clone, Debug)]
pub struct ControlPlaneConfig {
    /// Who this member is.
    pub identity: Identity,
    /// `<data>/cluster`.
    pub directory: PathBuf,
    /// Times of consensus and leases, equal on all members.
    pub timings: Timings,
    /// Where changes are recorded, besides the events.
    pub audit: AuditLog,
}

/// Why a control plane does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The consensus file.
    #[error(transparent)]
    Storage(#[from] StorageFault),
    /// The timings contradict each other.
    #[error("the timings of consensus")]
    Timings(#[from] openraft::ConfigError),
    /// Another server runs with this member's identity, on a copy of its directory.
    #[error(
        "member {name} runs already, at {address}: this directory is a copy of its directory, and \
         two servers with one identity would break every promise of the cluster"
    )]
    SecondHolder {
        /// The member.
        name: String,
        /// Where the other one answers.
        address: String,
    },
    /// The consensus library refuses what it read.
    #[error("starting consensus")]
    Consensus(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Why a control plane cannot go on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Ending {
    /// Consensus stopped by a failure of its own, its disk usually.
    Failed(String),
    /// The cluster was forced up without this member. Its consensus is forgotten; the next life of
    /// the process waits to be taken in.
    LeftBehind {
        /// The recovery generation of the cluster.
        generation: u32,
    },
}

/// The control plane of one member.
pub struct ControlPlane {
    context: Arc<Context>,
}

impl ControlPlane {
    /// Opens the consensus file and starts all tasks. `link` and `events` lead to the data process.
    ///
    /// # Errors
    /// [`StartError`] says what to mend.
    pub async fn start(
        config: ControlPlaneConfig,
        connector: Connector,
        link: Arc<dyn DataLink>,
        events: mpsc::Receiver<DataEvent>,
    ) -> Result<Self, StartError> {
        let directory = config.directory.clone();
        let opened = tokio::task::spawn_blocking(move || storage::open(&directory)).await;
        let Opened { storage, log, machine, applied, origin, thread: _ } =
            opened.expect("opening does not panic and is never cancelled")?;
        let cluster: ClusterCell = Arc::new(OnceLock::new());
        if let Some(origin) = origin {
            cluster.get_or_init(|| origin.cluster);
        }
        let generation = Arc::new(Generation::new(origin.map_or(0, |origin| origin.recovery)));
        let node = node_id(config.identity.member);
        let (peers, quorum) = (Peers::new(connector), Arc::new(QuorumClock::default()));
        refuse_second_holder(&config.identity, &storage, &peers).await?;
        log.resign(node).await?;
        let network = Network {
            me: node,
            cluster: cluster.clone(),
            generation: generation.clone(),
            peers: peers.clone(),
            quorum: quorum.clone(),
        };
        let consensus = Arc::new(config.timings.consensus().validate()?);
        let raft = Raft::new(node, consensus, network, log, machine).await;
        let raft = raft.map_err(|fatal| StartError::Consensus(Box::new(fatal)))?;
        let (leader, inputs) = mpsc::channel(INBOX);
        let (running, data) = watch::channel(None);
        let (assigning, assigned) = watch::channel(0);
        let context = Arc::new(Context {
            identity: config.identity,
            node,
            timings: config.timings,
            cluster,
            generation,
            loyalty: Loyalty::new(config.timings.lease.loyalty, quorum.clone()),
            raft,
            applied,
            storage,
            peers,
            neighbours: Neighbours::default(),
            link,
            leader,
            data,
            assigned,
            lease_until: AtomicU64::new(0),
            stopping: AtomicBool::new(false),
            silent: watch::Sender::new(false),
            forming: tokio::sync::Mutex::new(()),
            maintaining: tokio::sync::Mutex::new(()),
            readmitting: tokio::sync::Mutex::new(()),
            rehearsing: crate::admin::Rehearsing::default(),
            tokens: TokenBook::default(),
            audit: config.audit,
            calls: CallMeters::default(),
            activations: Activations::default(),
            caught_up: watch::Sender::new(false),
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
        });
        spawn_tasks(&context, quorum, inputs, (events, (running, assigning)));
        Ok(Self { context })
    }

    /// The services `Cluster`, `Admin` and `Operations`, to be served at the control address.
    #[must_use]
    pub fn routes(&self) -> Routes {
        let cluster = ClusterServer::new(ClusterApi(self.context.clone()))
            .max_decoding_message_size(CONTROL_MESSAGE_BYTES_MAX)
            .max_encoding_message_size(CONTROL_MESSAGE_BYTES_MAX);
        let admin = AdminServer::new(AdminApi(self.context.clone()))
            .max_decoding_message_size(CONTROL_MESSAGE_BYTES_MAX);
        let operations = OperationsServer::new(OperationsApi(self.context.clone()))
            .max_decoding_message_size(CONTROL_MESSAGE_BYTES_MAX);
        Routes::new(cluster).add_service(admin).add_service(operations)
    }

    /// The applied state of this member, for consoles and metrics.
    #[must_use]
    pub fn applied(&self) -> Applied {
        self.context.applied.clone()
    }

    /// The access tokens that count at this member.
    #[must_use]
    pub fn tokens(&self) -> TokenBook {
        self.context.tokens.clone()
    }

    /// Counts the calls of this process.
    #[must_use]
    pub fn call_meters(&self) -> CallMeters {
        self.context.calls.clone()
    }

    /// Which members belong to the cluster, as far as this member knows.
    #[must_use]
    pub fn membership(&self) -> Arc<dyn Membership> {
        self.context.clone()
    }

    /// What this member knows by itself, for metrics.
    #[must_use]
    pub fn pictures(&self) -> Pictures {
        Pictures::of(self.context.clone())
    }

    /// Whether this member leads the cluster.
    #[must_use]
    pub fn is_leader(&self) -> bool {
        self.context.is_leader()
    }

    /// Name of the leader as this member knows it.
    #[must_use]
    pub fn leader_name(&self) -> Option<String> {
        self.context.leader().map(|(_, node)| node.name)
    }

    /// Ends when this life cannot go on; the process should end then. Never ends after
    /// [`Self::stop`].
    pub async fn ended(&self) -> Ending {
        tokio::select! {
            biased;
            generation = self.context.generation.left_behind() => self.leave(generation).await,
            reason = self.failed() => Ending::Failed(reason),
        }
    }

    /// Forgets the consensus that a recovery left behind.
    async fn leave(&self, generation: u32) -> Ending {
        // Nothing more is asked of consensus while its file is emptied.
        self.context.stopping.store(true, Ordering::Relaxed);
        let shutdown = tokio::time::timeout(LEAVE_DEADLINE, self.context.raft.shutdown());
        if !shutdown.await.is_ok_and(|ended| ended.is_ok()) {
            return Ending::Failed("consensus did not stop, to be left behind".to_owned());
        }
        match self.context.storage.leave_behind(generation).await {
            Ok(()) => Ending::LeftBehind { generation },
            Err(fault) => Ending::Failed(format!("the consensus file was not emptied: {fault}")),
        }
    }

    /// Ends when consensus has stopped by a failure of its own (its disk, usually), with the
    /// reason: vote and lease path are gone.
    async fn failed(&self) -> String {
        let mut metrics = self.context.raft.metrics();
        let stopped = metrics.wait_for(|metrics| metrics.running_state.is_err()).await;
        let reason = match stopped {
            Ok(metrics) => metrics.running_state.as_ref().err().map(ToString::to_string),
            Err(_) => Some("the consensus task is gone".to_owned()),
        };
        if self.context.stop.is_cancelled() {
            std::future::pending::<()>().await;
        }
        reason.unwrap_or_default()
    }

    /// A clean stop: active databases are moved away, the data process stops serving, its lease is
    /// given back, then consensus stops. The caller stops serving the routes afterwards.
    pub async fn stop(self) {
        self.context.give_away().await;
        self.context.stopping.store(true, Ordering::Relaxed);
        let running = *self.context.data.borrow();
        if let Some(incarnation) = running {
            let order = control_to_data::Message::Stop(StopOrder {});
            match self.context.link.request(order, STOP_DEADLINE).await {
                Ok(_) => self.release(incarnation).await,
                Err(error) => tracing::warn!(%error, "the data process did not stop in order"),
            }
        }
        self.halt().await;
    }

    /// Gives the lease back, so that the databases move at once instead of when it runs out.
    async fn release(&self, incarnation: IncarnationId) {
        let context = &self.context;
        let member = context.identity.member;
        let result = if context.is_leader() {
            let released = context.end_incarnation(member, incarnation, false);
            tokio::time::timeout(RELEASE_DEADLINE, released)
                .await
                .unwrap_or_else(|_| Err(context.not_leader()))
        } else {
            match context.leader() {
                None => Err(context.not_leader()),
                Some((_, node)) => {
                    let request = ReleaseLeaseRequest {
                        member: ids::bytes(member),
                        incarnation: ids::bytes(incarnation),
                    };
                    let (name, address) = (&node.name, &node.control_address);
                    let mut client = context.peers.cluster(name, address, Lane::Control);
                    let send = |request| async move { client.release_lease(request).await };
                    call(RELEASE_DEADLINE, request, send).await.map(|_| ())
                }
            }
        };
        let result: Result<(), Refusal> = result;
        if let Err(refusal) = result {
            tracing::info!(%refusal, "the lease was not given back; it runs out by itself");
        }
    }

    /// Stops everything at once, as a crash would, but in order within the process.
    pub async fn halt(&self) {
        self.context.stop.cancel();
        if let Err(error) = self.context.raft.shutdown().await {
            tracing::error!(%error, "consensus did not stop in order");
        }
        self.context.tasks.close();
        self.context.tasks.wait().await;
        self.context.audit.flush().await;
    }
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        self.context.stop.cancel();
        self.context.tasks.close();
    }
}

type Announced = (watch::Sender<Option<IncarnationId>>, watch::Sender<u64>);
type DataSide = (mpsc::Receiver<DataEvent>, Announced);

/// A server asks at the address at which it was reached last, and at its present one, whether
/// itself runs there already: then its directory was copied. Its own listener is not open yet, so
/// whoever answers is another process; normally the connection is refused at once.
async fn refuse_second_holder(
    identity: &Identity,
    storage: &Storage,
    peers: &Peers,
) -> Result<(), StartError> {
    let (own, name) = (&identity.control_address, identity.name.to_string());
    let last = storage.address().await?;
    // What has no address yet never ran.
    let present = Some(own).filter(|own| last.as_ref().is_some_and(|last| last != *own));
    for address in last.iter().chain(present) {
        let mut client = peers.cluster(&name, address, Lane::Control);
        let send = |request| async move { client.identify(request).await };
        let answer = call(IDENTIFY_DEADLINE, IdentifyRequest {}, send).await;
        // Without an answer nobody is there.
        if answer.is_ok_and(|other| other.member[..] == identity.member.into_bytes()) {
            return Err(StartError::SecondHolder { name, address: address.clone() });
        }
    }
    if last.as_ref() == Some(own) {
        return Ok(());
    }
    Ok(storage.set_address(own.clone()).await?)
}

fn spawn_tasks(
    context: &Arc<Context>,
    quorum: Arc<QuorumClock>,
    inputs: mpsc::Receiver<LeaderInput>,
    (events, announced): DataSide,
) {
    let (grants, granted) = mpsc::channel(GRANTS);
    let progress = Arc::new(Progress::default());
    context.spawn(LeaderTask::new(context.clone(), quorum, inputs).run());
    context.spawn(loyalty::stand_later(context.clone()));
    context.spawn(suspensions::run(context.clone()));
    context.spawn(tokens::follow(context.clone()));
    context.spawn(membership::follow(context.clone()));
    context.spawn(rounds::run(context.clone()));
    context.spawn(activations::run(context.clone()));
    context.spawn(standing_down::run(context.clone()));
    context.spawn(scheduled::run(context.clone()));
    context.spawn(probe(context.clone(), progress.clone()));
    context.spawn(Renewer::new(context.clone(), progress, grants).run());
    context.spawn(Assigner::new(context.clone(), events, granted, announced).run());
}
