//! A cluster that is forced up without its majority, and what was lost coming back.

use std::collections::BTreeSet;

use keelson_cluster::{Ending, RecoveryPlan, SiteToRecover, SurvivorState};
use keelson_wire::v1::{ChangeSiteRequest, ClusterStatusRequest};

use super::world::{PATIENCE, World, eventually};

fn without(lost: &[&str]) -> SiteToRecover {
    SiteToRecover {
        site: "east".into(),
        lost: lost.iter().map(|name| (*name).to_owned()).collect(),
        with: BTreeSet::new(),
        comment: "two of three burnt".into(),
    }
}

fn plan(world: &World, lost: &[&str]) -> Result<RecoveryPlan, keelson_cluster::RecoveryError> {
    RecoveryPlan::read(&world.cluster_directory("m3"), world.member("m3").id, &without(lost))
}

async fn voters(world: &World, asked: &str) -> BTreeSet<String> {
    let status = world.admin(asked).cluster_status(ClusterStatusRequest {}).await;
    let members = status.map(|status| status.into_inner().members).unwrap_or_default();
    members.into_iter().filter(|m| m.voter && m.reachable).map(|m| m.name).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_three_goes_on_and_takes_the_others_in_again() {
    let mut world = World::of_three().await;
    world.create("m1", "DB1", &["m1", "m2", "m3"]).await;
    world.established("m3", "DB1", |_| true).await;
    let error = plan(&world, &["m1", "m2"]).expect_err("its server runs");
    assert!(error.to_string().contains("in use"), "{error}");

    world.kill("m3").await;
    world.free("m3").await;
    let mut early = plan(&world, &["m1", "m2"]).expect("read");
    early.ask(world.connector_of("m3")).await;
    let error = early.check().expect_err("they answer");
    assert!(error.to_string().contains("m1, m2 answers"), "{error}");
    drop(early);

    world.kill("m1").await;
    world.kill("m2").await;
    let mut plan = plan(&world, &["m1", "m2"]).expect("read");
    plan.ask(world.connector_of("m3")).await;
    plan.check().expect("nobody is left but this member");
    assert_eq!(plan.in_doubt, ["DB1".to_owned()]);
    let generation = plan.generation;
    assert_eq!(plan.members[0].state, SurvivorState::Founder);
    let aside = plan.carry_out().expect("founded");
    assert!(aside.is_file());

    world.restart("m3").await;
    eventually("m3 leads alone", || world.plane("m3").is_leader().then_some(())).await;
    let stopped = world
        .plane("m3")
        .applied()
        .read(|state| state.members.values().filter(|member| member.stopped.is_some()).count());
    assert_eq!(stopped, 2);

    // What comes back had the majority of before. It hears of the generation and serves nobody.
    for name in ["m1", "m2"] {
        world.restart(name).await;
        let ended = world.plane(name).ended().await;
        assert_eq!(ended, Ending::LeftBehind { generation }, "{name}");
        world.kill(name).await;
        world.restart(name).await;
    }
    assert_eq!(voters(&world, "m3").await, ["m3".to_owned()].into());
    let start = ChangeSiteRequest { site: "east".into(), ..ChangeSiteRequest::default() };
    world.admin("m3").change_site(start).await.expect("started");
    let all: BTreeSet<_> = ["m1", "m2", "m3"].map(str::to_owned).into();
    let complete = async { while voters(&world, "m1").await != all {} };
    tokio::time::timeout(PATIENCE, complete).await.expect("all vote");
    // The change of votes has two steps; a repeated request is answered after the second one.
    for name in ["m1", "m2"] {
        let again = async { while world.add("m3", name).await.is_err() {} };
        tokio::time::timeout(PATIENCE, again).await.expect("it belongs to the cluster");
    }
    world.kill("m3").await;
    let leads = || ["m1", "m2"].iter().any(|name| world.plane(name).is_leader()).then_some(());
    eventually("those that came back have a majority", leads).await;
}
