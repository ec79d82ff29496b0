//! The network between members, which tests can cut.
//!
//! Owns one forwarder per listening address of a member; members advertise the forwarders, so all
//! that they say to each other, mTLS included, passes through this process unread. Who dials is
//! found out from the source port (see [`Dialers`]); whoever is no member counts as one of
//! [`CLIENTS`], whose ways can be cut too, except to the endpoints that they were given.
//!
//! In a direction that is cut nothing moves, as if packets were lost: connections neither end nor
//! answer, and what waits goes on after healing. At most a buffer of bytes waits per connection.
//! What a slow member hears or says takes its time, a buffer after the other; connections that are
//! reset end at once.

mod dialers;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use dialers::Dialers;

/// The name of all dialers that are no members: clients and commands.
pub const CLIENTS: &str = "clients";

/// Bytes that a forwarder holds per direction of a connection.
const BUFFER_BYTES: usize = 64 * 1024;

/// A direction: from a member to a member.
type Direction = (String, String);

/// What is wrong with the network.
#[derive(Clone, Debug, Default)]
struct State {
    /// Directions in which nothing moves.
    cuts: BTreeSet<Direction>,
    /// What each buffer from and to a member takes longer.
    slow: BTreeMap<String, Duration>,
    /// How often the connections of a member were reset.
    resets: BTreeMap<String, u64>,
}

impl State {
    fn delay(&self, (from, to): &Direction) -> Duration {
        let of = |name| self.slow.get(name).copied().unwrap_or_default();
        of(from).max(of(to))
    }

    /// Changes when connections of this direction are reset.
    fn resets(&self, (from, to): &Direction) -> u64 {
        let of = |name| self.resets.get(name).copied().unwrap_or_default();
        of(from) + of(to)
    }
}

/// The forwarders of a cluster and what is cut. Dropping it ends all connections.
#[derive(Debug)]
pub struct Network {
    state: watch::Sender<State>,
    forwarders: JoinSet<()>,
    dialers: Dialers,
}

impl Network {
    /// A whole network for members whose directories lie in `home` and bear their names.
    #[must_use]
    pub fn new(home: &Path) -> Self {
        let dialers = Dialers::new(home);
        Self { state: watch::Sender::default(), forwarders: JoinSet::new(), dialers }
    }

    /// Opens a way from `host` to `address` of the member `to`; gives the address to be
    /// advertised.
    pub(crate) async fn forward(&mut self, to: &str, host: &str, address: &str) -> Result<String> {
        let listener = TcpListener::bind(format!("{host}:0")).await?;
        let own = listener.local_addr()?;
        let way = Way {
            own,
            to: to.to_owned(),
            target: address.parse()?,
            state: self.state.subscribe(),
            dialers: self.dialers.clone(),
        };
        self.forwarders.spawn(way.run(listener));
        Ok(own.to_string())
    }

    /// Nothing gets from `from` to `to` any more; the other direction stays as it is.
    pub fn cut_one_way(&self, from: &str, to: &str) {
        self.state.send_modify(|state| {
            state.cuts.insert((from.to_owned(), to.to_owned()));
        });
    }

    /// Cuts the pair both ways.
    pub fn cut(&self, one: &str, other: &str) {
        self.cut_one_way(one, other);
        self.cut_one_way(other, one);
    }

    /// Cuts everything between the members of `group` and those of `others`.
    pub fn part(&self, group: &[&str], others: &[&str]) {
        for one in group {
            others.iter().for_each(|other| self.cut(one, other));
        }
    }

    /// The pair hears each other again.
    pub fn heal(&self, one: &str, other: &str) {
        let pair = |(from, to): &(String, String)| {
            (from == one && to == other) || (from == other && to == one)
        };
        self.state.send_modify(|state| state.cuts.retain(|cut| !pair(cut)));
    }

    /// Each buffer that `member` hears or says takes so much longer.
    pub fn slow_down(&self, member: &str, delay: Duration) {
        self.state.send_modify(|state| {
            state.slow.insert(member.to_owned(), delay);
        });
    }

    /// Ends all connections between `member` and others.
    pub fn reset(&self, member: &str) {
        self.state.send_modify(|state| *state.resets.entry(member.to_owned()).or_default() += 1);
    }

    /// Everybody hears everybody again, at full speed.
    pub fn heal_all(&self) {
        self.state.send_modify(|state| {
            state.cuts.clear();
            state.slow.clear();
        });
    }
}

/// One forwarder.
#[derive(Clone)]
struct Way {
    own: SocketAddr,
    to: String,
    target: SocketAddr,
    state: watch::Receiver<State>,
    dialers: Dialers,
}

impl Way {
    async fn run(self, listener: TcpListener) {
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                Some(_) = connections.join_next() => {}
                accepted = listener.accept() => {
                    // Without a connection there is nothing to forward; the dialer tries again.
                    let Ok((inbound, peer)) = accepted else { continue };
                    connections.spawn(self.clone().carry(inbound, peer));
                }
            }
        }
    }

    /// Carries one connection until both directions ended.
    async fn carry(self, inbound: TcpStream, peer: SocketAddr) {
        let from = self.dialers.clone().of(peer, self.own).await;
        let from = from.unwrap_or_else(|| CLIENTS.to_owned());
        let Ok(outbound) = TcpStream::connect(self.target).await else { return };
        // The members set it, too; without it every small frame waits for an acknowledgement.
        let _ = (inbound.set_nodelay(true), outbound.set_nodelay(true));
        let (in_read, in_write) = inbound.into_split();
        let (out_read, out_write) = outbound.into_split();
        let (there, back) = ((from.clone(), self.to.clone()), (self.to.clone(), from));
        let carried = async {
            tokio::join!(
                pump(in_read, out_write, there.clone(), self.state.clone()),
                pump(out_read, in_write, back, self.state.clone()),
            )
        };
        let mut state = self.state.clone();
        let before = state.borrow().resets(&there);
        tokio::select! {
            _ = carried => {}
            _ = state.wait_for(|state| state.resets(&there) != before) => {}
        }
    }
}

/// Moves bytes in one direction while it is whole. An end, too, arrives only then.
async fn pump(
    mut read: impl AsyncRead + Unpin,
    mut write: impl AsyncWrite + Unpin,
    direction: Direction,
    mut state: watch::Receiver<State>,
) {
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let count = read.read(&mut buffer).await.unwrap_or(0);
        let delay = state.borrow().delay(&direction);
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        // The network is gone only when the cluster is.
        if state.wait_for(|state| !state.cuts.contains(&direction)).await.is_err() {
            return;
        }
        if count == 0 || write.write_all(&buffer[..count]).await.is_err() {
            // The other end may have gone already.
            let _ = write.shutdown().await;
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names((from, to): (&str, &str)) -> (String, String) {
        (from.to_owned(), to.to_owned())
    }

    /// Bytes of a cut direction wait, those of the other pass, and nothing is lost by healing.
    #[tokio::test]
    async fn a_cut_direction_holds_its_bytes_until_it_is_healed() {
        let network = Network::new(Path::new("/nowhere"));
        network.cut_one_way("m1", "m2");
        let (mut m1, m1_far) = tokio::io::duplex(64);
        let (mut m2, m2_far) = tokio::io::duplex(64);
        let (m1_read, m1_write) = tokio::io::split(m1_far);
        let (m2_read, m2_write) = tokio::io::split(m2_far);
        let state = || network.state.subscribe();
        let there = tokio::spawn(pump(m1_read, m2_write, names(("m1", "m2")), state()));
        let back = tokio::spawn(pump(m2_read, m1_write, names(("m2", "m1")), state()));
        m1.write_all(b"question").await.unwrap();
        m2.write_all(b"notice").await.unwrap();
        let mut heard = [0; 6];
        m1.read_exact(&mut heard).await.unwrap();
        assert_eq!(&heard, b"notice");
        let mut first = [0; 8];
        let mut early = Box::pin(m2.read_exact(&mut first));
        tokio::select! {
            biased;
            _ = &mut early => panic!("a byte came through"),
            () = tokio::task::yield_now() => {}
        }
        network.heal("m2", "m1");
        early.await.unwrap();
        assert_eq!(&first, b"question");
        drop((m1, m2));
        assert!(there.await.is_ok() && back.await.is_ok());
    }
}
