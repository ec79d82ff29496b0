//! Translates seals and mounts between the active manager's values and messages.

use keelson_cluster_core::{
    CopyHealth, MountFailure, MountOrder, SealAnswer, SealItem, SealRefusal, SealReply, Source,
};
use keelson_types::{ContentIndexState, CopyFault, CopyId, Epoch, MemberId, RefusalReason};
use keelson_wire::{Invalid, ids, v1};

fn epoch(epoch: Option<v1::Epoch>) -> Epoch {
    epoch.map(Into::into).unwrap_or_default()
}

/// The order to seal one copy.
pub(crate) fn seal_order(item: &SealItem) -> v1::SealOrder {
    v1::SealOrder { database: ids::bytes(item.database), epoch: Some(item.epoch.into()) }
}

/// What `member` answered about one copy. `ha` tells which copies replay without lag.
pub(crate) fn seal_answer(
    member: MemberId,
    reply: &v1::SealReply,
    ha: impl Fn(CopyId) -> bool,
) -> Result<SealAnswer, Invalid> {
    let database = ids::database(&reply.database)?;
    let fault = match reply.fault.is_empty() {
        true => None,
        false => Some(serde_json::from_slice(&reply.fault).map_err(|_| Invalid("fault"))?),
    };
    let result = match (&reply.refused_by, reply.refusal.as_str()) {
        (Some(higher), _) => Err(SealRefusal::HigherEpoch((*higher).into())),
        (None, "") => {
            let copy = ids::copy(&reply.copy)?;
            Ok(SealReply {
                copy,
                member,
                sealed: epoch(reply.epoch),
                end: reply.end.map(Into::into).unwrap_or_default(),
                committed: reply.committed.map(Into::into).unwrap_or_default(),
                replayed: reply.replayed.map(Into::into).unwrap_or_default(),
                fault,
                may_have_lost: reply.may_have_lost,
                ha: ha(copy),
                health: health(reply.health.as_ref()),
            })
        }
        (None, refusal) => Err(seal_refusal(refusal, fault)),
    };
    Ok(SealAnswer { database, epoch: epoch(reply.epoch), result })
}

/// How well a copy is; one of an older member says nothing.
fn health(told: Option<&v1::CopyHealth>) -> CopyHealth {
    let Some(told) = told else { return CopyHealth::default() };
    CopyHealth {
        content_index: content_index(&told.content_index),
        copy_queue_bytes: told.copy_queue_bytes,
        replay_queue_bytes: told.replay_queue_bytes,
        short_of_space: told.short_of_space,
        read_latency_micros: told.read_latency_micros,
    }
}

/// The state of a content index by its name.
pub(crate) fn content_index(name: &str) -> ContentIndexState {
    let mut states = ContentIndexState::ALL.into_iter();
    states.find(|state| state.to_string() == name).unwrap_or_default()
}

fn seal_refusal(text: &str, fault: Option<CopyFault>) -> SealRefusal {
    let code = text.split(':').next().unwrap_or_default().trim();
    match (RefusalReason::from_code(code), fault) {
        (_, Some(fault)) => SealRefusal::Fault(fault),
        (Some(RefusalReason::UnknownCopy | RefusalReason::UnknownDatabase), None) => {
            SealRefusal::UnknownCopy
        }
        (Some(RefusalReason::DiskFull), None) => SealRefusal::NotPersisted,
        _ => SealRefusal::Fault(CopyFault::Store(text.to_owned())),
    }
}

/// A refusal for every order, from a member that cannot ask its data process.
pub(crate) fn unsealed(orders: &[v1::SealOrder], why: &str) -> v1::SealManyResponse {
    let reply = |order: &v1::SealOrder| v1::SealReply {
        database: order.database.clone(),
        epoch: order.epoch,
        refusal: why.to_owned(),
        ..v1::SealReply::default()
    };
    v1::SealManyResponse { replies: orders.iter().map(reply).collect() }
}

/// The order to mount.
pub(crate) fn mount_order(order: &MountOrder) -> v1::MountOrder {
    let source = |source: &Source| v1::LogSource {
        member: ids::bytes(source.member),
        copy: ids::bytes(source.copy),
        end: Some(source.end.into()),
    };
    v1::MountOrder {
        database: ids::bytes(order.database),
        epoch: Some(order.epoch.into()),
        copy: ids::bytes(order.target),
        rule: Some((&order.rule).into()),
        required_end: Some(order.required_end.into()),
        sources: order.sources.iter().map(source).collect(),
        ceiling: order
            .ceiling
            .map(|ceiling| serde_json::to_vec(&ceiling).expect("numbers only"))
            .unwrap_or_default()
            .into(),
    }
}

/// How the mount of one copy ended.
pub(crate) fn mount_result(outcome: &v1::MountOutcome) -> Result<(), MountFailure> {
    if outcome.mounted {
        return Ok(());
    }
    Err(match RefusalReason::from_code(&outcome.code) {
        Some(RefusalReason::StaleEpoch) => MountFailure::StaleEpoch(epoch(outcome.epoch)),
        Some(RefusalReason::UnknownCopy | RefusalReason::UnknownDatabase) => {
            MountFailure::UnknownCopy
        }
        Some(RefusalReason::Truncated | RefusalReason::Diverged) => MountFailure::LogNotFetched,
        Some(RefusalReason::DeadlineExceeded) => MountFailure::Timeout,
        Some(RefusalReason::Unreachable | RefusalReason::ConnectionLost) => {
            MountFailure::Unreachable
        }
        Some(RefusalReason::DiskFull) => MountFailure::Fault(CopyFault::DiskFull),
        _ => MountFailure::Fault(CopyFault::Store(outcome.message.clone())),
    })
}

/// An outcome for an order that was not carried out.
pub(crate) fn unmounted(
    order: &v1::MountOrder,
    reason: RefusalReason,
    why: &str,
) -> v1::MountOutcome {
    v1::MountOutcome {
        database: order.database.clone(),
        epoch: order.epoch,
        mounted: false,
        code: reason.code().0.to_owned(),
        message: why.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use keelson_types::{DatabaseId, LogEnd, Position};

    const MEMBER: MemberId = MemberId::from_u128(7);

    fn reply() -> v1::SealReply {
        v1::SealReply {
            database: ids::bytes(DatabaseId::from_u128(1)),
            epoch: Some(Epoch::new(0, 4).into()),
            copy: ids::bytes(CopyId::from_u128(2)),
            end: Some(LogEnd { epoch: Epoch::new(0, 3), position: Position::new(5, 6) }.into()),
            ..v1::SealReply::default()
        }
    }

    fn answer(reply: &v1::SealReply) -> SealAnswer {
        seal_answer(MEMBER, reply, |_| true).expect("well formed")
    }

    #[test]
    fn a_seal_names_the_member_that_answered_and_the_epoch_promised() {
        let sealed = answer(&reply()).result.expect("sealed");
        assert_eq!((sealed.member, sealed.sealed), (MEMBER, Epoch::new(0, 4)));
        assert_eq!(sealed.end.position, Position::new(5, 6));
        assert_eq!(sealed.copy, CopyId::from_u128(2));
    }

    #[test]
    fn refused_seals_keep_their_reason() {
        let refused = |change: &dyn Fn(&mut v1::SealReply)| {
            let mut reply = reply();
            change(&mut reply);
            answer(&reply).result.expect_err("refused")
        };
        let higher = Epoch::new(0, 9);
        assert_eq!(
            refused(&|r| r.refused_by = Some(higher.into())),
            SealRefusal::HigherEpoch(higher)
        );
        assert_eq!(refused(&|r| r.refusal = "unknown_copy".into()), SealRefusal::UnknownCopy);
        assert_eq!(refused(&|r| r.refusal = "disk_full: 0 left".into()), SealRefusal::NotPersisted);
        let fault = CopyFault::LogDamaged("frame 3".into());
        let json = serde_json::to_vec(&fault).expect("text");
        let got = refused(&|r| {
            r.refusal = "copy_failed".into();
            r.fault = json.clone().into();
        });
        assert_eq!(got, SealRefusal::Fault(fault));
    }

    #[test]
    fn a_copy_of_the_wrong_length_is_malformed() {
        let bad = v1::SealReply { copy: vec![1, 2].into(), ..reply() };
        assert!(seal_answer(MEMBER, &bad, |_| true).is_err());
    }

    #[test]
    fn failed_mounts_keep_their_reason() {
        let failed = |code: &str| {
            let outcome = v1::MountOutcome { code: code.into(), ..v1::MountOutcome::default() };
            mount_result(&outcome).expect_err("not mounted")
        };
        assert_eq!(failed("deadline_exceeded"), MountFailure::Timeout);
        assert_eq!(failed("stale_epoch"), MountFailure::StaleEpoch(Epoch::ZERO));
        assert_eq!(failed("truncated"), MountFailure::LogNotFetched);
        assert!(matches!(failed("copy_failed"), MountFailure::Fault(_)));
    }
}
