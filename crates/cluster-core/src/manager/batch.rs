//! What one step wants done, gathered so that many databases travel in one message.

use std::collections::BTreeMap;

use keelson_types::{DatabaseId, Epoch, MemberId, OperationId, Tick};

use super::operations::Proposal;
use super::{Manager, ManagerAction};
use crate::command::{ActivateItem, AllocateItem, Command, Refusal};
use crate::order::{MountOrder, SealItem};

/// What one step wants done.
#[derive(Debug, Default)]
pub(super) struct Batch {
    /// Proposed in front of the allocations, in one command with them.
    pub(super) commands: Vec<Command>,
    pub(super) allocate: Vec<AllocateItem>,
    pub(super) activate: Vec<ActivateItem>,
    /// Proposals that belong to one database or operation.
    pub(super) single: Vec<(Owner, Command)>,
    pub(super) seals: BTreeMap<MemberId, Vec<SealItem>>,
    pub(super) mounts: Vec<(MemberId, MountOrder)>,
    pub(super) dismounts: Vec<(MemberId, DatabaseId, Epoch)>,
    pub(super) finished: Vec<(OperationId, Result<(), Refusal>)>,
}

/// Who waits for a proposal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Owner {
    Nobody,
    Database(DatabaseId),
    Operation(OperationId),
}

impl Manager {
    /// Turns a step's wishes into actions.
    pub(super) fn flush(&mut self, now: Tick, batch: Batch, out: &mut Vec<ManagerAction>) {
        self.propose_allocations(batch.commands, batch.allocate, out);
        for items in chunks(batch.activate, self.config.batch_max) {
            let databases: Vec<_> = items.iter().map(|item| item.database).collect();
            let tag = self.propose(Command::Activate(items), out);
            self.await_outcome(&databases, tag);
        }
        for (owner, command) in batch.single {
            let tag = self.propose(command, out);
            match owner {
                Owner::Nobody => {}
                Owner::Database(database) => self.await_outcome(&[database], tag),
                Owner::Operation(id) => {
                    if let Some(operation) = self.operations.get_mut(&id) {
                        operation.proposal = Proposal::Made(tag);
                    }
                }
            }
        }
        for (member, items) in batch.seals {
            out.push(ManagerAction::SealMany { member, items });
        }
        let mounts = batch.mounts.into_iter();
        out.extend(mounts.map(|(member, order)| ManagerAction::Mount { member, order }));
        for (member, database, epoch) in batch.dismounts {
            out.push(ManagerAction::Dismount { member, database, epoch });
        }
        for (operation, result) in batch.finished {
            out.push(ManagerAction::FinishOperation { operation, result });
        }
        self.arm(now, out);
    }

    /// Certificates and the allocations that follow from them share one consensus write.
    fn propose_allocations(
        &mut self,
        mut commands: Vec<Command>,
        allocate: Vec<AllocateItem>,
        out: &mut Vec<ManagerAction>,
    ) {
        for items in chunks(allocate, self.config.batch_max) {
            let databases: Vec<_> = items.iter().map(|item| item.database).collect();
            let mut batch = std::mem::take(&mut commands);
            batch.push(Command::AllocateEpochs(items));
            let tag = self.propose(one_command(batch), out);
            self.await_outcome(&databases, tag);
        }
        if !commands.is_empty() {
            self.propose(one_command(commands), out);
        }
    }

    fn propose(&mut self, command: Command, out: &mut Vec<ManagerAction>) -> u64 {
        let tag = self.next_tag;
        self.next_tag += 1;
        self.pending.insert(tag, Vec::new());
        out.push(ManagerAction::Propose { tag, command });
        tag
    }

    fn await_outcome(&mut self, databases: &[DatabaseId], tag: u64) {
        databases.iter().for_each(|database| self.jobs.set_tag(database, tag));
        self.pending.entry(tag).or_default().extend(databases);
    }

    /// Asks for the next wake-up, if it is another one than that asked for.
    fn arm(&mut self, now: Tick, out: &mut Vec<ManagerAction>) {
        // One that waits for all ends with no time.
        let cold = self.cold().map(|cold| cold.until).filter(|until| *until > now);
        let at = self.jobs.next_wake().into_iter().chain(cold).min();
        let armed = self.armed.filter(|armed| *armed > now);
        if let Some(at) = at.filter(|at| armed != Some(*at)) {
            self.armed = Some(at);
            out.push(ManagerAction::Wake { at });
        }
    }
}

fn one_command(mut commands: Vec<Command>) -> Command {
    match (commands.len(), commands.pop()) {
        (1, Some(only)) => only,
        (_, last) => {
            commands.extend(last);
            Command::Batch(commands)
        }
    }
}

fn chunks<T>(items: Vec<T>, size: usize) -> impl Iterator<Item = Vec<T>> {
    let mut rest = items.into_iter();
    std::iter::from_fn(move || {
        let chunk: Vec<T> = rest.by_ref().take(size.max(1)).collect();
        (!chunk.is_empty()).then_some(chunk)
    })
}
