//! `keelson cluster settings`: switches and thresholds that all members share.

use std::time::Duration;

use clap::Subcommand;
use keelson_types::Setting;
use keelson_wire::v1::{SetSettingRequest, SettingRow};
use serde_json::{Value, json};

use crate::context::Global;
use crate::failure::{Failure, Outcome};
use crate::output::{self, column, wide};
use crate::text;

#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// List all settings with their values
    List,
    /// Show one setting with its bounds
    Show {
        /// Name of the setting
        name: String,
    },
    /// Change a setting
    Set {
        /// Name of the setting
        name: String,
        /// true or false, a whole number, a size like 10GiB, or a time like 24h
        #[arg(allow_hyphen_values = true)]
        value: String,
    },
    /// Give a setting its default again
    Reset {
        /// Name of the setting
        name: String,
    },
}

impl Command {
    pub(crate) async fn run(self, global: &Global) -> Outcome {
        match self {
            Self::List => list(global).await,
            Self::Show { name } => show(global, &name).await,
            Self::Set { name, value } => change(global, name, Some(value)).await,
            Self::Reset { name } => change(global, name, None).await,
        }
    }
}

async fn list(global: &Global) -> Outcome {
    let settings = global.client()?.admin().list_settings().await?;
    let columns =
        [column("setting"), column("value"), column("default"), column("help"), wide("changed")];
    let rows = settings.iter().map(|row| {
        vec![
            row.name.clone(),
            shown(row, row.value),
            shown(row, row.default_value),
            row.help.clone(),
            row.changed.to_string(),
        ]
    });
    let data = settings.iter().map(data).collect();
    output::print_list(global.output, &columns, rows.collect(), &data);
    Ok(())
}

async fn show(global: &Global, name: &str) -> Outcome {
    let settings = global.client()?.admin().list_settings().await?;
    let Some(row) = settings.iter().find(|row| row.name == name) else {
        // A newer server may know settings that this program does not, never the other way.
        let refused = Setting::named(name).err();
        let message = refused.map_or_else(|| format!("no setting {name:?}"), |r| r.message);
        return Err(Failure::new(keelson_types::RefusalReason::UnknownSetting, message));
    };
    let bounds = format!("{} to {}", shown(row, Some(row.min)), shown(row, Some(row.max)));
    let rows = [
        ("setting", row.name.clone()),
        ("value", shown(row, row.value)),
        ("default", shown(row, row.default_value)),
        ("bounds", bounds),
        ("changed", row.changed.to_string()),
        ("help", row.help.clone()),
    ];
    output::print_one(global.output, &rows, &data(row));
    Ok(())
}

async fn change(global: &Global, name: String, value: Option<String>) -> Outcome {
    let request = SetSettingRequest { name, value, what_if: global.what_if };
    let row = global.connect().await?.admin().set_setting(request).await?;
    let plan = format!("set {} to {}", row.name, shown(&row, row.value));
    if global.only_shows(&plan) {
        return Ok(());
    }
    output::print_done(global.output, &format!("done: {plan}"), &data(&row));
    Ok(())
}

/// A value for people.
fn shown(row: &SettingRow, value: Option<u64>) -> String {
    let Some(value) = value else { return "unset".into() };
    match row.kind.as_str() {
        "switch" => (value != 0).to_string(),
        "bytes" => text::size(value),
        "millis" => text::span(Duration::from_millis(value)),
        _ => value.to_string(),
    }
}

fn data(row: &SettingRow) -> Value {
    let value = |value: Option<u64>| match row.kind.as_str() {
        "switch" => json!(value.map(|value| value != 0)),
        _ => json!(value),
    };
    json!({
        "setting": row.name,
        "kind": row.kind,
        "value": value(row.value),
        "default": value(row.default_value),
        "min": row.min,
        "max": row.max,
        "changed": row.changed,
        "help": row.help,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_shown_in_their_units() {
        for (kind, value, wanted) in [
            ("switch", Some(1), "true"),
            ("count", Some(3), "3"),
            ("bytes", Some(2048), "2.0 KiB"),
            ("millis", Some(86_400_000), "1day"),
            ("count", None, "unset"),
        ] {
            let row = SettingRow { kind: kind.into(), ..SettingRow::default() };
            assert_eq!(shown(&row, value), wanted);
        }
    }
}
