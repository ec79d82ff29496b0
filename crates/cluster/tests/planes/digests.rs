//! Comparing copies, with data services that answer what the test wants.

use std::pin::Pin;

use keelson_net::{TlsServer, bind, serve};
use keelson_types::{Epoch, LogEnd, Position};
use keelson_wire::v1::replication_server::{Replication, ReplicationServer};
use keelson_wire::v1::{
    CloseSeedRequest, CloseSeedResponse, CompareDigestsRequest, CreateForkRequest, DropForkRequest,
    DropForkResponse, FetchLogRequest, FetchLogResponse, FetchRangeRequest, FetchRangeResponse,
    FetchSeedRequest, ForkInfo, GetDigestRequest, GetDigestResponse, InstantInfo, ListForksRequest,
    ListForksResponse, OpenSeedRequest, OpenSeedResponse, PlaceMarkerRequest, PlaceMarkerResponse,
    ReachRequest, ReachResponse, RehearseRequest, RehearseResponse, RepairRangeRequest,
    RepairRangeResponse, ResolveInstantRequest, SeedChunk, SetMemberRequest, SourceMessage,
    TargetMessage,
};
use tonic::service::Routes;
use tonic::{Request, Response, Status, Streaming};

use super::world::World;

const MARKER: u64 = 77;

struct Content(&'static [u8]);

type Messages<T> = Pin<Box<dyn futures::Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl Replication for Content {
    type LogSessionStream = Messages<TargetMessage>;
    type FetchLogStream = Messages<FetchLogResponse>;
    type OpenSeedStream = Messages<OpenSeedResponse>;
    type FetchSeedStream = Messages<SeedChunk>;
    type RehearseStream = Messages<RehearseResponse>;

    async fn rehearse(
        &self,
        _: Request<RehearseRequest>,
    ) -> Result<Response<Self::RehearseStream>, Status> {
        Err(Status::unimplemented("not in this test"))
    }

    async fn reach(&self, _: Request<ReachRequest>) -> Result<Response<ReachResponse>, Status> {
        Err(Status::unimplemented("not in this test"))
    }

    async fn log_session(
        &self,
        _: Request<Streaming<SourceMessage>>,
    ) -> Result<Response<Self::LogSessionStream>, Status> {
        Err(Status::unimplemented("not in this test"))
    }

    async fn fetch_log(
        &self,
        _: Request<FetchLogRequest>,
    ) -> Result<Response<Self::FetchLogStream>, Status> {
        Err(Status::unimplemented("not in this test"))
    }

    async fn open_seed(
        &self,
        _: Request<OpenSeedRequest>,
    ) -> Result<Response<Self::OpenSeedStream>, Status> {
        Err(Status::unimplemented("not in this test"))
    }

    async fn fetch_seed(
        &self,
        _: Request<FetchSeedRequest>,
    ) -> Result<Response<Self::FetchSeedStream>, Status> {
        Err(Status::unimplemented("not in this test"))
    }

    async fn close_seed(
        &self,
        _: Request<CloseSeedRequest>,
    ) -> Result<Response<CloseSeedResponse>, Status> {
        Err(Status::unimplemented("not in this test"))
    }

    async fn create_fork(
        &self,
        _: Request<CreateForkRequest>,
    ) -> Result<Response<ForkInfo>, Status> {
        Err(Status::unimplemented("not in this test"))
    }

    async fn resolve_instant(
        &self,
        _: Request<ResolveInstantRequest>,
    ) -> Result<Response<InstantInfo>, Status> {
        Err(Status::unimplemented("not in this test"))
    }

    async fn list_forks(
        &self,
        _: Request<ListForksRequest>,
    ) -> Result<Response<ListForksResponse>, Status> {
        Err(Status::unimplemented("not in this test"))
    }

    async fn drop_fork(
        &self,
        _: Request<DropForkRequest>,
    ) -> Result<Response<DropForkResponse>, Status> {
        Err(Status::unimplemented("not in this test"))
    }

    async fn fetch_range(
        &self,
        _: Request<FetchRangeRequest>,
    ) -> Result<Response<FetchRangeResponse>, Status> {
        Err(Status::unimplemented("not in this test"))
    }

    async fn repair_range(
        &self,
        _: Request<RepairRangeRequest>,
    ) -> Result<Response<RepairRangeResponse>, Status> {
        Err(Status::unimplemented("not in this test"))
    }

    async fn place_marker(
        &self,
        request: Request<PlaceMarkerRequest>,
    ) -> Result<Response<PlaceMarkerResponse>, Status> {
        assert_eq!(request.get_ref().database, "DB1");
        Ok(Response::new(PlaceMarkerResponse { marker: MARKER, end: None }))
    }

    async fn scrub_copy(
        &self,
        _: Request<keelson_wire::v1::ScrubCopyRequest>,
    ) -> Result<Response<keelson_wire::v1::ScrubCopyResponse>, Status> {
        Ok(Response::new(keelson_wire::v1::ScrubCopyResponse { ended_before: 0 }))
    }

    async fn renew_volume(
        &self,
        _: Request<keelson_wire::v1::RenewVolumeRequest>,
    ) -> Result<Response<keelson_wire::v1::RenewVolumeResponse>, Status> {
        Err(Status::unimplemented("not in this test"))
    }

    async fn get_digest(
        &self,
        request: Request<GetDigestRequest>,
    ) -> Result<Response<GetDigestResponse>, Status> {
        assert_eq!(request.get_ref().marker, MARKER);
        let at = LogEnd { epoch: Epoch::new(0, 1), position: Position::new(1, 99) };
        let digest = bytes::Bytes::from_static(self.0);
        Ok(Response::new(GetDigestResponse { at: Some(at.into()), digest }))
    }
}

/// Serves `content` as the data service of a member, and tells the cluster where.
async fn serve_content(world: &World, member: &str, content: &'static [u8]) {
    let listener = bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let routes = Routes::new(ReplicationServer::new(Content(content)));
    let server = TlsServer::new(world.member_tls(member));
    tokio::spawn(serve(listener, server, routes, std::future::pending()));
    let request = SetMemberRequest {
        name: member.into(),
        data_address: Some(address),
        ..SetMemberRequest::default()
    };
    world.admin("m1").set_member(request).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn copies_are_equal_only_if_all_answer_the_same() {
    let world = World::of_three().await;
    world.create("m1", "DB1", &["m1", "m2"]).await;
    world.established("m1", "DB1", |active| active == "m1").await;
    let compare = || async {
        let request = CompareDigestsRequest { database: "DB1".into() };
        world.admin("m1").compare_digests(request).await.unwrap().into_inner()
    };
    serve_content(&world, "m1", b"0123456789abcdef").await;
    let one_silent = compare().await;
    assert!(!one_silent.equal);
    let silent = one_silent.rows.iter().find(|row| row.member == "m2").unwrap();
    assert!(!silent.answered && !silent.problem.is_empty(), "{silent:?}");

    serve_content(&world, "m2", b"0123456789abcdef").await;
    let equal = compare().await;
    assert!(equal.equal && equal.rows.len() == 2, "{equal:?}");

    serve_content(&world, "m2", b"0123456789abcdeX").await;
    let different = compare().await;
    assert!(!different.equal && different.rows.iter().all(|row| row.answered), "{different:?}");
}
