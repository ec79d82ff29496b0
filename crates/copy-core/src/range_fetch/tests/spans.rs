//! Keys, spans, touched sets.

use keelson_types::{Record, SessionId, SessionRecord};

use super::*;

fn all(spans: &[Span]) -> Spans {
    spans.iter().cloned().collect()
}

#[test]
fn the_next_key_leaves_no_room() {
    let last = SessionId::from_u128(u128::MAX);
    let rising = [
        StoreKey::Schema,
        StoreKey::Session(SessionId::from_u128(0)),
        StoreKey::Session(SessionId::from_u128(1)),
    ];
    for pair in rising.windows(2) {
        assert_eq!(pair[0].next(), pair[1]);
    }
    assert_eq!(StoreKey::Session(last).next(), user(""));
    assert_eq!(user("k").next(), user("k\0"));
    assert!(key("k").covers(&user("k")) && !key("k").covers(&user("k\0")));
    assert_eq!(key("k").only_key(), Some(&user("k")));
    assert_eq!(range("k", "l").only_key(), None);
}

#[test]
fn sets_are_ascending_and_merged() {
    let cases: [(&[Span], &[Span]); 5] = [
        (&[key("b"), key("a"), key("b")], &[key("a"), key("b")]),
        (&[range("a", "c"), range("b", "d")], &[range("a", "d")]),
        (&[range("a", "c"), range("c", "d")], &[range("a", "d")]),
        (&[range("a", "z"), key("k")], &[range("a", "z")]),
        (&[Span::all(), key("k"), range("a", "b")], &[Span::all()]),
    ];
    for (given, merged) in cases {
        assert_eq!(all(given).list(), merged);
    }
    assert_eq!(Span::new(user("b"), Some(user("b"))), None);
}

#[test]
fn a_set_covers_what_its_spans_cover() {
    let set = all(&[key("a"), range("c", "e"), Span::new(user("x"), None).expect("not empty")]);
    for (name, covered) in
        [("", false), ("a", true), ("b", false), ("c", true), ("dd", true), ("e", false)]
    {
        assert_eq!(set.covers(&user(name)), covered, "{name:?}");
    }
    assert!(set.covers(&user("zzz")) && !set.covers(&StoreKey::Schema));
}

#[test]
fn what_is_behind_a_key_is_cut_off_there() {
    let set = all(&[key("a"), range("c", "e"), key("k")]);
    assert_eq!(set.behind(&StoreKey::FIRST, 2), [key("a"), range("c", "e")]);
    assert_eq!(set.behind(&user("d"), 9), [range("d", "e"), key("k")]);
    assert_eq!(set.behind(&user("e"), 9), [key("k")]);
    assert_eq!(set.behind(&user("z"), 9), []);
    assert_eq!(set.hull().list(), [Span::new(user("a"), Some(user("k\0"))).expect("not empty")]);
}

#[test]
fn a_fork_touches_every_key_that_a_record_of_it_names() {
    let (k, v) = (|name: &'static str| Bytes::from_static(name.as_bytes()), Bytes::new());
    let session = SessionId::from_u128(3);
    let mut touched = TouchedSet::default();
    let records = [
        Record::Put { key: k("a"), value: Bytes::from_static(b"12345") },
        Record::Put { key: k("a"), value: v },
        Record::Delete { key: k("b") },
        Record::DeleteRange { from: k("d"), to: k("f") },
        Record::DeleteRange { from: k("f"), to: k("d") },
        Record::DeleteRange { from: k("x"), to: k("") },
        Record::Session { session, change: SessionRecord::Expire },
        Record::Schema { body: k("s") },
        Record::NoOp,
        Record::Opening { epoch: epoch(1) },
        Record::DigestMarker { id: 1 },
        Record::RestorePoint { name: "r".into() },
    ];
    records.iter().for_each(|record| touched.add(record));
    let to_the_end = Span::new(user("x"), None).expect("not empty");
    let expected = [
        Span::key(StoreKey::Schema),
        Span::key(StoreKey::Session(session)),
        key("a"),
        key("b"),
        range("d", "f"),
        to_the_end.clone(),
    ];
    assert_eq!(touched.spans().list(), expected);
    assert_eq!(touched.cost(), cost(4, 1 + 16 + 1 + 5 + 1));
    touched.add_range_estimate(1_000);
    assert_eq!(touched.cost().bytes, 1_024);
    assert_eq!(touched.ranges(), [range("d", "f"), to_the_end]);
}

#[test]
fn a_touched_set_knows_when_no_mark_can_hold_it() {
    let mut touched = TouchedSet::default();
    let mut count = 0_u32;
    while !touched.is_too_large() {
        let mut name = vec![0; 60_000];
        name.extend_from_slice(&count.to_be_bytes());
        touched.add(&Record::Delete { key: name.into() });
        count += 1;
    }
    let mut bench = Bench::new();
    let order = FetchOrder { spans: touched.spans(), ..repair(&[]) };
    assert_eq!(bench.begin(order), ["save", "begun", "fetch"], "{count} keys still fit");
}
