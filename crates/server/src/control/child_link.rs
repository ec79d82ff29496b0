//! The control process's end of the link: sends orders, matches answers with requests, and passes
//! reports on as events.
//!
//! The request to stop is special: it is answered by the message `stopped`, which answers no
//! number, or by the clean end of the process, whichever comes first.
//!
//! A life begins when its process was started and ends when its link breaks or its process is
//! reaped, whichever is first. Requests that wait when it ends are answered with `Down` at once. A
//! process that does not read its link for so long that the queue is full is killed: it would be
//! restarted anyway, and a lost order would go unnoticed.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use keelson_cluster::{DataEvent, DataLink, LinkDown};
use keelson_net::link::{self, LinkReceiver, LinkSender};
use keelson_types::IncarnationId;
use keelson_wire::v1::{ControlToData, DataToControl, StopOrder, control_to_data, data_to_control};
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::supervisor::{LifeEvent, Steering};

/// A full queue for this long means that the data process is stuck.
const STUCK_AFTER: Duration = Duration::from_secs(10);

type Waiting = BTreeMap<u64, oneshot::Sender<data_to_control::Message>>;

#[derive(Clone)]
struct Life {
    incarnation: IncarnationId,
    sender: LinkSender<ControlToData>,
    /// `None` once the life has ended.
    waiting: Arc<Mutex<Option<Waiting>>>,
}

/// Implements [`DataLink`] over whatever life runs at the moment.
pub(super) struct ChildLink {
    steering: Steering,
    life: Mutex<Option<Life>>,
    /// Whoever asked the process to stop.
    stopping: Mutex<Option<oneshot::Sender<data_to_control::Message>>>,
    next_request: AtomicU64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl ChildLink {
    pub(super) fn new(steering: Steering) -> Arc<Self> {
        Arc::new(Self {
            steering,
            life: Mutex::default(),
            stopping: Mutex::default(),
            next_request: AtomicU64::new(1),
        })
    }

    fn life(&self) -> Result<Life, LinkDown> {
        lock(&self.life).clone().ok_or(LinkDown::Down)
    }

    async fn put(
        &self,
        life: &Life,
        request: u64,
        message: control_to_data::Message,
    ) -> Result<(), LinkDown> {
        let message = ControlToData { request, message: Some(message) };
        match timeout(STUCK_AFTER, life.sender.send(message)).await {
            Ok(sent) => sent.map_err(|_| LinkDown::Down),
            Err(_) => {
                let incarnation = life.incarnation;
                tracing::error!(%incarnation, "the data process is stuck; killed");
                self.steering.kill();
                Err(LinkDown::Down)
            }
        }
    }

    /// Translates what the supervisor announces until it ends. Owns the reading task of each life.
    pub(super) async fn run(
        self: Arc<Self>,
        mut lives: mpsc::Receiver<LifeEvent>,
        events: mpsc::Sender<DataEvent>,
    ) {
        while let Some(event) = lives.recv().await {
            let event = match event {
                LifeEvent::Started { incarnation, pid, link } => {
                    tracing::debug!(%incarnation, pid, "link opened");
                    match self.begin(incarnation, link, &events) {
                        Ok(()) => DataEvent::Up { incarnation },
                        Err(error) => {
                            tracing::error!(%error, "the link cannot be opened; life ended");
                            self.steering.kill();
                            continue;
                        }
                    }
                }
                LifeEvent::Reaped { incarnation, status } => {
                    self.end(incarnation);
                    self.stopped(status.success());
                    DataEvent::Down { incarnation, certified: true }
                }
            };
            // An error says that the control plane has ended.
            let _ = events.send(event).await;
        }
    }

    fn begin(
        self: &Arc<Self>,
        incarnation: IncarnationId,
        stream: std::os::unix::net::UnixStream,
        events: &mpsc::Sender<DataEvent>,
    ) -> std::io::Result<()> {
        let (sender, receiver) = link::open(UnixStream::from_std(stream)?);
        let waiting = Arc::new(Mutex::new(Some(Waiting::new())));
        let life = Life { incarnation, sender, waiting };
        *lock(&self.life) = Some(life.clone());
        tokio::spawn(self.clone().read(life, receiver, events.clone()));
        Ok(())
    }

    async fn read(
        self: Arc<Self>,
        life: Life,
        mut receiver: LinkReceiver<DataToControl>,
        events: mpsc::Sender<DataEvent>,
    ) {
        while let Some(message) = receiver.recv().await {
            if let Some(data_to_control::Message::Stopped(_)) = message.message {
                self.stopped(true);
                continue;
            }
            if message.reply_to == 0 {
                if events.send(DataEvent::Message(Box::new(message))).await.is_err() {
                    return;
                }
                continue;
            }
            let asked = lock(&life.waiting).as_mut().and_then(|w| w.remove(&message.reply_to));
            if let (Some(asked), Some(answer)) = (asked, message.message) {
                // Who asked may have given up.
                let _ = asked.send(answer);
            }
        }
        self.end(life.incarnation);
        let down = DataEvent::Down { incarnation: life.incarnation, certified: false };
        // An error says that the control plane has ended.
        let _ = events.send(down).await;
    }

    /// Answers whoever asked to stop; with `cleanly` false, that there will be no answer.
    fn stopped(&self, cleanly: bool) {
        let Some(asked) = lock(&self.stopping).take() else { return };
        if cleanly {
            // Who asked may have given up.
            let _ = asked.send(data_to_control::Message::Stopped(StopOrder {}));
        }
    }

    fn end(&self, incarnation: IncarnationId) {
        let ended = lock(&self.life).take_if(|life| life.incarnation == incarnation);
        if let Some(life) = ended {
            // Dropping the senders answers everybody who waits.
            lock(&life.waiting).take();
        }
    }
}

#[async_trait]
impl DataLink for ChildLink {
    async fn send(&self, message: control_to_data::Message) -> Result<(), LinkDown> {
        let life = self.life()?;
        self.put(&life, 0, message).await
    }

    async fn request(
        &self,
        message: control_to_data::Message,
        deadline: Duration,
    ) -> Result<data_to_control::Message, LinkDown> {
        let life = self.life()?;
        let number = self.next_request.fetch_add(1, Ordering::Relaxed);
        let (answer, answered) = oneshot::channel();
        if let control_to_data::Message::Stop(_) = message {
            *lock(&self.stopping) = Some(answer);
            self.put(&life, 0, message).await?;
            return match timeout(deadline, answered).await {
                Ok(answer) => answer.map_err(|_| LinkDown::Down),
                Err(_) => Err(LinkDown::NoAnswer),
            };
        }
        lock(&life.waiting).as_mut().ok_or(LinkDown::Down)?.insert(number, answer);
        let _slot = Slot { waiting: &life.waiting, number };
        let asking = async {
            self.put(&life, number, message).await?;
            answered.await.map_err(|_| LinkDown::Down)
        };
        timeout(deadline, asking).await.unwrap_or(Err(LinkDown::NoAnswer))
    }
}

/// Forgets a request when whoever asked is done, or gave up.
struct Slot<'a> {
    waiting: &'a Mutex<Option<Waiting>>,
    number: u64,
}

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        if let Some(waiting) = lock(self.waiting).as_mut() {
            waiting.remove(&self.number);
        }
    }
}

#[cfg(test)]
mod tests;
