//! Tests of `proof`.

use keelson_types::CommitConstraint as C;

use super::*;
use crate::testing::{copy, rule, rule_record};

#[track_caller]
fn check(rules: &[RuleRecord], reached: &[u128], weakness: Weakness, expected: bool) {
    let reached = reached.iter().map(|n| copy(*n)).collect();
    let verdict = lossless(rules, &reached, weakness);
    assert_eq!(verdict.is_lossless(), expected, "{verdict:?}");
}

#[test]
fn a_reached_active_settles_every_rule() {
    for constraint in [C::None, C::SecondCopy, C::AllCopies, C::Majority] {
        let rules = [rule_record(1, rule(1, 1, constraint, &[1, 2, 3]))];
        check(&rules, &[1], Weakness::None, true);
    }
}

#[test]
fn unreached_copies_that_satisfy_the_rule_may_have_acknowledged() {
    let rule_of = |constraint| [rule_record(1, rule(1, 1, constraint, &[1, 2, 3]))];
    check(&rule_of(C::None), &[2, 3], Weakness::None, false);
    check(&rule_of(C::SecondCopy), &[2, 3], Weakness::None, true);
    check(&rule_of(C::SecondCopy), &[2], Weakness::None, false);
    check(&rule_of(C::AllCopies), &[2], Weakness::None, true);
    check(&rule_of(C::Majority), &[2], Weakness::None, false);
    check(&rule_of(C::Majority), &[2, 3], Weakness::None, true);
}

#[test]
fn nothing_was_acknowledged_without_rules() {
    check(&[], &[], Weakness::None, true);
}

#[test]
fn a_degraded_rule_needs_its_active_s1() {
    // S1: after the rule was changed to {A, B} what counts is the recorded rule: A alone does not
    // satisfy it, but once B was dropped too, A stands alone.
    let shrunk = [rule_record(1, rule(2, 1, C::SecondCopy, &[1, 2]))];
    check(&shrunk, &[2], Weakness::None, true);
    check(&shrunk, &[3], Weakness::None, false);
    let alone = [rule_record(1, rule(3, 1, C::SecondCopy, &[1]))];
    check(&alone, &[2, 3], Weakness::None, false);
}

#[test]
fn all_rules_since_the_last_established_epoch_must_pass_s2b() {
    let rules = [
        rule_record(1, rule(1, 1, C::SecondCopy, &[1, 2, 3])),
        rule_record(2, rule(2, 2, C::SecondCopy, &[2, 3])),
    ];
    check(&rules, &[3], Weakness::None, false);
    check(&rules, &[3], Weakness::ProofWithNewestRuleOnly, true);
    check(&rules, &[1, 3], Weakness::None, true);
    check(&rules, &[2, 3], Weakness::None, true);
}

#[test]
fn a_verdict_names_the_rule_and_the_copies_that_could_have_acknowledged() {
    let rules = [
        rule_record(1, rule(7, 1, C::SecondCopy, &[1, 2, 3])),
        rule_record(2, rule(8, 2, C::SecondCopy, &[2, 3])),
    ];
    let verdict = lossless(&rules, &[copy(3)].into(), Weakness::None);
    let unreached = [copy(1), copy(2)].into();
    let expected = Verdict::PossibleLoss { epoch: rules[0].epoch, rule_version: 7, unreached };
    assert_eq!(verdict, expected);
}

#[test]
fn a_forgetful_copy_is_not_reached_s4() {
    // P was committed by {A, B}; B was wiped and answers; A is dead: only C is reached.
    let rules = [rule_record(1, rule(1, 1, C::SecondCopy, &[1, 2, 3]))];
    check(&rules, &[3], Weakness::None, false);
}
