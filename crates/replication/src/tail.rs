//! The newest log bytes of a copy, kept in memory: shipping and replay read from here first, and
//! from the files only when they are further behind.

use std::collections::VecDeque;

use keelson_format::Chunk;
use keelson_types::Position;

/// Bytes kept per copy with traffic. An idle copy keeps at most its last few frames.
const TAIL_BYTES: usize = 8 * 1024 * 1024;

#[derive(Debug)]
struct Link {
    /// End of the chunk before, so that crossing a generation needs no arithmetic.
    after: Position,
    chunk: Chunk,
}

/// A gapless run of chunks up to the log's end.
#[derive(Debug, Default)]
pub(crate) struct Tail {
    links: VecDeque<Link>,
    bytes: usize,
}

impl Tail {
    /// Adds the chunk that follows `after`.
    pub(crate) fn push(&mut self, after: Position, chunk: Chunk) {
        if self.links.back().is_some_and(|last| last.chunk.end != after) {
            self.clear();
        }
        self.bytes += chunk.bytes.len();
        self.links.push_back(Link { after, chunk });
        while self.bytes > TAIL_BYTES && self.links.len() > 1 {
            self.drop_oldest();
        }
    }

    fn drop_oldest(&mut self) {
        if let Some(link) = self.links.pop_front() {
            self.bytes -= link.chunk.bytes.len();
        }
    }

    /// Forgets everything, after a cut.
    pub(crate) fn clear(&mut self) {
        self.links.clear();
        self.bytes = 0;
    }

    /// Forgets what ends at or before `position`: nobody is waiting for it.
    pub(crate) fn forget(&mut self, position: Position) {
        while self.links.front().is_some_and(|link| link.chunk.end <= position) {
            self.drop_oldest();
        }
    }

    /// Chunks from `position` on, at least one and about `bytes` of them; none if the tail does not
    /// reach back that far, or ends there.
    pub(crate) fn read(&self, position: Position, bytes: usize) -> Vec<Chunk> {
        let first = self.links.partition_point(|link| link.after < position);
        let mut left = bytes;
        let mut chunks = Vec::new();
        for link in self.links.iter().skip(first) {
            if chunks.is_empty() && link.after != position {
                break;
            }
            chunks.push(link.chunk.clone());
            left = left.saturating_sub(link.chunk.bytes.len());
            if left == 0 {
                break;
            }
        }
        chunks
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn chunk(generation: u64, offset: u64, length: usize) -> Chunk {
        Chunk::new(Position::new(generation, offset), Bytes::from(vec![0; length]))
    }

    #[test]
    fn reads_continue_across_generations() {
        let mut tail = Tail::default();
        tail.push(Position::new(1, 512), chunk(1, 512, 100));
        tail.push(Position::new(1, 612), chunk(2, 0, 512));
        tail.push(Position::new(2, 512), chunk(2, 512, 50));
        let all = tail.read(Position::new(1, 512), usize::MAX);
        assert_eq!(all.len(), 3);
        let second = tail.read(Position::new(1, 612), 1);
        assert_eq!(second[0].position, Position::new(2, 0));
        assert!(tail.read(Position::new(1, 600), 1).is_empty(), "no frame border");
        assert!(tail.read(Position::new(2, 562), 1).is_empty(), "the end");
    }

    #[test]
    fn a_gap_clears_the_tail_and_forgetting_keeps_the_rest() {
        let mut tail = Tail::default();
        tail.push(Position::new(1, 512), chunk(1, 512, 100));
        tail.push(Position::new(1, 612), chunk(1, 612, 100));
        tail.forget(Position::new(1, 612));
        assert!(tail.read(Position::new(1, 512), 1).is_empty());
        assert_eq!(tail.read(Position::new(1, 612), 1).len(), 1);
        tail.push(Position::new(3, 512), chunk(3, 512, 1));
        assert!(tail.read(Position::new(1, 612), 1).is_empty());
    }
}
