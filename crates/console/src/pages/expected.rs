//! What an action would do whose call has no what-if, said from what the services show now. The
//! call itself still decides: between this page and its button things may have changed.

use keelson_types::RefusalReason;
use keelson_wire::v1::{CopyFacts, CopyStatusRow, DatabaseInfo, MemberStatus, Operation};
use maud::{Markup, html};

use crate::show::{size, span};

/// What would happen, in sentences, and why the call would be refused, if it would.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Expected {
    /// In the order in which they are read.
    pub sentences: Vec<String>,
    /// Message and code of the refusal.
    pub refusal: Option<(String, &'static str)>,
}

fn refused(reason: RefusalReason, message: String) -> Expected {
    Expected { sentences: Vec::new(), refusal: Some((message, reason.code().0)) }
}

fn said(sentences: impl IntoIterator<Item = String>) -> Expected {
    Expected { sentences: sentences.into_iter().collect(), refusal: None }
}

impl Expected {
    /// Of a dismount.
    #[must_use]
    pub fn dismount(info: &DatabaseInfo) -> Self {
        let (name, active) = (&info.name, &info.active_member);
        if !info.mount_intent.eq_ignore_ascii_case("mounted") {
            return said([format!("{name} is dismounted already: nothing would change.")]);
        }
        let first = match active.as_str() {
            "" => format!("{name} is open nowhere now, and would not be opened any more."),
            active => format!("{name} is open on {active} and would be closed there."),
        };
        said([
            first,
            "Every read and write is refused from then on; no failover opens it again.".to_owned(),
            "Its copies and what was written stay as they are.".to_owned(),
        ])
    }

    /// Of a scrub of a copy; `row` is nothing if there is no such copy.
    #[must_use]
    pub fn scrub(database: &str, member: &str, row: Option<&CopyStatusRow>, now_ms: u64) -> Self {
        let Some(row) = row else {
            let what = format!("{database} has no copy on {member}");
            return refused(RefusalReason::UnknownCopy, what);
        };
        let Some(facts) = row.facts.as_ref().filter(|_| row.reachable) else {
            let what = match row.status_reason.as_str() {
                "" => "its member says nothing of it".to_owned(),
                why => why.to_owned(),
            };
            return refused(RefusalReason::Unreachable, what);
        };
        said(scrub(facts, now_ms))
    }

    /// Of the end of a maintenance; `copies` are those of the member.
    #[must_use]
    pub fn end_maintenance(status: &MemberStatus, copies: &[CopyStatusRow], now_ms: u64) -> Self {
        let name = &status.name;
        let Some(maintenance) = &status.maintenance else {
            return said([format!("{name} is not under maintenance: nothing would change.")]);
        };
        let since = span(now_ms.saturating_sub(maintenance.since_unix_millis) / 1000);
        let why = match maintenance.comment.as_str() {
            "" => String::new(),
            comment => format!(" (“{comment}”)"),
        };
        let away = copies.iter().filter(|row| row.preference == 1 && !row.active);
        let away: Vec<&str> = away.map(|row| row.database.as_str()).collect();
        let last = match &away[..] {
            [] => "No database that prefers it is active elsewhere.".to_owned(),
            away => format!(
                "{} prefer it and stay where they are active now, until they are moved or a \
                 preference move brings them home: {}.",
                away.len(),
                away.join(", ")
            ),
        };
        said([format!("{name} is under maintenance since {since}{why}."), last])
    }

    /// Of the end of an operation before its time.
    #[must_use]
    pub fn cancel(operation: &Operation) -> Self {
        let (kind, subject) = (operation.kind.replace('_', " "), &operation.subject);
        if operation.state != "running" {
            let what = format!("It has ended already ({}): nothing would change.", operation.state);
            return said([what]);
        }
        let then = match operation.kind.as_str() {
            "seed" => "The copy stays suspended, and the files that it had are untouched.",
            "scheduled_switchover" => "It would not happen: the database stays where it is.",
            "rehearsal" => "It would end without a result; the database serves as before.",
            _ => {
                let what = format!("a {kind} cannot be taken back once begun; it ends by itself");
                return refused(RefusalReason::Precondition, what);
            }
        };
        said([format!("The {kind} of {subject} would end now."), then.to_owned()])
    }

    pub(super) fn shown(&self) -> Markup {
        html! {
            @if !self.sentences.is_empty() {
                ul aria-label="What would happen" {
                    @for sentence in &self.sentences { li { (sentence) } }
                }
            }
        }
    }
}

fn scrub(facts: &CopyFacts, now_ms: u64) -> Vec<String> {
    let scrub = facts.scrub.clone().unwrap_or_default();
    let first = if scrub.running {
        let (done, total) = (size(scrub.done_bytes), size(scrub.total_bytes));
        format!(
            "A scrub of this copy runs, {done} of {total} are read; another one would follow it."
        )
    } else {
        let bytes = size(facts.log_bytes.saturating_add(facts.store_bytes));
        format!("Its log and its store would be read, about {bytes}.")
    };
    let last = (scrub.ended_unix_millis > 0).then(|| {
        let ago = span(now_ms.saturating_sub(scrub.ended_unix_millis) / 1000);
        format!("The last scrub ended {ago} ago: {}.", scrub.result)
    });
    let serves = "The copy goes on with its work meanwhile.".to_owned();
    [first, serves].into_iter().chain(last).collect()
}

#[cfg(test)]
mod tests {
    use keelson_wire::v1::{Maintenance, ScrubFacts};

    use super::*;

    const NOW: u64 = 1_700_000_060_000;

    fn text(expected: &Expected) -> String {
        let refusal = expected.refusal.iter().map(|(what, code)| format!("{what} [{code}]"));
        expected.sentences.iter().cloned().chain(refusal).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn a_dismount_says_where_the_database_is_open() {
        let info = |intent: &str, active: &str| DatabaseInfo {
            name: "DB1".into(),
            mount_intent: intent.into(),
            active_member: active.into(),
            ..DatabaseInfo::default()
        };
        for (info, word) in [
            (info("Mounted", "m1"), "DB1 is open on m1 and would be closed there."),
            (info("mounted", ""), "open nowhere now"),
            (info("Dismounted", ""), "dismounted already: nothing would change"),
        ] {
            let expected = Expected::dismount(&info);
            assert!(text(&expected).contains(word) && expected.refusal.is_none(), "{expected:?}");
        }
    }

    #[test]
    fn a_scrub_says_how_much_it_reads_and_needs_a_copy_that_answers() {
        let facts = |scrub| CopyFacts {
            log_bytes: 1 << 20,
            store_bytes: 2 << 20,
            scrub: Some(scrub),
            ..CopyFacts::default()
        };
        let row = |reachable, facts| CopyStatusRow {
            reachable,
            status_reason: if reachable { "" } else { "its member does not answer" }.into(),
            facts: Some(facts),
            ..CopyStatusRow::default()
        };
        let ended = ScrubFacts {
            ended_unix_millis: NOW - 60_000,
            result: "clean".into(),
            ..Default::default()
        };
        let runs = ScrubFacts { running: true, total_bytes: 4 << 20, ..Default::default() };
        let of = |row: Option<&CopyStatusRow>| text(&Expected::scrub("DB1", "m2", row, NOW));
        let well = of(Some(&row(true, facts(ended))));
        assert!(well.contains("about 3.0 MiB") && well.contains("1 min ago: clean."), "{well}");
        assert!(of(Some(&row(true, facts(runs)))).contains("of 4.0 MiB are read; another one"));
        let silent = of(Some(&row(false, CopyFacts::default())));
        assert_eq!(silent, "its member does not answer [unreachable]");
        assert_eq!(of(None), "DB1 has no copy on m2 [unknown_copy]");
    }

    #[test]
    fn the_end_of_a_maintenance_says_which_databases_stay_away() {
        let copy = |database: &str, preference, active| CopyStatusRow {
            database: database.into(),
            preference,
            active,
            ..CopyStatusRow::default()
        };
        let copies = [copy("DB1", 1, false), copy("DB2", 2, false), copy("DB3", 1, true)];
        let mut status = MemberStatus { name: "m2".into(), ..MemberStatus::default() };
        let of = |status: &MemberStatus, copies: &[CopyStatusRow]| {
            text(&Expected::end_maintenance(status, copies, NOW))
        };
        assert_eq!(of(&status, &copies), "m2 is not under maintenance: nothing would change.");
        let since_unix_millis = NOW - 3_600_000;
        status.maintenance = Some(Maintenance { since_unix_millis, comment: "disk".into() });
        let text = of(&status, &copies);
        assert!(text.contains("under maintenance since 1 h (“disk”)"), "{text}");
        assert!(text.contains("1 prefer it") && text.ends_with(": DB1."), "{text}");
        assert!(of(&status, &copies[1..]).contains("No database that prefers it"));
    }

    #[test]
    fn only_what_can_be_cancelled_has_a_button() {
        let operation = |kind: &str, state: &str| Operation {
            kind: kind.into(),
            state: state.into(),
            subject: "DB1@m2".into(),
            ..Operation::default()
        };
        for (kind, state, word, refused) in [
            ("seed", "running", "The copy stays suspended", false),
            ("scheduled_switchover", "running", "The scheduled switchover of DB1@m2", false),
            ("rehearsal", "running", "without a result", false),
            ("switchover", "running", "cannot be taken back once begun", true),
            ("switchover", "succeeded", "ended already (succeeded)", false),
        ] {
            let expected = Expected::cancel(&operation(kind, state));
            assert!(text(&expected).contains(word), "{expected:?}");
            assert_eq!(expected.refusal.is_some(), refused, "{kind} {state}");
        }
    }
}
