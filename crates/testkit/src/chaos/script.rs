//! Faults that a file names, one on each line: `KIND [VICTIM [OTHER]] [TIME] [SECONDS]`.
//!
//! A victim is a member, or `active`, `passive`, `leader`: who that is when the line's turn comes.
//! OTHER is the other end of what is cut, or where a switchover goes; some other member if none is
//! named. TIME is how long the fault is held, as `700ms` or `40s`; SECONDS is a clock's jump, as
//! `+3600` or `-120`. What follows a `#` is for people.

use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, Error, Result, bail, ensure};

use super::fault::{Fault, Kind};
use super::ground::Place;

/// How long a fault is held whose line does not say it.
const HOLD: Duration = Duration::from_secs(1);
/// How far a clock jumps whose line does not say it.
const JUMP: i64 = 3_600;

/// One line.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Line {
    kind: Kind,
    victim: Option<String>,
    other: Option<String>,
    hold: Duration,
    jump: i64,
}

/// Faults in the order in which they come.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Script(Vec<Line>);

impl Script {
    /// How many faults.
    #[must_use]
    pub fn faults(&self) -> usize {
        self.0.len()
    }

    /// Their kinds.
    pub fn kinds(&self) -> impl Iterator<Item = Kind> + '_ {
        self.0.iter().map(|line| line.kind)
    }

    /// The fault of a line (from 0), on the cluster as it is now.
    ///
    /// # Errors
    /// There is no such line, or no member like that.
    pub(super) fn fault(
        &self,
        line: usize,
        places: &[Place],
        (active, leader): (&str, &str),
    ) -> Result<Fault> {
        let line = self.0.get(line).context("the script has fewer lines")?;
        let names: Vec<_> = places.iter().filter(|p| !p.witness).map(|p| p.name.as_str()).collect();
        let except = |not: &str| names.iter().copied().find(|name| *name != not);
        let named = |wanted: &str| names.iter().copied().find(|name| *name == wanted);
        let victim = match line.victim.as_deref() {
            None | Some("active") => Some(active),
            Some("passive") => except(active),
            Some("leader") => named(leader),
            Some(name) => named(name),
        };
        let victim = victim.with_context(|| format!("no member is {:?}", line.victim))?;
        let other = match line.other.as_deref() {
            None => except(victim),
            Some(named) => places.iter().map(|p| p.name.as_str()).find(|name| *name == named),
        };
        let other = other.with_context(|| format!("no member is {:?}", line.other))?;
        ensure!(other != victim, "{victim} is both ends of it now");
        Ok(Fault::named(line.kind, (victim, other), victim == active, (line.hold, line.jump)))
    }
}

impl FromStr for Script {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let mut lines = Vec::new();
        for (number, line) in text.lines().enumerate() {
            let words = line.split('#').next().unwrap_or_default();
            if !words.trim().is_empty() {
                let parsed = words.parse().with_context(|| format!("line {}", number + 1))?;
                lines.push(parsed);
            }
        }
        ensure!(!lines.is_empty(), "the script names no fault");
        Ok(Self(lines))
    }
}

impl FromStr for Line {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let mut words = text.split_whitespace();
        let kind = words.next().context("no kind of fault")?.parse()?;
        let mut line = Self { kind, victim: None, other: None, hold: HOLD, jump: JUMP };
        for word in words {
            if word.starts_with(['+', '-']) {
                line.jump = word.parse().with_context(|| format!("{word:?} is no jump"))?;
            } else if word.starts_with(|c: char| c.is_ascii_digit()) {
                line.hold = time(word)?;
            } else if line.victim.is_none() {
                line.victim = Some(word.to_owned());
            } else if line.other.is_none() {
                line.other = Some(word.to_owned());
            } else {
                bail!("{word:?} is one word too many");
            }
        }
        Ok(line)
    }
}

/// A time as `700ms` or `40s`.
///
/// # Errors
/// It is written otherwise.
pub fn time(word: &str) -> Result<Duration> {
    let (number, millis) = match (word.strip_suffix("ms"), word.strip_suffix('s')) {
        (Some(number), _) => (number, 1),
        (None, Some(number)) => (number, 1_000),
        (None, None) => bail!("{word:?} is no time: 700ms, 40s"),
    };
    let number: u64 = number.parse().with_context(|| format!("{word:?} is no time: 700ms, 40s"))?;
    Ok(Duration::from_millis(number.saturating_mul(millis)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places() -> Vec<Place> {
        let place =
            |name: &str| Place { name: name.into(), site: "a".into(), witness: name == "w1" };
        ["m1", "m2", "m3", "w1"].map(place).to_vec()
    }

    #[test]
    fn lines_say_what_happens_to_whom_and_for_how_long() {
        let text = "# a start\nkill-member leader 2s\n\ncut active w1 700ms # cut off\n\
                    clock-jump m3 -120\nswitchover\nfull-disk passive";
        let script: Script = text.parse().expect("a script");
        assert_eq!(script.faults(), 5);
        let said = |line| {
            let fault = script.fault(line, &places(), ("m1", "m2")).expect("a fault");
            fault.to_string()
        };
        assert_eq!(said(0), "kill-member m2 (passive) for 2s");
        assert_eq!(said(1), "cut m1 (active) and w1 for 700ms");
        assert_eq!(said(2), "clock-jump m3 (passive) by -120 s for 1s");
        assert_eq!(said(3), "switchover to m2");
        assert_eq!(said(4), "full-disk m2 (passive) for 1s");
        assert!(script.fault(5, &places(), ("m1", "m2")).is_err());
    }

    #[test]
    fn what_is_not_understood_is_named_with_its_line() {
        let check = |text: &str, expected: &str| {
            let error = format!("{:#}", text.parse::<Script>().expect_err("no script"));
            assert!(error.contains(expected), "{error}");
        };
        check("# nothing", "names no fault");
        check("pause\nearthquake m1", "line 2: no fault \"earthquake\"");
        check("pause m1 m2 m3", "one word too many");
        check("pause m1 3h", "no time");
        let script: Script = "pause m9".parse().expect("a script");
        assert!(script.fault(0, &places(), ("m1", "m1")).is_err(), "no such member");
        let script: Script = "cut active m3\npause leader".parse().expect("a script");
        assert!(script.fault(0, &places(), ("m3", "m1")).is_err(), "cut off from itself");
        assert!(script.fault(1, &places(), ("m3", "w1")).is_err(), "a witness has no copy");
    }
}
