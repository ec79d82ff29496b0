//! What this crate asks of TLS and of the certificate of a server.
//!
//! TLS 1.3 only. A server must show a certificate of the cluster's authority that carries
//! the unit "member", and either the expected member name (common name) or the address that was
//! dialled (subject alternative name).

use std::fmt;
use std::sync::Arc;

use keelson_types::MemberName;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{
    CertificateError, CipherSuite, DigitallySignedStruct, Error, OtherError, RootCertStore,
    SignatureScheme, SupportedProtocolVersion,
};

use crate::{PeerIdentity, Role};

/// Versions of TLS offered and accepted.
pub(crate) const VERSIONS: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13];

/// The cryptography, with AES-128 first: as strong as the P-256 keys of the certificates and
/// cheaper per byte than AES-256.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    let mut provider = ring::default_provider();
    let first = |suite: &rustls::SupportedCipherSuite| {
        suite.suite() != CipherSuite::TLS13_AES_128_GCM_SHA256
    };
    provider.cipher_suites.sort_by_key(first);
    Arc::new(provider)
}

/// Whether a certificate chain leads to one of `roots`, for whatever use.
pub(crate) fn issued_by(roots: &Arc<RootCertStore>, chain: &[CertificateDer<'static>]) -> bool {
    let verifier =
        rustls::server::WebPkiClientVerifier::builder_with_provider(roots.clone(), provider())
            .build()
            .expect("the store holds at least one authority");
    verifier.verify_client_cert(&chain[0], &chain[1..], UnixTime::now()).is_ok()
}

/// The certificate is genuine but is somebody else's.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct WrongName {
    pub(crate) expected: String,
    pub(crate) found: String,
}

impl fmt::Display for WrongName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the certificate is for {}, not for {}", self.found, self.expected)
    }
}

impl std::error::Error for WrongName {}

/// Verifies the certificate of a server.
#[derive(Debug)]
pub(crate) struct PeerVerifier {
    roots: Arc<RootCertStore>,
    provider: Arc<CryptoProvider>,
    /// The member that must answer; without one the dialled address must be in the certificate.
    member: Option<MemberName>,
}

impl PeerVerifier {
    pub(crate) fn new(roots: Arc<RootCertStore>, member: Option<MemberName>) -> Self {
        Self { roots, provider: provider(), member }
    }

    fn check_name(
        &self,
        certificate: &CertificateDer<'_>,
        parsed: &ParsedCertificate<'_>,
        dialled: &ServerName<'_>,
    ) -> Result<(), Error> {
        let named = |expected: String| wrong_name(expected, identity(certificate));
        // Whoever dials may show a token, which is for members only.
        let peer = PeerIdentity::from_der(certificate);
        let found = peer.ok().filter(|peer| peer.role == Role::Member);
        match &self.member {
            None if found.is_none() => Err(named("a member".into())),
            None => verify_server_name(parsed, dialled)
                .map_err(|_| named(dialled.to_str().into_owned())),
            Some(member) if found.is_some_and(|peer| peer.name == member.as_str()) => Ok(()),
            Some(member) => Err(named(format!("member {member}"))),
        }
    }
}

fn identity(certificate: &CertificateDer<'_>) -> String {
    PeerIdentity::from_der(certificate).map_or_else(|reason| reason, |peer| peer.to_string())
}

fn wrong_name(expected: String, found: String) -> Error {
    let error = OtherError(Arc::new(WrongName { expected, found }));
    Error::InvalidCertificate(CertificateError::Other(error))
}

impl ServerCertVerifier for PeerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let parsed = ParsedCertificate::try_from(end_entity)?;
        verify_server_cert_signed_by_trust_anchor(
            &parsed,
            &self.roots,
            intermediates,
            now,
            self.provider.signature_verification_algorithms.all,
        )?;
        self.check_name(end_entity, &parsed, server_name)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.2 is not offered".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
