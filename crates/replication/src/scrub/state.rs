//! How far a copy's scrub is, and how the last one ended. The latter is kept in the control file,
//! so that a restart begins no scrub anew.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use keelson_format::ControlRecord;
use keelson_wire::v1;
use tokio::sync::OwnedMutexGuard;

use crate::rebuild::put_extension;

/// Extension of the control record: how the last scrub ended.
pub(crate) const SCRUB_EXTENSION: u16 = 3;
/// Longest problem that is kept, in bytes.
const PROBLEM_MAX: usize = 300;

/// How many copies took part in a comparison of contents.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Compared {
    answered: u8,
    /// Copies of the database, this one included.
    of: u8,
}

impl Compared {
    pub(super) fn new(answered: usize, of: usize) -> Self {
        let small = |count: usize| u8::try_from(count).unwrap_or(u8::MAX);
        Self { answered: small(answered), of: small(of) }
    }
}

/// What a scrub found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ScrubReport {
    pub(crate) ended_unix_ms: u64,
    /// Of log and tables.
    pub(crate) bytes: u64,
    pub(crate) found: u32,
    pub(crate) mended: u32,
    /// What the active copy compared behind the reading; nothing on a passive one.
    pub(crate) compared: Option<Compared>,
    /// What was not mended there and then.
    pub(crate) problem: Option<String>,
}

impl ScrubReport {
    pub(crate) fn result(&self) -> &'static str {
        match (&self.problem, self.found) {
            (Some(_), _) => "damaged",
            (None, 0) => "clean",
            (None, _) => "mended",
        }
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = self.ended_unix_ms.to_le_bytes().to_vec();
        bytes.extend_from_slice(&self.bytes.to_le_bytes());
        bytes.extend_from_slice(&self.found.to_le_bytes());
        bytes.extend_from_slice(&self.mended.to_le_bytes());
        let compared = self.compared.unwrap_or_default();
        bytes.extend_from_slice(&[compared.answered, compared.of]);
        if let Some(problem) = &self.problem {
            bytes.push(1);
            bytes.extend_from_slice(&problem.as_bytes()[..problem.len().min(PROBLEM_MAX)]);
        }
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (numbers, problem) = bytes.split_first_chunk::<26>()?;
        let long = |at: usize| numbers[at..].first_chunk().map_or(0, |b| u64::from_le_bytes(*b));
        let short = |at: usize| numbers[at..].first_chunk().map_or(0, |b| u32::from_le_bytes(*b));
        let problem = problem.split_first().map(|(_, text)| String::from_utf8_lossy(text).into());
        let (ended_unix_ms, bytes) = (long(0), long(8));
        let [.., answered, of] = *numbers;
        let compared = (of > 0).then_some(Compared { answered, of });
        let (found, mended) = (short(16), short(20));
        Some(Self { ended_unix_ms, bytes, found, mended, compared, problem })
    }

    /// What is kept in a control record; nothing if there never was a scrub.
    pub(crate) fn read(record: &ControlRecord) -> Self {
        let found = record.extensions.iter().find(|(number, _)| *number == SCRUB_EXTENSION);
        found.and_then(|(_, bytes)| Self::decode(bytes)).unwrap_or_default()
    }

    /// A new copy counts as just read.
    pub(crate) fn put_new(record: &mut ControlRecord, now_unix_ms: u64) {
        let report = Self { ended_unix_ms: now_unix_ms, ..Self::default() };
        put_extension(record, SCRUB_EXTENSION, report.encode());
    }
}

/// The scrubs of one copy.
#[derive(Debug, Default)]
pub(crate) struct ScrubState {
    inner: Mutex<Inner>,
    /// Held by the scrub that runs, its comparison included.
    alone: Arc<tokio::sync::Mutex<()>>,
}

#[derive(Debug, Default)]
struct Inner {
    /// Known once the copy was opened.
    last: Option<ScrubReport>,
    /// Bytes read, and in all.
    running: Option<(u64, u64)>,
    asked: bool,
    ended: u64,
}

impl ScrubState {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the scrub of this copy that runs.
    pub(super) async fn alone(&self) -> OwnedMutexGuard<()> {
        self.alone.clone().lock_owned().await
    }

    /// What the control file says, at an opening.
    pub(crate) fn opened(&self, found: ScrubReport) {
        self.lock().last.get_or_insert(found);
    }

    /// When the last one ended; nothing if that is not known, or while one runs.
    pub(super) fn rests_since(&self) -> Option<u64> {
        // One that panicked holds nothing any more.
        let _rests = self.alone.try_lock().ok()?;
        self.lock().last.as_ref().map(|last| last.ended_unix_ms)
    }

    /// Asks for one; false if one is waiting for its turn already. With the number of those that
    /// ended before.
    pub(crate) fn ask(&self) -> (bool, u64) {
        let mut inner = self.lock();
        // One that runs may have passed the place that somebody cares for.
        let first = !std::mem::replace(&mut inner.asked, true);
        (first, inner.ended + u64::from(inner.running.is_some()))
    }

    pub(super) fn begin(&self, total: u64) {
        let mut inner = self.lock();
        (inner.running, inner.asked) = (Some((0, total)), false);
    }

    pub(super) fn read(&self, bytes: u64) {
        if let Some((done, _)) = &mut self.lock().running {
            *done += bytes;
        }
    }

    pub(super) fn end(&self, report: ScrubReport) {
        let mut inner = self.lock();
        (inner.running, inner.last) = (None, Some(report));
        inner.ended += 1;
    }

    /// For status pages.
    pub(crate) fn facts(&self) -> v1::ScrubFacts {
        let inner = self.lock();
        let last = inner.last.clone().unwrap_or_default();
        let (done_bytes, total_bytes) = inner.running.unwrap_or_default();
        v1::ScrubFacts {
            ended_unix_millis: last.ended_unix_ms,
            result: last.result().into(),
            bytes: last.bytes,
            found: last.found,
            mended: last.mended,
            problem: last.problem.unwrap_or_default(),
            compared: last.compared.unwrap_or_default().answered.into(),
            compared_of: last.compared.unwrap_or_default().of.into(),
            running: inner.running.is_some(),
            done_bytes: done_bytes.min(total_bytes),
            total_bytes,
            ended: inner.ended,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_survives_its_bytes() {
        let clean = ScrubReport { ended_unix_ms: 7, bytes: 9, ..ScrubReport::default() };
        let problem = Some("log at 1:512: m2 does not answer".to_owned());
        let compared = Some(Compared::new(2, 3));
        let damaged = ScrubReport { found: 3, mended: 2, compared, problem, ..clean.clone() };
        for (report, result) in [(clean, "clean"), (damaged, "damaged")] {
            assert_eq!(ScrubReport::decode(&report.encode()), Some(report.clone()));
            assert_eq!(report.result(), result);
        }
    }

    #[test]
    fn who_asks_while_one_runs_waits_for_the_next() {
        let state = ScrubState::default();
        assert_eq!(state.ask(), (true, 0));
        assert_eq!(state.ask(), (false, 0), "one is waiting");
        state.begin(10);
        assert_eq!(state.ask(), (true, 1));
        state.end(ScrubReport::default());
        assert_eq!(state.facts().ended, 1);
    }

    #[tokio::test]
    async fn what_is_scrubbed_now_is_not_due() {
        let state = ScrubState::default();
        assert_eq!(state.rests_since(), None, "it was never opened");
        state.opened(ScrubReport { ended_unix_ms: 5, ..ScrubReport::default() });
        let alone = state.alone().await;
        assert_eq!(state.rests_since(), None);
        drop(alone);
        assert_eq!(state.rests_since(), Some(5));
    }
}
