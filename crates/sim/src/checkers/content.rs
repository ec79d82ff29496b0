//! Equal stores at equal positions.

use std::collections::BTreeMap;

use keelson_types::LogEnd;

use super::{Verdict, Violation};

/// Digests seen so far, by database and position.
#[derive(Default, Debug)]
pub struct Contents {
    digests: BTreeMap<(usize, LogEnd), u128>,
}

impl Contents {
    /// A store that stands at `at` has this digest.
    ///
    /// # Errors
    /// Another store had another digest there.
    pub fn check(&mut self, database: usize, at: LogEnd, digest: u128, who: &str) -> Verdict {
        let first = *self.digests.entry((database, at)).or_insert(digest);
        if first == digest {
            return Ok(());
        }
        let what = format!("db{database} at {at}: {who} has {digest:032x}, not {first:032x}");
        Err(Violation::new("equal content", what))
    }
}
