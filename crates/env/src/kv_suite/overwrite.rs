//! Rewinds, spans read and overwritten: what a range fetch needs of a store.

use keelson_types::{Span, StoreKey};

use super::*;
use crate::{SessionState, StoreItem};

fn user(key: &'static str) -> StoreKey {
    StoreKey::User(key.into())
}

fn range(from: &'static str, to: &'static str) -> Span {
    Span::new(user(from), Some(user(to))).expect("not empty")
}

fn item(key: &'static str, value: &'static str) -> StoreItem {
    (user(key), value.into())
}

fn state_item(id: u128, used: u64) -> StoreItem {
    let last_used = HybridTime::from_unix_millis(used);
    let state = SessionState { last_used, applied: Vec::new(), lowest_unanswered: 3 };
    let mut bytes = Vec::new();
    state.encode(&mut bytes);
    (StoreKey::Session(SessionId::from_u128(id)), bytes.into())
}

fn all_items(store: &Arc<dyn KvStore>) -> Vec<StoreItem> {
    let snapshot = store.clone().snapshot().expect("snapshot");
    snapshot.read_span(&Span::all(), usize::MAX, usize::MAX).expect("read")
}

fn idle(store: &Arc<dyn KvStore>) -> Vec<SessionId> {
    let mut idle = store.idle_sessions(HybridTime(u64::MAX), usize::MAX).expect("idle");
    idle.sort_unstable();
    idle
}

/// A store with a schema, three sessions and five keys, at 20.
fn filled(opener: &dyn StoreOpener, directory: &Path) -> Arc<dyn KvStore> {
    let store = open(opener, directory);
    let open = |id: u128| session(id, SessionRecord::Open);
    let records = ["a", "b", "c", "d", "e"].map(|key| put(key, "old")).to_vec();
    let system = vec![Record::Schema { body: "s1".into() }, open(1), open(2), open(5)];
    store.replay(&[frame(10, records), frame(20, system)]).expect("replay");
    store
}

pub(super) fn a_rewind_is_durable(opener: &dyn StoreOpener, directory: &Path) {
    let frames = mixed_frames(3, 6);
    let store = open(opener, directory);
    store.replay(&frames).expect("replay");
    store.checkpoint().expect("checkpoint");
    let (early, late) = (frames[2].end, frames[5].end);
    store.rewind(early).expect("rewind");
    assert_eq!((store.replayed(), store.checkpointed()), (early, early.position));
    drop(store);
    let store = open(opener, directory);
    assert_eq!((store.replayed(), store.checkpointed()), (early, early.position));
    store.replay(&frames[3..]).expect("what lies behind the position is replayed again");
    assert_eq!(store.checkpoint().expect("checkpoint"), late.position);
    assert_eq!(store.checkpointed(), late.position);
    drop(store);
    let store = open(opener, directory);
    store.rewind(LogEnd::ZERO).expect("rewind");
    drop(store);
    assert_eq!(open(opener, directory).replayed(), LogEnd::ZERO);
}

pub(super) fn spans_become_what_they_are_told(opener: &dyn StoreOpener, directory: &Path) {
    let store = filled(opener, directory);
    let at = store.replayed();
    let sessions = StoreKey::Session(SessionId::from_u128(2));
    let spans = [
        Span::key(StoreKey::Schema),
        Span::new(sessions, Some(user(""))).expect("not empty"),
        Span::key(user("a")),
        range("b", "d"),
        Span::new(user("e"), None).expect("not empty"),
    ];
    let hour = 3_600_000;
    let items =
        [state_item(5, hour), state_item(9, 0), item("a", "new"), item("c", ""), item("f", "f")];
    store.overwrite(&spans, &items).expect("overwrite");
    assert_eq!(store.replayed(), at, "the position stays");
    let expected = [
        state_item(5, hour),
        state_item(9, 0),
        item("a", "new"),
        item("c", ""),
        item("d", "old"),
        item("f", "f"),
    ];
    let found = all_items(&store);
    assert!(matches!(found[0].0, StoreKey::Session(id) if id == SessionId::from_u128(1)));
    assert_eq!(found[1..], expected);
    assert_eq!(store.schema().expect("schema"), None);
    assert_eq!(idle(&store), [1, 5, 9].map(SessionId::from_u128));
    let early = store.idle_sessions(HybridTime::from_unix_millis(hour), 9).expect("idle");
    assert_eq!(early.len(), 2, "a session moves in the index: {early:?}");
    store.replay(&[frame(30, vec![put("z", "z")])]).expect("replay goes on");
}

pub(super) fn a_checkpoint_takes_what_was_overwritten(opener: &dyn StoreOpener, directory: &Path) {
    let store = filled(opener, directory);
    let before = all_items(&store);
    store.checkpoint().expect("checkpoint");
    store.overwrite(&[range("a", "f")], &[item("b", "new")]).expect("overwrite");
    drop(store);
    let store = open(opener, directory);
    assert_eq!(all_items(&store), before, "in memory until a checkpoint");
    store.overwrite(&[range("a", "f")], &[item("b", "new")]).expect("overwrite");
    let after = all_items(&store);
    assert_eq!(store.checkpoint().expect("checkpoint"), store.replayed().position);
    drop(store);
    assert_eq!(all_items(&open(opener, directory)), after);
}

pub(super) fn spans_are_read_in_order_and_bounded(opener: &dyn StoreOpener, directory: &Path) {
    let store = filled(opener, directory);
    let all = all_items(&store);
    assert_eq!(all.len(), 9);
    assert!(all.is_sorted_by(|a, b| a.0 < b.0));
    let snapshot = store.clone().snapshot().expect("snapshot");
    let read = |span: &Span, limit, bytes| snapshot.read_span(span, limit, bytes).expect("read");
    assert_eq!(read(&Span::all(), 3, usize::MAX), all[..3]);
    assert_eq!(read(&Span::all(), usize::MAX, 0), all[..1], "one item at least");
    assert_eq!(read(&Span::all(), 0, usize::MAX), []);
    assert_eq!(read(&range("b", "d"), 9, usize::MAX), all[5..7]);
    assert_eq!(read(&range("b", "e"), 9, 8), all[5..7], "four bytes each");
    assert_eq!(read(&Span::key(user("c")), 9, usize::MAX), all[6..7]);
    assert_eq!(read(&Span::key(user("x")), 9, usize::MAX), []);
    let mut pages = Vec::new();
    let mut rest = Some(Span::all());
    while let Some(span) = rest {
        let page = read(&span, 2, usize::MAX);
        rest = page.last().and_then(|(key, _)| span.behind(&key.next()));
        pages.extend(page);
        rest = rest.filter(|_| pages.len() < all.len());
    }
    assert_eq!(pages, all);
}

pub(super) fn malformed_items_change_nothing(opener: &dyn StoreOpener, directory: &Path) {
    let store = filled(opener, directory);
    let before = all_items(&store);
    let spans = [Span::key(user("a")), range("c", "e")];
    let session = (StoreKey::Session(SessionId::from_u128(1)), Bytes::from_static(b"x"));
    let cases: [(&[Span], Vec<StoreItem>); 4] = [
        (&spans, vec![item("b", "not asked for")]),
        (&spans, vec![item("d", "late"), item("c", "early")]),
        (&spans, vec![item("a", "once"), item("a", "twice")]),
        (&[Span::all()], vec![session]),
    ];
    for (spans, items) in cases {
        let refused = store.overwrite(spans, &items);
        assert!(matches!(refused, Err(StoreError::Malformed(_))), "{items:?}: {refused:?}");
        assert_eq!(all_items(&store), before);
    }
    store.replay(&[frame(30, vec![put("z", "z")])]).expect("the store is as good as before");
}

/// The frames without writes of unknown sessions, which an active refuses: repeated over a session
/// that was opened later, they would give it answers that it never had.
fn of_open_sessions(mut frames: Vec<ReplayFrame>) -> Vec<ReplayFrame> {
    let mut open = std::collections::BTreeSet::new();
    for frame in &mut frames {
        frame.records.retain(|record| match record {
            Record::Session { session, change: SessionRecord::Open } => {
                open.insert(*session);
                true
            }
            Record::Session { session, change: SessionRecord::Expire } => {
                open.remove(session);
                true
            }
            Record::Session { session, .. } => open.contains(session),
            _ => true,
        });
    }
    frames
}

/// What review S14 is about: the store has replayed a fork, and becomes equal to a donor.
pub(super) fn a_fork_is_undone_by_chunks_of_a_donor(opener: &dyn StoreOpener, directory: &Path) {
    let (common, fork, other) = (20, mixed_frames(1, 40), mixed_frames(2, 60));
    let served = of_open_sessions([&fork[..common], &other[common..]].concat());
    let fork = of_open_sessions(fork);
    let (q, donor) = (45, MemStoreOpener::new().open(Path::new("donor")).expect("open"));
    donor.replay(&served[..q]).expect("replay");
    let donor_at_q = donor.clone().snapshot().expect("snapshot");
    let store = open(opener, directory);
    store.replay(&fork).expect("replay");
    store.checkpoint().expect("checkpoint");
    store.rewind(fork[common - 1].end).expect("rewind");
    let mut rest = Some(Span::all());
    while let Some(span) = rest.take() {
        let items = donor_at_q.read_span(&span, 7, usize::MAX).expect("read");
        let next = (items.len() == 7).then(|| items[6].0.next());
        let covered = next.as_ref().map_or(Some(span.clone()), |next| span.before(next));
        store.overwrite(&[covered.expect("not empty")], &items).expect("overwrite");
        rest = next.and_then(|next| span.behind(&next));
    }
    store.replay(&served[common..q]).expect("replay");
    assert_eq!(digest(&store), digest(&donor), "at Q");
    assert_eq!(idle(&store), idle(&donor));
    store.replay(&served[q..]).expect("replay");
    assert_eq!(digest(&store), model_digest(&served));
    store.checkpoint().expect("checkpoint");
    drop(store);
    assert_eq!(digest(&open(opener, directory)), model_digest(&served));
}
