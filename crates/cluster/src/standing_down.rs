//! A leader under maintenance lets another voter lead (F124).
//!
//! The consensus library cannot hand leadership over. So the leader keeps silent until the others
//! elect one of them, which takes one election, as its loss would; databases go on under their
//! leases or are held for that long. Silent means that it also records nothing: an entry would tell
//! the others that it lives, and give it a log that is newer than theirs. It votes and does not
//! stand. If nobody else was elected after some elections it may lead again, since whoever has the
//! newest log must be able to; then it stands down again, after a pause that doubles.
//!
//! Order: first the databases leave, then the leadership, so that the moves are made by the leader
//! that was asked for them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use keelson_cluster_core::{Command, EventKind, Member};

use crate::clock;
use crate::context::Context;

/// How often it is looked whether this member is to stand down.
const LOOK: Duration = Duration::from_secs(1);
/// Databases that cannot leave keep the leadership for so long only.
const PATIENCE: Duration = Duration::from_secs(30);
/// Elections that a silence may take.
const ELECTIONS: u32 = 5;
/// Pause after a silence, at first and at most.
const PAUSE: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(3_600));

/// Runs until the control plane stops.
pub(crate) async fn run(context: Arc<Context>) {
    let mut pause = PAUSE.0;
    // Of which maintenance, and until when it is not tried again.
    let mut rests: Option<(u64, Instant)> = None;
    loop {
        tokio::time::sleep(LOOK).await;
        let maintenance = context.own_member().and_then(|member| member.maintenance);
        let Some(since) = maintenance.map(|maintenance| maintenance.since_unix_ms) else {
            continue;
        };
        match rests {
            Some((of, until)) if of == since && Instant::now() < until => continue,
            Some((of, _)) if of == since => {}
            _ => pause = PAUSE.0,
        }
        if context.is_leader() && context.may_stand_down() {
            context.stand_down().await;
            rests = Some((since, Instant::now() + pause));
            pause = (pause * 2).min(PAUSE.1);
        }
    }
}

impl Context {
    /// Whether its databases are gone, or had their time, and somebody else may lead.
    fn may_stand_down(&self) -> bool {
        let here = self.identity.member;
        let voters: Vec<_> = {
            let metrics = self.raft.server_metrics();
            let metrics = metrics.borrow();
            metrics.membership_config.voter_ids().collect()
        };
        self.applied.read(|state| {
            let fit = |member: &Member| {
                member.config.id != here
                    && voters.contains(&member.config.node)
                    && member.maintenance.is_none()
            };
            let maintenance = state.members.get(&here).and_then(|m| m.maintenance.as_ref());
            let since = maintenance.map_or(0, |maintenance| maintenance.since_unix_ms);
            let waited = Duration::from_millis(clock::unix_millis().saturating_sub(since));
            let left = state.assignments(here).next().is_none();
            (left || waited >= PATIENCE) && state.members.values().any(fit)
        })
    }

    /// Waits while this member keeps silent, which is a few elections at most.
    pub(crate) async fn may_record(&self) {
        // The sender lives as long as the context.
        let _ = self.silent.subscribe().wait_for(|silent| !silent).await;
    }

    async fn stand_down(self: &Arc<Self>) {
        let member = Some(self.identity.member);
        let kind = EventKind::LeaderStoodDown;
        let told = self.propose_here(Command::AppendEvent { member, database: None, kind }).await;
        if let Err(refusal) = told {
            // Without a majority there is nobody to stand down for.
            return tracing::info!(%refusal, "the leadership is kept");
        }
        tracing::info!("under maintenance: another member is to lead");
        let _silence = Silence::begin(self);
        let limit = self.timings.election_max * 2 * ELECTIONS;
        let mut server = self.raft.server_metrics();
        let over = server
            .wait_for(|metrics| metrics.current_leader.is_some_and(|leader| leader != self.node));
        if tokio::time::timeout(limit, over).await.is_err() {
            tracing::info!("nobody else was elected: this member goes on leading");
        }
    }
}

/// No heartbeats, no records and no candidacy while it lives, however it ends.
struct Silence<'a>(&'a Context);

impl<'a> Silence<'a> {
    fn begin(context: &'a Context) -> Self {
        let silence = Self(context);
        silence.set(true);
        silence
    }

    fn set(&self, silent: bool) {
        self.0.silent.send_replace(silent);
        let settings = self.0.raft.runtime_config();
        settings.heartbeat(!silent);
        settings.elect(!silent);
    }
}

impl Drop for Silence<'_> {
    fn drop(&mut self) {
        self.set(false);
    }
}
