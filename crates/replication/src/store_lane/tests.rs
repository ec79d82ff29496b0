//! The lane over a simulated disk and stores in memory.

use std::path::Path;

use keelson_env::{MemStoreOpener, SimDisk};
use keelson_format::{Cursor, CursorState, FramingConfig};
use keelson_log::{Log, LogConfig};
use keelson_types::{Epoch, StreamId};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::*;

const STORE: &str = "/data/store";

struct Lane {
    worker: StoreWorker,
    stores: MemStoreOpener,
    done: UnboundedReceiver<Completion>,
    cursor: Cursor,
    log: Log,
}

fn lane() -> Lane {
    let shared = Arc::new(CopyShared::for_tests());
    let stream = StreamId::from_bytes([9; 16]);
    let (disk, stores) = (Arc::new(SimDisk::new()), MemStoreOpener::new());
    let (log, _) =
        Log::open(disk, Path::new("/log"), LogConfig::default(), stream, Position::ZERO).unwrap();
    let (done, completions) = unbounded_channel();
    let worker = StoreWorker {
        shared,
        opener: Arc::new(stores.clone()),
        directory: STORE.into(),
        reader: log.reader(),
        digests: Arc::new(Digests::new()),
        scans: Arc::new(Pool::start("test", 1).unwrap()),
        done,
        generation_bytes: LogConfig::default().generation_bytes,
        dirty_since: None,
        waits_since: None,
        replays_again: false,
    };
    let cursor = Cursor::new(CursorState::empty(stream), FramingConfig::default());
    let mut lane = Lane { worker, stores, done: completions, cursor, log };
    let (header, _) = lane.cursor.begin_epoch(Epoch::new(0, 1), 1).unwrap();
    lane.log.write(&[header]).unwrap();
    lane
}

impl Lane {
    /// Logs a value under a key; gives what was written.
    fn put(&mut self, key: &str) -> (Position, Vec<Chunk>) {
        let record = Record::Put { key: key.to_owned().into(), value: "v".into() };
        let encoded = self.cursor.encode(&[record], 1, Position::ZERO, Position::ZERO).unwrap();
        self.log.write(&encoded.chunks).unwrap();
        self.log.sync().unwrap();
        (self.cursor.end().position, encoded.chunks)
    }

    fn done(&mut self) -> Vec<String> {
        let mut done = Vec::new();
        while let Ok(completion) = self.done.try_recv() {
            done.push(match completion {
                Completion::Replayed { to, .. } => format!("replayed {to}"),
                Completion::StoreReopened(Ok(at)) => format!("reopened {at}"),
                Completion::StoreOpened(Ok(_)) => "opened".to_owned(),
                _ => "something else".to_owned(),
            });
        }
        done
    }

    fn holds(&self, key: &str) -> bool {
        let store = self.worker.shared.store.get().unwrap();
        store.get(key.as_bytes()).unwrap().is_some()
    }
}

/// What lies between two replays whose chunks are in memory is replayed, too.
#[test]
fn several_replays_at_once_leave_nothing_out() {
    let mut lane = lane();
    let (before, chunks) = lane.put("before");
    lane.worker.work(vec![StoreJob::Replay { to: before, chunks }]);
    lane.done();
    let counted = lane.worker.shared.replayed_bytes.load(Ordering::Relaxed);
    let (first, second, third) = (lane.put("a"), lane.put("b"), lane.put("c"));
    let to = third.0;
    let jobs = vec![
        StoreJob::Replay { to: first.0, chunks: first.1 },
        // It was too large to stay in memory.
        StoreJob::Replay { to: second.0, chunks: Vec::new() },
        StoreJob::Replay { to, chunks: third.1 },
    ];
    assert!(lane.worker.work(jobs).is_empty());
    assert_eq!(lane.done(), [format!("replayed {to}")]);
    assert!(["a", "b", "c"].iter().all(|key| lane.holds(key)), "a frame was left out");
    let counted = lane.worker.shared.replayed_bytes.load(Ordering::Relaxed) - counted;
    assert_eq!(counted, to.offset - before.offset);
}

#[test]
fn jobs_wait_for_an_earlier_handle_and_no_thread_does() {
    let mut lane = lane();
    let (to, chunks) = lane.put("a");
    assert!(lane.worker.work(vec![StoreJob::Open]).is_empty());
    let reader = lane.worker.shared.store.get();
    let life = lane.worker.shared.life();
    let left = lane.worker.work(vec![StoreJob::Reopen, StoreJob::Replay { to, chunks }]);
    assert!(lane.worker.shared.life() > life, "readers are told to end");
    let left = lane.worker.work(left);
    assert_eq!((left.len(), lane.done()), (2, vec!["opened".to_owned()]), "no failure, no wait");
    drop(reader);
    assert!(lane.worker.work(left).is_empty());
    assert_eq!(lane.done(), ["reopened 0:0".to_owned(), format!("replayed {to}")]);
}

#[test]
fn a_stop_does_not_wait_behind_jobs_that_do() {
    let mut lane = lane();
    lane.worker.work(vec![StoreJob::Open]);
    let _reader = lane.worker.shared.store.get();
    let left = lane.worker.work(vec![StoreJob::Reopen, StoreJob::Open]);
    assert!(!left.is_empty());
    let (stop, mut stopped) = tokio::sync::oneshot::channel();
    let jobs = left.into_iter().chain([StoreJob::Stop(stop)]).collect();
    assert!(lane.worker.work(jobs).is_empty());
    assert_eq!(stopped.try_recv(), Ok(()));
}

/// One failure of a store is mended by reopening it, also if somebody reads it meanwhile.
#[test]
fn a_failed_store_is_reopened_once_its_readers_ended() {
    let mut lane = lane();
    let (to, chunks) = lane.put("a");
    lane.worker.work(vec![StoreJob::Open]);
    let reader = lane.worker.shared.store.get();
    lane.stores.inject(Path::new(STORE), StoreError::Failed("on purpose".into()));
    let left = lane.worker.work(vec![StoreJob::Replay { to, chunks }]);
    assert_eq!((left.len(), lane.done()), (1, vec!["opened".to_owned()]));
    drop(reader);
    assert!(lane.worker.work(left).is_empty());
    assert_eq!(lane.done(), [format!("replayed {to}")]);
    let (to, chunks) = lane.put("b");
    lane.stores.inject(Path::new(STORE), StoreError::Failed("on purpose".into()));
    assert!(lane.worker.work(vec![StoreJob::Replay { to, chunks }]).is_empty());
    assert_eq!(lane.done(), [format!("replayed {to}")], "a later failure is another one");
}
