//! What certificates allow, seen from the command line, and what the audit keeps.

use anyhow::{Result, ensure};
use keelson_testkit::{Cli, Cluster};

use crate::data::cluster;

/// Commands with a certificate of this role, for these databases.
async fn holder(cluster: &Cluster, role: &str, databases: &[&str]) -> Result<Cli> {
    let certs = cluster.path().join("certs").display().to_string();
    let mut args = vec!["certs", "issue", role, role, "--ca-dir", &certs, "--dir", &certs];
    args.extend(databases.iter().flat_map(|database| ["--database", database]));
    cluster.cli().succeed(args).await?;
    let text = std::fs::read_to_string(cluster.client_toml())?;
    let text = text.replace("client.pem", &format!("{role}.pem"));
    let path = cluster.path().join(format!("{role}.toml"));
    std::fs::write(&path, text.replace("client.key", &format!("{role}.key")))?;
    Ok(Cli::new(cluster.binary(), Some(&path)))
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
