//! The thread that sends spans, in batches: every second, or when a batch is full.
//!
//! What a collector does not take in time is dropped, and so is what waits at the end if it failed
//! last. A log line tells of dropped spans once a minute at most.

use std::fmt::Display;
use std::future::Future;
use std::io;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use opentelemetry_sdk::trace::SpanData;

use super::queue::Queue;
use crate::nice;

/// Spans wait so long for others.
const PAUSE: Duration = Duration::from_secs(1);

/// Between two lines about dropped spans.
const TELL: Duration = Duration::from_mins(1);

/// How long the end of the process waits for the last spans; the member hands its databases over
/// meanwhile.
const FLUSH: Duration = Duration::from_millis(500);

/// Sends spans somewhere.
pub(super) trait Export: Send + 'static {
    /// Sends a batch.
    ///
    /// # Errors
    /// Why it was not taken, for people.
    fn export(&mut self, spans: Vec<SpanData>) -> impl Future<Output = Result<(), String>> + Send;
}

/// The running thread. Dropping it ends it, after the last spans or [`FLUSH`].
#[derive(Debug)]
pub(super) struct Sender {
    queue: Arc<Queue>,
    /// Never gets a message: it breaks when the thread ends.
    ended: mpsc::Receiver<()>,
}

impl Sender {
    /// # Errors
    /// The thread cannot be started.
    pub(super) fn start(
        queue: Arc<Queue>,
        exporter: impl Export,
        timeout: Duration,
    ) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (running, ended) = mpsc::channel();
        let work = Work { queue: queue.clone(), exporter, timeout, report: Report::default() };
        std::thread::Builder::new().name("keelson-spans".into()).spawn(move || {
            nice::quiet_this_thread();
            runtime.block_on(work.run());
            drop(running);
        })?;
        Ok(Self { queue, ended })
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        self.queue.close();
        // What hangs ends with the process.
        let _ = self.ended.recv_timeout(FLUSH);
    }
}

struct Work<E> {
    queue: Arc<Queue>,
    exporter: E,
    timeout: Duration,
    report: Report,
}

impl<E: Export> Work<E> {
    async fn run(mut self) {
        let mut closed = false;
        while !closed {
            closed = self.queue.wait(PAUSE).await;
            loop {
                let spans = self.queue.take();
                if spans.is_empty() {
                    break;
                }
                let count = spans.len();
                match closed && self.report.fails() {
                    true => self.queue.counts.dropped(count),
                    false => self.send(spans, count).await,
                }
            }
            self.report.tell(self.queue.counts.told().1, Instant::now());
        }
    }

    async fn send(&mut self, spans: Vec<SpanData>, count: usize) {
        let sent = tokio::time::timeout(self.timeout, self.exporter.export(spans)).await;
        let sent = sent.unwrap_or_else(|_| Err(format!("no answer within {:?}", self.timeout)));
        match &sent {
            Ok(()) => self.queue.counts.exported(count),
            Err(_) => self.queue.counts.dropped(count),
        }
        self.report.sent(sent);
    }
}

/// What the log was told.
#[derive(Debug, Default)]
pub(super) struct Report {
    failure: Option<String>,
    dropped: u64,
    at: Option<Instant>,
}

impl Report {
    pub(super) fn sent(&mut self, outcome: Result<(), String>) {
        self.failure = outcome.err();
    }

    fn fails(&self) -> bool {
        self.failure.is_some()
    }

    /// Writes a line if spans were dropped since the last one and that was not just now; says
    /// whether it did.
    pub(super) fn tell(&mut self, dropped: u64, now: Instant) -> bool {
        let just_now = self.at.is_some_and(|at| now.duration_since(at) < TELL);
        if dropped == self.dropped || just_now {
            return false;
        }
        let spans = dropped - self.dropped;
        let failure = self.failure.as_deref().unwrap_or("more of them came than could be sent");
        let failure: &dyn Display = &failure;
        tracing::warn!(spans, %failure, "spans of traces are dropped");
        (self.dropped, self.at) = (dropped, Some(now));
        true
    }
}
