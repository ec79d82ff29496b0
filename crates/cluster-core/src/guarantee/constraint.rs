//! The values of the data-guarantee constraint (F110, F111, F113).

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use keelson_types::SiteName;
use serde::{Deserialize, Serialize};

use super::Verdict;

/// Which copies a bulk writer waits for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GuaranteeConstraint {
    /// Nothing; checks are skipped. The default of a new database.
    #[default]
    None,
    /// One passive copy.
    SecondCopy,
    /// One passive copy in another site.
    SecondDatacenter,
    /// The active mounted, and one passive copy in every site that has any.
    AllDatacenters,
    /// The active mounted, and all passive copies.
    AllCopies,
    /// Nothing but the catalog of the active.
    CatalogNoReplication,
    /// One passive copy; it and the active with a current catalog.
    CatalogSecondCopy,
    /// One passive copy in another site; it and the active with a current catalog.
    CatalogSecondDatacenter,
}

impl GuaranteeConstraint {
    /// All values, for help texts and tests.
    pub const ALL: [Self; 8] = [
        Self::None,
        Self::SecondCopy,
        Self::SecondDatacenter,
        Self::AllDatacenters,
        Self::AllCopies,
        Self::CatalogNoReplication,
        Self::CatalogSecondCopy,
        Self::CatalogSecondDatacenter,
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::SecondCopy => "second_copy",
            Self::SecondDatacenter => "second_datacenter",
            Self::AllDatacenters => "all_datacenters",
            Self::AllCopies => "all_copies",
            Self::CatalogNoReplication => "catalog_no_replication",
            Self::CatalogSecondCopy => "catalog_second_copy",
            Self::CatalogSecondDatacenter => "catalog_second_datacenter",
        }
    }

    /// The constraint after a copy was added, when the database has `copies` copies: the second one
    /// turns `none` into `second_copy` (F111). Other values are an operator's and stay.
    #[must_use]
    pub const fn after_copy_added(self, copies: usize) -> Self {
        match self {
            Self::None if copies >= 2 => Self::SecondCopy,
            other => other,
        }
    }

    pub(super) const fn asks_nothing(self) -> bool {
        matches!(self, Self::None)
    }

    pub(super) const fn asks_catalog(self) -> bool {
        matches!(
            self,
            Self::CatalogNoReplication | Self::CatalogSecondCopy | Self::CatalogSecondDatacenter
        )
    }

    pub(super) const fn asks_mounted(self) -> bool {
        matches!(self, Self::AllDatacenters | Self::AllCopies)
    }

    pub(super) const fn asks_other_site(self) -> bool {
        matches!(self, Self::SecondDatacenter | Self::CatalogSecondDatacenter)
    }

    /// Whether the passive copies that count are enough. Without any the database is not
    /// replicated, and every constraint holds.
    pub(super) fn enough(
        self,
        active_site: &SiteName,
        passives: &[Verdict],
        counts: impl Fn(&Verdict) -> bool,
    ) -> bool {
        if passives.is_empty() {
            return true;
        }
        let in_site = |site: &SiteName| passives.iter().any(|p| p.site == *site && counts(p));
        match self {
            Self::None | Self::CatalogNoReplication => true,
            Self::SecondCopy | Self::CatalogSecondCopy => passives.iter().any(counts),
            Self::SecondDatacenter | Self::CatalogSecondDatacenter => {
                passives.iter().any(|p| p.site != *active_site && counts(p))
            }
            Self::AllDatacenters => {
                let sites: BTreeSet<_> = passives.iter().map(|passive| &passive.site).collect();
                sites.into_iter().all(in_site)
            }
            Self::AllCopies => passives.iter().all(counts),
        }
    }
}

impl fmt::Display for GuaranteeConstraint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for GuaranteeConstraint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|constraint| constraint.name() == text);
        found.ok_or_else(|| {
            let names: Vec<_> = Self::ALL.iter().map(|constraint| constraint.name()).collect();
            format!("{text:?} is not a data guarantee; use one of {}", names.join(", "))
        })
    }
}
