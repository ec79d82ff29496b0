//! The watch over volumes with failed copies. It sleeps until a copy fails; then it tests the
//! copy's volume, and again after a pause for as long as it does not pass: also when no copy there
//! is failed any more, for nobody else would clear the volume. One that is missing is left to the
//! looks at space, unless a copy there is failed. What came of it is told once.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use futures::future::join_all;
use keelson_types::{CopyStatus, DatabaseId, News, Setting, VolumeState};

use super::probe::Probed;
use super::{Known, MemberVolumes, lock};
use crate::context::{CopyHandle, PlaneContext, Registry};

/// Runs until the process ends, or at once if there are no volumes.
pub(crate) async fn run(context: Arc<PlaneContext>, registry: Arc<Registry>) {
    let volumes = context.places.volumes.clone();
    if !volumes.is_used() {
        return;
    }
    loop {
        loop {
            let due = volumes.due(&failed(&registry));
            if due.is_empty() {
                break;
            }
            let tests = due.into_iter().map(|path| volumes.test_again(path));
            for news in join_all(tests).await.into_iter().flatten() {
                context.tell(None, &news);
            }
            let pause = context.settings.borrow().span(Setting::VolumeProbePause);
            tokio::time::sleep(pause).await;
        }
        volumes.changed.notified().await;
    }
}

fn failed(registry: &Registry) -> BTreeSet<DatabaseId> {
    let bad = |copy: &CopyHandle| {
        let status = copy.shared.kept_status().last();
        let bad = [CopyStatus::Failed, CopyStatus::FailedAndSuspended];
        status.is_some_and(|(status, _)| bad.contains(&status))
    };
    let copies = registry.all();
    copies.iter().filter(|copy| bad(copy)).map(|copy| copy.shared.database).collect()
}

impl MemberVolumes {
    /// A copy failed: its volume is to be tested.
    pub(crate) fn suspect(&self, database: DatabaseId) {
        let Some(home) = self.home(database) else { return };
        lock(&self.known).asked.insert(home);
        self.changed.notify_one();
    }

    /// The volumes that are to be tested now.
    pub(super) fn due(&self, failed: &BTreeSet<DatabaseId>) -> Vec<PathBuf> {
        let mut table = lock(&self.known);
        let asked = std::mem::take(&mut table.asked);
        let hurt: BTreeSet<_> = failed.iter().filter_map(|id| table.homes.get(id)).collect();
        let due = |volume: &&Known| {
            let state = volume.state();
            let waits = state != VolumeState::Missing || hurt.contains(&volume.path);
            let again = volume.strikes > 0 && waits || asked.contains(&volume.path);
            // One that never was a volume has nothing that could be tested.
            volume.entry.is_some() && state != VolumeState::Retired && again
        };
        table.volumes.iter().filter(due).map(|volume| volume.path.clone()).collect()
    }

    async fn test_again(&self, path: PathBuf) -> Option<News> {
        let probed = match self.probe_of(&path) {
            Some((probe, held)) => probe.run(held).await,
            None => Probed::Broken("it does not answer".into()),
        };
        self.tested(&path, probed)
    }

    /// Notes what a test found; says what is to be told.
    pub(super) fn tested(&self, path: &std::path::Path, probed: Probed) -> Option<News> {
        let mut table = lock(&self.known);
        if let Probed::Unknown(why) = &probed {
            tracing::warn!(volume = %path.display(), why, "the test of a volume says nothing");
            table.asked.insert(path.to_owned());
        }
        let volume = table.of_mut(path)?;
        let before = volume.state();
        volume.found(probed);
        let (state, why) = (volume.state(), volume.why.clone());
        let lost = |state: VolumeState| state.is_lost() && state != VolumeState::Retired;
        if state != before {
            tracing::warn!(volume = volume.name(), %before, %state, why, "a volume was tested");
        }
        let news = state != before && (lost(state) || lost(before));
        news.then(|| News::VolumeStateChanged { volume: volume.name(), state, why })
    }
}
