//! Import and export through the command line.

use std::fmt::Write as _;
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use keelson_client::ScanOptions;
use keelson_testkit::{Cluster, eventually, synthesize_packages};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt as _, BufReader};

use crate::data::cluster;

/// Exit code of an import with records that were left out.
const PARTLY: i32 = 5;

fn number(report: &Value, name: &str) -> u64 {
    report[name].as_u64().unwrap_or_else(|| panic!("no {name} in {report}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_lines_are_named_and_the_rest_is_imported() -> Result<()> {
    let cluster = cluster().await?;
    let path = cluster.path().join("records.jsonl");
    let mut text = String::new();
    for number in 1..=1_000 {
        match number {
            17 => text.push_str("{\"key\": \"broken\n"),
            500 => text.push_str("[1, 2, 3]\n"),
            600 => writeln!(text, "{{\"key\":\"{}\",\"value\":\"x\"}}", "k".repeat(70_000))?,
            _ => writeln!(text, "{{\"key\":\"k{number:04}\",\"value\":\"v{number}\"}}")?,
        }
    }
    std::fs::write(&path, text)?;
    let file = path.display().to_string();
    let output = cluster.cli().run(["kv", "import", "DB1", &file, "-o", "json"]).await?;
    assert_eq!((output.code, output.error_code()), (Some(PARTLY), Some("bad_input")));
    let report: Value = serde_json::from_str(&output.stdout)?;
    assert_eq!((number(&report, "records"), number(&report, "bad_records")), (997, 3));
    let lines: Vec<_> =
        report["bad"].as_array().into_iter().flatten().map(|b| &b["line"]).collect();
    assert_eq!(lines, [17, 500, 600]);
    ensure!(output.stderr.contains("line 17: not a JSON object"), "{}", output.stderr);
    let database = cluster.client().database("DB1");
    assert_eq!(database.get("k1000").await?.as_deref(), Some(&b"v1000"[..]));
    let items = database.scan(ScanOptions::default()).await?.collect().await?;
    assert_eq!(items.len(), 997, "no progress record is left");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_exported_is_imported_unchanged() -> Result<()> {
    let cluster = cluster().await?;
    cluster.create_database("DB2", &["m1", "m2"]).await?;
    let (one, two) = (cluster.client().database("DB1"), cluster.client().database("DB2"));
    for byte in 0..=255_u8 {
        one.put(vec![b'k', byte], vec![byte, 0, b'"', byte]).await?;
    }
    one.put("text", "with \"quotes\" and\nlines").await?;
    let file = cluster.path().join("out.jsonl").display().to_string();
    cluster.cli().succeed(["kv", "export", "DB1", "--file", &file]).await?;
    let report = cluster.cli().json(["kv", "import", "DB2", &file]).await?;
    assert_eq!(number(&report, "records"), 257);
    let all = |database: keelson_client::Database| async move {
        database.scan(ScanOptions::default()).await?.collect().await
    };
    assert_eq!(all(one).await?, all(two).await?);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_format_is_found_out_and_imported() -> Result<()> {
    let cluster = cluster().await?;
    let root = cluster.path();
    std::fs::write(root.join("table.csv"), "id,name\n1,one\n2,two\n3\n")?;
    std::fs::write(root.join("folder"), "From a\nSubject: x\n\nbody\n\nFrom b\nSubject: y\n\nz\n")?;
    std::fs::write(root.join("status"), "Package: a\nVersion: 1\n\nPackage: b\nVersion: 2\n")?;
    for directory in ["tree/deep", "mail/cur", "mail/new", "mail/tmp"] {
        std::fs::create_dir_all(root.join(directory))?;
    }
    std::fs::write(root.join("tree/deep/file"), "content")?;
    std::fs::write(root.join("mail/cur/7.host:2,S"), "Subject: x\n\nmail\n")?;
    let cases = [
        ("table.csv", "csv", 2, "table.csv/000000000001"),
        ("folder", "mbox", 2, "folder/000000000001"),
        ("status", "deb822", 2, "b/2"),
        ("tree", "tree", 1, "deep/file"),
        ("mail", "maildir", 1, "7.host"),
    ];
    for (name, format, records, key) in cases {
        let path = root.join(name).display().to_string();
        let prefix = format!("{name}/");
        let args = ["kv", "import", "DB1", &path, "--key-prefix", &prefix, "-o", "json"];
        let output = cluster.cli().run(args).await?;
        assert_eq!(output.code, Some(if name == "table.csv" { PARTLY } else { 0 }), "{output:?}");
        let report: Value = serde_json::from_str(&output.stdout)?;
        assert_eq!(
            (report["format"].as_str(), number(&report, "records")),
            (Some(format), records)
        );
        let found = cluster.client().database("DB1").get(format!("{prefix}{key}")).await?;
        ensure!(found.is_some(), "{name}: there is no {key}");
    }
    // What is imported is found by its fields.
    for (query, key) in
        [("name:b AND version:2", "status/b/2"), ("subject:y", "folder/folder/000000000002")]
    {
        assert_eq!(crate::search::keys(&cluster, "DB1", query).await?, [key], "{query}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn numbered_records_of_several_files_stay_apart() -> Result<()> {
    let cluster = cluster().await?;
    let root = cluster.path().join("several");
    std::fs::create_dir_all(root.join("sub"))?;
    for (name, value) in [("a.jsonl", 1), ("sub/b.jsonl", 2)] {
        std::fs::write(root.join(name), format!("{{\"n\":{value}}}\n{{\"n\":{value}0}}\n"))?;
    }
    let path = root.display().to_string();
    let import = ["kv", "import", "DB1", &path, "--format", "json-lines"];
    assert_eq!(number(&cluster.cli().json(import).await?, "records"), 4);
    let database = cluster.client().database("DB1");
    let items = database.scan(ScanOptions::default()).await?.collect().await?;
    let items: Vec<_> = items
        .iter()
        .map(|item| (String::from_utf8_lossy(&item.key), String::from_utf8_lossy(&item.value)))
        .collect();
    let expected = [
        ("a.jsonl/000000000001", "{\"n\":1}"),
        ("a.jsonl/000000000002", "{\"n\":10}"),
        ("sub/b.jsonl/000000000001", "{\"n\":2}"),
        ("sub/b.jsonl/000000000002", "{\"n\":20}"),
    ];
    assert_eq!(items, expected.map(|(key, value)| (key.into(), value.into())));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_writes_over_numbered_records_only_on_request() -> Result<()> {
    let cluster = cluster().await?;
    let root = cluster.path();
    std::fs::write(root.join("one.csv"), "n\n1\n2\n")?;
    std::fs::write(root.join("two.csv"), "n\n3\n4\n")?;
    for name in ["one.csv", "two.csv"] {
        let path = root.join(name).display().to_string();
        let report = cluster.cli().json(["kv", "import", "DB1", &path]).await?;
        assert_eq!(number(&report, "records"), 2);
    }
    // A file of the same name from elsewhere, and the same one again.
    std::fs::create_dir(root.join("elsewhere"))?;
    std::fs::write(root.join("elsewhere/one.csv"), "n\n9\n9\n")?;
    for name in ["elsewhere/one.csv", "one.csv"] {
        let path = root.join(name).display().to_string();
        let refused = cluster.cli().run(["kv", "import", "DB1", &path]).await?;
        assert_eq!((refused.code, refused.error_code()), (Some(3), Some("already_exists")));
        ensure!(refused.stderr.contains("--overwrite"), "{}", refused.stderr);
    }
    let path = root.join("one.csv").display().to_string();
    cluster.cli().succeed(["kv", "import", "DB1", &path, "--overwrite"]).await?;
    let items = cluster.client().database("DB1").scan(ScanOptions::default()).await?;
    let items = items.collect().await?;
    let keys: Vec<_> = items.iter().map(|item| String::from_utf8_lossy(&item.key)).collect();
    let expected = ["one.csv/000000000001", "one.csv/000000000002"];
    assert_eq!(keys[..2], expected);
    assert_eq!((keys.len(), items[2].value.as_ref()), (4, &b"{\"n\":\"3\"}"[..]));
    Ok(())
}

/// F113: an import waits while the copies that it must not outrun do not follow, and goes on.
#[tokio::test(flavor = "multi_thread")]
async fn an_import_waits_for_the_copies_and_goes_on_or_gives_up() -> Result<()> {
    let cluster = cluster().await?;
    cluster.cli().succeed(["switchover", "DB1", "--to", "m1"]).await?;
    cluster.wait_until_caught_up("DB1").await?;
    let guarantee = ["database", "set", "DB1", "--guarantee-constraint", "all_copies"];
    cluster.cli().succeed(guarantee).await?;
    cluster.cli().succeed(["copy", "suspend", "DB1@m3", "--comment", "new disk"]).await?;
    let path = cluster.path().join("records.csv");
    std::fs::write(&path, "n\n1\n2\n")?;
    let file = path.display().to_string();
    // Nothing is written against the answer, and the wait has an end.
    let import = ["kv", "import", "DB1", &file, "--guarantee-wait"];
    let refused = cluster.cli().run(import.into_iter().chain(["0s"])).await?;
    assert_eq!((refused.code, refused.error_code()), (Some(1), Some("guarantee_not_satisfied")));
    ensure!(refused.stderr.contains("m3"), "{}", refused.stderr);
    let refused = cluster.cli().run(import.into_iter().chain(["8days"])).await?;
    assert_eq!(refused.error_code(), Some("bad_argument"), "{refused:?}");
    let database = cluster.client().database("DB1");
    let items = database.scan(ScanOptions::default()).await?.collect().await?;
    ensure!(items.iter().all(|item| !item.key.starts_with(b"records")), "it wrote all the same");
    // It waits, says so, and ends once the copy follows.
    let mut waiting = cluster
        .cli()
        .command(["kv", "import", "DB1", &file, "-o", "json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let mut said = BufReader::new(waiting.stderr.take().context("no standard error")?);
    let mut line = String::new();
    said.read_line(&mut line).await?;
    ensure!(line.contains("the import waits for the copies") && line.contains("m3"), "{line}");
    ensure!(waiting.try_wait()?.is_none(), "it ended");
    cluster.cli().succeed(["copy", "resume", "DB1@m3"]).await?;
    let output = waiting.wait_with_output().await?;
    let report: Value = serde_json::from_slice(&output.stdout).context("no report")?;
    assert_eq!(number(&report, "records"), 2);
    ensure!(report["waited_seconds"].as_f64() > Some(0.0), "{report}");
    cluster.cli().succeed(["copy", "suspend", "DB1@m3"]).await?;
    cluster.cli().succeed(["kv", "import", "DB1", &file, "--no-guarantee", "--overwrite"]).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_record_of_a_key_stays() -> Result<()> {
    const RECORDS: usize = 60_000;
    const KEYS: usize = 900;
    let cluster = cluster().await?;
    let path = cluster.path().join("repeated.jsonl");
    let mut text = String::new();
    for number in 0..RECORDS {
        writeln!(text, "{{\"key\":\"k{:03}\",\"value\":\"{number}\"}}", number % KEYS)?;
    }
    std::fs::write(&path, text)?;
    let file = path.display().to_string();
    cluster.cli().succeed(["kv", "import", "DB1", &file]).await?;
    let database = cluster.client().database("DB1");
    let items = database.scan(ScanOptions::prefix("k")).await?.collect().await?;
    assert_eq!(items.len(), KEYS);
    for item in items {
        let value: usize = std::str::from_utf8(&item.value)?.parse()?;
        ensure!(value >= RECORDS - KEYS, "{:?} has the record {value} of {RECORDS}", item.key);
    }
    Ok(())
}

/// Begins an import and kills it once some of its records are there.
async fn killed_import(cluster: &Cluster, args: &[&str], records: u64) -> Result<()> {
    let mut import =
        cluster.cli().command(args).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    let database = cluster.client().database("DB1");
    eventually("a part is imported", || async {
        let options = ScanOptions { limit: records, keys_only: true, ..ScanOptions::prefix("lib") };
        let found = database.scan(options).await?.collect().await?.len() as u64;
        ensure!(found == records, "{found} records");
        Ok(())
    })
    .await?;
    Ok(import.kill().await?)
}

#[tokio::test(flavor = "multi_thread")]
async fn progress_of_former_states_and_before_a_restart_does_not_count() -> Result<()> {
    const RECORDS: u64 = 20_000;
    let cluster = cluster().await?;
    let path = cluster.path().join("many_Packages");
    let file = path.display().to_string();
    let database = cluster.client().database("DB1");
    let reserved = || async {
        anyhow::Ok(database.scan(ScanOptions::prefix("\0")).await?.collect().await?.len())
    };
    synthesize_packages(&path, RECORDS, 40_000_000)?;
    killed_import(&cluster, &["kv", "import", "DB1", &file], 8_000).await?;
    ensure!(reserved().await? > 0, "there is no progress");
    // Everything is gone, so that all must be imported again; that run is killed early.
    database.delete_range("lib", "lic").await?;
    killed_import(&cluster, &["kv", "import", "DB1", &file, "--restart"], 1).await?;
    cluster.cli().succeed(["kv", "import", "DB1", &file]).await?;
    let options = ScanOptions { keys_only: true, ..ScanOptions::prefix("lib") };
    let all = database.scan(options).await?.collect().await?.len() as u64;
    assert_eq!((all, reserved().await?), (RECORDS, 0));
    // An import that is given up for a changed file leaves nothing behind either.
    database.delete_range("lib", "lic").await?;
    synthesize_packages(&path, RECORDS, 41_000_000)?;
    killed_import(&cluster, &["kv", "import", "DB1", &file], 1_000).await?;
    ensure!(reserved().await? > 0, "there is no progress");
    synthesize_packages(&path, 50, 100_000)?;
    cluster.cli().succeed(["kv", "import", "DB1", &file]).await?;
    assert_eq!(reserved().await?, 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_import_continues_behind_what_was_committed() -> Result<()> {
    const RECORDS: u64 = 40_000;
    let cluster = cluster().await?;
    let path = cluster.path().join("many_Packages");
    synthesize_packages(&path, RECORDS, 80_000_000)?;
    let file = path.display().to_string();
    let database = cluster.client().database("DB1");
    let mut import = cluster
        .cli()
        .command(["kv", "import", "DB1", &file])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    eventually("a part is imported", || async {
        let options = ScanOptions { limit: 3_000, keys_only: true, ..ScanOptions::prefix("lib") };
        let found = database.scan(options).await?.collect().await?.len();
        ensure!(found == 3_000, "{found} records");
        Ok(())
    })
    .await?;
    import.kill().await?;
    let options = ScanOptions { keys_only: true, ..ScanOptions::prefix("lib") };
    let before = database.scan(options.clone()).await?.collect().await?.len() as u64;
    ensure!(before < RECORDS, "the import ended before it was killed");
    let report = cluster.cli().json(["kv", "import", "DB1", &file]).await?;
    let (sent, earlier) = (number(&report, "records"), number(&report, "records_of_earlier_run"));
    assert_eq!(sent + earlier, RECORDS, "{report}");
    // A write in flight when the process died may be committed after we looked.
    ensure!(earlier >= before, "{earlier} taken as done, {before} were there");
    let all = database.scan(options).await?.collect().await?.len() as u64;
    assert_eq!(all, RECORDS);
    let reserved = database.scan(ScanOptions::prefix("\0")).await?.collect().await?;
    ensure!(reserved.is_empty(), "the progress records stayed");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_goes_on_over_the_death_of_the_active() -> Result<()> {
    const RECORDS: u64 = 20_000;
    let mut cluster = cluster().await?;
    let path = cluster.path().join("many_Packages");
    synthesize_packages(&path, RECORDS, 40_000_000)?;
    let file = path.display().to_string();
    let active = cluster.active_of("DB1").await?;
    let command = cluster
        .cli()
        .command(["kv", "import", "DB1", &file, "-o", "json"])
        .stdout(Stdio::piped())
        .spawn()?;
    let database = cluster.client().database("DB1");
    eventually("a part is imported", || async {
        let options = ScanOptions { limit: 1_000, keys_only: true, ..ScanOptions::prefix("lib") };
        let found = database.scan(options).await?.collect().await?.len();
        ensure!(found == 1_000, "{found} records");
        Ok(())
    })
    .await?;
    cluster.member(&active).kill_data_process()?;
    let output = command.wait_with_output().await?;
    ensure!(output.status.success(), "the import ended with {}", output.status);
    let report: Value = serde_json::from_slice(&output.stdout).context("no report")?;
    assert_eq!(number(&report, "records"), RECORDS);
    let options = ScanOptions { keys_only: true, ..ScanOptions::prefix("lib") };
    let all = database.scan(options).await?.collect().await?.len() as u64;
    assert_eq!(all, RECORDS);
    cluster.wait_until_whole().await?;
    cluster.wait_until_caught_up("DB1").await?;
    cluster.equal_digest("DB1", 3).await?;
    Ok(())
}

/// Runs an import of standard input.
async fn import_input(cluster: &Cluster, args: &[&str], input: &str) -> Result<Report> {
    let mut import = cluster
        .cli()
        .command(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let mut pipe = import.stdin.take().context("no pipe")?;
    pipe.write_all(input.as_bytes()).await?;
    drop(pipe);
    let output = import.wait_with_output().await?;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let data = serde_json::from_slice(&output.stdout).with_context(|| text.clone())?;
    Ok(Report { code: output.status.code(), data, text })
}

struct Report {
    code: Option<i32>,
    data: Value,
    text: String,
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pipe_is_imported_from_its_first_byte() -> Result<()> {
    const RECORDS: u64 = 5_000;
    let cluster = cluster().await?;
    let mut text = String::new();
    for number in 0..RECORDS {
        writeln!(text, "{{\"key\":\"k{number:05}\",\"value\":\"{}\"}}", "v".repeat(40))?;
    }
    let database = cluster.client().database("DB1");
    for path in ["-", "/dev/stdin"] {
        let args = ["kv", "import", "DB1", path, "--key-prefix", path, "-o", "json"];
        let report = import_input(&cluster, &args, &text).await?;
        assert_eq!(report.code, Some(0), "{}", report.text);
        assert_eq!(number(&report.data, "records"), RECORDS);
        assert_eq!(report.data["resumable"], false);
        ensure!(report.text.contains("this import cannot be continued"), "{}", report.text);
        let found = database.scan(ScanOptions::prefix(path)).await?.collect().await?;
        assert_eq!(found.len() as u64, RECORDS);
    }
    let reserved = database.scan(ScanOptions::prefix("\0")).await?.collect().await?;
    ensure!(reserved.is_empty(), "an import of a pipe records no progress");
    let tree = import_input(&cluster, &["kv", "import", "DB1", "-", "--format", "tree"], "").await;
    ensure!(tree.is_err(), "a pipe is no directory");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_cannot_be_read_is_named_and_the_others_are_imported() -> Result<()> {
    let cluster = cluster().await?;
    let root = cluster.path().join("several");
    std::fs::create_dir_all(&root)?;
    for name in ["a.csv", "c.csv"] {
        std::fs::write(root.join(name), "n\n1\n2\n")?;
    }
    // Whoever runs the tests may read everything; a header that names a column twice stops as well.
    std::fs::write(root.join("b.csv"), "n,n\n1,2\n")?;
    std::os::unix::fs::symlink("a.csv", root.join("link.csv"))?;
    let path = root.display().to_string();
    let args = ["kv", "import", "DB1", &path, "--format", "csv", "-o", "json"];
    let output = cluster.cli().run(args).await?;
    assert_eq!(output.code, Some(PARTLY), "{output:?}");
    let report: Value = serde_json::from_str(&output.stdout)?;
    assert_eq!((number(&report, "records"), number(&report, "bad_records")), (4, 1));
    assert_eq!(report["bad"][0]["file"], "b.csv");
    assert_eq!(number(&report, "skipped"), 1, "{report}");
    Ok(())
}
