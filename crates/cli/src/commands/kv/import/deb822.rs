//! Stanzas of "Field: value" lines, as package indexes have them, separated by empty lines.

use std::io;

use bytes::Bytes;

use super::Shape;
use super::batch::{FileName, Found, Place};
use super::lines::{Line, Lines};

pub(super) struct Stanzas {
    lines: Lines,
    file: FileName,
    shape: Shape,
}

impl Stanzas {
    pub(super) fn new(lines: Lines, file: FileName, shape: Shape) -> Self {
        Self { lines, file, shape }
    }

    pub(super) fn next(&mut self) -> io::Result<Option<Found>> {
        let mut stanza = Vec::new();
        let mut first = 0;
        let mut bad: Option<(u64, String)> = None;
        while let Some(line) = self.lines.next()? {
            let number = self.lines.number();
            let line = match line {
                Line::Text(line) => line,
                Line::TooLong => {
                    bad = bad.or(Some((number, "the line is too long".into())));
                    first = if first == 0 { number } else { first };
                    continue;
                }
            };
            if line.trim_ascii().is_empty() {
                if first > 0 {
                    break;
                }
                continue;
            }
            first = if first == 0 { number } else { first };
            let continued = line[0].is_ascii_whitespace() && !stanza.is_empty();
            if !continued && !is_field(&line) {
                bad = bad.or(Some((
                    number,
                    "the line is neither \"Field: value\" nor continued".into(),
                )));
            }
            stanza.extend_from_slice(&line);
            stanza.push(b'\n');
        }
        if first == 0 {
            return Ok(None);
        }
        let place = |line| Place { file: self.file.clone(), line };
        if let Some((line, reason)) = bad {
            return Ok(Some(Found::Bad { place: place(line), reason }));
        }
        Ok(Some(match self.key(&stanza) {
            Ok(key) => Found::Record { place: place(first), key, value: stanza.into() },
            Err(reason) => Found::Bad { place: place(first), reason },
        }))
    }

    fn key(&self, stanza: &[u8]) -> Result<Bytes, String> {
        let need = |name: &str| {
            field(stanza, name).ok_or_else(|| format!("the stanza has no field {name:?}"))
        };
        if let Some(name) = &self.shape.key_field {
            return need(name).map(Bytes::copy_from_slice);
        }
        Ok([need("Package")?, b"/", need("Version")?].concat().into())
    }
}

/// Whether a line is "Field: value".
pub(super) fn is_field(line: &[u8]) -> bool {
    let colon = line.iter().position(|byte| *byte == b':');
    colon.is_some_and(|colon| colon > 0 && line[..colon].iter().all(|byte| byte.is_ascii_graphic()))
}

/// The value of a field on its own line.
fn field<'a>(stanza: &'a [u8], name: &str) -> Option<&'a [u8]> {
    stanza.split(|byte| *byte == b'\n').find_map(|line| {
        let (head, rest) = line.split_at_checked(name.len())?;
        let rest = rest.strip_prefix(b":")?;
        head.eq_ignore_ascii_case(name.as_bytes()).then(|| rest.trim_ascii())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &'static str) -> Vec<Found> {
        let lines = Lines::new(Box::new(text.as_bytes()));
        let mut reader = Stanzas::new(lines, "f".into(), Shape::default());
        std::iter::from_fn(|| reader.next().unwrap()).collect()
    }

    #[test]
    fn stanzas_are_kept_under_package_and_version() {
        let found = read(
            "\nPackage: a\nVersion: 1:2-3\nDescription: x\n more\n .\n\n\nPackage: b\nVersion: 4\n",
        );
        let Found::Record { key, value, place } = &found[0] else { panic!("{found:?}") };
        assert_eq!((key.as_ref(), place.line), (&b"a/1:2-3"[..], 2));
        assert!(value.ends_with(b" more\n .\n"));
        assert!(matches!(&found[1], Found::Record { key, .. } if key == "b/4"));
        assert_eq!(found.len(), 2);
    }

    #[test]
    fn a_bad_stanza_is_named_and_the_rest_goes_on() {
        let found =
            read("Package: a\n\nPackage: b\nnonsense\nVersion: 1\n\nPackage: c\nVersion: 1\n");
        let bad: Vec<_> = found
            .iter()
            .filter_map(|f| match f {
                Found::Bad { place, .. } => Some(place.line),
                _ => None,
            })
            .collect();
        assert_eq!(bad, [1, 4]);
        assert!(matches!(&found[2], Found::Record { key, .. } if key == "c/1"));
    }
}
