//! `keelson site`: the places in which members stand.

mod restore;

use std::collections::BTreeMap;

use clap::{Args, Subcommand};
use keelson_wire::v1::{ChangeSiteRequest, MemberStatus};
use serde_json::{Value, json};

use crate::commands::switchover;
use crate::context::Global;
use crate::failure::Outcome;
use crate::output::{self, Format, column};
use crate::watch::Watch;

#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// List the sites with what stands there
    List(Watch),
    /// Move the databases of a site away and let it serve nothing and not vote, until it is started
    Stop(Stop),
    /// Force up what is left when the other sites are lost and with them the majority; runs on a
    /// member of the site whose server is stopped
    Restore(restore::Restore),
    /// Let a stopped or lost site vote and serve again
    Start {
        /// Name of the site
        site: String,
    },
}

#[derive(Args, Debug)]
pub(crate) struct Stop {
    /// Name of the site
    site: String,
    /// Why; shown by site list
    #[arg(long, default_value = "")]
    comment: String,
}

impl Command {
    pub(crate) async fn run(self, global: &Global) -> Outcome {
        match self {
            Self::List(watch) => list(global, &watch).await,
            Self::Stop(stop) => stop.run(global).await,
            Self::Restore(restore) => restore.run(global).await,
            Self::Start { site } => start(global, site).await,
        }
    }
}

/// What stands in one site.
#[derive(Default)]
struct Site<'a> {
    members: Vec<&'a MemberStatus>,
}

impl Site<'_> {
    fn count(&self, is: fn(&MemberStatus) -> bool) -> usize {
        self.members.iter().filter(|member| is(member)).count()
    }

    fn sum(&self, of: fn(&MemberStatus) -> u32) -> u32 {
        self.members.iter().map(|member| of(member)).sum()
    }

    fn names(&self) -> Vec<&str> {
        self.members.iter().map(|member| member.name.as_str()).collect()
    }

    /// Why it is stopped, if it is.
    fn stopped(&self) -> Option<&str> {
        let stopped = self.members.iter().find_map(|member| member.stopped.as_ref())?;
        Some(if stopped.comment.is_empty() { "stopped" } else { &stopped.comment })
    }
}

async fn list(global: &Global, watch: &Watch) -> Outcome {
    let admin = global.client()?.admin();
    let read = async |format| Ok(listed(format, &admin.cluster_status().await?.members).into());
    watch.show(global.output, read).await
}

fn listed(format: Format, members: &[MemberStatus]) -> String {
    let mut sites: BTreeMap<&str, Site<'_>> = BTreeMap::new();
    for member in members {
        sites.entry(&member.site).or_default().members.push(member);
    }
    let columns = ["site", "state", "members", "reachable", "voters", "copies", "actives", "why"];
    let rows = sites.iter().map(|(name, site)| {
        vec![
            (*name).to_owned(),
            if site.stopped().is_some() { "stopped" } else { "started" }.to_owned(),
            site.names().join(", "),
            site.count(|member| member.reachable).to_string(),
            site.count(|member| member.voter).to_string(),
            site.sum(|member| member.copies).to_string(),
            site.sum(|member| member.actives).to_string(),
            site.stopped().unwrap_or_default().to_owned(),
        ]
    });
    let data: Value = sites
        .iter()
        .map(|(name, site)| {
            json!({
                "site": name,
                "stopped": site.stopped().is_some(),
                "comment": site.stopped(),
                "members": site.names(),
                "reachable": site.count(|member| member.reachable),
                "voters": site.count(|member| member.voter),
                "witnesses": site.count(|member| member.witness),
                "copies": site.sum(|member| member.copies),
                "actives": site.sum(|member| member.actives),
            })
        })
        .collect();
    output::list(format, &columns.map(column), rows.collect(), &data)
}

impl Stop {
    async fn run(self, global: &Global) -> Outcome {
        let client = global.connect().await?;
        let request = ChangeSiteRequest {
            site: self.site.clone(),
            stop: true,
            comment: self.comment,
            what_if: true,
        };
        let planned = client.admin().change_site(request.clone()).await?;
        if global.what_if {
            return switchover::print_plan(global, &planned.moves);
        }
        let (site, members) = (&self.site, planned.members.join(", "));
        global.confirm(&format!("stop site {site}: {members} serve nothing and do not vote"))?;
        let request = ChangeSiteRequest { what_if: false, ..request };
        let done = client.admin().change_site(request).await?;
        let summary = switchover::summary(&done.moves);
        let sentence = format!("stopped site {site} ({members}){summary}");
        let moves = switchover::data(&done.moves);
        let data = json!({ "site": site, "members": done.members, "moves": moves });
        output::print_done(global.output, &sentence, &data);
        Ok(())
    }
}

async fn start(global: &Global, site: String) -> Outcome {
    if global.only_shows(&format!("start site {site}")) {
        return Ok(());
    }
    let request = ChangeSiteRequest { site: site.clone(), ..ChangeSiteRequest::default() };
    let members = global.connect().await?.admin().change_site(request).await?.members;
    let sentence = format!("started site {site} ({})", members.join(", "));
    output::print_done(global.output, &sentence, &json!({ "site": site, "members": members }));
    Ok(())
}
