//! `ed25519` of MariaDB: a signature over the server's nonce.
//!
//! The server stores a public key. The private key is made from h = SHA512(password), of any length,
//! where ordinary Ed25519 hashes a seed of 32 bytes; the rest is ordinary. Neither the stored key nor
//! a right reply is enough to log in elsewhere: that takes the password.

use std::sync::LazyLock;

use base64ct::{Base64Unpadded, Encoding};
use ed25519_dalek::hazmat::{ExpandedSecretKey, raw_sign};
use ed25519_dalek::{Signature, VerifyingKey};
use sha2::{Digest, Sha512};
use zeroize::Zeroizing;

use super::Nonce;

/// The plugin's name in the protocol: the client's side.
pub const PLUGIN: &str = "client_ed25519";

/// The plugin's name in accounts: the server's side.
pub const ACCOUNT_PLUGIN: &str = "ed25519";

/// Length of a reply.
pub const REPLY: usize = 64;

/// The stored form of a password.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Stored {
    /// The public key.
    Key(VerifyingKey),
    /// No text, or text of another form, or a key that anybody could sign for: no reply is right.
    Unusable,
}

impl Stored {
    /// Reads the authentication string of an account: 43 characters of base64 without padding.
    pub fn parse(text: &str) -> Self {
        key(text).map_or(Self::Unusable, Self::Key)
    }
}

/// Reads a public key, other than one of the few that fit signatures made without a private key.
pub(super) fn key(text: &str) -> Option<VerifyingKey> {
    let mut bytes = [0; 32];
    let read = Base64Unpadded::decode(text, &mut bytes).ok()?.len();
    let key = VerifyingKey::from_bytes(&bytes).ok()?;
    (read == bytes.len() && !key.is_weak()).then_some(key)
}

/// Whether a reply is right. Only one of 64 bytes is, and none without a stored key.
pub fn verify(reply: &[u8], nonce: &Nonce, stored: &Stored) -> bool {
    match stored {
        Stored::Key(key) => is_signed(nonce, reply, key),
        Stored::Unusable => {
            // The same work as for a key, so that time tells nothing.
            let _ = is_signed(nonce, reply, &dummy());
            false
        }
    }
}

/// Strictly, as RFC 8032 has it and without points of small order: of one signature no other can be
/// made.
pub(super) fn is_signed(message: &[u8], signature: &[u8], key: &VerifyingKey) -> bool {
    Signature::from_slice(signature).is_ok_and(|signature| key.verify_strict(message, &signature).is_ok())
}

/// A key to verify with where there is none. What it says counts for nothing.
pub(super) fn dummy() -> VerifyingKey {
    static DUMMY: LazyLock<VerifyingKey> =
        LazyLock::new(|| VerifyingKey::from(&ExpandedSecretKey::from_bytes(&[1; 64])));
    *DUMMY
}

/// The public key that a server stores for a password, as text.
pub fn stored(password: &[u8]) -> String {
    Base64Unpadded::encode_string(VerifyingKey::from(&private(password)).as_bytes())
}

/// The reply to a nonce.
pub fn sign(password: &[u8], nonce: &Nonce) -> [u8; REPLY] {
    let private = private(password);
    raw_sign::<Sha512>(&private, nonce, &VerifyingKey::from(&private)).to_bytes()
}

/// The private key, which is wiped on drop.
fn private(password: &[u8]) -> ExpandedSecretKey {
    let hash: Zeroizing<[u8; 64]> = Zeroizing::new(Sha512::digest(password).into());
    ExpandedSecretKey::from_bytes(&hash)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NONCE: Nonce = *b"abcdefghijklmnopqrstuvwxyz012345";
    /// `SELECT ed25519_password('secret')`, from MariaDB's documentation.
    const SECRET: &str = "ZIgUREUg5PVgQ6LskhXmO+eZLS0nC8be6HPjYWR4YJY";

    #[test]
    fn the_servers_key_verifies() {
        assert_eq!(stored(b"secret"), SECRET);
        let reply = sign(b"secret", &NONCE);
        assert!(verify(&reply, &NONCE, &Stored::parse(SECRET)));
        assert!(!verify(&reply, &[b'x'; 32], &Stored::parse(SECRET)));
        assert!(!verify(&sign(b"Secret", &NONCE), &NONCE, &Stored::parse(SECRET)));
        assert!(!verify(&sign(b"", &NONCE), &NONCE, &Stored::parse(SECRET)));
    }

    #[test]
    fn replies_of_another_length_are_wrong() {
        let reply = sign(b"secret", &NONCE);
        for end in 0..REPLY {
            assert!(!verify(&reply[..end], &NONCE, &Stored::parse(SECRET)), "{end}");
        }
        assert!(!verify(&[&reply[..], &[0]].concat(), &NONCE, &Stored::parse(SECRET)));
    }

    #[test]
    fn text_of_another_form_never_matches() {
        let padded = format!("{SECRET}=");
        let long = format!("{SECRET}A");
        for text in ["", "invalid", &padded, &long, &SECRET[1..], "*14E65567ABDB5135D0CFD9A70B3032C179A49EE7"]
        {
            assert!(Stored::parse(text) == Stored::Unusable, "{text}");
        }
        // No reply is right where there is no key, not even one made with the key that stands in.
        let private = ExpandedSecretKey::from_bytes(&[1; 64]);
        let reply = raw_sign::<Sha512>(&private, &NONCE, &dummy()).to_bytes();
        assert!(is_signed(&NONCE, &reply, &dummy()));
        assert!(!verify(&reply, &NONCE, &Stored::Unusable));
    }

    #[test]
    fn keys_of_small_order_are_refused() {
        for first in [0_u8, 1] {
            let mut bytes = [0; 32];
            bytes[0] = first;
            assert!(VerifyingKey::from_bytes(&bytes).is_ok());
            assert!(Stored::parse(&Base64Unpadded::encode_string(&bytes)) == Stored::Unusable, "{first}");
        }
    }

    #[test]
    fn a_signature_has_one_form() {
        // S and S + L sign alike where S is not checked against L, the order of the group.
        const L: [u8; 16] = 0x14DE_F9DE_A2F7_9CD6_5812_631A_5CF5_D3ED_u128.to_le_bytes();
        let mut reply = sign(b"secret", &NONCE);
        let mut carry = 0;
        for (i, byte) in reply[32..].iter_mut().enumerate() {
            let order = match i {
                0..16 => L[i],
                31 => 0x10,
                _ => 0,
            };
            let sum = u16::from(*byte) + u16::from(order) + carry;
            *byte = sum as u8;
            carry = sum >> 8;
        }
        assert!(!verify(&reply, &NONCE, &Stored::parse(SECRET)));
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in ".{0,60}", base64 in "[A-Za-z0-9+/]{43}") {
            let _ = Stored::parse(&text);
            let _ = Stored::parse(&base64);
        }

        #[test]
        fn a_wrong_reply_is_refused(reply in proptest::collection::vec(any::<u8>(), 0..80)) {
            prop_assert!(!verify(&reply, &NONCE, &Stored::parse(SECRET)));
            prop_assert!(!verify(&reply, &NONCE, &Stored::Unusable));
        }

        #[test]
        fn any_password_verifies_against_its_own_key(
            password in proptest::collection::vec(any::<u8>(), 0..200),
            other in proptest::collection::vec(any::<u8>(), 0..200),
            nonce in any::<Nonce>(),
        ) {
            let stored = Stored::parse(&stored(&password));
            prop_assert!(verify(&sign(&password, &nonce), &nonce, &stored));
            prop_assert_eq!(verify(&sign(&other, &nonce), &nonce, &stored), password == other);
        }
    }
}
