//! Cutting forks, and the salvage of what was cut.

use keelson_env::Disk;
use keelson_format::{Cursor, CursorState};
use keelson_log::{LogError, list_salvage, read_salvage};
use keelson_types::{Generation, Position};

use crate::harness::{Copy, FRAMING, home, names, open, read_all, sim};

fn forked() -> (keelson_env::SimDisk, Copy) {
    let disk = sim();
    let mut copy = Copy::on(&disk);
    copy.begin(1).expect("writes");
    copy.commit_many(9, 700);
    copy.begin(2).expect("writes");
    copy.commit_many(9, 700);
    (disk, copy)
}

#[test]
fn a_fork_is_saved_and_then_gone() {
    let (disk, mut copy) = forked();
    let frames = read_all(&copy.log);
    let to = frames[5].end().position;
    let expected = copy.log.state_at(to).expect("a border");
    let report = copy.log.cut(to).expect("cuts");
    assert_eq!(report.state, expected);
    assert_eq!((copy.log.position(), copy.log.durable_end()), (to, frames[5].end()));
    assert_eq!(read_all(&copy.log), frames[..6]);
    let salvage = disk.bytes(&report.salvage.expect("saved")).expect("exists");
    assert_eq!(salvage.len() as u64, report.salvaged_bytes);
    for frame in &frames[6..] {
        let found = salvage.windows(frame.bytes.len()).any(|window| window == frame.bytes);
        assert!(found, "{} is not in the salvage", frame.header.position);
    }
    // The log goes on in a new epoch, and the cut survives a crash.
    copy.cursor = Cursor::new(report.state, FRAMING);
    copy.begin(3).expect("writes");
    copy.commit(100).expect("writes");
    drop(copy);
    disk.crash(4);
    let (log, recovery) = open(&disk, Position::ZERO).expect("opens");
    assert_eq!((recovery.damage, read_all(&log).len()), (None, 7));
    let counters: Vec<_> = recovery.epochs.iter().map(|row| row.epoch.counter).collect();
    assert_eq!(counters, [1, 3]);
}

#[test]
fn a_salvage_is_listed_and_read_back_frame_by_frame() {
    for kept in 0..18 {
        let (disk, mut copy) = forked();
        let frames = read_all(&copy.log);
        let (to, end) = match kept {
            0 => (Position::ZERO, copy.log.durable_end()),
            kept => (frames[kept - 1].end().position, copy.log.durable_end()),
        };
        copy.log.cut(to).expect("cuts");
        let listed = list_salvage(&disk, &home()).expect("lists");
        assert_eq!(listed.len(), 1, "{listed:?}");
        assert_eq!((listed[0].at, listed[0].epoch), (to, end.epoch));
        let mut found = read_salvage(&disk, &home(), &listed[0]).expect("reads");
        assert_eq!(found.by_ref().collect::<Vec<_>>(), frames[kept..], "{kept} kept");
        assert_eq!(found.unread_bytes(), 0);
    }
}

#[test]
fn a_salvage_is_read_up_to_its_damage() {
    let (disk, mut copy) = forked();
    let frames = read_all(&copy.log);
    copy.log.cut(frames[1].end().position).expect("cuts");
    let salvage = &list_salvage(&disk, &home()).expect("lists")[0];
    let at = frames[2].bytes.len() as u64 + 100;
    assert!(disk.flip_bit(&home().join(&salvage.name), at, 3));
    let mut found = read_salvage(&disk, &home(), salvage).expect("reads");
    assert_eq!(found.by_ref().collect::<Vec<_>>(), frames[2..3]);
    assert_eq!(found.unread_bytes(), salvage.bytes - frames[2].bytes.len() as u64);
}

#[test]
fn a_cut_is_durable_when_it_returns() {
    for seed in 0..20 {
        let (disk, mut copy) = forked();
        let frames = read_all(&copy.log);
        let to = frames[1].end().position;
        copy.log.cut(to).expect("cuts");
        drop(copy);
        disk.crash(seed);
        let (log, recovery) = open(&disk, to).expect("opens");
        assert_eq!((recovery.state.position, recovery.damage), (to, None), "seed {seed}");
        assert_eq!(read_all(&log), frames[..2]);
    }
}

#[test]
fn a_reader_with_an_open_file_never_shows_the_fork_again() {
    let (_, mut copy) = forked();
    let frames = read_all(&copy.log);
    let mut reader = copy.reader();
    let fork = frames[7].header.position;
    reader.read(fork, copy.log.position(), 1).expect("reads the fork");
    let to = frames[5].end().position;
    let report = copy.log.cut(to).expect("cuts");
    copy.cursor = Cursor::new(report.state, FRAMING);
    copy.begin(3).expect("writes");
    let new = copy.commit_many(4, 650);
    let mut state = report.state;
    let chunks = reader.read(to, copy.log.position(), 1 << 20).expect("reads the new frames");
    let found: Vec<_> =
        chunks.iter().flat_map(|chunk| state.verify(chunk).expect("one chain").frames).collect();
    assert_eq!(found, new);
}

#[test]
fn a_cut_at_a_generation_border_removes_whole_files() {
    let (disk, mut copy) = forked();
    let border = copy.log.header(Generation(3)).expect("kept").previous_end;
    copy.log.cut(border).expect("cuts");
    assert_eq!(copy.log.position(), border);
    assert!(names(&disk).iter().all(|name| !name.starts_with("0000000000000003")));
    assert!(matches!(copy.log.cut(Position::new(4, 512)), Err(LogError::NotABorder(_))));
}

#[test]
fn a_cut_to_nothing_empties_the_log() {
    let (disk, mut copy) = forked();
    let report = copy.log.cut(Position::ZERO).expect("cuts");
    let empty = CursorState::empty(crate::harness::stream());
    // Its time neither: the log that is taken instead may come from a clock behind this one's.
    assert_eq!(report.state, empty);
    assert_eq!((copy.log.position(), copy.log.first_generation()), (Position::ZERO, None));
    assert!(names(&disk).iter().any(|name| name.starts_with("salvage-")));
    copy.cursor = Cursor::new(report.state, FRAMING);
    copy.begin(7).expect("begins again");
    copy.commit(10).expect("writes");
    assert_eq!(read_all(&copy.log).len(), 1);
}

#[test]
fn a_cut_inside_a_frame_or_before_the_log_is_refused() {
    let (disk, mut copy) = forked();
    let frames = read_all(&copy.log);
    let at = frames[4].header.position;
    let inside = Position { offset: at.offset + 1, ..at };
    assert_eq!(copy.log.cut(inside), Err(LogError::NotABorder(inside)));
    let beyond = Position::new(90, 512);
    assert_eq!(copy.log.cut(beyond), Err(LogError::NotABorder(beyond)));
    copy.log.truncate_before(Generation(2)).expect("truncates");
    let early = frames[0].end().position;
    assert!(matches!(copy.log.cut(early), Err(LogError::Truncated { .. })));
    assert!(names(&disk).iter().all(|name| !name.starts_with("salvage-")));
    let before_first = copy.log.header(Generation(2)).expect("kept").previous_end;
    let state = copy.log.cut(before_first).expect("the end before the first one").state;
    assert_eq!((state.position, copy.log.first_generation()), (before_first, None));
}

#[test]
fn nothing_to_cut_saves_nothing() {
    let (disk, mut copy) = forked();
    let report = copy.log.cut(copy.cursor.position()).expect("nothing to do");
    assert_eq!((report.salvage, report.salvaged_bytes), (None, 0));
    assert_eq!(&report.state, copy.cursor.state());
    assert!(names(&disk).iter().all(|name| !name.starts_with("salvage-")));
}

#[test]
fn salvage_never_overwrites_salvage() {
    let (disk, mut copy) = forked();
    let to = copy.log.header(Generation(3)).expect("kept").previous_end;
    let first = copy.log.cut(to).expect("cuts").salvage.expect("saved");
    let bytes = disk.bytes(&first).expect("exists");
    copy.cursor = Cursor::new(copy.log.state_at(to).expect("the end"), FRAMING);
    copy.begin(2).expect("writes");
    copy.commit(33).expect("writes");
    let second = copy.log.cut(to).expect("cuts again").salvage.expect("saved");
    assert_ne!(first, second);
    assert_eq!(disk.bytes(&first).expect("exists"), bytes);
}

#[test]
fn a_full_volume_refuses_the_cut_and_keeps_the_log() {
    let (disk, mut copy) = forked();
    let frames = read_all(&copy.log);
    let quota = 10 + disk.list(&home()).expect("lists").len() as u64;
    disk.set_quota(Some(quota));
    let error = copy.log.cut(frames[2].end().position).expect_err("no room for the salvage");
    assert_eq!(error, LogError::NoSpace);
    assert_eq!(read_all(&copy.log), frames);
    assert!(names(&disk).iter().all(|name| !name.starts_with("salvage-")));
    disk.set_quota(None);
    copy.log.cut(frames[2].end().position).expect("cuts when space returns");
}
