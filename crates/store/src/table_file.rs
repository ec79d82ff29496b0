//! Checks the blocks of a table file that RocksDB reads without telling when they are damaged: a
//! filter that does not verify is left out, and every read of the table gets slower for it.
//!
//! The format is that of version 6 (the one that the factory sets): the footer leads to the
//! metaindex, the metaindex to each block that is neither data nor index. Index, footer and data
//! are verified by whoever reads the table.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use xxhash_rust::xxh3::xxh3_64;

const FOOTER_BYTES: usize = 53;
/// Compression type and checksum behind each block.
const TRAILER_BYTES: usize = 5;
/// Marks footers of version 6 and later.
const EXTENDED_MAGIC: [u8; 4] = [0x3e, 0x00, 0x7a, 0x00];
/// Checksums of XXH3, the kind that the factory sets.
const XXH3: u8 = 4;
/// A block that is larger is none.
const BLOCK_BYTES_MAX: usize = 256 * 1024 * 1024;

/// Checks the blocks that the metaindex names. `Ok(false)` if one does not verify, or the way to
/// them does not make sense.
pub(crate) fn check(path: &Path) -> io::Result<bool> {
    let file = File::open(path)?;
    let length = file.metadata()?.len();
    let Some(footer_at) = length.checked_sub(FOOTER_BYTES as u64) else { return Ok(false) };
    let mut footer = [0; FOOTER_BYTES];
    file.read_exact_at(&mut footer, footer_at)?;
    if footer[0] != XXH3 || footer[1..5] != EXTENDED_MAGIC {
        return Ok(false);
    }
    let context = fixed32(&footer[9..]);
    let size = fixed32(&footer[13..]) as usize;
    let Some(at) = footer_at.checked_sub((size + TRAILER_BYTES) as u64) else { return Ok(false) };
    let Some(metaindex) = block(&file, at, size, context)? else { return Ok(false) };
    let Some(handles) = handles(&metaindex) else { return Ok(false) };
    for (at, size) in handles {
        let inside = at.checked_add(size as u64).is_some_and(|end| end <= footer_at);
        if !inside || block(&file, at, size, context)?.is_none() {
            return Ok(false);
        }
    }
    Ok(true)
}

fn fixed32(bytes: &[u8]) -> u32 {
    bytes.first_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes))
}

/// A block, if its checksum is right.
fn block(file: &File, at: u64, size: usize, context: u32) -> io::Result<Option<Vec<u8>>> {
    if size > BLOCK_BYTES_MAX {
        return Ok(None);
    }
    let mut bytes = vec![0; size + TRAILER_BYTES];
    file.read_exact_at(&mut bytes, at)?;
    let (content, trailer) = bytes.split_at(size);
    // The last byte, the compression type, is mixed in apart; so is the place of the block.
    let mixed = (xxh3_64(content) as u32) ^ u32::from(trailer[0]).wrapping_mul(0x6b90_83d9);
    let place =
        if context == 0 { 0 } else { context ^ (at as u32).wrapping_add((at >> 32) as u32) };
    let sound = fixed32(&trailer[1..]) == mixed.wrapping_add(place);
    bytes.truncate(size);
    Ok(sound.then_some(bytes))
}

/// Offset and size of each block in a metaindex: entries of lengths, key and handle, then where
/// entries begin, then how many of those.
fn handles(metaindex: &[u8]) -> Option<Vec<(u64, usize)>> {
    let restarts = fixed32(metaindex.get(metaindex.len().checked_sub(4)?..)?) as usize;
    let entries = metaindex.len().checked_sub(4 + restarts.checked_mul(4)?)?;
    let mut rest = metaindex.get(..entries)?;
    let mut handles = Vec::new();
    while !rest.is_empty() {
        let _shared = varint(&mut rest)?;
        let key = usize::try_from(varint(&mut rest)?).ok()?;
        let value = usize::try_from(varint(&mut rest)?).ok()?;
        let mut handle = rest.get(key..key.checked_add(value)?)?;
        rest = rest.get(key + value..)?;
        let at = varint(&mut handle)?;
        handles.push((at, usize::try_from(varint(&mut handle)?).ok()?));
    }
    Some(handles)
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}
