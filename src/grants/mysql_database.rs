//! Whether an account of `MySQL` may use a database at connect.
//!
//! * global privileges, without those that are partially revoked for the database.
//! * without active roles: the first row of `mysql.db` by patterns of user, host and database, and any row for a table or
//!   a routine whose user is the account's and whose host matches the client.
//! * with an active role: the rows of exactly the account and its roles, united.
//!
//! `GRANT OPTION` alone opens nothing.

use super::account::Account;
use super::database::{Answer, DbGrant, first_match};
use super::host::{HostIdentity, Match};
use super::mysql_roles::{ActiveRoles, Key};
use super::privileges::OPERATIONS;
use super::snapshot::Snapshot;

/// How a Db column stands to a database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fit {
    Name,
    Pattern,
    No,
    /// With `partial_revokes`, an escape may be meant as one or literally.
    Unknown,
}

impl Snapshot {
    /// The rows that open `db`, a name in the server's own case, for a login from `client`.
    pub(super) fn mysql_access<'s>(
        &'s self,
        account: &'s Account,
        client: &HostIdentity,
        db: &str,
    ) -> Vec<Answer<'s>> {
        match self.role_graph.active(account) {
            ActiveRoles::Unknown(reason) => vec![Answer::Unknown(reason)],
            ActiveRoles::None => {
                let unclear = [account.user.as_str(), ""]
                    .into_iter()
                    .filter_map(|user| self.rows_of(user))
                    .flat_map(|rows| &rows.db)
                    .find(|row| self.fit(row, db) == Fit::Unknown && row.host.matches(client) != Match::No);
                let rows = match unclear {
                    Some(row) => Answer::Unknown(unclear_escape(row)),
                    None => first_match(
                        self.db_rows(&account.user, client, |row| self.fit(row, db) != Fit::No).collect(),
                    ),
                };
                vec![self.global([account].into_iter(), db), rows, self.object_access(account, client, db)]
            }
            ActiveRoles::Some(members) => {
                let accounts = members.iter().filter_map(|key| self.account(key));
                vec![self.global(accounts, db), self.rows_of_members(&members, db)]
            }
        }
    }

    fn account(&self, (user, host): &Key) -> Option<&Account> {
        let rows = self.rows_of(user)?;
        rows.accounts.iter().map(AsRef::as_ref).find(|account| account.host == *host)
    }

    /// Global privileges of several accounts together. One that is revoked for one of them counts for none: whether
    /// another one's makes up for it is left to the server.
    fn global<'s>(&self, accounts: impl Iterator<Item = &'s Account>, db: &str) -> Answer<'s> {
        let accounts: Vec<_> = accounts.collect();
        let restrictions = accounts.iter().flat_map(|account| &account.restrictions);
        let revoked = restrictions
            .filter(|(name, _)| *self.fold(name) == *db)
            .fold(0, |revoked, (_, privileges)| revoked | privileges);
        if let Some(account) = accounts.iter().find(|account| account.access & !revoked & OPERATIONS != 0) {
            return Answer::Yes("user", (&*account.label).into());
        }
        match accounts.iter().find(|account| account.access & OPERATIONS != 0) {
            Some(account) if accounts.len() > 1 => {
                Answer::Unknown(format!("{account} has privileges that are revoked partially"))
            }
            _ => Answer::No,
        }
    }

    /// Rows of exactly these accounts. The row for the name itself counts alone; without one, all patterns together.
    fn rows_of_members<'s>(&'s self, members: &std::collections::BTreeSet<Key>, db: &str) -> Answer<'s> {
        let (mut named, mut by_pattern, mut unclear) = (None::<&DbGrant>, None::<&DbGrant>, None);
        let (mut has_name, mut object) = (false, None);
        for (user, host) in members {
            let Some(rows) = self.rows_of(user) else { continue };
            for row in rows.db.iter().filter(|row| row.host.text() == host) {
                match self.fit(row, db) {
                    Fit::Name => {
                        has_name = true;
                        named = named.or(row.access.then_some(row));
                    }
                    Fit::Pattern => by_pattern = by_pattern.or(row.access.then_some(row)),
                    Fit::No => {}
                    Fit::Unknown => unclear = Some(row),
                }
            }
            for (table, list) in [("tables_priv", &rows.tables), ("procs_priv", &rows.routines)] {
                let opens = |row: &&super::database::ObjectGrant| {
                    row.opens_database && row.db == db && row.host.text() == host
                };
                object = object.or_else(|| list.iter().find(opens).map(|row| (table, row)));
            }
        }
        match (named, object, unclear, by_pattern) {
            (Some(row), ..) => Answer::Yes("db", (&*row.label).into()),
            (_, Some((table, row)), ..) => Answer::Yes(table, (&*row.label).into()),
            (_, _, Some(row), _) => Answer::Unknown(unclear_escape(row)),
            (_, _, _, Some(row)) if has_name => {
                Answer::Unknown(format!("{} opens the database, beside a row for its very name", row.label))
            }
            (_, _, _, Some(row)) => Answer::Yes("db", (&*row.label).into()),
            (None, None, None, None) => Answer::No,
        }
    }

    fn fit(&self, row: &DbGrant, db: &str) -> Fit {
        let is_name = row.name == db;
        let by_pattern = row.pattern.matches(db.as_bytes(), false);
        let is_plain = !row.name.contains(['%', '_', '\\']);
        match (self.variables.partial_revokes, is_name, by_pattern) {
            (_, true, _) if is_plain => Fit::Name,
            (true, true, _) | (true, _, true) if row.name.contains('\\') => Fit::Unknown,
            (true, true, _) | (false, _, true) => Fit::Pattern,
            _ => Fit::No,
        }
    }
}

fn unclear_escape(row: &DbGrant) -> String {
    format!("{} holds an escape, which partial_revokes may make a character of the name", row.label)
}
