//! Tests of `decision`.

use keelson_types::{ActivationPolicy, CommitConstraint, Position};

use super::*;
use crate::proof::Verdict;
use crate::select::Mark;
use crate::testing::{DB, copy, end, epoch, member, reply, rule, rule_record, site};

/// A record about `copies` copies and `rules` epochs.
fn record(copies: u128, rules: u64, fault: Option<&CopyFault>) -> DecisionRecord {
    let members: Vec<u128> = (1..=copies).collect();
    let participants = |n| rule_record(n, rule(n, 1, CommitConstraint::AllDatacenters, &members));
    let far = LogEnd { position: Position::new(u64::MAX, u64::MAX), ..end(u64::MAX, 0) };
    let aged = |n: &u128| {
        let reply = SealReply { fault: fault.cloned(), ..reply(*n, epoch(u64::MAX), far) };
        AgedReply { age_ms: 100_000, reply }
    };
    let excluded = fault.cloned().map(Exclusion::Faulty).into_iter().collect::<Vec<_>>();
    let candidate = |n: &u128| Candidate {
        copy: copy(*n),
        member: member(*n),
        end: Some(far),
        preference: u32::MAX,
        excluded: excluded.clone(),
        fit: crate::Fit::default(),
    };
    let marks = [Mark::Incumbent, Mark::Lagged, Mark::Maintenance, Mark::MoveAway];
    let described = |n: &u128| CopyInput {
        copy: copy(*n),
        member: member(*n),
        name: "m".repeat(20),
        site: site("a-site"),
        preference: u32::MAX,
        policy: ActivationPolicy::IntrasiteOnly,
        actives: u32::MAX,
        max_active: Some(u32::MAX),
        max_active_preferred: Some(u32::MAX),
        dial: keelson_types::MountDial::BestAvailability,
        marks: marks.into(),
    };
    let unreached = members.iter().map(|n| copy(*n)).collect();
    DecisionRecord {
        reason: ActivationReason::MountFailed { copy: copy(1) },
        operation: Some(OperationId::from_u128(1)),
        rules: (1..=rules).map(participants).collect(),
        replies: members.iter().map(aged).collect(),
        copies: members.iter().map(described).collect(),
        requested: Some(copy(1)),
        avoid: vec![copy(2)],
        alive: members.iter().map(|n| member(*n)).collect(),
        reached: members.iter().map(|n| copy(*n)).collect(),
        verdict: Verdict::PossibleLoss { epoch: epoch(1), rule_version: 1, unreached },
        candidates: members.iter().map(candidate).collect(),
        chosen: Some(copy(1)),
        required_end: far,
        steps: vec![StepTiming { step: ActivationStep::BackingOff, at_ms: 1_000_000 }; 20],
        ..crate::apply::tests::decision(DB, epoch(1))
    }
}

#[test]
fn records_stay_below_their_bound_as_json() {
    let long = CopyFault::Store("\"\n".repeat(900));
    for fault in [None, Some(&CopyFault::CrashLoop), Some(&long)] {
        for (copies, rules) in [(1, 1), (2, 2), (3, 3), (5, 9), (16, 40)] {
            let bounded = record(copies, rules, fault).bounded();
            let bytes = serde_json::to_vec(&bounded).expect("serializes").len();
            assert!(bytes <= DECISION_BYTES_MAX, "{copies} copies, {rules} rules: {bytes}");
        }
    }
}

#[test]
fn a_usual_record_keeps_all_its_inputs() {
    let usual = DecisionRecord { steps: Vec::new(), ..record(3, 1, None) };
    assert_eq!(usual.clone().bounded(), usual);
    let many = record(16, 40, None).bounded();
    assert!(many.omitted > 0);
}

#[test]
fn estimates_are_never_too_low() {
    for (copies, rules) in [(1, 1), (3, 2), (16, 40)] {
        let record = record(copies, rules, Some(&CopyFault::LogIo("a\u{1}b".into())));
        let bytes = serde_json::to_vec(&record).expect("serializes").len();
        assert!(record.estimated_bytes() >= bytes, "{} < {bytes}", record.estimated_bytes());
    }
}
