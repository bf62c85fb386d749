//! Whether a login has nothing from the proxy's address that it would not have from the client's, where other rows apply
//! to the one than to the other: the subset rule.
//!
//! It is proved if all of this holds, and else it is not taken to be so:
//!
//! * Both addresses get the same account. Its password, state, demands, limits, global and dynamic privileges are then the
//!   same, and so is everything that a server looks up by the exact account: privileges while a role of `MySQL` is active.
//! * Of every row of the user and of nobody it can be told whether it matches, and rows that decide *whose* privileges count
//!   (`roles_mapping`, `proxies_priv`) match both addresses or neither.
//! * `mysql.db`: whichever name of a database, present or future, the row that decides for the proxy's address gives nothing
//!   beyond the row that decides for the client's and the account's global privileges. Only the first row that matches
//!   counts, so a row that is lost may let a broader one come into force: it is held against every row that comes later
//!   in the server's order and may be for the same name. A row for the proxy's address alone needs one of the client's whose
//!   pattern holds all names of its own.
//! * Tables and routines: a row that the proxy's address may be judged by gives nothing beyond *each* of the client's rows for
//!   the same object, its privileges on the database, and its global ones. In which order the server tries rows for one
//!   object does not matter then.
//!
//! Global privileges count for nothing here if some are revoked for a database, and only as far as the user keeps them under
//! each role of `MariaDB`. Privileges by a role never count.

use std::fmt;
use std::sync::Arc;

use super::account::Account;
use super::database::{DbGrant, ObjectGrant};
use super::host::{HostIdentity, HostPattern, Match};
use super::masked::applicable;
use super::matching::Found;
use super::privileges::Privileges;
use super::snapshot::Snapshot;

/// Most pairs of rows that are compared in one list of rows for one login. More are refused, since sessions wait for it.
const MOST_PAIRS: usize = 100_000;

/// Most rows that are named at a time.
const MOST_NAMED: usize = 10;

/// A privilege that a login may have from the proxy's address alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gain {
    /// Its name in SQL.
    pub privilege: &'static str,
    /// Table of the row that gives it, without its schema.
    pub table: &'static str,
    /// The row.
    pub row: String,
}

impl fmt::Display for Gain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} by {} row {}", self.privilege, self.table, self.row)
    }
}

/// Rows of a login's privileges that apply to one of two addresses alone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RowsApart {
    /// To the client's: lost through the proxy.
    pub lost: Vec<String>,
    /// To the proxy's; they give nothing that the client would not have, and may stand before rows that give more.
    pub instead: Vec<String>,
}

impl RowsApart {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.lost.is_empty() && self.instead.is_empty()
    }
}

impl fmt::Display for RowsApart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("no row of its privileges differs");
        }
        let mut separator = "";
        for (what, rows) in [("lost", &self.lost), ("for the proxy's address alone", &self.instead)] {
            if rows.is_empty() {
                continue;
            }
            let named = &rows[..rows.len().min(MOST_NAMED)];
            write!(f, "{separator}{what}: {}", named.join(", "))?;
            if named.len() < rows.len() {
                write!(f, " and {} more", rows.len() - named.len())?;
            }
            separator = "; ";
        }
        Ok(())
    }
}

impl Snapshot {
    /// The subset rule. An error is what could not be proved: the first privilege that may be gained, or, with none, that
    /// the two cannot be compared.
    pub(super) fn covered(
        &self,
        user: &[u8],
        client: &HostIdentity,
        proxy: &HostIdentity,
    ) -> Result<(), Option<Gain>> {
        let account = self.account_of_both(user, client, proxy).ok_or(None)?;
        let login = std::str::from_utf8(user).map_err(|_| None)?;
        if ![login, ""].iter().all(|name| self.is_comparable(name, client, proxy)) {
            return Err(None);
        }
        let cover = Cover::of(self, account, client, proxy);
        cover.check_databases()?;
        for user in [login, ""] {
            let Some(rows) = self.rows_of(user) else { continue };
            for (table, list) in [("tables_priv", &rows.tables), ("procs_priv", &rows.routines)] {
                let held: Vec<_> = list.iter().map(|row| Held::new(row, &row.host, client, proxy)).collect();
                cover.check_objects(table, &held)?;
            }
        }
        Ok(())
    }

    /// The rows of a login's privileges that apply to one address alone, where both get the same account.
    pub fn rows_apart(&self, user: &[u8], client: &HostIdentity, proxy: &HostIdentity) -> RowsApart {
        let mut apart = RowsApart::default();
        let Some(account) = self.account_of_both(user, client, proxy) else { return apart };
        let mut names = vec![account.user.as_str(), ""];
        names.dedup();
        for name in names {
            let Some(rows) = self.rows_of(name) else { continue };
            let counts = |table| match table {
                "db" => true,
                "tables_priv" | "procs_priv" => name == account.user,
                _ => false,
            };
            for row in applicable(rows, "").filter(|row| counts(row.table)) {
                let list = match (row.to(client), row.to(proxy)) {
                    (Match::Yes, Match::No) => &mut apart.lost,
                    (Match::No, Match::Yes) => &mut apart.instead,
                    _ => continue,
                };
                list.push(format!("{} row {}", row.table, row.row));
            }
        }
        apart
    }

    /// The account, if both addresses certainly get the same.
    fn account_of_both(&self, user: &[u8], client: &HostIdentity, proxy: &HostIdentity) -> Option<&Account> {
        match (self.find(user, client), self.find(user, proxy)) {
            (Found::Account(a), Found::Account(b)) if Arc::ptr_eq(a, b) => Some(a),
            _ => None,
        }
    }

    /// Whether it can be told of every row of a user whether it matches, and those match both or neither that decide whose
    /// privileges count.
    fn is_comparable(&self, user: &str, client: &HostIdentity, proxy: &HostIdentity) -> bool {
        let rows = self.rows_of(user).into_iter().flat_map(|rows| applicable(rows, ""));
        rows.map(|row| (row.table, row.to(client), row.to(proxy))).all(|outcome| match outcome {
            (_, Match::Maybe, _) | (_, _, Match::Maybe) => false,
            ("roles_mapping" | "proxies_priv", a, b) => a == b,
            _ => true,
        })
    }
}

/// A row and the addresses that it matches.
struct Held<'s, R> {
    row: &'s R,
    client: bool,
    proxy: bool,
}

impl<'s, R> Held<'s, R> {
    fn new(row: &'s R, host: &HostPattern, client: &HostIdentity, proxy: &HostIdentity) -> Self {
        let matches = |address| host.matches(address) == Match::Yes;
        Self { row, client: matches(client), proxy: matches(proxy) }
    }

    fn differs(&self) -> bool {
        self.client != self.proxy
    }
}

/// A row of `mysql.db` and its place in the server's order, the row of a named user before the like one of nobody.
struct Place<'s> {
    held: Held<'s, DbGrant>,
    rank: (u64, u64, bool),
}

impl Place<'_> {
    fn is_lost(&self) -> bool {
        self.held.client && !self.held.proxy
    }

    fn privileges(&self) -> Privileges {
        self.held.row.privileges
    }

    fn may_be_for_the_same(&self, other: &Self) -> bool {
        self.held.row.pattern.may_share_a_text(&other.held.row.pattern)
    }
}

/// What the client has.
struct Cover<'s> {
    /// In every database, whichever role it sets.
    global: Privileges,
    /// Rows of `mysql.db` of the account's user and of nobody, whomever they match.
    databases: Vec<Place<'s>>,
    /// Whether it is known in which order they are tried, and what they match.
    is_ordered: bool,
}

impl<'s> Cover<'s> {
    fn of(snapshot: &'s Snapshot, account: &Account, client: &HostIdentity, proxy: &HostIdentity) -> Self {
        let privileges = |account| Privileges::in_every_database(account, &snapshot.product);
        let own = snapshot.rows_of(&account.user);
        // With a role, the global privileges are those of the account that the role was granted to.
        let grantees = own.into_iter().flat_map(|rows| &rows.roles).map(|grant| &grant.grantee);
        let global = grantees
            .filter(|grantee| grantee.pattern.matches(client) != Match::No)
            .fold(privileges(account), |common, grantee| common.in_common(privileges(grantee)));
        let anonymous = snapshot.rows_of("").filter(|_| !account.is_anonymous());
        let rows = own.into_iter().map(|rows| (rows, account.is_anonymous()));
        let databases: Vec<_> = rows
            .chain(anonymous.map(|rows| (rows, true)))
            .flat_map(|(rows, anonymous)| rows.db.iter().map(move |row| (row, anonymous)))
            .map(|(row, anonymous)| Place {
                held: Held::new(row, &row.host, client, proxy),
                rank: (row.rank.0, row.rank.1, anonymous),
            })
            .filter(|place| place.held.client || place.held.proxy)
            .collect();
        // With partial_revokes, MySQL may take a pattern for a name.
        let is_plain =
            |row: &DbGrant| !snapshot.variables.partial_revokes || !row.name.contains(['%', '_', '\\']);
        let is_ordered =
            databases.iter().all(|place| !place.held.row.host.place_is_unknown() && is_plain(place.held.row));
        Self { global, databases, is_ordered }
    }

    /// `mysql.db`, whichever name of a database.
    fn check_databases(&self) -> Result<(), Option<Gain>> {
        if !self.databases.iter().any(|place| place.held.differs()) {
            return Ok(());
        }
        if !self.is_ordered {
            return Err(None);
        }
        let of_client: Vec<_> = self.databases.iter().filter(|place| place.held.client).collect();
        let lost: Vec<_> = self.databases.iter().filter(|place| place.is_lost()).collect();
        affordable(of_client.len() - lost.len(), lost.len())?;
        affordable(self.databases.len() - of_client.len(), of_client.len())?;
        for place in self.databases.iter().filter(|place| place.held.proxy) {
            let rivals = if place.held.client { &lost } else { &of_client };
            let gained = self.gained(place, rivals);
            gain(gained, "db", &place.held.row.label)?;
        }
        Ok(())
    }

    /// What a row for the proxy's address gives beyond those of the client's that may decide in its stead.
    fn gained(&self, place: &Place<'_>, rivals: &[&Place<'_>]) -> Privileges {
        let needed = place.privileges().beyond(self.global);
        let holds_all = |rival: &&&Place<'_>| rival.held.row.pattern.holds(&place.held.row.pattern);
        // From here on, the client's rows decide on none of the names.
        let last = if place.held.client {
            Some(place.rank)
        } else {
            rivals.iter().filter(holds_all).map(|rival| rival.rank).min()
        };
        let Some(last) = last else { return needed };
        rivals
            .iter()
            .filter(|rival| rival.rank <= last && rival.may_be_for_the_same(place))
            // Where such a row matches, this one does not decide for the proxy's address either.
            .filter(|rival| !(rival.held.proxy && rival.rank < place.rank))
            .fold(Privileges::default(), |gained, rival| gained.with(needed.beyond(rival.privileges())))
    }

    /// What the client certainly has in one database.
    fn in_database(&self, db: &str) -> Privileges {
        let fits =
            |place: &&Place<'_>| place.held.client && place.held.row.pattern.matches(db.as_bytes(), false);
        let fitting = || self.databases.iter().filter(fits);
        let first = fitting().map(|place| place.rank).min();
        let deciding = fitting().filter(|place| Some(place.rank) == first).map(Place::privileges);
        let by_row = if self.is_ordered { deciding.reduce(Privileges::in_common) } else { None };
        self.global.with(by_row.unwrap_or_default())
    }

    /// Rows for tables or for routines of one user. The server looks at those of the account's alone; those of nobody beside
    /// a named account are held to the same.
    fn check_objects(&self, table: &'static str, held: &[Held<'_, ObjectGrant>]) -> Result<(), Option<Gain>> {
        let differing: Vec<_> = held.iter().filter(|held| held.differs()).collect();
        affordable(held.len(), differing.len())?;
        let of_proxy = held.iter().filter(|held| held.proxy);
        let affected: Vec<_> =
            of_proxy.filter(|held| differing.iter().any(|other| may_be_same(held.row, other.row))).collect();
        affordable(held.len().max(self.databases.len()), affected.len())?;
        for seen in affected {
            let rivals: Vec<_> = held
                .iter()
                .filter(|rival| rival.client && may_be_same(rival.row, seen.row))
                .map(|rival| rival.row)
                .collect();
            let base = self.in_database(&seen.row.db);
            let is_there =
                rivals.iter().any(|rival| rival.db == seen.row.db && rival.object == seen.row.object);
            let gained = if is_there {
                let others = rivals.iter().filter(|rival| !std::ptr::eq(**rival, seen.row));
                others.fold(Privileges::default(), |gained, rival| {
                    gained.with(lacking(seen.row, Some(rival), base))
                })
            } else {
                lacking(seen.row, None, base)
            };
            gain(gained, table, &seen.row.label)?;
        }
        Ok(())
    }
}

/// Whether so many rows may be compared with so many.
fn affordable(rows: usize, others: usize) -> Result<(), Option<Gain>> {
    if rows.saturating_mul(others) > MOST_PAIRS { Err(None) } else { Ok(()) }
}

fn gain(gained: Privileges, table: &'static str, row: &str) -> Result<(), Option<Gain>> {
    gained.first().map_or(Ok(()), |privilege| Err(Some(Gain { privilege, table, row: row.to_owned() })))
}

/// What a row for an object gives beyond another one for it and `base`.
fn lacking(row: &ObjectGrant, other: Option<&ObjectGrant>, base: Privileges) -> Privileges {
    let of = |part: fn(&ObjectGrant) -> Privileges| base.with(other.map(part).unwrap_or_default());
    let table = of(|other| other.privileges);
    let some_column = table.with(of(|other| other.some_column));
    let whole = row.privileges.beyond(table).with(row.some_column.beyond(some_column));
    row.columns.iter().fold(whole, |lacking, (name, privileges)| {
        let like = other.and_then(|other| other.columns.get(name)).copied().unwrap_or_default();
        lacking.with(privileges.beyond(table.with(like)))
    })
}

/// Whether the server may take two rows to be for the same object. How it folds letters beyond ASCII is not known here.
fn may_be_same(a: &ObjectGrant, b: &ObjectGrant) -> bool {
    let alike = |a: &str, b: &str| a.eq_ignore_ascii_case(b) || !a.is_ascii() || !b.is_ascii();
    alike(&a.db, &b.db) && alike(&a.object, &b.object)
}
