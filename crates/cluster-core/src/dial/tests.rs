//! Tests of what can be missing, and of the dials' answer.

use keelson_types::{Ceiling, CommitConstraint as C, Position};

use super::*;
use crate::criteria::Fit;
use crate::select::Candidate;
use crate::testing::{copy, end, member, rule, rule_record, site};

const MIB: u64 = 1024 * 1024;

/// The rule of epoch 4 under which copy 1 acknowledged alone, with or without a ceiling.
fn alone(ceiling_mib: Option<u64>) -> RuleRecord {
    let begins = end(3, 100);
    let border = end(4, 0);
    let ceiling =
        ceiling_mib.map(|mib| Ceiling { border, previous_end: None, ahead_bytes: mib * MIB });
    RuleRecord { begins: Some(begins), ceiling, ..rule_record(4, rule(1, 1, C::None, &[1, 2, 3])) }
}

/// F23: the loss is what the ceiling allows beyond what was reached; what nobody promised is
/// unknown; what the reached copies can vouch for counts for nothing.
#[test]
fn what_is_missing_follows_from_ceilings_of_failing_rules() {
    let second = || rule_record(4, rule(1, 1, C::SecondCopy, &[1, 2, 3]));
    for (what, rules, reached, held, logs) in [
        ("a ceiling", vec![alone(Some(5))], &[2, 3][..], end(4, 0), Some(5)),
        ("part of it is here", vec![alone(Some(5))], &[2, 3], end(4, 2 * MIB), Some(3)),
        ("a begun log counts", vec![alone(Some(5))], &[2], end(4, 2 * MIB + 1), Some(3)),
        ("no ceiling", vec![alone(None)], &[2, 3], end(4, 0), None),
        ("one of two has none", vec![alone(None), alone(Some(5))], &[2, 3], end(4, 0), None),
        ("the active is here", vec![alone(None)], &[1], end(4, 0), Some(0)),
        ("both that could acknowledge are gone", vec![second()], &[3], end(4, 0), None),
        ("the rule needs one that is here", vec![second()], &[2, 3], end(4, 0), Some(0)),
        ("no rule", vec![], &[], end(4, 0), Some(0)),
    ] {
        let reached = reached.iter().map(|n| copy(*n)).collect();
        assert_eq!(missing(&rules, &reached, held), logs, "{what}");
    }
}

fn input(n: u128, dial: MountDial) -> CopyInput {
    CopyInput {
        copy: copy(n),
        member: member(n),
        name: format!("m{n}"),
        site: site("here"),
        preference: 1,
        policy: keelson_types::ActivationPolicy::Unrestricted,
        actives: 0,
        max_active: None,
        max_active_preferred: None,
        dial,
        marks: BTreeSet::new(),
    }
}

/// F22, F24: the dial of the member of each candidate counts, in the order of candidates; the next
/// best one that may is taken; a switchover's own dial counts instead; and while the process of the
/// former active is expected back nobody is.
#[test]
fn the_best_candidate_whose_dial_allows_it_is_taken() {
    use MountDial::{BestAvailability, GoodAvailability, Lossless};
    let copies = [input(2, Lossless), input(3, BestAvailability), input(4, GoodAvailability)];
    let candidate = |n: u128| Candidate {
        copy: copy(n),
        member: member(n),
        end: Some(end(4, 0)),
        preference: 1,
        excluded: if n == 5 { vec![Exclusion::NoContact] } else { Vec::new() },
        fit: Fit::default(),
    };
    let selection = || Selection {
        reached: BTreeSet::new(),
        required_end: LogEnd { epoch: end(4, 0).epoch, position: Position::new(1, 0) },
        sources: Vec::new(),
        candidates: [2, 4, 3, 5].map(candidate).to_vec(),
    };
    for (missing_logs, over, process_expected, chosen) in [
        (Some(0), None, false, Some(2)),
        (Some(6), None, false, Some(4)),
        (Some(7), None, false, Some(3)),
        (Some(12), None, false, Some(3)),
        (Some(13), None, false, None),
        (None, None, false, None),
        (Some(6), Some(GoodAvailability), false, Some(2)),
        (Some(7), Some(GoodAvailability), false, None),
        (Some(1), Some(Lossless), false, None),
        (None, Some(BestAvailability), false, None),
        (Some(1), None, true, None),
    ] {
        let question = DialQuestion { missing_logs, over, process_expected };
        let dialled = dialled(selection(), &copies, &question);
        assert_eq!(dialled.best().map(|best| best.copy), chosen.map(copy), "{question:?}");
        let of = |n| dialled.candidates.iter().find(|c| c.copy == copy(n)).expect("listed");
        assert_eq!(of(5).excluded, [Exclusion::NoContact], "it was out before");
    }
    let question = DialQuestion { missing_logs: Some(7), ..DialQuestion::default() };
    let told = dialled(selection(), &copies, &question).candidates;
    let beyond = Exclusion::BeyondDial { dial: GoodAvailability, missing_logs: Some(7) };
    assert!(told.iter().any(|c| c.copy == copy(4) && c.excluded == [beyond.clone()]), "{told:?}");
}
