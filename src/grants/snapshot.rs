//! Everything known about one server's accounts at one moment, indexed for the data path.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

use serde::Serialize;
use sha2::{Digest, Sha256};

use super::account::{self, Account, Parsed};
use super::database::{DbGrant, ObjectGrant, Role};
use super::digest;
use super::host::{HostIdentity, HostName, HostPattern, Wildcards};
use super::mariadb_account;
use super::mysql_account;
use super::mysql_roles::{RoleGraph, default_role_labels};
use super::privileges::Privileges;
use super::product::Product;
use super::rows::{RawAccounts, ServerVariables};

/// A row that the server does not use, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct IgnoredRow {
    /// Table without its schema, such as `global_priv`.
    pub table: &'static str,
    /// The row's key in words.
    pub row: String,
    /// Why the server does not use it.
    pub reason: String,
}

/// A row of `mysql.proxies_priv`.
pub(super) struct ProxyGrant {
    pub(super) host: HostPattern,
    pub(super) proxied_host: HostPattern,
    /// The row that every installation has: it names nobody, and is there for its grant option.
    pub(super) is_default: bool,
    pub(super) label: String,
}

/// A row of `mysql.columns_priv`.
pub(super) struct ColumnGrant {
    pub(super) host: HostPattern,
    pub(super) label: String,
}

/// A row of `mysql.roles_mapping` whose grantee is an account.
pub(super) struct RoleGrant {
    pub(super) role: String,
    pub(super) grantee: Arc<Account>,
    pub(super) label: String,
}

/// Rows that apply to one user name; those of the empty name apply to everybody.
#[derive(Default)]
pub(super) struct UserRows {
    /// In the order in which the server tries them.
    pub(super) accounts: Vec<Arc<Account>>,
    /// In the order in which the server tries them, as far as that is determined.
    pub(super) db: Vec<DbGrant>,
    pub(super) tables: Vec<ObjectGrant>,
    /// Only for the comparison of hosts: the server reads them through `tables_priv`.
    pub(super) columns: Vec<ColumnGrant>,
    pub(super) routines: Vec<ObjectGrant>,
    pub(super) roles: Vec<RoleGrant>,
    pub(super) proxies: Vec<ProxyGrant>,
}

/// The accounts of one server, immutable.
pub struct Snapshot {
    pub(super) product: Product,
    pub(super) variables: ServerVariables,
    pub(super) users: HashMap<String, UserRows>,
    pub(super) roles: BTreeMap<String, Role>,
    /// Roles of `MySQL`.
    pub(super) role_graph: RoleGraph,
    /// Every login account, by name, then in the server's order.
    accounts: Vec<Arc<Account>>,
    /// One account for every Host text.
    pub(super) hosts: Vec<Arc<Account>>,
    databases: BTreeSet<String>,
    ignored: Vec<IgnoredRow>,
    digest: [u8; 32],
    /// Digests of the rows of each account in each table.
    pub(super) owners: BTreeMap<digest::Owner, [u8; 32]>,
    loaded_at: SystemTime,
}

impl Snapshot {
    /// Reads and indexes rows. Rows that the server itself ignores are left out and listed in [`Self::ignored`].
    pub fn build(raw: RawAccounts, loaded_at: SystemTime) -> Self {
        let (digest, owners) = digest::of(&raw);
        let mut builder = Builder {
            product: Product::from_version(&raw.variables.version),
            variables: raw.variables.clone(),
            users: HashMap::new(),
            roles: BTreeMap::new(),
            ignored: Vec::new(),
        };
        builder.accounts(&raw);
        builder.role_mappings(&raw);
        builder.databases(&raw);
        builder.objects(&raw);
        builder.proxies(&raw);
        builder.inherit();
        let Builder { product, variables, users, roles, ignored } = builder;
        let role_graph = RoleGraph::build(&raw);
        let databases = raw.databases.into_iter().map(|name| fold(&variables, &name).into_owned()).collect();
        let by_name: BTreeMap<&String, &UserRows> = users.iter().collect();
        let accounts: Vec<_> = by_name.values().flat_map(|rows| &rows.accounts).cloned().collect();
        let by_host: BTreeMap<&str, &Arc<Account>> = accounts.iter().map(|a| (a.host.as_str(), a)).collect();
        // `%` sorts before letters and digits: where it is, the first look finds it.
        let hosts = by_host.into_values().cloned().collect();
        Self {
            product,
            variables,
            users,
            roles,
            role_graph,
            accounts,
            hosts,
            databases,
            ignored,
            digest,
            owners,
            loaded_at,
        }
    }

    /// SHA-256 over all rows, variables and names of databases, in no particular order: equal if and only if
    /// the same was read.
    pub fn digest(&self) -> [u8; 32] {
        self.digest
    }

    /// When the rows were read.
    pub fn loaded_at(&self) -> SystemTime {
        self.loaded_at
    }

    /// The server product.
    pub fn product(&self) -> &Product {
        &self.product
    }

    /// The variables that were read with the rows.
    pub fn variables(&self) -> &ServerVariables {
        &self.variables
    }

    /// Rows that the server does not use.
    pub fn ignored(&self) -> &[IgnoredRow] {
        &self.ignored
    }

    /// Names of databases, sorted; in lower case if the server compares them so.
    pub fn databases(&self) -> impl Iterator<Item = &str> {
        self.databases.iter().map(String::as_str)
    }

    /// Whether a database exists, with the server's rule for upper and lower case.
    pub fn has_database(&self, name: &str) -> bool {
        self.databases.contains(&*self.fold(name))
    }

    /// Every login account, grouped by user in the order of names, then in the server's order.
    pub fn accounts(&self) -> impl Iterator<Item = &Account> {
        self.accounts.iter().map(Arc::as_ref)
    }

    /// Who a TCP client from `ip` is for this server; `name`: what a resolver says to any other address than loopback.
    ///
    /// With name resolving, exactly `127.0.0.1` and `::1` are `localhost`. Without, nobody on TCP has a name.
    pub fn host_identity(&self, ip: IpAddr, name: &HostName) -> HostIdentity {
        let plain = HostIdentity::without_name(ip);
        if self.variables.skip_name_resolve {
            return plain;
        }
        match plain.ip() {
            Some(IpAddr::V4(v4)) if v4.octets() == [127, 0, 0, 1] => HostIdentity::with_name(ip, "localhost"),
            Some(IpAddr::V6(v6)) if v6.is_loopback() => HostIdentity::with_name(ip, "localhost"),
            _ => match name {
                HostName::Known(name) if name.len() > self.product.longest_host_name() => {
                    HostIdentity::with_unknown_name(ip)
                }
                name => HostIdentity::new(ip, name.clone()),
            },
        }
    }

    /// An account to go through the motions with for a login that is refused whatever its password is, so that
    /// the refusal looks and takes as long as a wrong password. Always the same one for the same name and secret.
    pub fn decoy(&self, user: &[u8], secret: &[u8; 32]) -> Option<Arc<Account>> {
        let mut hasher = Sha256::new();
        for part in [secret.as_slice(), user, secret.as_slice()] {
            hasher.update((part.len() as u64).to_be_bytes());
            hasher.update(part);
        }
        let hash: [u8; 32] = hasher.finalize().into();
        let number =
            u64::from_be_bytes([hash[0], hash[1], hash[2], hash[3], hash[4], hash[5], hash[6], hash[7]]);
        let index = number.checked_rem(self.accounts.len() as u64)?;
        self.accounts.get(usize::try_from(index).ok()?).cloned()
    }

    /// The name of a database as the server compares it.
    pub(super) fn fold<'n>(&self, name: &'n str) -> Cow<'n, str> {
        fold(&self.variables, name)
    }

    /// Rows of one user name.
    pub(super) fn rows_of(&self, user: &str) -> Option<&UserRows> {
        self.users.get(user)
    }
}

impl fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Snapshot")
            .field("product", &self.product)
            .field("accounts", &self.accounts.len())
            .field("roles", &self.roles.len())
            .field("databases", &self.databases.len())
            .field("ignored", &self.ignored.len())
            .field("loaded_at", &self.loaded_at)
            .finish_non_exhaustive()
    }
}

fn fold<'n>(variables: &ServerVariables, name: &'n str) -> Cow<'n, str> {
    if variables.lower_case_table_names == 0 {
        return Cow::Borrowed(name);
    }
    // One character for one, as the server's table of letters has it.
    let lower = |c: char| {
        let mut letters = c.to_lowercase();
        match (letters.next(), letters.next()) {
            (Some(letter), None) => letter,
            _ => c,
        }
    };
    Cow::Owned(name.chars().map(lower).collect())
}

struct Builder {
    product: Product,
    variables: ServerVariables,
    users: HashMap<String, UserRows>,
    roles: BTreeMap<String, Role>,
    ignored: Vec<IgnoredRow>,
}

/// `Grant` in `Table_priv`.
const GRANT_TABLE: u64 = 1 << 6;

/// `Grant` in `Proc_priv`.
const GRANT_ROUTINE: u64 = 1 << 2;

const NEEDS_NAME: &str = "the host needs name resolving, which the server has switched off";

impl Builder {
    fn ignore(&mut self, table: &'static str, row: String, reason: impl Into<String>) {
        self.ignored.push(IgnoredRow { table, row, reason: reason.into() });
    }

    fn rows(&mut self, user: &str) -> &mut UserRows {
        if !self.users.contains_key(user) {
            self.users.insert(user.to_owned(), UserRows::default());
        }
        self.users.entry(user.to_owned()).or_default()
    }

    /// Whether the server leaves rows out that need a name which it does not resolve; `MySQL` keeps them.
    fn drops_names(&self) -> bool {
        self.variables.skip_name_resolve && !self.product.is_mysql()
    }

    /// The pattern of a Host column other than that of an account; none if the server ignores the row.
    fn host(&mut self, table: &'static str, host: &str, user: &str, label: &str) -> Option<HostPattern> {
        let host = match host {
            "" if self.product.is_mysql() || self.roles.contains_key(user) => "",
            "" => "%",
            host => host,
        };
        let pattern = HostPattern::parse(host, self.product.host_syntax());
        if self.drops_names() && pattern.needs_resolving() {
            self.ignore(table, label.to_owned(), NEEDS_NAME);
            return None;
        }
        Some(pattern)
    }

    fn accounts(&mut self, raw: &RawAccounts) {
        let mut groups: BTreeMap<String, Vec<Account>> = BTreeMap::new();
        let roles = default_role_labels(&raw.default_roles);
        for row in &raw.mysql_users {
            let mut account = mysql_account::parse(row, &self.product);
            account.default_role = roles.get(&(&*row.user, &*row.host)).cloned().unwrap_or_default();
            groups.entry(account.user.clone()).or_default().push(account);
        }
        let table = self.product.account_table();
        let (product, no_names) = (self.product.clone(), self.variables.skip_name_resolve);
        let parsed = raw.global_priv.iter().map(|row| {
            let parsed = account::parse(row, no_names, |host| product.host_rank(host));
            (parsed, &row.user, &row.host)
        });
        let of_old = raw
            .mariadb_users
            .iter()
            .map(|row| (mariadb_account::parse(row, no_names, &product), &row.user, &row.host));
        for (parsed, user, host) in parsed.chain(of_old) {
            match parsed {
                Parsed::Account(account) => groups.entry(account.user.clone()).or_default().push(*account),
                Parsed::Role { name, access } if product.knows_role(&name) => {
                    self.roles.insert(name, Role::new(access));
                }
                Parsed::Role { .. } => {
                    self.ignore(table, account::label(user, host), "no valid name of a role");
                }
                Parsed::Ignored(reason) => self.ignore(table, account::label(user, host), reason),
            }
        }
        for (user, mut accounts) in groups {
            // The last key makes the outcome independent of the order of rows; the server has no such key.
            accounts.sort_by(|a, b| {
                a.rank.cmp(&b.rank).then_with(|| b.host.cmp(&a.host)).then_with(|| a.digest.cmp(&b.digest))
            });
            let mut kept: Vec<Account> = Vec::with_capacity(accounts.len());
            for account in accounts {
                match kept.last_mut() {
                    Some(last) if last.host == account.host => {
                        if !last.says_the_same(&account) {
                            let reason =
                                "two rows for the same user and host differ, and the server uses either";
                            last.unreadable = Some(reason.to_owned());
                        }
                        self.ignore(table, account.label, "another row is for the same user and host");
                    }
                    _ => kept.push(account),
                }
            }
            self.rows(&user).accounts = kept.into_iter().map(Arc::new).collect();
        }
    }

    fn role_mappings(&mut self, raw: &RawAccounts) {
        for row in &raw.roles {
            let label = format!("{} to {}", row.role, account::label(&row.user, &row.host));
            if !self.roles.contains_key(&row.role) {
                self.ignore("roles_mapping", label, "there is no such role");
                continue;
            }
            if row.host.is_empty() {
                if let Some(grantee) = self.roles.get_mut(&row.user) {
                    grantee.granted.push(row.role.clone());
                } else {
                    self.ignore("roles_mapping", label, "the grantee does not exist");
                }
                continue;
            }
            let accounts = self.users.get(&row.user).map(|rows| rows.accounts.as_slice()).unwrap_or_default();
            match accounts.iter().find(|account| account.host.eq_ignore_ascii_case(&row.host)) {
                Some(account) => {
                    let grantee = Arc::clone(account);
                    self.rows(&row.user).roles.push(RoleGrant { role: row.role.clone(), grantee, label });
                }
                None => self.ignore("roles_mapping", label, "the grantee does not exist"),
            }
        }
    }

    fn databases(&mut self, raw: &RawAccounts) {
        for row in &raw.db {
            let label = format!("{} on `{}`", account::label(&row.user, &row.host), row.db);
            if row.db.is_empty() {
                self.ignore("db", label, "no name of a database");
                continue;
            }
            let Some(host) = self.host("db", &row.host, &row.user, &label) else { continue };
            let pattern = Wildcards::parse(&fold(&self.variables, &row.db));
            let name = fold(&self.variables, &row.db).into_owned();
            let rank = (self.product.host_rank(&host), self.product.db_rank(&name, &pattern));
            let privileges = Privileges::of_columns(&row.privileges, &self.product);
            let access = privileges.open_a_database(&self.product);
            self.rows(&row.user).db.push(DbGrant { host, name, pattern, rank, privileges, access, label });
        }
        for rows in self.users.values_mut() {
            rows.db.sort_by(|a, b| a.rank.cmp(&b.rank).then_with(|| a.label.cmp(&b.label)));
        }
    }

    fn objects(&mut self, raw: &RawAccounts) {
        let mut of_table: HashMap<(&str, &str, &str, &str), BTreeMap<String, Privileges>> = HashMap::new();
        for row in &raw.columns {
            let columns = of_table.entry((&row.host, &row.db, &row.user, &row.table)).or_default();
            let column = columns.entry(row.column.clone()).or_default();
            *column = column.with(Privileges::of_column(row.privileges));
        }
        for row in &raw.tables {
            let label = format!("{} on `{}`.`{}`", account::label(&row.user, &row.host), row.db, row.table);
            let Some(host) = self.host("tables_priv", &row.host, &row.user, &label) else { continue };
            let (db, table) = (fold(&self.variables, &row.db), fold(&self.variables, &row.table));
            // The server looks for columns under the names as it has changed them, not as they are stored.
            let columns = match of_table.get(&(host.text(), &*db, &*row.user, &*table)) {
                Some(columns) if row.column_privileges != 0 => columns.clone(),
                _ => BTreeMap::new(),
            };
            let has_columns = !columns.is_empty();
            if row.table_privileges == 0 && !has_columns {
                self.ignore("tables_priv", label, "no privilege");
                continue;
            }
            // MySQL demands more than the right to grant.
            let opens_database =
                !self.product.is_mysql() || has_columns || row.table_privileges & !GRANT_TABLE != 0;
            let some_column = if has_columns { row.column_privileges } else { 0 };
            let grant = ObjectGrant {
                host,
                db: db.into_owned(),
                object: table.into_owned(),
                privileges: Privileges::of_table(row.table_privileges),
                some_column: Privileges::of_column(some_column),
                columns,
                opens_database,
                label,
            };
            self.rows(&row.user).tables.push(grant);
        }
        for row in &raw.columns {
            let label = format!(
                "{} on `{}`.`{}`.`{}`",
                account::label(&row.user, &row.host),
                row.db,
                row.table,
                row.column
            );
            let Some(host) = self.host("columns_priv", &row.host, &row.user, &label) else { continue };
            self.rows(&row.user).columns.push(ColumnGrant { host, label });
        }
        for row in &raw.routines {
            let who = account::label(&row.user, &row.host);
            let label = format!("{who} on {} `{}`.`{}`", row.kind.to_lowercase(), row.db, row.routine);
            if row.privileges == 0 {
                self.ignore("procs_priv", label, "no privilege");
                continue;
            }
            let Some(host) = self.host("procs_priv", &row.host, &row.user, &label) else { continue };
            let db = fold(&self.variables, &row.db).into_owned();
            let opens_database = !self.product.is_mysql() || row.privileges & !GRANT_ROUTINE != 0;
            let grant = ObjectGrant {
                host,
                db,
                object: format!("{} {}", row.kind, row.routine),
                privileges: Privileges::of_routine(row.privileges),
                some_column: Privileges::default(),
                columns: BTreeMap::new(),
                opens_database,
                label,
            };
            self.rows(&row.user).routines.push(grant);
        }
        for rows in self.users.values_mut() {
            for list in [&mut rows.tables, &mut rows.routines] {
                list.sort_by(|a, b| a.label.cmp(&b.label));
            }
            rows.columns.sort_by(|a, b| a.label.cmp(&b.label));
            rows.roles.sort_by(|a, b| a.label.cmp(&b.label));
        }
    }

    fn proxies(&mut self, raw: &RawAccounts) {
        let (syntax, is_mysql) = (self.product.host_syntax(), self.product.is_mysql());
        let pattern =
            |host: &str| HostPattern::parse(if host.is_empty() && !is_mysql { "%" } else { host }, syntax);
        for row in &raw.proxies {
            let who = account::label(&row.user, &row.host);
            let label = format!("{who} as {}", account::label(&row.proxied_user, &row.proxied_host));
            let (host, proxied_host) = (pattern(&row.host), pattern(&row.proxied_host));
            if self.drops_names() && (host.needs_resolving() || proxied_host.needs_resolving()) {
                self.ignore("proxies_priv", label, NEEDS_NAME);
                continue;
            }
            let is_default = row.with_grant && row.proxied_host.is_empty() && row.proxied_user.is_empty();
            // Where the user is taken for a pattern, it may be anybody.
            let is_pattern = self.product.proxies_by_pattern() && row.user.contains(['%', '_', '\\']);
            let user = if is_pattern { "" } else { row.user.as_str() };
            self.rows(user).proxies.push(ProxyGrant { host, proxied_host, is_default, label });
        }
        for rows in self.users.values_mut() {
            rows.proxies.sort_by(|a, b| a.label.cmp(&b.label));
        }
    }

    /// Gives every role what the roles that are granted to it have, as the server does once at load time.
    fn inherit(&mut self) {
        let names: Vec<String> = self.roles.keys().cloned().collect();
        let inherited: Vec<_> =
            names.iter().map(|name| Role::inherited(name, &self.roles, &self.users)).collect();
        for (name, inherited) in names.iter().zip(inherited) {
            if let Some(role) = self.roles.get_mut(name) {
                role.inherited = inherited;
            }
        }
    }
}
