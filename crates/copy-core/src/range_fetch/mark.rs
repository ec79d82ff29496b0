//! The durable mark: which keys of a store are not to be trusted, and how far their fetch is.
//!
//! While a mark stands, the store is no candidate and no source. A mark that does not decode means
//! that *everything* may be wrong: the copy is seeded.
//!
//! ```text
//! magic "KEELMARK" · version u32 · length of the body u32 · CRC-32 of both and the body u32 · body
//! body:    epoch · floor · Q flag u8, Q end · fetched flag u8 (1 = all), key
//!          rounds u32 · estimate, this round, all rounds (keys u64, bytes u64 each)
//!          purpose u8 (0 repair, 1 resync) · for a resync: fork end, rewound u8,
//!          salvage count u16, 16 bytes each · span count u32, spans
//! span:    key, end flag u8 (0 = to the end of the store), key if 1
//! key:     0 schema | 1 session, 16 bytes | 2 user, length u32, bytes
//! epoch:   u32, u64 · position: u64, u64 · end: epoch, position          (all little-endian)
//! ```

use std::fmt;

use keelson_types::{Epoch, LogEnd, LogId, Position, Span, StoreKey};

use super::codec::{Reader, put_cost, put_end, put_epoch, put_key, put_position};
use super::spans::{FetchCost, Spans};

/// Version of the bytes.
pub const MARK_VERSION: u32 = 1;

/// Longest encoded mark: 16 MiB. A touched set that needs more is the business of a seed.
pub const MARK_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Forks that one resync can have cut before it came to its end.
pub const SALVAGES_MAX: usize = 64;

const MAGIC: [u8; 8] = *b"KEELMARK";
const HEAD_BYTES: usize = 20;
const CRC_AT: usize = 16;

/// Why keys are not trusted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Purpose {
    /// Keys were damaged or lost with a file. The rest of the store is sound and readable.
    Repair,
    /// The store holds effects of a fork that was cut. Nothing of it is readable.
    Resync {
        /// Where the fork left the common log; replay begins again here.
        fork: LogEnd,
        /// Whether the store's position was durably set back to there. Until then the position that
        /// the store itself names lies on the fork and means nothing.
        rewound: bool,
        /// The logs that were cut off and kept, oldest first.
        salvages: Vec<LogId>,
    },
}

/// How far the data of a round is durably in the store.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Fetched {
    /// What lies before this key.
    Before(StoreKey),
    /// All of it.
    All,
}

/// What was expected, and what was spent.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct CostBook {
    /// Shown before it began.
    pub estimate: FetchCost,
    /// Spent in this round.
    pub round: FetchCost,
    /// Spent in all rounds, this one included.
    pub spent: FetchCost,
}

/// A store's durable admission that some of its keys are wrong.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mark {
    /// Why.
    pub purpose: Purpose,
    /// The keys.
    pub spans: Spans,
    /// The timeline from which this round fetches. Data of another one counts for nothing.
    pub epoch: Epoch,
    /// No donor before this position will do: the rest of the store may be as new as this.
    pub floor: Position,
    /// The highest snapshot from which data of this round was, or is about to be, written.
    pub q: Option<LogEnd>,
    /// What of this round survives a crash.
    pub fetched: Fetched,
    /// How often it was begun, this round included.
    pub rounds: u32,
    /// The costs.
    pub costs: CostBook,
}

/// Why bytes are no mark.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MarkError {
    /// Other bytes, or too few.
    Magic,
    /// Written by a newer version; nothing was changed.
    NewerFormat(u32),
    /// The checksum does not match.
    Checksum,
    /// The checksum matches and the content makes no sense.
    Malformed,
}

impl fmt::Display for MarkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Magic => f.write_str("not a mark"),
            Self::NewerFormat(version) => write!(f, "a mark of version {version}"),
            Self::Checksum => f.write_str("the checksum of the mark does not match"),
            Self::Malformed => f.write_str("the mark makes no sense"),
        }
    }
}

impl std::error::Error for MarkError {}

impl Mark {
    /// Where the store stands: what it says itself, unless that position lies on a fork.
    #[must_use]
    pub fn store_position(&self, found: Position) -> Position {
        match &self.purpose {
            Purpose::Resync { fork, rewound: false, .. } => fork.position,
            Purpose::Resync { .. } | Purpose::Repair => found,
        }
    }

    /// The mark of a store that was made of what was sound of another one, which had this mark. The
    /// rest of its content is no newer than `floor`. It is readable there at the earliest, because
    /// its position may be older than its content.
    #[must_use]
    pub fn of_rescued(
        former: Option<Self>,
        lost: &Spans,
        floor: Position,
        estimate: FetchCost,
    ) -> Self {
        let mut mark = former.unwrap_or_else(|| Self {
            purpose: Purpose::Repair,
            spans: lost.clone(),
            // The first epoch that is followed begins a round.
            epoch: Epoch::default(),
            floor,
            q: None,
            fetched: Fetched::Before(StoreKey::FIRST),
            rounds: 0,
            costs: CostBook::default(),
        });
        if let Purpose::Resync { rewound, .. } = &mut mark.purpose {
            // The new store stands on the common log, at the fork or before it.
            *rewound = true;
        }
        mark.spans = mark.spans.union(lost);
        mark.floor = mark.floor.max(floor);
        (mark.q, mark.fetched) = (None, Fetched::Before(StoreKey::FIRST));
        mark.costs.estimate = mark.costs.estimate.plus(estimate);
        mark.costs.round = FetchCost::default();
        if !mark.fits() {
            mark.spans = mark.spans.hull();
        }
        mark
    }

    /// The bytes; at most [`MARK_BYTES_MAX`] if [`Self::fits`].
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(1024);
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&MARK_VERSION.to_le_bytes());
        out.extend_from_slice(&[0; HEAD_BYTES - 12]);
        self.encode_body(&mut out);
        let length = u32::try_from(out.len() - HEAD_BYTES).unwrap_or(u32::MAX);
        out[12..CRC_AT].copy_from_slice(&length.to_le_bytes());
        let crc = crc_of(&out);
        out[CRC_AT..HEAD_BYTES].copy_from_slice(&crc.to_le_bytes());
        out
    }

    fn encode_body(&self, out: &mut Vec<u8>) {
        put_epoch(out, self.epoch);
        put_position(out, self.floor);
        out.push(self.q.is_some().into());
        put_end(out, self.q.unwrap_or_default());
        match &self.fetched {
            Fetched::Before(key) => {
                out.push(0);
                put_key(out, key);
            }
            Fetched::All => {
                out.push(1);
                put_key(out, &StoreKey::FIRST);
            }
        }
        out.extend_from_slice(&self.rounds.to_le_bytes());
        for cost in [self.costs.estimate, self.costs.round, self.costs.spent] {
            put_cost(out, cost);
        }
        match &self.purpose {
            Purpose::Repair => out.push(0),
            Purpose::Resync { fork, rewound, salvages } => {
                out.push(1);
                put_end(out, *fork);
                out.push((*rewound).into());
                let kept = &salvages[..salvages.len().min(SALVAGES_MAX)];
                out.extend_from_slice(&(kept.len() as u16).to_le_bytes());
                kept.iter().for_each(|id| out.extend_from_slice(&id.into_bytes()));
            }
        }
        out.extend_from_slice(&(self.spans.list().len() as u32).to_le_bytes());
        for span in self.spans.list() {
            put_key(out, span.from());
            out.push(span.to().is_some().into());
            span.to().into_iter().for_each(|to| put_key(out, to));
        }
    }

    /// Whether it may be written at all.
    #[must_use]
    pub fn fits(&self) -> bool {
        let mut out = Vec::new();
        self.encode_body(&mut out);
        out.len() + HEAD_BYTES <= MARK_BYTES_MAX
    }

    /// Reads what [`Self::encode`] wrote. Bytes behind the mark are ignored, so that it may be
    /// written into sectors.
    ///
    /// # Errors
    /// [`MarkError`] says what is wrong; the caller seeds the copy then.
    pub fn decode(bytes: &[u8]) -> Result<Self, MarkError> {
        if bytes.len() < HEAD_BYTES || bytes[..8] != MAGIC {
            return Err(MarkError::Magic);
        }
        let mut head = Reader::new(&bytes[8..HEAD_BYTES]);
        let (version, length, crc) = (head.u32(), head.u32(), head.u32());
        let length = length.ok_or(MarkError::Magic)? as usize;
        let whole = HEAD_BYTES.checked_add(length).and_then(|end| bytes.get(..end));
        let whole = whole.ok_or(MarkError::Checksum)?;
        if Some(crc_of(whole)) != crc {
            return Err(MarkError::Checksum);
        }
        match version {
            Some(MARK_VERSION) => {}
            version => return Err(MarkError::NewerFormat(version.unwrap_or(0))),
        }
        let mut reader = Reader::new(&whole[HEAD_BYTES..]);
        let mark = Self::decode_body(&mut reader).filter(|_| reader.is_empty());
        mark.ok_or(MarkError::Malformed)
    }

    fn decode_body(reader: &mut Reader<'_>) -> Option<Self> {
        let (epoch, floor) = (reader.epoch()?, reader.position()?);
        let (has_q, q) = (reader.flag()?, reader.end()?);
        let (all, key) = (reader.flag()?, reader.key()?);
        let rounds = reader.u32()?;
        let costs =
            CostBook { estimate: reader.cost()?, round: reader.cost()?, spent: reader.cost()? };
        let purpose = match reader.flag()? {
            false => Purpose::Repair,
            true => Purpose::Resync {
                fork: reader.end()?,
                rewound: reader.flag()?,
                salvages: salvages(reader)?,
            },
        };
        let count = reader.u32()?;
        let mut list = Vec::new();
        for _ in 0..count {
            let from = reader.key()?;
            let to = if reader.flag()? { Some(reader.key()?) } else { None };
            list.push(Span::new(from, to)?);
        }
        let spans: Spans = list.iter().cloned().collect();
        let fetched = if all { Fetched::All } else { Fetched::Before(key) };
        let mark =
            Self { purpose, spans, epoch, floor, q: has_q.then_some(q), fetched, rounds, costs };
        // A list in another order was not written by us.
        let sound = mark.spans.list() == list && !list.is_empty() && (has_q || !all);
        sound.then_some(mark)
    }
}

fn salvages(reader: &mut Reader<'_>) -> Option<Vec<LogId>> {
    let count = usize::from(reader.u16()?);
    if count > SALVAGES_MAX {
        return None;
    }
    (0..count).map(|_| reader.array().map(LogId::from_bytes)).collect()
}

fn crc_of(mark: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&mark[..CRC_AT]);
    hasher.update(&mark[HEAD_BYTES..]);
    hasher.finalize()
}
