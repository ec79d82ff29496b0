//! Wrong input gives a clear error with a stable code and a hint, and loses nothing.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use keelson_client::{Client, ClientConfig, ClientOptions, WriteBatch};
use keelson_testkit::{Cli, Cluster, ClusterOptions, Output, eventually, free_port};
use keelson_types::{KEY_BYTES_MAX, RefusalReason, VALUE_BYTES_MAX};

use crate::data::cluster;

/// Exit codes of commands.
const REFUSED: i32 = 3;
const UNAVAILABLE: i32 = 4;

/// The command ended with this exit code and error code, and gave a hint.
pub(crate) fn check(output: &Output, exit: i32, code: &str) {
    assert_eq!((output.code, output.error_code()), (Some(exit), Some(code)), "{output:?}");
    assert!(output.hint().is_some_and(|hint| !hint.is_empty()), "{output:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_names_are_named() -> Result<()> {
    let cluster = cluster().await?;
    let cases: &[(&[&str], &str)] = &[
        (&["kv", "get", "DB9", "k"], "unknown_database"),
        (&["kv", "put", "DB9", "k", "v"], "unknown_database"),
        (&["database", "show", "DB9"], "unknown_database"),
        (&["database", "digest", "DB9"], "unknown_database"),
        (&["database", "remove", "DB9", "--yes"], "unknown_database"),
        (&["copy", "status", "DB9"], "unknown_database"),
        (&["switchover", "DB9", "--to", "m1"], "unknown_database"),
        (&["switchover", "DB1", "--to", "m9"], "unknown_member"),
        (&["copy", "add", "DB1", "--on", "m9"], "unknown_member"),
        (&["copy", "remove", "DB1", "--on", "m9", "--yes"], "unknown_member"),
        (&["member", "remove", "m9", "--yes"], "unknown_member"),
        (&["member", "remove", "m1", "--yes"], "in_use"),
        (&["database", "create", "DB2", "--on", "m9"], "unknown_member"),
        (&["database", "create", "DB1", "--on", "m1"], "already_exists"),
        (&["database", "create", "a/b", "--on", "m1"], "bad_name"),
        (&["copy", "add", "DB1", "--on", "m1"], "already_exists"),
        (&["copy", "add", "DB1", "--on", "m1", "--what-if"], "already_exists"),
        (&["copy", "add", "DB9", "--on", "m1", "--what-if"], "unknown_database"),
        (&["copy", "add", "DB1", "--on", "m1", "--preference", "0"], "bad_argument"),
        (&["operation", "show", "00000000-0000-4000-8000-000000000001"], "unknown_operation"),
    ];
    for (args, code) in cases {
        let output = cluster.cli().run(*args).await?;
        assert_eq!(output.error_code(), Some(*code), "{args:?}: {output:?}");
        check(&output, REFUSED, code);
    }
    cluster.assert_clean_logs(&[])
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_values_and_batches_over_the_limits_are_refused() -> Result<()> {
    let cluster = cluster().await?;
    let database = cluster.client().database("DB1");
    let reason = |result: Result<_, keelson_client::ClientError>| {
        result.map(|_: keelson_client::Written| ()).unwrap_err().reason
    };
    let long_key = vec![b'k'; KEY_BYTES_MAX + 1];
    assert_eq!(reason(database.put(long_key, "v").await), RefusalReason::BadKey);
    assert_eq!(reason(database.put("", "v").await), RefusalReason::BadKey);
    let large = vec![0; VALUE_BYTES_MAX + 1];
    assert_eq!(reason(database.put("k", large).await), RefusalReason::ValueTooLarge);
    let mut batch = WriteBatch::new();
    for number in 0..3 {
        batch.push_put(format!("k{number}"), vec![0; 6 * 1024 * 1024]);
    }
    assert_eq!(reason(database.write(batch).await), RefusalReason::BatchTooLarge);
    // Over what one message may have: a server could not even read it.
    let before = Instant::now();
    let huge = vec![0; 25 * 1024 * 1024];
    assert_eq!(reason(database.put("k", huge.clone()).await), RefusalReason::ValueTooLarge);
    let session = database.session().await?;
    assert_eq!(reason(session.put("k", huge.clone()).await), RefusalReason::ValueTooLarge);
    let file = cluster.path().join("huge");
    std::fs::write(&file, huge)?;
    let file = file.display().to_string();
    let output = cluster.cli().run(["kv", "put", "DB1", "k", "--file", &file]).await?;
    check(&output, REFUSED, "value_too_large");
    ensure!(before.elapsed() < Duration::from_secs(10), "retried for {:?}", before.elapsed());
    assert_eq!(database.get("k0").await?, None);
    let largest = vec![7; VALUE_BYTES_MAX];
    database.put(vec![b'k'; KEY_BYTES_MAX], largest.clone()).await?;
    let found = database.get(vec![b'k'; KEY_BYTES_MAX]).await?;
    ensure!(found.as_deref() == Some(&largest[..]), "the largest value did not come back");
    cluster.wait_until_caught_up("DB1").await?;
    cluster.equal_digest("DB1", 3).await?;
    Ok(())
}

/// A client configuration beside the cluster's own.
fn client_file(cluster: &Cluster, name: &str, endpoint: &str, certs: &Path) -> Result<Cli> {
    let path = cluster.path().join(name);
    let files = |file: &str| certs.join(file).display().to_string();
    let text = format!(
        "endpoints = [{endpoint:?}]\nca = {:?}\ncert = {:?}\nkey = {:?}\n",
        files("ca.pem"),
        files("client.pem"),
        files("client.key")
    );
    std::fs::write(&path, text)?;
    Ok(Cli::new(cluster.binary(), Some(&path)))
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_ports_are_told_apart() -> Result<()> {
    let cluster = cluster().await?;
    let certs = cluster.path().join("certs");
    let nobody = format!("127.0.0.1:{}", free_port()?);
    let cli = client_file(&cluster, "nobody.toml", &nobody, &certs)?;
    let output = cli.run(["kv", "get", "DB1", "k"]).await?;
    check(&output, UNAVAILABLE, "unreachable");
    ensure!(output.stderr.contains("nothing listens"), "{output:?}");
    let data = cluster.data_address(1)?;
    let cli = client_file(&cluster, "data.toml", &data, &certs)?;
    let output = cli.run(["cluster", "status"]).await?;
    check(&output, UNAVAILABLE, "unreachable");
    ensure!(output.stderr.contains("another port"), "{output:?}");
    let config =
        ClientConfig { endpoints: vec![nobody], ..ClientConfig::load(cluster.client_toml())? };
    let error = Client::connect(config).await.unwrap_err();
    assert_eq!(error.reason, RefusalReason::Unreachable);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_of_others_and_expired_ones_are_refused() -> Result<()> {
    let cluster = cluster().await?;
    let endpoint = cluster.control_address(1)?;
    let plain = Cli::new(cluster.binary(), None);
    let foreign = cluster.path().join("foreign");
    let dir = foreign.display().to_string();
    plain.succeed(["certs", "init", "--dir", &dir]).await?;
    plain.succeed(["certs", "issue", "admin", "client", "--ca-dir", &dir, "--dir", &dir]).await?;
    // All files of another authority: the server's certificate is foreign to the client.
    let cli = client_file(&cluster, "foreign.toml", &endpoint, &foreign)?;
    check(&cli.run(["cluster", "status"]).await?, REFUSED, "bad_certificate");
    // The right authority, but a client certificate of another one.
    std::fs::copy(cluster.path().join("certs/ca.pem"), foreign.join("ca.pem"))?;
    let output = cli.run(["cluster", "status"]).await?;
    check(&output, REFUSED, "bad_certificate");
    // An expired certificate of the right authority.
    let expired = cluster.path().join("expired");
    let (ca, dir) = (cluster.path().join("certs"), expired.display().to_string());
    let ca = ca.display().to_string();
    let issue = ["certs", "issue", "admin", "client", "--days", "0"];
    plain.succeed(issue.into_iter().chain(["--ca-dir", &ca, "--dir", &dir])).await?;
    std::fs::copy(cluster.path().join("certs/ca.pem"), expired.join("ca.pem"))?;
    let cli = client_file(&cluster, "expired.toml", &endpoint, &expired)?;
    eventually("the certificate has expired", || async {
        let output = cli.run(["cluster", "status"]).await?;
        ensure!(output.error_code() == Some("bad_certificate"), "{output:?}");
        Ok(())
    })
    .await?;
    cluster.client().database("DB1").put("k", "v").await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn broken_client_configurations_are_explained() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("client.toml");
    let cli = Cli::new(&keelson_testkit::keelson_binary()?, Some(&path));
    check(&cli.run(["cluster", "status"]).await?, REFUSED, "bad_configuration");
    std::fs::write(&path, "endpoints = [\n")?;
    check(&cli.run(["cluster", "status"]).await?, REFUSED, "bad_configuration");
    std::fs::write(&path, "endpoints = [\"h:1\"]\nca = \"a\"\ncert = \"b\"\nkey = \"c\"\n")?;
    check(&cli.run(["cluster", "status"]).await?, REFUSED, "bad_configuration");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_of_another_cluster_is_not_added() -> Result<()> {
    let ours = cluster().await?;
    // Another cluster of the same authority: its server shows a good certificate.
    let mut theirs =
        Cluster::prepare(&ClusterOptions { members: 1, ..ClusterOptions::default() }).await?;
    let certs = theirs.path().join("m1");
    let (dir, ca) = (certs.display().to_string(), ours.path().join("certs").display().to_string());
    for file in ["m1.pem", "m1.key"] {
        std::fs::remove_file(certs.join(file))?;
    }
    let plain = Cli::new(ours.binary(), None);
    plain.succeed(["certs", "issue", "member", "m1", "--ca-dir", &ca, "--dir", &dir]).await?;
    for file in ["ca.pem", "client.pem", "client.key"] {
        std::fs::copy(
            ours.path().join("certs").join(file),
            theirs.path().join("certs").join(file),
        )?;
    }
    theirs.member("m1").start()?;
    let config = ClientConfig::load(theirs.client_toml())?;
    let admin = Client::new(config, ClientOptions::default())?.admin();
    eventually("the other cluster is made", || async { Ok(admin.init_cluster().await?) }).await?;
    let address = theirs.control_address(1)?;
    let output = ours.cli().run(["member", "add", "m1", &address]).await?;
    check(&output, REFUSED, "foreign_cluster");
    ours.client().database("DB1").put("k", "v").await?;
    Ok(())
}

/// A virtual machine that was cloned, or a backup of the directory started elsewhere: two servers
/// with one identity would vote twice and take each other's databases.
#[tokio::test(flavor = "multi_thread")]
async fn a_copy_of_a_running_members_directory_is_refused_and_changes_nothing() -> Result<()> {
    let ours = cluster().await?;
    let actives = || async { ours.cli().json(["copy", "status", "DB1"]).await };
    ours.wait_until_counting("DB1").await?;
    let epoch = |rows: &serde_json::Value| rows[0]["epoch"].clone();
    let before = epoch(&actives().await?);
    for name in ours.names() {
        let (original, clone) =
            (ours.path().join(&name), ours.path().join(format!("{name}-clone")));
        let (from, to) = (original.display().to_string(), clone.display().to_string());
        let copied = std::process::Command::new("cp").args(["-r", &from, &to]).status()?;
        ensure!(copied.success(), "cp: {copied}");
        let config = clone.join("keelson.toml");
        let mut text = String::new();
        for line in std::fs::read_to_string(&config)?.lines() {
            let moved = match line.split_once(" = ") {
                Some((key @ ("control_address" | "data_address"), _)) => {
                    format!("{key} = \"127.0.0.1:{}\"", free_port()?)
                }
                _ => line.to_owned(),
            };
            text += &(moved + "\n");
        }
        std::fs::write(&config, text)?;
        let args = ["server", "--config", &config.display().to_string()].map(str::to_owned);
        let output = Cli::new(ours.binary(), None).run(args).await?;
        check(&output, REFUSED, "second_holder");
    }
    assert_eq!(epoch(&actives().await?), before, "no database was taken away");
    ours.client().database("DB1").put("k", "v").await?;
    ours.wait_until_whole().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_holder_of_a_name_or_directory_is_refused() -> Result<()> {
    let ours = cluster().await?;
    // A second server on the data directory of a running member.
    let config = ours.path().join("m2/keelson.toml").display().to_string();
    let second = Cli::new(ours.binary(), None).run(["server", "--config", &config]).await?;
    check(&second, REFUSED, "second_holder");
    // Another name on a directory that belongs to m2.
    let text = std::fs::read_to_string(&config)?;
    let renamed = ours.path().join("m2/renamed.toml");
    std::fs::write(&renamed, text.replace("name = \"m2\"", "name = \"m4\""))?;
    let output = Cli::new(ours.binary(), None)
        .run(["server", "--config", &renamed.display().to_string()])
        .await?;
    ensure!(matches!(output.error_code(), Some("second_holder" | "bad_certificate")), "{output:?}");
    // A fresh server that calls itself m2, too.
    let mut twin =
        Cluster::prepare(&ClusterOptions { members: 2, ..ClusterOptions::default() }).await?;
    let home = twin.path().join("m2");
    for file in ["m2.pem", "m2.key"] {
        std::fs::copy(ours.path().join("m2").join(file), home.join(file))?;
    }
    std::fs::copy(ours.path().join("certs/ca.pem"), twin.path().join("certs/ca.pem"))?;
    twin.member("m2").start()?;
    let address = twin.control_address(2)?;
    eventually("the twin is refused", || async {
        let output = ours.cli().run(["member", "add", "m2", &address]).await?;
        ensure!(output.error_code() == Some("second_holder"), "{output:?}");
        check(&output, REFUSED, "second_holder");
        Ok(())
    })
    .await?;
    ours.client().database("DB1").put("k", "v").await?;
    ours.wait_until_whole().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_data_directory_of_a_newer_version_is_left_alone() -> Result<()> {
    let mut ours = cluster().await?;
    ours.member("m3").stop()?;
    let path = ours.path().join("m3/data/member.json");
    let text = std::fs::read_to_string(&path)?;
    let mut identity: serde_json::Value = serde_json::from_str(&text)?;
    identity["format"] = 1_000.into();
    std::fs::write(&path, identity.to_string())?;
    let config = ours.path().join("m3/keelson.toml").display().to_string();
    let output = Cli::new(ours.binary(), None).run(["server", "--config", &config]).await?;
    check(&output, REFUSED, "newer_format");
    std::fs::write(&path, text)?;
    ours.member("m3").start()?;
    ours.wait_until_whole().await
}

/// A member that lost its data is another one: it is named, its vote does not count, and the steps
/// that the hint names bring it back.
#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_lost_its_data_is_recognised_and_comes_back() -> Result<()> {
    let mut ours = cluster().await?;
    let address = ours.control_address(3)?;
    ours.client().database("DB1").put("k", "v").await?;
    ours.member("m3").stop()?;
    let data = ours.path().join("m3/data");
    let config = ours.path().join("m3/keelson.toml").display().to_string();
    let (identity, aside) = (data.join("member.json"), data.join("aside.json"));
    // Without its identity nothing starts on what is left.
    std::fs::rename(&identity, &aside)?;
    let output = Cli::new(ours.binary(), None).run(["server", "--config", &config]).await?;
    check(&output, REFUSED, "identity_missing");
    std::fs::rename(&aside, &identity)?;
    // The vote cannot be read.
    let consensus = data.join("cluster/consensus.redb");
    let whole = std::fs::read(&consensus)?;
    std::fs::write(&consensus, vec![0xff; whole.len()])?;
    let output = Cli::new(ours.binary(), None).run(["server", "--config", &config]).await?;
    check(&output, REFUSED, "consensus_damaged");
    // It is emptied, gone, or gone with its directory: a new one would not know the vote.
    for forget in [
        (|file| std::fs::write(file, "")) as fn(&Path) -> std::io::Result<()>,
        |file| std::fs::remove_file(file),
        |file| std::fs::remove_dir_all(file.with_file_name("")),
    ] {
        forget(&consensus)?;
        let output = Cli::new(ours.binary(), None).run(["server", "--config", &config]).await?;
        check(&output, REFUSED, "consensus_damaged");
        ensure!(output.stderr.contains("keelson member remove"), "{output:?}");
    }
    std::fs::remove_dir_all(&data)?;
    ours.member("m3").start()?;
    let status = eventually("another server is seen in its place", || async {
        let status = ours.cli().json(["cluster", "status"]).await?;
        let problems = status["problems"].to_string();
        ensure!(problems.contains("one that lost its data, answers as m3"), "{problems}");
        ensure!(problems.contains("keelson member add"), "{problems}");
        ensure!(problems.contains("2 of 3 voters are reachable"), "{problems}");
        Ok(status)
    })
    .await?;
    assert_eq!(status["members"][2]["reachable"], false, "{status}");
    let cli = ours.cli();
    let removed = cli.succeed(["copy", "remove", "DB1", "--on", "m3", "--yes"]).await?;
    ensure!(removed.contains("its files, if any, stay"), "{removed}");
    cli.succeed(["member", "remove", "m3", "--yes"]).await?;
    cli.succeed(["member", "add", "m3", &address]).await?;
    cli.succeed(["copy", "add", "DB1", "--on", "m3"]).await?;
    ours.wait_until_caught_up("DB1").await?;
    ours.equal_digest("DB1", 3).await?;
    ours.wait_until_whole().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_configuration_with_mistakes_is_explained() -> Result<()> {
    let ours =
        Cluster::prepare(&ClusterOptions { members: 1, ..ClusterOptions::default() }).await?;
    let path = ours.path().join("m1/keelson.toml");
    let text = std::fs::read_to_string(&path)?;
    let file = path.display().to_string();
    let cli = Cli::new(ours.binary(), None);
    cli.succeed(["config", "check", &file]).await?;
    std::fs::write(&path, format!("surprise = 1\n{text}"))?;
    let output = cli.run(["config", "check", &file]).await?;
    check(&output, REFUSED, "bad_configuration");
    ensure!(output.stderr.contains("surprise"), "{output:?}");
    std::fs::write(&path, text.replace("name = \"m1\"", "name = \"m/1\""))?;
    check(&cli.run(["server", "--config", &file]).await?, REFUSED, "bad_configuration");
    Ok(())
}
