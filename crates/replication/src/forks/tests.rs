//! Forks over simulated disks and stores.

use std::path::Path;

use keelson_env::{MemStoreOpener, SimDisk};
use keelson_types::{Epoch, Position};

use super::*;

fn description(name: &str) -> Description {
    Description {
        database: DatabaseId::from_bytes([7; 16]),
        database_name: "DB1".into(),
        copy: CopyId::from_bytes([1; 16]),
        name: ForkName::new(name).unwrap(),
        created_unix_ms: 1,
        expires_unix_ms: None,
        bytes_max: 10,
    }
}

fn forks(data: &Path) -> Forks {
    Forks::open(data, Arc::new(SimDisk::new()))
}

/// Finishes a fork as the builder does.
fn finish(forks: &Forks, is: &Description) -> PathBuf {
    let building = place::begin(&forks.root, is).unwrap();
    std::fs::create_dir(building.join(place::STORE)).unwrap();
    let at = LogEnd { epoch: Epoch::new(0, 3), position: Position::new(2, 90) };
    place::finish(&forks.root, &building, is, at, 77).unwrap();
    place::of(&forks.root, is)
}

fn reason<T: std::fmt::Debug>(result: Result<T, Refusal>) -> RefusalReason {
    result.unwrap_err().reason
}

/// A crash leaves a finished fork as it was, and nothing of one that was being built or removed.
#[test]
fn a_start_finds_the_finished_forks_and_removes_the_litter() {
    let data = tempfile::tempdir().unwrap();
    let before = forks(data.path());
    let is = Description { expires_unix_ms: Some(u64::MAX - 1), ..description("one") };
    let place = finish(&before, &is);
    let half = place::begin(&before.root, &description("two")).unwrap();
    std::fs::write(half.join("file"), "x").unwrap();
    let after = forks(data.path());
    let listed = after.list("DB1");
    assert_eq!(listed.iter().map(|fork| &fork.is).collect::<Vec<_>>(), [&is]);
    let at = LogEnd { epoch: Epoch::new(0, 3), position: Position::new(2, 90) };
    assert_eq!(listed[0].state(), ForkState::Ready { at, time_unix_ms: 77 });
    assert!(place.exists() && !half.exists());
    after.drop_fork(&MemStoreOpener::new(), "DB1", &is.name).unwrap();
    assert!(!place.exists());
    assert!(forks(data.path()).list("").is_empty());
}

#[test]
fn an_expired_fork_is_gone_at_once_and_its_files_soon() {
    let data = tempfile::tempdir().unwrap();
    let before = forks(data.path());
    let is = Description { expires_unix_ms: Some(1), ..description("one") };
    let place = finish(&before, &is);
    let after = forks(data.path());
    let address = "DB1@m1~one".parse().unwrap();
    assert_eq!(reason(after.find(&address)), RefusalReason::UnknownFork);
    assert!(after.list("").is_empty() && place.exists());
    after.drop_expired(&MemStoreOpener::new());
    assert!(!place.exists());
}

#[test]
fn forks_have_a_budget_of_number_and_bytes() {
    let data = tempfile::tempdir().unwrap();
    let forks = forks(data.path());
    forks.admit(description("one")).unwrap();
    assert_eq!(reason(forks.admit(description("one"))), RefusalReason::AlreadyExists);
    let huge = Description { bytes_max: u64::MAX / 2 + 1, ..description("huge") };
    assert_eq!(reason(forks.admit(huge)), RefusalReason::ForkBudget);
    for number in 2..=FORKS_MAX {
        forks.admit(description(&format!("n{number}"))).unwrap();
    }
    assert_eq!(reason(forks.admit(description("last"))), RefusalReason::ForkBudget);
    assert_eq!(forks.free_name("DB1").as_str(), "fork-1");
}

#[test]
fn a_fork_that_is_not_ready_is_neither_read_nor_dropped() {
    let data = tempfile::tempdir().unwrap();
    let forks = forks(data.path());
    let fork = forks.admit(description("one")).unwrap();
    assert_eq!(reason(refuse_unless_ready(&fork)), RefusalReason::Activating);
    assert_eq!(
        reason(forks.drop_fork(&MemStoreOpener::new(), "DB1", &fork.is.name)),
        RefusalReason::Precondition
    );
    *lock(&fork.state) = ForkState::Failed("why".into());
    assert_eq!(reason(refuse_unless_ready(&fork)), RefusalReason::UnknownFork);
    forks.drop_fork(&MemStoreOpener::new(), "DB1", &fork.is.name).unwrap();
    assert_eq!(
        reason(forks.drop_fork(&MemStoreOpener::new(), "DB1", &fork.is.name)),
        RefusalReason::UnknownFork
    );
}

#[test]
fn the_store_of_a_fork_is_that_of_its_directory() {
    let data = tempfile::tempdir().unwrap();
    let forks = forks(data.path());
    let opener = MemStoreOpener::new();
    let fork = forks.admit(description("one")).unwrap();
    assert!(forks.store(&opener, &fork).is_err(), "it is not ready");
    *lock(&fork.state) = ForkState::Ready { at: LogEnd::ZERO, time_unix_ms: 0 };
    let store = forks.store(&opener, &fork).unwrap();
    assert!(Arc::ptr_eq(&store, &forks.store(&opener, &fork).unwrap()), "opened once");
    drop(store);
    forks.drop_fork(&opener, "DB1", &fork.is.name).unwrap();
    assert!(forks.store(&opener, &fork).is_err(), "nobody opens what was dropped");
}
