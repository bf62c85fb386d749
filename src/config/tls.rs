//! `[service.NAME.tls]`: a service's certificate and key, and the authorities of its clients.

use std::path::PathBuf;

use super::credential::Surroundings;
use super::reader::{Field, Section};
use crate::tls::{Certificates, Flaw, Identity, Part, PrivateKey};

const A_CERTIFICATE: &str = "a PEM file with the server's certificate, then those that vouch for it";
const A_KEY: &str = "a PEM file with the certificate's private key, without a passphrase";
const AN_AUTHORITY: &str = "a PEM file with the certificates that may vouch for clients";

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
