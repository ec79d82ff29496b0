//! Tests of `select`.

use keelson_types::{CommitConstraint as C, ContentIndexState};

use super::*;
use crate::command::Command;
use crate::testing::{DB, Log, copy, create, end, epoch, member, reply, rule, rule_record};

struct Scene {
    log: Log,
    replies: Vec<SealReply>,
    alive: BTreeSet<MemberId>,
    actives: BTreeMap<MemberId, u32>,
    requested: Option<CopyId>,
    avoid: BTreeSet<CopyId>,
    data_cut: BTreeSet<MemberId>,
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
            actives: BTreeMap::new(),
            requested: None,
            avoid: BTreeSet::new(),
            data_cut: BTreeSet::new(),
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
            actives: &self.actives,
            requested: self.requested,
            avoid: &self.avoid,
            data_cut: &self.data_cut,
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

fn set_activation(scene: &mut Scene, n: u128, activation: crate::MemberActivation) {
    scene.log.ok(&Command::SetActivation { member: member(n), activation });
}

fn policy(policy: ActivationPolicy) -> crate::MemberActivation {
    crate::MemberActivation { policy, ..crate::MemberActivation::default() }
}

/// The copy of member `n` was active last.
fn active_was(scene: &mut Scene, n: u128) {
    let database = scene.log.state.databases.get_mut(&DB).expect("exists");
    database.rule = Some(rule(1, n, C::SecondCopy, &[1, 2, 3]));
}

fn all_at(offset: u64) -> Scene {
    Scene::new(&[(1, end(1, offset)), (2, end(1, offset)), (3, end(1, offset))])
}

/// F18: the criteria set comes before preference, and before a log that is complete: what a copy
/// lacks it fetches.
#[test]
fn criteria_sets_order_the_candidates() {
    let healthy = ContentIndexState::Healthy;
    let crawling = ContentIndexState::Crawling;
    let (short, long) = (0, 60 * 1024 * 1024);
    // What copies 1, 2 and 3 say of index and replay queue, and who is best.
    let table = [
        ([(healthy, short), (healthy, short), (healthy, short)], 1),
        ([(crawling, short), (healthy, short), (healthy, short)], 2),
        ([(healthy, long), (crawling, short), (ContentIndexState::Failed, short)], 2),
        ([(healthy, long), (healthy, long), (ContentIndexState::Failed, short)], 3),
        ([(ContentIndexState::Unknown, long), (crawling, long), (healthy, long)], 3),
    ];
    for (health, best) in table {
        let mut scene = all_at(10);
        for (reply, (content_index, replay_queue_bytes)) in scene.replies.iter_mut().zip(health) {
            reply.health.content_index = content_index;
            reply.health.replay_queue_bytes = replay_queue_bytes;
        }
        assert_eq!(scene.best(), Some(copy(best)), "{health:?}");
    }
    let mut scene = Scene::new(&[(2, end(1, 10)), (3, end(1, 20))]);
    scene.replies[0].health.content_index = healthy;
    assert_eq!(scene.best(), Some(copy(2)), "and it takes the rest over from copy 3");
    assert_eq!(select(&scene.input()).required_end, end(1, 20));
}

/// F19: a member that is short of space comes after every one that is not.
#[test]
fn the_health_of_the_member_comes_before_the_criteria_set() {
    let mut scene = all_at(10);
    scene.replies[0].health.content_index = ContentIndexState::Healthy;
    scene.replies[0].health.short_of_space = true;
    assert_eq!(scene.best(), Some(copy(2)));
}

/// F25, F26: a block keeps databases from coming by themselves, not from staying, and not from
/// coming when the copy is named.
#[test]
fn blocked_members_and_copies_are_activated_on_request_only() {
    let block = |scene: &mut Scene| {
        set_activation(scene, 1, policy(ActivationPolicy::Blocked));
        let (copy, policy) = (copy(2), ActivationPolicy::Blocked);
        scene.log.ok(&Command::SetCopyPolicy { database: DB, copy, policy });
    };
    let mut scene = all_at(10);
    block(&mut scene);
    assert_eq!(scene.best(), Some(copy(3)));
    assert_eq!(scene.excluded(1), [Exclusion::PolicyBlocked]);
    assert_eq!(scene.excluded(2), [Exclusion::PolicyBlocked]);
    scene.requested = Some(copy(1));
    assert_eq!(scene.best(), Some(copy(1)), "asked for by name");
    scene.requested = None;
    active_was(&mut scene, 2);
    assert_eq!(scene.excluded(2), [], "it may stay where it is");
    assert_eq!(scene.best(), Some(copy(3)), "but another one is better");
    scene.alive.remove(&member(3));
    assert_eq!(scene.best(), Some(copy(2)));
}

/// F25: replication goes on; only its automatic activation is suspended.
#[test]
fn a_copy_suspended_for_activation_is_activated_on_request_only() {
    let mut scene = all_at(10);
    let request = keelson_types::SuspendRequest { activation_only: true, ..Default::default() };
    scene.log.ok(&Command::SuspendCopy { database: DB, copy: copy(1), request });
    assert_eq!(scene.excluded(1), [Exclusion::ActivationSuspended]);
    assert_eq!(scene.best(), Some(copy(2)));
    scene.requested = Some(copy(1));
    assert_eq!(scene.best(), Some(copy(1)));
}

/// F26, site rule.
#[test]
fn intrasite_copies_take_databases_of_their_site_only() {
    let mut scene = all_at(10);
    let move_to = |n, name: &str| Command::SetMember {
        member: member(n),
        control_address: None,
        data_address: None,
        replication_addresses: None,
        site: Some(crate::testing::site(name)),
        voter: None,
    };
    scene.log.ok(&move_to(1, "there"));
    set_activation(&mut scene, 1, policy(ActivationPolicy::IntrasiteOnly));
    set_activation(&mut scene, 2, policy(ActivationPolicy::IntrasiteOnly));
    assert_eq!(scene.excluded(1), [], "it was active nowhere yet");
    active_was(&mut scene, 3);
    assert_eq!(scene.excluded(1), [Exclusion::OtherSite]);
    assert_eq!(scene.excluded(2), []);
}

/// F27: the maximum holds for everybody, the preferred one only orders.
#[test]
fn limits_of_active_databases_hold() {
    let mut scene = all_at(10);
    let limits = |max_active, max_active_preferred| crate::MemberActivation {
        max_active,
        max_active_preferred,
        ..crate::MemberActivation::default()
    };
    set_activation(&mut scene, 1, limits(Some(2), Some(1)));
    let table = [(0, Some(copy(1)), vec![]), (1, Some(copy(2)), vec![])];
    for (actives, best, excluded) in table {
        scene.actives.insert(member(1), actives);
        assert_eq!((scene.best(), scene.excluded(1)), (best, excluded), "{actives} actives");
    }
    scene.actives.insert(member(1), 2);
    scene.requested = Some(copy(1));
    assert_eq!((scene.best(), scene.excluded(1)), (None, vec![Exclusion::MaximumActive(2)]));
}

/// F28, F124: databases are kept off such a member while another copy can serve.
#[test]
fn members_that_are_left_come_last() {
    let mut scene = all_at(10);
    let away = crate::MemberActivation { move_away: true, ..crate::MemberActivation::default() };
    set_activation(&mut scene, 1, away);
    assert_eq!(scene.best(), Some(copy(2)));
    scene.log.ok(&Command::BeginMaintenance { member: member(2), comment: String::new() });
    assert_eq!(scene.excluded(2), [Exclusion::Maintenance]);
    assert_eq!(scene.best(), Some(copy(3)));
    scene.alive.remove(&member(3));
    assert_eq!(scene.best(), Some(copy(1)));
}
