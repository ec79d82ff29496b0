//! Whether the certificate of a member has ended in use.

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};
use keelson_client::{Client, ClientConfig, ClientOptions};
use keelson_types::RefusalReason;

/// How long a certificate lasts that is to end in use: members look at their files every second.
pub(super) const SHORT: &str = "4s";

/// How long the one lasts that takes its place.
pub(super) const LONG: &str = "365d";

/// How long a look at a member takes that does not answer.
const LOOK: Duration = Duration::from_secs(1);

/// Fails unless new connections to all these addresses of a member find its certificate ended. They
/// also make its processes look at their files, which they do at connections.
pub(super) async fn ended(client: &Path, addresses: &[String]) -> Result<()> {
    let config = ClientConfig::load(client)?;
    let mut reasons = Vec::new();
    for address in addresses {
        let config = ClientConfig { endpoints: vec![address.clone()], ..config.clone() };
        let options = ClientOptions { deadline: LOOK, per_try: LOOK, ..Default::default() };
        let answer = Client::new(config, options)?.admin().cluster_status().await;
        reasons.push(answer.err().map(|error| error.reason));
    }
    // Judged once all were asked: a process that looks too late finds a certificate that has ended,
    // and keeps the one that it has.
    let ended = reasons.iter().all(|reason| *reason == Some(RefusalReason::BadCertificate));
    ensure!(ended, "{addresses:?}: {reasons:?}");
    Ok(())
}
