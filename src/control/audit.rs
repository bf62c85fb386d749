//! What would become of a login, and where Spillway is stricter than the servers.

use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use super::answer::{Answer, BackoffRow, Done, PermissivenessRow, Rows, StepRow};
use super::invocation::shown;
use super::refusal::{Code, OperationError};
use super::{Control, Invocation};
use crate::accounts::{ClusterAccounts, NodeAccounts, View};
use crate::auth::{self, Privacy};
use crate::config::{ClientAddress, NodeTls, UnixAccount};
use crate::grants::{
    Account, AccountLimits, HostIdentity, HostName, LoginRequest, Product, Refusal, TlsRequirement,
    Transport, Verdict, explain,
};
use crate::ids::{ClientAddr, ClusterName};
use crate::net::own_uid;
use crate::session::account_limits::{AccountCounts, Usage, Who};
use crate::session::unix_accounts::{self, Closed, WayIn};
use crate::tls::Certificates;

/// A login to be explained.
struct Asked<'a> {
    user: &'a str,
    identity: &'a HostIdentity,
    database: Option<&'a str>,
    transport: Transport<'a>,
    client: &'a ClientAddr,
    /// What the configuration has for the user of this machine that may log in without a password.
    listed: Option<&'a UnixAccount>,
    /// Nobody can read what the client says.
    is_private: bool,
}

impl Control {
    /// Every step of the decision on a login, on each cluster by its own accounts. No password is asked for: the verdict
    /// says what becomes of the right one.
    pub(super) async fn explain_login(&self, wanted: &Invocation) -> Result<Answer, OperationError> {
        let user = wanted.get("user").unwrap_or_default();
        let client = client(wanted.get("address").unwrap_or_default())?;
        let transport = match wanted.get("transport") {
            Some("tls") => Transport::Fitting { certificate: false },
            Some("certificate") => Transport::Fitting { certificate: true },
            _ => Transport::Plain,
        };
        let topology = self.topology.load();
        let mut rows = Vec::new();
        for cluster in Self::selected(&topology, wanted)? {
            let Some(accounts) = self.accounts.cluster(&cluster.name) else {
                rows.push(StepRow {
                    cluster: cluster.name.to_string(),
                    step: "verdict",
                    text: "refused: no accounts of this cluster are loaded".to_owned(),
                });
                continue;
            };
            rows.extend(cluster.nodes.iter().filter_map(|node| {
                let compared = self.accounts.node(&cluster.name, &node.name)?;
                let NodeAccounts::Differ(_) = compared else { return None };
                let text = format!("{} also judges by accounts of its own: {compared}", node.name);
                Some(StepRow { cluster: cluster.name.to_string(), step: "nodes", text })
            }));
            let view = accounts.view(&client, self.policy(&cluster.name), cluster.takes_headers());
            let mut name = HostName::Unknown;
            if self.resolves_names(&cluster.name)
                && let Some(ip) = accounts.address_to_resolve(user.as_bytes(), &client)
            {
                name = self.names.of(ip).await;
                let text = match &name {
                    HostName::Known(name) => format!("{ip} is {name}"),
                    HostName::Absent => format!("{ip} has no name that leads back to it"),
                    HostName::Unknown => {
                        format!("the name of {ip} cannot be told now: its lookup failed or took too long")
                    }
                };
                rows.push(StepRow { cluster: cluster.name.to_string(), step: "name", text });
            }
            let identity = accounts.client_identity(&client, &name);
            let config = self.config.load();
            let asked = Asked {
                user,
                identity: &identity,
                database: wanted.get("database"),
                transport,
                client: &client,
                listed: config.clusters.get(&cluster.name).and_then(|c| c.unix_account(user.as_bytes())),
                is_private: transport != Transport::Plain || matches!(client, ClientAddr::Unix { .. }),
            };
            let tls = self.tls(&cluster.name);
            rows.extend(steps(
                &cluster.name,
                &accounts,
                &self.account_counts,
                (view, tls.as_deref()),
                &asked,
            ));
        }
        Ok(Answer::Rows(Rows::Steps(rows)))
    }

    /// The accounts that a server would let in, with the right password, and Spillway does not, or with less.
    pub(super) fn show_permissiveness(&self, wanted: &Invocation) -> Result<Answer, OperationError> {
        let topology = self.topology.load();
        let mut rows = Vec::new();
        for cluster in Self::selected(&topology, wanted)? {
            if let Some(accounts) = self.accounts.cluster(&cluster.name) {
                let policy = self.policy(&cluster.name);
                let view = |client: &ClientAddr| accounts.view(client, policy, cluster.takes_headers());
                let tls = self.tls(&cluster.name);
                rows.extend(stricter(
                    &cluster.name,
                    &accounts,
                    self.resolves_names(&cluster.name),
                    view,
                    tls.as_deref(),
                ));
            }
        }
        Ok(Answer::Rows(Rows::Permissiveness(rows)))
    }

    /// Who is held back after too many failed logins.
    pub(super) fn show_backoffs(&self) -> Answer {
        let now = Instant::now();
        let rows = self.failed.held(now).into_iter().map(|(who, failures)| BackoffRow {
            who: who.to_string(),
            failures: failures.count,
            seconds_left: failures.until.map_or(0, |until| until.duration_since(now).as_secs() + 1),
        });
        Answer::Rows(Rows::Backoffs(rows.collect()))
    }

    /// Forgets failed logins.
    pub(super) fn clear_backoffs(&self, wanted: &Invocation) -> Result<Answer, OperationError> {
        let who = wanted.get("who");
        match (self.failed.clear(who), who) {
            (0, Some(who)) => {
                let message = format!("no failed logins of {} are remembered", shown(who));
                Err(OperationError::new(Code::NotFound, message))
            }
            (count, _) => Ok(Answer::Done(Done {
                result: format!("forgot the failed logins of {count}"),
                changes: Vec::new(),
            })),
        }
    }

    /// Begins the hour of the accounts of a cluster anew.
    pub(super) fn clear_limits(&self, wanted: &Invocation) -> Result<Answer, OperationError> {
        let topology = self.topology.load();
        let cluster = &Self::cluster(&topology, wanted.get("cluster").unwrap_or_default())?.name;
        let count = self.account_counts.clear(cluster, Instant::now());
        let result = format!("the hour of {count} accounts of cluster {cluster} begins anew");
        Ok(Answer::Done(Done { result, changes: Vec::new() }))
    }

    fn resolves_names(&self, cluster: &ClusterName) -> bool {
        self.config.load().clusters.get(cluster).is_some_and(|c| c.resolve_names)
    }

    fn policy(&self, cluster: &ClusterName) -> ClientAddress {
        self.config.load().clusters.get(cluster).map_or_else(ClientAddress::default, |c| c.client_address)
    }

    fn tls(&self, cluster: &ClusterName) -> Option<Arc<NodeTls>> {
        self.config.load().clusters.get(cluster)?.tls.clone()
    }
}

/// A client as an operator writes it: an address, or `socket` or `socket:UID` for one on a Unix socket of this machine.
fn client(text: &str) -> Result<ClientAddr, OperationError> {
    let client = match text.strip_prefix("socket") {
        Some("") => Some(ClientAddr::Unix { uid: None }),
        Some(uid) => uid
            .strip_prefix(':')
            .and_then(|uid| uid.parse().ok())
            .map(|uid| ClientAddr::Unix { uid: Some(uid) }),
        None => text.parse::<IpAddr>().ok().map(|ip| ClientAddr::Tcp(SocketAddr::new(ip, 0))),
    };
    client.ok_or_else(|| {
        let message =
            format!("address: {} is wrong; expected an IP address, socket, or socket:UID", shown(text));
        OperationError::bad_request(message)
    })
}

fn request<'r>(
    user: &'r str,
    client: &'r HostIdentity,
    proxy: &'r HostIdentity,
    transport: Transport<'r>,
    privacy: Privacy,
) -> LoginRequest<'r> {
    LoginRequest {
        user: user.as_bytes(),
        client,
        proxy,
        database: None,
        using_password: true,
        transport,
        can_handle_expired_passwords: false,
        now: SystemTime::now(),
        plugins: auth::accepted(privacy),
    }
}

/// What was counted of an account.
fn counted(limits: &AccountLimits, used: Usage) -> String {
    let Usage { open, logins, queries, updates } = used;
    let mut text = format!("{open} sessions of the account through this proxy, {logins} logins this hour");
    for (what, done, limit) in [("queries", queries, limits.queries), ("updates", updates, limits.updates)] {
        if let Some(limit) = limit {
            // Those that were refused count, too.
            let _ = write!(text, ", {} of {limit} {what}", done.min(limit.unsigned_abs()));
        }
    }
    text
}

fn steps(
    cluster: &ClusterName,
    accounts: &ClusterAccounts,
    counts: &AccountCounts,
    (view, tls): (View, Option<&NodeTls>),
    asked: &Asked<'_>,
) -> Vec<StepRow> {
    let identity = asked.identity;
    let seen = accounts.seen(view, identity);
    let privacy = Privacy::of(asked.is_private, tls.map(|tls| &*tls.trust));
    let request = LoginRequest {
        database: asked.database,
        ..request(asked.user, identity, &seen, asked.transport, privacy)
    };
    let decision = explain(&accounts.snapshot, &request);
    let row = |step, text| StepRow { cluster: cluster.to_string(), step, text };
    let how = match view {
        View::Own => "links show this proxy's address: the client must not have more by it",
        View::Client(..) => "links announce the client's address by a PROXY header",
        View::Trusted => "links show this proxy's address, which the configuration trusts",
    };
    let mut rows = vec![row("address", how.to_owned())];
    rows.extend(decision.steps.into_iter().map(|step| row(step.stage, step.text)));
    let mut over = None;
    // By what the client must be right.
    let mut right = "if the password is right";
    if let Verdict::Candidate { account, .. } = &decision.verdict {
        let by_uid =
            unix_accounts::way_in(account, asked.user.as_bytes(), asked.client, own_uid(), asked.listed);
        match &by_uid {
            Ok(WayIn { plugin, .. }) => {
                right = "by its uid, without a password";
                let text = format!(
                    "the client's uid is that of unix_accounts; its password there logs in to the node, by {plugin}"
                );
                rows.push(row("exchange", text));
            }
            Err(Closed::NotAWay) => {}
            Err(closed) => rows.push(row("exchange", format!("not let in by uid: {closed}"))),
        }
        let verified = account.authentication.iter().find(|a| auth::is_verified(&a.plugin));
        if by_uid.is_err() {
            rows.push(row(
                "exchange",
                match verified {
                    Some(way) => format!("the credential is verified here, by {}", way.plugin),
                    None => relayed(account, privacy),
                },
            ));
        }
        if let Some(limits) = accounts.snapshot.limits(account) {
            let host = identity.host_or_ip();
            let who = Who::new(&accounts.snapshot, cluster, account, asked.user.as_bytes(), &host);
            let used = counts.of(&who, Instant::now());
            let counted = counted(&limits, used);
            over = limits.exceeded(used.open, used.logins);
            rows.push(row(
                "limits",
                match over {
                    Some(over) => format!("refused: {over}; {counted}"),
                    None => counted,
                },
            ));
        }
    }
    if let Verdict::Candidate { account, then: None, .. } = &decision.verdict
        && let Some(lack) = lack(account, accounts.snapshot.product(), tls)
    {
        match lack {
            Lack::Certain(lack) => {
                rows.push(row(
                    "verdict",
                    format!("refused by the node: {lack}; the client is told error 1045"),
                ));
                return rows;
            }
            Lack::Possible(lack) => rows.push(row("tls", format!("the node may refuse: {lack}"))),
        }
    }
    let refused = |refusal: &Refusal, when: &str| {
        format!("refused{when}: {refusal}; the client is told error {}", refusal.code())
    };
    // Checks of the account come before this one, that of the schema after.
    let over = over.filter(|_| match &decision.verdict {
        Verdict::Candidate { then, .. } => then.as_ref().is_none_or(Refusal::is_of_database),
        Verdict::Refused(_) => false,
    });
    rows.push(row(
        "verdict",
        match (&decision.verdict, over) {
            (_, Some(over)) => {
                format!("refused, {right}: {over}; the client is told error {}", over.code())
            }
            (Verdict::Candidate { account, then: None, sandbox }, None) => {
                let only = if *sandbox { ", only to change its password" } else { "" };
                format!("let in as {} {right}{only}", account.current_user())
            }
            (Verdict::Candidate { then: Some(refusal), .. }, None) => refused(refusal, &format!(", {right}")),
            (Verdict::Refused(refusal), None) => refused(refusal, ""),
        },
    ));
    rows
}

/// How the password of an account is found right that only its node asks for.
fn relayed(account: &Account, privacy: Privacy) -> String {
    let mut ways = account.authentication.iter().filter(|a| auth::is_relayed(&a.plugin, privacy));
    let verified = if ways.all(|way| auth::is_signed(&way.plugin)) {
        "; what it signs is verified here, too, from the stored key"
    } else {
        ""
    };
    format!("the credential is relayed: the node asks the client itself{verified}")
}

/// Accounts that Spillway refuses although their server would not, or that have less through it, each tried from an address of
/// its own host pattern.
fn stricter(
    cluster: &ClusterName,
    accounts: &ClusterAccounts,
    resolves_names: bool,
    view: impl Fn(&ClientAddr) -> View,
    tls: Option<&NodeTls>,
) -> Vec<PermissivenessRow> {
    let mut rows = Vec::new();
    // Where names are looked up, an address of no name stands for all.
    let no_name = if resolves_names { HostName::Absent } else { HostName::Unknown };
    for account in accounts.snapshot.accounts() {
        let row = |client: String, reason: String| PermissivenessRow {
            cluster: cluster.to_string(),
            account: account.current_user(),
            client,
            reason,
        };
        if let Some(reason) = &account.unreadable {
            rows.push(row("any".to_owned(), format!("its row is not understood: {reason}")));
            continue;
        }
        let (address, name, shown) = match account.specimen() {
            Some(address) => (address, no_name.clone(), address.to_string()),
            // Any address, of a name that fits.
            None if resolves_names => {
                let name = HostName::Known(a_name_of(&account.host));
                (IpAddr::from([192, 0, 2, 1]), name, account.host.clone())
            }
            None => {
                rows.push(row(account.host.clone(), "names of hosts are not resolved here".to_owned()));
                continue;
            }
        };
        let from = ClientAddr::Tcp(SocketAddr::new(address, 0));
        let client = accounts.client_identity(&from, &name);
        let seen = accounts.seen(view(&from), &client);
        // With everything that a client could bring, so that only differences are left.
        let request = request(
            &account.user,
            &client,
            &seen,
            Transport::Fitting { certificate: true },
            Privacy::of(true, tls.map(|tls| &*tls.trust)),
        );
        let refusal = match explain(&accounts.snapshot, &request).verdict {
            Verdict::Candidate { then, .. } => then,
            Verdict::Refused(refusal) => Some(refusal),
        };
        let is_let_in = refusal.is_none();
        if let Some(refusal) = refusal.filter(Refusal::is_stricter) {
            rows.push(row(shown, refusal.to_string()));
        } else if let Some(Lack::Certain(lack) | Lack::Possible(lack)) =
            lack(account, accounts.snapshot.product(), tls)
        {
            rows.push(row(shown, lack));
        } else {
            let apart = accounts.snapshot.rows_apart(account.user.as_bytes(), &client, &seen);
            if is_let_in && !apart.is_empty() {
                rows.push(row(shown, format!("let in by the subset rule, with less: {apart}")));
            }
        }
    }
    rows
}

/// A name of a host that a pattern of names matches.
fn a_name_of(pattern: &str) -> String {
    let mut name = String::with_capacity(pattern.len());
    let mut letters = pattern.chars();
    while let Some(letter) = letters.next() {
        match letter {
            '%' | '_' => name.push('x'),
            '\\' => name.extend(letters.next()),
            other => name.push(other),
        }
    }
    name
}

/// What the nodes demand of a link for this account, where links do not have it, or may not have it.
enum Lack {
    /// The nodes refuse every link.
    Certain(String),
    /// It depends on what a node and Spillway agree on.
    Possible(String),
}

fn lack(account: &Account, product: &Product, tls: Option<&NodeTls>) -> Option<Lack> {
    let certain = |reason: String| Some(Lack::Certain(reason));
    let tls = match (&account.tls, tls) {
        (TlsRequirement::None, _) => return None,
        (_, None) => {
            return certain("the account requires TLS, and links of this cluster have none".to_owned());
        }
        (_, Some(tls)) => tls,
    };
    let names = tls.trust.own().map(Certificates::names);
    if names.is_none() && account.tls.needs_certificate(product) {
        return certain("the account requires a certificate, and links of this cluster show none".to_owned());
    }
    let TlsRequirement::Specified { cipher, issuer, subject } = &account.tls else { return None };
    if let Some(names) = names {
        for (part, required, shown) in [("issuer", issuer, names.issuer), ("subject", subject, names.subject)]
        {
            match shown {
                _ if required.is_empty() => {}
                Ok(shown) if shown == *required => {}
                Ok(shown) => {
                    let seen = format!("the node sees Spillway's certificate, whose {part} is {shown:?}");
                    return certain(format!("{seen}; the account requires {required:?}"));
                }
                Err(reason) => {
                    let seen =
                        format!("the node sees Spillway's certificate, whose {part} may not be {required:?}");
                    return Some(Lack::Possible(format!("{seen}: {reason}")));
                }
            }
        }
    }
    if cipher.is_empty() {
        return None;
    }
    let reason = "the node sees the cipher of the link, which may not be the one that the account requires";
    Some(Lack::Possible(format!("{reason}, {cipher:?}")))
}

#[cfg(test)]
mod tests {
    use zeroize::Zeroizing;

    use super::*;
    use crate::grants::{GlobalPrivRow, RawAccounts, ServerVariables, Snapshot};

    #[test]
    fn accounts_of_named_hosts_are_audited_too() {
        const NATIVE: &str = r#""plugin":"mysql_native_password","authentication_string":"*AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA""#;
        let global_priv = [
            ("fine", "db.example", NATIVE.to_owned()),
            ("old", "%.example", r#""plugin":"mysql_old_password","authentication_string":"x""#.to_owned()),
            ("secure", "db_.example", format!(r#""ssl_type":1,{NATIVE}"#)),
        ];
        let global_priv = global_priv.map(|(user, host, fields)| GlobalPrivRow {
            host: host.to_owned(),
            user: user.to_owned(),
            priv_json: Zeroizing::new(format!("{{\"access\":0,{fields}}}")),
        });
        let variables =
            ServerVariables { version: "10.11.8-MariaDB".to_owned(), ..ServerVariables::default() };
        let raw = RawAccounts { variables, global_priv: global_priv.into(), ..RawAccounts::default() };
        let accounts = ClusterAccounts {
            snapshot: Arc::new(Snapshot::build(raw, SystemTime::UNIX_EPOCH)),
            proxy: HostIdentity::without_name("192.0.2.9".parse().unwrap()),
            from: "db1".parse().unwrap(),
            loaded_at: SystemTime::UNIX_EPOCH,
            fingerprint: None,
            unread: 0,
        };
        let cluster: ClusterName = "shop".parse().unwrap();
        let rows = |resolves| {
            let rows = stricter(&cluster, &accounts, resolves, |_| View::Trusted, None);
            let mut said: Vec<_> =
                rows.into_iter().map(|row| (row.account, row.client, row.reason)).collect();
            said.sort();
            said
        };
        let resolved = rows(true);
        let audited: Vec<_> = resolved.iter().map(|(account, client, _)| (&**account, &**client)).collect();
        assert_eq!(
            audited,
            [("old@%.example", "%.example"), ("secure@db_.example", "db_.example")],
            "{resolved:?}"
        );
        assert!(resolved[0].2.contains("mysql_old_password"), "{resolved:?}");
        assert!(resolved[1].2.contains("links of this cluster have none"), "{resolved:?}");
        let unresolved = rows(false);
        assert_eq!(unresolved.len(), 3);
        assert_eq!(unresolved.iter().filter(|row| row.2.contains("not resolved here")).count(), 3);
    }
}
