//! Leases, failovers and switchovers through the whole control plane.

use std::time::Duration;

use keelson_types::{OperationId, RefusalReason, Tick};
use keelson_wire::v1::{
    DismountDatabaseRequest, GetOperationRequest, InitClusterRequest, ListDecisionsRequest,
    ListEventsRequest, MountDatabaseRequest, Operation, ProposeRule, SwitchoverRequest,
    data_to_control,
};
use keelson_wire::{ids, refusal_of};
use uuid::Uuid;

use super::world::World;

fn lease_until(told: &super::fake_data::Told) -> Tick {
    Tick(told.lease.map_or(0, |lease| lease.expires_boottime_nanos))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_database_is_mounted_under_a_lease_that_covers_it() {
    let world = World::of_three().await;
    world.create("m1", "DB1", &["m2", "m1", "m3"]).await;
    let shown = world.established("m1", "DB1", |active| active == "m2").await;
    assert_eq!(shown.commit_constraint, "second_copy");
    assert_eq!(shown.copies.iter().filter(|copy| copy.participant).count(), 3);
    let data = &world.member("m2").data;
    let covered = data.until("a lease that covers DB1", |told| {
        let assigned = told.databases.get("DB1").map(|known| known.assigned_at);
        let lease = told.lease.filter(|l| Some(l.revision) >= assigned);
        assigned.is_some() && lease.is_some()
    });
    let told = covered.await;
    let known = &told.databases["DB1"];
    assert_eq!((known.active.clone(), known.epoch), (known.this_copy.clone(), shown.epoch));
    assert!(lease_until(&told) > keelson_cluster::boottime_now());
    let mut members = told.members.clone();
    members.sort();
    assert_eq!(members, ["m1", "m2", "m3"]);
    assert_eq!(told.too_early, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_moves_when_the_member_of_its_active_falls_silent() {
    let mut world = World::of_three().await;
    world.create("m1", "DB1", &["m2", "m1", "m3"]).await;
    let before = world.established("m1", "DB1", |active| active == "m2").await;
    world.kill("m2").await;
    let after = world.established("m1", "DB1", |active| active != "m2").await;
    assert_eq!(after.active_member, "m1");
    assert!(after.epoch.unwrap().counter > before.epoch.unwrap().counter);

    world.restart("m2").await;
    let data = &world.member("m2").data;
    let told = data.until("a lease after the restart", |told| told.lease.is_some()).await;
    assert!(told.mounted.is_empty(), "a new life serves only what it is told to mount");

    let request = ListDecisionsRequest { database: "DB1".into(), limit: 1 };
    let decisions = world.admin("m1").list_decisions(request).await.unwrap().into_inner();
    assert!(decisions.decisions[0].contains("lease_expired"), "{decisions:?}");
    let events = world.admin("m3").list_events(ListEventsRequest { limit: 50 }).await.unwrap();
    let events = events.into_inner().events;
    assert!(events.iter().any(|e| e.kind == "activated" && e.subject.starts_with("DB1")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_leader_renews_incumbents_and_moves_only_what_was_lost_h12() {
    let mut world = World::of_three().await;
    world.create("m1", "DB1", &["m2", "m3", "m1"]).await;
    world.create("m1", "DB2", &["m1", "m3", "m2"]).await;
    let kept = world.established("m1", "DB1", |active| active == "m2").await;
    world.established("m1", "DB2", |active| active == "m1").await;
    assert_eq!(world.leader().await, "m1");
    world.kill("m1").await;
    let over = keelson_cluster::boottime_now().after(Duration::from_millis(1_100));

    let leader = world.leader().await;
    let data = &world.member("m2").data;
    data.until("a lease by the new leader", |told| lease_until(told) > over).await;
    let moved = world.established(&leader, "DB2", |active| active != "m1").await;
    assert_eq!(moved.active_member, "m3");
    let after = world.show(&leader, "DB1").await;
    assert_eq!((after.epoch, after.state.as_str()), (kept.epoch, "established"));
    assert_eq!(data.told().mounted["DB1"], kept.epoch.unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_without_majority_renews_no_lease_its_own_least_of_all_h6() {
    let mut world = World::of_three().await;
    let data = world.member("m1").data.clone();
    world.kill("m2").await;
    world.kill("m3").await;
    let runs_out = || {
        let over = lease_until(&data.told()) < keelson_cluster::boottime_now();
        over.then_some(())
    };
    super::world::eventually("the lease of m1 runs out", runs_out).await;
    assert!(world.plane("m1").is_leader(), "the library lets it believe that it leads");

    world.restart("m2").await;
    let after = keelson_cluster::boottime_now();
    data.until("a lease again", |told| lease_until(told) > after).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heartbeats_and_leases_write_nothing_to_the_log_p10() {
    let world = World::of_three().await;
    world.create("m1", "DB1", &["m2", "m1"]).await;
    world.established("m1", "DB1", |active| active == "m2").await;
    let data = &world.member("m2").data;
    let quiet = lease_until(&data.told());
    let settled = world.plane("m1").applied().index();
    // Ten renewals later, and twice as many heartbeats.
    let later = quiet.after(Duration::from_millis(1_500));
    data.until("ten renewals", |told| lease_until(told) > later).await;
    assert_eq!(world.plane("m1").applied().index(), settled);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reaped_data_process_loses_its_databases_and_its_next_life_gets_a_lease() {
    let world = World::of_three().await;
    world.create("m1", "DB1", &["m3", "m2", "m1"]).await;
    world.established("m1", "DB1", |active| active == "m3").await;
    let data = &world.member("m3").data;
    data.die().await;
    let shown = world.established("m1", "DB1", |active| active == "m2").await;
    let reason = shown.epochs.last().unwrap().reason.clone();
    assert_eq!(reason, "death_certified");
    data.start().await;
    let told = data.until("a lease for the new life", |told| told.lease.is_some()).await;
    assert!(told.mounted.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_data_process_that_makes_no_progress_loses_its_lease() {
    let mut world = World::new();
    world.timings.progress_max = Duration::from_secs(1);
    for name in ["m1", "m2"] {
        world.start(name).await;
    }
    world.admin("m1").init_cluster(InitClusterRequest {}).await.unwrap();
    world.add("m1", "m2").await.unwrap();
    world.create("m1", "DB1", &["m2", "m1"]).await;
    world.established("m1", "DB1", |active| active == "m2").await;
    world.member("m2").data.hang();
    // m2 cannot seal either; its lease is over, but it may hold what m1 lacks: DB1 waits for it.
    let applied = world.plane("m1").applied();
    let waits = || {
        let moved_on = applied.read(|state| {
            let database = state.database_named("DB1").unwrap();
            database.newest_reason() == Some(&keelson_cluster_core::ActivationReason::LeaseExpired)
        });
        moved_on.then_some(())
    };
    super::world::eventually("the lease of m2 ran out", waits).await;
    world.member("m2").data.die().await;
    world.member("m2").data.start().await;
    world.established("m1", "DB1", |_| true).await;
}

async fn finished(world: &World, at: &str, operation: &OperationId) -> Vec<Operation> {
    let request = GetOperationRequest { operation: ids::bytes(*operation) };
    let mut stream = world.operations(at).watch_operation(request).await.unwrap().into_inner();
    let mut seen = Vec::new();
    let watched = async {
        while let Some(operation) = stream.message().await.unwrap() {
            seen.push(operation);
        }
    };
    tokio::time::timeout(super::world::PATIENCE, watched).await.expect("it ends");
    seen
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_switchover_is_one_operation_however_often_it_is_asked() {
    let world = World::of_three().await;
    world.create("m1", "DB1", &["m1", "m2", "m3"]).await;
    let before = world.established("m1", "DB1", |active| active == "m1").await;
    let operation = OperationId::new(Uuid::new_v4());
    let request = SwitchoverRequest {
        database: "DB1".into(),
        to: "m3".into(),
        operation: ids::bytes(operation),
        comment: String::new(),
    };
    for _ in 0..2 {
        let started = world.admin("m1").switchover(request.clone()).await.unwrap().into_inner();
        assert_eq!(started.operation, ids::bytes(operation));
    }
    let seen = finished(&world, "m1", &operation).await;
    let last = seen.last().unwrap();
    assert_eq!((last.state.as_str(), last.subject.as_str()), ("succeeded", "DB1 to m3"));
    let again = world.admin("m1").switchover(request).await.unwrap().into_inner();
    assert_eq!(again.operation, ids::bytes(operation));
    let after = world.established("m1", "DB1", |active| active == "m3").await;
    assert_eq!(after.epoch.unwrap().counter, before.epoch.unwrap().counter + 1);

    let other = SwitchoverRequest {
        database: "DB1".into(),
        to: "m2".into(),
        operation: ids::bytes(operation),
        comment: String::new(),
    };
    let refused = world.admin("m1").switchover(other).await.unwrap_err();
    assert_eq!(refusal_of(&refused).reason, RefusalReason::AlreadyExists);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dismounted_database_stays_closed_until_it_is_mounted_in_a_new_epoch() {
    let world = World::of_three().await;
    world.create("m1", "DB1", &["m2", "m1"]).await;
    let before = world.established("m1", "DB1", |active| active == "m2").await;
    let operation = OperationId::new(Uuid::new_v4());
    let request = DismountDatabaseRequest { name: "DB1".into(), operation: ids::bytes(operation) };
    world.admin("m1").dismount_database(request).await.unwrap();
    let seen = finished(&world, "m1", &operation).await;
    assert_eq!(seen.last().unwrap().state, "succeeded", "{seen:?}");
    let closed = world.show("m1", "DB1").await;
    assert_eq!(closed.mount_intent, "dismounted");
    assert_eq!(closed.blocked, "dismounted by an operator");

    let operation = OperationId::new(Uuid::new_v4());
    let request = MountDatabaseRequest {
        name: "DB1".into(),
        operation: ids::bytes(operation),
        ..MountDatabaseRequest::default()
    };
    world.admin("m1").mount_database(request).await.unwrap();
    let seen = finished(&world, "m1", &operation).await;
    assert_eq!(seen.last().unwrap().state, "succeeded", "{seen:?}");
    let after = world.established("m1", "DB1", |_| true).await;
    assert!(after.epoch.unwrap().counter > before.epoch.unwrap().counter);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rule_change_is_answered_with_the_recorded_rule() {
    let world = World::of_three().await;
    world.create("m1", "DB1", &["m2", "m1", "m3"]).await;
    let shown = world.established("m1", "DB1", |active| active == "m2").await;
    let data = &world.member("m2").data;
    let told = data.until("the rule", |told| {
        told.databases.get("DB1").is_some_and(|known| known.rule.is_some())
    });
    let known = told.await.databases["DB1"].clone();
    let recorded = known.rule.clone().unwrap();
    let mut rule = recorded.clone();
    rule.version += 1;
    let one = rule.participants.iter().find(|p| p.copy != known.this_copy).unwrap().copy.clone();
    rule.participants.retain(|p| p.copy == known.this_copy || p.copy == one);
    let propose = |expected_version| ProposeRule {
        database: known.database.clone(),
        epoch: shown.epoch,
        expected_version,
        rule: Some(rule.clone()),
        reason: "test".into(),
    };
    data.report(data_to_control::Message::ProposeRule(propose(recorded.version))).await;
    let told = data.until("the outcome", |told| told.rules.len() == 1).await;
    assert_eq!(told.rules[0].recorded, Some(rule.clone()));

    // One that comes too late learns what is recorded.
    let mut late = propose(recorded.version);
    late.rule = Some(recorded);
    data.report(data_to_control::Message::ProposeRule(late)).await;
    let told = data.until("the second outcome", |told| told.rules.len() == 2).await;
    assert_eq!(told.rules[1].recorded, Some(rule));
}

/// A member that is behind the leader knows less than the asker was told: it names the leader
/// instead of denying an operation.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_the_leader_says_that_there_is_no_such_operation() {
    let world = World::of_three().await;
    let leader = world.leader().await;
    let unknown = || GetOperationRequest { operation: ids::bytes(OperationId::from_u128(77)) };
    for name in ["m1", "m2", "m3"] {
        let answer = world.operations(name).get_operation(unknown()).await;
        let watched = world.operations(name).watch_operation(unknown()).await.map(drop);
        for status in [answer.map(drop).unwrap_err(), watched.unwrap_err()] {
            let refusal = refusal_of(&status);
            let expected = match name == leader {
                true => RefusalReason::UnknownOperation,
                false => RefusalReason::NoLeader,
            };
            assert_eq!(refusal.reason, expected, "{name}: {refusal}");
        }
    }
}
