//! The active side: peers, acknowledgements, commit, serving, hold.
//!
//! Nothing is committed in an epoch before its opening frame is: `committed` jumps from what former
//! epochs committed to at least the end of the opening frame (R2).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use keelson_types::{CommitRule, CopyId, Epoch, MemberId, Position, Tick, Weakness};

use crate::ceiling::CeilingState;
use crate::event::{Action, Assignment};
use crate::machine::{CopyMachine, Role};
use crate::outcome::{OpenRefusal, StopReason};
use crate::rule_change::RuleState;

/// How long a refused offer waits before it is made again, the first time.
const OFFER_AGAIN_MILLIS: u64 = 200;
/// How often that pause doubles for a copy that refuses again and again: to 3.2 s.
const OFFER_DOUBLINGS_MAX: u32 = 4;

/// The state of an epoch at its active copy.
#[derive(Debug)]
pub(crate) struct Active {
    pub(crate) epoch: Epoch,
    pub(crate) waiting: Vec<u64>,
    pub(crate) opening_end: Position,
    pub(crate) established: bool,
    pub(crate) serving: bool,
    pub(crate) held_since: Option<Tick>,
    pub(crate) rule: RuleState,
    pub(crate) ceiling: CeilingState,
    pub(crate) peers: BTreeMap<CopyId, Peer>,
}

/// Another copy, as the active sees it.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) member: MemberId,
    /// It wants no log now.
    pub(crate) suspended: bool,
    pub(crate) link: PeerLink,
    /// Offers refused, or taken in vain, one after the other, and not because it was busy at the
    /// moment.
    pub(crate) refusals: u32,
    /// Durable there in this epoch; stays true when the session breaks.
    pub(crate) durable: Position,
    /// Since when it has something to acknowledge and does not.
    pub(crate) silent_since: Option<Tick>,
}

/// What the active knows of another copy, for status pages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PeerView {
    /// The copy.
    pub copy: CopyId,
    /// Its member.
    pub member: MemberId,
    /// Frames flow and acknowledgements count.
    pub matched: bool,
    /// Durable there, in this epoch.
    pub durable: Position,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum PeerLink {
    /// No session.
    Down,
    /// The offer is out.
    Offered,
    /// Refused; offered again at this tick.
    Refused(Tick),
    /// Frames flow.
    Matched,
}

impl Peer {
    /// What a copy refused before it will mostly refuse again: the pause grows. A busy one is free
    /// soon.
    fn refused(&mut self, now: Tick, busy: bool) {
        self.refusals = if busy { 0 } else { self.refusals.saturating_add(1) };
        let doublings = self.refusals.saturating_sub(1).min(OFFER_DOUBLINGS_MAX);
        let pause = Duration::from_millis(OFFER_AGAIN_MILLIS << doublings);
        self.link = PeerLink::Refused(now.after(pause));
    }
}

impl Active {
    pub(crate) fn new(
        epoch: Epoch,
        rule: CommitRule,
        opening_end: Position,
        waiting: Vec<u64>,
    ) -> Self {
        Self {
            epoch,
            waiting,
            opening_end,
            established: false,
            serving: false,
            held_since: None,
            rule: RuleState::new(rule),
            ceiling: CeilingState::default(),
            peers: BTreeMap::new(),
        }
    }

    /// The highest position that satisfies `rule`, given what is durable where.
    pub(crate) fn reach(&self, rule: &CommitRule, own: Position) -> Position {
        let mut ends: Vec<_> = self.peers.values().map(|peer| peer.durable.min(own)).collect();
        ends.push(own);
        ends.sort_unstable();
        ends.dedup();
        let holds = |end: &Position| {
            let peers = self.peers.iter().filter(|(_, peer)| peer.durable >= *end);
            let mut durable: BTreeSet<_> = peers.map(|(copy, _)| *copy).collect();
            durable.insert(rule.active);
            rule.satisfied_by(&durable)
        };
        ends.into_iter().rev().find(holds).unwrap_or(Position::ZERO)
    }

    pub(crate) fn next_wake(&self, assignment: Option<&Assignment>) -> Option<Tick> {
        let assignment = assignment?;
        let held = self.held_since.map(|since| since.after(assignment.dismount_after));
        let silent = assignment.degrade_after.and_then(|patience| {
            let counted = self.peers.iter().filter(|(copy, _)| self.rule.may_drop(**copy));
            counted.filter_map(|(_, peer)| peer.silent_since).min().map(|t| t.after(patience))
        });
        let refused = self.peers.values().filter_map(|peer| match peer.link {
            PeerLink::Refused(again) => Some(again),
            PeerLink::Down | PeerLink::Offered | PeerLink::Matched => None,
        });
        held.into_iter().chain(silent).chain(refused).min()
    }
}

impl CopyMachine {
    pub(crate) fn become_active(&mut self, mut active: Active, out: &mut Vec<Action>) {
        active.held_since = self.lease_lost_at;
        self.role = Role::Active(Box::new(active));
        self.sync_peers(out);
    }

    /// Makes the peers those of the assignment, and offers the log to the new ones.
    pub(crate) fn sync_peers(&mut self, out: &mut Vec<Action>) {
        let Role::Active(active) = &mut self.role else { return };
        let Some(assignment) = &self.assignment else { return };
        let others = assignment.copies.iter().filter(|c| c.copy != self.config.copy);
        let wanted: BTreeMap<_, _> = others.map(|c| (c.copy, (c.member, c.suspended))).collect();
        let gone: Vec<_> =
            active.peers.keys().filter(|copy| !wanted.contains_key(copy)).copied().collect();
        for copy in gone {
            active.peers.remove(&copy);
            out.push(Action::ClosePeer { copy });
        }
        for (copy, (member, suspended)) in wanted {
            let peer = active.peers.entry(copy).or_insert_with(|| Peer {
                member,
                suspended,
                link: PeerLink::Down,
                refusals: 0,
                durable: Position::ZERO,
                silent_since: None,
            });
            peer.suspended = suspended;
            if suspended && peer.link != PeerLink::Down {
                peer.link = PeerLink::Down;
                out.push(Action::ClosePeer { copy });
            }
        }
        let connected = self.connected.clone();
        for member in connected {
            self.offer(member, out);
        }
    }

    fn offer(&mut self, member: MemberId, out: &mut Vec<Action>) {
        let Role::Active(active) = &mut self.role else { return };
        let epoch = active.epoch;
        for (copy, peer) in &mut active.peers {
            if peer.member == member && peer.link == PeerLink::Down && !peer.suspended {
                peer.link = PeerLink::Offered;
                out.push(Action::OpenPeer { copy: *copy, member, epoch });
            }
        }
    }

    pub(crate) fn peer_up(&mut self, member: MemberId, out: &mut Vec<Action>) {
        self.connected.insert(member);
        self.offer(member, out);
    }

    pub(crate) fn peer_down(&mut self, member: MemberId) {
        self.connected.remove(&member);
        if let Role::Active(active) = &mut self.role {
            for peer in active.peers.values_mut().filter(|peer| peer.member == member) {
                (peer.link, peer.refusals) = (PeerLink::Down, 0);
            }
        }
    }

    pub(crate) fn peer_opened(
        &mut self,
        now: Tick,
        copy: CopyId,
        epoch: Epoch,
        matched: Position,
        chain_matches: bool,
        out: &mut Vec<Action>,
    ) {
        let Some(peer) = self.peer(copy, epoch) else { return };
        if peer.link != PeerLink::Offered {
            return;
        }
        if !chain_matches {
            peer.refused(now, false);
            return;
        }
        // Whether it goes on this time is seen when it acknowledges more than before.
        peer.link = PeerLink::Matched;
        let member = peer.member;
        out.push(Action::ShipFrom { copy, member, epoch, from: matched });
    }

    pub(crate) fn peer_acked(&mut self, now: Tick, copy: CopyId, epoch: Epoch, durable: Position) {
        if let Some(peer) = self.peer(copy, epoch)
            && durable > peer.durable
        {
            (peer.durable, peer.refusals) = (durable, 0);
            peer.silent_since = peer.silent_since.map(|_| now);
        }
    }

    pub(crate) fn peer_refused(
        &mut self,
        now: Tick,
        copy: CopyId,
        epoch: Epoch,
        refusal: &OpenRefusal,
        out: &mut Vec<Action>,
    ) {
        let Some(peer) = self.peer(copy, epoch) else { return };
        if peer.link == PeerLink::Matched {
            out.push(Action::ClosePeer { copy });
        }
        if peer.link != PeerLink::Down {
            peer.refused(now, *refusal == OpenRefusal::Busy);
        }
    }

    fn peer(&mut self, copy: CopyId, epoch: Epoch) -> Option<&mut Peer> {
        match &mut self.role {
            Role::Active(active) if active.epoch == epoch => active.peers.get_mut(&copy),
            Role::Idle | Role::Passive(_) | Role::Activating(_) | Role::Active(_) => None,
        }
    }

    pub(crate) fn lease_lost(&mut self, now: Tick, out: &mut Vec<Action>) {
        let lost_at = *self.lease_lost_at.get_or_insert(now);
        let Role::Active(active) = &mut self.role else { return };
        active.held_since.get_or_insert(lost_at);
        if self.config.weakness == Weakness::ExpiryDismounts {
            // H12: the naive answer to a blink.
            self.lease_gone(out);
        }
    }

    pub(crate) fn lease_back(&mut self) {
        self.lease_lost_at = None;
        if let Role::Active(active) = &mut self.role {
            active.held_since = None;
        }
    }

    fn lease_gone(&mut self, out: &mut Vec<Action>) {
        if let Some(epoch) = self.own_epoch() {
            self.stop(StopReason::LeaseGone, out);
            self.give_up(epoch, StopReason::LeaseGone, out);
        }
    }

    /// Everything that time and acknowledgements bring about.
    pub(crate) fn active_upkeep(&mut self, now: Tick, out: &mut Vec<Action>) {
        if self.hold_is_over(now) {
            self.lease_gone(out);
        }
        self.offer_again(now, out);
        self.advance_commit(out);
        self.note_silence(now);
        self.change_rule(now, out);
        self.advance_commit(out);
        self.keep_ceiling(out);
        self.serve_when_replayed(out);
    }

    fn hold_is_over(&self, now: Tick) -> bool {
        let (Role::Active(active), Some(assignment)) = (&self.role, &self.assignment) else {
            return false;
        };
        active.held_since.is_some_and(|since| since.after(assignment.dismount_after) <= now)
    }

    fn offer_again(&mut self, now: Tick, out: &mut Vec<Action>) {
        let Role::Active(active) = &mut self.role else { return };
        let due = |peer: &&mut Peer| matches!(peer.link, PeerLink::Refused(at) if at <= now);
        let mut members = BTreeSet::new();
        for peer in active.peers.values_mut().filter(due) {
            peer.link = PeerLink::Down;
            members.insert(peer.member);
        }
        for member in members.intersection(&self.connected.clone()) {
            self.offer(*member, out);
        }
    }

    fn advance_commit(&mut self, out: &mut Vec<Action>) {
        let own = self.durable;
        let Role::Active(active) = &mut self.role else { return };
        if own.epoch != active.epoch && self.config.weakness != Weakness::ResumeAfterRestart {
            return; // The opening frame is not durable yet.
        }
        let required = active.rule.required();
        let reach = required.map(|rule| active.reach(rule, own.position)).min();
        let reach = active.below_ceiling(reach.unwrap_or(Position::ZERO));
        if reach < active.opening_end || reach <= self.committed && active.established {
            return;
        }
        self.committed = self.committed.max(reach);
        out.push(Action::Commit(self.committed));
        if !active.established {
            active.established = true;
            out.push(Action::Established { epoch: active.epoch });
        }
    }

    fn note_silence(&mut self, now: Tick) {
        let own = self.durable.position;
        if let Role::Active(active) = &mut self.role {
            for peer in active.peers.values_mut() {
                match peer.durable < own {
                    true => peer.silent_since.get_or_insert(now),
                    false => {
                        peer.silent_since = None;
                        continue;
                    }
                };
            }
        }
    }

    /// Serving starts once the store holds everything up to the opening frame.
    pub(crate) fn serve_when_replayed(&mut self, out: &mut Vec<Action>) {
        let replayed = self.replayed;
        if let Role::Active(active) = &mut self.role
            && active.established
            && !active.serving
            && replayed >= active.opening_end
        {
            active.serving = true;
            out.push(Action::Serve { epoch: active.epoch });
            out.extend(
                active
                    .waiting
                    .drain(..)
                    .map(|request| Action::MountReply { request, answer: Ok(()) }),
            );
        }
    }
}
