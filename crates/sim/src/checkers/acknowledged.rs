//! G1: no acknowledged write is missing in the log of an established active, nor at the end.

use std::collections::{BTreeMap, BTreeSet};

use super::{Verdict, Violation};

/// A write: key and version.
pub(crate) type Write = (u32, u64);

/// The acknowledged writes of each database.
#[derive(Default, Debug)]
pub struct Acknowledged {
    writes: BTreeMap<usize, BTreeSet<Write>>,
}

impl Acknowledged {
    /// A client got its acknowledgement.
    pub fn acknowledged(&mut self, database: usize, write: Write) {
        self.writes.entry(database).or_default().insert(write);
    }

    /// Whether a write was acknowledged.
    #[must_use]
    pub fn has(&self, database: usize, write: Write) -> bool {
        self.writes.get(&database).is_some_and(|writes| writes.contains(&write))
    }

    /// The log of an established active holds `log`.
    ///
    /// # Errors
    /// An acknowledged write is not in it.
    pub fn check(&self, database: usize, log: &BTreeSet<Write>, who: &str) -> Verdict {
        let Some(writes) = self.writes.get(&database) else { return Ok(()) };
        match writes.difference(log).next() {
            None => Ok(()),
            Some((key, version)) => Err(Violation::new(
                "G1",
                format!("k{key}={version} of db{database} was acknowledged and {who} lacks it"),
            )),
        }
    }
}
