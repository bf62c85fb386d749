//! What an identity is made of, and what is wrong with one.

use super::specimen::{Authority, NAME};
use super::*;

fn parts(certificate: &str, key: &str, authorities: Option<&str>) -> Result<Identity, (Part, Flaw)> {
    let certificates = Certificates::from_pem(certificate.as_bytes()).map_err(|f| (Part::Certificate, f))?;
    let key = PrivateKey::from_pem(key.as_bytes()).map_err(|f| (Part::Key, f))?;
    let authorities = authorities
        .map(|pem| Certificates::from_pem(pem.as_bytes()))
        .transpose()
        .map_err(|f| (Part::Authorities, f))?;
    Identity::new(certificates, key, authorities)
}

#[test]
fn the_part_that_is_wrong_is_named() {
    let authority = Authority::new("one");
    let (server, other) = (authority.server(NAME), authority.server(NAME));
    assert!(parts(&server.certificate, &server.key, Some(&authority.pem)).is_ok());
    // One file for both.
    let both = format!("{}{}", server.key, server.certificate);
    assert!(parts(&both, &both, None).is_ok());
    let broken = server.certificate.replace("MII", "!!!");
    let no_certificate = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let no_key = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
    for (certificate, key, authorities, part, flaw) in [
        ("", &*server.key, None, Part::Certificate, Some(Flaw::NotPem)),
        ("text", &server.key, None, Part::Certificate, Some(Flaw::NotPem)),
        (&broken, &server.key, None, Part::Certificate, Some(Flaw::NotPem)),
        (&server.key, &server.key, None, Part::Certificate, Some(Flaw::NoCertificate)),
        (no_certificate, &server.key, None, Part::Certificate, None),
        (&server.certificate, "", None, Part::Key, Some(Flaw::NotPem)),
        (&server.certificate, &server.certificate, None, Part::Key, Some(Flaw::NoKey)),
        (&server.certificate, &other.key, None, Part::Key, Some(Flaw::OtherKey)),
        (&server.certificate, no_key, None, Part::Key, None),
        (&server.certificate, &server.key, Some(""), Part::Authorities, Some(Flaw::NotPem)),
        (&server.certificate, &server.key, Some(no_certificate), Part::Authorities, None),
    ] {
        let (wrong, why) = parts(certificate, key, authorities).expect_err("wrong");
        assert_eq!(wrong, part, "{why}");
        match flaw {
            Some(flaw) => assert_eq!(why, flaw),
            None => assert!(matches!(why, Flaw::Unusable(_)), "{why}"),
        }
    }
}

#[test]
fn identities_differ_by_their_certificates_and_show_no_key() {
    let authority = Authority::new("one");
    let (server, renewed) = (authority.server(NAME), authority.server(NAME));
    let first = parts(&server.certificate, &server.key, None).unwrap();
    assert_eq!(first, parts(&server.certificate, &server.key, None).unwrap());
    assert_ne!(first, parts(&renewed.certificate, &renewed.key, None).unwrap());
    assert_ne!(first, parts(&server.certificate, &server.key, Some(&authority.pem)).unwrap());
    let shown = format!("{first:?} {:?}", PrivateKey::from_pem(server.key.as_bytes()).unwrap());
    assert_eq!(shown, "Identity { certificates: Certificates(1), authorities: None, .. } PrivateKey(***)");
}

proptest::proptest! {
    #[test]
    fn no_text_panics(text: Vec<u8>) {
        let _ = Certificates::from_pem(&text);
        let _ = PrivateKey::from_pem(&text);
        let armoured = [b"-----BEGIN PRIVATE KEY-----\n", &text[..], b"\n-----END PRIVATE KEY-----\n"].concat();
        let _ = PrivateKey::from_pem(&armoured);
    }
}
