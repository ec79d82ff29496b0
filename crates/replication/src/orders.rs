//! Orders of the active manager: seals, mounts, dismounts, outcomes of rule proposals.
//!
//! All copies of an order work at the same time; each part has a deadline, so that one stuck copy
//! does not hold the answers of the others back.

use std::sync::Arc;
use std::time::Duration;

use keelson_copy_core::{LogSource, MountFailure, MountOrder, SealAnswer, SealRefusal};
use keelson_types::{CommitRule, CopyFault, Epoch, LogEnd, RefusalReason};
use keelson_wire::{ids, v1};
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::context::{CopyHandle, PlaneContext, Registry};
use crate::directions::RuleOutcome;
use crate::message::{Message, SealedCopy};

/// A seal that takes longer counts as unreached; the copy finishes it all the same.
const SEAL_DEADLINE: Duration = Duration::from_secs(2);
/// A mount that takes longer has failed; a new epoch ends it.
const MOUNT_DEADLINE: Duration = Duration::from_secs(30);
/// A copy that does not stop serving in time is shut out by its lease.
const DISMOUNT_DEADLINE: Duration = Duration::from_secs(5);

/// Seals copies and answers with their log ends.
pub(crate) async fn seal(
    context: Arc<PlaneContext>,
    registry: Arc<Registry>,
    request: u64,
    orders: v1::SealManyRequest,
) {
    let seals = orders.orders.into_iter().map(|order| seal_one(&context, &registry, order));
    let replies = futures::future::join_all(seals).await;
    let response = v1::SealManyResponse { replies };
    context.report(request, v1::data_to_control::Message::Seal(response));
}

async fn seal_one(
    context: &PlaneContext,
    registry: &Registry,
    order: v1::SealOrder,
) -> v1::SealReply {
    let epoch: Epoch = order.epoch.map(Into::into).unwrap_or_default();
    let mut reply = v1::SealReply {
        database: order.database.clone(),
        epoch: Some(epoch.into()),
        ..v1::SealReply::default()
    };
    let handle = ids::database(&order.database).ok().and_then(|id| registry.get(id));
    let Some(handle) = handle else {
        reply.refusal = RefusalReason::UnknownCopy.code().0.into();
        return reply;
    };
    reply.copy = ids::bytes(handle.shared.copy);
    match timeout(SEAL_DEADLINE, ask_seal(&handle, epoch)).await {
        Ok(Ok(sealed)) => {
            fill_answer(&mut reply, &sealed.answer);
            reply.health = Some(health(context, &handle, &sealed));
        }
        Ok(Err(refusal)) => fill_refusal(&mut reply, &refusal),
        Err(_) => reply.refusal = RefusalReason::DeadlineExceeded.code().0.into(),
    }
    reply
}

/// What orders the candidates: the state of its index, its queues, the volumes of its member.
fn health(context: &PlaneContext, handle: &CopyHandle, sealed: &SealedCopy) -> v1::CopyHealth {
    let index = handle.shared.catalog.facts(sealed.answer.replayed);
    let database = handle.shared.database;
    let latency = context.volumes_of(database).read_latency();
    v1::CopyHealth {
        content_index: index.state,
        copy_queue_bytes: sealed.copy_queue_bytes,
        replay_queue_bytes: sealed.replay_queue_bytes,
        short_of_space: !context.room_of(database).look().to_string().is_empty(),
        read_latency_micros: latency.map(|latency| latency.as_micros() as u64),
    }
}

async fn ask_seal(handle: &CopyHandle, epoch: Epoch) -> Result<SealedCopy, SealRefusal> {
    let (reply, answer) = oneshot::channel();
    let gone = || SealRefusal::Failed(CopyFault::LogIo("the copy is being reopened".into()));
    handle.mailbox.send(Message::Seal(epoch, reply)).await.map_err(|_| gone())?;
    answer.await.map_err(|_| gone())?
}

fn fill_answer(reply: &mut v1::SealReply, answer: &SealAnswer) {
    reply.end = Some(answer.end.into());
    reply.committed = Some(answer.committed.into());
    reply.replayed = Some(answer.replayed.into());
    reply.may_have_lost = answer.may_have_lost;
    reply.fault = fault_json(answer.fault.as_ref());
}

fn fill_refusal(reply: &mut v1::SealReply, refusal: &SealRefusal) {
    match refusal {
        SealRefusal::SealedHigher(epoch) => {
            reply.refused_by = Some((*epoch).into());
            reply.refusal = RefusalReason::StaleEpoch.code().0.into();
        }
        SealRefusal::EpochInUse(_) | SealRefusal::Superseded(_) => {
            reply.refusal = RefusalReason::Precondition.code().0.into();
        }
        SealRefusal::Failed(fault) => {
            reply.refusal = RefusalReason::CopyFailed.code().0.into();
            reply.fault = fault_json(Some(fault));
        }
    }
}

pub(crate) fn fault_json(fault: Option<&CopyFault>) -> bytes::Bytes {
    let json = fault.and_then(|fault| serde_json::to_vec(fault).ok());
    json.map(Into::into).unwrap_or_default()
}

/// Activates copies and answers once each serves, or failed.
pub(crate) async fn mount(
    context: Arc<PlaneContext>,
    registry: Arc<Registry>,
    request: u64,
    orders: v1::MountManyRequest,
) {
    let mounts = orders.orders.into_iter().map(|order| mount_one(&registry, order));
    let outcomes = futures::future::join_all(mounts).await;
    let response = v1::MountManyResponse { outcomes };
    context.report(request, v1::data_to_control::Message::Mount(response));
}

async fn mount_one(registry: &Registry, order: v1::MountOrder) -> v1::MountOutcome {
    let (database, epoch) = (order.database.clone(), order.epoch);
    let result = mount_checked(registry, order).await;
    let (mounted, code, message) = match result {
        Ok(()) => (true, String::new(), String::new()),
        Err((reason, message)) => (false, reason.code().0.to_owned(), message),
    };
    v1::MountOutcome { database, epoch, mounted, code, message }
}

async fn mount_checked(
    registry: &Registry,
    order: v1::MountOrder,
) -> Result<(), (RefusalReason, String)> {
    let handle = ids::database(&order.database).ok().and_then(|id| registry.get(id));
    let handle = handle.filter(|handle| handle.shared.copy.into_bytes()[..] == order.copy[..]);
    let unknown = || (RefusalReason::UnknownCopy, "no such copy on this member".to_owned());
    let handle = handle.ok_or_else(unknown)?;
    let order = read_order(order).map_err(|e| (RefusalReason::BadArgument, e.to_string()))?;
    let (reply, answer) = oneshot::channel();
    let gone = || (RefusalReason::CopyFailed, "the copy is being reopened".to_owned());
    let mounted = async {
        handle.mailbox.send(Message::Mount(order, reply)).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())
    };
    match timeout(MOUNT_DEADLINE, mounted).await {
        Ok(Ok(result)) => result.map_err(failure),
        Ok(Err(gone)) => Err(gone),
        Err(_) => Err((RefusalReason::DeadlineExceeded, "the mount takes too long".into())),
    }
}

fn read_order(order: v1::MountOrder) -> Result<MountOrder, keelson_wire::Invalid> {
    let source = |source: &v1::LogSource| {
        Ok(LogSource {
            member: ids::member(&source.member)?,
            copy: ids::copy(&source.copy)?,
            end: source.end.map(LogEnd::from).unwrap_or_default(),
        })
    };
    let rule = order.rule.ok_or(keelson_wire::Invalid("rule"))?;
    Ok(MountOrder {
        epoch: order.epoch.map(Into::into).unwrap_or_default(),
        rule: CommitRule::try_from(rule)?,
        required_end: order.required_end.map(LogEnd::from).unwrap_or_default(),
        sources: order.sources.iter().map(source).collect::<Result<_, _>>()?,
        ceiling: match order.ceiling.is_empty() {
            true => None,
            false => {
                let read = serde_json::from_slice(&order.ceiling);
                Some(read.map_err(|_| keelson_wire::Invalid("ceiling"))?)
            }
        },
    })
}

fn failure(failure: MountFailure) -> (RefusalReason, String) {
    match failure {
        MountFailure::SealedHigher(epoch) => {
            (RefusalReason::StaleEpoch, format!("the copy is sealed for epoch {epoch}"))
        }
        MountFailure::NoSource => {
            (RefusalReason::Truncated, "no holder delivered the missing log".into())
        }
        MountFailure::Diverged => {
            (RefusalReason::Diverged, "the copy's log forks below what its store holds".into())
        }
        MountFailure::Failed(fault) => (RefusalReason::CopyFailed, fault.to_string()),
        MountFailure::Stopped => (RefusalReason::Activating, "the epoch ended".into()),
    }
}

/// Closes copies.
pub(crate) async fn dismount(
    context: Arc<PlaneContext>,
    registry: Arc<Registry>,
    request: u64,
    orders: v1::DismountManyRequest,
) {
    let dismounts = orders.orders.into_iter().map(|order| dismount_one(&registry, order));
    futures::future::join_all(dismounts).await;
    let response = v1::DismountManyResponse {};
    context.report(request, v1::data_to_control::Message::Dismount(response));
}

async fn dismount_one(registry: &Registry, order: v1::DismountOrder) {
    let epoch = order.epoch.map(Into::into).unwrap_or_default();
    let handle = ids::database(&order.database).ok().and_then(|id| registry.get(id));
    let Some(handle) = handle else { return };
    let dismounted = async {
        // An owner that ended serves nothing. Nobody is answered by the copy from here on.
        let _ = handle.mailbox.send(Message::Dismount(epoch)).await;
        handle.shared.wait_until(|shared| !shared.gate.is_serving()).await;
    };
    // In time or not: the answer says only that the order was given.
    let _ = timeout(DISMOUNT_DEADLINE, dismounted).await;
}

/// Hands the outcome of a rule proposal to its copy.
pub(crate) fn rule(registry: &Registry, outcome: v1::RuleOutcome) {
    let handle = ids::database(&outcome.database).ok().and_then(|id| registry.get(id));
    let recorded = outcome.recorded.and_then(|rule| CommitRule::try_from(rule).ok());
    if let (Some(handle), Some(recorded)) = (handle, recorded) {
        let epoch = outcome.epoch.map(Into::into).unwrap_or_default();
        handle.directions.rule(RuleOutcome { epoch, version: outcome.proposed_version, recorded });
    }
}
