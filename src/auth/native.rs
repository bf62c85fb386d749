//! `mysql_native_password`: verifying a client's reply and logging in to a node with its proof.
//!
//! With stage1 = SHA1(password) and stage2 = SHA1(stage1), the server stores `*` and the hexadecimal
//! stage2, and the client replies stage1 XOR SHA1(scramble, stage2). Whoever knows stage2 can
//! recover stage1 from a right reply, and stage1 answers any other scramble. So stage1 is as good as
//! the password for every account with that hash: it lives in a [`Proof`], is wiped on drop, and
//! is never printed.

use sha1::{Digest, Sha1};
use sha2::Sha256;
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::wire::handshake::Scramble;

/// The plugin's name in the protocol.
pub const PLUGIN: &str = "mysql_native_password";

const HASH: usize = 20;

/// The stored form of a password.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Stored {
    /// No password: only an empty reply is right.
    Empty,
    /// stage2.
    Hash([u8; HASH]),
    /// Text of another form, such as `invalid`: no reply is right.
    Unusable,
}

impl Stored {
    /// Reads the authentication string of an account.
    pub fn parse(text: &str) -> Self {
        if text.is_empty() {
            return Self::Empty;
        }
        let Some(digits) = text.strip_prefix('*').filter(|d| d.len() == 2 * HASH) else {
            return Self::Unusable;
        };
        let mut hash = [0; HASH];
        for (byte, pair) in hash.iter_mut().zip(digits.as_bytes().chunks_exact(2)) {
            let (Some(high), Some(low)) = (hex(pair[0]), hex(pair[1])) else { return Self::Unusable };
            *byte = high << 4 | low;
        }
        Self::Hash(hash)
    }
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).map(|d| d as u8)
}

/// What a client proved to know: enough to log in to a node as that user.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct Proof(Option<[u8; HASH]>);

impl std::fmt::Debug for Proof {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Proof(..)")
    }
}

impl Proof {
    /// The proof that a known password gives.
    pub fn from_password(password: &[u8]) -> Self {
        Self((!password.is_empty()).then(|| Sha1::digest(password).into()))
    }

    /// Whether it is the proof of an empty password.
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// The reply to a scramble: 20 bytes, or nothing for an empty password.
    pub fn reply(&self, scramble: &Scramble) -> Vec<u8> {
        let Some(stage1) = &self.0 else { return Vec::new() };
        let stage2: [u8; HASH] = Sha1::digest(stage1).into();
        xor(stage1, &mask(scramble, &stage2)).to_vec()
    }

    /// By what the server shows a client, which knows the password too, that it knows its hash, and that nobody stands
    /// between them with another certificate: `MariaDB` 11.4 and later send it in the OK packet of a login. `scramble`: the
    /// one that was replied to. None for an empty password, which everybody knows.
    pub fn vouch_for(&self, scramble: &Scramble, certificate: &[u8]) -> Option<Vec<u8>> {
        let stage2 = Sha1::digest(self.0.as_ref()?);
        let digest = Sha256::new()
            .chain_update(stage2)
            .chain_update(scramble)
            .chain_update(Sha256::digest(certificate))
            .finalize();
        let mut text = vec![1];
        for byte in digest {
            text.extend_from_slice(format!("{byte:02X}").as_bytes());
        }
        Some(text)
    }

    /// Whether this proof is also right for another stored password: that of the same user on
    /// another cluster, or of the account after a reload.
    pub fn satisfies(&self, stored: &Stored) -> bool {
        match (&self.0, stored) {
            (None, Stored::Empty) => true,
            (Some(stage1), Stored::Hash(stage2)) => {
                let found: [u8; HASH] = Sha1::digest(stage1).into();
                found.ct_eq(stage2).into()
            }
            _ => false,
        }
    }
}

/// Verifies a client's reply in constant time; the proof on success.
///
/// An empty reply is right only for an empty password, and a 20-byte reply only for a hash.
pub fn verify(reply: &[u8], scramble: &Scramble, stored: &Stored) -> Option<Proof> {
    match stored {
        Stored::Empty => reply.is_empty().then_some(Proof(None)),
        Stored::Hash(stage2) => recover(reply, scramble, stage2),
        Stored::Unusable => {
            // The same work as for a hash, so that time tells nothing.
            let _ = recover(reply, scramble, &[0; HASH]);
            None
        }
    }
}

fn recover(reply: &[u8], scramble: &Scramble, stage2: &[u8; HASH]) -> Option<Proof> {
    let reply: &[u8; HASH] = reply.try_into().ok()?;
    let proof = Proof(Some(xor(reply, &mask(scramble, stage2))));
    proof.satisfies(&Stored::Hash(*stage2)).then_some(proof)
}

fn mask(scramble: &Scramble, stage2: &[u8; HASH]) -> [u8; HASH] {
    Sha1::new().chain_update(scramble).chain_update(stage2).finalize().into()
}

fn xor(a: &[u8; HASH], b: &[u8; HASH]) -> [u8; HASH] {
    std::array::from_fn(|i| a[i] ^ b[i])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SCRAMBLE: Scramble = *b"abcdefghijklmnopqrst";
    /// `SELECT PASSWORD('secret')` on MariaDB 10.11.
    const SECRET: &str = "*14E65567ABDB5135D0CFD9A70B3032C179A49EE7";

    #[test]
    fn a_right_reply_gives_a_proof_for_any_scramble() {
        let reply = Proof::from_password(b"secret").reply(&SCRAMBLE);
        let proof = verify(&reply, &SCRAMBLE, &Stored::parse(SECRET)).expect("right password");
        let other = *b"TSRQPONMLKJIHGFEDCBA";
        assert!(verify(&proof.reply(&other), &other, &Stored::parse(SECRET)).is_some());
    }

    #[test]
    fn an_empty_reply_opens_only_an_empty_password() {
        assert!(verify(b"", &SCRAMBLE, &Stored::parse(SECRET)).is_none());
        assert!(verify(b"", &SCRAMBLE, &Stored::Unusable).is_none());
        assert!(verify(b"", &SCRAMBLE, &Stored::Empty).is_some());
        assert!(verify(&[0; 20], &SCRAMBLE, &Stored::Empty).is_none());
    }

    #[test]
    fn text_of_another_form_never_matches() {
        for text in ["invalid", "*14E6", "*14E65567ABDB5135D0CFD9A70B3032C179A49EEX", "0123456789abcdef"] {
            assert!(Stored::parse(text) == Stored::Unusable, "{text}");
        }
        assert!(Stored::parse(&SECRET.to_lowercase()) == Stored::parse(SECRET));
    }

    proptest! {
        #[test]
        fn a_wrong_reply_is_refused(reply in proptest::collection::vec(any::<u8>(), 0..40)) {
            prop_assert!(verify(&reply, &SCRAMBLE, &Stored::parse(SECRET)).is_none());
        }

        #[test]
        fn any_password_verifies_against_its_own_hash(password in proptest::collection::vec(any::<u8>(), 0..64)) {
            let proof = Proof::from_password(&password);
            let stored = match &proof.0 {
                Some(stage1) => Stored::Hash(Sha1::digest(stage1).into()),
                None => Stored::Empty,
            };
            prop_assert!(verify(&proof.reply(&SCRAMBLE), &SCRAMBLE, &stored).is_some());
            prop_assert!(proof.satisfies(&stored));
        }
    }

    #[test]
    fn a_certificate_is_vouched_for_as_the_servers_do() {
        // Computed by other means; the form was compared with MariaDB 11.8.9.
        const TEXT: &str = "\x019E3C620D846958022159C06AE360DF1DA11EAFD5742B06A4D9709371AE4F05B0";
        let proof = Proof::from_password(b"secret");
        assert_eq!(proof.vouch_for(&[7; 20], b"certificate").as_deref(), Some(TEXT.as_bytes()));
        assert_ne!(proof.vouch_for(&[8; 20], b"certificate").as_deref(), Some(TEXT.as_bytes()));
        assert_eq!(Proof::from_password(b"").vouch_for(&[7; 20], b"certificate"), None);
    }
}
