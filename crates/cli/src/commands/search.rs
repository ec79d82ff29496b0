//! `keelson search`: records by what is in them.

use std::io::{self, Write};

use bytes::Bytes;
use clap::{Args, ValueEnum};
use keelson_client::{Read, Search as Question};
use keelson_wire::v1::{SearchFragment, SearchHit, SearchResponse};
use serde_json::{Map, Value, json};

use crate::context::Global;
use crate::failure::Outcome;
use crate::output;
use crate::text;

/// Search the content index of a database
#[derive(Args, Debug)]
pub(crate) struct Search {
    /// Name of the database, or DATABASE@MEMBER for the copy of a member
    database: String,
    /// Words (all must match), "phrases", field:word, field:[from TO to], AND, OR, NOT, (...); *
    /// for everything
    query: String,
    /// Matches to show, 1 to 1000
    #[arg(long, default_value_t = 10)]
    limit: u32,
    /// Order of the matches
    #[arg(long, value_enum, default_value_t = Order::Relevance)]
    order: Order,
    /// Only keys that begin with this
    #[arg(long, default_value = "")]
    prefix: String,
    /// Wait until everything is indexed that was written before
    #[arg(long)]
    current: bool,
    /// Show whole values
    #[arg(long)]
    values: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Order {
    /// The best first
    Relevance,
    /// By key
    Key,
}

impl Search {
    pub(crate) async fn run(self, global: &Global) -> Outcome {
        let (name, member) = match self.database.split_once('@') {
            Some((name, member)) => (name, Some(member)),
            None => (&self.database[..], None),
        };
        let database = global.client()?.database(name);
        let question = Question {
            query: self.query.clone(),
            prefix: Bytes::copy_from_slice(self.prefix.as_bytes()),
            limit: self.limit,
            by_key: matches!(self.order, Order::Key),
            current: self.current,
            values: self.values,
            fragments: true,
            read: if member.is_some() { Read::Any } else { Read::Latest },
        };
        let found = match member {
            Some(member) => database.search_at(member, &question).await?,
            None => database.search(&question).await?,
        };
        if global.output.is_data() {
            output::print_data(global.output, &data(&found));
            return Ok(());
        }
        print(&found)?;
        Ok(())
    }
}

fn data(found: &SearchResponse) -> Value {
    json!({
        "total": found.total,
        "reflects": text::log_end(found.reflects.as_ref()),
        "backlog_bytes": found.backlog_bytes,
        "hits": found.hits.iter().map(hit_data).collect::<Value>(),
    })
}

fn hit_data(hit: &SearchHit) -> Value {
    let mut fields = Map::new();
    text::to_fields(&mut fields, "key", &hit.key);
    fields.insert("score".into(), hit.score.into());
    if let Some(value) = &hit.value {
        text::to_fields(&mut fields, "value", value);
    }
    let fragments = hit.fragments.iter().map(|fragment| {
        let matches = fragment.matches.chunks_exact(2).map(|pair| json!([pair[0], pair[1]]));
        json!({
            "field": fragment.field,
            "text": fragment.text,
            "matches": matches.collect::<Value>(),
        })
    });
    fields.insert("fragments".into(), fragments.collect());
    Value::Object(fields)
}

fn print(found: &SearchResponse) -> io::Result<()> {
    let bold = output::colour(&io::stdout());
    let mut out = io::stdout().lock();
    for hit in &found.hits {
        writeln!(out, "{}", String::from_utf8_lossy(&hit.key))?;
        for fragment in &hit.fragments {
            writeln!(out, "    {}: {}", fragment.field, marked(fragment, bold))?;
        }
        if let Some(value) = &hit.value {
            writeln!(out, "    {}", String::from_utf8_lossy(value))?;
        }
    }
    let (shown, total) = (found.hits.len(), found.total);
    let behind = match found.backlog_bytes {
        0 => String::new(),
        bytes => format!("; {} of log are not indexed yet", text::size(bytes)),
    };
    writeln!(out, "{shown} of {total} matches{behind}")
}

/// The text on one line, with its matches in bold or between marks.
fn marked(fragment: &SearchFragment, bold: bool) -> String {
    let (begin, end) = if bold { ("\x1b[1m", "\x1b[0m") } else { ("[", "]") };
    let (mut marked, mut at) = (String::new(), 0);
    for pair in fragment.matches.chunks_exact(2) {
        let (from, to) = (pair[0] as usize, pair[1] as usize);
        let (Some(before), Some(word)) = (fragment.text.get(at..from), fragment.text.get(from..to))
        else {
            break;
        };
        marked += &format!("{before}{begin}{word}{end}");
        at = to;
    }
    marked += fragment.text.get(at..).unwrap_or_default();
    marked.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matches_are_marked_on_one_line() {
        let fragment = SearchFragment {
            field: "description".into(),
            text: "a tool\n  for data".into(),
            matches: vec![2, 6, 13, 17],
        };
        assert_eq!(marked(&fragment, false), "a [tool] for [data]");
        let wrong = SearchFragment { matches: vec![2, 900], ..fragment };
        assert_eq!(marked(&wrong, false), "a tool for data");
    }
}
