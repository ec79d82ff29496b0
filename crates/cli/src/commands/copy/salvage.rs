//! `keelson copy salvage`: log that was cut off a copy, because its active went on without it, and
//! kept. Nothing removes it but an operator's word.

use std::collections::BTreeMap;
use std::io::{self, BufWriter, Write};

use clap::Subcommand;
use keelson_client::SalvageStream;
use keelson_wire::v1::{Salvage, SalvagedRecord};
use serde_json::{Map, Value, json};

use super::changes::CopyName;
use crate::context::Global;
use crate::failure::{Failure, Outcome};
use crate::output::{self, Column, column};
use crate::text;

#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// List what a copy keeps
    List {
        /// The copy, as DATABASE@MEMBER
        copy: CopyName,
    },
    /// Count the records of one
    Show {
        /// The copy, as DATABASE@MEMBER
        copy: CopyName,
        /// As listed
        id: String,
    },
    /// Write the records of one, or of all, as JSON Lines in the order of the log; records that put
    /// a key have the form that `kv import` reads
    Export {
        /// The copy, as DATABASE@MEMBER
        copy: CopyName,
        /// As listed; default: all
        id: Option<String>,
    },
    /// Delete one for good; nothing else ever does
    Delete {
        /// The copy, as DATABASE@MEMBER
        copy: CopyName,
        /// As listed
        id: String,
        /// Also before salvage_retention is over
        #[arg(long)]
        before_retention: bool,
    },
}

const COLUMNS: &[Column] = &[
    column("id"),
    column("epoch"),
    column("cut at"),
    column("bytes"),
    column("cut"),
    column("kept until"),
];

impl Command {
    pub(crate) async fn run(self, global: &Global) -> Outcome {
        match self {
            Self::List { copy } => list(global, &copy).await,
            Self::Show { copy, id } => show(global, &copy, &id).await,
            Self::Export { copy, id } => export(global, &copy, id).await,
            Self::Delete { copy, id, before_retention } => {
                delete(global, &copy, &id, before_retention).await
            }
        }
    }
}

async fn found(global: &Global, copy: &CopyName) -> Result<Vec<Salvage>, Failure> {
    let database = global.connect().await?.database(copy.database.as_str());
    Ok(database.list_salvage(&copy.member).await?)
}

async fn open(global: &Global, copy: &CopyName, id: &str) -> Result<SalvageStream, Failure> {
    let database = global.connect().await?.database(copy.database.as_str());
    Ok(database.read_salvage(&copy.member, id).await?)
}

async fn list(global: &Global, copy: &CopyName) -> Outcome {
    let salvages = found(global, copy).await?;
    let row = |salvage: &Salvage| {
        let at = text::position(salvage.at.as_ref());
        vec![
            salvage.id.clone(),
            text::epoch(salvage.epoch.as_ref()),
            at,
            salvage.bytes.to_string(),
            text::time(salvage.cut_unix_millis),
            text::time(salvage.kept_until_unix_millis),
        ]
    };
    let data = |salvage: &Salvage| {
        json!({
            "database": copy.database,
            "member": copy.member,
            "id": salvage.id,
            "epoch": text::epoch(salvage.epoch.as_ref()),
            "at": text::position(salvage.at.as_ref()),
            "bytes": salvage.bytes,
            "cut": text::time(salvage.cut_unix_millis),
            "kept_until": text::time(salvage.kept_until_unix_millis),
        })
    };
    let rows = salvages.iter().map(row).collect();
    output::print_list(global.output, COLUMNS, rows, &salvages.iter().map(data).collect());
    Ok(())
}

async fn show(global: &Global, copy: &CopyName, id: &str) -> Outcome {
    let mut stream = open(global, copy, id).await?;
    let mut kinds: BTreeMap<String, u64> = BTreeMap::new();
    let (mut first, mut last): (Option<SalvagedRecord>, Option<SalvagedRecord>) = (None, None);
    while let Some(records) = stream.next().await? {
        for record in records {
            *kinds.entry(record.kind.clone()).or_default() += 1;
            first.get_or_insert_with(|| record.clone());
            last = Some(record);
        }
    }
    let time = |record: Option<&SalvagedRecord>| text::time(record.map_or(0, |r| r.unix_millis));
    let end = text::position(last.as_ref().and_then(|record| record.end.as_ref()));
    let records: u64 = kinds.values().sum();
    let data = json!({
        "id": id,
        "records": records,
        "kinds": kinds,
        "first_time": time(first.as_ref()),
        "last_time": time(last.as_ref()),
        "end": end,
        "unread_bytes": stream.unread_bytes(),
    });
    let each = kinds.iter().map(|(kind, count)| format!("{count} {kind}"));
    let each = each.collect::<Vec<_>>().join(", ");
    let sentence = format!("{records} records up to {end}: {each}");
    output::print_done(global.output, &sentence, &data);
    Ok(())
}

async fn export(global: &Global, copy: &CopyName, id: Option<String>) -> Outcome {
    let ids = match id {
        Some(id) => vec![id],
        None => found(global, copy).await?.into_iter().map(|salvage| salvage.id).collect(),
    };
    let mut out = BufWriter::new(io::stdout().lock());
    for id in ids {
        let mut stream = open(global, copy, &id).await?;
        while let Some(records) = stream.next().await? {
            for record in &records {
                match writeln!(out, "{}", Value::Object(line(record))) {
                    Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
                    written => written?,
                }
            }
        }
        if stream.unread_bytes() > 0 {
            eprintln!("{id}: {} bytes cannot be read any more", stream.unread_bytes());
        }
    }
    out.flush()?;
    Ok(())
}

async fn delete(global: &Global, copy: &CopyName, id: &str, before: bool) -> Outcome {
    let plan = format!("delete the salvage {id} of copy {copy} for good");
    if global.only_shows(&plan) {
        return Ok(());
    }
    global.confirm(&plan)?;
    let database = global.connect().await?.database(copy.database.as_str());
    database.delete_salvage(&copy.member, id, before).await?;
    super::changes::done(global, copy, &plan);
    Ok(())
}

fn line(record: &SalvagedRecord) -> Map<String, Value> {
    let mut fields = Map::new();
    match record.kind.as_str() {
        "put" => {
            text::to_fields(&mut fields, "key", &record.key);
            text::to_fields(&mut fields, "value", &record.value);
        }
        "delete" => text::to_fields(&mut fields, "key", &record.key),
        "delete_range" => {
            text::to_fields(&mut fields, "from", &record.key);
            text::to_fields(&mut fields, "to", &record.to);
        }
        "session" => drop(fields.insert("session".into(), text::id(&record.session).into())),
        _ => {}
    }
    fields.insert("kind".into(), record.kind.clone().into());
    fields.insert("epoch".into(), text::epoch(record.epoch.as_ref()).into());
    fields.insert("end".into(), text::position(record.end.as_ref()).into());
    fields.insert("sequence".into(), record.sequence.into());
    fields.insert("time".into(), text::time(record.unix_millis).into());
    fields
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_put_has_the_fields_that_import_reads() {
        let record = SalvagedRecord {
            kind: "put".into(),
            key: "k".into(),
            value: vec![0xff].into(),
            ..SalvagedRecord::default()
        };
        let fields = line(&record);
        assert_eq!((&fields["key"], &fields["value_base64"]), (&"k".into(), &"/w==".into()));
        let record = SalvagedRecord { kind: "delete_range".into(), ..SalvagedRecord::default() };
        assert_eq!((&line(&record)["from"], &line(&record)["to"]), (&"".into(), &"".into()));
    }
}
