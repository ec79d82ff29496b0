//! What operators gave up: the log that the receipts of activations with loss name, and not one
//! frame more.

use std::collections::BTreeMap;

use keelson_types::{Epoch, LogEnd, Position};

/// The receipts whose epoch came to its opening frame: the epoch that went on, and where.
#[derive(Default, Debug)]
pub struct GivenUp {
    receipts: BTreeMap<usize, BTreeMap<Epoch, Position>>,
}

impl GivenUp {
    /// Frames of epochs below `epoch` behind `kept` do not count any more. Says whether that is
    /// new.
    pub fn add(&mut self, database: usize, epoch: Epoch, kept: Position) -> bool {
        self.receipts.entry(database).or_default().insert(epoch, kept).is_none()
    }

    /// Whether a receipt names the frame that ends here.
    #[must_use]
    pub fn covers(&self, database: usize, end: LogEnd) -> bool {
        let receipts = self.receipts.get(&database).into_iter().flatten();
        receipts.into_iter().any(|(epoch, kept)| end.epoch < *epoch && end.position > *kept)
    }
}
