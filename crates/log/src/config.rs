//! Settings of a log.

/// Settings of one log. They change nothing about the bytes of frames, only about the files.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LogConfig {
    /// Size up to which a file is filled with zeros ahead of its frames; the target size of
    /// generations. 1 MiB to 1 GiB, 16 MiB by default.
    pub generation_bytes: u64,
    /// Files of truncated generations that are kept to be written again: written blocks sync about
    /// twice as fast as growing ones. 2 by default.
    pub recycle_max: usize,
    /// How many zeros are written ahead when a file must grow for a small write, so that the
    /// following syncs find written blocks. 256 KiB by default; 0 switches it off. A young file
    /// gets fewer.
    pub zero_ahead_bytes: u64,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self { generation_bytes: 16 * 1024 * 1024, recycle_max: 2, zero_ahead_bytes: 256 * 1024 }
    }
}
