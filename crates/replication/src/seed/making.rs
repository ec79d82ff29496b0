//! Making a checkpoint for a seed: in its turn, of a healthy copy, by a task of its own.
//!
//! The task is nobody's: a target that lost its connection meanwhile finds the checkpoint, or what
//! is made of it, when it asks again.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use keelson_env::KvStore;
use keelson_types::{
    CopyStatus, HoldKind, LogHold, OperationId, Position, RefusalReason, SeedScope,
};
use keelson_wire::Refusal;
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio::time::Instant;

use super::blocking;
use super::serve::Feeding;
use super::source::{Building, Material, Source};
use crate::context::{CopyHandle, PlaneContext};
use crate::kv::open_store;
use crate::message::{LogView, Message, OwnerView};
use crate::owner::unix_millis;
use crate::shared::CopyShared;

/// Keeps log here while a checkpoint is made; from then on the hold in consensus does.
struct Hold(Arc<CopyShared>, OperationId);

impl Hold {
    fn take(of: &Arc<CopyShared>, operation: OperationId, index: Option<Position>) -> Self {
        let from = of.checkpointed.load();
        let hold = LogHold {
            operation,
            kind: HoldKind::Seed,
            from: index.map_or(from, |index| index.min(from)),
            taken_unix_ms: unix_millis(),
            expires_unix_ms: u64::MAX,
        };
        of.holds.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(hold);
        Self(of.clone(), operation)
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let holds = self.0.holds.lock();
        let mut holds = holds.unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(index) = holds.iter().position(|hold| hold.operation == self.1) {
            holds.remove(index);
        }
    }
}

/// How long the copy may take to say how it is, or to give its store and its log. Its target hears
/// that the source lives all the while, so nobody else would end the wait.
const ANSWER_WITHIN: Duration = Duration::from_secs(20);

/// Between two looks at how far the copy's store is.
const REPLAY_PAUSE: Duration = Duration::from_millis(100);

async fn in_time<T>(
    context: &PlaneContext,
    answer: impl Future<Output = Result<T, Refusal>>,
) -> Result<T, Refusal> {
    let late = |_| unfit(context, format!("does not answer within {ANSWER_WITHIN:?}"));
    tokio::time::timeout(ANSWER_WITHIN, answer).await.map_err(late)?
}

fn gone() -> Refusal {
    Refusal::new(RefusalReason::Activating, "the copy is being reopened")
}

/// Makes the checkpoint, and leaves it, or why there is none, with those who wait for it.
pub(super) async fn make(
    context: Arc<PlaneContext>,
    copy: CopyHandle,
    scope: SeedScope,
    building: Building,
) {
    let building = Arc::new(building);
    let made = make_in_turn(&context, &copy, scope, &building).await;
    if let Ok(source) = &made {
        let (name, bytes) = (&copy.shared.name, source.manifest.bytes());
        let operation = building.operation();
        tracing::info!(database = %name, %operation, bytes, "a checkpoint for a seed is ready");
    }
    building.end(made);
}

async fn make_in_turn(
    context: &Arc<PlaneContext>,
    copy: &CopyHandle,
    scope: SeedScope,
    building: &Arc<Building>,
) -> Result<Source, Refusal> {
    // Whoever stands in line for nothing shall not stand in line.
    in_time(context, check_health(context, copy)).await?;
    // A hold moves by its seed's own word, which waits for this: in line it stays where it is.
    replayed_what_is_held(context, copy, building.operation()).await?;
    let place = building.place().await?;
    let _turn = building.turn().await?;
    in_time(context, check_health(context, copy)).await?;
    let made = make_now(context, copy, (scope, place), building).await;
    // If its index turned out to be damaged.
    context.catalogs.look(copy.shared.database, Duration::ZERO);
    made
}

async fn make_now(
    context: &Arc<PlaneContext>,
    copy: &CopyHandle,
    (scope, place): (SeedScope, OwnedSemaphorePermit),
    building: &Arc<Building>,
) -> Result<Source, Refusal> {
    let index = scope.takes_catalog().then(|| copy.shared.catalog.for_seed());
    let index = match (index, scope.makes_copy()) {
        (Some(Err(what)), false) => return Err(unfit(context, what)),
        (index, _) => index.and_then(Result::ok),
    };
    let _feeding = Feeding::new(copy, scope.makes_copy(), index.is_some());
    let reflects = index.as_ref().map(|(_, searchable)| searchable.reflects.position);
    let hold = Hold::take(&copy.shared, building.operation(), reflects);
    let (store, log) = in_time(context, views(copy, scope)).await?;
    let material = Material {
        shared: copy.shared.clone(),
        store,
        generation_bytes: index.as_ref().map_or(0, |(_, index)| index.generation_bytes),
        catalog: index.map(|(catalog, _)| catalog),
        reader: log.reader,
        epochs: log.table,
    };
    let worker = building.clone();
    let built = blocking(&context.seed_pools.builds, move || {
        let _hold = hold;
        worker.build(material, place)
    });
    let built = building.unless_over(built).await;
    built.map_err(|why| Refusal::new(RefusalReason::Internal, why))?
}

/// The store, if a copy is made of it, and the log.
async fn views(
    copy: &CopyHandle,
    scope: SeedScope,
) -> Result<(Option<Arc<dyn KvStore>>, LogView), Refusal> {
    let store = match scope.makes_copy() {
        true => Some(open_store(copy).await?),
        false => None,
    };
    let (reply, log) = oneshot::channel();
    copy.mailbox.send(Message::LogView(reply)).await.map_err(|_| gone())?;
    let log = log.await.map_err(|_| gone())??;
    Ok((store, log))
}

/// Log before the hold of a seed that began at another source may be gone everywhere, if its copy
/// was cut off: the checkpoint must not stand before it. Waits as long as replay goes on.
async fn replayed_what_is_held(
    context: &PlaneContext,
    copy: &CopyHandle,
    operation: OperationId,
) -> Result<(), Refusal> {
    let view = in_time(context, view_of(copy)).await?;
    let hold = view.holds.iter().find(|hold| hold.operation == operation);
    let Some(from) = hold.map(|hold| hold.from).filter(|_| view.cut_off) else { return Ok(()) };
    let (mut replayed, mut since) = (copy.shared.replayed.load(), Instant::now());
    while replayed < from {
        tokio::time::sleep(REPLAY_PAUSE).await;
        let now = copy.shared.replayed.load();
        if now > replayed {
            (replayed, since) = (now, Instant::now());
        } else if since.elapsed() >= ANSWER_WITHIN {
            let what = format!("has replayed up to {now}, and the seed's log is held from {from}");
            return Err(unfit(context, what));
        }
    }
    Ok(())
}

async fn view_of(copy: &CopyHandle) -> Result<OwnerView, Refusal> {
    let (reply, view) = oneshot::channel();
    copy.mailbox.send(Message::View(reply)).await.map_err(|_| gone())?;
    view.await.map_err(|_| gone())
}

/// F54: any healthy copy; not one whose store is old on purpose, or in doubt.
async fn check_health(context: &PlaneContext, copy: &CopyHandle) -> Result<(), Refusal> {
    let view = view_of(copy).await?;
    let status = view.view.status;
    let healthy =
        matches!(status, CopyStatus::Mounted | CopyStatus::Healthy | CopyStatus::SeedingSource);
    if !healthy {
        return Err(unfit(context, format!("is {status}: {}", view.view.reason)));
    }
    if copy.shared.is_lagged() {
        return Err(unfit(context, "lags".into()));
    }
    if copy.shared.marked.load(Ordering::SeqCst) {
        return Err(unfit(context, "is not whole".into()));
    }
    Ok(())
}

fn unfit(context: &PlaneContext, what: String) -> Refusal {
    let at = context.name_of(context.member);
    Refusal::new(RefusalReason::SourceUnfit, format!("the copy on {at} {what}"))
}
