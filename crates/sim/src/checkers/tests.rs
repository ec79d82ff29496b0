//! Each checker turns red at what it is for, and only there.

use std::collections::BTreeSet;

use keelson_cluster_core::{LossReceipt, Verdict as ProofVerdict};
use keelson_types::{CopyId, Epoch, LogEnd, Position};

use super::{Acknowledged, Contents, GivenUp, Prefixes, Registers, Serving};

fn end(counter: u64, offset: u64) -> LogEnd {
    LogEnd { epoch: Epoch::new(0, counter), position: Position::new(1, offset) }
}

fn receipt(counter: u64, kept: LogEnd) -> LossReceipt {
    LossReceipt::new(Epoch::new(0, counter), kept, &[], &ProofVerdict::Lossless, None)
}

#[test]
fn a_missing_acknowledged_write_is_seen() {
    let mut writes = Acknowledged::default();
    writes.acknowledged(0, (1, 7), end(2, 70));
    let log: BTreeSet<_> = [(1, 6), (1, 7)].into();
    let mut given_up = GivenUp::default();
    assert_eq!(writes.check(0, &log, &given_up, "m0"), Ok(()));
    assert_eq!(writes.check(1, &BTreeSet::new(), &given_up, "m0"), Ok(()), "another database");
    let error = writes.check(0, &[(1, 6)].into(), &given_up, "m0").expect_err("it is missing");
    assert_eq!(error.property, "G1");
    given_up.add(0, receipt(2, end(1, 60)));
    given_up.add(0, receipt(3, end(2, 70)));
    given_up.add(1, receipt(3, end(2, 60)));
    assert!(
        writes.check(0, &BTreeSet::new(), &given_up, "m0").is_err(),
        "the receipts are of its own epoch, or keep it, or are another database's"
    );
    given_up.add(0, receipt(4, end(2, 60)));
    assert_eq!(writes.check(0, &BTreeSet::new(), &given_up, "m0"), Ok(()));
}

#[test]
fn a_lower_epoch_and_a_second_copy_are_seen() {
    let [a, b] = [1, 2].map(CopyId::from_u128);
    let mut serving = Serving::default();
    assert_eq!(serving.check(0, Epoch::new(0, 1), a), Ok(()));
    assert!(serving.check(0, Epoch::new(0, 1), b).is_err(), "two in one epoch");
    assert_eq!(serving.check(0, Epoch::new(0, 2), b), Ok(()));
    assert!(serving.check(0, Epoch::new(0, 1), a).is_err(), "a lower epoch");
    assert_eq!(serving.check(1, Epoch::new(0, 1), a), Ok(()), "another database");
}

#[test]
fn stale_and_invented_reads_are_seen() {
    let mut registers = Registers::default();
    registers.issued(0, 0, 1);
    registers.acknowledged(0, 0, 1);
    registers.issued(0, 0, 2);
    let floor = registers.read_begins(0, 0);
    assert!(registers.read_ends(0, 0, floor, 0).is_err(), "older than acknowledged");
    assert!(registers.read_ends(0, 0, floor, 3).is_err(), "never written");
    assert_eq!(registers.read_ends(0, 0, floor, 2), Ok(()), "unknown, so possible");
    assert_eq!(registers.read_begins(0, 0), 2, "and certain once it was read");
    registers.given_up(0, 0, 1);
    assert_eq!(registers.read_begins(0, 0), 1, "until it is given up");
}

#[test]
fn other_frames_and_other_content_are_seen() {
    let mut prefixes = Prefixes::default();
    let start = Position::new(1, 0);
    let mut given_up = GivenUp::default();
    let frame = (end(1, 100), 5);
    assert_eq!(prefixes.check(0, start, frame, &given_up, "m0"), Ok(()));
    assert_eq!(prefixes.check(0, start, frame, &given_up, "m1"), Ok(()));
    let chain = (end(1, 100), 6);
    assert!(prefixes.check(0, start, chain, &given_up, "m1").is_err(), "another chain");
    let other = (end(2, 100), 5);
    assert!(prefixes.check(0, start, other, &given_up, "m1").is_err(), "another epoch");
    given_up.add(0, receipt(2, LogEnd { position: start, ..end(1, 0) }));
    assert_eq!(prefixes.check(0, start, other, &given_up, "m1"), Ok(()), "instead of the first");
    assert_eq!(prefixes.check(0, start, frame, &given_up, "m0"), Ok(()), "which is given up");
    let mut contents = Contents::default();
    assert_eq!(contents.check(0, end(1, 100), 9, "m0"), Ok(()));
    assert!(contents.check(0, end(1, 100), 8, "m1").is_err());
}
