//! The volumes of members that have several: what they say of them, for operators and for the
//! automatic reseed, and that an operator replaced a disk.

use std::sync::Arc;
use std::time::Duration;

use keelson_cluster_core::ClusterState;
use keelson_cluster_core::autoreseed::{CopyPlace, SeenPlaces, VolumeSeen};
use keelson_types::{DatabaseId, MemberId, VolumeState};
use keelson_wire::Refusal;
use keelson_wire::v1::{
    ListVolumesRequest, ListVolumesResponse, RenewVolumeRequest, ReplaceVolumeRequest,
    ReplaceVolumeResponse, VolumeFacts, VolumeRow,
};

use super::losses::facts_of;
use crate::context::Context;
use crate::facts::AllFacts;
use crate::peers::call;

/// How long a member may take to write a few small files on an empty disk.
const DEADLINE: Duration = Duration::from_secs(10);

impl Context {
    pub(super) async fn admin_list_volumes(
        self: &Arc<Self>,
        request: ListVolumesRequest,
    ) -> Result<ListVolumesResponse, Refusal> {
        self.cluster()?;
        let members: Vec<MemberId> = match request.member.as_str() {
            "" => self.applied.read(|state| state.members.keys().copied().collect()),
            name => vec![self.member_called(name)?.id],
        };
        // Of no database: the members' own facts are enough.
        let facts = self.facts_of(members, &[DatabaseId::from_u128(0)]).await;
        let mut answer = ListVolumesResponse::default();
        for (member, facts) in facts {
            let name = self.name_of_member(member);
            match facts {
                Ok(facts) => answer.volumes.extend(
                    facts
                        .volumes
                        .into_iter()
                        .map(|volume| VolumeRow { member: name.clone(), volume: Some(volume) }),
                ),
                Err(_) => answer.silent_members.push(name),
            }
        }
        answer.volumes.sort_by(|one, other| one.member.cmp(&other.member));
        Ok(answer)
    }

    pub(super) async fn admin_replace_volume(
        self: &Arc<Self>,
        request: ReplaceVolumeRequest,
    ) -> Result<ReplaceVolumeResponse, Refusal> {
        self.cluster()?;
        let holder = self.member_called(&request.member)?.id;
        let (member, address) = self.data_side(holder)?;
        let mut client = self.peers.replication(&member, &address);
        let ReplaceVolumeRequest { path, what_if, .. } = request;
        let request = RenewVolumeRequest { path, what_if };
        call(DEADLINE, request, |r| async move { client.renew_volume(r).await }).await?;
        Ok(ReplaceVolumeResponse {})
    }
}

/// What members said of volumes, and of where copies lie. What is said of another copy in the same
/// place is not taken for this one.
pub(super) fn seen_places(state: &ClusterState, facts: &AllFacts) -> SeenPlaces {
    let told = facts.iter().filter_map(|(member, facts)| Some((*member, facts.as_ref().ok()?)));
    let volumes = told.filter(|(_, facts)| !facts.volumes.is_empty());
    let volumes = volumes
        .map(|(member, facts)| (member, facts.volumes.iter().filter_map(volume_seen).collect()));
    let copies = state.databases.values().flat_map(|database| {
        database.copies.iter().map(move |(id, config)| (database, *id, config))
    });
    let copies = copies.filter_map(|(database, id, config)| {
        let told = facts_of(database, facts, config.member)?;
        let place = CopyPlace { volume: told.volume.clone(), store_bytes: told.store_bytes };
        (told.copy[..] == id.into_bytes()[..]).then_some((id, place))
    });
    SeenPlaces { volumes: volumes.collect(), copies: copies.collect() }
}

fn volume_seen(facts: &VolumeFacts) -> Option<VolumeSeen> {
    Some(VolumeSeen {
        path: facts.path.clone(),
        state: VolumeState::named(&facts.state)?,
        free_bytes: facts.free_bytes,
        replaced_by: Some(facts.replaced_by.clone()).filter(|path| !path.is_empty()),
    })
}
