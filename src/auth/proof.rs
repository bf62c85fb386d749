//! What a client proved to know, for logging in to nodes and to other clusters.

use super::{caching_sha2, clear::Password, ed25519, native, sha256_password};
use crate::wire::handshake::{SCRAMBLE, Scramble};

/// What a client proved to know. Wiped on drop and never printed.
#[derive(Clone, Debug)]
pub enum Proof {
    /// The hash that `mysql_native_password` works with: it answers that plugin and no other.
    Native(native::Proof),
    /// The hash that the fast way of `caching_sha2_password` works with: it answers a server that remembers the account.
    Fast(caching_sha2::Stage1),
    /// The password itself.
    Password(Password),
    /// Nothing that is known here: the client answers the node itself.
    Relayed,
}

impl Proof {
    /// The proof that a known password gives.
    pub fn from_password(password: &[u8]) -> Self {
        Self::Password(Password::new(password))
    }

    /// Whether it is the proof of an empty password.
    pub fn is_empty(&self) -> bool {
        match self {
            Self::Native(proof) => proof.is_empty(),
            Self::Password(password) => password.is_empty(),
            Self::Fast(_) | Self::Relayed => false,
        }
    }

    /// The password, where it is known.
    pub fn password(&self) -> Option<&Password> {
        match self {
            Self::Native(_) | Self::Fast(_) | Self::Relayed => None,
            Self::Password(password) => Some(password),
        }
    }

    /// The reply to a scramble of `mysql_native_password`; empty where none is known.
    pub fn native_reply(&self, scramble: &Scramble) -> Vec<u8> {
        match self {
            Self::Native(proof) => proof.reply(scramble),
            Self::Password(password) => native::Proof::from_password(password.as_bytes()).reply(scramble),
            Self::Fast(_) | Self::Relayed => Vec::new(),
        }
    }

    /// The first reply to a server's plugin, by its name in the protocol, and what that sent. None: this proof cannot
    /// answer it.
    pub fn reply(&self, plugin: &[u8], data: &[u8]) -> Option<Vec<u8>> {
        let scramble = || data.get(..SCRAMBLE).and_then(|bytes| Scramble::try_from(bytes).ok());
        let is = |name: &str| plugin == name.as_bytes();
        if matches!(self, Self::Relayed) {
            return None;
        }
        if is(native::PLUGIN) && !matches!(self, Self::Fast(_)) {
            return Some(self.native_reply(&scramble()?));
        }
        if self.is_empty() && (is(caching_sha2::PLUGIN) || is(sha256_password::PLUGIN)) {
            return Some(vec![0]);
        }
        if let Self::Fast(stage1) = self {
            return if is(caching_sha2::PLUGIN) { Some(stage1.reply(&scramble()?).to_vec()) } else { None };
        }
        let password = self.password()?.as_bytes();
        if is(caching_sha2::PLUGIN) {
            return Some(caching_sha2::reply(password, &scramble()?));
        }
        if is(sha256_password::PLUGIN) {
            return Some(vec![sha256_password::REQUEST_KEY]);
        }
        if is(ed25519::PLUGIN) {
            let nonce = data.get(..32)?.try_into().ok()?;
            return Some(ed25519::sign(password, &nonce).to_vec());
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_answers_its_own_plugin_only_and_a_password_all() {
        let scramble = [7; SCRAMBLE];
        let password = Proof::from_password(b"secret");
        let hash = Proof::Native(native::Proof::from_password(b"secret"));
        let native = native::PLUGIN.as_bytes();
        assert_eq!(password.reply(native, &scramble), hash.reply(native, &scramble));
        assert_eq!(hash.reply(caching_sha2::PLUGIN.as_bytes(), &scramble), None);
        assert_eq!(hash.reply(ed25519::PLUGIN.as_bytes(), &[7; 32]), None);
        assert_eq!(password.reply(caching_sha2::PLUGIN.as_bytes(), &scramble).unwrap().len(), 32);
        assert_eq!(password.reply(sha256_password::PLUGIN.as_bytes(), &scramble).unwrap(), [1]);
        assert_eq!(password.reply(ed25519::PLUGIN.as_bytes(), &[7; 32]).unwrap().len(), 64);
        let fast = Proof::Fast(caching_sha2::Stage1::from_password(b"secret"));
        let caching = caching_sha2::PLUGIN.as_bytes();
        assert_eq!(fast.reply(caching, &scramble), password.reply(caching, &scramble));
        for plugin in [native::PLUGIN, sha256_password::PLUGIN, ed25519::PLUGIN] {
            assert_eq!(fast.reply(plugin.as_bytes(), &[7; 32]), None, "{plugin}");
        }
        for plugin in ["mysql_clear_password", "dialog", "mysql_old_password", ""] {
            assert_eq!(password.reply(plugin.as_bytes(), &scramble), None, "{plugin}");
        }
        let empty = Proof::from_password(b"");
        assert_eq!(empty.reply(native, &scramble).unwrap(), [0; 0]);
        assert_eq!(empty.reply(caching_sha2::PLUGIN.as_bytes(), &scramble).unwrap(), [0]);
    }

    #[test]
    fn it_is_never_printed() {
        let text = format!("{:?}", Proof::from_password(b"secret"));
        assert!(!text.contains("secret") && !text.contains("115"), "{text}");
    }
}
