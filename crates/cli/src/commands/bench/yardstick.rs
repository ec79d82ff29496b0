//! What a durable write of one client cannot do without: the log made durable on members that share
//! a disk, the call of the client, and the call that ships the frame.
//!
//! Measured in the same run as the writes, because the same machine is twice as fast on another
//! day: fdatasync with three writers, and an empty call (a health check) to the active's data
//! process over mutual TLS. The yardstick is one such sync and two such calls.

use std::path::Path;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use keelson_client::ClientOptions;
use keelson_net::{Expect, PeerChannel};
use keelson_types::RefusalReason;
use keelson_wire::refusal_of;
use serde_json::{Value, json};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use super::fsync::{self, Rate, histogram};
use super::millis;
use crate::block_on;
use crate::context::Global;
use crate::failure::{Failure, Outcome};

/// Members of a usual cluster, each with a log on the one disk of the machine.
const WRITERS: u32 = 3;
/// How long each part is measured.
const MEASURED: Duration = Duration::from_secs(2);
/// How long one call may take.
const CALL_LIMIT: Duration = Duration::from_secs(2);

/// What was measured.
#[derive(Debug)]
pub(crate) struct Yardstick {
    syncs: Rate,
    calls: Histogram<u64>,
}

impl Yardstick {
    /// Measures the disk under `dir` and the way to the active copy of `database`.
    ///
    /// # Errors
    /// The directory cannot be written, or the active member does not answer.
    pub(crate) fn measure(global: &Global, database: &str, dir: &Path) -> Outcome<Self> {
        let syncs = fsync::measure(dir, WRITERS, MEASURED);
        let syncs = syncs.map_err(|error| Failure::file(dir, &error))?;
        let calls = block_on(calls(global, database))?;
        Ok(Self { syncs, calls })
    }

    /// One sync and two calls, medians, in microseconds.
    fn micros(&self) -> u64 {
        self.syncs.p50_micros() + 2 * self.calls.value_at_quantile(0.5)
    }

    /// For people; `p50` is that of a write in microseconds.
    pub(crate) fn sentence(&self, p50: u64) -> String {
        let (sync, call) = (self.syncs.p50_micros(), self.calls.value_at_quantile(0.5));
        format!(
            "{} = fdatasync with {WRITERS} writers ({}) + 2 TLS echoes ({} each); p50 is {:.2} of \
             it",
            millis(self.micros()),
            millis(sync),
            millis(call),
            self.ratio(p50),
        )
    }

    pub(crate) fn data(&self, p50: u64) -> Value {
        json!({
            "micros": self.micros(),
            "fsync": self.syncs.data(),
            "tls_echo_micros_p50": self.calls.value_at_quantile(0.5),
            "p50_ratio": self.ratio(p50),
        })
    }

    fn ratio(&self, p50: u64) -> f64 {
        p50 as f64 / self.micros().max(1) as f64
    }
}

/// Empty calls, one after the other.
async fn calls(global: &Global, database: &str) -> Outcome<Histogram<u64>> {
    let client = global.client_with(ClientOptions::default())?;
    let topology = client.refresh_topology().await?;
    let active = topology.databases.get(database).and_then(|route| route.active.as_ref());
    let address = active.and_then(|member| topology.members.get(member));
    let address = address.ok_or_else(|| {
        Failure::new(RefusalReason::UnknownDatabase, format!("{database} has no active copy"))
    })?;
    let channel = PeerChannel::new(client.credentials(), &address.data, Expect::Address);
    let mut health = HealthClient::new(channel);
    let (mut latencies, begun) = (histogram(), Instant::now());
    while begun.elapsed() < MEASURED {
        let mut request = tonic::Request::new(HealthCheckRequest::default());
        request.set_timeout(CALL_LIMIT);
        let before = Instant::now();
        let answer = health.check(request).await;
        answer.map_err(|status| {
            let refusal = refusal_of(&status);
            Failure::new(refusal.reason, format!("{}: {}", address.data, refusal.message))
        })?;
        let micros = u64::try_from(before.elapsed().as_micros()).unwrap_or(u64::MAX);
        latencies.saturating_record(micros);
    }
    Ok(latencies)
}
