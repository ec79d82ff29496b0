//! What is taken from messages of other members.

use bytes::Bytes;

use super::*;

fn member() -> MemberId {
    MemberId::from_u128(101)
}

/// They are not dropped without a word: perhaps nothing follows that would show the gap.
#[test]
fn frames_that_do_not_unpack_are_handed_on_as_such() {
    let (answers, _answered) = mpsc::unbounded_channel();
    let database = DatabaseId::from_u128(7);
    let frames = |packed_from| {
        let frames = v1::ShipFrames {
            database: ids::bytes(database),
            epoch: Some(Epoch::new(0, 3).into()),
            body: Bytes::from_static(b"junk"),
            packed_from,
            ..Default::default()
        };
        read(v1::source_message::Message::Frames(frames), member(), &answers)
    };
    let (of, taken) = frames(1_000).unwrap();
    assert_eq!(of, database);
    assert!(matches!(taken, FromSource::Garbled { epoch } if epoch == Epoch::new(0, 3)));
    let (_, taken) = frames(0).unwrap();
    assert!(matches!(taken, FromSource::Frames { .. }));
}
