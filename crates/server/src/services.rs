//! The services that both processes serve besides their own: health and reflection.

use anyhow::Context;
use tonic::service::Routes;

/// Adds health (serving from now on) and reflection.
///
/// # Errors
/// The compiled descriptors cannot be read, which is a bug.
pub(crate) async fn with_common_services(routes: Routes) -> anyhow::Result<Routes> {
    let (reporter, health) = tonic_health::server::health_reporter();
    reporter.set_service_status("", tonic_health::ServingStatus::Serving).await;
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(keelson_wire::DESCRIPTORS)
        .build_v1()
        .context("the descriptors for reflection")?;
    Ok(routes.add_service(health).add_service(reflection))
}
