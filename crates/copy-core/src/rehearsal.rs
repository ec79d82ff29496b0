//! What a rehearsal of a switchover reads of the fork that it opened: which ranges of keys, and
//! what the end of the log says that must be there.
//!
//! Only values are decided here; `replication` reads. The whole of a rehearsal is bounded by
//! [`RANGES`], [`RANGE_KEYS`], [`RANGE_BYTES`], [`TAIL_KEYS`] and [`TAIL_BYTES`], whatever the
//! database holds.

use std::collections::BTreeMap;

use bytes::Bytes;
use keelson_types::{ContentIndexState, LOG_UNIT_BYTES, Record};

/// Ranges of keys that are read, spread over all keys.
pub const RANGES: usize = 16;
/// Keys of one range; of a later one also what earlier ones did not have.
pub const RANGE_KEYS: usize = 64;
/// Bytes of keys and values of one range, in the same way.
pub const RANGE_BYTES: usize = 256 * 1024;
/// Keys of the end of the log that are compared.
pub const TAIL_KEYS: usize = 1_024;
/// Log before its end in which they are looked for.
pub const TAIL_BYTES: u64 = 1024 * 1024;

/// Log that a content index may lack: as much as a replay queue may have at a move.
pub const INDEX_BACKLOG_BYTES: u64 = 50 * LOG_UNIT_BYTES;

/// How much of the last key is found out: keys that share so much are one place.
const PREFIX_BYTES: usize = 24;
/// Bytes of a key between which ranges are spread.
const SPREAD_BYTES: usize = 8;

/// Whether searches would be well served after a move: the index follows its copy, and is less than
/// [`INDEX_BACKLOG_BYTES`] of log behind it. A database without one has none to check.
///
/// # Errors
/// What is wrong, for people.
pub fn check_index(state: ContentIndexState, backlog_bytes: u64) -> Result<(), String> {
    match state {
        ContentIndexState::Disabled => Ok(()),
        ContentIndexState::Healthy if backlog_bytes < INDEX_BACKLOG_BYTES => Ok(()),
        ContentIndexState::Healthy => {
            let (logs, most) =
                (backlog_bytes / LOG_UNIT_BYTES, INDEX_BACKLOG_BYTES / LOG_UNIT_BYTES);
            Err(format!(
                "the content index is {logs} logs behind its copy, and below {most} passes"
            ))
        }
        state => Err(format!("the content index is {state}")),
    }
}

/// The beginning of the last key. `any_from` says whether there is a key from here on; it is asked
/// at most nine times for each of 24 bytes. Empty if there is no key.
///
/// # Errors
/// What `any_from` fails with.
pub fn last_prefix<E>(mut any_from: impl FnMut(&[u8]) -> Result<bool, E>) -> Result<Vec<u8>, E> {
    let mut prefix = Vec::new();
    while prefix.len() < PREFIX_BYTES {
        prefix.push(0);
        if !any_from(&prefix)? {
            // No key goes on behind what was found.
            prefix.pop();
            break;
        }
        let last = prefix.len() - 1;
        // There is a key from `found` on, and none from the byte behind `bound` on.
        let (mut found, mut bound) = (0_u8, u8::MAX);
        while found < bound {
            let middle = found + (bound - found).div_ceil(2);
            prefix[last] = middle;
            if any_from(&prefix)? { found = middle } else { bound = middle - 1 }
        }
        prefix[last] = found;
    }
    Ok(prefix)
}

/// Where the ranges begin: [`RANGES`] places at most, from the first key on, evenly spread up to
/// the last one, ascending.
#[must_use]
pub fn range_starts(first: &[u8], last: &[u8]) -> Vec<Vec<u8>> {
    let common = first.iter().zip(last).take_while(|(a, b)| a == b).count();
    let place = |key: &[u8]| {
        let mut bytes = [0; SPREAD_BYTES];
        let rest = key.iter().skip(common).take(SPREAD_BYTES);
        bytes.iter_mut().zip(rest).for_each(|(to, from)| *to = *from);
        u64::from_be_bytes(bytes)
    };
    let (from, to) = (place(first), place(last).max(place(first)));
    let (mut starts, mut before) = (vec![first.to_vec()], from);
    for number in 1..RANGES as u64 {
        let step = u128::from(to - from) * u128::from(number) / RANGES as u128;
        let at = from + u64::try_from(step).unwrap_or(u64::MAX);
        if at > before {
            starts.push([&first[..common], &at.to_be_bytes()].concat());
            before = at;
        }
    }
    starts
}

/// What the end of a log says of keys: their last value, or that they are gone.
#[derive(Debug, Default)]
pub struct Tail {
    keys: BTreeMap<Bytes, Option<Bytes>>,
}

impl Tail {
    /// Takes a record; they come in the order of the log. Beyond [`TAIL_KEYS`] no further key is
    /// taken, but those that were are followed to the end.
    pub fn take(&mut self, record: &Record) {
        match record {
            Record::Put { key, value } => self.set(key, Some(value.clone())),
            Record::Delete { key } => self.set(key, None),
            Record::DeleteRange { from, to } => {
                let gone = self.keys.range_mut(from.clone()..);
                let gone = gone.take_while(|(key, _)| to.is_empty() || *key < to);
                gone.for_each(|(_, value)| *value = None);
            }
            _ => {}
        }
    }

    fn set(&mut self, key: &Bytes, value: Option<Bytes>) {
        if self.keys.len() < TAIL_KEYS || self.keys.contains_key(key) {
            self.keys.insert(key.clone(), value);
        }
    }

    /// The keys, ascending, with what a store that has replayed all of it shows for each.
    pub fn expected(&self) -> impl Iterator<Item = (&Bytes, Option<&Bytes>)> {
        self.keys.iter().map(|(key, value)| (key, value.as_ref()))
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether nothing is known of any key.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::convert::Infallible;

    use super::*;

    fn last(keys: &[&[u8]]) -> Vec<u8> {
        let keys: BTreeSet<_> = keys.iter().map(|key| key.to_vec()).collect();
        let mut asked = 0;
        let found = last_prefix(|from| {
            asked += 1;
            Ok::<_, Infallible>(keys.range(from.to_vec()..).next().is_some())
        });
        assert!(asked <= 9 * PREFIX_BYTES, "{asked} questions");
        found.unwrap_or_default()
    }

    #[test]
    fn the_last_key_is_found_by_asking() {
        let long = [7; 100];
        let cases: [(&[&[u8]], &[u8]); 7] = [
            (&[], b""),
            (&[b"a"], b"a"),
            (&[b"a", b"key0001", b"key0999"], b"key0999"),
            (&[b"\x00"], b"\x00"),
            (&[b"\xff\xff", b"a"], b"\xff\xff"),
            (&[b"ab", b"a"], b"ab"),
            (&[&long], &long[..PREFIX_BYTES]),
        ];
        for (keys, expected) in cases {
            assert_eq!(last(keys), expected, "{keys:?}");
        }
    }

    #[test]
    fn ranges_begin_at_the_first_key_and_spread_to_the_last() {
        let starts = range_starts(b"key0000", b"key9999");
        assert_eq!((starts.len(), starts[0].as_slice()), (RANGES, &b"key0000"[..]));
        assert!(starts.is_sorted() && starts.iter().all(|start| start.starts_with(b"key")));
        assert!(starts.last().is_some_and(|last| last.as_slice() < &b"key9999"[..]));
        // The steps are even: the middle one lies in the middle.
        assert!((b'4'..=b'5').contains(&starts[RANGES / 2][3]), "{:?}", starts[RANGES / 2]);
        assert_eq!(range_starts(b"one", b"one"), [b"one".to_vec()], "one key, one range");
        assert_eq!(range_starts(b"b", b"a"), [b"b".to_vec()], "a last key that is gone by now");
        let whole = range_starts(b"\x00", &[0xff; 9]);
        assert_eq!((whole.len(), whole[RANGES - 1][0]), (RANGES, 0xef));
    }

    #[test]
    fn an_index_follows_its_copy_or_does_not() {
        for state in ContentIndexState::ALL {
            let none = check_index(state, 0);
            let fit = matches!(state, ContentIndexState::Disabled | ContentIndexState::Healthy);
            assert_eq!(none.is_ok(), fit, "{state}: {none:?}");
        }
        let healthy = |backlog| check_index(ContentIndexState::Healthy, backlog);
        assert_eq!(healthy(INDEX_BACKLOG_BYTES - 1), Ok(()));
        let text = healthy(INDEX_BACKLOG_BYTES).expect_err("too far behind");
        assert!(text.contains("50 logs behind"), "{text}");
    }

    #[test]
    fn the_end_of_the_log_says_what_a_key_is() {
        let bytes = |text: &'static str| Bytes::from_static(text.as_bytes());
        let put = |key, value| Record::Put { key: bytes(key), value: bytes(value) };
        let delete = |key| Record::Delete { key: bytes(key) };
        let range = |from, to| Record::DeleteRange { from: bytes(from), to: bytes(to) };
        type Case<'a> = (&'a [Record], &'a [(&'a str, Option<&'a str>)]);
        let cases: [Case<'_>; 5] = [
            (&[put("a", "1"), put("a", "2")], &[("a", Some("2"))]),
            (&[put("a", "1"), delete("a"), delete("b")], &[("a", None), ("b", None)]),
            (
                &[put("a", "1"), put("b", "1"), put("c", "1"), range("a", "c"), put("b", "2")],
                &[("a", None), ("b", Some("2")), ("c", Some("1"))],
            ),
            (&[put("a", "1"), put("b", "1"), range("b", "")], &[("a", Some("1")), ("b", None)]),
            (&[Record::NoOp, range("a", "z")], &[]),
        ];
        for (records, expected) in cases {
            let mut tail = Tail::default();
            records.iter().for_each(|record| tail.take(record));
            let text = |bytes: &Bytes| String::from_utf8_lossy(bytes).into_owned();
            let found = tail.expected().map(|(key, value)| (text(key), value.map(text)));
            let expected = expected.iter().map(|(k, v)| ((*k).to_owned(), v.map(str::to_owned)));
            assert!(found.eq(expected), "{records:?}: {tail:?}");
        }
    }

    #[test]
    fn keys_beyond_the_bound_are_left_out_and_the_others_followed() {
        let mut tail = Tail::default();
        let put = |number: usize, value: &'static str| Record::Put {
            key: format!("{number:05}").into(),
            value: value.into(),
        };
        (0..TAIL_KEYS + 5).for_each(|number| tail.take(&put(number, "old")));
        tail.take(&put(3, "new"));
        assert_eq!((tail.len(), tail.is_empty()), (TAIL_KEYS, false));
        let value = |wanted: &str| {
            tail.expected().find(|(key, _)| *key == wanted).map(|(_, value)| value.cloned())
        };
        assert_eq!(value("00003"), Some(Some("new".into())));
        assert_eq!(value(&format!("{TAIL_KEYS:05}")), None);
    }
}
