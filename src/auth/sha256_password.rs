//! `sha256_password`: always the password in the clear, over TLS or under RSA.
//!
//! The client sends the password and a NUL over TLS, where it may. Else it asks with [`REQUEST_KEY`]
//! for the server's key and sends it under RSA. Nothing is remembered.

pub use super::sha256_crypt::Stored;
use super::sha256_crypt::{ROUNDS, SALT};

/// The plugin's name in the protocol.
pub const PLUGIN: &str = "sha256_password";

/// A client asks for the server's RSA key: a packet of this byte alone.
pub const REQUEST_KEY: u8 = 0x01;

/// Reads the authentication string of an account: `$5$`, perhaps `rounds=` with a number and `$`,
/// 20 bytes of salt, `$`, and 43 characters of digest.
///
/// The salt may hold any 7-bit bytes: the string is not text that survives a change of character set.
pub fn parse(stored: &[u8]) -> Stored {
    if stored.is_empty() {
        return Stored::Empty;
    }
    read(stored).unwrap_or(Stored::Unusable)
}

fn read(stored: &[u8]) -> Option<Stored> {
    let mut rest = stored.strip_prefix(b"$5$")?;
    let mut rounds = ROUNDS;
    if let Some(named) = rest.strip_prefix(b"rounds=") {
        let end = named.iter().position(|c| *c == b'$')?;
        rounds = number(&named[..end])?;
        rest = &named[end + 1..];
    }
    let (salt, digest) = rest.split_at_checked(SALT)?;
    Some(Stored::from_parts(salt, rounds, digest.strip_prefix(b"$")?))
}

/// A number as the servers write it: digits alone, and none in vain before them.
fn number(text: &[u8]) -> Option<u32> {
    if !text.iter().all(u8::is_ascii_digit) || text.starts_with(b"0") {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// Whether a client's first reply says that it has no password, which is right only for
/// [`Stored::Empty`].
pub fn is_empty(reply: &[u8]) -> bool {
    matches!(reply, [] | [0])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::sha256_crypt::tests::text;
    use proptest::prelude::*;

    const SALTED: &[u8; 20] = b"abcdefghijklmnopqrst";

    fn string(head: &str, password: &[u8], rounds: u32) -> Vec<u8> {
        [head.as_bytes(), SALTED, b"$", &text(password, SALTED, rounds)].concat()
    }

    #[test]
    fn the_servers_forms_verify() {
        for (head, rounds) in [("$5$", 5000), ("$5$rounds=1000$", 1000), ("$5$rounds=5001$", 5001)] {
            let stored = parse(&string(head, b"secret", rounds));
            assert_eq!(stored.rounds(), rounds);
            assert!(stored.verify(b"secret"));
            assert!(!stored.verify(b"Secret"));
            assert!(!stored.verify(b""));
        }
        assert!(parse(&string("$5$", b"secret", 5000)[..]).verify(b"secret"));
    }

    #[test]
    fn text_of_another_form_never_matches() {
        assert!(parse(b"") == Stored::Empty);
        let right = string("$5$", b"secret", 5000);
        for end in 1..right.len() {
            assert!(parse(&right[..end]) == Stored::Unusable, "{end}");
        }
        assert!(parse(&[&right[..], b"."].concat()) == Stored::Unusable);
        for head in [
            "$6$",
            "$5",
            "$5$rounds=$",
            "$5$rounds=999$",
            "$5$rounds=05000$",
            "$5$rounds=+5000$",
            "$5$rounds=4095001$",
            "$5$rounds=99999999999$",
            "$5$rounds=5000",
        ] {
            assert!(parse(&string(head, b"secret", 5000)) == Stored::Unusable, "{head}");
        }
    }

    #[test]
    fn an_empty_reply_is_nothing_or_a_nul() {
        assert!(is_empty(b"") && is_empty(&[0]) && !is_empty(&[REQUEST_KEY]));
    }

    proptest! {
        #[test]
        fn any_string_is_read_or_refused(string in proptest::collection::vec(any::<u8>(), 0..90)) {
            let _ = parse(&string);
            let _ = parse(&[b"$5$", &string[..]].concat());
            let _ = parse(&[b"$5$rounds=", &string[..]].concat());
        }
    }
}
