//! Who was refused for who they are, told to the audit: in a bounded number of lines, whatever
//! somebody sends.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use keelson_types::{AuditKind, AuditLine, AuditRepeats, RefusalReason};
use keelson_wire::Refusal;
use prost::Message;
use prost_types::FileDescriptorSet;

use crate::PeerIdentity;

/// How often minutes that are over are looked for.
const LOOK: Duration = Duration::from_secs(5);

/// Every call that exists, as `Kv.Get`: others are told by no name that a caller chose.
pub(crate) static CALLS: LazyLock<BTreeSet<String>> = LazyLock::new(|| {
    let set = FileDescriptorSet::decode(keelson_wire::DESCRIPTORS).unwrap_or_default();
    let services = set.file.iter().flat_map(|file| &file.service);
    let calls = services.flat_map(|service| {
        service.method.iter().map(|method| format!("{}.{}", service.name(), method.name()))
    });
    calls.collect()
});

/// Takes lines for the audit, folds those that repeat, and hands on what is left. Clones are the
/// same.
#[derive(Clone)]
pub struct RefusedCalls(Arc<Shared>);

struct Shared {
    repeats: Mutex<AuditRepeats>,
    write: Box<dyn Fn(AuditLine) + Send + Sync>,
}

impl fmt::Debug for RefusedCalls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RefusedCalls")
    }
}

impl RefusedCalls {
    /// `write` must not wait: it is called where calls are refused.
    #[must_use]
    pub fn new(write: impl Fn(AuditLine) + Send + Sync + 'static) -> Self {
        Self(Arc::new(Shared { repeats: Mutex::default(), write: Box::new(write) }))
    }

    /// Takes a line, as of now.
    pub fn note(&self, line: AuditLine) {
        let line = AuditLine { unix_millis: unix_millis(), ..line };
        if let Some(line) = self.repeats().note(line) {
            (self.0.write)(line);
        }
    }

    /// Hands on what was repeated, a minute later; ends never.
    pub async fn run(self) {
        loop {
            tokio::time::sleep(LOOK).await;
            self.look(unix_millis());
        }
    }

    fn look(&self, now: u64) {
        let due = self.repeats().due(now);
        due.into_iter().for_each(|line| (self.0.write)(line));
    }

    fn repeats(&self) -> std::sync::MutexGuard<'_, AuditRepeats> {
        self.0.repeats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the refusal of a call if it says something about the caller, and not about the moment.
    pub(crate) fn refused(&self, path: &str, caller: PeerIdentity, refusal: &Refusal) {
        use RefusalReason::{Forbidden, Unauthenticated, UnknownMember};
        if !matches!(refusal.reason, Forbidden | Unauthenticated | UnknownMember) {
            return;
        }
        let line = AuditLine {
            kind: AuditKind::Refused,
            call: call_of(path),
            outcome: refusal.reason.code().0.to_owned(),
            ..line_of(&caller)
        };
        // What a stranger sends is not repeated, only what was found wrong with it.
        let why = if caller.name.is_empty() { refusal.message.as_str() } else { "" };
        self.note(line.with_arguments(why));
    }
}

/// A line about a caller, for the rest to be filled in.
#[must_use]
pub fn line_of(caller: &PeerIdentity) -> AuditLine {
    AuditLine {
        unix_millis: unix_millis(),
        by: caller.name.clone(),
        role: caller.role.to_string(),
        by_token: caller.by_token,
        from: caller.address.map(|address| address.to_string()).unwrap_or_default(),
        times: 1,
        ..AuditLine::default()
    }
}

fn call_of(path: &str) -> String {
    let call = path.strip_prefix("/keelson.v1.").unwrap_or_default().replace('/', ".");
    if CALLS.contains(&call) { call } else { "no call of this version".into() }
}

fn unix_millis() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Role;

    fn kept() -> (RefusedCalls, Arc<Mutex<Vec<AuditLine>>>) {
        let lines = Arc::<Mutex<Vec<AuditLine>>>::default();
        let kept = lines.clone();
        (RefusedCalls::new(move |line| kept.lock().unwrap().push(line)), lines)
    }

    fn ann() -> PeerIdentity {
        let address = Some("10.0.0.1:4000".parse().unwrap());
        PeerIdentity { name: "ann".into(), role: Role::Reader, address, ..Default::default() }
    }

    #[test]
    fn a_refusal_for_the_role_is_told_and_its_repeats_are_counted() {
        let (refused, lines) = kept();
        let forbidden = Refusal::new(RefusalReason::Forbidden, "no");
        for _ in 0..50 {
            refused.refused("/keelson.v1.Kv/Put", ann(), &forbidden);
        }
        refused.look(unix_millis() + 61_000);
        let lines = lines.lock().unwrap();
        let told = |line: &AuditLine| (line.call.clone(), line.outcome.clone(), line.times);
        let expected = |times| ("Kv.Put".to_owned(), "forbidden".to_owned(), times);
        assert_eq!(lines.iter().map(told).collect::<Vec<_>>(), [expected(1), expected(49)]);
        let line = &lines[0];
        assert_eq!(
            (line.by.as_str(), line.role.as_str(), line.from.as_str()),
            ("ann", "reader", "10.0.0.1:4000")
        );
        assert_eq!(line.arguments, "");
    }

    #[test]
    fn names_that_a_caller_makes_up_are_not_told_apart() {
        let (refused, lines) = kept();
        let forbidden = Refusal::new(RefusalReason::Forbidden, "no");
        for number in 0..50 {
            refused.refused(&format!("/keelson.v1.Kv/Put{number}"), ann(), &forbidden);
        }
        let lines = lines.lock().unwrap();
        assert_eq!((lines.len(), lines[0].call.as_str()), (1, "no call of this version"));
    }

    #[test]
    fn what_says_nothing_about_the_caller_is_no_matter_of_the_audit() {
        let (refused, lines) = kept();
        for reason in [RefusalReason::NoLease, RefusalReason::Overloaded] {
            refused.refused("/keelson.v1.Kv/Put", ann(), &Refusal::new(reason, "later"));
        }
        assert!(lines.lock().unwrap().is_empty());
    }
}
