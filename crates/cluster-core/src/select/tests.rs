//! Tests of `select`.

use keelson_types::CommitConstraint as C;

use super::*;
use crate::command::Command;
use crate::testing::{DB, Log, copy, create, end, epoch, member, reply, rule, rule_record};

struct Scene {
    log: Log,
    replies: Vec<SealReply>,
    alive: BTreeSet<MemberId>,
    requested: Option<CopyId>,
    avoid: BTreeSet<CopyId>,
    weakness: Weakness,
}

impl Scene {
    /// Three copies; epoch 2 is sealed by the copies of these members with these log ends.
    fn new(replies: &[(u128, LogEnd)]) -> Self {
        let mut log = Log::with_members(3);
        log.ok(&create(1, &[1, 2, 3]));
        Self {
            log,
            replies: replies.iter().map(|(n, end)| reply(*n, epoch(2), *end)).collect(),
            alive: [member(1), member(2), member(3)].into(),
            requested: None,
            avoid: BTreeSet::new(),
            weakness: Weakness::None,
        }
    }

    fn input(&self) -> SelectionInput<'_> {
        SelectionInput {
            database: &self.log.state.databases[&DB],
            members: &self.log.state.members,
            epoch: epoch(2),
            replies: &self.replies,
            alive: &self.alive,
            requested: self.requested,
            avoid: &self.avoid,
            weakness: self.weakness,
        }
    }

    fn best(&self) -> Option<CopyId> {
        select(&self.input()).best().map(|best| best.copy)
    }

    fn excluded(&self, n: u128) -> Vec<Exclusion> {
        let selection = select(&self.input());
        let found = selection.candidates.into_iter().find(|candidate| candidate.copy == copy(n));
        found.expect("every copy is judged").excluded
    }
}

#[test]
fn the_copy_at_the_highest_end_comes_before_preference() {
    let scene = Scene::new(&[(1, end(1, 10)), (2, end(1, 20)), (3, end(1, 20))]);
    assert_eq!(scene.best(), Some(copy(2)));
    let selection = select(&scene.input());
    assert_eq!(selection.required_end, end(1, 20));
    let order: Vec<_> = selection.sources.iter().map(|source| source.copy).collect();
    assert_eq!(order, [copy(2), copy(3), copy(1)]);
}

/// A copy that still holds what was given up acknowledges nothing before it is brought back, so the
/// new epoch does not wait for it; one whose end is kept, and one of an activation that came to
/// nothing, count.
#[test]
fn the_first_rule_leaves_out_who_holds_what_was_given_up() {
    let participants = |scene: &Scene| {
        let rule = first_rule(&scene.input(), copy(1));
        rule.participants.iter().map(|p| p.copy).collect::<Vec<_>>()
    };
    let give_up = |scene: &mut Scene| {
        let receipt =
            crate::LossReceipt::new(epoch(2), end(1, 40), &[], &crate::Verdict::Lossless, None);
        scene.log.state.databases.get_mut(&DB).expect("exists").receipts.push(receipt);
    };
    let mut scene = Scene::new(&[(1, end(2, 60)), (2, end(1, 90)), (3, end(1, 40))]);
    give_up(&mut scene);
    assert_eq!(participants(&scene), [copy(1), copy(3)]);
    let mut scene = Scene::new(&[(1, end(1, 95)), (2, end(1, 90)), (3, end(1, 40))]);
    give_up(&mut scene);
    assert_eq!(participants(&scene), [copy(1), copy(2), copy(3)], "epoch 2 was never opened");
}

#[test]
fn ends_compare_by_epoch_before_position_s3() {
    let mut scene = Scene::new(&[(1, end(1, 9_000)), (3, end(2, 10))]);
    assert_eq!(scene.best(), Some(copy(3)));
    assert_eq!(select(&scene.input()).required_end, end(2, 10));
    scene.weakness = Weakness::EndsByPosition;
    assert_eq!(scene.best(), Some(copy(1)), "the discarded fork wins with the rule off");
}

#[test]
fn preference_then_name_decide_among_equals() {
    let mut scene = Scene::new(&[(1, end(1, 5)), (2, end(1, 5)), (3, end(1, 5))]);
    assert_eq!(scene.best(), Some(copy(1)));
    let preference = |n, preference| Command::SetCopy {
        database: DB,
        copy: copy(n),
        preference: Some(preference),
        leaving: None,
        lag: None,
    };
    scene.log.ok(&preference(1, 9));
    scene.log.ok(&preference(2, 3));
    assert_eq!(scene.best(), Some(copy(2)));
}

#[test]
fn a_copy_that_failed_before_comes_last() {
    let mut scene = Scene::new(&[(1, end(1, 5)), (2, end(1, 4))]);
    scene.avoid.insert(copy(1));
    assert_eq!(scene.best(), Some(copy(2)));
    scene.replies.remove(1);
    assert_eq!(scene.best(), Some(copy(1)));
}

#[test]
fn exclusions_name_their_reason() {
    let mut scene = Scene::new(&[(1, end(1, 5)), (2, end(1, 5))]);
    scene.replies[0].fault = Some(CopyFault::CrashLoop);
    scene.replies[1].may_have_lost = true;
    scene.alive.remove(&member(2));
    scene.requested = Some(copy(1));
    assert_eq!(scene.best(), None);
    assert_eq!(scene.excluded(1), [Exclusion::Faulty(CopyFault::CrashLoop)]);
    let expected = [Exclusion::Forgetful, Exclusion::NoContact, Exclusion::NotRequested];
    assert_eq!(scene.excluded(2), expected);
    assert_eq!(scene.excluded(3), [Exclusion::NoAnswer, Exclusion::NotRequested]);
}

#[test]
fn lagged_leaving_and_differently_sealed_copies_are_excluded() {
    let mut scene = Scene::new(&[(1, end(1, 5)), (2, end(1, 5)), (3, end(1, 5))]);
    scene.replies[0].sealed = epoch(1);
    scene.replies[1].ha = false;
    let leaving = Command::SetCopy {
        database: DB,
        copy: copy(3),
        preference: None,
        leaving: Some(true),
        lag: None,
    };
    scene.log.ok(&leaving);
    assert_eq!(scene.excluded(1), [Exclusion::OtherEpoch(epoch(1))]);
    assert_eq!(scene.excluded(2), [Exclusion::Lagged]);
    assert_eq!(scene.excluded(3), [Exclusion::Leaving]);
    let selection = select(&scene.input());
    assert_eq!(selection.reached, [copy(2), copy(3)].into(), "both are still reached and sources");
}

#[test]
fn forgetful_damaged_and_foreign_copies_are_not_reached_s4() {
    let mut scene = Scene::new(&[(1, end(1, 5)), (2, end(1, 5)), (3, end(1, 5))]);
    scene.replies[0].may_have_lost = true;
    scene.replies[1].fault = Some(CopyFault::LogDamaged("crc".into()));
    scene.replies[2].copy = CopyId::from_u128(77);
    assert_eq!(select(&scene.input()).reached, BTreeSet::new());
    scene.replies[1].fault = Some(CopyFault::Store("x".into()));
    assert_eq!(select(&scene.input()).reached, [copy(2)].into(), "its log is still a source");
}

#[test]
fn with_the_rule_off_a_wiped_copy_counts_under_its_old_name_h4() {
    let mut scene = Scene::new(&[(2, end(0, 0))]);
    scene.replies[0].copy = CopyId::from_u128(77);
    let record = rule_record(1, rule(1, 1, C::SecondCopy, &[1, 2, 3]));
    scene.log.state.databases.get_mut(&DB).expect("exists").unestablished.push(record);
    assert!(!select(&scene.input()).reached.contains(&copy(2)));
    scene.weakness = Weakness::ForgetfulCopyCounts;
    assert!(select(&scene.input()).reached.contains(&copy(2)));
}

#[test]
fn the_first_rule_has_the_target_and_the_copies_that_answered() {
    let mut scene = Scene::new(&[(1, end(1, 5)), (2, end(1, 3))]);
    let expected = rule(1, 1, C::SecondCopy, &[1, 2]);
    assert_eq!(first_rule(&scene.input(), copy(1)), expected);
    scene.replies[1].fault = Some(CopyFault::DiskFull);
    assert_eq!(first_rule(&scene.input(), copy(1)), rule(1, 1, C::SecondCopy, &[1]));
}

#[test]
fn with_degrade_never_the_first_rule_does_not_stand_on_one_copy() {
    let mut scene = Scene::new(&[(1, end(1, 5))]);
    scene.log.state.databases.get_mut(&DB).expect("exists").settings.degrade_after_ms = None;
    let expected = rule(1, 1, C::SecondCopy, &[1, 2, 3]);
    assert_eq!(first_rule(&scene.input(), copy(1)), expected);
}

#[test]
fn the_automatic_constraint_depends_on_the_number_of_ha_copies() {
    let mut log = Log::with_members(2);
    log.ok(&create(1, &[1]));
    assert_eq!(log.state.databases[&DB].wanted_constraint(), C::None);
    log.ok(&Command::AddCopy { database: DB, copy: crate::testing::new_copy(1, 2) });
    assert_eq!(log.state.databases[&DB].wanted_constraint(), C::SecondCopy);
}
