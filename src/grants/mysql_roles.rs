//! Roles of `MySQL`: granted from account to account, by exact user and host.

use std::collections::{BTreeMap, BTreeSet};

use super::account::{Account, label};
use super::rows::{DefaultRoleRow, RawAccounts};

/// User and host of an account that is a role or has some.
pub(super) type Key = (String, String);

/// Who has been granted what.
#[derive(Debug, Default)]
pub(super) struct RoleGraph {
    /// Every account, since a role is one.
    accounts: BTreeSet<Key>,
    /// Roles granted to an account or a role, without those that do not exist.
    granted: BTreeMap<Key, Vec<Key>>,
    /// Roles that an account gets at login, if it has been granted them.
    defaults: BTreeMap<Key, Vec<Key>>,
    /// `mandatory_roles`; none if its text cannot be read.
    mandatory: Option<Vec<Key>>,
    activate_all: bool,
    activate_mandatory: bool,
}

/// Roles at login.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ActiveRoles {
    /// None: privileges are looked up by patterns of the host.
    None,
    /// Some: privileges are those of exactly these accounts, the login's own among them.
    Some(BTreeSet<Key>),
    /// It cannot be told.
    Unknown(String),
}

impl RoleGraph {
    pub(super) fn build(raw: &RawAccounts) -> Self {
        let accounts: BTreeSet<Key> =
            raw.mysql_users.iter().map(|row| (row.user.clone(), row.host.clone())).collect();
        let mut granted: BTreeMap<Key, Vec<Key>> = BTreeMap::new();
        for row in &raw.role_edges {
            let role = (row.from_user.clone(), row.from_host.clone());
            if accounts.contains(&role) {
                granted.entry((row.to_user.clone(), row.to_host.clone())).or_default().push(role);
            }
        }
        let mut defaults: BTreeMap<Key, Vec<Key>> = BTreeMap::new();
        for row in &raw.default_roles {
            let role = (row.role_user.clone(), row.role_host.clone());
            defaults.entry((row.user.clone(), row.host.clone())).or_default().push(role);
        }
        Self {
            accounts,
            granted,
            defaults,
            mandatory: mandatory(&raw.variables.mandatory_roles),
            activate_all: raw.variables.activate_all_roles_on_login,
            activate_mandatory: raw.variables.activate_mandatory_roles,
        }
    }

    /// What an account has active right after a login.
    pub(super) fn active(&self, account: &Account) -> ActiveRoles {
        let own: Key = (account.user.clone(), account.host.clone());
        let list = |map: &BTreeMap<Key, Vec<Key>>| map.get(&own).cloned().unwrap_or_default();
        let (direct, mandatory) = (list(&self.granted), self.mandatory.as_deref());
        let mut roles: Vec<Key> = Vec::new();
        if self.activate_all || self.activate_mandatory {
            let Some(mandatory) = mandatory else { return unreadable() };
            roles.extend(mandatory.iter().filter(|role| self.accounts.contains(*role)).cloned());
        }
        if self.activate_all {
            roles.extend(direct);
        } else {
            for role in list(&self.defaults).into_iter().filter(|role| self.accounts.contains(role)) {
                if direct.contains(&role) || mandatory.is_some_and(|list| list.contains(&role)) {
                    roles.push(role);
                } else if mandatory.is_none() {
                    return unreadable();
                } else if self.with_inherited(std::slice::from_ref(&own)).contains(&role) {
                    let role = label(&role.0, &role.1);
                    return ActiveRoles::Unknown(format!("role {role} is granted by way of another role"));
                }
            }
        }
        if roles.contains(&own) {
            return ActiveRoles::Unknown("the account is a role of its own".to_owned());
        }
        if roles.is_empty() {
            return ActiveRoles::None;
        }
        let mut members = self.with_inherited(&roles);
        members.insert(own);
        ActiveRoles::Some(members)
    }

    /// Accounts with all roles granted to them, directly or not.
    fn with_inherited(&self, roots: &[Key]) -> BTreeSet<Key> {
        let mut members = BTreeSet::new();
        let mut next: Vec<&Key> = roots.iter().collect();
        while let Some(key) = next.pop() {
            if members.insert(key.clone()) {
                next.extend(self.granted.get(key).into_iter().flatten());
            }
        }
        members
    }
}

fn unreadable() -> ActiveRoles {
    ActiveRoles::Unknown("mandatory_roles cannot be read".to_owned())
}

/// Default roles by account, as operators are shown them.
pub(super) fn default_role_labels(rows: &[DefaultRoleRow]) -> BTreeMap<(&str, &str), String> {
    let mut labels: BTreeMap<(&str, &str), Vec<String>> = BTreeMap::new();
    for row in rows {
        labels.entry((&row.user, &row.host)).or_default().push(label(&row.role_user, &row.role_host));
    }
    labels
        .into_iter()
        .map(|(account, mut roles)| {
            roles.sort_unstable();
            (account, roles.join(", "))
        })
        .collect()
}

/// The accounts of `mandatory_roles`: `role`, `'role'@'host'`, with commas between; a role without a host has `%`.
fn mandatory(text: &str) -> Option<Vec<Key>> {
    let mut rest = text.trim_start();
    let mut roles = Vec::new();
    while !rest.is_empty() {
        let (user, after) = name(rest)?;
        rest = after.trim_start();
        let mut host = "%";
        if let Some(after) = rest.strip_prefix('@') {
            (host, rest) = name(after.trim_start())?;
            rest = rest.trim_start();
        }
        roles.push((user.to_owned(), host.to_ascii_lowercase()));
        match rest.strip_prefix(',') {
            Some(after) if !after.trim().is_empty() => rest = after.trim_start(),
            None if rest.is_empty() => {}
            _ => return None,
        }
    }
    Some(roles)
}

/// A name at the start of a text, in quotes or without; none if it is empty or quoted in any but the simplest way.
fn name(text: &str) -> Option<(&str, &str)> {
    for quote in ['\'', '"', '`'] {
        if let Some(inner) = text.strip_prefix(quote) {
            let (name, after) = inner.split_once(quote)?;
            let is_simple = !name.is_empty() && !name.contains('\\') && !after.starts_with(quote);
            return is_simple.then_some((name, after));
        }
    }
    let is_end = |c: char| matches!(c, '@' | ',' | '\'' | '"' | '`' | '\\') || c.is_whitespace();
    let (name, after) = text.split_at(text.find(is_end).unwrap_or(text.len()));
    (!name.is_empty()).then_some((name, after))
}

#[cfg(test)]
mod tests {
    use super::mandatory;

    #[test]
    fn mandatory_roles_are_read_or_not() {
        let read = |text: &str| {
            let roles = mandatory(text)?;
            Some(roles.iter().map(|(user, host)| format!("{user}@{host}")).collect::<Vec<_>>().join(" "))
        };
        assert_eq!(read("").as_deref(), Some(""));
        assert_eq!(read("r").as_deref(), Some("r@%"));
        assert_eq!(read("`r`@`%`,s@10.0.0.1").as_deref(), Some("r@% s@10.0.0.1"));
        assert_eq!(read(" 'a b' @ 'Local' , \"t\"").as_deref(), Some("a b@local t@%"));
        for text in [",", "r,", "@x", "'r", "''", "'r''s'", "r s", "r@", "'r\\'s'"] {
            assert_eq!(read(text), None, "{text}");
        }
    }
}
