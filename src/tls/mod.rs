//! TLS as a server needs it: a certificate with its key, the authorities of the clients, and what was agreed on. What a
//! client of servers needs is in [`Trust`].
//!
//! No I/O: [`crate::config`] reads the files and [`crate::net`] shakes hands. An [`Identity`] exists only when its
//! parts fit together, so whoever holds one can serve TLS with it.

mod names;
#[cfg(test)]
pub(crate) mod specimen;
#[cfg(test)]
mod tests;
mod trust;

use std::fmt;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ServerConfig, ServerSessionMemoryCache, WebPkiClientVerifier};
use rustls::{
    CertificateError, CommonState, Error, HandshakeKind, InconsistentKeys, ProtocolVersion, RootCertStore,
    version,
};

pub use names::{CertificateNames, OneLine, Unclear};
pub use trust::{Trust, Verify};

/// Tickets that a TLS 1.3 client gets with its handshake. One is enough for the next connection, and each costs an
/// encryption.
const TICKETS: usize = 1;

/// TLS 1.2 sessions that are remembered for clients that take no tickets.
const REMEMBERED_SESSIONS: usize = 1024;

/// Certificates, at least one, in the order of their file.
#[derive(Clone, PartialEq, Eq)]
pub struct Certificates(Vec<CertificateDer<'static>>);

/// A private key. It can not be printed.
pub struct PrivateKey(PrivateKeyDer<'static>);

/// A server's certificate and key, who may vouch for its clients, and the tickets that it gave.
///
/// Two are equal when the same certificates stand in them: another key has another certificate.
#[derive(Clone)]
pub struct Identity {
    certificates: Certificates,
    authorities: Option<Certificates>,
    verifier: Option<Arc<dyn ClientCertVerifier>>,
    /// When each authority is one; none: it cannot be read.
    lifetimes: Vec<Option<RangeInclusive<SystemTime>>>,
    server: Arc<ServerConfig>,
}

/// What a finished handshake with a client agreed on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Encryption {
    /// `TLSv1.2` or `TLSv1.3`.
    pub version: &'static str,
    /// The cipher suite, without the parts that the version implies.
    pub cipher: &'static str,
    /// `OpenSSL`'s name of the cipher suite; none for one that has none here.
    pub openssl_cipher: Option<&'static str>,
    /// The names in the client's certificate, where one of the authorities vouches for it.
    pub client: Option<Arc<CertificateNames>>,
}

/// A part of an [`Identity`] or a [`Trust`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// One's own certificate chain.
    Certificate,
    /// Its private key.
    Key,
    /// The authorities of the other side.
    Authorities,
}

/// What is wrong with a part. No content of a key is ever part of the text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Flaw {
    /// Not in the form that is read here.
    #[error("is not PEM")]
    NotPem,
    /// PEM of something else.
    #[error("holds no certificate")]
    NoCertificate,
    /// PEM of something else, or a key that a passphrase protects.
    #[error("holds no private key, or an encrypted one")]
    NoKey,
    /// Certificate and key are not a pair.
    #[error("is not the key of the certificate")]
    OtherKey,
    /// TLS can not be served with it.
    #[error("can not be used: {0}")]
    Unusable(String),
}

impl Flaw {
    fn unusable(e: impl fmt::Display) -> Self {
        Self::Unusable(e.to_string())
    }

    /// Of a certificate and a key that were to go together.
    fn of_pair(e: Error) -> (Part, Self) {
        match e {
            Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => (Part::Key, Self::OtherKey),
            e @ (Error::InvalidCertificate(_) | Error::NoCertificatesPresented) => {
                (Part::Certificate, Self::unusable(e))
            }
            e => (Part::Key, Self::unusable(e)),
        }
    }
}

// === impl Certificates ===

impl Certificates {
    /// Reads every certificate of a PEM text.
    pub fn from_pem(pem: &[u8]) -> Result<Self, Flaw> {
        let list = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>();
        match list {
            Ok(list) if !list.is_empty() => Ok(Self(list)),
            Ok(_) if is_pem(pem) => Err(Flaw::NoCertificate),
            // The reader's own words quote the text.
            Ok(_) | Err(_) => Err(Flaw::NotPem),
        }
    }
}

impl Certificates {
    /// The first one, which is that of whoever shows them, in DER.
    pub fn first(&self) -> &[u8] {
        self.0.first().map_or(&[], |certificate| certificate.as_ref())
    }

    /// The names in the first one.
    pub fn names(&self) -> CertificateNames {
        CertificateNames::of(&CertificateDer::from(self.first()))
    }
}

impl fmt::Debug for Certificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Certificates({})", self.0.len())
    }
}

// === impl PrivateKey ===

impl PrivateKey {
    /// Reads the first private key of a PEM text: PKCS#8, PKCS#1 or SEC1, without a passphrase.
    pub fn from_pem(pem: &[u8]) -> Result<Self, Flaw> {
        match PrivateKeyDer::pem_slice_iter(pem).next() {
            Some(Ok(key)) => Ok(Self(key)),
            None if is_pem(pem) => Err(Flaw::NoKey),
            None | Some(Err(_)) => Err(Flaw::NotPem),
        }
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PrivateKey(***)")
    }
}

fn is_pem(text: &[u8]) -> bool {
    const BEGIN: &[u8] = b"-----BEGIN ";
    text.windows(BEGIN.len()).any(|window| window == BEGIN)
}

// === impl Identity ===

impl Identity {
    /// Joins the parts. With `authorities`, clients are asked for a certificate; one that comes must be vouched for by
    /// them, and a client without one is served as well.
    ///
    /// # Errors
    /// The part that is to blame, and why.
    pub fn new(
        certificates: Certificates,
        key: PrivateKey,
        authorities: Option<Certificates>,
    ) -> Result<Self, (Part, Flaw)> {
        let provider = Arc::new(ring::default_provider());
        let verifier = match &authorities {
            Some(list) => {
                Some(verifier(list, Arc::clone(&provider)).map_err(|flaw| (Part::Authorities, flaw))?)
            }
            None => None,
        };
        let of_certificate = |e: Error| (Part::Certificate, Flaw::unusable(e));
        let builder = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&version::TLS13, &version::TLS12])
            .map_err(of_certificate)?;
        let builder = match &verifier {
            Some(verifier) => builder.with_client_cert_verifier(Arc::clone(verifier)),
            None => builder.with_no_client_auth(),
        };
        let mut server = builder.with_single_cert(certificates.0.clone(), key.0).map_err(Flaw::of_pair)?;
        // The keys of the tickets belong to this identity alone: a ticket that was given under other authorities opens
        // nothing here.
        server.ticketer = ring::Ticketer::new().map_err(of_certificate)?;
        server.session_storage = ServerSessionMemoryCache::new(REMEMBERED_SESSIONS);
        server.send_tls13_tickets = TICKETS;
        let lifetimes = authorities.iter().flat_map(|list| &list.0).map(names::lifetime).collect();
        Ok(Self { certificates, authorities, verifier, lifetimes, server: Arc::new(server) })
    }

    /// The server's certificate chain.
    pub fn certificates(&self) -> &Certificates {
        &self.certificates
    }

    /// Who may vouch for clients.
    pub fn authorities(&self) -> Option<&Certificates> {
        self.authorities.as_ref()
    }

    /// What a connection is accepted with.
    pub fn server(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.server)
    }

    /// Verifies by those authorities alone that are none too early and none too late, which a handshake does not look at and
    /// servers do; none: all of them are.
    fn living(&self, now: SystemTime) -> Result<Option<Arc<dyn ClientCertVerifier>>, Error> {
        let lives = |lifetime: &Option<RangeInclusive<SystemTime>>| {
            lifetime.as_ref().is_some_and(|lifetime| lifetime.contains(&now))
        };
        if self.lifetimes.iter().all(lives) {
            return Ok(None);
        }
        let all = self.authorities.iter().flat_map(|list| &list.0).zip(&self.lifetimes);
        let living: Vec<_> =
            all.filter(|(_, lifetime)| lives(lifetime)).map(|(authority, _)| authority.clone()).collect();
        let expired = || Error::InvalidCertificate(CertificateError::Expired);
        if living.is_empty() {
            return Err(expired());
        }
        let verifier = verifier(&Certificates(living), Arc::new(ring::default_provider()));
        verifier.map(Some).map_err(|_| expired())
    }

    /// What a finished handshake agreed on.
    ///
    /// # Errors
    /// The authority that vouches for the client has expired, or is not one yet.
    ///
    /// A resumed session does not show its certificate again. It is verified again here, as a new one would be at this
    /// moment, lest an expired certificate lives on for as long as tickets do.
    pub fn agreed(&self, connection: &CommonState, now: SystemTime) -> Result<Encryption, Error> {
        let shown = connection.peer_certificates().unwrap_or_default();
        let client = match (&self.verifier, shown.split_first()) {
            (Some(verifier), Some((own, chain))) => {
                let time = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
                let time = UnixTime::since_unix_epoch(time);
                if connection.handshake_kind() == Some(HandshakeKind::Resumed) {
                    verifier.verify_client_cert(own, chain, time)?;
                }
                if let Some(living) = self.living(now)? {
                    living.verify_client_cert(own, chain, time)?;
                }
                Some(Arc::new(CertificateNames::of(own)))
            }
            _ => None,
        };
        let version = match connection.protocol_version() {
            Some(ProtocolVersion::TLSv1_3) => "TLSv1.3",
            Some(ProtocolVersion::TLSv1_2) => "TLSv1.2",
            _ => "TLS",
        };
        let suite = connection.negotiated_cipher_suite().map(|suite| suite.suite());
        let openssl_cipher = suite.and_then(names::openssl_cipher);
        let suite = suite.and_then(|suite| suite.as_str()).unwrap_or("?");
        let cipher = suite.strip_prefix("TLS13_").or_else(|| suite.strip_prefix("TLS_")).unwrap_or(suite);
        Ok(Encryption { version, cipher, openssl_cipher, client })
    }
}

impl PartialEq for Identity {
    fn eq(&self, other: &Self) -> bool {
        self.certificates == other.certificates && self.authorities == other.authorities
    }
}

impl Eq for Identity {}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity")
            .field("certificates", &self.certificates)
            .field("authorities", &self.authorities)
            .finish_non_exhaustive()
    }
}

fn verifier(
    authorities: &Certificates,
    provider: Arc<CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, Flaw> {
    WebPkiClientVerifier::builder_with_provider(Arc::new(roots(authorities)?), provider)
        .allow_unauthenticated()
        .build()
        .map_err(Flaw::unusable)
}

fn roots(authorities: &Certificates) -> Result<RootCertStore, Flaw> {
    let mut roots = RootCertStore::empty();
    for certificate in &authorities.0 {
        roots.add(certificate.clone()).map_err(Flaw::unusable)?;
    }
    Ok(roots)
}

// === impl Encryption ===

impl fmt::Display for Encryption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.version, self.cipher)
    }
}
