//! Exactly-once writes: each has a number in a session, and the server remembers the answers that
//! the client has not seen yet.
//!
//! Invariants: a number is never used for two writes; the lowest unanswered number rises only over
//! writes whose outcome the caller has or has given up (a dropped future). An expired session is
//! replaced by a new one silently when the refused write certainly was not applied, and otherwise
//! the caller gets `outcome_unknown`: an unknown session is refused by the server, never executed.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use keelson_types::{RefusalReason, SessionId};
use keelson_wire::{ids, v1};
use tokio::sync::Semaphore;
use uuid::Uuid;

use crate::call::Ended;
use crate::database::{Database, Stamper, Written};
use crate::{ClientError, WriteBatch};

/// Writes of one session that may be under way together; further ones wait.
const IN_FLIGHT_MAX: usize = 256;

/// A session of one database; cheap to clone, usable from many tasks at once.
#[derive(Clone)]
pub struct Session {
    inner: Arc<Inner>,
}

struct Inner {
    database: Database,
    scope: Mutex<Arc<Scope>>,
    /// Held while an expired session is replaced.
    reopening: tokio::sync::Mutex<()>,
    in_flight: Semaphore,
}

/// One session as the server knows it.
struct Scope {
    id: Bytes,
    numbers: Mutex<Numbers>,
}

#[derive(Default)]
struct Numbers {
    last: u64,
    unanswered: BTreeSet<u64>,
}

/// The number of one write; given back when its outcome is known or nobody asks for it any more.
struct Ticket {
    scope: Arc<Scope>,
    sequence: u64,
}

/// What one session write does, so that it can be sent again under another session.
enum Operation {
    Put(Bytes, Bytes),
    Delete(Bytes),
    DeleteRange(Bytes, Bytes),
    Write(WriteBatch),
}

impl Session {
    pub(crate) async fn open(database: Database) -> Result<Self, ClientError> {
        let scope = Scope::open(&database).await?;
        let inner = Inner {
            database,
            scope: Mutex::new(scope),
            reopening: tokio::sync::Mutex::new(()),
            in_flight: Semaphore::new(IN_FLIGHT_MAX),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Writes `value` under `key`, once.
    ///
    /// # Errors
    /// A refusal; `outcome_unknown` if neither success nor failure could be learned in time.
    pub async fn put(
        &self,
        key: impl Into<Bytes>,
        value: impl Into<Bytes>,
    ) -> Result<Written, ClientError> {
        self.run(Operation::Put(key.into(), value.into())).await
    }

    /// Removes `key`, once.
    ///
    /// # Errors
    /// As [`Self::put`].
    pub async fn delete(&self, key: impl Into<Bytes>) -> Result<Written, ClientError> {
        self.run(Operation::Delete(key.into())).await
    }

    /// Removes the keys in `from..to`, once; an empty `to` means to the end.
    ///
    /// # Errors
    /// As [`Self::put`].
    pub async fn delete_range(
        &self,
        from: impl Into<Bytes>,
        to: impl Into<Bytes>,
    ) -> Result<Written, ClientError> {
        self.run(Operation::DeleteRange(from.into(), to.into())).await
    }

    /// Applies a batch, once and in one piece, or nothing of it.
    ///
    /// # Errors
    /// `condition_failed` if a condition did not hold; otherwise as [`Self::put`].
    pub async fn write(&self, batch: WriteBatch) -> Result<Written, ClientError> {
        self.run(Operation::Write(batch)).await
    }

    /// The database of this session.
    #[must_use]
    pub fn database(&self) -> &Database {
        &self.inner.database
    }

    async fn run(&self, operation: Operation) -> Result<Written, ClientError> {
        let _turn = self
            .inner
            .in_flight
            .acquire()
            .await
            .map_err(|_| ClientError::new(RefusalReason::Internal, "the session was closed"))?;
        let scope = self.scope();
        let ended = match self.attempt(&scope, &operation).await {
            Ok(written) => return Ok(written),
            Err(ended) => ended,
        };
        if ended.error.reason != RefusalReason::OutcomeUnknown || ended.open {
            return Err(ended.error);
        }
        let scope = self.replace(&scope).await?;
        Ok(self.attempt(&scope, &operation).await?)
    }

    async fn attempt(&self, scope: &Arc<Scope>, operation: &Operation) -> Result<Written, Ended> {
        let ticket = scope.ticket();
        let database = &self.inner.database;
        let stamp = Some(&ticket as &dyn Stamper);
        match operation {
            Operation::Put(key, value) => {
                database.put_stamped(key.clone(), value.clone(), stamp).await
            }
            Operation::Delete(key) => database.delete_stamped(key.clone(), stamp).await,
            Operation::DeleteRange(from, to) => {
                database.delete_range_stamped(from.clone(), to.clone(), stamp).await
            }
            Operation::Write(batch) => database.write_stamped(batch, stamp).await,
        }
    }

    /// Opens a new session in place of `expired`, unless another write has done so already.
    async fn replace(&self, expired: &Arc<Scope>) -> Result<Arc<Scope>, ClientError> {
        let _one_at_a_time = self.inner.reopening.lock().await;
        let current = self.scope();
        if !Arc::ptr_eq(&current, expired) {
            return Ok(current);
        }
        let scope = Scope::open(&self.inner.database).await?;
        *self.inner.scope.lock().unwrap_or_else(PoisonError::into_inner) = scope.clone();
        Ok(scope)
    }

    fn scope(&self) -> Arc<Scope> {
        self.inner.scope.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("database", &self.inner.database).finish_non_exhaustive()
    }
}

impl Scope {
    async fn open(database: &Database) -> Result<Arc<Self>, ClientError> {
        let id = ids::bytes(SessionId::new(Uuid::new_v4()));
        database.open_session(id.clone()).await?;
        Ok(Arc::new(Self { id, numbers: Mutex::default() }))
    }

    fn ticket(self: &Arc<Self>) -> Ticket {
        let sequence = self.with_numbers(|numbers| {
            numbers.last += 1;
            numbers.unanswered.insert(numbers.last);
            numbers.last
        });
        Ticket { scope: self.clone(), sequence }
    }

    fn with_numbers<T>(&self, change: impl FnOnce(&mut Numbers) -> T) -> T {
        change(&mut self.numbers.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Stamper for Ticket {
    fn stamp(&self) -> v1::SessionStamp {
        let lowest = self.scope.with_numbers(|n| n.unanswered.first().copied());
        v1::SessionStamp {
            session: self.scope.id.clone(),
            sequence: self.sequence,
            lowest_unanswered: lowest.unwrap_or(self.sequence),
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.scope.with_numbers(|numbers| numbers.unanswered.remove(&self.sequence));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lowest_unanswered_rises_only_when_the_oldest_is_answered() {
        let scope = Arc::new(Scope { id: Bytes::new(), numbers: Mutex::default() });
        let (first, second, third) = (scope.ticket(), scope.ticket(), scope.ticket());
        drop(second);
        assert_eq!(third.stamp().lowest_unanswered, 1);
        drop(first);
        assert_eq!((third.stamp().sequence, third.stamp().lowest_unanswered), (3, 3));
    }
}
