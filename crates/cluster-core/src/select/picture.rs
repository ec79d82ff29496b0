//! What a selection knows of each copy, as values that a decision record keeps.
//!
//! Everything that the replicated state says is worked out here once, so that a record alone is
//! enough to select again (G8).

use std::collections::{BTreeMap, BTreeSet};

use keelson_types::{ActivationPolicy, CopyId, Epoch, MemberId, MountDial, SiteName, Weakness};
use serde::{Deserialize, Serialize};

use super::{SelectionInput, holds_given_up};
use crate::member::{Member, MemberActivation};
use crate::order::SealReply;
use crate::state::{CopyConfig, CopyKind, Database};

/// A copy and its member, as the replicated state has them.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct CopyInput {
    /// The copy.
    pub copy: CopyId,
    /// Its member.
    pub member: MemberId,
    /// Name of the member; decides among equals.
    pub name: String,
    /// Site of the member.
    pub site: SiteName,
    /// Activation preference; lower is preferred.
    pub preference: u32,
    /// The stricter one of the policies of the copy and of its member.
    #[serde(default, skip_serializing_if = "is_default")]
    pub policy: ActivationPolicy,
    /// Databases that are active on its member, or are about to be.
    #[serde(default, skip_serializing_if = "is_default")]
    pub actives: u32,
    /// Most of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_active: Option<u32>,
    /// Most of them where another copy can serve.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_active_preferred: Option<u32>,
    /// The mount dial of its member.
    #[serde(default, skip_serializing_if = "is_default")]
    pub dial: MountDial,
    /// What holds of the copy; absent is false.
    #[serde(default, skip_serializing_if = "is_default")]
    pub marks: BTreeSet<Mark>,
}

/// What holds of a copy.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mark {
    /// It was the active of the newest bound epoch.
    Incumbent,
    /// It lags on purpose.
    Lagged,
    /// An operator wants it gone.
    Leaving,
    /// Copying and replay are suspended.
    Stopped,
    /// Its automatic activation is suspended.
    Blocked,
    /// Its member is under maintenance.
    Maintenance,
    /// An operator moves databases away from its member.
    MoveAway,
    /// It holds what was given up, and another one the log that went on.
    GivenUp,
    /// It holds the timeline that an activation at an instant made the truth.
    Truth,
    /// Its store holds what such an activation gave up, and another copy the log that went on.
    ReplayedGivenUp,
    /// The data address of its member is cut off.
    DataCut,
}

impl Mark {
    /// Its name, for people and scripts.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Incumbent => "incumbent",
            Self::Lagged => "lagged",
            Self::Leaving => "leaving",
            Self::Stopped => "suspended",
            Self::Blocked => "activation suspended",
            Self::Maintenance => "maintenance",
            Self::MoveAway => "move away",
            Self::GivenUp => "holds what was given up",
            Self::Truth => "holds the truth",
            Self::ReplayedGivenUp => "its store holds what was given up",
            Self::DataCut => "its data address is cut off",
        }
    }
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl CopyInput {
    /// Whether it is marked so.
    #[must_use]
    pub fn is(&self, mark: Mark) -> bool {
        self.marks.contains(&mark)
    }

    /// Whether its member takes one more database, and would by its preferred maximum.
    #[must_use]
    pub fn room(&self) -> (bool, bool) {
        let below = |max: Option<u32>| max.is_none_or(|max| self.actives < max);
        (below(self.max_active), below(self.max_active_preferred))
    }
}

/// Everything that a selection depends on, as values.
#[derive(Clone, Copy, Debug)]
pub struct Picture<'a> {
    /// The epoch of the attempt.
    pub epoch: Epoch,
    /// All copies.
    pub copies: &'a [CopyInput],
    /// At most one answer per member.
    pub replies: &'a [SealReply],
    /// Members with lease-capable contact.
    pub alive: &'a BTreeSet<MemberId>,
    /// The only copy allowed.
    pub requested: Option<CopyId>,
    /// Copies that failed in an earlier attempt.
    pub avoid: &'a BTreeSet<CopyId>,
    /// Production: none.
    pub weakness: Weakness,
}

/// The copies of a database as a selection sees them.
pub(crate) fn copy_inputs(input: &SelectionInput<'_>) -> Vec<CopyInput> {
    let copies = input.database.copies.iter();
    copies.map(|(id, copy)| copy_input(input, *id, copy)).collect()
}

fn copy_input(input: &SelectionInput<'_>, id: CopyId, copy: &CopyConfig) -> CopyInput {
    let reply = input.replies.iter().find(|r| r.copy == id && r.member == copy.member);
    let turned_back = input.database.turned_back.as_ref();
    let of_member = input.members.get(&copy.member);
    let marks = [
        (Mark::DataCut, input.data_cut.contains(&copy.member)),
        (Mark::GivenUp, reply.is_some_and(|reply| holds_given_up(input, reply))),
        (Mark::Truth, turned_back.is_some_and(|turned| turned.is_truth(id, reply))),
        (
            Mark::ReplayedGivenUp,
            turned_back.zip(reply).is_some_and(|(t, reply)| t.would_undo(reply, input.replies)),
        ),
    ];
    let mut described = describe(input.database, of_member, (id, copy), input.actives);
    described.marks.extend(marks.into_iter().filter(|(_, holds)| *holds).map(|(mark, _)| mark));
    described
}

/// A copy and its member, without what only answers to a seal can tell.
pub(crate) fn describe(
    database: &Database,
    member: Option<&Member>,
    (id, copy): (CopyId, &CopyConfig),
    actives: &BTreeMap<MemberId, u32>,
) -> CopyInput {
    let config = member.map(|member| &member.config);
    let activation = member.map_or_else(MemberActivation::default, |member| member.activation);
    let mut marks = set_by_operators(member, copy);
    if database.incumbent() == Some(id) {
        marks.insert(Mark::Incumbent);
    }
    CopyInput {
        copy: id,
        member: copy.member,
        name: config.map(|config| config.name.to_string()).unwrap_or_default(),
        site: config.map_or_else(no_site, |config| config.site.clone()),
        preference: copy.preference,
        policy: copy.policy.max(activation.policy),
        actives: actives.get(&copy.member).copied().unwrap_or(0),
        max_active: activation.max_active,
        max_active_preferred: activation.max_active_preferred,
        dial: activation.dial,
        marks,
    }
}

/// The marks of a copy that follow from what operators set, on it or on its member.
pub(crate) fn set_by_operators(member: Option<&Member>, copy: &CopyConfig) -> BTreeSet<Mark> {
    let marks = [
        (Mark::Lagged, copy.kind == CopyKind::Lagged),
        (Mark::Leaving, copy.leaving),
        (Mark::Stopped, copy.is_stopped()),
        (Mark::Blocked, copy.suspension.stops_activation().is_some()),
        (Mark::Maintenance, member.is_some_and(|member| member.maintenance.is_some())),
        (Mark::MoveAway, member.is_some_and(|member| member.activation.move_away)),
    ];
    marks.into_iter().filter(|(_, holds)| *holds).map(|(mark, _)| mark).collect()
}

/// Site of a member that is not recorded any more.
fn no_site() -> SiteName {
    SiteName::new("unknown").expect("a valid name")
}
