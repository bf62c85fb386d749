//! How a client is connected, and whether that is what an account requires.

use std::fmt::Display;

use super::account::{Account, TlsRequirement};
use super::decision::{InsecureTransport, Refusal};
use super::host::HostIdentity;
use super::matching::Found;
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

impl Snapshot {
    /// Whether a client that was judged by other accounts is connected as this server demands it: of everybody, and by its own
    /// row for the client. Where that row is not certain, the demands of each row of that user count.
    ///
    /// # Errors
    /// Why the server would refuse it.
    pub fn accepts_transport(
        &self,
        user: &[u8],
        client: &HostIdentity,
        transport: Transport<'_>,
    ) -> Result<(), Refusal> {
        if self.variables().require_secure_transport && transport == Transport::Plain {
            return Err(Refusal::InsecureTransport(InsecureTransport::of(self.product())));
        }
        if let Found::Account(account) = self.find(user, client) {
            return tls(account, transport, self).map(drop);
        }
        let may_be = |account: &&Account| account.user.is_empty() || account.user.as_bytes() == user;
        self.accounts().filter(may_be).try_for_each(|account| tls(account, transport, self).map(drop))
    }
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
    let needs_certificate = required.needs_certificate(snapshot.product());
    if needs_certificate && !transport.has_certificate() {
        // Whatever else it requires, this is what is missing.
        return Err(Refusal::TlsRequired(TlsRequirement::X509));
    }
    if snapshot.variables().ssl_crl && needs_certificate {
        let reason =
            "it looks for the client's certificate in lists of revoked ones (ssl_crl), which are not read";
        return Err(Refusal::Undecidable(reason.to_owned()));
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
