//! A decision record as a row of a table.

use keelson_status::decision::{Names, line};
use serde_json::Value;

use crate::output::{Column, column, wide};
use crate::text;

pub(super) const COLUMNS: &[Column] = &[
    column("id"),
    column("time"),
    column("database"),
    column("epoch"),
    column("reason"),
    column("chosen"),
    column("verdict"),
    column("why"),
    wide("attempt"),
    wide("log end"),
    wide("operation"),
];

pub(super) fn row(names: &Names, entry: &Value) -> Vec<String> {
    let line = line(names, entry);
    vec![
        line.index.to_string(),
        text::time(line.unix_ms),
        line.database,
        line.epoch,
        line.reason,
        line.chosen,
        line.verdict.to_owned(),
        line.why,
        line.attempt,
        line.log_end,
        line.operation,
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_of_any_version_has_all_columns() {
        let row = row(&Names::default(), &Value::String("?".into()));
        assert_eq!(row.len(), COLUMNS.len());
    }
}
