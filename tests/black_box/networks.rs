//! Networks between members: log and seeds take the one that fits, and another one when it is cut.

use anyhow::{Context, Result, ensure};
use keelson_testkit::{Cluster, ClusterOptions, eventually};
use serde_json::Value;

use crate::bad_input::check;
use crate::copies::until_status;
use crate::moves::another;
use crate::seeds::operation;

/// Three members with a client and a replication network, DB1 active on m1.
async fn cluster() -> Result<Cluster> {
    let options = ClusterOptions { replication: true, ..ClusterOptions::default() };
    let cluster = Cluster::start_with(options).await?;
    let cli = cluster.cli();
    cli.succeed(["network", "set", "repl", "--subnets", "127.1.0.0/16"]).await?;
    let client = ["network", "set", "lan", "--role", "client", "--subnets", "127.0.0.0/16"];
    cli.succeed(client).await?;
    cluster.create_database("DB1", &["m1", "m2", "m3"]).await?;
    cluster.wait_until_counting("DB1").await?;
    cli.succeed(["switchover", "DB1", "--to", "m1"]).await?;
    cluster.wait_until_counting("DB1").await?;
    Ok(cluster)
}

/// The way of log from a member to another one.
async fn way(cluster: &Cluster, from: &str, to: &str) -> Result<Value> {
    let found = cluster.cli().json(["network", "list"]).await?;
    let paths = found["log_paths"].as_array().cloned().unwrap_or_default();
    let wanted = |path: &Value| path["from"] == from && path["to"] == to;
    paths.into_iter().find(wanted).with_context(|| format!("no log from {from} to {to}: {found}"))
}

async fn until_way(cluster: &Cluster, to: &str, network: &str, compressed: bool) -> Result<Value> {
    eventually(&format!("log goes to {to} over {network}"), || async {
        let way = way(cluster, "m1", to).await?;
        ensure!(way["network"] == network && way["compressed"] == compressed, "{way}");
        Ok(way)
    })
    .await
}

async fn fill(cluster: &Cluster, prefix: &str) -> Result<()> {
    let database = cluster.client().database("DB1");
    for number in 0..40 {
        database.put(format!("{prefix}{number}"), vec![b'a'; 64 * 1024]).await?;
    }
    cluster.wait_until_counting("DB1").await
}

/// F114 to F117: log goes over the replication network, over the client network while that is cut,
/// and back; compressed when the policy says so.
#[tokio::test(flavor = "multi_thread")]
async fn log_takes_the_replication_network_and_another_one_when_it_is_cut() -> Result<()> {
    let cluster = cluster().await?;
    for member in ["m2", "m3"] {
        until_way(&cluster, member, "repl", false).await?;
    }
    let shown = cluster.cli().json(["network", "list"]).await?;
    assert_eq!(shown["compression"], "inter-subnet-only", "{shown}");
    assert_eq!(shown["networks"][1]["addresses"].as_array().map(Vec::len), Some(3), "{shown}");
    fill(&cluster, "a").await?;
    cluster.replication_network().cut("m1", "m2");
    until_way(&cluster, "m2", "lan", false).await?;
    until_way(&cluster, "m3", "repl", false).await?;
    fill(&cluster, "b").await?;
    cluster.replication_network().heal_all();
    until_way(&cluster, "m2", "repl", false).await?;
    cluster.cli().succeed(["network", "policy", "--compression", "enabled"]).await?;
    for member in ["m2", "m3"] {
        until_way(&cluster, member, "repl", true).await?;
    }
    fill(&cluster, "c").await?;
    // Wherever a busy machine has let it move.
    let active = cluster.active_of("DB1").await?;
    let way = way(&cluster, &active, &another(&cluster, &active)).await?;
    let number = |name: &str| way[name].as_u64().unwrap_or(0);
    ensure!(number("bytes") > 2_000_000, "{way}");
    ensure!(number("wire_bytes") * 10 < number("bytes"), "the same letter again and again: {way}");
    cluster.cli().succeed(["network", "set", "repl", "--ignored", "true"]).await?;
    until_way(&cluster, "m3", "lan", true).await?;
    cluster.wait_until_caught_up("DB1").await?;
    cluster.equal_digest("DB1", 3).await?;
    Ok(())
}

/// F55, F57: a seed takes the replication network of its subnet, or the one that is asked for, and
/// is compressed as asked.
#[tokio::test(flavor = "multi_thread")]
async fn a_seed_takes_the_network_that_fits_or_the_one_asked_for() -> Result<()> {
    let cluster = cluster().await?;
    fill(&cluster, "a").await?;
    let seed = async |more: &[&str]| {
        cluster.cli().succeed(["copy", "suspend", "DB1@m3", "--comment", "disk"]).await?;
        until_status(&cluster, "m3", "Suspended").await?;
        let args = ["copy", "seed", "DB1@m3", "--yes", "--delete-existing-files"];
        let seeded = cluster.cli().json(args.iter().chain(more)).await?;
        until_status(&cluster, "m3", "Healthy").await?;
        operation(&cluster, seeded["operation"].as_str().unwrap_or_default()).await
    };
    let shown = seed(&[]).await?["seed"].clone();
    assert_eq!((&shown["network"], &shown["compressed"]), (&"repl".into(), &false.into()));
    let shown = seed(&["--network", "lan", "--compression", "enabled"]).await?["seed"].clone();
    assert_eq!((&shown["network"], &shown["compressed"]), (&"lan".into(), &true.into()));
    let number = |name: &str| shown[name].as_u64().unwrap_or(0);
    ensure!(number("bytes_received") * 2 < number("bytes"), "{shown}");
    cluster.wait_until_counting("DB1").await?;
    cluster.equal_digest("DB1", 3).await?;
    Ok(())
}

/// F114, F115: what makes no sense is refused, and so is every word against encryption.
#[tokio::test(flavor = "multi_thread")]
async fn networks_that_cannot_be_are_refused() -> Result<()> {
    let cluster = Cluster::start(1).await?;
    let cli = cluster.cli();
    cli.succeed(["network", "set", "repl", "--subnets", "10.1.0.0/16,fd00::/64"]).await?;
    for args in [
        &["network", "set", "a b", "--subnets", "10.2.0.0/16"][..],
        &["network", "set", "other", "--subnets", "10.1.7.0/24"],
        &["network", "set", "other", "--subnets", "10.2.0.1/16"],
        &["network", "set", "other", "--role", "mail", "--subnets", "10.2.0.0/16"],
        &["network", "set", "other", "--role", "client"],
        &["network", "remove", "other"],
        &["network", "policy", "--compression", "maybe"],
    ] {
        check(&cli.run(args).await?, 3, "bad_argument");
    }
    for policy in ["disabled", "inter-subnet-only", "seed-only"] {
        let refused = cli.run(["network", "policy", "--encryption", policy]).await?;
        check(&refused, 3, "encryption_required");
        ensure!(refused.hint().is_some_and(|hint| hint.contains("mutual TLS")), "{refused:?}");
    }
    cli.succeed(["network", "policy", "--encryption", "enabled"]).await?;
    cluster.create_database("DB1", &["m1"]).await?;
    let seed = ["copy", "seed", "DB1@m1", "--yes"];
    let with = |more: [&'static str; 2]| seed.into_iter().chain(more);
    check(&cli.run(with(["--encryption", "disabled"])).await?, 3, "encryption_required");
    check(&cli.run(with(["--network", "nowhere"])).await?, 3, "bad_argument");
    check(&cli.run(with(["--compression", "maybe"])).await?, 3, "bad_argument");
    cli.succeed(["network", "remove", "repl", "--what-if"]).await?;
    let shown = cli.json(["network", "list"]).await?;
    assert_eq!(shown["networks"].as_array().map(Vec::len), Some(1), "{shown}");
    cli.succeed(["network", "remove", "repl"]).await?;
    Ok(())
}
