//! Opening the store of a copy, and what comes of one that is damaged, or doubted.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use keelson_copy_core::range_fetch::{FetchCost, Mark, Span, Spans, StoreKey};
use keelson_copy_core::scrub::StoreRepair;
use keelson_env::{KvStore, Rescued, StoreError, StoreOpener};
use keelson_format::ControlRecord;
use keelson_log::{ControlFile, Log};
use keelson_types::{CopyFault, CopyRole, LogEnd, Position, StoreId};

use crate::mark_file;
use crate::open::Places;
use crate::rebuild::{Condemned, Doubt, condemn, new_store, remove, repair_of};
use crate::shared::CopyShared;
use crate::store_lane::fault_of;
use crate::store_slot::wait_closed;
use crate::whole_file;

/// Patience with readers of a store that is to be taken apart; the opening is tried again later.
const CLOSED_WITHIN: Duration = Duration::from_secs(20);

/// A store about to be opened.
pub(crate) struct StoreOpening<'a> {
    pub(crate) places: &'a Places,
    pub(crate) opener: &'a dyn StoreOpener,
    pub(crate) shared: &'a CopyShared,
    pub(crate) control: &'a mut ControlFile,
    pub(crate) record: &'a mut ControlRecord,
    /// Other copies of the database.
    pub(crate) others: usize,
    /// The mark beside the store, and the new one if there is a new store.
    pub(crate) mark: Result<Option<Mark>, CopyFault>,
    /// What was found damaged.
    pub(crate) found: Vec<String>,
}

type Opened = (Arc<dyn KvStore>, PathBuf);

impl StoreOpening<'_> {
    /// Opens the store, or the one that takes its place.
    pub(crate) fn open(&mut self, log: &Log) -> Result<Opened, CopyFault> {
        let (doubt, fault) = match self.doubt() {
            Some(doubt) => doubt,
            None => match self.try_open() {
                Ok(opened) => return Ok(opened),
                Err(StoreError::Damaged(why)) => (Doubt::Files, CopyFault::StoreDamaged(why)),
                Err(error) => return Err(fault_of(&error)),
            },
        };
        tracing::error!(database = %self.shared.name, %fault, "the store is damaged");
        match repair_of(log, CopyRole::Passive, self.others) {
            StoreRepair::ReplayLog => self.begin_anew()?,
            StoreRepair::Fetch => self.rescue(log, doubt)?,
            // It is all there is: what can be read of it is.
            StoreRepair::Leave if self.mark.is_ok() => return self.try_open().map_err(|_| fault),
            StoreRepair::Leave => return Err(fault),
        }
        self.found.push(fault.to_string());
        self.try_open().map_err(|error| fault_of(&error))
    }

    /// What is known to be wrong before anything is opened.
    fn doubt(&self) -> Option<(Doubt, CopyFault)> {
        if let Err(fault) = &self.mark {
            // A mark that cannot be read: any key may be wrong.
            return Some((Doubt::Content, fault.clone()));
        }
        let doubt = Doubt::read(self.record)?;
        let why = match doubt {
            Doubt::Files => "bytes of its files are wrong",
            Doubt::Content => "its content is wrong",
        };
        Some((doubt, CopyFault::StoreDamaged(why.into())))
    }

    fn directory(&self, store: StoreId) -> PathBuf {
        self.places.store(self.shared.database, store)
    }

    fn try_open(&self) -> Result<Opened, StoreError> {
        let directory = self.directory(self.record.store);
        let store = self.shared.store.open(self.opener, &directory)?;
        Ok((store, directory))
    }

    fn write_control(&mut self) -> Result<(), CopyFault> {
        let written = self.control.write(self.record);
        written.map_err(|error| CopyFault::LogIo(format!("control file: {error}")))
    }

    /// An empty store, which replays the whole log.
    fn begin_anew(&mut self) -> Result<(), CopyFault> {
        let until = self.record.committed;
        condemn(self.places, self.opener, self.shared.database, self.record, until);
        self.write_control()?;
        if self.mark.is_err() {
            // It spoke of the store that was given up.
            let removed = whole_file::remove(&*self.places.disk, &self.mark_path());
            removed.map_err(|error| mark_fault(&error))?;
            self.mark = Ok(None);
        }
        Ok(())
    }

    fn mark_path(&self) -> PathBuf {
        mark_file::path(&self.places.database(self.shared.database), self.record.copy)
    }

    /// A store of what is sound, with a mark for the rest.
    fn rescue(&mut self, log: &Log, doubt: Doubt) -> Result<(), CopyFault> {
        let database = self.shared.database;
        let (old, new) = (self.record.store, new_store());
        if !wait_closed(self.opener, &self.directory(old), CLOSED_WITHIN) {
            return Err(CopyFault::Store("the damaged store is still being read".into()));
        }
        let mut condemned = Condemned::read(self.record);
        remove(self.places, self.opener, database, &mut condemned);
        // Named before it is made: what a crash leaves of it is removed some day.
        condemned.stores.push(new);
        condemned.put(self.record);
        self.write_control()?;
        let begins = begin_of(log, self.record);
        // Where log is missing too, nobody knows how far the rest of the store had come.
        let rescued = match doubt {
            Doubt::Files if log.damage().is_none() => {
                let (from, to) = (self.directory(old), self.directory(new));
                self.opener.rescue(&from, &to, begins).map_err(|error| fault_of(&error))?
            }
            Doubt::Files | Doubt::Content => self.nothing(new, begins)?,
        };
        tracing::info!(database = %self.shared.name, ?rescued, "a store was made of what is sound");
        self.save_mark(&rescued, log)?;
        condemned.stores.pop();
        condemned.stores.push(old);
        condemned.put(self.record);
        self.record.store = new;
        Doubt::put(None, self.record);
        self.write_control()
    }

    /// An empty store that stands where the log begins.
    fn nothing(&self, store: StoreId, begins: LogEnd) -> Result<Rescued, CopyFault> {
        let made = self.opener.open(&self.directory(store)).and_then(|made| made.rewind(begins));
        made.map_err(|error| fault_of(&error))?;
        let lost_bytes = self.shared.store_bytes.load(Ordering::Relaxed);
        Ok(Rescued { lost: vec![Span::all()], lost_bytes, at: None })
    }

    fn save_mark(&mut self, rescued: &Rescued, log: &Log) -> Result<(), CopyFault> {
        let mut lost: Spans = rescued.lost.iter().cloned().collect();
        let floor = match rescued.at {
            Some(_) if lost.is_empty() => return Ok(()),
            Some(at) => at.position,
            None => log.durable_end().position,
        };
        if lost.is_empty() {
            // Only the position is lost: the store is right once it is past the end of its log.
            lost = [Span::key(StoreKey::Schema)].into_iter().collect();
        }
        let former = std::mem::replace(&mut self.mark, Ok(None)).unwrap_or_default();
        let estimate = FetchCost { keys: 0, bytes: rescued.lost_bytes };
        let mark = Mark::of_rescued(former, &lost, floor, estimate);
        let path = self.mark_path();
        let saved = whole_file::replace(&*self.places.disk, &path, &mark.encode());
        saved.map_err(|error| mark_fault(&error))?;
        self.mark = Ok(Some(mark));
        Ok(())
    }
}

fn mark_fault(error: &keelson_env::DiskError) -> CopyFault {
    CopyFault::LogIo(format!("mark of a fetch: {error}"))
}

/// Where the own log begins: the store was durable up to there, since nothing goes that lies in the
/// generation of its checkpoint. It is the place from which the log can be read, not the end of a
/// generation that is gone.
fn begin_of(log: &Log, record: &ControlRecord) -> LogEnd {
    let header = log.first_generation().and_then(|first| log.header(first));
    let Some(header) = header else { return LogEnd::ZERO };
    let epoch = record.epoch_table.epoch_at(header.previous_end);
    LogEnd { epoch, position: Position { generation: header.generation, offset: 0 } }
}
