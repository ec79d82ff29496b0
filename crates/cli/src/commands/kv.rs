//! `keelson kv`: read and write databases, import and export them.

mod export;
mod import;
mod reserved;

use std::io::{self, IsTerminal, Read as _, Write};
use std::path::PathBuf;

use bytes::Bytes;
use clap::{Args, Subcommand};
use keelson_client::{Change, Database, Read, ScanOptions, WatchEvent, WriteBatch};
use keelson_types::RefusalReason;
use serde_json::{Map, Value, json};

use crate::context::Global;
use crate::failure::{Failure, Outcome};
use crate::output;
use crate::text;

#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// Write a value under a key
    Put(Put),
    /// Print the value of a key
    Get(Get),
    /// Remove keys
    Delete(Delete),
    /// Print items in the order of their keys
    Scan(Scan),
    /// Print committed changes as they happen
    Watch(Watch),
    /// Write the records of a file or directory
    Import(import::Import),
    /// Print all items as JSON Lines, for `import`
    Export(export::Export),
}

#[derive(Args, Debug)]
pub(crate) struct Put {
    /// Name of the database
    database: String,
    /// Key
    key: String,
    /// Value; "-" or nothing reads standard input
    value: Option<String>,
    /// Take the value from this file
    #[arg(long, conflicts_with = "value")]
    file: Option<PathBuf>,
    /// Key and value on the command line are base64
    #[arg(long)]
    base64: bool,
    /// Only if the key does not exist
    #[arg(long, conflicts_with = "if_equals")]
    if_absent: bool,
    /// Only if the key has this value
    #[arg(long, value_name = "VALUE")]
    if_equals: Option<String>,
}

#[derive(Args, Debug)]
pub(crate) struct Get {
    /// Name of the database
    database: String,
    /// Key
    key: String,
    /// The key is base64
    #[arg(long)]
    base64: bool,
    /// Read the copy of this member, active or passive, as far as it has replayed
    #[arg(long, value_name = "MEMBER")]
    at: Option<String>,
    /// Wait until that copy has the write of this commit token (base64, as put prints it)
    #[arg(long, requires = "at")]
    token: Option<String>,
}

#[derive(Args, Debug)]
pub(crate) struct Delete {
    /// Name of the database
    database: String,
    /// Key; with --to the first key of the range
    key: String,
    /// Remove all keys from KEY up to, and without, this one
    #[arg(long)]
    to: Option<String>,
    /// Keys are base64
    #[arg(long)]
    base64: bool,
}

#[derive(Args, Debug)]
pub(crate) struct Scan {
    /// Name of the database
    database: String,
    /// Only keys that begin with this
    #[arg(long, conflicts_with_all = ["from", "to"])]
    prefix: Option<String>,
    /// First key
    #[arg(long)]
    from: Option<String>,
    /// Key behind the last one
    #[arg(long)]
    to: Option<String>,
    /// At most this many items; 0 for no limit
    #[arg(long, default_value_t = 100)]
    limit: u64,
    /// Leave the values out
    #[arg(long)]
    keys_only: bool,
}

#[derive(Args, Debug)]
pub(crate) struct Watch {
    /// Name of the database
    database: String,
    /// Only keys that begin with this
    #[arg(long, default_value = "")]
    prefix: String,
    /// Continue behind this cursor of an earlier event (base64)
    #[arg(long, default_value = "")]
    from: String,
    /// End after this many events
    #[arg(long)]
    limit: Option<u64>,
}

impl Command {
    pub(crate) async fn run(self, global: &Global) -> Outcome {
        match self {
            Self::Put(put) => put.run(global).await,
            Self::Get(get) => get.run(global).await,
            Self::Delete(delete) => delete.run(global).await,
            Self::Scan(scan) => scan.run(global).await,
            Self::Watch(watch) => watch.run(global).await,
            Self::Import(import) => import.run(global).await,
            Self::Export(export) => export.run(global).await,
        }
    }
}

/// A handle for a database that exists.
async fn open(global: &Global, name: &str) -> Outcome<Database> {
    Ok(global.connect().await?.database(name))
}

fn argument(text: &str, base64: bool) -> Outcome<Bytes> {
    if !base64 {
        return Ok(Bytes::copy_from_slice(text.as_bytes()));
    }
    text::decode_base64(text)
        .map(Bytes::from)
        .ok_or_else(|| Failure::new(RefusalReason::BadArgument, format!("{text:?} is not base64")))
}

impl Put {
    async fn run(self, global: &Global) -> Outcome {
        let key = argument(&self.key, self.base64)?;
        let value = self.value()?;
        let plan = format!("write {} bytes under {:?} of {}", value.len(), self.key, self.database);
        if global.only_shows(&plan) {
            return Ok(());
        }
        let database = open(global, &self.database).await?;
        let mut batch = WriteBatch::new().put(key.clone(), value);
        if self.if_absent {
            batch = batch.if_absent(key.clone());
        }
        if let Some(expected) = &self.if_equals {
            batch = batch.if_equals(key, argument(expected, self.base64)?);
        }
        let written = database.session().await?.write(batch).await?;
        let token = text::encode_base64(&written.token);
        let data = json!({ "database": self.database, "key": self.key, "token_base64": token });
        output::print_done(global.output, &format!("written; commit token {token}"), &data);
        Ok(())
    }

    fn value(&self) -> Outcome<Bytes> {
        if let Some(path) = &self.file {
            let bytes = std::fs::read(path).map_err(|error| Failure::file(path, &error))?;
            return Ok(bytes.into());
        }
        match self.value.as_deref() {
            Some(value) if value != "-" => argument(value, self.base64),
            _ => {
                let mut bytes = Vec::new();
                io::stdin().lock().read_to_end(&mut bytes)?;
                Ok(bytes.into())
            }
        }
    }
}

impl Get {
    async fn run(self, global: &Global) -> Outcome {
        let key = argument(&self.key, self.base64)?;
        let database = open(global, &self.database).await?;
        let found = match &self.at {
            None => database.get(key.clone()).await?,
            Some(member) => {
                let token = self.token.as_deref().map(text::commit_token).transpose()?;
                let read = token.map_or(Read::Any, Read::AtLeast);
                database.get_at(member, key.clone(), &read).await?
            }
        };
        let Some(value) = found else {
            return Err(Failure {
                code: "not_found".into(),
                message: format!("{} has no key {:?}", self.database, self.key),
                hint: "keelson kv scan lists keys".into(),
                exit: crate::failure::Exit::Failed,
            });
        };
        if global.output.is_data() {
            output::print_data(global.output, &Value::Object(item(&key, Some(&value))));
            return Ok(());
        }
        let out = io::stdout().lock();
        let terminal = out.is_terminal();
        Ok(print_value(out, terminal, &value)?)
    }
}

/// The bytes as they are; on a terminal the prompt then begins on a line of its own.
fn print_value(mut out: impl Write, terminal: bool, value: &[u8]) -> io::Result<()> {
    out.write_all(value)?;
    if terminal && !value.ends_with(b"\n") {
        out.write_all(b"\n")?;
    }
    out.flush()
}

impl Delete {
    async fn run(self, global: &Global) -> Outcome {
        let key = argument(&self.key, self.base64)?;
        let Self { database: name, key: shown, to, base64 } = self;
        let plan = match &to {
            Some(to) => format!("remove the keys from {shown:?} up to {to:?} of {name}"),
            None => format!("remove key {shown:?} of {name}"),
        };
        if global.only_shows(&plan) {
            return Ok(());
        }
        if to.is_some() {
            global.confirm(&plan)?;
        }
        let session = open(global, &name).await?.session().await?;
        let written = match &to {
            Some(to) => session.delete_range(key, argument(to, base64)?).await?,
            None => session.delete(key).await?,
        };
        let token = text::encode_base64(&written.token);
        let data = json!({ "database": name, "key": shown, "to": to, "token_base64": token });
        output::print_done(global.output, &format!("removed; commit token {token}"), &data);
        Ok(())
    }
}

impl Scan {
    async fn run(self, global: &Global) -> Outcome {
        let bytes = |text: &Option<String>| Bytes::from(text.clone().unwrap_or_default());
        let range = match &self.prefix {
            Some(prefix) => ScanOptions::prefix(prefix.clone()),
            None => {
                ScanOptions { from: bytes(&self.from), to: bytes(&self.to), ..Default::default() }
            }
        };
        // The server would count the tools' own keys, and how many there are is not known. Where
        // they may be, the scan is broken off here.
        // One more tells whether items follow.
        let within = self.limit == 0 || reserved::is_within(&range.from, &range.to);
        let limit = if within { 0 } else { self.limit.saturating_add(1) };
        let options = ScanOptions { keys_only: self.keys_only, limit, ..range };
        let mut scan = open(global, &self.database).await?.scan(options).await?;
        let mut items = Vec::new();
        let mut left = if self.limit == 0 { u64::MAX } else { self.limit };
        let mut more = false;
        while let Some(found) = scan.next().await? {
            if reserved::is_reserved(&found.key) {
                continue;
            }
            if left == 0 {
                more = true;
                break;
            }
            left -= 1;
            let value = (!self.keys_only).then_some(&found.value);
            if global.output.is_data() {
                items.push(Value::Object(item(&found.key, value)));
            } else if let Some(value) = value {
                output::emit(&format!("{}\t{}\n", shown(&found.key), shown(value)));
            } else {
                output::emit(&format!("{}\n", shown(&found.key)));
            }
        }
        if global.output.is_data() {
            output::print_data(global.output, &Value::Array(items));
        }
        if more {
            eprintln!("note: more items follow; --limit 0 prints all");
        }
        Ok(())
    }
}

impl Watch {
    async fn run(self, global: &Global) -> Outcome {
        let from = argument(&self.from, true)?;
        let database = open(global, &self.database).await?;
        let mut watch = database.watch(from, self.prefix.clone());
        let mut left = self.limit;
        while left != Some(0) {
            let Some(event) = watch.next().await? else { break };
            if event.truncated || event.discarded {
                let reason = match event.truncated {
                    true => RefusalReason::Truncated,
                    false => RefusalReason::Discarded,
                };
                return Err(Failure::new(reason, "the watch cannot go on from its position"));
            }
            if event.changes.is_empty() {
                continue;
            }
            print_event(global, &event);
            left = left.map(|left| left - 1);
        }
        Ok(())
    }
}

/// One line per event as JSON, or one per change for people.
fn print_event(global: &Global, event: &WatchEvent) {
    if global.output.is_data() {
        let changes: Value = event.changes.iter().map(change_data).collect();
        let data = json!({
            "time": text::time(event.unix_millis),
            "cursor_base64": text::encode_base64(&event.cursor),
            "changes": changes,
        });
        output::emit(&format!("{data}\n"));
        return;
    }
    let time = text::time(event.unix_millis);
    for change in &event.changes {
        let line = match change {
            Change::Put(put) => format!("put\t{}\t{}", shown(&put.key), shown(&put.value)),
            Change::Delete(key) => format!("delete\t{}", shown(key)),
            Change::DeleteRange { from, to } => format!("delete\t{}..{}", shown(from), shown(to)),
        };
        output::emit(&format!("{time}\t{line}\n"));
    }
}

fn change_data(change: &Change) -> Value {
    let mut fields = Map::new();
    match change {
        Change::Put(put) => {
            fields = item(&put.key, Some(&put.value));
            fields.insert("change".into(), json!("put"));
        }
        Change::Delete(key) => {
            fields.insert("change".into(), json!("delete"));
            text::to_fields(&mut fields, "key", key);
        }
        Change::DeleteRange { from, to } => {
            fields.insert("change".into(), json!("delete_range"));
            text::to_fields(&mut fields, "from", from);
            text::to_fields(&mut fields, "to", to);
        }
    }
    Value::Object(fields)
}

/// An item as JSON fields; bytes that are no UTF-8 as base64.
fn item(key: &[u8], value: Option<&Bytes>) -> Map<String, Value> {
    let mut fields = Map::new();
    text::to_fields(&mut fields, "key", key);
    if let Some(value) = value {
        text::to_fields(&mut fields, "value", value);
    }
    fields
}

/// Bytes for a line of a terminal: control characters and what is no UTF-8 are escaped.
fn shown(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.contains(char::is_control) => text.to_owned(),
        _ => bytes.escape_ascii().to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_terminal_gets_a_line_end_behind_the_value() {
        let printed = |terminal, value: &[u8]| {
            let mut out = Vec::new();
            print_value(&mut out, terminal, value).unwrap();
            out
        };
        assert_eq!(printed(false, b"v"), b"v");
        assert_eq!(printed(true, b"v"), b"v\n");
        assert_eq!(printed(true, b"v\n"), b"v\n");
        assert_eq!(printed(true, b""), b"\n");
    }
}
