//! Networks of a cluster: named lists of subnets, and what may travel where (F114 to F117).
//!
//! There is one client network at most, over which everything may go that has no better way, and
//! any number of replication networks. Subnets of all networks are disjoint, so that an address
//! belongs to one network at most.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::Refused;

/// Longest name of a network, in bytes.
pub const NETWORK_NAME_BYTES_MAX: usize = 128;
/// Most networks of a cluster.
pub const NETWORKS_MAX: usize = 32;
/// Most subnets of a network.
pub const SUBNETS_MAX: usize = 64;

/// Addresses with a common beginning, as `10.1.0.0/16` or `fd00::/64`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Subnet {
    first: IpAddr,
    prefix: u8,
}

/// An address as bits, those of IPv4 in front.
fn bits(address: IpAddr) -> (u128, u8) {
    match address {
        IpAddr::V4(address) => (u128::from(u32::from(address)) << 96, 32),
        IpAddr::V6(address) => (u128::from(address), 128),
    }
}

fn mask(prefix: u8) -> u128 {
    if prefix == 0 { 0 } else { u128::MAX << (128 - u32::from(prefix)) }
}

impl Subnet {
    /// Whether an address lies in it.
    #[must_use]
    pub fn contains(self, address: IpAddr) -> bool {
        let ((own, length), (other, other_length)) = (bits(self.first), bits(address));
        length == other_length && (own ^ other) & mask(self.prefix) == 0
    }

    /// Whether any address lies in both.
    #[must_use]
    pub fn overlaps(self, other: Self) -> bool {
        self.contains(other.first) || other.contains(self.first)
    }
}

impl FromStr for Subnet {
    type Err = Refused;

    fn from_str(text: &str) -> Result<Self, Refused> {
        let wrong = |why: &str| {
            let text = format!("{text:?} is no subnet like 10.1.0.0/16 or fd00::/64: {why}");
            Refused::bad_argument(text)
        };
        let (address, prefix) = text.split_once('/').ok_or_else(|| wrong("there is no prefix"))?;
        let first: IpAddr = address.parse().map_err(|_| wrong("it begins with no address"))?;
        let prefix: u8 = prefix.parse().map_err(|_| wrong("the prefix is no number"))?;
        let (bits, length) = bits(first);
        if prefix > length {
            return Err(wrong("the prefix is too long"));
        }
        if bits & !mask(prefix) != 0 {
            return Err(wrong("bits behind the prefix are set"));
        }
        Ok(Self { first, prefix })
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}/{}", self.first, self.prefix))
    }
}

impl TryFrom<String> for Subnet {
    type Error = Refused;

    fn try_from(text: String) -> Result<Self, Refused> {
        text.parse()
    }
}

impl From<Subnet> for String {
    fn from(subnet: Subnet) -> Self {
        subnet.to_string()
    }
}

/// What a network is for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NetworkRole {
    /// Clients, consensus, and whatever has no better way.
    Client,
    /// Log and seeds.
    #[default]
    Replication,
}

impl NetworkRole {
    /// Its name, for people and scripts.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Replication => "replication",
        }
    }
}

impl FromStr for NetworkRole {
    type Err = Refused;

    fn from_str(text: &str) -> Result<Self, Refused> {
        let found = [Self::Client, Self::Replication].into_iter().find(|role| role.name() == text);
        found.ok_or_else(|| {
            Refused::bad_argument(format!("a network is for client or replication, not {text:?}"))
        })
    }
}

/// When something is done with what members send each other (F115).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TrafficPolicy {
    /// Never.
    Disabled,
    /// Always.
    Enabled,
    /// Between members that share no subnet.
    #[default]
    InterSubnetOnly,
    /// For seeds.
    SeedOnly,
}

impl TrafficPolicy {
    /// All of them, for those who read their names.
    pub const ALL: [Self; 4] =
        [Self::Disabled, Self::Enabled, Self::InterSubnetOnly, Self::SeedOnly];

    /// Its name, for people and scripts.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Disabled => "disabled",
            Self::Enabled => "enabled",
            Self::InterSubnetOnly => "inter-subnet-only",
            Self::SeedOnly => "seed-only",
        }
    }
}

impl FromStr for TrafficPolicy {
    type Err = Refused;

    fn from_str(text: &str) -> Result<Self, Refused> {
        Self::ALL.into_iter().find(|policy| policy.name() == text).ok_or_else(|| {
            let names: Vec<_> = Self::ALL.iter().map(|policy| policy.name()).collect();
            Refused::bad_argument(format!("a policy is {}, not {text:?}", names.join(", ")))
        })
    }
}

/// One network.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct NetworkConfig {
    /// What it is for.
    pub role: NetworkRole,
    /// Its subnets.
    pub subnets: Vec<Subnet>,
    /// Nothing is sent over it on purpose; addresses in it count as none.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ignored: bool,
}

/// All networks of a cluster, and what is compressed on them.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Networks {
    /// By name.
    pub by_name: BTreeMap<String, NetworkConfig>,
    /// When log and seeds are compressed.
    pub compression: TrafficPolicy,
}

impl Networks {
    /// The networks with this one, or without it.
    ///
    /// # Errors
    /// `bad_argument` for a name or a subnet that cannot be, or that belongs to another network.
    pub fn with(&self, name: &str, network: Option<NetworkConfig>) -> Result<Self, Refused> {
        let mut networks = self.clone();
        match network {
            None if networks.by_name.remove(name).is_none() => {
                return Err(Refused::bad_argument(format!("there is no network {name:?}")));
            }
            None => {}
            Some(network) => drop(networks.by_name.insert(name.to_owned(), network)),
        }
        networks.validate(name)?;
        Ok(networks)
    }

    fn validate(&self, name: &str) -> Result<(), Refused> {
        let refuse = |text: String| Err(Refused::bad_argument(text));
        let readable = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if name.is_empty() || name.len() > NETWORK_NAME_BYTES_MAX || !name.chars().all(readable) {
            return refuse(format!(
                "a network is named by 1 to {NETWORK_NAME_BYTES_MAX} letters, digits, '-', '_', \
                 '.', not {name:?}"
            ));
        }
        if self.by_name.len() > NETWORKS_MAX {
            return refuse(format!("there can be {NETWORKS_MAX} networks"));
        }
        let clients = self.by_name.values().filter(|network| network.role == NetworkRole::Client);
        if clients.count() > 1 {
            return refuse("there can be one client network".into());
        }
        let Some(network) = self.by_name.get(name) else { return Ok(()) };
        if network.subnets.is_empty() || network.subnets.len() > SUBNETS_MAX {
            return refuse(format!("a network has 1 to {SUBNETS_MAX} subnets"));
        }
        for (index, subnet) in network.subnets.iter().enumerate() {
            let twice = network.subnets[..index].iter().any(|other| other.overlaps(*subnet));
            let others = self.by_name.iter().filter(|(other, _)| *other != name);
            let mut taken = others
                .filter(|(_, other)| other.subnets.iter().any(|other| other.overlaps(*subnet)));
            let holder = if twice { Some(name) } else { taken.next().map(|(name, _)| &**name) };
            if let Some(holder) = holder {
                return refuse(format!("{subnet} overlaps a subnet of the network {holder}"));
            }
        }
        Ok(())
    }

    /// The subnet of an address, with the name and the configuration of its network. An address
    /// given by a host name belongs to none.
    #[must_use]
    pub fn of(&self, address: &str) -> Option<(&str, &NetworkConfig, Subnet)> {
        let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
        let host: IpAddr = host.trim_matches(['[', ']']).parse().ok()?;
        self.by_name.iter().find_map(|(name, network)| {
            let subnet = network.subnets.iter().find(|subnet| subnet.contains(host))?;
            Some((&**name, network, *subnet))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(role: NetworkRole, subnets: &[&str]) -> NetworkConfig {
        let subnets = subnets.iter().map(|text| text.parse().unwrap()).collect();
        NetworkConfig { role, subnets, ignored: false }
    }

    #[test]
    fn subnets_are_read_and_hold_their_addresses() {
        let subnet: Subnet = "10.1.0.0/16".parse().unwrap();
        assert!(subnet.contains("10.1.255.3".parse().unwrap()));
        assert!(!subnet.contains("10.2.0.1".parse().unwrap()));
        assert!(!subnet.contains("::ffff:10.1.0.1".parse().unwrap()), "another family");
        let all: Subnet = "0.0.0.0/0".parse().unwrap();
        assert!(all.overlaps(subnet) && subnet.overlaps(all));
        let six: Subnet = "fd00:1::/32".parse().unwrap();
        assert!(six.contains("fd00:1::7".parse().unwrap()) && !six.overlaps(all));
        assert_eq!(six.to_string().parse::<Subnet>(), Ok(six));
        for wrong in ["", "10.1.0.0", "10.1.0.0/33", "10.1.0.1/16", "host/8", "10.1.0.0/x"] {
            assert!(wrong.parse::<Subnet>().is_err(), "{wrong}");
        }
    }

    /// F116: one client network, disjoint subnets.
    #[test]
    fn networks_are_disjoint_and_one_is_for_clients() {
        use NetworkRole::{Client, Replication};
        let one = Networks::default().with("mapi", Some(network(Client, &["10.0.0.0/24"])));
        let one = one.unwrap();
        let two = one.with("repl", Some(network(Replication, &["10.1.0.0/24", "10.2.0.0/24"])));
        let two = two.unwrap();
        assert_eq!(two.of("10.2.0.7:7401").map(|(name, ..)| name), Some("repl"));
        assert_eq!(two.of("10.3.0.7:7401"), None);
        assert_eq!(two.of("server.example:7401"), None, "a name belongs to no subnet");
        for wrong in [
            network(Client, &["10.9.0.0/24"]),
            network(Replication, &[]),
            network(Replication, &["10.0.0.0/16"]),
            network(Replication, &["10.9.0.0/24", "10.9.0.0/25"]),
        ] {
            assert!(two.with("other", Some(wrong.clone())).is_err(), "{wrong:?}");
        }
        assert!(two.with("a b", Some(network(Replication, &["10.9.0.0/24"]))).is_err());
        assert!(two.with("nobody", None).is_err());
        assert_eq!(two.with("repl", None), Ok(one));
    }
}
