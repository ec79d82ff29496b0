//! What a caller shows: a certificate, or a token in every call.
//!
//! Both are read from files and read again when these change, so that neither a new certificate nor
//! a new token needs a restart. With a token the caller needs the cluster's authority only.

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use http::HeaderValue;
use rustls::RootCertStore;
use rustls::sign::CertifiedKey;

use crate::tls::{LOOK_INTERVAL, Stamp, malformed, read, read_roots, stamp};
use crate::{AccessSecret, TlsError, TlsStore};

/// Where a client with a token finds what it needs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TokenFiles {
    /// PEM file with the cluster's authority.
    pub ca: PathBuf,
    /// File with the token's secret.
    pub token: PathBuf,
}

struct Read {
    roots: Arc<RootCertStore>,
    secret: AccessSecret,
}

impl TokenFiles {
    fn load(&self) -> Result<Read, TlsError> {
        let roots = Arc::new(read_roots(&self.ca)?);
        let bytes = read("token", &self.token)?;
        let secret = AccessSecret::parse(&String::from_utf8_lossy(&bytes))
            .map_err(|refused| malformed("token", &self.token, refused.message))?;
        Ok(Read { roots, secret })
    }

    fn stamps(&self) -> [Stamp; 2] {
        [stamp(&self.ca), stamp(&self.token)]
    }
}

struct State {
    read: Read,
    stamps: [Stamp; 2],
    /// Of files that could not be used, once that was logged.
    unusable: Option<[Stamp; 2]>,
    looked_at: Instant,
}

/// A token and an authority, following their files.
struct TokenStore {
    files: TokenFiles,
    state: Mutex<State>,
}

impl TokenStore {
    fn look<T>(&self, take: impl FnOnce(&Read) -> T) -> T {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.looked_at.elapsed() >= LOOK_INTERVAL {
            state.looked_at = Instant::now();
            let stamps = self.files.stamps();
            if stamps != state.stamps {
                match self.files.load() {
                    Ok(read) => (state.read, state.stamps, state.unusable) = (read, stamps, None),
                    // Read again at the next look.
                    Err(error) if state.unusable.replace(stamps) != Some(stamps) => {
                        tracing::warn!(%error, "changed token or authority is not usable");
                    }
                    Err(_) => {}
                }
            }
        }
        take(&state.read)
    }
}

#[derive(Clone)]
enum Kind {
    Certificate(Arc<TlsStore>),
    Files(Arc<TokenStore>),
    /// The authority of somebody else's certificate, and a token that came some other way.
    Bearer(Arc<TlsStore>, AccessSecret),
}

/// What a client or a member shows to the servers it calls. Cheap to clone.
#[derive(Clone)]
pub struct Credentials(Kind);

/// What one connection shows and trusts.
pub(crate) struct Shown {
    pub(crate) roots: Arc<RootCertStore>,
    pub(crate) key: Option<Arc<CertifiedKey>>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Kind::Certificate(tls) => f.debug_tuple("Certificate").field(tls).finish(),
            Kind::Files(store) => f.debug_tuple("Token").field(&store.files).finish(),
            Kind::Bearer(..) => f.write_str("Token"),
        }
    }
}

impl From<Arc<TlsStore>> for Credentials {
    fn from(tls: Arc<TlsStore>) -> Self {
        Self(Kind::Certificate(tls))
    }
}

impl Credentials {
    /// A token from a file.
    ///
    /// # Errors
    /// A file is missing or malformed, or the authority's time is over.
    pub fn token(files: TokenFiles) -> Result<Self, TlsError> {
        let stamps = files.stamps();
        let read = files.load()?;
        let state = Mutex::new(State { read, stamps, unusable: None, looked_at: Instant::now() });
        Ok(Self(Kind::Files(Arc::new(TokenStore { files, state }))))
    }

    /// The token of somebody for whom this process speaks; servers are known by the authority of
    /// `tls`, whose own certificate is not shown.
    #[must_use]
    pub fn bearer(tls: Arc<TlsStore>, secret: AccessSecret) -> Self {
        Self(Kind::Bearer(tls, secret))
    }

    pub(crate) fn shown(&self) -> Shown {
        match &self.0 {
            Kind::Certificate(tls) => {
                let identity = tls.current();
                Shown { roots: identity.roots.clone(), key: Some(identity.key.clone()) }
            }
            Kind::Files(store) => store.look(|read| Shown { roots: read.roots.clone(), key: None }),
            Kind::Bearer(tls, _) => Shown { roots: tls.current().roots.clone(), key: None },
        }
    }

    /// The certificate that a new connection would show, if any.
    pub(crate) fn certificate(&self) -> Option<Arc<CertifiedKey>> {
        match &self.0 {
            Kind::Certificate(tls) => Some(tls.current().key.clone()),
            Kind::Files(_) | Kind::Bearer(..) => None,
        }
    }

    /// The value of the header `authorization`, if there is one.
    pub(crate) fn header(&self) -> Option<HeaderValue> {
        match &self.0 {
            Kind::Certificate(_) => None,
            Kind::Files(store) => Some(store.look(|read| read.secret.header())),
            Kind::Bearer(_, secret) => Some(secret.header()),
        }
    }
}
