//! How many sessions a service, one of its users or one client address has, where the service limits that.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use super::account_limits::OfAccount;
use crate::ids::{ClientAddr, ServiceName};

/// Whose sessions are counted.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Who {
    Anybody,
    User(Vec<u8>),
    Address(Option<IpAddr>),
}

/// The counts of all services.
#[derive(Debug, Default)]
pub struct Counts(Mutex<HashMap<(ServiceName, Who), u32>>);

/// One counted session; it is no longer counted when this is dropped.
#[derive(Debug)]
pub struct Counted {
    counts: Arc<Counts>,
    // On the heap, where there is one at all: most sessions have no such place.
    key: Box<(ServiceName, Who)>,
}

/// Where a session is counted: wherever its service or its account has a limit.
#[derive(Debug, Default)]
pub struct Places {
    /// Among all sessions of the service.
    pub service: Option<Counted>,
    /// Among those of its address.
    pub address: Option<Counted>,
    /// Among those of its user.
    pub user: Option<Counted>,
    /// Among those of its account.
    pub account: Option<OfAccount>,
}

impl Counts {
    /// Counts a session of a service, unless there are `max` already.
    pub fn enter(self: &Arc<Self>, service: &ServiceName, max: u32) -> Option<Counted> {
        self.count((service.clone(), Who::Anybody), max)
    }

    /// Counts a session of a user, unless there are `max` already.
    pub fn enter_user(self: &Arc<Self>, service: &ServiceName, user: &[u8], max: u32) -> Option<Counted> {
        self.count((service.clone(), Who::User(user.to_vec())), max)
    }

    /// Counts a session from an address, unless there are `max` already. All clients of Unix sockets are one.
    pub fn enter_address(
        self: &Arc<Self>,
        service: &ServiceName,
        client: &ClientAddr,
        max: u32,
    ) -> Option<Counted> {
        let address = match client {
            ClientAddr::Tcp(address) => Some(address.ip().to_canonical()),
            ClientAddr::Unix { .. } => None,
        };
        self.count((service.clone(), Who::Address(address)), max)
    }

    fn count(self: &Arc<Self>, key: (ServiceName, Who), max: u32) -> Option<Counted> {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(key.clone()).or_default();
        if *count >= max {
            return None;
        }
        *count += 1;
        Some(Counted { counts: Arc::clone(self), key: Box::new(key) })
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut counts = self.counts.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&*self.key) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&*self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_user_of_each_service_has_a_count_of_its_own() {
        let counts = Arc::new(Counts::default());
        let (app, other): (ServiceName, ServiceName) = ("app".parse().unwrap(), "other".parse().unwrap());
        let first = counts.enter_user(&app, b"a", 1).unwrap();
        assert!(counts.enter_user(&app, b"a", 1).is_none());
        let _others =
            (counts.enter_user(&app, b"b", 1).unwrap(), counts.enter_user(&other, b"a", 1).unwrap());
        drop(first);
        assert!(counts.enter_user(&app, b"a", 1).is_some());
    }

    #[test]
    fn an_address_counts_whatever_its_port_and_form() {
        let counts = Arc::new(Counts::default());
        let app: ServiceName = "app".parse().unwrap();
        let from = |text: &str| ClientAddr::Tcp(text.parse().unwrap());
        let _one = counts.enter_address(&app, &from("10.0.0.1:1"), 1).unwrap();
        assert!(counts.enter_address(&app, &from("[::ffff:10.0.0.1]:2"), 1).is_none());
        let _unix = counts.enter_address(&app, &ClientAddr::Unix { uid: Some(1) }, 1).unwrap();
        assert!(counts.enter_address(&app, &ClientAddr::Unix { uid: Some(2) }, 1).is_none());
        assert_eq!(counts.0.lock().unwrap().len(), 2);
    }
}
