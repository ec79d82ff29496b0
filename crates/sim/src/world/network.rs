//! Links, datagrams between control processes, sessions between data processes.
//!
//! A session is FIFO and without gaps: a lost message breaks it. Both ends learn of that at
//! different times, and a new session is made only when both have.

use std::collections::{BTreeMap, BTreeSet};

use super::{Happening, World, member_index};
use crate::copy_node::Moment;
use crate::messages::{ControlMessage, DataMessage};
use crate::params::MS;
use keelson_types::MemberId;

/// Two members, the lower first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Pair(usize, usize);

impl Pair {
    pub(crate) fn new(a: usize, b: usize) -> Self {
        Self(a.min(b), a.max(b))
    }

    pub(crate) fn other(self, one: usize) -> usize {
        if one == self.0 { self.1 } else { self.0 }
    }

    fn both(self) -> [usize; 2] {
        [self.0, self.1]
    }
}

#[derive(Debug)]
pub(crate) struct Session {
    id: u64,
    /// Arrival of the last message, by sender.
    last: BTreeMap<usize, u64>,
    /// Senders whose messages are lost from now on.
    deaf: BTreeSet<usize>,
    /// Ends that were not told yet that it is over.
    untold: Option<BTreeSet<usize>>,
}

/// The links of the cluster.
pub(crate) struct Network {
    /// Directions in which nothing passes.
    pub(crate) cut: BTreeSet<(usize, usize)>,
    /// Directions in which no session passes; another network than that of the control processes.
    pub(crate) data_cut: BTreeSet<(usize, usize)>,
    /// Directions in which sessions wait, and how many frame messages still pass.
    pub(crate) held: BTreeMap<(usize, usize), usize>,
    pub(crate) held_messages: Vec<(usize, usize, Happening)>,
    pub(crate) sessions: BTreeMap<Pair, Session>,
    /// Datagrams of these names from these members are lost.
    pub(crate) mute: BTreeSet<(usize, &'static str)>,
    members: usize,
}

impl Network {
    pub(crate) fn new(members: usize) -> Self {
        Self {
            cut: BTreeSet::new(),
            data_cut: BTreeSet::new(),
            held: BTreeMap::new(),
            held_messages: Vec::new(),
            sessions: BTreeMap::new(),
            mute: BTreeSet::new(),
            members,
        }
    }

    pub(crate) fn passes(&self, from: usize, to: usize) -> bool {
        from == to || !self.cut.contains(&(from, to))
    }

    fn session_passes(&self, from: usize, to: usize) -> bool {
        self.passes(from, to) && !self.data_cut.contains(&(from, to))
    }

    pub(crate) fn both_ways(&self, a: usize, b: usize) -> bool {
        self.passes(a, b) && self.passes(b, a)
    }
}

impl World {
    pub(crate) fn session_id(&self, pair: Pair) -> Option<u64> {
        self.network.sessions.get(&pair).map(|session| session.id)
    }

    pub(crate) fn net_delay(&mut self) -> u64 {
        let delay = self.between(self.params.net_delay);
        // Now and then a message takes much longer.
        if self.random.chance(1, 100) { delay * (1 + self.random.below(5)) } else { delay }
    }

    fn is_lost(&mut self) -> bool {
        !self.healing && self.random.chance(self.params.loss, 10_000)
    }

    pub(crate) fn datagram_to(&mut self, from: usize, to: usize, message: ControlMessage) {
        if self.network.mute.contains(&(from, message.name())) {
            return;
        }
        if from == to {
            self.after(MS / 20, Happening::Datagram { from, to, message });
            return;
        }
        if !self.network.passes(from, to) || self.is_lost() {
            return;
        }
        let delay = self.net_delay();
        self.after(delay, Happening::Datagram { from, to, message });
    }

    /// Makes the sessions that are missing.
    pub(crate) fn connect(&mut self) {
        for a in 0..self.network.members {
            for b in a + 1..self.network.members {
                let pair = Pair::new(a, b);
                let ready =
                    |m: usize| self.machines[m].data.is_some() && !self.machines[m].data_paused;
                let free = !self.network.sessions.contains_key(&pair);
                let passes = self.network.session_passes(a, b) && self.network.session_passes(b, a);
                if free && ready(a) && ready(b) && passes {
                    self.open_session(pair);
                }
            }
        }
        self.after(50 * MS, Happening::Connect);
    }

    fn open_session(&mut self, pair: Pair) {
        let id = self.fresh();
        let mut last = BTreeMap::new();
        for member in pair.both() {
            let at = self.now + self.net_delay();
            last.insert(pair.other(member), at);
            self.at(at, Happening::SessionNotice { pair, id, member, up: true });
        }
        let session = Session { id, last, deaf: BTreeSet::new(), untold: None };
        self.network.sessions.insert(pair, session);
    }

    pub(crate) fn break_session(&mut self, pair: Pair, id: u64) {
        let Some(session) = self.network.sessions.get_mut(&pair) else { return };
        if session.id != id || session.untold.is_some() {
            return;
        }
        let ends = pair.both();
        session.untold = Some(ends.into_iter().collect());
        // Nobody hears of the end before the beginning.
        let begun = ends.map(|member| session.last.get(&pair.other(member)).copied().unwrap_or(0));
        self.network.held_messages.retain(|(a, b, _)| Pair::new(*a, *b) != pair);
        for (member, begun) in ends.into_iter().zip(begun) {
            let at = (self.now + self.between((MS, 30 * MS))).max(begun + 1);
            self.at(at, Happening::SessionNotice { pair, id, member, up: false });
        }
    }

    pub(crate) fn break_sessions_of(&mut self, member: usize) {
        let pairs: Vec<_> = self.network.sessions.iter().map(|(p, s)| (*p, s.id)).collect();
        for (pair, id) in pairs {
            if pair.both().contains(&member) {
                self.break_session(pair, id);
            }
        }
    }

    pub(crate) fn session_notice(&mut self, pair: Pair, id: u64, member: usize, up: bool) {
        let Some(session) = self.network.sessions.get_mut(&pair).filter(|s| s.id == id) else {
            return;
        };
        if !up {
            let untold = session.untold.get_or_insert_default();
            untold.remove(&member);
            if untold.is_empty() {
                self.network.sessions.remove(&pair);
            }
        }
        let peer = pair.other(member);
        let Some(data) = &mut self.machines[member].data else { return };
        let known = data.peers.get(&peer) == Some(&id);
        if up == known {
            return;
        }
        if up {
            data.peers.insert(peer, id);
        } else {
            data.peers.remove(&peer);
        }
        self.note(format_args!(
            "m{member}: session {id} with m{peer} {}",
            if up { "up" } else { "down" }
        ));
        let peer = super::member_id(peer);
        self.each_copy(member, |copy, moment: &mut Moment<'_>| {
            if up { copy.session_up(moment, peer) } else { copy.session_down(moment, peer) }
        });
    }

    pub(crate) fn session_send(
        &mut self,
        from: usize,
        to: MemberId,
        database: usize,
        message: DataMessage,
    ) {
        let to = member_index(to);
        let (pair, delay, lost) = (Pair::new(from, to), self.net_delay(), self.is_lost());
        let known = self.machines[from].data.as_ref().and_then(|data| data.peers.get(&to)).copied();
        let passes = self.network.session_passes(from, to) && !lost;
        let Some(session) = self.network.sessions.get_mut(&pair) else { return };
        let id = session.id;
        if known != Some(id) || session.untold.is_some() || session.deaf.contains(&from) {
            return;
        }
        if !passes {
            session.deaf.insert(from);
            let delay = self.between((100 * MS, 500 * MS));
            self.after(delay, Happening::SessionBreak { pair, id });
            return;
        }
        let last = session.last.entry(from).or_default();
        *last = (self.now + delay).max(*last + 1);
        let arrival = *last;
        let frames =
            matches!(message, DataMessage::Frames { .. } | DataMessage::FetchFrames { .. });
        let happening = Happening::Session { pair, id, from, database, message };
        match self.network.held.get_mut(&(from, to)) {
            Some(left) if *left > 0 || !frames => {
                *left = left.saturating_sub(usize::from(frames));
                if self.network.held_messages.iter().any(|(a, b, _)| (*a, *b) == (from, to)) {
                    self.network.held_messages.push((from, to, happening));
                } else {
                    self.at(arrival, happening);
                }
            }
            Some(_) => self.network.held_messages.push((from, to, happening)),
            None => self.at(arrival, happening),
        }
    }

    pub(crate) fn session_message(
        &mut self,
        pair: Pair,
        id: u64,
        from: usize,
        (database, message): (usize, DataMessage),
    ) {
        let to = pair.other(from);
        let open = self.network.sessions.get(&pair).is_some_and(|s| s.id == id);
        let known = self.machines[to].data.as_ref().and_then(|data| data.peers.get(&from));
        if !open || known != Some(&id) {
            return;
        }
        self.note(format_args!("m{from}>m{to} db{database} {}", message.name()));
        let from = super::member_id(from);
        self.with_copy(to, database, |copy, moment| copy.message(moment, from, message));
    }
}
