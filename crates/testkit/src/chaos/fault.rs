//! What can happen to a cluster, and how one is drawn.

use std::fmt;
use std::ops::Range;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rand::Rng;
use rand::rngs::StdRng;

use super::ground::Place;
use super::processes::try_volume;

/// How long a fault is held, in milliseconds, unless the options say otherwise.
pub const HOLD_MILLIS: std::ops::Range<u64> = 300..3_000;

/// Seconds that a clock may jump: within the time of certificates, and to before they began.
const JUMPS: [i64; 4] = [-3_600, -120, 3_600, 100 * 24 * 3_600];

macro_rules! kinds {
    ($($(#[$doc:meta])* $kind:ident = $name:literal;)*) => {
        /// A kind of fault.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
        pub enum Kind {
            $($(#[$doc])* $kind,)*
        }

        impl Kind {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$kind,)*];

            fn name(self) -> &'static str {
                match self { $(Self::$kind => $name,)* }
            }
        }
    };
}

kinds! {
    /// kill -9 of the data process alone.
    KillData = "kill-data";
    /// kill -9 of both processes of a member, and a start after a while.
    KillMember = "kill-member";
    /// A hung machine: both processes stopped, then continued.
    Pause = "pause";
    /// Nothing gets from one member to another.
    CutOneWay = "cut-one-way";
    /// Two members do not hear each other.
    Cut = "cut";
    /// A member neither hears nor is heard by the others.
    Isolate = "isolate";
    /// The members of a site hear each other and nobody else.
    SiteCut = "site-cut";
    /// What a member says or hears takes long.
    SlowNetwork = "slow-network";
    /// The volume of the logs fills up, and is emptied.
    FullLog = "full-log";
    /// The only volume of a member is full, its consensus and its log file on it, and is emptied.
    FullDisk = "full-disk";
    /// Every sync of a disk takes long.
    SlowDisk = "slow-disk";
    /// A wall clock is wrong, and right again.
    ClockJump = "clock-jump";
    /// A certificate ends in use, and is replaced.
    CertificateExpiry = "certificate-expiry";
    /// Every member is stopped and started, one after the other.
    RollingRestart = "rolling-restart";
    /// The same, with another version of the program.
    RollingUpgrade = "rolling-upgrade";
    /// No fault: an operator moves the database to another member.
    Switchover = "switchover";
}

impl Kind {
    /// Why this machine lets nobody do it to processes, as far as that can be told beforehand.
    #[must_use]
    pub fn impossible_here(self) -> Option<String> {
        if self != Self::FullDisk {
            return None;
        }
        let tried = tempfile::tempdir().map_err(Into::into).and_then(|dir| try_volume(dir.path()));
        tried.err().map(|error| format!("{error:#}"))
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Kind {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let found = Self::ALL.iter().copied().find(|kind| kind.name() == text);
        let names: Vec<_> = Self::ALL.iter().map(|kind| kind.name()).collect();
        found.with_context(|| format!("no fault {text:?}: {}", names.join(", ")))
    }
}

/// Whom faults hit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Victim {
    /// The active or a passive, as drawn.
    Any,
    /// The active, on a member that does not lead the cluster.
    Active,
    /// The active, on the member that leads the cluster.
    Leader,
}

impl FromStr for Victim {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "any" => Ok(Self::Any),
            "active" => Ok(Self::Active),
            "leader" => Ok(Self::Leader),
            _ => bail!("no victim {text:?}: any, active, leader"),
        }
    }
}

/// One fault, drawn as a whole.
#[derive(Clone, Debug)]
pub(super) struct Fault {
    pub(super) kind: Kind,
    pub(super) victim: String,
    /// The other end of what is cut.
    pub(super) other: String,
    /// The victim was active.
    active: bool,
    pub(super) hold: Duration,
    /// Of a clock, in seconds.
    pub(super) jump: i64,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, victim, other, active, hold, jump } = self;
        let role = if *active { "active" } else { "passive" };
        match kind {
            Kind::RollingRestart | Kind::RollingUpgrade => write!(f, "{kind}"),
            Kind::Switchover => write!(f, "{kind} to {other}"),
            Kind::CutOneWay => write!(f, "{kind} {victim} ({role}) to {other} for {hold:?}"),
            Kind::Cut => write!(f, "{kind} {victim} ({role}) and {other} for {hold:?}"),
            Kind::SiteCut => write!(f, "{kind} of {victim} ({role}) for {hold:?}"),
            Kind::ClockJump => write!(f, "{kind} {victim} ({role}) by {jump} s for {hold:?}"),
            _ => write!(f, "{kind} {victim} ({role}) for {hold:?}"),
        }
    }
}

impl Fault {
    /// One that somebody named: the victim and another member, whether the victim is active, how
    /// long it is held and how far a clock jumps.
    pub(super) fn named(
        kind: Kind,
        (victim, other): (&str, &str),
        active: bool,
        (hold, jump): (Duration, i64),
    ) -> Self {
        let (victim, other) = (victim.to_owned(), other.to_owned());
        Self { kind, victim, other, active, hold, jump }
    }

    /// Every second one hits the active, unless all do.
    pub(super) fn draw(
        kind: Kind,
        places: &[Place],
        active: &str,
        (whom, hold): (Victim, &Range<u64>),
        random: &mut StdRng,
    ) -> Self {
        let names: Vec<_> = places.iter().filter(|p| !p.witness).map(|p| &p.name).collect();
        let passives: Vec<_> = names.iter().filter(|name| **name != active).collect();
        let only_active = whom != Victim::Any || kind == Kind::Switchover;
        let hits_active = random.random_bool(0.5) || only_active;
        let passive = passives[random.random_range(0..passives.len())].to_string();
        let victim = if hits_active { active.to_owned() } else { passive };
        let others: Vec<_> = names.iter().filter(|name| **name != &victim).collect();
        let other = others[random.random_range(0..others.len())].to_string();
        let hold = Duration::from_millis(random.random_range(hold.clone()));
        let jump = JUMPS[random.random_range(0..JUMPS.len())];
        Self { kind, victim, other, active: hits_active, hold, jump }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    fn places() -> Vec<Place> {
        let named = |(name, site): (&str, &str)| Place {
            name: name.into(),
            site: site.into(),
            witness: site == "west",
        };
        let all = [("m1", "north"), ("m2", "north"), ("m3", "south"), ("w1", "west")];
        all.map(named).to_vec()
    }

    #[test]
    fn cuts_part_whom_they_say() {
        let check = |kind, expected: &[(&str, &str)]| {
            let (victim, other) = ("m1".to_owned(), "m3".to_owned());
            let hold = Duration::ZERO;
            let ways = Fault { kind, victim, other, active: true, hold, jump: 0 }.ways(&places());
            let ways: Vec<_> = ways.iter().map(|(one, two)| (one.as_str(), two.as_str())).collect();
            assert_eq!(ways, expected, "{kind}");
        };
        check(Kind::CutOneWay, &[("m1", "m3")]);
        check(Kind::Cut, &[("m1", "m3"), ("m3", "m1")]);
        let all = [("m1", "m2"), ("m2", "m1"), ("m1", "m3"), ("m3", "m1"), ("m1", "w1")];
        check(Kind::Isolate, &[&all[..], &[("w1", "m1")]].concat());
        let north = [("m1", "m3"), ("m3", "m1"), ("m1", "w1"), ("w1", "m1")];
        let too = [("m2", "m3"), ("m3", "m2"), ("m2", "w1"), ("w1", "m2")];
        check(Kind::SiteCut, &[north, too].concat());
    }

    #[test]
    fn a_seed_gives_the_same_faults_and_names_are_read_back() {
        let places = places();
        let drawn = |seed| {
            let mut random = StdRng::seed_from_u64(seed);
            let mut draw = |kind: &Kind| {
                let whom = (Victim::Any, &HOLD_MILLIS);
                Fault::draw(*kind, &places, "m2", whom, &mut random).to_string()
            };
            Kind::ALL.iter().map(&mut draw).collect::<Vec<_>>()
        };
        assert_eq!(drawn(7), drawn(7));
        assert_ne!(drawn(7), drawn(8));
        for kind in Kind::ALL {
            assert_eq!(kind.to_string().parse::<Kind>().unwrap(), *kind);
        }
        assert!("earthquake".parse::<Kind>().is_err());
    }
}
