//! Suspending, resuming and setting copies: every change is one command, decided where it is
//! applied.

use std::sync::Arc;
use std::time::Duration;

use keelson_cluster_core::Command;
use keelson_cluster_core::retention::kept_until;
use keelson_types::{
    ActivationPolicy, ClusterSettings, CopyId, DatabaseId, LagSettings, LagSwitch, MemberId,
    RefusalReason, Refused, ResumeRequest, SuspendRequest, SuspendedBy, Suspension,
};
use keelson_wire::Refusal;
use keelson_wire::v1::{
    CopySuspension, ResumeCopyRequest, ResumeCopyResponse, SetCopyRequest, SetCopyResponse,
    SuspendCopyRequest, SuspendCopyResponse, set_copy_request,
};

use crate::admin::databases::label;
use crate::context::Context;

/// An activation preference as an operator gives it.
pub(super) fn check_preference(preference: Option<u32>) -> Result<(), Refusal> {
    if preference == Some(0) {
        let what = "preferences begin at 1, the first choice";
        return Err(Refusal::new(RefusalReason::BadArgument, what));
    }
    Ok(())
}

impl Context {
    pub(super) async fn admin_suspend_copy(
        self: &Arc<Self>,
        request: SuspendCopyRequest,
    ) -> Result<SuspendCopyResponse, Refusal> {
        let lasting = Some(request.for_seconds).filter(|seconds| *seconds > 0);
        let suspend = SuspendRequest {
            activation_only: request.activation_only,
            comment: request.comment,
            lasting: lasting.map(Duration::from_secs),
        };
        self.change_copy(&request.database, &request.member, request.what_if, |database, copy| {
            Ok(Command::SuspendCopy { database, copy, request: suspend })
        })
        .await?;
        Ok(SuspendCopyResponse {})
    }

    pub(super) async fn admin_resume_copy(
        self: &Arc<Self>,
        request: ResumeCopyRequest,
    ) -> Result<ResumeCopyResponse, Refusal> {
        let resume = ResumeRequest {
            replication_only: request.replication_only,
            release_discarded: request.release_discarded,
            before_retention: request.before_retention,
        };
        self.change_copy(&request.database, &request.member, request.what_if, |database, copy| {
            Ok(Command::ResumeCopy { database, copy, request: resume })
        })
        .await?;
        Ok(ResumeCopyResponse {})
    }

    pub(super) async fn admin_set_copy(
        self: &Arc<Self>,
        request: SetCopyRequest,
    ) -> Result<SetCopyResponse, Refusal> {
        let switch = lag_switch(&request)?;
        let policy = request.activation_policy.as_deref().map(policy_named).transpose()?;
        self.change_copy(&request.database, &request.member, request.what_if, |database, copy| {
            let lag = self.lag_asked(&request, database, copy)?;
            // What would be refused later is refused before anything is changed.
            let sets_aside = switch.as_ref().is_some_and(|switch| switch.disabled().is_some());
            if sets_aside && !lag.unwrap_or(self.lag_of(database, copy)).is_lagged() {
                return Err(Refusal::new(
                    RefusalReason::Precondition,
                    "the copy has no replay lag",
                ));
            }
            let preference = request.preference;
            check_preference(preference)?;
            Ok(Command::SetCopy { database, copy, preference, leaving: None, lag })
        })
        .await?;
        if let Some(policy) = policy {
            self.change_copy(
                &request.database,
                &request.member,
                request.what_if,
                |database, copy| Ok(Command::SetCopyPolicy { database, copy, policy }),
            )
            .await?;
        }
        // Nobody knows yet whether a lag that is only asked about would be there to be set aside.
        let switch = switch.filter(|_| !request.what_if || request.replay_lag_seconds.is_none());
        if let Some(switch) = switch {
            self.change_copy(
                &request.database,
                &request.member,
                request.what_if,
                |database, copy| Ok(Command::SwitchLag { database, copy, switch }),
            )
            .await?;
        }
        Ok(SetCopyResponse {})
    }

    /// Has the command recorded that `change` makes for the copy of this name; with `what_if` it is
    /// only said whether it would be refused.
    async fn change_copy(
        self: &Arc<Self>,
        database: &str,
        member: &str,
        what_if: bool,
        change: impl FnOnce(DatabaseId, CopyId) -> Result<Command, Refusal>,
    ) -> Result<(), Refusal> {
        self.require_leader()?;
        let (database, copy) = self.copy_called(database, member)?;
        if what_if {
            return self.rehearse(change(database, copy)?);
        }
        self.propose_here(change(database, copy)?).await?.answer()?;
        Ok(())
    }

    /// The lags after a request that names one of them, both, or none.
    fn lag_asked(
        &self,
        request: &SetCopyRequest,
        database: DatabaseId,
        copy: CopyId,
    ) -> Result<Option<LagSettings>, Refusal> {
        let delay = request.play_down_max_delay_seconds;
        let lags = [request.replay_lag_seconds, request.truncation_lag_seconds, delay];
        if lags.iter().all(Option::is_none) {
            return Ok(None);
        }
        let now = self.lag_of(database, copy);
        let seconds = |lag: Duration| i64::try_from(lag.as_secs()).unwrap_or(i64::MAX);
        let lag = LagSettings::from_seconds(
            request.replay_lag_seconds.unwrap_or(seconds(now.replay_lag())),
            request.truncation_lag_seconds.unwrap_or(seconds(now.truncation_lag())),
        );
        let delayed = lag.and_then(|lag| match delay.map(u64::try_from) {
            None => lag.with_play_down_max_delay(now.play_down_max_delay()),
            Some(Ok(seconds)) => lag.with_play_down_max_delay(Duration::from_secs(seconds)),
            Some(Err(_)) => Err(Refused::bad_argument("the play-down delay is negative")),
        });
        delayed.map(Some).map_err(|refused| Refusal::new(refused.reason, refused.message))
    }

    fn lag_of(&self, database: DatabaseId, copy: CopyId) -> LagSettings {
        let known = self.applied.read(|state| {
            let config = state.databases.get(&database)?.copies.get(&copy)?;
            Some(config.lag)
        });
        known.unwrap_or_default()
    }

    /// The member of a copy, and the copy.
    pub(super) fn copy_holder(
        &self,
        database: &str,
        member: &str,
    ) -> Result<(MemberId, CopyId), Refusal> {
        let (_, copy) = self.copy_called(database, member)?;
        Ok((self.member_called(member)?.id, copy))
    }

    fn copy_called(&self, database: &str, member: &str) -> Result<(DatabaseId, CopyId), Refusal> {
        let database = self.database_called(database)?;
        let member = self.member_called(member)?;
        let copy = database.copy_on(member.id).ok_or_else(|| {
            let what = format!("{} holds no copy of {}", member.name, database.name);
            Refusal::new(RefusalReason::UnknownCopy, what)
        })?;
        Ok((database.id, copy))
    }
}

/// An activation policy by its name.
pub(super) fn policy_named(name: &str) -> Result<ActivationPolicy, Refusal> {
    name.parse().map_err(|why: String| Refusal::new(RefusalReason::BadArgument, why))
}

/// The operator's word about a lag, if there is one.
fn lag_switch(request: &SetCopyRequest) -> Result<Option<LagSwitch>, Refusal> {
    let switch = match &request.lag_switch {
        None | Some(set_copy_request::LagSwitch::EnableLag(false)) => return Ok(None),
        Some(set_copy_request::LagSwitch::EnableLag(true)) => Ok(LagSwitch::enable()),
        Some(set_copy_request::LagSwitch::DisableLag(why)) if why.trim().is_empty() => {
            // An empty variable in a script: what is replayed early is lost to the lag for ever.
            let what = "a reason is needed to set a lag aside";
            return Err(Refusal::new(RefusalReason::BadArgument, what));
        }
        Some(set_copy_request::LagSwitch::DisableLag(why)) => LagSwitch::disable(why),
    };
    switch.map(Some).map_err(|refused| Refusal::new(refused.reason, refused.message))
}

/// A suspension as status pages show it; nothing if nothing is suspended.
pub(super) fn suspension(value: &Suspension, settings: &ClusterSettings) -> Option<CopySuspension> {
    let blocked = value.stops_activation();
    let stops = [value.replication, blocked];
    let first = stops.into_iter().flatten().next()?;
    Some(CopySuspension {
        replication: value.replication.is_some(),
        activation: blocked.is_some(),
        activation_block: value.activation.is_some(),
        comment: value.comment.clone(),
        since_unix_millis: first.since_unix_ms,
        until_unix_millis: first.until_unix_ms.unwrap_or(0),
        by: label::<SuspendedBy>(&value.by),
        kept_until_unix_millis: value
            .held
            .iter()
            .map(|h| kept_until(h, settings))
            .max()
            .unwrap_or(0),
        discarded_epochs: value.held.iter().map(|held| held.discard.epoch.into()).collect(),
    })
}
