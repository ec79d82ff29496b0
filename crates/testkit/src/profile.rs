//! What a request costs: processor time of every kind of thread, changes of context, syncs and
//! bytes, while `keelson bench` loads a cluster of this machine.
//!
//! The kernel counts all of it for every thread, so that nothing measures in the way: two looks at
//! `/proc` and at the members' metrics in the middle of a load. Operations are those of the load's
//! mean rate in the time between them.

mod look;
mod page;

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::{Cluster, ClusterOptions, free_port};

pub use page::page;

/// A load, as `keelson bench` names it, and how the page does.
const LOADS: [(&str, &[&str]); 5] = [
    ("put, 1 client", &["put", "--clients", "1"]),
    ("put, 16 clients", &["put", "--clients", "16"]),
    ("put, 64 clients", &["put", "--clients", "64"]),
    ("get, 64 clients", &["get", "--clients", "64"]),
    ("batch of 100, 8 clients", &["batch", "--clients", "8"]),
];

const WARM_UP: Duration = Duration::from_secs(2);

/// A load of reads writes its keys before, for less than this.
const FILLING: Duration = Duration::from_secs(2);

/// One load and what it cost.
#[derive(Debug)]
pub struct Profile {
    name: &'static str,
    /// Operations in the time of the measurement.
    operations: f64,
    seconds: f64,
    p50_micros: u64,
    cost: look::Cost,
}

/// Runs every load for `time` on three members, and measures its inner part.
///
/// # Errors
/// The cluster does not start, or a load fails.
pub async fn run(time: Duration) -> Result<Vec<Profile>> {
    let mut cluster = Cluster::prepare(&ClusterOptions::default()).await?;
    let mut ports = Vec::new();
    for name in cluster.names() {
        let port = free_port()?;
        let member = cluster.member(&name);
        with_metrics(&member.directory().join("keelson.toml"), port)?;
        member.start()?;
        ports.push((name, port));
    }
    cluster.form().await?;
    cluster.create_database("DB1", &["m1", "m2", "m3"]).await?;
    let mut profiles = Vec::new();
    for (name, words) in LOADS {
        eprintln!("profile: {name}");
        profiles.push(one(&mut cluster, &ports, (name, words), time).await?);
    }
    Ok(profiles)
}

fn with_metrics(file: &Path, port: u16) -> Result<()> {
    let text = std::fs::read_to_string(file)?;
    let line = format!("metrics_address = \"127.0.0.1:{port}\"\n");
    std::fs::write(file, line + &text).with_context(|| file.display().to_string())
}

async fn one(
    cluster: &mut Cluster,
    ports: &[(String, u16)],
    (name, words): (&'static str, &[&str]),
    time: Duration,
) -> Result<Profile> {
    let (warm_up, duration) = (format!("{WARM_UP:?}"), format!("{time:?}"));
    let times = ["--keys", "10000", "--warm-up", &warm_up, "--duration", &duration, "-o", "json"];
    let mut command = cluster.cli().command([&["bench"], words, &times].concat());
    let load = command.stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn()?;
    let load_pid = load.id().context("the load has ended already")?;
    tokio::time::sleep(WARM_UP + FILLING).await;
    let active = cluster.active_of("DB1").await?;
    let (before, begun) = (look::look(cluster, ports, &active, load_pid)?, Instant::now());
    tokio::time::sleep(time / 2).await;
    let (after, seconds) = (look::look(cluster, ports, &active, load_pid)?, begun.elapsed());
    let output = load.wait_with_output().await?;
    ensure!(output.status.success(), "the load ended with {}", output.status);
    let told: Value = serde_json::from_slice(&output.stdout)?;
    let rate = told["operations_per_s"].as_f64().context("no rate")?;
    let seconds = seconds.as_secs_f64();
    Ok(Profile {
        name,
        operations: rate * seconds,
        seconds,
        p50_micros: told["latency_micros"]["p50"].as_u64().context("no median")?,
        cost: before.until(&after),
    })
}
