//! Reading a log through, as the disk holds it, at a bounded rate.

use std::time::{Duration, Instant};

use keelson_log::{LogError, LogReader};
use keelson_types::{Generation, Position};

use crate::shared::CopyShared;

/// Bytes read at a time.
const READ_BYTES: usize = 1024 * 1024;

/// Keeps to a rate by sleeping.
#[derive(Debug)]
pub(super) struct Pace {
    bytes_per_second: u64,
    began: Instant,
    spent: u64,
}

impl Pace {
    pub(super) fn new(bytes_per_second: u64) -> Self {
        Self { bytes_per_second, began: Instant::now(), spent: 0 }
    }

    pub(super) fn spend(&mut self, bytes: u64) {
        self.spent += bytes;
        let due = Duration::from_secs_f64(self.spent as f64 / self.bytes_per_second as f64);
        let early = due.saturating_sub(self.began.elapsed());
        if !early.is_zero() {
            std::thread::sleep(early);
        }
    }
}

/// How a reading ended.
#[derive(Debug)]
pub(super) enum LogFound {
    Sound { pace: Pace, bytes: u64 },
    Damaged { at: Position, pace: Pace, bytes: u64 },
    Failed(String),
}

/// Reads from `from`, or from the beginning, to the durable end.
pub(super) fn read_log(
    mut reader: LogReader,
    from: Option<Position>,
    shared: &CopyShared,
    mut pace: Pace,
) -> LogFound {
    let begins = |generation: Generation| Position { generation, offset: 0 };
    let Some(first) = reader.first_generation() else { return LogFound::Sound { pace, bytes: 0 } };
    let mut at = from.unwrap_or_default().max(begins(first));
    let (mut bytes, mut fresh, mut suspect) = (0, None, None);
    loop {
        let end = shared.durable.load();
        if at >= end {
            return LogFound::Sound { pace, bytes };
        }
        // A file that is missing is told by the read.
        if fresh != Some(at.generation) && reader.forget_cache(at.generation).is_ok() {
            fresh = Some(at.generation);
        }
        let limit = end.min(begins(at.generation.next()));
        match reader.read(at, limit, READ_BYTES) {
            Ok(chunks) => {
                let read: u64 = chunks.iter().map(|chunk| chunk.bytes.len() as u64).sum();
                at = chunks.last().map_or(limit, |last| last.end);
                bytes += read;
                shared.scrub.read(read);
                pace.spend(read);
            }
            Err(LogError::Truncated { first, .. }) => at = begins(first),
            // The place may have stopped to be a border when a fork was cut: read on from the
            // beginning of the generation once.
            Err(LogError::Damaged(damage)) if suspect != Some(damage.position) => {
                suspect = Some(damage.position);
                (at, fresh) = (begins(at.generation), None);
            }
            Err(LogError::Damaged(damage)) => {
                return LogFound::Damaged { at: damage.position, pace, bytes };
            }
            Err(error) => return LogFound::Failed(error.to_string()),
        }
    }
}
