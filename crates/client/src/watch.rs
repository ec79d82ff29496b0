//! Watches: committed changes in the order of the log, over moves of the database.
//!
//! After a break the stream continues behind the last cursor it gave out, so nothing is missed and
//! nothing comes twice. If the log behind the cursor is gone, or was discarded by an activation,
//! one event says so and the stream ends: the caller has to read the state anew.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use futures::Stream;
use keelson_wire::v1::{self, KeyValue};
use tonic::{Response, Streaming};

use crate::call::{self, Retry};
use crate::database::timed;
use crate::error::Failure;
use crate::{ClientError, Database};

/// One change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A value was written.
    Put(KeyValue),
    /// A key was removed.
    Delete(Bytes),
    /// The keys in `from..to` were removed; an empty `to` means to the end.
    DeleteRange {
        /// First key.
        from: Bytes,
        /// Key behind the last one.
        to: Bytes,
    },
}

/// The changes of one or more committed writes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WatchEvent {
    /// A watch from here continues behind this event.
    pub cursor: Bytes,
    /// When the active wrote them, in milliseconds since 1970.
    pub unix_millis: u64,
    /// The changes, in order.
    pub changes: Vec<Change>,
    /// The log behind the start position is gone; the last event of the stream.
    pub truncated: bool,
    /// The start position lies in a timeline that was given up; the last event of the stream.
    pub discarded: bool,
}

impl From<v1::WatchResponse> for WatchEvent {
    fn from(answer: v1::WatchResponse) -> Self {
        use v1::watch_change::Change as C;
        let changes = answer.changes.into_iter().filter_map(|change| change.change);
        let changes = changes.map(|change| match change {
            C::Put(item) => Change::Put(item),
            C::Delete(key) => Change::Delete(key),
            C::DeleteRange(range) => Change::DeleteRange { from: range.from, to: range.to },
        });
        Self {
            cursor: answer.cursor,
            unix_millis: answer.unix_millis,
            changes: changes.collect(),
            truncated: answer.truncated,
            discarded: answer.discarded,
        }
    }
}

/// A running watch.
pub struct WatchStream {
    database: Database,
    cursor: Bytes,
    prefix: Bytes,
    answers: Option<Streaming<v1::WatchResponse>>,
    ended: bool,
}

/// A stream is renewed after this long; tells a server when a client is certainly gone.
const STREAM_LIMIT: Duration = Duration::from_secs(24 * 3600);

/// Wait between a break and the next try.
const PAUSE: Duration = Duration::from_millis(10);

impl WatchStream {
    /// The next event; `None` only behind a truncated or discarded one. Events without changes
    /// carry a newer cursor.
    ///
    /// # Errors
    /// The database cannot be reached within the client's deadline, or a refusal; the stream can be
    /// asked again.
    pub async fn next(&mut self) -> Result<Option<WatchEvent>, ClientError> {
        loop {
            if self.ended {
                return Ok(None);
            }
            let answer = match &mut self.answers {
                Some(answers) => answers.message().await,
                None => {
                    self.answers = Some(self.open().await?);
                    continue;
                }
            };
            match answer {
                Ok(Some(answer)) => {
                    let event = WatchEvent::from(answer);
                    if !event.cursor.is_empty() {
                        self.cursor = event.cursor.clone();
                    }
                    self.ended = event.truncated || event.discarded;
                    return Ok(Some(event));
                }
                // The member stopped serving or went away: go on elsewhere.
                Ok(None) => self.pause().await,
                Err(status) => {
                    let error = Failure::of(&status, self.database.name()).error;
                    if !error.is_retryable() {
                        return Err(error);
                    }
                    self.pause().await;
                }
            }
        }
    }

    /// The position from which the watch would continue; empty before the first event.
    #[must_use]
    pub fn cursor(&self) -> &Bytes {
        &self.cursor
    }

    /// The same as a stream.
    pub fn into_stream(self) -> impl Stream<Item = Result<WatchEvent, ClientError>> {
        futures::stream::try_unfold(self, |mut watch| async move {
            Ok(watch.next().await?.map(|event| (event, watch)))
        })
    }

    async fn pause(&mut self) {
        self.answers = None;
        tokio::time::sleep(PAUSE).await;
    }

    async fn open(&self) -> Result<Streaming<v1::WatchResponse>, ClientError> {
        let name = self.database.name();
        let answers = call::call(self.database.shared(), name, Retry::Read, |mut kv, _| {
            let message = v1::WatchRequest {
                database: name.to_owned(),
                from: self.cursor.clone(),
                prefix: self.prefix.clone(),
            };
            async move {
                let answers = kv.watch(timed(message, STREAM_LIMIT)).await?;
                Ok(Response::new(answers.into_inner()))
            }
        });
        Ok(answers.await?)
    }
}

impl fmt::Debug for WatchStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WatchStream").field("database", &self.database).finish_non_exhaustive()
    }
}

pub(crate) fn start(database: Database, from: Bytes, prefix: Bytes) -> WatchStream {
    WatchStream { database, cursor: from, prefix, answers: None, ended: false }
}
