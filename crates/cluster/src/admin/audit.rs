//! The audit: every change that somebody asked for becomes an event of the cluster, with who, what
//! and how it ended.
//!
//! A request that was sent on to the leader is recorded by the leader alone. An event that cannot
//! be recorded, because there is no leader or too many wait, is in the log of this member only.

use std::sync::Arc;
use std::time::Duration;

use keelson_cluster_core::{Command, EventKind};
use keelson_net::peer_of;
use keelson_types::{News, RefusalReason};
use keelson_wire::Refusal;
use tonic::Request;

use crate::context::Context;

/// Characters of a request that are kept.
const REQUEST_CHARS_MAX: usize = 400;

/// How often an event is proposed, and the pause between.
const TRIES: usize = 5;
const PAUSE: Duration = Duration::from_secs(1);

/// A change that was asked for and has not ended.
pub(crate) struct Asking {
    by: String,
    call: &'static str,
    request: String,
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
        let request = format!("{:?}", request.get_ref());
        let request = request.chars().take(REQUEST_CHARS_MAX).collect();
        Ok(Some(Self { by: peer.to_string(), call, request }))
    }
}

impl Context {
    /// Records how it ended.
    pub(crate) fn audit<T>(self: &Arc<Self>, asking: Option<Asking>, ended: &Result<T, Refusal>) {
        let Some(Asking { by, call, request }) = asking else { return };
        let outcome = match ended {
            Ok(_) => "done".to_owned(),
            // Whoever leads is asked next, and records it.
            Err(refusal) if refusal.reason == RefusalReason::NoLeader => return,
            Err(refusal) => refusal.reason.code().0.to_owned(),
        };
        let member = Some(self.identity.member);
        let kind = EventKind::Reported(News::Asked { by, call: call.into(), request, outcome });
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
