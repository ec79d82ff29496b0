//! A set of changes that apply together or not at all, with the conditions they depend on.

use bytes::Bytes;
use keelson_wire::v1;

/// Conditions and operations of one atomic write. At most 16 MiB as they are sent (keys, values and
/// a few bytes for each part); keys have 1 byte to 64 KiB, values at most 8 MiB. Anything else is
/// refused with a stable code before it is sent.
#[derive(Clone, Debug, Default)]
pub struct WriteBatch {
    pub(crate) conditions: Vec<v1::Condition>,
    pub(crate) operations: Vec<v1::WriteOperation>,
    bytes: usize,
}

impl WriteBatch {
    /// An empty batch.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Writes `value` under `key`.
    #[must_use]
    pub fn put(mut self, key: impl Into<Bytes>, value: impl Into<Bytes>) -> Self {
        self.push_put(key, value);
        self
    }

    /// As [`Self::put`], for loops.
    pub fn push_put(&mut self, key: impl Into<Bytes>, value: impl Into<Bytes>) {
        let (key, value) = (key.into(), value.into());
        self.bytes += key.len() + value.len();
        let put = v1::PutOperation { key, value };
        self.operation(v1::write_operation::Operation::Put(put));
    }

    /// Removes `key`.
    #[must_use]
    pub fn delete(mut self, key: impl Into<Bytes>) -> Self {
        let key = key.into();
        self.bytes += key.len();
        self.operation(v1::write_operation::Operation::Delete(key));
        self
    }

    /// Removes the keys in `from..to`; an empty `to` means to the end.
    #[must_use]
    pub fn delete_range(mut self, from: impl Into<Bytes>, to: impl Into<Bytes>) -> Self {
        let (from, to) = (from.into(), to.into());
        self.bytes += from.len() + to.len();
        let range = v1::RangeOperation { from, to };
        self.operation(v1::write_operation::Operation::DeleteRange(range));
        self
    }

    /// Nothing is applied unless `key` exists.
    #[must_use]
    pub fn if_exists(self, key: impl Into<Bytes>) -> Self {
        self.condition(key, v1::condition::Test::Exists(true))
    }

    /// Nothing is applied if `key` exists.
    #[must_use]
    pub fn if_absent(self, key: impl Into<Bytes>) -> Self {
        self.condition(key, v1::condition::Test::Exists(false))
    }

    /// Nothing is applied unless `key` has exactly `value`.
    #[must_use]
    pub fn if_equals(self, key: impl Into<Bytes>, value: impl Into<Bytes>) -> Self {
        self.condition(key, v1::condition::Test::Equals(value.into()))
    }

    /// Number of operations.
    #[must_use]
    pub fn len(&self) -> usize {
        self.operations.len()
    }

    /// Whether there is no operation.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.operations.is_empty()
    }

    /// Bytes of all keys and values of the operations.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    fn operation(&mut self, operation: v1::write_operation::Operation) {
        self.operations.push(v1::WriteOperation { operation: Some(operation) });
    }

    fn condition(mut self, key: impl Into<Bytes>, test: v1::condition::Test) -> Self {
        self.conditions.push(v1::Condition { key: key.into(), test: Some(test) });
        self
    }
}
