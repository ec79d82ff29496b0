//! The log of one copy: generation files on a disk, written by one thread, read by many.
//!
//! - [`Log`] appends chunks, makes them durable, cuts forks, truncates. It starts no thread and
//!   keeps no time; the simulator runs it over a simulated disk, a member on a dedicated thread.
//! - [`LogReader`] reads whole frames while a log is being appended to, for shipping and replay.
//! - [`Log::open`] decides after a crash what is a torn tail and what is damage.
//! - [`Log::mend`] puts bytes of another copy where own ones rotted.
//! - [`ControlFile`] keeps what a copy knows of itself in two slots.
//! - [`OsDisk`] is the real disk.
//! - [`dump()`] and [`verify()`] look at a log directory offline.
//!
//! `DESIGN.md` has the invariants and the crash cases.

mod config;
mod control_file;
mod cut;
mod dump;
mod error;
mod files;
mod log;
mod mend;
mod os_disk;
mod quota;
mod reader;
mod recovery;
mod salvage;
mod scan;
mod verify;

pub use config::LogConfig;
pub use control_file::{ControlFile, ControlFileError};
pub use cut::CutReport;
pub use dump::{DumpError, DumpOptions, dump, dump_dir};
pub use error::LogError;
pub use files::generation_path;
pub use log::Log;
pub use os_disk::OsDisk;
pub use quota::Quota;
pub use reader::LogReader;
pub use recovery::{Damage, DamageKind, Evidence, Recovery, TornTail};
pub use salvage::{Salvage, SalvagedFrames, delete_salvage, list_salvage, read_salvage};
pub use verify::{GenerationReport, Known, VerifyReport, verify, verify_dir};
