//! The in-memory store: ordered maps with the crash semantics of the real one.
//!
//! A [`MemStoreOpener`] stands for a volume and the processes that used it. Each directory holds
//! what was checkpointed plus the changes made since; a handle holds all of it. Dropping handles
//! loses the changes since the checkpoint; [`MemStoreOpener::crash`] keeps some first ones of them,
//! as a memtable that was flushed just before would. Handles from before a crash fail for ever.
//!
//! A snapshot shares the maps with its store: the next `replay` copies them once if it still lives.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use bytes::Bytes;
use keelson_types::{HybridTime, LogEnd, Position, Record, SessionId, Span, StoreKey};

use crate::{
    KvDigest, KvSnapshot, KvStore, ReplayFrame, Rescued, ScanItem, SessionState, SplitMix64,
    StoreError, StoreItem, StoreOpener, Verified, check_items, check_order, digest_ended,
};

/// What replay made of a log so far.
#[derive(Clone, Default)]
struct Content {
    user: BTreeMap<Bytes, Bytes>,
    user_bytes: u64,
    sessions: BTreeMap<SessionId, SessionState>,
    schema: Option<Bytes>,
    at: LogEnd,
}

/// What a store did to its content, each atomic.
#[derive(Clone)]
enum Change {
    Frame(ReplayFrame),
    Rewind(LogEnd),
    Overwrite(Vec<Span>, Vec<StoreItem>),
}

impl Content {
    fn change(&mut self, change: &Change) {
        match change {
            Change::Frame(frame) => self.replay(frame),
            Change::Rewind(to) => self.at = *to,
            Change::Overwrite(spans, items) => self.overwrite(spans, items),
        }
    }

    fn overwrite(&mut self, spans: &[Span], items: &[StoreItem]) {
        let inside = |key: StoreKey| spans.iter().any(|span| span.covers(&key));
        if inside(StoreKey::Schema) {
            self.schema = None;
        }
        self.sessions.retain(|id, _| !inside(StoreKey::Session(*id)));
        let gone: Vec<_> = spans.iter().flat_map(|span| self.users(span)).cloned().collect();
        gone.iter().for_each(|key| self.remove(key));
        for (key, value) in items {
            match key {
                StoreKey::Schema => self.schema = Some(value.clone()),
                StoreKey::Session(id) => {
                    self.sessions.extend(SessionState::decode(value).map(|state| (*id, state)));
                }
                StoreKey::User(key) => {
                    self.user_bytes += (key.len() + value.len()) as u64;
                    self.user.insert(key.clone(), value.clone());
                }
            }
        }
    }

    fn users<'a>(&'a self, span: &'a Span) -> impl Iterator<Item = &'a Bytes> {
        let range = span.users().filter(|(from, to)| to.is_none_or(|to| *from < to));
        let bounds = range.map(|(from, to)| {
            (Bound::Included(from), to.map_or(Bound::Unbounded, Bound::Excluded))
        });
        bounds.into_iter().flat_map(|bounds| self.user.range::<[u8], _>(bounds)).map(|(key, _)| key)
    }

    fn replay(&mut self, frame: &ReplayFrame) {
        for record in &frame.records {
            self.apply(record, frame);
        }
        self.at = frame.end;
    }

    fn apply(&mut self, record: &Record, frame: &ReplayFrame) {
        match record {
            Record::Put { key, value } => {
                self.remove(key);
                self.user_bytes += (key.len() + value.len()) as u64;
                self.user.insert(key.clone(), value.clone());
            }
            Record::Delete { key } => self.remove(key),
            Record::DeleteRange { from, to } if to.is_empty() || from < to => {
                let inside = self.user.range(from.clone()..);
                let inside = inside.take_while(|(key, _)| to.is_empty() || *key < to);
                let keys: Vec<Bytes> = inside.map(|(key, _)| key.clone()).collect();
                keys.iter().for_each(|key| self.remove(key));
            }
            Record::Session { session, change } => {
                let old = self.sessions.remove(session);
                if let Some(new) = SessionState::replay(old, *change, frame.end, frame.time) {
                    self.sessions.insert(*session, new);
                }
            }
            Record::Schema { body } => self.schema = Some(body.clone()),
            Record::DeleteRange { .. }
            | Record::Opening { .. }
            | Record::DigestMarker { .. }
            | Record::RestorePoint { .. }
            | Record::NoOp => {}
        }
    }

    fn remove(&mut self, key: &Bytes) {
        if let Some(value) = self.user.remove(key) {
            self.user_bytes -= (key.len() + value.len()) as u64;
        }
    }
}

/// What one directory holds.
#[derive(Default)]
struct Files {
    checkpoint: Content,
    /// Done by the open handle since the checkpoint.
    pending: Vec<Change>,
    /// Rises when the process that has the store open crashes.
    life: u64,
    open: Weak<MemStore>,
    fault: Option<StoreError>,
    rotten: Option<Span>,
}

impl Files {
    fn keep_first(&mut self, changes: usize) {
        for change in self.pending.drain(..).take(changes) {
            self.checkpoint.change(&change);
        }
    }
}

#[derive(Default)]
struct Volume {
    stores: BTreeMap<PathBuf, Arc<Mutex<Files>>>,
    full: bool,
}

/// A panic of a test leaves nothing half done behind these locks.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Opens in-memory stores; clones share the directories.
#[derive(Clone, Default)]
pub struct MemStoreOpener {
    volume: Arc<Mutex<Volume>>,
}

impl MemStoreOpener {
    /// No directories yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Ends the process: all open handles fail from now on. What each store keeps of the frames
    /// replayed since its checkpoint, from none to all, follows from `seed`.
    pub fn crash(&self, seed: u64) {
        let stores: Vec<_> = lock(&self.volume).stores.values().cloned().collect();
        let mut random = SplitMix64::new(seed);
        for files in stores {
            let mut files = lock(&files);
            let kept = random.below(files.pending.len() as u64 + 1);
            files.keep_first(usize::try_from(kept).expect("at most as many as there are frames"));
            files.life += 1;
            files.open = Weak::new();
            files.fault = None;
        }
    }

    /// Whether the volume is full: then `replay` and `checkpoint` answer [`StoreError::NoSpace`].
    pub fn set_full(&self, full: bool) {
        lock(&self.volume).full = full;
    }

    /// Makes the open store in `directory` fail with `fault`: once if it is
    /// [`StoreError::NoSpace`], else until it is reopened, as the real store does. Does nothing if
    /// there is no such store.
    pub fn inject(&self, directory: &Path, fault: StoreError) {
        if let Some(files) = lock(&self.volume).stores.get(directory) {
            lock(files).fault = Some(fault);
        }
    }

    /// Lets a byte of the store in `directory` rot: [`StoreOpener::verify`] finds it, and so does
    /// the next open.
    pub fn rot(&self, directory: &Path) {
        if let Some(files) = lock(&self.volume).stores.get(directory) {
            lock(files).rotten = Some(Span::all());
        }
    }

    /// The same, in a file that holds these keys only: [`StoreOpener::rescue`] saves the others.
    pub fn rot_keys(&self, directory: &Path, keys: Span) {
        if let Some(files) = lock(&self.volume).stores.get(directory) {
            lock(files).rotten = Some(keys);
        }
    }

    /// Removes a directory and all below it; an open handle goes on without files, as with unlinked
    /// ones.
    pub fn remove(&self, directory: &Path) {
        lock(&self.volume).stores.retain(|path, _| !path.starts_with(directory));
    }

    /// Whether somebody holds a store of the volume open.
    #[must_use]
    pub fn is_open(&self) -> bool {
        let volume = lock(&self.volume);
        volume.stores.values().any(|files| lock(files).open.strong_count() > 0)
    }

    /// Copies the durable content of a store to another volume, as a seed does.
    ///
    /// # Errors
    /// [`StoreError::NoSpace`] if that volume is full, [`StoreError::Damaged`] if the store rotted.
    pub fn send(&self, from: &Path, volume: &Self, to: &Path) -> Result<(), StoreError> {
        let files = lock(&self.volume).stores.get(from).cloned().unwrap_or_default();
        let (checkpoint, rotten) = {
            let held = lock(&files);
            (held.checkpoint.clone(), held.rotten.is_some())
        };
        if rotten {
            return Err(StoreError::Damaged("a rotten byte".to_owned()));
        }
        let mut volume = lock(&volume.volume);
        if volume.full {
            return Err(StoreError::NoSpace);
        }
        let files = Files { checkpoint, ..Files::default() };
        volume.stores.insert(to.to_owned(), Arc::new(Mutex::new(files)));
        Ok(())
    }

    /// Whether a store was ever opened or checkpointed here and not removed.
    #[must_use]
    pub fn exists(&self, directory: &Path) -> bool {
        lock(&self.volume).stores.contains_key(directory)
    }
}

impl StoreOpener for MemStoreOpener {
    fn open(&self, directory: &Path) -> Result<Arc<dyn KvStore>, StoreError> {
        let files = lock(&self.volume).stores.entry(directory.to_owned()).or_default().clone();
        let mut held = lock(&files);
        if held.open.strong_count() > 0 {
            return Err(StoreError::InUse);
        }
        if held.rotten.is_some() {
            return Err(StoreError::Damaged("a rotten byte".to_owned()));
        }
        held.keep_first(0);
        held.fault = None;
        let store = Arc::new(MemStore {
            volume: self.volume.clone(),
            files: files.clone(),
            life: held.life,
            live: Mutex::new(Arc::new(held.checkpoint.clone())),
        });
        held.open = Arc::downgrade(&store);
        Ok(store)
    }

    fn in_use(&self, directory: &Path) -> bool {
        let files = lock(&self.volume).stores.get(directory).cloned();
        files.is_some_and(|files| lock(&files).open.strong_count() > 0)
    }

    fn verify(
        &self,
        directory: &Path,
        at_least: Position,
        pace: &mut dyn FnMut(u64),
    ) -> Result<Verified, StoreError> {
        let Some(files) = lock(&self.volume).stores.get(directory).cloned() else {
            return Ok(Verified::default());
        };
        let held = lock(&files);
        let (at, bytes) = (held.checkpoint.at.position, held.checkpoint.user_bytes);
        pace(bytes);
        match held.rotten {
            Some(_) => Err(StoreError::Damaged("a rotten byte".to_owned())),
            None if at < at_least => {
                Err(StoreError::Damaged(format!("the files hold {at}, not {at_least}")))
            }
            None => Ok(Verified { bytes, mended: Vec::new() }),
        }
    }

    fn rescue(&self, from: &Path, to: &Path, at: LogEnd) -> Result<Rescued, StoreError> {
        let mut volume = lock(&self.volume);
        if volume.full {
            return Err(StoreError::NoSpace);
        }
        let (mut content, rotten) = match volume.stores.get(from).map(|files| lock(files)) {
            Some(held) => (held.checkpoint.clone(), held.rotten.clone()),
            None => (Content::default(), None),
        };
        let mut rescued = Rescued { at: Some(content.at), ..Rescued::default() };
        if rotten == Some(Span::all()) || content.at.position < at.position {
            let lost_bytes = content.user_bytes;
            content = Content { at, ..Content::default() };
            rescued = Rescued { lost: vec![Span::all()], lost_bytes, at: None };
        } else if let Some(keys) = rotten {
            let before = content.user_bytes;
            content.overwrite(std::slice::from_ref(&keys), &[]);
            rescued.lost_bytes = before - content.user_bytes;
            rescued.lost.push(keys);
        }
        let files = Files { checkpoint: content, ..Files::default() };
        volume.stores.insert(to.to_owned(), Arc::new(Mutex::new(files)));
        Ok(rescued)
    }

    fn destroy(&self, directory: &Path) -> Result<(), StoreError> {
        self.remove(directory);
        Ok(())
    }
}

/// A store in memory; see the module. Opened by [`MemStoreOpener`].
pub struct MemStore {
    volume: Arc<Mutex<Volume>>,
    files: Arc<Mutex<Files>>,
    life: u64,
    /// Locked before `files`.
    live: Mutex<Arc<Content>>,
}

impl MemStore {
    /// The files, if this handle may still write to them.
    fn writable(&self) -> Result<MutexGuard<'_, Files>, StoreError> {
        let full = lock(&self.volume).full;
        let mut files = self.readable()?;
        match &files.fault {
            Some(StoreError::NoSpace) => Err(files.fault.take().expect("just matched")),
            Some(fault) => Err(fault.clone()),
            None if full => Err(StoreError::NoSpace),
            None => Ok(files),
        }
    }

    fn readable(&self) -> Result<MutexGuard<'_, Files>, StoreError> {
        let files = lock(&self.files);
        if files.life == self.life {
            Ok(files)
        } else {
            Err(StoreError::Failed("the process that opened this store has crashed".to_owned()))
        }
    }

    fn content(&self) -> Result<Arc<Content>, StoreError> {
        let live = lock(&self.live).clone();
        self.readable().map(|_| live)
    }
}

impl KvStore for MemStore {
    fn replay(&self, frames: &[ReplayFrame]) -> Result<(), StoreError> {
        let mut live = lock(&self.live);
        let mut files = self.writable()?;
        check_order(live.at, frames)?;
        if frames.is_empty() {
            return Ok(());
        }
        let content = Arc::make_mut(&mut live);
        frames.iter().for_each(|frame| content.replay(frame));
        files.pending.extend(frames.iter().cloned().map(Change::Frame));
        Ok(())
    }

    fn rewind(&self, to: LogEnd) -> Result<(), StoreError> {
        let mut live = lock(&self.live);
        let mut files = self.writable()?;
        let change = Change::Rewind(to);
        Arc::make_mut(&mut live).change(&change);
        files.pending.push(change);
        files.keep_first(usize::MAX);
        Ok(())
    }

    fn overwrite(&self, spans: &[Span], items: &[StoreItem]) -> Result<(), StoreError> {
        check_items(spans, items)?;
        let mut live = lock(&self.live);
        let mut files = self.writable()?;
        let change = Change::Overwrite(spans.to_vec(), items.to_vec());
        Arc::make_mut(&mut live).change(&change);
        files.pending.push(change);
        Ok(())
    }

    fn replayed(&self) -> LogEnd {
        lock(&self.live).at
    }

    fn checkpointed(&self) -> Position {
        lock(&self.files).checkpoint.at.position
    }

    fn checkpoint(&self) -> Result<Position, StoreError> {
        let mut files = self.writable()?;
        files.keep_first(usize::MAX);
        Ok(files.checkpoint.at.position)
    }

    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        Ok(self.content()?.user.get(key).cloned())
    }

    fn session(&self, session: SessionId) -> Result<Option<SessionState>, StoreError> {
        Ok(self.content()?.sessions.get(&session).cloned())
    }

    fn idle_sessions(
        &self,
        before: HybridTime,
        limit: usize,
    ) -> Result<Vec<SessionId>, StoreError> {
        let content = self.content()?;
        let mut idle: Vec<_> = content
            .sessions
            .iter()
            .filter(|(_, state)| state.last_used < before)
            .map(|(id, state)| (state.last_used, *id))
            .collect();
        idle.sort_unstable();
        Ok(idle.into_iter().take(limit).map(|(_, id)| id).collect())
    }

    fn schema(&self) -> Result<Option<Bytes>, StoreError> {
        Ok(self.content()?.schema.clone())
    }

    fn snapshot(self: Arc<Self>) -> Result<Box<dyn KvSnapshot>, StoreError> {
        let content = self.content()?;
        Ok(Box::new(MemSnapshot { content, store: self }))
    }

    fn create_checkpoint(&self, directory: &Path) -> Result<LogEnd, StoreError> {
        let content = self.content()?;
        let files = Files { checkpoint: Content::clone(&content), ..Files::default() };
        let mut volume = lock(&self.volume);
        if volume.full {
            return Err(StoreError::NoSpace);
        }
        if volume.stores.contains_key(directory) {
            return Err(StoreError::Failed(format!("{} exists", directory.display())));
        }
        volume.stores.insert(directory.to_owned(), Arc::new(Mutex::new(files)));
        Ok(content.at)
    }

    fn size_bytes(&self) -> u64 {
        lock(&self.live).user_bytes
    }
}

struct MemSnapshot {
    content: Arc<Content>,
    store: Arc<MemStore>,
}

impl MemSnapshot {
    fn content(&self) -> Result<&Content, StoreError> {
        self.store.readable().map(|_| &*self.content)
    }
}

impl KvSnapshot for MemSnapshot {
    fn at(&self) -> LogEnd {
        self.content.at
    }

    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        Ok(self.content()?.user.get(key).cloned())
    }

    fn scan(
        &self,
        from: &[u8],
        to: Option<&[u8]>,
        limit: usize,
        bytes_max: usize,
    ) -> Result<Vec<ScanItem>, StoreError> {
        let content = self.content()?;
        if to.is_some_and(|to| to <= from) {
            return Ok(Vec::new());
        }
        let bounds = (Bound::Included(from), to.map_or(Bound::Unbounded, Bound::Excluded));
        let mut items = Vec::new();
        let mut bytes = 0;
        for (key, value) in content.user.range::<[u8], _>(bounds).take(limit) {
            bytes += key.len() + value.len();
            if bytes > bytes_max && !items.is_empty() {
                break;
            }
            items.push((key.clone(), value.clone()));
        }
        Ok(items)
    }

    fn read_span(
        &self,
        span: &Span,
        limit: usize,
        bytes_max: usize,
    ) -> Result<Vec<StoreItem>, StoreError> {
        let content = self.content()?;
        let schema = content.schema.iter().map(|body| (StoreKey::Schema, body.clone()));
        let sessions = content.sessions.iter().map(|(id, state)| {
            let mut encoded = Vec::new();
            state.encode(&mut encoded);
            (StoreKey::Session(*id), encoded.into())
        });
        let found = schema.chain(sessions).filter(|(key, _)| span.covers(key));
        let value = |key: &Bytes| content.user.get(key).cloned().unwrap_or_default();
        let users = content.users(span).map(|key| (StoreKey::User(key.clone()), value(key)));
        let mut items = Vec::new();
        let mut bytes = 0;
        for (key, value) in found.chain(users).take(limit) {
            bytes += key.len_bytes() as usize + value.len();
            if bytes > bytes_max && !items.is_empty() {
                break;
            }
            items.push((key, value));
        }
        Ok(items)
    }

    fn digest_while(&self, go_on: &dyn Fn() -> bool) -> Result<u128, StoreError> {
        let content = self.content()?;
        if !go_on() {
            return Err(digest_ended());
        }
        let mut digest = KvDigest::new(content.at, content.schema.as_deref());
        let mut encoded = Vec::new();
        for (id, state) in &content.sessions {
            encoded.clear();
            state.encode(&mut encoded);
            digest.session(*id, &encoded);
        }
        content.user.iter().for_each(|(key, value)| digest.user(key, value));
        Ok(digest.finish())
    }
}

#[cfg(test)]
mod tests;
