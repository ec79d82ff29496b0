//! Keys that the tools keep for themselves: everything below one prefix that begins with a zero
//! byte.
//!
//! `import` keeps its progress there while it runs and removes it when it ends; `scan` and `export`
//! leave these keys out.

/// The prefix of the tools' own keys.
pub(super) const PREFIX: &[u8] = b"\x00keelson/";

/// More keys than the tools ever keep in one database at a time, for limits that must not count
/// them.
pub(super) const KEYS_MAX: u64 = 64;

/// Whether a key belongs to the tools.
pub(super) fn is_reserved(key: &[u8]) -> bool {
    key.starts_with(PREFIX)
}
