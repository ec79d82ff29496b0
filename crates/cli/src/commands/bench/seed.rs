//! How fast a copy is seeded, beside a plain copy of as many bytes over one TCP connection with a
//! sync of each file, in the same run.
//!
//! The plain copy reads files from the page cache, sends them over the loopback, and writes, syncs
//! and names them: what a copy costs without TLS, checksums and bookkeeping. Its files are as large
//! as those of a store. Both numbers are bytes of files by the time from the first step to the
//! last.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Args;
use keelson_client::{Client, succeeded};
use keelson_types::{OperationId, RefusalReason};
use keelson_wire::v1::{Operation, SeedCopyRequest, SuspendCopyRequest};
use serde_json::{Value, json};
use uuid::Uuid;

use super::beside;
use crate::context::Global;
use crate::failure::{Failure, Outcome};
use crate::output;

/// Bytes of one file of the plain copy, as RocksDB makes them.
const FILE_BYTES: u64 = 64 * 1024 * 1024;
const BUFFER_BYTES: usize = 1024 * 1024;
/// Longest seed that is measured.
const WAIT_MAX: Duration = Duration::from_secs(6 * 3_600);

#[derive(Args, Clone, Debug)]
pub(crate) struct Seed {
    /// Name of the database
    #[arg(long, default_value = "DB1")]
    database: String,
    /// Member whose passive copy is suspended and made anew; its old files are deleted afterwards
    #[arg(long)]
    member: String,
    /// Read from the copy on this member only
    #[arg(long, default_value = "")]
    source: String,
    /// Directory for the plain copy, on the disk of the member
    #[arg(long, required_unless_present = "clients", conflicts_with = "clients")]
    dir: Option<PathBuf>,
    /// Instead of the plain copy: clients that write before and meanwhile; the seed is held back
    /// for them as it would be by itself
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=4096))]
    clients: Option<u32>,
    /// How long the clients write before
    #[arg(long, default_value = "20s")]
    before: humantime::Duration,
}

/// Bytes and how long they took.
struct Speed {
    bytes: u64,
    seconds: f64,
}

impl Speed {
    fn megabytes_per_second(&self) -> f64 {
        self.bytes as f64 / 1e6 / self.seconds.max(1e-9)
    }

    fn sentence(&self) -> String {
        let megabytes = self.bytes as f64 / 1e6;
        let (seconds, speed) = (self.seconds, self.megabytes_per_second());
        format!("{megabytes:.0} MB in {seconds:.2} s, {speed:.0} MB/s")
    }

    fn data(&self) -> Value {
        json!({
            "bytes": self.bytes,
            "seconds": self.seconds,
            "megabytes_per_s": self.megabytes_per_second(),
        })
    }
}

impl Seed {
    pub(crate) async fn run(self, global: &Global) -> Outcome {
        let plan = self.plan();
        if global.only_shows(&plan) {
            return Ok(());
        }
        global.confirm(&plan)?;
        let client = global.connect().await?;
        match (self.clients, &self.dir) {
            (Some(clients), _) => self.beside_writers(global, &client, clients).await,
            (None, Some(dir)) => self.beside_a_plain_copy(global, &client, dir).await,
            (None, None) => Err(Failure::usage("neither --dir nor --clients", "give one of them")),
        }
    }

    fn plan(&self) -> String {
        let copy = format!("{}@{}", self.database, self.member);
        match (self.clients, &self.dir) {
            (None, Some(dir)) => format!(
                "suspend {copy}, seed it at full speed and delete its old files, and copy as many \
                 bytes in {}",
                dir.display()
            ),
            (clients, _) => format!(
                "suspend {copy}, seed it and delete its old files, while {} clients write",
                clients.unwrap_or_default()
            ),
        }
    }

    async fn beside_writers(&self, global: &Global, client: &Client, clients: u32) -> Outcome {
        let (times, load) = ((self.before.into(), WAIT_MAX), (&*self.database, clients));
        let seed = self.seed(client, false);
        let ((seeded, transfer), beside) = beside::measure(global, load, times, seed).await?;
        let speeds = [("seed", seeded.sentence()), ("its transfer", transfer.sentence())];
        let rows: Vec<_> = speeds.into_iter().chain(beside.rows()).collect();
        let data = json!({
            "database": self.database,
            "member": self.member,
            "clients": clients,
            "seed": seeded.data(),
            "transfer": transfer.data(),
            "writers": beside.data(),
        });
        output::print_one(global.output, &rows, &data);
        Ok(())
    }

    async fn beside_a_plain_copy(&self, global: &Global, client: &Client, dir: &Path) -> Outcome {
        let (seeded, transfer) = self.seed(client, true).await?;
        let (place, bytes) = (dir.to_owned(), seeded.bytes);
        let copied = tokio::task::spawn_blocking(move || plain_copy(&place, bytes)).await;
        let panicked = |_| Failure::local("the plain copy panicked");
        let copied = copied.map_err(panicked)?.map_err(|error| Failure::file(dir, &error))?;
        let share = seeded.megabytes_per_second() / copied.megabytes_per_second();
        let rows = [
            ("seed", seeded.sentence()),
            ("its transfer", transfer.sentence()),
            ("plain TCP copy with fsync", copied.sentence()),
            ("share", format!("{:.0} %", share * 100.0)),
        ];
        let data = json!({
            "database": self.database,
            "member": self.member,
            "seed": seeded.data(),
            "transfer": transfer.data(),
            "plain_copy": copied.data(),
            "share": share,
        });
        output::print_one(global.output, &rows, &data);
        Ok(())
    }

    /// The whole seed, and its transfer alone.
    async fn seed(&self, client: &Client, no_throttle: bool) -> Outcome<(Speed, Speed)> {
        let admin = client.admin();
        let suspend = SuspendCopyRequest {
            database: self.database.clone(),
            member: self.member.clone(),
            comment: "bench seed".into(),
            ..SuspendCopyRequest::default()
        };
        admin.suspend_copy(suspend).await?;
        let request = SeedCopyRequest {
            database: self.database.clone(),
            member: self.member.clone(),
            source: self.source.clone(),
            database_only: true,
            delete_existing_files: true,
            no_throttle,
            ..SeedCopyRequest::default()
        };
        let begun = Instant::now();
        let operation = admin.seed_copy(request).await?.operation;
        let unreadable = || Failure::new(RefusalReason::Internal, "the answer has no operation");
        let id = OperationId::from_slice(&operation).ok_or_else(unreadable)?;
        let (mut first, mut last) = (None, None);
        let operations = client.operations();
        let watched = operations.watch(id, WAIT_MAX, |now: &Operation| match now.phase.as_str() {
            "transferring" => drop(first.get_or_insert_with(Instant::now)),
            "installing" | "resuming" | "ended" => drop(last.get_or_insert_with(Instant::now)),
            _ => {}
        });
        let ended = succeeded(watched.await?)?;
        let seconds = begun.elapsed().as_secs_f64();
        let bytes = ended.seed.map_or(0, |figures| figures.bytes);
        let transfer = match (first, last) {
            (Some(first), Some(last)) => last.duration_since(first).as_secs_f64(),
            _ => seconds,
        };
        Ok((Speed { bytes, seconds }, Speed { bytes, seconds: transfer }))
    }
}

/// Copies `bytes` in files over one connection.
fn plain_copy(dir: &Path, bytes: u64) -> io::Result<Speed> {
    let place = dir.join(format!("bench-seed-{}", Uuid::new_v4()));
    let (from, to) = (place.join("from"), place.join("to"));
    fs::create_dir_all(&from)?;
    fs::create_dir_all(&to)?;
    let copied = make_files(&from, bytes).and_then(|sizes| copy_files(&from, &to, &sizes));
    let removed = fs::remove_dir_all(&place);
    let seconds = copied?;
    removed?;
    Ok(Speed { bytes, seconds })
}

/// Files of bytes that no layer below can make smaller.
fn make_files(from: &Path, bytes: u64) -> io::Result<Vec<u64>> {
    let (mut left, mut sizes) = (bytes, Vec::new());
    let mut noise = 0x9e37_79b9_7f4a_7c15_u64;
    let mut buffer = vec![0; BUFFER_BYTES];
    while left > 0 {
        let size = left.min(FILE_BYTES);
        let mut file = File::create_new(from.join(sizes.len().to_string()))?;
        let mut rest = size;
        while rest > 0 {
            for word in buffer.chunks_exact_mut(8) {
                noise ^= noise << 13;
                noise ^= noise >> 7;
                noise ^= noise << 17;
                word.copy_from_slice(&noise.to_le_bytes());
            }
            let part = usize::try_from(rest).unwrap_or(BUFFER_BYTES).min(BUFFER_BYTES);
            file.write_all(&buffer[..part])?;
            rest -= part as u64;
        }
        file.sync_all()?;
        sizes.push(size);
        left -= size;
    }
    Ok(sizes)
}

fn copy_files(from: &Path, to: &Path, sizes: &[u64]) -> io::Result<f64> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let begun = Instant::now();
    std::thread::scope(|scope| {
        let sender = scope.spawn(move || {
            let mut stream = TcpStream::connect(address)?;
            let mut buffer = vec![0; BUFFER_BYTES];
            for number in 0..sizes.len() {
                let mut file = File::open(from.join(number.to_string()))?;
                loop {
                    let count = file.read(&mut buffer)?;
                    if count == 0 {
                        break;
                    }
                    stream.write_all(&buffer[..count])?;
                }
            }
            io::Result::Ok(())
        });
        let received = receive(&listener, to, sizes);
        match sender.join() {
            Ok(sent) => sent?,
            Err(_) => return Err(io::Error::other("the sender panicked")),
        }
        received
    })?;
    Ok(begun.elapsed().as_secs_f64())
}

fn receive(listener: &TcpListener, to: &Path, sizes: &[u64]) -> io::Result<()> {
    let (mut stream, _) = listener.accept()?;
    let mut buffer = vec![0; BUFFER_BYTES];
    for (number, size) in sizes.iter().enumerate() {
        let part = to.join(format!("{number}.part"));
        let mut file = File::create_new(&part)?;
        let mut left = *size;
        while left > 0 {
            let room = usize::try_from(left).unwrap_or(BUFFER_BYTES).min(BUFFER_BYTES);
            let count = stream.read(&mut buffer[..room])?;
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            file.write_all(&buffer[..count])?;
            left -= count as u64;
        }
        file.sync_all()?;
        fs::rename(&part, to.join(number.to_string()))?;
        File::open(to)?.sync_all()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_plain_copy_copies_all_bytes_and_leaves_nothing() {
        let dir = std::env::temp_dir().join(format!("keelson-bench-{}", Uuid::new_v4()));
        fs::create_dir(&dir).unwrap();
        let copied = plain_copy(&dir, 3_000_001).unwrap();
        assert_eq!(copied.bytes, 3_000_001);
        assert!(copied.seconds > 0.0 && copied.megabytes_per_second() > 0.0);
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 0);
        fs::remove_dir(&dir).unwrap();
    }
}
