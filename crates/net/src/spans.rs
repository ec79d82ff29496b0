//! Spans of calls, and how a trace goes on from one process to the next.
//!
//! Every span of ours has the target [`SPANS`], which a subscriber lets through only while traces
//! are exported: otherwise a span is one look at a flag, and nothing is allocated. How a trace is
//! written into the headers of a call is a [`TraceCarrier`], which whoever exports traces installs
//! once; without one, headers are neither read nor written.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use http::HeaderMap;
use tonic::Code;
use tracing::{Level, Span};

use crate::PeerIdentity;

/// The target of all spans. Log lines never have it.
pub const SPANS: &str = "keelson_spans";

/// The header by which a call says that it is part of a trace (W3C Trace Context).
const TRACE_PARENT: &str = "traceparent";

/// Takes a trace out of the headers of a call, and puts it there.
pub trait TraceCarrier: Send + Sync {
    /// Makes `span`, which is new, a child of what the headers name, if they do.
    fn take(&self, headers: &HeaderMap, span: &Span);

    /// Names `span` as the parent of what the call causes. It is none if the caller is in no span.
    fn give(&self, span: &Span, headers: &mut HeaderMap);
}

static CARRIER: OnceLock<Box<dyn TraceCarrier>> = OnceLock::new();

/// From now on calls of this process carry the span that they are made in, and the calls that it
/// serves have spans. Once per process: a second carrier is not taken.
pub fn carry_traces(carrier: impl TraceCarrier + 'static) {
    drop(CARRIER.set(Box::new(carrier)));
}

/// What became of the spans of this process.
#[derive(Debug, Default)]
pub struct SpanCounts {
    exported: AtomicU64,
    dropped: AtomicU64,
}

static COUNTS: SpanCounts = SpanCounts { exported: AtomicU64::new(0), dropped: AtomicU64::new(0) };

impl SpanCounts {
    /// Those of this process.
    #[must_use]
    pub fn of_process() -> &'static Self {
        &COUNTS
    }

    /// A collector took so many.
    pub fn exported(&self, spans: usize) {
        self.exported.fetch_add(spans as u64, Ordering::Relaxed);
    }

    /// So many got nowhere.
    pub fn dropped(&self, spans: usize) {
        self.dropped.fetch_add(spans as u64, Ordering::Relaxed);
    }

    /// How many were exported, and how many dropped.
    #[must_use]
    pub fn told(&self) -> (u64, u64) {
        (self.exported.load(Ordering::Relaxed), self.dropped.load(Ordering::Relaxed))
    }
}

/// Notes in the span of the call that is being served which database it is about.
pub fn note_database(name: &str) {
    if tracing::span_enabled!(target: SPANS, Level::INFO) {
        Span::current().record("keelson.database", name);
    }
}

/// A place in a trace, for what happens later and elsewhere: it keeps no span open.
#[derive(Clone, Debug, Default)]
pub struct TracePlace(HeaderMap);

impl TracePlace {
    /// The span that the caller is in; nowhere while traces are not exported.
    #[must_use]
    pub fn here() -> Self {
        let mut headers = HeaderMap::new();
        give(&mut headers);
        Self(headers)
    }

    /// Makes `span`, which is new, a child of this place.
    pub fn adopts(&self, span: &Span) {
        if let Some(carrier) = CARRIER.get().filter(|_| !self.0.is_empty()) {
            carrier.take(&self.0, span);
        }
    }
}

/// Puts the span that the caller is in into the headers of its call.
pub(crate) fn give(headers: &mut HeaderMap) {
    if let Some(carrier) = CARRIER.get() {
        carrier.give(&Span::current(), headers);
    }
}

macro_rules! call_span {
    ($level:expr, $service:expr, $method:expr) => {
        tracing::span!(
            target: SPANS,
            $level,
            "call",
            otel.name = %format_args!("{}.{}", $service, $method),
            otel.kind = "server",
            otel.status_code = tracing::field::Empty,
            rpc.system = "grpc",
            rpc.service = %format_args!("keelson.v1.{}", $service),
            rpc.method = $method,
            rpc.grpc.status_code = tracing::field::Empty,
            keelson.caller = tracing::field::Empty,
            keelson.database = tracing::field::Empty,
        )
    };
}

/// The span of a call that was let in. What members tell each other all the time has one only as
/// part of a trace, or at the level `debug`.
pub(crate) fn of_call(path: &str, headers: &HeaderMap, caller: Option<&PeerIdentity>) -> Span {
    let Some(carrier) = CARRIER.get() else { return Span::none() };
    let call = path.strip_prefix("/keelson.v1.").and_then(|call| call.split_once('/'));
    let Some((service, method)) = call else { return Span::none() };
    let routine = matches!(service, "Cluster" | "Replication");
    let span = match routine && !headers.contains_key(TRACE_PARENT) {
        true => call_span!(Level::DEBUG, service, method),
        false => call_span!(Level::INFO, service, method),
    };
    if span.is_disabled() {
        return span;
    }
    carrier.take(headers, &span);
    if let Some(caller) = caller {
        span.record("keelson.caller", tracing::field::display(caller));
    }
    span
}

/// Notes how a call was answered. What the caller did wrong is no error of the server.
pub(crate) fn answered(span: &Span, code: Code) {
    if span.is_disabled() {
        return;
    }
    span.record("rpc.grpc.status_code", code as i64);
    let faults = [
        Code::Unknown,
        Code::DeadlineExceeded,
        Code::Unimplemented,
        Code::Internal,
        Code::Unavailable,
        Code::DataLoss,
    ];
    if faults.contains(&code) {
        span.record("otel.status_code", "ERROR");
    }
}
