//! `keelson member reseed`: all passive copies of a member are made anew, a few at a time.
//!
//! Every copy is checked before any is suspended: one that cannot be seeded would only be stopped.

use clap::Args;
use futures::stream::{FuturesUnordered, StreamExt};
use keelson_client::Client;
use keelson_types::RefusalReason;
use keelson_wire::v1::{CopyStatusRow, SeedCheckRow, SeedCopyRequest, SuspendCopyRequest};
use serde_json::json;

use crate::commands::copy::seed::{Options, check_data, refuse_failed, verdict, wait};
use crate::context::Global;
use crate::failure::{Failure, Outcome};
use crate::output::{self, column};
use crate::text;

#[derive(Args, Debug)]
pub(crate) struct Reseed {
    /// Name of the member
    member: String,
    /// Seeds at the same time; with --background the command returns once the last one has begun
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=100))]
    parallel: u32,
    #[command(flatten)]
    options: Options,
}

/// One copy, and what was found before anything is done with it.
struct Checked {
    row: CopyStatusRow,
    checks: Vec<SeedCheckRow>,
}

/// How one copy fared.
struct Fared {
    database: String,
    operation: String,
    word: &'static str,
    failure: Option<Failure>,
}

impl Reseed {
    pub(super) async fn run(self, global: &Global) -> Outcome {
        let client = global.connect().await?;
        let rows = client.admin().copy_status("", &self.member).await?;
        let mut copies = Vec::new();
        for row in rows.into_iter().filter(|row| !row.active) {
            copies.push(self.check(&client, row).await?);
        }
        let plan = self.plan(&copies);
        if global.what_if {
            if !global.output.is_data() {
                global.only_shows(&plan);
            }
            show_checks(global, &copies, |_| true);
            return Ok(());
        }
        if !global.output.is_data() {
            show_checks(global, &copies, |check| !check.passed);
        }
        for Checked { row, checks } in &copies {
            refuse_failed(checks).map_err(|failed| Failure {
                message: format!("{}: {}; nothing was changed", row.database, failed.message),
                ..failed
            })?;
        }
        self.options.confirm(global, &plan)?;
        let fared = self.seed_all(&client, &copies).await;
        show(global, &fared);
        first_failure(fared)
    }

    fn plan(&self, copies: &[Checked]) -> String {
        let names: Vec<_> = copies.iter().map(|copy| copy.row.database.as_str()).collect();
        let what = match self.options.catalog_only {
            true => "seed the content indexes of",
            false => "suspend and seed",
        };
        let (count, member) = (names.len(), &self.member);
        format!("{what} {count} passive copies on {member} ({})", names.join(", "))
    }

    /// What a seed of the copy would be refused for; that it is not suspended yet is no such thing.
    async fn check(&self, client: &Client, row: CopyStatusRow) -> Outcome<Checked> {
        let request = self.options.request(&row.database, &row.member);
        let asked = SeedCopyRequest { what_if: true, ..request };
        let mut checks = client.admin().seed_copy(asked).await?.checks;
        if self.suspends(&row) {
            checks.iter_mut().for_each(passes_once_suspended);
        }
        Ok(Checked { row, checks })
    }

    fn suspends(&self, row: &CopyStatusRow) -> bool {
        let stopped = row.suspension.as_ref().is_some_and(|suspension| suspension.replication);
        !stopped && !self.options.catalog_only
    }

    /// Begins the seeds in turn, the next one once fewer than the limit are under way.
    async fn seed_all(&self, client: &Client, copies: &[Checked]) -> Vec<Fared> {
        let (mut fared, mut under_way) = (Vec::new(), FuturesUnordered::new());
        for Checked { row, .. } in copies {
            while under_way.len() >= self.parallel as usize {
                settle(&mut fared, under_way.next().await);
            }
            let (index, database) = (fared.len(), row.database.clone());
            match self.begin(client, row).await {
                Ok(begun) => {
                    let operation = text::id(&begun);
                    fared.push(Fared { database, operation, word: "begun", failure: None });
                    under_way.push(async move { (index, wait(client, &begun).await) });
                }
                Err(failed) => {
                    let (operation, failure) = (String::new(), Some(failed));
                    fared.push(Fared { database, operation, word: "failed", failure });
                }
            }
        }
        while !self.options.background && !under_way.is_empty() {
            settle(&mut fared, under_way.next().await);
        }
        fared
    }

    async fn begin(&self, client: &Client, row: &CopyStatusRow) -> Outcome<bytes::Bytes> {
        let admin = client.admin();
        if self.suspends(row) {
            let message = SuspendCopyRequest {
                database: row.database.clone(),
                member: row.member.clone(),
                comment: format!("seeded anew with all copies of {}", row.member),
                ..SuspendCopyRequest::default()
            };
            admin.suspend_copy(message).await?;
        }
        let request = self.options.request(&row.database, &row.member);
        // Waits until the copy has left the commit rule.
        let asked = SeedCopyRequest { what_if: true, ..request.clone() };
        refuse_failed(&admin.seed_copy(asked).await?.checks)?;
        Ok(admin.seed_copy(request).await?.operation)
    }
}

/// A check that fails only because the copy copies and replays still.
fn passes_once_suspended(check: &mut SeedCheckRow) {
    let stops = match check.name.as_str() {
        "suspended" => check.code == RefusalReason::NotSuspended.code().0,
        "commit rule" => true,
        _ => false,
    };
    if stops && !check.passed {
        (check.passed, check.found) = (true, "the copy is suspended first".into());
        check.code.clear();
    }
}

fn settle(fared: &mut [Fared], ended: Option<(usize, Outcome)>) {
    let Some((index, ended)) = ended else { return };
    let word = if ended.is_ok() { "ok" } else { "failed" };
    (fared[index].word, fared[index].failure) = (word, ended.err());
}

fn first_failure(fared: Vec<Fared>) -> Outcome {
    let failed: Vec<_> = fared.into_iter().filter_map(|fared| fared.failure).collect();
    let count = failed.len();
    match failed.into_iter().next() {
        None => Ok(()),
        Some(first) if count == 1 => Err(first),
        Some(first) => {
            let message = format!("{count} copies were not seeded; one of them: {}", first.message);
            Err(Failure { message, ..first })
        }
    }
}

fn show_checks(global: &Global, copies: &[Checked], wanted: impl Fn(&SeedCheckRow) -> bool) {
    let all = copies.iter().flat_map(|Checked { row, checks }| {
        checks.iter().map(|check| (row.database.clone(), check))
    });
    let all: Vec<_> = all.filter(|(_, check)| wanted(check)).collect();
    if all.is_empty() && !global.output.is_data() {
        return;
    }
    let columns = [column("database"), column("check"), column("verdict"), column("found")];
    let rows = all.iter().map(|(database, check)| {
        vec![database.clone(), check.name.clone(), verdict(check).into(), check.found.clone()]
    });
    let data = all.iter().map(|(database, check)| {
        let mut data = check_data(check);
        data["database"] = json!(database);
        data
    });
    output::print_list(global.output, &columns, rows.collect(), &data.collect());
}

fn show(global: &Global, fared: &[Fared]) {
    let why = |fared: &Fared| fared.failure.as_ref().map(|f| f.message.clone()).unwrap_or_default();
    let columns = [column("database"), column("result"), column("operation"), column("why")];
    let rows = fared.iter().map(|fared| {
        vec![fared.database.clone(), fared.word.into(), fared.operation.clone(), why(fared)]
    });
    let data = fared.iter().map(|fared| {
        json!({
            "database": fared.database,
            "result": fared.word,
            "operation": fared.operation,
            "why": why(fared),
        })
    });
    output::print_list(global.output, &columns, rows.collect(), &data.collect());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_suspending_mends_is_no_failure() {
        for (name, code, passes) in [
            ("suspended", "not_suspended", true),
            ("suspended", "precondition", false),
            ("commit rule", "precondition", true),
            ("space", "no_space_for_seed", false),
        ] {
            let found = String::new();
            let mut check =
                SeedCheckRow { name: name.into(), passed: false, found, code: code.into() };
            passes_once_suspended(&mut check);
            assert_eq!(check.passed, passes, "{name}, {code}");
        }
    }
}
