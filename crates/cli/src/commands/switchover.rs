//! `keelson switchover`: move the active role on purpose, without loss.

use clap::Args;
use keelson_client::succeeded;
use keelson_types::RefusalReason;
use serde_json::json;

use crate::commands::operation;
use crate::context::Global;
use crate::failure::{Failure, Outcome};
use crate::output;

#[derive(Args, Debug)]
pub(crate) struct Switchover {
    /// Name of the database
    database: String,
    /// Member that becomes active
    #[arg(long)]
    to: String,
    /// Why; kept in the decision record
    #[arg(long, default_value = "")]
    comment: String,
    /// Return as soon as the move has begun
    #[arg(long)]
    no_wait: bool,
}

impl Switchover {
    pub(crate) async fn run(self, global: &Global) -> Outcome {
        let client = global.connect().await?;
        let (database, to) = (&self.database, &self.to);
        if global.what_if {
            return preview(global, &client, database, to);
        }
        let started = client.admin().switchover(database, to, &self.comment).await?;
        if self.no_wait {
            let data = json!({ "operation": started.to_string(), "database": database, "to": to });
            output::print_done(global.output, &format!("operation {started}"), &data);
            return Ok(());
        }
        let ended = succeeded(operation::follow(&client, started).await?)?;
        let millis = ended.ended_unix_millis.saturating_sub(ended.started_unix_millis);
        let sentence = format!("{database} is active on {to} (moved in {millis} ms)");
        output::print_done(global.output, &sentence, &operation::data(&ended));
        Ok(())
    }
}

/// Says what would happen, or why it would be refused, as far as the topology tells.
fn preview(global: &Global, client: &keelson_client::Client, database: &str, to: &str) -> Outcome {
    let topology = client.topology();
    let Some(route) = topology.databases.get(database) else {
        let message = format!("there is no database {database}");
        return Err(Failure::new(RefusalReason::UnknownDatabase, message));
    };
    if !topology.members.contains_key(to) {
        return Err(Failure::new(RefusalReason::UnknownMember, format!("there is no member {to}")));
    }
    if !route.copies.iter().any(|member| member == to) {
        let message = format!("{database} has no copy on {to}");
        return Err(Failure::new(RefusalReason::UnknownCopy, message));
    }
    let from = route.active.as_deref().unwrap_or("no member");
    let plan = if from == to {
        format!("leave {database} active on {to}, where it is")
    } else {
        format!("move {database} from {from} to {to} (now in epoch {})", route.epoch)
    };
    global.only_shows(&plan);
    Ok(())
}
