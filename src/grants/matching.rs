//! Which account a login gets: the first matching row in the server's order.

use std::sync::Arc;

use super::account::Account;
use super::host::{HostIdentity, Match};
use super::product::Product;
use super::snapshot::Snapshot;

/// The account that the server would choose.
#[derive(Clone, Debug)]
pub enum Found<'s> {
    /// This one.
    Account(&'s Arc<Account>),
    /// None: the server lets the login fail.
    Unknown,
    /// It cannot be told from the rows alone.
    Undecidable {
        /// Why, naming the row that stands in the way.
        reason: String,
    },
    /// The server would change the login name before it looks, or cut it.
    BadName {
        /// What is wrong with it.
        reason: &'static str,
    },
}

/// What a walk over the rows saw; for the trace.
pub(super) trait Observer {
    /// Whether rows behind the chosen one are of interest.
    const SEES_ALL: bool;
    fn saw(&mut self, account: &Account, outcome: Match, chosen: bool);
}

/// Sees nothing, costs nothing.
pub(super) struct Blind;

impl Observer for Blind {
    const SEES_ALL: bool = false;

    fn saw(&mut self, _: &Account, _: Match, _: bool) {}
}

impl Snapshot {
    /// Whether some row of some user may match the client. If none does, the server sends error 1130 in place of
    /// its greeting. A row that depends on an unknown name counts as one that may.
    pub fn any_row_matches(&self, client: &HostIdentity) -> bool {
        self.admission(client) != Match::No
    }

    /// Whether the server lets the client reach the greeting.
    pub(super) fn admission(&self, client: &HostIdentity) -> Match {
        let mut admission = Match::No;
        for account in &self.hosts {
            match account.pattern.admits(client) {
                Match::Yes => return Match::Yes,
                Match::Maybe => admission = Match::Maybe,
                Match::No => {}
            }
        }
        admission
    }

    /// The account that the server would choose for a login name, which is compared byte by byte.
    ///
    /// An anonymous row is chosen only where its host is strictly more specific than that of the best row of
    /// the named user, or that user has none.
    pub fn find(&self, user: &[u8], client: &HostIdentity) -> Found<'_> {
        self.find_observed(user, client, &mut Blind)
    }

    pub(super) fn find_observed<O: Observer>(
        &self,
        user: &[u8],
        client: &HostIdentity,
        observer: &mut O,
    ) -> Found<'_> {
        if let Product::Unsupported { .. } = self.product {
            return Found::Undecidable {
                reason: format!("{}: its order of accounts is not known", self.product),
            };
        }
        let user = match login_name(user, self.product.longest_user_name()) {
            Ok(user) => user,
            Err(reason) => return Found::BadName { reason },
        };
        if !client.is_textual() {
            let reason =
                format!("how the server writes the link-local address {} is not known", client.host_or_ip());
            return Found::Undecidable { reason };
        }

        let mut chosen: Option<&Arc<Account>> = None;
        let mut obstacle: Option<&Account> = None;
        let mut rival: Option<&Account> = None;
        for account in self.candidates(user) {
            let outcome = account.pattern.matches(client);
            let wins = outcome == Match::Yes && chosen.is_none();
            observer.saw(account, outcome, wins && obstacle.is_none());
            match outcome {
                Match::Maybe if chosen.is_none() => obstacle = obstacle.or(Some(account)),
                Match::Yes if chosen.is_none() => chosen = Some(account),
                Match::Maybe | Match::Yes
                    if chosen.is_some_and(|first| self.product.ties(first, account)) =>
                {
                    rival = rival.or(Some(account));
                }
                Match::No | Match::Maybe | Match::Yes => {}
            }
            if chosen.is_some_and(|first| !self.product.ties(first, account)) && !O::SEES_ALL {
                break;
            }
        }
        match (obstacle, chosen) {
            (Some(row), _) => {
                Found::Undecidable { reason: format!("{row} comes first {}", row.pattern.condition()) }
            }
            (None, Some(account)) if rival.is_some() => {
                let rival = rival.map_or("", |rival| rival.label.as_str());
                let reason =
                    format!("{account} and {rival} both match, and the server promises no order for the two");
                Found::Undecidable { reason }
            }
            (None, Some(account)) => match &account.unreadable {
                Some(reason) => Found::Undecidable { reason: format!("{account}: {reason}") },
                None => Found::Account(account),
            },
            (None, None) => Found::Unknown,
        }
    }

    /// The rows that can be chosen for a name, the first to be tried first.
    pub(super) fn candidates<'s>(&'s self, user: &str) -> impl Iterator<Item = &'s Arc<Account>> + use<'s> {
        let rows = |user| self.rows_of(user).map(|rows| rows.accounts.as_slice()).unwrap_or_default();
        let mut named = rows(user).iter().peekable();
        let anonymous = if user.is_empty() { [].as_slice() } else { rows("") };
        let mut anonymous = anonymous.iter().peekable();
        std::iter::from_fn(move || match (named.peek(), anonymous.peek()) {
            (Some(a), Some(b)) if b.rank < a.rank => anonymous.next(),
            (Some(_), _) => named.next(),
            (None, _) => anonymous.next(),
        })
    }
}

/// A login name that the server takes as it is.
pub(super) fn login_name(user: &[u8], longest: usize) -> Result<&str, &'static str> {
    let name = std::str::from_utf8(user).map_err(|_| "the user name is not UTF-8")?;
    if name.contains('\0') {
        return Err("the user name holds a NUL");
    }
    if name.chars().any(|c| c > '\u{ffff}') {
        return Err("the user name holds characters that the server's utf8mb3 lacks");
    }
    if name.len() > 1 && name.starts_with('\'') && name.ends_with('\'') {
        return Err("the user name is in quotes, which the server strips");
    }
    if name.chars().count() > longest {
        return Err("the user name is too long");
    }
    Ok(name)
}
