//! Looks whether the logs of this member's copies make progress on their disk, and tells what
//! changed. What slow and hung mean is decided by `copy_core::io_watch`.
//!
//! One timer for all copies; a copy whose log has nothing to do costs a glance at a number.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use keelson_copy_core::io_watch::{IoChange, IoThresholds, IoWatch};
use keelson_types::{CopyId, DatabaseId, FailureTag, News};

use crate::context::{PlaneContext, Registry};
use crate::gate::boottime_now;
use crate::shared::CopyShared;

/// How often logs are looked at.
const LOOK: Duration = Duration::from_millis(500);

/// Looks until the process ends.
pub(crate) async fn run(context: Arc<PlaneContext>, registry: Arc<Registry>) {
    let mut watches = BTreeMap::new();
    loop {
        tokio::time::sleep(LOOK).await;
        let thresholds = IoThresholds::from(&*context.settings.borrow());
        for copy in registry.all() {
            look(&context, &copy.shared, &mut watches, &thresholds);
        }
        watches.retain(|_, watch: &mut IoWatch| watch.state().is_some());
    }
}

fn look(
    context: &PlaneContext,
    shared: &CopyShared,
    watches: &mut BTreeMap<CopyId, IoWatch>,
    thresholds: &IoThresholds,
) {
    let busy = shared.log_clock.busy_since();
    if busy.is_none() && !watches.contains_key(&shared.copy) {
        return;
    }
    let watch = watches.entry(shared.copy).or_default();
    let change = watch.look(boottime_now(), busy, thresholds);
    shared.set_stalled(watch.state(), watch.hangs());
    let Some(IoChange { now, before, stalled }) = change else { return };
    let Some(tag) = now.or(before) else { return };
    let step = if now.is_some() { "began" } else { "ended" }.to_owned();
    let stalled_millis = u64::try_from(stalled.as_millis()).unwrap_or(u64::MAX);
    if tag == FailureTag::HungIo && now.is_some() {
        tracing::error!(database = %shared.name, stalled_millis, "the log hangs on its disk");
    }
    context.tell(Some(shared.database), &News::DiskStalled { tag, step, stalled_millis });
}

/// The databases whose log hangs now, active here or not.
pub(crate) fn hanging(registry: &Registry) -> Vec<DatabaseId> {
    let hanging = registry.all().into_iter().filter(|copy| copy.shared.hangs());
    hanging.map(|copy| copy.shared.database).collect()
}
