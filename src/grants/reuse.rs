//! Whether the server would treat a second session on one of its connections as it treats a second login.

use super::account::{Account, NATIVE, asks_the_system};
use super::product::Product;
use super::rows::ServerVariables;
use super::snapshot::Snapshot;

impl Snapshot {
    /// Why links of this account must not serve a second session: the server does something at a login that a reset
    /// of the connection leaves out, or counts connections, among which idle links would take the places of sessions.
    pub fn forbids_reuse(&self, account: &Account) -> Option<&'static str> {
        if !self.product.is_mariadb_at_least(10, 4) {
            return Some("what a reset leaves behind is known of MariaDB from 10.4 on only");
        }
        if self.variables.init_connect {
            return Some("init_connect runs at every login");
        }
        let mut asking = account.authentication.iter().filter(|way| !asks_the_system(&way.plugin));
        if asking.next().is_none_or(|way| way.plugin != NATIVE) {
            return Some("the server asks by another plugin than mysql_native_password first");
        }
        if self.limits(account).is_some() {
            return Some("the server counts what the account does");
        }
        None
    }

    /// Whether the server blocks the account after a number of wrong passwords, so that it must hear of every one.
    pub fn counts_failures(&self, account: &Account) -> bool {
        let unlimited = ServerVariables::default().max_password_errors;
        let is_mariadb = matches!(self.product, Product::MariaDb { .. });
        account.failed_login_limit.is_some() || is_mariadb && self.variables.max_password_errors < unlimited
    }

    /// Whether this account is there, unchanged.
    pub fn has_account(&self, digest: &[u8; 32]) -> bool {
        self.accounts().any(|account| account.digest() == digest)
    }
}
