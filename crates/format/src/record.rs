//! Records as bytes: a tag, then the fields of its type.
//!
//! Tags 1 to 63 are the types of format version 1, without further framing. A type that a later
//! version adds has a tag from 64 on and is written as `tag, needs-version varint, body length
//! varint, body`, so that a program that does not know it can say which version it needs.

use bytes::Bytes;
use keelson_types::{Record, SessionId, SessionRecord};

use crate::FormatError;
use crate::codec::{Reader, put_epoch, put_varint, varint_bytes};

const PUT: u8 = 1;
const DELETE: u8 = 2;
const DELETE_RANGE: u8 = 3;
const SESSION_OPEN: u8 = 4;
const SESSION_APPLIED: u8 = 5;
const SESSION_EXPIRE: u8 = 6;
const OPENING: u8 = 7;
const DIGEST_MARKER: u8 = 8;
const RESTORE_POINT: u8 = 9;
const NO_OP: u8 = 10;
const SCHEMA: u8 = 11;

/// First tag of the types that carry the version they need.
pub const RECORD_TAG_EXTENDED: u8 = 64;

/// Capacity reserved ahead for decoded records; a lying count must not reserve memory.
const RECORDS_RESERVED_MAX: usize = 4_096;

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Appends one record.
pub fn encode_record(record: &Record, out: &mut Vec<u8>) {
    match record {
        Record::Put { key, value } => {
            out.push(PUT);
            put_bytes(out, key);
            put_bytes(out, value);
        }
        Record::Delete { key } => {
            out.push(DELETE);
            put_bytes(out, key);
        }
        Record::DeleteRange { from, to } => {
            out.push(DELETE_RANGE);
            put_bytes(out, from);
            put_bytes(out, to);
        }
        Record::Session { session, change } => encode_session(*session, *change, out),
        Record::Opening { epoch } => {
            out.push(OPENING);
            put_epoch(out, *epoch);
        }
        Record::DigestMarker { id } => {
            out.push(DIGEST_MARKER);
            put_varint(out, *id);
        }
        Record::RestorePoint { name } => {
            out.push(RESTORE_POINT);
            put_bytes(out, name.as_bytes());
        }
        Record::NoOp => out.push(NO_OP),
        Record::Schema { body } => {
            out.push(SCHEMA);
            put_bytes(out, body);
        }
    }
}

fn encode_session(session: SessionId, change: SessionRecord, out: &mut Vec<u8>) {
    let tag = match change {
        SessionRecord::Open => SESSION_OPEN,
        SessionRecord::Applied { .. } => SESSION_APPLIED,
        SessionRecord::Expire => SESSION_EXPIRE,
    };
    out.push(tag);
    out.extend_from_slice(&session.into_bytes());
    if let SessionRecord::Applied { sequence, lowest_unanswered } = change {
        put_varint(out, sequence);
        put_varint(out, lowest_unanswered);
    }
}

/// How many bytes [`encode_record`] appends.
#[must_use]
pub fn encoded_record_bytes(record: &Record) -> usize {
    let bytes = |length: usize| varint_bytes(length as u64) + length;
    1 + match record {
        Record::Put { key: a, value: b } | Record::DeleteRange { from: a, to: b } => {
            bytes(a.len()) + bytes(b.len())
        }
        Record::Delete { key: a } | Record::Schema { body: a } => bytes(a.len()),
        Record::Session {
            change: SessionRecord::Applied { sequence, lowest_unanswered }, ..
        } => 16 + varint_bytes(*sequence) + varint_bytes(*lowest_unanswered),
        Record::Session { .. } => 16,
        Record::Opening { .. } => 12,
        Record::DigestMarker { id } => varint_bytes(*id),
        Record::RestorePoint { name } => bytes(name.len()),
        Record::NoOp => 0,
    }
}

/// Decodes `count` records that fill `payload` exactly. Keys and values share the memory of
/// `payload`.
///
/// # Errors
/// [`FormatError::NeedsVersion`] for a type of a later version; other errors if the bytes are not
/// records, or fewer or more than `count`.
pub fn decode_records(payload: &Bytes, count: u32) -> Result<Vec<Record>, FormatError> {
    let mut reader = Reader::new(payload);
    let mut records = Vec::with_capacity((count as usize).min(RECORDS_RESERVED_MAX));
    for _ in 0..count {
        records.push(decode_record(payload, &mut reader)?);
    }
    if reader.left() > 0 {
        return Err(FormatError::Malformed("bytes behind the last record"));
    }
    Ok(records)
}

fn take_shared(payload: &Bytes, reader: &mut Reader<'_>) -> Result<Bytes, FormatError> {
    let length = reader.varint_length()?;
    Ok(payload.slice_ref(reader.take(length)?))
}

fn decode_record(payload: &Bytes, reader: &mut Reader<'_>) -> Result<Record, FormatError> {
    Ok(match reader.u8()? {
        PUT => {
            Record::Put { key: take_shared(payload, reader)?, value: take_shared(payload, reader)? }
        }
        DELETE => Record::Delete { key: take_shared(payload, reader)? },
        DELETE_RANGE => Record::DeleteRange {
            from: take_shared(payload, reader)?,
            to: take_shared(payload, reader)?,
        },
        SESSION_OPEN => session(reader, SessionRecord::Open)?,
        SESSION_APPLIED => Record::Session {
            session: SessionId::from_bytes(reader.array()?),
            change: SessionRecord::Applied {
                sequence: reader.varint()?,
                lowest_unanswered: reader.varint()?,
            },
        },
        SESSION_EXPIRE => session(reader, SessionRecord::Expire)?,
        OPENING => Record::Opening { epoch: reader.epoch()? },
        DIGEST_MARKER => Record::DigestMarker { id: reader.varint()? },
        RESTORE_POINT => {
            let name = take_shared(payload, reader)?;
            let name = std::str::from_utf8(&name)
                .map_err(|_| FormatError::Malformed("a restore point's name is not UTF-8"))?;
            Record::RestorePoint { name: name.to_owned() }
        }
        NO_OP => Record::NoOp,
        SCHEMA => Record::Schema { body: take_shared(payload, reader)? },
        RECORD_TAG_EXTENDED.. => {
            let version = u32::try_from(reader.varint()?)
                .map_err(|_| FormatError::Malformed("a record's version is too large"))?;
            return Err(FormatError::NeedsVersion(version));
        }
        _ => return Err(FormatError::Malformed("an unknown record type")),
    })
}

fn session(reader: &mut Reader<'_>, change: SessionRecord) -> Result<Record, FormatError> {
    Ok(Record::Session { session: SessionId::from_bytes(reader.array()?), change })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_type_names_the_version_it_needs() {
        let bytes = Bytes::from_static(&[NO_OP, 70, 9, 2, 0, 0]);
        assert_eq!(decode_records(&bytes, 2), Err(FormatError::NeedsVersion(9)));
    }

    #[test]
    fn a_count_that_lies_is_refused() {
        let bytes = Bytes::from_static(&[NO_OP, NO_OP]);
        assert!(decode_records(&bytes, 1).is_err());
        assert_eq!(decode_records(&bytes, 3), Err(FormatError::Short));
        assert_eq!(decode_records(&bytes, 2).map(|records| records.len()), Ok(2));
    }

    #[test]
    fn values_share_the_payload() {
        let mut bytes = Vec::new();
        let put = Record::Put { key: Bytes::from_static(b"k"), value: Bytes::from(vec![7; 100]) };
        encode_record(&put, &mut bytes);
        let payload = Bytes::from(bytes);
        let records = decode_records(&payload, 1).expect("decodes");
        let Record::Put { value, .. } = &records[0] else { panic!("not a put: {records:?}") };
        assert!(payload.as_ptr_range().contains(&value.as_ptr()));
    }
}
