//! What is imported: finds the files, finds out their format, and hands out one record after the
//! other.

use std::fmt;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use keelson_types::RefusalReason;

use super::batch::{FileName, Found, Place};
use super::deb822::{Stanzas, is_field};
use super::input::{self, Input, Kind};
use super::json_lines::JsonLines;
use super::lines::{BYTE_ORDER_MARK, Lines};
use super::mbox::Mbox;
use super::table::Table;
use super::tree::{self, Entry, Listing, Tree};
use super::{Format, Shape};
use crate::failure::{Failure, Outcome};

/// Raised whenever the same source gives other keys than before: what an earlier version began is
/// then imported from the beginning.
const KEYS_VERSION: u64 = 3;

/// Files or a directory, with their format.
pub(super) struct Source {
    root: PathBuf,
    kind: Kind,
    format: Format,
    shape: Shape,
    entries: Vec<Entry>,
    /// Directories that cannot be read, to be reported.
    closed: Vec<(PathBuf, io::Error)>,
    /// Links, pipes and devices that were passed over.
    skipped: u64,
    /// The first file, if its beginning was read to find out its format.
    opened: Option<Input>,
    read: Arc<AtomicU64>,
    current: Option<Reader>,
    next: usize,
    taken: u64,
}

enum Reader {
    JsonLines(JsonLines),
    Table(Box<Table>),
    Mbox(Mbox),
    Stanzas(Stanzas),
    Tree(Tree),
}

/// Why a file gives no records, or no more.
enum Unread {
    Io(io::Error),
    /// Its header line is wrong.
    Header(String),
}

impl fmt::Display for Unread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => error.fmt(f),
            Self::Header(reason) => f.write_str(reason),
        }
    }
}

impl From<io::Error> for Unread {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl Source {
    /// Finds the files below `path`, and their format unless it is given. "-" is standard input.
    ///
    /// # Errors
    /// The path cannot be read, or its format cannot be found out.
    pub(super) fn open(path: &Path, format: Option<Format>, shape: Shape) -> Outcome<Self> {
        let failed = |error: io::Error| Failure::file(path, &error);
        let kind = Kind::of(path).map_err(failed)?;
        let read: Arc<AtomicU64> = Arc::default();
        let mut opened = None;
        let format = match format.or_else(|| format_of_name(path)) {
            Some(format) => format,
            None if kind == Kind::Directory => format_of_directory(path)?,
            None => {
                let input = input::open(path, read.clone()).map_err(failed)?;
                let (sample, whole) = input::sample(input).map_err(failed)?;
                opened = Some(whole);
                format_of_sample(&sample).ok_or_else(|| {
                    let message = format!("the format of {} cannot be found out", path.display());
                    Failure::usage(message, "name it with --format")
                })?
            }
        };
        if kind == Kind::Stream && matches!(format, Format::Tree | Format::Maildir) {
            let message = format!("{} is no file or directory", path.display());
            return Err(Failure::new(RefusalReason::BadArgument, message));
        }
        let Listing { entries, closed, skipped } = listing(path, format, kind).map_err(failed)?;
        if entries.is_empty() && closed.is_empty() {
            let message = format!("{} has nothing of format {}", path.display(), format.name());
            return Err(Failure::new(RefusalReason::BadArgument, message));
        }
        let root = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        let (current, next, taken) = (None, 0, 0);
        Ok(Self {
            root,
            kind,
            format,
            shape,
            entries,
            closed,
            skipped,
            opened,
            read,
            current,
            next,
            taken,
        })
    }

    /// Whether a second run meets the same bytes again.
    pub(super) fn is_resumable(&self) -> bool {
        self.kind != Kind::Stream
    }

    /// How many links, pipes and devices were passed over.
    pub(super) fn skipped(&self) -> u64 {
        self.skipped
    }

    pub(super) fn format(&self) -> Format {
        self.format
    }

    /// Bytes of all files.
    pub(super) fn total_bytes(&self) -> u64 {
        self.entries.iter().map(|entry| entry.bytes).sum()
    }

    /// Bytes read so far.
    pub(super) fn read_bytes(&self) -> u64 {
        self.read.load(Ordering::Relaxed) + self.taken
    }

    /// What the keys of its records begin with, if it is one file whose records may be numbered.
    pub(super) fn numbered_records(&self) -> Option<Bytes> {
        let numbers = matches!(self.format, Format::JsonLines | Format::Csv | Format::Mbox);
        let [entry] = self.entries.as_slice() else { return None };
        let numbered = numbers && self.shape.key_field.is_none();
        let prefix = self.shape.key_prefix.as_bytes();
        numbered.then(|| [prefix, &entry.key, b"/"].concat().into())
    }

    /// Names the path of this source, whatever lies there (64 bits of FNV-1a).
    pub(super) fn path_identity(&self) -> u64 {
        fnv(self.root.as_os_str().as_encoded_bytes())
    }

    /// Names this source as it is now: files, their sizes and times, and the options that shape the
    /// records. Another source, or this one changed, has another name (64 bits of FNV-1a).
    pub(super) fn identity(&self) -> u64 {
        let mut hash = Fnv::default();
        hash.add(&KEYS_VERSION.to_be_bytes());
        hash.add(self.format.name().as_bytes());
        hash.add(self.shape.key_field.as_deref().unwrap_or_default().as_bytes());
        hash.add(self.shape.key_prefix.as_bytes());
        for entry in &self.entries {
            let path = entry.path.canonicalize().unwrap_or_else(|_| entry.path.clone());
            hash.add(path.as_os_str().as_encoded_bytes());
            hash.add(&entry.bytes.to_be_bytes());
            hash.add(&entry.modified_nanos.to_be_bytes());
        }
        hash.0
    }

    /// The next record, or what is wrong with it; `None` at the end.
    ///
    /// # Errors
    /// The only file cannot be read; nothing behind that place is known. One of several is
    /// [`Found::Unread`].
    pub(super) fn next(&mut self) -> Outcome<Option<Found>> {
        if let Some((path, error)) = self.closed.pop() {
            let place = Place { file: path.as_os_str().as_bytes().into(), line: 0 };
            return Ok(Some(Found::Bad { place, reason: error.to_string() }));
        }
        loop {
            if self.current.is_none() {
                match self.open_next() {
                    Ok(Some(reader)) => self.current = Some(reader),
                    Ok(None) => return Ok(None),
                    Err(unread) => return self.unread(unread),
                }
            }
            let found = match self.current.as_mut() {
                Some(Reader::JsonLines(reader)) => reader.next(),
                Some(Reader::Table(reader)) => reader.next(),
                Some(Reader::Mbox(reader)) => reader.next(),
                Some(Reader::Stanzas(reader)) => reader.next(),
                Some(Reader::Tree(reader)) => Ok(reader.next().map(|(found, bytes)| {
                    self.taken += bytes;
                    found
                })),
                None => Ok(None),
            };
            match found {
                Ok(Some(found)) => return Ok(Some(found.checked(&self.shape.key_prefix))),
                Ok(None) => self.current = None,
                Err(error) => return self.unread(error.into()),
            }
        }
    }

    /// The rest of a file is left out, or, if there is no other, the import fails.
    fn unread(&mut self, unread: Unread) -> Outcome<Option<Found>> {
        self.current = None;
        let entry = &self.entries[self.next.saturating_sub(1)];
        if self.entries.len() > 1 {
            let place = Place { file: (&entry.key).into(), line: 0 };
            return Ok(Some(Found::Unread { place, reason: unread.to_string() }));
        }
        Err(match unread {
            Unread::Io(error) => Failure::file(&entry.path, &error),
            Unread::Header(reason) => {
                let message = format!("{}: {reason}", entry.path.display());
                Failure::new(RefusalReason::BadArgument, message)
            }
        })
    }

    fn open_next(&mut self) -> Result<Option<Reader>, Unread> {
        let shape = self.shape.clone();
        if matches!(self.format, Format::Tree | Format::Maildir) {
            let all = self.next == 0;
            self.next = self.entries.len();
            return Ok(all.then(|| Reader::Tree(Tree::new(self.entries.clone(), shape))));
        }
        let Some(entry) = self.entries.get(self.next) else { return Ok(None) };
        self.next += 1;
        let input = match self.opened.take() {
            Some(input) => input,
            None => input::open(&entry.path, self.read.clone())?,
        };
        let file = FileName::from(&entry.key);
        Ok(Some(match self.format {
            Format::JsonLines => Reader::JsonLines(JsonLines::new(Lines::new(input), file, shape)),
            Format::Mbox => Reader::Mbox(Mbox::new(Lines::new(input), file, shape)),
            Format::Deb822 => Reader::Stanzas(Stanzas::new(Lines::new(input), file, shape)),
            _ => {
                let tabs = plain_name(&entry.path).ends_with(".tsv");
                let table = Table::new(input, tabs, file, &shape).map_err(Unread::Header)?;
                Reader::Table(Box::new(table))
            }
        }))
    }
}

struct Fnv(u64);

impl Default for Fnv {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

/// The same number for the same bytes, on every machine and in every version.
pub(super) fn fnv(bytes: &[u8]) -> u64 {
    let mut hash = Fnv::default();
    hash.add(bytes);
    hash.0
}

impl Fnv {
    /// Adds a field with its length, so that fields cannot run into each other.
    fn add(&mut self, bytes: &[u8]) {
        for byte in (bytes.len() as u64).to_be_bytes().iter().chain(bytes) {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}

fn listing(path: &Path, format: Format, kind: Kind) -> io::Result<Listing> {
    if format == Format::Maildir {
        return tree::messages_of(path);
    }
    if kind == Kind::Directory {
        let mut found = tree::files_below(path)?;
        if format == Format::Deb822 {
            found.entries.retain(|entry| is_package_list(&entry.path));
        }
        return Ok(found);
    }
    let key = match input::is_standard_input(path) {
        true => b"stdin".to_vec(),
        false => path.file_name().unwrap_or_default().as_bytes().to_vec(),
    };
    // A stream has no size and no time of change.
    let (bytes, modified_nanos) = match kind {
        Kind::Stream => (0, 0),
        _ => std::fs::metadata(path).map(|m| (m.len(), tree::modified_nanos(&m)))?,
    };
    let entry = Entry { path: path.to_owned(), key, bytes, modified_nanos };
    Ok(Listing { entries: vec![entry], ..Listing::default() })
}

/// The file name in lower case, without the ending of a compressed file.
fn plain_name(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
    name.strip_suffix(".lz4").map(str::to_owned).unwrap_or(name)
}

fn is_package_list(path: &Path) -> bool {
    let name = plain_name(path);
    name.ends_with("_packages") || name == "packages" || name == "status"
}

fn format_of_directory(path: &Path) -> Outcome<Format> {
    if tree::is_mail_folder(path) {
        return Ok(Format::Maildir);
    }
    let mut files = std::fs::read_dir(path).map_err(|error| Failure::file(path, &error))?;
    let lists = files.any(|file| file.is_ok_and(|file| is_package_list(&file.path())));
    Ok(if lists { Format::Deb822 } else { Format::Tree })
}

/// The format that the name of a file stands for.
fn format_of_name(path: &Path) -> Option<Format> {
    if path.is_dir() {
        return None;
    }
    let name = plain_name(path);
    let ending = PathBuf::from(&name).extension().map(|e| e.to_string_lossy().into_owned());
    match ending.as_deref() {
        Some("jsonl" | "ndjson" | "json") => Some(Format::JsonLines),
        Some("csv" | "tsv") => Some(Format::Csv),
        Some("mbox" | "mbx") => Some(Format::Mbox),
        _ => is_package_list(path).then_some(Format::Deb822),
    }
}

/// The format that the first bytes look like.
fn format_of_sample(sample: &[u8]) -> Option<Format> {
    let sample = sample.strip_prefix(BYTE_ORDER_MARK).unwrap_or(sample);
    if sample.starts_with(b"From ") {
        return Some(Format::Mbox);
    }
    let line =
        sample.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii).find(|l| !l.is_empty())?;
    if line.starts_with(b"{") {
        return Some(Format::JsonLines);
    }
    if line.starts_with(b"Package:") || is_field(line) && line.contains(&b' ') {
        return Some(Format::Deb822);
    }
    let text = std::str::from_utf8(line).ok()?;
    text.contains(',').then_some(Format::Csv)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_are_found_out_from_the_first_line() {
        let cases: [(&[u8], Option<Format>); 7] = [
            (b"\xef\xbb\xbf{\"a\":1}\n", Some(Format::JsonLines)),
            (b"From a@b Mon\n", Some(Format::Mbox)),
            (b"\n {\"a\":1}\n", Some(Format::JsonLines)),
            (b"Package: a\nVersion: 1\n", Some(Format::Deb822)),
            (b"id,name\n1,a\n", Some(Format::Csv)),
            (b"\xff\xfe,\n", None),
            (b"", None),
        ];
        for (sample, expected) in cases {
            assert_eq!(format_of_sample(sample), expected, "{}", sample.escape_ascii());
        }
    }

    #[test]
    fn numbers_of_several_files_do_not_meet() {
        let root = std::env::temp_dir().join(format!("keelson-source-{}", uuid::Uuid::new_v4()));
        std::fs::create_dir_all(root.join("sub")).unwrap();
        let contents = [
            (Format::JsonLines, "{\"n\":1}\n"),
            (Format::Csv, "id\n1\n"),
            (Format::Mbox, "From a\nSubject: x\n\nbody\n"),
        ];
        for (format, text) in contents {
            std::fs::write(root.join("a"), text).unwrap();
            std::fs::write(root.join("sub/b"), text).unwrap();
            let keys = |path: &Path| {
                let mut source = Source::open(path, Some(format), Shape::default()).unwrap();
                let next = || match source.next().unwrap()? {
                    Found::Record { key, .. } => Some(key),
                    other => panic!("{other:?}"),
                };
                std::iter::from_fn(next).collect::<Vec<_>>()
            };
            assert_eq!(keys(&root), ["a/000000000001", "sub/b/000000000001"], "{format:?}");
            assert_eq!(keys(&root.join("a")), ["a/000000000001"], "{format:?}");
        }
        std::fs::remove_dir_all(&root).unwrap();
    }

    fn all(source: &mut Source) -> Vec<Found> {
        std::iter::from_fn(|| source.next().unwrap()).collect()
    }

    #[test]
    fn a_pipe_whose_format_is_found_out_loses_nothing() {
        let root = std::env::temp_dir().join(format!("keelson-source-{}", uuid::Uuid::new_v4()));
        std::fs::create_dir_all(&root).unwrap();
        let path = root.join("pipe");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let text = "{\"n\":1}\n".repeat(20_000);
        let writer = std::thread::spawn({
            let path = path.clone();
            move || std::fs::write(path, text).unwrap()
        });
        let mut source = Source::open(&path, None, Shape::default()).unwrap();
        assert_eq!((source.format(), source.is_resumable()), (Format::JsonLines, false));
        let found = all(&mut source);
        writer.join().unwrap();
        assert_eq!(found.len(), 20_000);
        let Found::Record { key, .. } = &found[0] else { panic!("{:?}", found[0]) };
        assert_eq!(key, "pipe/000000000001");
        assert!(Source::open(&path, Some(Format::Tree), Shape::default()).is_err());
        std::fs::remove_dir_all(&root).unwrap();
    }

    #[test]
    fn one_unreadable_file_of_several_is_named_and_the_only_one_is_an_error() {
        let root = std::env::temp_dir().join(format!("keelson-source-{}", uuid::Uuid::new_v4()));
        std::fs::create_dir_all(&root).unwrap();
        for name in ["a", "b", "c"] {
            std::fs::write(root.join(name), "{\"n\":1}\n").unwrap();
        }
        let open = |path: &Path| Source::open(path, Some(Format::JsonLines), Shape::default());
        let mut several = open(&root).unwrap();
        let mut only = open(&root.join("b")).unwrap();
        std::fs::remove_file(root.join("b")).unwrap();
        let found = all(&mut several);
        assert_eq!(found.len(), 3);
        assert!(matches!(&found[1], Found::Unread { place, .. } if place.to_string() == "b"));
        assert!(matches!(&found[2], Found::Record { key, .. } if key == "c/000000000001"));
        assert_eq!(only.next().unwrap_err().code, "file");
        std::fs::remove_dir_all(&root).unwrap();
    }

    #[test]
    fn a_compressed_file_is_read_and_its_identity_follows_its_options() {
        let root = std::env::temp_dir().join(format!("keelson-source-{}", uuid::Uuid::new_v4()));
        std::fs::create_dir_all(&root).unwrap();
        let path = root.join("x_Packages.lz4");
        let mut encoder = lz4_flex::frame::FrameEncoder::new(std::fs::File::create(&path).unwrap());
        io::Write::write_all(&mut encoder, b"Package: a\nVersion: 1\n").unwrap();
        encoder.finish().unwrap();
        let open = |prefix: &str| {
            let shape = Shape { key_prefix: prefix.into(), ..Shape::default() };
            Source::open(&root, None, shape).unwrap()
        };
        let mut source = open("p/");
        assert!(matches!(source.next(), Ok(Some(Found::Record { key, .. })) if key == "p/a/1"));
        assert!(matches!(source.next(), Ok(None)));
        assert_eq!(source.read_bytes(), source.total_bytes());
        assert_eq!(open("p/").identity(), source.identity());
        assert_ne!(open("").identity(), source.identity());
        assert_eq!(open("").path_identity(), source.path_identity());
        std::fs::remove_dir_all(&root).unwrap();
    }
}
