//! `keelson health`, `keelson redundancy`: are members well, and do databases have enough copies?

use clap::Args;
use keelson_types::RefusalReason;
use keelson_wire::v1::{HealthRow, RedundancyRow};
use serde_json::{Value, json};

use crate::context::Global;
use crate::failure::{Failure, Outcome};
use crate::output::{self, Format, column, wide};
use crate::watch::{Reading, Watch};

#[derive(Args, Debug)]
pub(crate) struct Health {
    /// Only this member
    #[arg(default_value = "")]
    member: String,
    #[command(flatten)]
    watch: Watch,
}

#[derive(Args, Debug)]
pub(crate) struct Redundancy {
    /// Only this database
    #[arg(default_value = "")]
    database: String,
    #[command(flatten)]
    watch: Watch,
}

impl Health {
    /// Prints every test; the exit code says whether all passed.
    pub(crate) async fn run(self, global: &Global) -> Outcome {
        let (admin, member) = (global.client()?.admin(), &self.member);
        let read = async |format| Ok(tests(format, &admin.health(member).await?));
        self.watch.show(global.output, read).await
    }
}

fn tests(format: Format, rows: &[HealthRow]) -> Reading {
    let columns =
        [column("member"), column("test"), column("result"), column("error"), wide("verifies")];
    let shown = rows.iter().map(|row| {
        vec![
            row.member.clone(),
            row.test.clone(),
            result(row).into(),
            row.error.clone(),
            row.verifies.clone(),
        ]
    });
    let data = rows.iter().map(|row| {
        json!({
            "member": row.member,
            "test": row.test,
            "result": result(row),
            "error": row.error,
            "verifies": row.verifies,
        })
    });
    let text = output::list(format, &columns, shown.collect(), &data.collect());
    Reading::judged(text, all_passed(rows))
}

fn all_passed(rows: &[HealthRow]) -> Outcome {
    let failed: Vec<_> = rows.iter().filter(|row| !row.passed).collect();
    let Some(first) = failed.first() else { return Ok(()) };
    let message = format!(
        "{} of {} tests failed, the first one {} on {}: {}",
        failed.len(),
        rows.len(),
        first.test,
        first.member,
        first.error
    );
    Err(Failure::new(RefusalReason::Unhealthy, message))
}

fn result(row: &HealthRow) -> &'static str {
    if row.passed { "passed" } else { "FAILED" }
}

impl Redundancy {
    /// Prints the verdicts on every copy; the exit code says whether all databases are green.
    pub(crate) async fn run(self, global: &Global) -> Outcome {
        let (admin, database) = (global.client()?.admin(), &self.database);
        let read = async |format| Ok(verdicts(format, &admin.redundancy(database).await?));
        self.watch.show(global.output, read).await
    }
}

fn verdicts(format: Format, rows: &[RedundancyRow]) -> Reading {
    let columns = [
        column("database"),
        column("verdict"),
        column("copy on"),
        column("available"),
        column("redundant"),
        column("why not"),
    ];
    let shown = rows.iter().flat_map(|row| {
        row.copies.iter().map(|copy| {
            let why = match copy.unavailable_reason.is_empty() {
                true => copy.not_redundant_reason.clone(),
                false => copy.unavailable_reason.clone(),
            };
            let yes = |passes| if passes { "yes" } else { "NO" }.to_owned();
            vec![
                row.database.clone(),
                row.verdict.clone(),
                copy.member.clone(),
                yes(copy.available),
                yes(copy.redundant),
                why,
            ]
        })
    });
    let data = rows.iter().map(data).collect();
    let text = output::list(format, &columns, shown.collect(), &data);
    Reading::judged(text, none_red(rows))
}

fn none_red(rows: &[RedundancyRow]) -> Outcome {
    let red: Vec<_> = rows.iter().filter(|row| row.verdict == "red").collect();
    if red.is_empty() {
        return Ok(());
    }
    let names: Vec<_> = red.iter().map(|row| row.database.as_str()).collect();
    let message = format!("fewer than two copies hold what was written: {}", names.join(", "));
    Err(Failure::new(RefusalReason::Unhealthy, message))
}

fn data(row: &RedundancyRow) -> Value {
    let copies = row.copies.iter().map(|copy| {
        json!({
            "member": copy.member,
            "available": copy.available,
            "unavailable_reason": copy.unavailable_reason,
            "redundant": copy.redundant,
            "not_redundant_reason": copy.not_redundant_reason,
        })
    });
    json!({
        "database": row.database,
        "verdict": row.verdict,
        "available_copies": row.available,
        "redundant_copies": row.redundant,
        "copies": copies.collect::<Value>(),
    })
}
