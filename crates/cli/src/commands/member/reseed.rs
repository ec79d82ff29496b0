//! `keelson member reseed`: all passive copies of a member are made anew, a few at a time.

use clap::Args;
use futures::stream::{self, StreamExt};
use keelson_client::Client;
use keelson_wire::v1::{CopyStatusRow, SeedCopyRequest, SuspendCopyRequest};
use serde_json::json;

use crate::commands::copy::seed::{Options, refuse_failed, wait};
use crate::context::Global;
use crate::failure::{Failure, Outcome};
use crate::output::{self, column};
use crate::text;

#[derive(Args, Debug)]
pub(crate) struct Reseed {
    /// Name of the member
    member: String,
    /// Seeds at the same time
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=100))]
    parallel: u32,
    #[command(flatten)]
    options: Options,
}

/// How one copy fared.
struct Fared {
    database: String,
    operation: String,
    failure: Option<Failure>,
}

impl Reseed {
    pub(super) async fn run(self, global: &Global) -> Outcome {
        let client = global.connect().await?;
        let rows = client.admin().copy_status("", &self.member).await?;
        let passive: Vec<_> = rows.into_iter().filter(|row| !row.active).collect();
        let names: Vec<_> = passive.iter().map(|row| row.database.as_str()).collect();
        let what = match self.options.catalog_only {
            true => "seed the content indexes of",
            false => "suspend and seed",
        };
        let plan = format!(
            "{what} {} passive copies on {} ({})",
            names.len(),
            self.member,
            names.join(", ")
        );
        if global.only_shows(&plan) {
            return Ok(());
        }
        self.options.confirm(global, &plan)?;
        let seeds = passive.iter().map(|row| self.seed(&client, row));
        let fared: Vec<Fared> =
            stream::iter(seeds).buffer_unordered(self.parallel as usize).collect().await;
        show(global, &fared);
        let failed: Vec<_> = fared.into_iter().filter_map(|fared| fared.failure).collect();
        let count = failed.len();
        match failed.into_iter().next() {
            None => Ok(()),
            Some(first) if count == 1 => Err(first),
            Some(first) => {
                let message =
                    format!("{count} copies were not seeded; one of them: {}", first.message);
                Err(Failure { message, ..first })
            }
        }
    }

    async fn seed(&self, client: &Client, row: &CopyStatusRow) -> Fared {
        let mut operation = String::new();
        let seeded = self.seed_one(client, row, &mut operation).await;
        Fared { database: row.database.clone(), operation, failure: seeded.err() }
    }

    async fn seed_one(
        &self,
        client: &Client,
        row: &CopyStatusRow,
        operation: &mut String,
    ) -> Outcome {
        let admin = client.admin();
        let stopped = row.suspension.as_ref().is_some_and(|suspension| suspension.replication);
        if !stopped && !self.options.catalog_only {
            let message = SuspendCopyRequest {
                database: row.database.clone(),
                member: row.member.clone(),
                comment: format!("seeded anew with all copies of {}", row.member),
                ..SuspendCopyRequest::default()
            };
            admin.suspend_copy(message).await?;
        }
        let request = self.options.request(&row.database, &row.member);
        let asked = SeedCopyRequest { what_if: true, ..request.clone() };
        refuse_failed(&admin.seed_copy(asked).await?.checks)?;
        let begun = admin.seed_copy(request).await?.operation;
        *operation = text::id(&begun);
        if self.options.background { Ok(()) } else { wait(client, &begun).await }
    }
}

fn show(global: &Global, fared: &[Fared]) {
    let word = |fared: &Fared| if fared.failure.is_none() { "ok" } else { "failed" };
    let why = |fared: &Fared| fared.failure.as_ref().map(|f| f.message.clone()).unwrap_or_default();
    let columns = [column("database"), column("result"), column("operation"), column("why")];
    let rows = fared.iter().map(|fared| {
        vec![fared.database.clone(), word(fared).into(), fared.operation.clone(), why(fared)]
    });
    let data = fared.iter().map(|fared| {
        json!({
            "database": fared.database,
            "result": word(fared),
            "operation": fared.operation,
            "why": why(fared),
        })
    });
    output::print_list(global.output, &columns, rows.collect(), &data.collect());
}
