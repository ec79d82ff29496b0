//! The members and databases of the replicated state, with what is worked out of them once.
//!
//! Who decides about ten thousand databases must not look at all of them with each event. So the
//! collections know which entries changed since a revision, which databases are active on which
//! member, and which are not simply served. All of it follows from the entries alone: it is neither
//! written nor compared, and is made anew when a state is read.
//!
//! Invariant: an index that is up to date equals what [`Index::of`] makes of the entries. Every
//! mutable access marks its entry; [`Databases::settle`] ends each command. Until then readers work
//! it out from the entries, so that no answer is ever out of date.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Deref;

use keelson_types::{DatabaseId, DatabaseName, DatabaseState, MemberId, MountIntent};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::member::Member;
use crate::state::Database;

/// All databases by id. Reads like the map that it holds.
#[derive(Clone, Debug, Default)]
pub struct Databases {
    all: BTreeMap<DatabaseId, Database>,
    changes: Changes,
    index: Index,
    /// Entries that may have changed since they were indexed.
    stale: BTreeSet<DatabaseId>,
}

/// Which entries changed, newest last.
#[derive(Clone, Debug, Default)]
struct Changes {
    revision: u64,
    order: BTreeMap<u64, DatabaseId>,
    of: BTreeMap<DatabaseId, u64>,
}

impl Changes {
    fn note(&mut self, id: DatabaseId) {
        self.revision += 1;
        if let Some(before) = self.of.insert(id, self.revision) {
            self.order.remove(&before);
        }
        self.order.insert(self.revision, id);
    }
}

/// What is worked out of all databases together.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct Index {
    facts: BTreeMap<DatabaseId, Facts>,
    names: BTreeMap<DatabaseName, DatabaseId>,
    targets: BTreeMap<MemberId, BTreeSet<DatabaseId>>,
    actives: BTreeMap<MemberId, u32>,
    unsettled: BTreeSet<DatabaseId>,
}

/// What the index says of one database.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Facts {
    name: DatabaseName,
    target: Option<MemberId>,
    open: bool,
    settled: bool,
}

impl Facts {
    fn of(database: &Database) -> Self {
        Self {
            name: database.name.clone(),
            target: database.target_member(),
            open: database.intent == MountIntent::Mounted,
            settled: is_settled(database),
        }
    }
}

/// Wanted open and served, as far as the state tells; or wanted closed and given to nobody.
fn is_settled(database: &Database) -> bool {
    match database.intent {
        MountIntent::Mounted => database.state == DatabaseState::Established,
        MountIntent::Dismounted => database.target.is_none(),
    }
}

impl Index {
    /// The plain computation.
    fn of(all: &BTreeMap<DatabaseId, Database>) -> Self {
        let mut index = Self::default();
        for (id, database) in all {
            index.add(*id, Facts::of(database));
        }
        index
    }

    fn add(&mut self, id: DatabaseId, facts: Facts) {
        self.names.insert(facts.name.clone(), id);
        if let Some(member) = facts.target {
            self.targets.entry(member).or_default().insert(id);
        }
        if let Some(member) = facts.target.filter(|_| facts.open) {
            *self.actives.entry(member).or_default() += 1;
        }
        if !facts.settled {
            self.unsettled.insert(id);
        }
        self.facts.insert(id, facts);
    }

    fn remove(&mut self, id: DatabaseId) {
        let Some(facts) = self.facts.remove(&id) else { return };
        if self.names.get(&facts.name) == Some(&id) {
            self.names.remove(&facts.name);
        }
        if let Some(member) = facts.target {
            if let Some(there) = self.targets.get_mut(&member) {
                there.remove(&id);
            }
            self.targets.retain(|_, there| !there.is_empty());
        }
        if let Some(member) = facts.target.filter(|_| facts.open) {
            if let Some(count) = self.actives.get_mut(&member) {
                *count -= 1;
            }
            self.actives.retain(|_, count| *count > 0);
        }
        self.unsettled.remove(&id);
    }
}

impl Databases {
    /// One database, to be changed.
    pub fn get_mut(&mut self, id: &DatabaseId) -> Option<&mut Database> {
        let database = self.all.get_mut(id)?;
        self.stale.insert(*id);
        self.changes.note(*id);
        Some(database)
    }

    /// Adds a database, or replaces it.
    pub(crate) fn insert(&mut self, id: DatabaseId, database: Database) {
        self.all.insert(id, database);
        self.stale.insert(id);
        self.changes.note(id);
    }

    /// Forgets a database.
    pub(crate) fn remove(&mut self, id: &DatabaseId) {
        if self.all.remove(id).is_some() {
            self.stale.insert(*id);
            self.changes.note(*id);
        }
    }

    /// Brings the index up to date.
    pub(crate) fn settle(&mut self) {
        while let Some(id) = self.stale.pop_first() {
            let facts = self.all.get(&id).map(Facts::of);
            if self.index.facts.get(&id) != facts.as_ref() {
                self.index.remove(id);
                facts.into_iter().for_each(|facts| self.index.add(id, facts));
            }
        }
    }

    fn index(&self) -> Cow<'_, Index> {
        match self.stale.is_empty() {
            true => Cow::Borrowed(&self.index),
            false => Cow::Owned(Index::of(&self.all)),
        }
    }

    /// Rises with every change.
    #[must_use]
    pub const fn revision(&self) -> u64 {
        self.changes.revision
    }

    /// Databases that changed after `revision`, those that are gone included; in no useful order.
    pub fn changed_since(&self, revision: u64) -> impl Iterator<Item = DatabaseId> + '_ {
        self.changes.order.range(revision.saturating_add(1)..).map(|(_, id)| *id)
    }

    /// Databases whose bound target is on a member, open or not.
    pub(crate) fn targets_on(&self, member: MemberId) -> BTreeSet<DatabaseId> {
        self.index().targets.get(&member).cloned().unwrap_or_default()
    }

    /// Databases that are not simply served or closed.
    pub(crate) fn unsettled(&self) -> BTreeSet<DatabaseId> {
        self.index().unsettled.clone()
    }

    /// How many open databases each member is the bound target of.
    pub(crate) fn active_counts(&self) -> BTreeMap<MemberId, u32> {
        self.index().actives.clone()
    }

    /// The database of that name.
    pub(crate) fn named(&self, name: &DatabaseName) -> Option<&Database> {
        self.index().names.get(name).and_then(|id| self.all.get(id))
    }
}

impl Deref for Databases {
    type Target = BTreeMap<DatabaseId, Database>;

    fn deref(&self) -> &Self::Target {
        &self.all
    }
}

impl<'a> IntoIterator for &'a Databases {
    type Item = (&'a DatabaseId, &'a Database);
    type IntoIter = std::collections::btree_map::Iter<'a, DatabaseId, Database>;

    fn into_iter(self) -> Self::IntoIter {
        self.all.iter()
    }
}

/// Equal entries; how they came to be is no part of it.
impl PartialEq for Databases {
    fn eq(&self, other: &Self) -> bool {
        self.all == other.all
    }
}

impl Eq for Databases {}

impl From<BTreeMap<DatabaseId, Database>> for Databases {
    fn from(all: BTreeMap<DatabaseId, Database>) -> Self {
        let mut changes = Changes::default();
        all.keys().for_each(|id| changes.note(*id));
        Self { index: Index::of(&all), all, changes, stale: BTreeSet::new() }
    }
}

impl Serialize for Databases {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.all.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Databases {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        BTreeMap::deserialize(deserializer).map(|all: BTreeMap<_, _>| all.into())
    }
}

/// All members by id. Reads like the map that it holds.
#[derive(Clone, Debug, Default)]
pub struct Members {
    all: BTreeMap<MemberId, Member>,
    revision: u64,
}

impl Members {
    /// One member, to be changed.
    pub fn get_mut(&mut self, id: &MemberId) -> Option<&mut Member> {
        self.revision += 1;
        self.all.get_mut(id)
    }

    /// Adds a member.
    pub(crate) fn insert(&mut self, id: MemberId, member: Member) {
        self.revision += 1;
        self.all.insert(id, member);
    }

    /// Forgets a member.
    pub(crate) fn remove(&mut self, id: &MemberId) {
        self.revision += 1;
        self.all.remove(id);
    }

    /// Notes that the pairs which a member serves changed. This happens with every activation and
    /// is for leases alone, so it is no change of the member.
    pub(crate) fn set_assignment_revision(&mut self, id: MemberId, index: u64) {
        if let Some(member) = self.all.get_mut(&id) {
            member.assignment_revision = index;
        }
    }

    /// Rises with every change.
    #[must_use]
    pub(crate) const fn revision(&self) -> u64 {
        self.revision
    }
}

impl Deref for Members {
    type Target = BTreeMap<MemberId, Member>;

    fn deref(&self) -> &Self::Target {
        &self.all
    }
}

impl<'a> IntoIterator for &'a Members {
    type Item = (&'a MemberId, &'a Member);
    type IntoIter = std::collections::btree_map::Iter<'a, MemberId, Member>;

    fn into_iter(self) -> Self::IntoIter {
        self.all.iter()
    }
}

/// Equal entries; how they came to be is no part of it.
impl PartialEq for Members {
    fn eq(&self, other: &Self) -> bool {
        self.all == other.all
    }
}

impl Eq for Members {}

impl Serialize for Members {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.all.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        BTreeMap::deserialize(deserializer).map(|all| Self { all, revision: 0 })
    }
}

#[cfg(test)]
mod tests;
