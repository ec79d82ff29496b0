//! A copy that stays failed, from the first look to the last step.

use keelson_types::{MountIntent, RefusalReason, ResumeRequest, Setting, SuspendRequest};

use super::*;
use crate::apply::tests::{activate, three_copies, without_third};
use crate::command::{Command, Refusal};
use crate::event::EventKind;
use crate::testing::{DB, Log, copy, member};

const MINUTE: u64 = 60_000;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;
/// An arbitrary morning.
const START: u64 = 1_700_000_000_000;

/// A cluster, its leader's memory, and what members say.
pub(super) struct World {
    pub(super) log: Log,
    watch: ReseedWatch,
    pub(super) seen: Seen,
    pub(super) places: SeenPlaces,
    now: u64,
}

fn well() -> CopySeen {
    CopySeen { status: CopyStatus::Healthy, tag: None }
}

fn failed(tag: FailureTag) -> CopySeen {
    CopySeen { status: CopyStatus::Failed, tag: Some(tag) }
}

impl World {
    /// Copy 1 is active, 2 counts, 3 does not.
    fn new() -> Self {
        let mut log = three_copies();
        activate(&mut log, 1);
        without_third(&mut log);
        let mounted = CopySeen { status: CopyStatus::Mounted, tag: None };
        let seen = [(copy(1), mounted), (copy(2), well()), (copy(3), well())].into();
        let (watch, places) = Default::default();
        Self { log, watch, seen, places, now: START }
    }

    fn stamped(&mut self, command: Command) {
        let command = Box::new(command);
        self.log.ok(&Command::Stamped { unix_ms: self.now, command });
    }

    /// The member of copy 3 says that it does not heal.
    fn suspend(&mut self, tag: FailureTag) {
        let (resumes, needs_seed) = (self.config().resumes, tag == FailureTag::MissingLog);
        let (comment, tag) = ("it failed".into(), Some(tag));
        let third = self.third();
        let (database, copy) = (DB, third);
        let command = Command::SuspendFailed { database, copy, resumes, comment, needs_seed, tag };
        self.stamped(command);
        let status = CopyStatus::FailedAndSuspended;
        self.seen.insert(third, CopySeen { status, tag: self.config().failure });
    }

    pub(super) fn suspended(tag: FailureTag) -> Self {
        let mut world = Self::new();
        world.suspend(tag);
        world
    }

    fn third(&self) -> CopyId {
        self.log.state.databases[&DB].copy_on(member(3)).expect("it has a copy")
    }

    pub(super) fn config(&self) -> &CopyConfig {
        &self.log.state.databases[&DB].copies[&self.third()]
    }

    fn set(&mut self, setting: Setting, value: u64) {
        let name = setting.info().name.to_owned();
        self.log.ok(&Command::ChangeSetting { name, value: Some(value) });
    }

    /// The order of a later look, which is not carried out.
    pub(super) fn look_after(&mut self, millis: u64) -> ReseedOrder {
        self.now += millis;
        let seen = (&self.seen, &self.places);
        let orders = self.watch.look(&self.log.state, seen, self.now);
        let [order] = &orders[..] else { panic!("one order, not {orders:?}") };
        order.clone()
    }

    /// What is done about copy 3 after `millis`; carried out as the leader would.
    pub(super) fn after(&mut self, millis: u64) -> Option<Result<ReseedWish, String>> {
        self.now += millis;
        let seen = (&self.seen, &self.places);
        let orders = self.watch.look(&self.log.state, seen, self.now);
        assert!(orders.len() <= 1, "{orders:?}");
        let wish = orders.into_iter().next()?.wish;
        if let Ok(wish) = &wish {
            self.carry_out(wish);
        }
        Some(wish)
    }

    fn carry_out(&mut self, wish: &ReseedWish) {
        let steps = self.config().autoreseed.unwrap_or_default().steps();
        let number = u128::from(steps) + 500;
        let (operation, fresh) = (OperationId::from_u128(number), CopyId::from_u128(number));
        let step = match wish {
            ReseedWish::Suspend(tag) => return self.suspend(*tag),
            ReseedWish::Resume => ReseedStep::Resume,
            ReseedWish::Seed(old) => ReseedStep::Seed(order(operation, fresh, *old)),
            ReseedWish::AssignSpare(spare) => {
                let order = order(operation, fresh, OldFiles::Keep);
                ReseedStep::Seed(SeedOrder { spare: Some(spare.clone()), ..order })
            }
            ReseedWish::Stop => ReseedStep::Stop,
            ReseedWish::Reset => ReseedStep::Reset,
            ReseedWish::Done => ReseedStep::Done,
        };
        let (database, copy) = (DB, self.third());
        self.stamped(Command::ReseedStep { database, copy, steps, step });
    }

    /// The seed under way ends.
    pub(super) fn end_seed(&mut self, result: Result<(), Refusal>) {
        let (copy, order) = (self.third(), self.config().seeding.clone().expect("a seed runs"));
        let operation = order.operation;
        self.stamped(Command::EndSeed { database: DB, copy, operation, result });
    }

    fn events(&self) -> Vec<String> {
        let steps = self.log.state.events.iter().filter_map(|event| match &event.kind {
            EventKind::AutoReseed { step, .. } => serde_json::to_value(step).ok(),
            _ => None,
        });
        let name = |step: serde_json::Value| match step {
            serde_json::Value::Object(fields) => fields.keys().next().cloned().unwrap_or_default(),
            other => other.as_str().unwrap_or_default().to_owned(),
        };
        steps.map(name).collect()
    }
}

fn act(wish: ReseedWish) -> Option<Result<ReseedWish, String>> {
    Some(Ok(wish))
}

#[track_caller]
fn blocked(found: Option<Result<ReseedWish, String>>, why: &str) {
    match found {
        Some(Err(text)) => assert!(text.contains(why), "{text}"),
        other => panic!("{other:?} instead of {why:?}"),
    }
}

/// F129, step for step: failed for 10 minutes, suspended for 15, three resumes, five seeds, the
/// end, and again after three days.
#[test]
fn the_whole_way_of_a_copy_that_nothing_helps() {
    let mut world = World::new();
    world.seen.insert(copy(3), failed(FailureTag::Store));
    assert_eq!(world.after(0), None);
    assert_eq!(world.after(10 * MINUTE - 1), None);
    assert_eq!(world.after(1), act(ReseedWish::Suspend(FailureTag::Store)));
    assert_eq!(world.after(15 * MINUTE - 1), None);
    for resume in 1..=RESUMES_MAX {
        assert_eq!(world.after(1), act(ReseedWish::Resume), "resume {resume}");
        assert!(!world.config().is_stopped(), "it goes on");
        world.suspend(FailureTag::Store);
        assert_eq!(world.after(5 * MINUTE - 1), None, "resume {resume}");
    }
    for seed in 1..=SEEDS_MAX {
        assert_eq!(world.after(1), act(ReseedWish::Seed(OldFiles::Keep)), "seed {seed}");
        assert_eq!(world.after(MINUTE), None, "it runs");
        world.end_seed(Err(Refusal::new(RefusalReason::SourceUnfit, "the source went away")));
        assert_eq!(world.after(HOUR - MINUTE - 1), None, "seed {seed}");
    }
    assert_eq!(world.after(1), act(ReseedWish::Stop));
    assert_eq!(world.after(3 * DAY - 1), None);
    assert_eq!(world.after(1), act(ReseedWish::Reset));
    assert_eq!(world.after(0), act(ReseedWish::Resume));
    let told = world.events();
    let count = |name: &str| told.iter().filter(|step| *step == name).count();
    assert_eq!(["resumed", "seeding", "stopped", "reset"].map(count), [4, 5, 1, 1], "{told:?}");
}

/// What misses log is seeded at once, and is well under its new id; then nothing is remembered.
#[test]
fn a_copy_that_misses_log_is_seeded_and_forgotten_when_it_is_well() {
    let mut world = World::suspended(FailureTag::MissingLog);
    assert_eq!(world.after(15 * MINUTE), act(ReseedWish::Seed(OldFiles::Keep)));
    world.end_seed(Ok(()));
    let fresh = world.third();
    assert_ne!(fresh, copy(3));
    assert!(!world.config().is_stopped() && world.config().autoreseed.is_some());
    assert_eq!(world.after(0), None, "nobody saw it well yet");
    world.seen = [(fresh, well())].into();
    assert_eq!(world.after(0), act(ReseedWish::Done));
    assert_eq!(world.config().autoreseed, None);
    assert_eq!(world.events(), ["seeding", "done"]);
    assert_eq!(world.after(DAY), None);
}

/// G4: nothing is deleted by automation; salvage lies beside the log, and log that is missing says
/// nothing of a fork in what is there.
#[test]
fn old_files_stay_whatever_others_hold() {
    let others = [copy(1), copy(2)];
    for (tag, healthy, old) in [
        (FailureTag::MissingLog, 2, OldFiles::Keep),
        (FailureTag::MissingLog, 1, OldFiles::Keep),
        (FailureTag::Diverged, 2, OldFiles::Keep),
    ] {
        let mut world = World::suspended(tag);
        world
            .log
            .state
            .databases
            .get_mut(&DB)
            .expect("exists")
            .copies
            .get_mut(&copy(3))
            .expect("exists")
            .autoreseed = Some(AutoReseed { resumes: 3, ..AutoReseed::default() });
        for other in &others[healthy..] {
            world.seen.remove(other);
        }
        assert_eq!(world.after(DAY), act(ReseedWish::Seed(old)), "{tag} beside {healthy}");
    }
}

/// F130 and the switches: each limit has a sentence, told once.
#[test]
fn limits_are_kept_and_told() {
    type Arrange = fn(&mut World);
    let table: [(Arrange, &str); 8] = [
        (|w| w.set(Setting::Autoreseed, 0), "off in this cluster"),
        (
            |w| {
                let database = w.log.state.databases.get_mut(&DB).expect("exists");
                database.settings.autoreseed = false;
            },
            "off for the database",
        ),
        (
            |w| {
                let comment = "disk".to_owned();
                w.log.ok(&Command::BeginMaintenance { member: member(3), comment });
            },
            "under maintenance",
        ),
        (|w| w.seen.retain(|id, _| *id != copy(3)), "does not answer"),
        (
            |w| w.seen = [(copy(3), failed(FailureTag::MissingLog))].into(),
            "no other copy is healthy",
        ),
        (
            |w| {
                let config = w.log.state.databases.get_mut(&DB).expect("exists");
                config.intent = MountIntent::Dismounted;
            },
            "dismounted",
        ),
        (
            |w| {
                w.set(Setting::AutoreseedCopiesMax, 1);
                w.log.ok(&crate::testing::create(2, &[3]));
                let config = w.log.state.databases.get_mut(&DatabaseId::from_u128(2));
                let copies = &mut config.expect("exists").copies;
                let other = copies.values_mut().next().expect("one");
                other.suspension =
                    other.suspension.suspended_by_system(SuspendedBy::Fault, "disk", START + DAY);
                other.failure = Some(FailureTag::Store);
            },
            "fault of the server",
        ),
        (
            |w| {
                let config = w.log.state.databases.get_mut(&DB).expect("exists");
                config.copies.get_mut(&copy(3)).expect("exists").failure =
                    Some(FailureTag::CrashLoop);
            },
            "crash_loop is left to a person (quarantine)",
        ),
    ];
    for (arrange, why) in table {
        let mut world = World::suspended(FailureTag::MissingLog);
        arrange(&mut world);
        blocked(world.after(15 * MINUTE), why);
        assert_eq!(world.after(MINUTE), None, "told once: {why}");
        assert_eq!(world.config().seeding, None);
    }
}

/// A copy that mends itself gets more time; one that gave that up does not need it.
#[test]
fn a_copy_that_is_being_mended_is_not_stopped_soon() {
    let (tag, given_up) = (FailureTag::Untrusted, CopyStatus::FailedAndSuspended);
    let mut world = World::new();
    world.seen.insert(copy(3), failed(tag));
    assert_eq!(world.after(0), None);
    assert_eq!(world.after(HOUR + 10 * MINUTE - 1), None);
    assert_eq!(world.after(1), act(ReseedWish::Suspend(tag)));
    let mut world = World::new();
    world.seen.insert(copy(3), CopySeen { status: given_up, tag: Some(tag) });
    assert_eq!(world.after(0), None);
    assert_eq!(world.after(10 * MINUTE), act(ReseedWish::Suspend(tag)));
}

/// What an operator or an activation at an instant suspended is nobody else's business; an
/// operator's resume begins anew.
#[test]
fn the_word_of_an_operator_goes_first() {
    let mut world = World::new();
    let request = SuspendRequest { comment: "disk".into(), ..SuspendRequest::default() };
    world.stamped(Command::SuspendCopy { database: DB, copy: copy(3), request });
    assert_eq!(world.after(DAY), None);
    let mut world = World::suspended(FailureTag::Store);
    assert_eq!(world.after(15 * MINUTE), act(ReseedWish::Resume));
    world.suspend(FailureTag::Store);
    let request = ResumeRequest::default();
    world.stamped(Command::ResumeCopy { database: DB, copy: copy(3), request });
    assert_eq!(world.config().autoreseed, None);
}

/// While the index alone is seeded the copy is resumed as ever; a seed of the copy waits.
#[test]
fn a_seed_of_the_index_stops_no_resume() {
    let index_seed = |world: &mut World| {
        let (operation, fresh) = (OperationId::from_u128(900), CopyId::from_u128(900));
        let scope = keelson_types::SeedScope::Catalog;
        let order = SeedOrder { scope, ..order(operation, fresh, OldFiles::Keep) };
        world.stamped(Command::BeginSeed { database: DB, copy: copy(3), order });
    };
    let mut world = World::suspended(FailureTag::Store);
    index_seed(&mut world);
    assert_eq!(world.after(15 * MINUTE), act(ReseedWish::Resume));
    let mut world = World::suspended(FailureTag::MissingLog);
    index_seed(&mut world);
    blocked(world.after(15 * MINUTE), "is being seeded by operation");
}

/// A step that was decided twice, by an old and a new leader, is taken once.
#[test]
fn a_repeated_step_changes_nothing() {
    let mut world = World::suspended(FailureTag::Store);
    assert_eq!(world.after(15 * MINUTE), act(ReseedWish::Resume));
    world.suspend(FailureTag::Store);
    let (database, copy) = (DB, copy(3));
    let again = Command::ReseedStep { database, copy, steps: 0, step: ReseedStep::Resume };
    world.log.refused(RefusalReason::Precondition, &again);
}

/// G8: a step and an obstacle are decided again from what is kept of them.
#[test]
fn decisions_are_explained_from_their_records() {
    use crate::{ActivationReason, Besides, DecisionRecord, ReseedDecision, explain};
    let mut world = World::new();
    world.suspend(FailureTag::Store);
    world.now += 20 * MINUTE;
    let seen = (&world.seen, &world.places);
    let orders = world.watch.look(&world.log.state, seen, world.now);
    let [order] = &orders[..] else { panic!("one order, not {orders:?}") };
    let verdict = ReseedVerdict::Act(order.wish.clone().expect("a step"));
    assert_eq!(verdict, ReseedVerdict::Act(ReseedWish::Resume));
    let (copy, member, facts) = (order.copy, member(3), order.facts.as_ref().clone());
    let besides = Besides::Reseed(ReseedDecision { copy, member, facts, verdict });
    let reason = ActivationReason::Failed { tag: FailureTag::Store };
    let of = (DB, crate::testing::epoch(1));
    let record = DecisionRecord::of("test", of, reason, besides);
    let json = serde_json::to_string(&record).expect("serializes");
    let record: DecisionRecord = serde_json::from_str(&json).expect("reads");
    let outcome = |changes: &[&str]| {
        let changes: Vec<_> = changes.iter().map(|change| (*change).to_owned()).collect();
        let found = explain(&record, &changes).expect("a change");
        (found.outcome.expect("no activation"), found.differences.is_empty())
    };
    assert_eq!(outcome(&[]), ("it is resumed".into(), true));
    assert_eq!(outcome(&["resumes=3", "now=9000000000000"]).0, "it is seeded in place");
    assert!(outcome(&["on=false"]).0.contains("off for the database"));
    assert!(outcome(&["failed_there=9"]).0.contains("fault of the server"));
    assert!(explain(&record, &["m3.alive=true".to_owned()]).is_err());
}
