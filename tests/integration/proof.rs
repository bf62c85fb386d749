//! What a client sends to prove that it knows a password, by `mysql_native_password` and by `caching_sha2_password`: written
//! here, apart from Spillway's own code, like all of [`raw`](crate::raw).

use crate::harness::Outcome;
use rsa::PublicKey;
use rsa::pkcs8::DecodePublicKey;
use sha1::{Digest, Sha1};
use sha2::Sha256;
use spillway::auth::{ed25519, parsec};

/// An authentication plugin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Plugin {
    /// `mysql_native_password`: one answer, and the verdict.
    Native,
    /// `caching_sha2_password`: one answer, which does if the server has the password in its cache; otherwise the
    /// password itself, over TLS or under the server's public key.
    CachingSha2,
    /// `sha256_password`: always the password itself, over TLS or under the server's public key. `MySQL` asks for it also
    /// where there is no account.
    Sha256,
    /// `ed25519`: a signature, which Spillway's own code makes here: the server says whether it is right.
    Ed25519,
    /// `parsec`: the same behind an empty answer and the server's salt.
    Parsec,
}

/// How a login ended well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// One answer was enough, without a word about a cache.
    Answer,
    /// `caching_sha2_password`: the server had the password in its cache.
    Cache,
    /// `caching_sha2_password`: the password itself, inside TLS.
    Cleartext,
    /// `caching_sha2_password`: the password under the server's public key, which was asked for.
    PublicKey,
}

impl Plugin {
    /// The plugin of that name.
    pub(crate) fn named(name: &[u8]) -> Option<Self> {
        [Self::Native, Self::CachingSha2, Self::Sha256, Self::Ed25519, Self::Parsec]
            .into_iter()
            .find(|plugin| plugin.name().as_bytes() == name)
    }

    /// Its name in the protocol.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Native => "mysql_native_password",
            Self::CachingSha2 => "caching_sha2_password",
            Self::Sha256 => "sha256_password",
            Self::Ed25519 => ed25519::PLUGIN,
            Self::Parsec => parsec::PLUGIN,
        }
    }

    /// The answer to a scramble.
    pub(crate) fn answer(self, password: &str, scramble: &[u8]) -> Vec<u8> {
        match (self, password.is_empty()) {
            (Self::Ed25519, _) => {
                let nonce = scramble.try_into().unwrap_or(&[0; 32]);
                ed25519::sign(password.as_bytes(), nonce).to_vec()
            }
            (Self::Native, true) | (Self::Parsec, _) => Vec::new(),
            // The plugin of MySQL's client library sends an empty password with its terminator.
            (Self::CachingSha2 | Self::Sha256, true) => vec![0],
            // The server's key, please.
            (Self::Sha256, false) => vec![1],
            (Self::Native, false) => {
                let once = Sha1::digest(password.as_bytes());
                let mask = Sha1::new().chain_update(scramble).chain_update(Sha1::digest(once)).finalize();
                xor(&once, &mask)
            }
            (Self::CachingSha2, false) => {
                let once = Sha256::digest(password.as_bytes());
                let twice = Sha256::digest(once);
                let mask = Sha256::new().chain_update(twice).chain_update(scramble).finalize();
                xor(&once, &mask)
            }
        }
    }
}

/// The signature for a server of `parsec` that told its salt, with a scramble that is not random.
pub(crate) fn salted(password: &str, scramble: &[u8], salt: &[u8]) -> Outcome<Vec<u8>> {
    let params = parsec::Params::decode(salt).ok_or_else(|| format!("no salt: {salt:?}"))?;
    let scramble = scramble.try_into().map_err(|_| "a short scramble")?;
    Ok(parsec::sign(password.as_bytes(), &params, scramble, &[7; 32]).to_vec())
}

/// The password for a server that sent its public key as PEM: with its terminator, masked with the scramble, and
/// encrypted with OAEP over SHA-1.
pub(crate) fn under_key(password: &str, scramble: &[u8], pem: &[u8]) -> Outcome<Vec<u8>> {
    let pem = String::from_utf8_lossy(pem);
    let key = PublicKey::from_public_key_pem(pem.trim()).map_err(|e| format!("{e}: {pem:?}"))?;
    let mask: Vec<u8> = scramble.iter().copied().cycle().take(password.len() + 1).collect();
    let masked = xor(&[password.as_bytes(), &[0]].concat(), &mask);
    key.oaep_encrypt::<Sha1>(&masked).map_err(|e| e.to_string())
}

fn xor(left: &[u8], right: &[u8]) -> Vec<u8> {
    left.iter().zip(right).map(|(a, b)| a ^ b).collect()
}
