//! Traces that members export to a collector, and a collector that does not take them.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, ensure};
use keelson_client::{TraceCarrier, carry_traces};
use keelson_testkit::{Cluster, ClusterOptions, collect_metrics, eventually, free_port};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::task::AbortOnDropHandle;
use tonic::codegen::http::{HeaderMap, HeaderValue};
use tonic::{Request, Response, Status};

use crate::moves::another;

/// A span that arrived, with what its process says of itself.
#[derive(Clone, Debug)]
struct Arrived {
    name: String,
    kind: SpanKind,
    trace: String,
    id: Vec<u8>,
    parent: Vec<u8>,
    from: u64,
    to: u64,
    attributes: BTreeMap<String, String>,
    resource: BTreeMap<String, String>,
}

impl Arrived {
    /// The attribute, or nothing.
    fn says(&self, name: &str) -> &str {
        self.attributes.get(name).map(String::as_str).unwrap_or_default()
    }

    fn contains(&self, other: &Self) -> bool {
        self.from <= other.from && other.to <= self.to
    }
}

/// A collector of traces in this process.
#[derive(Clone, Default)]
struct Collector(Arc<Mutex<Vec<Arrived>>>);

impl Collector {
    async fn listen(&self) -> Result<(SocketAddr, AbortOnDropHandle<()>)> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let service = TraceServiceServer::new(self.clone());
        let serving = tonic::transport::Server::builder()
            .add_service(service)
            .serve_with_incoming(TcpListenerStream::new(listener));
        let serving = async move { serving.await.expect("the collector serves") };
        Ok((address, AbortOnDropHandle::new(tokio::spawn(serving))))
    }

    fn spans(&self) -> Vec<Arrived> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The first span like this, once it has arrived.
    async fn span(&self, what: &str, wanted: impl Fn(&Arrived) -> bool) -> Result<Arrived> {
        eventually(what, || async {
            let spans = self.spans();
            let found = spans.iter().find(|span| wanted(span)).cloned();
            found.with_context(|| {
                let of = |span: &Arrived| format!("{} {:?}", span.name, span.attributes);
                spans.iter().map(of).collect::<Vec<_>>().join("\n")
            })
        })
        .await
    }
}

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        // As the environment of the members has it.
        if request.metadata().get("authorization").is_none_or(|shown| shown != "Bearer secret") {
            return Err(Status::unauthenticated("no token"));
        }
        let mut arrived = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for group in request.into_inner().resource_spans {
            let resource = texts(&group.resource.unwrap_or_default().attributes);
            for span in group.scope_spans.into_iter().flat_map(|scope| scope.spans) {
                arrived.push(Arrived {
                    kind: span.kind(),
                    name: span.name,
                    trace: span.trace_id.iter().map(|byte| format!("{byte:02x}")).collect(),
                    id: span.span_id,
                    parent: span.parent_span_id,
                    from: span.start_time_unix_nano,
                    to: span.end_time_unix_nano,
                    attributes: texts(&span.attributes),
                    resource: resource.clone(),
                });
            }
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

fn texts(attributes: &[KeyValue]) -> BTreeMap<String, String> {
    let text = |pair: &KeyValue| match pair.value.as_ref()?.value.as_ref()? {
        Value::StringValue(text) => Some((pair.key.clone(), text.clone())),
        Value::IntValue(number) => Some((pair.key.clone(), number.to_string())),
        Value::BoolValue(is) => Some((pair.key.clone(), is.to_string())),
        _ => None,
    };
    attributes.iter().filter_map(text).collect()
}

tokio::task_local! {
    /// The trace that the calls of a task are part of.
    static TRACE: &'static str;
}

/// The span of the caller, in every trace.
const CALLER: [u8; 8] = [0, 0xf0, 0x67, 0xaa, 0x0b, 0xa9, 0x02, 0xb7];

struct Carrier;

impl TraceCarrier for Carrier {
    fn take(&self, _headers: &HeaderMap, _span: &tracing::Span) {}

    fn give(&self, _span: &tracing::Span, headers: &mut HeaderMap) {
        let Ok(trace) = TRACE.try_with(|trace| *trace) else { return };
        let parent = format!("00-{trace}-00f067aa0ba902b7-01");
        headers.insert("traceparent", HeaderValue::try_from(parent).expect("plain letters"));
    }
}

const OF_WRITE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const OF_MOVE: &str = "0af7651916cd43dd8448eb211c80319c";

async fn traced(members: usize, collector: SocketAddr, more: &str) -> Result<Cluster> {
    let settings = format!("telemetry.endpoint = \"http://{collector}\"\n{more}");
    let header = "authorization=Bearer%20secret".to_owned();
    let environment = vec![("OTEL_EXPORTER_OTLP_HEADERS".to_owned(), header)];
    let options = ClusterOptions { members, settings, environment, ..ClusterOptions::default() };
    Cluster::start_with(options).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_and_a_move_are_traced_through_the_members() -> Result<()> {
    let collector = Collector::default();
    let (address, _serving) = collector.listen().await?;
    let cluster = traced(3, address, "").await?;
    cluster.create_database("DB1", &["m1", "m2", "m3"]).await?;
    carry_traces(Carrier);
    let (active, database) = (cluster.active_of("DB1").await?, cluster.client().database("DB1"));
    TRACE.scope(OF_WRITE, database.put("key", "value")).await?;
    let wanted = |span: &Arrived| span.name == "Kv.Put" && span.trace == OF_WRITE;
    let put = collector.span("the span of the write", wanted).await?;
    assert_eq!((put.kind, put.parent.as_slice()), (SpanKind::Server, CALLER.as_slice()));
    for (name, value) in [
        ("rpc.system", "grpc"),
        ("rpc.service", "keelson.v1.Kv"),
        ("rpc.method", "Put"),
        ("rpc.grpc.status_code", "0"),
        ("keelson.database", "DB1"),
        ("keelson.caller", "client (admin)"),
    ] {
        assert_eq!(put.says(name), value, "{name} of {put:?}");
    }
    for (name, value) in [
        ("service.name", "keelson"),
        ("service.instance.id", active.as_str()),
        ("service.version", env!("CARGO_PKG_VERSION")),
        ("keelson.process", "data"),
    ] {
        assert_eq!(put.resource.get(name).map(String::as_str), Some(value), "{name}");
    }
    let mut stages = Vec::new();
    for name in ["write.queue", "write.log", "write.commit"] {
        let stage = collector.span(name, |s| s.name == name && s.parent == put.id).await?;
        ensure!(stage.trace == OF_WRITE && put.contains(&stage), "{stage:?} is not in {put:?}");
        stages.push(stage);
    }
    ensure!(stages.windows(2).all(|pair| pair[0].to <= pair[1].from), "{stages:?}");
    moved(&cluster, &collector, &active).await?;
    seeded(&cluster, &collector).await?;
    cluster.assert_clean_logs(&[])
}

/// What an operator asked for goes on in the trace of the call, at the leader and at the members.
async fn moved(cluster: &Cluster, collector: &Collector, active: &str) -> Result<()> {
    let to = another(cluster, active);
    let admin = cluster.client().admin();
    let operation = TRACE.scope(OF_MOVE, admin.switchover("DB1", &to, "")).await?;
    let within = |name: &'static str| {
        let wanted = move |span: &Arrived| span.name == name && span.trace == OF_MOVE;
        collector.span(name, wanted)
    };
    let call = within("Admin.Switchover").await?;
    let plan = within("switchover").await?;
    assert_eq!(plan.parent, call.id, "{plan:?}");
    assert_eq!(plan.says("keelson.operation"), operation.to_string());
    assert_eq!((plan.says("keelson.target"), plan.says("keelson.outcome")), (&*to, "serves"));
    assert_eq!(plan.resource["keelson.process"], "control");
    let seal = within("activation.seal").await?;
    ensure!(seal.parent == plan.id && plan.contains(&seal), "{seal:?} is not in {plan:?}");
    let mount = within("activation.mount").await?;
    assert_eq!((&mount.parent, mount.says("keelson.member")), (&plan.id, &*to));
    // The leader seals the copies of others by calls.
    let sealed = within("Cluster.SealMany").await?;
    ensure!(sealed.resource["service.instance.id"] != plan.resource["service.instance.id"]);
    Ok(())
}

async fn seeded(cluster: &Cluster, collector: &Collector) -> Result<()> {
    let active = cluster.active_of("DB1").await?;
    let (target, cli) = (another(cluster, &active), cluster.cli());
    let copy = format!("DB1@{target}");
    cli.succeed(["copy", "suspend", &copy, "--comment", "to be seeded"]).await?;
    cli.succeed(["copy", "seed", &copy, "--yes"]).await?;
    let seed = collector.span("the seed", |span| span.name == "seed").await?;
    assert_eq!(seed.resource["service.instance.id"], target);
    assert_eq!((seed.says("keelson.database"), seed.says("keelson.outcome")), ("DB1", "in_place"));
    let phase = |span: &Arrived| span.name == "seed.transferring" && span.parent == seed.id;
    collector.span("a phase of the seed", phase).await?;
    let fetched = |span: &Arrived| span.name == "Replication.OpenSeed" && span.trace == seed.trace;
    let source = collector.span("the call to its source", fetched).await?;
    ensure!(source.resource["service.instance.id"] != target, "{source:?}");
    Ok(())
}

/// Its listener takes connections and never says a word.
#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_hangs_or_is_away_costs_spans_and_nothing_else() -> Result<()> {
    let silent = TcpListener::bind("127.0.0.1:0").await?;
    let away = SocketAddr::from(([127, 0, 0, 1], free_port()?));
    for collector in [silent.local_addr()?, away] {
        let port = free_port()?;
        let more = format!(
            "telemetry.export_timeout = \"100ms\"\nmetrics_address = \"127.0.0.1:{port}\"\n"
        );
        let mut cluster = traced(1, collector, &more).await?;
        cluster.create_database("DB1", &["m1"]).await?;
        let database = cluster.client().database("DB1");
        let mut written = 0;
        eventually("both processes drop spans while the member serves", || {
            written += 1;
            let (database, number) = (database.clone(), written);
            async move {
                database.put(format!("{number}"), "v").await?;
                let text = collect_metrics(port)?;
                let count = |process: &str, outcome: &str| {
                    let of = format!("process=\"{process}\",outcome=\"{outcome}\"");
                    let line = format!("keelson_spans_total{{{of}}} ");
                    let found = text.lines().find_map(|found| found.strip_prefix(&line));
                    found.and_then(|count| count.parse::<u64>().ok()).unwrap_or_default()
                };
                ensure!(count("control", "dropped") > 0 && count("data", "dropped") > 0, "{text}");
                ensure!(count("control", "exported") + count("data", "exported") == 0, "{text}");
                Ok(())
            }
        })
        .await?;
        assert_eq!(database.get("1").await?.as_deref(), Some("v".as_bytes()));
        let log = cluster.member("m1").log();
        eventually("the log tells of it", || async {
            let text = std::fs::read_to_string(&log)?;
            ensure!(text.matches("spans of traces are dropped").count() == 2, "{text}");
            Ok(())
        })
        .await?;
        cluster.assert_clean_logs(&[])?;
        cluster.member("m1").stop()?;
    }
    Ok(())
}
