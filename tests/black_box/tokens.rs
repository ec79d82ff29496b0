//! Access tokens, seen from the command line: who gets in with what, and until when.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use keelson_testkit::{Cli, Cluster, eventually};

use crate::data::cluster;
use crate::roles::is_limited_to_db1;

/// Issues a token and keeps its secret in a file.
async fn token_file(cluster: &Cluster, name: &str, args: &[&str]) -> Result<PathBuf> {
    let mut all = vec!["token", "issue"];
    all.extend(args);
    let secret = cluster.cli().succeed(all).await?;
    let path = cluster.path().join(format!("{name}.token"));
    std::fs::write(&path, secret)?;
    Ok(path)
}

/// Commands of somebody who has the authority and this token, and no certificate.
fn holder(cluster: &Cluster, name: &str, token: &std::path::Path) -> Result<Cli> {
    Ok(Cli::new(cluster.binary(), Some(&configured(cluster, name, token)?)))
}

/// The configuration of a client with this token.
fn configured(cluster: &Cluster, name: &str, token: &std::path::Path) -> Result<PathBuf> {
    let text = std::fs::read_to_string(cluster.client_toml())?;
    let kept = text.lines().filter(|line| !line.starts_with("cert ") && !line.starts_with("key "));
    let mut text = kept.collect::<Vec<_>>().join("\n");
    text.push_str(&format!("\ntoken_file = {:?}\n", token.display().to_string()));
    let path = cluster.path().join(format!("{name}.toml"));
    std::fs::write(&path, text)?;
    Ok(path)
}

async fn issued(cluster: &Cluster, role: &str, args: &[&str]) -> Result<Cli> {
    let mut all = vec![role, role];
    all.extend(args);
    holder(cluster, role, &token_file(cluster, role, &all).await?)
}

async fn refused(cli: &Cli, code: &str, args: &[&str]) -> Result<()> {
    let output = cli.run(args).await?;
    ensure!(output.error_code() == Some(code), "{args:?}: {output:?}");
    ensure!(output.code == Some(3) && output.hint().is_some(), "{args:?}: {output:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_role_by_token_may_do_its_work_and_no_more() -> Result<()> {
    let cluster = cluster().await?;
    cluster.create_database("DB2", &["m1"]).await?;
    cluster.cli().succeed(["kv", "put", "DB1", "k", "v"]).await?;
    let reader = issued(&cluster, "reader", &["--database", "DB1"]).await?;
    assert_eq!(reader.succeed(["kv", "get", "DB1", "k"]).await?, "v");
    assert_eq!(reader.succeed(["kv", "scan", "DB1"]).await?, "k\tv\n");
    refused(&reader, "forbidden", &["kv", "put", "DB1", "k", "w"]).await?;
    refused(&reader, "forbidden", &["kv", "get", "DB2", "k"]).await?;
    refused(&reader, "forbidden", &["cluster", "status"]).await?;
    let writer = issued(&cluster, "writer", &["--database", "DB2"]).await?;
    writer.succeed(["kv", "put", "DB2", "k", "w"]).await?;
    refused(&writer, "forbidden", &["kv", "put", "DB1", "k", "w"]).await?;
    let operator = issued(&cluster, "operator", &[]).await?;
    operator.succeed(["cluster", "status"]).await?;
    operator.succeed(["copy", "suspend", "DB1@m3", "--comment", "disk"]).await?;
    refused(&operator, "forbidden", &["kv", "get", "DB1", "k"]).await?;
    refused(&operator, "forbidden", &["token", "list"]).await?;
    let admin = issued(&cluster, "admin", &["--expires", "30d"]).await?;
    admin.succeed(["kv", "put", "DB1", "k", "x"]).await?;
    admin.succeed(["database", "dismount", "DB2", "--yes"]).await?;
    admin.succeed(["database", "remove", "DB2", "--yes"]).await?;
    let listed = admin.json(["token", "list"]).await?;
    let listed = listed.as_array().context("a list")?;
    assert_eq!(listed.len(), 4);
    let of =
        |role: &str| listed.iter().find(|row| row["role"] == role).cloned().unwrap_or_default();
    assert_eq!(
        (of("admin")["days_left"].as_u64(), of("reader")["days_left"].as_u64()),
        (Some(29), None)
    );
    assert_eq!(of("reader")["databases"], serde_json::json!(["DB1"]));
    let who = cluster.cli().succeed(["event", "list"]).await?;
    ensure!(who.contains("operator (operator, token)"), "the audit names the token: {who}");
    secrets_are_nowhere(&cluster)?;
    cluster.assert_clean_logs(&[])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_for_a_database_is_refused_every_call_for_another_one() -> Result<()> {
    let cluster = cluster().await?;
    cluster.create_database("DB2", &["m1"]).await?;
    for role in ["reader", "writer"] {
        let token = token_file(&cluster, role, &[role, role, "--database", "DB1"]).await?;
        is_limited_to_db1(&cluster, configured(&cluster, role, &token)?, role).await?;
    }
    cluster.assert_clean_logs(&[])
}

/// No secret, and no line that looks like one, in any log or in what a member keeps.
fn secrets_are_nowhere(cluster: &Cluster) -> Result<()> {
    let secrets = std::fs::read_dir(cluster.path())?.filter_map(|entry| {
        let path = entry.ok()?.path();
        (path.extension()? == "token").then(|| std::fs::read_to_string(path).ok())?
    });
    let secrets: Vec<String> = secrets.map(|secret| secret.trim().to_owned()).collect();
    ensure!(!secrets.is_empty());
    let mut places = vec![cluster.path().to_owned()];
    while let Some(place) = places.pop() {
        for entry in std::fs::read_dir(&place)? {
            let path = entry?.path();
            if path.is_dir() {
                places.push(path);
            } else if path.extension().is_none_or(|end| end != "token") {
                let Ok(bytes) = std::fs::read(&path) else { continue };
                for secret in &secrets {
                    let digits = &secret.as_bytes()[8..];
                    let found = bytes.windows(digits.len()).any(|window| window == digits);
                    ensure!(!found, "{} holds a secret", path.display());
                }
            }
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_token_is_refused_at_once_by_every_member() -> Result<()> {
    let cluster = cluster().await?;
    let token = token_file(&cluster, "w", &["writer", "w"]).await?;
    let writer = holder(&cluster, "w", &token)?;
    writer.succeed(["kv", "put", "DB1", "k", "v"]).await?;
    refused(cluster.cli(), "already_exists", &["token", "issue", "reader", "w"]).await?;
    let revoked = cluster.cli().json(["token", "revoke", "w", "--yes"]).await?;
    assert_eq!(revoked["silent_members"], serde_json::json!([]), "all of them confirmed it");
    for _ in 0..3 {
        refused(&writer, "unauthenticated", &["kv", "get", "DB1", "k"]).await?;
        refused(&writer, "unauthenticated", &["kv", "put", "DB1", "k", "w"]).await?;
    }
    refused(cluster.cli(), "unknown_token", &["token", "revoke", "w", "--yes"]).await?;
    // Another secret under the same name is another matter.
    let again = token_file(&cluster, "again", &["writer", "w"]).await?;
    let replaced = token_file(&cluster, "new", &["reader", "w", "--replace"]).await?;
    refused(&holder(&cluster, "again", &again)?, "unauthenticated", &["kv", "get", "DB1", "k"])
        .await?;
    assert_eq!(holder(&cluster, "new", &replaced)?.succeed(["kv", "get", "DB1", "k"]).await?, "v");
    let events = cluster.cli().json(["event", "list"]).await?;
    let count = |kind: &str| {
        events.as_array().into_iter().flatten().filter(|event| event["kind"] == kind).count()
    };
    assert_eq!((count("token_issued"), count("token_revoked")), (3, 1));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_outlive_restarts_and_end_by_themselves() -> Result<()> {
    let mut cluster = cluster().await?;
    let lasting = holder(&cluster, "l", &token_file(&cluster, "l", &["admin", "l"]).await?)?;
    let short = ["writer", "s", "--expires", "3s"];
    let short = holder(&cluster, "s", &token_file(&cluster, "s", &short).await?)?;
    eventually("it has expired", || async {
        let output = short.run(["kv", "put", "DB1", "k", "v"]).await?;
        ensure!(output.error_code() == Some("unauthenticated"), "{output:?}");
        ensure!(output.stderr.contains("has expired"), "{output:?}");
        Ok(())
    })
    .await?;
    cluster.member("m1").kill()?;
    cluster.member("m1").start()?;
    eventually("the token is taken after a restart", || async {
        lasting.succeed(["kv", "put", "DB1", "k", "v"]).await
    })
    .await?;
    Ok(())
}

/// Its list of tokens may be older than a revocation.
#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_may_not_be_up_to_date_takes_no_tokens() -> Result<()> {
    let mut cluster = cluster().await?;
    let admin = holder(&cluster, "a", &token_file(&cluster, "a", &["admin", "a"]).await?)?;
    admin.succeed(["cluster", "status"]).await?;
    for member in ["m1", "m2", "m3"] {
        cluster.member(member).kill()?;
    }
    cluster.member("m1").start()?;
    eventually("it answers to a certificate", || async {
        cluster.cli().succeed(["cluster", "status"]).await
    })
    .await?;
    let output = admin.run(["cluster", "status"]).await?;
    assert_eq!(output.error_code(), Some("no_lease"), "{output:?}");
    cluster.member("m2").start()?;
    cluster.member("m3").start()?;
    eventually("the token is taken when the cluster is back", || async {
        admin.succeed(["cluster", "status"]).await
    })
    .await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_tokens_are_refused_and_say_why() -> Result<()> {
    let cluster = cluster().await?;
    let path = cluster.path().join("bad.token");
    std::fs::write(&path, format!("keelson_{}", "0".repeat(64)))?;
    let bad = holder(&cluster, "bad", &path)?;
    refused(&bad, "unauthenticated", &["cluster", "status"]).await?;
    refused(&bad, "unauthenticated", &["kv", "get", "DB1", "k"]).await?;
    // The option goes before what the configuration names.
    let file = path.display().to_string();
    refused(cluster.cli(), "unauthenticated", &["cluster", "status", "--token-file", &file])
        .await?;
    std::fs::write(&path, "hunter2")?;
    let output = bad.run(["cluster", "status"]).await?;
    assert_eq!(output.error_code(), Some("bad_configuration"), "{output:?}");
    ensure!(!output.stderr.contains("hunter2"), "{output:?}");
    for (code, args) in [
        ("bad_argument", &["operator", "o", "--database", "DB1"][..]),
        ("bad_name", &["reader", "a b"]),
    ] {
        let mut all = vec!["token", "issue"];
        all.extend(args);
        refused(cluster.cli(), code, &all).await?;
    }
    let limited = ["token", "issue", "operator", "o", "--database", "DB1"];
    let output = cluster.cli().run(limited).await?;
    ensure!(output.stderr.contains("only a reader or a writer can be limited"), "{output:?}");
    cluster.cli().succeed(["token", "issue", "reader", "w", "--what-if"]).await?;
    assert_eq!(cluster.cli().json(["token", "list"]).await?, serde_json::json!([]));
    Ok(())
}
