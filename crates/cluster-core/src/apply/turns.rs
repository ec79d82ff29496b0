//! What an activation at an instant changes in the configuration of copies, and how it is undone.

use std::collections::{BTreeMap, BTreeSet};

use keelson_types::{CopyId, MemberId, SuspendedBy, Suspension};

use crate::command::ActivateItem;
use crate::point_in_time::{Turn, TurnedBack};
use crate::state::Database;

impl Database {
    /// Records the turn of a target that is bound: the holders of what is discarded are suspended
    /// before anybody is offered the new log, and the target goes on. An activation of a log that
    /// does not contain the newest turn means that this one came to nothing, or was given up.
    pub(super) fn turn(&mut self, item: &ActivateItem, now_unix_ms: u64) {
        match &item.turn {
            Some(turn) => self.begin_turn(item.target, turn, now_unix_ms),
            None => {
                let holds_it = |t: &TurnedBack| item.required_end.epoch >= t.epoch;
                if let Some(turned) = self.turned_back.take_if(|turned| !holds_it(turned)) {
                    self.turned_back = turned.former.map(|former| *former).filter(holds_it);
                }
            }
        }
    }

    fn begin_turn(&mut self, target: CopyId, turn: &Turn, now_unix_ms: u64) {
        let mut before = BTreeMap::new();
        let Turn { discard, holders, .. } = turn;
        let comment = format!("log behind {} is given up by epoch {}", discard.kept, discard.epoch);
        for (id, config) in &mut self.copies {
            let stopped = holders.contains(id);
            // What stopped it stays: it has to be resumed for that all the same.
            let failed = config.is_stopped() && config.suspension.by == SuspendedBy::Fault;
            if (!stopped || failed) && *id != target {
                continue;
            }
            let suspension = match *id == target {
                true => Suspension::NONE,
                false => config.suspension.holding(*discard, &comment, now_unix_ms),
            };
            before.insert(*id, std::mem::replace(&mut config.suspension, suspension));
        }
        let known = self.turned_back.take();
        let same = known.as_ref().is_some_and(|t| t.operation == turn.operation && !t.established);
        self.turned_back = Some(match known {
            // A later attempt goes on with what an earlier one began.
            Some(known) if same && discard.epoch == known.epoch => TurnedBack { before, ..known },
            known => TurnedBack {
                operation: turn.operation,
                copy: target,
                epoch: discard.epoch,
                kept: discard.kept,
                resync_others: turn.resync_others,
                established: false,
                before,
                former: match known {
                    Some(known) if known.established => Some(Box::new(known)),
                    known => known.and_then(|known| known.former),
                },
            },
        });
    }

    /// The opening frame behind the instant is committed. What the target held of discarded
    /// timelines is the truth again, up to the instant, and what lies behind was discarded anew by
    /// this turn: so nobody need keep it for its own sake any more.
    pub(super) fn turn_established(&mut self) {
        let Some(turned) = &mut self.turned_back else { return };
        (turned.established, turned.former) = (true, None);
        let before = std::mem::take(&mut turned.before);
        let held = before.get(&turned.copy).map(|suspension| suspension.held.as_slice());
        let again: BTreeSet<_> = held.iter().copied().flatten().map(|h| h.discard.epoch).collect();
        for config in self.copies.values_mut() {
            config.suspension.held.retain(|held| !again.contains(&held.discard.epoch));
        }
    }

    /// An epoch begins before the newest turn is known to have come to its opening frame: what it
    /// stopped is as it was. If it did, the next target stops it again. Gives the copies that go
    /// on.
    pub(super) fn take_back_turn(&mut self) -> Vec<(MemberId, CopyId)> {
        let turned = self.turned_back.as_mut().filter(|turned| !turned.established);
        let before = turned.map(|turned| std::mem::take(&mut turned.before)).unwrap_or_default();
        let mut released = Vec::new();
        for (id, suspension) in before {
            if let Some(config) = self.copies.get_mut(&id) {
                let goes_on = config.is_stopped() && suspension.replication.is_none();
                config.suspension = suspension;
                released.extend(goes_on.then_some((config.member, id)));
            }
        }
        released
    }
}
