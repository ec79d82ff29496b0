//! The index of databases against the plain computation.

use keelson_types::IncarnationId;

use super::*;
use crate::command::{ActivateItem, AllocateItem, Command};
use crate::decision::ActivationReason;
use crate::testing::{Dice, Log, create, member};

/// The index and the list of changes after a command, against the plain computation.
#[track_caller]
fn check(before: &Databases, after: &Databases) {
    assert_eq!(after.index, Index::of(&after.all), "the index follows from the entries");
    let told: BTreeSet<_> = after.changed_since(before.revision()).collect();
    let ids: BTreeSet<_> = before.keys().chain(after.keys()).collect();
    let changed = ids.into_iter().filter(|id| before.get(id) != after.get(id));
    changed.for_each(|id| assert!(told.contains(id), "{id} changed and is not told"));
}

fn random_command(dice: &mut Dice, log: &Log) -> Command {
    let n = dice.below(12) as u128 + 1;
    let database = DatabaseId::from_u128(n);
    let known = log.state.databases.get(&database);
    let Some(known) = known else { return create(n, &[1 + n % 4, 5 + n % 4]) };
    let (epoch, reason) = (known.epoch, ActivationReason::NewDatabase);
    match dice.below(8) {
        0..=2 => {
            let expected = epoch;
            Command::AllocateEpochs(vec![AllocateItem { database, expected, reason }])
        }
        3..=5 => Command::Activate(vec![item(dice, log, known)]),
        6 => {
            let wanted = [MountIntent::Mounted, MountIntent::Dismounted];
            Command::SetMountIntent { database, intent: wanted[dice.below(2)] }
        }
        _ if dice.one_in(4) => Command::RemoveDatabase { database, force: true },
        _ => Command::Established { database, epoch },
    }
}

/// One of its copies, by the answers of all.
fn item(dice: &mut Dice, log: &Log, database: &Database) -> ActivateItem {
    let place = dice.below(database.copies.len());
    let (target, copy) = database.copies.iter().nth(place).expect("below the number of copies");
    let number = u128::from_be_bytes(copy.member.into_bytes());
    let reply = crate::SealReply {
        copy: *target,
        ..crate::testing::reply(number, database.epoch, keelson_types::LogEnd::ZERO)
    };
    let (alive, actives, avoid) = (BTreeSet::from([copy.member]), BTreeMap::new(), BTreeSet::new());
    let input = crate::SelectionInput {
        database,
        members: &log.state.members,
        epoch: database.epoch,
        replies: &[reply],
        alive: &alive,
        actives: &actives,
        requested: None,
        avoid: &avoid,
        data_cut: &BTreeSet::new(),
        weakness: keelson_types::Weakness::None,
    };
    let decision = crate::apply::tests::decision(database.id, database.epoch);
    ActivateItem {
        database: database.id,
        epoch: database.epoch,
        target: *target,
        incarnation: IncarnationId::from_u128(100 + number),
        marks: log.state.marks_of(database, *target),
        rule: crate::first_rule(&input, *target),
        required_end: keelson_types::LogEnd::ZERO,
        sources: Vec::new(),
        decision,
        turn: None,
        ceiling: None,
    }
}

#[test]
fn the_index_is_what_the_entries_give_after_any_commands() {
    let mut bound = 0;
    for seed in 0..40 {
        let (mut dice, mut log) = (Dice(seed), Log::with_members(8));
        for _ in 0..200 {
            let before = log.state.databases.clone();
            let command = random_command(&mut dice, &log);
            log.apply(&command);
            check(&before, &log.state.databases);
            bound += log.state.active_counts().len();
        }
        let json = serde_json::to_vec(&log.state).expect("written");
        let read: crate::ClusterState = serde_json::from_slice(&json).expect("read");
        assert_eq!(read.databases.index, log.state.databases.index);
        assert_eq!(read, log.state);
    }
    assert!(bound > 10_000, "targets are bound and leave: {bound}");
}

/// Who changes an entry beside the commands reads what holds, all the same.
#[test]
fn an_entry_that_was_just_changed_is_read_as_it_is() {
    let mut log = Log::with_members(3);
    log.ok(&create(1, &[1, 2]));
    let id = DatabaseId::from_u128(1);
    let database = log.state.databases.get_mut(&id).expect("created");
    database.target = database.copy_on(member(2));
    assert_eq!(log.state.active_counts(), BTreeMap::from([(member(2), 1)]));
    assert_eq!(log.state.databases.targets_on(member(2)), BTreeSet::from([id]));
    assert!(log.state.databases.unsettled().contains(&id));
}
