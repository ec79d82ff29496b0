//! Searches: the content index of this copy, then what the store holds of the matches.
//!
//! The answer says which log end it reflects. An answer of the active copy leaves only while its
//! gate is open; it may lack what was written a moment ago, unless `current` is asked for.

use bytes::Bytes;
use keelson_catalog::{Catalog, CatalogError, Hit, Order, Query, QueryError, Results};
use keelson_env::{KvStore, StoreError};
use keelson_types::{Position, RefusalReason, Watermarks};
use keelson_wire::{CommitToken, Refusal, v1};

use crate::catalog::Searchable;
use crate::context::CopyHandle;
use crate::kv::read::{open_store, within};
use crate::kv::{KvService, refuse_unless_still_serving};

/// Bytes of values in one answer; matches behind them come without.
const VALUES_BYTES_MAX: usize = 8 * 1024 * 1024;

impl KvService {
    pub(super) async fn search_index(
        &self,
        request: &v1::SearchRequest,
    ) -> Result<v1::SearchResponse, Refusal> {
        let copy = self.copy(&request.database)?;
        copy.shared.catalog.for_search(&copy.shared.name)?;
        let serving = self.wait_readable(&copy, request.options.as_ref()).await?;
        self.wait_indexed(&copy, request).await?;
        let (catalog, searchable) = copy.shared.catalog.for_search(&copy.shared.name)?;
        let store = open_store(&copy).await?;
        let replayed = copy.shared.replayed.load();
        let query = query_of(request);
        let asked = (request.values, request.fragments);
        let answer = self
            .on_reader(Some(&copy), move || {
                Ok(answer(&catalog, &*store, &query, &searchable, asked))
            })
            .await?;
        let (mut response, generation_bytes) = answer.map_err(|error| self.failed(&copy, error))?;
        let reflects = response.reflects.and_then(|end| end.position).map(Position::from);
        let reflects = reflects.unwrap_or_default();
        response.backlog_bytes = Watermarks::distance_bytes(reflects, replayed, generation_bytes);
        if let Some(epoch) = serving {
            refuse_unless_still_serving(&copy, epoch)?;
        }
        Ok(response)
    }

    /// Waits until the index reflects what the request asks for.
    async fn wait_indexed(
        &self,
        copy: &CopyHandle,
        request: &v1::SearchRequest,
    ) -> Result<(), Refusal> {
        let options = request.options.clone().unwrap_or_default();
        let token = (options.consistency() == v1::ReadConsistency::AtLeastToken)
            .then(|| CommitToken::decode(&options.at_least_token).ok())
            .flatten();
        let wanted = token.map(|token| token.end.position);
        let wanted = match request.current {
            true => Some(copy.shared.replayed.load()).max(wanted),
            false => wanted,
        };
        let Some(wanted) = wanted else { return Ok(()) };
        if copy.shared.catalog.reflected() < wanted {
            self.context.catalogs.look(copy.shared.database, std::time::Duration::ZERO);
        }
        within(copy.shared.wait_until(|shared| shared.catalog.reflected() >= wanted)).await
    }

    fn failed(&self, copy: &CopyHandle, error: QueryError) -> Refusal {
        let error = match error {
            QueryError::Question(why) => return Refusal::new(RefusalReason::BadArgument, why),
            QueryError::Catalog(error) => error,
        };
        if let CatalogError::Damaged(why) = &error {
            copy.shared.catalog.damaged(why);
            self.context.catalogs.look(copy.shared.database, std::time::Duration::ZERO);
        }
        Refusal::new(RefusalReason::ContentIndexNotReady, error.to_string())
    }
}

fn query_of(request: &v1::SearchRequest) -> Query {
    Query {
        text: request.query.clone(),
        prefix: request.prefix.to_vec(),
        limit: request.limit as usize,
        order: match request.order() {
            v1::SearchOrder::Key => Order::Key,
            v1::SearchOrder::Unspecified | v1::SearchOrder::Relevance => Order::Relevance,
        },
    }
}

/// Blocking: the matches, with values and fragments if they are asked for; and the size of the
/// database's generations, for the backlog.
fn answer(
    catalog: &Catalog,
    store: &dyn KvStore,
    query: &Query,
    searchable: &Searchable,
    (values, fragments): (bool, bool),
) -> Result<(v1::SearchResponse, u64), QueryError> {
    let Results { hits, total } = catalog.search(query)?;
    let mut left = VALUES_BYTES_MAX;
    let mut found = Vec::with_capacity(hits.len());
    for hit in hits {
        let value = match values || fragments {
            true => store.get(&hit.key).map_err(|error| failed(&error))?,
            false => None,
        };
        let shown = match &value {
            Some(value) if fragments => {
                catalog.fragments(&query.text, value, &searchable.fields)?
            }
            _ => Vec::new(),
        };
        let value = value.filter(|value| values && value.len() <= left);
        left -= value.as_ref().map_or(0, Bytes::len);
        found.push(hit_message(hit, value, shown));
    }
    let reflects = Some(searchable.reflects.into());
    let response = v1::SearchResponse { hits: found, total, reflects, backlog_bytes: 0 };
    Ok((response, searchable.generation_bytes))
}

fn failed(error: &StoreError) -> QueryError {
    QueryError::Catalog(CatalogError::Failed(error.to_string()))
}

fn hit_message(
    hit: Hit,
    value: Option<Bytes>,
    fragments: Vec<keelson_catalog::Fragment>,
) -> v1::SearchHit {
    let fragments = fragments.into_iter().map(|fragment| v1::SearchFragment {
        field: fragment.field,
        text: fragment.text,
        matches: fragment
            .matches
            .iter()
            .flat_map(|range| [range.start, range.end])
            .map(|at| u32::try_from(at).unwrap_or(u32::MAX))
            .collect(),
    });
    v1::SearchHit { key: hit.key.into(), score: hit.score, value, fragments: fragments.collect() }
}
