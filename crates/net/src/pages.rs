//! Pages over HTTP/1.1, for programs that speak no gRPC: Prometheus and `curl`.
//!
//! One request per connection, bounded in number and time, so that nobody who reads slowly or says
//! nothing keeps anything. With a [`TlsStore`] both sides show certificates of the cluster's
//! authority, as everywhere else.

use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use crate::TlsStore;
use crate::limits::HANDSHAKE_TIMEOUT;

/// Connections at the same time; more are closed at once.
const CONNECTIONS_MAX: usize = 32;

/// From the handshake to the last byte.
const CONNECTION_LIMIT: Duration = Duration::from_secs(10);

/// Pause after `accept` failed, so that the loop does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What a path shows.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Page {
    /// As `text/plain; charset=utf-8`.
    pub content_type: &'static str,
    /// The text.
    pub body: String,
}

/// Serves what `answer` gives for a path (`None`: there is no such page) until it is dropped.
pub async fn serve_pages<A, F>(listener: TcpListener, tls: Option<Arc<TlsStore>>, answer: A)
where
    A: Fn(String) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Option<Page>> + Send,
{
    let connections = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let tcp = match listener.accept().await {
            Ok((tcp, _)) => tcp,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Ok(turn) = connections.clone().try_acquire_owned() else { continue };
        let (tls, answer) = (tls.clone(), answer.clone());
        tokio::spawn(async move {
            let _turn = turn;
            if timeout(CONNECTION_LIMIT, connection(tcp, tls, answer)).await.is_err() {
                tracing::debug!("a reader of pages took too long");
            }
        });
    }
}

async fn connection<A, F>(tcp: TcpStream, tls: Option<Arc<TlsStore>>, answer: A)
where
    A: Fn(String) -> F,
    F: Future<Output = Option<Page>>,
{
    let Some(tls) = tls else { return exchange(tcp, answer).await };
    let mut config = ServerConfig::clone(&tls.current().server);
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let accepting = TlsAcceptor::from(Arc::new(config)).accept(tcp);
    match timeout(HANDSHAKE_TIMEOUT, accepting).await {
        Ok(Ok(stream)) => exchange(stream, answer).await,
        Ok(Err(error)) => tracing::info!(%error, "a reader of pages was refused"),
        Err(_) => tracing::info!("a reader of pages made no TLS handshake in time"),
    }
}

async fn exchange<S, A, F>(stream: S, answer: A)
where
    S: AsyncRead + AsyncWrite + Unpin,
    A: Fn(String) -> F,
    F: Future<Output = Option<Page>>,
{
    let service = service_fn(|request: Request<Incoming>| {
        let asked = (request.method() == Method::GET).then(|| answer(request.uri().path().into()));
        async move {
            let page = match asked {
                Some(asked) => asked.await.ok_or((StatusCode::NOT_FOUND, "no such page\n")),
                None => Err((StatusCode::METHOD_NOT_ALLOWED, "only GET\n")),
            };
            Ok::<_, Infallible>(response(page))
        }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "a reader of pages went away");
    }
}

fn response(page: Result<Page, (StatusCode, &'static str)>) -> Response<String> {
    let (status, content_type, body) = match page {
        Ok(page) => (StatusCode::OK, page.content_type, page.body),
        Err((status, text)) => (status, "text/plain; charset=utf-8", text.to_owned()),
    };
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    async fn ask(request: &str) -> String {
        let listener = crate::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let serving = tokio::spawn(serve_pages(listener, None, |path| async move {
            let page = Page { content_type: "text/plain", body: "hello\n".into() };
            (path == "/x").then_some(page)
        }));
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        serving.abort();
        text
    }

    #[tokio::test]
    async fn a_path_has_its_page_and_others_have_none() {
        let page = ask("GET /x?y HTTP/1.1\r\nhost: h\r\n\r\n").await;
        assert!(page.starts_with("HTTP/1.1 200 ") && page.ends_with("\r\n\r\nhello\n"), "{page}");
        let page = ask("GET /y HTTP/1.1\r\nhost: h\r\n\r\n").await;
        assert!(page.starts_with("HTTP/1.1 404 "), "{page}");
        let page = ask("DELETE /x HTTP/1.1\r\nhost: h\r\n\r\n").await;
        assert!(page.starts_with("HTTP/1.1 405 "), "{page}");
        assert!(ask("nonsense\r\n\r\n").await.starts_with("HTTP/1.1 400 "));
    }
}
