//! Failing log, failing store, full disk.

use keelson_copy_core::{Action, Event, OpenRefusal, Recovered, StopReason};
use keelson_types::{CopyFault, CopyStatus, Position};

use crate::support::{Bench, at, copy, end, epoch, member, offer, start, table};

#[test]
fn a_failed_sync_ends_the_epoch_and_poisons_the_log() {
    let mut bench = Bench::serving(2, &[1, 2]);
    bench.step(Event::Appended { end: at(1, 200) });
    let fault = CopyFault::LogIo("sync".into());
    let reason = StopReason::Failed(fault.clone());
    let expected = [
        Action::StopServing { epoch: epoch(2), reason: reason.clone() },
        Action::ClosePeer { copy: copy(1) },
        Action::ClosePeer { copy: copy(2) },
        Action::GiveUp { epoch: epoch(2), reason },
    ];
    bench.check(Event::LogFailed { fault }, &expected);
    // A later sync that succeeds proves nothing (S10).
    bench.check(Event::Logged { end: end(2, at(1, 200)) }, &[]);
    assert_eq!(bench.machine.view().inspected, at(1, 100));
    assert_eq!(bench.machine.view().status, CopyStatus::Failed);
}

#[test]
fn a_passive_whose_store_fails_takes_no_more_frames_but_keeps_its_log() {
    let mut bench = Bench::passive(1);
    bench.received(1, at(1, 100));
    // The source must know, or it would never offer the log again once the copy is well.
    let refused =
        Action::SendRefused { member: member(1), epoch: epoch(1), refusal: OpenRefusal::Failed };
    bench.check(Event::StoreFailed { fault: CopyFault::Store("gone".into()) }, &[refused]);
    assert_eq!(bench.machine.expects(epoch(1)), None);
    bench.check(Event::Logged { end: end(1, at(1, 100)) }, &[]);
    bench.seal(2);
}

#[test]
fn a_full_disk_at_a_passive_is_not_a_broken_log() {
    let mut bench = Bench::passive(1);
    bench.received(1, at(1, 100));
    bench.step(Event::Logged { end: end(1, at(1, 100)) });
    bench.received(1, at(1, 200));
    let refused =
        Action::SendRefused { member: member(1), epoch: epoch(1), refusal: OpenRefusal::Busy };
    let full = Event::LogFailed { fault: CopyFault::DiskFull };
    bench.check(full.clone(), &[refused, Action::CutLog { to: at(1, 100) }]);
    bench.check(full, &[]);
    bench.check(Event::LogCut { end: end(1, at(1, 100)) }, &[]);
    // The seal needs no space (H15), and the next offer begins where the log ends.
    let rows = [start(1, Position::ZERO)];
    let opened =
        Action::SendOpened { member: member(1), epoch: epoch(1), matched: end(1, at(1, 100)) };
    bench.check(Event::Open(offer(1, &rows, at(1, 200))), &[opened]);
    bench.seal(2);
}

#[test]
fn an_active_without_room_for_its_opening_frame_gives_the_epoch_up() {
    let mut bench = Bench::serving(2, &[1, 2]);
    let actions = bench.step(Event::LogFailed { fault: CopyFault::DiskFull });
    let reason = StopReason::Failed(CopyFault::DiskFull);
    // The log takes nothing before the cut, whatever the machine knows of what was refused.
    let given_up = [
        Action::GiveUp { epoch: epoch(2), reason },
        Action::CutLog { to: bench.machine.durable().position },
    ];
    assert_eq!(actions[actions.len() - 2..], given_up);
    assert_eq!(bench.machine.view().fault, None);
}

#[test]
fn a_fault_found_at_the_start_is_reported_and_log_faults_keep_seals_out() {
    let damaged = Recovered {
        table: table(&[start(1, Position::ZERO)]),
        end: end(1, at(1, 100)),
        fault: Some(CopyFault::LogDamaged("frame at 1:40".into())),
        ..Recovered::default()
    };
    let mut bench = Bench::new(damaged);
    let replies = bench.step(Event::Seal { request: 1, epoch: epoch(2) });
    assert!(matches!(replies[..], [Action::SealReply { answer: Err(_), .. }]), "{replies:?}");
    bench.check(Event::Wake, &[]);
}

/// S15: the log of a copy whose damaged store is rebuilt counts, its store serves nobody before it
/// is where it was.
#[test]
fn a_copy_whose_store_is_rebuilt_is_no_candidate_until_it_is_there_again() {
    let rows = table(&[start(1, Position::ZERO)]);
    let mut bench = Bench::new(Recovered {
        table: rows,
        end: end(1, at(1, 300)),
        committed: at(1, 300),
        rebuilding: Some(at(1, 200)),
        ..Recovered::default()
    });
    bench.check(Event::Wake, &[Action::ReplayTo(at(1, 300))]);
    assert_eq!(bench.machine.view().status, CopyStatus::RangeRepair);
    let faults = |bench: &mut Bench, request, counter| {
        let actions = bench.settle(Event::Seal { request, epoch: epoch(counter) });
        let replies = actions.into_iter().filter_map(|action| match action {
            Action::SealReply { answer: Ok(answer), .. } => Some((answer.end, answer.fault)),
            _ => None,
        });
        replies.collect::<Vec<_>>()
    };
    let told = faults(&mut bench, 1, 2);
    let whole = at(1, 300);
    assert!(
        matches!(&told[..], [(log, Some(CopyFault::StoreDamaged(_)))] if log.position == whole),
        "{told:?}"
    );
    bench.step(Event::Replayed { to: at(1, 199) });
    assert_eq!(bench.machine.view().status, CopyStatus::RangeRepair);
    bench.step(Event::Replayed { to: at(1, 200) });
    assert_ne!(bench.machine.view().status, CopyStatus::RangeRepair);
    assert_eq!(faults(&mut bench, 2, 3), [(end(1, at(1, 300)), None)]);
}
