//! The data process: logs, stores and the services for data, as a child of the control process.
//!
//! It never outlives its parent: the kernel kills it when the parent's main thread ends, it checks
//! that the parent was not gone before that was arranged, and it kills itself when the link ends.
//! It holds an exclusive lock on the data directory, so that two lives never touch the same files.
//! SIGTERM and SIGINT are left to the parent, which asks for a clean stop over the link.

use std::os::fd::AsFd;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail};
use futures::TryFutureExt;
use keelson_net::link::{self, LinkReceiver, LinkSender};
use keelson_net::{Connector, TlsServer, TlsStore, serve};
use keelson_replication::{DataPlane, DataPlaneConfig};
use keelson_types::IncarnationId;
use keelson_wire::v1::{ControlToData, DataReady, DataToControl, data_to_control};
use nix::sys::prctl;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, getppid};
use tokio::net::UnixStream;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::control::bind_patiently;
use crate::files::Lock;
use crate::services::with_common_services;
use crate::telemetry::Process;
use crate::{Config, MemberIdentity, Problem, bounds, logging, nice};

/// How long a former life may take to vanish: its memory is freed before its lock.
const LOCK_PATIENCE: Duration = Duration::from_secs(10);

/// Time for the last answers to leave after the plane has stopped.
const ANSWERS: Duration = Duration::from_millis(200);

/// What the control process tells its child. The other end of the link is the child's standard
/// input.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DataProcessArgs {
    /// The member's configuration file.
    pub config: PathBuf,
    /// Drawn by the control process for this life.
    pub incarnation: IncarnationId,
    /// Process id of the control process.
    pub parent: u32,
}

/// Runs the data process until the control process asks it to stop.
///
/// # Errors
/// Why it cannot start. If the control process is gone, it does not return: it is killed.
pub fn run_data_process(args: DataProcessArgs) -> anyhow::Result<()> {
    die_with_parent(args.parent)?;
    bounds::forbid_core();
    let config = Config::load(&args.config)?;
    let _exporting = logging::start(&config, Process::Data)?;
    run(&args, &config).inspect_err(|error| tracing::error!("data process: {error:#}"))
}

fn die_with_parent(parent: u32) -> anyhow::Result<()> {
    prctl::set_pdeathsig(Signal::SIGKILL).context("cannot arrange to die with the parent")?;
    if u32::try_from(getppid().as_raw()) != Ok(parent) {
        bail!("the control process {parent} is not the parent: start keelson server instead");
    }
    Ok(())
}

fn run(args: &DataProcessArgs, config: &Config) -> anyhow::Result<()> {
    // A name for ps and top; nothing depends on it.
    let _ = prctl::set_name(c"keelson-data");
    let _lock = Lock::take(&config.data_dir().join("data.lock"), LOCK_PATIENCE)?;
    let identity = MemberIdentity::open(config.data_dir(), config.log_dir(), config.name())?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .thread_name("keelson-data")
        .enable_all()
        .build()
        .context("cannot start threads")?;
    runtime.block_on(serve_data(args, config, &identity))?;
    // Blocking work of the stopped plane is over; what hangs must not keep the process.
    runtime.shutdown_timeout(Duration::from_secs(1));
    Ok(())
}

async fn serve_data(
    args: &DataProcessArgs,
    config: &Config,
    identity: &MemberIdentity,
) -> anyhow::Result<()> {
    ignore_signals()?;
    let (sender, receiver) = open_link()?;
    let tls = TlsStore::open(config.tls().clone()).map_err(Problem::from)?;
    let for_clients = bind_patiently(config.data_address()).await?;
    let mut for_members = Vec::new();
    for address in config.replication_addresses() {
        for_members.push(bind_patiently(address).await?);
    }
    let plane_config = DataPlaneConfig {
        member: identity.member,
        incarnation: args.incarnation,
        data_directory: config.data_dir().to_owned(),
        log_directory: config.log_dir().to_owned(),
        connector: Connector::new(tls.clone()),
        data_quota_bytes: config.data_quota_bytes(),
        log_quota_bytes: config.log_quota_bytes(),
        volumes: config.volumes().clone(),
        quiet: nice::quiet_this_thread,
    };
    let plane = DataPlane::start(plane_config, sender.clone(), receiver);
    let plane = plane.context("the data plane does not start")?;
    let stop = CancellationToken::new();
    let routes = with_common_services(plane.routes()).await?;
    // Members have certificates: where only they are expected, no tokens are taken.
    let members = TlsServer::new(tls)
        .with_members(plane.membership())
        .with_refused_calls(plane.refused_calls())
        .with_call_meters(plane.call_meters());
    let clients = members.clone().with_tokens(plane.tokens());
    let listeners = for_members.into_iter().map(|listener| (listener, members.clone()));
    let each = listeners.chain([(for_clients, clients)]).map(|(listener, server)| {
        let shutdown = stop.clone().cancelled_owned();
        serve(listener, server, routes.clone(), shutdown)
    });
    let mut serving = tokio::spawn(futures::future::try_join_all(each).map_ok(drop));
    let data_address = config.advertise_data().to_owned();
    let ready = data_to_control::Message::Ready(DataReady { data_address });
    // If the link is down, the branch below sees it.
    let _ = sender.send(DataToControl { reply_to: 0, message: Some(ready) }).await;
    tokio::select! {
        biased;
        () = plane.wait_for_link_down() => vanish(),
        () = plane.wait_for_stop() => {}
        ended = &mut serving => {
            ended.context("the server panicked")?.context("the server failed")?;
            bail!("the server ended");
        }
    }
    tracing::info!("data process stops");
    let stopped = async {
        plane.stop().await;
        stop.cancel();
        // Every call is refused by now; log sessions of other members would never end by
        // themselves.
        match tokio::time::timeout(ANSWERS, serving).await {
            Ok(ended) => ended.context("the server panicked")?.context("the server failed"),
            Err(_) => Ok(()),
        }
    };
    tokio::select! {
        biased;
        outcome = stopped => outcome,
        () = plane.wait_for_link_down() => vanish(),
    }
}

/// Standard input is this end of the link.
fn open_link() -> anyhow::Result<(LinkSender<DataToControl>, LinkReceiver<ControlToData>)> {
    let inherited = std::io::stdin().as_fd().try_clone_to_owned().context("no link inherited")?;
    let stream = StdUnixStream::from(inherited);
    stream.set_nonblocking(true).context("standard input is no link")?;
    let stream = UnixStream::from_std(stream).context("standard input is no link")?;
    Ok(link::open(stream))
}

/// SIGTERM and SIGINT reach whole process groups; only the control process acts on them.
fn ignore_signals() -> anyhow::Result<()> {
    for kind in [SignalKind::terminate(), SignalKind::interrupt()] {
        let mut ignored = signal(kind)?;
        tokio::spawn(async move { while ignored.recv().await.is_some() {} });
    }
    Ok(())
}

/// The parent is gone: nobody may be told that something was written after this moment.
fn vanish() -> ! {
    // Cannot fail for the own process, and does not return.
    let _ = kill(Pid::this(), Signal::SIGKILL);
    std::process::abort()
}
