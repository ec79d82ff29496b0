//! How often each call of a process was answered in which way, and how long that took, for metrics.
//!
//! A call that is answered with a stream counts when its answer begins; what ends it later is not
//! counted. Names that no version knows are one, so that nobody fills the memory with them.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use http::HeaderMap;
use keelson_wire::v1::{CallCount, Timings};
use tonic::Code;

use crate::Histogram;
use crate::refused_calls::CALLS;

/// Of everything that is no call of ours: health, reflection, what callers make up.
const OTHER: &str = "other";

/// gRPC has so many codes.
const CODES: usize = 17;

/// Numbers by the path of a request: it is looked up with each one.
static PATHS: LazyLock<HashMap<String, usize>> = LazyLock::new(|| {
    let path = |name: &str| format!("/keelson.v1.{}", name.replace('.', "/"));
    NAMES.iter().map(|(name, number)| (path(name), *number)).collect()
});

static NAMES: LazyLock<BTreeMap<&'static str, usize>> = LazyLock::new(|| {
    let names = CALLS.iter().map(String::as_str).chain([OTHER]);
    names.enumerate().map(|(number, name)| (name, number)).collect()
});

#[derive(Debug, Default)]
struct Meter {
    outcomes: [AtomicU64; CODES],
    took: Histogram,
}

/// The meters of a process. Clones are the same.
#[derive(Clone, Debug)]
pub struct CallMeters(Arc<Vec<Meter>>);

impl Default for CallMeters {
    fn default() -> Self {
        Self(Arc::new((0..NAMES.len()).map(|_| Meter::default()).collect()))
    }
}

/// The number of a call by its path.
pub(crate) fn number_of(path: &str) -> usize {
    PATHS.get(path).or_else(|| NAMES.get(OTHER)).copied().unwrap_or_default()
}

/// What the head of an answer says of its outcome.
pub(crate) fn code_of(headers: &HeaderMap) -> Code {
    let status = headers.get("grpc-status");
    status.map_or(Code::Ok, |code| Code::from_bytes(code.as_bytes()))
}

impl CallMeters {
    pub(crate) fn answered(&self, number: usize, code: Code, time: Duration) {
        let Some(meter) = self.0.get(number) else { return };
        if let Some(outcome) = meter.outcomes.get(code as usize) {
            outcome.fetch_add(1, Ordering::Relaxed);
        }
        meter.took.took(time);
    }

    /// What was counted so far.
    #[must_use]
    pub fn counts(&self) -> Vec<CallCount> {
        let each = NAMES.iter().filter_map(|(name, number)| Some((*name, self.0.get(*number)?)));
        let counts = each.flat_map(|(name, meter)| {
            meter.outcomes.iter().enumerate().map(move |(code, count)| CallCount {
                call: name.into(),
                outcome: word(code),
                count: count.load(Ordering::Relaxed),
            })
        });
        counts.filter(|count| count.count > 0).collect()
    }

    /// How long calls took that were made so far.
    #[must_use]
    pub fn times(&self) -> Vec<Timings> {
        let each = NAMES.iter().filter_map(|(name, number)| Some((*name, self.0.get(*number)?)));
        let told = each.map(|(name, meter)| meter.took.told(name));
        told.filter(|told| told.counts.iter().any(|count| *count > 0)).collect()
    }
}

/// The name of a code, as `deadline_exceeded`.
fn word(code: usize) -> String {
    let name = format!("{:?}", Code::from_i32(i32::try_from(code).unwrap_or_default()));
    let mut word = String::new();
    for letter in name.chars() {
        if letter.is_uppercase() && !word.is_empty() {
            word.push('_');
        }
        word.extend(letter.to_lowercase());
    }
    word
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_told_by_name_and_outcome_and_made_up_ones_are_one() {
        let meters = CallMeters::default();
        let answered = |path: &str, code| {
            meters.answered(number_of(path), code, Duration::from_millis(1));
        };
        answered("/keelson.v1.Kv/Put", Code::Ok);
        answered("/keelson.v1.Kv/Put", Code::Ok);
        answered("/keelson.v1.Kv/Put", Code::DeadlineExceeded);
        answered("/keelson.v1.Kv/Made", Code::PermissionDenied);
        answered("/grpc.health.v1.Health/Check", Code::Ok);
        let counts = meters.counts();
        let told: Vec<_> =
            counts.iter().map(|c| (c.call.as_str(), c.outcome.as_str(), c.count)).collect();
        assert_eq!(
            told,
            [
                ("Kv.Put", "ok", 2),
                ("Kv.Put", "deadline_exceeded", 1),
                (OTHER, "ok", 1),
                (OTHER, "permission_denied", 1),
            ]
        );
        let times = meters.times();
        assert_eq!(
            times.iter().map(|time| time.of.as_str()).collect::<Vec<_>>(),
            ["Kv.Put", OTHER]
        );
        assert_eq!((times[0].counts.iter().sum::<u64>(), times[0].sum_micros), (3, 3_000));
    }

    #[test]
    fn the_head_of_an_answer_tells_its_code() {
        let mut headers = HeaderMap::new();
        assert_eq!(code_of(&headers), Code::Ok);
        headers.insert("grpc-status", "7".parse().unwrap());
        assert_eq!(code_of(&headers), Code::PermissionDenied);
    }
}
