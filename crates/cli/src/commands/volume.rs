//! `keelson volume`: the volumes of members that have several, and a disk that was replaced.

use clap::{Args, Subcommand};
use keelson_wire::v1::{ListVolumesResponse, ReplaceVolumeRequest, VolumeFacts};
use serde_json::{Value, json};

use crate::context::Global;
use crate::failure::Outcome;
use crate::output::{self, column, wide};
use crate::text;

#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// List volumes, their state, and what lies on them
    List(List),
    /// Say that the disk of a failed volume was replaced by an empty one, which is a spare then
    Replaced(Replaced),
}

#[derive(Args, Debug)]
pub(crate) struct List {
    /// Only those of this member
    #[arg(long, default_value = "")]
    member: String,
}

#[derive(Args, Debug)]
pub(crate) struct Replaced {
    /// The member
    member: String,
    /// Directory of the volume, as `keelson volume list` shows it; the new disk is mounted there
    path: String,
}

impl Command {
    pub(crate) async fn run(self, global: &Global) -> Outcome {
        match self {
            Self::List(list) => list.run(global).await,
            Self::Replaced(replaced) => replaced.run(global).await,
        }
    }
}

impl List {
    async fn run(self, global: &Global) -> Outcome {
        let found = global.client()?.admin().list_volumes(self.member).await?;
        let columns = [
            column("member"),
            column("volume"),
            column("state"),
            column("copies"),
            column("free"),
            column("total"),
            wide("replaced by"),
            wide("why"),
        ];
        let (rows, data) = (rows(&found), data(&found));
        output::print_list(global.output, &columns, rows, &data);
        if !global.output.is_data() && !found.silent_members.is_empty() {
            println!("no answer: {}", found.silent_members.join(", "));
        }
        Ok(())
    }
}

impl Replaced {
    async fn run(self, global: &Global) -> Outcome {
        let Self { member, path } = self;
        let plan = format!("take the empty directory {path} of {member} as a new volume");
        let (of, what_if) = (member.clone(), global.what_if);
        let request = ReplaceVolumeRequest { member, path: path.clone(), what_if };
        global.connect().await?.admin().replace_volume(request).await?;
        if !global.only_shows(&plan) {
            let done = json!({ "member": of, "volume": path });
            output::print_done(global.output, &format!("done: {plan}"), &done);
        }
        Ok(())
    }
}

fn known(bytes: Option<u64>) -> String {
    bytes.map(text::size).unwrap_or_default()
}

fn rows(found: &ListVolumesResponse) -> Vec<Vec<String>> {
    let row = |(member, volume): (&String, VolumeFacts)| {
        vec![
            member.clone(),
            volume.path,
            volume.state,
            volume.copies.to_string(),
            known(volume.free_bytes),
            known(volume.total_bytes),
            volume.replaced_by,
            volume.why,
        ]
    };
    let rows = found.volumes.iter();
    rows.map(|row| (&row.member, row.volume.clone().unwrap_or_default())).map(row).collect()
}

fn data(found: &ListVolumesResponse) -> Value {
    let row = |(member, volume): (&String, VolumeFacts)| {
        json!({
            "member": member,
            "volume": volume.path,
            "state": volume.state,
            "why": volume.why,
            "copies": volume.copies,
            "free_bytes": volume.free_bytes,
            "total_bytes": volume.total_bytes,
            "replaced_by": volume.replaced_by,
        })
    };
    let rows = found.volumes.iter();
    rows.map(|row| (&row.member, row.volume.clone().unwrap_or_default())).map(row).collect()
}
