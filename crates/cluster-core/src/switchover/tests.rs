//! Tests of `switchover`.

use keelson_types::{
    CommitConstraint, ContentIndexState, OldFiles, OperationId, SeedOrder, SeedScope,
    SuspendRequest,
};

use super::*;
use crate::command::Command;
use crate::member::MemberActivation;
use crate::testing::{DB, Log, copy, create, end, member, rule};

/// [`DB`] is active on member 1; copies 2 and 3 are well.
struct Scene {
    log: Log,
    reports: BTreeMap<CopyId, CopyReport>,
    alive: BTreeSet<MemberId>,
    actives: BTreeMap<MemberId, u32>,
    skip: BTreeSet<Skip>,
    moves: usize,
}

impl Scene {
    fn new() -> Self {
        let mut log = Log::with_members(3);
        log.ok(&create(1, &[1, 2, 3]));
        let database = log.state.databases.get_mut(&DB).expect("created");
        database.state = DatabaseState::Established;
        database.target = Some(copy(1));
        database.rule = Some(rule(1, 1, CommitConstraint::SecondCopy, &[1, 2, 3]));
        let report = |n| {
            let status = if n == 1 { CopyStatus::Mounted } else { CopyStatus::Healthy };
            let content_index = ContentIndexState::Healthy;
            let health = CopyHealth { content_index, ..CopyHealth::default() };
            (copy(n), CopyReport { status, fault: None, end: end(1, 10), health })
        };
        Self {
            log,
            reports: (1..=3).map(report).collect(),
            alive: (1..=3).map(member).collect(),
            actives: BTreeMap::from([(member(1), 1)]),
            skip: BTreeSet::new(),
            moves: 0,
        }
    }

    fn plan(&self, to: Option<u128>) -> MovePlan {
        let input = MoveInput {
            state: &self.log.state,
            database: &self.log.state.databases[&DB],
            reports: &self.reports,
            alive: &self.alive,
            actives: &self.actives,
            skip: &self.skip,
            moves: (self.moves, 3),
        };
        plan_move(&input, to.map(member))
    }

    fn report(&mut self, n: u128) -> &mut CopyReport {
        self.reports.get_mut(&copy(n)).expect("reported")
    }

    fn database(&mut self) -> &mut Database {
        self.log.state.databases.get_mut(&DB).expect("exists")
    }

    fn refused(&self, to: Option<u128>) -> Option<RefusalReason> {
        self.plan(to).refusal.map(|refusal| refusal.reason)
    }
}

fn seed(source: u128) -> SeedOrder {
    SeedOrder {
        operation: OperationId::from_u128(1),
        copy: copy(9),
        source: Some(member(source)),
        old_files: OldFiles::Keep,
        scope: SeedScope::Everything,
        manual_resume: false,
        no_throttle: false,
        network: None,
        compression: None,
        spare: None,
    }
}

#[test]
fn a_healthy_target_passes_every_check() {
    let plan = Scene::new().plan(Some(2));
    assert_eq!((plan.from, plan.to, &plan.refusal), (Some(member(1)), Some(member(2)), &None));
    let (_, rows) = &plan.checked[0];
    assert_eq!(rows.len(), 14, "every check has its row");
    assert!(rows.iter().all(|row| row.verdict == CheckVerdict::Passed), "{rows:?}");
    assert!(!plan.has_warning());
}

/// F31-F35: each check refuses with its code, and its flag turns it into a warning; what no flag
/// skips stays refused.
#[test]
fn each_check_refuses_and_is_skipped_by_its_flag() {
    type Arrange = fn(&mut Scene);
    let table: [(Arrange, RefusalReason, Option<Skip>); 14] = [
        (
            |s| s.report(2).status = CopyStatus::Failed,
            RefusalReason::TargetUnfit,
            Some(Skip::Health),
        ),
        (
            |s| s.report(2).fault = Some("disk".into()),
            RefusalReason::TargetUnfit,
            Some(Skip::Health),
        ),
        (
            |s| s.report(2).health.short_of_space = true,
            RefusalReason::TargetUnfit,
            Some(Skip::Health),
        ),
        (
            |s| s.database().copies.get_mut(&copy(3)).unwrap().seeding = Some(seed(1)),
            RefusalReason::FeedsSeed,
            Some(Skip::ActiveCopy),
        ),
        (
            |s| s.report(2).health.copy_queue_bytes = 10 * LOG_UNIT_BYTES,
            RefusalReason::QueueTooLong,
            Some(Skip::Lag),
        ),
        (
            |s| s.report(2).health.replay_queue_bytes = 50 * LOG_UNIT_BYTES,
            RefusalReason::QueueTooLong,
            Some(Skip::Lag),
        ),
        (
            |s| s.report(2).status = CopyStatus::SeedingSource,
            RefusalReason::FeedsSeed,
            Some(Skip::Lag),
        ),
        (
            |s| s.report(2).health.content_index = ContentIndexState::Crawling,
            RefusalReason::ContentIndexUnfit,
            Some(Skip::ClientExperience),
        ),
        (
            |s| limit(s, MemberActivation { max_active_preferred: Some(0), ..Default::default() }),
            RefusalReason::ActiveLimit,
            Some(Skip::MaxActive),
        ),
        (
            |s| limit(s, MemberActivation { max_active: Some(0), ..Default::default() }),
            RefusalReason::ActiveLimit,
            None,
        ),
        (|s| s.moves = 3, RefusalReason::MoveSuppressed, Some(Skip::MoveSuppression)),
        (|s| s.alive.retain(|alive| *alive != member(2)), RefusalReason::TargetUnfit, None),
        (|s| s.database().intent = MountIntent::Dismounted, RefusalReason::Dismounted, None),
        (|s| s.database().state = DatabaseState::Sealing, RefusalReason::Activating, None),
    ];
    for (number, (arrange, reason, flag)) in table.into_iter().enumerate() {
        let mut scene = Scene::new();
        arrange(&mut scene);
        assert_eq!(scene.refused(Some(2)), Some(reason), "row {number}");
        scene.skip = Skip::ALL.into_iter().filter(|skip| Some(*skip) != flag).collect();
        assert_eq!(scene.refused(Some(2)), Some(reason), "row {number}: other flags do not help");
        scene.skip = Skip::ALL.into();
        let plan = scene.plan(Some(2));
        assert_eq!(plan.refusal.is_none(), flag.is_some(), "row {number}");
        assert_eq!(plan.has_warning(), flag.is_some(), "row {number}");
    }
}

fn limit(scene: &mut Scene, activation: MemberActivation) {
    scene.log.ok(&Command::SetActivation { member: member(2), activation });
}

/// F36, F18: the best of the other copies, and the next best one if it does not pass.
#[test]
fn a_move_without_a_target_takes_the_best_other_copy() {
    let mut scene = Scene::new();
    assert_eq!(scene.plan(None).to, Some(member(2)), "by preference");
    scene.report(2).health.content_index = ContentIndexState::Crawling;
    assert_eq!(scene.plan(None).to, Some(member(3)), "by criteria set");
    scene.report(3).status = CopyStatus::Failed;
    let plan = scene.plan(None);
    assert_eq!((plan.to, plan.checked.len()), (None, 2), "all that were considered are shown");
    assert_eq!(plan.refusal.map(|r| r.reason), Some(RefusalReason::NoCandidate));
}

/// F25, F26: blocks hold for a move that goes there by itself; whoever names the copy is warned.
#[test]
fn blocked_copies_are_taken_only_by_name() {
    let mut scene = Scene::new();
    limit(&mut scene, MemberActivation { policy: ActivationPolicy::Blocked, ..Default::default() });
    assert_eq!(scene.plan(None).to, Some(member(3)));
    let plan = scene.plan(Some(2));
    assert_eq!((plan.to, plan.has_warning()), (Some(member(2)), true));
    let request = SuspendRequest { activation_only: true, ..Default::default() };
    scene.log.ok(&Command::SuspendCopy { database: DB, copy: copy(3), request });
    assert_eq!(scene.refused(None), Some(RefusalReason::NoCandidate));
    assert_eq!(scene.plan(Some(3)).to, Some(member(3)));
}

#[test]
fn a_copy_that_does_not_replicate_is_no_target() {
    let mut scene = Scene::new();
    let request = SuspendRequest::default();
    scene.log.ok(&Command::SuspendCopy { database: DB, copy: copy(2), request });
    scene.skip = Skip::ALL.into();
    assert_eq!(scene.refused(Some(2)), Some(RefusalReason::TargetUnfit));
    assert_eq!(scene.refused(Some(9)), Some(RefusalReason::UnknownCopy));
}

/// G8: a refusal is decided again from what is kept of it, and with other inputs.
#[test]
fn a_refused_move_is_explained_from_its_record() {
    use crate::{ActivationReason, Besides, DecisionRecord, RefusedMove, explain};
    let mut scene = Scene::new();
    scene.report(2).health.copy_queue_bytes = 12 * LOG_UNIT_BYTES;
    let plan = scene.plan(Some(2));
    let refused = RefusedMove {
        to: Some(member(2)),
        careful: false,
        comment: String::new(),
        facts: *plan.facts.expect("kept"),
        refusal: plan.refusal.expect("refused"),
    };
    let reason = ActivationReason::Switchover { to: member(2) };
    let of = (DB, crate::testing::epoch(1));
    let record = DecisionRecord::of("test", of, reason, Besides::RefusedMove(refused));
    assert!(!record.inputs_omitted);
    let json = serde_json::to_string(&record).expect("serializes");
    let record: DecisionRecord = serde_json::from_str(&json).expect("reads");
    let found = explain(&record, &[]).expect("no changes");
    assert_eq!((found.chosen, &found.differences[..], found.incomplete), (None, &[][..], false));
    let failed = found.candidates[0].criteria.iter().filter(|row| !row.met);
    assert_eq!(failed.map(|row| row.name).collect::<Vec<_>>(), ["copy_queue"]);
    let with = |change: &str| explain(&record, &[change.to_owned()]);
    assert_eq!(with("m2.copy_queue=1").expect("a change").chosen, Some(copy(2)));
    assert_eq!(with("to=m3").expect("a change").chosen, Some(copy(3)));
    assert_eq!(with("m3.alive=false").expect("a change").chosen, None);
    assert_eq!(with("m2.colour=red").expect_err("no key").reason, RefusalReason::BadArgument);
    assert_eq!(with("to=m9").expect_err("unknown").reason, RefusalReason::UnknownMember);
}
