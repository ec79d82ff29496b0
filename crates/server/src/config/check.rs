//! `keelson config check`: the strict check, which lists everything that is wrong at once.

use std::fs::File;
use std::path::Path;
use std::time::SystemTime;

use keelson_net::{TlsError, TlsFiles, TlsIdentity};
use keelson_types::{MemberName, RefusalReason};

use super::{Config, Parsed, read};
use crate::Problem;

/// A certificate that expires sooner is worth a warning.
const EXPIRY_WARNING_DAYS: u64 = 30;

/// What `keelson config check` prints.
#[derive(Debug)]
pub struct Report {
    /// The checked configuration.
    pub config: Config,
    /// What is allowed and yet worth a look.
    pub warnings: Vec<String>,
}

/// Checks a file strictly: unknown keys are errors, and the TLS files must be usable now.
///
/// # Errors
/// The problem, with its own code if it is the only one; else `bad_configuration` with all of them,
/// one line each.
pub fn check(path: &Path) -> Result<Report, Problem> {
    let text = read(path)?;
    let parsed = Parsed::of(path, &text);
    let mut problems: Vec<_> = parsed.problems.iter().map(|text| bad(path, text)).collect();
    problems.extend(unknown_keys(path, &parsed.unknown));
    problems.extend(parsed.config.as_ref().and_then(collector));
    let identity = parsed.tls.as_ref().and_then(|files| usable(files, &mut problems));
    if let (Some(identity), Some(files), Some(name)) = (&identity, &parsed.tls, &parsed.name) {
        problems.extend(check_certificate(files, name, identity.own()).err());
    }
    match (parsed.config, identity) {
        (Some(config), Some(identity)) if problems.is_empty() => {
            let warnings = warnings(&config, &identity);
            Ok(Report { config, warnings })
        }
        _ => Err(together(path, problems)),
    }
}

fn bad(path: &Path, problem: &str) -> Problem {
    let message = format!("configuration {}: {problem}", path.display());
    let hint = "keelson config explain tells what each key means and allows";
    Problem::new(RefusalReason::BadConfiguration.code().0, message, hint)
}

fn unknown_keys(path: &Path, unknown: &[String]) -> Option<Problem> {
    let first = unknown.first()?;
    let hint = format!("remove {first:?}, or see keelson config explain for the right name");
    let mut problem = bad(path, &format!("unknown keys: {}", unknown.join(", ")));
    problem.hint = hint;
    Some(problem)
}

/// The identity in the files. Every file that cannot be read is named; of unusable contents only
/// the first can be, because each check needs what the one before it found.
fn usable(files: &TlsFiles, problems: &mut Vec<Problem>) -> Option<TlsIdentity> {
    let all = [("authority", &files.ca), ("certificate", &files.cert), ("key", &files.key)];
    let before = problems.len();
    for (what, path) in all {
        if let Err(source) = File::open(path) {
            problems.push(TlsError::Missing { what, path: path.clone(), source }.into());
        }
    }
    if problems.len() > before {
        return None;
    }
    files.load().map_err(|error| problems.push(error.into())).ok()
}

/// The authority of the collector of traces must be readable, too; a member serves without it.
fn collector(config: &Config) -> Option<Problem> {
    let path = config.telemetry()?.ca().filter(|ca| *ca != config.tls().ca)?;
    let source = File::open(path).err()?;
    let what = "authority of the collector";
    Some(TlsError::Missing { what, path: path.to_owned(), source }.into())
}

/// The certificate must be this member's.
pub(crate) fn check_certificate(
    files: &TlsFiles,
    name: &MemberName,
    own: &keelson_net::PeerIdentity,
) -> Result<(), Problem> {
    if own.role == keelson_net::Role::Member && own.name == name.as_str() {
        return Ok(());
    }
    let cert = files.cert.display();
    let message = format!("certificate {cert} is for {own}, not for member {name}");
    let hint = format!("keelson certs issue member {name} makes the right one");
    Err(Problem::new(RefusalReason::BadCertificate.code().0, message, hint))
}

fn warnings(config: &Config, identity: &TlsIdentity) -> Vec<String> {
    let mut warnings = Vec::new();
    let volumes = !config.volumes().volumes.is_empty();
    if config.log_dir() == config.data_dir() && !volumes {
        warnings.push(
            "log_dir and data_dir share a disk; a disk of its own makes commits faster".into(),
        );
    }
    let left = identity.not_after().duration_since(SystemTime::now());
    let days = left.map_or(0, |left| left.as_secs() / (24 * 3600));
    if days < EXPIRY_WARNING_DAYS {
        warnings.push(format!("the certificate expires in {days} days"));
    }
    warnings
}

/// One problem as it is; several as one.
fn together(path: &Path, mut problems: Vec<Problem>) -> Problem {
    if problems.len() == 1
        && let Some(only) = problems.pop()
    {
        return only;
    }
    let prefix = format!("configuration {}: ", path.display());
    let lines = problems.iter().map(|problem| {
        let text = problem.message.strip_prefix(&prefix).unwrap_or(&problem.message);
        format!("\n  {text}")
    });
    let lines: String = lines.collect();
    bad(path, &format!("{} problems:{lines}", problems.len()))
}
