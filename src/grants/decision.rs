//! A login from beginning to end: what the server would say, in the order in which it says it.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::SystemTime;

use serde::Serialize;

use super::account::{Account, TlsRequirement, asks_the_system};
use super::database::DatabaseAccess;
use super::host::{HostIdentity, Match};
use super::masked::{MaskedDifference, MaskedHost};
use super::matching::{Blind, Found, Observer};
use super::product::{Product, Vendor};
use super::snapshot::Snapshot;
use super::transport::{TlsMismatch, Transport, tls};

/// Everything about a login but the credential.
#[derive(Clone, Copy, Debug)]
pub struct LoginRequest<'r> {
    /// The login name, as bytes of UTF-8.
    pub user: &'r [u8],
    /// Who the client is for the server.
    pub client: &'r HostIdentity,
    /// Who the server will see: the proxy, or the client again where a proxied address is proven to reach it.
    pub proxy: &'r HostIdentity,
    /// The default database; an empty one is none.
    pub database: Option<&'r str>,
    /// Whether the client sent a password; for the wording of error 1045.
    pub using_password: bool,
    /// How the client is connected.
    pub transport: Transport<'r>,
    /// Whether the client has `CLIENT_CAN_HANDLE_EXPIRED_PASSWORDS`.
    pub can_handle_expired_passwords: bool,
    /// The time for the age of passwords.
    pub now: SystemTime,
    /// Plugins whose credentials can be verified here, by the server's names.
    pub plugins: &'r [&'r str],
}

/// What comes of a login.
#[derive(Clone, Debug)]
pub struct Decision {
    /// The verdict.
    pub verdict: Verdict,
    /// How it came about; empty unless it was asked for by [`explain`].
    pub steps: Vec<Step>,
}

/// The verdict on a login.
#[derive(Clone, Debug)]
pub enum Verdict {
    /// The credential decides: verify it against `account`.
    Candidate {
        /// The account.
        account: Arc<Account>,
        /// What must be answered to a *correct* credential; a wrong one is 1045 in any case. None: let it in.
        then: Option<Refusal>,
        /// The password is expired: after a correct credential, the server admits only a change of password.
        sandbox: bool,
    },
    /// Refused whatever the credential is. But for [`Refusal::is_immediate`], verify a decoy first and answer
    /// afterwards, so that the client cannot tell it from a wrong password.
    Refused(Refusal),
}

/// Why a login is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// No row of any user matches the host: 1130, in place of the greeting.
    HostNotAllowed(Vendor),
    /// The server would read the name as another one.
    BadUserName(&'static str),
    /// No row matches the name and the host.
    NoAccount,
    /// What the server would do cannot be told; says why.
    Undecidable(String),
    /// The plugin by which the server asks first for the account, or its only one, can be neither verified here nor relayed.
    UnsupportedPlugin {
        /// The account's plugins.
        plugins: Vec<String>,
    },
    /// `require_secure_transport` is on and the client is not on TLS.
    InsecureTransport(InsecureTransport),
    /// `offline_mode` is on; the server lets administrators in, and nobody is known here to be one.
    Offline,
    /// The account demands more of the client's TLS than there is.
    TlsRequired(TlsRequirement),
    /// The account demands something else of the client's TLS.
    TlsDiffers(TlsMismatch),
    /// The account is locked.
    Locked(Vendor),
    /// The password is expired, and the server opens no sandbox for this client.
    PasswordExpired(Vendor),
    /// A plugin may map the login to another account by this row of `proxies_priv`.
    ProxyUser {
        /// The row.
        row: String,
    },
    /// The account has no privilege on the default database.
    DatabaseDenied {
        /// User and host of the account, as the message names them.
        account: (String, String),
        /// The database.
        database: String,
        /// Why, where it is not simply that no row gives a privilege.
        reason: Option<String>,
    },
    /// The account has a privilege on the default database, and the rows that give it do not apply to the proxy's address.
    DatabaseLost {
        /// User and host of the account, as the message names them.
        account: (String, String),
        /// The database.
        database: String,
    },
    /// The default database does not exist.
    UnknownDatabase(String),
    /// The server does not accept the name of the default database.
    BadDatabaseName(String),
    /// The name of the default database is longer than one may be, and the server says so.
    TooLongDatabaseName(String),
    /// Other rows apply to the proxy's address than to the client's.
    GrantsDifferByHost(Box<MaskedDifference>),
}

/// How a server refuses a login without TLS where it requires TLS of everybody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InsecureTransport {
    /// Like a wrong password (`MariaDB` before 11.4).
    Unspoken,
    /// In so many words, before it looks at the credential (`MariaDB` 11.4 and later).
    First,
    /// In so many words, after a correct credential (`MySQL`).
    Afterwards,
}

impl InsecureTransport {
    pub(super) fn of(product: &Product) -> Self {
        if product.is_mysql() {
            Self::Afterwards
        } else if product.is_mariadb_at_least(11, 4) {
            // MDEV-30178: the refusal got its own words, and its place before the credential.
            Self::First
        } else {
            Self::Unspoken
        }
    }
}

impl Refusal {
    /// The server's error number.
    pub fn code(&self) -> u16 {
        match self {
            Self::HostNotAllowed(_) => 1130,
            Self::InsecureTransport(InsecureTransport::First | InsecureTransport::Afterwards) => 3159,
            Self::Offline => 3032,
            Self::Locked(Vendor::MariaDb) => 4151,
            Self::Locked(Vendor::MySql) => 3118,
            Self::PasswordExpired(_) => 1862,
            Self::DatabaseDenied { .. } | Self::DatabaseLost { .. } => 1044,
            Self::UnknownDatabase(_) => 1049,
            Self::BadDatabaseName(_) => 1102,
            Self::TooLongDatabaseName(_) => 1059,
            Self::UnsupportedPlugin { plugins }
                if plugins.last().is_some_and(|last| asks_the_system(last)) =>
            {
                1698
            }
            Self::BadUserName(_)
            | Self::NoAccount
            | Self::Undecidable(_)
            | Self::UnsupportedPlugin { .. }
            | Self::InsecureTransport(InsecureTransport::Unspoken)
            | Self::TlsRequired(_)
            | Self::TlsDiffers(_)
            | Self::ProxyUser { .. }
            | Self::GrantsDifferByHost(_) => 1045,
        }
    }

    /// The SQLSTATE that goes with [`Self::code`].
    pub fn sqlstate(&self) -> &'static str {
        match self.code() {
            1045 | 1698 => "28000",
            1044 | 1049 | 1059 | 1102 => "42000",
            3159 if *self == Self::InsecureTransport(InsecureTransport::First) => "08004",
            _ => "HY000",
        }
    }

    /// Whether the server answers so before it looks at the credential.
    pub fn is_immediate(&self) -> bool {
        matches!(self, Self::HostNotAllowed(_) | Self::InsecureTransport(InsecureTransport::First))
    }

    /// Whether it is about the default database, which the server looks at last.
    pub fn is_of_database(&self) -> bool {
        matches!(self.code(), 1044 | 1049 | 1059 | 1102)
    }

    /// Whether a server that sees the client itself, over any connection that it asks for, might have let it in.
    pub fn is_stricter(&self) -> bool {
        match self {
            Self::Undecidable(_)
            | Self::UnsupportedPlugin { .. }
            | Self::ProxyUser { .. }
            | Self::Offline
            | Self::DatabaseLost { .. }
            | Self::GrantsDifferByHost(_) => true,
            Self::DatabaseDenied { reason, .. } => reason.is_some(),
            Self::HostNotAllowed(_)
            | Self::BadUserName(_)
            | Self::NoAccount
            | Self::InsecureTransport(_)
            | Self::TlsRequired(_)
            | Self::TlsDiffers(_)
            | Self::Locked(_)
            | Self::PasswordExpired(_)
            | Self::UnknownDatabase(_)
            | Self::BadDatabaseName(_)
            | Self::TooLongDatabaseName(_) => false,
        }
    }

    /// What the client may be told, in the server's words.
    pub fn client_message(&self, request: &LoginRequest<'_>) -> String {
        let host = request.client.host_or_ip();
        let using = if request.using_password { "YES" } else { "NO" };
        match self {
            Self::HostNotAllowed(vendor) => {
                format!("Host '{host}' is not allowed to connect to this {vendor} server")
            }
            Self::Offline => "The server is currently in offline mode".to_owned(),
            Self::InsecureTransport(InsecureTransport::First | InsecureTransport::Afterwards) => {
                "Connections using insecure transport are prohibited while --require_secure_transport=ON."
                    .to_owned()
            }
            Self::Locked(Vendor::MariaDb) => "Access denied, this account is locked".to_owned(),
            Self::Locked(Vendor::MySql) => {
                let user = String::from_utf8_lossy(request.user);
                format!("Access denied for user '{user}'@'{host}'. Account is locked.")
            }
            Self::PasswordExpired(vendor) => {
                let stop = if *vendor == Vendor::MySql { "." } else { "" };
                format!(
                    "Your password has expired. To log in you must change it using a client that supports expired \
                     passwords{stop}"
                )
            }
            Self::DatabaseDenied { account: (user, host), database, .. }
            | Self::DatabaseLost { account: (user, host), database } => {
                format!("Access denied for user '{user}'@'{host}' to database '{database}'")
            }
            Self::UnknownDatabase(database) => format!("Unknown database '{database}'"),
            Self::BadDatabaseName(database) => format!("Incorrect database name '{database}'"),
            Self::TooLongDatabaseName(database) => {
                let shown = &database[..database.floor_char_boundary(100)];
                format!("Identifier name '{shown}' is too long")
            }
            _ if self.code() == 1698 => access_denied(request),
            _ => format!("{} (using password: {using})", access_denied(request)),
        }
    }
}

/// How the text of error 1045 begins, and all that 1698 says: the same for a wrong password and for every reason that is not
/// told.
fn access_denied(request: &LoginRequest<'_>) -> String {
    let user = String::from_utf8_lossy(request.user);
    format!("Access denied for user '{user}'@'{}'", request.client.host_or_ip())
}

impl std::fmt::Display for Refusal {
    /// The true reason, for the log and for operators.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::HostNotAllowed(_) => f.write_str("no account of any user matches the client's host"),
            Self::BadUserName(reason) => f.write_str(reason),
            Self::NoAccount => f.write_str("no account matches the user name and the client's host"),
            Self::Undecidable(reason) => write!(f, "what the server would do cannot be told: {reason}"),
            Self::UnsupportedPlugin { plugins } => {
                write!(
                    f,
                    "the account's credential cannot be verified here (plugin {})",
                    plugins.join(", ")
                )?;
                if plugins.iter().any(|plugin| asks_the_system(plugin)) {
                    f.write_str(
                        ": a node is reached by TCP and sees no uid, so the account needs a second way",
                    )?;
                }
                Ok(())
            }
            Self::Offline => f.write_str("the server is in offline mode, which lets administrators in alone"),
            Self::InsecureTransport(_) => f.write_str("the server requires TLS (require_secure_transport)"),
            Self::TlsRequired(required) => write!(f, "the account requires {required}"),
            Self::TlsDiffers(TlsMismatch { part, required, found }) => {
                write!(f, "the account requires the {part} {required:?}, and the client has {found:?}")
            }
            Self::Locked(_) => f.write_str("the account is locked"),
            Self::PasswordExpired(_) => f.write_str("the password is expired"),
            Self::ProxyUser { row } => {
                write!(f, "a plugin may map the login to another account (proxies_priv {row})")
            }
            Self::DatabaseDenied { database, reason, .. } => {
                write!(f, "no privilege on database `{database}`")?;
                reason.as_ref().map_or(Ok(()), |reason| write!(f, ", as far as can be told: {reason}"))
            }
            Self::DatabaseLost { database, .. } => {
                write!(f, "no privilege on database `{database}` from the proxy's address")
            }
            Self::UnknownDatabase(database) => write!(f, "database `{database}` does not exist"),
            Self::BadDatabaseName(database) => write!(f, "{database:?} is no name of a database"),
            Self::TooLongDatabaseName(database) => {
                write!(f, "{database:?} is longer than a name of a database may be")
            }
            Self::GrantsDifferByHost(difference) => difference.fmt(f),
        }
    }
}

/// One step on the way to a verdict, for `explain login`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Step {
    /// What was asked: `host`, `account`, `credential`, `tls`, `state`, `database`, `proxy host`.
    pub stage: &'static str,
    /// The answer, in words.
    pub text: String,
}

/// Decides a login; this is what the data path calls.
pub fn decide(snapshot: &Snapshot, request: &LoginRequest<'_>) -> Decision {
    Decision { verdict: judge(snapshot, request, &mut Silent), steps: Vec::new() }
}

/// Decides a login as [`decide`] does, and tells how: every row that was considered, and every check, including
/// those that come after the one that refuses.
pub fn explain(snapshot: &Snapshot, request: &LoginRequest<'_>) -> Decision {
    let mut trace = Trace::default();
    let verdict = judge(snapshot, request, &mut trace);
    Decision { verdict, steps: trace.steps }
}

/// Takes notes, or does not.
trait Notes {
    fn note(&mut self, stage: &'static str, text: impl FnOnce() -> String);
    /// The account that a login gets.
    fn find<'s>(&mut self, snapshot: &'s Snapshot, user: &[u8], host: &HostIdentity) -> Found<'s>;
    /// Whether checks behind a refusal are worth their while.
    fn is_complete(&self) -> bool;
}

struct Silent;

impl Notes for Silent {
    fn note(&mut self, _: &'static str, _: impl FnOnce() -> String) {}

    fn find<'s>(&mut self, snapshot: &'s Snapshot, user: &[u8], host: &HostIdentity) -> Found<'s> {
        snapshot.find_observed(user, host, &mut Blind)
    }

    fn is_complete(&self) -> bool {
        false
    }
}

#[derive(Default)]
struct Trace {
    steps: Vec<Step>,
}

impl Notes for Trace {
    fn note(&mut self, stage: &'static str, text: impl FnOnce() -> String) {
        self.steps.push(Step { stage, text: text() });
    }

    fn find<'s>(&mut self, snapshot: &'s Snapshot, user: &[u8], host: &HostIdentity) -> Found<'s> {
        snapshot.find_observed(user, host, self)
    }

    fn is_complete(&self) -> bool {
        true
    }
}

impl Observer for Trace {
    const SEES_ALL: bool = true;

    fn saw(&mut self, account: &Account, outcome: Match, chosen: bool) {
        self.note("account", || match (outcome, chosen) {
            (Match::Yes, true) => {
                format!("{account}: chosen, the first row in the server's order that matches")
            }
            (Match::Yes, false) => format!("{account}: matches, but comes later in the server's order"),
            (Match::Maybe, _) => format!("{account}: matches if the server resolves a fitting name"),
            (Match::No, _) => format!("{account}: the host does not match"),
        });
    }
}

/// The first refusal counts; the rest is for the trace.
struct After<'n, N> {
    refusal: Option<Refusal>,
    notes: &'n mut N,
}

impl<N: Notes> After<'_, N> {
    fn is_done(&self) -> bool {
        self.refusal.is_some() && !self.notes.is_complete()
    }

    fn check(&mut self, stage: &'static str, outcome: Result<impl FnOnce() -> String, Refusal>) {
        match outcome {
            Ok(text) => self.notes.note(stage, text),
            Err(refusal) => {
                self.notes.note(stage, || format!("refused: {refusal}"));
                self.refusal.get_or_insert(refusal);
            }
        }
    }
}

fn judge(snapshot: &Snapshot, request: &LoginRequest<'_>, notes: &mut impl Notes) -> Verdict {
    let refuse = |notes: &mut _, stage, refusal: Refusal| {
        Notes::note(notes, stage, || format!("refused: {refusal}"));
        Verdict::Refused(refusal)
    };
    let vendor = snapshot.product().vendor();
    notes.note("host", || describe_host(request));
    let admission = snapshot.admission(request.client);
    if admission == Match::No {
        return refuse(notes, "host", Refusal::HostNotAllowed(vendor));
    }

    let insecure = (snapshot.variables().require_secure_transport && request.transport == Transport::Plain)
        .then(|| InsecureTransport::of(snapshot.product()));
    if let Some(how @ InsecureTransport::First) = insecure {
        return refuse(notes, "tls", Refusal::InsecureTransport(how));
    }

    let account = match notes.find(snapshot, request.user, request.client) {
        Found::Account(account) if admission == Match::Yes => Arc::clone(account),
        // An account can match a host that the server turns away before the greeting: one whose host is written
        // with an escape but without a wildcard.
        Found::Account(_) => {
            let reason = "the server may turn the host away, depending on the name it resolves".to_owned();
            return refuse(notes, "host", Refusal::Undecidable(reason));
        }
        Found::Unknown => return refuse(notes, "account", Refusal::NoAccount),
        Found::Undecidable { reason } => return refuse(notes, "account", Refusal::Undecidable(reason)),
        Found::BadName { reason } => return refuse(notes, "account", Refusal::BadUserName(reason)),
    };
    let plugins = || account.authentication.iter().map(|a| a.plugin.clone()).collect::<Vec<_>>();
    // The server asks by all of them in this order, and a question that cannot be answered ends the login: to the server it is
    // a failed handshake, of which it takes only so many from one host.
    let first = account.authentication.iter().find(|way| !asks_the_system(&way.plugin));
    if first.is_none_or(|way| !request.plugins.contains(&way.plugin.as_str())) {
        return refuse(notes, "credential", Refusal::UnsupportedPlugin { plugins: plugins() });
    }
    notes.note("credential", || format!("must be right for {}", plugins().join(" or ")));

    let mut after = After { refusal: None, notes };
    if let Some(how @ InsecureTransport::Unspoken) = insecure {
        after.check("tls", Err::<fn() -> String, _>(Refusal::InsecureTransport(how)));
    }
    if !after.is_done() && snapshot.product().is_mysql() && snapshot.variables().offline_mode {
        after.check("state", Err::<fn() -> String, _>(Refusal::Offline));
    }
    if !after.is_done() {
        after.check("tls", tls(&account, request.transport, snapshot));
    }
    if !after.is_done() {
        let open = || "the account is not locked".to_owned();
        after.check("state", if account.locked { Err(Refusal::Locked(vendor)) } else { Ok(open) });
    }
    if !after.is_done()
        && let Some(how @ InsecureTransport::Afterwards) = insecure
    {
        after.check("tls", Err::<fn() -> String, _>(Refusal::InsecureTransport(how)));
    }
    let expired = account.password.is_expired(snapshot.variables(), request.now);
    let sandbox = expired
        && (request.can_handle_expired_passwords || !snapshot.variables().disconnect_on_expired_password);
    if !after.is_done() {
        let fresh =
            move || if sandbox { "the password is expired: sandbox" } else { "the password is not expired" };
        let fresh = move || fresh().to_owned();
        after.check(
            "state",
            if expired && !sandbox {
                Err(Refusal::PasswordExpired(snapshot.product().vendor()))
            } else {
                Ok(fresh)
            },
        );
    }
    if !after.is_done()
        && let Some(row) = snapshot.mapping(&account, request.user, request.client)
    {
        after.check("state", Err::<fn() -> String, _>(Refusal::ProxyUser { row: row.to_owned() }));
    }
    if !after.is_done()
        && let Some(database) = request.database.filter(|name| !name.is_empty())
    {
        after.check("database", may_use(snapshot, &account, request.client, database));
    }
    // Whether there is such a database is looked at last.
    let is_missing = matches!(after.refusal, Some(Refusal::UnknownDatabase(_)));
    if !after.is_done() || is_missing {
        let masked = snapshot.guard(request.user, request.client, request.proxy);
        let is_narrower = masked == MaskedHost::Narrower;
        let missing = if is_missing { after.refusal.take() } else { None };
        after.check("proxy host", under_the_mask(snapshot, request, masked));
        if is_narrower && let Some(database) = request.database.filter(|name| !name.is_empty()) {
            after.check("database", still_may_use(snapshot, &account, request.proxy, database));
        }
        after.refusal = after.refusal.or(missing);
    }
    let then = after.refusal;
    Verdict::Candidate { account, then, sandbox }
}

/// What stands in the way of a login under the proxy's address.
fn under_the_mask(
    snapshot: &Snapshot,
    request: &LoginRequest<'_>,
    masked: MaskedHost,
) -> Result<impl FnOnce() -> String, Refusal> {
    let is_narrower = match masked {
        MaskedHost::Same => false,
        MaskedHost::Narrower => true,
        MaskedHost::Differs(difference) => return Err(Refusal::GrantsDifferByHost(difference)),
    };
    Ok(move || {
        if !is_narrower {
            return "the same rows apply to the proxy's address".to_owned();
        }
        let apart = snapshot.rows_apart(request.user, request.client, request.proxy);
        format!("by the subset rule, the proxy's address has the same account and nothing more; {apart}")
    })
}

fn describe_host(request: &LoginRequest<'_>) -> String {
    let mut text = format!("the client is {} for the server", request.client.host_or_ip());
    if request.client.name_is_unknown() {
        text.push_str(", which resolves names (to what is not known here)");
    }
    let _ = write!(text, "; the server sees {}", request.proxy.host_or_ip());
    text
}

fn may_use<'s>(
    snapshot: &'s Snapshot,
    account: &'s Account,
    client: &HostIdentity,
    database: &str,
) -> Result<impl FnOnce() -> String + use<'s>, Refusal> {
    let denied = |reason| Refusal::DatabaseDenied {
        account: (account.user.clone(), account.host.clone()),
        database: database.to_owned(),
        reason,
    };
    match snapshot.database_access(account, client, database) {
        DatabaseAccess::Denied => Err(denied(None)),
        DatabaseAccess::NotDecided { reason } => Err(denied(Some(reason))),
        DatabaseAccess::BadName => Err(Refusal::BadDatabaseName(database.to_owned())),
        DatabaseAccess::TooLong => Err(Refusal::TooLongDatabaseName(database.to_owned())),
        DatabaseAccess::Allowed { table, row } => {
            // The schema of every server, whether SHOW DATABASES lists it or not.
            if table.is_empty() || snapshot.has_database(database) {
                Ok(move || if table.is_empty() { row.into_owned() } else { format!("by {table} row {row}") })
            } else {
                Err(Refusal::UnknownDatabase(database.to_owned()))
            }
        }
    }
}

/// Whether the account may use a database from the proxy's address, too, where it may from the client's.
fn still_may_use<'s>(
    snapshot: &'s Snapshot,
    account: &'s Account,
    proxy: &HostIdentity,
    database: &str,
) -> Result<impl FnOnce() -> String + use<'s>, Refusal> {
    may_use(snapshot, account, proxy, database).map_err(|refusal| match refusal {
        Refusal::DatabaseDenied { account, database, .. } => Refusal::DatabaseLost { account, database },
        other => other,
    })
}
