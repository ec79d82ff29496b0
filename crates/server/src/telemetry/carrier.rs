//! Traces in the headers of calls, as W3C Trace Context has them: `traceparent`, `tracestate`.

use http::{HeaderMap, HeaderName, HeaderValue};
use keelson_net::TraceCarrier;
use opentelemetry::Context;
use opentelemetry::propagation::{Extractor, Injector, TextMapPropagator};
use opentelemetry::trace::TraceContextExt;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;

/// The one format that is spoken here.
#[derive(Debug, Default)]
pub(super) struct W3c(TraceContextPropagator);

impl TraceCarrier for W3c {
    fn take(&self, headers: &HeaderMap, span: &Span) {
        let named = self.0.extract_with_context(&Context::new(), &Shown(headers));
        if named.span().span_context().is_valid() {
            // Fails only for a span that nobody wants, or that began already.
            let _ = span.set_parent(named);
        }
    }

    fn give(&self, span: &Span, headers: &mut HeaderMap) {
        self.0.inject_context(&span.context(), &mut Written(headers));
    }
}

struct Shown<'a>(&'a HeaderMap);

impl Extractor for Shown<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.to_str().ok()
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(HeaderName::as_str).collect()
    }
}

struct Written<'a>(&'a mut HeaderMap);

impl Injector for Written<'_> {
    fn set(&mut self, key: &str, value: String) {
        let name = HeaderName::from_bytes(key.as_bytes());
        if let (Ok(name), Ok(value)) = (name, HeaderValue::try_from(value)) {
            self.0.insert(name, value);
        }
    }
}
