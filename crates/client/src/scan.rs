//! Scans: ascending keys of one snapshot.
//!
//! A scan is retried only before its first item. If the member goes away in the middle the stream
//! ends with an error, because another snapshot would not fit to the items already given out.

use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use futures::Stream;
use keelson_wire::v1::{self, KeyValue};
use tonic::{Response, Streaming};

use crate::call::{self, Retry};
use crate::database::timed;
use crate::error::Failure;
use crate::{ClientError, Database, Read, limits};

/// A scan ends within this time; only its start is bound by the client's deadline.
const SCAN_LIMIT: Duration = Duration::from_secs(3600);

/// Which items a scan returns.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScanOptions {
    /// First key; empty: from the beginning.
    pub from: Bytes,
    /// Key behind the last one; empty: to the end.
    pub to: Bytes,
    /// At most this many items; 0: no limit.
    pub limit: u64,
    /// Leaves the values out.
    pub keys_only: bool,
    /// What the scan must have seen.
    pub read: Read,
}

impl ScanOptions {
    /// All keys that begin with `prefix`.
    pub fn prefix(prefix: impl Into<Bytes>) -> Self {
        let from = prefix.into();
        let to = prefix_end(&from);
        Self { from, to, ..Self::default() }
    }
}

/// The key behind all keys with this prefix; empty if there is none.
fn prefix_end(prefix: &[u8]) -> Bytes {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return end.into();
        }
    }
    Bytes::new()
}

/// The items of a running scan.
pub struct ScanStream {
    answers: Streaming<v1::ScanResponse>,
    ready: VecDeque<KeyValue>,
    address: String,
    ended: bool,
}

impl ScanStream {
    /// The next item, or `None` at the end.
    ///
    /// # Errors
    /// The connection broke or the member stopped serving; start the scan again.
    pub async fn next(&mut self) -> Result<Option<KeyValue>, ClientError> {
        while self.ready.is_empty() && !self.ended {
            match self.answers.message().await {
                Ok(Some(answer)) => self.ready.extend(answer.items),
                Ok(None) => self.ended = true,
                Err(status) => {
                    self.ended = true;
                    let error = Failure::of(&status, &self.address).error;
                    let message = format!("the scan was interrupted: {}", error.message);
                    return Err(ClientError::new(error.reason, message));
                }
            }
        }
        Ok(self.ready.pop_front())
    }

    /// The same as a stream.
    pub fn into_stream(self) -> impl Stream<Item = Result<KeyValue, ClientError>> {
        futures::stream::try_unfold(self, |mut scan| async move {
            Ok(scan.next().await?.map(|item| (item, scan)))
        })
    }

    /// All items at once; for small ranges.
    ///
    /// # Errors
    /// As [`Self::next`].
    pub async fn collect(mut self) -> Result<Vec<KeyValue>, ClientError> {
        let mut items = Vec::new();
        while let Some(item) = self.next().await? {
            items.push(item);
        }
        Ok(items)
    }
}

impl fmt::Debug for ScanStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ScanStream").field("address", &self.address).finish_non_exhaustive()
    }
}

pub(crate) async fn start(
    database: &Database,
    options: ScanOptions,
) -> Result<ScanStream, ClientError> {
    limits::border(&options.from)?;
    limits::border(&options.to)?;
    let options = &options;
    let name = database.name();
    let (first, answers) =
        call::call(database.shared(), name, Retry::Read, |mut kv, _| async move {
            let message = v1::ScanRequest {
                database: name.to_owned(),
                from: options.from.clone(),
                to: options.to.clone(),
                limit: options.limit,
                options: Some(options.read.options()),
                keys_only: options.keys_only,
            };
            let mut answers = kv.scan(timed(message, SCAN_LIMIT)).await?.into_inner();
            let first = answers.message().await?;
            Ok(Response::new((first, answers)))
        })
        .await?;
    let ended = first.is_none();
    let ready = first.map(|answer| answer.items.into()).unwrap_or_default();
    Ok(ScanStream { answers, ready, address: name.to_owned(), ended })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_prefix_is_the_next_prefix() {
        assert_eq!(prefix_end(b"ab"), "ac");
        assert_eq!(prefix_end(&[b'a', 0xff]), "b");
        assert_eq!(prefix_end(&[0xff, 0xff]), "");
    }
}
