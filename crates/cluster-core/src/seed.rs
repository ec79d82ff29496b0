//! Whether a copy may be seeded, and from whom, as far as the replicated state tells (F46, F59).
//!
//! Each check is a value, so that the report before a seed, `--what-if` and the refusal are the
//! same sentences. What only the members know (health, space) the driver adds to the list.

use keelson_types::{
    CopyId, DatabaseId, DatabaseState, MountIntent, OldFiles, RefusalReason, SeedOrder, SeedScope,
    SuspendedBy,
};

use crate::command::Refusal;
use crate::state::{ClusterState, CopyConfig, CopyKind, Database};

/// One check before a seed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SeedCheck {
    /// A short, stable name.
    pub name: &'static str,
    /// What was found, for people.
    pub found: String,
    /// Why it forbids the seed, if so.
    pub failure: Option<RefusalReason>,
}

impl SeedCheck {
    /// A check that allows the seed.
    #[must_use]
    pub fn passed(name: &'static str, found: impl Into<String>) -> Self {
        Self { name, found: found.into(), failure: None }
    }

    /// A check that forbids it.
    #[must_use]
    pub fn failed(name: &'static str, reason: RefusalReason, found: impl Into<String>) -> Self {
        Self { name, found: found.into(), failure: Some(reason) }
    }
}

/// The first check that forbids the seed, as a refusal.
#[must_use]
pub fn first_failure(checks: &[SeedCheck]) -> Option<Refusal> {
    let failed = checks.iter().find_map(|check| Some((check, check.failure?)));
    failed.map(|(check, reason)| Refusal::new(reason, check.found.clone()))
}

/// Why a copy cannot be a source of a seed of that scope, as far as the state tells.
#[must_use]
pub fn unfit_source(config: &CopyConfig, scope: SeedScope) -> Option<&'static str> {
    if config.is_remade() {
        return Some("is being seeded itself");
    }
    if config.seeding.is_some() && !scope.makes_copy() {
        return Some("gets its own content index by a seed");
    }
    if config.is_stopped() {
        return Some("is suspended");
    }
    if config.leaving {
        return Some("is being removed");
    }
    if config.kind == CopyKind::Lagged {
        return Some("lags");
    }
    config.cut_off.then_some("needs a seed itself")
}

/// All checks, in the order in which they are shown.
#[must_use]
pub fn seed_checks(
    state: &ClusterState,
    (id, copy): (DatabaseId, CopyId),
    order: &SeedOrder,
) -> Vec<SeedCheck> {
    let Some(database) = state.databases.get(&id) else {
        let found = format!("no database {id}");
        return vec![SeedCheck::failed("database", RefusalReason::UnknownDatabase, found)];
    };
    let Some(config) = database.copies.get(&copy) else {
        let found = format!("{} has no copy {copy}", database.name);
        return vec![SeedCheck::failed("copy", RefusalReason::UnknownCopy, found)];
    };
    let mut checks = vec![check_role(database, copy, order)];
    if order.scope.makes_copy() {
        checks.push(check_stopped(config));
    }
    checks.push(check_seeding(config));
    if order.scope.makes_copy() {
        checks.push(check_rule(database, copy));
    }
    checks.push(check_catalog(database, config, order));
    checks.push(check_source(state, database, copy, order));
    checks.extend(check_discarded(config, order));
    checks
}

/// F53: what becomes of the content index. One that rests on purpose is not fetched.
fn check_catalog(database: &Database, config: &CopyConfig, order: &SeedOrder) -> SeedCheck {
    let name = "content index";
    let enabled = database.settings.content_index.enabled;
    match order.scope {
        SeedScope::Database => SeedCheck::passed(name, "left out; the new copy makes its own"),
        SeedScope::Everything if enabled => {
            SeedCheck::passed(name, "comes along if that of the source is healthy")
        }
        SeedScope::Everything => SeedCheck::passed(name, "the database has none"),
        SeedScope::Catalog if !enabled => {
            let found = format!("{} has no content index", database.name);
            SeedCheck::failed(name, RefusalReason::NoCatalog, found)
        }
        SeedScope::Catalog if config.kind == CopyKind::Lagged => {
            let found = "the content index of a copy with a replay lag rests";
            SeedCheck::failed(name, RefusalReason::NoCatalog, found)
        }
        SeedScope::Catalog => SeedCheck::passed(name, "that of the copy is replaced"),
    }
}

fn check_role(database: &Database, copy: CopyId, order: &SeedOrder) -> SeedCheck {
    let active = database.target == Some(copy);
    if active && database.intent == MountIntent::Mounted {
        let found = "the copy is the active one; move the database first (keelson switchover)";
        return SeedCheck::failed("role", RefusalReason::Precondition, found);
    }
    if active {
        let found = "the copy was active last and may hold the newest data; mount the database on \
                     another copy first";
        return SeedCheck::failed("role", RefusalReason::Precondition, found);
    }
    let moving = matches!(database.state, DatabaseState::Sealing | DatabaseState::Activating);
    // A content index is made from what the copy holds, whoever serves.
    if order.scope.makes_copy() && database.intent == MountIntent::Mounted && moving {
        let found = "no copy serves the database now, and the copy may hold what the next active \
                     needs; wait until it is mounted";
        return SeedCheck::failed("role", RefusalReason::Activating, found);
    }
    SeedCheck::passed("role", "the copy is passive")
}

fn check_stopped(config: &CopyConfig) -> SeedCheck {
    if config.leaving {
        let found = "the copy is being removed";
        return SeedCheck::failed("suspended", RefusalReason::Precondition, found);
    }
    if config.is_stopped() {
        return SeedCheck::passed("suspended", format!("suspended: {}", config.suspension.comment));
    }
    let found = "the copy is not suspended: it copies and replays";
    SeedCheck::failed("suspended", RefusalReason::NotSuspended, found)
}

fn check_seeding(config: &CopyConfig) -> SeedCheck {
    match &config.seeding {
        None => SeedCheck::passed("other seeds", "none"),
        Some(order) => {
            let found = format!("the copy is being seeded by operation {}", order.operation);
            SeedCheck::failed("other seeds", RefusalReason::SeedInProgress, found)
        }
    }
}

fn check_rule(database: &Database, copy: CopyId) -> SeedCheck {
    if database.rule.as_ref().is_some_and(|rule| rule.has(copy)) {
        let found = "the copy counts in the commit rule still; the active drops it in a moment";
        return SeedCheck::failed("commit rule", RefusalReason::Precondition, found);
    }
    SeedCheck::passed("commit rule", "the copy does not count")
}

fn check_source(
    state: &ClusterState,
    database: &Database,
    copy: CopyId,
    order: &SeedOrder,
) -> SeedCheck {
    let name = |member| {
        let known = state.members.get(&member);
        known.map_or_else(|| member.to_string(), |member| member.config.name.to_string())
    };
    let Some(member) = order.source else {
        let others = database.copies.iter().filter(|(id, _)| **id != copy);
        let fit = others.filter(|(_, config)| unfit_source(config, order.scope).is_none()).count();
        return match fit {
            0 => {
                let found = format!("no other copy of {} can be the source", database.name);
                SeedCheck::failed("source", RefusalReason::SourceUnfit, found)
            }
            _ => SeedCheck::passed("source", format!("{fit} other copies")),
        };
    };
    let Some(source) = database.copy_on(member) else {
        let found = format!("{} holds no copy of {}", name(member), database.name);
        return SeedCheck::failed("source", RefusalReason::UnknownCopy, found);
    };
    if source == copy {
        let found = "source and target are the same copy";
        return SeedCheck::failed("source", RefusalReason::BadArgument, found);
    }
    let config = database.copies.get(&source);
    let unfit = config.and_then(|config| unfit_source(config, order.scope));
    match unfit {
        Some(why) => {
            let found = format!("the copy on {} {why}", name(member));
            SeedCheck::failed("source", RefusalReason::SourceUnfit, found)
        }
        None => SeedCheck::passed("source", format!("the copy on {}", name(member))),
    }
}

/// G4: what may be the last holder of a timeline is not removed by a seed.
fn check_discarded(config: &CopyConfig, order: &SeedOrder) -> Option<SeedCheck> {
    let last = config.suspension.by == SuspendedBy::DiscardedTimeline && order.scope.makes_copy();
    (last && order.old_files == OldFiles::Delete).then(|| {
        let found = "the copy holds a discarded timeline and may be the last to do so; its files \
                     can be kept, not deleted";
        SeedCheck::failed("old files", RefusalReason::Precondition, found)
    })
}
