//! The record of a seed, beside the control file: whose files lie there, and what becomes of them.
//!
//! ```text
//! magic "KEELSEEK" · version u8 · operation, old copy, new copy (16 bytes each)
//! old files u8 (0 keep, 1 delete) · staged u8 (0 nothing, 1 checkpoint, 2 verified; 2 since
//! version 2)
//! source member, source copy, checkpoint (16 bytes each; zeros for nothing) · CRC-32 of all of it
//! ```

use keelson_types::{CheckpointId, CopyId, MemberId, OldFiles, OperationId};

use crate::DecodeError;

const MAGIC: [u8; 8] = *b"KEELSEEK";
/// The first version that knows what is staged to be verified.
const VERSION: u8 = 2;
/// Length of an encoded record.
pub const SEED_RECORD_BYTES_MAX: usize = 8 + 1 + 3 * 16 + 2 + 3 * 16 + 4;

/// What lies in staging.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Staged {
    /// Nothing that is of use.
    Nothing,
    /// Files of this checkpoint, made by this copy on this member.
    Checkpoint(MemberId, CopyId, CheckpointId),
    /// All files of this checkpoint, verified; they are being put in place. An index that is in
    /// place has left staging.
    Verified(MemberId, CopyId, CheckpointId),
}

impl Staged {
    /// The source of what is staged, and its checkpoint.
    #[must_use]
    pub const fn checkpoint(self) -> Option<(MemberId, CopyId, CheckpointId)> {
        match self {
            Self::Nothing => None,
            Self::Checkpoint(member, copy, id) | Self::Verified(member, copy, id) => {
                Some((member, copy, id))
            }
        }
    }
}

/// What a seed is about, durably. Written before anything of the new copy exists.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SeedRecord {
    /// The operation.
    pub operation: OperationId,
    /// The copy that is replaced.
    pub old: CopyId,
    /// The copy that is made; its files are named by this id. That of the old copy if only its
    /// index is.
    pub new: CopyId,
    /// What becomes of the old copy's files.
    pub old_files: OldFiles,
    /// What lies in staging.
    pub staged: Staged,
}

impl SeedRecord {
    /// Whether a new copy is made, not only an index for the copy that is there.
    #[must_use]
    pub fn makes_copy(&self) -> bool {
        self.old != self.new
    }

    /// The bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(SEED_RECORD_BYTES_MAX);
        out.extend_from_slice(&MAGIC);
        out.push(if matches!(self.staged, Staged::Verified(..)) { VERSION } else { 1 });
        let ids = [self.operation.into_bytes(), self.old.into_bytes(), self.new.into_bytes()];
        ids.iter().for_each(|id| out.extend_from_slice(id));
        out.push(u8::from(self.old_files == OldFiles::Delete));
        out.push(match self.staged {
            Staged::Nothing => 0,
            Staged::Checkpoint(..) => 1,
            Staged::Verified(..) => 2,
        });
        let ids = self.staged.checkpoint().map_or([[0; 16]; 3], |(member, copy, checkpoint)| {
            [member.into_bytes(), copy.into_bytes(), checkpoint.into_bytes()]
        });
        ids.iter().for_each(|id| out.extend_from_slice(id));
        let crc = crc32fast::hash(&out);
        out.extend_from_slice(&crc.to_le_bytes());
        out
    }

    /// Reads a record.
    ///
    /// # Errors
    /// The bytes are none of this version, or rotted.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let malformed = DecodeError::Malformed("seed record");
        if bytes.get(..8) != Some(&MAGIC[..]) {
            return Err(malformed);
        }
        let version = *bytes.get(8).ok_or(DecodeError::Short)?;
        if version > VERSION {
            return Err(DecodeError::Version(version));
        }
        let (body, crc) = bytes.split_last_chunk::<4>().ok_or(DecodeError::Short)?;
        if bytes.len() != SEED_RECORD_BYTES_MAX || crc32fast::hash(body) != u32::from_le_bytes(*crc)
        {
            return Err(malformed);
        }
        let id = |at: usize| {
            let mut id = [0; 16];
            id.copy_from_slice(&body[at..at + 16]);
            id
        };
        let (member, copy) = (MemberId::from_bytes(id(59)), CopyId::from_bytes(id(75)));
        let checkpoint = CheckpointId::from_bytes(id(91));
        let staged = match body[58] {
            0 => Staged::Nothing,
            1 => Staged::Checkpoint(member, copy, checkpoint),
            2 => Staged::Verified(member, copy, checkpoint),
            _ => return Err(malformed),
        };
        Ok(Self {
            operation: OperationId::from_bytes(id(9)),
            old: CopyId::from_bytes(id(25)),
            new: CopyId::from_bytes(id(41)),
            old_files: if body[57] == 1 { OldFiles::Delete } else { OldFiles::Keep },
            staged,
        })
    }
}

/// What is done with what a seed left, when no order names it any more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cleanup {
    /// The copy is the seed's: staging goes, and the old files if that was asked for.
    Succeeded {
        /// The old copy's files go, too.
        remove_old: bool,
    },
    /// It ended without success, or made an index alone: staging and all files of the new copy go.
    GivenUp,
    /// The seed is still wanted.
    Wait,
}

/// See [`Cleanup`]. `assigned` is the copy that consensus has on this member, `wanted` the
/// operation that it seeds by.
#[must_use]
pub fn after_seed(record: &SeedRecord, assigned: CopyId, wanted: Option<OperationId>) -> Cleanup {
    if record.makes_copy() && assigned == record.new {
        return Cleanup::Succeeded { remove_old: record.old_files == OldFiles::Delete };
    }
    if wanted == Some(record.operation) { Cleanup::Wait } else { Cleanup::GivenUp }
}
