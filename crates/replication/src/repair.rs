//! Drives a range fetch: asking donors, being one, reading what a fork touched.
//!
//! The machine is [`keelson_copy_core::range_fetch`]; the owner of the copy feeds it
//! (`owner/repairing`), the log lane keeps its mark, the store lane does its work on the store.

pub(crate) mod asking;
pub(crate) mod counting;
pub(crate) mod donating;
