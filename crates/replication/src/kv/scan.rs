//! Scans: one snapshot, read piece by piece as the client takes it.

use std::sync::{Arc, Mutex};

use bytes::{BufMut, Bytes, BytesMut};
use keelson_env::{KvSnapshot, ScanItem, StoreError};
use keelson_types::RefusalReason;
use keelson_wire::{Refusal, v1};
use tokio::sync::mpsc;
use tonic::Status;

use crate::ahead::{Piece, Pieces, Room, Share, hand};
use crate::context::CopyHandle;
use crate::kv::read::open_store;
use crate::kv::{Answers, KvService, refuse_unless_still_serving};
use crate::shared::Life;

/// Items and bytes of one message.
const ITEMS: usize = 1_000;
const BYTES: usize = 1024 * 1024;
/// Messages read ahead of the client.
const AHEAD: usize = 2;

type Snapshot = Arc<Mutex<Box<dyn KvSnapshot>>>;

impl KvService {
    pub(super) async fn scan_keys(
        &self,
        request: v1::ScanRequest,
        share: Share,
    ) -> Result<Answers<v1::ScanResponse>, Refusal> {
        let (snapshot, copy) = match self.fork_store(&request.database).await? {
            Some(store) => (self.on_reader(None, move || store.snapshot()).await?, None),
            None => self.copy_snapshot(&request).await?,
        };
        let (sender, responses) = mpsc::channel(AHEAD);
        let (service, snapshot) = (self.clone(), Arc::new(Mutex::new(snapshot)));
        tokio::spawn(async move {
            let of = copy.as_ref().map(|(copy, _)| copy);
            let scan = service.send_scan(of, request, snapshot, (&share, &sender));
            // Whichever way it ends, the snapshot is gone before anything else is sent: it keeps
            // files alive, and the store from being opened anew.
            let ended = async {
                // A fork stays as it is; dropping it waits for its readers.
                let Some((_, life)) = &copy else { return std::future::pending().await };
                life.over().await;
                Err(life.refusal())
            };
            let outcome = tokio::select! {
                () = sender.closed() => return,
                outcome = scan => outcome,
                outcome = ended => outcome,
            };
            if let Err(refusal) = outcome {
                // A client that has gone needs no answer.
                let _ = sender.send((Err(Status::from(refusal)), None)).await;
            }
        });
        Ok(Box::pin(Pieces::new(responses)))
    }

    /// A view of a copy, with the copy and the life of the files that it is a view of.
    async fn copy_snapshot(
        &self,
        request: &v1::ScanRequest,
    ) -> Result<(Box<dyn KvSnapshot>, Option<(CopyHandle, Life)>), Refusal> {
        let copy = self.copy(&request.database)?;
        // Before the store: one that is opened anew in between ends the scan at once.
        let life = Life::of(&copy.shared);
        let serving = self.wait_readable(&copy, request.options.as_ref()).await?;
        let store = open_store(&copy).await?;
        let snapshot = self.on_reader(Some(&copy), move || store.snapshot()).await?;
        if let Some(epoch) = serving {
            refuse_unless_still_serving(&copy, epoch)?;
        }
        Ok((snapshot, Some((copy, life))))
    }

    async fn send_scan(
        &self,
        copy: Option<&CopyHandle>,
        request: v1::ScanRequest,
        snapshot: Snapshot,
        (share, sender): (&Share, &mpsc::Sender<Piece<v1::ScanResponse>>),
    ) -> Result<(), Refusal> {
        let limit = if request.limit == 0 { u64::MAX } else { request.limit };
        let mut left = usize::try_from(limit).unwrap_or(usize::MAX);
        let to = (!request.to.is_empty()).then_some(request.to);
        let mut from = request.from;
        while left > 0 {
            let wanted = left.min(ITEMS);
            let read = || {
                let (start, end, view) = (from.clone(), to.clone(), snapshot.clone());
                move || piece(&view, &start, end.as_ref(), wanted)
            };
            let (items, room) = self.read_with_room(copy, share, read).await?;
            let Some((last, _)) = items.last() else { break };
            from = successor(last);
            left -= items.len();
            let items = items.into_iter().map(|item| pair(item, request.keys_only)).collect();
            let sent = hand(sender, v1::ScanResponse { items }, room).await;
            let stalled = |_| {
                let message = "the client took nothing for too long, so its snapshot was given up";
                Refusal::new(RefusalReason::DeadlineExceeded, message)
            };
            if !sent.map_err(stalled)? {
                break;
            }
        }
        Ok(())
    }
}

impl KvService {
    /// Reads once there is room for it.
    async fn read_with_room<R>(
        &self,
        copy: Option<&CopyHandle>,
        share: &Share,
        read: impl Fn() -> R,
    ) -> Result<(Vec<ScanItem>, Room), Refusal>
    where
        R: FnOnce() -> Result<Vec<ScanItem>, StoreError> + Send + 'static,
    {
        let mut bytes = BYTES;
        loop {
            let mut room = share.room(bytes).await?;
            let items = self.on_reader(copy, read()).await?;
            bytes = items.iter().map(|(key, value)| key.len() + value.len()).sum();
            if room.fit(bytes) {
                return Ok((items, room));
            }
        }
    }
}

fn piece(
    snapshot: &Snapshot,
    from: &Bytes,
    to: Option<&Bytes>,
    limit: usize,
) -> Result<Vec<ScanItem>, StoreError> {
    let view = snapshot.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    view.scan(from, to.map(AsRef::as_ref), limit, BYTES)
}

fn pair((key, value): ScanItem, keys_only: bool) -> v1::KeyValue {
    v1::KeyValue { key, value: if keys_only { Bytes::new() } else { value } }
}

/// The smallest key behind `key`.
fn successor(key: &Bytes) -> Bytes {
    let mut next = BytesMut::with_capacity(key.len() + 1);
    next.put_slice(key);
    next.put_u8(0);
    next.freeze()
}
