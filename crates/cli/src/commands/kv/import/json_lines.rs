//! One JSON object per line.
//!
//! With a key field the record is the whole line under that field's value. Without: an object with
//! `key` (or `key_base64`) and `value` (or `value_base64`) is what `export` writes; any other
//! object is kept as a whole under the number of its line (see [`numbered_key`]).

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use serde_json::{Map, Value};

use super::Shape;
use super::batch::{Found, Place, numbered_key};
use super::lines::{Line, Lines};
use crate::text;

pub(super) struct JsonLines {
    lines: Lines,
    file: Arc<str>,
    shape: Shape,
}

impl JsonLines {
    pub(super) fn new(lines: Lines, file: Arc<str>, shape: Shape) -> Self {
        Self { lines, file, shape }
    }

    pub(super) fn next(&mut self) -> io::Result<Option<Found>> {
        loop {
            let Some(line) = self.lines.next()? else { return Ok(None) };
            let place = Place { file: self.file.clone(), line: self.lines.number() };
            let line = match line {
                Line::TooLong => {
                    return Ok(Some(Found::Bad { place, reason: "the line is too long".into() }));
                }
                Line::Text(line) if line.trim_ascii().is_empty() => continue,
                Line::Text(line) => line,
            };
            return Ok(Some(match self.record(line, place.line) {
                Ok((key, value)) => Found::Record { place, key, value },
                Err(reason) => Found::Bad { place, reason },
            }));
        }
    }

    fn record(&self, line: Vec<u8>, number: u64) -> Result<(Bytes, Bytes), String> {
        let object: Map<String, Value> =
            serde_json::from_slice(&line).map_err(|error| format!("not a JSON object: {error}"))?;
        if let Some(field) = &self.shape.key_field {
            let key = text::from_fields(&object, field);
            let key = key.ok_or_else(|| format!("there is no field {field:?}"))??;
            return Ok((key, line.into()));
        }
        match text::from_fields(&object, "key") {
            Some(key) => {
                let value = text::from_fields(&object, "value");
                Ok((key?, value.ok_or("there is a key, but no value")??))
            }
            None => Ok((numbered_key(&self.file, number), line.into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(
        text: &'static str,
        key_field: Option<&str>,
    ) -> Vec<Result<(String, String), (u64, String)>> {
        let shape = Shape { key_field: key_field.map(Into::into), ..Shape::default() };
        let mut reader = JsonLines::new(Lines::new(Box::new(text.as_bytes())), "f".into(), shape);
        let utf8 = |bytes: Bytes| String::from_utf8(bytes.to_vec()).unwrap();
        std::iter::from_fn(|| reader.next().unwrap())
            .map(|found| match found {
                Found::Record { key, value, .. } => Ok((utf8(key), utf8(value))),
                Found::Bad { place, reason } => Err((place.line, reason)),
            })
            .collect()
    }

    #[test]
    fn exported_lines_give_their_key_and_value() {
        let found = read(
            "{\"key\":\"a\",\"value\":\"1\"}\n\n{\"key_base64\":\"Yg==\",\"value\":{\"n\":2}}\n",
            None,
        );
        assert_eq!(found, [Ok(("a".into(), "1".into())), Ok(("b".into(), "{\"n\":2}".into()))]);
    }

    #[test]
    fn other_objects_are_kept_whole() {
        assert_eq!(read("{\"n\":1}", None), [Ok(("f/000000000001".into(), "{\"n\":1}".into()))]);
        assert_eq!(read("{\"n\":1}", Some("n")), [Ok(("1".into(), "{\"n\":1}".into()))]);
    }

    #[test]
    fn bad_lines_are_named_and_the_rest_goes_on() {
        let found =
            read("{\"key\":\"a\"}\n[1]\n{\"broken\nx\n{\"key\":\"b\",\"value\":\"2\"}\n", None);
        let lines: Vec<_> = found.iter().filter_map(|f| f.as_ref().err().map(|e| e.0)).collect();
        assert_eq!(lines, [1, 2, 3, 4]);
        assert_eq!(found[4], Ok(("b".into(), "2".into())));
        assert_eq!(read("{}", Some("id"))[0].as_ref().unwrap_err().1, "there is no field \"id\"");
    }
}
