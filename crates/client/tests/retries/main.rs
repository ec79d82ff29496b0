//! What the client does when members refuse, redirect, break off, or say nothing.
// A test may fail at the line that expected otherwise.
#![allow(clippy::unwrap_used)]

mod fake;

use std::time::{Duration, Instant};

use keelson_client::{ScanOptions, WriteBatch, v1};
use keelson_types::{BATCH_BYTES_MAX, KEY_BYTES_MAX, RefusalReason as R};

use fake::{Reply, World};

const LONG: Duration = Duration::from_secs(20);

fn refuse(reason: R) -> Reply {
    Reply::Refuse(reason, None)
}

#[tokio::test]
async fn an_address_in_a_refusal_is_followed_at_once() {
    let world = World::start(LONG).await;
    let [m1, m2] = &world.members[..] else { panic!("two members") };
    m1.will([Reply::Refuse(R::NotActive, Some(m2.data.clone()))]);
    let database = world.client.database("DB1");
    assert_eq!(database.get("k").await.unwrap().as_deref(), Some(&b"m2"[..]));
    // Every handle goes there from now on, though the topology still names m1.
    assert_eq!(world.client.database("DB1").get("k").await.unwrap().as_deref(), Some(&b"m2"[..]));
    assert_eq!((m1.script().calls, m2.script().calls), (1, 2));
}

#[tokio::test]
async fn a_database_on_the_move_is_asked_again_soon() {
    let world = World::start(LONG).await;
    let m1 = &world.members[0];
    world.client.refresh_topology().await.unwrap();
    let moving = [R::Activating, R::NoLease, R::NotActive, R::NoLeader, R::Overloaded];
    m1.will(moving.map(refuse));
    let before = Instant::now();
    world.client.database("DB1").put("k", "v").await.unwrap();
    assert_eq!(m1.script().calls, 6);
    assert!(before.elapsed() < Duration::from_secs(2), "{:?}", before.elapsed());
}

#[tokio::test]
async fn final_refusals_are_not_retried() {
    let world = World::start(LONG).await;
    for reason in [R::BadKey, R::ValueTooLarge, R::ConditionFailed, R::Forbidden, R::DiskFull] {
        world.members[0].script().calls = 0;
        world.members[0].will([refuse(reason)]);
        let error = world.client.database("DB1").put("k", "v").await.unwrap_err();
        assert_eq!((error.reason, world.members[0].script().calls), (reason, 1));
    }
}

#[tokio::test]
async fn what_is_over_the_limits_is_never_sent() {
    let world = World::start(LONG).await;
    let database = world.client.database("DB1");
    let session = database.session().await.unwrap();
    let long = vec![b'k'; KEY_BYTES_MAX + 1];
    let huge = vec![0; 25 * 1024 * 1024];
    let batch = || WriteBatch::new().put("a", huge.clone());
    let sixths = (0..6).fold(WriteBatch::new(), |batch, n| {
        batch.if_absent("a").put(n.to_string(), vec![0; BATCH_BYTES_MAX / 5])
    });
    let refused = [
        (database.put("k", huge.clone()).await, R::ValueTooLarge),
        (database.put(long.clone(), "v").await, R::BadKey),
        (database.delete(long.clone()).await, R::BadKey),
        (database.delete_range("a", long.clone()).await, R::BadKey),
        (database.write(batch()).await, R::ValueTooLarge),
        (database.write(sixths).await, R::BatchTooLarge),
        (session.put("k", huge.clone()).await, R::ValueTooLarge),
        (session.write(batch()).await, R::ValueTooLarge),
    ];
    for (result, reason) in refused {
        assert_eq!(result.unwrap_err().reason, reason);
    }
    assert_eq!(database.get(long.clone()).await.unwrap_err().reason, R::BadKey);
    let scan = database.scan(ScanOptions { from: long.into(), ..ScanOptions::default() }).await;
    assert_eq!(scan.unwrap_err().reason, R::BadKey);
    let script = world.members[0].script();
    assert_eq!((script.calls, script.sessions.len()), (0, 1), "only the session was opened");
}

#[tokio::test]
async fn a_retried_session_write_keeps_its_number() {
    let world = World::start(LONG).await;
    let m1 = &world.members[0];
    let session = world.client.database("DB1").session().await.unwrap();
    session.put("a", "1").await.unwrap();
    m1.will([refuse(R::StaleEpoch), refuse(R::ConnectionLost)]);
    session.put("b", "2").await.unwrap();
    let stamps: Vec<_> = m1.script().stamps.iter().flatten().cloned().collect();
    let numbers: Vec<_> = stamps.iter().map(|s| (s.sequence, s.lowest_unanswered)).collect();
    assert_eq!(numbers, [(1, 1), (2, 2), (2, 2), (2, 2)]);
    assert!(stamps.iter().all(|stamp| stamp.session == m1.script().sessions[0]));
}

#[tokio::test]
async fn an_expired_session_is_replaced_when_nothing_was_applied() {
    let world = World::start(LONG).await;
    let m1 = &world.members[0];
    let session = world.client.database("DB1").session().await.unwrap();
    m1.will([refuse(R::OutcomeUnknown)]);
    session.put("k", "v").await.unwrap();
    let script = m1.script();
    let used: Vec<_> = script.stamps.iter().flatten().map(|stamp| &stamp.session).collect();
    assert_eq!(used, script.sessions.iter().collect::<Vec<_>>());
    assert_eq!(used.len(), 2);
}

#[tokio::test]
async fn an_unknown_outcome_is_said_and_the_write_is_not_sent_anew() {
    let world = World::start(LONG).await;
    let m1 = &world.members[0];
    let session = world.client.database("DB1").session().await.unwrap();
    m1.will([refuse(R::ConnectionLost), refuse(R::OutcomeUnknown)]);
    let error = session.put("k", "v").await.unwrap_err();
    assert!(error.is_outcome_unknown(), "{error}");
    let script = m1.script();
    assert_eq!((script.stamps.len(), script.sessions.len()), (2, 1));
}

#[tokio::test]
async fn conditional_writes_go_through_a_session() {
    let world = World::start(LONG).await;
    let database = world.client.database("DB1");
    for number in 1..=2 {
        database.write(WriteBatch::new().if_absent("k").put("k", "v")).await.unwrap();
        let script = world.members[0].script();
        assert_eq!(script.stamps.last().unwrap().as_ref().unwrap().sequence, number);
        assert_eq!(script.sessions.len(), 1);
    }
    database.write(WriteBatch::new().put("k", "v")).await.unwrap();
    assert_eq!(world.members[0].script().stamps.last().unwrap(), &None);
}

#[tokio::test]
async fn a_call_ends_within_its_deadline_with_the_last_reason() {
    let deadline = Duration::from_millis(500);
    let world = World::start(deadline).await;
    world.members[0].will(vec![refuse(R::Activating); 10_000]);
    let before = Instant::now();
    let error = world.client.database("DB1").get("k").await.unwrap_err();
    assert_eq!(error.reason, R::Activating);
    assert!(error.message.starts_with("gave up after"), "{error}");
    assert!(before.elapsed() < deadline * 3, "{:?}", before.elapsed());
    let error = world.client.database("DB1").put("k", "v").await.unwrap_err();
    assert_eq!(error.reason, R::Activating, "certainly not applied");
}

#[tokio::test]
async fn a_write_that_may_have_been_applied_ends_as_unknown() {
    let world = World::start(Duration::from_millis(500)).await;
    world.members[0].will([refuse(R::ConnectionLost)]);
    world.members[0].will(vec![refuse(R::Activating); 10_000]);
    let error = world.client.database("DB1").put("k", "v").await.unwrap_err();
    assert_eq!(error.reason, R::OutcomeUnknown);
}

#[tokio::test]
async fn a_silent_member_is_left_once_the_database_has_moved() {
    let world = World::start(LONG).await;
    world.members[0].will([Reply::Silence]);
    world.client.refresh_topology().await.unwrap();
    world.set_active("m2", 2);
    let before = Instant::now();
    let found = world.client.database("DB1").get("k").await.unwrap();
    assert_eq!(found.as_deref(), Some(&b"m2"[..]));
    assert!(before.elapsed() < Duration::from_secs(5), "{:?}", before.elapsed());
}

/// Its database goes elsewhere in a second; that of the client is judged by all members.
#[tokio::test]
async fn a_member_whose_certificate_ended_is_left_like_a_dead_one() {
    let world = World::start(LONG).await;
    world.members[0].will([refuse(R::BadCertificate), refuse(R::BadCertificate)]);
    world.client.refresh_topology().await.unwrap();
    let database = world.client.database("DB1");
    database.put("k", "v").await.unwrap();
    assert_eq!(world.members[0].script().calls, 3, "it was named still");
    world.members[0].will([refuse(R::BadCertificate)]);
    world.set_active("m2", 2);
    assert_eq!(database.get("k").await.unwrap().as_deref(), Some(&b"m2"[..]));
}

#[tokio::test]
async fn a_scan_begins_where_the_database_is() {
    let world = World::start(LONG).await;
    world.members[0].will([refuse(R::Activating), Reply::Refuse(R::NotActive, Some("".into()))]);
    let items = world.client.database("DB1").scan(ScanOptions::default()).await.unwrap();
    assert_eq!(items.collect().await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_broken_watch_continues_behind_its_last_event() {
    let world = World::start(LONG).await;
    let mut watch = world.client.database("DB1").watch("start", "");
    for _ in 0..3 {
        watch.next().await.unwrap().unwrap();
    }
    assert_eq!(world.members[0].script().cursors, ["start", "m1/1", "m1/2"]);
}

#[tokio::test]
async fn an_unknown_database_is_named_after_a_second_look() {
    let world = World::start(LONG).await;
    let error = world.client.database("DB9").get("k").await.unwrap_err();
    assert_eq!(error.reason, R::UnknownDatabase);
    assert_eq!(world.members[0].script().calls, 0);
}

/// It hears of no other database, so a member has to say that this one is not for it.
#[tokio::test]
async fn who_is_limited_is_refused_by_a_member_and_not_by_what_it_does_not_hear_of() {
    let world = World::start(LONG).await;
    for member in &world.members {
        member.script().limited = true;
        member.will([refuse(R::Forbidden), refuse(R::UnknownDatabase)]);
    }
    let error = world.client.database("DB9").get("k").await.unwrap_err();
    assert_eq!(error.reason, R::Forbidden);
    let calls: usize = world.members.iter().map(|member| member.script().calls).sum();
    assert_eq!(calls, 1, "a refusal is the end of it");
}

#[tokio::test]
async fn admin_changes_follow_the_leader() {
    let world = World::start(LONG).await;
    let [m1, m2] = &world.members[..] else { panic!("two members") };
    m1.script().admin_refusal = Some(Reply::Refuse(R::NoLeader, Some(m2.control.clone())));
    let admin = world.client.admin();
    for _ in 0..2 {
        admin.set_member(v1::SetMemberRequest::default()).await.unwrap();
    }
    assert_eq!((m1.script().changes, m2.script().changes), (1, 2), "the leader is remembered");
    m2.script().admin_refusal = Some(refuse(R::UnknownMember));
    let error = admin.set_member(v1::SetMemberRequest::default()).await.unwrap_err();
    assert_eq!(error.reason, R::UnknownMember);
}
