//! The cluster and its databases, as the state of this member has them.

use keelson_wire::v1::DatabaseInfo;

use super::{flag, seconds};
use crate::Snapshot;
use crate::exposition::{Exposition, Kind, count_of};

pub(super) fn write(snapshot: &Snapshot, out: &mut Exposition) {
    let Some(cluster) = &snapshot.cluster else {
        return out.gauge("keelson_cluster_joined", "Whether the member is in a cluster.", 0.0);
    };
    out.gauge("keelson_cluster_joined", "Whether the member is in a cluster.", 1.0);
    let leads = flag(cluster.leader == snapshot.member);
    out.gauge("keelson_cluster_leader", "Whether this member leads.", leads);
    let known = flag(!cluster.leader.is_empty());
    out.gauge("keelson_cluster_leader_known", "Whether this member knows a leader.", known);
    let help = "Term of the leader's election.";
    out.gauge("keelson_cluster_term", help, count_of(cluster.term));
    let help = "Entries of the consensus log that were applied.";
    out.gauge("keelson_cluster_applied_entries", help, count_of(cluster.applied_index));
    let members = cluster.members.len() as u64;
    let voters = cluster.members.iter().filter(|member| member.voter).count() as u64;
    out.gauge("keelson_cluster_members", "Members of the cluster.", count_of(members));
    out.gauge("keelson_cluster_voters", "Members that vote.", count_of(voters));
    databases(&snapshot.databases, out);
}

fn databases(databases: &[DatabaseInfo], out: &mut Exposition) {
    let mut each = |name, help, value: &dyn Fn(&DatabaseInfo) -> f64| {
        let mut family = out.family(name, Kind::Gauge, help);
        for database in databases {
            family.sample(&[("database", &database.name)], value(database));
        }
    };
    let help = "Number of the newest activation; each move and each restart raises it.";
    each("keelson_database_epoch", help, &|d| count_of(d.epoch.map_or(0, |epoch| epoch.counter)));
    let help = "Whether its newest activation is established: a copy serves, or could.";
    each("keelson_database_established", help, &|d| flag(d.state == "established"));
    let help = "Whether an operator wants it open.";
    each("keelson_database_wanted_mounted", help, &|d| flag(d.mount_intent == "mounted"));
    let help = "Whether its active copy acknowledges alone although it has others.";
    each("keelson_database_degraded", help, &|d| flag(d.degraded));
    each("keelson_database_copies", "Copies.", &|d| count_of(d.copies.len() as u64));
    let help = "Copies that count in the commit rule.";
    each("keelson_database_participants", help, &|d| {
        count_of(d.copies.iter().filter(|copy| copy.participant).count() as u64)
    });
    losses(databases, out);
    let help = "Always 1; the member of the active copy.";
    let mut family = out.family("keelson_database_active_info", Kind::Gauge, help);
    for database in databases.iter().filter(|database| !database.active_member.is_empty()) {
        let labels = [
            ("database", database.name.as_str()),
            ("active", database.active_member.as_str()),
            ("constraint", database.commit_constraint.as_str()),
        ];
        family.sample(&labels, 1.0);
    }
}

/// Receipts are kept in a ring; their number is counted on in the replicated state, so it survives
/// every restart, and no loss is missed when the ring is full.
fn losses(databases: &[DatabaseInfo], out: &mut Exposition) {
    let help = "Activations with loss that there ever were, and instants that were made the truth.";
    let mut family = out.family("keelson_database_losses_total", Kind::Counter, help);
    for database in databases {
        family.sample(&[("database", &database.name)], count_of(database.losses_ever));
    }
    let mut each = |name, help, value: &dyn Fn(&DatabaseInfo) -> f64| {
        let mut family = out.family(name, Kind::Gauge, help);
        for database in databases {
            family.sample(&[("database", &database.name)], value(database));
        }
    };
    let help = "Unix time of the last of them; 0 if there was none, or many activations since.";
    each("keelson_database_last_loss_timestamp_seconds", help, &|d| {
        seconds(d.last_loss_unix_millis)
    });
    let help = "Receipts of them that are kept, the newest.";
    each("keelson_database_loss_receipts", help, &|d| count_of(d.losses.len() as u64));
    let help = "Logs of 1 MiB that are missing at most, by those receipts that know it.";
    each("keelson_database_lost_logs", help, &|d| {
        count_of(d.losses.iter().filter_map(|loss| loss.missing_logs).sum())
    });
    let help = "Receipts of losses of which nobody knows how large they are.";
    each("keelson_database_unknown_losses", help, &|d| {
        count_of(d.losses.iter().filter(|loss| loss.missing_logs.is_none()).count() as u64)
    });
}
