//! Holds an import back while the copies do not keep up (F113).
//!
//! The members are asked every few seconds whether enough copies are healthy and close. While they
//! are not, the gate in front of the lanes is closed; what is under way is finished. An import that
//! has waited for too long in all stops, and the same command continues it.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use keelson_client::Admin;
use keelson_cluster_core::guarantee::{CallerPacing, CallerStep, Guarantee};
use keelson_wire::v1::{GuaranteeRequest, GuaranteeResponse};
use tokio::sync::watch;
use tokio::time::Instant;

use super::pipeline::lock;
use super::report::Report;
use crate::failure::{Exit, Failure, Outcome};

/// Whether the lanes may write.
pub(super) type Gate = watch::Sender<bool>;

/// Who is asked, about what, and how patiently.
#[derive(Clone)]
pub(super) struct Pace {
    admin: Admin,
    database: String,
    pacing: CallerPacing,
}

impl Pace {
    /// Waits for `max_wait` at most, in all.
    ///
    /// # Errors
    /// `bad_argument` if that is longer than 7 days.
    pub(super) fn new(admin: Admin, database: &str, max_wait: Duration) -> Outcome<Self> {
        let pacing = CallerPacing { max_wait, ..CallerPacing::default() };
        pacing.validate().map_err(|refusal| Failure::new(refusal.reason, refusal.message))?;
        Ok(Self { admin, database: database.into(), pacing })
    }

    /// Opens and closes the gate as long as the import runs; ends only if it has waited too long.
    pub(super) async fn keep(self, gate: Gate, report: Arc<Mutex<Report>>) -> Failure {
        let (mut waited, mut turn) = (Duration::ZERO, None::<Instant>);
        loop {
            let (answer, why) = self.ask().await;
            let stalled = turn.map_or(Duration::ZERO, |since| since.elapsed());
            let left = self.pacing.max_wait.saturating_sub(waited + stalled);
            let pause = match self.pacing.after_health(&answer, stalled, waited + stalled) {
                CallerStep::Proceed(pause) => {
                    (waited, turn) = (waited + stalled, None);
                    lock(&report, Report::goes_on);
                    gate.send_replace(true);
                    pause
                }
                CallerStep::Stall(pause) => {
                    turn.get_or_insert_with(Instant::now);
                    pause.min(left)
                }
                CallerStep::Requeue(pause) => {
                    (waited, turn) = (waited + stalled, Some(Instant::now()));
                    pause.min(left)
                }
                CallerStep::GiveUp => return self.gives_up(&why),
            };
            if turn.is_some() {
                gate.send_replace(false);
                lock(&report, |report| report.waits(&why));
            }
            tokio::time::sleep(pause).await;
        }
    }

    /// The answer, and what speaks against writing on.
    async fn ask(&self) -> (Guarantee, String) {
        let request =
            GuaranteeRequest { database: self.database.clone(), ..GuaranteeRequest::default() };
        match self.admin.guarantee_health(request).await {
            Ok(response) => read(&response),
            // Members fail over and restart: that is no answer yet.
            Err(error) => (Guarantee::Retry(Vec::new()), error.message),
        }
    }

    fn gives_up(&self, why: &str) -> Failure {
        let waited = humantime::format_duration(self.pacing.max_wait);
        Failure {
            code: "guarantee_not_satisfied".into(),
            message: format!("the copies did not keep up for {waited}: {why}"),
            hint: "keelson copy status shows the queues; --guarantee-wait waits longer, \
                   --no-guarantee does not ask"
                .into(),
            exit: Exit::Failed,
        }
    }
}

fn read(response: &GuaranteeResponse) -> (Guarantee, String) {
    let reasons: Vec<_> = response
        .objections
        .iter()
        .map(|objection| match objection.member.as_str() {
            "" => objection.reason.clone(),
            member => format!("{member}: {}", objection.reason),
        })
        .collect();
    let why = format!("{} ({})", response.constraint, reasons.join("; "));
    let answer = match response.answer.as_str() {
        "satisfied" => Guarantee::Satisfied,
        "not_satisfied" => Guarantee::NotSatisfied(Vec::new()),
        _ => Guarantee::Retry(Vec::new()),
    };
    (answer, why)
}

/// A lane's side of the gate: whether to write on. Waits while the gate is closed; false once
/// nobody holds it, because the import has stopped.
pub(super) async fn may_write(gate: &mut watch::Receiver<bool>) -> bool {
    gate.wait_for(|open| *open).await.is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use keelson_wire::v1::GuaranteeObjection;

    #[test]
    fn reasons_name_their_member_and_unknown_answers_are_no_answer() {
        let response = |answer: &str| GuaranteeResponse {
            answer: answer.into(),
            constraint: "second_copy".into(),
            objections: vec![
                GuaranteeObjection { member: "m2".into(), reason: "is suspended".into() },
                GuaranteeObjection { member: String::new(), reason: "has one copy".into() },
            ],
        };
        let (answer, why) = read(&response("not_satisfied"));
        assert_eq!(answer, Guarantee::NotSatisfied(Vec::new()));
        assert_eq!(why, "second_copy (m2: is suspended; has one copy)");
        assert_eq!(read(&response("satisfied")).0, Guarantee::Satisfied);
        assert_eq!(read(&response("of a newer version")).0, Guarantee::Retry(Vec::new()));
    }

    #[tokio::test]
    async fn a_closed_gate_holds_a_lane_and_one_that_is_gone_ends_it() {
        let (gate, mut lane) = watch::channel(false);
        let waiting = tokio::spawn(async move { (may_write(&mut lane).await, lane) });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        gate.send_replace(true);
        let (open, mut lane) = waiting.await.unwrap();
        gate.send_replace(false);
        drop(gate);
        assert!(open && !may_write(&mut lane).await);
    }
}
