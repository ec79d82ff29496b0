//! What a client must know before it can ask anybody: control addresses and certificates.
//!
//! The file is TOML; paths in it are relative to the file itself, so that a directory made by
//! `keelson dev` or `keelson certs` can be moved as a whole.

use std::error::Error;
use std::path::{Path, PathBuf};

use keelson_net::{Credentials, TlsError, TlsFiles, TlsStore, TokenFiles};
use keelson_types::RefusalReason;
use serde::{Deserialize, Serialize};

use crate::ClientError;

/// Where the cluster is and who this client is: by a certificate, or by a token. A token that is
/// named is shown, and a certificate beside it is not.
///
/// ```toml
/// endpoints = ["10.0.0.1:7400", "10.0.0.2:7400"]   # control addresses; several are safer
/// ca = "ca.pem"                                     # authority of the cluster
/// cert = "client.pem"                               # this client's certificate
/// key = "client.key"                                # and its private key
/// # token_file = "client.token"                     # or, instead of both, its token
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClientConfig {
    /// Control addresses, `host:port`; at least one.
    pub endpoints: Vec<String>,
    /// PEM file with the cluster's certificate authority.
    pub ca: PathBuf,
    /// PEM file with the client's certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cert: Option<PathBuf>,
    /// PEM file with the private key of `cert`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<PathBuf>,
    /// File with the secret of the client's token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_file: Option<PathBuf>,
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
        let optional = [&mut config.cert, &mut config.key, &mut config.token_file];
        for file in optional.into_iter().flatten().chain([&mut config.ca]) {
            *file = base.join(&*file);
        }
        config.check().map_err(bad)?;
        Ok(config)
    }

    /// The same cluster with a token instead of what the file names.
    #[must_use]
    pub fn with_token_file(self, token_file: PathBuf) -> Self {
        Self { token_file: Some(token_file), cert: None, key: None, ..self }
    }

    /// Reads what the client shows to the servers.
    ///
    /// # Errors
    /// `bad_configuration` if the files cannot be read, `bad_certificate` if they cannot be used.
    pub(crate) fn credentials(&self) -> Result<Credentials, ClientError> {
        let ca = self.ca.clone();
        let read = match (&self.token_file, &self.cert, &self.key) {
            (Some(token), _, _) => Credentials::token(TokenFiles { ca, token: token.clone() }),
            (None, Some(cert), Some(key)) => {
                let files = TlsFiles { ca, cert: cert.clone(), key: key.clone() };
                TlsStore::open(files).map(Credentials::from)
            }
            _ => return Err(ClientError::new(RefusalReason::BadConfiguration, NOTHING_TO_SHOW)),
        };
        read.map_err(|error| bad_files(&error))
    }

    /// What is wrong with the values, if anything.
    fn check(&self) -> Result<(), String> {
        if self.endpoints.is_empty() {
            return Err("endpoints is empty; name at least one control address".into());
        }
        for endpoint in &self.endpoints {
            check_address(endpoint)?;
        }
        let optional = [&self.cert, &self.key, &self.token_file];
        for file in optional.into_iter().flatten().chain([&self.ca]) {
            std::fs::metadata(file).map_err(|error| format!("{}: {error}", file.display()))?;
        }
        if self.cert.is_some() == self.key.is_some() {
            return Ok(());
        }
        Err("cert and key go together".into())
    }
}

/// Said by a client that has neither.
const NOTHING_TO_SHOW: &str =
    "the client has neither a certificate (cert and key) nor a token (token_file)";

fn bad_files(error: &TlsError) -> ClientError {
    let reason = match error {
        TlsError::Expired { .. }
        | TlsError::NotYetValid { .. }
        | TlsError::WrongAuthority { .. } => RefusalReason::BadCertificate,
        _ => RefusalReason::BadConfiguration,
    };
    let cause = error.source().map(|cause| format!(": {cause}")).unwrap_or_default();
    ClientError::new(reason, format!("{error}{cause}"))
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
