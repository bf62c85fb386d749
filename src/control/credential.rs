//! The console's password and the API's token, compared in a time that tells nothing about them.
//!
//! Both are looked up in the configuration in force, so that a reload changes them for the next login.

use subtle::{Choice, ConstantTimeEq};

use super::Control;
use crate::config::Secret;

/// No secret is longer, in bytes; the configuration refuses a longer one.
const LONGEST: usize = 4096;

impl Control {
    /// Whether the console has a password.
    pub fn has_console_password(&self) -> bool {
        self.config.load().admin.password.is_some()
    }

    /// Whether this is the console's password. Without one, nothing is.
    pub fn is_console_password(&self, given: &[u8]) -> bool {
        is(self.config.load().admin.password.as_ref(), given)
    }

    /// Whether this is the API's token. Without one, nothing is.
    pub fn is_api_token(&self, given: &[u8]) -> bool {
        is(self.config.load().admin.token.as_ref(), given)
    }
}

fn is(secret: Option<&Secret>, given: &[u8]) -> bool {
    secret.is_some_and(|secret| same(secret.expose().as_bytes(), given))
}

/// Compares in a time that depends on neither content nor length.
fn same(secret: &[u8], given: &[u8]) -> bool {
    if secret.len() > LONGEST || given.len() > LONGEST {
        return false;
    }
    let padded = |bytes: &[u8]| {
        let mut whole = [0; LONGEST];
        whole[..bytes.len()].copy_from_slice(bytes);
        whole
    };
    let content: Choice = padded(secret).as_slice().ct_eq(padded(given).as_slice());
    let length: Choice = (secret.len() as u64).ct_eq(&(given.len() as u64));
    (content & length).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_very_same_is_the_same() {
        assert!(same(b"secret", b"secret"));
        for other in [&b""[..], b"secre", b"secret\0", b"secreT", b"secret ", &[0; 4096], &[b'x'; 5000]] {
            assert!(!same(b"secret", other), "{other:?}");
        }
        assert!(!same(b"", b"\0"));
        assert!(!is(None, b""));
    }

    #[test]
    fn an_empty_secret_opens_nothing_that_has_none() {
        assert!(!is(None, b""));
        assert!(is(Some(&Secret::new("p")), b"p"));
    }
}
