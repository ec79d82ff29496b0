//! Databases and copies.

use std::sync::Arc;
use std::time::Duration;

use keelson_cluster_core::{
    Command, ConstraintSetting, CopyKind, Database, DatabaseSettings, DecisionRecord, NewCopy,
    OperationKind, suppression,
};
use keelson_types::{
    Automation, Automations, CommitConstraint, ContentIndexSettings, CopyId, DatabaseId,
    DatabaseState, MemberId, MountIntent, RefusalReason, StreamId,
};
use keelson_wire::v1::{
    self, CopyInfo, CreateDatabaseRequest, CreateDatabaseResponse, DatabaseInfo,
    DismountDatabaseRequest, EpochInfo, MountDatabaseRequest, MoveRequest, OperationStarted,
    RemoveCopyRequest, RemoveCopyResponse, RemoveDatabaseRequest, RemoveDatabaseResponse,
    SetDatabaseRequest, SetDatabaseResponse, ShowDatabaseRequest, ShowDatabaseResponse,
    SwitchoverRequest,
};
use keelson_wire::{Refusal, ids};
use uuid::Uuid;

use super::refusal;
use crate::clock;
use crate::context::Context;

/// How long a leaving copy may take to leave the commit rule.
pub(super) const LEAVE_DEADLINE: Duration = Duration::from_secs(20);

/// The settings asked for, on top of `base`.
fn settings(
    base: DatabaseSettings,
    asked: Option<v1::DatabaseSettings>,
) -> Result<DatabaseSettings, Refusal> {
    let Some(asked) = asked else { return Ok(base) };
    let bad = |e: String| refusal(RefusalReason::BadArgument, e);
    let constraint = match asked.commit_constraint.as_deref() {
        None => base.constraint,
        Some("" | "auto") => ConstraintSetting::Auto,
        Some(text) => ConstraintSetting::Explicit(text.parse::<CommitConstraint>().map_err(bad)?),
    };
    let degrade_after_ms = match asked.degrade_after_millis {
        None => base.degrade_after_ms,
        Some(0) => None,
        Some(millis) => Some(millis),
    };
    let automations = automations(base.automations, &asked);
    Ok(DatabaseSettings {
        constraint,
        degrade_after_ms,
        dismount_after_ms: asked.dismount_after_millis.unwrap_or(base.dismount_after_ms),
        generation_bytes: asked.generation_bytes.unwrap_or(base.generation_bytes),
        lz4: asked.lz4.unwrap_or(base.lz4),
        circular_logging: asked.circular_logging.unwrap_or(base.circular_logging),
        guarantee: match asked.guarantee_constraint.as_deref() {
            None => base.guarantee,
            Some(name) => super::guarantee::constraint(name)?,
        },
        content_index: content_index(
            base.content_index,
            asked.content_index,
            asked.content_index_fields,
        )?,
        autoreseed: asked.autoreseed.unwrap_or(base.autoreseed),
        automations,
    })
}

fn automations(base: Automations, asked: &v1::DatabaseSettings) -> Automations {
    let switches = [
        (Automation::PlayDown, asked.play_down),
        (Automation::ExpandedTruncation, asked.expanded_truncation),
        (Automation::PreferenceMoves, asked.preference_moves),
        (Automation::Redistribution, asked.redistribution),
    ];
    let set = switches.into_iter().filter_map(|(one, on)| Some((one, on?)));
    set.fold(base, |automations, (one, on)| automations.with(one, on))
}

fn content_index(
    base: ContentIndexSettings,
    enabled: Option<bool>,
    fields: Option<v1::ContentIndexFields>,
) -> Result<ContentIndexSettings, Refusal> {
    let settings = ContentIndexSettings {
        enabled: enabled.unwrap_or(base.enabled),
        fields: fields.map_or(base.fields, |fields| fields.names),
    };
    settings.validate().map_err(|why| refusal(RefusalReason::BadArgument, why))?;
    Ok(settings)
}

pub(super) fn fresh_copy(member: MemberId, preference: u32) -> NewCopy {
    NewCopy { copy: CopyId::new(Uuid::new_v4()), member, preference, kind: CopyKind::Ha }
}

/// When the newest loss was bound; 0 if there was none, or its epoch is not remembered any more.
fn last_loss(database: &Database) -> u64 {
    let Some(newest) = database.receipts.last() else { return 0 };
    let mut epochs = database.history.iter().rev();
    epochs.find(|record| record.epoch == newest.epoch).map_or(0, |record| record.bound_unix_ms)
}

/// Where the files of a database stay on a member, relative to its data directory. Whether they are
/// there is not asked: the member may be gone.
fn files(member: &str, database: DatabaseId) -> String {
    format!("{member}: databases/{database}")
}

impl Context {
    pub(super) fn database_called(&self, name: &str) -> Result<Database, Refusal> {
        let found = self.applied.read(|state| state.database_named(name).cloned());
        found.ok_or_else(|| refusal(RefusalReason::UnknownDatabase, format!("no database {name}")))
    }

    pub(crate) fn name_of_member(&self, id: MemberId) -> String {
        let name = self
            .applied
            .read(|state| state.members.get(&id).map(|member| member.config.name.to_string()));
        name.unwrap_or_else(|| id.to_string())
    }

    pub(super) async fn admin_create_database(
        self: &Arc<Self>,
        request: CreateDatabaseRequest,
    ) -> Result<CreateDatabaseResponse, Refusal> {
        self.require_leader()?;
        let name = super::database_name(&request.name)?;
        let id = match request.database.is_empty() {
            true => DatabaseId::new(Uuid::new_v4()),
            false => ids::database(&request.database)?,
        };
        let members = request.members.iter().map(|name| self.member_called(name));
        let members = members.collect::<Result<Vec<_>, _>>()?;
        let copies = (1_u32..).zip(&members).map(|(rank, m)| fresh_copy(m.id, rank)).collect();
        let settings = settings(DatabaseSettings::default(), request.settings)?;
        // The first log stream is named after its database, so that a repeated request is the same.
        let stream = StreamId::new(id.uuid());
        let command = Command::CreateDatabase { id, name, stream, settings, copies };
        self.propose_here(command).await?.answer()?;
        Ok(CreateDatabaseResponse { database: ids::bytes(id) })
    }

    pub(super) async fn admin_remove_database(
        self: &Arc<Self>,
        request: RemoveDatabaseRequest,
    ) -> Result<RemoveDatabaseResponse, Refusal> {
        self.require_leader()?;
        let database = self.database_called(&request.name)?;
        let holders = database.copies.values().map(|copy| self.name_of_member(copy.member));
        let files = holders.map(|member| files(&member, database.id)).collect();
        let command = Command::RemoveDatabase { database: database.id, force: false };
        self.propose_here(command).await?.answer()?;
        Ok(RemoveDatabaseResponse { files })
    }

    pub(super) async fn admin_set_database(
        self: &Arc<Self>,
        request: SetDatabaseRequest,
    ) -> Result<SetDatabaseResponse, Refusal> {
        self.require_leader()?;
        let database = self.database_called(&request.name)?;
        let settings = settings(database.settings, request.settings)?;
        let command = Command::SetDatabase { database: database.id, settings };
        self.propose_here(command).await?.answer()?;
        Ok(SetDatabaseResponse {})
    }

    pub(super) async fn admin_show_database(
        self: &Arc<Self>,
        request: ShowDatabaseRequest,
    ) -> Result<ShowDatabaseResponse, Refusal> {
        self.cluster()?;
        let database = self.database_called(&request.name)?;
        Ok(ShowDatabaseResponse { database: Some(self.describe(&database)) })
    }

    pub(crate) fn describe(&self, database: &Database) -> DatabaseInfo {
        let rule = database.rule.as_ref();
        let mut copies: Vec<_> = database
            .copies
            .iter()
            .map(|(id, copy)| CopyInfo {
                copy: ids::bytes(*id),
                member: self.name_of_member(copy.member),
                active: database.target == Some(*id),
                preference: copy.preference,
                participant: rule.is_some_and(|rule| rule.has(*id)),
                rehearsal: super::rehearsals::shown(copy),
            })
            .collect();
        copies.sort_by(|a, b| (a.preference, &a.member).cmp(&(b.preference, &b.member)));
        let epochs = database.history.iter().map(|record| EpochInfo {
            epoch: Some(record.epoch.into()),
            member: record.target.map(|id| self.name_of_member(id)).unwrap_or_default(),
            reason: label(&record.reason),
            established: record.target.is_some()
                && (record.epoch != database.epoch || database.state == DatabaseState::Established),
        });
        let constraint = rule.map_or_else(|| database.wanted_constraint(), |rule| rule.constraint);
        let now = clock::unix_millis();
        let moved = self.applied.read(|state| suppression(&state.settings, database, now));
        let ceiling = database.newest_ceiling().and_then(|record| record.ceiling);
        DatabaseInfo {
            database: ids::bytes(database.id),
            name: database.name.to_string(),
            epoch: Some(database.epoch.into()),
            state: label(&database.state),
            mount_intent: label(&database.intent),
            active_member: database
                .target_member()
                .map(|id| self.name_of_member(id))
                .unwrap_or_default(),
            commit_constraint: constraint.to_string(),
            rule_version: rule.map_or(0, |rule| rule.version),
            degraded: rule.is_some_and(keelson_types::CommitRule::is_degraded),
            copies,
            epochs: epochs.collect(),
            generation_bytes: database.settings.generation_bytes,
            degrade_after_millis: database.settings.degrade_after_ms.unwrap_or(0),
            dismount_after_millis: database.settings.dismount_after_ms,
            blocked: self.why_not_mounted(database),
            lz4: database.settings.lz4,
            circular_logging: database.settings.circular_logging,
            backed_up_to: database.backed_up.map(Into::into),
            guarantee_constraint: database.settings.guarantee.to_string(),
            content_index: database.settings.content_index.enabled,
            content_index_fields: database.settings.content_index.fields.clone(),
            autoreseed: database.settings.autoreseed,
            automations_off: Automation::ALL
                .iter()
                .filter(|one| !database.settings.automations.is_on(**one))
                .map(ToString::to_string)
                .collect(),
            losses: database.receipts.iter().map(|loss| self.receipt(database, loss)).collect(),
            losses_ever: database.receipts.pushed(),
            last_loss_unix_millis: last_loss(database),
            recent_moves: u32::try_from(moved.moves).unwrap_or(u32::MAX),
            ceiling_border: ceiling.map(|ceiling| ceiling.border.position.into()),
            ceiling_ahead_bytes: ceiling.map_or(0, |ceiling| ceiling.ahead_bytes),
            moves_suppressed_until_unix_millis: moved.until_unix_ms.unwrap_or(0),
        }
    }

    /// Why a database does not serve, as far as the replicated state tells; empty if it should.
    fn why_not_mounted(&self, database: &Database) -> String {
        if database.intent == MountIntent::Dismounted {
            return "dismounted by an operator".into();
        }
        let newest = self.applied.read(|state| {
            let mut newest = state.decisions.iter().rev();
            let of_it =
                |record: &DecisionRecord| record.database == database.id && record.is_activation();
            newest.find(|entry| of_it(&entry.record)).cloned()
        });
        match (database.state, newest) {
            (DatabaseState::Established, _) => String::new(),
            (DatabaseState::Sealing, Some(entry))
                if entry.record.chosen.is_none() && entry.record.epoch == database.epoch =>
            {
                let shown = entry.record.candidates.iter().map(|candidate| {
                    let member = self.name_of_member(candidate.member);
                    format!("{member}: {:?}", candidate.excluded)
                });
                let shown: Vec<_> = shown.collect();
                format!("no copy can be activated without losing data ({})", shown.join("; "))
            }
            (DatabaseState::Sealing, _) => "its copies are being sealed".into(),
            (DatabaseState::Activating, _) => "its new active is being mounted".into(),
            (DatabaseState::New, _) => "it waits for its first activation".into(),
        }
    }

    /// Records an operation and returns its id and whether this request began it.
    pub(super) async fn begin(
        self: &Arc<Self>,
        asked: &[u8],
        kind: OperationKind,
    ) -> Result<OperationStarted, Refusal> {
        let id = operation_id(asked)?;
        self.begin_operation(id, kind).await?;
        Ok(OperationStarted { operation: ids::bytes(id) })
    }

    pub(super) async fn admin_mount_database(
        self: &Arc<Self>,
        request: MountDatabaseRequest,
    ) -> Result<OperationStarted, Refusal> {
        self.require_leader()?;
        let database = self.database_called(&request.name)?;
        let accept_loss = self.accepted_loss(&request, &database)?;
        let kind = OperationKind::Mount { database: database.id, accept_loss };
        self.begin(&request.operation, kind).await
    }

    pub(super) async fn admin_dismount_database(
        self: &Arc<Self>,
        request: DismountDatabaseRequest,
    ) -> Result<OperationStarted, Refusal> {
        self.require_leader()?;
        let database = self.database_called(&request.name)?.id;
        self.begin(&request.operation, OperationKind::Dismount { database }).await
    }

    pub(super) async fn admin_switchover(
        self: &Arc<Self>,
        request: SwitchoverRequest,
    ) -> Result<OperationStarted, Refusal> {
        let SwitchoverRequest { database, to, operation, comment } = request;
        let request = MoveRequest { database, to, operation, comment, ..MoveRequest::default() };
        let moved = self.admin_move_databases(request).await?.moves.into_iter().next();
        let moved = moved.unwrap_or_default();
        match RefusalReason::from_code(&moved.code) {
            Some(reason) => Err(refusal(reason, moved.message)),
            None => Ok(OperationStarted { operation: moved.operation }),
        }
    }

    /// The active drops the copy from its rule first (R1); then it goes.
    pub(super) async fn admin_remove_copy(
        self: &Arc<Self>,
        request: RemoveCopyRequest,
    ) -> Result<RemoveCopyResponse, Refusal> {
        self.require_leader()?;
        let database = self.database_called(&request.database)?;
        let member = self.member_called(&request.member)?;
        let id = database.id;
        let copy = database.copy_on(member.id).ok_or_else(|| {
            let what = format!("{} holds no copy of {}", member.name, database.name);
            refusal(RefusalReason::UnknownCopy, what)
        })?;
        let leaving = |leaves| Command::SetCopy {
            database: id,
            copy,
            preference: None,
            leaving: Some(leaves),
            lag: None,
        };
        let files = files(member.name.as_str(), id);
        if request.what_if {
            self.rehearse(leaving(true))?;
            return Ok(RemoveCopyResponse { files });
        }
        let (index, _) = self.propose_here(leaving(true)).await?.answer()?;
        let removed = async {
            self.reached(index, LEAVE_DEADLINE).await?;
            self.left_rule(id, copy, &request.database).await?;
            self.propose_here(Command::RemoveCopy { database: id, copy }).await?.answer()
        };
        if let Err(refusal) = removed.await {
            // A copy that stays must be able to become the active one again.
            let undone = self.propose_here(leaving(false)).await;
            if let Err(undo) = undone.and_then(|proposed| proposed.answer().map(drop)) {
                tracing::warn!(%undo, "a copy stays marked as leaving; copy resume takes it back");
            }
            return Err(refusal);
        }
        Ok(RemoveCopyResponse { files })
    }

    /// Waits until a copy does not count any more.
    pub(super) async fn left_rule(
        &self,
        id: DatabaseId,
        copy: CopyId,
        name: &str,
    ) -> Result<(), Refusal> {
        let counts = || {
            self.applied.read(|state| {
                let database = state.databases.get(&id);
                // With the database closed nobody drops it; what was asked for is refused then.
                database.is_some_and(|database| {
                    database.intent == MountIntent::Mounted && database.counts(copy)
                })
            })
        };
        let mut applied = self.applied.watch();
        let left = async {
            while counts() {
                if applied.changed().await.is_err() {
                    return;
                }
            }
        };
        tokio::time::timeout(LEAVE_DEADLINE, left).await.map_err(|_| {
            let what = format!(
                "the active copy of {name} has not dropped the copy from its commit rule within \
                 {LEAVE_DEADLINE:?}; ask again"
            );
            refusal(RefusalReason::DeadlineExceeded, what)
        })
    }
}

/// The id that the client chose, or a fresh one.
pub(super) fn operation_id(asked: &[u8]) -> Result<keelson_types::OperationId, Refusal> {
    match asked.is_empty() {
        true => Ok(keelson_types::OperationId::new(Uuid::new_v4())),
        false => Ok(ids::operation(asked)?),
    }
}

/// The name of a value of an enum, as in JSON.
pub(super) fn label<T: serde::Serialize>(value: &T) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(name)) => name,
        Ok(serde_json::Value::Object(fields)) => fields.keys().next().cloned().unwrap_or_default(),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_change_only_what_is_named() {
        let asked = v1::DatabaseSettings {
            commit_constraint: Some("majority".into()),
            degrade_after_millis: Some(0),
            lz4: Some(true),
            ..v1::DatabaseSettings::default()
        };
        let changed = settings(DatabaseSettings::default(), Some(asked)).expect("valid");
        let expected = DatabaseSettings {
            constraint: ConstraintSetting::Explicit(CommitConstraint::Majority),
            degrade_after_ms: None,
            lz4: true,
            ..DatabaseSettings::default()
        };
        assert_eq!(changed, expected);
        let back = v1::DatabaseSettings {
            commit_constraint: Some(String::new()),
            ..v1::DatabaseSettings::default()
        };
        let back = settings(changed, Some(back)).expect("valid");
        assert_eq!(back.constraint, ConstraintSetting::Auto);
        let bad = v1::DatabaseSettings {
            commit_constraint: Some("most".into()),
            ..v1::DatabaseSettings::default()
        };
        let refused = settings(back, Some(bad)).expect_err("no constraint");
        assert_eq!(refused.reason, RefusalReason::BadArgument);
    }

    #[test]
    fn labels_are_the_names_in_json() {
        use keelson_cluster_core::ActivationReason;
        assert_eq!(label(&ActivationReason::DeathCertified), "death_certified");
        let to = MemberId::from_u128(1);
        assert_eq!(label(&ActivationReason::Switchover { to }), "switchover");
        assert_eq!(label(&MountIntent::Dismounted), "dismounted");
    }
}
