//! The metrics of a member (F137): its processes, the cluster and the databases as its state has
//! them, its copies, the stages of a write, calls, traffic and moves.
//!
//! Names are `keelson_<subsystem>_<what>_<unit>` in base units. What every member knows (the
//! databases) is told by every member; dashboards take the maximum. Queues are gauges, computed as
//! differences where they arise; nothing here is counted twice. States are one sample of value 1
//! with the state as label, so that a thousand databases cost one sample each and not one per
//! state.

mod cluster;
mod copies;
mod member;
mod traffic;
mod writes;

use crate::Snapshot;
use crate::exposition::Exposition;

/// The text that Prometheus collects.
#[must_use]
pub fn metrics(snapshot: &Snapshot) -> String {
    let mut out = Exposition::default();
    member::write(snapshot, &mut out);
    cluster::write(snapshot, &mut out);
    copies::write(snapshot, &mut out);
    writes::write(snapshot, &mut out);
    traffic::write(snapshot, &mut out);
    out.into_text()
}

/// 1 for yes.
fn flag(value: bool) -> f64 {
    f64::from(u8::from(value))
}

/// Milliseconds of Unix time as seconds.
#[allow(clippy::cast_precision_loss)] // Exact for the next 280,000 years.
fn seconds(millis: u64) -> f64 {
    millis as f64 / 1000.0
}
