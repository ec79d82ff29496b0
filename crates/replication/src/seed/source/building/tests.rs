//! Tests of who waits for a checkpoint, who makes it, and when it is given up.

use std::path::PathBuf;

use keelson_format::SeedManifest;
use keelson_log::OsDisk;
use keelson_types::{
    CheckpointId, CopyId, DatabaseId, EpochTable, LogEnd, OperationId, RefusalReason, StreamId,
};

use super::super::{BUILDS_AT_ONCE, SOURCES_MAX};
use super::*;

const COPY: CopyId = CopyId::from_u128(3);

fn key(operation: u128) -> Key {
    (DatabaseId::from_u128(7), OperationId::from_u128(operation))
}

fn made(operation: u128, place: Option<OwnedSemaphorePermit>) -> Source {
    let manifest = SeedManifest {
        checkpoint: CheckpointId::from_u128(operation),
        database: DatabaseId::from_u128(7),
        stream: StreamId::from_u128(9),
        source: COPY,
        at: LogEnd::ZERO,
        epochs: EpochTable::new(),
        files: Vec::new(),
    };
    Source::new(PathBuf::from("/nowhere"), manifest, place)
}

fn sources() -> Arc<SeedSources> {
    let home = tempfile::tempdir().unwrap();
    Arc::new(SeedSources::open(home.path(), Arc::new(OsDisk::new())))
}

fn checkpoint(standing: &watch::Receiver<Standing>) -> Option<CheckpointId> {
    match &*standing.borrow() {
        Standing::Ready(source) => Some(source.manifest.checkpoint),
        _ => None,
    }
}

/// A target that lost its source for a moment finds what is made, and later what was made; nothing
/// is made twice.
#[tokio::test]
async fn a_target_that_comes_back_finds_its_checkpoint() {
    let sources = sources();
    let (first, building) = sources.ask(key(1), COPY);
    let building = building.expect("nobody makes it yet");
    let (second, another) = sources.ask(key(1), COPY);
    assert!(another.is_none(), "it is made already");
    drop(first);
    building.end(Ok(made(1, None)));
    assert_eq!(checkpoint(&second), Some(CheckpointId::from_u128(1)));
    drop((building, second));
    let (third, another) = sources.ask(key(1), COPY);
    assert_eq!(checkpoint(&third), Some(CheckpointId::from_u128(1)), "nobody had waited");
    assert!(another.is_none());
    assert!(sources.ask(key(1), CopyId::from_u128(4)).1.is_some(), "that of another copy");
    sources.close(key(1));
    assert!(sources.find(key(1), CheckpointId::from_u128(1)).is_none());
}

/// One whose making ends without a word leaves an end behind, and the next one may begin.
#[tokio::test]
async fn a_build_that_panics_is_told() {
    let sources = sources();
    let (standing, building) = sources.ask(key(1), COPY);
    drop(building);
    let Standing::Failed(refusal) = &*standing.borrow() else { panic!("{standing:?}") };
    assert_eq!(refusal.reason, RefusalReason::Internal);
    assert!(sources.ask(key(1), COPY).1.is_some());
}

/// A build goes on while its target is away, and ends when the seed does, or after a while.
#[tokio::test]
async fn a_build_is_given_up_once_nobody_wants_it() {
    const SOON: Duration = Duration::from_millis(5);
    let sources = sources();
    let (standing, building) = sources.ask(key(1), COPY);
    let building = building.unwrap();
    let over = building.over(SOON);
    tokio::pin!(over);
    assert!(futures::poll!(&mut over).is_pending(), "somebody waits");
    drop(standing);
    assert!(futures::poll!(&mut over).is_pending(), "it may come back");
    let back = sources.ask(key(1), COPY);
    let waited = tokio::time::timeout(10 * SOON, &mut over).await;
    assert!(waited.is_err(), "it did");
    drop(back);
    over.await;

    let (_standing, building) = sources.ask(key(2), COPY);
    let building = building.unwrap();
    sources.close(key(2));
    building.unless_over(building.under_way.stop.cancelled()).await;
    building.end(Ok(made(2, None)));
    assert!(sources.find(key(2), CheckpointId::from_u128(2)).is_none(), "closed meanwhile");
}

/// More seeds than a member serves at a time wait, and say for what, instead of failing.
#[tokio::test]
async fn seeds_beyond_the_bound_wait_for_their_turn() {
    let sources = sources();
    for number in 0..SOURCES_MAX as u128 {
        let building = sources.ask(key(number), COPY).1.unwrap();
        let place = building.place().await.unwrap();
        building.end(Ok(made(number, Some(place))));
    }
    let (mut standing, building) = sources.ask(key(99), COPY);
    let building = Arc::new(building.unwrap());
    let waiting = tokio::spawn({
        let building = building.clone();
        async move { building.place().await.map(drop) }
    });
    let waits = |standing: &Standing| matches!(standing, Standing::Waiting(_));
    standing.wait_for(waits).await.unwrap();
    sources.close(key(5));
    waiting.await.unwrap().unwrap();

    let mut turns = Vec::new();
    for _ in 0..BUILDS_AT_ONCE {
        turns.push(building.turn().await.unwrap());
    }
    let waiting = tokio::spawn(async move { building.turn().await.map(drop) });
    standing.wait_for(waits).await.unwrap();
    turns.pop();
    waiting.await.unwrap().unwrap();
}
