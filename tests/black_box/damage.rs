//! Disks that lie, break and fill up.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use keelson_testkit::{
    Cli, Cluster, ClusterOptions, SmallVolume, Writer, WriterOptions, eventually,
};
use keelson_types::RefusalReason;

use crate::crashes::prove;
use crate::data::cluster;
use crate::moves::another;

/// The log directory of the only database of a member.
fn log_directory(cluster: &Cluster, member: &str) -> Result<PathBuf> {
    let databases = cluster.path().join(member).join("data/databases");
    for database in std::fs::read_dir(&databases)? {
        let database = database?.path();
        if !database.is_dir() {
            continue;
        }
        for entry in std::fs::read_dir(&database)? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().starts_with("log-") {
                return Ok(entry.path());
            }
        }
    }
    anyhow::bail!("no log below {}", databases.display())
}

/// The generation files, oldest first.
fn generations(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "klog") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

async fn written(cluster: &Cluster) -> Result<Writer> {
    let options = WriterOptions { value_bytes: 4_096, ..WriterOptions::default() };
    let writer = Writer::start(cluster.client().database("DB1"), options);
    writer.progress(500).await?;
    Ok(writer)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_bit_in_a_log_is_found_and_spreads_nowhere() -> Result<()> {
    a_damaged_log_is_found(|file| {
        let mut byte = [0];
        file.read_exact_at(&mut byte, 100_000)?;
        file.write_all_at(&[byte[0] ^ 0x10], 100_000)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shortened_log_file_is_found_and_spreads_nowhere() -> Result<()> {
    a_damaged_log_is_found(|file| file.set_len(100_000)).await
}

/// Damages the oldest generation of a passive that is down.
async fn a_damaged_log_is_found(damage: impl Fn(&File) -> std::io::Result<()>) -> Result<()> {
    let mut cluster = cluster().await?;
    let writer = written(&cluster).await?;
    let active = cluster.active_of("DB1").await?;
    let passive = another(&cluster, &active);
    cluster.member(&passive).stop()?;
    let directory = log_directory(&cluster, &passive)?;
    let file = generations(&directory)?.first().cloned().context("no generation")?;
    let path = directory.display().to_string();
    let cli = Cli::new(cluster.binary(), None);
    cli.succeed(["log", "verify", &path]).await?;
    let elsewhere = cluster.path().display().to_string();
    for verb in ["verify", "dump"] {
        let output = cli.run(["log", verb, &elsewhere]).await?;
        assert_eq!((output.code, output.error_code()), (Some(1), Some("log_missing")));
        ensure!(output.hint().is_some(), "{output:?}");
    }
    let handle = OpenOptions::new().read(true).write(true).open(&file)?;
    damage(&handle)?;
    let output = cli.run(["log", "verify", &path]).await?;
    assert_eq!((output.code, output.error_code()), (Some(1), Some("log_damaged")), "{output:?}");
    ensure!(output.hint().is_some(), "{output:?}");
    cluster.member(&passive).start()?;
    cluster.wait_until_whole().await?;
    // The other two go on; the damaged copy either says so or has mended itself.
    writer.progress(200).await?;
    let oracle = writer.stop().await?;
    oracle.verify(&cluster.client().database("DB1")).await?;
    eventually("the damaged copy is named or mended", || async {
        let rows = cluster.cli().json(["copy", "status", "DB1", "--member", &passive]).await?;
        let status = rows[0]["status"].as_str().unwrap_or_default();
        let failed = status.starts_with("Failed") && rows[0]["fault"] != "";
        ensure!(failed || status == "Healthy", "{rows}");
        Ok(())
    })
    .await
}

/// G5: a closed generation of the *active* rots while a copy is away that needs it. What the active
/// cannot read it does not send; it mends it from the other copy, and the one that was away gets
/// it.
#[tokio::test(flavor = "multi_thread")]
async fn rot_in_the_log_of_the_active_is_mended_before_it_is_shipped() -> Result<()> {
    let mut cluster = cluster().await?;
    cluster.cli().succeed(["database", "set", "DB1", "--generation-size", "1MiB"]).await?;
    let active = cluster.active_of("DB1").await?;
    let away = another(&cluster, &active);
    cluster.member(&away).kill()?;
    let options = WriterOptions { value_bytes: 16 * 1024, ..WriterOptions::default() };
    let writer = Writer::start(cluster.client().database("DB1"), options);
    writer.progress(300).await?;
    let files = generations(&log_directory(&cluster, &active)?)?;
    ensure!(files.len() >= 3, "{files:?}");
    let handle = OpenOptions::new().read(true).write(true).open(&files[files.len() - 3])?;
    let mut byte = [0];
    handle.read_exact_at(&mut byte, 300_000)?;
    handle.write_all_at(&[byte[0] ^ 0x10], 300_000)?;
    cluster.member(&away).start()?;
    cluster.wait_until_counting("DB1").await?;
    let events = cluster.cli().json(["event", "list", "--limit", "200"]).await?;
    ensure!(events.to_string().contains("log_mended"), "{events}");
    let oracle = writer.stop().await?;
    oracle.verify(&cluster.client().database("DB1")).await?;
    cluster.wait_until_caught_up("DB1").await?;
    cluster.equal_digest("DB1", 3).await?;
    Ok(())
}

/// What lies behind the end is named, and a log that ends before what the copy had durable is
/// damaged.
#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_lost_its_last_frames_is_not_called_whole() -> Result<()> {
    let mut cluster = cluster().await?;
    prove(&cluster, written(&cluster).await?).await?;
    let passive = another(&cluster, &cluster.active_of("DB1").await?);
    // The promise of a new epoch writes down what is durable.
    cluster.cli().succeed(["switchover", "DB1", "--to", &passive]).await?;
    cluster.member(&passive).stop()?;
    let directory = log_directory(&cluster, &passive)?;
    let path = directory.display().to_string();
    let cli = Cli::new(cluster.binary(), None);
    let whole = cli.json(["log", "verify", &path]).await?;
    let durable = whole["known_durable"].as_str().context("no control file")?;
    let (generation, offset) = durable.split_once(':').context("no position")?;
    let file = directory.join(format!("{generation:0>16}.klog"));
    // The header of the last frame below that place: the frames behind it are gone, too.
    let frames = cli.succeed(["log", "dump", &path, "--frames", "-o", "json"]).await?;
    let frames: Vec<serde_json::Value> =
        frames.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    let starts = frames.iter().filter_map(|line| line["position"].as_str()?.split_once(':'));
    let below = starts.filter(|(other, _)| *other == generation);
    let offsets: Vec<u64> = below.map(|(_, at)| at.parse()).collect::<Result<_, _>>()?;
    let floor: u64 = offset.parse()?;
    let last = offsets.iter().copied().filter(|at| *at < floor).max().context("no frame")?;
    let handle = OpenOptions::new().write(true).open(&file)?;
    for at in offsets.into_iter().filter(|at| *at >= last) {
        handle.write_all_at(&[0xff; 4], at)?;
    }
    let output = cli.run(["log", "verify", &path]).await?;
    assert_eq!((output.code, output.error_code()), (Some(1), Some("log_damaged")), "{output:?}");
    ensure!(output.stdout.contains("bytes behind the log's end that are not zero"), "{output:?}");
    ensure!(output.stderr.contains("the copy had the log durable to"), "{output:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_torn_tail_is_cut_and_fetched_again() -> Result<()> {
    let mut cluster = cluster().await?;
    let writer = written(&cluster).await?;
    let active = cluster.active_of("DB1").await?;
    let passive = another(&cluster, &active);
    cluster.member(&passive).kill()?;
    let directory = log_directory(&cluster, &passive)?;
    let file = generations(&directory)?.last().cloned().context("no generation")?;
    // Garbage behind the last frame, as a write that a power cut left half done.
    let report: serde_json::Value = {
        let path = directory.display().to_string();
        let cli = Cli::new(cluster.binary(), None);
        serde_json::from_str(&cli.run(["log", "verify", &path, "-o", "json"]).await?.stdout)?
    };
    let last =
        report["generations"].as_array().and_then(|list| list.last()).context("no report")?;
    let end = last["end"].as_str().and_then(|end| end.split_once(':')).context("no end")?;
    let offset: u64 = end.1.parse()?;
    OpenOptions::new().write(true).open(&file)?.write_all_at(&[0xaa; 300], offset)?;
    cluster.member(&passive).start()?;
    writer.progress(200).await?;
    prove(&cluster, writer).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_stops_writes_loses_nothing_and_recovers() -> Result<()> {
    let place = tempfile::tempdir()?;
    let (image, path) = (place.path().join("image"), place.path().join("disk"));
    let disk = match SmallVolume::mount(&image, &path, 256 << 20) {
        Ok(disk) => disk,
        Err(error) => {
            eprintln!("NOT TESTED: this machine lets us mount no file system: {error:#}");
            return Ok(());
        }
    };
    let mut cluster = Cluster::start_with(ClusterOptions {
        members: 1,
        data_dirs: vec![(1, path)],
        ..ClusterOptions::default()
    })
    .await?;
    cluster.create_database("DB1", &["m1"]).await?;
    let database = cluster.client().database("DB1");
    database.put("before", "kept").await?;
    disk.fill()?;
    let mut acknowledged = 0;
    let refused = loop {
        match database.put(format!("k{acknowledged:06}"), vec![1; 256 * 1024]).await {
            Ok(_) => acknowledged += 1,
            Err(error) => break error,
        }
        ensure!(acknowledged < 5_000, "a full disk takes writes");
    };
    assert_eq!(refused.reason, RefusalReason::DiskFull, "{refused}");
    let output = cluster.cli().run(["kv", "put", "DB1", "x", "y"]).await?;
    crate::bad_input::check(&output, 4, "disk_full");
    // The member stays reachable, and reads are answered.
    assert_eq!(database.get("before").await?.as_deref(), Some(&b"kept"[..]));
    cluster.wait_until_whole().await?;
    disk.empty()?;
    eventually("writes resume by themselves", || async {
        Ok(database.put("after", "space is back").await?)
    })
    .await?;
    for number in 0..acknowledged {
        let found = database.get(format!("k{number:06}")).await?;
        ensure!(found.is_some(), "the acknowledged write {number} is lost");
    }
    cluster.stop()?;
    drop(cluster);
    drop(disk);
    Ok(())
}
