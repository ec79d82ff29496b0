//! `keelson switchover --rehearse`, and how the result of a rehearsal is shown.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use keelson_client::{Client, succeeded};
use keelson_types::RefusalReason;
use keelson_wire::ids;
use keelson_wire::v1::{DatabaseInfo, MoveRow, RehearsalInfo};
use serde_json::{Value, json};

use super::switchover::{self, CHECKS, check_rows};
use crate::commands::operation;
use crate::context::Global;
use crate::failure::{Failure, Outcome};
use crate::output;
use crate::text;

/// The leader records the result so much later than the deadline at most.
const GRACE: Duration = Duration::from_secs(20);

/// A deadline for the wire.
pub(super) fn millis(deadline: Duration) -> Outcome<u64> {
    match u64::try_from(deadline.as_millis()) {
        Ok(0) => Err(Failure::usage("no time", "--deadline takes a while, like 30s")),
        Ok(millis) => Ok(millis),
        Err(_) => Err(Failure::usage("too long", "a rehearsal may take 10 minutes at most")),
    }
}

/// Follows a rehearsal that was begun, and shows its checks and its result.
pub(super) async fn show(
    global: &Global,
    client: &Client,
    row: &MoveRow,
    (deadline, no_wait): (Duration, bool),
) -> Outcome {
    if row.result == "refused" {
        return Err(switchover::refused(row));
    }
    let (database, to) = (&row.database, &row.to);
    let id = ids::operation(&row.operation)
        .map_err(|error| Failure::new(RefusalReason::Internal, error.to_string()))?;
    if no_wait {
        let data = json!({ "operation": id.to_string(), "database": database, "to": to });
        output::print_done(global.output, &format!("operation {id}"), &data);
        return Ok(());
    }
    let ended = operation::follow_for(client, id, deadline + GRACE).await?;
    let ended = succeeded(ended)?;
    let rows = client.admin().copy_status(database, to).await?;
    let info = rows.into_iter().find_map(|row| row.rehearsal).unwrap_or_default();
    let document = json!({
        "database": database,
        "to": to,
        "operation": id.to_string(),
        "rehearsal": data(Some(&info)),
        "checks": switchover::data(std::slice::from_ref(row))[0]["checks"],
    });
    if !global.output.is_data() {
        output::emit(&format!("the move of {database} to {to} {}\n\n", ended.message));
    }
    output::print_list(global.output, CHECKS, check_rows(row), &document);
    Ok(())
}

/// In one line: "2 h ago: passed, pause about 30 ms"; empty if there was none.
pub(super) fn sentence(info: Option<&RehearsalInfo>) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    info.map(|info| since(info, now)).unwrap_or_default()
}

/// Where moves of a database were rehearsed, when, and how that ended.
pub(super) fn of_copies(info: &DatabaseInfo) -> String {
    let copies = info.copies.iter().filter_map(|copy| {
        let sentence = sentence(Some(copy.rehearsal.as_ref()?));
        Some(format!("on {} {sentence}", copy.member))
    });
    copies.collect::<Vec<_>>().join("; ")
}

/// A while, in its greatest unit.
fn about(while_: Duration) -> String {
    match while_.as_secs() {
        seconds @ 0..60 => format!("{seconds} s"),
        seconds @ 60..3_600 => format!("{} min", seconds / 60),
        seconds @ 3_600..172_800 => format!("{} h", seconds / 3_600),
        seconds => format!("{} days", seconds / 86_400),
    }
}

fn since(info: &RehearsalInfo, now: Duration) -> String {
    let ago = about(now.saturating_sub(Duration::from_millis(info.unix_millis)));
    match info.code.as_str() {
        "" => format!("{ago} ago: passed, pause about {} ms", info.pause_millis),
        code => format!("{ago} ago: failed ({code}): {}", info.message),
    }
}

/// A result as JSON; null if there was none.
pub(super) fn data(info: Option<&RehearsalInfo>) -> Value {
    let Some(info) = info else { return Value::Null };
    let passed = info.code.is_empty();
    json!({
        "time": text::time(info.unix_millis),
        "time_unix_millis": info.unix_millis,
        "took_millis": info.took_millis,
        "passed": passed,
        "code": (!passed).then_some(&info.code),
        "message": (!passed).then_some(&info.message),
        "at": passed.then(|| text::log_end(info.at.as_ref())),
        "keys": info.keys,
        "pause_millis": passed.then_some(info.pause_millis),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(code: &str) -> RehearsalInfo {
        RehearsalInfo {
            unix_millis: 1_000_000,
            took_millis: 400,
            code: code.into(),
            message: if code.is_empty() { String::new() } else { "no room".into() },
            keys: 900,
            pause_millis: 30,
            ..RehearsalInfo::default()
        }
    }

    #[test]
    fn a_result_is_dated_and_says_how_it_ended() {
        let after = |seconds: u64| Duration::from_secs(1_000 + seconds);
        assert_eq!(since(&info(""), after(7_300)), "2 h ago: passed, pause about 30 ms");
        let failed = since(&info("fork_budget"), after(59));
        assert_eq!(failed, "59 s ago: failed (fork_budget): no room");
        let agos = [60, 3_599, 86_400, 200_000].map(|seconds| about(Duration::from_secs(seconds)));
        assert_eq!(agos, ["1 min", "59 min", "24 h", "2 days"]);
        assert!(since(&info(""), Duration::ZERO).contains("passed"), "a clock that was ahead");
        assert_eq!(sentence(None), "");
    }

    #[test]
    fn data_of_a_failure_promises_no_pause() {
        let (passed, failed) = (data(Some(&info(""))), data(Some(&info("fork_budget"))));
        assert_eq!((&passed["passed"], &passed["pause_millis"]), (&true.into(), &30.into()));
        assert_eq!((&passed["code"], &failed["pause_millis"]), (&Value::Null, &Value::Null));
        assert_eq!((&failed["passed"], &failed["code"]), (&false.into(), &"fork_budget".into()));
        assert_eq!(data(None), Value::Null);
    }

    #[test]
    fn a_deadline_is_some_time() {
        assert_eq!(millis(Duration::from_secs(5)).ok(), Some(5_000));
        assert!(millis(Duration::ZERO).is_err());
    }
}
