//! `keelson cluster form`: makes a cluster of running servers, and may be repeated at any time.
//!
//! Meant for whatever starts machines by itself. A cluster is founded only once every server named
//! was heard and none belongs to one; so a first server that lost its data, or a network that is
//! cut, never makes a second cluster beside the first.

use std::collections::BTreeSet;
use std::str::FromStr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::Args;
use futures::future::join_all;
use keelson_client::{Client, ClientError, ClientOptions};
use keelson_types::RefusalReason;
use keelson_wire::v1::ClusterStatusResponse;
use serde_json::json;

use crate::context::Global;
use crate::failure::{Failure, Outcome};
use crate::{output, text};

/// How long one server may take to say where it stands.
const ASK_LIMIT: Duration = Duration::from_secs(5);

/// Pause between two looks.
const PAUSE: Duration = Duration::from_millis(500);

/// A server as named on the command line.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Server {
    name: String,
    address: String,
    /// A vote without data; never the founder, because it stands behind all others.
    witness: bool,
}

impl FromStr for Server {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            Some((name, address)) if !name.is_empty() && address.contains(':') => {
                Ok(Self { name: name.into(), address: address.into(), witness: false })
            }
            _ => Err("write NAME=HOST:PORT".into()),
        }
    }
}

#[derive(Args, Debug)]
pub(crate) struct Form {
    /// Servers as NAME=HOST:PORT (control address); the first one founds the cluster
    #[arg(required = true)]
    servers: Vec<Server>,
    /// Witness as NAME=HOST:PORT, added behind the servers; may be repeated
    #[arg(long = "witness", value_name = "WITNESS")]
    witnesses: Vec<Server>,
    /// How long to wait for servers that do not answer yet, and for all to serve
    #[arg(
        long,
        value_name = "TIME",
        default_value = "1m",
        value_parser = humantime::parse_duration
    )]
    wait: Duration,
}

/// What a server says of itself.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Standing {
    /// It is in no cluster.
    Free,
    /// It belongs to this cluster, whose members are called so. None: it was being founded.
    Belongs { cluster: Bytes, members: BTreeSet<String> },
    /// It could not be asked, and why.
    Silent(String),
}

/// What is to be done next.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Step {
    /// Found the cluster with the server of this number.
    Found(usize),
    /// Add the servers of these numbers; none: all are in.
    Add(Vec<usize>),
    /// Ask again.
    Wait(String),
    /// An operator must look.
    Refuse(String),
}

/// Decides from what the servers said, in the order of the command line.
fn decide(servers: &[Server], standings: &[Standing]) -> Step {
    let belong = |standing: &Standing| match standing {
        Standing::Belongs { cluster, members } => Some((cluster.clone(), members.clone())),
        Standing::Free | Standing::Silent(_) => None,
    };
    let found: Vec<_> = standings.iter().map(belong).collect();
    let clusters: BTreeSet<_> = found.iter().flatten().map(|(cluster, _)| cluster).collect();
    if clusters.len() > 1 {
        let names: Vec<_> = clusters.into_iter().map(|cluster| text::id(cluster)).collect();
        return Step::Refuse(format!("the servers belong to several: {}", names.join(", ")));
    }
    let members: BTreeSet<_> = found.iter().flatten().flat_map(|(_, members)| members).collect();
    if members.is_empty() {
        let silent = servers.iter().zip(standings).find_map(|(server, standing)| match standing {
            Standing::Silent(why) => Some(format!("{} was not heard: {why}", server.name)),
            Standing::Free | Standing::Belongs { .. } => None,
        });
        let begun = found.iter().position(Option::is_some);
        return silent.map_or(Step::Found(begun.unwrap_or(0)), Step::Wait);
    }
    let missing = |number: &usize| !members.contains(&servers[*number].name);
    Step::Add((0..servers.len()).filter(missing).collect())
}

impl Form {
    pub(super) async fn run(mut self, global: &Global) -> Outcome {
        let witnesses = std::mem::take(&mut self.witnesses);
        self.servers.extend(witnesses.into_iter().map(|w| Server { witness: true, ..w }));
        if global.what_if {
            global.only_shows(&self.plan(&self.ask(global).await?));
            return Ok(());
        }
        let deadline = Instant::now() + self.wait;
        loop {
            let outcome = self.advance(global).await;
            match outcome {
                Ok(Some(status)) => return report(global, &status),
                Ok(None) => {}
                Err(failure) if !failure.may_pass() || Instant::now() >= deadline => {
                    return Err(failure);
                }
                Err(_) => tokio::time::sleep(PAUSE).await,
            }
        }
    }

    fn plan(&self, standings: &[Standing]) -> String {
        let names = |numbers: &[usize]| {
            let names: Vec<_> = numbers.iter().map(|n| self.servers[*n].name.as_str()).collect();
            names.join(", ")
        };
        match decide(&self.servers, standings) {
            Step::Found(first) => {
                let others: Vec<_> = (0..self.servers.len()).filter(|n| *n != first).collect();
                format!("found a cluster with {}, then add {}", names(&[first]), names(&others))
            }
            Step::Add(numbers) if numbers.is_empty() => "change nothing: all are members".into(),
            Step::Add(numbers) => format!("add {}", names(&numbers)),
            Step::Wait(why) => format!("wait: {why}"),
            Step::Refuse(why) => format!("refuse: {why}"),
        }
    }

    /// One step; the status of the cluster once it is whole.
    async fn advance(&self, global: &Global) -> Outcome<Option<ClusterStatusResponse>> {
        match decide(&self.servers, &self.ask(global).await?) {
            Step::Refuse(why) => Err(Failure::new(RefusalReason::ForeignCluster, why)),
            Step::Wait(why) => Err(Failure::new(RefusalReason::Unreachable, why)),
            Step::Found(first) => {
                let founder = std::slice::from_ref(&self.servers[first]);
                client(global, founder, ClientOptions::default())?.admin().init_cluster().await?;
                Ok(None)
            }
            Step::Add(numbers) => {
                let admin = client(global, &self.servers, ClientOptions::default())?.admin();
                for number in numbers {
                    let server = &self.servers[number];
                    match server.witness {
                        true => admin.add_witness(&server.address, &server.name).await?,
                        false => admin.add_member(&server.address, &server.name).await?,
                    };
                }
                whole(admin.cluster_status().await?).map(Some)
            }
        }
    }

    async fn ask(&self, global: &Global) -> Outcome<Vec<Standing>> {
        let options =
            ClientOptions { deadline: ASK_LIMIT, per_try: ASK_LIMIT, ..ClientOptions::default() };
        let clients =
            self.servers.iter().map(|server| client(global, std::slice::from_ref(server), options));
        let clients = clients.collect::<Outcome<Vec<_>>>()?;
        let answers = clients.iter().map(|client| async { client.admin().cluster_status().await });
        Ok(join_all(answers).await.into_iter().map(standing).collect())
    }
}

fn client(global: &Global, servers: &[Server], options: ClientOptions) -> Outcome<Client> {
    let endpoints = servers.iter().map(|server| server.address.clone()).collect();
    global.client_at(endpoints, options)
}

fn standing(answer: Result<ClusterStatusResponse, ClientError>) -> Standing {
    match answer {
        Ok(status) => Standing::Belongs {
            cluster: status.cluster,
            members: status.members.into_iter().map(|member| member.name).collect(),
        },
        Err(error) if error.reason == RefusalReason::Precondition => Standing::Free,
        Err(error) => Standing::Silent(error.to_string()),
    }
}

fn whole(status: ClusterStatusResponse) -> Outcome<ClusterStatusResponse> {
    let down = status.members.iter().filter(|m| !m.reachable || !(m.data_process_up || m.witness));
    let mut waits: Vec<_> = down.map(|member| format!("{} is not up", member.name)).collect();
    if status.leader.is_empty() {
        waits.push("there is no leader".into());
    }
    if waits.is_empty() {
        return Ok(status);
    }
    Err(Failure::new(RefusalReason::Unreachable, waits.join(", ")))
}

fn report(global: &Global, status: &ClusterStatusResponse) -> Outcome {
    let cluster = text::id(&status.cluster);
    let names: Vec<_> = status.members.iter().map(|member| member.name.as_str()).collect();
    let sentence = format!("cluster {cluster} has the members {}", names.join(", "));
    output::print_done(global.output, &sentence, &json!({ "cluster": cluster, "members": names }));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn servers() -> Vec<Server> {
        ["m1=a:1", "m2=b:1", "m3=c:1"].map(|text| text.parse().unwrap()).to_vec()
    }

    fn belongs(cluster: u8, members: &[&str]) -> Standing {
        let members = members.iter().map(ToString::to_string).collect();
        Standing::Belongs { cluster: vec![cluster].into(), members }
    }

    #[track_caller]
    fn check(standings: [Standing; 3], expected: &Step) {
        assert_eq!(decide(&servers(), &standings), *expected);
    }

    #[test]
    fn a_cluster_is_founded_only_when_everybody_was_heard() {
        let (free, silent) = (Standing::Free, Standing::Silent("down".into()));
        check([free.clone(), free.clone(), free.clone()], &Step::Found(0));
        let wait = Step::Wait("m3 was not heard: down".into());
        check([free.clone(), free.clone(), silent.clone()], &wait);
        // The founding was interrupted: it goes on where it was begun.
        check([free.clone(), belongs(7, &[]), free.clone()], &Step::Found(1));
        check([free, belongs(7, &[]), silent], &wait);
    }

    #[test]
    fn what_is_missing_is_added_and_nothing_is_founded_twice() {
        let (free, silent) = (Standing::Free, Standing::Silent("down".into()));
        check([belongs(7, &["m1"]), free.clone(), free.clone()], &Step::Add(vec![1, 2]));
        // m1 lost its data and the others know it: it is not founded anew.
        let known = belongs(7, &["m1", "m2"]);
        check([free.clone(), known.clone(), silent.clone()], &Step::Add(vec![2]));
        // A member that joined and was not admitted yet knows its cluster and nobody in it.
        check([known, belongs(7, &[]), free], &Step::Add(vec![2]));
        let all = belongs(7, &["m1", "m2", "m3"]);
        check([all.clone(), all, silent], &Step::Add(Vec::new()));
    }

    #[test]
    fn servers_of_two_clusters_are_refused() {
        let step = decide(&servers(), &[belongs(1, &["m1"]), belongs(2, &["m2"]), Standing::Free]);
        assert!(matches!(step, Step::Refuse(_)), "{step:?}");
        assert!("m1".parse::<Server>().is_err() && "m1=host".parse::<Server>().is_err());
    }
}
