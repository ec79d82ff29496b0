//! The blocking work on an index: finding out what is there, following the log, crawling the store.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use keelson_catalog::{Catalog, CatalogError, CatalogWriter, Reflected};
use keelson_copy_core::catalog::Found;
use keelson_env::{KvSnapshot, KvStore};
use keelson_format::{Chunk, Item};
use keelson_log::LogError;
use keelson_types::{LogEnd, Position, Record};

use super::CatalogSlot;
use crate::message::LogView;
use crate::shared::{CopyShared, Life};

/// Log read at a time.
const READ_BYTES: usize = 1024 * 1024;
/// Log indexed in one piece of work, and so in one commit.
const PIECE_BYTES: usize = 32 * 1024 * 1024;
/// Records and bytes read from the store at a time.
const PAGE_RECORDS: usize = 1_000;
const PAGE_BYTES: usize = 4 * 1024 * 1024;

/// A piece of work is done and durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Done {
    /// It ended for its size; there was more to do.
    pub(super) more: bool,
}

/// Why a piece of work came to nothing.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum WorkError {
    /// What it worked on is not there any more.
    Over,
    /// It is tried again after a pause.
    Failed(String),
}

impl From<CatalogError> for WorkError {
    fn from(error: CatalogError) -> Self {
        Self::Failed(error.to_string())
    }
}

/// Looks into the directory; what is open already is not opened again.
pub(super) fn find(slot: &CatalogSlot, directory: &Path, wanted: &[String]) -> Found {
    if let Some(damage) = slot.take_damage() {
        return Found::Damaged(damage);
    }
    let open = slot.open().filter(|_| directory.exists());
    let opened = match open {
        Some(catalog) => Ok(Some(catalog)),
        None => Catalog::open(directory),
    };
    let found = opened.and_then(|found| found.map_or(Ok(None), |catalog| show(slot, catalog)));
    match found {
        Ok(Some(reflected)) => {
            let wanted_fields = reflected.fields == wanted;
            Found::Reflects { end: reflected.end, wanted_fields }
        }
        Ok(None) => {
            slot.close();
            Found::Nothing
        }
        Err(error) => {
            slot.close();
            Found::Damaged(error.to_string())
        }
    }
}

/// Has searches see the last commit, and says what it reflects. They may see an older one: work
/// can end between its commit and what follows that.
fn show(slot: &CatalogSlot, mut catalog: Catalog) -> Result<Option<Reflected>, CatalogError> {
    let reflected = catalog.reflected()?;
    let end = reflected.as_ref().map(|reflected| reflected.end);
    if let Some(end) = end.filter(|end| slot.shown() != Some(*end)) {
        catalog.reload()?;
        slot.shows(catalog, end);
    }
    Ok(reflected)
}

/// One piece of work.
pub(super) struct Work {
    pub(super) shared: Arc<CopyShared>,
    pub(super) directory: PathBuf,
    pub(super) fields: Vec<String>,
    pub(super) log: LogView,
    pub(super) life: Life,
    /// When the work began, see [`CatalogSlot::doubt`].
    pub(super) doubts: u64,
}

impl Work {
    fn is_over(&self) -> bool {
        let doubts = self.shared.catalog.doubts();
        self.life.is_over() || doubts != self.doubts || self.shared.marked.load(Ordering::SeqCst)
    }

    pub(super) fn remove(&self) {
        self.shared.catalog.close();
        if let Err(error) = Catalog::remove(&self.directory) {
            tracing::warn!(%error, "an index that is not wanted stays");
        }
    }

    /// Indexes of stores that were here before.
    fn remove_others(&self) {
        let Some(parent) = self.directory.parent() else { return };
        for entry in std::fs::read_dir(parent).into_iter().flatten().flatten() {
            let (path, name) = (entry.path(), entry.file_name());
            if path != self.directory && name.to_string_lossy().starts_with("catalog-") {
                let _ = Catalog::remove(&path);
            }
        }
    }

    /// Indexes the log from there to what is replayed, or a piece of it.
    pub(super) fn follow(mut self, from: Position) -> Result<Done, WorkError> {
        let Some(catalog) = self.shared.catalog.open() else { return Err(WorkError::Over) };
        let mut writer = catalog.writer(self.fields.clone())?;
        let (to, mut at, mut bytes) = (self.shared.replayed.load(), from, 0);
        let mut end = LogEnd { epoch: self.log.table.epoch_at(from), position: from };
        while at < to && bytes < PIECE_BYTES {
            if self.is_over() {
                return Err(WorkError::Over);
            }
            let chunks = match self.log.reader.read(at, to, READ_BYTES) {
                Ok(chunks) => chunks,
                Err(LogError::Truncated { .. }) => return Err(WorkError::Over),
                Err(error) => return Err(WorkError::Failed(error.to_string())),
            };
            bytes += chunks.iter().map(|chunk| chunk.bytes.len()).sum::<usize>();
            let Some(next) = index(&mut writer, &chunks, at, &mut end)? else { break };
            if next == at {
                break;
            }
            at = next;
        }
        self.commit(catalog, writer, end)?;
        Ok(Done { more: at < to })
    }

    /// Makes the index anew from a snapshot of the store.
    pub(super) fn crawl(self, store: Arc<dyn KvStore>, reason: &str) -> Result<Done, WorkError> {
        let total = store.size_bytes().max(1);
        let snapshot = store.snapshot().map_err(of_store)?;
        self.shared.catalog.close();
        self.remove_others();
        let catalog = Catalog::create(&self.directory)?;
        let mut writer = catalog.writer(self.fields.clone())?;
        let (mut done, mut told) = (0_u64, 0);
        let at = read_all(snapshot, |key, value| {
            if self.is_over() {
                return Err(WorkError::Over);
            }
            done += (key.len() + value.len()) as u64;
            let percent = u32::try_from(done * 100 / total).unwrap_or(100).min(99);
            if std::mem::replace(&mut told, percent) != percent {
                self.shared.catalog.crawls(reason, percent);
            }
            Ok(writer.put(key, value)?)
        })?;
        self.commit(catalog, writer, at)?;
        Ok(Done { more: true })
    }

    /// The end is what frames or the store say: the epochs that were known when the work began may
    /// be fewer, and a stamp of an older one would have the index made anew after every failover.
    fn commit(
        &self,
        mut catalog: Catalog,
        mut writer: CatalogWriter,
        end: LogEnd,
    ) -> Result<(), WorkError> {
        if self.is_over() {
            return Err(WorkError::Over);
        }
        writer.commit(end)?;
        writer.close()?;
        if self.is_over() {
            // It was removed while it was written, or is of files that are closed.
            return Err(WorkError::Over);
        }
        catalog.reload()?;
        let slot = &self.shared.catalog;
        slot.shows(catalog, end);
        slot.follows();
        self.shared.wake();
        Ok(())
    }
}

fn of_store(error: keelson_env::StoreError) -> WorkError {
    WorkError::Failed(error.to_string())
}

/// Reads every record in the order of the keys, and says where the snapshot stood.
///
/// The snapshot keeps its store open, and whoever wants to open that anew, or to remove it, waits.
/// So it is let go here, whatever the end is, and not behind the writer of the index: that one ends
/// its threads first, which have little weight and may take minutes beside others.
fn read_all(
    snapshot: Box<dyn KvSnapshot>,
    mut take: impl FnMut(&[u8], &[u8]) -> Result<(), WorkError>,
) -> Result<LogEnd, WorkError> {
    let mut from = Vec::new();
    loop {
        let page = snapshot.scan(&from, None, PAGE_RECORDS, PAGE_BYTES).map_err(of_store)?;
        let Some(last) = page.last() else { return Ok(snapshot.at()) };
        from = last.0.to_vec();
        from.push(0);
        for (key, value) in &page {
            take(key, value)?;
        }
    }
}

/// Indexes what the frames behind `at` do, and notes the end of the last of them; says where to
/// read on.
fn index(
    writer: &mut CatalogWriter,
    chunks: &[Chunk],
    at: Position,
    end: &mut LogEnd,
) -> Result<Option<Position>, WorkError> {
    let failed = |why: String| WorkError::Failed(why);
    for item in chunks.iter().flat_map(Chunk::items) {
        let item = item.map_err(|(position, error)| failed(format!("at {position}: {error}")))?;
        let Item::Frame(frame) = item else { continue };
        if frame.end().position <= at {
            continue;
        }
        let frame = frame.decode().map_err(|error| failed(error.to_string()))?;
        for record in &frame.records {
            apply(writer, record)?;
        }
        *end = frame.end;
    }
    Ok(chunks.last().map(|chunk| chunk.end))
}

fn apply(writer: &mut CatalogWriter, record: &Record) -> Result<(), CatalogError> {
    match record {
        Record::Put { key, value } => writer.put(key, value),
        Record::Delete { key } => {
            writer.delete(key);
            Ok(())
        }
        Record::DeleteRange { from, to } => writer.delete_range(from, to),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use keelson_env::{MemStoreOpener, ReplayFrame, StoreOpener};
    use keelson_format::{Cursor, CursorState, FramingConfig};
    use keelson_types::{Epoch, HybridTime, StreamId};

    fn store(opener: &MemStoreOpener, keys: u64) -> Arc<dyn KvStore> {
        let store = opener.open(Path::new("/store")).unwrap();
        let put = |key: u64| Record::Put { key: vec![key as u8].into(), value: vec![7].into() };
        let end = LogEnd { epoch: Epoch::new(0, 1), position: Position::new(1, 900) };
        let (time, records) = (HybridTime::from_unix_millis(1), (1..=keys).map(put).collect());
        store.replay(&[ReplayFrame { end, time, first_sequence: 1, records }]).unwrap();
        store
    }

    /// The epoch is that of the frame, also if nobody knew of it when the work began; behind the
    /// last frame a generation without one may have been opened.
    #[test]
    fn an_index_reflects_the_last_frame_in_its_own_epoch() {
        let directory = tempfile::tempdir().unwrap();
        let catalog = Catalog::create(directory.path()).unwrap();
        let mut writer = catalog.writer(vec!["word".into()]).unwrap();
        let framing = FramingConfig { generation_bytes: 1024 * 1024, compress: false };
        let mut cursor = Cursor::new(CursorState::empty(StreamId::from_u128(9)), framing);
        let mut chunks = Vec::new();
        for epoch in 1..=2 {
            chunks.push(cursor.begin_epoch(Epoch::new(0, epoch), 1).unwrap().0);
            let put = Record::Put { key: "k".into(), value: "word".into() };
            let encoded = cursor.encode(&[put], 1, Position::ZERO, Position::ZERO).unwrap();
            chunks.extend(encoded.chunks);
        }
        let last = cursor.end();
        chunks.push(cursor.begin_epoch(Epoch::new(0, 3), 1).unwrap().0);
        let mut end = LogEnd::ZERO;
        let next = index(&mut writer, &chunks, Position::ZERO, &mut end).unwrap();
        assert_eq!((end, next), (last, Some(cursor.position())));
        assert_eq!(end.epoch, Epoch::new(0, 2));
        writer.close().unwrap();
    }

    /// A copy that is seeded anew waits for the readers of its old store: they look after each
    /// record whether they are to end, and do not take the store along into what else they end.
    #[test]
    fn a_crawl_lets_go_of_its_store_before_the_index_is_closed() {
        let opener = MemStoreOpener::new();
        let (mut seen, snapshot) = (0, store(&opener, 5).snapshot().unwrap());
        let over = read_all(snapshot, |_, _| {
            assert!(opener.in_use(Path::new("/store")));
            seen += 1;
            if seen < 2 { Ok(()) } else { Err(WorkError::Over) }
        });
        assert_eq!((over, seen), (Err(WorkError::Over), 2));
        assert!(!opener.in_use(Path::new("/store")), "nobody holds it");
        let mut keys = Vec::new();
        let all = read_all(store(&opener, 3).snapshot().unwrap(), |key, _| {
            keys.push(key.to_vec());
            Ok(())
        });
        assert_eq!(all.unwrap().position, Position::new(1, 900));
        assert_eq!(keys, [[1], [2], [3]]);
        assert!(!opener.in_use(Path::new("/store")));
    }
}
