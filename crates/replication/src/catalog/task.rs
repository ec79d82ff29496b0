//! The task that looks at copies whose index is behind, and has one thread at a time work on each.

use std::sync::Arc;
use std::time::Duration;

use keelson_copy_core::catalog::{
    CatalogInputs, CatalogPlan, Found, plan, rest_after, retry_pause,
};
use keelson_types::{ContentIndexState, DatabaseId};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::directory_of;
use super::work::{self, Done, Work, WorkError};
use crate::context::{CopyHandle, PlaneContext, Registry};
use crate::kv::open_store;
use crate::message::{LogView, Message};
use crate::note::{Note, NoteCode};
use crate::scrub::ScrubParts;
use crate::shared::Life;

/// Pause before a copy whose owner is busy opening it is asked again.
const ASK_AGAIN: Duration = Duration::from_secs(1);
/// Pause while its volume is full.
const LOOK_FOR_ROOM: Duration = Duration::from_secs(5);

/// Looks at what is due, for ever.
pub(crate) async fn run(context: Arc<PlaneContext>, registry: Arc<Registry>) {
    loop {
        let (ready, next) = context.catalogs.take_due(Instant::now());
        for database in ready {
            tokio::spawn(look(context.clone(), registry.clone(), database));
        }
        tokio::select! {
            () = context.catalogs.changed.notified() => {}
            () = sleep_until(next) => {}
        }
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// One look at one copy, and the work that follows from it.
async fn look(context: Arc<PlaneContext>, registry: Arc<Registry>, database: DatabaseId) {
    let again = match registry.get(database) {
        Some(copy) => look_at(&context, &copy).await,
        None => None,
    };
    context.catalogs.ended(database, again);
}

/// When to look again, if not only after the next replay.
async fn look_at(context: &Arc<PlaneContext>, copy: &CopyHandle) -> Option<Duration> {
    let shared = &copy.shared;
    shared.catalog.begin();
    // Counted first: an order that comes behind this ends the work that knows nothing of it.
    let (life, doubts) = (Life::of(shared), shared.catalog.doubts());
    let wanted = shared.catalog.wanted()?;
    let Some((log, parts)) = ask(copy).await else { return Some(ASK_AGAIN) };
    let directory = directory_of(&parts.files.store_directory);
    let fields = wanted.settings.fields.clone();
    let (slot, place) = (shared.clone(), directory.clone());
    let found = on_pool(context, move || work::find(&slot.catalog, &place, &fields)).await?;
    let end = match &found {
        Found::Reflects { end, .. } => Some(*end),
        Found::Nothing | Found::Damaged(_) => None,
    };
    let inputs = CatalogInputs {
        enabled: wanted.settings.enabled,
        lagged: wanted.lagged,
        suspended: wanted.suspended,
        seeding: wanted.seeding,
        in_doubt: shared.marked.load(std::sync::atomic::Ordering::SeqCst),
        no_room: context.room_of(shared.database).look().store,
        on_timeline: end.is_some_and(|end| log.table.epoch_at(end.position) == end.epoch),
        found,
        log_from: shared.log_from.load(),
        replayed: shared.replayed.load(),
        log_end: log.durable,
        failures: shared.catalog.failures(),
    };
    let fields = wanted.settings.fields.clone();
    let work = Work { shared: shared.clone(), directory, fields, log, life, doubts };
    let begun = Instant::now();
    let done = match plan(&inputs) {
        CatalogPlan::Rest { state, reason, remove } => {
            shared.catalog.rests(state, reason);
            if remove {
                on_pool(context, move || work.remove()).await?;
            }
            return (state == ContentIndexState::Failed).then_some(LOOK_FOR_ROOM);
        }
        CatalogPlan::Follow { from } => on_pool(context, move || work.follow(from)).await?,
        CatalogPlan::Crawl(why) => {
            tracing::info!(database = %shared.name, %why, "the content index is made anew");
            if let keelson_copy_core::catalog::CrawlReason::Damaged(what) = &why {
                Note::new(NoteCode::CatalogDamaged, what).tell(context, shared);
            }
            let reason = why.to_string();
            shared.catalog.crawls(&reason, 0);
            match open_store(copy).await {
                Ok(store) => on_pool(context, move || work.crawl(store, &reason)).await?,
                Err(_) => return Some(ASK_AGAIN),
            }
        }
    };
    // An order that came meanwhile is not kept waiting.
    let same = shared.catalog.wanted().is_none_or(|now| now == wanted);
    if same { after(copy, done, begun.elapsed()) } else { Some(Duration::ZERO) }
}

/// When to look again after work that ended so.
fn after(copy: &CopyHandle, done: Result<Done, WorkError>, took: Duration) -> Option<Duration> {
    let shared = &copy.shared;
    match done {
        Ok(Done { more }) => Some(rest_after(took, more)),
        // Another life of the copy, or log that went away meanwhile: the next look finds out.
        Err(WorkError::Over) => Some(ASK_AGAIN),
        Err(WorkError::Failed(why)) => {
            let failures = shared.catalog.failed(&why);
            tracing::warn!(database = %shared.name, why, failures, "indexing failed");
            Some(retry_pause(failures))
        }
    }
}

async fn ask(copy: &CopyHandle) -> Option<(LogView, ScrubParts)> {
    let (reply, log) = oneshot::channel();
    copy.mailbox.send(Message::LogView(reply)).await.ok()?;
    let log = log.await.ok()?.ok()?;
    Some((log, parts_of(copy).await?))
}

async fn parts_of(copy: &CopyHandle) -> Option<ScrubParts> {
    let (reply, parts) = oneshot::channel();
    copy.mailbox.send(Message::ScrubParts(reply)).await.ok()?;
    parts.await.ok()?
}

/// Where the index of a copy lies; nothing while it is being opened.
pub(crate) async fn directory_of_copy(copy: &CopyHandle) -> Option<std::path::PathBuf> {
    Some(directory_of(&parts_of(copy).await?.files.store_directory))
}

/// Nothing if the work panicked; the engine's panics are errors already.
async fn on_pool<T: Send + 'static>(
    context: &PlaneContext,
    work: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    let (reply, done) = oneshot::channel();
    context.catalogs.pool.run(move || drop(reply.send(work())));
    done.await.ok()
}
