//! When a store should be made durable, so that the log behind it may go.
//!
//! A checkpoint costs a flush, and log that waits for one costs space and time after a crash. So it
//! is made by depth and by age; and where log keeps a volume short, as soon as a whole generation
//! would go for it.

use std::time::Duration;

use keelson_types::Position;

/// Log bytes replayed behind the checkpoint at which it should move (the checkpoint depth of the
/// model).
pub const CHECKPOINT_BYTES: u64 = 100 * 1024 * 1024;

/// Age of the oldest replayed frame behind the checkpoint at which it should move.
pub const CHECKPOINT_AGE: Duration = Duration::from_secs(15 * 60);

/// Whether a checkpoint is due: by log replayed behind it, and by the age of the oldest frame
/// there, so that a slow database lets its log be truncated too.
#[must_use]
pub fn is_due(uncheckpointed_bytes: u64, age: Duration) -> bool {
    uncheckpointed_bytes >= CHECKPOINT_BYTES || (uncheckpointed_bytes > 0 && age >= CHECKPOINT_AGE)
}

/// Whether it is due while the log volume of this copy, or of its active, is short: the active
/// keeps log that any copy would need after a crash (F99), so the checkpoint of each copy holds the
/// floor of all (F105).
#[must_use]
pub fn is_due_for_space(checkpointed: Position, replayed: Position) -> bool {
    checkpointed.generation < replayed.generation
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checkpoint_is_due_by_bytes_or_by_age_of_something() {
        assert!(is_due(CHECKPOINT_BYTES, Duration::ZERO));
        assert!(!is_due(CHECKPOINT_BYTES - 1, Duration::ZERO));
        assert!(is_due(1, CHECKPOINT_AGE));
        assert!(!is_due(0, CHECKPOINT_AGE * 2));
    }

    #[test]
    fn for_want_of_space_it_is_due_when_a_generation_would_go() {
        let at = |generation, offset| Position::new(generation, offset);
        for (checkpointed, replayed, due) in [
            (at(3, 0), at(3, 900), false),
            (at(3, 900), at(4, 0), true),
            (at(3, 0), at(9, 1), true),
            (at(4, 5), at(4, 5), false),
        ] {
            assert_eq!(is_due_for_space(checkpointed, replayed), due, "{checkpointed} {replayed}");
        }
    }
}
