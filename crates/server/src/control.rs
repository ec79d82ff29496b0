//! The control process: checks what can be checked, starts the control plane on other threads, and
//! supervises the data process from the main thread.
//!
//! It ends with SIGTERM or SIGINT (cleanly: the data process stops serving and makes its stores
//! durable, the lease is given back), or when consensus fails. However it ends, the data process
//! ends with it.
//!
//! A witness is the same without a data process.

mod child_link;
mod plane;
mod supervisor;

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use keelson_net::{BindError, TlsStore};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use crate::files::{Lock, PidFile, make_directory};
use crate::telemetry::Process;
use crate::witness::{self, Kind};
use crate::{Config, MemberIdentity, Problem, bounds, config, logging, nice};
use plane::{ControlMain, LeftBehind};
use supervisor::{ChildSpec, Steering, supervise};

/// How long a lock or an address may be held by a process that is about to end.
pub(crate) const HANDOVER: Duration = Duration::from_secs(3);

/// Pause between two attempts to listen.
const BIND_PAUSE: Duration = Duration::from_millis(50);

/// Threads of the control plane: one may wait for the other's disk.
const THREADS: usize = 2;

/// Events of lives that wait for the control plane.
const LIFE_EVENTS: usize = 64;

/// Runs a member until SIGTERM or SIGINT. Call it on the main thread, before any other thread
/// exists.
///
/// # Errors
/// A [`Problem`] if it cannot start: configuration, TLS files, data directory, addresses; or the
/// reason why consensus failed.
pub fn run_server(config_path: &Path) -> anyhow::Result<()> {
    start(config_path, Kind::Member)
}

/// Runs a witness until SIGTERM or SIGINT: a vote in consensus, without a data process. Call it on
/// the main thread, before any other thread exists.
///
/// # Errors
/// As for [`run_server`].
pub fn run_witness(config_path: &Path) -> anyhow::Result<()> {
    start(config_path, Kind::Witness)
}

fn start(config_path: &Path, kind: Kind) -> anyhow::Result<()> {
    let config = Config::load(config_path)?;
    let process = match kind {
        Kind::Member => Process::Control,
        Kind::Witness => Process::Witness,
    };
    let _exporting = logging::start(&config, process)?;
    let outcome = run(&config, kind).inspect_err(|error| tracing::error!("{error:#}"));
    match outcome {
        Err(error) if error.is::<LeftBehind>() => Err(start_again().into()),
        outcome => outcome,
    }
}

/// Puts a new life of this program in the place of this one. Returns only if that fails.
fn start_again() -> std::io::Error {
    let mut arguments = std::env::args_os();
    let name = arguments.next().unwrap_or_else(|| "keelson".into());
    std::process::Command::new("/proc/self/exe").arg0(name).args(arguments).exec()
}

fn run(config: &Config, kind: Kind) -> anyhow::Result<()> {
    for key in config.unknown_keys() {
        tracing::warn!(key, "this version does not know a key of the configuration");
    }
    bounds::raise_open_files();
    // A witness has no logs.
    let log_dir = if kind == Kind::Member { config.log_dir() } else { config.data_dir() };
    for directory in [config.data_dir(), log_dir, config.run_dir()] {
        make_directory(directory)?;
    }
    let _lock = Lock::take(&config.data_dir().join("control.lock"), HANDOVER)?;
    witness::claim(config.data_dir(), kind)?;
    let identity = MemberIdentity::open(config.data_dir(), log_dir, config.name())?;
    let tls = TlsStore::open(config.tls().clone()).map_err(Problem::from)?;
    config::check_certificate(config.tls(), config.name(), tls.current().own())?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(THREADS)
        .thread_name("keelson-control")
        .on_thread_start(nice::raise_this_thread)
        .enable_all()
        .build()
        .context("cannot start threads")?;
    runtime.block_on(try_addresses(config, kind))?;
    let _pid_file = PidFile::write(config.run_dir().join("control.pid"), std::process::id());
    tracing::info!(member = %config.name(), id = %identity.member, site = %config.site(), ?kind,
        control = config.control_address(), data = config.data_address(), "member starts");
    let (lives, announced) = mpsc::channel(LIFE_EVENTS);
    let steering = Steering::default();
    let main =
        ControlMain { config: config.clone(), kind, identity, tls, steering: steering.clone() };
    let spec = child_spec(config)?;
    let handle = runtime.handle().clone();
    let running = std::thread::Builder::new()
        .name("keelson-control".into())
        .spawn(move || handle.block_on(main.run(announced)))
        .context("cannot start threads")?;
    match kind {
        Kind::Member => supervise(&spec, &steering, &lives),
        Kind::Witness => steering.wait_for_stop(),
    }
    drop(lives);
    let outcome = running.join().map_err(|_| anyhow!("the control plane panicked"))?;
    runtime.shutdown_timeout(Duration::from_secs(1));
    outcome?;
    tracing::info!(member = %config.name(), "member stopped");
    Ok(())
}

/// All addresses are bound later; trying first gives a clear error before anything runs.
async fn try_addresses(config: &Config, kind: Kind) -> Result<(), Problem> {
    if kind == Kind::Member {
        drop(bind_patiently(config.data_address()).await?);
        for address in config.replication_addresses() {
            drop(bind_patiently(address).await?);
        }
    }
    drop(bind_patiently(config.control_address()).await?);
    Ok(())
}

/// Both processes run the very same file, even if it was replaced on disk meanwhile.
fn child_spec(config: &Config) -> anyhow::Result<ChildSpec> {
    let path = config.path().to_str().context("the path of the configuration is not UTF-8")?;
    Ok(ChildSpec {
        program: PathBuf::from("/proc/self/exe"),
        arguments: vec!["data-process".into(), "--config".into(), path.into()],
        pid_file: config.run_dir().join("data.pid"),
    })
}

/// Listens, waiting for a former holder of the address that is about to end.
pub(crate) async fn bind_patiently(address: &str) -> Result<TcpListener, Problem> {
    let deadline = Instant::now() + HANDOVER;
    let in_use = |error: &BindError| error.source.kind() == std::io::ErrorKind::AddrInUse;
    loop {
        match keelson_net::bind(address).await {
            Err(error) if in_use(&error) && Instant::now() < deadline => {
                tokio::time::sleep(BIND_PAUSE).await;
            }
            outcome => return Ok(outcome?),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dev::{DevCluster, prepare};

    fn cluster() -> (tempfile::TempDir, DevCluster) {
        let dir = tempfile::tempdir().unwrap();
        let cluster = prepare(dir.path(), 1, Some(0)).unwrap();
        (dir, cluster)
    }

    /// Starts the first member, which must be refused, and returns the code.
    fn refused(cluster: &DevCluster) -> &'static str {
        let error = run_server(&cluster.members[0].config).unwrap_err();
        let problem = error.downcast_ref::<Problem>().unwrap_or_else(|| panic!("{error:#}"));
        assert!(!problem.hint.is_empty());
        problem.code
    }

    #[test]
    fn unusable_certificates_stop_a_start() {
        let (_dir, cluster) = cluster();
        let key = cluster.members[0].dir.join("member.key");
        std::fs::copy(cluster.dir.join("certs/client.key"), &key).unwrap();
        assert_eq!(refused(&cluster), "tls_key_mismatch");
        let cert = cluster.members[0].dir.join("member.pem");
        std::fs::copy(cluster.dir.join("certs/client.pem"), cert).unwrap();
        assert_eq!(refused(&cluster), "bad_certificate");
        std::fs::remove_file(key).unwrap();
        assert_eq!(refused(&cluster), "tls_file_missing");
    }

    #[test]
    fn a_second_holder_is_refused() {
        let (_dir, cluster) = cluster();
        let data = cluster.members[0].dir.join("data");
        make_directory(&data).unwrap();
        let _held = Lock::take(&data.join("control.lock"), Duration::ZERO).unwrap();
        assert_eq!(refused(&cluster), "second_holder");
    }

    #[test]
    fn a_directory_of_a_newer_version_is_refused() {
        let (_dir, cluster) = cluster();
        let data = cluster.members[0].dir.join("data");
        make_directory(&data).unwrap();
        std::fs::write(data.join("member.json"), r#"{"format": 2}"#).unwrap();
        assert_eq!(refused(&cluster), "newer_format");
    }

    #[test]
    fn addresses_in_use_stop_a_start() {
        for address in [
            |c: &DevCluster| c.members[0].control_address.clone(),
            |c: &DevCluster| c.members[0].data_address.clone(),
        ] {
            let (_dir, cluster) = cluster();
            let _taken = std::net::TcpListener::bind(address(&cluster)).unwrap();
            assert_eq!(refused(&cluster), "address_in_use");
        }
    }
}
