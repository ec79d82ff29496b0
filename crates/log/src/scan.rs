//! Walking over the frames of a generation file, in order or in search of what lies behind a hole.

use std::sync::Arc;

use keelson_env::{DiskFile, DiskResult};
use keelson_format::{
    CursorState, FRAME_HEADER_BYTES, FRAME_MAGIC, FormatError, FrameHeader,
    GENERATION_HEADER_BYTES, GenerationHeader, VerifyErrorKind,
};
use keelson_types::{Epoch, Generation, Position};

/// Bytes read at once.
const BLOCK_BYTES: usize = 1024 * 1024;

/// A part of a file in memory that moves forward.
pub(crate) struct Window {
    file: Arc<dyn DiskFile>,
    start: u64,
    bytes: Vec<u8>,
    block: usize,
}

impl Window {
    pub(crate) fn new(file: Arc<dyn DiskFile>) -> Self {
        Self { file, start: 0, bytes: Vec::new(), block: BLOCK_BYTES }
    }

    /// At least `length` bytes from `offset`, fewer only at the end of the file.
    pub(crate) fn at(&mut self, offset: u64, length: usize) -> DiskResult<&[u8]> {
        let inside = offset.checked_sub(self.start).and_then(|at| usize::try_from(at).ok());
        let at = match inside.filter(|at| at.saturating_add(length) <= self.bytes.len()) {
            Some(at) => at,
            None => {
                self.bytes.resize(length.max(self.block), 0);
                let count = self.file.read_at(offset, &mut self.bytes)?;
                self.bytes.truncate(count);
                self.start = offset;
                0
            }
        };
        Ok(self.bytes.get(at..).unwrap_or_default())
    }
}

/// Reads and decodes the header of a generation file.
pub(crate) fn read_header(
    file: &dyn DiskFile,
) -> DiskResult<Result<GenerationHeader, FormatError>> {
    let mut bytes = [0; GENERATION_HEADER_BYTES];
    let count = file.read_at(0, &mut bytes)?;
    Ok(GenerationHeader::decode(&bytes[..count]))
}

/// Walks over the frames from `state.position` to `limit` (an offset), moving `state` behind each
/// whole, chained frame. Returns why it stopped before `limit`, if it did.
pub(crate) fn walk(
    file: &Arc<dyn DiskFile>,
    state: &mut CursorState,
    limit: u64,
    visit: &mut dyn FnMut(&FrameHeader),
) -> DiskResult<Option<VerifyErrorKind>> {
    let mut window = Window::new(Arc::clone(file));
    while state.position.offset < limit {
        let offset = state.position.offset;
        let header = match FrameHeader::decode(window.at(offset, FRAME_HEADER_BYTES)?) {
            Ok(header) => header,
            Err(error) => return Ok(Some(VerifyErrorKind::Format(error))),
        };
        let mut next = *state;
        if let Err(kind) = next.advance_frame(&header) {
            return Ok(Some(kind));
        }
        let length = FRAME_HEADER_BYTES + header.stored_bytes as usize;
        if let Err(error) = header.check_payload(window.at(offset, length)?) {
            return Ok(Some(VerifyErrorKind::Format(error)));
        }
        *state = next;
        visit(&header);
    }
    Ok(None)
}

/// Finds intact headers of frames of this generation (and of `epoch`, if given) from `from` on,
/// wherever they begin. Stale bytes of a recycled file name another generation and are not found.
pub(crate) fn search(
    file: &Arc<dyn DiskFile>,
    generation: Generation,
    epoch: Option<Epoch>,
    from: u64,
    visit: &mut dyn FnMut(&FrameHeader),
) -> DiskResult<()> {
    let mut window = Window::new(Arc::clone(file));
    let mut offset = from;
    loop {
        let bytes = window.at(offset, FRAME_HEADER_BYTES)?;
        if bytes.len() < FRAME_HEADER_BYTES {
            return Ok(());
        }
        let Some(skip) = bytes.windows(FRAME_MAGIC.len()).position(|four| four == FRAME_MAGIC)
        else {
            offset += (bytes.len() - FRAME_MAGIC.len() + 1) as u64;
            continue;
        };
        offset += skip as u64;
        let here = Position { generation, offset };
        match FrameHeader::decode(window.at(offset, FRAME_HEADER_BYTES)?) {
            Ok(header)
                if header.position == here && epoch.is_none_or(|epoch| epoch == header.epoch) =>
            {
                visit(&header);
                offset += FRAME_HEADER_BYTES as u64;
            }
            _ => offset += 1,
        }
    }
}
