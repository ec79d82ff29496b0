//! Truncation of a node's log: what `owner/truncating` and `owner/expanding` of `replication` do,
//! over the real rules. A decision is taken with every tick; one against the ordinary rules (F104)
//! waits for a fresh look at the volume after log has gone.

use std::collections::BTreeMap;
use std::time::Duration;

use keelson_copy_core::expanded_truncation::{
    Expanded, ExpandedInputs, ExpandedRole, ExpandedSettings, PassiveFacts, came_back,
    expanded_truncation,
};
use keelson_copy_core::truncate::{
    OtherCopy, OwnLog, TruncationInputs, TruncationOrder, TruncationRole, truncation_point,
};
use keelson_copy_core::{Event, checkpoint};
use keelson_types::{CopyId, Epoch, Generation, LogSizes, MemberId, Position, Tick};

use super::lag::Lag;
use super::{CopyNode, Job, Moment, Out};
use crate::messages::{DataMessage, OtherFacts, ToControl, TruncationFacts};
use crate::probes::Probe;

/// Between two looks at a volume, as in `replication`.
const LOOK_PAUSE: Duration = Duration::from_millis(250);

/// Positions that another copy reported to this active.
#[derive(Clone, Copy, Debug, Default)]
struct Reported {
    inspected: Position,
    checkpointed: Position,
}

/// What a node knows for truncation.
pub(super) struct Truncating {
    settings: Option<ExpandedSettings>,
    facts: TruncationFacts,
    order: Option<TruncationOrder>,
    reported: BTreeMap<CopyId, Reported>,
    serving_since: Option<Tick>,
    /// Log went at this time; the next look is later.
    went: Option<Tick>,
    under_way: bool,
}

impl Truncating {
    /// With no settings nothing is ever truncated.
    pub(super) fn new(settings: Option<ExpandedSettings>) -> Self {
        Self {
            settings,
            facts: TruncationFacts::default(),
            order: None,
            reported: BTreeMap::new(),
            serving_since: None,
            went: None,
            under_way: false,
        }
    }
}

impl CopyNode {
    /// End of the frame before the oldest one in the log.
    pub(crate) fn log_from(&self) -> Position {
        self.log.headers().next().map_or(Position::ZERO, |header| header.previous_end)
    }

    /// Where the oldest generation of the log begins.
    pub(crate) fn log_begins(&self) -> Position {
        let generation = self.log.first_generation().unwrap_or(Generation(0));
        Position { generation, offset: 0 }
    }

    /// The store is durable up to here; one with a mark no further than it can be trusted.
    pub(super) fn stands_checkpointed(&self) -> Position {
        self.ground_checkpointed().min(self.machine.view().replayed)
    }

    pub(crate) fn truncation_facts(&mut self, facts: TruncationFacts) {
        self.truncating.facts = facts;
    }

    pub(super) fn begins_to_serve(&mut self, moment: &Moment<'_>) {
        self.truncating.serving_since = Some(moment.now);
    }

    /// An active's order; one that is short of space wants checkpoints.
    pub(super) fn truncation_ordered(&mut self, moment: &mut Moment<'_>, order: TruncationOrder) {
        if order.short_of_space {
            self.checkpoint_for_space(moment);
        }
        self.truncating.order = Some(order);
    }

    fn checkpoint_for_space(&mut self, moment: &mut Moment<'_>) {
        let (from, to) = (self.stands_checkpointed(), self.store.replayed().position);
        // A full volume leaves the old checkpoint.
        if checkpoint::is_due_for_space(from, to) && self.store.checkpoint().is_ok() {
            self.acknowledge_again(moment);
        }
    }

    /// Tells the active what changed here without any log having arrived.
    pub(super) fn acknowledge_again(&self, moment: &mut Moment<'_>) {
        if let Some((member, epoch)) = self.source
            && self.machine.expects(epoch).is_some()
        {
            self.acknowledge(moment, member, epoch, self.machine.durable().position);
        }
    }

    /// F54: a store that is old on purpose is no source; the active keeps no log for it.
    pub(crate) fn may_be_a_source(&self) -> bool {
        self.is_whole() && self.lag.is_none() && self.machine.view().fault.is_none()
    }

    /// Log from here on it needs to open again.
    pub(crate) fn recovers_from(&self) -> Position {
        self.stands_checkpointed()
    }

    pub(super) fn acknowledge(
        &self,
        moment: &mut Moment<'_>,
        member: MemberId,
        epoch: Epoch,
        durable: Position,
    ) {
        let (copy, checkpointed) = (self.copy, self.stands_checkpointed());
        let message = DataMessage::Ack { copy, epoch, durable, checkpointed };
        moment.out.push(Out::Send { to: member, message });
    }

    pub(super) fn reported(
        &mut self,
        moment: &mut Moment<'_>,
        copy: CopyId,
        (inspected, checkpointed): (Position, Position),
    ) {
        self.truncating.reported.insert(copy, Reported { inspected, checkpointed });
        let marked = |other: &OtherFacts| other.copy == copy && other.cut_off;
        let newest = self.machine.durable().position;
        if self.truncating.facts.others.iter().any(marked)
            && self.serving.is_some()
            && came_back(inspected, self.log_begins(), newest)
            && let Some(epoch) = self.machine.own_epoch()
        {
            let database = self.database;
            moment.out.push(Out::Control(ToControl::ClearCutOff { database, epoch, copy }));
        }
    }

    /// F107: the copy misses log that is gone here.
    pub(super) fn misses_log(&self, matched: Position) -> Option<Position> {
        (matched < self.log_from()).then(|| self.log_begins())
    }

    /// Decides anew, and removes what may go.
    pub(super) fn truncate(&mut self, moment: &mut Moment<'_>) {
        let Some(settings) = self.truncating.settings else { return };
        if self.truncating.under_way || self.machine.view().fault.is_some() {
            return;
        }
        if moment.short_of_space {
            self.checkpoint_for_space(moment);
        }
        let ordinary = self.ordinary(moment);
        let mut up_to = ordinary;
        let looked = self.truncating.went.is_none_or(|at| moment.now.since(at) >= LOOK_PAUSE);
        if moment.short_of_space && looked {
            up_to = up_to.max(self.expand(moment, settings, ordinary).unwrap_or(ordinary));
        }
        if up_to.generation > self.log_begins().generation {
            self.truncating.under_way = true;
            moment.out.push(Out::Job(Job::Truncate(up_to.generation)));
        }
        self.order_truncation(moment, up_to);
    }

    /// An established active tells its passives what nobody needs.
    fn order_truncation(&self, moment: &mut Moment<'_>, up_to: Position) {
        let (Some(epoch), Some(_)) = (self.machine.own_epoch(), self.serving) else { return };
        let (truncated, short_of_space) = (self.log_begins(), moment.short_of_space);
        let order = TruncationOrder { epoch, up_to, truncated, short_of_space };
        for ship in self.ships.values() {
            moment.out.push(Out::Send { to: ship.member, message: DataMessage::Truncate(order) });
        }
    }

    fn ordinary(&self, moment: &Moment<'_>) -> Position {
        let facts = &self.truncating.facts;
        let own = OwnLog {
            copy: self.copy,
            member: self.member,
            truncated: self.log_begins(),
            checkpointed: self.stands_checkpointed(),
            end: self.machine.durable().position,
        };
        let others: Vec<_> = facts.others.iter().map(|other| self.other_copy(other)).collect();
        let role = match self.serving {
            Some(_) => TruncationRole::Active {
                established: true,
                others: &others,
                circular_logging: true,
                backed_up: None,
            },
            None => TruncationRole::Passive {
                order: self.truncating.order,
                sealed: self.machine.sealed(),
            },
        };
        let aged_out = self.lag.as_ref().map(|lag| lag.aged_out(moment.now));
        let inputs = TruncationInputs {
            own,
            role,
            lags: self.lag.as_ref().map(Lag::settings).unwrap_or_default(),
            aged_out: aged_out.unwrap_or(own.end),
            holds: &facts.holds,
            now_unix_ms: moment.wall_ms,
        };
        truncation_point(&inputs).up_to
    }

    fn other_copy(&self, facts: &OtherFacts) -> OtherCopy {
        let reported = self.truncating.reported.get(&facts.copy);
        OtherCopy {
            copy: facts.copy,
            member: facts.member,
            lagged: facts.lagged,
            inspected: reported.map(|reported| reported.inspected),
            checkpointed: reported.map(|reported| reported.checkpointed),
            suspended_since_unix_ms: facts.suspended_since_unix_ms,
            needs_no_log: facts.leaving || facts.cut_off,
        }
    }

    /// Whom expanded truncation would sacrifice is told first; what may go is the answer.
    fn expand(
        &self,
        moment: &mut Moment<'_>,
        settings: ExpandedSettings,
        ordinary: Position,
    ) -> Option<Position> {
        let facts = &self.truncating.facts;
        let passives: Vec<_> = facts.others.iter().map(|other| self.passive(other)).collect();
        let role = match self.serving {
            Some(_) => {
                let since = self.truncating.serving_since.unwrap_or(moment.now);
                ExpandedRole::Active { passives: &passives, serving_for: moment.now.since(since) }
            }
            None => ExpandedRole::Passive { established_start: self.established_start() },
        };
        let sizes = LogSizes::new(self.cursor.config().generation_bytes);
        let decided = expanded_truncation(&ExpandedInputs {
            settings,
            free_bytes: 0,
            ordinary,
            truncated: self.log_begins(),
            required_low: self.stands_checkpointed(),
            newest: self.machine.durable().position,
            sizes: &sizes,
            role,
            circular_logging: true,
            backed_up: None,
            holds: &facts.holds,
            local_hold: None,
            now_unix_ms: moment.wall_ms,
        });
        match decided {
            Expanded::Truncate { up_to } => {
                moment.out.push(Out::Fired(match self.serving {
                    Some(_) => Probe::ExpandedOnActive,
                    None => Probe::ExpandedOnPassive,
                }));
                Some(up_to)
            }
            Expanded::MarkFirst { copies, operations, .. } => {
                let epoch = self.machine.own_epoch()?;
                let database = self.database;
                let report = ToControl::CutOff { database, epoch, copies, operations };
                moment.out.push(Out::Control(report));
                None
            }
            Expanded::Off | Expanded::Enough | Expanded::Stuck { .. } => None,
        }
    }

    fn passive(&self, other: &OtherFacts) -> PassiveFacts {
        let reported = self.truncating.reported.get(&other.copy).copied();
        let known = reported.unwrap_or_default();
        PassiveFacts {
            heard: reported.is_some(),
            copy: other.copy,
            member: other.member,
            ha: !other.lagged && !other.cut_off,
            needs_from: if other.lagged { known.inspected } else { known.checkpointed },
            marked: other.cut_off,
        }
    }

    /// Start of the newest epoch of this log of which something is committed.
    fn established_start(&self) -> Position {
        let committed = self.machine.committed();
        let mut starts = self.machine.table().rows().iter().map(|row| row.previous_end);
        starts.rfind(|start| *start < committed).unwrap_or(Position::ZERO)
    }

    pub(super) fn do_truncate(&mut self, moment: &mut Moment<'_>, before: Generation) {
        self.truncating.under_way = false;
        match self.log.truncate_before(before) {
            Ok(0) => {}
            Ok(_) => {
                self.truncating.went = Some(moment.now);
                moment.out.push(Out::Fired(Probe::Truncated));
            }
            Err(error) => self.log_failed(moment, &error),
        }
    }

    pub(super) fn say_log_gone(
        &self,
        moment: &mut Moment<'_>,
        copy: CopyId,
        epoch: Epoch,
        begins: Position,
    ) {
        let others = &self.truncating.facts.others;
        let Some(other) = others.iter().find(|other| other.copy == copy) else { return };
        let message = DataMessage::LogGone { epoch, begins };
        moment.out.push(Out::Send { to: other.member, message });
    }

    pub(super) fn log_gone(&mut self, moment: &mut Moment<'_>, epoch: Epoch, begins: Position) {
        self.step(moment, Event::LogGone { epoch, begins });
    }
}
