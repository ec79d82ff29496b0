//! What spans cost and change where they must not: log lines, waiting, memory.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use http::HeaderMap;
use keelson_net::TraceCarrier;
use keelson_net::certs::{Authority, CertRequest, Validity};
use opentelemetry::trace::{Span as _, Tracer};
use opentelemetry_sdk::trace::SpanData;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::task::AbortOnDropHandle;
use tonic::service::Routes;
use tonic::transport::{Identity, ServerTlsConfig};
use tracing::{Level, info_span};
use tracing_subscriber::Registry;
use tracing_subscriber::layer::SubscriberExt;

use super::queue::{BATCH, WAITING_MAX};
use super::sender::{Export, Report};
use super::*;
use crate::logging;

fn counts() -> &'static SpanCounts {
    Box::leak(Box::default())
}

fn queue() -> Arc<Queue> {
    Arc::new(Queue::new(counts()))
}

/// Ends so many spans into the queue.
fn end_spans(queue: &Arc<Queue>, count: usize) {
    let processor = Processor(queue.clone());
    let provider = SdkTracerProvider::builder().with_span_processor(processor).build();
    let tracer = provider.tracer("test");
    (0..count).for_each(|_| tracer.start("x").end());
}

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Lines {
    /// The lines without their times.
    fn text(&self) -> Vec<String> {
        let text = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let text = String::from_utf8(text).unwrap();
        text.lines().map(|line| line.split_once(' ').unwrap_or_default().1.to_owned()).collect()
    }
}

/// What is logged with this filter, which spans there are, and whether they were wanted.
fn logged(filter: &str, traced: bool) -> (Vec<String>, Vec<String>, bool) {
    let (lines, queue) = (Lines::default(), queue());
    let writer = lines.clone();
    let parsed = || logging::parse(filter).unwrap();
    let layer = logging::lines_to(move || writer.clone(), false, parsed());
    let subscriber = Registry::default().with(layer);
    let mut wanted = false;
    let mut work = || {
        let span = info_span!(target: SPANS, "outer", otel.name = "named");
        wanted = !span.is_disabled();
        let _entered = span.entered();
        let _finer = tracing::debug_span!(target: SPANS, "finer").entered();
        let _foreign = tracing::info_span!(target: "h2", "foreign");
        tracing::info!(answer = 42, "a line");
        tracing::warn!("a louder line");
    };
    match traced {
        true => {
            let spans =
                super::layer(Processor(queue.clone()), Resource::builder().build(), 1.0, parsed());
            tracing::subscriber::with_default(subscriber.with(spans), work);
        }
        false => tracing::subscriber::with_default(subscriber, &mut work),
    }
    let names = queue.take().iter().map(|span| span.name.to_string()).collect();
    (lines.text(), names, wanted)
}

#[test]
fn spans_do_not_show_in_log_lines_and_have_a_level_of_their_own() {
    let module = module_path!();
    let (info, warn) =
        (format!(" INFO {module}: a line answer=42"), format!(" WARN {module}: a louder line"));
    let both = vec![info, warn.clone()];
    let finer = ["finer", "named"].map(String::from).to_vec();
    let named = vec!["named".to_owned()];
    for (filter, lines, spans) in [
        ("info", &both, &named),
        ("warn", &vec![warn], &named),
        ("debug", &both, &named),
        ("info,keelson_spans=debug", &both, &finer),
        ("info,keelson_spans=off", &both, &vec![]),
    ] {
        assert_eq!(logged(filter, true), (lines.clone(), spans.clone(), !spans.is_empty()));
        assert_eq!(logged(filter, false), (lines.clone(), vec![], false), "{filter}, no export");
    }
}

/// Never answers.
struct Hangs;

impl Export for Hangs {
    async fn export(&mut self, _spans: Vec<SpanData>) -> Result<(), String> {
        std::future::pending().await
    }
}

#[test]
fn a_collector_that_hangs_costs_what_does_not_fit_and_the_end_does_not_wait_for_it() {
    let queue = queue();
    let sender = Sender::start(queue.clone(), Hangs, Duration::from_hours(1)).unwrap();
    // One batch is on its way at most, and the queue is full.
    end_spans(&queue, WAITING_MAX + BATCH + 7);
    let (exported, dropped) = queue.counts.told();
    assert!(exported == 0 && (7..=7 + BATCH as u64).contains(&dropped), "{dropped}");
    drop(sender);
    end_spans(&queue, 1);
    assert_eq!(queue.counts.told(), (0, dropped + 1), "nothing is taken after the end");
}

/// Takes some, then none.
struct Takes(usize, std::sync::mpsc::Sender<usize>);

impl Export for Takes {
    async fn export(&mut self, spans: Vec<SpanData>) -> Result<(), String> {
        let _ = self.1.send(spans.len());
        self.0 = self.0.checked_sub(spans.len()).ok_or("too many")?;
        Ok(())
    }
}

#[test]
fn what_waits_at_the_end_is_sent_unless_the_collector_failed() {
    for (room, taken, outcome) in
        [(BATCH + 3, vec![BATCH, 3], (BATCH + 3, 0)), (0, vec![3], (0, 3))]
    {
        let (told, batches) = std::sync::mpsc::channel();
        let queue = queue();
        end_spans(&queue, taken.iter().sum());
        let sender = Sender::start(queue.clone(), Takes(room, told), Duration::from_hours(1));
        drop(sender.unwrap());
        assert_eq!(batches.iter().collect::<Vec<_>>(), taken);
        let (exported, dropped) = queue.counts.told();
        assert_eq!((exported as usize, dropped as usize), outcome);
    }
}

#[test]
fn the_log_tells_of_dropped_spans_once_a_minute() {
    let (mut report, start) = (Report::default(), Instant::now());
    let after = |seconds| start + Duration::from_secs(seconds);
    report.sent(Err("away".into()));
    assert!(!report.tell(0, start), "none was dropped");
    assert!(report.tell(5, start));
    assert!(!report.tell(9, after(59)) && report.tell(9, after(60)));
    assert!(!report.tell(9, after(600)), "no more than it told");
}

#[test]
fn a_trace_goes_on_from_the_headers_of_a_call_into_those_that_it_causes() {
    let (queue, carrier) = (queue(), W3c::default());
    let filter = logging::parse("info").unwrap();
    let spans = super::layer(Processor(queue.clone()), Resource::builder().build(), 0.0, filter);
    let subscriber = Registry::default().with(spans);
    let parent = |flags: &str| {
        let value = format!("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-{flags}");
        HeaderMap::from_iter([("traceparent".parse().unwrap(), value.parse().unwrap())])
    };
    let caused = |headers: &HeaderMap| {
        let span = info_span!(target: SPANS, "call");
        carrier.take(headers, &span);
        let mut caused = HeaderMap::new();
        carrier.give(&span, &mut caused);
        caused.get("traceparent").map(|value| value.to_str().unwrap().to_owned())
    };
    tracing::subscriber::with_default(subscriber, || {
        assert!(tracing::enabled!(target: SPANS, Level::INFO));
        let wanted = caused(&parent("01")).unwrap();
        let (before, flags) = wanted.rsplit_once('-').unwrap();
        assert!(wanted.starts_with("00-4bf92f3577b34da6a3ce929d0e0e4736-") && flags == "01");
        let taken = queue.take();
        assert_eq!(taken.len(), 1, "the caller exports its trace");
        assert!(before.ends_with(&taken[0].span_context.span_id().to_string()));
        assert_eq!(taken[0].parent_span_id.to_string(), "00f067aa0ba902b7");
        assert!(caused(&parent("00")).unwrap().ends_with("-00"), "the caller does not");
        let other = caused(&HeaderMap::new()).unwrap();
        assert!(!other.contains("4bf92f") && other.ends_with("-00"), "the ratio is 0");
        assert!(caused(&parent("zz")).unwrap().ends_with("-00"), "no trace is named");
        assert!(queue.take().is_empty());
    });
}

/// What is exported to a collector at this address whose authority is in this file.
async fn exported(address: SocketAddr, authority: &Path) -> Result<(), String> {
    let text = format!(
        "name = 'm1'\ndata_dir = 'data'\ntelemetry.endpoint = 'https://{address}'\n\
         telemetry.ca = '{}'\n[tls]\nca = 'ca.pem'\ncert = 'm1.pem'\nkey = 'm1.key'\n",
        authority.display()
    );
    let config = Config::parse(Path::new("m1.toml"), &text).unwrap();
    let settings = config.telemetry().unwrap().clone();
    Otlp::new(settings, Resource::builder_empty().build()).export(Vec::new()).await
}

/// A wrong file of the authority is like a collector that is away.
#[tokio::test]
async fn a_collector_over_tls_must_be_of_the_authority() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("collector.pem");
    let [own, other] = ["own", "other"].map(authority);
    let collector = own.issue(&CertRequest::member("collector", &[])).unwrap();
    let identity = Identity::from_pem(&collector.cert_pem, &collector.key_pem);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    // It knows no call; that it says so is enough.
    let serving = tonic::transport::Server::builder()
        .tls_config(ServerTlsConfig::new().identity(identity))
        .unwrap()
        .add_routes(Routes::default())
        .serve_with_incoming(TcpListenerStream::new(listener));
    let _serving = AbortOnDropHandle::new(tokio::spawn(serving));
    let missing = exported(address, &path).await.unwrap_err();
    assert!(missing.contains("collector.pem cannot be read"), "{missing}");
    std::fs::write(&path, other.cert_pem()).unwrap();
    let refused = exported(address, &path).await.unwrap_err();
    assert!(!refused.contains("Unimplemented"), "{refused}");
    std::fs::write(&path, own.cert_pem()).unwrap();
    let heard = exported(address, &path).await.unwrap_err();
    assert!(heard.contains("Unimplemented"), "{heard}");
}

fn authority(name: &str) -> Authority {
    Authority::create(name, Validity::days(1)).unwrap()
}
