//! The connection to the collector, made when first needed.
//!
//! A connection that cannot be made, because the file of the authority is not readable, say, is
//! like a collector that is away: the next batch tries again, and the member serves.

use opentelemetry_otlp::{SpanExporter as Exporter, WithExportConfig, WithTonicConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SpanData, SpanExporter};
use tonic::transport::{Certificate, ClientTlsConfig};

use super::sender::Export;
use crate::config;

/// Sends spans over OTLP.
pub(super) struct Otlp {
    settings: config::Telemetry,
    resource: Resource,
    exporter: Option<Exporter>,
}

impl Otlp {
    pub(super) fn new(settings: config::Telemetry, resource: Resource) -> Self {
        Self { settings, resource, exporter: None }
    }

    /// Made with the first export; it connects again by itself.
    fn connected(&mut self) -> Result<&Exporter, String> {
        if self.exporter.is_none() {
            let mut exporter = self.connect()?;
            exporter.set_resource(&self.resource);
            self.exporter = Some(exporter);
        }
        self.exporter.as_ref().ok_or_else(|| "no connection".into())
    }

    fn connect(&self) -> Result<Exporter, String> {
        let mut builder = Exporter::builder()
            .with_tonic()
            .with_endpoint(self.settings.endpoint())
            .with_timeout(self.settings.export_timeout());
        if let Some(ca) = self.settings.ca() {
            let read = std::fs::read(ca);
            let pem = read.map_err(|error| format!("{} cannot be read: {error}", ca.display()))?;
            let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem));
            builder = builder.with_tls_config(tls);
        }
        builder.build().map_err(|error| error.to_string())
    }
}

impl Export for Otlp {
    async fn export(&mut self, spans: Vec<SpanData>) -> Result<(), String> {
        self.connected()?.export(spans).await.map_err(|error| error.to_string())
    }
}
