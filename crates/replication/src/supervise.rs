//! One task per copy: opens it, runs its owner, and opens it anew after a failure or a panic.
//!
//! What consensus said survives in [`Directions`], so that a new owner starts from the same news.
//! A copy that cannot be opened still has an owner, which answers with its fault.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::FutureExt;
use keelson_format::{Cursor, CursorState, FramingConfig};
use keelson_types::{CopyFault, Epoch, EpochTable, LogId, MemberId, Position};
use tokio::sync::{mpsc, oneshot};

use crate::context::{PlaneContext, Registry};
use crate::digest::Digests;
use crate::directions::Directions;
use crate::lag_file::SavedLag;
use crate::log_lane::LogWorker;
use crate::message::{Completion, Message, TargetSender};
use crate::open::{Identity, OpenCopy, failed, open_copy};
use crate::owner::{Exit, Files, Owner, Start};
use crate::scrub::ScrubReport;
use crate::shared::CopyShared;
use crate::store_lane::StoreWorker;
use crate::store_slot::READERS_END;

/// Pause after a panic of an owner.
const PANIC_PAUSE: Duration = Duration::from_secs(1);

/// Where answers to the sources go, and the epoch of what each offered last.
pub(crate) type Sources = BTreeMap<MemberId, (Epoch, TargetSender)>;

/// What a copy's task works with.
pub(crate) struct Supervised {
    pub(crate) context: Arc<PlaneContext>,
    pub(crate) registry: Arc<Registry>,
    pub(crate) shared: Arc<CopyShared>,
    pub(crate) identity: Identity,
    pub(crate) digests: Arc<Digests>,
    pub(crate) directions: Arc<Directions>,
    /// Survives an owner too.
    pub(crate) sources: Arc<Mutex<Sources>>,
}

impl Supervised {
    /// Runs until the copy is stopped or forgotten.
    pub(crate) async fn run(self, mut mailbox: mpsc::Receiver<Message>) {
        let mut failures = 0;
        loop {
            let (done, completions) = mpsc::unbounded_channel();
            let owner = self.open(done, failures).await;
            let files = owner.files();
            let run = AssertUnwindSafe(owner.run(&mut mailbox, completions)).catch_unwind();
            match run.await {
                Ok(Exit::Stopped) => return,
                Ok(Exit::Reopen) => failures += 1,
                Ok(Exit::Healed) => failures = 0,
                Err(_) => {
                    tracing::error!(database = %self.shared.name, "the copy's owner panicked");
                    failures += 1;
                    if let Some(files) = files {
                        files.close().await;
                    }
                    tokio::time::sleep(PANIC_PAUSE).await;
                }
            }
            self.shared.gate.close();
            self.shared.store.retire();
            self.context.donations.forget(self.shared.database);
            self.shared.reopened();
        }
    }

    pub(crate) async fn open(
        &self,
        done: mpsc::UnboundedSender<Completion>,
        failures: u32,
    ) -> Owner {
        let opened = self.open_files().await;
        let framing = FramingConfig {
            generation_bytes: self.identity.generation_bytes,
            ..FramingConfig::default()
        };
        let (mut first, mut saved_lag, mut damage) = (Position::ZERO, SavedLag::default(), None);
        let mut full_table = EpochTable::new();
        let (mut mark, mut log) = (None, LogId::from_u128(0));
        let (files, cursor, recovered) = match opened {
            Ok(mut open) => {
                first.generation = open.log.first_generation().unwrap_or_default();
                saved_lag = std::mem::take(&mut open.saved_lag);
                (mark, log) = (open.mark.take(), open.record.log);
                damage = open.damage;
                self.shared.scrub.opened(ScrubReport::read(&open.record));
                full_table.clone_from(&open.record.epoch_table);
                for note in std::mem::take(&mut open.found) {
                    note.tell(&self.context, &self.shared);
                }
                let cursor = Cursor::new(open.state, framing);
                let recovered = open.recovered.clone();
                self.shared.committed.store(recovered.committed);
                self.shared.durable.store(recovered.end.position);
                self.shared.replayed.store(recovered.replayed);
                (Some(self.lanes(open, &done)), cursor, recovered)
            }
            Err(fault) => {
                tracing::error!(database = %self.shared.name, %fault, "the copy cannot be opened");
                let state = CursorState::empty(self.identity.stream);
                (None, Cursor::new(state, framing), failed(fault))
            }
        };
        let mut owner = Owner::new(Start {
            shared: self.shared.clone(),
            context: self.context.clone(),
            files,
            cursor,
            recovered,
            done,
            generation_bytes: self.identity.generation_bytes,
            directions: self.directions.clone(),
            sources: self.sources.clone(),
            failures,
            first,
            saved_lag,
            damage,
            full_table,
            mark,
            log,
        });
        owner.catch_up(self.registry.sessions());
        owner
    }

    async fn open_files(&self) -> Result<OpenCopy, CopyFault> {
        let opener = self.context.opener.0.as_ref();
        if !self.shared.store.closed(opener, READERS_END).await {
            tracing::error!(database = %self.shared.name, "a reader does not let go of the store");
        }
        let (reply, opened) = oneshot::channel();
        let (context, mut identity, shared) =
            (self.context.clone(), self.identity.clone(), self.shared.clone());
        identity.resumes = self.directions.resumes().unwrap_or(identity.resumes);
        identity.others = self.directions.others().unwrap_or(identity.others);
        self.context.stores.run(move || {
            let opener = context.opener.0.as_ref();
            drop(reply.send(open_copy(&context.places, opener, &identity, &shared)));
        });
        let gone = |_| CopyFault::LogIo("opening the copy panicked; see the member's log".into());
        opened.await.map_err(gone)?
    }

    fn lanes(&self, open: OpenCopy, done: &mpsc::UnboundedSender<Completion>) -> Files {
        self.shared.log_bytes.store(open.log.kept_bytes(), Ordering::Relaxed);
        self.shared.index().refresh(&open.log, self.identity.generation_bytes);
        let mut log = LogWorker {
            shared: self.shared.clone(),
            log: open.log,
            control: open.control,
            record: open.record,
            done: done.clone(),
            broken: false,
            refusing: false,
            generation_bytes: self.identity.generation_bytes,
            places: self.context.places.clone(),
            syncs: self.context.syncs.clone(),
            meters: self.context.meters.clone(),
            opener: self.context.opener.0.clone(),
            disk: self.context.places.disk.clone(),
            directory: self.context.places.database(self.shared.database),
        };
        let store_directory = open.store_directory.clone();
        let mut store = StoreWorker {
            shared: self.shared.clone(),
            opener: self.context.opener.0.clone(),
            directory: open.store_directory,
            reader: open.reader.clone(),
            digests: self.digests.clone(),
            scans: self.context.scans.clone(),
            done: done.clone(),
            generation_bytes: self.identity.generation_bytes,
            dirty_since: None,
            waits_since: None,
            replays_again: false,
        };
        let (told, told_too) = (done.clone(), done.clone());
        // The owner has gone when the process stops or the copy is reopened.
        let log_panicked = move || {
            let fault = CopyFault::LogIo("its thread panicked; see the member's log".into());
            let _ = told.send(Completion::LogFailed(fault));
        };
        let store_panicked = move || {
            let fault = CopyFault::Store("its thread panicked; see the member's log".into());
            let _ = told_too.send(Completion::StoreFailed(fault));
        };
        Files {
            log: self.context.logs.watched_lane(
                move |jobs| log.work(jobs),
                log_panicked,
                self.shared.log_clock.clone(),
            ),
            store: self.context.stores.patient_lane(move |jobs| store.work(jobs), store_panicked),
            reader: open.reader,
            store_directory,
        }
    }
}
