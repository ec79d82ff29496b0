//! Brings a catalog up to date: effects in order, then a commit that says up to where.
//!
//! Everything of one commit is seen at once or, after a crash, not at all.

use std::ops::Bound;

use keelson_types::LogEnd;
use tantivy::merge_policy::LogMergePolicy;
use tantivy::query::RangeQuery;
use tantivy::schema::OwnedValue;
use tantivy::{IndexWriter, TantivyDocument, Term};

use crate::document::Content;
use crate::error::CatalogError;
use crate::index::Catalog;
use crate::schema::Fields;
use crate::stamp::Reflected;

/// Memory of one writer, in bytes; the engine takes no less.
const MEMORY_BYTES: usize = 20_000_000;

/// See the module page. Dropping it without a commit forgets what came since the last one.
pub struct CatalogWriter {
    writer: IndexWriter,
    fields: Fields,
    only: Vec<String>,
}

impl std::fmt::Debug for CatalogWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CatalogWriter").field("only", &self.only).finish_non_exhaustive()
    }
}

impl CatalogWriter {
    pub(crate) fn open(catalog: &Catalog, only: Vec<String>) -> Result<Self, CatalogError> {
        let writer: IndexWriter = catalog.index.writer_with_num_threads(1, MEMORY_BYTES)?;
        writer.set_merge_policy(Box::new(LogMergePolicy::default()));
        Ok(Self { writer, fields: catalog.fields, only })
    }

    /// A record came or was changed.
    ///
    /// # Errors
    /// The engine failed earlier; what it was given since the last commit is lost.
    pub fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), CatalogError> {
        self.delete(key);
        let content = Content::read(value).only(&self.only);
        let mut document = TantivyDocument::new();
        document.add_bytes(self.fields.key, key);
        for (_, text) in content.texts() {
            document.add_text(self.fields.text, text);
        }
        let fields = content.into_fields().into_iter();
        let fields = fields.map(|(name, value)| (name, OwnedValue::from(value))).collect();
        document.add_object(self.fields.fields, fields);
        self.writer.add_document(document)?;
        Ok(())
    }

    /// A record went.
    pub fn delete(&mut self, key: &[u8]) {
        self.writer.delete_term(Term::from_field_bytes(self.fields.key, key));
    }

    /// All records from `from` up to and without `to` went; an empty `to` means to the end.
    ///
    /// # Errors
    /// As for [`Self::put`].
    pub fn delete_range(&mut self, from: &[u8], to: &[u8]) -> Result<(), CatalogError> {
        let term = |key| Term::from_field_bytes(self.fields.key, key);
        let upper = if to.is_empty() { Bound::Unbounded } else { Bound::Excluded(term(to)) };
        let range = RangeQuery::new(Bound::Included(term(from)), upper);
        self.writer.delete_query(Box::new(range))?;
        Ok(())
    }

    /// Makes everything durable (files and directory synced), as what reflects the log up to `end`.
    ///
    /// # Errors
    /// [`CatalogError::NoSpace`] and others; then the last commit stands and this writer is to be
    /// dropped.
    pub fn commit(&mut self, end: LogEnd) -> Result<(), CatalogError> {
        let stamp = Reflected { end, fields: self.only.clone() };
        let mut prepared = self.writer.prepare_commit()?;
        prepared.set_payload(&stamp.encode());
        prepared.commit()?;
        Ok(())
    }

    /// Ends the writer after the merges that it began.
    ///
    /// # Errors
    /// A merge failed; what was committed stands.
    pub fn close(self) -> Result<(), CatalogError> {
        Ok(self.writer.wait_merging_threads()?)
    }
}
