//! Mending a rotten log from the copies of other members, as a member's scrub does.

use keelson_format::CursorState;
use keelson_log::{Log, LogError, LogReader};
use keelson_types::{EpochTable, LogEnd, Position};

use super::CopyNode;

/// Damages mended in one go; a run flips fewer bits.
const DAMAGES_MAX: usize = 64;

/// A copy that may have the bytes.
pub(crate) struct Holder {
    table: EpochTable,
    durable: LogEnd,
    /// Where its log begins.
    begins: Position,
    reader: LogReader,
}

impl CopyNode {
    /// This copy as others ask it.
    pub(crate) fn holder(&self) -> Holder {
        Holder {
            table: self.machine.table().clone(),
            durable: self.log.durable_end(),
            begins: self.log_begins(),
            reader: self.log.reader(),
        }
    }

    /// Reads the whole log and mends what is damaged. `None` if something is left.
    pub(crate) fn scrub(&mut self, holders: &mut [Holder]) -> Option<usize> {
        let table = self.machine.table().clone();
        for mended in 0..DAMAGES_MAX {
            let Some(damage) = damage_of(&self.log) else { return Some(mended) };
            let end = self.log.durable_end().position;
            if !mend(&mut self.log, damage, end, &table, holders) {
                return None;
            }
        }
        None
    }

    /// Whether what is damaged was nowhere but here: then log helps nobody who needs it, and the
    /// other copies wait for a seed.
    pub(crate) fn is_beyond_mending(&self, holders: &[Holder]) -> bool {
        let (table, end) = (self.machine.table(), self.log.durable_end().position);
        let Some(damage) = damage_of(&self.log) else { return false };
        let shares = |holder: &Holder| holder.table.common(holder.durable.position, table, end);
        let lacks = |holder: &Holder| holder.begins > damage || shares(holder).position <= damage;
        holders.iter().all(lacks)
    }
}

/// The first damage that reading meets.
fn damage_of(log: &Log) -> Option<Position> {
    let end = log.durable_end().position;
    let mut at = Position { generation: log.first_generation()?, offset: 0 };
    let mut reader = log.reader();
    while at < end {
        match reader.read(at, end, 64 * 1024) {
            Ok(chunks) => at = chunks.last()?.end,
            Err(LogError::Damaged(damage)) => return Some(damage.position),
            Err(_) => return None,
        }
    }
    None
}

/// Puts right what begins at `damage`, up to `wanted`, from whoever has it.
pub(crate) fn mend(
    log: &mut Log,
    damage: Position,
    wanted: Position,
    table: &EpochTable,
    holders: &mut [Holder],
) -> bool {
    holders.iter_mut().any(|holder| from(log, damage, wanted, table, holder).unwrap_or(false))
}

fn from(
    log: &mut Log,
    damage: Position,
    wanted: Position,
    table: &EpochTable,
    holder: &mut Holder,
) -> Result<bool, LogError> {
    let mut state: CursorState = log.state_before(damage)?;
    // A holder that is behind helps as far as it shares the log: it may be behind only because it
    // cannot be matched before this is mended.
    let common = holder.table.common(holder.durable.position, table, wanted).position;
    if common <= state.position {
        return Ok(false);
    }
    while state.position < common {
        let chunks = holder.reader.read(state.position, common, 1)?;
        let Some(chunk) = chunks.first() else { return Ok(false) };
        if state.verify(chunk).is_err() {
            return Ok(false);
        }
        log.mend(chunk)?;
        if log.goes_on(&state)? {
            return Ok(true);
        }
    }
    Ok(true)
}
