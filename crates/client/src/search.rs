//! Searches in the content index of a database, at its active copy or at a member's.

use bytes::Bytes;
use keelson_wire::v1;

use crate::call::{self, Retry};
use crate::database::timed;
use crate::error::Failure;
use crate::salvage::data_address;
use crate::{ClientError, Database, Read};

/// What to search for.
#[derive(Clone, Debug, Default)]
pub struct Search {
    /// Words, `"phrases"`, `field:word`, `field:[from TO to]`, `AND`, `OR`, `NOT`, parentheses;
    /// `*` is everything.
    pub query: String,
    /// Only keys with this prefix.
    pub prefix: Bytes,
    /// 1 to 1,000 matches.
    pub limit: u32,
    /// By key instead of the best first.
    pub by_key: bool,
    /// Wait until everything is indexed that the copy replayed before.
    pub current: bool,
    /// Return the values.
    pub values: bool,
    /// Return pieces that show what matched.
    pub fragments: bool,
    /// What the copy must have replayed, and for a token indexed.
    pub read: Read,
}

impl Database {
    /// Searches at the active copy.
    ///
    /// # Errors
    /// `bad_argument` for a question that cannot be read; `no_content_index`;
    /// `content_index_not_ready` after all retries; otherwise as [`Self::get`].
    pub async fn search(&self, search: &Search) -> Result<v1::SearchResponse, ClientError> {
        let answer = call::call(self.shared(), self.name(), Retry::Read, |mut kv, limit| {
            let message = self.search_message(search);
            async move { kv.search(timed(message, limit)).await }
        });
        Ok(answer.await?)
    }

    /// Searches at the copy of this member, active or passive.
    ///
    /// # Errors
    /// `unknown_member`; `not_active` if it holds no copy; otherwise as [`Self::search`], without
    /// retries.
    pub async fn search_at(
        &self,
        member: &str,
        search: &Search,
    ) -> Result<v1::SearchResponse, ClientError> {
        let address = data_address(self.shared(), member).await?;
        let limit = self.shared().options.deadline;
        let mut kv = self.shared().pool.kv(&address);
        let answer = kv.search(timed(self.search_message(search), limit)).await;
        let answer = answer.map_err(|status| Failure::of(&status, &address).error)?;
        Ok(answer.into_inner())
    }

    fn search_message(&self, search: &Search) -> v1::SearchRequest {
        v1::SearchRequest {
            database: self.name().to_owned(),
            query: search.query.clone(),
            prefix: search.prefix.clone(),
            limit: search.limit,
            order: match search.by_key {
                true => v1::SearchOrder::Key.into(),
                false => v1::SearchOrder::Relevance.into(),
            },
            options: Some(search.read.options()),
            current: search.current,
            values: search.values,
            fragments: search.fragments,
        }
    }
}
