//! Lines of any bytes, with their numbers and a bound on their length.

use std::io::{self, BufRead};

/// Longest line: a value of 8 MiB as base64 with its key fits.
const LINE_BYTES_MAX: usize = 16 * 1024 * 1024;

/// What some programs put before UTF-8 text; it belongs to no line.
pub(super) const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// One line, without its end.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Line {
    /// A line of at most 16 MiB.
    Text(Vec<u8>),
    /// A longer one; it was skipped.
    TooLong,
}

/// Reads lines and counts them.
pub(super) struct Lines {
    input: Box<dyn BufRead + Send>,
    number: u64,
    max: usize,
}

impl Lines {
    pub(super) fn new(input: Box<dyn BufRead + Send>) -> Self {
        Self { input, number: 0, max: LINE_BYTES_MAX }
    }

    /// Number of the last line read, from 1.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// The next line; `None` at the end.
    pub(super) fn next(&mut self) -> io::Result<Option<Line>> {
        let mut line = Vec::new();
        let mut too_long = false;
        loop {
            let ready = self.input.fill_buf()?;
            if ready.is_empty() {
                if line.is_empty() && !too_long {
                    return Ok(None);
                }
                break;
            }
            let end = ready.iter().position(|byte| *byte == b'\n');
            let part = &ready[..end.unwrap_or(ready.len())];
            if line.len() + part.len() > self.max {
                too_long = true;
                line.clear();
            }
            if !too_long {
                line.extend_from_slice(part);
            }
            let used = part.len() + usize::from(end.is_some());
            self.input.consume(used);
            if end.is_some() {
                break;
            }
        }
        self.number += 1;
        if self.number == 1 && line.starts_with(BYTE_ORDER_MARK) {
            line.drain(..BYTE_ORDER_MARK.len());
        }
        if line.last() == Some(&b'\r') {
            line.pop();
        }
        Ok(Some(if too_long { Line::TooLong } else { Line::Text(line) }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_end_with_any_line_end_or_the_file() {
        let mut lines = Lines::new(Box::new(&b"a\r\n\nlonger\nz"[..]));
        lines.max = 4;
        let all: Vec<_> = std::iter::from_fn(|| lines.next().unwrap()).collect();
        let text = |text: &str| Line::Text(text.into());
        assert_eq!(all, [text("a"), text(""), Line::TooLong, text("z")]);
        assert_eq!(lines.number(), 4);
    }
}
