//! Visits the web console as a browser does: over TLS, with the cluster's authority, with cookies,
//! without following anything by itself.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use ureq::Agent;
use ureq::http::{Request, Response};
use ureq::tls::{Certificate, RootCerts, TlsConfig};

/// An answer that takes longer hangs.
const PATIENCE: Duration = Duration::from_secs(60);

/// A page, or whatever was answered instead.
#[derive(Clone, Debug)]
pub struct Visit {
    /// HTTP status.
    pub status: u16,
    /// Headers by their names in lower case; several of one name in one line each.
    pub headers: BTreeMap<String, String>,
    /// The document.
    pub body: String,
}

impl Visit {
    /// Where the answer leads to; empty if nowhere.
    #[must_use]
    pub fn location(&self) -> &str {
        self.headers.get("location").map(String::as_str).unwrap_or_default()
    }

    /// The value of the first field of this name.
    #[must_use]
    pub fn field(&self, name: &str) -> Option<&str> {
        let after = self.body.split_once(&format!("name=\"{name}\" value=\""))?.1;
        after.split_once('"').map(|(value, _)| value)
    }
}

/// One visitor with its cookies.
#[derive(Debug)]
pub struct Browser {
    agent: Agent,
    base: String,
    cookies: BTreeMap<String, String>,
}

impl Browser {
    /// A visitor of the site at `address` who trusts the authority in the PEM file `ca`.
    ///
    /// # Errors
    /// The file cannot be read, or is no certificate.
    pub fn new(address: &str, ca: &Path) -> Result<Self> {
        let pem = std::fs::read(ca).with_context(|| format!("cannot read {}", ca.display()))?;
        let authority = Certificate::from_pem(&pem)?;
        let tls = TlsConfig::builder().root_certs(RootCerts::new_with_certs(&[authority])).build();
        let config = Agent::config_builder()
            .tls_config(tls)
            .http_status_as_error(false)
            .max_redirects(0)
            .timeout_global(Some(PATIENCE));
        let base = format!("https://{address}");
        Ok(Self { agent: config.build().into(), base, cookies: BTreeMap::new() })
    }

    /// A page.
    ///
    /// # Errors
    /// No answer.
    pub async fn get(&mut self, path: &str) -> Result<Visit> {
        self.send("GET", path, String::new(), &[]).await
    }

    /// Sends a form as the page it stands on does.
    ///
    /// # Errors
    /// No answer.
    pub async fn post(&mut self, path: &str, fields: &[(&str, &str)]) -> Result<Visit> {
        let origin = self.base.clone();
        self.post_from(path, fields, &[("origin", origin.as_str())]).await
    }

    /// Sends a form with these headers.
    ///
    /// # Errors
    /// No answer.
    pub async fn post_from(
        &mut self,
        path: &str,
        fields: &[(&str, &str)],
        headers: &[(&str, &str)],
    ) -> Result<Visit> {
        let pairs: Vec<_> =
            fields.iter().map(|(name, value)| format!("{name}={}", escaped(value))).collect();
        self.send("POST", path, pairs.join("&"), headers).await
    }

    /// Logs in with a token.
    ///
    /// # Errors
    /// No answer.
    pub async fn log_in(&mut self, token: &str) -> Result<Visit> {
        let form = self.get("/login").await?;
        let word = form.field("csrf").context("the form has no word")?.to_owned();
        self.post("/login", &[("csrf", &word), ("token", token)]).await
    }

    /// The cookies that it has.
    #[must_use]
    pub fn cookies(&self) -> &BTreeMap<String, String> {
        &self.cookies
    }

    async fn send(
        &mut self,
        method: &str,
        path: &str,
        body: String,
        headers: &[(&str, &str)],
    ) -> Result<Visit> {
        let cookies: Vec<_> =
            self.cookies.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.base))
            .header("content-type", "application/x-www-form-urlencoded")
            .header("cookie", cookies.join("; "));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (agent, request) = (self.agent.clone(), request.body(body)?);
        let answered = tokio::task::spawn_blocking(move || read(agent.run(request)?)).await??;
        for cookie in answered.headers.get("set-cookie").into_iter().flat_map(|all| all.lines()) {
            self.keep(cookie);
        }
        Ok(answered)
    }

    fn keep(&mut self, cookie: &str) {
        let Some((name, value)) = cookie.split(';').next().and_then(|pair| pair.split_once('='))
        else {
            return;
        };
        match value {
            "" => self.cookies.remove(name),
            value => self.cookies.insert(name.to_owned(), value.to_owned()),
        };
    }
}

fn read(mut response: Response<ureq::Body>) -> Result<Visit> {
    let mut headers = BTreeMap::<String, String>::new();
    for (name, value) in response.headers() {
        let line = headers.entry(name.to_string()).or_default();
        if !line.is_empty() {
            line.push('\n');
        }
        line.push_str(value.to_str().unwrap_or_default());
    }
    let status = response.status().as_u16();
    let body = response.body_mut().read_to_string()?;
    Ok(Visit { status, headers, body })
}

fn escaped(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    let escape = |byte: u8| match plain(byte) {
        true => char::from(byte).to_string(),
        false => format!("%{byte:02X}"),
    };
    text.bytes().map(escape).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_are_escaped_and_fields_are_found() {
        assert_eq!(escaped("a b&c=ä"), "a%20b%26c%3D%C3%A4");
        let body = "<input name=\"csrf\" value=\"w0rd\">".to_owned();
        let visit = Visit { status: 200, headers: BTreeMap::new(), body };
        assert_eq!((visit.field("csrf"), visit.field("token")), (Some("w0rd"), None));
    }
}
