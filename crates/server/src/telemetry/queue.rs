//! Spans that ended and wait for the collector. Whoever ends a span never waits: a full queue drops
//! and counts.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use keelson_net::SpanCounts;
use opentelemetry::Context;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{Span, SpanData, SpanProcessor};
use tokio::sync::Notify;

/// Spans that may wait: some megabytes.
pub(super) const WAITING_MAX: usize = 4096;

/// Spans that are sent at once; far below the 4 MiB that collectors take in a message.
pub(super) const BATCH: usize = 512;

/// See the module page.
#[derive(Debug)]
pub(super) struct Queue {
    waiting: Mutex<Waiting>,
    /// A batch is full, or nothing more comes.
    news: Notify,
    pub(super) counts: &'static SpanCounts,
}

#[derive(Debug, Default)]
struct Waiting {
    spans: Vec<SpanData>,
    closed: bool,
}

impl Queue {
    pub(super) fn new(counts: &'static SpanCounts) -> Self {
        Self { waiting: Mutex::default(), news: Notify::new(), counts }
    }

    fn push(&self, span: SpanData) {
        let mut waiting = self.lock();
        if waiting.closed || waiting.spans.len() >= WAITING_MAX {
            drop(waiting);
            return self.counts.dropped(1);
        }
        waiting.spans.push(span);
        if waiting.spans.len() == BATCH {
            self.news.notify_one();
        }
    }

    /// The oldest that wait, at most [`BATCH`]; none if none does.
    pub(super) fn take(&self) -> Vec<SpanData> {
        let mut waiting = self.lock();
        let count = waiting.spans.len().min(BATCH);
        waiting.spans.drain(..count).collect()
    }

    /// Returns after `pause`, or at once when a batch is full or the queue was closed; says whether
    /// it was.
    pub(super) async fn wait(&self, pause: Duration) -> bool {
        // Either is as good.
        let _ = tokio::time::timeout(pause, self.news.notified()).await;
        self.lock().closed
    }

    /// Nothing more is taken.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.news.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the library hands ended spans to. It is told to end by nobody: whoever sends looks after
/// that.
#[derive(Debug)]
pub(super) struct Processor(pub(super) Arc<Queue>);

impl SpanProcessor for Processor {
    fn on_start(&self, _span: &mut Span, _cx: &Context) {}

    fn on_end(&self, span: SpanData) {
        // The others are there to be parents.
        if span.span_context.is_sampled() {
            self.0.push(span);
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _timeout: Duration) -> OTelSdkResult {
        Ok(())
    }
}
