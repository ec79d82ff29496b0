//! `keelson redistribute`: spread active databases over members and sites.

use clap::Args;
use keelson_wire::v1::{DistributionRow, RedistributeRequest, RedistributeResponse};
use serde_json::{Value, json};

use crate::commands::switchover;
use crate::context::Global;
use crate::failure::Outcome;
use crate::output::{self, column};

#[derive(Args, Debug)]
pub(crate) struct Redistribute {
    /// Balance the sites as well; without it each database goes to its most preferred copy
    #[arg(long)]
    by_site: bool,
    /// Per cent by which sites may differ from their mean, half of it on each side
    #[arg(long, value_name = "PERCENT", requires = "by_site")]
    deviation: Option<u32>,
}

impl Redistribute {
    pub(crate) async fn run(self, global: &Global) -> Outcome {
        let client = global.connect().await?;
        if !global.what_if {
            global.confirm("move databases to spread them")?;
        }
        let request = RedistributeRequest {
            by_site: self.by_site,
            deviation: self.deviation,
            what_if: global.what_if,
        };
        let mut spread = client.admin().redistribute(request).await?;
        spread.moves = switchover::followed(&client, spread.moves).await?;
        print(global, &spread);
        Ok(())
    }
}

fn print(global: &Global, spread: &RedistributeResponse) {
    let columns = [
        column("member"),
        column("site"),
        column("active"),
        column("then"),
        column("passive"),
        column("mounted"),
        column("dismounted"),
        column("preferences"),
    ];
    let rows = spread.before.iter().map(|row| {
        let after = spread.after.iter().find(|after| after.member == row.member);
        let counts: Vec<_> = row.preferences.iter().map(ToString::to_string).collect();
        vec![
            row.member.clone(),
            row.site.clone(),
            row.active.to_string(),
            after.map(|after| after.active.to_string()).unwrap_or_default(),
            row.passive.to_string(),
            row.mounted.to_string(),
            row.dismounted.to_string(),
            format!("[{}]", counts.join(", ")),
        ]
    });
    let data = json!({
        "moves": switchover::data(&spread.moves),
        "before": distribution(&spread.before),
        "after": distribution(&spread.after),
    });
    output::print_list(global.output, &columns, rows.collect(), &data);
    if !global.output.is_data() {
        let verb = if global.what_if { "would move" } else { "moved" };
        for row in &spread.moves {
            let (database, from, to) = (&row.database, &row.from, &row.to);
            output::emit(&match row.result.as_str() {
                "refused" | "failed" => format!("{database} stays on {from}: {}\n", row.message),
                _ => format!("{verb} {database} from {from} to {to}\n"),
            });
        }
        if spread.moves.is_empty() {
            output::emit("every database is where it should be\n");
        }
    }
}

fn distribution(rows: &[DistributionRow]) -> Value {
    rows.iter()
        .map(|row| {
            json!({
                "member": row.member,
                "site": row.site,
                "active": row.active,
                "passive": row.passive,
                "mounted": row.mounted,
                "dismounted": row.dismounted,
                "preferences": row.preferences,
            })
        })
        .collect()
}
