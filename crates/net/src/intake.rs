//! What clients send is bounded while it comes in: in bytes, of each client and of all together,
//! and in time.
//!
//! A request is decoded only once all of it is there. Without this, a client that begins many large
//! requests and ends none holds as much memory as it may have calls. What a request takes beyond
//! [`REQUEST_FREE_BYTES`] is counted from its first byte until it is decoded; who wants more than
//! is left is refused with `overloaded`, and comes again. Members are not bounded: what they send
//! is sessions with windows of their own, and the cluster lives on it.

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
    REQUEST_BYTES_MAX, REQUEST_BYTES_OF_CLIENT_MAX, REQUEST_FREE_BYTES, REQUEST_TIMEOUT,
};
use crate::places::{Place, Shares};

/// Name of a client, and whether it showed a token.
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
    /// The body of a request of `client`, which ends with a refusal where it takes too much.
    pub(crate) fn bounded(&self, client: &Client, inner: Body) -> Body {
        if inner.is_end_stream() {
            return inner;
        }
        let (intake, client) = (self.clone(), client.clone());
        let (received, taken, patience) = (0, None, None);
        Body::new(BoundedBody { inner, intake, client, received, taken, patience })
    }
}

type Taken = (Place<Client>, Place<()>);

struct BoundedBody {
    inner: Body,
    intake: Intake,
    client: Client,
    received: usize,
    /// Once it is more than is free.
    taken: Option<Taken>,
    /// Runs from the first time that there was nothing to be read.
    patience: Option<Pin<Box<Sleep>>>,
}

impl BoundedBody {
    /// Counts what came in; whether there was room for it.
    fn take(&mut self, bytes: usize) -> bool {
        let before = self.received.saturating_sub(self.intake.free);
        self.received += bytes;
        let more = self.received.saturating_sub(self.intake.free) - before;
        if more == 0 {
            return true;
        }
        if self.taken.is_none() {
            let of_client = self.intake.of_client.enter(self.client.clone());
            self.taken = of_client.zip(self.intake.of_all.enter(()));
        }
        self.taken.as_mut().is_some_and(|(client, all)| client.grow(more) && all.grow(more))
    }

    fn is_late(&mut self, cx: &mut Context<'_>) -> bool {
        let timeout = self.intake.timeout;
        let patience = self.patience.get_or_insert_with(|| Box::pin(tokio::time::sleep(timeout)));
        patience.as_mut().poll(cx).is_ready()
    }

    fn refuse(&self, reason: RefusalReason, what: String) -> Status {
        tracing::debug!(client = self.client.0, what, "a request was cut off");
        Refusal::new(reason, what).into()
    }
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
        match &polled {
            Poll::Ready(Some(Ok(frame))) => {
                let bytes = frame.data_ref().map_or(0, Bytes::len);
                if !this.take(bytes) {
                    let what = "too many bytes of requests are under way here".to_owned();
                    return Poll::Ready(Some(Err(this.refuse(RefusalReason::Overloaded, what))));
                }
            }
            Poll::Pending if this.is_late(cx) => {
                let what = format!("the request did not come in within {:?}", this.intake.timeout);
                let refusal = this.refuse(RefusalReason::DeadlineExceeded, what);
                return Poll::Ready(Some(Err(refusal)));
            }
            _ => {}
        }
        polled
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
        let mut first = intake.bounded(&ann, body(100));
        assert!(first.frame().await.is_some_and(|frame| frame.is_ok()));
        let overloaded = Some(RefusalReason::Overloaded);
        assert_eq!(reason(intake.bounded(&ann, body(100))).await, overloaded, "its share");
        assert_eq!(reason(intake.bounded(&ann, body(10))).await, None, "small ones are free");
        assert_eq!(reason(intake.bounded(&bob, body(90))).await, overloaded, "the share of all");
        assert_eq!(reason(intake.bounded(&bob, body(60))).await, None);
        drop(first);
        assert_eq!(reason(intake.bounded(&bob, body(90))).await, None, "it was given back");
    }

    #[tokio::test]
    async fn a_request_that_does_not_end_is_ended() {
        let intake = intake(100, 100);
        let never = http_body_util::StreamBody::new(futures::stream::pending::<
            Result<Frame<Bytes>, Status>,
        >());
        let late = intake.bounded(&("ann".to_owned(), false), Body::new(never));
        assert_eq!(reason(late).await, Some(RefusalReason::DeadlineExceeded));
    }
}
