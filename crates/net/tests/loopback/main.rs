//! Both sides over real sockets: who gets in, and what those who do not are told.
#![allow(clippy::unwrap_used)]

mod renewal;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use keelson_net::certs::{Authority, CertRequest, IssuedCert, Validity};
use keelson_net::{
    AccessSecret, ConnectFailureKind, Connector, Credentials, Disconnect, Expect, Lane, Membership,
    PeerChannel, Standing, TlsFiles, TlsServer, TlsStore, TokenBook, TokenFiles, bind,
    require_member, serve,
};
use keelson_types::{AccessTokens, MemberName, NewToken, RefusalReason, TokenName, TokenRole};
use keelson_wire::{refusal_of, v1};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, oneshot};
use tonic::service::Routes;
use tonic::{Request, Response, Status};
use v1::operations_client::OperationsClient;
use v1::operations_server::{Operations, OperationsServer};

/// Answers with who asked; lists for ever, after saying that it began; to cancel ends the
/// connection.
struct WhoAsked {
    listing: Arc<Notify>,
}

#[tonic::async_trait]
impl Operations for WhoAsked {
    async fn get_operation(
        &self,
        request: Request<v1::GetOperationRequest>,
    ) -> Result<Response<v1::Operation>, Status> {
        let kind = keelson_net::peer_of(&request)?.to_string();
        let subject = match require_member(&request) {
            Ok(name) => name.to_string(),
            Err(refusal) => refusal.reason.code().0.to_owned(),
        };
        Ok(Response::new(v1::Operation { kind, subject, ..Default::default() }))
    }

    async fn list_operations(
        &self,
        _request: Request<v1::ListOperationsRequest>,
    ) -> Result<Response<v1::ListOperationsResponse>, Status> {
        self.listing.notify_one();
        std::future::pending().await
    }

    type WatchOperationStream = futures::stream::Pending<Result<v1::Operation, Status>>;

    async fn watch_operation(
        &self,
        _request: Request<v1::GetOperationRequest>,
    ) -> Result<Response<Self::WatchOperationStream>, Status> {
        Ok(Response::new(futures::stream::pending()))
    }

    async fn cancel_operation(
        &self,
        request: Request<v1::GetOperationRequest>,
    ) -> Result<Response<v1::Operation>, Status> {
        Disconnect::of(&request).now();
        Err(Status::unimplemented("no"))
    }
}

struct World {
    dir: TempDir,
    authority: Authority,
}

impl World {
    fn new() -> Self {
        let authority = Authority::create("test", Validity::days(10)).unwrap();
        Self { dir: tempfile::tempdir().unwrap(), authority }
    }

    fn files(&self, label: &str, authority: &Authority, issued: &IssuedCert) -> TlsFiles {
        let path = |end: &str| self.dir.path().join(format!("{label}{end}"));
        std::fs::write(path(".ca"), authority.cert_pem()).unwrap();
        issued.write(&path(".pem"), &path(".key")).unwrap();
        TlsFiles { ca: path(".ca"), cert: path(".pem"), key: path(".key") }
    }

    fn store(&self, label: &str, request: &CertRequest) -> Arc<TlsStore> {
        let issued = self.authority.issue(request).unwrap();
        TlsStore::open(self.files(label, &self.authority, &issued)).unwrap()
    }

    async fn serve(&self, name: &str) -> Running {
        let server = TlsServer::new(self.store(name, &CertRequest::member(name, &[])));
        Running::start(server, "127.0.0.1:0").await
    }
}

struct Running {
    address: String,
    server: TlsServer,
    listing: Arc<Notify>,
    stop: oneshot::Sender<()>,
    ended: tokio::task::JoinHandle<()>,
}

impl Running {
    async fn start(server: TlsServer, address: &str) -> Self {
        let listener = bind(address).await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (stop, stopped) = oneshot::channel();
        let listing = Arc::new(Notify::new());
        let routes = Routes::new(OperationsServer::new(WhoAsked { listing: listing.clone() }));
        let shutdown = async {
            let _ = stopped.await;
        };
        let serving = serve(listener, server.clone(), routes, shutdown);
        let ended = tokio::spawn(async move { serving.await.unwrap() });
        Self { address, server, listing, stop, ended }
    }

    /// Waits until somebody was refused for this reason.
    async fn refuses(&self, reason: &str) {
        let refused = async {
            while !self.server.refusals().iter().any(|refused| refused.reason == reason) {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), refused).await.expect(reason);
    }

    async fn refusal(&self) -> String {
        loop {
            if let Some(refused) = self.server.refusals().pop() {
                return refused.reason;
            }
            tokio::task::yield_now().await;
        }
    }
}

fn member(name: &str) -> Expect {
    Expect::Member(MemberName::new(name).unwrap())
}

async fn ask(channel: PeerChannel) -> Result<v1::Operation, Status> {
    let request = Request::new(v1::GetOperationRequest::default());
    OperationsClient::new(channel).get_operation(request).await.map(Response::into_inner)
}

async fn failure_of(channel: PeerChannel) -> (RefusalReason, String) {
    let refusal = refusal_of(&ask(channel).await.unwrap_err());
    (refusal.reason, refusal.message)
}

#[tokio::test]
async fn members_and_clients_are_known_by_their_certificates() {
    let world = World::new();
    let running = world.serve("m1").await;
    let connector = Connector::new(world.store("m2", &CertRequest::member("m2", &[])));
    let answer =
        ask(connector.channel(&running.address, member("m1"), Lane::Control)).await.unwrap();
    assert_eq!((answer.kind.as_str(), answer.subject.as_str()), ("m2 (member)", "m2"));
    let connector = Connector::new(world.store("ann", &CertRequest::admin("ann")));
    let answer = ask(connector.channel(&running.address, Expect::Address, Lane::Control)).await;
    let answer = answer.unwrap();
    assert_eq!((answer.kind.as_str(), answer.subject.as_str()), ("ann (admin)", "forbidden"));
}

#[tokio::test]
async fn another_member_at_the_address_is_noticed() {
    let world = World::new();
    let running = world.serve("m1").await;
    let connector = Connector::new(world.store("m2", &CertRequest::member("m2", &[])));
    let channel = connector.channel(&running.address, member("m3"), Lane::Control);
    let (reason, message) = failure_of(channel).await;
    assert_eq!(reason, RefusalReason::BadCertificate);
    assert!(message.contains("m1 (member), not for member m3"), "{message}");
}

#[tokio::test]
async fn an_address_that_the_certificate_lacks_is_noticed() {
    let world = World::new();
    let mut request = CertRequest::member("m1", &[]);
    request.hosts = vec!["elsewhere.example".into()];
    let server = TlsServer::new(world.store("m1", &request));
    let running = Running::start(server, "127.0.0.1:0").await;
    let connector = Connector::new(world.store("ann", &CertRequest::admin("ann")));
    let channel = connector.channel(&running.address, Expect::Address, Lane::Control);
    let failure = channel.connect().await.unwrap_err();
    assert_eq!(failure.kind, ConnectFailureKind::WrongName);
    assert!(failure.detail.contains("m1 (member), not for 127.0.0.1"), "{failure}");
}

#[tokio::test]
async fn a_foreign_authority_is_refused_by_the_client() {
    let world = World::new();
    let running = world.serve("m1").await;
    let foreign = World::new();
    let connector = Connector::new(foreign.store("m2", &CertRequest::member("m2", &[])));
    let channel = connector.channel(&running.address, member("m1"), Lane::Control);
    let failure = channel.connect().await.unwrap_err();
    assert_eq!(failure.kind, ConnectFailureKind::UntrustedServer, "{failure}");
    assert!(running.refusal().await.contains("refused this server"));
}

#[tokio::test]
async fn a_client_of_a_foreign_authority_is_refused_by_the_server_and_told_so() {
    let world = World::new();
    let running = world.serve("m1").await;
    let foreign = Authority::create("foreign", Validity::days(1)).unwrap();
    let issued = foreign.issue(&CertRequest::member("m2", &[])).unwrap();
    let mut files = world.files("m2", &foreign, &issued);
    // Knows both authorities, as while one replaces the other; the server knows one.
    let both = format!("{}{}", foreign.cert_pem(), world.authority.cert_pem());
    files.ca = world.dir.path().join("both.ca");
    std::fs::write(&files.ca, both).unwrap();
    let connector = Connector::new(TlsStore::open(files).unwrap());
    let channel = connector.channel(&running.address, member("m1"), Lane::Control);
    let (reason, message) = failure_of(channel).await;
    assert_eq!(reason, RefusalReason::BadCertificate, "{message}");
    assert!(message.contains("refused the certificate of this side"), "{message}");
    assert_eq!(running.refusal().await, "the peer's certificate comes from another authority");
}

#[tokio::test]
async fn an_expired_client_certificate_is_refused_by_the_server_and_told_so() {
    let world = World::new();
    let running = world.serve("m1").await;
    let end = SystemTime::now() + Duration::from_secs(2);
    let validity = Validity { not_before: end - Duration::from_secs(60), not_after: end };
    let store = world.store("m2", &CertRequest::member("m2", &[]).valid(validity));
    while SystemTime::now() <= end + Duration::from_secs(1) {
        tokio::task::yield_now().await;
    }
    let channel = PeerChannel::new(store, &running.address, member("m1"));
    let (reason, message) = failure_of(channel).await;
    assert_eq!(reason, RefusalReason::BadCertificate, "{message}");
    assert!(message.contains("CertificateExpired"), "{message}");
    assert_eq!(running.refusal().await, "the peer's certificate has expired");
}

#[tokio::test]
async fn a_client_without_certificate_gets_nothing() {
    let world = World::new();
    let running = world.serve("m1").await;
    let mut roots = rustls::RootCertStore::empty();
    let der =
        rustls::pki_types::pem::PemObject::from_pem_slice(world.authority.cert_pem().as_bytes());
    roots.add(der.unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let tcp = TcpStream::connect(&running.address).await.unwrap();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let name = rustls::pki_types::ServerName::try_from("127.0.0.1").unwrap();
    let mut stream = connector.connect(name, tcp).await.unwrap();
    let error = stream.read(&mut [0; 1]).await.unwrap_err();
    assert!(error.to_string().contains("CertificateRequired"), "{error}");
    assert_eq!(running.refusal().await, "the peer showed no certificate");
}

#[tokio::test]
async fn a_plain_tcp_client_is_turned_away_and_named() {
    let world = World::new();
    let running = world.serve("m1").await;
    let mut tcp = TcpStream::connect(&running.address).await.unwrap();
    tcp.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    assert_eq!(running.refusal().await, "the peer does not speak TLS");
    // The server closes: the client's read ends, with an alert, the end, or a reset.
    let _ = tcp.read_to_end(&mut Vec::new()).await;
}

#[tokio::test]
async fn what_is_no_keelson_server_is_said_to_be_none() {
    let world = World::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        loop {
            let (mut tcp, _) = listener.accept().await.unwrap();
            let _ = tcp.write_all(b"220 mail.example ESMTP\r\n").await;
        }
    });
    let store = world.store("ann", &CertRequest::admin("ann"));
    let failure = PeerChannel::new(store, &address, Expect::Address).connect().await.unwrap_err();
    assert_eq!(failure.kind, ConnectFailureKind::NotKeelson, "{failure}");
}

#[tokio::test]
async fn refused_connections_and_bad_addresses_are_told_apart() {
    let world = World::new();
    let store = world.store("ann", &CertRequest::admin("ann"));
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().to_string();
    for (address, kind) in [
        (free.as_str(), ConnectFailureKind::Refused),
        ("127.0.0.1", ConnectFailureKind::BadAddress),
        ("127.0.0.1:port", ConnectFailureKind::BadAddress),
        ("no such host:1", ConnectFailureKind::BadAddress),
    ] {
        let channel = PeerChannel::new(store.clone(), address, Expect::Address);
        let failure = channel.connect().await.unwrap_err();
        assert_eq!(failure.kind, kind, "{failure}");
        assert_eq!(failure.reason(), RefusalReason::Unreachable);
        assert!(!failure.hint().is_empty());
        let (reason, message) = failure_of(channel).await;
        assert_eq!(reason, RefusalReason::Unreachable, "{message}");
    }
}

#[tokio::test]
async fn an_address_in_use_has_a_code() {
    let world = World::new();
    let running = world.serve("m1").await;
    let error = bind(&running.address).await.unwrap_err();
    assert_eq!(error.code(), "address_in_use");
    assert_eq!(bind("192.0.2.1:1").await.unwrap_err().code(), "address_not_here");
}

#[tokio::test]
async fn a_channel_comes_back_after_its_server_restarted() {
    let world = World::new();
    let running = world.serve("m1").await;
    let connector = Connector::new(world.store("m2", &CertRequest::member("m2", &[])));
    let channel = connector.channel(&running.address, member("m1"), Lane::Control);
    ask(channel.clone()).await.unwrap();
    let Running { address, server, stop, ended, .. } = running;
    stop.send(()).unwrap();
    ended.await.unwrap();
    let (reason, message) = failure_of(channel.clone()).await;
    assert_eq!(reason, RefusalReason::Unreachable, "{message}");
    let _running = Running::start(server, &address).await;
    let deadline = SystemTime::now() + Duration::from_secs(20);
    while let Err(status) = ask(channel.clone()).await {
        assert!(SystemTime::now() < deadline, "{status}");
        tokio::task::yield_now().await;
    }
    assert!(channel.is_connected());
}

#[tokio::test]
async fn deadlines_end_calls_that_get_no_answer() {
    let world = World::new();
    let running = world.serve("m1").await;
    let connector = Connector::new(world.store("m2", &CertRequest::member("m2", &[])));
    let channel = connector.channel(&running.address, member("m1"), Lane::Control);
    let mut request = Request::new(v1::ListOperationsRequest {});
    request.set_timeout(Duration::from_millis(100));
    let status = OperationsClient::new(channel).list_operations(request).await.unwrap_err();
    assert_eq!(refusal_of(&status).reason, RefusalReason::DeadlineExceeded);
}

#[tokio::test]
async fn a_call_under_way_when_the_connection_breaks_has_an_unknown_outcome() {
    let world = World::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let front = listener.local_addr().unwrap().to_string();
    let running = world.serve("m1").await;
    let (cut, cut_now) = oneshot::channel::<()>();
    let back = running.address.clone();
    tokio::spawn(async move {
        let (mut client, _) = listener.accept().await.unwrap();
        let mut server = TcpStream::connect(back).await.unwrap();
        tokio::select! {
            _ = tokio::io::copy_bidirectional(&mut client, &mut server) => {}
            _ = cut_now => {}
        }
    });
    let store = world.store("m2", &CertRequest::member("m2", &[]));
    let channel = PeerChannel::new(store, &front, member("m1"));
    ask(channel.clone()).await.unwrap();
    let mut client = OperationsClient::new(channel);
    let call =
        tokio::spawn(async move { client.list_operations(v1::ListOperationsRequest {}).await });
    running.listing.notified().await;
    cut.send(()).unwrap();
    let refusal = refusal_of(&call.await.unwrap().unwrap_err());
    assert_eq!(refusal.reason, RefusalReason::ConnectionLost, "{refusal}");
}

fn tokens(secret: &AccessSecret) -> AccessTokens {
    let mut tokens = AccessTokens::default();
    let new = NewToken {
        name: TokenName::new("ann").unwrap(),
        role: TokenRole::Operator,
        databases: std::collections::BTreeSet::new(),
        digest: secret.digest(),
        expires_unix_ms: None,
    };
    tokens.issue(&new, false, 1).unwrap();
    tokens
}

/// A server that takes tokens, and those that it takes.
async fn serve_with(world: &World, tokens: &AccessTokens) -> (Running, TokenBook) {
    let book = TokenBook::default();
    book.replace(tokens);
    let request = CertRequest::member("m1", &["127.0.0.1".into()]);
    let server = TlsServer::new(world.store("m1", &request)).with_tokens(book.clone());
    (Running::start(server, "127.0.0.1:0").await, book)
}

#[tokio::test]
async fn a_client_with_a_token_needs_no_certificate_and_is_no_member() {
    let world = World::new();
    let secret = AccessSecret::generate().unwrap();
    let (running, book) = serve_with(&world, &tokens(&secret)).await;
    let path = world.dir.path().join("token");
    std::fs::write(&path, secret.reveal()).unwrap();
    let files = TokenFiles { ca: world.dir.path().join("m1.ca"), token: path };
    let channel =
        PeerChannel::new(Credentials::token(files).unwrap(), &running.address, Expect::Address);
    let answer = ask(channel.clone()).await.unwrap();
    assert_eq!(
        (answer.kind.as_str(), answer.subject.as_str()),
        ("ann (operator, token)", "forbidden")
    );
    // Certificates work beside it.
    let store = world.store("bob", &CertRequest::admin("bob"));
    let by_certificate = PeerChannel::new(store, &running.address, member("m1"));
    assert_eq!(ask(by_certificate).await.unwrap().kind, "bob (admin)");
    book.replace(&AccessTokens::default());
    assert_eq!(failure_of(channel).await.0, RefusalReason::Unauthenticated);
}

#[tokio::test]
async fn a_stream_ends_when_its_token_is_revoked() {
    let world = World::new();
    let secret = AccessSecret::generate().unwrap();
    let (running, book) = serve_with(&world, &tokens(&secret)).await;
    let tls = world.store("m2", &CertRequest::member("m2", &[]));
    let bearer = Credentials::bearer(tls, secret);
    let channel = PeerChannel::new(bearer, &running.address, Expect::Address);
    let request = Request::new(v1::GetOperationRequest::default());
    let answer = OperationsClient::new(channel).watch_operation(request).await.unwrap();
    book.replace(&AccessTokens::default());
    let ended = answer.into_inner().message().await.unwrap_err();
    assert_eq!(refusal_of(&ended).reason, RefusalReason::Unauthenticated);
}

#[tokio::test]
async fn where_no_tokens_are_taken_a_client_without_a_certificate_does_not_get_in() {
    let world = World::new();
    let secret = AccessSecret::generate().unwrap();
    let request = CertRequest::member("m1", &["127.0.0.1".into()]);
    let running = Running::start(TlsServer::new(world.store("m1", &request)), "127.0.0.1:0").await;
    let tls = world.store("m2", &CertRequest::member("m2", &[]));
    let channel =
        PeerChannel::new(Credentials::bearer(tls, secret), &running.address, Expect::Address);
    assert_eq!(failure_of(channel).await.0, RefusalReason::BadCertificate);
    assert_eq!(running.refusal().await, "the peer showed no certificate");
}

#[tokio::test]
async fn a_connection_on_which_nobody_shows_who_it_is_does_not_last() {
    let world = World::new();
    let secret = AccessSecret::generate().unwrap();
    let book = TokenBook::default();
    book.replace(&tokens(&secret));
    let request = CertRequest::member("m1", &["127.0.0.1".into()]);
    let server = TlsServer::new(world.store("m1", &request)).with_tokens(book);
    let server = server.with_unknown_timeout(Duration::from_millis(200));
    let running = Running::start(server, "127.0.0.1:0").await;
    let tls = world.store("m2", &CertRequest::member("m2", &[]));
    let with = |secret| {
        let bearer = Credentials::bearer(tls.clone(), secret);
        PeerChannel::new(bearer, &running.address, Expect::Address)
    };
    let (known, unknown) = (with(secret), with(AccessSecret::generate().unwrap()));
    assert!(ask(known.clone()).await.is_ok());
    assert_eq!(failure_of(unknown.clone()).await.0, RefusalReason::Unauthenticated);
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    while unknown.is_connected() && tokio::time::Instant::now() < deadline {
        tokio::task::yield_now().await;
    }
    assert!(!unknown.is_connected() && known.is_connected());
}

/// Everybody is a member until this is set.
#[derive(Default)]
struct Left(AtomicBool);

impl Membership for Left {
    fn standing(&self, _: &str) -> Standing {
        if self.0.load(Ordering::Relaxed) { Standing::Stranger } else { Standing::Member }
    }
}

#[tokio::test]
async fn a_member_that_left_calls_nothing_and_hears_no_more_of_what_it_called() {
    let world = World::new();
    let left = Arc::new(Left::default());
    let server = TlsServer::new(world.store("m1", &CertRequest::member("m1", &[])));
    let running = Running::start(server.with_members(left.clone()), "127.0.0.1:0").await;
    let connector = Connector::new(world.store("m3", &CertRequest::member("m3", &[])));
    let channel = connector.channel(&running.address, member("m1"), Lane::Control);
    ask(channel.clone()).await.unwrap();
    let request = Request::new(v1::GetOperationRequest::default());
    let watched = OperationsClient::new(channel.clone()).watch_operation(request).await.unwrap();
    left.0.store(true, Ordering::Relaxed);
    assert_eq!(failure_of(channel).await.0, RefusalReason::UnknownMember);
    let ended = watched.into_inner().message().await.unwrap_err();
    assert_eq!(refusal_of(&ended).reason, RefusalReason::UnknownMember);
    let admin = Connector::new(world.store("ann", &CertRequest::admin("ann")));
    let channel = admin.channel(&running.address, member("m1"), Lane::Control);
    ask(channel).await.expect("people are no members, and need not be");
}

#[tokio::test]
async fn connections_that_say_nothing_keep_nobody_out() {
    let world = World::new();
    let running = world.serve("m1").await;
    let mut silent = Vec::new();
    for _ in 0..400 {
        silent.push(TcpStream::connect(&running.address).await.unwrap());
    }
    let connector = Connector::new(world.store("m2", &CertRequest::member("m2", &[])));
    let channel = connector.channel(&running.address, member("m1"), Lane::Control);
    // Connecting takes less time than any of them has.
    channel.connect().await.unwrap();
    ask(channel).await.unwrap();
    running.refuses("its handshake gave way to others").await;
}

#[tokio::test]
async fn clients_leave_room_for_each_other_and_for_members() {
    let world = World::new();
    let server = TlsServer::new(world.store("m1", &CertRequest::member("m1", &[])));
    let running = Running::start(server.with_connections_max(8), "127.0.0.1:0").await;
    let channels = |store: Arc<TlsStore>| {
        let address = running.address.clone();
        move || PeerChannel::new(store.clone(), &address, member("m1"))
    };
    let ann = channels(world.store("ann", &CertRequest::admin("ann")));
    let bob = channels(world.store("bob", &CertRequest::admin("bob")));
    let mut held = Vec::new();
    // Half of the seven that are for clients.
    for _ in 0..3 {
        held.push(ann());
        ask(held.last().unwrap().clone()).await.unwrap();
    }
    assert!(ask(ann()).await.is_err());
    running.refuses("ann (admin) has too many connections").await;
    held.push(bob());
    ask(held.last().unwrap().clone()).await.expect("there is room for others");
    let carl = channels(world.store("carl", &CertRequest::admin("carl")));
    for _ in 0..3 {
        held.push(carl());
        ask(held.last().unwrap().clone()).await.unwrap();
    }
    assert!(ask(bob()).await.is_err());
    running.refuses("too many connections of clients").await;
    let m2 = channels(world.store("m2", &CertRequest::member("m2", &[])));
    ask(m2()).await.expect("a member gets in all the same");
}
