//! The source of a seed: checkpoints of copies on this member, kept for the targets that read them.
//!
//! A checkpoint lies in `databases/<database>/seed-source/<operation>/`: the store (hard links),
//! the log of its generation up to the place where the store stands, and the manifest, written
//! last. So a crash leaves a checkpoint with a manifest, from which the seed goes on, or something
//! that the next start removes. One that nobody read for [`KEPT`] is removed, too: the files of its
//! store are given back to the volume only then.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use keelson_env::{Disk, KvStore};
use keelson_format::{MANIFEST_BYTES_MAX, SeedFile, SeedManifest, SeedPlace};
use keelson_log::LogReader;
use keelson_types::{CheckpointId, CopyId, DatabaseId, EpochTable, OperationId, RefusalReason};
use keelson_wire::Refusal;
use tokio::sync::Notify;
use tokio::time::Instant;
use uuid::Uuid;
use xxhash_rust::xxh3::Xxh3;

use super::CHUNK_BYTES;
use crate::shared::CopyShared;
use crate::whole_file;

/// A checkpoint that nobody reads stays so long: a target may be restarted, or repaired.
const KEPT: Duration = Duration::from_secs(15 * 60);
/// Checkpoints of a member at a time.
const SOURCES_MAX: usize = 16;

const DIRECTORY: &str = "seed-source";
const MANIFEST: &str = "manifest";

/// A checkpoint that targets may read.
#[derive(Debug)]
pub(crate) struct Source {
    pub(crate) directory: PathBuf,
    pub(crate) manifest: SeedManifest,
    used: Mutex<Instant>,
}

impl Source {
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
    }
}

type Key = (DatabaseId, OperationId);

/// All checkpoints of this member.
#[derive(Debug)]
pub(crate) struct SeedSources {
    disk: Arc<dyn Disk>,
    root: PathBuf,
    known: Mutex<BTreeMap<Key, Arc<Source>>>,
    /// Being made.
    building: Mutex<BTreeMap<Key, ()>>,
    changed: Notify,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The right to make the checkpoint of an operation; given back when dropped.
pub(crate) struct Building<'a> {
    of: &'a SeedSources,
    key: Key,
}

impl Drop for Building<'_> {
    fn drop(&mut self) {
        lock(&self.of.building).remove(&self.key);
    }
}

impl SeedSources {
    /// Finds what earlier lives left below the data directory.
    pub(crate) fn open(data: &Path, disk: Arc<dyn Disk>) -> Self {
        let root = data.join("databases");
        let mut known = BTreeMap::new();
        for database in names(&*disk, &root) {
            let Ok(id) = database.parse::<DatabaseId>() else { continue };
            let sources = root.join(&database).join(DIRECTORY);
            for name in names(&*disk, &sources) {
                let directory = sources.join(&name);
                let found = load(&*disk, &directory).filter(|manifest| manifest.database == id);
                if let (Ok(operation), Some(manifest)) = (name.parse::<OperationId>(), found) {
                    let source = Source { directory, manifest, used: Mutex::new(Instant::now()) };
                    known.insert((id, operation), Arc::new(source));
                } else {
                    remove(&directory);
                }
            }
        }
        let known = Mutex::new(known);
        Self { disk, root, known, building: Mutex::default(), changed: Notify::new() }
    }

    /// The checkpoint of an operation, if it is this one.
    pub(crate) fn find(&self, key: Key, checkpoint: CheckpointId) -> Option<Arc<Source>> {
        let found = lock(&self.known).get(&key).cloned();
        let found = found.filter(|source| source.manifest.checkpoint == checkpoint)?;
        found.touch();
        Some(found)
    }

    /// Begins a new checkpoint; an older one of the operation goes.
    pub(crate) fn begin(&self, key: Key) -> Result<Building<'_>, Refusal> {
        self.close(key);
        let busy = || {
            let what = format!("{SOURCES_MAX} checkpoints are kept for seeds here already");
            Refusal::new(RefusalReason::Overloaded, what)
        };
        let mut building = lock(&self.building);
        if lock(&self.known).len() + building.len() >= SOURCES_MAX {
            return Err(busy());
        }
        if building.insert(key, ()).is_some() {
            let what = "the checkpoint is being made";
            return Err(Refusal::new(RefusalReason::Overloaded, what));
        }
        Ok(Building { of: self, key })
    }

    fn directory(&self, (database, operation): Key) -> PathBuf {
        self.root.join(database.to_string()).join(DIRECTORY).join(operation.to_string())
    }

    /// Makes the checkpoint. Blocking; reading all of it takes as long as the disk takes.
    /// `read` is told the bytes read and all bytes, and says whether anybody still waits.
    pub(crate) fn build(
        &self,
        building: &Building<'_>,
        material: Material,
        read: &mut dyn FnMut(u64, u64) -> bool,
    ) -> Result<Arc<Source>, String> {
        let directory = self.directory(building.key);
        remove(&directory);
        let built = self.build_in(&directory, material, read);
        let manifest = match built {
            Ok(manifest) => manifest,
            Err(why) => {
                remove(&directory);
                return Err(why);
            }
        };
        let source = Source { directory, manifest, used: Mutex::new(Instant::now()) };
        let source = Arc::new(source);
        lock(&self.known).insert(building.key, source.clone());
        self.changed.notify_one();
        Ok(source)
    }

    fn build_in(
        &self,
        directory: &Path,
        mut material: Material,
        read: &mut dyn FnMut(u64, u64) -> bool,
    ) -> Result<SeedManifest, String> {
        let disk = &*self.disk;
        disk.create_dir_all(&directory.join("log")).map_err(text)?;
        let store = directory.join("store");
        let at = material.store.create_checkpoint(&store).map_err(text)?;
        drop(material.store);
        material.epochs.cut(at.position);
        let mut files = Vec::new();
        if at.position.generation.0 > 0 {
            let name = format!("{:016x}.klog", at.position.generation.0);
            let path = directory.join("log").join(&name);
            let bytes = copy_log(disk, &mut material.reader, at.position, &path)?;
            files.push(SeedFile { place: SeedPlace::Log, name, bytes, digest: 0 });
        }
        for entry in disk.list(&store).map_err(text)? {
            let path = store.join(&entry.name);
            let bytes = disk.open(&path).and_then(|file| file.size()).map_err(text)?;
            files.push(SeedFile { place: SeedPlace::Store, name: entry.name, bytes, digest: 0 });
        }
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
            database: material.database,
            stream: material.stream,
            source: material.copy,
            at,
            epochs: material.epochs,
            files,
        };
        let bytes = manifest.encode();
        if bytes.len() > MANIFEST_BYTES_MAX {
            return Err(format!("{} files are too many for a manifest", manifest.files.len()));
        }
        [&store, &directory.join("log")]
            .into_iter()
            .try_for_each(|d| disk.sync_dir(d))
            .map_err(text)?;
        whole_file::replace(disk, &directory.join(MANIFEST), &bytes).map_err(text)?;
        Ok(manifest)
    }

    /// Removes the checkpoint of an operation.
    pub(crate) fn close(&self, key: Key) {
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
    pub(crate) database: DatabaseId,
    pub(crate) stream: keelson_types::StreamId,
    pub(crate) copy: CopyId,
    pub(crate) store: Arc<dyn KvStore>,
    pub(crate) reader: LogReader,
    pub(crate) epochs: EpochTable,
}

impl Material {
    pub(crate) fn of(
        shared: &CopyShared,
        store: Arc<dyn KvStore>,
        reader: LogReader,
        epochs: EpochTable,
    ) -> Self {
        let (database, stream, copy) = (shared.database, shared.stream, shared.copy);
        Self { database, stream, copy, store, reader, epochs }
    }
}

/// Copies the log of one generation up to a position; a few MiB.
fn copy_log(
    disk: &dyn Disk,
    reader: &mut LogReader,
    to: keelson_types::Position,
    path: &Path,
) -> Result<u64, String> {
    let file = disk.create(path).map_err(text)?;
    let mut at = keelson_types::Position { generation: to.generation, offset: 0 };
    while at < to {
        let chunks = reader.read(at, to, CHUNK_BYTES).map_err(text)?;
        let before = at;
        for chunk in chunks {
            file.write_at(chunk.position.offset, &chunk.bytes).map_err(text)?;
            at = chunk.end;
        }
        if at == before {
            return Err(format!("the log cannot be read behind {at}"));
        }
    }
    file.sync().map_err(text)?;
    Ok(to.offset)
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
