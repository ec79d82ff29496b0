//! What Prometheus collects from a running member.

use std::io::Write;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use keelson_testkit::{Cluster, ClusterOptions, collect_metrics, eventually, free_port};

/// `promtool` reads them without a complaint, where it is installed.
fn accepted(text: &str) -> Result<()> {
    let tool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let Ok(mut tool) = tool else { return Ok(()) };
    tool.stdin.take().context("no input")?.write_all(text.as_bytes())?;
    let output = tool.wait_with_output()?;
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success() && said.trim().is_empty(), "{said}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_tells_its_metrics_also_when_its_data_process_is_down() -> Result<()> {
    let port = free_port()?;
    let settings = format!("metrics_address = \"127.0.0.1:{port}\"\n");
    let options = ClusterOptions { members: 1, settings, ..ClusterOptions::default() };
    let mut cluster = Cluster::start_with(options).await?;
    cluster.create_database("DB1", &["m1"]).await?;
    let database = cluster.client().database("DB1");
    for number in 0..20 {
        database.put(format!("{number}"), "v").await?;
    }
    let text = collect_metrics(port)?;
    for line in [
        "keelson_cluster_leader 1",
        "keelson_member_data_process_up 1",
        "keelson_copy_status_info{database=\"DB1\",status=\"Mounted\"} 1",
        "keelson_copy_serving{database=\"DB1\"} 1",
        "keelson_database_wanted_mounted{database=\"DB1\"} 1",
        "keelson_database_established{database=\"DB1\"} 1",
        "keelson_write_stage_seconds_count{stage=\"request\"} 20",
        "keelson_write_stage_seconds_count{stage=\"commit\"} 20",
    ] {
        ensure!(text.lines().any(|found| found == line), "{line} is missing in\n{text}");
    }
    accepted(&text)?;
    cluster.member("m1").kill_data_process()?;
    eventually("the metrics say that the data process is down, or that it is new", || async {
        let text = collect_metrics(port)?;
        let down = text.contains("keelson_member_data_process_up 0\n");
        let fresh = text.contains("keelson_write_stage_seconds_count{stage=\"request\"} 0\n");
        ensure!(down || fresh, "neither");
        Ok(())
    })
    .await
}
