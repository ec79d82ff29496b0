//! The leader's side of the leases.

use std::collections::BTreeMap;
use std::time::Duration;

use keelson_types::{IncarnationId, MemberId, Tick, Weakness};

use super::{Grant, LeaseConfig, LeaseRefusal};
use crate::member::Member;
use crate::state::ClusterState;

/// A lease as granted in this leadership.
#[derive(Clone, Copy, Debug)]
struct Entry {
    incarnation: IncarnationId,
    until: Tick,
}

/// A leadership.
#[derive(Clone, Copy, Debug)]
struct Leading {
    /// No lease granted by a predecessor runs beyond this.
    inherited_until: Tick,
}

/// A member's request for a lease, as the leader sees it.
#[derive(Clone, Copy, Debug)]
pub struct RenewRequest<'a> {
    /// The member in the leader's applied state.
    pub member: &'a Member,
    /// The life that asks.
    pub incarnation: IncarnationId,
    /// When the leader sent the newest heartbeat that a quorum acknowledged; for a cluster of one
    /// voter, now.
    pub last_quorum_ack: Option<Tick>,
    /// Whether the leader has applied the first entry of its own term.
    pub applied_own_term: bool,
}

/// What the leader granted, per member. Forgotten with the leadership.
#[derive(Clone, Debug)]
pub struct LeaseTable {
    config: LeaseConfig,
    weakness: Weakness,
    leading: Option<Leading>,
    entries: BTreeMap<MemberId, Entry>,
    /// Newest incarnation per member that was certified or released, until the state shows it.
    ended: BTreeMap<MemberId, IncarnationId>,
    /// Members reported by [`Self::expired`] and not granted since: the recorded life and when.
    reported: BTreeMap<MemberId, (Option<IncarnationId>, Tick)>,
    /// Lives granted for the first time, not yet taken by [`Self::take_alive`].
    alive: BTreeMap<MemberId, IncarnationId>,
    /// Of all leaderships of this process: the end of the last lease, and when the heartbeat was
    /// sent on which the newest one rests.
    granted: (Tick, Option<Tick>),
}

impl LeaseTable {
    /// A table of a member that does not lead.
    #[must_use]
    pub fn new(config: LeaseConfig, weakness: Weakness) -> Self {
        Self {
            config,
            weakness,
            leading: None,
            entries: BTreeMap::new(),
            ended: BTreeMap::new(),
            reported: BTreeMap::new(),
            alive: BTreeMap::new(),
            granted: (Tick(0), None),
        }
    }

    /// When the newest heartbeat was sent on which this process granted a lease. Until the loyalty
    /// is over it votes for nobody, whether it leads or not.
    #[must_use]
    pub const fn granted_on(&self) -> Option<Tick> {
        self.granted.1
    }

    /// Begins a leadership. `largest_lease` is the largest lease that a predecessor may have
    /// granted (at least the configured one counts, so shortening a lease never shortens this
    /// wait).
    pub fn became_leader(&mut self, now: Tick, largest_lease: Duration) {
        let wait = self.config.for_inheriting(largest_lease.max(self.config.lease));
        self.lost_leadership();
        // Its own grants of before bind it whole: it was no voter that fell silent.
        self.leading = Some(Leading { inherited_until: now.after(wait).max(self.granted.0) });
    }

    /// Ends the leadership: nothing is granted any more.
    pub fn lost_leadership(&mut self) {
        self.leading = None;
        self.entries.clear();
        self.ended.clear();
        self.reported.clear();
        self.alive.clear();
    }

    /// Grants or renews a lease.
    ///
    /// # Errors
    /// Why nothing is granted; the holder keeps what it has until it runs out.
    pub fn renew(&mut self, now: Tick, request: &RenewRequest<'_>) -> Result<Grant, LeaseRefusal> {
        if self.leading.is_none() {
            return Err(LeaseRefusal::NotLeader);
        }
        if !request.applied_own_term {
            return Err(LeaseRefusal::TermNotApplied);
        }
        let duration = self.grantable(now, request.last_quorum_ack)?;
        self.check_incarnation(now, request.member, request.incarnation)?;
        let id = request.member.config.id;
        let earlier = self.entries.get(&id).filter(|e| e.incarnation == request.incarnation);
        let continued = earlier.is_some();
        let until = now.after(duration).max(earlier.map_or(Tick(0), |entry| entry.until));
        self.entries.insert(id, Entry { incarnation: request.incarnation, until });
        let waited = now.after(self.config.for_waiting(duration));
        self.granted = (self.granted.0.max(waited), self.granted.1.max(request.last_quorum_ack));
        if self.reported.remove(&id).is_some() || !continued {
            self.alive.insert(id, request.incarnation);
        }
        let revision = request.member.assignment_revision;
        Ok(Grant { incarnation: request.incarnation, duration, revision })
    }

    /// How long a grant may be: never beyond (send time of the last quorum-acknowledged heartbeat +
    /// lease), so that a deposed leader's grants are over before a successor moves anything (R7,
    /// S6).
    fn grantable(&self, now: Tick, ack: Option<Tick>) -> Result<Duration, LeaseRefusal> {
        if self.weakness == Weakness::RenewWithoutQuorum {
            // H6: renews for as long as it believes that it leads.
            return Ok(self.config.lease);
        }
        let bound = ack.ok_or(LeaseRefusal::NoQuorum)?.min(now).after(self.config.lease);
        let remainder = bound.since(now);
        if remainder.is_zero() { Err(LeaseRefusal::NoQuorum) } else { Ok(remainder) }
    }

    /// Only the recorded incarnation, never an ended one, and not before its predecessor's lease is
    /// over.
    fn check_incarnation(
        &self,
        now: Tick,
        member: &Member,
        incarnation: IncarnationId,
    ) -> Result<(), LeaseRefusal> {
        if member.stopped.is_some() {
            return Err(LeaseRefusal::Stopped);
        }
        let ended = self.ended.get(&member.config.id) == Some(&incarnation);
        if ended || member.certified_dead.contains(&incarnation) {
            return Err(LeaseRefusal::Ended);
        }
        if member.incarnation != Some(incarnation) {
            return Err(LeaseRefusal::NotRecorded);
        }
        if self.weakness == Weakness::NewIncarnationEndsLease {
            // H14: whoever comes last is believed; a clone and its original serve together (S9.3).
            return Ok(());
        }
        let entry = self.entries.get(&member.config.id);
        let other = entry.filter(|e| e.incarnation != incarnation && e.until > now);
        let other = other.filter(|entry| !self.is_ended(member, entry.incarnation));
        let unconfirmed = member.previous.filter(|previous| !self.is_ended(member, *previous));
        if other.is_some() || unconfirmed.is_some() {
            let inherited = self.leading.map(|leading| leading.inherited_until);
            let until = other.map(|entry| entry.until).or(inherited);
            return Err(LeaseRefusal::WaitsForPredecessor { until });
        }
        Ok(())
    }

    fn is_ended(&self, member: &Member, incarnation: IncarnationId) -> bool {
        self.ended.get(&member.config.id) == Some(&incarnation)
            || member.certified_dead.contains(&incarnation)
    }

    /// Whether a new life of a member may be recorded (`StartIncarnation`): not while the recorded
    /// one holds, or may hold, a lease; so the original of a cloned directory keeps its place
    /// (H14).
    ///
    /// # Errors
    /// Why it has to wait, or must not come at all.
    pub fn may_start(
        &self,
        now: Tick,
        member: &Member,
        incarnation: IncarnationId,
    ) -> Result<(), LeaseRefusal> {
        if self.is_ended(member, incarnation) {
            return Err(LeaseRefusal::Ended);
        }
        let recorded = member.incarnation == Some(incarnation);
        if recorded || self.weakness == Weakness::NewIncarnationEndsLease {
            return Ok(());
        }
        if self.lease_over(now, member) { Ok(()) } else { Err(LeaseRefusal::SecondHolder) }
    }

    /// Whether no life of the member holds a lease. False while this member does not lead: only a
    /// leader can know.
    #[must_use]
    pub fn lease_over(&self, now: Tick, member: &Member) -> bool {
        let Some(leading) = self.leading else { return false };
        let ended = |incarnation: Option<IncarnationId>| {
            incarnation.is_none_or(|incarnation| self.is_ended(member, incarnation))
        };
        let entry = self.entries.get(&member.config.id);
        let running = entry.is_some_and(|e| e.until > now && !self.is_ended(member, e.incarnation));
        let proven = ended(member.incarnation) && ended(member.previous);
        !running && (proven || now >= leading.inherited_until)
    }

    /// Whether databases may be taken from the member without its consent: its lease is over, and
    /// so is every lease that a predecessor of this leader may have granted it.
    #[must_use]
    pub fn moves_allowed(&self, now: Tick, member: &Member) -> bool {
        self.lease_over(now, member)
    }

    /// Ends the lease of a life that was certified dead, at once. A delayed renewal does not revive
    /// it.
    pub fn certify(&mut self, member: MemberId, incarnation: IncarnationId) {
        self.ended.insert(member, incarnation);
    }

    /// Ends the lease of a life that stopped serving and gave it back.
    pub fn release(&mut self, member: MemberId, incarnation: IncarnationId) {
        self.ended.insert(member, incarnation);
    }

    /// Lives granted for the first time in this leadership, or for the first time after
    /// [`Self::expired`] named their member, each once. The driver turns them into
    /// [`crate::ManagerEvent::MemberAlive`], and steps the manager with it *before* the reply with
    /// the grant leaves.
    pub fn take_alive(&mut self) -> Vec<(MemberId, IncarnationId)> {
        std::mem::take(&mut self.alive).into_iter().collect()
    }

    /// Members that hold no lease, each reported when that becomes so, when it starts a new life,
    /// and again after a lease's time for as long as it lasts: a report that finds nobody is made
    /// good. The driver turns them into [`crate::ManagerEvent::LeaseExpired`].
    pub fn expired(&mut self, now: Tick, state: &ClusterState) -> Vec<MemberId> {
        let over = state.members.values().filter(|member| self.lease_over(now, member));
        let fresh = over.filter(|member| match self.reported.get(&member.config.id) {
            Some((life, at)) => *life != member.incarnation || now.since(*at) >= self.config.lease,
            None => true,
        });
        let fresh: Vec<_> = fresh.map(|m| (m.config.id, (m.incarnation, now))).collect();
        self.reported.extend(fresh.iter().copied());
        fresh.into_iter().map(|(id, _)| id).collect()
    }

    /// When [`Self::expired`] may have something new at the earliest, if nothing is renewed.
    #[must_use]
    pub fn next_expiry(&self, now: Tick) -> Option<Tick> {
        let leading = self.leading?;
        let running = self
            .entries
            .iter()
            .filter(|(id, e)| e.until > now && self.ended.get(id) != Some(&e.incarnation));
        let times = running.map(|(_, entry)| entry.until);
        times.chain(Some(leading.inherited_until)).filter(|at| *at > now).min()
    }
}
