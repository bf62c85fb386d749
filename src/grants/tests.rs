//! Decisions against tables of cases that were predicted from the servers' sources; those of `MariaDB` are confirmed on
//! 10.5, 10.11 and 11.8, and those of 10.3 are not.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use proptest::prelude::*;
use zeroize::Zeroizing;

use super::*;
use crate::tls::{CertificateNames, Unclear};

const PASSWORD: &str = "*D69B6B3E6BC4E3C1F5B8D3E7B1A7F7A3D1B7C2A0";
const PLUGINS: &[&str] = &["mysql_native_password", "ed25519"];
const NOW: u64 = 1_800_000_000;

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// Rows as a server might give them, built row by row.
#[derive(Clone, Default)]
struct Rows(RawAccounts);

impl Rows {
    fn new() -> Self {
        let mut rows = Self::default();
        rows.0.variables.version = "10.11.19-MariaDB-0+deb12u1".to_owned();
        rows.0.databases = ["app", "ap_", "hr", "mysql", "information_schema"].map(str::to_owned).to_vec();
        rows
    }

    fn of(version: &str) -> Self {
        Self::new().with(|v| {
            v.version = version.to_owned();
            v.disconnect_on_expired_password = true;
        })
    }

    /// An account of `MySQL` with a native password, changed at will.
    fn row(mut self, user: &str, host: &str, change: impl FnOnce(&mut MySqlUserRow)) -> Self {
        let mut row = MySqlUserRow {
            host: host.to_owned(),
            user: user.to_owned(),
            plugin: "mysql_native_password".to_owned(),
            authentication_string: Zeroizing::new(PASSWORD.as_bytes().to_vec()),
            ..MySqlUserRow::default()
        };
        change(&mut row);
        self.0.mysql_users.push(row);
        self
    }

    /// An account of `MariaDB` 10.3 with a native password, changed at will.
    fn old_row(mut self, user: &str, host: &str, change: impl FnOnce(&mut MariaDbUserRow)) -> Self {
        let mut row = MariaDbUserRow {
            host: host.to_owned(),
            user: user.to_owned(),
            password: Zeroizing::new(PASSWORD.to_owned()),
            ..MariaDbUserRow::default()
        };
        change(&mut row);
        self.0.mariadb_users.push(row);
        self
    }

    fn attributes(self, json: &str) -> Self {
        self.row("u", "%", |row| row.user_attributes = Some(Zeroizing::new(json.to_owned())))
    }

    /// `from` is granted to `to`, both `user@host`.
    fn edge(mut self, from: &str, to: &str) -> Self {
        let split =
            |who: &str| who.split_once('@').map(|(u, h)| (u.to_owned(), h.to_owned())).expect("user@host");
        let ((from_user, from_host), (to_user, to_host)) = (split(from), split(to));
        self.0.role_edges.push(RoleEdgeRow { from_host, from_user, to_host, to_user, admin: false });
        self
    }

    fn default_role(mut self, user: (&str, &str), role: (&str, &str)) -> Self {
        self.0.default_roles.push(DefaultRoleRow {
            host: user.1.to_owned(),
            user: user.0.to_owned(),
            role_host: role.1.to_owned(),
            role_user: role.0.to_owned(),
        });
        self
    }

    fn json(mut self, user: &str, host: &str, json: &str) -> Self {
        let priv_json = Zeroizing::new(json.to_owned());
        self.0.global_priv.push(GlobalPrivRow { host: host.to_owned(), user: user.to_owned(), priv_json });
        self
    }

    /// An account with a native password and nothing else.
    fn user(self, user: &str, host: &str) -> Self {
        match Product::from_version(&self.0.variables.version) {
            product if product.is_mysql() => return self.row(user, host, |_| {}),
            product if product.is_mariadb_10_3() => return self.old_row(user, host, |_| {}),
            _ => {}
        }
        self.user_with(user, host, "")
    }

    /// An account with more fields, each followed by a comma.
    fn user_with(self, user: &str, host: &str, fields: &str) -> Self {
        let json = format!(
            "{{{fields}\"plugin\":\"mysql_native_password\",\"authentication_string\":\"{PASSWORD}\"}}"
        );
        self.json(user, host, &json)
    }

    /// `u@host, ''@host` as the tables write it.
    fn users(mut self, list: &str) -> Self {
        for entry in list.split(", ") {
            let (user, host) = entry.split_once('@').expect("user@host");
            self = self.user(user.trim_matches('\''), host.trim_matches('\''));
        }
        self
    }

    fn db(mut self, user: &str, host: &str, db: &str, privilege: &str) -> Self {
        let privileges = vec![("Select_priv".to_owned(), false), (privilege.to_owned(), true)];
        self.0.db.push(DbRow { host: host.to_owned(), user: user.to_owned(), db: db.to_owned(), privileges });
        self
    }

    fn table(
        mut self,
        user: &str,
        host: &str,
        db: &str,
        table_privileges: u64,
        column_privileges: u64,
    ) -> Self {
        let (host, db, user) = (host.to_owned(), db.to_owned(), user.to_owned());
        self.0.tables.push(TableRow {
            host,
            db,
            user,
            table: "t".to_owned(),
            table_privileges,
            column_privileges,
        });
        self
    }

    fn column(mut self, user: &str, host: &str, db: &str) -> Self {
        let (host, db, user) = (host.to_owned(), db.to_owned(), user.to_owned());
        let (table, column) = ("t".to_owned(), "c".to_owned());
        self.0.columns.push(ColumnRow { host, db, user, table, column, privileges: 1 });
        self
    }

    fn routine(mut self, user: &str, host: &str, db: &str) -> Self {
        let (host, db, user) = (host.to_owned(), db.to_owned(), user.to_owned());
        let (routine, kind) = ("p".to_owned(), "PROCEDURE".to_owned());
        self.0.routines.push(RoutineRow { host, db, user, routine, kind, privileges: 1 });
        self
    }

    fn role(self, name: &str) -> Self {
        self.json(name, "", "{\"access\":0,\"is_role\":true}")
    }

    fn granted(mut self, role: &str, user: &str, host: &str) -> Self {
        let (host, user, role) = (host.to_owned(), user.to_owned(), role.to_owned());
        self.0.roles.push(RoleMappingRow { host, user, role, admin: false });
        self
    }

    fn proxy(mut self, user: &str, host: &str, proxied: (&str, &str)) -> Self {
        let (proxied_user, proxied_host) = (proxied.0.to_owned(), proxied.1.to_owned());
        let (host, user) = (host.to_owned(), user.to_owned());
        self.0.proxies.push(ProxyRow { host, user, proxied_host, proxied_user, with_grant: false });
        self
    }

    fn with(mut self, change: impl FnOnce(&mut ServerVariables)) -> Self {
        change(&mut self.0.variables);
        self
    }

    fn lower_case(self) -> Self {
        self.with(|v| v.lower_case_table_names = 1)
    }

    fn without_names(self) -> Self {
        self.with(|v| v.skip_name_resolve = true)
    }

    fn build(self) -> Snapshot {
        Snapshot::build(self.0, UNIX_EPOCH)
    }
}

fn request<'r>(
    client: &'r HostIdentity,
    proxy: &'r HostIdentity,
    database: Option<&'r str>,
) -> LoginRequest<'r> {
    LoginRequest {
        user: b"u",
        client,
        proxy,
        database,
        using_password: true,
        transport: Transport::Plain,
        can_handle_expired_passwords: false,
        now: UNIX_EPOCH + Duration::from_secs(NOW),
        plugins: PLUGINS,
    }
}

/// `account` after a verdict to let in, otherwise the error number.
fn outcome(verdict: &Verdict) -> String {
    match verdict {
        Verdict::Candidate { account, then: None, .. } => account.current_user(),
        Verdict::Candidate { then: Some(refusal), .. } | Verdict::Refused(refusal) => {
            refusal.code().to_string()
        }
    }
}

fn found(found: &Found<'_>) -> String {
    match found {
        Found::Account(account) => account.current_user(),
        Found::Unknown => "none".to_owned(),
        Found::Undecidable { .. } => "undecidable".to_owned(),
        Found::BadName { .. } => "bad name".to_owned(),
    }
}

/// How a case's client is connected.
#[derive(Clone, Copy)]
enum Client {
    /// TCP; the server resolves names and has none for the address.
    Ip(&'static str),
    /// TCP; the server does not resolve names.
    Skip(&'static str),
    /// TCP; the address as `Snapshot::host_identity` sees it.
    Own(&'static str),
    Name(&'static str, &'static str),
    Socket,
}

#[test]
fn the_first_matching_row_in_the_order_of_the_server_is_chosen() {
    use Client::{Ip, Name, Own, Skip, Socket};
    let cases = [
        (1, "u@%, u@127.0.0.5", Ip("127.0.0.5"), ["u@127.0.0.5", "u@127.0.0.5", "u@127.0.0.5"]),
        (2, "u@%, u@127.0.0.%", Ip("127.0.0.5"), ["u@127.0.0.%", "u@127.0.0.%", "u@127.0.0.%"]),
        (3, "u@127.%, u@127.0.0.%", Ip("127.0.0.5"), ["u@127.0.0.%", "u@127.0.0.%", "u@127.0.0.%"]),
        (4, "u@127.0.0._, u@127.0.0.%", Ip("127.0.0.5"), ["u@127.0.0._", "undecidable", "undecidable"]),
        (5, "u@%.5, u@127.%", Ip("127.0.0.5"), ["u@127.%", "u@127.%", "u@127.%"]),
        (6, "u@%.0.0.5, u@127.%", Ip("127.0.0.5"), ["u@%.0.0.5", "u@127.%", "u@127.%"]),
        (7, "u@1%, u@%.0.0.5", Ip("127.0.0.5"), ["u@%.0.0.5", "u@1%", "u@1%"]),
        (
            8,
            "u@127.0.0.0/255.255.255.0, u@%",
            Ip("127.0.0.7"),
            ["u@127.0.0.0/255.255.255.0", "u@127.0.0.0/255.255.255.0", "u@127.0.0.0/255.255.255.0"],
        ),
        (
            9,
            "u@127.0.0.10, u@127.0.0.8/255.255.255.248",
            Ip("127.0.0.10"),
            ["u@127.0.0.8/255.255.255.248", "undecidable", "u@127.0.0.10"],
        ),
        (
            10,
            "u@127.0.0.5, u@127.0.0.0/255.255.255.0",
            Ip("127.0.0.5"),
            ["u@127.0.0.5", "undecidable", "u@127.0.0.5"],
        ),
        (
            11,
            "u@127.0.0.5, u@127.0.0.5/255.255.255.255",
            Ip("127.0.0.5"),
            ["u@127.0.0.5/255.255.255.255", "undecidable", "u@127.0.0.5"],
        ),
        (
            12,
            "u@127.0.0.0/255.0.0.0, u@127.0.0.0/255.255.255.0",
            Ip("127.0.0.5"),
            ["u@127.0.0.0/255.255.255.0", "undecidable", "u@127.0.0.0/255.255.255.0"],
        ),
        (
            13,
            "u@127.0.0.0/255.255.0.0, u@127.0.0.0/255.255.255.0",
            Ip("127.0.9.5"),
            ["u@127.0.0.0/255.255.0.0", "u@127.0.0.0/255.255.0.0", "u@127.0.0.0/255.255.0.0"],
        ),
        (14, "u@127.0.0.0/8, u@%", Ip("127.0.0.5"), ["u@%", "u@%", "u@127.0.0.0/8"]),
        (15, "u@127.0.0.0/8", Ip("127.0.0.5"), ["none", "none", "u@127.0.0.0/8"]),
        (
            16,
            "u@127.0.0.0/8, u@127.0.0.0/255.255.255.0",
            Ip("127.0.0.5"),
            ["u@127.0.0.0/255.255.255.0", "u@127.0.0.0/255.255.255.0", "u@127.0.0.0/8"],
        ),
        (17, "u@127.0.0.0/8, u@127.0.0.0/24", Ip("127.0.0.5"), ["none", "none", "u@127.0.0.0/24"]),
        (18, "u@127.0.0.5/24, u@%", Ip("127.0.0.5"), ["u@%", "u@%", "u@%"]),
        (19, "u@127.0.0.5/255.255.255.0, u@%", Ip("127.0.0.5"), ["u@%", "u@%", "u@%"]),
        (
            20,
            "u@127.0.0.1/255.0.0.255, u@%",
            Ip("127.9.9.1"),
            ["u@127.0.0.1/255.0.0.255", "u@127.0.0.1/255.0.0.255", "u@%"],
        ),
        (21, "u@0.0.0.0/0.0.0.0", Ip("127.0.0.5"), ["none", "none", "none"]),
        (22, "u@localhost, u@127.0.0.1", Own("127.0.0.1"), ["u@localhost", "undecidable", "u@127.0.0.1"]),
        (23, "u@localhost, u@127.0.0.1", Skip("127.0.0.1"), ["u@127.0.0.1", "u@127.0.0.1", "u@127.0.0.1"]),
        (24, "u@localhost, u@%", Own("127.0.0.1"), ["u@localhost", "u@localhost", "u@localhost"]),
        (25, "u@localhost, u@%", Own("127.0.0.5"), ["u@%", "u@%", "u@%"]),
        (26, "u@localhost", Skip("127.0.0.1"), ["none", "none", "none"]),
        (27, "u@localhost, u@127.0.0.1", Socket, ["u@localhost", "u@localhost", "u@localhost"]),
        (28, "u@127.0.0.1", Socket, ["none", "none", "none"]),
        (29, "u@%", Socket, ["u@%", "u@%", "u@%"]),
        (30, "''@localhost, u@%", Own("127.0.0.1"), ["@localhost", "@localhost", "@localhost"]),
        (31, "''@127.0.0.1, u@localhost", Own("127.0.0.1"), ["u@localhost", "u@localhost", "@127.0.0.1"]),
        (32, "''@127.0.0.%, u@%", Ip("127.0.0.5"), ["@127.0.0.%", "@127.0.0.%", "@127.0.0.%"]),
        (33, "''@%, u@%", Ip("127.0.0.5"), ["u@%", "u@%", "u@%"]),
        (34, "''@%, u@127.0.0.9", Ip("127.0.0.5"), ["@%", "@%", "@%"]),
        (
            35,
            "''@127.0.0.0/255.255.255.0, u@127.0.0.5",
            Ip("127.0.0.5"),
            ["u@127.0.0.5", "u@127.0.0.5", "u@127.0.0.5"],
        ),
        (
            36,
            "''@127.0.0.5, u@127.0.0.0/255.255.255.0",
            Ip("127.0.0.5"),
            ["u@127.0.0.0/255.255.255.0", "u@127.0.0.0/255.255.255.0", "@127.0.0.5"],
        ),
        (37, "u@LOCALHOST", Own("127.0.0.1"), ["u@LOCALHOST", "u@LOCALHOST", "u@LOCALHOST"]),
        (38, "U@%", Ip("127.0.0.5"), ["none", "none", "none"]),
        (39, "u@''", Ip("127.0.0.5"), ["u@%", "u@", "u@"]),
        (40, "u@'', u@%", Ip("127.0.0.5"), ["u@%", "u@%", "u@%"]),
        (41, "u@127.0.0.05", Ip("127.0.0.5"), ["none", "none", "u@127.0.0.05"]),
        (
            42,
            "u@127.0.0.5%, u@127.0.0.0/24",
            Ip("127.0.0.5"),
            ["u@127.0.0.5%", "u@127.0.0.5%", "undecidable"],
        ),
        (
            43,
            "u@127.0.0.5%, u@127.0.0.0/255.255.255.0",
            Ip("127.0.0.5"),
            ["u@127.0.0.0/255.255.255.0", "u@127.0.0.0/255.255.255.0", "undecidable"],
        ),
        (44, "u@%%, u@%", Ip("127.0.0.5"), ["u@%%", "u@%%", "u@%%"]),
        (45, "u@_%, u@%", Ip("127.0.0.5"), ["u@_%", "u@_%", "u@_%"]),
        (46, "u@127\\.0.0.5, u@%", Ip("127.0.0.5"), ["u@127\\.0.0.5", "u@127\\.0.0.5", "u@127\\.0.0.5"]),
        (47, "u@::1, u@localhost", Own("::1"), ["u@localhost", "undecidable", "undecidable"]),
        (48, "u@::1, u@%", Own("::1"), ["u@::1", "u@::1", "u@::1"]),
        (49, "u@::%, u@%", Own("::1"), ["u@::%", "u@::%", "u@::%"]),
        (
            50,
            "u@c21.test, u@127.0.0.21",
            Name("127.0.0.21", "c21.test"),
            ["u@c21.test", "undecidable", "u@127.0.0.21"],
        ),
        (
            51,
            "u@%.test, u@127.0.0.%",
            Name("127.0.0.21", "c21.test"),
            ["u@127.0.0.%", "u@127.0.0.%", "u@127.0.0.%"],
        ),
        (52, "u@C21.TEST, u@%", Name("127.0.0.21", "c21.test"), ["u@C21.TEST", "u@C21.TEST", "u@C21.TEST"]),
        (53, "u@c21.test, u@%", Skip("127.0.0.21"), ["u@%", "u@%", "u@%"]),
        (54, "u@%.evil.test, u@%", Ip("127.0.0.25"), ["u@%", "u@%", "u@%"]),
        (
            55,
            "u@c_1.test, u@%.test",
            Name("127.0.0.21", "c21.test"),
            ["u@c_1.test", "u@c_1.test", "u@c_1.test"],
        ),
    ];
    // MariaDB 10.3 is as MySQL before 8.0.23 here, but for an empty host and for patterns that begin with a wildcard.
    let of_old_mariadb = |number, as_mysql| match number {
        39 => "u@%",
        44 | 45 => "undecidable",
        _ => as_mysql,
    };
    let versions = ["10.11.19-MariaDB", "8.0.22", "8.0.23", "10.3.39-MariaDB"];
    for (number, list, from, [mariadb, before, mysql]) in cases {
        let expected = [mariadb, before, mysql, of_old_mariadb(number, before)];
        for (version, expected) in versions.into_iter().zip(expected) {
            let rows = Rows::of(version).users(list);
            let (snapshot, client) = match from {
                Ip(text) => (rows.build(), HostIdentity::without_name(ip(text))),
                Name(text, name) => (rows.build(), HostIdentity::with_name(ip(text), name)),
                Socket => (rows.build(), HostIdentity::socket()),
                Own(text) => {
                    let snapshot = rows.build();
                    let client = snapshot.host_identity(ip(text), &HostName::Unknown);
                    (snapshot, client)
                }
                Skip(text) => {
                    let snapshot = rows.without_names().build();
                    let client = snapshot.host_identity(ip(text), &HostName::Unknown);
                    (snapshot, client)
                }
            };
            assert_eq!(found(&snapshot.find(b"u", &client)), expected, "case {number} on {version}");
        }
    }
}

#[test]
fn the_default_database_is_judged_by_patterns_of_user_and_host() {
    let u = || Rows::new().user("u", "%");
    let global = |bits: u64| format!("\"access\":{bits},\"version_id\":101100,");
    let with_role =
        || Rows::new().user_with("u", "%", "\"default_role\":\"r\",").role("r").granted("r", "u", "%");
    let narrow = || u().user("u", "127.0.0.%");
    let role_at = |fields: &str| {
        Rows::new()
            .user_with("u", "127.0.0.%", &format!("\"default_role\":\"r\",{fields}"))
            .user_with("u", "%", &global(1 << 9))
            .role("r")
            .granted("r", "u", "%")
    };
    let select = "Select_priv";
    let too_long = "x".repeat(65);
    let cases = vec![
        ("56", u(), "app", "1044"),
        ("57", u(), "nosuch", "1044"),
        ("58", Rows::new().user_with("u", "%", &global(1)), "nosuch", "1049"),
        ("58, there", Rows::new().user_with("u", "%", &global(1)), "app", "u@%"),
        ("59", u(), "information_schema", "u@%"),
        ("59, capitals", u(), "INFORMATION_SCHEMA", "u@%"),
        ("60", u(), "mysql", "1044"),
        ("60, sys", u(), "sys", "1044"),
        ("60, performance_schema", u(), "performance_schema", "1044"),
        ("61", u().db("u", "%", "app", select), "app", "u@%"),
        ("62", u().db("u", "%", "ap_", select), "app", "u@%"),
        ("63", u().db("u", "%", "ap\\_", select), "app", "1044"),
        ("64", u().db("u", "%", "ap\\_", select), "ap_", "u@%"),
        ("65", u().table("u", "%", "app", 0, 1).column("u", "%", "app"), "app", "u@%"),
        ("65, no column", u().table("u", "%", "app", 0, 1), "app", "1044"),
        ("65, no host", u().table("u", "", "app", 0, 1).column("u", "", "app"), "app", "1044"),
        (
            "65, capitals",
            u().table("u", "%", "App", 0, 1).column("u", "%", "App").lower_case(),
            "app",
            "1044",
        ),
        ("65, table in capitals", u().table("u", "%", "App", 1, 0).lower_case(), "app", "u@%"),
        ("65, column only", u().column("u", "%", "app"), "app", "1044"),
        ("66", u().routine("u", "%", "app"), "app", "u@%"),
        ("67", u().db("u", "%", "app", "Grant_priv"), "app", "u@%"),
        ("67, unknown privilege", u().db("u", "%", "app", "Fly_priv"), "app", "1044"),
        ("68", u().table("u", "%", "app", 64, 0), "app", "u@%"),
        ("69", narrow().table("u", "%", "app", 1, 0), "app", "u@127.0.0.%"),
        ("70", narrow().db("u", "%", "app", select), "app", "u@127.0.0.%"),
        ("71", u().db("", "%", "app", select), "app", "u@%"),
        ("71, table", u().table("", "%", "app", 1, 0), "app", "1044"),
        (
            "72",
            narrow().db("u", "127.0.0.%", "app", "Grant_priv").db("u", "%", "app", select),
            "app",
            "u@127.0.0.%",
        ),
        (
            "72, nothing first",
            narrow().db("u", "127.0.0.%", "app", "No_priv").db("u", "%", "app", select),
            "app",
            "1044",
        ),
        (
            "72, tie",
            u().db("u", "127.0.0.5", "app", "No_priv").db("u", "127.0.0.4/255.255.255.252", "app", select),
            "app",
            "1044",
        ),
        ("73", u().db("u", "%", "App", select), "app", "1044"),
        ("74", u().db("u", "%", "App", select).lower_case(), "APP", "u@%"),
        ("75", with_role().db("r", "", "app", select), "app", "u@%"),
        ("75, table", with_role().table("r", "", "app", 1, 0), "app", "u@%"),
        (
            "75, role of role",
            with_role().role("s").granted("s", "r", "").db("s", "", "app", select),
            "app",
            "u@%",
        ),
        (
            "75, roles in a ring",
            with_role().role("s").granted("s", "r", "").granted("r", "s", ""),
            "app",
            "1044",
        ),
        ("76", u().role("r").granted("r", "u", "%").db("r", "", "app", select), "app", "1044"),
        (
            "76, not granted",
            Rows::new().user_with("u", "%", "\"default_role\":\"r\",").role("r").db("r", "", "app", select),
            "app",
            "1044",
        ),
        ("78", u().role("PUBLIC").db("PUBLIC", "", "app", select), "app", "u@%"),
        (
            "78, 10.6",
            u().role("PUBLIC").db("PUBLIC", "", "app", select).with(|v| v.version = "10.6.9-MariaDB".into()),
            "app",
            "1044",
        ),
        ("78, table", u().role("PUBLIC").table("PUBLIC", "", "app", 1, 0), "app", "1044"),
        ("79", role_at("").db("r", "", "app", select), "app", "u@127.0.0.%"),
        ("79, loses its own", role_at(&global(1)), "app", "1044"),
        (
            "81",
            Rows::new()
                .user_with("u", "127.0.0.%", "\"default_role\":\"r\",")
                .user("u", "%")
                .role("r")
                .granted("r", "u", "127.0.0.%")
                .db("u", "%", "app", select),
            "app",
            "u@127.0.0.%",
        ),
        ("82", u(), "", "u@%"),
        ("83", u(), "app ", "1102"),
        ("83, too long", u(), too_long.as_str(), "1102"),
    ];
    for (number, rows, database, expected) in cases {
        let snapshot = rows.build();
        let client = HostIdentity::without_name(ip("127.0.0.5"));
        let decision = explain(&snapshot, &request(&client, &client, Some(database)));
        assert_eq!(outcome(&decision.verdict), expected, "case {number}: {:#?}", decision.steps);
        let silent = decide(&snapshot, &request(&client, &client, Some(database)));
        assert_eq!(outcome(&silent.verdict), expected, "case {number} without a trace");
    }
}

#[test]
fn rows_that_differ_by_host_are_refused() {
    let (proxy, other) = ("127.0.0.40", "127.0.0.5");
    let select = "Select_priv";
    let cases = [
        ("127", Rows::new().user("x", "%").user("u", proxy), "1045", "none"),
        (
            "128",
            Rows::new().user("u", other).user("u", proxy).db("u", other, "app", select),
            "1045",
            "differ",
        ),
        ("129", Rows::new().user("u", other).user("u", proxy), "1045", "differ"),
        ("130", Rows::new().user("u", "%"), "u@%", "same"),
        ("131", Rows::new().user("u", "%").user("u", "127.0.0.%"), "u@127.0.0.%", "same"),
        (
            "132",
            Rows::new().user_with("u", "%", "\"account_locked\":true,").user("u", proxy),
            "4151",
            "differ",
        ),
        ("133", Rows::new().user_with("u", "%", "\"ssl_type\":2,").user("u", proxy), "1045", "differ"),
        ("134", Rows::new().user("u", "%").db("u", proxy, "hr", select), "1045", "differ"),
        ("134, table", Rows::new().user("u", "%").table("u", proxy, "hr", 1, 0), "1045", "differ"),
        ("134, routine", Rows::new().user("u", "%").routine("u", proxy, "hr"), "1045", "differ"),
        ("134, everybody's", Rows::new().user("u", "%").db("", proxy, "hr", select), "1045", "differ"),
        ("134, of another user", Rows::new().user("u", "%").db("v", proxy, "hr", select), "u@%", "same"),
        ("135", Rows::new().user("u", "%").user("", proxy), "1045", "differ"),
        (
            "role",
            Rows::new().user("u", "%").user("u", proxy).role("r").granted("r", "u", proxy),
            "1045",
            "differ",
        ),
        ("proxied host", Rows::new().user("u", "%").proxy("u", "%", ("v", proxy)), "1045", "differ"),
    ];
    for (number, rows, expected, why) in cases {
        let snapshot = rows.build();
        let (client, proxy) = (HostIdentity::without_name(ip(other)), HostIdentity::without_name(ip(proxy)));
        let decision = explain(&snapshot, &request(&client, &proxy, None));
        assert_eq!(outcome(&decision.verdict), expected, "case {number}: {:#?}", decision.steps);
        let differs = matches!(snapshot.same_rows(b"u", &client, &proxy), MaskedHost::Differs(_));
        let told = decision.steps.iter().any(|step| step.text.contains("grants differ by host"));
        assert_eq!((differs, told), (why != "same", why == "differ"), "case {number}: {:#?}", decision.steps);
    }
}

#[test]
fn the_first_differing_row_is_named() {
    let snapshot = Rows::new().user("u", "%").db("u", "10.0.0.9", "hr", "Select_priv").build();
    let (client, proxy) =
        (HostIdentity::without_name(ip("10.1.4.4")), HostIdentity::without_name(ip("10.0.0.9")));
    let MaskedHost::Differs(difference) = snapshot.same_rows(b"u", &client, &proxy) else {
        panic!("the same")
    };
    assert_eq!(
        difference.to_string(),
        "grants differ by host: 'u'@'%' for the client's address, 'u'@'%' for the proxy's; db row 'u'@'10.0.0.9' on \
         `hr` does not match the client and matches the proxy"
    );
}

#[test]
fn a_row_that_may_match_a_name_makes_an_earlier_choice_unknowable() {
    let far = ip("10.1.2.3");
    let cases = [
        // Rows that no name of this client can match.
        ("u@%, u@localhost", "u@%"),
        ("u@%, u@192.168.%", "u@%"),
        ("u@%, u@10.9.0.0/255.255.0.0", "u@%"),
        ("u@%, u@::1", "u@%"),
        ("u@%, u@10.0.0.0/8", "u@%"),
        ("u@%, v@app.test", "u@%"),
        // Rows behind the chosen one.
        ("u@10.1.2.3, u@%.test", "u@10.1.2.3"),
        ("u@10.1.2.3, ''@app.test", "u@10.1.2.3"),
        // Rows before it.
        ("u@%, u@app.test", "undecidable"),
        ("u@%, u@%.test", "undecidable"),
        ("u@10.1.2.3, u@app.test", "undecidable"),
        ("u@%, ''@app.test", "undecidable"),
        ("u@%, u@_92.168.1.1", "undecidable"),
        ("u@app.test", "undecidable"),
        ("u@localhost, v@%", "none"),
    ];
    for (rows, expected) in cases {
        let snapshot = Rows::new().users(rows).build();
        assert_eq!(
            found(&snapshot.find(b"u", &snapshot.host_identity(far, &HostName::Unknown))),
            expected,
            "{rows}"
        );
        // Loopback addresses but 127.0.0.1 and ::1 are resolved like any other.
        let near = snapshot.host_identity(ip("127.0.0.2"), &HostName::Unknown);
        assert!(near.name_is_unknown());
    }
    // The rows that decide on a database, or that differ for the proxy, depend on names too.
    let rows = Rows::new().user("u", "%").db("u", "app.test", "app", "Select_priv");
    let snapshot = rows.clone().build();
    let (client, proxy) = (
        snapshot.host_identity(far, &HostName::Unknown),
        snapshot.host_identity(ip("10.0.0.9"), &HostName::Unknown),
    );
    let Found::Account(account) = snapshot.find(b"u", &client) else { panic!("no account") };
    assert!(matches!(snapshot.database_access(account, &client, "app"), DatabaseAccess::NotDecided { .. }));
    assert!(matches!(snapshot.same_rows(b"u", &client, &proxy), MaskedHost::Differs(_)));
    // Without name resolving, the server ignores such rows.
    let snapshot = rows.without_names().build();
    let (client, proxy) = (
        snapshot.host_identity(far, &HostName::Unknown),
        snapshot.host_identity(ip("10.0.0.9"), &HostName::Unknown),
    );
    let Found::Account(account) = snapshot.find(b"u", &client) else { panic!("no account") };
    assert_eq!(snapshot.database_access(account, &client, "app"), DatabaseAccess::Denied);
    assert_eq!(snapshot.same_rows(b"u", &client, &proxy), MaskedHost::Same);
    assert_eq!(snapshot.ignored()[0].table, "db");
}

#[test]
fn a_host_that_no_row_surely_admits_is_not_let_in() {
    // The server compares a host without wildcards literally before its greeting, and with escapes afterwards.
    let rows = || Rows::new().user("u", "10\\.1.2.3");
    let far = ip("10.1.2.3");
    let verdict = |rows: Rows, client: &HostIdentity| {
        outcome(&decide(&rows.build(), &request(client, client, None)).verdict)
    };
    assert_eq!(verdict(rows(), &HostIdentity::without_name(far)), "1130");
    assert_eq!(verdict(rows().user("v", "app.test"), &HostIdentity::with_unknown_name(far)), "1045");
    assert_eq!(verdict(rows().user("v", "%"), &HostIdentity::with_unknown_name(far)), "u@10\\.1.2.3");
    assert_eq!(verdict(Rows::new().user("u", "10.0.0.1"), &HostIdentity::without_name(far)), "1130");
}

#[test]
fn the_state_of_an_account_is_told_in_the_order_of_the_server() {
    let strict = |v: &mut ServerVariables| v.disconnect_on_expired_password = true;
    let row = |fields: &str| Rows::new().user_with("u", "%", fields);
    let day = 86_400;
    let changed = |days: u64| format!("\"password_last_changed\":{},", NOW - days * day);
    let cases = [
        ("89", row("\"account_locked\":true,"), "4151"),
        ("locked by a text", row("\"account_locked\":\"true\","), "u@%"),
        ("101", row("\"account_locked\":true,\"password_last_changed\":0,").with(strict), "4151"),
        ("locked and in want of TLS", row("\"account_locked\":true,\"ssl_type\":1,"), "1045"),
        ("99", row("\"password_last_changed\":0,").with(strict), "1862"),
        ("expired by a text", row("\"password_last_changed\":\"0\",").with(strict), "u@%"),
        ("99, sandbox", row("\"password_last_changed\":0,"), "u@%"),
        ("age never told", row("\"password_lifetime\":5,").with(strict), "1862"),
        ("age 4 of 5", row(&format!("{}\"password_lifetime\":5,", changed(4))).with(strict), "u@%"),
        ("age 5 of 5", row(&format!("{}\"password_lifetime\":5,", changed(5))).with(strict), "1862"),
        (
            "the server's lifetime",
            row(&changed(9)).with(strict).with(|v| v.default_password_lifetime = 9),
            "1862",
        ),
        (
            "for ever",
            row("\"password_lifetime\":0,").with(strict).with(|v| v.default_password_lifetime = 1),
            "u@%",
        ),
        ("91", row("\"ssl_type\":1,"), "1045"),
        ("TLS as a text", row("\"ssl_type\":\"1\","), "u@%"),
        ("TLS of no kind", row("\"ssl_type\":-1,"), "u@%"),
        ("TLS of an unknown kind", row("\"ssl_type\":7,"), "1045"),
        ("96", row("").with(|v| v.require_secure_transport = true), "1045"),
        (
            "96, 11.4",
            row("").with(|v| v.require_secure_transport = true).with(|v| v.version = "11.4.2-MariaDB".into()),
            "3159",
        ),
        ("plugin that is not verified here", Rows::new().json("u", "%", "{\"plugin\":\"pam\"}"), "1045"),
    ];
    for (name, rows, expected) in cases {
        let snapshot = rows.build();
        let client = HostIdentity::without_name(ip("127.0.0.5"));
        let decision = explain(&snapshot, &request(&client, &client, None));
        assert_eq!(outcome(&decision.verdict), expected, "{name}: {:#?}", decision.steps);
    }
}

#[test]
fn tls_requirements_are_met_by_no_less() {
    let client = HostIdentity::without_name(ip("127.0.0.5"));
    for (kind, met) in [
        (0, [true; 3]),
        (1, [false, true, true]),
        (2, [false, false, true]),
        // Of a certificate, the account requires nothing.
        (3, [false, true, true]),
        (9, [false; 3]),
    ] {
        let snapshot = Rows::new().user_with("u", "%", &format!("\"ssl_type\":{kind},")).build();
        let names = CertificateNames { subject: Ok(String::new()), issuer: Ok(String::new()) };
        let tls = |certificate| Transport::Tls { cipher: None, certificate };
        for (transport, met) in [Transport::Plain, tls(None), tls(Some(&names))].into_iter().zip(met) {
            let request = LoginRequest { transport, ..request(&client, &client, None) };
            let verdict = decide(&snapshot, &request).verdict;
            assert_eq!(outcome(&verdict) == "u@%", met, "ssl_type {kind} on {transport:?}");
        }
    }
}

#[test]
fn a_server_that_knows_of_revoked_certificates_cannot_be_foretold() {
    let client = HostIdentity::without_name(ip("127.0.0.5"));
    let names = CertificateNames { subject: Ok("/CN=c".to_owned()), issuer: Ok("/CN=a".to_owned()) };
    let shown = Transport::Tls { cipher: None, certificate: Some(&names) };
    let without = Transport::Tls { cipher: None, certificate: None };
    for (required, transport, before, with_list) in [
        ("\"ssl_type\":1", without, "in", "in"),
        ("\"ssl_type\":1", shown, "in", "in"),
        ("\"ssl_type\":2", shown, "in", "?"),
        ("\"ssl_type\":2", Transport::Fitting { certificate: true }, "in", "?"),
        ("\"ssl_type\":2", without, "required", "required"),
        (r#""ssl_type":3,"x509_subject":"/CN=c""#, shown, "in", "?"),
        (r#""ssl_type":3,"x509_issuer":"/CN=a""#, shown, "in", "?"),
    ] {
        let verdict = |ssl_crl: bool| {
            let rows = Rows::new().user_with("u", "%", &format!("{required},"));
            let snapshot = rows.with(|v| v.ssl_crl = ssl_crl).build();
            let asked = LoginRequest { transport, ..request(&client, &client, None) };
            let Verdict::Candidate { then, .. } = decide(&snapshot, &asked).verdict else { panic!() };
            match then {
                None => "in",
                Some(Refusal::Undecidable(reason)) if reason.contains("ssl_crl") => "?",
                Some(Refusal::TlsRequired(_)) => "required",
                Some(other) => panic!("{other}"),
            }
        };
        assert_eq!((verdict(false), verdict(true)), (before, with_list), "{required} {transport:?}");
    }
}

#[test]
fn what_a_server_demands_of_a_connection_is_asked_without_the_rest() {
    let client = HostIdentity::without_name(ip("127.0.0.5"));
    let named = HostIdentity::with_name(ip("127.0.0.5"), "unknown.example");
    let tls = Transport::Tls { cipher: None, certificate: None };
    let accepts = |rows: &Rows, client: &HostIdentity, transport| {
        let checked = rows.clone().build().accepts_transport(b"u", client, transport);
        checked.err().map(|refusal| refusal.code())
    };
    let ssl = "\"ssl_type\":1,";
    let open = Rows::new().user_with("u", "%", "");
    assert_eq!(accepts(&open, &client, Transport::Plain), None);
    let demanding = Rows::new().user_with("u", "%", ssl).user_with("other", "%", "");
    assert_eq!(accepts(&demanding, &client, Transport::Plain), Some(1045));
    assert_eq!(accepts(&demanding, &client, tls), None);
    // Only the row that the client gets counts; where that is not certain, all that it may get.
    let elsewhere = Rows::new().user_with("u", "127.%", "").user_with("u", "10.%", ssl);
    assert_eq!(accepts(&elsewhere, &client, Transport::Plain), None);
    let other = Rows::new().user_with("u", "%", "").user_with("other", "%", ssl);
    assert_eq!(accepts(&other, &client, Transport::Plain), None);
    let by_name = Rows::new().user_with("u", "%", "").user_with("u", "db.example", ssl);
    assert_eq!(accepts(&by_name, &client, Transport::Plain), None);
    let unknown = HostIdentity::with_unknown_name(ip("127.0.0.5"));
    assert_eq!(accepts(&by_name, &unknown, Transport::Plain), Some(1045));
    assert_eq!(accepts(&by_name, &unknown, tls), None);
    assert_eq!(accepts(&by_name, &named, Transport::Plain), None);
    // Of everybody, in the words of the version.
    for (version, code) in [("10.11.19-MariaDB", 1045), ("11.4.2-MariaDB", 3159)] {
        let all = open.clone().with(|v| {
            v.require_secure_transport = true;
            v.version = version.to_owned();
        });
        assert_eq!(accepts(&all, &client, Transport::Plain), Some(code), "{version}");
        assert_eq!(accepts(&all, &client, tls), None, "{version}");
    }
}

#[test]
fn what_a_client_shows_is_compared_byte_by_byte() {
    let client = HostIdentity::without_name(ip("127.0.0.5"));
    let names = |subject: &str, issuer: &str| CertificateNames {
        subject: Ok(subject.to_owned()),
        issuer: Ok(issuer.to_owned()),
    };
    let unclear = CertificateNames { subject: Err(Unclear::Separator), issuer: Err(Unclear::SideBySide) };
    let (unclear, right) = (Some(&unclear), &names("/CN=c", "/CN=a"));
    let (longer, empty) = (names("/CN=c/O=o", "/CN=a"), names("", "/CN=a"));
    let right = Some(right);
    let aes = Some("TLS_AES_256_GCM_SHA384");
    for (required, cipher, names, differs) in [
        ("", None, unclear, ""),
        (r#""x509_subject":"/CN=c","#, None, right, ""),
        (r#""x509_issuer":"/CN=a","#, None, right, ""),
        (r#""ssl_cipher":"TLS_AES_256_GCM_SHA384","#, aes, unclear, ""),
        (r#""ssl_cipher":"TLS_AES_256_GCM_SHA384","#, aes, None, ""),
        (
            r#""x509_subject":"/CN=c","x509_issuer":"/CN=a","ssl_cipher":"TLS_AES_256_GCM_SHA384","#,
            aes,
            right,
            "",
        ),
        (r#""x509_subject":"/cn=c","#, None, right, "subject"),
        (r#""x509_subject":"/CN=c ","#, None, right, "subject"),
        (r#""x509_subject":"/CN=c","#, None, Some(&longer), "subject"),
        (r#""x509_subject":"/CN=c","#, None, Some(&empty), "subject"),
        (r#""x509_issuer":"/CN=b","#, None, right, "issuer"),
        (r#""x509_issuer":"/CN=c","x509_subject":"/CN=a","#, None, right, "issuer"),
        (r#""ssl_cipher":"TLS_AES_128_GCM_SHA256","#, aes, right, "cipher"),
        (r#""ssl_cipher":"AES_256_GCM_SHA384","#, aes, None, "cipher"),
        // In the server's order.
        (r#""x509_subject":"-","x509_issuer":"-","ssl_cipher":"-","#, aes, right, "cipher"),
        // Nothing to compare.
        (r#""x509_subject":"/CN=c","#, None, None, "certificate"),
        (r#""x509_issuer":"/CN=a","ssl_cipher":"TLS_AES_256_GCM_SHA384","#, aes, None, "certificate"),
        // What cannot be told.
        (r#""x509_subject":"/CN=c","#, None, unclear, "?"),
        (r#""x509_issuer":"/CN=a","#, None, unclear, "?"),
        (r#""ssl_cipher":"TLS_AES_256_GCM_SHA384","#, None, right, "?"),
    ] {
        let rows = || Rows::new().user_with("u", "%", &format!("\"ssl_type\":3,{required}"));
        let transport = Transport::Tls { cipher, certificate: names };
        let asked = LoginRequest { transport, ..request(&client, &client, None) };
        let refusal = |snapshot: &Snapshot| match decide(snapshot, &asked).verdict {
            Verdict::Candidate { then, .. } => then,
            Verdict::Refused(refusal) => panic!("{refusal}"),
        };
        let found = match refusal(&rows().build()) {
            None => "",
            Some(Refusal::TlsDiffers(TlsMismatch { part, .. })) => part,
            Some(Refusal::TlsRequired(TlsRequirement::X509)) => "certificate",
            Some(refusal @ Refusal::Undecidable(_)) => {
                assert!(refusal.is_stricter() && refusal.code() == 1045);
                "?"
            }
            Some(refusal) => panic!("{refusal}"),
        };
        assert_eq!(found, differs, "{required} {cipher:?} {names:?}");
        // A server with another library may write other names.
        let other = refusal(&rows().with(|v| v.compares_as_openssl = false).build());
        let is_closed = matches!(other, Some(Refusal::Undecidable(_))) || differs == "certificate";
        assert!(is_closed && other.is_some(), "{required} {other:?}");
        // Servers before are not known to do without a certificate.
        if names.is_none() {
            let old = refusal(&rows().with(|v| v.version = "10.6.1-MariaDB".to_owned()).build());
            assert_eq!(old, Some(Refusal::TlsRequired(TlsRequirement::X509)), "{required}");
        }
        // An explanation that is about no client says what it takes.
        let transport = Transport::Fitting { certificate: true };
        let decision = explain(&rows().build(), &LoginRequest { transport, ..asked });
        let said = decision.steps.iter().any(|step| {
            step.stage == "tls" && step.text.starts_with("met if the client has what the account requires: ")
        });
        assert!(said && outcome(&decision.verdict) == "u@%", "{:?}", decision.steps);
    }
}

#[test]
fn json_is_read_with_the_defaults_of_the_server() {
    let account = |json: &str| {
        let snapshot = Rows::new().json("u", "%", json).build();
        let client = HostIdentity::without_name(ip("127.0.0.5"));
        match snapshot.find(b"u", &client) {
            Found::Account(account) => {
                let methods: Vec<_> =
                    account.authentication.iter().map(|a| format!("{}={}", a.plugin, *a.string)).collect();
                methods.join(" or ")
            }
            other => found(&other),
        }
    };
    assert_eq!(account("{}"), "mysql_native_password=");
    assert_eq!(account(r#"{"authentication_string":"a"}"#), "mysql_native_password=a");
    assert_eq!(account(r#"{"plugin":1,"authentication_string":"a"}"#), "mysql_native_password=a");
    assert_eq!(account(r#"{"plugin":"","authentication_string":"a"}"#), "mysql_native_password=a");
    assert_eq!(account(r#"{"plugin":"ed25519","plugin":"pam","authentication_string":"a"}"#), "ed25519=a");
    assert_eq!(
        account(
            r#"{"plugin":"x","authentication_string":"a","auth_or":[{"plugin":"y"},{},{"plugin":"z","authentication_string":"b"}]}"#
        ),
        "y= or x=a or z=b"
    );
    assert_eq!(account(r#"{"plugin":"x","authentication_string":"a","auth_or":{}}"#), "x=a");
    // The server leaves these rows out.
    assert_eq!(account(r#"{"plugin":"x","auth_or":[1]}"#), "none");
    assert_eq!(account(r#"{"plugin":"x","auth_or":[{"plugin":1}]}"#), "none");
    assert_eq!(account(r#"{"plugin":"x","auth_or":[{"plugin":"y","authentication_string":1}]}"#), "none");
    assert_eq!(account(r#"{"is_role":true,"plugin":"x"}"#), "none");
    // These are kept, and nobody is let in.
    for json in [
        "[]",
        "null",
        "not json",
        r#"{"plugin":"x","auth_or":[]}"#,
        r#"{"plugin":"x","auth_or":[{"plugin":"y\/z"}]}"#,
        r#"{"plugin":"x\u0000y"}"#,
        r#"{"password_last_changed":1.5}"#,
        r#"{"access":1e3}"#,
    ] {
        assert_eq!(account(json), "undecidable", "{json}");
    }
}

#[test]
fn global_privileges_count_only_with_a_version_that_knew_them() {
    let client = HostIdentity::without_name(ip("127.0.0.5"));
    for (access, version, allowed) in [
        ("1", "", true),
        ("1", "\"version_id\":100400,", true),
        ("1", "\"version_id\":100300,", false),
        ("1", "\"version_id\":-1,", false),
        ("1", "\"version_id\":9999999,", false),
        ("18446744073709551615", "", true),
        ("18446744073709551615", "\"version_id\":1,", true),
        ("18446744073709551614", "\"version_id\":101100,", false),
        ("1073741825", "\"version_id\":100400,", false),
        ("1073741825", "\"version_id\":101100,", true),
        ("\"1\"", "", false),
        ("512", "", false),
        // SHOW CREATE ROUTINE.
        ("549755813888", "\"version_id\":110300,", true),
        ("549755813888", "\"version_id\":110200,", false),
    ] {
        let fields = format!("\"access\":{access},{version}");
        let snapshot = Rows::new().user_with("u", "%", &fields).build();
        let Found::Account(account) = snapshot.find(b"u", &client) else { panic!("no account") };
        let is_allowed =
            matches!(snapshot.database_access(account, &client, "app"), DatabaseAccess::Allowed { .. });
        assert_eq!(is_allowed, allowed, "{fields}");
    }
}

#[test]
fn login_names_that_the_server_would_change_are_refused() {
    let snapshot = Rows::new().user("u", "%").user("", "%").user("'", "%").build();
    let client = HostIdentity::without_name(ip("127.0.0.5"));
    let long = "x".repeat(129);
    for (name, expected) in [
        (&b"u"[..], "u@%"),
        (b"u ", "@%"),
        (b"U", "@%"),
        (b"", "@%"),
        (b"'u'", "bad name"),
        (b"''", "bad name"),
        (b"'", "'@%"),
        (b"'u", "@%"),
        (b"u\0", "bad name"),
        (b"\xff", "bad name"),
        ("\u{1f600}".as_bytes(), "bad name"),
        (long.as_bytes(), "bad name"),
        (&long.as_bytes()[1..], "@%"),
    ] {
        assert_eq!(found(&snapshot.find(name, &client)), expected, "{:?}", String::from_utf8_lossy(name));
    }
}

#[test]
fn login_names_are_as_long_as_the_column_of_the_version() {
    let client = HostIdentity::without_name(ip("127.0.0.5"));
    for (version, longest) in
        [("10.3.39-MariaDB", 80), ("10.5.23-MariaDB", 80), ("10.6.0-MariaDB", 128), ("9.7.4", 32)]
    {
        let snapshot = Rows::of(version).user("", "%").build();
        let find = |length| found(&snapshot.find("x".repeat(length).as_bytes(), &client));
        assert_ne!(find(longest), "bad name", "{version}");
        assert_eq!(find(longest + 1), "bad name", "{version}");
    }
}

#[test]
fn the_role_public_is_there_from_10_11_on() {
    let client = HostIdentity::without_name(ip("127.0.0.5"));
    for (version, outcome_of_it) in [("10.11.19-MariaDB", "u@%"), ("10.10.7-MariaDB", "1044")] {
        let rows = Rows::new().with(|v| v.version = version.to_owned());
        for rows in [
            rows.clone().user("u", "%").role("PUBLIC").db("PUBLIC", "", "app", "Select_priv"),
            rows.user_with("u", "%", "\"default_role\":\"PUBLIC\",")
                .role("PUBLIC")
                .granted("PUBLIC", "u", "%")
                .db("PUBLIC", "", "app", "Select_priv"),
        ] {
            let verdict = decide(&rows.build(), &request(&client, &client, Some("app"))).verdict;
            assert_eq!(outcome(&verdict), outcome_of_it, "{version}");
        }
    }
}

#[test]
fn two_rows_for_one_host_are_used_only_if_they_say_the_same() {
    let client = HostIdentity::without_name(ip("127.0.0.5"));
    let same = Rows::new().users("u@'', u@%").build();
    assert_eq!(found(&same.find(b"u", &client)), "u@%");
    let differing = Rows::new().user("u", "%").user_with("u", "", "\"account_locked\":true,").build();
    assert_eq!(found(&differing.find(b"u", &client)), "undecidable");
}

#[test]
fn a_server_of_unknown_order_admits_nobody() {
    let client = HostIdentity::without_name(ip("127.0.0.5"));
    for version in [
        "",
        "5.6.51",
        "8.0",
        "10.0.1",
        "8.0.11-TiDB-v7.5.0",
        "10.2.44-MariaDB",
        "10.3.6-MariaDB",
        "10.4.5-MariaDB",
        "MariaDB",
        "10.x-MariaDB",
    ] {
        let snapshot = Rows::new().user("u", "%").with(|v| v.version = version.into()).build();
        assert_eq!(found(&snapshot.find(b"u", &client)), "undecidable", "{version}");
    }
    for version in ["10.4.6-MariaDB", "5.5.5-10.11.6-MariaDB-log", "11.8.2-MariaDB-ubu2404", "12.0.1-mariadb"]
    {
        let snapshot = Rows::new().user("u", "%").with(|v| v.version = version.into()).build();
        assert_eq!(found(&snapshot.find(b"u", &client)), "u@%", "{version}");
    }
}

#[test]
fn an_account_that_a_plugin_may_map_is_refused() {
    let pam = "{\"plugin\":\"mysql_native_password\",\"auth_or\":[{},{\"plugin\":\"pam\"}]}";
    let client = HostIdentity::without_name(ip("127.0.0.5"));
    let verdict = |rows: Rows| outcome(&decide(&rows.build(), &request(&client, &client, None)).verdict);
    assert_eq!(verdict(Rows::new().json("u", "%", pam)), "u@%");
    assert_eq!(verdict(Rows::new().json("u", "%", pam).proxy("u", "%", ("v", "%"))), "1045");
    assert_eq!(verdict(Rows::new().json("u", "%", pam).proxy("", "%", ("v", "%"))), "1045");
    assert_eq!(verdict(Rows::new().json("u", "%", pam).proxy("u", "10.0.0.1", ("v", "%"))), "u@%");
    // A native password never becomes another account, whatever the rows say.
    assert_eq!(verdict(Rows::new().user("u", "%").proxy("u", "%", ("v", "%"))), "u@%");
}

#[test]
fn addresses_are_what_the_server_makes_of_them() {
    let snapshot = Rows::new().users("u@10.0.0.1, v@%").build();
    assert_eq!(snapshot.host_identity(ip("::ffff:10.0.0.1"), &HostName::Unknown).host_or_ip(), "10.0.0.1");
    assert_eq!(snapshot.host_identity(ip("::10.0.0.1"), &HostName::Unknown).host_or_ip(), "10.0.0.1");
    assert_eq!(snapshot.host_identity(ip("::1"), &HostName::Unknown).host_or_ip(), "localhost");
    assert_eq!(snapshot.host_identity(ip("::ffff:127.0.0.1"), &HostName::Unknown).host_or_ip(), "localhost");
    assert_eq!(snapshot.host_identity(ip("127.0.0.2"), &HostName::Unknown).host_or_ip(), "127.0.0.2");
    assert_eq!(
        snapshot.host_identity(ip("2001:DB8:0:0:1:0:0:1"), &HostName::Unknown).host_or_ip(),
        "2001:db8::1:0:0:1"
    );
    // The server adds the interface to a link-local address: no pattern can be matched with certainty.
    assert_eq!(
        found(&snapshot.find(b"v", &snapshot.host_identity(ip("fe80::1"), &HostName::Unknown))),
        "undecidable"
    );
}

#[test]
fn messages_are_the_servers_own() {
    let snapshot = Rows::new().user("u", "127.%").user_with("l", "%", "\"account_locked\":true,").build();
    let (near, far) =
        (HostIdentity::without_name(ip("127.0.0.5")), HostIdentity::without_name(ip("10.0.0.5")));
    let message = |request: LoginRequest<'_>| match decide(&snapshot, &request).verdict {
        Verdict::Refused(refusal) | Verdict::Candidate { then: Some(refusal), .. } => {
            format!("{} {} {}", refusal.code(), refusal.sqlstate(), refusal.client_message(&request))
        }
        Verdict::Candidate { .. } => "welcome".to_owned(),
    };
    assert_eq!(message(request(&near, &near, None)), "welcome");
    assert_eq!(
        message(request(&near, &near, Some("hr"))),
        "1044 42000 Access denied for user 'u'@'127.%' to database 'hr'"
    );
    assert_eq!(
        message(request(&far, &far, None)),
        "1045 28000 Access denied for user 'u'@'10.0.0.5' (using password: YES)"
    );
    let locked = LoginRequest { user: b"l", ..request(&far, &far, None) };
    assert_eq!(message(locked), "4151 HY000 Access denied, this account is locked");
}

#[test]
fn secrets_are_never_printed() {
    let rows =
        Rows::new().user("u", "%").json("b", "%", &format!("{{\"authentication_string\":\"{PASSWORD}\","));
    let raw = format!("{:?}", rows.0);
    let snapshot = rows.build();
    let client = HostIdentity::without_name(ip("127.0.0.5"));
    let accounts: Vec<_> = snapshot.accounts().map(|account| format!("{account:?}")).collect();
    let mut seen = format!("{raw} {snapshot:?} {accounts:?} {:?}", snapshot.find(b"b", &client));
    for user in [&b"u"[..], b"b"] {
        let decision = explain(&snapshot, &LoginRequest { user, ..request(&client, &client, None) });
        seen = format!("{seen} {decision:?}");
    }
    assert_eq!(accounts.len(), 2);
    assert!(!seen.contains(&PASSWORD[1..9]), "{seen}");
}

#[test]
fn a_decoy_is_always_the_same() {
    let snapshot = Rows::new().users("a@%, b@%, c@%, d@%").build();
    let decoy = |name: &str| snapshot.decoy(name.as_bytes(), &[7; 32]).expect("an account").label.clone();
    let names: Vec<_> = (0..50).map(|i| format!("nobody{i}")).collect();
    assert!(names.iter().all(|name| decoy(name) == decoy(name)));
    let different: std::collections::BTreeSet<_> = names.iter().map(|name| decoy(name)).collect();
    assert_eq!(different.len(), 4);
    assert!(Rows::new().build().decoy(b"x", &[7; 32]).is_none());
}

#[test]
fn pathological_patterns_take_no_time() {
    let pattern = "%a".repeat(120);
    let snapshot = Rows::new().user("u", &pattern).db("u", "%", &"%a".repeat(30), "Select_priv").build();
    let client = HostIdentity::with_name(ip("127.0.0.5"), "a".repeat(250) + "b");
    assert_eq!(found(&snapshot.find(b"u", &client)), "none");
}

/// `MySQL` with a row for `u@%` that is changed at will.
fn mysql_u(change: impl FnOnce(&mut MySqlUserRow)) -> Rows {
    Rows::of("8.0.36").row("u", "%", change)
}

#[test]
fn the_default_database_is_judged_by_the_rules_of_mysql() {
    let u = || mysql_u(|_| {});
    let global = |row: &mut MySqlUserRow| row.privileges.push(("Select_priv".to_owned(), true));
    let narrow = || u().user("u", "127.0.0.%");
    let partial = |rows: Rows| rows.with(|v| v.partial_revokes = true);
    let all = |rows: Rows| rows.with(|v| v.activate_all_roles_on_login = true);
    let mandatory = |rows: Rows| rows.with(|v| v.mandatory_roles = "r".to_owned());
    let active = move |rows: Rows| mandatory(rows).with(|v| v.activate_mandatory_roles = true);
    let revoked = r#"{"Restrictions":[{"Database":"app","Privileges":["SELECT"]}]}"#;
    let some_revoked = move |row: &mut MySqlUserRow| {
        global(row);
        row.user_attributes = Some(Zeroizing::new(revoked.to_owned()));
    };
    let with_role = || u().user("r", "%").edge("r@%", "u@%");
    let default = |rows: Rows| rows.default_role(("u", "%"), ("r", "%"));
    let not_granted = |rows: Rows| rows.default_role(("u", "%"), ("s", "%"));
    let default_s = move |rows: Rows| not_granted(rows.edge("s@%", "u@%"));
    let with_mandatory = |rows: Rows, roles: &str| rows.with(|v| v.mandatory_roles = roles.to_owned());
    let select = "Select_priv";
    let (long, longer, cut) = ("a".repeat(65), "a".repeat(300), "\u{20ac}".repeat(65));
    let long_and_blank = format!("{long} ");
    let cases = vec![
        ("56", u(), "app", "1044"),
        ("57", u(), "nosuch", "1044"),
        ("58", mysql_u(global), "nosuch", "1049"),
        ("58, there", mysql_u(global), "app", "u@%"),
        ("59", u(), "INFORMATION_SCHEMA", "u@%"),
        ("60", u(), "mysql", "1044"),
        ("60, sys", u(), "sys", "1044"),
        ("60, performance_schema", u(), "performance_schema", "1044"),
        ("61", u().db("u", "%", "app", select), "app", "u@%"),
        ("62", u().db("u", "%", "ap_", select), "app", "u@%"),
        ("62, partial revokes", partial(u().db("u", "%", "ap_", select)), "app", "1044"),
        ("62, partial revokes, its name", partial(u().db("u", "%", "ap_", select)), "ap_", "u@%"),
        ("63", u().db("u", "%", "ap\\_", select), "app", "1044"),
        ("64", u().db("u", "%", "ap\\_", select), "ap_", "u@%"),
        ("64, partial revokes", partial(u().db("u", "%", "ap\\_", select)), "ap_", "1044"),
        ("65", u().table("u", "%", "app", 0, 1).column("u", "%", "app"), "app", "u@%"),
        ("66", u().routine("u", "%", "app"), "app", "u@%"),
        ("67", u().db("u", "%", "app", "Grant_priv"), "app", "1044"),
        ("68", u().table("u", "%", "app", 64, 0), "app", "1044"),
        ("68, and more", u().table("u", "%", "app", 65, 0), "app", "u@%"),
        ("69", narrow().table("u", "%", "app", 1, 0), "app", "u@127.0.0.%"),
        ("70", narrow().db("u", "%", "app", select), "app", "u@127.0.0.%"),
        ("71", u().db("", "%", "app", select), "app", "u@%"),
        ("72", narrow().db("u", "127.0.0.%", "app", "Grant_priv").db("u", "%", "app", select), "app", "1044"),
        ("73", u().db("u", "%", "App", select), "app", "1044"),
        ("74", u().db("u", "%", "App", select).lower_case(), "APP", "u@%"),
        ("75", default(with_role()).db("r", "%", "app", select), "app", "u@%"),
        ("75, table", default(with_role()).table("r", "%", "app", 1, 0), "app", "u@%"),
        ("75, not granted", default(u().user("r", "%")).db("r", "%", "app", select), "app", "1044"),
        (
            "75, role of role",
            default(with_role()).user("s", "%").edge("s@%", "r@%").db("s", "%", "app", select),
            "app",
            "u@%",
        ),
        ("75, roles in a ring", default(with_role()).edge("u@%", "r@%"), "app", "1044"),
        ("75, dropped", default(u().edge("r@%", "u@%")).db("r", "%", "app", select), "app", "1044"),
        ("76", with_role().db("r", "%", "app", select), "app", "1044"),
        ("76, all", all(with_role()).db("r", "%", "app", select), "app", "u@%"),
        // The server of before 9.5, and a later one that is told so.
        ("77, off", mandatory(u().user("r", "%")).db("r", "%", "app", select), "app", "1044"),
        ("77", active(u().user("r", "%")).db("r", "%", "app", select), "app", "u@%"),
        (
            "77, several",
            with_mandatory(active(u().user("r", "%").user("s", "%")), "r,s").db("s", "%", "app", select),
            "app",
            "u@%",
        ),
        (
            "77, not there",
            with_mandatory(active(u().user("r", "%")), "nosuch,r@localhost").db("r", "%", "app", select),
            "app",
            "1044",
        ),
        (
            "77, by another host",
            with_mandatory(active(u().user("r", "localhost")), "r@localhost").db(
                "r",
                "localhost",
                "app",
                select,
            ),
            "app",
            "u@%",
        ),
        (
            "77, role of role",
            active(u().user("r", "%").user("s", "%")).edge("s@%", "r@%").db("s", "%", "app", select),
            "app",
            "u@%",
        ),
        (
            "77, beside a default role",
            default_s(active(u().user("r", "%").user("s", "%"))).db("s", "%", "app", select),
            "app",
            "u@%",
        ),
        (
            "77, and a default role that is not granted",
            not_granted(active(u().user("r", "%").user("s", "%"))).db("s", "%", "app", select),
            "app",
            "1044",
        ),
        (
            "77, unreadable",
            with_mandatory(active(u().user("r", "%")), "'").db("u", "%", "app", select),
            "app",
            "1044",
        ),
        ("77, itself", with_mandatory(active(u()), "u").db("u", "%", "app", select), "app", "1044"),
        // With a role active, rows count by account.
        ("70, mandatory role", active(narrow().user("r", "%")).db("u", "%", "app", select), "app", "1044"),
        ("77, all", all(mandatory(u().user("r", "%"))).db("r", "%", "app", select), "app", "u@%"),
        ("77, default", default(mandatory(u().user("r", "%"))).db("r", "%", "app", select), "app", "u@%"),
        (
            "79",
            default(narrow().user("r", "%").edge("r@%", "u@%").default_role(("u", "127.0.0.%"), ("r", "%")))
                .db("r", "%", "app", select),
            "app",
            "1044",
        ),
        ("80", partial(mysql_u(some_revoked)), "app", "1044"),
        ("80, elsewhere", partial(mysql_u(some_revoked)), "hr", "u@%"),
        (
            "81",
            narrow()
                .user("r", "%")
                .edge("r@%", "u@127.0.0.%")
                .default_role(("u", "127.0.0.%"), ("r", "%"))
                .db("u", "%", "app", select),
            "app",
            "1044",
        ),
        ("82", u(), "", "u@%"),
        ("83", u(), "app ", "1102"),
        ("83, too long", u(), &long, "1059"),
        ("83, too long for a cut", u(), &longer, "1059"),
        ("83, too long and a blank", u(), &long_and_blank, "1102"),
        // 64 characters are left of it.
        ("83, cut", mysql_u(global), &cut, "1044"),
        ("83, long", mysql_u(global), &long[1..], "1049"),
    ];
    for (number, rows, database, expected) in cases {
        let snapshot = rows.build();
        let client = HostIdentity::without_name(ip("127.0.0.5"));
        let decision = explain(&snapshot, &request(&client, &client, Some(database)));
        assert_eq!(outcome(&decision.verdict), expected, "case {number}: {:#?}", decision.steps);
    }
}

#[test]
fn the_state_of_an_account_of_mysql_is_told_in_its_order() {
    let locked = |row: &mut MySqlUserRow| row.account_locked = true;
    let expired = |row: &mut MySqlUserRow| row.password_expired = true;
    let tls = |row: &mut MySqlUserRow| row.ssl_type = "ANY".to_owned();
    let aged = |row: &mut MySqlUserRow| {
        row.password_last_changed = Some(i64::try_from(NOW - 9 * 86_400).expect("a time"));
    };
    let strict = |v: &mut ServerVariables| v.require_secure_transport = true;
    let attributes = |json: &str| Rows::of("8.0.36").attributes(json);
    let cases = [
        ("open", mysql_u(|_| {}), "u@%"),
        ("89", mysql_u(locked), "3118"),
        ("91", mysql_u(tls), "1045"),
        ("95", mysql_u(|row| row.ssl_type = "SPECIFIED".to_owned()), "1045"),
        ("95, of no known kind", mysql_u(|row| row.ssl_type = "NEW".to_owned()), "1045"),
        ("96", mysql_u(|_| {}).with(strict), "3159"),
        ("96, locked", mysql_u(locked).with(strict), "3118"),
        ("96, expired", mysql_u(expired).with(strict), "3159"),
        ("99", mysql_u(expired), "1862"),
        ("99, sandbox", mysql_u(expired).with(|v| v.disconnect_on_expired_password = false), "u@%"),
        ("99, by age", mysql_u(aged).with(|v| v.default_password_lifetime = 9), "1862"),
        ("99, young enough", mysql_u(aged).with(|v| v.default_password_lifetime = 10), "u@%"),
        ("101", mysql_u(|row| [locked, expired].iter().for_each(|change| change(row))), "3118"),
        ("offline", mysql_u(locked).with(|v| v.offline_mode = true), "3032"),
        (
            "104",
            attributes(r#"{"Password_locking":{"failed_login_attempts":2,"password_lock_time_days":1}}"#),
            "u@%",
        ),
        ("unknown attributes", attributes(r#"{"metadata":{"a":[1]},"new":7}"#), "u@%"),
        ("attributes that are no object", attributes("[]"), "1045"),
        ("attributes that are no JSON", attributes("{"), "1045"),
        ("restrictions of another shape", attributes(r#"{"Restrictions":{}}"#), "1045"),
        (
            "several factors",
            attributes(r#"{"multi_factor_authentication":[{"plugin":"authentication_fido"}]}"#),
            "1045",
        ),
        ("no plugin", mysql_u(|row| row.plugin.clear()), "1045"),
        ("hash that is no text", mysql_u(|row| row.authentication_string.push(0xff)), "1045"),
    ];
    for (name, rows, expected) in cases {
        let snapshot = rows.build();
        let client = HostIdentity::without_name(ip("127.0.0.5"));
        let decision = explain(&snapshot, &request(&client, &client, None));
        assert_eq!(outcome(&decision.verdict), expected, "{name}: {:#?}", decision.steps);
    }
}

#[test]
fn an_account_of_mysql_may_have_a_second_password() {
    let client = HostIdentity::without_name(ip("127.0.0.5"));
    let both = Rows::of("8.0.36").attributes(
        r#"{"additional_password":"*OLD","Password_locking":{"failed_login_attempts":3,"password_lock_time_days":-1}}"#,
    );
    let both = both.build();
    let Found::Account(before) = both.find(b"u", &client) else { panic!("no account") };
    let strings: Vec<&str> = before.authentication.iter().map(|way| way.string.as_str()).collect();
    assert_eq!((strings, before.failed_login_limit), (vec![PASSWORD, "*OLD"], Some(3)));
    assert!(both.forbids_reuse(before).is_some());
    let one = mysql_u(|_| {}).build();
    assert_eq!(one.revocation(before), Some(Revocation::OtherPassword));
    let Found::Account(account) = one.find(b"u", &client) else { panic!("no account") };
    assert_eq!((both.revocation(account), account.failed_login_limit), (None, None));
    assert_eq!(
        mysql_u(|row| row.account_locked = true).build().revocation(account),
        Some(Revocation::Locked)
    );
    assert_eq!(Rows::of("8.0.36").build().revocation(account), Some(Revocation::Dropped));
}

#[test]
fn hosts_that_mysql_does_not_define_are_not_decided() {
    let client = HostIdentity::without_name(ip("10.1.2.3"));
    for (rows, expected) in [
        ("u@10.0.0.0/0", "undecidable"),
        ("u@0.0.0.0/0, u@10.1.2.3", "undecidable"),
        ("u@10.1.2.3%", "u@10.1.2.3%"),
        ("u@10.1.2.3%, u@%", "u@10.1.2.3%"),
        ("u@10.1.2.3%, ''@10.1.2.3", "undecidable"),
        ("u@10.1.2.3, u@10.1.2.03", "undecidable"),
        ("u@10.0.0.0/8, ''@10.0.0.0/8", "u@10.0.0.0/8"),
        ("u@10.0.0.0/33, u@%", "u@%"),
        ("u@10.0.0.0/8x, u@%", "u@%"),
    ] {
        let snapshot = Rows::of("9.1.0").users(rows).build();
        assert_eq!(found(&snapshot.find(b"u", &client)), expected, "{rows}");
    }
}

#[test]
fn logins_that_mysql_may_map_are_refused() {
    let client = HostIdentity::without_name(ip("127.0.0.5"));
    let verdict = |rows: Rows| outcome(&decide(&rows.build(), &request(&client, &client, None)).verdict);
    let on = |v: &mut ServerVariables| (v.check_proxy_users, v.native_proxy_users) = (true, true);
    let u = || mysql_u(|_| {});
    assert_eq!(verdict(u().proxy("u", "%", ("v", "%"))), "u@%");
    assert_eq!(verdict(u().proxy("u", "%", ("v", "%")).with(on)), "1045");
    assert_eq!(verdict(u().proxy("_", "%", ("v", "%")).with(on)), "1045");
    assert_eq!(verdict(u().proxy("w", "%", ("v", "%")).with(on)), "u@%");
    assert_eq!(verdict(Rows::of("8.0.36").user("", "%").proxy("u", "%", ("v", "%")).with(on)), "1045");
    assert_eq!(verdict(u().proxy("u", "%", ("v", "%")).with(|v| v.native_proxy_users = true)), "u@%");
}

#[test]
fn messages_of_mysql_are_its_own() {
    let snapshot = Rows::of("8.0.36").row("u", "10.%", |row| row.account_locked = true).build();
    let (near, far) =
        (HostIdentity::without_name(ip("10.0.0.5")), HostIdentity::without_name(ip("127.0.0.5")));
    let message = |request: LoginRequest<'_>| match decide(&snapshot, &request).verdict {
        Verdict::Refused(refusal) | Verdict::Candidate { then: Some(refusal), .. } => {
            format!("{} {} {}", refusal.code(), refusal.sqlstate(), refusal.client_message(&request))
        }
        Verdict::Candidate { .. } => "welcome".to_owned(),
    };
    assert_eq!(
        message(request(&near, &near, None)),
        "3118 HY000 Access denied for user 'u'@'10.0.0.5'. Account is locked."
    );
    assert_eq!(
        message(request(&far, &far, None)),
        "1130 HY000 Host '127.0.0.5' is not allowed to connect to this MySQL server"
    );
}

#[test]
fn every_part_of_a_row_of_mysql_is_in_the_digests() {
    let changes: [fn(&mut MySqlUserRow); 14] = [
        |_| {},
        |row| row.privileges.push(("Select_priv".to_owned(), true)),
        |row| row.plugin = "caching_sha2_password".to_owned(),
        |row| row.authentication_string = Zeroizing::new(b"x".to_vec()),
        |row| row.password_expired = true,
        |row| row.password_last_changed = Some(0),
        |row| row.password_lifetime = Some(0),
        |row| row.account_locked = true,
        |row| row.ssl_type = "x".to_owned(),
        |row| row.ssl_cipher = "x".to_owned(),
        |row| row.x509_issuer = "x".to_owned(),
        |row| row.x509_subject = "x".to_owned(),
        |row| row.max_updates = 1,
        |row| row.user_attributes = Some(Zeroizing::default()),
    ];
    let mut all: Vec<Rows> = changes.into_iter().map(mysql_u).collect();
    let u = || mysql_u(|_| {});
    all.extend([u().edge("r@%", "u@%"), u().edge("u@%", "r@%"), u().default_role(("u", "%"), ("r", "%"))]);
    all.push(u().with(|v| v.mandatory_roles = "r".to_owned()));
    all.push(u().with(|v| v.activate_mandatory_roles = true));
    all.push(u().with(|v| v.compares_as_openssl = false));
    all.push(u().with(|v| v.partial_revokes = true));
    all.push(u().with(|v| v.ssl_crl = true));
    let mut granted = u();
    let (user, host, privilege) = ("u".to_owned(), "%".to_owned(), "CONNECTION_ADMIN".to_owned());
    granted.0.global_grants.push(GlobalGrantRow { user, host, privilege, grant_option: false });
    all.push(granted);
    let digests: std::collections::BTreeSet<_> =
        all.iter().map(|rows| rows.clone().build().digest()).collect();
    assert_eq!(digests.len(), all.len());
    let printed = format!("{:?}", all[0].0);
    assert!(!printed.contains(&PASSWORD[1..9]), "{printed}");
}

#[test]
fn rows_of_mysql_that_differ_by_host_are_refused() {
    let (client, proxy) =
        (HostIdentity::without_name(ip("10.1.4.4")), HostIdentity::without_name(ip("10.0.0.9")));
    let u = || mysql_u(|_| {});
    for (rows, same) in [
        (u(), true),
        (u().user("u", ""), true),
        (u().user("r", "10.0.0.9").edge("r@10.0.0.9", "u@%"), true),
        (u().user("u", "10.0.0.0/24"), false),
        (u().user("", "10.0.0.9"), false),
        (u().table("u", "10.0.0.9", "hr", 64, 0), false),
        (u().proxy("_", "10.0.0.9", ("v", "")), false),
        (u().user("u", "10.0.0.0/0"), false),
    ] {
        let snapshot = rows.build();
        let outcome = snapshot.same_rows(b"u", &client, &proxy);
        assert_eq!(outcome == MaskedHost::Same, same, "{outcome:?}");
    }
}

/// The limits of `u@%` with these in its row.
fn limits(rows: Rows) -> Option<AccountLimits> {
    let snapshot = rows.build();
    let client = HostIdentity::without_name(ip("127.0.0.5"));
    let Found::Account(account) = snapshot.find(b"u", &client) else { panic!("no account") };
    snapshot.limits(account)
}

#[test]
fn limits_on_connections_are_those_of_the_account_or_of_the_server() {
    let none = AccountLimits::default();
    let of_server = |limit| Some(AccountLimits { of_server: Some(limit), ..none });
    let of_account = |limit| Some(AccountLimits { of_account: Some(limit), ..none });
    let row = |json: &str| Rows::new().json("u", "%", json).with(|v| v.max_user_connections = 3);
    assert_eq!(limits(Rows::new().json("u", "%", "{}")), None);
    let statements = AccountLimits { queries: Some(5), updates: Some(2), ..none };
    let row_of_statements = r#"{"max_questions":5,"max_updates":2}"#;
    assert_eq!(limits(Rows::new().json("u", "%", row_of_statements)), Some(statements));
    assert!(statements.limit_statements() && !none.limit_statements());
    assert_eq!(limits(row("{}")), of_server(3));
    assert_eq!(limits(row(r#"{"max_user_connections":7}"#)), of_account(7));
    assert_eq!(limits(row(r#"{"max_user_connections":-1}"#)), of_account(-1));
    let both = AccountLimits { of_server: Some(3), per_hour: Some(9), ..none };
    assert_eq!(limits(row(r#"{"max_connections":9}"#)), Some(both));
    // CONNECTION ADMIN, SUPER.
    for (access, before_11, from_11) in
        [(1_u64 << 32, None, None), (1 << 15, None, of_server(3)), (1 << 14, of_server(3), of_server(3))]
    {
        let json = format!(r#"{{"access":{access},"version_id":101119}}"#);
        assert_eq!(limits(row(&json)), before_11, "{json}");
        let newer = row(&json).with(|v| v.version = "11.4.2-MariaDB".to_owned());
        assert_eq!(limits(newer), from_11, "{json}");
    }
    let privileged = r#"{"access":18446744073709551615,"max_user_connections":-1}"#;
    assert_eq!(limits(row(privileged)), of_account(-1), "no privilege helps against the account's own");
    let administrator = |row: &mut MySqlUserRow| row.privileges.push(("Super_priv".to_owned(), true));
    assert_eq!(limits(mysql_u(administrator).with(|v| v.max_user_connections = 3)), of_server(3));
    assert_eq!(limits(mysql_u(|row| row.max_user_connections = 2)), of_account(2));
}

// === MariaDB 10.3 ===

fn old_u(change: impl FnOnce(&mut MariaDbUserRow)) -> Rows {
    Rows::of("10.3.39-MariaDB").old_row("u", "%", change)
}

#[test]
fn an_account_of_old_mariadb_has_one_plugin_and_its_hash() {
    let client = HostIdentity::without_name(ip("127.0.0.5"));
    let other = "*0123456789012345678901234567890123456789";
    let of = |password: &str, plugin: &str, string: &str| {
        let (password, string) = (Zeroizing::new(password.to_owned()), Zeroizing::new(string.to_owned()));
        let snapshot = old_u(|row| {
            (row.password, row.authentication_string) = (password, string);
            plugin.clone_into(&mut row.plugin);
        })
        .build();
        let Found::Account(account) = snapshot.find(b"u", &client) else { return "unreadable".to_owned() };
        let [way] = account.authentication.as_slice() else { panic!("{account:?}") };
        format!("{} {}", way.plugin, way.string.as_str())
    };
    let native = |hash| format!("mysql_native_password {hash}");
    assert_eq!(of(PASSWORD, "", ""), native(PASSWORD));
    assert_eq!(of("", "", ""), native(""));
    assert_eq!(of("", "", other), native(""), "authentication_string without a plugin");
    assert_eq!(of("0123456789abcdef", "", ""), "mysql_old_password 0123456789abcdef");
    assert_eq!(of(PASSWORD, "mysql_native_password", ""), native(PASSWORD));
    assert_eq!(of(PASSWORD, "MYSQL_Native_Password", other), native(other));
    assert_eq!(of("", "mysql_native_password", other), native(other));
    assert_eq!(of("", "mysql_native_password", ""), native(""));
    assert_eq!(of("", "ed25519", "key"), "ed25519 key");
    assert_eq!(of(PASSWORD, "unix_socket", ""), "unix_socket ");
    // The server would leave the first out, and let anybody in to the second.
    assert_eq!(of("x", "ed25519", "key"), "unreadable");
    assert_eq!(of("", "mysql_native_password", "invalid"), "unreadable");
    assert_eq!(of("", "ed25519", "k\0y"), "unreadable");
}

#[test]
fn the_state_of_an_account_of_old_mariadb_is_told() {
    let client = HostIdentity::without_name(ip("127.0.0.5"));
    let names = CertificateNames { subject: Ok(String::new()), issuer: Ok(String::new()) };
    let verdict = |rows: Rows, transport| {
        let snapshot = rows.with(|v| v.default_password_lifetime = 1).build();
        outcome(&decide(&snapshot, &LoginRequest { transport, ..request(&client, &client, None) }).verdict)
    };
    for (ssl_type, plain, tls, certificate) in [
        ("", "u@%", "u@%", "u@%"),
        ("ANY", "1045", "u@%", "u@%"),
        ("X509", "1045", "1045", "u@%"),
        // It asks for a certificate even where nothing in it is required.
        ("SPECIFIED", "1045", "1045", "u@%"),
    ] {
        let encrypted = |certificate| Transport::Tls { cipher: None, certificate };
        let rows = || old_u(|row| ssl_type.clone_into(&mut row.ssl_type));
        assert_eq!(verdict(rows(), Transport::Plain), plain, "{ssl_type}");
        assert_eq!(verdict(rows(), encrypted(None)), tls, "{ssl_type}");
        assert_eq!(verdict(rows(), encrypted(Some(&names))), certificate, "{ssl_type}");
    }
    let limited = old_u(|row| {
        (row.max_user_connections, row.max_questions) = (-1, (1 << 32) + 2);
        (row.max_updates, row.max_connections) = (3, 4);
    })
    .build();
    let Found::Account(account) = limited.find(b"u", &client) else { panic!("no account") };
    let limits =
        Limits { user_connections: -1, connections_per_hour: 4, questions_per_hour: 2, updates_per_hour: 3 };
    assert_eq!(account.limits, limits);
    let plain = old_u(|_| {}).build();
    let Found::Account(account) = plain.find(b"u", &client) else { panic!("no account") };
    assert!(!account.locked && plain.forbids_reuse(account).is_some());
}

#[test]
fn the_default_database_is_judged_by_the_rules_of_old_mariadb() {
    let client = HostIdentity::without_name(ip("127.0.0.5"));
    let verdict =
        |rows: Rows, db| outcome(&decide(&rows.build(), &request(&client, &client, Some(db))).verdict);
    let yes = |column: &str| vec![(column.to_owned(), true), ("Delete_history_priv".to_owned(), false)];
    let role = |rows: Rows, name: &str, column: &str| {
        rows.old_row(name, "", |row| (row.is_role, row.privileges) = (true, yes(column)))
    };
    let with_role = |name: &str| old_u(|row| name.clone_into(&mut row.default_role)).granted(name, "u", "%");
    let select = "Select_priv";
    for (what, rows, expected) in [
        ("nothing", old_u(|_| {}), "1044"),
        ("global SELECT", old_u(|row| row.privileges = yes(select)), "u@%"),
        ("global SUPER", old_u(|row| row.privileges = yes("Super_priv")), "1044"),
        ("global GRANT", old_u(|row| row.privileges = yes("Grant_priv")), "u@%"),
        ("a row", old_u(|_| {}).db("u", "127.%", "ap_", select), "u@%"),
        ("a row of nobody", old_u(|_| {}).db("", "%", "app", select), "u@%"),
        ("another host", old_u(|_| {}).db("u", "10.%", "app", select), "1044"),
        (
            "the first row",
            old_u(|_| {}).db("u", "127.%", "app", "Reload_priv").db("u", "%", "app", select),
            "1044",
        ),
        // Both begin with a wildcard.
        ("no order", old_u(|_| {}).db("u", "%.5", "app", "Reload_priv").db("u", "%", "app", select), "1044"),
        ("by name", old_u(|_| {}).db("u", "%", "app", "Reload_priv").db("u", "%", "%", select), "1044"),
        (
            "no order by name",
            old_u(|_| {}).db("u", "%", "%pp", "Reload_priv").db("u", "%", "%", select),
            "1044",
        ),
        ("a role", role(with_role("r"), "r", select), "u@%"),
        ("a role's row", role(with_role("r"), "r", "Super_priv").db("r", "", "app", select), "u@%"),
        ("no such role", with_role("r").db("r", "", "app", select), "1044"),
        ("PUBLIC", role(with_role("public"), "public", select), "1044"),
        ("NONE", role(with_role("NONE"), "NONE", select), "1044"),
    ] {
        assert_eq!(verdict(rows, "app"), expected, "{what}");
    }
    let deletes = |columns: &[(&str, bool)]| {
        let columns = columns.iter().map(|(name, yes)| ((*name).to_owned(), *yes)).collect();
        let snapshot = old_u(|row| row.privileges = columns).build();
        let Found::Account(account) = snapshot.find(b"u", &client) else { panic!("no account") };
        account.access
    };
    assert_eq!(deletes(&[("Delete_priv", true), ("Delete_history_priv", false)]), 1 << 3);
    assert_eq!(deletes(&[("Delete_priv", true)]), 1 << 3 | 1 << 29);
    assert_eq!(deletes(&[("Delete_priv", false)]), 0);
    assert_eq!(deletes(&[("Delete_history_priv", true)]), 1 << 29);
}

#[test]
fn old_mariadb_takes_users_of_proxies_for_patterns() {
    let client = HostIdentity::without_name(ip("127.0.0.5"));
    let of = |version: &str, user: &str| {
        let rows = Rows::of(version).proxy(user, "%", ("v", "%"));
        let rows = if version.starts_with("10.3") {
            rows.old_row("u", "%", |row| "pam".clone_into(&mut row.plugin))
        } else {
            rows.json("u", "%", "{\"plugin\":\"pam\"}")
        };
        let plugins = &["pam"];
        outcome(&decide(&rows.build(), &LoginRequest { plugins, ..request(&client, &client, None) }).verdict)
    };
    assert_eq!(
        (of("10.3.39-MariaDB", "_"), of("10.11.19-MariaDB", "_")),
        ("1045".to_owned(), "u@%".to_owned())
    );
    assert_eq!(
        (of("10.3.39-MariaDB", "u"), of("10.3.39-MariaDB", "w")),
        ("1045".to_owned(), "u@%".to_owned())
    );
}

#[test]
fn every_part_of_a_row_of_old_mariadb_is_in_the_digests() {
    let changes: [fn(&mut MariaDbUserRow); 15] = [
        |_| {},
        |row| row.privileges.push(("Select_priv".to_owned(), true)),
        |row| row.password = Zeroizing::default(),
        |row| row.plugin = "ed25519".to_owned(),
        |row| row.authentication_string = Zeroizing::new("x".to_owned()),
        |row| row.ssl_type = "x".to_owned(),
        |row| row.ssl_cipher = "x".to_owned(),
        |row| row.x509_issuer = "x".to_owned(),
        |row| row.x509_subject = "x".to_owned(),
        |row| row.max_questions = 1,
        |row| row.max_updates = 1,
        |row| row.max_connections = 1,
        |row| row.max_user_connections = 1,
        |row| row.is_role = true,
        |row| row.default_role = "x".to_owned(),
    ];
    let digests: std::collections::BTreeSet<_> =
        changes.into_iter().map(|change| old_u(change).build().digest()).collect();
    assert_eq!(digests.len(), changes.len());
    let printed = format!("{:?}", old_u(|_| {}).0);
    assert!(!printed.contains(&PASSWORD[1..9]), "{printed}");
}

#[test]
fn limits_are_exceeded_in_the_order_and_words_of_the_server() {
    let limits = AccountLimits { of_server: Some(2), per_hour: Some(2), ..AccountLimits::default() };
    assert_eq!(limits.exceeded(1, 1), None);
    assert_eq!(limits.exceeded(2, 2), Some(OverLimit::Server(2)));
    assert_eq!(limits.exceeded(1, 2), Some(OverLimit::PerHour(2)));
    let limits = AccountLimits { of_account: Some(-1), per_hour: Some(2), ..AccountLimits::default() };
    assert_eq!(limits.exceeded(0, 2), Some(OverLimit::Account(-1)));
    assert_eq!(
        OverLimit::Account(-1).client_message("", Vendor::MariaDb),
        "User '' has exceeded the 'max_user_connections' resource (current value: -1)"
    );
    for (over, vendor, resource) in [
        (OverLimit::Queries(3), Vendor::MariaDb, "max_queries_per_hour"),
        (OverLimit::Updates(3), Vendor::MariaDb, "max_updates_per_hour"),
        (OverLimit::Queries(3), Vendor::MySql, "max_questions"),
        (OverLimit::Updates(3), Vendor::MySql, "max_updates"),
    ] {
        let said = format!("User 'u' has exceeded the '{resource}' resource (current value: 3)");
        assert_eq!((over.client_message("u", vendor), over.code()), (said, 1226));
    }
    assert_eq!(OverLimit::Server(-1).code(), 1203);
}

#[test]
fn only_links_of_accounts_that_nobody_counts_are_used_again() {
    let forbidden = |rows: Rows| {
        let snapshot = rows.build();
        let client = HostIdentity::without_name(ip("127.0.0.5"));
        let Found::Account(account) = snapshot.find(b"u", &client) else { panic!("no account") };
        snapshot.forbids_reuse(account).is_some()
    };
    let row = |json: &str| Rows::new().json("u", "%", json);
    let limited = |json: &str| row(json).with(|v| v.max_user_connections = -1);
    assert!(!forbidden(row("{}")));
    assert!(forbidden(limited("{}")));
    assert!(!forbidden(limited(r#"{"access":4294967296,"version_id":101119}"#)));
    for name in ["max_questions", "max_updates", "max_connections", "max_user_connections"] {
        assert!(forbidden(row(&format!(r#"{{"{name}":1}}"#))), "{name}");
    }
    // The question that a used link answers comes first, but for those that ask the system.
    let ways = |plugins: &[&str]| {
        let ways: Vec<_> = plugins.iter().map(|plugin| format!(r#"{{"plugin":"{plugin}"}}"#)).collect();
        row(&format!(r#"{{"auth_or":[{}]}}"#, ways.join(",")))
    };
    let native = "mysql_native_password";
    assert!(!forbidden(ways(&["unix_socket", native, "ed25519"])));
    assert!(!forbidden(ways(&[native, "unix_socket"])));
    assert!(forbidden(ways(&["unix_socket", "ed25519", native])));
    assert!(forbidden(ways(&["ed25519"])));
    assert!(forbidden(ways(&["unix_socket"])));
}

#[test]
fn a_node_sees_no_uid() {
    let refusal = |plugins: &[&str]| Refusal::UnsupportedPlugin {
        plugins: plugins.iter().map(|&plugin| plugin.to_owned()).collect(),
    };
    let client = HostIdentity::without_name(ip("127.0.0.5"));
    let request = LoginRequest {
        user: b"u",
        client: &client,
        proxy: &client,
        database: None,
        using_password: true,
        transport: Transport::Plain,
        can_handle_expired_passwords: false,
        now: UNIX_EPOCH,
        plugins: PLUGINS,
    };
    let denied = "Access denied for user 'u'@'127.0.0.5'";
    for plugins in [&["unix_socket"][..], &["auth_socket"], &["pam", "unix_socket"]] {
        let refusal = refusal(plugins);
        assert_eq!((refusal.code(), refusal.sqlstate()), (1698, "28000"), "{plugins:?}");
        assert_eq!(refusal.client_message(&request), denied, "{plugins:?}");
        assert!(refusal.to_string().contains("a node is reached by TCP and sees no uid"), "{refusal}");
    }
    let other = refusal(&["unix_socket", "pam"]);
    assert_eq!(
        (other.code(), other.client_message(&request)),
        (1045, format!("{denied} (using password: YES)"))
    );
    assert!(!refusal(&["pam"]).to_string().contains("uid"));
}

#[test]
fn what_the_server_asks_first_must_have_an_answer() {
    let client = HostIdentity::without_name(ip("127.0.0.5"));
    let is_refused = |plugins: &[&str]| {
        let ways: Vec<_> = plugins.iter().map(|plugin| format!(r#"{{"plugin":"{plugin}"}}"#)).collect();
        let snapshot = Rows::new().json("u", "%", &format!(r#"{{"auth_or":[{}]}}"#, ways.join(","))).build();
        let request = LoginRequest {
            user: b"u",
            client: &client,
            proxy: &client,
            database: None,
            using_password: true,
            transport: Transport::Plain,
            can_handle_expired_passwords: false,
            now: UNIX_EPOCH,
            plugins: PLUGINS,
        };
        matches!(decide(&snapshot, &request).verdict, Verdict::Refused(Refusal::UnsupportedPlugin { .. }))
    };
    let native = "mysql_native_password";
    for plugins in [&["pam"][..], &["pam", native], &["unix_socket", "pam", native], &["pam", "ed25519"]] {
        assert!(is_refused(plugins), "{plugins:?}");
    }
    for plugins in [&[native, "pam"][..], &["unix_socket", native, "pam"], &["ed25519", native]] {
        assert!(!is_refused(plugins), "{plugins:?}");
    }
}

/// Pieces of hosts that collide often.
fn hosts() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("%".to_owned()),
        Just("localhost".to_owned()),
        Just(String::new()),
        "127\\.0\\.[01]\\.[3-5]",
        "127\\.0\\.[01]\\.[%_]",
        "(127|1%|%)\\.[0%]\\.[0%_]\\.[3-5%_]",
        "127\\.0\\.0\\.[0-9]/255\\.255\\.(0|255)\\.(0|252|1)",
        "[a-c%_]{1,3}\\.test",
        "[%_\\\\12.]{0,6}",
    ]
}

fn accounts() -> impl Strategy<Value = Vec<(String, String)>> {
    prop::collection::vec(
        (prop::sample::select(vec!["u", "", "U", "v"]).prop_map(str::to_owned), hosts()),
        0..8,
    )
}

fn identities() -> impl Strategy<Value = HostIdentity> {
    let address = "127\\.0\\.[01]\\.[1-6]".prop_map(|text| ip(&text));
    prop_oneof![
        address.clone().prop_map(HostIdentity::without_name),
        (address.clone(), "[a-c]{1,3}\\.test").prop_map(|(ip, name)| HostIdentity::with_name(ip, name)),
        address.prop_map(HostIdentity::with_unknown_name),
        Just(HostIdentity::socket()),
    ]
}

fn snapshot_of(accounts: &[(String, String)]) -> Snapshot {
    accounts.iter().fold(Rows::new(), |rows, (user, host)| rows.user(user, host)).build()
}

/// The server's algorithm without any index: of all rows that match, the one with the least key.
fn naive<'s>(snapshot: &'s Snapshot, user: &str, client: &HostIdentity) -> Option<&'s Account> {
    let fitting = snapshot.accounts().filter(|a| a.user == user || a.user.is_empty());
    let matching = fitting.filter(|a| a.pattern.matches(client) == Match::Yes);
    matching.min_by(|a, b| {
        let key = |x: &Account| (x.rank, x.user.is_empty() && !user.is_empty());
        key(a).cmp(&key(b)).then_with(|| b.host.cmp(&a.host))
    })
}

/// Wildcards as the definition has them, without care for time.
fn naive_match(pattern: &[u8], text: &[u8]) -> bool {
    match pattern {
        [] => text.is_empty(),
        [b'%', rest @ ..] => (0..=text.len()).any(|n| naive_match(rest, &text[n..])),
        [b'_', rest @ ..] => !text.is_empty() && naive_match(rest, &text[1..]),
        [b'\\', literal, rest @ ..] | [literal, rest @ ..] => {
            text.first() == Some(literal) && naive_match(rest, &text[1..])
        }
    }
}

proptest! {
    #[test]
    fn the_choice_is_that_of_the_naive_algorithm(accounts in accounts(), client in identities()) {
        let snapshot = snapshot_of(&accounts);
        for user in ["u", "v", ""] {
            let expected = naive(&snapshot, user, &client).map(|account| &account.label);
            match snapshot.find(user.as_bytes(), &client) {
                Found::Account(account) => prop_assert_eq!(Some(&account.label), expected),
                Found::Unknown => prop_assert_eq!(None, expected),
                Found::Undecidable { .. } => prop_assert!(client.name_is_unknown()),
                Found::BadName { reason } => prop_assert!(false, "{}", reason),
            }
        }
    }

    /// Law 1: what is decided without knowing the name holds for every name that the server may find.
    #[test]
    fn a_choice_without_the_name_holds_for_every_name(
        accounts in accounts(),
        last in 2u8..6,
        name in prop_oneof!["[a-c]{1,3}\\.test", "[a-c1]?[a-c][a-c.-]{1,3}"],
        database in prop::sample::select(vec!["app", "hr"]),
    ) {
        let rows = accounts.iter().fold(Rows::new(), |rows, (user, host)| {
            rows.user(user, host).db(user, host, if host.len() % 2 == 0 { "app" } else { "a%" }, "Select_priv")
        });
        let snapshot = rows.build();
        let address = IpAddr::from([127, 0, 0, last]);
        let unknown = HostIdentity::with_unknown_name(address);
        for actual in [HostIdentity::with_name(address, name), HostIdentity::without_name(address)] {
            match snapshot.find(b"u", &unknown) {
                Found::Undecidable { .. } => {}
                decided => prop_assert_eq!(found(&decided), found(&snapshot.find(b"u", &actual))),
            }
            let request = |client| LoginRequest { database: Some(database), ..request(client, client, None) };
            if let Verdict::Candidate { account, then: None, .. } = decide(&snapshot, &request(&unknown)).verdict {
                let direct = decide(&snapshot, &request(&actual)).verdict;
                prop_assert_eq!(outcome(&direct), account.current_user());
            }
            let other = HostIdentity::without_name(ip("127.0.0.9"));
            if snapshot.same_rows(b"u", &unknown, &other) == MaskedHost::Same {
                prop_assert_eq!(snapshot.same_rows(b"u", &actual, &other), MaskedHost::Same);
            }
        }
    }

    #[test]
    fn the_same_host_has_the_same_rows(accounts in accounts(), client in identities()) {
        let snapshot = snapshot_of(&accounts);
        prop_assert_eq!(snapshot.same_rows(b"u", &client, &client.clone()), MaskedHost::Same);
    }

    /// The rule for masked hosts is sound: same rows, same choice.
    #[test]
    fn same_rows_mean_the_same_account(accounts in accounts(), client in identities(), proxy in identities()) {
        prop_assume!(!client.is_same_peer(&proxy));
        let snapshot = snapshot_of(&accounts);
        if snapshot.same_rows(b"u", &client, &proxy) == MaskedHost::Same {
            prop_assert_eq!(found(&snapshot.find(b"u", &client)), found(&snapshot.find(b"u", &proxy)));
        }
    }

    #[test]
    fn nothing_depends_on_the_order_of_rows(accounts in accounts(), seed in any::<u64>(), client in identities()) {
        let mut unique = accounts;
        unique.sort();
        unique.dedup();
        let mut shuffled = unique.clone();
        let mut state = seed | 1;
        for i in (1..shuffled.len()).rev() {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            shuffled.swap(i, (state >> 33) as usize % (i + 1));
        }
        let (a, b) = (snapshot_of(&unique), snapshot_of(&shuffled));
        prop_assert_eq!(a.digest(), b.digest());
        prop_assert_eq!(found(&a.find(b"u", &client)), found(&b.find(b"u", &client)));
        if let Some(first) = unique.first() {
            let without = snapshot_of(&unique[1..]);
            prop_assert_ne!(a.digest(), without.digest(), "without {:?}", first);
        }
    }

    #[test]
    fn patterns_match_as_defined(pattern in "[ab%_\\\\]{0,7}", text in "[ab%_\\\\]{0,7}") {
        let rows = Rows::new().user("u", "%").db("u", "%", &pattern, "Select_priv").build();
        let client = HostIdentity::without_name(ip("127.0.0.5"));
        let Found::Account(account) = rows.find(b"u", &client) else { panic!("no account") };
        prop_assume!(!text.is_empty());
        let allowed = matches!(rows.database_access(account, &client, &text), DatabaseAccess::Allowed { .. });
        prop_assert_eq!(allowed, !pattern.is_empty() && naive_match(pattern.as_bytes(), text.as_bytes()));
    }

    #[test]
    fn arbitrary_rows_and_logins_do_no_harm(
        host in any::<String>(),
        user in any::<String>(),
        json in any::<String>(),
        login in prop::collection::vec(any::<u8>(), 0..40),
        address in any::<IpAddr>(),
        database in any::<String>(),
    ) {
        let mut rows = Rows::new().json(&user, &host, &json).user(&user, &host).db(&user, &host, &database, "x_priv");
        rows.0.roles.push(RoleMappingRow { host: host.clone(), user: user.clone(), role: user.clone(), admin: true });
        let snapshot = rows.table(&user, &host, &database, 1, 1).proxy(&user, &host, (&user, &host)).build();
        let client = snapshot.host_identity(address, &HostName::Unknown);
        for login in [login.as_slice(), user.as_bytes()] {
            let request = LoginRequest { user: login, ..request(&client, &client, Some(&database)) };
            let with = explain(&snapshot, &request);
            let without = decide(&snapshot, &request);
            prop_assert_eq!(outcome(&with.verdict), outcome(&without.verdict));
            prop_assert!(!with.steps.is_empty() && without.steps.is_empty());
        }
    }

    #[test]
    fn arbitrary_json_is_read_without_harm(
        keys in prop::collection::vec((
            prop::sample::select(vec!["access", "version_id", "auth_or", "plugin", "is_role", "account_locked",
                "password_last_changed", "password_lifetime", "ssl_type", "default_role", "max_user_connections"]),
            prop::sample::select(vec!["0", "-1", "18446744073709551615", "99999999999999999999", "1.5", "true", "null",
                "\"x\"", "[]", "[{}]", "[{\"plugin\":\"ed25519\"},{}]", "{}", "-9223372036854775808"]),
        ), 0..8),
    ) {
        let members: Vec<_> = keys.iter().map(|(key, value)| format!("\"{key}\":{value}")).collect();
        let snapshot = Rows::new().json("u", "%", &format!("{{{}}}", members.join(","))).build();
        let client = HostIdentity::without_name(ip("127.0.0.5"));
        let decision = decide(&snapshot, &request(&client, &client, Some("app")));
        if let Verdict::Candidate { account, .. } = &decision.verdict {
            prop_assert!(account.unreadable.is_none() && !account.authentication.is_empty());
        }
    }
}

#[test]
fn snapshots_are_shared_between_threads() {
    fn shared<T: Send + Sync + 'static>(_: &T) {}
    let snapshot = Arc::new(Rows::new().user("u", "%").build());
    shared(&snapshot);
    assert!(snapshot.loaded_at() <= SystemTime::now());
}

// === names that a resolver found ===

#[test]
fn a_name_that_was_found_decides() {
    let rows = || Rows::new().user("u", "%").user("u", "web1.corp.example").user("v", "%.corp.example");
    let snapshot = rows().build();
    let address = ip("10.1.2.3");
    let host = |name| snapshot.host_identity(address, &name);
    let named = |name: &str| host(HostName::Known(name.to_owned()));
    for (user, client, expected) in [
        ("u", host(HostName::Unknown), "undecidable"),
        ("u", host(HostName::Absent), "u@%"),
        ("u", named("WEB1.corp.Example"), "u@web1.corp.example"),
        ("u", named("web2.corp.example"), "u@%"),
        ("v", host(HostName::Unknown), "undecidable"),
        ("v", host(HostName::Absent), "none"),
        ("v", named("web2.corp.example"), "v@%.corp.example"),
        ("v", named("web2.other.example"), "none"),
    ] {
        assert_eq!(found(&snapshot.find(user.as_bytes(), &client)), expected, "{user} {client:?}");
    }
    // Loopback has its name, and without name resolving nobody has one.
    let found_name = HostName::Known("web1.corp.example".to_owned());
    assert_eq!(snapshot.host_identity(ip("127.0.0.1"), &found_name).host_or_ip(), "localhost");
    let without = rows().without_names().build();
    assert_eq!(without.host_identity(address, &found_name), HostIdentity::without_name(address));
}

#[test]
fn what_servers_make_of_a_long_name_is_not_known() {
    let name = |length: usize| HostName::Known("a".repeat(length));
    for (version, longest) in
        [("10.5.9-MariaDB", 60), ("10.6.0-MariaDB", 255), ("8.0.16", 60), ("8.0.17", 255)]
    {
        let snapshot = Rows::of(version).user("u", "%").build();
        let client = |length| snapshot.host_identity(ip("10.1.2.3"), &name(length));
        assert!(client(longest).name().is_some(), "{version}");
        assert!(client(longest + 1).name_is_unknown(), "{version}");
    }
}

#[test]
fn names_matter_only_where_a_row_could_match_one() {
    let depends = |rows: Rows, address: &str| rows.build().depends_on_name(b"u", ip(address));
    let far = "10.1.2.3";
    for host in ["%", "10.%", "10.1.2.3", "10.0.0.0/255.0.0.0", "localhost", "192.168.%", "2001:db8::%"] {
        assert!(!depends(Rows::new().user("u", host), far), "{host}");
    }
    for host in ["web1", "%.corp.example", "web_.corp.example", "%b%"] {
        assert!(depends(Rows::new().user("u", host), far), "{host}");
        assert!(depends(Rows::new().user("u", "%").user("", host), far), "anonymous {host}");
        assert!(!depends(Rows::new().user("u", "%").user("v", host), far), "somebody else's {host}");
        assert!(!depends(Rows::new().user("u", host), "127.0.0.1"), "loopback, {host}");
        let dropped = Rows::new().user("u", host).without_names();
        assert!(!depends(dropped, far), "{host} without name resolving");
        assert!(depends(Rows::new().user("u", "%").table("u", host, "data", 1, 1), far), "table row {host}");
        assert!(depends(Rows::new().user("u", "%").proxy("u", "%", ("v", host)), far), "proxied {host}");
    }
}

// === the subset rule ===

impl Rows {
    /// A row of `mysql.db` with several privileges.
    fn db_with(mut self, user: &str, host: &str, db: &str, columns: &[&str]) -> Self {
        let privileges = columns.iter().map(|column| ((*column).to_owned(), true)).collect();
        self.0.db.push(DbRow { host: host.to_owned(), user: user.to_owned(), db: db.to_owned(), privileges });
        self
    }

    /// A row of `mysql.tables_priv` with what its columns have.
    fn table_with(
        mut self,
        user: &str,
        host: &str,
        name: (&str, &str),
        set: u64,
        columns: &[(&str, u64)],
    ) -> Self {
        let (host, db, user, table) =
            (host.to_owned(), name.0.to_owned(), user.to_owned(), name.1.to_owned());
        for (column, privileges) in columns {
            self.0.columns.push(ColumnRow {
                host: host.clone(),
                db: db.clone(),
                user: user.clone(),
                table: table.clone(),
                column: (*column).to_owned(),
                privileges: *privileges,
            });
        }
        let column_privileges = columns.iter().fold(0, |all, (_, set)| all | set);
        self.0.tables.push(TableRow { host, db, user, table, table_privileges: set, column_privileges });
        self
    }
}

/// The first address of each pair is the client's.
const CLIENT_ADDRESS: &str = "10.1.4.4";
const PROXY_ADDRESS: &str = "10.0.0.9";
/// A network that both addresses are of, whose rows come before those with wildcards.
const BOTH: &str = "10.0.0.0/255.0.0.0";

/// `same`, `narrower`, or what may be gained, or `differs` where that was not compared.
fn guarded(rows: Rows, user: &str) -> String {
    let address = |text| HostIdentity::without_name(ip(text));
    match rows.build().guard(user.as_bytes(), &address(CLIENT_ADDRESS), &address(PROXY_ADDRESS)) {
        MaskedHost::Same => "same".to_owned(),
        MaskedHost::Narrower => "narrower".to_owned(),
        MaskedHost::Differs(difference) => {
            let text = difference.to_string();
            assert!(text.starts_with("grants differ by host: "), "{text}");
            difference.gain.map_or_else(|| "differs".to_owned(), |gain| gain.to_string())
        }
    }
}

/// Ways by which a client would get the rights of the proxy's host.
#[test]
fn escalations_by_the_masked_host_stay_refused() {
    let (all, select) = (r#""access":18446744073709551615,"#, "Select_priv");
    for (name, user, rows, expected) in [
        ("E1", "u", Rows::new().user("u", "10.1.%").user_with("u", PROXY_ADDRESS, all), "differs"),
        (
            "E2",
            "u",
            Rows::new().user_with("u", "%", r#""account_locked":true,"#).user("u", "10.0.0.%"),
            "differs",
        ),
        ("E3", "u", Rows::new().user_with("u", "%", r#""ssl_type":2,"#).user("u", PROXY_ADDRESS), "differs"),
        ("E4", "admin", Rows::new().user("admin", PROXY_ADDRESS), "differs"),
        (
            "E5",
            "app",
            Rows::new()
                .users("app@10.1.%, app@10.0.0.%")
                .db("app", "10.1.%", "app", select)
                .db("app", "10.0.0.%", "hr", select),
            "differs",
        ),
        ("E6", "anybody", Rows::new().user("", PROXY_ADDRESS), "differs"),
        (
            "E7",
            "u",
            Rows::new().user("u", "%").db("u", "10.0.0.%", "hr", select),
            "SELECT by db row 'u'@'10.0.0.%' on `hr`",
        ),
        (
            "E8",
            "u",
            Rows::new()
                .user_with("u", "%", r#""default_role":"dba","#)
                .user("u", "10.0.0.%")
                .role("dba")
                .granted("dba", "u", "10.0.0.%"),
            "differs",
        ),
        (
            "E8, with an account for both",
            "u",
            Rows::new()
                .user_with("u", BOTH, r#""default_role":"dba","#)
                .user("u", "10.0.0.%")
                .role("dba")
                .granted("dba", "u", "10.0.0.%"),
            "differs",
        ),
        // Two accounts that say the same are two accounts: CURRENT_USER() and what is made by it differ.
        ("case 129", "u", Rows::new().users("u@10.1.4.4, u@10.0.0.9"), "differs"),
    ] {
        assert_eq!(guarded(rows, user), expected, "{name}");
    }
}

#[test]
fn fewer_privileges_are_let_in_and_more_are_not() {
    let (select, insert) = ("Select_priv", "Insert_priv");
    let u = || Rows::new().user("u", BOTH);
    let base = |columns: &[&str]| u().db_with("u", BOTH, "app", columns);
    let named = |privilege: &str, row: &str| format!("{privilege} by {row}");
    let cases: Vec<(&str, Rows, String)> = vec![
        ("another account behind the chosen one", u().user("u", "10.0.0.%"), "narrower".into()),
        ("a lost database", u().db("u", "10.1.%", "app", select), "narrower".into()),
        ("a lost row of nobody", u().db("", "10.1.%", "app", select), "narrower".into()),
        (
            "a gained row of nobody",
            u().db("", "10.0.0.%", "app", select),
            named("SELECT", "db row ''@'10.0.0.%' on `app`"),
        ),
        // The client's first row decides alone, though the one behind it gives more.
        (
            "a lost row that stands before a broader one",
            u().db("u", "%", "app", insert).db("u", "10.1.%", "app", select),
            named("INSERT", "db row 'u'@'%' on `app`"),
        ),
        (
            "a lost row that stands before a lesser one",
            u().db("u", "%", "app", select).db_with("u", "10.1.%", "app", &[select, insert]),
            "narrower".into(),
        ),
        ("a lost row behind", base(&[select, insert]).db("u", "10.1.%", "app", select), "narrower".into()),
        (
            "a lost row for other names",
            u().db("u", "%", "app", insert).db("u", "10.1.%", "hr%", select),
            "narrower".into(),
        ),
        (
            "a lost row for some of the names",
            u().db("u", "%", "a%", insert).db("u", "10.1.%", "_pp", select),
            named("INSERT", "db row 'u'@'%' on `a%`"),
        ),
        ("gained, and had", base(&[select, insert]).db("u", "10.0.0.%", "app", insert), "narrower".into()),
        (
            "a gained row that never decides",
            base(&[select]).db_with("u", "10.0.0.%", "app", &[select, insert]),
            "narrower".into(),
        ),
        (
            "gained, and had in part",
            u().db("u", "%", "app", select).db_with("u", "10.0.0.%", "app", &[select, insert]),
            named("INSERT", "db row 'u'@'10.0.0.%' on `app`"),
        ),
        (
            "gained for names to come",
            base(&[select]).db("u", "10.0.0.%", "app%", select),
            named("SELECT", "db row 'u'@'10.0.0.%' on `app%`"),
        ),
        (
            "gained under a pattern that holds them",
            u().db("u", BOTH, "ap%", select).db("u", "10.0.0.%", "app_%", select),
            "narrower".into(),
        ),
        (
            "held by a pattern behind another row",
            u().db("u", "10.%", "app", insert).db("u", "%", "%", select).db("u", "10.0.0.%", "app", select),
            named("SELECT", "db row 'u'@'10.0.0.%' on `app`"),
        ),
        (
            "in every database",
            Rows::new()
                .user_with("u", BOTH, r#""access":1,"version_id":101119,"#)
                .db("u", "10.0.0.%", "hr", select)
                .table("u", "10.0.0.%", "hr", 1, 0),
            "narrower".into(),
        ),
        (
            "in every database but under a role",
            Rows::new()
                .user_with("u", BOTH, r#""access":1,"version_id":101119,"#)
                .user("u", "%")
                .role("r")
                .granted("r", "u", "%")
                .db("u", "10.0.0.%", "hr", select),
            named("SELECT", "db row 'u'@'10.0.0.%' on `hr`"),
        ),
        (
            "a column of mysql.db without a name",
            u().db("u", "%", "app", "Future_priv").db("u", "10.1.%", "app", "Future_priv"),
            named("a privilege without a name here", "db row 'u'@'%' on `app`"),
        ),
        ("a lost table", u().table("u", "10.1.%", "app", 1, 0), "narrower".into()),
        (
            "a gained table",
            u().table("u", "10.0.0.%", "app", 1, 0),
            named("SELECT", "tables_priv row 'u'@'10.0.0.%' on `app`.`t`"),
        ),
        (
            "a gained table of a database",
            base(&[select]).table("u", "10.0.0.%", "app", 1, 0),
            "narrower".into(),
        ),
        (
            "a lost table row, perhaps before a broader one",
            u().table("u", "%", "app", 2, 0).table("u", "10.1.%", "app", 1, 0),
            named("INSERT", "tables_priv row 'u'@'%' on `app`.`t`"),
        ),
        (
            "a lost table row that the server may take for the same table",
            u().table_with("u", "%", ("app", "t"), 2, &[]).table_with("u", "10.1.%", ("app", "T"), 1, &[]),
            named("INSERT", "tables_priv row 'u'@'%' on `app`.`t`"),
        ),
        (
            "a gained row for another table",
            u().table_with("u", "10.1.%", ("app", "T"), 1, &[]).table_with(
                "u",
                "10.0.0.%",
                ("app", "t"),
                1,
                &[],
            ),
            named("SELECT", "tables_priv row 'u'@'10.0.0.%' on `app`.`t`"),
        ),
        (
            "a gained table row, and had",
            u().table("u", BOTH, "app", 3, 0).table("u", "10.0.0.%", "app", 1, 0),
            "narrower".into(),
        ),
        (
            "a gained column",
            u().table_with("u", BOTH, ("app", "t"), 0, &[("c", 1)]).table_with(
                "u",
                "10.0.0.%",
                ("app", "t"),
                0,
                &[("d", 1)],
            ),
            named("SELECT", "tables_priv row 'u'@'10.0.0.%' on `app`.`t`"),
        ),
        (
            "a gained column of a table",
            u().table("u", BOTH, "app", 1, 0).table_with("u", "10.0.0.%", ("app", "t"), 0, &[("d", 1)]),
            "narrower".into(),
        ),
        (
            "a gained routine",
            u().routine("u", "10.0.0.%", "app"),
            named("EXECUTE", "procs_priv row 'u'@'10.0.0.%' on procedure `app`.`p`"),
        ),
        (
            "a gained routine of a database",
            base(&["Execute_priv"]).routine("u", "10.0.0.%", "app"),
            "narrower".into(),
        ),
        (
            "a gained table of a database that another row decides on",
            u().db("u", "10.%", "app", insert)
                .db("u", "%", "app", select)
                .table("u", "10.0.0.%", "app", 1, 0),
            named("SELECT", "tables_priv row 'u'@'10.0.0.%' on `app`.`t`"),
        ),
        (
            "a gained table of a database, before another row for it",
            base(&[select]).db("u", "%", "app", insert).table("u", "10.0.0.%", "app", 1, 0),
            "narrower".into(),
        ),
        (
            "a gained table of a database that either of two rows decides on",
            base(&[select])
                .db("u", "10.0.0.0/255.254.0.0", "app", insert)
                .table("u", "10.0.0.%", "app", 1, 0),
            named("SELECT", "tables_priv row 'u'@'10.0.0.%' on `app`.`t`"),
        ),
        (
            "what some column of a table is said to have",
            u().table("u", BOTH, "app", 0, 1)
                .column("u", BOTH, "app")
                .table("u", "10.0.0.%", "app", 0, 3)
                .column("u", "10.0.0.%", "app"),
            named("INSERT", "tables_priv row 'u'@'10.0.0.%' on `app`.`t`"),
        ),
        (
            "a lost mapping",
            u().db("u", "10.1.%", "app", select).proxy("u", "10.1.%", ("v", "%")),
            "differs".into(),
        ),
        ("a gained mapping", u().proxy("u", "10.0.0.%", ("v", "%")), "differs".into()),
        ("the account of somebody else", u().db("v", "10.0.0.%", "app", select), "same".into()),
        (
            "a name that is not known",
            u().db("u", "10.1.%", "app", select).db("u", "web%.test", "hr", select),
            "narrower".into(),
        ),
    ];
    for (name, rows, expected) in cases {
        assert_eq!(guarded(rows, "u"), expected, "{name}");
    }
    // Where the server resolves names, a row that may match one stands in the way.
    let rows = u().db("u", "10.1.%", "app", select).db("u", "web%.test", "hr", select).build();
    let host = |text| rows.host_identity(ip(text), &HostName::Unknown);
    let outcome = rows.guard(b"u", &host(CLIENT_ADDRESS), &host(PROXY_ADDRESS));
    assert!(matches!(outcome, MaskedHost::Differs(_)), "{outcome:?}");
}

#[test]
fn fewer_privileges_of_mysql_are_let_in_and_more_are_not() {
    let select = "Select_priv";
    let u = || Rows::of("8.0.36").user("u", BOTH);
    let with_select = |attributes: &str| {
        Rows::of("8.0.36").row("u", BOTH, |row| {
            row.privileges = vec![(select.to_owned(), true)];
            row.user_attributes = Some(Zeroizing::new(attributes.to_owned()));
        })
    };
    let gained = |rows: Rows| rows.db("u", "10.0.0.%", "hr", select);
    let gain = "SELECT by db row 'u'@'10.0.0.%' on `hr`";
    let revoked = r#"{"Restrictions":[{"Database":"app","Privileges":["SELECT"]}]}"#;
    for (name, rows, expected) in [
        ("lost", u().db("u", "10.1.%", "app", select), "narrower"),
        ("gained", gained(u()), gain),
        ("in every database", gained(with_select("{}")), "narrower"),
        ("revoked for some", gained(with_select(revoked)), gain),
        (
            "networks come first",
            u().db("u", "%", "app", select).db("u", "10.1.0.0/16", "app", "Drop_priv"),
            "SELECT by db row 'u'@'%' on `app`",
        ),
        (
            "patterns that are names",
            u().db("u", "10.1.%", "app", select).with(|v| v.partial_revokes = true),
            "narrower",
        ),
        (
            "patterns that may be names",
            u().db("u", "10.1.%", "a%", select).with(|v| v.partial_revokes = true),
            "differs",
        ),
        ("a host of unknown place", u().db("u", "10.1.4.4%", "app", select), "differs"),
        (
            "the right to grant",
            u().db("u", BOTH, "app", "Grant_priv").table("u", "10.0.0.%", "app", 64, 0),
            "narrower",
        ),
    ] {
        assert_eq!(guarded(rows, "u"), expected, "{name}");
    }
}

#[test]
fn too_many_rows_are_not_compared() {
    let mut rows = Rows::new().user("u", BOTH);
    for n in 0..400 {
        rows = rows.db("u", "10.1.%", &format!("db{n}"), "Select_priv");
    }
    assert_eq!(guarded(rows.clone(), "u"), "narrower");
    for n in 0..400 {
        rows = rows.db("u", "%", &format!("of{n}"), "Select_priv");
    }
    assert_eq!(guarded(rows, "u"), "differs");
}

#[test]
fn what_is_lost_is_told() {
    let rows = Rows::new()
        .users("u@10.0.0.0/255.0.0.0, u@10.1.%")
        .db("u", BOTH, "hr", "Select_priv")
        .db("u", "10.1.%", "app", "Select_priv")
        .db("", "10.0.0.%", "hr", "Select_priv")
        .table("u", "10.1.%", "hr", 1, 0);
    let snapshot = rows.clone().build();
    let address = |text| HostIdentity::without_name(ip(text));
    let (client, proxy) = (address(CLIENT_ADDRESS), address(PROXY_ADDRESS));
    let apart = snapshot.rows_apart(b"u", &client, &proxy).to_string();
    assert_eq!(
        apart,
        "lost: db row 'u'@'10.1.%' on `app`, tables_priv row 'u'@'10.1.%' on `hr`.`t`; for the proxy's address alone: \
         db row ''@'10.0.0.%' on `hr`"
    );
    let decision = explain(&snapshot, &request(&client, &proxy, Some("hr")));
    assert_eq!(outcome(&decision.verdict), "u@10.0.0.0/255.0.0.0");
    let told =
        |text: &str| decision.steps.iter().any(|step| step.stage == "proxy host" && step.text.contains(text));
    assert!(told("subset rule") && told(&apart), "{:#?}", decision.steps);
    let Verdict::Candidate { then: Some(refusal), .. } =
        decide(&snapshot, &request(&client, &proxy, Some("app"))).verdict
    else {
        panic!("let in")
    };
    assert_eq!(refusal.to_string(), "no privilege on database `app` from the proxy's address");
    assert!(refusal.is_stricter() && refusal.is_of_database() && refusal.code() == 1044);
    // Whether there is one at all is asked only by whom it would be open to.
    let missing = rows.db("u", "10.1.%", "gone", "Select_priv").db("u", BOTH, "none", "Select_priv").build();
    for (database, code) in [("gone", 1044), ("none", 1049)] {
        let request = request(&client, &proxy, Some(database));
        for verdict in [explain(&missing, &request).verdict, decide(&missing, &request).verdict] {
            let Verdict::Candidate { then: Some(refusal), .. } = verdict else { panic!("let in") };
            assert_eq!(refusal.code(), code, "{database}: {refusal}");
        }
    }
    let many = RowsApart { lost: vec!["x".to_owned(); 12], instead: Vec::new() };
    assert!(many.to_string().ends_with(", x and 2 more"), "{many}");
    assert_eq!(RowsApart::default().to_string(), "no row of its privileges differs");
}

// === the subset rule against a naive model of the servers ===

/// Privileges of the model: SELECT, INSERT, UPDATE, GRANT OPTION.
type Bits = u8;

fn bits_of(bits: Bits, places: [u32; 4]) -> u64 {
    places.iter().enumerate().fold(0, |set, (n, place)| set | (u64::from(bits >> n & 1) << place))
}

#[derive(Clone, Debug)]
struct World {
    mysql: bool,
    /// `MariaDB` 10.3.
    old: bool,
    /// User and host, with global privileges.
    accounts: Vec<(&'static str, &'static str, Bits)>,
    databases: Vec<(&'static str, &'static str, &'static str, Bits)>,
    /// User, host, database, table, privileges of the table and of its columns `c` and `d`.
    tables: Vec<(&'static str, &'static str, &'static str, &'static str, Bits, Bits, Bits)>,
    /// What the role has, and the accounts of `u` that it is granted to; `MariaDB` only.
    role: Bits,
    grantees: Vec<&'static str>,
    /// Decides where the servers promise no order.
    seed: u64,
    client: &'static str,
    proxy: &'static str,
    names: Vec<String>,
}

const WORLD_HOSTS: &[&str] = &[
    "10.0.0.0/255.0.0.0",
    "%",
    "10.%",
    "10.1.%",
    "10.0.0.%",
    "%.4",
    "%.9",
    "10.1.4._",
    "10.0.0._",
    "10.1.4.4",
    "10.0.0.9",
    "10.1.0.0/255.255.0.0",
];

fn worlds() -> impl Strategy<Value = World> {
    let users = || prop::sample::select(vec!["u", "u", "u", ""]);
    let hosts = || prop::sample::select(WORLD_HOSTS);
    let patterns = prop::sample::select(vec![
        "app", "hr", "ap_", "ap%", "a%", "%", "ap\\_", "_pp", "%p", "app_%", "h%r", "__",
    ]);
    // Few privileges by themselves: sets that hold one another are then frequent.
    let bits = || prop::sample::select(vec![0, 1, 1, 1, 2, 3, 3, 7, 8, 9, 15]);
    let none = || prop::sample::select(vec![0, 0, 0, 0, 1, 3]);
    let databases = prop::collection::vec((users(), hosts(), patterns, bits()), 0..6);
    let schemas = prop::sample::select(vec!["app", "hr"]);
    let objects = prop::sample::select(vec!["t", "t", "T"]);
    let columns = || prop::sample::select(vec![0, 0, 0, 1, 2, 3]);
    let tables =
        prop::collection::vec((users(), hosts(), schemas, objects, bits(), columns(), columns()), 0..4);
    let accounts = prop::collection::vec((users(), hosts(), none()), 0..3);
    let addresses = prop::sample::select(vec![
        ("10.1.4.4", "10.0.0.9"),
        ("10.0.0.9", "10.1.4.4"),
        ("10.1.4.4", "10.1.7.9"),
    ]);
    let names = prop::collection::vec("[ahpr_q]{1,4}", 4);
    let roles = (bits(), prop::collection::vec(hosts(), 0..2));
    ((0..3_u8, any::<u64>()), (none(), accounts), databases, tables, roles, addresses, names).prop_map(
        |((server, seed), (global, more), databases, tables, (role, grantees), (client, proxy), names)| {
            let mut world = World {
                mysql: server == 1,
                old: server == 2,
                accounts: vec![("u", WORLD_HOSTS[0], global)],
                databases,
                tables,
                role,
                grantees,
                seed,
                client,
                proxy,
                names,
            };
            world.accounts.extend(more);
            // As the primary keys of the tables have it.
            let mut seen = std::collections::HashSet::new();
            world.accounts.retain(|a| seen.insert(format!("{} {}", a.0, a.1)));
            world.databases.retain(|d| seen.insert(format!("{} {} {}", d.0, d.1, d.2)));
            world.tables.retain(|t| seen.insert(format!("{} {} {} {}", t.0, t.1, t.2, t.3)));
            world
                .names
                .extend(["app", "hr", "ap_", "apx", "ap", "h", "hxr", "appx", "%", "qq"].map(str::to_owned));
            world
        },
    )
}

impl World {
    fn product(&self) -> Product {
        Product::from_version(self.version())
    }

    fn version(&self) -> &'static str {
        match (self.mysql, self.old) {
            (true, _) => "8.0.36",
            (false, true) => "10.3.39-MariaDB",
            (false, false) => "10.11.19-MariaDB",
        }
    }

    fn build(&self) -> Snapshot {
        let mut rows = Rows::of(self.version());
        for (user, host, bits) in &self.accounts {
            let access = bits_of(*bits, [0, 1, 2, 10]);
            rows = if self.mysql {
                rows.row(user, host, |row| row.privileges = columns_of(*bits))
            } else if self.old {
                rows.old_row(user, host, |row| row.privileges = columns_of(*bits))
            } else {
                rows.user_with(user, host, &format!("\"access\":{access},\"version_id\":101119,"))
            };
        }
        if self.old {
            rows = rows.old_row("r", "", |row| {
                row.is_role = true;
                row.privileges = columns_of(self.role);
            });
        } else if !self.mysql {
            let access = bits_of(self.role, [0, 1, 2, 10]);
            rows = rows.json(
                "r",
                "",
                &format!("{{\"access\":{access},\"version_id\":101119,\"is_role\":true}}"),
            );
        }
        for host in self.grantees.iter().filter(|_| !self.mysql) {
            rows = rows.granted("r", "u", host);
        }
        for (user, host, db, bits) in &self.databases {
            rows.0.db.push(DbRow {
                host: (*host).to_owned(),
                user: (*user).to_owned(),
                db: (*db).to_owned(),
                privileges: columns_of(*bits),
            });
        }
        for (user, host, db, table, bits, c, d) in &self.tables {
            let columns: Vec<_> = [("c", *c), ("d", *d)]
                .into_iter()
                .filter(|(_, bits)| *bits != 0)
                .map(|(name, bits)| (name, u64::from(bits)))
                .collect();
            rows = rows.table_with(user, host, (db, table), bits_of(*bits, [0, 1, 2, 6]), &columns);
        }
        rows.without_names().build()
    }

    fn fits(&self, host: &str, address: &str) -> bool {
        let pattern = super::host::HostPattern::parse(host, self.product().host_syntax());
        pattern.matches(&HostIdentity::without_name(ip(address))) == Match::Yes
    }

    /// A place that is the same for both addresses and otherwise anybody's guess.
    fn guess(&self, row: &impl std::fmt::Debug) -> u64 {
        let text = format!("{row:?}");
        text.bytes().fold(self.seed | 1, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
    }

    /// Global privileges, without a role and with it.
    fn global(&self, account: &Account, address: &str) -> Vec<Bits> {
        let of =
            |host: &str| self.accounts.iter().find(|a| a.0 == account.user && a.1 == host).map_or(0, |a| a.2);
        let granted = self.grantees.iter().filter(|_| !self.mysql && account.user == "u").filter(|host| {
            self.accounts.iter().any(|a| a.0 == "u" && a.1 == **host) && self.fits(host, address)
        });
        let by_role = granted.min_by_key(|host| self.guess(host)).map(|host| of(host) | self.role);
        [of(&account.host)].into_iter().chain(by_role).collect()
    }

    /// The first row of `mysql.db` that matches.
    fn by_database(&self, account: &Account, address: &str, name: &str) -> Bits {
        let product = self.product();
        let host =
            |text: &str| product.host_rank(&super::host::HostPattern::parse(text, product.host_syntax()));
        let db = |text: &str| product.db_rank(text, &super::host::Wildcards::parse(text));
        self.databases
            .iter()
            .filter(|d| (d.0 == account.user || d.0.is_empty()) && self.fits(d.1, address))
            .filter(|d| naive_match(d.2.as_bytes(), name.as_bytes()))
            .min_by_key(|d| (host(d.1), db(d.2), d.0.is_empty(), self.guess(d)))
            .map_or(0, |d| d.3)
    }

    /// What the row for a table gives the table and its columns; the last tells whether there is one.
    fn by_table(&self, account: &Account, address: &str, name: &str, table: &str) -> [Bits; 3] {
        let rows = self.tables.iter().filter(|t| t.0 == account.user && t.2 == name && t.3 == table);
        let in_force = rows.filter(|t| t.4 | t.5 | t.6 != 0).filter(|t| self.fits(t.1, address));
        in_force.min_by_key(|t| self.guess(t)).map_or([0; 3], |t| [t.4, t.5, t.6])
    }

    /// Everything that a login may do, as sets in an order that is the same for every address.
    fn rights(&self, account: &Account, address: &str) -> Vec<Bits> {
        let mut rights = Vec::new();
        for global in self.global(account, address) {
            for name in &self.names {
                let whole = global | self.by_database(account, address, name);
                let tables = ["t", "T"].map(|table| self.by_table(account, address, name, table));
                let opening = if self.mysql { 7 } else { 15 };
                let opens = whole & opening != 0 || tables.iter().flatten().any(|bits| bits & opening != 0);
                rights.extend([whole, u8::from(opens)]);
                for [table, c, d] in tables {
                    rights.extend([whole | table, whole | table | c, whole | table | d]);
                }
            }
        }
        rights
    }
}

fn columns_of(bits: Bits) -> Vec<(String, bool)> {
    let names = ["Select_priv", "Insert_priv", "Update_priv", "Grant_priv"];
    names.iter().enumerate().map(|(n, name)| ((*name).to_owned(), bits >> n & 1 == 1)).collect()
}

/// Law 1: whoever is let in by the subset rule has no right that a login from the client's address would not have.
#[test]
fn what_the_subset_rule_lets_in_has_no_more_rights() {
    use proptest::test_runner::{Config, TestRunner};
    let (narrower, same) = (std::cell::Cell::new(0), std::cell::Cell::new(0));
    let mut runner = TestRunner::new(Config { cases: 6000, ..Config::default() });
    let outcome = runner.run(&worlds(), |world| {
        let snapshot = world.build();
        let address = |text| HostIdentity::without_name(ip(text));
        let masked = snapshot.guard(b"u", &address(world.client), &address(world.proxy));
        let counter = match masked {
            MaskedHost::Differs(_) => return Ok(()),
            MaskedHost::Same => &same,
            MaskedHost::Narrower => &narrower,
        };
        counter.set(counter.get() + 1);
        match (snapshot.find(b"u", &address(world.client)), snapshot.find(b"u", &address(world.proxy))) {
            (Found::Account(account), Found::Account(other)) => {
                prop_assert!(Arc::ptr_eq(account, other));
                let (client, proxy) =
                    (world.rights(account, world.client), world.rights(account, world.proxy));
                prop_assert_eq!(client.len(), proxy.len());
                let gains = client.iter().zip(&proxy).any(|(client, proxy)| proxy & !client != 0);
                prop_assert!(!gains, "{:?}\n{:?}", client, proxy);
            }
            (a, b) => prop_assert_eq!(found(&a), found(&b)),
        }
        Ok(())
    });
    outcome.unwrap_or_else(|failure| panic!("{failure}"));
    // A rule that lets hardly anybody in would prove little.
    assert!(narrower.get() > 300 && same.get() > 300, "{narrower:?} {same:?}");
}
