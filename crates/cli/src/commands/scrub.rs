//! `keelson copy scrub` and `keelson database scrub`: read copies through now, and wait for what is
//! found.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal};
use std::time::Duration;

use keelson_client::Admin;
use keelson_types::RefusalReason;
use keelson_wire::v1::{CopyStatusRow, ScrubFacts, ScrubStarted};
use serde_json::{Value, json};

use crate::context::Global;
use crate::failure::{Failure, Outcome};
use crate::output::{self, column};
use crate::text;

/// How often progress is asked for.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);

/// Scrubs the copies of a database, or only the one on `member`.
pub(crate) async fn run(global: &Global, database: &str, member: &str, wait: bool) -> Outcome {
    let which = if member.is_empty() { database.into() } else { format!("{database}@{member}") };
    if global.only_shows(&format!("read {which} through and mend what is damaged")) {
        return Ok(());
    }
    let admin = global.connect().await?.admin();
    let started = admin.scrub_copies(database, member).await?.copies;
    if let Some(refused) = started.iter().find(|copy| !copy.problem.is_empty()) {
        let message = format!("{database}@{}: {}", refused.member, refused.problem);
        return Err(Failure::new(RefusalReason::Unreachable, message));
    }
    if !wait {
        let data = json!({ "database": database, "started": started.len() });
        output::print_done(global.output, &format!("scrub of {which} begun"), &data);
        return Ok(());
    }
    let ended = wait_for(&admin, database, member, &started).await?;
    let columns = [
        column("copy"),
        column("result"),
        column("read"),
        column("found"),
        column("mended"),
        column("compared"),
        column("problem"),
    ];
    let rows = ended.iter().map(|(name, facts)| {
        vec![
            format!("{database}@{name}"),
            facts.result.clone(),
            text::size(facts.bytes),
            facts.found.to_string(),
            facts.mended.to_string(),
            compared_text(facts),
            facts.problem.clone(),
        ]
    });
    let data = ended.iter().map(|(name, facts)| {
        let mut data = json!({ "database": database, "member": name });
        if let (Value::Object(data), Value::Object(facts)) = (&mut data, data_of(facts)) {
            data.extend(facts);
        }
        data
    });
    output::print_list(global.output, &columns, rows.collect(), &data.collect());
    Ok(())
}

/// How many copies' contents were compared; nothing if none were.
fn compared_text(facts: &ScrubFacts) -> String {
    match facts.compared_of {
        0 => String::new(),
        of => format!("{} of {of} copies", facts.compared),
    }
}

async fn wait_for(
    admin: &Admin,
    database: &str,
    member: &str,
    started: &[ScrubStarted],
) -> Result<Vec<(String, ScrubFacts)>, Failure> {
    // What was counted at the first look.
    let mut first: BTreeMap<&str, u64> = BTreeMap::new();
    loop {
        let rows = admin.copy_status(database, member).await?;
        let ended = started.iter().map(|one| {
            let facts = facts_of(&rows, &one.member)?;
            let first = *first.entry(&one.member).or_insert(facts.ended);
            // One that runs already is followed by the one that was asked for. A data process that
            // started anew counts from nothing, and has forgotten what it was asked.
            let over = facts.ended > one.ended_before || facts.ended < first;
            over.then(|| (one.member.clone(), facts))
        });
        if let Some(ended) = ended.collect::<Option<Vec<_>>>() {
            return Ok(ended);
        }
        show_progress(started.iter().filter_map(|one| facts_of(&rows, &one.member)));
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}

/// One line that is written over, on a terminal.
fn show_progress(copies: impl Iterator<Item = ScrubFacts>) {
    let sum = copies.fold((0, 0), |sum, f| (sum.0 + f.done_bytes, sum.1 + f.total_bytes));
    if io::stderr().is_terminal() {
        eprint!("\r{} of {} read ", text::size(sum.0), text::size(sum.1));
    }
}

fn facts_of(rows: &[CopyStatusRow], member: &str) -> Option<ScrubFacts> {
    rows.iter().find(|row| row.member == member)?.facts.as_ref()?.scrub.clone()
}

/// A scrub as JSON.
pub(crate) fn data_of(facts: &ScrubFacts) -> Value {
    json!({
        "scrub_ended": text::time(facts.ended_unix_millis),
        "scrub_result": facts.result,
        "scrub_bytes": facts.bytes,
        "scrub_found": facts.found,
        "scrub_mended": facts.mended,
        "scrub_problem": facts.problem,
        "scrub_running": facts.running,
        "scrub_done_bytes": facts.done_bytes,
        "scrub_total_bytes": facts.total_bytes,
        "scrub_compared": facts.compared,
        "scrub_compared_of": facts.compared_of,
    })
}
