//! Passwords and tokens: wiped when dropped, never printed.

use std::fmt;
use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

use zeroize::Zeroizing;

/// The longest password or token in bytes: a larger file is surely not the one that was meant.
pub(super) const MAX_SECRET: u64 = 4096;

/// A password or a token. `Debug` and `Display` print `***`; there is no way to serialize it.
///
/// Equality is for comparing two configurations. It takes a time that depends on the content: a login is verified by
/// other means.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Takes `text` as a secret.
    pub fn new(text: impl Into<String>) -> Self {
        Self(Zeroizing::new(text.into()))
    }

    /// The secret itself. Callers keep it out of logs and messages.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Reads a secret from a regular file and strips one newline from its end. Tells also whether everybody on this
    /// machine may read the file. The error says why without any of the content.
    pub(super) fn read(path: &Path) -> Result<(Self, bool), String> {
        let file = open(path)?;
        let exposed = world_readable(&file);
        let mut text = Zeroizing::new(String::new());
        file.take(MAX_SECRET + 1).read_to_string(&mut text).map_err(|e| e.to_string())?;
        let secret = text.strip_suffix('\n').map_or(text.as_str(), |t| t.strip_suffix('\r').unwrap_or(t));
        Ok((Self::new(secret), exposed))
    }
}

/// Reads at most `limit` bytes of a regular file, which are wiped when dropped. Tells also whether everybody on this
/// machine may read it. The error says why without any of the content.
pub(super) fn read_bytes(path: &Path, limit: u64) -> Result<(Zeroizing<Vec<u8>>, bool), String> {
    let file = open(path)?;
    let exposed = world_readable(&file);
    let mut bytes = Zeroizing::new(Vec::new());
    file.take(limit + 1).read_to_end(&mut bytes).map_err(|e| e.to_string())?;
    if bytes.len() as u64 > limit {
        return Err(format!("it is larger than {limit} bytes"));
    }
    Ok((bytes, exposed))
}

fn open(path: &Path) -> Result<File, String> {
    // Asked before the file is opened, because opening a FIFO would wait for a writer for ever.
    if !fs::metadata(path).map_err(|e| e.to_string())?.is_file() {
        return Err("it is not a regular file".to_owned());
    }
    File::open(path).map_err(|e| e.to_string())
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Whether the file's mode lets everybody on this machine read it.
#[cfg(unix)]
pub(super) fn world_readable(file: &File) -> bool {
    use std::os::unix::fs::PermissionsExt;
    file.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o004 != 0)
}

/// Whether the file's mode lets everybody on this machine read it: not known on this system.
#[cfg(not(unix))]
pub(super) fn world_readable(_: &File) -> bool {
    false
}
