//! The log engine over a simulated disk, and over the real one where that matters.

mod control;
mod crash;
mod cut;
mod dump;
mod files;
mod harness;
mod mend;
mod reader;
mod recovery;
