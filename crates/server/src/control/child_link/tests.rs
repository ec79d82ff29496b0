//! The link with lives that begin and end: answers, reports, stops, deaths.

use super::*;
use keelson_wire::v1::{DataReady, ProgressProbe, ProgressReport};
use std::os::unix::net::UnixStream as StdStream;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

struct World {
    link: Arc<ChildLink>,
    lives: mpsc::Sender<LifeEvent>,
    events: mpsc::Receiver<DataEvent>,
}

impl World {
    fn new() -> Self {
        let link = ChildLink::new(Steering::default());
        let (lives, announced) = mpsc::channel(8);
        let (sender, events) = mpsc::channel(8);
        tokio::spawn(link.clone().run(announced, sender));
        Self { link, lives, events }
    }

    /// Begins a life and returns the child's end.
    async fn begin(
        &mut self,
        number: u128,
    ) -> (LinkSender<DataToControl>, LinkReceiver<ControlToData>) {
        let (ours, theirs) = StdStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        theirs.set_nonblocking(true).unwrap();
        let incarnation = IncarnationId::from_u128(number);
        self.lives.send(LifeEvent::Started { incarnation, pid: 1, link: ours }).await.unwrap();
        assert_eq!(self.events.recv().await, Some(DataEvent::Up { incarnation }));
        link::open(UnixStream::from_std(theirs).unwrap())
    }

    async fn reap(&self, number: u128) {
        self.reap_with(number, ExitStatus::from_raw(9)).await;
    }

    async fn reap_with(&self, number: u128, status: ExitStatus) {
        let incarnation = IncarnationId::from_u128(number);
        self.lives.send(LifeEvent::Reaped { incarnation, status }).await.unwrap();
    }

    async fn expect_down(&mut self, number: u128, certified: bool) {
        let incarnation = IncarnationId::from_u128(number);
        assert_eq!(self.events.recv().await, Some(DataEvent::Down { incarnation, certified }));
    }
}

fn probe() -> control_to_data::Message {
    control_to_data::Message::Probe(ProgressProbe {})
}

const SOON: Duration = Duration::from_secs(20);

#[tokio::test]
async fn answers_meet_their_requests_and_reports_become_events() {
    let mut world = World::new();
    let (replies, mut orders) = world.begin(1).await;
    let child = tokio::spawn(async move {
        let first = orders.recv().await.unwrap();
        let ready = data_to_control::Message::Ready(DataReady { data_address: "h:1".into() });
        replies.send(DataToControl { reply_to: 0, message: Some(ready) }).await.unwrap();
        let progress = data_to_control::Message::Progress(ProgressReport::default());
        let reply = DataToControl { reply_to: first.request, message: Some(progress) };
        replies.send(reply).await.unwrap();
        assert_eq!(orders.recv().await.unwrap().request, 0, "an order asks for no answer");
    });
    let answer = world.link.request(probe(), SOON).await.unwrap();
    assert_eq!(answer, data_to_control::Message::Progress(ProgressReport::default()));
    assert!(matches!(world.events.recv().await, Some(DataEvent::Message(_))));
    world.link.send(control_to_data::Message::Stop(StopOrder {})).await.unwrap();
    child.await.unwrap();
    world.expect_down(1, false).await;
}

#[tokio::test]
async fn without_a_life_everything_is_down() {
    let world = World::new();
    assert_eq!(world.link.send(probe()).await, Err(LinkDown::Down));
    assert_eq!(world.link.request(probe(), SOON).await, Err(LinkDown::Down));
}

#[tokio::test]
async fn requests_that_wait_end_with_their_life() {
    let mut world = World::new();
    let (replies, mut orders) = world.begin(1).await;
    let link = world.link.clone();
    let asking = tokio::spawn(async move { link.request(probe(), SOON).await });
    orders.recv().await.unwrap();
    drop((replies, orders));
    assert_eq!(asking.await.unwrap(), Err(LinkDown::Down));
    world.expect_down(1, false).await;
    world.reap(1).await;
    world.expect_down(1, true).await;
}

#[tokio::test]
async fn silence_is_told_apart_from_death() {
    let mut world = World::new();
    let (_replies, _orders) = world.begin(1).await;
    let outcome = world.link.request(probe(), Duration::from_millis(20)).await;
    assert_eq!(outcome, Err(LinkDown::NoAnswer));
}

#[tokio::test]
async fn the_end_of_an_old_life_does_not_touch_the_new_one() {
    let mut world = World::new();
    let old = world.begin(1).await;
    world.reap(1).await;
    world.expect_down(1, true).await;
    let (_replies, mut orders) = world.begin(2).await;
    drop(old);
    world.expect_down(1, false).await;
    world.link.send(probe()).await.unwrap();
    assert!(orders.recv().await.is_some());
}

async fn ask_to_stop(
    world: &mut World,
) -> tokio::task::JoinHandle<Result<data_to_control::Message, LinkDown>> {
    let (replies, mut orders) = world.begin(1).await;
    let link = world.link.clone();
    let stop = control_to_data::Message::Stop(StopOrder {});
    let asking = tokio::spawn(async move { link.request(stop, SOON).await });
    orders.recv().await.unwrap();
    drop((replies, orders));
    world.expect_down(1, false).await;
    asking
}

#[tokio::test]
async fn a_clean_end_answers_the_request_to_stop() {
    let mut world = World::new();
    let asking = ask_to_stop(&mut world).await;
    world.reap_with(1, ExitStatus::from_raw(0)).await;
    let stopped = data_to_control::Message::Stopped(StopOrder {});
    assert_eq!(asking.await.unwrap(), Ok(stopped));
}

#[tokio::test]
async fn a_crash_does_not_answer_the_request_to_stop() {
    let mut world = World::new();
    let asking = ask_to_stop(&mut world).await;
    world.reap(1).await;
    assert_eq!(asking.await.unwrap(), Err(LinkDown::Down));
}

#[tokio::test]
async fn the_message_stopped_answers_the_request_to_stop() {
    let mut world = World::new();
    let (replies, _orders) = world.begin(1).await;
    let link = world.link.clone();
    let stop = control_to_data::Message::Stop(StopOrder {});
    let asking = tokio::spawn(async move { link.request(stop, SOON).await });
    while lock(&world.link.stopping).is_none() {
        tokio::task::yield_now().await;
    }
    let stopped = data_to_control::Message::Stopped(StopOrder {});
    replies.send(DataToControl { reply_to: 0, message: Some(stopped.clone()) }).await.unwrap();
    assert_eq!(asking.await.unwrap(), Ok(stopped));
}
