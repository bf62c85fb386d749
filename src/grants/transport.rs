//! How a client is connected, and whether that is what an account requires.

use std::fmt::Display;

use super::account::{Account, TlsRequirement};
use super::decision::Refusal;
use super::snapshot::Snapshot;
use crate::tls::CertificateNames;

/// How the client is connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport<'r> {
    /// TCP without TLS.
    Plain,
    /// TLS.
    Tls {
        /// `OpenSSL`'s name of the cipher suite; none where it has none here.
        cipher: Option<&'r str>,
        /// The names in the client's certificate, if it has one that was verified against an authority.
        certificate: Option<&'r CertificateNames>,
    },
    /// TLS with whatever the account requires by name, for an explanation that is about no particular client.
    Fitting {
        /// With a certificate that was verified against an authority.
        certificate: bool,
    },
}

impl Transport<'_> {
    fn has_certificate(self) -> bool {
        match self {
            Self::Plain => false,
            Self::Tls { certificate, .. } => certificate.is_some(),
            Self::Fitting { certificate } => certificate,
        }
    }
}

/// What of a client's TLS is another than an account requires.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsMismatch {
    /// `cipher`, `issuer` or `subject`.
    pub part: &'static str,
    /// What the account requires.
    pub required: String,
    /// What the client has.
    pub found: String,
}

/// What the account requires, as the server judges it.
pub(super) fn tls(
    account: &Account,
    transport: Transport<'_>,
    snapshot: &Snapshot,
) -> Result<impl FnOnce() -> String + use<>, Refusal> {
    let required = &account.tls;
    let is_met = match required {
        TlsRequirement::None => true,
        TlsRequirement::Any | TlsRequirement::Specified { .. } => transport != Transport::Plain,
        TlsRequirement::X509 => transport.has_certificate(),
        TlsRequirement::Impossible => false,
    };
    if !is_met {
        return Err(Refusal::TlsRequired(required.clone()));
    }
    if required.needs_certificate(snapshot.product()) && !transport.has_certificate() {
        // Whatever else it requires, this is what is missing.
        return Err(Refusal::TlsRequired(TlsRequirement::X509));
    }
    let mut assumed = None;
    if let TlsRequirement::Specified { cipher, issuer, subject } = required {
        if !snapshot.variables().compares_as_openssl {
            let reason = "it may compare names of ciphers and certificates that are not those of OpenSSL";
            return Err(Refusal::Undecidable(reason.to_owned()));
        }
        match transport {
            Transport::Tls { cipher: agreed, certificate } => {
                same("cipher", cipher, agreed.ok_or("it has no name here"))?;
                if let Some(names) = certificate {
                    same("issuer", issuer, names.issuer.as_deref())?;
                    same("subject", subject, names.subject.as_deref())?;
                }
            }
            Transport::Plain | Transport::Fitting { .. } => assumed = Some(required.clone()),
        }
    }
    Ok(move || match assumed {
        None => "the account's requirements are met".to_owned(),
        Some(required) => format!("met if the client has what the account requires: {required}"),
    })
}

fn same(part: &'static str, required: &str, found: Result<&str, impl Display>) -> Result<(), Refusal> {
    if required.is_empty() {
        return Ok(());
    }
    match found {
        Ok(found) if found == required => Ok(()),
        Ok(found) => {
            let (required, found) = (required.to_owned(), found.to_owned());
            Err(Refusal::TlsDiffers(TlsMismatch { part, required, found }))
        }
        Err(reason) => {
            Err(Refusal::Undecidable(format!("the {part} of the client is not certain: {reason}")))
        }
    }
}
