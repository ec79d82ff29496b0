//! Which copy a seed reads from (F54): any healthy one, near ones and passive ones first.

use std::collections::BTreeSet;
use std::fmt;

use keelson_types::{CopyId, MemberId};

/// What consensus says of a copy that could be a source.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Standing {
    /// It may be asked; whether it is healthy it says itself.
    Fit,
    /// Its member is gone.
    Away,
    /// It is suspended, or seeded itself.
    Suspended,
    /// Its store is old on purpose.
    Lagged,
    /// It is about to be removed.
    Leaving,
    /// It needs a seed itself.
    CutOff,
}

impl Standing {
    /// Whether it may be asked.
    #[must_use]
    pub const fn is_fit(self) -> bool {
        matches!(self, Self::Fit)
    }
}

impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Fit => "fit",
            Self::Away => "its member is away",
            Self::Suspended => "it is suspended",
            Self::Lagged => "it lags",
            Self::Leaving => "it is being removed",
            Self::CutOff => "it needs a seed itself",
        })
    }
}

/// A copy that could be a source.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SourceCandidate {
    /// Its member.
    pub member: MemberId,
    /// The copy.
    pub copy: CopyId,
    /// It is the active one.
    pub active: bool,
    /// Its member is in the target's site.
    pub near: bool,
    /// Whether it may be asked.
    pub standing: Standing,
}

/// Who is asked for the log behind the checkpoint: another copy than the one that sends the files,
/// `feeder`, if there is one, so that two disks and links share the work; never one of `excluded`.
#[must_use]
pub fn choose_log_source<'a>(
    only: Option<MemberId>,
    candidates: &'a [SourceCandidate],
    feeder: MemberId,
    excluded: &BTreeSet<MemberId>,
) -> Option<&'a SourceCandidate> {
    let mut others = excluded.clone();
    others.insert(feeder);
    choose_source(only, candidates, &others).or_else(|| choose_source(only, candidates, excluded))
}

/// The source to ask: only `only` if it is named; never one of `excluded`. In the same site before
/// another one, passive before active, so that writers feel it least; ties by member.
#[must_use]
pub fn choose_source<'a>(
    only: Option<MemberId>,
    candidates: &'a [SourceCandidate],
    excluded: &BTreeSet<MemberId>,
) -> Option<&'a SourceCandidate> {
    let fits = |candidate: &&SourceCandidate| {
        candidate.standing.is_fit()
            && !excluded.contains(&candidate.member)
            && only.is_none_or(|only| only == candidate.member)
    };
    let rank = |candidate: &&SourceCandidate| (!candidate.near, candidate.active, candidate.member);
    candidates.iter().filter(fits).min_by_key(rank)
}
