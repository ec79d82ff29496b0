//! *AssignSpare*: when a copy leaves its volume, and what keeps it there.

use keelson_types::{
    CopyStatus, DatabaseId, FailureTag, RefusalReason, SEED_RESERVE_BYTES, SpareOrder, VolumeState,
};

use super::*;
use crate::autoreseed::tests::World;
use crate::autoreseed::{AutoReseed, RESUMES_MAX, ReseedWish, SPARES_MAX, standing};
use crate::command::{Command, Refusal};
use crate::testing::{DB, copy, member};

const MINUTE: u64 = 60_000;
const HOUR: u64 = 60 * MINUTE;
const MIB: u64 = 1 << 20;
/// Of the stores of the sources.
const STORE: u64 = 100 * MIB;
/// With a tenth.
const NEEDED: u64 = 110 * MIB;

fn volume(path: &str, state: VolumeState, free_bytes: u64) -> VolumeSeen {
    VolumeSeen { path: path.into(), state, free_bytes: Some(free_bytes), replaced_by: None }
}

/// The copy on member 3 is suspended and was resumed; its volume is `/a`, beside it is a spare.
fn on_volume(state: VolumeState) -> World {
    let mut world = World::suspended(FailureTag::LogIo);
    let progress = AutoReseed { resumes: RESUMES_MAX, ..AutoReseed::default() };
    let database = world.log.state.databases.get_mut(&DB).expect("exists");
    database.copies.get_mut(&copy(3)).expect("exists").autoreseed = Some(progress);
    let room = NEEDED + SEED_RESERVE_BYTES;
    let volumes = vec![
        volume("/a", state, 0),
        volume("/b", VolumeState::Healthy, 10 * room),
        volume("/s", VolumeState::Spare, room),
    ];
    world.places.volumes.insert(member(3), volumes);
    for number in [1, 2, 3] {
        let on = if number == 3 { "/a" } else { "" };
        let place = CopyPlace { volume: on.into(), store_bytes: STORE };
        world.places.copies.insert(copy(number), place);
    }
    world
}

fn spare() -> Option<Result<ReseedWish, String>> {
    let order = SpareOrder { leaves: "/a".into(), bytes: NEEDED };
    Some(Ok(ReseedWish::AssignSpare(order)))
}

/// Another copy of member 3, of another database, on the volume.
fn with_neighbour(world: &mut World) -> CopyId {
    world.log.ok(&crate::testing::create(2, &[3]));
    let database = &world.log.state.databases[&DatabaseId::from_u128(2)];
    let id = *database.copies.keys().next().expect("one");
    world.places.copies.insert(id, CopyPlace { volume: "/a".into(), store_bytes: 0 });
    id
}

fn seen(world: &mut World, id: CopyId, status: CopyStatus) {
    world.seen.insert(id, CopySeen { status, tag: Some(FailureTag::LogIo) });
}

#[test]
fn a_copy_leaves_a_lost_volume_and_no_other() {
    use VolumeState as V;
    for (state, leaves) in [
        (V::Healthy, false),
        (V::Spare, false),
        (V::Failed, true),
        (V::Missing, true),
        (V::Retired, true),
    ] {
        let mut world = on_volume(state);
        let wish = world.after(20 * MINUTE);
        match leaves {
            true => assert_eq!(wish, spare(), "{state}"),
            false => assert!(matches!(wish, Some(Ok(ReseedWish::Seed(_)))), "{state}: {wish:?}"),
        }
    }
    assert_eq!(on_volume(V::Suspect).after(20 * MINUTE), None, "another look decides");
}

/// F130: one sentence for each limit.
#[test]
fn what_keeps_a_copy_on_a_lost_volume_is_told() {
    type Arrange = fn(&mut World);
    let table: [(Arrange, &str); 5] = [
        (
            |w| {
                let neighbour = with_neighbour(w);
                let database = w.log.state.databases.get_mut(&DatabaseId::from_u128(2));
                database.expect("exists").target = Some(neighbour);
                seen(w, neighbour, CopyStatus::Failed);
            },
            "1 active copies are on it",
        ),
        (
            |w| {
                let neighbour = with_neighbour(w);
                seen(w, neighbour, CopyStatus::Healthy);
            },
            "1 copies on it have not failed",
        ),
        (
            |w| {
                let volumes = w.places.volumes.get_mut(&member(3)).expect("there");
                volumes.retain(|volume| volume.state != VolumeState::Spare);
            },
            "no spare volume of m3 has room",
        ),
        (
            |w| {
                let volumes = w.places.volumes.get_mut(&member(3)).expect("there");
                volumes[2].free_bytes = Some(NEEDED + SEED_RESERVE_BYTES - 1);
            },
            "no spare volume of m3 has room for 115343360 bytes",
        ),
        (|w| w.seen.retain(|id, _| *id == copy(3)), "no other copy is healthy"),
    ];
    for (arrange, why) in table {
        let mut world = on_volume(VolumeState::Failed);
        arrange(&mut world);
        match world.after(20 * MINUTE) {
            Some(Err(text)) => assert!(text.contains(why), "{text}"),
            other => panic!("{other:?} instead of {why:?}"),
        }
    }
    let mut world = on_volume(VolumeState::Failed);
    let neighbour = with_neighbour(&mut world);
    seen(&mut world, neighbour, CopyStatus::Failed);
    assert_eq!(world.after(20 * MINUTE), spare(), "all have failed");
}

/// The second copy of a lost volume goes where the first one went, if there is room.
#[test]
fn the_volume_that_took_the_place_takes_more() {
    let mut world = on_volume(VolumeState::Retired);
    let volumes = world.places.volumes.get_mut(&member(3)).expect("there");
    volumes.retain(|volume| volume.state != VolumeState::Spare);
    volumes[0].replaced_by = Some("/b".into());
    assert_eq!(world.after(20 * MINUTE), spare());
}

/// Five tries, an hour apart; then it waits for a person. In place nothing is tried meanwhile.
#[test]
fn a_spare_is_tried_five_times_an_hour_apart() {
    let mut world = on_volume(VolumeState::Failed);
    assert_eq!(world.after(20 * MINUTE), spare());
    for attempt in 2..=SPARES_MAX + 1 {
        world.end_seed(Err(Refusal::new(RefusalReason::SourceUnfit, "the source went away")));
        assert_eq!(world.after(HOUR - 1), None, "{attempt}");
        let wish = world.after(1);
        match attempt <= SPARES_MAX {
            true => assert_eq!(wish, spare(), "{attempt}"),
            false => assert_eq!(wish, Some(Ok(ReseedWish::Stop))),
        }
    }
    let progress = world.config().autoreseed.expect("kept");
    assert_eq!((progress.seeds, progress.spares, progress.stopped), (0, SPARES_MAX, true));
}

/// Once its link leads to the spare the copy is seeded in place, which is there.
#[test]
fn a_seed_on_a_spare_that_failed_goes_on_there() {
    let mut world = on_volume(VolumeState::Failed);
    assert_eq!(world.after(20 * MINUTE), spare());
    world.end_seed(Err(Refusal::new(RefusalReason::SourceUnfit, "the source went away")));
    world.places.copies.get_mut(&copy(3)).expect("there").volume = "/b".into();
    assert!(matches!(world.after(HOUR), Some(Ok(ReseedWish::Seed(_)))));
}

/// What status shows is what the leader would say, without the words of members on copies.
#[test]
fn status_shows_why_a_copy_stays() {
    let mut world = on_volume(VolumeState::Failed);
    let volumes = world.places.volumes.get_mut(&member(3)).expect("there");
    volumes.retain(|volume| volume.state != VolumeState::Spare);
    let now = 1_800_000_000_000;
    let state = &world.log.state;
    let shown = standing(state, &state.databases[&DB], copy(3), &world.places, now);
    let text = format!("{shown:?}");
    assert!(text.contains("Blocked") && text.contains("no spare volume"), "{text}");
}

/// G8: decided again from the record, and otherwise.
#[test]
fn the_decision_is_explained_from_its_record() {
    use crate::autoreseed::ReseedVerdict;
    use crate::{ActivationReason, Besides, DecisionRecord, ReseedDecision, explain};
    let mut world = on_volume(VolumeState::Failed);
    let order = world.look_after(20 * MINUTE);
    let verdict = ReseedVerdict::Act(order.wish.clone().expect("a step"));
    let (copy, facts) = (order.copy, order.facts.as_ref().clone());
    let besides = Besides::Reseed(ReseedDecision { copy, member: member(3), facts, verdict });
    let reason = ActivationReason::Failed { tag: FailureTag::LogIo };
    let record = DecisionRecord::of("test", (DB, crate::testing::epoch(1)), reason, besides);
    let outcome = |changes: &[&str]| {
        let changes: Vec<_> = changes.iter().map(|change| (*change).to_owned()).collect();
        let found = explain(&record, &changes).expect("a change");
        (found.outcome.expect("no activation"), found.differences.is_empty())
    };
    assert_eq!(outcome(&[]), ("it leaves volume /a and is seeded on a spare".into(), true));
    assert!(outcome(&["spares=0"]).0.contains("no spare volume of m3"));
    assert!(outcome(&["well=2"]).0.contains("have not failed"));
    assert_eq!(outcome(&["volume=healthy"]).0, "it is seeded in place");
    assert_eq!(outcome(&["spare_seeds=5"]).0, "it is left to a person");
    assert!(explain(&record, &["volume=broken".to_owned()]).is_err());
}

/// States of earlier versions know no spares.
#[test]
fn what_an_earlier_version_wrote_is_read() {
    let json = r#"{"began_unix_ms":1,"last_unix_ms":2,"resumes":3,"seeds":1}"#;
    let progress: AutoReseed = serde_json::from_str(json).expect("reads");
    assert_eq!((progress.steps(), progress.spares), (4, 0));
    let order = r#"{"operation":"00000000-0000-0000-0000-000000000007",
        "copy":"00000000-0000-0000-0000-000000000008"}"#;
    let order: keelson_types::SeedOrder = serde_json::from_str(order).expect("reads");
    assert_eq!(order.spare, None);
    let command = Command::BeginSeed { database: DB, copy: copy(3), order };
    let json = serde_json::to_string(&command).expect("writes");
    assert!(!json.contains("spare"), "{json}");
}

#[test]
fn records_and_status_spell_states_alike() {
    for state in VolumeState::ALL {
        let json = serde_json::to_value(state).expect("a word");
        assert_eq!(json, state.name());
    }
}
