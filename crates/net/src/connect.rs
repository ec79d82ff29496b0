//! One attempt to connect: TCP, TLS, HTTP/2 preface. No state, no retries.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use keelson_types::MemberName;
use rustls::ClientConfig;
use rustls::client::Resumption;
use rustls::pki_types::ServerName;
use rustls::sign::SingleCertAndKey;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tonic::body::Body;

use crate::ConnectFailure;
use crate::credentials::Shown;
use crate::failure::ConnectFailureKind as Kind;
use crate::limits::{
    CONNECT_TIMEOUT, CONNECTION_WINDOW_BYTES, FRAME_BYTES_MAX, KEEPALIVE_INTERVAL,
    KEEPALIVE_TIMEOUT, STREAM_WINDOW_BYTES,
};
use crate::tls::ALPN;
use crate::verify::{self, PeerVerifier};

/// Whom a certificate must name.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Expect {
    /// This member: common name and unit "member". For everybody who knows whom to expect.
    Member(MemberName),
    /// Anybody whose certificate carries the dialled host name or IP address. For clients that know
    /// nothing but an address.
    Address,
}

/// A live connection; clones share it.
pub(crate) type Connection = SendRequest<Body>;

/// Connects within [`CONNECT_TIMEOUT`].
pub(crate) async fn connect(
    address: &str,
    expect: &Expect,
    shown: &Shown,
) -> Result<Connection, ConnectFailure> {
    let attempt = attempt(address, expect, shown);
    timeout(CONNECT_TIMEOUT, attempt).await.unwrap_or_else(|_| {
        let detail = format!("not connected after {} s", CONNECT_TIMEOUT.as_secs());
        Err(ConnectFailure::new(address, Kind::NoAnswer, detail))
    })
}

async fn attempt(
    address: &str,
    expect: &Expect,
    shown: &Shown,
) -> Result<Connection, ConnectFailure> {
    let dialled = server_name(address)?;
    let tcp = TcpStream::connect(address)
        .await
        .map_err(|error| ConnectFailure::of_tcp(address, &error))?;
    tcp.set_nodelay(true).map_err(|error| ConnectFailure::of_tcp(address, &error))?;
    let connector = TlsConnector::from(Arc::new(client_config(expect, shown)));
    let stream = connector
        .connect(dialled, tcp)
        .await
        .map_err(|error| ConnectFailure::of_handshake(address, &error))?;
    if stream.get_ref().1.alpn_protocol() != Some(ALPN) {
        return Err(ConnectFailure::new(address, Kind::NotKeelson, "it does not speak HTTP/2"));
    }
    let greeted = Greeted::read(stream)
        .await
        .map_err(|error| ConnectFailure::of_handshake(address, &error))?;
    open_http2(greeted).await.map_err(|error| {
        ConnectFailure::new(address, Kind::NotKeelson, format!("HTTP/2 failed: {error}"))
    })
}

async fn open_http2<S>(stream: S) -> hyper::Result<SendRequest<Body>>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_frame_size(FRAME_BYTES_MAX)
        .keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .handshake(TokioIo::new(stream))
        .await?;
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "connection ended");
        }
    });
    Ok(sender)
}

/// The host part of `host:port`, as TLS wants it.
fn server_name(address: &str) -> Result<ServerName<'static>, ConnectFailure> {
    let bad = |what: &str| ConnectFailure::new(address, Kind::BadAddress, what);
    let (host, port) = address.rsplit_once(':').ok_or_else(|| bad("the port is missing"))?;
    port.parse::<u16>().map_err(|_| bad("the port is no number up to 65535"))?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    ServerName::try_from(host.to_owned()).map_err(|_| bad("the host is no name or IP address"))
}

fn client_config(expect: &Expect, shown: &Shown) -> ClientConfig {
    let member = match expect {
        Expect::Member(name) => Some(name.clone()),
        Expect::Address => None,
    };
    let verifier = PeerVerifier::new(shown.roots.clone(), member);
    let config = ClientConfig::builder_with_provider(verify::provider())
        .with_protocol_versions(verify::VERSIONS)
        .expect("the provider speaks TLS 1.3")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let mut config = match &shown.key {
        Some(key) => {
            config.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(key.clone())))
        }
        None => config.with_no_client_auth(),
    };
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.resumption = Resumption::disabled();
    config
}

/// A stream whose first bytes were read already.
///
/// With TLS 1.3 a server refuses a client's certificate after the client finished its handshake.
/// Waiting for the server's first bytes (its HTTP/2 settings, sent without being asked) before
/// anything is written makes that refusal an outcome of connecting, and it cannot be lost to a
/// reset.
struct Greeted<S> {
    stream: S,
    first: Bytes,
}

impl<S: AsyncRead + Unpin> Greeted<S> {
    async fn read(mut stream: S) -> io::Result<Self> {
        let mut first = BytesMut::with_capacity(1024);
        match stream.read_buf(&mut first).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(Self { stream, first: first.freeze() }),
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Greeted<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.first.is_empty() {
            return Pin::new(&mut self.stream).poll_read(cx, buf);
        }
        let length = self.first.len().min(buf.remaining());
        buf.put_slice(&self.first.split_to(length));
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Greeted<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
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
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
