//! The real disk.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, IoSlice};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use keelson_env::{
    DirEntry, Disk, DiskError, DiskErrorKind, DiskFile, DiskResult, DiskVerb, ReadTotals,
};
use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, PosixFadviseAdvice, fallocate, posix_fadvise};
use nix::sys::stat::{major, minor, stat};
use nix::sys::statvfs::statvfs;
use nix::sys::uio::pwritev;

use crate::Quota;

/// Parts that one `pwritev` takes.
const PARTS_MAX: usize = 1_024;

/// Files of the operating system, with quotas for some directories if it was given any.
#[derive(Clone, Debug, Default)]
pub struct OsDisk {
    read_only: bool,
    quotas: Option<Arc<[Quota]>>,
}

impl OsDisk {
    /// The disk, for reading and writing.
    #[must_use]
    pub const fn new() -> Self {
        Self { read_only: false, quotas: None }
    }

    /// The disk, opening files for reading only; whatever changes something is `Denied`.
    #[must_use]
    pub const fn read_only() -> Self {
        Self { read_only: true, quotas: None }
    }

    /// The disk, for reading and writing, on which no more is free than each quota leaves.
    #[must_use]
    pub fn with_quotas(quotas: Vec<Quota>) -> Self {
        Self { read_only: false, quotas: (!quotas.is_empty()).then(|| quotas.into()) }
    }

    /// The quotas that limit a path.
    fn quotas_of(&self, path: &Path) -> impl Iterator<Item = &Quota> {
        let quotas = self.quotas.iter().flat_map(|quotas| quotas.iter());
        quotas.filter(move |quota| quota.covers(path))
    }

    fn may_change(&self, path: &Path, verb: DiskVerb) -> DiskResult<()> {
        if self.read_only { Err(DiskError::new(path, verb, DiskErrorKind::Denied)) } else { Ok(()) }
    }
}

fn kind(error: &io::Error) -> DiskErrorKind {
    match error.kind() {
        io::ErrorKind::NotFound => DiskErrorKind::NotFound,
        io::ErrorKind::AlreadyExists => DiskErrorKind::AlreadyExists,
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => DiskErrorKind::NoSpace,
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            DiskErrorKind::Denied
        }
        _ => DiskErrorKind::Io(error.to_string()),
    }
}

trait Named<T> {
    fn named(self, path: &Path, verb: DiskVerb) -> DiskResult<T>;
}

impl<T> Named<T> for io::Result<T> {
    fn named(self, path: &Path, verb: DiskVerb) -> DiskResult<T> {
        self.map_err(|error| DiskError::new(path, verb, kind(&error)))
    }
}

impl<T> Named<T> for nix::Result<T> {
    fn named(self, path: &Path, verb: DiskVerb) -> DiskResult<T> {
        self.map_err(io::Error::from).named(path, verb)
    }
}

impl Disk for OsDisk {
    fn create_dir_all(&self, path: &Path) -> DiskResult<()> {
        self.may_change(path, DiskVerb::CreateDir)?;
        fs::create_dir_all(path).named(path, DiskVerb::CreateDir)
    }

    fn list(&self, path: &Path) -> DiskResult<Vec<DirEntry>> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(path).named(path, DiskVerb::List)? {
            let entry = entry.named(path, DiskVerb::List)?;
            let is_dir = entry.file_type().named(path, DiskVerb::List)?.is_dir();
            entries
                .push(DirEntry { name: entry.file_name().to_string_lossy().into_owned(), is_dir });
        }
        entries.sort();
        Ok(entries)
    }

    fn open(&self, path: &Path) -> DiskResult<Arc<dyn DiskFile>> {
        let file = OpenOptions::new().read(true).write(!self.read_only).open(path);
        Ok(OsFile::shared(file.named(path, DiskVerb::Open)?, path))
    }

    fn create(&self, path: &Path) -> DiskResult<Arc<dyn DiskFile>> {
        self.may_change(path, DiskVerb::Create)?;
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(path);
        Ok(OsFile::shared(file.named(path, DiskVerb::Create)?, path))
    }

    fn remove(&self, path: &Path) -> DiskResult<()> {
        self.may_change(path, DiskVerb::Remove)?;
        fs::remove_file(path).named(path, DiskVerb::Remove)
    }

    fn rename(&self, from: &Path, to: &Path) -> DiskResult<()> {
        self.may_change(from, DiskVerb::Rename)?;
        fs::rename(from, to).named(from, DiskVerb::Rename)
    }

    fn exists(&self, path: &Path) -> DiskResult<bool> {
        path.try_exists().named(path, DiskVerb::Query)
    }

    fn sync_dir(&self, path: &Path) -> DiskResult<()> {
        self.may_change(path, DiskVerb::SyncDir)?;
        File::open(path).and_then(|directory| directory.sync_all()).named(path, DiskVerb::SyncDir)
    }

    fn free_bytes(&self, path: &Path) -> DiskResult<u64> {
        let volume = statvfs(path).named(path, DiskVerb::Query)?;
        let free = volume.blocks_available().saturating_mul(volume.fragment_size());
        let left = self.quotas_of(path).map(Quota::left).min();
        Ok(left.map_or(free, |left| left.min(free)))
    }

    fn total_bytes(&self, path: &Path) -> Option<u64> {
        let volume = statvfs(path).ok()?;
        let total = volume.blocks().saturating_mul(volume.fragment_size());
        let allowed = self.quotas_of(path).map(Quota::bytes).min();
        Some(allowed.map_or(total, |allowed| allowed.min(total)))
    }

    fn written_unix_ms(&self, path: &Path) -> Option<u64> {
        let written = fs::metadata(path).and_then(|metadata| metadata.modified()).ok()?;
        let since = written.duration_since(SystemTime::UNIX_EPOCH).ok()?;
        u64::try_from(since.as_millis()).ok()
    }

    /// From the kernel's accounts of the device; overlays and memory have none.
    fn read_totals(&self, path: &Path) -> Option<ReadTotals> {
        let device = stat(path).ok()?.st_dev;
        let (major, minor) = (major(device), minor(device));
        let text = fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/stat")).ok()?;
        let mut numbers = text.split_whitespace().map(str::parse::<u64>);
        let reads = numbers.next()?.ok()?;
        let millis = numbers.nth(2)?.ok()?;
        Some(ReadTotals { reads, millis })
    }
}

struct OsFile {
    file: File,
    path: PathBuf,
}

impl fmt::Debug for OsFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OsFile({})", self.path.display())
    }
}

impl OsFile {
    fn shared(file: File, path: &Path) -> Arc<dyn DiskFile> {
        Arc::new(Self { file, path: path.to_path_buf() })
    }

    fn offset(&self, value: u64, verb: DiskVerb) -> DiskResult<i64> {
        i64::try_from(value)
            .map_err(|_| DiskError::new(&self.path, verb, DiskErrorKind::Io("offset".to_owned())))
    }

    /// One `pwritev` of the parts not yet written; returns the bytes taken.
    fn write_some(&self, offset: u64, parts: &[&[u8]], skip: usize) -> DiskResult<usize> {
        let mut slices = Vec::with_capacity(parts.len().min(PARTS_MAX));
        let mut skip = skip;
        for part in parts {
            if slices.len() == PARTS_MAX {
                break;
            }
            match part.get(skip..) {
                Some(rest) if !rest.is_empty() => slices.push(IoSlice::new(rest)),
                _ => {}
            }
            skip = skip.saturating_sub(part.len());
        }
        let at = self.offset(offset, DiskVerb::Write)?;
        loop {
            match pwritev(&self.file, &slices, at) {
                Err(Errno::EINTR) => {}
                Ok(0) => {
                    let kind = DiskErrorKind::Io("the write took no bytes".to_owned());
                    return Err(DiskError::new(&self.path, DiskVerb::Write, kind));
                }
                other => return other.named(&self.path, DiskVerb::Write),
            }
        }
    }
}

impl DiskFile for OsFile {
    fn size(&self) -> DiskResult<u64> {
        self.file.metadata().map(|metadata| metadata.len()).named(&self.path, DiskVerb::Query)
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> DiskResult<usize> {
        let mut done = 0;
        while done < buffer.len() {
            match self.file.read_at(&mut buffer[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(count) => done += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error).named(&self.path, DiskVerb::Read),
            }
        }
        Ok(done)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> DiskResult<()> {
        self.file.write_all_at(bytes, offset).named(&self.path, DiskVerb::Write)
    }

    fn write_parts_at(&self, offset: u64, parts: &[&[u8]]) -> DiskResult<()> {
        let (mut parts, mut at, mut skip) = (parts, offset, 0);
        loop {
            // Whole parts that are written, and empty ones, are left behind.
            while let Some((first, rest)) = parts.split_first().filter(|(f, _)| f.len() <= skip) {
                skip -= first.len();
                parts = rest;
            }
            if parts.is_empty() {
                return Ok(());
            }
            let taken = self.write_some(at, parts, skip)?;
            at += taken as u64;
            skip += taken;
        }
    }

    fn sync(&self) -> DiskResult<()> {
        self.file.sync_data().named(&self.path, DiskVerb::Sync)
    }

    fn set_len(&self, bytes: u64) -> DiskResult<()> {
        self.file.set_len(bytes).named(&self.path, DiskVerb::SetLen)
    }

    fn allocate(&self, offset: u64, bytes: u64) -> DiskResult<()> {
        if bytes == 0 {
            return Ok(());
        }
        let (at, length) =
            (self.offset(offset, DiskVerb::Allocate)?, self.offset(bytes, DiskVerb::Allocate)?);
        match fallocate(&self.file, FallocateFlags::empty(), at, length) {
            // A file system without reservations: the length at least must be as promised.
            Err(Errno::EOPNOTSUPP) if self.size()? < offset + bytes => self.set_len(offset + bytes),
            Err(Errno::EOPNOTSUPP) => Ok(()),
            other => other.named(&self.path, DiskVerb::Allocate),
        }
    }

    fn drop_cache(&self) -> DiskResult<()> {
        posix_fadvise(&self.file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED)
            .named(&self.path, DiskVerb::DropCache)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_conforms() {
        let directory = tempfile::tempdir().expect("creates");
        keelson_env::disk_conformance::all(&OsDisk::new(), directory.path());
    }

    #[test]
    fn a_quota_counts_whatever_lies_below_its_directory() {
        const MIB: u64 = 1024 * 1024;
        let directory = tempfile::tempdir().expect("creates");
        let (limited, free) = (directory.path().join("limited"), directory.path().join("free"));
        fs::create_dir_all(limited.join("deep/er")).expect("creates");
        fs::create_dir_all(&free).expect("creates");
        let volume = OsDisk::new().free_bytes(&free).expect("answers");
        let ask = |path: &Path| {
            let quota = Quota::new(limited.clone(), 3 * MIB);
            OsDisk::with_quotas(vec![quota]).free_bytes(path).expect("answers")
        };
        let ballast = limited.join("deep/er/ballast");
        fs::write(&ballast, vec![1; 2 * MIB as usize]).expect("writes");
        assert!(ask(&limited.join("deep")) <= MIB);
        assert!(ask(&free) > volume / 2, "no quota there");
        let disk = OsDisk::with_quotas(vec![Quota::new(limited.clone(), 3 * MIB)]);
        assert_eq!(disk.total_bytes(&limited.join("deep")), Some(3 * MIB));
        assert_eq!(disk.total_bytes(&free), OsDisk::new().total_bytes(&free));
        fs::write(limited.join("stranger"), vec![1; 2 * MIB as usize]).expect("writes");
        assert_eq!(ask(&limited), 0);
        fs::remove_file(&ballast).expect("removes");
        assert!(ask(&limited) > MIB / 2);
    }

    #[test]
    fn a_read_only_disk_changes_nothing() {
        let directory = tempfile::tempdir().expect("creates");
        let path = directory.path().join("f");
        OsDisk::new().create(&path).expect("creates").write_at(0, b"x").expect("writes");
        let disk = OsDisk::read_only();
        assert!(disk.open(&path).expect("opens").write_at(0, b"y").is_err());
        let error = disk.remove(&path).expect_err("denied");
        assert_eq!(error.kind, DiskErrorKind::Denied);
    }
}
