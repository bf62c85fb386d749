//! Certificates made at run time, for the tests of every module that has to do with TLS.

use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    date_time_ymd,
};
use rustls::client::Resumption;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};

use super::{Certificates, Identity, PrivateKey};

/// The name that servers have here.
pub(crate) const NAME: &str = "spillway.test";

/// An authority that issues certificates.
pub(crate) struct Authority {
    pub(crate) pem: String,
    name: String,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate and its key as PEM.
pub(crate) struct Issued {
    pub(crate) certificate: String,
    pub(crate) key: String,
}

impl Authority {
    pub(crate) fn new(name: &str) -> Self {
        Self::until(name, 4096)
    }

    /// One that is good until the beginning of a year.
    pub(crate) fn until(name: &str, year: i32) -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("parameters");
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.not_after = date_time_ymd(year, 1, 1);
        let key = KeyPair::generate().expect("key");
        let pem = params.self_signed(&key).expect("certificate").pem();
        Self { pem, name: name.to_owned(), issuer: Issuer::new(params, key) }
    }

    /// A certificate for a server called `name`.
    pub(crate) fn server(&self, name: &str) -> Issued {
        self.issue(name, ExtendedKeyUsagePurpose::ServerAuth, 2100)
    }

    /// A certificate for a client, good until the beginning of a year.
    pub(crate) fn client(&self, until: i32) -> Issued {
        self.issue("client", ExtendedKeyUsagePurpose::ClientAuth, until)
    }

    fn issue(&self, name: &str, usage: ExtendedKeyUsagePurpose, until: i32) -> Issued {
        let mut params = CertificateParams::new([name.to_owned()]).expect("parameters");
        params.distinguished_name.push(DnType::CommonName, format!("{name} of {}", self.name));
        params.not_after = date_time_ymd(until, 1, 1);
        params.extended_key_usages.push(usage);
        let key = KeyPair::generate().expect("key");
        let certificate = params.signed_by(&key, &self.issuer).expect("certificate").pem();
        Issued { certificate, key: key.serialize_pem() }
    }

    /// A server with a certificate of this authority.
    pub(crate) fn identity(&self, clients: Option<&Self>) -> Identity {
        let Issued { certificate, key } = self.server(NAME);
        let authorities = clients.map(|a| Certificates::from_pem(a.pem.as_bytes()).expect("authority"));
        let certificates = Certificates::from_pem(certificate.as_bytes()).expect("certificate");
        Identity::new(certificates, PrivateKey::from_pem(key.as_bytes()).expect("key"), authorities)
            .expect("identity")
    }

    /// A client that trusts this authority and remembers its sessions.
    pub(crate) fn trusted_by(
        &self,
        versions: &[&'static SupportedProtocolVersion],
        own: Option<&Issued>,
    ) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.pem.as_bytes()).expect("PEM")).expect("authority");
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(versions)
            .expect("versions")
            .with_root_certificates(roots);
        let mut client = match own {
            Some(own) => builder
                .with_client_auth_cert(
                    vec![CertificateDer::from_pem_slice(own.certificate.as_bytes()).expect("PEM")],
                    PrivateKeyDer::from_pem_slice(own.key.as_bytes()).expect("PEM"),
                )
                .expect("pair"),
            None => builder.with_no_client_auth(),
        };
        client.resumption = Resumption::in_memory_sessions(16);
        Arc::new(client)
    }
}
