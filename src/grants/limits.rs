//! How many connections the server lets an account have, at one time and in an hour, and how many statements.

use super::account::Account;
use super::product::{Product, Vendor};
use super::snapshot::Snapshot;

/// `SUPER` in [`Account::access`].
const SUPER: u64 = 1 << 15;

/// `CONNECTION ADMIN` in [`Account::access`].
const CONNECTION_ADMIN: u64 = 1 << 32;

/// What the server holds an account to when it logs in, and afterwards.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AccountLimits {
    /// The server's `max_user_connections`, where it applies; a negative number admits none.
    pub of_server: Option<i64>,
    /// The account's `MAX_USER_CONNECTIONS`; a negative number admits none.
    pub of_account: Option<i64>,
    /// The account's `MAX_CONNECTIONS_PER_HOUR`.
    pub per_hour: Option<i64>,
    /// The account's `MAX_QUERIES_PER_HOUR`.
    pub queries: Option<i64>,
    /// The account's `MAX_UPDATES_PER_HOUR`.
    pub updates: Option<i64>,
}

/// The limit that another connection or statement would exceed, with its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OverLimit {
    /// The server's `max_user_connections`.
    Server(i64),
    /// The account's `MAX_USER_CONNECTIONS`.
    Account(i64),
    /// The account's `MAX_CONNECTIONS_PER_HOUR`.
    PerHour(i64),
    /// The account's `MAX_QUERIES_PER_HOUR`.
    Queries(i64),
    /// The account's `MAX_UPDATES_PER_HOUR`.
    Updates(i64),
}

impl Snapshot {
    /// The limits of an account; none if there is not one.
    pub fn limits(&self, account: &Account) -> Option<AccountLimits> {
        let set = |limit: i64| (limit != 0).then_some(limit);
        let positive = |limit: i64| (limit > 0).then_some(limit);
        let of_account = set(account.limits.user_connections);
        let of_server = set(self.variables.max_user_connections)
            .filter(|_| of_account.is_none() && !self.ignores_server_limit(account));
        let limits = AccountLimits {
            of_server,
            of_account,
            per_hour: set(account.limits.connections_per_hour),
            queries: positive(account.limits.questions_per_hour),
            updates: positive(account.limits.updates_per_hour),
        };
        (limits != AccountLimits::default()).then_some(limits)
    }

    /// Whether limits are counted for each client host, not for each account.
    pub fn counts_by_client_host(&self) -> bool {
        self.variables.old_style_user_limits
    }

    /// `MariaDB` lets administrators in beyond its own limit, though never beyond that of their account. Privileges of
    /// roles come after the check, and do not help.
    fn ignores_server_limit(&self, account: &Account) -> bool {
        // From 11.0 on SUPER is not a privilege of all these others any more.
        let privileged =
            if self.product.is_mariadb_at_least(11, 0) { CONNECTION_ADMIN } else { CONNECTION_ADMIN | SUPER };
        matches!(self.product, Product::MariaDb { .. }) && account.access & privileged != 0
    }
}

impl AccountLimits {
    /// Those that stand in the account's row.
    #[must_use]
    pub fn of_row(self) -> Self {
        Self { of_server: None, ..self }
    }

    /// Whether it is limited what the account's sessions do.
    pub fn limit_statements(&self) -> bool {
        self.queries.is_some() || self.updates.is_some()
    }

    /// The limit that one more connection would exceed, in the server's order. `open`: those that there are;
    /// `this_hour`: logins in this hour.
    pub fn exceeded(&self, open: u32, this_hour: u32) -> Option<OverLimit> {
        let full = |limit: &i64| *limit <= i64::from(open);
        let spent = |limit: &i64| *limit <= i64::from(this_hour);
        self.of_server
            .filter(full)
            .map(OverLimit::Server)
            .or_else(|| self.of_account.filter(full).map(OverLimit::Account))
            .or_else(|| self.per_hour.filter(spent).map(OverLimit::PerHour))
    }
}

impl OverLimit {
    /// The server's error number.
    pub fn code(&self) -> u16 {
        match self {
            Self::Server(_) => 1203,
            Self::Account(_) | Self::PerHour(_) | Self::Queries(_) | Self::Updates(_) => 1226,
        }
    }

    /// The server's own words, whose "current value" is the limit itself. `user`: the name of the account, which is
    /// empty for an anonymous one.
    pub fn client_message(&self, user: &str, vendor: Vendor) -> String {
        let exceeded = |resource, limit| {
            format!("User '{user}' has exceeded the '{resource}' resource (current value: {limit})")
        };
        match self {
            Self::Server(_) => {
                format!("User {user} already has more than 'max_user_connections' active connections")
            }
            Self::Account(limit) => exceeded("max_user_connections", limit),
            Self::PerHour(limit) => exceeded("max_connections_per_hour", limit),
            Self::Queries(limit) => match vendor {
                Vendor::MariaDb => exceeded("max_queries_per_hour", limit),
                Vendor::MySql => exceeded("max_questions", limit),
            },
            Self::Updates(limit) => match vendor {
                Vendor::MariaDb => exceeded("max_updates_per_hour", limit),
                Vendor::MySql => exceeded("max_updates", limit),
            },
        }
    }
}

impl std::fmt::Display for OverLimit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Server(limit) => write!(f, "the server's max_user_connections is {limit}"),
            Self::Account(limit) => write!(f, "its MAX_USER_CONNECTIONS is {limit}"),
            Self::PerHour(limit) => write!(f, "its MAX_CONNECTIONS_PER_HOUR is {limit}"),
            Self::Queries(limit) => write!(f, "its MAX_QUERIES_PER_HOUR is {limit}"),
            Self::Updates(limit) => write!(f, "its MAX_UPDATES_PER_HOUR is {limit}"),
        }
    }
}
