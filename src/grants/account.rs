//! An account, and one row of `mysql.global_priv` read the way `MariaDB` reads it.
//!
//! A field of the wrong JSON type counts as absent (`"account_locked":"true"` is *not* locked). A row whose
//! meaning cannot be told keeps its place in the order, so that no other row wins in its stead, and is never
//! logged in to.

use std::fmt;
use std::net::IpAddr;
use std::time::{SystemTime, UNIX_EPOCH};

use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::host::{HostPattern, HostSyntax};
use super::json::Json;
use super::product::Product;
use super::rows::{GlobalPrivRow, ServerVariables};

/// The plugin of a row that names none.
pub(super) const NATIVE: &str = "mysql_native_password";

/// One way to prove that one is the account's owner.
#[derive(Clone, PartialEq, Eq)]
pub struct Authentication {
    /// Name of the server's plugin, such as `mysql_native_password` or `ed25519`.
    pub plugin: String,
    /// `authentication_string`: the stored hash. Wiped when dropped, never printed.
    pub string: Zeroizing<String>,
}

impl fmt::Debug for Authentication {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authentication").field("plugin", &self.plugin).finish_non_exhaustive()
    }
}

/// Whether a plugin, by the server's name, asks the operating system who is on the other end of a Unix socket.
pub fn asks_the_system(plugin: &str) -> bool {
    matches!(plugin, "unix_socket" | "auth_socket")
}

/// What an account demands of the link it is used on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TlsRequirement {
    /// Nothing.
    None,
    /// `REQUIRE SSL`.
    Any,
    /// `REQUIRE X509`: a client certificate that verifies.
    X509,
    /// `REQUIRE CIPHER / ISSUER / SUBJECT`: TLS that has these; empty is not asked for.
    Specified {
        /// OpenSSL's name of the cipher.
        cipher: String,
        /// The issuer in OpenSSL's one-line form.
        issuer: String,
        /// The subject in OpenSSL's one-line form.
        subject: String,
    },
    /// A number that the server does not know: it refuses every link.
    Impossible,
}

impl TlsRequirement {
    /// Whether a server of this kind lets nobody in without a client certificate that verifies.
    ///
    /// `MariaDB` looks for one only where it is to compare something in it; that is known of 10.11 and later.
    pub fn needs_certificate(&self, product: &Product) -> bool {
        match self {
            Self::None | Self::Any => false,
            Self::X509 | Self::Impossible => true,
            Self::Specified { issuer, subject, .. } => {
                !product.is_mariadb_at_least(10, 11) || !issuer.is_empty() || !subject.is_empty()
            }
        }
    }
}

impl fmt::Display for TlsRequirement {
    /// As the end of "the account requires".
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("nothing of TLS"),
            Self::Any => f.write_str("TLS"),
            Self::X509 => f.write_str("a client certificate"),
            Self::Specified { cipher, issuer, subject } => {
                let of_certificate = [("subject", subject), ("issuer", issuer)];
                let mut parts = Vec::new();
                for (part, text) in of_certificate.into_iter().chain([("cipher", cipher)]) {
                    if !text.is_empty() {
                        parts.push(format!("the {part} {text:?}"));
                    }
                }
                if !issuer.is_empty() || !subject.is_empty() {
                    f.write_str("a client certificate with ")?;
                } else if cipher.is_empty() {
                    f.write_str("TLS")?;
                }
                f.write_str(&parts.join(" and "))
            }
            Self::Impossible => f.write_str("TLS of a kind that no server knows"),
        }
    }
}

/// Limits of an account; 0 is unlimited (for `user_connections`: the server's `max_user_connections`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// `MAX_USER_CONNECTIONS`: connections at one time; a negative number admits none.
    pub user_connections: i64,
    /// `MAX_CONNECTIONS_PER_HOUR`.
    pub connections_per_hour: i64,
    /// `MAX_QUERIES_PER_HOUR`.
    pub questions_per_hour: i64,
    /// `MAX_UPDATES_PER_HOUR`.
    pub updates_per_hour: i64,
}

/// When a password was set and how long it is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PasswordAge {
    /// `password_last_changed` in seconds since 1970; 0 is "expired by an operator", none counts as 1970.
    pub last_changed: Option<i64>,
    /// `password_lifetime` in days; 0 is for ever, negative is the server's `default_password_lifetime`.
    pub lifetime: i64,
}

impl PasswordAge {
    /// Whether the password is expired at `now`.
    pub fn is_expired(&self, variables: &ServerVariables, now: SystemTime) -> bool {
        if self.last_changed == Some(0) {
            return true;
        }
        let lifetime = if self.lifetime < 0 { variables.default_password_lifetime } else { self.lifetime };
        if lifetime == 0 {
            return false;
        }
        let now =
            now.duration_since(UNIX_EPOCH).map_or(0, |d| i64::try_from(d.as_secs()).unwrap_or(i64::MAX));
        now.saturating_sub(self.last_changed.unwrap_or(0)) / 86_400 >= lifetime
    }
}

/// An account, `user@host`, or a role.
pub struct Account {
    /// User name; empty for an anonymous account, which takes any login name.
    pub user: String,
    /// Host pattern; `%` where a row of `MariaDB` has none.
    pub host: String,
    /// Alternatives in the order in which the server tries them; never empty unless the row is unreadable.
    pub authentication: Vec<Authentication>,
    /// `ACCOUNT LOCK`.
    pub locked: bool,
    /// Age of the password.
    pub password: PasswordAge,
    /// What the account demands of the client's link.
    pub tls: TlsRequirement,
    /// Name of the role that is set at login, or several (`MySQL`); empty for none.
    pub default_role: String,
    /// Global privileges as the server's bit mask, after the check of the row's `version_id`.
    pub access: u64,
    /// Limits on resources.
    pub limits: Limits,
    /// `FAILED_LOGIN_ATTEMPTS` of `MySQL`: wrong passwords in a row after which the server blocks the account. The
    /// server counts them itself; nothing here depends on it.
    pub failed_login_limit: Option<u32>,
    /// Partial revokes of `MySQL`: databases with the global privileges that do not count there, as bits of
    /// [`Self::access`].
    pub(super) restrictions: Vec<(String, u64)>,
    /// Why nobody can be logged in to this account, where its row cannot be understood with certainty.
    pub unreadable: Option<String>,
    /// `user@host` as error messages and logs write it.
    pub label: String,
    pub(super) pattern: HostPattern,
    pub(super) rank: u64,
    pub(super) digest: [u8; 32],
}

impl Account {
    /// An account without a password, and with no privilege, limit or demand.
    pub(super) fn new(
        user: &str,
        host: &str,
        pattern: HostPattern,
        rank: impl Fn(&HostPattern) -> u64,
        digest: [u8; 32],
    ) -> Self {
        Self {
            user: user.to_owned(),
            host: host.to_owned(),
            authentication: Vec::new(),
            locked: false,
            password: PasswordAge { last_changed: None, lifetime: -1 },
            tls: TlsRequirement::None,
            default_role: String::new(),
            access: 0,
            limits: Limits::default(),
            failed_login_limit: None,
            restrictions: Vec::new(),
            unreadable: None,
            label: label(user, host),
            rank: rank(&pattern),
            pattern,
            digest,
        }
    }

    /// SHA-256 of the whole row: a link that was logged in under another digest is not this account's any more.
    pub fn digest(&self) -> &[u8; 32] {
        &self.digest
    }

    /// An address that the host stands for; none for a name, and for what matches no address.
    pub fn specimen(&self) -> Option<IpAddr> {
        self.pattern.specimen()
    }

    /// Whether this is an anonymous account.
    pub fn is_anonymous(&self) -> bool {
        self.user.is_empty()
    }

    /// The account as `CURRENT_USER()` gives it: `user@host`.
    pub fn current_user(&self) -> String {
        format!("{}@{}", self.user, self.host)
    }

    /// Whether `other` says the same in everything but the digest of its row.
    pub(super) fn says_the_same(&self, other: &Self) -> bool {
        self.authentication == other.authentication
            && self.locked == other.locked
            && self.password == other.password
            && self.tls == other.tls
            && self.default_role == other.default_role
            && self.access == other.access
            && self.limits == other.limits
            && self.failed_login_limit == other.failed_login_limit
            && self.restrictions == other.restrictions
            && self.unreadable.is_none()
            && other.unreadable.is_none()
    }
}

impl fmt::Debug for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Account")
            .field("account", &self.label)
            .field("authentication", &self.authentication)
            .field("locked", &self.locked)
            .field("password", &self.password)
            .field("tls", &self.tls)
            .field("default_role", &self.default_role)
            .field("access", &format_args!("{:#x}", self.access))
            .field("limits", &self.limits)
            .field("unreadable", &self.unreadable)
            .finish_non_exhaustive()
    }
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.label)
    }
}

/// A row of `MariaDB` as the server keeps it in memory.
pub(super) enum Parsed {
    Account(Box<Account>),
    /// If the server accepts the name for one.
    Role {
        name: String,
        access: u64,
    },
    /// The server leaves the row out.
    Ignored(&'static str),
}

/// Reads a row. `rank` gives the place of its host pattern in the server's order.
pub(super) fn parse(
    row: &GlobalPrivRow,
    skip_name_resolve: bool,
    rank: impl Fn(&HostPattern) -> u64,
) -> Parsed {
    let json = match serde_json::from_str::<Json>(&row.priv_json) {
        Ok(json @ Json::Object(_)) => Ok(json),
        Ok(_) => Err("Priv is not a JSON object".to_owned()),
        // The error names a position and what was expected, not the text itself.
        Err(error) => {
            Err(format!("Priv is not readable JSON (line {} column {})", error.line(), error.column()))
        }
    };
    let fields = json.map(|json| Fields { json });

    if fields.as_ref().is_ok_and(|f| f.is_true("is_role")) {
        let access = fields.and_then(|f| f.access()).unwrap_or(0);
        return Parsed::Role { name: row.user.clone(), access };
    }

    let host = if row.host.is_empty() { "%" } else { row.host.as_str() };
    let pattern = HostPattern::parse(host, HostSyntax::MariaDb);
    if skip_name_resolve && pattern.needs_resolving() {
        return Parsed::Ignored("the host needs name resolving, which the server has switched off");
    }
    let mut account = Account::new(&row.user, host, pattern, rank, row_digest(row));
    match fields.and_then(|f| fill(&mut account, &f, &row.priv_json)) {
        Ok(Kept::Yes) => {}
        Ok(Kept::No) => return Parsed::Ignored("auth_or holds something other than plugins"),
        Err(reason) => account.unreadable = Some(reason),
    }
    Parsed::Account(Box::new(account))
}

/// `'user'@'host'`, as `GRANT` statements write it.
pub(super) fn label(user: &str, host: &str) -> String {
    format!("'{user}'@'{host}'")
}

fn row_digest(row: &GlobalPrivRow) -> [u8; 32] {
    let mut hasher = Sha256::new();
    for part in [&row.host, &row.user, &*row.priv_json] {
        hasher.update((part.len() as u64).to_be_bytes());
        hasher.update(part.as_bytes());
    }
    hasher.finalize().into()
}

enum Kept {
    Yes,
    No,
}

fn fill(account: &mut Account, fields: &Fields, text: &str) -> Result<Kept, String> {
    account.locked = fields.is_true("account_locked");
    account.access = fields.access()?;
    account.default_role = fields.string("default_role")?;
    account.password = PasswordAge {
        last_changed: fields.integer("password_last_changed")?,
        lifetime: fields.integer("password_lifetime")?.unwrap_or(-1),
    };
    // The server keeps limits as 32-bit numbers, and so drops what is above.
    let limit = |name| fields.integer(name).map(|value| value.unwrap_or(0) & 0xffff_ffff);
    account.limits = Limits {
        user_connections: fields.integer("max_user_connections")?.map_or(0, |v| i64::from(v as i32)),
        connections_per_hour: limit("max_connections")?,
        questions_per_hour: limit("max_questions")?,
        updates_per_hour: limit("max_updates")?,
    };
    account.tls = match fields.integer("ssl_type")?.unwrap_or(0) {
        -1 | 0 => TlsRequirement::None,
        1 => TlsRequirement::Any,
        2 => TlsRequirement::X509,
        3 => TlsRequirement::Specified {
            cipher: fields.string("ssl_cipher")?,
            issuer: fields.string("x509_issuer")?,
            subject: fields.string("x509_subject")?,
        },
        _ => TlsRequirement::Impossible,
    };

    let Some(Json::Array(alternatives)) = fields.get("auth_or") else {
        account.authentication = vec![fields.authentication()?];
        return Ok(Kept::Yes);
    };
    // The server takes strings inside auth_or as they are written, escapes and all; only without escapes is
    // the text here the same.
    if text.contains('\\') {
        return Err("auth_or beside escaped characters".to_owned());
    }
    if alternatives.is_empty() {
        return Err("auth_or is empty".to_owned());
    }
    for alternative in alternatives {
        let Json::Object(_) = alternative else { return Ok(Kept::No) };
        let plugin = match alternative.get("plugin") {
            None => {
                account.authentication.push(fields.authentication()?);
                continue;
            }
            Some(Json::String(plugin)) => plugin.clone(),
            Some(_) => return Ok(Kept::No),
        };
        let string = match alternative.get("authentication_string") {
            None => Zeroizing::default(),
            Some(Json::String(string)) => Zeroizing::new(string.clone()),
            Some(_) => return Ok(Kept::No),
        };
        account.authentication.push(Authentication { plugin, string });
    }
    Ok(Kept::Yes)
}

/// The members of the row's JSON object.
struct Fields {
    json: Json,
}

impl Fields {
    fn get(&self, name: &str) -> Option<&Json> {
        self.json.get(name)
    }

    fn is_true(&self, name: &str) -> bool {
        matches!(self.get(name), Some(Json::Bool(true)))
    }

    /// A string; empty if absent or of another type.
    fn string(&self, name: &str) -> Result<String, String> {
        match self.get(name) {
            // The server's strings end at a NUL.
            Some(Json::String(text)) if text.contains('\0') => Err(format!("{name} holds a NUL")),
            Some(Json::String(text)) => Ok(text.clone()),
            _ => Ok(String::new()),
        }
    }

    /// An integer; none if absent or of another type.
    fn integer(&self, name: &str) -> Result<Option<i64>, String> {
        match self.get(name) {
            Some(Json::Integer(value)) => Ok(Some(*value)),
            Some(Json::OtherNumber) => Err(format!("{name} is not an integer")),
            _ => Ok(None),
        }
    }

    fn authentication(&self) -> Result<Authentication, String> {
        let plugin = self.string("plugin")?;
        let plugin = if plugin.is_empty() { NATIVE.to_owned() } else { plugin };
        Ok(Authentication { plugin, string: Zeroizing::new(self.string("authentication_string")?) })
    }

    /// `access`, or nothing if it has bits that the version that wrote the row did not know.
    ///
    /// Privileges that a later version derives from `SUPER` and the like are not added: none of them is one that
    /// gives access to a database.
    fn access(&self) -> Result<u64, String> {
        let access = self.integer("access")?.unwrap_or(0).cast_unsigned();
        if access == u64::MAX {
            return Ok(access);
        }
        let version = self.integer("version_id")?.unwrap_or(0);
        if !(0..=999_999).contains(&version) || (1..100_400).contains(&version) {
            return Ok(0);
        }
        let known_bits = match version {
            ..100_502 => 30,
            100_502..100_508 => 38,
            100_508..110_300 => 39,
            _ => 40,
        };
        Ok(if access >> known_bits == 0 { access } else { 0 })
    }
}
