//! Inspection: whether received bytes continue a log exactly.

use keelson_types::{Epoch, EpochStart, HybridTime, Position, StreamId};

use crate::{Chunk, CursorState, FormatError, FrameHeader, FrameInfo, GenerationHeader, Item};

/// What inspection found in a chunk.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Inspected {
    /// The frames, in order.
    pub frames: Vec<FrameInfo>,
    /// Epochs that begin in the chunk, for the epoch table.
    pub epochs: Vec<EpochStart>,
}

/// Where and why bytes do not continue a log.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("at {position}: {kind}")]
pub struct VerifyError {
    /// Where the header or frame begins that was refused.
    pub position: Position,
    /// Why.
    pub kind: VerifyErrorKind,
}

/// Why a header or frame does not continue a log.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum VerifyErrorKind {
    /// It does not decode.
    #[error(transparent)]
    Format(FormatError),
    /// It lies elsewhere than where the log ends.
    #[error("the log continues at {expected}")]
    Position {
        /// Where the log continues.
        expected: Position,
    },
    /// It belongs to another stream.
    #[error("it belongs to stream {found}")]
    Stream {
        /// The stream it names.
        found: StreamId,
    },
    /// A frame whose epoch is not its generation's, or a header that does not follow the last
    /// epoch.
    #[error("it belongs to epoch {found}, not {expected}")]
    Epoch {
        /// The epoch of the log.
        expected: Epoch,
        /// The epoch it names.
        found: Epoch,
    },
    /// Its chain value does not follow: the frames before it are other ones.
    #[error("its chain value is {found:08x}, not {expected:08x}")]
    Chain {
        /// Computed from the log.
        expected: u32,
        /// What it says.
        found: u32,
    },
    /// Its sequence number does not follow.
    #[error("its sequence number is {found}, not {expected}")]
    Sequence {
        /// The next one of the log.
        expected: u64,
        /// What it says.
        found: u64,
    },
    /// Its timestamp goes back.
    #[error("its time {found} is not behind {last}")]
    Time {
        /// The last one of the log.
        last: HybridTime,
        /// What it says.
        found: HybridTime,
    },
    /// It claims that more is durable or committed than lies before it.
    #[error("it claims that {claim} is durable or committed")]
    Claim {
        /// The claim.
        claim: Position,
    },
}

impl VerifyErrorKind {
    /// Stable code for status, dumps and errors.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Format(error) => error.code(),
            Self::Position { .. } => "position",
            Self::Stream { .. } => "stream",
            Self::Epoch { .. } => "epoch",
            Self::Chain { .. } => "chain",
            Self::Sequence { .. } => "sequence",
            Self::Time { .. } => "time",
            Self::Claim { .. } => "claim",
        }
    }
}

fn check(holds: bool, kind: VerifyErrorKind) -> Result<(), VerifyErrorKind> {
    if holds { Ok(()) } else { Err(kind) }
}

impl CursorState {
    /// Checks that a chunk continues this state and moves the state behind it. On an error the
    /// state is unchanged.
    ///
    /// # Errors
    /// The first header or frame that does not continue the log.
    pub fn verify(&mut self, chunk: &Chunk) -> Result<Inspected, VerifyError> {
        let mut next = *self;
        let mut inspected = Inspected::default();
        for item in chunk.items() {
            let format =
                |(position, error)| VerifyError { position, kind: VerifyErrorKind::Format(error) };
            match item.map_err(format)? {
                Item::Header(header) => {
                    let position = Position { generation: header.generation, offset: 0 };
                    next.advance_header(&header).map_err(|kind| VerifyError { position, kind })?;
                    inspected.epochs.extend(header.epoch_start());
                }
                Item::Frame(frame) => {
                    let position = frame.header.position;
                    next.advance_frame(&frame.header)
                        .map_err(|kind| VerifyError { position, kind })?;
                    inspected.frames.push(frame);
                }
            }
        }
        *self = next;
        Ok(inspected)
    }

    /// Moves behind a generation header, if it continues this state.
    ///
    /// # Errors
    /// Why it does not; the state is unchanged.
    pub fn advance_header(&mut self, header: &GenerationHeader) -> Result<(), VerifyErrorKind> {
        use VerifyErrorKind as K;
        check(header.stream == self.stream, K::Stream { found: header.stream })?;
        let follows = header.previous_end == self.position && header.last_frame == self.end;
        check(follows, K::Position { expected: self.position })?;
        let (expected, found) = (self.epoch, header.previous_epoch);
        check(found == expected, K::Epoch { expected, found })?;
        check(header.chain == self.chain, K::Chain { expected: self.chain, found: header.chain })?;
        let (expected, found) = (self.next_sequence, header.last_sequence.saturating_add(1));
        check(found == expected, K::Sequence { expected, found })?;
        let (last, found) = (self.time, header.created_at);
        check(found >= last, K::Time { last, found })?;
        self.epoch = header.epoch;
        self.position = header.end();
        self.time = header.created_at;
        Ok(())
    }

    /// Moves behind a frame, if its header continues this state.
    ///
    /// # Errors
    /// Why it does not; the state is unchanged.
    pub fn advance_frame(&mut self, header: &FrameHeader) -> Result<(), VerifyErrorKind> {
        use VerifyErrorKind as K;
        check(header.position == self.position, K::Position { expected: self.position })?;
        let (expected, found) = (self.epoch, header.epoch);
        check(found == expected, K::Epoch { expected, found })?;
        let (expected, found) = (header.chain_after(self.chain), header.chain);
        check(found == expected, K::Chain { expected, found })?;
        let (expected, found) = (self.next_sequence, header.first_sequence);
        check(found == expected, K::Sequence { expected, found })?;
        let (last, found) = (self.time, header.time);
        check(found > last, K::Time { last, found })?;
        let claim = header.committed.max(header.durable);
        check(claim <= header.position, K::Claim { claim })?;
        self.end = header.log_end();
        self.position = header.end();
        self.chain = header.chain;
        self.next_sequence = header.first_sequence.saturating_add(header.record_count.into());
        self.time = header.time;
        Ok(())
    }
}
