//! One activation: its waiting points, and the decision that ends its seals.
//!
//! Decides from the answers to a seal whether a target can be bound now, later, or not at all. A
//! target is bound only if three things hold: the lossless proof passes; every copy that was bound
//! since the last established epoch is fenced (R9); an eligible copy can be brought to the highest
//! reached end (R6).

use std::collections::{BTreeMap, BTreeSet};

use keelson_types::{Ceiling, CopyId, Epoch, MemberId, MountDial, OperationId, Tick, Weakness};

use crate::command::{ActivateItem, Refusal};
use crate::decision::{
    ActivationReason, ActivationStep, AgedReply, DECISION_FORMAT, DecisionRecord, Fence,
    FenceEvidence, StepTiming,
};
use crate::dial::{DialQuestion, dialled, missing};
use crate::loss::{AcceptedLoss, LossReceipt, select_accepted};
use crate::manager::ManagerConfig;
use crate::order::SealReply;
use crate::point_in_time::{self, ATTEMPTS_MAX, ActivateAt, Turn, select_at};
use crate::proof::{Verdict, lossless};
use crate::select::{Exclusion, Selection, SelectionInput, copy_inputs, first_rule_after, select};
use crate::state::{ClusterState, Database, RuleRecord};

/// No member.
static NOBODY: BTreeSet<MemberId> = BTreeSet::new();

/// Timings kept per activation.
const STEPS_MAX: usize = 32;

/// Who has lease-capable contact with the leader, and who certainly holds no lease.
#[derive(Clone, Debug, Default)]
pub(crate) struct Contacts {
    pub(crate) alive: BTreeSet<MemberId>,
    pub(crate) over: BTreeSet<MemberId>,
}

/// What a decision depends on, besides the answers.
#[derive(Clone, Copy)]
pub(crate) struct Situation<'a> {
    pub(crate) now: Tick,
    pub(crate) state: &'a ClusterState,
    pub(crate) database: &'a Database,
    pub(crate) contacts: &'a Contacts,
    /// How many databases each member is the active of, with what this step binds.
    pub(crate) actives: &'a BTreeMap<MemberId, u32>,
    pub(crate) config: &'a ManagerConfig,
    /// The operation by which an operator accepts loss where there is no lossless way.
    pub(crate) accepted: Option<(OperationId, AcceptedLoss)>,
    /// The operation by which an operator makes an instant of a copy the truth.
    pub(crate) instant: Option<(OperationId, ActivateAt)>,
    /// The mount dial of a switchover; none for those of the members.
    pub(crate) dial: Option<MountDial>,
    /// The process of the former active is being started again.
    pub(crate) process_expected: bool,
    /// Members that the database leaves because their data address is cut off.
    pub(crate) data_cut: &'a BTreeSet<MemberId>,
    pub(crate) weakness: Weakness,
}

/// The seals of one epoch.
#[derive(Clone, Debug)]
pub(crate) struct Sealing {
    pub(crate) epoch: Epoch,
    pub(crate) deadline: Tick,
    pub(crate) asked: BTreeSet<MemberId>,
    pub(crate) replies: BTreeMap<MemberId, (Tick, SealReply)>,
    /// Members that refused or could not be reached.
    pub(crate) silent: BTreeSet<MemberId>,
}

/// Where an activation waits.
#[derive(Clone, Debug)]
pub(crate) enum Phase {
    /// For its epoch to be recorded.
    Allocating { expected: Epoch },
    /// For its turn.
    Queued { epoch: Epoch },
    /// For seals.
    Sealing(Sealing),
    /// For its target to be recorded.
    Binding { epoch: Epoch, target: CopyId },
    /// For the target to mount.
    Mounting { epoch: Epoch, target: CopyId, deadline: Tick },
    /// For the opening frame to be committed. It ends with the target's lease; the target of a
    /// switchover has a deadline beside, since the copy from before could serve.
    Opening { epoch: Epoch, target: CopyId, deadline: Option<Tick> },
    /// For the next attempt, which gets its own epoch.
    BackingOff { until: Tick },
    /// For a member to come back; no copy could be bound to the epoch, which is sealed again then.
    Waiting { epoch: Epoch, until: Tick },
}

impl Phase {
    pub(crate) const fn step(&self) -> ActivationStep {
        match self {
            Self::Allocating { .. } => ActivationStep::Allocating,
            Self::Queued { .. } => ActivationStep::Queued,
            Self::Sealing(_) => ActivationStep::Sealing,
            Self::Binding { .. } => ActivationStep::Binding,
            Self::Mounting { .. } => ActivationStep::Mounting,
            Self::Opening { .. } => ActivationStep::Opening,
            Self::BackingOff { .. } => ActivationStep::BackingOff,
            Self::Waiting { .. } => ActivationStep::Waiting,
        }
    }
}

/// What speaks against every copy, compared so that an unchanged picture is recorded once.
pub(crate) type StuckPicture = (Verdict, Vec<(CopyId, Vec<Exclusion>)>);

/// An activation of one database, over all its attempts.
#[derive(Clone, Debug)]
pub(crate) struct Activation {
    pub(crate) reason: ActivationReason,
    pub(crate) operation: Option<OperationId>,
    /// The only copy allowed in this attempt.
    pub(crate) requested: Option<CopyId>,
    /// Of a switchover: the copy that served before, which is tried first if the target does not
    /// open in time.
    pub(crate) undo_to: Option<CopyId>,
    /// The member of the target that was chosen last.
    pub(crate) at: Option<MemberId>,
    /// In this epoch: until when the copy from before is waited for, since death certificates moved
    /// the database too often.
    pub(crate) waits_for_incumbent: Option<(Epoch, Tick)>,
    /// Targets of failed attempts.
    pub(crate) avoid: BTreeSet<CopyId>,
    /// From 1.
    pub(crate) attempt: u32,
    /// Rounds of seals without a candidate.
    pub(crate) rounds: u32,
    pub(crate) began: Tick,
    pub(crate) steps: Vec<StepTiming>,
    /// From then on every grant from before the newest allocation has run out.
    pub(crate) fenced_at: Option<(Epoch, Tick)>,
    pub(crate) stuck: Option<StuckPicture>,
    /// The proposal that this activation waits for.
    pub(crate) tag: Option<u64>,
    pub(crate) phase: Phase,
}

impl Activation {
    pub(crate) fn new(now: Tick, reason: ActivationReason, phase: Phase) -> Self {
        let steps = vec![StepTiming { step: phase.step(), at_ms: 0 }];
        Self {
            reason,
            operation: None,
            requested: None,
            undo_to: None,
            at: None,
            waits_for_incumbent: None,
            avoid: BTreeSet::new(),
            attempt: 1,
            rounds: 0,
            began: now,
            steps,
            fenced_at: None,
            stuck: None,
            tag: None,
            phase,
        }
    }

    /// Goes to the next waiting point.
    pub(crate) fn enter(&mut self, now: Tick, phase: Phase) {
        let at_ms = self.age_ms(now);
        if self.steps.len() == STEPS_MAX {
            self.steps.remove(0);
        }
        self.steps.push(StepTiming { step: phase.step(), at_ms });
        self.tag = None;
        self.phase = phase;
    }

    /// The waiting points so far, and that the decision falls now.
    fn steps_to_decision(&self, now: Tick) -> Vec<StepTiming> {
        let mut steps = self.steps.clone();
        steps.push(StepTiming { step: ActivationStep::Binding, at_ms: self.age_ms(now) });
        steps
    }

    fn age_ms(&self, now: Tick) -> u64 {
        u64::try_from(now.since(self.began).as_millis()).unwrap_or(u64::MAX)
    }

    /// The target did not come to serve: the next attempt is another epoch. The first one that
    /// follows a switchover undoes it, if the copy from before can serve; says whether it does.
    pub(crate) fn try_another(&mut self, target: CopyId) -> bool {
        self.attempt += 1;
        self.avoid.insert(target);
        self.requested = self.undo_to.take().filter(|former| *former != target);
        self.requested.is_some()
    }

    /// Waits for the opening frame of the target, within what is left of a switchover's budget.
    pub(crate) fn enter_opening(&mut self, now: Tick, epoch: Epoch, target: CopyId) {
        let budget = match self.phase {
            Phase::Mounting { deadline, .. } => self.undo_to.map(|_| deadline),
            _ => None,
        };
        self.enter(now, Phase::Opening { epoch, target, deadline: budget });
    }

    /// When grants from before the allocation of `epoch` have run out, counted from when this
    /// leader first saw the epoch in its applied state.
    pub(crate) fn fence_clock(&mut self, now: Tick, epoch: Epoch, config: &ManagerConfig) {
        if self.fenced_at.is_none_or(|(seen, _)| seen != epoch) {
            self.fenced_at = Some((epoch, now.after(config.lease_wait)));
        }
    }

    /// The members that it occupies at its present waiting point.
    pub(crate) fn taking_part(&self) -> BTreeSet<MemberId> {
        match &self.phase {
            Phase::Sealing(sealing) => sealing.asked.union(&sealing.silent).copied().collect(),
            Phase::Binding { .. } | Phase::Mounting { .. } => self.at.into_iter().collect(),
            Phase::Allocating { .. }
            | Phase::Queued { .. }
            | Phase::Opening { .. }
            | Phase::BackingOff { .. }
            | Phase::Waiting { .. } => BTreeSet::new(),
        }
    }

    /// When the manager must look again by itself.
    pub(crate) fn wake(&self, now: Tick) -> Option<Tick> {
        match &self.phase {
            Phase::Sealing(sealing) => {
                let fence = self.fenced_at.map(|(_, at)| at);
                [Some(sealing.deadline), fence].into_iter().flatten().filter(|at| *at > now).min()
            }
            Phase::Mounting { deadline, .. } => Some(*deadline),
            Phase::Opening { deadline, .. } => *deadline,
            Phase::BackingOff { until } | Phase::Waiting { until, .. } => Some(*until),
            Phase::Queued { .. } => {
                self.waits_for_incumbent.map(|(_, at)| at).filter(|at| *at > now)
            }
            Phase::Allocating { .. } | Phase::Binding { .. } => None,
        }
    }
}

/// What the answers allow.
#[derive(Clone, Debug)]
pub(crate) enum Evaluation {
    /// More answers, or a fence, are waited for.
    Pending,
    /// This target can be bound.
    Bind(Box<ActivateItem>),
    /// An operator's order cannot be carried out; the database is activated as without it.
    Unfit(OperationId, Refusal),
    /// No copy can be bound, and nothing more is expected.
    Stuck(Box<DecisionRecord>, StuckPicture),
}

/// Decides what to do with the answers so far.
pub(crate) fn evaluate(
    situation: &Situation<'_>,
    activation: &Activation,
    sealing: &Sealing,
) -> Evaluation {
    let replies: Vec<_> = sealing.replies.values().map(|(_, reply)| reply.clone()).collect();
    let input = selection_input(situation, activation, sealing.epoch, &replies);
    let turned_back = situation.database.turned_back.as_ref();
    // An attempt of it that was opened is gone on with like any other epoch.
    let opened =
        |operation| turned_back.is_some_and(|t| t.operation == operation && t.was_opened(&replies));
    if let Some(instant) = situation.instant.filter(|(operation, _)| !opened(*operation)) {
        return evaluate_at(situation, (activation, sealing), &input, instant);
    }
    if let Some(left) = evaluate_left(situation, (activation, sealing), &input) {
        return left;
    }
    let selection = select(&input);
    let rules = &situation.database.unestablished;
    let verdict = lossless(rules, &selection.reached, situation.weakness);
    let over_time = situation.now >= sealing.deadline;
    if verdict.is_lossless() && selection.best().is_some() {
        if !over_time && !live_answered(situation, sealing) {
            return Evaluation::Pending;
        }
        return bind(situation, (activation, sealing), &input, (selection, verdict), Word::None);
    }
    if !over_time && !nothing_expected(situation, sealing) {
        return Evaluation::Pending;
    }
    if let Some((operation, accepted)) = &situation.accepted {
        let selection = select_accepted(&input, accepted);
        if selection.best().is_some() {
            let input = accepted.applied_to(input);
            let (epoch, kept) = (sealing.epoch, selection.required_end);
            let receipt = LossReceipt::new(epoch, kept, &replies, &verdict, Some(*operation));
            let receipt = receipt.of_size(missing(rules, &selection.reached, kept));
            let outcome = (selection, verdict);
            let word = Word::Loss(receipt);
            return bind(situation, (activation, sealing), &input, outcome, word);
        }
    }
    let copies = copy_inputs(&input);
    let question = (!verdict.is_lossless()).then(|| DialQuestion {
        missing_logs: missing(rules, &selection.reached, selection.required_end),
        over: situation.dial,
        process_expected: situation.process_expected,
    });
    let selection = match &question {
        Some(question) => dialled(selection, &copies, question),
        None => selection,
    };
    if let (Some(question), Some(best)) = (question, selection.best()) {
        let target = copies.iter().find(|copy| copy.copy == best.copy);
        let (epoch, kept) = (sealing.epoch, selection.required_end);
        let receipt = LossReceipt {
            dial: question.over.or(target.map(|copy| copy.dial)),
            ..LossReceipt::new(epoch, kept, &replies, &verdict, None).of_size(question.missing_logs)
        };
        let (word, outcome) = (Word::Dial(receipt, question), (selection, verdict));
        return bind(situation, (activation, sealing), &input, outcome, word);
    }
    let reasons = selection.candidates.iter().map(|c| (c.copy, c.excluded.clone())).collect();
    let picture = (verdict.clone(), reasons);
    let at = (activation, sealing);
    let decision = record(situation, at, &input, (selection, verdict), None);
    let decision = DecisionRecord { dial: question, ..decision };
    Evaluation::Stuck(Box::new(decision), picture)
}

/// What the answers are judged by, with every copy that answered counted.
fn selection_input<'a>(
    situation: &Situation<'a>,
    activation: &'a Activation,
    epoch: Epoch,
    replies: &'a [SealReply],
) -> SelectionInput<'a> {
    SelectionInput {
        database: situation.database,
        members: &situation.state.members,
        epoch,
        replies,
        alive: &situation.contacts.alive,
        actives: situation.actives,
        requested: activation.requested,
        avoid: &activation.avoid,
        data_cut: &NOBODY,
        weakness: situation.weakness,
    }
}

/// What to do with a database that leaves members whose data address is cut off: their copies count
/// as not reached, whatever they answer, since their log cannot be fetched. Nothing if the proof
/// needs it; then it is reached, and its copy can go on where it is.
fn evaluate_left(
    situation: &Situation<'_>,
    (activation, sealing): (&Activation, &Sealing),
    input: &SelectionInput<'_>,
) -> Option<Evaluation> {
    if situation.data_cut.is_empty() {
        return None;
    }
    let input = SelectionInput { data_cut: situation.data_cut, ..*input };
    let selection = select(&input);
    let rules = &situation.database.unestablished;
    let verdict = lossless(rules, &selection.reached, situation.weakness);
    let over_time = situation.now >= sealing.deadline;
    let found = verdict.is_lossless() && selection.best().is_some();
    let waits = match found {
        true => !live_answered(situation, sealing),
        false => !nothing_expected(situation, sealing),
    };
    if waits && !over_time {
        return Some(Evaluation::Pending);
    }
    let at = (activation, sealing);
    found.then(|| bind(situation, at, &input, (selection, verdict), Word::None))
}

/// What to do with an operator's order to make an instant the truth. Copies that live are waited
/// for, so that those which hold nothing of what is discarded are known.
fn evaluate_at(
    situation: &Situation<'_>,
    (activation, sealing): (&Activation, &Sealing),
    input: &SelectionInput<'_>,
    (operation, order): (OperationId, ActivateAt),
) -> Evaluation {
    let over_time = situation.now >= sealing.deadline;
    let selection = select_at(input, &order);
    let target = selection.best().map(|best| best.copy);
    let tried = |copy| activation.avoid.contains(&copy) && activation.attempt > ATTEMPTS_MAX;
    let Some(target) = target.filter(|target| !tried(*target)) else {
        if target.is_none() && !over_time && !nothing_expected(situation, sealing) {
            return Evaluation::Pending;
        }
        let refusal = point_in_time::unfit(situation.database, (operation, &order), &selection);
        return Evaluation::Unfit(operation, refusal);
    };
    if !over_time && !live_answered(situation, sealing) {
        return Evaluation::Pending;
    }
    let rules = &situation.database.unestablished;
    let verdict = lossless(rules, &selection.reached, situation.weakness);
    let (epoch, replies) = (sealing.epoch, input.replies);
    let receipt = LossReceipt::new(epoch, order.kept, replies, &verdict, Some(operation));
    let turn = Turn::begin(input, target, (operation, &order));
    let outcome = (selection, verdict);
    bind(situation, (activation, sealing), input, outcome, Word::Instant(receipt, turn, order))
}

/// What an operator said, beyond that the database is to be open.
enum Word {
    None,
    /// Loss is accepted.
    Loss(LossReceipt),
    /// A mount dial allows the loss.
    Dial(LossReceipt, DialQuestion),
    /// An instant becomes the truth.
    Instant(LossReceipt, Turn, ActivateAt),
}

/// Binds the best copy of a selection, once every earlier active is fenced.
fn bind(
    situation: &Situation<'_>,
    (activation, sealing): (&Activation, &Sealing),
    input: &SelectionInput<'_>,
    (selection, verdict): (Selection, Verdict),
    word: Word,
) -> Evaluation {
    let best = selection.best().map(|best| (best.copy, best.member));
    let Some((target, member)) = best else { return Evaluation::Pending };
    let life = situation.state.members.get(&member).and_then(|member| member.incarnation);
    let fences = fences(situation, activation, sealing);
    let fenced = fences.iter().all(|fence| fence.by != FenceEvidence::None);
    let (Some(incarnation), true) = (life, fenced) else {
        return Evaluation::Pending;
    };
    let mut dial = None;
    let (loss, turn, instant) = match word {
        Word::None => (None, Turn::go_on(input, target), None),
        Word::Loss(receipt) => (Some(receipt), None, None),
        Word::Dial(receipt, question) => {
            dial = Some(question);
            (Some(receipt), None, None)
        }
        Word::Instant(receipt, turn, order) => (Some(receipt), Some(turn), Some(order)),
    };
    let rule = first_rule_after(input, target, turn.as_ref());
    let alone = rule.satisfied_by(&BTreeSet::from([target]));
    let bounded = alone && situation.state.is_bounded(situation.database, target);
    let (required_end, mut sources) = (selection.required_end, selection.sources.clone());
    sources.retain(|source| source.copy != target);
    let at = (activation, sealing);
    let marks = situation.state.marks_of(situation.database, target);
    let decision = record(situation, at, input, (selection, verdict), Some(target));
    Evaluation::Bind(Box::new(ActivateItem {
        database: situation.database.id,
        epoch: sealing.epoch,
        target,
        incarnation,
        marks,
        rule,
        required_end,
        sources,
        decision: DecisionRecord { dial, loss, at: instant, ..decision },
        turn,
        ceiling: bounded.then(|| Ceiling::first(required_end)),
    }))
}

/// Whether every copy on a member that may hold a lease has answered, one way or the other.
fn live_answered(situation: &Situation<'_>, sealing: &Sealing) -> bool {
    let members = situation.database.copies.values().map(|copy| copy.member);
    let mut live = members.filter(|member| !situation.contacts.over.contains(member));
    live.all(|member| sealing.replies.contains_key(&member) || sealing.silent.contains(&member))
}

/// Whether neither an answer nor a contact can still come before the deadline.
fn nothing_expected(situation: &Situation<'_>, sealing: &Sealing) -> bool {
    let members = &situation.state.members;
    let lives = |id| members.get(id).is_some_and(|member| member.incarnation.is_some());
    let answered = sealing
        .asked
        .iter()
        .all(|id| sealing.replies.contains_key(id) || sealing.silent.contains(id) || !lives(id));
    let contacts = situation.contacts;
    let mut members = situation.database.copies.values().map(|copy| copy.member);
    answered && members.all(|m| contacts.alive.contains(&m) || contacts.over.contains(&m))
}

/// What keeps each copy from serving that was bound since the last established epoch (R9).
fn fences(situation: &Situation<'_>, activation: &Activation, sealing: &Sealing) -> Vec<Fence> {
    let waited = activation
        .fenced_at
        .is_some_and(|(epoch, at)| epoch == sealing.epoch && situation.now >= at);
    let bound = situation.database.unestablished.iter();
    let fence = |record: &RuleRecord| {
        let by = match evidence(situation, sealing, record) {
            FenceEvidence::None if waited => FenceEvidence::GrantsRunOut,
            by => by,
        };
        Fence { epoch: record.epoch, copy: record.rule.active, by }
    };
    bound.map(fence).collect()
}

/// Why the copy bound in `record`'s epoch cannot serve any more: its life is over, or its member's
/// lease is; or that very life has sealed it. A seal of a later life proves nothing about an
/// earlier one that may go on in a cloned directory (S9.3).
fn evidence(situation: &Situation<'_>, sealing: &Sealing, record: &RuleRecord) -> FenceEvidence {
    let active = record.rule.active;
    let holder = record.rule.participants.iter().find(|p| p.copy == active).map(|p| p.member);
    let Some(member) = holder.and_then(|id| situation.state.members.get(&id)) else {
        return FenceEvidence::None;
    };
    let id = member.config.id;
    let reply = sealing.replies.get(&id).map(|(_, reply)| reply);
    let sealed = reply.is_some_and(|r| r.copy == active && r.sealed >= sealing.epoch)
        && member.incarnation == Some(record.incarnation);
    match (member.is_over(record.incarnation), situation.contacts.over.contains(&id)) {
        (true, _) => FenceEvidence::LifeOver,
        (false, true) => FenceEvidence::LeaseOver,
        (false, false) if sealed => FenceEvidence::Sealed,
        (false, false) => FenceEvidence::None,
    }
}

fn record(
    situation: &Situation<'_>,
    (activation, sealing): (&Activation, &Sealing),
    input: &SelectionInput<'_>,
    (selection, verdict): (Selection, Verdict),
    chosen: Option<CopyId>,
) -> DecisionRecord {
    let aged = |(at, reply): &(Tick, SealReply)| AgedReply {
        age_ms: u64::try_from(situation.now.since(*at).as_millis()).unwrap_or(u64::MAX),
        reply: reply.clone(),
    };
    let copies = &situation.database.copies;
    let holds = |member: &&MemberId| copies.values().any(|copy| copy.member == **member);
    DecisionRecord {
        format: DECISION_FORMAT,
        code_version: situation.config.code_version.clone(),
        database: situation.database.id,
        epoch: sealing.epoch,
        attempt: activation.attempt,
        reason: activation.reason.clone(),
        operation: activation.operation,
        rules: situation.database.unestablished.clone(),
        copies: copy_inputs(input),
        requested: input.requested,
        avoid: activation.avoid.iter().copied().collect(),
        at: None,
        replies: sealing.replies.values().map(aged).collect(),
        alive: situation.contacts.alive.iter().filter(holds).copied().collect(),
        fences: fences(situation, activation, sealing),
        reached: selection.reached.into_iter().collect(),
        verdict,
        candidates: selection.candidates,
        chosen,
        required_end: selection.required_end,
        dial: None,
        loss: None,
        steps: activation.steps_to_decision(situation.now),
        omitted: 0,
        inputs_omitted: false,
        besides: None,
    }
    .bounded()
}
