//! Offline check of a log directory: every frame of every generation, and its end against what the
//! control file beside it says the copy had.

use std::path::Path;
use std::sync::Arc;

use keelson_env::{Disk, DiskFile};
use keelson_format::{
    CONTROL_FILE_BYTES, CursorState, FormatError, FrameHeader, GenerationHeader, VerifyErrorKind,
    choose_control,
};
use keelson_types::{Generation, LogEnd, Position};

use crate::files::{generation_path, list};
use crate::recovery::{Damage, DamageKind, Evidence, state_behind};
use crate::scan::{Window, read_header, search, walk};
use crate::{LogError, OsDisk};

/// What was found in one generation.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GenerationReport {
    /// The generation.
    pub generation: Generation,
    /// Its header, if it decodes.
    pub header: Option<GenerationHeader>,
    /// Where its intact frames end.
    pub end: Position,
    /// Intact frames.
    pub frames: u64,
    /// Records in them.
    pub records: u64,
    /// Length of the file.
    pub file_bytes: u64,
}

/// What was found in a log directory.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct VerifyReport {
    /// The generations, ascending.
    pub generations: Vec<GenerationReport>,
    /// End of the last intact frame before the first damage.
    pub end: LogEnd,
    /// Every damage found, in order.
    pub damages: Vec<Damage>,
    /// A tail that a crash may have torn: bytes behind the end that recovery would cut.
    pub torn_from: Option<Position>,
    /// Bytes behind the end, in the last generation, that are not zero: of a torn tail, of a
    /// damaged frame, or left from an earlier use of the file.
    pub bytes_behind: u64,
    /// What the copy knew of its log; `None` without a control file of this log beside it.
    pub known: Option<Known>,
}

/// What the control file of a copy says about its log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Known {
    /// The log was durable to here: if it ends before, it is damaged.
    pub durable: Position,
    /// The log was committed to here; a crash may have taken the last of it from this copy.
    pub committed: Position,
}

impl VerifyReport {
    /// Whether nothing is damaged.
    #[must_use]
    pub const fn is_intact(&self) -> bool {
        self.damages.is_empty()
    }
}

/// Checks the log in a directory of the real disk, opened for reading only.
///
/// # Errors
/// [`LogError::NoLog`] if the directory has no generation; a failed disk call. Damage is no error.
pub fn verify_dir(directory: &Path) -> Result<VerifyReport, LogError> {
    verify(&disk_with_log(directory)?, directory)
}

/// The real disk, for reading, if there is a log in this directory: whoever looks into a wrong one
/// must not hear that all is well.
pub(crate) fn disk_with_log(directory: &Path) -> Result<OsDisk, LogError> {
    let disk = OsDisk::read_only();
    if list(&disk, directory)?.generations.is_empty() {
        return Err(LogError::NoLog);
    }
    Ok(disk)
}

/// Checks the log in a directory.
///
/// # Errors
/// A failed disk call; damage is no error.
pub fn verify(disk: &dyn Disk, directory: &Path) -> Result<VerifyReport, LogError> {
    let generations = list(disk, directory)?.generations;
    let report = VerifyReport { known: known(disk, directory)?, ..VerifyReport::default() };
    let mut check = Check { report, state: None };
    for (index, generation) in generations.iter().enumerate() {
        let next = generations.get(index + 1).copied();
        check.generation(disk, directory, *generation, next)?;
    }
    Ok(check.report)
}

/// What the control file beside the log says; nothing if it is of another log or does not decode.
fn known(disk: &dyn Disk, directory: &Path) -> Result<Option<Known>, LogError> {
    let Some(path) = directory.parent().map(|parent| parent.join("control")) else {
        return Ok(None);
    };
    if !disk.exists(&path)? {
        return Ok(None);
    }
    let mut bytes = vec![0; CONTROL_FILE_BYTES];
    let count = disk.open(&path)?.read_at(0, &mut bytes)?;
    let found = choose_control(&bytes[..count]).ok().flatten().map(|choice| choice.record);
    let name = directory.file_name().unwrap_or_default();
    let own = found.filter(|record| name == format!("log-{}", record.log).as_str());
    Ok(own.map(|own| Known { durable: own.durable_floor, committed: own.committed }))
}

/// How many bytes from `offset` to the end of a file are not zero.
fn bytes_not_zero(file: &Arc<dyn DiskFile>, mut offset: u64) -> Result<u64, LogError> {
    let mut window = Window::new(Arc::clone(file));
    let mut found = 0;
    loop {
        let bytes = window.at(offset, 1)?;
        if bytes.is_empty() {
            return Ok(found);
        }
        found += bytes.iter().filter(|byte| **byte != 0).count() as u64;
        offset += bytes.len() as u64;
    }
}

struct Check {
    report: VerifyReport,
    /// The state behind the generation before; `None` at the start and behind damage.
    state: Option<CursorState>,
}

impl Check {
    fn damage(&mut self, position: Position, kind: VerifyErrorKind, evidence: Evidence) {
        let kind = DamageKind::Bytes(kind);
        self.report.damages.push(Damage { position, kind, evidence });
    }

    fn generation(
        &mut self,
        disk: &dyn Disk,
        directory: &Path,
        generation: Generation,
        next: Option<Generation>,
    ) -> Result<(), LogError> {
        let file = disk.open(&generation_path(directory, generation))?;
        let start = Position { generation, offset: 0 };
        let mut found = GenerationReport {
            generation,
            header: None,
            end: start,
            frames: 0,
            records: 0,
            file_bytes: file.size()?,
        };
        let header = match read_header(&*file)? {
            Ok(header) if header.generation == generation => header,
            other => {
                let wrong = FormatError::Malformed("a header of another generation");
                let kind = VerifyErrorKind::Format(other.err().unwrap_or(wrong));
                self.damage(start, kind, Evidence::Closed);
                self.state = None;
                self.report.generations.push(found);
                return Ok(());
            }
        };
        found.header = Some(header);
        self.check_joint(&header);
        let limit = match next.filter(|next| *next == generation.next()) {
            Some(next) => {
                let file = disk.open(&generation_path(directory, next))?;
                read_header(&*file)?.ok().map(|header| header.previous_end.offset)
            }
            None => None,
        };
        let mut state = state_behind(&header);
        let hole = walk(&file, &mut state, limit.unwrap_or(u64::MAX), &mut |frame| {
            found.frames += 1;
            found.records += u64::from(frame.record_count);
        })?;
        found.end = state.position;
        self.report.generations.push(found);
        if self.report.damages.is_empty() {
            self.report.end = state.end;
        }
        self.state = Some(state);
        if let Some(kind) = hole {
            self.check_hole(&file, &header, state, kind, next.is_some())?;
        }
        Ok(())
    }

    /// Whether a generation continues the one before it.
    fn check_joint(&mut self, header: &GenerationHeader) {
        let at = Position { generation: header.generation, offset: 0 };
        let last = self.report.generations.last().map(|last| last.generation);
        if let Some(missing) = last.map(Generation::next).filter(|g| *g != header.generation) {
            let kind = DamageKind::MissingGeneration(missing);
            let position = Position { generation: missing, offset: 0 };
            self.report.damages.push(Damage { position, kind, evidence: Evidence::Closed });
        } else if let Some(mut state) = self.state
            && let Err(kind) = state.advance_header(header)
        {
            self.damage(at, kind, Evidence::Closed);
        }
    }

    /// Frames end before the generation does: the end of the log, a torn tail, or damage.
    fn check_hole(
        &mut self,
        file: &Arc<dyn DiskFile>,
        header: &GenerationHeader,
        state: CursorState,
        kind: VerifyErrorKind,
        closed: bool,
    ) -> Result<(), LogError> {
        if closed {
            self.damage(state.position, kind, Evidence::Closed);
            // The next generation cannot follow what is not there: one damage is enough.
            self.state = None;
            return Ok(());
        }
        self.report.bytes_behind = bytes_not_zero(file, state.position.offset)?;
        let mut best: Option<(Position, Position)> = None;
        let mut visit = |frame: &FrameHeader| {
            if best.is_none_or(|(_, durable)| frame.durable > durable) {
                best = Some((frame.position, frame.durable));
            }
        };
        search(file, header.generation, Some(header.epoch), state.position.offset, &mut visit)?;
        let floor = self.report.known.map_or(Position::ZERO, |known| known.durable);
        match best {
            Some((at, durable)) if durable > state.position => {
                self.damage(state.position, kind, Evidence::LaterFrame { at, durable });
            }
            _ if floor > state.position => {
                self.damage(state.position, kind, Evidence::Floor(floor));
            }
            Some(_) => self.report.torn_from = Some(state.position),
            None => {}
        }
        Ok(())
    }
}
