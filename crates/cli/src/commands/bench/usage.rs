//! What members used between two looks at them, and how it is printed.

use std::time::Duration;

use keelson_wire::v1::MemberStatus;
use serde_json::{Value, json};

use super::idle::Measured;
use crate::context::Global;
use crate::output::{self, Column, column, wide};

/// What one process of a member used.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) struct Process {
    /// At the end of the time.
    resident_bytes: u64,
    /// During the time; none if the process is another one than at its beginning.
    cpu_millis: Option<u64>,
    /// At the end of the time.
    open_files: u32,
}

/// What a member used.
pub(super) struct Usage {
    member: String,
    copies: u32,
    actives: u32,
    seconds: f64,
    control: Process,
    data: Process,
}

impl Usage {
    /// The use between two looks at the same member, `time` apart.
    pub(super) fn between(before: &MemberStatus, after: &MemberStatus, time: Duration) -> Self {
        let cpu = |same: bool, before: u64, after: u64| same.then(|| after.saturating_sub(before));
        let same = before.control_pid == after.control_pid && after.reachable;
        let control = Process {
            resident_bytes: after.control_resident_bytes,
            cpu_millis: cpu(same, before.control_cpu_millis, after.control_cpu_millis),
            open_files: after.control_open_files,
        };
        let same = before.data_pid == after.data_pid && after.data_process_up;
        let data = Process {
            resident_bytes: after.resident_bytes,
            cpu_millis: cpu(same, before.cpu_millis, after.cpu_millis),
            open_files: after.open_files,
        };
        Self {
            member: after.name.clone(),
            copies: after.copies,
            actives: after.actives,
            seconds: time.as_secs_f64(),
            control,
            data,
        }
    }

    fn resident_bytes(&self) -> u64 {
        self.control.resident_bytes + self.data.resident_bytes
    }

    fn cpu_millis(&self) -> Option<u64> {
        Some(self.control.cpu_millis? + self.data.cpu_millis?)
    }

    /// Share of one core, in percent.
    fn percent(&self, cpu_millis: u64) -> f64 {
        cpu_millis as f64 / 10.0 / self.seconds
    }

    fn row(&self) -> Vec<String> {
        let cpu = |millis: Option<u64>| match millis {
            Some(millis) => format!("{millis} ms, {:.1} %", self.percent(millis)),
            None => "restarted".into(),
        };
        vec![
            self.member.clone(),
            self.copies.to_string(),
            self.actives.to_string(),
            mebibytes(self.resident_bytes()),
            mebibytes(self.control.resident_bytes),
            mebibytes(self.data.resident_bytes),
            cpu(self.cpu_millis()),
            cpu(self.control.cpu_millis),
            cpu(self.data.cpu_millis),
            self.control.open_files.to_string(),
            self.data.open_files.to_string(),
        ]
    }

    fn data(&self) -> Value {
        let figures = |resident_bytes: u64, cpu_millis: Option<u64>, open_files: u32| {
            json!({
                "resident_bytes": resident_bytes,
                "cpu_millis": cpu_millis,
                "cpu_percent_of_a_core": cpu_millis.map(|millis| self.percent(millis)),
                "open_files": open_files,
            })
        };
        let of = |one: Process| figures(one.resident_bytes, one.cpu_millis, one.open_files);
        let files = self.control.open_files + self.data.open_files;
        json!({
            "member": self.member,
            "copies": self.copies,
            "actives": self.actives,
            "control": of(self.control),
            "data": of(self.data),
            "both": figures(self.resident_bytes(), self.cpu_millis(), files),
        })
    }
}

fn mebibytes(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / (1024.0 * 1024.0))
}

const COLUMNS: &[Column] = &[
    column("member"),
    column("copies"),
    column("actives"),
    column("memory"),
    column("control"),
    column("data"),
    column("cpu, of a core"),
    column("control cpu"),
    column("data cpu"),
    wide("control files"),
    column("data files"),
];

impl Measured {
    pub(super) fn print(&self, global: &Global) {
        if !global.output.is_data() {
            let seconds = |time: Duration| format!("{:.1} s", time.as_secs_f64());
            output::emit(&format!(
                "{} databases with {} copies each, idle for {}; created in {}, established after \
                 another {}, each written and read after another {}\n\n",
                self.databases,
                self.copies,
                seconds(self.idle),
                seconds(self.create),
                seconds(self.establish),
                seconds(self.serve),
            ));
        }
        let rows = self.members.iter().map(Usage::row).collect();
        output::print_list(global.output, COLUMNS, rows, &self.data());
    }

    fn data(&self) -> Value {
        json!({
            "databases": self.databases,
            "copies": self.copies,
            "idle_seconds": self.idle.as_secs_f64(),
            "create_seconds": self.create.as_secs_f64(),
            "establish_seconds": self.establish.as_secs_f64(),
            "serve_seconds": self.serve.as_secs_f64(),
            "members": self.members.iter().map(Usage::data).collect::<Value>(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn use_is_the_difference_of_two_looks_at_the_same_processes() {
        let look = |cpu_millis, control_cpu_millis, data_pid| MemberStatus {
            reachable: true,
            data_process_up: true,
            cpu_millis,
            control_cpu_millis,
            data_pid,
            ..MemberStatus::default()
        };
        let time = Duration::from_secs(10);
        let usage = Usage::between(&look(1_000, 50, 7), &look(1_200, 80, 7), time);
        assert_eq!((usage.data.cpu_millis, usage.control.cpu_millis), (Some(200), Some(30)));
        assert!((usage.percent(200) - 2.0).abs() < 1e-9, "{}", usage.percent(200));
        let restarted = Usage::between(&look(1_000, 50, 7), &look(20, 80, 8), time);
        assert_eq!((restarted.data.cpu_millis, restarted.cpu_millis()), (None, None));
        assert_eq!(restarted.row()[8], "restarted");
    }
}
