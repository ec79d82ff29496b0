//! Whom the `Cluster` service believes.

use keelson_cluster_core::Command;
use keelson_types::{ClusterId, MountIntent, RefusalReason};
use keelson_wire::v1::{
    CertifyDeathRequest, ClusterStatusRequest, ConsensusMessage, IdentifyRequest, JoinRequest,
    MemberFactsRequest, ProposeRequest, RemoveDatabaseRequest, RemoveMemberRequest,
    RenewLeaseRequest, SealManyRequest,
};
use keelson_wire::{ids, refusal_of};
use tonic::Status;

use super::world::{PATIENCE, World, eventually};

fn reason<T: std::fmt::Debug>(answer: Result<T, Status>) -> RefusalReason {
    refusal_of(&answer.unwrap_err()).reason
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn consensus_messages_of_other_clusters_or_for_other_nodes_are_refused() {
    let world = World::of_three().await;
    let cluster = world.plane("m1").applied().read(|state| state.cluster).unwrap();
    let node = |name: &str| keelson_cluster::node_id(world.member(name).id);
    let message = |cluster: ClusterId, to: u64| ConsensusMessage {
        recovery: 0,
        cluster: ids::bytes(cluster),
        from: node("m2"),
        to,
        body: bytes::Bytes::from_static(b"{}"),
    };
    let mut client = world.cluster("m1", "m2");
    let foreign = client.vote(message(ClusterId::from_u128(1), node("m1"))).await;
    assert_eq!(reason(foreign), RefusalReason::ForeignCluster);
    let misled = client.append_entries(message(cluster, node("m3"))).await;
    assert!(refusal_of(&misled.unwrap_err()).message.contains("m1 is not it"));
    let malformed = client.append_entries(message(cluster, node("m1"))).await;
    assert_eq!(reason(malformed), RefusalReason::BadArgument);
    let mut admin = world.cluster("m1", "admin");
    let outsider = admin.vote(message(cluster, node("m1"))).await;
    assert_eq!(reason(outsider), RefusalReason::Forbidden);
    let join = JoinRequest {
        cluster: ids::bytes(ClusterId::from_u128(1)),
        peers: Vec::new(),
        recovery: 0,
    };
    assert_eq!(reason(client.join(join).await), RefusalReason::ForeignCluster);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_speaks_for_itself_only_and_nobody_else_gives_orders() {
    let mut world = World::of_three().await;
    let life = world
        .plane("m1")
        .applied()
        .read(|state| state.member_named("m3").and_then(|member| member.incarnation).unwrap());
    let member = ids::bytes(world.member("m3").id);
    let incarnation = ids::bytes(life);
    let mut client = world.cluster("m1", "m2");
    let certificate =
        CertifyDeathRequest { member: member.clone(), incarnation: incarnation.clone() };
    assert_eq!(reason(client.certify_death(certificate).await), RefusalReason::Forbidden);
    let renewal = RenewLeaseRequest { member, incarnation, ..Default::default() };
    assert_eq!(reason(client.renew_lease(renewal).await), RefusalReason::Forbidden);
    let database = keelson_types::DatabaseId::from_u128(1);
    let command = Command::SetMountIntent { database, intent: MountIntent::Dismounted };
    let command = serde_json::to_vec(&command).unwrap().into();
    let proposed = client.propose(ProposeRequest { command }).await;
    assert_eq!(reason(proposed), RefusalReason::Forbidden);

    let mut admin = world.cluster("m1", "admin");
    let order = admin.seal_many(SealManyRequest::default()).await;
    assert_eq!(reason(order), RefusalReason::Forbidden);
    admin.member_facts(MemberFactsRequest::default()).await.expect("facts are for operators too");
    world.start("stranger").await;
    let mut stranger = world.cluster("m1", "stranger");
    let order = stranger.seal_many(SealManyRequest::default()).await;
    assert_eq!(reason(order), RefusalReason::UnknownMember);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_was_removed_opens_nothing() {
    let world = World::of_three().await;
    let looked = world.admin_as("m1", "m3").cluster_status(ClusterStatusRequest::default()).await;
    looked.expect("it is a member so far");
    let cluster = world.plane("m1").applied().read(|state| state.cluster).unwrap();
    let vote = |to: &str| ConsensusMessage {
        recovery: 0,
        cluster: ids::bytes(cluster),
        from: keelson_cluster::node_id(world.member("m3").id),
        to: keelson_cluster::node_id(world.member(to).id),
        body: bytes::Bytes::from_static(b"{}"),
    };
    let removal = RemoveMemberRequest { name: "m3".into(), ..RemoveMemberRequest::default() };
    world.admin("m1").remove_member(removal).await.expect("removed");
    for at in ["m1", "m2"] {
        let gone = || world.plane(at).applied().read(|s| s.member_named("m3").is_none());
        eventually("it is known", || gone().then_some(())).await;
        let mut admin = world.admin_as(at, "m3");
        let looked = admin.cluster_status(ClusterStatusRequest::default()).await;
        assert_eq!(reason(looked), RefusalReason::UnknownMember, "{at}");
        let name = "DB1".to_owned();
        let removed = admin.remove_database(RemoveDatabaseRequest { name });
        assert_eq!(reason(removed.await), RefusalReason::UnknownMember, "{at}");
        // Its name is in the consensus until the membership changed there, too.
        let mut client = world.cluster(at, "m3");
        let refused = async {
            while reason(client.vote(vote(at)).await) != RefusalReason::UnknownMember {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, refused).await.expect("its votes are refused");
        client.identify(IdentifyRequest {}).await.expect("anybody may ask who this is");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_removes_itself_is_heard_until_the_consensus_knows() {
    let world = World::of_three().await;
    let removal = RemoveMemberRequest { name: "m1".into(), ..RemoveMemberRequest::default() };
    world.admin("m1").remove_member(removal).await.expect("removed");
    let leads = || ["m2", "m3"].into_iter().find(|name| world.plane(name).is_leader());
    let leader = eventually("another one leads", leads).await;
    world.create(leader, "DB1", &["m2", "m3"]).await;
    let looked = world.admin_as(leader, "m1").cluster_status(ClusterStatusRequest::default()).await;
    assert_eq!(reason(looked), RefusalReason::UnknownMember);
}
