//! Collects the facts of members for status pages: asked at the time of the call, with a short
//! deadline.
//!
//! Facts are for people and checks. No decision about an activation rests on them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use keelson_net::{ProcessUsage, SpanCounts};
use keelson_types::{DatabaseId, MemberId, RefusalReason};
use keelson_wire::v1::{
    CopyFacts, MemberFactsRequest, MemberFactsResponse, control_to_data, data_to_control,
};
use keelson_wire::{Refusal, ids};

use crate::context::Context;
use crate::peers::call;

/// Deadline of a question to a member.
const FACTS_DEADLINE: Duration = Duration::from_secs(1);
/// Deadline of the data process on the way; the member can still answer for itself.
const DATA_DEADLINE: Duration = Duration::from_millis(700);

/// What every member said, or why it said nothing.
pub(crate) type AllFacts = BTreeMap<MemberId, Result<MemberFactsResponse, Refusal>>;

impl Context {
    /// The facts of this member; without those of copies if its data process does not answer.
    pub(crate) async fn facts_here(&self, request: MemberFactsRequest) -> MemberFactsResponse {
        let running = *self.data.borrow();
        let answer = match running {
            None => None,
            Some(_) => {
                let request = control_to_data::Message::Facts(request);
                self.link.request(request, DATA_DEADLINE).await.ok()
            }
        };
        let facts = match answer {
            Some(data_to_control::Message::Facts(facts)) => Some(facts),
            _ => None,
        };
        let usage = ProcessUsage::now();
        let (audit_lines, audit_dropped_lines) = self.audit.counts();
        let (control_spans_exported, control_spans_dropped) = SpanCounts::of_process().told();
        let left = u64::try_from(self.lease_left().as_millis()).unwrap_or(u64::MAX);
        MemberFactsResponse {
            member: ids::bytes(self.identity.member),
            incarnation: running.map(ids::bytes).unwrap_or_default(),
            data_process_up: running.is_some() && facts.is_some(),
            control_pid: std::process::id(),
            lease_left_millis: left,
            control_resident_bytes: usage.resident_bytes,
            control_cpu_millis: usage.cpu_millis,
            control_open_files: usage.open_files,
            audit_lines,
            audit_dropped_lines,
            control_spans_exported,
            control_spans_dropped,
            certificate_expires_unix_millis: self.peers.certificate_expires_unix_ms(),
            ..facts.unwrap_or_default()
        }
    }

    /// The same, once both processes were told what the request speaks of.
    ///
    /// # Errors
    /// `deadline_exceeded` if they were not told in time.
    pub(crate) async fn facts_once_told(
        &self,
        request: MemberFactsRequest,
    ) -> Result<MemberFactsResponse, Refusal> {
        self.told(request.told_index).await?;
        Ok(self.facts_here(request).await)
    }

    /// Waits until both processes of this member were told what was decided at `index`.
    async fn told(&self, index: u64) -> Result<(), Refusal> {
        self.reached(index, DATA_DEADLINE).await?;
        if index == 0 {
            return Ok(());
        }
        self.bring_tokens_up_to_date();
        if self.data.borrow().is_none() {
            return Ok(());
        }
        let mut assigned = self.assigned.clone();
        let told = assigned.wait_for(|assigned| *assigned >= index);
        match tokio::time::timeout(DATA_DEADLINE, told).await {
            Ok(_) => Ok(()),
            Err(_) => {
                let what = format!("the data process was not told of entry {index} in time");
                Err(Refusal::new(RefusalReason::DeadlineExceeded, what))
            }
        }
    }

    /// The members that do not confirm in time that both their processes were told what was decided
    /// at `index`.
    pub(crate) async fn not_told(self: &Arc<Self>, index: u64) -> Vec<String> {
        let all: Vec<_> = self.applied.read(|state| state.members.keys().copied().collect());
        let ask = |member: MemberId| async move {
            // Of no database: that it answers is enough.
            let databases = vec![ids::bytes(DatabaseId::from_u128(0))];
            let request = MemberFactsRequest { databases, told_index: index };
            self.facts_from(member, request).await.is_err().then(|| self.name_of_member(member))
        };
        join_all(all.into_iter().map(ask)).await.into_iter().flatten().collect()
    }

    /// Asks `members` at the same time.
    pub(crate) async fn facts_of(
        self: &Arc<Self>,
        members: impl IntoIterator<Item = MemberId>,
        databases: &[DatabaseId],
    ) -> AllFacts {
        self.facts_once_told_of(members, databases, 0).await
    }

    /// The same, of each once both its processes were told what was decided at `told_index`.
    pub(crate) async fn facts_once_told_of(
        self: &Arc<Self>,
        members: impl IntoIterator<Item = MemberId>,
        databases: &[DatabaseId],
        told_index: u64,
    ) -> AllFacts {
        let databases: Vec<_> = databases.iter().map(|id| ids::bytes(*id)).collect();
        let ask = |member: MemberId| {
            let request = MemberFactsRequest { databases: databases.clone(), told_index };
            async move { (member, self.facts_from(member, request).await) }
        };
        join_all(members.into_iter().map(ask)).await.into_iter().collect()
    }

    async fn facts_from(
        &self,
        member: MemberId,
        request: MemberFactsRequest,
    ) -> Result<MemberFactsResponse, Refusal> {
        match self.remote(member)? {
            None => self.facts_once_told(request).await,
            Some(mut client) => {
                let send = |request| async move { client.member_facts(request).await };
                let facts = call(FACTS_DEADLINE, request, send).await?;
                check_author(member, &facts)?;
                Ok(facts)
            }
        }
    }
}

/// Whether these facts are of the recorded member. A server that lost its data drew another
/// identity: it answers at the same address under the same name, and none of what is recorded of
/// the member is true of it.
fn check_author(member: MemberId, facts: &MemberFactsResponse) -> Result<(), Refusal> {
    if ids::member(&facts.member)? == member {
        return Ok(());
    }
    let what = "another server, or one that lost its data, answers in its place";
    Err(Refusal::new(RefusalReason::ForeignMember, what))
}

/// The facts of one copy among those of its member.
pub(crate) fn of_copy(facts: &MemberFactsResponse, database: DatabaseId) -> Option<&CopyFacts> {
    let id = ids::bytes(database);
    facts.copies.iter().find(|copy| copy.database == id)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is said under the name of a member by another identity is not taken for its own.
    #[test]
    fn facts_of_another_identity_are_refused() {
        let (member, other) = (MemberId::from_u128(1), MemberId::from_u128(2));
        let facts = |id| MemberFactsResponse { member: ids::bytes(id), ..Default::default() };
        assert!(check_author(member, &facts(member)).is_ok());
        let refusal = check_author(member, &facts(other)).unwrap_err();
        assert_eq!(refusal.reason, RefusalReason::ForeignMember);
    }
}
