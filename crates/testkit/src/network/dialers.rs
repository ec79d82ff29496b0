//! Who dials: from the source port of a connection to the member whose process holds the socket.
//!
//! `/proc/net/tcp` gives the inode of the socket, `/proc/PID/fd` the process; a process belongs to
//! a member if its command line names the member's configuration file. So members need no address
//! of their own, and a restarted process is known from its first connection.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// Finds members by their connections.
#[derive(Clone, Debug)]
pub(super) struct Dialers {
    home: PathBuf,
}

impl Dialers {
    pub(super) fn new(home: &Path) -> Self {
        Self { home: home.to_owned() }
    }

    /// The member that dialled from `source` to `target`; `None` for anybody else.
    pub(super) async fn of(self, source: SocketAddr, target: SocketAddr) -> Option<String> {
        // Many small reads of files that may take a moment on a busy machine.
        tokio::task::spawn_blocking(move || self.find(source, target)).await.ok()?
    }

    fn find(&self, source: SocketAddr, target: SocketAddr) -> Option<String> {
        let table = fs::read_to_string("/proc/net/tcp").ok()?;
        let inode = inode_of(&table, source, target)?;
        let socket = PathBuf::from(format!("socket:[{inode}]"));
        let processes = fs::read_dir("/proc").ok()?.flatten();
        processes.map(|entry| entry.path()).find_map(|process| {
            let member = self.member_of(&process)?;
            let mut files = fs::read_dir(process.join("fd")).ok()?.flatten();
            files
                .any(|file| fs::read_link(file.path()).is_ok_and(|link| link == socket))
                .then_some(member)
        })
    }

    fn member_of(&self, process: &Path) -> Option<String> {
        let arguments = fs::read(process.join("cmdline")).ok()?;
        let arguments = arguments.split(|byte| *byte == 0).map(String::from_utf8_lossy);
        let configs = arguments.filter(|argument| argument.ends_with("/keelson.toml"));
        configs
            .filter_map(|config| {
                let directory = Path::new(&*config).parent()?.strip_prefix(&self.home).ok()?;
                directory.to_str().map(str::to_owned)
            })
            .find(|name| !name.is_empty())
    }
}

/// The inode of the socket at `source` that is connected with `target`.
fn inode_of(table: &str, source: SocketAddr, target: SocketAddr) -> Option<u64> {
    let ends = (ending(source), ending(target));
    table.lines().skip(1).find_map(|line| {
        let fields: Vec<_> = line.split_whitespace().collect();
        let (local, remote, inode) = (fields.get(1)?, fields.get(2)?, fields.get(9)?);
        let ours = local.ends_with(&ends.0) && remote.ends_with(&ends.1);
        // A socket without an owner has the number 0.
        inode.parse().ok().filter(|inode| ours && *inode != 0)
    })
}

/// How the table writes a port. All addresses of test clusters are 127.0.0.1.
fn ending(address: SocketAddr) -> String {
    format!(":{:04X}", address.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_inode_is_that_of_the_dialing_end() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr \
             tm->when retrnsmt   uid  timeout \
             inode\n\
             0: 0100007F:1F90 0100007F:C350 01 00000000:00000000 00:00000000 \
             00000000  1000        0 11 1\n\
             1: 0100007F:C350 0100007F:1F90 01 00000000:00000000 00:00000000 \
             00000000  1000        0 22 1\n";
        let at = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
        assert_eq!(inode_of(table, at(50_000), at(8_080)), Some(22));
        assert_eq!(inode_of(table, at(50_000), at(8_081)), None);
    }
}
