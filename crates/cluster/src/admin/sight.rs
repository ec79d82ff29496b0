//! What a caller may know of. A reader or a writer that is limited to some databases hears of no
//! others: their names may tell as much as their data.

use keelson_net::{PeerIdentity, peer_of};
use keelson_wire::Refusal;
use keelson_wire::v1::TopologyResponse;
use tonic::Request;

/// Who looks at an answer.
pub(super) struct Sight(PeerIdentity);

impl Sight {
    /// That of whoever sent the request.
    ///
    /// # Errors
    /// `unauthenticated` if nobody vouches for the sender.
    pub(super) fn of<T>(request: &Request<T>) -> Result<Self, Refusal> {
        peer_of(request).cloned().map(Self)
    }

    /// What is left of an answer. Members stay: clients find them here, and so each other.
    pub(super) fn shown(self, answer: TopologyResponse) -> TopologyResponse {
        let Self(peer) = self;
        let databases = answer.databases.into_iter();
        TopologyResponse {
            databases: databases.filter(|database| peer.may_know(&database.name)).collect(),
            limited: peer.is_limited(),
            ..answer
        }
    }
}

#[cfg(test)]
mod tests {
    use keelson_net::Role;
    use keelson_wire::v1::{TopologyDatabase, TopologyMember};

    use super::*;

    fn shown(role: Role, databases: &[&str]) -> TopologyResponse {
        let databases = databases.iter().map(|name| (*name).to_owned()).collect();
        let mut request = Request::new(());
        request.extensions_mut().insert(PeerIdentity { role, databases, ..Default::default() });
        let database = |name: &str| TopologyDatabase { name: name.into(), ..Default::default() };
        let answer = TopologyResponse {
            members: vec![TopologyMember::default()],
            databases: vec![database("DB1"), database("DB10"), database("DB2")],
            ..TopologyResponse::default()
        };
        Sight::of(&request).unwrap().shown(answer)
    }

    #[test]
    fn a_limited_caller_hears_of_its_own_databases_and_of_all_members() {
        for (role, databases, expected, limited) in [
            (Role::Reader, &["DB1", "DB9"][..], &["DB1"][..], true),
            (Role::Writer, &["DB2"], &["DB2"], true),
            (Role::Reader, &[], &["DB1", "DB10", "DB2"], false),
            (Role::Operator, &[], &["DB1", "DB10", "DB2"], false),
            (Role::Admin, &[], &["DB1", "DB10", "DB2"], false),
            (Role::Member, &[], &["DB1", "DB10", "DB2"], false),
        ] {
            let answer = shown(role.clone(), databases);
            let names: Vec<_> = answer.databases.iter().map(|one| one.name.as_str()).collect();
            assert_eq!((&names[..], answer.limited), (expected, limited), "{role}");
            assert_eq!(answer.members.len(), 1);
        }
    }

    #[test]
    fn somebody_unknown_sees_nothing() {
        assert!(Sight::of(&Request::new(())).is_err());
    }
}
