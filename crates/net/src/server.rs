//! The accepting side: a listener that takes verified peers, and perhaps clients with tokens, and
//! hands their identity to the services.
//!
//! Handshakes run beside each other, each with a time limit, and give way to new ones. Connections
//! are bounded, and places for members are among them that nobody else gets. Who shows no
//! certificate must show a token soon ([`UNKNOWN_TIMEOUT`]), and takes no place from those who have
//! one. The connection of a client ends with its certificate, so that a short one is as good as a
//! revocation; what members say to each other goes on, because the cluster lives on it. A peer that
//! is refused is logged with its address and the reason, and listed by [`TlsServer::refusals`].

use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::{Sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::service::Routes;
use tonic::transport::Server;
use tonic::transport::server::Connected;

use crate::access::{Admission, Gates};
use crate::answer::Disconnect;
use crate::failure::tls_error;
use crate::handshakes::Handshakes;
use crate::limits::{
    CONNECTION_WINDOW_BYTES, CONNECTIONS_MAX, DRAIN_TIMEOUT, FRAME_BYTES_MAX, HANDSHAKE_TIMEOUT,
    HANDSHAKES_MAX, KEEPALIVE_INTERVAL, KEEPALIVE_TIMEOUT, STREAM_WINDOW_BYTES,
    STREAMS_PER_CONNECTION_MAX, UNKNOWN_TIMEOUT,
};
use crate::membership::Members;
use crate::places::{Addresses, Place, Shares};
use crate::{CallMeters, Membership, PeerIdentity, RefusedCalls, Role, TlsStore, TokenBook};

/// Refused handshakes that are remembered.
const REFUSALS_KEPT: usize = 32;

/// As many refusals as are remembered in less time than this are a flood.
const FLOOD: Duration = Duration::from_secs(1);

/// Pause after `accept` failed (no file descriptors, usually), so that the loop does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Why an address cannot be listened at.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen at {address}")]
pub struct BindError {
    /// The address.
    pub address: String,
    /// Why not.
    pub source: io::Error,
}

impl BindError {
    /// A stable code.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self.source.kind() {
            io::ErrorKind::AddrInUse => "address_in_use",
            io::ErrorKind::AddrNotAvailable => "address_not_here",
            io::ErrorKind::PermissionDenied => "address_not_allowed",
            _ => "address_unusable",
        }
    }

    /// What to do next.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self.source.kind() {
            io::ErrorKind::AddrInUse => {
                "another process listens there; stop it, or choose another port in the \
                    configuration"
            }
            io::ErrorKind::AddrNotAvailable => {
                "the address belongs to no interface of this machine"
            }
            io::ErrorKind::PermissionDenied => {
                "ports below 1024 need a privilege; choose a higher one"
            }
            _ => "addresses are host:port; check the configuration",
        }
    }
}

/// Listens at `host:port`.
///
/// # Errors
/// [`BindError`] says why not.
pub async fn bind(address: &str) -> Result<TcpListener, BindError> {
    let error = |source| BindError { address: address.to_owned(), source };
    TcpListener::bind(address).await.map_err(error)
}

/// A peer that was turned away.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RefusedHandshake {
    /// Where it connected from.
    pub peer: SocketAddr,
    /// Why, for a person.
    pub reason: String,
    /// When.
    pub at: SystemTime,
}

/// What a listener asks of its peers, and what it remembers of those it refused.
#[derive(Clone)]
pub struct TlsServer {
    tls: Arc<TlsStore>,
    tokens: Option<TokenBook>,
    members: Members,
    refused_calls: Option<RefusedCalls>,
    meters: CallMeters,
    refusals: Arc<Mutex<VecDeque<RefusedHandshake>>>,
    connections_max: usize,
    unknown_timeout: Duration,
}

impl fmt::Debug for TlsServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsServer").field("tls", &self.tls).finish_non_exhaustive()
    }
}

impl TlsServer {
    /// A server that shows the certificate of `tls` and asks for one of the same authority.
    #[must_use]
    pub fn new(tls: Arc<TlsStore>) -> Self {
        Self {
            tls,
            tokens: None,
            members: Members::default(),
            refused_calls: None,
            meters: CallMeters::default(),
            refusals: Arc::default(),
            connections_max: CONNECTIONS_MAX,
            unknown_timeout: UNKNOWN_TIMEOUT,
        }
    }

    /// Lets in clients without a certificate too, for calls with one of these tokens.
    #[must_use]
    pub fn with_tokens(self, tokens: TokenBook) -> Self {
        Self { tokens: Some(tokens), ..self }
    }

    /// Lets members in only while they belong to the cluster.
    #[must_use]
    pub fn with_members(self, membership: Arc<dyn Membership>) -> Self {
        Self { members: Members::known_by(membership), ..self }
    }

    /// Tells who was refused a call for who they are.
    #[must_use]
    pub fn with_refused_calls(self, refused: RefusedCalls) -> Self {
        Self { refused_calls: Some(refused), ..self }
    }

    /// Counts calls here.
    #[must_use]
    pub fn with_call_meters(self, meters: CallMeters) -> Self {
        Self { meters, ..self }
    }

    /// Bounds the number of connections (8192 by default); more are closed at once.
    #[must_use]
    pub fn with_connections_max(self, connections_max: usize) -> Self {
        Self { connections_max, ..self }
    }

    /// Closes connections on which neither a certificate nor a valid token was shown for this long
    /// ([`UNKNOWN_TIMEOUT`] by default).
    #[must_use]
    pub fn with_unknown_timeout(self, unknown_timeout: Duration) -> Self {
        Self { unknown_timeout, ..self }
    }

    /// The last peers that were refused, oldest first.
    #[must_use]
    pub fn refusals(&self) -> Vec<RefusedHandshake> {
        let refusals = self.refusals.lock().unwrap_or_else(PoisonError::into_inner);
        refusals.iter().cloned().collect()
    }

    fn refuse(&self, peer: SocketAddr, reason: String) {
        let mut refusals = self.refusals.lock().unwrap_or_else(PoisonError::into_inner);
        let oldest = if refusals.len() == REFUSALS_KEPT { refusals.pop_front() } else { None };
        // A flood of them does not become a flood of lines.
        if oldest.is_some_and(|one| one.at.elapsed().is_ok_and(|ago| ago < FLOOD)) {
            tracing::debug!(%peer, reason, "connection refused");
        } else {
            tracing::info!(%peer, reason, "connection refused");
        }
        refusals.push_back(RefusedHandshake { peer, reason, at: SystemTime::now() });
    }

    async fn handshake(&self, tcp: TcpStream, peer: SocketAddr) -> Result<Handshaken, String> {
        // Latency matters more than a refused option, and the handshake finds a dead socket anyway.
        let _ = tcp.set_nodelay(true);
        let identity = self.tls.current();
        let config = if self.tokens.is_some() { &identity.open_server } else { &identity.server };
        let acceptor = TlsAcceptor::from(config.clone());
        let stream = timeout(HANDSHAKE_TIMEOUT, acceptor.accept(tcp)).await;
        let stream = stream
            .map_err(|_| format!("no TLS handshake within {} s", HANDSHAKE_TIMEOUT.as_secs()))?
            .map_err(|error| describe(&error))?;
        let certificates = stream.get_ref().1.peer_certificates().unwrap_or_default();
        let certificate = match certificates.first() {
            Some(certificate) => {
                let identity = PeerIdentity::from_der(certificate)?;
                Some(PeerIdentity { address: Some(peer), ..identity })
            }
            None if self.tokens.is_some() => None,
            None => return Err("the peer showed no certificate".into()),
        };
        let vouched = Arc::new(AtomicBool::new(certificate.is_some()));
        let refused = Arc::default();
        let client = certificate.as_ref().is_some_and(|peer| peer.role != Role::Member);
        let ends = certificates.first().filter(|_| client);
        let ends = ends.and_then(|certificate| PeerIdentity::end_of(certificate)).map(in_time);
        let disconnect = Disconnect::default();
        let connection =
            Connection { certificate, address: Some(peer), vouched, refused, disconnect };
        Ok(Handshaken { stream, connection, ends })
    }
}

struct Handshaken {
    stream: TlsStream<TcpStream>,
    connection: Connection,
    /// Ready when the certificate of a client ends.
    ends: Option<Pin<Box<Sleep>>>,
}

fn in_time(end: SystemTime) -> Pin<Box<Sleep>> {
    Box::pin(tokio::time::sleep(end.duration_since(SystemTime::now()).unwrap_or_default()))
}

/// Connections that one address may have before somebody vouches for them.
const UNKNOWN_PER_ADDRESS_MAX: usize = 256;

/// Refused requests after which a connection of somebody unknown is closed.
const REFUSALS_OF_UNKNOWN_MAX: u32 = 16;

/// What is known of a connection; every request on it carries it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Connection {
    /// The identity of its certificate, if it showed one.
    pub(crate) certificate: Option<PeerIdentity>,
    /// Where it comes from.
    pub(crate) address: Option<SocketAddr>,
    pub(crate) vouched: Arc<AtomicBool>,
    /// Requests on it that were refused.
    pub(crate) refused: Arc<AtomicU32>,
    /// Whether it is to end.
    pub(crate) disconnect: Disconnect,
}

impl Connection {
    /// A valid token came over it.
    pub(crate) fn vouched(&self) {
        self.vouched.store(true, Ordering::Relaxed);
    }

    fn is_unknown(&self) -> bool {
        self.certificate.is_none() && !self.vouched.load(Ordering::Relaxed)
    }

    /// Counts a refusal; whether it may be logged. Whoever is unknown fills no log.
    pub(crate) fn note_refusal(&self) -> bool {
        self.refused.fetch_add(1, Ordering::Relaxed) == 0 || !self.is_unknown()
    }

    /// Whether somebody unknown was refused too often to be heard any further.
    fn is_spent(&self) -> bool {
        self.is_unknown() && self.refused.load(Ordering::Relaxed) >= REFUSALS_OF_UNKNOWN_MAX
    }
}

/// Why a handshake failed, for a person.
fn describe(error: &io::Error) -> String {
    use rustls::{CertificateError as C, Error as E};
    let Some(tls) = tls_error(error) else {
        return format!("the peer went away during the TLS handshake: {error}");
    };
    match tls {
        E::InvalidMessage(_) => "the peer does not speak TLS".into(),
        E::NoCertificatesPresented => "the peer showed no certificate".into(),
        E::InvalidCertificate(C::UnknownIssuer | C::BadSignature) => {
            "the peer's certificate comes from another authority".into()
        }
        E::InvalidCertificate(C::Expired | C::ExpiredContext { .. }) => {
            "the peer's certificate has expired".into()
        }
        E::InvalidCertificate(C::NotValidYet | C::NotValidYetContext { .. }) => {
            "the peer's certificate is not valid yet".into()
        }
        E::AlertReceived(alert) => format!("the peer refused this server: {alert:?}"),
        other => other.to_string(),
    }
}

/// Serves `routes` to verified peers until `shutdown` is ready; then stops accepting, lets calls
/// under way end for at most 2 s, and returns.
///
/// # Errors
/// The HTTP/2 server failed; connections that break are no failure.
pub async fn serve(
    listener: TcpListener,
    server: TlsServer,
    routes: Routes,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<(), tonic::transport::Error> {
    let (accepted, incoming) = mpsc::channel(HANDSHAKES_MAX);
    let (stop, stopped) = oneshot::channel::<()>();
    let gates = Gates::new(server.tokens.clone(), server.members.clone())
        .with_refused_calls(server.refused_calls.clone())
        .with_meters(server.meters.clone());
    let accepting = tokio::spawn(accept_all(listener, server, accepted));
    let admission = tower::layer::layer_fn(move |inner| Admission::new(inner, gates.clone()));
    let serving = http2_server().layer(admission).add_routes(routes).serve_with_incoming_shutdown(
        ReceiverStream::new(incoming),
        async {
            // An error is as good: the sender is dropped when this function ends.
            let _ = stopped.await;
        },
    );
    tokio::pin!(serving);
    let outcome = tokio::select! {
        biased;
        outcome = &mut serving => outcome,
        () = shutdown => {
            accepting.abort();
            let _ = stop.send(());
            // What has not ended by then is cut off when its process or runtime ends.
            timeout(DRAIN_TIMEOUT, serving).await.unwrap_or(Ok(()))
        }
    };
    accepting.abort();
    outcome
}

fn http2_server() -> Server {
    Server::builder()
        .accept_http1(false)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_frame_size(FRAME_BYTES_MAX)
        .max_concurrent_streams(STREAMS_PER_CONNECTION_MAX)
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
}

async fn accept_all(
    listener: TcpListener,
    server: TlsServer,
    accepted: mpsc::Sender<io::Result<PeerStream>>,
) {
    let rooms = Rooms::new(&server);
    let handshakes = Handshakes::new(HANDSHAKES_MAX);
    loop {
        let (tcp, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Ok(connection) = rooms.all.clone().try_acquire_owned() else {
            server.refuse(peer, format!("{} connections are open", server.connections_max));
            continue;
        };
        let mut turn = handshakes.enter(peer.ip());
        let (server, accepted, rooms) = (server.clone(), accepted.clone(), rooms.clone());
        tokio::spawn(async move {
            let handshaken = tokio::select! {
                handshaken = server.handshake(tcp, peer) => handshaken,
                () = turn.given_up() => Err("its handshake gave way to others".into()),
            };
            drop(turn);
            let patience = server.unknown_timeout;
            let stream = handshaken.and_then(|done| {
                let places = rooms.enter(&done.connection, peer.ip(), patience)?;
                Ok(PeerStream::new(done, connection, places))
            });
            match stream {
                // An error means that the server stopped meanwhile.
                Ok(stream) => drop(accepted.send(Ok(stream)).await),
                Err(reason) => server.refuse(peer, reason),
            }
        });
    }
}

/// A connection after its handshake. What is known of it goes into the extensions of every request.
struct PeerStream {
    stream: TlsStream<TcpStream>,
    connection: Connection,
    /// Ready when the certificate of a client ends.
    ends: Option<Pin<Box<Sleep>>>,
    /// While nobody vouches for it.
    unknown: Option<Unknown>,
    _turn: OwnedSemaphorePermit,
    _client: Option<Client>,
}

/// What a connection has that nobody vouches for yet; all of it is given back then.
struct Unknown {
    patience: Pin<Box<Sleep>>,
    _places: (OwnedSemaphorePermit, Place<IpAddr>),
}

/// The places of a client's connection: among all clients, and among its own if it showed a
/// certificate.
struct Client {
    _places: (OwnedSemaphorePermit, Option<Place<String>>),
}

/// Places for connections.
#[derive(Clone)]
struct Rooms {
    members: Members,
    all: Arc<Semaphore>,
    /// The rest is for members, which must get in however many clients there are.
    clients: Arc<Semaphore>,
    /// Half of those for each name, so that one client does not shut out the others.
    of_client: Shares<String>,
    /// Without a certificate: half of all together, and so many of each address.
    unknown: Arc<Semaphore>,
    of_address: Addresses,
}

impl Rooms {
    fn new(server: &TlsServer) -> Self {
        let all = server.connections_max;
        let clients = (all - all / 8).max(1);
        Self {
            members: server.members.clone(),
            all: Arc::new(Semaphore::new(all)),
            clients: Arc::new(Semaphore::new(clients)),
            of_client: Shares::new((clients / 2).max(1)),
            unknown: Arc::new(Semaphore::new((all / 2).max(1))),
            of_address: Addresses::new(UNKNOWN_PER_ADDRESS_MAX),
        }
    }

    /// # Errors
    /// There are too many of its kind.
    fn enter(
        &self,
        connection: &Connection,
        address: IpAddr,
        patience: Duration,
    ) -> Result<(Option<Client>, Option<Unknown>), String> {
        let known = connection.certificate.as_ref();
        if known.is_some_and(|peer| self.members.counts(peer)) {
            return Ok((None, None));
        }
        let own = known.map(|peer| {
            let place = self.of_client.enter(peer.name.clone());
            place.ok_or_else(|| format!("{peer} has too many connections"))
        });
        let client = self.clients.clone().try_acquire_owned();
        let client = client.map_err(|_| "too many connections of clients")?;
        let client = Client { _places: (client, own.transpose()?) };
        let unknown = known.is_none().then(|| self.unknown(address, patience)).transpose()?;
        Ok((Some(client), unknown))
    }

    /// # Errors
    /// Too many are unknown.
    fn unknown(&self, address: IpAddr, patience: Duration) -> Result<Unknown, String> {
        let one = self.of_address.enter(address);
        let one = one.ok_or("too many connections without a certificate from there")?;
        let another = self.unknown.clone().try_acquire_owned();
        let another = another.map_err(|_| "too many connections without a certificate")?;
        let patience = Box::pin(tokio::time::sleep(patience));
        Ok(Unknown { patience, _places: (another, one) })
    }
}

impl PeerStream {
    fn new(
        Handshaken { stream, connection, ends }: Handshaken,
        turn: OwnedSemaphorePermit,
        (client, unknown): (Option<Client>, Option<Unknown>),
    ) -> Self {
        Self { stream, connection, ends, unknown, _turn: turn, _client: client }
    }

    /// Whether it was unknown for too long, or the certificate ended, or a service wants it to end.
    fn is_over(&mut self, cx: &mut Context<'_>) -> bool {
        if self.connection.disconnect.is_wanted() {
            return true;
        }
        if self.ends.as_mut().is_some_and(|ends| ends.as_mut().poll(cx).is_ready()) {
            // Ready once only.
            self.ends = Some(Box::pin(tokio::time::sleep(Duration::ZERO)));
            return true;
        }
        let Some(unknown) = &mut self.unknown else { return false };
        if self.connection.vouched.load(Ordering::Relaxed) {
            self.unknown = None;
            return false;
        }
        self.connection.is_spent() || unknown.patience.as_mut().poll(cx).is_ready()
    }
}

impl Connected for PeerStream {
    type ConnectInfo = Connection;

    fn connect_info(&self) -> Connection {
        self.connection.clone()
    }
}

impl AsyncRead for PeerStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.is_over(cx) {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for PeerStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.is_over(cx) {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.is_over(cx) {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
