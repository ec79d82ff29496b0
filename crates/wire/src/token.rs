//! Commit tokens: opaque to clients, versioned, and bound to stream and epoch, so that a token of a
//! discarded timeline is never mistaken for a newer one (review S13, F6).

use bytes::{Buf, BufMut, Bytes, BytesMut};
use keelson_types::{Epoch, HybridTime, LogEnd, Position, StreamId};

const VERSION: u8 = 1;
const LENGTH: usize = 1 + 16 + 4 + 8 + 8 + 8 + 8;

/// Where and when a write was committed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CommitToken {
    /// The log stream.
    pub stream: StreamId,
    /// Epoch of the frame and position behind it.
    pub end: LogEnd,
    /// Timestamp of the frame.
    pub time: HybridTime,
}

/// A token that this version cannot read.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the token is malformed or of a newer version")]
pub struct TokenError;

impl CommitToken {
    /// The bytes handed to clients.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(LENGTH);
        out.put_u8(VERSION);
        out.put_slice(&self.stream.into_bytes());
        out.put_u32(self.end.epoch.recovery);
        out.put_u64(self.end.epoch.counter);
        out.put_u64(self.end.position.generation.0);
        out.put_u64(self.end.position.offset);
        out.put_u64(self.time.0);
        out.freeze()
    }

    /// Reads a token.
    ///
    /// # Errors
    /// [`TokenError`] for any other length or version.
    pub fn decode(bytes: &[u8]) -> Result<Self, TokenError> {
        if bytes.len() != LENGTH || bytes[0] != VERSION {
            return Err(TokenError);
        }
        let stream = StreamId::from_slice(&bytes[1..17]).ok_or(TokenError)?;
        let mut rest = &bytes[17..];
        let epoch = Epoch::new(rest.get_u32(), rest.get_u64());
        let position = Position::new(rest.get_u64(), rest.get_u64());
        Ok(Self { stream, end: LogEnd { epoch, position }, time: HybridTime(rest.get_u64()) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_survives_the_way_to_a_client_and_back() {
        let token = CommitToken {
            stream: StreamId::from_u128(7),
            end: LogEnd { epoch: Epoch::new(1, 2), position: Position::new(3, 4) },
            time: HybridTime(5),
        };
        assert_eq!(CommitToken::decode(&token.encode()), Ok(token));
        assert_eq!(CommitToken::decode(&token.encode()[1..]), Err(TokenError));
        assert_eq!(CommitToken::decode(b""), Err(TokenError));
    }
}
