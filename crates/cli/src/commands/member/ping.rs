//! `keelson member ping`: asks the two processes of this machine's member, or the one of a witness,
//! whether they serve, with its own certificate. For health checks of containers and service
//! managers.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use keelson_net::{Expect, PeerChannel, TlsStore};
use keelson_server::{Config, Problem};
use keelson_types::RefusalReason;
use keelson_wire::refusal_of;
use serde_json::json;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::context::Global;
use crate::failure::{Failure, Outcome};
use crate::output::{self, column};

/// How long a process may take to answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);

#[derive(Args, Debug)]
pub(crate) struct Ping {
    /// Configuration of the member that runs on this machine
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

impl Ping {
    pub(super) async fn run(self, global: &Global) -> Outcome {
        let config = Config::load(&self.config)?;
        let tls = TlsStore::open(config.tls().clone()).map_err(Problem::from)?;
        let mut processes = vec![("control", config.control_address())];
        if !keelson_server::is_witness(config.data_dir()) {
            processes.push(("data", config.data_address()));
        }
        let mut rows = Vec::new();
        let mut silent = Vec::new();
        for (process, address) in processes {
            let address = reachable(address);
            let expect = Expect::Member(config.name().clone());
            let said = ask(PeerChannel::new(tls.clone(), &address, expect)).await;
            if let Err(why) = &said {
                silent.push(format!("the {process} process does not serve: {why}"));
            }
            rows.push((process, address, said));
        }
        if !silent.is_empty() {
            return Err(Failure::new(RefusalReason::Unreachable, silent.join("; ")));
        }
        let data: serde_json::Value =
            rows.iter().map(|(process, address, _)| {
                json!({ "process": process, "address": address, "serving": true })
            }).collect();
        let rows = rows
            .into_iter()
            .map(|(process, address, _)| vec![process.to_owned(), address, "serving".to_owned()]);
        let columns = [column("process"), column("address"), column("state")];
        output::print_list(global.output, &columns, rows.collect(), &data);
        Ok(())
    }
}

async fn ask(channel: PeerChannel) -> Result<(), String> {
    let mut request = tonic::Request::new(HealthCheckRequest::default());
    request.set_timeout(ANSWER_LIMIT);
    let answer = HealthClient::new(channel).check(request).await;
    let answer = answer.map_err(|status| refusal_of(&status).to_string())?;
    match answer.into_inner().status() {
        ServingStatus::Serving => Ok(()),
        other => Err(format!("it says {}", other.as_str_name())),
    }
}

/// An address to dial for one to listen at: "every interface" is reached over loopback.
fn reachable(listen: &str) -> String {
    match listen.parse::<SocketAddr>() {
        Ok(SocketAddr::V4(all)) if all.ip().is_unspecified() => {
            SocketAddr::from((Ipv4Addr::LOCALHOST, all.port())).to_string()
        }
        Ok(SocketAddr::V6(all)) if all.ip().is_unspecified() => {
            SocketAddr::from((Ipv6Addr::LOCALHOST, all.port())).to_string()
        }
        _ => listen.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_interface_is_reached_over_loopback() {
        assert_eq!(reachable("0.0.0.0:7400"), "127.0.0.1:7400");
        assert_eq!(reachable("[::]:7400"), "[::1]:7400");
        assert_eq!(reachable("m1:7400"), "m1:7400");
    }
}
