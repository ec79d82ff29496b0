//! Tests of what a checkpoint takes along beside the store.

use keelson_env::MemStoreOpener;
use keelson_format::{Cursor, CursorState, FramingConfig};
use keelson_log::OsDisk;
use keelson_types::{CopyId, Epoch, Record, StreamId};
use tempfile::TempDir;

use super::*;
use crate::open::{Identity, OpenCopy, Places, open_copy};

const GENERATION_BYTES: u64 = 1024 * 1024;

/// A copy on a real disk whose log has five generations of one record each.
struct Copy {
    home: TempDir,
    disk: Arc<dyn Disk>,
    copy: OpenCopy,
    /// The ends of the records.
    ends: Vec<Position>,
}

fn copy() -> Copy {
    let home = tempfile::tempdir().unwrap();
    let disk: Arc<dyn Disk> = Arc::new(OsDisk::new());
    let (data, logs) = (home.path().join("data"), home.path().join("logs"));
    disk.create_dir_all(&data.join("databases")).unwrap();
    let places =
        Places { disk: disk.clone(), data, logs, noting: Arc::default(), volumes: Arc::default() };
    let identity = Identity {
        database: DatabaseId::from_u128(7),
        copy: CopyId::from_u128(1),
        stream: StreamId::from_u128(9),
        generation_bytes: GENERATION_BYTES,
        resumes: 0,
        others: 2,
        admitted: false,
    };
    let shared = CopyShared::for_tests();
    let mut copy = open_copy(&places, &MemStoreOpener::new(), &identity, &shared).unwrap();
    let framing = FramingConfig { generation_bytes: GENERATION_BYTES, compress: false };
    let mut cursor = Cursor::new(CursorState::empty(identity.stream), framing);
    let (header, _) = cursor.begin_epoch(Epoch::new(0, 1), 1).unwrap();
    copy.log.write(&[header]).unwrap();
    let mut ends = Vec::new();
    for key in ["a", "b", "c", "d", "e"] {
        let records = vec![Record::Put { key: key.into(), value: key.into() }];
        let encoded = cursor.encode(&records, 1, Position::ZERO, Position::ZERO).unwrap();
        copy.log.write(&encoded.chunks).unwrap();
        ends.push(encoded.frame.end().position);
        copy.log.write(&[cursor.close_generation(1).unwrap()]).unwrap();
    }
    copy.log.sync().unwrap();
    Copy { home, disk, copy, ends }
}

impl Copy {
    fn material(&self) -> Material {
        Material {
            shared: Arc::new(CopyShared::for_tests()),
            store: None,
            catalog: None,
            reader: self.copy.reader.clone(),
            epochs: EpochTable::new(),
            generation_bytes: GENERATION_BYTES,
        }
    }
}

/// F53: the log that is sent begins where the index stands and ends where the store does, so that
/// the new copy can read all of it.
#[test]
fn log_is_sent_from_where_the_index_stands() {
    let mut copy = copy();
    let material = copy.material();
    let (index, store) = (copy.ends[1], copy.ends[3]);
    let from = material.log_of_index(index, store);
    assert_eq!(from, Some(index.generation));
    let there = copy.home.path().join("log");
    copy.disk.create_dir_all(&there).unwrap();
    let mut reader = copy.copy.reader.clone();
    copy_log(&*copy.disk, &mut reader, (from.unwrap(), store), &there).unwrap();
    let mut sent = LogReader::open(copy.disk.clone(), &there).unwrap();
    assert_eq!(sent.first_generation(), Some(index.generation));
    let mut at = index;
    let mut frames = 0;
    while at < store {
        for chunk in sent.read(at, store, CHUNK_BYTES).unwrap() {
            let items = chunk.items().map(|item| item.unwrap());
            frames += items.filter(|item| matches!(item, keelson_format::Item::Frame(_))).count();
            at = chunk.end;
        }
    }
    assert_eq!(frames, 2, "those behind the index, up to the store");
    // Ahead of the store, at the beginning, and without its log.
    assert_eq!(material.log_of_index(store, index), Some(index.generation));
    let begin = material.log_of_index(Position::ZERO, store);
    assert_eq!(begin, Some(Generation(1)));
    copy.copy.log.truncate_before(store.generation).unwrap();
    assert_eq!(material.log_of_index(index, store), None, "gone");
    assert_eq!(material.log_of_index(store, store), Some(store.generation));
    let far = Position { generation: Generation(store.generation.0 + 500), offset: 0 };
    assert_eq!(material.log_of_index(store, far), None, "too long");
}

/// A log that ends early is found when the checkpoint is made, not when it is used.
#[test]
fn log_that_does_not_reach_the_store_is_no_checkpoint() {
    let copy = copy();
    let last = copy.ends[4];
    let beyond = Position { generation: last.generation.next().next(), offset: 700 };
    let there = copy.home.path().join("log");
    copy.disk.create_dir_all(&there).unwrap();
    let mut reader = copy.copy.reader.clone();
    let copied = copy_log(&*copy.disk, &mut reader, (last.generation, beyond), &there);
    assert!(copied.is_err(), "{copied:?}");
}
