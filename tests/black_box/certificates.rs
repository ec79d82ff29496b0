//! Certificates end and are replaced while members serve: nothing is restarted, no stream breaks.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use keelson_client::{Change, Client, ClientConfig, ClientOptions};
use keelson_testkit::{
    Cluster, ClusterOptions, Writer, WriterOptions, collect_metrics, eventually, free_port,
};
use tokio::net::TcpStream;

const MEMBERS: [&str; 3] = ["m1", "m2", "m3"];

/// How long the certificates last under which the streams begin. Long enough to begin all of them,
/// also on a busy machine.
const SHORT: Duration = Duration::from_secs(60);

/// m1 serves metrics at the port.
async fn cluster(port: u16) -> Result<Cluster> {
    let options = ClusterOptions { network: true, ..ClusterOptions::default() };
    let mut cluster = Cluster::prepare(&options).await?;
    let file = cluster.path().join("m1/keelson.toml");
    let text = std::fs::read_to_string(&file)?;
    std::fs::write(&file, format!("metrics_address = \"127.0.0.1:{port}\"\n{text}"))?;
    for member in MEMBERS {
        cluster.member(member).start()?;
    }
    cluster.form().await?;
    cluster.create_database("DB1", &MEMBERS).await?;
    cluster.wait_until_counting("DB1").await?;
    Ok(cluster)
}

/// Lines of all logs with these words.
fn lines(cluster: &Cluster, words: &str) -> Result<usize> {
    let logs = MEMBERS.map(|member| cluster.path().join(member).join("keelson.log"));
    let texts = logs.iter().map(std::fs::read_to_string).collect::<Result<Vec<_>, _>>()?;
    Ok(texts.iter().flat_map(|text| text.lines()).filter(|line| line.contains(words)).count())
}

/// Gives the client a certificate that lasts so long, under its old name.
async fn certify_client(cluster: &Cluster, time: &str) -> Result<()> {
    let certs = cluster.path().join("certs");
    let fresh = certs.join("fresh");
    let (from, to) = (certs.display().to_string(), fresh.display().to_string());
    let issue = ["certs", "issue", "admin", "client", "--ca-dir", &from, "--dir", &to];
    cluster.cli().succeed(issue.into_iter().chain(["--expires", time])).await?;
    for file in ["client.key", "client.pem"] {
        std::fs::rename(fresh.join(file), certs.join(file))?;
    }
    Ok(())
}

/// Gives everybody a certificate that lasts so long, and waits until both processes of each use
/// theirs; they look when somebody connects.
async fn renew(cluster: &Cluster, time: &str) -> Result<()> {
    let words = "certificates reloaded";
    let wanted = lines(cluster, words)? + 2 * MEMBERS.len();
    for member in MEMBERS {
        cluster.certify(member, time).await?;
    }
    certify_client(cluster, time).await?;
    eventually("all processes took their certificates", || async {
        for number in 1..=MEMBERS.len() {
            TcpStream::connect(cluster.control_address(number)?).await?;
            TcpStream::connect(cluster.data_address(number)?).await?;
        }
        let found = lines(cluster, words)?;
        ensure!(found >= wanted, "{found} of {wanted} times");
        Ok(())
    })
    .await
}

/// Seconds that the certificate of m1 has left, as its metrics tell.
fn seconds_left(port: u16) -> Result<f64> {
    let text = collect_metrics(port)?;
    let name = "keelson_tls_certificate_expires_timestamp_seconds ";
    let line = text.lines().find_map(|line| line.strip_prefix(name)).context("not told")?;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
    Ok(line.parse::<f64>()? - now.as_secs_f64())
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_end_and_are_replaced_under_load_without_a_break() -> Result<()> {
    let port = free_port()?;
    let mut cluster = cluster(port).await?;
    renew(&cluster, "60s").await?;
    let begun = Instant::now();
    ensure!(seconds_left(port)? < SHORT.as_secs_f64(), "the days left are not those of the file");
    // From here on every stream between members began under a certificate that is about to end.
    for member in MEMBERS {
        cluster.network().reset(member);
    }
    cluster.wait_until_counting("DB1").await?;
    let client = Client::new(ClientConfig::load(cluster.client_toml())?, ClientOptions::default())?;
    let database = client.database("DB1");
    let start = database.put("w/0", "begin").await?.token;
    let mut watch = database.watch(start, "w/");
    let writer = Writer::start(database.clone(), WriterOptions::default());
    writer.progress(50).await?;
    let downs = lines(&cluster, "log session down")?;
    let pids = MEMBERS.map(|member| cluster.member(member).data_pid());
    writer.reset_gap();

    renew(&cluster, "365d").await?;
    eventually("the first certificates have ended", || async {
        ensure!(begun.elapsed() > SHORT, "not yet");
        Ok(())
    })
    .await?;
    writer.progress(200).await?;
    database.put("w/1", "end").await?;
    let event = watch.next().await?.context("the watch ended")?;
    let Some(Change::Put(item)) = event.changes.first() else { panic!("{event:?}") };
    assert_eq!(item.key, "w/1");
    assert_eq!(lines(&cluster, "log session down")?, downs, "a stream between members broke");
    let gap = writer.longest_gap();
    ensure!(gap < Duration::from_secs(5), "nothing was acknowledged for {gap:?}");
    assert_eq!(MEMBERS.map(|member| cluster.member(member).data_pid()), pids, "a restart");
    let days = seconds_left(port)? / 86_400.0;
    ensure!((364.0..=365.0).contains(&days), "{days} days are left");
    // Who connects anew finds the new ones.
    cluster.cli().succeed(["kv", "get", "DB1", "w/1"]).await?;
    let oracle = writer.stop().await?;
    let verified = oracle.verify(&database).await?;
    let unknown = verified.unknown_applied + verified.unknown_absent;
    // One for each writer that was stopped with its last write under way.
    ensure!(unknown <= 4, "the client's own certificate broke calls: {verified:?}");
    cluster.assert_clean_logs(&[])
}
