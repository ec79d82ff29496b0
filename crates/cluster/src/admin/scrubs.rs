//! Begins scrubs of copies, at the members that hold them. Status shows how far they are.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use keelson_types::{MemberId, RefusalReason};
use keelson_wire::Refusal;
use keelson_wire::v1::{ScrubCopiesRequest, ScrubCopiesResponse, ScrubCopyRequest, ScrubStarted};

use super::refusal;
use crate::context::Context;
use crate::peers::call;

/// How long a member may take to say that it has begun.
const DEADLINE: Duration = Duration::from_secs(2);

impl Context {
    pub(super) async fn admin_scrub_copies(
        self: &Arc<Self>,
        request: ScrubCopiesRequest,
    ) -> Result<ScrubCopiesResponse, Refusal> {
        self.cluster()?;
        let database = self.database_called(&request.database)?;
        let only = match request.member.as_str() {
            "" => None,
            name => Some(self.member_called(name)?.id),
        };
        let holders = database.copies.values().map(|copy| copy.member);
        let chosen: Vec<_> = holders.filter(|id| only.is_none_or(|only| only == *id)).collect();
        if chosen.is_empty() {
            let message = format!("{} has no copy on {}", database.name, request.member);
            return Err(refusal(RefusalReason::UnknownCopy, message));
        }
        let name = database.name.to_string();
        let copies = join_all(chosen.into_iter().map(|holder| self.scrub_on(holder, &name))).await;
        Ok(ScrubCopiesResponse { copies })
    }

    async fn scrub_on(&self, holder: MemberId, database: &str) -> ScrubStarted {
        let begun = match self.data_side(holder) {
            Err(refusal) => Err(refusal),
            Ok((member, address)) => {
                let mut client = self.peers.replication(&member, &address);
                let request = ScrubCopyRequest { database: database.to_owned(), differs_at: None };
                call(DEADLINE, request, |r| async move { client.scrub_copy(r).await }).await
            }
        };
        let (ended_before, problem) = match begun {
            Ok(begun) => (begun.ended_before, String::new()),
            Err(refusal) => (0, refusal.to_string()),
        };
        ScrubStarted { member: self.name_of_member(holder), ended_before, problem }
    }
}
