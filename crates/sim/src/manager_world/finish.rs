//! A run from its beginning to its end, and what must be so at the end.

use keelson_cluster_core::{Database, OperationKind};
use keelson_types::{DatabaseState, MountIntent};

use super::{ManagerCounts, ManagerWorld, member_index};
use crate::checkers::Violation;
use crate::params::SEC;

/// After the last fault everything must be well within this.
const HEALS_WITHIN: u64 = 90 * SEC;
/// How long it must stay so.
const STAYS_FOR: u64 = 2 * SEC;

/// What came of a seed.
#[derive(Clone, Debug)]
pub struct ManagerReport {
    /// The first property that did not hold.
    pub violation: Option<Violation>,
    /// What happened how often.
    pub counts: ManagerCounts,
    /// Of the trace; equal for equal seeds.
    pub hash: u64,
}

impl ManagerWorld {
    /// Faults, then healing, then rest.
    #[must_use]
    pub fn run(mut self) -> ManagerReport {
        let faulty = self.params.faulty_seconds * SEC;
        while self.violation.is_none() && self.now < faulty && self.advance() {}
        self.healing = true;
        self.note(format_args!("the faults are over"));
        self.mend();
        let deadline = self.now + HEALS_WITHIN;
        let (mut next, mut well_since) = (self.now, None);
        while self.violation.is_none() && self.now < deadline && self.advance() {
            if self.now < next {
                continue;
            }
            next = self.now + SEC / 4;
            match self.what_is_missing() {
                Some(_) => well_since = None,
                None => {
                    let since = *well_since.get_or_insert(self.now);
                    if self.now - since >= STAYS_FOR {
                        return self.ended();
                    }
                }
            }
        }
        if self.violation.is_none() {
            let what = self.what_is_missing().unwrap_or_else(|| "it does not stay well".into());
            self.check(Err(Violation::new("every state has an exit", what)));
        }
        self.ended()
    }

    fn ended(self) -> ManagerReport {
        ManagerReport { violation: self.violation, counts: self.counts, hash: self.trace.hash() }
    }

    /// The first thing that is not as it must be in the end.
    fn what_is_missing(&self) -> Option<String> {
        self.ready_leader()
            .map_or_else(|| Some("nobody leads".to_owned()), |_| None)
            .or_else(|| {
                let databases = self.reference.databases.values();
                databases.filter_map(|database| self.misses(database)).next()
            })
            .or_else(|| {
                let mut operations = self.reference.operations.values();
                let open = operations.find(|operation| {
                    !operation.is_finished()
                        && !matches!(operation.kind, OperationKind::ScheduledMove(_))
                });
                open.map(|operation| {
                    format!("operation {} never ends: {:?}", operation.id, operation.kind)
                })
            })
    }

    fn misses(&self, database: &Database) -> Option<String> {
        let (id, epoch) = (database.id, database.epoch);
        if database.intent != MountIntent::Mounted {
            return Some(format!("{id} is not wanted open"));
        }
        let served = database.state == DatabaseState::Established
            && self.truth.serving(id).map(|(epoch, copy)| (epoch, Some(copy)))
                == Some((epoch, database.target));
        if !served {
            let last = self.reference.decisions.iter().rev();
            let last = last.into_iter().find(|entry| entry.record.database == id);
            let last = last.map(|entry| (&entry.record.verdict, &entry.record.candidates));
            return Some(format!("{id} is {:?} in {epoch}, not served; {last:?}", database.state));
        }
        let rule = database.rule.as_ref()?;
        for (copy, config) in &database.copies {
            let member = member_index(config.member);
            let file = self.machines[member].copies.get(&id);
            let blocked = !config.suspension.is_none() || config.seeding.is_some();
            if !config.suspension.is_none() {
                return Some(format!("{copy} of {id} on m{member}: {:?}", config.suspension));
            }
            if blocked || !rule.has(*copy) || file.is_none_or(|file| file.failure.is_some()) {
                let has = rule.has(*copy);
                let fault = file.and_then(|file| file.failure);
                return Some(format!("{copy} of {id} on m{member}: in the rule {has}, {fault:?}"));
            }
        }
        None
    }
}
