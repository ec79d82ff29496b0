//! What clients send is bounded while it comes in: in bytes, of each client and of all together,
//! and in time.
//!
//! A request is decoded only once all of it is there. Without this, a client that begins many large
//! requests and ends none holds as much memory as it may have calls. The bytes that a request says
//! it will have, beyond [`REQUEST_FREE_BYTES`], are taken when its first ones arrive and given back
//! when it is decoded; who wants more than is left is refused with `overloaded` before it sends
//! them, and comes again. What was let in is never refused for others that came later: so of many
//! large requests at once some always end. One that stands still is ended. Members are not bounded:
//! what they send is sessions with windows of their own, and the cluster lives on it.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body as _, Frame, SizeHint};
use keelson_types::RefusalReason;
use keelson_wire::Refusal;
use tokio::time::Sleep;
use tonic::Status;
use tonic::body::Body;

use crate::limits::{
    DATA_MESSAGE_BYTES_MAX, REQUEST_BYTES_MAX, REQUEST_BYTES_OF_CLIENT_MAX, REQUEST_FREE_BYTES,
    REQUEST_TIMEOUT,
};
use crate::places::{Place, Shares};

/// What stands before each message: whether it is compressed, and its length.
const HEAD_BYTES: usize = 5;

/// Name of a client, or the address of a stranger, and whether it showed a token.
pub(crate) type Client = (String, bool);

/// Bytes of requests under way; clones share them.
#[derive(Clone, Debug)]
pub(crate) struct Intake {
    of_client: Shares<Client>,
    of_all: Shares<()>,
    free: usize,
    timeout: Duration,
}

impl Default for Intake {
    fn default() -> Self {
        Self {
            of_client: Shares::new(REQUEST_BYTES_OF_CLIENT_MAX),
            of_all: Shares::new(REQUEST_BYTES_MAX),
            free: REQUEST_FREE_BYTES,
            timeout: REQUEST_TIMEOUT,
        }
    }
}

impl Intake {
    /// The same without bytes that are not counted, for those whom nobody knows.
    pub(crate) fn of_strangers(&self) -> Self {
        Self { free: 0, ..self.clone() }
    }

    /// The body of a request of `client`, which ends with a refusal where it takes too much.
    pub(crate) fn bounded(&self, client: &Client, inner: Body) -> Body {
        if inner.is_end_stream() {
            return inner;
        }
        let (intake, client) = (self.clone(), client.clone());
        let (received, counted) = (0, intake.free);
        let (head, taken, patience) = (Vec::new(), None, None);
        Body::new(BoundedBody { inner, intake, client, head, received, counted, taken, patience })
    }
}

type Taken = (Place<Client>, Place<()>);

struct BoundedBody {
    inner: Body,
    intake: Intake,
    client: Client,
    /// The first bytes, until they say how long the message is.
    head: Vec<u8>,
    received: usize,
    /// Received bytes up to here are free or taken.
    counted: usize,
    taken: Option<Taken>,
    /// Runs while there is nothing to be read.
    patience: Option<Pin<Box<Sleep>>>,
}

impl BoundedBody {
    /// Counts what came in; whether there was room for it, and for what is still to come of it.
    fn take(&mut self, bytes: &[u8]) -> bool {
        self.received += bytes.len();
        let mut wanted = self.received;
        if self.head.len() < HEAD_BYTES {
            let missing = (HEAD_BYTES - self.head.len()).min(bytes.len());
            self.head.extend_from_slice(&bytes[..missing]);
            wanted = wanted.max(announced(&self.head));
        }
        let more = wanted.saturating_sub(self.counted);
        if more == 0 {
            return true;
        }
        self.counted = wanted;
        if self.taken.is_none() {
            let of_client = self.intake.of_client.enter(self.client.clone());
            self.taken = of_client.zip(self.intake.of_all.enter(()));
        }
        self.taken.as_mut().is_some_and(|(client, all)| client.grow(more) && all.grow(more))
    }

    /// Whether nothing came for too long.
    fn is_late(&mut self, cx: &mut Context<'_>) -> bool {
        let timeout = self.intake.timeout;
        let patience = self.patience.get_or_insert_with(|| Box::pin(tokio::time::sleep(timeout)));
        patience.as_mut().poll(cx).is_ready()
    }

    /// Nothing was done: the caller may come again.
    fn refuse(&self, what: String) -> Status {
        tracing::debug!(client = self.client.0, what, "a request was cut off");
        Refusal::new(RefusalReason::Overloaded, what).into()
    }
}

/// Bytes of the message with its head; nothing while that is not whole, or says more than any
/// message may have, which is refused elsewhere.
fn announced(head: &[u8]) -> usize {
    let &[_, a, b, c, d] = head else { return 0 };
    let length = usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap_or(usize::MAX);
    if length > DATA_MESSAGE_BYTES_MAX { 0 } else { length + HEAD_BYTES }
}

impl hyper::body::Body for BoundedBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.inner).poll_frame(cx);
        let refused = match &polled {
            Poll::Ready(Some(Ok(frame))) => {
                this.patience = None;
                let fits = frame.data_ref().is_none_or(|bytes| this.take(bytes));
                (!fits).then(|| "too many bytes of requests are under way here".to_owned())
            }
            Poll::Pending if this.is_late(cx) => {
                Some(format!("the request stood still for {:?}", this.intake.timeout))
            }
            _ => None,
        };
        match refused {
            Some(what) => Poll::Ready(Some(Err(this.refuse(what)))),
            None => polled,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt, Full};

    use super::*;

    fn intake(of_client: usize, of_all: usize) -> Intake {
        Intake {
            of_client: Shares::new(of_client),
            of_all: Shares::new(of_all),
            free: 10,
            timeout: Duration::from_millis(20),
        }
    }

    fn body(bytes: usize) -> Body {
        Body::new(Full::new(Bytes::from(vec![0; bytes])))
    }

    /// The beginning of a message of so many bytes with its head.
    fn beginning(bytes: u32) -> Body {
        let length = (bytes - 5).to_be_bytes();
        Body::new(Full::new([&[0][..], &length].concat().into()))
    }

    async fn reason(mut body: Body) -> Option<RefusalReason> {
        match body.frame().await {
            Some(Err(status)) => Some(keelson_wire::refusal_of(&status).reason),
            _ => None,
        }
    }

    #[tokio::test]
    async fn what_a_client_sends_is_bounded_and_what_all_send_is() {
        let intake = intake(100, 150);
        let (ann, bob) = (("ann".to_owned(), false), ("bob".to_owned(), false));
        let mut first = intake.bounded(&ann, beginning(100));
        assert!(first.frame().await.is_some_and(|frame| frame.is_ok()));
        let overloaded = Some(RefusalReason::Overloaded);
        assert_eq!(reason(intake.bounded(&ann, beginning(100))).await, overloaded, "its share");
        assert_eq!(reason(intake.bounded(&ann, body(100))).await, overloaded, "whatever it says");
        assert_eq!(reason(intake.bounded(&ann, beginning(10))).await, None, "small ones are free");
        let strange = intake.of_strangers().bounded(&ann, body(10));
        assert_eq!(reason(strange).await, overloaded, "not those of strangers");
        assert_eq!(reason(intake.bounded(&bob, body(90))).await, overloaded, "the share of all");
        assert_eq!(reason(intake.bounded(&bob, body(60))).await, None);
        drop(first);
        assert_eq!(reason(intake.bounded(&bob, body(90))).await, None, "it was given back");
    }

    #[tokio::test]
    async fn a_request_that_stands_still_is_ended() {
        let intake = intake(100, 100);
        let never = futures::stream::pending::<Result<Frame<Bytes>, Status>>();
        let body = Body::new(http_body_util::StreamBody::new(never));
        let late = intake.bounded(&("ann".to_owned(), false), body);
        assert_eq!(reason(late).await, Some(RefusalReason::Overloaded));
    }

    #[test]
    fn the_head_says_how_long_a_message_is() {
        assert_eq!(announced(&[0, 0, 0, 1]), 0, "not whole");
        assert_eq!(announced(&[1, 0, 0, 1, 2]), 258 + 5);
        assert_eq!(announced(&[0, 255, 0, 0, 0]), 0, "no message is like that");
    }
}
