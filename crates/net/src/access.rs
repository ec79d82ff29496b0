//! What each role may call: one table for all services, enforced before a request reaches any of
//! them.
//!
//! | role | may |
//! | --- | --- |
//! | member | everything of `Cluster` and `Replication`, `Admin`, `Operations` |
//! | admin | everything but what members say to each other |
//! | operator | look at everything but data; move, open, suspend, seed, scrub |
//! | writer | read and write data, and ask whether copies follow |
//! | reader | read data |
//!
//! A call that the table does not name needs an administrator: a new one is closed until somebody
//! decides otherwise. Whose data a reader or a writer may touch is in the certificate too
//! ([`PeerIdentity::may_use`]) and is checked by the service, which knows the database.

use std::task::{Context, Poll};

use futures::future::{Either, Ready, ready};
use http::{Request, Response};
use keelson_types::RefusalReason;
use keelson_wire::Refusal;
use tonic::Status;
use tonic::body::Body;
use tower::Service;

use crate::{PeerIdentity, Role};

const MEMBER: u8 = 1;
const ADMIN: u8 = 2;
const OPERATOR: u8 = 4;
const WRITER: u8 = 8;
const READER: u8 = 16;
const STAFF: u8 = MEMBER | ADMIN | OPERATOR;
const ANYBODY: u8 = STAFF | WRITER | READER;
const DATA_READERS: u8 = ADMIN | WRITER | READER;
const DATA_WRITERS: u8 = ADMIN | WRITER;

/// Calls that more or others than the default of their service may make.
const CALLS: &[(&str, &[&str], u8)] = &[
    ("Kv", &["Get", "Scan", "Watch", "Search", "Durability"], DATA_READERS),
    ("Kv", &["OpenSession", "Put", "Delete", "DeleteRange", "Write"], DATA_WRITERS),
    ("Admin", &["Topology"], ANYBODY),
    ("Admin", &["GuaranteeHealth", "GuaranteeFlush"], STAFF | WRITER),
    (
        "Admin",
        &[
            "ClusterStatus",
            "ShowDatabase",
            "CopyStatus",
            "PreviewMount",
            "PreviewActivation",
            "ListForks",
            "ListSettings",
            "ListEvents",
            "ListDecisions",
            "ListNetworks",
            "ExplainDecision",
            "Health",
            "Redundancy",
            "CompareDigests",
        ],
        STAFF,
    ),
    (
        "Admin",
        &[
            "MountDatabase",
            "DismountDatabase",
            "Switchover",
            "MoveDatabases",
            "Redistribute",
            "BeginMaintenance",
            "EndMaintenance",
            "ChangeSite",
            "SuspendCopy",
            "ResumeCopy",
            "SeedCopy",
            "RepairCopy",
            "ScrubCopies",
        ],
        STAFF,
    ),
    ("Operations", &["GetOperation", "ListOperations", "WatchOperation", "CancelOperation"], STAFF),
    // Facts are for status pages, and hold no data.
    ("Cluster", &["MemberFacts"], STAFF),
];

/// Who may call what the table does not name.
fn by_default(service: &str) -> u8 {
    match service {
        "Cluster" | "Replication" => MEMBER,
        "Admin" | "Operations" => MEMBER | ADMIN,
        _ => ADMIN,
    }
}

fn bit(role: &Role) -> u8 {
    match role {
        Role::Member => MEMBER,
        Role::Admin => ADMIN,
        Role::Operator => OPERATOR,
        Role::Writer => WRITER,
        Role::Reader => READER,
        Role::Other(_) => 0,
    }
}

/// Whether `role` may call `method` of one of our services (without its package).
#[must_use]
pub fn may_call(role: &Role, service: &str, method: &str) -> bool {
    let named = CALLS.iter().find(|(of, methods, _)| *of == service && methods.contains(&method));
    let allowed = named.map_or_else(|| by_default(service), |(_, _, allowed)| *allowed);
    allowed & bit(role) != 0
}

/// Whether a request for `path` may go on. Health and reflection are for everybody who showed a
/// certificate.
fn admit(path: &str, peer: Option<&PeerIdentity>) -> Result<(), Refusal> {
    let forbidden = |what: String| Err(Refusal::new(RefusalReason::Forbidden, what));
    let Some(call) = path.strip_prefix("/keelson.v1.") else { return Ok(()) };
    let Some(peer) = peer else {
        return forbidden("the caller showed no client certificate".into());
    };
    let (service, method) = call.split_once('/').unwrap_or((call, ""));
    if may_call(&peer.role, service, method) {
        return Ok(());
    }
    forbidden(format!("{peer} may not call {service}.{method}"))
}

/// Refuses requests before they reach the service inside.
#[derive(Clone, Debug)]
pub(crate) struct Admission<S> {
    inner: S,
}

impl<S> Admission<S> {
    pub(crate) fn new(inner: S) -> Self {
        Self { inner }
    }
}

impl<S, B> Service<Request<B>> for Admission<S>
where
    S: Service<Request<B>, Response = Response<Body>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Either<Ready<Result<S::Response, S::Error>>, S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        match admit(request.uri().path(), request.extensions().get()) {
            Ok(()) => Either::Right(self.inner.call(request)),
            Err(refusal) => {
                tracing::info!(%refusal, "refused");
                Either::Left(ready(Ok(Status::from(refusal).into_http())))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use prost::Message;
    use prost_types::FileDescriptorSet;

    use super::*;

    #[test]
    fn the_table_names_calls_that_exist_and_each_once() {
        let set = FileDescriptorSet::decode(keelson_wire::DESCRIPTORS).unwrap();
        let services = set.file.iter().flat_map(|file| &file.service);
        let calls: Vec<_> = services
            .flat_map(|service| service.method.iter().map(|m| (service.name(), m.name())))
            .collect();
        let mut seen = Vec::new();
        for (service, methods, _) in CALLS {
            for method in *methods {
                assert!(calls.contains(&(service, method)), "{service}.{method} does not exist");
                assert!(!seen.contains(&(service, method)), "{service}.{method} is named twice");
                seen.push((service, method));
            }
        }
    }

    #[test]
    fn who_showed_nothing_or_an_unknown_role_gets_health_only() {
        let peer = |role| PeerIdentity { name: "x".into(), role, ..PeerIdentity::default() };
        let check = "/grpc.health.v1.Health/Check";
        let other = peer(Role::Other("ops".into()));
        assert!(admit(check, None).is_ok() && admit(check, Some(&other)).is_ok());
        for peer in [None, Some(&other)] {
            let refusal = admit("/keelson.v1.Kv/Get", peer).unwrap_err();
            assert_eq!(refusal.reason, RefusalReason::Forbidden);
        }
        assert!(admit("/keelson.v1.Kv/Get", Some(&peer(Role::Reader))).is_ok());
        assert!(admit("/keelson.v1.Kv", Some(&peer(Role::Reader))).is_err());
    }
}
