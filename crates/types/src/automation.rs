//! What the system may do by itself with one database: the switches beside those of the cluster.
//!
//! Only what was switched off is kept, so a database of an older version has everything on, and so
//! has every automation that a newer version brings.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};

/// Something that is done with a database by itself. The automatic reseed has a switch of its own,
/// which is older.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Automation {
    /// Lags are played down when space, damage or too few copies ask for it (F90-F92).
    PlayDown,
    /// Log goes although a copy needs it when a volume runs short (F104).
    ExpandedTruncation,
    /// From time to time the database goes back to the copy that it prefers (F123).
    PreferenceMoves,
    /// It takes part when databases are spread over members and sites (F118, F119).
    Redistribution,
}

impl Automation {
    /// All of them.
    pub const ALL: [Self; 4] =
        [Self::PlayDown, Self::ExpandedTruncation, Self::PreferenceMoves, Self::Redistribution];

    /// Its stable name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::PlayDown => "play_down",
            Self::ExpandedTruncation => "expanded_truncation",
            Self::PreferenceMoves => "preference_moves",
            Self::Redistribution => "redistribution",
        }
    }
}

impl fmt::Display for Automation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// The switches of one database; everything is on unless it was switched off. What is on still
/// needs the cluster's setting.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Automations {
    off: BTreeSet<Automation>,
}

impl Automations {
    /// Whether it may be done with the database.
    #[must_use]
    pub fn is_on(&self, automation: Automation) -> bool {
        !self.off.contains(&automation)
    }

    /// Whether nothing was switched off.
    #[must_use]
    pub fn all_on(&self) -> bool {
        self.off.is_empty()
    }

    /// The same with this one on or off.
    #[must_use]
    pub fn with(mut self, automation: Automation, on: bool) -> Self {
        match on {
            true => self.off.remove(&automation),
            false => self.off.insert(automation),
        };
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_on_until_it_is_switched_off() {
        let fresh = Automations::default();
        assert!(fresh.all_on() && Automation::ALL.iter().all(|one| fresh.is_on(*one)));
        for one in Automation::ALL {
            let off = fresh.clone().with(one, false);
            let rest = Automation::ALL.iter().filter(|other| off.is_on(**other));
            assert!(!off.is_on(one) && !off.all_on() && rest.count() == 3);
            assert_eq!(off.with(one, true), fresh);
        }
    }
}
