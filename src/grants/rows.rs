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
    /// `mysql.global_priv`: accounts and roles of `MariaDB`.
    pub global_priv: Vec<GlobalPrivRow>,
    /// `mysql.user`: accounts and roles of `MariaDB` 10.3.
    pub mariadb_users: Vec<MariaDbUserRow>,
    /// `mysql.user`: accounts, and so roles, of `MySQL`.
    pub mysql_users: Vec<MySqlUserRow>,
    /// `mysql.db`.
    pub db: Vec<DbRow>,
    /// `mysql.tables_priv`.
    pub tables: Vec<TableRow>,
    /// `mysql.columns_priv`.
    pub columns: Vec<ColumnRow>,
    /// `mysql.procs_priv`.
    pub routines: Vec<RoutineRow>,
    /// `mysql.roles_mapping` (`MariaDB`).
    pub roles: Vec<RoleMappingRow>,
    /// `mysql.role_edges` (`MySQL` 8.0 and later).
    pub role_edges: Vec<RoleEdgeRow>,
    /// `mysql.default_roles` (`MySQL` 8.0 and later).
    pub default_roles: Vec<DefaultRoleRow>,
    /// `mysql.global_grants` (`MySQL` 8.0 and later).
    pub global_grants: Vec<GlobalGrantRow>,
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
    /// `max_user_connections`, for accounts without a limit of their own; 0 is unlimited, and with less than that
    /// nobody comes in (`MariaDB`).
    pub max_user_connections: i64,
    /// `old_style_user_limits`: limits are counted for each client host, not for each account.
    pub old_style_user_limits: bool,
    /// `default_authentication_plugin` or what stands in the server's greeting; empty if not known.
    pub default_plugin: String,
    /// Whether `init_connect` holds statements, which the server runs at a login and at nothing else.
    pub init_connect: bool,
    /// Seconds after which the server closes an idle connection: the lesser of `wait_timeout` and
    /// `interactive_timeout`.
    pub wait_timeout: u64,
    /// `partial_revokes` (`MySQL`): `%` and `_` in names of databases stand for themselves.
    pub partial_revokes: bool,
    /// `mandatory_roles` (`MySQL`): roles that everybody is granted, as the server writes them.
    pub mandatory_roles: String,
    /// `activate_all_roles_on_login` (`MySQL`).
    pub activate_all_roles_on_login: bool,
    /// `activate_mandatory_roles` (`MySQL` 9.5 and later, where it is on by default; before, they are active only as
    /// default roles are).
    pub activate_mandatory_roles: bool,
    /// `check_proxy_users` (`MySQL`): whether plugins that map no names may be mapped by `proxies_priv` after all.
    pub check_proxy_users: bool,
    /// `mysql_native_password_proxy_users` (`MySQL`).
    pub native_proxy_users: bool,
    /// `sha256_password_proxy_users` (`MySQL`): for `sha256_password` and `caching_sha2_password`.
    pub sha256_proxy_users: bool,
    /// `offline_mode` (`MySQL`): only administrators may log in.
    pub offline_mode: bool,
    /// Whether the server knows of revoked certificates: `ssl_crl` or `ssl_crlpath` is set.
    pub ssl_crl: bool,
    /// Whether the server has `OpenSSL`, and so compares its names of ciphers and certificates (`version_ssl_library` of
    /// `MariaDB`; `MySQL` from 8.0 on has it always).
    pub compares_as_openssl: bool,
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
            old_style_user_limits: false,
            default_plugin: String::new(),
            init_connect: false,
            wait_timeout: 28_800,
            partial_revokes: false,
            mandatory_roles: String::new(),
            activate_all_roles_on_login: false,
            activate_mandatory_roles: false,
            check_proxy_users: false,
            native_proxy_users: false,
            sha256_proxy_users: false,
            offline_mode: false,
            ssl_crl: false,
            compares_as_openssl: true,
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

/// A row of `mysql.user` (`MariaDB` 10.3). `password_expired` is not here: that server does not look at it.
#[derive(Clone, Default)]
pub struct MariaDbUserRow {
    /// `Host`; empty is `%`, and that of a role.
    pub host: String,
    /// `User`.
    pub user: String,
    /// `Password`: a hash for the two plugins of old, where `plugin` names no other. Wiped, never printed.
    pub password: Zeroizing<String>,
    /// `plugin`; empty is one of the two plugins of old.
    pub plugin: String,
    /// `authentication_string`: what `plugin` makes of it. Wiped, never printed.
    pub authentication_string: Zeroizing<String>,
    /// Every column whose name ends in `_priv`, with whether it is `Y`.
    pub privileges: Vec<(String, bool)>,
    /// `ssl_type`: empty, `ANY`, `X509` or `SPECIFIED`.
    pub ssl_type: String,
    /// `ssl_cipher`.
    pub ssl_cipher: String,
    /// `x509_issuer`.
    pub x509_issuer: String,
    /// `x509_subject`.
    pub x509_subject: String,
    /// `max_questions`.
    pub max_questions: i64,
    /// `max_updates`.
    pub max_updates: i64,
    /// `max_connections`.
    pub max_connections: i64,
    /// `max_user_connections`.
    pub max_user_connections: i64,
    /// `is_role` is `Y`.
    pub is_role: bool,
    /// `default_role`.
    pub default_role: String,
}

impl fmt::Debug for MariaDbUserRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MariaDbUserRow")
            .field("host", &self.host)
            .field("user", &self.user)
            .field("plugin", &self.plugin)
            .field("is_role", &self.is_role)
            .finish_non_exhaustive()
    }
}

/// A row of `mysql.user` (`MySQL` 5.7 and later).
#[derive(Clone, Default)]
pub struct MySqlUserRow {
    /// `Host`.
    pub host: String,
    /// `User`.
    pub user: String,
    /// Every column whose name ends in `_priv`, with whether it is `Y`.
    pub privileges: Vec<(String, bool)>,
    /// `plugin`.
    pub plugin: String,
    /// `authentication_string`: the stored hash, which may hold any byte of seven bits. Wiped, never printed.
    pub authentication_string: Zeroizing<Vec<u8>>,
    /// `password_expired` is `Y`.
    pub password_expired: bool,
    /// `password_last_changed` in seconds since 1970.
    pub password_last_changed: Option<i64>,
    /// `password_lifetime` in days; none is the server's `default_password_lifetime`.
    pub password_lifetime: Option<i64>,
    /// `account_locked` is `Y`.
    pub account_locked: bool,
    /// `ssl_type`: empty, `ANY`, `X509` or `SPECIFIED`.
    pub ssl_type: String,
    /// `ssl_cipher`.
    pub ssl_cipher: String,
    /// `x509_issuer`.
    pub x509_issuer: String,
    /// `x509_subject`.
    pub x509_subject: String,
    /// `max_questions`.
    pub max_questions: i64,
    /// `max_updates`.
    pub max_updates: i64,
    /// `max_connections`.
    pub max_connections: i64,
    /// `max_user_connections`.
    pub max_user_connections: i64,
    /// `User_attributes`: a JSON object, or none (and in 5.7). It may hold a second hash. Wiped, never printed.
    pub user_attributes: Option<Zeroizing<String>>,
}

impl fmt::Debug for MySqlUserRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MySqlUserRow")
            .field("host", &self.host)
            .field("user", &self.user)
            .field("plugin", &self.plugin)
            .finish_non_exhaustive()
    }
}

/// A row of `mysql.role_edges`: `from` has been granted to `to`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoleEdgeRow {
    /// `FROM_HOST`, of the role.
    pub from_host: String,
    /// `FROM_USER`.
    pub from_user: String,
    /// `TO_HOST`, of the grantee.
    pub to_host: String,
    /// `TO_USER`.
    pub to_user: String,
    /// `WITH_ADMIN_OPTION` is `Y`.
    pub admin: bool,
}

/// A row of `mysql.default_roles`: a role that an account gets at login, if it has been granted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DefaultRoleRow {
    /// `HOST` of the account.
    pub host: String,
    /// `USER`.
    pub user: String,
    /// `DEFAULT_ROLE_HOST`.
    pub role_host: String,
    /// `DEFAULT_ROLE_USER`.
    pub role_user: String,
}

/// A row of `mysql.global_grants`: a dynamic privilege.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GlobalGrantRow {
    /// `USER`.
    pub user: String,
    /// `HOST`.
    pub host: String,
    /// `PRIV`, such as `CONNECTION_ADMIN`.
    pub privilege: String,
    /// `WITH_GRANT_OPTION` is `Y`.
    pub grant_option: bool,
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
