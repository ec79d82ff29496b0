//! From a snapshot of one member to what is shown of it. Pure: nothing here asks anybody, waits, or
//! knows where the result goes.
//!
//! | need | use |
//! | --- | --- |
//! | everything that a member knows at one moment | [`Snapshot`] |
//! | the text that Prometheus collects | [`metrics()`] |
//! | a decision record in one line | [`decision::line`] |

pub mod decision;

mod exposition;
mod metrics;
mod snapshot;

pub use metrics::metrics;
pub use snapshot::Snapshot;
