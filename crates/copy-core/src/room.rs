//! Whether the volumes of a member have room for what its copies want to do (G7).
//!
//! The last bytes of each volume are a reserve for recovery: seals, headers, epochs, cuts, and the
//! replay of what is committed. Nothing else may go into it. An active that finds one of its
//! volumes short takes no writes; a passive without room for log takes none, one without room for
//! its store does not replay. All of them go on when there is room again, and somewhat more, so
//! that nobody goes back and forth at the border.

use std::fmt;

/// Free bytes that are kept for recovery, per volume.
pub const RESERVE_BYTES: u64 = 64 * 1024 * 1024;
/// Free bytes beyond the reserve at which a shortage is over.
pub const RETURN_BYTES: u64 = 8 * 1024 * 1024;

/// Which volumes of a member are short of space.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Shortage {
    /// The volume of the logs.
    pub log: bool,
    /// The volume of the stores.
    pub store: bool,
}

impl Shortage {
    /// The shortage that follows this one, by the free bytes of each volume; a volume that does not
    /// answer counts as short.
    #[must_use]
    pub fn after(self, log_free: Option<u64>, store_free: Option<u64>) -> Self {
        Self { log: short(self.log, log_free), store: short(self.store, store_free) }
    }

    /// Whether an active takes writes: they go into the log now and into the store later.
    #[must_use]
    pub const fn takes_writes(self) -> bool {
        !self.log && !self.store
    }

    /// Whether log is taken, or a generation begun, for no activation.
    #[must_use]
    pub const fn takes_log(self) -> bool {
        !self.log
    }

    /// Whether a copy replays. An active always does: it took the writes when there was room, and
    /// the reserve is for them.
    #[must_use]
    pub const fn replays(self, active: bool) -> bool {
        active || !self.store
    }
}

const fn short(before: bool, free: Option<u64>) -> bool {
    let wanted = if before { RESERVE_BYTES + RETURN_BYTES } else { RESERVE_BYTES };
    match free {
        Some(free) => free < wanted,
        None => true,
    }
}

impl fmt::Display for Shortage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match (self.log, self.store) {
            (false, false) => "",
            (true, false) => "the log volume is full",
            (false, true) => "the store volume is full",
            (true, true) => "the volumes of logs and stores are full",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: Shortage = Shortage { log: false, store: false };
    const LOG: Shortage = Shortage { log: true, store: false };
    const STORE: Shortage = Shortage { log: false, store: true };

    #[test]
    fn a_volume_is_short_below_its_reserve_and_until_there_is_somewhat_more() {
        let (reserve, plenty) = (Some(RESERVE_BYTES), Some(RESERVE_BYTES + RETURN_BYTES));
        let cases = [
            (NONE, reserve, reserve, NONE),
            (NONE, Some(RESERVE_BYTES - 1), reserve, LOG),
            (NONE, reserve, Some(0), STORE),
            (NONE, None, plenty, LOG),
            (LOG, reserve, reserve, LOG),
            (LOG, plenty, reserve, NONE),
            (STORE, plenty, reserve, STORE),
            (STORE, reserve, plenty, NONE),
        ];
        for (before, log, store, after) in cases {
            assert_eq!(before.after(log, store), after, "{before:?}, {log:?}, {store:?}");
        }
    }

    /// G7: an active refuses writes for want of either volume; a passive goes on with what it has
    /// room for.
    #[test]
    fn each_volume_stops_what_goes_into_it() {
        let allows =
            |s: Shortage| [s.takes_writes(), s.takes_log(), s.replays(false), s.replays(true)];
        assert_eq!(allows(NONE), [true; 4]);
        assert_eq!(allows(LOG), [false, false, true, true]);
        assert_eq!(allows(STORE), [false, true, false, true]);
        assert_eq!(allows(Shortage { log: true, store: true }), [false, false, false, true]);
    }
}
