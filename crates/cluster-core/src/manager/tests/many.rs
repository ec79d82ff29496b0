//! Many databases, and a manager that looks only at those of which something changed: every step of
//! these worlds is compared with one that looks at all ([`World::raw`]).

use keelson_types::{DatabaseId, MountIntent};

use super::*;
use crate::member::MemberActivation;
use crate::testing::{Dice, copy_of};

/// Whom a seal or a mount asked, and who will answer some time.
#[derive(Clone, Debug)]
enum Asked {
    Seal(u128, Vec<SealItem>),
    Mount(DatabaseId, keelson_types::Epoch),
    Outcome(u64, Outcome),
}

struct Many {
    world: World,
    dice: Dice,
    asked: Vec<Asked>,
    members: u128,
    databases: u128,
}

impl Many {
    fn new(seed: u64) -> Self {
        let (members, databases) = (6, 25);
        let mut world = World::new(Weakness::None);
        world.log = Log::with_members(members);
        for n in 1..=databases {
            let (a, b, c) = (n % 6 + 1, (n + 1) % 6 + 1, (n + 3) % 6 + 1);
            world.log.ok(&create(n, &[a, b, c]));
        }
        let mut many = Self { world, dice: Dice(seed), asked: Vec::new(), members, databases };
        many.tell(ManagerEvent::BecameLeader { term: 1 });
        many.world.manager.config.activations_per_member_max = 3;
        (1..=members).for_each(|n| many.hear(n));
        many
    }

    fn hear(&mut self, n: u128) {
        let incarnation = self.world.log.state.members[&member(n)].incarnation;
        let incarnation = incarnation.unwrap_or(life(n));
        self.tell(ManagerEvent::MemberAlive { member: member(n), incarnation });
    }

    /// One step; what it asks for is answered later, in any order, or never.
    fn tell(&mut self, event: ManagerEvent) {
        for action in self.world.raw(event) {
            match action {
                ManagerAction::Propose { tag, command } => {
                    let lost = self.dice.one_in(8);
                    let outcome = match lost {
                        true => Outcome::Refused(crate::Refusal::new(
                            keelson_types::RefusalReason::NoLeader,
                            "not proposed",
                        )),
                        false => self.world.log.apply(&command),
                    };
                    self.asked.push(Asked::Outcome(tag, outcome));
                }
                ManagerAction::SealMany { member, items } => {
                    let n = u128::from_be_bytes(member.into_bytes());
                    self.asked.push(Asked::Seal(n, items));
                }
                ManagerAction::Mount { order, .. } => {
                    self.asked.push(Asked::Mount(order.database, order.epoch));
                }
                ManagerAction::Dismount { database, epoch, .. } => {
                    self.tell(ManagerEvent::Dismounted { database, epoch });
                }
                ManagerAction::Wake { .. } | ManagerAction::FinishOperation { .. } => {}
            }
        }
    }

    fn answer_one(&mut self) {
        if self.asked.is_empty() {
            return;
        }
        let place = self.dice.below(self.asked.len());
        match self.asked.swap_remove(place) {
            Asked::Outcome(tag, outcome) => self.tell(ManagerEvent::CommandDone { tag, outcome }),
            Asked::Seal(n, _) if self.dice.one_in(6) => {
                self.tell(ManagerEvent::SealFailed { member: member(n) });
            }
            Asked::Seal(n, items) => {
                let answers = items.iter().map(|item| answer_of(n, *item)).collect();
                self.tell(ManagerEvent::SealReplies { member: member(n), answers });
            }
            Asked::Mount(database, epoch) if self.dice.one_in(6) => {
                let failure = MountFailure::Timeout;
                let result = Err(failure);
                self.tell(ManagerEvent::MountResult { database, epoch, result });
            }
            Asked::Mount(database, epoch) => {
                self.tell(ManagerEvent::MountResult { database, epoch, result: Ok(()) });
                self.tell(ManagerEvent::EstablishedReported { database, epoch });
            }
        }
    }

    fn something_happens(&mut self) {
        let n = self.dice.below(usize::try_from(self.members).expect("few")) as u128 + 1;
        let m = self.dice.below(usize::try_from(self.databases).expect("few")) as u128 + 1;
        let (member, database) = (member(n), DatabaseId::from_u128(m));
        let log = &self.world.log.state;
        let incarnation = log.members[&member].incarnation.unwrap_or(life(n));
        let epoch = log.databases[&database].epoch;
        let operation = OperationId::from_u128(self.dice.below(1_000_000) as u128);
        match self.dice.below(14) {
            0 => self.tell(ManagerEvent::LeaseExpired { member }),
            1 => self.tell(ManagerEvent::DeathCertified { member, incarnation }),
            2 => {
                let incarnation = keelson_types::IncarnationId::from_u128(
                    1_000 + self.dice.below(1_000_000) as u128,
                );
                let start = Command::StartIncarnation { member, incarnation };
                self.apply(&start);
                self.apply(&Command::ConfirmIncarnation { member, previous: life(n) });
                self.hear(n);
            }
            3 | 4 => self.hear(n),
            5 => self.tell(ManagerEvent::Wedged { database, epoch }),
            6 => {
                let to = self.dice.below(6) as u128 + 1;
                let (to, options) = (super::member(to), crate::MoveOptions::default());
                self.tell(ManagerEvent::MoveRequested { operation, database, to, options });
            }
            7 => {
                let max_active = [None, Some(2), Some(5)][self.dice.below(3)];
                let activation = MemberActivation { max_active, ..MemberActivation::default() };
                self.apply(&Command::SetActivation { member, activation });
            }
            8 => self.tell(ManagerEvent::DismountRequested { operation, database }),
            9 => {
                let accept_loss = None;
                self.tell(ManagerEvent::MountRequested { operation, database, accept_loss });
            }
            10 => {
                let intent = [MountIntent::Mounted, MountIntent::Dismounted][self.dice.below(2)];
                self.apply(&Command::SetMountIntent { database, intent });
            }
            11 => {
                let copy = copy_of(m, n);
                let leaving = Some(self.dice.one_in(2));
                let (preference, lag) = (Some(7), None);
                self.apply(&Command::SetCopy { database, copy, preference, leaving, lag });
            }
            12 if self.dice.one_in(10) => {
                self.tell(ManagerEvent::LostLeadership);
                self.asked.clear();
                self.tell(ManagerEvent::BecameLeader { term: 2 });
            }
            _ => {
                self.world.later(ms(self.dice.below(400) as u64));
                self.tell(ManagerEvent::Timer);
            }
        }
    }

    fn apply(&mut self, command: &Command) {
        self.world.log.apply(command);
        self.tell(ManagerEvent::Applied);
    }
}

#[test]
fn what_did_not_change_need_not_be_looked_at() {
    let (mut bound, mut stuck) = (0, 0);
    for seed in 0..30 {
        let mut many = Many::new(seed);
        for _ in 0..600 {
            match many.dice.below(5) {
                0 => many.something_happens(),
                _ => many.answer_one(),
            }
            stuck += usize::from(many.world.manager.activations().count() > 10);
        }
        bound += many.world.log.state.active_counts().values().sum::<u32>();
    }
    assert!(bound > 100 && stuck > 100, "much happened: {bound}, {stuck}");
}
