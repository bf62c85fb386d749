//! SHA-256 crypt, in which `caching_sha2_password` and `sha256_password` store passwords.
//!
//! The algorithm is that of Ulrich Drepper's `SHA-crypt.txt`, but the servers use all 20 bytes of
//! their salts where `crypt(3)` stops at 16. One check costs a thousand and more hashes, by design:
//! [`Stored::rounds`] tells how many.

use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

/// Length of the salt that the servers draw.
pub const SALT: usize = 20;

/// Length of the digest as text.
pub const TEXT: usize = 43;

/// The longest password that the servers take, in bytes. The work also grows with its square.
pub const LONGEST: usize = 256;

/// The rounds of accounts that name no other number.
pub const ROUNDS: u32 = 5000;

/// The rounds that a stored password may ask for: no server writes fewer or more.
const ALLOWED: std::ops::RangeInclusive<u32> = 1000..=4_095_000;

const HASH: usize = 32;

const ALPHABET: &[u8; 64] = b"./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// The stored form of a password.
#[derive(Clone, PartialEq, Eq)]
pub enum Stored {
    /// No password: only an empty one is right.
    Empty,
    /// A digest with its salt.
    Hash(Hash),
    /// Text of another form: no password is right.
    Unusable,
}

/// A salt, a number of rounds, and the digest that they give for the right password.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct Hash {
    salt: [u8; SALT],
    rounds: u32,
    digest: [u8; HASH],
}

impl Stored {
    /// Reads the salt and the digest that follow each other, perhaps with something between them.
    pub(super) fn from_parts(salt: &[u8], rounds: u32, digest: &[u8]) -> Self {
        let (Ok(salt), Some(digest)) = (<[u8; SALT]>::try_from(salt), decode(digest)) else {
            return Self::Unusable;
        };
        // A server stops reading a salt at `$` and NUL, and draws no bytes above 127.
        if !ALLOWED.contains(&rounds) || salt.iter().any(|c| matches!(c, 0 | b'$' | 128..)) {
            return Self::Unusable;
        }
        Self::Hash(Hash { salt, rounds, digest })
    }

    /// Whether the account has no password.
    pub fn is_empty(&self) -> bool {
        matches!(self, Self::Empty)
    }

    /// The rounds that [`verify`](Self::verify) takes: 5000 are a few milliseconds of processor time,
    /// and accounts may ask for up to 4 095 000.
    pub fn rounds(&self) -> u32 {
        match self {
            Self::Hash(hash) => hash.rounds,
            Self::Empty | Self::Unusable => ROUNDS,
        }
    }

    /// Verifies a password in constant time. One of more than [`LONGEST`] bytes is wrong.
    ///
    /// Where no password or only the empty one is right, it does the work of 5000 rounds all the
    /// same, so that time tells nothing; it also serves for users that do not exist.
    pub fn verify(&self, password: &[u8]) -> bool {
        if password.len() > LONGEST {
            return false;
        }
        match self {
            Self::Hash(hash) => hash.is_of(password) && !password.is_empty(),
            Self::Empty | Self::Unusable => {
                let _ = Hash { salt: [b'.'; SALT], rounds: ROUNDS, digest: [0; HASH] }.is_of(password);
                matches!(self, Self::Empty) && password.is_empty()
            }
        }
    }
}

impl Hash {
    fn is_of(&self, password: &[u8]) -> bool {
        crypt(password, &self.salt, self.rounds).ct_eq(&self.digest).into()
    }
}

/// SHA-256 crypt with the whole salt; the comments number the steps of `SHA-crypt.txt`.
fn crypt(password: &[u8], salt: &[u8], rounds: u32) -> Zeroizing<[u8; HASH]> {
    let mut digest = Zeroizing::new([0; HASH]);
    // 4 to 8.
    finish(Sha256::new().chain_update(password).chain_update(salt).chain_update(password), &mut digest);
    // 1 to 3, 9 and 10.
    let mut first = Sha256::new().chain_update(password).chain_update(salt);
    for part in password.chunks(HASH) {
        first.update(&digest[..part.len()]);
    }
    // 11: the bits of the length, lowest first.
    let mut bits = password.len();
    while bits > 0 {
        first.update(if bits & 1 == 1 { &digest[..] } else { password });
        bits >>= 1;
    }
    // 12.
    finish(first, &mut digest);
    // 13 to 16, and 17 to 20.
    let password = sequence(password, password.len());
    let salt = sequence(salt, 16 + usize::from(digest[0]));
    // 21.
    for round in 0..rounds {
        let mut hash = Sha256::new();
        let odd = round % 2 == 1;
        hash.update(if odd { &password[..] } else { &digest[..] });
        if round % 3 != 0 {
            hash.update(&*salt);
        }
        if round % 7 != 0 {
            hash.update(&*password);
        }
        hash.update(if odd { &digest[..] } else { &password[..] });
        finish(hash, &mut digest);
    }
    digest
}

/// As many bytes as the source has, from the hash of the source repeated.
fn sequence(source: &[u8], times: usize) -> Zeroizing<Vec<u8>> {
    let mut hash = Sha256::new();
    for _ in 0..times {
        hash.update(source);
    }
    let mut digest = Zeroizing::new([0; HASH]);
    finish(hash, &mut digest);
    Zeroizing::new(digest.iter().copied().cycle().take(source.len()).collect())
}

fn finish(hash: Sha256, into: &mut [u8; HASH]) {
    hash.finalize_into(into.into());
}

/// The places in the digest of the bytes that the text holds, three to four characters.
fn places() -> impl Iterator<Item = [usize; 3]> {
    std::iter::successors(Some([0, 10, 20]), |[a, b, c]| Some([c + 1, a + 1, b + 1])).take(10)
}

/// Reads a digest as text. 22: four characters for three bytes, lowest bits first.
fn decode(text: &[u8]) -> Option<[u8; HASH]> {
    if text.len() != TEXT {
        return None;
    }
    let number = |part: &[u8]| {
        part.iter().rev().try_fold(0_u32, |number, c| {
            let digit = ALPHABET.iter().position(|a| a == c)?;
            Some(number << 6 | digit as u32)
        })
    };
    let mut digest = [0; HASH];
    for (places, part) in places().zip(text.chunks(4)) {
        let bytes = number(part)?.to_be_bytes();
        for (place, byte) in places.into_iter().zip(&bytes[1..]) {
            digest[place] = *byte;
        }
    }
    let [0, 0, high, low] = number(&text[40..])?.to_be_bytes() else { return None };
    (digest[31], digest[30]) = (high, low);
    Some(digest)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;

    fn encode(digest: &[u8; HASH]) -> Vec<u8> {
        let characters =
            |number: u32, count: usize| (0..count).map(move |i| ALPHABET[(number >> (6 * i) & 63) as usize]);
        let number = |a: u8, b: u8, c: u8| u32::from_be_bytes([0, a, b, c]);
        let mut text = Vec::new();
        for [a, b, c] in places() {
            text.extend(characters(number(digest[a], digest[b], digest[c]), 4));
        }
        text.extend(characters(number(0, digest[31], digest[30]), 3));
        text
    }

    /// The text of the digest.
    pub(in super::super) fn text(password: &[u8], salt: &[u8], rounds: u32) -> Vec<u8> {
        encode(&crypt(password, salt, rounds))
    }

    #[test]
    fn published_vectors() {
        // From SHA-crypt.txt. Salts are cut at 16 bytes and rounds raised to 1000, as it says there.
        for (password, salt, rounds, expected) in VECTORS {
            let found = text(password.as_bytes(), salt.as_bytes(), *rounds);
            assert_eq!(String::from_utf8(found).unwrap(), *expected, "{password}");
        }
    }

    const VECTORS: &[(&str, &str, u32, &str)] = &[
        ("Hello world!", "saltstring", 5000, "5B8vYYiY.CVt1RlTTf8KbXBH3hsxY/GNooZaBBGWEc5"),
        ("Hello world!", "saltstringsaltst", 10_000, "3xv.VbSHBb41AL9AvLeujZkZRBAwqFMz2.opqey6IcA"),
        ("This is just a test", "toolongsaltstrin", 5000, "Un/5jzAHMgOGZ5.mWJpuVolil07guHPvOW8mGRcvxa5"),
        (
            "a very much longer text to encrypt.  This one even stretches over morethan one line.",
            "anotherlongsalts",
            1400,
            "Rx.j8H.h8HjEDGomFU8bDkXm3XIUnzyxf12oP84Bnq1",
        ),
        (
            "we have a short salt string but not a short password",
            "short",
            77_777,
            "JiO1O3ZpDAxGJeaDIuqCoEFysAe1mZNJRs3pw0KQRd/",
        ),
        ("a short string", "asaltof16chars..", 123_456, "gP3VQ/6X7UUEW3HkBn2w1/Ptq2jxPyzV/cZKmF/wJvD"),
        (
            "the minimum number is still observed",
            "roundstoolow",
            1000,
            "yfvwcWrQ8l/K0DAWyuPMDNHpIVlTQebY9l/gL972bIC",
        ),
    ];

    #[test]
    fn salts_of_twenty_bytes() {
        // From an implementation in Python that agrees with crypt(3) on salts of 16 bytes.
        let salt = b"abcdefghijklmnopqrst";
        assert_eq!(text(b"secret", salt, 5000), b"Yy1cVJ5jT.fk4HyAGlowRhOkI55As4SAesbspXHQvFD");
        assert_eq!(text(&[b'x'; 256], salt, 5000), b"ncOjl7nRFpIsUzKxfiq1P0o.9Pre/EpftpdzcCqJlu5");
        let salt = b"\x01\x7F\x0A efghijklmnop\"'\\t";
        assert_eq!(text(b"secret", salt, 10_000), b"RcAMD8e/.B9e.3W7SIPg8gWK//pcD8ZkS2VAyC2U.0/");
    }

    #[test]
    fn an_empty_password_is_right_only_for_none() {
        let salt = b"abcdefghijklmnopqrst";
        let stored = Stored::from_parts(salt, 1000, &text(b"", salt, 1000));
        assert!(matches!(stored, Stored::Hash(_)));
        assert!(!stored.verify(b""));
        assert!(Stored::Empty.verify(b""));
        assert!(!Stored::Empty.verify(b"x"));
        assert!(!Stored::Unusable.verify(b""));
        assert!(!Stored::Unusable.verify(b"x"));
    }

    #[test]
    fn the_longest_password_is_256_bytes() {
        let salt = b"abcdefghijklmnopqrst";
        let of = |length| Stored::from_parts(salt, 1000, &text(&vec![b'x'; length], salt, 1000));
        assert!(of(256).verify(&[b'x'; 256]));
        assert!(!of(257).verify(&[b'x'; 257]));
    }

    #[test]
    fn salts_and_rounds_that_no_server_writes_are_refused() {
        let digest = [b'.'; TEXT];
        let usable = |salt: &[u8], rounds| Stored::from_parts(salt, rounds, &digest) != Stored::Unusable;
        assert!(usable(b"abcdefghijklmnopqrst", 1000));
        for salt in
            [&b"abcdefghijklmnopqrs"[..], b"abcdefghijklmnopqrs$", b"abcdefghijklmnopqrs\0", &[0x80; 20]]
        {
            assert!(!usable(salt, 1000), "{salt:?}");
        }
        assert!(!usable(b"abcdefghijklmnopqrst", 999));
        assert!(!usable(b"abcdefghijklmnopqrst", 4_095_001));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn only_the_right_password_verifies(
            password in proptest::collection::vec(any::<u8>(), 1..80),
            other in proptest::collection::vec(any::<u8>(), 0..80),
            salt in "[\\x01-#%-\\x7F]{20}",
        ) {
            let stored = Stored::from_parts(salt.as_bytes(), 1000, &text(&password, salt.as_bytes(), 1000));
            prop_assert!(stored.verify(&password));
            prop_assert_eq!(stored.verify(&other), password == other);
        }

        #[test]
        fn digests_survive_their_text(digest in any::<[u8; HASH]>()) {
            prop_assert_eq!(decode(&encode(&digest)), Some(digest));
        }

        #[test]
        fn any_text_is_read_or_refused(text in proptest::collection::vec(any::<u8>(), 40..46)) {
            if let Some(digest) = decode(&text) {
                prop_assert_eq!(encode(&digest), text);
            }
        }
    }
}
