//! Which server product and version the rows come from, and the order in which it tries matching rows.

use std::fmt;

use super::account::Account;
use super::host::{HostPattern, HostSyntax, Wildcards, old_wildcard_sort, wildcard_sort};

/// A server product with its version, as far as it changes how accounts are chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Product {
    /// `MariaDB` 10.3 or later. From 10.4 on: accounts in `mysql.global_priv`, order by specificity of the host pattern.
    /// 10.3: accounts in `mysql.user`, order by the place of the first wildcard.
    MariaDb {
        /// `10` of `10.11.19`.
        major: u32,
        /// `11` of `10.11.19`.
        minor: u32,
        /// `19` of `10.11.19`.
        patch: u32,
    },
    /// `MySQL` 5.7 to 9, or Percona Server of such a version: accounts in `mysql.user`, order by the place of the first
    /// wildcard, and from 8.0.23 on addresses before everything else.
    MySql {
        /// `8` of `8.0.36`.
        major: u32,
        /// `0` of `8.0.36`.
        minor: u32,
        /// `36` of `8.0.36`.
        patch: u32,
    },
    /// A server whose order is not implemented; nothing about it is decided.
    Unsupported {
        /// Its `version` variable.
        version: String,
    },
}

/// Whose words the server uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vendor {
    /// `MariaDB`.
    MariaDb,
    /// `MySQL`, and every server that is not known.
    MySql,
}

impl fmt::Display for Vendor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::MariaDb => "MariaDB",
            Self::MySql => "MySQL",
        })
    }
}

/// Ranks below this one are those of hosts that `MySQL` 8.0.23 and later try first: addresses and networks.
const BEHIND_ADDRESSES: u64 = 1 << 48;

/// Servers that call themselves `MySQL` and choose accounts in ways of their own.
const OTHER_SERVERS: [&str; 3] = ["tidb", "vitess", "oceanbase"];

impl Product {
    /// Reads the `version` variable.
    pub fn from_version(version: &str) -> Self {
        let lower = version.to_ascii_lowercase();
        let is_mariadb = lower.contains("mariadb");
        // A greeting carries this prefix for the sake of old replicas; the variable does not.
        let number = if is_mariadb { version.strip_prefix("5.5.5-").unwrap_or(version) } else { version };
        let number = number.split(|c: char| c != '.' && !c.is_ascii_digit()).next().unwrap_or_default();
        let mut parts = number.split('.').map(str::parse::<u32>);
        let (Some(Ok(major)), Some(Ok(minor)), Some(Ok(patch))) = (parts.next(), parts.next(), parts.next())
        else {
            return Self::Unsupported { version: version.to_owned() };
        };
        // What came before the first stable release of a series differs from it in tables and order.
        let is_stable = match (major, minor) {
            (10, 3) => patch >= 7,
            (10, 4) => patch >= 6,
            _ => true,
        };
        if is_mariadb && (major, minor) >= (10, 3) && is_stable {
            Self::MariaDb { major, minor, patch }
        } else if !is_mariadb
            && ((major, minor) == (5, 7) || matches!(major, 8 | 9))
            && !OTHER_SERVERS.iter().any(|other| lower.contains(other))
        {
            Self::MySql { major, minor, patch }
        } else {
            Self::Unsupported { version: version.to_owned() }
        }
    }

    /// Whether this is `MariaDB` of at least `major.minor`.
    pub fn is_mariadb_at_least(&self, major: u32, minor: u32) -> bool {
        matches!(self, Self::MariaDb { major: a, minor: b, .. } if (*a, *b) >= (major, minor))
    }

    /// Whether this is `MySQL` of at least `version`.
    pub fn is_mysql_at_least(&self, version: (u32, u32, u32)) -> bool {
        matches!(self, Self::MySql { major, minor, patch } if (*major, *minor, *patch) >= version)
    }

    /// Whether this is `MySQL`.
    pub fn is_mysql(&self) -> bool {
        matches!(self, Self::MySql { .. })
    }

    /// Whose words the server uses.
    pub fn vendor(&self) -> Vendor {
        match self {
            Self::MariaDb { .. } => Vendor::MariaDb,
            Self::MySql { .. } | Self::Unsupported { .. } => Vendor::MySql,
        }
    }

    /// The table that holds accounts, without its schema.
    pub fn account_table(&self) -> &'static str {
        if self.is_mysql() || self.is_mariadb_10_3() { "user" } else { "global_priv" }
    }

    /// Whether this is `MariaDB` 10.3, which is in many ways as `MySQL` 5.6 was.
    pub fn is_mariadb_10_3(&self) -> bool {
        matches!(self, Self::MariaDb { major: 10, minor: 3, .. })
    }

    /// Whether the server takes users in `mysql.proxies_priv` for patterns.
    pub(super) fn proxies_by_pattern(&self) -> bool {
        self.is_mysql() || self.is_mariadb_10_3()
    }

    /// Whether the server takes a row of `MariaDB` with this name for a role.
    pub(super) fn knows_role(&self, name: &str) -> bool {
        let is = |word| name.eq_ignore_ascii_case(word);
        !name.is_empty() && !is("none") && (self.is_mariadb_at_least(10, 11) || !is("public"))
    }

    /// How the server reads a Host column.
    pub(super) fn host_syntax(&self) -> HostSyntax {
        if self.tries_addresses_first() {
            HostSyntax::MySqlNetworks
        } else if self.is_mysql() {
            HostSyntax::MySqlMasks
        } else {
            HostSyntax::MariaDb
        }
    }

    fn tries_addresses_first(&self) -> bool {
        self.is_mysql_at_least((8, 0, 23))
    }

    /// How far down a Host pattern stands among the patterns that may match: the smaller, the earlier it is tried.
    pub(super) fn host_rank(&self, pattern: &HostPattern) -> u64 {
        if self.is_mysql() {
            let by_wildcard = 255 - wildcard_sort(pattern.text());
            if !self.tries_addresses_first() {
                return by_wildcard;
            }
            return pattern
                .network_place()
                .map_or(BEHIND_ADDRESSES | by_wildcard, |place| (place << 8) | by_wildcard);
        }
        if self.is_mariadb_10_3() {
            return 255 - old_wildcard_sort(pattern.text());
        }
        pattern.wildcards().generality(self.longest_host_name() as u32)
    }

    /// The longest host name in bytes, which the Host column of `MariaDB` holds too. What a server makes of a longer name
    /// differs: it is cut, or refused.
    pub(super) fn longest_host_name(&self) -> usize {
        // 60 up to MariaDB 10.5 and MySQL 8.0.16.
        if self.is_mariadb_at_least(10, 6) || self.is_mysql_at_least((8, 0, 17)) { 255 } else { 60 }
    }

    /// The same for a Db pattern of `mysql.db`.
    pub(super) fn db_rank(&self, text: &str, pattern: &Wildcards) -> u64 {
        if self.is_mysql() {
            255 - wildcard_sort(text)
        } else if self.is_mariadb_10_3() {
            255 - old_wildcard_sort(text)
        } else {
            pattern.generality(64)
        }
    }

    /// Whether the server promises no order between two accounts that may be chosen for the same name.
    pub(super) fn ties(&self, a: &Account, b: &Account) -> bool {
        if !self.is_mysql() && !self.is_mariadb_10_3() {
            return false;
        }
        let without_place = a.pattern.place_is_unknown() || b.pattern.place_is_unknown();
        (a.rank == b.rank && a.is_anonymous() == b.is_anonymous())
            || (without_place && a.rank < BEHIND_ADDRESSES && b.rank < BEHIND_ADDRESSES)
    }

    /// The longest user name in characters; a longer login name is cut by the server, and refused here.
    pub(super) fn longest_user_name(&self) -> usize {
        match self {
            // As long as the column of the table.
            Self::MariaDb { .. } if self.is_mariadb_at_least(10, 6) => 128,
            Self::MariaDb { .. } => 80,
            Self::MySql { .. } | Self::Unsupported { .. } => 32,
        }
    }
}

impl fmt::Display for Product {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MariaDb { major, minor, patch } => write!(f, "MariaDB {major}.{minor}.{patch}"),
            Self::MySql { major, minor, patch } => write!(f, "MySQL {major}.{minor}.{patch}"),
            Self::Unsupported { version } => write!(f, "unsupported server version {version:?}"),
        }
    }
}
