//! The content index of each copy: fed from the copy's own log behind its replay.
//!
//! The log is the queue: an index knows the log end that it reflects, and is brought from there to
//! what was replayed by reading the log again, or, where the log is gone, by crawling the store. So
//! it delays no write, keeps no log and needs no memory while it is behind; `backlog_bytes` tells
//! by how much it is. What is to be done decides `copy_core::catalog`.
//!
//! Two threads of low priority for the whole process; writers are opened for a piece of work and
//! closed behind it. A copy is looked at when it replayed something, half a second later, so that
//! one commit takes along much, and then rests (`rest_after`); idle copies are not looked at.
//!
//! The directory is named after the store: a store that is made anew gets a new index. Where keys
//! change without log (a range fetch) the index is removed before the mark is durable, and crawled
//! when the copy is whole again.

mod slot;
mod task;
mod work;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use keelson_types::{ContentIndexSettings, DatabaseId};
use tokio::sync::Notify;
use tokio::time::Instant;

pub(crate) use slot::{CatalogSlot, Searchable};
pub(crate) use task::run;

use crate::pool::Pool;
use crate::shared::CopyShared;

/// Threads that index; each writer has one more of the engine's.
const THREADS: usize = 2;
/// How long after a replay the copy is looked at.
const LOOK_AFTER: Duration = Duration::from_millis(500);

/// What consensus says of the index of one copy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) settings: ContentIndexSettings,
    /// Replication to the copy is.
    pub(crate) suspended: bool,
    pub(crate) lagged: bool,
    /// How often an operator resumed the copy: each time failures are counted anew.
    pub(crate) resumes: u64,
    /// To tell backlogs in bytes.
    pub(crate) generation_bytes: u64,
}

/// Who is to be looked at, and when.
#[derive(Debug)]
pub(crate) struct Catalogs {
    due: Mutex<Due>,
    changed: Notify,
    pool: Pool,
}

#[derive(Debug, Default)]
struct Due {
    at: BTreeMap<DatabaseId, Instant>,
    /// Looked at right now.
    working: BTreeSet<DatabaseId>,
}

impl Catalogs {
    pub(crate) fn start(quiet: fn()) -> std::io::Result<Self> {
        let pool = Pool::start_with("index", THREADS, quiet)?;
        Ok(Self { due: Mutex::default(), changed: Notify::new(), pool })
    }

    fn lock(&self) -> MutexGuard<'_, Due> {
        self.due.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The copy replayed something.
    pub(crate) fn replayed(&self, shared: &CopyShared) {
        if shared.catalog.is_wanted() && shared.catalog.set_behind() {
            self.look(shared.database, LOOK_AFTER);
        }
    }

    /// What is wanted of the index may have changed.
    pub(crate) fn want(&self, shared: &CopyShared, wanted: Wanted) {
        if shared.catalog.want(wanted) {
            self.look(shared.database, Duration::ZERO);
        }
    }

    /// Looks at the copy then, or earlier.
    pub(crate) fn look(&self, database: DatabaseId, after: Duration) {
        let at = Instant::now() + after;
        let mut due = self.lock();
        let known = due.at.entry(database).or_insert(at);
        *known = at.min(*known);
        drop(due);
        self.changed.notify_one();
    }

    /// The copies whose time has come and that nobody works on, and when the next one is due.
    fn take_due(&self, now: Instant) -> (Vec<DatabaseId>, Option<Instant>) {
        let mut due = self.lock();
        let Due { at, working } = &mut *due;
        let ready: Vec<_> = at
            .iter()
            .filter(|(database, at)| **at <= now && !working.contains(*database))
            .map(|(database, _)| *database)
            .collect();
        for database in &ready {
            at.remove(database);
            working.insert(*database);
        }
        let next = at.iter().filter(|(database, _)| !working.contains(*database));
        let next = next.map(|(_, at)| *at).min();
        (ready, next)
    }

    /// Work on the copy ended; it rests, whatever was replayed meanwhile.
    fn ended(&self, database: DatabaseId, rest: Option<Duration>) {
        let mut due = self.lock();
        due.working.remove(&database);
        if let Some(rest) = rest {
            due.at.insert(database, Instant::now() + rest);
        }
        drop(due);
        self.changed.notify_one();
    }
}

/// Where the index of a store lies: beside it.
pub(crate) fn directory_of(store: &Path) -> PathBuf {
    let name = store.file_name().map(|name| name.to_string_lossy().into_owned());
    let id = name.as_deref().and_then(|name| name.strip_prefix("store-")).unwrap_or("unknown");
    store.with_file_name(format!("catalog-{id}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_is_looked_at_once_and_by_one_at_a_time() {
        let (catalogs, shared) = (Catalogs::start(|| {}).unwrap(), CopyShared::for_tests());
        shared.catalog.want(Wanted::default());
        catalogs.replayed(&shared);
        catalogs.replayed(&shared);
        let (early, next) = catalogs.take_due(Instant::now());
        assert_eq!(early, [], "half a second later");
        let later = next.unwrap();
        assert_eq!(catalogs.take_due(later), (vec![shared.database], None));
        shared.catalog.begin();
        catalogs.replayed(&shared);
        let much_later = later + 10 * LOOK_AFTER;
        assert_eq!(catalogs.take_due(much_later), (Vec::new(), None), "somebody works on it");
        catalogs.ended(shared.database, Some(20 * LOOK_AFTER));
        assert_eq!(catalogs.take_due(much_later).0, [], "it rests");
        assert_eq!(catalogs.take_due(later + 30 * LOOK_AFTER).0, [shared.database]);
    }

    #[test]
    fn an_index_is_named_after_its_store() {
        let store = Path::new("/d/databases/x/store-12ab");
        assert_eq!(directory_of(store), Path::new("/d/databases/x/catalog-12ab"));
    }
}
