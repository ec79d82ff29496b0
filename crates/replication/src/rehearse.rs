//! A rehearsal of a switchover at the member that would become active: opens a fork of its passive
//! copy where that stands, reads from it, compares, and drops it.
//!
//! The stream of the copy goes on meanwhile, and nothing else changes. Whoever asked hears which
//! step is under way; when it goes away, or the deadline comes, the rehearsal ends early. The fork
//! is dropped in every case: here, when it is built if it is being built still, or by its expiry
//! if this process ends. How much is read decides `copy_core::rehearsal`.

mod reads;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use keelson_copy_core::rehearsal::check_index;
use keelson_format::GENERATION_HEADER_BYTES;
use keelson_types::{
    ContentIndexState, CopyId, ForkName, Instant as ForkInstant, LogEnd, OperationId, Position,
    RefusalReason, RehearsalStep,
};
use keelson_wire::{Refusal, v1};
use tokio::sync::{mpsc, oneshot};
use tonic::Status;

use self::reads::{ReadFigures, Reading, Tailing};
use crate::context::{CopyHandle, PlaneContext};
use crate::forks::{Fork, ForkOrder, ForkState};
use crate::message::{LogView, Message, OwnerView};

/// A fork that nobody dropped goes by itself so long after the deadline.
const LEFT_BEHIND: Duration = Duration::from_mins(1);

/// What is to be rehearsed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Order {
    pub(crate) copy: CopyId,
    /// Names the fork.
    pub(crate) operation: OperationId,
    pub(crate) deadline: Duration,
    /// The content index is not looked at.
    pub(crate) skip_index: bool,
}

/// Messages to whoever asked; it may be slow, so there is room for all steps.
pub(crate) type Answers = mpsc::Sender<Result<v1::RehearseResponse, Status>>;
/// Steps and the end of a rehearsal.
pub(crate) const ANSWERS: usize = 8;

fn gone() -> Refusal {
    Refusal::new(RefusalReason::Activating, "the copy is being reopened")
}

/// Carries a rehearsal out and tells its figures, or why it failed.
pub(crate) async fn rehearse(
    context: Arc<PlaneContext>,
    copy: CopyHandle,
    order: Order,
    answers: Answers,
) {
    let rehearsing = Rehearsing { context, copy, order, answers: answers.clone() };
    let last = match rehearsing.run().await {
        Ok(figures) => {
            Ok(v1::RehearseResponse { figures: Some(figures), ..v1::RehearseResponse::default() })
        }
        Err(refusal) => Err(Status::from(refusal)),
    };
    // Whoever asked may have gone.
    let _ = answers.send(last).await;
}

struct Rehearsing {
    context: Arc<PlaneContext>,
    copy: CopyHandle,
    order: Order,
    answers: Answers,
}

/// Where a copy is at one moment.
struct Look {
    at: Instant,
    view: OwnerView,
}

impl Rehearsing {
    async fn run(self) -> Result<v1::RehearsalFigures, Refusal> {
        let shared = &self.copy.shared;
        if shared.copy != self.order.copy {
            let message = format!("{} is another copy here than the one meant", shared.name);
            return Err(Refusal::new(RefusalReason::UnknownCopy, message));
        }
        if shared.gate.is_serving() {
            let message = format!("{} is active here", shared.name);
            return Err(Refusal::new(RefusalReason::Precondition, message));
        }
        self.tell(RehearsalStep::Forking);
        let before = self.look().await?;
        let held = shared.committed.load().min(shared.durable.load());
        let replayed = shared.replayed.load();
        let began = Instant::now();
        // Once the fork is admitted nothing is waited for any more, so none is left behind here.
        let created = self.context.create_fork(&self.copy, self.fork_order()?);
        let created = tokio::time::timeout(self.order.deadline, created).await;
        let fork = created.map_err(|_| self.late())??;
        let left = self.order.deadline.saturating_sub(began.elapsed());
        let stop = Arc::new(AtomicBool::new(false));
        let work = self.work(&fork, (held, replayed), &before, &stop);
        let worked = tokio::select! {
            worked = tokio::time::timeout(left, work) => {
                worked.unwrap_or_else(|_| Err(self.late()))
            }
            () = self.answers.closed() => {
                Err(Refusal::new(RefusalReason::Cancelled, "whoever asked has gone"))
            }
        };
        stop.store(true, Ordering::Relaxed);
        self.tell(RehearsalStep::Dropping);
        let dropped = self.drop_fork(fork).await;
        let figures = worked?;
        dropped.map(|()| figures)
    }

    fn late(&self) -> Refusal {
        let message = format!("it did not end within {:?}", self.order.deadline);
        Refusal::new(RefusalReason::DeadlineExceeded, message)
    }

    fn tell(&self, step: RehearsalStep) {
        let step = v1::RehearseResponse { step: step.name().into(), figures: None };
        // There is room for all of them.
        let _ = self.answers.try_send(Ok(step));
    }

    fn fork_order(&self) -> Result<ForkOrder, Refusal> {
        let id = self.order.operation.to_string();
        let name = format!("rehearsal-{}", id.get(..8).unwrap_or(&id));
        let bad = |error| Refusal::new(RefusalReason::BadName, format!("fork {name:?}: {error}"));
        let name = ForkName::new(name.clone()).map_err(bad)?;
        let expires = self.order.deadline + LEFT_BEHIND;
        Ok(ForkOrder {
            name: Some(name),
            at: ForkInstant::Ago(0),
            expires_after_ms: u64::try_from(expires.as_millis()).ok(),
        })
    }

    async fn look(&self) -> Result<Look, Refusal> {
        let (reply, view) = oneshot::channel();
        self.copy.mailbox.send(Message::View(reply)).await.map_err(|_| gone())?;
        let view = view.await.map_err(|_| gone())?;
        Ok(Look { at: Instant::now(), view })
    }

    async fn log(&self) -> Result<LogView, Refusal> {
        let (reply, log) = oneshot::channel();
        self.copy.mailbox.send(Message::LogView(reply)).await.map_err(|_| gone())?;
        log.await.map_err(|_| gone())?
    }

    /// Everything between the order of the fork and its end.
    async fn work(
        &self,
        fork: &Arc<Fork>,
        (held, replayed): (Position, Position),
        before: &Look,
        stop: &Arc<AtomicBool>,
    ) -> Result<v1::RehearsalFigures, Refusal> {
        let at = built(fork).await?;
        // A generation that nothing was written into yet has a header, which no store replays.
        let missing = self.copy.shared.index().sizes.between(at.position, held).bytes;
        if missing > GENERATION_HEADER_BYTES as u64 {
            let message = format!("the fork stands at {}, the copy held {held}", at.position);
            return Err(Refusal::new(RefusalReason::CopyFailed, message));
        }
        self.tell(RehearsalStep::Reading);
        self.check_index()?;
        let sizes = self.copy.shared.index().sizes.clone();
        let tailing = Tailing { reader: self.log().await?.reader, sizes, replayed };
        let (context, of, stop) = (self.context.clone(), fork.clone(), stop.clone());
        let read = self.on_reader(move || {
            let opened = Instant::now();
            let store = context.forks.store(&*context.opener.0, &of);
            let store = store.map_err(|error| failed("the fork does not open", &error))?;
            let open = opened.elapsed();
            let figures = Reading { store, at, stop: &stop }.read(tailing)?;
            Ok((open, figures))
        });
        let (open, read) = read.await?;
        let after = self.look().await?;
        Ok(self.figures(fork, at, (before, &after), (open, read)))
    }

    /// State and backlog of the content index.
    fn check_index(&self) -> Result<(), Refusal> {
        if self.order.skip_index {
            return Ok(());
        }
        let shared = &self.copy.shared;
        let (state, backlog_bytes) = shared.catalog.standing(shared.replayed.load());
        let unfit = |why| Refusal::new(RefusalReason::ContentIndexUnfit, why);
        check_index(state, backlog_bytes).map_err(unfit)?;
        match shared.catalog.for_search(&shared.name) {
            Err(refusal) if state != ContentIndexState::Disabled => Err(unfit(refusal.message)),
            _ => Ok(()),
        }
    }

    async fn on_reader<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, Refusal> + Send + 'static,
    ) -> Result<T, Refusal> {
        let (reply, result) = oneshot::channel();
        self.context.readers.run(move || drop(reply.send(work())));
        let ended = |_| Refusal::new(RefusalReason::Internal, "a reader thread ended");
        result.await.map_err(ended)?
    }

    fn figures(
        &self,
        fork: &Fork,
        at: LogEnd,
        (before, after): (&Look, &Look),
        (open, read): (Duration, ReadFigures),
    ) -> v1::RehearsalFigures {
        let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let shared = &self.copy.shared;
        let copied =
            shared.index().sizes.between(before.view.marks.inspected, after.view.marks.inspected);
        let replayed = fork.replayed();
        let waits = |look: &Look| look.view.copy_queue.bytes > 0;
        v1::RehearsalFigures {
            at: Some(at.into()),
            sampled_keys: read.sampled,
            log_keys: read.of_log,
            read_bytes: read.bytes,
            open_micros: micros(open),
            copy_queue_bytes: after.view.copy_queue.bytes,
            replay_queue_bytes: after.view.replay_queue.bytes,
            copied_bytes: copied.bytes,
            copied_micros: micros(after.at.saturating_duration_since(before.at)),
            copy_was_behind: waits(before) && waits(after),
            replayed_bytes: replayed.bytes,
            replayed_micros: micros(replayed.time),
            log_sync_micros: self.context.syncs.of_late().map_or(0, micros),
        }
    }

    /// Drops the fork now, or once it is built.
    async fn drop_fork(&self, fork: Arc<Fork>) -> Result<(), Refusal> {
        let context = self.context.clone();
        if fork.state() == ForkState::Building {
            tokio::spawn(async move {
                fork.settled().await;
                if let Err(refusal) = discard(&context, &fork).await {
                    tracing::warn!(%refusal, "the fork of a rehearsal stays until it expires");
                }
            });
            return Ok(());
        }
        discard(&context, &fork).await
    }
}

async fn discard(context: &Arc<PlaneContext>, fork: &Arc<Fork>) -> Result<(), Refusal> {
    let (context, fork) = (context.clone(), fork.clone());
    let work = move || {
        let (database, name) = (&fork.is.database_name, &fork.is.name);
        context.forks.drop_fork(&*context.opener.0, database, name)
    };
    let panicked = |_| Refusal::new(RefusalReason::Internal, "the removal panicked");
    match tokio::task::spawn_blocking(work).await.map_err(panicked)? {
        // It expired meanwhile, or an operator was faster.
        Err(refusal) if refusal.reason == RefusalReason::UnknownFork => Ok(()),
        dropped => dropped,
    }
}

/// Waits until a fork is built; where it stands.
async fn built(fork: &Fork) -> Result<LogEnd, Refusal> {
    fork.settled().await;
    match fork.state() {
        ForkState::Ready { at, .. } => Ok(at),
        ForkState::Building => Err(failed("the fork", &"it is being built")),
        ForkState::Failed(why) => Err(failed("the fork failed", &why)),
    }
}

fn failed(what: &str, why: &dyn std::fmt::Display) -> Refusal {
    Refusal::new(RefusalReason::CopyFailed, format!("{what}: {why}"))
}
