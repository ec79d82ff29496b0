//! What goes: staging, what was made for a seed that was given up, and the files of the copy whose
//! place was taken. Nothing else is removed: each file is staged, or named by a record.

use std::path::Path;

use keelson_copy_core::seed::{Cleanup, SeedRecord, after_seed};
use keelson_env::StoreOpener;
use keelson_format::{ControlRecord, SeedPlace};
use keelson_log::{ControlFile, list_salvage};
use keelson_types::{CopyId, OperationId, Position};

use super::{PLACES, PlaceError, Placed, SeedFiles, remove_all};
use crate::catalog;
use crate::rebuild::Condemned;
use crate::{mark_file, whole_file};

impl SeedFiles {
    /// Removes staging, and what was made for the new copy of a seed that was given up. `assigned`
    /// is the copy in use, whose files are never touched.
    pub(crate) fn clear(
        &self,
        record: Option<&SeedRecord>,
        assigned: Option<CopyId>,
        opener: &dyn StoreOpener,
    ) -> Placed<()> {
        self.remove_staging()?;
        let made = record.filter(|record| record.makes_copy() && assigned != Some(record.new));
        let Some(record) = made else { return Ok(()) };
        if self.in_use()? == Some(record.new) {
            // Whoever asks has not heard yet that it is the copy.
            return Ok(());
        }
        let control = self.control_aside(record.new);
        if self.disk().exists(&control)? {
            // First: without it the files mean nothing.
            self.disk().remove(&control)?;
            self.disk().sync_dir(&self.home(SeedPlace::Store))?;
        }
        let store = self.installed(SeedPlace::Store, record.new);
        opener
            .destroy(&store)
            .map_err(|error| PlaceError { full: false, text: error.to_string() })?;
        PLACES.into_iter().try_for_each(|place| remove_all(&self.installed(place, record.new)))
    }

    fn remove_staging(&self) -> Placed<()> {
        for place in PLACES {
            let staging = self.staging_root(place);
            if self.disk().exists(&staging)? {
                remove_all(&staging)?;
                self.disk().sync_dir(&self.home(place))?;
            }
        }
        Ok(())
    }

    /// Does what is left to do of a seed that no order names any more; says whether it is done, or
    /// has to wait for the copy to be opened.
    pub(crate) fn clean_up(
        &self,
        assigned: Option<CopyId>,
        wanted: Option<OperationId>,
        opener: &dyn StoreOpener,
    ) -> Placed<bool> {
        let Some(record) = self.record()? else {
            self.remove_staging()?;
            whole_file::remove(self.disk(), &self.record_path())?;
            return Ok(true);
        };
        let fate =
            assigned.map_or(Cleanup::GivenUp, |assigned| after_seed(&record, assigned, wanted));
        match fate {
            Cleanup::Wait => return Ok(true),
            Cleanup::GivenUp => self.clear(Some(&record), assigned, opener)?,
            Cleanup::Succeeded { remove_old } => {
                self.remove_staging()?;
                match self.written(record.old)? {
                    Some(old) if remove_old || self.is_empty(&old)? => {
                        self.remove_copy(&old, opener)?
                    }
                    Some(_) => {}
                    // The control file in use is the old copy's until the new one is opened.
                    None if self.in_use()? != Some(record.new) => return Ok(false),
                    None => {}
                }
            }
        }
        whole_file::remove(self.disk(), &self.record_path())?;
        Ok(true)
    }

    /// The copy whose control file is in use.
    pub(super) fn in_use(&self) -> Placed<Option<CopyId>> {
        Ok(self.control_in_use()?.map(|record| record.copy))
    }

    fn control_in_use(&self) -> Placed<Option<ControlRecord>> {
        let path = self.home(SeedPlace::Store).join("control");
        if !self.disk().exists(&path)? {
            return Ok(None);
        }
        Ok(ControlFile::open(self.disk(), &path)?.1)
    }

    /// A copy that never had any log has nothing to lose.
    fn is_empty(&self, old: &ControlRecord) -> Placed<bool> {
        let log = self.places.log(self.database, old.log);
        let there = self.disk().exists(&log)?;
        let files = if there { self.disk().list(&log)? } else { Vec::new() };
        let logs = files.iter().any(|file| file.name.ends_with(".klog"));
        Ok(!logs && old.epoch_table.rows().is_empty() && old.durable_floor == Position::ZERO)
    }

    /// Removes what the copy's own record names, and its control file last.
    fn remove_copy(&self, old: &ControlRecord, opener: &dyn StoreOpener) -> Placed<()> {
        let failed = |text: String| PlaceError { full: false, text };
        let stores = Condemned::read(old).stores.into_iter().chain([old.store]);
        for store in stores {
            let directory = self.places.store(self.database, store);
            if opener.in_use(&directory) {
                return Err(failed("the old store is being closed".into()));
            }
            opener.destroy(&directory).map_err(|error| failed(error.to_string()))?;
            remove_all(&catalog::directory_of(&directory))?;
        }
        let log = self.places.log(self.database, old.log);
        self.hand_salvage_on(&log)?;
        remove_all(&log)?;
        let home = self.home(SeedPlace::Store);
        let mark = mark_file::path(&home, old.copy);
        for file in [mark, self.control_aside(old.copy)] {
            if self.disk().exists(&file)? {
                self.disk().remove(&file)?;
            }
        }
        self.disk().sync_dir(&home)?;
        tracing::info!(copy = %old.copy, "the files of the copy that was seeded anew are removed");
        Ok(())
    }

    /// What was cut from the log of a copy that goes is handed to the copy in use, which lists and
    /// exports it: only an operator deletes it (G4). A crash in between moves the rest later.
    fn hand_salvage_on(&self, from: &Path) -> Placed<()> {
        if !self.disk().exists(from)? {
            return Ok(());
        }
        let kept = list_salvage(self.disk(), from)
            .map_err(|error| PlaceError { full: false, text: error.to_string() })?;
        if kept.is_empty() {
            return Ok(());
        }
        let heir = self.control_in_use()?.map(|record| self.places.log(self.database, record.log));
        let nobody = || PlaceError { full: false, text: "no copy could keep the salvage".into() };
        let heir = heir.ok_or_else(nobody)?;
        for salvage in kept {
            let there = heir.join(&salvage.name);
            if self.disk().exists(&there)? {
                let text = format!("salvage {} is there twice; the old log stays", salvage.name);
                return Err(PlaceError { full: false, text });
            }
            self.disk().rename(&from.join(&salvage.name), &there)?;
        }
        self.disk().sync_dir(&heir)?;
        Ok(())
    }
}
