//! Passwords under RSA, where `caching_sha2_password` and `sha256_password` have no TLS.
//!
//! The client takes the server's public key, and sends the password and its NUL, XOR the scramble
//! again and again, under OAEP with SHA-1. That keeps a password from those who listen, but not from
//! those who can answer in the server's place: they give out a key of their own. So encrypt only to
//! keys that are known to be the server's, and treat what a client sent this way as no better proved
//! than that.
//!
//! # Timing
//! The `rsa` crate is not used here: RUSTSEC-2023-0071, the Marvin attack, says that the time it
//! takes to decrypt can leak the key to a client that asks often enough, and blinding makes that
//! harder rather than impossible. AWS-LC decrypts in constant time with blinding, and checks the
//! padding in constant time. That leaves what the caller shows: a wrong padding and a wrong password
//! must look the same, with the same work behind them. [`KeyPair::decrypt`] gives no reason for that
//! cause; go on with a password that is wrong.

use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::rsa::{
    KeySize, OAEP_SHA1_MGF1SHA1, OaepPrivateDecryptingKey, OaepPublicEncryptingKey, PrivateDecryptingKey,
    PublicEncryptingKey,
};
use base64ct::{Base64, Encoding};
use zeroize::Zeroizing;

use super::clear::Password;
use crate::wire::handshake::Scramble;

/// The longest public key that is read, in bytes of PEM. One of 8192 bits, the longest that is
/// understood, has 1440.
const LONGEST_PEM: usize = 4096;

const BEGIN: &str = "-----BEGIN PUBLIC KEY-----";
const END: &str = "-----END PUBLIC KEY-----";

/// RSA failed, for a reason that is not told: no random numbers, or no memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Failed;

impl std::fmt::Display for Failed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RSA failed")
    }
}

impl std::error::Error for Failed {}

/// Our own key, which clients send their passwords under.
///
/// The private key lives inside AWS-LC, which wipes what it frees.
pub struct KeyPair {
    private: OaepPrivateDecryptingKey,
    public: String,
}

impl std::fmt::Debug for KeyPair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("KeyPair(..)")
    }
}

impl KeyPair {
    /// A fresh key of 2048 bits. It takes up to a second of processor time.
    ///
    /// # Errors
    /// When there are no random numbers.
    pub fn generate() -> Result<Self, Failed> {
        Self::new(PrivateDecryptingKey::generate(KeySize::Rsa2048).map_err(|_| Failed)?)
    }

    fn new(private: PrivateDecryptingKey) -> Result<Self, Failed> {
        let public: PublicKeyX509Der<'_> = private.public_key().as_der().map_err(|_| Failed)?;
        let public = pem(public.as_ref());
        let private = OaepPrivateDecryptingKey::new(private).map_err(|_| Failed)?;
        Ok(Self { private, public })
    }

    /// The public key as clients take it in `AuthMoreData`: PEM, in lines of 64 characters.
    pub fn public_pem(&self) -> &str {
        &self.public
    }

    /// The password that a client sent under our key. None: it cannot be read, which must look like
    /// a wrong password.
    pub fn decrypt(&self, payload: &[u8], scramble: &Scramble) -> Option<Password> {
        if payload.len() != self.private.key_size_bytes() {
            return None;
        }
        let mut buffer = Zeroizing::new(vec![0; self.private.min_output_size()]);
        let clear = self.private.decrypt(&OAEP_SHA1_MGF1SHA1, payload, &mut buffer, None).ok()?;
        mask(clear, scramble);
        Password::decode(clear)
    }
}

/// A server's public key.
#[derive(Clone, PartialEq, Eq)]
pub struct ServerKey(Vec<u8>);

impl std::fmt::Debug for ServerKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ServerKey(..)")
    }
}

impl ServerKey {
    /// Reads the PEM that a server sends, or that stands in its `public_key.pem`: from 2048 to 8192
    /// bits. None: it is of another form.
    pub fn from_pem(payload: &[u8]) -> Option<Self> {
        if payload.len() > LONGEST_PEM {
            return None;
        }
        let text = std::str::from_utf8(payload).ok()?;
        let (_, text) = text.split_once(BEGIN)?;
        let (text, _) = text.split_once(END)?;
        let base64: String = text.split_ascii_whitespace().collect();
        let key = Self(Base64::decode_vec(&base64).ok()?);
        key.read().is_some().then_some(key)
    }

    fn read(&self) -> Option<OaepPublicEncryptingKey> {
        OaepPublicEncryptingKey::new(PublicEncryptingKey::from_der(&self.0).ok()?).ok()
    }

    /// The password as the server takes it. None: it is too long for the key, 213 bytes at 2048 bits,
    /// or there are no random numbers.
    pub fn encrypt(&self, password: &Password, scramble: &Scramble) -> Option<Vec<u8>> {
        let key = self.read()?;
        let mut clear = password.encode();
        mask(clear.as_mut_bytes(), scramble);
        let mut payload = vec![0; key.ciphertext_size()];
        let length = key.encrypt(&OAEP_SHA1_MGF1SHA1, clear.as_bytes(), &mut payload, None).ok()?.len();
        payload.truncate(length);
        Some(payload)
    }
}

fn mask(clear: &mut [u8], scramble: &Scramble) {
    for (byte, mask) in clear.iter_mut().zip(scramble.iter().cycle()) {
        *byte ^= mask;
    }
}

fn pem(der: &[u8]) -> String {
    let base64 = Base64::encode_string(der);
    let mut text = format!("{BEGIN}\n");
    let mut rest = base64.as_str();
    while !rest.is_empty() {
        let (line, more) = rest.split_at(rest.len().min(64));
        text.push_str(line);
        text.push('\n');
        rest = more;
    }
    text + END + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::sync::OnceLock;

    const SCRAMBLE: Scramble = *b"abcdefghijklmnopqrst";

    fn pair() -> &'static KeyPair {
        static PAIR: OnceLock<KeyPair> = OnceLock::new();
        PAIR.get_or_init(|| KeyPair::generate().unwrap())
    }

    fn server() -> ServerKey {
        ServerKey::from_pem(pair().public_pem().as_bytes()).unwrap()
    }

    /// A key made for this test alone, by `openssl genrsa`: PKCS #8, and the public key as
    /// `openssl rsa -pubout` writes it.
    const PRIVATE: &str = "MIIEvAIBADANBgkqhkiG9w0BAQEFAASCBKYwggSiAgEAAoIBAQC3NLDyUNACo7FkUVYF4fCr3LJLFRzlM295ETKP\
        ebgRPozsbpUFrXSGsuUuiiN3Ih2e0JL8h0MpPwtoIOiqiWxbw39m9w7s2CFZLiXMnV/lgSQyDFLR7pogaRzZaTui\
        tCzjCPvWLNgFKSdxbCzJ54Ho8mSBEAuo3IoQ3T2oqdKq6PUIaYkat77xG5dPeRkgkVgOzI3d8HtZXYE4DSNLpm1U\
        qgwvTDdjCkY/hex+btD0yTdyceHX2SONPi1Ohgx89MF1w3IXz4JEjtTSkLqqygq0XFu/BburVBpbJCaX58wWscb7\
        lP2NkF2B4v9eOACIASoRMICp/b+mfPMzsX+EfqXtAgMBAAECggEAHJcs/AvPgnHwR5MH5TAe4ns1GdGIKl6uCUs9\
        RDW/G3XTATy6peGtWy4E5Q/qu/dHfxbWsXEcco3jplLobGC419M5CSUKH70U6zlv7bArnIHcV7EjpZ5iUCeHOIib\
        JWePz7iBsKlb5uZGwQUcMkAePm/BboDGCQqtwzb7ndwuw7wGVuMe6qNGeYmP0NoRoKS532lTrHr4dzxzKrbh666J\
        cF2pcmRg6WTh8cl3KS76V0pq2vrWXt57cW5j2ZHEFSiZ8lU8HWeQ0AN+iUephR7ic4cawwa5IQEHdlG9a979w9co\
        7rivKfKGQ/QN5fug7vYQsFsR+kl9T3BVR01X0H0ZQwKBgQDrvoLMjkY/MpFom5k5QRZiraEV1bbsPA/sRrF6dvgf\
        fXRlRo0Am4MgGH/U9TwDCy3oTjkptTwnI+1dWZAch0gdtcRDM7We0r/PMHIvB5fKsuaxyOsJJasM7Dod62VOOqcZ\
        a9/kZmsk7B3wRBj3JdMytZ5+ItRS2shUp6pyNt9RvwKBgQDG8oh9Jvopu0KGDIXqSvpJ3eReEVhJD7BEZyNZkeaB\
        1OEUFB3ia2uumi3asghG3a+HucMET38nfbt14qxH+A9oV3PAc+WrVirSADqvT7v6le1NfsWAgWBNUKWuktfUdPrz\
        sy9wHkelLj92TVVEd0SQqMh7BCCv14QxOP+HAYgbUwKBgC43Ow0/FyZsk3Uei/tddzYBNAND0oidfcGkWkbX6+zA\
        e4EfQ6VK13oDU4w8R3eRSX6xVyOGFDTYJkCWvlnZa5nneIJ0MLbiOhg0Ny5hHrDuQau459rzN4VhCkOzUjjz5q5l\
        J49vRLIIWBYyQ3KwR6c5U8kGqvlTStLNy+x4NW+hAoGASiFtQlUXuh0QuKpJ6/dsM8H+qh6EaxTxdUuJHIMFBTOx\
        eq3URN4KDdFdbLQR6XYJReWuCRkmJCzxgQepcle4RgTwGLIWzjUZV47GTzTCsqjS96FZLn0GyUhXtCj7Sysbp1sJ\
        PhnKUH5fH1HJh+15Gv4JVe0/0MXZeA3pCQFFGgkCgYBuYxhP0NcSce9Jb7J8etx9sRfcqAiw4/gOnXWByiRLYDqG\
        g1EESaArGLfZwOKgnBYziSyzxgGWpEfQGSF20sraKgSzQSaBMrS7MYrgZD3PB7O5C2LDLhq9TNy6bWU6PNiUtmFO\
        2CKtsUQQEP2nAebatzPNxqx2fZE+9Mc7AfYwdA==";
    const PUBLIC: &str = "\
-----BEGIN PUBLIC KEY-----
MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEAtzSw8lDQAqOxZFFWBeHw
q9yySxUc5TNveREyj3m4ET6M7G6VBa10hrLlLoojdyIdntCS/IdDKT8LaCDoqols
W8N/ZvcO7NghWS4lzJ1f5YEkMgxS0e6aIGkc2Wk7orQs4wj71izYBSkncWwsyeeB
6PJkgRALqNyKEN09qKnSquj1CGmJGre+8RuXT3kZIJFYDsyN3fB7WV2BOA0jS6Zt
VKoML0w3YwpGP4Xsfm7Q9Mk3cnHh19kjjT4tToYMfPTBdcNyF8+CRI7U0pC6qsoK
tFxbvwW7q1QaWyQml+fMFrHG+5T9jZBdgeL/XjgAiAEqETCAqf2/pnzzM7F/hH6l
7QIDAQAB
-----END PUBLIC KEY-----
";
    /// `secret secret secret secret` and its NUL, XOR the scramble, under that key by
    /// `openssl pkeyutl -encrypt -pkeyopt rsa_padding_mode:oaep -pkeyopt rsa_oaep_md:sha1`.
    const ENCRYPTED: &str = "pJb8WD9A+8aJSoCS7D+vTDoJiPZynIh6LR0DSWSxwyd9DUlf1TSHKF9YzPxslv/Lavk1DFNar9MoBnVotTJtLaSz\
        zQwtwWAYfkvfMnmYJKTAvl3m19TfGV+Wi45oZJWM6TPBo+CkYeuyg1j1Dvh/0YduJ4U7jJine8zfcp9R+lgp2Yck\
        BhfcZJN63IIb9wKgSsHzRXy/L2HhI52VGCRvisFRpfIPthWu+de2aJWCX3iehtLgg7ZvvL5Tc753V3f+IHunnpcR\
        OYqdHmhePO6FWTGF215ynyiQSkdtWGiPoKGvhEv7w5KCSBHQzWrXcV5H37sf9QYVJyp5imVoKGZfkA==";

    #[test]
    fn it_agrees_with_openssl() {
        let private = Base64::decode_vec(PRIVATE).unwrap();
        let pair = KeyPair::new(PrivateDecryptingKey::from_pkcs8(&private).unwrap()).unwrap();
        assert_eq!(pair.public_pem(), PUBLIC);
        let encrypted = Base64::decode_vec(ENCRYPTED).unwrap();
        let password = pair.decrypt(&encrypted, &SCRAMBLE).unwrap();
        assert_eq!(password.as_bytes(), b"secret secret secret secret");
        let key = ServerKey::from_pem(PUBLIC.as_bytes()).unwrap();
        let payload = key.encrypt(&password, &SCRAMBLE).unwrap();
        assert_eq!(pair.decrypt(&payload, &SCRAMBLE).unwrap().as_bytes(), password.as_bytes());
    }

    #[test]
    fn passwords_go_from_client_to_server() {
        let payload = server().encrypt(&Password::new(b"secret"), &SCRAMBLE).unwrap();
        assert_eq!(payload.len(), 256);
        assert_eq!(pair().decrypt(&payload, &SCRAMBLE).unwrap().as_bytes(), b"secret");
        // Nobody can use it for another login.
        let other = *b"TSRQPONMLKJIHGFEDCBA";
        assert!(pair().decrypt(&payload, &other).is_none_or(|p| p.as_bytes() != b"secret"));
        assert!(KeyPair::generate().unwrap().decrypt(&payload, &SCRAMBLE).is_none());
    }

    #[test]
    fn the_longest_password_is_213_bytes() {
        let of = |length: usize| server().encrypt(&Password::new(&vec![b'x'; length]), &SCRAMBLE);
        let payload = of(213).unwrap();
        assert_eq!(pair().decrypt(&payload, &SCRAMBLE).unwrap().as_bytes(), [b'x'; 213]);
        assert!(of(214).is_none());
    }

    #[test]
    fn the_public_key_is_pem_as_openssl_writes_it() {
        let pem = pair().public_pem();
        assert!(pem.starts_with("-----BEGIN PUBLIC KEY-----\nMIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEA"));
        assert!(pem.ends_with("\n-----END PUBLIC KEY-----\n"));
        let lines: Vec<_> = pem.lines().collect();
        assert!(lines[1..lines.len() - 2].iter().all(|l| l.len() == 64));
        assert!(pem.is_ascii());
    }

    #[test]
    fn keys_of_another_form_are_refused() {
        let pem = pair().public_pem();
        let swapped = pem.replace("PUBLIC", "PRIVATE");
        let long = format!("{}{pem}", " ".repeat(LONGEST_PEM));
        for text in
            ["", BEGIN, "-----BEGIN PUBLIC KEY----------END PUBLIC KEY-----", &pem[..100], &swapped, &long]
        {
            assert!(ServerKey::from_pem(text.as_bytes()).is_none(), "{text}");
        }
        let crlf = pem.replace('\n', "\r\n");
        assert!(ServerKey::from_pem(crlf.as_bytes()).is_some());
    }

    #[test]
    fn keys_are_never_printed() {
        assert_eq!(format!("{:?}{:?}", pair(), server()), "KeyPair(..)ServerKey(..)");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn any_packet_is_read_or_refused(
            short in proptest::collection::vec(any::<u8>(), 0..300),
            whole in proptest::collection::vec(any::<u8>(), 256),
        ) {
            prop_assert!(pair().decrypt(&short, &SCRAMBLE).is_none());
            prop_assert!(pair().decrypt(&whole, &SCRAMBLE).is_none());
        }

        #[test]
        fn any_pem_is_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = ServerKey::from_pem(&bytes);
            let _ = ServerKey::from_pem(pem(&bytes).as_bytes());
        }

        #[test]
        fn a_damaged_key_is_read_or_refused(at in 0_usize..400, byte in any::<u8>()) {
            let mut text = pair().public_pem().as_bytes().to_vec();
            let at = at % text.len();
            text[at] = byte;
            if let Some(key) = ServerKey::from_pem(&text) {
                let _ = key.encrypt(&Password::new(b"secret"), &SCRAMBLE);
            }
        }

        #[test]
        fn any_password_arrives(password in proptest::collection::vec(1_u8.., 0..214), scramble in any::<Scramble>()) {
            let payload = server().encrypt(&Password::new(&password), &scramble).unwrap();
            let found = pair().decrypt(&payload, &scramble).unwrap();
            prop_assert_eq!(found.as_bytes(), &password[..]);
        }
    }
}
