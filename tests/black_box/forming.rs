//! What starts machines by itself uses: `cluster form`, `member ping`.

use anyhow::{Result, ensure};
use keelson_testkit::{Cluster, ClusterOptions};

fn config(cluster: &Cluster, member: &str) -> String {
    cluster.path().join(member).join("keelson.toml").display().to_string()
}

fn servers(cluster: &Cluster) -> Result<Vec<String>> {
    (1..=3).map(|number| Ok(format!("m{number}={}", cluster.control_address(number)?))).collect()
}

fn form<'a>(servers: &'a [String], more: &[&'a str]) -> Vec<&'a str> {
    let words = ["cluster", "form"].into_iter();
    words.chain(servers.iter().map(String::as_str)).chain(more.iter().copied()).collect()
}

/// While one server is away no cluster is founded; then the same command makes it, and repeated it
/// changes nothing; a member that comes later is added.
#[tokio::test(flavor = "multi_thread")]
async fn forming_waits_for_everybody_and_may_be_repeated() -> Result<()> {
    let mut cluster = Cluster::prepare(&ClusterOptions::default()).await?;
    let servers = servers(&cluster)?;
    cluster.member("m1").start()?;
    let early = cluster.cli().run(form(&servers[..2], &["--wait", "3s"])).await?;
    assert_eq!((early.code, early.error_code()), (Some(4), Some("unreachable")), "{early:?}");
    ensure!(early.stderr.contains("m2 was not heard"), "{early:?}");
    cluster.member("m2").start()?;
    let plan = cluster.cli().succeed(form(&servers[..2], &["--what-if"])).await?;
    let founding = plan.contains("found a cluster with m1, then add m2");
    ensure!(founding || plan.contains("m2 was not heard"), "{plan}");
    let made = cluster.cli().json(form(&servers[..2], &[])).await?;
    assert_eq!(made["members"], serde_json::json!(["m1", "m2"]));
    assert_eq!(cluster.cli().json(form(&servers[..2], &[])).await?, made, "nothing to do");
    cluster.member("m3").start()?;
    let more = cluster.cli().json(form(&servers, &[])).await?;
    assert_eq!((&more["cluster"], &more["members"][2]), (&made["cluster"], &"m3".into()));
    Ok(())
}

/// A witness is added as what it is, behind the members, and repeating it changes nothing.
#[tokio::test(flavor = "multi_thread")]
async fn witnesses_are_formed_with_the_others() -> Result<()> {
    let options = ClusterOptions { witnesses: 1, ..ClusterOptions::default() };
    let mut cluster = Cluster::prepare(&options).await?;
    for member in cluster.names() {
        cluster.member(&member).start()?;
    }
    let servers = servers(&cluster)?;
    let made = cluster.cli().json(form(&servers[..2], &["--witness", &servers[2]])).await?;
    assert_eq!(made["members"], serde_json::json!(["m1", "m2", "m3"]));
    let witnesses = cluster.cli().json(["cluster", "witness", "list"]).await?;
    assert_eq!(witnesses.as_array().map(Vec::len), Some(1), "{witnesses}");
    let again = cluster.cli().json(form(&servers[..2], &["--witness", &servers[2]])).await?;
    assert_eq!(again, made);
    Ok(())
}

/// Both processes are asked, with the member's own certificate.
#[tokio::test(flavor = "multi_thread")]
async fn a_ping_tells_whether_both_processes_serve() -> Result<()> {
    let mut cluster = Cluster::start(1).await?;
    let ping = ["member", "ping", "--config", &config(&cluster, "m1")].map(str::to_owned);
    let rows = cluster.cli().json(&ping).await?;
    let processes: Vec<_> =
        rows.as_array().into_iter().flatten().map(|row| &row["process"]).collect();
    assert_eq!(processes, ["control", "data"]);
    cluster.member("m1").kill()?;
    let output = cluster.cli().run(&ping).await?;
    assert_eq!((output.code, output.error_code()), (Some(4), Some("unreachable")), "{output:?}");
    Ok(())
}
