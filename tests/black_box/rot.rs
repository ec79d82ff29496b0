//! Bytes rot: any byte, in any file of a passive copy, while clients write. It is found, it is put
//! right, and nobody notices.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use keelson_testkit::{Cluster, Writer, WriterOptions, eventually};
use serde_json::Value;

use crate::moves::another;
use crate::space::events;

const DATABASES: [&str; 4] = ["DB1", "DB2", "DB3", "DB4"];
const ROUNDS: usize = 8;
const FLIPS_PER_ROUND: usize = 34;

/// Numbers that look random and can be had again.
struct Numbers(u64);

impl Numbers {
    fn new() -> Self {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let seed = std::env::var("KEELSON_ROT_SEED").ok().and_then(|seed| seed.parse().ok());
        let seed = seed.unwrap_or(u64::from(now.subsec_nanos()));
        eprintln!("KEELSON_ROT_SEED={seed} repeats these places");
        Self(seed)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound.max(1)
    }
}

/// One flipped byte.
#[derive(Debug)]
struct Flip {
    database: usize,
    path: PathBuf,
    offset: u64,
    wrong: u8,
}

impl Flip {
    fn make(numbers: &mut Numbers, database: usize, path: &Path, length: u64) -> Result<Self> {
        let offset = numbers.below(length);
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        let mut byte = [0];
        file.read_exact_at(&mut byte, offset)?;
        let wrong = byte[0] ^ (1 << numbers.below(8));
        file.write_all_at(&[wrong], offset)?;
        Ok(Self { database, path: path.to_owned(), offset, wrong })
    }

    fn is_log(&self) -> bool {
        self.path.extension().is_some_and(|extension| extension == "klog")
    }

    fn is_control(&self) -> bool {
        self.path.ends_with("control")
    }

    /// Whether the wrong byte is not there any more.
    fn is_gone(&self) -> bool {
        let mut byte = [0];
        let read = fs::File::open(&self.path).and_then(|f| f.read_exact_at(&mut byte, self.offset));
        read.is_err() || byte[0] != self.wrong
    }
}

/// Directory of a database at a member.
fn directory(cluster: &Cluster, member: &str, id: &str) -> PathBuf {
    cluster.path().join(member).join("data/databases").join(id)
}

/// The files of a copy that hold something, with the length that counts: log, store, control.
fn files(directory: &Path, replayed: (u64, u64)) -> Result<Vec<(PathBuf, u64)>> {
    let mut files =
        vec![(directory.join("control"), fs::metadata(directory.join("control"))?.len())];
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        let is_store = name.starts_with("store-");
        if !path.is_dir() || !(is_store || name.starts_with("log-")) {
            continue;
        }
        for entry in fs::read_dir(&path)? {
            let (file, entry) = (entry.as_ref().map(fs::DirEntry::path), entry.as_ref());
            let (Ok(file), Ok(entry)) = (file, entry) else { continue };
            let length = entry.metadata().map_or(0, |metadata| metadata.len());
            let stem = file.file_stem().map(|s| s.to_string_lossy().into_owned());
            // What was cut, mended or truncated lies beside the log; zeros lie behind its end.
            let generation =
                stem.filter(|s| s.len() == 16).and_then(|s| u64::from_str_radix(&s, 16).ok());
            let length = match generation {
                _ if is_store => length,
                Some(generation) if generation < replayed.0 => length,
                Some(generation) if generation == replayed.0 => replayed.1,
                _ => 0,
            };
            if length > 0 {
                files.push((file, length));
            }
        }
    }
    Ok(files)
}

async fn status(cluster: &Cluster, database: &str, member: &str) -> Result<Value> {
    let rows = cluster.cli().json(["copy", "status", database, "--member", member]).await?;
    rows.get(0).cloned().context("no such copy")
}

fn position(row: &Value, field: &str) -> Result<(u64, u64)> {
    let text = row[field].as_str().and_then(|text| text.split_once(':'));
    let (generation, offset) = text.with_context(|| format!("{field} in {row}"))?;
    Ok((u64::from_str_radix(generation, 16)?, offset.parse()?))
}

/// Flips bytes in files of the copies of `member`, chosen at random.
async fn rot(
    cluster: &Cluster,
    member: &str,
    numbers: &mut Numbers,
    ids: &[String],
) -> Result<Vec<Flip>> {
    let mut flips: Vec<Flip> = Vec::new();
    let mut choices = Vec::new();
    for (index, name) in DATABASES.iter().enumerate() {
        let row = status(cluster, name, member).await?;
        let found = files(&directory(cluster, member, &ids[index]), position(&row, "replayed")?)?;
        choices.extend(found.into_iter().map(|(path, length)| (index, path, length)));
    }
    while flips.len() < FLIPS_PER_ROUND {
        let chosen = usize::try_from(numbers.below(choices.len() as u64))?;
        let (database, path, length) = &choices[chosen];
        // The same byte twice would be right again; a store may be rewritten at any time.
        if let Ok(flip) = Flip::make(numbers, *database, path, *length) {
            flips.push(flip);
        }
    }
    Ok(flips)
}

/// Scrubs a copy until nothing is found any more; how much the first scrub found.
async fn scrub_until_clean(cluster: &Cluster, database: &str, member: &str) -> Result<u64> {
    let copy = format!("{database}@{member}");
    let scrub = || async {
        let rows = cluster.cli().json(["copy", "scrub", &copy]).await?;
        rows.get(0).cloned().context("nothing was scrubbed")
    };
    let first = eventually(&format!("{copy} is scrubbed"), scrub).await?;
    eventually(&format!("{copy} is clean"), || async {
        let row = scrub().await?;
        ensure!(row["scrub_result"] == "clean", "{row}");
        Ok(())
    })
    .await?;
    first["scrub_found"].as_u64().with_context(|| format!("nothing is said: {first}"))
}

/// Index of the newest event that tells of damage to a copy; 0 if there is none.
async fn told(cluster: &Cluster, database: &str, member: &str) -> Result<u64> {
    let subject = format!("{database}@{member}");
    let events = events(cluster, "copy_damage").await?;
    let of_copy = events.iter().filter(|event| event["subject"] == subject.as_str());
    Ok(of_copy.filter_map(|event| event["index"].as_u64()).max().unwrap_or(0))
}

async fn healthy(cluster: &Cluster, database: &str, member: &str) -> Result<()> {
    eventually(&format!("{database}@{member} is healthy"), || async {
        let row = status(cluster, database, member).await?;
        ensure!(row["status"] == "Healthy" && row["participant"] == true, "{row}");
        Ok(())
    })
    .await
}

/// Databases with small log files, and writers on them.
async fn loaded(cluster: &Cluster) -> Result<(Vec<String>, Vec<Writer>)> {
    let (mut ids, mut writers) = (Vec::new(), Vec::new());
    for name in DATABASES {
        cluster.create_database(name, &["m1", "m2", "m3"]).await?;
        cluster.cli().succeed(["database", "set", name, "--generation-size", "1MiB"]).await?;
        // Log that goes meanwhile need not be mended.
        cluster.cli().succeed(["database", "set", name, "--circular-logging", "false"]).await?;
        let shown = cluster.cli().json(["database", "show", name]).await?;
        ids.push(
            shown["id"].as_str().or(shown["database_id"].as_str()).context("no id")?.to_owned(),
        );
        let pause = Duration::from_millis(4);
        let options =
            WriterOptions { tasks: 2, value_bytes: 2_048, pause, ..WriterOptions::default() };
        writers.push(Writer::start(cluster.client().database(name), options));
    }
    for writer in &writers {
        writer.progress(700).await?;
    }
    Ok((ids, writers))
}

/// S15, G5: over 200 bytes at random places of logs and stores, and some of control files.
#[tokio::test(flavor = "multi_thread")]
async fn any_byte_of_a_passive_that_rots_is_found_and_mended_and_clients_notice_nothing()
-> Result<()> {
    let mut cluster = Cluster::start(3).await?;
    let (ids, writers) = loaded(&cluster).await?;
    let mut numbers = Numbers::new();
    let active = cluster.active_of("DB1").await?;
    let passive = another(&cluster, &active);
    for name in &DATABASES[1..] {
        cluster.cli().succeed(["switchover", name, "--to", &active]).await?;
    }
    let (mut logs, mut stores, mut controls) = (0, 0, 0);
    for round in 0..ROUNDS {
        // Closing writes what was replayed into the stores' tables.
        if round % 3 == 0 {
            cluster.member(&passive).stop()?;
            cluster.member(&passive).start()?;
            cluster.wait_until_whole().await?;
        }
        for name in DATABASES {
            healthy(&cluster, name, &passive).await?;
        }
        writers.iter().for_each(Writer::reset_gap);
        let mut before = Vec::new();
        for name in DATABASES {
            before.push(told(&cluster, name, &passive).await?);
        }
        let flips = rot(&cluster, &passive, &mut numbers, &ids).await?;
        for flip in &flips {
            logs += usize::from(flip.is_log());
            controls += usize::from(flip.is_control());
            stores += usize::from(!flip.is_log() && !flip.is_control());
        }
        for (index, name) in DATABASES.iter().enumerate() {
            let found = scrub_until_clean(&cluster, name, &passive).await?;
            let touched: Vec<_> = flips.iter().filter(|flip| flip.database == index).collect();
            // A control file is written so often that it may be right again before anyone looks.
            let log = touched.iter().any(|flip| flip.is_log());
            // Whoever makes a store anew may meet it before the scrub does, and tells.
            let found = found > 0 || told(&cluster, name, &passive).await? > before[index];
            ensure!(!log || found, "round {round}: nothing found of {touched:?}");
            for flip in touched.into_iter().filter(|flip| !flip.is_control()) {
                ensure!(flip.is_gone(), "round {round}: still there: {flip:?}");
            }
        }
        for (name, writer) in DATABASES.iter().zip(&writers) {
            healthy(&cluster, name, &passive).await?;
            let gap = writer.longest_gap();
            ensure!(gap < Duration::from_secs(3), "a writer of {name} waited for {gap:?}");
            ensure!(cluster.active_of(name).await? == active, "{name} moved");
        }
    }
    eprintln!("{logs} bytes of logs, {stores} of stores, {controls} of control files");
    ensure!(logs + stores >= 200 && logs >= 20 && stores >= 20 && controls > 0);
    for (name, writer) in DATABASES.iter().zip(writers) {
        let oracle = writer.stop().await?;
        oracle.verify(&cluster.client().database(*name)).await?;
        cluster.wait_until_caught_up(name).await?;
        cluster.equal_digest(name, 3).await?;
    }
    Ok(())
}
