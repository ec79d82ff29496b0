//! Dedicated threads for blocking work, shared by all databases of a process.
//!
//! A [`Lane`] is a queue of jobs of one kind for one database. At most one thread works on a lane
//! at a time, in order, and it takes everything that waits at once: that is what makes group
//! commit. A lane without jobs costs nothing but its memory. The number of jobs in a lane is
//! bounded by its owner, which counts what it has in flight.
//!
//! A handler may hand jobs back that cannot be done yet; they come again after a pause, before what
//! was pushed meanwhile, and no thread waits for them.
//!
//! A job that panics takes its lane down, not the thread: the lane drops what waits and whatever is
//! pushed later, and says so once.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use keelson_types::Tick;

use crate::gate::boottime_now;

/// After this, jobs that were handed back come again.
const AGAIN_AFTER: Duration = Duration::from_millis(10);

/// Since when a lane has had work without finishing a batch of it. Shared with whoever watches.
#[derive(Clone, Debug, Default)]
pub(crate) struct BusyClock(Arc<AtomicU64>);

impl BusyClock {
    /// Nothing while there is no work.
    pub(crate) fn busy_since(&self) -> Option<Tick> {
        Some(Tick(self.0.load(Ordering::Relaxed))).filter(|since| *since != Tick(0))
    }

    fn progress(&self, goes_on: bool) {
        let since = if goes_on { boottime_now() } else { Tick(0) };
        self.0.store(since.0, Ordering::Relaxed);
    }
}

/// Something that has work when it is scheduled.
trait Runnable: Send + Sync {
    fn run(self: Arc<Self>, pool: &PoolShared);
}

struct PoolShared {
    ready: Mutex<Ready>,
    work: Condvar,
}

#[derive(Default)]
struct Ready {
    queue: VecDeque<Arc<dyn Runnable>>,
    /// What comes again, the earliest first: the pause is always the same.
    later: VecDeque<(Instant, Arc<dyn Runnable>)>,
    stopping: bool,
}

impl Ready {
    /// What may run now, else how long to wait for something.
    fn next(&mut self) -> Result<Arc<dyn Runnable>, Option<Duration>> {
        let left = self.later.front().map(|(at, _)| at.saturating_duration_since(Instant::now()));
        if left == Some(Duration::ZERO) {
            let due = self.later.pop_front().map(|(_, runnable)| runnable);
            self.queue.extend(due);
        }
        self.queue.pop_front().ok_or(left)
    }
}

impl PoolShared {
    fn schedule(&self, runnable: Arc<dyn Runnable>) {
        lock(&self.ready).queue.push_back(runnable);
        self.work.notify_one();
    }

    fn schedule_again(&self, runnable: Arc<dyn Runnable>) {
        lock(&self.ready).later.push_back((Instant::now() + AGAIN_AFTER, runnable));
        // Whoever sleeps without an end must learn of it.
        self.work.notify_one();
    }

    fn work(&self) {
        loop {
            let mut ready = lock(&self.ready);
            let next = loop {
                let left = match ready.next() {
                    Ok(next) => break next,
                    // What comes again later is given up.
                    Err(_) if ready.stopping => return,
                    Err(left) => left,
                };
                ready = match left {
                    None => self.work.wait(ready).unwrap_or_else(PoisonError::into_inner),
                    Some(left) => {
                        let waited = self.work.wait_timeout(ready, left);
                        waited.unwrap_or_else(PoisonError::into_inner).0
                    }
                };
            };
            drop(ready);
            next.run(self);
        }
    }
}

/// A fixed number of threads. Dropping the last handle lets them finish what waits and end.
pub struct Pool {
    shared: Arc<PoolShared>,
    threads: Vec<JoinHandle<()>>,
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool").field("threads", &self.threads.len()).finish_non_exhaustive()
    }
}

impl Pool {
    /// Starts `threads` threads with this name.
    ///
    /// # Errors
    /// The system's, if a thread cannot be started.
    pub fn start(name: &str, threads: usize) -> std::io::Result<Self> {
        Self::start_with(name, threads, || {})
    }

    /// The same with threads that do `first` before any work.
    ///
    /// # Errors
    /// As for [`Self::start`].
    pub fn start_with(name: &str, threads: usize, first: fn()) -> std::io::Result<Self> {
        let ready = Mutex::new(Ready::default());
        let shared = Arc::new(PoolShared { ready, work: Condvar::new() });
        let spawn = |index| {
            let shared = shared.clone();
            std::thread::Builder::new().name(format!("{name}-{index}")).spawn(move || {
                first();
                shared.work();
            })
        };
        let threads = (0..threads).map(spawn).collect::<Result<_, _>>()?;
        Ok(Self { shared, threads })
    }

    /// A lane whose jobs `handler` works on, batch by batch; `panicked` is called if it panics.
    pub fn lane<J: Send + 'static>(
        &self,
        mut handler: impl FnMut(Vec<J>) + Send + 'static,
        panicked: impl FnOnce() + Send + 'static,
    ) -> Lane<J> {
        let all = move |jobs| {
            handler(jobs);
            Vec::new()
        };
        self.patient_lane(all, panicked)
    }

    /// [`Self::lane`] with a clock that says since when it makes no progress.
    pub(crate) fn watched_lane<J: Send + 'static>(
        &self,
        mut handler: impl FnMut(Vec<J>) + Send + 'static,
        panicked: impl FnOnce() + Send + 'static,
        clock: BusyClock,
    ) -> Lane<J> {
        let all = move |jobs| {
            handler(jobs);
            Vec::new()
        };
        self.new_lane(all, panicked, Some(clock))
    }

    /// The same; what `handler` hands back, and all that is pushed meanwhile, comes again soon.
    pub fn patient_lane<J: Send + 'static>(
        &self,
        handler: impl FnMut(Vec<J>) -> Vec<J> + Send + 'static,
        panicked: impl FnOnce() + Send + 'static,
    ) -> Lane<J> {
        self.new_lane(handler, panicked, None)
    }

    fn new_lane<J: Send + 'static>(
        &self,
        handler: impl FnMut(Vec<J>) -> Vec<J> + Send + 'static,
        panicked: impl FnOnce() + Send + 'static,
        clock: Option<BusyClock>,
    ) -> Lane<J> {
        let inner = LaneInner {
            clock,
            jobs: Mutex::new(LaneJobs { waiting: Vec::new(), scheduled: false, dead: false }),
            work: Mutex::new(Some(LaneWork {
                handler: Box::new(handler),
                panicked: Box::new(panicked),
            })),
        };
        Lane { pool: self.shared.clone(), inner: Arc::new(inner) }
    }

    /// Runs one job, in no order with others.
    pub fn run(&self, job: impl FnOnce() + Send + 'static) {
        let once = Once(Mutex::new(Some(Box::new(job))));
        self.shared.schedule(Arc::new(once));
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        let given_up = {
            let mut ready = lock(&self.shared.ready);
            ready.stopping = true;
            std::mem::take(&mut ready.later)
        };
        drop(given_up);
        self.shared.work.notify_all();
        let me = std::thread::current().id();
        for thread in self.threads.drain(..).filter(|t| t.thread().id() != me) {
            // A panic in a job was reported by the panic hook already.
            let _ = thread.join();
        }
    }
}

struct LaneWork<J> {
    handler: Box<dyn FnMut(Vec<J>) -> Vec<J> + Send>,
    panicked: Box<dyn FnOnce() + Send>,
}

struct LaneInner<J> {
    clock: Option<BusyClock>,
    jobs: Mutex<LaneJobs<J>>,
    /// Gone once the handler panicked.
    work: Mutex<Option<LaneWork<J>>>,
}

struct LaneJobs<J> {
    waiting: Vec<J>,
    scheduled: bool,
    dead: bool,
}

impl<J> LaneInner<J> {
    /// Gives back what cannot be done yet.
    fn handle(&self, batch: Vec<J>) -> Vec<J> {
        let mut slot = lock(&self.work);
        let Some(work) = slot.as_mut() else { return Vec::new() };
        if let Ok(left) = catch_unwind(AssertUnwindSafe(|| (work.handler)(batch))) {
            return left;
        }
        let mut jobs = lock(&self.jobs);
        jobs.dead = true;
        jobs.waiting.clear();
        drop(jobs);
        if let Some(work) = slot.take() {
            (work.panicked)();
        }
        Vec::new()
    }
}

impl<J: Send + 'static> Runnable for LaneInner<J> {
    fn run(self: Arc<Self>, pool: &PoolShared) {
        let batch = std::mem::take(&mut lock(&self.jobs).waiting);
        let mut left = if batch.is_empty() { batch } else { self.handle(batch) };
        let mut jobs = lock(&self.jobs);
        if let Some(clock) = &self.clock {
            clock.progress(!left.is_empty() || !jobs.waiting.is_empty());
        }
        if !left.is_empty() {
            left.append(&mut jobs.waiting);
            jobs.waiting = left;
            drop(jobs);
            pool.schedule_again(self);
        } else if jobs.waiting.is_empty() {
            jobs.scheduled = false;
        } else {
            // Behind the others: one busy database must not starve the rest.
            drop(jobs);
            pool.schedule(self);
        }
    }
}

/// A handle to a lane.
pub struct Lane<J> {
    pool: Arc<PoolShared>,
    inner: Arc<LaneInner<J>>,
}

impl<J> Clone for Lane<J> {
    fn clone(&self) -> Self {
        Self { pool: self.pool.clone(), inner: self.inner.clone() }
    }
}

impl<J> std::fmt::Debug for Lane<J> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lane").finish_non_exhaustive()
    }
}

impl<J: Send + 'static> Lane<J> {
    /// Adds a job behind the others.
    pub fn push(&self, job: J) {
        let mut jobs = lock(&self.inner.jobs);
        if jobs.dead {
            return;
        }
        jobs.waiting.push(job);
        if !std::mem::replace(&mut jobs.scheduled, true) {
            if let Some(clock) = &self.inner.clock {
                clock.progress(true);
            }
            drop(jobs);
            self.pool.schedule(self.inner.clone());
        }
    }
}

struct Once(Mutex<Option<Box<dyn FnOnce() + Send>>>);

impl Runnable for Once {
    fn run(self: Arc<Self>, _pool: &PoolShared) {
        let job = lock(&self.0).take();
        if let Some(job) = job {
            // Reported by the panic hook; whoever waits for the job finds its answer dropped.
            let _ = catch_unwind(AssertUnwindSafe(job));
        }
    }
}

/// The sections are short and leave nothing half done, so a panic elsewhere does not spoil them.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::sync::mpsc;

    #[test]
    fn a_lane_keeps_order_and_takes_what_waits_at_once() {
        let pool = Pool::start("test", 3).expect("threads");
        let (done, results) = mpsc::channel();
        let (go, gate) = mpsc::channel::<()>();
        let mut first = true;
        let lane = pool.lane(
            move |batch: Vec<u32>| {
                if std::mem::take(&mut first) {
                    gate.recv().expect("opened");
                }
                done.send(batch).expect("receiver lives");
            },
            || {},
        );
        lane.push(0);
        let opened = results.recv_timeout(std::time::Duration::from_millis(1));
        assert!(opened.is_err(), "the handler waits for the gate");
        (1..100).for_each(|n| lane.push(n));
        go.send(()).expect("handler waits");
        let mut batches = Vec::new();
        while batches.iter().map(Vec::len).sum::<usize>() < 100 {
            batches.push(results.recv().expect("lane works"));
        }
        assert_eq!(batches.concat(), (0..100).collect::<Vec<_>>());
        assert!(batches.len() <= 3, "what waited was taken at once: {}", batches.len());
    }

    #[test]
    fn what_a_handler_hands_back_comes_again_first_and_takes_no_thread() {
        let pool = Pool::start("test", 1).expect("threads");
        let (done, results) = mpsc::channel();
        let (open, mut closed) = (Arc::new(AtomicBool::new(false)), 0);
        let gate = open.clone();
        let also = done.clone();
        let lane = pool.patient_lane(
            move |batch: Vec<u32>| {
                if gate.load(Ordering::SeqCst) {
                    batch.into_iter().for_each(|n| done.send(n).expect("receiver lives"));
                    return Vec::new();
                }
                closed += 1;
                if closed == 2 {
                    done.send(100).expect("receiver lives");
                }
                batch
            },
            || {},
        );
        lane.push(0);
        assert_eq!(results.recv(), Ok(100), "asked a second time");
        lane.push(1);
        pool.run(move || also.send(200).expect("receiver lives"));
        assert_eq!(results.recv(), Ok(200), "the only thread waits for nobody");
        open.store(true, Ordering::SeqCst);
        assert_eq!(results.iter().take(2).collect::<Vec<_>>(), [0, 1]);
    }

    #[test]
    fn a_clock_says_since_when_a_lane_makes_no_progress() {
        let pool = Pool::start("test", 1).expect("threads");
        let (go, gate) = mpsc::channel::<()>();
        let (done, results) = mpsc::channel();
        let clock = BusyClock::default();
        let work = move |batch: Vec<u32>| {
            gate.recv().expect("opened");
            done.send(batch).expect("receiver lives");
        };
        let lane = pool.watched_lane(work, || {}, clock.clone());
        assert_eq!(clock.busy_since(), None);
        lane.push(0);
        let first = clock.busy_since();
        assert!(first.is_some_and(|since| since <= boottime_now()));
        go.send(()).expect("handler waits");
        assert_eq!(results.recv(), Ok(vec![0]));
        lane.push(1);
        let second = clock.busy_since();
        assert!(second >= first, "{second:?} after {first:?}");
        go.send(()).expect("handler waits");
        assert_eq!(results.recv(), Ok(vec![1]));
        drop((lane, pool));
        assert_eq!(clock.busy_since(), None, "nothing is left to do");
    }

    #[test]
    fn a_panic_ends_its_lane_and_nothing_else() {
        let pool = Pool::start("test", 1).expect("threads");
        let (done, results) = mpsc::channel();
        let (said, panicked) = mpsc::channel();
        let broken = pool.lane(
            |_: Vec<u32>| panic!("on purpose"),
            move || said.send(()).expect("receiver lives"),
        );
        broken.push(1);
        panicked.recv().expect("told");
        broken.push(2);
        pool.run(|| panic!("on purpose"));
        pool.run(move || done.send(3).expect("receiver lives"));
        assert_eq!(results.recv(), Ok(3), "the only thread lives on");
        assert!(panicked.recv().is_err(), "told once, and the handler is gone");
    }

    #[test]
    fn dropping_the_pool_finishes_what_waits() {
        let pool = Pool::start("test", 2).expect("threads");
        let (done, results) = mpsc::channel();
        for n in 0..50 {
            let done = done.clone();
            pool.run(move || done.send(n).expect("receiver lives"));
        }
        drop((pool, done));
        assert_eq!(results.iter().count(), 50);
    }
}
