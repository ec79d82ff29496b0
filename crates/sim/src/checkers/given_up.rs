//! What operators gave up: the log that the receipts of activations with loss name, and not one
//! frame more.

use std::collections::BTreeMap;

use keelson_cluster_core::LossReceipt;
use keelson_types::{Epoch, LogEnd};

/// The receipts whose epoch came to its opening frame.
#[derive(Default, Debug)]
pub struct GivenUp {
    receipts: BTreeMap<usize, BTreeMap<Epoch, LossReceipt>>,
}

impl GivenUp {
    /// What the receipt names does not count any more. Says whether that is new.
    pub fn add(&mut self, database: usize, receipt: LossReceipt) -> bool {
        self.receipts.entry(database).or_default().insert(receipt.epoch, receipt).is_none()
    }

    /// Whether a receipt names the frame that ends here.
    #[must_use]
    pub fn covers(&self, database: usize, end: LogEnd) -> bool {
        let receipts = self.receipts.get(&database).into_iter().flatten();
        receipts.into_iter().any(|(_, receipt)| receipt.covers(end))
    }
}
