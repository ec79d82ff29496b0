//! The consensus library's own storage suite, and what it does not look at.

use std::sync::Mutex;

use keelson_cluster_core::Command;
use openraft::storage::{RaftLogStorage, RaftLogStorageExt, RaftStateMachine};
use openraft::testing::{StoreBuilder, Suite};
use openraft::{CommittedLeaderId, EntryPayload, RaftLogReader, RaftSnapshotBuilder};
use tempfile::TempDir;

use super::*;
use crate::raft_types::{Entry, LogId, StorageError, TypeConfig, Vote};

struct Builder;

impl StoreBuilder<TypeConfig, LogStore, Machine, TempDir> for Builder {
    async fn build(&self) -> Result<(TempDir, LogStore, Machine), StorageError> {
        let directory = TempDir::new().expect("a temporary directory");
        let opened = open(directory.path()).expect("a new file");
        Ok((directory, opened.log, opened.machine))
    }
}

#[test]
fn the_library_s_storage_suite_passes() {
    Suite::test_all(Builder).expect("the suite");
}

fn log_id(index: u64) -> LogId {
    LogId::new(CommittedLeaderId::new(3, 7), index)
}

fn entry(index: u64) -> Entry {
    let cluster = ClusterId::from_u128(u128::from(index));
    let payload = EntryPayload::Normal(Command::InitCluster { cluster });
    Entry { log_id: log_id(index), payload }
}

async fn close(opened: Opened) {
    let Opened { storage, log, machine, thread, .. } = opened;
    drop((storage, log, machine));
    tokio::task::spawn_blocking(|| thread.join()).await.expect("joined").expect("no panic");
}

/// A copy of a leader's directory must not lead beside it.
#[tokio::test]
async fn a_new_life_does_not_resume_the_leadership_of_the_last_one() {
    let directory = TempDir::new().expect("a temporary directory");
    let mut opened = open(directory.path()).expect("a new file");
    let (mine, theirs) = (Vote::new_committed(3, 7), Vote::new_committed(3, 8));
    opened.log.save_vote(&theirs).await.expect("saved");
    opened.log.resign(7).await.expect("resigned");
    assert_eq!(opened.log.read_vote().await.expect("read"), Some(theirs), "not its own");
    opened.log.save_vote(&mine).await.expect("saved");
    opened.log.resign(7).await.expect("resigned");
    assert_eq!(opened.log.read_vote().await.expect("read"), Some(Vote::new(3, 7)));
}

#[tokio::test]
async fn votes_log_and_snapshot_survive_a_reopen() {
    let directory = TempDir::new().expect("a temporary directory");
    let mut opened = open(&directory.path().join("cluster")).expect("a new file");
    let vote = Vote::new(3, 7);
    opened.log.save_vote(&vote).await.expect("saved");
    opened.log.blocking_append((1..=4).map(entry)).await.expect("appended");
    opened.machine.apply((1..=2).map(entry)).await.expect("applied");
    let built = opened.machine.build_snapshot().await.expect("built");
    opened.log.purge(log_id(2)).await.expect("purged");
    opened.log.truncate(log_id(4)).await.expect("truncated");
    opened.log.save_committed(Some(log_id(3))).await.expect("kept");
    let origin = Origin { cluster: ClusterId::from_u128(9), founded_here: true, recovery: 0 };
    opened.storage.set_origin(origin).await.expect("a first cluster");
    let state = opened.applied.read(Clone::clone);
    close(opened).await;

    let mut opened = open(&directory.path().join("cluster")).expect("the same file");
    assert_eq!(opened.origin, Some(origin));
    assert_eq!(opened.log.read_vote().await.expect("read"), Some(vote));
    assert_eq!(opened.log.read_committed().await.expect("read"), Some(log_id(3)));
    let log = opened.log.get_log_state().await.expect("read");
    assert_eq!((log.last_purged_log_id, log.last_log_id), (Some(log_id(2)), Some(log_id(3))));
    let entries = opened.log.try_get_log_entries(0..100).await.expect("read");
    assert_eq!(entries.iter().map(|e| e.log_id.index).collect::<Vec<_>>(), [3]);
    assert_eq!(opened.applied.read(Clone::clone), state);
    let kept = opened.machine.get_current_snapshot().await.expect("read").expect("a snapshot");
    assert_eq!((kept.meta, kept.snapshot), (built.meta, built.snapshot));
}

/// G7: what the file needs to grow is taken while there is room, and does not show in its length.
#[tokio::test]
async fn the_file_has_blocks_to_grow_into() {
    use std::os::unix::fs::MetadataExt;
    let directory = TempDir::new().expect("a temporary directory");
    let mut opened = open(directory.path()).expect("a new file");
    let blocks = || {
        let file = std::fs::metadata(directory.path().join(FILE_NAME)).expect("the file");
        (file.blocks() * 512).saturating_sub(file.len())
    };
    let check = |when: &str| {
        assert!(blocks() >= 1024 * 1024, "{} bytes to grow into {when}", blocks());
    };
    check("at first");
    for number in 0..5 {
        let address = format!("member:{number}");
        opened.storage.set_address(address).await.expect("written");
    }
    check("after small writes, with which the library trims the file");
    opened.log.blocking_append((1..=2_000).map(entry)).await.expect("appended");
    check("after it grew");
    opened.log.purge(log_id(2_000)).await.expect("purged");
    opened.log.blocking_append((2_001..=2_002).map(entry)).await.expect("appended");
    check("after it shrank");
}

#[tokio::test]
async fn a_member_of_one_cluster_never_becomes_one_of_another() {
    let directory = TempDir::new().expect("a temporary directory");
    let opened = open(&directory.path().join("cluster")).expect("a new file");
    let origin =
        |id| Origin { cluster: ClusterId::from_u128(id), founded_here: false, recovery: 0 };
    opened.storage.set_origin(origin(1)).await.expect("a first cluster");
    opened.storage.set_origin(origin(1)).await.expect("a repetition");
    let refused = opened.storage.set_origin(origin(2)).await.expect_err("another cluster");
    assert!(matches!(refused, StorageFault::OtherCluster(id) if id == ClusterId::from_u128(1)));
}

#[tokio::test]
async fn a_second_process_and_a_newer_format_are_refused_by_name() {
    let directory = TempDir::new().expect("a temporary directory");
    let opened = open(directory.path()).expect("a new file");
    let second = open(directory.path()).expect_err("held");
    assert!(matches!(second, StorageFault::InUse { .. }), "{second}");
    close(opened).await;

    let path = directory.path().join(FILE_NAME);
    let newer = serde_json::to_vec(&(FORMAT_VERSION + 1)).expect("a number");
    let database = redb::Database::open(&path).expect("the file");
    let write = database.begin_write().expect("a transaction");
    let table = redb::TableDefinition::<'_, &str, &[u8]>::new("meta");
    write.open_table(table).expect("meta").insert("format_version", newer.as_slice()).expect("set");
    write.commit().expect("committed");
    drop(database);
    let refused = open(directory.path()).expect_err("newer");
    assert!(refused.to_string().contains("format 2, this version reads up to 1"), "{refused}");
}

/// Whatever is wrong with the bytes of the file, the member is told what to do next.
#[tokio::test]
async fn a_damaged_file_is_refused_by_name() {
    let directory = TempDir::new().expect("a temporary directory");
    let path = directory.path().join(FILE_NAME);
    close(open(directory.path()).expect("a new file")).await;
    let whole = std::fs::read(&path).expect("the file");
    let ff = |range: std::ops::Range<usize>| {
        let mut bytes = whole.clone();
        bytes[range].fill(0xff);
        bytes
    };
    let cases =
        [b"no such file".to_vec(), whole[..100].to_vec(), ff(0..64), ff(4_096..whole.len())];
    for (case, bytes) in cases.into_iter().enumerate() {
        std::fs::write(&path, bytes).expect("damaged");
        let fault = open(directory.path()).expect_err("damaged");
        assert_eq!(fault.reason(), RefusalReason::ConsensusDamaged, "{case}: {fault:?}");
    }
}

#[tokio::test]
async fn a_message_to_a_follower_is_bounded_in_bytes() {
    let directory = TempDir::new().expect("a temporary directory");
    let mut opened = open(directory.path()).expect("a new file");
    let big = |index| Entry {
        log_id: log_id(index),
        payload: EntryPayload::Normal(Command::Batch(vec![
            Command::InitCluster {
                cluster: ClusterId::from_u128(1)
            };
            10_000
        ])),
    };
    opened.log.blocking_append((1..=3).map(big)).await.expect("appended");
    let some = opened.log.limited_get_log_entries(1, 4).await.expect("read");
    assert!(!some.is_empty() && some.len() < 3, "{} entries", some.len());
    let all = opened.log.try_get_log_entries(1..4).await.expect("read");
    assert_eq!(all.len(), 3);
}

#[tokio::test]
async fn the_committed_index_costs_no_transaction_of_its_own() {
    let directory = TempDir::new().expect("a temporary directory");
    let mut opened = open(directory.path()).expect("a new file");
    opened.log.blocking_append([entry(1)]).await.expect("appended");
    let path = directory.path().join(FILE_NAME);
    let before = std::fs::read(&path).expect("the file");
    opened.log.save_committed(Some(log_id(1))).await.expect("kept");
    assert!(before == std::fs::read(&path).expect("the file"), "the file changed");
    assert_eq!(opened.log.read_committed().await.expect("read"), Some(log_id(1)));
}

#[test]
fn jobs_run_in_the_order_of_their_asking() {
    let directory = TempDir::new().expect("a temporary directory");
    let opened = open(directory.path()).expect("a new file");
    let seen = std::sync::Arc::new(Mutex::new(Vec::new()));
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    runtime.block_on(async {
        for number in 0..QUEUE_JOBS {
            let seen = seen.clone();
            let job = opened.storage.run(move |_| {
                seen.lock().expect("no panic").push(number);
                Ok(())
            });
            // Dropped after the first poll: it runs all the same.
            tokio::select! { biased; _ = job => {}, () = std::future::ready(()) => {} }
        }
        opened.storage.run(|_| Ok(())).await.expect("after all others");
    });
    assert_eq!(*seen.lock().expect("no panic"), (0..QUEUE_JOBS).collect::<Vec<_>>());
}

/// A vote that is forgotten could be given twice in a term.
#[tokio::test]
async fn a_member_that_joined_never_begins_with_an_empty_file() {
    let temporary = TempDir::new().expect("a temporary directory");
    let directory = temporary.path().join("cluster");
    let (path, marker) = (directory.join(FILE_NAME), temporary.path().join("cluster.joined"));
    close(open(&directory).expect("a new file")).await;
    assert!(!marker.exists(), "it has not joined yet");
    std::fs::write(&path, "").expect("emptied");
    let opened = open(&directory).expect("nothing is lost with it");
    let cluster = ClusterId::from_u128(1);
    opened
        .storage
        .set_origin(Origin { cluster, founded_here: true, recovery: 0 })
        .await
        .expect("joined");
    close(opened).await;
    let whole = std::fs::read(&path).expect("the file");
    let refused = |case: &str| {
        let fault = open(&directory).map(drop).expect_err(case);
        assert_eq!(fault.reason(), RefusalReason::ConsensusDamaged, "{case}: {fault:?}");
    };
    std::fs::write(&path, "").expect("emptied");
    refused("emptied");
    assert_eq!(std::fs::metadata(&path).expect("the file").len(), 0, "nothing was made anew");
    std::fs::remove_file(&path).expect("deleted");
    refused("deleted");
    assert!(!path.exists(), "nothing was made anew");
    std::fs::remove_dir_all(&directory).expect("deleted");
    refused("the directory deleted");
    // Somebody else's file.
    std::fs::remove_file(&marker).expect("not joined");
    let opened = open(&directory).expect("a new file");
    let other = ClusterId::from_u128(2);
    opened
        .storage
        .set_origin(Origin { cluster: other, founded_here: false, recovery: 0 })
        .await
        .expect("other");
    close(opened).await;
    let others = std::fs::read(&path).expect("the file");
    std::fs::write(&path, &whole).expect("restored");
    refused("of another cluster");
    // A crash between the file and the marker, and an older version's directory.
    for rotten in [None, Some("?")] {
        std::fs::remove_file(&marker).expect("not there");
        rotten.into_iter().for_each(|text| std::fs::write(&marker, text).expect("rotten"));
        close(open(&directory).expect("the file tells")).await;
        std::fs::write(&path, &others).expect("exchanged");
        refused("it was written again");
        std::fs::write(&path, &whole).expect("restored");
    }
}
