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
//! decides otherwise. Whose data a reader or a writer may touch is in the certificate or the token
//! too ([`PeerIdentity::may_use`]) and is checked by the service, which knows the database.
//!
//! What does not say that it is gRPC is answered with HTTP's 415: a browser sends such requests for
//! any page, with the certificate that its user has.
//!
//! Who calls is known by the certificate of the connection, or by a token in the header
//! `authorization` of the call. Tokens never make a member: what members say to each other takes a
//! certificate, and one that counts only while the member belongs to the cluster ([`Members`]).
//!
//! Calls of one client that are under way are bounded, and so are the bytes that it sends
//! ([`Intake`]), so that it does not take the memory of all; those of members are not, because the
//! cluster lives on them.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures::future::{Either, Ready, ready};
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderMap, Request, Response, StatusCode};
use keelson_types::RefusalReason;
use keelson_wire::Refusal;
use tonic::body::Body;
use tonic::{Code, Status};
use tower::Service;
use tracing::Instrument;

use crate::answer::AnswerBody;
use crate::call_meters::{code_of, number_of};
use crate::identity::nobody;
use crate::intake::{Client, Intake};
use crate::limits::CALLS_PER_CLIENT_MAX;
use crate::membership::Members;
use crate::places::{Place, Shares};
use crate::server::Connection;
use crate::spans;
use crate::tokens::Pass;
use crate::{AccessSecret, CallMeters, PeerIdentity, RefusedCalls, Role, TokenBook};

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
            "ListAudit",
            "ListDecisions",
            "ListNetworks",
            "ListVolumes",
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
            "ReplaceVolume",
        ],
        STAFF,
    ),
    ("Operations", &["GetOperation", "ListOperations", "WatchOperation", "CancelOperation"], STAFF),
    // Not even members: what a token may is decided by people.
    ("Admin", &["IssueToken", "ListTokens", "RevokeToken"], ADMIN),
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

/// Calls that are answered with a stream. They end when the token does that they were made with, or
/// the membership.
const STREAMS: &[(&str, &str)] = &[
    ("Kv", "Scan"),
    ("Kv", "Watch"),
    ("Kv", "ReadSalvage"),
    ("Operations", "WatchOperation"),
    ("Replication", "LogSession"),
    ("Replication", "FetchLog"),
    ("Replication", "OpenSeed"),
    ("Replication", "FetchSeed"),
    ("Replication", "Rehearse"),
];

/// What may be asked by somebody unknown.
const OPEN: &str = "/grpc.health.v1.Health/Check";

/// Ends when whoever sent a request may not hear more, and says why not.
pub(crate) type Ended = Pin<Box<dyn Future<Output = Refusal> + Send>>;

/// Who sent a request, and what watches over the answer if it is a stream.
type Admitted = (Option<PeerIdentity>, Option<Ended>);

/// Who sent a request, and the pass of its token.
type Known = (Option<PeerIdentity>, Option<Pass>);

/// Whom a server believes, and how much of each it takes.
#[derive(Clone, Debug)]
pub(crate) struct Gates {
    pub(crate) tokens: Option<TokenBook>,
    pub(crate) members: Members,
    refused: Option<RefusedCalls>,
    meters: CallMeters,
    calls: Shares<Client>,
    intake: Intake,
}

impl Gates {
    pub(crate) fn new(tokens: Option<TokenBook>, members: Members) -> Self {
        let (refused, meters) = (None, CallMeters::default());
        let calls = Shares::new(CALLS_PER_CLIENT_MAX);
        Self { tokens, members, refused, meters, calls, intake: Intake::default() }
    }

    /// Tells who was refused.
    pub(crate) fn with_refused_calls(self, refused: Option<RefusedCalls>) -> Self {
        Self { refused, ..self }
    }

    pub(crate) fn with_meters(self, meters: CallMeters) -> Self {
        Self { meters, ..self }
    }

    /// Who sent a request, and the pass of the token that it shows. A token that is shown decides,
    /// whatever the connection's certificate says; a bad one is never passed over in silence.
    fn identify(&self, headers: &HeaderMap, connection: &Connection) -> Result<Known, Refusal> {
        let Some(secret) = shown_token(headers)? else {
            return Ok((connection.certificate.clone(), None));
        };
        let refused = || {
            let what = "no tokens are taken here: members have certificates";
            Refusal::new(RefusalReason::Unauthenticated, what)
        };
        let (holder, pass) = self.tokens.as_ref().ok_or_else(refused)?.enter(&secret)?;
        connection.vouched();
        Ok((Some(PeerIdentity { address: connection.address, ..holder }), Some(pass)))
    }

    /// Counts a request that was not let in, and answers it.
    fn refuse(&self, number: usize, refusal: Refusal) -> Response<Body> {
        let status = Status::from(refusal);
        self.meters.answered(number, status.code(), Duration::ZERO);
        status.into_http()
    }

    /// Tells the audit of a request that was not let in.
    fn note_refused<B>(&self, request: &Request<B>, connection: &Connection, refusal: &Refusal) {
        let Some(refused) = &self.refused else { return };
        let known = self.identify(request.headers(), connection);
        let stranger = PeerIdentity { address: connection.address, ..PeerIdentity::default() };
        let caller = known.ok().and_then(|(caller, _)| caller).unwrap_or(stranger);
        refused.refused(request.uri().path(), caller, refusal);
    }

    /// What bounds the bytes of a request, and as whose they count; nothing does those of members.
    fn intake(
        &self,
        peer: Option<&PeerIdentity>,
        connection: &Connection,
    ) -> Option<(Intake, Client)> {
        match peer {
            Some(peer) => Some((self.intake.clone(), client_of(peer)?)),
            None => {
                let address = connection.address.map_or_else(String::new, |a| a.ip().to_string());
                Some((self.intake.of_strangers(), (address, false)))
            }
        }
    }

    /// The place of a call among those of its client; members need none.
    ///
    /// # Errors
    /// `overloaded`.
    fn enter(&self, peer: Option<&PeerIdentity>) -> Result<Option<Place<Client>>, Refusal> {
        let Some(client) = peer.and_then(client_of) else { return Ok(None) };
        let place = self.calls.enter(client);
        let full = || {
            let client = peer.map(ToString::to_string).unwrap_or_default();
            let what = format!("{client} has {CALLS_PER_CLIENT_MAX} calls under way here");
            Refusal::new(RefusalReason::Overloaded, what)
        };
        place.map(Some).ok_or_else(full)
    }
}

/// The name under which a client is counted; members are not.
fn client_of(peer: &PeerIdentity) -> Option<Client> {
    (peer.role != Role::Member).then(|| (peer.name.clone(), peer.by_token))
}

/// Whether a request may go on, and whose it is. Reflection is for everybody who is known, health
/// for everybody.
fn admit(
    path: &str,
    headers: &HeaderMap,
    connection: &Connection,
    gates: &Gates,
) -> Result<Admitted, Refusal> {
    let (peer, pass) = gates.identify(headers, connection)?;
    if path == OPEN {
        return Ok((peer, None));
    }
    let Some(known) = &peer else { return Err(nobody()) };
    let Some(call) = path.strip_prefix("/keelson.v1.") else { return Ok((peer, None)) };
    let (service, method) = call.split_once('/').unwrap_or((call, ""));
    if !may_call(&known.role, service, method) {
        let what = format!("{known} may not call {service}.{method}");
        return Err(Refusal::new(RefusalReason::Forbidden, what));
    }
    gates.members.check(known, (service, method))?;
    let stream = STREAMS.iter().find(|stream| **stream == (service, method));
    let ended: Option<Ended> = stream.and_then(|stream| match pass {
        Some(pass) => Some(Box::pin(pass.ended()) as Ended),
        None if known.role == Role::Member => {
            Some(Box::pin(gates.members.clone().left(known.clone(), *stream)))
        }
        None => None,
    });
    Ok((peer, ended))
}

/// Whether a request says that it is one of gRPC.
fn is_grpc(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    kind.is_some_and(|kind| kind.starts_with("application/grpc"))
}

fn not_grpc() -> Response<Body> {
    let mut answer = Response::new(Body::empty());
    *answer.status_mut() = StatusCode::UNSUPPORTED_MEDIA_TYPE;
    answer
}

/// The token of a request, if it shows one.
fn shown_token(headers: &HeaderMap) -> Result<Option<AccessSecret>, Refusal> {
    let mut shown = headers.get_all(AUTHORIZATION).iter();
    let Some(value) = shown.next() else { return Ok(None) };
    let bad = |what: &str| Refusal::new(RefusalReason::Unauthenticated, what);
    if shown.next().is_some() {
        return Err(bad("the header authorization is there twice"));
    }
    let text = value.to_str().ok().and_then(|text| text.split_once(' '));
    let token = text.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
    let (_, token) = token.ok_or_else(|| bad("the header authorization is not: Bearer TOKEN"))?;
    let secret = AccessSecret::parse(token);
    secret.map(Some).map_err(|refused| Refusal::new(refused.reason, refused.message))
}

/// Refuses requests before they reach the service inside.
#[derive(Clone, Debug)]
pub(crate) struct Admission<S> {
    inner: S,
    gates: Gates,
}

impl<S> Admission<S> {
    pub(crate) fn new(inner: S, gates: Gates) -> Self {
        Self { inner, gates }
    }
}

type Answering<E> = Pin<Box<dyn Future<Output = Result<Response<Body>, E>> + Send>>;

impl<S> Service<Request<Body>> for Admission<S>
where
    S: Service<Request<Body>, Response = Response<Body>>,
    S::Future: Send + 'static,
    S::Error: 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Either<Ready<Result<S::Response, S::Error>>, Answering<S::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let (begun, number) = (Instant::now(), number_of(request.uri().path()));
        let unknown = Connection::default();
        let connection = request.extensions().get().unwrap_or(&unknown);
        if !is_grpc(request.headers()) {
            if connection.note_refusal() {
                tracing::debug!(address = ?connection.address, "a request that is not of gRPC");
            }
            self.gates.meters.answered(number, Code::InvalidArgument, Duration::ZERO);
            return Either::Left(ready(Ok(not_grpc())));
        }
        let (path, headers) = (request.uri().path(), request.headers());
        let (peer, ended) = match admit(path, headers, connection, &self.gates) {
            Ok(admitted) => admitted,
            Err(refusal) => {
                if connection.note_refusal() {
                    tracing::info!(%refusal, "refused");
                }
                self.gates.note_refused(&request, connection, &refusal);
                return Either::Left(ready(Ok(self.gates.refuse(number, refusal))));
            }
        };
        let place = match self.gates.enter(peer.as_ref()) {
            Ok(place) => place,
            Err(refusal) => {
                // Not louder: whoever asks too much would fill the log, too.
                tracing::debug!(%refusal, "refused");
                return Either::Left(ready(Ok(self.gates.refuse(number, refusal))));
            }
        };
        let intake = self.gates.intake(peer.as_ref(), connection);
        let span = spans::of_call(request.uri().path(), request.headers(), peer.as_ref());
        // Services know who asks, and need no secret.
        request.headers_mut().remove(AUTHORIZATION);
        if let Some((intake, client)) = intake {
            request = request.map(|body| intake.bounded(&client, body));
        }
        if let Some(peer) = peer {
            request.extensions_mut().insert(peer);
        }
        let answer = self.inner.call(request).instrument(span.clone());
        let meters = self.gates.meters.clone();
        Either::Right(Box::pin(async move {
            let mut answer = answer.await?;
            let code = code_of(answer.headers());
            meters.answered(number, code, begun.elapsed());
            spans::answered(&span, code);
            let kept = answer.extensions_mut().remove();
            if ended.is_none() && place.is_none() && kept.is_none() {
                return Ok(answer);
            }
            Ok(answer.map(|inner| Body::new(AnswerBody::new(inner, ended, place, kept))))
        }))
    }
}

#[cfg(test)]
mod tests;
