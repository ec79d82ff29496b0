//! Forming a cluster, members coming and going, restarts.

use keelson_types::RefusalReason;
use keelson_wire::refusal_of;
use keelson_wire::v1::{
    ClusterStatusRequest, CopyStatusRequest, CreateDatabaseRequest, InitClusterRequest,
    RemoveMemberRequest, TopologyRequest,
};

use super::world::{World, eventually};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_is_formed_once_and_reads_come_from_every_member() {
    let world = World::of_three().await;
    let again = world.admin("m1").init_cluster(InitClusterRequest {}).await.unwrap_err();
    assert_eq!(refusal_of(&again).reason, RefusalReason::AlreadyExists);
    let joined = world.admin("m2").init_cluster(InitClusterRequest {}).await.unwrap_err();
    assert_eq!(refusal_of(&joined).reason, RefusalReason::AlreadyExists);

    world.create("m1", "DB1", &["m1", "m2"]).await;
    for asked in ["m2", "m3"] {
        world.established(asked, "DB1", |active| active == "m1").await;
    }
    let topology = world.admin("m3").topology(TopologyRequest {}).await.unwrap().into_inner();
    let names: Vec<_> = topology.members.iter().map(|member| member.name.as_str()).collect();
    assert_eq!(names.len(), 3, "{names:?}");
    assert_eq!(topology.databases[0].active_member, "m1");
    assert_eq!(topology.databases[0].copy_members, ["m1", "m2"]);

    let status = world.admin("m2").cluster_status(ClusterStatusRequest {}).await.unwrap();
    let status = status.into_inner();
    assert_eq!((status.leader.as_str(), status.databases), ("m1", 1));
    assert!(status.members.iter().all(|m| m.voter && m.reachable && m.data_process_up));
    assert!(status.members.iter().all(|m| m.lease_left_millis > 0), "{status:#?}");
    assert!(status.problems.is_empty(), "{:?}", status.problems);

    let rows = world.admin("m3").copy_status(CopyStatusRequest::default()).await.unwrap();
    let rows = rows.into_inner().rows;
    let rows: Vec<_> = rows.iter().map(|r| (r.member.as_str(), r.active, r.reachable)).collect();
    assert_eq!(rows, [("m1", true, true), ("m2", false, true)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_refuses_changes_and_names_the_leader() {
    let world = World::of_three().await;
    let request = CreateDatabaseRequest {
        name: "DB1".into(),
        members: vec!["m1".into()],
        ..CreateDatabaseRequest::default()
    };
    let refused = world.admin("m2").create_database(request).await.unwrap_err();
    let refused = refusal_of(&refused);
    assert_eq!(refused.reason, RefusalReason::NoLeader);
    assert_eq!(refused.address.as_deref(), Some(world.member("m1").address.as_str()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn foreign_clusters_and_second_holders_of_a_name_are_refused() {
    let mut world = World::of_three().await;
    world.start("other").await;
    world.admin("other").init_cluster(InitClusterRequest {}).await.unwrap();
    let foreign = world.add("m1", "other").await.unwrap_err();
    assert_eq!(foreign.reason, RefusalReason::ForeignCluster, "{foreign}");

    world.start_as("double", "m2").await;
    let double = world.add("m1", "double").await.unwrap_err();
    assert_eq!(double.reason, RefusalReason::SecondHolder, "{double}");
    world.add("m1", "m3").await.expect("a repeated request is no error");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_with_copies_stays_and_one_without_can_go() {
    let world = World::of_three().await;
    world.create("m1", "DB1", &["m1", "m2"]).await;
    let remove =
        |name: &str| RemoveMemberRequest { name: name.into(), what_if: false, witness: false };
    let held = world.admin("m1").remove_member(remove("m2")).await.unwrap_err();
    assert_eq!(refusal_of(&held).reason, RefusalReason::InUse);
    world.admin("m1").remove_member(remove("m3")).await.expect("it holds nothing");
    let left = world.plane("m1").applied().read(|state| state.members.len());
    assert_eq!(left, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_was_stopped_comes_back_with_what_it_knew() {
    let mut world = World::of_three().await;
    world.create("m1", "DB1", &["m1", "m3"]).await;
    world.established("m1", "DB1", |active| active == "m1").await;
    world.stop("m3").await;
    let lease_is_over = || {
        let released = world
            .plane("m1")
            .applied()
            .read(|state| state.member_named("m3").is_some_and(|m| m.incarnation.is_none()));
        released.then_some(())
    };
    eventually("the lease of m3 is given back", lease_is_over).await;
    world.create("m1", "DB2", &["m1", "m2"]).await;

    world.restart("m3").await;
    let told = world.member("m3").data.until("assignments", |told| told.lease.is_some()).await;
    assert!(told.databases.contains_key("DB1"), "{told:#?}");
    let applied = world.plane("m3").applied();
    let both = || applied.read(|state| (state.databases.len() == 2).then_some(()));
    eventually("m3 knows both databases", both).await;
}
