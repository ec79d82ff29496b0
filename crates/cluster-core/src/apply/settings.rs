//! Commands about the settings of the cluster.

use keelson_types::Setting;

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
}
