//! `keelson switchover`: move the active role on purpose, without loss.

use clap::Args;
use keelson_client::succeeded;
use keelson_types::RefusalReason;
use keelson_wire::v1::Operation;
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
    /// Why, in at most 512 characters; kept with the operation (operation show, decision list)
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
        let sentence = format!("{database} is active on {to}{}", took(&ended));
        output::print_done(global.output, &sentence, &operation::data(&ended));
        Ok(())
    }
}

/// How long it took; nothing if the record lacks one of the times.
fn took(ended: &Operation) -> String {
    match (ended.started_unix_millis, ended.ended_unix_millis) {
        (1.., 1..) => {
            let millis = ended.ended_unix_millis.saturating_sub(ended.started_unix_millis);
            format!(" (moved in {millis} ms)")
        }
        _ => String::new(),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_without_times_tells_no_duration() {
        let operation = |started_unix_millis, ended_unix_millis| Operation {
            started_unix_millis,
            ended_unix_millis,
            ..Operation::default()
        };
        assert_eq!(took(&operation(1_000, 1_250)), " (moved in 250 ms)");
        assert_eq!(took(&operation(0, 1_795_369_662_820)), "");
    }
}
