//! Clients: one writer and one reader per key, which follow the active by trying.

use std::collections::BTreeSet;

use keelson_types::{Epoch, LogEnd};

use super::{Happening, World};
use crate::messages::{Operation, Reply};
use crate::params::{MS, SEC};

/// How long a client waits for an answer. Longer than any lease, so that no forgotten request of it
/// is carried out after the next one.
const PATIENCE: u64 = 2 * SEC;

/// A client with at most one operation under way.
#[derive(Debug)]
pub(crate) struct Client {
    database: usize,
    /// The key it writes; a reader reads any.
    writes: Option<u32>,
    version: u64,
    /// Where it asks.
    hint: usize,
    waiting: Option<Operation>,
    /// The write to repeat because it was refused.
    again: Option<u64>,
}

impl Client {
    pub(crate) const fn new(database: usize, writes: Option<u32>) -> Self {
        Self { database, writes, version: 0, hint: 0, waiting: None, again: None }
    }
}

impl World {
    pub(crate) fn client_step(&mut self, client: usize) {
        if self.clients_stop || self.clients[client].waiting.is_some() {
            return;
        }
        let id = self.fresh();
        let any = self.random.below(u64::from(super::setup::KEYS)) as u32;
        let one = &mut self.clients[client];
        let (database, hint) = (one.database, one.hint);
        let operation = match one.writes {
            Some(key) => {
                let version = one.again.take().unwrap_or(one.version + 1);
                one.version = version;
                self.registers.issued(database, key, version);
                Operation { id, key, write: Some(version) }
            }
            None => {
                let floor = self.registers.read_begins(database, any);
                self.floors.insert(id, floor);
                Operation { id, key: any, write: None }
            }
        };
        self.clients[client].waiting = Some(operation);
        let delay = self.net_delay();
        let lost = !self.healing && self.random.chance(self.params.loss, 10_000);
        if !lost {
            let request = Happening::ClientRequest { member: hint, client, database, operation };
            self.after(delay.min(100 * MS), request);
        }
        self.after(PATIENCE, Happening::ClientTimeout { client, operation: id });
    }

    /// A copy answers: what it says counts from now on, whether the client hears it or not.
    pub(crate) fn server_reply(
        &mut self,
        member: usize,
        database: usize,
        (operation, reply): (Operation, Reply),
        epoch: Epoch,
    ) {
        if reply != Reply::Refused
            && let Some(copy) = self.copy(member, database).map(|node| node.copy)
        {
            let verdict = self.serving.check(database, epoch, copy);
            self.check(verdict);
        }
        match (reply, operation.write) {
            (Reply::Written(position), Some(version)) => {
                self.counts.acknowledged += 1;
                let end = LogEnd { epoch, position };
                self.acknowledged.acknowledged(database, (operation.key, version), end);
                self.registers.acknowledged(database, operation.key, version);
            }
            (Reply::Read(version), None) => {
                self.counts.reads += 1;
                if let Some(floor) = self.floors.remove(&operation.id) {
                    let key = operation.key;
                    let verdict = self.registers.read_ends(database, key, floor, version);
                    self.check(verdict);
                }
            }
            _ => {}
        }
        self.note(format_args!("m{member} db{database} answers {} {reply:?}", operation.id));
        let client = self.clients.iter().position(|c| {
            c.database == database && c.waiting.is_some_and(|w| w.id == operation.id)
        });
        if let Some(client) = client {
            let delay = self.net_delay();
            self.after(delay, Happening::ClientReply { client, operation, reply });
        }
    }

    /// Later versions of the keys than these are given up: nobody can expect them any more, and a
    /// read under way may see either side.
    pub(crate) fn expect_no_more(&mut self, database: usize, kept: &BTreeSet<(u32, u64)>) {
        for key in 0..super::setup::KEYS {
            let versions = kept.iter().filter(|(k, _)| *k == key).map(|(_, version)| *version);
            self.registers.given_up(database, key, versions.max().unwrap_or(0));
        }
        for client in self.clients.iter().filter(|client| client.database == database) {
            if let Some(operation) = client.waiting {
                self.floors.remove(&operation.id);
            }
        }
    }

    pub(crate) fn client_reply(&mut self, client: usize, operation: Operation, reply: Reply) {
        let members = self.params.members;
        let think = self.random.below(2 * self.params.think + 1);
        let one = &mut self.clients[client];
        if one.waiting.is_none_or(|waiting| waiting.id != operation.id) {
            return;
        }
        one.waiting = None;
        let pause = match reply {
            Reply::Refused => {
                one.hint = (one.hint + 1) % members;
                one.again = operation.write;
                20 * MS
            }
            Reply::Written(_) | Reply::Read(_) => think,
        };
        self.after(pause, Happening::ClientStep { client });
    }

    pub(crate) fn client_timeout(&mut self, client: usize, operation: u64) {
        let members = self.params.members;
        let one = &mut self.clients[client];
        if one.waiting.is_none_or(|waiting| waiting.id != operation) {
            return;
        }
        if one.waiting.take().is_some_and(|operation| operation.write.is_some()) {
            self.counts.unknown += 1;
        }
        let one = &mut self.clients[client];
        one.hint = (one.hint + 1) % members;
        self.floors.remove(&operation);
        self.after(0, Happening::ClientStep { client });
    }
}
