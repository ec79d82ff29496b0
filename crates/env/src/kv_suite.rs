//! What every store must do: the cases that the tests of both stores run.
//!
//! Each case panics with the reason if the store in front of it behaves otherwise. It gets an
//! opener and a directory of its own that does not exist yet. Crashes beyond dropping a handle are
//! the business of each store's own tests.

mod overwrite;

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use keelson_types::{
    Epoch, HybridTime, KEY_BYTES_MAX, LogEnd, Position, Record, SessionId, SessionRecord,
    VALUE_BYTES_MAX,
};

use crate::{KvStore, MemStoreOpener, ReplayFrame, ScanItem, StoreError, StoreOpener};

/// One case: a name and what to run.
pub type Case = (&'static str, fn(&dyn StoreOpener, &Path));

/// All cases; run each with a directory of its own.
pub const CASES: &[Case] = &[
    ("an_empty_store_stands_at_zero", an_empty_store_stands_at_zero),
    ("replayed_records_are_read_back", replayed_records_are_read_back),
    ("order_inside_a_batch_counts", order_inside_a_batch_counts),
    ("frames_out_of_order_are_refused", frames_out_of_order_are_refused),
    ("a_checkpoint_survives_the_handle", a_checkpoint_survives_the_handle),
    ("without_a_checkpoint_a_border_remains", without_a_checkpoint_a_border_remains),
    ("one_directory_opens_once", one_directory_opens_once),
    ("range_deletes_touch_user_keys_only", range_deletes_touch_user_keys_only),
    ("scans_are_ordered_and_bounded", scans_are_ordered_and_bounded),
    ("snapshots_stand_still", snapshots_stand_still),
    ("sessions_follow_the_log", sessions_follow_the_log),
    ("idle_sessions_are_found", idle_sessions_are_found),
    ("the_largest_keys_and_values_fit", the_largest_keys_and_values_fit),
    ("the_last_schema_is_kept", the_last_schema_is_kept),
    ("digests_depend_on_content_and_position", digests_depend_on_content_and_position),
    ("digests_do_not_depend_on_the_way", digests_do_not_depend_on_the_way),
    ("a_checkpoint_directory_is_a_store", a_checkpoint_directory_is_a_store),
    ("a_rewind_is_durable", overwrite::a_rewind_is_durable),
    ("spans_become_what_they_are_told", overwrite::spans_become_what_they_are_told),
    ("a_checkpoint_takes_what_was_overwritten", overwrite::a_checkpoint_takes_what_was_overwritten),
    ("spans_are_read_in_order_and_bounded", overwrite::spans_are_read_in_order_and_bounded),
    ("malformed_items_change_nothing", overwrite::malformed_items_change_nothing),
    ("a_fork_is_undone_by_chunks_of_a_donor", overwrite::a_fork_is_undone_by_chunks_of_a_donor),
];

/// A frame of epoch 0.1 ending at `offset` in generation 1; its time is `offset` milliseconds.
#[must_use]
pub fn frame(offset: u64, records: Vec<Record>) -> ReplayFrame {
    let position = Position::new(1, offset);
    ReplayFrame {
        end: LogEnd { epoch: Epoch::new(0, 1), position },
        time: HybridTime::from_unix_millis(offset),
        first_sequence: offset,
        records,
    }
}

/// A put record.
#[must_use]
pub fn put(key: impl Into<Bytes>, value: impl Into<Bytes>) -> Record {
    Record::Put { key: key.into(), value: value.into() }
}

/// A delete record.
#[must_use]
pub fn delete(key: &'static str) -> Record {
    Record::Delete { key: key.into() }
}

/// A delete-range record.
#[must_use]
pub fn delete_range(from: &'static [u8], to: &'static [u8]) -> Record {
    Record::DeleteRange { from: Bytes::from_static(from), to: Bytes::from_static(to) }
}

/// A session record.
#[must_use]
pub fn session(id: u128, change: SessionRecord) -> Record {
    Record::Session { session: SessionId::from_u128(id), change }
}

/// An applied write of a session.
#[must_use]
pub fn applied(id: u128, sequence: u64, lowest_unanswered: u64) -> Record {
    session(id, SessionRecord::Applied { sequence, lowest_unanswered })
}

/// Every user key with its value, through a snapshot.
///
/// # Panics
/// If the store fails.
#[must_use]
pub fn contents(store: &Arc<dyn KvStore>) -> Vec<ScanItem> {
    let snapshot = store.clone().snapshot().expect("snapshot");
    snapshot.scan(&[], None, usize::MAX, usize::MAX).expect("scan")
}

/// The digest of what is replayed.
///
/// # Panics
/// If the store fails.
#[must_use]
pub fn digest(store: &Arc<dyn KvStore>) -> u128 {
    store.clone().snapshot().expect("snapshot").digest().expect("digest")
}

/// The digest that a store must have after replaying `frames` from empty, as the in-memory store
/// has it.
///
/// # Panics
/// If the frames are out of order.
#[must_use]
pub fn model_digest(frames: &[ReplayFrame]) -> u128 {
    let store = MemStoreOpener::new().open(Path::new("model")).expect("open");
    store.replay(frames).expect("replay");
    digest(&store)
}

/// Frames of every kind of record from a small generator, the same for the same seed.
#[must_use]
pub fn mixed_frames(seed: u64, count: u64) -> Vec<ReplayFrame> {
    let mut state = seed;
    let mut draw = move |below: u64| {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    let mut frames = Vec::new();
    for index in 1..=count {
        let mut records = Vec::new();
        for _ in 0..=draw(6) {
            let key = format!("key-{:03}", draw(200));
            let client = u128::from(draw(5));
            records.push(match draw(12) {
                0 => Record::Delete { key: key.into() },
                1 => Record::DeleteRange {
                    from: key.into(),
                    to: format!("key-{:03}", draw(200)).into(),
                },
                2 => session(client, SessionRecord::Open),
                3 | 4 => applied(client, index, index.saturating_sub(draw(4))),
                5 if draw(10) == 0 => session(client, SessionRecord::Expire),
                6 if draw(10) == 0 => Record::Schema { body: key.into() },
                7 if draw(10) == 0 => Record::DigestMarker { id: index },
                _ => put(key, vec![b'v'; usize::try_from(draw(300)).expect("small")]),
            });
        }
        frames.push(frame(index * 100, records));
    }
    frames
}

fn open(opener: &dyn StoreOpener, directory: &Path) -> Arc<dyn KvStore> {
    opener.open(directory).expect("open")
}

fn item(key: &'static str, value: &'static str) -> ScanItem {
    (key.into(), value.into())
}

fn an_empty_store_stands_at_zero(opener: &dyn StoreOpener, directory: &Path) {
    let store = open(opener, directory);
    assert_eq!(store.replayed(), LogEnd::ZERO);
    assert_eq!(store.checkpointed(), Position::ZERO);
    assert_eq!(store.checkpoint().expect("checkpoint"), Position::ZERO);
    assert_eq!(store.get(b"any").expect("get"), None);
    assert_eq!(store.schema().expect("schema"), None);
    assert_eq!(contents(&store), vec![]);
    assert_eq!(digest(&store), model_digest(&[]));
    store.replay(&[]).expect("replaying nothing is no error");
}

fn replayed_records_are_read_back(opener: &dyn StoreOpener, directory: &Path) {
    let store = open(opener, directory);
    let first = frame(10, vec![put("a", "1"), put("b", "2"), put("", "nameless"), put("c", "")]);
    let second = frame(20, vec![delete("a"), delete("missing"), put("b", "3"), Record::NoOp]);
    store.replay(&[first, second.clone()]).expect("replay");
    assert_eq!(store.replayed(), second.end);
    assert_eq!(store.get(b"a").expect("get"), None);
    assert_eq!(store.get(b"b").expect("get"), Some(Bytes::from("3")));
    assert_eq!(store.get(b"c").expect("get"), Some(Bytes::new()));
    let third = frame(30, vec![Record::Opening { epoch: Epoch::new(0, 1) }, delete("c")]);
    store.replay(&[third]).expect("replay");
    assert_eq!(contents(&store), vec![item("", "nameless"), item("b", "3")]);
}

fn order_inside_a_batch_counts(opener: &dyn StoreOpener, directory: &Path) {
    let store = open(opener, directory);
    let records = vec![
        put("a", "1"),
        put("b", "1"),
        delete_range(b"a", b"c"),
        put("b", "2"),
        delete("b"),
        put("b", "3"),
        put("z", "1"),
        delete("z"),
    ];
    store.replay(&[frame(10, records), frame(20, vec![delete_range(b"x", b"z")])]).expect("replay");
    assert_eq!(contents(&store), vec![item("b", "3")]);
}

fn frames_out_of_order_are_refused(opener: &dyn StoreOpener, directory: &Path) {
    let store = open(opener, directory);
    store.replay(&[frame(20, vec![put("a", "1")])]).expect("replay");
    let refused = |frames: &[ReplayFrame]| match store.replay(frames) {
        Err(StoreError::OutOfOrder { frame, replayed }) => (frame.offset, replayed.offset),
        other => panic!("not refused as out of order: {other:?}"),
    };
    assert_eq!(refused(&[frame(20, vec![delete("a")])]), (20, 20));
    assert_eq!(refused(&[frame(10, vec![delete("a")])]), (10, 20));
    assert_eq!(refused(&[frame(30, vec![delete("a")]), frame(25, vec![])]), (25, 30));
    let mut older_epoch = frame(40, vec![delete("a")]);
    older_epoch.end.epoch = Epoch::ZERO;
    assert_eq!(refused(&[older_epoch]), (40, 20));
    assert_eq!(contents(&store), vec![item("a", "1")]);
    assert_eq!(store.replayed().position, Position::new(1, 20));
    store.replay(&[frame(21, vec![put("a", "2")])]).expect("a refusal does no harm");
}

fn a_checkpoint_survives_the_handle(opener: &dyn StoreOpener, directory: &Path) {
    let frames = mixed_frames(1, 200);
    let store = open(opener, directory);
    store.replay(&frames[..150]).expect("replay");
    assert_eq!(store.checkpointed(), Position::ZERO);
    let end = frames[149].end;
    assert_eq!(store.checkpoint().expect("checkpoint"), end.position);
    assert_eq!(store.checkpointed(), end.position);
    drop(store);
    let store = open(opener, directory);
    assert_eq!((store.replayed(), store.checkpointed()), (end, end.position));
    assert_eq!(digest(&store), model_digest(&frames[..150]));
    store.replay(&frames[150..]).expect("replay goes on");
    assert_eq!(digest(&store), model_digest(&frames));
}

fn without_a_checkpoint_a_border_remains(opener: &dyn StoreOpener, directory: &Path) {
    let frames = mixed_frames(2, 100);
    let store = open(opener, directory);
    store.replay(&frames[..30]).expect("replay");
    let checkpoint = store.checkpoint().expect("checkpoint");
    for chunk in frames[30..].chunks(7) {
        store.replay(chunk).expect("replay");
    }
    drop(store);
    let store = open(opener, directory);
    let at = store.replayed();
    assert!(at.position >= checkpoint, "{at} is before the checkpoint {checkpoint}");
    let replayed = frames.iter().position(|frame| frame.end == at).expect("a frame border") + 1;
    assert_eq!(digest(&store), model_digest(&frames[..replayed]));
    store.replay(&frames[replayed..]).expect("the rest is replayed again");
    assert_eq!(digest(&store), model_digest(&frames));
}

fn one_directory_opens_once(opener: &dyn StoreOpener, directory: &Path) {
    let store = open(opener, directory);
    assert!(matches!(opener.open(directory), Err(StoreError::InUse)), "opened twice");
    assert!(opener.in_use(directory));
    let (held, snapshot) = (Arc::downgrade(&store), store.snapshot().expect("snapshot"));
    assert!(opener.open(directory).is_err(), "a snapshot did not keep the store open");
    assert!(snapshot.digest_while(&|| false).is_err(), "told to end");
    assert!(held.upgrade().is_some(), "a snapshot did not hold the handle");
    drop(snapshot);
    assert!(held.upgrade().is_none(), "something else holds the handle");
    // It may be closing still; whoever opens it need not know.
    drop(open(opener, directory));
    assert!(!opener.in_use(&directory.join("another")));
}

fn range_deletes_touch_user_keys_only(opener: &dyn StoreOpener, directory: &Path) {
    let store = open(opener, directory);
    let state = || store.session(SessionId::from_u128(7)).expect("session");
    let opened = vec![
        session(7, SessionRecord::Open),
        Record::Schema { body: "schema".into() },
        put("a", "1"),
        put(vec![0xff; 40], "last"),
        put("b", "2"),
    ];
    store.replay(&[frame(10, opened)]).expect("replay");
    let before = state();
    store
        .replay(&[frame(20, vec![delete_range(b"b", b"a"), delete_range(b"a", b"a")])])
        .expect("ok");
    assert_eq!(contents(&store).len(), 3, "an empty or inverted range removed something");
    store.replay(&[frame(30, vec![delete_range(b"", b"b")])]).expect("replay");
    assert_eq!(contents(&store)[0], item("b", "2"));
    store.replay(&[frame(40, vec![delete_range(&[0xff], b"")])]).expect("replay");
    assert_eq!(contents(&store), vec![item("b", "2")], "a range without end began too early");
    store.replay(&[frame(50, vec![delete_range(b"", b"")])]).expect("replay");
    assert_eq!(contents(&store), vec![]);
    assert!(before.is_some() && state() == before, "a range delete touched a session");
    assert_eq!(store.schema().expect("schema"), Some("schema".into()));
    store.checkpoint().expect("checkpoint");
    assert_eq!(store.checkpointed(), Position::new(1, 50));
}

fn scans_are_ordered_and_bounded(opener: &dyn StoreOpener, directory: &Path) {
    let store = open(opener, directory);
    let keys = ["b", "a", "ab", "c", "d"];
    store.replay(&[frame(10, keys.map(|key| put(key, "12345678")).to_vec())]).expect("replay");
    let snapshot = store.snapshot().expect("snapshot");
    let scan = |from: &str, to: Option<&str>, limit: usize, bytes_max: usize| {
        let to = to.map(str::as_bytes);
        let items = snapshot.scan(from.as_bytes(), to, limit, bytes_max).expect("scan");
        items.iter().map(|(key, _)| String::from_utf8_lossy(key).into_owned()).collect::<Vec<_>>()
    };
    assert_eq!(scan("", None, usize::MAX, usize::MAX), ["a", "ab", "b", "c", "d"]);
    assert_eq!(scan("ab", Some("c"), 9, 999), ["ab", "b"]);
    assert_eq!(scan("aa", None, 2, 999), ["ab", "b"]);
    assert_eq!(scan("", None, 9, 28), ["a", "ab", "b"]);
    assert_eq!(scan("", None, 9, 27), ["a", "ab"]);
    assert_eq!(scan("", None, 9, 0), ["a"]);
    assert!(scan("", None, 0, 999).is_empty());
    assert!(scan("c", Some("b"), 9, 999).is_empty());
    assert!(scan("e", None, 9, 999).is_empty());
}

fn snapshots_stand_still(opener: &dyn StoreOpener, directory: &Path) {
    let store = open(opener, directory);
    let frames = mixed_frames(3, 80);
    store.replay(&frames[..40]).expect("replay");
    let snapshot = store.clone().snapshot().expect("snapshot");
    let before = snapshot.scan(&[], None, usize::MAX, usize::MAX).expect("scan");
    let gone = frame(frames[39].end.position.offset + 1, vec![delete_range(b"", &[0xff])]);
    store.replay(&[gone]).expect("replay");
    store.checkpoint().expect("checkpoint");
    store.replay(&frames[40..]).expect("replay");
    assert_eq!(snapshot.at(), frames[39].end);
    assert_eq!(snapshot.scan(&[], None, usize::MAX, usize::MAX).expect("scan"), before);
    assert_eq!(snapshot.get(&before[0].0).expect("get"), Some(before[0].1.clone()));
    assert_eq!(snapshot.digest().expect("digest"), model_digest(&frames[..40]));
    assert_eq!(store.snapshot().expect("snapshot").at(), frames[79].end);
}

fn sessions_follow_the_log(opener: &dyn StoreOpener, directory: &Path) {
    let store = open(opener, directory);
    let state = |id: u128| store.session(SessionId::from_u128(id)).expect("session");
    let open = |id: u128| session(id, SessionRecord::Open);
    store.replay(&[frame(10, vec![open(1), open(2), applied(3, 1, 1)])]).expect("replay");
    assert_eq!(state(3), None, "a write of an unknown session made it known");
    let batch = [
        frame(20, vec![applied(1, 1, 1), applied(2, 1, 1)]),
        frame(30, vec![applied(1, 2, 1), session(2, SessionRecord::Expire)]),
    ];
    store.replay(&batch).expect("replay");
    let one = state(1).expect("known");
    assert_eq!(one.applied, vec![(1, batch[0].end), (2, batch[1].end)]);
    assert_eq!(one.last_used, HybridTime::from_unix_millis(30));
    assert_eq!(state(2), None);
    store.replay(&[frame(40, vec![applied(1, 3, 3), open(2)])]).expect("replay");
    let one = state(1).expect("known");
    assert_eq!((one.applied.len(), one.lowest_unanswered), (1, 3));
    assert_eq!(state(2).expect("opened again").applied, vec![]);
}

fn idle_sessions_are_found(opener: &dyn StoreOpener, directory: &Path) {
    let store = open(opener, directory);
    let hour = 3_600_000;
    let used = |hours: u64, ids: std::ops::Range<u128>| {
        frame(hours * hour, ids.map(|id| session(id, SessionRecord::Open)).collect())
    };
    store.replay(&[used(1, 0..10), used(2, 10..20), used(3, 0..5)]).expect("replay");
    store.replay(&[frame(4 * hour, vec![session(12, SessionRecord::Expire)])]).expect("replay");
    let idle = |millis: u64, limit: usize| {
        let before = HybridTime::from_unix_millis(millis);
        let mut ids = store.idle_sessions(before, limit).expect("idle");
        ids.sort_unstable();
        ids
    };
    let ids = |range: std::ops::Range<u128>| range.map(SessionId::from_u128);
    assert!(idle(hour, 100).is_empty());
    assert_eq!(idle(hour + 1, 100), ids(5..10).collect::<Vec<_>>());
    assert_eq!(idle(2 * hour, 100), ids(5..10).collect::<Vec<_>>());
    let both: Vec<_> = ids(5..12).chain(ids(13..20)).collect();
    assert_eq!(idle(3 * hour, 100), both);
    let some = idle(3 * hour, 7);
    assert_eq!(some.len(), 7);
    assert!(ids(5..10).all(|id| some.contains(&id)), "the longest idle do not come first");
    assert_eq!(idle(4 * hour, 100).len(), 19);
}

fn the_largest_keys_and_values_fit(opener: &dyn StoreOpener, directory: &Path) {
    let store = open(opener, directory);
    let key = vec![0xab; KEY_BYTES_MAX];
    let value = Bytes::from(vec![0x5a; VALUE_BYTES_MAX]);
    let other = Bytes::from(vec![0x6b; VALUE_BYTES_MAX]);
    let frames = [
        frame(10, vec![put(key.clone(), value.clone()), put("small", other.clone())]),
        frame(20, vec![put("k", "v")]),
    ];
    store.replay(&frames).expect("replay");
    store.checkpoint().expect("checkpoint");
    drop(store);
    let store = open(opener, directory);
    assert!(store.get(&key).expect("get").is_some_and(|found| found == value), "value changed");
    assert!(store.get(b"small").expect("get").is_some_and(|found| found == other));
    assert_eq!(digest(&store), model_digest(&frames));
}

fn the_last_schema_is_kept(opener: &dyn StoreOpener, directory: &Path) {
    let store = open(opener, directory);
    let schema = |body: &'static str| Record::Schema { body: body.into() };
    store.replay(&[frame(10, vec![schema("one"), schema("two")])]).expect("replay");
    assert_eq!(store.schema().expect("schema"), Some("two".into()));
    store.checkpoint().expect("checkpoint");
    drop(store);
    assert_eq!(open(opener, directory).schema().expect("schema"), Some("two".into()));
}

fn digests_depend_on_content_and_position(opener: &dyn StoreOpener, directory: &Path) {
    let base = vec![put("a", "1"), session(1, SessionRecord::Open)];
    let with = |record: Record| base.iter().cloned().chain([record]).collect::<Vec<_>>();
    let mut later_epoch = frame(10, base.clone());
    later_epoch.end.epoch = Epoch::new(0, 2);
    let variants = [
        frame(10, base.clone()),
        frame(11, base.clone()),
        later_epoch,
        frame(10, with(put("a", "2"))),
        frame(10, with(put("b", "1"))),
        frame(10, with(applied(1, 1, 1))),
        frame(10, with(Record::Schema { body: "s".into() })),
        frame(10, vec![put("a1", ""), session(1, SessionRecord::Open)]),
        frame(10, vec![put("a", "1"), session(2, SessionRecord::Open)]),
        frame(10, vec![put("a", "1")]),
    ];
    let mut digests = Vec::new();
    for (index, variant) in variants.into_iter().enumerate() {
        let store = open(opener, &directory.join(index.to_string()));
        store.replay(std::slice::from_ref(&variant)).expect("replay");
        assert_eq!(digest(&store), model_digest(&[variant]), "variant {index}");
        digests.push(digest(&store));
    }
    let count = digests.len();
    digests.sort_unstable();
    digests.dedup();
    assert_eq!(digests.len(), count, "two variants have one digest");
}

fn digests_do_not_depend_on_the_way(opener: &dyn StoreOpener, directory: &Path) {
    let frames = mixed_frames(4, 300);
    let (at_once, piecewise) = (directory.join("at-once"), directory.join("piecewise"));
    let at_once = open(opener, &at_once);
    at_once.replay(&frames).expect("replay");
    let mut store = open(opener, &piecewise);
    for (index, piece) in frames.chunks(11).enumerate() {
        store.replay(piece).expect("replay");
        if index % 3 == 0 {
            store.checkpoint().expect("checkpoint");
        }
        if index % 6 == 0 {
            drop(store);
            store = open(opener, &piecewise);
        }
    }
    assert_eq!(contents(&store), contents(&at_once));
    assert_eq!(digest(&store), digest(&at_once));
    assert_eq!(digest(&store), model_digest(&frames));
}

fn a_checkpoint_directory_is_a_store(opener: &dyn StoreOpener, directory: &Path) {
    let (source, target) = (directory.join("source"), directory.join("target"));
    let frames = mixed_frames(5, 120);
    let store = open(opener, &source);
    store.replay(&frames[..60]).expect("replay");
    let end = store.create_checkpoint(&target).expect("checkpoint");
    assert_eq!(end, frames[59].end);
    assert!(store.create_checkpoint(&target).is_err(), "the target was overwritten");
    store.replay(&frames[60..]).expect("replay");
    store.checkpoint().expect("checkpoint");
    let copy = open(opener, &target);
    assert_eq!((copy.replayed(), copy.checkpointed()), (end, end.position));
    assert_eq!(digest(&copy), model_digest(&frames[..60]));
    copy.replay(&frames[60..]).expect("replay");
    assert_eq!(digest(&copy), digest(&store));
}
