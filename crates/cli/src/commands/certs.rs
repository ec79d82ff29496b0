//! `keelson certs`: the cluster's authority and the certificates it issues. Works on files only.
//!
//! Private keys are written with mode 0600; an existing file is never overwritten.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use keelson_net::Role;
use keelson_net::certs::{
    AUTHORITY_DAYS, Authority, CERTIFICATE_DAYS, CertRequest, CertsError, Validity,
};
use serde_json::json;

use crate::context::Global;
use crate::failure::{Exit, Failure, Outcome};
use crate::output;

#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// Make the authority of a new cluster
    Init(Init),
    /// Issue a certificate for a member or a client
    Issue(Issue),
    /// Show what a certificate says
    Show {
        /// PEM file
        file: PathBuf,
    },
}

#[derive(Args, Debug)]
pub(crate) struct Init {
    /// Directory for ca.pem and ca.key
    #[arg(long, default_value = ".")]
    dir: PathBuf,
    /// Name of the authority
    #[arg(long, default_value = "keelson")]
    name: String,
    /// Days that it is valid
    #[arg(long, default_value_t = AUTHORITY_DAYS)]
    days: u32,
}

/// What the certificate is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum For {
    /// A member; the name is the member's
    Member,
    /// A client with every right; the name is the user's
    Admin,
    /// Keeps the cluster running and sees no data
    Operator,
    /// Reads and writes data
    Writer,
    /// Reads data
    Reader,
    /// Reads metrics, nothing else
    Monitor,
}

#[derive(Args, Debug)]
pub(crate) struct Issue {
    /// What the certificate is for
    #[arg(value_enum)]
    purpose: For,
    /// Name of the member or user
    name: String,
    /// Directory of ca.pem and ca.key
    #[arg(long, default_value = ".", value_name = "DIR")]
    ca_dir: PathBuf,
    /// Directory for NAME.pem and NAME.key
    #[arg(long, default_value = ".")]
    dir: PathBuf,
    /// Host name or IP address at which a member is reached; may be repeated
    #[arg(long = "host")]
    hosts: Vec<String>,
    /// Database that a reader or writer may use; may be repeated; all if there is none
    #[arg(long = "database")]
    databases: Vec<String>,
    /// Days that it is valid
    #[arg(long, default_value_t = CERTIFICATE_DAYS)]
    days: u32,
    /// The same as a time, as 12h; for certificates that are replaced by a program
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    #[arg(conflicts_with = "days")]
    expires: Option<Duration>,
}

impl Command {
    pub(crate) fn run(self, global: &Global) -> Outcome {
        match self {
            Self::Init(init) => init.run(global),
            Self::Issue(issue) => issue.run(global),
            Self::Show { file } => show(global, &file),
        }
    }
}

impl Init {
    fn run(self, global: &Global) -> Outcome {
        let (cert, key) = (self.dir.join("ca.pem"), self.dir.join("ca.key"));
        let plan = format!("make an authority in {} and {}", cert.display(), key.display());
        if global.only_shows(&plan) {
            return Ok(());
        }
        make_directory(&self.dir)?;
        Authority::create(&self.name, Validity::days(self.days))
            .and_then(|authority| authority.write(&cert, &key))
            .map_err(|error| failed(&error))?;
        let sentence = format!(
            "made an authority: {} (give it to everybody), {} (keep it secret)",
            cert.display(),
            key.display()
        );
        output::print_done(global.output, &sentence, &json!({ "certificate": cert, "key": key }));
        Ok(())
    }
}

impl Issue {
    fn run(self, global: &Global) -> Outcome {
        let uses_data = matches!(self.purpose, For::Writer | For::Reader);
        if !uses_data && !self.databases.is_empty() {
            let hint = "leave it out; administrators and operators are for the whole cluster";
            return Err(Failure::usage("--database is for readers and writers", hint));
        }
        if self.purpose != For::Member && !self.hosts.is_empty() {
            return Err(Failure::usage("--host is for members", "leave it out for a client"));
        }
        let cert = self.dir.join(format!("{}.pem", self.name));
        let key = self.dir.join(format!("{}.key", self.name));
        if global.only_shows(&format!("issue {} and {}", cert.display(), key.display())) {
            return Ok(());
        }
        let request = match self.purpose {
            For::Member => CertRequest::member(&self.name, &self.hosts),
            For::Admin => CertRequest::admin(&self.name),
            For::Operator => CertRequest::client(&self.name, Role::Operator, Vec::new()),
            For::Writer => CertRequest::client(&self.name, Role::Writer, self.databases),
            For::Monitor => {
                CertRequest::client(&self.name, Role::Other("monitor".into()), Vec::new())
            }
            For::Reader => CertRequest::client(&self.name, Role::Reader, self.databases),
        };
        let validity = self.expires.map_or_else(|| Validity::days(self.days), Validity::lasting);
        make_directory(&self.dir)?;
        Authority::load(&self.ca_dir.join("ca.pem"), &self.ca_dir.join("ca.key"))
            .and_then(|authority| authority.issue(&request.valid(validity)))
            .and_then(|issued| issued.write(&cert, &key))
            .map_err(|error| failed(&error))?;
        let sentence = format!("issued {} with key {}", cert.display(), key.display());
        output::print_done(global.output, &sentence, &json!({ "certificate": cert, "key": key }));
        Ok(())
    }
}

fn show(global: &Global, file: &Path) -> Outcome {
    let info = keelson_net::certs::inspect(file).map_err(|error| failed(&error))?;
    let databases = match info.identity.databases.as_slice() {
        [] => "all".to_owned(),
        some => some.join(", "),
    };
    let rows = [
        ("name", info.identity.name.clone()),
        ("role", info.identity.role.to_string()),
        ("databases", databases),
        ("issuer", info.issuer.clone()),
        ("not before", info.not_before.clone()),
        ("not after", info.not_after.clone()),
        ("days left", info.days_left.to_string()),
    ];
    let data = json!({
        "name": info.identity.name,
        "role": info.identity.role.as_str(),
        "databases": info.identity.databases,
        "issuer": info.issuer,
        "not_before": info.not_before,
        "not_after": info.not_after,
        "days_left": info.days_left,
    });
    output::print_one(global.output, &rows, &data);
    Ok(())
}

fn make_directory(dir: &Path) -> Outcome {
    std::fs::create_dir_all(dir).map_err(|error| Failure::file(dir, &error))
}

fn failed(error: &CertsError) -> Failure {
    let cause = std::error::Error::source(error).map(|cause| format!(": {cause}"));
    Failure {
        code: error.code().into(),
        message: format!("{error}{}", cause.unwrap_or_default()),
        hint: error.hint().into(),
        exit: Exit::Refused,
    }
}
