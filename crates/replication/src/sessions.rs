//! Outgoing log sessions: one per member that holds passives of this member's databases.
//!
//! A session is a stream of offers and frames to the member and a stream of answers back. It
//! connects with growing pauses, for ever, as long as the member belongs to the cluster; the copies
//! hear when it is up and when it is down.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::StreamExt;
use keelson_copy_core::OpenRefusal;
use keelson_copy_core::paths::{Overrides, Purpose, Way};
use keelson_format::pack;
use keelson_net::Lane as ChannelLane;
use keelson_types::{CopyId, DatabaseId, Epoch, MemberId, RefusalReason};
use keelson_wire::v1;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::UnboundedReceiverStream;

use crate::context::{Peer, PlaneContext, Registry};
use crate::fetch::client;
use crate::log_paths::LogPath;
use crate::message::{FromTarget, Message, SourceSender};
use crate::owner::Reported;
use crate::traffic::{self, PeerCounts};

/// First pause after a break; doubled up to [`PAUSE_MAX`].
const PAUSE_MIN: Duration = Duration::from_millis(20);
/// Longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// A session that was up for so long starts again with the first pause.
const STEADY: Duration = Duration::from_secs(1);
/// How often a session over a worse way looks for a better one.
const RETURN_EVERY: Duration = Duration::from_secs(30);
/// Time for the handshake.
const HANDSHAKE: Duration = Duration::from_secs(3);

/// Keeps the session to one member up until the task is aborted.
pub(crate) async fn keep(context: Arc<PlaneContext>, registry: Arc<Registry>, member: MemberId) {
    let mut pause = PAUSE_MIN;
    loop {
        let begun = Instant::now();
        if let Err(why) = session(&context, &registry, member).await {
            tracing::debug!(%member, %why, "log session");
        }
        // A session that breaks right after the handshake would else be tried without a pause.
        if begun.elapsed() >= STEADY {
            pause = PAUSE_MIN;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// One session from connect to break; `Ok` if it was up.
async fn session(
    context: &PlaneContext,
    registry: &Registry,
    member: MemberId,
) -> Result<(), String> {
    let peer = context.member(member).ok_or("no member any more")?;
    let shipping = (Purpose::Shipping, Overrides::default());
    let (way, channel) = context.reach(&peer, shipping, ChannelLane::Log).await;
    let (sender, messages) = mpsc::unbounded_channel();
    let handshake = v1::source_message::Message::Handshake(context.handshake());
    sender
        .send(v1::SourceMessage { message: Some(handshake) })
        .map_err(|_| "the stream is closed")?;
    let mut client = client(channel);
    let (bytes, wire_bytes) = Default::default();
    let path = Arc::new(LogPath { way, bytes, wire_bytes });
    let (counted, counts) = (path.clone(), context.traffic.with(member));
    let sent = counts.clone();
    let messages = UnboundedReceiverStream::new(messages);
    let call =
        client.log_session(messages.map(move |message| on_the_wire(message, &counted, &sent)));
    let call = tokio::time::timeout(HANDSHAKE, call).await;
    let response = call.map_err(|_| "no answer")?.map_err(|s| s.message().to_owned())?;
    let mut answers = response.into_inner();
    let hello = tokio::time::timeout(HANDSHAKE, answers.message()).await;
    let hello = hello.map_err(|_| "no handshake")?.map_err(|s| s.message().to_owned())?;
    let greeted = hello.and_then(|message| message.message);
    if !matches!(greeted, Some(v1::target_message::Message::Handshake(_))) {
        return Err("the other side does not greet".into());
    }
    let Way { address, network, compressed } = &path.way;
    tracing::info!(member = %peer.name, address, ?network, compressed, "log session up");
    context.log_paths.set(member, Some(path.clone()));
    traffic::add(&counts.sessions_begun, 1);
    announce(registry, member, Some(&sender)).await;
    let outcome = tokio::select! {
        outcome = pass_on(registry, &mut answers) => outcome,
        () = better_way(context, &peer, &path.way) => Ok(()),
    };
    context.log_paths.set(member, None);
    if outcome.is_err() {
        traffic::add(&counts.sessions_broken, 1);
    }
    tracing::info!(member = %peer.name, ?outcome, "log session down");
    announce(registry, member, None).await;
    Ok(())
}

/// Ends when a better way than this one can be connected to again (F117).
async fn better_way(context: &PlaneContext, peer: &Peer, way: &Way) {
    let ways = context.ways(peer, Purpose::Shipping, Overrides::default());
    let better: Vec<_> = ways.into_iter().take_while(|other| other != way).collect();
    if better.is_empty() {
        return std::future::pending().await;
    }
    loop {
        tokio::time::sleep(RETURN_EVERY).await;
        for way in &better {
            if context.channel_on(peer, way, ChannelLane::Log).connect().await.is_ok() {
                return;
            }
        }
    }
}

/// A message as it goes over this way.
fn on_the_wire(
    mut message: v1::SourceMessage,
    path: &LogPath,
    counts: &PeerCounts,
) -> v1::SourceMessage {
    if let Some(v1::source_message::Message::Frames(frames)) = &mut message.message {
        path.bytes.fetch_add(frames.body.len() as u64, Ordering::Relaxed);
        if path.way.compressed {
            (frames.body, frames.packed_from) = pack(std::mem::take(&mut frames.body));
        }
        path.wire_bytes.fetch_add(frames.body.len() as u64, Ordering::Relaxed);
        counts.log_sent.carried(&frames.body, frames.packed_from);
    }
    message
}

async fn announce(registry: &Registry, member: MemberId, sender: Option<&SourceSender>) {
    registry.set_session(member, sender);
    for copy in registry.all() {
        // A copy whose owner ended is opened anew by the plane, which tells it of sessions then.
        let _ = copy.mailbox.send(Message::Session(member, sender.cloned())).await;
    }
}

async fn pass_on(
    registry: &Registry,
    answers: &mut tonic::Streaming<v1::TargetMessage>,
) -> Result<(), String> {
    while let Some(answer) = answers.message().await.map_err(|s| s.message().to_owned())? {
        let Some((database, message)) = answer.message.and_then(read) else { continue };
        if let Some(copy) = registry.get(database) {
            let _ = copy.mailbox.send(Message::FromTarget(message)).await;
        }
    }
    Ok(())
}

fn read(message: v1::target_message::Message) -> Option<(DatabaseId, FromTarget)> {
    let epoch = |epoch: Option<v1::Epoch>| epoch.map(Epoch::from).unwrap_or_default();
    Some(match message {
        v1::target_message::Message::Handshake(_) => return None,
        v1::target_message::Message::Opened(opened) => (
            DatabaseId::from_slice(&opened.database)?,
            FromTarget::Opened {
                copy: CopyId::from_slice(&opened.copy)?,
                epoch: epoch(opened.epoch),
                matched: keelson_types::LogEnd::from(opened.matched.unwrap_or_default()).position,
                chain: opened.chain,
            },
        ),
        v1::target_message::Message::Ack(ack) => (
            DatabaseId::from_slice(&ack.database)?,
            FromTarget::Ack {
                copy: CopyId::from_slice(&ack.copy)?,
                epoch: epoch(ack.epoch),
                reported: Reported {
                    inspected: ack.durable.map(Into::into).unwrap_or_default(),
                    replayed: ack.replayed.map(Into::into).unwrap_or_default(),
                    checkpointed: ack.checkpointed.map(Into::into).unwrap_or_default(),
                },
            },
        ),
        v1::target_message::Message::Refused(refused) => (
            DatabaseId::from_slice(&refused.database)?,
            FromTarget::Refused {
                copy: CopyId::from_slice(&refused.copy)?,
                epoch: epoch(refused.epoch),
                refusal: refusal(&refused),
            },
        ),
    })
}

fn refusal(refused: &v1::ShipRefused) -> OpenRefusal {
    match RefusalReason::from_code(&refused.code) {
        Some(RefusalReason::StaleEpoch) => {
            let sealed = refused.sealed.map(Epoch::from).unwrap_or_default();
            OpenRefusal::SealedHigher(sealed)
        }
        Some(RefusalReason::Diverged) => OpenRefusal::Diverged,
        Some(RefusalReason::CopyFailed) => OpenRefusal::Failed,
        Some(RefusalReason::Suspended) => OpenRefusal::Suspended,
        _ => OpenRefusal::Busy,
    }
}
