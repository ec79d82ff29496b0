//! Asks a donor for a part of its store. One deadline covers the question; what comes back is
//! checked before the machine hears of it.

use std::sync::Arc;
use std::time::Duration;

use keelson_copy_core::range_fetch::{Chunk, Donor, FetchCost, FetchFailure, FetchRequest};
use keelson_env::StoreItem;
use keelson_net::Lane as ChannelLane;
use keelson_types::{DatabaseId, LogEnd, StoreKey};
use keelson_wire::{Invalid, ids, v1};

use crate::context::PlaneContext;
use crate::fetch::client;

/// For one chunk: a few MiB, read from a snapshot.
const DEADLINE: Duration = Duration::from_secs(15);

/// A chunk and its data.
pub(crate) type Answer = Result<(Chunk, Vec<StoreItem>), FetchFailure>;

/// Asks once.
pub(crate) async fn ask(
    context: Arc<PlaneContext>,
    database: DatabaseId,
    donor: Donor,
    request: FetchRequest,
) -> Answer {
    let peer = context.member(donor.member).ok_or(FetchFailure::Unreachable)?;
    let message = v1::FetchRangeRequest {
        handshake: Some(context.handshake()),
        database: ids::bytes(database),
        copy: ids::bytes(donor.copy),
        epoch: Some(request.epoch.into()),
        spans: request.spans.iter().map(Into::into).collect(),
        snapshot: request.snapshot.map(Into::into),
        not_before: Some(request.not_before.into()),
        keys_max: u32::try_from(request.keys_max).unwrap_or(u32::MAX),
        bytes_max: request.bytes_max,
    };
    let mut client = client(context.channel(&peer, ChannelLane::Bulk));
    let answer = tokio::time::timeout(DEADLINE, client.fetch_range(message)).await;
    match answer {
        Ok(Ok(answer)) => read(answer.into_inner()),
        Ok(Err(status)) => {
            tracing::debug!(member = %peer.name, why = status.message(), "a donor refused");
            Err(FetchFailure::Unreachable)
        }
        Err(_) => Err(FetchFailure::Unreachable),
    }
}

fn read(answer: v1::FetchRangeResponse) -> Answer {
    match answer.failure() {
        v1::RangeFailure::Unspecified => {}
        v1::RangeFailure::SnapshotGone => return Err(FetchFailure::SnapshotGone),
        v1::RangeFailure::Behind => return Err(FetchFailure::Behind),
        v1::RangeFailure::Marked => return Err(FetchFailure::Marked),
        v1::RangeFailure::OtherEpoch => return Err(FetchFailure::OtherEpoch),
    }
    read_chunk(answer).map_err(|error| {
        tracing::warn!(%error, "a donor's answer makes no sense");
        FetchFailure::Malformed
    })
}

fn read_chunk(answer: v1::FetchRangeResponse) -> Result<(Chunk, Vec<StoreItem>), Invalid> {
    let at = answer.at.map(LogEnd::from).ok_or(Invalid("fetch_range.at"))?;
    let next = answer.next.map(StoreKey::try_from).transpose()?;
    let mut items = Vec::with_capacity(answer.items.len());
    for item in answer.items {
        let key = item.key.ok_or(Invalid("store_item.key"))?.try_into()?;
        items.push((key, item.value));
    }
    let cost = cost_of(&items);
    Ok((Chunk { at, next, cost }, items))
}

/// Keys and bytes of items.
pub(crate) fn cost_of(items: &[StoreItem]) -> FetchCost {
    let bytes = items.iter().map(|(key, value)| key.len_bytes() + value.len() as u64);
    FetchCost { keys: items.len() as u64, bytes: bytes.sum() }
}
