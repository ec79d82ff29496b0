//! Tests of the machine of seeds: each sentence of the rules with its feature number.

use std::time::Duration;

use keelson_types::{OldFiles, OperationId, SeedScope};

use super::*;

const PATIENCE: Duration = Duration::from_secs(60);
const GIB: u64 = 1 << 30;

fn member(n: u128) -> MemberId {
    MemberId::from_u128(n)
}

fn copy(n: u128) -> CopyId {
    CopyId::from_u128(1_000 + n)
}

fn checkpoint(n: u128) -> CheckpointId {
    CheckpointId::from_u128(n)
}

fn order(source: Option<u128>) -> SeedOrder {
    SeedOrder {
        operation: OperationId::from_u128(7),
        copy: copy(99),
        source: source.map(member),
        old_files: OldFiles::Keep,
        scope: SeedScope::Everything,
        manual_resume: false,
        no_throttle: false,
        network: None,
        compression: None,
        spare: None,
    }
}

/// A copy on member `n`: near and passive, unless it is said otherwise.
fn candidate(n: u128) -> SourceCandidate {
    let (member, copy) = (member(n), copy(n));
    SourceCandidate { member, copy, active: false, near: true, standing: Standing::Fit }
}

fn far(candidate: SourceCandidate) -> SourceCandidate {
    SourceCandidate { near: false, ..candidate }
}

fn active(candidate: SourceCandidate) -> SourceCandidate {
    SourceCandidate { active: true, ..candidate }
}

fn standing(n: u128, standing: Standing) -> SourceCandidate {
    SourceCandidate { standing, ..candidate(n) }
}

fn offered(n: u128, missing: u64, free: u64) -> SeedEvent {
    SeedEvent::Offered(Offered {
        checkpoint: checkpoint(n),
        store: (missing, free),
        log: (1, free),
        one_volume: true,
    })
}

fn failed(why: SourceFailure) -> SeedEvent {
    SeedEvent::SourceFailed(why, "said so".into())
}

/// A machine and its clock.
struct Seed {
    machine: SeedMachine,
    now: Tick,
}

impl Seed {
    fn new(source: Option<u128>) -> Self {
        let config = SeedConfig { patience: PATIENCE, restarts_max: 3, ..SeedConfig::default() };
        Self { machine: SeedMachine::new(config, order(source), copy(1)), now: Tick(0) }
    }

    /// Takes an event; gives what is to be done, without what is only told.
    fn step(&mut self, event: SeedEvent) -> Vec<SeedAction> {
        let mut actions = Vec::new();
        self.machine.step(self.now, event, &mut actions);
        actions.retain(|action| !matches!(action, SeedAction::Report { .. }));
        assert!(actions.len() <= 1, "one thing at a time: {actions:?}");
        actions
    }

    /// Up to the first question to a source, with nothing left by an earlier life.
    fn begun(source: Option<u128>, candidates: &[SourceCandidate]) -> (Self, Vec<SeedAction>) {
        let mut seed = Self::new(source);
        assert_eq!(seed.step(SeedEvent::Candidates(candidates.to_vec())), [SeedAction::Look]);
        assert_eq!(seed.step(SeedEvent::Looked(None, false)), [SeedAction::Clear(None)]);
        let actions = seed.step(SeedEvent::Cleared);
        (seed, actions)
    }

    /// Up to the transfer of checkpoint `n`.
    fn transferring(n: u128, candidates: &[SourceCandidate]) -> Self {
        let (mut seed, _) = Self::begun(None, candidates);
        let cleared = seed.step(offered(n, 10, GIB));
        assert!(matches!(cleared[..], [SeedAction::Clear(Some(_))]), "{cleared:?}");
        let saved = seed.step(SeedEvent::Cleared);
        assert!(matches!(saved[..], [SeedAction::Save(_)]), "{saved:?}");
        let transfer = seed.step(SeedEvent::Saved);
        assert!(matches!(transfer[..], [SeedAction::Transfer(_, c)] if c == checkpoint(n)));
        seed
    }

    /// Lets the pause that it wants pass.
    fn woken(&mut self) -> Vec<SeedAction> {
        self.now = self.machine.next_wake().expect("it pauses");
        self.step(SeedEvent::Wake)
    }
}

fn open(n: u128, staged: Option<u128>) -> [SeedAction; 1] {
    [SeedAction::Open(member(n), copy(n), staged.map(checkpoint))]
}

fn aborted(actions: &[SeedAction]) -> Option<RefusalReason> {
    match actions {
        [SeedAction::Abort(refused)] => Some(refused.reason),
        _ => None,
    }
}

fn record(staged: Staged) -> SeedRecord {
    let (operation, old_files) = (OperationId::from_u128(7), OldFiles::Keep);
    SeedRecord { operation, old: copy(1), new: copy(99), old_files, staged }
}

/// F54: any healthy copy; near ones first, then passive ones. Never one that is not fit.
#[test]
fn the_source_is_near_and_passive_if_it_can_be() {
    let none = BTreeSet::new();
    let unfit = |s: Standing| vec![standing(2, s)];
    for (only, candidates, expected) in [
        (None, vec![active(candidate(2)), candidate(3)], Some(3)),
        (None, vec![active(candidate(2)), far(candidate(3))], Some(2)),
        (None, vec![far(active(candidate(2))), far(candidate(3))], Some(3)),
        (None, vec![candidate(4), candidate(3)], Some(3)),
        (Some(2), vec![active(candidate(2)), candidate(3)], Some(2)),
        (Some(9), vec![candidate(2)], None),
        (None, unfit(Standing::Away), None),
        (None, unfit(Standing::Suspended), None),
        (None, unfit(Standing::Lagged), None),
        (None, unfit(Standing::Leaving), None),
        (None, unfit(Standing::CutOff), None),
    ] {
        let found = choose_source(only.map(member), &candidates, &none).map(|c| c.member);
        assert_eq!(found, expected.map(member), "{candidates:?}");
    }
    let two = [candidate(2), candidate(3)];
    let found = choose_source(None, &two, &BTreeSet::from([member(2)]));
    assert_eq!(found.map(|c| c.member), Some(member(3)), "one that failed is not asked again");
}

/// Log and files come from two copies where there are two that may be asked.
#[test]
fn the_log_comes_from_another_copy_than_the_files_if_it_can() {
    let none = BTreeSet::new();
    let three = [candidate(2), candidate(3), active(candidate(4))];
    for (only, candidates, excluded, expected) in [
        (None, &three[..], &none, Some(3)),
        (None, &three[..], &BTreeSet::from([member(3)]), Some(4)),
        (None, &three[..], &BTreeSet::from([member(3), member(4)]), Some(2)),
        (None, &three[..1], &none, Some(2)),
        (Some(2), &three[..], &none, Some(2)),
        (None, &three[..1], &BTreeSet::from([member(2)]), None),
    ] {
        let found = choose_log_source(only.map(member), candidates, member(2), excluded);
        assert_eq!(found.map(|c| c.member), expected.map(member), "{candidates:?} {excluded:?}");
    }
}

/// F61 to F65: from the order to the end, each step behind the one before.
#[test]
fn the_steps_follow_each_other() {
    let (mut seed, actions) = Seed::begun(None, &[candidate(2)]);
    assert_eq!(actions, open(2, None));
    let staged = record(Staged::Nothing);
    assert_eq!(seed.step(offered(5, 10, GIB)), [SeedAction::Clear(Some(staged))]);
    let staged = record(Staged::Checkpoint(member(2), copy(2), checkpoint(5)));
    assert_eq!(seed.step(SeedEvent::Cleared), [SeedAction::Save(staged)]);
    assert_eq!(seed.step(SeedEvent::Saved), [SeedAction::Transfer(member(2), checkpoint(5))]);
    let verified = record(Staged::Verified(member(2), copy(2), checkpoint(5)));
    assert_eq!(seed.step(SeedEvent::Transferred), [SeedAction::Install(verified)]);
    assert_eq!(seed.step(SeedEvent::Installed), [SeedAction::Finish]);
    assert_eq!(seed.step(SeedEvent::Installed), [], "it is over");
}

/// F59: space is found out before a byte is sent; what is here already asks for nothing.
#[test]
fn a_target_without_space_says_so_before_the_transfer() {
    let (mut seed, _) = Seed::begun(None, &[candidate(2)]);
    let actions = seed.step(offered(5, GIB, GIB));
    assert_eq!(aborted(&actions), Some(RefusalReason::NoSpaceForSeed));
    for (store, log, one_volume, fits) in [
        ((GIB, 2 * GIB), (GIB, 2 * GIB), true, false),
        ((GIB, 2 * GIB), (GIB, 2 * GIB), false, true),
        ((GIB, 2 * GIB), (GIB, GIB), false, false),
        ((0, 0), (0, 0), false, true),
    ] {
        let offered = Offered { checkpoint: checkpoint(1), store, log, one_volume };
        assert_eq!(lacks_room(&offered).is_none(), fits, "{offered:?}");
    }
}

/// Design §8: a seed goes on from its checkpoint, or from the start if the source gave that up.
#[test]
fn an_interrupted_seed_goes_on_from_its_checkpoint() {
    let staged = Staged::Checkpoint(member(2), copy(2), checkpoint(5));
    let mut seed = Seed::new(None);
    seed.step(SeedEvent::Candidates(vec![candidate(2), candidate(3)]));
    assert_eq!(seed.step(SeedEvent::Looked(Some(record(staged)), false)), open(2, Some(5)));
    let transfer = seed.step(offered(5, 10, GIB));
    assert_eq!(transfer, [SeedAction::Transfer(member(2), checkpoint(5))], "nothing is cleared");

    let mut seed = Seed::new(None);
    seed.step(SeedEvent::Candidates(vec![candidate(2)]));
    seed.step(SeedEvent::Looked(Some(record(staged)), false));
    let cleared = seed.step(failed(SourceFailure::CheckpointGone));
    assert!(matches!(cleared[..], [SeedAction::Clear(Some(_))]), "{cleared:?}");
    assert_eq!(seed.step(SeedEvent::Cleared), open(2, None));
}

/// A crash behind the install leaves nothing to do but to say so; one before leaves another seed's
/// files to be cleared, by that seed's own record.
#[test]
fn what_an_earlier_life_left_is_taken_up_or_cleared() {
    let staged = Staged::Checkpoint(member(2), copy(2), checkpoint(5));
    let mut seed = Seed::new(None);
    seed.step(SeedEvent::Candidates(vec![candidate(2)]));
    assert_eq!(seed.step(SeedEvent::Looked(Some(record(staged)), true)), [SeedAction::Finish]);

    let other = SeedRecord { operation: OperationId::from_u128(8), ..record(staged) };
    let mut seed = Seed::new(None);
    seed.step(SeedEvent::Candidates(vec![candidate(2)]));
    let cleared = seed.step(SeedEvent::Looked(Some(other), true));
    assert_eq!(cleared, [SeedAction::Clear(Some(other))]);
    assert_eq!(seed.step(SeedEvent::Cleared), open(2, None));
}

/// A source that restarts keeps its checkpoint: it is waited for, and only patience ends that.
#[test]
fn a_source_that_is_away_is_waited_for_before_another_is_read_from_the_start() {
    let mut seed = Seed::transferring(5, &[candidate(2), far(candidate(3))]);
    assert_eq!(seed.step(failed(SourceFailure::Unreachable)), []);
    seed.step(SeedEvent::Candidates(vec![standing(2, Standing::Away), far(candidate(3))]));
    assert_eq!(seed.woken(), open(2, Some(5)), "the same checkpoint");
    let transfer = seed.step(offered(5, 5, GIB));
    assert_eq!(transfer, [SeedAction::Transfer(member(2), checkpoint(5))]);

    seed.step(failed(SourceFailure::Unreachable));
    let mut asked = 0;
    let cleared = loop {
        match &seed.woken()[..] {
            [SeedAction::Open(m, _, Some(_))] if *m == member(2) => {
                asked += 1;
                let actions = seed.step(failed(SourceFailure::Unreachable));
                if !actions.is_empty() {
                    break actions;
                }
            }
            other => panic!("{other:?}"),
        }
    };
    assert!(asked > 3 && seed.now >= Tick(0).after(PATIENCE), "{asked} times until {:?}", seed.now);
    assert!(matches!(cleared[..], [SeedAction::Clear(_)]), "files of two copies never meet");
    assert_eq!(seed.step(SeedEvent::Cleared), open(3, None));
}

/// F68: the named source alone is read; a seed without any source ends with a reason.
#[test]
fn a_seed_without_a_source_ends_when_patience_does() {
    let everybody = [candidate(2), candidate(3)];
    let (mut seed, actions) = Seed::begun(Some(2), &everybody);
    assert_eq!(actions, open(2, None));
    let mut last = seed.step(failed(SourceFailure::Unfit));
    while last.is_empty() {
        last = match &seed.woken()[..] {
            [SeedAction::Open(m, ..)] if *m == member(2) => seed.step(failed(SourceFailure::Unfit)),
            other => other.to_vec(),
        };
    }
    assert_eq!(aborted(&last), Some(RefusalReason::SeedSourceFailed));

    let (mut seed, mut last) = Seed::begun(None, &[standing(2, Standing::Lagged)]);
    while last.is_empty() {
        last = seed.woken();
    }
    match &last[..] {
        [SeedAction::Abort(refused)] => assert!(refused.message.contains("lags"), "{refused}"),
        other => panic!("{other:?}"),
    }
}

/// F64: what arrived whole and cannot be used is the source's fault; a crash while it was put in
/// place goes on from there.
#[test]
fn an_install_fails_by_its_source_or_goes_on_after_a_crash() {
    let mut seed = Seed::transferring(5, &[candidate(2), candidate(3)]);
    seed.step(SeedEvent::Transferred);
    let cleared = seed.step(failed(SourceFailure::Wrong));
    assert!(matches!(cleared[..], [SeedAction::Clear(_)]), "{cleared:?}");
    assert_eq!(seed.step(SeedEvent::Cleared), open(3, None));
    let verified = record(Staged::Verified(member(2), copy(2), checkpoint(5)));
    for installed in [false, true] {
        let mut seed = Seed::new(None);
        seed.step(SeedEvent::Candidates(vec![candidate(2)]));
        let next = seed.step(SeedEvent::Looked(Some(verified), installed));
        match installed {
            true => assert_eq!(next, [SeedAction::Finish]),
            false => assert_eq!(next, open(2, Some(5))),
        }
    }
}

/// F64: the record of an index names the copy that is there twice, whatever id was ordered.
#[test]
fn a_seed_of_an_index_makes_no_copy() {
    let order = SeedOrder { scope: SeedScope::Catalog, ..order(None) };
    let mut machine = SeedMachine::new(SeedConfig::default(), order, copy(1));
    let mut actions = Vec::new();
    for event in [
        SeedEvent::Candidates(vec![candidate(2)]),
        SeedEvent::Looked(None, false),
        SeedEvent::Cleared,
        offered(5, 10, GIB),
        SeedEvent::Cleared,
    ] {
        machine.step(Tick(0), event, &mut actions);
    }
    let saved = actions.iter().find_map(|action| match action {
        SeedAction::Save(record) => Some(*record),
        _ => None,
    });
    assert!(saved.is_some_and(|r| r.new == copy(1) && !r.makes_copy()), "{actions:?}");
}

/// F68: a source that does not fit, or sends what is wrong, gives way to the next one; not for
/// ever.
#[test]
fn an_unfit_source_gives_way_to_the_next_one() {
    for why in [SourceFailure::Unfit, SourceFailure::Wrong] {
        let (mut seed, actions) = Seed::begun(None, &[candidate(2), candidate(3)]);
        assert_eq!(actions, open(2, None));
        assert_eq!(seed.step(failed(why)), open(3, None));
    }
    let (mut seed, _) = Seed::begun(Some(2), &[candidate(2), candidate(3)]);
    let actions = seed.step(failed(SourceFailure::Wrong));
    assert_eq!(aborted(&actions), Some(RefusalReason::SeedSourceFailed));

    let mut seed = Seed::transferring(5, &[candidate(2)]);
    let mut rounds = 0;
    let last = loop {
        let actions = seed.step(failed(SourceFailure::CheckpointGone));
        if aborted(&actions).is_some() {
            break actions;
        }
        rounds += 1;
        seed.step(SeedEvent::Cleared);
        seed.step(offered(6 + rounds, 10, GIB));
        seed.step(SeedEvent::Cleared);
        seed.step(SeedEvent::Saved);
    };
    assert_eq!((rounds, aborted(&last)), (3, Some(RefusalReason::SeedSourceFailed)));
}

/// G7: a full disk ends the seed and leaves what is there; another failure is tried again.
#[test]
fn failures_of_the_own_disk() {
    let mut seed = Seed::transferring(5, &[candidate(2)]);
    let full = seed.step(SeedEvent::DiskFailed(true, "full".into()));
    assert_eq!(aborted(&full), Some(RefusalReason::NoSpaceForSeed));
    let mut seed = Seed::transferring(5, &[candidate(2)]);
    assert_eq!(seed.step(SeedEvent::DiskFailed(false, "i/o".into())), []);
    assert_eq!(seed.woken(), open(2, Some(5)));
}

/// A disk that goes on failing ends the seed with that as the reason: no source is given up for it,
/// however many bytes arrive between two failures.
#[test]
fn a_source_is_not_blamed_for_the_own_disk() {
    let mut seed = Seed::transferring(5, &[candidate(2), candidate(3)]);
    let fails = || SeedEvent::DiskFailed(false, "i/o".into());
    let mut pauses = Vec::new();
    let last = loop {
        let before = seed.now;
        let actions = seed.step(fails());
        if !actions.is_empty() {
            break actions;
        }
        assert_eq!(seed.woken(), open(2, Some(5)), "the same source");
        pauses.push(seed.now.since(before));
        assert!(pauses.len() < 100, "it never ends");
        seed.step(offered(5, 10, GIB));
        seed.machine.progressed();
    };
    assert_eq!(aborted(&last), Some(RefusalReason::SeedTargetFailed));
    assert_eq!(seed.now.since(Tick(0)).as_secs(), 63);
    assert_eq!(
        pauses[..5].iter().map(|p| p.as_millis()).collect::<Vec<_>>(),
        [250, 500, 1_000, 2_000, 4_000]
    );

    let mut seed = Seed::transferring(5, &[candidate(2)]);
    for _ in 0..100 {
        assert_eq!(seed.step(fails()), [], "files are kept between two failures");
        seed.woken();
        seed.step(offered(5, 10, GIB));
        seed.machine.kept();
    }
}

/// G4: what is removed is staging and the seed's own copy; the old files only on an operator's word
/// and once consensus took the new copy in.
#[test]
fn what_becomes_of_the_files_afterwards() {
    let seven = OperationId::from_u128(7);
    let keep = record(Staged::Nothing);
    let delete = SeedRecord { old_files: OldFiles::Delete, ..keep };
    let index = SeedRecord { new: keep.old, ..delete };
    let done = |remove_old| Cleanup::Succeeded { remove_old };
    for (record, assigned, wanted, expected) in [
        (keep, copy(1), Some(seven), Cleanup::Wait),
        (keep, copy(1), None, Cleanup::GivenUp),
        (delete, copy(1), None, Cleanup::GivenUp),
        (keep, copy(1), Some(OperationId::from_u128(8)), Cleanup::GivenUp),
        (keep, copy(99), None, done(false)),
        (delete, copy(99), None, done(true)),
        (delete, copy(99), Some(seven), done(true)),
        (keep, copy(5), None, Cleanup::GivenUp),
        // An index alone: only staging goes, however it ended, and nothing of any copy.
        (index, copy(1), Some(seven), Cleanup::Wait),
        (index, copy(1), None, Cleanup::GivenUp),
        (index, copy(5), None, Cleanup::GivenUp),
    ] {
        assert_eq!(after_seed(&record, assigned, wanted), expected, "{assigned}, {wanted:?}");
    }
}

#[test]
fn a_record_is_read_back_or_refused() {
    let staged = Staged::Checkpoint(member(2), copy(2), checkpoint(5));
    let delete = SeedRecord { old_files: OldFiles::Delete, ..record(staged) };
    let verified = record(Staged::Verified(member(2), copy(2), checkpoint(5)));
    for (record, version) in
        [(record(Staged::Nothing), 1), (record(staged), 1), (delete, 1), (verified, 2)]
    {
        let bytes = record.encode();
        assert_eq!(bytes[8], version, "what an older one can say, it can read");
        assert_eq!(bytes.len(), SEED_RECORD_BYTES_MAX);
        assert_eq!(SeedRecord::decode(&bytes), Ok(record));
        for index in 0..bytes.len() {
            let mut rotten = bytes.clone();
            rotten[index] ^= 1;
            assert!(SeedRecord::decode(&rotten).is_err(), "byte {index}");
            assert!(SeedRecord::decode(&bytes[..index]).is_err(), "cut at {index}");
        }
    }
}
