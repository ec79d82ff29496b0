//! `keelson site restore`: what is left of a cluster goes on without its majority.

use std::path::PathBuf;

use clap::Args;
use keelson_server::{RecoveryPlan, SiteRestore, SiteToRecover, Survivor, SurvivorState};
use serde_json::{Value, json};

use crate::context::Global;
use crate::failure::Outcome;
use crate::output::{self, column};

/// Names in a sentence; more are counted.
const NAMES_MAX: usize = 8;

#[derive(Args, Debug)]
pub(crate) struct Restore {
    /// The site that goes on: all members that stand elsewhere are taken for lost
    site: String,
    /// Configuration of this member, whose server is stopped; it stands in the site
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// A member of the site that is lost, too; several times for several
    #[arg(long, value_name = "MEMBER")]
    lost: Vec<String>,
    /// A member that stands elsewhere and goes on with the site, a witness for example
    #[arg(long, value_name = "MEMBER")]
    with: Vec<String>,
    /// Why; shown by site list and in the events
    #[arg(long, default_value = "")]
    comment: String,
}

impl Restore {
    pub(super) async fn run(self, global: &Global) -> Outcome {
        let wanted = SiteToRecover {
            site: self.site.clone(),
            lost: self.lost.into_iter().collect(),
            with: self.with.into_iter().collect(),
            comment: match self.comment.as_str() {
                "" => format!("lost when site {} was restored", self.site),
                comment => comment.to_owned(),
            },
        };
        let restore = SiteRestore::prepare(&self.config, wanted).await?;
        if global.what_if || !global.output.is_data() {
            print_plan(global, &restore.plan);
        }
        if global.what_if {
            return Ok(());
        }
        let lost = names(&restore.plan.members, SurvivorState::Lost);
        global.confirm(&format!(
            "force the cluster up without {}: what only they acknowledged is lost for it, and if \
             they still serve somewhere, two clusters serve the same databases",
            short(&lost)
        ))?;
        let data = plan_json(&restore.plan);
        let generation = restore.plan.generation;
        let kept = restore.carry_out().await?;
        let sentence = format!(
            "restored (recovery generation {generation}); the consensus of before is kept in {}\n\
             next: start this server; the others are taken in by themselves. Then keelson cluster \
             status, for each database in doubt keelson database mount --accept-loss, and a \
             witness if an even number of members votes now",
            kept.display()
        );
        let mut data = data;
        data["kept"] = json!(kept.display().to_string());
        output::print_done(global.output, &sentence, &data);
        Ok(())
    }
}

fn names(members: &[Survivor], state: SurvivorState) -> Vec<String> {
    members.iter().filter(|m| m.state == state).map(|m| m.name.clone()).collect()
}

fn short(names: &[String]) -> String {
    match names.len().saturating_sub(NAMES_MAX) {
        0 => names.join(", "),
        more => format!("{} and {more} more", names[..NAMES_MAX].join(", ")),
    }
}

const fn becomes(state: SurvivorState) -> &'static str {
    match state {
        SurvivorState::Founder => "begins the new consensus",
        SurvivorState::Survives => "is taken in by it",
        SurvivorState::Lost => "is lost; stopped until its site is started",
    }
}

const fn becomes_code(state: SurvivorState) -> &'static str {
    match state {
        SurvivorState::Founder => "founder",
        SurvivorState::Survives => "survives",
        SurvivorState::Lost => "lost",
    }
}

fn plan_json(plan: &RecoveryPlan) -> Value {
    let member = |member: &Survivor| {
        json!({
            "member": member.name,
            "site": member.site,
            "becomes": becomes_code(member.state),
            "witness": member.witness,
            "last_entry": member.last_index,
        })
    };
    json!({
        "recovery_generation": plan.generation,
        "members": plan.members.iter().map(member).collect::<Vec<_>>(),
        "open_by_themselves": plan.whole,
        "in_doubt": plan.in_doubt,
        "without_a_copy": plan.gone,
        "cold_start_waits_for_all": plan.protected,
    })
}

fn print_plan(global: &Global, plan: &RecoveryPlan) {
    if global.output.is_data() {
        return output::print_data(global.output, &plan_json(plan));
    }
    let columns = ["member", "site", "consensus log", "becomes"];
    let rows = plan.members.iter().map(|member| {
        let last = member.last_index.map(|index| format!("entry {index}"));
        let silent = || "no answer".to_owned();
        let last = match member.state {
            SurvivorState::Founder => "the newest".to_owned(),
            _ => last.unwrap_or_else(silent),
        };
        let witness = if member.witness { " (witness)" } else { "" };
        vec![
            format!("{}{witness}", member.name),
            member.site.clone(),
            last,
            becomes(member.state).to_owned(),
        ]
    });
    output::print_list(global.output, &columns.map(column), rows.collect(), &Value::Null);
    let lists = [
        (&plan.whole, "all copies go on: opened by themselves"),
        (&plan.in_doubt, "a copy is lost: opened with --accept-loss, or when it is back"),
        (&plan.gone, "no copy is left: closed until a lost member is back"),
    ];
    let told = lists.iter().filter(|(names, _)| !names.is_empty());
    let mut text: Vec<_> =
        told.map(|(names, what)| format!("{} ({}): {what}", short(names), names.len())).collect();
    if !plan.protected {
        text.push(
            "cold_start_waits_for_all is off: lost members that start again and cannot reach this \
             site serve by themselves. Keep them down, or the link up, until their site is started"
                .to_owned(),
        );
    }
    output::print_done(global.output, &text.join("\n"), &Value::Null);
}
