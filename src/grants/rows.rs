//! Rows of the grant tables and the variables that decide how they are read, untouched as the server sent them.
//!
//! Read them with `sql_mode=''` (blanks at the end of CHAR columns are then gone, as they are for the server
//! itself) and `SET NAMES utf8mb4`; SET columns as numbers (`Table_priv+0`).

use std::fmt;

use zeroize::Zeroizing;

/// Everything that is read from one server, in one consistent look.
#[derive(Clone, Debug, Default)]
pub struct RawAccounts {
    /// Variables that change how rows are matched and judged.
    pub variables: ServerVariables,
    /// `mysql.global_priv`: accounts and roles.
    pub global_priv: Vec<GlobalPrivRow>,
    /// `mysql.db`.
    pub db: Vec<DbRow>,
    /// `mysql.tables_priv`.
    pub tables: Vec<TableRow>,
    /// `mysql.columns_priv`.
    pub columns: Vec<ColumnRow>,
    /// `mysql.procs_priv`.
    pub routines: Vec<RoutineRow>,
    /// `mysql.roles_mapping`.
    pub roles: Vec<RoleMappingRow>,
    /// `mysql.proxies_priv`.
    pub proxies: Vec<ProxyRow>,
    /// The names that `SHOW DATABASES` gives.
    pub databases: Vec<String>,
}

/// Server variables, by their own names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerVariables {
    /// `version`, such as `10.11.19-MariaDB-log`.
    pub version: String,
    /// `skip_name_resolve`: clients are known by address only, and rows that need a name are ignored.
    pub skip_name_resolve: bool,
    /// `lower_case_table_names`: 0, 1 or 2; other than 0, names of databases are compared in lower case.
    pub lower_case_table_names: u8,
    /// `require_secure_transport`.
    pub require_secure_transport: bool,
    /// `default_password_lifetime` in days; 0 is never.
    pub default_password_lifetime: i64,
    /// `disconnect_on_expired_password`: refuse an expired password instead of opening a sandbox.
    pub disconnect_on_expired_password: bool,
    /// `max_password_errors`: wrong passwords in a row after which an account is blocked; 0 is unlimited.
    pub max_password_errors: u64,
    /// `max_connections`.
    pub max_connections: u64,
    /// `max_user_connections`, for accounts without a limit of their own; 0 is unlimited.
    pub max_user_connections: u64,
    /// `default_authentication_plugin` or what stands in the server's greeting; empty if not known.
    pub default_plugin: String,
    /// Whether `init_connect` holds statements, which the server runs at a login and at nothing else.
    pub init_connect: bool,
    /// Seconds after which the server closes an idle connection: the lesser of `wait_timeout` and
    /// `interactive_timeout`.
    pub wait_timeout: u64,
}

impl Default for ServerVariables {
    /// The defaults of `MariaDB` 10.11, with no version: a snapshot without a version decides nothing.
    fn default() -> Self {
        Self {
            version: String::new(),
            skip_name_resolve: false,
            lower_case_table_names: 0,
            require_secure_transport: false,
            default_password_lifetime: 0,
            disconnect_on_expired_password: false,
            max_password_errors: 4_294_967_295,
            max_connections: 151,
            max_user_connections: 0,
            default_plugin: String::new(),
            init_connect: false,
            wait_timeout: 28_800,
        }
    }
}

/// A row of `mysql.global_priv` (`MariaDB` 10.4 and later).
#[derive(Clone)]
pub struct GlobalPrivRow {
    /// `Host`.
    pub host: String,
    /// `User`.
    pub user: String,
    /// `Priv`: a JSON object; it holds password hashes, so it is wiped when dropped and never printed.
    pub priv_json: Zeroizing<String>,
}

impl fmt::Debug for GlobalPrivRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GlobalPrivRow")
            .field("host", &self.host)
            .field("user", &self.user)
            .finish_non_exhaustive()
    }
}

/// A row of `mysql.db`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DbRow {
    /// `Host`; empty for a role.
    pub host: String,
    /// `User`.
    pub user: String,
    /// `Db`: a pattern with `%`, `_` and `\`.
    pub db: String,
    /// Every column whose name ends in `_priv`, with whether it is `Y`.
    pub privileges: Vec<(String, bool)>,
}

/// A row of `mysql.tables_priv`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableRow {
    /// `Host`; empty for a role.
    pub host: String,
    /// `Db`, literal.
    pub db: String,
    /// `User`.
    pub user: String,
    /// `Table_name`.
    pub table: String,
    /// `Table_priv+0`.
    pub table_privileges: u64,
    /// `Column_priv+0`: privileges that some column of the table has.
    pub column_privileges: u64,
}

/// A row of `mysql.columns_priv`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ColumnRow {
    /// `Host`; empty for a role.
    pub host: String,
    /// `Db`, literal.
    pub db: String,
    /// `User`.
    pub user: String,
    /// `Table_name`.
    pub table: String,
    /// `Column_name`.
    pub column: String,
    /// `Column_priv+0`.
    pub privileges: u64,
}

/// A row of `mysql.procs_priv`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoutineRow {
    /// `Host`; empty for a role.
    pub host: String,
    /// `Db`, literal.
    pub db: String,
    /// `User`.
    pub user: String,
    /// `Routine_name`.
    pub routine: String,
    /// `Routine_type`: `FUNCTION`, `PROCEDURE`, `PACKAGE` or `PACKAGE BODY`.
    pub kind: String,
    /// `Proc_priv+0`.
    pub privileges: u64,
}

/// A row of `mysql.roles_mapping`: who has been granted a role.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoleMappingRow {
    /// `Host` of the grantee; empty if the grantee is itself a role.
    pub host: String,
    /// `User` of the grantee, or the name of the role that is the grantee.
    pub user: String,
    /// `Role` that was granted.
    pub role: String,
    /// `Admin_option` is `Y`.
    pub admin: bool,
}

/// A row of `mysql.proxies_priv`: who may become whom when a plugin maps the name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxyRow {
    /// `Host`.
    pub host: String,
    /// `User`.
    pub user: String,
    /// `Proxied_host`.
    pub proxied_host: String,
    /// `Proxied_user`.
    pub proxied_user: String,
    /// `With_grant` is not 0.
    pub with_grant: bool,
}
