//! Properties of the format: round trips, detection of every flipped bit, no panics on any bytes.

use bytes::Bytes;
use keelson_format::{
    Chunk, ControlRecord, Cursor, CursorState, FRAME_HEADER_BYTES, FrameHeader, FramingConfig,
    GenerationHeader, choose_control, decode_control_slot, decode_frame, decode_records,
    encode_control_slot, encode_record, encoded_record_bytes,
};
use keelson_types::{
    CopyId, DatabaseId, Epoch, EpochStart, EpochTable, LogId, Position, Record, SessionId,
    SessionRecord, StoreId, StreamId,
};
use proptest::collection::vec;
use proptest::prelude::*;

fn blob(most: usize) -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), 0..most).prop_map(Bytes::from)
}

fn session_change() -> impl Strategy<Value = SessionRecord> {
    prop_oneof![
        Just(SessionRecord::Open),
        Just(SessionRecord::Expire),
        (any::<u64>(), any::<u64>()).prop_map(|(sequence, lowest_unanswered)| {
            SessionRecord::Applied { sequence, lowest_unanswered }
        }),
    ]
}

fn record() -> impl Strategy<Value = Record> {
    let session = any::<u128>().prop_map(SessionId::from_u128);
    prop_oneof![
        (blob(40), blob(900)).prop_map(|(key, value)| Record::Put { key, value }),
        blob(40).prop_map(|key| Record::Delete { key }),
        (blob(40), blob(40)).prop_map(|(from, to)| Record::DeleteRange { from, to }),
        (session, session_change())
            .prop_map(|(session, change)| Record::Session { session, change }),
        (any::<u32>(), any::<u64>()).prop_map(|(r, c)| Record::Opening { epoch: Epoch::new(r, c) }),
        any::<u64>().prop_map(|id| Record::DigestMarker { id }),
        ".{0,20}".prop_map(|name| Record::RestorePoint { name }),
        Just(Record::NoOp),
        blob(60).prop_map(|body| Record::Schema { body }),
    ]
}

fn groups() -> impl Strategy<Value = Vec<(Vec<Record>, u64)>> {
    vec((vec(record(), 0..6), 0u64..5_000), 1..12)
}

/// Encodes groups in a stream with tiny generations and returns everything that is written.
fn encode(groups: &[(Vec<Record>, u64)], compress: bool) -> (Cursor, Vec<Chunk>) {
    let config = FramingConfig { generation_bytes: 2_500, compress };
    let mut cursor = Cursor::new(CursorState::empty(StreamId::from_u128(9)), config);
    let mut chunks = vec![cursor.begin_epoch(Epoch::new(0, 1), 1_000).expect("rises").0];
    let mut durable = Position::ZERO;
    for (records, wall) in groups {
        let encoded = cursor.encode(records, *wall, durable, durable).expect("fits");
        durable = encoded.frame.end().position;
        chunks.extend(encoded.chunks);
    }
    (cursor, chunks)
}

fn control(rows: u64, comment: String, extension: Vec<u8>) -> ControlRecord {
    let (copy, database) = (CopyId::from_u128(1), DatabaseId::from_u128(2));
    let (log, store) = (LogId::from_u128(4), StoreId::from_u128(5));
    let mut record = ControlRecord::new(copy, database, StreamId::from_u128(3), log, store);
    let row = |counter| EpochStart {
        epoch: Epoch::new(0, counter),
        previous_end: Position::new(counter, 700),
        chain: 5,
    };
    record.epoch_table = EpochTable::from_rows((1..=rows).map(row).collect()).expect("rises");
    record.suspended = Some(comment);
    record.extensions = vec![(3, extension)];
    record
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn records_round_trip(records in vec(record(), 0..8)) {
        let mut bytes = Vec::new();
        for record in &records {
            let before = bytes.len();
            encode_record(record, &mut bytes);
            prop_assert_eq!(bytes.len() - before, encoded_record_bytes(record));
        }
        let count = u32::try_from(records.len()).expect("few");
        prop_assert_eq!(decode_records(&Bytes::from(bytes), count), Ok(records));
    }

    #[test]
    fn what_the_active_encodes_the_passive_inspects(groups in groups(), compress: bool) {
        let (active, chunks) = encode(&groups, compress);
        let start = CursorState::empty(StreamId::from_u128(9));
        let mut passive = Cursor::new(start, FramingConfig::default());
        let mut decoded = Vec::new();
        for chunk in &chunks {
            for frame in passive.verify(chunk).expect("continues").frames {
                decoded.push(frame.decode().expect("decodes").records);
            }
        }
        prop_assert_eq!(passive.state(), active.state());
        let sent: Vec<_> = groups.into_iter().map(|(records, _)| records).collect();
        prop_assert_eq!(decoded, sent);
    }

    #[test]
    fn any_flipped_bit_is_detected(groups in groups(), pick: prop::sample::Index, bit in 0u8..8) {
        let (_, chunks) = encode(&groups, true);
        let total: usize = chunks.iter().map(|chunk| chunk.bytes.len()).sum();
        let mut at = pick.index(total);
        let mut state = CursorState::empty(StreamId::from_u128(9));
        let mut refused = false;
        for chunk in &chunks {
            let mut bytes = chunk.bytes.to_vec();
            if at < bytes.len() {
                bytes[at] ^= 1 << bit;
                let before = state;
                refused = state.verify(&Chunk::new(chunk.position, bytes.into())).is_err();
                prop_assert_eq!(before, state, "a refused chunk changes nothing");
                break;
            }
            at -= bytes.len();
            state.verify(chunk).expect("intact so far");
        }
        prop_assert!(refused);
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in vec(any::<u8>(), 0..2_000), count: u32, zero: bool) {
        let bytes = Bytes::from(bytes);
        prop_assert!(GenerationHeader::decode(&bytes).is_err());
        prop_assert!(FrameHeader::decode(&bytes).is_err());
        prop_assert!(decode_frame(&bytes).is_err());
        drop(decode_records(&bytes, count));
        drop(decode_control_slot(&bytes));
        drop(choose_control(&bytes));
        let position = if zero { Position::new(1, 0) } else { Position::new(1, u64::MAX - 3) };
        let mut state = CursorState::empty(StreamId::from_u128(9));
        drop(state.verify(&Chunk::new(position, bytes)));
    }

    /// Frames whose checksums match although their content is arbitrary, as a hostile peer sends
    /// them.
    #[test]
    fn well_sealed_nonsense_never_panics(
        payload in vec(any::<u8>(), 0..300), compressed: bool, raw: u32, count: u32,
        numbers: [u64; 4],
    ) {
        let stored = u32::try_from(payload.len()).expect("short");
        let position = Position::new(numbers[0], numbers[1]);
        let header = FrameHeader {
            compressed,
            stored_bytes: stored,
            raw_bytes: if compressed { raw % 100_000 } else { stored },
            record_count: count,
            epoch: Epoch::new(count, numbers[2]),
            position,
            first_sequence: numbers[2],
            time: keelson_types::HybridTime(numbers[3]),
            committed: position,
            durable: position,
            payload_crc: crc32fast::hash(&payload),
            chain: raw,
        };
        let mut bytes = header.to_bytes().to_vec();
        bytes.extend_from_slice(&payload);
        drop(decode_frame(&Bytes::from(bytes.clone())));
        let mut state = CursorState::empty(StreamId::from_u128(9));
        state.position = position;
        drop(state.verify(&Chunk::new(position, bytes.into())));
    }

    #[test]
    fn control_records_round_trip_and_detect_flips(
        rows in 0u64..260, comment in ".{0,600}", extension in vec(any::<u8>(), 0..3_000),
        pick: prop::sample::Index, bit in 0u8..8,
    ) {
        let record = control(rows, comment, extension);
        let bytes = encode_control_slot(&record, 4).expect("fits");
        let (counter, decoded) = decode_control_slot(&bytes).expect("decodes").expect("written");
        prop_assert_eq!(counter, 4);
        let kept = record.epoch_table.rows();
        let kept = &kept[kept.len().saturating_sub(200)..];
        prop_assert_eq!(decoded.epoch_table.rows(), kept);
        let comment = record.suspended.as_ref().expect("suspended");
        let cut: String = comment.chars().take(512).collect();
        prop_assert_eq!(decoded.suspended.as_ref(), Some(&cut));
        prop_assert_eq!(&decoded.extensions, &record.extensions);
        let mut flipped = bytes.clone();
        let at = pick.index(flipped.len());
        flipped[at] ^= 1 << bit;
        // The padding behind the body means nothing; everything else is covered.
        match decode_control_slot(&flipped) {
            Ok(Some(same)) => prop_assert_eq!(same.1, decoded),
            Ok(None) => prop_assert!(false, "a written slot looks unwritten"),
            Err(_) => {}
        }
    }
}

#[test]
fn a_frame_larger_than_a_generation_lies_alone_in_one() {
    let config = FramingConfig { generation_bytes: 2_000, compress: false };
    let mut cursor = Cursor::new(CursorState::empty(StreamId::from_u128(9)), config);
    cursor.begin_epoch(Epoch::new(0, 1), 0).expect("rises");
    let zero = Position::ZERO;
    let put = |bytes: usize| {
        [Record::Put { key: Bytes::from_static(b"k"), value: vec![1; bytes].into() }]
    };
    let small = cursor.encode(&put(10), 0, zero, zero).expect("fits");
    assert_eq!(small.chunks.len(), 1);
    let large = cursor.encode(&put(5_000), 0, zero, zero).expect("fits");
    assert_eq!(large.chunks.len(), 2, "a header, then the frame");
    assert_eq!(large.chunks[0].position, Position::new(2, 0));
    assert_eq!(large.chunks[1].position, Position::new(2, 512));
    assert!(large.chunks[1].end.offset > 5_000 + FRAME_HEADER_BYTES as u64);
    let next = cursor.encode(&put(10), 0, zero, zero).expect("fits");
    assert_eq!(next.chunks[0].position, Position::new(3, 0));
}

#[test]
fn epochs_open_generations_and_name_where_they_start() {
    let mut cursor =
        Cursor::new(CursorState::empty(StreamId::from_u128(9)), FramingConfig::default());
    let zero = Position::ZERO;
    assert!(cursor.encode(&[Record::NoOp], 0, zero, zero).is_err(), "no epoch yet");
    let (_, first) = cursor.begin_epoch(Epoch::new(0, 3), 5).expect("rises");
    assert_eq!(first.previous_end, Position::ZERO);
    let frame = cursor.encode(&[Record::NoOp], 5, zero, zero).expect("fits").frame;
    let (end, chain) = (cursor.position(), cursor.state().chain);
    assert_eq!(frame.end().position, end);
    assert!(cursor.begin_epoch(Epoch::new(0, 3), 5).is_err(), "the same epoch again");
    let (chunk, second) = cursor.begin_epoch(Epoch::new(0, 4), 5).expect("rises");
    assert_eq!((second.previous_end, second.chain), (end, chain));
    assert_eq!((chunk.position, chunk.end), (Position::new(2, 0), Position::new(2, 512)));
    assert_eq!(cursor.end(), frame.end(), "a header is no frame");
    assert_eq!(cursor.close_generation(5), None, "nothing to close yet");
    let header = GenerationHeader::decode(&chunk.bytes).expect("decodes");
    let mut seeded = CursorState::before(&header);
    seeded.verify(&chunk).expect("a seeded copy begins here");
    assert_eq!(&seeded, cursor.state());
}

#[test]
fn frames_of_another_stream_or_place_are_refused() {
    let build = |stream| {
        let state = CursorState::empty(StreamId::from_u128(stream));
        let mut cursor = Cursor::new(state, FramingConfig::default());
        let (header, _) = cursor.begin_epoch(Epoch::new(0, 1), 5).expect("rises");
        let zero = Position::ZERO;
        let frame = cursor.encode(&[Record::NoOp], 5, zero, zero).expect("fits");
        (state, header, frame.chunks[0].clone())
    };
    let (mut state, header, frame) = build(1);
    let (_, other_header, other_frame) = build(2);
    let code = |state: &mut CursorState, chunk: &Chunk| {
        state.verify(chunk).expect_err("refused").kind.code()
    };
    assert_eq!(code(&mut state, &other_header), "stream");
    assert_eq!(code(&mut state, &frame), "position", "the header is missing");
    state.verify(&header).expect("continues");
    assert_eq!(code(&mut state, &other_frame), "chain");
    state.verify(&frame).expect("continues");
    assert_eq!(code(&mut state, &frame), "position", "twice");
}

#[test]
fn a_newer_format_is_told_from_damage() {
    let record = control(1, String::new(), Vec::new());
    let mut slot = encode_control_slot(&record, 1).expect("fits");
    slot[8] = 2;
    let length = u32::from_le_bytes(slot[12..16].try_into().expect("four")) as usize;
    let mut covered = slot[..24].to_vec();
    covered.extend_from_slice(&slot[28..28 + length]);
    slot[24..28].copy_from_slice(&crc32fast::hash(&covered).to_le_bytes());
    let error = decode_control_slot(&slot).expect_err("newer");
    assert_eq!(error, keelson_format::FormatError::NewerFormat(2));
    assert_eq!(choose_control(&slot).expect_err("newer"), error);
}

#[test]
fn a_torn_slot_leaves_the_other_one() {
    let file = |slots: [Vec<u8>; 2]| {
        let mut file = vec![0; 2 * keelson_format::CONTROL_SLOT_BYTES];
        for (index, slot) in slots.iter().enumerate() {
            file[index * keelson_format::CONTROL_SLOT_BYTES..][..slot.len()].copy_from_slice(slot);
        }
        choose_control(&file)
    };
    let record = control(3, String::new(), Vec::new());
    let slot = |counter| encode_control_slot(&record, counter).expect("fits");
    let torn = |counter| {
        let mut slot = slot(counter);
        slot[40] ^= 1;
        slot
    };
    let found = |slots| file(slots).expect("decodes").map(|c| (c.counter, c.slot, c.other));
    let error = keelson_format::FormatError::HeaderChecksum;
    assert_eq!(found([slot(3), slot(2)]), Some((3, 0, None)));
    assert_eq!(found([slot(3), slot(4)]), Some((4, 1, None)));
    assert_eq!(found([torn(5), slot(4)]), Some((4, 1, Some(error))));
    assert_eq!(found([slot(3), torn(4)]), Some((3, 0, Some(error))));
    assert_eq!(found([torn(1), Vec::new()]), None, "a first write that was never finished");
    assert_eq!(file([torn(1), torn(2)]), Err(error));
    assert_eq!(file([Vec::new(), torn(2)]), Err(error));
}
