//! The audit of a member on its own disk: a bounded number of files of JSON lines, written by one
//! thread.
//!
//! Nobody waits for it: a line that does not fit into the queue is dropped and counted, so a disk
//! that hangs or is full stops no call. Whatever waits is written and synced together. Lines of
//! the moment before a crash of the machine may be missing; a torn last line is ended by the next
//! start.

mod files;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use keelson_types::{AuditKind, AuditLine};
use tokio::sync::oneshot;

use files::Files;

/// Lines that wait for the disk; a second of more than anybody asks.
const QUEUE: usize = 1024;

/// Lines that are synced together.
const BATCH: usize = 256;

/// How long a reader or a stop waits for what was noted before.
const FLUSH_PATIENCE: Duration = Duration::from_secs(2);

/// Pause while the queue is full.
const FULL_PAUSE: Duration = Duration::from_millis(5);

/// A disk that takes no lines is complained of once in this time.
const COMPLAIN_EVERY: Duration = Duration::from_secs(60);

/// Where the audit lies, and how much of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AuditSettings {
    /// Directory of `audit.log`, `audit.log.1`, ...
    pub directory: PathBuf,
    /// A file that has so many bytes is followed by a new one.
    pub file_bytes: u64,
    /// Files that are kept, the one that is written among them.
    pub files: usize,
}

/// What happened to lines since the process began.
#[derive(Debug, Default)]
struct Counts {
    written: AtomicU64,
    dropped: AtomicU64,
}

enum Work {
    Line(Box<AuditLine>),
    /// Answers once everything before it was tried.
    Flush(oneshot::Sender<()>),
}

/// The audit of this member; clones are the same.
#[derive(Clone)]
pub struct AuditLog {
    settings: AuditSettings,
    queue: SyncSender<Work>,
    counts: Arc<Counts>,
}

impl fmt::Debug for AuditLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuditLog").field("counts", &self.counts).finish_non_exhaustive()
    }
}

impl AuditLog {
    /// Starts the thread that writes; it opens the files when the first line comes, and ends with
    /// the last clone.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn start(settings: AuditSettings) -> std::io::Result<Self> {
        let (queue, work) = sync_channel(QUEUE);
        let counts = Arc::<Counts>::default();
        let writer =
            Writer { files: Files::new(&settings), counts: counts.clone(), complained: None };
        std::thread::Builder::new()
            .name("keelson-audit".into())
            .spawn(move || writer.run(&work))?;
        Ok(Self { settings, queue, counts })
    }

    /// Writes a line, sooner or later.
    pub fn note(&self, line: AuditLine) {
        if self.queue.try_send(Work::Line(Box::new(line))).is_err() {
            self.counts.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Waits until what was noted before is written, but not for long.
    pub async fn flush(&self) {
        let flushing = async {
            loop {
                let (written, all_written) = oneshot::channel();
                if self.queue.try_send(Work::Flush(written)).is_ok() {
                    // An error says that the thread is gone, and nobody writes any more.
                    return drop(all_written.await);
                }
                tokio::time::sleep(FULL_PAUSE).await;
            }
        };
        // A disk that hangs has what it has.
        let _ = tokio::time::timeout(FLUSH_PATIENCE, flushing).await;
    }

    /// The newest lines as they stand in the files, oldest of them first; of access only, if
    /// changes are left out.
    ///
    /// # Errors
    /// The files cannot be read.
    pub async fn newest(&self, limit: usize, access_only: bool) -> std::io::Result<Vec<String>> {
        self.flush().await;
        let settings = self.settings.clone();
        let wanted = move |line: &AuditLine| !access_only || line.kind != AuditKind::Change;
        let reading = tokio::task::spawn_blocking(move || files::newest(&settings, limit, wanted));
        reading.await.map_err(std::io::Error::other)?
    }

    /// Lines written, and lines dropped, since the process began.
    #[must_use]
    pub fn counts(&self) -> (u64, u64) {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        (read(&self.counts.written), read(&self.counts.dropped))
    }
}

/// The thread's own state.
struct Writer {
    files: Files,
    counts: Arc<Counts>,
    complained: Option<Instant>,
}

impl Writer {
    fn run(mut self, work: &Receiver<Work>) {
        while let Ok(first) = work.recv() {
            let (mut lines, mut flushes) = (Vec::new(), Vec::new());
            for one in std::iter::once(first).chain(work.try_iter().take(BATCH - 1)) {
                match one {
                    Work::Line(line) => lines.push(line),
                    Work::Flush(answer) => flushes.push(answer),
                }
            }
            self.write(&lines);
            for answer in flushes {
                // Whoever asked may have given up.
                let _ = answer.send(());
            }
        }
    }

    fn write(&mut self, lines: &[Box<AuditLine>]) {
        let count = lines.len() as u64;
        match self.files.append(lines.iter().map(|line| &**line)) {
            Ok(()) => drop(self.counts.written.fetch_add(count, Ordering::Relaxed)),
            Err(error) => {
                self.counts.dropped.fetch_add(count, Ordering::Relaxed);
                if self.complained.is_none_or(|last| last.elapsed() >= COMPLAIN_EVERY) {
                    tracing::warn!(%error, "lines of the audit are lost");
                    self.complained = Some(Instant::now());
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(dir: &tempfile::TempDir) -> AuditSettings {
        AuditSettings { directory: dir.path().to_owned(), file_bytes: 1 << 20, files: 3 }
    }

    fn line(number: usize) -> AuditLine {
        AuditLine { by: "ann".into(), call: format!("c{number}"), ..AuditLine::default() }
    }

    #[tokio::test]
    async fn what_was_noted_is_read_back_also_by_the_next_process() {
        let dir = tempfile::tempdir().unwrap();
        let log = AuditLog::start(settings(&dir)).unwrap();
        (0..300).for_each(|number| log.note(line(number)));
        let newest = log.newest(2, false).await.unwrap();
        let read: Vec<AuditLine> =
            newest.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(read, [line(298), line(299)]);
        assert_eq!(log.counts(), (300, 0));
        let again = AuditLog::start(settings(&dir)).unwrap();
        again.note(line(300));
        assert_eq!(again.newest(1000, false).await.unwrap().len(), 301);
    }

    #[tokio::test]
    async fn a_disk_that_takes_nothing_costs_lines_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let gone = AuditSettings { directory: dir.path().join("not there"), ..settings(&dir) };
        let log = AuditLog::start(gone.clone()).unwrap();
        (0..5_000).for_each(|number| log.note(line(number)));
        log.flush().await;
        assert_eq!(log.counts(), (0, 5_000));
        std::fs::create_dir(&gone.directory).unwrap();
        log.note(line(1));
        assert_eq!(log.newest(10, false).await.unwrap().len(), 1, "it goes on when the disk does");
        log.note(AuditLine { kind: AuditKind::Login, ..line(2) });
        (3..9).for_each(|number| log.note(line(number)));
        assert_eq!(log.newest(1, true).await.unwrap().len(), 1, "behind changes");
    }

    #[test]
    fn a_thread_that_hangs_makes_nobody_wait() {
        let dir = tempfile::tempdir().unwrap();
        let (queue, _nobody_reads) = sync_channel(QUEUE);
        let log = AuditLog { settings: settings(&dir), queue, counts: Arc::default() };
        (0..QUEUE + 7).for_each(|number| log.note(line(number)));
        assert_eq!(log.counts(), (0, 7));
    }

    #[test]
    fn a_line_of_another_version_is_still_read() {
        let line: AuditLine = serde_json::from_str(r#"{"by": "ann", "new": 1}"#).unwrap();
        assert_eq!(line, AuditLine { by: "ann".into(), ..AuditLine::default() });
    }
}
