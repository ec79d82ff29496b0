//! Free space of the volumes: one look per member and period, for status, play-downs of lags,
//! expanded truncation and forecasts. Here a volume that became full is told as an event, too.
//!
//! Idle copies are not woken by it: only copies with a lag are told of each look, and all copies
//! while space for log is short and expanded truncation is on.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use keelson_copy_core::expanded_truncation::{ExpandedSettings, SpaceHistory, SpaceSample};
use keelson_env::{Disk, ReadTotals};
use keelson_types::{ClusterSettings, News, Setting, VolumeState};
use tokio::sync::oneshot;

use crate::context::{PlaneContext, Registry};
use crate::gate::boottime_now;
use crate::message::Message;

/// Between two looks that are not due by time.
const LOOK_PAUSE: Duration = Duration::from_millis(250);

/// A disk that does not answer within this time is not waited for.
const LOOK_WITHIN: Duration = Duration::from_secs(5);

/// What is known of a volume.
#[derive(Clone, Debug, Default)]
pub(crate) struct Volume {
    pub(crate) free_bytes: Option<u64>,
    pub(crate) total_bytes: Option<u64>,
    /// Mean latency of the reads between the last two looks.
    pub(crate) read_latency: Option<Duration>,
    pub(crate) history: SpaceHistory,
    totals: Option<ReadTotals>,
    /// Its forecast was told as an event, and has not become better since.
    alerted: bool,
}

/// The volumes of a member; both may be the same one.
#[derive(Clone, Debug, Default)]
pub(crate) struct Volumes {
    pub(crate) log: Volume,
    pub(crate) data: Volume,
}

impl Volumes {
    /// The lower free space, of what is known.
    pub(crate) fn free_bytes(&self) -> Option<u64> {
        [self.log.free_bytes, self.data.free_bytes].into_iter().flatten().min()
    }

    /// The higher latency, of what is known.
    pub(crate) fn read_latency(&self) -> Option<Duration> {
        [self.log.read_latency, self.data.read_latency].into_iter().flatten().max()
    }

    /// Whether expanded truncation has something to do.
    pub(crate) fn is_short(&self, settings: &ClusterSettings) -> bool {
        self.log.free_bytes.is_some_and(|free| ExpandedSettings::from(settings).is_short(free))
    }
}

/// Who looks, each on a thread of its own that a disk may hold for ever.
#[derive(Clone, Copy)]
enum Looker {
    Volumes,
    Rooms,
}

/// The last look, by the root of the stores.
#[derive(Debug, Default)]
pub(crate) struct Space {
    known: RwLock<BTreeMap<PathBuf, Volumes>>,
    /// Held by looks that run.
    looking: [Arc<()>; 2],
}

impl Space {
    /// To be held by a look; nothing while an earlier one hangs.
    fn free(&self, looker: Looker) -> Option<Arc<()>> {
        let held = &self.looking[looker as usize];
        (Arc::strong_count(held) == 1).then(|| held.clone())
    }

    pub(crate) fn volumes(&self, data: &Path) -> Volumes {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known.get(data).cloned().unwrap_or_default()
    }

    fn is_short(&self, data: &Path, settings: &ClusterSettings) -> bool {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known.get(data).is_some_and(|volumes| volumes.is_short(settings))
    }
}

/// What one look at a volume shows.
#[derive(Default)]
struct Look {
    free_bytes: Option<u64>,
    total_bytes: Option<u64>,
    totals: Option<ReadTotals>,
}

impl Look {
    fn at(disk: &dyn Disk, path: &Path) -> Self {
        Self {
            free_bytes: disk.free_bytes(path).ok(),
            total_bytes: disk.total_bytes(path),
            totals: disk.read_totals(path),
        }
    }
}

impl Volume {
    fn take(&mut self, look: &Look) {
        let before = std::mem::replace(&mut self.totals, look.totals);
        self.read_latency = match (look.totals, before) {
            (Some(now), Some(before)) => now.mean_since(&before),
            _ => None,
        };
        (self.free_bytes, self.total_bytes) = (look.free_bytes, look.total_bytes);
        if let Some(free_bytes) = look.free_bytes {
            self.history.push(SpaceSample { at: boottime_now(), free_bytes });
        }
    }

    /// An event when the time to full falls below `within`; told again only after it was twice as
    /// long, or the volume did not fill any more.
    fn alert(&mut self, name: &str, within: Duration) -> Option<News> {
        let left = self.history.forecast(0, &[]).time_to_full;
        let clear = left.is_none_or(|left| left >= within.saturating_mul(2));
        let due = left.is_some_and(|left| left < within);
        let told = self.alerted;
        self.alerted = due || told && !clear;
        let seconds_to_full = left.filter(|_| due && !told)?.as_secs();
        let free_bytes = self.free_bytes?;
        Some(News::SpaceForecast { volume: name.into(), free_bytes, seconds_to_full })
    }
}

/// Looks at the volumes until the process ends.
pub(crate) async fn watch(context: Arc<PlaneContext>, registry: Arc<Registry>) {
    let mut changed = context.settings.subscribe();
    loop {
        let settings = changed.borrow_and_update().clone();
        look(&context, &registry, &settings).await;
        tell_copies(&context, &registry, &settings);
        for room in context.rooms.all() {
            let free_bytes = context.space.volumes(&room.roots.data).log.free_bytes;
            let expanded = ExpandedSettings::from(&settings);
            room.wake_below(expanded.look_below(free_bytes.unwrap_or_default()));
            // Nobody else looks while nothing happens.
            room.look();
        }
        let next = tokio::time::sleep(settings.span(Setting::SpaceCheckPeriod));
        tokio::pin!(next);
        loop {
            context.rooms.news().iter().for_each(|news| context.tell(None, news));
            tokio::select! {
                () = &mut next => break,
                // The sender lives as long as the context.
                _ = changed.changed() => break,
                () = context.rooms.changed() => {
                    if context.rooms.take_due() {
                        // Free space is counted anew meanwhile, and what comes together is one
                        // look.
                        tokio::time::sleep(LOOK_PAUSE).await;
                        break;
                    }
                }
            }
        }
    }
}

async fn look(context: &Arc<PlaneContext>, registry: &Registry, settings: &ClusterSettings) {
    // Whoever has a copy there has a room there.
    let copies = registry.all().into_iter();
    copies.for_each(|copy| drop(context.rooms.of_database(copy.shared.database)));
    let rooms = context.rooms.all();
    let (reply, looked) = oneshot::channel();
    let (places, asked) = (context.places.clone(), rooms.clone());
    look_at_volumes(context).await;
    let Some(held) = context.space.free(Looker::Rooms) else { return };
    context.readers.run(move || {
        let _held = held;
        let disk = &*places.disk;
        let failed = |path: &Path| places.volumes.state(path) == Some(VolumeState::Failed);
        let look = |path: &Path| if failed(path) { Look::default() } else { Look::at(disk, path) };
        let looks = asked.iter().map(|room| (look(&room.roots.logs), look(&room.roots.data)));
        let _ = reply.send(looks.collect::<Vec<_>>());
    });
    let Ok(Ok(looks)) = tokio::time::timeout(LOOK_WITHIN, looked).await else {
        tracing::warn!("free space is not known: a volume does not answer");
        return;
    };
    let within = settings.span(Setting::SpaceAlert);
    for (room, (log, data)) in rooms.into_iter().zip(looks) {
        let [log_name, data_name] = &room.names;
        let news = {
            let mut known = context.space.known.write().unwrap_or_else(PoisonError::into_inner);
            let volumes = known.entry(room.roots.data.clone()).or_default();
            volumes.log.take(&log);
            volumes.data.take(&data);
            let one_volume = room.is_one_volume();
            let second = if one_volume { None } else { volumes.data.alert(data_name, within) };
            [volumes.log.alert(log_name, within), second]
        };
        for news in news.into_iter().flatten() {
            context.tell(None, &news);
        }
    }
}

/// Looks at the volumes as such, spares among them. One that hangs keeps its thread, and nobody
/// else: until it answers there is no other look.
async fn look_at_volumes(context: &Arc<PlaneContext>) {
    let Some(held) = context.space.free(Looker::Volumes) else { return };
    let (reply, looked) = oneshot::channel();
    let places = context.places.clone();
    context.readers.run(move || {
        let _held = held;
        places.volumes.look_at_space();
        // Nobody listens any more if it took too long.
        let _ = reply.send(());
    });
    if tokio::time::timeout(LOOK_WITHIN, looked).await.is_err() {
        tracing::warn!("a volume does not answer within {LOOK_WITHIN:?}: its space is not known");
    }
}

fn tell_copies(context: &PlaneContext, registry: &Registry, settings: &ClusterSettings) {
    // Many copies share a room: one system call is enough for all of them.
    let mut seen = BTreeMap::new();
    for copy in registry.all() {
        let room = context.rooms.of_database(copy.shared.database);
        let short = *seen.entry(room.roots.data.clone()).or_insert_with(|| {
            let full = !room.look().takes_log();
            full || context.space.is_short(&room.roots.data, settings)
        });
        if short || copy.shared.is_lagged() {
            // A full mailbox is worked on; the next look comes.
            let _ = copy.mailbox.try_send(Message::LookAtSpace);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use keelson_types::Tick;

    fn filling(volume: &mut Volume, minute: u64, free_bytes: u64) {
        let at = Tick(minute * 60_000_000_000);
        volume.free_bytes = Some(free_bytes);
        volume.history.push(SpaceSample { at, free_bytes });
    }

    #[test]
    fn a_volume_that_fills_is_told_once_until_it_is_better() {
        let (mut volume, hour) = (Volume::default(), Duration::from_hours(1));
        filling(&mut volume, 0, 60_000);
        assert_eq!(volume.alert("log", hour), None, "one sample is no trend");
        filling(&mut volume, 1, 30_000);
        let told = volume.alert("log", hour);
        assert!(matches!(told, Some(News::SpaceForecast { free_bytes: 30_000, .. })), "{told:?}");
        filling(&mut volume, 2, 10_000);
        assert_eq!(volume.alert("log", hour), None, "told already");
        for minute in 3..70 {
            filling(&mut volume, minute, 60_000);
        }
        assert_eq!(volume.alert("log", hour), None);
        assert!(!volume.alerted, "it does not fill any more");
    }

    #[test]
    fn a_look_that_hangs_takes_one_thread() {
        let space = Space::default();
        let held = space.free(Looker::Volumes);
        assert!(held.is_some() && space.free(Looker::Volumes).is_none());
        assert!(space.free(Looker::Rooms).is_some(), "the rooms are looked at");
        drop(held);
        assert!(space.free(Looker::Volumes).is_some());
    }

    #[test]
    fn latency_is_the_mean_of_the_reads_between_two_looks() {
        let look = |reads, millis| Look {
            free_bytes: Some(1),
            total_bytes: None,
            totals: Some(ReadTotals { reads, millis }),
        };
        let mut volume = Volume::default();
        volume.take(&look(10, 100));
        assert_eq!(volume.read_latency, None);
        volume.take(&look(14, 240));
        assert_eq!(volume.read_latency, Some(Duration::from_millis(35)));
        volume.take(&look(14, 240));
        assert_eq!(volume.read_latency, Some(Duration::ZERO), "nobody waits for a read");
    }
}
