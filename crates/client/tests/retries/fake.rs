//! Members that answer by script: Admin, Operations-less, and Kv, over real mutual TLS.

use std::collections::VecDeque;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use futures::Stream;
use keelson_client::{Client, ClientConfig, ClientOptions, v1};
use keelson_net::certs::{Authority, CertRequest, Validity};
use keelson_net::{TlsFiles, TlsServer, TlsStore, bind, serve};
use keelson_types::RefusalReason;
use keelson_wire::Refusal;
use tempfile::TempDir;
use tonic::service::Routes;
use tonic::{Request, Response, Status};

/// One scripted answer of Kv.
#[derive(Clone)]
pub(crate) enum Reply {
    /// The call succeeds.
    Done,
    /// It is refused; with an address if there is one.
    Refuse(RefusalReason, Option<String>),
    /// It is never answered.
    Silence,
}

/// What a member does and what it saw.
#[derive(Default)]
pub(crate) struct Script {
    /// Answers of Kv in order; `Done` when none is left.
    pub(crate) replies: VecDeque<Reply>,
    /// What admin changes are refused with.
    pub(crate) admin_refusal: Option<Reply>,
    /// Stamps of the writes received; `None` for plain ones.
    pub(crate) stamps: Vec<Option<v1::SessionStamp>>,
    /// Sessions opened.
    pub(crate) sessions: Vec<Bytes>,
    /// Kv calls received, sessions apart.
    pub(crate) calls: usize,
    /// Admin changes received.
    pub(crate) changes: usize,
    /// Cursors with which watches began.
    pub(crate) cursors: Vec<Bytes>,
    /// Name of the active member, epoch and all members with their data addresses.
    pub(crate) active: (String, u64),
    pub(crate) members: Vec<(String, String, String)>,
    /// The caller is told that it is limited to some databases.
    pub(crate) limited: bool,
}

/// A running member.
#[derive(Clone)]
pub(crate) struct Member {
    pub(crate) name: String,
    pub(crate) control: String,
    pub(crate) data: String,
    pub(crate) script: Arc<Mutex<Script>>,
}

impl Member {
    pub(crate) fn script(&self) -> MutexGuard<'_, Script> {
        self.script.lock().unwrap()
    }

    /// Appends answers.
    pub(crate) fn will(&self, replies: impl IntoIterator<Item = Reply>) {
        self.script().replies.extend(replies);
    }
}

/// Two members m1 and m2 with a database DB1, active on m1 in epoch 1.
pub(crate) struct World {
    pub(crate) members: Vec<Member>,
    pub(crate) client: Client,
    _directory: TempDir,
}

impl World {
    pub(crate) async fn start(deadline: Duration) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let authority = Authority::create("test", Validity::days(1)).unwrap();
        authority
            .write(&directory.path().join("ca.pem"), &directory.path().join("ca.key"))
            .unwrap();
        let mut members = Vec::new();
        for name in ["m1", "m2"] {
            let files = issue(&authority, directory.path(), &CertRequest::member(name, &[]));
            members.push(start_member(name, TlsStore::open(files).unwrap()).await);
        }
        let files = issue(&authority, directory.path(), &CertRequest::admin("client"));
        let config = ClientConfig {
            endpoints: members.iter().map(|member| member.control.clone()).collect(),
            ca: files.ca,
            cert: Some(files.cert),
            key: Some(files.key),
            token_file: None,
        };
        let options = ClientOptions { deadline, ..ClientOptions::default() };
        let client = Client::new(config, options).unwrap();
        let world = Self { members, client, _directory: directory };
        world.set_active("m1", 1);
        world
    }

    /// What the members say about DB1 from now on.
    pub(crate) fn set_active(&self, name: &str, epoch: u64) {
        let all: Vec<_> = self
            .members
            .iter()
            .map(|m| (m.name.clone(), m.control.clone(), m.data.clone()))
            .collect();
        for member in &self.members {
            let mut script = member.script();
            script.active = (name.into(), epoch);
            script.members.clone_from(&all);
        }
    }
}

fn issue(authority: &Authority, directory: &Path, request: &CertRequest) -> TlsFiles {
    let path = |end: &str| directory.join(format!("{}.{end}", request.name));
    authority.issue(request).unwrap().write(&path("pem"), &path("key")).unwrap();
    TlsFiles { ca: directory.join("ca.pem"), cert: path("pem"), key: path("key") }
}

async fn start_member(name: &str, tls: Arc<TlsStore>) -> Member {
    let control = bind("127.0.0.1:0").await.unwrap();
    let data = bind("127.0.0.1:0").await.unwrap();
    let member = Member {
        name: name.into(),
        control: control.local_addr().unwrap().to_string(),
        data: data.local_addr().unwrap().to_string(),
        script: Arc::default(),
    };
    let admin = Routes::new(v1::admin_server::AdminServer::new(member.clone()));
    let kv = Routes::new(v1::kv_server::KvServer::new(member.clone()));
    let forever = std::future::pending::<()>;
    tokio::spawn(serve(control, TlsServer::new(tls.clone()), admin, forever()));
    tokio::spawn(serve(data, TlsServer::new(tls), kv, forever()));
    member
}

impl Reply {
    async fn give<T>(self, done: T) -> Result<Response<T>, Status> {
        match self {
            Self::Done => Ok(Response::new(done)),
            Self::Silence => std::future::pending().await,
            Self::Refuse(reason, address) => {
                let mut refusal = Refusal::new(reason, "as scripted");
                refusal.address = address;
                Err(refusal.into())
            }
        }
    }
}

impl Member {
    fn next_reply(&self) -> Reply {
        let mut script = self.script();
        script.calls += 1;
        script.replies.pop_front().unwrap_or(Reply::Done)
    }

    async fn write(
        &self,
        stamp: Option<v1::SessionStamp>,
    ) -> Result<Response<v1::WriteResponse>, Status> {
        self.script().stamps.push(stamp);
        self.next_reply().give(v1::WriteResponse::default()).await
    }
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl v1::kv_server::Kv for Member {
    type ScanStream = Answers<v1::ScanResponse>;
    type ReadSalvageStream = Answers<v1::ReadSalvageResponse>;
    type WatchStream = Answers<v1::WatchResponse>;

    async fn open_session(
        &self,
        request: Request<v1::OpenSessionRequest>,
    ) -> Result<Response<v1::OpenSessionResponse>, Status> {
        self.script().sessions.push(request.into_inner().session);
        Ok(Response::new(v1::OpenSessionResponse::default()))
    }

    async fn get(&self, _: Request<v1::GetRequest>) -> Result<Response<v1::GetResponse>, Status> {
        let found = v1::GetResponse { found: true, value: self.name.clone().into() };
        self.next_reply().give(found).await
    }

    async fn put(
        &self,
        request: Request<v1::PutRequest>,
    ) -> Result<Response<v1::WriteResponse>, Status> {
        self.write(request.into_inner().stamp).await
    }

    async fn delete(
        &self,
        request: Request<v1::DeleteRequest>,
    ) -> Result<Response<v1::WriteResponse>, Status> {
        self.write(request.into_inner().stamp).await
    }

    async fn delete_range(
        &self,
        request: Request<v1::DeleteRangeRequest>,
    ) -> Result<Response<v1::WriteResponse>, Status> {
        self.write(request.into_inner().stamp).await
    }

    async fn write(
        &self,
        request: Request<v1::WriteRequest>,
    ) -> Result<Response<v1::WriteResponse>, Status> {
        self.write(request.into_inner().stamp).await
    }

    async fn scan(
        &self,
        _: Request<v1::ScanRequest>,
    ) -> Result<Response<Self::ScanStream>, Status> {
        let item = v1::KeyValue { key: "k".into(), value: self.name.clone().into() };
        let answer = Ok(v1::ScanResponse { items: vec![item] });
        self.next_reply().give(Box::pin(futures::stream::iter([answer])) as Answers<_>).await
    }

    /// One event, then the stream breaks.
    async fn watch(
        &self,
        request: Request<v1::WatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let mut script = self.script();
        script.cursors.push(request.into_inner().from);
        let cursor = format!("{}/{}", self.name, script.cursors.len()).into();
        let event = v1::WatchResponse { cursor, ..v1::WatchResponse::default() };
        let broken = Err(Refusal::new(RefusalReason::ConnectionLost, "as scripted").into());
        Ok(Response::new(Box::pin(futures::stream::iter([Ok(event), broken]))))
    }

    async fn list_salvage(
        &self,
        _: Request<v1::ListSalvageRequest>,
    ) -> Result<Response<v1::ListSalvageResponse>, Status> {
        Err(Status::unimplemented("not in this script"))
    }

    async fn read_salvage(
        &self,
        _: Request<v1::ReadSalvageRequest>,
    ) -> Result<Response<Self::ReadSalvageStream>, Status> {
        Err(Status::unimplemented("not in this script"))
    }

    async fn delete_salvage(
        &self,
        _: Request<v1::DeleteSalvageRequest>,
    ) -> Result<Response<v1::DeleteSalvageResponse>, Status> {
        Err(Status::unimplemented("not in this script"))
    }

    async fn search(
        &self,
        _: Request<v1::SearchRequest>,
    ) -> Result<Response<v1::SearchResponse>, Status> {
        self.next_reply().give(v1::SearchResponse::default()).await
    }

    async fn durability(
        &self,
        _: Request<v1::DurabilityRequest>,
    ) -> Result<Response<v1::DurabilityResponse>, Status> {
        self.next_reply().give(v1::DurabilityResponse::default()).await
    }
}

/// The whole Admin service: the topology and one change by script, nothing else.
macro_rules! admin {
    ($($method:ident: $request:ident => $response:ident,)*) => {
        #[tonic::async_trait]
        impl v1::admin_server::Admin for Member {
            async fn topology(
                &self,
                _: Request<v1::TopologyRequest>,
            ) -> Result<Response<v1::TopologyResponse>, Status> {
                Ok(Response::new(self.topology_now()))
            }

            async fn set_member(
                &self,
                _: Request<v1::SetMemberRequest>,
            ) -> Result<Response<v1::SetMemberResponse>, Status> {
                let reply = {
                    let mut script = self.script();
                    script.changes += 1;
                    script.admin_refusal.clone().unwrap_or(Reply::Done)
                };
                reply.give(v1::SetMemberResponse::default()).await
            }

            $(async fn $method(
                &self,
                _: Request<v1::$request>,
            ) -> Result<Response<v1::$response>, Status> {
                Err(Status::unimplemented("not in this script"))
            })*
        }
    };
}

admin! {
    init_cluster: InitClusterRequest => InitClusterResponse,
    cluster_status: ClusterStatusRequest => ClusterStatusResponse,
    add_member: AddMemberRequest => AddMemberResponse,
    remove_member: RemoveMemberRequest => RemoveMemberResponse,
    create_database: CreateDatabaseRequest => CreateDatabaseResponse,
    remove_database: RemoveDatabaseRequest => RemoveDatabaseResponse,
    set_database: SetDatabaseRequest => SetDatabaseResponse,
    note_backup: NoteBackupRequest => NoteBackupResponse,
    show_database: ShowDatabaseRequest => ShowDatabaseResponse,
    mount_database: MountDatabaseRequest => OperationStarted,
    dismount_database: DismountDatabaseRequest => OperationStarted,
    add_copy: AddCopyRequest => AddCopyResponse,
    remove_copy: RemoveCopyRequest => RemoveCopyResponse,
    seed_copy: SeedCopyRequest => SeedCopyResponse,
    suspend_copy: SuspendCopyRequest => SuspendCopyResponse,
    repair_copy: RepairCopyRequest => RepairCopyResponse,
    resume_copy: ResumeCopyRequest => ResumeCopyResponse,
    set_copy: SetCopyRequest => SetCopyResponse,
    guarantee_health: GuaranteeRequest => GuaranteeResponse,
    guarantee_flush: GuaranteeRequest => GuaranteeResponse,
    copy_status: CopyStatusRequest => CopyStatusResponse,
    switchover: SwitchoverRequest => OperationStarted,
    move_databases: MoveRequest => MoveResponse,
    explain_decision: ExplainDecisionRequest => ExplainDecisionResponse,
    begin_maintenance: BeginMaintenanceRequest => MaintenanceResponse,
    change_site: ChangeSiteRequest => ChangeSiteResponse,
    end_maintenance: EndMaintenanceRequest => MaintenanceResponse,
    redistribute: RedistributeRequest => RedistributeResponse,
    health: HealthRequest => HealthResponse,
    redundancy: RedundancyRequest => RedundancyResponse,
    compare_digests: CompareDigestsRequest => CompareDigestsResponse,
    list_events: ListEventsRequest => ListEventsResponse,
    list_audit: ListAuditRequest => ListAuditResponse,
    scrub_copies: ScrubCopiesRequest => ScrubCopiesResponse,
    issue_token: IssueTokenRequest => IssueTokenResponse,
    list_tokens: ListTokensRequest => ListTokensResponse,
    revoke_token: RevokeTokenRequest => RevokeTokenResponse,
    list_settings: ListSettingsRequest => ListSettingsResponse,
    set_setting: SetSettingRequest => SetSettingResponse,
    list_networks: ListNetworksRequest => ListNetworksResponse,
    list_volumes: ListVolumesRequest => ListVolumesResponse,
    replace_volume: ReplaceVolumeRequest => ReplaceVolumeResponse,
    set_network: SetNetworkRequest => SetNetworkResponse,
    list_decisions: ListDecisionsRequest => ListDecisionsResponse,
    preview_mount: MountDatabaseRequest => PreviewMountResponse,
    activate_copy: ActivateCopyRequest => OperationStarted,
    preview_activation: ActivateCopyRequest => PreviewActivationResponse,
    create_fork: CreateForkRequest => ForkInfo,
    list_forks: ListForksRequest => ListForksResponse,
    drop_fork: DropForkRequest => DropForkResponse,
}

impl Member {
    fn topology_now(&self) -> v1::TopologyResponse {
        let script = self.script();
        let member = |(name, control, data): &(String, String, String)| v1::TopologyMember {
            name: name.clone(),
            control_address: control.clone(),
            data_address: data.clone(),
            ..v1::TopologyMember::default()
        };
        let database = v1::TopologyDatabase {
            name: "DB1".into(),
            epoch: Some(v1::Epoch { recovery: 0, counter: script.active.1 }),
            active_member: script.active.0.clone(),
            copy_members: script.members.iter().map(|(name, _, _)| name.clone()).collect(),
            ..v1::TopologyDatabase::default()
        };
        v1::TopologyResponse {
            members: script.members.iter().map(member).collect(),
            databases: vec![database],
            limited: script.limited,
            ..v1::TopologyResponse::default()
        }
    }
}
