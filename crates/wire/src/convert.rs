//! Conversions between generated messages and the vocabulary. Validation happens here, on the
//! receiving side only; absent sub-messages of positions and epochs mean zero.

use bytes::Bytes;
use keelson_types::{
    CommitConstraint, CommitRule, CopyId, Epoch, EpochStart, EpochTable, Generation, LogEnd,
    MemberId, Participant, Position, RefusalReason, SiteName, Watermarks,
};

use crate::{Refusal, v1};

/// A field that does not hold what its type promises.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("field {0} is missing or malformed")]
pub struct Invalid(pub &'static str);

impl From<Invalid> for Refusal {
    fn from(invalid: Invalid) -> Self {
        Self::new(RefusalReason::BadArgument, invalid.to_string())
    }
}

impl From<Invalid> for tonic::Status {
    fn from(invalid: Invalid) -> Self {
        Refusal::from(invalid).into()
    }
}

macro_rules! id_reader {
    ($(#[$doc:meta])* $function:ident, $id:ty) => {
        $(#[$doc])*
        ///
        /// # Errors
        /// [`Invalid`] unless there are sixteen bytes.
        pub fn $function(bytes: &[u8]) -> Result<$id, Invalid> {
            <$id>::from_slice(bytes).ok_or(Invalid(stringify!($id)))
        }
    };
}

/// Readers of ids.
pub mod ids {
    use super::Invalid;
    use keelson_types::{
        ClusterId, CopyId, DatabaseId, IncarnationId, MemberId, OperationId, SessionId, StreamId,
    };

    id_reader!(/** Reads a cluster id. */ cluster, ClusterId);
    id_reader!(/** Reads a copy id. */ copy, CopyId);
    id_reader!(/** Reads a database id. */ database, DatabaseId);
    id_reader!(/** Reads an incarnation id. */ incarnation, IncarnationId);
    id_reader!(/** Reads a member id. */ member, MemberId);
    id_reader!(/** Reads an operation id. */ operation, OperationId);
    id_reader!(/** Reads a session id. */ session, SessionId);
    id_reader!(/** Reads a stream id. */ stream, StreamId);

    /// The bytes of an id, for a message.
    pub fn bytes(id: impl Into<[u8; 16]>) -> bytes::Bytes {
        bytes::Bytes::copy_from_slice(&id.into())
    }
}

impl From<Epoch> for v1::Epoch {
    fn from(epoch: Epoch) -> Self {
        Self { recovery: epoch.recovery, counter: epoch.counter }
    }
}

impl From<v1::Epoch> for Epoch {
    fn from(epoch: v1::Epoch) -> Self {
        Self::new(epoch.recovery, epoch.counter)
    }
}

impl From<Position> for v1::Position {
    fn from(position: Position) -> Self {
        Self { generation: position.generation.0, offset: position.offset }
    }
}

impl From<v1::Position> for Position {
    fn from(position: v1::Position) -> Self {
        Self { generation: Generation(position.generation), offset: position.offset }
    }
}

impl From<LogEnd> for v1::LogEnd {
    fn from(end: LogEnd) -> Self {
        Self { epoch: Some(end.epoch.into()), position: Some(end.position.into()) }
    }
}

impl From<v1::LogEnd> for LogEnd {
    fn from(end: v1::LogEnd) -> Self {
        Self {
            epoch: end.epoch.map(Into::into).unwrap_or_default(),
            position: end.position.map(Into::into).unwrap_or_default(),
        }
    }
}

impl From<EpochStart> for v1::EpochStart {
    fn from(row: EpochStart) -> Self {
        Self {
            epoch: Some(row.epoch.into()),
            previous_end: Some(row.previous_end.into()),
            chain: row.chain,
        }
    }
}

impl From<v1::EpochStart> for EpochStart {
    fn from(row: v1::EpochStart) -> Self {
        Self {
            epoch: row.epoch.map(Into::into).unwrap_or_default(),
            previous_end: row.previous_end.map(Into::into).unwrap_or_default(),
            chain: row.chain,
        }
    }
}

/// An epoch table as message rows.
#[must_use]
pub fn epoch_rows(table: &EpochTable) -> Vec<v1::EpochStart> {
    table.rows().iter().map(|row| (*row).into()).collect()
}

/// Reads an epoch table.
///
/// # Errors
/// [`Invalid`] if the rows do not rise.
pub fn epoch_table(rows: Vec<v1::EpochStart>) -> Result<EpochTable, Invalid> {
    let rows = rows.into_iter().map(Into::into).collect();
    EpochTable::from_rows(rows).map_err(|_| Invalid("epochs"))
}

impl From<CommitConstraint> for v1::CommitConstraint {
    fn from(constraint: CommitConstraint) -> Self {
        match constraint {
            CommitConstraint::None => Self::None,
            CommitConstraint::SecondCopy => Self::SecondCopy,
            CommitConstraint::SecondDatacenter => Self::SecondDatacenter,
            CommitConstraint::AllDatacenters => Self::AllDatacenters,
            CommitConstraint::AllCopies => Self::AllCopies,
            CommitConstraint::Majority => Self::Majority,
        }
    }
}

impl TryFrom<v1::CommitConstraint> for CommitConstraint {
    type Error = Invalid;

    fn try_from(constraint: v1::CommitConstraint) -> Result<Self, Invalid> {
        Ok(match constraint {
            v1::CommitConstraint::Unspecified => return Err(Invalid("constraint")),
            v1::CommitConstraint::None => Self::None,
            v1::CommitConstraint::SecondCopy => Self::SecondCopy,
            v1::CommitConstraint::SecondDatacenter => Self::SecondDatacenter,
            v1::CommitConstraint::AllDatacenters => Self::AllDatacenters,
            v1::CommitConstraint::AllCopies => Self::AllCopies,
            v1::CommitConstraint::Majority => Self::Majority,
        })
    }
}

impl From<&CommitRule> for v1::CommitRule {
    fn from(rule: &CommitRule) -> Self {
        let participant = |p: &Participant| v1::Participant {
            copy: Bytes::copy_from_slice(&p.copy.into_bytes()),
            member: Bytes::copy_from_slice(&p.member.into_bytes()),
            site: p.site.to_string(),
        };
        Self {
            version: rule.version,
            active: Bytes::copy_from_slice(&rule.active.into_bytes()),
            constraint: v1::CommitConstraint::from(rule.constraint).into(),
            participants: rule.participants.iter().map(participant).collect(),
        }
    }
}

impl TryFrom<v1::CommitRule> for CommitRule {
    type Error = Invalid;

    fn try_from(rule: v1::CommitRule) -> Result<Self, Invalid> {
        let constraint = rule.constraint().try_into()?;
        let participant = |p: &v1::Participant| -> Result<Participant, Invalid> {
            Ok(Participant {
                copy: CopyId::from_slice(&p.copy).ok_or(Invalid("participants.copy"))?,
                member: MemberId::from_slice(&p.member).ok_or(Invalid("participants.member"))?,
                site: SiteName::new(p.site.clone()).map_err(|_| Invalid("participants.site"))?,
            })
        };
        Ok(Self {
            version: rule.version,
            active: CopyId::from_slice(&rule.active).ok_or(Invalid("active"))?,
            constraint,
            participants: rule.participants.iter().map(participant).collect::<Result<_, _>>()?,
        })
    }
}

impl From<Watermarks> for v1::Watermarks {
    fn from(marks: Watermarks) -> Self {
        Self {
            truncated: Some(marks.truncated.into()),
            checkpointed: Some(marks.checkpointed.into()),
            replayed: Some(marks.replayed.into()),
            inspected: Some(marks.inspected.into()),
            generated: Some(marks.generated.into()),
            committed: Some(marks.committed.into()),
        }
    }
}

impl From<v1::Watermarks> for Watermarks {
    fn from(marks: v1::Watermarks) -> Self {
        let position = |p: Option<v1::Position>| p.map(Into::into).unwrap_or_default();
        Self {
            truncated: position(marks.truncated),
            checkpointed: position(marks.checkpointed),
            replayed: position(marks.replayed),
            inspected: position(marks.inspected),
            generated: position(marks.generated),
            committed: position(marks.committed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_survives_the_wire_and_a_bad_one_is_refused() {
        let rule = CommitRule {
            version: 3,
            active: CopyId::from_u128(1),
            constraint: CommitConstraint::Majority,
            participants: vec![Participant {
                copy: CopyId::from_u128(1),
                member: MemberId::from_u128(2),
                site: SiteName::new("east").expect("valid"),
            }],
        };
        assert_eq!(CommitRule::try_from(v1::CommitRule::from(&rule)), Ok(rule.clone()));
        let mut bad = v1::CommitRule::from(&rule);
        bad.participants[0].copy = Bytes::from_static(b"short");
        assert_eq!(CommitRule::try_from(bad), Err(Invalid("participants.copy")));
    }

    #[test]
    fn absent_positions_mean_zero() {
        assert_eq!(LogEnd::from(v1::LogEnd::default()), LogEnd::ZERO);
    }
}
