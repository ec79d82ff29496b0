//! Decides which call of a simulated disk fails, and draws the random numbers of its crashes.

/// A small generator (splitmix64): one seed gives one sequence, on every machine and for ever.
#[derive(Clone, Debug)]
pub struct SplitMix64(u64);

impl SplitMix64 {
    /// A generator from a seed.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`; zero if `bound` is zero.
    pub fn below(&mut self, bound: u64) -> u64 {
        if bound == 0 { 0 } else { self.next_u64() % bound }
    }

    /// True in `numerator` of `denominator` draws.
    pub fn chance(&mut self, numerator: u64, denominator: u64) -> bool {
        self.below(denominator) < numerator
    }
}

/// What becomes of a changing call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Effect {
    /// It is carried out.
    Proceed,
    /// The machine crashes in it: the cache takes it, the caller sees `Crashed`.
    CrashAfter,
    /// The machine has crashed before.
    Refuse,
}

/// Counters and orders to fail.
#[derive(Clone, Default, Debug)]
pub(crate) struct Faults {
    pub(crate) operations: u64,
    pub(crate) syncs: u64,
    pub(crate) crash_at: Option<u64>,
    pub(crate) crashed: bool,
    pub(crate) fail_sync_in: Option<u64>,
    pub(crate) fail_write_in: Option<u64>,
}

impl Faults {
    /// Counts a changing call. Only a write (`in_cache`) can take effect in the cache in a crash.
    pub(crate) fn next(&mut self, in_cache: bool) -> Effect {
        if self.crashed {
            return Effect::Refuse;
        }
        self.operations += 1;
        if self.crash_at != Some(self.operations) {
            return Effect::Proceed;
        }
        self.crashed = true;
        if in_cache { Effect::CrashAfter } else { Effect::Refuse }
    }

    /// Whether the sync that is about to happen is ordered to fail.
    pub(crate) fn sync_fails(&mut self) -> bool {
        due(&mut self.fail_sync_in)
    }

    /// Whether the write that is about to happen is ordered to fail.
    pub(crate) fn write_fails(&mut self) -> bool {
        due(&mut self.fail_write_in)
    }
}

fn due(countdown: &mut Option<u64>) -> bool {
    match countdown {
        Some(0 | 1) => {
            *countdown = None;
            true
        }
        Some(left) => {
            *left -= 1;
            false
        }
        None => false,
    }
}
