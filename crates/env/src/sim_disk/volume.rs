//! The state of a simulated volume: what reads show, what the disk holds, and the names of both.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::{DirEntry, DiskErrorKind};

use super::SECTOR_BYTES;
use super::faults::{Faults, SplitMix64};

type Kind<T> = Result<T, DiskErrorKind>;

/// One file, twice: as the cache shows it and as the disk holds it.
#[derive(Clone, Default, Debug)]
pub(crate) struct Inode {
    pub(crate) current: Vec<u8>,
    durable: Vec<u8>,
    /// Sectors changed since the last sync.
    dirty: BTreeSet<u64>,
    /// Sectors that a failed sync left clean: reads show them, the disk never got them.
    lost: BTreeSet<u64>,
    length_dirty: bool,
}

impl Inode {
    fn mark(&mut self, from: u64, to: u64) {
        for sector in from / SECTOR_BYTES..to.div_ceil(SECTOR_BYTES) {
            self.dirty.insert(sector);
            self.lost.remove(&sector);
        }
    }

    fn resize(&mut self, length: u64) {
        let old = self.current.len() as u64;
        if old == length {
            return;
        }
        self.current.resize(to_usize(length), 0);
        self.length_dirty = true;
        self.mark(old.min(length), old.max(length));
        let sectors = length.div_ceil(SECTOR_BYTES);
        self.lost.retain(|sector| *sector < sectors);
    }

    pub(crate) fn write(&mut self, offset: u64, bytes: &[u8]) {
        let end = offset + bytes.len() as u64;
        if end > self.current.len() as u64 {
            self.resize(end);
        }
        self.current[to_usize(offset)..to_usize(end)].copy_from_slice(bytes);
        self.mark(offset, end);
    }

    /// The disk takes one sector of the cache.
    fn persist(&mut self, sector: u64) {
        copy_sector(&self.current, &mut self.durable, sector);
    }

    pub(crate) fn sync(&mut self) {
        self.durable.resize(self.current.len(), 0);
        for sector in std::mem::take(&mut self.dirty) {
            self.persist(sector);
        }
        self.length_dirty = false;
    }

    /// The kernel gives up on the changed pages and calls them clean.
    pub(crate) fn fail_sync(&mut self) {
        self.lost.append(&mut self.dirty);
    }

    /// Clean sectors are read from the disk again.
    pub(crate) fn drop_cache(&mut self) {
        if self.length_dirty && self.dirty.is_empty() {
            self.current.resize(self.durable.len(), 0);
            self.length_dirty = false;
        }
        for sector in std::mem::take(&mut self.lost) {
            copy_sector(&self.durable, &mut self.current, sector);
        }
    }

    /// Power is lost: each changed sector survives with `numerator` chances in four.
    fn crash(&mut self, random: &mut SplitMix64, numerator: u64) {
        if self.length_dirty && random.chance(numerator, 4) {
            self.durable.resize(self.current.len(), 0);
        }
        for sector in std::mem::take(&mut self.dirty) {
            if random.chance(numerator, 4) {
                self.persist(sector);
            }
        }
        self.lost.clear();
        self.length_dirty = false;
        self.current = self.durable.clone();
    }
}

/// Copies one sector between two versions of a file, as far as both reach; beyond the end of the
/// source it is zeros.
fn copy_sector(from: &[u8], to: &mut [u8], sector: u64) {
    let start = to_usize(sector * SECTOR_BYTES);
    let end = (start + to_usize(SECTOR_BYTES)).min(to.len());
    let Some(target) = to.get_mut(start..end) else { return };
    let source = from.get(start..).unwrap_or_default();
    let whole = source.len().min(target.len());
    target[..whole].copy_from_slice(&source[..whole]);
    target[whole..].fill(0);
}

fn to_usize(value: u64) -> usize {
    usize::try_from(value).expect("simulated files fit the address space")
}

/// A change of names that is not durable yet.
#[derive(Clone, Debug)]
enum NameChange {
    Link { path: PathBuf, inode: u64 },
    Unlink { path: PathBuf },
    Rename { from: PathBuf, to: PathBuf, inode: u64 },
}

impl NameChange {
    fn touches(&self, directory: &Path) -> bool {
        let inside = |path: &Path| path.parent() == Some(directory);
        match self {
            Self::Link { path, .. } | Self::Unlink { path } => inside(path),
            Self::Rename { from, to, .. } => inside(from) || inside(to),
        }
    }

    fn apply(self, names: &mut BTreeMap<PathBuf, u64>) {
        match self {
            Self::Link { path, inode } => {
                names.insert(path, inode);
            }
            Self::Unlink { path } => {
                names.remove(&path);
            }
            Self::Rename { from, to, inode } => {
                if names.get(&from) == Some(&inode) {
                    names.remove(&from);
                }
                names.insert(to, inode);
            }
        }
    }
}

/// The whole volume.
#[derive(Clone, Default, Debug)]
pub(crate) struct Volume {
    pub(crate) faults: Faults,
    pub(crate) quota: Option<u64>,
    /// Rises when handles die.
    pub(crate) life: u64,
    pub(crate) inodes: BTreeMap<u64, Inode>,
    next_inode: u64,
    pub(crate) directories: BTreeSet<PathBuf>,
    names: BTreeMap<PathBuf, u64>,
    durable_names: BTreeMap<PathBuf, u64>,
    pending: Vec<NameChange>,
}

impl Volume {
    pub(crate) fn inode_of(&self, path: &Path) -> Option<u64> {
        self.names.get(path).copied()
    }

    fn parent_exists(&self, path: &Path) -> bool {
        match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() && parent != Path::new("/") => {
                self.directories.contains(parent)
            }
            _ => true,
        }
    }

    pub(crate) fn create_dir_all(&mut self, path: &Path) -> Kind<()> {
        for ancestor in path.ancestors().filter(|a| !a.as_os_str().is_empty()) {
            if self.names.contains_key(ancestor) {
                return Err(DiskErrorKind::AlreadyExists);
            }
            self.directories.insert(ancestor.to_path_buf());
        }
        Ok(())
    }

    pub(crate) fn list(&self, path: &Path) -> Kind<Vec<DirEntry>> {
        if !self.directories.contains(path) {
            return Err(DiskErrorKind::NotFound);
        }
        let entry = |child: &Path, is_dir: bool| {
            let name = child.file_name().filter(|_| child.parent() == Some(path))?;
            Some(DirEntry { name: name.to_string_lossy().into_owned(), is_dir })
        };
        let files = self.names.keys().filter_map(|child| entry(child, false));
        let directories = self.directories.iter().filter_map(|child| entry(child, true));
        let mut entries: Vec<_> = files.chain(directories).collect();
        entries.sort();
        Ok(entries)
    }

    pub(crate) fn create(&mut self, path: &Path) -> Kind<u64> {
        if !self.parent_exists(path) {
            return Err(DiskErrorKind::NotFound);
        }
        if self.names.contains_key(path) || self.directories.contains(path) {
            return Err(DiskErrorKind::AlreadyExists);
        }
        self.next_inode += 1;
        let inode = self.next_inode;
        self.inodes.insert(inode, Inode::default());
        self.names.insert(path.to_path_buf(), inode);
        self.pending.push(NameChange::Link { path: path.to_path_buf(), inode });
        Ok(inode)
    }

    pub(crate) fn remove(&mut self, path: &Path) -> Kind<()> {
        self.names.remove(path).ok_or(DiskErrorKind::NotFound)?;
        self.pending.push(NameChange::Unlink { path: path.to_path_buf() });
        Ok(())
    }

    pub(crate) fn rename(&mut self, from: &Path, to: &Path) -> Kind<()> {
        if !self.parent_exists(to) {
            return Err(DiskErrorKind::NotFound);
        }
        let inode = self.names.remove(from).ok_or(DiskErrorKind::NotFound)?;
        self.names.insert(to.to_path_buf(), inode);
        let (from, to) = (from.to_path_buf(), to.to_path_buf());
        self.pending.push(NameChange::Rename { from, to, inode });
        Ok(())
    }

    pub(crate) fn sync_dir(&mut self, directory: &Path) -> Kind<()> {
        if !self.directories.contains(directory) {
            return Err(DiskErrorKind::NotFound);
        }
        for change in std::mem::take(&mut self.pending) {
            if change.touches(directory) {
                change.apply(&mut self.durable_names);
            } else {
                self.pending.push(change);
            }
        }
        Ok(())
    }

    pub(crate) fn used_bytes(&self) -> u64 {
        self.names.values().map(|inode| self.inodes[inode].current.len() as u64).sum()
    }

    pub(crate) fn free_bytes(&self) -> u64 {
        self.quota.map_or(u64::MAX / 2, |quota| quota.saturating_sub(self.used_bytes()))
    }

    /// Writes as much as the quota allows.
    pub(crate) fn write(&mut self, inode: u64, offset: u64, bytes: &[u8]) -> Kind<()> {
        let length = self.inodes[&inode].current.len() as u64;
        let end = offset + bytes.len() as u64;
        let room = length.saturating_add(self.free_bytes()).max(length);
        let fits = end.min(room).saturating_sub(offset);
        let file = self.inodes.get_mut(&inode).expect("an open file has an inode");
        if fits > 0 {
            file.write(offset, &bytes[..to_usize(fits)]);
        }
        if offset + fits < end { Err(DiskErrorKind::NoSpace) } else { Ok(()) }
    }

    pub(crate) fn set_len(&mut self, inode: u64, length: u64) -> Kind<()> {
        let free = self.free_bytes();
        let file = self.inodes.get_mut(&inode).expect("an open file has an inode");
        if length.saturating_sub(file.current.len() as u64) > free {
            return Err(DiskErrorKind::NoSpace);
        }
        file.resize(length);
        Ok(())
    }

    pub(crate) fn crash(&mut self, seed: u64) {
        let mut random = SplitMix64::new(seed);
        // Extremes are drawn as often as mixtures: nothing lost and all lost are the common cases.
        let numerator = random.below(5);
        let mut pending = std::mem::take(&mut self.pending);
        let kept = match random.below(3) {
            0 => 0,
            1 => pending.len(),
            _ => to_usize(random.below(pending.len() as u64 + 1)),
        };
        pending.truncate(kept);
        for change in pending {
            change.apply(&mut self.durable_names);
        }
        for inode in self.inodes.values_mut() {
            inode.crash(&mut random, numerator);
        }
        self.names = self.durable_names.clone();
        self.forget_nameless();
        self.restart_process();
    }

    pub(crate) fn restart_process(&mut self) {
        self.life += 1;
        self.faults.crashed = false;
        self.faults.crash_at = None;
        self.faults.fail_sync_in = None;
        self.faults.fail_write_in = None;
    }

    fn forget_nameless(&mut self) {
        let named: BTreeSet<u64> = self.names.values().copied().collect();
        self.inodes.retain(|inode, _| named.contains(inode));
    }

    pub(crate) fn duplicate(&self) -> Self {
        let mut copy = self.clone();
        copy.pending.clear();
        copy.durable_names = copy.names.clone();
        for inode in copy.inodes.values_mut() {
            inode.sync();
            inode.durable = inode.current.clone();
            inode.lost.clear();
        }
        copy.restart_process();
        copy
    }

    pub(crate) fn wipe(&mut self) {
        self.inodes.clear();
        self.names.clear();
        self.durable_names.clear();
        self.directories.clear();
        self.pending.clear();
        self.restart_process();
    }

    pub(crate) fn flip_bit(&mut self, path: &Path, offset: u64, bit: u8) -> bool {
        let Some(inode) = self.inode_of(path) else { return false };
        let file = self.inodes.get_mut(&inode).expect("a name has an inode");
        let at = to_usize(offset);
        let Some(byte) = file.current.get_mut(at) else { return false };
        *byte ^= 1 << (bit & 7);
        if let Some(byte) = file.durable.get_mut(at) {
            *byte ^= 1 << (bit & 7);
        }
        true
    }
}
