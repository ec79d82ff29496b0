//! What this process takes of the machine, for status pages: both processes of a member say it over
//! the link, and nothing is decided by it.

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeVal;

/// Bytes of a page of memory.
const PAGE_BYTES: u64 = 4096;

/// Memory, processor time and open files of this process; 0 for what the system does not tell.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ProcessUsage {
    /// Resident memory, in bytes.
    pub resident_bytes: u64,
    /// Processor time since the process began, in milliseconds.
    pub cpu_millis: u64,
    /// Open files and connections.
    pub open_files: u32,
}

impl ProcessUsage {
    /// The usage of this moment, from the system's accounts.
    #[must_use]
    pub fn now() -> Self {
        let open = std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
        Self {
            resident_bytes: resident_bytes().unwrap_or(0),
            cpu_millis: cpu_millis().unwrap_or(0),
            open_files: u32::try_from(open).unwrap_or(u32::MAX),
        }
    }
}

fn resident_bytes() -> Option<u64> {
    let pages = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = pages.split_whitespace().nth(1)?.parse().ok()?;
    Some(pages * PAGE_BYTES)
}

fn cpu_millis() -> Option<u64> {
    let usage = getrusage(UsageWho::RUSAGE_SELF).ok()?;
    let millis = |time: TimeVal| time.tv_sec() * 1000 + time.tv_usec() / 1000;
    u64::try_from(millis(usage.user_time()) + millis(usage.system_time())).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_has_memory_and_open_files() {
        let usage = ProcessUsage::now();
        assert!(usage.resident_bytes > PAGE_BYTES && usage.open_files > 0, "{usage:?}");
    }
}
