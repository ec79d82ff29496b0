//! G2: one copy serves in an epoch, and none in a lower one after one has served in a higher.

use std::collections::BTreeMap;

use keelson_types::{CopyId, Epoch};

use super::{Verdict, Violation};

/// Who served last in each database.
#[derive(Default, Debug)]
pub struct Serving {
    last: BTreeMap<usize, (Epoch, CopyId)>,
}

impl Serving {
    /// A copy answers a client in an epoch, now.
    ///
    /// # Errors
    /// A higher epoch has been served before, or this one by another copy.
    pub fn check(&mut self, database: usize, epoch: Epoch, copy: CopyId) -> Verdict {
        let (highest, holder) = *self.last.entry(database).or_insert((epoch, copy));
        if epoch < highest {
            let what = format!(
                "{copy} answers db{database} in epoch {epoch}, {highest} was served before"
            );
            return Err(Violation::new("G2", what));
        }
        if epoch == highest && copy != holder {
            let what = format!("{copy} and {holder} both serve db{database} in epoch {epoch}");
            return Err(Violation::new("G2", what));
        }
        self.last.insert(database, (epoch, copy));
        Ok(())
    }
}
