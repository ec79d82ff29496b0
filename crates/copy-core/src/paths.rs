//! Which way log and seeds go from one member to another, and whether they are compressed on it
//! (F55 to F57, F114 to F117).
//!
//! Pure: [`ways`] lists the addresses of the other end in the order in which they are tried. The
//! client network comes last and never lacks, so that a replication network that is cut costs
//! speed and nothing else.

use keelson_types::{NetworkRole, Networks, Subnet, TrafficPolicy};

/// What is sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Purpose {
    /// Log, as it is written.
    Shipping,
    /// A database.
    Seeding,
    /// A content index, which keeps to the client network.
    CatalogSeeding,
}

/// One end of a way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct End<'a> {
    /// Its datacenter.
    pub site: &'a str,
    /// Where clients find its data process, `host:port`.
    pub client: &'a str,
    /// Where it listens besides, for other members.
    pub replication: &'a [String],
}

/// What an operator said for one seed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Overrides<'a> {
    /// This network before any other.
    pub network: Option<&'a str>,
    /// Compressed or not, whatever the policy says.
    pub compression: Option<bool>,
}

/// A way to the other end.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Way {
    /// What to dial.
    pub address: String,
    /// The network that it belongs to; nothing if none was named.
    pub network: Option<String>,
    /// What is sent on it is compressed.
    pub compressed: bool,
}

impl Way {
    /// The way that there always is.
    #[must_use]
    pub fn to(address: &str) -> Self {
        Self { address: address.to_owned(), network: None, compressed: false }
    }
}

/// The ways from one member to another, best first; at least one.
///
/// Log may use every replication network that both ends belong to, one of a shared subnet first.
/// Seeds use one only within a subnet, and none between sites, where it may not be meant to carry
/// them; an operator's word comes before that.
#[must_use]
pub fn ways(
    networks: &Networks,
    (own, other): (End<'_>, End<'_>),
    purpose: Purpose,
    overrides: Overrides<'_>,
) -> Vec<Way> {
    let mut found: Vec<(u8, Way)> = Vec::new();
    for address in other.replication {
        let Some((name, network, subnet)) = networks.of(address) else { continue };
        if network.ignored || network.role != NetworkRole::Replication {
            continue;
        }
        let Some(near) = reaches(networks, own, name, subnet) else { continue };
        let asked = overrides.network == Some(name);
        let default = match purpose {
            Purpose::Shipping => true,
            Purpose::Seeding => near && own.site == other.site,
            Purpose::CatalogSeeding => false,
        };
        if !(asked || default) || purpose == Purpose::CatalogSeeding {
            continue;
        }
        let compressed = compresses(networks.compression, purpose, near, overrides.compression);
        let network = Some(name.to_owned());
        let way = Way { address: address.clone(), network, compressed };
        found.push((if asked { 0 } else { 2 - u8::from(near) }, way));
    }
    // Stable: within a rank, as the other end lists them.
    found.sort_by_key(|(rank, _)| *rank);
    let client = client_way(networks, own, other, purpose, overrides);
    let wanted = client.network.is_some() && client.network.as_deref() == overrides.network;
    let mut ways: Vec<_> = found.into_iter().map(|(_, way)| way).collect();
    if wanted {
        ways.insert(0, client);
    } else {
        ways.push(client);
    }
    ways
}

/// Whether an end has an address in a network; and if so, whether one in that subnet.
fn reaches(networks: &Networks, own: End<'_>, name: &str, subnet: Subnet) -> Option<bool> {
    let addresses = own.replication.iter().filter_map(|address| networks.of(address));
    let mut here = addresses.filter(|(known, ..)| *known == name).peekable();
    here.peek()?;
    Some(here.any(|(_, _, known)| known == subnet))
}

/// Over the client network, which is also the way where no network was named. Ends whose subnets
/// nobody knows share one if they share a site.
fn client_way(
    networks: &Networks,
    own: End<'_>,
    other: End<'_>,
    purpose: Purpose,
    overrides: Overrides<'_>,
) -> Way {
    let (here, there) = (networks.of(own.client), networks.of(other.client));
    let near = match (here, there) {
        (Some((_, _, here)), Some((_, _, there))) => here == there,
        _ => own.site == other.site,
    };
    Way {
        address: other.client.to_owned(),
        network: there.map(|(name, ..)| name.to_owned()),
        compressed: compresses(networks.compression, purpose, near, overrides.compression),
    }
}

/// Whether what is sent is compressed. `near`: within one subnet.
#[must_use]
pub fn compresses(
    policy: TrafficPolicy,
    purpose: Purpose,
    near: bool,
    asked: Option<bool>,
) -> bool {
    asked.unwrap_or(match policy {
        TrafficPolicy::Disabled => false,
        TrafficPolicy::Enabled => true,
        TrafficPolicy::InterSubnetOnly => !near,
        TrafficPolicy::SeedOnly => purpose != Purpose::Shipping,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use keelson_types::NetworkConfig;

    fn networks() -> Networks {
        let network = |role, subnets: &[&str]| NetworkConfig {
            role,
            subnets: subnets.iter().map(|text| text.parse().unwrap()).collect(),
            ignored: false,
        };
        let networks = Networks::default();
        let client = network(NetworkRole::Client, &["10.0.1.0/24", "10.0.2.0/24"]);
        let networks = networks.with("client", Some(client)).unwrap();
        let replication = network(NetworkRole::Replication, &["10.1.1.0/24", "10.1.2.0/24"]);
        let networks = networks.with("repl1", Some(replication)).unwrap();
        let other = network(NetworkRole::Replication, &["10.2.0.0/16"]);
        networks.with("repl2", Some(other)).unwrap()
    }

    fn shown(ways: &[Way]) -> Vec<(&str, bool)> {
        ways.iter().map(|way| (way.address.as_str(), way.compressed)).collect()
    }

    fn end<'a>(site: &'a str, client: &'a str, replication: &'a [String]) -> End<'a> {
        End { site, client, replication }
    }

    fn owned(addresses: &[&str]) -> Vec<String> {
        addresses.iter().map(|address| (*address).to_owned()).collect()
    }

    /// F55: within a subnet the replication network; else, and between sites, the client network.
    #[test]
    fn a_seed_goes_by_subnet_and_site() {
        let networks = networks();
        let (one, two, far) =
            (owned(&["10.1.1.1:1"]), owned(&["10.1.1.2:1"]), owned(&["10.1.2.3:1"]));
        let m1 = end("a", "10.0.1.1:1", &one);
        let ways = |other, purpose| ways(&networks, (m1, other), purpose, Overrides::default());
        let near = ways(end("a", "10.0.1.2:1", &two), Purpose::Seeding);
        assert_eq!(shown(&near), [("10.1.1.2:1", false), ("10.0.1.2:1", false)]);
        let other_subnet = ways(end("a", "10.0.2.3:1", &far), Purpose::Seeding);
        assert_eq!(shown(&other_subnet), [("10.0.2.3:1", true)]);
        let other_site = ways(end("b", "10.0.1.2:1", &two), Purpose::Seeding);
        assert_eq!(shown(&other_site), [("10.0.1.2:1", false)]);
        // F56: a content index keeps to the client network.
        let catalog = ways(end("a", "10.0.1.2:1", &two), Purpose::CatalogSeeding);
        assert_eq!(shown(&catalog), [("10.0.1.2:1", false)]);
    }

    /// F116: log takes every replication network of both ends, near ones first; F117: the client
    /// network comes last.
    #[test]
    fn log_takes_a_replication_network_and_falls_back() {
        let networks = networks();
        let own = owned(&["10.1.1.1:1", "10.2.0.1:1"]);
        let other = owned(&["10.1.2.3:1", "10.2.0.3:1", "10.9.0.3:1", "host:1"]);
        let ends = (end("a", "10.0.1.1:1", &own), end("b", "10.0.2.3:1", &other));
        let found = ways(&networks, ends, Purpose::Shipping, Overrides::default());
        assert_eq!(
            shown(&found),
            [("10.2.0.3:1", false), ("10.1.2.3:1", true), ("10.0.2.3:1", true)]
        );
        let names: Vec<_> = found.iter().map(|way| way.network.as_deref()).collect();
        assert_eq!(names, [Some("repl2"), Some("repl1"), Some("client")]);
        let mut ignored = networks.clone();
        ignored.by_name.get_mut("repl2").unwrap().ignored = true;
        let found = ways(&ignored, ends, Purpose::Shipping, Overrides::default());
        assert_eq!(shown(&found), [("10.1.2.3:1", true), ("10.0.2.3:1", true)]);
        let alone = (end("a", "10.0.1.1:1", &[]), end("b", "10.0.2.3:1", &other));
        let found = ways(&networks, alone, Purpose::Shipping, Overrides::default());
        assert_eq!(shown(&found), [("10.0.2.3:1", true)], "no address of its own in any");
    }

    /// F57: an operator's word for one seed comes before policy and default.
    #[test]
    fn one_seed_can_be_sent_another_way() {
        let networks = networks();
        let (own, far) = (owned(&["10.1.1.1:1"]), owned(&["10.1.2.3:1"]));
        let ends = (end("a", "10.0.1.1:1", &own), end("b", "10.0.2.3:1", &far));
        let sent = |network, compression| {
            let overrides = Overrides { network, compression };
            ways(&networks, ends, Purpose::Seeding, overrides)
        };
        let asked = sent(Some("repl1"), Some(false));
        assert_eq!(shown(&asked), [("10.1.2.3:1", false), ("10.0.2.3:1", false)]);
        assert_eq!(shown(&sent(Some("client"), None)), [("10.0.2.3:1", true)]);
        let near = owned(&["10.1.1.2:1"]);
        let ends = (end("a", "10.0.1.1:1", &own), end("a", "10.0.1.2:1", &near));
        let overrides = Overrides { network: Some("client"), compression: None };
        let client = ways(&networks, ends, Purpose::Seeding, overrides);
        assert_eq!(shown(&client), [("10.0.1.2:1", false), ("10.1.1.2:1", false)]);
    }

    /// F115: the four policies.
    #[test]
    fn policies_say_when_to_compress() {
        use Purpose::{CatalogSeeding, Seeding, Shipping};
        use TrafficPolicy as P;
        for (policy, purpose, near, compressed) in [
            (P::Disabled, Seeding, false, false),
            (P::Enabled, Shipping, true, true),
            (P::InterSubnetOnly, Shipping, true, false),
            (P::InterSubnetOnly, Shipping, false, true),
            (P::InterSubnetOnly, Seeding, false, true),
            (P::SeedOnly, Shipping, false, false),
            (P::SeedOnly, Seeding, true, true),
            (P::SeedOnly, CatalogSeeding, true, true),
        ] {
            let found = compresses(policy, purpose, near, None);
            assert_eq!(found, compressed, "{policy:?} {purpose:?} {near}");
            assert!(compresses(policy, purpose, near, Some(true)));
            assert!(!compresses(policy, purpose, near, Some(false)));
        }
    }

    /// Without any network, ends of one site share a subnet.
    #[test]
    fn without_networks_everything_goes_where_clients_go() {
        let own = owned(&["10.1.1.1:1"]);
        for (site, compressed) in [("a", false), ("b", true)] {
            let ends = (end("a", "m1:1", &own), end(site, "m2:1", &own));
            let found = ways(&Networks::default(), ends, Purpose::Shipping, Overrides::default());
            let expected = Way { address: "m2:1".into(), network: None, compressed };
            assert_eq!(found, [expected]);
        }
    }
}
