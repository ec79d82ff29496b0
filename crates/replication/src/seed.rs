//! Seeding: a copy is made anew from another one's checkpoint.
//!
//! The source ([`source`], [`serve`]) makes a checkpoint by hard links, lists it, and serves its
//! files. The target ([`target`]) is driven by `copy_core::seed`; what lies on its disk is the
//! business of [`place`]. [`orders`] starts and ends targets as consensus says.

mod making;
mod measure;
mod orders;
mod pace;
mod place;
mod pools;
mod room;
mod serve;
mod source;
mod staged;
mod target;

pub(crate) use measure::SyncTimes;
pub(crate) use orders::Targets;
pub(crate) use pools::SeedPools;
pub(crate) use room::SeedRoom;
pub(crate) use source::SeedSources;

use tokio::sync::oneshot;

use crate::pool::Pool;

/// Bytes in one message of a transfer, and in one look at a file.
pub(crate) const CHUNK_BYTES: usize = 1024 * 1024;

/// Runs work that blocks on a thread of the pool.
pub(crate) async fn blocking<T: Send + 'static>(
    pool: &Pool,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, String> {
    let (reply, done) = oneshot::channel();
    pool.run(move || drop(reply.send(work())));
    done.await.map_err(|_| "the work panicked; see the member's log".into())
}

/// What the seed of a database may fill with stores.
#[cfg(test)]
pub(crate) fn free_for_tests(
    room: std::sync::Arc<SeedRoom>,
    places: &crate::open::Places,
    database: keelson_types::DatabaseId,
) -> u64 {
    let claim = room::Claim::new(room, places.clone(), database);
    claim.free().map_or(0, |free| free.store)
}
