//! The audit: every change that somebody asked for becomes an event of the cluster and a line in
//! the audit log of the member that carried it out, with who, what and how it ended.
//!
//! A change that has begun ends, and is recorded, also when whoever asked for it has gone: half a
//! maintenance would be worse than none. A what-if is a question.
//!
//! A request that was sent on to the leader is recorded by the leader alone. An event that cannot
//! be recorded, because there is no leader or too many wait, is in the files of this member only.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use keelson_cluster_core::{Command, EventKind};
use keelson_net::{line_of, peer_of};
use keelson_types::{AuditLine, News, RefusalReason};
use keelson_wire::Refusal;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::Request;
use tracing::Instrument;

use crate::context::Context;

/// How often an event is proposed, and the pause between.
const TRIES: usize = 5;
const PAUSE: Duration = Duration::from_secs(1);

/// A change that was asked for and has not ended.
pub(crate) struct Asking {
    by: String,
    line: AuditLine,
}

impl Asking {
    /// Notes who asks for what; `None` for a question.
    ///
    /// # Errors
    /// `forbidden` if the caller showed no certificate.
    pub(crate) fn of<T: std::fmt::Debug>(
        request: &Request<T>,
        change: Option<&'static str>,
    ) -> Result<Option<Self>, Refusal> {
        let peer = peer_of(request)?;
        let Some(call) = change else { return Ok(None) };
        tracing::info!(%peer, change = call, "asked by an operator");
        let line = AuditLine { call: call.into(), ..line_of(peer) };
        let line = line.with_arguments(&format!("{:?}", request.get_ref()));
        Ok(Some(Self { by: peer.to_string(), line }))
    }
}

/// Carries `work` out even if whoever waits for it has gone, unless the member stops.
async fn to_its_end<T: Send + 'static>(
    tasks: &TaskTracker,
    stop: CancellationToken,
    work: impl Future<Output = Result<T, Refusal>> + Send + 'static,
) -> Result<T, Refusal> {
    let work = work.in_current_span();
    let carried_out = tasks.spawn(async move {
        tokio::select! {
            biased;
            () = stop.cancelled() => {
                Err(Refusal::new(RefusalReason::ConnectionLost, "this member stops"))
            }
            ended = work => ended,
        }
    });
    let panicked = |_| Refusal::new(RefusalReason::Internal, "carrying it out panicked");
    carried_out.await.map_err(panicked)?
}

impl Context {
    /// Answers a question; carries a change out in a task of its own, and records how it ended.
    pub(crate) async fn see_through<T: Send + 'static>(
        self: &Arc<Self>,
        asking: Option<Asking>,
        work: impl Future<Output = Result<T, Refusal>> + Send + 'static,
    ) -> Result<T, Refusal> {
        let Some(asking) = asking else { return work.await };
        let (context, stop) = (self.clone(), self.stop.clone());
        to_its_end(&self.tasks, stop, async move {
            let ended = work.await;
            context.record(asking, &ended);
            ended
        })
        .await
    }

    /// Records how it ended.
    fn record<T>(self: &Arc<Self>, asking: Asking, ended: &Result<T, Refusal>) {
        let Asking { by, line } = asking;
        let outcome = match ended {
            Ok(_) => "done".to_owned(),
            // Whoever leads is asked next, and records it.
            Err(refusal) if refusal.reason == RefusalReason::NoLeader => return,
            Err(refusal) => refusal.reason.code().0.to_owned(),
        };
        let line = AuditLine { outcome, ..line };
        self.audit.note(line.clone());
        let AuditLine { call, arguments: request, outcome, .. } = line;
        let member = Some(self.identity.member);
        let kind = EventKind::Reported(News::Asked { by, call, request, outcome });
        let command = Command::AppendEvent { member, database: None, kind };
        let context = self.clone();
        self.spawn(async move {
            for _ in 0..TRIES {
                match context.propose(command.clone()).await {
                    Ok(_) => return,
                    Err(refusal) => tracing::debug!(%refusal, "an event is told again"),
                }
                tokio::time::sleep(PAUSE).await;
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn what_was_begun_ends_although_nobody_waits_for_it_any_more() {
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let (begun, begins) = oneshot::channel();
        let (go_on, goes_on) = oneshot::channel::<()>();
        let (done, ends) = oneshot::channel();
        let work = async move {
            begun.send(()).unwrap();
            goes_on.await.unwrap();
            done.send(()).unwrap();
            Ok(())
        };
        let waiting = to_its_end(&tasks, stop, work);
        tokio::select! {
            _ = waiting => panic!("it waits for a word"),
            begins = begins => begins.unwrap(),
        }
        go_on.send(()).unwrap();
        ends.await.expect("it went on without its caller");
    }

    #[tokio::test]
    async fn a_member_that_stops_ends_what_it_carries_out() {
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        stop.cancel();
        let refusal = to_its_end::<()>(&tasks, stop, std::future::pending()).await.unwrap_err();
        assert_eq!(refusal.reason, RefusalReason::ConnectionLost);
    }
}
