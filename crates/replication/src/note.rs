//! What a copy tells the cluster's list of events about damage.

use keelson_wire::{ids, v1};

use crate::context::PlaneContext;
use crate::shared::CopyShared;

/// Longest text of a note, in characters.
const TEXT_MAX: usize = 300;

/// What happened; its code is stable.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum NoteCode {
    /// Bytes of the log are wrong, or a file is lost.
    LogDamaged,
    /// They were fetched from another copy.
    LogMended,
    /// No other copy could help yet; it is tried again.
    LogNotMended,
    /// Bytes of the store are wrong, or a file is lost; it is made anew where that can be done.
    StoreDamaged,
    /// A file without content was damaged and is right again.
    StoreMended,
    /// A slot of the control file was damaged and is right again.
    ControlMended,
    /// The clock of a lag, or the list of copies, was damaged and is right again.
    SideFileMended,
    /// The content index was damaged; it is made anew.
    CatalogDamaged,
    /// The content differs from that of most copies; the store is made anew.
    DigestWrong,
    /// Contents differ and nobody knows which is right.
    DigestsDiffer,
}

impl NoteCode {
    pub(crate) const fn code(self) -> &'static str {
        match self {
            Self::LogDamaged => "log_damaged",
            Self::LogMended => "log_mended",
            Self::LogNotMended => "log_not_mended",
            Self::StoreDamaged => "store_damaged",
            Self::StoreMended => "store_mended",
            Self::ControlMended => "control_mended",
            Self::SideFileMended => "side_file_mended",
            Self::CatalogDamaged => "catalog_damaged",
            Self::DigestWrong => "digest_wrong",
            Self::DigestsDiffer => "digests_differ",
        }
    }
}

/// One note.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Note {
    code: NoteCode,
    text: String,
}

impl Note {
    pub(crate) fn new(code: NoteCode, text: impl AsRef<str>) -> Self {
        Self { code, text: text.as_ref().chars().take(TEXT_MAX).collect() }
    }

    /// Logs it and hands it to the control process.
    pub(crate) fn tell(self, context: &PlaneContext, shared: &CopyShared) {
        let (code, text) = (self.code.code(), self.text);
        tracing::warn!(database = %shared.name, code, text, "damage");
        let note = v1::CopyNote {
            database: ids::bytes(shared.database),
            copy: ids::bytes(shared.copy),
            code: code.into(),
            text,
        };
        context.report(0, v1::data_to_control::Message::Note(note));
    }
}
