//! Compares the edges between our crates with the table in `dag/table.rs`, which is the design.
//!
//! Fails on an edge that the table does not list, a package it does not know, a pure crate that
//! names an impure package, and a package that only one crate may name. An edge in the table that
//! no manifest uses is reported and allowed: it was decided, and not yet needed. Only direct edges
//! are looked at.

mod table;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::workspace::Workspace;
use table::{CRATES, CrateRow, IMPURE, OWNED};

/// An edge as a manifest states it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Edge {
    from: String,
    to: String,
    /// Whether only tests use it (`[dev-dependencies]`).
    dev: bool,
}

/// What the manifests say: packages of the workspace and all their direct edges.
struct Graph {
    packages: Vec<String>,
    edges: Vec<Edge>,
}

/// Reads the manifests and fails with one line per broken rule.
pub(crate) fn run(workspace: &Workspace) -> Result<()> {
    let graph = read(&workspace.metadata()?)?;
    for (from, to) in unused(&graph) {
        println!("dag: note: {from} may depend on {to} and does not");
    }
    let problems = problems(&graph);
    for problem in &problems {
        eprintln!("dag: {problem}");
    }
    if !problems.is_empty() {
        bail!("{} edges or packages against the table in crates/xtask/src/dag", problems.len());
    }
    println!("dag: {} packages as designed", graph.packages.len());
    Ok(())
}

fn read(metadata: &Value) -> Result<Graph> {
    let mut graph = Graph { packages: Vec::new(), edges: Vec::new() };
    for package in metadata["packages"].as_array().context("metadata without packages")? {
        let from = package["name"].as_str().context("package without name")?;
        graph.packages.push(from.to_string());
        for dependency in package["dependencies"].as_array().context("no dependencies")? {
            graph.edges.push(Edge {
                from: from.to_string(),
                to: dependency["name"].as_str().context("edge without name")?.to_string(),
                dev: dependency["kind"] == "dev",
            });
        }
    }
    Ok(graph)
}

fn problems(graph: &Graph) -> Vec<String> {
    let mut problems = Vec::new();
    for package in &graph.packages {
        if row(package).is_none() {
            problems.push(format!("{package} has no row in the table: give it a layer and edges"));
        }
    }
    for edge in &graph.edges {
        problems.extend(match row(&edge.to) {
            Some(to) => inner_problem(edge, to),
            None => outer_problem(edge),
        });
    }
    problems
}

/// An edge to another crate of ours.
fn inner_problem(edge: &Edge, to: &CrateRow) -> Option<String> {
    let from = row(&edge.from)?;
    let listed = from.may_use.contains(&to.name);
    // Tests may use what lies at their own height or below: that cannot bend the graph upwards.
    let test_use = edge.dev && to.layer <= from.layer;
    if listed || test_use {
        return None;
    }
    Some(format!(
        "{} (layer {}) -> {} (layer {}) is not in the table: let the lower crate state a value or \
         a port that the upper one fills, or change the table in the same commit and say why",
        from.name, from.layer, to.name, to.layer
    ))
}

/// An edge to a package from elsewhere.
fn outer_problem(edge: &Edge) -> Option<String> {
    let from = row(&edge.from)?;
    if from.pure && !edge.dev && IMPURE.iter().any(|name| is_family(&edge.to, name)) {
        return Some(format!(
            "{} is pure and names {}: time, randomness and I/O come in with the event",
            from.name, edge.to
        ));
    }
    let mut owners =
        OWNED.iter().filter(|(package, _)| *package == edge.to).map(|(_, owner)| *owner);
    let owner = owners.clone().next()?;
    let is_owned = owners.any(|owner| owner == from.name);
    (!is_owned).then(|| format!("{} names {}, which only {owner} may", from.name, edge.to))
}

/// Whether `package` is `family` or one of its helpers (`tokio`, `tokio-util`).
fn is_family(package: &str, family: &str) -> bool {
    package.strip_prefix(family).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
}

fn unused(graph: &Graph) -> Vec<(&'static str, &'static str)> {
    let edges = CRATES.iter().flat_map(|row| row.may_use.iter().map(|to| (row.name, *to)));
    let used = |from: &str, to: &str| graph.edges.iter().any(|e| e.from == from && e.to == to);
    edges.filter(|(from, to)| !used(from, to)).collect()
}

fn row(name: &str) -> Option<&'static CrateRow> {
    CRATES.iter().find(|row| row.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(from: &str, to: &str, dev: bool, expected: Option<&str>) {
        let edge = Edge { from: from.into(), to: to.into(), dev };
        let found = problems(&Graph { packages: vec![from.into()], edges: vec![edge] });
        match expected {
            None => assert_eq!(found, Vec::<String>::new()),
            Some(part) => {
                assert!(found.len() == 1 && found[0].contains(part), "{part}: {found:?}");
            }
        }
    }

    #[test]
    fn edges_as_designed_pass() {
        check("keelson-log", "keelson-format", false, None);
        check("keelson-store", "rocksdb", false, None);
        check("keelson-net", "rustls", false, None);
        check("keelson-types", "uuid", false, None);
    }

    #[test]
    fn unknown_edges_fail_with_a_hint() {
        check("keelson-log", "keelson-net", false, Some("not in the table"));
        check("keelson-types", "keelson-server", true, Some("not in the table"));
        check("keelson-new", "serde", false, Some("no row"));
    }

    #[test]
    fn tests_may_use_crates_at_their_height_or_below() {
        check("keelson-replication", "keelson-cluster-core", true, None);
        check("keelson-replication", "keelson-cluster-core", false, Some("not in the table"));
    }

    #[test]
    fn pure_crates_name_nothing_impure() {
        check("keelson-copy-core", "tokio", false, Some("is pure"));
        check("keelson-copy-core", "tokio-util", false, Some("is pure"));
        check("keelson-env", "rand", false, Some("is pure"));
        check("keelson-env", "tempfile", false, Some("is pure"));
        check("keelson-env", "tempfile", true, None);
    }

    #[test]
    fn owned_packages_have_one_crate() {
        check("keelson-server", "rocksdb", false, Some("only keelson-store may"));
        check("keelson-client", "rcgen", true, Some("only keelson-net may"));
    }

    #[test]
    fn table_points_downwards_and_knows_its_own_names() {
        for from in CRATES {
            for to in from.may_use {
                let to = row(to).unwrap_or_else(|| panic!("{} names unknown {to}", from.name));
                assert!(to.layer < from.layer, "{} -> {} is not downwards", from.name, to.name);
            }
        }
    }

    #[test]
    fn metadata_gives_names_and_kinds() {
        let text = r#"{"packages": [{"name": "a", "dependencies": [
            {"name": "b", "kind": null}, {"name": "c", "kind": "dev"}]}]}"#;
        let graph = read(&serde_json::from_str(text).unwrap()).unwrap();
        let edge = |to: &str, dev| Edge { from: "a".into(), to: to.into(), dev };
        assert_eq!(graph.edges, [edge("b", false), edge("c", true)]);
    }
}
