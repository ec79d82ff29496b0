//! A mail folder in one file: messages begin with a line "From ".
//!
//! The key is the number of the message (see [`numbered_key`]), or the value of the header that the
//! key field names. Quoted lines (">From ") lose one quote sign, as the "rd" variant of the format
//! wants.

use std::io;

use bytes::Bytes;

use super::Shape;
use super::batch::{FileName, Found, Place, numbered_key};
use super::lines::{Line, Lines};

pub(super) struct Mbox {
    lines: Lines,
    file: FileName,
    shape: Shape,
    /// Line of the separator that was read already; it begins the next message.
    begun: Option<u64>,
    messages: u64,
    started: bool,
}

impl Mbox {
    pub(super) fn new(lines: Lines, file: FileName, shape: Shape) -> Self {
        Self { lines, file, shape, begun: None, messages: 0, started: false }
    }

    pub(super) fn next(&mut self) -> io::Result<Option<Found>> {
        if !self.started {
            self.started = true;
            if let Some(problem) = self.find_first()? {
                return Ok(Some(problem));
            }
        }
        let Some(line) = self.begun.take() else { return Ok(None) };
        let place = Place { file: self.file.clone(), line };
        let message = self.message()?;
        self.messages += 1;
        Ok(Some(match message.and_then(|message| Ok((self.key(&message)?, message))) {
            Ok((key, message)) => Found::Record { place, key, value: message.into() },
            Err(reason) => Found::Bad { place, reason },
        }))
    }

    /// Finds the first message; says if something stands before it.
    fn find_first(&mut self) -> io::Result<Option<Found>> {
        let mut stray = None;
        while let Some(line) = self.lines.next()? {
            match line {
                Line::Text(line) if line.starts_with(b"From ") => {
                    self.begun = Some(self.lines.number());
                    break;
                }
                Line::Text(line) if line.is_empty() => {}
                _ => stray = stray.or(Some(self.lines.number())),
            }
        }
        Ok(stray.map(|line| Found::Bad {
            place: Place { file: self.file.clone(), line },
            reason: "text before the first line \"From \"".into(),
        }))
    }

    /// The lines up to the next separator, which stands behind an empty line.
    fn message(&mut self) -> io::Result<Result<Vec<u8>, String>> {
        let mut message = Vec::new();
        let mut problem = None;
        let mut after_empty = false;
        while let Some(line) = self.lines.next()? {
            let Line::Text(line) = line else {
                problem = Some("a line of the message is too long".to_owned());
                continue;
            };
            if after_empty && line.starts_with(b"From ") {
                self.begun = Some(self.lines.number());
                break;
            }
            after_empty = line.is_empty();
            let quotes = line.iter().take_while(|byte| **byte == b'>').count();
            let quoted = quotes > 0 && line[quotes..].starts_with(b"From ");
            message.extend_from_slice(&line[usize::from(quoted)..]);
            message.push(b'\n');
            if message.len() > keelson_types::VALUE_BYTES_MAX * 2 {
                message.clear();
                problem = Some("the message is too large".into());
            }
        }
        // The empty line before a separator belongs to it.
        if self.begun.is_some() {
            message.pop();
        }
        Ok(problem.map_or(Ok(message), Err))
    }

    fn key(&self, message: &[u8]) -> Result<Bytes, String> {
        let Some(name) = &self.shape.key_field else {
            return Ok(numbered_key(&self.file, self.messages));
        };
        header(message, name).ok_or_else(|| format!("the message has no header {name:?}"))
    }
}

/// The value of a header, unfolded, without angle brackets around it.
pub(super) fn header(message: &[u8], name: &str) -> Option<Bytes> {
    let mut value: Option<Vec<u8>> = None;
    for line in message.split(|byte| *byte == b'\n') {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let folded = line.first().is_some_and(|byte| matches!(byte, b' ' | b'\t'));
        match &mut value {
            Some(value) if folded => {
                if !value.is_empty() {
                    value.push(b' ');
                }
                value.extend_from_slice(line.trim_ascii());
            }
            Some(_) => break,
            None if line.is_empty() => break,
            None => {
                let colon = line.iter().position(|byte| *byte == b':');
                let (field, rest) = line.split_at(colon.unwrap_or(0));
                if !field.is_empty() && field.eq_ignore_ascii_case(name.as_bytes()) {
                    value = Some(rest[1..].trim_ascii().to_vec());
                }
            }
        }
    }
    let value = value?;
    let bare = value.strip_prefix(b"<").and_then(|value| value.strip_suffix(b">"));
    Some(Bytes::copy_from_slice(bare.unwrap_or(&value)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FOLDER: &str = "From a@b Mon\nMessage-ID: <1@b>\nSubject: x\n\nFrom here\n>From there\n\n\
        From c@d Tue\nmessage-id:\n <2@d>\n\nbody\n";

    fn read(text: &'static str, key: Option<&str>) -> Vec<Found> {
        let shape = Shape { key_field: key.map(Into::into), ..Shape::default() };
        let mut reader = Mbox::new(Lines::new(Box::new(text.as_bytes())), "f".into(), shape);
        std::iter::from_fn(|| reader.next().unwrap()).collect()
    }

    #[test]
    fn messages_are_split_at_separators_behind_empty_lines() {
        // "From here" stands behind the empty line of the headers: by the rules it is a separator.
        let found = read(FOLDER, None);
        assert_eq!(found.len(), 3);
        let Found::Record { key, value, place } = &found[1] else { panic!("{found:?}") };
        assert_eq!(
            (key.as_ref(), value.as_ref(), place.line),
            (&b"f/000000000002"[..], &b"From there\n"[..], 5)
        );
    }

    #[test]
    fn a_header_can_be_the_key() {
        let found = read(FOLDER, Some("Message-ID"));
        let keys: Vec<_> = found
            .iter()
            .map(|found| match found {
                Found::Record { key, .. } => String::from_utf8_lossy(key).into_owned(),
                Found::Bad { place, .. } => format!("bad {}", place.line),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(keys, ["1@b", "bad 5", "2@d"]);
    }

    #[test]
    fn text_before_the_first_message_is_reported() {
        let found = read("junk\nFrom a\nA: b\n\nx\n", None);
        assert!(matches!(&found[0], Found::Bad { place, .. } if place.line == 1));
        assert_eq!(found.len(), 2);
    }
}
