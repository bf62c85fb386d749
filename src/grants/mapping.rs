//! Whether a login may become another account's: `mysql.proxies_priv` maps names that a plugin gives.

use super::account::Account;
use super::host::{HostIdentity, Match};
use super::masked::both;
use super::snapshot::Snapshot;

impl Snapshot {
    /// A row by which a login may be mapped to another account.
    pub(super) fn mapping(&self, account: &Account, user: &[u8], client: &HostIdentity) -> Option<&str> {
        if account.authentication.iter().all(|a| self.keeps_the_name(&a.plugin)) {
            return None;
        }
        // MySQL looks for the login name, which is not that of an anonymous account.
        let login = std::str::from_utf8(user).unwrap_or_default();
        let mut users = vec![account.user.as_str(), login, ""];
        users.dedup();
        let rows = users.iter().filter_map(|user| self.rows_of(user)).flat_map(|rows| &rows.proxies);
        rows.filter(|row| !row.is_default)
            .find(|row| both(row.host.matches(client), row.proxied_host.matches(client)) != Match::No)
            .map(|row| row.label.as_str())
    }

    /// Whether a plugin takes the login name as it is, and the server maps it no further.
    fn keeps_the_name(&self, plugin: &str) -> bool {
        let v = &self.variables;
        let is_mapped = self.product.is_mysql() && v.check_proxy_users;
        match plugin {
            "mysql_native_password" => !(is_mapped && v.native_proxy_users),
            "sha256_password" | "caching_sha2_password" => !(is_mapped && v.sha256_proxy_users),
            "mysql_old_password" | "ed25519" | "parsec" | "unix_socket" => true,
            _ => false,
        }
    }
}
