//! The command line as scripts use it: JSON fields, exit codes, `--what-if`, `--yes`.

use anyhow::{Result, ensure};
use keelson_testkit::Cli;

use crate::data::cluster;
use crate::moves::another;

#[tokio::test(flavor = "multi_thread")]
async fn copy_status_has_the_promised_fields() -> Result<()> {
    let cluster = cluster().await?;
    cluster.client().database("DB1").put("k", "v").await?;
    cluster.wait_until_caught_up("DB1").await?;
    let rows = cluster.cli().json(["copy", "status"]).await?;
    let rows = rows.as_array().expect("an array");
    assert_eq!(rows.len(), 3);
    for row in rows {
        for field in [
            "database",
            "member",
            "active",
            "status",
            "copy_queue_logs",
            "replay_queue_logs",
            "content_index_state",
            "generated",
            "inspected",
            "replayed",
        ] {
            ensure!(row.get(field).is_some(), "{field} is missing in {row}");
        }
        let expected = if row["active"] == true { "Mounted" } else { "Healthy" };
        assert_eq!(row["status"], expected);
        assert_eq!((&row["copy_queue_logs"], &row["replay_queue_logs"]), (&0.into(), &0.into()));
    }
    assert_eq!(rows.iter().filter(|row| row["active"] == true).count(), 1);
    let table = cluster.cli().succeed(["copy", "status"]).await?;
    ensure!(table.lines().next().is_some_and(|line| line.starts_with("COPY")), "{table}");
    let yaml = cluster.cli().succeed(["copy", "status", "-o", "yaml"]).await?;
    ensure!(yaml.starts_with("- ") && yaml.contains("  database: \"DB1\"\n"), "{yaml}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_if_changes_nothing_and_removal_asks() -> Result<()> {
    let cluster = cluster().await?;
    let cli = cluster.cli();
    let before = cli.succeed(["database", "list", "-o", "json"]).await?;
    for args in [
        &["database", "create", "DB7", "--on", "m1", "--what-if"][..],
        &["database", "remove", "DB1", "--what-if"],
        &["database", "dismount", "DB1", "--what-if"],
        &["database", "set", "DB1", "--lz4", "true", "--what-if"],
        &["copy", "remove", "DB1", "--on", "m3", "--what-if"],
        &["switchover", "DB1", "--to", "m2", "--what-if"],
        &["kv", "put", "DB1", "k", "v", "--what-if"],
        &["kv", "delete", "DB1", "k", "--what-if"],
    ] {
        let text = cli.succeed(args).await?;
        ensure!(text.starts_with("would "), "{args:?}: {text}");
    }
    let active = cluster.active_of("DB1").await?;
    for (args, code) in [
        (&["copy", "remove", "DB1", "--on", &active, "--what-if"][..], "precondition"),
        (&["copy", "remove", "DB1", "--on", "m9", "--what-if"], "unknown_member"),
        (&["member", "remove", &active, "--what-if"], "in_use"),
    ] {
        let output = cli.run(args).await?;
        assert_eq!((output.code, output.error_code()), (Some(3), Some(code)), "{output:?}");
    }
    assert_eq!(cli.succeed(["database", "list", "-o", "json"]).await?, before);
    let output = cli.run(["database", "remove", "DB1"]).await?;
    assert_eq!((output.code, output.error_code()), (Some(2), Some("usage")), "{output:?}");
    let output = cli.run(["database", "remove", "DB1", "--yes"]).await?;
    assert_eq!((output.code, output.error_code()), (Some(3), Some("precondition")), "{output:?}");
    cli.succeed(["database", "dismount", "DB1", "--yes"]).await?;
    cli.succeed(["database", "remove", "DB1", "--yes"]).await?;
    let output = cli.run(["kv", "get", "DB1", "k"]).await?;
    assert_eq!(output.error_code(), Some("unknown_database"), "{output:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn values_pass_through_the_command_line() -> Result<()> {
    let cluster = cluster().await?;
    let cli = cluster.cli();
    cli.succeed(["kv", "put", "DB1", "greeting", "hello world"]).await?;
    assert_eq!(cli.succeed(["kv", "get", "DB1", "greeting"]).await?, "hello world");
    cli.succeed(["kv", "put", "DB1", "/wA=", "gIE=", "--base64"]).await?;
    let item = cli.json(["kv", "get", "DB1", "/wA=", "--base64"]).await?;
    assert_eq!((&item["key_base64"], &item["value_base64"]), (&"/wA=".into(), &"gIE=".into()));
    let output = cli.run(["kv", "put", "DB1", "greeting", "x", "--if-absent"]).await?;
    assert_eq!((output.code, output.error_code()), (Some(3), Some("condition_failed")));
    let text = cli.succeed(["kv", "scan", "DB1"]).await?;
    assert_eq!(text, "greeting\thello world\n\\xff\\x00\t\\x80\\x81\n");
    cli.succeed(["kv", "delete", "DB1", "greeting"]).await?;
    let output = cli.run(["kv", "get", "DB1", "greeting"]).await?;
    assert_eq!((output.code, output.error_code()), (Some(1), Some("not_found")));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scan_gives_as_many_items_as_asked_for_beside_the_keys_of_the_tools() -> Result<()> {
    let cluster = cluster().await?;
    let database = cluster.client().database("DB1");
    for number in 0..200 {
        database.put(format!("\0keelson/import/{number}"), "1").await?;
    }
    for key in ["a", "b", "c", "d"] {
        database.put(key, "v").await?;
    }
    let cli = cluster.cli();
    let some = cli.run(["kv", "scan", "DB1", "--limit", "3"]).await?;
    assert_eq!(some.stdout, "a\tv\nb\tv\nc\tv\n");
    assert_eq!(some.stderr, "note: more items follow; --limit 0 prints all\n");
    for arguments in [["--from", "b", "--limit", "3"], ["--prefix", "", "--limit", "4"]] {
        let all = cli.run(["kv", "scan", "DB1"].into_iter().chain(arguments)).await?;
        assert_eq!(all.stderr, "", "{all:?}");
    }
    let text = cli.succeed(["kv", "scan", "DB1", "--from", "b", "--limit", "2"]).await?;
    assert_eq!(text, "b\tv\nc\tv\n");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn decisions_are_a_table_and_operations_keep_their_comment() -> Result<()> {
    let cluster = cluster().await?;
    let cli = cluster.cli();
    let to = another(&cluster, &cluster.active_of("DB1").await?);
    let moved = ["switchover", "DB1", "--to", &to, "--comment", "a new disk"];
    let ended = cli.json(moved).await?;
    let time = |name: &str| ended[name].as_u64().unwrap_or(0);
    let (started, took) = ("started_unix_millis", time("ended_unix_millis"));
    ensure!(time(started) > 1_600_000_000_000 && took - time(started) < 60_000, "{ended}");
    let id = ended["operation"].as_str().unwrap_or_default();
    let shown = cli.json(["operation", "show", id]).await?;
    assert_eq!((&shown["comment"], &shown["phase"]), (&"a new disk".into(), &"ended".into()));
    let long = "x".repeat(513);
    let refused = cli.run(["switchover", "DB1", "--to", &to, "--comment", &long]).await?;
    assert_eq!(refused.error_code(), Some("bad_argument"), "{refused:?}");
    let text = cli.succeed(["decision", "list", "DB1"]).await?;
    let header: Vec<_> = text.lines().take(1).flat_map(str::split_whitespace).collect();
    assert_eq!(header, ["ID", "TIME", "DATABASE", "EPOCH", "REASON", "CHOSEN", "VERDICT", "WHY"]);
    let last = text.lines().last().unwrap_or_default();
    for expected in ["DB1", &format!("switchover to {to}"), "lossless", "\"a new disk\""] {
        ensure!(last.contains(expected), "no {expected} in {last}");
    }
    let records = cli.json(["decision", "list", "DB1"]).await?;
    let record = records.as_array().and_then(|all| all.last()).map(|entry| &entry["record"]);
    ensure!(record.is_some_and(|record| record["operation"] == id), "{records}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_databases_are_measured_and_removed() -> Result<()> {
    let cluster = cluster().await?;
    let cli = cluster.cli();
    let idle = ["bench", "idle", "--databases", "5", "--duration", "1s"];
    let report = cli.json(idle).await?;
    assert_eq!((&report["databases"], &report["copies"]), (&5.into(), &3.into()));
    let members = report["members"].as_array().expect("an array");
    assert_eq!(members.len(), 3);
    for member in members {
        assert_eq!(member["copies"], 6, "DB1 and five others: {member}");
        for process in ["control", "data", "both"] {
            let number = |name: &str| member[process][name].as_u64();
            ensure!(number("resident_bytes") > Some(1 << 20), "{process}: {member}");
            ensure!(number("open_files") > Some(0), "{process}: {member}");
            ensure!(number("cpu_millis").is_some(), "{process}: {member}");
        }
    }
    let list = cli.json(["database", "list"]).await?;
    assert_eq!(list.as_array().map(Vec::len), Some(1), "{list}");
    let text = cli.succeed(idle.into_iter().chain(["--keep", "--copies", "2"])).await?;
    ensure!(text.contains("MEMBER") && text.contains("MiB"), "{text}");
    let list = cli.json(["database", "list"]).await?;
    assert_eq!(list.as_array().map(Vec::len), Some(6), "{list}");
    let refused = cli.run(idle).await?;
    assert_eq!(refused.error_code(), Some("already_exists"), "{refused:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn benches_report_what_they_did() -> Result<()> {
    let cluster = cluster().await?;
    let dir = cluster.path().display().to_string();
    for (work, extra) in [("put", "--sessions"), ("batch", "--batch=10"), ("get", "--keys=500")] {
        let args = ["bench", work, "--clients", "4", "--duration", "300ms", "--warm-up", "50ms"];
        let more = ["--keys", "500", "--fsync-dir", &dir];
        let more = if extra.starts_with("--keys") { &more[2..] } else { &more[..] };
        let args = args.iter().chain(more).chain([&extra]);
        let report = cluster.cli().json(args).await?;
        ensure!(report["operations"].as_u64().is_some_and(|n| n > 0), "{report}");
        assert_eq!(report["errors"], 0);
        let p = |name: &str| report["latency_micros"][name].as_u64().unwrap_or(0);
        ensure!(p("p50") > 0 && p("p50") <= p("p99") && p("p99") <= p("max"), "{report}");
        ensure!(report["longest_gap_millis"].as_f64().is_some_and(|gap| gap > 0.0), "{report}");
        ensure!(report["fsync"]["syncs_per_s"].as_f64().is_some_and(|rate| rate > 0.0), "{report}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_and_a_member_come_and_go() -> Result<()> {
    let cluster = cluster().await?;
    let cli = cluster.cli();
    cli.succeed(["database", "create", "DB2", "--on", "m1"]).await?;
    let database = cluster.client().database("DB2");
    for number in 0..200 {
        database.put(format!("k{number}"), "v").await?;
    }
    cli.succeed(["copy", "add", "DB2", "--on", "m2"]).await?;
    cluster.wait_until_caught_up("DB2").await?;
    cluster.equal_digest("DB2", 2).await?;
    cli.succeed(["switchover", "DB2", "--to", "m2"]).await?;
    cli.succeed(["copy", "remove", "DB2", "--on", "m1", "--yes"]).await?;
    let copies = cli.json(["copy", "list", "DB2"]).await?;
    assert_eq!((copies.as_array().map(Vec::len), &copies[0]["member"]), (Some(1), &"m2".into()));
    assert_eq!(database.get("k199").await?.as_deref(), Some(&b"v"[..]));
    cli.succeed(["copy", "remove", "DB1", "--on", "m3", "--yes"]).await?;
    cli.succeed(["member", "remove", "m3", "--yes"]).await?;
    let members = cli.json(["member", "list"]).await?;
    assert_eq!(members.as_array().map(Vec::len), Some(2));
    database.put("after", "v").await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn help_completions_and_pages_need_no_cluster() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let cli = Cli::new(&keelson_testkit::keelson_binary()?, None);
    ensure!(cli.succeed(["--help"]).await?.contains("Exit codes:"), "exit codes are documented");
    for shell in ["bash", "zsh", "fish"] {
        let script = cli.succeed(["completions", shell]).await?;
        for word in ["cluster", "redundancy", "switchover", "witness", "maintenance", "watch"] {
            ensure!(script.contains(word), "the completions of {shell} do not know {word}");
        }
    }
    let pages = directory.path().display().to_string();
    cli.succeed(["man", "--dir", &pages]).await?;
    ensure!(directory.path().join("keelson-copy-status.1").is_file(), "no page of copy status");
    cli.succeed(["config", "explain"]).await?;
    let output = cli.run(["no-such-noun"]).await?;
    assert_eq!(output.code, Some(2));
    Ok(())
}
