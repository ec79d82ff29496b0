//! Smoke reads of a fork: a sample of all keys, and the keys at the end of the log. Blocking.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use keelson_copy_core::rehearsal::{
    RANGE_BYTES, RANGE_KEYS, RANGES, TAIL_BYTES, Tail, last_prefix, range_starts,
};
use keelson_env::{KvSnapshot, KvStore, StoreError};
use keelson_format::Item;
use keelson_log::{LogError, LogReader};
use keelson_types::{LogEnd, LogSizes, Position, RefusalReason};
use keelson_wire::Refusal;

use super::failed;

/// Log read from files in one piece.
const READ_BYTES: usize = 4 * 1024 * 1024;
/// Log that is read through to find its end; beyond this only what the fork itself replayed is.
const TAIL_READ_BYTES: u64 = 32 * 1024 * 1024;

/// What was read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct ReadFigures {
    /// Keys of the sample.
    pub(super) sampled: u64,
    /// Keys of the end of the log.
    pub(super) of_log: u64,
    /// Keys and values of both.
    pub(super) bytes: u64,
}

/// How the end of the log is found.
pub(super) struct Tailing {
    pub(super) reader: LogReader,
    pub(super) sizes: LogSizes,
    /// Where the copy's store stood when the fork was ordered: a border between frames.
    pub(super) replayed: Position,
}

impl Tailing {
    /// What the log says of the keys that changed last before `at`. Nothing where that log is gone.
    fn tail(mut self, at: Position) -> Result<Tail, Refusal> {
        let mut tail = Tail::default();
        let back = self.sizes.back(at, TAIL_BYTES);
        // Where a generation is large, only what came since the fork was ordered is read.
        let near = self.sizes.between(back, at).bytes <= TAIL_READ_BYTES;
        let mut from = if near { back } else { back.max(self.replayed) };
        while from < at {
            let chunks = match self.reader.read(from, at, READ_BYTES) {
                Ok(chunks) => chunks,
                Err(LogError::Truncated { .. }) => return Ok(Tail::default()),
                Err(error) => return Err(failed("the log cannot be read", &error)),
            };
            let before = from;
            for item in chunks.iter().flat_map(keelson_format::Chunk::items) {
                let unread =
                    |error: &dyn std::fmt::Display| failed("the log cannot be read", error);
                let Item::Frame(frame) = item.map_err(|(_, error)| unread(&error))? else {
                    continue;
                };
                from = frame.end().position;
                if self.sizes.between(from, at).bytes > TAIL_BYTES {
                    continue;
                }
                let frame = frame.decode().map_err(|error| unread(&error))?;
                frame.records.iter().for_each(|record| tail.take(record));
            }
            if from == before {
                break;
            }
        }
        Ok(tail)
    }
}

/// A fork that is read.
pub(super) struct Reading<'a> {
    pub(super) store: Arc<dyn KvStore>,
    /// Where it stands, by its description.
    pub(super) at: LogEnd,
    /// Set when nobody waits for it any more.
    pub(super) stop: &'a AtomicBool,
}

impl Reading<'_> {
    /// Reads and compares.
    ///
    /// # Errors
    /// `copy_failed` with what is wrong, `cancelled` if it was stopped.
    pub(super) fn read(self, tailing: Tailing) -> Result<ReadFigures, Refusal> {
        let unread = |error: StoreError| failed("the fork cannot be read", &error);
        let view = self.store.clone().snapshot().map_err(unread)?;
        if view.at() != self.at {
            let (is, says) = (view.at().position, self.at.position);
            return Err(failed("the fork is wrong", &format!("it stands at {is}, not {says}")));
        }
        let mut figures = ReadFigures::default();
        self.read_sample(&*view, &mut figures)?;
        let tail = tailing.tail(self.at.position)?;
        for (key, expected) in tail.expected() {
            self.go_on()?;
            let found = view.get(key).map_err(unread)?;
            if found.as_ref() != expected {
                let what = "a key is not as the log has it";
                return Err(failed("the fork is wrong", &what));
            }
            figures.of_log += 1;
            figures.bytes += (key.len() + found.map_or(0, |value| value.len())) as u64;
        }
        Ok(figures)
    }

    fn go_on(&self) -> Result<(), Refusal> {
        match self.stop.load(Ordering::Relaxed) {
            true => Err(Refusal::new(RefusalReason::Cancelled, "it was stopped")),
            false => Ok(()),
        }
    }

    /// Some keys from all over the store, each by a scan and by a look-up of its own, which take
    /// different ways through the files.
    fn read_sample(&self, view: &dyn KvSnapshot, figures: &mut ReadFigures) -> Result<(), Refusal> {
        let unread = |error: StoreError| failed("the fork cannot be read", &error);
        let from = |from: &[u8]| view.scan(from, None, 1, 1);
        let Some((first, _)) = from(&[]).map_err(unread)?.into_iter().next() else {
            return Ok(());
        };
        let last = last_prefix(|key| Ok(!from(key)?.is_empty())).map_err(unread)?;
        let starts = range_starts(&first, &last);
        // What a range without many keys leaves is for those behind it.
        let (mut keys_left, mut bytes_left) = (RANGES * RANGE_KEYS, RANGES * RANGE_BYTES);
        let mut newest: Option<Bytes> = None;
        for (number, start) in starts.iter().enumerate() {
            self.go_on()?;
            let end = starts.get(number + 1).map(Vec::as_slice);
            let ranges_left = starts.len() - number;
            let (keys, bytes) = (keys_left / ranges_left, bytes_left / ranges_left);
            for (key, value) in view.scan(start, end, keys, bytes).map_err(unread)? {
                if newest.as_ref().is_some_and(|newest| *newest >= key) {
                    return Err(failed("the fork is wrong", &"its keys do not ascend"));
                }
                if self.store.get(&key).map_err(unread)?.as_ref() != Some(&value) {
                    let what = "a key has one value in a scan and another by itself";
                    return Err(failed("the fork is wrong", &what));
                }
                figures.sampled += 1;
                let size = key.len() + value.len();
                figures.bytes += size as u64;
                keys_left -= 1;
                bytes_left = bytes_left.saturating_sub(size);
                newest = Some(key);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use keelson_env::{MemStoreOpener, ReplayFrame, SimDisk, StoreOpener};
    use keelson_format::{Cursor, CursorState, FramingConfig};
    use keelson_log::{Log, LogConfig};
    use keelson_types::{Epoch, HybridTime, Record, StreamId};

    use super::*;

    fn put(key: usize, value: &'static str) -> Record {
        Record::Put { key: format!("key{key:04}").into(), value: value.into() }
    }

    /// A store and its log after these batches.
    fn copy(batches: &[Vec<Record>]) -> (Arc<dyn KvStore>, LogReader, LogEnd) {
        let (disk, stream) = (Arc::new(SimDisk::new()), StreamId::from_bytes([9; 16]));
        let config = LogConfig::default();
        let opened = Log::open(disk, Path::new("/log"), config, stream, Position::ZERO);
        let mut log = opened.unwrap().0;
        let mut cursor = Cursor::new(CursorState::empty(stream), FramingConfig::default());
        let (header, _) = cursor.begin_epoch(Epoch::new(0, 1), 1).unwrap();
        log.write(&[header]).unwrap();
        let store = MemStoreOpener::new().open(Path::new("/store")).unwrap();
        for (number, batch) in batches.iter().enumerate() {
            let encoded = cursor.encode(batch, 1_000, Position::ZERO, Position::ZERO).unwrap();
            log.write(&encoded.chunks).unwrap();
            let (end, time) = (cursor.end(), HybridTime::default());
            let first_sequence = number as u64 + 1;
            let records = batch.clone();
            store.replay(&[ReplayFrame { end, time, first_sequence, records }]).unwrap();
        }
        log.sync().unwrap();
        let at = store.replayed();
        (store, log.reader(), at)
    }

    fn read(
        (store, reader, at): (Arc<dyn KvStore>, LogReader, LogEnd),
        replayed: Position,
    ) -> Result<ReadFigures, Refusal> {
        let sizes = LogSizes::new(16 * 1024 * 1024);
        let tailing = Tailing { reader, sizes, replayed };
        Reading { store, at, stop: &AtomicBool::new(false) }.read(tailing)
    }

    fn reason(result: Result<ReadFigures, Refusal>) -> (RefusalReason, String) {
        let refusal = result.expect_err("it is wrong");
        (refusal.reason, refusal.message)
    }

    #[test]
    fn a_sound_store_is_read_from_all_over_and_compared_with_its_log() {
        let many: Vec<_> = (0..2_000).map(|key| put(key, "v")).collect();
        let copied =
            copy(&[many, vec![put(5, "w")], vec![Record::Delete { key: "key0007".into() }]]);
        let at = copied.2.position;
        let figures = read(copied, at).unwrap();
        assert!(figures.sampled > 500 && figures.sampled <= 1_024, "{figures:?}");
        assert!(figures.of_log >= 1_000 && figures.bytes > 0, "{figures:?}");
        let empty = copy(&[]);
        assert_eq!(read(empty, Position::ZERO).unwrap(), ReadFigures::default());
        let few = copy(&[vec![put(1, "v"), put(2, "v")]]);
        let figures = read(few, Position::ZERO).unwrap();
        assert_eq!((figures.sampled, figures.of_log), (2, 2), "each once");
    }

    /// A store that lacks what the log has, or stands elsewhere, is found out.
    #[test]
    fn a_store_that_is_not_what_the_log_says_fails() {
        let (store, _, at) = copy(&[vec![put(1, "v")]]);
        let (_, other, _) = copy(&[vec![put(1, "w")]]);
        let (failure, message) = reason(read((store, other, at), Position::ZERO));
        assert_eq!(failure, RefusalReason::CopyFailed);
        assert!(message.contains("as the log has it"), "{message}");
        let (store, reader, at) = copy(&[vec![put(1, "v")]]);
        let ahead = LogEnd { position: Position::new(1, at.position.offset + 1), ..at };
        let (_, message) = reason(read((store, reader, ahead), Position::ZERO));
        assert!(message.contains("it stands at"), "{message}");
    }

    #[test]
    fn one_that_nobody_waits_for_ends() {
        let (store, reader, at) = copy(&[vec![put(1, "v")]]);
        let tailing = Tailing { reader, sizes: LogSizes::new(1), replayed: Position::ZERO };
        let stopped = Reading { store, at, stop: &AtomicBool::new(true) }.read(tailing);
        assert_eq!(reason(stopped).0, RefusalReason::Cancelled);
    }
}
