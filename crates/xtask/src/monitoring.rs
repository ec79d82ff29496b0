//! Has `promtool` check what `deploy/monitoring` asks of Prometheus: its configuration, the alert
//! rules, their tests, and every expression of the dashboard.
//!
//! That the metrics exist, and that every alert has its tests, is a test of `status`.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::workspace::{Workspace, run as run_command};

/// The program that checks; Debian has it in the package `prometheus`.
pub(crate) const PROGRAM: &str = "promtool";

/// Checks all of it; fails where the program is missing.
pub(crate) fn run(workspace: &Workspace) -> Result<()> {
    let folder = workspace.root.join("deploy/monitoring");
    for args in [
        // Certificates are there only beside a cluster.
        &["check", "config", "--syntax-only", "prometheus.yml"][..],
        &["check", "rules", "alerts.yml"],
        &["test", "rules", "alerts.test.yml"],
    ] {
        run_command(Command::new(PROGRAM).args(args).current_dir(&folder))?;
    }
    check_dashboard(&folder.join("dashboard.json"))
}

/// Prometheus knows no dashboards, so their expressions are checked as recording rules.
fn check_dashboard(dashboard: &Path) -> Result<()> {
    let text = std::fs::read_to_string(dashboard)
        .with_context(|| format!("read {}", dashboard.display()))?;
    let asked = expressions(&serde_json::from_str(&text)?);
    if asked.is_empty() {
        bail!("{} asks for nothing", dashboard.display());
    }
    // JSON is YAML.
    let rules = Temporary::with("dashboard.yml", &rules(&asked).to_string())?;
    println!("{} expressions of the dashboard:", asked.len());
    run_command(Command::new(PROGRAM).args(["check", "rules"]).arg(&rules.0))
}

/// A file that is removed when dropped.
struct Temporary(PathBuf);

impl Temporary {
    fn with(name: &str, text: &str) -> Result<Self> {
        let path = std::env::temp_dir().join(format!("keelson-{}-{name}", std::process::id()));
        std::fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // What stays in the folder for temporary files is in nobody's way.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Every expression in a dashboard with the title of its panel, however deep panels lie in rows.
fn expressions(dashboard: &Value) -> Vec<(String, String)> {
    let mut found = Vec::new();
    collect(dashboard, "", &mut found);
    found
}

fn collect(value: &Value, title: &str, found: &mut Vec<(String, String)>) {
    match value {
        Value::Array(items) => items.iter().for_each(|item| collect(item, title, found)),
        Value::Object(fields) => {
            let title = fields.get("title").and_then(Value::as_str).unwrap_or(title);
            if let Some(Value::String(expression)) = fields.get("expr") {
                found.push((title.to_owned(), expression.clone()));
            }
            fields.values().for_each(|field| collect(field, title, found));
        }
        _ => {}
    }
}

/// One rule for each, called after its panel, so that a complaint tells where it is.
fn rules(asked: &[(String, String)]) -> Value {
    let rule = |(number, (title, expression)): (usize, &(String, String))| {
        let plain = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '_' };
        let title: String = title.chars().map(plain).collect();
        let name = format!("dashboard:{title}:{number}");
        json!({ "record": name, "expr": with_constants(expression) })
    };
    let rules: Vec<_> = asked.iter().enumerate().map(rule).collect();
    json!({ "groups": [{ "name": "dashboard", "rules": rules }] })
}

/// The expression with a constant for each variable of Grafana (`$name`, `${name}`, `[[name]]`): a
/// span of time where one must stand, else a word, which fits into the matchers of labels.
fn with_constants(expression: &str) -> String {
    let mut out = String::new();
    let mut rest = expression;
    while let Some(at) = rest.find(['$', '[']) {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let Some((name, length)) = variable(rest) else {
            out.push_str(&rest[..1]);
            rest = &rest[1..];
            continue;
        };
        let within_range = out.ends_with(['[', ':']);
        let is_number = name.ends_with("_ms") || name.ends_with("_s");
        out.push_str(match (name.starts_with("__"), within_range) {
            (true, _) if is_number => "300",
            (true, _) | (_, true) => "5m",
            (false, false) => "x",
        });
        rest = &rest[length..];
    }
    out + rest
}

/// The name of the variable with which a text begins, and how long its use is.
fn variable(text: &str) -> Option<(&str, usize)> {
    for (open, close) in [("${", "}"), ("[[", "]]")] {
        if let Some(inner) = text.strip_prefix(open) {
            let end = inner.find(close)?;
            // `${name:format}`
            let name = inner[..end].split(':').next().unwrap_or_default();
            return Some((name, open.len() + end + close.len()));
        }
    }
    let inner = text.strip_prefix('$')?;
    let other = |c: char| !c.is_ascii_alphanumeric() && c != '_';
    let end = inner.find(other).unwrap_or(inner.len());
    (end > 0).then_some((&inner[..end], 1 + end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_become_constants() {
        for (asked, expected) in [
            ("rate(a[1m])", "rate(a[1m])"),
            ("rate(a{b=\"$b\"}[$__rate_interval])", "rate(a{b=\"x\"}[5m])"),
            ("rate(a{b=~\"${b:regex}|[[c]]\"}[$window])", "rate(a{b=~\"x|x\"}[5m])"),
            ("max_over_time(a[${__range}:$step])", "max_over_time(a[5m:5m])"),
            ("a / $__range_s", "a / 300"),
            ("a{b=~\"c$\"}", "a{b=~\"c$\"}"),
        ] {
            assert_eq!(with_constants(asked), expected, "{asked}");
        }
    }

    #[test]
    fn expressions_are_found_in_rows_too_and_named_after_their_panels() {
        let dashboard = json!({ "title": "all", "panels": [
            { "title": "One, two", "targets": [{ "expr": "a" }, { "expr": "b[$x]" }] },
            { "title": "row", "panels": [{ "title": "Deep", "targets": [{ "expr": "c" }] }] },
        ] });
        let asked = expressions(&dashboard);
        let rules = rules(&asked);
        let of = |number: usize| &rules["groups"][0]["rules"][number];
        assert_eq!(*of(0), json!({ "record": "dashboard:one__two:0", "expr": "a" }));
        assert_eq!(*of(1), json!({ "record": "dashboard:one__two:1", "expr": "b[5m]" }));
        assert_eq!(*of(2), json!({ "record": "dashboard:deep:2", "expr": "c" }));
        assert_eq!(asked.len(), 3);
    }
}
