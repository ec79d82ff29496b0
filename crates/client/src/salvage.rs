//! Salvage of one copy: log that was cut off it and kept. Only its own member can read it.

use std::fmt;
use std::time::Duration;

use keelson_types::RefusalReason;
use keelson_wire::v1;
use tonic::Streaming;

use crate::client::Shared;
use crate::database::timed;
use crate::error::Failure;
use crate::{ClientError, Database, MemberAddresses};

/// How long a member may take to list.
const LIST_LIMIT: Duration = Duration::from_secs(10);
/// How long it may be silent while records are read.
const SILENCE: Duration = Duration::from_secs(90);

/// The records of one salvage, while they are read.
pub struct SalvageStream {
    answers: Streaming<v1::ReadSalvageResponse>,
    address: String,
    unread_bytes: u64,
}

impl fmt::Debug for SalvageStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SalvageStream").field("address", &self.address).finish_non_exhaustive()
    }
}

impl SalvageStream {
    /// The next records, in the order of the log; `None` at the end.
    ///
    /// # Errors
    /// The connection broke or was silent; read the salvage again.
    pub async fn next(&mut self) -> Result<Option<Vec<v1::SalvagedRecord>>, ClientError> {
        let answer = tokio::time::timeout(SILENCE, self.answers.message()).await;
        let answer = answer.map_err(|_| late(&self.address))?;
        let answer = answer.map_err(|status| Failure::of(&status, &self.address).error)?;
        self.unread_bytes += answer.as_ref().map_or(0, |answer| answer.unread_bytes);
        Ok(answer.map(|answer| answer.records))
    }

    /// Bytes that the member could not read any more; known at the end.
    #[must_use]
    pub fn unread_bytes(&self) -> u64 {
        self.unread_bytes
    }
}

impl Database {
    /// What the copy on this member keeps, oldest position first.
    ///
    /// # Errors
    /// `unknown_member`; `not_active` if it holds no copy; as for any read.
    pub async fn list_salvage(&self, member: &str) -> Result<Vec<v1::Salvage>, ClientError> {
        let address = data_address(self.shared(), member).await?;
        let request = v1::ListSalvageRequest { database: self.name().into() };
        let mut kv = self.shared().pool.kv(&address);
        let answer = kv.list_salvage(timed(request, LIST_LIMIT)).await;
        let answer = answer.map_err(|status| Failure::of(&status, &address).error)?;
        Ok(answer.into_inner().salvages)
    }

    /// The records of one of them.
    ///
    /// # Errors
    /// As [`Self::list_salvage`]; `bad_argument` for an unknown name.
    pub async fn read_salvage(&self, member: &str, id: &str) -> Result<SalvageStream, ClientError> {
        let address = data_address(self.shared(), member).await?;
        let request = v1::ReadSalvageRequest { database: self.name().into(), id: id.into() };
        let mut kv = self.shared().pool.kv(&address);
        let answer = tokio::time::timeout(LIST_LIMIT, kv.read_salvage(request)).await;
        let answer = answer.map_err(|_| late(&address))?;
        let answer = answer.map_err(|status| Failure::of(&status, &address).error)?;
        Ok(SalvageStream { answers: answer.into_inner(), address, unread_bytes: 0 })
    }

    /// Deletes one of them; nobody else may have what it holds.
    ///
    /// # Errors
    /// As [`Self::read_salvage`]; `salvage_retained` if its retention is not over, unless `before`.
    pub async fn delete_salvage(
        &self,
        member: &str,
        id: &str,
        before: bool,
    ) -> Result<(), ClientError> {
        let address = data_address(self.shared(), member).await?;
        let (database, id) = (self.name().into(), id.into());
        let request = v1::DeleteSalvageRequest { database, id, before_retention: before };
        let mut kv = self.shared().pool.kv(&address);
        let answer = kv.delete_salvage(timed(request, LIST_LIMIT)).await;
        answer.map_err(|status| Failure::of(&status, &address).error)?;
        Ok(())
    }
}

fn late(address: &str) -> ClientError {
    ClientError::new(RefusalReason::DeadlineExceeded, format!("{address} does not answer"))
}

pub(crate) async fn data_address(shared: &Shared, member: &str) -> Result<String, ClientError> {
    Ok(member_of(shared, member).await?.data)
}

/// Where a member is.
pub(crate) async fn member_of(
    shared: &Shared,
    member: &str,
) -> Result<MemberAddresses, ClientError> {
    let find = || shared.topology.picture().members.get(member).cloned();
    if let Some(address) = find() {
        return Ok(address);
    }
    shared.topology.refresh(&shared.pool).await?;
    let unknown = format!("there is no member {member}");
    find().ok_or_else(|| ClientError::new(RefusalReason::UnknownMember, unknown))
}
