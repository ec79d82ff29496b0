//! The files of the audit: append with one sync, follow a full file by a new one, read the end.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use keelson_types::AuditLine;
use serde::Serialize;

use super::AuditSettings;

/// A line as it is written: the time for people, too.
#[derive(Serialize)]
struct Written<'a> {
    time: String,
    #[serde(flatten)]
    line: &'a AuditLine,
}

/// `audit.log` for number 0, else `audit.log.1` for the one before, and so on.
fn path(directory: &Path, number: usize) -> PathBuf {
    directory.join(match number {
        0 => "audit.log".to_owned(),
        older => format!("audit.log.{older}"),
    })
}

/// The file that is written.
#[derive(Debug)]
struct Open {
    file: File,
    bytes: u64,
}

/// See the module's first line. After a failure the file is opened anew.
#[derive(Debug)]
pub(super) struct Files {
    settings: AuditSettings,
    open: Option<Open>,
}

impl Files {
    pub(super) fn new(settings: &AuditSettings) -> Self {
        Self { settings: settings.clone(), open: None }
    }

    /// Writes lines, and syncs them.
    ///
    /// # Errors
    /// Any failure of the file system; how much is on disk is unknown then.
    pub(super) fn append<'a>(
        &mut self,
        lines: impl Iterator<Item = &'a AuditLine>,
    ) -> io::Result<()> {
        let mut bytes = Vec::new();
        for line in lines {
            // Every line says when; a time before 1970 is none.
            let time = UNIX_EPOCH + Duration::from_millis(line.unix_millis);
            let time = humantime::format_rfc3339_millis(time).to_string();
            serde_json::to_writer(&mut bytes, &Written { time, line })?;
            bytes.push(b'\n');
        }
        if bytes.is_empty() {
            return Ok(());
        }
        let mut open = match self.open.take() {
            Some(open) => open,
            None => self.open()?,
        };
        if open.bytes > 0 && open.bytes + bytes.len() as u64 > self.settings.file_bytes {
            open = self.follow(open)?;
        }
        open.file.write_all(&bytes)?;
        open.file.sync_data()?;
        open.bytes += bytes.len() as u64;
        self.open = Some(open);
        Ok(())
    }

    /// Opens the newest file. A line that a crash tore is ended, so that the next one is whole.
    fn open(&self) -> io::Result<Open> {
        let path = path(&self.settings.directory, 0);
        let mut options = OpenOptions::new();
        let mut file = options.create(true).append(true).read(true).mode(0o600).open(path)?;
        let mut bytes = file.metadata()?.len();
        if bytes == 0 {
            File::open(&self.settings.directory)?.sync_all()?;
            return Ok(Open { file, bytes });
        }
        let mut last = [0];
        file.seek(SeekFrom::End(-1))?;
        file.read_exact(&mut last)?;
        if last != [b'\n'] {
            file.write_all(b"\n")?;
            bytes += 1;
        }
        Ok(Open { file, bytes })
    }

    /// Every file gets the next number; the oldest goes.
    fn follow(&self, full: Open) -> io::Result<Open> {
        drop(full);
        let directory = &self.settings.directory;
        let last = self.settings.files - 1;
        if last == 0 {
            std::fs::remove_file(path(directory, 0))?;
            return self.open();
        }
        for number in (0..last).rev() {
            match std::fs::rename(path(directory, number), path(directory, number + 1)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        // More were kept before the setting was lowered.
        for number in last + 1.. {
            if std::fs::remove_file(path(directory, number)).is_err() {
                break;
            }
        }
        self.open()
    }
}

/// The newest of the lines that are wanted, oldest of them first. No more than these are in
/// memory at a time, however large the files are.
pub(super) fn newest(
    settings: &AuditSettings,
    limit: usize,
    wanted: impl Fn(&AuditLine) -> bool,
) -> io::Result<Vec<String>> {
    let mut newest: Vec<String> = Vec::new();
    for number in 0..settings.files {
        if newest.len() >= limit {
            break;
        }
        let file = match File::open(path(&settings.directory, number)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            opened => opened?,
        };
        let (mut lines, room) = (VecDeque::new(), limit - newest.len());
        for line in BufReader::new(file).split(b'\n') {
            // What is torn or rotten is left out.
            let line = String::from_utf8(line?).unwrap_or_default();
            if serde_json::from_str::<AuditLine>(&line).is_ok_and(|read| wanted(&read)) {
                if lines.len() == room {
                    lines.pop_front();
                }
                lines.push_back(line);
            }
        }
        newest.splice(0..0, lines);
    }
    Ok(newest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(dir: &tempfile::TempDir, file_bytes: u64, files: usize) -> AuditSettings {
        AuditSettings { directory: dir.path().to_owned(), file_bytes, files }
    }

    fn line(number: u64) -> AuditLine {
        AuditLine { unix_millis: number, by: "ann".into(), ..AuditLine::default() }
    }

    fn times(lines: &[String]) -> Vec<u64> {
        let read = |line: &String| serde_json::from_str::<AuditLine>(line).unwrap().unix_millis;
        lines.iter().map(read).collect()
    }

    #[test]
    fn full_files_are_followed_by_new_ones_and_few_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let settings = settings(&dir, 1_000, 3);
        let mut files = Files::new(&settings);
        for number in 0..200 {
            files.append([line(number)].iter()).unwrap();
        }
        let mut names: Vec<_> = std::fs::read_dir(dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names, ["audit.log", "audit.log.1", "audit.log.2"]);
        for name in names {
            assert!(std::fs::metadata(dir.path().join(name)).unwrap().len() <= 1_000);
        }
        let all = times(&newest(&settings, 1_000, |_| true).unwrap());
        let first = 200 - all.len() as u64;
        assert_eq!(all, (first..200).collect::<Vec<_>>(), "no gap, in order");
        assert_eq!(times(&newest(&settings, 7, |_| true).unwrap()), (193..200).collect::<Vec<_>>());
        let even = |line: &AuditLine| line.unix_millis.is_multiple_of(2);
        assert_eq!(times(&newest(&settings, 3, even).unwrap()), [194, 196, 198]);
        let fewer = AuditSettings { files: 1, ..settings };
        let mut files = Files::new(&fewer);
        (200..220).for_each(|number| files.append([line(number)].iter()).unwrap());
        assert!(times(&newest(&fewer, 1_000, |_| true).unwrap()).ends_with(&[218, 219]));
    }

    #[test]
    fn a_torn_line_spoils_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let settings = settings(&dir, 1_000, 3);
        Files::new(&settings).append([line(1)].iter()).unwrap();
        let mut file = OpenOptions::new().append(true).open(path(dir.path(), 0)).unwrap();
        file.write_all(b"{\"by\": \"an").unwrap();
        Files::new(&settings).append([line(2)].iter()).unwrap();
        assert_eq!(times(&newest(&settings, 10, |_| true).unwrap()), [1, 2]);
    }

    #[test]
    fn a_line_tells_its_time_to_people_and_is_for_its_owner_only() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let settings = settings(&dir, 1_000, 3);
        Files::new(&settings).append([line(1_000)].iter()).unwrap();
        let text = std::fs::read_to_string(path(dir.path(), 0)).unwrap();
        assert!(text.starts_with("{\"time\":\"1970-01-01T00:00:01.000Z\""), "{text}");
        let mode = std::fs::metadata(path(dir.path(), 0)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}
