//! Makes a store of what is sound of a damaged one (review S15).
//!
//! RocksDB can neither drop a damaged table nor go on with it. But the list of tables is a log of
//! edits, so a copy of it with one more edit leaves tables out: the new store is made of hard links
//! to the sound tables and such a list. What a table that was left out hid comes to light, and what
//! it held is missing, in its range of keys and nowhere else. As much of that range as the old
//! store can still read, from both of its ends up to what is damaged, is then copied. The rest is
//! lost, and named: whoever calls fetches it before anybody reads it.
//!
//! Tables are judged one by one, each in a list with itself alone. A table with damage outside of
//! its data (index, filter, range tombstones) is not read at all.
//!
//! A crash leaves a directory that nobody names; the next attempt removes it. The old store is
//! never written to.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use keelson_env::{
    POSITION_KEY, Rescued, SESSION_PREFIX, StoreError, log_end_from_bytes, log_end_to_bytes,
};
use keelson_types::{LogEnd, Position, Span};
use rocksdb::{DB, DBRawIterator, FlushOptions, ReadOptions, WriteBatch, WriteOptions};

use crate::StoreFactory;
use crate::error::{from_io, from_rocks};
use crate::factory::create_directory;
use crate::keys;
use crate::manifest;
use crate::open_stores::OpenDb;
use crate::table_file;
use crate::verify::{self, Taken};

/// Written at a time.
const BATCH_BYTES: usize = 1024 * 1024;

/// Stored keys from the first to before the second.
type Range = (Vec<u8>, Vec<u8>);

/// A table that the manifest names.
struct Table {
    name: String,
    place: (u32, u64),
    bytes: u64,
    /// Where its keys lie; the end is behind the last.
    keys: Range,
}

/// See [`keelson_env::StoreOpener::rescue`].
pub(crate) fn rescue(
    factory: &StoreFactory,
    from: &Path,
    to: &Path,
    at: LogEnd,
) -> Result<Rescued, StoreError> {
    let place = verify::place_of(from, "rescue");
    let taken = Taken { directory: from.to_owned(), place };
    match Source::take(&taken) {
        Ok(source) => {
            let rescued = source.rescue(factory, to, at)?;
            let is_old = |found: LogEnd| found.position < at.position;
            if rescued.at.is_some_and(is_old) {
                // Tables are missing from a list that looks whole.
                return nothing(factory, to, at, table_bytes(from));
            }
            Ok(rescued)
        }
        Err(StoreError::Damaged(why)) => {
            tracing::warn!(store = %from.display(), why, "nothing can be read");
            nothing(factory, to, at, table_bytes(from))
        }
        Err(error) => Err(error),
    }
}

/// An empty store that claims a position: everything is lost.
fn nothing(
    factory: &StoreFactory,
    to: &Path,
    at: LogEnd,
    lost_bytes: u64,
) -> Result<Rescued, StoreError> {
    clear(to)?;
    let mut writer = Writer::open(factory, to)?;
    writer.stamp(Some(at))?;
    writer.finish()?;
    Ok(Rescued { lost: vec![Span::all()], lost_bytes, at: None })
}

/// Bytes of the tables in a directory, about.
fn table_bytes(directory: &Path) -> u64 {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let tables = entries.filter(|entry| entry.path().extension().is_some_and(|e| e == "sst"));
    tables.filter_map(|entry| entry.metadata().ok()).map(|metadata| metadata.len()).sum()
}

fn clear(to: &Path) -> Result<(), StoreError> {
    verify::remove(to).map_err(|error| from_io("removing an earlier attempt", &error))
}

/// The damaged store.
struct Source<'a> {
    taken: &'a Taken,
    /// Name and bytes of its list.
    manifest: (String, Vec<u8>),
    tables: Vec<Table>,
}

impl<'a> Source<'a> {
    fn take(taken: &'a Taken) -> Result<Self, StoreError> {
        let (name, bytes) = verify::read_manifest(&taken.directory)?;
        let sound = manifest::without(&bytes, &[]);
        let bytes = sound.ok_or_else(|| StoreError::Damaged(format!("{name} is damaged")))?;
        taken.link(&name, &bytes, true)?;
        let mut source = Self { taken, manifest: (name, bytes), tables: Vec::new() };
        let live = source.open(false)?.live_files().map_err(|error| from_rocks(&error))?;
        for file in live {
            source.tables.push(table(file)?);
        }
        Ok(source)
    }

    fn open(&self, paranoid: bool) -> Result<DB, StoreError> {
        let db = DB::open_for_read_only(&verify::options(paranoid), &self.taken.place, false);
        db.map_err(|error| from_rocks(&error))
    }

    /// The list without the tables that are not to stay.
    fn list(&self, stays: impl Fn(&Table) -> bool) -> Result<Vec<u8>, StoreError> {
        let gone = self.tables.iter().filter(|table| !stays(table));
        let gone: Vec<_> = gone.map(|table| table.place).collect();
        let list = manifest::without(&self.manifest.1, &gone);
        list.ok_or_else(|| StoreError::Failed("a list that was sound is damaged".to_owned()))
    }

    /// Whether each block of a table can be read.
    fn is_sound(&self, table: &Table) -> Result<bool, StoreError> {
        match table_file::check(&self.taken.place.join(&table.name)) {
            Ok(true) => {}
            Ok(false) => return Ok(false),
            Err(error) => {
                tracing::warn!(%error, table = table.name, "a table cannot be read");
                return Ok(false);
            }
        }
        self.taken.name(&self.manifest.0, &self.list(|other| other.name == table.name)?)?;
        let read = self.open(true).and_then(|db| verify::read_all(&db, &mut |_| {}));
        match read {
            Ok(()) => Ok(true),
            Err(StoreError::Damaged(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn rescue(&self, factory: &StoreFactory, to: &Path, at: LogEnd) -> Result<Rescued, StoreError> {
        let mut damaged = Vec::new();
        for table in &self.tables {
            if !self.is_sound(table)? {
                damaged.push(table);
            }
        }
        self.taken.name(&self.manifest.0, &self.manifest.1)?;
        self.link(to, &damaged)?;
        let old = self.open(false)?;
        let mut writer = Writer::open(factory, to)?;
        let mut lost: Vec<Range> = Vec::new();
        for range in merged(damaged.iter().map(|table| table.keys.clone()).collect()) {
            lost.extend(writer.copy(&old, range)?);
        }
        let found = writer.position()?;
        let names_it = !covers(&lost, &POSITION_KEY) && found.is_some();
        if !lost.is_empty() || !names_it {
            writer.stamp(if names_it { None } else { Some(at) })?;
            writer.index_sessions()?;
        }
        writer.finish()?;
        Ok(Rescued {
            lost: lost.iter().filter_map(span).collect(),
            lost_bytes: damaged.iter().map(|table| table.bytes).sum(),
            at: found.filter(|_| names_it),
        })
    }

    /// Makes the new directory.
    fn link(&self, to: &Path, damaged: &[&Table]) -> Result<(), StoreError> {
        clear(to)?;
        create_directory(to)?;
        let is_damaged = |table: &Table| damaged.iter().any(|other| other.name == table.name);
        let list = self.list(|table| !is_damaged(table))?;
        let failed = |error: io::Error| from_io("making a store of sound tables", &error);
        for table in self.tables.iter().filter(|table| !is_damaged(table)) {
            fs::hard_link(self.taken.directory.join(&table.name), to.join(&table.name))
                .map_err(failed)?;
        }
        let write = |name: &str, bytes: &[u8]| {
            let path = to.join(name);
            fs::write(&path, bytes).and_then(|()| File::open(path)?.sync_all()).map_err(failed)
        };
        write(&self.manifest.0, &list)?;
        write("CURRENT", format!("{}\n", self.manifest.0).as_bytes())?;
        File::open(to).and_then(|directory| directory.sync_all()).map_err(failed)
    }
}

fn table(file: rocksdb::LiveFile) -> Result<Table, StoreError> {
    let name = file.name.trim_start_matches('/').to_owned();
    let number = name.strip_suffix(".sst").and_then(|number| number.parse().ok());
    let level = u32::try_from(file.level).ok();
    let place = level.zip(number);
    let keys = file.start_key.zip(file.end_key);
    let (Some(place), Some((start, end))) = (place, keys) else {
        return Err(StoreError::Damaged(format!("the list names {name} without its keys")));
    };
    Ok(Table { name, place, bytes: file.size as u64, keys: (start, behind(end)) })
}

/// The least key behind this one.
fn behind(mut key: Vec<u8>) -> Vec<u8> {
    key.push(0);
    key
}

/// Ranges that do not overlap.
fn merged(mut ranges: Vec<Range>) -> Vec<Range> {
    ranges.sort();
    let mut merged: Vec<Range> = Vec::new();
    for (from, to) in ranges {
        match merged.last_mut() {
            Some((_, end)) if from <= *end => *end = to.max(std::mem::take(end)),
            _ => merged.push((from, to)),
        }
    }
    merged
}

fn covers(ranges: &[Range], key: &[u8]) -> bool {
    ranges.iter().any(|(from, to)| from[..] <= *key && key < &to[..])
}

/// The content that a range of stored keys may hold.
fn span((from, to): &Range) -> Option<Span> {
    Span::new(keys::at_or_behind(from)?, keys::at_or_behind(to))
}

/// The new store being filled; nobody names it yet.
struct Writer {
    db: OpenDb,
    options: WriteOptions,
    batch: WriteBatch,
}

impl Writer {
    fn open(factory: &StoreFactory, to: &Path) -> Result<Self, StoreError> {
        let mut options = WriteOptions::default();
        options.disable_wal(true);
        Ok(Self { db: factory.open_db(to)?, options, batch: WriteBatch::default() })
    }

    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), StoreError> {
        self.batch.put(key, value);
        if self.batch.size_in_bytes() < BATCH_BYTES { Ok(()) } else { self.write() }
    }

    fn write(&mut self) -> Result<(), StoreError> {
        let batch = std::mem::take(&mut self.batch);
        self.apply(batch)
    }

    /// Makes a range equal to what the old store can read of it; the rest is answered. Only what
    /// differs is written, for the range of a young table is that of the whole store.
    fn copy(&self, old: &DB, (from, to): Range) -> Result<Option<Range>, StoreError> {
        let mut lost = (from.clone(), to.clone());
        let mut edits = Edits { batch: WriteBatch::default(), backwards: false };
        let (mut olds, mut news) = (within(old, &from, &to), within(&self.db, &from, &to));
        olds.seek_to_first();
        news.seek_to_first();
        let took = |key: &[u8]| lost.0 = behind(key.to_vec());
        let whole = edits.gather(&mut olds, &mut news, took, |batch| self.apply(batch))?;
        if whole {
            return Ok(None);
        }
        edits.backwards = true;
        let (mut olds, mut news) = (within(old, &from, &to), within(&self.db, &from, &to));
        olds.seek_to_last();
        news.seek_to_last();
        let took = |key: &[u8]| lost.1 = key.to_vec();
        edits.gather(&mut olds, &mut news, took, |batch| self.apply(batch))?;
        Ok((lost.0 < lost.1).then_some(lost))
    }

    fn apply(&self, batch: WriteBatch) -> Result<(), StoreError> {
        self.db.write_opt(batch, &self.options).map_err(|error| from_rocks(&error))
    }

    /// Writes the version, which may be lost, and a position.
    fn stamp(&mut self, at: Option<LogEnd>) -> Result<(), StoreError> {
        if let Some(at) = at {
            self.put(&POSITION_KEY, &log_end_to_bytes(at))?;
        }
        self.put(&keys::VERSION_KEY, &keys::FORMAT_VERSION.to_le_bytes())?;
        self.write()
    }

    /// What the files say; `None` if they do not. A store without any is at the beginning.
    fn position(&mut self) -> Result<Option<LogEnd>, StoreError> {
        self.write()?;
        let found = self.db.get_pinned(POSITION_KEY).map_err(|error| from_rocks(&error))?;
        match found {
            Some(bytes) => Ok(log_end_from_bytes(&bytes)),
            None => Ok(Some(LogEnd { position: Position::ZERO, ..LogEnd::ZERO })),
        }
    }

    /// Makes the index of sessions anew from the sessions that there are.
    fn index_sessions(&mut self) -> Result<(), StoreError> {
        self.write()?;
        let mut found = Vec::new();
        let mut options = ReadOptions::default();
        options.set_iterate_upper_bound(keys::SESSION_END);
        let mut iterator = self.db.raw_iterator_opt(options);
        iterator.seek(SESSION_PREFIX);
        while let Some((key, value)) = iterator.item() {
            let (id, state) = keys::parse_session(key, value)?;
            found.push(keys::idle_key(keys::bucket(state.last_used), id));
            iterator.next();
        }
        iterator.status().map_err(|error| from_rocks(&error))?;
        drop(iterator);
        self.batch.delete_range(keys::IDLE_PREFIX, keys::IDLE_END);
        for key in found {
            self.put(&key, &[])?;
        }
        self.write()
    }

    fn finish(mut self) -> Result<(), StoreError> {
        self.write()?;
        let mut options = FlushOptions::default();
        options.set_wait(true);
        self.db.flush_opt(&options).map_err(|error| from_rocks(&error))
    }
}

/// A range of a database, past its caches.
fn within<'a>(db: &'a DB, from: &[u8], to: &[u8]) -> DBRawIterator<'a> {
    let mut options = ReadOptions::default();
    options.fill_cache(false);
    options.set_verify_checksums(true);
    options.set_iterate_lower_bound(from);
    options.set_iterate_upper_bound(to);
    db.raw_iterator_opt(options)
}

/// What turns the new store's part of a range into the old one's.
struct Edits {
    batch: WriteBatch,
    backwards: bool,
}

impl Edits {
    /// Whether the first key comes before the second on the way.
    fn is_before(&self, key: &[u8], other: &[u8]) -> bool {
        if self.backwards { key > other } else { key < other }
    }

    fn go_on(&self, iterator: &mut DBRawIterator<'_>) {
        if self.backwards { iterator.prev() } else { iterator.next() }
    }

    /// Goes through both from one end, until the old one ends (true) or meets damage.
    fn gather(
        &mut self,
        olds: &mut DBRawIterator<'_>,
        news: &mut DBRawIterator<'_>,
        mut took: impl FnMut(&[u8]),
        apply: impl Fn(WriteBatch) -> Result<(), StoreError>,
    ) -> Result<bool, StoreError> {
        while let Some((key, value)) = olds.item() {
            while news.key().is_some_and(|new| self.is_before(new, key)) {
                self.batch.delete(news.key().unwrap_or_default());
                self.go_on(news);
            }
            match news.item() {
                Some((new, same)) if new == key && same == value => self.go_on(news),
                found => {
                    let is_there = found.is_some_and(|(new, _)| new == key);
                    self.batch.put(key, value);
                    if is_there {
                        self.go_on(news);
                    }
                }
            }
            took(key);
            self.go_on(olds);
            if self.batch.size_in_bytes() >= BATCH_BYTES {
                apply(std::mem::take(&mut self.batch))?;
            }
        }
        let whole = is_over(olds)?;
        while whole && let Some(key) = news.key() {
            self.batch.delete(key);
            self.go_on(news);
        }
        news.status().map_err(|error| from_rocks(&error))?;
        apply(std::mem::take(&mut self.batch))?;
        Ok(whole)
    }
}

/// Whether an iterator that stopped is at its end; else it met damage.
fn is_over(iterator: &DBRawIterator<'_>) -> Result<bool, StoreError> {
    match iterator.status().map_err(|error| from_rocks(&error)) {
        Ok(()) => Ok(true),
        Err(StoreError::NoSpace) => Err(StoreError::NoSpace),
        // A table that is missing is no corruption for RocksDB.
        Err(error) => {
            tracing::info!(%error, "a part of a damaged store cannot be read");
            Ok(false)
        }
    }
}

#[cfg(test)]
mod tests;
