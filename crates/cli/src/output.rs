//! One way to print results: tables for people, JSON and YAML for programs; and where colours go.
//!
//! JSON is stable: snake_case names, units in names, one object or one array. YAML is the same data
//! in block form; strings are always quoted, so that no value changes its type on the way.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write as _};

use clap::ValueEnum;
use comfy_table::{ContentArrangement, Table as Drawn, presets};
use serde_json::Value;

/// How results are printed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, ValueEnum)]
pub(crate) enum Format {
    /// Columns for people.
    #[default]
    Table,
    /// More columns.
    Wide,
    /// One JSON document.
    Json,
    /// The same as YAML.
    Yaml,
    /// What `--watch` makes of JSON: each document in one line.
    #[value(skip)]
    JsonLines,
}

impl Format {
    /// Whether a program reads the output.
    pub(crate) fn is_data(self) -> bool {
        matches!(self, Self::Json | Self::Yaml | Self::JsonLines)
    }

    /// The form of results that follow each other.
    pub(crate) fn repeated(self) -> Self {
        if self == Self::Json { Self::JsonLines } else { self }
    }
}

/// A column: its title, and whether only the wide form shows it.
pub(crate) struct Column {
    title: &'static str,
    wide: bool,
}

/// A column of every form.
pub(crate) const fn column(title: &'static str) -> Column {
    Column { title, wide: false }
}

/// A column of the wide form.
pub(crate) const fn wide(title: &'static str) -> Column {
    Column { title, wide: true }
}

/// Prints a list, see [`list`].
pub(crate) fn print_list(format: Format, columns: &[Column], rows: Vec<Vec<String>>, data: &Value) {
    emit(&list(format, columns, rows, data));
}

/// A list: `rows` as a table, or `data` as a document.
pub(crate) fn list(
    format: Format,
    columns: &[Column],
    rows: Vec<Vec<String>>,
    data: &Value,
) -> String {
    if format.is_data() { document(format, data) } else { draw(format, columns, rows) }
}

/// Prints one thing, see [`one`].
pub(crate) fn print_one(format: Format, rows: &[(&str, String)], data: &Value) {
    emit(&one(format, rows, data));
}

/// One thing: `rows` as name and value, or `data` as a document.
pub(crate) fn one(format: Format, rows: &[(&str, String)], data: &Value) -> String {
    if format.is_data() {
        return document(format, data);
    }
    let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let mut text = String::new();
    for (name, value) in rows {
        let _ = writeln!(text, "{name:width$}  {value}");
    }
    text
}

/// Prints a sentence for people, or `data` as a document.
pub(crate) fn print_done(format: Format, sentence: &str, data: &Value) {
    if format.is_data() {
        return print_data(format, data);
    }
    emit(&format!("{sentence}\n"));
}

/// Prints a document.
pub(crate) fn print_data(format: Format, data: &Value) {
    emit(&document(format, data));
}

/// A document.
pub(crate) fn document(format: Format, data: &Value) -> String {
    match format {
        Format::Yaml => {
            let mut text = String::new();
            yaml(data, 0, &mut text);
            text
        }
        Format::JsonLines => format!("{data}\n"),
        _ => format!("{}\n", serde_json::to_string_pretty(data).unwrap_or_default()),
    }
}

/// Writes to standard output; a reader that went away is no error.
pub(crate) fn emit(text: &str) {
    let _ = write(text);
}

/// Writes to standard output.
///
/// # Errors
/// Whoever read it has gone, or it is a file that takes no more.
pub(crate) fn write(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// Whether what goes to `stream` may be coloured or bold: only for people, and only if they did not
/// ask for plain text (<https://no-color.org>).
pub(crate) fn colour(stream: &impl IsTerminal) -> bool {
    colour_wanted(stream.is_terminal(), std::env::var_os("NO_COLOR").as_deref())
}

fn colour_wanted(terminal: bool, no_color: Option<&OsStr>) -> bool {
    terminal && no_color.is_none_or(OsStr::is_empty)
}

fn draw(format: Format, columns: &[Column], rows: Vec<Vec<String>>) -> String {
    let shown = |index: &usize| !columns[*index].wide || format == Format::Wide;
    let mut table = Drawn::new();
    table.load_preset(presets::NOTHING);
    if io::stdout().is_terminal() {
        table.set_content_arrangement(ContentArrangement::Dynamic);
    }
    table.set_header((0..columns.len()).filter(shown).map(|i| columns[i].title.to_uppercase()));
    for row in rows {
        table.add_row(
            (0..columns.len()).filter(shown).map(|i| row.get(i).cloned().unwrap_or_default()),
        );
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    let mut text = table.trim_fmt();
    text.push('\n');
    text
}

fn yaml(value: &Value, depth: usize, out: &mut String) {
    match value {
        Value::Array(items) if items.is_empty() => out.push_str("[]\n"),
        Value::Object(fields) if fields.is_empty() => out.push_str("{}\n"),
        Value::Array(items) => {
            for item in items {
                let _ = write!(out, "{:depth$}- ", "");
                yaml_inside(item, depth + 2, out);
            }
        }
        Value::Object(fields) => {
            for (index, (name, field)) in fields.iter().enumerate() {
                if index > 0 || !out.ends_with("- ") {
                    let _ = write!(out, "{:depth$}", "");
                }
                let _ = write!(out, "{name}:");
                match field {
                    Value::Array(items) if !items.is_empty() => out.push('\n'),
                    Value::Object(inner) if !inner.is_empty() => out.push('\n'),
                    _ => out.push(' '),
                }
                yaml(field, depth + 2, out);
            }
        }
        // JSON scalars are YAML scalars.
        scalar => {
            let _ = writeln!(out, "{scalar}");
        }
    }
}

/// An item of a list; a list in a list starts on its own line.
fn yaml_inside(item: &Value, depth: usize, out: &mut String) {
    if matches!(item, Value::Array(items) if !items.is_empty()) {
        out.truncate(out.trim_end_matches(' ').len());
        out.push('\n');
    }
    yaml(item, depth, out);
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn yaml_quotes_strings_and_nests() {
        let mut text = String::new();
        yaml(
            &json!([{"a": "no", "b": [1, {"c": null}], "d": {}, "e": {"f": true}}, "x", [2]]),
            0,
            &mut text,
        );
        let expected = "- a: \"no\"\n  b:\n    - 1\n    - c: null\n  d: {}\n  e:\n    f: true\n\
            - \"x\"\n-\n  - 2\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn a_document_that_is_repeated_is_one_line() {
        let data = json!([{"text": "two\nlines"}, {"text": ""}]);
        let line = document(Format::Json.repeated(), &data);
        assert_eq!(line, "[{\"text\":\"two\\nlines\"},{\"text\":\"\"}]\n");
        assert_eq!(Format::Wide.repeated(), Format::Wide);
    }

    #[test]
    fn colours_are_for_terminals_of_people_who_did_not_ask_for_plain_text() {
        assert!(colour_wanted(true, None));
        assert!(colour_wanted(true, Some("".as_ref())), "empty means not set");
        assert!(!colour_wanted(true, Some("1".as_ref())));
        assert!(!colour_wanted(false, None));
    }

    #[test]
    fn wide_columns_are_left_out_of_tables() {
        let columns = [column("name"), wide("id"), column("state")];
        let rows = vec![vec!["DB1".into(), "7".into(), "Mounted".into()]];
        let narrow = draw(Format::Table, &columns, rows.clone());
        assert_eq!(narrow, "NAME  STATE\nDB1   Mounted\n");
        assert!(draw(Format::Wide, &columns, rows).contains("ID"));
    }
}
