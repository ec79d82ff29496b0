//! Files that are founded anew or forgotten, over a reopen.

use std::collections::BTreeSet;

use keelson_cluster_core::MemberConfig;
use keelson_types::{ClusterId, MemberId, MemberName, SiteName};
use openraft::EntryPayload;
use openraft::storage::{RaftLogStorage, RaftLogStorageExt, RaftStateMachine};
use tempfile::TempDir;

use super::*;
use crate::raft_types::Entry;
use crate::storage::{Opened, open};

const CLUSTER: ClusterId = ClusterId::from_u128(9);

fn config(n: u128) -> MemberConfig {
    let id = MemberId::from_u128(n << 64);
    MemberConfig {
        id,
        node: node_id(id),
        name: MemberName::new(format!("m{n}")).expect("a name"),
        site: SiteName::new(if n == 3 { "south" } else { "north" }).expect("a name"),
        control_address: format!("127.0.0.1:{n}"),
        data_address: format!("127.0.0.2:{n}"),
        replication_addresses: Vec::new(),
        voter: true,
    }
}

fn node(n: u128) -> ClusterNode {
    let MemberConfig { id, name, control_address, .. } = config(n);
    ClusterNode { member: id, name: name.to_string(), control_address }
}

fn recovery(generation: u32) -> SiteRecovery {
    let lost = BTreeSet::from([config(1).id, config(2).id]);
    SiteRecovery { generation, lost, comment: "the north burns".into() }
}

/// A member that applied half of its log, and voted in term 7.
async fn member_of_three(directory: &Path) {
    let mut opened = open(directory).expect("a new file");
    let add = |n| Command::AddMember { member: config(n) };
    let commands = [Command::InitCluster { cluster: CLUSTER }, add(1), add(2), add(3)];
    let entries = (1..).zip(commands).map(|(index, command)| Entry {
        log_id: LogId::new(CommittedLeaderId::new(3, 1), index),
        payload: EntryPayload::Normal(command),
    });
    let entries: Vec<_> = entries.collect();
    let origin = Origin { cluster: CLUSTER, founded_here: true, recovery: 0 };
    opened.storage.set_origin(origin).await.expect("a first cluster");
    opened.log.blocking_append(entries.clone()).await.expect("appended");
    opened.machine.apply(entries[..2].to_vec()).await.expect("applied");
    opened.log.save_vote(&Vote::new(7, 2)).await.expect("saved");
    close(opened).await;
}

async fn close(opened: Opened) {
    let Opened { storage, log, machine, thread, .. } = opened;
    drop((storage, log, machine));
    tokio::task::spawn_blocking(|| thread.join()).await.expect("joined").expect("no panic");
}

#[tokio::test]
async fn a_consensus_is_founded_anew_with_one_voter_and_everything_that_was_written() {
    let directory = TempDir::new().expect("a temporary directory");
    let path = directory.path().join("cluster");
    member_of_three(&path).await;
    let stopped = Stopped::open(&path).expect("no server runs");
    assert_eq!(stopped.last().map(|last| last.index), Some(4));
    assert_eq!(stopped.all.state.members.len(), 3, "entries that were not applied count");
    let aside = stopped.found(node(3), recovery(1), 5_000).expect("founded");
    assert!(aside.ends_with("consensus-recovery-0.redb") && aside.is_file());

    let mut opened = open(&path).expect("the same file");
    let origin = Origin { cluster: CLUSTER, founded_here: true, recovery: 1 };
    assert_eq!(opened.origin, Some(origin));
    let log = opened.log.get_log_state().await.expect("read");
    let last = log.last_log_id.expect("an entry");
    assert_eq!((last.leader_id.term, last.index), (8, 5), "above the term of the vote");
    assert_eq!(log.last_purged_log_id, Some(last), "the snapshot covers everything");
    assert_eq!(
        opened.log.read_vote().await.expect("read"),
        Some(Vote::new(8, node_id(node(3).member)))
    );
    let (generation, members) = opened.applied.read(|state| {
        let stopped = state.members.values().filter(|member| member.stopped.is_some());
        (state.recovery_generation, stopped.count())
    });
    assert_eq!((generation, members), (1, 2));
    let membership = opened.applied.read_all(|all| all.membership.membership().clone());
    assert_eq!(membership.voter_ids().collect::<Vec<_>>(), [node_id(node(3).member)]);
    close(opened).await;
}

#[tokio::test]
async fn a_recovery_that_does_not_follow_changes_nothing() {
    let directory = TempDir::new().expect("a temporary directory");
    let path = directory.path().join("cluster");
    member_of_three(&path).await;
    let stopped = Stopped::open(&path).expect("no server runs");
    let refused = stopped.found(node(3), recovery(0), 5_000).expect_err("it is the present one");
    assert!(matches!(refused, FoundError::Refused(_)), "{refused}");
    let stopped = Stopped::open(&path).expect("unchanged");
    assert_eq!(stopped.last().map(|last| last.index), Some(4));
}

#[tokio::test]
async fn a_file_in_use_or_without_a_cluster_is_refused() {
    let directory = TempDir::new().expect("a temporary directory");
    let path = directory.path().join("cluster");
    assert!(matches!(Stopped::open(&path), Err(StorageFault::Forgotten { .. })), "nothing there");
    assert!(!path.exists(), "and nothing made");
    member_of_three(&path).await;
    let opened = open(&path).expect("the server runs");
    assert!(matches!(Stopped::open(&path), Err(StorageFault::InUse { .. })));
    close(opened).await;
}

#[tokio::test]
async fn a_member_that_was_left_behind_forgets_its_vote_once_and_writes_nothing_more() {
    let directory = TempDir::new().expect("a temporary directory");
    let path = directory.path().join("cluster");
    member_of_three(&path).await;
    let mut opened = open(&path).expect("the same file");
    opened.storage.leave_behind(1).await.expect("forgotten");
    opened.log.save_vote(&Vote::new(9, 1)).await.expect_err("this life is over");
    close(opened).await;

    let mut opened = open(&path).expect("the same file");
    let origin = Origin { cluster: CLUSTER, founded_here: false, recovery: 1 };
    assert_eq!(opened.origin, Some(origin));
    let log = opened.log.get_log_state().await.expect("read");
    assert_eq!((log.last_log_id, log.last_purged_log_id), (None, None));
    assert_eq!(opened.log.read_vote().await.expect("read"), None);
    assert_eq!(opened.applied.read(|state| state.members.len()), 0);
    let vote = Vote::new(9, 1);
    opened.log.save_vote(&vote).await.expect("a new life votes");
    opened.storage.leave_behind(1).await.expect("nothing to do");
    assert_eq!(opened.log.read_vote().await.expect("read"), Some(vote), "kept: same generation");
    close(opened).await;
    let kept = Stopped::open(&path).expect("no server runs");
    assert_eq!(kept.last(), None);
    assert!(path.join("consensus-recovery-0.redb").is_file());
}
