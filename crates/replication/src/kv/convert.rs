//! Requests of clients, checked: sizes first, then meaning.

use bytes::Bytes;
use keelson_types::{BATCH_BYTES_MAX, KEY_BYTES_MAX, RefusalReason, VALUE_BYTES_MAX};
use keelson_wire::{Refusal, ids, v1};

use crate::writer::{Condition, Operation, Stamp, WriteBody};

fn key(key: Bytes) -> Result<Bytes, Refusal> {
    if key.is_empty() || key.len() > KEY_BYTES_MAX {
        let message = format!("the key has {} bytes", key.len());
        return Err(Refusal::new(RefusalReason::BadKey, message));
    }
    Ok(key)
}

/// A border of a range may be empty: before everything.
fn border(key: Bytes) -> Result<Bytes, Refusal> {
    if key.len() > KEY_BYTES_MAX {
        let message = format!("the border has {} bytes", key.len());
        return Err(Refusal::new(RefusalReason::BadKey, message));
    }
    Ok(key)
}

fn value(value: Bytes) -> Result<Bytes, Refusal> {
    if value.len() > VALUE_BYTES_MAX {
        let message = format!("the value has {} bytes", value.len());
        return Err(Refusal::new(RefusalReason::ValueTooLarge, message));
    }
    Ok(value)
}

fn stamp(stamp: Option<&v1::SessionStamp>) -> Result<Option<Stamp>, Refusal> {
    let Some(stamp) = stamp else { return Ok(None) };
    let session = ids::session(&stamp.session)?;
    if stamp.sequence == 0 || stamp.lowest_unanswered > stamp.sequence {
        let message = "a stamp counts from 1, and nothing above it can be answered";
        return Err(Refusal::new(RefusalReason::BadArgument, message));
    }
    let (sequence, lowest_unanswered) = (stamp.sequence, stamp.lowest_unanswered);
    Ok(Some(Stamp { session, sequence, lowest_unanswered }))
}

fn one(operation: Operation, stamped: Option<&v1::SessionStamp>) -> Result<WriteBody, Refusal> {
    let (conditions, operations) = (Vec::new(), vec![operation]);
    Ok(WriteBody::Apply { conditions, operations, stamp: stamp(stamped)? })
}

pub(super) fn put(
    k: Bytes,
    v: Bytes,
    stamped: Option<&v1::SessionStamp>,
) -> Result<WriteBody, Refusal> {
    one(Operation::Put(key(k)?, value(v)?), stamped)
}

pub(super) fn delete(k: Bytes, stamped: Option<&v1::SessionStamp>) -> Result<WriteBody, Refusal> {
    one(Operation::Delete(key(k)?), stamped)
}

pub(super) fn delete_range(
    from: Bytes,
    to: Bytes,
    stamped: Option<&v1::SessionStamp>,
) -> Result<WriteBody, Refusal> {
    one(range(from, to)?, stamped)
}

fn range(from: Bytes, to: Bytes) -> Result<Operation, Refusal> {
    let to = border(to)?;
    Ok(Operation::DeleteRange(border(from)?, (!to.is_empty()).then_some(to)))
}

pub(super) fn write(request: v1::WriteRequest) -> Result<WriteBody, Refusal> {
    let operations: usize = request.operations.iter().map(prost::Message::encoded_len).sum();
    let conditions: usize = request.conditions.iter().map(prost::Message::encoded_len).sum();
    let bytes = operations + conditions;
    if bytes > BATCH_BYTES_MAX {
        let message = format!("the write has {bytes} bytes");
        return Err(Refusal::new(RefusalReason::BatchTooLarge, message));
    }
    let missing = |what| Refusal::new(RefusalReason::BadArgument, what);
    let condition = |condition: v1::Condition| {
        let key = key(condition.key)?;
        Ok::<_, Refusal>(match condition.test {
            Some(v1::condition::Test::Exists(wanted)) => Condition::Exists(key, wanted),
            Some(v1::condition::Test::Equals(wanted)) => Condition::Equals(key, wanted),
            None => return Err(missing("a condition without a test")),
        })
    };
    let operation = |operation: v1::WriteOperation| {
        use v1::write_operation::Operation as Op;
        Ok::<_, Refusal>(match operation.operation {
            Some(Op::Put(put)) => Operation::Put(key(put.key)?, value(put.value)?),
            Some(Op::Delete(deleted)) => Operation::Delete(key(deleted)?),
            Some(Op::DeleteRange(wanted)) => range(wanted.from, wanted.to)?,
            None => return Err(missing("an operation without content")),
        })
    };
    Ok(WriteBody::Apply {
        conditions: request.conditions.into_iter().map(condition).collect::<Result<_, _>>()?,
        operations: request.operations.into_iter().map(operation).collect::<Result<_, _>>()?,
        stamp: stamp(request.stamp.as_ref())?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_checked_at_their_borders() {
        let bytes = |n: usize| Bytes::from(vec![1; n]);
        assert!(put(bytes(KEY_BYTES_MAX), bytes(VALUE_BYTES_MAX), None).is_ok());
        let refused = |result: Result<WriteBody, Refusal>| result.map_err(|r| r.reason).err();
        let long = put(bytes(KEY_BYTES_MAX + 1), Bytes::new(), None);
        assert_eq!(refused(long), Some(RefusalReason::BadKey));
        assert_eq!(refused(put(Bytes::new(), Bytes::new(), None)), Some(RefusalReason::BadKey));
        let large = put(bytes(1), bytes(VALUE_BYTES_MAX + 1), None);
        assert_eq!(refused(large), Some(RefusalReason::ValueTooLarge));
    }

    #[test]
    fn a_batch_over_the_limit_and_empty_parts_are_refused() {
        let put = |n: usize| v1::WriteOperation {
            operation: Some(v1::write_operation::Operation::Put(v1::PutOperation {
                key: Bytes::from_static(b"k"),
                value: Bytes::from(vec![0; n]),
            })),
        };
        let request = |operations| v1::WriteRequest { operations, ..Default::default() };
        let big = write(request(vec![put(VALUE_BYTES_MAX), put(VALUE_BYTES_MAX)]));
        assert_eq!(big.map_err(|r| r.reason).err(), Some(RefusalReason::BatchTooLarge));
        let empty = write(request(vec![v1::WriteOperation { operation: None }]));
        assert_eq!(empty.map_err(|r| r.reason).err(), Some(RefusalReason::BadArgument));
    }
}
