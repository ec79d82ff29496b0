//! H6, H12, H14: leaders that are deposed or blink, clones.

use std::time::Duration;

use keelson_cluster_core::{
    ClusterState, Command, LeaseConfig, LeaseHolder, LeaseTable, MemberConfig, RenewRequest,
};
use keelson_sim::{Params, SEC, World};
use keelson_types::{IncarnationId, MemberId, MemberName, SiteName, Tick, Weakness};

use crate::red_and_green;

/// The leader m3 and the active m0 are cut off together; the others elect and go on.
fn h06(weakness: Weakness) -> World {
    let mut world = World::scripted(Params::scripted(5, 3, weakness));
    world.settle();
    world.split(&[0, 3], &[1, 2, 4]);
    assert!(world.until(10 * SEC, |world| world.bound(0) == Some(1)));
    world.pass(SEC);
    let write = world.write(1);
    assert!(world.until(SEC, |world| world.is_acknowledged(write)));
    world.read(0);
    world.pass(SEC);
    world
}

#[test]
fn h06_a_deposed_leader_goes_on_renewing() {
    red_and_green(h06, Weakness::RenewWithoutQuorum, "G2");
}

/// Nine databases on three members; the leader's machine dies. Returns how many databases that were
/// active elsewhere got another epoch.
fn h12(weakness: Weakness) -> usize {
    let params = Params { databases: 9, ..Params::scripted(3, 3, weakness) };
    let mut world = World::scripted(params);
    world.settle();
    let elsewhere: Vec<_> = (0..9).filter(|d| world.serves(*d) != Some(1)).collect();
    let before: Vec<_> = elsewhere.iter().map(|d| world.epoch(*d)).collect();
    assert_eq!(elsewhere.len(), 6, "each member has three");
    world.kill(1);
    let all = |world: &World| (0..9).all(|database| world.serves(database).is_some());
    assert!(world.until(20 * SEC, all), "everything is served again");
    world.pass(2 * SEC);
    assert_eq!(world.violation(), None);
    let epochs = elsewhere.iter().map(|database| world.epoch(*database));
    epochs.zip(before).filter(|(now, before)| now != before).count()
}

#[test]
fn h12_a_leader_that_dies_costs_only_its_own_databases_their_epoch() {
    assert!(h12(Weakness::ExpiryDismounts) > 0, "without holds a blink moves databases");
    assert_eq!(h12(Weakness::None), 0);
}

/// A clone of a data directory starts while the original serves. Returns whether both hold a lease.
fn h14(weakness: Weakness) -> bool {
    let (member, site) = (MemberId::from_u128(1), SiteName::new("a").expect("valid"));
    let [original, clone] = [1, 2].map(IncarnationId::from_u128);
    let config = LeaseConfig::default();
    let mut state = ClusterState::default();
    let name = MemberName::new("m1").expect("valid");
    let (control_address, data_address) = ("m1:1".to_owned(), "m1:2".to_owned());
    let voter = true;
    let new = MemberConfig {
        id: member,
        node: 1,
        name,
        site,
        control_address,
        data_address,
        replication_addresses: Vec::new(),
        voter,
    };
    state.apply(1, &Command::AddMember { member: new });
    state.apply(2, &Command::StartIncarnation { member, incarnation: original });
    let mut table = LeaseTable::new(config, weakness);
    table.became_leader(Tick(0), config.lease);
    let mut lease = |state: &ClusterState, now: Tick, incarnation| {
        let member_state = &state.members[&member];
        let request = RenewRequest {
            member: member_state,
            incarnation,
            last_quorum_ack: Some(now),
            applied_own_term: true,
        };
        let mut holder = LeaseHolder::new(config, member, incarnation, weakness);
        if let Ok(grant) = table.renew(now, &request) {
            holder.granted(now, now, &grant);
        }
        (holder.until(), table.may_start(now, member_state, clone).is_ok())
    };
    let (first, may_start) = lease(&state, Tick(0), original);
    assert!(first.is_some(), "the original serves");
    let later = Tick(0).after(Duration::from_millis(100));
    if may_start {
        state.apply(3, &Command::StartIncarnation { member, incarnation: clone });
    }
    let (second, _) = lease(&state, later, clone);
    first.is_some_and(|until| until > later) && second.is_some_and(|until| until > later)
}

#[test]
fn h14_a_clone_ends_the_lease_of_its_original() {
    assert!(h14(Weakness::NewIncarnationEndsLease), "both serve");
    assert!(!h14(Weakness::None), "the clone waits");
}
