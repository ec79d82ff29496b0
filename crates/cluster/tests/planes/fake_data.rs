//! A data process that does at once what it is told, and remembers it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use keelson_cluster::{DataEvent, DataLink, LinkDown};
use keelson_types::IncarnationId;
use keelson_wire::v1::{
    self, DataToControl, DatabaseAssignment, DismountManyResponse, LeaseUpdate, MountManyRequest,
    MountManyResponse, SealManyRequest, SealManyResponse, control_to_data, data_to_control,
};
use tokio::sync::{mpsc, watch};

/// What one life of the data process was told.
#[derive(Clone, Debug, Default)]
pub(crate) struct Told {
    pub(crate) members: Vec<String>,
    pub(crate) databases: BTreeMap<String, DatabaseAssignment>,
    pub(crate) lease: Option<LeaseUpdate>,
    pub(crate) mounted: BTreeMap<String, v1::Epoch>,
    pub(crate) rules: Vec<v1::RuleOutcome>,
    /// Pairs that a lease update named before their assignment came.
    pub(crate) too_early: u32,
}

struct State {
    life: Option<IncarnationId>,
    answers: bool,
    told: Told,
}

/// The fake; also the supervisor of its lives.
pub(crate) struct FakeData {
    state: Mutex<State>,
    events: mpsc::Sender<DataEvent>,
    changed: watch::Sender<u64>,
}

impl FakeData {
    pub(crate) fn new() -> (Arc<Self>, mpsc::Receiver<DataEvent>) {
        let (events, receiver) = mpsc::channel(1024);
        let state = State { life: None, answers: true, told: Told::default() };
        let changed = watch::channel(0).0;
        (Arc::new(Self { state: Mutex::new(state), events, changed }), receiver)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic")
    }

    /// Starts a new life.
    pub(crate) async fn start(&self) -> IncarnationId {
        let incarnation = IncarnationId::new(uuid::Uuid::new_v4());
        {
            let mut state = self.state();
            state.life = Some(incarnation);
            state.answers = true;
            state.told = Told::default();
        }
        self.events.send(DataEvent::Up { incarnation }).await.expect("the plane runs");
        incarnation
    }

    /// Ends the life and reaps it.
    pub(crate) async fn die(&self) {
        let incarnation = self.state().life.take().expect("it lives");
        let event = DataEvent::Down { incarnation, certified: true };
        self.events.send(event).await.expect("the plane runs");
    }

    /// Keeps the process alive without answering anything.
    pub(crate) fn hang(&self) {
        self.state().answers = false;
    }

    /// Reports something, as the data process does.
    pub(crate) async fn report(&self, message: data_to_control::Message) {
        let message = DataToControl { reply_to: 0, message: Some(message) };
        self.events.send(DataEvent::Message(Box::new(message))).await.expect("the plane runs");
    }

    pub(crate) fn told(&self) -> Told {
        self.state().told.clone()
    }

    /// Waits until what it was told satisfies `condition`.
    pub(crate) async fn until(&self, what: &str, condition: impl Fn(&Told) -> bool) -> Told {
        let mut changed = self.changed.subscribe();
        let reached = async {
            loop {
                let told = self.told();
                if condition(&told) {
                    return told;
                }
                changed.changed().await.expect("the fake lives");
            }
        };
        let limit = super::world::PATIENCE;
        let reached = tokio::time::timeout(limit, reached).await;
        reached.unwrap_or_else(|_| panic!("{what}: {:#?}", self.told()))
    }

    fn take(&self, message: control_to_data::Message) {
        use control_to_data::Message as M;
        let told = &mut self.state().told;
        match message {
            M::Members(members) => {
                told.members = members.members.into_iter().map(|member| member.name).collect();
            }
            M::Assign(assign) => {
                let assignment = assign.assignment.expect("an assignment");
                let covered = told.lease.is_some_and(|l| l.revision >= assignment.assigned_at);
                let known = told.databases.get(&assignment.name);
                let newer = known.is_none_or(|k| k.assigned_at < assignment.assigned_at);
                if covered && newer && assignment.active == assignment.this_copy {
                    told.too_early += 1;
                }
                told.databases.insert(assignment.name.clone(), assignment);
            }
            M::Forget(forget) => {
                told.databases.retain(|_, known| known.database != forget.database);
            }
            M::Lease(lease) => told.lease = Some(lease),
            M::Rule(rule) => told.rules.push(rule),
            other => panic!("{other:?} is a request"),
        }
    }

    fn seal(&self, request: SealManyRequest) -> SealManyResponse {
        let told = &self.state().told;
        let seal = |order: v1::SealOrder| {
            let known = told.databases.values().find(|known| known.database == order.database);
            v1::SealReply {
                database: order.database,
                epoch: order.epoch,
                copy: known.map(|known| known.this_copy.clone()).unwrap_or_default(),
                end: Some(v1::LogEnd::default()),
                refusal: known.map_or("unknown_copy".to_owned(), |_| String::new()),
                ..v1::SealReply::default()
            }
        };
        SealManyResponse { replies: request.orders.into_iter().map(seal).collect() }
    }

    async fn mount(&self, request: MountManyRequest) -> MountManyResponse {
        let mut outcomes = Vec::new();
        for order in request.orders {
            let (database, epoch) = (order.database.clone(), order.epoch);
            {
                let told = &mut self.state().told;
                let known = told.databases.values().find(|known| known.database == database);
                let name = known.expect("assigned before the order").name.clone();
                told.mounted.insert(name, epoch.expect("an epoch"));
            }
            let report = v1::EstablishedReport { database: database.clone(), epoch };
            self.report(data_to_control::Message::Established(report)).await;
            let mounted = true;
            outcomes.push(v1::MountOutcome { database, epoch, mounted, ..Default::default() });
        }
        MountManyResponse { outcomes }
    }

    fn facts(&self) -> v1::MemberFactsResponse {
        let told = &self.state().told;
        let copies = told.databases.values().map(|known| v1::CopyFacts {
            database: known.database.clone(),
            copy: known.this_copy.clone(),
            status: "Healthy".into(),
            content_index: Some(v1::ContentIndexFacts {
                state: "Disabled".into(),
                ..v1::ContentIndexFacts::default()
            }),
            ..v1::CopyFacts::default()
        });
        v1::MemberFactsResponse { copies: copies.collect(), data_pid: 7, ..Default::default() }
    }

    fn touch(&self) {
        self.changed.send_modify(|count| *count += 1);
    }
}

#[async_trait]
impl DataLink for FakeData {
    async fn send(&self, message: control_to_data::Message) -> Result<(), LinkDown> {
        if self.state().life.is_none() {
            return Err(LinkDown::Down);
        }
        self.take(message);
        self.touch();
        Ok(())
    }

    async fn request(
        &self,
        message: control_to_data::Message,
        deadline: Duration,
    ) -> Result<data_to_control::Message, LinkDown> {
        use control_to_data::Message as M;
        use data_to_control::Message as A;
        if self.state().life.is_none() {
            return Err(LinkDown::Down);
        }
        if !self.state().answers {
            let never = std::future::pending::<()>();
            let ended = tokio::time::timeout(deadline, never).await;
            return Err(ended.map_or(LinkDown::NoAnswer, |()| LinkDown::Down));
        }
        let answer = match message {
            M::Seal(request) => A::Seal(self.seal(request)),
            M::Mount(request) => A::Mount(self.mount(request).await),
            M::Dismount(_) => A::Dismount(DismountManyResponse {}),
            M::Facts(_) => A::Facts(self.facts()),
            M::Stop(stop) => A::Stopped(stop),
            M::Probe(_) => A::Progress(Default::default()),
            other => panic!("{other:?} is no request"),
        };
        self.touch();
        Ok(answer)
    }
}
