//! Patience with a process that died: its member can have it running again soon, and then nothing
//! need be moved and nothing given up.

use keelson_types::{Epoch, Setting};

use super::batch::{Batch, Owner};
use super::plan::Round;
use crate::activation::Activation;
use crate::command::Command;
use crate::decision::ActivationReason;
use crate::event::EventKind;
use crate::state::Database;
use crate::suppression::certificates;

/// Whether a database that death certificates moved too often waits for the member from before. If
/// its process comes back it is asked first; if not, the database goes wherever it can.
pub(super) fn waits_for_incumbent(
    round: &Round<'_>,
    database: &Database,
    job: &mut Activation,
    epoch: Epoch,
    batch: &mut Batch,
) -> bool {
    let incumbent = database.incumbent().filter(|copy| !job.avoid.contains(copy));
    let copy = incumbent.and_then(|copy| database.copies.get(&copy));
    let Some(member) = copy.map(|copy| copy.member) else { return false };
    let fresh = job.waits_for_incumbent.is_none_or(|(known, _)| known != epoch);
    if fresh && job.reason == ActivationReason::DeathCertified {
        // The allocation of this epoch has just set the clock.
        let found = certificates(&round.state.settings, database, round.state.clock_unix_ms);
        let patience = round.state.settings.span(Setting::CertificatePatience);
        let held = found.until_unix_ms.is_some() && !patience.is_zero();
        let until = if held { round.now.after(patience) } else { round.now };
        job.waits_for_incumbent = Some((epoch, until));
        if held {
            let moves = u32::try_from(found.moves).unwrap_or(u32::MAX);
            let patience_ms = u64::try_from(patience.as_millis()).unwrap_or(u64::MAX);
            let kind = EventKind::WaitsForProcess { moves, patience_ms };
            let (member, database) = (Some(member), Some(database.id));
            let told = Command::AppendEvent { member, database, kind };
            batch.single.push((Owner::Nobody, told));
        }
    }
    let waits =
        job.waits_for_incumbent.filter(|(known, until)| *known == epoch && *until > round.now);
    if waits.is_some() && round.contacts.alive.contains(&member) {
        job.waits_for_incumbent = Some((epoch, round.now));
        job.requested = incumbent;
        return false;
    }
    waits.is_some()
}

/// Whether the process of the former active was certified dead, and its member can have it running
/// again soon: what it acknowledged is not given up before.
pub(super) fn process_expected(round: &Round<'_>, database: &Database, job: &Activation) -> bool {
    let Some(bound) = database.unestablished.last() else { return false };
    let holder = bound.rule.participants.iter().find(|p| p.copy == bound.rule.active);
    let member = holder.and_then(|holder| round.state.members.get(&holder.member));
    let died = member.is_some_and(|member| member.certified_dead.contains(&bound.incarnation));
    let patience = round.state.settings.span(Setting::CertificatePatience);
    died && round.now < job.began.after(patience)
}
