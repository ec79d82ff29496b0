//! The page of a profile.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use super::Profile;
use super::look::{Group, Timed, Used};

/// A kind of thread that uses less of every load than this share is not shown by itself.
const SHARE_SHOWN: f64 = 0.01;

impl Profile {
    fn cpu_micros(&self, group: &Group) -> f64 {
        let used = self.cost.groups.get(group).copied().unwrap_or_default();
        used.cpu_nanos as f64 / 1e3 / self.operations
    }

    fn total(&self, what: impl Fn(&Used) -> u64) -> f64 {
        self.cost.groups.values().map(what).sum::<u64>() as f64 / self.operations
    }

    fn timed(&self, name: &str) -> Timed {
        self.cost.timed.get(name).copied().unwrap_or_default()
    }

    fn syncs(&self) -> Timed {
        self.timed("keelson_log_sync")
    }

    /// Of the whole disk, whoever wrote; nothing if there is no disk that counts.
    fn written(&self) -> String {
        match self.cost.written_bytes {
            0 => "–".into(),
            bytes => format!("{:.1} KiB", bytes as f64 / 1024.0 / self.operations),
        }
    }

    fn stage(&self, stage: &str) -> String {
        let timed = self.timed(&format!("keelson_write_stage{{stage=\"{stage}\"}}"));
        mean_micros(timed)
    }
}

fn mean_micros(timed: Timed) -> String {
    if timed.count < 1.0 {
        return "–".into();
    }
    format!("{:.0} µs", timed.seconds * 1e6 / timed.count)
}

/// The kinds of threads that use something, in the order of whose they are.
fn shown(profiles: &[Profile]) -> Vec<Group> {
    let groups: BTreeSet<&Group> = profiles.iter().flat_map(|p| p.cost.groups.keys()).collect();
    let uses = |group: &&Group| {
        let share = |profile: &Profile| {
            profile.cpu_micros(group) * 1e3 / profile.total(|used| used.cpu_nanos).max(1.0)
        };
        profiles.iter().any(|profile| share(profile) >= SHARE_SHOWN)
    };
    groups.into_iter().filter(uses).cloned().collect()
}

/// What one load has in a row.
type Figure<'a> = Box<dyn Fn(&Profile) -> String + 'a>;

fn row(out: &mut String, name: &str, profiles: &[Profile], figure: &dyn Fn(&Profile) -> String) {
    let figures: Vec<_> = profiles.iter().map(figure).collect();
    let _ = writeln!(out, "| {name} | {} |", figures.join(" | "));
}

/// The page in Markdown.
#[must_use]
pub fn page(profiles: &[Profile]) -> String {
    let mut out = String::new();
    let names: Vec<_> = profiles.iter().map(|profile| profile.name).collect();
    let _ = writeln!(out, "| of each operation | {} |", names.join(" | "));
    let _ = writeln!(out, "| --- |{}", " ---: |".repeat(profiles.len()));
    let rates: [(&str, Figure<'_>); 2] = [
        ("operations/s", Box::new(|p| format!("{:.0}", p.operations / p.seconds))),
        ("p50", Box::new(|p| format!("{} µs", p.p50_micros))),
    ];
    for (name, figure) in rates {
        row(&mut out, name, profiles, &figure);
    }
    for group in shown(profiles) {
        let name = format!("{}: {}", group.0, group.1);
        row(&mut out, &name, profiles, &|p| format!("{:.1} µs", p.cpu_micros(&group)));
    }
    let rest: [(&str, Figure<'_>); 8] = [
        (
            "**processor time, all**",
            Box::new(|p| format!("**{:.0} µs**", p.total(|used| used.cpu_nanos) / 1e3)),
        ),
        (
            "processors busy",
            Box::new(|p| {
                format!("{:.2}", p.total(|used| used.cpu_nanos) * p.operations / p.seconds / 1e9)
            }),
        ),
        ("changes of context", Box::new(|p| format!("{:.1}", p.total(|used| used.switches)))),
        (
            "syncs of logs, all members",
            Box::new(|p| format!("{:.2}", p.syncs().count / p.operations)),
        ),
        ("syncs of logs/s", Box::new(|p| format!("{:.0}", p.syncs().count / p.seconds))),
        ("a sync of a log", Box::new(|p| mean_micros(p.syncs()))),
        ("written to the disk", Box::new(Profile::written)),
        (
            "stages: queue, commit, request",
            Box::new(|p| ["queue", "commit", "request"].map(|stage| p.stage(stage)).join(", ")),
        ),
    ];
    for (name, figure) in rest {
        row(&mut out, name, profiles, &figure);
    }
    out
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::look::Cost;
    use super::*;

    #[test]
    fn figures_are_of_one_operation_and_small_ones_are_left_out() {
        let used = |cpu_nanos| Used { cpu_nanos, switches: 500 };
        let groups = [
            (("active", "log".to_owned()), used(3_000_000)),
            (("active", "idle".to_owned()), used(1_000)),
        ];
        let timed = Timed { count: 50.0, seconds: 0.01 };
        let cost = Cost {
            groups: groups.into(),
            written_bytes: 204_800,
            timed: BTreeMap::from([("keelson_log_sync".to_owned(), timed)]),
        };
        let profile =
            Profile { name: "put", operations: 100.0, seconds: 2.0, p50_micros: 700, cost };
        let text = page(&[profile]);
        for line in [
            "| operations/s | 50 |",
            "| active: log | 30.0 µs |",
            "| **processor time, all** | **30 µs** |",
            "| changes of context | 10.0 |",
            "| syncs of logs, all members | 0.50 |",
            "| a sync of a log | 200 µs |",
            "| written to the disk | 2.0 KiB |",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
        assert!(!text.contains("idle"), "{text}");
    }
}
