//! Which seeds run on this member: exactly those that consensus orders, one per database.
//!
//! A seed that is not ordered any more is stopped, and what it left is cleaned up behind it, by
//! what its record says. Also at the first sight of a database in a life of the process, since the
//! end may have been heard of, and not finished, in an earlier one.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use keelson_copy_core::seed::{SourceCandidate, Standing};
use keelson_types::{CopyId, DatabaseId, OperationId};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::blocking;
use super::place::SeedFiles;
use super::target::{Target, close};
use crate::assignment::Assignment;
use crate::context::{CopyHandle, PlaneContext};
use crate::message::Message;

/// Pause before a clean-up is tried again: the new copy is opened meanwhile.
const CLEAN_PAUSE: Duration = Duration::from_secs(1);
/// How often it is tried; the next start tries again.
const CLEAN_TRIES: u32 = 120;

struct Running {
    operation: OperationId,
    copy: CopyId,
    candidates: watch::Sender<Vec<SourceCandidate>>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

/// What a seed left is being removed.
struct Cleaning {
    stop: CancellationToken,
    task: JoinHandle<()>,
}

/// The seeds of a member; owned by who follows the control process.
pub(crate) struct Targets {
    context: Arc<PlaneContext>,
    running: BTreeMap<DatabaseId, Running>,
    /// Behind the last seed of a database; the next one waits for its end, for both go by the one
    /// record that there is.
    cleaning: BTreeMap<DatabaseId, Cleaning>,
    seen: BTreeSet<DatabaseId>,
}

impl Targets {
    pub(crate) fn new(context: Arc<PlaneContext>) -> Self {
        let (running, cleaning) = (BTreeMap::new(), BTreeMap::new());
        Self { context, running, cleaning, seen: BTreeSet::new() }
    }

    /// What consensus says of a database now.
    pub(crate) fn assigned(&mut self, handle: &CopyHandle, assignment: &Assignment) {
        let database = assignment.database;
        let wanted = assignment.seed.as_ref().map(|order| (order.operation, assignment.copy));
        let running = self.running.get(&database);
        if running.is_some() && running.map(|seed| (seed.operation, seed.copy)) == wanted {
            if let Some(seed) = running {
                // The task ends only after it was stopped.
                let _ = seed.candidates.send(self.candidates(assignment));
            }
            return;
        }
        let first = self.seen.insert(database);
        let before = self.running.remove(&database);
        let ended = before.map(stop);
        // A copy whose index is fetched goes on as it is.
        let seeded = assignment.seed.as_ref().is_some_and(|order| order.scope.makes_copy());
        if handle.shared.seeded.swap(seeded, Ordering::Relaxed) != seeded {
            let _ = handle.mailbox.try_send(Message::SeedStanding);
        }
        let Some(order) = assignment.seed.clone() else {
            if ended.is_some() || first {
                self.clean_up(database, Some(assignment.copy), ended);
            }
            return;
        };
        let (candidates, news) = watch::channel(self.candidates(assignment));
        let stop = CancellationToken::new();
        let operation = order.operation;
        let (context, handle) = (self.context.clone(), handle.clone());
        let target = Target::new(context, handle, order, news, stop.clone());
        let cleaned = self.stop_cleaning(database);
        let task = tokio::spawn(async move {
            for ended in [ended, cleaned].into_iter().flatten() {
                // One that panicked has ended, too.
                let _ = ended.await;
            }
            target.run().await;
        });
        let copy = assignment.copy;
        self.running.insert(database, Running { operation, copy, candidates, stop, task });
    }

    /// The database has no copy here any more.
    pub(crate) fn forgotten(&mut self, database: DatabaseId) {
        self.seen.remove(&database);
        let ended = self.running.remove(&database).map(stop);
        if ended.is_some() {
            self.clean_up(database, None, ended);
        }
    }

    fn candidates(&self, assignment: &Assignment) -> Vec<SourceCandidate> {
        let context = &self.context;
        let site = context.member(context.member).map(|peer| peer.site);
        let others = &assignment.assigned.others;
        let active = assignment.assigned.assignment.active;
        let candidate = |other: &crate::owner::OtherFacts| {
            let peer = context.member(other.member);
            let standing = match &peer {
                _ if other.leaving => Standing::Leaving,
                _ if other.suspended_since_unix_ms.is_some() => Standing::Suspended,
                _ if other.lagged => Standing::Lagged,
                _ if other.cut_off => Standing::CutOff,
                Some(peer) if peer.alive => Standing::Fit,
                _ => Standing::Away,
            };
            SourceCandidate {
                member: other.member,
                copy: other.copy,
                active: active == Some(other.copy),
                near: peer.map(|peer| peer.site) == site,
                standing,
            }
        };
        others.iter().map(candidate).collect()
    }

    fn clean_up(
        &mut self,
        database: DatabaseId,
        assigned: Option<CopyId>,
        ended: Option<JoinHandle<()>>,
    ) {
        let before = self.stop_cleaning(database);
        let (context, stop) = (self.context.clone(), CancellationToken::new());
        let stopped = stop.clone();
        let task = tokio::spawn(async move {
            for ended in [ended, before].into_iter().flatten() {
                let _ = ended.await;
            }
            clean_up(&context, database, assigned, &stopped).await;
        });
        self.cleaning.insert(database, Cleaning { stop, task });
    }

    fn stop_cleaning(&mut self, database: DatabaseId) -> Option<JoinHandle<()>> {
        let cleaning = self.cleaning.remove(&database)?;
        cleaning.stop.cancel();
        Some(cleaning.task)
    }
}

/// Stops a seed; the handle ends when it has let go of its files.
fn stop(seed: Running) -> JoinHandle<()> {
    seed.stop.cancel();
    seed.task
}

/// Ends between two tries if it is stopped: what is left then is left to the next seed.
async fn clean_up(
    context: &Arc<PlaneContext>,
    database: DatabaseId,
    assigned: Option<CopyId>,
    stop: &CancellationToken,
) {
    let files = SeedFiles::new(context.places.clone(), database);
    for _ in 0..CLEAN_TRIES {
        if stop.is_cancelled() {
            return;
        }
        let (files, opener) = (files.clone(), context.opener.0.clone());
        let cleaned = blocking(&context.seed_pools.chores, move || {
            if files.is_clean() {
                return Ok((None, true));
            }
            let record = files.record()?;
            let done = files.clean_up(assigned, None, &*opener)?;
            Ok::<_, super::place::PlaceError>((record, done))
        });
        match cleaned.await {
            Ok(Ok((record, true))) => {
                if let Some(record) = record
                    && let Some((member, ..)) = record.staged.checkpoint()
                {
                    close(context, member, database, record.operation);
                }
                return;
            }
            Ok(Ok((_, false))) => {}
            Ok(Err(error)) => tracing::warn!(%database, why = error.text, "seed clean-up"),
            Err(why) => tracing::warn!(%database, why, "seed clean-up"),
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(CLEAN_PAUSE) => {}
        }
    }
}
