//! What a log means: the content of every store that replayed it.

use std::collections::BTreeMap;

use keelson_types::{LogEnd, Position, Record};

/// Keys and values.
pub(super) type Content = BTreeMap<Vec<u8>, Vec<u8>>;

/// One committed frame.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Frame {
    pub(crate) end: LogEnd,
    pub(crate) records: Vec<Record>,
}

/// What a log makes of an empty store up to a position; `None` if no frame ends there.
pub(super) fn content_at(log: &[Frame], at: LogEnd) -> Option<Content> {
    let mut content = Content::new();
    let end = log.iter().position(|frame| frame.end == at);
    let replayed = end.map_or(0, |index| index + 1);
    for record in log[..replayed].iter().flat_map(|frame| &frame.records) {
        match record {
            Record::Put { key, value } => {
                content.insert(key.to_vec(), value.to_vec());
            }
            Record::Delete { key } => {
                content.remove(&key[..]);
            }
            Record::DeleteRange { from, to } => {
                content.retain(|key, _| key[..] < from[..] || key[..] >= to[..]);
            }
            other => panic!("no script has {other:?}"),
        }
    }
    (end.is_some() || at.position == Position::ZERO).then_some(content)
}
