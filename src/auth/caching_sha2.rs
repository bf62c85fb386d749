//! `caching_sha2_password`: the fast way with a remembered hash, and the full way with the password.
//!
//! The stored string is a slow hash, which verifies only a password in the clear. After one such
//! login the server remembers m2 = SHA256(m1), where m1 = SHA256(password). It then verifies the
//! fast reply, m1 XOR SHA256(m2, scramble), and says [`FAST_OK`]; else it says [`FULL`], and the
//! client sends the password over TLS, or asks with [`REQUEST_KEY`] for a key and sends it under RSA.
//!
//! Whoever knows m2 can recover m1 from a right reply. m1 answers any other scramble, but only on a
//! server that remembers the account, so it does not replace the password. As m1 is that much of a
//! password, it lives in a [`Stage1`], is wiped on drop, and is never printed; so is m2, in a
//! [`Remembered`]. Who remembers must forget when the account's stored string changes.

use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use super::sha256_crypt::SALT;
pub use super::sha256_crypt::Stored;
use crate::wire::handshake::Scramble;

/// The plugin's name in the protocol.
pub const PLUGIN: &str = "caching_sha2_password";

/// A client asks for the server's RSA key: a packet of this byte alone.
pub const REQUEST_KEY: u8 = 0x02;

/// `AuthMoreData` of the server: the fast reply was right, and OK follows.
pub const FAST_OK: u8 = 0x03;

/// `AuthMoreData` of the server: the client must send the password.
pub const FULL: u8 = 0x04;

const HASH: usize = 32;

/// Reads the authentication string of an account: `$A$`, the rounds in thousands as three hexadecimal
/// digits, `$`, 20 bytes of salt, and 43 characters of digest.
///
/// The salt may hold any 7-bit bytes: the string is not text that survives a change of character set.
pub fn parse(stored: &[u8]) -> Stored {
    if stored.is_empty() {
        return Stored::Empty;
    }
    let Some((head, rest)) = stored.split_at_checked(7) else { return Stored::Unusable };
    let [b'$', b'A', b'$', digits @ .., b'$'] = head else { return Stored::Unusable };
    let thousands = digits.iter().try_fold(0, |number, digit| {
        let digit = char::from(*digit).to_digit(16)?;
        Some(number << 4 | digit)
    });
    let (Some(thousands), Some((salt, digest))) = (thousands, rest.split_at_checked(SALT)) else {
        return Stored::Unusable;
    };
    Stored::from_parts(salt, thousands * 1000, digest)
}

/// Whether a client's first reply says that it has no password. That is right only for
/// [`Stored::Empty`]; the servers then say OK without [`FAST_OK`].
pub fn is_empty(reply: &[u8]) -> bool {
    matches!(reply, [] | [0])
}

/// The fast reply to a scramble: 32 bytes, or nothing for an empty password.
pub fn reply(password: &[u8], scramble: &Scramble) -> Vec<u8> {
    if password.is_empty() {
        return Vec::new();
    }
    Stage1::from_password(password).reply(scramble).to_vec()
}

/// m1, the hash of a password: enough for a fast login to a server that remembers the account.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct Stage1([u8; HASH]);

impl std::fmt::Debug for Stage1 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Stage1(..)")
    }
}

impl Stage1 {
    /// That of a known password.
    pub fn from_password(password: &[u8]) -> Self {
        Self(Sha256::digest(password).into())
    }

    /// What verifies the replies of whoever knows it.
    pub fn remembered(&self) -> Remembered {
        Remembered(Sha256::digest(self.0).into())
    }

    /// The fast reply to a scramble.
    pub fn reply(&self, scramble: &Scramble) -> [u8; HASH] {
        xor(&self.0, &self.remembered().mask(scramble))
    }
}

/// m2, which a server remembers of an account after a full login.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct Remembered([u8; HASH]);

impl std::fmt::Debug for Remembered {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Remembered(..)")
    }
}

impl Remembered {
    /// That of a password which was just verified against the account.
    pub fn from_password(password: &[u8]) -> Self {
        Stage1::from_password(password).remembered()
    }

    /// Verifies a fast reply in constant time; what it was made from on success. A reply of any
    /// other length than 32 bytes is wrong.
    pub fn verify(&self, reply: &[u8], scramble: &Scramble) -> Option<Stage1> {
        let reply: &[u8; HASH] = reply.try_into().ok()?;
        let stage1 = Stage1(xor(reply, &self.mask(scramble)));
        bool::from(stage1.remembered().0.ct_eq(&self.0)).then_some(stage1)
    }

    /// Whether it is that of a password, in constant time.
    pub fn is_of(&self, password: &[u8]) -> bool {
        Self::from_password(password).0.ct_eq(&self.0).into()
    }

    fn mask(&self, scramble: &Scramble) -> Zeroizing<[u8; HASH]> {
        Zeroizing::new(Sha256::new().chain_update(self.0).chain_update(scramble).finalize().into())
    }
}

fn xor(a: &[u8; HASH], b: &[u8; HASH]) -> [u8; HASH] {
    std::array::from_fn(|i| a[i] ^ b[i])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::sha256_crypt::tests::text;
    use proptest::prelude::*;

    const SCRAMBLE: Scramble = *b"abcdefghijklmnopqrst";

    /// `authentication_string` of an account of MySQL 8.0 with the password `foobar`.
    const FOOBAR: &[u8] =
        b"$A$005$\x03\x1Ai\x25\x1C\x34\x29\x5C\x4B\x35\x16\x7C\x7F\x1E\x5A\x7B\x63\x09\x13\x49\
        P9tbM4PKZBFy5HV3hhhoRHZsnJs3hxnBuuQlsDdiIe7";

    #[test]
    fn a_servers_string_verifies() {
        let stored = parse(FOOBAR);
        assert_eq!(stored.rounds(), 5000);
        assert!(stored.verify(b"foobar"));
        assert!(!stored.verify(b"foobaR"));
        assert!(!stored.verify(b"foobar\0"));
        assert!(!stored.verify(b""));
    }

    #[test]
    fn rounds_are_hexadecimal() {
        let of = |digits: &str| {
            let mut string = format!("$A${digits}$abcdefghijklmnopqrst").into_bytes();
            string.extend([b'.'; 43]);
            parse(&string)
        };
        assert_eq!(of("00A").rounds(), 10_000);
        assert_eq!(of("010").rounds(), 16_000);
        assert_eq!(of("FFF").rounds(), 4_095_000);
        for digits in ["000", "00G", "+05", " 05", "05", "0005"] {
            assert!(of(digits) == Stored::Unusable, "{digits}");
        }
        let salt = b"abcdefghijklmnopqrst";
        let string = [&b"$A$00a$"[..], salt, &text(b"secret", salt, 10_000)].concat();
        assert!(parse(&string).verify(b"secret"));
    }

    #[test]
    fn text_of_another_form_never_matches() {
        assert!(parse(b"") == Stored::Empty);
        for end in 1..FOOBAR.len() {
            assert!(parse(&FOOBAR[..end]) == Stored::Unusable, "{end}");
        }
        assert!(parse(&[FOOBAR, b"."].concat()) == Stored::Unusable);
        assert!(parse(&[b"$B", &FOOBAR[2..]].concat()) == Stored::Unusable);
        let locked = parse(b"$A$005$THISISACOMBINATIONOFINVALIDSALTANDPASSWORDTHATMUSTNEVERBRBEUSED");
        assert!(!locked.verify(b"") && !locked.verify(b"x"));
    }

    #[test]
    fn the_fast_reply_is_the_servers() {
        // From an implementation in Python.
        let expected = [
            0xC7, 0x6E, 0x28, 0x98, 0x61, 0x2A, 0x4C, 0xF0, 0x42, 0xC7, 0x7F, 0xA8, 0xC4, 0x70, 0x2C, 0x4C,
            0x64, 0xC0, 0xC2, 0xC5, 0x57, 0xC5, 0x3C, 0x4D, 0x75, 0x59, 0x5A, 0xAA, 0x6A, 0xBA, 0xE8, 0x09,
        ];
        assert_eq!(reply(b"secret", &SCRAMBLE), expected);
        assert!(reply(b"", &SCRAMBLE).is_empty());
    }

    #[test]
    fn a_right_reply_gives_what_answers_any_scramble() {
        let remembered = Remembered::from_password(b"secret");
        let stage1 = remembered.verify(&reply(b"secret", &SCRAMBLE), &SCRAMBLE).expect("right password");
        let other = *b"TSRQPONMLKJIHGFEDCBA";
        assert!(remembered.verify(&stage1.reply(&other), &other).is_some());
        assert!(remembered.verify(&stage1.reply(&other), &SCRAMBLE).is_none());
        assert_eq!(format!("{stage1:?}{remembered:?}"), "Stage1(..)Remembered(..)");
    }

    #[test]
    fn an_empty_reply_is_never_a_fast_one() {
        assert!(is_empty(b"") && is_empty(&[0]) && !is_empty(&[0, 0]) && !is_empty(&[1]));
        for password in [&b""[..], b"secret"] {
            assert!(Remembered::from_password(password).verify(b"", &SCRAMBLE).is_none());
            assert!(Remembered::from_password(password).verify(&[0], &SCRAMBLE).is_none());
        }
    }

    proptest! {
        #[test]
        fn any_string_is_read_or_refused(string in proptest::collection::vec(any::<u8>(), 0..90)) {
            let _ = parse(&string);
            let _ = parse(&[b"$A$005$", &string[..]].concat());
        }

        #[test]
        fn a_wrong_reply_is_refused(reply in proptest::collection::vec(any::<u8>(), 0..64)) {
            prop_assert!(Remembered::from_password(b"secret").verify(&reply, &SCRAMBLE).is_none());
        }

        #[test]
        fn any_password_is_remembered(
            password in proptest::collection::vec(any::<u8>(), 1..64),
            other in proptest::collection::vec(any::<u8>(), 1..64),
            scramble in any::<Scramble>(),
        ) {
            let remembered = Remembered::from_password(&password);
            prop_assert!(remembered.verify(&reply(&password, &scramble), &scramble).is_some());
            let found = remembered.verify(&reply(&other, &scramble), &scramble);
            prop_assert_eq!(found.is_some(), password == other);
        }
    }
}
