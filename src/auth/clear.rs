//! `mysql_clear_password`, and the password in the clear that other plugins end with.
//!
//! The packet is the password and a NUL. It may travel only where nobody else can read it: over TLS,
//! or inside RSA. Whether that holds is the caller's to check, before it asks for it.

use zeroize::{Zeroize, ZeroizeOnDrop};

/// The plugin's name in the protocol.
pub const PLUGIN: &str = "mysql_clear_password";

/// A password in the clear: wiped on drop and never printed.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct Password(Vec<u8>);

impl std::fmt::Debug for Password {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Password(..)")
    }
}

impl Password {
    /// A password that is already known.
    pub fn new(password: &[u8]) -> Self {
        Self(password.to_vec())
    }

    /// Reads the packet of a client: the password and a NUL, which is its only one. None: it is not
    /// of that form, and no password is right.
    pub fn decode(payload: &[u8]) -> Option<Self> {
        let (end, password) = payload.split_last()?;
        (*end == 0 && !password.contains(&0)).then(|| Self::new(password))
    }

    /// The payload that a server takes.
    pub fn encode(&self) -> Payload {
        // Sized at once: a vector that grows leaves a copy behind.
        let mut payload = Vec::with_capacity(self.0.len() + 1);
        payload.extend_from_slice(&self.0);
        payload.push(0);
        Payload(payload)
    }

    /// Its bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Whether it is empty, which most plugins answer without a password.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// A packet with a password in the clear: wiped on drop and never printed.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct Payload(Vec<u8>);

impl std::fmt::Debug for Payload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Payload(..)")
    }
}

impl Payload {
    /// Its bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Its bytes, to be hidden in place.
    pub(super) fn as_mut_bytes(&mut self) -> &mut [u8] {
        &mut self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_packet_ends_with_its_only_nul() {
        assert_eq!(Password::decode(b"secret\0").unwrap().as_bytes(), b"secret");
        assert!(Password::decode(b"\0").unwrap().is_empty());
        for payload in [&b""[..], b"secret", b"secret\0\0", b"se\0cret\0", b"\0secret"] {
            assert!(Password::decode(payload).is_none(), "{payload:?}");
        }
    }

    #[test]
    fn it_is_never_printed() {
        let password = Password::new(b"secret");
        assert_eq!(format!("{password:?}{:?}", password.encode()), "Password(..)Payload(..)");
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(payload in proptest::collection::vec(any::<u8>(), 0..64)) {
            if let Some(password) = Password::decode(&payload) {
                let encoded = password.encode();
                prop_assert_eq!(encoded.as_bytes(), &payload[..]);
            } else {
                let first_nul = payload.iter().position(|c| *c == 0);
                prop_assert_ne!(first_nul.map(|at| at + 1), Some(payload.len()));
            }
        }
    }
}
