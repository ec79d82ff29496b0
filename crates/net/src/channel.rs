//! Channels to other members: one connection each, made when first needed and again after it broke.
//!
//! A failed attempt is followed by a pause (20 ms, doubling to 1 s, with jitter) in which calls
//! fail at once with the same reason, so that nobody waits for a member that is known to be down.
//! Attempts run in a task of their own: a caller that gives up does not take the attempt with it. A
//! call that could not be sent is repeated once on a new connection; one that was sent never is.
//!
//! Once the caller has a new certificate a new connection is made beside the old one, which takes
//! the calls until then and keeps those under way: a server ends the connections of clients with
//! the certificates that they began with.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant, SystemTime};

use http::header::AUTHORIZATION;
use http::uri::{Authority, Scheme};
use http::{Request, Response, Uri};
use keelson_types::RefusalReason;
use keelson_wire::Refusal;
use rand::Rng;
use rustls::sign::CertifiedKey;
use tokio::sync::watch;
use tonic::Status;
use tonic::body::Body;

use crate::connect::{Connection, connect};
use crate::failure::ConnectFailureKind;
use crate::limits::{BACKOFF_MAX, BACKOFF_MIN};
use crate::spans;
use crate::{ConnectFailure, Credentials, Expect, TlsStore};

/// What a connection is for. Each lane to an address has a connection of its own, so that bulk data
/// never delays heartbeats.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Lane {
    /// Consensus, leases, orders, requests of clients.
    Control,
    /// Log sessions.
    Log,
    /// Fetching log in bulk, seeding.
    Bulk,
}

/// Pause after a new certificate was refused while the connection of the old one is open.
const RENEWAL_PAUSE: Duration = Duration::from_secs(30);

type Channels = BTreeMap<(String, Expect, Lane), PeerChannel>;

/// Makes and keeps channels. Cheap to clone; clones share the channels.
#[derive(Clone)]
pub struct Connector {
    tls: Arc<TlsStore>,
    channels: Arc<Mutex<Channels>>,
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connector").finish_non_exhaustive()
    }
}

impl Connector {
    /// A connector that shows the certificate of `tls`.
    #[must_use]
    pub fn new(tls: Arc<TlsStore>) -> Self {
        Self { tls, channels: Arc::default() }
    }

    /// When the certificate that is shown now expires.
    #[must_use]
    pub fn certificate_expires(&self) -> SystemTime {
        self.tls.current().not_after()
    }

    /// The channel to `address` (`host:port`). Nothing is dialled before the first call.
    #[must_use]
    pub fn channel(&self, address: &str, expect: Expect, lane: Lane) -> PeerChannel {
        let key = (address.to_owned(), expect.clone(), lane);
        let mut channels = lock(&self.channels);
        let make = || PeerChannel::new(self.tls.clone(), address, expect);
        channels.entry(key).or_insert_with(make).clone()
    }

    /// Forgets all channels to `address`, after a member left or moved. Calls under way go on.
    pub fn forget(&self, address: &str) {
        lock(&self.channels).retain(|(known, _, _), _| known != address);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Default)]
struct State {
    connection: Option<Connection>,
    /// The certificate that the connection began with.
    shown: Option<Arc<CertifiedKey>>,
    /// A newer one that a server refused, and when to show it again; the connection is as it was.
    refused: Option<(Arc<CertifiedKey>, Instant)>,
    /// Set while an attempt is under way; the sender is dropped when it ended.
    attempt: Option<watch::Receiver<()>>,
    failure: Option<ConnectFailure>,
    failures: u32,
    retry_at: Option<Instant>,
}

struct Shared {
    credentials: Credentials,
    address: String,
    expect: Expect,
    state: Mutex<State>,
}

/// A channel for tonic's generated clients: `KvClient::new(channel)`. Cheap to clone; clones share
/// the connection.
///
/// Errors are [`Status`] with the details of a [`Refusal`]: `unreachable` and `bad_certificate` if
/// the call was certainly not sent, `connection_lost` if it may have been carried out. A timeout
/// set with `Request::set_timeout` covers connecting too and ends as `deadline_exceeded`.
#[derive(Clone)]
pub struct PeerChannel {
    shared: Arc<Shared>,
}

impl fmt::Debug for PeerChannel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeerChannel").field("address", &self.shared.address).finish()
    }
}

impl PeerChannel {
    /// A channel outside a [`Connector`]'s cache.
    #[must_use]
    pub fn new(credentials: impl Into<Credentials>, address: &str, expect: Expect) -> Self {
        let (credentials, state) = (credentials.into(), Mutex::default());
        let shared = Shared { credentials, address: address.to_owned(), expect, state };
        Self { shared: Arc::new(shared) }
    }

    /// The address dialled.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.shared.address
    }

    /// Connects now, unless connected, without regard to the pause after a failure.
    ///
    /// # Errors
    /// Why there is no connection.
    pub async fn connect(&self) -> Result<(), ConnectFailure> {
        lock(&self.shared.state).retry_at = None;
        self.connection().await.map(|_| ())
    }

    /// Whether a connection is open at the moment.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        lock(&self.shared.state).is_open()
    }

    /// The open connection, or the outcome of the attempt under way, or the last failure.
    async fn connection(&self) -> Result<Connection, ConnectFailure> {
        let mut waited = false;
        loop {
            let mut attempt = {
                let mut state = lock(&self.shared.state);
                if let Some(connection) = state.connection.clone() {
                    if !connection.is_closed() {
                        self.renew(&mut state);
                        return Ok(connection);
                    }
                    state.connection = None;
                }
                match (&state.attempt, &state.failure) {
                    (Some(attempt), _) => attempt.clone(),
                    (None, Some(failure)) if waited || pausing(&state) => {
                        return Err(failure.clone());
                    }
                    (None, _) => self.start(&mut state),
                }
            };
            // An error says that the attempt has ended.
            while attempt.changed().await.is_ok() {}
            waited = true;
        }
    }

    /// Starts an attempt if there is a newer certificate than that of the open connection.
    fn renew(&self, state: &mut State) {
        let Some(now) = self.shared.credentials.certificate() else { return };
        let is_old = state.shown.as_ref().is_some_and(|shown| !Arc::ptr_eq(shown, &now));
        let waits = |(key, until): &(_, Instant)| Arc::ptr_eq(key, &now) && Instant::now() < *until;
        if is_old && state.attempt.is_none() && !state.refused.as_ref().is_some_and(waits) {
            self.start(state);
        }
    }

    fn start(&self, state: &mut State) -> watch::Receiver<()> {
        let (ended, attempt) = watch::channel(());
        state.attempt = Some(attempt.clone());
        let shared = self.shared.clone();
        tokio::spawn(async move {
            let attempt = Attempt { shared, ended: Some(ended) };
            let shown = attempt.shared.credentials.shown();
            let outcome = connect(&attempt.shared.address, &attempt.shared.expect, &shown).await;
            attempt.finish(outcome, shown.key);
        });
        attempt
    }

    async fn send(&self, mut request: Request<Body>) -> Result<Response<Body>, Status> {
        address_request(&mut request, &self.shared.address)?;
        if let Some(token) = self.shared.credentials.header() {
            request.headers_mut().insert(AUTHORIZATION, token);
        }
        let mut repeated = false;
        loop {
            let mut connection = self.connection().await?;
            match connection.try_send_request(request).await {
                Ok(response) => return Ok(response.map(Body::new)),
                Err(mut error) => {
                    let unsent = error.take_message();
                    match unsent {
                        Some(unsent) if !repeated => request = unsent,
                        unsent => return Err(self.lost(&error.into_error(), unsent.is_none())),
                    }
                    repeated = true;
                }
            }
        }
    }

    fn lost(&self, cause: &hyper::Error, sent: bool) -> Status {
        let address = &self.shared.address;
        if !sent {
            let what = format!("the connection to {address} was closed before the call was sent");
            return Refusal::new(RefusalReason::Unreachable, what).into();
        }
        let what = format!("the connection to {address} broke: {}", chain(cause));
        Refusal::new(RefusalReason::ConnectionLost, what).into()
    }
}

/// An attempt under way. Dropping it, even by a panic, wakes everybody who waits for it.
struct Attempt {
    shared: Arc<Shared>,
    ended: Option<watch::Sender<()>>,
}

impl Attempt {
    fn finish(
        &self,
        outcome: Result<Connection, ConnectFailure>,
        shown: Option<Arc<CertifiedKey>>,
    ) {
        let mut state = lock(&self.shared.state);
        match outcome {
            Ok(connection) => {
                state.failures = 0;
                state.failure = None;
                state.retry_at = None;
                state.connection = Some(connection);
                state.shown = shown;
            }
            Err(failure) if state.is_open() => {
                let is_new =
                    |key| state.refused.as_ref().is_none_or(|(was, _)| !Arc::ptr_eq(was, key));
                if shown.as_ref().is_some_and(is_new) {
                    tracing::warn!(%failure, "a new certificate opens no connection yet");
                }
                state.refused = shown.map(|key| (key, Instant::now() + renewal_pause(&failure)));
            }
            Err(failure) => {
                if state.failures == 0 {
                    tracing::debug!(%failure, "cannot connect");
                }
                state.fail(failure);
            }
        }
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        let mut state = lock(&self.shared.state);
        state.attempt = None;
        if state.connection.is_none() && state.failure.is_none() {
            let address = &self.shared.address;
            let detail = "the attempt to connect was abandoned";
            state.failure =
                Some(ConnectFailure::new(address, ConnectFailureKind::NoAnswer, detail));
        }
        drop(state);
        self.ended.take();
    }
}

impl State {
    fn is_open(&self) -> bool {
        self.connection.as_ref().is_some_and(|connection| !connection.is_closed())
    }

    fn fail(&mut self, failure: ConnectFailure) {
        self.retry_at = Some(Instant::now() + pause(self.failures));
        self.failures = self.failures.saturating_add(1);
        self.failure = Some(failure);
    }
}

/// What servers refuse they will refuse for some time; anything else may pass at once.
fn renewal_pause(failure: &ConnectFailure) -> Duration {
    match Refusal::from(failure.clone()).reason {
        RefusalReason::BadCertificate => RENEWAL_PAUSE,
        _ => BACKOFF_MAX,
    }
}

fn pausing(state: &State) -> bool {
    state.retry_at.is_some_and(|at| Instant::now() < at)
}

/// The pause after the (n+1)th failure in a row: half fixed, half random.
fn pause(failures: u32) -> Duration {
    let full = BACKOFF_MIN.saturating_mul(1 << failures.min(10)).min(BACKOFF_MAX);
    full.mul_f64(rand::rng().random_range(0.5..=1.0))
}

/// An error with its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

/// Generated clients leave scheme and authority to the channel.
fn address_request(request: &mut Request<Body>, address: &str) -> Result<(), Status> {
    let authority: Authority = address.parse().map_err(|_| {
        let detail = "it is no host:port";
        ConnectFailure::new(address, ConnectFailureKind::BadAddress, detail)
    })?;
    let mut parts = std::mem::take(request.uri_mut()).into_parts();
    parts.scheme = Some(Scheme::HTTPS);
    parts.authority = Some(authority);
    *request.uri_mut() = Uri::from_parts(parts).expect("scheme, authority and path are there");
    Ok(())
}

/// The deadline that `Request::set_timeout` left in the headers.
fn deadline(request: &Request<Body>) -> Option<Duration> {
    let text = request.headers().get("grpc-timeout")?.to_str().ok()?;
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let number: u64 = number.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(number.saturating_mul(3600)),
        "M" => Duration::from_secs(number.saturating_mul(60)),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    })
}

impl tower::Service<Request<Body>> for PeerChannel {
    type Response = Response<Body>;
    type Error = Status;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Status>> + Send>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        spans::give(request.headers_mut());
        let channel = self.clone();
        Box::pin(async move {
            let Some(limit) = deadline(&request) else { return channel.send(request).await };
            tokio::time::timeout(limit, channel.send(request)).await.unwrap_or_else(|_| {
                let what = format!("no answer from {} within {limit:?}", channel.address());
                Err(Refusal::new(RefusalReason::DeadlineExceeded, what).into())
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_stay_bounded() {
        for failures in [0, 1, 5, 40] {
            let full = BACKOFF_MIN.saturating_mul(1 << failures.min(10)).min(BACKOFF_MAX);
            let pause = pause(failures);
            assert!(pause >= full / 2 && pause <= full, "{failures}: {pause:?}");
        }
    }

    #[test]
    fn deadlines_are_read_from_the_header() {
        let with = |text: &str| {
            deadline(&Request::builder().header("grpc-timeout", text).body(Body::empty()).unwrap())
        };
        assert_eq!(with("300m"), Some(Duration::from_millis(300)));
        assert_eq!(with("2S"), Some(Duration::from_secs(2)));
        assert_eq!(with("5000000u"), Some(Duration::from_secs(5)));
        assert_eq!(with("soon"), None);
        assert_eq!(with(""), None);
    }
}
