//! How many sessions an account has, and how often it logged in within an hour, where the server limits that.
//!
//! A node counts its own connections only, so a cluster would let in as many times the limit as it has nodes. Counted
//! are the sessions of this Spillway; the nodes go on counting what reaches them in other ways.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::grants::{Account, ConnectionLimits, OverLimit, Snapshot};
use crate::ids::ClusterName;

/// As on the servers, an hour begins with the first login after the one before has passed.
const HOUR: Duration = Duration::from_hours(1);

/// So many accounts are remembered before those without sessions are looked through for what can be forgotten.
const REMEMBERED: usize = 10_000;

/// Whose sessions are counted together.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Who {
    cluster: ClusterName,
    /// That of the account, or with `old_style_user_limits` that of the login.
    user: Vec<u8>,
    /// That of the account, or with `old_style_user_limits` that of the client.
    host: String,
}

impl Who {
    /// Whose count a login falls under, as the server keeps it. `client`: the name or address of the client's host.
    pub fn new(
        snapshot: &Snapshot,
        cluster: &ClusterName,
        account: &Account,
        user: &[u8],
        client: &str,
    ) -> Self {
        let (user, host) = if snapshot.counts_by_client_host() {
            (user.to_vec(), client)
        } else {
            (account.user.clone().into_bytes(), &*account.host)
        };
        Self { cluster: cluster.clone(), user, host: host.to_owned() }
    }
}

/// What is counted.
#[derive(Debug, Clone, Copy)]
struct Count {
    open: u32,
    logins: u32,
    hour: Instant,
}

impl Count {
    fn new(now: Instant) -> Self {
        Self { open: 0, logins: 0, hour: now }
    }

    fn this_hour(&self, now: Instant) -> u32 {
        if now.duration_since(self.hour) < HOUR { self.logins } else { 0 }
    }
}

/// The counts of all accounts with limits, of all clusters.
#[derive(Debug, Default)]
pub struct AccountCounts(Mutex<HashMap<Who, Count>>);

/// A session that counts for its account until this is dropped.
#[derive(Debug)]
pub struct OfAccount {
    counts: Arc<AccountCounts>,
    who: Box<Who>,
}

impl AccountCounts {
    /// Counts a login and its session, or says which limit forbids it. A login that is refused counts for nothing.
    ///
    /// `instead_of`: the place that the session gives up for this one.
    ///
    /// # Errors
    /// The limit.
    pub fn enter(
        self: &Arc<Self>,
        who: Who,
        limits: &ConnectionLimits,
        instead_of: Option<&OfAccount>,
        now: Instant,
    ) -> Result<OfAccount, OverLimit> {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let before = counts.get(&who).copied().unwrap_or_else(|| Count::new(now));
        let logins = before.this_hour(now);
        let own = u32::from(instead_of.is_some_and(|own| *own.who == who));
        if let Some(over) = limits.exceeded(before.open.saturating_sub(own), logins) {
            return Err(over);
        }
        if counts.len() >= REMEMBERED && !counts.contains_key(&who) {
            make_room(&mut counts, now);
        }
        let hour = if now.duration_since(before.hour) < HOUR { before.hour } else { now };
        counts.insert(who.clone(), Count { open: before.open + 1, logins: logins.saturating_add(1), hour });
        Ok(OfAccount { counts: Arc::clone(self), who: Box::new(who) })
    }

    /// Sessions now, and logins of this hour.
    pub fn of(&self, who: &Who, now: Instant) -> (u32, u32) {
        let counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        counts.get(who).map_or((0, 0), |count| (count.open, count.this_hour(now)))
    }
}

/// Forgets who has no session and did not log in within the hour; if that is not enough, everybody without a session:
/// the nodes remember their own hours.
fn make_room(counts: &mut HashMap<Who, Count>, now: Instant) {
    counts.retain(|_, count| count.open > 0 || count.this_hour(now) > 0);
    if counts.len() >= REMEMBERED {
        counts.retain(|_, count| count.open > 0);
    }
}

impl OfAccount {
    /// Whether the session is counted there.
    pub fn is_of(&self, who: &Who) -> bool {
        *self.who == *who
    }
}

impl Drop for OfAccount {
    fn drop(&mut self) {
        let mut counts = self.counts.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&*self.who) {
            count.open = count.open.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn who(cluster: &str, user: &str) -> Who {
        Who { cluster: cluster.parse().unwrap(), user: user.into(), host: "%".into() }
    }

    fn at_once(limit: i64) -> ConnectionLimits {
        ConnectionLimits { of_account: Some(limit), ..ConnectionLimits::default() }
    }

    #[test]
    fn sessions_are_counted_for_each_account_of_each_cluster_until_they_end() {
        let (counts, now) = (Arc::new(AccountCounts::default()), Instant::now());
        let enter = |cluster, user| counts.enter(who(cluster, user), &at_once(1), None, now);
        let first = enter("shop", "ann").unwrap();
        assert_eq!(enter("shop", "ann").unwrap_err(), OverLimit::Account(1));
        let _others = (enter("crm", "ann").unwrap(), enter("shop", "bob").unwrap());
        assert_eq!(counts.of(&who("shop", "ann"), now), (1, 1), "the refused login counts for nothing");
        drop(first);
        assert!(enter("shop", "ann").is_ok());
    }

    #[test]
    fn a_session_may_take_another_place_in_place_of_its_own() {
        let (counts, now) = (Arc::new(AccountCounts::default()), Instant::now());
        let limits = ConnectionLimits { per_hour: Some(3), ..at_once(1) };
        let enter = |user, own: Option<&OfAccount>| counts.enter(who("shop", user), &limits, own, now);
        let first = enter("ann", None).unwrap();
        let again = enter("ann", Some(&first)).unwrap();
        drop(first);
        assert_eq!(counts.of(&who("shop", "ann"), now), (1, 2), "one session, two logins");
        assert_eq!(enter("ann", None).unwrap_err(), OverLimit::Account(1));
        let other = enter("bob", None).unwrap();
        assert_eq!(
            enter("ann", Some(&other)).unwrap_err(),
            OverLimit::Account(1),
            "a place of another account"
        );
        let last = enter("ann", Some(&again)).unwrap();
        drop(again);
        assert_eq!(enter("ann", Some(&last)).unwrap_err(), OverLimit::PerHour(3));
    }

    #[test]
    fn a_session_that_panics_is_counted_no_longer() {
        let (counts, now) = (Arc::new(AccountCounts::default()), Instant::now());
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let _counted = counts.enter(who("shop", "ann"), &at_once(1), None, now).unwrap();
            panic!("in a session");
        }));
        assert!(panicked.is_err());
        assert!(counts.enter(who("shop", "ann"), &at_once(1), None, now).is_ok());
    }

    #[test]
    fn an_hour_begins_with_its_first_login() {
        let (counts, start) = (Arc::new(AccountCounts::default()), Instant::now());
        let limits = ConnectionLimits { per_hour: Some(2), ..ConnectionLimits::default() };
        let enter = |minutes: u64| {
            let now = start + Duration::from_mins(minutes);
            counts.enter(who("shop", "ann"), &limits, None, now).map(drop)
        };
        assert_eq!((enter(0), enter(50)), (Ok(()), Ok(())));
        assert_eq!(enter(59), Err(OverLimit::PerHour(2)));
        assert_eq!((enter(60), enter(61)), (Ok(()), Ok(())));
        assert_eq!(enter(119), Err(OverLimit::PerHour(2)));
        assert_eq!(enter(120), Ok(()));
    }

    #[test]
    fn no_more_is_remembered_than_needed() {
        let (counts, now) = (Arc::new(AccountCounts::default()), Instant::now());
        let open = counts.enter(who("shop", "open"), &at_once(1), None, now).unwrap();
        for n in 0..2 * REMEMBERED {
            drop(counts.enter(who("shop", &n.to_string()), &at_once(1), None, now));
        }
        assert!(counts.0.lock().unwrap().len() <= REMEMBERED);
        assert!(counts.enter(who("shop", "open"), &at_once(1), None, now).is_err());
        drop(open);
    }
}
