//! Export of traces over OTLP, if the configuration names a collector (`[telemetry]`).
//!
//! Spans that end go into a bounded queue (`queue`), which never waits; a thread with a runtime of
//! its own and the lowest priority takes them out and sends them (`sender`). So a collector that is
//! slow, hangs or is away costs spans, which are counted, and nothing else. Without `[telemetry]`
//! none of this exists: no layer, no thread, no span.

mod carrier;
mod otlp;
mod queue;
mod sender;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use anyhow::Context;
use keelson_net::{SPANS, SpanCounts, carry_traces};
use opentelemetry::KeyValue;
use opentelemetry::trace::TracerProvider;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{Sampler, SdkTracerProvider, SpanProcessor};
use tracing_subscriber::filter::{FilterExt, LevelFilter, filter_fn};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::{EnvFilter, Layer};

use crate::{Config, config};
use carrier::W3c;
use otlp::Otlp;
use queue::{Processor, Queue};
use sender::Sender;

/// What the process is, as its spans tell.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Process {
    /// Consensus and the active manager.
    Control,
    /// Logs, stores, clients.
    Data,
    /// A vote without data.
    Witness,
}

impl Process {
    const fn name(self) -> &'static str {
        match self {
            Self::Control => "control",
            Self::Data => "data",
            Self::Witness => "witness",
        }
    }
}

/// Keeps the export going; dropping it sends what waits, for a short time at most.
#[derive(Debug, Default)]
pub(crate) struct Exporting(
    #[expect(dead_code, reason = "it ends the thread when it is dropped")] Option<Sender>,
);

/// Starts the thread that sends, and gives the layer that makes spans of the process's.
///
/// # Errors
/// A thread cannot be started.
pub(crate) fn start<S>(
    config: &Config,
    settings: &config::Telemetry,
    process: Process,
    filter: EnvFilter,
) -> anyhow::Result<(Exporting, impl Layer<S> + use<S>)>
where
    S: tracing::Subscriber + for<'a> LookupSpan<'a>,
{
    let queue = Arc::new(Queue::new(SpanCounts::of_process()));
    let resource = resource(config, process);
    let exporter = Otlp::new(settings.clone(), resource.clone());
    let sender = Sender::start(queue.clone(), exporter, settings.export_timeout());
    let sender = sender.context("cannot start threads")?;
    carry_traces(W3c::default());
    let layer = layer(Processor(queue), resource, settings.sampling_ratio(), filter);
    Ok((Exporting(Some(sender)), layer))
}

fn resource(config: &Config, process: Process) -> Resource {
    Resource::builder()
        .with_service_name("keelson")
        .with_attributes([
            KeyValue::new("service.instance.id", config.name().to_string()),
            KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
            KeyValue::new("keelson.process", process.name()),
            KeyValue::new("keelson.site", config.site().to_string()),
        ])
        .build()
}

/// Makes spans of ours, and the log lines within them, spans and events of traces.
fn layer<S, P>(
    processor: P,
    resource: Resource,
    ratio: f64,
    filter: EnvFilter,
) -> impl Layer<S> + use<S, P>
where
    S: tracing::Subscriber + for<'a> LookupSpan<'a>,
    P: SpanProcessor + 'static,
{
    // A caller that decided about its trace is followed.
    let sampler = Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(ratio)));
    let provider = SdkTracerProvider::builder()
        .with_span_processor(processor)
        .with_sampler(sampler)
        .with_resource(resource)
        .build();
    let ours = filter_fn(|metadata| !metadata.is_span() || metadata.target() == SPANS);
    tracing_opentelemetry::layer()
        .with_tracer(provider.tracer("keelson"))
        .with_location(false)
        .with_threads(false)
        .with_target(false)
        .with_tracked_inactivity(false)
        .with_context_activation(false)
        .with_filter(ours.with_max_level_hint(LevelFilter::TRACE).and(filter))
}
