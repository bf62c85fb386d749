//! Whether the server, which sees the proxy's address, allows a login no more than it would from the client's.
//!
//! If exactly the same rows match both addresses, every decision of the server is the same for both. Tables that name
//! accounts exactly (the roles and the dynamic privileges of `MySQL`) say the same for the same account, and need no
//! comparison. Where rows differ, it must be proved that they give the proxy's address nothing that the client's has not:
//! see `cover`. Any other difference, or a row for which it cannot be told, makes the answer [`MaskedHost::Differs`].

use std::net::IpAddr;

use super::cover::Gain;
use super::host::{HostIdentity, HostName, HostPattern, Match};
use super::matching::Found;
use super::snapshot::{Snapshot, UserRows};

/// Outcome of the comparison.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MaskedHost {
    /// The same rows apply.
    Same,
    /// Other rows apply, and the login has nothing by them that it would not have from the client's address.
    Narrower,
    /// They do not, or it cannot be told.
    Differs(Box<MaskedDifference>),
}

/// The first row that applies to one address but not to the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MaskedDifference {
    /// The account for the client's address, if there is one.
    pub client_row: Option<String>,
    /// The account for the proxy's address, if there is one.
    pub proxy_row: Option<String>,
    /// Table of the differing row, without its schema.
    pub table: &'static str,
    /// The differing row.
    pub row: String,
    /// Whether it matches the client.
    pub client: Match,
    /// Whether it matches the proxy.
    pub proxy: Match,
    /// The first privilege that the login may have from the proxy's address alone; none if the two were not compared.
    pub gain: Option<Gain>,
}

impl std::fmt::Display for MaskedDifference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let account = |row: &Option<String>| row.clone().unwrap_or_else(|| "no account".to_owned());
        let does = |outcome| match outcome {
            Match::Yes => "matches",
            Match::No => "does not match",
            Match::Maybe => "may match",
        };
        write!(
            f,
            "grants differ by host: {} for the client's address, {} for the proxy's; {} row {} {} the client and {} \
             the proxy",
            account(&self.client_row),
            account(&self.proxy_row),
            self.table,
            self.row,
            does(self.client),
            does(self.proxy)
        )?;
        self.gain.as_ref().map_or(Ok(()), |gain| write!(f, "; the proxy's address may gain {gain}"))
    }
}

impl Snapshot {
    /// Whether a login has no more from the proxy's address than from the client's: by the same rows, or by rows that
    /// give no more.
    pub fn guard(&self, user: &[u8], client: &HostIdentity, proxy: &HostIdentity) -> MaskedHost {
        match self.same_rows(user, client, proxy) {
            MaskedHost::Differs(difference) => match self.covered(user, client, proxy) {
                Ok(()) => MaskedHost::Narrower,
                Err(gain) => MaskedHost::Differs(Box::new(MaskedDifference { gain, ..*difference })),
            },
            same => same,
        }
    }

    /// Compares the rows that apply to a login name from the client's address with those from the proxy's.
    pub(super) fn same_rows(&self, user: &[u8], client: &HostIdentity, proxy: &HostIdentity) -> MaskedHost {
        if client.is_same_peer(proxy) {
            return MaskedHost::Same;
        }
        let table = self.product.account_table();
        let account = |host| match self.find(user, host) {
            Found::Account(account) => Some(account.label.clone()),
            _ => None,
        };
        let difference = |table, row: &str, client_match, proxy_match| {
            MaskedHost::Differs(Box::new(MaskedDifference {
                client_row: account(client),
                proxy_row: account(proxy),
                table,
                row: row.to_owned(),
                client: client_match,
                proxy: proxy_match,
                gain: None,
            }))
        };
        let Ok(name) = std::str::from_utf8(user) else {
            return difference(table, "(the user name is not UTF-8)", Match::Maybe, Match::Maybe);
        };
        if !client.is_textual() || !proxy.is_textual() {
            return difference(table, "(any, for a link-local address)", Match::Maybe, Match::Maybe);
        }
        let names = if name.is_empty() { &[""][..] } else { &[name, ""][..] };
        for rows in names.iter().filter_map(|name| self.rows_of(name)) {
            for row in applicable(rows, table) {
                let (a, b) = (row.to(client), row.to(proxy));
                if a != b || a == Match::Maybe {
                    return difference(row.table, row.row, a, b);
                }
            }
        }
        MaskedHost::Same
    }

    /// Whether it matters to a login name which name the server resolves for an address.
    pub fn depends_on_name(&self, user: &[u8], ip: IpAddr) -> bool {
        let client = self.host_identity(ip, &HostName::Unknown);
        let Ok(name) = std::str::from_utf8(user) else { return false };
        if !client.name_is_unknown() || !client.is_textual() {
            return false;
        }
        let table = self.product.account_table();
        [name, ""]
            .iter()
            .filter_map(|name| self.rows_of(name))
            .flat_map(|rows| applicable(rows, table))
            .any(|row| row.depends_on_name(&client))
    }
}

/// A row with the host patterns that must all match for it to apply.
pub(super) struct Applicable<'r> {
    pub(super) table: &'static str,
    pub(super) row: &'r str,
    host: &'r HostPattern,
    proxied_host: Option<&'r HostPattern>,
}

impl Applicable<'_> {
    pub(super) fn to(&self, host: &HostIdentity) -> Match {
        both(self.host.matches(host), self.proxied_host.map_or(Match::Yes, |proxied| proxied.matches(host)))
    }

    fn depends_on_name(&self, client: &HostIdentity) -> bool {
        let does = |host: &HostPattern| host.matches(client) == Match::Maybe && host.depends_on_name();
        does(self.host) || self.proxied_host.is_some_and(does)
    }
}

/// Every row of a user; `table`: that of accounts.
pub(super) fn applicable<'r>(
    rows: &'r UserRows,
    table: &'static str,
) -> impl Iterator<Item = Applicable<'r>> {
    let by_host = |table, row, host| Applicable { table, row, host, proxied_host: None };
    let accounts = rows.accounts.iter().map(move |row| by_host(table, row.label.as_str(), &row.pattern));
    let db = rows.db.iter().map(move |row| by_host("db", row.label.as_str(), &row.host));
    let objects = [("tables_priv", &rows.tables), ("procs_priv", &rows.routines)].into_iter().flat_map(
        move |(table, list)| list.iter().map(move |row| by_host(table, row.label.as_str(), &row.host)),
    );
    let columns = rows.columns.iter().map(move |row| by_host("columns_priv", row.label.as_str(), &row.host));
    let roles = rows.roles.iter().map(move |row| by_host("roles_mapping", &row.label, &row.grantee.pattern));
    let proxies = rows.proxies.iter().map(|row| Applicable {
        table: "proxies_priv",
        row: &row.label,
        host: &row.host,
        proxied_host: Some(&row.proxied_host),
    });
    accounts.chain(db).chain(objects).chain(columns).chain(roles).chain(proxies)
}

/// Whether two conditions hold.
pub(super) fn both(a: Match, b: Match) -> Match {
    match (a, b) {
        (Match::No, _) | (_, Match::No) => Match::No,
        (Match::Yes, Match::Yes) => Match::Yes,
        _ => Match::Maybe,
    }
}
