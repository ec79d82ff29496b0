//! G1: no acknowledged write is missing in the log of an established active, nor at the end, except
//! those that a receipt names.

use std::collections::{BTreeMap, BTreeSet};

use keelson_types::LogEnd;

use super::{GivenUp, Verdict, Violation};

/// A write: key and version.
pub(crate) type Write = (u32, u64);

/// The acknowledged writes of each database, with the end of the frame that was acknowledged.
#[derive(Default, Debug)]
pub struct Acknowledged {
    writes: BTreeMap<usize, BTreeMap<Write, LogEnd>>,
}

impl Acknowledged {
    /// A client got its acknowledgement.
    pub fn acknowledged(&mut self, database: usize, write: Write, end: LogEnd) {
        self.writes.entry(database).or_default().insert(write, end);
    }

    /// Whether a write was acknowledged.
    #[must_use]
    pub fn has(&self, database: usize, write: Write) -> bool {
        self.writes.get(&database).is_some_and(|writes| writes.contains_key(&write))
    }

    /// The log of an established active holds `log`.
    ///
    /// # Errors
    /// An acknowledged write is not in it.
    pub fn check(
        &self,
        database: usize,
        log: &BTreeSet<Write>,
        given_up: &GivenUp,
        who: &str,
    ) -> Verdict {
        let writes = self.writes.get(&database).into_iter().flatten();
        let mut missing = writes.filter(|(write, _)| !log.contains(write));
        match missing.find(|(_, end)| !given_up.covers(database, **end)) {
            None => Ok(()),
            Some(((key, version), _)) => Err(Violation::new(
                "G1",
                format!("k{key}={version} of db{database} was acknowledged and {who} lacks it"),
            )),
        }
    }
}
