//! Damaged stores: a store that rotted is given up durably, by one write of the control file, and
//! another one in its own directory takes its place. The damaged one stays as evidence until the
//! next store of the copy was read through without a fault, or rots too: one is kept at most.
//!
//! If the log reaches back to the beginning, the new store is empty and replays it. Otherwise
//! (`rescue`) it is made of what is sound of the old one, and a mark beside it names the keys that
//! are to be fetched from another copy, before it takes the place of the old one.
//!
//! A store in use is doubted first: the doubt is written down and the copy opened anew, because
//! files are only taken apart while nobody writes them.
//!
//! Crash cases: before the write nothing has changed and the damage is found again; after it the
//! new directory is opened, empty or as far as it came. A mark without the new store is added to
//! the next one, and speaks of keys too many. Directories of other copies that lay here
//! are never touched (G4): only what this copy's own record names is removed.

mod rescue;

use keelson_copy_core::scrub::{StoreRepair, store_repair};
use keelson_env::StoreOpener;
use keelson_format::ControlRecord;
use keelson_log::Log;
use keelson_types::{CopyRole, DatabaseId, Generation, Position, StoreId};

use crate::open::Places;
pub(crate) use crate::rebuild::rescue::StoreOpening;

/// Extension of the control record: how far the last store that was given up had come, and which
/// ones are still on the disk.
const CONDEMNED_EXTENSION: u16 = 2;
/// Extension of the control record: what is doubted of the store, until it was looked into.
const DOUBT_EXTENSION: u16 = 4;
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

/// What may be wrong with a store.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Doubt {
    /// Bytes of its files: they say which.
    Files,
    /// Anything: its content is not that of the other copies, or nobody knows what is wrong.
    Content,
}

impl Doubt {
    pub(crate) fn read(record: &ControlRecord) -> Option<Self> {
        let found = record.extensions.iter().find(|(number, _)| *number == DOUBT_EXTENSION);
        match found?.1.first() {
            None => None,
            Some(1) => Some(Self::Files),
            Some(_) => Some(Self::Content),
        }
    }

    pub(crate) fn put(doubt: Option<Self>, record: &mut ControlRecord) {
        let byte = doubt.map(|doubt| match doubt {
            Self::Files => 1,
            Self::Content => 2,
        });
        put_extension(record, DOUBT_EXTENSION, byte.into_iter().collect());
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
    record.store = new_store();
    condemned.put(record);
    Doubt::put(None, record);
}

fn new_store() -> StoreId {
    StoreId::from_bytes(uuid::Uuid::new_v4().into_bytes())
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

#[cfg(test)]
mod tests;
