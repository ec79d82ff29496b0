//! Knows where the members are and which of them serves which database.
//!
//! The picture comes from any control process and may be old; what counts is that every failure
//! leads to a newer one: an address in a refusal is taken at once, a route that failed is
//! forgotten, and a refresh asks the members in turn until one answers. A route of a lower epoch
//! never replaces one of a higher epoch of the same database. Epochs of two databases do not
//! compare: one that was removed and created again under its name begins anew, and what was heard
//! last of it counts.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use keelson_types::{DatabaseId, Epoch, ForkAddress, MemberId, RefusalReason};
use keelson_wire::{ids, v1};
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep, timeout};

use crate::ClientError;
use crate::error::Failure;
use crate::pool::Pool;

/// After this long without an answer the next member is asked as well.
const HEDGE_AFTER: Duration = Duration::from_millis(150);

/// One member has this long to answer.
const ASK_LIMIT: Duration = Duration::from_secs(2);

/// Addresses of one member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberAddresses {
    /// Identity of the member; `None` if the answering member did not say.
    pub id: Option<MemberId>,
    /// Site of the member.
    pub site: String,
    /// Where Admin and Operations are.
    pub control: String,
    /// Where Kv is.
    pub data: String,
}

/// Who holds a database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DatabaseRoute {
    /// Which database has the name now; `None` if the answering member did not say.
    pub id: Option<DatabaseId>,
    /// Newest epoch that the answering member knew.
    pub epoch: Epoch,
    /// Member of the active copy; `None` while none is chosen.
    pub active: Option<String>,
    /// Members with a copy.
    pub copies: Vec<String>,
    /// An operator closed it.
    pub dismounted: bool,
}

/// One picture of the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Topology {
    /// Members by name.
    pub members: BTreeMap<String, MemberAddresses>,
    /// Databases by name.
    pub databases: BTreeMap<String, DatabaseRoute>,
    /// The caller is limited to some databases; there may be others.
    pub limited: bool,
}

impl From<v1::TopologyResponse> for Topology {
    fn from(answer: v1::TopologyResponse) -> Self {
        let members = answer.members.into_iter().map(|member| {
            let addresses = MemberAddresses {
                id: ids::member(&member.member).ok(),
                site: member.site,
                control: member.control_address,
                data: member.data_address,
            };
            (member.name, addresses)
        });
        let databases = answer.databases.into_iter().map(|database| {
            let route = DatabaseRoute {
                id: ids::database(&database.database).ok(),
                epoch: database.epoch.map(Into::into).unwrap_or_default(),
                active: (!database.active_member.is_empty()).then_some(database.active_member),
                copies: database.copy_members,
                dismounted: database.dismounted,
            };
            (database.name, route)
        });
        let limited = answer.limited;
        Self { members: members.collect(), databases: databases.collect(), limited }
    }
}

/// Where to send a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Lookup {
    /// Data address of the active member, as last known.
    At(Arc<str>),
    /// The database exists; who serves it is not known now.
    NoActive,
    /// The database is closed.
    Dismounted,
    /// No database of that name in the last picture.
    Unknown,
}

#[derive(Clone)]
struct Route {
    address: Arc<str>,
    id: Option<DatabaseId>,
    epoch: Epoch,
}

impl Route {
    /// Whether `new` tells of a later activation, or of another database of the name.
    fn is_older_than(&self, new: &DatabaseRoute) -> bool {
        self.id != new.id || self.epoch < new.epoch
    }
}

#[derive(Default)]
struct State {
    picture: Arc<Topology>,
    routes: HashMap<String, Route>,
    /// Databases whose members nobody has connected to yet since the picture changed.
    cold: HashSet<String>,
}

/// The cached picture of one client.
pub(crate) struct TopologyCache {
    endpoints: Vec<String>,
    state: RwLock<State>,
    /// Start of the last successful refresh; held while one is under way.
    refreshed: Mutex<Option<Instant>>,
    /// Which endpoint is asked first; moves on at every refresh.
    turn: AtomicUsize,
}

impl TopologyCache {
    pub(crate) fn new(endpoints: Vec<String>) -> Self {
        Self {
            endpoints,
            state: RwLock::default(),
            refreshed: Mutex::new(None),
            turn: AtomicUsize::new(0),
        }
    }

    /// The last picture.
    pub(crate) fn picture(&self) -> Arc<Topology> {
        self.read(|state| state.picture.clone())
    }

    /// Where `database` is served, as far as known.
    pub(crate) fn lookup(&self, database: &str) -> Lookup {
        if let Ok(fork) = database.parse::<ForkAddress>() {
            let member = fork.member.as_str();
            return self.read(|state| match state.picture.members.get(member) {
                Some(member) => Lookup::At(member.data.as_str().into()),
                None => Lookup::Unknown,
            });
        }
        self.read(|state| match state.routes.get(database) {
            Some(route) => Lookup::At(route.address.clone()),
            None => match state.picture.databases.get(database) {
                Some(route) if route.dismounted => Lookup::Dismounted,
                Some(_) => Lookup::NoActive,
                None => Lookup::Unknown,
            },
        })
    }

    /// Whom to ask about a database that is not in the picture: any member, another one after each
    /// refresh, if the caller may not hear of all databases. It refuses those that are not for the
    /// caller, and says so, whether they exist or not. `None` if the picture has all.
    pub(crate) fn judge_of_unknown(&self) -> Option<Arc<str>> {
        let turn = self.turn.load(Ordering::Relaxed);
        self.read(|state| {
            let picture = &state.picture;
            let data = picture.members.values().map(|member| member.data.as_str());
            // A witness has no data, and no say in it.
            let judges: Vec<_> = data.filter(|data| picture.limited && !data.is_empty()).collect();
            judges.get(turn % judges.len().max(1)).map(|data| Arc::from(*data))
        })
    }

    /// A server said that `address` serves `database`.
    pub(crate) fn note_active(&self, database: &str, address: &str) {
        self.write(|state| {
            let known = state.picture.databases.get(database);
            let (id, epoch) = known.map_or((None, Epoch::ZERO), |known| (known.id, known.epoch));
            let route = Route { address: address.into(), id, epoch };
            state.routes.insert(database.to_owned(), route);
        });
    }

    /// `address` turned out not to serve `database`; another route noted meanwhile stays.
    pub(crate) fn forget(&self, database: &str, address: &str) {
        self.write(|state| {
            if state.routes.get(database).is_some_and(|route| &*route.address == address) {
                state.routes.remove(database);
            }
        });
    }

    /// Data addresses of the members that hold copies of `database`; empty after the first time,
    /// until a refresh. Cheap when there is nothing to tell, since every call asks.
    pub(crate) fn take_cold(&self, database: &str) -> Vec<String> {
        if !self.read(|state| state.cold.contains(database)) {
            return Vec::new();
        }
        self.write(|state| {
            state.cold.remove(database);
            let picture = &state.picture;
            let copies = picture.databases.get(database).map(|route| &route.copies);
            let members = copies.into_iter().flatten().filter_map(|name| picture.members.get(name));
            members.map(|member| member.data.clone()).collect()
        })
    }

    /// Control addresses to try: those last seen in the cluster, then the configured ones.
    pub(crate) fn control_addresses(&self) -> Vec<String> {
        let picture = self.picture();
        let mut all: Vec<_> = picture.members.values().map(|m| m.control.clone()).collect();
        for endpoint in &self.endpoints {
            if !all.contains(endpoint) {
                all.push(endpoint.clone());
            }
        }
        all
    }

    /// Fetches a picture that is not older than this call. Calls that come together share one
    /// fetch.
    pub(crate) async fn refresh(&self, pool: &Pool) -> Result<(), ClientError> {
        let asked = Instant::now();
        let mut refreshed = self.refreshed.lock().await;
        if refreshed.is_some_and(|at| at >= asked) {
            return Ok(());
        }
        let started = Instant::now();
        let answer = self.ask_in_turn(pool).await?;
        self.write(|state| merge(state, answer.into()));
        *refreshed = Some(started);
        Ok(())
    }

    async fn ask_in_turn(&self, pool: &Pool) -> Result<v1::TopologyResponse, ClientError> {
        let mut addresses = self.control_addresses();
        let first = self.turn.fetch_add(1, Ordering::Relaxed) % addresses.len().max(1);
        addresses.rotate_left(first);
        let mut waiting = addresses.iter();
        let mut asked = FuturesUnordered::new();
        let mut failures = Vec::new();
        loop {
            if let Some(address) = waiting.next() {
                asked.push(ask(pool, address));
            } else if asked.is_empty() {
                return Err(worst_of(failures));
            }
            let patience = if waiting.len() == 0 { ASK_LIMIT } else { HEDGE_AFTER };
            tokio::select! {
                biased;
                Some(answer) = asked.next() => match answer {
                    Ok(answer) => return Ok(answer),
                    Err(failure) => failures.push(failure),
                },
                () = sleep(patience) => {}
            }
        }
    }

    fn read<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(&self.state.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn write<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut self.state.write().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Takes a new picture. A route stays unless the picture knows a higher epoch or another database
/// of the name; a route that was found wrong and forgotten may return from the picture, because
/// there is nothing better to try.
fn merge(state: &mut State, mut picture: Topology) {
    for (name, new) in &mut picture.databases {
        if let Some(old) = state.picture.databases.get(name)
            && old.id == new.id
            && old.epoch > new.epoch
        {
            *new = old.clone();
        }
        let address = new.active.as_ref().and_then(|member| picture.members.get(member));
        let known = state.routes.get(name);
        match address {
            Some(address) if known.is_none_or(|route| route.is_older_than(new)) => {
                let (id, epoch) = (new.id, new.epoch);
                let route = Route { address: address.data.as_str().into(), id, epoch };
                state.routes.insert(name.clone(), route);
            }
            None if known.is_some_and(|route| route.is_older_than(new)) => {
                state.routes.remove(name);
            }
            _ => {}
        }
    }
    state.routes.retain(|name, _| picture.databases.contains_key(name));
    state.cold = picture.databases.keys().cloned().collect();
    state.picture = Arc::new(picture);
}

async fn ask(pool: &Pool, address: &str) -> Result<v1::TopologyResponse, ClientError> {
    let mut admin = pool.admin(address);
    let mut request = tonic::Request::new(v1::TopologyRequest {});
    request.set_timeout(ASK_LIMIT);
    match timeout(ASK_LIMIT, admin.topology(request)).await {
        Ok(Ok(answer)) => Ok(answer.into_inner()),
        Ok(Err(status)) => Err(Failure::of(&status, address).error),
        Err(_) => Err(ClientError::new(
            RefusalReason::Unreachable,
            format!("{address} did not answer within {ASK_LIMIT:?}"),
        )),
    }
}

/// The failure that tells most: a refusal of a server, then a certificate, then silence; the
/// messages of all.
pub(crate) fn worst_of(failures: Vec<ClientError>) -> ClientError {
    let rank = |error: &ClientError| match error.reason {
        RefusalReason::Unreachable | RefusalReason::DeadlineExceeded => 0,
        RefusalReason::BadCertificate => 2,
        _ => 1,
    };
    let messages: Vec<_> = failures.iter().map(|error| error.message.clone()).collect();
    let reason = failures.iter().max_by_key(|error| rank(error)).map(|error| error.reason);
    ClientError::new(
        reason.unwrap_or(RefusalReason::Unreachable),
        format!("no member answers: {}", messages.join("; ")),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picture(epoch: u64, active: &str) -> Topology {
        let member = |n: u8| MemberAddresses {
            id: None,
            site: "s".into(),
            control: format!("m{n}:7400"),
            data: format!("m{n}:7401"),
        };
        let route = DatabaseRoute {
            id: Some(DatabaseId::from_u128(1)),
            epoch: Epoch::new(1, epoch),
            active: (!active.is_empty()).then(|| active.into()),
            copies: vec!["m1".into(), "m2".into()],
            dismounted: false,
        };
        Topology {
            members: [("m1".into(), member(1)), ("m2".into(), member(2))].into(),
            databases: [("DB1".into(), route)].into(),
            limited: false,
        }
    }

    fn cache(first: Topology) -> TopologyCache {
        let cache = TopologyCache::new(vec!["e:1".into()]);
        cache.write(|state| merge(state, first));
        cache
    }

    #[test]
    fn a_picture_of_a_lower_epoch_moves_nothing_back() {
        let cache = cache(picture(3, "m2"));
        cache.write(|state| merge(state, picture(2, "m1")));
        assert_eq!(cache.lookup("DB1"), Lookup::At("m2:7401".into()));
        cache.write(|state| merge(state, picture(4, "m1")));
        assert_eq!(cache.lookup("DB1"), Lookup::At("m1:7401".into()));
    }

    #[test]
    fn a_database_created_again_under_its_name_replaces_the_removed_one() {
        let created_again = |epoch, active| {
            let mut picture = picture(epoch, active);
            for route in picture.databases.values_mut() {
                route.id = Some(DatabaseId::from_u128(2));
            }
            picture
        };
        let cache = cache(picture(7, "m1"));
        cache.write(|state| merge(state, created_again(1, "m2")));
        assert_eq!(cache.lookup("DB1"), Lookup::At("m2:7401".into()));
        assert_eq!(cache.picture().databases["DB1"].epoch, Epoch::new(1, 1));
        cache.write(|state| merge(state, created_again(0, "m1")));
        assert_eq!(cache.lookup("DB1"), Lookup::At("m2:7401".into()));
        cache.write(|state| merge(state, picture(1, "")));
        assert_eq!(cache.lookup("DB1"), Lookup::NoActive);
    }

    #[test]
    fn only_who_is_limited_asks_a_member_about_unknown_databases() {
        assert_eq!(cache(picture(3, "m1")).judge_of_unknown(), None);
        let mut limited = Topology { limited: true, ..picture(3, "m1") };
        limited.members.get_mut("m1").unwrap().data.clear();
        let cache = cache(limited);
        for _ in 0..3 {
            assert_eq!(cache.judge_of_unknown().as_deref(), Some("m2:7401"), "m1 is a witness");
            cache.turn.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn an_address_from_a_refusal_outlives_an_old_picture() {
        let cache = cache(picture(3, "m1"));
        cache.note_active("DB1", "m2:7401");
        cache.write(|state| merge(state, picture(3, "m1")));
        assert_eq!(cache.lookup("DB1"), Lookup::At("m2:7401".into()));
    }

    #[test]
    fn a_new_epoch_without_active_ends_the_old_route() {
        let cache = cache(picture(3, "m1"));
        cache.write(|state| merge(state, picture(4, "")));
        assert_eq!(cache.lookup("DB1"), Lookup::NoActive);
        assert_eq!(cache.lookup("DB2"), Lookup::Unknown);
    }

    #[test]
    fn members_with_copies_are_told_once_per_picture() {
        let cache = cache(picture(3, "m1"));
        assert_eq!(cache.take_cold("DB1"), ["m1:7401", "m2:7401"]);
        assert!(cache.take_cold("DB1").is_empty());
        cache.write(|state| merge(state, picture(3, "m1")));
        assert_eq!(cache.take_cold("DB1").len(), 2);
        assert!(cache.take_cold("DB2").is_empty());
    }

    #[test]
    fn forgetting_spares_a_newer_route() {
        let cache = cache(picture(3, "m1"));
        cache.note_active("DB1", "m2:7401");
        cache.forget("DB1", "m1:7401");
        assert_eq!(cache.lookup("DB1"), Lookup::At("m2:7401".into()));
        cache.forget("DB1", "m2:7401");
        assert_eq!(cache.lookup("DB1"), Lookup::NoActive);
    }
}
