//! Settings of the cluster as a whole: one table of names, kinds, bounds, defaults and help.
//!
//! Every value is a whole number; its kind says what it counts. Only changed values are stored, by
//! name, so that a default of a newer version takes effect and a name of a newer version is kept
//! unread. A new setting is one row of the table; nothing else has to know of it but its user.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{RefusalReason, Refused};

const MIB: u64 = 1024 * 1024;
const PIB: u64 = MIB * MIB * 1024;
const SECOND: u64 = 1_000;
const HOUR: u64 = 3_600 * SECOND;
const DAY: u64 = 24 * HOUR;

/// What the number of a setting counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SettingKind {
    /// 1 is on, 0 is off.
    Switch,
    /// Pieces.
    Count,
    /// Bytes.
    Bytes,
    /// Milliseconds.
    Millis,
}

impl fmt::Display for SettingKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Switch => "switch",
            Self::Count => "count",
            Self::Bytes => "bytes",
            Self::Millis => "millis",
        })
    }
}

/// One row of the table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SettingInfo {
    /// Stable.
    pub name: &'static str,
    /// What the number counts.
    pub kind: SettingKind,
    /// Lowest value.
    pub min: u64,
    /// Highest value.
    pub max: u64,
    /// The value unless it is set; nothing where the user of the setting has several.
    pub default: Option<u64>,
    /// For people.
    pub help: &'static str,
}

macro_rules! settings {
    ($($(#[$doc:meta])* $variant:ident = $name:literal, $kind:ident($min:expr, $max:expr),
        $default:expr, $help:literal;)*) => {
        /// The settings.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
        pub enum Setting {
            $($(#[$doc])* $variant,)*
        }

        impl Setting {
            /// All of them, in the order of the list.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// Its row of the table.
            #[must_use]
            pub const fn info(self) -> SettingInfo {
                match self {
                    $(Self::$variant => SettingInfo {
                        name: $name,
                        kind: SettingKind::$kind,
                        min: $min,
                        max: $max,
                        default: $default,
                        help: $help,
                    },)*
                }
            }
        }
    };
}

settings! {
    /// Whether lags are played down at all (F92).
    PlayDown = "play_down", Switch(0, 1), Some(1),
        "replay the log of lagged copies early when space, damage or too few copies ask for it";
    /// Fewer available copies than this are too few (F92).
    PlayDownCopies = "play_down_copies", Count(0, 16), Some(3),
        "fewer healthy copies without lag than this are too few; 0: never";
    /// How long they must be too few (F92).
    PlayDownCopiesFor = "play_down_copies_for", Millis(0, 14 * DAY), Some(DAY),
        "how long copies must be too few before lags are played down";
    /// Free space below this plays a lag down (F90).
    PlayDownLowSpace = "play_down_low_space", Bytes(0, PIB), Some(10_000 * MIB),
        "free space of a volume below which lagged copies on it are played down; 0: never";
    /// Read latency above this defers a play-down (F97).
    PlayDownDeferAbove = "play_down_defer_above", Millis(1, 60 * SECOND), Some(35),
        "mean latency of disk reads above which a play-down waits";
    /// Read latency below this lets it go on (F97).
    PlayDownResumeBelow = "play_down_resume_below", Millis(1, 60 * SECOND), Some(25),
        "mean latency of disk reads below which a waiting play-down goes on";
    /// How often members look at their volumes and lagged copies.
    SpaceCheckPeriod = "space_check_period", Millis(SECOND, HOUR), Some(60 * SECOND),
        "how often a member looks at its free space and its lagged copies";
    /// Pause between two looks at a volume with failed copies (F131).
    VolumeProbePause = "volume_probe_pause", Millis(SECOND, HOUR), Some(60 * SECOND),
        "pause between two tests of a volume on which a copy failed; two that fail in a row make \
         it a failed volume";
    /// Passive copies that expanded truncation protects; 0 = off (F104).
    ExpandedCopies = "expanded_truncation_copies", Count(0, 16), Some(0),
        "passive copies that keep their log when space is short; 0: expanded truncation is off";
    /// Free space below which it begins (F104).
    ExpandedLowSpace = "expanded_truncation_low_space", Bytes(0, PIB), Some(204_800 * MIB),
        "free space of a log volume below which expanded truncation begins";
    /// Logs of 1 MiB that it keeps (F104).
    ExpandedLogs = "expanded_truncation_logs", Count(0, 1_000_000_000), None,
        "logs of 1 MiB that it keeps; unset: 10,000 on the active and 100,000 on a passive";
    /// How often each copy is read through.
    ScrubPeriod = "scrub_period", Millis(SECOND, 365 * DAY), Some(7 * DAY),
        "how often each copy is read through and compared with the others";
    /// How fast it is read.
    ScrubRate = "scrub_rate", Bytes(64 * 1024, MIB * MIB), Some(32 * MIB),
        "bytes that a member reads per second while it reads a copy through";
    /// Time to full below which the forecast of a volume is an event.
    SpaceAlert = "space_alert", Millis(0, 14 * DAY), Some(DAY),
        "a volume forecast to be full within this time is told as an event; 0: never";
    /// Automatic moves of one database that are too many for another one by an operator (F35).
    MoveSuppressionMoves = "move_suppression_moves", Count(0, 1_000), Some(5),
        "failovers of a database within the window after which a switchover is refused; 0: never";
    /// The window of move suppression.
    MoveSuppressionWindow = "move_suppression_window", Millis(SECOND, DAY), Some(600 * SECOND),
        "how far back failovers of a database count for move_suppression_moves";
    /// Moves of one database by death certificates that are too many for another one (design §6).
    CertificateMoves = "certificate_moves", Count(0, 1_000), Some(2),
        "moves of a database by death certificates within the window after which it waits for its \
         process; 0: never";
    /// The window of these.
    CertificateWindow = "certificate_window", Millis(SECOND, DAY), Some(300 * SECOND),
        "how far back moves of a database by death certificates count for certificate_moves";
    /// How long such a database waits.
    CertificatePatience = "certificate_patience", Millis(0, 600 * SECOND), Some(10 * SECOND),
        "how long a database that certificates moved too often waits for the process that died";
    /// How long the target of a switchover may take to open the database (F35).
    SwitchoverBudget = "switchover_budget", Millis(100, 10 * SECOND), Some(10 * SECOND),
        "how long the target of a switchover may take to serve before the move is undone";
    /// Whether a member that stops in order gives its databases away first (F17).
    MoveAtStop = "move_at_stop", Switch(0, 1), Some(1),
        "a member that stops in order moves its active databases away first";
    /// How often databases go back to the copy that they prefer (F123); 0 = never.
    PreferenceMovePeriod = "preference_move_period", Millis(0, 14 * DAY), Some(HOUR),
        "how often databases are moved to their most preferred copy, without loss; 0: never";
    /// How often the leader looks whether every database has enough copies (F134).
    RedundancyCheckPeriod = "redundancy_check_period", Millis(SECOND, DAY), Some(60 * SECOND),
        "how often the leader looks at the redundancy of every database";
    /// How long a database may lack a copy before it is an event (F134).
    RedundancyAlertAfter = "redundancy_alert_after", Millis(0, DAY), Some(1_200 * SECOND),
        "how long a database may have one copy only before that is told as an event";
    /// The log of a copy makes no progress for so long: told as slow (F13).
    SlowIoAfter = "slow_io_after", Millis(100, HOUR), Some(5 * SECOND),
        "a log write or sync that takes longer is told as slow_io";
    /// The log of an active copy makes no progress for so long: the database is moved (F13).
    HungIoAfter = "hung_io_after", Millis(0, DAY), Some(30 * SECOND),
        "an active copy whose log write or sync takes longer is left for another one; 0: never";
    /// The data address of an active's member is cut off for so long: the database is moved (F13).
    DataNetworkAfter = "data_network_after", Millis(0, DAY), Some(3 * SECOND),
        "a member whose data process reaches no other one, and is reached by none, for longer is \
         left by its databases as far as nothing can be lost; 0: never";
    /// Whether a cold start waits for every member (F16): a site that returns alone serves nothing.
    ColdStartWaitsForAll = "cold_start_waits_for_all", Switch(0, 1), Some(0),
        "after a start of the whole cluster nothing is mounted before every member that ran is \
         back, or is stopped or under maintenance; on wherever a site may be restored by force";
    /// Whether copies that stay failed are resumed and seeded by themselves (F128).
    Autoreseed = "autoreseed", Switch(0, 1), Some(1),
        "copies that stay failed are resumed, then seeded in place or on a spare volume, by \
         themselves";
    /// How often the leader looks for them.
    AutoreseedCheckPeriod = "autoreseed_check_period", Millis(SECOND, DAY), Some(60 * SECOND),
        "how often the leader looks for copies that stay failed";
    /// How long a copy is failed before it is suspended as one that does not heal (F129).
    AutoreseedFailedAfter = "autoreseed_failed_after", Millis(0, 14 * DAY), Some(600 * SECOND),
        "a copy that is failed for so long is suspended as one that does not heal";
    /// How long it is suspended for that before anything is tried (F129).
    AutoreseedAfter = "autoreseed_after", Millis(0, 14 * DAY), Some(900 * SECOND),
        "a copy suspended for its failure for so long is resumed by itself";
    /// Pause between two resumes (F129).
    AutoreseedResumePause = "autoreseed_resume_pause", Millis(0, DAY), Some(300 * SECOND),
        "pause between two automatic resumes of a failed copy, and before its first seed";
    /// Pause between two seeds (F129).
    AutoreseedSeedPause = "autoreseed_seed_pause", Millis(0, 14 * DAY), Some(HOUR),
        "pause between two automatic seeds of a failed copy";
    /// How long a copy with which everything was tried waits until it begins again (F129).
    AutoreseedResetAfter = "autoreseed_reset_after", Millis(0, 14 * DAY), Some(3 * DAY),
        "a failed copy with which everything was tried begins again after this time";
    /// More failed copies on one member are a fault of the server (F130); 0 = no limit.
    AutoreseedCopiesMax = "autoreseed_copies_max", Count(0, 100_000), Some(8),
        "with more failed copies than this on a member none is seeded by itself; 0: no limit";
    /// How long the last holder of a discarded timeline keeps it (S13).
    DiscardedRetention = "discarded_retention", Millis(0, 365 * DAY), Some(7 * DAY),
        "how long at least one copy keeps a timeline that an activation at an instant discarded";
    /// How long salvage is kept whatever is asked (S13).
    SalvageRetention = "salvage_retention", Millis(0, 365 * DAY), Some(7 * DAY),
        "how long log that was cut off a copy is kept before an ordinary delete takes it";
    /// Bytes of files that a source sends to one target in a second at most; 0 = as many as it can.
    /// The log beside them is no more than the writers make.
    SeedRateMax = "seed_rate_max", Bytes(0, PIB), Some(0),
        "bytes per second of files that one seed sends at most, throttled or not; its log comes \
         as it is written; 0: no bound";
}

impl Setting {
    /// The setting of that name.
    ///
    /// # Errors
    /// `unknown_setting`.
    pub fn named(name: &str) -> Result<Self, Refused> {
        let found = Self::ALL.iter().copied().find(|setting| setting.info().name == name);
        found.ok_or_else(|| {
            Refused::new(RefusalReason::UnknownSetting, format!("there is no setting {name:?}"))
        })
    }
}

/// The settings of a cluster: what was changed, and the defaults behind it.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ClusterSettings {
    changed: BTreeMap<String, u64>,
}

impl ClusterSettings {
    /// Settings as another process sent them, which has checked them.
    #[must_use]
    pub const fn from_changed(changed: BTreeMap<String, u64>) -> Self {
        Self { changed }
    }

    /// What was changed, by name.
    #[must_use]
    pub const fn changed(&self) -> &BTreeMap<String, u64> {
        &self.changed
    }

    /// The value in force; nothing for one without a default that is not set.
    #[must_use]
    pub fn get(&self, setting: Setting) -> Option<u64> {
        let info = setting.info();
        self.changed.get(info.name).copied().or(info.default)
    }

    /// The value of a setting that has a default; 0 for one that has none.
    #[must_use]
    pub fn number(&self, setting: Setting) -> u64 {
        self.get(setting).unwrap_or(0)
    }

    /// Whether a switch is on.
    #[must_use]
    pub fn is_on(&self, setting: Setting) -> bool {
        self.number(setting) != 0
    }

    /// The value of a setting in milliseconds.
    #[must_use]
    pub fn span(&self, setting: Setting) -> Duration {
        Duration::from_millis(self.number(setting))
    }

    /// Whether it is set, perhaps to its default.
    #[must_use]
    pub fn is_changed(&self, setting: Setting) -> bool {
        self.changed.contains_key(setting.info().name)
    }

    /// The settings with this value, or with the default again.
    ///
    /// # Errors
    /// `bad_argument` for a value out of its bounds, or one that contradicts another setting.
    pub fn with(&self, setting: Setting, value: Option<u64>) -> Result<Self, Refused> {
        let SettingInfo { name, min, max, .. } = setting.info();
        let mut changed = self.clone();
        match value {
            Some(value) if !(min..=max).contains(&value) => {
                let text = format!("{name} is {min} to {max}, not {value}");
                return Err(Refused::bad_argument(text));
            }
            Some(value) => drop(changed.changed.insert(name.to_owned(), value)),
            None => drop(changed.changed.remove(name)),
        }
        changed.agree()?;
        Ok(changed)
    }

    /// Settings that only make sense together.
    fn agree(&self) -> Result<(), Refused> {
        let (resume, defer) = (Setting::PlayDownResumeBelow, Setting::PlayDownDeferAbove);
        if self.number(resume) <= self.number(defer) {
            return Ok(());
        }
        Err(Refused::bad_argument(format!(
            "{} of {} ms is above {} of {} ms",
            resume.info().name,
            self.number(resume),
            defer.info().name,
            self.number(defer)
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn the_table_is_consistent() {
        let names: BTreeSet<_> = Setting::ALL.iter().map(|s| s.info().name).collect();
        assert_eq!(names.len(), Setting::ALL.len());
        for setting in Setting::ALL {
            let info = setting.info();
            assert!(info.min < info.max, "{}", info.name);
            assert!(info.default.is_none_or(|value| (info.min..=info.max).contains(&value)));
            assert_eq!(Setting::named(info.name), Ok(*setting));
        }
    }

    /// F92, F104: the model's figures are the defaults; the expanded truncation is off.
    #[test]
    fn defaults_hold_until_a_value_is_set_and_after_it_is_reset() {
        let settings = ClusterSettings::default();
        assert_eq!(settings.number(Setting::PlayDownCopies), 3);
        assert_eq!(settings.span(Setting::PlayDownCopiesFor), Duration::from_hours(24));
        assert_eq!(settings.number(Setting::ExpandedCopies), 0);
        assert_eq!(settings.number(Setting::ExpandedLowSpace), 200 * 1024 * MIB);
        assert_eq!(settings.get(Setting::ExpandedLogs), None);
        let set = settings.with(Setting::PlayDown, Some(0)).unwrap();
        assert!(!set.is_on(Setting::PlayDown) && set.is_changed(Setting::PlayDown));
        assert_eq!(set.with(Setting::PlayDown, None), Ok(settings));
    }

    #[test]
    fn bad_values_are_refused_with_codes() {
        let settings = ClusterSettings::default();
        let unknown = Setting::named("colour").unwrap_err();
        assert_eq!(unknown.reason, RefusalReason::UnknownSetting);
        for (setting, value) in [
            (Setting::PlayDown, 2),
            (Setting::PlayDownCopiesFor, 14 * DAY + 1),
            (Setting::SpaceCheckPeriod, 0),
            (Setting::ScrubPeriod, 999),
            (Setting::ScrubRate, 0),
            (Setting::PlayDownResumeBelow, 36),
        ] {
            let refused = settings.with(setting, Some(value)).unwrap_err();
            assert_eq!(refused.reason, RefusalReason::BadArgument, "{setting:?} = {value}");
        }
        let lower = settings.with(Setting::PlayDownResumeBelow, Some(5)).unwrap();
        assert!(lower.with(Setting::PlayDownDeferAbove, Some(4)).is_err());
    }

    /// Names of a newer version survive a change by this one.
    #[test]
    fn unknown_names_are_kept() {
        let newer = BTreeMap::from([("of_a_newer_version".to_owned(), 7)]);
        let set = ClusterSettings::from_changed(newer).with(Setting::PlayDown, Some(1)).unwrap();
        assert_eq!(set.changed().get("of_a_newer_version"), Some(&7));
    }
}
