//! Files that arrive: a chunk is written while the next one comes, and a file is made durable while
//! the next one is written.
//!
//! At most one chunk and one file are under way. Whoever ends early settles them first, so that
//! nobody finds a file that is still written to. A crash leaves a whole file without its name at
//! worst, which is verified when the seed goes on, and part of the next one.

use std::sync::Arc;

use keelson_format::unpack;
use keelson_types::MemberId;
use keelson_wire::v1;
use tokio::sync::oneshot;

use crate::context::PlaneContext;
use crate::seed::CHUNK_BYTES;
use crate::seed::place::{Incoming, PlaceError, Refused as NotTaken, SeedFiles};
use crate::seed::room::Claim;
use crate::traffic::PeerCounts;

type Taken<T> = Result<T, NotTaken>;

/// The file that is written.
enum Hand {
    Empty,
    Resting(Box<Incoming>),
    Writing(oneshot::Receiver<Taken<Incoming>>),
}

/// The files of one stream, one after the other.
pub(super) struct Arriving {
    context: Arc<PlaneContext>,
    counts: Arc<PeerCounts>,
    files: SeedFiles,
    claim: Arc<Claim>,
    hand: Hand,
    /// The file that is made durable, and its number.
    behind: Option<(u32, oneshot::Receiver<Taken<()>>)>,
}

impl Arriving {
    pub(super) fn new(
        context: Arc<PlaneContext>,
        source: MemberId,
        files: SeedFiles,
        claim: Arc<Claim>,
    ) -> Self {
        let counts = context.traffic.with(source);
        Self { context, counts, files, claim, hand: Hand::Empty, behind: None }
    }

    pub(super) fn begin(&mut self, incoming: Incoming) {
        self.hand = Hand::Resting(Box::new(incoming));
    }

    /// Begins to write a chunk once the one before is written.
    ///
    /// # Errors
    /// Of the chunk before: it is not what it should be, or the disk did not take it.
    pub(super) async fn take(&mut self, chunk: v1::SeedChunk) -> Taken<()> {
        self.counts.seed_received.carried(&chunk.body, chunk.packed_from);
        let mut incoming = self.written().await?;
        let claim = self.claim.clone();
        let taking = self.run(move || {
            let body = unpack(chunk.body, chunk.packed_from, CHUNK_BYTES);
            let body = body.map_err(|error| NotTaken::Wrong(error.to_string()))?;
            claim.take(incoming.place, body.len() as u64).map_err(NotTaken::Disk)?;
            incoming.take(chunk.offset, chunk.crc, &body)?;
            Ok(incoming)
        });
        self.hand = Hand::Writing(taking);
        Ok(())
    }

    async fn written(&mut self) -> Taken<Incoming> {
        match std::mem::replace(&mut self.hand, Hand::Empty) {
            Hand::Resting(incoming) => Ok(*incoming),
            Hand::Writing(taking) => outcome(taking).await,
            Hand::Empty => Err(NotTaken::Wrong("a chunk of no file".into())),
        }
    }

    /// Begins to verify the file and to make it durable; gives the one before, which is durable
    /// now.
    ///
    /// # Errors
    /// Of the last chunk, or of the file before.
    pub(super) async fn finish(&mut self, number: u32) -> Taken<Option<u32>> {
        let incoming = self.written().await?;
        let before = self.finished().await?;
        let files = self.files.clone();
        self.behind = Some((number, self.run(move || incoming.finish(&files))));
        Ok(before)
    }

    async fn finished(&mut self) -> Taken<Option<u32>> {
        let Some((number, finishing)) = self.behind.take() else { return Ok(None) };
        outcome(finishing).await.map(|()| Some(number))
    }

    /// Waits for everything that is under way; gives the last file that is durable.
    ///
    /// # Errors
    /// A chunk or a file is not what it should be, or the disk failed.
    pub(super) async fn settle(&mut self) -> Taken<Option<u32>> {
        let chunk = match std::mem::replace(&mut self.hand, Hand::Empty) {
            Hand::Writing(taking) => outcome(taking).await.map(drop),
            Hand::Resting(_) | Hand::Empty => Ok(()),
        };
        let file = self.finished().await;
        chunk.and(file)
    }

    /// Begins work at once, whoever waits for it.
    fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Taken<T> + Send + 'static,
    ) -> oneshot::Receiver<Taken<T>> {
        let (reply, done) = oneshot::channel();
        self.context.seed_pools.chunks.run(move || drop(reply.send(work())));
        done
    }
}

async fn outcome<T>(done: oneshot::Receiver<Taken<T>>) -> Taken<T> {
    let text = "the work panicked; see the member's log";
    done.await
        .unwrap_or_else(|_| Err(NotTaken::Disk(PlaceError { full: false, text: text.to_owned() })))
}
