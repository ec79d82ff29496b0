//! Rare events that the default seeds must have met at least once.

use std::collections::BTreeMap;

macro_rules! probes {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// A rare event.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
        pub enum Probe {
            $($(#[$doc])* $variant,)*
        }

        impl Probe {
            /// All probes.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// Its name in summaries.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }
        }
    };
}

probes! {
    /// A passive cut a fork.
    ForkCut = "fork cut",
    /// A target cut its fork before it fetched.
    TargetCut = "target cut its fork",
    /// A seal was superseded by a higher one.
    SealSuperseded = "seal superseded",
    /// A seal was refused because a higher one was promised.
    SealedHigher = "seal refused, higher promised",
    /// A seal waited for a sync or a cut in flight.
    SealWaited = "seal waited for a sync",
    /// A rule change was proposed.
    RuleProposed = "rule change proposed",
    /// A rule change was refused.
    RuleRefused = "rule change refused",
    /// A rule change was recorded.
    RuleRecorded = "rule change recorded",
    /// A database went on degraded.
    Degraded = "degraded",
    /// An active was held and resumed in its epoch.
    HeldAndResumed = "hold and resume",
    /// An active gave up because its lease was gone too long.
    LeaseGone = "hold ended in a dismount",
    /// A target fetched log.
    Fetched = "log fetched before the mount",
    /// A target asked a second source.
    SecondSource = "second source asked",
    /// A restarted active gave its epoch up.
    RestartGivesUp = "restart gives up",
    /// A mount failed.
    MountFailed = "mount failed",
    /// A log found a torn tail.
    TornTail = "torn tail cut",
    /// A log found damage.
    Damage = "damage found",
    /// A volume was full at a passive.
    DiskFullPassive = "disk full at a passive",
    /// A volume was full at an active.
    DiskFullActive = "disk full at an active",
    /// A log was poisoned by a failed sync.
    Poisoned = "log poisoned",
    /// A leader was deposed and did not know it.
    BlindLeader = "deposed leader unaware",
    /// A death was certified.
    Certified = "death certified",
    /// A proposal had an unknown outcome and was recorded after all.
    LateCommit = "unknown outcome recorded later",
    /// A switchover ended well.
    Switchover = "switchover",
    /// A database went on with loss by the word of an operator.
    LossAccepted = "loss accepted",
    /// An instant was made the truth by the word of an operator.
    TurnedBack = "turned back to an instant",
    /// A database was closed by an operator.
    Dismounted = "dismounted by an operator",
    /// A bit flipped in a log.
    BitFlipped = "bit flipped",
    /// Rot was mended while the log went on.
    Mended = "rot mended",
    /// A log that was opened with damage was mended.
    MendedAtOpen = "rot mended at an open",
    /// A disk was replaced by an empty one.
    DiskLost = "disk lost",
    /// A copy was seeded anew.
    Reseeded = "copy replaced",
    /// An offer was refused for the time being.
    OfferBusy = "offer came too early",
    /// An operator suspended a copy.
    Suspended = "copy suspended",
    /// A copy got a replay lag.
    Lagged = "copy lags",
    /// A copy opened its store anew to be rid of a fork.
    StoreReopened = "store reopened at its checkpoint",
    /// A copy fetched what a fork touched.
    Resynced = "fork resynced",
    /// A store rotted.
    StoreRotted = "store rotted",
    /// A store was made of what was sound of a rotten one.
    Rescued = "store rescued",
    /// Fetched keys are trusted.
    Trusted = "fetched keys trusted",
    /// Log went.
    Truncated = "log truncated",
    /// An active removed log that a copy needed.
    ExpandedOnActive = "expanded truncation at an active",
    /// A passive removed log before it was told.
    ExpandedOnPassive = "expanded truncation at a passive",
    /// A copy was recorded as cut off.
    CutOff = "copy cut off",
    /// A mark was taken from a copy that came back in time.
    CameBack = "cut off copy came back",
    /// A copy came back and missed log.
    LogGone = "copy misses log",
    /// A copy was made of another one's files.
    Seeded = "copy seeded",
    /// One that got log behind the checkpoint, too.
    SeededWithLogBehind = "copy seeded with log behind its checkpoint",
    /// A generation without a frame was found behind the end.
    EmptyGeneration = "generation without a frame",
}

/// How often each probe fired.
#[derive(Clone, Default, Debug)]
pub struct Probes {
    counts: BTreeMap<Probe, u64>,
}

impl Probes {
    /// It happened.
    pub fn fire(&mut self, probe: Probe) {
        *self.counts.entry(probe).or_default() += 1;
    }

    /// How often it happened.
    #[must_use]
    pub fn count(&self, probe: Probe) -> u64 {
        self.counts.get(&probe).copied().unwrap_or(0)
    }

    /// Adds another run's counts.
    pub fn add(&mut self, other: &Self) {
        for (probe, count) in &other.counts {
            *self.counts.entry(*probe).or_default() += count;
        }
    }

    /// Those that never fired, except the one that only a scripted history meets reliably.
    #[must_use]
    pub fn silent(&self) -> Vec<&'static str> {
        let scripted = |probe: &&Probe| **probe == Probe::TargetCut;
        let silent = Probe::ALL.iter().filter(|probe| !scripted(probe) && self.count(**probe) == 0);
        silent.map(|probe| probe.name()).collect()
    }
}
