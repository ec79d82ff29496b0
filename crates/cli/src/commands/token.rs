//! `keelson token`: access tokens, for callers without a certificate.
//!
//! The secret is drawn here and printed once, on standard output and nowhere else; the cluster gets
//! its digest.

use std::time::Duration;

use clap::{Args, Subcommand};
use keelson_client::TokenRequest;
use keelson_types::TokenRole;
use keelson_wire::v1::TokenRow;
use serde_json::{Value, json};

use crate::context::Global;
use crate::failure::Outcome;
use crate::output::{self, column};
use crate::text;

#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// Issue a token and print its secret, once
    Issue(Issue),
    /// List tokens, without their secrets
    List,
    /// Revoke a token: nobody gets in with it any more
    Revoke {
        /// Name of the token
        name: String,
    },
}

#[derive(Args, Debug)]
pub(crate) struct Issue {
    /// What its holder may do: reader, writer, operator or admin
    role: TokenRole,
    /// Name of the token; the audit knows its holder by it
    name: String,
    /// Database that a reader or writer may use; may be repeated; all if there is none
    #[arg(long = "database", value_name = "DB")]
    databases: Vec<String>,
    /// When it ends, from now on, for example 30d; without it never
    #[arg(long, value_name = "TIME")]
    expires: Option<humantime::Duration>,
    /// Give a token of this name a new secret and these rights; the old secret ends at once
    #[arg(long)]
    replace: bool,
}

impl Command {
    pub(crate) async fn run(self, global: &Global) -> Outcome {
        match self {
            Self::Issue(issue) => issue.run(global).await,
            Self::List => list(global).await,
            Self::Revoke { name } => revoke(global, &name).await,
        }
    }
}

fn after(now: u64, time: Duration) -> u64 {
    now.saturating_add(u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
}

/// What some members do not know yet.
fn warn(silent: &[String], what: &str) {
    if !silent.is_empty() {
        eprintln!("not confirmed by {}: {what} as soon as they hear of it", silent.join(", "));
    }
}

impl Issue {
    async fn run(self, global: &Global) -> Outcome {
        let expires = self.expires.map(|time| after(text::unix_millis(), *time));
        let request = TokenRequest {
            name: self.name.clone(),
            role: self.role,
            databases: self.databases.clone(),
            expires_unix_millis: expires,
            replace: self.replace,
            what_if: global.what_if,
        };
        let (secret, silent) = global.connect().await?.admin().issue_token(request).await?;
        let (name, role) = (&self.name, self.role);
        if global.only_shows(&format!("issue token {name} ({role})")) {
            return Ok(());
        }
        warn(&silent, "they take it");
        if !global.output.is_data() {
            let end = expires
                .map_or("never expires".into(), |end| format!("expires {}", text::time(end)));
            eprintln!("token {name} ({role}), {end}; its secret is shown this once:");
        }
        let data = json!({
            "name": name,
            "role": role.as_str(),
            "databases": self.databases,
            "expires_unix_millis": expires,
            "silent_members": silent,
            "token": secret.reveal(),
        });
        output::print_done(global.output, secret.reveal(), &data);
        Ok(())
    }
}

/// Whole days that are left; none for a token that never ends.
fn days_left(row: &TokenRow, now: u64) -> Option<u64> {
    let end = Some(row.expires_unix_millis).filter(|end| *end > 0)?;
    Some(end.saturating_sub(now) / text::DAY_MILLIS)
}

async fn list(global: &Global) -> Outcome {
    let tokens = global.client()?.admin().list_tokens().await?;
    let now = text::unix_millis();
    let titles = ["name", "role", "databases", "created", "expires", "days left", "last change"];
    let rows = tokens.iter().map(|row| {
        let (left, expires) = match days_left(row, now) {
            None => ("-".to_owned(), "never".to_owned()),
            Some(_) if row.expired => ("expired".to_owned(), text::time(row.expires_unix_millis)),
            Some(days) => (days.to_string(), text::time(row.expires_unix_millis)),
        };
        let all = if row.databases.is_empty() { "all".to_owned() } else { row.databases.join(",") };
        vec![
            row.name.clone(),
            row.role.clone(),
            all,
            text::time(row.created_unix_millis),
            expires,
            left,
            text::time(row.changed_unix_millis),
        ]
    });
    let data = tokens.iter().map(|row| {
        json!({
            "name": row.name,
            "role": row.role,
            "databases": row.databases,
            "created_unix_millis": row.created_unix_millis,
            "changed_unix_millis": row.changed_unix_millis,
            "expires_unix_millis": Some(row.expires_unix_millis).filter(|end| *end > 0),
            "days_left": days_left(row, now),
            "expired": row.expired,
        })
    });
    let data: Value = data.collect();
    output::print_list(global.output, &titles.map(column), rows.collect(), &data);
    Ok(())
}

async fn revoke(global: &Global, name: &str) -> Outcome {
    let admin = global.connect().await?.admin();
    if global.what_if {
        admin.revoke_token(name, true).await?;
        global.only_shows(&format!("revoke token {name}"));
        return Ok(());
    }
    global.confirm(&format!("revoke token {name}"))?;
    let silent = admin.revoke_token(name, false).await?;
    warn(&silent, "they refuse it");
    let data = json!({ "token": name, "silent_members": silent });
    output::print_done(global.output, &format!("revoked token {name}"), &data);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::DAY_MILLIS;

    #[test]
    fn days_are_counted_down_to_nothing() {
        let row = |expires_unix_millis| TokenRow { expires_unix_millis, ..TokenRow::default() };
        assert_eq!(days_left(&row(0), 5), None);
        assert_eq!(days_left(&row(5 + 2 * DAY_MILLIS), 5), Some(2));
        assert_eq!(days_left(&row(4 + 2 * DAY_MILLIS), 5), Some(1));
        assert_eq!(days_left(&row(4), 5), Some(0));
        assert_eq!(after(1, Duration::MAX), u64::MAX);
    }
}
