//! Scrub: every copy of this member is read through once in a period, logs and store, at a bounded
//! rate, so that rot is found before it spreads or is needed (G5).
//!
//! One task and one thread for the whole member, one timer for the copy that is due next; only the
//! comparisons of a few copies overlap, since they wait for other members. A closed store stays
//! closed. What is found is handed to the copy's owner, which mends or rebuilds; the
//! active copy also compares contents. Which copy is next, and who is wrong, decides
//! `copy_core::scrub`.

pub(crate) mod compare;
mod read;
mod state;

use std::sync::Arc;
use std::time::Duration;

use keelson_copy_core::scrub::{Scrubbed, next_scrub};
use keelson_types::{CopyId, MemberId, Position, Setting};
use tokio::sync::{Notify, OwnedMutexGuard, Semaphore, oneshot};

use crate::context::{CopyHandle, PlaneContext, Registry};
use crate::log_lane::LogJob;
use crate::mend::ask;
use crate::message::Message;
use crate::note::{Note, NoteCode};
use crate::open;
use crate::owner::{Files, unix_millis};
use crate::scrub::read::{LogFound, Pace, read_log};
pub(crate) use crate::scrub::state::{Compared, SCRUB_EXTENSION, ScrubReport, ScrubState};

/// Longest sleep: copies come, and clocks are set.
const LOOK_AGAIN: Duration = Duration::from_secs(3600);
/// A mend that takes longer is looked after at the next scrub.
const MEND_WAIT: Duration = Duration::from_secs(60);
/// Mends of one place in one scrub: another mend may have been under way.
const MENDS_MAX: u32 = 3;
/// Damages of one log in one scrub.
const DAMAGES_MAX: u32 = 10_000;

/// Scheduled scrubs at a time, those that wait for other members included: digests share a thread.
const SCHEDULED_MAX: usize = 2;

/// What the scrubs of a member share.
#[derive(Debug)]
pub(crate) struct Scrubbing {
    /// One copy at a time.
    turn: Semaphore,
    /// Of scheduled scrubs, from the beginning of each.
    places: Arc<Semaphore>,
    /// One ended: its copy can be due again.
    ended: Notify,
}

impl Default for Scrubbing {
    fn default() -> Self {
        Self {
            turn: Semaphore::new(1),
            places: Arc::new(Semaphore::new(SCHEDULED_MAX)),
            ended: Notify::new(),
        }
    }
}

/// What a scrub needs of an owner.
#[derive(Clone)]
pub(crate) struct ScrubParts {
    pub(crate) files: Files,
    /// The other copies that neither lag nor are suspended.
    pub(crate) others: Vec<(MemberId, CopyId)>,
    /// All copies of the database.
    pub(crate) copies: usize,
}

/// Scrubs what is due, for ever.
pub(crate) async fn run(context: Arc<PlaneContext>, registry: Arc<Registry>) {
    let mut settings = context.settings.subscribe();
    loop {
        let period = settings.borrow_and_update().span(Setting::ScrubPeriod);
        let copies = registry.all();
        let due = copies.iter().enumerate().filter_map(|(key, copy)| {
            let last_unix_ms = copy.shared.scrub.rests_since()?;
            Some(Scrubbed { key, last_unix_ms })
        });
        match next_scrub(due, unix_millis(), period) {
            Some((index, Duration::ZERO)) => {
                let (context, copy) = (context.clone(), copies[index].clone());
                let Ok(place) = context.scrubbing.places.clone().acquire_owned().await else {
                    return;
                };
                let read = Read::through(&context, &copy).await;
                // The next copy does not wait for the members that this one asks.
                tokio::spawn(async move {
                    read.finish(&context, &copy).await;
                    drop(place);
                });
            }
            later => {
                let wait = later.map_or(LOOK_AGAIN, |(_, wait)| wait.min(LOOK_AGAIN));
                tokio::select! {
                    () = tokio::time::sleep(wait) => {}
                    // The sender lives as long as the context.
                    _ = settings.changed() => {}
                    () = context.scrubbing.ended.notified() => {}
                }
            }
        }
    }
}

/// Reads one copy through when it is its turn, and compares.
pub(crate) async fn scrub(context: &Arc<PlaneContext>, copy: &CopyHandle) {
    Read::through(context, copy).await.finish(context, copy).await;
}

/// A copy that was read through.
struct Read {
    report: ScrubReport,
    parts: Result<ScrubParts, String>,
    alone: OwnedMutexGuard<()>,
}

impl Read {
    async fn through(context: &Arc<PlaneContext>, copy: &CopyHandle) -> Self {
        let alone = copy.shared.scrub.alone().await;
        let mut report = ScrubReport::default();
        let parts = match context.scrubbing.turn.acquire().await {
            Ok(_turn) => {
                copy.shared.scrub.begin(copy.shared.size());
                scrub_files(context, copy, &mut report).await
            }
            Err(_) => Err("the member stops".into()),
        };
        Self { report, parts, alone }
    }

    /// What waits for other members, not for this disk; then says how it ended.
    async fn finish(mut self, context: &Arc<PlaneContext>, copy: &CopyHandle) {
        let (shared, report) = (&copy.shared, &mut self.report);
        let ended = match self.parts {
            Ok(parts) if shared.gate.is_open() && !parts.others.is_empty() => {
                compare::compare(context, copy, &parts, report).await
            }
            parts => parts.map(drop),
        };
        if let Err(why) = ended {
            report.problem.get_or_insert(why);
        }
        report.ended_unix_ms = unix_millis();
        tracing::info!(
            database = %shared.name,
            result = report.result(),
            bytes = report.bytes,
            found = report.found,
            mended = report.mended,
            problem = report.problem.as_deref().unwrap_or_default(),
            "scrubbed"
        );
        if let Ok(parts) = parts(copy).await {
            let (kept, clean) = (report.encode(), report.problem.is_none());
            // A copy that is being reopened is scrubbed again after the next restart at the latest.
            let _ = ask(&parts.files.log, |reply| LogJob::Scrubbed { kept, clean, reply }).await;
        }
        shared.scrub.end(self.report);
        drop(self.alone);
        context.scrubbing.ended.notify_one();
    }
}

async fn parts(copy: &CopyHandle) -> Result<ScrubParts, String> {
    let (reply, parts) = oneshot::channel();
    let gone = "the copy is being reopened";
    copy.mailbox.send(Message::ScrubParts(reply)).await.map_err(|_| gone)?;
    parts.await.map_err(|_| gone)?.ok_or_else(|| "the copy cannot be opened".to_owned())
}

async fn scrub_files(
    context: &Arc<PlaneContext>,
    copy: &CopyHandle,
    report: &mut ScrubReport,
) -> Result<ScrubParts, String> {
    let parts = parts(copy).await?;
    small_files(context, copy, &parts, report).await?;
    let mut pace = Pace::new(context.settings.borrow().number(Setting::ScrubRate));
    pace = log(context, copy, &parts, pace, report).await?;
    index(context, copy, report).await?;
    store(context, copy, &parts, pace, report).await?;
    Ok(parts)
}

/// Control file, clock of the lag, list of copies.
async fn small_files(
    context: &Arc<PlaneContext>,
    copy: &CopyHandle,
    parts: &ScrubParts,
    report: &mut ScrubReport,
) -> Result<(), String> {
    let mut mended = ask(&parts.files.log, LogJob::CheckControl).await?;
    if mended.contains(&NoteCode::SideFileMended) {
        // An owner that ended saved it.
        let _ = copy.mailbox.send(Message::SaveLag).await;
    }
    let (places, id) = (context.places.clone(), copy.shared.copy);
    let noted = on_thread(context, move || open::note_created(&places, id)).await?;
    if noted.map_err(|error| error.to_string())? {
        mended.push(NoteCode::SideFileMended);
    }
    for code in mended {
        (report.found, report.mended) = (report.found + 1, report.mended + 1);
        Note::new(code, "found by the scrub").tell(context, &copy.shared);
    }
    Ok(())
}

async fn log(
    context: &Arc<PlaneContext>,
    copy: &CopyHandle,
    parts: &ScrubParts,
    mut pace: Pace,
    report: &mut ScrubReport,
) -> Result<Pace, String> {
    let mut from: Option<Position> = None;
    let mut last = (Position::ZERO, 0);
    loop {
        let (reader, shared) = (parts.files.reader.clone(), copy.shared.clone());
        let found = on_thread(context, move || read_log(reader, from, &shared, pace)).await?;
        let damage = match found {
            LogFound::Sound { pace, bytes } => {
                report.bytes += bytes;
                return Ok(pace);
            }
            LogFound::Failed(why) => return Err(why),
            LogFound::Damaged { at, pace: left, bytes } => {
                report.bytes += bytes;
                pace = left;
                at
            }
        };
        report.found += 1;
        last = if last.0 == damage { (damage, last.1 + 1) } else { (damage, 1) };
        let mended = match last.1 {
            0..=MENDS_MAX => mend(copy, damage).await,
            _ => Err("it is damaged again and again".into()),
        };
        from = match mended {
            Ok(_) => {
                report.mended += 1;
                Some(Position { offset: 0, ..damage })
            }
            Err(why) => {
                report.problem.get_or_insert(format!("log at {damage}: {why}"));
                Some(Position { generation: damage.generation.next(), offset: 0 })
            }
        };
        if report.found > DAMAGES_MAX {
            return Err("the log is damaged everywhere".into());
        }
    }
}

/// The content index: what is wrong with it is made anew behind the scrub.
async fn index(
    context: &Arc<PlaneContext>,
    copy: &CopyHandle,
    report: &mut ScrubReport,
) -> Result<(), String> {
    let shared = copy.shared.clone();
    match on_thread(context, move || shared.catalog.verify()).await? {
        Ok(bytes) => report.bytes += bytes,
        Err(_) => {
            (report.found, report.mended) = (report.found + 1, report.mended + 1);
            context.catalogs.look(copy.shared.database, Duration::ZERO);
        }
    }
    Ok(())
}

async fn mend(copy: &CopyHandle, at: Position) -> Result<u64, String> {
    let (reply, mended) = oneshot::channel();
    let gone = "the copy is being reopened";
    copy.mailbox.send(Message::LogDamaged(at, Some(reply))).await.map_err(|_| gone)?;
    let mended = tokio::time::timeout(MEND_WAIT, mended).await;
    mended.map_err(|_| "the mend goes on")?.map_err(|_| gone)?
}

async fn store(
    context: &Arc<PlaneContext>,
    copy: &CopyHandle,
    parts: &ScrubParts,
    mut pace: Pace,
    report: &mut ScrubReport,
) -> Result<(), String> {
    let (life, at_least) = (copy.shared.life(), copy.shared.checkpointed.load());
    let (opener, directory) = (context.opener.0.clone(), parts.files.store_directory.clone());
    let shared = copy.shared.clone();
    let checked = on_thread(context, move || {
        opener.verify(&directory, at_least, &mut |bytes| {
            shared.scrub.read(bytes);
            pace.spend(bytes);
        })
    });
    match checked.await? {
        Ok(verified) => {
            report.bytes += verified.bytes;
            for name in verified.mended {
                (report.found, report.mended) = (report.found + 1, report.mended + 1);
                Note::new(NoteCode::StoreMended, name).tell(context, &copy.shared);
            }
            Ok(())
        }
        // The store was opened anew meanwhile: it was checked at the wrong place.
        Err(_) if copy.shared.life() != life => Err("the copy was reopened".into()),
        Err(keelson_env::StoreError::Damaged(why)) => {
            report.found += 1;
            let told = Message::StoreDamaged(why.clone(), NoteCode::StoreDamaged);
            // An owner that ended finds the damage when it opens the store, or the next scrub does.
            let _ = copy.mailbox.send(told).await;
            Err(format!("store: {why}"))
        }
        Err(error) => Err(format!("store: {error}")),
    }
}

/// Runs blocking work on the scrub's thread.
async fn on_thread<T: Send + 'static>(
    context: &PlaneContext,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, String> {
    let (reply, done) = oneshot::channel();
    context.scrubs.run(move || drop(reply.send(work())));
    done.await.map_err(|_| "the check panicked; see the member's log".to_owned())
}
