//! `keelson switchover`: move the active role on purpose, with its checks.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Args;
use keelson_client::{Client, succeeded};
use keelson_types::RefusalReason;
use keelson_wire::ids;
use keelson_wire::v1::{MoveRequest, MoveRow, Operation};
use serde_json::{Value, json};

use crate::commands::operation;
use crate::commands::rehearsal;
use crate::context::Global;
use crate::failure::{Failure, Outcome};
use crate::output::{self, Column, column, wide};
use crate::text;

#[derive(Args, Debug)]
pub(crate) struct Switchover {
    /// Name of the database
    #[arg(required_unless_present_any = ["server", "bring_home"])]
    database: Option<String>,
    /// Member that becomes active; the best other copy if it is left out
    #[arg(long)]
    to: Option<String>,
    /// Move all databases that are active on this member
    #[arg(long, value_name = "MEMBER", conflicts_with = "database")]
    server: Option<String>,
    /// Move all databases home whose copy on this member has preference 1
    #[arg(long, value_name = "MEMBER", conflicts_with_all = ["database", "server", "to"])]
    bring_home: Option<String>,
    /// Move nothing if one of the databases cannot be moved
    #[arg(long)]
    all_or_none: bool,
    #[command(flatten)]
    skips: Skips,
    /// What may be missing where the old active cannot be reached: lossless, good_availability (6
    /// logs), best_availability (12), best_effort, or none for the dial of the target's member; an
    /// unknown loss is infinite
    #[arg(long, value_name = "DIAL", default_value = "lossless")]
    mount_dial: String,
    /// Refuse when something is overridden that did not pass
    #[arg(long)]
    terminate_on_warning: bool,
    /// Why, in at most 512 characters; kept with the operation (operation show, decision list)
    #[arg(long, default_value = "")]
    comment: String,
    /// Return as soon as the move has begun
    #[arg(long)]
    no_wait: bool,
    /// Check and move at this time: a time (2026-11-22T14:00:00Z), or how long from now (90m);
    /// keelson operation cancel takes it back until then
    #[arg(long, value_name = "TIME", value_parser = appointment)]
    #[arg(conflicts_with_all = ["server", "bring_home"])]
    at: Option<u64>,
    /// Move nothing: make all checks, let the target open a fork of its copy and read from it, and
    /// estimate the pause of the move. The result stays with the copy (copy status)
    #[arg(long, conflicts_with_all = ["server", "bring_home", "at", "all_or_none"])]
    rehearse: bool,
    /// How long a rehearsal may take, at most 10 minutes
    #[arg(long, value_name = "TIME", requires = "rehearse", default_value = "1m")]
    deadline: humantime::Duration,
}

/// A time, or one so long from now, in Unix milliseconds.
fn appointment(text: &str) -> Result<u64, String> {
    if let Ok(time) = humantime::parse_rfc3339_weak(text) {
        let since = time.duration_since(UNIX_EPOCH).map_err(|_| "a time before 1970")?;
        return u64::try_from(since.as_millis()).map_err(|_| "too far away".into());
    }
    let after = humantime::parse_duration(text)
        .map_err(|_| "neither a time (2026-11-22T14:00:00Z) nor a while (90m)")?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from((now + after).as_millis()).map_err(|_| "too far away".into())
}

/// Checks that are left out.
#[derive(Args, Debug)]
pub(crate) struct Skips {
    /// Move to a copy that is failed or whose member is short of space
    #[arg(long)]
    skip_health_checks: bool,
    /// Move to a copy that is far behind, or read as the source of a seed
    #[arg(long)]
    skip_lag_checks: bool,
    /// Move to a copy whose content index is not healthy
    #[arg(long)]
    skip_client_experience_checks: bool,
    /// Move to a member beyond its preferred maximum (its maximum holds)
    #[arg(long)]
    skip_max_active_checks: bool,
    /// Move although the active copy is the source of a seed
    #[arg(long)]
    skip_active_copy_checks: bool,
    /// Move although the database failed over too often
    #[arg(long)]
    skip_move_suppression_checks: bool,
    /// All of these
    #[arg(long)]
    skip_all: bool,
}

impl Skips {
    /// The names by which the server knows them.
    pub(crate) fn names(&self) -> Vec<String> {
        let flags = [
            (self.skip_health_checks, "health"),
            (self.skip_lag_checks, "lag"),
            (self.skip_client_experience_checks, "client_experience"),
            (self.skip_max_active_checks, "max_active"),
            (self.skip_active_copy_checks, "active_copy"),
            (self.skip_move_suppression_checks, "move_suppression"),
            (self.skip_all, "all"),
        ];
        flags.iter().filter(|(set, _)| *set).map(|(_, name)| (*name).to_owned()).collect()
    }
}

pub(super) const CHECKS: &[Column] = &[
    column("database"),
    column("copy on"),
    column("check"),
    column("measured"),
    column("threshold"),
    column("verdict"),
    column("skip flag"),
];

const MOVES: &[Column] = &[
    column("database"),
    column("from"),
    column("to"),
    column("result"),
    column("message"),
    wide("operation"),
];

impl Switchover {
    pub(crate) async fn run(self, global: &Global) -> Outcome {
        let client = global.connect().await?;
        let (rehearse, deadline) = (self.rehearse, Duration::from(self.deadline));
        if self.mount_dial == "best_effort" && !global.what_if && !rehearse {
            global.confirm("move with loss if the old active copy cannot be reached")?;
        }
        let single = self.database.is_some();
        let request = MoveRequest {
            database: self.database.unwrap_or_default(),
            server: self.server.unwrap_or_default(),
            bring_home: self.bring_home.unwrap_or_default(),
            to: self.to.unwrap_or_default(),
            skip: self.skips.names(),
            mount_dial: self.mount_dial,
            comment: self.comment,
            all_or_none: self.all_or_none,
            terminate_on_warning: self.terminate_on_warning,
            what_if: global.what_if,
            operation: bytes::Bytes::new(),
            at_once: false,
            at_unix_millis: self.at.unwrap_or(0),
            rehearse,
            deadline_millis: if rehearse { rehearsal::millis(deadline)? } else { 0 },
        };
        let moves = client.admin().move_databases(request).await?;
        if global.what_if {
            return print_plan(global, &moves);
        }
        match moves.first() {
            Some(only) if rehearse => {
                rehearsal::show(global, &client, only, (deadline, self.no_wait)).await
            }
            Some(only) if single => one(global, &client, only, self.no_wait).await,
            _ => several(global, &client, moves, self.no_wait).await,
        }
    }
}

/// The move of one database.
async fn one(global: &Global, client: &Client, row: &MoveRow, no_wait: bool) -> Outcome {
    if row.result == "refused" {
        return Err(refused(row));
    }
    let (database, to) = (&row.database, &row.to);
    let id = ids::operation(&row.operation)
        .map_err(|error| Failure::new(RefusalReason::Internal, error.to_string()))?;
    if row.result == "scheduled" {
        let data =
            json!({ "operation": id.to_string(), "database": database, "result": "scheduled" });
        output::print_done(global.output, &format!("scheduled as operation {id}"), &data);
        return Ok(());
    }
    if no_wait {
        let data = json!({ "operation": id.to_string(), "database": database, "to": to });
        output::print_done(global.output, &format!("operation {id}"), &data);
        return Ok(());
    }
    let ended = succeeded(operation::follow(client, id).await?)?;
    let sentence = format!("{database} is active on {to}{}", took(&ended));
    output::print_done(global.output, &sentence, &operation::data(&ended));
    Ok(())
}

pub(super) fn refused(row: &MoveRow) -> Failure {
    let reason = RefusalReason::from_code(&row.code).unwrap_or(RefusalReason::Internal);
    Failure::new(reason, row.message.clone())
}

/// Moves of several databases: a row for each, and the first refusal as the outcome.
async fn several(global: &Global, client: &Client, moves: Vec<MoveRow>, no_wait: bool) -> Outcome {
    let moves = if no_wait { moves } else { followed(client, moves).await? };
    let rows = moves.iter().map(|row| {
        vec![
            row.database.clone(),
            row.from.clone(),
            row.to.clone(),
            row.result.replace('_', " "),
            row.message.clone(),
            if row.operation.is_empty() { String::new() } else { text::id(&row.operation) },
        ]
    });
    output::print_list(global.output, MOVES, rows.collect(), &data(&moves));
    let failed = moves.iter().find(|row| matches!(row.result.as_str(), "refused" | "failed"));
    failed.map_or(Ok(()), |row| Err(refused(row)))
}

/// Waits for each move that has begun and notes how it ended.
pub(crate) async fn followed(client: &Client, mut moves: Vec<MoveRow>) -> Outcome<Vec<MoveRow>> {
    for row in moves.iter_mut().filter(|row| row.result == "moving") {
        let Ok(id) = ids::operation(&row.operation) else { continue };
        let ended = operation::follow(client, id).await?;
        if ended.state == "succeeded" {
            row.result = "moved".into();
        } else {
            row.result = "failed".into();
            (row.code, row.message) = (ended.code, ended.message);
        }
    }
    Ok(moves)
}

/// How many databases moved, for the end of a sentence.
pub(crate) fn summary(moves: &[MoveRow]) -> String {
    let count = |results: &[&str]| {
        moves.iter().filter(|row| results.contains(&row.result.as_str())).count()
    };
    let (moved, left) = (count(&["moved", "moving"]), count(&["refused", "failed"]));
    match (moved, left) {
        (0, 0) => String::new(),
        (moved, 0) => format!("; {moved} databases moved away"),
        (moved, left) => {
            let stays = moves.iter().filter(|row| !row.message.is_empty());
            let why: Vec<_> = stays.map(|row| row.message.clone()).collect();
            format!("; {moved} databases moved away, {left} stay: {}", why.join("; "))
        }
    }
}

/// What would be done, with every check.
pub(crate) fn print_plan(global: &Global, moves: &[MoveRow]) -> Outcome {
    let checks = moves.iter().flat_map(check_rows);
    if !global.output.is_data() {
        for row in moves {
            let (database, from) = (&row.database, &row.from);
            output::emit(&match row.result.as_str() {
                "refused" => format!("would leave {database} on {from}: {}\n", row.message),
                "stays" => format!("would leave {database} active on {from}, where it is\n"),
                "would_rehearse" => {
                    format!("would rehearse the move of {database} from {from} to {}\n", row.to)
                }
                _ => format!("would move {database} from {from} to {}\n", row.to),
            });
        }
        output::emit("\n");
    }
    output::print_list(global.output, CHECKS, checks.collect(), &data(moves));
    Ok(())
}

/// The checks of a move, for the table.
pub(super) fn check_rows(row: &MoveRow) -> Vec<Vec<String>> {
    let checks = row.checks.iter().map(|check| {
        vec![
            row.database.clone(),
            check.member.clone(),
            check.check.replace('_', " "),
            check.measured.clone(),
            check.threshold.clone(),
            check.verdict.clone(),
            check.skip.clone(),
        ]
    });
    checks.collect()
}

/// Moves as JSON.
pub(crate) fn data(moves: &[MoveRow]) -> Value {
    let of = |row: &MoveRow| {
        let checks = row.checks.iter().map(|check| {
            json!({
                "member": check.member,
                "check": check.check,
                "measured": check.measured,
                "threshold": check.threshold,
                "verdict": check.verdict,
                "skip_flag": check.skip,
            })
        });
        json!({
            "database": row.database,
            "from": row.from,
            "to": row.to,
            "result": row.result,
            "code": row.code,
            "message": row.message,
            "warning": row.warning,
            "operation": (!row.operation.is_empty()).then(|| text::id(&row.operation)),
            "checks": checks.collect::<Value>(),
        })
    };
    moves.iter().map(of).collect()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_appointment_is_a_time_or_a_while_from_now() {
        assert_eq!(appointment("1970-01-01T00:01:00Z"), Ok(60_000));
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64;
        let later = appointment("90m").unwrap();
        assert!((5_400_000..5_460_000).contains(&(later - now)), "{later}");
        for bad in ["", "tomorrow", "-5m"] {
            assert!(appointment(bad).is_err(), "{bad:?}");
        }
    }

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

    #[test]
    fn a_summary_says_what_stays_and_why() {
        let row = |result: &str, message: &str| MoveRow {
            result: result.into(),
            message: message.into(),
            ..MoveRow::default()
        };
        assert_eq!(summary(&[]), "");
        assert_eq!(summary(&[row("moved", "")]), "; 1 databases moved away");
        let some = [row("moved", ""), row("refused", "DB2 is degraded")];
        assert_eq!(summary(&some), "; 1 databases moved away, 1 stay: DB2 is degraded");
    }
}
