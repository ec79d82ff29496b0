//! Checks the bytes of a RocksDB manifest before RocksDB reads them.
//!
//! RocksDB's own reader takes rot in the last record for a torn write and drops it silently, and a
//! rotten type byte can keep it busy for ever (met in version 11.8). The format is that of its
//! logs: blocks of 32 KiB, records of checksum, length, type and payload; a record does not span
//! blocks, and the last bytes of a block that no header fits into are zeros.

const BLOCK_BYTES: usize = 32 * 1024;
const HEADER_BYTES: usize = 7;

/// What is wrong with a manifest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Flaw {
    /// The last record is not complete: it is being written, or a crash tore it.
    Torn,
    /// The bytes at this offset are not what was written.
    Damaged(usize),
}

/// Checks each byte.
pub(crate) fn check(bytes: &[u8]) -> Result<(), Flaw> {
    scan(bytes).1
}

/// The manifest without these tables, given as level and number: with one more record that deletes
/// them. `None` if it is damaged; a torn end is left out, as RocksDB does.
pub(crate) fn without(bytes: &[u8], tables: &[(u32, u64)]) -> Option<Vec<u8>> {
    let (whole, found) = scan(bytes);
    if matches!(found, Err(Flaw::Damaged(_))) {
        return None;
    }
    let mut shorter = bytes[..whole].to_vec();
    let mut edit = Vec::new();
    for (level, number) in tables {
        put_varint(&mut edit, DELETED_FILE);
        put_varint(&mut edit, (*level).into());
        put_varint(&mut edit, *number);
    }
    if !edit.is_empty() {
        append(&mut shorter, &edit);
    }
    Some(shorter)
}

/// Tag of a deleted table in a version edit.
const DELETED_FILE: u64 = 6;

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Adds a record, in as many pieces as blocks need.
fn append(bytes: &mut Vec<u8>, mut payload: &[u8]) {
    let mut first = true;
    loop {
        let left = BLOCK_BYTES - bytes.len() % BLOCK_BYTES;
        if left < HEADER_BYTES {
            bytes.resize(bytes.len() + left, 0);
            continue;
        }
        let (piece, rest) = payload.split_at(payload.len().min(left - HEADER_BYTES));
        let kind = match (first, rest.is_empty()) {
            (true, true) => FULL,
            (true, false) => FIRST,
            (false, false) => MIDDLE,
            (false, true) => LAST,
        };
        let crc = crc32c::crc32c_append(crc32c::crc32c(&[kind]), piece);
        bytes.extend_from_slice(&masked(crc).to_le_bytes());
        // A piece is shorter than a block.
        bytes.extend_from_slice(&(piece.len() as u16).to_le_bytes());
        bytes.push(kind);
        bytes.extend_from_slice(piece);
        if rest.is_empty() {
            return;
        }
        (payload, first) = (rest, false);
    }
}

/// Where the last whole record ends, and what is wrong behind it.
fn scan(bytes: &[u8]) -> (usize, Result<(), Flaw>) {
    let (mut at, mut whole) = (0, 0);
    let mut inside = false;
    while at < bytes.len() {
        let left = BLOCK_BYTES - at % BLOCK_BYTES;
        if left < HEADER_BYTES {
            let padding = &bytes[at..bytes.len().min(at + left)];
            if padding.iter().any(|byte| *byte != 0) {
                return (whole, Err(Flaw::Damaged(at)));
            }
            at += left;
            continue;
        }
        let Some((header, rest)) = bytes[at..].split_first_chunk::<HEADER_BYTES>() else {
            return (whole, Err(Flaw::Torn));
        };
        let length = usize::from(u16::from_le_bytes([header[4], header[5]]));
        if HEADER_BYTES + length > left {
            return (whole, Err(Flaw::Damaged(at)));
        }
        let Some(payload) = rest.get(..length) else { return (whole, Err(Flaw::Torn)) };
        let stored = u32::from_le_bytes([header[0], header[1], header[2], header[3]]);
        let crc = crc32c::crc32c_append(crc32c::crc32c(&header[6..]), payload);
        inside = match (header[6], inside) {
            _ if stored != masked(crc) => return (whole, Err(Flaw::Damaged(at))),
            (FULL, false) | (LAST, true) => false,
            (FIRST, false) | (MIDDLE, true) => true,
            _ => return (whole, Err(Flaw::Damaged(at))),
        };
        at += HEADER_BYTES + length;
        if !inside {
            whole = at;
        }
    }
    (whole, if inside { Err(Flaw::Torn) } else { Ok(()) })
}

const FULL: u8 = 1;
const FIRST: u8 = 2;
const MIDDLE: u8 = 3;
const LAST: u8 = 4;

/// Checksums of data that hold checksums are stored changed.
const fn masked(crc: u32) -> u32 {
    crc.rotate_right(15).wrapping_add(0xa282_ead8)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(kind: u8, payload: &[u8]) -> Vec<u8> {
        let crc = crc32c::crc32c_append(crc32c::crc32c(&[kind]), payload);
        let mut bytes = masked(crc).to_le_bytes().to_vec();
        bytes.extend_from_slice(&u16::try_from(payload.len()).expect("short").to_le_bytes());
        bytes.push(kind);
        bytes.extend_from_slice(payload);
        bytes
    }

    /// RocksDB itself reads what is added here in the tests of `rescue`.
    #[test]
    fn tables_are_left_out_by_a_record_at_the_end() {
        let mut bytes = record(FULL, &[7; 300]);
        let whole = bytes.clone();
        bytes.extend(&record(FULL, &[8; 100])[..50]);
        let shorter = without(&bytes, &[(0, 7), (6, 300)]).expect("sound");
        let mut expected = whole.clone();
        expected.extend(record(FULL, &[6, 0, 7, 6, 6, 0xac, 2]));
        assert_eq!(shorter, expected, "a torn record goes");
        assert_eq!(without(&bytes, &[]), Some(whole));
        bytes[9] ^= 1;
        assert_eq!(without(&bytes, &[]), None);
        let tables: Vec<_> = (0..20_000).map(|number| (1, number)).collect();
        let mut long = record(FULL, &vec![7; BLOCK_BYTES - 2 * HEADER_BYTES - 3]);
        let end = long.len();
        long = without(&long, &tables).expect("sound");
        assert_eq!(check(&long), Ok(()));
        assert!(long.len() > end + 2 * BLOCK_BYTES, "it spans blocks");
    }

    #[test]
    fn every_byte_counts_also_where_blocks_meet() {
        let mut bytes = record(FULL, &[7; 300]);
        bytes.extend(record(FIRST, &vec![8; BLOCK_BYTES - 307 - HEADER_BYTES - 5]));
        bytes.extend([0; 5]);
        bytes.extend(record(LAST, b"the end"));
        assert_eq!(check(&bytes), Ok(()));
        for at in (0..bytes.len()).filter(|at| at % 31 == 0 || *at > BLOCK_BYTES - 20) {
            let mut rotten = bytes.clone();
            rotten[at] ^= 4;
            assert!(check(&rotten).is_err(), "{at}");
        }
        for length in [bytes.len() - 1, BLOCK_BYTES + 3, BLOCK_BYTES, 100] {
            assert_eq!(check(&bytes[..length]), Err(Flaw::Torn), "{length}");
        }
    }
}
