//! Comma-separated values: the first row names the columns, a record is a row as a JSON object.

use std::io::{self, BufRead};

use csv::{ErrorKind, Reader, ReaderBuilder, StringRecord};
use serde_json::{Map, Value};

use super::Shape;
use super::batch::{FileName, Found, Place, numbered_key};
use super::quotes::{Quotes, Unclosed};

const NOT_CLOSED: &str = "a quote that begins in this row is never closed, so the rest of the file \
    would be one cell";

pub(super) struct Table {
    reader: Reader<Quotes>,
    unclosed: Unclosed,
    header: Vec<String>,
    key_column: Option<usize>,
    file: FileName,
    rows: u64,
}

impl Table {
    /// Reads the header.
    ///
    /// # Errors
    /// The header is malformed, names a column twice, or lacks the key column.
    pub(super) fn new(
        input: Box<dyn BufRead + Send>,
        tabs: bool,
        file: FileName,
        shape: &Shape,
    ) -> Result<Self, String> {
        let delimiter = if tabs { b'\t' } else { b',' };
        let (quotes, unclosed) = Quotes::new(input, delimiter);
        let mut reader = ReaderBuilder::new().delimiter(delimiter).from_reader(quotes);
        let header = reader.headers().map_err(|error| format!("the header line: {error}"))?;
        let header: Vec<String> = header.iter().map(str::to_owned).collect();
        if unclosed.is_so() {
            return Err(format!("the header line: {NOT_CLOSED}"));
        }
        let repeated = (1..header.len()).find(|index| header[..*index].contains(&header[*index]));
        if let Some(index) = repeated {
            return Err(format!("the column {:?} occurs twice", header[index]));
        }
        let key_column = match &shape.key_field {
            None => None,
            Some(name) => {
                Some(header.iter().position(|column| column == name).ok_or_else(|| {
                    format!("there is no column {name:?}; the columns are {}", header.join(", "))
                })?)
            }
        };
        Ok(Self { reader, unclosed, header, key_column, file, rows: 0 })
    }

    pub(super) fn next(&mut self) -> io::Result<Option<Found>> {
        let mut row = StringRecord::new();
        let line = self.reader.position().line();
        let place = |line| Place { file: self.file.clone(), line };
        let read = match self.reader.read_record(&mut row) {
            Ok(false) => return Ok(None),
            // Only the last row is read when the input has ended.
            _ if self.unclosed.is_so() => Err(NOT_CLOSED.to_owned()),
            Ok(true) => Ok(()),
            Err(error) => match error.kind() {
                ErrorKind::Io(_) => return Err(io::Error::other(error)),
                ErrorKind::UnequalLengths { expected_len, len, .. } => {
                    Err(format!("the row has {len} fields, the header {expected_len}"))
                }
                ErrorKind::Utf8 { .. } => Err("the row is not UTF-8".to_owned()),
                _ => Err(error.to_string()),
            },
        };
        self.rows += 1;
        let line = row.position().map_or(line, csv::Position::line);
        if let Err(reason) = read {
            return Ok(Some(Found::Bad { place: place(line), reason }));
        }
        let key = match self.key_column {
            Some(column) => row.get(column).unwrap_or_default().to_owned().into(),
            None => numbered_key(&self.file, self.rows),
        };
        let cells = self.header.iter().zip(row.iter());
        let object: Map<String, Value> =
            cells.map(|(name, cell)| (name.clone(), Value::from(cell))).collect();
        let value = Value::Object(object).to_string().into();
        Ok(Some(Found::Record { place: place(line), key, value }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(text: &'static str, key: Option<&str>) -> Result<Vec<Found>, String> {
        let shape = Shape { key_field: key.map(Into::into), ..Shape::default() };
        let mut table = Table::new(Box::new(text.as_bytes()), false, "f".into(), &shape)?;
        Ok(std::iter::from_fn(|| table.next().unwrap()).collect())
    }

    #[test]
    fn rows_become_objects_under_their_key_column() {
        let found = table("id,name\n7,\"a, b\"\n", Some("id")).unwrap();
        let Found::Record { key, value, place } = &found[0] else { panic!("{found:?}") };
        assert_eq!((key.as_ref(), place.line), (&b"7"[..], 2));
        assert_eq!(value, r#"{"id":"7","name":"a, b"}"#);
        let Found::Record { key, .. } = &table("id\nx\n", None).unwrap()[0] else { panic!() };
        assert_eq!(key, "f/000000000001");
    }

    #[test]
    fn a_short_row_is_named_and_the_rest_goes_on() {
        let found = table("a,b\n1,2\n3\n4,5\n", None).unwrap();
        let Found::Bad { place, reason } = &found[1] else { panic!("{found:?}") };
        assert_eq!((place.line, reason.as_str()), (3, "the row has 1 fields, the header 2"));
        assert!(matches!(found[2], Found::Record { .. }));
        assert!(table("a,b\n", Some("c")).is_err());
    }

    #[test]
    fn a_quote_that_is_never_closed_swallows_nothing_silently() {
        let found = table("a,b\n1,2\n3,\"x\n5,6\n", None).unwrap();
        assert!(matches!(found[0], Found::Record { .. }));
        let Found::Bad { place, reason } = &found[1] else { panic!("{found:?}") };
        assert_eq!((place.line, found.len()), (3, 2));
        assert!(reason.contains("never closed"), "{reason}");
        assert!(table("a,\"b\n1,2\n", None).unwrap_err().contains("never closed"));
        for whole in ["a,b\n1,\"x\ny\"\n", "a,b\n1,\"x \"\"y\"\"\"", "a,b\n1,5\" pipe\n", "a\n\"\""]
        {
            let found = table(whole, None).unwrap();
            assert!(matches!(found[..], [Found::Record { .. }]), "{whole}: {found:?}");
        }
    }

    #[test]
    fn a_column_that_occurs_twice_is_refused() {
        assert_eq!(table("a,b,a\n1,2,3\n", None).unwrap_err(), "the column \"a\" occurs twice");
    }

    #[test]
    fn a_byte_order_mark_is_no_part_of_the_first_column() {
        let found = table("\u{feff}id\nx\n", Some("id")).unwrap();
        assert!(matches!(&found[0], Found::Record { key, .. } if key == "x"), "{found:?}");
    }
}
