//! Who may log in, decided as the server itself decides: account rows in, verdict with reasons out.
//!
//! Pure: no I/O, no clock, no task. `monitor` fills [`RawAccounts`], [`Snapshot::build`] indexes it once, and
//! the data path asks the immutable [`Snapshot`]. Where the rows alone cannot tell what the server would do
//! (it resolves names that are not known here, say), the answer is "undecidable", and a login is refused.
//!
//! | file | answers |
//! |---|---|
//! | `rows` | which rows and variables are read from the server |
//! | `product` | which server this is, and in which order it tries matching rows |
//! | `host` | who a client is for the server, and whether a Host column matches it |
//! | `account` | what an account is, and what one row of `MariaDB`'s `mysql.global_priv` says |
//! | `mariadb_account` | what one row of `mysql.user` of `MariaDB` 10.3 says |
//! | `mysql_account` | what one row of `MySQL`'s `mysql.user` says |
//! | `mysql_roles` | which roles of `MySQL` are active after a login |
//! | `json` | JSON in the grant tables |
//! | `snapshot` | all of it, indexed; rows that the server ignores |
//! | `digest` | whether two readings are the same |
//! | `divergence` | in what two nodes of a cluster differ |
//! | `matching` | which account a login gets |
//! | `database` | whether that account may use a database at connect |
//! | `mysql_database` | the same by the rules of `MySQL` |
//! | `masked` | whether the server allows a login no more from the proxy's address than from the client's |
//! | `cover` | the same where other rows apply to the two |
//! | `privileges` | sets of privileges |
//! | `mapping` | whether a login may become another account's |
//! | `limits` | how many connections the server lets an account have |
//! | `transport` | whether the client's TLS is what an account requires |
//! | `reuse` | whether a second session may have an account's link |
//! | `decision` | all of the above in the server's order, as one verdict with a trace |

mod account;
mod cover;
mod database;
mod decision;
mod digest;
mod divergence;
mod host;
mod json;
mod limits;
mod mapping;
mod mariadb_account;
mod masked;
mod matching;
mod mysql_account;
mod mysql_database;
mod mysql_roles;
mod privileges;
mod product;
mod reuse;
mod revocation;
mod rows;
mod snapshot;
#[cfg(test)]
mod tests;
mod transport;

pub use account::{Account, Authentication, Limits, PasswordAge, TlsRequirement, asks_the_system};
pub use cover::{Gain, RowsApart};
pub use database::DatabaseAccess;
pub use decision::{Decision, InsecureTransport, LoginRequest, Refusal, Step, Verdict, decide, explain};
pub use digest::Fingerprint;
pub use host::{HostIdentity, HostName, Match};
pub use limits::{AccountLimits, OverLimit};
pub use masked::{MaskedDifference, MaskedHost};
pub use matching::Found;
pub use product::{Product, Vendor};
pub use revocation::Revocation;
pub use rows::{
    ColumnRow, DbRow, DefaultRoleRow, GlobalGrantRow, GlobalPrivRow, MariaDbUserRow, MySqlUserRow, ProxyRow,
    RawAccounts, RoleEdgeRow, RoleMappingRow, RoutineRow, ServerVariables, TableRow,
};
pub use snapshot::{IgnoredRow, Snapshot};
pub use transport::{TlsMismatch, Transport};
