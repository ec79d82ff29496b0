//! The command line, and what it means for a run. Pure.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, ValueEnum};

/// Runs the same load against Keelson and its peers, one after the other, and prints ratios.
#[derive(Parser, Clone, Debug)]
#[command(name = "keelson-peers")]
pub(crate) struct Arguments {
    /// A short run that proves that everything works; its figures mean little
    #[arg(long)]
    pub(crate) quick: bool,
    /// Only these, with commas between
    #[arg(long, value_name = "NAME", value_enum, value_delimiter = ',')]
    only: Vec<Kind>,
    /// How often every system is started and measured; medians are shown [default: 3, quick 1]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: Option<u32>,
    /// How long each load is measured [default: 6s, quick 1s]
    #[arg(long)]
    duration: Option<humantime::Duration>,
    /// Directory on the disk that everything uses; PostgreSQL's user must be able to enter it
    /// [default: that for temporary files]
    #[arg(long)]
    pub(crate) dir: Option<PathBuf>,
    /// Write every sample to this file as JSON
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Write the page of settings and results to this file
    #[arg(long, value_name = "FILE")]
    pub(crate) results: Option<PathBuf>,
}

/// A system that is measured.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) enum Kind {
    /// Keelson with default settings, content index included.
    Keelson,
    /// Keelson without content index.
    KeelsonPlain,
    Postgres,
    Etcd,
    Redis,
}

impl Kind {
    pub(crate) const ALL: [Self; 5] =
        [Self::Keelson, Self::KeelsonPlain, Self::Postgres, Self::Etcd, Self::Redis];

    /// As `--only` takes it, and as JSON has it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Keelson => "keelson",
            Self::KeelsonPlain => "keelson-plain",
            Self::Postgres => "postgres",
            Self::Etcd => "etcd",
            Self::Redis => "redis",
        }
    }

    /// For people.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Keelson => "Keelson",
            Self::KeelsonPlain => "Keelson, no index",
            Self::Postgres => "PostgreSQL",
            Self::Etcd => "etcd",
            Self::Redis => "Redis",
        }
    }

    /// Whether it is one of ours, and so no peer.
    pub(crate) fn is_keelson(self) -> bool {
        matches!(self, Self::Keelson | Self::KeelsonPlain)
    }
}

/// How much is measured.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Plan {
    /// How often every system is started and measured.
    pub(crate) rounds: u32,
    /// How long a load runs before it is measured.
    pub(crate) warm_up: Duration,
    /// How long a load is measured.
    pub(crate) duration: Duration,
    /// Records that are there before anything is measured; puts overwrite them.
    pub(crate) keys: u64,
    /// Bytes of a value.
    pub(crate) value_bytes: usize,
    /// Records of an atomic write of several.
    pub(crate) batch: usize,
    /// Bytes of values that a copy misses while it is away.
    pub(crate) catch_up_bytes: u64,
    /// Planned moves of the active role per round.
    pub(crate) switchovers: u32,
    /// Kills of each kind per round.
    pub(crate) kills: u32,
}

impl Arguments {
    /// What is measured, in the order in which it is.
    pub(crate) fn kinds(&self) -> Vec<Kind> {
        let asked = |kind: &Kind| self.only.is_empty() || self.only.contains(kind);
        Kind::ALL.into_iter().filter(asked).collect()
    }

    /// How much is measured.
    pub(crate) fn plan(&self) -> Plan {
        let usual = if self.quick { Plan::quick() } else { Plan::full() };
        Plan {
            rounds: self.rounds.unwrap_or(usual.rounds),
            duration: self.duration.map_or(usual.duration, Into::into),
            ..usual
        }
    }
}

impl Plan {
    fn full() -> Self {
        Self {
            rounds: 3,
            warm_up: Duration::from_secs(1),
            duration: Duration::from_secs(6),
            keys: 100_000,
            value_bytes: 1024,
            batch: 100,
            catch_up_bytes: 256 * 1024 * 1024,
            switchovers: 10,
            kills: 5,
        }
    }

    fn quick() -> Self {
        Self {
            rounds: 1,
            warm_up: Duration::from_millis(200),
            duration: Duration::from_secs(1),
            keys: 5_000,
            catch_up_bytes: 16 * 1024 * 1024,
            switchovers: 2,
            kills: 1,
            ..Self::full()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(words: &[&str]) -> Result<Arguments, clap::Error> {
        Arguments::try_parse_from(std::iter::once(&"keelson-peers").chain(words))
    }

    #[test]
    fn without_arguments_everything_is_measured_in_full() {
        let arguments = parsed(&[]).unwrap();
        assert_eq!(arguments.kinds(), Kind::ALL);
        assert_eq!(arguments.plan(), Plan::full());
    }

    #[test]
    fn systems_are_chosen_by_name_and_keep_their_order() {
        let arguments = parsed(&["--only", "redis,keelson-plain"]).unwrap();
        assert_eq!(arguments.kinds(), [Kind::KeelsonPlain, Kind::Redis]);
        assert!(parsed(&["--only", "mongodb"]).is_err());
    }

    #[test]
    fn names_of_options_and_of_results_are_the_same() {
        for kind in Kind::ALL {
            assert_eq!(parsed(&["--only", kind.name()]).unwrap().kinds(), [kind]);
        }
    }

    #[test]
    fn quick_gives_way_to_what_is_asked_for() {
        let plan = parsed(&["--quick", "--rounds", "2", "--duration", "3s"]).unwrap().plan();
        let expected = Plan { rounds: 2, duration: Duration::from_secs(3), ..Plan::quick() };
        assert_eq!(plan, expected);
        assert!(parsed(&["--rounds", "0"]).is_err());
    }
}
