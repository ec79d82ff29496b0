//! Digests that copies took where they replayed a digest marker.

use std::collections::VecDeque;
use std::sync::Mutex;

use keelson_types::LogEnd;
use tokio::sync::watch;

/// Markers remembered per copy.
const MARKERS_MAX: usize = 16;

/// A digest and the position it belongs to, or why there is none.
pub(crate) type DigestResult = Result<(LogEnd, u128), String>;

/// The last few digests of one copy.
#[derive(Debug)]
pub(crate) struct Digests {
    /// Oldest first; the ids are random.
    taken: Mutex<VecDeque<(u64, DigestResult)>>,
    changed: watch::Sender<u64>,
}

impl Digests {
    pub(crate) fn new() -> Self {
        Self { taken: Mutex::default(), changed: watch::Sender::new(0) }
    }

    pub(crate) fn put(&self, id: u64, at: LogEnd, digest: Result<u128, String>) {
        let mut taken = self.taken.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        taken.push_back((id, digest.map(|digest| (at, digest))));
        while taken.len() > MARKERS_MAX {
            taken.pop_front();
        }
        drop(taken);
        self.changed.send_modify(|count| *count += 1);
    }

    fn get(&self, id: u64) -> Option<DigestResult> {
        let taken = self.taken.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        taken.iter().rev().find(|(taken, _)| *taken == id).map(|(_, result)| result.clone())
    }

    /// Waits for a digest; the caller bounds the wait.
    pub(crate) async fn wait(&self, id: u64) -> DigestResult {
        let mut changed = self.changed.subscribe();
        loop {
            if let Some(result) = self.get(id) {
                return result;
            }
            if changed.changed().await.is_err() {
                return Err("the copy was closed".into());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_waiter_gets_the_digest_of_its_marker_and_old_ones_are_forgotten() {
        let digests = Digests::new();
        // Ids fall, so that forgetting the smallest instead of the oldest is seen.
        (0..20).rev().for_each(|id| digests.put(id, LogEnd::ZERO, Ok(u128::from(id))));
        assert_eq!(digests.wait(0).await, Ok((LogEnd::ZERO, 0)));
        assert_eq!(digests.get(19), None);
    }
}
