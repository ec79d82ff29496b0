//! Who is asked for which page.
//!
//! A page is wanted most when the cluster is not well: what only the leader knows is waited for a
//! moment and left out then.

use std::future::Future;
use std::time::Duration;

use http::StatusCode;
use keelson_client::{Client, ClientError, v1};
use keelson_console::pages::{self, DatabaseView, MemberView, Overview};
use keelson_console::{Route, Session, web};
use keelson_net::SiteResponse;
use keelson_status::decision::Names;
use keelson_types::{OperationId, RefusalReason};
use uuid::Uuid;

use super::answer::{page, redirect};
use super::{Console, Owner};

/// Time for what a page cannot do without.
const NEEDED: Duration = Duration::from_secs(8);

/// Time for what it can do without.
const WELCOME: Duration = Duration::from_secs(2);

/// Events and decisions of a page.
const EVENTS: u32 = 100;
const DECISIONS: u32 = 50;
const DECISIONS_OF_ONE: u32 = 5;

type Found<T> = Result<T, ClientError>;

async fn needed<T>(ask: impl Future<Output = Found<T>>) -> Found<T> {
    tokio::time::timeout(NEEDED, ask).await.unwrap_or_else(|_| {
        let what = format!("no answer within {} s", NEEDED.as_secs());
        Err(ClientError::new(RefusalReason::DeadlineExceeded, what))
    })
}

async fn welcome<T: Default>(ask: impl Future<Output = Found<T>>) -> T {
    match tokio::time::timeout(WELCOME, ask).await {
        Ok(Ok(found)) => found,
        Ok(Err(_)) | Err(_) => T::default(),
    }
}

/// How many events a query asks for; the service bounds it.
fn wanted(query: &str) -> u32 {
    let limit = web::fields(query.as_bytes()).get("limit").and_then(|limit| limit.parse().ok());
    limit.unwrap_or(EVENTS)
}

/// The operation that a path names.
pub(super) fn operation_id(text: &str) -> Found<OperationId> {
    let unknown = || ClientError::new(RefusalReason::UnknownOperation, "that is no operation");
    text.parse::<Uuid>().map(OperationId::new).map_err(|_| unknown())
}

pub(super) fn unknown_member(name: &str) -> ClientError {
    ClientError::new(RefusalReason::UnknownMember, format!("there is no member {name}"))
}

impl Console {
    /// The page of a route that is no action.
    pub(super) async fn show(
        &self,
        session: &Session<Owner>,
        asked: Route,
        query: &str,
    ) -> SiteResponse {
        let client = &session.owner.client;
        let document = match asked {
            Route::Overview => overview(client)
                .await
                .map(|view| pages::overview(&self.frame(Some(session)), &view)),
            Route::Database(name) => database(client, &name)
                .await
                .map(|view| pages::database(&self.frame(Some(session)), &view)),
            Route::Member(name) => member(client, &name)
                .await
                .map(|view| pages::member(&self.frame(Some(session)), &view)),
            Route::Operations => needed(client.operations().list())
                .await
                .map(|all| pages::operations(&self.frame(Some(session)), &all)),
            Route::Operation(id) => operation(client, &id)
                .await
                .map(|one| pages::operation(&self.frame(Some(session)), &one)),
            Route::Events => needed(client.admin().list_events(wanted(query)))
                .await
                .map(|all| pages::events(&self.frame(Some(session)), &all)),
            Route::Decisions => decisions(client).await.map(|(records, names)| {
                pages::decisions(&self.frame(Some(session)), &records, &names)
            }),
            Route::Decision(index) => needed(client.admin().explain_decision(index, Vec::new()))
                .await
                .map(|answer| pages::decision(&self.frame(Some(session)), index, &answer)),
            Route::Login | Route::Logout => return redirect("/"),
            Route::Action(_) | Route::Asset(_) | Route::Unknown => return self.unknown(session),
        };
        match document {
            Ok(document) => page(StatusCode::OK, document),
            Err(error) => self.refuse(session, "", "/", &error),
        }
    }
}

async fn overview(client: &Client) -> Found<Overview> {
    let (admin, operations) = (client.admin(), client.operations());
    let (cluster, copies, volumes, redundancy, operations) = tokio::join!(
        needed(admin.cluster_status()),
        needed(admin.copy_status("", "")),
        welcome(admin.list_volumes("")),
        welcome(admin.redundancy("")),
        welcome(operations.list()),
    );
    let (cluster, copies, volumes) = (cluster?, copies?, volumes.volumes);
    Ok(Overview { cluster, copies, volumes, redundancy, operations })
}

async fn database(client: &Client, name: &str) -> Found<DatabaseView> {
    let admin = client.admin();
    let (info, copies, redundancy, decisions, names) = tokio::join!(
        needed(admin.show_database(name)),
        needed(admin.copy_status(name, "")),
        welcome(admin.redundancy(name)),
        welcome(admin.list_decisions(name, DECISIONS_OF_ONE)),
        names(client),
    );
    let redundancy = redundancy.into_iter().next();
    Ok(DatabaseView { info: info?, copies: copies?, redundancy, decisions, names })
}

async fn member(client: &Client, name: &str) -> Found<MemberView> {
    let admin = client.admin();
    let (cluster, copies, volumes, health) = tokio::join!(
        needed(admin.cluster_status()),
        needed(admin.copy_status("", name)),
        welcome(admin.list_volumes(name)),
        welcome(admin.health(name)),
    );
    let status = cluster?.members.into_iter().find(|member| member.name == name);
    let volumes = volumes.volumes.into_iter().filter_map(|row| row.volume).collect();
    Ok(MemberView {
        status: status.ok_or_else(|| unknown_member(name))?,
        copies: copies?,
        volumes,
        health,
    })
}

async fn operation(client: &Client, id: &str) -> Found<v1::Operation> {
    let operation = operation_id(id)?;
    needed(client.operations().get(operation)).await
}

async fn decisions(client: &Client) -> Found<(Vec<String>, Names)> {
    let admin = client.admin();
    let (records, names) = tokio::join!(needed(admin.list_decisions("", DECISIONS)), names(client));
    Ok((records?, names))
}

/// What the ids in records stand for, as far as it can be learned now.
async fn names(client: &Client) -> Names {
    let operations = client.operations();
    let (operations, topology) = tokio::join!(
        welcome(operations.list()),
        tokio::time::timeout(WELCOME, client.refresh_topology()),
    );
    let topology = match topology {
        Ok(Ok(topology)) => topology,
        _ => client.topology(),
    };
    let members = topology.members.iter();
    let members = members.filter_map(|(name, one)| Some((one.id?.to_string(), name.clone())));
    let databases = topology.databases.iter();
    let databases = databases.filter_map(|(name, one)| Some((one.id?.to_string(), name.clone())));
    let comments = operations.into_iter().filter_map(|operation| {
        let id = OperationId::from_slice(&operation.operation)?;
        (!operation.comment.is_empty()).then(|| (id.to_string(), operation.comment))
    });
    Names { of: members.chain(databases).collect(), comments: comments.collect() }
}
