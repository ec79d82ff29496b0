//! The asynchronous half of the control process: wires link, control plane and services, and
//! carries out a clean stop.
//!
//! Order of a stop: no new life of the data process, the data process stops serving and ends, its
//! lease is given back, consensus stops, the services stop. A data process that takes too long is
//! killed; what it had not made durable is replayed at the next start.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use keelson_cluster::{
    AuditLog, ControlPlane, ControlPlaneConfig, Ending, Identity, StartError, Timings,
};
use keelson_net::{Connector, RefusedCalls, TlsServer, TlsStore, serve};
use keelson_types::RefusalReason;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::bind_patiently;
use super::child_link::ChildLink;
use super::supervisor::{LifeEvent, Steering};
use crate::config::Profile;
use crate::console::{self, Console};
use crate::services::with_common_services;
use crate::witness::Kind;
use crate::{Config, MemberIdentity, Problem, metrics};

/// Events that wait for the control plane.
const EVENTS: usize = 1024;

/// Time that a data process has to end after it was asked to; then it is killed.
const END_PATIENCE: Duration = Duration::from_secs(30);

/// What the control plane is made of.
pub(super) struct ControlMain {
    pub(super) config: Config,
    pub(super) kind: Kind,
    pub(super) identity: MemberIdentity,
    pub(super) tls: Arc<TlsStore>,
    pub(super) steering: Steering,
}

/// Ends supervision, and with it the process, however the control plane ends.
struct EndSupervision(Steering);

impl Drop for EndSupervision {
    fn drop(&mut self) {
        self.0.stop();
        self.0.kill();
    }
}

impl ControlMain {
    /// Runs until a signal, or until something fails.
    pub(super) async fn run(self, lives: mpsc::Receiver<LifeEvent>) -> anyhow::Result<()> {
        let _end = EndSupervision(self.steering.clone());
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let (sender, events) = mpsc::channel(EVENTS);
        let link = ChildLink::new(self.steering.clone());
        let translating = tokio::spawn(link.clone().run(lives, sender));
        let connector = Connector::new(self.tls.clone());
        let audit = AuditLog::start(self.config.audit()).context("cannot start threads")?;
        let plane_config = self.plane_config(audit.clone());
        let plane = ControlPlane::start(plane_config, connector, link, events).await;
        let plane = plane.map_err(start_problem)?;
        // Only now: the control plane asks first whether somebody else answers at this address.
        let listener = bind_patiently(self.config.control_address()).await?;
        let refused = RefusedCalls::new(move |line| audit.note(line));
        let _folding = AbortOnDropHandle::new(tokio::spawn(refused.clone().run()));
        let _metrics = self.serve_metrics(&plane).await?;
        let _console = self.serve_console(&plane, &refused).await?;
        let stop = CancellationToken::new();
        let routes = with_common_services(plane.routes()).await?;
        let shutdown = stop.clone().cancelled_owned();
        let server = TlsServer::new(self.tls.clone())
            .with_tokens(plane.tokens())
            .with_members(plane.membership())
            .with_refused_calls(refused)
            .with_call_meters(plane.call_meters());
        let mut serving = tokio::spawn(serve(listener, server, routes, shutdown));
        self.steering.start();
        tokio::select! {
            biased;
            () = asked_to_stop(&mut terminate, &mut interrupt) => {}
            ended = plane.ended() => match ended {
                Ending::Failed(reason) => bail!("consensus failed: {reason}"),
                Ending::LeftBehind { generation } => {
                    plane.halt().await;
                    return Err(LeftBehind { generation }.into());
                }
            },
            ended = &mut serving => {
                ended.context("the server panicked")?.context("the server failed")?;
                bail!("the server ended");
            }
        }
        tracing::info!("member stops");
        self.steering.stop();
        plane.stop().await;
        if tokio::time::timeout(END_PATIENCE, translating).await.is_err() {
            tracing::warn!("the data process did not end in time; killed");
        }
        stop.cancel();
        serving.await.context("the server panicked")?.context("the server failed")
    }

    /// Served until the handle is dropped; `None` if they are not wanted.
    async fn serve_metrics(
        &self,
        plane: &ControlPlane,
    ) -> Result<Option<AbortOnDropHandle<()>>, Problem> {
        let Some(address) = self.config.metrics_address() else { return Ok(None) };
        let listener = bind_patiently(address).await?;
        let (config, tls, pictures) = (self.config.clone(), self.tls.clone(), plane.pictures());
        let serving = async move { metrics::serve(listener, &config, tls, pictures).await };
        Ok(Some(AbortOnDropHandle::new(tokio::spawn(serving))))
    }

    /// Served until the handle is dropped; `None` if it is not wanted.
    async fn serve_console(
        &self,
        plane: &ControlPlane,
        logins: &RefusedCalls,
    ) -> Result<Option<AbortOnDropHandle<()>>, Problem> {
        let Some(address) = self.config.console_address() else { return Ok(None) };
        let listener = bind_patiently(address).await?;
        let console = Console::new(&self.config, self.tls.clone(), plane.tokens(), logins.clone());
        let serving = console::serve(listener, self.tls.clone(), console);
        Ok(Some(AbortOnDropHandle::new(tokio::spawn(serving))))
    }

    fn plane_config(&self, audit: AuditLog) -> ControlPlaneConfig {
        let config = &self.config;
        // An empty address says that there is no data process.
        let (data_address, replication_addresses) = match self.kind {
            Kind::Member => {
                (config.advertise_data().to_owned(), config.advertise_replication().to_vec())
            }
            Kind::Witness => (String::new(), Vec::new()),
        };
        ControlPlaneConfig {
            identity: Identity {
                member: self.identity.member,
                name: config.name().clone(),
                site: config.site().clone(),
                control_address: config.advertise_control().to_owned(),
                data_address,
                replication_addresses,
            },
            directory: config.data_dir().join("cluster"),
            timings: match config.profile() {
                Profile::Lan => Timings::lan(),
                Profile::Wan => Timings::wan(),
            },
            audit,
        }
    }
}

/// The cluster was forced up without this member, whose next life waits to be taken in.
#[derive(Debug, thiserror::Error)]
#[error(
    "the cluster was forced up without this member (recovery generation {generation}); it starts \
     again and waits to be taken in"
)]
pub(super) struct LeftBehind {
    generation: u32,
}

async fn asked_to_stop(terminate: &mut Signal, interrupt: &mut Signal) {
    tokio::select! {
        biased;
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}

fn start_problem(error: StartError) -> anyhow::Error {
    let reason = match &error {
        StartError::Storage(fault) => fault.reason(),
        StartError::SecondHolder { .. } => RefusalReason::SecondHolder,
        _ => RefusalReason::Internal,
    };
    let error = anyhow::Error::new(error);
    if reason == RefusalReason::Internal {
        return error.context("the control plane does not start");
    }
    Problem::of(reason, format!("{error:#}")).into()
}
