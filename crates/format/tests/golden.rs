//! Files of every released version decode for ever, and encode to the same bytes again.
//!
//! `KEELSON_REGENERATE_FIXTURES=1 cargo test -p keelson-format --test golden` writes the fixtures
//! of the current version anew. Do that only before the version is released; afterwards a changed
//! format gets a new version and a new directory.
#![allow(clippy::disallowed_methods)]

use std::path::PathBuf;

use bytes::Bytes;
use keelson_format::{
    CONTROL_FILE_BYTES, CONTROL_SLOT_BYTES, Chunk, ControlRecord, Cursor, CursorState,
    FRAME_HEADER_BYTES, FramingConfig, Item, SeedFile, SeedManifest, SeedPlace, choose_control,
    encode_control_slot, encode_record,
};
use keelson_types::{
    CheckpointId, CopyId, DatabaseId, Epoch, EpochTable, LogEnd, LogId, Position, Record,
    SessionId, SessionRecord, StoreId, StreamId,
};

fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/v1").join(name)
}

/// The bytes of a fixture; `fresh` is written there first if that is asked for.
fn golden(name: &str, fresh: &[u8]) -> Vec<u8> {
    if std::env::var_os("KEELSON_REGENERATE_FIXTURES").is_some() {
        std::fs::create_dir_all(fixture("")).expect("creates the directory");
        std::fs::write(fixture(name), fresh).expect("writes the fixture");
    }
    std::fs::read(fixture(name)).expect("the fixture exists")
}

fn stream() -> StreamId {
    StreamId::from_u128(0x1111_2222_3333_4444_5555_6666_7777_8888)
}

fn one_of_each() -> Vec<Record> {
    let session = SessionId::from_u128(7);
    let bytes = Bytes::from_static;
    vec![
        Record::Put { key: bytes(b"key"), value: bytes(b"value") },
        Record::Put { key: bytes(b"empty"), value: Bytes::new() },
        Record::Delete { key: bytes(b"gone") },
        Record::DeleteRange { from: bytes(b"a"), to: bytes(b"b\xff") },
        Record::Session { session, change: SessionRecord::Open },
        Record::Session {
            session,
            change: SessionRecord::Applied { sequence: 300, lowest_unanswered: 299 },
        },
        Record::Session { session, change: SessionRecord::Expire },
        Record::DigestMarker { id: u64::MAX },
        Record::RestorePoint { name: "before the münster release".to_owned() },
        Record::NoOp,
        Record::Schema { body: bytes(b"{}") },
    ]
}

/// Two generations in two epochs; the last frame is packed.
fn build() -> (Vec<u8>, Vec<u8>) {
    let config = FramingConfig { generation_bytes: 1 << 20, compress: true };
    let mut cursor = Cursor::new(CursorState::empty(stream()), config);
    let (mut one, mut two) = (Vec::new(), Vec::new());
    let (first, second) = (Epoch::new(0, 1), Epoch::new(1, 5));
    let zero = Position::ZERO;
    one.extend_from_slice(&cursor.begin_epoch(first, 1_700_000_000_000).expect("rises").0.bytes);
    let opening = [Record::Opening { epoch: first }];
    let encoded = cursor.encode(&opening, 1_700_000_000_000, zero, zero).expect("fits");
    let end = encoded.frame.end().position;
    one.extend_from_slice(&encoded.frame.bytes);
    let encoded = cursor.encode(&one_of_each(), 1_700_000_000_001, zero, end).expect("fits");
    one.extend_from_slice(&encoded.frame.bytes);
    two.extend_from_slice(&cursor.begin_epoch(second, 1_600_000_000_000).expect("rises").0.bytes);
    let long = Record::Put { key: Bytes::from_static(b"long"), value: vec![b'x'; 4_000].into() };
    let encoded = cursor.encode(&[long], 1_600_000_000_000, end, end).expect("fits");
    assert!(encoded.frame.header.compressed);
    two.extend_from_slice(&encoded.frame.bytes);
    (one, two)
}

#[test]
fn log_files_of_version_1_decode_and_encode_to_the_same_bytes() {
    let (one, two) = build();
    let files = [golden("1.klog", &one), golden("2.klog", &two)];
    assert_eq!(files[0], one, "this version writes other bytes than it did");
    let mut state = CursorState::empty(stream());
    let mut records = Vec::new();
    for (index, file) in files.into_iter().enumerate() {
        let chunk = Chunk::new(Position::new(index as u64 + 1, 0), file.into());
        let inspected = state.verify(&chunk).expect("the log is one chain");
        assert_eq!(inspected.epochs.len(), 1);
        for item in chunk.items() {
            match item.expect("decodes") {
                Item::Header(header) => assert_eq!(header.to_bytes()[..], chunk.bytes[..512]),
                Item::Frame(frame) => {
                    assert_eq!(frame.header.to_bytes()[..], frame.bytes[..FRAME_HEADER_BYTES]);
                    let decoded = frame.decode().expect("decodes");
                    let mut payload = Vec::new();
                    decoded.records.iter().for_each(|record| encode_record(record, &mut payload));
                    if !frame.header.compressed {
                        assert_eq!(payload, frame.bytes[FRAME_HEADER_BYTES..]);
                    }
                    assert_eq!(payload.len(), frame.header.raw_bytes as usize);
                    records.extend(decoded.records);
                }
            }
        }
    }
    assert_eq!(records[1..12], one_of_each());
    assert_eq!(state.epoch, Epoch::new(1, 5));
    assert_eq!(state.next_sequence, 14);
    assert_eq!(state.time.unix_millis(), 1_700_000_000_001, "time never goes back");
}

fn control(sealed: u64) -> ControlRecord {
    let (copy, database) = (CopyId::from_u128(1), DatabaseId::from_u128(2));
    let (log, store) = (LogId::from_u128(4), StoreId::from_u128(5));
    let mut record = ControlRecord::new(copy, database, stream(), log, store);
    record.sealed = Epoch::new(0, sealed);
    record.epoch_table = EpochTable::from_rows(
        (1..=sealed)
            .map(|counter| keelson_types::EpochStart {
                epoch: Epoch::new(0, counter),
                previous_end: Position::new(counter - 1, counter * 100),
                chain: 0xdead_0000 | u32::try_from(counter).expect("small"),
            })
            .collect(),
    )
    .expect("rises");
    record.committed = Position::new(3, 700);
    record.durable_floor = Position::new(3, 600);
    record.start_tries = 2;
    record.suspended = Some("maintenance of rack 7, löscht nichts".to_owned());
    record.may_have_lost_from = Some(Position::new(3, 512));
    record.extensions = vec![(1, b"lag".to_vec()), (9, Vec::new())];
    record
}

#[test]
fn control_files_of_version_1_decode_and_encode_to_the_same_bytes() {
    let mut fresh = vec![0; CONTROL_FILE_BYTES];
    for (slot, counter) in [(0, 7), (1, 8)] {
        let bytes = encode_control_slot(&control(counter), counter).expect("fits");
        fresh[slot * CONTROL_SLOT_BYTES..][..bytes.len()].copy_from_slice(&bytes);
    }
    let file = golden("control", &fresh);
    let choice = choose_control(&file).expect("decodes").expect("written");
    assert_eq!((choice.counter, choice.slot, choice.other), (8, 1, None));
    assert_eq!(choice.record, control(8));
    let again = encode_control_slot(&choice.record, choice.counter).expect("fits");
    assert_eq!(again, file[CONTROL_SLOT_BYTES..][..again.len()]);
}

#[test]
fn seed_manifests_of_version_1_decode_and_encode_to_the_same_bytes() {
    let file =
        |place, name: &str, bytes, digest| SeedFile { place, name: name.to_owned(), bytes, digest };
    let record = control(3);
    let manifest = SeedManifest {
        checkpoint: CheckpointId::from_u128(6),
        database: record.database,
        stream: record.stream,
        source: record.copy,
        at: LogEnd { epoch: Epoch::new(0, 3), position: Position::new(3, 700) },
        epochs: record.epoch_table,
        files: vec![
            file(SeedPlace::Log, "0000000000000003.klog", 700, u128::MAX),
            file(SeedPlace::Store, "CURRENT", 16, 1),
            file(SeedPlace::Store, "000017.sst", 64 << 20, 0x1234_5678_9abc_def0 << 40),
        ],
    };
    let bytes = golden("seed-manifest", &manifest.encode());
    assert_eq!(SeedManifest::decode(&bytes), Ok(manifest.clone()));
    assert_eq!(manifest.encode(), bytes, "this version writes other bytes than it did");
}
