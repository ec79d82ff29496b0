//! Comparing the contents of all copies, by the active one: a marker in the log, a digest of each
//! copy where it replays the marker, and a verdict.
//!
//! Copies that do not answer in time (lagged, suspended, down) do not count, and the report says
//! how many did. A database that nobody writes is compared like any other: a store can be wrong
//! without a write.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use keelson_copy_core::scrub::{DigestVerdict, digest_wait, judge_digests};
use keelson_net::Lane;
use keelson_types::{CopyId, LogEnd, MemberId};
use keelson_wire::v1;
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::context::{CopyHandle, PlaneContext};
use crate::fetch::client;
use crate::message::Message;
use crate::note::{Note, NoteCode};
use crate::scrub::{Compared, ScrubParts, ScrubReport};
use crate::writer::{Reply, WriteBody, WriteRequest};

/// How long a marker may take to be committed.
const MARKER_WAIT: Duration = Duration::from_secs(5);

pub(super) async fn compare(
    context: &Arc<PlaneContext>,
    copy: &CopyHandle,
    parts: &ScrubParts,
    report: &mut ScrubReport,
) -> Result<(), String> {
    let shared = &copy.shared;
    let (marker, at) = place_marker(copy).await?;
    let wait = digest_wait(shared.size());
    let own = async { timeout(wait, copy.digests.wait(marker)).await.ok()?.ok() };
    let asked = (marker, wait);
    let others = parts.others.iter().map(|other| digest_of(context, copy, *other, asked));
    let (own, others) = futures::join!(own, join_all(others));
    let own = own.map(|taken| (shared.copy, taken));
    let answers: BTreeMap<CopyId, (LogEnd, u128)> =
        others.into_iter().flatten().chain(own).collect();
    let compared = answers.values().filter(|(taken, _)| *taken == at).count();
    report.compared = Some(Compared::new(compared, parts.copies));
    match judge_digests(at, &answers) {
        DigestVerdict::Equal => {}
        DigestVerdict::Minority(wrong) => {
            report.found += 1;
            for wrong in wrong {
                condemn(context, copy, parts, wrong, at).await;
            }
            return Err(format!("contents differ at {at}; what most copies hold is right"));
        }
        DigestVerdict::Undecided(copies) => {
            report.found += 1;
            let held = copies.iter().map(|id| format!("{id} {:032x}", answers[id].1));
            let text = format!("at {at}: {}", held.collect::<Vec<_>>().join(", "));
            Note::new(NoteCode::DigestsDiffer, &text).tell(context, shared);
            return Err(format!("contents differ {text}; nobody knows which is right"));
        }
    }
    Ok(())
}

async fn place_marker(copy: &CopyHandle) -> Result<(u64, LogEnd), String> {
    let marker: u64 = rand::random();
    let (reply, answer) = oneshot::channel();
    let request = WriteRequest { body: WriteBody::Marker(marker), reply: Reply::new(reply, None) };
    let gone = "the copy is being reopened";
    copy.mailbox.send(Message::Write(request)).await.map_err(|_| gone)?;
    let written = timeout(MARKER_WAIT, answer).await.map_err(|_| "no marker is committed")?;
    let written = written.map_err(|_| gone)?.map_err(|refusal| refusal.to_string())?;
    Ok((marker, written.end))
}

async fn digest_of(
    context: &PlaneContext,
    copy: &CopyHandle,
    (member, id): (MemberId, CopyId),
    (marker, wait): (u64, Duration),
) -> Option<(CopyId, (LogEnd, u128))> {
    let peer = context.member(member)?;
    let mut client = client(context.channel(&peer, Lane::Bulk));
    let request = v1::GetDigestRequest { database: copy.shared.name.clone(), marker };
    let answer = timeout(wait, client.get_digest(request)).await.ok()?.ok()?.into_inner();
    let digest = u128::from_be_bytes(answer.digest[..].try_into().ok()?);
    Some((id, (answer.at?.into(), digest)))
}

/// Tells a copy that its content is wrong.
async fn condemn(
    context: &PlaneContext,
    copy: &CopyHandle,
    parts: &ScrubParts,
    wrong: CopyId,
    at: LogEnd,
) {
    if wrong == copy.shared.copy {
        let told = Message::StoreDamaged(wrong_at(at), NoteCode::DigestWrong);
        // An owner that ended is compared again at the next scrub.
        let _ = copy.mailbox.send(told).await;
        return;
    }
    let member = parts.others.iter().find(|(_, id)| *id == wrong).map(|(member, _)| *member);
    let Some(peer) = member.and_then(|member| context.member(member)) else { return };
    let mut client = client(context.channel(&peer, Lane::Bulk));
    let request =
        v1::ScrubCopyRequest { database: copy.shared.name.clone(), differs_at: Some(at.into()) };
    match timeout(MARKER_WAIT, client.scrub_copy(request)).await {
        Ok(Ok(_)) => {}
        answer => {
            let why = answer.map_or_else(|_| "no answer".into(), |a| format!("{:?}", a.err()));
            tracing::warn!(database = %copy.shared.name, member = %peer.name, %why,
                "a copy was not told that its content is wrong");
        }
    }
}

/// Why a store is given up whose content most copies do not share.
pub(crate) fn wrong_at(at: LogEnd) -> String {
    format!("its content at {at} is not that of most copies")
}
