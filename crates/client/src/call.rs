//! The one loop that every call to a database goes through: find the active, try, judge, wait,
//! again.
//!
//! Invariants: a call ends within its deadline; an address named in a refusal is tried at once (a
//! few times, then with waits), and one that names nobody is asked once more, because members keep
//! requests for a database that is on its way; a write whose outcome is open ends with
//! `outcome_unknown` and never with a reason that sounds as if nothing had happened.
//!
//! A try that gets no answer is not waited for blindly: now and then the topology is asked, and
//! when the database has moved away from the silent member the try is given up (a paused process
//! keeps its connections open).

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use keelson_net::PeerChannel;
use keelson_types::RefusalReason;
use keelson_wire::v1::kv_client::KvClient;
use tokio::time::{Instant, sleep_until};
use tonic::{Response, Status};

use crate::ClientError;
use crate::backoff::Backoff;
use crate::client::Shared;
use crate::error::Failure;
use crate::topology::Lookup;

/// How many redirects in a row are followed without waiting.
const REDIRECTS_AT_ONCE: u32 = 3;

/// How long a try may be silent before the topology is asked whether the database has moved.
const SILENCE: Duration = Duration::from_millis(400);

/// A try with less time than this is not begun: it could hardly be answered, and an unanswered
/// write has an unknown outcome.
const TRY_MIN: Duration = Duration::from_millis(50);

/// How long a database that nobody knows is looked for: a member may not have heard of it yet.
const UNKNOWN_GRACE: Duration = Duration::from_secs(1);

/// How long a dismounted database is waited for: it may be on its way to another member.
const DISMOUNTED_GRACE: Duration = Duration::from_secs(3);

/// What may be retried.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Retry {
    /// Has no effect.
    Read,
    /// Applies once however often it is sent, or may apply twice.
    Write,
}

/// How a call ended, and whether a write may have been applied.
pub(crate) struct Ended {
    pub(crate) error: ClientError,
    /// Some try may have had an effect, apart from what the last answer says.
    pub(crate) open: bool,
}

impl From<ClientError> for Ended {
    /// Nothing was sent.
    fn from(error: ClientError) -> Self {
        Self { error, open: false }
    }
}

impl From<Ended> for ClientError {
    fn from(ended: Ended) -> Self {
        ended.error
    }
}

struct Progress {
    started: Instant,
    deadline: Instant,
    backoff: Backoff,
    redirects: u32,
    /// The member that named nobody was asked once more.
    asked_again: bool,
    open: bool,
    last: Option<ClientError>,
}

/// Calls the active copy of `database`. `attempt` gets a client and the time the try has.
pub(crate) async fn call<T, F, Fut>(
    shared: &Shared,
    database: &str,
    retry: Retry,
    attempt: F,
) -> Result<T, Ended>
where
    F: Fn(KvClient<PeerChannel>, Duration) -> Fut,
    Fut: Future<Output = Result<Response<T>, Status>>,
{
    let started = Instant::now();
    let mut progress = Progress {
        started,
        deadline: started + shared.options.deadline,
        backoff: Backoff::new(),
        redirects: 0,
        asked_again: false,
        open: false,
        last: None,
    };
    loop {
        let located = locate(shared, database, &mut progress).await;
        let Some(address) = located.map_err(|error| progress.end(retry, error))? else {
            progress.wait(retry).await?;
            continue;
        };
        match one_try(shared, database, &address, progress.deadline, &attempt).await {
            Ok(answer) => {
                shared.warm(database);
                return Ok(answer);
            }
            Err(failure) => {
                if progress.may_go_on(shared, database, &address, retry, &failure) {
                    progress.after(shared, database, &address, retry, failure).await?;
                } else {
                    return Err(progress.end(retry, failure.error));
                }
            }
        }
    }
}

/// Where to try next; `None` if nobody serves the database at the moment.
async fn locate(
    shared: &Shared,
    database: &str,
    progress: &mut Progress,
) -> Result<Option<Arc<str>>, ClientError> {
    if let Lookup::At(address) = shared.topology.lookup(database) {
        return Ok(Some(address));
    }
    let fetched =
        tokio::time::timeout_at(progress.deadline, shared.topology.refresh(&shared.pool)).await;
    let found = shared.topology.lookup(database);
    if let (Lookup::Unknown, Ok(Ok(()))) = (&found, &fetched)
        && let Some(judge) = shared.topology.judge_of_unknown()
    {
        return Ok(Some(judge));
    }
    match (found, fetched) {
        (Lookup::At(address), _) => Ok(Some(address)),
        (_, Ok(Err(error))) if error.is_retryable() => {
            progress.last = Some(error);
            Ok(None)
        }
        (_, Ok(Err(error))) => Err(error),
        (Lookup::Unknown, Ok(Ok(()))) if progress.started.elapsed() > UNKNOWN_GRACE => {
            Err(ClientError::new(
                RefusalReason::UnknownDatabase,
                format!("there is no database {database}"),
            ))
        }
        (Lookup::Dismounted, Ok(Ok(()))) if progress.started.elapsed() > DISMOUNTED_GRACE => {
            Err(ClientError::new(
                RefusalReason::Dismounted,
                format!("{database} was dismounted by an operator"),
            ))
        }
        _ => Ok(None),
    }
}

async fn one_try<T, F, Fut>(
    shared: &Shared,
    database: &str,
    address: &str,
    deadline: Instant,
    attempt: &F,
) -> Result<T, Failure>
where
    F: Fn(KvClient<PeerChannel>, Duration) -> Fut,
    Fut: Future<Output = Result<Response<T>, Status>>,
{
    let kv = shared.pool.kv(address);
    let now = Instant::now();
    let limit = deadline.min(now + shared.options.per_try);
    let mut answer = pin!(attempt(kv, limit - now));
    let judge = |answer: Result<Response<T>, Status>| match answer {
        Ok(response) => Ok(response.into_inner()),
        Err(status) => Err(Failure::of(&status, address)),
    };
    loop {
        let check = limit.min(Instant::now() + SILENCE);
        tokio::select! {
            biased;
            answer = &mut answer => return judge(answer),
            () = sleep_until(check) => {}
        }
        if Instant::now() >= limit {
            return Err(Failure::given_up(format!("{address} did not answer in time")));
        }
        tokio::select! {
            biased;
            answer = &mut answer => return judge(answer),
            _ = shared.topology.refresh(&shared.pool) => {}
        }
        if !matches!(shared.topology.lookup(database), Lookup::At(now) if &*now == address) {
            return Err(Failure::given_up(format!("{database} moved away from {address}")));
        }
    }
}

impl Progress {
    /// Whether another try makes sense and is allowed.
    fn may_go_on(
        &mut self,
        shared: &Shared,
        database: &str,
        address: &str,
        retry: Retry,
        failure: &Failure,
    ) -> bool {
        self.open |= !failure.without_effect && retry != Retry::Read;
        let age = self.started.elapsed();
        match failure.error.reason {
            // The member serves it a moment after the cluster has assigned it.
            RefusalReason::UnknownDatabase => {
                shared.topology.forget(database, address);
                age < UNKNOWN_GRACE
            }
            RefusalReason::Dismounted => age < DISMOUNTED_GRACE,
            RefusalReason::DiskFull => false,
            // Of this member: the others say where the database goes, and if none of them has a
            // better one, asking them ends the call.
            RefusalReason::BadCertificate => true,
            _ => failure.error.is_retryable(),
        }
    }

    /// Draws the consequences of a failed try and waits as long as they ask for.
    async fn after(
        &mut self,
        shared: &Shared,
        database: &str,
        address: &str,
        retry: Retry,
        failure: Failure,
    ) -> Result<(), Ended> {
        let elsewhere = failure.address.as_deref().filter(|other| *other != address);
        let overloaded = failure.error.reason == RefusalReason::Overloaded;
        let moving = failure.error.reason == RefusalReason::NotActive;
        self.last = Some(failure.error);
        if let Some(other) = elsewhere {
            shared.topology.note_active(database, other);
            self.redirects += 1;
            if self.redirects <= REDIRECTS_AT_ONCE {
                return Ok(());
            }
        } else if moving && !std::mem::replace(&mut self.asked_again, true) {
            // Who gives a database away keeps the next request until it knows where to.
            return Ok(());
        } else if !overloaded {
            self.redirects = 0;
            self.asked_again = false;
            shared.topology.forget(database, address);
        }
        self.wait(retry).await
    }

    async fn wait(&mut self, retry: Retry) -> Result<(), Ended> {
        let until = Instant::now() + self.backoff.next_wait();
        if until + TRY_MIN >= self.deadline {
            let error = self.last.take().unwrap_or_else(|| {
                ClientError::new(RefusalReason::NoLeader, "no member serves the database")
            });
            return Err(self.end(retry, error));
        }
        sleep_until(until).await;
        Ok(())
    }

    /// The final word, once no further try is made.
    fn end(&self, retry: Retry, error: ClientError) -> Ended {
        let open = self.open;
        let certain = !error.is_retryable() && error.reason != RefusalReason::Internal;
        let tried = self.started.elapsed().as_millis();
        if retry == Retry::Read || !open || certain {
            let message = match error.is_retryable() {
                true => format!("gave up after {tried} ms: {}", error.message),
                false => error.message,
            };
            return Ended { error: ClientError { message, ..error }, open };
        }
        let message = format!(
            "whether the write was applied is not known after {tried} ms: {}",
            error.message
        );
        Ended { error: ClientError::new(RefusalReason::OutcomeUnknown, message), open }
    }
}
