//! The content index of a copy: what is in its values, by word, field and range.
//!
//! A [`Catalog`] is a directory with a full-text index whose every commit carries the log end that
//! it reflects. It knows nothing of logs, copies or threads: whoever owns the copy gives it the
//! effects of the log in order, or every record of a snapshot, and says where that is.
//!
//! The only crate that names the full-text engine.
//!
//! Failure behaviour: nothing that is in the catalog exists only there. A directory that cannot be
//! read, or whose checksums are wrong, is [`CatalogError::Damaged`]: remove it and index anew.
//! After a crash the last commit stands; what came behind it is indexed again.

mod collect;
mod document;
mod error;
mod index;
mod query;
mod schema;
mod stamp;
mod stanza;
mod writer;

pub use document::Content;
pub use error::CatalogError;
pub use index::{Catalog, DocumentCount};
pub use query::{Fragment, Hit, Order, Query, QueryError, Results};
pub use stamp::Reflected;
pub use writer::CatalogWriter;
