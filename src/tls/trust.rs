//! TLS as a client needs it: who may vouch for a server, and what this side shows of itself.

use std::fmt;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier, verify_server_cert_signed_by_trust_anchor};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, ring};
use rustls::pki_types::{CertificateDer, InvalidDnsNameError, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme, version};

use super::{Certificates, Flaw, Part, PrivateKey, roots};

/// Sessions of one cluster's nodes that are remembered, so that the next connection needs no whole handshake.
const REMEMBERED_SESSIONS: usize = 256;

/// How much of a server's certificate is verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verify {
    /// That an authority vouches for it, for the name or address that was dialled.
    Identity,
    /// That an authority vouches for it, whatever name it holds.
    Authority,
    /// Nothing: whoever can step between can read along.
    Nothing,
}

impl fmt::Display for Verify {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Identity => "identity",
            Self::Authority => "ca",
            Self::Nothing => "none",
        })
    }
}

/// Whom a client of servers believes, and what it shows them.
///
/// Two are equal when they verify as much, by the same authorities, and show the same certificate.
#[derive(Clone)]
pub struct Trust {
    verify: Verify,
    authorities: Option<Certificates>,
    own: Option<Certificates>,
    client: Arc<ClientConfig>,
}

impl Trust {
    /// Joins the parts. `authorities` are needed unless nothing is verified. `own`: what is shown to servers that ask.
    ///
    /// # Errors
    /// The part that is to blame, and why.
    pub fn new(
        verify: Verify,
        authorities: Option<Certificates>,
        own: Option<(Certificates, PrivateKey)>,
    ) -> Result<Self, (Part, Flaw)> {
        let of_authorities = |flaw: Flaw| (Part::Authorities, flaw);
        let provider = Arc::new(ring::default_provider());
        let known = match &authorities {
            Some(list) => roots(list).map_err(of_authorities)?,
            None => RootCertStore::empty(),
        };
        let verifier: Arc<dyn ServerCertVerifier> = match verify {
            Verify::Identity => {
                WebPkiServerVerifier::builder_with_provider(Arc::new(known), Arc::clone(&provider))
                    .build()
                    .map_err(|e| of_authorities(Flaw::unusable(e)))?
            }
            Verify::Authority if known.is_empty() => return Err(of_authorities(Flaw::NoCertificate)),
            Verify::Authority => Arc::new(Lenient::new(&provider, Some(known))),
            Verify::Nothing => Arc::new(Lenient::new(&provider, None)),
        };
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&version::TLS13, &version::TLS12])
            .map_err(|e| of_authorities(Flaw::unusable(e)))?
            .dangerous()
            .with_custom_certificate_verifier(verifier);
        let shown = own.as_ref().map(|(certificates, _)| certificates.clone());
        let mut client = match own {
            Some((certificates, key)) => {
                builder.with_client_auth_cert(certificates.0, key.0).map_err(Flaw::of_pair)?
            }
            None => builder.with_no_client_auth(),
        };
        client.resumption = Resumption::in_memory_sessions(REMEMBERED_SESSIONS);
        Ok(Self { verify, authorities, own: shown, client: Arc::new(client) })
    }

    /// How much of a server's certificate is verified.
    pub fn verify(&self) -> Verify {
        self.verify
    }

    /// Who may vouch for servers.
    pub fn authorities(&self) -> Option<&Certificates> {
        self.authorities.as_ref()
    }

    /// What is shown to servers that ask.
    pub fn own(&self) -> Option<&Certificates> {
        self.own.as_ref()
    }

    /// Whether whoever is at the other end was told from anybody else.
    pub fn is_verified(&self) -> bool {
        self.verify != Verify::Nothing
    }

    /// What a connection is opened with.
    pub fn client(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.client)
    }

    /// A name or an address as TLS takes it.
    ///
    /// # Errors
    /// When it is neither.
    pub fn name(host: &str) -> Result<ServerName<'static>, InvalidDnsNameError> {
        ServerName::try_from(host.to_owned())
    }
}

impl PartialEq for Trust {
    fn eq(&self, other: &Self) -> bool {
        self.verify == other.verify && self.authorities == other.authorities && self.own == other.own
    }
}

impl Eq for Trust {}

impl fmt::Debug for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trust")
            .field("verify", &self.verify)
            .field("authorities", &self.authorities)
            .field("own", &self.own)
            .finish_non_exhaustive()
    }
}

/// Verifies less than the identity: that an authority vouches for the certificate, or only that the other end has its
/// key.
#[derive(Debug)]
struct Lenient {
    roots: Option<RootCertStore>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Lenient {
    fn new(provider: &CryptoProvider, roots: Option<RootCertStore>) -> Self {
        Self { roots, algorithms: provider.signature_verification_algorithms }
    }
}

impl ServerCertVerifier for Lenient {
    fn verify_server_cert(
        &self,
        own: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if let Some(roots) = &self.roots {
            let own = ParsedCertificate::try_from(own)?;
            verify_server_cert_signed_by_trust_anchor(&own, roots, chain, now, self.algorithms.all)?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
