//! One JSON object per line.
//!
//! With a key field the record is the whole line under that field's value. Without: an object with
//! `key` (or `key_base64`) and `value` (or `value_base64`) is what `export` writes; any other
//! object is kept as a whole under the number of its line (see [`numbered_key`]).
//!
//! A member that gives the key or the value may occur once. Members beside key and value are left
//! out; the first line that has some is named.

use std::fmt;
use std::io;

use bytes::Bytes;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::{Map, Value};

use super::Shape;
use super::batch::{FileName, Found, Place, numbered_key};
use super::lines::{Line, Lines};
use crate::text;

pub(super) struct JsonLines {
    lines: Lines,
    file: FileName,
    shape: Shape,
    /// Members that are left out were named.
    noted: bool,
    /// The record behind a remark.
    pending: Option<Found>,
}

/// The members of an object, and which names occur more than once.
struct Object {
    members: Map<String, Value>,
    repeated: Vec<String>,
}

/// The members of a line that `export` wrote.
const EXPORTED: [&str; 4] = ["key", "key_base64", "value", "value_base64"];

impl JsonLines {
    pub(super) fn new(lines: Lines, file: FileName, shape: Shape) -> Self {
        Self { lines, file, shape, noted: false, pending: None }
    }

    pub(super) fn next(&mut self) -> io::Result<Option<Found>> {
        if let Some(found) = self.pending.take() {
            return Ok(Some(found));
        }
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
            let object: Object = match serde_json::from_slice(&line) {
                Ok(object) => object,
                Err(error) => {
                    let reason = format!("not a JSON object: {error}");
                    return Ok(Some(Found::Bad { place, reason }));
                }
            };
            let found = match self.record(&object, line, place.line) {
                Ok((key, value)) => Found::Record { place: place.clone(), key, value },
                Err(reason) => return Ok(Some(Found::Bad { place, reason })),
            };
            return Ok(Some(match self.left_out(&object) {
                None => found,
                Some(text) => {
                    self.pending = Some(found);
                    Found::Note { place, text }
                }
            }));
        }
    }

    fn record(
        &self,
        object: &Object,
        line: Vec<u8>,
        number: u64,
    ) -> Result<(Bytes, Bytes), String> {
        if let Some(field) = &self.shape.key_field {
            let key = object.once(field)?.ok_or_else(|| format!("there is no field {field:?}"))?;
            return Ok((key, line.into()));
        }
        match object.once("key")? {
            Some(key) => {
                object.one_of("key", "key_base64")?;
                object.one_of("value", "value_base64")?;
                Ok((key, object.once("value")?.ok_or("there is a key, but no value")?))
            }
            None => Ok((numbered_key(&self.file, number), line.into())),
        }
    }

    /// The members that are left out of a record, the first time that there are some.
    fn left_out(&mut self, object: &Object) -> Option<String> {
        let exported = object.has("key") || object.has("key_base64");
        if self.noted || self.shape.key_field.is_some() || !exported {
            return None;
        }
        let others: Vec<_> =
            object.members.keys().filter(|name| !EXPORTED.contains(&name.as_str())).collect();
        self.noted = !others.is_empty();
        self.noted.then(|| format!("members beside key and value are left out: {others:?}"))
    }
}

impl Object {
    fn has(&self, name: &str) -> bool {
        self.members.contains_key(name)
    }

    /// The bytes of a member that may be there once.
    fn once(&self, name: &str) -> Result<Option<Bytes>, String> {
        let base64 = format!("{name}_base64");
        if let Some(name) = self.repeated.iter().find(|found| **found == name || **found == base64)
        {
            return Err(format!("the member {name:?} occurs twice"));
        }
        text::from_fields(&self.members, name).transpose()
    }

    fn one_of(&self, one: &str, other: &str) -> Result<(), String> {
        let both = self.has(one) && self.has(other);
        if both { Err(format!("there are both {one:?} and {other:?}")) } else { Ok(()) }
    }
}

impl<'de> Deserialize<'de> for Object {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;

        impl<'de> Visitor<'de> for Members {
            type Value = Object;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Object, A::Error> {
                let mut object = Object { members: Map::new(), repeated: Vec::new() };
                while let Some((name, value)) = map.next_entry::<String, Value>()? {
                    if object.members.insert(name.clone(), value).is_some() {
                        object.repeated.push(name);
                    }
                }
                Ok(object)
            }
        }

        deserializer.deserialize_map(Members)
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
                Found::Note { text, .. } => Err((0, text)),
                Found::Unread { .. } => panic!("{found:?}"),
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

    #[test]
    fn a_member_that_gives_key_or_value_occurs_once() {
        let reason = |line, field| read(line, field)[0].as_ref().unwrap_err().1.clone();
        let twice = |name| format!("the member {name:?} occurs twice");
        assert_eq!(reason("{\"key\":\"a\",\"key\":\"b\",\"value\":1}", None), twice("key"));
        assert_eq!(reason("{\"key\":\"a\",\"value\":1,\"value\":2}", None), twice("value"));
        assert_eq!(reason("{\"id\":1,\"id\":2}", Some("id")), twice("id"));
        let both = reason("{\"key\":\"a\",\"key_base64\":\"Yg==\",\"value\":1}", None);
        assert_eq!(both, "there are both \"key\" and \"key_base64\"");
        assert!(read("{\"n\":1,\"n\":2}", None)[0].is_ok(), "the line is kept as it is");
    }

    #[test]
    fn members_that_are_left_out_are_named_once() {
        let line = "{\"key\":\"a\",\"value\":\"1\",\"time\":5}\n";
        let found = read(format!("{line}{line}").leak(), None);
        let note = "members beside key and value are left out: [\"time\"]";
        let record = Ok(("a".to_owned(), "1".to_owned()));
        assert_eq!(found, [Err((0, note.to_owned())), record.clone(), record]);
    }

    #[test]
    fn a_byte_order_mark_is_no_part_of_the_first_line() {
        let found = read("\u{feff}{\"key\":\"a\",\"value\":\"1\"}\n", None);
        assert_eq!(found, [Ok(("a".into(), "1".into()))]);
    }
}
