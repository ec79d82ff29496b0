//! Which names count as members here, for what their certificates may do.
//!
//! The applied state says it, as long as it is not old. A member that was away may have missed that
//! another one was added, and that one may lead by now: it must be heard, or the news of it never
//! comes. So a name that is not in the state is a stranger's only while a leader is heard that this
//! member knows, or if it was seen to leave in this life. What such a message may hold is checked
//! by consensus; orders are not taken from whom the state does not name.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use keelson_net::{Membership, Standing};
use keelson_types::Tick;

use crate::clock;
use crate::context::Context;

/// A leader with a majority hears from it within this.
const MAJORITY_DEADLINE: Duration = Duration::from_millis(500);

/// What was heard and seen of the other members in this life.
#[derive(Debug, Default)]
pub(crate) struct Neighbours {
    /// When a known leader was heard last, in boottime nanoseconds.
    heard: AtomicU64,
    names: Mutex<Names>,
}

#[derive(Debug, Default)]
struct Names {
    present: BTreeSet<String>,
    left: BTreeSet<String>,
}

impl Names {
    /// These are the members now. Who left while the news was old may have come back since.
    fn are(&mut self, now: BTreeSet<String>, fresh: bool) {
        if fresh {
            self.left.extend(self.present.difference(&now).cloned());
        }
        self.left.retain(|name| !now.contains(name));
        self.present = now;
    }
}

impl Neighbours {
    fn names(&self) -> MutexGuard<'_, Names> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn heard(&self) -> Tick {
        Tick(self.heard.load(Ordering::Relaxed))
    }
}

/// What is known of a name.
#[derive(Clone, Copy)]
struct Known {
    /// This member belongs to a cluster.
    cluster: bool,
    /// The applied state has the name.
    applied: bool,
    /// The consensus has a node of this name: about to be removed, or just added.
    node: bool,
    /// It was seen to leave.
    left: bool,
    /// A leader is heard that is known.
    fresh: bool,
}

fn standing(known: Known) -> Standing {
    match known {
        // Nothing is here yet that somebody could take.
        Known { cluster: false, .. } | Known { applied: true, .. } => Standing::Member,
        Known { node: true, .. } => Standing::Unheard,
        Known { left: true, .. } | Known { fresh: true, .. } => Standing::Stranger,
        _ => Standing::Unheard,
    }
}

impl Context {
    /// The leader that sent something is `name`.
    pub(crate) fn heard_leader(&self, name: &str) {
        if self.has_member(name) {
            self.neighbours.heard.store(clock::now().0, Ordering::Relaxed);
        }
    }

    fn look_who_is_here(&self) {
        let mut names = self.neighbours.names();
        let now: BTreeSet<_> = self.applied.read(|state| {
            state.members.values().map(|member| member.config.name.to_string()).collect()
        });
        if now != names.present {
            names.are(now, self.hears_a_leader());
        }
    }

    fn has_member(&self, name: &str) -> bool {
        self.applied.read(|state| state.member_named(name).is_some())
    }

    /// Whether a leader that is known leads this member, and not long ago.
    fn hears_a_leader(&self) -> bool {
        let silence = clock::now().since(self.neighbours.heard());
        silence < self.timings.election_max || self.is_leader()
    }

    /// The leader that this member heard not long ago, or is with a majority; empty for none.
    pub(crate) async fn heard_leader_name(&self) -> String {
        let Some((id, node)) = self.leader().filter(|_| self.hears_a_leader()) else {
            return String::new();
        };
        // A leader without a majority goes on to believe that it leads.
        let confirmed = tokio::time::timeout(MAJORITY_DEADLINE, self.confirm_leader());
        if id == self.node && !confirmed.await.is_ok_and(|led| led.is_ok()) {
            return String::new();
        }
        node.name
    }

    fn has_node(&self, name: &str) -> bool {
        let metrics = self.raft.server_metrics();
        let metrics = metrics.borrow();
        let mut nodes = metrics.membership_config.membership().nodes();
        nodes.any(|(_, node)| node.name == name)
    }
}

impl Membership for Context {
    fn standing(&self, name: &str) -> Standing {
        let cluster = self.cluster.get().is_some();
        if !cluster || self.has_member(name) {
            return Standing::Member;
        }
        standing(Known {
            cluster,
            applied: false,
            node: self.has_node(name),
            left: self.neighbours.names().left.contains(name),
            fresh: self.hears_a_leader(),
        })
    }
}

/// Follows the applied state until the control plane stops.
pub(crate) async fn follow(context: Arc<Context>) {
    let mut applied = context.applied.watch();
    loop {
        context.look_who_is_here();
        if applied.changed().await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STRANGE: Known =
        Known { cluster: true, applied: false, node: false, left: false, fresh: true };

    #[test]
    fn a_name_is_a_strangers_only_for_who_knows_the_cluster_as_it_is() {
        for (known, expected) in [
            (Known { cluster: false, fresh: false, ..STRANGE }, Standing::Member),
            (Known { applied: true, left: true, ..STRANGE }, Standing::Member),
            (STRANGE, Standing::Stranger),
            (Known { fresh: false, ..STRANGE }, Standing::Unheard),
            (Known { fresh: false, left: true, ..STRANGE }, Standing::Stranger),
            (Known { node: true, ..STRANGE }, Standing::Unheard),
        ] {
            assert_eq!(standing(known), expected);
        }
    }

    #[test]
    fn who_was_seen_to_leave_is_remembered_until_it_comes_back() {
        let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let mut names = Names::default();
        names.are(set(&["m1", "m2", "m3"]), false);
        names.are(set(&["m1", "m3"]), false);
        assert!(names.left.is_empty(), "what is replayed may be long past");
        names.are(set(&["m1"]), true);
        assert_eq!(names.left, set(&["m3"]));
        names.are(set(&["m1", "m4"]), true);
        assert_eq!(names.left, set(&["m3"]));
        names.are(set(&["m1", "m3"]), true);
        assert_eq!(names.left, set(&["m4"]));
    }
}
