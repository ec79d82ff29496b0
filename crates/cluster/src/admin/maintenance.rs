//! Maintenance of members, and which activations they take.
//!
//! Maintenance is a mark of its own in the replicated state, so that what an administrator set is
//! there afterwards (unlike the model, F125). It is taken back when the databases of the member
//! cannot be moved away; moves that were done stay (F124).

use std::sync::Arc;
use std::time::Duration;

use keelson_cluster_core::{Command, MemberConfig, OperationState};
use keelson_types::{MemberId, MountDial, OperationId, RefusalReason};
use keelson_wire::v1::{
    BeginMaintenanceRequest, EndMaintenanceRequest, MaintenanceResponse, MoveRow, SetMemberRequest,
};
use keelson_wire::{Refusal, ids};

use super::copies::policy_named;
use super::moves::MoveOrder;
use super::refusal;
use crate::context::Context;

/// How long the moves of a maintenance may take before it is taken back, and what each adds.
const MOVES_DEADLINE: Duration = Duration::from_secs(20);
const MOVE_DEADLINE: Duration = Duration::from_millis(100);

impl Context {
    pub(super) async fn admin_begin_maintenance(
        self: &Arc<Self>,
        request: BeginMaintenanceRequest,
    ) -> Result<MaintenanceResponse, Refusal> {
        self.require_leader()?;
        let member = self.member_called(&request.member)?.id;
        let comment = match request.comment.as_str() {
            "" => format!("maintenance of {}", request.member),
            comment => comment.to_owned(),
        };
        let order = MoveOrder::away(self, member, &comment).all_or_none();
        let order = order.skipping(&request.skip)?.what_if(request.what_if);
        if request.what_if {
            return Ok(MaintenanceResponse { moves: self.move_databases(order).await? });
        }
        let _one_at_a_time = self.maintaining.lock().await;
        let before = self.applied.read(|state| {
            state.members.get(&member).is_some_and(|member| member.maintenance.is_some())
        });
        let begin = Command::BeginMaintenance { member, comment: request.comment };
        self.propose_here(begin).await?.answer()?;
        match self.leave(order).await {
            Ok(moves) => Ok(MaintenanceResponse { moves }),
            Err(refusal) => {
                if !before {
                    let undone = self.propose_here(Command::EndMaintenance { member }).await;
                    undone?.answer()?;
                }
                Err(refusal)
            }
        }
    }

    pub(super) async fn admin_end_maintenance(
        self: &Arc<Self>,
        request: EndMaintenanceRequest,
    ) -> Result<MaintenanceResponse, Refusal> {
        self.require_leader()?;
        let member = self.member_called(&request.member)?.id;
        self.propose_here(Command::EndMaintenance { member }).await?.answer()?;
        Ok(MaintenanceResponse { moves: Vec::new() })
    }

    /// Moves databases and waits until each is where it was to go.
    async fn leave(self: &Arc<Self>, order: MoveOrder) -> Result<Vec<MoveRow>, Refusal> {
        let moves = self.move_databases(order).await?;
        self.moved(&moves).await?;
        Ok(moves)
    }

    /// Waits until all these moves are done; fails with the first that was refused or failed.
    pub(super) async fn moved(self: &Arc<Self>, moves: &[MoveRow]) -> Result<(), Refusal> {
        if let Some(refused) = moves.iter().find(|row| row.result == "refused") {
            let reason = RefusalReason::from_code(&refused.code).unwrap_or(RefusalReason::Internal);
            return Err(refusal(reason, refused.message.clone()));
        }
        let begun = moves.iter().filter(|row| row.result == "moving");
        let begun =
            begun.map(|row| ids::operation(&row.operation)).collect::<Result<Vec<_>, _>>()?;
        self.ended(&begun).await
    }

    /// Waits for operations.
    async fn ended(self: &Arc<Self>, operations: &[OperationId]) -> Result<(), Refusal> {
        let look = || {
            self.applied.read(|state| {
                let known = operations.iter().filter_map(|id| state.operations.get(id));
                let states: Vec<_> = known.map(|operation| operation.state.clone()).collect();
                states
            })
        };
        let mut applied = self.applied.watch();
        let all = async {
            while look().contains(&OperationState::Running) {
                if applied.changed().await.is_err() {
                    return;
                }
            }
        };
        let count = u32::try_from(operations.len()).unwrap_or(u32::MAX);
        let deadline = MOVES_DEADLINE.saturating_add(MOVE_DEADLINE.saturating_mul(count));
        tokio::time::timeout(deadline, all).await.map_err(|_| {
            let what = format!("the moves did not end within {deadline:?}");
            refusal(RefusalReason::DeadlineExceeded, what)
        })?;
        let failed = look().into_iter().find_map(|state| match state {
            OperationState::Failed(refusal) => Some(refusal),
            OperationState::Running | OperationState::Succeeded => None,
        });
        failed.map_or(Ok(()), |why| Err(refusal(why.reason, why.message)))
    }

    /// Changes which activations a member takes, and moves its databases away if it is to be left
    /// from now on (F28). What cannot be moved stays; the answer says why.
    pub(super) async fn set_activation(
        self: &Arc<Self>,
        config: &MemberConfig,
        asked: &SetMemberRequest,
    ) -> Result<Vec<MoveRow>, Refusal> {
        let member = config.id;
        let known = self.applied.read(|state| state.members.get(&member).map(|m| m.activation));
        let known = known.unwrap_or_default();
        let mut wanted = known;
        if let Some(name) = &asked.activation_policy {
            wanted.policy = policy_named(name)?;
        }
        let limits = [
            (asked.max_active, &mut wanted.max_active),
            (asked.max_active_preferred, &mut wanted.max_active_preferred),
        ];
        for (asked, limit) in limits {
            if let Some(asked) = asked {
                // Negative: no limit.
                *limit = u32::try_from(asked).ok();
            }
        }
        if let Some(dial) = &asked.auto_database_mount_dial {
            wanted.dial = automatic_dial(dial)?;
        }
        wanted.move_away = asked.move_away.unwrap_or(known.move_away);
        if wanted != known {
            let command = Command::SetActivation { member, activation: wanted };
            self.propose_here(command).await?.answer()?;
        }
        if asked.move_away != Some(true) {
            return Ok(Vec::new());
        }
        self.move_away(member).await
    }

    async fn move_away(self: &Arc<Self>, member: MemberId) -> Result<Vec<MoveRow>, Refusal> {
        self.move_databases(MoveOrder::away(self, member, "move away")).await
    }
}

/// A mount dial that may be set: any loss is accepted by an operator's word alone (G3).
fn automatic_dial(name: &str) -> Result<MountDial, Refusal> {
    let named = name.parse::<MountDial>();
    match named.map_err(|what| refusal(RefusalReason::BadArgument, what))? {
        MountDial::BestEffort => {
            let what = "best_effort is an operator's word for one move or mount, no setting";
            Err(refusal(RefusalReason::BadArgument, what))
        }
        dial => Ok(dial),
    }
}
