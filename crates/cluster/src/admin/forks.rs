//! Forks, for operators: handed on to the data process of the member that holds the copy.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use keelson_wire::Refusal;
use keelson_wire::v1::{
    CreateForkRequest, DropForkRequest, DropForkResponse, ForkInfo, ListForksRequest,
    ListForksResponse,
};

use crate::context::Context;
use crate::peers::call;

/// How long a member may take to begin a fork or to remove one.
const FORK_DEADLINE: Duration = Duration::from_secs(20);
/// How long a member may take to list its forks.
const LIST_DEADLINE: Duration = Duration::from_secs(2);

impl Context {
    pub(super) async fn admin_create_fork(
        self: &Arc<Self>,
        request: CreateForkRequest,
    ) -> Result<ForkInfo, Refusal> {
        self.cluster()?;
        let (member, _) = self.copy_holder(&request.database, &request.member)?;
        let (name, address) = self.data_side(member)?;
        let mut client = self.peers.replication(&name, &address);
        call(FORK_DEADLINE, request, |r| async move { client.create_fork(r).await }).await
    }

    pub(super) async fn admin_drop_fork(
        self: &Arc<Self>,
        request: DropForkRequest,
    ) -> Result<DropForkResponse, Refusal> {
        self.cluster()?;
        // The copy itself may be gone; its forks stay until they are dropped.
        let member = self.member_called(&request.member)?.id;
        let (name, address) = self.data_side(member)?;
        let mut client = self.peers.replication(&name, &address);
        call(FORK_DEADLINE, request, |r| async move { client.drop_fork(r).await }).await
    }

    pub(super) async fn admin_list_forks(
        self: &Arc<Self>,
        request: ListForksRequest,
    ) -> Result<ListForksResponse, Refusal> {
        self.cluster()?;
        let members: Vec<_> = self.applied.read(|state| {
            let holders = state.members.values().map(|member| &member.config);
            let holders = holders.filter(|config| !config.data_address.is_empty());
            holders.map(|c| (c.name.to_string(), c.data_address.clone())).collect()
        });
        let asked = members.into_iter().map(|(member, address)| {
            let request = request.clone();
            async move {
                let mut client = self.peers.replication(&member, &address);
                let send = |r| async move { client.list_forks(r).await };
                call(LIST_DEADLINE, request, send).await.map_err(|_| member)
            }
        });
        let mut all = ListForksResponse::default();
        for answer in join_all(asked).await {
            match answer {
                Ok(answer) => all.forks.extend(answer.forks),
                Err(member) => all.silent_members.push(member),
            }
        }
        all.forks.sort_by(|a, b| {
            (&a.database, &a.member, &a.name).cmp(&(&b.database, &b.member, &b.name))
        });
        Ok(all)
    }
}
