//! Activation at an instant: an operator makes what one copy held then the truth (design §7).
//!
//! Usually the copy lags, so that its store has not replayed what is to be discarded. The word
//! stands in for the lossless proof and for the highest log end, for nothing else: copies are
//! sealed first, earlier actives are fenced (R9), every attempt has its own epoch (R5). The target
//! cuts its log at the instant, keeps what it cuts as salvage, and opens the new epoch there. The
//! receipt covers all that lies behind.
//!
//! Nothing of the discarded timeline is destroyed (review S13): every other copy that may hold some
//! of it is suspended in the very command that binds the target, so the new active never offers it
//! its log, and stays so until an operator releases it. It is no candidate and does not count.
//!
//! An attempt that never came to its opening frame gave nothing up: with the next epoch the
//! suspensions are what they were. One whose opening frame is durable wins by its epoch (R3), also
//! if nobody knows yet whether it was committed; then the next attempt goes on with that copy.
//! Until another copy counts beside it, the target is a candidate although it lags.

use std::collections::{BTreeMap, BTreeSet};

use keelson_types::{
    CopyId, Discard, Epoch, LogEnd, MemberId, OperationId, RefusalReason, Suspension,
};
use serde::{Deserialize, Serialize};

use crate::command::Refusal;
use crate::order::SealReply;
use crate::select::{Candidate, Exclusion, Picture, Selection, SelectionInput, copy_inputs, rank};
use crate::state::Database;

/// Attempts to mount the copy before the operation fails and the database goes on as it was.
pub(crate) const ATTEMPTS_MAX: u32 = 3;

/// An operator's word that an instant of one copy becomes the truth.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ActivateAt {
    /// The member of the copy.
    pub on: MemberId,
    /// The instant: the end of the last frame that is kept.
    pub kept: LogEnd,
    /// The other copies follow at once instead of keeping the discarded timeline.
    pub resync_others: bool,
}

/// An instant that was made the truth, or is being made.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TurnedBack {
    /// The operator's operation.
    pub operation: OperationId,
    /// The copy that was activated at the instant.
    pub copy: CopyId,
    /// The first epoch behind the instant.
    pub epoch: Epoch,
    /// The instant.
    pub kept: LogEnd,
    /// The others follow at once.
    pub resync_others: bool,
    /// Its opening frame was committed.
    pub established: bool,
    /// What was stopped before on the copies that the activation suspended or let go on; empty once
    /// that was put back.
    pub before: BTreeMap<CopyId, Suspension>,
    /// The instant that was the truth before, until this one is.
    #[serde(default)]
    pub former: Option<Box<TurnedBack>>,
}

/// What an activation at an instant changes beside the target.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Turn {
    /// The operator's operation.
    pub operation: OperationId,
    /// What is given up.
    pub discard: Discard,
    /// The others follow at once.
    pub resync_others: bool,
    /// Copies that are suspended as holders of the discarded timeline.
    pub holders: BTreeSet<CopyId>,
}

impl Turn {
    /// The turn of an order in its first epoch, or in a later one that goes on with it.
    fn new(
        input: &SelectionInput<'_>,
        target: CopyId,
        (operation, resync_others): (OperationId, bool),
        discard: Discard,
    ) -> Self {
        let holders = match resync_others {
            true => BTreeSet::new(),
            false => holders(input, target, &discard),
        };
        Self { operation, discard, resync_others, holders }
    }

    /// The turn of an order in the epoch of the attempt.
    pub(crate) fn begin(
        input: &SelectionInput<'_>,
        target: CopyId,
        (operation, order): (OperationId, &ActivateAt),
    ) -> Self {
        let discard = Discard { epoch: input.epoch, kept: order.kept };
        Self::new(input, target, (operation, order.resync_others), discard)
    }

    /// What an ordinary activation goes on with: an earlier attempt opened its epoch, and nobody
    /// knows whether somebody was answered in it.
    pub(crate) fn go_on(input: &SelectionInput<'_>, target: CopyId) -> Option<Self> {
        let turned = input.database.turned_back.as_ref()?;
        if turned.established || !turned.was_opened(input.replies) {
            return None;
        }
        let word = (turned.operation, turned.resync_others);
        Some(Self::new(input, target, word, turned.discard()))
    }

    /// Whether the copy may be in the first rule of the epoch.
    pub(crate) fn lets_count(&self, reply: &SealReply) -> bool {
        !self.discard.covers(reply.end)
    }
}

impl TurnedBack {
    /// What was given up.
    #[must_use]
    pub const fn discard(&self) -> Discard {
        Discard { epoch: self.epoch, kept: self.kept }
    }

    /// Whether a copy holds log behind the instant that belongs to the new timeline.
    #[must_use]
    pub fn was_opened(&self, replies: &[SealReply]) -> bool {
        replies.iter().any(|reply| reply.end.epoch >= self.epoch)
    }

    /// Whether the store of a copy holds what was given up, while another copy holds the log that
    /// went on: mounted with that log, it would have to undo what it cannot.
    pub(crate) fn would_undo(&self, reply: &SealReply, replies: &[SealReply]) -> bool {
        let store = LogEnd { epoch: reply.end.epoch, position: reply.replayed };
        self.discard().covers(store) && self.was_opened(replies)
    }

    /// Whether a copy is a candidate although it lags or was suspended: it is the one that holds
    /// the new timeline.
    pub(crate) fn is_truth(&self, copy: CopyId, reply: Option<&SealReply>) -> bool {
        let opened = || reply.is_some_and(|reply| reply.end.epoch >= self.epoch);
        let former = self.former.as_ref().filter(|_| !self.established);
        (self.copy == copy && (self.established || opened()))
            || former.is_some_and(|former| former.is_truth(copy, reply))
    }
}

/// Copies that may hold some of what is discarded: all but the target and those that say that they
/// do not.
fn holders(input: &SelectionInput<'_>, target: CopyId, discard: &Discard) -> BTreeSet<CopyId> {
    let clean = |id: CopyId| {
        let reply = input.replies.iter().find(|reply| reply.copy == id);
        reply.is_some_and(|r| r.sealed == input.epoch && !discard.covers(r.end))
    };
    let others = input.database.copies.keys().copied().filter(|id| *id != target);
    others.filter(|id| !clean(*id)).collect()
}

/// What an operator's word makes of a selection: the named copy alone, at the instant, whatever
/// others hold. That it lags or is suspended does not speak against it.
#[must_use]
pub fn select_at(input: &SelectionInput<'_>, order: &ActivateAt) -> Selection {
    let copies = copy_inputs(input);
    rank_at(&input.picture(&copies), order)
}

/// [`select_at`] on values alone.
#[must_use]
pub fn rank_at(picture: &Picture<'_>, order: &ActivateAt) -> Selection {
    let named = picture.copies.iter().find(|copy| copy.member == order.on);
    let requested = named.map(|copy| copy.copy);
    let mut selection = rank(&Picture { requested, ..*picture });
    for candidate in &mut selection.candidates {
        let reply = picture.replies.iter().find(|reply| reply.copy == candidate.copy);
        if Some(candidate.copy) == requested {
            judge(candidate, reply, order);
        } else if requested.is_none() {
            candidate.excluded.push(Exclusion::NotRequested);
        }
    }
    selection.candidates.sort_by_key(|candidate| !candidate.excluded.is_empty());
    selection.required_end = order.kept;
    selection.sources.clear();
    selection
}

fn judge(candidate: &mut Candidate, reply: Option<&SealReply>, order: &ActivateAt) {
    use Exclusion as E;
    // A holder may be made the truth again, with what it replayed.
    let stays = |reason: &E| !matches!(reason, E::Lagged | E::Suspended | E::ReplayedBeyond(_));
    candidate.excluded.retain(stays);
    let Some(reply) = reply else { return };
    if reply.replayed > order.kept.position {
        candidate.excluded.push(Exclusion::ReplayedBeyond(reply.replayed));
    }
    if reply.end.position < order.kept.position {
        candidate.excluded.push(Exclusion::LacksInstant);
    }
}

/// Why an order cannot be carried out, from what speaks against its copy.
pub(crate) fn unfit(
    database: &Database,
    (operation, order): (OperationId, &ActivateAt),
    selection: &Selection,
) -> Refusal {
    let copy = database.copy_on(order.on);
    let candidate = selection.candidates.iter().find(|candidate| Some(candidate.copy) == copy);
    let excluded = candidate.map(|candidate| candidate.excluded.as_slice()).unwrap_or_default();
    let reason = match excluded.last() {
        Some(Exclusion::ReplayedBeyond(_) | Exclusion::LacksInstant) => {
            RefusalReason::InstantOutOfReach
        }
        _ => RefusalReason::TargetUnfit,
    };
    let what = match excluded.last() {
        Some(Exclusion::ReplayedBeyond(at)) => format!("its store was replayed up to {at}"),
        Some(Exclusion::LacksInstant) => "its log ends before".to_owned(),
        Some(Exclusion::NoAnswer) => "its member does not answer".to_owned(),
        Some(other) => format!("{other:?}"),
        None => "it did not mount".to_owned(),
    };
    let turned = database.turned_back.as_ref();
    let then = match turned.is_some_and(|turned| turned.operation == operation) {
        true => "whether an attempt was opened before is found out when it answers",
        false => "nothing was given up",
    };
    let (name, kept) = (&database.name, order.kept);
    Refusal::new(reason, format!("{name} cannot be activated at {kept} there ({what}); {then}"))
}
