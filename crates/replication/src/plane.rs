//! The data plane of a member: all its copies, fed by the control process over the private link.
//!
//! The link's messages are handled in order, and none of them waits for a copy: assignments and
//! leases go to the copies as [`Directions`]; orders that take time (seals, mounts) are answered by
//! tasks of their own. So a slow copy never delays the lease of the others. When the link breaks,
//! the process has lost its parent and ends.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use keelson_copy_core::paths::{Overrides, Purpose, Way};
use keelson_env::Disk;
use keelson_log::{OsDisk, Quota};
use keelson_net::link::{LinkReceiver, LinkSender};
use keelson_net::{CallMeters, Connector, Membership, RefusedCalls, TokenBook};
use keelson_store::{StoreFactory, StoreLimits};
use keelson_types::{
    ClusterId, ClusterSettings, DatabaseId, IncarnationId, MemberId, MemberName, Tick,
};
use keelson_wire::{ids, v1};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use crate::assignment::Assignment;
use crate::catalog;
use crate::context::{ContextParts, CopyHandle, Peer, PlaneContext, Registry};
use crate::digest::Digests;
use crate::directions::{Directions, LeaseNews};
use crate::gate::{ServeGate, boottime_now};
use crate::io_watch;
use crate::open::{Identity, Places};
use crate::orders;
use crate::owner::MAILBOX;
use crate::reach;
use crate::scrub;
use crate::seed::Targets;
use crate::sessions;
use crate::shared::CopyShared;
use crate::space;
use crate::supervise::Supervised;
use crate::volumes::{self, MemberVolumes, VolumeSettings};

/// How long the files of a copy may take to close.
const CLOSE_DEADLINE: Duration = Duration::from_secs(60);

/// What a data plane needs to start.
#[derive(Debug)]
pub struct DataPlaneConfig {
    /// This member.
    pub member: MemberId,
    /// This life of its data process.
    pub incarnation: IncarnationId,
    /// Stores and control files.
    pub data_directory: PathBuf,
    /// Logs; may be another volume.
    pub log_directory: PathBuf,
    /// For sessions and fetches.
    pub connector: Connector,
    /// Bytes that may lie below the data directory; none for as many as its volume takes.
    pub data_quota_bytes: Option<u64>,
    /// The same of the log directory.
    pub log_quota_bytes: Option<u64>,
    /// Volumes that hold the copies instead of these directories.
    pub volumes: VolumeSettings,
    /// What a thread does first that shall take no more than the others leave; threads that it
    /// starts shall be like it.
    pub quiet: fn(),
}

/// A running data plane. Dropping it leaves its tasks to the runtime; [`Self::stop`] ends it
/// cleanly.
#[derive(Debug)]
pub struct DataPlane {
    pub(crate) context: Arc<PlaneContext>,
    pub(crate) registry: Arc<Registry>,
    link_down: watch::Receiver<bool>,
    stop_wanted: watch::Receiver<bool>,
    refused_calls: RefusedCalls,
}

impl DataPlane {
    /// Starts the pools and the task that follows the link.
    ///
    /// # Errors
    /// The system's, if a thread cannot be started or a directory cannot be made; a store factory
    /// that cannot be made.
    pub fn start(
        config: DataPlaneConfig,
        sender: LinkSender<v1::DataToControl>,
        receiver: LinkReceiver<v1::ControlToData>,
    ) -> std::io::Result<Self> {
        std::fs::create_dir_all(config.data_directory.join("databases"))?;
        std::fs::create_dir_all(config.log_directory.join("databases"))?;
        let quotas = [
            (&config.data_directory, config.data_quota_bytes),
            (&config.log_directory, config.log_quota_bytes),
        ];
        let quotas = quotas.into_iter().filter_map(|(directory, quota)| {
            quota.map(|bytes| Quota::new(directory.clone(), bytes))
        });
        let disk: Arc<dyn Disk> = Arc::new(OsDisk::with_quotas(quotas.collect()));
        let volumes = MemberVolumes::open(
            disk.clone(),
            &config.data_directory,
            config.member,
            &config.volumes,
        );
        let factory = StoreFactory::new(&StoreLimits::default()).map_err(std::io::Error::other)?;
        let (reports, outgoing) = mpsc::unbounded_channel();
        let context = Arc::new(PlaneContext::start(ContextParts {
            member: config.member,
            incarnation: config.incarnation,
            places: Places {
                disk,
                data: config.data_directory,
                logs: config.log_directory,
                noting: Arc::default(),
                volumes: Arc::new(volumes),
            },
            opener: Arc::new(factory),
            connector: config.connector,
            reports,
            quiet: config.quiet,
        })?);
        let registry = Arc::new(Registry::default());
        tokio::spawn(space::watch(context.clone(), registry.clone()));
        tokio::spawn(io_watch::run(context.clone(), registry.clone()));
        tokio::spawn(volumes::run(context.clone(), registry.clone()));
        tokio::spawn(reach::run(context.clone()));
        let (down, link_down) = watch::channel(false);
        let (stop, stop_wanted) = watch::channel(false);
        tokio::spawn(send_reports(sender, outgoing));
        tokio::spawn(context.forks.clone().expire(context.opener.0.clone()));
        tokio::spawn(context.seeds.clone().expire());
        let follower = Follower {
            context: context.clone(),
            registry: registry.clone(),
            sessions: BTreeMap::new(),
            dead: BTreeSet::new(),
            held: true,
            stop,
            seeds: Targets::new(context.clone()),
        };
        tokio::spawn(async move {
            follower.follow(receiver).await;
            // Nobody waits for it if the plane was dropped.
            let _ = down.send(true);
        });
        tokio::spawn(scrub::run(context.clone(), registry.clone()));
        tokio::spawn(catalog::run(context.clone(), registry.clone()));
        let told = context.clone();
        let refused_calls = RefusedCalls::new(move |line| told.audit(&line));
        tokio::spawn(refused_calls.clone().run());
        Ok(Self { context, registry, link_down, stop_wanted, refused_calls })
    }

    /// The access tokens that count at this member.
    #[must_use]
    pub fn tokens(&self) -> TokenBook {
        self.context.tokens.clone()
    }

    /// Which members belong to the cluster, as last heard from the control process.
    #[must_use]
    pub fn membership(&self) -> Arc<dyn Membership> {
        self.context.clone()
    }

    /// Counts the calls of this process.
    #[must_use]
    pub fn call_meters(&self) -> CallMeters {
        self.context.calls.clone()
    }

    /// Tells the control process who was refused a call.
    #[must_use]
    pub fn refused_calls(&self) -> RefusedCalls {
        self.refused_calls.clone()
    }

    /// Ends when the control process is gone; the process must exit at once then.
    pub async fn wait_for_link_down(&self) {
        let mut down = self.link_down.clone();
        // An error means that the follower ended, which is the same.
        let _ = down.wait_for(|down| *down).await;
    }

    /// Ends when the control process asks for a clean stop.
    pub async fn wait_for_stop(&self) {
        let mut stop = self.stop_wanted.clone();
        if stop.wait_for(|stop| *stop).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Stops serving, makes everything replayed durable and closes the copies; then tells the
    /// control process that this life serves nothing any more.
    pub async fn stop(&self) {
        let copies = self.registry.all();
        copies.iter().for_each(|copy| copy.shared.gate.close());
        let stops = copies.into_iter().map(|copy| async move {
            let (reply, stopped) = oneshot::channel();
            copy.directions.stop(reply);
            tokio::select! {
                // A dropped reply means that the owner is gone already.
                _ = stopped => {}
                () = copy.mailbox.closed() => {}
            }
        });
        // What does not close in time is recovered from the log at the next start.
        let _ = tokio::time::timeout(CLOSE_DEADLINE, futures::future::join_all(stops)).await;
        let stopped = v1::data_to_control::Message::Stopped(v1::StopOrder {});
        self.context.report(0, stopped);
    }
}

async fn send_reports(
    sender: LinkSender<v1::DataToControl>,
    mut reports: mpsc::UnboundedReceiver<v1::DataToControl>,
) {
    while let Some(report) = reports.recv().await {
        if sender.send(report).await.is_err() {
            return;
        }
    }
}

/// Follows the link.
struct Follower {
    context: Arc<PlaneContext>,
    registry: Arc<Registry>,
    sessions: BTreeMap<MemberId, (Vec<Way>, JoinHandle<()>)>,
    dead: BTreeSet<MemberId>,
    /// Whether the lease is over at the moment.
    held: bool,
    stop: watch::Sender<bool>,
    seeds: Targets,
}

impl Follower {
    async fn follow(mut self, mut link: LinkReceiver<v1::ControlToData>) {
        loop {
            let expiry = (!self.held).then(|| self.context.lease.expires());
            tokio::select! {
                biased;
                message = link.recv() => match message {
                    Some(message) => self.take(message),
                    None => return,
                },
                () = sleep_until(expiry) => self.lease_over(),
            }
        }
    }

    fn take(&mut self, message: v1::ControlToData) {
        use v1::control_to_data::Message as M;
        let request = message.request;
        let (context, registry) = (self.context.clone(), self.registry.clone());
        match message.message {
            Some(M::Members(members)) => self.members(members),
            Some(M::Assign(assign)) => {
                if let Some(assignment) = assign.assignment {
                    self.assign(assignment);
                }
            }
            Some(M::Forget(forget)) => self.forget(&forget),
            Some(M::Lease(lease)) => self.lease(&lease),
            Some(M::Seal(orders)) => {
                tokio::spawn(orders::seal(context, registry, request, orders));
            }
            Some(M::Mount(orders)) => {
                tokio::spawn(orders::mount(context, registry, request, orders));
            }
            Some(M::Dismount(orders)) => {
                tokio::spawn(orders::dismount(context, registry, request, orders));
            }
            Some(M::Rule(outcome)) => orders::rule(&registry, outcome),
            Some(M::Facts(wanted)) => {
                tokio::spawn(crate::facts::answer(context, registry, request, wanted));
            }
            Some(M::Probe(_)) => {
                let wedged = io_watch::hanging(&registry).into_iter().map(ids::bytes).collect();
                let unreached = context.reach.unreached(&context);
                let unreached = unreached.into_iter().map(ids::bytes).collect();
                let progress = v1::ProgressReport { wedged, unreached };
                context.report(request, v1::data_to_control::Message::Progress(progress));
            }
            Some(M::Stop(_)) => drop(self.stop.send(true)),
            None => tracing::warn!("an order of a newer version was ignored"),
        }
    }

    fn members(&mut self, members: v1::AssignMembers) {
        if let Some(cluster) = ClusterId::from_slice(&members.cluster) {
            // It never changes for this process.
            let _ = self.context.cluster.set(cluster);
        }
        let settings = ClusterSettings::from_changed(members.settings.into_iter().collect());
        self.context.settings.send_if_modified(|known| {
            let news = *known != settings;
            *known = settings;
            news
        });
        // Sent by the control process of this member, which checked them.
        let networks = serde_json::from_slice(&members.networks).unwrap_or_default();
        *self.context.networks.write().unwrap_or_else(PoisonError::into_inner) = networks;
        self.tokens(&members.tokens);
        let read = members.members.iter().filter_map(read_member);
        let members: BTreeMap<MemberId, Peer> = read.collect();
        let dead = members.iter().filter(|(_, peer)| !peer.alive).map(|(id, _)| *id);
        let dead: BTreeSet<_> = dead.collect();
        let own = self.context.member;
        let others =
            members.iter().filter(|(id, peer)| **id != own && !peer.data_address.is_empty());
        let others: Vec<_> = others.map(|(id, peer)| (*id, peer.clone())).collect();
        *self.context.members.write().unwrap_or_else(PoisonError::into_inner) = members;
        let shipping =
            |(id, peer)| (id, self.context.ways(&peer, Purpose::Shipping, Overrides::default()));
        let others = others.into_iter().map(shipping).collect();
        self.keep_sessions(others);
        if dead != self.dead {
            self.registry.all().iter().for_each(|copy| copy.directions.members_dead(dead.clone()));
            self.dead = dead;
        }
    }

    fn keep_sessions(&mut self, others: Vec<(MemberId, Vec<Way>)>) {
        self.sessions.retain(|member, (ways, task)| {
            let stays = others.iter().any(|(id, wanted)| id == member && wanted == ways);
            if !stays {
                task.abort();
                // It cannot say so any more.
                self.context.log_paths.set(*member, None);
            }
            stays
        });
        for (member, ways) in others {
            let (context, registry) = (self.context.clone(), self.registry.clone());
            self.sessions
                .entry(member)
                .or_insert_with(|| (ways, tokio::spawn(sessions::keep(context, registry, member))));
        }
    }

    /// Takes the access tokens, once the control process knows them.
    fn tokens(&self, told: &[u8]) {
        if told.is_empty() {
            return;
        }
        match serde_json::from_slice(told) {
            Ok(tokens) => self.context.tokens.replace(&tokens),
            Err(error) => tracing::error!(%error, "malformed tokens were ignored"),
        }
    }

    fn assign(&mut self, assignment: v1::DatabaseAssignment) {
        let site_of = |member: MemberId| self.context.member(member).map(|peer| peer.site);
        let read = Assignment::read(assignment, site_of);
        let assignment = match read {
            Ok(assignment) => assignment,
            Err(error) => {
                tracing::error!(%error, "a malformed assignment was ignored");
                return;
            }
        };
        let handle = match self.registry.get(assignment.database) {
            Some(handle) if handle.shared.copy == assignment.copy => handle,
            Some(old) => {
                let ended = end(&old);
                self.create(&assignment, Some(ended))
            }
            None => self.create(&assignment, None),
        };
        let mine = assignment.assigned.assignment.active == Some(assignment.copy);
        let epoch = assignment.assigned.assignment.epoch;
        handle.shared.gate.assign(mine.then_some(epoch), assignment.assigned_at);
        let address = assignment.active_member.and_then(|member| self.context.member(member));
        let address = address.map(|peer| peer.data_address).unwrap_or_default();
        if let Ok(mut known) = handle.shared.active_address.lock() {
            *known = address;
        }
        handle.shared.wake();
        self.seeds.assigned(&handle, &assignment);
        handle.directions.assigned(assignment.assigned);
    }

    /// Starts a copy, once its predecessor in the same place is done with its files.
    fn create(
        &mut self,
        assignment: &Assignment,
        predecessor: Option<oneshot::Receiver<()>>,
    ) -> CopyHandle {
        let shared = Arc::new(CopyShared::new(
            assignment.database,
            assignment.copy,
            assignment.name.clone(),
            assignment.stream,
            ServeGate::new(self.context.lease.clone()),
        ));
        let (mailbox, messages) = mpsc::channel(MAILBOX);
        let digests = Arc::new(Digests::new());
        let directions = Arc::new(Directions::new(self.dead.clone()));
        let handle = CopyHandle {
            shared: shared.clone(),
            mailbox,
            directions: directions.clone(),
            digests: digests.clone(),
        };
        self.registry.insert(handle.clone());
        let supervised = Supervised {
            context: self.context.clone(),
            registry: self.registry.clone(),
            shared,
            identity: Identity {
                database: assignment.database,
                copy: assignment.copy,
                stream: assignment.stream,
                generation_bytes: assignment.assigned.generation_bytes,
                resumes: assignment.assigned.resumes,
                others: assignment.assigned.others.len(),
                admitted: assignment.is_admitted(),
            },
            digests,
            directions,
            sources: Arc::default(),
        };
        tokio::spawn(async move {
            if let Some(ended) = predecessor {
                // An error means that its owner is gone, which is as good.
                let _ = tokio::time::timeout(CLOSE_DEADLINE, ended).await;
            }
            supervised.run(messages).await;
        });
        handle
    }

    fn forget(&mut self, forget: &v1::ForgetDatabase) {
        let Some(database) = DatabaseId::from_slice(&forget.database) else { return };
        self.seeds.forgotten(database);
        if let Some(handle) = self.registry.remove(database) {
            drop(end(&handle));
        }
    }

    fn lease(&mut self, update: &v1::LeaseUpdate) {
        // The old grant may have run out before its timer was looked at: answers wait since then.
        self.held |= boottime_now() >= self.context.lease.expires();
        let first = !self.context.lease.was_granted();
        self.context.lease.renew(Tick(update.expires_boottime_nanos), update.revision);
        let alive = boottime_now() < self.context.lease.expires();
        if !alive {
            return self.lease_over();
        }
        let news = self.context.lease.take_news(update.revision);
        // Passive copies wait for the first one, too: now the assignments are not those of old.
        if std::mem::replace(&mut self.held, false) || first {
            self.tell(LeaseNews::Back, |_| true);
        } else if news {
            self.tell(LeaseNews::Back, |copy| copy.shared.gate.is_serving());
        }
    }

    fn lease_over(&mut self) {
        if boottime_now() < self.context.lease.expires() || self.held {
            return;
        }
        self.held = true;
        tracing::warn!("the lease is over: the actives of this member hold");
        // Those that are being activated as well: they dismount after the same time (G6).
        self.tell(LeaseNews::Lost, |_| true);
    }

    fn tell(&self, lease: LeaseNews, whom: impl Fn(&CopyHandle) -> bool) {
        let copies = self.registry.all();
        copies.iter().filter(|copy| whom(copy)).for_each(|copy| {
            copy.directions.lease(lease);
            copy.shared.wake();
        });
    }
}

/// Tells a copy that it is not here any more; the answer comes when its files are closed.
fn end(copy: &CopyHandle) -> oneshot::Receiver<()> {
    copy.shared.gate.close();
    copy.shared.left();
    let (reply, ended) = oneshot::channel();
    copy.directions.stop(reply);
    ended
}

async fn sleep_until(expiry: Option<Tick>) {
    match expiry {
        Some(expiry) => tokio::time::sleep(expiry.since(boottime_now())).await,
        None => std::future::pending().await,
    }
}

fn read_member(member: &v1::MemberAddress) -> Option<(MemberId, Peer)> {
    let id = MemberId::from_slice(&member.member)?;
    let name = MemberName::new(member.name.clone()).ok()?;
    let (data_address, site) = (member.data_address.clone(), member.site.clone());
    let replication_addresses = member.replication_addresses.clone();
    Some((id, Peer { name, site, data_address, replication_addresses, alive: member.alive }))
}
