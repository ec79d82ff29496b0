//! The source of a seed: checkpoints of copies on this member, kept for the targets that read them.
//!
//! A checkpoint lies in `databases/<database>/seed-source/<operation>/`: the store and the content
//! index (hard links), the log up to the place where the store stands, and the manifest, written
//! last. The index is read first, so it reflects no more than the store holds; the log begins where
//! the index stands, so that the new copy can go on with it. An index whose log would be long, or
//! is gone, is left out: the new copy makes its own sooner. A checkpoint of an index alone has that
//! and nothing else.
//!
//! So a crash leaves a checkpoint with a manifest, from which the seed goes on, or something
//! that the next start removes. One that nobody read for [`KEPT`] is removed, too: the files of its
//! store are given back to the volume only then.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use keelson_catalog::{Catalog, CatalogError};
use keelson_env::{Disk, KvStore};
use keelson_format::{MANIFEST_BYTES_MAX, SeedFile, SeedManifest, SeedPlace};
use keelson_log::LogReader;
use keelson_types::{
    CheckpointId, CopyId, DatabaseId, EpochTable, Generation, LogEnd, OperationId, Position,
    SEED_LOG_BYTES_MAX, Watermarks,
};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::Instant;
use uuid::Uuid;
use xxhash_rust::xxh3::Xxh3;

use super::CHUNK_BYTES;
use crate::shared::CopyShared;
use crate::whole_file;

mod building;
#[cfg(test)]
mod tests;

use building::UnderWay;
pub(crate) use building::{Building, Standing};

/// A checkpoint that nobody reads stays so long: a target may be restarted, or repaired.
const KEPT: Duration = Duration::from_secs(15 * 60);
/// Checkpoints of a member at a time; more wait until one is closed.
const SOURCES_MAX: usize = 16;
/// Checkpoints that are made at a time; more wait for their turn.
pub(crate) const BUILDS_AT_ONCE: usize = 2;

const DIRECTORY: &str = "seed-source";
const MANIFEST: &str = "manifest";

/// A checkpoint that targets may read.
#[derive(Debug)]
pub(crate) struct Source {
    pub(crate) directory: PathBuf,
    pub(crate) manifest: SeedManifest,
    used: Mutex<Instant>,
    /// Given back when the last reader has ended.
    _place: Option<OwnedSemaphorePermit>,
}

impl Source {
    fn new(
        directory: PathBuf,
        manifest: SeedManifest,
        place: Option<OwnedSemaphorePermit>,
    ) -> Self {
        Self { directory, manifest, used: Mutex::new(Instant::now()), _place: place }
    }

    pub(crate) fn touch(&self) {
        *lock(&self.used) = Instant::now();
    }

    /// A file of it.
    pub(crate) fn path(&self, file: &SeedFile) -> PathBuf {
        self.directory.join(subdirectory(file.place)).join(&file.name)
    }
}

pub(crate) const fn subdirectory(place: SeedPlace) -> &'static str {
    match place {
        SeedPlace::Store => "store",
        SeedPlace::Log => "log",
        SeedPlace::Catalog => "catalog",
    }
}

type Key = (DatabaseId, OperationId);

/// All checkpoints of this member.
#[derive(Debug)]
pub(crate) struct SeedSources {
    disk: Arc<dyn Disk>,
    root: PathBuf,
    known: Mutex<BTreeMap<Key, Arc<Source>>>,
    /// Being made, or in line for that. Locked before `known`.
    building: Mutex<BTreeMap<Key, UnderWay>>,
    places: Arc<Semaphore>,
    turns: Arc<Semaphore>,
    changed: Notify,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl SeedSources {
    /// Finds what earlier lives left below the data directory.
    pub(crate) fn open(data: &Path, disk: Arc<dyn Disk>) -> Self {
        let root = data.join("databases");
        let mut known = BTreeMap::new();
        let places = Arc::new(Semaphore::new(SOURCES_MAX));
        for database in names(&*disk, &root) {
            let Ok(id) = database.parse::<DatabaseId>() else { continue };
            let sources = root.join(&database).join(DIRECTORY);
            for name in names(&*disk, &sources) {
                let directory = sources.join(&name);
                let found = load(&*disk, &directory).filter(|manifest| manifest.database == id);
                if let (Ok(operation), Some(manifest)) = (name.parse::<OperationId>(), found) {
                    let place = places.clone().try_acquire_owned().ok();
                    let source = Source::new(directory, manifest, place);
                    known.insert((id, operation), Arc::new(source));
                } else {
                    remove(&directory);
                }
            }
        }
        let known = Mutex::new(known);
        let turns = Arc::new(Semaphore::new(BUILDS_AT_ONCE));
        let (building, changed) = (Mutex::default(), Notify::new());
        Self { disk, root, known, building, places, turns, changed }
    }

    /// The checkpoint of an operation, if it is this one.
    pub(crate) fn find(&self, key: Key, checkpoint: CheckpointId) -> Option<Arc<Source>> {
        let found = lock(&self.known).get(&key).cloned();
        let found = found.filter(|source| source.manifest.checkpoint == checkpoint)?;
        found.touch();
        Some(found)
    }

    /// The checkpoint of an operation as it is made, or is there already: a target that did not
    /// hear of its end asks again. With the right to make it if nobody does.
    pub(crate) fn ask(
        self: &Arc<Self>,
        key: Key,
        of: CopyId,
    ) -> (watch::Receiver<Standing>, Option<Building>) {
        let mut building = lock(&self.building);
        if let Some(under_way) = building.get(&key) {
            return (under_way.standing.subscribe(), None);
        }
        let known = lock(&self.known).get(&key).cloned();
        if let Some(source) = known.filter(|source| source.manifest.source == of) {
            source.touch();
            return (watch::channel(Standing::Ready(source)).1, None);
        }
        let under_way = UnderWay::default();
        let standing = under_way.standing.subscribe();
        building.insert(key, under_way.clone());
        (standing, Some(Building::new(self.clone(), key, under_way)))
    }

    fn directory(&self, (database, operation): Key) -> PathBuf {
        self.root.join(database.to_string()).join(DIRECTORY).join(operation.to_string())
    }

    fn build_in(
        &self,
        directory: &Path,
        mut material: Material,
        read: &mut dyn FnMut(u64, u64) -> bool,
    ) -> Result<SeedManifest, String> {
        let disk = &*self.disk;
        // Of a life that ended while it was made, or of another copy.
        remove(directory);
        disk.create_dir_all(directory).map_err(text)?;
        let index = snapshot_index(directory, &mut material)?;
        let at = match (material.store.take(), index) {
            (Some(store), index) => checkpoint_store(disk, directory, &mut material, store, index)?,
            (None, Some(index)) => index,
            (None, None) => return Err("there is no content index".into()),
        };
        material.epochs.cut(at.position);
        let mut files = list_files(disk, directory)?;
        let total = files.iter().map(|file| file.bytes).sum();
        let mut done = 0;
        for file in &mut files {
            let path = directory.join(subdirectory(file.place)).join(&file.name);
            let before = done;
            file.digest = digest_of(disk, &path, &mut |bytes| read(before + bytes, total))?;
            done += file.bytes;
        }
        let manifest = SeedManifest {
            checkpoint: CheckpointId::new(Uuid::new_v4()),
            database: material.shared.database,
            stream: material.shared.stream,
            source: material.shared.copy,
            at,
            epochs: material.epochs,
            files,
        };
        let bytes = manifest.encode();
        if bytes.len() > MANIFEST_BYTES_MAX {
            return Err(format!("{} files are too many for a manifest", manifest.files.len()));
        }
        for place in manifest.places() {
            disk.sync_dir(&directory.join(subdirectory(place))).map_err(text)?;
        }
        whole_file::replace(disk, &directory.join(MANIFEST), &bytes).map_err(text)?;
        Ok(manifest)
    }

    /// Removes the checkpoint of an operation; one that is made is given up.
    pub(crate) fn close(&self, key: Key) {
        if let Some(under_way) = lock(&self.building).get(&key) {
            under_way.stop.cancel();
        }
        if let Some(source) = lock(&self.known).remove(&key) {
            remove(&source.directory);
        }
    }

    /// Removes what nobody reads any more, as long as the process lives.
    pub(crate) async fn expire(self: Arc<Self>) {
        loop {
            let oldest = lock(&self.known).values().map(|source| *lock(&source.used)).min();
            match oldest {
                None => self.changed.notified().await,
                Some(used) => {
                    tokio::time::sleep_until(used + KEPT).await;
                    let now = Instant::now();
                    let old: Vec<_> = lock(&self.known)
                        .iter()
                        .filter(|(_, source)| *lock(&source.used) + KEPT <= now)
                        .map(|(key, _)| *key)
                        .collect();
                    old.into_iter().for_each(|key| self.close(key));
                }
            }
        }
    }
}

/// What a checkpoint is made of.
pub(crate) struct Material {
    pub(crate) shared: Arc<CopyShared>,
    /// Of a copy.
    pub(crate) store: Option<Arc<dyn KvStore>>,
    /// Of an index, alone or beside a copy.
    pub(crate) catalog: Option<Catalog>,
    pub(crate) reader: LogReader,
    pub(crate) epochs: EpochTable,
    pub(crate) generation_bytes: u64,
}

/// The index as it is now, and what it reflects. One that is damaged is made anew where it is.
fn snapshot_index(directory: &Path, material: &mut Material) -> Result<Option<LogEnd>, String> {
    let Some(catalog) = material.catalog.take() else { return Ok(None) };
    let place = directory.join(subdirectory(SeedPlace::Catalog));
    let taken = catalog.snapshot(&place).and_then(|snapshot| {
        snapshot.verify()?;
        Ok(snapshot.reflected()?.map(|reflected| reflected.end))
    });
    match taken {
        Ok(end) => Ok(end),
        Err(error) => {
            let why = format!("the content index: {error}");
            if let CatalogError::Damaged(_) = error {
                material.shared.catalog.damaged(&why);
            }
            if material.store.is_none() {
                return Err(why);
            }
            tracing::warn!(database = %material.shared.name, why, "a seed goes without it");
            Catalog::remove(&place).map_err(text)?;
            Ok(None)
        }
    }
}

/// The store and its log, which begins where the index stands; says where the store stands.
fn checkpoint_store(
    disk: &dyn Disk,
    directory: &Path,
    material: &mut Material,
    store: Arc<dyn KvStore>,
    index: Option<LogEnd>,
) -> Result<LogEnd, String> {
    let log = directory.join(subdirectory(SeedPlace::Log));
    disk.create_dir_all(&log).map_err(text)?;
    let at = store.create_checkpoint(&directory.join("store")).map_err(text)?;
    drop(store);
    let from = index.and_then(|index| material.log_of_index(index.position, at.position));
    if index.is_some() && from.is_none() {
        Catalog::remove(&directory.join(subdirectory(SeedPlace::Catalog))).map_err(text)?;
    }
    copy_log(
        disk,
        &mut material.reader,
        (from.unwrap_or(at.position.generation), at.position),
        &log,
    )?;
    Ok(at)
}

impl Material {
    /// From which generation on log is sent, so that an index that stands at `index` can go on
    /// beside a store that stands at `store`; nothing if that log is gone or too long.
    fn log_of_index(&self, index: Position, store: Position) -> Option<Generation> {
        let first = self.reader.first_generation().unwrap_or(store.generation);
        let from = index.generation.max(Generation(1)).min(store.generation);
        let behind = Watermarks::distance_bytes(index, store, self.generation_bytes);
        (from >= first && behind <= SEED_LOG_BYTES_MAX).then_some(from)
    }
}

/// Copies the log from the beginning of a generation up to a position; a few MiB.
fn copy_log(
    disk: &dyn Disk,
    reader: &mut LogReader,
    (from, to): (Generation, Position),
    directory: &Path,
) -> Result<(), String> {
    let mut generation = from;
    while generation <= to.generation && to.generation.0 > 0 {
        let path = directory.join(format!("{:016x}.klog", generation.0));
        let last = generation == to.generation;
        let next = Position { generation: generation.next(), offset: 0 };
        let end = copy_generation(disk, reader, (generation, if last { to } else { next }), &path)?;
        if last && end != to {
            return Err(format!("the log cannot be read behind {end}"));
        }
        generation = generation.next();
    }
    Ok(())
}

/// Copies a generation up to a position, or to its end; says where that is.
fn copy_generation(
    disk: &dyn Disk,
    reader: &mut LogReader,
    (generation, to): (Generation, Position),
    path: &Path,
) -> Result<Position, String> {
    let file = disk.create(path).map_err(text)?;
    let mut at = Position { generation, offset: 0 };
    loop {
        let before = at;
        for chunk in reader.read(at, to, CHUNK_BYTES).map_err(text)? {
            file.write_at(chunk.position.offset, &chunk.bytes).map_err(text)?;
            at = chunk.end;
        }
        if at >= to || at == before {
            file.sync().map_err(text)?;
            return Ok(at);
        }
    }
}

/// What lies in a checkpoint, without digests. Files of the engine's own housekeeping have a dot.
fn list_files(disk: &dyn Disk, directory: &Path) -> Result<Vec<SeedFile>, String> {
    let mut files = Vec::new();
    for place in [SeedPlace::Log, SeedPlace::Store, SeedPlace::Catalog] {
        let home = directory.join(subdirectory(place));
        if !disk.exists(&home).map_err(text)? {
            continue;
        }
        for entry in disk.list(&home).map_err(text)? {
            if entry.is_dir || entry.name.starts_with('.') {
                continue;
            }
            let bytes = disk.open(&home.join(&entry.name)).and_then(|file| file.size());
            let bytes = bytes.map_err(text)?;
            files.push(SeedFile { place, name: entry.name, bytes, digest: 0 });
        }
    }
    Ok(files)
}

/// The digest of a whole file; `read` is told how far it is, and says whether to go on.
pub(crate) fn digest_of(
    disk: &dyn Disk,
    path: &Path,
    read: &mut dyn FnMut(u64) -> bool,
) -> Result<u128, String> {
    let file = disk.open(path).map_err(text)?;
    let (mut hasher, mut at) = (Xxh3::new(), 0);
    let mut buffer = vec![0; CHUNK_BYTES];
    loop {
        let count = file.read_at(at, &mut buffer).map_err(text)?;
        if count == 0 {
            return Ok(hasher.digest128());
        }
        hasher.update(&buffer[..count]);
        at += count as u64;
        if !read(at) {
            return Err("nobody waits for it any more".into());
        }
    }
}

fn load(disk: &dyn Disk, directory: &Path) -> Option<SeedManifest> {
    let bytes = whole_file::read(disk, &directory.join(MANIFEST), MANIFEST_BYTES_MAX).ok()??;
    SeedManifest::decode(&bytes).ok()
}

fn names(disk: &dyn Disk, directory: &Path) -> Vec<String> {
    let entries = disk.list(directory).unwrap_or_default();
    entries.into_iter().filter(|entry| entry.is_dir).map(|entry| entry.name).collect()
}

fn remove(directory: &Path) {
    match std::fs::remove_dir_all(directory) {
        Ok(()) => {
            // The last one takes the place with it.
            if let Some(parent) = directory.parent() {
                let _ = std::fs::remove_dir(parent);
            }
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => {
            tracing::warn!(%error, path = %directory.display(), "a checkpoint cannot be removed");
        }
    }
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}
