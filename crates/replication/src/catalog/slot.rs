//! What is known of the index of one copy, for status pages and searches.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use keelson_catalog::Catalog;
use keelson_types::{ContentIndexState, LogEnd, Position, RefusalReason, Watermarks};
use keelson_wire::{Refusal, v1};

use super::Wanted;

/// How often the removal of an index is tried that somebody writes into.
const REMOVE_TRIES: usize = 100;

/// See the module page.
#[derive(Debug, Default)]
pub(crate) struct CatalogSlot {
    inner: Mutex<Inner>,
    /// Something was replayed since it was looked at last.
    behind: AtomicBool,
}

#[derive(Debug, Default)]
struct Inner {
    wanted: Option<Wanted>,
    open: Option<Catalog>,
    /// Of what is open, as of when it was opened or committed.
    bytes: u64,
    state: ContentIndexState,
    reason: String,
    reflects: LogEnd,
    crawl_percent: u32,
    /// How far another one is fetched, and from which member.
    seeding: Option<(u32, String)>,
    failures: u32,
    /// How often work under way became of no use: keys changed without log, or another index is
    /// fetched.
    doubts: u64,
    /// Found by a scrub or a search; the files may open all the same.
    damage: Option<String>,
}

impl Inner {
    /// Its state, and the log that it lacks of what was replayed.
    fn standing(&self, replayed: Position) -> (ContentIndexState, u64) {
        let bytes = self.wanted.as_ref().map_or(0, |wanted| wanted.generation_bytes);
        let backlog = match self.state {
            ContentIndexState::Disabled => 0,
            _ => Watermarks::distance_bytes(self.reflects.position, replayed, bytes),
        };
        (self.state, backlog)
    }

    fn searchable(&self, wanted: &Wanted) -> Searchable {
        Searchable {
            fields: wanted.settings.fields.clone(),
            reflects: self.reflects,
            generation_bytes: wanted.generation_bytes,
        }
    }
}

impl CatalogSlot {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn is_wanted(&self) -> bool {
        self.lock().wanted.as_ref().is_some_and(|wanted| wanted.settings.enabled)
    }

    /// Takes what is wanted; whether that is news.
    pub(super) fn want(&self, wanted: Wanted) -> bool {
        let mut inner = self.lock();
        let before = inner.wanted.replace(wanted.clone());
        if before.as_ref().is_none_or(|before| before.resumes != wanted.resumes) {
            inner.failures = 0;
        }
        if wanted.seeding != before.as_ref().is_some_and(|before| before.seeding) {
            // Work that is under way would only make the seed wait, or end behind it.
            inner.doubts += 1;
            inner.seeding = wanted.seeding.then(Default::default);
        }
        before.as_ref() != Some(&wanted)
    }

    pub(super) fn wanted(&self) -> Option<Wanted> {
        self.lock().wanted.clone()
    }

    /// Whether nobody was told yet that the copy is to be looked at.
    pub(super) fn set_behind(&self) -> bool {
        !self.behind.swap(true, Ordering::SeqCst)
    }

    /// Somebody looks now.
    pub(super) fn begin(&self) {
        self.behind.store(false, Ordering::SeqCst);
    }

    pub(super) fn failures(&self) -> u32 {
        self.lock().failures
    }

    pub(super) fn failed(&self, why: &str) -> u32 {
        let mut inner = self.lock();
        inner.failures += 1;
        (inner.state, inner.reason) = (ContentIndexState::Failed, why.to_owned());
        inner.failures
    }

    pub(super) fn rests(&self, state: ContentIndexState, reason: String) {
        let mut inner = self.lock();
        (inner.state, inner.reason) = (state, reason);
        if state == ContentIndexState::Healthy {
            inner.failures = 0;
        }
    }

    /// A crawl is so far.
    pub(super) fn crawls(&self, reason: &str, percent: u32) {
        let mut inner = self.lock();
        inner.state = ContentIndexState::Crawling;
        inner.reason = reason.to_owned();
        inner.crawl_percent = percent.min(100);
    }

    /// Another index is fetched from `source` and so far; nothing if no seed is known of.
    pub(crate) fn seeds(&self, percent: u32, source: &str) {
        if let Some(seeding) = &mut self.lock().seeding {
            *seeding = (percent.min(100), source.to_owned());
        }
    }

    /// It follows the log.
    pub(super) fn follows(&self) {
        let mut inner = self.lock();
        inner.failures = 0;
        if inner.state != ContentIndexState::Healthy {
            inner.state = ContentIndexState::Healthy;
            inner.reason = "it follows what is replayed".into();
        }
    }

    /// From now on searches see this commit, which reflects the log up to `end`: both change at
    /// once, so that no answer names the end of another commit.
    pub(super) fn shows(&self, catalog: Catalog, end: LogEnd) {
        let bytes = catalog.size_bytes();
        let before = {
            let mut inner = self.lock();
            (inner.bytes, inner.reflects) = (bytes, end);
            inner.open.replace(catalog)
        };
        // The last clone closes files, for which nobody shall wait.
        drop(before);
    }

    pub(super) fn open(&self) -> Option<Catalog> {
        self.lock().open.clone()
    }

    /// Searches see nothing of it any more.
    pub(crate) fn close(&self) {
        let before = {
            let mut inner = self.lock();
            (inner.reflects, inner.bytes) = (LogEnd::ZERO, 0);
            inner.open.take()
        };
        // Outside of the lock, as in `shows`.
        drop(before);
    }

    pub(crate) fn doubts(&self) -> u64 {
        self.lock().doubts
    }

    /// Keys of the store are about to change without log. When this returns there is no index of
    /// it, and work that is under way can commit none.
    pub(crate) fn doubt(&self, directory: &Path) {
        self.lock().doubts += 1;
        self.close();
        for _ in 0..REMOVE_TRIES {
            // Whoever writes into it now may have made a file while the others were removed.
            match Catalog::remove(directory) {
                Ok(()) => return,
                Err(error) => tracing::debug!(%error, "removing an index"),
            }
        }
        tracing::error!(directory = %directory.display(), "an index that is wrong stays");
    }

    /// What the commit reflects that searches see; nothing if none is open.
    pub(super) fn shown(&self) -> Option<LogEnd> {
        let inner = self.lock();
        inner.open.as_ref().map(|_| inner.reflects)
    }

    /// Where searches are.
    pub(crate) fn reflected(&self) -> Position {
        self.lock().reflects.position
    }

    /// Reads an open index through; one that is damaged is left to the next look. Bytes read.
    pub(crate) fn verify(&self) -> Result<u64, String> {
        let Some(catalog) = self.open() else { return Ok(0) };
        catalog.verify().map_err(|error| {
            self.damaged(&error.to_string());
            error.to_string()
        })
    }

    /// Searches found the index damaged, or a scrub did.
    pub(crate) fn damaged(&self, why: &str) {
        self.close();
        self.lock().damage = Some(why.to_owned());
    }

    /// What was found wrong since the last look.
    pub(super) fn take_damage(&self) -> Option<String> {
        self.lock().damage.take()
    }

    /// What a search needs: one commit, and what that reflects.
    ///
    /// # Errors
    /// `no_content_index`, `content_index_not_ready`.
    pub(crate) fn for_search(&self, name: &str) -> Result<(Catalog, Searchable), Refusal> {
        let inner = self.lock();
        let wanted = inner.wanted.clone().unwrap_or_default();
        if !wanted.settings.enabled {
            let message = format!("{name} has no content index");
            return Err(Refusal::new(RefusalReason::NoContentIndex, message));
        }
        match &inner.open {
            Some(catalog) if inner.state != ContentIndexState::Crawling => {
                Ok((catalog.clone(), inner.searchable(&wanted)))
            }
            _ => {
                let (state, reason) = (inner.state, &inner.reason);
                let message = format!("the content index of {name} is {state} here: {reason}");
                Err(Refusal::new(RefusalReason::ContentIndexNotReady, message))
            }
        }
    }

    /// The index as a seed of another copy may have it: one that follows the log.
    ///
    /// # Errors
    /// How it is instead, for people.
    pub(crate) fn for_seed(&self) -> Result<(Catalog, Searchable), String> {
        let inner = self.lock();
        match (&inner.open, inner.state) {
            (Some(catalog), ContentIndexState::Healthy) => {
                Ok((catalog.clone(), inner.searchable(&inner.wanted.clone().unwrap_or_default())))
            }
            (_, state) => Err(format!("has a content index that is {state}: {}", inner.reason)),
        }
    }

    /// Its state, and by how many bytes of log it is behind what was replayed.
    pub(crate) fn standing(&self, replayed: Position) -> (ContentIndexState, u64) {
        self.lock().standing(replayed)
    }

    /// For status pages.
    pub(crate) fn facts(&self, replayed: Position) -> v1::ContentIndexFacts {
        let inner = self.lock();
        let (state, backlog) = inner.standing(replayed);
        let position = inner.reflects.position;
        v1::ContentIndexFacts {
            state: state.to_string(),
            reason: inner.reason.clone(),
            reflects: Some(position.into()),
            backlog_bytes: backlog,
            crawl_percent: match state {
                ContentIndexState::Crawling => inner.crawl_percent,
                _ => 0,
            },
            seeding_percent: inner.seeding.as_ref().map(|(percent, _)| *percent),
            seeding_source: inner.seeding.as_ref().map(|(_, m)| m.clone()).unwrap_or_default(),
            feeds_seed: false,
            records: inner.open.as_ref().map_or(0, Catalog::document_count),
            bytes: inner.bytes,
        }
    }
}

/// What a search, or a seed, must know of the index.
#[derive(Debug)]
pub(crate) struct Searchable {
    pub(crate) fields: Vec<String>,
    pub(crate) reflects: LogEnd,
    pub(crate) generation_bytes: u64,
}

#[cfg(test)]
mod tests;
