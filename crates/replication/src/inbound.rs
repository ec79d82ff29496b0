//! Incoming log sessions: what the actives of other members say to the copies of this one.

use std::sync::Arc;

use keelson_copy_core::OpenOffer;
use keelson_copy_core::truncate::TruncationOrder;
use keelson_format::{Chunk, unpack};
use keelson_net::DATA_MESSAGE_BYTES_MAX;
use keelson_types::{DatabaseId, Epoch, MemberId, Position, RefusalReason};
use keelson_wire::{epoch_table, ids, v1};
use tokio::sync::mpsc;
use tonic::Streaming;

use crate::context::Registry;
use crate::message::{FromSource, Message, TargetSender};
use crate::traffic::PeerCounts;

/// Hands what a source says to the owners of the copies, until the session ends.
pub(crate) async fn take_session(
    registry: Arc<Registry>,
    (member, counts): (MemberId, Arc<PeerCounts>),
    mut messages: Streaming<v1::SourceMessage>,
    answers: TargetSender,
) {
    while let Ok(Some(message)) = messages.message().await {
        if let Some(v1::source_message::Message::Frames(frames)) = &message.message {
            counts.log_received.carried(&frames.body, frames.packed_from);
        }
        let Some((database, message)) = message.message.and_then(|m| read(m, member, &answers))
        else {
            continue;
        };
        pass_on(&registry, member, database, message).await;
    }
    for copy in registry.all() {
        let _ = copy.mailbox.send(Message::SourceDown(member, answers.clone())).await;
    }
}

/// Hands one message to the copy's owner. An offer is always answered: its source waits for that,
/// however long it takes. An owner may have ended between the look into the registry and now: then
/// another copy takes its place, which nobody would offer the log.
async fn pass_on(registry: &Registry, member: MemberId, database: DatabaseId, message: FromSource) {
    let Some(handle) = registry.get(database) else { return refuse_offer(database, message) };
    let sent = handle.mailbox.send(Message::FromSource(member, message)).await;
    if let Err(mpsc::error::SendError(Message::FromSource(_, message))) = sent {
        refuse_offer(database, message);
    }
}

fn refuse_offer(database: DatabaseId, message: FromSource) {
    if let FromSource::Open { offer, copy, reply } = message {
        refuse_unknown(database, copy, &offer, &reply);
    }
}

/// This member has not heard of the copy yet, or its owner ends: the source offers again soon.
pub(crate) fn refuse_unknown(
    database: DatabaseId,
    copy: keelson_types::CopyId,
    offer: &OpenOffer,
    answers: &TargetSender,
) {
    let refused = v1::ShipRefused {
        database: ids::bytes(database),
        epoch: Some(offer.epoch.into()),
        code: RefusalReason::Activating.code().0.into(),
        message: "no copy of this database here yet".into(),
        sealed: None,
        copy: ids::bytes(copy),
    };
    let message = Some(v1::target_message::Message::Refused(refused));
    let _ = answers.send(Ok(v1::TargetMessage { message }));
}

fn read(
    message: v1::source_message::Message,
    member: MemberId,
    answers: &TargetSender,
) -> Option<(DatabaseId, FromSource)> {
    use v1::source_message::Message as M;
    let epoch = |epoch: Option<v1::Epoch>| epoch.map(Epoch::from).unwrap_or_default();
    let at = |position: Option<v1::Position>| position.map(Position::from).unwrap_or_default();
    Some(match message {
        M::Handshake(_) => return None,
        M::Close(close) => (
            ids::database(&close.database).ok()?,
            FromSource::LogGone { epoch: epoch(close.epoch), begins: at(close.log_begins) },
        ),
        M::Open(open) => {
            let offer = OpenOffer {
                member,
                epoch: epoch(open.epoch),
                stream: ids::stream(&open.stream).ok()?,
                table: epoch_table(open.epochs).ok()?,
                end: at(open.end),
                committed: at(open.committed),
                log_from: at(open.log_from),
            };
            let copy = ids::copy(&open.copy).ok()?;
            let reply = answers.clone();
            (ids::database(&open.database).ok()?, FromSource::Open { offer, copy, reply })
        }
        M::Matched(matched) => (
            ids::database(&matched.database).ok()?,
            FromSource::Matched { epoch: epoch(matched.epoch) },
        ),
        M::Frames(frames) => {
            let frames_of = ids::database(&frames.database).ok()?;
            let (epoch, committed) = (epoch(frames.epoch), at(frames.committed));
            // What does not unpack is as good as lost: the source must offer anew.
            let body = unpack(frames.body, frames.packed_from, DATA_MESSAGE_BYTES_MAX);
            let taken = match body {
                Ok(body) => {
                    let chunk = Chunk::new(at(frames.position), body);
                    FromSource::Frames { epoch, chunk, committed }
                }
                Err(_) => FromSource::Garbled { epoch },
            };
            (frames_of, taken)
        }
        M::Truncate(order) => (
            ids::database(&order.database).ok()?,
            FromSource::Truncate(TruncationOrder {
                epoch: epoch(order.epoch),
                up_to: at(order.up_to),
                truncated: at(order.truncated),
                short_of_space: order.short_of_space,
            }),
        ),
        M::Committed(committed) => (
            ids::database(&committed.database).ok()?,
            FromSource::Committed {
                epoch: epoch(committed.epoch),
                committed: at(committed.committed),
            },
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::context::CopyHandle;
    use crate::digest::Digests;
    use crate::directions::Directions;
    use crate::shared::CopyShared;
    use keelson_types::{CopyId, EpochTable, StreamId};

    /// A copy with room for one message, and where its messages arrive.
    fn copy() -> (CopyHandle, mpsc::Receiver<Message>) {
        let (mailbox, messages) = mpsc::channel(1);
        let shared = Arc::new(CopyShared::for_tests());
        let (directions, digests) = (Arc::new(Directions::default()), Arc::new(Digests::new()));
        (CopyHandle { shared, mailbox, directions, digests }, messages)
    }

    fn offer(reply: &TargetSender) -> FromSource {
        let offer = OpenOffer {
            member: MemberId::from_u128(1),
            epoch: Epoch::new(0, 3),
            stream: StreamId::from_bytes([9; 16]),
            table: EpochTable::new(),
            end: Position::ZERO,
            committed: Position::ZERO,
            log_from: Position::ZERO,
        };
        FromSource::Open { offer, copy: CopyId::from_u128(5), reply: reply.clone() }
    }

    /// What the source is told, if it is told anything.
    fn told(
        answers: &mut mpsc::UnboundedReceiver<Result<v1::TargetMessage, tonic::Status>>,
    ) -> bool {
        let answer = answers.try_recv().ok().and_then(Result::ok).and_then(|a| a.message);
        matches!(answer, Some(v1::target_message::Message::Refused(refused))
            if refused.code == RefusalReason::Activating.code().0)
    }

    /// A copy that is made anew has another owner: an offer that comes while the old one ends is
    /// refused, or else the active waits for its answer for ever.
    #[tokio::test]
    async fn an_offer_to_an_owner_that_has_ended_is_refused() {
        let (registry, member) = (Registry::default(), MemberId::from_u128(1));
        let (reply, mut answers) = mpsc::unbounded_channel();
        let (handle, mut messages) = copy();
        let database = handle.shared.database;
        pass_on(&registry, member, database, offer(&reply)).await;
        assert!(told(&mut answers), "there is no copy yet");
        registry.insert(handle);
        pass_on(&registry, member, database, offer(&reply)).await;
        assert!(matches!(messages.try_recv(), Ok(Message::FromSource(..))) && !told(&mut answers));
        messages.close();
        pass_on(&registry, member, database, offer(&reply)).await;
        assert!(told(&mut answers), "its owner has ended");
        pass_on(&registry, member, database, FromSource::Matched { epoch: Epoch::new(0, 3) }).await;
        assert!(!told(&mut answers), "only offers are waited for");
    }

    /// They are not dropped without a word: perhaps nothing follows that would show the gap.
    #[test]
    fn frames_that_do_not_unpack_are_handed_on_as_such() {
        let (answers, _answered) = mpsc::unbounded_channel();
        let database = DatabaseId::from_u128(7);
        let frames = |packed_from| {
            let frames = v1::ShipFrames {
                database: ids::bytes(database),
                epoch: Some(Epoch::new(0, 3).into()),
                body: bytes::Bytes::from_static(b"junk"),
                packed_from,
                ..Default::default()
            };
            read(v1::source_message::Message::Frames(frames), MemberId::from_u128(101), &answers)
        };
        let (of, taken) = frames(1_000).unwrap();
        assert_eq!(of, database);
        assert!(matches!(taken, FromSource::Garbled { epoch } if epoch == Epoch::new(0, 3)));
        let (_, taken) = frames(0).unwrap();
        assert!(matches!(taken, FromSource::Frames { .. }));
    }
}
