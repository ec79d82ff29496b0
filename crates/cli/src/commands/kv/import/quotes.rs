//! Watches the quotes of a table while it is read.
//!
//! The parser takes everything behind a quote that is never closed for one cell, to the end of the
//! file. Here is decided whether the file ended so; it reads quotes as the parser does: one is
//! special at the beginning of a cell, and within a quoted cell two stand for one.

use std::io::{self, BufRead, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

#[derive(Clone, Copy, PartialEq, Eq)]
enum At {
    CellStart,
    Plain,
    Quoted,
    /// Behind a quote in a quoted cell.
    Closed,
}

/// Whether the input ended within quotes.
#[derive(Clone, Default)]
pub(super) struct Unclosed(Arc<AtomicBool>);

impl Unclosed {
    pub(super) fn is_so(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

pub(super) struct Quotes {
    input: Box<dyn BufRead + Send>,
    delimiter: u8,
    at: At,
    unclosed: Unclosed,
}

impl Quotes {
    pub(super) fn new(input: Box<dyn BufRead + Send>, delimiter: u8) -> (Self, Unclosed) {
        let unclosed = Unclosed::default();
        (Self { input, delimiter, at: At::CellStart, unclosed: unclosed.clone() }, unclosed)
    }

    fn step(&mut self, byte: u8) {
        let ends_cell = byte == self.delimiter || byte == b'\n' || byte == b'\r';
        self.at = match (self.at, byte) {
            (At::CellStart, b'"') | (At::Closed, b'"') => At::Quoted,
            (At::Quoted, b'"') => At::Closed,
            (At::Quoted, _) => At::Quoted,
            _ if ends_cell => At::CellStart,
            _ => At::Plain,
        };
    }
}

impl Read for Quotes {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = self.input.read(into)?;
        into[..read].iter().for_each(|byte| self.step(*byte));
        if read == 0 && !into.is_empty() {
            self.unclosed.0.store(self.at == At::Quoted, Ordering::Relaxed);
        }
        Ok(read)
    }
}
