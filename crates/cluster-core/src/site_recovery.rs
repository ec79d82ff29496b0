//! What an operator says when a cluster is forced up without its majority.

use std::collections::BTreeSet;

use keelson_types::MemberId;
use serde::{Deserialize, Serialize};

/// A cluster that is forced up without its majority.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SiteRecovery {
    /// First half of all future epochs; refused unless it is above the present one.
    pub generation: u32,
    /// Members that are taken for lost. They are stopped until their site is started.
    pub lost: BTreeSet<MemberId>,
    /// Why, in the operator's words.
    pub comment: String,
}
