//! The stages of a client's write as spans of its call: where its time went.
//!
//! | span | from | to |
//! | --- | --- | --- |
//! | `write.queue` | the request came | its batch became a frame |
//! | `write.log` | | the own log has it, synced |
//! | `write.commit` | | the commit rule is satisfied |
//! | `write.lease` | | the lease is back; only if it was away |
//!
//! Each ends where the next one begins, the last one with the answer. A write that the commit rule
//! took before the own log did goes on in `write.log` until it is answered. Nothing is kept, and
//! nothing allocated, while no traces are exported.

use keelson_net::SPANS;
use tracing::{Level, Span, info_span, span_enabled};

/// The stages of one write; empty if nobody wants them.
#[derive(Debug)]
pub(crate) struct Stages(Option<Box<Traced>>);

#[derive(Debug)]
struct Traced {
    call: Span,
    stage: Span,
    logged: bool,
}

impl Stages {
    /// The write waits for its frame. It belongs to the span of its call; what the member writes by
    /// itself has none.
    pub(super) fn begin() -> Self {
        if !span_enabled!(target: SPANS, Level::INFO) {
            return Self(None);
        }
        let call = Span::current();
        if call.is_none() {
            return Self(None);
        }
        let stage = info_span!(target: SPANS, parent: &call, "write.queue");
        Self(Some(Box::new(Traced { call, stage, logged: false })))
    }

    /// It is part of the frame that ends here, with so many others.
    pub(super) fn framed(&mut self, end: impl std::fmt::Display, writes: usize) {
        let Some(traced) = self.next() else { return };
        traced.stage = info_span!(
            target: SPANS, parent: &traced.call, "write.log",
            keelson.log_end = %end, keelson.writes_in_frame = writes
        );
    }

    /// Its frame is in the own log.
    pub(super) fn logged(&mut self) {
        if self.0.as_ref().is_none_or(|traced| traced.logged) {
            return;
        }
        let Some(traced) = self.next() else { return };
        traced.logged = true;
        traced.stage = info_span!(target: SPANS, parent: &traced.call, "write.commit");
    }

    /// It is committed, and may not be answered before the lease is back.
    pub(super) fn parked(&mut self) {
        let Some(traced) = self.next() else { return };
        traced.stage = info_span!(target: SPANS, parent: &traced.call, "write.lease");
    }

    /// Ends the stage, before the next one begins.
    fn next(&mut self) -> Option<&mut Traced> {
        let traced = self.0.as_mut()?;
        traced.stage = Span::none();
        Some(traced)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_kept_while_nobody_exports_traces() {
        assert!(Stages::begin().0.is_none());
    }
}
