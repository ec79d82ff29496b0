//! Members in one process, over real TLS and gRPC on the loopback, with fake data processes.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use keelson_cluster::{
    AuditLog, AuditSettings, ControlPlane, ControlPlaneConfig, Identity, Timings,
};
use keelson_net::certs::{Authority, CertRequest, Validity};
use keelson_net::{
    Connector, Expect, Lane, PeerChannel, TlsFiles, TlsServer, TlsStore, bind, serve,
};
use keelson_types::{MemberId, MemberName, SiteName};
use keelson_wire::v1::admin_client::AdminClient;
use keelson_wire::v1::cluster_client::ClusterClient;
use keelson_wire::v1::operations_client::OperationsClient;
use keelson_wire::v1::{
    AddMemberRequest, CreateDatabaseRequest, DatabaseInfo, InitClusterRequest, ShowDatabaseRequest,
};
use keelson_wire::{Refusal, refusal_of};
use tempfile::TempDir;
use tokio::sync::oneshot;
use uuid::Uuid;

use super::fake_data::FakeData;

/// How long a condition may take; the machine may be busy with other tests.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// Pause between two looks at a condition that cannot be watched.
const LOOK: Duration = Duration::from_millis(20);

/// A member that runs.
pub(crate) struct Running {
    pub(crate) plane: ControlPlane,
    stop: oneshot::Sender<()>,
    ended: tokio::task::JoinHandle<()>,
}

/// A member, running or not.
pub(crate) struct Member {
    pub(crate) name: String,
    pub(crate) id: MemberId,
    pub(crate) address: String,
    pub(crate) data_address: String,
    pub(crate) data: Arc<FakeData>,
    pub(crate) running: Option<Running>,
}

/// Everything of a test.
pub(crate) struct World {
    directory: TempDir,
    authority: Authority,
    pub(crate) timings: Timings,
    connector: Connector,
    pub(crate) members: BTreeMap<String, Member>,
}

impl World {
    pub(crate) fn new() -> Self {
        let directory = TempDir::new().expect("a directory");
        let authority = Authority::create("test", Validity::days(10)).expect("an authority");
        let tls = store(&directory, &authority, "admin", &CertRequest::admin("admin"));
        Self {
            directory,
            authority,
            timings: Timings::lan(),
            connector: Connector::new(tls),
            members: BTreeMap::new(),
        }
    }

    /// Three members in one cluster, their data processes up.
    pub(crate) async fn of_three() -> Self {
        let mut world = Self::new();
        for name in ["m1", "m2", "m3"] {
            world.start(name).await;
        }
        world.admin("m1").init_cluster(InitClusterRequest {}).await.expect("formed");
        for name in ["m2", "m3"] {
            world.add("m1", name).await.expect("added");
        }
        for name in ["m1", "m2", "m3"] {
            world.member(name).data.until("a lease", |told| told.lease.is_some()).await;
        }
        world
    }

    pub(crate) fn member(&self, name: &str) -> &Member {
        &self.members[name]
    }

    pub(crate) fn plane(&self, name: &str) -> &ControlPlane {
        &self.member(name).running.as_ref().expect("it runs").plane
    }

    /// Starts a new member with its data process.
    pub(crate) async fn start(&mut self, name: &str) {
        self.start_as(name, name).await;
    }

    /// Starts a member that is kept as `label` and calls itself `name`.
    pub(crate) async fn start_as(&mut self, label: &str, name: &str) {
        let (data, events) = FakeData::new();
        let listener = bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        let id = MemberId::new(Uuid::new_v4());
        let member = Member {
            name: name.into(),
            id,
            address,
            data_address: "127.0.0.1:1".into(),
            data: data.clone(),
            running: None,
        };
        let request = CertRequest::member(name, &[]);
        store(&self.directory, &self.authority, label, &request);
        self.members.insert(label.into(), member);
        let running = self.run(label, Some(listener), events).await;
        self.members.get_mut(label).expect("inserted").running = Some(running);
        data.start().await;
    }

    /// Starts a member again that was killed or stopped.
    pub(crate) async fn restart(&mut self, label: &str) {
        let (data, events) = FakeData::new();
        let member = self.members.get_mut(label).expect("known");
        member.data = data.clone();
        self.free(label).await;
        let running = self.run(label, None, events).await;
        self.members.get_mut(label).expect("known").running = Some(running);
        data.start().await;
    }

    /// Waits until nobody holds the consensus file of a member that was killed or stopped. A
    /// process would have ended; here a last task may still hold it for a moment.
    pub(crate) async fn free(&self, label: &str) {
        let storage = self.cluster_directory(label).join("consensus.redb");
        let free = || redb::Database::open(&storage).ok().map(drop);
        eventually("the storage of the former life is closed", free).await;
    }

    /// Connections with the certificate of a member.
    pub(crate) fn connector_of(&self, label: &str) -> Connector {
        Connector::new(self.member_tls(label))
    }

    async fn run(
        &self,
        label: &str,
        listener: Option<tokio::net::TcpListener>,
        events: tokio::sync::mpsc::Receiver<keelson_cluster::DataEvent>,
    ) -> Running {
        let member = self.member(label);
        let tls = TlsStore::open(files(&self.directory, label)).expect("files");
        let config = ControlPlaneConfig {
            identity: Identity {
                member: member.id,
                name: MemberName::new(member.name.as_str()).expect("a name"),
                site: SiteName::new("east").expect("a name"),
                control_address: member.address.clone(),
                data_address: member.data_address.clone(),
                replication_addresses: Vec::new(),
            },
            directory: self.cluster_directory(label),
            timings: self.timings,
            audit: AuditLog::start(AuditSettings {
                directory: self.cluster_directory(label),
                file_bytes: 1 << 20,
                files: 2,
            })
            .expect("a thread"),
        };
        let connector = Connector::new(tls.clone());
        let plane = ControlPlane::start(config, connector, member.data.clone(), events).await;
        let plane = plane.expect("it starts");
        let listener = match listener {
            Some(listener) => listener,
            None => bind(&member.address).await.expect("free since it was killed"),
        };
        let (stop, stopped) = oneshot::channel();
        let routes = plane.routes();
        let shutdown = async {
            let _ = stopped.await;
        };
        let server = TlsServer::new(tls).with_members(plane.membership());
        let serving = serve(listener, server, routes, shutdown);
        let ended = tokio::spawn(async move { serving.await.expect("served") });
        Running { plane, stop, ended }
    }

    pub(crate) fn cluster_directory(&self, label: &str) -> PathBuf {
        self.directory.path().join(label).join("cluster")
    }

    /// Ends a member as a crash of its machine would: nobody learns of it but by silence.
    pub(crate) async fn kill(&mut self, label: &str) {
        let member = self.members.get_mut(label).expect("known");
        let running = member.running.take().expect("it runs");
        running.plane.halt().await;
        let _ = running.stop.send(());
        running.ended.await.expect("ended");
    }

    /// Ends a member in order.
    pub(crate) async fn stop(&mut self, label: &str) {
        let member = self.members.get_mut(label).expect("known");
        let running = member.running.take().expect("it runs");
        running.plane.stop().await;
        let _ = running.stop.send(());
        running.ended.await.expect("ended");
    }

    fn channel(&self, label: &str) -> PeerChannel {
        let member = self.member(label);
        let expect = Expect::Member(MemberName::new(member.name.as_str()).expect("a name"));
        self.connector.channel(&member.address, expect, Lane::Control)
    }

    pub(crate) fn admin(&self, label: &str) -> AdminClient<PeerChannel> {
        AdminClient::new(self.channel(label))
    }

    /// The `Admin` service of `label`, called with the certificate of the member `caller`.
    pub(crate) fn admin_as(&self, label: &str, caller: &str) -> AdminClient<PeerChannel> {
        let member = self.member(label);
        let expect = Expect::Member(MemberName::new(member.name.as_str()).expect("a name"));
        let tls = self.member_tls(caller);
        AdminClient::new(PeerChannel::new(tls, &member.address, expect))
    }

    pub(crate) fn operations(&self, label: &str) -> OperationsClient<PeerChannel> {
        OperationsClient::new(self.channel(label))
    }

    /// The `Cluster` service of `label`, called with the certificate of `caller`.
    pub(crate) fn cluster(&self, label: &str, caller: &str) -> ClusterClient<PeerChannel> {
        let member = self.member(label);
        let expect = Expect::Member(MemberName::new(member.name.as_str()).expect("a name"));
        let tls = TlsStore::open(files(&self.directory, caller)).expect("files");
        ClusterClient::new(PeerChannel::new(tls, &member.address, expect))
    }

    /// A certificate store for a service of the test itself, under a member's name.
    pub(crate) fn member_tls(&self, label: &str) -> Arc<TlsStore> {
        TlsStore::open(files(&self.directory, label)).expect("files")
    }

    pub(crate) async fn add(&self, leader: &str, label: &str) -> Result<(), Refusal> {
        let member = self.member(label);
        let request = AddMemberRequest {
            control_address: member.address.clone(),
            name: member.name.clone(),
            witness: false,
        };
        let added = self.admin(leader).add_member(request).await;
        added.map(|_| ()).map_err(|status| refusal_of(&status))
    }

    pub(crate) async fn create(&self, leader: &str, name: &str, members: &[&str]) {
        let request = CreateDatabaseRequest {
            name: name.into(),
            members: members.iter().map(|member| (*member).to_owned()).collect(),
            ..CreateDatabaseRequest::default()
        };
        self.admin(leader).create_database(request).await.expect("created");
    }

    pub(crate) async fn show(&self, at: &str, database: &str) -> DatabaseInfo {
        let request = ShowDatabaseRequest { name: database.into() };
        let shown = self.admin(at).show_database(request).await.expect("shown").into_inner();
        shown.database.expect("there")
    }

    /// Waits until `database` is established, on a member that satisfies `at`.
    pub(crate) async fn established(
        &self,
        asked: &str,
        database: &str,
        at: impl Fn(&str) -> bool,
    ) -> DatabaseInfo {
        let applied = self.plane(asked).applied();
        let reached = async {
            loop {
                // Taken first: whatever is applied after the look wakes it again.
                let next = applied.index() + 1;
                let request = ShowDatabaseRequest { name: database.into() };
                if let Ok(shown) = self.admin(asked).show_database(request).await {
                    let shown = shown.into_inner().database.expect("there");
                    if shown.state == "established" && at(&shown.active_member) {
                        return shown;
                    }
                }
                applied.reached(next).await;
            }
        };
        match tokio::time::timeout(PATIENCE, reached).await {
            Ok(shown) => shown,
            Err(_) => panic!(
                "{database} is not established: {:#?}\n{}",
                self.show(asked, database).await,
                applied.read(|state| format!("{:#?}\n{:#?}", state.members, state.events))
            ),
        }
    }

    /// Waits until one of the running members leads.
    pub(crate) async fn leader(&self) -> String {
        eventually("a leader", || {
            let running = self.members.iter().filter_map(|(label, member)| {
                member.running.as_ref().filter(|r| r.plane.is_leader()).map(|_| label.clone())
            });
            running.into_iter().next()
        })
        .await
    }
}

/// Looks until there is something.
pub(crate) async fn eventually<T>(what: &str, look: impl Fn() -> Option<T>) -> T {
    let found = async {
        let mut looks = tokio::time::interval(LOOK);
        loop {
            looks.tick().await;
            if let Some(found) = look() {
                return found;
            }
        }
    };
    tokio::time::timeout(PATIENCE, found).await.unwrap_or_else(|_| panic!("never: {what}"))
}

fn files(directory: &TempDir, label: &str) -> TlsFiles {
    let path = |end: &str| directory.path().join(format!("{label}.{end}"));
    TlsFiles { ca: path("ca"), cert: path("pem"), key: path("key") }
}

fn store(
    directory: &TempDir,
    authority: &Authority,
    label: &str,
    request: &CertRequest,
) -> Arc<TlsStore> {
    let files = files(directory, label);
    std::fs::write(&files.ca, authority.cert_pem()).expect("written");
    authority.issue(request).expect("issued").write(&files.cert, &files.key).expect("written");
    TlsStore::open(files).expect("files")
}
