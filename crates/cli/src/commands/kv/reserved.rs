//! Keys that the tools keep for themselves: everything below one prefix that begins with a zero
//! byte.
//!
//! `import` keeps its progress there while it runs and removes it when it ends; `scan` and `export`
//! leave these keys out.

/// The prefix of the tools' own keys.
pub(super) const PREFIX: &[u8] = b"\x00keelson/";

/// Whether a key belongs to the tools.
pub(super) fn is_reserved(key: &[u8]) -> bool {
    key.starts_with(PREFIX)
}

/// Whether some of these keys may lie in `from..to`; an empty `to` means to the end.
pub(super) fn is_within(from: &[u8], to: &[u8]) -> bool {
    (to.is_empty() || to > PREFIX) && (from <= PREFIX || is_reserved(from))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_with_keys_of_the_tools_are_told_from_others() {
        for (from, to) in
            [(&b""[..], &b""[..]), (b"", b"\x01"), (b"\x00keelson/x", b""), (b"", b"\x00keelson/a")]
        {
            assert!(is_within(from, to), "{from:?}..{to:?}");
        }
        for (from, to) in [(&b"a"[..], &b""[..]), (b"\x00l", b"b"), (b"", PREFIX), (b"", b"\x00a")]
        {
            assert!(!is_within(from, to), "{from:?}..{to:?}");
        }
    }
}
