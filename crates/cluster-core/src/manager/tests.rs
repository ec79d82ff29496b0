//! Scenarios: arrange a world, step the manager, compare its actions.

mod cold_start;
mod data_network;
mod dials;
mod failures;
mod instants;
mod losses;
mod many;
mod moves;

use std::time::Duration;

use keelson_types::{CommitConstraint, DatabaseState, LogEnd};

use super::*;
use crate::command::{ActivateItem, AllocateItem, Answer, Command, Outcome};
use crate::decision::{ActivationReason, ActivationStep};
use crate::order::{MountFailure, SealAnswer, SealItem, SealRefusal};
use crate::testing::{DB, Log, copy, create, end, epoch, life, member, reply, rule};

/// A leader's manager beside its replicated state.
#[derive(Clone)]
struct World {
    log: Log,
    manager: Manager,
    now: Tick,
    weakness: Weakness,
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

impl World {
    /// Three members, one database with a copy on each; nobody leads yet.
    fn new(weakness: Weakness) -> Self {
        let mut log = Log::with_members(3);
        log.ok(&create(1, &[1, 2, 3]));
        let manager = Manager::new(ManagerConfig::default(), weakness);
        Self { log, manager, now: Tick(0).after(ms(1_000)), weakness }
    }

    /// The same with a leader, all members alive, and the database established on member 1 in epoch
    /// 1.
    fn established() -> Self {
        Self::established_with(Weakness::None)
    }

    fn established_with(weakness: Weakness) -> Self {
        let mut world = Self::new(weakness);
        world.lead(1);
        world.all_alive();
        world.run_seals(&[(1, LogEnd::ZERO), (2, LogEnd::ZERO), (3, LogEnd::ZERO)], 1);
        world.mounted(1);
        let database = world.database();
        assert_eq!((database.state, database.target), (DatabaseState::Established, Some(copy(1))));
        world
    }

    fn database(&self) -> &crate::Database {
        &self.log.state.databases[&DB]
    }

    fn later(&mut self, duration: Duration) -> &mut Self {
        self.now = self.now.after(duration);
        self
    }

    /// One step, without applying what it proposes. A manager that looks at every database does
    /// the same.
    fn raw(&mut self, event: ManagerEvent) -> Vec<ManagerAction> {
        let (mut out, mut plain) = (Vec::new(), Vec::new());
        let mut thorough = self.manager.clone();
        thorough.look_at_everything();
        thorough.step(self.now, &self.log.state, event.clone(), &mut plain);
        self.manager.step(self.now, &self.log.state, event, &mut out);
        assert_eq!(out, plain, "nothing that had to be looked at was left out");
        out
    }

    /// One step; everything proposed is applied and answered at once. Returns all actions but
    /// `Wake`.
    fn step(&mut self, event: ManagerEvent) -> Vec<ManagerAction> {
        let mut queue = self.raw(event);
        let mut seen = Vec::new();
        while !queue.is_empty() {
            let action = queue.remove(0);
            if let ManagerAction::Propose { tag, command } = &action {
                self.explained(command);
                self.log.index += 1;
                let index = self.log.index;
                let outcome = self.log.state.apply_with(index, command, self.weakness);
                let tag = *tag;
                queue.extend(self.raw(ManagerEvent::CommandDone { tag, outcome }));
            }
            if !matches!(action, ManagerAction::Wake { .. }) {
                seen.push(action);
            }
        }
        seen
    }

    /// G8: every decision can be decided again from its record.
    fn explained(&self, command: &Command) {
        let records = match command {
            Command::Activate(items) => items.iter().map(|item| &item.decision).collect(),
            Command::RecordDecision(record) => vec![record.as_ref()],
            _ => Vec::new(),
        };
        for record in records.into_iter().filter(|_| self.weakness == Weakness::None) {
            let again = crate::explain(record, &[]).expect("no changes");
            assert_eq!((again.differences, again.incomplete), (vec![], false), "{record:?}");
        }
    }

    fn lead(&mut self, term: u64) -> Vec<ManagerAction> {
        self.manager = Manager::new(ManagerConfig::default(), self.weakness);
        self.step(ManagerEvent::BecameLeader { term })
    }

    fn alive(&mut self, n: u128) -> Vec<ManagerAction> {
        let incarnation = self.log.state.members[&member(n)].incarnation.expect("recorded");
        self.step(ManagerEvent::MemberAlive { member: member(n), incarnation })
    }

    fn all_alive(&mut self) {
        (1..=3).for_each(|n| drop(self.alive(n)));
    }

    fn sealed(&mut self, n: u128, counter: u64, end: LogEnd) -> Vec<ManagerAction> {
        let answer = answer(counter, Ok(reply(n, epoch(counter), end)));
        self.step(ManagerEvent::SealReplies { member: member(n), answers: vec![answer] })
    }

    fn run_seals(&mut self, ends: &[(u128, LogEnd)], counter: u64) -> Vec<ManagerAction> {
        ends.iter().flat_map(|(n, end)| self.sealed(*n, counter, *end)).collect()
    }

    fn mount_result(
        &mut self,
        counter: u64,
        result: Result<(), MountFailure>,
    ) -> Vec<ManagerAction> {
        self.step(ManagerEvent::MountResult { database: DB, epoch: epoch(counter), result })
    }

    fn mounted(&mut self, counter: u64) -> Vec<ManagerAction> {
        let mut actions = self.mount_result(counter, Ok(()));
        let (database, epoch) = (DB, epoch(counter));
        actions.extend(self.step(ManagerEvent::EstablishedReported { database, epoch }));
        actions
    }
}

fn answer(counter: u64, result: Result<crate::SealReply, SealRefusal>) -> SealAnswer {
    SealAnswer { database: DB, epoch: epoch(counter), result }
}

fn allocate(expected: u64, reason: ActivationReason) -> Command {
    let expected = if expected == 0 { Epoch::ZERO } else { epoch(expected) };
    Command::AllocateEpochs(vec![AllocateItem { database: DB, expected, reason }])
}

fn seal(n: u128, counter: u64) -> ManagerAction {
    let items = vec![SealItem { database: DB, epoch: epoch(counter) }];
    ManagerAction::SealMany { member: member(n), items }
}

fn proposals(actions: &[ManagerAction]) -> Vec<Command> {
    let commands = actions.iter().filter_map(|action| match action {
        ManagerAction::Propose { command, .. } => Some(command.clone()),
        _ => None,
    });
    commands.collect()
}

fn others(actions: &[ManagerAction]) -> Vec<ManagerAction> {
    let others = actions.iter().filter(|a| !matches!(a, ManagerAction::Propose { .. }));
    others.cloned().collect()
}

/// The only target bound by these actions.
#[track_caller]
fn bound(actions: &[ManagerAction]) -> ActivateItem {
    let items = proposals(actions).into_iter().filter_map(|command| match command {
        Command::Activate(items) => Some(items),
        _ => None,
    });
    let mut items: Vec<_> = items.flatten().collect();
    assert_eq!(items.len(), 1, "{actions:?}");
    items.remove(0)
}

/// The only mount ordered by these actions: member, and target's epoch.
#[track_caller]
fn mount(actions: &[ManagerAction]) -> (MemberId, crate::MountOrder) {
    let mounts = actions.iter().filter_map(|action| match action {
        ManagerAction::Mount { member, order } => Some((*member, order.clone())),
        _ => None,
    });
    let mut mounts: Vec<_> = mounts.collect();
    assert_eq!(mounts.len(), 1, "{actions:?}");
    mounts.remove(0)
}

#[test]
fn a_new_database_is_activated_step_by_step() {
    let mut world = World::new(Weakness::None);
    let actions = world.lead(1);
    assert_eq!(proposals(&actions), [allocate(0, ActivationReason::NewDatabase)]);
    assert_eq!(others(&actions), [seal(1, 1), seal(2, 1), seal(3, 1)]);
    world.all_alive();
    assert_eq!(world.sealed(1, 1, LogEnd::ZERO), []);
    assert_eq!(world.sealed(2, 1, LogEnd::ZERO), []);
    let actions = world.sealed(3, 1, LogEnd::ZERO);
    let item = bound(&actions);
    assert_eq!((item.target, item.incarnation), (copy(1), life(1)));
    assert_eq!(item.rule, rule(1, 1, CommitConstraint::SecondCopy, &[1, 2, 3]));
    let (at, order) = mount(&actions);
    assert_eq!((at, order.target, order.epoch), (member(1), copy(1), epoch(1)));
    assert_eq!(order.peers.len(), 2);
    assert_eq!(world.mount_result(1, Ok(())), []);
    let event = ManagerEvent::EstablishedReported { database: DB, epoch: epoch(1) };
    let proposed = proposals(&world.step(event.clone()));
    assert_eq!(proposed, [Command::Established { database: DB, epoch: epoch(1) }]);
    let decision = world.log.state.decisions.last().expect("recorded");
    let steps = decision.record.steps.iter().map(|timing| timing.step);
    let (binding, established) = (ActivationStep::Binding, ActivationStep::Established);
    assert!(steps.rev().take(2).eq([established, binding]), "{:?}", decision.record.steps);
    assert_eq!(world.step(event), [], "the activation is over");
    assert_eq!(world.manager.activations().count(), 0);
}

#[test]
fn nothing_happens_without_leadership() {
    let mut world = World::established();
    assert_eq!(world.step(ManagerEvent::LostLeadership), []);
    assert_eq!(world.step(ManagerEvent::LeaseExpired { member: member(1) }), []);
    assert_eq!(world.manager.leading_term(), None);
}

#[test]
fn failover_after_a_certificate_shares_one_consensus_write() {
    let mut world = World::established();
    let event = ManagerEvent::DeathCertified { member: member(1), incarnation: life(1) };
    let actions = world.step(event);
    let certify = Command::CertifyDeath { member: member(1), incarnation: life(1) };
    let reason = ActivationReason::DeathCertified;
    assert_eq!(proposals(&actions), [Command::Batch(vec![certify, allocate(1, reason.clone())])]);
    assert_eq!(others(&actions), [seal(2, 2), seal(3, 2)], "nobody answers on member 1");
    assert_eq!(world.sealed(2, 2, end(1, 10)), []);
    let actions = world.sealed(3, 2, end(1, 20));
    let item = bound(&actions);
    assert_eq!((item.target, item.required_end), (copy(3), end(1, 20)));
    assert_eq!(item.rule, rule(2, 3, CommitConstraint::SecondCopy, &[2, 3]));
    assert_eq!((item.decision.reason.clone(), item.decision.attempt), (reason, 1));
    assert!(item.decision.verdict.is_lossless());
    let (at, order) = mount(&actions);
    assert_eq!((at, order.required_end), (member(3), end(1, 20)));
    assert_eq!(order.sources.iter().map(|s| s.copy).collect::<Vec<_>>(), [copy(2)]);
    let established = world.mounted(2);
    assert_eq!(proposals(&established).len(), 1);
    assert_eq!(world.database().unestablished.len(), 1);
}

#[test]
fn failover_after_expiry_does_not_wait_for_the_dead() {
    let mut world = World::established();
    let actions = world.step(ManagerEvent::LeaseExpired { member: member(1) });
    let both = vec![silence(1, true), allocate(1, ActivationReason::LeaseExpired)];
    assert_eq!(proposals(&actions), [Command::Batch(both)]);
    assert_eq!(others(&actions), [seal(1, 2), seal(2, 2), seal(3, 2)]);
    world.sealed(2, 2, end(1, 10));
    let actions = world.sealed(3, 2, end(1, 10));
    assert_eq!(bound(&actions).target, copy(2));
    assert!(world.log.state.members[&member(1)].is_gone(), "its copies are not waited for");
    assert_eq!(proposals(&world.alive(1)), [silence(1, false)]);
    assert!(!world.log.state.members[&member(1)].is_gone());
}

/// The note that a member's lease ran out, or was granted again.
fn silence(n: u128, silent: bool) -> Command {
    Command::NoteSilence { member: member(n), incarnation: life(n), silent }
}

/// The member was heard between the proposal of its silence and the record of it; it is
/// reported alive only once.
#[test]
fn a_silence_recorded_after_its_member_was_heard_again_is_taken_back() {
    let mut world = World::established();
    world.alive(2);
    world.log.ok(&silence(2, true));
    world.raw(ManagerEvent::Applied).into_iter().for_each(|action| {
        if let ManagerAction::Propose { command, .. } = action {
            world.log.apply(&command);
        }
    });
    assert_eq!(world.log.state.members[&member(2)].silent, None);
}

#[test]
fn a_slow_live_copy_is_waited_for_until_the_deadline() {
    let mut world = World::established();
    let certified = ManagerEvent::DeathCertified { member: member(1), incarnation: life(1) };
    let actions = world.raw(certified);
    let deadline = world.now.after(ms(300));
    let ManagerAction::Propose { tag, command } = actions[0].clone() else {
        panic!("the first action proposes");
    };
    let outcome = world.log.apply(&command);
    let actions = world.raw(ManagerEvent::CommandDone { tag, outcome });
    assert_eq!(actions.last(), Some(&ManagerAction::Wake { at: deadline }));
    // Copies 2 and 3 count: with copy 2 alone the proof passes, since 1 needed one of them.
    world.log.state.databases.get_mut(&DB).expect("exists").unestablished[0].rule =
        rule(1, 1, CommitConstraint::AllCopies, &[1, 2, 3]);
    assert_eq!(world.sealed(2, 2, end(1, 10)), []);
    assert_eq!(world.later(ms(299)).step(ManagerEvent::Timer), []);
    let actions = world.later(ms(1)).step(ManagerEvent::Timer);
    assert_eq!(bound(&actions).rule.participants.len(), 1);
}

#[test]
fn a_hundred_databases_travel_in_one_message() {
    let mut world = World::established();
    for n in 2..=100 {
        world.log.ok(&create(n, &[1, 2, 3]));
    }
    let actions = world.step(ManagerEvent::Applied);
    let [Command::AllocateEpochs(items)] = &proposals(&actions)[..] else {
        panic!("one AllocateEpochs: {actions:?}");
    };
    assert_eq!(items.len(), 99);
    let seals = |actions: &[ManagerAction]| -> Vec<(MemberId, Vec<SealItem>)> {
        let seals = actions.iter().filter_map(|action| match action {
            ManagerAction::SealMany { member, items } => Some((*member, items.clone())),
            _ => None,
        });
        seals.collect()
    };
    let first = seals(&actions);
    let counts: Vec<_> = first.iter().map(|(member, items)| (*member, items.len())).collect();
    assert_eq!(counts, [(member(1), 64), (member(2), 64), (member(3), 64)]);
    let answers = |n: u128, items: &[SealItem]| ManagerEvent::SealReplies {
        member: member(n),
        answers: items.iter().map(|item| answer_of(n, *item)).collect(),
    };
    assert_eq!(world.step(answers(1, &first[0].1)), []);
    assert_eq!(world.step(answers(2, &first[1].1)), []);
    let actions = world.step(answers(3, &first[2].1));
    let activates: Vec<_> = proposals(&actions);
    let [Command::Activate(items)] = &activates[..] else {
        panic!("one Activate: {activates:?}");
    };
    assert_eq!(items.len(), 64);
    let mounts = actions.iter().filter(|a| matches!(a, ManagerAction::Mount { .. })).count();
    assert_eq!(mounts, 64);
    assert_eq!(seals(&actions), [], "member 1 mounts 64 at a time");
    let done = |item: &ActivateItem| ManagerEvent::MountResult {
        database: item.database,
        epoch: item.epoch,
        result: Ok(()),
    };
    let next: usize = items.iter().map(|item| seals(&world.step(done(item))).len()).sum();
    assert_eq!(next, 35 * 3, "each place that becomes free is taken by a queued database");
}

#[test]
fn a_place_that_becomes_free_is_taken_in_the_same_step() {
    let mut world = World::established();
    world.manager.config.activations_per_member_max = 1;
    world.log.ok(&create(3, &[1, 2, 3]));
    assert_eq!(others(&world.step(ManagerEvent::Applied)).len(), 3);
    world.log.ok(&create(2, &[1, 2, 3]));
    assert_eq!(others(&world.step(ManagerEvent::Applied)), [], "no place for it");
    let (database, epoch) = (keelson_types::DatabaseId::from_u128(3), epoch(1));
    for n in 1..=3 {
        let answers = vec![answer_of(n, SealItem { database, epoch })];
        world.step(ManagerEvent::SealReplies { member: member(n), answers });
    }
    let actions = world.later(ms(10_000)).step(ManagerEvent::Timer);
    assert_eq!(actions.len(), 3, "database 3 is late; database 2 was looked at before it");
}

fn answer_of(n: u128, item: SealItem) -> SealAnswer {
    let database = u128::from_be_bytes(item.database.into_bytes());
    let copy = crate::testing::copy_of(database, n);
    let reply = crate::SealReply { copy, ..reply(n, item.epoch, LogEnd::ZERO) };
    SealAnswer { database: item.database, epoch: item.epoch, result: Ok(reply) }
}

#[test]
fn answers_say_what_was_refused() {
    let refused = Outcome::Refused(crate::Refusal::new(
        keelson_types::RefusalReason::NoLeader,
        "not the leader",
    ));
    assert!(refused.into_result().is_err());
    assert_eq!(Outcome::Ok(Answer::Done).into_result(), Ok(Answer::Done));
}
