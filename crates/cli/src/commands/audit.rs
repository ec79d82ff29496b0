//! `keelson audit`: who changed what at a member, who was refused, who logged in.

use clap::Args;
use keelson_types::AuditLine;
use serde_json::Value;

use crate::context::Global;
use crate::failure::Outcome;
use crate::output::{self, Format, column, wide};
use crate::text;
use crate::watch::Watch;

#[derive(Args, Debug)]
pub(crate) struct Audit {
    /// The member whose audit is read; each has its own
    member: String,
    /// At most this many lines, the newest
    #[arg(long, default_value_t = 100)]
    limit: u32,
    /// Leave out changes: only who was refused, and logins
    #[arg(long)]
    access: bool,
    #[command(flatten)]
    watch: Watch,
}

impl Audit {
    pub(crate) async fn run(self, global: &Global) -> Outcome {
        let admin = global.client()?.admin();
        let Self { member, limit, access, watch } = self;
        let read = async |format| {
            let lines = admin.list_audit(&member, limit, access).await?;
            Ok(listed(format, &lines).into())
        };
        watch.show(global.output, read).await
    }
}

fn listed(format: Format, lines: &[String]) -> String {
    let read = |line: &String| {
        let (shown, data) = (serde_json::from_str(line), serde_json::from_str(line));
        Some((shown.ok()?, data.ok()?))
    };
    let (lines, data): (Vec<AuditLine>, Vec<Value>) = lines.iter().filter_map(read).unzip();
    let columns = [
        column("time"),
        column("who"),
        column("from"),
        column("call"),
        column("outcome"),
        column("times"),
        wide("arguments"),
    ];
    let rows = lines.iter().map(row).collect();
    output::list(format, &columns, rows, &Value::Array(data))
}

fn row(line: &AuditLine) -> Vec<String> {
    let token = if line.by_token { ", token" } else { "" };
    let who = match line.by.as_str() {
        "" => "nobody known".to_owned(),
        name => format!("{name} ({}{token})", line.role),
    };
    vec![
        text::time(line.unix_millis),
        who,
        line.from.clone(),
        line.call.clone(),
        line.outcome.clone(),
        line.times.to_string(),
        line.arguments.clone(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_who_by_what_they_showed() {
        let line = |by: &str, by_token| AuditLine {
            by: by.into(),
            role: "reader".into(),
            by_token,
            ..AuditLine::default()
        };
        let who = |line: AuditLine| row(&line)[1].clone();
        assert_eq!(who(line("ann", true)), "ann (reader, token)");
        assert_eq!(who(line("ann", false)), "ann (reader)");
        assert_eq!(who(line("", false)), "nobody known");
    }
}
