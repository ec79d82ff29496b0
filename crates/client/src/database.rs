//! Reading and writing one database.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use keelson_wire::v1;
use tokio::sync::OnceCell;
use tonic::Request;

use crate::call::{self, Retry};
use crate::client::Shared;
use crate::error::Failure;
use crate::salvage::data_address;
use crate::session::Session;
use crate::{ClientError, ScanOptions, ScanStream, WatchStream, WriteBatch, limits, scan, watch};

/// An acknowledged write: it is committed under the database's commit rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// Commit token: opaque; for reads elsewhere, for watches and for [`Database::durability`].
    pub token: Bytes,
    /// A retry met its original; nothing was applied a second time.
    pub repeated: bool,
}

impl From<v1::WriteResponse> for Written {
    fn from(answer: v1::WriteResponse) -> Self {
        Self { token: answer.token, repeated: answer.repeated }
    }
}

/// What a read must have seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Read {
    /// Everything acknowledged before the read (linearizable).
    #[default]
    Latest,
    /// At least the write behind this commit token.
    AtLeast(Bytes),
    /// Whatever the copy that answers has replayed.
    Any,
}

impl Read {
    pub(crate) fn options(&self) -> v1::ReadOptions {
        use v1::ReadConsistency as C;
        let (consistency, token) = match self {
            Self::Latest => (C::Active, Bytes::new()),
            Self::AtLeast(token) => (C::AtLeastToken, token.clone()),
            Self::Any => (C::Any, Bytes::new()),
        };
        v1::ReadOptions { consistency: consistency.into(), at_least_token: token }
    }
}

/// A handle for one database; cheap to clone.
#[derive(Clone)]
pub struct Database {
    shared: Arc<Shared>,
    name: Arc<str>,
    /// The session of conditional writes, opened with the first of them.
    conditional: Arc<OnceCell<Session>>,
}

impl Database {
    pub(crate) fn new(shared: Arc<Shared>, name: String) -> Self {
        Self { shared, name: name.into(), conditional: Arc::default() }
    }

    /// The name of the database.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The value of `key`, or `None`. Linearizable.
    ///
    /// # Errors
    /// A refusal, or the last reason after all retries.
    pub async fn get(&self, key: impl Into<Bytes>) -> Result<Option<Bytes>, ClientError> {
        self.get_with(key, Read::Latest).await
    }

    /// The value of `key` as far as `read` asks for.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub async fn get_with(
        &self,
        key: impl Into<Bytes>,
        read: Read,
    ) -> Result<Option<Bytes>, ClientError> {
        let (key, read) = (key.into(), &read);
        limits::key(&key)?;
        let answer = call::call(&self.shared, &self.name, Retry::Read, |mut kv, limit| {
            let key = key.clone();
            async move {
                let database = self.name.to_string();
                let options = Some(read.options());
                let message = v1::GetRequest { database, key, options };
                kv.get(timed(message, limit)).await
            }
        })
        .await?;
        Ok(answer.found.then_some(answer.value))
    }

    /// The value of `key` at the copy of this member, active or passive.
    ///
    /// # Errors
    /// `unknown_member`; `not_active` if it holds no copy; otherwise as [`Self::get`], without
    /// retries.
    pub async fn get_at(
        &self,
        member: &str,
        key: impl Into<Bytes>,
        read: &Read,
    ) -> Result<Option<Bytes>, ClientError> {
        let key = key.into();
        limits::key(&key)?;
        let address = data_address(&self.shared, member).await?;
        let limit = self.shared.options.deadline;
        let options = Some(read.options());
        let message = v1::GetRequest { database: self.name.to_string(), key, options };
        let answer = self.shared.pool.kv(&address).get(timed(message, limit)).await;
        let answer = answer.map_err(|status| Failure::of(&status, &address).error)?.into_inner();
        Ok(answer.found.then_some(answer.value))
    }

    /// Writes `value` under `key`. A retry after a broken connection may apply it twice; use
    /// [`Self::session`] where that matters.
    ///
    /// # Errors
    /// A refusal, or `outcome_unknown` if it may have been applied.
    pub async fn put(
        &self,
        key: impl Into<Bytes>,
        value: impl Into<Bytes>,
    ) -> Result<Written, ClientError> {
        Ok(self.put_stamped(key.into(), value.into(), None).await?)
    }

    /// Removes `key`; no error if it does not exist. Retries as [`Self::put`].
    ///
    /// # Errors
    /// As [`Self::put`].
    pub async fn delete(&self, key: impl Into<Bytes>) -> Result<Written, ClientError> {
        Ok(self.delete_stamped(key.into(), None).await?)
    }

    /// Removes the keys in `from..to`; an empty `to` means to the end. Retries as [`Self::put`].
    ///
    /// # Errors
    /// As [`Self::put`].
    pub async fn delete_range(
        &self,
        from: impl Into<Bytes>,
        to: impl Into<Bytes>,
    ) -> Result<Written, ClientError> {
        Ok(self.delete_range_stamped(from.into(), to.into(), None).await?)
    }

    /// Applies a batch in one piece, or nothing of it. With conditions it goes through a session of
    /// this handle and its clones, because a retry would find its own effect; without, it retries
    /// as [`Self::put`].
    ///
    /// # Errors
    /// `condition_failed` if a condition did not hold; otherwise as [`Self::put`].
    pub async fn write(&self, batch: WriteBatch) -> Result<Written, ClientError> {
        if batch.conditions.is_empty() {
            return Ok(self.write_stamped(&batch, None).await?);
        }
        // Before a session is opened for nothing.
        limits::batch(&batch)?;
        // The session has a handle without a session, so that neither keeps the other alive.
        let bare = Self { conditional: Arc::default(), ..self.clone() };
        let session = self.conditional.get_or_try_init(|| Session::open(bare)).await?;
        session.write(batch).await
    }

    /// Opens a session: writes through it apply exactly once however often they are retried.
    ///
    /// # Errors
    /// As [`Self::put`].
    pub async fn session(&self) -> Result<Session, ClientError> {
        Session::open(self.clone()).await
    }

    /// The items that `options` asks for, in ascending order of keys, from one snapshot.
    ///
    /// # Errors
    /// A refusal at the start; failures in the middle come out of the stream.
    pub async fn scan(&self, options: ScanOptions) -> Result<ScanStream, ClientError> {
        scan::start(self, options).await
    }

    /// Committed changes from the write behind `from` (a commit token or the cursor of an earlier
    /// event; empty: from now on), restricted to keys with `prefix`. The stream follows the
    /// database over moves and ends only with an error.
    #[must_use]
    pub fn watch(&self, from: impl Into<Bytes>, prefix: impl Into<Bytes>) -> WatchStream {
        watch::start(self.clone(), from.into(), prefix.into())
    }

    /// What became of the write behind a commit token: on which copies it is durable and replayed.
    ///
    /// # Errors
    /// `bad_argument` for a malformed token; otherwise as [`Self::get`].
    pub async fn durability(
        &self,
        token: impl Into<Bytes>,
    ) -> Result<v1::DurabilityResponse, ClientError> {
        let token = token.into();
        let answer = call::call(&self.shared, &self.name, Retry::Read, |mut kv, limit| {
            let (database, token) = (self.name.to_string(), token.clone());
            let message = v1::DurabilityRequest { database, token };
            async move { kv.durability(timed(message, limit)).await }
        });
        Ok(answer.await?)
    }

    pub(crate) fn shared(&self) -> &Shared {
        &self.shared
    }

    pub(crate) async fn open_session(&self, session: Bytes) -> Result<(), ClientError> {
        call::call(&self.shared, &self.name, Retry::Write, |mut kv, limit| {
            let (database, session) = (self.name.to_string(), session.clone());
            async move {
                kv.open_session(timed(v1::OpenSessionRequest { database, session }, limit)).await
            }
        })
        .await?;
        Ok(())
    }

    pub(crate) async fn put_stamped(
        &self,
        key: Bytes,
        value: Bytes,
        stamp: Option<&dyn Stamper>,
    ) -> Result<Written, call::Ended> {
        limits::key(&key)?;
        limits::value(&value)?;
        call::call(&self.shared, &self.name, Retry::Write, |mut kv, limit| {
            let message = v1::PutRequest {
                database: self.name.to_string(),
                key: key.clone(),
                value: value.clone(),
                stamp: stamp.map(Stamper::stamp),
            };
            async move { kv.put(timed(message, limit)).await }
        })
        .await
        .map(Written::from)
    }

    pub(crate) async fn delete_stamped(
        &self,
        key: Bytes,
        stamp: Option<&dyn Stamper>,
    ) -> Result<Written, call::Ended> {
        limits::key(&key)?;
        call::call(&self.shared, &self.name, Retry::Write, |mut kv, limit| {
            let message = v1::DeleteRequest {
                database: self.name.to_string(),
                key: key.clone(),
                stamp: stamp.map(Stamper::stamp),
            };
            async move { kv.delete(timed(message, limit)).await }
        })
        .await
        .map(Written::from)
    }

    pub(crate) async fn delete_range_stamped(
        &self,
        from: Bytes,
        to: Bytes,
        stamp: Option<&dyn Stamper>,
    ) -> Result<Written, call::Ended> {
        limits::border(&from)?;
        limits::border(&to)?;
        call::call(&self.shared, &self.name, Retry::Write, |mut kv, limit| {
            let message = v1::DeleteRangeRequest {
                database: self.name.to_string(),
                from: from.clone(),
                to: to.clone(),
                stamp: stamp.map(Stamper::stamp),
            };
            async move { kv.delete_range(timed(message, limit)).await }
        })
        .await
        .map(Written::from)
    }

    pub(crate) async fn write_stamped(
        &self,
        batch: &WriteBatch,
        stamp: Option<&dyn Stamper>,
    ) -> Result<Written, call::Ended> {
        limits::batch(batch)?;
        call::call(&self.shared, &self.name, Retry::Write, |mut kv, limit| {
            let message = v1::WriteRequest {
                database: self.name.to_string(),
                conditions: batch.conditions.clone(),
                operations: batch.operations.clone(),
                stamp: stamp.map(Stamper::stamp),
            };
            async move { kv.write(timed(message, limit)).await }
        })
        .await
        .map(Written::from)
    }
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Database").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Gives every try of a write its stamp; the lowest unanswered number may rise between tries.
pub(crate) trait Stamper: Send + Sync {
    fn stamp(&self) -> v1::SessionStamp;
}

/// A request that tells the server how long it has.
pub(crate) fn timed<T>(message: T, limit: std::time::Duration) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(limit);
    request
}
