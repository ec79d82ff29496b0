//! `keelson member maintenance`: take a member out of the activations, and back.

use clap::{Args, Subcommand};
use keelson_wire::v1::BeginMaintenanceRequest;
use serde_json::json;

use crate::commands::switchover;
use crate::context::Global;
use crate::failure::Outcome;
use crate::output;

#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// Move the databases of a member away; nothing is activated there by itself until the end
    Start(Start),
    /// End it; what an administrator set before holds as before
    Stop {
        /// Name of the member
        member: String,
    },
}

#[derive(Args, Debug)]
pub(crate) struct Start {
    /// Name of the member
    member: String,
    /// Why, in at most 512 characters; shown by member list -o json
    #[arg(long, default_value = "")]
    comment: String,
    #[command(flatten)]
    skips: switchover::Skips,
}

impl Command {
    pub(crate) async fn run(self, global: &Global) -> Outcome {
        match self {
            Self::Start(start) => start.run(global).await,
            Self::Stop { member } => stop(global, &member).await,
        }
    }
}

impl Start {
    async fn run(self, global: &Global) -> Outcome {
        let client = global.connect().await?;
        let request = BeginMaintenanceRequest {
            member: self.member.clone(),
            comment: self.comment,
            skip: self.skips.names(),
            what_if: global.what_if,
        };
        let moves = client.admin().begin_maintenance(request).await?;
        if global.what_if {
            return switchover::print_plan(global, &moves);
        }
        let member = &self.member;
        let sentence = format!("{member} is under maintenance{}", switchover::summary(&moves));
        let data = json!({ "member": member, "moves": switchover::data(&moves) });
        output::print_done(global.output, &sentence, &data);
        Ok(())
    }
}

async fn stop(global: &Global, member: &str) -> Outcome {
    if global.only_shows(&format!("end the maintenance of {member}")) {
        return Ok(());
    }
    global.connect().await?.admin().end_maintenance(member).await?;
    let sentence = format!("the maintenance of {member} is over");
    output::print_done(global.output, &sentence, &json!({ "member": member }));
    Ok(())
}
