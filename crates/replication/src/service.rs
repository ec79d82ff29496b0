//! The `Replication` service: log sessions from other members, log for other members, digests.
//!
//! Who is no member does not come here: its server asks first ([`Membership`]).

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::Stream;
use keelson_copy_core::range_fetch::{FetchFailure, Spans};
use keelson_copy_core::scrub::digest_wait;
use keelson_env::StoreItem;
use keelson_net::{Membership, Standing, require_member};
use keelson_types::{DatabaseId, ForkName, Instant, MemberId, MemberName, RefusalReason, Span};
use keelson_wire::{PROTOCOL_MAX, PROTOCOL_MIN, Refusal, ids, v1};
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::{ReceiverStream, UnboundedReceiverStream};
use tonic::{Request, Response, Status, Streaming};

use crate::context::{PlaneContext, Registry};
use crate::fetch::{FetchPlan, send_log};
use crate::forks::{Fork, ForkOrder, ForkState};
use crate::inbound::take_session;
use crate::kv::refuse_unless_serving;
use crate::message::{LogView, Message};
use crate::note::NoteCode;
use crate::rehearse;
use crate::repair::donating::{Donations, KEPT, NoDonation, Wanted};
use crate::scrub;
use crate::scrub::compare::wrong_at;
use crate::seed::blocking;
use crate::writer::{Reply, WriteBody, WriteRequest};

/// Messages read ahead of the asker.
const FETCH_AHEAD: usize = 4;
/// Keys, and bytes of them, in one answer to a range fetch.
const RANGE_KEYS_MAX: usize = 100_000;
const RANGE_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Time for the first message of a session.
const HANDSHAKE: Duration = Duration::from_secs(3);

/// Serves `Replication` for one member.
#[derive(Clone, Debug)]
pub struct ReplicationService {
    pub(crate) context: Arc<PlaneContext>,
    pub(crate) registry: Arc<Registry>,
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl v1::replication_server::Replication for ReplicationService {
    type LogSessionStream = Answers<v1::TargetMessage>;
    type FetchLogStream = Answers<v1::FetchLogResponse>;
    type OpenSeedStream = Answers<v1::OpenSeedResponse>;
    type FetchSeedStream = Answers<v1::SeedChunk>;
    type RehearseStream = Answers<v1::RehearseResponse>;

    async fn log_session(
        &self,
        request: Request<Streaming<v1::SourceMessage>>,
    ) -> Result<Response<Self::LogSessionStream>, Status> {
        let name = require_member(&request)?;
        let member = self.context.member_named(&name).ok_or_else(|| {
            Refusal::new(RefusalReason::UnknownMember, format!("{name} is no member here"))
        })?;
        let mut messages = request.into_inner();
        let first = tokio::time::timeout(HANDSHAKE, messages.message()).await;
        let first =
            first.map_err(|_| Refusal::new(RefusalReason::DeadlineExceeded, "silence"))??;
        let handshake = match first.and_then(|first| first.message) {
            Some(v1::source_message::Message::Handshake(handshake)) => handshake,
            _ => return Err(Refusal::new(RefusalReason::BadArgument, "no handshake").into()),
        };
        self.check(&handshake, Some(member))?;
        let (answers, responses) = mpsc::unbounded_channel();
        let hello = v1::target_message::Message::Handshake(self.context.handshake());
        // The receiver is right here.
        let _ = answers.send(Ok(v1::TargetMessage { message: Some(hello) }));
        let registry = self.registry.clone();
        let counts = self.context.traffic.with(member);
        tokio::spawn(take_session(registry, (member, counts), messages, answers));
        Ok(Response::new(Box::pin(UnboundedReceiverStream::new(responses))))
    }

    async fn fetch_log(
        &self,
        request: Request<v1::FetchLogRequest>,
    ) -> Result<Response<Self::FetchLogStream>, Status> {
        require_member(&request)?;
        let request = request.into_inner();
        self.check(&request.handshake.clone().unwrap_or_default(), None)?;
        let database = ids::database(&request.database)?;
        let view = self.log_view(database).await?;
        let (sender, responses) = mpsc::channel(FETCH_AHEAD);
        let context = self.context.clone();
        let plan = FetchPlan::new(request, &view)?;
        let unknown = || Refusal::new(RefusalReason::UnknownCopy, "no copy of this database here");
        let owner = self.registry.get(database).ok_or_else(unknown)?.mailbox;
        tokio::spawn(send_log(context, view, plan, sender, owner));
        Ok(Response::new(Box::pin(ReceiverStream::new(responses))))
    }

    async fn fetch_range(
        &self,
        request: Request<v1::FetchRangeRequest>,
    ) -> Result<Response<v1::FetchRangeResponse>, Status> {
        require_member(&request)?;
        let request = request.into_inner();
        self.check(&request.handshake.clone().unwrap_or_default(), None)?;
        Ok(Response::new(self.donate(request).await?))
    }

    async fn repair_range(
        &self,
        request: Request<v1::RepairRangeRequest>,
    ) -> Result<Response<v1::RepairRangeResponse>, Status> {
        require_member(&request)?;
        let request = request.into_inner();
        let spans = request.spans.into_iter().map(Span::try_from);
        let spans: Spans = spans.collect::<Result<Vec<_>, _>>()?.into_iter().collect();
        let unknown = || Refusal::new(RefusalReason::UnknownCopy, "no copy of this database here");
        let copy = self.registry.named(&request.database).ok_or_else(unknown)?;
        let gone = || Refusal::new(RefusalReason::Activating, "the copy is being reopened");
        let (reply, begun) = oneshot::channel();
        copy.mailbox.send(Message::Repair(spans, reply)).await.map_err(|_| gone())?;
        begun.await.map_err(|_| gone())??;
        Ok(Response::new(v1::RepairRangeResponse {}))
    }

    async fn place_marker(
        &self,
        request: Request<v1::PlaceMarkerRequest>,
    ) -> Result<Response<v1::PlaceMarkerResponse>, Status> {
        require_member(&request)?;
        let name = request.into_inner().database;
        let unknown = || Refusal::new(RefusalReason::UnknownCopy, "no copy of this database here");
        let copy = self.registry.named(&name).ok_or_else(unknown)?;
        refuse_unless_serving(&copy)?;
        let marker: u64 = rand::random();
        let (reply, answer) = oneshot::channel();
        let body = WriteBody::Marker(marker);
        let gone = || Refusal::new(RefusalReason::Activating, "the copy is being reopened");
        let message = Message::Write(WriteRequest { body, reply: Reply::new(reply, None) });
        copy.mailbox.send(message).await.map_err(|_| gone())?;
        let written = answer.await.map_err(|_| gone())??;
        Ok(Response::new(v1::PlaceMarkerResponse { marker, end: Some(written.end.into()) }))
    }

    async fn reach(
        &self,
        request: Request<v1::ReachRequest>,
    ) -> Result<Response<v1::ReachResponse>, Status> {
        require_member(&request)?;
        Ok(Response::new(v1::ReachResponse {}))
    }

    async fn open_seed(
        &self,
        request: Request<v1::OpenSeedRequest>,
    ) -> Result<Response<Self::OpenSeedStream>, Status> {
        require_member(&request)?;
        let request = request.into_inner();
        self.check(&request.handshake.clone().unwrap_or_default(), None)?;
        let answers = self.open_seed_stream(&request)?;
        Ok(Response::new(Box::pin(ReceiverStream::new(answers))))
    }

    async fn fetch_seed(
        &self,
        request: Request<v1::FetchSeedRequest>,
    ) -> Result<Response<Self::FetchSeedStream>, Status> {
        let target = self.context.member_named(&require_member(&request)?);
        let counts = target.map(|member| self.context.traffic.with(member)).unwrap_or_default();
        let request = request.into_inner();
        self.check(&request.handshake.clone().unwrap_or_default(), None)?;
        let chunks = self.fetch_seed_stream(request, counts)?;
        Ok(Response::new(Box::pin(ReceiverStream::new(chunks))))
    }

    async fn close_seed(
        &self,
        request: Request<v1::CloseSeedRequest>,
    ) -> Result<Response<v1::CloseSeedResponse>, Status> {
        require_member(&request)?;
        let request = request.into_inner();
        self.check(&request.handshake.clone().unwrap_or_default(), None)?;
        let key = (ids::database(&request.database)?, ids::operation(&request.operation)?);
        let seeds = self.context.seeds.clone();
        let closed =
            crate::seed::blocking(&self.context.seed_pools.chores, move || seeds.close(key)).await;
        closed.map_err(|why| Refusal::new(RefusalReason::Internal, why))?;
        Ok(Response::new(v1::CloseSeedResponse {}))
    }

    async fn create_fork(
        &self,
        request: Request<v1::CreateForkRequest>,
    ) -> Result<Response<v1::ForkInfo>, Status> {
        require_member(&request)?;
        Ok(Response::new(self.begin_fork(request.into_inner()).await?))
    }

    async fn resolve_instant(
        &self,
        request: Request<v1::ResolveInstantRequest>,
    ) -> Result<Response<v1::InstantInfo>, Status> {
        require_member(&request)?;
        let request = request.into_inner();
        let unknown = || Refusal::new(RefusalReason::UnknownCopy, "no copy of this database here");
        let copy = self.registry.named(&request.database).ok_or_else(unknown)?;
        let at = instant(request.at)?;
        Ok(Response::new(self.context.resolve_instant(&copy, at).await?.into()))
    }

    async fn list_forks(
        &self,
        request: Request<v1::ListForksRequest>,
    ) -> Result<Response<v1::ListForksResponse>, Status> {
        require_member(&request)?;
        let forks = self.context.forks.list(&request.get_ref().database);
        let forks = forks.iter().map(|fork| self.shown(fork)).collect();
        Ok(Response::new(v1::ListForksResponse { forks, silent_members: Vec::new() }))
    }

    async fn drop_fork(
        &self,
        request: Request<v1::DropForkRequest>,
    ) -> Result<Response<v1::DropForkResponse>, Status> {
        require_member(&request)?;
        let request = request.into_inner();
        let (name, context) = (fork_name(&request.name)?, self.context.clone());
        let drop_it = move || context.forks.drop_fork(&*context.opener.0, &request.database, &name);
        let dropped = tokio::task::spawn_blocking(drop_it).await;
        let gone = |_| Refusal::new(RefusalReason::Internal, "the removal panicked");
        dropped.map_err(gone)??;
        Ok(Response::new(v1::DropForkResponse {}))
    }

    async fn rehearse(
        &self,
        request: Request<v1::RehearseRequest>,
    ) -> Result<Response<Self::RehearseStream>, Status> {
        require_member(&request)?;
        let request = request.into_inner();
        let unknown = || Refusal::new(RefusalReason::UnknownCopy, "no copy of this database here");
        let copy = self.registry.named(&request.database).ok_or_else(unknown)?;
        let order = rehearse::Order {
            copy: ids::copy(&request.copy)?,
            operation: ids::operation(&request.operation)?,
            deadline: Duration::from_millis(request.deadline_millis),
            skip_index: request.skip_content_index,
        };
        let (answers, responses) = mpsc::channel(rehearse::ANSWERS);
        // On its own: the fork is dropped also when whoever asked has gone.
        tokio::spawn(rehearse::rehearse(self.context.clone(), copy, order, answers));
        Ok(Response::new(Box::pin(ReceiverStream::new(responses))))
    }

    async fn get_digest(
        &self,
        request: Request<v1::GetDigestRequest>,
    ) -> Result<Response<v1::GetDigestResponse>, Status> {
        require_member(&request)?;
        let request = request.into_inner();
        let unknown = || Refusal::new(RefusalReason::UnknownCopy, "no copy of this database here");
        let copy = self.registry.named(&request.database).ok_or_else(unknown)?;
        let wait = digest_wait(copy.shared.size());
        let waited = tokio::time::timeout(wait, copy.digests.wait(request.marker)).await;
        let late = |_| {
            Refusal::new(RefusalReason::DeadlineExceeded, "the copy has not replayed the marker")
        };
        let failed = |why| Refusal::new(RefusalReason::CopyFailed, why);
        let (at, digest) = waited.map_err(late)?.map_err(failed)?;
        let digest = bytes::Bytes::copy_from_slice(&digest.to_be_bytes());
        Ok(Response::new(v1::GetDigestResponse { at: Some(at.into()), digest }))
    }

    async fn scrub_copy(
        &self,
        request: Request<v1::ScrubCopyRequest>,
    ) -> Result<Response<v1::ScrubCopyResponse>, Status> {
        require_member(&request)?;
        let request = request.into_inner();
        let unknown = || Refusal::new(RefusalReason::UnknownCopy, "no copy of this database here");
        let copy = self.registry.named(&request.database).ok_or_else(unknown)?;
        if let Some(at) = request.differs_at {
            let told = Message::StoreDamaged(wrong_at(at.into()), NoteCode::DigestWrong);
            let gone = || Refusal::new(RefusalReason::Activating, "the copy is being reopened");
            copy.mailbox.send(told).await.map_err(|_| gone())?;
            let ended_before = copy.shared.scrub.facts().ended;
            return Ok(Response::new(v1::ScrubCopyResponse { ended_before }));
        }
        let (first, ended_before) = copy.shared.scrub.ask();
        if first {
            let context = self.context.clone();
            tokio::spawn(async move { scrub::scrub(&context, &copy).await });
        }
        Ok(Response::new(v1::ScrubCopyResponse { ended_before }))
    }

    async fn renew_volume(
        &self,
        request: Request<v1::RenewVolumeRequest>,
    ) -> Result<Response<v1::RenewVolumeResponse>, Status> {
        require_member(&request)?;
        let v1::RenewVolumeRequest { path, what_if } = request.into_inner();
        let volumes = self.context.places.volumes.clone();
        let renew = move || volumes.renew(&path, what_if);
        let renewed = blocking(&self.context.seed_pools.chores, renew).await;
        renewed.map_err(|why| Refusal::new(RefusalReason::Internal, why))??;
        Ok(Response::new(v1::RenewVolumeResponse {}))
    }
}

impl Membership for PlaneContext {
    /// Members are those that the control process told of, which follows consensus.
    fn standing(&self, name: &str) -> Standing {
        let known = MemberName::new(name).is_ok_and(|name| self.member_named(&name).is_some());
        match (known, self.cluster.get()) {
            (true, _) => Standing::Member,
            (false, None) => Standing::Unheard,
            (false, Some(_)) => Standing::Stranger,
        }
    }
}

fn instant(at: Option<v1::Instant>) -> Result<Instant, Refusal> {
    match at.and_then(|at| at.instant) {
        Some(v1::instant::Instant::Position(position)) => Ok(Instant::At(position.into())),
        Some(v1::instant::Instant::UnixMillis(millis)) => Ok(Instant::Time(millis)),
        Some(v1::instant::Instant::AgeMillis(millis)) => Ok(Instant::Ago(millis)),
        None => Err(Refusal::new(RefusalReason::BadArgument, "no instant")),
    }
}

impl ReplicationService {
    async fn begin_fork(&self, request: v1::CreateForkRequest) -> Result<v1::ForkInfo, Refusal> {
        let unknown = || Refusal::new(RefusalReason::UnknownCopy, "no copy of this database here");
        let copy = self.registry.named(&request.database).ok_or_else(unknown)?;
        let at = instant(request.at)?;
        let name = Some(request.name).filter(|name| !name.is_empty());
        let order = ForkOrder {
            name: name.map(|name| fork_name(&name)).transpose()?,
            at,
            expires_after_ms: Some(request.expires_seconds.saturating_mul(1_000))
                .filter(|after| *after > 0),
        };
        let fork = self.context.create_fork(&copy, order).await?;
        Ok(self.shown(&fork))
    }

    fn shown(&self, fork: &Fork) -> v1::ForkInfo {
        let here = self.context.member(self.context.member);
        let (state, problem, at, at_unix_millis) = match fork.state() {
            ForkState::Building => ("building", String::new(), None, 0),
            ForkState::Ready { at, time_unix_ms } => {
                ("ready", String::new(), Some(at.into()), time_unix_ms)
            }
            ForkState::Failed(why) => ("failed", why, None, 0),
        };
        v1::ForkInfo {
            database: fork.is.database_name.clone(),
            member: here.map(|here| here.name.to_string()).unwrap_or_default(),
            name: fork.is.name.to_string(),
            state: state.into(),
            problem,
            at,
            at_unix_millis,
            created_unix_millis: fork.is.created_unix_ms,
            expires_unix_millis: fork.is.expires_unix_ms.unwrap_or(0),
            bytes_max: fork.is.bytes_max,
        }
    }

    fn check(&self, hello: &v1::Handshake, member: Option<MemberId>) -> Result<(), Refusal> {
        let own = self.context.cluster.get().map(|id| id.into_bytes());
        if own.is_none_or(|own| own[..] != hello.cluster[..]) {
            let message = "the caller belongs to another cluster";
            return Err(Refusal::new(RefusalReason::ForeignCluster, message));
        }
        if hello.protocol_max < PROTOCOL_MIN || hello.protocol_min > PROTOCOL_MAX {
            let message = format!(
                "this side speaks {PROTOCOL_MIN} to {PROTOCOL_MAX}, the caller {} to {}",
                hello.protocol_min, hello.protocol_max
            );
            return Err(Refusal::new(RefusalReason::ProtocolMismatch, message));
        }
        let claimed = MemberId::from_slice(&hello.member);
        if member.is_some() && claimed != member {
            let message = "another server runs under this member's name";
            return Err(Refusal::new(RefusalReason::SecondHolder, message));
        }
        Ok(())
    }

    /// Answers keys from a snapshot of the own store.
    async fn donate(
        &self,
        request: v1::FetchRangeRequest,
    ) -> Result<v1::FetchRangeResponse, Refusal> {
        let (database, donor) = (ids::database(&request.database)?, ids::copy(&request.copy)?);
        let asker = ids::member(&request.handshake.unwrap_or_default().member)?;
        let spans = request.spans.into_iter().map(Span::try_from);
        let wanted = Wanted {
            spans: spans.collect::<Result<_, _>>()?,
            snapshot: request.snapshot.map(Into::into),
            not_before: request.not_before.map(Into::into).unwrap_or_default(),
            keys_max: (request.keys_max as usize).min(RANGE_KEYS_MAX),
            bytes_max: usize::try_from(request.bytes_max)
                .unwrap_or(usize::MAX)
                .min(RANGE_BYTES_MAX),
        };
        let unknown = || Refusal::new(RefusalReason::UnknownCopy, "no such copy here");
        let copy = self.registry.get(database).filter(|copy| copy.shared.copy == donor);
        let copy = copy.ok_or_else(unknown)?;
        let gone = || Refusal::new(RefusalReason::Activating, "the copy is being reopened");
        let (reply, follows) = oneshot::channel();
        copy.mailbox.send(Message::Follows(reply)).await.map_err(|_| gone())?;
        let follows = follows.await.map_err(|_| gone())?;
        if !follows.whole {
            return Ok(no_range(v1::RangeFailure::Marked));
        }
        if follows.epoch != request.epoch.map(Into::into) {
            return Ok(no_range(v1::RangeFailure::OtherEpoch));
        }
        let (reply, store) = oneshot::channel();
        copy.mailbox.send(Message::OpenStore(reply)).await.map_err(|_| gone())?;
        let store = store.await.map_err(|_| gone())??;
        let (reply, read) = oneshot::channel();
        let donations = self.context.donations.clone();
        self.context.readers.run(move || {
            drop(reply.send(donations.answer(store, (database, asker), &wanted)));
        });
        let answer = read.await.map_err(|_| gone())?;
        expire_later(&self.context.donations);
        match answer {
            Ok(donation) => Ok(v1::FetchRangeResponse {
                failure: v1::RangeFailure::Unspecified.into(),
                at: Some(donation.at.into()),
                items: donation.items.into_iter().map(range_item).collect(),
                next: donation.next.map(Into::into),
            }),
            Err(NoDonation::Failure(FetchFailure::Behind)) => {
                Ok(no_range(v1::RangeFailure::Behind))
            }
            Err(NoDonation::Failure(_)) => Ok(no_range(v1::RangeFailure::SnapshotGone)),
            Err(NoDonation::Store(error)) => {
                Err(Refusal::new(RefusalReason::CopyFailed, error.to_string()))
            }
        }
    }

    async fn log_view(&self, database: DatabaseId) -> Result<LogView, Refusal> {
        let unknown = || Refusal::new(RefusalReason::UnknownCopy, "no copy of this database here");
        let copy = self.registry.get(database).ok_or_else(unknown)?;
        let gone = || Refusal::new(RefusalReason::Activating, "the copy is being reopened");
        let (reply, view) = oneshot::channel();
        copy.mailbox.send(Message::LogView(reply)).await.map_err(|_| gone())?;
        view.await.map_err(|_| gone())?
    }
}

fn fork_name(text: &str) -> Result<ForkName, Refusal> {
    let bad = |error| Refusal::new(RefusalReason::BadName, format!("fork {text:?}: {error}"));
    ForkName::new(text).map_err(bad)
}

fn no_range(failure: v1::RangeFailure) -> v1::FetchRangeResponse {
    v1::FetchRangeResponse { failure: failure.into(), ..v1::FetchRangeResponse::default() }
}

fn range_item((key, value): StoreItem) -> v1::StoreItem {
    v1::StoreItem { key: Some(key.into()), value }
}

/// Looks once after the time that snapshots are kept; each question begins another wait.
fn expire_later(donations: &Arc<Donations>) {
    let donations = donations.clone();
    tokio::spawn(async move {
        tokio::time::sleep(KEPT).await;
        donations.expire();
    });
}
