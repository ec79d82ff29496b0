//! Decides where a log ends after a crash, and whether what is missing was torn or is damaged.
//!
//! The first place where frames stop is the *hole*. What lies behind it was lost in one of two
//! ways: the machine crashed before a sync was over (a torn tail, nobody was told of it), or bytes
//! that were durable are no longer readable (damage). It is damage if anything proves that the hole
//! was durable: an intact frame behind it that says so (review F3), or the floor that the copy kept
//! in its control file. A passive may find damage where a torn group of several frames was; that is
//! on the safe side: it fetches the frames again and is admitted anew.
//!
//! A torn tail is cut here. Damage is reported and left as it is, until [`crate::Log::cut`] saves
//! it. Everything is read as the disk holds it: files are synced and their cache dropped first
//! (S10).

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use keelson_env::{Disk, DiskFile};
use keelson_format::{
    CursorState, FormatError, FrameHeader, GENERATION_HEADER_BYTES, GenerationHeader,
    VerifyErrorKind,
};
use keelson_types::{EpochStart, Generation, Position, StreamId};

use crate::LogError;
use crate::files::generation_path;
use crate::scan::{read_header, search, walk};

/// What opening a log found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Recovery {
    /// Where the log ends, and what the next frame must look like. All of it is durable.
    pub state: CursorState,
    /// First generation that is kept; `None` for an empty log.
    pub first: Option<Generation>,
    /// Highest committed position that the frames read say; what may be replayed at once.
    pub committed: Position,
    /// Epochs that begin in the kept generations, ascending.
    pub epochs: Vec<EpochStart>,
    /// The torn tail that was cut, if any.
    pub cut: Option<TornTail>,
    /// The damage at which `state` stands, if any. The log takes no writes before it is cut.
    pub damage: Option<Damage>,
}

/// A tail of which nothing was ever durable, cut by recovery.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TornTail {
    /// Where the log was cut.
    pub position: Position,
    /// Intact frame headers that were found behind the cut.
    pub frames: u64,
}

/// Bytes that were durable and are not readable.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Damage {
    /// The log is intact before this.
    pub position: Position,
    /// What is wrong there.
    pub kind: DamageKind,
    /// What proves that it was durable.
    pub evidence: Evidence,
}

/// What is wrong at a damaged position.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DamageKind {
    /// The frame, or header, there does not continue the log.
    Bytes(VerifyErrorKind),
    /// The file of a generation is missing.
    MissingGeneration(Generation),
}

/// What proves that a position was durable.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Evidence {
    /// An intact frame behind it.
    LaterFrame {
        /// Where that frame begins.
        at: Position,
        /// What the active had durable when it built that frame.
        durable: Position,
    },
    /// The floor that the copy kept.
    Floor(Position),
    /// It lies inside generations that were closed, verified offline.
    Closed,
}

impl DamageKind {
    /// Stable code for status, dumps and errors.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Bytes(kind) => kind.code(),
            Self::MissingGeneration(_) => "missing_generation",
        }
    }
}

impl fmt::Display for DamageKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bytes(kind) => kind.fmt(f),
            Self::MissingGeneration(generation) => write!(f, "generation {generation} is missing"),
        }
    }
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at {}: {}; ", self.position, self.kind)?;
        match self.evidence {
            Evidence::LaterFrame { at, durable } => {
                write!(f, "the frame at {at} says that the log was durable to {durable}")
            }
            Evidence::Floor(floor) => write!(f, "the copy had the log durable to {floor}"),
            Evidence::Closed => write!(f, "the generation was closed"),
        }
    }
}

/// One generation with an intact header. Its file is not kept open: a log may have thousands.
struct Opened {
    header: GenerationHeader,
    walked: Option<Walked>,
}

struct Walked {
    state: CursorState,
    hole: Option<VerifyErrorKind>,
    durable: Position,
    committed: Position,
    frames: u64,
}

/// What recovery hands to the log besides its report.
pub(crate) struct Recovered {
    pub(crate) report: Recovery,
    /// Headers of the kept generations, ascending.
    pub(crate) headers: Vec<GenerationHeader>,
    pub(crate) tail: Option<(GenerationHeader, Arc<dyn DiskFile>)>,
}

struct Hole {
    kind: DamageKind,
    /// Index of the generation in which the log ends; `None` if no generation is usable.
    last: Option<usize>,
    state: CursorState,
}

struct Scan<'a> {
    disk: &'a dyn Disk,
    directory: &'a Path,
    stream: StreamId,
    floor: Position,
    /// Generations with intact, successive headers.
    opened: Vec<Opened>,
    /// Generations behind the first broken or missing one.
    suspects: Vec<Generation>,
    /// Why the first suspect is one.
    suspicion: Option<DamageKind>,
}

pub(crate) fn recover(
    disk: &dyn Disk,
    directory: &Path,
    stream: StreamId,
    floor: Position,
    generations: &[Generation],
) -> Result<Recovered, LogError> {
    let mut scan = Scan {
        disk,
        directory,
        stream,
        floor,
        opened: Vec::new(),
        suspects: Vec::new(),
        suspicion: None,
    };
    scan.read_headers(generations)?;
    let start = scan.walk_back()?;
    let hole = scan.find_hole(start);
    scan.decide(start, hole)
}

impl Scan<'_> {
    fn open(&self, generation: Generation) -> Result<Arc<dyn DiskFile>, LogError> {
        Ok(self.disk.open(&generation_path(self.directory, generation))?)
    }

    fn read_headers(&mut self, generations: &[Generation]) -> Result<(), LogError> {
        for (index, generation) in generations.iter().enumerate() {
            let expected = self.opened.last().map(|last| last.header.generation.next());
            let suspicion = match expected {
                Some(expected) if expected != *generation => {
                    Some(DamageKind::MissingGeneration(expected))
                }
                _ => self.read_header(*generation)?,
            };
            if suspicion.is_some() {
                self.suspicion = suspicion;
                self.suspects = generations[index..].to_vec();
                break;
            }
        }
        Ok(())
    }

    /// Adds a generation if its header is intact; otherwise says what is wrong with it.
    fn read_header(&mut self, generation: Generation) -> Result<Option<DamageKind>, LogError> {
        let file = self.open(generation)?;
        let suspect = |error| Ok(Some(DamageKind::Bytes(VerifyErrorKind::Format(error))));
        let header = match read_header(&*file)? {
            Ok(header) => header,
            Err(FormatError::NewerFormat(version)) => {
                return Err(LogError::NewerFormat { generation, version });
            }
            Err(error) => return suspect(error),
        };
        if header.generation != generation {
            return suspect(FormatError::Malformed("a header of another generation"));
        }
        if header.stream != self.stream {
            return Err(LogError::WrongStream { expected: self.stream, found: header.stream });
        }
        self.opened.push(Opened { header, walked: None });
        Ok(None)
    }

    fn walk(&mut self, index: usize) -> Result<(), LogError> {
        let next = self.opened.get(index + 1).map(|next| next.header.previous_end);
        let header = self.opened[index].header;
        let file = self.open(header.generation)?;
        // First everything that waits is written, then what the cache says is forgotten.
        file.sync()?;
        file.drop_cache()?;
        let mut walked = Walked {
            state: state_behind(&header),
            hole: None,
            durable: Position::ZERO,
            committed: Position::ZERO,
            frames: 0,
        };
        let mut state = walked.state;
        let limit = next.map_or(u64::MAX, |end| end.offset);
        let hole = walk(&file, &mut state, limit, &mut |frame| {
            walked.durable = walked.durable.max(frame.durable);
            walked.committed = walked.committed.max(frame.committed);
            walked.frames += 1;
        })?;
        if let Some(VerifyErrorKind::Format(FormatError::NewerFormat(version))) = hole {
            return Err(LogError::NewerFormat { generation: header.generation, version });
        }
        (walked.state, walked.hole) = (state, hole);
        if walked.hole.is_none() && next.is_some_and(|end| end != state.position) {
            let expected = state.position;
            walked.hole = Some(VerifyErrorKind::Position { expected });
        }
        self.opened[index].walked = Some(walked);
        Ok(())
    }

    /// Walks generations from the last one back to the floor, and at least one frame. Returns the
    /// first one walked.
    ///
    /// Only the copy's own floor counts: what frames say was durable on the *active*, while a
    /// passive may have died, or its sync failed, before that was durable here. The owner moves
    /// the floor with every generation, so this is two or three files.
    fn walk_back(&mut self) -> Result<usize, LogError> {
        let mut frames = 0;
        for index in (0..self.opened.len()).rev() {
            self.walk(index)?;
            let walked = self.opened[index].walked.as_ref().expect("just walked");
            frames += walked.frames;
            let complete = walked.hole.is_none() || index + 1 == self.opened.len();
            if complete && frames > 0 && self.floor >= self.opened[index].header.previous_end {
                return Ok(index);
            }
        }
        Ok(0)
    }

    /// The first place where the log stops. There always is one: the end of the tail is a hole as
    /// long as nothing proves otherwise.
    fn find_hole(&self, start: usize) -> Hole {
        for index in start..self.opened.len() {
            let walked = self.opened[index].walked.as_ref().expect("walked back to the start");
            if let (Some(kind), true) = (walked.hole, index + 1 < self.opened.len()) {
                let kind = DamageKind::Bytes(kind);
                return Hole { kind, last: Some(index), state: walked.state };
            }
            let Some(next) = self.opened.get(index + 1) else {
                let end = VerifyErrorKind::Format(FormatError::Short);
                let hole = walked.hole.unwrap_or(end);
                // Where frames just stop, what is wrong is what should have followed.
                let stops = is_plain_end(hole).then_some(self.suspicion).flatten();
                let kind = stops.unwrap_or(DamageKind::Bytes(hole));
                return Hole { kind, last: Some(index), state: walked.state };
            };
            let mut state = walked.state;
            if let Err(kind) = state.advance_header(&next.header) {
                let kind = DamageKind::Bytes(kind);
                return Hole { kind, last: Some(index), state: walked.state };
            }
        }
        let end = DamageKind::Bytes(VerifyErrorKind::Format(FormatError::Short));
        let kind = self.suspicion.unwrap_or(end);
        Hole { kind, last: None, state: CursorState::empty(self.stream) }
    }

    /// Frames behind the hole: the best evidence that the hole was durable, and how many there are.
    fn testimony(&self, hole: &Hole) -> Result<(Option<Evidence>, u64), LogError> {
        let mut best: Option<(Position, Position)> = None;
        let mut frames = 0;
        let mut visit = |frame: &FrameHeader| {
            frames += 1;
            if best.is_none_or(|(_, durable)| frame.durable > durable) {
                best = Some((frame.position, frame.durable));
            }
        };
        if let Some(last) = hole.last {
            for (index, opened) in self.opened.iter().enumerate().skip(last) {
                let header = &opened.header;
                let here = hole.state.position.offset;
                let from = if index == last { here } else { GENERATION_HEADER_BYTES as u64 };
                let file = self.open(header.generation)?;
                search(&file, header.generation, Some(header.epoch), from, &mut visit)?;
            }
        }
        for generation in &self.suspects {
            let file = self.open(*generation)?;
            file.sync()?;
            file.drop_cache()?;
            search(&file, *generation, None, 0, &mut visit)?;
        }
        let later = best.filter(|(_, durable)| *durable > hole.state.position);
        let evidence = match later {
            Some((at, durable)) => Some(Evidence::LaterFrame { at, durable }),
            None if self.floor > hole.state.position => Some(Evidence::Floor(self.floor)),
            None => None,
        };
        Ok((evidence, frames))
    }

    fn decide(self, start: usize, hole: Hole) -> Result<Recovered, LogError> {
        let (evidence, frames) = self.testimony(&hole)?;
        let kept = hole.last.map_or(0, |last| last + 1);
        let position = hole.state.position;
        let walked = self.opened.iter().take(kept).skip(start).filter_map(|o| o.walked.as_ref());
        let committed = walked.map(|w| w.committed).max().unwrap_or_default();
        let mut report = Recovery {
            state: hole.state,
            first: self.opened.first().filter(|_| kept > 0).map(|o| o.header.generation),
            committed: committed.min(position),
            epochs: self.opened[..kept].iter().filter_map(|o| o.header.epoch_start()).collect(),
            cut: None,
            damage: evidence.map(|evidence| Damage { position, kind: hole.kind, evidence }),
        };
        if report.damage.is_none() && self.is_torn(&hole, frames) {
            self.cut_torn(&hole)?;
            report.cut = Some(TornTail { position, frames });
        }
        let headers: Vec<_> = self.opened[..kept].iter().map(|opened| opened.header).collect();
        let tail = match headers.last() {
            Some(header) => Some((*header, self.open(header.generation)?)),
            None => None,
        };
        Ok(Recovered { report, headers, tail })
    }

    /// Whether anything behind the hole must go: zeros and the stale bytes of a recycled file may
    /// stay.
    fn is_torn(&self, hole: &Hole, frames: u64) -> bool {
        let harmless = matches!(hole.kind, DamageKind::Bytes(kind) if is_plain_end(kind));
        let behind = hole.last.map_or(0, |last| last + 1) < self.opened.len();
        frames > 0 || behind || !self.suspects.is_empty() || !harmless
    }

    /// Later files go first and durably, so that a crash in between leaves a tail that is still
    /// torn.
    fn cut_torn(&self, hole: &Hole) -> Result<(), LogError> {
        let kept = hole.last.map_or(0, |last| last + 1);
        let behind = self.opened.iter().skip(kept).map(|opened| opened.header.generation);
        let mut remove: Vec<_> = behind.chain(self.suspects.iter().copied()).collect();
        remove.sort_unstable();
        for generation in remove.iter().rev() {
            self.disk.remove(&generation_path(self.directory, *generation))?;
        }
        if !remove.is_empty() {
            self.disk.sync_dir(self.directory)?;
        }
        if let Some(last) = hole.last {
            let file = self.open(self.opened[last].header.generation)?;
            file.set_len(hole.state.position.offset)?;
            file.sync()?;
        }
        Ok(())
    }
}

/// Whether frames end as they do in a file with zeros, or with stale bytes, behind them.
const fn is_plain_end(hole: VerifyErrorKind) -> bool {
    matches!(
        hole,
        VerifyErrorKind::Format(FormatError::Magic | FormatError::Short)
            | VerifyErrorKind::Position { .. }
    )
}

/// The state of a log just behind the header of a generation.
pub(crate) fn state_behind(header: &GenerationHeader) -> CursorState {
    let mut state = CursorState::before(header);
    state.advance_header(header).expect("a state derived from a header precedes it");
    state
}
