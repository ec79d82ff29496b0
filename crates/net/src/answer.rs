//! What an answer keeps until it has left, and what ends the connection of whoever takes none.
//!
//! HTTP/2 asks for the next piece of an answer only when its client has room for it, so a client
//! that reads nothing and answers pings keeps an answer, and what it keeps, for ever. A service
//! that minds takes a [`Disconnect`] from the request.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::HeaderMap;
use hyper::body::{Frame, SizeHint};
use tonic::Status;
use tonic::body::Body;

use crate::access::Ended;
use crate::intake::Client;
use crate::places::Place;
use crate::server::Connection;

/// Something that is dropped when an answer has left the process, or nobody waits for it any more;
/// a service puts it into the extensions of the answer.
#[derive(Clone, Debug)]
pub struct Kept {
    #[expect(dead_code, reason = "given back when it is dropped")]
    inner: Arc<dyn fmt::Debug + Send + Sync>,
}

impl Kept {
    /// Keeps it.
    pub fn new(inner: impl fmt::Debug + Send + Sync + 'static) -> Self {
        Self { inner: Arc::new(inner) }
    }
}

/// Ends the connection over which a request came, with all its calls. Cheap to clone.
#[derive(Clone, Default, Debug)]
pub struct Disconnect(Arc<AtomicBool>);

impl Disconnect {
    /// For the connection of a request.
    #[must_use]
    pub fn of<T>(request: &tonic::Request<T>) -> Self {
        request.extensions().get().map(|on: &Connection| on.disconnect.clone()).unwrap_or_default()
    }

    /// Ends it, at its next ping at the latest.
    pub fn now(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether it is to end.
    #[must_use]
    pub fn is_wanted(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// An answer that keeps the place of its call, and what its service put into it, until it has left.
/// A stream ends when its token or membership does: nothing is sent after that.
pub(crate) struct AnswerBody {
    inner: Body,
    ended: Option<Ended>,
    cut: bool,
    #[expect(dead_code, reason = "given back when it is dropped")]
    place: Option<Place<Client>>,
    #[expect(dead_code, reason = "given back when it is dropped")]
    kept: Option<Kept>,
}

impl AnswerBody {
    pub(crate) fn new(
        inner: Body,
        ended: Option<Ended>,
        place: Option<Place<Client>>,
        kept: Option<Kept>,
    ) -> Self {
        Self { inner, ended, cut: false, place, kept }
    }
}

impl hyper::body::Body for AnswerBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.get_mut();
        if this.cut {
            return Poll::Ready(None);
        }
        if let Some(ended) = &mut this.ended
            && let Poll::Ready(refusal) = ended.as_mut().poll(cx)
        {
            tracing::info!(%refusal, "a stream was cut off");
            (this.ended, this.cut) = (None, true);
            let mut trailers = HeaderMap::new();
            let written = Status::from(refusal).add_header(&mut trailers);
            return Poll::Ready(Some(written.map(|()| Frame::trailers(trailers))));
        }
        Pin::new(&mut this.inner).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.cut || self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
