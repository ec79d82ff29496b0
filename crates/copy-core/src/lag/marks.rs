//! Which log was handled when: a bounded list of marks over a log position that only rises.
//!
//! A mark says "everything before `end` was handled at `at` or earlier". Times are rounded *up* to
//! the resolution, so nothing ever looks older than it is; it may look younger by less than one
//! resolution. When the list is full the resolution doubles and neighbours merge: it stays below
//! one thousandth of the time that the marks span, or at one second.

use std::time::Duration;

use keelson_types::Position;

use super::millis;
use crate::byte_codec::{DecodeError, Reader, put_position, put_u64};

/// Marks kept at most.
pub const MARKS_MAX: usize = 2_048;

/// Finest resolution: one second.
const RESOLUTION_MS: u64 = 1_000;

/// Milliseconds of a copy's lag clock since the clock was made. It never runs backwards and knows
/// nothing of wall clocks; see [`super::InspectionClock`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct LagTime(pub u64);

impl LagTime {
    /// The instant `duration` later.
    #[must_use]
    pub fn after(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(millis(duration)))
    }

    /// How long ago `earlier` was; zero if it lies ahead.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Mark {
    end: Position,
    at: LagTime,
}

/// The marks of one stage (inspection, replay) of one copy.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct AgeMarks {
    /// Everything before this is older than any age.
    floor: Position,
    resolution_ms: u64,
    /// Rising in both fields.
    marks: Vec<Mark>,
}

impl AgeMarks {
    pub(super) const fn new(floor: Position) -> Self {
        Self { floor, resolution_ms: RESOLUTION_MS, marks: Vec::new() }
    }

    /// Position up to which the log is marked.
    pub(super) fn end(&self) -> Position {
        self.marks.last().map_or(self.floor, |mark| mark.end)
    }

    /// Notes that the log up to `end` is handled now. Positions already marked are ignored.
    pub(super) fn note(&mut self, end: Position, now: LagTime) {
        if end <= self.end() {
            return;
        }
        let at = self.rounded(now);
        match self.marks.last_mut() {
            Some(last) if last.at >= at => last.end = end,
            _ => self.marks.push(Mark { end, at }),
        }
        while self.marks.len() > MARKS_MAX {
            self.coarsen();
        }
    }

    const fn rounded(&self, time: LagTime) -> LagTime {
        LagTime(time.0.div_ceil(self.resolution_ms).saturating_mul(self.resolution_ms))
    }

    /// Doubles the resolution. Each round halves the number of distinct times at the latest once
    /// the resolution reaches the mean distance, so the caller's loop is short.
    fn coarsen(&mut self) {
        self.resolution_ms = self.resolution_ms.saturating_mul(2);
        let old = std::mem::take(&mut self.marks);
        for mark in old {
            let at = self.rounded(mark.at);
            match self.marks.last_mut() {
                Some(last) if last.at >= at => last.end = mark.end,
                _ => self.marks.push(Mark { end: mark.end, at }),
            }
        }
    }

    fn matured(&self, age: Duration, now: LagTime) -> usize {
        self.marks.partition_point(|mark| mark.at.after(age) <= now)
    }

    /// Position before which everything was handled at least `age` ago.
    pub(super) fn older_than(&self, age: Duration, now: LagTime) -> Position {
        let count = self.matured(age, now);
        count.checked_sub(1).map_or(self.floor, |last| self.marks[last].end)
    }

    /// How long until [`Self::older_than`] rises; nothing if no younger mark exists.
    pub(super) fn next_after(&self, age: Duration, now: LagTime) -> Option<Duration> {
        let next = self.marks.get(self.matured(age, now))?;
        Some(next.at.after(age).since(now))
    }

    /// How long ago the log right behind `position` was handled; nothing if it was not, or if it
    /// lies below the floor.
    pub(super) fn age_behind(&self, position: Position, now: LagTime) -> Option<Duration> {
        let index = self.marks.partition_point(|mark| mark.end <= position);
        self.marks.get(index).map(|mark| now.since(mark.at))
    }

    /// The log was cut: what lay behind `to` is gone.
    pub(super) fn cut(&mut self, to: Position) {
        let keep = self.marks.partition_point(|mark| mark.end < to);
        self.marks.truncate(keep + 1);
        if let Some(last) = self.marks.last_mut() {
            last.end = last.end.min(to);
        }
        self.floor = self.floor.min(to);
        let floor = self.floor;
        self.marks.retain(|mark| mark.end > floor);
    }

    /// Drops marks that nobody asks for any more: older than `age` and before `needed_from`. With
    /// much room in the list the resolution gets finer again.
    pub(super) fn settle(&mut self, age: Duration, needed_from: Position, now: LagTime) {
        let unneeded = self.marks.partition_point(|mark| mark.end <= needed_from);
        let count = self.matured(age, now).min(unneeded);
        if let Some(last) = count.checked_sub(1) {
            self.floor = self.marks[last].end;
            self.marks.drain(..count);
        }
        if self.marks.len() < MARKS_MAX / 4 && self.resolution_ms > RESOLUTION_MS {
            self.resolution_ms /= 2;
        }
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        put_position(out, self.floor);
        put_u64(out, self.resolution_ms);
        put_u64(out, self.marks.len() as u64);
        for mark in &self.marks {
            put_position(out, mark.end);
            put_u64(out, mark.at.0);
        }
    }

    pub(super) fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let floor = reader.position()?;
        let resolution_ms = reader.u64()?;
        let count = reader.u64()?;
        if count > MARKS_MAX as u64 || resolution_ms < RESOLUTION_MS {
            return Err(DecodeError::Malformed("list of marks"));
        }
        let mut found = Self { floor, resolution_ms, marks: Vec::new() };
        for _ in 0..count {
            let mark = Mark { end: reader.position()?, at: LagTime(reader.u64()?) };
            let rises = found.marks.last().is_none_or(|last: &Mark| last.at < mark.at);
            if mark.end <= found.end() || !rises {
                return Err(DecodeError::Malformed("order of marks"));
            }
            found.marks.push(mark);
        }
        Ok(found)
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.marks.len()
    }
}
