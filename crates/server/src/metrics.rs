//! Serves the metrics of the member at `metrics_address`, from the control process: they tell of a
//! member whose data process is down.
//!
//! On loopback they are plain; elsewhere readers must show a certificate of the cluster's
//! authority.

use std::sync::Arc;
use std::time::SystemTime;

use keelson_cluster::Pictures;
use keelson_net::{Page, TlsStore, serve_pages};
use keelson_status::{Snapshot, metrics};
use tokio::net::TcpListener;

use crate::Config;

/// Content type of Prometheus's text format.
const TEXT_FORMAT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Serves until it is dropped.
pub(crate) async fn serve(
    listener: TcpListener,
    config: &Config,
    tls: Arc<TlsStore>,
    pictures: Pictures,
) {
    let (name, site) = (config.name().to_string(), config.site().to_string());
    let protected = (!config.metrics_are_local()).then(|| tls.clone());
    let answer = move |path: String| {
        let (pictures, tls) = (pictures.clone(), tls.clone());
        let (member, site) = (name.clone(), site.clone());
        async move {
            if path != "/metrics" {
                return None;
            }
            let picture = pictures.take().await;
            let expires = tls.current().not_after().duration_since(SystemTime::UNIX_EPOCH);
            let snapshot = Snapshot {
                version: env!("CARGO_PKG_VERSION").into(),
                member,
                site,
                certificate_expires_unix_seconds: expires.unwrap_or_default().as_secs(),
                facts: picture.facts,
                copies: picture.copies,
                cluster: picture.cluster,
                databases: picture.databases,
                operations: picture.operations,
            };
            Some(Page { content_type: TEXT_FORMAT, body: metrics(&snapshot) })
        }
    };
    serve_pages(listener, protected, answer).await;
}
