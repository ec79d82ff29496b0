//! What a form asks for. The same address shows, by GET, what would be done, and does it by POST;
//! both are calls of the services that commands use, which decide.

use std::collections::BTreeMap;

use crate::web::{path_part, query};

/// Names of the checks of a move that may be left out, and what leaving them out risks.
pub(crate) const MOVE_CHECKS: [(&str, &str); 6] = [
    ("health", "move to a copy that is failed, or whose member is short of space"),
    ("lag", "move to a copy that is far behind, or feeds a seed"),
    ("client_experience", "move to a copy whose content index is not healthy"),
    ("max_active", "move to a member beyond its preferred maximum"),
    ("active_copy", "move although the active copy feeds a seed"),
    ("move_suppression", "move although the database failed over too often"),
];

/// Checks that a move leaves out.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct MoveSkips(Vec<&'static str>);

impl MoveSkips {
    fn of(fields: &BTreeMap<String, String>) -> Self {
        let wanted = |name: &str| fields.contains_key(&format!("skip_{name}"));
        Self(MOVE_CHECKS.iter().map(|(name, _)| *name).filter(|name| wanted(name)).collect())
    }

    /// The names by which the service knows them.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        self.0.iter().map(|name| (*name).to_owned()).collect()
    }

    /// Whether this one is left out.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.0.contains(&name)
    }
}

/// A change that somebody asks for.
#[derive(Clone, PartialEq, Eq, Debug)]
#[allow(missing_docs, reason = "the names of fields say all there is to say")]
pub enum Action {
    /// Moves the active role.
    Switchover { database: String, to: String, skips: MoveSkips, comment: String },
    /// Opens a database, without loss.
    Mount { database: String },
    /// Closes it.
    Dismount { database: String },
    /// Stops a passive copy, or only its automatic activation.
    Suspend { database: String, member: String, activation_only: bool, comment: String },
    /// Lets it go on.
    Resume { database: String, member: String },
    /// Makes a suspended copy, or only its content index, anew from another one.
    Seed { database: String, member: String, source: String, catalog_only: bool },
    /// Reads a copy through.
    Scrub { database: String, member: String },
    /// Moves the databases of a member away and keeps them away.
    BeginMaintenance { member: String, skips: MoveSkips, comment: String },
    /// Ends that.
    EndMaintenance { member: String },
    /// Spreads active databases over members.
    Redistribute { by_site: bool },
    /// Ends an operation.
    Cancel { operation: String },
}

impl Action {
    /// The action at a path, with the fields of its form.
    #[must_use]
    pub fn of(path: &[&str], fields: &BTreeMap<String, String>) -> Option<Self> {
        let text = |name: &str| fields.get(name).cloned().unwrap_or_default();
        let has = |name: &str| fields.contains_key(name);
        Some(match path {
            ["databases", database, verb] => {
                let database = (*database).to_owned();
                match *verb {
                    "switchover" => Self::Switchover {
                        database,
                        to: text("to"),
                        skips: MoveSkips::of(fields),
                        comment: text("comment"),
                    },
                    "mount" => Self::Mount { database },
                    "dismount" => Self::Dismount { database },
                    _ => return None,
                }
            }
            ["copies", database, member, verb] => {
                let (database, member) = ((*database).to_owned(), (*member).to_owned());
                match *verb {
                    "suspend" => Self::Suspend {
                        database,
                        member,
                        activation_only: has("activation_only"),
                        comment: text("comment"),
                    },
                    "resume" => Self::Resume { database, member },
                    "seed" => Self::Seed {
                        database,
                        member,
                        source: text("source"),
                        catalog_only: has("catalog_only"),
                    },
                    "scrub" => Self::Scrub { database, member },
                    _ => return None,
                }
            }
            ["members", member, "maintenance"] => Self::BeginMaintenance {
                member: (*member).to_owned(),
                skips: MoveSkips::of(fields),
                comment: text("comment"),
            },
            ["members", member, "end-maintenance"] => {
                Self::EndMaintenance { member: (*member).to_owned() }
            }
            ["redistribute"] => Self::Redistribute { by_site: has("by_site") },
            ["operations", operation, "cancel"] => {
                Self::Cancel { operation: (*operation).to_owned() }
            }
            _ => return None,
        })
    }

    /// Its path.
    #[must_use]
    pub fn path(&self) -> String {
        let copy = |database: &str, member: &str, verb: &str| {
            format!("/copies/{}/{}/{verb}", path_part(database), path_part(member))
        };
        let database = |name: &str, verb: &str| format!("/databases/{}/{verb}", path_part(name));
        match self {
            Self::Switchover { database: name, .. } => database(name, "switchover"),
            Self::Mount { database: name } => database(name, "mount"),
            Self::Dismount { database: name } => database(name, "dismount"),
            Self::Suspend { database, member, .. } => copy(database, member, "suspend"),
            Self::Resume { database, member } => copy(database, member, "resume"),
            Self::Seed { database, member, .. } => copy(database, member, "seed"),
            Self::Scrub { database, member } => copy(database, member, "scrub"),
            Self::BeginMaintenance { member, .. } => {
                format!("/members/{}/maintenance", path_part(member))
            }
            Self::EndMaintenance { member } => {
                format!("/members/{}/end-maintenance", path_part(member))
            }
            Self::Redistribute { .. } => "/redistribute".into(),
            Self::Cancel { operation } => format!("/operations/{}/cancel", path_part(operation)),
        }
    }

    /// The page to go back to, or on to.
    #[must_use]
    pub fn page(&self) -> String {
        match self {
            Self::Switchover { database, .. }
            | Self::Mount { database }
            | Self::Dismount { database }
            | Self::Suspend { database, .. }
            | Self::Resume { database, .. }
            | Self::Seed { database, .. }
            | Self::Scrub { database, .. } => format!("/databases/{}", path_part(database)),
            Self::BeginMaintenance { member, .. } | Self::EndMaintenance { member } => {
                format!("/members/{}", path_part(member))
            }
            Self::Redistribute { .. } => "/".into(),
            Self::Cancel { operation } => format!("/operations/{}", path_part(operation)),
        }
    }

    /// The address that shows what would be done.
    #[must_use]
    pub fn address(&self) -> String {
        let to = match self {
            Self::Switchover { to, .. } => to,
            _ => "",
        };
        format!("{}{}", self.path(), query(&[("to", to)]))
    }

    /// What is to be done, as the heading of its page.
    #[must_use]
    pub fn title(&self) -> String {
        match self {
            Self::Switchover { database, to, .. } if to.is_empty() => {
                format!("Switch {database} over to its best copy")
            }
            Self::Switchover { database, to, .. } => format!("Switch {database} over to {to}"),
            Self::Mount { database } => format!("Mount {database}"),
            Self::Dismount { database } => format!("Dismount {database}"),
            Self::Suspend { database, member, .. } => format!("Suspend {database}@{member}"),
            Self::Resume { database, member } => format!("Resume {database}@{member}"),
            Self::Seed { database, member, .. } => format!("Seed {database}@{member}"),
            Self::Scrub { database, member } => format!("Scrub {database}@{member}"),
            Self::BeginMaintenance { member, .. } => format!("Begin maintenance of {member}"),
            Self::EndMaintenance { member } => format!("End maintenance of {member}"),
            Self::Redistribute { .. } => "Redistribute active databases".into(),
            Self::Cancel { operation } => format!("Cancel operation {operation}"),
        }
    }

    /// What that means, in a sentence or two.
    #[must_use]
    pub const fn meaning(&self) -> &'static str {
        match self {
            Self::Switchover { .. } => {
                "The active role moves to another copy. Clients follow by themselves; writes pause \
                 for some milliseconds."
            }
            Self::Mount { .. } => {
                "The best copy is opened, if nothing that was acknowledged can be missing, or no \
                 more than the mount dial of its member allows."
            }
            Self::Dismount { .. } => {
                "Nobody can read or write the database until it is mounted again."
            }
            Self::Suspend { .. } => {
                "The copy takes no log and does not count for writes until it is resumed. Log that \
                 it needs is kept."
            }
            Self::Resume { .. } => "The copy goes on where it stopped, and a fault gets a new try.",
            Self::Seed { .. } => {
                "The copy is made anew from another one. The old files stay until the new ones are \
                 in place. A copy must be suspended first."
            }
            Self::Scrub { .. } => {
                "The copy is read through in the background; damage is mended from other copies."
            }
            Self::BeginMaintenance { .. } => {
                "Active databases move away, and nothing is activated there by itself until the \
                 maintenance ends."
            }
            Self::EndMaintenance { .. } => {
                "The member takes activations again. Databases that moved away come back on \
                 request."
            }
            Self::Redistribute { .. } => "Active databases move until members have equal shares.",
            Self::Cancel { .. } => "What was changed so far stays, and is named in the message.",
        }
    }

    /// The word on its button.
    #[must_use]
    pub const fn button(&self) -> &'static str {
        match self {
            Self::Switchover { .. } => "Switch over",
            Self::Mount { .. } => "Mount",
            Self::Dismount { .. } => "Dismount",
            Self::Suspend { .. } => "Suspend",
            Self::Resume { .. } => "Resume",
            Self::Seed { .. } => "Seed",
            Self::Scrub { .. } => "Scrub",
            Self::BeginMaintenance { .. } => "Begin maintenance",
            Self::EndMaintenance { .. } => "End maintenance",
            Self::Redistribute { .. } => "Redistribute",
            Self::Cancel { .. } => "Cancel operation",
        }
    }

    /// Whether it takes something away from clients or copies for a while.
    #[must_use]
    pub const fn is_grave(&self) -> bool {
        matches!(
            self,
            Self::Dismount { .. }
                | Self::Suspend { .. }
                | Self::Cancel { .. }
                | Self::BeginMaintenance { .. }
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::web::fields;

    #[test]
    fn every_action_is_found_again_at_its_path() {
        let form = fields(b"to=m2&comment=why&skip_lag=on&skip_nonsense=on&activation_only=on");
        for path in [
            &["databases", "DB1", "switchover"][..],
            &["databases", "DB1", "mount"],
            &["databases", "DB1", "dismount"],
            &["copies", "DB1", "m2", "suspend"],
            &["copies", "DB1", "m2", "resume"],
            &["copies", "DB1", "m2", "seed"],
            &["copies", "DB1", "m2", "scrub"],
            &["members", "m2", "maintenance"],
            &["members", "m2", "end-maintenance"],
            &["redistribute"],
            &["operations", "id", "cancel"],
        ] {
            let action = Action::of(path, &form).unwrap_or_else(|| panic!("{path:?}"));
            assert_eq!(action.path(), format!("/{}", path.join("/")));
            assert!(!action.title().is_empty() && action.page().starts_with('/'));
        }
        for path in [&["databases", "DB1", "remove"][..], &["databases", "DB1"], &[]] {
            assert_eq!(Action::of(path, &form), None, "{path:?}");
        }
    }

    #[test]
    fn only_known_checks_are_left_out() {
        let form = fields(b"to=m2&skip_lag=on&skip_nonsense=on");
        let Some(Action::Switchover { to, skips, .. }) =
            Action::of(&["databases", "DB1", "switchover"], &form)
        else {
            panic!("a switchover");
        };
        assert_eq!((to.as_str(), skips.names()), ("m2", vec!["lag".to_owned()]));
        assert!(skips.has("lag") && !skips.has("health"));
    }
}
