//! What writers feel of a seed: the same load before it, and until it ends.

use std::time::Duration;

use serde_json::{Value, json};

use super::load::{self, Stop};
use super::{Load, Work};
use crate::context::Global;
use crate::failure::Outcome;

/// The writers before the seed and during it.
pub(super) struct Beside {
    before: load::Result,
    during: load::Result,
}

/// Writes for `first`, then until `seed` ends, which takes at most `longest`.
pub(super) async fn measure<T>(
    global: &Global,
    (database, clients): (&str, u32),
    (first, longest): (Duration, Duration),
    seed: impl Future<Output = Outcome<T>>,
) -> Outcome<(T, Beside)> {
    let load = |duration| Load::of_puts(database, clients, duration);
    let before = load::run(global, &load(first), Work::Put, Stop::default()).await?;
    let (stop, load) = (Stop::default(), load(longest));
    let writers = load::run(global, &load, Work::Put, stop.clone());
    let seed = async {
        let seeded = seed.await;
        stop.stop();
        seeded
    };
    let (during, seeded) = tokio::join!(writers, seed);
    Ok((seeded?, Beside { before, during: during? }))
}

fn per_second(seen: &load::Result) -> f64 {
    seen.latencies.len() as f64 / seen.seconds.max(1e-9)
}

fn p99_millis(seen: &load::Result) -> f64 {
    seen.latencies.value_at_quantile(0.99) as f64 / 1e3
}

fn sentence(seen: &load::Result) -> String {
    let errors = match seen.errors {
        0 => String::new(),
        some => format!(", {some} errors, the last one: {}", seen.last_error),
    };
    format!("{:.0} puts/s, p99 {:.1} ms{errors}", per_second(seen), p99_millis(seen))
}

impl Beside {
    /// The p99 during the seed by the one before.
    fn ratio(&self) -> f64 {
        p99_millis(&self.during) / p99_millis(&self.before).max(1e-9)
    }

    pub(super) fn rows(&self) -> [(&'static str, String); 3] {
        [
            ("writers before", sentence(&self.before)),
            ("writers during the seed", sentence(&self.during)),
            ("p99 by p99", format!("{:.2}", self.ratio())),
        ]
    }

    pub(super) fn data(&self) -> Value {
        let seen = |seen: &load::Result| {
            json!({
                "puts_per_s": per_second(seen),
                "p99_micros": seen.latencies.value_at_quantile(0.99),
                "errors": seen.errors,
            })
        };
        json!({
            "before": seen(&self.before),
            "during": seen(&self.during),
            "p99_ratio": self.ratio(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::fsync::histogram;
    use super::*;

    fn seen(micros: u64, times: u64, seconds: f64) -> load::Result {
        let mut latencies = histogram();
        (0..times).for_each(|_| latencies.saturating_record(micros));
        let last_error = String::new();
        load::Result { seconds, latencies, longest_gap: Duration::ZERO, errors: 0, last_error }
    }

    #[test]
    fn the_ratio_is_of_the_slowest_hundredth() {
        let beside = Beside { before: seen(10_000, 300, 3.0), during: seen(15_000, 100, 2.0) };
        assert!((beside.ratio() - 1.5).abs() < 0.01, "{}", beside.ratio());
        let [before, during, ratio] = beside.rows().map(|(_, text)| text);
        assert_eq!(before, "100 puts/s, p99 10.0 ms");
        assert!(during.starts_with("50 puts/s"), "{during}");
        assert_eq!(ratio, "1.50");
    }
}
