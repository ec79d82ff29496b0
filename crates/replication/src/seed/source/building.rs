//! A checkpoint that is being made: its place in line, who waits for it, and its end.
//!
//! It is made whether or not its target can be reached at the moment: a build that takes an hour
//! would come to nothing if a connection broke within that. It is given up if the seed ends, or if
//! nobody asked for it for [`UNAWAITED_MAX`].

use std::sync::Arc;
use std::time::Duration;

use keelson_types::{OperationId, RefusalReason};
use keelson_wire::Refusal;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_util::sync::CancellationToken;

use super::{Key, Material, SeedSources, Source, lock, remove};

/// Longer than a target is patient with a source that it does not reach.
const UNAWAITED_MAX: Duration = Duration::from_secs(120);

/// How far a checkpoint is.
#[derive(Clone, Debug)]
pub(crate) enum Standing {
    /// In line; for what.
    Waiting(&'static str),
    /// Its files are listed; nothing is known of them at first.
    Reading { bytes_read: u64, bytes_total: u64 },
    /// It is there.
    Ready(Arc<Source>),
    /// It was not made.
    Failed(Refusal),
}

impl Standing {
    /// Whether it stays so.
    pub(crate) const fn is_over(&self) -> bool {
        matches!(self, Self::Ready(_) | Self::Failed(_))
    }
}

/// What those who wait for a checkpoint and those who make it share.
#[derive(Clone, Debug)]
pub(super) struct UnderWay {
    pub(super) standing: watch::Sender<Standing>,
    pub(super) stop: CancellationToken,
}

impl Default for UnderWay {
    fn default() -> Self {
        let standing = Standing::Reading { bytes_read: 0, bytes_total: 0 };
        Self { standing: watch::Sender::new(standing), stop: CancellationToken::new() }
    }
}

/// The right to make the checkpoint of an operation; who waits for it hears of an end also if this
/// is dropped without one.
#[derive(Debug)]
pub(crate) struct Building {
    of: Arc<SeedSources>,
    key: Key,
    under_way: UnderWay,
}

fn given_up() -> Refusal {
    // The target may ask again.
    Refusal::new(RefusalReason::Overloaded, "the checkpoint was given up: nobody waited for it")
}

impl Building {
    pub(super) const fn new(of: Arc<SeedSources>, key: Key, under_way: UnderWay) -> Self {
        Self { of, key, under_way }
    }

    pub(crate) const fn operation(&self) -> OperationId {
        self.key.1
    }

    /// Waits until another checkpoint may be kept here.
    ///
    /// # Errors
    /// It is given up.
    pub(crate) async fn place(&self) -> Result<OwnedSemaphorePermit, Refusal> {
        let what = "the source keeps as many checkpoints as it may; one of them has to be closed";
        self.in_line(&self.of.places, what).await
    }

    /// Waits until another checkpoint may be made.
    ///
    /// # Errors
    /// It is given up.
    pub(crate) async fn turn(&self) -> Result<OwnedSemaphorePermit, Refusal> {
        let turn = self.in_line(&self.of.turns, "the source makes other checkpoints first").await;
        self.tell(Standing::Reading { bytes_read: 0, bytes_total: 0 });
        turn
    }

    async fn in_line(
        &self,
        line: &Arc<Semaphore>,
        what: &'static str,
    ) -> Result<OwnedSemaphorePermit, Refusal> {
        if let Ok(permit) = line.clone().try_acquire_owned() {
            return Ok(permit);
        }
        self.tell(Standing::Waiting(what));
        tokio::select! {
            // Nobody closes a line.
            permit = line.clone().acquire_owned() => permit.map_err(|_| given_up()),
            () = self.over(UNAWAITED_MAX) => Err(given_up()),
        }
    }

    fn tell(&self, standing: Standing) {
        self.under_way.standing.send_replace(standing);
    }

    /// Waits until nobody wants the checkpoint any more.
    async fn over(&self, unawaited: Duration) {
        let UnderWay { standing, stop } = &self.under_way;
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = standing.closed() => {}
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(unawaited) => {}
            }
            if standing.is_closed() {
                return;
            }
        }
    }

    /// Waits for the end of a build, and has it end early if nobody wants it any more.
    pub(crate) async fn unless_over<T>(&self, built: impl Future<Output = T>) -> T {
        tokio::pin!(built);
        tokio::select! {
            built = &mut built => return built,
            () = self.over(UNAWAITED_MAX) => self.under_way.stop.cancel(),
        }
        built.await
    }

    /// Makes the checkpoint. Blocking; reading all of it takes as long as the disk takes.
    ///
    /// # Errors
    /// It is given up, or something of the copy cannot be read.
    pub(crate) fn build(
        &self,
        material: Material,
        place: OwnedSemaphorePermit,
    ) -> Result<Source, Refusal> {
        let directory = self.of.directory(self.key);
        let mut read = |bytes_read, bytes_total| {
            self.tell(Standing::Reading { bytes_read, bytes_total });
            !self.under_way.stop.is_cancelled()
        };
        match self.of.build_in(&directory, material, &mut read) {
            Ok(manifest) => Ok(Source::new(directory, manifest, Some(place))),
            Err(why) => {
                remove(&directory);
                match self.under_way.stop.is_cancelled() {
                    true => Err(given_up()),
                    false => Err(Refusal::new(RefusalReason::SourceUnfit, why)),
                }
            }
        }
    }

    /// Hands what was made to those who wait, and keeps it for those who come back.
    pub(crate) fn end(&self, made: Result<Source, Refusal>) {
        let mut building = lock(&self.of.building);
        let made = made.map(Arc::new).and_then(|source| match self.under_way.stop.is_cancelled() {
            true => Err((remove(&source.directory), given_up()).1),
            false => Ok(source),
        });
        if let Ok(source) = &made {
            lock(&self.of.known).insert(self.key, source.clone());
            self.of.changed.notify_one();
        }
        building.remove(&self.key);
        drop(building);
        self.tell(made.map_or_else(Standing::Failed, Standing::Ready));
    }
}

impl Drop for Building {
    fn drop(&mut self) {
        if !self.under_way.standing.borrow().is_over() {
            let what = "the making of the checkpoint panicked; see the member's log";
            self.end(Err(Refusal::new(RefusalReason::Internal, what)));
        }
    }
}

#[cfg(test)]
mod tests;
