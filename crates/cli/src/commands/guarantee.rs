//! `keelson guarantee`: may a writer of much go on without outrunning the copies?

use std::time::{SystemTime, UNIX_EPOCH};

use clap::{Args, Subcommand};
use keelson_wire::v1::{GuaranteeRequest, GuaranteeResponse};
use serde_json::{Value, json};

use crate::context::Global;
use crate::failure::{Exit, Failure, Outcome};
use crate::output::{self, Format, column};
use crate::text;
use crate::watch::{Reading, Watch};

#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// Are enough copies there, healthy, and close enough? Exit code 1 if not, 4 if not known
    Health {
        #[command(flatten)]
        question: Question,
        #[command(flatten)]
        watch: Watch,
    },
    /// Is everything committed now replayed on enough copies? Exit codes as for health
    Flush {
        #[command(flatten)]
        question: Question,
        /// Ask for one write instead: its commit token, as keelson kv put prints it
        #[arg(long)]
        token: Option<String>,
        /// Ask for what was written before a time (RFC 3339, or an age such as 5m) by a clock that
        /// may be 5 s wrong
        #[arg(long, conflicts_with = "token", value_name = "TIME", value_parser = moment)]
        written_before: Option<u64>,
    },
}

#[derive(Args, Debug)]
pub(crate) struct Question {
    /// Name of the database
    database: String,
    /// Which copies count; default: the database's own setting
    #[arg(long, default_value = "")]
    constraint: String,
}

impl Command {
    pub(crate) async fn run(self, global: &Global) -> Outcome {
        let admin = global.client()?.admin();
        let request = |question: &Question| GuaranteeRequest {
            database: question.database.clone(),
            constraint: question.constraint.clone(),
            ..GuaranteeRequest::default()
        };
        let answer = match &self {
            Self::Health { question, watch } => {
                let read = async |format| {
                    let answer = admin.guarantee_health(request(question)).await?;
                    Ok(Reading::judged(shown(format, &answer), verdict(&answer)))
                };
                return watch.show(global.output, read).await;
            }
            Self::Flush { question, token, written_before } => {
                let token =
                    token.as_deref().map(text::commit_token).transpose()?.unwrap_or_default();
                let written_unix_millis = *written_before;
                let message = GuaranteeRequest { token, written_unix_millis, ..request(question) };
                admin.guarantee_flush(message).await?
            }
        };
        output::emit(&shown(global.output, &answer));
        verdict(&answer)
    }
}

/// A time, or one so long ago, in Unix milliseconds.
fn moment(text: &str) -> Result<u64, String> {
    let time = match humantime::parse_rfc3339_weak(text) {
        Ok(time) => time,
        Err(_) => {
            let age = humantime::parse_duration(text)
                .map_err(|_| "neither a time (2026-11-22T14:00:00Z) nor an age (5m)")?;
            SystemTime::now().checked_sub(age).ok_or("too long ago")?
        }
    };
    let since = time.duration_since(UNIX_EPOCH).map_err(|_| "a time before 1970")?;
    u64::try_from(since.as_millis()).map_err(|_| "too far away".into())
}

fn shown(format: Format, answer: &GuaranteeResponse) -> String {
    let objections = answer
        .objections
        .iter()
        .map(|objection| json!({ "member": objection.member, "reason": objection.reason }));
    let data = json!({
        "answer": answer.answer,
        "constraint": answer.constraint,
        "objections": objections.collect::<Value>(),
    });
    if answer.objections.is_empty() && !format.is_data() {
        return format!("{} ({})\n", answer.answer, answer.constraint);
    }
    let rows = answer.objections.iter().map(|objection| {
        let who = if objection.member.is_empty() { "database" } else { &objection.member };
        vec![who.to_owned(), objection.reason.clone()]
    });
    output::list(format, &[column("member"), column("reason")], rows.collect(), &data)
}

/// The exit code says the answer too.
fn verdict(answer: &GuaranteeResponse) -> Outcome {
    let (code, exit, hint) = match answer.answer.as_str() {
        "satisfied" => return Ok(()),
        "retry" => ("guarantee_unknown", Exit::Unavailable, "ask again; a member did not answer"),
        _ => (
            "guarantee_not_satisfied",
            Exit::Failed,
            "wait and ask again before writing more; keelson copy status shows the queues",
        ),
    };
    Err(Failure {
        code: code.into(),
        message: format!("the data guarantee {} is {}", answer.constraint, answer.answer),
        hint: hint.into(),
        exit,
    })
}
