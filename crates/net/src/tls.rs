//! Own certificate, key and authority: read from PEM files, checked, and read again when they
//! change.
//!
//! Every new connection asks [`TlsStore::current`]. A change of the files is noticed within a
//! second; if the new files are wrong (half replaced, expired, another authority), the identity in
//! use stays, the problem is logged once per change, and they are read again at every look until
//! they are right. Connections that are open are not touched.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{RootCertStore, ServerConfig};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::PeerIdentity;
use crate::verify;

/// Name of HTTP/2 in the TLS handshake.
pub(crate) const ALPN: &[u8] = b"h2";

/// How often the files are looked at, at most.
pub(crate) const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Where the three PEM files are.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TlsFiles {
    /// Certificate of the cluster's authority; several while one replaces the other.
    pub ca: PathBuf,
    /// Own certificate.
    pub cert: PathBuf,
    /// Private key of the own certificate.
    pub key: PathBuf,
}

/// Why TLS files cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("{what} {} cannot be read", path.display())]
    Missing {
        /// Which of the files.
        what: &'static str,
        /// Where it should be.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A file does not hold what it should.
    #[error("{what} {} is malformed: {reason}", path.display())]
    Malformed {
        /// Which of the files.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A certificate's time is over.
    #[error("certificate {} expired at {not_after}", path.display())]
    Expired {
        /// The file.
        path: PathBuf,
        /// When it expired.
        not_after: String,
    },
    /// A certificate's time has not come.
    #[error("certificate {} is not valid before {not_before}", path.display())]
    NotYetValid {
        /// The file.
        path: PathBuf,
        /// When it becomes valid.
        not_before: String,
    },
    /// Key and certificate do not belong together.
    #[error("key {} does not belong to certificate {}", key.display(), cert.display())]
    KeyMismatch {
        /// The certificate.
        cert: PathBuf,
        /// The key.
        key: PathBuf,
    },
    /// The authority in the file did not issue the certificate.
    #[error("certificate {} was not issued by {}", cert.display(), ca.display())]
    WrongAuthority {
        /// The certificate.
        cert: PathBuf,
        /// The authority.
        ca: PathBuf,
    },
}

impl TlsError {
    /// A stable code.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Missing { .. } => "tls_file_missing",
            Self::Malformed { .. } => "tls_file_malformed",
            Self::Expired { .. } => "certificate_expired",
            Self::NotYetValid { .. } => "certificate_not_yet_valid",
            Self::KeyMismatch { .. } => "tls_key_mismatch",
            Self::WrongAuthority { .. } => "certificate_wrong_authority",
        }
    }

    /// What to do next.
    #[must_use]
    pub const fn hint(&self) -> &'static str {
        match self {
            Self::Missing { .. } => {
                "check the path in the configuration and the rights of the file"
            }
            Self::Malformed { .. } => "the file must be PEM; keelson certs issue makes a new one",
            Self::Expired { .. } => "issue a new certificate with keelson certs issue",
            Self::NotYetValid { .. } => {
                "check the clock of this machine and of the one that issued it"
            }
            Self::KeyMismatch { .. } => {
                "certificate and key come in pairs; copy both from one place"
            }
            Self::WrongAuthority { .. } => {
                "use the authority of the cluster that the certificate is for"
            }
        }
    }
}

/// A checked identity, ready for connections in both directions.
pub struct TlsIdentity {
    own: PeerIdentity,
    not_after: SystemTime,
    /// For peers that must show a certificate.
    pub(crate) server: Arc<ServerConfig>,
    /// For peers that may show a token instead. A certificate that is shown must be good.
    pub(crate) open_server: Arc<ServerConfig>,
    /// For browsers.
    pub(crate) site: Arc<ServerConfig>,
    pub(crate) roots: Arc<RootCertStore>,
    pub(crate) key: Arc<CertifiedKey>,
}

impl fmt::Debug for TlsIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let own = self.own.to_string();
        f.debug_struct("TlsIdentity").field("own", &own).finish_non_exhaustive()
    }
}

impl TlsIdentity {
    /// Who the own certificate says we are.
    #[must_use]
    pub fn own(&self) -> &PeerIdentity {
        &self.own
    }

    /// When the own certificate expires.
    #[must_use]
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }
}

impl TlsFiles {
    /// Reads and checks the files: PEM, time, key and authority.
    ///
    /// # Errors
    /// The first problem found, in the order authority, certificate, key.
    pub fn load(&self) -> Result<TlsIdentity, TlsError> {
        let roots = Arc::new(read_roots(&self.ca)?);
        let chain = certificates("certificate", &self.cert)?;
        let not_after = check_time(&chain[0], &self.cert)?;
        let own = PeerIdentity::from_der(&chain[0])
            .map_err(|reason| malformed("certificate", &self.cert, reason))?;
        let key = Arc::new(self.key_pair(chain.clone())?);
        if !verify::issued_by(&roots, &chain) {
            let (cert, ca) = (self.cert.clone(), self.ca.clone());
            return Err(TlsError::WrongAuthority { cert, ca });
        }
        let server = Arc::new(server_config(&roots, &key, Certificates::Required));
        let open_server = Arc::new(server_config(&roots, &key, Certificates::Optional));
        let site = Arc::new(site_config(&key));
        Ok(TlsIdentity { own, not_after, server, open_server, site, roots, key })
    }

    fn key_pair(&self, chain: Vec<CertificateDer<'static>>) -> Result<CertifiedKey, TlsError> {
        let bytes = read("key", &self.key)?;
        let key = PrivateKeyDer::from_pem_slice(&bytes)
            .map_err(|error| malformed("key", &self.key, error.to_string()))?;
        CertifiedKey::from_der(chain, key, &verify::provider()).map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => {
                TlsError::KeyMismatch { cert: self.cert.clone(), key: self.key.clone() }
            }
            error => malformed("key", &self.key, error.to_string()),
        })
    }

    fn stamps(&self) -> Stamps {
        [&self.ca, &self.cert, &self.key].map(|path| stamp(path))
    }
}

/// The authorities of a file, checked.
pub(crate) fn read_roots(path: &Path) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for authority in &certificates("authority", path)? {
        check_time(authority, path)?;
        let added = roots.add(authority.clone());
        added.map_err(|error| malformed("authority", path, error.to_string()))?;
    }
    Ok(roots)
}

/// When a file was written and how long it is; it changes when the file does.
pub(crate) fn stamp(path: &Path) -> Stamp {
    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.modified().ok()?, metadata.len()))
}

pub(crate) fn malformed(what: &'static str, path: &Path, reason: String) -> TlsError {
    TlsError::Malformed { what, path: path.to_owned(), reason }
}

pub(crate) fn read(what: &'static str, path: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(path).map_err(|source| TlsError::Missing { what, path: path.to_owned(), source })
}

/// All certificates of a file, at least one.
fn certificates(what: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let bytes = read(what, path)?;
    let found = CertificateDer::pem_slice_iter(&bytes).collect::<Result<Vec<_>, _>>();
    match found {
        Ok(found) if found.is_empty() => {
            Err(malformed(what, path, "it holds no certificate".into()))
        }
        Ok(found) => Ok(found),
        Err(error) => Err(malformed(what, path, error.to_string())),
    }
}

/// Checks the dates and returns the end.
fn check_time(certificate: &CertificateDer<'_>, path: &Path) -> Result<SystemTime, TlsError> {
    let (_, parsed) = X509Certificate::from_der(certificate)
        .map_err(|error| malformed("certificate", path, error.to_string()))?;
    let validity = parsed.validity();
    let seconds = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let now = i64::try_from(seconds.as_secs()).unwrap_or(i64::MAX);
    let path = path.to_owned();
    if now < validity.not_before.timestamp() {
        return Err(TlsError::NotYetValid { path, not_before: validity.not_before.to_string() });
    }
    if now > validity.not_after.timestamp() {
        return Err(TlsError::Expired { path, not_after: validity.not_after.to_string() });
    }
    let end = u64::try_from(validity.not_after.timestamp()).unwrap_or(0);
    Ok(SystemTime::UNIX_EPOCH + Duration::from_secs(end))
}

/// What a server asks of its peers.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Certificates {
    Required,
    Optional,
}

/// No session resumption: every connection checks both certificates anew.
fn server_config(
    roots: &Arc<RootCertStore>,
    key: &Arc<CertifiedKey>,
    asked: Certificates,
) -> ServerConfig {
    let provider = verify::provider();
    let clients = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone());
    let clients = match asked {
        Certificates::Required => clients,
        Certificates::Optional => clients.allow_unauthenticated(),
    };
    let clients = clients.build().expect("the store holds at least one authority");
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(verify::VERSIONS)
        .expect("the provider speaks TLS 1.3")
        .with_client_cert_verifier(clients)
        .with_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(key.clone())));
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config
}

/// For a site that asks for no certificates. Browsers that come back resume nothing, as everybody.
fn site_config(key: &Arc<CertifiedKey>) -> ServerConfig {
    let mut config = ServerConfig::builder_with_provider(verify::provider())
        .with_protocol_versions(verify::VERSIONS)
        .expect("the provider speaks TLS 1.3")
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(key.clone())));
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config
}

pub(crate) type Stamp = Option<(SystemTime, u64)>;

type Stamps = [Stamp; 3];

struct State {
    identity: Arc<TlsIdentity>,
    /// Of the files that the identity came from.
    stamps: Stamps,
    /// Of files that could not be used, once that was logged.
    unusable: Option<Stamps>,
    looked_at: Instant,
}

/// The identity in use, following its files. Shared by servers and connectors of a process.
pub struct TlsStore {
    files: TlsFiles,
    state: Mutex<State>,
}

impl fmt::Debug for TlsStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsStore").field("files", &self.files).finish_non_exhaustive()
    }
}

impl TlsStore {
    /// Loads the files for the first time.
    ///
    /// # Errors
    /// As for [`TlsFiles::load`].
    pub fn open(files: TlsFiles) -> Result<Arc<Self>, TlsError> {
        let stamps = files.stamps();
        let identity = Arc::new(files.load()?);
        let (unusable, looked_at) = (None, Instant::now());
        let state = Mutex::new(State { identity, stamps, unusable, looked_at });
        Ok(Arc::new(Self { files, state }))
    }

    /// Where the files are.
    #[must_use]
    pub fn files(&self) -> &TlsFiles {
        &self.files
    }

    /// The newest usable identity.
    #[must_use]
    pub fn current(&self) -> Arc<TlsIdentity> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.looked_at.elapsed() >= LOOK_INTERVAL {
            state.looked_at = Instant::now();
            self.look(&mut state);
        }
        state.identity.clone()
    }

    /// Looks at the files now.
    ///
    /// # Errors
    /// As for [`TlsFiles::load`]; the identity in use stays.
    pub fn reload(&self) -> Result<(), TlsError> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let stamps = self.files.stamps();
        state.identity = Arc::new(self.files.load()?);
        state.stamps = stamps;
        Ok(())
    }

    fn look(&self, state: &mut State) {
        let stamps = self.files.stamps();
        if stamps == state.stamps {
            return;
        }
        match self.files.load() {
            Ok(identity) => {
                tracing::info!(own = %identity.own, "certificates reloaded");
                (state.identity, state.stamps) = (Arc::new(identity), stamps);
                state.unusable = None;
            }
            // Read again at the next look: what is wrong may pass without a trace in the stamps.
            Err(error) if state.unusable.replace(stamps) != Some(stamps) => {
                tracing::warn!(%error, code = error.code(), "changed certificates are not usable");
            }
            Err(_) => {}
        }
    }
}

#[cfg(test)]
mod tests;
