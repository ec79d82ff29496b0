//! Rehearsals of switchovers (`switchover --rehearse`): which copy may rehearse, how long the pause
//! of a real move would be, and the dated result that its copy keeps.
//!
//! A rehearsal makes all checks of the move, lets the member of the target open a fork of its copy
//! and read from it, and changes nothing but the result: one per copy, replaced by the next one,
//! gone with the copy. It is an operation that the leader carries out; one that a leader left
//! behind is ended by its successor, since nobody else knows how far it was.

use std::collections::BTreeSet;
use std::time::Duration;

use keelson_types::{
    CopyId, DatabaseId, LogEnd, MemberId, MountIntent, OperationId, RefusalReason, Refused,
};
use serde::{Deserialize, Serialize};

use crate::command::Refusal;
use crate::operation::{Operation, OperationKind};
use crate::state::{ClusterState, CopyKind, Database};

/// How long a rehearsal may take unless somebody says otherwise.
pub const REHEARSAL_DEADLINE: Duration = Duration::from_mins(1);
/// How long one may take at most.
pub const REHEARSAL_DEADLINE_MAX: Duration = Duration::from_mins(10);
/// Bytes of a message that a result keeps.
pub const REHEARSAL_MESSAGE_BYTES_MAX: usize = 200;

/// Rates that are assumed where nothing better is known: a slow disk, in bytes per second.
const COPY_RATE: u64 = 64 * 1024 * 1024;
const REPLAY_RATE: u64 = 32 * 1024 * 1024;
/// Less work than this tells no rate.
const TELLING_BYTES: u64 = 1024 * 1024;
/// Consensus writes, syncs of a log and round trips that a move takes one after another while
/// nobody serves: allocate and bind; the seal, the opening frame here and there; seal, mount,
/// opening frame.
const CONSENSUS_WRITES: u64 = 2;
const LOG_SYNCS: u64 = 3;
const ROUND_TRIPS: u64 = 3;

/// The result of a rehearsal, as its copy keeps it. A few hundred bytes.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Rehearsal {
    /// When it ended: wall clock of the command that recorded it, in Unix milliseconds.
    pub unix_ms: u64,
    /// How long it took, in milliseconds.
    pub took_ms: u64,
    /// Why it failed; nothing if it passed.
    pub failure: Option<Refusal>,
    /// Where the fork stood; zero if there was none.
    pub at: LogEnd,
    /// Keys that were read from it and compared.
    pub keys: u64,
    /// How long nobody would be served by a real move, in milliseconds; 0 if it failed.
    pub pause_ms: u64,
}

impl Rehearsal {
    /// A result that failed; the command that records it sets the time.
    #[must_use]
    pub fn failed(failure: Refusal, took: Duration) -> Self {
        let took_ms = millis(took);
        Self { unix_ms: 0, took_ms, failure: Some(failure), at: LogEnd::ZERO, keys: 0, pause_ms: 0 }
    }

    /// In one line, for the operation.
    #[must_use]
    pub fn sentence(&self) -> String {
        match &self.failure {
            Some(failure) => failure.message.clone(),
            None => format!(
                "passed at {}: {} keys read and right, pause of a move about {} ms",
                self.at.position, self.keys, self.pause_ms
            ),
        }
    }

    /// With a message that is not too long to be kept.
    pub(crate) fn bounded(mut self) -> Self {
        if let Some(failure) = &mut self.failure {
            let most = failure.message.len().min(REHEARSAL_MESSAGE_BYTES_MAX);
            let end = (0..=most).rev().find(|end| failure.message.is_char_boundary(*end));
            failure.message.truncate(end.unwrap_or(0));
        }
        self
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// The deadline that was asked for; zero means [`REHEARSAL_DEADLINE`].
///
/// # Errors
/// `bad_argument` beyond [`REHEARSAL_DEADLINE_MAX`].
pub fn deadline(asked: Duration) -> Result<Duration, Refused> {
    match asked {
        Duration::ZERO => Ok(REHEARSAL_DEADLINE),
        asked if asked <= REHEARSAL_DEADLINE_MAX => Ok(asked),
        _ => Err(Refused::bad_argument("a rehearsal may take 10 minutes at most")),
    }
}

/// The copy on `member` that is to rehearse, if it may: what no skip flag helps.
///
/// # Errors
/// `dismounted`, `unknown_copy`, `bad_argument` for the active copy itself, `suspended`,
/// `seed_in_progress`, `target_unfit` for one that lags, leaves or misses log, `precondition` while
/// another rehearsal of the database runs.
pub fn check_rehearsal(
    state: &ClusterState,
    database: &Database,
    member: MemberId,
) -> Result<CopyId, Refusal> {
    let refuse = |reason, message: String| Err(Refusal::new(reason, message));
    let named = state.members.get(&member).map(|member| member.config.name.to_string());
    let (name, on) = (&database.name, named.unwrap_or_else(|| member.to_string()));
    if database.intent == MountIntent::Dismounted {
        return refuse(RefusalReason::Dismounted, format!("{name} is dismounted"));
    }
    let found = database.copy_on(member).and_then(|id| Some((id, database.copies.get(&id)?)));
    let Some((id, copy)) = found else {
        return refuse(RefusalReason::UnknownCopy, format!("{on} holds no copy of {name}"));
    };
    if database.target == Some(id) {
        let what =
            format!("{name} is active on {on} already; rehearse on a member of another copy");
        return refuse(RefusalReason::BadArgument, what);
    }
    if copy.is_remade() {
        let what = format!("{name}@{on} is being seeded");
        return refuse(RefusalReason::SeedInProgress, what);
    }
    if copy.is_stopped() {
        let why = &copy.suspension.comment;
        let why = if why.is_empty() { String::new() } else { format!(": {why}") };
        return refuse(RefusalReason::Suspended, format!("{name}@{on} is suspended{why}"));
    }
    let unfit = match copy {
        copy if copy.kind == CopyKind::Lagged => Some("lags: a move would activate no such copy"),
        copy if copy.leaving => Some("is being removed"),
        copy if copy.cut_off => Some("misses log that is gone; it needs a seed"),
        _ => None,
    };
    if let Some(why) = unfit {
        return refuse(RefusalReason::TargetUnfit, format!("{name}@{on} {why}"));
    }
    if let Some(other) = running(state, database.id).next() {
        let what = format!("another rehearsal of {name} runs (operation {})", other.id);
        return refuse(RefusalReason::Precondition, what);
    }
    Ok(id)
}

/// The rehearsals of a database that run.
pub(crate) fn running(state: &ClusterState, id: DatabaseId) -> impl Iterator<Item = &Operation> {
    let of = move |operation: &&Operation| {
        let kind = &operation.kind;
        matches!(kind, OperationKind::Rehearsal { database, .. } if *database == id)
            && !operation.is_finished()
    };
    state.operations.values().filter(of)
}

/// The rehearsals that run by the state, but that this leader does not carry out.
#[must_use]
pub fn orphaned(
    state: &ClusterState,
    carried_out: &BTreeSet<OperationId>,
) -> Vec<(OperationId, DatabaseId, CopyId)> {
    let running = state.operations.values().filter(|operation| !operation.is_finished());
    let orphaned = running.filter_map(|operation| match operation.kind {
        OperationKind::Rehearsal { database, copy, .. } if !carried_out.contains(&operation.id) => {
            Some((operation.id, database, copy))
        }
        _ => None,
    });
    orphaned.collect()
}

/// What is said of one that its leader left behind.
#[must_use]
pub fn orphan_ends() -> Refusal {
    let what = "the member that led the cluster ended or was cut off meanwhile; rehearse again";
    Refusal::new(RefusalReason::NoLeader, what)
}

/// How far a log or a store went on during the rehearsal.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Advance {
    /// Bytes of log.
    pub bytes: u64,
    /// In this time.
    pub micros: u64,
    /// There was more to do all the time, so it was as fast as it can be; else as fast as log came.
    pub busy: bool,
}

impl Advance {
    /// Of work that was done as fast as possible. A little of it says nothing of the rate.
    #[must_use]
    pub const fn of_work(bytes: u64, micros: u64) -> Self {
        Self { bytes, micros, busy: bytes >= TELLING_BYTES }
    }

    /// Bytes per second that it can do: what it did while it was busy, else at least what is
    /// assumed of any machine.
    fn rate(self, assumed: u64) -> u64 {
        let did = u128::from(self.bytes) * 1_000_000 / u128::from(self.micros.max(1));
        let did = u64::try_from(did).unwrap_or(u64::MAX);
        let rate = if self.busy && self.micros > 0 { did } else { did.max(assumed) };
        rate.max(1)
    }
}

/// What the pause of a move depends on, measured while it was rehearsed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PauseInput {
    /// Log that the target does not have.
    pub copy_queue_bytes: u64,
    /// Log that it has and its store does not.
    pub replay_queue_bytes: u64,
    /// How fast it took log.
    pub copied: Advance,
    /// How fast its store replays.
    pub replayed: Advance,
    /// One write to the consensus log.
    pub consensus_write_micros: u64,
    /// A sync of the target's log, the mean of late; 0 if it made none.
    pub log_sync_micros: u64,
    /// A question to the target and its answer.
    pub round_trip_micros: u64,
}

/// How long nobody would be served, by its parts, in microseconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Pause {
    /// The new epoch and its target are recorded.
    pub consensus: u64,
    /// Copies are sealed, the opening frame goes into the logs.
    pub logs: u64,
    /// The rest of the log comes over.
    pub copy: u64,
    /// The rest of the log is replayed.
    pub replay: u64,
}

impl Pause {
    /// All of it, in begun milliseconds.
    #[must_use]
    pub const fn millis(&self) -> u64 {
        let sum = self.consensus.saturating_add(self.logs).saturating_add(self.copy);
        sum.saturating_add(self.replay).div_ceil(1_000)
    }
}

/// Estimates the pause of a move. New writes are held meanwhile, so queues do not grow; log that
/// comes over is replayed, too.
#[must_use]
pub fn pause(input: &PauseInput) -> Pause {
    let time = |bytes: u64, rate: u64| {
        u64::try_from(u128::from(bytes) * 1_000_000 / u128::from(rate)).unwrap_or(u64::MAX)
    };
    let (copied, replayed) = (input.copied.rate(COPY_RATE), input.replayed.rate(REPLAY_RATE));
    let to_replay = input.replay_queue_bytes.saturating_add(input.copy_queue_bytes);
    let (sync, trip) = (input.log_sync_micros, input.round_trip_micros);
    Pause {
        consensus: input.consensus_write_micros.saturating_mul(CONSENSUS_WRITES),
        logs: sync.saturating_mul(LOG_SYNCS).saturating_add(trip.saturating_mul(ROUND_TRIPS)),
        copy: time(input.copy_queue_bytes, copied),
        replay: time(to_replay, replayed),
    }
}

#[cfg(test)]
mod tests;
