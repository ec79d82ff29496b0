//! The positions of one copy, in one struct with one check.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{LOG_UNIT_BYTES, Position};

/// How far a copy is with each step of a frame's life.
///
/// ```text
/// truncated ≤ checkpointed ≤ replayed ≤ inspected      replayed ≤ committed
/// ```
/// `generated` is the active's end as last known: after a failover it may be lower than `inspected`
/// until the fork is cut. `committed` belongs to the database. Queues are differences of these.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Watermarks {
    /// Log before this was removed.
    pub truncated: Position,
    /// The store holds everything before this durably.
    pub checkpointed: Position,
    /// The store holds everything before this, perhaps only in memory.
    pub replayed: Position,
    /// Received, checked and durable in this copy's own log.
    pub inspected: Position,
    /// The active's log end, as last known.
    pub generated: Position,
    /// Frames before this satisfy the commit rule.
    pub committed: Position,
}

/// Two neighbours in the wrong order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WatermarkError {
    /// Name and value that must be lower or equal.
    pub lower: (&'static str, Position),
    /// Name and value that it exceeds.
    pub upper: (&'static str, Position),
}

impl fmt::Display for WatermarkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ((low, a), (high, b)) = (self.lower, self.upper);
        write!(f, "{low} {a} is beyond {high} {b}")
    }
}

impl std::error::Error for WatermarkError {}

impl Watermarks {
    /// Checks the order of neighbours.
    ///
    /// # Errors
    /// The first pair out of order, with both values.
    pub fn validate(&self) -> Result<(), WatermarkError> {
        let pairs = [
            (("truncated", self.truncated), ("checkpointed", self.checkpointed)),
            (("checkpointed", self.checkpointed), ("replayed", self.replayed)),
            (("replayed", self.replayed), ("inspected", self.inspected)),
            (("replayed", self.replayed), ("committed", self.committed)),
        ];
        let wrong = pairs.into_iter().find(|(lower, upper)| lower.1 > upper.1);
        wrong.map_or(Ok(()), |(lower, upper)| Err(WatermarkError { lower, upper }))
    }

    /// Bytes between two positions, where every generation between them counts as
    /// `generation_bytes`. Exact inside one generation.
    #[must_use]
    pub fn distance_bytes(from: Position, to: Position, generation_bytes: u64) -> u64 {
        if to <= from {
            return 0;
        }
        // Generation 0 holds nothing: an empty log begins with generation 1.
        let files = to.generation.0.saturating_sub(from.generation.0.max(1));
        (files * generation_bytes + to.offset).saturating_sub(from.offset)
    }

    /// Bytes that the active has and this copy's log does not.
    #[must_use]
    pub fn copy_queue_bytes(&self, generation_bytes: u64) -> u64 {
        Self::distance_bytes(self.inspected, self.generated, generation_bytes)
    }

    /// Bytes that this copy's log has and its store does not.
    #[must_use]
    pub fn replay_queue_bytes(&self, generation_bytes: u64) -> u64 {
        Self::distance_bytes(self.replayed, self.inspected, generation_bytes)
    }

    /// A queue in logs: begun MiB of log.
    #[must_use]
    pub const fn bytes_to_logs(bytes: u64) -> u64 {
        bytes.div_ceil(LOG_UNIT_BYTES)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn validate_names_the_pair_that_is_out_of_order() {
        let marks = Watermarks {
            replayed: Position::new(2, 10),
            inspected: Position::new(2, 10),
            committed: Position::new(2, 9),
            ..Watermarks::default()
        };
        let error = marks.validate().expect_err("replayed is beyond committed");
        assert_eq!((error.lower.0, error.upper.0), ("replayed", "committed"));
        assert!(error.to_string().contains("2:10"));
    }

    #[test]
    fn queues_are_differences_and_count_begun_logs() {
        let marks = Watermarks {
            inspected: Position::new(1, 600),
            generated: Position::new(2, 600),
            committed: Position::new(1, 600),
            ..Watermarks::default()
        };
        assert_eq!(marks.copy_queue_bytes(LOG_UNIT_BYTES), LOG_UNIT_BYTES);
        assert_eq!(Watermarks::bytes_to_logs(1), 1);
        assert_eq!(Watermarks::bytes_to_logs(0), 0);
    }
}
