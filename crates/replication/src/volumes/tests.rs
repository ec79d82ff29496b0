//! A member's volumes in directories of their own: what is taken for a volume, where copies go, and
//! how they leave one that failed.

use std::fs;
use std::os::unix::fs::symlink;

use keelson_log::OsDisk;
use keelson_types::{CopyFault, News, RefusalReason, SpareOrder, VolumeState as V};
use tempfile::TempDir;

use super::*;

/// A member with its data directory and some disks.
struct Host {
    place: TempDir,
    settings: VolumeSettings,
}

fn database(number: u128) -> DatabaseId {
    DatabaseId::from_u128(number)
}

fn member() -> MemberId {
    MemberId::from_u128(3)
}

impl Host {
    fn new(volumes: &[&str], spares: &[&str]) -> Self {
        let place = tempfile::tempdir().unwrap();
        let path = |name: &&str| place.path().join(name);
        let settings = VolumeSettings {
            volumes: volumes.iter().map(path).collect(),
            spares: spares.iter().map(path).collect(),
        };
        for directory in settings.volumes.iter().chain(&settings.spares) {
            fs::create_dir(directory).unwrap();
        }
        fs::create_dir_all(place.path().join("data/databases")).unwrap();
        Self { place, settings }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.place.path().join(name)
    }

    fn name(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    /// A life of its process.
    fn start(&self) -> MemberVolumes {
        let disk = Arc::new(OsDisk::new());
        MemberVolumes::open(disk, &self.path("data"), member(), &self.settings)
    }

    fn states(&self, volumes: &MemberVolumes) -> Vec<(String, V)> {
        let table = lock(&volumes.known);
        let name = |path: &Path| path.file_name().unwrap().to_string_lossy().into_owned();
        table.volumes.iter().map(|volume| (name(&volume.path), volume.state())).collect()
    }

    fn home(&self, volumes: &MemberVolumes, number: u128) -> Option<String> {
        let home = volumes.home(database(number))?;
        Some(home.file_name().unwrap().to_string_lossy().into_owned())
    }

    /// Two tests of a volume, as the watch makes them.
    fn test_twice(&self, volumes: &MemberVolumes, name: &str) -> Vec<News> {
        let path = self.path(name);
        let test = || {
            let (probe, _) = volumes.probe_of(&path).unwrap();
            volumes.tested(&path, probe.look())
        };
        [test(), test()].into_iter().flatten().collect()
    }

    /// The disk does not work any more: two tests found that.
    fn breaks(&self, volumes: &MemberVolumes, name: &str) {
        fs::write(self.path(name).join("keelson-volume"), "rot").unwrap();
        self.test_twice(volumes, name);
        assert!(volumes.state(&self.path(name)).unwrap().is_lost(), "{name}");
    }

    fn leaves(&self, name: &str) -> SpareOrder {
        SpareOrder { leaves: self.name(name), bytes: 1 }
    }
}

fn states(of: &[(&str, V)]) -> Vec<(String, V)> {
    of.iter().map(|(name, state)| ((*name).to_owned(), *state)).collect()
}

#[test]
fn without_configured_volumes_nothing_is_done() {
    let host = Host::new(&[], &[]);
    let volumes = host.start();
    assert!(!volumes.is_used());
    assert_eq!(volumes.prepare(database(1), true), Ok(()));
    assert_eq!(volumes.home(database(1)), None);
    let left: Vec<_> = fs::read_dir(host.path("data/databases")).unwrap().collect();
    assert!(left.is_empty() && !host.path("data/volumes.json").exists());
}

#[test]
fn new_copies_go_where_the_fewest_are_and_stay_there() {
    let host = Host::new(&["a", "b"], &["s"]);
    let volumes = host.start();
    let expected = states(&[("a", V::Healthy), ("b", V::Healthy), ("s", V::Spare)]);
    assert_eq!(host.states(&volumes), expected);
    for number in 1..=4 {
        volumes.prepare(database(number), true).unwrap();
        volumes.prepare(database(number), false).unwrap();
    }
    let on = |volumes: &MemberVolumes| -> Vec<_> {
        (1..=4).map(|number| host.home(volumes, number).unwrap()).collect()
    };
    let placed = on(&volumes);
    assert_eq!(placed.iter().filter(|home| *home == "a").count(), 2, "{placed:?}");
    assert!(!placed.contains(&"s".to_owned()), "a spare waits");
    fs::write(host.path("data/databases").join(database(1).to_string()).join("f"), "x").unwrap();
    let first = host.path(&placed[0]).join("databases").join(database(1).to_string());
    assert!(first.join("f").exists(), "the link leads to the volume");
    let again = host.start();
    assert_eq!((on(&again), host.states(&again)), (placed, expected));
}

/// A copy whose volume or directory is gone is failed, or has forgotten; it is nowhere new.
#[test]
fn a_volume_that_is_not_there_makes_no_new_copy() {
    let host = Host::new(&["a", "b"], &[]);
    let volumes = host.start();
    volumes.prepare(database(1), true).unwrap();
    volumes.prepare(database(2), true).unwrap();
    let (home, other) = (host.home(&volumes, 1).unwrap(), host.home(&volumes, 2).unwrap());
    // Unmounted: the mount point is empty.
    fs::rename(host.path(&home), host.path("away")).unwrap();
    fs::create_dir(host.path(&home)).unwrap();
    let is_missing = |volumes: &MemberVolumes| match volumes.prepare(database(1), false) {
        Err(CopyFault::LogIo(text)) => assert!(text.contains("missing"), "{text}"),
        other => panic!("{other:?}"),
    };
    is_missing(&volumes);
    let volumes = host.start();
    is_missing(&volumes);
    assert_eq!(volumes.state(&host.path(&home)), Some(V::Missing));
    assert!(fs::read_dir(host.path(&home)).unwrap().next().is_none(), "nothing was made there");
    assert_eq!(volumes.prepare(database(2), false), Ok(()), "the other volume is well");
    volumes.prepare(database(3), true).unwrap();
    assert_eq!(host.home(&volumes, 3), Some(other), "new copies go elsewhere");
    // Mounted again.
    fs::remove_dir(host.path(&home)).unwrap();
    fs::rename(host.path("away"), host.path(&home)).unwrap();
    let volumes = host.start();
    assert_eq!(volumes.prepare(database(1), false), Ok(()));
    // The directory alone is gone: the volume works, so the files are lost.
    let directory = host.path(&home).join("databases").join(database(1).to_string());
    fs::remove_dir(&directory).unwrap();
    assert_eq!(volumes.prepare(database(1), false), Ok(()));
    assert!(directory.exists(), "the copy finds no control file there, and has forgotten");
    fs::remove_file(host.path("data/databases").join(database(1).to_string())).unwrap();
    assert_eq!(volumes.prepare(database(1), false), Err(CopyFault::Forgotten));
}

/// A disk of another member, one that holds anything, and swapped mounts are no volumes.
#[test]
fn what_is_not_ours_is_not_used() {
    let host = Host::new(&["a", "b", "c"], &["s"]);
    fs::write(host.path("c").join("photo"), "x").unwrap();
    fs::create_dir(host.path("b").join("lost+found")).unwrap();
    fs::remove_dir(host.path("s")).unwrap();
    let other = MemberId::from_u128(9);
    book::mark(&OsDisk::new(), &host.path("a"), other).unwrap();
    let volumes = host.start();
    let expected = [("a", V::Missing), ("b", V::Healthy), ("c", V::Missing), ("s", V::Missing)];
    assert_eq!(host.states(&volumes), states(&expected));
    let host = Host::new(&["a", "b"], &[]);
    drop(host.start());
    for (from, to) in [("a", "t"), ("b", "a"), ("t", "b")] {
        fs::rename(host.path(from), host.path(to)).unwrap();
    }
    let swapped = states(&[("a", V::Missing), ("b", V::Missing)]);
    assert_eq!(host.states(&host.start()), swapped);
    // A book that rotted takes no empty directory for a new volume.
    let host = Host::new(&["a"], &[]);
    fs::write(host.path("data/volumes.json"), "{").unwrap();
    for _ in 0..2 {
        assert_eq!(host.states(&host.start()), states(&[("a", V::Missing)]));
    }
}

/// The book is gone or rotten, and a disk is not mounted: its copies are failed, at every start.
#[test]
fn no_mount_point_of_copies_becomes_a_volume() {
    for rot in [true, false] {
        let host = Host::new(&["a"], &["s"]);
        let volumes = host.start();
        volumes.prepare(database(1), true).unwrap();
        fs::rename(host.path("a"), host.path("away")).unwrap();
        fs::create_dir(host.path("a")).unwrap();
        let book = host.path("data/volumes.json");
        if rot {
            fs::write(&book, "{").unwrap()
        } else {
            fs::remove_file(&book).unwrap()
        }
        for _ in 0..2 {
            let volumes = host.start();
            let expected = states(&[("a", V::Missing), ("s", V::Spare)]);
            assert_eq!(host.states(&volumes), expected);
            let failed = volumes.prepare(database(1), false);
            assert!(matches!(failed, Err(CopyFault::LogIo(_))), "{failed:?}");
            assert_eq!(volumes.due(&BTreeSet::from([database(1)])), [] as [PathBuf; 0]);
            assert!(fs::read_dir(host.path("a")).unwrap().next().is_none(), "nothing is made");
        }
        let left = host.start().leave(database(1), &host.leaves("a"));
        assert_eq!(left.is_err(), rot, "{left:?}: a damaged book is not written");
        assert_eq!(fs::read(&book).unwrap() == b"{", rot);
        let expected = if rot { V::Missing } else { V::Retired };
        assert_eq!(host.start().state(&host.path("a")), Some(expected));
    }
}

/// A spare that was used is none after the book was lost.
#[test]
fn a_spare_that_holds_copies_is_no_spare() {
    let host = Host::new(&["a"], &["s", "t"]);
    let volumes = host.start();
    volumes.prepare(database(1), true).unwrap();
    host.breaks(&volumes, "a");
    volumes.leave(database(1), &host.leaves("a")).unwrap();
    fs::create_dir(host.path("t/databases/old")).unwrap();
    fs::remove_file(host.path("data/volumes.json")).unwrap();
    let volumes = host.start();
    assert_eq!(host.states(&volumes)[1..], states(&[("s", V::Healthy), ("t", V::Healthy)]));
}

#[test]
fn a_volume_fails_after_two_tests_and_comes_back_after_one() {
    let host = Host::new(&["a", "b"], &[]);
    let volumes = host.start();
    volumes.prepare(database(1), true).unwrap();
    let home = host.home(&volumes, 1).unwrap();
    let path = host.path(&home);
    assert_eq!(host.test_twice(&volumes, &home), []);
    let marker = path.join("keelson-volume");
    let bytes = fs::read(&marker).unwrap();
    fs::write(&marker, "rot").unwrap();
    let (probe, _) = volumes.probe_of(&path).unwrap();
    assert_eq!(volumes.tested(&path, probe.look()), None);
    assert_eq!(volumes.state(&path), Some(V::Suspect));
    assert!(matches!(
        volumes.tested(&path, probe.look()),
        Some(News::VolumeStateChanged { state: V::Failed, .. })
    ));
    assert!(matches!(volumes.prepare(database(1), false), Err(CopyFault::LogIo(_))));
    fs::write(&marker, bytes).unwrap();
    let told = volumes.tested(&path, probe.look());
    assert!(matches!(told, Some(News::VolumeStateChanged { state: V::Healthy, .. })), "{told:?}");
    assert_eq!(volumes.prepare(database(1), false), Ok(()));
}

/// Only a volume on which a copy failed is tested, and for as long as it does not pass.
#[test]
fn tests_are_made_where_copies_failed() {
    let host = Host::new(&["a", "b"], &["s"]);
    let volumes = host.start();
    volumes.prepare(database(1), true).unwrap();
    let (home, failed) = (host.home(&volumes, 1).unwrap(), BTreeSet::from([database(1)]));
    assert_eq!(volumes.due(&failed), [] as [PathBuf; 0], "nobody asked");
    volumes.suspect(database(1));
    assert_eq!(volumes.due(&failed), [host.path(&home)]);
    assert_eq!(volumes.due(&failed), [] as [PathBuf; 0], "it passed");
    volumes.tested(&host.path(&home), Probed::Broken("it does not answer".into()));
    assert_eq!(volumes.due(&failed), [host.path(&home)]);
    let path = host.path(&home);
    assert_eq!(
        volumes.due(&BTreeSet::new()),
        std::slice::from_ref(&path),
        "nobody else would clear it"
    );
    volumes.tested(&path, Probed::Broken("it does not answer".into()));
    assert_eq!(volumes.state(&path), Some(V::Failed));
    assert_eq!(volumes.due(&BTreeSet::new()), std::slice::from_ref(&path), "nor this");
    volumes.tested(&path, Probed::Well);
    assert_eq!(volumes.due(&BTreeSet::new()), [] as [PathBuf; 0]);
}

/// What says nothing of the disk neither accuses nor clears it, and the test is made again.
#[test]
fn a_test_that_says_nothing_changes_nothing() {
    let host = Host::new(&["a", "b"], &[]);
    let volumes = host.start();
    let (path, unknown) = (host.path("a"), || Probed::Unknown("too many open files".into()));
    let broken = || Probed::Broken("it does not answer".into());
    let due = || volumes.due(&BTreeSet::new());
    for _ in 0..3 {
        assert_eq!(volumes.tested(&path, unknown()), None);
        assert_eq!(volumes.state(&path), Some(V::Healthy));
    }
    assert_eq!(due(), std::slice::from_ref(&path));
    volumes.tested(&path, Probed::Full);
    assert_eq!(due(), [] as [PathBuf; 0], "it is there, and nothing is known against it");
    for (found, state) in [(broken(), V::Suspect), (broken(), V::Failed)] {
        volumes.tested(&path, found);
        for nothing in [unknown(), Probed::Full] {
            volumes.tested(&path, nothing);
            assert_eq!(volumes.state(&path), Some(state));
        }
    }
}

/// A marker that can be read is no proof: a spare that failed the test of writes is tested again.
#[test]
fn a_spare_that_failed_its_test_is_cleared_by_a_test_alone() {
    let host = Host::new(&["a"], &["s"]);
    let volumes = host.start();
    let path = host.path("s");
    volumes.tested(&path, Probed::Broken("it cannot be written".into()));
    volumes.look_at_space();
    assert_eq!(volumes.state(&path), Some(V::Suspect));
    assert_eq!(volumes.due(&BTreeSet::new()), std::slice::from_ref(&path));
    host.test_twice(&volumes, "s");
    assert_eq!(volumes.state(&path), Some(V::Spare));
}

#[test]
fn a_copy_leaves_a_failed_volume_once() {
    let host = Host::new(&["a", "b"], &["s", "t"]);
    let volumes = host.start();
    for number in 1..=4 {
        volumes.prepare(database(number), true).unwrap();
    }
    let home = host.home(&volumes, 1).unwrap();
    let there: Vec<_> =
        (1..=4).filter(|number| host.home(&volumes, *number).unwrap() == home).collect();
    let [first, second] = there[..] else { panic!("{there:?}") };
    fs::write(host.path(&home).join("databases").join(database(first).to_string()).join("f"), "x")
        .unwrap();
    host.breaks(&volumes, &home);
    let order = host.leaves(&home);
    let told = volumes.leave(database(first), &order).unwrap();
    let expected =
        News::SpareAssigned { volume: host.name(&home), spare: host.name("s"), spares_left: 1 };
    assert_eq!(told, Some(expected));
    assert_eq!(volumes.leave(database(first), &order), Ok(None), "it is carried out once");
    assert_eq!(host.home(&volumes, first).as_deref(), Some("s"));
    // The next one goes where the first one went, also in another life.
    let volumes = host.start();
    assert_eq!(volumes.state(&host.path(&home)), Some(V::Retired));
    volumes.leave(database(second), &order).unwrap();
    assert_eq!(host.home(&volumes, second).as_deref(), Some("s"));
    let kept = host.path(&home).join("databases").join(database(first).to_string()).join("f");
    assert!(kept.exists(), "nothing is deleted");
    assert_eq!(volumes.prepare(database(first), false), Ok(()));
    volumes.prepare(database(9), true).unwrap();
    assert_ne!(host.home(&volumes, 9), Some(home), "a retired volume gets nothing new");
}

/// What a crash leaves half done is done by the same order; a link that was made stays.
#[test]
fn an_order_that_was_interrupted_is_carried_out() {
    let host = Host::new(&["a"], &["s", "t"]);
    let volumes = host.start();
    volumes.prepare(database(1), true).unwrap();
    // The book was written, the link was not.
    let entries = lock(&volumes.known).entries();
    let entries = placing::replaced(entries, &host.path("a"), &host.path("t"));
    book::save(&OsDisk::new(), &host.path("data"), entries).unwrap();
    symlink("nowhere", host.path("data/databases").join(format!("{}.link", database(1)))).unwrap();
    let volumes = host.start();
    assert_eq!(host.home(&volumes, 1).as_deref(), Some("a"));
    volumes.leave(database(1), &host.leaves("a")).unwrap();
    assert_eq!(host.home(&volumes, 1).as_deref(), Some("t"), "as the book says");
    // The directory on the spare was made, and nothing was seeded.
    let again = host.start();
    assert_eq!(host.home(&again, 1).as_deref(), Some("t"));
    assert_eq!(again.prepare(database(1), false), Ok(()));
}

#[test]
fn a_spare_without_room_or_marker_is_passed_over() {
    let host = Host::new(&["a"], &["s", "t"]);
    let volumes = host.start();
    volumes.prepare(database(1), true).unwrap();
    host.breaks(&volumes, "a");
    let much = SpareOrder { bytes: u64::MAX, ..host.leaves("a") };
    let full = volumes.leave(database(1), &much).unwrap_err();
    assert!(full.full && full.why.contains("bytes free"), "{full:?}");
    fs::remove_file(host.path("s").join("keelson-volume")).unwrap();
    let told = volumes.leave(database(1), &host.leaves("a")).unwrap();
    assert!(matches!(told, Some(News::SpareAssigned { spares_left: 0, .. })), "{told:?}");
    assert_eq!(host.home(&volumes, 1).as_deref(), Some("t"));
}

#[test]
fn a_spare_that_vanishes_is_noticed_before_it_is_needed() {
    let host = Host::new(&["a"], &["s"]);
    let volumes = host.start();
    volumes.look_at_space();
    let facts = volumes.facts(&BTreeSet::new());
    assert!(facts.iter().all(|volume| volume.free_bytes > Some(0)), "{facts:?}");
    fs::rename(host.path("s"), host.path("away")).unwrap();
    volumes.look_at_space();
    volumes.look_at_space();
    assert_eq!(host.states(&volumes), states(&[("a", V::Healthy), ("s", V::Missing)]));
    fs::rename(host.path("away"), host.path("s")).unwrap();
    volumes.look_at_space();
    assert_eq!(volumes.due(&BTreeSet::new()), [host.path("s")], "the marker is no proof");
    host.test_twice(&volumes, "s");
    assert_eq!(host.states(&volumes), states(&[("a", V::Healthy), ("s", V::Spare)]));
}

/// An order may come late: nobody leaves a volume that works, or takes a second spare in doubt.
#[test]
fn an_order_for_a_volume_that_works_again_is_refused() {
    let host = Host::new(&["a"], &["s", "t"]);
    let volumes = host.start();
    volumes.prepare(database(1), true).unwrap();
    volumes.prepare(database(2), true).unwrap();
    let stays = |number, word: &str| {
        let stays = volumes.leave(database(number), &host.leaves("a")).unwrap_err();
        assert!(!stays.full && stays.why.contains(word), "{stays:?}");
        assert_eq!(host.home(&volumes, number).as_deref(), Some("a"));
    };
    stays(1, "is healthy");
    let marker = host.path("a").join("keelson-volume");
    let bytes = fs::read(&marker).unwrap();
    host.breaks(&volumes, "a");
    fs::write(&marker, bytes).unwrap();
    stays(1, "passed its test");
    assert_eq!(volumes.due(&BTreeSet::new()), [host.path("a")], "the watch tells that it is back");
    host.breaks(&volumes, "a");
    volumes.leave(database(1), &host.leaves("a")).unwrap();
    assert_eq!(host.home(&volumes, 1).as_deref(), Some("s"));
    volumes.tested(&host.path("s"), Probed::Broken("it does not answer".into()));
    stays(2, "to be tested again");
    volumes.tested(&host.path("s"), Probed::Well);
    volumes.leave(database(2), &host.leaves("a")).unwrap();
    assert_eq!(host.home(&volumes, 2).as_deref(), Some("s"));
}

#[test]
fn a_replaced_disk_is_a_spare_or_takes_its_copies_back() {
    let host = Host::new(&["a", "b"], &["s"]);
    let volumes = host.start();
    for number in 1..=2 {
        volumes.prepare(database(number), true).unwrap();
    }
    let number = if host.home(&volumes, 1).as_deref() == Some("a") { 1 } else { 2 };
    let refused = |path: &str, reason: RefusalReason, word: &str| {
        let refusal = volumes.renew(path, false).unwrap_err();
        assert!(refusal.reason == reason && refusal.message.contains(word), "{refusal}");
    };
    refused(&host.name("x"), RefusalReason::BadArgument, "names no volume");
    refused(&host.name("a"), RefusalReason::Precondition, "nothing is to be replaced");
    let marker = host.path("a").join("keelson-volume");
    let bytes = fs::read(&marker).unwrap();
    host.breaks(&volumes, "a");
    volumes.leave(database(number), &host.leaves("a")).unwrap();
    fs::write(&marker, bytes).unwrap();
    refused(&host.name("a"), RefusalReason::Precondition, "mount the new disk there");
    fs::remove_dir_all(host.path("a")).unwrap();
    fs::create_dir(host.path("a")).unwrap();
    let hangs = volumes.probe_of(&host.path("a"));
    refused(&host.name("a"), RefusalReason::Precondition, "start the member again");
    drop(hangs);
    volumes.renew(&host.name("a"), true).unwrap();
    assert_eq!(volumes.state(&host.path("a")), Some(V::Retired), "only checked");
    // A crash behind the marker; the book knows nothing of it.
    book::mark(&OsDisk::new(), &host.path("a"), member()).unwrap();
    fs::remove_dir(host.path("a/databases")).unwrap();
    // What cannot be saved does not count.
    fs::create_dir_all(host.path("data/volumes.new/x")).unwrap();
    volumes.renew(&host.name("a"), false).unwrap_err();
    assert_eq!(volumes.state(&host.path("a")), Some(V::Retired));
    fs::remove_dir_all(host.path("data/volumes.new")).unwrap();
    volumes.renew(&host.name("a"), false).unwrap();
    assert_eq!(volumes.state(&host.path("a")), Some(V::Spare));
    // Copies still lie on this one, for lack of spares: it is their volume again.
    fs::remove_dir_all(host.path("b")).unwrap();
    fs::create_dir(host.path("b")).unwrap();
    host.test_twice(&volumes, "b");
    volumes.renew(&host.name("b"), false).unwrap();
    assert_eq!(volumes.state(&host.path("b")), Some(V::Healthy));
    assert_eq!(volumes.prepare(database(3 - number), false), Ok(()));
    let expected = states(&[("a", V::Spare), ("b", V::Healthy), ("s", V::Healthy)]);
    assert_eq!(host.states(&host.start()), expected, "in another life, too");
}

/// What is a spare in the configuration at first, and a volume later, is no spare any more.
#[test]
fn an_operator_makes_a_spare_a_volume() {
    let mut host = Host::new(&["a"], &["s"]);
    drop(host.start());
    let spare = host.settings.spares.remove(0);
    host.settings.volumes.push(spare);
    let expected = states(&[("a", V::Healthy), ("s", V::Healthy)]);
    assert_eq!(host.states(&host.start()), expected);
}

/// A copy that was removed and is added again may go elsewhere: it has nothing there.
#[test]
fn a_new_copy_does_not_go_to_a_lost_volume_of_its_predecessor() {
    let host = Host::new(&["a", "b"], &[]);
    let volumes = host.start();
    volumes.prepare(database(1), true).unwrap();
    let home = host.home(&volumes, 1).unwrap();
    fs::rename(host.path(&home), host.path("away")).unwrap();
    host.test_twice(&volumes, &home);
    assert!(matches!(volumes.prepare(database(1), false), Err(CopyFault::LogIo(_))));
    volumes.prepare(database(1), true).unwrap();
    assert_ne!(host.home(&volumes, 1), Some(home));
}

/// A full volume refuses the writes of its own copies; each is asked for its space alone.
#[test]
fn a_full_volume_holds_up_no_copy_on_another() {
    const MIB: u64 = 1024 * 1024;
    let host = Host::new(&["a", "b"], &[]);
    let volumes = host.start();
    volumes.prepare(database(1), true).unwrap();
    volumes.prepare(database(2), true).unwrap();
    let full = host.path(&host.home(&volumes, 1).unwrap());
    let quota = keelson_log::Quota::new(full.clone(), MIB);
    let data = host.path("data");
    let places = crate::open::Places {
        disk: Arc::new(OsDisk::with_quotas(vec![quota])),
        logs: data.clone(),
        data,
        noting: Arc::default(),
        volumes: Arc::new(volumes),
    };
    let rooms = crate::room::Rooms::of(&places);
    assert!(!rooms.of_database(database(1)).look().takes_log());
    for well in [2, 9] {
        assert!(rooms.of_database(database(well)).look().takes_log(), "{well}");
    }
    let told = rooms.news();
    let [News::VolumeShortage { volume, step, .. }] = &told[..] else { panic!("{told:?}") };
    assert_eq!((volume, &step[..]), (&full.display().to_string(), "began"), "by its directory");
    let claim = |number| {
        let room = Arc::<crate::seed::SeedRoom>::default();
        crate::seed::free_for_tests(room, &places, database(number))
    };
    assert!(claim(1) <= MIB && claim(2) > MIB, "seeds look at the volume of their copy");
}
