//! Damage of a copy's files: who noticed it waits, the rest goes on; log is mended from another
//! copy, another store takes the place of a damaged one.

use std::collections::BTreeMap;
use std::time::Duration;

use keelson_copy_core::Event;
use keelson_copy_core::scrub::mend_until;
use keelson_log::{Damage, Evidence};
use keelson_types::{CopyFault, CopyId, CopyRole, LogEnd, MemberId, Position};
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::log_lane::LogJob;
use crate::mend::{self, Mend};
use crate::message::Completion;
use crate::note::{Note, NoteCode};
use crate::owner::Owner;
use crate::rebuild::Doubt;
use crate::scrub::ScrubParts;
use crate::store_lane::StoreJob;

/// First pause after nobody could help; doubled each time, 64 s at most.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// Bytes mended, or why they were not.
pub(crate) type MendResult = Result<u64, String>;

/// What waits for a sound log.
#[derive(Debug, Default)]
pub(super) struct Mending {
    /// Damage at which the log was opened: nothing goes on before it is mended.
    opened_at: Option<Damage>,
    /// The place that is being mended, or is tried again later.
    at: Option<Position>,
    under_way: bool,
    attempts: u32,
    retry_at: Option<Instant>,
    replay: bool,
    waiting: Vec<oneshot::Sender<MendResult>>,
    /// The store is being given up.
    condemning: bool,
    /// Up to where other copies showed to share the log, when that could not be read here.
    shown: BTreeMap<CopyId, Position>,
}

impl Mending {
    pub(super) fn of_log_opened(damage: Option<Damage>) -> Self {
        // Tried as soon as it is known who else has the log.
        let at = damage.map(|damage| damage.position);
        Self { opened_at: damage, at, retry_at: at.map(|_| Instant::now()), ..Self::default() }
    }

    pub(super) fn wake(&self) -> Option<Instant> {
        self.retry_at
    }
}

impl Owner {
    /// Log cannot be read from `at` on; `reply` hears how the mend ended.
    pub(super) fn log_damaged(&mut self, at: Position, reply: Option<oneshot::Sender<MendResult>>) {
        self.mending.waiting.extend(reply);
        if self.mending.under_way {
            return; // Another place: whoever waits reads again and comes back.
        }
        if self.mending.at != Some(at) {
            (self.mending.at, self.mending.attempts) = (Some(at), 0);
            let text = format!("log cannot be read at {at}");
            Note::new(NoteCode::LogDamaged, text).tell(&self.context, &self.shared);
        }
        self.mend();
    }

    /// Another copy has this log up to `matched`, and what it has cannot be read here.
    pub(super) fn log_shown(&mut self, copy: CopyId, matched: Position, damage: Position) {
        self.mending.shown.insert(copy, matched);
        self.log_damaged(damage, None);
    }

    /// The store waits for log that cannot be read.
    pub(super) fn replay_blocked(&mut self, at: Position) {
        self.mending.replay = true;
        self.log_damaged(at, None);
    }

    pub(super) fn mend_if_due(&mut self) {
        if self.mending.retry_at.is_some_and(|at| at <= Instant::now()) && !self.mending.under_way {
            self.mend();
        }
    }

    fn mend(&mut self) {
        self.mending.retry_at = None;
        let (Some(at), Some(files)) = (self.mending.at, &self.files) else { return };
        let (known, table) = (self.known_durable(), self.machine.table());
        let holders = self.holders().into_iter().map(|(member, copy)| {
            let shown = self.mending.shown.get(&copy).copied();
            (member, copy, mend_until(known, shown, table))
        });
        let mend = Mend {
            at,
            table: self.machine.table().clone(),
            log: files.log.clone(),
            holders: holders.collect(),
        };
        self.mending.under_way = true;
        let (context, shared, done) =
            (self.context.clone(), self.shared.clone(), self.done.clone());
        tokio::spawn(async move {
            let result = mend::run(&context, &shared, mend).await;
            // The owner has gone if this fails.
            let _ = done.send(Completion::Mended(result));
        });
    }

    /// How far the log was durable here, for certain; behind it nothing need be mended.
    fn known_durable(&self) -> LogEnd {
        let table = self.machine.table();
        match self.mending.opened_at.map(|damage| damage.evidence) {
            Some(Evidence::Floor(position) | Evidence::LaterFrame { durable: position, .. }) => {
                // The rows behind the damage were cut from the machine's table.
                LogEnd { epoch: self.full_table.epoch_at(position), position }
            }
            _ => {
                let position = self.machine.committed().min(self.machine.durable().position);
                LogEnd { epoch: table.epoch_at(position), position }
            }
        }
    }

    /// The other copies, the active one first.
    fn holders(&self) -> Vec<(MemberId, CopyId)> {
        let Some(assigned) = &self.assigned else { return Vec::new() };
        let active = assigned.assignment.active;
        let others = assigned.assignment.copies.iter().filter(|peer| peer.copy != self.shared.copy);
        let mut holders: Vec<_> = others.map(|peer| (peer.member, peer.copy)).collect();
        holders.sort_by_key(|(_, copy)| Some(*copy) != active);
        holders
    }

    pub(super) fn mended(&mut self, result: MendResult) {
        self.mending.under_way = false;
        // What they hold by now they show again.
        self.mending.shown.clear();
        let at = self.mending.at.unwrap_or_default();
        for reply in self.mending.waiting.drain(..) {
            let _ = reply.send(result.clone());
        }
        match result {
            Ok(bytes) => {
                (self.mending.at, self.mending.attempts) = (None, 0);
                let text = format!("{bytes} bytes from {at} on were fetched");
                Note::new(NoteCode::LogMended, text).tell(&self.context, &self.shared);
                self.go_on_reading();
            }
            Err(_) if at.generation < self.truncation.first.generation => self.mending.at = None,
            Err(why) => {
                let pause = RETRY_PAUSE * 2u32.saturating_pow(self.mending.attempts.min(6));
                self.mending.retry_at = Some(Instant::now() + pause);
                if self.mending.attempts == 0 {
                    Note::new(NoteCode::LogNotMended, format!("{at}: {why}"))
                        .tell(&self.context, &self.shared);
                }
                self.mending.attempts += 1;
            }
        }
    }

    fn go_on_reading(&mut self) {
        if self.mending.opened_at.take().is_some() {
            // Recovery decides anew what the log holds.
            self.reopen_at = Some(Instant::now());
            return;
        }
        if std::mem::take(&mut self.mending.replay)
            && let Some(files) = &self.files
        {
            files.store.push(StoreJob::Replay { to: self.replay_sent, chunks: Vec::new() });
        }
    }

    /// What a scrub of this copy needs.
    pub(super) fn scrub_parts(&self) -> Option<ScrubParts> {
        let files = self.files.clone()?;
        let assigned = self.assigned.as_ref()?;
        // Old on purpose, or stopped: they replay no marker in time.
        let awake = |id: &CopyId| {
            let facts = assigned.others.iter().find(|other| other.copy == *id);
            facts.is_some_and(|o| !o.lagged && o.suspended_since_unix_ms.is_none())
        };
        let others = self.holders().into_iter().filter(|(_, copy)| awake(copy)).collect();
        Some(ScrubParts { files, others, copies: assigned.others.len() + 1 })
    }

    /// The store's files are wrong: it is given up where the log or another copy can make it anew.
    pub(super) fn store_damaged(&mut self, why: String, code: NoteCode) {
        if self.mending.condemning || self.files.is_none() {
            return;
        }
        self.mending.condemning = true;
        Note::new(code, &why).tell(&self.context, &self.shared);
        let role = match self.machine.own_epoch() {
            Some(_) => CopyRole::Active,
            None => CopyRole::Passive,
        };
        let others = match role {
            CopyRole::Active => self.successors(),
            CopyRole::Passive => self.holders().len(),
        };
        let doubt = match code {
            NoteCode::DigestWrong => Doubt::Content,
            _ => Doubt::Files,
        };
        let until = self.shared.replayed.load();
        self.log_job(LogJob::CondemnStore { until, role, others, why, doubt });
    }

    /// Copies that could serve in place of this active: those that take its log.
    fn successors(&self) -> usize {
        let Some(assigned) = &self.assigned else { return 0 };
        let others = assigned.assignment.copies.iter().filter(|peer| {
            let heard = self.reported.contains_key(&peer.copy);
            peer.copy != self.shared.copy && peer.may_count && !peer.suspended && heard
        });
        others.count()
    }

    /// An active leaves its place to another copy first: its epoch ends, nothing is lost, and it is
    /// no candidate until its store is there again.
    pub(super) fn store_condemned(&mut self, why: String, given_up: bool) {
        self.mending.condemning = false;
        if given_up {
            self.event(Event::StoreFailed { fault: CopyFault::StoreDamaged(why) });
            self.reopen_at = Some(Instant::now());
        } else {
            tracing::error!(database = %self.shared.name, %why, "a damaged store is left as it is");
            if self.machine.own_epoch().is_none() {
                self.event(Event::StoreFailed { fault: CopyFault::StoreDamaged(why) });
            }
        }
    }
}
