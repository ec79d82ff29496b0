//! `keelson copy set`, `suspend` and `resume`.

use std::time::Duration;

use clap::Args;
use keelson_types::ActivationPolicy;
use keelson_wire::v1::{ResumeCopyRequest, SetCopyRequest, SuspendCopyRequest, set_copy_request};
use serde_json::json;

use crate::context::Global;
use crate::failure::{Failure, Outcome};
use crate::output;
use crate::text;

/// A copy as `DB@member`.
#[derive(Clone, Debug)]
pub(crate) struct CopyName {
    pub(crate) database: String,
    pub(crate) member: String,
}

impl std::str::FromStr for CopyName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.rsplit_once('@') {
            Some((database, member)) if !database.is_empty() && !member.is_empty() => {
                Ok(Self { database: database.into(), member: member.into() })
            }
            _ => Err("a copy is named DATABASE@MEMBER, for example DB1@m2".into()),
        }
    }
}

impl std::fmt::Display for CopyName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}@{}", self.database, self.member)
    }
}

#[derive(Args, Debug)]
pub(crate) struct Set {
    /// The copy, as DATABASE@MEMBER
    copy: CopyName,
    /// Activation preference, 1 is the first choice
    #[arg(long)]
    preference: Option<u32>,
    /// How long log waits for replay after it arrived, 0 to 14 days; makes a lagged copy
    #[arg(long, value_name = "TIME", value_parser = seconds, allow_hyphen_values = true)]
    replay_lag: Option<i64>,
    /// How long log is kept after replay, 0 to 14 days
    #[arg(long, value_name = "TIME", value_parser = seconds, allow_hyphen_values = true)]
    truncation_lag: Option<i64>,
    /// Set the replay lag aside: replay what waits now; at most 512 characters say why
    #[arg(long, value_name = "REASON", conflicts_with = "enable_lag")]
    disable_lag: Option<String>,
    /// Put a lag that was set aside in force again
    #[arg(long)]
    enable_lag: bool,
    /// Which automatic activations it takes: unrestricted, intrasite_only or blocked
    #[arg(long, value_name = "POLICY")]
    activation_policy: Option<ActivationPolicy>,
    /// How long a play-down waits for a quiet disk at most; 0: not at all
    #[arg(long, value_name = "TIME", value_parser = seconds, allow_hyphen_values = true)]
    play_down_max_delay: Option<i64>,
}

#[derive(Args, Debug)]
pub(crate) struct Suspend {
    /// The copy, as DATABASE@MEMBER
    copy: CopyName,
    /// Why; at most 512 characters
    #[arg(long, default_value = "")]
    comment: String,
    /// Block automatic activation only; copying and replay go on
    #[arg(long)]
    activation_only: bool,
    /// Resume by itself after this time
    #[arg(long = "for", value_name = "TIME", value_parser = lasting)]
    lasting: Option<Duration>,
}

#[derive(Args, Debug)]
pub(crate) struct Resume {
    /// The copy, as DATABASE@MEMBER
    copy: CopyName,
    /// Keep automatic activation blocked
    #[arg(long)]
    replication_only: bool,
    /// Let a holder of a discarded timeline follow the active: what it holds of that is cut and
    /// kept as salvage
    #[arg(long)]
    release_discarded: bool,
    /// Also if no other copy holds that timeline and discarded_retention is not over: nothing can
    /// be activated at the end of it any more
    #[arg(long, requires = "release_discarded")]
    before_retention: bool,
}

/// Whole seconds of a time like "7days", or of a bare number of seconds, which the server checks.
pub(super) fn seconds(text: &str) -> Result<i64, String> {
    if let Ok(number) = text.parse() {
        return Ok(number);
    }
    let time = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    i64::try_from(time.as_secs()).map_err(|_| "too long".into())
}

/// A time of at least a second: to servers, none is "until somebody ends it".
pub(super) fn lasting(text: &str) -> Result<Duration, String> {
    let time = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    match time.as_secs() {
        0 => Err("at least a second".into()),
        seconds => Ok(Duration::from_secs(seconds)),
    }
}

impl Set {
    pub(super) async fn run(self, global: &Global) -> Outcome {
        let span = |seconds: i64| match u64::try_from(seconds) {
            Ok(seconds) => text::span(Duration::from_secs(seconds)),
            Err(_) => format!("{seconds}s"),
        };
        let changes = [
            self.preference.map(|preference| format!("preference {preference}")),
            self.replay_lag.map(|lag| format!("replay lag {}", span(lag))),
            self.truncation_lag.map(|lag| format!("truncation lag {}", span(lag))),
            self.play_down_max_delay.map(|delay| format!("play-down delay {}", span(delay))),
            self.activation_policy.map(|policy| format!("activation policy {policy}")),
            self.disable_lag.as_ref().map(|_| "the lag aside".to_owned()),
            self.enable_lag.then(|| "the lag in force".to_owned()),
        ];
        let changes: Vec<_> = changes.into_iter().flatten().collect();
        if changes.is_empty() {
            let hint = "keelson copy set --help shows what can be set";
            return Err(Failure::usage("nothing to set was named", hint));
        }
        let plan = format!("set {} of copy {}", changes.join(", "), self.copy);
        let request = SetCopyRequest {
            database: self.copy.database.clone(),
            member: self.copy.member.clone(),
            preference: self.preference,
            replay_lag_seconds: self.replay_lag,
            truncation_lag_seconds: self.truncation_lag,
            play_down_max_delay_seconds: self.play_down_max_delay,
            activation_policy: self.activation_policy.map(|policy| policy.to_string()),
            lag_switch: match (self.disable_lag, self.enable_lag) {
                (Some(why), _) => Some(set_copy_request::LagSwitch::DisableLag(why)),
                (None, true) => Some(set_copy_request::LagSwitch::EnableLag(true)),
                (None, false) => None,
            },
            what_if: global.what_if,
        };
        global.connect().await?.admin().set_copy(request).await?;
        if global.only_shows(&plan) {
            return Ok(());
        }
        done(global, &self.copy, &plan);
        Ok(())
    }
}

impl Suspend {
    pub(super) async fn run(self, global: &Global) -> Outcome {
        let what = if self.activation_only { "activation" } else { "copying and replay" };
        let seconds = self.lasting.map_or(0, |time| time.as_secs());
        let mut plan = format!("suspend {what} of copy {}", self.copy);
        if !self.activation_only {
            plan.push_str(&forecast(seconds_to_full(global, &self.copy.database).await, seconds));
        }
        let request = SuspendCopyRequest {
            database: self.copy.database.clone(),
            member: self.copy.member.clone(),
            activation_only: self.activation_only,
            comment: self.comment,
            for_seconds: seconds,
            what_if: global.what_if,
        };
        global.connect().await?.admin().suspend_copy(request).await?;
        if global.only_shows(&plan) {
            return Ok(());
        }
        done(global, &self.copy, &plan);
        Ok(())
    }
}

/// When the volume of the active's log will be full at its present speed: a suspended copy keeps
/// the log.
async fn seconds_to_full(global: &Global, database: &str) -> Option<u64> {
    let rows = global.connect().await.ok()?.admin().copy_status(database, "").await.ok()?;
    rows.into_iter().find(|row| row.active)?.facts?.log_seconds_to_full
}

/// What an operator should know before the log is kept for `lasting` seconds, or for ever (0).
fn forecast(seconds_to_full: Option<u64>, lasting: u64) -> String {
    match seconds_to_full {
        Some(left) if lasting == 0 || left <= lasting => {
            let when = text::span(Duration::from_secs(left));
            let until = if lasting == 0 { "if it is not resumed" } else { "before that ends" };
            format!(
                "; the log is kept for it, and the active's log volume is full in {when}, {until}"
            )
        }
        Some(_) | None => String::new(),
    }
}

impl Resume {
    pub(super) async fn run(self, global: &Global) -> Outcome {
        let plan = match self.release_discarded {
            false => format!("resume copy {}", self.copy),
            true => format!("release the discarded timeline that copy {} holds", self.copy),
        };
        if self.release_discarded && !global.what_if {
            global.confirm(&plan)?;
        }
        let request = ResumeCopyRequest {
            database: self.copy.database.clone(),
            member: self.copy.member.clone(),
            replication_only: self.replication_only,
            release_discarded: self.release_discarded,
            before_retention: self.before_retention,
            what_if: global.what_if,
        };
        global.connect().await?.admin().resume_copy(request).await?;
        if global.only_shows(&plan) {
            return Ok(());
        }
        done(global, &self.copy, &plan);
        Ok(())
    }
}

pub(super) fn done(global: &Global, copy: &CopyName, sentence: &str) {
    let data = json!({ "database": copy.database, "member": copy.member, "done": sentence });
    output::print_done(global.output, &format!("done: {sentence}"), &data);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_have_two_names() {
        let copy: CopyName = "DB1@m2".parse().unwrap();
        assert_eq!((copy.database.as_str(), copy.member.as_str()), ("DB1", "m2"));
        for bad in ["DB1", "@m2", "DB1@", ""] {
            assert!(bad.parse::<CopyName>().is_err(), "{bad:?}");
        }
    }

    /// F101: a suspension that outlasts the space for log is said so.
    #[test]
    fn a_suspension_that_fills_the_log_volume_is_foreseen() {
        assert_eq!(forecast(None, 0), "", "it does not fill");
        assert_eq!(forecast(Some(7_200), 3_600), "", "the suspension ends before");
        let told = forecast(Some(3_600), 7_200);
        assert!(told.contains("1h") && told.ends_with("before that ends"), "{told}");
        assert!(forecast(Some(3_600), 0).ends_with("if it is not resumed"));
    }

    #[test]
    fn times_are_words_or_seconds() {
        assert_eq!(seconds("7days"), Ok(7 * 86_400));
        assert_eq!(seconds("-5"), Ok(-5), "the server refuses it with a code");
        assert!(seconds("soon").is_err());
    }
}
