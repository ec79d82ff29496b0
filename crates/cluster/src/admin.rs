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
mod refused_moves;
mod rehearsals;
mod reseeds;
mod scrubs;
mod seeds;
mod settings;
mod sight;
mod sites;
mod status;
mod tokens;
mod volumes;

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
    IssueTokenResponse, ListAuditRequest, ListAuditResponse, ListDecisionsRequest,
    ListDecisionsResponse, ListEventsRequest, ListEventsResponse, ListForksRequest,
    ListForksResponse, ListNetworksRequest, ListNetworksResponse, ListSettingsRequest,
    ListSettingsResponse, ListTokensRequest, ListTokensResponse, ListVolumesRequest,
    ListVolumesResponse, MaintenanceResponse, MountDatabaseRequest, MoveRequest, MoveResponse,
    NoteBackupRequest, NoteBackupResponse, OperationStarted, PreviewActivationResponse,
    PreviewMountResponse, RedistributeRequest, RedistributeResponse, RedundancyRequest,
    RedundancyResponse, RemoveCopyRequest, RemoveCopyResponse, RemoveDatabaseRequest,
    RemoveDatabaseResponse, RemoveMemberRequest, RemoveMemberResponse, RepairCopyRequest,
    RepairCopyResponse, ReplaceVolumeRequest, ReplaceVolumeResponse, ResumeCopyRequest,
    ResumeCopyResponse, RevokeTokenRequest, RevokeTokenResponse, ScrubCopiesRequest,
    ScrubCopiesResponse, SeedCopyRequest, SeedCopyResponse, SetCopyRequest, SetCopyResponse,
    SetDatabaseRequest, SetDatabaseResponse, SetMemberRequest, SetMemberResponse,
    SetNetworkRequest, SetNetworkResponse, SetSettingRequest, SetSettingResponse,
    ShowDatabaseRequest, ShowDatabaseResponse, SuspendCopyRequest, SuspendCopyResponse,
    SwitchoverRequest, TopologyRequest, TopologyResponse,
};
use tonic::{Request, Response, Status};

use crate::context::Context;

pub(crate) use audit::Asking;
pub(crate) use rehearsals::Rehearsing;
use sight::Sight;
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

/// What a call is to the audit, by the word in the dispatch table: a question, a change, or one of
/// the two, as the request says. A what-if changes nothing.
macro_rules! change {
    (question, $request:ident, $method:ident) => {
        None
    };
    (change, $request:ident, $method:ident) => {
        Some(stringify!($method))
    };
    (trial_or_change, $request:ident, $method:ident) => {
        (!$request.get_ref().what_if).then_some(stringify!($method))
    };
}

/// One arm of the dispatch table: answers, and sees changes through ([`Context::see_through`]).
/// Which roles may ask for what is the table of `net`, enforced before a request comes here; what a
/// writer may ask is checked against its databases, too, and an answer that names databases is cut
/// down to those that the caller may know of.
macro_rules! arms {
    ($($method:ident($request:ty) -> $response:ty =
        $kind:ident, $handler:ident $(, $check:ident)? $(=> $sight:ident)?;)*) => {
        #[tonic::async_trait]
        impl Admin for AdminApi {
            $(async fn $method(
                &self,
                request: Request<$request>,
            ) -> Result<Response<$response>, Status> {
                $($check(&request, &request.get_ref().database)?;)?
                $(let sight = $sight::of(&request)?;)?
                let asking = Asking::of(&request, change!($kind, request, $method))?;
                let (context, request) = (self.0.clone(), request.into_inner());
                let work = async move { context.$handler(request).await };
                let answer = self.0.see_through(asking, work).await?;
                $(let answer = $sight::shown(sight, answer);)?
                Ok(Response::new(answer))
            })*
        }

        /// Every call, its word in the table, and what its request is made of.
        #[cfg(test)]
        fn calls() -> Vec<(&'static str, &'static str, String)> {
            vec![$((
                stringify!($method),
                stringify!($kind),
                format!("{:?}", <$request>::default()),
            )),*]
        }
    };
}

arms! {
    init_cluster(InitClusterRequest) -> InitClusterResponse = change, admin_init_cluster;
    cluster_status(ClusterStatusRequest) -> ClusterStatusResponse = question, admin_cluster_status;
    topology(TopologyRequest) -> TopologyResponse = question, admin_topology => Sight;
    add_member(AddMemberRequest) -> AddMemberResponse = change, admin_add_member;
    remove_member(RemoveMemberRequest) -> RemoveMemberResponse =
        trial_or_change, admin_remove_member;
    set_member(SetMemberRequest) -> SetMemberResponse = change, admin_set_member;
    create_database(CreateDatabaseRequest) -> CreateDatabaseResponse =
        change, admin_create_database;
    remove_database(RemoveDatabaseRequest) -> RemoveDatabaseResponse =
        change, admin_remove_database;
    set_database(SetDatabaseRequest) -> SetDatabaseResponse = change, admin_set_database;
    note_backup(NoteBackupRequest) -> NoteBackupResponse = change, admin_note_backup;
    show_database(ShowDatabaseRequest) -> ShowDatabaseResponse = question, admin_show_database;
    mount_database(MountDatabaseRequest) -> OperationStarted = change, admin_mount_database;
    preview_mount(MountDatabaseRequest) -> PreviewMountResponse = question, admin_preview_mount;
    dismount_database(DismountDatabaseRequest) -> OperationStarted =
        change, admin_dismount_database;
    add_copy(AddCopyRequest) -> AddCopyResponse = trial_or_change, admin_add_copy;
    remove_copy(RemoveCopyRequest) -> RemoveCopyResponse = trial_or_change, admin_remove_copy;
    seed_copy(SeedCopyRequest) -> SeedCopyResponse = trial_or_change, admin_seed_copy;
    suspend_copy(SuspendCopyRequest) -> SuspendCopyResponse = trial_or_change, admin_suspend_copy;
    resume_copy(ResumeCopyRequest) -> ResumeCopyResponse = trial_or_change, admin_resume_copy;
    repair_copy(RepairCopyRequest) -> RepairCopyResponse = change, admin_repair_copy;
    set_copy(SetCopyRequest) -> SetCopyResponse = trial_or_change, admin_set_copy;
    guarantee_health(GuaranteeRequest) -> GuaranteeResponse =
        question, admin_guarantee_health, require_database;
    guarantee_flush(GuaranteeRequest) -> GuaranteeResponse =
        question, admin_guarantee_flush, require_database;
    copy_status(CopyStatusRequest) -> CopyStatusResponse = question, admin_copy_status;
    switchover(SwitchoverRequest) -> OperationStarted = change, admin_switchover;
    move_databases(MoveRequest) -> MoveResponse = trial_or_change, admin_move_databases;
    explain_decision(ExplainDecisionRequest) -> ExplainDecisionResponse =
        question, admin_explain_decision;
    begin_maintenance(BeginMaintenanceRequest) -> MaintenanceResponse =
        trial_or_change, admin_begin_maintenance;
    end_maintenance(EndMaintenanceRequest) -> MaintenanceResponse = change, admin_end_maintenance;
    change_site(ChangeSiteRequest) -> ChangeSiteResponse = trial_or_change, admin_change_site;
    redistribute(RedistributeRequest) -> RedistributeResponse = trial_or_change, admin_redistribute;
    health(HealthRequest) -> HealthResponse = question, admin_health;
    redundancy(RedundancyRequest) -> RedundancyResponse = question, admin_redundancy;
    activate_copy(ActivateCopyRequest) -> OperationStarted = change, admin_activate_copy;
    preview_activation(ActivateCopyRequest) -> PreviewActivationResponse =
        question, admin_preview_activation;
    create_fork(CreateForkRequest) -> ForkInfo = change, admin_create_fork;
    list_forks(ListForksRequest) -> ListForksResponse = question, admin_list_forks;
    drop_fork(DropForkRequest) -> DropForkResponse = change, admin_drop_fork;
    compare_digests(CompareDigestsRequest) -> CompareDigestsResponse =
        change, admin_compare_digests;
    list_settings(ListSettingsRequest) -> ListSettingsResponse = question, admin_list_settings;
    set_setting(SetSettingRequest) -> SetSettingResponse = trial_or_change, admin_set_setting;
    list_networks(ListNetworksRequest) -> ListNetworksResponse = question, admin_list_networks;
    set_network(SetNetworkRequest) -> SetNetworkResponse = trial_or_change, admin_set_network;
    scrub_copies(ScrubCopiesRequest) -> ScrubCopiesResponse = change, admin_scrub_copies;
    issue_token(IssueTokenRequest) -> IssueTokenResponse = trial_or_change, admin_issue_token;
    list_tokens(ListTokensRequest) -> ListTokensResponse = question, admin_list_tokens;
    revoke_token(RevokeTokenRequest) -> RevokeTokenResponse = trial_or_change, admin_revoke_token;
    list_events(ListEventsRequest) -> ListEventsResponse = question, admin_list_events;
    list_audit(ListAuditRequest) -> ListAuditResponse = question, admin_list_audit;
    list_decisions(ListDecisionsRequest) -> ListDecisionsResponse = question, admin_list_decisions;
    list_volumes(ListVolumesRequest) -> ListVolumesResponse = question, admin_list_volumes;
    replace_volume(ReplaceVolumeRequest) -> ReplaceVolumeResponse =
        trial_or_change, admin_replace_volume;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_that_may_be_a_what_if_is_audited_only_if_it_is_none() {
        for (method, kind, request) in calls() {
            let may_try = request.contains("what_if: false");
            assert_eq!(kind == "trial_or_change", may_try, "{method}: {kind}, {request}");
        }
        let audited = |what_if: bool| -> Option<&str> {
            let request = Request::new(MoveRequest { what_if, ..MoveRequest::default() });
            change!(trial_or_change, request, move_databases)
        };
        assert_eq!((audited(true), audited(false)), (None, Some("move_databases")));
    }
}
