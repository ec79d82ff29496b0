//! Commands about the settings of the cluster.

use keelson_types::{NetworkConfig, Networks, Setting, TrafficPolicy};

use super::Applied;
use crate::command::Answer;
use crate::event::EventKind;
use crate::state::ClusterState;

impl ClusterState {
    /// Sets or resets one setting. A value that holds already changes nothing and is no event.
    pub(super) fn change_setting(&mut self, index: u64, name: &str, to: Option<u64>) -> Applied {
        let setting = Setting::named(name)?;
        let settings = self.settings.with(setting, to)?;
        if settings != self.settings {
            let from = self.settings.get(setting);
            self.settings = settings;
            let (name, to) = (name.to_owned(), self.settings.get(setting));
            self.event(index, None, None, EventKind::SettingChanged { name, from, to });
        }
        Ok(Answer::Done)
    }

    pub(super) fn set_network(
        &mut self,
        index: u64,
        name: &str,
        network: Option<NetworkConfig>,
    ) -> Applied {
        let networks = self.networks.with(name, network)?;
        self.change_networks(index, name, networks)
    }

    pub(super) fn set_compression(&mut self, index: u64, policy: TrafficPolicy) -> Applied {
        let networks = Networks { compression: policy, ..self.networks.clone() };
        self.change_networks(index, "compression", networks)
    }

    fn change_networks(&mut self, index: u64, what: &str, networks: Networks) -> Applied {
        if networks != self.networks {
            self.networks = networks;
            self.event(index, None, None, EventKind::NetworksChanged { what: what.to_owned() });
        }
        Ok(Answer::Done)
    }
}
