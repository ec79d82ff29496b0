//! The private link between the control process and the data process of a member: protobuf messages
//! with a four-byte big-endian length, over a Unix socket that the child inherited.
//!
//! Messages arrive in the order in which they were sent. The link ends when either process ends;
//! then `recv` gives `None` and `send` fails. A message that cannot be read ends the link too: both
//! processes come from one binary, so it can only be a bug.

use std::fmt;
use std::marker::PhantomData;

use bytes::{Buf, BufMut, BytesMut};
use prost::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc;

/// Messages that wait for the socket; a sender waits when so many do.
const QUEUE_MESSAGES: usize = 4096;

/// Longest message: far more than thousands of databases need.
const MESSAGE_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Bytes written at once.
const WRITE_BYTES: usize = 256 * 1024;

/// The other process is gone, or going.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LinkDown;

impl fmt::Display for LinkDown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the other process of this member is down")
    }
}

impl std::error::Error for LinkDown {}

/// The sending half. Clones share one queue.
pub struct LinkSender<Out> {
    queue: mpsc::Sender<Out>,
}

impl<Out> Clone for LinkSender<Out> {
    fn clone(&self) -> Self {
        Self { queue: self.queue.clone() }
    }
}

impl<Out> fmt::Debug for LinkSender<Out> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LinkSender").field("closed", &self.queue.is_closed()).finish()
    }
}

impl<Out: Message + 'static> LinkSender<Out> {
    /// Queues a message; waits while the queue is full. `Ok` does not say that it arrived.
    ///
    /// # Errors
    /// [`LinkDown`].
    pub async fn send(&self, message: Out) -> Result<(), LinkDown> {
        self.queue.send(message).await.map_err(|_| LinkDown)
    }

    /// As [`Self::send`], from a thread without a runtime.
    ///
    /// # Errors
    /// [`LinkDown`].
    pub fn blocking_send(&self, message: Out) -> Result<(), LinkDown> {
        self.queue.blocking_send(message).map_err(|_| LinkDown)
    }

    /// Queues a message if there is room; gives it back otherwise.
    ///
    /// # Errors
    /// The message, if the queue is full or the link is down.
    pub fn try_send(&self, message: Out) -> Result<(), Out> {
        self.queue.try_send(message).map_err(|error| match error {
            mpsc::error::TrySendError::Full(message)
            | mpsc::error::TrySendError::Closed(message) => message,
        })
    }

    /// Whether the link is known to be down.
    #[must_use]
    pub fn is_down(&self) -> bool {
        self.queue.is_closed()
    }

    /// Ends when the link is down.
    pub async fn closed(&self) {
        self.queue.closed().await;
    }

    /// A sender whose messages come out of the returned receiver instead of a socket, for tests.
    #[must_use]
    pub fn detached(capacity: usize) -> (Self, mpsc::Receiver<Out>) {
        let (queue, messages) = mpsc::channel(capacity);
        (Self { queue }, messages)
    }
}

enum Source<In> {
    Socket { half: OwnedReadHalf, buffer: BytesMut },
    Detached(mpsc::Receiver<In>),
}

/// The receiving half.
pub struct LinkReceiver<In> {
    source: Source<In>,
    _message: PhantomData<fn() -> In>,
}

impl<In> fmt::Debug for LinkReceiver<In> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LinkReceiver").finish_non_exhaustive()
    }
}

impl<In: Message + Default + 'static> LinkReceiver<In> {
    /// The next message; `None` once the link is down. Cancel safe.
    pub async fn recv(&mut self) -> Option<In> {
        match &mut self.source {
            Source::Detached(messages) => messages.recv().await,
            Source::Socket { half, buffer } => loop {
                if let Some(message) = next_message(buffer)? {
                    return Some(message);
                }
                match half.read_buf(buffer).await {
                    Ok(0) => return None,
                    Ok(_) => {}
                    Err(error) => {
                        tracing::debug!(%error, "link broke");
                        return None;
                    }
                }
            },
        }
    }

    /// A receiver of what is sent to the returned sender instead of over a socket, for tests.
    #[must_use]
    pub fn detached(capacity: usize) -> (mpsc::Sender<In>, Self) {
        let (sender, messages) = mpsc::channel(capacity);
        (sender, Self { source: Source::Detached(messages), _message: PhantomData })
    }
}

/// `Some(None)`: not complete yet; `None`: the stream cannot be read any further.
fn next_message<In: Message + Default>(buffer: &mut BytesMut) -> Option<Option<In>> {
    let Some(head) = buffer.first_chunk::<4>() else { return Some(None) };
    let length = u32::from_be_bytes(*head) as usize;
    if length > MESSAGE_BYTES_MAX {
        tracing::error!(length, "a message on the link is too long; the link is closed");
        return None;
    }
    if buffer.len() < 4 + length {
        buffer.reserve(4 + length - buffer.len());
        return Some(None);
    }
    buffer.advance(4);
    match In::decode(buffer.split_to(length).freeze()) {
        Ok(message) => Some(Some(message)),
        Err(error) => {
            tracing::error!(%error, "a message on the link is malformed; the link is closed");
            None
        }
    }
}

/// Makes a link out of one end of a socket pair. The writing task ends when the last sender is
/// dropped (what was queued is written first) or the other side is gone.
pub fn open<Out, In>(stream: UnixStream) -> (LinkSender<Out>, LinkReceiver<In>)
where
    Out: Message + 'static,
    In: Message + Default + 'static,
{
    let (read, write) = stream.into_split();
    let (queue, messages) = mpsc::channel(QUEUE_MESSAGES);
    tokio::spawn(write_all(write, messages));
    let source = Source::Socket { half: read, buffer: BytesMut::with_capacity(64 * 1024) };
    (LinkSender { queue }, LinkReceiver { source, _message: PhantomData })
}

async fn write_all<Out: Message>(mut socket: OwnedWriteHalf, mut messages: mpsc::Receiver<Out>) {
    let mut buffer = BytesMut::with_capacity(WRITE_BYTES);
    while let Some(message) = messages.recv().await {
        put(&mut buffer, &message);
        while buffer.len() < WRITE_BYTES {
            let Ok(message) = messages.try_recv() else { break };
            put(&mut buffer, &message);
        }
        if let Err(error) = socket.write_all(&buffer).await {
            tracing::debug!(%error, "link broke");
            return;
        }
        buffer.clear();
    }
}

fn put(buffer: &mut BytesMut, message: &impl Message) {
    let length = message.encoded_len();
    assert!(length <= MESSAGE_BYTES_MAX, "a message of {length} bytes does not fit the link");
    buffer.put_u32(u32::try_from(length).expect("bounded above"));
    message.encode(buffer).expect("the buffer grows");
}

#[cfg(test)]
mod tests {
    use super::*;
    use keelson_wire::v1::{ControlToData, DataToControl, LeaseUpdate, control_to_data};

    fn lease(revision: u64) -> ControlToData {
        let update = LeaseUpdate { expires_boottime_nanos: 7, revision };
        ControlToData { request: revision, message: Some(control_to_data::Message::Lease(update)) }
    }

    #[tokio::test]
    async fn messages_arrive_in_order_and_the_end_is_seen_on_both_sides() {
        let (a, b) = UnixStream::pair().unwrap();
        let (sender, mut answers) = open::<ControlToData, DataToControl>(a);
        let (replies, mut receiver) = open::<DataToControl, ControlToData>(b);
        let sending = tokio::spawn(async move {
            for revision in 0..10_000 {
                sender.send(lease(revision)).await.unwrap();
            }
        });
        for revision in 0..10_000 {
            assert_eq!(receiver.recv().await, Some(lease(revision)));
        }
        sending.await.unwrap();
        assert_eq!(receiver.recv().await, None);
        drop(replies);
        assert_eq!(answers.recv().await, None);
    }

    #[tokio::test]
    async fn a_malformed_message_ends_the_link() {
        let (mut a, b) = UnixStream::pair().unwrap();
        let (_replies, mut receiver) = open::<DataToControl, ControlToData>(b);
        a.write_all(&[0, 0, 0, 2, 0xff, 0xff]).await.unwrap();
        assert_eq!(receiver.recv().await, None);
    }

    #[tokio::test]
    async fn a_message_longer_than_the_bound_ends_the_link() {
        let (mut a, b) = UnixStream::pair().unwrap();
        let (_replies, mut receiver) = open::<DataToControl, ControlToData>(b);
        a.write_all(&u32::MAX.to_be_bytes()).await.unwrap();
        assert_eq!(receiver.recv().await, None);
    }

    #[tokio::test]
    async fn detached_halves_carry_messages() {
        let (sender, mut out) = LinkSender::detached(1);
        sender.send(lease(1)).await.unwrap();
        assert_eq!(sender.try_send(lease(2)), Err(lease(2)), "full");
        assert_eq!(out.recv().await, Some(lease(1)));
        let (inject, mut receiver) = LinkReceiver::<ControlToData>::detached(1);
        inject.send(lease(3)).await.unwrap();
        assert_eq!(receiver.recv().await, Some(lease(3)));
    }
}
