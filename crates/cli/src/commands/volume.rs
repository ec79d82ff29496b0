//! `keelson volume`: the volumes of members that have several, and a disk that was replaced.

use clap::{Args, Subcommand};
use keelson_wire::v1::{ListVolumesResponse, ReplaceVolumeRequest, VolumeFacts};
use serde_json::{Value, json};

use crate::context::Global;
use crate::failure::Outcome;
use crate::output::{self, Format, column, wide};
use crate::text;
use crate::watch::Watch;

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
    #[command(flatten)]
    watch: Watch,
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
        let (admin, member) = (global.client()?.admin(), &self.member);
        let read = async |format| {
            let found = admin.list_volumes(member.clone()).await?;
            Ok(listed(format, &found).into())
        };
        self.watch.show(global.output, read).await
    }
}

fn listed(format: Format, found: &ListVolumesResponse) -> String {
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
    let mut text = output::list(format, &columns, rows(found), &data(found));
    if !format.is_data() && !found.silent_members.is_empty() {
        text += &format!("no answer: {}\n", found.silent_members.join(", "));
    }
    text
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
