//! Clients that misbehave below gRPC: they say nothing, half of something, or what no client may
//! say, or they ask and never take the answer. Whatever they do, writers go on, copies follow,
//! members and others get in, and memory stays bounded.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::{BufMut, Bytes, BytesMut};
use h2::client::{ResponseFuture, SendRequest};
use http::{HeaderMap, Request, Response};
use keelson_client::{Client, ClientConfig, ClientOptions, v1};
use keelson_testkit::{Cluster, Writer, WriterOptions, eventually};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use prost::Message;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::data::cluster;
use crate::roles::certified;

/// How long a server may take to end what it must end.
const PATIENCE: Duration = Duration::from_secs(45);

/// What a client says first in HTTP/2, with its settings, which are none.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// The beginning of a TLS record that promises 512 bytes.
const HALF_A_HELLO: &[u8] = &[22, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3];

const SETTINGS: u8 = 4;
const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;

/// A connection with the files of the client configuration `config`.
async fn secured(config: &Path, address: &str) -> Result<TlsStream<TcpStream>> {
    let config = ClientConfig::load(config)?;
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(&config.ca)? {
        roots.add(certificate?)?;
    }
    let (chain, key) = (config.cert.context("a certificate")?, config.key.context("a key")?);
    let chain = CertificateDer::pem_file_iter(chain)?.collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_file(key)?;
    let mut tls = rustls::ClientConfig::builder()
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)?;
    tls.alpn_protocols = vec![b"h2".to_vec()];
    let tcp = TcpStream::connect(address).await?;
    let name = ServerName::try_from("127.0.0.1")?;
    Ok(TlsConnector::from(Arc::new(tls)).connect(name, tcp).await?)
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = BytesMut::new();
    frame.put_uint(payload.len() as u64, 3);
    frame.put_slice(&[kind, flags]);
    frame.put_u32(stream);
    frame.put_slice(payload);
    frame.to_vec()
}

/// A message of gRPC that says of itself that it has so many bytes.
fn message(announced: u32, content: &[u8]) -> Bytes {
    let mut message = BytesMut::new();
    message.put_u8(0);
    message.put_u32(announced);
    message.put_slice(content);
    message.freeze()
}

fn asked(request: &impl Message) -> Bytes {
    let content = request.encode_to_vec();
    message(u32::try_from(content.len()).unwrap_or(u32::MAX), &content)
}

fn request(call: &str) -> Result<Request<()>> {
    let request = Request::post(format!("https://127.0.0.1/keelson.v1.{call}"));
    Ok(request.header("content-type", "application/grpc").header("te", "trailers").body(())?)
}

/// HTTP/2 with a window of so many bytes for each answer; it grows when data is released, which
/// nobody here does.
async fn http2(stream: TlsStream<TcpStream>, window: u32) -> Result<SendRequest<Bytes>> {
    let mut builder = h2::client::Builder::new();
    builder.initial_window_size(window).max_header_list_size(1 << 20);
    let (sender, connection) = builder.handshake(stream).await?;
    tokio::spawn(connection);
    Ok(sender)
}

async fn call(
    sender: &SendRequest<Bytes>,
    request: Request<()>,
    body: Bytes,
) -> Result<ResponseFuture> {
    let mut sender = sender.clone().ready().await?;
    let (response, mut stream) = sender.send_request(request, false)?;
    stream.send_data(body, true)?;
    Ok(response)
}

/// The active's number and a passive's.
async fn active_and_passive(cluster: &Cluster) -> Result<(usize, usize)> {
    let active: usize = cluster.active_of("DB1").await?[1..].parse()?;
    Ok((active, active % 3 + 1))
}

/// The addresses of the active and of a passive, those of data and of control.
async fn addresses(cluster: &Cluster) -> Result<Vec<String>> {
    let (active, passive) = active_and_passive(cluster).await?;
    let mut addresses = Vec::new();
    for number in [active, passive] {
        addresses.push(cluster.data_address(number)?);
        addresses.push(cluster.control_address(number)?);
    }
    Ok(addresses)
}

/// Writing goes on, somebody new gets in, and no copy has lost anything or is behind.
async fn nobody_else_suffers(cluster: &Cluster, writer: Writer) -> Result<()> {
    writer.progress(500).await?;
    cluster.cli().succeed(["kv", "put", "DB1", "afterwards", "1"]).await?;
    cluster.cli().succeed(["cluster", "status"]).await?;
    let oracle = writer.stop().await?;
    oracle.verify(&cluster.client().database("DB1")).await?;
    cluster.wait_until_caught_up("DB1").await?;
    cluster.equal_digest("DB1", 3).await?;
    cluster.assert_clean_logs(&[])
}

/// A test has more connections than most shells allow it files.
fn allow_many_files() -> Result<()> {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    Ok(setrlimit(Resource::RLIMIT_NOFILE, most, most)?)
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_say_nothing_or_half_of_it_keep_nobody_out() -> Result<()> {
    let mut cluster = cluster().await?;
    let writer = Writer::start(cluster.client().database("DB1"), WriterOptions::default());
    allow_many_files()?;
    let mut held = Vec::new();
    let mut handshaken = Vec::new();
    for address in addresses(&cluster).await? {
        for number in 0..300 {
            let mut tcp = TcpStream::connect(&address).await?;
            if number % 2 == 0 {
                tcp.write_all(HALF_A_HELLO).await?;
            }
            held.push(tcp);
        }
        for number in 0..50 {
            let mut tls = secured(cluster.client_toml(), &address).await?;
            tls.write_all(&PREFACE[..number % PREFACE.len()]).await?;
            handshaken.push(tls);
        }
    }
    // A member that comes back finds its place among them.
    let (_, passive) = active_and_passive(&cluster).await?;
    let member = cluster.member(&format!("m{passive}"));
    member.kill()?;
    member.start()?;
    cluster.wait_until_counting("DB1").await?;
    nobody_else_suffers(&cluster, writer).await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_http2_is_cut_off() -> Result<()> {
    let cluster = cluster().await?;
    let writer = Writer::start(cluster.client().database("DB1"), WriterOptions::default());
    let after = |bytes: Vec<u8>| [PREFACE, &bytes].concat();
    let endless = frame(CONTINUATION, 0, 1, &[0x40; 16_000]).repeat(1_000);
    let cases = [
        ("another version", b"GET / HTTP/1.1\r\nHost: keelson\r\n\r\n".to_vec()),
        ("rubbish", after(vec![0xff; 4_096])),
        ("settings of no size", after(frame(SETTINGS, 0, 0, &[0; 5]))),
        ("a request of the server's", after(frame(HEADERS, 5, 2, &[0x82]))),
        ("headers that cannot be read", after(frame(HEADERS, 5, 1, &[0xff; 64]))),
        ("headers without end", after([frame(HEADERS, 1, 1, &[0x82]), endless].concat())),
    ];
    for address in addresses(&cluster).await? {
        for (name, bytes) in &cases {
            let mut tls = secured(cluster.client_toml(), &address).await?;
            let said = async {
                // It may be cut off before it has said all, and without a word.
                let _ = tls.write_all(bytes).await;
                let _ = tls.read_to_end(&mut Vec::new()).await;
            };
            let ended = timeout(PATIENCE, said).await;
            ensure!(ended.is_ok(), "{name} is still heard at {address}");
        }
        let mut tcp = TcpStream::connect(&address).await?;
        tcp.write_all(b"GET / HTTP/1.1\r\nHost: keelson\r\n\r\n").await?;
        let ended = timeout(PATIENCE, tcp.read_to_end(&mut Vec::new())).await;
        ensure!(ended.is_ok(), "what is no TLS is still heard at {address}");
    }
    nobody_else_suffers(&cluster, writer).await
}

/// The status of gRPC, in the headers or behind the answer; none if the answer is none of gRPC.
async fn status(response: Response<h2::RecvStream>) -> Result<Option<String>> {
    let of = |headers: &HeaderMap| Some(headers.get("grpc-status")?.to_str().ok()?.to_owned());
    if let Some(status) = of(response.headers()) {
        return Ok(Some(status));
    }
    let mut body = response.into_body();
    while let Some(data) = body.data().await {
        body.flow_control().release_capacity(data?.len())?;
    }
    Ok(body.trailers().await?.as_ref().and_then(of))
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_that_no_client_may_send_are_refused_one_by_one() -> Result<()> {
    let cluster = cluster().await?;
    let writer = Writer::start(cluster.client().database("DB1"), WriterOptions::default());
    let (active, _) = active_and_passive(&cluster).await?;
    let stream = secured(cluster.client_toml(), &cluster.data_address(active)?).await?;
    let sender = http2(stream, 65_535).await?;
    let put = v1::PutRequest {
        database: "DB1".into(),
        key: "forbidden".into(),
        value: "1".into(),
        ..Default::default()
    };
    let (put, content) = (asked(&put), put.encode_to_vec());
    let length = u32::try_from(content.len())?;
    let compressed = Bytes::from([&[1], &put[1..]].concat());
    let plain = Request::post("https://127.0.0.1/keelson.v1.Kv/Put").body(())?;
    let cases = [
        ("a message of 4 GiB", request("Kv/Put")?, message(u32::MAX, &content)),
        ("more than is there", request("Kv/Put")?, message(length + 1, &content)),
        ("less than is there", request("Kv/Put")?, message(length - 1, &content)),
        ("compressed", request("Kv/Put")?, compressed),
        ("nothing", request("Kv/Put")?, Bytes::new()),
        ("no message", request("Kv/Put")?, message(64, &[0xff; 64])),
        ("no such call", request("Kv/Purge")?, put.clone()),
        ("a call of members", request("Replication/LogSession")?, put.clone()),
        ("no gRPC", plain, put.clone()),
    ];
    for (name, request, body) in cases {
        let response = call(&sender, request, body).await?;
        let response =
            timeout(PATIENCE, response).await.with_context(|| format!("{name} hangs"))?;
        let response = response.with_context(|| name.to_owned())?;
        let is_ok = response.status().is_success();
        let status = timeout(PATIENCE, status(response)).await?;
        let status = status.with_context(|| name.to_owned())?;
        ensure!(!is_ok || status.as_deref().is_some_and(|s| s != "0"), "{name}: {status:?}");
    }
    let database = cluster.client().database("DB1");
    assert_eq!(database.get("forbidden").await?, None, "none of them was taken for a write");
    // The connection is as good as before.
    let response = call(&sender, request("Kv/Put")?, put).await?.await?;
    assert_eq!(status(response).await?.as_deref(), Some("0"));
    nobody_else_suffers(&cluster, writer).await
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_are_taken_back_by_the_thousand_stop_nothing() -> Result<()> {
    let cluster = cluster().await?;
    let writer = Writer::start(cluster.client().database("DB1"), WriterOptions::default());
    for address in addresses(&cluster).await? {
        let sender = http2(secured(cluster.client_toml(), &address).await?, 65_535).await?;
        for _ in 0..20_000 {
            // The server may end the connection, which is as good.
            let Ok(mut ready) = sender.clone().ready().await else { break };
            let Ok((_, mut body)) = ready.send_request(request("Kv/Get")?, false) else { break };
            body.send_reset(h2::Reason::CANCEL);
        }
    }
    nobody_else_suffers(&cluster, writer).await
}

/// Memory of the data process of member `number`.
fn memory_bytes(cluster: &mut Cluster, number: usize) -> Result<u64> {
    let pid = cluster.member(&format!("m{number}")).data_pid().context("it runs")?;
    let text = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("its memory")?;
    let kibibytes = line.trim().split(' ').next().context("a number")?;
    Ok(kibibytes.parse::<u64>()? * 1024)
}

/// Bytes of the large value, and how often it is asked for.
const LARGE_BYTES: usize = 1024 * 1024;
const ASKED: usize = 600;

/// Room of one client for answers is 32 MiB, and beside it a process may grow a little.
const GROWTH_MAX: u64 = 256 * 1024 * 1024;

#[tokio::test(flavor = "multi_thread")]
async fn answers_that_are_never_taken_hold_bounded_memory_and_stop_nothing() -> Result<()> {
    let mut cluster = cluster().await?;
    let database = cluster.client().database("DB1");
    let first = database.put("large", vec![b'x'; LARGE_BYTES]).await?.token;
    let writer = Writer::start(database.clone(), WriterOptions::default());
    writer.progress(1_000).await?;
    let (active, _) = active_and_passive(&cluster).await?;
    let config = certified(&cluster, "reader", &["DB1"]).await?;
    let before = memory_bytes(&mut cluster, active)?;
    // One takes nothing at all, the other the beginning of each answer.
    let address = cluster.data_address(active)?;
    let sender = http2(secured(&config, &address).await?, 0).await?;
    let slow = http2(secured(&config, &address).await?, 10_000).await?;
    let answered = Arc::new(AtomicUsize::new(0));
    let get = v1::GetRequest { database: "DB1".into(), key: "large".into(), ..Default::default() };
    let watch = v1::WatchRequest { database: "DB1".into(), from: first, ..Default::default() };
    let scan = v1::ScanRequest { database: "DB1".into(), ..Default::default() };
    let mut kept = tokio::task::JoinSet::new();
    for number in 0..ASKED {
        let by = if number % 2 == 0 { &sender } else { &slow };
        let response = call(by, request("Kv/Get")?, asked(&get)).await?;
        let answered = answered.clone();
        kept.spawn(async move {
            let response = response.await;
            // What was refused is answered at once and holds nothing.
            let is_refusal = |answer: &Response<_>| answer.headers().contains_key("grpc-status");
            if response.as_ref().is_ok_and(|answer| !is_refusal(answer)) {
                answered.fetch_add(1, Ordering::SeqCst);
            }
            // Nobody reads it.
            std::future::pending::<()>().await;
            drop(response);
        });
    }
    let mut streams = Vec::new();
    for _ in 0..25 {
        streams.push(call(&slow, request("Kv/Watch")?, asked(&watch)).await?.await?);
        streams.push(call(&slow, request("Kv/Scan")?, asked(&scan)).await?.await?);
        streams.push(call(&sender, request("Kv/Watch")?, asked(&watch)).await?.await?);
        streams.push(call(&sender, request("Kv/Scan")?, asked(&scan)).await?.await?);
    }
    eventually("some answers are there", || async {
        ensure!(answered.load(Ordering::SeqCst) >= 8, "{answered:?}");
        Ok(())
    })
    .await?;
    writer.progress(2_000).await?;
    let (grown, answers) = (memory_bytes(&mut cluster, active)?, answered.load(Ordering::SeqCst));
    ensure!(grown < before + GROWTH_MAX, "{before} bytes became {grown}");
    ensure!(answers < ASKED / 2, "{answers} answers of {LARGE_BYTES} bytes are held");
    // Others read it meanwhile, and who took nothing may once its connection is gone.
    ensure!(database.get("large").await?.is_some_and(|value| value.len() == LARGE_BYTES));
    drop((kept, streams, sender, slow));
    let client = Client::new(ClientConfig::load(&config)?, ClientOptions::default())?;
    ensure!(client.database("DB1").get("large").await?.is_some());
    nobody_else_suffers(&cluster, writer).await
}
