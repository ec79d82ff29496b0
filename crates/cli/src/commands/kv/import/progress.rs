//! How far an import has come: one record per lane, below the tools' own prefix.
//!
//! The keys begin with the path of the source and go on with its state. So a new import of a path
//! finds what imports of its former states have left, and removes it.

use bytes::Bytes;
use keelson_client::{Database, ScanOptions, Session, WriteBatch};

use super::lanes::LANES;
use super::source::Source;
use crate::commands::kv::reserved;
use crate::failure::Outcome;

/// The first batch number that each lane has not written.
pub(super) type Progress = [u64; LANES];

/// The progress records of one source.
#[derive(Clone)]
pub(super) struct Records {
    path: Vec<u8>,
    state: Vec<u8>,
}

impl Records {
    pub(super) fn of(source: &Source) -> Self {
        let path = format!("import/{:016x}/", source.path_identity());
        let path = [reserved::PREFIX, path.as_bytes()].concat();
        let state = format!("{:016x}/", source.identity());
        Self { state: [&path, state.as_bytes()].concat(), path }
    }

    /// The key of a lane.
    pub(super) fn key(&self, lane: usize) -> Bytes {
        [&self.state, lane.to_string().as_bytes()].concat().into()
    }

    /// Where to go on, `None` if no import of this path is under way. Records of former states of
    /// the path are removed, with `restart` all of them: durably, before this returns, so that none
    /// of them can be taken for the progress of a run that starts now and is killed.
    pub(super) async fn begin(
        &self,
        database: &Database,
        session: &Session,
        restart: bool,
    ) -> Outcome<Option<Progress>> {
        let found = database.scan(ScanOptions::prefix(self.path.clone())).await?.collect().await?;
        let (progress, stale) =
            self.sort(found.iter().map(|item| (&item.key, &item.value)), restart);
        if !stale.is_empty() {
            session.write(stale.into_iter().fold(WriteBatch::new(), WriteBatch::delete)).await?;
        }
        // Progress of another file that lay at this path says nothing of what this one would write
        // over; a restart is asked for by whoever began.
        let begun = found.iter().any(|item| restart || item.key.starts_with(&self.state));
        Ok(begun.then_some(progress))
    }

    /// Tells the records that count from those that go.
    fn sort<'a>(
        &self,
        found: impl Iterator<Item = (&'a Bytes, &'a Bytes)>,
        restart: bool,
    ) -> (Progress, Vec<Bytes>) {
        let mut progress = Progress::default();
        let mut stale = Vec::new();
        for (key, value) in found {
            let lane = (0..LANES).find(|lane| self.key(*lane) == *key);
            match lane {
                Some(lane) if !restart => {
                    let number = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
                    progress[lane] = number.unwrap_or(0);
                }
                _ => stale.push(key.clone()),
            }
        }
        (progress, stale)
    }

    /// Removes the records of an import that has ended.
    pub(super) async fn clear(&self, session: &Session) -> Outcome {
        let keys = (0..LANES).map(|lane| self.key(lane));
        session.write(keys.fold(WriteBatch::new(), WriteBatch::delete)).await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_of_former_states_go_and_those_of_this_one_count() {
        let records = |state: &str| Records { path: b"p/".into(), state: state.into() };
        let (now, before) = (records("p/2/"), records("p/1/"));
        let stored = [
            (before.key(0), Bytes::from("9")),
            (now.key(1), Bytes::from("5")),
            (now.key(3), Bytes::from("?")),
        ];
        let sorted = |restart| now.sort(stored.iter().map(|(key, value)| (key, value)), restart);
        assert_eq!(sorted(false), ([0, 5, 0, 0, 0, 0, 0, 0], vec![before.key(0)]));
        let (progress, stale) = sorted(true);
        assert_eq!((progress, stale.len()), (Progress::default(), 3), "a restart forgets all");
    }
}
