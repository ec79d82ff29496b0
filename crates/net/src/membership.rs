//! Which members count: a certificate of the role member opens nothing by itself, because it
//! outlives the membership that it was issued for.
//!
//! Whoever knows the cluster says how a name stands ([`Membership`]); what follows from that is
//! decided here, once for all services, and before a request reaches any of them:
//!
//! | the name | may, of what its role may |
//! | --- | --- |
//! | belongs to a member | everything |
//! | may be a member's that this process has not heard of | speak consensus, from which it hears |
//! | belongs to nobody | ask who this is |

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use keelson_types::RefusalReason;
use keelson_wire::Refusal;

use crate::{PeerIdentity, Role};

/// How a name stands to the cluster, as far as a process knows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Standing {
    /// A member, or there is no cluster here yet that it could belong to.
    Member,
    /// Not a member so far, but this process may be behind those who added it.
    Unheard,
    /// No member: never added, or removed.
    Stranger,
}

/// Knows the members of the cluster.
pub trait Membership: Send + Sync + 'static {
    /// How this name stands at the moment.
    fn standing(&self, name: &str) -> Standing;
}

/// How often a stream is asked again whose member it is.
const LOOK: Duration = Duration::from_secs(1);

/// Those who know, for a server; without anybody every certificate counts.
#[derive(Clone, Default)]
pub(crate) struct Members(Option<Arc<dyn Membership>>);

impl fmt::Debug for Members {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Members")
    }
}

impl Members {
    pub(crate) fn known_by(membership: Arc<dyn Membership>) -> Self {
        Self(Some(membership))
    }

    fn standing(&self, peer: &PeerIdentity) -> Standing {
        match &self.0 {
            Some(membership) if peer.role == Role::Member => membership.standing(&peer.name),
            _ => Standing::Member,
        }
    }

    /// Whether it is a member's certificate, and that member belongs to the cluster.
    pub(crate) fn counts(&self, peer: &PeerIdentity) -> bool {
        peer.role == Role::Member && self.standing(peer) != Standing::Stranger
    }

    /// Whether a call goes on that the role of the certificate allows.
    ///
    /// # Errors
    /// `unknown_member`; `no_lease`, which is retried, if this process may only be behind.
    pub(crate) fn check(
        &self,
        peer: &PeerIdentity,
        (service, method): (&str, &str),
    ) -> Result<(), Refusal> {
        // A server that starts asks whether its double runs; what it hears is no secret.
        if (service, method) == ("Cluster", "Identify") {
            return Ok(());
        }
        match self.standing(peer) {
            Standing::Member => Ok(()),
            // Its services know more of each call, and refuse orders of whom they do not know.
            Standing::Unheard if service == "Cluster" => Ok(()),
            Standing::Unheard => {
                let what = format!("this process does not know yet whether {peer} is a member");
                Err(Refusal::new(RefusalReason::NoLease, what))
            }
            Standing::Stranger => {
                let what = format!("{peer} is no member of this cluster: never added, or removed");
                Err(Refusal::new(RefusalReason::UnknownMember, what))
            }
        }
    }

    /// Ends when the member has left, and says so.
    pub(crate) async fn left(
        self,
        peer: PeerIdentity,
        call: (&'static str, &'static str),
    ) -> Refusal {
        loop {
            if let Err(refusal) = self.check(&peer, call) {
                return refusal;
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Known(Standing);

    impl Membership for Known {
        fn standing(&self, _: &str) -> Standing {
            self.0
        }
    }

    fn refused(standing: Standing, role: Role, call: (&str, &str)) -> Option<RefusalReason> {
        let members = Members::known_by(Arc::new(Known(standing)));
        let peer = PeerIdentity { name: "m3".into(), role, ..PeerIdentity::default() };
        members.check(&peer, call).err().map(|refusal| refusal.reason)
    }

    #[test]
    fn who_is_no_member_may_ask_who_this_is_and_who_may_be_one_speaks_consensus() {
        let (unknown, later) = (Some(RefusalReason::UnknownMember), Some(RefusalReason::NoLease));
        for (service, method, of_unheard, of_stranger) in [
            ("Cluster", "Identify", None, None),
            ("Cluster", "Join", None, unknown),
            ("Cluster", "AppendEntries", None, unknown),
            ("Cluster", "Vote", None, unknown),
            ("Replication", "FetchSeed", later, unknown),
            ("Admin", "RemoveDatabase", later, unknown),
            ("Operations", "CancelOperation", later, unknown),
        ] {
            let call = (service, method);
            assert_eq!(refused(Standing::Member, Role::Member, call), None, "{call:?}");
            assert_eq!(refused(Standing::Unheard, Role::Member, call), of_unheard, "{call:?}");
            assert_eq!(refused(Standing::Stranger, Role::Member, call), of_stranger, "{call:?}");
            assert_eq!(refused(Standing::Stranger, Role::Admin, call), None, "{call:?}");
        }
    }
}
