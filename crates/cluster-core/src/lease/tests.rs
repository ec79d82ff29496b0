//! Tests of `lease`.

use keelson_types::{DatabaseId, MountIntent, Weakness};

use super::*;
use crate::command::Command;
use crate::member::Member;
use crate::state::ClusterState;
use crate::testing::{DB, Log, create, epoch, life, member};

const LEASE: Duration = Duration::from_secs(1);

fn at(ms: u64) -> Tick {
    Tick(ms * 1_000_000)
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// A leader since time zero.
fn leader(weakness: Weakness) -> LeaseTable {
    let mut table = LeaseTable::new(LeaseConfig::default(), weakness);
    table.became_leader(at(0), LEASE);
    table
}

fn ask(member: &Member, n: u128, ack: Option<u64>) -> RenewRequest<'_> {
    RenewRequest {
        member,
        incarnation: life(n),
        last_quorum_ack: ack.map(at),
        applied_own_term: true,
    }
}

fn start(log: &mut Log, n: u128, incarnation: u128) {
    let incarnation = life(incarnation);
    log.ok(&Command::StartIncarnation { member: member(n), incarnation });
}

#[test]
fn grants_are_bounded_by_the_last_quorum_r7() {
    let log = Log::with_members(1);
    let m1 = &log.state.members[&member(1)];
    let mut table = leader(Weakness::None);
    let grant = table.renew(at(500), &ask(m1, 1, Some(200))).expect("granted");
    assert_eq!(grant.duration, ms(700));
    assert_eq!(table.renew(at(1_200), &ask(m1, 1, Some(200))), Err(LeaseRefusal::NoQuorum));
    assert_eq!(table.renew(at(1_200), &ask(m1, 1, None)), Err(LeaseRefusal::NoQuorum));
}

#[test]
fn a_deposed_leader_stops_renewing_s6() {
    let log = Log::with_members(1);
    let m1 = &log.state.members[&member(1)];
    let (mut sound, mut weak) = (leader(Weakness::None), leader(Weakness::RenewWithoutQuorum));
    // Cut off from the majority at 1,000 ms; a successor may move everything at 2,010 ms.
    let late = ask(m1, 1, Some(1_000));
    assert_eq!(sound.renew(at(5_000), &late), Err(LeaseRefusal::NoQuorum));
    assert_eq!(weak.renew(at(5_000), &late).map(|grant| grant.duration), Ok(LEASE));
}

/// F126: what was granted runs out; nothing is granted again until the site is started.
#[test]
fn a_stopped_member_gets_no_lease() {
    let mut log = Log::with_members(2);
    let mut table = leader(Weakness::None);
    let stop = |comment: Option<&str>| {
        let (members, comment) = ([member(1)].into(), comment.map(str::to_owned));
        Command::StopMembers { members, comment }
    };
    let renew = |table: &mut LeaseTable, log: &Log, now| {
        table.renew(at(now), &ask(&log.state.members[&member(1)], 1, Some(now))).map(|_| ())
    };
    assert_eq!(renew(&mut table, &log, 10), Ok(()));
    log.ok(&stop(Some("flood")));
    assert_eq!(renew(&mut table, &log, 20), Err(LeaseRefusal::Stopped));
    assert!(table.expired(at(5_000), &log.state).contains(&member(1)));
    log.ok(&stop(None));
    assert_eq!(renew(&mut table, &log, 6_000), Ok(()));
}

#[test]
fn nothing_is_granted_before_the_own_term_is_applied_r7() {
    let log = Log::with_members(1);
    let m1 = &log.state.members[&member(1)];
    let request = RenewRequest { applied_own_term: false, ..ask(m1, 1, Some(10)) };
    let mut table = leader(Weakness::None);
    assert_eq!(table.renew(at(10), &request), Err(LeaseRefusal::TermNotApplied));
    table.lost_leadership();
    assert_eq!(table.renew(at(10), &ask(m1, 1, Some(10))), Err(LeaseRefusal::NotLeader));
}

#[test]
fn a_new_leader_renews_incumbents_at_once_and_waits_before_moves() {
    let log = Log::with_members(2);
    let (m1, m2) = (&log.state.members[&member(1)], &log.state.members[&member(2)]);
    let mut table = LeaseTable::new(LeaseConfig::default(), Weakness::None);
    table.became_leader(at(0), ms(3_000));
    assert!(table.renew(at(1), &ask(m1, 1, Some(1))).is_ok());
    assert!(!table.moves_allowed(at(3_029), m2), "the predecessor's larger lease counts");
    assert!(table.moves_allowed(at(3_030), m2));
    assert!(table.lease_over(at(3_030), m1), "nothing renewed it since");
    assert!(table.renew(at(3_030), &ask(m1, 1, Some(3_030))).is_ok());
    assert!(!table.lease_over(at(3_031), m1));
}

/// The voters had heard nothing for 500 ms on clocks that may be 1 % fast.
#[test]
fn the_loyalty_of_voters_shortens_the_wait_of_a_new_leader() {
    let log = Log::with_members(1);
    let m1 = &log.state.members[&member(1)];
    let config = LeaseConfig { loyalty: ms(500), ..LeaseConfig::default() };
    let mut table = LeaseTable::new(config, Weakness::None);
    table.became_leader(at(0), LEASE);
    assert!(!table.moves_allowed(at(514), m1));
    assert!(table.moves_allowed(at(515), m1));
}

#[test]
fn a_certificate_ends_the_lease_at_once_and_for_ever() {
    let log = Log::with_members(1);
    let m1 = &log.state.members[&member(1)];
    let mut table = leader(Weakness::None);
    assert!(table.renew(at(10), &ask(m1, 1, Some(10))).is_ok());
    assert!(!table.lease_over(at(11), m1));
    table.certify(member(1), life(1));
    assert!(table.lease_over(at(11), m1));
    assert_eq!(table.renew(at(12), &ask(m1, 1, Some(12))), Err(LeaseRefusal::Ended));
}

#[test]
fn a_recorded_certificate_is_remembered_by_the_next_leader() {
    let mut log = Log::with_members(1);
    log.ok(&Command::CertifyDeath { member: member(1), incarnation: life(1) });
    let m1 = &log.state.members[&member(1)];
    let mut table = leader(Weakness::None);
    assert_eq!(table.renew(at(1), &ask(m1, 1, Some(1))), Err(LeaseRefusal::Ended));
    assert!(table.moves_allowed(at(1), m1), "nobody can hold a lease there");
}

#[test]
fn a_new_incarnation_waits_out_the_old_ones_lease_s9_3() {
    let mut log = Log::with_members(1);
    let mut table = leader(Weakness::None);
    let before = log.state.members[&member(1)].clone();
    assert!(table.renew(at(2_000), &ask(&before, 1, Some(2_000))).is_ok());
    assert_eq!(table.take_alive(), [(member(1), life(1))]);
    assert_eq!(table.may_start(at(2_001), &before, life(5)), Err(LeaseRefusal::SecondHolder));
    start(&mut log, 1, 5);
    let after = log.state.members[&member(1)].clone();
    let wait = LeaseRefusal::WaitsForPredecessor { until: Some(at(3_000)) };
    assert_eq!(table.renew(at(2_100), &ask(&after, 5, Some(2_100))), Err(wait));
    assert_eq!(
        table.renew(at(2_100), &ask(&after, 1, Some(2_100))),
        Err(LeaseRefusal::NotRecorded)
    );
    assert_eq!(table.expired(at(2_999), &log.state), []);
    assert_eq!(table.expired(at(3_000), &log.state), [member(1)]);
    assert!(table.renew(at(3_001), &ask(&after, 5, Some(3_001))).is_err(), "not confirmed yet");
    log.ok(&Command::ConfirmIncarnation { member: member(1), previous: life(1) });
    let confirmed = &log.state.members[&member(1)];
    assert!(table.renew(at(3_002), &ask(confirmed, 5, Some(3_002))).is_ok());
    assert_eq!(table.take_alive(), [(member(1), life(5))]);
}

#[test]
fn with_the_rule_off_a_clone_serves_beside_its_original_h14() {
    let mut log = Log::with_members(1);
    let mut table = leader(Weakness::NewIncarnationEndsLease);
    let before = log.state.members[&member(1)].clone();
    assert!(table.renew(at(2_000), &ask(&before, 1, Some(2_000))).is_ok());
    assert_eq!(table.may_start(at(2_001), &before, life(5)), Ok(()));
    start(&mut log, 1, 5);
    let after = &log.state.members[&member(1)];
    assert!(table.renew(at(2_002), &ask(after, 5, Some(2_002))).is_ok());
}

#[test]
fn a_certificate_or_a_release_lets_the_next_incarnation_in_at_once() {
    for certified in [true, false] {
        let mut log = Log::with_members(1);
        let mut table = leader(Weakness::None);
        let before = log.state.members[&member(1)].clone();
        assert!(table.renew(at(2_000), &ask(&before, 1, Some(2_000))).is_ok());
        let (m, incarnation) = (member(1), life(1));
        let end = if certified {
            table.certify(m, incarnation);
            Command::CertifyDeath { member: m, incarnation }
        } else {
            table.release(m, incarnation);
            Command::ReleaseIncarnation { member: m, incarnation }
        };
        assert_eq!(table.may_start(at(2_001), &before, life(5)), Ok(()));
        log.ok(&end);
        start(&mut log, 1, 5);
        let after = &log.state.members[&member(1)];
        assert!(table.renew(at(2_002), &ask(after, 5, Some(2_002))).is_ok());
    }
}

#[test]
fn expiry_is_reported_at_once_and_then_in_turns_while_it_lasts() {
    let log = Log::with_members(2);
    let m1 = &log.state.members[&member(1)];
    let mut table = leader(Weakness::None);
    assert!(table.renew(at(500), &ask(m1, 1, Some(500))).is_ok());
    assert_eq!(table.next_expiry(at(500)), Some(at(1_010)));
    assert_eq!(table.expired(at(1_400), &log.state), [member(2)], "it never renewed");
    assert_eq!(table.expired(at(1_500), &log.state), [member(1)]);
    assert_eq!(table.expired(at(1_600), &log.state), []);
    assert!(table.renew(at(1_700), &ask(m1, 1, Some(1_700))).is_ok());
    assert_eq!(table.take_alive(), [(member(1), life(1))]);
    assert_eq!(table.take_alive(), []);
    assert_eq!(table.expired(at(2_399), &log.state), []);
    assert_eq!(table.expired(at(2_400), &log.state), [member(2)], "a lost report is made good");
    assert_eq!(table.expired(at(2_700), &log.state), [member(1)]);
}

/// A database established on member 1 in epoch 1.
fn served() -> Log {
    let mut log = Log::with_members(2);
    log.ok(&create(1, &[1, 2]));
    crate::apply::tests::activate(&mut log, 1);
    log
}

fn holder(weakness: Weakness) -> LeaseHolder {
    LeaseHolder::new(LeaseConfig::default(), member(1), life(1), weakness)
}

fn grant(state: &ClusterState) -> Grant {
    let revision = state.members[&member(1)].assignment_revision;
    Grant { incarnation: life(1), duration: LEASE, revision }
}

#[test]
fn a_holder_counts_from_its_send_time_with_the_drift_margin() {
    let log = served();
    let mut holder = holder(Weakness::None);
    holder.granted(at(180), at(100), &grant(&log.state));
    assert_eq!(holder.covered_until(&log.state, DB, epoch(1)), Some(at(1_090)));
    assert_eq!(holder.covered(at(1_089), &log.state).len(), 1);
    assert_eq!(holder.covered(at(1_090), &log.state), []);
    assert_eq!(holder.covered_until(&log.state, DB, epoch(2)), None);
    assert_eq!(holder.covered_until(&log.state, DatabaseId::from_u128(9), epoch(1)), None);
}

#[test]
fn a_grant_counts_once_the_local_state_has_reached_its_revision_r9() {
    let old = served();
    let mut new = old.clone();
    new.ok(&create(2, &[1, 2]));
    crate::apply::tests::activate_database(&mut new, 2, 1);
    let mut holder = holder(Weakness::None);
    holder.granted(at(1), at(0), &grant(&new.state));
    assert_eq!(holder.covered(at(1), &old.state), [], "the local state is behind");
    assert_eq!(holder.covered(at(1), &new.state).len(), 2);
}

#[test]
fn a_grant_covers_no_pair_assigned_after_it_r9() {
    let old = served();
    let mut new = old.clone();
    new.ok(&create(2, &[1, 2]));
    crate::apply::tests::activate_database(&mut new, 2, 1);
    let mut holder = holder(Weakness::None);
    holder.granted(at(1), at(0), &grant(&old.state));
    let covered: Vec<_> = holder.covered(at(1), &new.state).iter().map(|c| c.database).collect();
    assert_eq!(covered, [DB]);
}

#[test]
fn allocating_an_epoch_revokes_the_pair_with_the_next_reply_r9() {
    let mut log = served();
    let old = log.clone();
    crate::apply::tests::allocate(&mut log, 1);
    let mut holder = holder(Weakness::None);
    holder.granted(at(1), at(0), &grant(&log.state));
    assert_eq!(holder.covered(at(1), &log.state), []);
    assert_eq!(holder.covered(at(1), &old.state), [], "nor where the state is behind");
}

#[test]
fn a_dismounted_database_is_not_covered() {
    let mut log = served();
    log.ok(&Command::SetMountIntent { database: DB, intent: MountIntent::Dismounted });
    let mut holder = holder(Weakness::None);
    holder.granted(at(1), at(0), &grant(&log.state));
    assert_eq!(holder.covered(at(1), &log.state), []);
}

#[test]
fn another_life_is_not_covered_in_the_epoch_of_the_first_h8() {
    let log = served();
    let granted = Grant { incarnation: life(5), ..grant(&log.state) };
    let second = |weakness| {
        let mut holder = LeaseHolder::new(LeaseConfig::default(), member(1), life(5), weakness);
        holder.granted(at(1), at(0), &granted);
        holder.covered(at(1), &log.state).len()
    };
    assert_eq!(second(Weakness::None), 0);
    assert_eq!(second(Weakness::ResumeAfterRestart), 1);
    let mut first = holder(Weakness::None);
    first.granted(at(1), at(0), &granted);
    assert_eq!(first.until(), None, "a grant to another life is ignored");
}

#[test]
fn a_newer_grant_that_is_not_usable_yet_does_not_end_the_older_one() {
    let old = served();
    let mut new = old.clone();
    new.ok(&create(2, &[1, 2]));
    crate::apply::tests::activate_database(&mut new, 2, 1);
    let mut holder = holder(Weakness::None);
    holder.granted(at(1), at(0), &grant(&old.state));
    for n in 1..20 {
        holder.granted(at(n), at(n), &grant(&new.state));
    }
    assert_eq!(holder.covered_until(&old.state, DB, epoch(1)), Some(at(990)));
    assert_eq!(holder.covered_until(&new.state, DB, epoch(1)), Some(at(1_009)));
}

#[test]
fn expiry_holds_and_dismounts_only_after_patience_r8() {
    let patience = Duration::from_secs(30);
    let standing = |weakness, now, lost| holder(weakness).standing(at(now), None, lost, patience);
    assert_eq!(standing(Weakness::None, 1_000, Some(at(1_000))), Standing::Held);
    assert_eq!(standing(Weakness::None, 31_000, Some(at(1_000))), Standing::Dismount);
    assert_eq!(standing(Weakness::None, 99_000, None), Standing::Held);
    assert_eq!(standing(Weakness::ExpiryDismounts, 1_000, Some(at(1_000))), Standing::Dismount);
    let covered = holder(Weakness::None).standing(at(5), Some(at(9)), None, patience);
    assert_eq!(covered, Standing::Covered(at(9)));
}

#[test]
fn the_announced_revision_is_one_that_the_local_state_has_reached() {
    let old = served();
    let mut new = old.clone();
    new.ok(&create(2, &[1, 2]));
    crate::apply::tests::activate_database(&mut new, 2, 1);
    let (first, second) = (grant(&old.state), grant(&new.state));
    let mut holder = holder(Weakness::None);
    holder.granted(at(1), at(0), &first);
    holder.granted(at(6), at(5), &second);
    assert_eq!(holder.announced(at(6), &old.state), Some((at(990), first.revision)));
    assert_eq!(holder.announced(at(6), &new.state), Some((at(995), second.revision)));
    assert_eq!(holder.announced(at(990), &old.state), None);
}
