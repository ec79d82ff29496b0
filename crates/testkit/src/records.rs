//! Records for the demonstration: the package lists of this machine, or made-up ones like them.

use std::fmt::Write as _;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

/// Package lists found on this machine.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PackageRecords {
    /// Directory or file that `keelson kv import` reads.
    pub path: PathBuf,
}

impl PackageRecords {
    /// The package lists of this machine, if it has some that are not tiny.
    #[must_use]
    pub fn of_this_machine() -> Option<Self> {
        let lists = Path::new("/var/lib/apt/lists");
        let files = std::fs::read_dir(lists).ok()?;
        let bytes: u64 = files
            .filter_map(Result::ok)
            .filter(|file| file.file_name().to_string_lossy().contains("_Packages"))
            .filter_map(|file| file.metadata().ok())
            .map(|metadata| metadata.len())
            .sum();
        // Compressed lists of this size unpack to more than 20 MB.
        (bytes >= 10 * 1024 * 1024).then(|| Self { path: lists.to_owned() })
    }
}

/// Writes `records` made-up package stanzas of together at least `bytes` bytes to `path`. The same
/// numbers give the same file.
///
/// # Errors
/// The file cannot be written.
pub fn synthesize_packages(path: &Path, records: u64, bytes: u64) -> io::Result<()> {
    const WORDS: &[&str] = &[
        "library",
        "tools",
        "server",
        "client",
        "network",
        "graphics",
        "parser",
        "daemon",
        "module",
        "documentation",
        "development",
        "files",
        "common",
        "runtime",
        "plugin",
        "console",
        "shared",
        "database",
        "protocol",
        "editor",
        "fonts",
        "audio",
        "python",
        "scientific",
        "utility",
    ];
    let mut random = SmallRng::seed_from_u64(records ^ bytes);
    let mut out = BufWriter::new(std::fs::File::create(path)?);
    let description_bytes = usize::try_from(bytes / records.max(1)).unwrap_or(1024);
    for number in 0..records {
        let mut stanza = format!(
            "Package: lib{}-{number}\nVersion: {}.{}-{}\nArchitecture: amd64\nInstalled-Size: {}\n\
             Description: made-up package number {number}\n ",
            WORDS.choose(&mut random).unwrap_or(&"x"),
            random.random_range(0..9),
            random.random_range(0..40),
            random.random_range(1..9),
            random.random_range(10..100_000),
        );
        while stanza.len() < description_bytes {
            let word = WORDS.choose(&mut random).unwrap_or(&"x");
            // Writing to a string cannot fail.
            let _ = write!(stanza, "{word} {:x} ", random.random::<u32>());
        }
        writeln!(out, "{}\n", stanza.trim_end())?;
    }
    out.flush()
}
