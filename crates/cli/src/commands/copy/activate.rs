//! `keelson copy activate`: make an instant of a copy the truth, after showing what is discarded.

use clap::Args;
use keelson_client::succeeded;
use keelson_types::Position;
use keelson_wire::v1::{ActivateCopyRequest, Instant, PreviewActivationResponse, instant};
use serde_json::{Value, json};

use super::changes::CopyName;
use super::instant::At;
use crate::commands::operation;
use crate::context::Global;
use crate::failure::{Failure, Outcome};
use crate::output;
use crate::text;

#[derive(Args, Debug)]
pub(crate) struct Activate {
    /// The copy, as DATABASE@MEMBER; its store must not have replayed what is discarded, so one
    /// with a replay lag
    copy: CopyName,
    /// The instant: a time (2026-11-22T14:00:00Z), an age (90m), or a position (3:700)
    #[arg(long, value_name = "TIME|POSITION")]
    at: At,
    /// Let the other copies follow at once; else they are suspended and keep the discarded timeline
    /// until they are released (copy resume --release-discarded)
    #[arg(long)]
    resync_others: bool,
}

impl Activate {
    pub(crate) async fn run(self, global: &Global) -> Outcome {
        let client = global.connect().await?;
        let request = ActivateCopyRequest {
            database: self.copy.database.clone(),
            member: self.copy.member.clone(),
            at: Some(self.at.instant()),
            resync_others: self.resync_others,
            ..ActivateCopyRequest::default()
        };
        let preview = client.admin().preview_activation(request.clone()).await?;
        let plan = plan(&self.copy, &preview);
        let data = data(&self.copy, &preview);
        if global.what_if {
            let mut shown = data;
            shown["would"] = plan.clone().into();
            output::print_done(global.output, &format!("would {plan}"), &shown);
            return Ok(());
        }
        global.confirm(&plan)?;
        // What was shown is what is done: the frame that was found, not the time.
        let kept = preview.instant.and_then(|instant| instant.kept).and_then(|end| end.position);
        let kept = kept.ok_or_else(|| Failure::usage("no instant", "the member named none"))?;
        let at = Some(Instant { instant: Some(instant::Instant::Position(kept)) });
        let started = client.admin().activate_copy(ActivateCopyRequest { at, ..request }).await?;
        let ended = succeeded(operation::follow(&client, started).await?)?;
        let mut data = data;
        data["operation"] = operation::data(&ended);
        let at = text::position(Some(&kept));
        let sentence = format!("{} is the truth as of {at}; the database is open", self.copy);
        output::print_done(global.output, &sentence, &data);
        Ok(())
    }
}

/// What would be done, in a sentence without its verb's object "would".
fn plan(copy: &CopyName, preview: &PreviewActivationResponse) -> String {
    let instant = preview.instant.unwrap_or_default();
    let kept = text::log_end(instant.kept.as_ref());
    let what = match instant.frames {
        0 => "its log holds nothing behind that".to_owned(),
        _ => format!(
            "discard what lies behind, up to {}: {} records in {} frames, {} of log, written {} \
             to {}",
            text::log_end(instant.log_end.as_ref()),
            instant.records,
            instant.frames,
            text::size(instant.bytes),
            text::time(instant.first_unix_millis),
            text::time(instant.last_unix_millis)
        ),
    };
    let end = instant.log_end.and_then(|end| end.position).map(Position::from);
    let generated = preview.generated.filter(|at| end.is_some_and(|end| Position::from(*at) > end));
    let more = match generated {
        Some(at) => format!("; the active wrote on to {}", text::position(Some(&at))),
        None => String::new(),
    };
    let others = match preview.holders.is_empty() {
        true => "the other copies follow at once".to_owned(),
        false => format!(
            "{} keep the discarded timeline, suspended, until released",
            preview.holders.join(", ")
        ),
    };
    format!("activate {copy} at {kept} and {what}{more}; {others}")
}

fn data(copy: &CopyName, preview: &PreviewActivationResponse) -> Value {
    let instant = preview.instant.unwrap_or_default();
    json!({
        "database": copy.database,
        "member": copy.member,
        "kept": text::log_end(instant.kept.as_ref()),
        "kept_time": text::time(instant.kept_unix_millis),
        "log_end": text::log_end(instant.log_end.as_ref()),
        "discarded_frames": instant.frames,
        "discarded_records": instant.records,
        "discarded_bytes": instant.bytes,
        "discarded_from_time": text::time(instant.first_unix_millis),
        "discarded_to_time": text::time(instant.last_unix_millis),
        "active": preview.active,
        "generated": preview.generated.as_ref().map(|at| text::position(Some(at))),
        "holders": preview.holders,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use keelson_wire::v1::{self, InstantInfo, LogEnd};

    fn end(offset: u64) -> Option<LogEnd> {
        let position = Some(v1::Position { generation: 3, offset });
        Some(LogEnd { position, ..LogEnd::default() })
    }

    #[test]
    fn a_plan_says_what_is_discarded_and_who_keeps_it() {
        let copy = CopyName { database: "DB1".into(), member: "m3".into() };
        let instant = InstantInfo {
            kept: end(700),
            log_end: end(900),
            frames: 2,
            records: 5,
            bytes: 200,
            ..InstantInfo::default()
        };
        let mut preview = PreviewActivationResponse {
            instant: Some(instant),
            generated: Some(v1::Position { generation: 4, offset: 70 }),
            holders: vec!["m1".into(), "m2".into()],
            ..Default::default()
        };
        let told = plan(&copy, &preview);
        for part in ["DB1@m3 at", "3:700", "3:900", "5 records", "4:70", "m1, m2 keep"] {
            assert!(told.contains(part), "{part} is missing: {told}");
        }
        assert_eq!(data(&copy, &preview)["discarded_records"], 5);
        preview.holders.clear();
        preview.instant = Some(InstantInfo { frames: 0, log_end: end(900), ..instant });
        preview.generated = None;
        let told = plan(&copy, &preview);
        assert!(told.contains("nothing behind") && told.contains("follow at once"), "{told}");
    }
}
