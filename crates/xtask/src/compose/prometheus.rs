//! The Prometheus of `deploy/compose.monitoring.yaml` beside a cluster: whether it reaches every
//! member with its certificate, and loads the rules.
//!
//! Its image comes from a registry, or is made here of a `prometheus` of this machine, under the
//! number of the user that the one of the registry has.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{Stack, docker, image, output};
use crate::workspace::{Workspace, find_program, run as run_command};

const IMAGE: &str = "keelson-test-prometheus";

const PORT: &str = "19090";

const DOCKERFILE: &str = "\
ARG RUNTIME_IMAGE
FROM ${RUNTIME_IMAGE}
COPY prometheus /bin/prometheus
RUN mkdir /prometheus && chown 65534:65534 /prometheus
USER 65534
ENTRYPOINT [\"/bin/prometheus\"]
CMD [\"--config.file=/etc/prometheus/prometheus.yml\", \"--storage.tsdb.path=/prometheus\"]
";

/// A running Prometheus.
pub(super) struct Prometheus {
    stack: Stack,
}

impl Prometheus {
    /// Starts it beside the cluster of `stack`. None, and a line that says so, where there is no
    /// image and nothing to make one of.
    pub(super) fn start(workspace: &Workspace, stack: &Stack) -> Result<Option<Self>> {
        let Some(named) = image_of(workspace)? else {
            println!("compose test: no prometheus is here, so NOBODY TRIED the monitoring");
            return Ok(None);
        };
        let mut stack = stack.clone();
        stack.files.push(workspace.root.join("deploy/compose.monitoring.yaml"));
        stack.settings.extend([
            ("PROMETHEUS_IMAGE", named),
            ("KEELSON_PROMETHEUS_PORT", PORT.into()),
            ("KEELSON_GRAFANA_PASSWORD", "of the test".into()),
        ]);
        let started = Self { stack };
        let up = ["up", "-d", "--no-build", "--no-deps", "prometheus"];
        if let Err(error) = run_command(&mut started.stack.compose(&up)) {
            // Nobody else knows of its volumes.
            let _ = started.remove();
            return Err(error);
        }
        Ok(Some(started))
    }

    /// How many members it reaches.
    pub(super) fn reaches(&self) -> Result<u64> {
        let told = ask("query?query=sum(up)")?;
        let value = told["data"]["result"][0]["value"][1].as_str().context("no figure yet")?;
        Ok(value.parse()?)
    }

    /// Fails unless it has alerts, each of which it could evaluate.
    pub(super) fn evaluates(&self) -> Result<()> {
        let told = ask("rules")?;
        let groups = told["data"]["groups"].as_array().context("no groups")?;
        let rules: Vec<_> =
            groups.iter().filter_map(|group| group["rules"].as_array()).flatten().collect();
        let bad = rules.iter().find(|rule| rule["health"] != "ok");
        ensure!(!rules.is_empty() && bad.is_none(), "{} rules, {bad:?}", rules.len());
        Ok(())
    }

    /// Its last words.
    pub(super) fn logs(&self) -> String {
        let logs = output(&mut self.stack.compose(&["logs", "--tail", "30", "prometheus"]));
        logs.unwrap_or_else(|error| error.to_string())
    }

    /// Removes it and the volumes of the monitoring; some versions of Compose make that of Grafana
    /// as well.
    pub(super) fn remove(&self) -> Result<()> {
        run_command(&mut self.stack.compose(&["rm", "--stop", "--force", "prometheus"]))?;
        let project = &self.stack.project;
        let made = docker(&["volume", "ls", "--quiet"])?;
        for volume in ["prometheus", "grafana"].map(|name| format!("{project}_{name}")) {
            if made.lines().any(|line| line == volume) {
                docker(&["volume", "rm", &volume])?;
            }
        }
        Ok(())
    }
}

fn ask(what: &str) -> Result<Value> {
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--show-error", "--fail", "--globoff", "--max-time", "10"]);
    let told = output(curl.arg(format!("http://127.0.0.1:{PORT}/api/v1/{what}")))?;
    Ok(serde_json::from_str(&told)?)
}

/// The image that is named, or one made now.
fn image_of(workspace: &Workspace) -> Result<Option<String>> {
    if let Ok(named) = std::env::var("PROMETHEUS_IMAGE") {
        return Ok(Some(named));
    }
    let Some(program) = find_program("prometheus") else { return Ok(None) };
    if find_program("curl").is_none() {
        return Ok(None);
    }
    let folder = workspace.keelson_binary("compose-prometheus")?;
    let folder = folder.parent().context("no target directory")?;
    std::fs::create_dir_all(folder)?;
    std::fs::copy(&program, folder.join("prometheus"))
        .with_context(|| format!("copy {}", program.display()))?;
    let file = folder.join("Dockerfile");
    std::fs::write(&file, DOCKERFILE)?;
    let argument = format!("RUNTIME_IMAGE={}", image::base(workspace)?);
    let mut build = Command::new("docker");
    build.args(["build", "--quiet", "--build-arg", &argument, "-t", IMAGE, "-f"]);
    run_command(build.arg(&file).arg(folder))?;
    Ok(Some(IMAGE.into()))
}
