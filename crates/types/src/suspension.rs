//! Suspension of a copy as a value: what is stopped, by whom, why, since when and until when.
//!
//! Two things can be stopped: *replication* (copying and replay) and *activation* (automatic
//! activation; copying and replay go on). Each has its own start and end, since a resume may clear
//! one and keep the other (F44). A plain suspend stops both, and what stops activation then goes
//! with replication when the system lets it go on; a *block* of activation that an operator set by
//! itself stays (F25), until an operator lifts it. It is part of the configuration of a copy in
//! consensus, so it survives restarts, holds while the member is down, and the active drops the
//! copy from its commit rule at once (R1). Ends are wall-clock times: they are an operator's
//! appointment, and a clock that jumps moves them.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{Discard, Refused, SUSPEND_COMMENT_CHARS_MAX};

#[cfg(test)]
mod tests;

/// Longest time of a `suspend --for`: 365 days.
pub const SUSPEND_FOR_MAX: Duration = Duration::from_hours(365 * 24);

/// From when to when something is stopped.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Stop {
    /// Unix milliseconds.
    pub since_unix_ms: u64,
    /// Unix milliseconds at which it ends by itself; nothing for "until resumed".
    pub until_unix_ms: Option<u64>,
}

impl Stop {
    fn is_over(&self, now_unix_ms: u64) -> bool {
        self.until_unix_ms.is_some_and(|until| until <= now_unix_ms)
    }
}

/// Who stopped replication (F49, action initiator).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SuspendedBy {
    /// An operator.
    #[default]
    Operator,
    /// The system, for a fault that does not heal by itself: the copy is FailedAndSuspended.
    Fault,
    /// The system, because the copy holds a timeline that an activation at an instant discarded
    /// (review S13). It may be the last holder, so an ordinary resume is refused.
    DiscardedTimeline,
}

/// A timeline that an activation at an instant discarded, and that a suspended copy holds still.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct HeldTimeline {
    /// What was discarded.
    pub discard: Discard,
    /// When, in Unix milliseconds: its retention counts from here.
    pub since_unix_ms: u64,
    /// The end of its retention was told.
    #[serde(default)]
    pub told: bool,
}

/// Timelines that one copy may hold at a time; of more, the newest ones are remembered.
pub const HELD_TIMELINES_MAX: usize = 8;

/// What is stopped on a copy. The default is nothing.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Suspension {
    /// Copying and replay are stopped.
    pub replication: Option<Stop>,
    /// The copy is no automatic candidate, because an operator blocked that by itself.
    pub activation: Option<Stop>,
    /// The same as the other half of a plain suspend.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub along: Option<Stop>,
    /// Who stopped replication, or activation if only that is stopped.
    pub by: SuspendedBy,
    /// Why; at most [`SUSPEND_COMMENT_CHARS_MAX`] characters.
    pub comment: String,
    /// Why the block was set, when another comment is in front of it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub block_comment: String,
    /// Discarded timelines that the copy holds, oldest first, at most [`HELD_TIMELINES_MAX`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub held: Vec<HeldTimeline>,
}

/// What a request to suspend or resume meets.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SuspendFacts {
    /// The copy is the active one.
    pub active: bool,
    /// The copy is being seeded; the seed itself keeps it suspended.
    pub seeding: bool,
    /// Wall clock, Unix milliseconds.
    pub now_unix_ms: u64,
}

/// A request to suspend.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct SuspendRequest {
    /// Block automatic activation only; copying and replay go on.
    pub activation_only: bool,
    /// Why.
    pub comment: String,
    /// End it after this time.
    pub lasting: Option<Duration>,
}

/// A request to resume.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct ResumeRequest {
    /// Keep the activation block.
    pub replication_only: bool,
    /// The operator gives the discarded timeline up that this copy holds.
    pub release_discarded: bool,
    /// Also if no other copy holds it and its retention is not over (S13).
    #[serde(default)]
    pub before_retention: bool,
}

impl Suspension {
    /// Nothing is stopped.
    pub const NONE: Self = Self {
        replication: None,
        activation: None,
        along: None,
        by: SuspendedBy::Operator,
        comment: String::new(),
        block_comment: String::new(),
        held: Vec::new(),
    };

    /// The suspension after an operator's request. A repeated request renews comment and end and
    /// keeps the start.
    ///
    /// # Errors
    /// `precondition` for an active copy or one being seeded, `bad_argument` for a comment over 512
    /// characters or a time of zero or over a year.
    pub fn suspend(&self, request: &SuspendRequest, facts: &SuspendFacts) -> Result<Self, Refused> {
        refuse_suspend(facts)?;
        check_comment(&request.comment)?;
        let until_unix_ms = end_of(request.lasting, facts.now_unix_ms)?;
        let stop = |old: Option<Stop>| {
            let since_unix_ms = old.map_or(facts.now_unix_ms, |stop| stop.since_unix_ms);
            Some(Stop { since_unix_ms, until_unix_ms })
        };
        let mut after = Self { comment: request.comment.clone(), ..self.clone() };
        // What the system suspended stays so: an operator's comment must not turn it into
        // something that an ordinary resume, or the end of a time, sets going again.
        let by_system = self.replication.is_some() && self.by != SuspendedBy::Operator;
        if request.activation_only || by_system {
            after.activation = stop(self.activation);
            after.block_comment.clone_from(&request.comment);
        } else {
            (after.replication, after.along) = (stop(self.replication), stop(self.along));
        }
        if !by_system {
            after.by = SuspendedBy::Operator;
        }
        Ok(after)
    }

    /// The suspension after the system stopped replication, with the fault or receipt as comment
    /// (cut to the bound). It has no end.
    #[must_use]
    pub fn suspended_by_system(&self, by: SuspendedBy, comment: &str, now_unix_ms: u64) -> Self {
        let since_unix_ms = self.replication.map_or(now_unix_ms, |stop| stop.since_unix_ms);
        Self {
            replication: Some(Stop { since_unix_ms, until_unix_ms: None }),
            by: if self.by == SuspendedBy::DiscardedTimeline { self.by } else { by },
            comment: comment.chars().take(SUSPEND_COMMENT_CHARS_MAX).collect(),
            ..self.clone()
        }
    }

    /// The suspension of a copy that from now on holds what was discarded, and what it held before.
    #[must_use]
    pub fn holding(&self, discard: Discard, comment: &str, now_unix_ms: u64) -> Self {
        let by = SuspendedBy::DiscardedTimeline;
        let mut suspension = self.suspended_by_system(by, comment, now_unix_ms);
        suspension.held.retain(|held| held.discard.epoch != discard.epoch);
        suspension.held.push(HeldTimeline { discard, since_unix_ms: now_unix_ms, told: false });
        let surplus = suspension.held.len().saturating_sub(HELD_TIMELINES_MAX);
        suspension.held.drain(..surplus);
        suspension
    }

    /// The suspension after an operator's resume: nothing, or the activation block alone. Resuming
    /// what is not suspended changes nothing. A copy that is still bad is suspended again by the
    /// system afterwards.
    ///
    /// # Errors
    /// `precondition` for a copy being seeded, and for a holder of a discarded timeline unless the
    /// request releases it.
    pub fn resume(&self, request: &ResumeRequest, facts: &SuspendFacts) -> Result<Self, Refused> {
        if facts.seeding {
            let text = "the copy is being seeded; it resumes when the seed ends, or is cancelled";
            return Err(Refused::precondition(text));
        }
        if self.by == SuspendedBy::DiscardedTimeline && !request.release_discarded {
            let text = "the copy holds a discarded timeline and may be the last to do so; \
                        release it to let the copy follow the active again";
            return Err(Refused::precondition(text));
        }
        if !request.replication_only {
            return Ok(Self::NONE);
        }
        // The operator wants the other half of a plain suspend to stay, by itself.
        let block = self.stops_activation();
        let comment = if self.activation.is_some() { &self.block_comment } else { &self.comment };
        Ok(Self::blocked(block, comment))
    }

    /// What is left when the system lets replication go on, after a seed or for another try: the
    /// block that an operator set by itself.
    #[must_use]
    pub fn when_replication_goes_on(&self) -> Self {
        Self::blocked(self.activation, &self.block_comment)
    }

    /// The same for a copy that takes the place of this one: it holds no discarded timeline.
    #[must_use]
    pub fn of_another_copy(&self) -> Self {
        let by = match self.by {
            SuspendedBy::DiscardedTimeline => SuspendedBy::Operator,
            by => by,
        };
        Self { by, held: Vec::new(), ..self.clone() }
    }

    fn blocked(activation: Option<Stop>, comment: &str) -> Self {
        match activation {
            None => Self::NONE,
            Some(_) => {
                let comment = comment.to_owned();
                Self { activation, block_comment: comment.clone(), comment, ..Self::NONE }
            }
        }
    }

    /// Whether the copy is no automatic candidate, for whatever reason, and until when.
    #[must_use]
    pub fn stops_activation(&self) -> Option<Stop> {
        let end = |stop: &Stop| stop.until_unix_ms.unwrap_or(u64::MAX);
        [self.activation, self.along].into_iter().flatten().max_by_key(end)
    }

    /// The suspension at a later time: what has run out is gone.
    #[must_use]
    pub fn at(&self, now_unix_ms: u64) -> Self {
        let left = |stop: Option<Stop>| stop.filter(|stop| !stop.is_over(now_unix_ms));
        let [replication, activation, along] =
            [self.replication, self.activation, self.along].map(left);
        match replication {
            _ if [replication, activation, along]
                == [self.replication, self.activation, self.along] =>
            {
                self.clone()
            }
            None => Self::blocked(activation, &self.block_comment),
            Some(_) => Self { replication, activation, along, ..self.clone() },
        }
    }

    /// When [`Self::at`] changes next, in Unix milliseconds.
    #[must_use]
    pub fn next_end_unix_ms(&self) -> Option<u64> {
        let ends = [self.replication, self.activation, self.along].into_iter().flatten();
        ends.filter_map(|stop| stop.until_unix_ms).min()
    }

    /// Whether anything is stopped.
    #[must_use]
    pub const fn is_none(&self) -> bool {
        self.replication.is_none() && self.activation.is_none() && self.along.is_none()
    }
}

fn refuse_suspend(facts: &SuspendFacts) -> Result<(), Refused> {
    if facts.active {
        let text = "the copy is the active one; switch over first, or dismount the database";
        return Err(Refused::precondition(text));
    }
    if facts.seeding {
        return Err(Refused::precondition("the copy is being seeded and suspended by that"));
    }
    Ok(())
}

fn check_comment(comment: &str) -> Result<(), Refused> {
    let chars = comment.chars().count();
    if chars > SUSPEND_COMMENT_CHARS_MAX {
        let max = SUSPEND_COMMENT_CHARS_MAX;
        let text = format!("the comment has {chars} characters, {max} are allowed");
        return Err(Refused::bad_argument(text));
    }
    Ok(())
}

fn end_of(lasting: Option<Duration>, now_unix_ms: u64) -> Result<Option<u64>, Refused> {
    let Some(lasting) = lasting else { return Ok(None) };
    if lasting.is_zero() || lasting > SUSPEND_FOR_MAX {
        let text = format!("a suspension lasts more than 0 and at most 365 days, not {lasting:?}");
        return Err(Refused::bad_argument(text));
    }
    let millis = u64::try_from(lasting.as_millis()).unwrap_or(u64::MAX);
    Ok(Some(now_unix_ms.saturating_add(millis)))
}
