//! R5: consensus binds at most one copy to an epoch.

use std::collections::BTreeMap;

use keelson_cluster_core::ClusterState;
use keelson_types::{CopyId, DatabaseId, Epoch};

use super::{Verdict, Violation};

/// The copies bound so far.
#[derive(Default, Debug)]
pub struct Bindings {
    bound: BTreeMap<(DatabaseId, Epoch), CopyId>,
    highest: BTreeMap<DatabaseId, Epoch>,
}

impl Bindings {
    /// A command was applied with this result.
    ///
    /// # Errors
    /// An epoch has a second copy, or went back.
    pub fn check(&mut self, state: &ClusterState) -> Verdict {
        for (id, database) in &state.databases {
            let highest = self.highest.entry(*id).or_default();
            if database.epoch < *highest {
                let what = format!("{id} went from epoch {highest} to {}", database.epoch);
                return Err(Violation::new("epochs rise", what));
            }
            *highest = database.epoch;
            let Some(target) = database.target else { continue };
            let first = *self.bound.entry((*id, database.epoch)).or_insert(target);
            if first != target {
                let what = format!("epoch {} is bound to {first} and {target}", database.epoch);
                return Err(Violation::new("one binding per epoch", what));
            }
        }
        Ok(())
    }
}
