//! The cases that every [`Disk`] must pass, run on the simulated disk here and on the real one in
//! `log`.
//!
//! Each case takes a disk and an empty directory on it, and panics where the disk differs.

use std::path::Path;
use std::sync::Arc;

use crate::{Disk, DiskErrorKind, DiskFile};

type Case = fn(&dyn Disk, &Path);

/// Runs every case below an existing empty directory.
///
/// # Panics
/// With the case and both values, if the disk does not conform.
pub fn all(disk: &dyn Disk, directory: &Path) {
    let cases: [(&str, Case); 7] = [
        ("names", names),
        ("reads", reads_stop_at_the_end),
        ("gaps", gaps_read_as_zeros),
        ("parts", parts_lie_one_behind_the_other),
        ("lengths", lengths_change),
        ("renames", renames_replace_and_keep_handles),
        ("sharing", handles_are_shared),
    ];
    for (name, case) in cases {
        let home = directory.join(name);
        disk.create_dir_all(&home).expect("creates the directory of the case");
        case(disk, &home);
    }
}

fn read(file: &dyn DiskFile, offset: u64, length: usize) -> Vec<u8> {
    let mut buffer = vec![0xee; length];
    let count = file.read_at(offset, &mut buffer).expect("reads");
    buffer.truncate(count);
    buffer
}

fn names(disk: &dyn Disk, home: &Path) {
    let path = home.join("b");
    let missing = disk.open(&path).expect_err("nothing there yet");
    assert_eq!(missing.kind, DiskErrorKind::NotFound);
    assert!(missing.to_string().contains("open"), "{missing}");
    disk.create(&path).expect("creates");
    let taken = disk.create(&path).expect_err("the name is taken");
    assert_eq!(taken.kind, DiskErrorKind::AlreadyExists);
    disk.create(&home.join("a")).expect("creates");
    disk.create_dir_all(&home.join("c/d")).expect("creates parents");
    disk.create_dir_all(&home.join("c/d")).expect("repeats");
    disk.sync_dir(home).expect("syncs names");
    let listed: Vec<_> =
        disk.list(home).expect("lists").into_iter().map(|e| (e.name, e.is_dir)).collect();
    let expected = [("a", false), ("b", false), ("c", true)];
    assert_eq!(listed, expected.map(|(name, is_dir)| (name.to_owned(), is_dir)));
    assert!(disk.exists(&path).expect("answers") && disk.exists(&home.join("c")).expect("answers"));
    disk.remove(&path).expect("removes");
    assert!(!disk.exists(&path).expect("answers"));
    let gone = disk.remove(&path).expect_err("removed before");
    assert_eq!(gone.kind, DiskErrorKind::NotFound);
    let nowhere = disk.list(&home.join("x")).expect_err("no such directory");
    assert!(nowhere.is_not_found());
    assert!(disk.free_bytes(home).expect("answers") > 0);
}

fn reads_stop_at_the_end(disk: &dyn Disk, home: &Path) {
    let file = disk.create(&home.join("f")).expect("creates");
    assert_eq!(read(&*file, 0, 4), b"");
    file.write_at(0, b"abcdef").expect("writes");
    assert_eq!(read(&*file, 2, 100), b"cdef");
    assert_eq!(read(&*file, 6, 1), b"");
    assert_eq!(read(&*file, 600, 1), b"");
}

fn gaps_read_as_zeros(disk: &dyn Disk, home: &Path) {
    let file = disk.create(&home.join("f")).expect("creates");
    file.write_at(5, b"x").expect("writes");
    assert_eq!(read(&*file, 0, 10), b"\0\0\0\0\0x");
    assert_eq!(file.size().expect("answers"), 6);
}

fn parts_lie_one_behind_the_other(disk: &dyn Disk, home: &Path) {
    let file = disk.create(&home.join("f")).expect("creates");
    file.write_parts_at(1, &[b"ab", b"", b"cde"]).expect("writes");
    assert_eq!(read(&*file, 0, 10), b"\0abcde");
    let many: Vec<Vec<u8>> = (0..3_000u32).map(|i| i.to_le_bytes().to_vec()).collect();
    let parts: Vec<&[u8]> = many.iter().map(Vec::as_slice).collect();
    file.write_parts_at(100, &parts).expect("writes more parts than one call takes");
    assert_eq!(read(&*file, 100, 12_000), many.concat());
    assert_eq!(file.size().expect("answers"), 12_100);
}

fn lengths_change(disk: &dyn Disk, home: &Path) {
    let file = disk.create(&home.join("f")).expect("creates");
    file.write_at(0, b"abcdef").expect("writes");
    file.set_len(3).expect("cuts");
    file.set_len(5).expect("extends");
    assert_eq!(read(&*file, 0, 10), b"abc\0\0");
    file.allocate(0, 8_192).expect("allocates");
    assert_eq!(file.size().expect("answers"), 8_192);
    file.allocate(0, 10).expect("allocates what is there");
    assert_eq!(file.size().expect("answers"), 8_192);
    file.sync().expect("syncs");
    file.drop_cache().expect("drops");
    assert_eq!(read(&*file, 0, 5), b"abc\0\0");
}

fn renames_replace_and_keep_handles(disk: &dyn Disk, home: &Path) {
    let (one, two) = (home.join("one"), home.join("two"));
    let file = disk.create(&one).expect("creates");
    disk.create(&two).expect("creates").write_at(0, b"old").expect("writes");
    disk.rename(&one, &two).expect("renames");
    file.write_at(0, b"new").expect("the handle lives on");
    file.sync().expect("syncs");
    disk.sync_dir(home).expect("syncs names");
    assert!(!disk.exists(&one).expect("answers"));
    assert_eq!(read(&*disk.open(&two).expect("opens"), 0, 10), b"new");
    assert!(disk.rename(&one, &two).expect_err("gone").is_not_found());
}

fn handles_are_shared(disk: &dyn Disk, home: &Path) {
    let path = home.join("f");
    let writer = disk.create(&path).expect("creates");
    let reader = disk.open(&path).expect("opens");
    writer.write_at(0, b"abc").expect("writes");
    assert_eq!(read(&*reader, 0, 10), b"abc");
    Arc::clone(&writer).write_at(3, b"d").expect("writes");
    assert_eq!(read(&*reader, 0, 10), b"abcd");
}
