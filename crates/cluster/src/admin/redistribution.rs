//! Redistribution of active databases, asked for or from time to time.

use std::collections::BTreeMap;
use std::sync::Arc;

use keelson_cluster_core::ClusterState;
use keelson_cluster_core::redistribute::{
    Balance, Distribution, WantedMove, distribution, keep_left, redistribute,
};
use keelson_types::{Automation, MemberId, RefusalReason};
use keelson_wire::Refusal;
use keelson_wire::v1::{DistributionRow, MoveRow, RedistributeRequest, RedistributeResponse};

use super::moves::MoveOrder;
use super::refusal;
use crate::context::Context;

/// How much sites may differ, in per cent (F119).
const DEVIATION: u32 = 20;

impl Context {
    pub(super) async fn admin_redistribute(
        self: &Arc<Self>,
        request: RedistributeRequest,
    ) -> Result<RedistributeResponse, Refusal> {
        self.require_leader()?;
        let deviation = request.deviation.unwrap_or(DEVIATION);
        if deviation > 100 {
            let what = format!("a deviation is 0 to 100 per cent, not {deviation}");
            return Err(refusal(RefusalReason::BadArgument, what));
        }
        let balance = match request.by_site {
            true => Balance::BySite { deviation },
            false => Balance::ByPreference,
        };
        let (wanted, before) = self.applied.read(|state| {
            let wanted = redistribute(state, balance, Automation::Redistribution);
            (wanted, rows(state, &distribution(state, &[])))
        });
        let order = order(&wanted, "redistribution").what_if(request.what_if);
        let moves = self.move_databases(order).await?;
        let done = done(&wanted, &moves);
        let after = self.applied.read(|state| rows(state, &distribution(state, &done)));
        Ok(RedistributeResponse { moves, before, after })
    }

    /// Moves databases to the copy that they prefer, where every check passes (F123).
    pub(crate) async fn move_to_preferred(self: &Arc<Self>) -> Result<Vec<MoveRow>, Refusal> {
        let mover = Automation::PreferenceMoves;
        let wanted = self.applied.read(|state| redistribute(state, Balance::ByPreference, mover));
        self.move_databases(order(&wanted, "preference move").at_once()).await
    }

    /// Moves databases away from members that are to be empty, where every check passes (F28).
    pub(crate) async fn keep_left(self: &Arc<Self>) -> Result<Vec<MoveRow>, Refusal> {
        let wanted = self.applied.read(keep_left);
        if wanted.is_empty() {
            return Ok(Vec::new());
        }
        self.move_databases(order(&wanted, "its member is to be left").at_once()).await
    }
}

/// Each to where it is wanted, unless something speaks against it.
fn order(wanted: &[WantedMove], comment: &str) -> MoveOrder {
    let databases = wanted.iter().map(|wanted| (wanted.database, Some(wanted.to))).collect();
    MoveOrder::of(databases, comment).careful()
}

/// What is moved, in the order of the rows: those that were left to a later request are not.
fn done(wanted: &[WantedMove], moves: &[MoveRow]) -> Vec<WantedMove> {
    let pairs = wanted.iter().zip(moves);
    let moved = pairs.filter(|(_, row)| matches!(row.result.as_str(), "moving" | "would_move"));
    moved.map(|(wanted, _)| *wanted).collect()
}

fn rows(state: &ClusterState, spread: &BTreeMap<MemberId, Distribution>) -> Vec<DistributionRow> {
    let row = |(id, row): (&MemberId, &Distribution)| {
        let config = state.members.get(id).map(|member| &member.config);
        DistributionRow {
            member: config.map(|config| config.name.to_string()).unwrap_or_default(),
            site: config.map(|config| config.site.to_string()).unwrap_or_default(),
            active: row.active,
            passive: row.passive,
            mounted: row.mounted,
            dismounted: row.dismounted,
            preferences: row.preferences.clone(),
        }
    };
    let mut rows: Vec<_> = spread.iter().map(row).collect();
    rows.sort_by(|a, b| a.member.cmp(&b.member));
    rows
}
