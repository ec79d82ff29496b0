//! Why bytes do not decode.

/// Why bytes do not decode. None of these is a panic, whatever the bytes are.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum FormatError {
    /// The bytes end before the thing they describe.
    #[error("the bytes end too early")]
    Short,
    /// The first bytes are not those of the thing that is expected here.
    #[error("the magic number is missing")]
    Magic,
    /// The checksum of a header, or of a control slot, does not match.
    #[error("the header checksum does not match")]
    HeaderChecksum,
    /// The checksum of a frame's payload does not match.
    #[error("the payload checksum does not match")]
    PayloadChecksum,
    /// A checksum matches and yet the content has no meaning.
    #[error("malformed: {0}")]
    Malformed(&'static str),
    /// A record of a type that this version does not know.
    #[error("a record needs version {0}")]
    NeedsVersion(u32),
    /// A file, frame or slot of a newer format.
    #[error("the format has version {0}, newer than this program knows")]
    NewerFormat(u32),
}

impl FormatError {
    /// Stable code for status, dumps and errors.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::Short => "short",
            Self::Magic => "no_magic",
            Self::HeaderChecksum => "header_checksum",
            Self::PayloadChecksum => "payload_checksum",
            Self::Malformed(_) => "malformed",
            Self::NeedsVersion(_) => "needs_version",
            Self::NewerFormat(_) => "newer_format",
        }
    }
}
