//! Networks between members: what operators say of them, who is on them, which way log goes (F114
//! to F117).

use std::sync::Arc;

use keelson_cluster_core::{ClusterState, Command};
use keelson_types::{
    DatabaseId, NetworkConfig, Networks, RefusalReason, Refused, Subnet, TrafficPolicy,
};
use keelson_wire::Refusal;
use keelson_wire::v1::{
    ListNetworksRequest, ListNetworksResponse, LogPathRow, NetworkRow, SetNetworkRequest,
    SetNetworkResponse,
};

use super::refusal;
use crate::context::Context;

fn refused(refused: Refused) -> Refusal {
    Refusal::new(refused.reason, refused.message)
}

/// Everything between members is mutual TLS; a word against it is refused, not left out.
pub(super) fn check_encryption(policy: &str) -> Result<(), Refusal> {
    if policy.is_empty() {
        return Ok(());
    }
    match policy.parse::<TrafficPolicy>().map_err(refused)? {
        TrafficPolicy::Enabled => Ok(()),
        other => {
            let what = format!("encryption {} would leave log or seeds readable", other.name());
            Err(refusal(RefusalReason::EncryptionRequired, what))
        }
    }
}

impl Context {
    pub(super) async fn admin_list_networks(
        self: &Arc<Self>,
        _: ListNetworksRequest,
    ) -> Result<ListNetworksResponse, Refusal> {
        self.cluster()?;
        let holders: Vec<_> = self.applied.read(|state| state.members.keys().copied().collect());
        // Of no database: the members' own facts are enough.
        let facts = self.facts_of(holders, &[DatabaseId::from_u128(0)]).await;
        let mut answer = self.applied.read(rows);
        for (member, facts) in facts {
            let name = self.name_of_member(member);
            match facts {
                Ok(facts) => answer.paths.extend(
                    facts
                        .log_paths
                        .into_iter()
                        .map(|path| LogPathRow { member: name.clone(), path: Some(path) }),
                ),
                Err(_) => answer.silent_members.push(name),
            }
        }
        answer.paths.sort_by(|one, other| one.member.cmp(&other.member));
        Ok(answer)
    }

    pub(super) async fn admin_set_network(
        self: &Arc<Self>,
        request: SetNetworkRequest,
    ) -> Result<SetNetworkResponse, Refusal> {
        self.require_leader()?;
        check_encryption(request.encryption.as_deref().unwrap_or_default())?;
        let networks = self.applied.read(|state| state.networks.clone());
        let commands = changes(&networks, &request).map_err(refused)?;
        if request.what_if || commands.is_empty() {
            return Ok(SetNetworkResponse {});
        }
        let (_, answer) = self.propose_here(Command::Batch(commands)).await?.answer()?;
        super::seeds::first_refused(answer)?;
        Ok(SetNetworkResponse {})
    }
}

fn rows(state: &ClusterState) -> ListNetworksResponse {
    let networks = &state.networks;
    let row = |(name, network): (&String, &NetworkConfig)| {
        let members = state.members.values().flat_map(|member| {
            let config = &member.config;
            let all = std::iter::once(&config.data_address).chain(&config.replication_addresses);
            let inside =
                all.filter(|address| networks.of(address).is_some_and(|(of, ..)| of == name));
            inside.map(|address| format!("{}={address}", config.name)).collect::<Vec<_>>()
        });
        NetworkRow {
            name: name.clone(),
            role: network.role.name().into(),
            subnets: network.subnets.iter().map(Subnet::to_string).collect(),
            ignored: network.ignored,
            addresses: members.collect(),
        }
    };
    ListNetworksResponse {
        networks: networks.by_name.iter().map(row).collect(),
        compression: networks.compression.name().into(),
        ..ListNetworksResponse::default()
    }
}

/// The commands that do what is asked, checked against the networks that there are.
fn changes(networks: &Networks, request: &SetNetworkRequest) -> Result<Vec<Command>, Refused> {
    let mut commands = Vec::new();
    if let Some(policy) = &request.compression {
        commands.push(Command::SetCompression { policy: policy.parse()? });
    }
    let name = request.name.clone();
    if name.is_empty() {
        return Ok(commands);
    }
    let network = match request.remove {
        true => None,
        false => {
            let mut network = networks.by_name.get(&name).cloned().unwrap_or_default();
            if let Some(role) = &request.role {
                network.role = role.parse()?;
            }
            if !request.subnets.is_empty() {
                let subnets = request.subnets.iter().map(|text| text.parse());
                network.subnets = subnets.collect::<Result<_, _>>()?;
            }
            network.ignored = request.ignored.unwrap_or(network.ignored);
            Some(network)
        }
    };
    networks.with(&name, network.clone())?;
    commands.push(Command::SetNetwork { name, network });
    Ok(commands)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// F115: the other three values would leave something unencrypted.
    #[test]
    fn encryption_is_not_to_be_switched_off() {
        for allowed in ["", "enabled"] {
            assert!(check_encryption(allowed).is_ok(), "{allowed}");
        }
        for policy in ["disabled", "inter-subnet-only", "seed-only"] {
            let refused = check_encryption(policy).unwrap_err();
            assert_eq!(refused.reason, RefusalReason::EncryptionRequired, "{policy}");
        }
        assert_eq!(check_encryption("x").unwrap_err().reason, RefusalReason::BadArgument);
    }

    #[test]
    fn what_is_not_named_stays_as_it_is() {
        let asked = |subnets: &[&str], role: Option<&str>| SetNetworkRequest {
            name: "repl".into(),
            role: role.map(str::to_owned),
            subnets: subnets.iter().map(|text| (*text).to_owned()).collect(),
            ..SetNetworkRequest::default()
        };
        let networks = Networks::default();
        assert!(changes(&networks, &asked(&[], None)).is_err(), "a new one needs subnets");
        let made = changes(&networks, &asked(&["10.1.0.0/16"], Some("client"))).unwrap();
        let [Command::SetNetwork { name, network }] = &made[..] else { panic!("{made:?}") };
        let networks = networks.with(name, network.clone()).unwrap();
        let ignored = SetNetworkRequest { ignored: Some(true), ..asked(&[], None) };
        let changed = changes(&networks, &ignored).unwrap();
        let expected = NetworkConfig { ignored: true, ..networks.by_name["repl"].clone() };
        let network = Some(expected);
        assert_eq!(changed, [Command::SetNetwork { name: "repl".into(), network }]);
    }
}
