//! Room on this member's volumes for the seeds that arrive here.
//!
//! A seed claims what it lacks when it is offered a checkpoint, and its claim shrinks with each
//! chunk. What earlier claims lack is not free for later ones: two seeds that fit one by one do not
//! both begin. Somebody else may fill a volume meanwhile, so each chunk looks again; the seed that
//! claimed last ends first, and none goes into what is kept free for the log of the copies here.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use keelson_format::SeedPlace;
use keelson_types::{DatabaseId, SEED_RESERVE_BYTES};

use super::place::PlaceError;
use crate::open::{Places, Roots};

/// Bytes that a seed lacks on the volumes of stores and of logs, which may be one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Needs {
    pub(crate) store: u64,
    pub(crate) log: u64,
}

impl Needs {
    fn of(&mut self, place: SeedPlace) -> &mut u64 {
        match place {
            SeedPlace::Store | SeedPlace::Catalog => &mut self.store,
            SeedPlace::Log => &mut self.log,
        }
    }

    const fn plus(self, other: Self) -> Self {
        let store = self.store.saturating_add(other.store);
        Self { store, log: self.log.saturating_add(other.log) }
    }
}

/// What a seed may fill, beside what earlier ones claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Free {
    pub(crate) store: u64,
    pub(crate) log: u64,
    pub(crate) one_volume: bool,
}

/// What a seed claims, and where.
#[derive(Debug)]
struct Claimed {
    by: DatabaseId,
    roots: Roots,
    needs: Needs,
}

/// The claims of a member's seeds, the earliest first.
#[derive(Debug, Default)]
pub(crate) struct SeedRoom(Mutex<Vec<Claimed>>);

impl SeedRoom {
    fn lock(&self) -> MutexGuard<'_, Vec<Claimed>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is claimed of these volumes before this seed claimed anything.
    fn before(&self, database: DatabaseId, roots: &Roots) -> Needs {
        let claims = self.lock();
        let earlier = claims.iter().take_while(|claim| claim.by != database);
        sum(earlier, roots)
    }

    fn all(&self, roots: &Roots) -> Needs {
        sum(self.lock().iter(), roots)
    }
}

/// Copies share both volumes, or none.
fn sum<'a>(claims: impl Iterator<Item = &'a Claimed>, roots: &Roots) -> Needs {
    let there = claims.filter(|claim| claim.roots.data == roots.data);
    there.fold(Needs::default(), |sum, claim| sum.plus(claim.needs))
}

/// What one seed claims until this is dropped.
#[derive(Debug)]
pub(crate) struct Claim {
    room: Arc<SeedRoom>,
    places: Places,
    database: DatabaseId,
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.room.lock().retain(|claim| claim.by != self.database);
    }
}

impl Claim {
    /// The claim of the seed of a database; it claims nothing yet.
    pub(crate) const fn new(room: Arc<SeedRoom>, places: Places, database: DatabaseId) -> Self {
        Self { room, places, database }
    }

    /// Claims exactly this.
    pub(crate) fn set(&self, needs: Needs) {
        let (by, roots) = (self.database, self.roots());
        let mut claims = self.room.lock();
        match claims.iter_mut().find(|claim| claim.by == by) {
            Some(known) => (known.roots, known.needs) = (roots, needs),
            None => claims.push(Claimed { by, roots, needs }),
        }
    }

    /// The volumes of the copy as it is made.
    fn roots(&self) -> Roots {
        self.places.roots(self.database)
    }

    /// What the volumes have for this seed.
    pub(crate) fn free(&self) -> Result<Free, PlaceError> {
        let roots = self.roots();
        self.free_beside(self.room.before(self.database, &roots), &roots)
    }

    fn free_beside(&self, mut taken: Needs, roots: &Roots) -> Result<Free, PlaceError> {
        let free = |path| self.places.disk.free_bytes(path);
        let (store, log) = (free(&roots.data)?, free(&roots.logs)?);
        let one_volume = roots.data == roots.logs;
        if one_volume {
            let both = taken.store.saturating_add(taken.log);
            taken = Needs { store: both, log: both };
        }
        let (store, log) = (store.saturating_sub(taken.store), log.saturating_sub(taken.log));
        Ok(Free { store, log, one_volume })
    }

    /// Bytes of a file are about to be written.
    ///
    /// # Errors
    /// `full` if that would eat into what stays free, or is claimed by an earlier seed.
    pub(crate) fn take(&self, place: SeedPlace, bytes: u64) -> Result<(), PlaceError> {
        check(place, self.free()?, bytes)?;
        let mut claims = self.room.lock();
        if let Some(claim) = claims.iter_mut().find(|claim| claim.by == self.database) {
            let needs = claim.needs.of(place);
            *needs = needs.saturating_sub(bytes);
        }
        Ok(())
    }

    /// Bytes that nobody claimed are about to be written.
    ///
    /// # Errors
    /// `full` if that would eat into what stays free, or is claimed by any seed, this one included.
    pub(crate) fn take_unclaimed(&self, place: SeedPlace, bytes: u64) -> Result<(), PlaceError> {
        let roots = self.roots();
        check(place, self.free_beside(self.room.all(&roots), &roots)?, bytes)
    }
}

fn check(place: SeedPlace, free: Free, bytes: u64) -> Result<(), PlaceError> {
    let (volume, free) = match place {
        SeedPlace::Store | SeedPlace::Catalog => ("store", free.store),
        SeedPlace::Log => ("log", free.log),
    };
    if free >= SEED_RESERVE_BYTES.saturating_add(bytes) {
        return Ok(());
    }
    let text = format!(
        "the {volume} volume became too full for the seed: {free} bytes are free beside what \
         seeds here need, {SEED_RESERVE_BYTES} have to stay free"
    );
    Err(PlaceError { full: true, text })
}

#[cfg(test)]
mod tests {
    use keelson_env::SimDisk;

    use super::*;

    const MIB: u64 = 1024 * 1024;

    struct Member {
        disk: Arc<SimDisk>,
        room: Arc<SeedRoom>,
    }

    impl Member {
        fn with(free: u64) -> Self {
            let this = Self { disk: Arc::new(SimDisk::new()), room: Arc::default() };
            this.disk.set_quota(Some(free));
            this
        }

        fn claim(&self, database: u128, logs: &str) -> Claim {
            let (data, logs) = ("/data".into(), logs.into());
            let places = Places {
                disk: self.disk.clone(),
                data,
                logs,
                noting: Arc::default(),
                volumes: Arc::default(),
            };
            Claim::new(self.room.clone(), places, DatabaseId::from_u128(database))
        }
    }

    /// Two seeds of 60 with 100 free: the second is told that there is less than it needs.
    #[test]
    fn what_earlier_seeds_lack_is_not_free() {
        let member = Member::with(1_000 * MIB);
        let (first, second) = (member.claim(1, "/data"), member.claim(2, "/data"));
        first.set(Needs { store: 590 * MIB, log: 10 * MIB });
        second.set(Needs { store: 600 * MIB, log: 0 });
        let free = |store, log, one_volume| Free { store: store * MIB, log: log * MIB, one_volume };
        assert_eq!(first.free().unwrap(), free(1_000, 1_000, true));
        assert_eq!(second.free().unwrap(), free(400, 400, true));
        first.take(SeedPlace::Store, 90 * MIB).unwrap();
        first.take(SeedPlace::Log, 10 * MIB).unwrap();
        member.disk.set_quota(Some(900 * MIB));
        assert_eq!(second.free().unwrap(), free(400, 400, true), "as before: it was claimed");
        drop(first);
        assert_eq!(second.free().unwrap(), free(900, 900, true));
        let apart = member.claim(3, "/logs");
        second.set(Needs { store: 300 * MIB, log: 20 * MIB });
        apart.set(Needs::default());
        assert_eq!(apart.free().unwrap(), free(600, 880, false));
    }

    #[test]
    fn no_chunk_goes_into_the_reserve_or_an_earlier_claim() {
        let member = Member::with(SEED_RESERVE_BYTES + 50 * MIB);
        let (first, second) = (member.claim(1, "/data"), member.claim(2, "/data"));
        first.set(Needs { store: 40 * MIB, log: 0 });
        second.set(Needs { store: 30 * MIB, log: 0 });
        second.take(SeedPlace::Store, 10 * MIB).unwrap();
        let late = second.take(SeedPlace::Catalog, 10 * MIB + 1).unwrap_err();
        assert!(late.full && late.text.contains("store volume"), "{late:?}");
        first.take(SeedPlace::Store, 40 * MIB).unwrap();
        member.disk.set_quota(Some(SEED_RESERVE_BYTES + MIB));
        first.take(SeedPlace::Log, MIB).unwrap();
        assert!(first.take(SeedPlace::Log, MIB + 1).unwrap_err().full);
    }

    /// The log beside the files gives way to the files, its own seed's first of all.
    #[test]
    fn log_that_nobody_claimed_leaves_room_for_what_was() {
        let member = Member::with(SEED_RESERVE_BYTES + 50 * MIB);
        let (first, second) = (member.claim(1, "/data"), member.claim(2, "/data"));
        first.set(Needs { store: 30 * MIB, log: 0 });
        second.set(Needs { store: 10 * MIB, log: 0 });
        first.take_unclaimed(SeedPlace::Log, 10 * MIB).unwrap();
        assert!(first.take_unclaimed(SeedPlace::Log, 10 * MIB + 1).unwrap_err().full);
        assert!(second.take_unclaimed(SeedPlace::Log, 10 * MIB + 1).unwrap_err().full);
        first.take(SeedPlace::Store, 30 * MIB).unwrap();
    }
}
