//! Actions: what the services say that they would do, and the same calls in earnest.

use http::StatusCode;
use keelson_client::{Client, ClientError, v1};
use keelson_console::pages::{self, Expected, Plan};
use keelson_console::{Action, Session};
use keelson_net::SiteResponse;
use keelson_types::{OperationId, RefusalReason};

use super::answer::{page, redirect};
use super::collect::{operation_id, unknown_member};
use super::{Console, Owner, lock, now_ms};

/// What an action began or did.
enum Done {
    /// An operation began; its page shows the rest.
    Began(OperationId),
    /// It is done.
    Done(String),
}

impl Console {
    /// The page that shows what would be done.
    pub(super) async fn plan(&self, session: &Session<Owner>, action: &Action) -> SiteResponse {
        match plan(&session.owner.client, action).await {
            Ok(plan) => {
                let frame = self.frame(Some(session));
                page(StatusCode::OK, pages::confirm(&frame, action, &plan))
            }
            Err(error) => self.refuse(session, &action.title(), &action.page(), &error),
        }
    }

    /// Does it, and leads to the page that shows what became of it.
    pub(super) async fn act(&self, session: &Session<Owner>, action: &Action) -> SiteResponse {
        tracing::info!(by = ?session.owner, action = action.title(), "asked on the console");
        let (notice, to) = match act(&session.owner.client, action).await {
            Ok(Done::Began(operation)) => {
                (format!("{}: begun.", action.title()), format!("/operations/{operation}"))
            }
            Ok(Done::Done(what)) => (what, action.page()),
            Err(error) => return self.refuse(session, &action.title(), &action.address(), &error),
        };
        *lock(&session.owner.notice) = notice;
        redirect(&to)
    }
}

async fn plan(client: &Client, action: &Action) -> Result<Plan, ClientError> {
    let admin = client.admin();
    Ok(match action {
        Action::Switchover { .. } => {
            let request = v1::MoveRequest { what_if: true, ..move_request(action) };
            Plan::Moves(admin.move_databases(request).await?)
        }
        Action::BeginMaintenance { .. } => {
            let request = v1::BeginMaintenanceRequest { what_if: true, ..maintenance(action) };
            Plan::Moves(admin.begin_maintenance(request).await?)
        }
        Action::Redistribute { by_site } => {
            Plan::Moves(admin.redistribute(redistribution(*by_site, true)).await?.moves)
        }
        Action::Seed { .. } => {
            let request = v1::SeedCopyRequest { what_if: true, ..seed(action) };
            Plan::Seed(admin.seed_copy(request).await?.checks)
        }
        Action::Mount { database } => Plan::Mount(admin.preview_mount(database, "").await?.into()),
        Action::Suspend { .. } => {
            let request = v1::SuspendCopyRequest { what_if: true, ..suspension(action) };
            admin.suspend_copy(request).await?;
            Plan::Agreed
        }
        Action::Resume { .. } => {
            let request = v1::ResumeCopyRequest { what_if: true, ..resumption(action) };
            admin.resume_copy(request).await?;
            Plan::Agreed
        }
        Action::Dismount { .. }
        | Action::Scrub { .. }
        | Action::EndMaintenance { .. }
        | Action::Cancel { .. } => Plan::Expected(expected(client, action).await?),
    })
}

/// What an action would do that has no what-if, as far as questions tell.
async fn expected(client: &Client, action: &Action) -> Result<Expected, ClientError> {
    let admin = client.admin();
    Ok(match action {
        Action::Dismount { database } => Expected::dismount(&admin.show_database(database).await?),
        Action::Scrub { database, member } => {
            let rows = admin.copy_status(database, member).await?;
            let row = rows.iter().find(|row| row.member == *member);
            Expected::scrub(database, member, row, now_ms())
        }
        Action::EndMaintenance { member } => {
            let (cluster, copies) =
                tokio::try_join!(admin.cluster_status(), admin.copy_status("", member))?;
            let status = cluster.members.iter().find(|status| status.name == *member);
            let status = status.ok_or_else(|| unknown_member(member))?;
            Expected::end_maintenance(status, &copies, now_ms())
        }
        Action::Cancel { operation } => {
            let operation = operation_id(operation)?;
            Expected::cancel(&client.operations().get(operation).await?)
        }
        // The others have a what-if.
        _ => Expected::default(),
    })
}

fn move_request(action: &Action) -> v1::MoveRequest {
    let Action::Switchover { database, to, skips, comment } = action else {
        return v1::MoveRequest::default();
    };
    v1::MoveRequest {
        database: database.clone(),
        to: to.clone(),
        skip: skips.names(),
        comment: comment.clone(),
        ..v1::MoveRequest::default()
    }
}

fn maintenance(action: &Action) -> v1::BeginMaintenanceRequest {
    let Action::BeginMaintenance { member, skips, comment } = action else {
        return v1::BeginMaintenanceRequest::default();
    };
    let (member, comment, skip) = (member.clone(), comment.clone(), skips.names());
    v1::BeginMaintenanceRequest { member, comment, skip, what_if: false }
}

fn redistribution(by_site: bool, what_if: bool) -> v1::RedistributeRequest {
    v1::RedistributeRequest { by_site, deviation: None, what_if }
}

fn seed(action: &Action) -> v1::SeedCopyRequest {
    let Action::Seed { database, member, source, catalog_only } = action else {
        return v1::SeedCopyRequest::default();
    };
    v1::SeedCopyRequest {
        database: database.clone(),
        member: member.clone(),
        source: source.clone(),
        catalog_only: *catalog_only,
        ..v1::SeedCopyRequest::default()
    }
}

fn suspension(action: &Action) -> v1::SuspendCopyRequest {
    let Action::Suspend { database, member, activation_only, comment } = action else {
        return v1::SuspendCopyRequest::default();
    };
    v1::SuspendCopyRequest {
        database: database.clone(),
        member: member.clone(),
        activation_only: *activation_only,
        comment: comment.clone(),
        ..v1::SuspendCopyRequest::default()
    }
}

fn resumption(action: &Action) -> v1::ResumeCopyRequest {
    let Action::Resume { database, member } = action else {
        return v1::ResumeCopyRequest::default();
    };
    let (database, member) = (database.clone(), member.clone());
    v1::ResumeCopyRequest { database, member, ..v1::ResumeCopyRequest::default() }
}

async fn act(client: &Client, action: &Action) -> Result<Done, ClientError> {
    let admin = client.admin();
    let done = |what: String| Ok(Done::Done(what));
    match action {
        Action::Switchover { .. } => one_move(&admin.move_databases(move_request(action)).await?),
        Action::Mount { database } => admin.mount_database(database).await.map(Done::Began),
        Action::Dismount { database } => admin.dismount_database(database).await.map(Done::Began),
        Action::Suspend { database, member, .. } => {
            admin.suspend_copy(suspension(action)).await?;
            done(format!("{database}@{member} is suspended."))
        }
        Action::Resume { database, member } => {
            admin.resume_copy(resumption(action)).await?;
            done(format!("{database}@{member} goes on."))
        }
        Action::Seed { .. } => began(&admin.seed_copy(seed(action)).await?.operation),
        Action::Scrub { database, member } => {
            scrubbing(admin.scrub_copies(database, member).await?)
        }
        Action::BeginMaintenance { member, .. } => {
            let moves = admin.begin_maintenance(maintenance(action)).await?;
            done(format!("Maintenance of {member} began; {}.", moved(&moves)))
        }
        Action::EndMaintenance { member } => {
            admin.end_maintenance(member).await?;
            done(format!("Maintenance of {member} ended."))
        }
        Action::Redistribute { by_site } => {
            let moves = admin.redistribute(redistribution(*by_site, false)).await?.moves;
            done(format!("Redistribution: {}.", moved(&moves)))
        }
        Action::Cancel { operation } => {
            let ended = client.operations().cancel(operation_id(operation)?).await?;
            done(format!("The operation is {}.", ended.state))
        }
    }
}

fn began(operation: &[u8]) -> Result<Done, ClientError> {
    let missing = || ClientError::new(RefusalReason::Internal, "the answer has no operation");
    OperationId::from_slice(operation).map(Done::Began).ok_or_else(missing)
}

/// A move of one database: it began, or is refused as a command would be.
fn one_move(moves: &[v1::MoveRow]) -> Result<Done, ClientError> {
    let missing = || ClientError::new(RefusalReason::Internal, "the answer has no move");
    let row = moves.first().ok_or_else(missing)?;
    match row.result.as_str() {
        "refused" => Err(refused(&row.code, &row.message)),
        "stays" => Ok(Done::Done(format!("{} stays on {}.", row.database, row.from))),
        _ => began(&row.operation),
    }
}

fn scrubbing(answer: v1::ScrubCopiesResponse) -> Result<Done, ClientError> {
    match answer.copies.into_iter().find(|copy| !copy.problem.is_empty()) {
        Some(copy) => Err(ClientError::new(RefusalReason::Precondition, copy.problem)),
        None => Ok(Done::Done("The scrub began.".into())),
    }
}

fn refused(code: &str, message: &str) -> ClientError {
    let reason = RefusalReason::from_code(code).unwrap_or(RefusalReason::Internal);
    ClientError::new(reason, message)
}

/// How many databases move, and which do not.
fn moved(moves: &[v1::MoveRow]) -> String {
    let moving = moves.iter().filter(|row| row.result == "moving").count();
    let left = moves.iter().filter(|row| row.result == "refused");
    let left: Vec<_> = left.map(|row| format!("{} stays: {}", row.database, row.message)).collect();
    let moving = format!("{moving} databases move");
    if left.is_empty() { moving } else { format!("{moving}; {}", left.join("; ")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(result: &str) -> v1::MoveRow {
        v1::MoveRow {
            database: "DB1".into(),
            result: result.into(),
            code: "queue_too_long".into(),
            message: "too far behind".into(),
            operation: vec![7; 16].into(),
            ..v1::MoveRow::default()
        }
    }

    #[test]
    fn a_move_that_is_refused_is_a_refusal_with_its_code() {
        let error = one_move(&[row("refused")]).err().unwrap();
        assert_eq!((error.code(), error.message.as_str()), ("queue_too_long", "too far behind"));
        assert!(matches!(one_move(&[row("moving")]), Ok(Done::Began(_))));
        assert!(matches!(one_move(&[row("stays")]), Ok(Done::Done(_))));
        assert!(one_move(&[]).is_err());
    }

    #[test]
    fn what_stays_is_named() {
        assert_eq!(moved(&[row("moving"), row("moving")]), "2 databases move");
        let text = moved(&[row("moving"), row("refused")]);
        assert_eq!(text, "1 databases move; DB1 stays: too far behind");
    }
}
