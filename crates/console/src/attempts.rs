//! How often somebody may try to log in.
//!
//! A token cannot be guessed; the limit keeps whoever tries from costing anything. Failed tries of
//! one address are counted, and those of all, so that the memory of it is bounded, in windows of a
//! minute; a success takes nothing away.

use std::collections::BTreeMap;
use std::net::IpAddr;

/// Length of a window, in milliseconds.
const WINDOW_MS: u64 = 60_000;

/// Failed tries of one address in a window.
const PER_ADDRESS: u32 = 10;

/// Failed tries of all addresses in a window.
const IN_ALL: u32 = 4096;

/// The failed tries of the present window.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Attempts {
    window: u64,
    all: u32,
    of: BTreeMap<IpAddr, u32>,
}

impl Attempts {
    /// Whether `address` may try now.
    ///
    /// # Errors
    /// In how many seconds it may.
    pub fn may_try(&mut self, address: IpAddr, now_ms: u64) -> Result<(), u64> {
        self.turn(now_ms);
        let tried = self.of.get(&site(address)).copied().unwrap_or(0);
        if tried < PER_ADDRESS && self.all < IN_ALL {
            return Ok(());
        }
        Err((WINDOW_MS - now_ms % WINDOW_MS).div_ceil(1000))
    }

    /// A try of `address` failed.
    pub fn failed(&mut self, address: IpAddr, now_ms: u64) {
        self.turn(now_ms);
        self.all = self.all.saturating_add(1);
        // At most as many addresses as tries are let through.
        *self.of.entry(site(address)).or_default() += 1;
    }

    fn turn(&mut self, now_ms: u64) {
        let window = now_ms / WINDOW_MS;
        if window != self.window {
            *self = Self { window, ..Self::default() };
        }
    }
}

/// Who counts as one: an address, or the network of 64 bits that one host of the newer protocol
/// has.
fn site(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(long) => IpAddr::V6((long.to_bits() >> 64 << 64).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u8) -> IpAddr {
        [10, 0, 0, last].into()
    }

    #[test]
    fn one_address_that_fails_too_often_waits_and_others_do_not() {
        let mut attempts = Attempts::default();
        for _ in 0..PER_ADDRESS {
            assert_eq!(attempts.may_try(address(1), 90_000), Ok(()));
            attempts.failed(address(1), 90_000);
        }
        assert_eq!(attempts.may_try(address(1), 90_001), Err(30));
        assert_eq!(attempts.may_try(address(2), 90_001), Ok(()));
        assert_eq!(attempts.may_try(address(1), 120_000), Ok(()));
    }

    #[test]
    fn all_addresses_together_are_bounded() {
        let mut attempts = Attempts::default();
        for number in 0..IN_ALL {
            attempts.failed(address(u8::try_from(number % 100).unwrap()), 1);
        }
        assert!(attempts.may_try(address(200), 2).is_err());
        assert!(attempts.of.len() <= 100);
    }
}
