//! Decisions about damage: which copy is read next, who is wrong when contents differ, and how a
//! damaged store comes back (review S15, G5).

use std::collections::BTreeMap;
use std::time::Duration;

use keelson_types::{CopyId, CopyRole, EpochTable, LogEnd, Position};

/// A copy that is scrubbed now and then.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Scrubbed<K> {
    /// Who it is.
    pub key: K,
    /// Wall clock of the end of its last scrub, in Unix milliseconds; 0 if there was none.
    pub last_unix_ms: u64,
}

/// The copy to be read next and how long that can wait: the one whose last scrub is longest ago, a
/// period after it. A new copy waits for nothing but its turn. `None` without copies.
///
/// A clock that was set back delays a scrub by a period at most.
#[must_use]
pub fn next_scrub<K>(
    copies: impl IntoIterator<Item = Scrubbed<K>>,
    now_unix_ms: u64,
    period: Duration,
) -> Option<(K, Duration)> {
    let next = copies.into_iter().min_by_key(|copy| copy.last_unix_ms)?;
    let since = Duration::from_millis(now_unix_ms.saturating_sub(next.last_unix_ms));
    Some((next.key, period.saturating_sub(since)))
}

/// What copies say of their content at one position.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum DigestVerdict {
    /// All that answered are equal; nothing is wrong.
    Equal,
    /// Most are equal; these are not, and are repaired.
    Minority(Vec<CopyId>),
    /// No majority: with two copies nobody knows which is right. All are reported, none repaired.
    Undecided(Vec<CopyId>),
}

/// How long a copy may take to replay a marker and read its store through: a minute, and as long as
/// a slow disk reads so many bytes, but an hour at most: nothing else is scrubbed by itself
/// meanwhile.
#[must_use]
pub const fn digest_wait(store_bytes: u64) -> Duration {
    const SLOW_BYTES_PER_SECOND: u64 = 32 * 1024 * 1024;
    const READS_MAX: u64 = 3_600;
    let reads = store_bytes / SLOW_BYTES_PER_SECOND;
    Duration::from_secs(60 + if reads < READS_MAX { reads } else { READS_MAX })
}

/// Judges digests. Copies that did not answer do not count, and an answer for another position says
/// nothing; a majority is one of the copies that answered, and of at least two.
#[must_use]
pub fn judge_digests(at: LogEnd, answers: &BTreeMap<CopyId, (LogEnd, u128)>) -> DigestVerdict {
    let answered: Vec<_> = answers.iter().filter(|(_, (taken, _))| *taken == at).collect();
    let mut counts: BTreeMap<u128, usize> = BTreeMap::new();
    for (_, (_, digest)) in &answered {
        *counts.entry(*digest).or_default() += 1;
    }
    if counts.len() <= 1 {
        return DigestVerdict::Equal;
    }
    let most = counts.iter().max_by_key(|(_, count)| **count);
    let majority =
        most.filter(|(_, count)| **count * 2 > answered.len()).map(|(digest, _)| *digest);
    let copies = answered.into_iter();
    match majority {
        Some(right) => {
            let wrong = copies.filter(|(_, (_, digest))| *digest != right);
            DigestVerdict::Minority(wrong.map(|(copy, _)| *copy).collect())
        }
        None => DigestVerdict::Undecided(copies.map(|(copy, _)| *copy).collect()),
    }
}

/// Up to where a holder is asked for log that is damaged here: as far as the log is known to have
/// been durable, but not beyond what the holder showed to share with it. A holder that is behind
/// helps all the same, and must: it may be behind only because this copy cannot read what it holds.
#[must_use]
pub fn mend_until(known: LogEnd, shown: Option<Position>, table: &EpochTable) -> LogEnd {
    match shown {
        Some(shown) if shown < known.position => {
            LogEnd { epoch: table.epoch_at(shown), position: shown }
        }
        Some(_) | None => known,
    }
}

/// How a damaged store comes back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StoreRepair {
    /// The own log begins with the database: an empty store replays it. No byte is fetched.
    ReplayLog,
    /// The log does not reach back: everything is fetched from another copy.
    Fetch,
    /// It is all there is: nothing is touched before an operator says so, and reads of what is
    /// sound go on.
    Leave,
}

/// What to do about a damaged store. `log_begins` is the end before the first frame of the own log,
/// `others` the number of other copies that could serve.
#[must_use]
pub fn store_repair(role: CopyRole, log_begins: Position, others: usize) -> StoreRepair {
    match (log_begins == Position::ZERO, role) {
        (_, CopyRole::Active) if others == 0 => StoreRepair::Leave,
        (true, _) => StoreRepair::ReplayLog,
        (false, _) if others == 0 => StoreRepair::Leave,
        (false, _) => StoreRepair::Fetch,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use keelson_types::{Epoch, EpochStart};

    const DAY: Duration = Duration::from_secs(24 * 3600);

    #[test]
    fn the_copy_that_waited_longest_is_read_when_its_period_is_over() {
        let copy = |key: u8, last_unix_ms| Scrubbed { key, last_unix_ms };
        let day = 24 * 3_600_000;
        let rows = [
            (vec![], 5, None),
            (vec![copy(1, 0)], 20_000 * day, Some((1, Duration::ZERO))),
            (vec![copy(1, 9 * day), copy(2, 8 * day)], 9 * day, Some((2, 6 * DAY))),
            (vec![copy(1, 9 * day), copy(2, 8 * day)], 15 * day, Some((2, Duration::ZERO))),
            // The clock was set back.
            (vec![copy(1, 9 * day)], 2 * day, Some((1, 7 * DAY))),
        ];
        for (copies, now, expected) in rows {
            assert_eq!(next_scrub(copies.clone(), now, 7 * DAY), expected, "{copies:?} at {now}");
        }
    }

    /// G5, S15: a majority names the bad one; with two copies both are reported, none repaired.
    #[test]
    fn a_majority_names_the_bad_copy_and_two_copies_have_none() {
        let at = LogEnd { epoch: Epoch::new(0, 3), position: Position::new(2, 700) };
        let other = LogEnd { position: Position::new(2, 800), ..at };
        let id = CopyId::from_u128;
        type Row = (Vec<(u128, LogEnd, u128)>, DigestVerdict);
        let rows: Vec<Row> = vec![
            (vec![], DigestVerdict::Equal),
            (vec![(1, at, 7)], DigestVerdict::Equal),
            (vec![(1, at, 7), (2, at, 7), (3, at, 7)], DigestVerdict::Equal),
            (vec![(1, at, 7), (2, at, 8), (3, at, 7)], DigestVerdict::Minority(vec![id(2)])),
            (vec![(1, at, 7), (2, at, 8)], DigestVerdict::Undecided(vec![id(1), id(2)])),
            (
                vec![(1, at, 7), (2, at, 8), (3, at, 9)],
                DigestVerdict::Undecided(vec![id(1), id(2), id(3)]),
            ),
            // Another position says nothing about this one.
            (vec![(1, at, 7), (2, other, 8), (3, at, 7)], DigestVerdict::Equal),
        ];
        for (answers, expected) in rows {
            let answers = answers.into_iter().map(|(copy, at, digest)| (id(copy), (at, digest)));
            let answers: BTreeMap<_, _> = answers.collect();
            assert_eq!(judge_digests(at, &answers), expected, "{answers:?}");
        }
    }

    /// G5: the only holder may be behind because of the damage (seed 1584 of the simulator).
    #[test]
    fn a_holder_that_is_behind_is_asked_for_what_it_has() {
        let row = |counter, generation| EpochStart {
            epoch: Epoch::new(0, counter),
            previous_end: Position::new(generation, 0),
            chain: 1,
        };
        let table = EpochTable::from_rows(vec![row(1, 1), row(2, 5)]).unwrap();
        let known = LogEnd { epoch: Epoch::new(0, 2), position: Position::new(9, 700) };
        let before = LogEnd { epoch: Epoch::new(0, 1), position: Position::new(4, 300) };
        for (shown, expected) in [
            (None, known),
            (Some(known.position), known),
            (Some(Position::new(9, 900)), known),
            (Some(before.position), before),
        ] {
            assert_eq!(mend_until(known, shown, &table), expected, "{shown:?}");
        }
    }

    /// S15: rebuilt in place from the own log, else fetched; the last copy is left alone (G4).
    #[test]
    fn a_store_comes_back_from_the_log_or_from_another_copy() {
        let (start, later) = (Position::ZERO, Position::new(9, 512));
        let rows = [
            (CopyRole::Passive, start, 2, StoreRepair::ReplayLog),
            (CopyRole::Passive, start, 0, StoreRepair::ReplayLog),
            (CopyRole::Passive, later, 2, StoreRepair::Fetch),
            (CopyRole::Passive, later, 0, StoreRepair::Leave),
            (CopyRole::Active, start, 1, StoreRepair::ReplayLog),
            (CopyRole::Active, start, 0, StoreRepair::Leave),
            (CopyRole::Active, later, 1, StoreRepair::Fetch),
        ];
        for (role, begins, others, expected) in rows {
            assert_eq!(store_repair(role, begins, others), expected, "{role:?} {begins} {others}");
        }
    }
}
