//! What of a value is indexed.
//!
//! A JSON object is indexed by its fields. A mail message gets the fields `from`, `to`, `cc`,
//! `subject`, `date`, `message_id`, `attachments` and `body`, the stanza of a Debian package those
//! that it names, and `name`. Any other text is one field, `text`.
//! Values that are none of these are found by their key only.

use mail_parser::{Address, MessageParser, MimeHeaders};
use serde_json::{Map, Value};

use crate::stanza::package;

/// Longest text of one value that is indexed, in bytes; the rest of it is not found.
const TEXT_BYTES_MAX: usize = 1024 * 1024;
/// Headers of which one must be there before text counts as a mail message.
const MAIL_HEADERS: [&str; 5] = ["from", "subject", "date", "message-id", "received"];
/// First bytes in which these are looked for.
const HEADER_BYTES_MAX: usize = 64 * 1024;

/// The fields of a value.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Content(Map<String, Value>);

impl Content {
    /// Reads a value; without fields if nothing in it can be indexed.
    #[must_use]
    pub fn read(value: &[u8]) -> Self {
        if value.first() == Some(&b'{')
            && let Ok(Value::Object(fields)) = serde_json::from_slice(value)
        {
            return Self(fields);
        }
        if looks_like_mail(value)
            && let Some(fields) = mail(value)
        {
            return Self(fields);
        }
        match std::str::from_utf8(value) {
            Ok(text) if !text.trim().is_empty() && !text.contains('\0') => {
                Self(package(cut(text)).unwrap_or_else(|| plain(text)))
            }
            _ => Self::default(),
        }
    }

    /// Keeps these fields of the first level only; all if none are named.
    #[must_use]
    pub fn only(mut self, fields: &[String]) -> Self {
        if !fields.is_empty() {
            self.0.retain(|name, _| fields.contains(name));
        }
        self
    }

    /// The fields.
    #[must_use]
    pub const fn fields(&self) -> &Map<String, Value> {
        &self.0
    }

    pub(crate) fn into_fields(self) -> Map<String, Value> {
        self.0
    }

    /// Every text in it with the path to it, at most [`TEXT_BYTES_MAX`] in all.
    pub(crate) fn texts(&self) -> Vec<(String, &str)> {
        let mut texts = Vec::new();
        let mut left = TEXT_BYTES_MAX;
        for (name, value) in &self.0 {
            gather(name, value, &mut left, &mut texts);
        }
        texts
    }
}

fn gather<'a>(path: &str, value: &'a Value, left: &mut usize, into: &mut Vec<(String, &'a str)>) {
    match value {
        Value::String(text) => {
            let text = &text[..text.floor_char_boundary(*left)];
            *left -= text.len();
            if !text.is_empty() {
                into.push((path.to_owned(), text));
            }
        }
        Value::Array(values) => values.iter().for_each(|value| gather(path, value, left, into)),
        Value::Object(fields) => {
            for (name, value) in fields {
                gather(&format!("{path}.{name}"), value, left, into);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

fn plain(text: &str) -> Map<String, Value> {
    Map::from_iter([("text".to_owned(), Value::from(cut(text)))])
}

fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(TEXT_BYTES_MAX)]
}

/// Whether it begins with lines "Name: value", one of them a header that mail has.
fn looks_like_mail(value: &[u8]) -> bool {
    let mut known = false;
    for line in value[..value.len().min(HEADER_BYTES_MAX)].split(|byte| *byte == b'\n') {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.is_empty() {
            return known;
        }
        if matches!(line[0], b' ' | b'\t') {
            continue;
        }
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { return false };
        let name = &line[..colon];
        if name.is_empty() || !name.iter().all(|byte| (33..=126).contains(byte)) {
            return false;
        }
        known |= MAIL_HEADERS.iter().any(|header| name.eq_ignore_ascii_case(header.as_bytes()));
    }
    known
}

fn mail(value: &[u8]) -> Option<Map<String, Value>> {
    let message = MessageParser::default().parse(value)?;
    let mut fields = Map::new();
    let mut put = |name: &str, value: Option<Value>| {
        if let Some(value) = value {
            fields.insert(name.to_owned(), value);
        }
    };
    put("from", addresses(message.from()));
    put("to", addresses(message.to()));
    put("cc", addresses(message.cc()));
    put("subject", message.subject().map(Value::from));
    put("date", message.date().map(|date| Value::from(date.to_rfc3339())));
    put("message_id", message.message_id().map(Value::from));
    let names = message.attachments().filter_map(|part| part.attachment_name());
    let names: Vec<Value> = names.map(Value::from).collect();
    put("attachments", (!names.is_empty()).then_some(Value::Array(names)));
    let body = message.body_text(0).map(|body| Value::from(cut(&body)));
    put("body", body);
    Some(fields)
}

fn addresses(of: Option<&Address<'_>>) -> Option<Value> {
    let text = |address: &mail_parser::Addr<'_>| {
        let (name, at) = (address.name.as_deref(), address.address.as_deref());
        match (name, at) {
            (Some(name), Some(at)) => Some(Value::from(format!("{name} <{at}>"))),
            (one, other) => one.or(other).map(Value::from),
        }
    };
    let all: Vec<Value> = of?.iter().filter_map(text).collect();
    match all.len() {
        0 => None,
        1 => all.into_iter().next(),
        _ => Some(Value::Array(all)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const MESSAGE: &str = "From: Ada Lovelace <ada@example.org>\r\nTo: b@example.org,\r\n \
        c@example.org\r\nSubject: =?utf-8?q?Gr=C3=BC=C3=9Fe?=\r\nDate: Mon, 2 Mar 2026 10:00:00 \
        +0100\r\nMessage-ID: <1@example.org>\r\n\r\nThe engine weaves.\r\n";

    #[test]
    fn a_mail_message_has_the_fields_that_people_search() {
        let content = Content::read(MESSAGE.as_bytes());
        let fields = Value::Object(content.into_fields());
        assert_eq!(fields["from"], "Ada Lovelace <ada@example.org>");
        assert_eq!(fields["to"], json!(["b@example.org", "c@example.org"]));
        assert_eq!(fields["subject"], "Grüße");
        assert_eq!(fields["date"], "2026-03-02T10:00:00+01:00");
        assert_eq!(fields["message_id"], "1@example.org");
        assert_eq!(fields["body"].as_str().map(str::trim), Some("The engine weaves."));
    }

    #[test]
    fn values_are_told_apart() {
        let fields = |value: &[u8]| Value::Object(Content::read(value).into_fields());
        assert_eq!(fields(br#"{"name":"curl","size":3}"#), json!({"name": "curl", "size": 3}));
        assert_eq!(fields(b"hello there"), json!({"text": "hello there"}));
        assert_eq!(fields(b"{not json"), json!({"text": "{not json"}));
        assert_eq!(fields(b"Note: no mail\n\nbody"), json!({"text": "Note: no mail\n\nbody"}));
        let stanza = json!({"name": "a", "package": "a", "version": "1"});
        assert_eq!(fields(b"Package: a\nVersion: 1\n"), stanza);
        assert_eq!(fields(b"[1,2]"), json!({"text": "[1,2]"}));
        for empty in [&b""[..], b"  \n", b"\xff\xfe\x00", b"a\0b"] {
            assert_eq!(fields(empty), json!({}), "{empty:?}");
        }
    }

    #[test]
    fn texts_have_paths_and_a_bound() {
        let value = json!({"a": "one", "b": {"c": ["two", {"d": "three"}]}, "n": 7});
        let content = Content::read(value.to_string().as_bytes());
        let texts = content.texts();
        let wanted = [("a", "one"), ("b.c", "two"), ("b.c.d", "three")];
        let wanted: Vec<_> = wanted.iter().map(|(path, text)| (path.to_string(), *text)).collect();
        assert_eq!(texts, wanted);
        let long = "é".repeat(TEXT_BYTES_MAX);
        let content = Content::read(json!({ "a": long, "b": "x" }).to_string().as_bytes());
        let bytes: usize = content.texts().iter().map(|(_, text)| text.len()).sum();
        assert_eq!(bytes, TEXT_BYTES_MAX);
    }

    #[test]
    fn only_named_fields_are_kept() {
        let content = Content::read(br#"{"name":"x","secret":"y"}"#).only(&["name".into()]);
        assert_eq!(Value::Object(content.into_fields()), json!({"name": "x"}));
    }
}
