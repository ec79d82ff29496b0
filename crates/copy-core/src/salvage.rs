//! How long salvage is kept (S13): log that was cut off a copy, and that nobody else may have.
//!
//! Only an operator deletes it (G4). Before its retention is over that takes a word that says so;
//! what the end of the retention changes is only which word is enough.

use std::time::Duration;

use keelson_types::{RefusalReason, Refused};

/// Until when salvage is kept, in Unix milliseconds. Of one whose age is not known: it is as if it
/// was cut now.
#[must_use]
pub fn kept_until(cut_unix_ms: Option<u64>, retention: Duration, now_unix_ms: u64) -> u64 {
    let millis = u64::try_from(retention.as_millis()).unwrap_or(u64::MAX);
    // A file from a clock that was ahead is not kept longer than one that was cut now.
    cut_unix_ms.unwrap_or(now_unix_ms).min(now_unix_ms).saturating_add(millis)
}

/// Whether an operator's word deletes it.
///
/// # Errors
/// `salvage_retained` with the time.
pub fn may_delete(kept_until_unix_ms: u64, now_unix_ms: u64, before: bool) -> Result<(), Refused> {
    if before || kept_until_unix_ms <= now_unix_ms {
        return Ok(());
    }
    let left = (kept_until_unix_ms - now_unix_ms).div_ceil(1_000);
    let text =
        format!("it may be the last copy of what was cut off; it is kept for {left} s still");
    Err(Refused::new(RefusalReason::SalvageRetained, text))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: u64 = 24 * 3_600 * 1_000;
    const WEEK: Duration = Duration::from_hours(7 * 24);

    /// S13: by an operator's word only, and before its time by one that says so.
    #[test]
    fn salvage_goes_by_an_operators_word_once_its_time_is_over() {
        for (what, cut, retention, now, before, deleted) in [
            ("a day old", Some(DAY), WEEK, 2 * DAY, false, false),
            ("a day old, by a word", Some(DAY), WEEK, 2 * DAY, true, true),
            ("a moment too early", Some(DAY), WEEK, 8 * DAY - 1, false, false),
            ("old enough", Some(DAY), WEEK, 8 * DAY, false, true),
            ("of unknown age", None, WEEK, 100 * DAY, false, false),
            ("of unknown age, by a word", None, WEEK, 100 * DAY, true, true),
            ("from a clock that was ahead", Some(50 * DAY), WEEK, 2 * DAY, false, false),
            ("no retention", Some(DAY), Duration::ZERO, DAY, false, true),
        ] {
            let until = kept_until(cut, retention, now);
            assert!(until <= now + 7 * DAY, "{what}");
            let result = may_delete(until, now, before);
            assert_eq!(result.is_ok(), deleted, "{what}: {result:?}");
            let reason = result.err().map(|refused| refused.reason);
            assert!(reason.is_none_or(|reason| reason == RefusalReason::SalvageRetained));
        }
    }
}
