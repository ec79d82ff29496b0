//! Data guarantee: collects what the members say of a database's copies, and lets the pure check
//! answer (F108-F113).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use keelson_cluster_core::guarantee::{
    FlushTarget, Guarantee, GuaranteeConstraint, GuaranteeCopy, GuaranteeFacts, GuaranteeInputs,
    flush, given_up, health, kept_of,
};
use keelson_cluster_core::{CopyConfig, Database};
use keelson_types::{
    ContentIndexState, CopyId, CopyStatus, Discard, Epoch, HybridTime, LOG_UNIT_BYTES, LogEnd,
    MemberId, Position, RefusalReason, SiteName, StreamId,
};
use keelson_wire::v1::{CopyFacts, GuaranteeObjection, GuaranteeRequest, GuaranteeResponse};
use keelson_wire::{CommitToken, Refusal};

use crate::context::Context;
use crate::facts::of_copy;

/// A database with everything that was said of its copies.
struct Asked {
    constraint: GuaranteeConstraint,
    active: GuaranteeCopy,
    passives: Vec<GuaranteeCopy>,
    committed: Position,
    names: BTreeMap<CopyId, String>,
    stream: StreamId,
    given_up: Vec<Discard>,
}

impl Context {
    pub(super) async fn admin_guarantee_health(
        self: &Arc<Self>,
        request: GuaranteeRequest,
    ) -> Result<GuaranteeResponse, Refusal> {
        let asked = self.ask_copies(&request).await?;
        let answer = health(&asked.inputs());
        Ok(asked.response(&answer))
    }

    pub(super) async fn admin_guarantee_flush(
        self: &Arc<Self>,
        request: GuaranteeRequest,
    ) -> Result<GuaranteeResponse, Refusal> {
        let asked = self.ask_copies(&request).await?;
        let mounted = asked.active.facts.as_ref().is_none_or(|f| f.status == CopyStatus::Mounted);
        if !mounted {
            // It may not know yet what its predecessor committed.
            let what = "the active copy is not mounted yet";
            return Err(Refusal::new(RefusalReason::Activating, what));
        }
        let target = asked.flush_target(&request)?;
        Ok(asked.response(&flush(&asked.inputs(), target)))
    }

    async fn ask_copies(self: &Arc<Self>, request: &GuaranteeRequest) -> Result<Asked, Refusal> {
        // Another member may not have heard yet of copies, of an activation, or of its receipt.
        self.require_leader()?;
        self.confirm_leader().await?;
        let database = self.database_called(&request.database)?;
        let constraint = match request.constraint.as_str() {
            "" => database.settings.guarantee,
            name => constraint(name)?,
        };
        let Some(target) = database.target else {
            let what = format!("{} has no active copy now", request.database);
            return Err(Refusal::new(RefusalReason::Activating, what));
        };
        let holders = database.copies.values().map(|copy| copy.member);
        // Who has not heard of the newest receipt cannot say whether its heir is in the log.
        let told = database.assigned_at;
        let facts = self.facts_once_told_of(holders, &[database.id], told).await;
        let now = self.database_called(&request.database)?;
        if (now.epoch, now.target) != (database.epoch, database.target) {
            let what = format!("{} was activated meanwhile", request.database);
            return Err(Refusal::new(RefusalReason::Activating, what));
        }
        let said = |member: MemberId| {
            let answer = facts.get(&member)?.as_ref().ok()?;
            of_copy(answer, database.id)
        };
        let active = database.copies.get(&target).and_then(|config| said(config.member));
        let given_up = given_up(database.receipts.iter(), &heirs(active));
        let copy = |id: CopyId, config: &CopyConfig| GuaranteeCopy {
            copy: id,
            member: config.member,
            site: self.site_of(config.member),
            facts: said(config.member).and_then(|facts| read_facts(&given_up, config, facts)),
        };
        let (mut active, mut passives) = (None, Vec::new());
        for (id, config) in &database.copies {
            match *id == target {
                true => active = Some(copy(*id, config)),
                false => passives.push(copy(*id, config)),
            }
        }
        let gone = || Refusal::new(RefusalReason::Activating, "the active copy is being replaced");
        let active = active.ok_or_else(gone)?;
        let marks = said(active.member).and_then(|facts| facts.watermarks);
        let committed = marks.and_then(|marks| marks.committed).map(Into::into);
        Ok(Asked {
            constraint,
            active,
            passives,
            committed: committed.unwrap_or_default(),
            names: self.names_of_copies(&database),
            stream: database.stream,
            given_up,
        })
    }

    fn site_of(&self, member: MemberId) -> SiteName {
        let site = self.applied.read(|state| {
            let member = state.members.get(&member);
            member.map(|member| member.config.site.clone())
        });
        site.unwrap_or_else(|| self.identity.site.clone())
    }

    fn names_of_copies(&self, database: &Database) -> BTreeMap<CopyId, String> {
        let copies = database.copies.iter();
        copies.map(|(id, copy)| (*id, self.name_of_member(copy.member))).collect()
    }
}

impl Asked {
    /// What the caller wrote last.
    fn flush_target(&self, request: &GuaranteeRequest) -> Result<FlushTarget, Refusal> {
        let refused = |reason, what: &str| Err(Refusal::new(reason, what));
        match (request.token.is_empty(), request.written_unix_millis) {
            (true, None) => Ok(FlushTarget::Position(self.committed)),
            (true, Some(written)) => Ok(FlushTarget::Time {
                written: HybridTime::from_unix_millis(written),
                committed: self.committed,
            }),
            (false, Some(_)) => {
                let what = "a flush asks for a token or for a time, not for both";
                refused(RefusalReason::BadArgument, what)
            }
            (false, None) => {
                let bad = |_| Refusal::new(RefusalReason::BadArgument, "the token is not readable");
                let token = CommitToken::decode(&request.token).map_err(bad)?;
                if token.stream != self.stream {
                    let what = "the token belongs to another database";
                    return refused(RefusalReason::BadArgument, what);
                }
                if self.given_up.iter().any(|discard| discard.covers(token.end)) {
                    let what = "the write was given up by an activation with loss";
                    return refused(RefusalReason::Discarded, what);
                }
                Ok(FlushTarget::Position(token.end.position))
            }
        }
    }

    fn inputs(&self) -> GuaranteeInputs<'_> {
        GuaranteeInputs {
            constraint: self.constraint,
            active: &self.active,
            passives: &self.passives,
        }
    }

    fn response(&self, answer: &Guarantee) -> GuaranteeResponse {
        let (answer, objections) = match answer {
            Guarantee::Satisfied => ("satisfied", &[][..]),
            Guarantee::NotSatisfied(objections) => ("not_satisfied", &objections[..]),
            Guarantee::Retry(objections) => ("retry", &objections[..]),
        };
        let objections = objections.iter().map(|objection| GuaranteeObjection {
            member: objection
                .copy
                .and_then(|copy| self.names.get(&copy).cloned())
                .unwrap_or_default(),
            reason: objection.reason.to_string(),
        });
        GuaranteeResponse {
            answer: answer.into(),
            constraint: self.constraint.to_string(),
            objections: objections.collect(),
        }
    }
}

/// The heirs that the log of the active contains.
fn heirs(active: Option<&CopyFacts>) -> Vec<Epoch> {
    let heirs = active.map(|facts| &facts.heirs[..]).unwrap_or_default();
    heirs.iter().map(|heir| (*heir).into()).collect()
}

/// Nothing if the status is one of a newer version, which then counts as not known.
fn read_facts(
    given_up: &[Discard],
    config: &CopyConfig,
    facts: &CopyFacts,
) -> Option<GuaranteeFacts> {
    let marks = facts.watermarks?;
    let replayed = LogEnd {
        epoch: facts.log_end.and_then(|end| end.epoch).map(Into::into).unwrap_or_default(),
        position: marks.replayed.map(Into::into).unwrap_or_default(),
    };
    let kept = kept_of(given_up, replayed);
    let status = CopyStatus::ALL.into_iter().find(|status| status.to_string() == facts.status)?;
    let behind = match facts.actual_lag_millis {
        0 => unlagged_behind(facts),
        millis => Duration::from_millis(millis),
    };
    Some(GuaranteeFacts {
        status,
        copy_queue_logs: facts.copy_queue_bytes.div_ceil(LOG_UNIT_BYTES),
        replay_behind: behind,
        replay_lag: config.lag.replay_lag(),
        replayed: kept.unwrap_or(replayed.position),
        replayed_time: match kept {
            None => HybridTime::from_unix_millis(facts.last_replayed_unix_millis),
            // The newest frame that it replayed counts no more, and others are not dated.
            Some(_) => HybridTime::default(),
        },
        catalog_current: facts.content_index.as_ref().is_some_and(|index| {
            index.state == ContentIndexState::Healthy.to_string()
                && index.backlog_bytes < LOG_UNIT_BYTES
        }),
    })
}

/// How old the newest inspected log is against the newest replayed one; nothing if nothing waits.
fn unlagged_behind(facts: &CopyFacts) -> Duration {
    let waits = facts.replay_queue_bytes > 0 && facts.last_replayed_unix_millis > 0;
    let (inspected, replayed) = (facts.last_inspected_unix_millis, facts.last_replayed_unix_millis);
    Duration::from_millis(if waits { inspected.saturating_sub(replayed) } else { 0 })
}

/// The constraint of that name.
pub(super) fn constraint(name: &str) -> Result<GuaranteeConstraint, Refusal> {
    name.parse().map_err(|_| {
        let names: Vec<_> = GuaranteeConstraint::ALL.iter().map(ToString::to_string).collect();
        let what = format!("no guarantee constraint {name:?}; there are {}", names.join(", "));
        Refusal::new(RefusalReason::BadArgument, what)
    })
}
