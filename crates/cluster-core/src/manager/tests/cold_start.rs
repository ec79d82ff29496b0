//! Cold starts that wait for every member (F16).

use std::collections::BTreeMap;

use super::failures::restart;
use super::*;
use crate::manager::cold_start::mounts_wait;

const ALL: [u128; 3] = [1, 2, 3];

/// Established on member 1, with the switch on and every life noted.
fn waiting() -> World {
    let mut world = World::established();
    switch(&mut world, 1);
    let lives = ALL.map(|n| (member(n), life(n)));
    let permit = Command::PermitMounts { lives: BTreeMap::from(lives) };
    assert_eq!(proposals(&world.step(ManagerEvent::Applied)), std::slice::from_ref(&permit));
    assert_eq!(world.step(ManagerEvent::Timer), [], "noted once");
    world.log.ok(&permit);
    world.step(ManagerEvent::Applied);
    world
}

/// Whether the actions propose this, alone or in a batch.
fn proposed(actions: &[ManagerAction], wanted: &Command) -> bool {
    proposals(actions).iter().any(|command| match command {
        Command::Batch(commands) => commands.contains(wanted),
        command => command == wanted,
    })
}

fn switch(world: &mut World, value: u64) {
    let name = "cold_start_waits_for_all".to_owned();
    world.log.ok(&Command::ChangeSetting { name, value: Some(value) });
}

/// All lives are new ones; member 1 is not back.
fn two_of_three_start(world: &mut World) {
    for n in ALL {
        restart(world, n, 10 + n);
    }
    world.lead(2);
    for n in [2, 3] {
        world.step(ManagerEvent::LeaseExpired { member: member(n) });
        world.alive(n);
    }
}

#[test]
fn nothing_is_mounted_before_everybody_is_back() {
    let mut world = waiting();
    let alive = |members: &[u128]| members.iter().map(|n| member(*n)).collect();
    assert!(!mounts_wait(&world.log.state, &alive(&[2, 3])));
    two_of_three_start(&mut world);
    world.step(ManagerEvent::LeaseExpired { member: member(1) });
    assert!(mounts_wait(&world.log.state, &alive(&[2, 3])));
    assert!(!mounts_wait(&world.log.state, &alive(&[])), "nobody is there to ask");
    let later = world.later(ms(3_600_000)).step(ManagerEvent::Timer);
    assert_eq!(later, [], "no time ends it, and no timer runs");
    assert_eq!(world.database().epoch, epoch(1));
    let actions = world.alive(1);
    assert!(proposed(&actions, &allocate(1, ActivationReason::Restarted)), "{actions:?}");
}

#[test]
fn a_change_of_leader_during_the_wait_does_not_end_it() {
    let mut world = waiting();
    two_of_three_start(&mut world);
    world.lead(3);
    for n in [2, 3] {
        assert_eq!(world.alive(n), [], "its life began in the cold start");
    }
    assert_eq!(world.later(ms(60_000)).step(ManagerEvent::Timer), []);
}

#[test]
fn a_life_that_went_on_vouches_for_the_next_leader() {
    let mut world = waiting();
    world.lead(2);
    assert!(world.manager.is_cold());
    world.alive(2);
    assert!(!world.manager.is_cold());
    let actions = world.step(ManagerEvent::LeaseExpired { member: member(1) });
    let moved = proposed(&actions, &allocate(1, ActivationReason::LeaseExpired));
    assert!(moved, "only member 1 is gone: {actions:?}");
}

#[test]
fn a_new_life_is_noted_by_a_leader_that_knows_better() {
    let mut world = waiting();
    restart(&mut world, 3, 13);
    world.step(ManagerEvent::LeaseExpired { member: member(3) });
    let lives = BTreeMap::from([(member(3), life(13))]);
    let actions = world.alive(3);
    assert!(proposed(&actions, &Command::PermitMounts { lives }), "{actions:?}");
}

#[test]
fn who_is_stopped_or_under_maintenance_is_not_waited_for() {
    let stopped = Command::StopMembers {
        members: [member(1)].into(),
        comment: Some("the site is lost".into()),
    };
    let maintained = Command::BeginMaintenance { member: member(1), comment: String::new() };
    for excuse in [stopped, maintained] {
        let mut world = waiting();
        two_of_three_start(&mut world);
        world.step(ManagerEvent::LeaseExpired { member: member(1) });
        world.log.ok(&excuse);
        let actions = world.step(ManagerEvent::Applied);
        assert!(!world.manager.is_cold());
        assert!(!proposals(&actions).is_empty(), "{excuse:?}");
    }
}

#[test]
fn the_switch_can_be_turned_off_during_the_wait() {
    let mut world = waiting();
    two_of_three_start(&mut world);
    world.step(ManagerEvent::LeaseExpired { member: member(1) });
    world.later(ms(60_000)).step(ManagerEvent::Timer);
    switch(&mut world, 0);
    let actions = world.step(ManagerEvent::Applied);
    assert!(proposed(&actions, &allocate(1, ActivationReason::Restarted)), "{actions:?}");
}
