//! What is imported: finds the files, finds out their format, and hands out one record after the
//! other.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use keelson_types::RefusalReason;
use lz4_flex::frame::FrameDecoder;

use super::batch::Found;
use super::deb822::{Stanzas, is_field};
use super::json_lines::JsonLines;
use super::lines::Lines;
use super::mbox::Mbox;
use super::table::Table;
use super::tree::{self, Entry, Tree};
use super::{Format, Shape};
use crate::failure::{Failure, Outcome};

/// How much of a file is looked at to find out its format.
const SAMPLE_BYTES: u64 = 64 * 1024;

/// Raised whenever the same source gives other keys than before: what an earlier version began is
/// then imported from the beginning.
const KEYS_VERSION: u64 = 2;

/// Files or a directory, with their format.
pub(super) struct Source {
    root: PathBuf,
    format: Format,
    shape: Shape,
    entries: Vec<Entry>,
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

impl Source {
    /// Finds the files below `path`, and their format unless it is given.
    ///
    /// # Errors
    /// The path cannot be read, or its format cannot be found out.
    pub(super) fn open(path: &Path, format: Option<Format>, shape: Shape) -> Outcome<Self> {
        let metadata = std::fs::metadata(path).map_err(|error| Failure::file(path, &error))?;
        let format = match format {
            Some(format) => format,
            None if metadata.is_dir() => format_of_directory(path)?,
            None => format_of_file(path)?,
        };
        let entries = entries(path, format, metadata.is_dir())
            .map_err(|error| Failure::file(path, &error))?;
        if entries.is_empty() {
            let message = format!("{} has nothing of format {}", path.display(), format.name());
            return Err(Failure::new(RefusalReason::BadArgument, message));
        }
        Ok(Self {
            root: path.canonicalize().unwrap_or_else(|_| path.to_owned()),
            format,
            shape,
            entries,
            read: Arc::default(),
            current: None,
            next: 0,
            taken: 0,
        })
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
    /// A file cannot be read; nothing behind that place is known.
    pub(super) fn next(&mut self) -> Outcome<Option<Found>> {
        loop {
            if self.current.is_none() {
                match self.open_next()? {
                    Some(reader) => self.current = Some(reader),
                    None => return Ok(None),
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
            let file = &self.entries[self.next.saturating_sub(1)].path;
            match found.map_err(|error| Failure::file(file, &error))? {
                Some(found) => return Ok(Some(found.checked(&self.shape.key_prefix))),
                None => self.current = None,
            }
        }
    }

    fn open_next(&mut self) -> Outcome<Option<Reader>> {
        let shape = self.shape.clone();
        if matches!(self.format, Format::Tree | Format::Maildir) {
            let all = self.next == 0;
            self.next = self.entries.len();
            return Ok(all.then(|| Reader::Tree(Tree::new(self.entries.clone(), shape))));
        }
        let Some(entry) = self.entries.get(self.next) else { return Ok(None) };
        self.next += 1;
        let input = open_file(&entry.path, Some(self.read.clone()))
            .map_err(|error| Failure::file(&entry.path, &error))?;
        let file: Arc<str> = Arc::from(entry.key.as_str());
        Ok(Some(match self.format {
            Format::JsonLines => Reader::JsonLines(JsonLines::new(Lines::new(input), file, shape)),
            Format::Mbox => Reader::Mbox(Mbox::new(Lines::new(input), file, shape)),
            Format::Deb822 => Reader::Stanzas(Stanzas::new(Lines::new(input), file, shape)),
            _ => {
                let tabs = plain_name(&entry.path).ends_with(".tsv");
                let table = Table::new(input, tabs, file, &shape).map_err(|reason| {
                    let message = format!("{}: {reason}", entry.path.display());
                    Failure::new(RefusalReason::BadArgument, message)
                })?;
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

fn entries(path: &Path, format: Format, directory: bool) -> io::Result<Vec<Entry>> {
    if format == Format::Maildir {
        return tree::messages_of(path);
    }
    if directory {
        let mut found = tree::files_below(path)?;
        if format == Format::Deb822 {
            found.retain(|entry| is_package_list(&entry.path));
        }
        return Ok(found);
    }
    let metadata = std::fs::metadata(path)?;
    Ok(vec![Entry {
        path: path.to_owned(),
        key: path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        bytes: metadata.len(),
        modified_nanos: tree::modified_nanos(&metadata),
    }])
}

/// Opens a file; what is read of it, before decompression, is added to `counter`.
fn open_file(path: &Path, counter: Option<Arc<AtomicU64>>) -> io::Result<Box<dyn BufRead + Send>> {
    let file = Counting { file: File::open(path)?, counter: counter.unwrap_or_default() };
    let file = BufReader::with_capacity(256 * 1024, file);
    if path.extension().is_some_and(|extension| extension == "lz4") {
        return Ok(Box::new(BufReader::with_capacity(256 * 1024, FrameDecoder::new(file))));
    }
    Ok(Box::new(file))
}

struct Counting {
    file: File,
    counter: Arc<AtomicU64>,
}

impl Read for Counting {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read(buffer)?;
        self.counter.fetch_add(count as u64, Ordering::Relaxed);
        Ok(count)
    }
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

fn format_of_file(path: &Path) -> Outcome<Format> {
    let name = plain_name(path);
    let ending = PathBuf::from(&name).extension().map(|e| e.to_string_lossy().into_owned());
    match ending.as_deref() {
        Some("jsonl" | "ndjson" | "json") => return Ok(Format::JsonLines),
        Some("csv" | "tsv") => return Ok(Format::Csv),
        Some("mbox" | "mbx") => return Ok(Format::Mbox),
        _ if is_package_list(path) => return Ok(Format::Deb822),
        _ => {}
    }
    let mut sample = Vec::new();
    open_file(path, None)
        .and_then(|input| input.take(SAMPLE_BYTES).read_to_end(&mut sample))
        .map_err(|error| Failure::file(path, &error))?;
    format_of_sample(&sample).ok_or_else(|| {
        Failure::usage(
            format!("the format of {} cannot be found out", path.display()),
            "name it with --format",
        )
    })
}

/// The format that the first bytes look like.
fn format_of_sample(sample: &[u8]) -> Option<Format> {
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
        let cases: [(&[u8], Option<Format>); 6] = [
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
                    Found::Bad { place, reason } => panic!("{place}: {reason}"),
                };
                std::iter::from_fn(next).collect::<Vec<_>>()
            };
            assert_eq!(keys(&root), ["a/000000000001", "sub/b/000000000001"], "{format:?}");
            assert_eq!(keys(&root.join("a")), ["a/000000000001"], "{format:?}");
        }
        std::fs::remove_dir_all(&root).unwrap();
    }

    #[test]
    fn a_compressed_file_is_read_and_its_identity_follows_its_options() {
        let root = std::env::temp_dir().join(format!("keelson-source-{}", uuid::Uuid::new_v4()));
        std::fs::create_dir_all(&root).unwrap();
        let path = root.join("x_Packages.lz4");
        let mut encoder = lz4_flex::frame::FrameEncoder::new(File::create(&path).unwrap());
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
