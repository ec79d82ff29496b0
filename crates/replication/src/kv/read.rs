//! Reads: waiting for the right position, then the store, then the gate once more.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use keelson_env::{KvStore, StoreError};
use keelson_types::{ForkAddress, RefusalReason};
use keelson_wire::{CommitToken, Refusal, v1};
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::context::CopyHandle;
use crate::forks::refuse_unless_ready;
use crate::kv::{KvService, Standing, refuse_unless_still_serving, serving_soon, standing};
use crate::message::Message;
use crate::note::NoteCode;

/// Longest wait for replay; a client's shorter deadline ends the call earlier.
const WAIT_MAX: Duration = Duration::from_secs(30);

impl KvService {
    pub(super) async fn read_key(
        &self,
        request: &v1::GetRequest,
    ) -> Result<v1::GetResponse, Refusal> {
        let key = request.key.clone();
        if let Some(store) = self.fork_store(&request.database).await? {
            let value = self.on_reader(None, move || store.get(&key)).await?;
            return Ok(v1::GetResponse {
                found: value.is_some(),
                value: value.unwrap_or_default(),
            });
        }
        let copy = self.copy(&request.database)?;
        let serving = self.wait_readable(&copy, request.options.as_ref()).await?;
        let store = open_store(&copy).await?;
        let value = self.on_reader(Some(&copy), move || store.get(&key)).await?;
        if let Some(epoch) = serving {
            // The value was read while this copy may have been active; it may leave only if it
            // still is, in the same epoch: in between, another active may have written.
            refuse_unless_still_serving(&copy, epoch)?;
        }
        refuse_if_marked(&copy)?;
        Ok(v1::GetResponse { found: value.is_some(), value: value.unwrap_or_default() })
    }

    /// The store of a fork, if the name is one's. What it holds does not change, so nothing is
    /// waited for and any consistency is met.
    pub(super) async fn fork_store(&self, name: &str) -> Result<Option<Arc<dyn KvStore>>, Refusal> {
        let Ok(address) = name.parse::<ForkAddress>() else { return Ok(None) };
        let here = self.context.member(self.context.member);
        if here.is_some_and(|here| here.name != address.member) {
            let message = format!("{address} is not on this member");
            return Err(Refusal::new(RefusalReason::UnknownFork, message));
        }
        let fork = self.context.forks.find(&address)?;
        refuse_unless_ready(&fork)?;
        let context = self.context.clone();
        let open = move || context.forks.store(&*context.opener.0, &fork);
        self.on_reader(None, open).await.map(Some)
    }

    /// Waits until the copy may answer; says in which epoch it must serve to do so, if it must.
    pub(super) async fn wait_readable(
        &self,
        copy: &CopyHandle,
        options: Option<&v1::ReadOptions>,
    ) -> Result<Option<u64>, Refusal> {
        let consistency = options.map_or(v1::ReadConsistency::Unspecified, |o| o.consistency());
        match consistency {
            v1::ReadConsistency::Any => refuse_if_marked(copy).map(|()| None),
            v1::ReadConsistency::AtLeastToken => {
                refuse_if_marked(copy)?;
                let token = options.map(|options| options.at_least_token.clone());
                self.wait_for_token(copy, &token.unwrap_or_default()).await?;
                Ok(None)
            }
            v1::ReadConsistency::Unspecified | v1::ReadConsistency::Active => {
                serving_soon(copy).await?;
                let epoch = copy.shared.gate.serving_epoch();
                // Before the mark: a former active that is set right names the present one.
                refuse_unless_still_serving(copy, epoch)?;
                refuse_if_marked(copy)?;
                let committed = copy.shared.committed.load();
                let reached = copy.shared.wait_until(|shared| {
                    shared.replayed.load() >= committed || shared.gate.serving_epoch() != epoch
                });
                within(reached).await?;
                Ok(Some(epoch))
            }
        }
    }

    async fn wait_for_token(&self, copy: &CopyHandle, token: &[u8]) -> Result<(), Refusal> {
        let bad = |_| Refusal::new(RefusalReason::BadArgument, "the token is not readable");
        let token = CommitToken::decode(token).map_err(bad)?;
        let arrived = async {
            // Positions of a timeline that was discarded may be ahead of all that is left, so the
            // position alone says nothing.
            loop {
                let before = copy.shared.replayed.load();
                let here = is_here(copy, &token).await?;
                let replayed = copy.shared.replayed.load();
                // Asked again: the copy may have left its timeline for another one in between.
                if here && replayed >= token.end.position && is_here(copy, &token).await? {
                    return refuse_if_marked(copy);
                }
                copy.shared.wait_until(|shared| shared.replayed.load() != before).await;
            }
        };
        timeout(WAIT_MAX, arrived).await.unwrap_or_else(|_| Err(late()))
    }

    /// Runs blocking work of a store on a reader thread. Damage is told to the copy, if the store
    /// is one of a copy and no fork.
    pub(crate) async fn on_reader<T: Send + 'static>(
        &self,
        copy: Option<&CopyHandle>,
        work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, Refusal> {
        let (reply, result) = oneshot::channel();
        self.context.readers.run(move || drop(reply.send(work())));
        let gone = |_| Refusal::new(RefusalReason::Internal, "a reader thread ended");
        let result = result.await.map_err(gone)?;
        if let (Err(StoreError::Damaged(why)), Some(copy)) = (&result, copy) {
            // An owner that ended finds the damage when it opens the store, or the scrub does.
            let told = Message::StoreDamaged(why.clone(), NoteCode::StoreDamaged);
            let _ = copy.mailbox.send(told).await;
        }
        result.map_err(|error| Refusal::new(RefusalReason::CopyFailed, error.to_string()))
    }
}

/// Whether the log of this copy knows the token's timeline; a write that was given up is refused.
pub(crate) async fn is_here(copy: &CopyHandle, token: &CommitToken) -> Result<bool, Refusal> {
    let (reply, log) = oneshot::channel();
    let gone = || Refusal::new(RefusalReason::Activating, "the copy is being reopened");
    copy.mailbox.send(Message::LogView(reply)).await.map_err(|_| gone())?;
    let log = log.await.map_err(|_| gone())??;
    let standing = standing(&log.table, token, copy);
    if standing == Standing::Discarded {
        let message = "the token's write is not part of this database any more";
        return Err(Refusal::new(RefusalReason::Discarded, message));
    }
    Ok(standing == Standing::Here)
}

/// Keys of a marked store are in doubt; an active copy has no mark.
pub(crate) fn refuse_if_marked(copy: &CopyHandle) -> Result<(), Refusal> {
    if !copy.shared.marked.load(Ordering::SeqCst) {
        return Ok(());
    }
    let message = format!("keys of {} are being fetched from another copy", copy.shared.name);
    Err(Refusal::new(RefusalReason::CopyFailed, message).with_address(copy.shared.active_address()))
}

pub(super) async fn within(wait: impl Future<Output = ()>) -> Result<(), Refusal> {
    timeout(WAIT_MAX, wait).await.map_err(|_| late())
}

fn late() -> Refusal {
    Refusal::new(RefusalReason::DeadlineExceeded, "the store has not replayed far enough yet")
}

/// The copy's store, opened if it is closed.
pub(crate) async fn open_store(copy: &CopyHandle) -> Result<Arc<dyn KvStore>, Refusal> {
    if let Some(store) = copy.shared.store.get() {
        return Ok(store);
    }
    let (reply, opened) = oneshot::channel();
    let gone = || Refusal::new(RefusalReason::Activating, "the copy is being reopened");
    copy.mailbox.send(Message::OpenStore(reply)).await.map_err(|_| gone())?;
    opened.await.map_err(|_| gone())?
}
