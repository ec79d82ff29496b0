//! Volumes of members, as far as the verdict on a failed copy depends on them (F129-F131).
//!
//! A copy leaves its volume only if its member says that the volume is lost, nothing on it works
//! any more, and another one has room. What is lost keeps what it has.

use std::collections::BTreeMap;

use keelson_types::{CopyId, MemberId, SEED_RESERVE_BYTES, SeedScope, SuspendedBy, VolumeState};
use serde::{Deserialize, Serialize};

use super::{CopySeen, Look, Seen};
use crate::seed::unfit_source;
use crate::state::CopyConfig;

#[cfg(test)]
mod tests;

/// A volume as its member shows it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct VolumeSeen {
    /// Its directory.
    pub path: String,
    /// Its state.
    pub state: VolumeState,
    /// Free space, if it says.
    pub free_bytes: Option<u64>,
    /// Where copies that left it went.
    pub replaced_by: Option<String>,
}

/// Where a copy lies.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct CopyPlace {
    /// The directory of its volume; empty at a member with one.
    pub volume: String,
    /// Bytes of its store.
    pub store_bytes: u64,
}

/// What members said of volumes and of where copies lie.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct SeenPlaces {
    /// Volumes of the members that have several.
    pub volumes: BTreeMap<MemberId, Vec<VolumeSeen>>,
    /// Where the copies lie that were spoken of.
    pub copies: BTreeMap<CopyId, CopyPlace>,
}

/// The volume of a failed copy, and what could take its place.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct OnVolume {
    /// Its directory.
    pub path: String,
    /// Its state.
    pub state: VolumeState,
    /// Copies there to which their databases are bound.
    pub actives: usize,
    /// Copies there that have not failed.
    pub well: usize,
    /// Bytes that the copy needs elsewhere.
    pub bytes: u64,
    /// Volumes that could take it.
    pub spares: usize,
}

impl OnVolume {
    /// Why copies do not leave the volume, although it is lost.
    pub(super) fn stays(&self, member: &str) -> Option<String> {
        let Self { path, state, actives, well, bytes, spares } = self;
        if *actives > 0 {
            return Some(format!(
                "volume {path} is {state}, and {actives} active copies are on it: copies leave it \
                 when they have moved"
            ));
        }
        if *well > 0 {
            return Some(format!(
                "volume {path} is {state}, and {well} copies on it have not failed: copies leave \
                 it when all of them have"
            ));
        }
        (*spares == 0).then(|| {
            format!(
                "volume {path} is {state}, and no spare volume of {member} has room for {bytes} \
                 bytes"
            )
        })
    }
}

impl Look<'_> {
    /// The volume of the copy; nothing at a member with one, or one that is silent.
    pub(super) fn volume(&self, seen: Option<&Seen>) -> Option<OnVolume> {
        let volumes = self.places.volumes.get(&self.config.member)?;
        let path = &self.places.copies.get(&self.copy)?.volume;
        let own = volumes.iter().find(|volume| volume.path == *path)?;
        let there = self.neighbours(path);
        let actives = there.iter().filter(|(_, _, active)| *active).count();
        let well = |id, config: &CopyConfig| {
            let failed = seen.and_then(|seen| seen.get(&id)).is_some_and(CopySeen::is_failed);
            let stopped = config.is_stopped() && config.suspension.by == SuspendedBy::Fault;
            !failed && !stopped && !config.is_remade()
        };
        let well = there.iter().filter(|(id, config, _)| well(*id, config)).count();
        let bytes = self.needed_bytes();
        let takes = |volume: &&VolumeSeen| {
            let heir = own.replaced_by.as_ref() == Some(&volume.path);
            let fit = match volume.state {
                VolumeState::Spare => true,
                state => heir && state == VolumeState::Healthy,
            };
            let wanted = bytes.saturating_add(SEED_RESERVE_BYTES);
            fit && volume.free_bytes.is_some_and(|free| free >= wanted)
        };
        Some(OnVolume {
            path: path.clone(),
            state: own.state,
            actives,
            well,
            bytes,
            spares: volumes.iter().filter(takes).count(),
        })
    }

    /// The copies on a volume of the member, and whether their databases are bound to them.
    fn neighbours(&self, path: &str) -> Vec<(CopyId, &CopyConfig, bool)> {
        let copies = self.state.databases.values().flat_map(|database| {
            let target = database.target;
            database.copies.iter().map(move |(id, config)| (*id, config, target == Some(*id)))
        });
        let there = copies.filter(|(id, config, _)| {
            let place = self.places.copies.get(id);
            config.member == self.config.member && place.is_some_and(|p| p.volume == path)
        });
        there.collect()
    }

    /// The store of the largest source, and a tenth.
    fn needed_bytes(&self) -> u64 {
        let sources = self.database.copies.iter().filter(|(id, other)| {
            **id != self.copy && unfit_source(other, SeedScope::Everything).is_none()
        });
        let bytes = sources.filter_map(|(id, _)| Some(self.places.copies.get(id)?.store_bytes));
        let largest = bytes.max().unwrap_or_default();
        largest.saturating_add(largest / 10)
    }
}
