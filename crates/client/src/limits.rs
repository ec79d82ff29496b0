//! What a database takes, checked before anything is sent.
//!
//! A message over the bound of the transport breaks the connection instead of being refused, and a
//! broken connection looks like a write of unknown outcome. So the bounds are enforced on this
//! side, with the reasons that the server would give; the server checks them as well.

use keelson_types::{BATCH_BYTES_MAX, KEY_BYTES_MAX, RefusalReason, VALUE_BYTES_MAX};
use keelson_wire::v1::{self, condition::Test, write_operation::Operation};
use prost::Message;

use crate::{ClientError, WriteBatch};

/// A key of a record.
///
/// # Errors
/// `bad_key`: it is empty or too long.
pub(crate) fn key(key: &[u8]) -> Result<(), ClientError> {
    if key.is_empty() {
        return Err(ClientError::new(RefusalReason::BadKey, "the key is empty"));
    }
    border(key)
}

/// A border of a range, which may be empty.
///
/// # Errors
/// `bad_key`: it is too long.
pub(crate) fn border(key: &[u8]) -> Result<(), ClientError> {
    at_most("key", key.len(), KEY_BYTES_MAX, RefusalReason::BadKey)
}

/// A value of a record.
///
/// # Errors
/// `value_too_large`.
pub(crate) fn value(value: &[u8]) -> Result<(), ClientError> {
    at_most("value", value.len(), VALUE_BYTES_MAX, RefusalReason::ValueTooLarge)
}

/// A batch with all its parts. Its size is counted as it is sent, conditions included.
///
/// # Errors
/// `bad_key`, `value_too_large` or `batch_too_large`.
pub(crate) fn batch(batch: &WriteBatch) -> Result<(), ClientError> {
    batch.conditions.iter().try_for_each(condition)?;
    batch.operations.iter().try_for_each(operation)?;
    let conditions = batch.conditions.iter().map(Message::encoded_len);
    let parts = conditions.chain(batch.operations.iter().map(Message::encoded_len));
    // Each part has a tag and its length before it.
    let bytes = parts.map(|bytes| 1 + prost::length_delimiter_len(bytes) + bytes).sum();
    at_most("write", bytes, BATCH_BYTES_MAX, RefusalReason::BatchTooLarge)
}

fn condition(condition: &v1::Condition) -> Result<(), ClientError> {
    key(&condition.key)?;
    match &condition.test {
        Some(Test::Equals(wanted)) => value(wanted),
        Some(Test::Exists(_)) | None => Ok(()),
    }
}

fn operation(operation: &v1::WriteOperation) -> Result<(), ClientError> {
    match &operation.operation {
        Some(Operation::Put(put)) => key(&put.key).and_then(|()| value(&put.value)),
        Some(Operation::Delete(deleted)) => key(deleted),
        Some(Operation::DeleteRange(range)) => border(&range.from).and_then(|()| border(&range.to)),
        None => Ok(()),
    }
}

fn at_most(what: &str, bytes: usize, max: usize, reason: RefusalReason) -> Result<(), ClientError> {
    if bytes <= max {
        return Ok(());
    }
    Err(ClientError::new(reason, format!("the {what} has {bytes} bytes, more than {max}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reason(checked: Result<(), ClientError>) -> Option<RefusalReason> {
        checked.err().map(|error| error.reason)
    }

    #[test]
    fn limits_hold_at_their_borders() {
        use RefusalReason as R;
        assert_eq!(reason(key(&[1; KEY_BYTES_MAX])), None);
        assert_eq!(reason(key(&[1; KEY_BYTES_MAX + 1])), Some(R::BadKey));
        assert_eq!((reason(key(b"")), reason(border(b""))), (Some(R::BadKey), None));
        assert_eq!(reason(value(&vec![0; VALUE_BYTES_MAX])), None);
        assert_eq!(reason(value(&vec![0; VALUE_BYTES_MAX + 1])), Some(R::ValueTooLarge));
    }

    #[test]
    fn every_part_of_a_batch_is_checked_and_all_of_it_together() {
        use RefusalReason as R;
        let long = vec![b'k'; KEY_BYTES_MAX + 1];
        let new = WriteBatch::new;
        for bad in [
            new().put("", "v"),
            new().delete(long.clone()),
            new().delete_range("a", long.clone()),
            new().if_absent(long),
        ] {
            assert_eq!(reason(batch(&bad)), Some(R::BadKey), "{bad:?}");
        }
        let large = vec![0; VALUE_BYTES_MAX];
        let most = new().put("a", large.clone()).put("b", vec![0; VALUE_BYTES_MAX - 1024]);
        assert_eq!(reason(batch(&most)), None);
        let over = most.put("c", vec![0; 2048]);
        assert_eq!(reason(batch(&over)), Some(R::BatchTooLarge));
        // The conditions travel with the write.
        let over = new().if_equals("a", large.clone()).put("a", large);
        assert_eq!(reason(batch(&over)), Some(R::BatchTooLarge));
        let keys = (0..3_000_000).fold(new(), |batch, _| batch.delete("key"));
        assert_eq!(reason(batch(&keys)), Some(R::BatchTooLarge), "the frame of each part counts");
    }
}
