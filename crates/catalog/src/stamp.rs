//! What a commit of a catalog says of itself: the log end that it reflects, and of which fields.
//!
//! One line of text in the engine's own list of files, which has no checksum, so the line has one.

use keelson_types::{Epoch, LogEnd, Position};

/// Version of everything in the directory: fields, tokens, the reading of values. Another one is
/// indexed anew.
const VERSION: u32 = 2;

/// What a commit holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reflected {
    /// End of the log whose effects are in it.
    pub end: LogEnd,
    /// The fields that were indexed; all if there is none.
    pub fields: Vec<String>,
}

impl Reflected {
    pub(crate) fn encode(&self) -> String {
        let LogEnd { epoch, position } = self.end;
        let fields = serde_json::to_string(&self.fields).unwrap_or_default();
        let text = format!(
            "{VERSION} {} {} {} {} {fields}",
            epoch.recovery, epoch.counter, position.generation.0, position.offset
        );
        format!("{:08x} {text}", crc32fast::hash(text.as_bytes()))
    }

    /// Nothing if the line is not whole, or of another version.
    pub(crate) fn decode(line: &str) -> Option<Self> {
        let (crc, text) = line.split_once(' ')?;
        if u32::from_str_radix(crc, 16).ok()? != crc32fast::hash(text.as_bytes()) {
            return None;
        }
        let mut words = text.splitn(6, ' ');
        if words.next()?.parse::<u32>().ok()? != VERSION {
            return None;
        }
        let epoch = Epoch::new(words.next()?.parse().ok()?, words.next()?.parse().ok()?);
        let position = Position::new(words.next()?.parse().ok()?, words.next()?.parse().ok()?);
        let fields = serde_json::from_str(words.next()?).ok()?;
        Some(Self { end: LogEnd { epoch, position }, fields })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_survives_its_text_and_no_flipped_letter() {
        let end = LogEnd { epoch: Epoch::new(1, 7), position: Position::new(9, 512) };
        let stamp = Reflected { end, fields: vec!["name".into(), "a b".into()] };
        let line = stamp.encode();
        assert_eq!(Reflected::decode(&line), Some(stamp));
        for at in 0..line.len() {
            let mut bytes = line.clone().into_bytes();
            bytes[at] ^= 1;
            let flipped = String::from_utf8(bytes).unwrap_or_default();
            assert_eq!(Reflected::decode(&flipped), None, "{flipped}");
        }
    }
}
