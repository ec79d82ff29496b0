//! Takes what the data process reports to where it belongs: mostly a proposal, repeated until its
//! outcome is known. All of them are idempotent by epoch, version or incarnation.
//!
//! A proposal ends without outcome only when the state says that it no longer matters: the epoch
//! moved on, or the life is over.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use keelson_cluster_core::{
    ActivationReason, AllocateItem, ClusterState, Command, EventKind, Outcome,
};
use keelson_net::Lane;
use keelson_types::{
    CommitRule, CopyId, DatabaseId, Epoch, FailureTag, IncarnationId, News, OperationId,
    RefusalReason,
};
use keelson_wire::v1::{
    AuditReport, CertifyDeathRequest, ClearCutOff, CopyForgot, CopyNote, CopyStopped,
    DivergenceReport, EpochGivenUp, EstablishedReport, MarkCutOff, NewsReport, ProposeCeiling,
    ProposeRule, RuleOutcome, SeedReport, control_to_data, data_to_control,
};
use keelson_wire::{Invalid, Refusal, ids, v1};
use tokio::sync::Semaphore;

use crate::context::Context;
use crate::peers::call;
use crate::raft_types::ClusterNode;

/// Proposals under way at the same time; a member's failover establishes hundreds of databases at
/// once.
const UNDER_WAY_MAX: usize = 64;
/// Events on their way at the same time; what comes beyond is in the log of the member only.
const NEWS_MAX: usize = 256;
/// How often an event is proposed.
const NEWS_TRIES: usize = 10;
/// Pause between two attempts.
const NEWS_PAUSE: Duration = Duration::from_secs(1);
/// Deadline of one attempt to deliver a death certificate.
const CERTIFY_DEADLINE: Duration = Duration::from_millis(300);
/// Pause after all voters were asked in vain; doubles up to [`CERTIFY_PAUSE_MAX`].
const CERTIFY_PAUSE_MIN: Duration = Duration::from_millis(30);
/// Longest pause.
const CERTIFY_PAUSE_MAX: Duration = Duration::from_millis(500);

/// The way of reports.
#[derive(Clone)]
pub(crate) struct Reports {
    context: Arc<Context>,
    under_way: Arc<Semaphore>,
    telling: Arc<Semaphore>,
    /// Seeds of which a report is on its way, progress and end apart.
    seeds: Arc<Mutex<BTreeSet<(OperationId, bool)>>>,
    lost: LostFiles,
}

/// Copies of this member that said that they lost their files, with the number of the word: what is
/// taken back, or said again in a later life, does not count any more.
#[derive(Clone, Default)]
struct LostFiles {
    words: Arc<Mutex<(u64, BTreeMap<CopyId, u64>)>>,
}

impl LostFiles {
    fn lost(&self, copy: CopyId) -> u64 {
        let mut words = self.words.lock().unwrap_or_else(PoisonError::into_inner);
        words.0 += 1;
        let word = words.0;
        words.1.insert(copy, word);
        word
    }

    fn found(&self, copy: CopyId) {
        self.words.lock().unwrap_or_else(PoisonError::into_inner).1.remove(&copy);
    }

    fn stands(&self, copy: CopyId, word: u64) -> bool {
        self.words.lock().unwrap_or_else(PoisonError::into_inner).1.get(&copy) == Some(&word)
    }
}

/// The right to report of a seed; given back when dropped.
struct Turn {
    of: Arc<Mutex<BTreeSet<(OperationId, bool)>>>,
    report: (OperationId, bool),
}

impl Turn {
    fn take(
        of: &Arc<Mutex<BTreeSet<(OperationId, bool)>>>,
        report: (OperationId, bool),
    ) -> Option<Self> {
        let free = of.lock().unwrap_or_else(PoisonError::into_inner).insert(report);
        free.then(|| Self { of: of.clone(), report })
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.of.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.report);
    }
}

impl Reports {
    pub(crate) fn new(context: Arc<Context>) -> Self {
        let semaphore = |permits| Arc::new(Semaphore::new(permits));
        Self {
            context,
            under_way: semaphore(UNDER_WAY_MAX),
            telling: semaphore(NEWS_MAX),
            seeds: Arc::default(),
            lost: LostFiles::default(),
        }
    }

    /// Takes one report.
    pub(crate) fn take(&self, message: data_to_control::Message) {
        use data_to_control::Message as M;
        let taken = match message {
            M::Established(report) => self.established(&report),
            M::ProposeRule(proposal) => self.rule(proposal),
            M::ProposeCeiling(proposal) => self.ceiling(&proposal),
            M::GivenUp(report) => self.given_up(&report),
            M::News(report) => self.news(&report),
            M::Audit(report) => self.audit(&report),
            M::CopyStopped(report) => self.copy_stopped(report),
            M::CopyForgot(report) => self.copy_forgot(&report),
            M::MarkCutOff(report) => self.mark_cut_off(&report),
            M::ClearCutOff(report) => self.clear_cut_off(&report),
            M::Note(note) => self.noted(note),
            M::Divergence(report) => self.divergence(report),
            M::Seed(report) => self.seed(report),
            M::Ready(_) => {
                tracing::info!("the data process is ready");
                Ok(())
            }
            M::Stopped(_) => {
                tracing::info!("the data process has stopped serving");
                Ok(())
            }
            // Answers reach whoever asked.
            M::Seal(_) | M::Mount(_) | M::Dismount(_) | M::Facts(_) | M::Progress(_) => Ok(()),
        };
        if let Err(error) = taken {
            tracing::error!(%error, "a malformed report of the data process");
        }
    }

    /// Runs a proposal when there is room for it, and hands its result to `then`. It is proposed in
    /// the name of the life that runs now, once that life is recorded, and dropped when it is over.
    fn propose<F: Future<Output = ()> + Send + 'static>(
        &self,
        command: Command,
        wanted: impl Fn(&ClusterState) -> bool + Send + Sync + 'static,
        then: impl FnOnce(Arc<Context>, u64, Outcome) -> F + Send + 'static,
    ) {
        let (context, under_way) = (self.context.clone(), self.under_way.clone());
        let Some(incarnation) = *context.data.borrow() else { return };
        self.context.spawn(async move {
            if !is_recorded(&context, incarnation).await {
                return;
            }
            let (member, command) = (context.identity.member, Box::new(command));
            let command = Command::OfLife { member, incarnation, command };
            let proposed = {
                let _room = under_way.acquire().await.expect("never closed");
                context.propose_until_known(command, wanted).await
            };
            if let Some(proposed) = proposed {
                then(context, proposed.index, proposed.outcome).await;
            }
        });
    }

    fn established(&self, report: &EstablishedReport) -> Result<(), Invalid> {
        let database = ids::database(&report.database)?;
        let epoch = epoch(report.epoch)?;
        let command = Command::Established { database, epoch };
        self.propose(
            command,
            move |state| is_epoch(state, database, epoch),
            |_, _, outcome| async {
                if let Outcome::Refused(refusal) = outcome {
                    tracing::info!(%refusal, "an established epoch was not recorded");
                }
            },
        );
        Ok(())
    }

    fn rule(&self, proposal: ProposeRule) -> Result<(), Invalid> {
        let database = ids::database(&proposal.database)?;
        let epoch = epoch(proposal.epoch)?;
        let rule: CommitRule = proposal.rule.ok_or(Invalid("rule"))?.try_into()?;
        let expected_version = proposal.expected_version;
        let proposed_version = rule.version;
        let why = &proposal.reason;
        tracing::info!(%database, %epoch, version = rule.version, why, "rule change");
        let command = Command::ChangeRule { database, epoch, expected_version, rule };
        let wanted = move |state: &ClusterState| is_epoch(state, database, epoch);
        self.propose(command, wanted, move |context, index, _| async move {
            // Whatever the outcome says, the recorded rule is what counts; it is known here at
            // `index`.
            context.applied.reached(index).await;
            let recorded = context.applied.read(|state| {
                let database = state.databases.get(&database).filter(|d| d.epoch == epoch)?;
                database.rule.as_ref().map(v1::CommitRule::from)
            });
            // With a newer epoch there is nothing to say: its assignment closes this one.
            if let Some(recorded) = recorded {
                let outcome = RuleOutcome {
                    database: ids::bytes(database),
                    epoch: Some(epoch.into()),
                    recorded: Some(recorded),
                    proposed_version,
                };
                // A dead data process proposes anew in its next life.
                let _ = context.link.send(control_to_data::Message::Rule(outcome)).await;
            }
        });
        Ok(())
    }

    /// What an active promises of its acknowledgements; the next assignment tells it that this is
    /// recorded.
    fn ceiling(&self, proposal: &ProposeCeiling) -> Result<(), Invalid> {
        let database = ids::database(&proposal.database)?;
        let (epoch, number) = (epoch(proposal.epoch)?, proposal.number);
        let ceiling = match proposal.ceiling.is_empty() {
            true => None,
            false => {
                let read = serde_json::from_slice(&proposal.ceiling);
                Some(read.map_err(|_| Invalid("ceiling"))?)
            }
        };
        let command = Command::SetCeiling { database, epoch, number, ceiling };
        let wanted = move |state: &ClusterState| is_epoch(state, database, epoch);
        self.propose(command, wanted, |_, _, _| async {});
        Ok(())
    }

    fn given_up(&self, report: &EpochGivenUp) -> Result<(), Invalid> {
        let database = ids::database(&report.database)?;
        let expected = epoch(report.epoch)?;
        tracing::warn!(%database, epoch = %expected, why = report.reason, "an epoch is given up");
        let tag = FailureTag::named(&report.tag);
        let reason = tag.map_or(ActivationReason::Wedged, |tag| ActivationReason::Failed { tag });
        let command = Command::AllocateEpochs(vec![AllocateItem { database, expected, reason }]);
        let wanted = move |state: &ClusterState| is_epoch(state, database, expected);
        self.propose(command, wanted, |_, _, _| async {});
        Ok(())
    }

    /// Records what a copy does to get back onto its active's log.
    fn divergence(&self, report: DivergenceReport) -> Result<(), Invalid> {
        let database = ids::database(&report.database)?;
        let kind = EventKind::Divergence {
            copy: ids::copy(&report.copy)?,
            rung: report.rung,
            finished: report.finished,
            salvage_bytes: report.salvage_bytes,
            replay_bytes: report.replay_bytes,
            keys: report.keys,
            bytes: report.bytes,
            rounds: report.rounds,
        };
        let member = Some(self.context.identity.member);
        let command = Command::AppendEvent { member, database: Some(database), kind };
        let wanted = move |state: &ClusterState| state.databases.contains_key(&database);
        self.propose(command, wanted, |_, _, _| async {});
        Ok(())
    }

    /// Somebody did or tried something at the data process, which folds what repeats.
    fn audit(&self, report: &AuditReport) -> Result<(), Invalid> {
        let line = serde_json::from_slice(&report.line).map_err(|_| Invalid("audit"))?;
        self.context.audit.note(line);
        Ok(())
    }

    /// Leaves an event. It is tried a few times only: what is told while nobody leads the cluster
    /// may be told to the log of the member alone.
    fn news(&self, report: &NewsReport) -> Result<(), Invalid> {
        let database = match report.database.is_empty() {
            true => None,
            false => Some(ids::database(&report.database)?),
        };
        let news: News = serde_json::from_slice(&report.news).map_err(|_| Invalid("news"))?;
        let member = Some(self.context.identity.member);
        let kind = EventKind::Reported(news);
        let command = Command::AppendEvent { member, database, kind };
        let Ok(room) = self.telling.clone().try_acquire_owned() else { return Ok(()) };
        let context = self.context.clone();
        self.context.spawn(async move {
            let _room = room;
            for _ in 0..NEWS_TRIES {
                match context.propose(command.clone()).await {
                    Ok(_) => return,
                    Err(refusal) => tracing::debug!(%refusal, "an event is told again"),
                }
                tokio::time::sleep(NEWS_PAUSE).await;
            }
        });
        Ok(())
    }

    fn copy_stopped(&self, report: CopyStopped) -> Result<(), Invalid> {
        let (database, copy) = (ids::database(&report.database)?, ids::copy(&report.copy)?);
        let CopyStopped { resumes, comment, needs_seed, tag, .. } = report;
        let tag = FailureTag::named(&tag);
        let command = Command::SuspendFailed { database, copy, resumes, comment, needs_seed, tag };
        let wanted = move |state: &ClusterState| {
            let config = state.databases.get(&database).and_then(|d| d.copies.get(&copy));
            config.is_some_and(|config| config.resumes == resumes)
        };
        self.propose(command, wanted, |_, _, _| async {});
        Ok(())
    }

    /// A copy that lost its files becomes another one (R4): never its own witness again. The word
    /// may wait long for a leader, and is looked at again each time it is proposed: a copy that
    /// found its files meanwhile stays what it is.
    fn copy_forgot(&self, report: &CopyForgot) -> Result<(), Invalid> {
        let (database, old) = (ids::database(&report.database)?, ids::copy(&report.copy)?);
        let lost = self.lost.clone();
        if report.found {
            tracing::info!(%database, %old, "a copy has found its files again");
            lost.found(old);
            return Ok(());
        }
        let word = lost.lost(old);
        let new = CopyId::from_bytes(rand::random());
        tracing::warn!(%database, %old, %new, "a copy has lost its files and gets a new id");
        let command = Command::ReplaceCopy { database, old, new };
        let wanted = move |state: &ClusterState| {
            let database = state.databases.get(&database);
            database.is_some_and(|d| d.copies.contains_key(&old) && d.target != Some(old))
                && lost.stands(old, word)
        };
        self.propose(command, wanted, |_, _, outcome| async {
            if let Outcome::Refused(refusal) = outcome {
                tracing::info!(%refusal, "a copy without files has no new id yet");
            }
        });
        Ok(())
    }

    /// An event for people: one that cannot be recorded while the copy's database is here is tried
    /// again like everything else.
    fn noted(&self, note: CopyNote) -> Result<(), Invalid> {
        let (database, copy) = (ids::database(&note.database)?, ids::copy(&note.copy)?);
        let command = Command::AppendEvent {
            member: Some(self.context.identity.member),
            database: Some(database),
            kind: EventKind::CopyDamage { copy, code: note.code, text: note.text },
        };
        let wanted = move |state: &ClusterState| {
            state.databases.get(&database).is_some_and(|d| d.copies.contains_key(&copy))
        };
        self.propose(command, wanted, |_, _, _| async {});
        Ok(())
    }

    /// How far a seed is, or how it ended.
    fn seed(&self, report: SeedReport) -> Result<(), Invalid> {
        let (database, copy) = (ids::database(&report.database)?, ids::copy(&report.copy)?);
        let operation = ids::operation(&report.operation)?;
        let command = if report.ended {
            let reason = RefusalReason::from_code(&report.code);
            let result = reason.map_or(Ok(()), |reason| {
                Err(keelson_cluster_core::Refusal::new(reason, report.message))
            });
            Command::EndSeed { database, copy, operation, result }
        } else {
            let progress = serde_json::from_slice(&report.progress);
            let progress = progress.map_err(|_| Invalid("progress"))?;
            let (from, epoch) = (report.from.map(Into::into), report.from_epoch.map(Into::into));
            Command::ReportSeed { database, copy, operation, progress, from, epoch }
        };
        // One report of a seed is on its way at a time; the end is repeated until it is seen.
        let Some(turn) = Turn::take(&self.seeds, (operation, report.ended)) else { return Ok(()) };
        let wanted = move |state: &ClusterState| {
            let _turn = &turn;
            let config = state.databases.get(&database).and_then(|d| d.copies.get(&copy));
            let order = config.and_then(|config| config.seeding.as_ref());
            order.is_some_and(|order| order.operation == operation)
        };
        self.propose(command, wanted, |_, _, outcome| async {
            if let Outcome::Refused(refusal) = outcome {
                tracing::info!(%refusal, "a report of a seed was not recorded");
            }
        });
        Ok(())
    }

    fn mark_cut_off(&self, report: &MarkCutOff) -> Result<(), Invalid> {
        let (database, epoch) = (ids::database(&report.database)?, epoch(report.epoch)?);
        let copies = report.copies.iter().map(|id| ids::copy(id)).collect::<Result<_, _>>()?;
        let operations = report.operations.iter().map(|id| ids::operation(id));
        let operations = operations.collect::<Result<_, _>>()?;
        let command = Command::MarkCutOff { database, epoch, copies, operations };
        let wanted = move |state: &ClusterState| is_epoch(state, database, epoch);
        self.propose(command, wanted, |_, _, outcome| async {
            if let Outcome::Refused(refusal) = outcome {
                tracing::info!(%refusal, "no copy is cut off");
            }
        });
        Ok(())
    }

    fn clear_cut_off(&self, report: &ClearCutOff) -> Result<(), Invalid> {
        let (database, epoch) = (ids::database(&report.database)?, epoch(report.epoch)?);
        let copy = ids::copy(&report.copy)?;
        let command = Command::ClearCutOff { database, epoch, copy };
        let wanted = move |state: &ClusterState| is_epoch(state, database, epoch);
        self.propose(command, wanted, |_, _, _| async {});
        Ok(())
    }

    /// Certifies that a life of this member's data process is dead, until the state says so.
    pub(crate) fn certify(&self, incarnation: IncarnationId) {
        let context = self.context.clone();
        self.context.spawn(async move { certify(&context, incarnation).await });
    }
}

/// Waits until the cluster knows this life of the data process; false if it ended before.
async fn is_recorded(context: &Context, incarnation: IncarnationId) -> bool {
    let (mut applied, mut data) = (context.applied.watch(), context.data.clone());
    loop {
        if *data.borrow_and_update() != Some(incarnation) {
            return false;
        }
        if context.own_member().is_some_and(|member| member.incarnation == Some(incarnation)) {
            return true;
        }
        let news = tokio::select! {
            news = applied.changed() => news,
            news = data.changed() => news,
        };
        if news.is_err() {
            return false;
        }
    }
}

fn epoch(epoch: Option<v1::Epoch>) -> Result<Epoch, Invalid> {
    epoch.map(Into::into).ok_or(Invalid("epoch"))
}

fn is_epoch(state: &ClusterState, database: DatabaseId, epoch: Epoch) -> bool {
    state.databases.get(&database).is_some_and(|database| database.epoch <= epoch)
}

async fn certify(context: &Arc<Context>, incarnation: IncarnationId) {
    let member = context.identity.member;
    let over = || {
        context.applied.read(|state| {
            state
                .members
                .get(&member)
                .is_some_and(|m| m.certified_dead.contains(&incarnation) || m.incarnation.is_none())
        })
    };
    // A life that was never recorded holds no lease; nobody need know of its death.
    let recorded = context.own_member().is_some_and(|m| !m.is_over(incarnation));
    if !recorded {
        return;
    }
    let mut pause = CERTIFY_PAUSE_MIN;
    let mut told = false;
    while !over() {
        if let Err(refusal) = deliver(context, incarnation).await {
            tracing::debug!(%refusal, "a death certificate is delivered again");
        } else if !told {
            tracing::info!(%incarnation, "the death of the data process is certified");
            told = true;
        }
        let mut applied = context.applied.watch();
        let _ = tokio::time::timeout(pause, applied.changed()).await;
        pause = (pause * 2).min(CERTIFY_PAUSE_MAX);
    }
}

/// Asks the leader, then every voter, until one takes the certificate.
async fn deliver(context: &Arc<Context>, incarnation: IncarnationId) -> Result<(), Refusal> {
    let member = context.identity.member;
    if context.is_leader() {
        return context.end_incarnation(member, incarnation, true).await;
    }
    let mut refused = context.not_leader();
    let mut asked = BTreeSet::new();
    let leader = context.leader().map(|(_, node)| node);
    for node in leader.into_iter().chain(voters(context)) {
        if node.member == member || !asked.insert(node.member) {
            continue;
        }
        let request = CertifyDeathRequest {
            member: ids::bytes(member),
            incarnation: ids::bytes(incarnation),
        };
        let mut client = context.peers.cluster(&node.name, &node.control_address, Lane::Control);
        let send = |request| async move { client.certify_death(request).await };
        match call(CERTIFY_DEADLINE, request, send).await {
            Ok(_) => return Ok(()),
            Err(refusal) => refused = refusal,
        }
    }
    Err(refused)
}

fn voters(context: &Context) -> Vec<ClusterNode> {
    let metrics = context.raft.server_metrics();
    let metrics = metrics.borrow();
    let membership = metrics.membership_config.membership();
    let voters = membership.voter_ids().filter_map(|id| membership.get_node(&id).cloned());
    voters.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A word that waited counts only as long as nothing newer was said of the copy.
    #[test]
    fn a_copy_that_found_its_files_takes_its_word_back() {
        let (lost, copy) = (LostFiles::default(), CopyId::from_u128(1));
        let first = lost.lost(copy);
        assert!(lost.stands(copy, first) && !lost.stands(CopyId::from_u128(2), first));
        lost.found(copy);
        assert!(!lost.stands(copy, first), "it healed");
        let second = lost.lost(copy);
        assert!(lost.stands(copy, second) && !lost.stands(copy, first), "it was lost again");
    }
}
