//! Whether an account may use a database at connect: privileges below the global level are matched by host
//! pattern and user name, *not* by account.
//!
//! * `mysql.db`: only the first row counts whose user is the account's or empty, whose host matches the client and
//!   whose pattern matches the database. Rows are not united.
//! * table and routine rows: any row of the account's user whose host matches the client is enough.
//! * the default role, if some account of the same user whose host matches the client has been granted it; the
//!   global privileges are then those of *that* account, and of the role.
//! * the role `PUBLIC` (10.11 and later).

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};

use super::account::Account;
use super::host::{HostIdentity, HostPattern, Match, Wildcards};
use super::privileges::{DATABASE_PRIVILEGES, Privileges};
use super::snapshot::{Snapshot, UserRows};

/// The longest name of a database in characters.
const LONGEST_DATABASE: usize = 64;

/// Bytes of the name of a database that `MySQL` reads at a login.
const READ_BY_MYSQL: usize = 192;

/// Whether an account may use a database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DatabaseAccess<'s> {
    /// It may. The database need not exist.
    Allowed {
        /// The table whose row decides; empty where none is needed.
        table: &'static str,
        /// The row that decides.
        row: Cow<'s, str>,
    },
    /// It may not: error 1044, whether the database exists or not.
    Denied,
    /// The server accepts no such name: error 1102.
    BadName,
    /// The server accepts no name of such a length, and says so: error 1059.
    TooLong,
    /// It cannot be told from the rows alone.
    NotDecided {
        /// Why.
        reason: String,
    },
}

/// A row of `mysql.db`.
pub(super) struct DbGrant {
    pub(super) host: HostPattern,
    /// The pattern as it is written, in the server's own case.
    pub(super) name: String,
    pub(super) pattern: Wildcards,
    /// Place in the server's order by host, then by database: the smaller, the earlier.
    pub(super) rank: (u64, u64),
    pub(super) privileges: Privileges,
    /// Whether they let anybody into the database.
    pub(super) access: bool,
    pub(super) label: String,
}

/// A row for a table, a column or a routine.
pub(super) struct ObjectGrant {
    pub(super) host: HostPattern,
    pub(super) db: String,
    /// The table, or the kind and name of the routine.
    pub(super) object: String,
    pub(super) privileges: Privileges,
    /// Of a table: privileges that some column of it has, and which has which.
    pub(super) some_column: Privileges,
    pub(super) columns: BTreeMap<String, Privileges>,
    /// Whether it lets its user into the database.
    pub(super) opens_database: bool,
    pub(super) label: String,
}

/// A role and what it has been granted.
pub(super) struct Role {
    /// Global privileges of its own.
    access: u64,
    /// Roles that are granted to it.
    pub(super) granted: Vec<String>,
    pub(super) inherited: Inherited,
}

/// What a role has with all that it inherits.
#[derive(Default)]
pub(super) struct Inherited {
    access: u64,
    /// Patterns in the server's order, and whether there is any privilege; rows with the same pattern are united.
    db: Vec<InheritedDb>,
    /// Databases in which it has a privilege on a table or a routine.
    objects: BTreeMap<String, String>,
}

struct InheritedDb {
    pattern: Wildcards,
    rank: (u64, u64),
    access: bool,
    label: String,
}

impl Role {
    pub(super) fn new(access: u64) -> Self {
        Self { access, granted: Vec::new(), inherited: Inherited::default() }
    }

    /// Unites a role with the roles granted to it, directly or not.
    pub(super) fn inherited(
        name: &str,
        roles: &BTreeMap<String, Self>,
        users: &HashMap<String, UserRows>,
    ) -> Inherited {
        let mut names = vec![name];
        let mut next = 0;
        while let Some(current) = names.get(next).copied() {
            next += 1;
            for granted in roles.get(current).map(|role| role.granted.as_slice()).unwrap_or_default() {
                if !names.contains(&granted.as_str()) {
                    names.push(granted);
                }
            }
        }
        let mut inherited = Inherited::default();
        for name in names {
            inherited.access |= roles.get(name).map_or(0, |role| role.access);
            let Some(rows) = users.get(name) else { continue };
            for row in rows.db.iter().filter(|row| row.host.text().is_empty()) {
                match inherited.db.iter_mut().find(|known| known.pattern == row.pattern) {
                    Some(known) => known.access |= row.access,
                    None => inherited.db.push(InheritedDb {
                        pattern: row.pattern.clone(),
                        rank: row.rank,
                        access: row.access,
                        label: row.label.clone(),
                    }),
                }
            }
            for row in rows.tables.iter().chain(&rows.routines).filter(|row| row.host.text().is_empty()) {
                inherited.objects.entry(row.db.clone()).or_insert_with(|| row.label.clone());
            }
        }
        inherited.db.sort_by(|a, b| a.rank.cmp(&b.rank).then_with(|| a.label.cmp(&b.label)));
        inherited
    }
}

/// What one source of privileges says.
pub(super) enum Answer<'s> {
    Yes(&'static str, Cow<'s, str>),
    No,
    Unknown(String),
}

/// One row of an ordered list of which only the first match counts.
pub(super) struct Candidate<'s> {
    rank: (u64, u64, bool),
    outcome: Match,
    access: bool,
    label: &'s str,
}

impl Snapshot {
    /// Whether a login as `account` from `client` may name `db` as its default database.
    ///
    /// `db` is not empty; an empty one is no database at all. Whether the database exists is another question,
    /// which the server asks only after this one.
    pub fn database_access<'s>(
        &'s self,
        account: &'s Account,
        client: &HostIdentity,
        db: &str,
    ) -> DatabaseAccess<'s> {
        if db.eq_ignore_ascii_case("information_schema") {
            return DatabaseAccess::Allowed {
                table: "",
                row: Cow::Borrowed("information_schema is for everybody"),
            };
        }
        // MySQL cuts a name before it looks at it.
        let looked_at =
            if self.product.is_mysql() { &db[..db.floor_char_boundary(READ_BY_MYSQL)] } else { db };
        if db.is_empty() || looked_at.ends_with(' ') || db.contains('\0') {
            return DatabaseAccess::BadName;
        }
        if looked_at.chars().count() > LONGEST_DATABASE {
            return if self.product.is_mysql() { DatabaseAccess::TooLong } else { DatabaseAccess::BadName };
        }
        if looked_at != db {
            return DatabaseAccess::NotDecided { reason: "a name that the server cuts".to_owned() };
        }
        if db.starts_with("#mysql50#") {
            return DatabaseAccess::NotDecided { reason: "a name of an old directory".to_owned() };
        }
        let db = &*self.fold(db);
        let mut unknown = None;
        let mut ask = |answer: Answer<'s>| match answer {
            Answer::Yes(table, row) => Some(DatabaseAccess::Allowed { table, row }),
            Answer::No => None,
            Answer::Unknown(reason) => {
                unknown.get_or_insert(reason);
                None
            }
        };
        if self.product.is_mysql() {
            let answers = self.mysql_access(account, client, db);
            return answers
                .into_iter()
                .find_map(ask)
                .or_else(|| Some(DatabaseAccess::NotDecided { reason: unknown? }))
                .unwrap_or(DatabaseAccess::Denied);
        }
        let role = self.active_role(account, client);
        let public = self.public_role();
        let answer = ask(self.global_access(account, &role))
            .or_else(|| ask(self.first_db_row(account, client, db)))
            .or_else(|| ask(self.object_access(account, client, db)))
            .or_else(|| ask(self.role_access(&role, db)))
            .or_else(|| ask(public.map_or(Answer::No, |name| self.named_role_access(name, db, false))));
        answer
            .or_else(|| Some(DatabaseAccess::NotDecided { reason: unknown? }))
            .unwrap_or(DatabaseAccess::Denied)
    }

    /// The default role of an account, if it becomes active for this client.
    fn active_role<'s>(&'s self, account: &'s Account, client: &HostIdentity) -> ActiveRole<'s> {
        let name = account.default_role.as_str();
        if name.is_empty() || !self.roles.contains_key(name) {
            return ActiveRole::None;
        }
        let grants = self.rows_of(&account.user).map(|rows| rows.roles.as_slice()).unwrap_or_default();
        let (mut grantees, mut certain) = (Vec::new(), false);
        for grant in grants.iter().filter(|grant| grant.role == name) {
            match grant.grantee.pattern.matches(client) {
                Match::Yes => certain = true,
                Match::Maybe => {}
                Match::No => continue,
            }
            grantees.push(grant.grantee.as_ref());
        }
        match (grantees.is_empty(), certain) {
            (true, _) => ActiveRole::None,
            (false, true) => ActiveRole::Active { name, grantees },
            (false, false) => ActiveRole::Possible { name },
        }
    }

    fn public_role(&self) -> Option<&str> {
        let name = "PUBLIC";
        let (name, _) = self.roles.get_key_value(name)?;
        self.product.is_mariadb_at_least(10, 11).then_some(name.as_str())
    }

    fn global_access<'s>(&'s self, account: &'s Account, role: &ActiveRole<'s>) -> Answer<'s> {
        let of_role =
            |name: &str| self.roles.get(name).map_or(0, |role| role.inherited.access) & DATABASE_PRIVILEGES;
        let yes = |label: &'s str| Answer::Yes("global_priv", Cow::Borrowed(label));
        if let Some(public) = self.public_role()
            && of_role(public) != 0
        {
            return yes(public);
        }
        match role {
            ActiveRole::None if account.access & DATABASE_PRIVILEGES != 0 => yes(&account.label),
            ActiveRole::None => Answer::No,
            ActiveRole::Active { name, .. } if of_role(name) != 0 => yes(name),
            // The server takes whichever granted account it meets first, in an order that is not known here.
            ActiveRole::Active { name, grantees } => {
                let with = grantees.iter().find(|grantee| grantee.access & DATABASE_PRIVILEGES != 0);
                let without = grantees.iter().find(|grantee| grantee.access & DATABASE_PRIVILEGES == 0);
                match (with, without) {
                    (Some(grantee), None) => yes(&grantee.label),
                    (None, _) => Answer::No,
                    (Some(a), Some(b)) => Answer::Unknown(format!(
                        "role {name} comes with the global privileges of {a} or of {b}"
                    )),
                }
            }
            ActiveRole::Possible { name } => Answer::Unknown(format!(
                "role {name} is active if the server resolves the client's address to a fitting name"
            )),
        }
    }

    fn first_db_row<'s>(&'s self, account: &Account, client: &HostIdentity, db: &str) -> Answer<'s> {
        let fits = |row: &DbGrant| row.pattern.matches(db.as_bytes(), false);
        first_match(self.db_rows(&account.user, client, fits).collect())
    }

    /// Rows of `mysql.db` that may decide for a user, in no order.
    pub(super) fn db_rows<'s>(
        &'s self,
        user: &str,
        client: &HostIdentity,
        fits: impl Fn(&DbGrant) -> bool + Copy,
    ) -> impl Iterator<Item = Candidate<'s>> {
        let named = self.rows_of(user).into_iter().map(|rows| (rows, user.is_empty()));
        let anonymous = self.rows_of("").filter(|_| !user.is_empty()).into_iter().map(|rows| (rows, true));
        named.chain(anonymous).flat_map(move |(rows, anonymous)| {
            rows.db.iter().filter(move |row| fits(row)).map(move |row| Candidate {
                rank: (row.rank.0, row.rank.1, anonymous),
                outcome: row.host.matches(client),
                access: row.access,
                label: &row.label,
            })
        })
    }

    pub(super) fn object_access<'s>(
        &'s self,
        account: &'s Account,
        client: &HostIdentity,
        db: &str,
    ) -> Answer<'s> {
        let Some(rows) = self.rows_of(&account.user) else { return Answer::No };
        let mut unknown = None;
        for (table, list) in [("tables_priv", &rows.tables), ("procs_priv", &rows.routines)] {
            for row in list.iter().filter(|row| row.opens_database && row.db == db) {
                match row.host.matches(client) {
                    Match::Yes => return Answer::Yes(table, Cow::Borrowed(&row.label)),
                    Match::Maybe => unknown = unknown.or(Some(&row.label)),
                    Match::No => {}
                }
            }
        }
        unknown.map_or(Answer::No, |label| Answer::Unknown(depends_on_name(label)))
    }

    fn role_access<'s>(&'s self, role: &ActiveRole<'s>, db: &str) -> Answer<'s> {
        match role {
            ActiveRole::None => Answer::No,
            ActiveRole::Active { name, .. } => self.named_role_access(name, db, true),
            ActiveRole::Possible { name } => match self.named_role_access(name, db, true) {
                Answer::No => Answer::No,
                Answer::Yes(_, row) => Answer::Unknown(depends_on_name(&row)),
                unknown @ Answer::Unknown(_) => unknown,
            },
        }
    }

    /// What a role has been granted on a database. The server looks it up like a user of that name on an empty
    /// host, and so also meets rows of a like-named user or of nobody whose host is `%`.
    fn named_role_access<'s>(&'s self, name: &str, db: &str, with_objects: bool) -> Answer<'s> {
        let Some(role) = self.roles.get(name) else { return Answer::No };
        let of_role = role.inherited.db.iter().filter(|row| row.pattern.matches(db.as_bytes(), false));
        let mut candidates: Vec<_> = of_role
            .map(|row| Candidate {
                rank: (row.rank.0, row.rank.1, false),
                outcome: Match::Yes,
                access: row.access,
                label: &row.label,
            })
            .collect();
        for (user, anonymous) in [(name, false), ("", true)] {
            let rows = self.rows_of(user).map(|rows| rows.db.as_slice()).unwrap_or_default();
            let matching = rows.iter().filter(|row| {
                !row.host.text().is_empty()
                    && row.host.matches_role()
                    && row.pattern.matches(db.as_bytes(), false)
            });
            candidates.extend(matching.map(|row| Candidate {
                rank: (row.rank.0, row.rank.1, anonymous),
                outcome: Match::Yes,
                access: row.access,
                label: &row.label,
            }));
        }
        match (first_match(candidates), role.inherited.objects.get(db)) {
            (yes @ Answer::Yes(..), _) => yes,
            (_, Some(label)) if with_objects => {
                Answer::Yes("tables_priv or procs_priv", Cow::Borrowed(label))
            }
            (other, _) => other,
        }
    }
}

enum ActiveRole<'s> {
    None,
    /// Active; the global privileges become those of one of the grantees.
    Active {
        name: &'s str,
        grantees: Vec<&'s Account>,
    },
    /// Active only if the server resolves a fitting name.
    Possible {
        name: &'s str,
    },
}

fn depends_on_name(row: &str) -> String {
    format!("{row} applies if the server resolves the client's address to a fitting name")
}

/// The answer of the first row that matches. Rows of equal rank stand in no order that the server promises, and
/// rows that may match may be the first: all that can be first must agree.
pub(super) fn first_match(mut candidates: Vec<Candidate<'_>>) -> Answer<'_> {
    candidates.retain(|row| row.outcome != Match::No);
    candidates.sort_by_key(|row| row.rank);
    let mut possible: Vec<&Candidate<'_>> = Vec::new();
    let mut certain = None;
    for row in &candidates {
        if certain.is_some_and(|rank| row.rank > rank) {
            break;
        }
        if row.outcome == Match::Yes {
            certain = Some(row.rank);
        }
        possible.push(row);
    }
    let yes = possible.iter().find(|row| row.access);
    let no = possible.iter().find(|row| !row.access);
    match (yes, no, certain) {
        (Some(row), None, Some(_)) => Answer::Yes("db", Cow::Borrowed(row.label)),
        (None, ..) => Answer::No,
        (Some(a), Some(b), Some(_)) => Answer::Unknown(format!("either {} or {} decides", a.label, b.label)),
        (Some(row), _, None) => Answer::Unknown(depends_on_name(row.label)),
    }
}
