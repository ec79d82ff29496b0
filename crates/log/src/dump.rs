//! Offline listing of a log directory, for operators: generations, frames, records, damage.

use std::io::{self, Write};
use std::path::Path;

use keelson_env::Disk;
use keelson_format::{Chunk, Item};
use keelson_types::{Position, Record, SessionRecord};

use crate::files::generation_path;
use crate::verify::{GenerationReport, disk_with_log, verify};
use crate::{Damage, Evidence, LogError, VerifyReport};

/// What [`dump`] lists.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct DumpOptions {
    /// One JSON object per line instead of a table.
    pub json: bool,
    /// Lists frames.
    pub frames: bool,
    /// Lists records (keys and lengths, not values) below their frames; implies frames.
    pub records: bool,
}

/// Why a dump stopped.
#[derive(Debug, thiserror::Error)]
pub enum DumpError {
    /// The log cannot be read.
    #[error("cannot read the log")]
    Log(#[from] LogError),
    /// The output cannot be written.
    #[error("cannot write the listing")]
    Output(#[from] io::Error),
}

impl From<keelson_env::DiskError> for DumpError {
    fn from(error: keelson_env::DiskError) -> Self {
        Self::Log(error.into())
    }
}

/// Lists the log in a directory of the real disk, opened for reading only, and returns what
/// verification found.
///
/// # Errors
/// [`DumpError`], also if the directory has no generation; damage is no error.
pub fn dump_dir(
    directory: &Path,
    options: DumpOptions,
    out: &mut dyn Write,
) -> Result<VerifyReport, DumpError> {
    dump(&disk_with_log(directory)?, directory, options, out)
}

/// Lists the log in a directory and returns what verification found.
///
/// # Errors
/// [`DumpError`]; damage is no error.
pub fn dump(
    disk: &dyn Disk,
    directory: &Path,
    options: DumpOptions,
    out: &mut dyn Write,
) -> Result<VerifyReport, DumpError> {
    let report = verify(disk, directory)?;
    if !options.json {
        writeln!(
            out,
            "{:>16} {:>8} {:>8} {:>10} {:>10} {:>10} {:<8} {:<20}",
            "GENERATION", "FRAMES", "RECORDS", "END", "FILE", "SEQUENCE", "EPOCH", "CREATED MS"
        )?;
    }
    for generation in &report.generations {
        print_generation(generation, options, out)?;
        if options.frames || options.records {
            print_frames(disk, directory, generation, options, out)?;
        }
    }
    for damage in &report.damages {
        print_damage(damage, options, out)?;
    }
    print_summary(&report, options, out)?;
    Ok(report)
}

fn print_generation(
    found: &GenerationReport,
    options: DumpOptions,
    out: &mut dyn Write,
) -> io::Result<()> {
    let GenerationReport { generation, frames, records, file_bytes, end, .. } = found;
    let (sequence, epoch, created) = match &found.header {
        Some(h) => (h.last_sequence + 1, h.epoch.to_string(), h.created_at.unix_millis()),
        None => (0, "?".to_owned(), 0),
    };
    let end = end.offset;
    if options.json {
        let stream = found.header.map(|h| h.stream.to_string()).unwrap_or_default();
        writeln!(
            out,
            "{{\"kind\":\"generation\",\"generation\":{},\"stream\":\"{stream}\",\
             \"epoch\":\"{epoch}\",\"frames\":{frames},\"records\":{records},\
             \"end_bytes\":{end},\"file_bytes\":{file_bytes},\"first_sequence\":{sequence},\
             \"created_unix_ms\":{created}}}",
            generation.0
        )
    } else {
        let generation = format!("{:x}", generation.0);
        writeln!(
            out,
            "{generation:>16} {frames:>8} {records:>8} {end:>10} {file_bytes:>10} \
             {sequence:>10} {epoch:<8} {created:<20}"
        )
    }
}

fn print_frames(
    disk: &dyn Disk,
    directory: &Path,
    found: &GenerationReport,
    options: DumpOptions,
    out: &mut dyn Write,
) -> Result<(), DumpError> {
    let file = disk.open(&generation_path(directory, found.generation))?;
    let mut bytes = vec![0; usize::try_from(found.end.offset).unwrap_or(0)];
    let count = file.read_at(0, &mut bytes)?;
    bytes.truncate(count);
    let chunk = Chunk::new(Position { offset: 0, ..found.end }, bytes.into());
    for item in chunk.items() {
        let Ok(Item::Frame(frame)) = item else { continue };
        print_frame(&frame.header, options, out)?;
        if !options.records {
            continue;
        }
        match frame.decode() {
            Ok(decoded) => {
                for (index, record) in decoded.records.iter().enumerate() {
                    let sequence = decoded.first_sequence + index as u64;
                    print_record(sequence, record, options, out)?;
                }
            }
            Err(error) if options.json => {
                writeln!(out, "{{\"kind\":\"undecodable\",\"code\":\"{}\"}}", error.code())?;
            }
            Err(error) => writeln!(out, "      {error}")?,
        }
    }
    Ok(())
}

fn print_frame(
    frame: &keelson_format::FrameHeader,
    options: DumpOptions,
    out: &mut dyn Write,
) -> io::Result<()> {
    let (at, end) = (frame.position, frame.end());
    let (records, sequence) = (frame.record_count, frame.first_sequence);
    if options.json {
        writeln!(
            out,
            "{{\"kind\":\"frame\",\"position\":\"{at}\",\"end\":\"{end}\",\"epoch\":\"{}\",\
             \"records\":{records},\"first_sequence\":{sequence},\"time_unix_ms\":{},\
             \"stored_bytes\":{},\"raw_bytes\":{},\"committed\":\"{}\",\"durable\":\"{}\",\
             \"chain\":\"{:08x}\"}}",
            frame.epoch,
            frame.time.unix_millis(),
            frame.stored_bytes,
            frame.raw_bytes,
            frame.committed,
            frame.durable,
            frame.chain
        )
    } else {
        writeln!(
            out,
            "    {at} -> {end}  records {records} from {sequence}  time {}  bytes {}/{}  \
             committed {}  durable {}  chain {:08x}",
            frame.time,
            frame.stored_bytes,
            frame.raw_bytes,
            frame.committed,
            frame.durable,
            frame.chain
        )
    }
}

/// Type and subject of a record, in words.
fn describe(record: &Record) -> (&'static str, String) {
    match record {
        Record::Put { key, value } => {
            ("put", format!("{} = {} bytes", key.escape_ascii(), value.len()))
        }
        Record::Delete { key } => ("delete", key.escape_ascii().to_string()),
        Record::DeleteRange { from, to } => {
            ("delete_range", format!("{} .. {}", from.escape_ascii(), to.escape_ascii()))
        }
        Record::Session { session, change } => {
            let change = match change {
                SessionRecord::Open => "open".to_owned(),
                SessionRecord::Applied { sequence, lowest_unanswered } => {
                    format!("applied {sequence}, unanswered from {lowest_unanswered}")
                }
                SessionRecord::Expire => "expire".to_owned(),
            };
            ("session", format!("{session} {change}"))
        }
        Record::Opening { epoch } => ("opening", epoch.to_string()),
        Record::DigestMarker { id } => ("digest_marker", id.to_string()),
        Record::RestorePoint { name } => ("restore_point", name.escape_default().to_string()),
        Record::NoOp => ("no_op", String::new()),
        Record::Schema { body } => ("schema", format!("{} bytes", body.len())),
    }
}

fn print_record(
    sequence: u64,
    record: &Record,
    options: DumpOptions,
    out: &mut dyn Write,
) -> io::Result<()> {
    let (kind, subject) = describe(record);
    if options.json {
        let subject = json_text(&subject);
        writeln!(
            out,
            "{{\"kind\":\"record\",\"sequence\":{sequence},\"type\":\"{kind}\",\
             \"subject\":{subject}}}"
        )
    } else {
        writeln!(out, "      {sequence} {kind} {subject}")
    }
}

fn print_damage(damage: &Damage, options: DumpOptions, out: &mut dyn Write) -> io::Result<()> {
    let code = damage.kind.code();
    if !options.json {
        return writeln!(out, "DAMAGE {code} {damage}");
    }
    let evidence = match damage.evidence {
        Evidence::LaterFrame { .. } => "later_frame",
        Evidence::Floor(_) => "floor",
        Evidence::Closed => "closed",
    };
    let text = json_text(&damage.to_string());
    writeln!(
        out,
        "{{\"kind\":\"damage\",\"position\":\"{}\",\"code\":\"{code}\",\
         \"evidence\":\"{evidence}\",\"text\":{text}}}",
        damage.position
    )
}

fn print_summary(
    report: &VerifyReport,
    options: DumpOptions,
    out: &mut dyn Write,
) -> io::Result<()> {
    let frames: u64 = report.generations.iter().map(|generation| generation.frames).sum();
    let records: u64 = report.generations.iter().map(|generation| generation.records).sum();
    let torn = report.torn_from;
    if options.json {
        let torn = torn.map_or("null".to_owned(), |torn| format!("\"{torn}\""));
        return writeln!(
            out,
            "{{\"kind\":\"summary\",\"generations\":{},\"frames\":{frames},\
             \"records\":{records},\"end\":\"{}\",\"torn_from\":{torn},\
             \"bytes_behind_end\":{},\"damages\":{}}}",
            report.generations.len(),
            report.end,
            report.bytes_behind,
            report.damages.len()
        );
    }
    let mut torn = torn.map_or(String::new(), |torn| format!(", torn tail from {torn}"));
    if report.bytes_behind > 0 {
        torn += &format!(", {} bytes behind the end that are not zero", report.bytes_behind);
    }
    writeln!(
        out,
        "{} generations, {frames} frames, {records} records, end {}, {} damaged places{torn}",
        report.generations.len(),
        report.end,
        report.damages.len()
    )
}

/// A JSON string.
fn json_text(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            c if c < ' ' => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}
