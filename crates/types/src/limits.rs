//! Bounds of what a client may send, the unit of every log threshold, and when to warn.

/// Longest key: 64 KiB.
pub const KEY_BYTES_MAX: usize = 64 * 1024;

/// Longest value: 8 MiB.
pub const VALUE_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Largest atomic write (keys and values together): 16 MiB. It becomes one frame.
pub const BATCH_BYTES_MAX: usize = 16 * 1024 * 1024;

/// One "log" in every threshold and queue is 1 MiB of log, whatever the size of the files (review
/// S12).
pub const LOG_UNIT_BYTES: u64 = 1024 * 1024;

/// Longest comment of a suspend, as in the model system (F47).
pub const SUSPEND_COMMENT_CHARS_MAX: usize = 512;

/// A certificate with fewer days left is worth a warning; the alerts in `deploy` say the same.
pub const CERTIFICATE_WARNING_DAYS: u64 = 14;
