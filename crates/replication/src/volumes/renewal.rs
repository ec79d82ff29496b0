//! An operator replaced the disk of a volume that failed: the empty directory becomes a volume
//! again, a spare if no link leads to it.

use std::path::Path;
use std::sync::Arc;

use keelson_types::{RefusalReason, VolumeState};
use keelson_wire::Refusal;

use super::book::{self, Entry, Found};
use super::{MemberVolumes, lock};

fn refused(message: String) -> Refusal {
    Refusal::new(RefusalReason::Precondition, message)
}

impl MemberVolumes {
    /// Takes an empty directory as a new volume, or checks only whether it would. Blocks.
    ///
    /// # Errors
    /// `bad_argument` for a directory that the configuration does not name, `precondition` for a
    /// volume that works, or one that is not empty.
    pub(crate) fn renew(&self, path: &str, what_if: bool) -> Result<(), Refusal> {
        let root = Path::new(path);
        let _acting = lock(&self.acting);
        let state = self.known_state(root);
        let (Some(of), Some(state)) = (&self.of, state) else {
            let message = format!("the configuration of this member names no volume {path:?}");
            return Err(Refusal::new(RefusalReason::BadArgument, message));
        };
        if !state.is_lost() {
            return Err(refused(format!("volume {path} is {state}: nothing is to be replaced")));
        }
        if self.is_waited_for(root) {
            let text = "a test of it waits for the old disk still; start the member again";
            return Err(refused(format!("{path}: {text}")));
        }
        let in_book = lock(&self.known).of(root).and_then(|v| Some(v.entry.as_ref()?.volume));
        let marked = match book::look(root, of.member) {
            Found::Empty => None,
            // An earlier try came so far.
            Found::Ours(id) if Some(id) != in_book && book::holds_nothing(root) => Some(id),
            Found::Ours(volume) => {
                let text = format!("volume {volume} lies at {path}; mount the new disk there");
                return Err(refused(text));
            }
            Found::Absent(why) | Found::Broken(why) | Found::Unknown(why) => {
                return Err(refused(format!("{path} is no empty directory: {why}")));
            }
        };
        if what_if {
            return Ok(());
        }
        let spare = lock(&self.known).copies_on(root) == 0;
        let id = match marked {
            Some(id) => id,
            None => book::mark(&*of.disk, root, of.member).map_err(refused)?,
        };
        let entries = {
            let table = lock(&self.known);
            let listed_spare = table.of(root).is_some_and(|volume| volume.listed_spare);
            let mut entries = table.entries();
            entries.retain(|entry| Path::new(&entry.path) != root);
            entries.push(Entry::new(root, id, spare, listed_spare));
            entries
        };
        self.save(of, entries.clone()).map_err(refused)?;
        let mut table = lock(&self.known);
        table.publish(entries);
        if let Some(volume) = table.of_mut(root) {
            (volume.strikes, volume.absent, volume.why) = (0, false, String::new());
        }
        tracing::info!(volume = path, %id, spare, "the disk of a volume was replaced");
        Ok(())
    }

    /// Whether a thread hangs there.
    pub(super) fn is_waited_for(&self, root: &Path) -> bool {
        let table = lock(&self.known);
        table.of(root).is_some_and(|volume| Arc::strong_count(&volume.probing) > 1)
    }

    fn known_state(&self, root: &Path) -> Option<VolumeState> {
        let table = lock(&self.known);
        table.of(root).filter(|volume| volume.configured).map(super::Known::state)
    }
}
