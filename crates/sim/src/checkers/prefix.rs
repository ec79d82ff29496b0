//! Every copy replays a prefix of one and the same log. What a receipt names is another one.

use std::collections::BTreeMap;

use keelson_types::{LogEnd, Position};

use super::{GivenUp, Verdict, Violation};

/// The frames replayed anywhere so far: end and chain value.
#[derive(Default, Debug)]
pub struct Prefixes {
    frames: BTreeMap<usize, BTreeMap<Position, (LogEnd, u32)>>,
}

impl Prefixes {
    /// A copy replays the frame that begins at `start`.
    ///
    /// # Errors
    /// Another copy replayed another frame there.
    pub fn check(
        &mut self,
        database: usize,
        start: Position,
        frame: (LogEnd, u32),
        given_up: &GivenUp,
        who: &str,
    ) -> Verdict {
        let frames = self.frames.entry(database).or_default();
        if given_up.covers(database, frame.0) {
            return Ok(());
        }
        if frames.get(&start).is_some_and(|(end, _)| given_up.covers(database, *end)) {
            frames.remove(&start);
        }
        let first = *frames.entry(start).or_insert(frame);
        if first == frame {
            return Ok(());
        }
        let what = format!(
            "{who} replays at {start} of db{database} a frame to {} (chain {:08x}), another copy \
             replayed one to {} (chain {:08x})",
            frame.0, frame.1, first.0, first.1
        );
        Err(Violation::new("prefix", what))
    }
}
