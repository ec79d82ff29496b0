//! What is read ahead of clients: bounded in bytes, for each client and for all of them.
//!
//! A stream takes room before it reads, and gives it back when its client has taken the answer and
//! asks for more. A single answer that is large takes room, too, until it has left
//! ([`answer_with_room`]): many of them for a client that takes none would fill the memory. Whoever
//! finds no room waits, for [`STALLED`] at most; then it is refused, so that what it keeps besides
//! (a snapshot, files) is not kept for ever.
//!
//! A client that takes nothing and answers pings would keep its room for good. It may while nobody
//! needs that: when a call of its own has waited in vain, or one of anybody for the room of all,
//! the connections end on which answers were not taken for longer than that, at 64 KiB/s at least.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use futures::Stream;
use keelson_net::{Disconnect, PeerIdentity};
use keelson_types::RefusalReason;
use keelson_wire::Refusal;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::error::Elapsed;
use tokio::time::{timeout, timeout_at};
use tonic::{Response, Status};

/// Bytes of answers that wait for all clients.
const ALL_BYTES: usize = 256 * 1024 * 1024;

/// Bytes of answers that wait for one client; more than the largest value has.
const CLIENT_BYTES: usize = 32 * 1024 * 1024;

/// Answers of at most this size need no room: calls are bounded in number.
const SMALL_BYTES: usize = 16 * 1024;

/// A client that takes its answers more slowly than this is as one that takes nothing.
const SLOWEST_BYTES_PER_SECOND: u64 = 64 * 1024;

/// How long a client may take nothing.
pub(crate) const STALLED: Duration = Duration::from_secs(60);

/// The room of all clients.
#[derive(Debug)]
pub(crate) struct Ahead {
    all: Arc<Semaphore>,
    of_client: usize,
    patience: Duration,
    clients: Mutex<BTreeMap<String, Weak<Semaphore>>>,
    keepers: Arc<Keepers>,
}

/// Who has room.
#[derive(Default, Debug)]
struct Keepers(Mutex<(u64, BTreeMap<u64, Keeper>)>);

#[derive(Debug)]
struct Keeper {
    owner: Arc<Owner>,
    /// A client that takes anything has taken the answer by then.
    until: Instant,
}

/// Who asked, and over which connection.
#[derive(Debug)]
struct Owner {
    client: String,
    connection: Disconnect,
}

/// The place of a room among the keepers; given up when it is dropped.
#[derive(Debug)]
struct Keeping {
    number: u64,
    keepers: Arc<Keepers>,
}

/// The room of one client, for one of its streams.
#[derive(Debug)]
pub(crate) struct Share {
    owner: Arc<Owner>,
    own: Arc<Semaphore>,
    all: Arc<Semaphore>,
    most: usize,
    patience: Duration,
    keepers: Arc<Keepers>,
}

/// Room for one answer; given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Room {
    own: OwnedSemaphorePermit,
    all: OwnedSemaphorePermit,
    most: usize,
    owner: Arc<Owner>,
    patience: Duration,
    keepers: Arc<Keepers>,
    /// Since the answer waits for its client.
    keeping: Option<Keeping>,
}

impl Default for Ahead {
    fn default() -> Self {
        Self::new(ALL_BYTES, CLIENT_BYTES, STALLED)
    }
}

fn permits(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

impl Ahead {
    fn new(all: usize, of_client: usize, patience: Duration) -> Self {
        let all = Arc::new(Semaphore::new(all));
        let (clients, keepers) = (Mutex::default(), Arc::default());
        Self { all, of_client, patience, clients, keepers }
    }

    /// The share of a client, which all its streams have together, for a call on this connection.
    pub(crate) fn share_of(&self, (client, connection): &(PeerIdentity, Disconnect)) -> Share {
        self.share(client.to_string(), connection.clone())
    }

    fn share(&self, client: String, connection: Disconnect) -> Share {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        let own = clients.get(&client).and_then(Weak::upgrade).unwrap_or_else(|| {
            clients.retain(|_, known| known.strong_count() > 0);
            let own = Arc::new(Semaphore::new(self.of_client));
            clients.insert(client.clone(), Arc::downgrade(&own));
            own
        });
        let (all, most, patience) = (self.all.clone(), self.of_client, self.patience);
        let owner = Arc::new(Owner { client, connection });
        Share { owner, own, all, most, patience, keepers: self.keepers.clone() }
    }
}

impl Keepers {
    fn enter(self: &Arc<Self>, owner: Arc<Owner>, patience: Duration) -> Keeping {
        let keeper = Keeper { owner, until: Instant::now() + patience };
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.0 += 1;
        let number = all.0;
        all.1.insert(number, keeper);
        Keeping { number, keepers: self.clone() }
    }

    /// Ends the connections on which answers were not taken in time: those of a client, or of all.
    fn end(&self, client: Option<&str>) {
        let late = |keeper: &&Keeper| {
            let is_asked = client.is_none_or(|client| client == keeper.owner.client);
            is_asked && keeper.until <= Instant::now() && !keeper.owner.connection.is_wanted()
        };
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let found: Vec<_> =
            all.1.values().filter(late).map(|keeper| keeper.owner.clone()).collect();
        drop(all);
        for owner in found.into_iter().filter(|owner| !owner.connection.is_wanted()) {
            owner.connection.now();
            let client = &owner.client;
            tracing::warn!(client, "takes nothing of its answers: a connection of it is ended");
        }
    }
}

impl Drop for Keeping {
    fn drop(&mut self) {
        let mut all = self.keepers.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.1.remove(&self.number);
    }
}

impl Share {
    /// The same as [`Self::room`] without waiting; none if there is none now.
    fn room_now(&self, bytes: usize) -> Option<Room> {
        let wanted = permits(bytes.clamp(1, self.most));
        let own = self.own.clone().try_acquire_many_owned(wanted).ok()?;
        let all = self.all.clone().try_acquire_many_owned(wanted).ok()?;
        Some(self.room_of(own, all))
    }

    fn room_of(&self, own: OwnedSemaphorePermit, all: OwnedSemaphorePermit) -> Room {
        let (owner, keepers) = (self.owner.clone(), self.keepers.clone());
        let (most, patience) = (self.most, self.patience);
        Room { own, all, most, owner, patience, keepers, keeping: None }
    }

    /// Room for so many bytes, or for as many as one client may have.
    ///
    /// # Errors
    /// `overloaded` if there was none for too long.
    pub(crate) async fn room(&self, bytes: usize) -> Result<Room, Refusal> {
        let wanted = permits(bytes.clamp(1, self.most));
        let deadline = tokio::time::Instant::now() + self.patience;
        let none = |of: Option<&str>| {
            self.keepers.end(of);
            let client = &self.owner.client;
            let what = format!(
                "answers that nobody takes fill the room for {client} or for all clients: read \
                 faster, or run fewer watches and scans at the same time"
            );
            Refusal::new(RefusalReason::Overloaded, what)
        };
        // The semaphores are never closed.
        let own = timeout_at(deadline, self.own.clone().acquire_many_owned(wanted)).await;
        let own = own.ok().and_then(Result::ok).ok_or_else(|| none(Some(&self.owner.client)))?;
        let all = timeout_at(deadline, self.all.clone().acquire_many_owned(wanted)).await;
        let all = all.ok().and_then(Result::ok).ok_or_else(|| none(None))?;
        Ok(self.room_of(own, all))
    }
}

impl Room {
    /// From now on the answer in it waits for its client.
    fn hand_over(&mut self) {
        let bytes = u64::try_from(self.own.num_permits()).unwrap_or(u64::MAX);
        let patience = self.patience + Duration::from_secs(bytes / SLOWEST_BYTES_PER_SECOND);
        self.keeping = Some(self.keepers.enter(self.owner.clone(), patience));
    }

    /// Makes it as large as what was read. If there is not so much room now the reader must drop
    /// what it read, and read again with more of it: whoever waited with it in hand would have it
    /// in no account.
    pub(crate) fn fit(&mut self, bytes: usize) -> bool {
        let wanted = bytes.clamp(1, self.most);
        let has = self.own.num_permits();
        if wanted <= has {
            drop((self.own.split(has - wanted), self.all.split(has - wanted)));
            return true;
        }
        let more = |permit: &OwnedSemaphorePermit| {
            permit.semaphore().clone().try_acquire_many_owned(permits(wanted - has)).ok()
        };
        let (Some(own), Some(all)) = (more(&self.own), more(&self.all)) else { return false };
        self.own.merge(own);
        self.all.merge(all);
        true
    }
}

/// Makes an answer for `client`, which holds room until it has left if it is large. Where there is
/// none now it is dropped, and made again with room: whoever waited with it in hand would have it
/// in no account.
///
/// # Errors
/// It cannot be made; `overloaded` if there was no room for too long.
pub(crate) async fn answer_with_room<T, F>(
    ahead: &Ahead,
    client: &(PeerIdentity, Disconnect),
    make: impl Fn() -> F,
) -> Result<Response<T>, Refusal>
where
    T: prost::Message,
    F: Future<Output = Result<T, Refusal>>,
{
    let mut answer = make().await?;
    let mut bytes = answer.encoded_len();
    if bytes <= SMALL_BYTES {
        return Ok(Response::new(answer));
    }
    let share = ahead.share_of(client);
    let mut room = share.room_now(bytes);
    while room.is_none() {
        drop(answer);
        let mut taken = share.room(bytes).await?;
        answer = make().await?;
        bytes = answer.encoded_len();
        room = taken.fit(bytes).then_some(taken);
    }
    if let Some(room) = &mut room {
        room.hand_over();
    }
    let mut response = Response::new(answer);
    response.extensions_mut().insert(keelson_net::Kept::new(room));
    Ok(response)
}

/// Gives an answer to the stream of its client, once there is a place; whether somebody listens.
///
/// # Errors
/// The client took nothing for [`STALLED`].
pub(crate) async fn hand<T>(
    sender: &mpsc::Sender<Piece<T>>,
    answer: T,
    mut room: Room,
) -> Result<bool, Elapsed> {
    let Ok(place) = timeout(STALLED, sender.reserve()).await? else { return Ok(false) };
    room.hand_over();
    place.send((Ok(answer), Some(room)));
    Ok(true)
}

/// An answer, with the room that it takes; refusals take none.
pub(crate) type Piece<T> = (Result<T, Status>, Option<Room>);

/// Answers for a client. Each keeps its room until the next one is asked for: until then it lies in
/// the buffers of the connection.
pub(crate) struct Pieces<T> {
    pieces: mpsc::Receiver<Piece<T>>,
    sent: Option<Room>,
}

impl<T> Pieces<T> {
    pub(crate) fn new(pieces: mpsc::Receiver<Piece<T>>) -> Self {
        Self { pieces, sent: None }
    }
}

impl<T> Stream for Pieces<T> {
    type Item = Result<T, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.sent = None;
        let Some((answer, room)) = ready!(self.pieces.poll_recv(cx)) else {
            return Poll::Ready(None);
        };
        self.sent = room;
        Poll::Ready(Some(answer))
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::future::ready;

    use futures::StreamExt;
    use keelson_wire::v1;

    use super::*;

    fn ahead() -> Ahead {
        Ahead::new(100, 40, Duration::from_millis(10))
    }

    fn share(ahead: &Ahead, client: &str) -> Share {
        ahead.share(client.into(), Disconnect::default())
    }

    fn free(ahead: &Ahead, client: &str) -> (usize, usize) {
        (share(ahead, client).own.available_permits(), ahead.all.available_permits())
    }

    #[tokio::test]
    async fn whoever_keeps_room_that_others_wait_for_loses_its_connection() {
        let ahead = ahead();
        let connections: Vec<_> = (0..4).map(|_| Disconnect::default()).collect();
        let named = |number: usize| ahead.share(number.to_string(), connections[number].clone());
        let ended = || connections.iter().map(Disconnect::is_wanted).collect::<Vec<_>>();
        let mut kept = [named(0).room(40).await.unwrap(), named(1).room(40).await.unwrap()];
        kept.iter_mut().for_each(Room::hand_over);
        let _reads = named(2).room(20).await.unwrap();
        assert!(named(0).room(1).await.is_err(), "its own share is full");
        assert_eq!(ended(), [true, false, false, false], "others need not suffer for that");
        assert!(named(3).room(1).await.is_err(), "all is full");
        assert_eq!(ended(), [true, true, false, false], "who reads still keeps nobody waiting");
    }

    #[tokio::test]
    async fn a_client_that_takes_nothing_waits_for_itself_and_not_for_ever() {
        let ahead = ahead();
        let (slow, other) = (share(&ahead, "slow"), share(&ahead, "other"));
        let again = share(&ahead, "slow");
        let held = [slow.room(20).await.unwrap(), again.room(20).await.unwrap()];
        let refusal = slow.room(1).await.unwrap_err();
        assert_eq!(refusal.reason, RefusalReason::Overloaded);
        assert!(refusal.message.contains("slow") && refusal.message.contains("fewer watches"));
        assert!(other.room(40).await.is_ok(), "others have their own");
        drop(held);
        assert!(slow.room(1_000).await.is_ok(), "one large answer goes when nothing waits");
        assert_eq!(free(&ahead, "slow"), (40, 100));
    }

    #[tokio::test]
    async fn all_clients_together_are_bounded() {
        let ahead = ahead();
        let shares: Vec<_> = (0..3).map(|n| share(&ahead, &n.to_string())).collect();
        let _held = [shares[0].room(40).await.unwrap(), shares[1].room(40).await.unwrap()];
        assert!(shares[2].room(40).await.is_err());
        assert!(shares[2].room(20).await.is_ok());
        drop(shares);
        assert_eq!(free(&ahead, "x").0, 40);
        assert_eq!(ahead.clients.lock().unwrap().len(), 3, "who holds something, and x");
    }

    #[tokio::test]
    async fn room_becomes_as_large_as_what_was_read_if_there_is_so_much() {
        let ahead = ahead();
        let share = share(&ahead, "c");
        let mut room = share.room(10).await.unwrap();
        assert!(room.fit(4));
        assert_eq!(free(&ahead, "c"), (36, 96));
        assert!(room.fit(30));
        assert_eq!(free(&ahead, "c"), (10, 70));
        let mut second = share.room(5).await.unwrap();
        assert!(!second.fit(20), "the other one has it");
        assert_eq!(free(&ahead, "c"), (5, 65), "nothing was taken");
    }

    #[tokio::test]
    async fn a_large_answer_holds_room_until_it_has_left_and_a_small_one_none() {
        let ahead = Ahead::new(200_000, 100_000, Duration::from_millis(10));
        let client = PeerIdentity { name: "c".into(), ..PeerIdentity::default() };
        let client = (client, Disconnect::default());
        let of = |bytes: usize| {
            let made = Cell::new(0);
            let (ahead, client) = (&ahead, &client);
            async move {
                let make = || {
                    made.set(made.get() + 1);
                    ready(Ok(v1::GetResponse { found: true, value: vec![0; bytes].into() }))
                };
                answer_with_room(ahead, client, make).await.map(|answer| (answer, made.get()))
            }
        };
        let free = || free(&ahead, &client.0.to_string()).0;
        let small = of(10_000).await.unwrap();
        assert_eq!((small.1, free()), (1, 100_000));
        let (large, made) = of(60_000).await.unwrap();
        assert_eq!((made, free() < 40_000), (1, true));
        assert_eq!(of(60_000).await.unwrap_err().reason, RefusalReason::Overloaded);
        let waits = of(60_000);
        let leaves = async {
            tokio::task::yield_now().await;
            drop(large);
        };
        let (waited, ()) = tokio::join!(waits, leaves);
        assert_eq!(waited.unwrap().1, 2, "it was made again once there was room");
        assert_eq!(free(), 100_000);
    }

    #[tokio::test]
    async fn an_answer_keeps_its_room_until_the_next_one_is_asked_for() {
        let ahead = ahead();
        let share = share(&ahead, "c");
        let (sender, receiver) = mpsc::channel(2);
        let mut pieces = Pieces::new(receiver);
        sender.send((Ok(1), Some(share.room(10).await.unwrap()))).await.unwrap();
        assert_eq!(pieces.next().await.unwrap().unwrap(), 1);
        assert_eq!(free(&ahead, "c").0, 30);
        sender.send((Ok(2), None)).await.unwrap();
        assert_eq!(pieces.next().await.unwrap().unwrap(), 2);
        assert_eq!(free(&ahead, "c").0, 40);
    }
}
