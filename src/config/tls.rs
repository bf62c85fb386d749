//! `[service.NAME.tls]`: a service's certificate and key, and the authorities of its clients; `[cluster.NAME.tls]`: who
//! may vouch for the nodes of a cluster, and what is shown to them.

use std::path::PathBuf;
use std::sync::Arc;

use super::credential::Surroundings;
use super::reader::{Field, Section};
use crate::tls::{Certificates, Flaw, Identity, Part, PrivateKey, Trust, Verify};

const A_CERTIFICATE: &str = "a PEM file with the server's certificate, then those that vouch for it";
const A_KEY: &str = "a PEM file with the certificate's private key, without a passphrase";
const AN_AUTHORITY: &str = "a PEM file with the certificates that may vouch for clients";
const A_NODE_AUTHORITY: &str = "a PEM file with the certificates that may vouch for nodes";
const AN_OWN_CERTIFICATE: &str =
    "a PEM file with this client's certificate, then those that vouch for it, together with its key";

/// TLS between clients and a service, with the content that its files had when the configuration was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    /// The file of the certificate chain.
    pub certificate: PathBuf,
    /// The file of the private key.
    pub key: PathBuf,
    /// Whether clients without TLS are refused (default no).
    pub required: bool,
    /// The file of the authorities. With one, clients are asked for a certificate, which is verified if it comes;
    /// `None`: nobody is asked.
    pub client_ca: Option<PathBuf>,
    /// The content of the files.
    pub identity: Identity,
}

/// A file that was read, and the setting that names it.
struct Read<'a, T> {
    field: Field<'a>,
    path: PathBuf,
    content: T,
}

/// Reads the table. `None`: something is wrong with it, and reported.
pub(super) fn tls<'a>(section: &Section<'a>, around: &Surroundings<'a>) -> Option<Tls> {
    let certificate = section
        .require("certificate", A_CERTIFICATE)
        .and_then(|field| file(field, around, false, A_CERTIFICATE, Certificates::from_pem));
    let key = section
        .require("key", A_KEY)
        .and_then(|field| file(field, around, true, A_KEY, PrivateKey::from_pem));
    let required = section.or("required", false, Field::boolean);
    let client_ca = match section.get("client_ca") {
        Some(field) => file(field, around, false, AN_AUTHORITY, Certificates::from_pem).map(Some),
        None => Some(None),
    };
    section.finish();
    let (certificate, key, client_ca) = (certificate?, key?, client_ca?);
    let authorities = client_ca.as_ref().map(|read| read.content.clone());
    match Identity::new(certificate.content, key.content, authorities) {
        Ok(identity) => Some(Tls {
            certificate: certificate.path,
            key: key.path,
            required: required?,
            client_ca: client_ca.map(|read| read.path),
            identity,
        }),
        Err((Part::Certificate, flaw)) => refuse(&certificate.field, &flaw, A_CERTIFICATE),
        Err((Part::Key, flaw)) => refuse(&key.field, &flaw, A_KEY),
        // Blamed only where it is given.
        Err((Part::Authorities, flaw)) => client_ca.and_then(|read| refuse(&read.field, &flaw, AN_AUTHORITY)),
    }
}

/// TLS between Spillway and the nodes of a cluster, with the content that its files had when the configuration was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeTls {
    /// The file of the authorities.
    pub ca: Option<PathBuf>,
    /// The file of the certificate that is shown to nodes.
    pub certificate: Option<PathBuf>,
    /// The file of its private key.
    pub key: Option<PathBuf>,
    /// The content of the files, and how much of a node's certificate is verified (default: its identity).
    pub trust: Arc<Trust>,
}

/// Reads the table. `None`: something is wrong with it, and reported.
pub(super) fn node_tls<'a>(section: &Section<'a>, around: &Surroundings<'a>) -> Option<NodeTls> {
    let verify = section.or("verify", Verify::Identity, |field| {
        let words = [("identity", Verify::Identity), ("ca", Verify::Authority), ("none", Verify::Nothing)];
        let verify = field.word("verification", &words)?;
        if verify == Verify::Nothing {
            around.report.warn(
                &field.place,
                "whoever can step between this machine and the nodes can read along and take their place",
            );
        }
        Some(verify)
    });
    let ca = match (section.get("ca"), verify) {
        (Some(field), _) => file(field, around, false, A_NODE_AUTHORITY, Certificates::from_pem).map(Some),
        (None, Some(Verify::Identity | Verify::Authority)) => {
            section.require("ca", A_NODE_AUTHORITY);
            None
        }
        (None, _) => Some(None),
    };
    let certificate = match section.get("certificate") {
        Some(field) => file(field, around, false, AN_OWN_CERTIFICATE, Certificates::from_pem).map(Some),
        None => Some(None),
    };
    let key = match section.get("key") {
        Some(field) => file(field, around, true, A_KEY, PrivateKey::from_pem).map(Some),
        None => Some(None),
    };
    section.finish();
    let (ca, certificate, key) = (ca?, certificate?, key?);
    let (own, certificate, key) = match (certificate, key) {
        (Some(certificate), Some(key)) => (
            Some((certificate.content, key.content)),
            Some((certificate.field, certificate.path)),
            Some((key.field, key.path)),
        ),
        (None, None) => (None, None, None),
        (Some(_), None) => return section.require("key", A_KEY).and(None),
        (None, Some(_)) => return section.require("certificate", AN_OWN_CERTIFICATE).and(None),
    };
    let authorities = ca.as_ref().map(|read| read.content.clone());
    match Trust::new(verify?, authorities, own) {
        Ok(trust) => Some(NodeTls {
            ca: ca.map(|read| read.path),
            certificate: certificate.map(|(_, path)| path),
            key: key.map(|(_, path)| path),
            trust: Arc::new(trust),
        }),
        // Blamed only where it is given.
        Err((Part::Authorities, flaw)) => ca.and_then(|read| refuse(&read.field, &flaw, A_NODE_AUTHORITY)),
        Err((Part::Certificate, flaw)) => {
            certificate.and_then(|(field, _)| refuse(&field, &flaw, AN_OWN_CERTIFICATE))
        }
        Err((Part::Key, flaw)) => key.and_then(|(field, _)| refuse(&field, &flaw, A_KEY)),
    }
}

fn file<'a, T>(
    field: Field<'a>,
    around: &Surroundings<'a>,
    is_secret: bool,
    expected: &str,
    parse: impl FnOnce(&[u8]) -> Result<T, Flaw>,
) -> Option<Read<'a, T>> {
    let (path, bytes) = around.file(&field, is_secret, expected)?;
    match parse(&bytes) {
        Ok(content) => Some(Read { field, path, content }),
        Err(flaw) => refuse(&field, &flaw, expected),
    }
}

fn refuse<T>(field: &Field<'_>, flaw: &Flaw, expected: &str) -> Option<T> {
    field.wrong(format!("the file {flaw}"), expected);
    None
}
