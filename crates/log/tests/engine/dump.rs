//! The offline listing.

use keelson_format::ControlRecord;
use keelson_log::{
    ControlFile, DumpError, DumpOptions, Evidence, LogError, dump, dump_dir, verify, verify_dir,
};
use keelson_types::{CopyId, DatabaseId, LogId, Position, StoreId, StreamId};

use crate::harness::{Copy, file_of, home, open, sim};

fn listing(disk: &keelson_env::SimDisk, options: DumpOptions) -> String {
    let mut out = Vec::new();
    dump(disk, &home(), options, &mut out).expect("lists");
    String::from_utf8(out).expect("text")
}

fn log() -> (keelson_env::SimDisk, Vec<keelson_format::FrameInfo>) {
    let disk = sim();
    let mut copy = Copy::on(&disk);
    copy.begin(1).expect("writes");
    let frames = copy.commit_many(6, 900);
    (disk, frames)
}

#[test]
fn a_listing_shows_generations_frames_and_records() {
    let (disk, frames) = log();
    let table = listing(&disk, DumpOptions::default());
    assert_eq!(table.lines().count(), 1 + 2 + 1, "{table}");
    assert!(table.contains("2 generations, 6 frames, 6 records"), "{table}");
    let options = DumpOptions { records: true, ..DumpOptions::default() };
    let table = listing(&disk, options);
    for frame in &frames {
        let line = format!("{} -> {}", frame.header.position, frame.end().position);
        assert!(table.contains(&line), "{line} is missing in\n{table}");
    }
    assert!(
        table.contains("3 put \\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x03 = 900 bytes"),
        "{table}"
    );
}

#[test]
fn json_lines_name_the_place_and_kind_of_damage() {
    let (disk, frames) = log();
    let at = frames[1].header.position;
    disk.flip_bit(&file_of(1), at.offset + 200, 0);
    let options = DumpOptions { json: true, frames: true, records: true };
    let text = listing(&disk, options);
    let damage = format!("\"position\":\"{at}\",\"code\":\"payload_checksum\"");
    assert!(text.contains(&damage), "{text}");
    assert!(text.lines().all(|line| line.starts_with('{') && line.ends_with('}')), "{text}");
    assert!(text.contains("\"subject\":\"\\\\x00"), "backslashes are escaped: {text}");
    assert!(text.contains("\"damages\":1"), "{text}");
}

#[test]
fn a_directory_without_a_log_is_refused() {
    let directory = tempfile::tempdir().expect("creates");
    std::fs::write(directory.path().join("spare-0000000000000001.klog"), "x").expect("writes");
    assert_eq!(verify_dir(directory.path()), Err(LogError::NoLog));
    let dumped = dump_dir(directory.path(), DumpOptions::default(), &mut Vec::new());
    assert!(matches!(dumped, Err(DumpError::Log(LogError::NoLog))), "{dumped:?}");
}

#[test]
fn a_torn_tail_is_listed_and_is_not_damage() {
    let (disk, frames) = log();
    let mut copy = Copy::on(&disk);
    let first = copy.append(50).expect("writes");
    copy.append(60).expect("writes");
    let at = first.header.position;
    disk.flip_bit(&file_of(at.generation.0), at.offset + 2, 0);
    let text = listing(&disk, DumpOptions::default());
    assert!(text.contains(&format!("torn tail from {at}")), "{text}");
    assert!(text.contains("0 damaged places"), "{text}");
    let before = disk.operations();
    listing(&disk, DumpOptions { json: true, frames: true, records: true });
    assert_eq!(disk.operations(), before, "looking changes nothing");
    let (_, recovery) = open(&disk, Position::ZERO).expect("opens");
    assert_eq!(recovery.state.end, frames[5].end());
}

/// A frame lost at the end leaves no hole: only what the copy knew of its log can tell.
#[test]
fn a_last_frame_that_is_gone_is_damage_if_the_copy_had_it_durable() {
    let (disk, frames) = log();
    let (last, at) = (frames[5].end().position, frames[5].header.position);
    let whole = verify(&disk, &home()).expect("reads");
    assert_eq!((whole.known, whole.is_intact()), (None, true));
    disk.flip_bit(&file_of(at.generation.0), at.offset + 2, 0);
    let lost = verify(&disk, &home()).expect("reads");
    assert!(lost.is_intact() && lost.bytes_behind > 900, "{lost:?}");
    assert!(listing(&disk, DumpOptions::default()).contains("behind the end that are not zero"));

    let mut record = ControlRecord::new(
        CopyId::from_u128(1),
        DatabaseId::from_u128(1),
        StreamId::from_u128(1),
        LogId::from_u128(1),
        StoreId::from_u128(1),
    );
    (record.durable_floor, record.committed) = (at, last);
    let path = home().with_file_name("control");
    let (mut control, _) = ControlFile::open(&disk, &path).expect("creates");
    control.write(&record).expect("writes");
    let torn = verify(&disk, &home()).expect("reads");
    assert!(torn.is_intact(), "a crash may take what is above the floor: {torn:?}");
    assert_eq!(torn.known.map(|known| known.committed), Some(last));
    record.durable_floor = last;
    control.write(&record).expect("writes");
    let damaged = verify(&disk, &home()).expect("reads");
    assert_eq!(damaged.damages.len(), 1, "{damaged:?}");
    assert_eq!(damaged.damages[0].position, at);
    assert_eq!(damaged.damages[0].evidence, Evidence::Floor(last));
}
