//! Mending the log of a copy: right bytes from another copy into the place of rotten ones, without
//! disturbing whoever writes or reads the rest.
//!
//! Fetched frames are chained on the last sound one before the damage, so what a holder sends is
//! what stood here, or is refused. It is asked for log up to the known durable end, or up to where
//! it showed to share the log with this copy; a holder that lacks it is passed over. Writing goes
//! through the log's lane, one chunk at a time, until the own bytes follow again.

use keelson_copy_core::LogSource;
use keelson_format::{Chunk, CursorState};
use keelson_types::{CopyId, EpochTable, LogEnd, MemberId, Position};
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::context::PlaneContext;
use crate::fetch::{self, Ask, SILENCE};
use crate::log_lane::LogJob;
use crate::pool::Lane;
use crate::shared::CopyShared;

/// What is to be mended.
#[derive(Debug)]
pub(crate) struct Mend {
    /// Where the damage begins.
    pub(crate) at: Position,
    pub(crate) table: EpochTable,
    pub(crate) log: Lane<LogJob>,
    /// Who may have it, best first, and up to where it is asked for.
    pub(crate) holders: Vec<(MemberId, CopyId, LogEnd)>,
}

/// Mends; says how many bytes were written.
pub(crate) async fn run(
    context: &PlaneContext,
    shared: &CopyShared,
    mend: Mend,
) -> Result<u64, String> {
    let mut why = "no other copy is known".to_owned();
    for (member, copy, wanted) in &mend.holders {
        match from(context, shared, &mend, (*member, *copy, *wanted)).await {
            Ok(bytes) => return Ok(bytes),
            Err(refused) => {
                let name = context.member(*member).map(|peer| peer.name.to_string());
                why = format!("{}: {refused}", name.unwrap_or_default());
            }
        }
    }
    Err(why)
}

async fn from(
    context: &PlaneContext,
    shared: &CopyShared,
    mend: &Mend,
    (member, copy, wanted): (MemberId, CopyId, LogEnd),
) -> Result<u64, String> {
    let mut state = ask(&mend.log, |reply| LogJob::StateBefore(mend.at, reply)).await??;
    if state.position >= wanted.position {
        return Err("nothing there is known to be durable yet, or it does not hold it".into());
    }
    let source = LogSource { member, copy, end: wanted };
    let request = Ask { epoch: wanted.epoch, source, wanted, end: state.position };
    let mut stream = fetch::open(context, shared, &request, &mend.table).await?;
    let first = fetch::next(&mut stream).await?.ok_or("the holder sent nothing")?;
    let matched = LogEnd::from(first.matched.unwrap_or_default()).position;
    if matched != state.position {
        return Err(format!("its log shares only {matched}"));
    }
    let mut written = 0;
    while let Some(message) = fetch::next(&mut stream).await? {
        let position = message.position.map(Into::into).unwrap_or_default();
        let chunk = Chunk::new(position, message.body);
        state.verify(&chunk).map_err(|error| format!("what it sent does not fit: {error}"))?;
        written += chunk.bytes.len() as u64;
        if write(&mend.log, chunk, state).await? {
            return Ok(written);
        }
    }
    if state.position >= wanted.position { Ok(written) } else { Err("it ended early".into()) }
}

/// Writes a chunk; says whether the own bytes follow it.
async fn write(log: &Lane<LogJob>, chunk: Chunk, state: CursorState) -> Result<bool, String> {
    let state = Box::new(state);
    ask(log, |reply| LogJob::Mend { chunk, state, reply }).await?
}

/// Gives the lane a job and waits for its answer.
pub(crate) async fn ask<T>(
    log: &Lane<LogJob>,
    job: impl FnOnce(oneshot::Sender<T>) -> LogJob,
) -> Result<T, String> {
    let (reply, answer) = oneshot::channel();
    log.push(job(reply));
    let answer = timeout(SILENCE, answer).await.map_err(|_| "the log's thread is busy")?;
    answer.map_err(|_| "the copy is being reopened".to_owned())
}
