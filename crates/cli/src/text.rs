//! Small conversions for display: ids, times, sizes, positions, and bytes that may not be text.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use keelson_types::{LOG_UNIT_BYTES, Position, RefusalReason};
use keelson_wire::v1;
use serde_json::{Map, Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use uuid::Uuid;

use crate::failure::Failure;

/// Milliseconds of a day.
pub(crate) const DAY_MILLIS: u64 = 24 * 60 * 60 * 1000;

/// Now, in milliseconds since 1970.
pub(crate) fn unix_millis() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// A sixteen-byte id as text; other lengths as hex.
pub(crate) fn id(bytes: &[u8]) -> String {
    match Uuid::from_slice(bytes) {
        Ok(id) => id.to_string(),
        Err(_) => hex(bytes),
    }
}

/// Bytes as hex digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Milliseconds since 1970 as RFC 3339, empty for zero.
pub(crate) fn time(unix_millis: u64) -> String {
    let nanos = i128::from(unix_millis) * 1_000_000;
    let time = OffsetDateTime::from_unix_timestamp_nanos(nanos).ok();
    let text = time.filter(|_| unix_millis > 0).and_then(|time| time.format(&Rfc3339).ok());
    text.unwrap_or_default()
}

/// A duration rounded for reading.
pub(crate) fn duration(duration: Duration) -> String {
    humantime::format_duration(Duration::from_millis(
        u64::try_from(duration.as_millis()).unwrap_or(u64::MAX),
    ))
    .to_string()
}

/// A span of time in whole units, as an operator would type it.
pub(crate) fn span(span: Duration) -> String {
    humantime::format_duration(span).to_string()
}

/// A size in binary units.
pub(crate) fn size(bytes: u64) -> String {
    bytesize::ByteSize::b(bytes).display().iec().to_string()
}

/// A queue in logs of 1 MiB, begun ones included.
pub(crate) fn logs(bytes: u64) -> u64 {
    bytes.div_ceil(LOG_UNIT_BYTES)
}

/// Reads a position as [`position`] writes it.
pub(crate) fn parse_position(text: &str) -> Result<v1::Position, String> {
    let parts = text.split_once(':').and_then(|(generation, offset)| {
        Some((u64::from_str_radix(generation, 16).ok()?, offset.parse().ok()?))
    });
    let (generation, offset) = parts.ok_or("not a position like 3:700")?;
    Ok(v1::Position { generation, offset })
}

/// A position as `generation:offset`.
pub(crate) fn position(position: Option<&v1::Position>) -> String {
    position.map_or_else(String::new, |p| Position::from(*p).to_string())
}

/// A log end as its type shows it.
pub(crate) fn log_end(end: Option<&v1::LogEnd>) -> String {
    end.map_or_else(String::new, |end| keelson_types::LogEnd::from(*end).to_string())
}

/// An epoch as `recovery.counter`.
pub(crate) fn epoch(epoch: Option<&v1::Epoch>) -> String {
    epoch.map_or_else(String::new, |e| keelson_types::Epoch::from(*e).to_string())
}

/// Adds `name` as text, or `name_base64` if the bytes are no UTF-8. [`from_fields`] reads both.
pub(crate) fn to_fields(fields: &mut Map<String, Value>, name: &str, bytes: &[u8]) {
    match std::str::from_utf8(bytes) {
        Ok(text) => fields.insert(name.into(), json!(text)),
        Err(_) => fields.insert(format!("{name}_base64"), json!(encode_base64(bytes))),
    };
}

/// Reads what [`to_fields`] wrote. A value that is no string stands for its JSON text.
pub(crate) fn from_fields(
    fields: &Map<String, Value>,
    name: &str,
) -> Option<Result<Bytes, String>> {
    if let Some(value) = fields.get(name) {
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        return Some(Ok(text.into()));
    }
    let encoded = fields.get(&format!("{name}_base64"))?;
    Some(
        encoded
            .as_str()
            .and_then(decode_base64)
            .map(Bytes::from)
            .ok_or_else(|| format!("{name}_base64 is not base64")),
    )
}

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Standard base64 with padding.
pub(crate) fn encode_base64(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let mut group = [0; 3];
        group[..chunk.len()].copy_from_slice(chunk);
        let bits = u32::from_be_bytes([0, group[0], group[1], group[2]]);
        for index in 0..4 {
            let sextet = (bits >> (18 - 6 * index)) & 63;
            let filled = index <= chunk.len();
            text.push(if filled { char::from(ALPHABET[sextet as usize]) } else { '=' });
        }
    }
    text
}

/// The reverse of [`encode_base64`]; padding may be absent.
pub(crate) fn decode_base64(text: &str) -> Option<Vec<u8>> {
    let digits = text.trim_end_matches('=').as_bytes();
    if digits.len() % 4 == 1 {
        return None;
    }
    let mut bytes = Vec::with_capacity(digits.len() * 3 / 4);
    for chunk in digits.chunks(4) {
        let mut bits = 0_u32;
        for digit in chunk {
            let sextet = ALPHABET.iter().position(|letter| letter == digit)?;
            bits = bits << 6 | u32::try_from(sextet).ok()?;
        }
        bits <<= 6 * (4 - chunk.len());
        let group = bits.to_be_bytes();
        bytes.extend_from_slice(&group[1..chunk.len()]);
    }
    Some(bytes)
}

/// A commit token, as put prints it.
///
/// # Errors
/// `bad_argument` if it is empty, or not base64: an empty one would ask another question.
pub(crate) fn commit_token(text: &str) -> Result<Bytes, Failure> {
    let bad = || Failure::new(RefusalReason::BadArgument, format!("{text:?} is no commit token"));
    decode_base64(text).filter(|bytes| !bytes.is_empty()).map(Bytes::from).ok_or_else(bad)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_agrees_with_the_published_examples() {
        let cases =
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")];
        for (plain, encoded) in cases {
            assert_eq!(encode_base64(plain.as_bytes()), encoded);
            assert_eq!(decode_base64(encoded).as_deref(), Some(plain.as_bytes()));
        }
        assert_eq!(decode_base64("Z"), None);
        assert_eq!(decode_base64("Z!=="), None);
        let all: Vec<u8> = (0..=255).collect();
        assert_eq!(decode_base64(&encode_base64(&all)), Some(all));
    }

    #[test]
    fn bytes_survive_the_way_through_json() {
        for bytes in [&b"text"[..], b"\xff\x00", b""] {
            let mut fields = Map::new();
            to_fields(&mut fields, "value", bytes);
            assert_eq!(from_fields(&fields, "value"), Some(Ok(Bytes::copy_from_slice(bytes))));
        }
    }

    #[test]
    fn times_and_ids_have_one_form() {
        assert_eq!(time(0), "");
        assert_eq!(time(1_700_000_000_123), "2023-11-14T22:13:20.123Z");
        assert_eq!(id(&[1; 16]), "01010101-0101-0101-0101-010101010101");
        assert_eq!(id(&[1, 2]), "0102");
    }
}
