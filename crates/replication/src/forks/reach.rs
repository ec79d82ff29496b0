//! Which instants a copy can show, and which frames belong to one.
//!
//! A copy shows what lies between its store and what is committed. Times are those that stand in
//! the frames: they never go back within a log, also where a clock was set back, so the frames of
//! an instant are a prefix of the log. A frame is one batch: an instant never parts it.

use keelson_format::{FrameInfo, Item};
use keelson_log::LogReader;
use keelson_types::{Instant, Position, RefusalReason};
use keelson_wire::Refusal;

use super::build::READ_BYTES;
use super::internal;

/// An instant that a copy can show.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Until {
    At(Position),
    /// Unix milliseconds.
    Time(u64),
    /// Whatever there is.
    Newest,
}

impl Until {
    /// Whether the frame belongs to the instant.
    pub(super) fn holds(self, frame: &FrameInfo) -> bool {
        self.holds_what_ends(frame.end().position, frame.header.time.unix_millis())
    }

    fn holds_what_ends(self, at: Position, unix_ms: u64) -> bool {
        match self {
            Self::At(position) => at <= position,
            Self::Time(time) => unix_ms <= time,
            Self::Newest => true,
        }
    }

    /// Whether a store that stood at `from` and has gone on to `now_at` shows the instant still.
    ///
    /// # Errors
    /// The log between the two cannot be read.
    pub(super) fn is_still_ahead(
        self,
        reader: &mut LogReader,
        (from, now_at): (Position, Position),
    ) -> Result<bool, Refusal> {
        match self {
            Self::At(position) => Ok(now_at <= position),
            Self::Newest => Ok(true),
            Self::Time(_) => Ok(frames(reader, from, now_at, |frame| self.holds(frame))?),
        }
    }
}

/// Shows the frames between two positions to `go_on`, until it says no; says whether it did not.
fn frames(
    reader: &mut LogReader,
    from: Position,
    to: Position,
    mut go_on: impl FnMut(&FrameInfo) -> bool,
) -> Result<bool, Refusal> {
    let mut at = from;
    while at < to {
        let chunks = reader.read(at, to, READ_BYTES).map_err(|error| internal(&error))?;
        let before = at;
        for item in chunks.iter().flat_map(keelson_format::Chunk::items) {
            let Item::Frame(frame) = item.map_err(|(_, error)| internal(&error))? else { continue };
            if frame.end().position <= at {
                continue;
            }
            at = frame.end().position;
            if !go_on(&frame) {
                return Ok(false);
            }
        }
        if at == before {
            break;
        }
    }
    Ok(true)
}

/// When the last frame before this position was written, if that is in its generation; nothing if
/// the log does not reach back so far.
pub(super) fn written_before(reader: &mut LogReader, position: Position) -> Option<u64> {
    if position.generation.0 == 0 {
        return None;
    }
    let (mut last, begin) = (None, Position { generation: position.generation, offset: 0 });
    let read = frames(reader, begin, position, |frame| {
        last = Some(frame.header.time.unix_millis());
        true
    });
    read.ok().and(last)
}

/// What a copy can show: from where its store stands to where its log ends, as far as that counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Reach {
    from: Position,
    to: Position,
    /// The store is as it was at this time, and until the next frame was written.
    since_unix_ms: u64,
    /// When the last frame of the log was written; ahead of the clock if that was set back.
    last_unix_ms: u64,
}

impl Reach {
    /// `last_unix_ms` is when the last frame of the log was written, which ends at `end`.
    pub(super) fn find(
        reader: &mut LogReader,
        (from, to): (Position, Position),
        end: Position,
        last_unix_ms: u64,
    ) -> Result<Self, Refusal> {
        let since_unix_ms = match written_before(reader, from) {
            Some(since) => since,
            None => {
                let mut first = None;
                frames(reader, from, end, |frame| {
                    first = Some(frame.header.time.unix_millis());
                    false
                })?;
                first.unwrap_or(last_unix_ms)
            }
        };
        Ok(Self { from, to, since_unix_ms, last_unix_ms })
    }

    /// The instant, if the copy can show it; ages count from `now_unix_ms`, and no age is what is
    /// newest, also if that was written by a clock that was ahead.
    ///
    /// # Errors
    /// `instant_out_of_reach` with the span that can be shown.
    pub(super) fn until(
        &self,
        at: Instant,
        now_unix_ms: u64,
        name: &str,
    ) -> Result<Until, Refusal> {
        let latest = now_unix_ms.max(self.last_unix_ms);
        let until = match at {
            Instant::At(position) => Until::At(position),
            Instant::Time(time) => Until::Time(time),
            Instant::Ago(0) => Until::Newest,
            Instant::Ago(age) => Until::Time(now_unix_ms.saturating_sub(age)),
        };
        let inside = match until {
            Until::At(position) => (self.from..=self.to).contains(&position),
            Until::Time(time) => (self.since_unix_ms..=latest).contains(&time),
            Until::Newest => true,
        };
        if inside {
            return Ok(until);
        }
        let (from, to) = (self.from, self.to);
        let since = std::time::UNIX_EPOCH + std::time::Duration::from_millis(self.since_unix_ms);
        let since = humantime::format_rfc3339_millis(since);
        let message = format!(
            "this copy of {name} can show positions {from} to {to}, and times from {since} to now"
        );
        Err(Refusal::new(RefusalReason::InstantOutOfReach, message))
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use keelson_env::SimDisk;
    use keelson_format::{Cursor, CursorState, FramingConfig};
    use keelson_log::{Log, LogConfig};
    use keelson_types::{Epoch, Record, StreamId};

    use super::*;

    /// A log with a frame of two records for each of these wall clocks; where each ends.
    fn log(clocks: &[u64]) -> (LogReader, Vec<Position>) {
        let (disk, stream) = (Arc::new(SimDisk::new()), StreamId::from_bytes([9; 16]));
        let config = LogConfig::default();
        let opened = Log::open(disk, Path::new("/log"), config, stream, Position::ZERO);
        let mut log = opened.unwrap().0;
        let mut cursor = Cursor::new(CursorState::empty(stream), FramingConfig::default());
        let (header, _) = cursor.begin_epoch(Epoch::new(0, 1), 1).unwrap();
        log.write(&[header]).unwrap();
        let mut ends = Vec::new();
        for clock in clocks {
            let put = |key: &'static str| Record::Put { key: key.into(), value: "v".into() };
            let batch = [put("a"), put("b")];
            let encoded = cursor.encode(&batch, *clock, Position::ZERO, Position::ZERO).unwrap();
            log.write(&encoded.chunks).unwrap();
            ends.push(cursor.end().position);
        }
        log.sync().unwrap();
        (log.reader(), ends)
    }

    /// Ends of the frames that belong to the instant, counted.
    fn kept(reader: &mut LogReader, until: Until, end: Position) -> usize {
        let mut count = 0;
        frames(reader, Position::ZERO, end, |frame| {
            count += usize::from(until.holds(frame));
            true
        })
        .unwrap();
        count
    }

    #[test]
    fn a_copy_shows_what_lies_between_its_store_and_what_is_committed() {
        let (from, to) = (Position::new(2, 100), Position::new(3, 50));
        let reach = Reach { from, to, since_unix_ms: 9_000, last_unix_ms: 9_500 };
        for (at, shown) in [
            (Instant::At(from), Some(Until::At(from))),
            (Instant::At(Position::new(2, 900)), Some(Until::At(Position::new(2, 900)))),
            (Instant::At(to), Some(Until::At(to))),
            (Instant::At(Position::new(2, 99)), None),
            (Instant::At(Position::new(3, 51)), None),
            (Instant::Time(9_000), Some(Until::Time(9_000))),
            (Instant::Time(8_999), None),
            (Instant::Time(10_000), Some(Until::Time(10_000))),
            (Instant::Time(10_001), None),
            (Instant::Ago(0), Some(Until::Newest)),
            (Instant::Ago(1_000), Some(Until::Time(9_000))),
            (Instant::Ago(1_001), None),
            (Instant::Ago(u64::MAX), None),
        ] {
            let checked = reach.until(at, 10_000, "DB1");
            assert_eq!(checked.as_ref().ok(), shown.as_ref(), "{at:?}: {checked:?}");
            if let Err(refusal) = checked {
                assert_eq!(refusal.reason, RefusalReason::InstantOutOfReach);
                assert!(refusal.message.contains("2:100 to 3:50"), "it names the span");
            }
        }
        // A clock that was ahead when the last frame was written, and was set back since.
        let ahead = Reach { last_unix_ms: 50_000, ..reach };
        assert_eq!(ahead.until(Instant::Time(50_000), 10_000, "").unwrap(), Until::Time(50_000));
        assert!(ahead.until(Instant::Time(50_001), 10_000, "").is_err());
    }

    /// Between two frames the copy is as the earlier one left it, also where the store stands
    /// there: the time of the next frame is not the beginning of what can be shown.
    #[test]
    fn a_store_shows_all_times_until_the_next_frame() {
        let (mut reader, ends) = log(&[1_000, 2_000, 5_000]);
        let end = ends[2];
        let reach = |reader: &mut LogReader, from| {
            Reach::find(reader, (from, end), end, 5_000).unwrap().since_unix_ms
        };
        assert_eq!(reach(&mut reader, ends[0]), 1_000);
        assert_eq!(reach(&mut reader, ends[1]), 2_000, "not only from 5,000 on");
        assert_eq!(reach(&mut reader, end), 5_000, "nothing lies behind");
        assert_eq!(reach(&mut reader, Position::ZERO), 1_000, "it was never replayed");
        for (time, frames) in [(999, 0), (1_000, 1), (1_999, 1), (2_000, 2), (4_999, 2), (5_000, 3)]
        {
            assert_eq!(kept(&mut reader, Until::Time(time), end), frames, "{time}");
        }
    }

    /// A frame is one batch: a position in its middle is the place before it.
    #[test]
    fn a_position_inside_a_batch_is_the_place_before_it() {
        let (mut reader, ends) = log(&[1_000, 2_000]);
        let before = |position: Position| Position { offset: position.offset - 1, ..position };
        for (at, frames) in [(ends[0], 1), (before(ends[1]), 1), (ends[1], 2)] {
            assert_eq!(kept(&mut reader, Until::At(at), ends[1]), frames, "{at}");
        }
    }

    /// Times in the log never go back: what was written while the clock was ahead, and after it was
    /// set back, belongs to no earlier time, and what is newest holds all of it.
    #[test]
    fn a_clock_that_jumps_parts_no_prefix() {
        let (mut reader, ends) = log(&[1_000, 90_000, 2_000, 3_000, 90_500]);
        let end = ends[4];
        for (until, frames) in [
            (Until::Time(1_000), 1),
            (Until::Time(3_000), 1),
            (Until::Time(89_999), 1),
            (Until::Time(90_000), 4),
            (Until::Time(90_500), 5),
            (Until::Newest, 5),
        ] {
            assert_eq!(kept(&mut reader, until, end), frames, "{until:?}");
        }
    }

    /// Replay goes on while a fork waits for its turn: a store that has passed the instant does not
    /// show it, whether it was named by position or by time.
    #[test]
    fn a_store_that_has_passed_the_instant_does_not_show_it() {
        let (mut reader, ends) = log(&[1_000, 2_000, 3_000]);
        for (until, now_at, shown) in [
            (Until::At(ends[1]), ends[1], true),
            (Until::At(ends[1]), ends[2], false),
            (Until::Time(2_500), ends[0], true),
            (Until::Time(2_500), ends[1], true),
            (Until::Time(2_500), ends[2], false),
            (Until::Newest, ends[2], true),
        ] {
            let ahead = until.is_still_ahead(&mut reader, (ends[0], now_at)).unwrap();
            assert_eq!(ahead, shown, "{until:?} at {now_at}");
        }
    }
}
