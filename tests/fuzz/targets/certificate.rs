//! The names in a client's certificate.
#![no_main]

use base64ct::{Base64, Encoding};
use libfuzzer_sys::fuzz_target;
use spillway::tls::Certificates;
use spillway_fuzz::bounded;

fuzz_target!(|der: &[u8]| {
    let pem =
        format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", Base64::encode_string(der));
    bounded(der, || {
        let Ok(certificates) = Certificates::from_pem(pem.as_bytes()) else { return };
        let names = certificates.names();
        for name in [names.subject, names.issuer].into_iter().flatten() {
            // Servers compare it byte by byte: another text must never look like it.
            assert!(name.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' '), "{name:?}");
        }
    });
});
