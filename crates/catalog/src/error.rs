//! What can go wrong with a catalog.

use std::io::ErrorKind;
use std::panic::{AssertUnwindSafe, catch_unwind};

use tantivy::TantivyError;
use tantivy::directory::error::{OpenDirectoryError, OpenReadError};

/// Why a catalog cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    /// Its files are wrong. It is removed and made anew; nothing is lost by that.
    #[error("the catalog is damaged: {0}")]
    Damaged(String),
    /// The volume is full. What was committed stands.
    #[error("the volume of the catalog is full")]
    NoSpace,
    /// The file system or the engine failed; nothing is known to be wrong with the files.
    #[error("the catalog failed: {0}")]
    Failed(String),
}

impl CatalogError {
    pub(crate) fn of_io(error: &std::io::Error) -> Self {
        match error.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => Self::NoSpace,
            // So the engine calls bytes that make no sense.
            ErrorKind::InvalidData | ErrorKind::UnexpectedEof => Self::Damaged(error.to_string()),
            _ => Self::Failed(error.to_string()),
        }
    }
}

impl From<TantivyError> for CatalogError {
    fn from(error: TantivyError) -> Self {
        match &error {
            TantivyError::IoError(io)
            | TantivyError::OpenReadError(OpenReadError::IoError { io_error: io, .. }) => {
                Self::of_io(io)
            }
            TantivyError::DataCorruption(_)
            | TantivyError::IncompatibleIndex(_)
            | TantivyError::OpenReadError(
                OpenReadError::FileDoesNotExist(_) | OpenReadError::IncompatibleIndex(_),
            )
            | TantivyError::OpenDirectoryError(
                OpenDirectoryError::DoesNotExist(_) | OpenDirectoryError::NotADirectory(_),
            ) => Self::Damaged(error.to_string()),
            _ => Self::Failed(error.to_string()),
        }
    }
}

/// Runs work of the engine on files that may hold anything: it panics on some of what rot makes of
/// them, and such files are damaged.
pub(crate) fn guarded<T, E: From<CatalogError>>(
    what: &str,
    work: impl FnOnce() -> Result<T, E>,
) -> Result<T, E> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or_default();
        Err(CatalogError::Damaged(format!("{what}: the engine gave up: {text}")).into())
    })
}
