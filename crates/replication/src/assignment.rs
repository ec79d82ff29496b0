//! Reading what the control process says of a database.

use std::time::Duration;

use keelson_copy_core::{Assignment as CoreAssignment, PeerCopy, RecordedCeiling};
use keelson_types::{
    CommitConstraint, CommitRule, CopyId, DatabaseId, Discard, HoldClock, LagSettings, LagSwitch,
    MemberId, MountIntent, SeedOrder, SiteName, StreamId,
};
use keelson_wire::{Invalid, ids, v1};
use serde::de::DeserializeOwned;

use crate::gate::boottime_now;
use crate::message::Assigned;
use crate::owner::OtherFacts;

/// A database with a copy on this member.
#[derive(Debug)]
pub(crate) struct Assignment {
    pub(crate) database: DatabaseId,
    pub(crate) name: String,
    pub(crate) stream: StreamId,
    pub(crate) copy: CopyId,
    pub(crate) active_member: Option<MemberId>,
    pub(crate) assigned_at: u64,
    pub(crate) assigned: Assigned,
    /// How the copy is to be seeded.
    pub(crate) seed: Option<SeedOrder>,
}

impl Assignment {
    /// Whether the copy here counts in the commit rule that consensus holds.
    pub(crate) fn is_admitted(&self) -> bool {
        self.assigned.assignment.rule.as_ref().is_some_and(|rule| rule.has(self.copy))
    }

    /// Checks and converts a message; sites of members come from the member list.
    pub(crate) fn read(
        message: v1::DatabaseAssignment,
        site_of: impl Fn(MemberId) -> Option<String>,
    ) -> Result<Self, Invalid> {
        let wanted = CommitConstraint::try_from(message.wanted_constraint())?;
        let rule = message.rule.clone().map(CommitRule::try_from).transpose()?;
        let active = CopyId::from_slice(&message.active);
        let mut copies = Vec::with_capacity(message.copies.len());
        let mut active_member = None;
        let (this_copy, mut others) = (ids::copy(&message.this_copy)?, Vec::new());
        for row in &message.copies {
            let (copy, member) = (ids::copy(&row.copy)?, ids::member(&row.member)?);
            if active == Some(copy) {
                active_member = Some(member);
            }
            let site = SiteName::new(site_of(member).ok_or(Invalid("copies.member"))?);
            let site = site.map_err(|_| Invalid("members.site"))?;
            let may_count = !row.leaving && !row.lagged && !row.suspended;
            if copy != this_copy {
                others.push(other(copy, member, row));
            }
            copies.push(PeerCopy { copy, member, site, may_count, suspended: row.suspended });
        }
        let degrade = message.degrade_after_millis;
        let assignment = CoreAssignment {
            epoch: message.epoch.map(Into::into).unwrap_or_default(),
            active,
            rule,
            constraint: wanted,
            copies,
            degrade_after: (degrade > 0).then(|| Duration::from_millis(degrade)),
            dismount_after: Duration::from_millis(message.dismount_after_millis),
            suspension: json(&message.suspension, "suspension")?,
            discards: message.discards.iter().map(discard).collect(),
            bounded: message.bounded,
            ceiling: ceiling(&message)?,
        };
        let (lag, lag_switch) = (lags(&message)?, lag_switch(&message)?);
        let seed: Option<SeedOrder> = json(&message.seed, "seed")?;
        let seeds_catalog = seed.as_ref().is_some_and(|order| order.scope.takes_catalog());
        Ok(Self {
            database: ids::database(&message.database)?,
            name: message.name,
            stream: ids::stream(&message.stream)?,
            copy: this_copy,
            active_member,
            assigned_at: message.assigned_at,
            seed,
            assigned: Assigned {
                assignment,
                generation_bytes: message.generation_bytes,
                compress: message.lz4,
                resumes: message.resumes,
                lag,
                lag_switch,
                holds: json(&message.holds, "holds")?,
                hold_clock: HoldClock::new(message.consensus_unix_millis, boottime_now()),
                content_index: json(&message.content_index, "content_index")?,
                automations: json(&message.automations, "automations")?,
                seeds_catalog,
                circular_logging: message.circular_logging,
                backed_up: message.backed_up_to.map(Into::into),
                intent: match message.mount_wanted {
                    true => MountIntent::Mounted,
                    false => MountIntent::Dismounted,
                },
                others,
            },
        })
    }
}

/// A value that travels as JSON; absent is the default.
fn json<T: DeserializeOwned + Default>(bytes: &[u8], what: &'static str) -> Result<T, Invalid> {
    if bytes.is_empty() {
        return Ok(T::default());
    }
    serde_json::from_slice(bytes).map_err(|_| Invalid(what))
}

fn lags(message: &v1::DatabaseAssignment) -> Result<LagSettings, Invalid> {
    let seconds = Duration::from_secs;
    LagSettings::new(seconds(message.replay_lag_seconds), seconds(message.truncation_lag_seconds))
        .and_then(|lag| lag.with_play_down_max_delay(seconds(message.play_down_max_delay_seconds)))
        .map_err(|_| Invalid("lag"))
}

fn lag_switch(message: &v1::DatabaseAssignment) -> Result<LagSwitch, Invalid> {
    match message.lag_disabled.as_deref() {
        None => Ok(LagSwitch::enable()),
        Some(why) => LagSwitch::disable(why).map_err(|_| Invalid("lag_disabled")),
    }
}

fn other(copy: CopyId, member: MemberId, row: &v1::CopyAssignment) -> OtherFacts {
    OtherFacts {
        copy,
        member,
        lagged: row.lagged,
        leaving: row.leaving,
        cut_off: row.cut_off,
        suspended_since_unix_ms: row.suspended.then_some(row.suspended_since_unix_millis),
    }
}

fn ceiling(message: &v1::DatabaseAssignment) -> Result<RecordedCeiling, Invalid> {
    let ceiling = json(&message.ceiling, "ceiling")?;
    Ok(RecordedCeiling { number: message.ceiling_number, ceiling })
}

fn discard(discard: &v1::DiscardedLog) -> Discard {
    Discard {
        epoch: discard.epoch.map(Into::into).unwrap_or_default(),
        kept: discard.kept.map(Into::into).unwrap_or_default(),
    }
}
