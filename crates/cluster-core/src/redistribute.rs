//! Redistribution of active databases over members and sites (F118-F121).
//!
//! Decides which databases to move, from the replicated state alone; each move is checked like any
//! other switchover before it begins. Bounded: at most one move per database.

use std::collections::{BTreeMap, BTreeSet};

use keelson_types::{
    ActivationPolicy, Automation, DatabaseId, DatabaseState, MemberId, MountIntent, SiteName,
};

use crate::state::{ClusterState, CopyConfig, CopyKind, Database};

/// How databases are spread.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Balance {
    /// Each to its most preferred copy, whatever its site (F118).
    ByPreference,
    /// The same, and then the sites are balanced: they may differ from their mean by half of this
    /// percentage on each side, rounded up (F119).
    BySite {
        /// Allowed deviation in per cent.
        deviation: u32,
    },
}

/// A database and the member it should move to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WantedMove {
    /// The database.
    pub database: DatabaseId,
    /// Where it is.
    pub from: MemberId,
    /// Where to.
    pub to: MemberId,
}

/// The databases of one member (F120).
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Distribution {
    /// Databases whose active copy is here.
    pub active: u32,
    /// Other copies.
    pub passive: u32,
    /// Active ones that serve.
    pub mounted: u32,
    /// Active ones that do not.
    pub dismounted: u32,
    /// How many copies here have preference 1, 2, 3 and so on.
    pub preferences: Vec<u32>,
}

/// How databases are distributed over the members that hold data, with `moves` done.
#[must_use]
pub fn distribution(
    state: &ClusterState,
    moves: &[WantedMove],
) -> BTreeMap<MemberId, Distribution> {
    let holders = state.members.values().filter(|m| !m.config.data_address.is_empty());
    let mut rows: BTreeMap<_, Distribution> =
        holders.map(|member| (member.config.id, Distribution::default())).collect();
    for database in state.databases.values() {
        let moved = moves.iter().find(|wanted| wanted.database == database.id);
        let active = moved.map(|wanted| wanted.to).or_else(|| database.target_member());
        let serves =
            database.intent == MountIntent::Mounted && database.state == DatabaseState::Established;
        for copy in database.copies.values() {
            let row = rows.entry(copy.member).or_default();
            let rank = usize::try_from(copy.preference.max(1)).unwrap_or(usize::MAX).min(16);
            if row.preferences.len() < rank {
                row.preferences.resize(rank, 0);
            }
            row.preferences[rank - 1] += 1;
            match (active == Some(copy.member), serves) {
                (false, _) => row.passive += 1,
                (true, true) => (row.active, row.mounted) = (row.active + 1, row.mounted + 1),
                (true, false) => {
                    (row.active, row.dismounted) = (row.active + 1, row.dismounted + 1);
                }
            }
        }
    }
    rows
}

/// The allowed numbers of databases per site: the mean, less and more half of the deviation,
/// rounded up (F119: 99 databases over 3 sites at 20 % give 29 to 37).
#[must_use]
pub fn allowed_per_site(databases: u32, sites: u32, deviation: u32) -> (u32, u32) {
    let sites = sites.max(1);
    let (least, most) = (databases / sites, databases.div_ceil(sites));
    let half = (u64::from(databases) * u64::from(deviation)).div_ceil(200 * u64::from(sites));
    let half = u32::try_from(half).unwrap_or(u32::MAX);
    (least.saturating_sub(half), most.saturating_add(half))
}

/// The moves that spread the open databases. One for which `mover` is switched off stays where it
/// is, and counts there.
#[must_use]
pub fn redistribute(state: &ClusterState, balance: Balance, mover: Automation) -> Vec<WantedMove> {
    let mut places = Places::new(state, Some(mover));
    places.by_preference();
    if let Balance::BySite { deviation } = balance {
        places.by_site(deviation);
    }
    places.moves()
}

/// The moves by which the databases of these members leave them for others, and the databases that
/// have no copy elsewhere that could take over (F126). Members that are gone are left by failovers,
/// not by moves.
#[must_use]
pub fn leave(
    state: &ClusterState,
    members: &BTreeSet<MemberId>,
) -> (Vec<WantedMove>, Vec<DatabaseId>) {
    // An operator empties a member: no switch of a database keeps it there.
    let mut places = Places::new(state, None);
    let (mut moves, mut stuck) = (Vec::new(), Vec::new());
    for database in open(state) {
        let from = places.at.get(&database.id).copied();
        let here = from.filter(|member| {
            members.contains(member) && state.members.get(member).is_some_and(|m| !m.is_gone())
        });
        let Some(from) = here else { continue };
        let elsewhere = database.copies.values().filter(|copy| {
            let there = state.members.get(&copy.member).is_some_and(|member| !member.is_gone());
            there && copy.may_count() && !members.contains(&copy.member)
        });
        // What an operator set against activations yields to the word of an operator.
        let best = elsewhere.min_by_key(|copy| {
            let unwanted = !may_host(state, copy) || !places.has_room(copy.member);
            (unwanted, copy.preference, copy.member)
        });
        match best.map(|copy| copy.member) {
            None => stuck.push(database.id),
            Some(to) => {
                places.put(database.id, to);
                moves.push(WantedMove { database: database.id, from, to });
            }
        }
    }
    (moves, stuck)
}

/// The moves that keep members empty which an operator emptied (F28, F125): a database that came to
/// one, because no other copy could serve then, leaves it as soon as another may have it.
#[must_use]
pub fn keep_left(state: &ClusterState) -> Vec<WantedMove> {
    let left = state.members.iter().filter(|(_, member)| member.is_left());
    let left: BTreeSet<_> = left.map(|(id, _)| *id).collect();
    let by_itself = |wanted: &WantedMove| {
        let database = state.databases.get(&wanted.database);
        let copy = database.and_then(|d| d.copies.get(&d.copy_on(wanted.to)?));
        copy.is_some_and(|copy| may_host(state, copy))
    };
    let moves = if left.is_empty() { Vec::new() } else { leave(state, &left).0 };
    moves.into_iter().filter(by_itself).collect()
}

/// The copies that may become active by themselves: the model's server policies and blocks hold.
fn may_host(state: &ClusterState, copy: &CopyConfig) -> bool {
    let Some(member) = state.members.get(&copy.member) else { return false };
    let fit = copy.kind == CopyKind::Ha && !copy.leaving && copy.suspension.is_none();
    let policy = copy.policy.max(member.activation.policy);
    fit && !member.is_gone() && !member.is_left() && policy == ActivationPolicy::Unrestricted
}

/// Where each open database is to be.
struct Places<'a> {
    state: &'a ClusterState,
    mover: Option<Automation>,
    at: BTreeMap<DatabaseId, MemberId>,
    actives: BTreeMap<MemberId, u32>,
}

impl<'a> Places<'a> {
    fn new(state: &'a ClusterState, mover: Option<Automation>) -> Self {
        let at: BTreeMap<_, _> =
            open(state).filter_map(|d| Some((d.id, d.target_member()?))).collect();
        Self { state, mover, at, actives: state.active_counts() }
    }

    /// Databases that may be moved.
    fn movable(&self) -> impl Iterator<Item = &'a Database> + use<'a> {
        let mover = self.mover;
        open(self.state).filter(move |database| {
            mover.is_none_or(|mover| database.settings.automations.is_on(mover))
        })
    }

    /// Whether a member takes one more.
    fn has_room(&self, member: MemberId) -> bool {
        let limits = self.state.members.get(&member).map(|member| member.activation);
        let limits = limits.unwrap_or_default();
        let most = [limits.max_active, limits.max_active_preferred].into_iter().flatten().min();
        most.is_none_or(|most| self.actives.get(&member).copied().unwrap_or(0) < most)
    }

    fn put(&mut self, database: DatabaseId, to: MemberId) {
        if let Some(from) = self.at.insert(database, to) {
            self.actives.entry(from).and_modify(|count| *count = count.saturating_sub(1));
        }
        *self.actives.entry(to).or_default() += 1;
    }

    fn by_preference(&mut self) {
        for database in self.movable() {
            let Some(at) = self.at.get(&database.id).copied() else { continue };
            let here = database.copy_on(at).and_then(|copy| database.copies.get(&copy));
            let present = here.map_or(u32::MAX, |copy| copy.preference);
            let better = database.copies.values().filter(|copy| copy.preference < present);
            let better = better.filter(|copy| may_host(self.state, copy));
            let best = better
                .filter(|copy| self.has_room(copy.member))
                .min_by_key(|copy| (copy.preference, copy.member));
            if let Some(to) = best.map(|copy| copy.member) {
                self.put(database.id, to);
            }
        }
    }

    fn site(&self, member: MemberId) -> Option<&'a SiteName> {
        self.state.members.get(&member).map(|member| &member.config.site)
    }

    /// Databases per site; sites without databases count, too.
    fn sites(&self) -> BTreeMap<&'a SiteName, u32> {
        let holders = self.state.members.values().filter(|m| !m.config.data_address.is_empty());
        let mut sites: BTreeMap<_, _> = holders.map(|member| (&member.config.site, 0)).collect();
        for member in self.at.values() {
            if let Some(site) = self.site(*member) {
                *sites.entry(site).or_default() += 1;
            }
        }
        sites
    }

    /// Moves databases from the fullest site to the emptiest one it can reach, those first that
    /// lose least by their preference, until all are within bounds or nothing helps.
    fn by_site(&mut self, deviation: u32) {
        let total = u32::try_from(self.at.len()).unwrap_or(u32::MAX);
        for _ in 0..self.at.len() {
            let sites = self.sites();
            let count = u32::try_from(sites.len()).unwrap_or(u32::MAX);
            let (least, most) = allowed_per_site(total, count, deviation);
            let mut order: Vec<_> = sites.into_iter().map(|(site, n)| (n, site)).collect();
            order.sort();
            let (Some((fewest, _)), Some((many, full))) = (order.first(), order.last()) else {
                return;
            };
            if *many <= most && *fewest >= least {
                return;
            }
            let mut empty = order.iter().filter(|(n, _)| n + 1 < *many);
            let step = empty.find_map(|(_, to)| self.cheapest(full, to));
            let Some((database, to)) = step else { return };
            self.put(database, to);
        }
    }

    /// The move from one site to another that costs least preference.
    fn cheapest(&self, from: &SiteName, to: &SiteName) -> Option<(DatabaseId, MemberId)> {
        let there = self.movable().filter(|database| {
            let at = self.at.get(&database.id);
            at.is_some_and(|at| self.site(*at) == Some(from))
        });
        let moves = there.flat_map(|database| {
            let copies = database.copies.values().filter(move |copy| {
                self.site(copy.member) == Some(to)
                    && may_host(self.state, copy)
                    && self.has_room(copy.member)
            });
            copies.map(move |copy| (copy.preference, database.id, copy.member))
        });
        moves.min().map(|(_, database, to)| (database, to))
    }

    fn moves(&self) -> Vec<WantedMove> {
        let moved = open(self.state).filter_map(|database| {
            let (from, to) = (database.target_member()?, *self.at.get(&database.id)?);
            (from != to).then_some(WantedMove { database: database.id, from, to })
        });
        moved.collect()
    }
}

/// Databases that are open and at rest.
fn open(state: &ClusterState) -> impl Iterator<Item = &Database> {
    state.databases.values().filter(|database| {
        database.intent == MountIntent::Mounted && database.state == DatabaseState::Established
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::Command;
    use crate::member::MemberActivation;
    use crate::testing::{Log, copy_of, create, member, site};

    /// Databases with their copies in order of preference, and where they are active. The
    /// preference of a copy is the number of its member unless it is set here.
    fn log(members: u128, databases: &[(&[u128], u128)]) -> Log {
        let mut log = Log::with_members(members);
        for (number, (copies, active)) in (1_u128..).zip(databases) {
            log.ok(&create(number, copies));
            let id = DatabaseId::from_u128(number);
            let database = log.state.databases.get_mut(&id).expect("created");
            for (rank, n) in (1_u32..).zip(*copies) {
                database.copies.get_mut(&copy_of(number, *n)).expect("a copy").preference = rank;
            }
            database.state = DatabaseState::Established;
            database.target = Some(copy_of(number, *active));
        }
        log
    }

    fn moves(log: &Log, balance: Balance) -> Vec<(u128, u128)> {
        let number = |id: MemberId| u128::from_be_bytes(id.into_bytes());
        let wanted = redistribute(&log.state, balance, Automation::Redistribution);
        let number_of = |id: DatabaseId| u128::from_be_bytes(id.into_bytes());
        wanted.iter().map(|m| (number_of(m.database), number(m.to))).collect()
    }

    /// F119: the example of the model.
    #[test]
    fn half_of_the_deviation_is_rounded_up_on_each_side() {
        assert_eq!(allowed_per_site(99, 3, 20), (29, 37));
        assert_eq!(allowed_per_site(10, 3, 0), (3, 4));
        assert_eq!(allowed_per_site(0, 0, 20), (0, 0));
    }

    /// F118: every database to its most preferred copy, within blocks and limits.
    #[test]
    fn databases_go_to_their_most_preferred_copy() {
        let mut log = log(3, &[(&[1, 2, 3], 3), (&[2, 3, 1], 3), (&[3, 1, 2], 3), (&[1, 2], 1)]);
        assert_eq!(moves(&log, Balance::ByPreference), [(1, 1), (2, 2)]);
        let set = |log: &mut Log, n, activation| {
            log.ok(&Command::SetActivation { member: member(n), activation });
        };
        let full = MemberActivation { max_active_preferred: Some(1), ..Default::default() };
        set(&mut log, 1, full);
        assert_eq!(moves(&log, Balance::ByPreference), [(1, 2), (2, 2)], "m1 has its one");
        let blocked = MemberActivation { policy: ActivationPolicy::Blocked, ..Default::default() };
        set(&mut log, 2, blocked);
        assert_eq!(moves(&log, Balance::ByPreference), []);
    }

    fn switch_off(log: &mut Log, n: u128, automation: Automation) {
        let id = DatabaseId::from_u128(n);
        let mut settings = log.state.databases[&id].settings.clone();
        settings.automations = settings.automations.with(automation, false);
        log.ok(&Command::SetDatabase { database: id, settings });
    }

    /// A database with its switch off stays, and takes its place there; the other mover and an
    /// operator who empties its member do not ask this switch.
    #[test]
    fn a_database_that_is_switched_off_stays_where_it_is() {
        let mut log = log(3, &[(&[1, 2, 3], 3), (&[2, 3, 1], 3)]);
        switch_off(&mut log, 1, Automation::Redistribution);
        assert_eq!(moves(&log, Balance::ByPreference), [(2, 2)]);
        let hourly = |log: &Log| {
            redistribute(&log.state, Balance::ByPreference, Automation::PreferenceMoves).len()
        };
        assert_eq!(hourly(&log), 2);
        switch_off(&mut log, 2, Automation::PreferenceMoves);
        assert_eq!(hourly(&log), 1);
        assert_eq!(moves(&log, Balance::ByPreference), [(2, 2)]);
        assert_eq!(leave(&log.state, &[member(3)].into()).0.len(), 2);
    }

    /// A database of an older version has everything on.
    #[test]
    fn switches_that_are_not_recorded_are_on() {
        use keelson_types::Automations;
        let settings = crate::DatabaseSettings::default();
        let mut old = serde_json::to_value(&settings).expect("plain values");
        assert!(old.get("automations").is_none(), "what is on is not written");
        let found: crate::DatabaseSettings = serde_json::from_value(old.clone()).expect("loads");
        assert_eq!(found, settings);
        old["automations"] = serde_json::json!(["play_down"]);
        let found: crate::DatabaseSettings = serde_json::from_value(old).expect("loads");
        assert_eq!(found.automations, Automations::default().with(Automation::PlayDown, false));
    }

    /// F119: what stays counts for its site, and the others make up for it.
    #[test]
    fn sites_are_balanced_around_what_stays() {
        let mut log = log(2, &[(&[1, 2], 1), (&[1, 2], 1)]);
        log.state.members.get_mut(&member(2)).expect("a member").config.site = site("there");
        assert_eq!(moves(&log, Balance::BySite { deviation: 0 }), [(1, 2)]);
        switch_off(&mut log, 1, Automation::Redistribution);
        assert_eq!(moves(&log, Balance::BySite { deviation: 0 }), [(2, 2)]);
        switch_off(&mut log, 2, Automation::Redistribution);
        assert_eq!(moves(&log, Balance::BySite { deviation: 0 }), []);
    }

    /// F126: the databases of a site leave it, for the best copy elsewhere and not for each other.
    #[test]
    fn databases_leave_a_site_for_another_one() {
        let databases: &[(&[u128], u128)] =
            &[(&[1, 2, 3], 1), (&[1, 2], 2), (&[2, 4, 3], 2), (&[3, 1], 3)];
        let mut log = log(4, databases);
        let found = |log: &Log| {
            let (moves, stuck) = leave(&log.state, &[member(1), member(2)].into());
            let number = |bytes: [u8; 16]| u128::from_be_bytes(bytes);
            let moves: Vec<_> = moves
                .iter()
                .map(|m| (number(m.database.into_bytes()), number(m.to.into_bytes())))
                .collect();
            let stuck: Vec<_> = stuck.iter().map(|id| number(id.into_bytes())).collect();
            (moves, stuck)
        };
        assert_eq!(found(&log), (vec![(1, 3), (3, 4)], vec![2]));
        let blocked = MemberActivation { policy: ActivationPolicy::Blocked, ..Default::default() };
        log.ok(&Command::SetActivation { member: member(4), activation: blocked });
        assert_eq!(found(&log).0, [(1, 3), (3, 3)], "who wants no more comes last");
    }

    /// F28: what came to a member that is to be empty leaves it, but for no copy that takes none.
    #[test]
    fn a_member_that_is_to_be_empty_is_left_again() {
        let mut log = log(3, &[(&[1, 2, 3], 1), (&[1, 3], 1), (&[2, 1], 2)]);
        let found = |log: &Log| {
            let number = |bytes: [u8; 16]| u128::from_be_bytes(bytes);
            let moves = keep_left(&log.state).into_iter();
            moves
                .map(|m| (number(m.database.into_bytes()), number(m.to.into_bytes())))
                .collect::<Vec<_>>()
        };
        assert_eq!(found(&log), [], "nobody is to be empty");
        let away = MemberActivation { move_away: true, ..Default::default() };
        log.ok(&Command::SetActivation { member: member(1), activation: away });
        assert_eq!(found(&log), [(1, 2), (2, 3)]);
        let blocked = MemberActivation { policy: ActivationPolicy::Blocked, ..Default::default() };
        log.ok(&Command::SetActivation { member: member(3), activation: blocked });
        assert_eq!(found(&log), [(1, 2)], "nothing comes to a member by itself that takes none");
    }

    /// F119: sites come within their bounds by the moves that lose least preference.
    #[test]
    fn sites_are_balanced_by_the_cheapest_moves() {
        let all: &[u128] = &[1, 2, 3];
        let mut log = log(3, &[(all, 1), (all, 1), (all, 1), (&[1, 3], 1), (&[1], 1), (&[1], 1)]);
        let there = |n| Command::SetMember {
            member: member(n),
            control_address: None,
            data_address: None,
            replication_addresses: None,
            site: Some(site("there")),
            voter: None,
        };
        log.ok(&there(3));
        // 0 to 6 are within the bounds of 200 %.
        assert_eq!(moves(&log, Balance::BySite { deviation: 200 }), []);
        let even = moves(&log, Balance::BySite { deviation: 0 });
        assert_eq!(even, [(1, 3), (2, 3), (4, 3)], "3 and 3; database 4 has it as second choice");
    }

    /// F120.
    #[test]
    fn the_distribution_counts_active_copies_and_preferences() {
        let log = log(2, &[(&[1, 2], 1), (&[2, 1], 1)]);
        let wanted = redistribute(&log.state, Balance::ByPreference, Automation::Redistribution);
        let rows = |moves: &[WantedMove]| {
            let rows = distribution(&log.state, moves);
            [member(1), member(2)].map(|id| (rows[&id].active, rows[&id].passive))
        };
        assert_eq!(rows(&[]), [(2, 0), (0, 2)]);
        assert_eq!(rows(&wanted), [(1, 1), (1, 1)]);
        assert_eq!(distribution(&log.state, &[])[&member(1)].preferences, [1, 1]);
    }
}
