//! A web site over TLS, for browsers: HTTP/1.1, no client certificates; who somebody is, the site
//! finds out by itself.
//!
//! Everybody may knock, so everything is bounded: connections in all and of one address, the time
//! of a handshake, of the head and of the body of a request, of an answer, and the size of each.
//! Whoever reads or writes slowly holds a place among few, and nothing of the process besides.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{Sleep, sleep, timeout};
use tokio_rustls::TlsAcceptor;

use crate::TlsStore;
use crate::limits::HANDSHAKE_TIMEOUT;
use crate::places::Addresses;

/// Connections at the same time; more are closed at once.
const CONNECTIONS_MAX: usize = 128;

/// Connections of one address.
const PER_ADDRESS_MAX: usize = 24;

/// Time for the head of a request, the wait for the next one included.
const HEAD_TIMEOUT: Duration = Duration::from_secs(15);

/// Time for the body of a request.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// Time in which some of an answer must leave.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// A connection takes no further request after this time, and is cut off [`GRACE`] later.
const CONNECTION_LIFE: Duration = Duration::from_secs(300);

/// Longer than the longest answer takes.
const GRACE: Duration = Duration::from_secs(60);

/// Largest body of a request: forms are small.
const BODY_BYTES_MAX: usize = 16 * 1024;

/// Bytes that are read ahead, the head of a request among them.
const BUFFER_BYTES_MAX: usize = 32 * 1024;

/// Pause after `accept` failed, so that the loop does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What somebody asks of a site.
#[derive(Debug)]
pub struct SiteRequest {
    /// The method.
    pub method: Method,
    /// The path.
    pub path: String,
    /// What follows the question mark.
    pub query: String,
    /// All headers.
    pub headers: HeaderMap,
    /// The body, complete.
    pub body: Bytes,
    /// Where it comes from.
    pub peer: SocketAddr,
}

/// An answer.
pub type SiteResponse = Response<Full<Bytes>>;

/// Serves what `answer` gives until it is dropped.
pub async fn serve_site<A, F>(listener: TcpListener, tls: Arc<TlsStore>, answer: A)
where
    A: Fn(SiteRequest) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = SiteResponse> + Send + 'static,
{
    let connections = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let addresses = Addresses::new(PER_ADDRESS_MAX);
    loop {
        let (tcp, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Ok(turn) = connections.clone().try_acquire_owned() else { continue };
        let Some(place) = addresses.enter(peer.ip()) else { continue };
        let (tls, answer) = (tls.clone(), answer.clone());
        tokio::spawn(async move {
            let _held = (turn, place);
            connection(tcp, peer, &tls, answer).await;
        });
    }
}

async fn connection<A, F>(tcp: TcpStream, peer: SocketAddr, tls: &TlsStore, answer: A)
where
    A: Fn(SiteRequest) -> F,
    F: Future<Output = SiteResponse>,
{
    let accepting = TlsAcceptor::from(tls.current().site.clone()).accept(tcp);
    let stream = match timeout(HANDSHAKE_TIMEOUT, accepting).await {
        Ok(Ok(stream)) => stream,
        // Browsers that do not know the authority end so, one line each would be too many.
        Ok(Err(error)) => return tracing::debug!(%peer, %error, "a reader made no TLS handshake"),
        Err(_) => return tracing::debug!(%peer, "a reader made no TLS handshake in time"),
    };
    let service = service_fn(|request: Request<Incoming>| {
        let read = read(request, peer);
        let answer = &answer;
        async move {
            Ok::<_, Infallible>(match read.await {
                Ok(request) => answer(request).await,
                Err(status) => plain(status),
            })
        }
    });
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(BUFFER_BYTES_MAX)
        .serve_connection(TokioIo::new(Impatient::new(stream, WRITE_TIMEOUT)), service);
    tokio::pin!(serving);
    let ended = tokio::select! {
        ended = serving.as_mut() => ended,
        () = sleep(CONNECTION_LIFE) => {
            serving.as_mut().graceful_shutdown();
            timeout(GRACE, serving).await.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%peer, %error, "a reader went away");
    }
}

async fn read(request: Request<Incoming>, peer: SocketAddr) -> Result<SiteRequest, StatusCode> {
    let (head, body) = request.into_parts();
    let body = timeout(BODY_TIMEOUT, Limited::new(body, BODY_BYTES_MAX).collect()).await;
    let body = body.map_err(|_| StatusCode::REQUEST_TIMEOUT)?;
    let body = body.map_err(|_| StatusCode::PAYLOAD_TOO_LARGE)?.to_bytes();
    let (path, query) =
        (head.uri.path().to_owned(), head.uri.query().unwrap_or_default().to_owned());
    Ok(SiteRequest { method: head.method, path, query, headers: head.headers, body, peer })
}

/// An answer for something that never got as far as the site.
fn plain(status: StatusCode) -> SiteResponse {
    let mut response = Response::new(Full::from(format!("{status}\n")));
    *response.status_mut() = status;
    // What is left of the request is not read.
    let close = http::HeaderValue::from_static("close");
    response.headers_mut().insert(http::header::CONNECTION, close);
    response
}

/// A stream that ends when nothing of what is written leaves for too long.
struct Impatient<S> {
    stream: S,
    patience: Duration,
    waiting: Option<Pin<Box<Sleep>>>,
}

impl<S> Impatient<S> {
    fn new(stream: S, patience: Duration) -> Self {
        Self { stream, patience, waiting: None }
    }

    /// What became of a write, or that it takes too long.
    fn judge<T>(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.waiting = None;
            return written;
        }
        let patience = self.patience;
        let waiting = self.waiting.get_or_insert_with(|| Box::pin(sleep(patience)));
        ready!(waiting.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Impatient<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Impatient<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.judge(cx, written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        self.judge(cx, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let ended = Pin::new(&mut self.stream).poll_shutdown(cx);
        self.judge(cx, ended)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn a_reader_that_takes_nothing_is_left() {
        let (near, mut far) = tokio::io::duplex(16);
        let mut stream = Impatient::new(near, Duration::from_millis(50));
        stream.write_all(&[0; 16]).await.unwrap();
        let error = stream.write_all(&[0; 16]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        // Whoever reads, however slowly, is written to.
        let mut byte = [0; 16];
        far.read_exact(&mut byte).await.unwrap();
        stream.write_all(&[0; 4]).await.unwrap();
    }
}
