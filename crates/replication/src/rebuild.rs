//! Damaged stores: a store that rotted is given up durably, by one write of the control file, and
//! an empty one in another directory replays the log. The damaged one stays as evidence until the
//! next store of the copy was read through without a fault, or rots too: one is kept at most.
//!
//! Crash cases: before the write nothing has changed and the damage is found again; after it the
//! new directory is opened, empty or as far as it came. Directories of other copies that lay here
//! are never touched (G4): only what this copy's own record names is removed.

use std::path::PathBuf;
use std::sync::Arc;

use keelson_copy_core::scrub::{StoreRepair, store_repair};
use keelson_env::{KvStore, StoreError, StoreOpener};
use keelson_format::ControlRecord;
use keelson_log::{ControlFile, Log};
use keelson_types::{CopyFault, CopyRole, DatabaseId, Generation, Position, StoreId};

use crate::open::Places;
use crate::shared::CopyShared;
use crate::store_lane::fault_of;

/// Extension of the control record: how far the last store that was given up had come, and which
/// ones are still on the disk.
const CONDEMNED_EXTENSION: u16 = 2;
/// Stores whose directories could not be removed, at most remembered.
const CONDEMNED_MAX: usize = 8;

/// Stores that were given up.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Condemned {
    /// Where the last of them was.
    pub(crate) until: Position,
    /// Those that may still lie on the disk, oldest first.
    pub(crate) stores: Vec<StoreId>,
}

impl Condemned {
    pub(crate) fn read(record: &ControlRecord) -> Self {
        let found = record.extensions.iter().find(|(number, _)| *number == CONDEMNED_EXTENSION);
        let Some((_, bytes)) = found else { return Self::default() };
        let Some((position, stores)) = bytes.split_first_chunk::<16>() else {
            return Self::default();
        };
        let number = |half: &[u8]| half.first_chunk().map_or(0, |b| u64::from_le_bytes(*b));
        Self {
            until: Position {
                generation: Generation(number(position)),
                offset: number(&position[8..]),
            },
            stores: stores.chunks_exact(16).filter_map(StoreId::from_slice).collect(),
        }
    }

    pub(crate) fn put(&self, record: &mut ControlRecord) {
        let mut bytes = self.until.generation.0.to_le_bytes().to_vec();
        bytes.extend_from_slice(&self.until.offset.to_le_bytes());
        self.stores.iter().for_each(|store| bytes.extend_from_slice(&store.into_bytes()));
        put_extension(record, CONDEMNED_EXTENSION, bytes);
    }
}

/// Sets one extension of a control record.
pub(crate) fn put_extension(record: &mut ControlRecord, number: u16, bytes: Vec<u8>) {
    record.extensions.retain(|(found, _)| *found != number);
    record.extensions.push((number, bytes));
    record.extensions.sort();
}

/// Gives the present store up; `until` is how far it had come. The caller writes the record. What
/// was given up before is removed: its evidence is the older one.
pub(crate) fn condemn(
    places: &Places,
    opener: &dyn StoreOpener,
    database: DatabaseId,
    record: &mut ControlRecord,
    until: Position,
) {
    let mut condemned = Condemned::read(record);
    remove(places, opener, database, &mut condemned);
    condemned.until = condemned.until.max(until);
    condemned.stores.push(record.store);
    record.store = StoreId::from_bytes(uuid::Uuid::new_v4().into_bytes());
    condemned.put(record);
}

/// Removes the stores that were given up; those that stay are remembered, within bounds.
pub(crate) fn remove(
    places: &Places,
    opener: &dyn StoreOpener,
    database: DatabaseId,
    condemned: &mut Condemned,
) {
    condemned.stores.retain(|store| {
        let removed = opener.destroy(&places.store(database, *store));
        if let Err(error) = &removed {
            tracing::warn!(%error, %store, "a damaged store cannot be removed");
        }
        removed.is_err()
    });
    let many = condemned.stores.len().saturating_sub(CONDEMNED_MAX - 1);
    condemned.stores.drain(..many);
}

/// How the store may come back: the end before the first frame of the own log decides.
pub(crate) fn repair_of(log: &Log, role: CopyRole, others: usize) -> StoreRepair {
    let first = log.first_generation().and_then(|first| log.header(first));
    store_repair(role, first.map_or(Position::ZERO, |header| header.previous_end), others)
}

/// Opens the copy's store; a damaged one is given up if the log can make it anew, and its text is
/// added to `found`.
pub(crate) fn open_store(
    places: &Places,
    opener: &dyn StoreOpener,
    shared: &CopyShared,
    (control, record): (&mut ControlFile, &mut ControlRecord),
    log: &Log,
    found: &mut Vec<String>,
) -> Result<(Arc<dyn KvStore>, PathBuf), CopyFault> {
    let directory = places.store(shared.database, record.store);
    let why = match shared.store.open(opener, &directory) {
        Ok(store) => return Ok((store, directory)),
        Err(StoreError::Damaged(why)) => why,
        Err(error) => return Err(fault_of(&error)),
    };
    tracing::error!(database = %shared.name, %why, "the store is damaged");
    if repair_of(log, CopyRole::Passive, 0) != StoreRepair::ReplayLog {
        return Err(CopyFault::StoreDamaged(why));
    }
    found.push(why);
    condemn(places, opener, shared.database, record, record.committed);
    let written = control.write(record);
    written.map_err(|error| CopyFault::LogIo(format!("control file: {error}")))?;
    let directory = places.store(shared.database, record.store);
    let store = shared.store.open(opener, &directory).map_err(|error| fault_of(&error))?;
    Ok((store, directory))
}

#[cfg(test)]
mod tests;
