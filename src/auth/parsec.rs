//! `parsec` of MariaDB: a signature over both sides' scrambles, with a key from a salted, slow hash.
//!
//! The server sends 32 bytes of scramble; the client an empty packet; the server the salt, as
//! [`Params`]; the client its reply of [`REPLY`] bytes. The private key is ordinary Ed25519 with the seed
//! PBKDF2-HMAC-SHA512(password, salt, rounds). As with [`ed25519`], only the password
//! is enough to log in elsewhere.
//!
//! The salt goes out before anything is proved, so users that do not exist need one that stays the
//! same: [`Params::decoy`].

use std::num::NonZeroU32;

use aws_lc_rs::{hmac, pbkdf2};
use base64ct::{Base64, Base64Unpadded, Encoding};
use ed25519_dalek::{Signer, SigningKey, VerifyingKey};
use zeroize::Zeroizing;

use super::{Nonce, ed25519};

/// The plugin's name in the protocol and in accounts.
pub const PLUGIN: &str = "parsec";

/// Length of a salt.
pub const SALT: usize = 18;

/// Length of the packet with the salt.
pub const PARAMS: usize = 2 + SALT;

/// Length of a client's reply: its scramble and its signature.
pub const REPLY: usize = 32 + ed25519::REPLY;

/// How many times the rounds may double from 1024.
const FACTORS: std::ops::RangeInclusive<u8> = 0..=3;

/// How a password becomes a private key: what the server tells the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Params {
    factor: u8,
    salt: [u8; SALT],
}

impl Params {
    /// Reads the packet of a server: `P`, how many times the rounds double from 1024, and the salt.
    /// None: it is of another form, or asks for more rounds than servers do.
    pub fn decode(payload: &[u8]) -> Option<Self> {
        let [b'P', factor, salt @ ..] = payload else { return None };
        let salt = salt.try_into().ok()?;
        FACTORS.contains(factor).then_some(Self { factor: *factor, salt })
    }

    /// The payload that a client takes.
    pub fn encode(&self) -> [u8; PARAMS] {
        let mut payload = [0; PARAMS];
        payload[..2].copy_from_slice(&[b'P', self.factor]);
        payload[2..].copy_from_slice(&self.salt);
        payload
    }

    /// Those of a user that does not exist: always the same for a name, and not to be told from real
    /// ones without the secret. The secret must be random, live as long as accounts keep their salts,
    /// and be that of every process that clients may compare; 32 bytes are plenty.
    pub fn decoy(secret: &[u8], user: &[u8]) -> Self {
        let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
        let mut context = hmac::Context::with_key(&key);
        context.update(b"parsec salt\0");
        context.update(user);
        let mut salt = [0; SALT];
        salt.copy_from_slice(&context.sign().as_ref()[..SALT]);
        // The only factor that servers write.
        Self { factor: 0, salt }
    }

    /// The private key, which is wiped on drop.
    fn private(&self, password: &[u8]) -> SigningKey {
        let rounds = NonZeroU32::MIN.saturating_add((1024 << self.factor) - 1);
        let mut seed = Zeroizing::new([0; 32]);
        pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA512, rounds, &self.salt, password, &mut *seed);
        SigningKey::from_bytes(&seed)
    }

    /// The text that a server stores for a password.
    pub fn stored(&self, password: &[u8]) -> String {
        let key = self.private(password).verifying_key();
        format!(
            "P{}:{}:{}",
            self.factor,
            Base64::encode_string(&self.salt),
            Base64Unpadded::encode_string(key.as_bytes())
        )
    }
}

/// The stored form of a password.
#[derive(Clone, PartialEq, Eq)]
pub enum Stored {
    /// How the key was made, and the public key.
    Key(Params, Box<VerifyingKey>),
    /// No text, or text of another form, or a key that anybody could sign for: no reply is right.
    Unusable,
}

impl Stored {
    /// Reads the authentication string of an account: `P`, a digit from 0 to 3, `:`, the salt as 24
    /// characters of base64, `:`, and the public key as 43 characters of base64 without padding.
    pub fn parse(text: &str) -> Self {
        Self::read(text).unwrap_or(Self::Unusable)
    }

    fn read(text: &str) -> Option<Self> {
        let (head, rest) = text.split_once(':')?;
        let (salt, key) = rest.split_once(':')?;
        let [b'P', digit @ b'0'..=b'3'] = head.as_bytes() else { return None };
        let mut bytes = [0; SALT];
        if Base64::decode(salt, &mut bytes).ok()?.len() != SALT {
            return None;
        }
        Some(Self::Key(Params { factor: digit - b'0', salt: bytes }, Box::new(ed25519::key(key)?)))
    }

    /// What the client is told. None: nothing is stored; tell it [`Params::decoy`], and
    /// [`verify`] its reply all the same.
    pub fn params(&self) -> Option<Params> {
        match self {
            Self::Key(params, _) => Some(*params),
            Self::Unusable => None,
        }
    }
}

/// Whether a client's reply is right: its scramble, and its signature over the server's scramble and
/// its own. Only one of 96 bytes is, and none without a stored key.
pub fn verify(reply: &[u8], scramble: &Nonce, stored: &Stored) -> bool {
    let Some((own, signature)) = reply.split_first_chunk::<32>() else { return false };
    let message = message(scramble, own);
    match stored {
        Stored::Key(_, key) => ed25519::is_signed(&message, signature, key),
        Stored::Unusable => {
            // The same work as for a key, so that time tells nothing.
            let _ = ed25519::is_signed(&message, signature, &ed25519::dummy());
            false
        }
    }
}

/// The reply to a server's scramble, with a scramble of our own, which must be fresh. It costs the
/// rounds that the server asks for, 8192 at most.
pub fn sign(password: &[u8], params: &Params, scramble: &Nonce, own: &Nonce) -> [u8; REPLY] {
    let signature = params.private(password).sign(&message(scramble, own));
    let mut reply = [0; REPLY];
    reply[..32].copy_from_slice(own);
    reply[32..].copy_from_slice(&signature.to_bytes());
    reply
}

fn message(scramble: &Nonce, own: &Nonce) -> [u8; 64] {
    let mut message = [0; 64];
    message[..32].copy_from_slice(scramble);
    message[32..].copy_from_slice(own);
    message
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SCRAMBLE: Nonce = *b"abcdefghijklmnopqrstuvwxyz012345";
    const OWN: Nonce = *b"543210zyxwvutsrqponmlkjihgfedcba";
    /// `PASSWORD('MyPassword123!')`, from MariaDB's release notes.
    const SERVER: &str = "P0:lhXyNv1cIxpB8EnTxR7ON7S7:1l3rWRW1/jw45yrvYXB8eh02wzk7lcJcz4CMcWw2b+8";

    #[test]
    fn the_servers_key_verifies() {
        let stored = Stored::parse(SERVER);
        let params = stored.params().expect("usable");
        assert_eq!(params.stored(b"MyPassword123!"), SERVER);
        let reply = sign(b"MyPassword123!", &params, &SCRAMBLE, &OWN);
        assert!(verify(&reply, &SCRAMBLE, &stored));
        assert!(!verify(&reply, &OWN, &stored));
        assert!(!verify(&sign(b"MyPassword123", &params, &SCRAMBLE, &OWN), &SCRAMBLE, &stored));
        assert!(!verify(&sign(b"", &params, &SCRAMBLE, &OWN), &SCRAMBLE, &stored));
        let mut other = reply;
        other[0] ^= 1;
        assert!(!verify(&other, &SCRAMBLE, &stored));
        for end in 0..REPLY {
            assert!(!verify(&reply[..end], &SCRAMBLE, &stored), "{end}");
        }
        assert!(!verify(&[&reply[..], &[0]].concat(), &SCRAMBLE, &stored));
    }

    #[test]
    fn rounds_double() {
        for (digit, rounds) in [(0, 1024), (1, 2048), (2, 4096), (3, 8192)] {
            let params = Params { factor: digit, salt: *b"abcdefghijklmnopqr" };
            let mut seed = [0; 32];
            let rounds = NonZeroU32::new(rounds).unwrap();
            pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA512, rounds, &params.salt, b"secret", &mut seed);
            assert_eq!(params.private(b"secret").as_bytes(), &seed);
            assert!(params.stored(b"secret").starts_with(&format!("P{digit}:YWJjZGVm")));
        }
    }

    #[test]
    fn text_of_another_form_never_matches() {
        for end in 0..SERVER.len() {
            assert!(Stored::parse(&SERVER[..end]) == Stored::Unusable, "{end}");
        }
        for (from, to) in
            [("P0:", "P4:"), ("P0:", "Q0:"), ("P0:", "P00:"), ("P0:", "P:"), ("7:1", "7=:1"), ("b+8", "b+8=")]
        {
            let text = SERVER.replace(from, to);
            assert!(text != SERVER && Stored::parse(&text) == Stored::Unusable, "{text}");
        }
        let weak = format!("P0:lhXyNv1cIxpB8EnTxR7ON7S7:{}", Base64Unpadded::encode_string(&[0; 32]));
        assert!(Stored::parse(&weak) == Stored::Unusable);
    }

    #[test]
    fn a_decoy_is_stable_and_never_right() {
        let of = |secret: &[u8], user: &[u8]| Params::decoy(secret, user);
        assert_eq!(of(b"secret", b"alice"), of(b"secret", b"alice"));
        assert_ne!(of(b"secret", b"alice"), of(b"secret", b"bob"));
        assert_ne!(of(b"secret", b"alice"), of(b"Secret", b"alice"));
        assert_ne!(of(b"", b""), of(b"", b"a"));
        let reply = sign(b"", &of(b"secret", b"alice"), &SCRAMBLE, &OWN);
        assert!(!verify(&reply, &SCRAMBLE, &Stored::Unusable));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn any_text_is_read_or_refused(
            text in ".{0,90}",
            close in "P[0-9]:[A-Za-z0-9+/=]{20,26}:[A-Za-z0-9+/=]{41,45}",
        ) {
            let _ = Stored::parse(&text);
            let _ = Stored::parse(&close);
        }

        #[test]
        fn any_packet_is_read_or_refused(payload in proptest::collection::vec(any::<u8>(), 0..24), factor in 0_u8..6) {
            for payload in [payload.clone(), [&[b'P', factor], &payload[..]].concat()] {
                if let Some(params) = Params::decode(&payload) {
                    prop_assert_eq!(&params.encode()[..], &payload[..]);
                }
            }
        }

        #[test]
        fn params_survive_their_packet(factor in FACTORS, salt in any::<[u8; SALT]>()) {
            let params = Params { factor, salt };
            prop_assert_eq!(Params::decode(&params.encode()), Some(params));
        }

        #[test]
        fn a_wrong_reply_is_refused(reply in proptest::collection::vec(any::<u8>(), 0..120)) {
            prop_assert!(!verify(&reply, &SCRAMBLE, &Stored::parse(SERVER)));
            prop_assert!(!verify(&reply, &SCRAMBLE, &Stored::Unusable));
        }

        #[test]
        fn any_password_verifies_against_its_own_key(
            password in proptest::collection::vec(any::<u8>(), 0..200),
            other in proptest::collection::vec(any::<u8>(), 0..200),
            salt in any::<[u8; SALT]>(),
        ) {
            let params = Params { factor: 0, salt };
            let stored = Stored::parse(&params.stored(&password));
            prop_assert_eq!(stored.params(), Some(params));
            prop_assert!(verify(&sign(&password, &params, &SCRAMBLE, &OWN), &SCRAMBLE, &stored));
            let found = verify(&sign(&other, &params, &SCRAMBLE, &OWN), &SCRAMBLE, &stored);
            prop_assert_eq!(found, password == other);
        }
    }
}
