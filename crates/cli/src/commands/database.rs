//! `keelson database`: make, remove, look at, open and close databases; compare their copies.

mod mount;

use std::time::Duration;

use clap::{Args, Subcommand};
use keelson_client::{Topology, succeeded};
use keelson_types::{CommitConstraint, RefusalReason};
use keelson_wire::v1::{
    ContentIndexFields, CopyFacts, DatabaseInfo, DatabaseSettings, LogEnd, Position,
};
use serde_json::{Value, json};

use crate::commands::{operation, rehearsal, scrub};
use crate::context::Global;
use crate::failure::{Exit, Failure, Outcome};
use crate::output::{self, Format, column, wide};
use crate::text;
use crate::watch::Watch;

#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// Create a database with copies on members
    Create(Create),
    /// Take a database out of the cluster; the files of its copies stay
    Remove {
        /// Name of the database
        database: String,
    },
    /// List the databases
    List(Watch),
    /// Show everything the cluster knows of a database
    Show {
        /// Name of the database
        database: String,
        #[command(flatten)]
        watch: Watch,
    },
    /// Change settings of a database
    Set(Set),
    /// Say that a backup holds the log before a position: it may go where circular logging is off
    BackedUp {
        /// Name of the database
        database: String,
        /// Where the backup ends, like 3:700; a fork, an export and `copy status -o wide` show
        /// positions
        #[arg(value_parser = text::parse_position)]
        position: Position,
    },
    /// Open a database
    Mount(mount::Mount),
    /// Close a database until it is mounted again
    Dismount {
        /// Name of the database
        database: String,
    },
    /// Read all copies through now, log and store, mend what is damaged, and compare contents
    Scrub {
        /// Name of the database
        database: String,
        /// Do not wait until it is over
        #[arg(long)]
        no_wait: bool,
    },
    /// Compare the content of all copies at one position of the log
    Digest {
        /// Name of the database
        database: String,
    },
}

#[derive(Args, Debug)]
pub(crate) struct Create {
    /// Name of the new database
    database: String,
    /// Members that get a copy, in order of activation preference
    #[arg(long = "on", value_name = "MEMBER", value_delimiter = ',', required = true)]
    members: Vec<String>,
    /// Do not wait until it is mounted
    #[arg(long)]
    no_wait: bool,
    #[command(flatten)]
    settings: Settings,
}

#[derive(Args, Debug)]
pub(crate) struct Set {
    /// Name of the database
    database: String,
    #[command(flatten)]
    settings: Settings,
}

#[derive(Args, Debug)]
pub(crate) struct Settings {
    /// What a write must reach: auto, none, second_copy, second_datacenter, all_datacenters,
    /// all_copies or majority
    #[arg(long)]
    commit_constraint: Option<String>,
    /// A connected but slow participant is dropped after this time; "never" blocks instead
    #[arg(long, value_parser = duration_or_never, value_name = "TIME")]
    degrade_after: Option<u64>,
    /// An active without a lease closes after this time
    #[arg(long, value_parser = duration_or_never, value_name = "TIME")]
    dismount_after: Option<u64>,
    /// Size of one log file, 1MiB to 1GiB
    #[arg(long, value_name = "SIZE")]
    generation_size: Option<bytesize::ByteSize>,
    /// Compress the log with lz4
    #[arg(long, value_name = "BOOL")]
    lz4: Option<bool>,
    /// Remove log that every copy is through with, without waiting for a backup; true for new
    /// databases
    #[arg(long, value_name = "BOOL")]
    circular_logging: Option<bool>,
    /// Which copies writers of much wait for (keelson guarantee)
    #[arg(long, value_name = "CONSTRAINT")]
    guarantee_constraint: Option<String>,
    /// Whether what is written can be searched (keelson search)
    #[arg(long, value_name = "BOOL")]
    content_index: Option<bool>,
    /// Whether copies that stay failed are seeded by themselves; true for new databases
    #[arg(long, value_name = "BOOL")]
    autoreseed: Option<bool>,
    #[command(flatten)]
    automations: Automations,
    /// Index these fields of JSON values and mail only; "" for all
    #[arg(long, value_name = "FIELD", value_delimiter = ',')]
    content_index_fields: Option<Vec<String>>,
}

// What may be done with the database by itself, as far as the cluster's settings allow it; all true
// for new databases. (A doc comment would become that of the whole command.)
#[derive(Args, Debug)]
struct Automations {
    /// Whether lags of its copies are played down by themselves
    #[arg(long, value_name = "BOOL")]
    play_down: Option<bool>,
    /// Whether its log goes although a copy needs it when a volume runs short
    #[arg(long, value_name = "BOOL")]
    expanded_truncation: Option<bool>,
    /// Whether it goes back to the copy that it prefers from time to time
    #[arg(long, value_name = "BOOL")]
    preference_moves: Option<bool>,
    /// Whether keelson redistribute moves it
    #[arg(long, value_name = "BOOL")]
    redistribution: Option<bool>,
}

fn duration_or_never(text: &str) -> Result<u64, String> {
    if text == "never" {
        return Ok(0);
    }
    let duration: Duration =
        text.parse::<humantime::Duration>().map_err(|error| error.to_string())?.into();
    match u64::try_from(duration.as_millis()) {
        Ok(0) => Err("use \"never\" for no bound; otherwise at least 1ms".into()),
        Ok(millis) => Ok(millis),
        Err(_) => Err("too long".into()),
    }
}

impl Settings {
    fn message(&self) -> Outcome<DatabaseSettings> {
        let commit_constraint = match self.commit_constraint.as_deref() {
            None => None,
            Some("auto") => Some(String::new()),
            Some(name) => match name.parse::<CommitConstraint>() {
                Ok(constraint) => Some(constraint.to_string()),
                Err(_) => {
                    return Err(Failure::new(
                        RefusalReason::BadArgument,
                        format!("there is no commit constraint {name:?}"),
                    ));
                }
            },
        };
        Ok(DatabaseSettings {
            commit_constraint,
            degrade_after_millis: self.degrade_after,
            dismount_after_millis: self.dismount_after,
            generation_bytes: self.generation_size.map(|size| size.as_u64()),
            lz4: self.lz4,
            circular_logging: self.circular_logging,
            guarantee_constraint: self.guarantee_constraint.clone(),
            content_index: self.content_index,
            autoreseed: self.autoreseed,
            play_down: self.automations.play_down,
            expanded_truncation: self.automations.expanded_truncation,
            preference_moves: self.automations.preference_moves,
            redistribution: self.automations.redistribution,
            content_index_fields: self.content_index_fields.clone().map(|mut names| {
                names.retain(|name| !name.is_empty());
                ContentIndexFields { names }
            }),
        })
    }
}

impl Command {
    pub(crate) async fn run(self, global: &Global) -> Outcome {
        match self {
            Self::Create(create) => create.run(global).await,
            Self::Remove { database } => remove(global, &database).await,
            Self::List(watch) => list(global, &watch).await,
            Self::Show { database, watch } => show(global, &database, &watch).await,
            Self::Set(set) => set.run(global).await,
            Self::BackedUp { database, position } => backed_up(global, &database, position).await,
            Self::Mount(mount) => mount.run(global).await,
            Self::Dismount { database } => dismount(global, &database).await,
            Self::Scrub { database, no_wait } => scrub::run(global, &database, "", !no_wait).await,
            Self::Digest { database } => digest(global, &database).await,
        }
    }
}

impl Create {
    async fn run(self, global: &Global) -> Outcome {
        let settings = self.settings.message()?;
        let client = global.connect().await?;
        let (name, members) = (self.database, self.members);
        let list = members.join(", ");
        if global.what_if {
            let topology = client.topology();
            if let Some(unknown) = members.iter().find(|m| !topology.members.contains_key(*m)) {
                let message = format!("there is no member {unknown}");
                return Err(Failure::new(RefusalReason::UnknownMember, message));
            }
            if topology.databases.contains_key(&name) {
                let message = format!("there is a database {name} already");
                return Err(Failure::new(RefusalReason::AlreadyExists, message));
            }
        }
        if global.only_shows(&format!("create database {name} with copies on {list}")) {
            return Ok(());
        }
        let made = client.admin().create_database(&name, members.clone(), settings).await?;
        if !self.no_wait {
            wait_until_mounted(&client, &name).await?;
        }
        let data = json!({ "database": name, "id": text::id(&made.database), "members": members });
        output::print_done(global.output, &format!("created database {name} on {list}"), &data);
        Ok(())
    }
}

/// Waits until the database answers a read.
async fn wait_until_mounted(client: &keelson_client::Client, name: &str) -> Outcome {
    // Any key will do; the read is answered once the active serves.
    client.database(name).get("keelson").await.map_err(|error| {
        Failure::from(error).during(&format!("{name} was created, but does not answer yet"))
    })?;
    Ok(())
}

async fn remove(global: &Global, name: &str) -> Outcome {
    let client = global.connect().await?;
    let info = client.admin().show_database(name).await?;
    let members: Vec<_> = info.copies.iter().map(|copy| copy.member.as_str()).collect();
    let plan = format!("remove database {name} with its copies on {}", members.join(", "));
    if global.only_shows(&format!("{plan}; the files, if any, would stay")) {
        return Ok(());
    }
    global.confirm(&plan)?;
    let files = client.admin().remove_database(name).await?.files;
    let sentence =
        format!("removed database {name}; the files, if any, stay:\n  {}", files.join("\n  "));
    output::print_done(global.output, &sentence, &json!({ "database": name, "files": files }));
    Ok(())
}

async fn list(global: &Global, watch: &Watch) -> Outcome {
    let client = global.client()?;
    let read = async |format| {
        client.refresh_topology().await?;
        Ok(listed(format, &client.topology()).into())
    };
    watch.show(global.output, read).await
}

fn listed(format: Format, topology: &Topology) -> String {
    let columns = [column("database"), column("active"), column("copies"), wide("epoch")];
    let rows = topology.databases.iter().map(|(name, route)| {
        vec![
            name.clone(),
            route.active.clone().unwrap_or_else(|| "-".into()),
            route.copies.join(", "),
            route.epoch.to_string(),
        ]
    });
    let data = topology.databases.iter().map(|(name, route)| {
        json!({
            "database": name,
            "active_member": route.active,
            "copy_members": route.copies,
            "epoch": route.epoch.to_string(),
        })
    });
    output::list(format, &columns, rows.collect(), &data.collect())
}

impl Set {
    async fn run(self, global: &Global) -> Outcome {
        let settings = self.settings.message()?;
        if settings == DatabaseSettings::default() {
            return Err(Failure::usage("nothing to set", "name at least one option; see --help"));
        }
        if global.only_shows(&format!("change settings of database {}", self.database)) {
            return Ok(());
        }
        global.connect().await?.admin().set_database(&self.database, settings).await?;
        let data = json!({ "database": self.database });
        output::print_done(global.output, &format!("changed database {}", self.database), &data);
        Ok(())
    }
}

async fn backed_up(global: &Global, name: &str, up_to: Position) -> Outcome {
    let at = text::position(Some(&up_to));
    let plan = format!("let log of {name} before {at} go: it is in a backup");
    if global.only_shows(&plan) {
        return Ok(());
    }
    global.connect().await?.admin().note_backup(name, up_to).await?;
    let data = json!({ "database": name, "backed_up_to": at });
    output::print_done(global.output, &format!("{name} is backed up to {at}"), &data);
    Ok(())
}

async fn dismount(global: &Global, name: &str) -> Outcome {
    let plan = format!("dismount database {name}; clients get errors until it is mounted again");
    if global.only_shows(&plan) {
        return Ok(());
    }
    global.confirm(&plan)?;
    let client = global.connect().await?;
    let started = client.admin().dismount_database(name).await?;
    let ended = succeeded(operation::follow(&client, started).await?)?;
    output::print_done(global.output, &format!("dismounted {name}"), &operation::data(&ended));
    Ok(())
}

async fn digest(global: &Global, name: &str) -> Outcome {
    let answer = global.client()?.admin().compare_digests(name).await?;
    let columns = [column("copy"), column("at"), column("digest"), column("problem")];
    let at = |end: &Option<LogEnd>| {
        end.map(|end| keelson_types::LogEnd::from(end).to_string()).unwrap_or_default()
    };
    let rows = answer.rows.iter().map(|row| {
        vec![
            format!("{name}@{}", row.member),
            at(&row.at),
            text::hex(&row.digest),
            row.problem.clone(),
        ]
    });
    let copies = answer.rows.iter().map(|row| {
        json!({
            "member": row.member,
            "answered": row.answered,
            "at": at(&row.at),
            "digest": text::hex(&row.digest),
            "problem": row.problem,
        })
    });
    let copies: Value = copies.collect();
    let data = json!({ "database": name, "equal": answer.equal, "copies": copies });
    output::print_list(global.output, &columns, rows.collect(), &data);
    if answer.equal {
        return Ok(());
    }
    Err(Failure {
        code: "digests_differ".into(),
        message: format!("the copies of {name} were not all found equal"),
        hint: "see the problem column; repeat when all members are reachable".into(),
        exit: Exit::Failed,
    })
}

async fn show(global: &Global, name: &str, watch: &Watch) -> Outcome {
    let admin = global.client()?.admin();
    let read = async |format| {
        let info = admin.show_database(name).await?;
        let rows = admin.copy_status(name, "").await?;
        let active = rows.into_iter().find(|row| row.active).and_then(|row| row.facts);
        Ok(shown(format, &info, &active.unwrap_or_default()).into())
    };
    watch.show(global.output, read).await
}

fn shown(format: Format, info: &DatabaseInfo, active: &CopyFacts) -> String {
    let never = |millis: u64| match millis {
        0 => "never".into(),
        millis => text::duration(Duration::from_millis(millis)),
    };
    let copies = info.copies.iter().map(|copy| {
        let role = if copy.active { "active" } else { "passive" };
        let participant = if copy.participant { ", participant" } else { "" };
        format!("{} ({role}, preference {}{participant})", copy.member, copy.preference)
    });
    let epochs = info.epochs.iter().map(|epoch| {
        let established = if epoch.established { "" } else { ", not established" };
        let number = text::epoch(epoch.epoch.as_ref());
        format!("{number} on {} ({}{established})", epoch.member, epoch.reason)
    });
    let held = active.log_held_by.iter().map(|holder| {
        let from = text::position(holder.from.as_ref());
        let since = match holder.since_unix_millis {
            0 => String::new(),
            millis => format!(", since {}", text::time(millis)),
        };
        format!("{} from {from}: {}{since}", holder.holder, holder.reason)
    });
    let rows = [
        ("database", info.name.clone()),
        ("id", text::id(&info.database)),
        ("state", info.state.clone()),
        ("blocked", info.blocked.clone()),
        ("mount intent", info.mount_intent.clone()),
        ("active member", info.active_member.clone()),
        ("epoch", text::epoch(info.epoch.as_ref())),
        ("commit constraint", info.commit_constraint.clone()),
        ("rule version", info.rule_version.to_string()),
        ("degraded", info.degraded.to_string()),
        ("generation size", text::size(info.generation_bytes)),
        ("degrade after", never(info.degrade_after_millis)),
        ("dismount after", never(info.dismount_after_millis)),
        ("lz4", info.lz4.to_string()),
        ("circular logging", info.circular_logging.to_string()),
        (
            "backed up to",
            info.backed_up_to.map_or("no backup noted".into(), |at| text::position(Some(&at))),
        ),
        ("guarantee constraint", info.guarantee_constraint.clone()),
        ("content index", content_index(info)),
        ("autoreseed", info.autoreseed.to_string()),
        ("automations off", info.automations_off.join(", ")),
        ("log on the active", text::size(active.log_bytes)),
        ("log held by", held.collect::<Vec<_>>().join("; ")),
        ("free for log", text::size(active.log_free_bytes)),
        ("time to full", left(active.log_seconds_to_full)),
        ("expanded truncation", expanded(active)),
        ("copies", copies.collect::<Vec<_>>().join("; ")),
        ("rehearsed", rehearsal::of_copies(info)),
        ("epochs", epochs.collect::<Vec<_>>().join("; ")),
        ("acknowledges alone up to", ceiling(info)),
        ("moves suppressed until", text::time(info.moves_suppressed_until_unix_millis)),
        ("given up", info.losses.iter().map(mount::sentence).collect::<Vec<_>>().join("; ")),
    ];
    output::one(format, &rows, &data(info, active))
}

/// Up to where an active that acknowledges alone may acknowledge; empty if it keeps no ceiling.
fn ceiling(info: &DatabaseInfo) -> String {
    let border = info.ceiling_border.map(|at| text::position(Some(&at)));
    let ahead = text::size(info.ceiling_ahead_bytes);
    border.map(|at| format!("{ahead} behind {at}")).unwrap_or_default()
}

fn content_index(info: &DatabaseInfo) -> String {
    match (info.content_index, &info.content_index_fields[..]) {
        (false, _) => "off".into(),
        (true, []) => "on, all fields".into(),
        (true, fields) => format!("on, fields {}", fields.join(", ")),
    }
}

/// When something will be so on the volume of the active's log.
fn left(seconds: Option<u64>) -> String {
    seconds.map_or_else(|| "not filling".into(), |left| text::span(Duration::from_secs(left)))
}

/// What expanded truncation would do, and its price.
fn expanded(active: &CopyFacts) -> String {
    if active.would_be_cut.is_empty() {
        return "cuts nobody off".into();
    }
    let (member, price) = (&active.would_be_cut, text::size(active.seed_bytes));
    let when = left(active.log_seconds_to_floor);
    format!("would cut the copy on {member} off in {when}; a seed of it sends {price}")
}

fn data(info: &DatabaseInfo, active: &CopyFacts) -> Value {
    let copies = info.copies.iter().map(|copy| {
        json!({
            "copy": text::id(&copy.copy),
            "member": copy.member,
            "active": copy.active,
            "activation_preference": copy.preference,
            "participant": copy.participant,
            "rehearsal": rehearsal::data(copy.rehearsal.as_ref()),
        })
    });
    let epochs = info.epochs.iter().map(|epoch| {
        json!({
            "epoch": text::epoch(epoch.epoch.as_ref()),
            "member": epoch.member,
            "reason": epoch.reason,
            "established": epoch.established,
        })
    });
    json!({
        "database": info.name,
        "id": text::id(&info.database),
        "state": info.state,
        "blocked": info.blocked,
        "mount_intent": info.mount_intent,
        "active_member": info.active_member,
        "epoch": text::epoch(info.epoch.as_ref()),
        "commit_constraint": info.commit_constraint,
        "rule_version": info.rule_version,
        "degraded": info.degraded,
        "generation_bytes": info.generation_bytes,
        "degrade_after_millis": info.degrade_after_millis,
        "dismount_after_millis": info.dismount_after_millis,
        "lz4": info.lz4,
        "circular_logging": info.circular_logging,
        "backed_up_to": info.backed_up_to.map(|at| text::position(Some(&at))),
        "guarantee_constraint": info.guarantee_constraint,
        "content_index": info.content_index,
        "content_index_fields": info.content_index_fields,
        "autoreseed": info.autoreseed,
        "automations_off": info.automations_off,
        "log_bytes": active.log_bytes,
        "log_held_by": super::copy::held_by(active),
        "log_free_bytes": active.log_free_bytes,
        "log_seconds_to_full": active.log_seconds_to_full,
        "log_seconds_to_floor": active.log_seconds_to_floor,
        "would_be_cut": active.would_be_cut,
        "seed_bytes": active.seed_bytes,
        "copies": copies.collect::<Value>(),
        "epochs": epochs.collect::<Value>(),
        "recent_moves": info.recent_moves,
        "acknowledges_alone_up_to": Some(ceiling(info)).filter(|ceiling| !ceiling.is_empty()),
        "moves_suppressed_until": text::time(info.moves_suppressed_until_unix_millis),
        "losses": info.losses.iter().map(mount::loss_data).collect::<Value>(),
    })
}
