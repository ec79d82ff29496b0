//! The `Admin` service: what operators ask for.
//!
//! Every handler is thin: it checks the caller, reads names, and proposes commands; the replicated
//! state decides. Changes are for the leader; a follower refuses them with the leader's address in
//! the details. Reads are answered from the local applied state.

mod audit;
mod backups;
mod checkup;
mod copies;
mod databases;
mod digests;
mod explain;
mod forks;
mod guarantee;
mod instants;
mod losses;
mod maintenance;
mod members;
mod moves;
mod networks;
mod records;
mod redistribution;
mod rehearsals;
mod reseeds;
mod scrubs;
mod seeds;
mod settings;
mod sites;
mod status;
mod tokens;

use std::sync::Arc;

use keelson_net::require_database;
use keelson_types::{DatabaseName, MemberName, RefusalReason};
use keelson_wire::Refusal;
use keelson_wire::v1::admin_server::Admin;
use keelson_wire::v1::{
    ActivateCopyRequest, AddCopyRequest, AddCopyResponse, AddMemberRequest, AddMemberResponse,
    BeginMaintenanceRequest, ChangeSiteRequest, ChangeSiteResponse, ClusterStatusRequest,
    ClusterStatusResponse, CompareDigestsRequest, CompareDigestsResponse, CopyStatusRequest,
    CopyStatusResponse, CreateDatabaseRequest, CreateDatabaseResponse, CreateForkRequest,
    DismountDatabaseRequest, DropForkRequest, DropForkResponse, EndMaintenanceRequest,
    ExplainDecisionRequest, ExplainDecisionResponse, ForkInfo, GuaranteeRequest, GuaranteeResponse,
    HealthRequest, HealthResponse, InitClusterRequest, InitClusterResponse, IssueTokenRequest,
    IssueTokenResponse, ListDecisionsRequest, ListDecisionsResponse, ListEventsRequest,
    ListEventsResponse, ListForksRequest, ListForksResponse, ListNetworksRequest,
    ListNetworksResponse, ListSettingsRequest, ListSettingsResponse, ListTokensRequest,
    ListTokensResponse, MaintenanceResponse, MountDatabaseRequest, MoveRequest, MoveResponse,
    NoteBackupRequest, NoteBackupResponse, OperationStarted, PreviewActivationResponse,
    PreviewMountResponse, RedistributeRequest, RedistributeResponse, RedundancyRequest,
    RedundancyResponse, RemoveCopyRequest, RemoveCopyResponse, RemoveDatabaseRequest,
    RemoveDatabaseResponse, RemoveMemberRequest, RemoveMemberResponse, RepairCopyRequest,
    RepairCopyResponse, ResumeCopyRequest, ResumeCopyResponse, RevokeTokenRequest,
    RevokeTokenResponse, ScrubCopiesRequest, ScrubCopiesResponse, SeedCopyRequest,
    SeedCopyResponse, SetCopyRequest, SetCopyResponse, SetDatabaseRequest, SetDatabaseResponse,
    SetMemberRequest, SetMemberResponse, SetNetworkRequest, SetNetworkResponse, SetSettingRequest,
    SetSettingResponse, ShowDatabaseRequest, ShowDatabaseResponse, SuspendCopyRequest,
    SuspendCopyResponse, SwitchoverRequest, TopologyRequest, TopologyResponse,
};
use tonic::{Request, Response, Status};

use crate::admin::audit::Asking;
use crate::context::Context;

pub(crate) use rehearsals::Rehearsing;
pub(crate) use status::local_status;

/// The service. Clones share the control plane.
#[derive(Clone)]
pub(crate) struct AdminApi(pub(crate) Arc<Context>);

fn refusal(reason: RefusalReason, what: impl Into<String>) -> Refusal {
    Refusal::new(reason, what)
}

fn member_name(text: &str) -> Result<MemberName, Refusal> {
    MemberName::new(text)
        .map_err(|error| refusal(RefusalReason::BadName, format!("member {text:?}: {error}")))
}

fn database_name(text: &str) -> Result<DatabaseName, Refusal> {
    DatabaseName::new(text)
        .map_err(|error| refusal(RefusalReason::BadName, format!("database {text:?}: {error}")))
}

/// One arm of the dispatch table: answers, and records changes for the audit. Which roles may ask
/// for what is the table of `net`, enforced before a request comes here; what a writer may ask is
/// checked against its databases, too.
macro_rules! arms {
    ($($method:ident($request:ty) -> $response:ty =
        $change:expr, $handler:ident $(, $check:ident)?;)*) => {
        #[tonic::async_trait]
        impl Admin for AdminApi {
            $(async fn $method(
                &self,
                request: Request<$request>,
            ) -> Result<Response<$response>, Status> {
                $($check(&request, &request.get_ref().database)?;)?
                let asking = Asking::of(&request, $change)?;
                let ended = self.0.$handler(request.into_inner()).await;
                self.0.audit(asking, &ended);
                Ok(Response::new(ended?))
            })*
        }
    };
}

arms! {
    init_cluster(InitClusterRequest) -> InitClusterResponse =
        Some("init_cluster"), admin_init_cluster;
    cluster_status(ClusterStatusRequest) -> ClusterStatusResponse = None, admin_cluster_status;
    topology(TopologyRequest) -> TopologyResponse = None, admin_topology;
    add_member(AddMemberRequest) -> AddMemberResponse = Some("add_member"), admin_add_member;
    remove_member(RemoveMemberRequest) -> RemoveMemberResponse =
        Some("remove_member"), admin_remove_member;
    set_member(SetMemberRequest) -> SetMemberResponse = Some("set_member"), admin_set_member;
    create_database(CreateDatabaseRequest) -> CreateDatabaseResponse =
        Some("create_database"), admin_create_database;
    remove_database(RemoveDatabaseRequest) -> RemoveDatabaseResponse =
        Some("remove_database"), admin_remove_database;
    set_database(SetDatabaseRequest) -> SetDatabaseResponse =
        Some("set_database"), admin_set_database;
    note_backup(NoteBackupRequest) -> NoteBackupResponse = Some("note_backup"), admin_note_backup;
    show_database(ShowDatabaseRequest) -> ShowDatabaseResponse = None, admin_show_database;
    mount_database(MountDatabaseRequest) -> OperationStarted =
        Some("mount_database"), admin_mount_database;
    preview_mount(MountDatabaseRequest) -> PreviewMountResponse = None, admin_preview_mount;
    dismount_database(DismountDatabaseRequest) -> OperationStarted =
        Some("dismount_database"), admin_dismount_database;
    add_copy(AddCopyRequest) -> AddCopyResponse = Some("add_copy"), admin_add_copy;
    remove_copy(RemoveCopyRequest) -> RemoveCopyResponse = Some("remove_copy"), admin_remove_copy;
    seed_copy(SeedCopyRequest) -> SeedCopyResponse = Some("seed_copy"), admin_seed_copy;
    suspend_copy(SuspendCopyRequest) -> SuspendCopyResponse =
        Some("suspend_copy"), admin_suspend_copy;
    resume_copy(ResumeCopyRequest) -> ResumeCopyResponse = Some("resume_copy"), admin_resume_copy;
    repair_copy(RepairCopyRequest) -> RepairCopyResponse = Some("repair_copy"), admin_repair_copy;
    set_copy(SetCopyRequest) -> SetCopyResponse = Some("set_copy"), admin_set_copy;
    guarantee_health(GuaranteeRequest) -> GuaranteeResponse =
        None, admin_guarantee_health, require_database;
    guarantee_flush(GuaranteeRequest) -> GuaranteeResponse =
        None, admin_guarantee_flush, require_database;
    copy_status(CopyStatusRequest) -> CopyStatusResponse = None, admin_copy_status;
    switchover(SwitchoverRequest) -> OperationStarted = Some("switchover"), admin_switchover;
    move_databases(MoveRequest) -> MoveResponse = Some("move_databases"), admin_move_databases;
    explain_decision(ExplainDecisionRequest) -> ExplainDecisionResponse =
        None, admin_explain_decision;
    begin_maintenance(BeginMaintenanceRequest) -> MaintenanceResponse =
        Some("begin_maintenance"), admin_begin_maintenance;
    end_maintenance(EndMaintenanceRequest) -> MaintenanceResponse =
        Some("end_maintenance"), admin_end_maintenance;
    change_site(ChangeSiteRequest) -> ChangeSiteResponse = Some("change_site"), admin_change_site;
    redistribute(RedistributeRequest) -> RedistributeResponse =
        Some("redistribute"), admin_redistribute;
    health(HealthRequest) -> HealthResponse = None, admin_health;
    redundancy(RedundancyRequest) -> RedundancyResponse = None, admin_redundancy;
    activate_copy(ActivateCopyRequest) -> OperationStarted =
        Some("activate_copy"), admin_activate_copy;
    preview_activation(ActivateCopyRequest) -> PreviewActivationResponse =
        None, admin_preview_activation;
    create_fork(CreateForkRequest) -> ForkInfo = Some("create_fork"), admin_create_fork;
    list_forks(ListForksRequest) -> ListForksResponse = None, admin_list_forks;
    drop_fork(DropForkRequest) -> DropForkResponse = Some("drop_fork"), admin_drop_fork;
    compare_digests(CompareDigestsRequest) -> CompareDigestsResponse =
        Some("compare_digests"), admin_compare_digests;
    list_settings(ListSettingsRequest) -> ListSettingsResponse = None, admin_list_settings;
    set_setting(SetSettingRequest) -> SetSettingResponse =
        Some("set_setting"), admin_set_setting;
    list_networks(ListNetworksRequest) -> ListNetworksResponse = None, admin_list_networks;
    set_network(SetNetworkRequest) -> SetNetworkResponse = Some("set_network"), admin_set_network;
    scrub_copies(ScrubCopiesRequest) -> ScrubCopiesResponse =
        Some("scrub_copies"), admin_scrub_copies;
    issue_token(IssueTokenRequest) -> IssueTokenResponse =
        Some("issue_token"), admin_issue_token;
    list_tokens(ListTokensRequest) -> ListTokensResponse = None, admin_list_tokens;
    revoke_token(RevokeTokenRequest) -> RevokeTokenResponse =
        Some("revoke_token"), admin_revoke_token;
    list_events(ListEventsRequest) -> ListEventsResponse = None, admin_list_events;
    list_decisions(ListDecisionsRequest) -> ListDecisionsResponse = None, admin_list_decisions;
}
