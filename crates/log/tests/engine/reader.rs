//! Reading while writing: shipping gives byte-identical files; truncation and damage are told
//! apart.

use std::sync::Arc;

use keelson_env::Disk;
use keelson_format::Cursor;
use keelson_log::{Log, LogConfig, LogError, LogReader, OsDisk};
use keelson_types::{Epoch, Generation, Position};

use crate::harness::{CONFIG, Copy, FRAMING, file_of, home, put, read_all, sim, stream};

fn active() -> (keelson_env::SimDisk, Copy) {
    let disk = sim();
    let mut copy = Copy::on(&disk);
    copy.begin(1).expect("writes");
    (disk, copy)
}

#[test]
fn a_copied_stream_gives_byte_identical_files() {
    let (disk, mut copy) = active();
    copy.commit_many(8, 600);
    copy.begin(2).expect("writes");
    copy.commit_many(3, 9_000);
    copy.commit_many(4, 30);
    for max_bytes in [1, 700, 5_000, 1 << 20] {
        let passive_disk = sim();
        let mut passive = Copy::on(&passive_disk);
        let mut reader = copy.reader();
        loop {
            let from = passive.cursor.position();
            let chunks = reader.read(from, copy.log.durable_position(), max_bytes).expect("reads");
            if chunks.is_empty() {
                break;
            }
            passive.receive(&chunks).expect("continues");
            passive.log.sync().expect("syncs");
        }
        assert_eq!(passive.cursor.state(), copy.cursor.state());
        let last = copy.cursor.position().generation.0;
        for generation in 1..=last {
            let bytes = |disk: &keelson_env::SimDisk| disk.bytes(&file_of(generation));
            let (mut ours, mut theirs) = (bytes(&disk).unwrap(), bytes(&passive_disk).unwrap());
            if generation == last {
                // Behind the end of the last file lie zeros, of any length.
                let end = usize::try_from(copy.cursor.position().offset).expect("small");
                assert!(ours.drain(end..).chain(theirs.drain(end..)).all(|byte| byte == 0));
            }
            assert!(ours == theirs, "generation {generation} differs, max {max_bytes}");
        }
    }
}

#[test]
fn a_reader_stops_at_its_limit_and_goes_on_later() {
    let (_, mut copy) = active();
    let frames = copy.commit_many(5, 700);
    let mut reader = copy.reader();
    let limit = frames[2].end().position;
    let read = |reader: &mut LogReader, from, limit| -> Vec<Position> {
        let chunks = reader.read(from, limit, 1 << 20).expect("reads");
        chunks.iter().map(|chunk| chunk.end).collect()
    };
    assert_eq!(read(&mut reader, Position::ZERO, limit), [limit]);
    assert_eq!(read(&mut reader, limit, limit), []);
    let end = copy.log.position();
    assert_eq!(read(&mut reader, limit, end).last(), Some(&end));
    let more = copy.commit_many(4, 700).last().expect("some").end().position;
    assert!(more.generation > end.generation);
    assert_eq!(read(&mut reader, end, more).last(), Some(&more));
}

#[test]
fn chunks_carry_whole_frames_within_the_limit_of_bytes() {
    let (_, mut copy) = active();
    copy.commit_many(6, 300);
    let big = copy.commit(200_000).expect("writes");
    let mut reader = copy.reader();
    let one = reader.read(Position::new(1, 512), copy.log.position(), 1).expect("reads");
    assert_eq!(one.len(), 1);
    assert_eq!(one[0].items().count(), 1, "one byte asked for, one frame given");
    let from = Position { offset: 0, ..big.header.position };
    let chunks = reader.read(from, copy.log.position(), 1).expect("reads");
    assert_eq!(chunks[0].bytes.len() as u64, 512 + big.header.frame_bytes());
    let frames = reader.read(big.header.position, copy.log.position(), 1).expect("reads");
    assert_eq!(frames[0].bytes, big.bytes);
}

/// A copy that ends where the oldest generation goes on misses nothing (simulator seed 36).
#[test]
fn reading_goes_on_at_the_end_of_a_generation_that_is_gone() {
    let (_, mut copy) = active();
    copy.commit_many(12, 1_200);
    let mut reader = copy.reader();
    let end = reader.header(Generation(3)).expect("kept").previous_end;
    copy.log.truncate_before(Generation(3)).expect("truncates");
    for reader in [&mut reader, &mut copy.reader()] {
        let chunks = reader.read(end, copy.log.position(), 1 << 20).expect("reads");
        assert_eq!(chunks[0].position, Position::new(3, 0));
        let middle = Position { offset: end.offset - 1, ..end };
        let error = reader.read(middle, copy.log.position(), 1).expect_err("gone");
        assert!(matches!(error, LogError::Truncated { .. }));
    }
}

#[test]
fn what_was_truncated_says_so_even_to_an_open_reader() {
    let (_, mut copy) = active();
    let frames = copy.commit_many(12, 1_200);
    let mut reader = copy.reader();
    reader.read(Position::ZERO, copy.log.position(), 1).expect("reads");
    copy.log.truncate_before(Generation(3)).expect("truncates");
    // The old files are written again under the open handle.
    copy.commit_many(8, 1_200);
    let wanted = frames[0].end().position;
    let error = reader.read(wanted, copy.log.position(), 1 << 20).expect_err("gone");
    assert_eq!(error, LogError::Truncated { wanted, first: Generation(3) });
    let error = copy.reader().read(Position::ZERO, copy.log.position(), 1).expect_err("gone");
    assert!(matches!(error, LogError::Truncated { .. }));
    let error = copy.reader().header(Generation(1)).expect_err("gone");
    assert!(matches!(error, LogError::Truncated { .. }));
    assert_eq!(copy.reader().header(Generation(3)).expect("kept").generation, Generation(3));
}

#[test]
fn damage_is_named_with_its_place_after_what_lies_before_it() {
    let (disk, mut copy) = active();
    let frames = copy.commit_many(4, 300);
    let at = frames[2].header.position;
    disk.flip_bit(&file_of(1), at.offset + 130, 6);
    let mut reader = copy.reader();
    let limit = copy.log.position();
    let chunks = reader.read(Position::ZERO, limit, 1 << 20).expect("the intact part");
    assert_eq!(chunks.last().expect("some").end, at);
    let error = reader.read(at, limit, 1 << 20).expect_err("damaged");
    let LogError::Damaged(damage) = error else { panic!("{error}") };
    assert_eq!((damage.position, damage.kind.code()), (at, "payload_checksum"));
    assert!(!disk.exists(&home().join("x")).expect("answers"));
}

/// Intact frames where they do not belong: misplaced, and of another history.
#[test]
fn frames_out_of_place_or_chain_are_damage() {
    let damage = |from: usize, to: usize, value: usize| {
        let (disk, mut copy) = active();
        let mut frames = copy.commit_many(2, 300);
        let mut other = copy.cursor;
        let durable = copy.log.durable_position();
        let records = [put(99, value)];
        let foreign = other.encode(&records, 9, durable, durable).expect("fits").frame;
        frames.extend(copy.commit_many(2, 300));
        let source = if from == usize::MAX { &foreign } else { &frames[from] };
        let at = frames[to].header.position;
        disk.open(&file_of(1)).unwrap().write_at(at.offset, &source.bytes).expect("writes");
        let mut reader = copy.reader();
        let from = frames[to].header.position;
        let before = Position::new(1, 512);
        reader.read(before, from, 1 << 20).expect("what lies before");
        let mut at = from;
        loop {
            match reader.read(at, copy.log.position(), 1) {
                Ok(chunks) => at = chunks.last().expect("damage comes").end,
                Err(LogError::Damaged(damage)) => break (damage.position, damage.kind.code()),
                Err(error) => panic!("{error}"),
            }
        }
    };
    let (_, mut copy) = active();
    let frames = copy.commit_many(4, 300);
    let position = |index: usize| frames[index].header.position;
    assert_eq!(damage(1, 2, 0), (position(2), "position"));
    assert_eq!(damage(usize::MAX, 2, 300), (position(3), "chain"));
}

#[test]
fn replay_decodes_what_was_written() {
    let (_, mut copy) = active();
    copy.commit_many(3, 40);
    let records: Vec<_> = read_all(&copy.log)
        .iter()
        .flat_map(|frame| frame.decode().expect("decodes").records)
        .collect();
    assert_eq!(records, [put(1, 40), put(2, 40), put(3, 40)]);
}

#[test]
fn a_seeded_copy_begins_with_a_later_generation() {
    let (_, mut copy) = active();
    copy.commit_many(12, 900);
    let mut reader = copy.reader();
    let header = reader.header(Generation(3)).expect("kept");
    let disk = sim();
    let mut seeded = Copy::on(&disk);
    seeded.cursor = Cursor::new(keelson_format::CursorState::before(&header), FRAMING);
    let from = Position { generation: Generation(3), offset: 0 };
    let chunks = reader.read(from, copy.log.position(), 1 << 20).expect("reads");
    seeded.receive(&chunks).expect("an empty log begins anywhere");
    seeded.log.sync().expect("syncs");
    assert_eq!(seeded.log.first_generation(), Some(Generation(3)));
    let state = *seeded.cursor.state();
    drop(seeded);
    disk.crash(2);
    let (again, recovery) = Copy::open(&disk).expect("opens");
    assert_eq!((recovery.state, recovery.first), (state, Some(Generation(3))));
    let error = again.reader().read(Position::ZERO, state.position, 1).expect_err("not here");
    assert!(matches!(error, LogError::Truncated { .. }));
}

#[test]
fn a_reader_follows_a_writer_in_another_thread_on_the_real_disk() {
    let directory = tempfile::tempdir().expect("creates");
    let home = directory.path().join("log");
    let config = LogConfig { generation_bytes: 64 * 1024, ..CONFIG };
    let disk: Arc<dyn Disk> = Arc::new(OsDisk::new());
    let (mut log, recovery) =
        Log::open(Arc::clone(&disk), &home, config, stream(), Position::ZERO).expect("opens");
    let mut reader = log.reader();
    let (send, receive) = std::sync::mpsc::channel();
    let follower = std::thread::spawn(move || {
        let mut state = recovery.state;
        let mut frames = 0;
        while let Ok(limit) = receive.recv() {
            while state.position < limit {
                for chunk in reader.read(state.position, limit, 10_000).expect("reads") {
                    frames += state.verify(&chunk).expect("one chain").frames.len();
                }
            }
        }
        (state, frames)
    });
    let framing = keelson_format::FramingConfig { generation_bytes: 64 * 1024, compress: true };
    let mut cursor = Cursor::new(recovery.state, framing);
    log.write(&[cursor.begin_epoch(Epoch::new(0, 1), 1).expect("rises").0]).expect("writes");
    for key in 0..300 {
        let durable = log.durable_position();
        let records = [put(key, 1_000 + (key as usize * 37) % 3_000)];
        let encoded = cursor.encode(&records, key, durable, durable).expect("fits");
        log.write(&encoded.chunks).expect("writes");
        if key % 3 == 0 {
            log.sync().expect("syncs");
            send.send(log.durable_position()).expect("listens");
        }
    }
    log.sync().expect("syncs");
    send.send(log.durable_position()).expect("listens");
    drop(send);
    let (state, frames) = follower.join().expect("the reader ends");
    assert_eq!((&state, frames), (cursor.state(), 300));
    drop(log);
    let (_, recovery) =
        Log::open(disk, &home, config, stream(), state.position).expect("opens again");
    assert_eq!((recovery.state, recovery.damage, recovery.cut), (state, None, None));
}
