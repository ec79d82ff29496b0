//! Opens what is imported: files and pipes, decompressed if their name says so.
//!
//! A pipe is read once: what was looked at to find out its format comes before the rest of it.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Cursor, Read};
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use lz4_flex::frame::FrameDecoder;

/// How much of a file is looked at to find out its format.
const SAMPLE_BYTES: u64 = 64 * 1024;

/// Bytes of a file, in their order.
pub(super) type Input = Box<dyn BufRead + Send>;

/// What lies at a path.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    Directory,
    /// It can be read again, so that an import of it can be continued.
    File,
    /// A pipe, a terminal or another thing that gives its bytes once.
    Stream,
}

impl Kind {
    /// Looks at a path; "-" is standard input.
    pub(super) fn of(path: &Path) -> io::Result<Self> {
        if is_standard_input(path) {
            return Ok(Self::Stream);
        }
        let metadata = std::fs::metadata(path)?;
        Ok(match () {
            () if metadata.is_dir() => Self::Directory,
            () if metadata.is_file() => Self::File,
            () => Self::Stream,
        })
    }
}

/// Whether a path means standard input.
pub(super) fn is_standard_input(path: &Path) -> bool {
    path.as_os_str() == "-"
}

/// Opens a file; what is read of it, before decompression, is added to `counter`.
pub(super) fn open(path: &Path, counter: Arc<AtomicU64>) -> io::Result<Input> {
    let file = match is_standard_input(path) {
        true => File::from(io::stdin().as_fd().try_clone_to_owned()?),
        false => File::open(path)?,
    };
    let file = BufReader::with_capacity(256 * 1024, Counting { file, counter });
    if path.extension().is_some_and(|extension| extension == "lz4") {
        return Ok(Box::new(BufReader::with_capacity(256 * 1024, FrameDecoder::new(file))));
    }
    Ok(Box::new(file))
}

/// Reads the first bytes; the input that comes back gives them again.
pub(super) fn sample(mut input: Input) -> io::Result<(Vec<u8>, Input)> {
    let mut sample = Vec::new();
    input.by_ref().take(SAMPLE_BYTES).read_to_end(&mut sample)?;
    let whole = Cursor::new(sample.clone()).chain(input);
    Ok((sample, Box::new(whole)))
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
