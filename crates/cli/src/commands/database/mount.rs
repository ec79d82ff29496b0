//! `keelson database mount`: open a database; with `--accept-loss` also when acknowledged writes
//! may be gone, after showing what would be given up.

use clap::Args;
use keelson_client::{Client, succeeded};
use keelson_types::RefusalReason;
use keelson_wire::v1::{LossReceipt, MountCandidate, PreviewMountResponse};
use serde_json::{Value, json};

use crate::commands::operation;
use crate::context::Global;
use crate::failure::{Failure, Outcome};
use crate::output::{self, column};
use crate::text;

#[derive(Args, Debug)]
pub(crate) struct Mount {
    /// Name of the database
    database: String,
    /// Open it although acknowledged writes may be gone, if there is no other way; shows what would
    /// be given up and asks (--what-if only shows)
    #[arg(long)]
    accept_loss: bool,
    /// Open the copy of this member and no other
    #[arg(long, value_name = "MEMBER", requires = "accept_loss")]
    on: Option<String>,
}

impl Mount {
    pub(crate) async fn run(self, global: &Global) -> Outcome {
        if self.accept_loss {
            return self.with_loss(global).await;
        }
        let name = &self.database;
        if global.only_shows(&format!("mount database {name}")) {
            return Ok(());
        }
        let client = global.connect().await?;
        let started = client.admin().mount_database(name).await?;
        let ended = succeeded(operation::follow(&client, started).await?)?;
        output::print_done(global.output, &format!("mounted {name}"), &operation::data(&ended));
        Ok(())
    }

    async fn with_loss(&self, global: &Global) -> Outcome {
        let (name, on) = (self.database.as_str(), self.on.as_deref().unwrap_or_default());
        let client = global.connect().await?;
        let preview = client.admin().preview_mount(name, on).await?;
        let plan = plan(name, &preview);
        if global.what_if {
            show(global, &plan, &preview);
            return Ok(());
        }
        if preview.target.is_empty() {
            let message = format!("no copy of {name} that may be opened answers");
            return Err(Failure::new(RefusalReason::TargetUnfit, message));
        }
        if preview.loss.is_some() {
            global.confirm(&plan)?;
        }
        let started = client.admin().mount_with_loss(name, on).await?;
        let ended = succeeded(operation::follow(&client, started).await?)?;
        let receipt = receipt_of(&client, name, &ended.operation).await?;
        let sentence = match &receipt {
            None => format!("mounted {name}; nothing was given up"),
            Some(receipt) => format!("mounted {name} with loss: {}", sentence(receipt)),
        };
        let mut data = operation::data(&ended);
        data["loss"] = receipt.as_ref().map(loss_data).into();
        output::print_done(global.output, &sentence, &data);
        Ok(())
    }
}

/// The receipt that this operation left, if it left one.
async fn receipt_of(client: &Client, name: &str, operation: &[u8]) -> Outcome<Option<LossReceipt>> {
    let info = client.admin().show_database(name).await?;
    Ok(info.losses.into_iter().rev().find(|receipt| receipt.operation == operation))
}

/// What would be done, in a sentence without its verb's object "would".
fn plan(name: &str, preview: &PreviewMountResponse) -> String {
    match &preview.loss {
        _ if preview.mounted => format!("leave {name} as it is: it is mounted"),
        _ if preview.target.is_empty() => {
            format!("leave {name} closed: no copy that may be opened answers")
        }
        None => format!("mount {name} on {} without loss", preview.target),
        Some(loss) => {
            let generated = preview.generated.as_ref().map(|at| text::position(Some(at)));
            let heard = generated.map(|at| format!(" (log up to {at} was heard of)"));
            let heard = heard.unwrap_or_default();
            format!("mount {name} on {} with loss: {}{heard}", preview.target, sentence(loss))
        }
    }
}

/// What was given up, for people.
pub(super) fn sentence(loss: &LossReceipt) -> String {
    let kept = text::log_end(loss.kept.as_ref());
    let certain = match &loss.certain {
        Some(at) => format!("; log up to {} was certainly acknowledged", text::position(Some(at))),
        None => String::new(),
    };
    if loss.unreached.is_empty() {
        return format!("log behind {kept} is given up{certain}");
    }
    let unreached = loss.unreached.join(", ");
    let size = match loss.missing_logs {
        Some(logs) => format!("at most {logs} logs were acknowledged"),
        None => "how much was acknowledged is not known".to_owned(),
    };
    let word = match loss.dial.as_str() {
        "" => String::new(),
        dial => format!(" (mount dial {dial})"),
    };
    format!("log behind {kept} is given up{certain}; {size}{word}, {unreached} may hold more")
}

/// A receipt as JSON.
pub(super) fn loss_data(loss: &LossReceipt) -> Value {
    json!({
        "epoch": text::epoch(loss.epoch.as_ref()),
        "kept": text::log_end(loss.kept.as_ref()),
        "certainly_acknowledged_up_to": loss.certain.as_ref().map(|at| text::position(Some(at))),
        "missing_at_most": match loss.missing_logs {
            _ if loss.unreached.is_empty() => "known".to_owned(),
            Some(logs) => format!("{logs} logs"),
            None => "unknown".to_owned(),
        },
        "missing_logs": loss.missing_logs,
        "mount_dial": Some(&loss.dial).filter(|dial| !dial.is_empty()),
        "unreached_members": loss.unreached,
        "operation": text::id(&loss.operation),
    })
}

fn show(global: &Global, plan: &str, preview: &PreviewMountResponse) {
    let columns = [
        column("member"),
        column("reachable"),
        column("log end"),
        column("committed"),
        column("last log time"),
        column("speaks against it"),
    ];
    let rows = preview.candidates.iter().map(|candidate| {
        vec![
            candidate.member.clone(),
            candidate.reachable.to_string(),
            text::log_end(candidate.end.as_ref()),
            text::position(candidate.committed.as_ref()),
            text::time(candidate.last_unix_millis),
            candidate.excluded.join(", "),
        ]
    });
    let data = json!({
        "would": plan,
        "target": preview.target,
        "mounted": preview.mounted,
        "loss": preview.loss.as_ref().map(loss_data),
        "generated": preview.generated.as_ref().map(|at| text::position(Some(at))),
        "copies": preview.candidates.iter().map(candidate_data).collect::<Value>(),
    });
    output::print_list(global.output, &columns, rows.collect(), &data);
    if !global.output.is_data() {
        output::emit(&format!("\nwould {plan}\n"));
    }
}

fn candidate_data(candidate: &MountCandidate) -> Value {
    json!({
        "member": candidate.member,
        "reachable": candidate.reachable,
        "log_end": text::log_end(candidate.end.as_ref()),
        "committed": text::position(candidate.committed.as_ref()),
        "last_log_time": text::time(candidate.last_unix_millis),
        "excluded": candidate.excluded,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use keelson_wire::v1::{LogEnd, Position};

    fn loss() -> LossReceipt {
        let position = Some(Position { generation: 3, offset: 700 });
        LossReceipt {
            kept: Some(LogEnd { position, ..LogEnd::default() }),
            unreached: vec!["m1".into()],
            ..LossReceipt::default()
        }
    }

    #[test]
    fn an_unknown_loss_is_called_unknown() {
        let preview =
            PreviewMountResponse { target: "m3".into(), loss: Some(loss()), ..Default::default() };
        let plan = plan("DB1", &preview);
        assert!(plan.starts_with("mount DB1 on m3 with loss"), "{plan}");
        assert!(plan.contains("3:700") && plan.contains("not known, m1 may hold more"), "{plan}");
        assert_eq!(loss_data(&loss())["missing_at_most"], "unknown");
    }

    #[test]
    fn a_plan_says_when_nothing_is_given_up_or_nothing_is_done() {
        let mut preview = PreviewMountResponse { target: "m2".into(), ..Default::default() };
        assert_eq!(plan("DB1", &preview), "mount DB1 on m2 without loss");
        preview.target.clear();
        assert!(plan("DB1", &preview).starts_with("leave DB1 closed"));
        preview.mounted = true;
        assert!(plan("DB1", &preview).starts_with("leave DB1 as it is"));
    }
}
