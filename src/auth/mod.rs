//! Authentication plugins, pure: what proves a password, and what answers a server's challenge.

pub mod caching_sha2;
pub mod clear;
pub mod ed25519;
pub mod native;
pub mod parsec;
mod proof;
pub mod rsa;
pub mod sha256_crypt;
pub mod sha256_password;
mod signature;

pub use proof::Proof;
pub use signature::{Heard, is_signed};

use std::cell::RefCell;

use crate::tls::Trust;
use crate::wire::handshake::{SCRAMBLE, Scramble};

/// Plugins by which an account can be logged in to, by the servers' names: those whose replies can be verified here; those
/// whose replies only a node can verify, or whose proof logs in nowhere else, so that the node's questions are put to the
/// client, and its answers to the node; and of those the ones whose answers are passwords as they are typed.
const PLUGINS: [&str; 9] = [
    native::PLUGIN,
    caching_sha2::PLUGIN,
    sha256_password::PLUGIN,
    ed25519::ACCOUNT_PLUGIN,
    parsec::PLUGIN,
    "gssapi",
    "pam",
    "authentication_pam",
    "authentication_ldap_simple",
];
const VERIFIED: usize = 3;
const OPEN: usize = 6;

/// Who can read what a client answers a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Privacy {
    /// Anybody on the way.
    Open,
    /// Nobody but Spillway and the node, whose certificate was verified.
    Confidential,
}

impl Privacy {
    /// Of a client whose own connection `is_private`, and of links with this TLS.
    pub fn of(is_private: bool, links: Option<&Trust>) -> Self {
        if is_private && links.is_some_and(Trust::is_verified) { Self::Confidential } else { Self::Open }
    }
}

/// All plugins by which an account can be logged in to.
pub fn accepted(privacy: Privacy) -> &'static [&'static str] {
    match privacy {
        Privacy::Open => &PLUGINS[..OPEN],
        Privacy::Confidential => &PLUGINS,
    }
}

/// Whether the replies of this plugin, by the servers' name, can be verified here.
pub fn is_verified(plugin: &str) -> bool {
    PLUGINS[..VERIFIED].contains(&plugin)
}

/// Whether a node must put the questions of this plugin, by the servers' name, to the client itself.
pub fn is_relayed(plugin: &str, privacy: Privacy) -> bool {
    accepted(privacy)[VERIFIED..].contains(&plugin)
}

/// Whether a node's question of this plugin, by its name in the protocol, may be put to a client: where others can read
/// along, only those whose answers tell nobody anything, whoever asks.
pub fn may_be_relayed(plugin: &[u8], privacy: Privacy) -> bool {
    let among = |names: &[&str]| names.iter().any(|name| name.as_bytes() == plugin);
    among(&[ed25519::PLUGIN, parsec::PLUGIN, "auth_gssapi_client"])
        || (privacy == Privacy::Confidential && among(&[clear::PLUGIN, "dialog"]))
}

/// Whether a server tells of a refused login that a password was given, where it was: for an account with `parsec` it always
/// says that none was.
pub fn tells_of_passwords(plugin: &str) -> bool {
    plugin != parsec::PLUGIN
}

/// The random bytes that a signature of `ed25519` or `parsec` is made over.
pub type Nonce = [u8; 32];

/// A fresh nonce from the operating system's random numbers: any bytes.
///
/// # Errors
/// When the operating system gives no random numbers; no login is possible then.
pub fn nonce() -> Result<Nonce, getrandom::Error> {
    let mut bytes = Nonce::default();
    getrandom::fill(&mut bytes)?;
    Ok(bytes)
}

/// A fresh scramble from the operating system's random numbers.
///
/// Like the servers' own, it holds 7-bit bytes other than NUL and `$`: clients read it as text.
///
/// # Errors
/// When the operating system gives no random numbers; no login is possible then.
pub fn scramble() -> Result<Scramble, getrandom::Error> {
    let mut bytes = draw()?;
    for byte in &mut bytes {
        *byte &= 0x7F;
        if *byte == 0 || *byte == b'$' {
            *byte += 1;
        }
    }
    Ok(bytes)
}

/// The next random bytes of this thread, which are asked for in larger lots. None is given out twice.
fn draw() -> Result<[u8; SCRAMBLE], getrandom::Error> {
    const LOT: usize = 100;
    thread_local! {
        static LEFT: RefCell<Vec<[u8; SCRAMBLE]>> = const { RefCell::new(Vec::new()) };
    }
    LEFT.with_borrow_mut(|left| {
        if left.is_empty() {
            left.resize(LOT, [0; SCRAMBLE]);
            if let Err(error) = getrandom::fill(left.as_flattened_mut()) {
                left.clear();
                return Err(error);
            }
        }
        // Never empty here.
        Ok(left.pop().unwrap_or_default())
    })
}

#[cfg(test)]
mod tests {
    #[test]
    fn scrambles_differ_and_hold_no_nul() {
        let (a, b) = (super::scramble().unwrap(), super::scramble().unwrap());
        assert_ne!(a, b);
        let many: std::collections::HashSet<_> = (0..1000).map(|_| super::scramble().unwrap()).collect();
        assert_eq!(many.len(), 1000);
        assert!(a.iter().chain(&b).all(|c| *c != 0 && *c != b'$' && *c < 128));
    }
}
