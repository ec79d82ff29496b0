//! Asks the data processes of the other members, at the address that clients use, whether they
//! answer (F13). What that means is decided by `copy_core::reach_watch` and by the leader.
//!
//! One task for all members, on connections of their own, so that log under way delays no answer.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use keelson_copy_core::reach_watch::ReachWatch;
use keelson_net::Lane as ChannelLane;
use keelson_types::{MemberId, Setting};
use keelson_wire::v1;

use crate::context::{Peer, PlaneContext};
use crate::fetch::client;
use crate::gate::boottime_now;

/// How often each member is asked.
const PERIOD: Duration = Duration::from_secs(1);
/// With many members they are asked less often, so that a second has no more than twenty calls.
const PERIOD_PER_MEMBER: Duration = Duration::from_millis(50);
/// Time for an answer.
const ANSWER: Duration = Duration::from_millis(1_500);

/// What was found of each member.
#[derive(Debug, Default)]
pub(crate) struct Reach(Mutex<BTreeMap<MemberId, ReachWatch>>);

impl Reach {
    /// Members that have not answered for longer than the setting says.
    pub(crate) fn unreached(&self, context: &PlaneContext) -> Vec<MemberId> {
        let after = context.settings.borrow().span(Setting::DataNetworkAfter);
        let now = boottime_now();
        let found = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let silent = found.iter().filter(|(_, watch)| watch.is_unreached(now, after));
        silent.map(|(member, _)| *member).collect()
    }

    fn take(&self, answers: &[(MemberId, bool)]) {
        let now = boottime_now();
        let mut found = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Whoever left the cluster, or came, begins anew.
        found.retain(|member, _| answers.iter().any(|(id, _)| id == member));
        for (member, answered) in answers {
            found.entry(*member).or_insert_with(|| ReachWatch::new(now)).look(now, *answered);
        }
    }
}

/// Asks until the process ends.
pub(crate) async fn run(context: Arc<PlaneContext>) {
    loop {
        let (others, context) = (context.other_holders(), &context);
        let asked = others.iter().map(|(member, peer)| async move {
            (*member, tokio::time::timeout(ANSWER, ask(context, peer)).await == Ok(true))
        });
        let answers = futures::future::join_all(asked).await;
        context.reach.take(&answers);
        let many = PERIOD_PER_MEMBER * u32::try_from(answers.len()).unwrap_or(u32::MAX);
        tokio::time::sleep(PERIOD.max(many)).await;
    }
}

async fn ask(context: &PlaneContext, peer: &Peer) -> bool {
    let mut client = client(context.channel(peer, ChannelLane::Control));
    client.reach(v1::ReachRequest {}).await.is_ok()
}
