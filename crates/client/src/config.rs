//! What a client must know before it can ask anybody: control addresses and certificates.
//!
//! The file is TOML; paths in it are relative to the file itself, so that a directory made by
//! `keelson dev` or `keelson certs` can be moved as a whole.

use std::path::{Path, PathBuf};

use keelson_types::RefusalReason;
use serde::{Deserialize, Serialize};

use crate::ClientError;

/// Where the cluster is and who this client is.
///
/// ```toml
/// endpoints = ["10.0.0.1:7400", "10.0.0.2:7400"]   # control addresses; several are safer
/// ca = "ca.pem"                                     # authority of the cluster
/// cert = "client.pem"                               # this client's certificate
/// key = "client.key"                                # and its private key
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClientConfig {
    /// Control addresses, `host:port`; at least one.
    pub endpoints: Vec<String>,
    /// PEM file with the cluster's certificate authority.
    pub ca: PathBuf,
    /// PEM file with the client's certificate.
    pub cert: PathBuf,
    /// PEM file with the private key of `cert`.
    pub key: PathBuf,
}

impl ClientConfig {
    /// Reads a `client.toml` and makes its paths absolute against the file's directory.
    ///
    /// # Errors
    /// `bad_configuration` with the path and what is wrong in it.
    pub fn load(path: &Path) -> Result<Self, ClientError> {
        let bad = |what: String| {
            ClientError::new(
                RefusalReason::BadConfiguration,
                format!("client configuration {}: {what}", path.display()),
            )
        };
        let text = std::fs::read_to_string(path).map_err(|error| bad(error.to_string()))?;
        let mut config: Self =
            toml::from_str(&text).map_err(|error| bad(error.to_string().trim().to_owned()))?;
        let base = path.parent().unwrap_or_else(|| Path::new("."));
        for file in [&mut config.ca, &mut config.cert, &mut config.key] {
            *file = base.join(&*file);
        }
        config.check().map_err(bad)?;
        Ok(config)
    }

    /// What is wrong with the values, if anything.
    fn check(&self) -> Result<(), String> {
        if self.endpoints.is_empty() {
            return Err("endpoints is empty; name at least one control address".into());
        }
        for endpoint in &self.endpoints {
            check_address(endpoint)?;
        }
        for file in [&self.ca, &self.cert, &self.key] {
            std::fs::metadata(file).map_err(|error| format!("{}: {error}", file.display()))?;
        }
        Ok(())
    }
}

fn check_address(address: &str) -> Result<(), String> {
    let Some((host, port)) = address.rsplit_once(':') else {
        return Err(format!("endpoint {address:?} has no port; write host:port"));
    };
    match port.parse::<u16>() {
        Ok(port) if port != 0 && !host.is_empty() => Ok(()),
        _ => Err(format!("endpoint {address:?} is not host:port")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str) -> Result<ClientConfig, ClientError> {
        let dir = std::env::temp_dir().join(format!("keelson-client-{}", uuid::Uuid::new_v4()));
        std::fs::create_dir_all(&dir).unwrap();
        for file in ["ca.pem", "client.pem", "client.key"] {
            std::fs::write(dir.join(file), "").unwrap();
        }
        std::fs::write(dir.join("client.toml"), text).unwrap();
        let result = ClientConfig::load(&dir.join("client.toml"));
        std::fs::remove_dir_all(&dir).unwrap();
        result
    }

    const FILES: &str = "ca = 'ca.pem'\ncert = 'client.pem'\nkey = 'client.key'\n";

    #[test]
    fn paths_are_relative_to_the_file() {
        let config = load(&format!("endpoints = ['h:1']\n{FILES}")).unwrap();
        assert!(config.ca.is_absolute() && config.ca.ends_with("ca.pem"));
    }

    #[test]
    fn every_mistake_is_a_bad_configuration() {
        let cases = [
            ("".to_owned(), "endpoints"),
            (format!("endpoints = []\n{FILES}"), "at least one"),
            (format!("endpoints = ['host']\n{FILES}"), "no port"),
            (format!("endpoints = ['host:99999']\n{FILES}"), "not host:port"),
            (format!("endpoints = ['h:1']\nsurprise = 1\n{FILES}"), "surprise"),
            ("endpoints = ['h:1']\nca = 'x'\ncert = 'x'\nkey = 'x'\n".into(), "No such file"),
        ];
        for (text, expected) in cases {
            let error = load(&text).unwrap_err();
            assert_eq!(error.reason, RefusalReason::BadConfiguration, "{text}");
            assert!(error.message.contains(expected), "{} lacks {expected}", error.message);
        }
    }
}
