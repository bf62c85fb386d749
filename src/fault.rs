//! Whose fault a failure is, what the client may see of it, and its label in metrics and log.
//!
//! Every session ends with one [`Outcome`]. An error that a client sees is made here or comes from
//! a node byte for byte; no other module invents error numbers.

use crate::wire::packet::Err as ErrPacket;

/// Whose fault a failure is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Blame {
    /// The client: wrong password, broken packets, gone away.
    Client,
    /// A node or its cluster.
    Server,
    /// Spillway or its configuration.
    Proxy,
}

impl Blame {
    /// One word for log and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Server => "server",
            Self::Proxy => "proxy",
        }
    }
}

/// A failure that ends a session or a login attempt.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub struct Fault {
    /// Whose it is.
    pub blame: Blame,
    /// Fixed label for metrics, such as `access_denied`.
    pub label: &'static str,
    /// For the log; may say more than the client may know.
    pub detail: String,
    /// What the client is told; none: the connection just closes.
    pub reply: Option<ErrPacket>,
}

/// Who is named in an error about a login: the name as sent and the address as the server would show it.
#[derive(Debug, Clone, Copy)]
pub struct Login<'a> {
    /// Login name.
    pub user: &'a [u8],
    /// Host name or address.
    pub host: &'a str,
    /// What is said of its password.
    pub password: PasswordUse,
}

/// What a refused login is told about its password, as the server's plugin that was tried last has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PasswordUse {
    /// `(using password: YES)`.
    Given,
    /// `(using password: NO)`.
    NotGiven,
    /// Nothing, and error 1698: passwords do not count for such an account.
    Unmentioned,
}

impl From<bool> for PasswordUse {
    fn from(is_given: bool) -> Self {
        if is_given { Self::Given } else { Self::NotGiven }
    }
}

impl Fault {
    /// A failure without a word to the client.
    pub fn silent(blame: Blame, label: &'static str, detail: impl Into<String>) -> Self {
        Self { blame, label, detail: detail.into(), reply: None }
    }

    /// A failure that the client is told about in the given packet.
    pub fn told(blame: Blame, label: &'static str, detail: impl Into<String>, reply: ErrPacket) -> Self {
        Self { blame, label, detail: detail.into(), reply: Some(reply) }
    }

    /// The error that the client is told, if it is told one.
    pub fn code(&self) -> Option<u16> {
        self.reply.as_ref().map(|reply| reply.code)
    }

    /// 1130: no row of any user matches this host. Sent in place of the greeting.
    pub fn host_not_allowed(host: &str, product: &str) -> Self {
        let text = format!("Host '{host}' is not allowed to connect to this {product} server");
        Self::told(Blame::Client, "host_not_allowed", text.clone(), ErrPacket::new(1130, b"HY000", text))
    }

    /// 1045, or 1698 where passwords do not count: no such account, wrong password, or refused for a reason that only the log
    /// tells.
    pub fn access_denied(login: Login<'_>, reason: &str) -> Self {
        let mut text = b"Access denied for user '".to_vec();
        text.extend_from_slice(login.user);
        let (code, said) = match login.password {
            PasswordUse::Given => (1045, " (using password: YES)"),
            PasswordUse::NotGiven => (1045, " (using password: NO)"),
            PasswordUse::Unmentioned => (1698, ""),
        };
        text.extend_from_slice(format!("'@'{}'{said}", login.host).as_bytes());
        let detail = format!("{}: {reason}", String::from_utf8_lossy(&text));
        Self::told(Blame::Client, "access_denied", detail, ErrPacket::new(code, b"28000", text))
    }

    /// 1251: the client cannot do what the account's plugin needs.
    pub fn client_too_old() -> Self {
        let text = "Client does not support authentication protocol requested by server; consider upgrading MariaDB client";
        Self::told(Blame::Client, "client_too_old", text, ErrPacket::new(1251, b"08004", text))
    }

    /// 1040: no node, no room, or no accounts, with the reason in the text.
    pub fn unavailable(label: &'static str, reason: impl std::fmt::Display) -> Self {
        let detail = format!("Too many connections: {reason}");
        Self::told(Blame::Server, label, detail.clone(), ErrPacket::new(1040, b"08004", detail))
    }

    /// 1040 because of a limit that the configuration sets.
    pub fn limit(label: &'static str, reason: impl std::fmt::Display) -> Self {
        Self { blame: Blame::Client, ..Self::unavailable(label, reason) }
    }

    /// 1203: a limit of sessions for each user.
    pub fn too_many_of_user(user: &[u8]) -> Self {
        let user = String::from_utf8_lossy(user);
        let text = format!("User {user} already has more than 'max_user_connections' active connections");
        let reply = ErrPacket::new(1203, b"42000", text.clone());
        Self::told(Blame::Client, "max_sessions_per_user", text, reply)
    }

    /// 4031: nothing came from the client for so long.
    pub fn idle(limit: std::time::Duration) -> Self {
        let text = format!("The client was disconnected because of inactivity for {} s", limit.as_secs());
        Self::told(Blame::Client, "idle_timeout", text.clone(), ErrPacket::new(4031, b"HY000", text))
    }

    /// 1043: what the client sent is no handshake.
    pub fn bad_handshake(detail: impl std::fmt::Display) -> Self {
        let reply = ErrPacket::new(1043, b"08S01", "Bad handshake");
        Self::told(Blame::Client, "bad_handshake", format!("bad handshake: {detail}"), reply)
    }

    /// 1047: a command that the server would not know in this state.
    pub fn unknown_command(detail: impl Into<String>) -> Self {
        let reply = ErrPacket::new(1047, b"08S01", "Unknown command");
        Self::told(Blame::Client, "unknown_command", detail, reply)
    }

    /// 3159: the service is for clients with TLS only.
    pub fn insecure_transport() -> Self {
        let text = "Connections using insecure transport are prohibited while --require_secure_transport=ON.";
        Self::told(Blame::Client, "tls_required", text, ErrPacket::new(3159, b"08004", text))
    }

    /// 1105: Spillway cannot do what was asked, and says why.
    pub fn refused(label: &'static str, reason: impl std::fmt::Display) -> Self {
        let text = format!("Spillway: {reason}");
        Self::told(Blame::Proxy, label, text.clone(), ErrPacket::new(1105, b"HY000", text))
    }

    /// 1927: the session is ended from outside.
    pub fn killed(label: &'static str, blame: Blame, reason: impl std::fmt::Display) -> Self {
        let text = format!("Connection was killed: {reason}");
        Self::told(blame, label, text.clone(), ErrPacket::new(1927, b"70100", text))
    }

    /// 1053: Spillway shuts down.
    pub fn shutdown() -> Self {
        let text = "Server shutdown in progress";
        Self::told(Blame::Proxy, "shutdown", text, ErrPacket::new(1053, b"08S01", text))
    }

    /// The client went away.
    pub fn client_gone(detail: impl std::fmt::Display) -> Self {
        Self::silent(Blame::Client, "client_gone", format!("client connection: {detail}"))
    }

    /// A node broke the protocol.
    pub fn bad_node(detail: impl std::fmt::Display) -> Self {
        Self::told(
            Blame::Server,
            "bad_node",
            format!("node broke the protocol: {detail}"),
            ErrPacket::new(1105, b"HY000", "Spillway: the server sent a malformed packet"),
        )
    }
}

/// How a session ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The client said goodbye or closed its connection between statements.
    Completed,
    /// Anything else.
    Failed(Fault),
}

impl Outcome {
    /// Label for metrics: `completed` or the fault's.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Failed(fault) => fault.label,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_log_says_is_not_told_to_the_client() {
        let login = Login { user: b"app", host: "10.0.0.7", password: PasswordUse::Given };
        let fault = Fault::access_denied(login, "no account matches");
        let reply = fault.reply.unwrap();
        assert_eq!(reply.text(), "Access denied for user 'app'@'10.0.0.7' (using password: YES)");
        assert_eq!((reply.code, &reply.sqlstate), (1045, b"28000"));
        assert!(fault.detail.contains("no account matches"));
        let login = Login { password: PasswordUse::Unmentioned, ..login };
        let reply = Fault::access_denied(login, "no account matches").reply.unwrap();
        assert_eq!((reply.code, &*reply.text()), (1698, "Access denied for user 'app'@'10.0.0.7'"));
    }
}
