//! Asks members for metrics and consoles from this machine, as Prometheus and a browser would: with
//! `curl`, over TLS, with what the volumes of the cluster hold.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use super::{Stack, output};
use crate::workspace::find_program;

/// Who asks, with an identity of the cluster in a folder of its own.
pub(super) struct Visitor {
    folder: PathBuf,
    identity: &'static str,
}

impl Visitor {
    /// Takes an identity out of its volume. None, and a line that says so, where curl is missing.
    pub(super) fn new(stack: &Stack, identity: &'static str) -> Result<Option<Self>> {
        if find_program("curl").is_none() {
            println!("compose test: curl is missing, so NOBODY ASKED for this: {identity}");
            return Ok(None);
        }
        let name = format!("keelson-visitor-{identity}-{}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&folder)?;
        stack.take_identity(identity, &folder)?;
        Ok(Some(Self { folder, identity }))
    }

    /// The metrics of a member at an address, with a certificate or without one.
    pub(super) fn metrics(&self, member: &str, at: &str, certificate: bool) -> Result<String> {
        let mut command = self.curl();
        if certificate {
            command.args(["--cert", &self.file(&format!("{}.pem", self.identity))]);
            command.args(["--key", &self.file(&format!("{}.key", self.identity))]);
        }
        command.args(["--fail", "--connect-to", &format!("{member}:7402:{at}:7402")]);
        output(command.arg(format!("https://{member}:7402/metrics")))
    }

    /// Sends the form of the login page with a token; the HTTP status that answers.
    pub(super) fn log_in(&self, site: &str, token: &str) -> Result<String> {
        let form = output(self.browser().arg(format!("{site}/login")))?;
        let after = form.split_once("name=\"csrf\" value=\"").context("no word in the form")?.1;
        let word = after.split('"').next().unwrap_or_default();
        let fields = [format!("csrf={word}"), format!("token={}", token.trim())];
        let mut command = self.browser();
        command.args(["--header", &format!("Origin: {site}"), "--output", "/dev/null"]);
        command.args(["--write-out", "%{http_code}"]);
        for field in &fields {
            command.args(["--data-urlencode", field]);
        }
        output(command.arg(format!("{site}/login")))
    }

    /// The first page as whoever is logged in sees it, or the form of the login.
    pub(super) fn page(&self, site: &str) -> Result<String> {
        output(self.browser().args(["--location", &format!("{site}/")]))
    }

    /// Keeps cookies from one call to the next.
    fn browser(&self) -> Command {
        let jar = self.file("cookies");
        let mut command = self.curl();
        command.args(["--cookie", &jar, "--cookie-jar", &jar]);
        command
    }

    fn curl(&self) -> Command {
        let mut command = Command::new("curl");
        command.args(["--silent", "--show-error", "--cacert", &self.file("ca.pem")]);
        command
    }

    fn file(&self, name: &str) -> String {
        self.folder.join(name).display().to_string()
    }
}

impl Drop for Visitor {
    fn drop(&mut self) {
        // A key that may do no more than its cluster, which is about to go.
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}
