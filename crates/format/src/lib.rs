//! The bytes of logs and control files: what each of them means, and nothing about where they lie.
//!
//! Pure: no files, clocks or threads. `FORMAT.md` has the byte tables; files of every released
//! version lie in `tests/fixtures` and must decode for ever. Bytes from disk or network never panic
//! here: they decode, or they give an error that says what is wrong.
//!
//! - [`Record`](keelson_types::Record)s are encoded into the payload of a *frame*; frames follow
//!   each other in a *generation*, which begins with a [`GenerationHeader`].
//! - [`Cursor`] is the framing state of one log: the active builds frames with it, a passive
//!   inspects received ones.
//! - [`Chunk`] is a run of such bytes with its position; it is what is written, shipped and read.
//! - [`ControlRecord`] is what a copy knows of itself.
//! - [`SeedManifest`] lists the files of a checkpoint that another copy is made of.

mod chunk;
mod codec;
mod control;
mod cursor;
mod error;
mod frame;
mod generation;
mod manifest;
mod packed;
mod record;
mod verify;

pub use chunk::{Chunk, Item};
pub use control::{
    CONTROL_EPOCH_ROWS_MAX, CONTROL_EXTENSION_BYTES_MAX, CONTROL_FILE_BYTES, CONTROL_SLOT_BYTES,
    ControlChoice, ControlRecord, choose_control, decode_control_slot, encode_control_slot,
};
pub use cursor::{Cursor, CursorState, EncodeError, Encoded, FramingConfig};
pub use error::FormatError;
pub use frame::{
    FRAME_HEADER_BYTES, FRAME_MAGIC, FRAME_PAYLOAD_BYTES_MAX, Frame, FrameHeader, FrameInfo,
    decode_frame,
};
pub use generation::{GENERATION_HEADER_BYTES, GenerationHeader, first_chain};
pub use manifest::{MANIFEST_BYTES_MAX, SeedFile, SeedManifest, SeedPlace};
pub use packed::{UnpackError, pack, unpack};
pub use record::{RECORD_TAG_EXTENDED, decode_records, encode_record, encoded_record_bytes};
pub use verify::{Inspected, VerifyError, VerifyErrorKind};

/// Version of everything this crate writes.
pub const FORMAT_VERSION: u32 = 1;
