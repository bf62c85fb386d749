//! Which server product and version the rows come from, and the order in which it tries matching rows.

use std::fmt;

use super::host::HostPattern;

/// A server product with its version, as far as it changes how accounts are chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Product {
    /// `MariaDB` 10.4 or later: accounts in `mysql.global_priv`, order by specificity of the host pattern.
    MariaDb {
        /// `10` of `10.11.19`.
        major: u32,
        /// `11` of `10.11.19`.
        minor: u32,
        /// `19` of `10.11.19`.
        patch: u32,
    },
    /// A server whose order is not implemented; nothing about it is decided.
    Unsupported {
        /// Its `version` variable.
        version: String,
    },
}

impl Product {
    /// Reads the `version` variable.
    pub fn from_version(version: &str) -> Self {
        let unsupported = || Self::Unsupported { version: version.to_owned() };
        if !version.to_ascii_lowercase().contains("mariadb") {
            return unsupported();
        }
        // A greeting carries this prefix for the sake of old replicas; the variable does not.
        let number = version.strip_prefix("5.5.5-").unwrap_or(version);
        let number = number.split(|c: char| c != '.' && !c.is_ascii_digit()).next().unwrap_or_default();
        let mut parts = number.split('.').map(str::parse::<u32>);
        match (parts.next(), parts.next(), parts.next()) {
            (Some(Ok(major)), Some(Ok(minor)), Some(Ok(patch))) if (major, minor) >= (10, 4) => {
                Self::MariaDb { major, minor, patch }
            }
            _ => unsupported(),
        }
    }

    /// Whether this is `MariaDB` of at least `major.minor`.
    pub fn is_mariadb_at_least(&self, major: u32, minor: u32) -> bool {
        matches!(self, Self::MariaDb { major: a, minor: b, .. } if (*a, *b) >= (major, minor))
    }

    /// How far down a Host pattern stands among the patterns that may match: the smaller, the earlier it is tried.
    pub(super) fn host_rank(&self, pattern: &HostPattern) -> u64 {
        // The Host column holds 60 characters up to 10.5, 255 from 10.6.
        let longest = if self.is_mariadb_at_least(10, 6) { 255 } else { 60 };
        pattern.wildcards().generality(longest)
    }

    /// The same for a Db pattern of `mysql.db`.
    #[allow(clippy::unused_self)] // The order is a property of the product, even where two products agree.
    pub(super) fn db_rank(&self, pattern: &super::host::Wildcards) -> u64 {
        pattern.generality(64)
    }

    /// The longest user name in characters; a longer login name is cut by the server, and refused here.
    pub(super) fn longest_user_name(&self) -> usize {
        match self {
            Self::MariaDb { .. } => 128,
            Self::Unsupported { .. } => 32,
        }
    }
}

impl fmt::Display for Product {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MariaDb { major, minor, patch } => write!(f, "MariaDB {major}.{minor}.{patch}"),
            Self::Unsupported { version } => write!(f, "unsupported server version {version:?}"),
        }
    }
}
