//! Answers of plugins, from both sides: what clients reply, what nodes ask, and what stands in accounts. Nothing that is
//! made without the password is right.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use spillway::auth::clear::Password;
use spillway::auth::rsa::ServerKey;
use spillway::auth::{Heard, Proof, caching_sha2, ed25519, native, parsec, sha256_password};
use spillway_fuzz::{bounded, part};

/// What servers store for a password that no input has.
static NATIVE: &str = "*2470C0C06DEE42FD1618BB99005ADCA2EC9D1E19";
static ED25519: LazyLock<String> = LazyLock::new(|| ed25519::stored(b"not in any input"));
static PARAMS: LazyLock<parsec::Params> = LazyLock::new(|| parsec::Params::decoy(b"any", b"salt"));
static PARSEC: LazyLock<String> = LazyLock::new(|| PARAMS.stored(b"not in any input"));

fuzz_target!(|input: &[u8]| {
    LazyLock::force(&ED25519);
    LazyLock::force(&PARSEC);
    bounded(input, || {
        let mut rest = input;
        let (length, scramble): ([u8; 1], [u8; 20]) = (part(&mut rest), part(&mut rest));
        let (first, second) = rest.split_at(usize::from(length[0]).min(rest.len()));
        assert!(native::verify(first, &scramble, &native::Stored::parse(NATIVE)).is_none());
        assert!(
            caching_sha2::Remembered::from_password(b"not in any input").verify(first, &scramble).is_none()
        );
        if let Some(password) = Password::decode(first) {
            assert!(!password.as_bytes().contains(&0) && password.as_bytes().len() < first.len());
            assert_eq!(password.encode().as_bytes(), first);
        }
        relayed(first, second);
        stored(first);
        for proof in [Proof::from_password(b"secret"), Proof::from_password(b""), Proof::Relayed] {
            let _ = proof.reply(first, second);
        }
        if let Some(key) = ServerKey::from_pem(first) {
            let _ = key.encrypt(&Password::new(b"secret"), &scramble);
        }
    });
});

/// A relayed exchange: two questions and what is answered to them.
fn relayed(question: &[u8], answer: &[u8]) {
    let mut heard = Heard::default();
    for (question, answer) in [(question, answer), (answer, question), (question, question)] {
        heard.asked(question);
        let passed = heard.answered(answer.to_vec());
        assert!(passed == answer || heard.wrong().is_some_and(|wrong| passed == wrong));
        assert!(!heard.is_right("ed25519", &ED25519) && !heard.is_right("parsec", &PARSEC));
        assert!(!heard.is_hopeless("ed25519", &ED25519));
    }
}

/// Text of an account.
fn stored(text: &[u8]) {
    let _ = (caching_sha2::parse(text), sha256_password::parse(text));
    if let Some(params) = parsec::Params::decode(text) {
        assert_eq!(params.encode(), text);
    }
    let Ok(text) = std::str::from_utf8(text) else { return };
    let _ = (native::Stored::parse(text), ed25519::Stored::parse(text), parsec::Stored::parse(text));
    assert!(!ed25519::verify(&[0; 64], &[0; 32], &ed25519::Stored::parse(text)));
    assert!(!parsec::verify(&[0; 96], &[0; 32], &parsec::Stored::parse(text)));
}
