//! The bytes of a mark.

use keelson_types::SessionId;

use super::*;

fn mark(purpose: Purpose, fetched: Fetched) -> Mark {
    let session = StoreKey::Session(SessionId::from_u128(9));
    let to_the_end = Span::new(user("x"), None).expect("not empty");
    Mark {
        purpose,
        spans: [Span::key(StoreKey::Schema), Span::key(session), key("k"), to_the_end]
            .into_iter()
            .collect(),
        epoch: Epoch::new(3, 4),
        floor: at(77),
        q: Some(end(4, 99)),
        fetched,
        rounds: 2,
        costs: CostBook { estimate: cost(1, 2), round: cost(3, 4), spent: cost(5, 6) },
    }
}

fn resynced() -> Mark {
    let salvages = vec![LogId::from_u128(1), LogId::from_u128(2)];
    let purpose = Purpose::Resync { fork: end(1, 5), rewound: true, salvages };
    mark(purpose, Fetched::Before(user("k")))
}

#[test]
fn a_mark_survives_the_way_through_its_bytes() {
    let marks = [
        resynced(),
        mark(Purpose::Repair, Fetched::All),
        Mark { q: None, ..mark(Purpose::Repair, Fetched::Before(StoreKey::FIRST)) },
    ];
    for mark in marks {
        let mut bytes = mark.encode();
        assert_eq!(Mark::decode(&bytes).as_ref(), Ok(&mark));
        bytes.resize(bytes.len().next_multiple_of(512), 0);
        assert_eq!(Mark::decode(&bytes), Ok(mark), "in whole sectors");
    }
}

#[test]
fn every_flipped_bit_and_every_cut_is_noticed() {
    let bytes = resynced().encode();
    for index in 0..bytes.len() {
        assert!(Mark::decode(&bytes[..index]).is_err(), "cut at {index}");
        for bit in 0..8 {
            let mut flipped = bytes.clone();
            flipped[index] ^= 1 << bit;
            assert!(Mark::decode(&flipped).is_err(), "byte {index}, bit {bit}");
        }
    }
}

/// S15: what was fetched before counts for nothing in another store, and no mark is forgotten.
#[test]
fn the_mark_of_a_rescued_store_adds_to_a_former_one() {
    let lost: Spans = [key("a")].into_iter().collect();
    let alone = Mark::of_rescued(None, &lost, at(9), cost(0, 7));
    assert_eq!((&alone.spans, alone.floor, alone.q), (&lost, at(9), None));
    assert_eq!(alone.epoch, Epoch::default(), "any epoch begins a round");
    assert_eq!(alone.costs.estimate, cost(0, 7));
    assert_eq!(Mark::decode(&alone.encode()), Ok(alone));

    let former = mark(Purpose::Repair, Fetched::All);
    let added = Mark::of_rescued(Some(former.clone()), &lost, at(9), cost(0, 7));
    assert_eq!(added.spans, former.spans.union(&lost));
    assert_eq!((added.floor, added.q), (at(77), None), "the higher floor");
    assert_eq!(added.fetched, Fetched::Before(StoreKey::FIRST));
    assert_eq!(added.costs.estimate, cost(1, 9));

    let fork = Purpose::Resync { fork: end(1, 5), rewound: false, salvages: vec![] };
    let undone = Mark::of_rescued(Some(mark(fork, Fetched::All)), &lost, at(99), cost(0, 0));
    assert!(matches!(undone.purpose, Purpose::Resync { rewound: true, .. }), "{undone:?}");
    assert_eq!(undone.store_position(at(3)), at(3), "where the new store says that it stands");
    assert_eq!(undone.floor, at(99));
}

/// Repairs the checksum after a change.
fn sealed(mut bytes: Vec<u8>) -> Vec<u8> {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&bytes[..16]);
    hasher.update(&bytes[20..]);
    bytes[16..20].copy_from_slice(&hasher.finalize().to_le_bytes());
    bytes
}

#[test]
fn a_newer_version_is_told_from_damage() {
    let mut bytes = resynced().encode();
    bytes[8] = 2;
    assert_eq!(Mark::decode(&bytes), Err(MarkError::Checksum));
    assert_eq!(Mark::decode(&sealed(bytes)), Err(MarkError::NewerFormat(2)));
    assert_eq!(Mark::decode(b"something else, which is long enough"), Err(MarkError::Magic));
}

#[test]
fn nonsense_with_a_good_checksum_is_refused() {
    let bytes = resynced().encode();
    let mut odd = 0;
    for index in 20..bytes.len() {
        let mut changed = bytes.clone();
        changed[index] = changed[index].wrapping_add(0x7f);
        // It may mean another mark, but it must never panic.
        odd += u32::from(Mark::decode(&sealed(changed)) == Err(MarkError::Malformed));
    }
    assert!(odd > 10, "flags, tags and lengths: {odd}");
    let unreached = Mark { q: None, ..mark(Purpose::Repair, Fetched::All) };
    assert_eq!(Mark::decode(&unreached.encode()), Err(MarkError::Malformed));
}

#[test]
fn the_bytes_of_version_1_stay_as_they_are() {
    let small = Mark {
        spans: [key("k")].into_iter().collect(),
        ..mark(Purpose::Repair, Fetched::Before(user("k")))
    };
    let text: String = small.encode().iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(text, GOLDEN);
}

const GOLDEN: &str = concat!(
    "4b45454c4d41524b01000000870000009bc145fd0300000004000000000000000100000000000000",
    "4d000000000000000100000000040000000000000001000000000000006300000000000000000201",
    "0000006b020000000100000000000000020000000000000003000000000000000400000000000000",
    "05000000000000000600000000000000000100000002010000006b0102020000006b00",
);
