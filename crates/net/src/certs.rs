//! Making certificates: one authority per cluster, one certificate per member, one per client.
//!
//! Keys are ECDSA P-256. Private keys are written with mode 0600 and never overwritten; nothing of
//! them is logged. Validity starts five minutes ago, so that a slightly slow clock elsewhere does
//! not refuse a new certificate.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose,
};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use x509_parser::prelude::{FromDer, Pem, X509Certificate};

use crate::{PeerIdentity, Role};

/// Days that an authority is valid, unless asked otherwise.
pub const AUTHORITY_DAYS: u32 = 3650;

/// Days that other certificates are valid, unless asked otherwise.
pub const CERTIFICATE_DAYS: u32 = 365;

const BACKDATING: Duration = Duration::from_secs(300);

/// Why a certificate could not be made, read or written.
#[derive(Debug, thiserror::Error)]
pub enum CertsError {
    /// A file cannot be read or written.
    #[error("{} {verb}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What was tried, as "cannot be read".
        verb: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// The file is there already; keys are never overwritten.
    #[error("{} exists already", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// A file does not hold what it should.
    #[error("{} is malformed: {reason}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The request makes no certificate.
    #[error("no certificate for {name:?} can be made: {reason}")]
    Refused {
        /// The name asked for.
        name: String,
        /// What is wrong.
        reason: String,
    },
}

impl CertsError {
    /// A stable code.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::File { .. } => "certificate_file",
            Self::Exists { .. } => "certificate_exists",
            Self::Malformed { .. } => "certificate_malformed",
            Self::Refused { .. } => "certificate_refused",
        }
    }

    /// What to do next.
    #[must_use]
    pub const fn hint(&self) -> &'static str {
        match self {
            Self::File { .. } => "check the directory and its rights",
            Self::Exists { .. } => "move the old files away first, or choose another directory",
            Self::Malformed { .. } => "the file must be PEM as written by keelson certs",
            Self::Refused { .. } => "see the message",
        }
    }
}

/// Formats of time end somewhere; nobody needs more.
const LONGEST: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// From when to when a certificate is valid.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Validity {
    /// Start.
    pub not_before: SystemTime,
    /// End.
    pub not_after: SystemTime,
}

impl Validity {
    /// From five minutes ago for `days` days from now.
    #[must_use]
    pub fn days(days: u32) -> Self {
        Self::lasting(Duration::from_secs(u64::from(days) * 24 * 3600))
    }

    /// From five minutes ago for this long from now, a hundred years at most; certificates end at
    /// whole seconds.
    #[must_use]
    pub fn lasting(time: Duration) -> Self {
        let now = SystemTime::now();
        Self { not_before: now - BACKDATING, not_after: now + time.min(LONGEST) }
    }
}

/// A certificate to be made.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CertRequest {
    /// Common name: a member's name, or a user's.
    pub name: String,
    /// First word of the organisational unit. Only members get a certificate that servers can show.
    pub role: Role,
    /// Further words: the databases that it is limited to, if any.
    pub databases: Vec<String>,
    /// Host names and IP addresses at which a member is reached.
    pub hosts: Vec<String>,
    /// When it is valid.
    pub validity: Validity,
}

impl CertRequest {
    /// For a member reached at `hosts`; this machine's own names (127.0.0.1, ::1, localhost) are
    /// added.
    #[must_use]
    pub fn member(name: &str, hosts: &[String]) -> Self {
        let local = ["127.0.0.1", "::1", "localhost"].map(str::to_owned);
        let mut hosts = hosts.to_vec();
        hosts.extend(local.into_iter().filter(|host| !hosts.contains(host)).collect::<Vec<_>>());
        Self {
            name: name.into(),
            role: Role::Member,
            databases: Vec::new(),
            hosts,
            validity: Validity::days(CERTIFICATE_DAYS),
        }
    }

    /// For a client with every right.
    #[must_use]
    pub fn admin(name: &str) -> Self {
        Self::client(name, Role::Admin, Vec::new())
    }

    /// For a client of a role, limited to these databases if there are any.
    #[must_use]
    pub fn client(name: &str, role: Role, databases: Vec<String>) -> Self {
        let validity = Validity::days(CERTIFICATE_DAYS);
        Self { name: name.into(), role, databases, hosts: Vec::new(), validity }
    }

    /// With another validity.
    #[must_use]
    pub fn valid(self, validity: Validity) -> Self {
        Self { validity, ..self }
    }
}

/// A certificate with its private key, as PEM.
#[derive(Clone)]
pub struct IssuedCert {
    /// The certificate.
    pub cert_pem: String,
    /// The private key. Secret.
    pub key_pem: String,
}

impl IssuedCert {
    /// Writes both files; neither may exist. A crash in between leaves the key without a
    /// certificate.
    ///
    /// # Errors
    /// [`CertsError::Exists`], [`CertsError::File`].
    pub fn write(&self, cert: &Path, key: &Path) -> Result<(), CertsError> {
        write_new(key, &self.key_pem, 0o600)?;
        write_new(cert, &self.cert_pem, 0o644)
    }
}

/// The authority of a cluster.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    own: IssuedCert,
}

impl Authority {
    /// Makes a new authority named after its purpose.
    ///
    /// # Errors
    /// [`CertsError::Refused`] if the name cannot stand in a certificate.
    pub fn create(name: &str, validity: Validity) -> Result<Self, CertsError> {
        let refused = |error: rcgen::Error| refused(name, &error);
        let key = KeyPair::generate().map_err(refused)?;
        let mut params = params(name, "authority", &[], validity)?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let cert = params.self_signed(&key).map_err(refused)?;
        let own = IssuedCert { cert_pem: cert.pem(), key_pem: key.serialize_pem() };
        Ok(Self { issuer: Issuer::new(params, key), own })
    }

    /// Reads an authority with its key.
    ///
    /// # Errors
    /// [`CertsError::File`], [`CertsError::Malformed`].
    pub fn load(cert: &Path, key: &Path) -> Result<Self, CertsError> {
        let (cert_pem, key_pem) = (read(cert)?, read(key)?);
        let malformed = |path: &Path, error: rcgen::Error| CertsError::Malformed {
            path: path.to_owned(),
            reason: error.to_string(),
        };
        let pair = KeyPair::from_pem(&key_pem).map_err(|error| malformed(key, error))?;
        let issuer =
            Issuer::from_ca_cert_pem(&cert_pem, pair).map_err(|error| malformed(cert, error))?;
        Ok(Self { issuer, own: IssuedCert { cert_pem, key_pem } })
    }

    /// The authority's own certificate, the file that everybody gets as `ca`.
    #[must_use]
    pub fn cert_pem(&self) -> &str {
        &self.own.cert_pem
    }

    /// Writes certificate and key of the authority.
    ///
    /// # Errors
    /// As for [`IssuedCert::write`].
    pub fn write(&self, cert: &Path, key: &Path) -> Result<(), CertsError> {
        self.own.write(cert, key)
    }

    /// Makes a certificate.
    ///
    /// # Errors
    /// [`CertsError::Refused`] if a name or host cannot stand in a certificate.
    pub fn issue(&self, request: &CertRequest) -> Result<IssuedCert, CertsError> {
        let name = &request.name;
        let refused = |error: rcgen::Error| refused(name, &error);
        let key = KeyPair::generate().map_err(refused)?;
        let mut unit = request.role.as_str().to_owned();
        for database in &request.databases {
            unit.push(' ');
            unit.push_str(database);
        }
        let mut params = params(name, &unit, &request.hosts, request.validity)?;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        if request.role == Role::Member {
            params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
        }
        params.use_authority_key_identifier_extension = true;
        let cert = params.signed_by(&key, &self.issuer).map_err(refused)?;
        Ok(IssuedCert { cert_pem: cert.pem(), key_pem: key.serialize_pem() })
    }
}

fn refused(name: &str, error: &rcgen::Error) -> CertsError {
    CertsError::Refused { name: name.to_owned(), reason: error.to_string() }
}

fn params(
    name: &str,
    unit: &str,
    hosts: &[String],
    validity: Validity,
) -> Result<CertificateParams, CertsError> {
    if name.is_empty() || name.len() > 64 {
        let reason = "a name has 1 to 64 characters".to_owned();
        return Err(CertsError::Refused { name: name.to_owned(), reason });
    }
    let mut params =
        CertificateParams::new(hosts.to_vec()).map_err(|error| refused(name, &error))?;
    let mut subject = DistinguishedName::new();
    subject.push(DnType::OrganizationName, "keelson");
    if !unit.is_empty() {
        subject.push(DnType::OrganizationalUnitName, unit);
    }
    subject.push(DnType::CommonName, name);
    params.distinguished_name = subject;
    params.not_before = OffsetDateTime::from(validity.not_before);
    params.not_after = OffsetDateTime::from(validity.not_after);
    Ok(params)
}

fn read(path: &Path) -> Result<String, CertsError> {
    std::fs::read_to_string(path).map_err(|source| CertsError::File {
        path: path.to_owned(),
        verb: "cannot be read",
        source,
    })
}

/// Writes a file that does not exist, and syncs it.
fn write_new(path: &Path, text: &str, mode: u32) -> Result<(), CertsError> {
    let opened = OpenOptions::new().write(true).create_new(true).mode(mode).open(path);
    let written = opened.and_then(|mut file| {
        file.write_all(text.as_bytes())?;
        file.sync_all()
    });
    written.map_err(|source| match source.kind() {
        io::ErrorKind::AlreadyExists => CertsError::Exists { path: path.to_owned() },
        _ => CertsError::File { path: path.to_owned(), verb: "cannot be written", source },
    })
}

/// What a certificate file says, for people.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CertInfo {
    /// Who it names.
    pub identity: PeerIdentity,
    /// Common name of its issuer.
    pub issuer: String,
    /// When it becomes valid, ISO 8601.
    pub not_before: String,
    /// When it expires, ISO 8601.
    pub not_after: String,
    /// Whole days until it expires; negative if it did.
    pub days_left: i64,
}

/// Reads the first certificate of a PEM file, valid or not.
///
/// # Errors
/// [`CertsError::File`], [`CertsError::Malformed`].
pub fn inspect(path: &Path) -> Result<CertInfo, CertsError> {
    let malformed = |reason: String| CertsError::Malformed { path: path.to_owned(), reason };
    let text = read(path)?;
    let pem = Pem::iter_from_buffer(text.as_bytes()).next();
    let pem = pem.ok_or_else(|| malformed("it holds no certificate".into()))?;
    let pem = pem.map_err(|error| malformed(error.to_string()))?;
    let identity = PeerIdentity::from_der(&pem.contents).map_err(malformed)?;
    let (_, parsed) =
        X509Certificate::from_der(&pem.contents).map_err(|error| malformed(error.to_string()))?;
    let issuer = parsed.issuer().iter_common_name().next().and_then(|name| name.as_str().ok());
    let validity = parsed.validity();
    let iso = |at: OffsetDateTime| {
        at.format(&Rfc3339).expect("a date of a certificate has four digits of year")
    };
    let left = validity.not_after.to_datetime() - OffsetDateTime::now_utc();
    Ok(CertInfo {
        identity,
        issuer: issuer.unwrap_or_default().to_owned(),
        not_before: iso(validity.not_before.to_datetime()),
        not_after: iso(validity.not_after.to_datetime()),
        days_left: left.whole_seconds().div_euclid(24 * 3600),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn an_authority_survives_its_files_and_issues_after_that() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let made = Authority::create("test", Validity::days(AUTHORITY_DAYS)).unwrap();
        made.write(&path("ca.pem"), &path("ca.key")).unwrap();
        let mode = std::fs::metadata(path("ca.key")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let loaded = Authority::load(&path("ca.pem"), &path("ca.key")).unwrap();
        let issued = loaded.issue(&CertRequest::member("m1", &["db.example".into()])).unwrap();
        issued.write(&path("m1.pem"), &path("m1.key")).unwrap();
        let info = inspect(&path("m1.pem")).unwrap();
        assert_eq!((info.identity.name.as_str(), info.identity.role), ("m1", Role::Member));
        assert_eq!((info.issuer.as_str(), info.days_left), ("test", 364));
        let files =
            crate::TlsFiles { ca: path("ca.pem"), cert: path("m1.pem"), key: path("m1.key") };
        assert_eq!(files.load().unwrap().own().name, "m1");
    }

    #[test]
    fn a_certificate_keeps_the_databases_it_is_for() {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::create("test", Validity::days(1)).unwrap();
        let databases = vec!["DB1".to_owned(), "DB2".to_owned()];
        let request = CertRequest::client("shop", Role::Writer, databases.clone());
        let path = dir.path().join("shop.pem");
        authority.issue(&request).unwrap().write(&path, &dir.path().join("shop.key")).unwrap();
        let found = inspect(&path).unwrap().identity;
        assert_eq!((found.role, found.databases), (Role::Writer, databases));
    }

    #[test]
    fn nothing_is_overwritten_and_bad_names_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (cert, key) = (dir.path().join("c"), dir.path().join("k"));
        let authority = Authority::create("test", Validity::days(1)).unwrap();
        authority.write(&cert, &key).unwrap();
        assert_eq!(authority.write(&cert, &key).unwrap_err().code(), "certificate_exists");
        let nameless = authority.issue(&CertRequest::admin("")).map(|_| ()).unwrap_err();
        assert_eq!(nameless.code(), "certificate_refused");
        let missing = inspect(&dir.path().join("none")).unwrap_err();
        assert_eq!(missing.code(), "certificate_file");
    }
}
