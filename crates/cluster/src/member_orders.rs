//! Orders of the leader: sending them to a member, and carrying them out on this one.
//!
//! The data process does the work. If it is down the answer is given at once, so that the leader
//! need not wait. An order for this very member takes the same path without the network.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use keelson_cluster_core::ClusterState;
use keelson_net::Lane;
use keelson_types::{DatabaseId, Epoch, MemberId, RefusalReason};
use keelson_wire::v1::{
    DismountManyRequest, DismountManyResponse, MountManyRequest, MountManyResponse, MountOrder,
    MountOutcome, SealManyRequest, SealManyResponse, control_to_data, data_to_control,
};
use keelson_wire::{Refusal, ids};

use crate::context::Context;
use crate::data_link::LinkDown;
use crate::orders;
use crate::peers::{Client, call};

/// How long an order waits for this member to catch up; well below a seal's deadline.
const ASSIGNED_DEADLINE: Duration = Duration::from_millis(200);

pub(crate) fn link_refusal(down: LinkDown) -> Refusal {
    let reason = match down {
        LinkDown::Down => RefusalReason::Unreachable,
        LinkDown::NoAnswer => RefusalReason::DeadlineExceeded,
    };
    Refusal::new(reason, down.to_string())
}

/// The pairs that orders speak of; malformed ones are for the data process to refuse.
fn spoken_of<'a>(
    orders: impl Iterator<Item = (&'a bytes::Bytes, Option<keelson_wire::v1::Epoch>)>,
) -> Vec<(DatabaseId, Epoch)> {
    orders.filter_map(|(id, epoch)| Some((ids::database(id).ok()?, epoch?.into()))).collect()
}

fn wrong_answer(answer: &data_to_control::Message) -> Refusal {
    let what = format!("the data process answered something else: {answer:?}");
    Refusal::new(RefusalReason::Internal, what)
}

impl Context {
    /// The client for another member, `None` for this one.
    pub(crate) fn remote(&self, member: MemberId) -> Result<Option<Client>, Refusal> {
        if member == self.identity.member {
            return Ok(None);
        }
        let found = self.applied.read(|state| {
            let config = &state.members.get(&member)?.config;
            Some((config.name.to_string(), config.control_address.clone()))
        });
        let (name, address) = found.ok_or_else(|| {
            Refusal::new(RefusalReason::UnknownMember, format!("no member {member}"))
        })?;
        Ok(Some(self.peers.cluster(&name, &address, Lane::Control)))
    }

    pub(crate) async fn seal_on(
        self: &Arc<Self>,
        member: MemberId,
        request: SealManyRequest,
        deadline: Duration,
    ) -> Result<SealManyResponse, Refusal> {
        match self.remote(member)? {
            None => Ok(self.seal_here(request).await),
            Some(mut client) => {
                call(deadline, request, |r| async move { client.seal_many(r).await }).await
            }
        }
    }

    pub(crate) async fn mount_on(
        self: &Arc<Self>,
        member: MemberId,
        request: MountManyRequest,
        deadline: Duration,
    ) -> Result<MountManyResponse, Refusal> {
        match self.remote(member)? {
            None => Ok(self.mount_here(request).await),
            Some(mut client) => {
                call(deadline, request, |r| async move { client.mount_many(r).await }).await
            }
        }
    }

    pub(crate) async fn dismount_on(
        self: &Arc<Self>,
        member: MemberId,
        request: DismountManyRequest,
        deadline: Duration,
    ) -> Result<DismountManyResponse, Refusal> {
        match self.remote(member)? {
            None => self.dismount_here(request).await,
            Some(mut client) => {
                call(deadline, request, |r| async move { client.dismount_many(r).await }).await
            }
        }
    }

    /// Waits until the data process was told what an order speaks of. The leader may be a few
    /// entries ahead of this member; with the data process down, or too far behind, the order goes
    /// on as it is.
    async fn assigned(&self, what: &[(DatabaseId, Epoch)]) {
        let knows_all = |state: &ClusterState| {
            let known = |(id, epoch): &(DatabaseId, Epoch)| {
                state.databases.get(id).is_some_and(|database| database.epoch >= *epoch)
            };
            what.iter().all(known)
        };
        let told = async {
            let mut applied = self.applied.watch();
            while !self.applied.read(knows_all) {
                if applied.changed().await.is_err() {
                    return;
                }
            }
            let index = self.applied.index();
            // The sender ends with the control plane only.
            let _ = self.assigned.clone().wait_for(|assigned| *assigned >= index).await;
        };
        if self.data.borrow().is_some() {
            // Over time the data process answers by what it knows.
            let _ = tokio::time::timeout(ASSIGNED_DEADLINE, told).await;
        }
    }

    /// Seals copies of this member. The reply names what could not be asked.
    pub(crate) async fn seal_here(&self, request: SealManyRequest) -> SealManyResponse {
        let orders = request.orders.clone();
        self.assigned(&spoken_of(orders.iter().map(|o| (&o.database, o.epoch)))).await;
        let deadline = self.timings.seal_deadline;
        let answer = self.link.request(control_to_data::Message::Seal(request), deadline).await;
        match answer {
            Ok(data_to_control::Message::Seal(response)) => response,
            Ok(other) => orders::unsealed(&orders, &wrong_answer(&other).to_string()),
            Err(down) => orders::unsealed(&orders, &format!("unreachable: {down}")),
        }
    }

    /// Mounts copies of this member, each on its own, so that a slow one delays no other.
    pub(crate) async fn mount_here(&self, request: MountManyRequest) -> MountManyResponse {
        let orders = request.orders.iter().map(|o| (&o.database, o.epoch));
        self.assigned(&spoken_of(orders)).await;
        let outcomes = join_all(request.orders.into_iter().map(|order| self.mount_one(order)));
        MountManyResponse { outcomes: outcomes.await }
    }

    async fn mount_one(&self, order: MountOrder) -> MountOutcome {
        let message = MountManyRequest { orders: vec![order.clone()] };
        let deadline = self.timings.mount_deadline;
        match self.link.request(control_to_data::Message::Mount(message), deadline).await {
            Ok(data_to_control::Message::Mount(response)) => {
                let outcome = response.outcomes.into_iter().next();
                let missing = || orders::unmounted(&order, RefusalReason::Internal, "no outcome");
                outcome.unwrap_or_else(missing)
            }
            Ok(other) => {
                let refusal = wrong_answer(&other);
                orders::unmounted(&order, refusal.reason, &refusal.message)
            }
            Err(down) => {
                let refusal = link_refusal(down);
                orders::unmounted(&order, refusal.reason, &refusal.message)
            }
        }
    }

    /// Closes copies of this member. With the data process down there is nothing open.
    pub(crate) async fn dismount_here(
        &self,
        request: DismountManyRequest,
    ) -> Result<DismountManyResponse, Refusal> {
        let deadline = self.timings.mount_deadline;
        match self.link.request(control_to_data::Message::Dismount(request), deadline).await {
            Ok(data_to_control::Message::Dismount(response)) => Ok(response),
            Ok(other) => Err(wrong_answer(&other)),
            Err(LinkDown::Down) => Ok(DismountManyResponse {}),
            Err(LinkDown::NoAnswer) => Err(link_refusal(LinkDown::NoAnswer)),
        }
    }
}
