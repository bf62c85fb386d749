//! Rows of `mysql.global_priv` as a node gives them, and logins that are judged by them.
#![no_main]

use std::time::SystemTime;

use libfuzzer_sys::fuzz_target;
use spillway::auth::{self, Privacy};
use spillway::grants::{
    GlobalPrivRow, HostIdentity, LoginRequest, RawAccounts, ServerVariables, Snapshot, Transport, decide,
};
use spillway_fuzz::{bounded, part};
use zeroize::Zeroizing;

fuzz_target!(|input: &[u8]| bounded(input, || row(input)));

fn row(mut rest: &[u8]) {
    let lengths: [u8; 2] = part(&mut rest);
    let mut text = String::from_utf8_lossy(rest).into_owned();
    let [host, user] = lengths.map(|length| {
        let mut end = usize::from(length).min(text.len());
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.drain(..end).collect::<String>()
    });
    let build = || {
        let row =
            GlobalPrivRow { host: host.clone(), user: user.clone(), priv_json: Zeroizing::new(text.clone()) };
        let variables =
            ServerVariables { version: "11.8.3-MariaDB".to_owned(), ..ServerVariables::default() };
        let raw = RawAccounts { variables, global_priv: vec![row], ..RawAccounts::default() };
        Snapshot::build(raw, SystemTime::UNIX_EPOCH)
    };
    let snapshot = build();
    assert_eq!(snapshot.digest(), build().digest());
    for account in snapshot.accounts() {
        // What is said of it has no hash in it that stands nowhere else.
        let shown = format!("{account:?} {account}");
        for way in &account.authentication {
            let is_secret = way.string.len() >= 8 && text.matches(&**way.string).count() == 1;
            assert!(!is_secret || !shown.contains(&**way.string), "{shown}");
        }
    }
    let client = HostIdentity::without_name("10.0.0.7".parse().expect("an address"));
    for using_password in [false, true] {
        let request = LoginRequest {
            user: user.as_bytes(),
            client: &client,
            proxy: &client,
            database: Some("shop"),
            using_password,
            transport: Transport::Plain,
            can_handle_expired_passwords: using_password,
            now: SystemTime::UNIX_EPOCH,
            plugins: auth::accepted(Privacy::Open),
        };
        let _ = decide(&snapshot, &request).verdict;
    }
}
