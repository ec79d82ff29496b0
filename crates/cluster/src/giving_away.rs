//! A member that stops in order moves its active databases away first (F17).
//!
//! A switchover is a pause of milliseconds for clients; what is still here when the member stops is
//! taken over when its lease is released. Nothing is waited for longer than a few seconds, and a
//! stop never fails because a database could not be moved.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use keelson_types::{DatabaseId, Setting};
use keelson_wire::Refusal;
use keelson_wire::v1::{MoveRequest, MoveRow};

use crate::context::Context;
use crate::peers::call;

/// How long the databases may take to go.
const DEADLINE: Duration = Duration::from_secs(3);

impl Context {
    /// Asks the leader to move the databases of this member, and waits until they are gone.
    pub(crate) async fn give_away(self: &Arc<Self>) {
        let here = self.assigned_here();
        let alone = self
            .applied
            .read(|state| state.members.len() < 2 || !state.settings.is_on(Setting::MoveAtStop));
        if here.is_empty() || alone {
            return;
        }
        match tokio::time::timeout(DEADLINE, self.gone()).await {
            Ok(Ok(())) => {}
            Ok(Err(refusal)) => tracing::info!(%refusal, "databases were not moved away"),
            Err(_) => tracing::info!("databases were not moved away in time"),
        }
    }

    fn assigned_here(&self) -> BTreeSet<DatabaseId> {
        let member = self.identity.member;
        self.applied.read(|state| state.assignments(member).map(|a| a.database).collect())
    }

    async fn gone(self: &Arc<Self>) -> Result<(), Refusal> {
        // What is behind, or without an index, is activated all the same once this member is gone.
        let skip = ["lag", "client_experience", "max_active", "move_suppression"];
        let name = self.identity.name.to_string();
        let request = MoveRequest {
            comment: format!("{name} stops"),
            server: name,
            skip: skip.map(str::to_owned).into(),
            at_once: true,
            ..MoveRequest::default()
        };
        let moves = self.ask_leader_to_move(request).await?;
        let moving = |row: &&MoveRow| row.result == "moving";
        let wanted: BTreeSet<_> =
            moves.iter().filter(moving).map(|row| row.database.clone()).collect();
        let mut applied = self.applied.watch();
        while self.assigned_here().iter().any(|id| wanted.contains(&self.database_name(*id))) {
            if applied.changed().await.is_err() {
                break;
            }
        }
        tracing::info!(moved = wanted.len(), of = moves.len(), "databases were moved away");
        Ok(())
    }

    async fn ask_leader_to_move(
        self: &Arc<Self>,
        request: MoveRequest,
    ) -> Result<Vec<MoveRow>, Refusal> {
        if self.is_leader() {
            return Ok(self.admin_move_databases(request).await?.moves);
        }
        let (_, leader) = self.leader().ok_or_else(|| self.not_leader())?;
        let mut client = self.peers.admin(&leader.name, &leader.control_address);
        let send = |request| async move { client.move_databases(request).await };
        Ok(call(DEADLINE, request, send).await?.moves)
    }

    fn database_name(&self, id: DatabaseId) -> String {
        let name = self.applied.read(|state| state.databases.get(&id).map(|d| d.name.to_string()));
        name.unwrap_or_default()
    }
}
