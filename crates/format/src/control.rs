//! The control file of a copy: what it knows of itself, twice, in two slots.
//!
//! A write overwrites the older slot in place, then the other one, each synced; it needs no space
//! and no rename, so a seal can be persisted on a full volume (review S20). A torn write leaves the
//! other slot as it was: a seal in the torn one was then never reported. A rotten one leaves the
//! same record in the other. A slot is at most [`CONTROL_SLOT_BYTES`]; the table
//! of epochs in it keeps the last [`CONTROL_EPOCH_ROWS_MAX`] rows, which is enough to find a common
//! position with any log that still exists (older divergence ends in a seed).

use keelson_types::{
    CopyId, DatabaseId, Epoch, EpochStart, EpochTable, LogId, Position, SUSPEND_COMMENT_CHARS_MAX,
    StoreId, StreamId,
};

use crate::codec::{Reader, put_epoch, put_position, put_varint};
use crate::{FORMAT_VERSION, FormatError};

/// Length of one slot.
pub const CONTROL_SLOT_BYTES: usize = 16 * 1024;

/// Length of the file: two slots.
pub const CONTROL_FILE_BYTES: usize = 2 * CONTROL_SLOT_BYTES;

/// Rows of the epoch table that are kept.
pub const CONTROL_EPOCH_ROWS_MAX: usize = 200;

/// Sum of the lengths of all extensions.
pub const CONTROL_EXTENSION_BYTES_MAX: usize = 4 * 1024;

const MAGIC: [u8; 8] = *b"KEELCTRL";
/// Magic, version, body length, counter, checksum.
const SLOT_HEADER_BYTES: usize = 28;
/// The checksum lies here in every version.
const CRC_AT: usize = 24;
/// Writes are whole sectors.
const SECTOR_BYTES: usize = 512;

/// What a copy knows of itself, durably.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ControlRecord {
    /// The copy.
    pub copy: CopyId,
    /// Its database.
    pub database: DatabaseId,
    /// Its log stream.
    pub stream: StreamId,
    /// Its log directory.
    pub log: LogId,
    /// Its store directory.
    pub store: StoreId,
    /// Highest epoch it promised to serve; lower ones are refused.
    pub sealed: Epoch,
    /// Epochs of its log; only the last [`CONTROL_EPOCH_ROWS_MAX`] rows are stored.
    pub epoch_table: EpochTable,
    /// A position known to be committed, a hint for replay at start.
    pub committed: Position,
    /// The own log was durable up to here when this was written; a hole below it is damage.
    pub durable_floor: Position,
    /// How often a start was begun without coming to its end.
    pub start_tries: u32,
    /// The operator's comment while the copy is suspended; at most
    /// [`SUSPEND_COMMENT_CHARS_MAX`] characters are stored.
    pub suspended: Option<String>,
    /// The copy may have lost acknowledged frames from here on; it is no part of a lossless proof.
    pub may_have_lost_from: Option<Position>,
    /// Further values by number, kept by versions that do not know them; ascending, at most
    /// [`CONTROL_EXTENSION_BYTES_MAX`] together.
    pub extensions: Vec<(u16, Vec<u8>)>,
}

impl ControlRecord {
    /// The record of a new copy with an empty log.
    #[must_use]
    pub fn new(
        copy: CopyId,
        database: DatabaseId,
        stream: StreamId,
        log: LogId,
        store: StoreId,
    ) -> Self {
        Self {
            copy,
            database,
            stream,
            log,
            store,
            sealed: Epoch::ZERO,
            epoch_table: EpochTable::new(),
            committed: Position::ZERO,
            durable_floor: Position::ZERO,
            start_tries: 0,
            suspended: None,
            may_have_lost_from: None,
            extensions: Vec::new(),
        }
    }
}

/// The newest valid slot of a control file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ControlChoice {
    /// Its content.
    pub record: ControlRecord,
    /// Its counter; the next write has the next one.
    pub counter: u64,
    /// Its slot, 0 or 1; the next write goes to the other one.
    pub slot: usize,
    /// What is wrong with the other slot, if it holds something that does not decode: a write was
    /// torn, or the bytes rotted.
    pub other: Option<FormatError>,
}

/// Encodes one slot: whole sectors, at most [`CONTROL_SLOT_BYTES`].
///
/// # Errors
/// [`FormatError::Malformed`] if the extensions are too long or not ascending.
pub fn encode_control_slot(record: &ControlRecord, counter: u64) -> Result<Vec<u8>, FormatError> {
    let body = encode_body(record)?;
    let mut out = Vec::with_capacity(SLOT_HEADER_BYTES + body.len() + SECTOR_BYTES);
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
    out.extend_from_slice(&(body.len() as u32).to_le_bytes());
    out.extend_from_slice(&counter.to_le_bytes());
    let crc = slot_crc(&out, &body);
    out.extend_from_slice(&crc.to_le_bytes());
    out.extend_from_slice(&body);
    out.resize(out.len().next_multiple_of(SECTOR_BYTES), 0);
    assert!(out.len() <= CONTROL_SLOT_BYTES, "every part of a control record is bounded");
    Ok(out)
}

fn slot_crc(header: &[u8], body: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(header);
    hasher.update(body);
    hasher.finalize()
}

fn encode_body(record: &ControlRecord) -> Result<Vec<u8>, FormatError> {
    let mut out = Vec::with_capacity(1024);
    for id in [
        record.copy.into_bytes(),
        record.database.into_bytes(),
        record.stream.into_bytes(),
        record.log.into_bytes(),
        record.store.into_bytes(),
    ] {
        out.extend_from_slice(&id);
    }
    put_epoch(&mut out, record.sealed);
    put_position(&mut out, record.committed);
    put_position(&mut out, record.durable_floor);
    out.push(record.may_have_lost_from.is_some().into());
    put_position(&mut out, record.may_have_lost_from.unwrap_or_default());
    out.extend_from_slice(&record.start_tries.to_le_bytes());
    out.push(record.suspended.is_some().into());
    let comment: String = record
        .suspended
        .iter()
        .flat_map(|comment| comment.chars())
        .take(SUSPEND_COMMENT_CHARS_MAX)
        .collect();
    put_varint(&mut out, comment.len() as u64);
    out.extend_from_slice(comment.as_bytes());
    let rows = record.epoch_table.rows();
    let rows = &rows[rows.len().saturating_sub(CONTROL_EPOCH_ROWS_MAX)..];
    put_varint(&mut out, rows.len() as u64);
    for row in rows {
        put_epoch(&mut out, row.epoch);
        put_position(&mut out, row.previous_end);
        out.extend_from_slice(&row.chain.to_le_bytes());
    }
    encode_extensions(&record.extensions, &mut out)?;
    Ok(out)
}

fn encode_extensions(extensions: &[(u16, Vec<u8>)], out: &mut Vec<u8>) -> Result<(), FormatError> {
    let total: usize = extensions.iter().map(|(_, value)| value.len() + 4).sum();
    if total > CONTROL_EXTENSION_BYTES_MAX {
        return Err(FormatError::Malformed("the extensions of a control record are too long"));
    }
    if !extensions.is_sorted_by(|a, b| a.0 < b.0) {
        return Err(FormatError::Malformed("the extensions of a control record do not ascend"));
    }
    put_varint(out, extensions.len() as u64);
    for (number, value) in extensions {
        out.extend_from_slice(&number.to_le_bytes());
        put_varint(out, value.len() as u64);
        out.extend_from_slice(value);
    }
    Ok(())
}

/// Decodes one slot into its counter and record; `None` if the slot was never written (all zeros).
///
/// # Errors
/// [`FormatError::NewerFormat`] for a slot of a later version whose checksum matches; otherwise
/// what is wrong with the bytes.
pub fn decode_control_slot(bytes: &[u8]) -> Result<Option<(u64, ControlRecord)>, FormatError> {
    if bytes.iter().all(|byte| *byte == 0) {
        return Ok(None);
    }
    let mut reader = Reader::new(bytes);
    if reader.array()? != MAGIC {
        return Err(FormatError::Magic);
    }
    let (version, length, counter) = (reader.u32()?, reader.u32()? as usize, reader.u64()?);
    let crc = reader.u32()?;
    if length > CONTROL_SLOT_BYTES - SLOT_HEADER_BYTES {
        return Err(FormatError::HeaderChecksum);
    }
    let body = reader.take(length)?;
    if slot_crc(bytes.get(..CRC_AT).unwrap_or_default(), body) != crc {
        return Err(FormatError::HeaderChecksum);
    }
    if version != FORMAT_VERSION {
        return Err(FormatError::NewerFormat(version));
    }
    decode_body(body).map(|record| Some((counter, record)))
}

fn decode_body(body: &[u8]) -> Result<ControlRecord, FormatError> {
    let mut reader = Reader::new(body);
    let mut record = ControlRecord::new(
        CopyId::from_bytes(reader.array()?),
        DatabaseId::from_bytes(reader.array()?),
        StreamId::from_bytes(reader.array()?),
        LogId::from_bytes(reader.array()?),
        StoreId::from_bytes(reader.array()?),
    );
    record.sealed = reader.epoch()?;
    record.committed = reader.position()?;
    record.durable_floor = reader.position()?;
    let lost = reader.u8()? != 0;
    record.may_have_lost_from = Some(reader.position()?).filter(|_| lost);
    record.start_tries = reader.u32()?;
    let suspended = reader.u8()? != 0;
    let length = reader.varint_length()?;
    let comment = std::str::from_utf8(reader.take(length)?)
        .map_err(|_| FormatError::Malformed("a comment that is not UTF-8"))?;
    record.suspended = suspended.then(|| comment.to_owned());
    let mut rows = Vec::new();
    for _ in 0..reader.varint()? {
        rows.push(EpochStart {
            epoch: reader.epoch()?,
            previous_end: reader.position()?,
            chain: reader.u32()?,
        });
    }
    record.epoch_table = EpochTable::from_rows(rows)
        .map_err(|_| FormatError::Malformed("an epoch table that does not rise"))?;
    for _ in 0..reader.varint()? {
        let number = reader.u16()?;
        let length = reader.varint_length()?;
        record.extensions.push((number, reader.take(length)?.to_vec()));
    }
    if reader.left() > 0 {
        return Err(FormatError::Malformed("bytes behind a control record"));
    }
    Ok(record)
}

/// Chooses the newest valid slot of a control file; `None` if it was never written. The first write
/// must fill both slots, 0 and then 1: while slot 1 is zeros, nothing was ever reported written.
///
/// # Errors
/// [`FormatError::NewerFormat`] if either slot is of a later version; what is wrong with a slot if
/// none is valid.
pub fn choose_control(file: &[u8]) -> Result<Option<ControlChoice>, FormatError> {
    let slot = |index: usize| {
        let start = (index * CONTROL_SLOT_BYTES).min(file.len());
        let end = (start + CONTROL_SLOT_BYTES).min(file.len());
        decode_control_slot(file.get(start..end).unwrap_or_default())
    };
    let slots = [slot(0), slot(1)];
    if let Some(Err(error)) = slots.iter().find(|s| matches!(s, Err(FormatError::NewerFormat(_)))) {
        return Err(*error);
    }
    let [first, second] = slots;
    let (slot, (counter, record), other) = match (first, second) {
        (Ok(Some(one)), Ok(Some(two))) if two.0 > one.0 => (1, two, None),
        (Ok(Some(one)), other) => (0, one, other.err()),
        (other, Ok(Some(two))) => (1, two, other.err()),
        // The first write fills slot 0, then slot 1: it was torn, and nobody was told of it.
        (Ok(None) | Err(_), Ok(None)) => return Ok(None),
        (Err(error), _) | (_, Err(error)) => return Err(error),
    };
    Ok(Some(ControlChoice { record, counter, slot, other }))
}
