//! Fetching log from any holder: what an activation needs before it opens its epoch.
//!
//! The asker sends its epoch table and end; the holder answers with the last common position and
//! then with the bytes from there to what was wanted. One deadline covers the whole fetch; a break
//! is reported and the machine asks the next holder.

mod holder;

use std::sync::Arc;
use std::time::Duration;

use keelson_copy_core::LogSource;
use keelson_format::Chunk;
use keelson_net::{DATA_MESSAGE_BYTES_MAX, Lane as ChannelLane, PeerChannel};
use keelson_types::{Epoch, EpochTable, LogEnd, Position};
use keelson_wire::v1::replication_client::ReplicationClient;
use keelson_wire::{epoch_rows, ids, v1};
use tokio::sync::{mpsc, oneshot};
use tonic::Streaming;

use crate::context::PlaneContext;
pub(crate) use crate::fetch::holder::{FetchPlan, send_log};
use crate::message::Completion;
use crate::shared::CopyShared;

/// How long the machine may take to cut its fork before it takes what is fetched.
const GO_DEADLINE: Duration = Duration::from_secs(30);
/// Silence of a holder after which the fetch is given up.
pub(crate) const SILENCE: Duration = Duration::from_secs(5);

/// What is asked for.
#[derive(Debug)]
pub(crate) struct Ask {
    pub(crate) epoch: Epoch,
    pub(crate) source: LogSource,
    pub(crate) wanted: LogEnd,
    pub(crate) end: Position,
}

/// Starts a fetch; everything comes back as completions.
pub(crate) fn start(
    context: &Arc<PlaneContext>,
    shared: &Arc<CopyShared>,
    ask: Ask,
    table: EpochTable,
    done: mpsc::UnboundedSender<Completion>,
) {
    let (context, shared) = (context.clone(), shared.clone());
    tokio::spawn(async move {
        let epoch = ask.epoch;
        if let Err(why) = fetch(&context, &shared, &ask, &table, &done).await {
            // The owner has gone if this fails.
            let _ = done.send(Completion::FetchFailed { epoch, why });
        }
    });
}

async fn fetch(
    context: &PlaneContext,
    shared: &CopyShared,
    ask: &Ask,
    table: &EpochTable,
    done: &mpsc::UnboundedSender<Completion>,
) -> Result<(), String> {
    let mut stream = open(context, shared, ask, table).await?;
    let first = next(&mut stream).await?.ok_or("the holder sent nothing")?;
    let matched = LogEnd::from(first.matched.unwrap_or_default()).position;
    let (go, told) = oneshot::channel();
    let gone = |_| "the owner ended".to_owned();
    let matched = Completion::FetchMatched { epoch: ask.epoch, matched, go };
    done.send(matched).map_err(|_| "the owner ended")?;
    let told = tokio::time::timeout(GO_DEADLINE, told).await;
    told.map_err(|_| "the activation takes too long")?.map_err(|_| "the activation ended")?;
    let mut response = Some(first);
    while let Some(message) = response {
        if !message.body.is_empty() {
            let position = message.position.map(Into::into).unwrap_or_default();
            let chunk = Chunk::new(position, message.body);
            let (taken, wait) = oneshot::channel();
            let completion = Completion::FetchChunk { epoch: ask.epoch, chunk, taken };
            done.send(completion).map_err(|_| "the owner ended")?;
            wait.await.map_err(gone)?;
        }
        response = next(&mut stream).await?;
    }
    // If the log is complete, the machine ignores this.
    Err("the holder has sent everything it has".into())
}

pub(crate) async fn open(
    context: &PlaneContext,
    shared: &CopyShared,
    ask: &Ask,
    table: &EpochTable,
) -> Result<Streaming<v1::FetchLogResponse>, String> {
    let peer = context.member(ask.source.member).ok_or("the holder is no member any more")?;
    let channel = context.channel(&peer, ChannelLane::Bulk);
    let request = v1::FetchLogRequest {
        handshake: Some(context.handshake()),
        database: ids::bytes(shared.database),
        stream: ids::bytes(shared.stream),
        epochs: epoch_rows(table),
        end: Some(ask.end.into()),
        wanted: Some(ask.wanted.into()),
        ..Default::default()
    };
    let mut client = client(channel);
    let call = tokio::time::timeout(SILENCE, client.fetch_log(request)).await;
    let response = call.map_err(|_| "the holder does not answer")?;
    Ok(response.map_err(|status| status.message().to_owned())?.into_inner())
}

pub(crate) async fn next(
    stream: &mut Streaming<v1::FetchLogResponse>,
) -> Result<Option<v1::FetchLogResponse>, String> {
    let message = tokio::time::timeout(SILENCE, stream.message()).await;
    let message = message.map_err(|_| "the holder went silent")?;
    message.map_err(|status| status.message().to_owned())
}

/// A client with the limits of data messages.
pub(crate) fn client(channel: PeerChannel) -> ReplicationClient<PeerChannel> {
    ReplicationClient::new(channel)
        .max_decoding_message_size(DATA_MESSAGE_BYTES_MAX)
        .max_encoding_message_size(DATA_MESSAGE_BYTES_MAX)
}
