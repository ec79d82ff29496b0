//! Settings of the cluster: what operators write becomes a number here, and is judged where the
//! command is applied.

use std::sync::Arc;
use std::time::Duration;

use keelson_cluster_core::Command;
use keelson_types::{ClusterSettings, Refused, Setting, SettingKind};
use keelson_wire::Refusal;
use keelson_wire::v1::{
    ListSettingsRequest, ListSettingsResponse, SetSettingRequest, SetSettingResponse, SettingRow,
};

use crate::context::Context;

impl Context {
    pub(super) async fn admin_list_settings(
        self: &Arc<Self>,
        _: ListSettingsRequest,
    ) -> Result<ListSettingsResponse, Refusal> {
        self.cluster()?;
        let settings = self.applied.read(|state| state.settings.clone());
        let rows = Setting::ALL.iter().map(|setting| row(&settings, *setting));
        Ok(ListSettingsResponse { settings: rows.collect() })
    }

    pub(super) async fn admin_set_setting(
        self: &Arc<Self>,
        request: SetSettingRequest,
    ) -> Result<SetSettingResponse, Refusal> {
        self.require_leader()?;
        let refusal = |refused: Refused| Refusal::new(refused.reason, refused.message);
        let setting = Setting::named(&request.name).map_err(refusal)?;
        let value = request.value.as_deref().map(|text| read(setting, text));
        let value = value.transpose().map_err(refusal)?;
        let before = self.applied.read(|state| state.settings.clone());
        let after = before.with(setting, value).map_err(refusal)?;
        if !request.what_if {
            let command = Command::ChangeSetting { name: request.name, value };
            self.propose_here(command).await?.answer()?;
        }
        Ok(SetSettingResponse { setting: Some(row(&after, setting)) })
    }
}

fn row(settings: &ClusterSettings, setting: Setting) -> SettingRow {
    let info = setting.info();
    SettingRow {
        name: info.name.into(),
        kind: info.kind.to_string(),
        value: settings.get(setting),
        default_value: info.default,
        min: info.min,
        max: info.max,
        changed: settings.is_changed(setting),
        help: info.help.into(),
    }
}

/// The number that an operator means. Bare numbers are taken in the unit of the kind, and a number
/// is one of seconds where times are asked for.
fn read(setting: Setting, text: &str) -> Result<u64, Refused> {
    let info = setting.info();
    let (found, example) = match info.kind {
        SettingKind::Switch => (switch(text), "true or false"),
        SettingKind::Count => (text.parse().ok(), "a whole number, for example 3"),
        SettingKind::Bytes => {
            (text.parse::<bytesize::ByteSize>().ok().map(|size| size.as_u64()), "like 10GiB")
        }
        SettingKind::Millis => (millis(text), "like 90s or 24h"),
    };
    found.ok_or_else(|| Refused::bad_argument(format!("{} is {example}, not {text:?}", info.name)))
}

fn switch(text: &str) -> Option<u64> {
    match text {
        "true" | "on" => Some(1),
        "false" | "off" => Some(0),
        _ => None,
    }
}

fn millis(text: &str) -> Option<u64> {
    let span = match text.parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => humantime::parse_duration(text).ok()?,
    };
    u64::try_from(span.as_millis()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use keelson_types::RefusalReason;

    #[test]
    fn operators_write_values_in_the_form_of_the_kind() {
        for (setting, text, number) in [
            (Setting::PlayDown, "off", 0),
            (Setting::PlayDownCopies, "2", 2),
            (Setting::PlayDownLowSpace, "10GiB", 10 * 1024 * 1024 * 1024),
            (Setting::PlayDownCopiesFor, "24h", 86_400_000),
            (Setting::PlayDownCopiesFor, "90", 90_000),
        ] {
            assert_eq!(read(setting, text), Ok(number), "{text}");
        }
    }

    #[test]
    fn what_has_no_meaning_is_refused() {
        for (setting, text) in [
            (Setting::PlayDown, "maybe"),
            (Setting::PlayDownCopies, "-1"),
            (Setting::PlayDownLowSpace, "-5GiB"),
            (Setting::PlayDownCopiesFor, "soon"),
            (Setting::PlayDownCopiesFor, "-1h"),
        ] {
            let refused = read(setting, text).unwrap_err();
            assert_eq!(refused.reason, RefusalReason::BadArgument, "{text}");
        }
    }
}
