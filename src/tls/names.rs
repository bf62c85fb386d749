//! The names in a certificate and of a cipher suite, as `OpenSSL` writes them: servers compare these texts with what an
//! account requires, byte by byte.

use std::ops::RangeInclusive;
use std::time::SystemTime;

use rustls::CipherSuite;
use rustls::pki_types::CertificateDer;
use x509_cert::Certificate;
use x509_cert::der::{Decode, Tag, Tagged};
use x509_cert::name::RdnSequence;
use x509_cert::time::Time;

/// A name as `X509_NAME_oneline` writes it, such as `/C=DE/O=Example/CN=client`: printable ASCII.
pub type OneLine = Result<String, Unclear>;

/// Whom a certificate is for and by whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateNames {
    /// The subject.
    pub subject: OneLine,
    /// The issuer.
    pub issuer: OneLine,
}

/// Why it is not certain how a server would write a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unclear {
    /// The certificate is not read here.
    #[error("the certificate is not encoded as it should be")]
    Encoding,
    /// `OpenSSL` joins them by `+` from 3.0 on, and by `/` before.
    #[error("versions of OpenSSL differ in how they write attributes that stand side by side")]
    SideBySide,
    /// `OpenSSL` escapes them from 3.0 on only.
    #[error("versions of OpenSSL differ in how they write / and + in a value")]
    Separator,
    /// Whether it has a short name depends on the version of `OpenSSL`.
    #[error("it has an attribute whose name is not known here")]
    Attribute,
    /// A type that no text of a name should have.
    #[error("it has a value that is no text")]
    Type,
}

impl CertificateNames {
    /// Reads a certificate.
    pub(super) fn of(certificate: &CertificateDer<'_>) -> Self {
        match Certificate::from_der(certificate) {
            Ok(certificate) => {
                let inner = certificate.tbs_certificate();
                Self {
                    subject: one_line(inner.subject().as_ref()),
                    issuer: one_line(inner.issuer().as_ref()),
                }
            }
            Err(_) => Self { subject: Err(Unclear::Encoding), issuer: Err(Unclear::Encoding) },
        }
    }
}

/// From when until when a certificate is good; none: it cannot be read.
pub(super) fn lifetime(certificate: &CertificateDer<'_>) -> Option<RangeInclusive<SystemTime>> {
    let certificate = Certificate::from_der(certificate).ok()?;
    let validity = certificate.tbs_certificate().validity();
    let at = |time: Time| SystemTime::UNIX_EPOCH + time.to_unix_duration();
    Some(at(validity.not_before)..=at(validity.not_after))
}

/// A name in one line. What versions of `OpenSSL` write in different ways is not written at all.
fn one_line(name: &RdnSequence) -> OneLine {
    let mut line = String::new();
    for attributes in name.iter() {
        let mut attributes = attributes.iter();
        let (Some(attribute), None) = (attributes.next(), attributes.next()) else {
            return Err(Unclear::SideBySide);
        };
        line.push('/');
        line.push_str(short_name(&attribute.oid.to_string()).ok_or(Unclear::Attribute)?);
        line.push('=');
        // Texts of these types are written byte for byte, whatever character set they are in. Of a GeneralString, some
        // bytes would be left out.
        let width = match attribute.value.tag() {
            Tag::Utf8String
            | Tag::PrintableString
            | Tag::TeletexString
            | Tag::Ia5String
            | Tag::NumericString => 1,
            Tag::BmpString => 2,
            _ => return Err(Unclear::Type),
        };
        let value = attribute.value.value();
        if value.len() % width != 0 {
            return Err(Unclear::Encoding);
        }
        for &byte in value {
            match byte {
                b'/' | b'+' => return Err(Unclear::Separator),
                b' '..=b'~' => line.push(char::from(byte)),
                _ => line.extend(
                    ['\\', 'x']
                        .into_iter()
                        .chain([byte >> 4, byte & 15].map(|digit| char::from(HEX[usize::from(digit)]))),
                ),
            }
        }
    }
    Ok(line)
}

const HEX: [u8; 16] = *b"0123456789ABCDEF";

/// The short name of an attribute that every version of `OpenSSL` knows by the same.
fn short_name(oid: &str) -> Option<&'static str> {
    Some(match oid {
        "2.5.4.3" => "CN",
        "2.5.4.4" => "SN",
        "2.5.4.5" => "serialNumber",
        "2.5.4.6" => "C",
        "2.5.4.7" => "L",
        "2.5.4.8" => "ST",
        "2.5.4.9" => "street",
        "2.5.4.10" => "O",
        "2.5.4.11" => "OU",
        "2.5.4.12" => "title",
        "2.5.4.13" => "description",
        "2.5.4.17" => "postalCode",
        "2.5.4.41" => "name",
        "2.5.4.42" => "GN",
        "2.5.4.43" => "initials",
        "2.5.4.44" => "generationQualifier",
        "2.5.4.46" => "dnQualifier",
        "2.5.4.65" => "pseudonym",
        "0.9.2342.19200300.100.1.1" => "UID",
        "0.9.2342.19200300.100.1.25" => "DC",
        "1.2.840.113549.1.9.1" => "emailAddress",
        _ => return None,
    })
}

/// `OpenSSL`'s name of a cipher suite; none for one that is not served here.
pub(super) fn openssl_cipher(suite: CipherSuite) -> Option<&'static str> {
    Some(match suite {
        CipherSuite::TLS13_AES_128_GCM_SHA256 => "TLS_AES_128_GCM_SHA256",
        CipherSuite::TLS13_AES_256_GCM_SHA384 => "TLS_AES_256_GCM_SHA384",
        CipherSuite::TLS13_CHACHA20_POLY1305_SHA256 => "TLS_CHACHA20_POLY1305_SHA256",
        CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256 => "ECDHE-ECDSA-AES128-GCM-SHA256",
        CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384 => "ECDHE-ECDSA-AES256-GCM-SHA384",
        CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256 => "ECDHE-ECDSA-CHACHA20-POLY1305",
        CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256 => "ECDHE-RSA-AES128-GCM-SHA256",
        CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384 => "ECDHE-RSA-AES256-GCM-SHA384",
        CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256 => "ECDHE-RSA-CHACHA20-POLY1305",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use rustls::crypto::ring;

    use super::super::specimen::Authority;
    use super::super::{Certificates, PrivateKey, Trust, Verify};
    use super::*;

    fn bytes(hex: &str) -> Vec<u8> {
        (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
    }

    /// Names in DER, and what `X509_NAME_oneline` of `OpenSSL` 3.0.19 writes for them.
    #[test]
    fn names_are_written_as_openssl_writes_them() {
        for (der, line) in [
            ("3000", ""),
            (
                "3055310b3009060355040613024445311d301b060355040a0c144578616d706c65202620436f2e2c20224c746422310a3008060355040b140161310a3008060355040b0c0162310f300d06035504030c06636c69656e74",
                r#"/C=DE/O=Example & Co., "Ltd"/OU=a/OU=b/CN=client"#,
            ),
            // UTF8String, TeletexString, BMPString, IA5String, NumericString.
            ("30163114301206035504030c0b4ac3bc7267656e20e282ac", r"/CN=J\xC3\xBCrgen \xE2\x82\xAC"),
            ("3011310f300d060355040314064afc7267656e", r"/CN=J\xFCrgen"),
            ("300f310d300b06035504031e04004a00fc", r"/CN=\x00J\x00\xFC"),
            ("301c311a301806092a864886f70d010901160b6140622e6578616d706c65", "/emailAddress=a@b.example"),
            ("3010310e300c060355040512053132203334", "/serialNumber=12 34"),
            // Bytes at the edges of what is printable, none at all, and what looks like an escape or another attribute.
            ("30133111300f06035504030c086100627f7e200900", r"/CN=a\x00b\x7F~ \x09\x00"),
            ("300b3109300706035504030c00", "/CN="),
            ("300f310d300b06035504030c045c784643", r"/CN=\xFC"),
            ("30123110300e06035504030c0720613d622c6320", "/CN= a=b,c "),
            // Every attribute.
            ("300c310a300806035504040c0176", "/SN=v"),
            ("300c310a300806035504070c0176", "/L=v"),
            ("300c310a300806035504080c0176", "/ST=v"),
            ("300c310a300806035504090c0176", "/street=v"),
            ("300c310a3008060355040c0c0176", "/title=v"),
            ("300c310a3008060355040d0c0176", "/description=v"),
            ("300c310a300806035504110c0176", "/postalCode=v"),
            ("300c310a300806035504290c0176", "/name=v"),
            ("300c310a3008060355042a0c0176", "/GN=v"),
            ("300c310a3008060355042b0c0176", "/initials=v"),
            ("300c310a3008060355042c0c0176", "/generationQualifier=v"),
            ("300c310a3008060355042e0c0176", "/dnQualifier=v"),
            ("300c310a300806035504410c0176", "/pseudonym=v"),
            ("30133111300f060a0992268993f22c6401010c0176", "/UID=v"),
            ("30133111300f060a0992268993f22c6401190c0176", "/DC=v"),
        ] {
            let name = RdnSequence::from_der(&bytes(der)).unwrap();
            assert_eq!(one_line(&name), Ok(line.to_owned()), "{der}");
        }
    }

    #[test]
    fn what_no_version_settles_is_not_written() {
        for (der, why) in [
            // OpenSSL 3.0.19: /CN=a\/b, /CN=a\+b, /CN=a+O=b, and 1.1.1: /CN=a/b, /CN=a+b, /CN=a/O=b.
            ("300e310c300a06035504030c03612f62", Unclear::Separator),
            ("300e310c300a06035504030c03612b62", Unclear::Separator),
            ("30163114300806035504030c01613008060355040a0c0162", Unclear::SideBySide),
            ("30023100", Unclear::SideBySide),
            // organizationIdentifier, which OpenSSL knows from 1.1 on, and 1.2.3.4.
            ("300c310a300806035504610c0176", Unclear::Attribute),
            ("300c310a300806032a03040c0176", Unclear::Attribute),
            // GeneralString, INTEGER, and half a character.
            ("300f310d300b06035504031b0400000061", Unclear::Type),
            ("300c310a30080603550403020101", Unclear::Type),
            ("300c310a300806035504031e0161", Unclear::Encoding),
        ] {
            let name = RdnSequence::from_der(&bytes(der)).unwrap();
            assert_eq!(one_line(&name), Err(why), "{der}");
        }
        // UniversalString.
        assert!(RdnSequence::from_der(&bytes("30133111300f06035504031c080000004a000000fc")).is_err());
    }

    #[test]
    fn a_certificate_has_both_names() {
        let authority = Authority::new("clients");
        let issued = authority.client(2100);
        let of = |pem: &str| Certificates::from_pem(pem.as_bytes()).unwrap();
        let key = PrivateKey::from_pem(issued.key.as_bytes()).unwrap();
        let shown = Trust::new(Verify::Nothing, None, Some((of(&issued.certificate), key))).unwrap();
        let names = shown.own().unwrap().names();
        assert_eq!(names.issuer.as_deref(), Ok("/CN=clients"));
        assert_eq!(names.subject.as_deref(), Ok("/CN=client of clients"));
        assert_eq!(of(&authority.pem).names().subject.as_deref(), Ok("/CN=clients"));
        let broken = CertificateNames::of(&CertificateDer::from(&b"\x30\x03\x02\x01\x01"[..]));
        assert_eq!(
            broken,
            CertificateNames { subject: Err(Unclear::Encoding), issuer: Err(Unclear::Encoding) }
        );
    }

    #[test]
    fn every_suite_that_is_served_has_a_name() {
        let suites = ring::default_provider().cipher_suites;
        assert_eq!(suites.len(), 9);
        for suite in suites {
            assert!(openssl_cipher(suite.suite()).is_some(), "{suite:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_certificate_panics(der: Vec<u8>) {
            let _ = CertificateNames::of(&CertificateDer::from(der));
        }
    }
}
