//! Instants on the command line: a time, an age, or a position in the log.

use std::str::FromStr;
use std::time::Duration;

use keelson_wire::v1::{self, Position};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::text;

/// What was written after `--at`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum At {
    Position(Position),
    /// Unix milliseconds.
    Time(u64),
    /// Milliseconds before now.
    Ago(u64),
}

impl FromStr for At {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(time) = OffsetDateTime::parse(text, &Rfc3339) {
            let millis = u64::try_from(time.unix_timestamp_nanos() / 1_000_000);
            return millis.map(Self::Time).map_err(|_| "a time before 1970".into());
        }
        if let Ok(position) = text::parse_position(text) {
            return Ok(Self::Position(position));
        }
        let age = text.parse::<humantime::Duration>().map_err(
            |_| "neither a time (2026-11-22T14:00:00Z), nor an age (90m), nor a position (3:700)",
        )?;
        u64::try_from(age.as_millis()).map(Self::Ago).map_err(|_| "too long ago".into())
    }
}

impl At {
    /// The instant; an age counts by the clock of the member that has the copy.
    pub(crate) const fn instant(self) -> v1::Instant {
        use v1::instant::Instant as I;
        let instant = match self {
            Self::Position(position) => I::Position(position),
            Self::Time(millis) => I::UnixMillis(millis),
            Self::Ago(millis) => I::AgeMillis(millis),
        };
        v1::Instant { instant: Some(instant) }
    }
}

/// An instant for people.
pub(crate) fn shown(instant: &v1::Instant) -> String {
    match &instant.instant {
        Some(v1::instant::Instant::Position(position)) => text::position(Some(position)),
        Some(v1::instant::Instant::UnixMillis(millis)) => text::time(*millis),
        Some(v1::instant::Instant::AgeMillis(0)) => "the newest instant".into(),
        Some(v1::instant::Instant::AgeMillis(millis)) => {
            format!("{} ago", humantime::format_duration(Duration::from_millis(*millis)))
        }
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instant_is_a_time_an_age_or_a_position() {
        let position = Position { generation: 0x3a, offset: 700 };
        assert_eq!("3a:700".parse(), Ok(At::Position(position)));
        assert_eq!("1970-01-01T00:01:00Z".parse(), Ok(At::Time(60_000)));
        assert_eq!("1970-01-01T01:00:00+01:00".parse(), Ok(At::Time(0)));
        assert_eq!("90m".parse(), Ok(At::Ago(5_400_000)));
        for bad in ["", "yesterday", "3:", ":7", "-5m", "3:-7", "1969-12-31T00:00:00Z"] {
            assert!(bad.parse::<At>().is_err(), "{bad:?}");
        }
        assert_eq!(shown(&At::Position(position).instant()), "3a:700");
        assert_eq!(shown(&At::Ago(5_400_000).instant()), "1h 30m ago");
        assert_eq!(shown(&At::Ago(0).instant()), "the newest instant");
    }
}
