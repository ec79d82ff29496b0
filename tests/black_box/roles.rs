//! What certificates allow, seen from the command line, and what the audit keeps.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use keelson_client::{
    Client, ClientConfig, ClientError, ClientOptions, Database, Read, ScanOptions, Search,
    WriteBatch,
};
use keelson_testkit::{Cli, Cluster};
use keelson_types::RefusalReason;

use crate::data::cluster;

/// Commands with a certificate of this role, for these databases.
async fn holder(cluster: &Cluster, role: &str, databases: &[&str]) -> Result<Cli> {
    Ok(Cli::new(cluster.binary(), Some(&certified(cluster, role, databases).await?)))
}

/// The configuration of a client with such a certificate.
pub(crate) async fn certified(
    cluster: &Cluster,
    role: &str,
    databases: &[&str],
) -> Result<PathBuf> {
    let certs = cluster.path().join("certs").display().to_string();
    let mut args = vec!["certs", "issue", role, role, "--ca-dir", &certs, "--dir", &certs];
    args.extend(databases.iter().flat_map(|database| ["--database", database]));
    cluster.cli().succeed(args).await?;
    let text = std::fs::read_to_string(cluster.client_toml())?;
    let text = text.replace("client.pem", &format!("{role}.pem"));
    let path = cluster.path().join(format!("{role}.toml"));
    std::fs::write(&path, text.replace("client.key", &format!("{role}.key")))?;
    Ok(path)
}

type Call<'a> = (&'static str, BoxFuture<'a, Result<(), ClientError>>);

/// Every call that reads one database; `token` is of a write that was followed by another one.
fn reads<'a>(database: &'a Database, token: &'a Bytes) -> Vec<Call<'a>> {
    let everything = || Search { query: "*".into(), limit: 1, ..Search::default() };
    vec![
        ("get", async move { database.get("k").await.map(drop) }.boxed()),
        ("get_at", async move { database.get_at("m1", "k", &Read::Any).await.map(drop) }.boxed()),
        ("scan", async move { database.scan(ScanOptions::default()).await.map(drop) }.boxed()),
        ("search", async move { database.search(&everything()).await.map(drop) }.boxed()),
        (
            "search_at",
            async move { database.search_at("m1", &everything()).await.map(drop) }.boxed(),
        ),
        ("watch", async move { database.watch(token.clone(), "").next().await.map(drop) }.boxed()),
        ("durability", async move { database.durability(token.clone()).await.map(drop) }.boxed()),
    ]
}

/// Every call that writes to one database.
fn writes(database: &Database) -> Vec<Call<'_>> {
    let batch = || WriteBatch::new().put("k", "v");
    vec![
        ("session", async move { database.session().await.map(drop) }.boxed()),
        ("put", async move { database.put("k", "v").await.map(drop) }.boxed()),
        ("delete", async move { database.delete("k").await.map(drop) }.boxed()),
        ("delete_range", async move { database.delete_range("k", "l").await.map(drop) }.boxed()),
        ("write", async move { database.write(batch()).await.map(drop) }.boxed()),
    ]
}

/// A client that is limited to DB1 may call for its data what its role may, is refused every call
/// for another database, whether that exists or not, and hears of none.
pub(crate) async fn is_limited_to_db1(
    cluster: &Cluster,
    config: PathBuf,
    role: &str,
) -> Result<()> {
    let first = cluster.client().database("DB1").put("k", "v").await?;
    cluster.client().database("DB1").put("k", "w").await?;
    let client = Client::new(ClientConfig::load(&config)?, ClientOptions::default())?;
    let may = |call: &str| role == "writer" || !writes_are_called(call);
    for (name, own) in [("DB1", true), ("DB2", false), ("DB2@m1~view", false), ("DB9", false)] {
        let database = client.database(name);
        for (call, asked) in reads(&database, &first.token).into_iter().chain(writes(&database)) {
            let limit = std::time::Duration::from_secs(30);
            let ended = tokio::time::timeout(limit, asked).await;
            let ended = ended.with_context(|| format!("{role}: {call} of {name} hangs"))?;
            let reason = ended.as_ref().err().map(|error| error.reason);
            let forbidden = reason == Some(RefusalReason::Forbidden);
            ensure!(forbidden != (own && may(call)), "{role}: {call} of {name}: {ended:?}");
            // An index may not be ready yet; nothing else hinders whoever may.
            let is_search = call.starts_with("search");
            ensure!(forbidden || ended.is_ok() || is_search, "{call} of {name}: {ended:?}");
        }
    }
    let heard_of = client.refresh_topology().await?;
    let names: Vec<_> = heard_of.databases.keys().map(String::as_str).collect();
    ensure!(names == ["DB1"] && heard_of.members.len() == 3, "{role}: {heard_of:?}");
    Ok(())
}

fn writes_are_called(call: &str) -> bool {
    ["session", "put", "delete", "delete_range", "write"].contains(&call)
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_limited_to_a_database_is_refused_every_call_for_another_one() -> Result<()> {
    let cluster = cluster().await?;
    cluster.create_database("DB2", &["m1"]).await?;
    for role in ["reader", "writer"] {
        let config = certified(&cluster, role, &["DB1"]).await?;
        is_limited_to_db1(&cluster, config, role).await?;
    }
    // Who looks after the cluster hears of all databases.
    let operator = holder(&cluster, "operator", &[]).await?;
    for cli in [&operator, cluster.cli()] {
        let listed = cli.json(["database", "list"]).await?;
        ensure!(listed.as_array().is_some_and(|rows| rows.len() == 2), "{listed}");
    }
    cluster.assert_clean_logs(&[])
}

async fn forbidden(cli: &Cli, args: &[&str]) -> Result<()> {
    let output = cli.run(args).await?;
    ensure!(output.error_code() == Some("forbidden"), "{args:?}: {output:?}");
    ensure!(output.code == Some(3), "{args:?}: {output:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_role_may_do_its_work_and_no_more() -> Result<()> {
    let cluster = cluster().await?;
    cluster.create_database("DB2", &["m1"]).await?;
    cluster.cli().succeed(["kv", "put", "DB1", "k", "v"]).await?;
    let reader = holder(&cluster, "reader", &["DB1"]).await?;
    assert_eq!(reader.succeed(["kv", "get", "DB1", "k"]).await?, "v");
    assert_eq!(reader.succeed(["kv", "scan", "DB1"]).await?, "k\tv\n");
    forbidden(&reader, &["kv", "put", "DB1", "k", "w"]).await?;
    forbidden(&reader, &["kv", "get", "DB2", "k"]).await?;
    forbidden(&reader, &["cluster", "status"]).await?;
    let writer = holder(&cluster, "writer", &["DB2"]).await?;
    writer.succeed(["kv", "put", "DB2", "k", "w"]).await?;
    forbidden(&writer, &["kv", "put", "DB1", "k", "w"]).await?;
    forbidden(&writer, &["database", "dismount", "DB2", "--yes"]).await?;
    let operator = holder(&cluster, "operator", &[]).await?;
    operator.succeed(["cluster", "status"]).await?;
    operator.succeed(["copy", "suspend", "DB1@m3", "--comment", "disk"]).await?;
    forbidden(&operator, &["kv", "get", "DB1", "k"]).await?;
    forbidden(&operator, &["database", "remove", "DB2", "--yes"]).await?;
    let monitor = holder(&cluster, "monitor", &[]).await?;
    forbidden(&monitor, &["cluster", "status"]).await?;
    forbidden(&monitor, &["kv", "get", "DB1", "k"]).await?;
    cluster.assert_clean_logs(&[])
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_are_in_the_audit_with_who_what_and_how_it_ended() -> Result<()> {
    let cluster = cluster().await?;
    let operator = holder(&cluster, "operator", &[]).await?;
    let look = ["copy", "suspend", "DB1@m3", "--comment", "only a look", "--what-if"];
    operator.succeed(look).await?;
    operator.succeed(["copy", "suspend", "DB1@m3", "--comment", "a new disk"]).await?;
    let nothing = "00000000-0000-4000-8000-000000000001";
    let cancelled = operator.run(["operation", "cancel", nothing, "--yes"]).await?;
    assert_eq!(cancelled.error_code(), Some("unknown_operation"), "{cancelled:?}");
    let salvage = ["copy", "salvage", "delete", "DB1@m1", "nothing", "--yes"];
    assert_eq!(cluster.cli().run(salvage).await?.error_code(), Some("bad_argument"));
    let again = cluster.cli().run(["database", "create", "DB1", "--on", "m1"]).await?;
    assert_eq!(again.error_code(), Some("already_exists"), "{again:?}");
    keelson_testkit::eventually("both are recorded", || async {
        let events = cluster.cli().json(["event", "list"]).await?;
        let events = events.as_array().cloned().unwrap_or_default();
        let asked = |by: &str, call: &str, outcome: &str| {
            events.iter().any(|event| {
                let message = event["message"].as_str().unwrap_or_default();
                let words = [by, call, &format!("\"outcome\":\"{outcome}\"")];
                event["kind"] == "asked" && words.iter().all(|word| message.contains(word))
            })
        };
        ensure!(asked("operator (operator)", "a new disk", "done"), "{events:?}");
        ensure!(asked("client (admin)", "create_database", "already_exists"), "{events:?}");
        ensure!(
            asked("operator (operator)", "cancel_operation", "unknown_operation"),
            "{events:?}"
        );
        ensure!(asked("client (admin)", "delete_salvage", "bad_argument"), "{events:?}");
        let looked = events.iter().any(|event| event.to_string().contains("only a look"));
        ensure!(!looked, "a what-if changes nothing: {events:?}");
        Ok(())
    })
    .await?;
    let told = told(&cluster, "m1").await?;
    let done = |by: &str, call: &str, outcome: &str| {
        let fields = [("kind", "change"), ("by", by), ("call", call), ("outcome", outcome)];
        told.iter().any(|line| fields.iter().all(|(field, value)| line[*field] == *value))
    };
    // The first member leads, and holds the copy whose salvage was asked for.
    ensure!(done("operator", "suspend_copy", "done"), "{told:?}");
    ensure!(done("client", "create_database", "already_exists"), "{told:?}");
    ensure!(done("operator", "cancel_operation", "unknown_operation"), "{told:?}");
    ensure!(done("client", "delete_salvage", "bad_argument"), "{told:?}");
    ensure!(!format!("{told:?}").contains("only a look"), "{told:?}");
    Ok(())
}

/// The audit of a member.
async fn told(cluster: &Cluster, member: &str) -> Result<Vec<serde_json::Value>> {
    let lines = cluster.cli().json(["audit", member, "--limit", "400"]).await?;
    Ok(lines.as_array().cloned().unwrap_or_default())
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_refused_again_and_again_gets_few_lines_in_the_audit_and_none_in_the_ring()
-> Result<()> {
    let cluster = cluster().await?;
    let reader = holder(&cluster, "reader", &["DB1"]).await?;
    for _ in 0..5 {
        forbidden(&reader, &["kv", "put", "DB1", "k", "w"]).await?;
        forbidden(&reader, &["token", "list"]).await?;
    }
    let mut refused = Vec::new();
    for member in ["m1", "m2", "m3"] {
        let lines = told(&cluster, member).await?;
        refused.extend(lines.into_iter().filter(|line| line["kind"] == "refused"));
    }
    let of = |call: &str| {
        let one = |line: &&serde_json::Value| line["call"] == call && line["by"] == "reader";
        refused.iter().filter(one).collect::<Vec<_>>()
    };
    let (control, data) = (of("Admin.ListTokens"), of("Kv.OpenSession"));
    ensure!((1..=3).contains(&control.len()), "once for each member that was asked: {refused:?}");
    ensure!(data.len() == 1, "the data process of the active tells it: {refused:?}");
    for line in [control[0], data[0]] {
        ensure!(line["outcome"] == "forbidden" && line["role"] == "reader", "{line}");
        ensure!(line["from"].as_str().is_some_and(|from| from.starts_with("127.")), "{line}");
        ensure!(line["times"] == 1, "the others are told when the minute is over: {line}");
    }
    let events = cluster.cli().json(["event", "list"]).await?.to_string();
    ensure!(!events.contains("ListTokens") && !events.contains("OpenSession"), "{events}");
    Ok(())
}
