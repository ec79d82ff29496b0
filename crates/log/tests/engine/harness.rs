//! A small active and passive for the tests: log and cursor side by side, as an owner has them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use keelson_env::{Disk, SimDisk};
use keelson_format::{Chunk, Cursor, CursorState, FrameInfo, FramingConfig};
use keelson_log::{Log, LogConfig, LogError, LogReader, Recovery};
use keelson_types::{Epoch, EpochStart, Generation, LogId, Position, Record, StreamId};

pub(crate) const CONFIG: LogConfig =
    LogConfig { generation_bytes: 4_096, recycle_max: 2, zero_ahead_bytes: 2_048 };

pub(crate) const FRAMING: FramingConfig =
    FramingConfig { generation_bytes: 4_096, compress: false };

pub(crate) fn stream() -> StreamId {
    StreamId::from_u128(77)
}

pub(crate) fn home() -> PathBuf {
    PathBuf::from("/volume").join(format!("log-{}", LogId::from_u128(1)))
}

pub(crate) fn sim() -> SimDisk {
    let disk = SimDisk::new();
    disk.create_dir_all(Path::new("/volume")).expect("creates");
    disk
}

pub(crate) fn put(key: u64, bytes: usize) -> Record {
    let value = Bytes::from(vec![(key % 251) as u8; bytes]);
    Record::Put { key: Bytes::copy_from_slice(&key.to_be_bytes()), value }
}

pub(crate) fn open(disk: &SimDisk, floor: Position) -> Result<(Log, Recovery), LogError> {
    Log::open(Arc::new(disk.clone()), &home(), CONFIG, stream(), floor)
}

/// A log with its framing state.
#[derive(Debug)]
pub(crate) struct Copy {
    pub(crate) log: Log,
    pub(crate) cursor: Cursor,
    next_key: u64,
}

impl Copy {
    pub(crate) fn open(disk: &SimDisk) -> Result<(Self, Recovery), LogError> {
        let (log, recovery) = open(disk, Position::ZERO)?;
        let cursor = Cursor::new(recovery.state, FRAMING);
        Ok((Self { log, cursor, next_key: 0 }, recovery))
    }

    pub(crate) fn on(disk: &SimDisk) -> Self {
        Self::open(disk).expect("opens").0
    }

    pub(crate) fn begin(&mut self, counter: u64) -> Result<EpochStart, LogError> {
        let begun = self.cursor.begin_epoch(Epoch::new(0, counter), counter).expect("rises");
        self.log.write(&[begun.0])?;
        Ok(begun.1)
    }

    /// Appends one frame; the cursor goes back if the log does not take it.
    pub(crate) fn append(&mut self, bytes: usize) -> Result<FrameInfo, LogError> {
        let before = self.cursor;
        self.next_key += 1;
        let durable = self.log.durable_position();
        let records = [put(self.next_key, bytes)];
        let encoded = self.cursor.encode(&records, 9, durable, durable).expect("fits");
        match self.log.write(&encoded.chunks) {
            Ok(()) => Ok(encoded.frame),
            Err(error) => {
                self.cursor = before;
                Err(error)
            }
        }
    }

    /// Appends and syncs one frame.
    pub(crate) fn commit(&mut self, bytes: usize) -> Result<FrameInfo, LogError> {
        let frame = self.append(bytes)?;
        self.log.sync()?;
        Ok(frame)
    }

    pub(crate) fn commit_many(&mut self, count: usize, bytes: usize) -> Vec<FrameInfo> {
        (0..count).map(|_| self.commit(bytes).expect("commits")).collect()
    }

    /// Inspects and writes received chunks.
    pub(crate) fn receive(&mut self, chunks: &[Chunk]) -> Result<Vec<FrameInfo>, LogError> {
        let mut frames = Vec::new();
        for chunk in chunks {
            frames.extend(self.cursor.verify(chunk).expect("continues").frames);
        }
        self.log.write(chunks).map(|()| frames)
    }

    pub(crate) fn reader(&self) -> LogReader {
        self.log.reader()
    }
}

/// Everything in a log from its first generation on, checked as one chain.
pub(crate) fn read_all(log: &Log) -> Vec<FrameInfo> {
    let Some(first) = log.first_generation() else { return Vec::new() };
    let header = *log.header(first).expect("kept");
    let mut state = CursorState::before(&header);
    let mut reader = log.reader();
    let mut frames = Vec::new();
    let mut at = Position { generation: first, offset: 0 };
    loop {
        let chunks = reader.read(at, log.position(), 1_500).expect("reads");
        let Some(last) = chunks.last() else { return frames };
        at = last.end;
        for chunk in &chunks {
            frames.extend(state.verify(chunk).expect("one chain").frames);
        }
    }
}

pub(crate) fn file_of(generation: u64) -> PathBuf {
    keelson_log::generation_path(&home(), Generation(generation))
}

pub(crate) fn names(disk: &SimDisk) -> Vec<String> {
    disk.list(&home()).expect("lists").into_iter().map(|entry| entry.name).collect()
}
