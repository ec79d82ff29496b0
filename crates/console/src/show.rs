//! Small things as people read them: times, ages, sizes, states with a sign besides their colour.

use std::fmt::Write as _;

use bytesize::ByteSize;
use keelson_types::{CERTIFICATE_WARNING_DAYS, LOG_UNIT_BYTES};
use keelson_wire::v1::CopyStatusRow;
use maud::{Markup, html};
use time::OffsetDateTime;
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;
use uuid::Uuid;

use crate::web::path_part;

const FULL: &[BorrowedFormatItem<'_>] =
    format_description!("[year]-[month]-[day] [hour]:[minute]:[second]Z");

/// A moment in UTC; a dash for none.
pub(crate) fn moment(unix_ms: u64) -> String {
    let seconds = i64::try_from(unix_ms / 1000).unwrap_or(0);
    let time = OffsetDateTime::from_unix_timestamp(seconds).ok().filter(|_| unix_ms > 0);
    time.and_then(|time| time.format(FULL).ok()).unwrap_or_else(|| "–".into())
}

/// How long ago it was, with the moment itself for machines and for those who point at it.
pub(crate) fn ago(unix_ms: u64, now_ms: u64) -> Markup {
    if unix_ms == 0 {
        return html! { "–" };
    }
    let text = moment(unix_ms);
    html! {
        time datetime=(text.replace(' ', "T")) title=(text) {
            (span(now_ms.saturating_sub(unix_ms) / 1000)) " ago"
        }
    }
}

/// A span of time in its two largest units.
pub(crate) fn span(seconds: u64) -> String {
    const UNITS: [(u64, &str); 4] = [(86_400, "d"), (3_600, "h"), (60, "min"), (1, "s")];
    let mut left = seconds;
    let mut text = String::new();
    let first = UNITS.iter().position(|(unit, _)| left >= *unit).unwrap_or(UNITS.len() - 1);
    for (unit, name) in UNITS.iter().skip(first).take(2) {
        let count = left / unit;
        left %= unit;
        if count > 0 || text.is_empty() {
            let gap = if text.is_empty() { "" } else { " " };
            // Writing to a string cannot fail.
            let _ = write!(text, "{gap}{count} {name}");
        }
    }
    text
}

/// A size in binary units.
pub(crate) fn size(bytes: u64) -> String {
    ByteSize::b(bytes).display().iec().to_string()
}

/// A queue in logs of 1 MiB, begun ones included.
pub(crate) fn logs(bytes: u64) -> u64 {
    bytes.div_ceil(LOG_UNIT_BYTES)
}

/// A sixteen-byte id as text.
pub(crate) fn id(bytes: &[u8]) -> String {
    Uuid::from_slice(bytes).map(|id| id.to_string()).unwrap_or_default()
}

/// The whole per cents of a part.
pub(crate) fn percent(part: u64, whole: u64) -> u64 {
    part.saturating_mul(100).checked_div(whole).unwrap_or(0).min(100)
}

/// How a state is to be taken.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Tone {
    /// As it should be.
    Good,
    /// On its way.
    Busy,
    /// Wanted so, or nothing to say.
    Off,
    /// Look at it.
    Warn,
    /// Act on it.
    Bad,
}

impl Tone {
    const fn class(self) -> &'static str {
        match self {
            Self::Good => "tag good",
            Self::Busy => "tag busy",
            Self::Off => "tag off",
            Self::Warn => "tag warn",
            Self::Bad => "tag bad",
        }
    }

    /// Told apart without colours.
    const fn sign(self) -> &'static str {
        match self {
            Self::Good => "✓",
            Self::Busy => "↻",
            Self::Off => "–",
            Self::Warn => "!",
            Self::Bad => "✗",
        }
    }

    /// Of the status of a copy.
    pub(crate) fn of_copy(status: &str) -> Self {
        match status {
            "Mounted" | "Healthy" => Self::Good,
            "Mounting" | "Dismounting" | "Initializing" | "Resynchronizing" | "Seeding"
            | "SeedingSource" | "RangeRepair" => Self::Busy,
            "Dismounted" => Self::Off,
            "Held" | "Suspended" | "DisconnectedAndHealthy" | "DisconnectedAndResynchronizing" => {
                Self::Warn
            }
            _ => Self::Bad,
        }
    }

    /// Of the state of a content index.
    pub(crate) fn of_index(state: &str) -> Self {
        match state {
            "Healthy" => Self::Good,
            "Crawling" | "Seeding" => Self::Busy,
            "Disabled" | "AutoSuspended" => Self::Off,
            "Suspended" => Self::Warn,
            _ => Self::Bad,
        }
    }

    /// Of the state of an operation.
    pub(crate) fn of_operation(state: &str) -> Self {
        match state {
            "succeeded" => Self::Good,
            "running" | "scheduled" => Self::Busy,
            "cancelled" => Self::Off,
            _ => Self::Bad,
        }
    }

    /// Of something that is so or is not.
    pub(crate) const fn of(good: bool) -> Self {
        if good { Self::Good } else { Self::Bad }
    }
}

/// A state: sign, colour and word. Short ones stay in one line.
pub(crate) fn tag(tone: Tone, text: &str) -> Markup {
    let short = if text.chars().count() <= 24 { " short" } else { "" };
    html! {
        span class=(format!("{}{short}", tone.class())) {
            span aria-hidden="true" { (tone.sign()) } " " (text)
        }
    }
}

/// The same of something that is worth a look only if it is not as it should be.
pub(crate) fn quiet(tone: Tone, text: &str) -> Markup {
    match tone {
        Tone::Good => html! { span.quiet { span aria-hidden="true" { (tone.sign()) } " " (text) } },
        tone => tag(tone, text),
    }
}

/// How long a certificate lasts, in words; nothing if its member does not say.
pub(crate) fn certificate(end_ms: u64, now_ms: u64) -> Option<(Tone, String)> {
    let left_ms = end_ms.saturating_sub(now_ms);
    let (tone, words) = match left_ms / (24 * 60 * 60 * 1000) {
        _ if end_ms == 0 => return None,
        _ if left_ms == 0 => (Tone::Bad, "has ended".to_owned()),
        0 => (Tone::Warn, "ends in less than a day".to_owned()),
        1 => (Tone::Warn, "ends in 1 day".to_owned()),
        days if days < CERTIFICATE_WARNING_DAYS => (Tone::Warn, format!("ends in {days} days")),
        days => (Tone::Good, format!("ends in {days} days")),
    };
    Some((tone, words))
}

/// A moment in a table.
pub(crate) fn when(unix_ms: u64) -> Markup {
    html! { span.when { (moment(unix_ms)) } }
}

/// A database, with the way to its page.
pub(crate) fn database_link(name: &str) -> Markup {
    html! { a href=(format!("/databases/{}", path_part(name))) { (name) } }
}

/// A member, with the way to its page.
pub(crate) fn member_link(name: &str) -> Markup {
    html! { a href=(format!("/members/{}", path_part(name))) { (name) } }
}

/// The state of a copy, and whether it is the active one.
pub(crate) fn copy_state(row: &CopyStatusRow) -> Markup {
    html! {
        (tag(Tone::of_copy(&row.status), &apart(&row.status)))
        @if row.active { " " span.role { span aria-hidden="true" { "★ " } "active" } }
    }
}

/// Words that are written together, apart: `DisconnectedAndHealthy` needs more room than a column
/// has.
pub(crate) fn apart(text: &str) -> String {
    let mut apart = String::with_capacity(text.len() + 4);
    for (at, letter) in text.char_indices() {
        if at > 0 && letter.is_ascii_uppercase() {
            apart.push(' ');
            apart.push(letter.to_ascii_lowercase());
        } else {
            apart.push(letter);
        }
    }
    apart.replace('_', " ")
}

#[cfg(test)]
mod tests {
    use keelson_types::{ContentIndexState, CopyStatus};

    use super::*;

    #[test]
    fn spans_have_their_two_largest_units() {
        for (seconds, text) in [
            (0, "0 s"),
            (59, "59 s"),
            (60, "1 min"),
            (3_725, "1 h 2 min"),
            (86_400, "1 d"),
            (90_061, "1 d 1 h"),
        ] {
            assert_eq!(span(seconds), text);
        }
        assert_eq!(moment(1_700_000_000_123), "2023-11-14 22:13:20Z");
        assert_eq!((moment(0), percent(1, 0), percent(5, 4)), ("–".into(), 0, 100));
        assert_eq!(apart("DisconnectedAndHealthy"), "Disconnected and healthy");
    }

    #[test]
    fn a_certificate_is_worth_a_warning_in_its_last_two_weeks() {
        const DAY: u64 = 24 * 60 * 60 * 1000;
        let of = |end, now| certificate(end, now).unwrap();
        assert_eq!(certificate(0, 5), None);
        for (end, tone, words) in [
            (5 + 14 * DAY, Tone::Good, "ends in 14 days"),
            (4 + 14 * DAY, Tone::Warn, "ends in 13 days"),
            (5 + DAY, Tone::Warn, "ends in 1 day"),
            (6, Tone::Warn, "ends in less than a day"),
            (5, Tone::Bad, "has ended"),
            (4, Tone::Bad, "has ended"),
        ] {
            assert_eq!(of(end, 5), (tone, words.to_owned()));
        }
    }

    #[test]
    fn every_state_has_a_tone_and_a_sign_that_tells_it_from_others() {
        let of = |status: CopyStatus| Tone::of_copy(&status.to_string());
        let good = CopyStatus::ALL.iter().filter(|status| of(**status) == Tone::Good).count();
        assert_eq!(good, 2, "Mounted and Healthy");
        assert_eq!(of(CopyStatus::FailedAndSuspended), Tone::Bad);
        assert_eq!(of(CopyStatus::ServiceDown), Tone::Bad);
        assert_eq!(Tone::of_index(&ContentIndexState::Unknown.to_string()), Tone::Bad);
        let tones = [Tone::Good, Tone::Busy, Tone::Off, Tone::Warn, Tone::Bad];
        let signs: std::collections::BTreeSet<_> = tones.iter().map(|tone| tone.sign()).collect();
        assert_eq!(signs.len(), tones.len());
        let text = tag(Tone::Bad, "<b>").into_string();
        assert!(text.contains("&lt;b&gt;") && text.contains("✗"), "{text}");
    }
}
