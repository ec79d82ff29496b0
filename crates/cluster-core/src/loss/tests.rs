//! Tests of receipts and previews.

use keelson_types::CommitConstraint as C;

use super::*;
use crate::testing::{DB, Log, copy, create, end, epoch, member, reply, rule, rule_record};

struct Scene {
    log: Log,
    alive: BTreeSet<MemberId>,
    reports: Vec<SealReply>,
}

impl Scene {
    /// Copies on members 1 to 3; epoch 4 was written by 1 and acknowledged by it and one more.
    fn new(reports: &[(u128, LogEnd)]) -> Self {
        let mut log = Log::with_members(3);
        log.ok(&create(1, &[1, 2, 3]));
        let database = log.state.databases.get_mut(&DB).expect("created");
        database.epoch = epoch(5);
        database.unestablished = vec![rule_record(4, rule(1, 1, C::SecondCopy, &[1, 2, 3]))];
        let alive = reports.iter().map(|(n, _)| member(*n)).collect();
        let reports = reports.iter().map(|(n, end)| reply(*n, epoch(4), *end)).collect();
        Self { log, alive, reports }
    }

    fn preview(&self, on: Option<u128>) -> MountPreview {
        let database = &self.log.state.databases[&DB];
        let accepted = AcceptedLoss { on: on.map(member) };
        let actives = BTreeMap::new();
        let members = &self.log.state.members;
        preview(database, members, &self.reports, (&self.alive, &actives), &accepted)
    }
}

#[test]
fn a_preview_names_what_is_kept_and_who_may_hold_more() {
    let preview = Scene::new(&[(3, end(4, 50))]).preview(None);
    let receipt = preview.receipt.expect("a loss");
    assert_eq!((preview.target, receipt.kept), (Some(copy(3)), end(4, 50)));
    assert_eq!((receipt.epoch, receipt.certain), (epoch(6), None));
    assert_eq!(receipt.unreached, [copy(1), copy(2)].into());
}

#[test]
fn a_preview_says_when_nothing_would_be_lost() {
    let preview = Scene::new(&[(2, end(4, 70)), (3, end(4, 50))]).preview(Some(3));
    assert!(preview.verdict.is_lossless());
    assert_eq!((preview.target, preview.receipt), (Some(copy(2)), None));
}

#[test]
fn a_preview_says_when_nothing_can_be_opened() {
    for on in [Some(2), Some(9)] {
        let preview = Scene::new(&[(3, end(4, 50))]).preview(on);
        assert_eq!((preview.target, preview.receipt), (None, None));
    }
}

#[test]
fn what_is_given_up_is_compared_by_epoch_first_r3() {
    let receipt = |kept| LossReceipt::new(epoch(7), kept, &[], &Verdict::Lossless, None);
    for (kept, frame, given_up) in [
        (end(4, 50), end(4, 50), false),
        (end(4, 50), end(4, 51), true),
        (end(4, 50), end(7, 51), false),
        (end(4, 50), end(6, 30), true),
        (end(6, 50), end(4, 90), false),
    ] {
        assert_eq!(receipt(kept).covers(frame), given_up, "{frame:?} behind {kept:?}");
    }
}

#[test]
fn what_a_copy_knew_to_be_committed_behind_the_kept_end_is_lost_for_certain() {
    let mut replies = vec![reply(3, epoch(5), end(4, 50))];
    let lossless = Verdict::Lossless;
    let receipt = |replies: &[SealReply]| {
        LossReceipt::new(epoch(5), end(4, 50), replies, &lossless, None).certain
    };
    replies[0].committed = Position::new(1, 50);
    assert_eq!(receipt(&replies), None);
    replies.push(SealReply { committed: Position::new(1, 60), ..reply(2, epoch(5), end(4, 70)) });
    assert_eq!(receipt(&replies), Some(Position::new(1, 60)));
}
