//! Free ports of this machine.
//!
//! They lie below those that the system gives to outgoing connections: a port of that range may be
//! in use by anybody just when a member is started again. Tests in other processes keep off by a
//! lock, which ends with the process.

use std::collections::BTreeMap;
use std::fs::File;
use std::net::TcpListener;
use std::os::unix::fs::MetadataExt;
use std::sync::{Mutex, PoisonError};

use anyhow::{Result, bail};
use rand::Rng;

/// Below the range of outgoing connections, which begins at 32,768 on Linux.
const PORTS: std::ops::Range<u16> = 10_000..32_000;
/// Ports that are tried.
const TRIES: u32 = 1_000;

/// Ports given out by this process, with their locks; none is given twice.
static GIVEN: Mutex<BTreeMap<u16, File>> = Mutex::new(BTreeMap::new());

/// A port of 127.0.0.1 that nobody listens at, for this process alone among those that ask here.
///
/// # Errors
/// None is found, or the directory of temporary files cannot be written.
pub fn free_port() -> Result<u16> {
    let user = std::fs::metadata("/proc/self")?.uid();
    let directory = std::env::temp_dir().join(format!("keelson-test-ports-{user}"));
    std::fs::create_dir_all(&directory)?;
    let mut given = GIVEN.lock().unwrap_or_else(PoisonError::into_inner);
    for _ in 0..TRIES {
        let port = rand::rng().random_range(PORTS);
        if given.contains_key(&port) || TcpListener::bind(("127.0.0.1", port)).is_err() {
            continue;
        }
        let lock = File::create(directory.join(port.to_string()))?;
        if lock.try_lock().is_ok() {
            given.insert(port, lock);
            return Ok(port);
        }
    }
    bail!("no free port was found in {TRIES} tries");
}
