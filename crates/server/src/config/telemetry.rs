//! The table `[telemetry]`: where traces go, and how many.

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http::Uri;
use keelson_net::TlsFiles;

use super::Checks;
use super::raw::RawTelemetry;

/// A collector may take so long for what is sent to it.
const EXPORT_TIMEOUT: RangeInclusive<Duration> =
    Duration::from_millis(100)..=Duration::from_mins(1);

/// Shares are kept in millionths: a configuration is compared with another one.
const WHOLE: f64 = 1e6;

/// Export of traces; there is none without it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Telemetry {
    endpoint: String,
    sampling_millionths: u32,
    export_timeout: Duration,
    ca: Option<PathBuf>,
}

impl Telemetry {
    /// URL of the collector.
    #[must_use]
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Share of the traces that is exported, from 0 to 1.
    #[must_use]
    pub fn sampling_ratio(&self) -> f64 {
        f64::from(self.sampling_millionths) / WHOLE
    }

    /// How long one export may take.
    #[must_use]
    pub fn export_timeout(&self) -> Duration {
        self.export_timeout
    }

    /// The authority of a collector that is reached over TLS.
    #[must_use]
    pub fn ca(&self) -> Option<&Path> {
        self.ca.as_deref()
    }
}

impl Checks {
    /// Everything is checked, also while the endpoint is empty.
    pub(super) fn telemetry(
        &mut self,
        raw: &RawTelemetry,
        tls: Option<&TlsFiles>,
    ) -> Option<Telemetry> {
        let sampling_millionths = self.ratio(&raw.sampling_ratio);
        let export_timeout = self.export_timeout(&raw.export_timeout);
        let endpoint = raw.endpoint.as_deref().filter(|endpoint| !endpoint.is_empty())?;
        let protected = self.endpoint(endpoint)?;
        let own = raw.ca.as_ref().map(|ca| self.path(ca));
        let ca = own.or_else(|| tls.map(|tls| tls.ca.clone())).filter(|_| protected);
        Some(Telemetry {
            endpoint: endpoint.to_owned(),
            sampling_millionths: sampling_millionths?,
            export_timeout: export_timeout?,
            ca,
        })
    }

    /// Whether the collector is reached over TLS.
    fn endpoint(&mut self, text: &str) -> Option<bool> {
        let url = text.parse::<Uri>().ok().filter(|url| {
            let authority = url.authority();
            let plain = authority.is_some_and(|authority| !authority.as_str().contains('@'));
            let bare = url.path() == "/" && url.query().is_none();
            plain && bare && url.port_u16().is_some_and(|port| port > 0)
        });
        match url.as_ref().and_then(Uri::scheme_str) {
            Some("http") => Some(false),
            Some("https") => Some(true),
            _ => {
                self.problem(format!(
                    "telemetry.endpoint = {text:?} is neither http://host:port nor \
                     https://host:port"
                ));
                None
            }
        }
    }

    fn ratio(&mut self, text: &str) -> Option<u32> {
        match text.parse::<f64>() {
            // In range, so nothing is cut off.
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
            Ok(ratio) if (0.0..=1.0).contains(&ratio) => Some((ratio * WHOLE).round() as u32),
            _ => {
                self.problem(format!(
                    "telemetry.sampling_ratio = {text:?} is no number from 0 to 1"
                ));
                None
            }
        }
    }

    fn export_timeout(&mut self, text: &str) -> Option<Duration> {
        let parsed = humantime::parse_duration(text).ok();
        let allowed = parsed.filter(|timeout| EXPORT_TIMEOUT.contains(timeout));
        if allowed.is_none() {
            self.problem(format!(
                "telemetry.export_timeout = {text:?} is no time from 100ms to 1m"
            ));
        }
        allowed
    }
}
