//! G8: every decision is decided again from its record alone, with the same result.

use keelson_cluster_core::{ClusterState, explain};
use keelson_types::Weakness;

use super::{Verdict, Violation};

/// Up to where decisions were checked.
#[derive(Default, Debug)]
pub struct Explanations {
    index: u64,
}

impl Explanations {
    /// A command was applied. A rule that is switched off is not in the records.
    ///
    /// # Errors
    /// A new record says something else than deciding again.
    pub fn check(&mut self, state: &ClusterState, weakness: Weakness) -> Verdict {
        let newest = state.decisions.last().map_or(0, |entry| entry.index);
        let seen = self.index;
        self.index = newest.max(seen);
        if weakness != Weakness::None {
            return Ok(());
        }
        let fresh = state.decisions.iter().rev().take_while(|entry| entry.index > seen);
        for entry in fresh.filter(|entry| !entry.record.inputs_omitted) {
            let again = explain(&entry.record, &[]).expect("nothing is changed");
            if !again.differences.is_empty() {
                let (epoch, what) = (entry.record.epoch, again.differences.join(", "));
                let what = format!("decision {} of epoch {epoch}: {what}", entry.index);
                return Err(Violation::new("decisions explain themselves", what));
            }
        }
        Ok(())
    }
}
