//! Tests of `mem_store`.

use super::*;
use crate::kv_suite::{CASES, digest, frame, mixed_frames, model_digest, put};

#[test]
fn passes_the_suite() {
    for (name, case) in CASES {
        case(&MemStoreOpener::new(), Path::new(name));
    }
}

#[test]
fn a_crash_keeps_any_number_of_frames_behind_the_checkpoint() {
    let frames = mixed_frames(9, 20);
    let directory = Path::new("store");
    let mut kept = std::collections::BTreeSet::new();
    for seed in 0..200 {
        let opener = MemStoreOpener::new();
        let store = opener.open(directory).expect("open");
        store.replay(&frames[..10]).expect("replay");
        store.checkpoint().expect("checkpoint");
        store.replay(&frames[10..]).expect("replay");
        opener.crash(seed);
        let store = opener.open(directory).expect("open after the crash");
        let index = frames.iter().position(|frame| frame.end == store.replayed());
        let replayed = index.expect("a frame border") + 1;
        assert_eq!(digest(&store), model_digest(&frames[..replayed]));
        assert_eq!(store.checkpointed(), store.replayed().position);
        kept.insert(replayed);
    }
    assert_eq!(kept, (10..=20).collect(), "some outcomes never happened");
}

#[test]
fn a_handle_from_before_a_crash_fails_for_ever() {
    let opener = MemStoreOpener::new();
    let directory = Path::new("store");
    let old = opener.open(directory).expect("open");
    old.replay(&[frame(10, vec![put("a", "1")])]).expect("replay");
    let snapshot = old.clone().snapshot().expect("snapshot");
    opener.crash(1);
    let new = opener.open(directory).expect("open");
    assert!(old.replay(&[frame(20, vec![])]).is_err());
    assert!(old.checkpoint().is_err() && old.get(b"a").is_err() && snapshot.digest().is_err());
    drop(old);
    assert!(opener.open(directory).is_err(), "the new handle is still open");
    new.replay(&[frame(20, vec![])]).expect("the new handle works");
}

#[test]
fn what_a_dropped_handle_lost_does_not_come_back() {
    let opener = MemStoreOpener::new();
    let directory = Path::new("store");
    let store = opener.open(directory).expect("open");
    store.replay(&[frame(20, vec![put("lost", "1")])]).expect("replay");
    drop(store);
    let store = opener.open(directory).expect("open");
    assert_eq!(store.replayed(), LogEnd::ZERO);
    store.replay(&[frame(10, vec![put("kept", "1")])]).expect("replay of another fork");
    store.checkpoint().expect("checkpoint");
    drop(store);
    let store = opener.open(directory).expect("open");
    assert_eq!(digest(&store), model_digest(&[frame(10, vec![put("kept", "1")])]));
}

#[test]
fn a_full_volume_refuses_writes_and_loses_nothing() {
    let opener = MemStoreOpener::new();
    let store = opener.open(Path::new("store")).expect("open");
    store.replay(&[frame(10, vec![put("a", "1")])]).expect("replay");
    opener.set_full(true);
    assert!(matches!(store.replay(&[frame(20, vec![])]), Err(StoreError::NoSpace)));
    assert!(matches!(store.checkpoint(), Err(StoreError::NoSpace)));
    assert_eq!(store.get(b"a").expect("get"), Some("1".into()));
    opener.set_full(false);
    store.replay(&[frame(20, vec![])]).expect("space returned");
    assert_eq!(store.checkpoint().expect("checkpoint"), Position::new(1, 20));
}

#[test]
fn an_injected_failure_lasts_until_the_store_is_reopened() {
    let opener = MemStoreOpener::new();
    let directory = Path::new("store");
    let store = opener.open(directory).expect("open");
    opener.inject(directory, StoreError::NoSpace);
    assert!(matches!(store.checkpoint(), Err(StoreError::NoSpace)));
    store.checkpoint().expect("only once");
    opener.inject(directory, StoreError::Failed("broken".to_owned()));
    assert!(store.replay(&[frame(10, vec![])]).is_err());
    assert!(store.replay(&[frame(10, vec![])]).is_err());
    drop(store);
    let store = opener.open(directory).expect("open");
    store.replay(&[frame(10, vec![])]).expect("replay");
}

#[test]
fn a_removed_directory_starts_empty_again() {
    let opener = MemStoreOpener::new();
    let directory = Path::new("data/store");
    let store = opener.open(directory).expect("open");
    store.replay(&[frame(10, vec![put("a", "1")])]).expect("replay");
    store.checkpoint().expect("checkpoint");
    drop(store);
    opener.remove(Path::new("data"));
    assert!(!opener.exists(directory));
    assert_eq!(opener.open(directory).expect("open").replayed(), LogEnd::ZERO);
}
