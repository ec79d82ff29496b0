//! Compares the content of all copies of a database at one log position.
//!
//! A marker goes into the log of the active copy; every copy takes a digest where it replays the
//! marker. Copies that did not answer make the result "not equal": nobody can vouch for them.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use keelson_types::{MemberId, RefusalReason, Span, StoreKey};
use keelson_wire::Refusal;
use keelson_wire::v1::{
    CompareDigestsRequest, CompareDigestsResponse, DigestRow, GetDigestRequest, PlaceMarkerRequest,
    RepairCopyRequest, RepairCopyResponse, RepairRangeRequest,
};

use super::refusal;
use crate::context::Context;
use crate::peers::call;

/// How long the active may take to commit a marker.
const MARKER_DEADLINE: Duration = Duration::from_secs(5);
/// How long a copy may take to replay the marker and read itself through.
const DIGEST_DEADLINE: Duration = Duration::from_secs(60);

impl Context {
    pub(super) async fn admin_compare_digests(
        self: &Arc<Self>,
        request: CompareDigestsRequest,
    ) -> Result<CompareDigestsResponse, Refusal> {
        self.cluster()?;
        let database = self.database_called(&request.database)?;
        let name = database.name.to_string();
        let active = database.target_member().ok_or_else(|| {
            refusal(RefusalReason::Activating, format!("{name} has no active copy at the moment"))
        })?;
        let (member, address) = self.data_side(active)?;
        let mut client = self.peers.replication(&member, &address);
        let place = PlaceMarkerRequest { database: name.clone() };
        let placed = call(MARKER_DEADLINE, place, |r| async move { client.place_marker(r).await });
        let marker = placed.await?.marker;
        let holders = database.copies.values().map(|copy| copy.member);
        let rows = join_all(holders.map(|holder| self.digest_of(holder, &name, marker))).await;
        let first = rows.first().map(|row| (row.digest.clone(), row.at));
        let equal = rows
            .iter()
            .all(|row| row.answered && first.as_ref() == Some(&(row.digest.clone(), row.at)));
        Ok(CompareDigestsResponse { equal, rows })
    }

    pub(super) async fn admin_repair_copy(
        self: &Arc<Self>,
        request: RepairCopyRequest,
    ) -> Result<RepairCopyResponse, Refusal> {
        self.cluster()?;
        let (database, member) = (self.database_called(&request.database)?, request.member);
        let holder = self.member_called(&member)?.id;
        if database.copy_on(holder).is_none() {
            let what = format!("{member} holds no copy of {}", database.name);
            return Err(refusal(RefusalReason::UnknownCopy, what));
        }
        let span = match (request.from.is_empty(), request.to.is_empty()) {
            (true, true) => Some(Span::all()),
            (_, open) => {
                let to = Some(StoreKey::User(request.to)).filter(|_| !open);
                Span::new(StoreKey::User(request.from), to)
            }
        };
        let empty = || refusal(RefusalReason::BadArgument, "there is no key between these");
        let spans = vec![(&span.ok_or_else(empty)?).into()];
        let (member, address) = self.data_side(holder)?;
        let mut client = self.peers.replication(&member, &address);
        let request = RepairRangeRequest { database: database.name.to_string(), spans };
        call(MARKER_DEADLINE, request, |r| async move { client.repair_range(r).await }).await?;
        Ok(RepairCopyResponse {})
    }

    /// Name and data address of a member.
    pub(super) fn data_side(&self, member: MemberId) -> Result<(String, String), Refusal> {
        let found = self.applied.read(|state| {
            let config = &state.members.get(&member)?.config;
            Some((config.name.to_string(), config.data_address.clone()))
        });
        found.ok_or_else(|| refusal(RefusalReason::UnknownMember, format!("no member {member}")))
    }

    async fn digest_of(&self, holder: MemberId, database: &str, marker: u64) -> DigestRow {
        let answer = match self.data_side(holder) {
            Err(refusal) => Err(refusal),
            Ok((member, address)) => {
                let mut client = self.peers.replication(&member, &address);
                let request = GetDigestRequest { database: database.to_owned(), marker };
                call(DIGEST_DEADLINE, request, |r| async move { client.get_digest(r).await }).await
            }
        };
        let member = self.name_of_member(holder);
        match answer {
            Ok(taken) => DigestRow {
                member,
                answered: true,
                at: taken.at,
                digest: taken.digest,
                problem: String::new(),
            },
            Err(refusal) => {
                DigestRow { member, problem: refusal.to_string(), ..DigestRow::default() }
            }
        }
    }
}
