//! The `Kv` service.
//!
//! Checks what clients send, finds the copy, and keeps the order that linearizability asks for: a
//! write is answered by its owner once committed and while the gate is open; a read waits until the
//! store has replayed what was committed when it arrived, reads, and answers only if the gate is
//! still open then.

mod convert;
mod read;
mod salvage;
mod scan;
mod search;

pub(crate) use read::{open_store, refuse_if_marked};

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::Stream;
use keelson_net::{Disconnect, PeerIdentity, line_of, note_database, peer_of, require_database};
use keelson_types::{AuditLine, ForkAddress, LogEnd, News, RefusalReason, SessionId};
use keelson_wire::{CommitToken, Refusal, ids, v1};
use tokio::sync::oneshot;
use tonic::{Request, Response, Status};

use crate::ahead::answer_with_room;
use crate::context::{CopyHandle, PlaneContext, Registry};
use crate::message::Message;
use crate::shared::Held;
use crate::watch;
use crate::writer::{Reply, WriteBody, WriteRequest, Written, outcome_unknown};

/// A request is kept for so long while its database moves; less than clients are silent about.
const MOVE_MAX: Duration = Duration::from_millis(300);

/// Serves `Kv` for one member.
#[derive(Clone, Debug)]
pub struct KvService {
    pub(crate) context: Arc<PlaneContext>,
    pub(crate) registry: Arc<Registry>,
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl KvService {
    pub(crate) fn copy(&self, database: &str) -> Result<CopyHandle, Refusal> {
        if database.parse::<ForkAddress>().is_ok() {
            let message = format!("{database} is a fork; it is read with get and scan only");
            return Err(Refusal::new(RefusalReason::ReadOnly, message));
        }
        self.registry.named(database).ok_or_else(|| {
            Refusal::new(
                RefusalReason::NotActive,
                format!("this member has no copy of a database {database:?}"),
            )
        })
    }

    async fn write(&self, database: &str, body: WriteBody) -> Result<Written, Refusal> {
        let copy = self.copy(database)?;
        let held = Held::take(&copy.shared.pending, body.bytes()).ok_or_else(|| {
            Refusal::new(RefusalReason::Overloaded, "too many bytes of writes wait")
        })?;
        serving_soon(&copy).await?;
        let (reply, answer) = oneshot::channel();
        let reply = Reply::new(reply, Some(held));
        let request = Message::Write(WriteRequest { body, reply });
        let gone = |_| Refusal::new(RefusalReason::Activating, "the copy is being reopened");
        copy.mailbox.send(request).await.map_err(gone)?;
        answer.await.map_err(|_| outcome_unknown())?
    }

    async fn respond(
        &self,
        database: &str,
        body: WriteBody,
    ) -> Result<Response<v1::WriteResponse>, Status> {
        let written = self.write(database, body).await?;
        let token = self.token(database, written)?;
        Ok(Response::new(v1::WriteResponse { token, repeated: written.repeated }))
    }

    fn token(&self, database: &str, written: Written) -> Result<bytes::Bytes, Refusal> {
        let stream = self.copy(database)?.shared.stream;
        Ok(CommitToken { stream, end: written.end, time: written.time }.encode())
    }
}

/// A request that names the database whose data it is about.
trait OfDatabase {
    fn database(&self) -> &str;
}

macro_rules! of_database {
    ($($request:ident)*) => {
        $(impl OfDatabase for v1::$request {
            fn database(&self) -> &str {
                &self.database
            }
        })*
    };
}

of_database! {
    OpenSessionRequest GetRequest PutRequest DeleteRequest DeleteRangeRequest WriteRequest
    ScanRequest WatchRequest ListSalvageRequest ReadSalvageRequest DeleteSalvageRequest
    SearchRequest DurabilityRequest
}

/// The request of somebody whose certificate is for its database.
fn admitted<T: OfDatabase>(request: Request<T>) -> Result<T, Refusal> {
    require_database(&request, request.get_ref().database())?;
    note_database(request.get_ref().database());
    Ok(request.into_inner())
}

/// The same, with who sent it and over which connection.
fn admitted_of<T: OfDatabase>(
    mut request: Request<T>,
) -> Result<((PeerIdentity, Disconnect), T), Refusal> {
    require_database(&request, request.get_ref().database())?;
    let connection = Disconnect::of(&request);
    // It is there, or the request would have been refused.
    let client = request.extensions_mut().remove().unwrap_or_default();
    note_database(request.get_ref().database());
    Ok(((client, connection), request.into_inner()))
}

/// Refuses an answer that was read while the copy served another epoch, or none.
pub(crate) fn refuse_unless_still_serving(copy: &CopyHandle, epoch: u64) -> Result<(), Refusal> {
    if copy.shared.gate.serving_epoch() == epoch {
        return refuse_unless_serving(copy);
    }
    let message = format!("{} moved while it was read", copy.shared.name);
    Err(Refusal::new(RefusalReason::NotActive, message).with_address(copy.shared.active_address()))
}

/// Keeps a request while its database moves, then refuses it as [`refuse_unless_serving`] does.
/// Callers that ask again and again would take the processors from those who move it.
pub(crate) async fn serving_soon(copy: &CopyHandle) -> Result<(), Refusal> {
    if copy.shared.is_moving() {
        let settled = copy.shared.wait_until(|shared| !shared.is_moving());
        // What holds then is told below.
        let _ = tokio::time::timeout(MOVE_MAX, settled).await;
    }
    refuse_unless_serving(copy)
}

/// Refuses early what the owner would refuse; the owner decides all the same.
pub(crate) fn refuse_unless_serving(copy: &CopyHandle) -> Result<(), Refusal> {
    let gate = &copy.shared.gate;
    if gate.is_open() {
        return Ok(());
    }
    let name = &copy.shared.name;
    if gate.is_serving() {
        let message = format!("the active of {name} waits for its lease");
        return Err(Refusal::new(RefusalReason::NoLease, message));
    }
    let message = format!("{name} is not active on this member");
    Err(Refusal::new(RefusalReason::NotActive, message).with_address(copy.shared.active_address()))
}

#[tonic::async_trait]
impl v1::kv_server::Kv for KvService {
    type ScanStream = Answers<v1::ScanResponse>;
    type ReadSalvageStream = Answers<v1::ReadSalvageResponse>;
    type WatchStream = Answers<v1::WatchResponse>;

    async fn open_session(
        &self,
        request: Request<v1::OpenSessionRequest>,
    ) -> Result<Response<v1::OpenSessionResponse>, Status> {
        let request = admitted(request)?;
        let session: SessionId = ids::session(&request.session)?;
        let body = WriteBody::OpenSession(session);
        let written = self.write(&request.database, body).await?;
        let token = self.token(&request.database, written)?;
        Ok(Response::new(v1::OpenSessionResponse { token }))
    }

    async fn get(
        &self,
        request: Request<v1::GetRequest>,
    ) -> Result<Response<v1::GetResponse>, Status> {
        let (client, request) = admitted_of(request)?;
        Ok(answer_with_room(&self.context.ahead, &client, || self.read_key(&request)).await?)
    }

    async fn put(
        &self,
        request: Request<v1::PutRequest>,
    ) -> Result<Response<v1::WriteResponse>, Status> {
        let request = admitted(request)?;
        let body = convert::put(request.key, request.value, request.stamp.as_ref())?;
        self.respond(&request.database, body).await
    }

    async fn delete(
        &self,
        request: Request<v1::DeleteRequest>,
    ) -> Result<Response<v1::WriteResponse>, Status> {
        let request = admitted(request)?;
        let body = convert::delete(request.key, request.stamp.as_ref())?;
        self.respond(&request.database, body).await
    }

    async fn delete_range(
        &self,
        request: Request<v1::DeleteRangeRequest>,
    ) -> Result<Response<v1::WriteResponse>, Status> {
        let request = admitted(request)?;
        let body = convert::delete_range(request.from, request.to, request.stamp.as_ref())?;
        self.respond(&request.database, body).await
    }

    async fn write(
        &self,
        request: Request<v1::WriteRequest>,
    ) -> Result<Response<v1::WriteResponse>, Status> {
        let request = admitted(request)?;
        let database = request.database.clone();
        let body = convert::write(request)?;
        self.respond(&database, body).await
    }

    async fn scan(
        &self,
        request: Request<v1::ScanRequest>,
    ) -> Result<Response<Self::ScanStream>, Status> {
        let (client, request) = admitted_of(request)?;
        let share = self.context.ahead.share_of(&client);
        Ok(Response::new(self.scan_keys(request, share).await?))
    }

    async fn watch(
        &self,
        request: Request<v1::WatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let (client, request) = admitted_of(request)?;
        let copy = self.copy(&request.database)?;
        let share = self.context.ahead.share_of(&client);
        Ok(Response::new(watch::start(self.context.clone(), copy, request, share).await?))
    }

    async fn list_salvage(
        &self,
        request: Request<v1::ListSalvageRequest>,
    ) -> Result<Response<v1::ListSalvageResponse>, Status> {
        let salvages = self.salvages(&admitted(request)?.database).await?;
        Ok(Response::new(v1::ListSalvageResponse { salvages }))
    }

    async fn read_salvage(
        &self,
        request: Request<v1::ReadSalvageRequest>,
    ) -> Result<Response<Self::ReadSalvageStream>, Status> {
        let (client, request) = admitted_of(request)?;
        let share = self.context.ahead.share_of(&client);
        Ok(Response::new(self.salvaged(request, share).await?))
    }

    async fn delete_salvage(
        &self,
        request: Request<v1::DeleteSalvageRequest>,
    ) -> Result<Response<v1::DeleteSalvageResponse>, Status> {
        let by = peer_of(&request)?.clone();
        let request = admitted(request)?;
        let ended = self.remove_salvage(request.clone()).await;
        self.audit(&by, "delete_salvage", &request, &ended);
        ended?;
        Ok(Response::new(v1::DeleteSalvageResponse {}))
    }

    async fn search(
        &self,
        request: Request<v1::SearchRequest>,
    ) -> Result<Response<v1::SearchResponse>, Status> {
        let (client, request) = admitted_of(request)?;
        Ok(answer_with_room(&self.context.ahead, &client, || self.search_index(&request)).await?)
    }

    async fn durability(
        &self,
        request: Request<v1::DurabilityRequest>,
    ) -> Result<Response<v1::DurabilityResponse>, Status> {
        let request = admitted(request)?;
        let bad = |_| Refusal::new(RefusalReason::BadArgument, "the token is not readable");
        let token = CommitToken::decode(&request.token).map_err(bad)?;
        let copy = self.copy(&request.database)?;
        refuse_unless_serving(&copy)?;
        Ok(Response::new(self.durability_of(&copy, &token).await?))
    }
}

impl KvService {
    /// Tells the cluster what somebody changed besides data, and how it ended.
    fn audit<T: OfDatabase + std::fmt::Debug>(
        &self,
        by: &PeerIdentity,
        call: &str,
        request: &T,
        ended: &Result<(), Refusal>,
    ) {
        let outcome = match ended {
            Ok(()) => "done",
            Err(refusal) => refusal.reason.code().0,
        };
        let (outcome, request_text) = (outcome.to_owned(), format!("{request:?}"));
        let line = AuditLine { call: call.into(), outcome: outcome.clone(), ..line_of(by) };
        self.context.audit(&line.with_arguments(&request_text));
        let (by, call) = (by.to_string(), call.to_owned());
        let asked = News::Asked { by, call, request: request_text, outcome };
        let copy = self.registry.named(request.database());
        self.context.tell(copy.map(|copy| copy.shared.database), &asked);
    }

    async fn durability_of(
        &self,
        copy: &CopyHandle,
        token: &CommitToken,
    ) -> Result<v1::DurabilityResponse, Refusal> {
        let gone = || Refusal::new(RefusalReason::Activating, "the copy is being reopened");
        let (reply, log) = oneshot::channel();
        copy.mailbox.send(Message::LogView(reply)).await.map_err(|_| gone())?;
        let log = log.await.map_err(|_| gone())??;
        if standing(&log.table, token, copy) != Standing::Here {
            return Ok(v1::DurabilityResponse { discarded: true, ..Default::default() });
        }
        let (reply, view) = oneshot::channel();
        copy.mailbox.send(Message::View(reply)).await.map_err(|_| gone())?;
        let view = view.await.map_err(|_| gone())?;
        let at = token.end.position;
        let own = v1::CopyDurability {
            member: self.name_of(self.context.member),
            durable: view.view.inspected >= at,
            replayed: view.view.replayed >= at,
        };
        let other = |peer: &keelson_copy_core::PeerView| v1::CopyDurability {
            member: self.name_of(peer.member),
            durable: peer.durable >= at,
            replayed: view.replayed.get(&peer.copy).is_some_and(|replayed| *replayed >= at),
        };
        let mut copies = vec![own];
        copies.extend(view.view.peers.iter().map(other));
        let committed = view.view.committed >= at;
        Ok(v1::DurabilityResponse { copies, committed, discarded: false })
    }

    fn name_of(&self, member: keelson_types::MemberId) -> String {
        self.context.member(member).map(|peer| peer.name.to_string()).unwrap_or_default()
    }
}

/// How a token's write stands to the log of a copy.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Standing {
    /// Its timeline is this one: the write is in the log, or comes with more of it.
    Here,
    /// Its epoch has not come here yet. However far this log reaches, the write is not in it.
    Unheard,
    /// It lies in a timeline that this log does not contain.
    Discarded,
}

pub(crate) fn standing(
    table: &keelson_types::EpochTable,
    token: &CommitToken,
    copy: &CopyHandle,
) -> Standing {
    let LogEnd { epoch, position } = token.end;
    if token.stream != copy.shared.stream {
        return Standing::Discarded;
    }
    if epoch > table.last_epoch() {
        return Standing::Unheard;
    }
    let known = table.contains(epoch);
    let oldest = table.rows().first().map(|row| row.epoch);
    // Not known: older than what the table remembers, or an epoch that left nothing behind.
    let gone = match known {
        true => position > table.end_of(epoch, keelson_types::Position::new(u64::MAX, 0)),
        false => oldest.is_some_and(|oldest| epoch > oldest),
    };
    if gone { Standing::Discarded } else { Standing::Here }
}
