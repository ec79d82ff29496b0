//! The trace of a run: a hash always, lines on demand. Equal seeds give equal traces.

use std::fmt::{self, Write};

/// Collects what happened.
#[derive(Debug)]
pub(crate) struct Trace {
    hash: u64,
    print: bool,
}

struct Hasher<'a>(&'a mut u64);

impl Write for Hasher<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            *self.0 = (*self.0 ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        Ok(())
    }
}

impl Trace {
    /// An empty trace; `print` shows every line.
    #[must_use]
    pub(crate) fn new(print: bool) -> Self {
        Self { hash: 0xcbf2_9ce4_8422_2325, print }
    }

    /// Notes one event at a true time.
    pub(crate) fn note(&mut self, now: u64, what: fmt::Arguments<'_>) {
        if self.print {
            println!("{:>12.6} {what}", now as f64 / 1e9);
        }
        let mut hasher = Hasher(&mut self.hash);
        // Writing to a hash cannot fail.
        let _ = write!(hasher, "{now} {what};");
    }

    /// The hash so far.
    #[must_use]
    pub(crate) const fn hash(&self) -> u64 {
        self.hash
    }
}
