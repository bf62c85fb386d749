//! Privileges as sets of the servers' own bits, whichever table they stand in.

use super::account::Account;
use super::product::Product;

/// Privileges with the column of `mysql.user` and `mysql.db` that holds each, its name in SQL, and its bit in the servers'
/// masks. The last three are of `MySQL`, and have a meaning at the global level alone.
pub(super) const PRIVILEGES: [(&str, &str, u32); 31] = [
    ("Select_priv", "SELECT", 0),
    ("Insert_priv", "INSERT", 1),
    ("Update_priv", "UPDATE", 2),
    ("Delete_priv", "DELETE", 3),
    ("Create_priv", "CREATE", 4),
    ("Drop_priv", "DROP", 5),
    ("Reload_priv", "RELOAD", 6),
    ("Shutdown_priv", "SHUTDOWN", 7),
    ("Process_priv", "PROCESS", 8),
    ("File_priv", "FILE", 9),
    ("Grant_priv", "GRANT OPTION", GRANT),
    ("References_priv", "REFERENCES", 11),
    ("Index_priv", "INDEX", 12),
    ("Alter_priv", "ALTER", 13),
    ("Show_db_priv", "SHOW DATABASES", 14),
    ("Super_priv", "SUPER", 15),
    ("Create_tmp_table_priv", "CREATE TEMPORARY TABLES", 16),
    ("Lock_tables_priv", "LOCK TABLES", 17),
    ("Execute_priv", "EXECUTE", 18),
    ("Repl_slave_priv", "REPLICATION SLAVE", 19),
    ("Repl_client_priv", "REPLICATION CLIENT", 20),
    ("Create_view_priv", "CREATE VIEW", 21),
    ("Show_view_priv", "SHOW VIEW", 22),
    ("Create_routine_priv", "CREATE ROUTINE", 23),
    ("Alter_routine_priv", "ALTER ROUTINE", 24),
    ("Create_user_priv", "CREATE USER", 25),
    ("Event_priv", "EVENT", 26),
    ("Trigger_priv", "TRIGGER", 27),
    ("Create_tablespace_priv", "CREATE TABLESPACE", 28),
    ("Create_role_priv", "CREATE ROLE", 29),
    ("Drop_role_priv", "DROP ROLE", 30),
];

/// Those that `MariaDB` alone has for databases.
const OF_MARIADB: [(&str, &str, u32); 2] = [
    ("Delete_history_priv", "DELETE HISTORY", DELETE_HISTORY),
    ("Show_create_routine_priv", "SHOW CREATE ROUTINE", SHOW_CREATE_ROUTINE),
];

const GRANT: u32 = 10;
/// The bit of `DELETE HISTORY`, which `MySQL` has for something else.
pub(super) const DELETE_HISTORY: u32 = 29;
/// From `MariaDB` 11.3 on.
const SHOW_CREATE_ROUTINE: u32 = 39;

/// Members of the SET columns `Table_priv`, `Column_priv` and `Proc_priv`, in their order.
const OF_TABLES: [u32; 14] = [0, 1, 2, 3, 4, 5, GRANT, 11, 12, 13, 21, 22, 27, DELETE_HISTORY];
const OF_COLUMNS: [u32; 4] = [0, 1, 2, 11];
const OF_ROUTINES: [u32; 4] = [18, 24, GRANT, SHOW_CREATE_ROUTINE];

/// Privilege bits that count as access to a database: what `MariaDB` calls `DB_ACLS`.
pub(super) const DATABASE_PRIVILEGES: u64 = mask(&[
    0,
    1,
    2,
    3,
    4,
    5,
    GRANT,
    11,
    12,
    13,
    16,
    17,
    18,
    21,
    22,
    23,
    24,
    26,
    27,
    DELETE_HISTORY,
    SHOW_CREATE_ROUTINE,
]);

/// Those of them that count for `MySQL`: what it calls `DB_OP_ACLS`.
pub(super) const OPERATIONS: u64 = DATABASE_PRIVILEGES & !mask(&[GRANT, DELETE_HISTORY, SHOW_CREATE_ROUTINE]);

const fn mask(bits: &[u32]) -> u64 {
    let (mut mask, mut i) = (0, 0);
    while i < bits.len() {
        mask |= 1 << bits[i];
        i += 1;
    }
    mask
}

/// A set of privileges.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Privileges(u64);

impl Privileges {
    /// Some that have no name here. No other set is known to hold the same.
    const UNKNOWN: Self = Self(1 << 63);

    /// What the columns of a row of `mysql.db`, or of `mysql.user`, give.
    pub(super) fn of_columns(columns: &[(String, bool)], product: &Product) -> Self {
        let own: &[_] = if product.is_mysql() { &[] } else { &OF_MARIADB };
        let listed = || own.iter().chain(PRIVILEGES.iter().filter(|(.., bit)| *bit < DELETE_HISTORY));
        columns.iter().filter(|(_, granted)| *granted).fold(Self::default(), |all, (column, _)| {
            let known = listed().find(|(name, ..)| name.eq_ignore_ascii_case(column));
            all.with(known.map_or(Self::UNKNOWN, |(.., bit)| Self(1 << bit)))
        })
    }

    /// As the server's own bits.
    pub(super) fn bits(self) -> u64 {
        self.0
    }

    /// `Table_priv`.
    pub(super) fn of_table(set: u64) -> Self {
        Self::of_set(set, &OF_TABLES)
    }

    /// `Column_priv`.
    pub(super) fn of_column(set: u64) -> Self {
        Self::of_set(set, &OF_COLUMNS)
    }

    /// `Proc_priv`.
    pub(super) fn of_routine(set: u64) -> Self {
        Self::of_set(set, &OF_ROUTINES)
    }

    fn of_set(set: u64, members: &[u32]) -> Self {
        let known = members.iter().enumerate().filter(|(place, _)| set & (1 << place) != 0);
        let known = Self(known.fold(0, |all, (_, bit)| all | (1 << bit)));
        if set >> members.len() == 0 { known } else { known.with(Self::UNKNOWN) }
    }

    /// What an account has in every database: nothing where some of it is revoked for one.
    pub(super) fn in_every_database(account: &Account, product: &Product) -> Self {
        let below_global = if product.is_mysql() { OPERATIONS | mask(&[GRANT]) } else { DATABASE_PRIVILEGES };
        Self(if account.restrictions.is_empty() { account.access & below_global } else { 0 })
    }

    /// Whether a row of `mysql.db` with these lets anybody into the database.
    pub(super) fn open_a_database(self, product: &Product) -> bool {
        let bits = if product.is_mysql() { OPERATIONS } else { DATABASE_PRIVILEGES };
        self.0 & bits != 0
    }

    pub(super) fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Those that both are known to have.
    pub(super) fn in_common(self, other: Self) -> Self {
        Self(self.0 & other.0 & !Self::UNKNOWN.0)
    }

    /// Those that `other` is not known to have.
    pub(super) fn beyond(self, other: Self) -> Self {
        Self(self.0 & !(other.0 & !Self::UNKNOWN.0))
    }

    /// The name of the first.
    pub(super) fn first(self) -> Option<&'static str> {
        let named = OF_MARIADB.iter().chain(&PRIVILEGES).find(|(.., bit)| self.0 & (1 << bit) != 0);
        let unnamed = (self.0 != 0).then_some("a privilege without a name here");
        named.map(|(_, name, _)| *name).or(unnamed)
    }
}
