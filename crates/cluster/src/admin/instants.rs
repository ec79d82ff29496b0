//! Activation at an instant: what an operator asks for, and what it would do.
//!
//! The instant is found by the member of the copy, in its own log; the decision is the active
//! manager's, which looks again once the copies are sealed.

use std::sync::Arc;
use std::time::Duration;

use keelson_cluster_core::{ActivateAt, Database, OperationKind};
use keelson_types::{MemberId, RefusalReason};
use keelson_wire::v1::{
    ActivateCopyRequest, InstantInfo, OperationStarted, PreviewActivationResponse,
    ResolveInstantRequest,
};
use keelson_wire::{Invalid, Refusal};

use super::refusal;
use crate::context::Context;
use crate::peers::call;

/// How long a member may take to read its log from where the store stands.
const RESOLVE_DEADLINE: Duration = Duration::from_secs(20);

impl Context {
    pub(super) async fn admin_activate_copy(
        self: &Arc<Self>,
        request: ActivateCopyRequest,
    ) -> Result<OperationStarted, Refusal> {
        let (database, on, instant) = self.find_instant(&request).await?;
        let kept = instant.kept.ok_or(Invalid("instant_info.kept"))?.into();
        let order = ActivateAt { on, kept, resync_others: request.resync_others };
        let kind = OperationKind::ActivateAt { database: database.id, order };
        self.begin(&request.operation, kind).await
    }

    pub(super) async fn admin_preview_activation(
        self: &Arc<Self>,
        request: ActivateCopyRequest,
    ) -> Result<PreviewActivationResponse, Refusal> {
        let (database, on, instant) = self.find_instant(&request).await?;
        let active = database.target_member();
        let holders = database.copies.values().map(|copy| copy.member);
        let facts = self.facts_of(holders.clone(), &[database.id]).await;
        let others = holders.filter(|member| *member != on && !request.resync_others);
        Ok(PreviewActivationResponse {
            instant: Some(instant),
            active: active.map(|member| self.name_of_member(member)).unwrap_or_default(),
            generated: super::losses::generated(&database, &facts).map(Into::into),
            holders: {
                let mut names: Vec<_> = others.map(|m| self.name_of_member(m)).collect();
                names.sort();
                names
            },
        })
    }

    async fn find_instant(
        self: &Arc<Self>,
        request: &ActivateCopyRequest,
    ) -> Result<(Database, MemberId, InstantInfo), Refusal> {
        self.require_leader()?;
        let (member, copy) = self.copy_holder(&request.database, &request.member)?;
        let database = self.database_called(&request.database)?;
        if database.target == Some(copy) {
            let what = format!(
                "the copy on {} is the active one and has replayed what would be discarded; name \
                 one that lags",
                request.member
            );
            return Err(refusal(RefusalReason::Precondition, what));
        }
        let (name, address) = self.data_side(member)?;
        let mut client = self.peers.replication(&name, &address);
        let asked = ResolveInstantRequest { database: request.database.clone(), at: request.at };
        let found =
            call(RESOLVE_DEADLINE, asked, |r| async move { client.resolve_instant(r).await });
        Ok((database, member, found.await?))
    }
}
