//! Reads a fork in the log for the keys that it touched. Blocking; proportional to the fork.

use keelson_copy_core::range_fetch::TouchedSet;
use keelson_format::Item;
use keelson_log::LogReader;
use keelson_types::{CopyFault, Position};

use crate::store_lane::log_fault;

/// Log read in one piece.
const READ_BYTES: usize = 4 * 1024 * 1024;

/// What the frames behind `from`, up to `to`, touched. Stops early if no mark can hold it.
///
/// # Errors
/// The log cannot be read, or ends before `to`.
pub(crate) fn count(
    mut reader: LogReader,
    from: Position,
    to: Position,
) -> Result<TouchedSet, CopyFault> {
    let mut touched = TouchedSet::default();
    let mut at = from;
    let damaged = |what: String| CopyFault::LogDamaged(what);
    while at < to && !touched.is_too_large() {
        let before = at;
        let chunks = reader.read(at, to, READ_BYTES).map_err(|error| log_fault(&error))?;
        for item in chunks.iter().flat_map(keelson_format::Chunk::items) {
            let item = item.map_err(|(position, error)| damaged(format!("{position}: {error}")))?;
            let Item::Frame(info) = item else { continue };
            let end = info.end().position;
            if end > at && end <= to {
                let frame = info.decode().map_err(|error| damaged(format!("{end}: {error}")))?;
                frame.records.iter().for_each(|record| touched.add(record));
                at = end;
            }
        }
        let read_to = chunks.last().map_or(at, |chunk| chunk.end.min(to));
        at = at.max(read_to);
        if at == before {
            return Err(damaged(format!("the fork cannot be read behind {at}")));
        }
    }
    Ok(touched)
}
