//! Renews the lease of this member's data process, and watches that the data process makes
//! progress.
//!
//! Two small tasks apart from everything else, so that neither a disk nor a storm of orders delays
//! a renewal. They decide nothing: the leader grants, the holder (in [`crate::assignments`])
//! counts. A grant counts from the time at which its request was *sent*. A new assignment is not
//! covered by the grant that is held (R9), so the next one is asked for at once: a database that
//! moves here waits for it and for nothing else.
//!
//! Renewals stop by themselves when the data process has not answered a probe in time (review C19):
//! a process that lives but does not work must not keep its databases.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use keelson_cluster_core::{Command, Grant};
use keelson_net::Lane;
use keelson_types::{IncarnationId, Tick};
use keelson_wire::v1::{
    ProgressProbe, ProgressReport, RenewLeaseRequest, RenewLeaseResponse, control_to_data,
    data_to_control,
};
use keelson_wire::{Refusal, ids};
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;

use crate::clock;
use crate::context::Context;
use crate::peers::call;
use crate::raft_types::NodeId;

/// How often the data process is asked for a sign of life.
const PROBE_INTERVAL: Duration = Duration::from_millis(500);

/// A grant on its way to the holder.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Granted {
    /// When the request was sent.
    pub(crate) sent: Tick,
    /// What the leader granted.
    pub(crate) grant: Grant,
}

/// When the data process last answered a probe: the send time of that probe, and what it said.
#[derive(Debug, Default)]
pub(crate) struct Progress(Mutex<Option<Answered>>);

#[derive(Debug)]
struct Answered {
    incarnation: IncarnationId,
    sent: Tick,
    said: ProgressReport,
}

impl Progress {
    fn note(&self, answered: Answered) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(answered);
    }

    /// What the life said of itself, if that is not too long ago.
    fn recent(
        &self,
        incarnation: IncarnationId,
        now: Tick,
        longest: Duration,
    ) -> Option<ProgressReport> {
        let noted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let recent =
            |it: &&Answered| it.incarnation == incarnation && now.since(it.sent) <= longest;
        noted.as_ref().filter(recent).map(|answered| answered.said.clone())
    }
}

/// Probes the running data process until the control plane stops.
pub(crate) async fn probe(context: Arc<Context>, progress: Arc<Progress>) {
    let mut data = context.data.clone();
    loop {
        let Some(incarnation) = *data.borrow_and_update() else {
            if data.changed().await.is_err() {
                return;
            }
            continue;
        };
        let sent = clock::now();
        let message = control_to_data::Message::Probe(ProgressProbe {});
        match context.link.request(message, context.timings.progress_max).await {
            Ok(answer) => {
                let said = match answer {
                    data_to_control::Message::Progress(report) => report,
                    _ => ProgressReport::default(),
                };
                progress.note(Answered { incarnation, sent, said });
            }
            Err(error) => tracing::debug!(%error, "no sign of progress"),
        }
        // A new life is probed at once.
        let _ = tokio::time::timeout(PROBE_INTERVAL, data.changed()).await;
    }
}

/// For which life a lease was asked, and when the request was sent.
#[derive(Clone, Copy, Debug)]
struct Asked {
    incarnation: IncarnationId,
    sent: Tick,
}

/// What a call to the leader brought.
#[derive(Debug)]
enum Answer {
    Lease { leader: NodeId, asked: Asked, result: Result<RenewLeaseResponse, Refusal> },
    Started(Result<(), Refusal>),
}

/// The loop that renews.
pub(crate) struct Renewer {
    context: Arc<Context>,
    progress: Arc<Progress>,
    grants: mpsc::Sender<Granted>,
    answers: (mpsc::Sender<Answer>, mpsc::Receiver<Answer>),
    /// The leader that has not answered the newest request yet.
    outstanding: Option<NodeId>,
    /// Something was assigned since the outstanding request was sent.
    again: bool,
    /// Revision of the newest grant.
    covered: u64,
    starting: bool,
    /// The last thing that kept the lease away, so that it is logged once.
    obstacle: Option<String>,
}

impl Renewer {
    pub(crate) fn new(
        context: Arc<Context>,
        progress: Arc<Progress>,
        grants: mpsc::Sender<Granted>,
    ) -> Self {
        Self {
            context,
            progress,
            grants,
            answers: mpsc::channel(16),
            outstanding: None,
            again: false,
            covered: 0,
            starting: false,
            obstacle: None,
        }
    }

    /// Runs until the control plane stops.
    pub(crate) async fn run(mut self) {
        let mut leader = self.context.raft.server_metrics();
        let mut data = self.context.data.clone();
        let mut applied = self.context.applied.watch();
        let mut ticks = tokio::time::interval(self.context.timings.lease.renewal);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                Some(answer) = self.answers.1.recv() => {
                    self.take(answer).await;
                    continue;
                }
                // A new leader is asked at once: its first act is to renew incumbents.
                changed = leader.changed() => if changed.is_err() { return },
                changed = data.changed() => if changed.is_err() { return },
                _ = ticks.tick() => {}
                changed = applied.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    if !self.lacks_cover() {
                        continue;
                    }
                }
            }
            self.renew();
        }
    }

    fn renew(&mut self) {
        if self.context.stopping.load(Ordering::Relaxed) {
            return;
        }
        let Some(incarnation) = *self.context.data.borrow() else { return };
        let Some((leader, node)) = self.context.leader() else {
            return self.hindered("no leader is known");
        };
        let now = clock::now();
        let longest = self.context.timings.progress_max;
        let Some(said) = self.progress.recent(incarnation, now, longest) else {
            return self.hindered("the data process makes no progress");
        };
        if !self.is_recorded(incarnation) {
            return self.start(incarnation);
        }
        if self.outstanding == Some(leader) {
            self.again |= self.lacks_cover();
            return;
        }
        self.outstanding = Some(leader);
        let request = RenewLeaseRequest {
            member: ids::bytes(self.context.identity.member),
            incarnation: ids::bytes(incarnation),
            wedged: said.wedged,
            unreached: said.unreached,
        };
        let (context, answers) = (self.context.clone(), self.answers.0.clone());
        self.context.spawn(async move {
            let asked = Asked { incarnation, sent: clock::now() };
            let result = if leader == context.node {
                let limit = context.timings.renewal_deadline;
                let renewed = context.renew_lease(context.identity.member, &request);
                tokio::time::timeout(limit, renewed)
                    .await
                    .unwrap_or_else(|_| Err(context.not_leader()))
            } else {
                let name = &node.name;
                let mut client = context.peers.cluster(name, &node.control_address, Lane::Control);
                let send = |request| async move { client.renew_lease(request).await };
                call(context.timings.renewal_deadline, request, send).await
            };
            // Fails only while the control plane stops.
            let _ = answers.send(Answer::Lease { leader, asked, result }).await;
        });
    }

    /// Whether something was assigned to this member that no grant covers yet.
    fn lacks_cover(&self) -> bool {
        let member = self.context.own_member();
        member.is_some_and(|member| member.assignment_revision > self.covered)
    }

    fn is_recorded(&self, incarnation: IncarnationId) -> bool {
        self.context.own_member().is_some_and(|member| member.incarnation == Some(incarnation))
    }

    /// Records the new life. Refused until no earlier life can hold a lease; then asked again.
    fn start(&mut self, incarnation: IncarnationId) {
        if self.starting {
            return;
        }
        let Some(member) = self.context.own_member() else {
            return self.hindered("this member is not yet in the cluster's state");
        };
        if member.certified_dead.contains(&incarnation) {
            return self.hindered("this life of the data process was certified dead");
        }
        self.starting = true;
        let (context, answers) = (self.context.clone(), self.answers.0.clone());
        let command = Command::StartIncarnation { member: member.config.id, incarnation };
        self.context.spawn(async move {
            let result = match context.propose(command).await {
                Err(refusal) => Err(refusal),
                Ok(proposed) => match proposed.answer() {
                    Err(refusal) => Err(refusal),
                    Ok((index, _)) => context.reached(index, Duration::from_secs(1)).await,
                },
            };
            let _ = answers.send(Answer::Started(result)).await;
        });
    }

    async fn take(&mut self, answer: Answer) {
        match answer {
            Answer::Started(result) => {
                self.starting = false;
                match result {
                    Ok(()) => {
                        self.context.note_caught_up();
                        self.renew();
                    }
                    Err(refusal) => self.hindered(&refusal.to_string()),
                }
            }
            Answer::Lease { leader, asked, result } => {
                if self.outstanding == Some(leader) {
                    self.outstanding = None;
                }
                match result {
                    Err(refusal) => self.hindered(&refusal.to_string()),
                    Ok(response) if !response.granted => self.hindered(&response.refusal),
                    Ok(response) => self.granted(asked, &response).await,
                }
                // Once for what was assigned meanwhile; what is refused waits for its turn.
                if std::mem::take(&mut self.again) && self.lacks_cover() {
                    self.renew();
                }
            }
        }
    }

    async fn granted(&mut self, asked: Asked, response: &RenewLeaseResponse) {
        self.covered = response.revision;
        if self.obstacle.take().is_some() {
            tracing::info!("the lease is renewed again");
        }
        // The grant is for the life that asked; the holder of another life ignores it.
        let grant = Grant {
            incarnation: asked.incarnation,
            duration: Duration::from_millis(response.duration_millis),
            revision: response.revision,
        };
        let _ = self.grants.send(Granted { sent: asked.sent, grant }).await;
    }

    fn hindered(&mut self, why: &str) {
        if self.obstacle.as_deref() != Some(why) {
            tracing::info!(why, "the lease is not renewed");
            self.obstacle = Some(why.to_owned());
        }
    }
}
