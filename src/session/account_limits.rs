//! How many sessions an account has, how often it logged in within an hour, and how many statements it ran, where the
//! server limits that.
//!
//! A node counts for itself only, so a cluster would let in and run as many times the limit as it has nodes. Counted
//! is what goes through this Spillway; the nodes go on counting what reaches them.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, Guard};

use crate::accounts::Accounts;
use crate::fault::{Blame, Fault};
use crate::grants::{Account, AccountLimits, OverLimit, Snapshot, Vendor};
use crate::ids::ClusterName;
use crate::wire::packet::Err as ErrPacket;

/// As on the servers, an hour begins with the first login or statement after the one before has passed.
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

/// What is counted of one account.
#[derive(Debug)]
struct Count {
    /// Sessions. Changed under the lock of [`AccountCounts`] only.
    open: AtomicU32,
    hour: ArcSwap<Hour>,
}

/// What was done since an hour began, and what may be.
#[derive(Debug)]
struct Hour {
    began: Instant,
    limits: AccountLimits,
    logins: AtomicU32,
    queries: AtomicU64,
    updates: AtomicU64,
}

/// What was counted of an account.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Sessions now.
    pub open: u32,
    /// Logins of this hour.
    pub logins: u32,
    /// Queries of this hour; none are counted where there is no limit.
    pub queries: u64,
    /// Updates of this hour; none are counted where there is no limit.
    pub updates: u64,
}

/// The counts of all accounts with limits, of all clusters.
#[derive(Debug, Default)]
pub struct AccountCounts(Mutex<HashMap<Who, Arc<Count>>>);

/// A session that counts for its account until this is dropped.
#[derive(Debug)]
pub struct OfAccount {
    counts: Arc<AccountCounts>,
    who: Box<Who>,
    count: Arc<Count>,
}

/// What a session may do of what its account may do in an hour, which all sessions of the account share.
#[derive(Debug, Clone)]
pub struct Allowance {
    count: Arc<Count>,
    account: Arc<Account>,
    vendor: Vendor,
}

// === impl Count, Hour ===

impl Hour {
    fn first(began: Instant, limits: AccountLimits) -> Self {
        let (logins, queries, updates) = (AtomicU32::new(0), AtomicU64::new(0), AtomicU64::new(0));
        Self { began, limits, logins, queries, updates }
    }

    /// The hour after one that has passed. The servers have it begin with one query that nobody ran.
    fn next(&self, began: Instant) -> Self {
        Self { queries: AtomicU64::new(1), ..Self::first(began, self.limits) }
    }

    /// The same hour with other limits, and what was done by now.
    fn with(&self, limits: AccountLimits) -> Self {
        Self {
            began: self.began,
            limits,
            logins: AtomicU32::new(self.logins.load(Ordering::Relaxed)),
            queries: AtomicU64::new(self.queries.load(Ordering::Relaxed)),
            updates: AtomicU64::new(self.updates.load(Ordering::Relaxed)),
        }
    }

    fn is_over(&self, now: Instant) -> bool {
        now.duration_since(self.began) >= HOUR
    }
}

impl Count {
    fn new(limits: AccountLimits, now: Instant) -> Self {
        Self { open: AtomicU32::new(0), hour: ArcSwap::from_pointee(Hour::first(now, limits)) }
    }

    /// The hour that it is. Takes no lock.
    fn hour(&self, now: Instant) -> Guard<Arc<Hour>> {
        let hour = self.hour.load();
        if !hour.is_over(now) {
            return hour;
        }
        // Whoever comes first begins it for all.
        self.hour.compare_and_swap(&hour, Arc::new(hour.next(now)));
        self.hour.load()
    }

    /// Other limits are in force from now on. `MySQL` then counts anew.
    fn limit(&self, limits: AccountLimits, vendor: Vendor, now: Instant) {
        let hour = self.hour(now);
        if hour.limits != limits {
            self.hour.store(Arc::new(match vendor {
                Vendor::MySql => Hour::first(hour.began, limits),
                Vendor::MariaDb => hour.with(limits),
            }));
        }
    }

    fn is_forgettable(&self, now: Instant) -> bool {
        let hour = self.hour.load();
        self.open.load(Ordering::Relaxed) == 0 && hour.is_over(now)
    }
}

// === impl AccountCounts ===

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
        limits: &AccountLimits,
        vendor: Vendor,
        instead_of: Option<&OfAccount>,
        now: Instant,
    ) -> Result<OfAccount, OverLimit> {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = counts.get(&who).cloned();
        if let Some(count) = &known {
            count.limit(limits.of_row(), vendor, now);
        }
        let (open, logins) = known.as_ref().map_or((0, 0), |count| {
            (count.open.load(Ordering::Relaxed), count.hour(now).logins.load(Ordering::Relaxed))
        });
        let own = u32::from(instead_of.is_some_and(|own| *own.who == who));
        if let Some(over) = limits.exceeded(open.saturating_sub(own), logins) {
            return Err(over);
        }
        let count = known.unwrap_or_else(|| {
            if counts.len() >= REMEMBERED {
                make_room(&mut counts, now);
            }
            let count = Arc::new(Count::new(limits.of_row(), now));
            counts.insert(who.clone(), Arc::clone(&count));
            count
        });
        count.open.fetch_add(1, Ordering::Relaxed);
        count.hour(now).logins.fetch_add(1, Ordering::Relaxed);
        Ok(OfAccount { counts: Arc::clone(self), who: Box::new(who), count })
    }

    /// Takes the limits of accounts that were read anew, for the sessions that there are, too. An account that is gone keeps
    /// its own, as on the servers.
    pub fn renew(&self, accounts: &Accounts, now: Instant) {
        let clusters: HashMap<_, _> = accounts
            .iter()
            .filter(|(_, of_cluster)| !of_cluster.snapshot.counts_by_client_host())
            .map(|(cluster, of_cluster)| {
                let snapshot = &of_cluster.snapshot;
                let limits = snapshot.accounts().map(|account| {
                    let limits = snapshot.limits(account).unwrap_or_default();
                    ((account.user.as_bytes(), &*account.host), limits.of_row())
                });
                (cluster, (limits.collect::<HashMap<(&[u8], &str), _>>(), snapshot.product().vendor()))
            })
            .collect();
        let counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (who, count) in &*counts {
            let Some((limits, vendor)) = clusters.get(&who.cluster) else { continue };
            if let Some(limits) = limits.get(&(&*who.user, &*who.host)) {
                count.limit(*limits, *vendor, now);
            }
        }
    }

    /// Begins the hour anew for all accounts of a cluster, as `FLUSH USER_RESOURCES` does. Returns how many are counted.
    pub fn clear(&self, cluster: &ClusterName, now: Instant) -> usize {
        let counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let of_cluster = counts.iter().filter(|(who, _)| who.cluster == *cluster);
        of_cluster
            .map(|(_, count)| {
                let hour = count.hour(now);
                count.hour.store(Arc::new(Hour::first(hour.began, hour.limits)));
            })
            .count()
    }

    /// What was counted.
    pub fn of(&self, who: &Who, now: Instant) -> Usage {
        let counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        counts.get(who).map_or_else(Usage::default, |count| {
            let open = count.open.load(Ordering::Relaxed);
            let hour = count.hour.load();
            if hour.is_over(now) {
                return Usage { open, ..Usage::default() };
            }
            Usage {
                open,
                logins: hour.logins.load(Ordering::Relaxed),
                queries: hour.queries.load(Ordering::Relaxed),
                updates: hour.updates.load(Ordering::Relaxed),
            }
        })
    }
}

/// Forgets whose hour is over and who has no session; if that is not enough, everybody without a session: the nodes
/// remember their own hours.
fn make_room(counts: &mut HashMap<Who, Arc<Count>>, now: Instant) {
    counts.retain(|_, count| !count.is_forgettable(now));
    if counts.len() >= REMEMBERED {
        counts.retain(|_, count| count.open.load(Ordering::Relaxed) > 0);
    }
}

// === impl OfAccount, Allowance ===

impl OfAccount {
    /// Whether the session is counted there.
    pub fn is_of(&self, who: &Who) -> bool {
        *self.who == *who
    }

    /// What the session may do; none: nobody counts that. As on the servers, a session that begins without such a limit
    /// goes on without.
    pub fn allowance(&self, account: &Arc<Account>, vendor: Vendor) -> Option<Allowance> {
        let limited = self.count.hour.load().limits.limit_statements();
        limited.then(|| Allowance { count: Arc::clone(&self.count), account: Arc::clone(account), vendor })
    }
}

impl Drop for OfAccount {
    fn drop(&mut self) {
        let _changes = self.counts.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Not below zero: nobody else is counted there.
        let _ =
            self.count.open.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |open| open.checked_sub(1));
    }
}

impl Allowance {
    /// Whose words the server uses.
    pub fn vendor(&self) -> Vendor {
        self.vendor
    }

    /// Counts a statement before it is run, or says which limit forbids it; one that is refused counts, too. Queries come
    /// first, as on the servers.
    ///
    /// # Errors
    /// The limit.
    pub fn take(&self, is_update: bool, now: Instant) -> Result<(), OverLimit> {
        let hour = self.count.hour(now);
        let spent = |count: &AtomicU64, limit: i64| {
            count.fetch_add(1, Ordering::Relaxed) >= u64::try_from(limit).unwrap_or(0)
        };
        if let Some(limit) = hour.limits.queries
            && spent(&hour.queries, limit)
        {
            return Err(OverLimit::Queries(limit));
        }
        if is_update
            && let Some(limit) = hour.limits.updates
            && spent(&hour.updates, limit)
        {
            return Err(OverLimit::Updates(limit));
        }
        Ok(())
    }

    /// A statement that was counted is none for the server.
    pub fn give_back(&self, is_update: bool) {
        let hour = self.count.hour.load();
        // Not below zero: another hour may have begun.
        let less = |count: &AtomicU64| {
            let _ = count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |count| count.checked_sub(1));
        };
        if hour.limits.queries.is_some() {
            less(&hour.queries);
        }
        if is_update && hour.limits.updates.is_some() {
            less(&hour.updates);
        }
    }

    /// What the client is told.
    pub fn fault(&self, over: OverLimit) -> Fault {
        over_limit(over, &self.account, self.vendor)
    }
}

/// A limit in the server's words.
pub(super) fn over_limit(over: OverLimit, account: &Account, vendor: Vendor) -> Fault {
    let told = ErrPacket::new(over.code(), b"42000", over.client_message(&account.user, vendor));
    let detail = format!("{} (account {account}: {over})", told.text());
    Fault::told(Blame::Client, "account_limit", detail, told)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MARIADB: Vendor = Vendor::MariaDb;

    fn who(cluster: &str, user: &str) -> Who {
        Who { cluster: cluster.parse().unwrap(), user: user.into(), host: "%".into() }
    }

    fn at_once(limit: i64) -> AccountLimits {
        AccountLimits { of_account: Some(limit), ..AccountLimits::default() }
    }

    #[test]
    fn sessions_are_counted_for_each_account_of_each_cluster_until_they_end() {
        let (counts, now) = (Arc::new(AccountCounts::default()), Instant::now());
        let enter = |cluster, user| counts.enter(who(cluster, user), &at_once(1), MARIADB, None, now);
        let first = enter("shop", "ann").unwrap();
        assert_eq!(enter("shop", "ann").unwrap_err(), OverLimit::Account(1));
        let _others = (enter("crm", "ann").unwrap(), enter("shop", "bob").unwrap());
        let of_ann = counts.of(&who("shop", "ann"), now);
        assert_eq!((of_ann.open, of_ann.logins), (1, 1), "the refused login counts for nothing");
        drop(first);
        assert!(enter("shop", "ann").is_ok());
    }

    #[test]
    fn a_session_may_take_another_place_in_place_of_its_own() {
        let (counts, now) = (Arc::new(AccountCounts::default()), Instant::now());
        let limits = AccountLimits { per_hour: Some(3), ..at_once(1) };
        let enter =
            |user, own: Option<&OfAccount>| counts.enter(who("shop", user), &limits, MARIADB, own, now);
        let first = enter("ann", None).unwrap();
        let again = enter("ann", Some(&first)).unwrap();
        drop(first);
        let of_ann = counts.of(&who("shop", "ann"), now);
        assert_eq!((of_ann.open, of_ann.logins), (1, 2), "one session, two logins");
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
            let _counted = counts.enter(who("shop", "ann"), &at_once(1), MARIADB, None, now).unwrap();
            panic!("in a session");
        }));
        assert!(panicked.is_err());
        assert!(counts.enter(who("shop", "ann"), &at_once(1), MARIADB, None, now).is_ok());
    }

    #[test]
    fn an_hour_begins_with_its_first_login() {
        let (counts, start) = (Arc::new(AccountCounts::default()), Instant::now());
        let limits = AccountLimits { per_hour: Some(2), ..AccountLimits::default() };
        let enter = |minutes: u64| {
            let now = start + Duration::from_mins(minutes);
            counts.enter(who("shop", "ann"), &limits, MARIADB, None, now).map(drop)
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
        let open = counts.enter(who("shop", "open"), &at_once(1), MARIADB, None, now).unwrap();
        for n in 0..2 * REMEMBERED {
            drop(counts.enter(who("shop", &n.to_string()), &at_once(1), MARIADB, None, now));
        }
        assert!(counts.0.lock().unwrap().len() <= REMEMBERED);
        assert!(counts.enter(who("shop", "open"), &at_once(1), MARIADB, None, now).is_err());
        drop(open);
    }

    /// The limits of an account, and a session of it that was let in.
    fn limited(queries: i64, updates: i64, now: Instant) -> (Arc<AccountCounts>, OfAccount) {
        let counts = Arc::new(AccountCounts::default());
        let of_ann = counts.enter(who("shop", "ann"), &of_statements(queries, updates), MARIADB, None, now);
        (counts, of_ann.unwrap())
    }

    fn of_statements(queries: i64, updates: i64) -> AccountLimits {
        let set = |limit| (limit > 0).then_some(limit);
        AccountLimits { queries: set(queries), updates: set(updates), ..AccountLimits::default() }
    }

    fn allowance(of_account: &OfAccount) -> Option<Allowance> {
        let row = crate::grants::GlobalPrivRow {
            host: "%".to_owned(),
            user: "ann".to_owned(),
            priv_json: zeroize::Zeroizing::new("{}".to_owned()),
        };
        let variables =
            crate::grants::ServerVariables { version: "10.11.6-MariaDB".to_owned(), ..Default::default() };
        let raw = crate::grants::RawAccounts { variables, global_priv: vec![row], ..Default::default() };
        let snapshot = Snapshot::build(raw, std::time::SystemTime::UNIX_EPOCH);
        let client = crate::grants::HostIdentity::without_name("10.0.0.1".parse().unwrap());
        let crate::grants::Found::Account(account) = snapshot.find(b"ann", &client) else { panic!() };
        of_account.allowance(account, MARIADB)
    }

    #[test]
    fn statements_of_all_sessions_are_counted_together() {
        let now = Instant::now();
        let (counts, first) = limited(4, 1, now);
        let second = counts.enter(who("shop", "ann"), &of_statements(4, 1), MARIADB, None, now).unwrap();
        let (one, other) = (allowance(&first).unwrap(), allowance(&second).unwrap());
        assert_eq!((one.take(true, now), other.take(false, now)), (Ok(()), Ok(())));
        assert_eq!(other.take(true, now), Err(OverLimit::Updates(1)), "it counts as a query");
        assert_eq!(one.take(false, now), Ok(()));
        assert_eq!(one.take(true, now), Err(OverLimit::Queries(4)), "queries come first");
        let used = counts.of(&who("shop", "ann"), now);
        assert_eq!((used.queries, used.updates), (5, 2));
        let fault = one.fault(OverLimit::Queries(4));
        let said = "User 'ann' has exceeded the 'max_queries_per_hour' resource (current value: 4)";
        assert_eq!((fault.code(), fault.reply.unwrap().text()), (Some(1226), said.into()));
        one.give_back(true);
        one.give_back(false);
        assert_eq!(other.take(false, now), Ok(()));
    }

    #[test]
    fn every_hour_but_the_first_has_one_query_less() {
        let start = Instant::now();
        let (_counts, session) = limited(2, 1, start);
        let allowance = allowance(&session).unwrap();
        let at = |minutes: u64, update| allowance.take(update, start + Duration::from_mins(minutes));
        assert_eq!((at(0, true), at(59, false), at(59, false)), (Ok(()), Ok(()), Err(OverLimit::Queries(2))));
        assert_eq!((at(60, true), at(61, false)), (Ok(()), Err(OverLimit::Queries(2))));
        assert_eq!((at(119, false), at(120, true)), (Err(OverLimit::Queries(2)), Ok(())));
    }

    #[test]
    fn limits_that_change_are_those_of_every_session_that_is_counted() {
        let now = Instant::now();
        let (counts, session) = limited(2, 0, now);
        let ann = allowance(&session).unwrap();
        assert_eq!((ann.take(false, now), ann.take(false, now)), (Ok(()), Ok(())));
        for (vendor, left) in [(Vendor::MariaDb, 1), (Vendor::MySql, 4)] {
            session.count.limit(of_statements(if left == 1 { 3 } else { 4 }, 0), vendor, now);
            for _ in 0..left {
                assert_eq!(ann.take(false, now), Ok(()), "{vendor}");
            }
            assert!(ann.take(false, now).is_err(), "{vendor}");
        }
        assert_eq!(counts.clear(&"crm".parse().unwrap(), now), 0);
        assert_eq!(counts.clear(&"shop".parse().unwrap(), now), 1);
        assert_eq!(ann.take(false, now), Ok(()));
        session.count.limit(AccountLimits::default(), MARIADB, now);
        assert!((0..10).all(|_| ann.take(true, now).is_ok()), "no limit any more");
        assert!(allowance(&session).is_none());
    }

    #[test]
    fn nothing_is_given_back_below_zero() {
        let now = Instant::now();
        let (_counts, session) = limited(1, 1, now);
        let allowance = allowance(&session).unwrap();
        allowance.give_back(true);
        assert_eq!(
            (allowance.take(true, now), allowance.take(true, now)),
            (Ok(()), Err(OverLimit::Queries(1)))
        );
    }
}
