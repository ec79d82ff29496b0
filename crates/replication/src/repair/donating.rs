//! Being a donor: answers spans from a snapshot that is kept while somebody asks for it.
//!
//! A snapshot keeps its store open and old versions on its disk, so it goes when nobody asked for
//! [`KEPT`], and there is one for each asking copy. No timer runs while none is kept.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use keelson_copy_core::range_fetch::FetchFailure;
use keelson_env::{KvSnapshot, KvStore, StoreError, StoreItem};
use keelson_types::{DatabaseId, LogEnd, MemberId, Position, Span, StoreKey};

/// A snapshot that nobody asked for during this time is given up.
pub(crate) const KEPT: Duration = Duration::from_secs(20);
/// Snapshots kept at a time.
const SNAPSHOTS_MAX: usize = 16;

/// What is asked of a donor.
#[derive(Debug)]
pub(crate) struct Wanted {
    pub(crate) spans: Vec<Span>,
    pub(crate) snapshot: Option<LogEnd>,
    pub(crate) not_before: Position,
    pub(crate) keys_max: usize,
    pub(crate) bytes_max: usize,
}

/// A part of a snapshot.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Donation {
    pub(crate) at: LogEnd,
    pub(crate) items: Vec<StoreItem>,
    /// The first key that is not answered.
    pub(crate) next: Option<StoreKey>,
}

/// Why there is no answer.
#[derive(Debug)]
pub(crate) enum NoDonation {
    Failure(FetchFailure),
    Store(StoreError),
}

impl From<StoreError> for NoDonation {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

type Asker = (DatabaseId, MemberId);

struct Kept {
    snapshot: Box<dyn KvSnapshot>,
    used: Instant,
}

/// The snapshots of a process.
#[derive(Default)]
pub(crate) struct Donations(Mutex<BTreeMap<Asker, Kept>>);

impl std::fmt::Debug for Donations {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Donations").field("kept", &self.lock().len()).finish()
    }
}

impl Donations {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<Asker, Kept>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Answers a member's question from its snapshot, or from a new one of `store`. Blocking.
    pub(crate) fn answer(
        &self,
        store: Arc<dyn KvStore>,
        asker: Asker,
        wanted: &Wanted,
    ) -> Result<Donation, NoDonation> {
        // Out of the map while it is read: a second question at once finds none.
        let kept = self.lock().remove(&asker);
        let snapshot = match (wanted.snapshot, kept) {
            (Some(at), Some(kept)) if kept.snapshot.at() == at => kept.snapshot,
            (Some(_), _) => return Err(NoDonation::Failure(FetchFailure::SnapshotGone)),
            (None, _) => store.snapshot()?,
        };
        if snapshot.at().position < wanted.not_before {
            return Err(NoDonation::Failure(FetchFailure::Behind));
        }
        let donation = read(&*snapshot, wanted)?;
        self.keep(asker, snapshot);
        Ok(donation)
    }

    fn keep(&self, asker: Asker, snapshot: Box<dyn KvSnapshot>) {
        let mut kept = self.lock();
        if kept.len() >= SNAPSHOTS_MAX {
            let oldest = kept.iter().min_by_key(|(_, kept)| kept.used).map(|(asker, _)| *asker);
            oldest.into_iter().for_each(|asker| drop(kept.remove(&asker)));
        }
        kept.insert(asker, Kept { snapshot, used: Instant::now() });
    }

    /// Gives up what nobody asked for lately; says whether any snapshot is left.
    pub(crate) fn expire(&self) -> bool {
        let mut kept = self.lock();
        kept.retain(|_, kept| kept.used.elapsed() < KEPT);
        !kept.is_empty()
    }

    /// Gives up the snapshots of a database whose store is to be opened anew.
    pub(crate) fn forget(&self, database: DatabaseId) {
        self.lock().retain(|(of, _), _| *of != database);
    }
}

/// Reads spans within the bounds; one key is answered if there is any.
fn read(snapshot: &dyn KvSnapshot, wanted: &Wanted) -> Result<Donation, StoreError> {
    let at = snapshot.at();
    let mut items: Vec<StoreItem> = Vec::new();
    let mut bytes_left = wanted.bytes_max;
    for span in &wanted.spans {
        let keys_left = wanted.keys_max.saturating_sub(items.len());
        if keys_left == 0 || bytes_left == 0 && !items.is_empty() {
            return Ok(Donation { at, items, next: Some(span.from().clone()) });
        }
        let found = snapshot.read_span(span, keys_left, bytes_left)?;
        // A store hands one item out however large it is.
        let size = |(key, value): &StoreItem| value.len() + key.len_bytes() as usize;
        let bytes: usize = found.iter().map(size).sum();
        if bytes > bytes_left && !items.is_empty() {
            let next = found.into_iter().next().map(|(key, _)| key);
            return Ok(Donation { at, items, next });
        }
        bytes_left = bytes_left.saturating_sub(bytes);
        let rest = found.last().and_then(|(key, _)| span.behind(&key.next()));
        items.extend(found);
        if let Some(rest) = rest {
            let more = snapshot.read_span(&rest, 1, 1)?;
            if let Some((key, _)) = more.into_iter().next() {
                return Ok(Donation { at, items, next: Some(key) });
            }
        }
    }
    Ok(Donation { at, items, next: None })
}

#[cfg(test)]
mod tests {
    use super::*;
    use keelson_env::kv_suite::{frame, put};
    use keelson_env::{MemStoreOpener, StoreOpener};
    use std::path::Path;

    fn store() -> Arc<dyn KvStore> {
        let store = MemStoreOpener::new().open(Path::new("donor")).unwrap();
        let records = ["a", "b", "c", "d", "e"].map(|key| put(key, "12345")).to_vec();
        store.replay(&[frame(10, records)]).unwrap();
        store
    }

    fn user(key: &'static str) -> StoreKey {
        StoreKey::User(key.into())
    }

    fn wanted(spans: Vec<Span>) -> Wanted {
        Wanted {
            spans,
            snapshot: None,
            not_before: Position::ZERO,
            keys_max: 100,
            bytes_max: 1_000,
        }
    }

    fn keys(donation: &Donation) -> Vec<StoreKey> {
        donation.items.iter().map(|(key, _)| key.clone()).collect()
    }

    fn asker() -> Asker {
        (DatabaseId::from_u128(1), MemberId::from_u128(2))
    }

    #[test]
    fn answers_are_bounded_and_say_where_they_end() {
        let (donations, store) = (Donations::default(), store());
        let ask = |wanted: Wanted| donations.answer(store.clone(), asker(), &wanted).unwrap();
        let points = || vec![Span::key(user("a")), Span::key(user("c")), Span::key(user("e"))];
        let all = ask(wanted(points()));
        assert_eq!((keys(&all), all.next), (vec![user("a"), user("c"), user("e")], None));
        let two = ask(Wanted { keys_max: 2, ..wanted(points()) });
        assert_eq!((keys(&two), two.next), (vec![user("a"), user("c")], Some(user("e"))));
        let small = ask(Wanted { bytes_max: 11, ..wanted(points()) });
        assert_eq!((keys(&small), small.next), (vec![user("a")], Some(user("c"))));
        let tiny = ask(Wanted { bytes_max: 1, ..wanted(points()) });
        assert_eq!(keys(&tiny), [user("a")], "one key however large it is");
        let range = vec![Span::new(user("b"), Some(user("e"))).unwrap()];
        let part = ask(Wanted { keys_max: 2, ..wanted(range.clone()) });
        assert_eq!((keys(&part), part.next), (vec![user("b"), user("c")], Some(user("d"))));
        let whole = ask(Wanted { keys_max: 3, ..wanted(range) });
        assert_eq!((whole.items.len(), whole.next), (3, None), "nothing is left of it");
    }

    #[test]
    fn a_snapshot_is_kept_while_it_is_asked_for() {
        let (donations, store) = (Donations::default(), store());
        let ask = |snapshot| {
            let wanted = Wanted { snapshot, keys_max: 1, ..wanted(vec![Span::all()]) };
            donations.answer(store.clone(), asker(), &wanted)
        };
        let first = ask(None).unwrap();
        store.replay(&[frame(20, vec![put("a", "new")])]).unwrap();
        assert_eq!(ask(Some(first.at)).unwrap().at, first.at);
        let newer = ask(None).unwrap();
        assert_eq!(newer.at.position, Position::new(1, 20));
        let gone = ask(Some(first.at));
        assert!(matches!(gone, Err(NoDonation::Failure(FetchFailure::SnapshotGone))), "{gone:?}");
        ask(None).unwrap();
        donations.forget(asker().0);
        assert!(matches!(ask(Some(newer.at)), Err(NoDonation::Failure(_))));
        assert!(!donations.expire(), "nothing is kept any more");
    }

    #[test]
    fn a_store_that_is_behind_says_so() {
        let wanted = Wanted { not_before: Position::new(1, 11), ..wanted(vec![Span::all()]) };
        let answer = Donations::default().answer(store(), asker(), &wanted);
        assert!(matches!(answer, Err(NoDonation::Failure(FetchFailure::Behind))), "{answer:?}");
    }
}
