//! etcd: three members with default settings.
//!
//! Clients talk to the leader, which spares them the forwarding by a follower; one whose call fails
//! goes on at the next member.
//!
//! A whole copy is what a new member is sent: etcd has no other way to make one. It is the leader's
//! database only once the leader has let go of its oldest entries, which a cluster that has run for
//! longer than a measurement has; hence the `snapshot-count`.

mod messages;

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use async_trait::async_trait;
use bytes::Bytes;
use http::uri::PathAndQuery;
use keelson_testkit::{eventually, eventually_for, free_port};
use nix::sys::signal::Signal;
use tokio::time::timeout;
use tonic::Request;
use tonic::client::Grpc;
use tonic::transport::{Channel, Endpoint};
use tonic_prost::ProstCodec;

use crate::place::Place;
use crate::process::{Server, find_program, says};
use crate::target::{Abilities, Connection, Connections, Fault, Purpose, Target};
use messages::{
    MemberAddRequest, MemberRemoveRequest, MoveLeaderRequest, Nothing, PutRequest, RangeRequest,
    RangeResponse, RequestOp, StatusResponse, TxnRequest,
};

pub(crate) const SETTINGS: &str = "three members, default settings (heartbeat 100 ms, election \
    1 s, every entry synced), but a quota of 8 GiB, and snapshot-count 10000, so that a new \
    member is sent the database and not all entries since the beginning; no TLS; at most eight \
    HTTP/2 connections for all clients, all to the leader; Put, linearizable Range, Txn of 100 \
    puts; while the leader changes, a client whose put fails or takes 200 ms goes on at the next \
    member; a whole copy: a follower is removed and its files, and added anew";

const MEMBERS: usize = 3;
const CONNECTIONS_MAX: usize = 8;
const CALL_MAX: Duration = Duration::from_secs(10);
/// A put that was sent on to a leader that is gone would be answered after 7 s only. A healthy
/// leader takes a few milliseconds.
const PUT_MAX_AT_FAULTS: Duration = Duration::from_millis(200);
/// Between questions while a leader is looked for.
const QUESTION_MAX: Duration = Duration::from_secs(1);
const CATCH_UP_MAX: Duration = Duration::from_secs(600);

const PUT: &str = "/etcdserverpb.KV/Put";
const RANGE: &str = "/etcdserverpb.KV/Range";
const TXN: &str = "/etcdserverpb.KV/Txn";
const STATUS: &str = "/etcdserverpb.Maintenance/Status";
const MOVE_LEADER: &str = "/etcdserverpb.Maintenance/MoveLeader";
const MEMBER_ADD: &str = "/etcdserverpb.Cluster/MemberAdd";
const MEMBER_REMOVE: &str = "/etcdserverpb.Cluster/MemberRemove";

pub(crate) struct Etcd {
    members: Vec<Member>,
    version: String,
    /// The member that was killed.
    down: Option<usize>,
}

struct Member {
    program: PathBuf,
    directory: PathBuf,
    peer_url: String,
    arguments: Vec<String>,
    endpoint: Endpoint,
    server: Option<Server>,
}

impl Etcd {
    pub(crate) async fn start(place: &Place) -> Result<Self> {
        let program = find_program("etcd", "etcd-server")?;
        let version = says(&program, "--version")?;
        let directory = place.fresh("etcd")?;
        let mut ports = Vec::new();
        for _ in 0..MEMBERS {
            ports.push((free_port()?, free_port()?));
        }
        let url = |port: u16| format!("http://127.0.0.1:{port}");
        let peers = ports.iter().enumerate();
        let cluster: Vec<_> = peers
            .map(|(number, (_, peer))| format!("{}={}", member_name(number), url(*peer)))
            .collect();
        let mut members = Vec::new();
        for (number, (client, peer)) in ports.iter().enumerate() {
            let words = [
                ("--name", member_name(number)),
                ("--data-dir", directory.join(member_name(number)).display().to_string()),
                ("--listen-client-urls", url(*client)),
                ("--advertise-client-urls", url(*client)),
                ("--listen-peer-urls", url(*peer)),
                ("--initial-advertise-peer-urls", url(*peer)),
                ("--initial-cluster", cluster.join(",")),
                ("--initial-cluster-token", "peers".into()),
                ("--quota-backend-bytes", "8589934592".into()),
                ("--snapshot-count", "10000".into()),
            ];
            let mut member = Member {
                program: program.clone(),
                directory: directory.clone(),
                peer_url: url(*peer),
                arguments: words.map(|(word, value)| format!("{word}={value}")).to_vec(),
                endpoint: Endpoint::from_shared(url(*client))?.connect_timeout(QUESTION_MAX),
                server: None,
            };
            member.start(number, "new")?;
            members.push(member);
        }
        let new = Self { members, version, down: None };
        new.wait_until_whole().await?;
        Ok(new)
    }

    async fn status(&self, number: usize) -> Result<StatusResponse> {
        let channel = self.members[number].endpoint.connect_lazy();
        call(&mut Grpc::new(channel), STATUS, Nothing {}, QUESTION_MAX).await
    }

    /// Who leads, and what it says.
    async fn leader(&self) -> Result<(usize, StatusResponse)> {
        eventually("a member leads", || async {
            for number in 0..self.members.len() {
                if let Ok(status) = self.status(number).await
                    && status.leader != 0
                    && status.leader == status.member()
                {
                    return Ok((number, status));
                }
            }
            bail!("nobody leads")
        })
        .await
    }

    async fn follower(&self) -> Result<usize> {
        let (leader, _) = self.leader().await?;
        Ok((leader + 1) % self.members.len())
    }

    /// A call to the leader.
    async fn order<Q>(&self, path: &'static str, question: Q) -> Result<()>
    where
        Q: prost::Message + Send + Sync + 'static,
    {
        let (leader, _) = self.leader().await?;
        let mut client = Grpc::new(self.members[leader].endpoint.connect_lazy());
        let _: Nothing = call(&mut client, path, question, CALL_MAX).await?;
        Ok(())
    }

    /// Starts a member of the running cluster, and waits until it has all entries that there are:
    /// what it says then.
    async fn start_and_catch_up(&mut self, number: usize) -> Result<StatusResponse> {
        let (_, leader) = self.leader().await?;
        self.members[number].start(number, "existing")?;
        eventually_for(CATCH_UP_MAX, "the member has all entries", || async {
            let status = self.status(number).await?;
            ensure!(status.applied_index >= leader.index, "{status:?} of {}", leader.index);
            Ok(status)
        })
        .await
    }

    async fn wait_until_whole(&self) -> Result<()> {
        eventually("all members follow one leader", || async {
            let mut leaders = Vec::new();
            for number in 0..self.members.len() {
                leaders.push(self.status(number).await?.leader);
            }
            ensure!(leaders[0] != 0 && leaders.iter().all(|other| *other == leaders[0]), "not yet");
            Ok(())
        })
        .await
    }
}

fn member_name(number: usize) -> String {
    format!("e{}", number + 1)
}

impl Member {
    /// Starts it; `state` is that of the cluster when the member has no files yet.
    fn start(&mut self, number: usize, state: &str) -> Result<()> {
        let mut command = Command::new(&self.program);
        for (name, _) in std::env::vars_os() {
            // They would be settings.
            if name.to_string_lossy().starts_with("ETCD_") {
                command.env_remove(name);
            }
        }
        command.arg(format!("--initial-cluster-state={state}"));
        command.args(&self.arguments).current_dir(&self.directory);
        let log = self.directory.join(format!("{}.log", member_name(number)));
        self.server = Some(Server::start(command, &log, Signal::SIGKILL)?);
        Ok(())
    }
}

/// One call, with a deadline.
async fn call<Q, A>(
    client: &mut Grpc<Channel>,
    path: &'static str,
    question: Q,
    limit: Duration,
) -> Result<A>
where
    Q: prost::Message + Send + Sync + 'static,
    A: prost::Message + Default + Send + Sync + 'static,
{
    let answer = async {
        client.ready().await?;
        let path = PathAndQuery::from_static(path);
        let codec = ProstCodec::<Q, A>::default();
        anyhow::Ok(client.unary(Request::new(question), path, codec).await?.into_inner())
    };
    timeout(limit, answer).await.with_context(|| format!("{path} takes too long"))?
}

#[async_trait(?Send)]
impl Target for Etcd {
    fn version(&self) -> String {
        self.version.clone()
    }

    async fn connect(&self, clients: usize, purpose: Purpose) -> Result<Connections> {
        let (leader, _) = self.leader().await?;
        let mut groups = Vec::new();
        for _ in 0..clients.min(CONNECTIONS_MAX) {
            let channels = self.members.iter().map(|member| member.endpoint.connect_lazy());
            groups.push(channels.map(Grpc::new).collect::<Vec<_>>());
        }
        let limit = match purpose {
            Purpose::Load => CALL_MAX,
            Purpose::Fault => PUT_MAX_AT_FAULTS,
        };
        let new = |number: usize| {
            let members = groups[number % groups.len()].clone();
            Box::new(Client { members, at: leader, limit }) as Box<dyn Connection>
        };
        Ok((0..clients).map(new).collect())
    }

    fn abilities(&self) -> Abilities {
        Abilities { catches_up: true, has_data_process: false }
    }

    async fn switch_over(&mut self) -> Result<()> {
        let target = self.status(self.follower().await?).await?.member();
        self.order(MOVE_LEADER, MoveLeaderRequest { target }).await
    }

    async fn kill(&mut self, _: Fault) -> Result<()> {
        let (leader, _) = self.leader().await?;
        self.members[leader].server = None;
        self.down = Some(leader);
        Ok(())
    }

    async fn recover(&mut self) -> Result<()> {
        if let Some(number) = self.down.take() {
            self.members[number].start(number, "existing")?;
        }
        self.wait_until_whole().await
    }

    async fn stop_passive(&mut self) -> Result<()> {
        let follower = self.follower().await?;
        self.members[follower].server = None;
        self.down = Some(follower);
        Ok(())
    }

    async fn catch_up(&mut self) -> Result<()> {
        let number = self.down.take().context("no member is down")?;
        self.start_and_catch_up(number).await?;
        Ok(())
    }

    async fn seed(&mut self) -> Result<(u64, f64)> {
        let number = self.follower().await?;
        let id = self.status(number).await?.member();
        // Both are refused for some seconds after any member was away. An answer may be lost, and
        // nobody can be removed twice.
        let remove = || async {
            match self.order(MEMBER_REMOVE, MemberRemoveRequest { id }).await {
                Err(error) if format!("{error:#}").contains("member not found") => Ok(()),
                removed => removed,
            }
        };
        eventually("the member is removed", remove).await?;
        let member = &mut self.members[number];
        member.server = None;
        std::fs::remove_dir_all(member.directory.join(member_name(number)))?;
        let peer_urls = vec![member.peer_url.clone()];
        let add = || self.order(MEMBER_ADD, MemberAddRequest { peer_urls: peer_urls.clone() });
        eventually("the member is added", add).await?;
        let begun = Instant::now();
        let status = self.start_and_catch_up(number).await?;
        let seconds = begun.elapsed().as_secs_f64();
        self.wait_until_whole().await?;
        Ok((u64::try_from(status.db_size)?, seconds))
    }
}

struct Client {
    members: Vec<Grpc<Channel>>,
    at: usize,
    limit: Duration,
}

impl Client {
    async fn call<Q, A>(&mut self, path: &'static str, question: Q) -> Result<A>
    where
        Q: prost::Message + Send + Sync + 'static,
        A: prost::Message + Default + Send + Sync + 'static,
    {
        let result = call(&mut self.members[self.at], path, question, self.limit).await;
        if result.is_err() {
            self.at = (self.at + 1) % self.members.len();
        }
        result
    }
}

#[async_trait]
impl Connection for Client {
    async fn put(&mut self, key: Bytes, value: Bytes) -> Result<()> {
        let _: Nothing = self.call(PUT, PutRequest { key, value }).await?;
        Ok(())
    }

    async fn get(&mut self, key: Bytes) -> Result<Option<usize>> {
        let answer: RangeResponse = self.call(RANGE, RangeRequest { key }).await?;
        Ok(answer.pairs.first().map(|pair| pair.value.len()))
    }

    async fn batch(&mut self, records: Vec<(Bytes, Bytes)>) -> Result<()> {
        let put = |(key, value)| RequestOp { put: Some(PutRequest { key, value }) };
        let success = records.into_iter().map(put).collect();
        let _: Nothing = self.call(TXN, TxnRequest { success }).await?;
        Ok(())
    }
}
