//! TLS between Spillway and its nodes: whom it believes, what that opens, and that nothing goes out without.

use crate::harness::client::Login as Program;
use crate::harness::proxy::Spillway;
use crate::harness::server::{MONITOR_PASSWORD, MONITOR_USER, Server};
use crate::harness::workspace::{self, free_port};
use crate::harness::{Outcome, PATIENCE, wait_for};
use crate::lab::{self, PASSWORD};
use crate::raw::{self, Credentials, Login, Raw, first_value};
use crate::tls::{Authority, write};
use crate::{Verdict, ensure, mysql_trial, same, trial};
use libtest_mimic::Trial;
use rcgen::string::{BmpString, Ia5String, PrintableString, TeletexString};
use rcgen::{DistinguishedName, DnType, DnValue};
use rustls::version::{TLS12, TLS13};
use rustls::{CipherSuite, ClientConfig};
use spillway::tls::Certificates;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("node_tls::identity", identity),
        trial("node_tls::authority", authority),
        trial("node_tls::nothing_goes_out_without", nothing_goes_out_without),
        trial("node_tls::accounts_that_require_tls", accounts_that_require_tls),
        trial("node_tls::accounts_that_name_a_certificate", accounts_that_name_a_certificate),
        mysql_trial(
            "node_tls::mysql_accounts_that_name_a_certificate",
            mysql_accounts_that_name_a_certificate,
        ),
        trial("node_tls::revoked_certificates", revoked_certificates),
        trial("node_tls::expired_authority", expired_authority),
        trial("node_tls::names_of_certificates", names_of_certificates),
        mysql_trial("node_tls::mysql_names_of_certificates", mysql_names_of_certificates),
        trial("node_tls::big_packets", big_packets),
        trial("node_tls::sessions_that_wait_for_a_link", sessions_that_wait_for_a_link),
        trial("node_tls::another_authority_after_a_reload", another_authority_after_a_reload),
        trial("node_tls::pam_passwords", pam_passwords).with_ignored_flag(!may_add_pam_services()),
        mysql_trial("node_tls::mysql_passwords", mysql_passwords),
    ]
}

/// A server with TLS, and what a Spillway before it needs.
struct Stage {
    server: Server,
    directory: PathBuf,
    port: u16,
    nodes: Authority,
    clients: Authority,
}

impl Stage {
    /// `names` are those in the server's certificate.
    fn new(name: &str, names: &[&str], more: &[&str]) -> Outcome<Self> {
        let options = [&["--skip-name-resolve"], more].concat();
        Self::before(Server::prepare(name, &options)?, name, names)
    }

    fn before(mut server: Server, name: &str, names: &[&str]) -> Outcome<Self> {
        let (nodes, clients) = (Authority::new("nodes")?, Authority::new("clients")?);
        let issued = nodes.server_called(names)?;
        for (option, file, content) in [
            ("ssl-cert", "node.crt", &issued.certificate),
            ("ssl-key", "node.key", &issued.key),
            ("ssl-ca", "clients.pem", &clients.pem),
        ] {
            let path = server.file(file, content)?;
            server.option(format!("--{option}={path}"));
        }
        server.start(&[])?;
        server.create_monitor()?;
        server.sql(&format!(
            "DROP USER IF EXISTS ''@localhost; CREATE DATABASE lab; CREATE USER app@'%' IDENTIFIED BY '{PASSWORD}';
             GRANT ALL ON lab.* TO app@'%'; ALTER USER '{MONITOR_USER}'@'%' REQUIRE SSL;"
        ))?;
        let directory = workspace::directory(&format!("spillway-{name}-files"))?;
        write(&directory, "nodes.pem", &nodes.pem)?;
        write(&directory, "clients.pem", &clients.pem)?;
        let (own, client) = (nodes.server()?, clients.client()?);
        write(&directory, "tls.crt", &own.certificate)?;
        write(&directory, "tls.key", &own.key)?;
        write(&directory, "client.crt", &client.certificate)?;
        write(&directory, "client.key", &client.key)?;
        Ok(Self { server, directory, port: free_port()?, nodes, clients })
    }

    fn file(&self, name: &str) -> String {
        self.directory.join(name).display().to_string()
    }

    /// `tls`: the lines of `[cluster.lab.tls]`; `cluster`: of the cluster.
    fn configuration(&self, tls: &str, cluster: &str) -> String {
        let nodes = format!("{{ solo = \"{}\" }}", self.server.address());
        lab::cluster_with("lab", "static", &nodes, cluster)
            + &format!("[cluster.lab.tls]\n{tls}\n\n")
            + &lab::service_toml("lab", self.port, "route = \"cluster:lab\"")
            + &format!(
                "[service.lab.tls]\ncertificate = \"{}\"\nkey = \"{}\"\nclient_ca = \"{}\"\n",
                self.file("tls.crt"),
                self.file("tls.key"),
                self.file("clients.pem")
            )
    }

    fn spillway(&self, name: &str, tls: &str, cluster: &str) -> Outcome<Spillway> {
        Spillway::start(lab::binary(), name, &self.configuration(tls, cluster))
    }

    fn ca(&self) -> String {
        format!("ca = \"{}\"", self.file("nodes.pem"))
    }

    /// The lines with a certificate for the nodes.
    fn ca_and_certificate(&self) -> String {
        let (certificate, key) = (self.file("client.crt"), self.file("client.key"));
        format!("{}\ncertificate = \"{certificate}\"\nkey = \"{key}\"", self.ca())
    }

    fn login(&self, user: &str, tls: bool, certificate: bool) -> Outcome<Login> {
        let own = if certificate { Some(self.clients.client()?) } else { None };
        let tls = if tls { Some(self.nodes.trusted_by(&TLS13, own.as_ref())?) } else { None };
        raw::login(self.port, &Credentials { tls, ..Credentials::new(user, PASSWORD, None) })
    }

    fn session(&self) -> Outcome<Raw> {
        self.login("app", false, false)?.map_err(|refusal| format!("{refusal:?}"))
    }
}

/// What the node says of the link's encryption.
fn cipher(session: &mut Raw) -> Outcome<String> {
    let query =
        "SELECT VARIABLE_VALUE FROM information_schema.SESSION_STATUS WHERE VARIABLE_NAME = 'Ssl_cipher'";
    first_value(&session.query(query)?)
}

/// The node is down, and Spillway says why.
fn down(stage: &Stage, name: &str, tls: &str, reason: &str) -> Verdict {
    let configuration =
        stage.configuration(tls, "") + "[runtime]\nstart_without_accounts = true\nstart_timeout = \"1s\"\n";
    let spillway = Spillway::launch(lab::binary(), name, &configuration)?;
    wait_for("the reason", PATIENCE, || {
        let log = spillway.log();
        if log.contains(reason) { Ok(()) } else { Err(format!("{reason:?} is not said:\n{log}")) }
    })?;
    ensure!(!spillway.log().contains(MONITOR_PASSWORD), "a password is in the log");
    Ok(())
}

fn identity() -> Verdict {
    let stage = Stage::new("node-tls", &["127.0.0.1"], &[])?;
    let spillway = stage.spillway("spillway-node-tls", &stage.ca(), "")?;
    for _ in 0..4 {
        let mut session = stage.session()?;
        ensure!(!cipher(&mut session)?.is_empty(), "the link is not encrypted");
        session.command(&[1])?;
    }
    if lab::pools() {
        // A link is there again a moment after its session ended.
        wait_for("a link that is used again", PATIENCE, || {
            stage.session()?.command(&[1])?;
            let metrics = spillway.api("GET", "/metrics", None)?.body;
            if metrics.contains("spillway_links_reused_total{") { Ok(()) } else { Err(metrics) }
        })?;
    }
    drop(spillway);
    // Somebody else's authority.
    write(&stage.directory, "strangers.pem", &stage.clients.pem)?;
    let strangers = format!("ca = \"{}\"", stage.file("strangers.pem"));
    down(&stage, "spillway-node-tls-strangers", &strangers, "invalid peer certificate")
}

fn authority() -> Verdict {
    let stage = Stage::new("node-tls-name", &["db.example"], &[])?;
    down(&stage, "spillway-node-tls-name", &stage.ca(), "not valid for name")?;
    for tls in [format!("verify = \"ca\"\n{}", stage.ca()), "verify = \"none\"".to_owned()] {
        let _spillway = stage.spillway("spillway-node-tls-ca", &tls, "")?;
        ensure!(!cipher(&mut stage.session()?)?.is_empty(), "{tls}: the link is not encrypted");
    }
    write(&stage.directory, "strangers.pem", &stage.clients.pem)?;
    let strangers = format!("verify = \"ca\"\nca = \"{}\"", stage.file("strangers.pem"));
    down(&stage, "spillway-node-tls-ca-strangers", &strangers, "invalid peer certificate")
}

fn nothing_goes_out_without() -> Verdict {
    let mut stage = Stage::new("node-tls-off", &["127.0.0.1"], &[])?;
    stage.server.sql(&format!("ALTER USER '{MONITOR_USER}'@'%' REQUIRE NONE"))?;
    stage.server.stop()?;
    stage.server.option("--skip-ssl".to_owned());
    stage.server.start(&[])?;
    for tls in [stage.ca(), "verify = \"none\"".to_owned()] {
        down(&stage, "spillway-node-tls-off", &tls, "the server offers no TLS")?;
    }
    Ok(())
}

/// Cases 92, 94 and 95 with all certificates right.
fn accounts_that_require_tls() -> Verdict {
    let stage = Stage::new("node-tls-require", &["127.0.0.1"], &[])?;
    stage.server.sql(&format!(
        "CREATE USER secure@'%' IDENTIFIED BY '{PASSWORD}' REQUIRE SSL;
         CREATE USER certified@'%' IDENTIFIED BY '{PASSWORD}' REQUIRE X509;
         CREATE USER named@'%' IDENTIFIED BY '{PASSWORD}' REQUIRE SUBJECT '/CN=client';"
    ))?;
    let enters = |user: &str, tls, certificate| -> Outcome<bool> {
        let login = stage.login(user, tls, certificate)?;
        let told = login.as_ref().err().map(|refusal| refusal.code);
        same!(told.is_none_or(|code| code == 1045), true, "{user}: {told:?}");
        Ok(login.is_ok())
    };
    {
        let spillway = stage.spillway("spillway-node-tls-plain", &stage.ca(), "")?;
        same!(
            (enters("secure", false, false)?, enters("secure", true, false)?),
            (false, true),
            "REQUIRE SSL"
        );
        same!(enters("certified", true, true)?, false, "links show no certificate");
        let answer = spillway.ask("show permissiveness")?;
        ensure!(
            answer.contains("certified@%") && answer.contains("links of this cluster show none"),
            "{answer}"
        );
        ensure!(!answer.contains("secure@%"), "{answer}");
        let answer = spillway.ask("explain login certified 127.0.0.1 --transport certificate")?;
        ensure!(answer.contains("refused by the node"), "{answer}");
    }
    let spillway = stage.spillway("spillway-node-tls-mutual", &stage.ca_and_certificate(), "")?;
    same!((enters("secure", false, false)?, enters("secure", true, false)?), (false, true), "REQUIRE SSL");
    same!(
        (enters("certified", true, false)?, enters("certified", true, true)?),
        (false, true),
        "REQUIRE X509"
    );
    same!((enters("named", true, false)?, enters("named", true, true)?), (false, true), "REQUIRE SUBJECT");
    // What the server demands of everybody.
    stage.server.sql("SET GLOBAL require_secure_transport = ON")?;
    spillway.reload_accounts()?;
    same!(
        (enters("app", false, false)?, enters("app", true, false)?),
        (false, true),
        "require_secure_transport"
    );
    Ok(())
}

/// Spillway does not read the server's list, so nobody gets in by a certificate.
fn revoked_certificates() -> Verdict {
    let mut stage = Stage::new("node-tls-crl", &["127.0.0.1", "localhost"], &[])?;
    stage.server.sql(&format!(
        "CREATE USER secure@'%' IDENTIFIED BY '{PASSWORD}' REQUIRE SSL;
         CREATE USER certified@'%' IDENTIFIED BY '{PASSWORD}' REQUIRE X509;
         CREATE USER named@'%' IDENTIFIED BY '{PASSWORD}' REQUIRE SUBJECT '/CN=client';
         CREATE USER issued@'%' IDENTIFIED BY '{PASSWORD}' REQUIRE ISSUER '/CN=clients';"
    ))?;
    let (good, revoked, list) = stage.clients.client_and_revoked()?;
    let spillway = stage.spillway("spillway-node-tls-crl", &stage.ca_and_certificate(), "")?;
    let good = stage.nodes.trusted_by(&TLS13, Some(&good))?;
    let revoked = stage.nodes.trusted_by(&TLS13, Some(&revoked))?;
    // Who is refused in the handshake already hears no error packet.
    let enters = |port, user: &str, tls: &Arc<ClientConfig>| {
        let credentials =
            Credentials { tls: Some(Arc::clone(tls)), ..Credentials::new(user, PASSWORD, None) };
        matches!(raw::login(port, &credentials), Ok(Ok(_)))
    };
    let direct = stage.server.port;
    for user in ["certified", "named", "issued"] {
        ensure!(enters(direct, user, &revoked), "{user}: the server has no list yet");
        ensure!(
            enters(stage.port, user, &revoked),
            "{user}: the server has no list yet\n{}",
            spillway.log_tail(5)
        );
    }
    let path = stage.server.file("revoked.pem", &list)?;
    stage.server.stop()?;
    stage.server.option(format!("--ssl-crl={path}"));
    stage.server.start(&[])?;
    wait_for("the list is noticed", PATIENCE, || {
        spillway.ask("reload accounts")?;
        let answer = spillway.ask("explain login certified 127.0.0.1 --transport certificate")?;
        if answer.contains("ssl_crl") { Ok(()) } else { Err(answer) }
    })?;
    for user in ["certified", "named", "issued"] {
        same!(
            (enters(direct, user, &good), enters(direct, user, &revoked)),
            (true, false),
            "{user}, directly"
        );
        ensure!(!enters(stage.port, user, &revoked), "{user} by a revoked certificate");
        ensure!(!enters(stage.port, user, &good), "{user}: nobody can tell that it is not revoked");
    }
    let answer = spillway.ask("show permissiveness")?;
    ensure!(answer.contains("certified@%") && answer.contains("ssl_crl"), "{answer}");
    let without = stage.nodes.trusted_by(&TLS13, None)?;
    same!(
        (enters(direct, "secure", &without), enters(stage.port, "secure", &without)),
        (true, true),
        "no certificate"
    );
    Ok(())
}

/// To the server and to Spillway, an authority that has expired vouches for nobody.
fn expired_authority() -> Verdict {
    let mut stage = Stage::new("node-tls-expired", &["127.0.0.1", "localhost"], &[])?;
    stage.server.sql(&format!("CREATE USER secure@'%' IDENTIFIED BY '{PASSWORD}' REQUIRE SSL"))?;
    stage.clients = Authority::until("clients", 2020)?;
    stage.server.file("clients.pem", &stage.clients.pem)?;
    write(&stage.directory, "clients.pem", &stage.clients.pem)?;
    stage.server.stop()?;
    stage.server.start(&[])?;
    let _spillway = stage.spillway("spillway-node-tls-expired", &stage.ca(), "")?;
    let own = stage.clients.client()?;
    for (own, is_let_in) in [(None, true), (Some(&own), false)] {
        let tls = stage.nodes.trusted_by(&TLS13, own)?;
        for port in [stage.server.port, stage.port] {
            let credentials =
                Credentials { tls: Some(Arc::clone(&tls)), ..Credentials::new("secure", PASSWORD, None) };
            let login = raw::login(port, &credentials);
            same!(matches!(login, Ok(Ok(_))), is_let_in, "with a certificate: {}, at {port}", own.is_some());
        }
    }
    Ok(())
}

/// Accounts and what they require. The links show a certificate of `/CN=clients` for `/CN=client`, and use the first cipher.
const REQUIREMENTS: [(&str, &str); 12] = [
    ("by_tls", "SSL"),
    ("by_certificate", "X509"),
    ("by_lock", "SSL ACCOUNT LOCK"),
    ("by_nothing", "SUBJECT ''"),
    ("by_subject", "SUBJECT '/CN=client'"),
    ("by_issuer", "ISSUER '/CN=clients'"),
    ("by_cipher", "CIPHER 'TLS_AES_256_GCM_SHA384'"),
    ("by_both", "SUBJECT '/CN=client' AND ISSUER '/CN=clients'"),
    ("by_all", "SUBJECT '/CN=client' AND ISSUER '/CN=clients' AND CIPHER 'TLS_AES_256_GCM_SHA384'"),
    ("by_other_case", "SUBJECT '/cn=client'"),
    ("by_stranger", "SUBJECT '/CN=stranger'"),
    ("by_old_cipher", "CIPHER 'ECDHE-ECDSA-AES128-GCM-SHA256'"),
];

fn accounts_that_name_a_certificate() -> Verdict {
    let server = Server::prepare("node-tls-named", &["--skip-name-resolve"])?;
    name_a_certificate(server, "node-tls-named", false)
}

fn mysql_accounts_that_name_a_certificate() -> Verdict {
    // Which is the first cipher is this server's choice.
    let ciphers = "--tls-ciphersuites=TLS_AES_256_GCM_SHA384:TLS_AES_128_GCM_SHA256";
    let server = Server::prepare_mysql("node-tls-mynamed", &[ciphers])?;
    name_a_certificate(server, "node-tls-mynamed", true)
}

/// Case 95 and what surrounds it: Spillway tells every client what the server tells it. Where only the link is not what
/// the account requires, the node refuses it.
fn name_a_certificate(server: Server, name: &str, needs_certificate: bool) -> Verdict {
    let mut stage = Stage::before(server, name, &["127.0.0.1", "localhost"])?;
    // Both believe another authority, too.
    let others = Authority::new("others")?;
    let known = format!("{}{}", stage.clients.pem, others.pem);
    write(&stage.directory, "clients.pem", &known)?;
    stage.server.file("clients.pem", &known)?;
    stage.server.stop()?;
    stage.server.start(&[])?;
    for (user, requirement) in REQUIREMENTS {
        stage
            .server
            .sql(&format!("CREATE USER {user}@'%' IDENTIFIED BY '{PASSWORD}' REQUIRE {requirement}"))?;
    }
    let configuration = stage.configuration(&stage.ca_and_certificate(), "")
        + "[runtime.backoff]\nper_address = 0\nper_account = 0\n";
    let spillway = Spillway::start(lab::binary(), &format!("spillway-{name}"), &configuration)?;
    let right = stage.clients.client()?;
    let stranger = stage.clients.client_called("stranger")?;
    let foreign = others.client()?;
    let large: fn(CipherSuite) -> bool = |suite| suite == CipherSuite::TLS13_AES_256_GCM_SHA384;
    let small: fn(CipherSuite) -> bool = |suite| suite == CipherSuite::TLS13_AES_128_GCM_SHA256;
    let old: fn(CipherSuite) -> bool = |suite| suite == CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256;
    let client =
        |offered, version, own: Option<&_>| stage.nodes.trusted_with(offered, version, own).map(Some);
    let clients = [
        ("the right one", client(large, &TLS13, Some(&right))?),
        ("another subject", client(large, &TLS13, Some(&stranger))?),
        ("another issuer", client(large, &TLS13, Some(&foreign))?),
        ("another cipher", client(small, &TLS13, Some(&right))?),
        ("another version", client(old, &TLS12, Some(&right))?),
        ("no certificate", client(large, &TLS13, None)?),
        ("no TLS", None),
    ];
    let login = |port, user: &str, password: &str, tls: &Option<Arc<ClientConfig>>| -> Outcome<_> {
        let credentials = Credentials { tls: tls.clone(), ..Credentials::new(user, password, None) };
        Ok(raw::login(port, &credentials)?.err())
    };
    let mut let_in = Vec::new();
    for (user, requirement) in REQUIREMENTS {
        for (what, tls) in &clients {
            for password in ["wrong", "", PASSWORD] {
                let direct = login(stage.server.port, user, password, tls)?;
                let proxied = login(stage.port, user, password, tls)?;
                let only_the_link_is_wrong = matches!(
                    (user, *what),
                    ("by_stranger", "another subject") | ("by_old_cipher", "another version")
                );
                if only_the_link_is_wrong && password == PASSWORD {
                    same!(direct, None, "{what}: REQUIRE {requirement}");
                    same!(proxied.as_ref().map(|r| r.code), Some(1045), "{what}: REQUIRE {requirement}");
                    continue;
                }
                same!(
                    proxied,
                    direct,
                    "{what} with {password:?}: REQUIRE {requirement}\n{}",
                    spillway.log_tail(5)
                );
                if direct.is_none() {
                    let_in.push((user, *what));
                    continue;
                }
                // A lock is told only to who satisfies the rest.
                let is_lock = user == "by_lock" && tls.is_some() && password == PASSWORD;
                let code = direct.as_ref().map(|refusal| refusal.code);
                let is_expected =
                    if is_lock { matches!(code, Some(4151 | 3118)) } else { code == Some(1045) };
                ensure!(is_expected, "{what} with {password:?}: REQUIRE {requirement}: {direct:?}");
            }
        }
    }
    // What is said of a client without TLS where the server demands it of everybody, too.
    stage.server.sql("SET GLOBAL require_secure_transport = ON")?;
    spillway.reload_accounts()?;
    for (user, requirement) in REQUIREMENTS.into_iter().chain([("app", "NONE")]) {
        for password in ["wrong", "", PASSWORD] {
            let direct = login(stage.server.port, user, password, &None)?;
            let proxied = login(stage.port, user, password, &None)?;
            ensure!(direct.is_some(), "REQUIRE {requirement}: let in without TLS");
            same!(proxied, direct, "REQUIRE {requirement} with {password:?} and require_secure_transport");
        }
    }
    let mut wanted = vec![
        ("by_tls", "the right one"),
        ("by_tls", "another subject"),
        ("by_tls", "another issuer"),
        ("by_tls", "another cipher"),
        ("by_tls", "another version"),
        ("by_tls", "no certificate"),
        ("by_certificate", "the right one"),
        ("by_certificate", "another subject"),
        ("by_certificate", "another issuer"),
        ("by_certificate", "another cipher"),
        ("by_certificate", "another version"),
        ("by_nothing", "the right one"),
        ("by_nothing", "another subject"),
        ("by_nothing", "another issuer"),
        ("by_nothing", "another cipher"),
        ("by_nothing", "another version"),
        ("by_nothing", "no certificate"),
        ("by_subject", "the right one"),
        ("by_subject", "another issuer"),
        ("by_subject", "another cipher"),
        ("by_subject", "another version"),
        ("by_issuer", "the right one"),
        ("by_issuer", "another subject"),
        ("by_issuer", "another cipher"),
        ("by_issuer", "another version"),
        ("by_cipher", "the right one"),
        ("by_cipher", "another subject"),
        ("by_cipher", "another issuer"),
        ("by_cipher", "no certificate"),
        ("by_both", "the right one"),
        ("by_both", "another cipher"),
        ("by_both", "another version"),
        ("by_all", "the right one"),
    ];
    if needs_certificate {
        wanted.retain(|(user, what)| *what != "no certificate" || *user == "by_tls");
        // An empty subject is one that no client has, until the server reads its tables anew.
        wanted.retain(|(user, _)| *user != "by_nothing");
    }
    same!(let_in, wanted, "who is let in");
    let log = spillway.log();
    for said in [
        "the account requires the subject \\\"/CN=client\\\", and the client has \\\"/CN=stranger\\\"",
        "the account requires the issuer",
        "the account requires the cipher",
    ] {
        let plain = said.replace('\\', "");
        ensure!(log.contains(said) || log.contains(&plain), "{plain} is not in the log:\n{log}");
    }
    let answer = spillway.ask("explain login by_all 127.0.0.1 --transport certificate")?;
    ensure!(
        answer.contains(
            "with the subject \"/CN=client\" and the issuer \"/CN=clients\" and the cipher \"TLS_AES_256_GCM_SHA384\""
        ) && answer.contains("the node may refuse: the node sees the cipher of the link")
            && answer.contains("let in as by_all@%"),
        "{answer}"
    );
    let answer = spillway.ask("explain login by_stranger 127.0.0.1 --transport certificate")?;
    ensure!(
        answer.contains(
            "refused by the node: the node sees Spillway's certificate, whose subject is \"/CN=client\""
        ),
        "{answer}"
    );
    let answer = spillway.ask("explain login by_subject 127.0.0.1 --transport tls")?;
    ensure!(
        answer.contains("refused, if the password is right: the account requires a client certificate"),
        "{answer}"
    );
    let answer = spillway.ask("show permissiveness")?;
    for (user, is_listed) in [
        ("by_subject@", false),
        ("by_issuer@", false),
        ("by_both@", false),
        ("by_cipher@", true),
        ("by_all@", true),
        ("by_other_case@", true),
        ("by_stranger@", true),
        ("by_old_cipher@", true),
    ] {
        same!(answer.contains(user), is_listed, "{user}: {answer}");
    }
    Ok(())
}

fn names_of_certificates() -> Verdict {
    let server = Server::prepare("node-tls-names", &["--skip-name-resolve"])?;
    names_as_the_server_writes_them(&Stage::before(server, "node-tls-names", &["127.0.0.1", "localhost"])?)
}

fn mysql_names_of_certificates() -> Verdict {
    let server = Server::prepare_mysql("node-tls-mynames", &[])?;
    names_as_the_server_writes_them(&Stage::before(server, "node-tls-mynames", &["127.0.0.1", "localhost"])?)
}

/// What is made of a certificate here is what the server itself compares with the account.
fn names_as_the_server_writes_them(stage: &Stage) -> Verdict {
    let bmp = BmpString::try_from("Jürgen").map_err(|e| e.to_string())?;
    let teletex = TeletexString::try_from("b c~").map_err(|e| e.to_string())?;
    let ia5 = Ia5String::try_from("a@b.example").map_err(|e| e.to_string())?;
    let email = || DnType::from_oid(&[1, 2, 840, 113_549, 1, 9, 1]);
    let printable = PrintableString::try_from("DE").map_err(|e| e.to_string())?;
    for attributes in [
        vec![(DnType::CommonName, DnValue::from("Jürgen \u{20ac} \\xC3 ' \""))],
        vec![
            (DnType::CountryName, DnValue::PrintableString(printable)),
            (DnType::OrganizationName, DnValue::from("a=b, c")),
            (DnType::OrganizationalUnitName, DnValue::TeletexString(teletex)),
            (DnType::CommonName, DnValue::BmpString(bmp)),
            (email(), DnValue::Ia5String(ia5)),
        ],
        vec![(DnType::CommonName, DnValue::from("a\0b\u{7f}\n"))],
    ] {
        let mut subject = DistinguishedName::new();
        for (kind, value) in attributes {
            subject.push(kind, value);
        }
        let issued = stage.clients.client_for(subject)?;
        let names = Certificates::from_pem(issued.certificate.as_bytes()).map_err(|e| e.to_string())?.names();
        let line = names.subject.map_err(|e| e.to_string())?;
        let quoted = line.replace('\\', "\\\\").replace('\'', "\\'");
        let client = stage.nodes.trusted_by(&TLS13, Some(&issued))?;
        // Its links show the same, so that it is Spillway that compares.
        write(&stage.directory, "client.crt", &issued.certificate)?;
        write(&stage.directory, "client.key", &issued.key)?;
        let name = format!("spillway-node-tls-names-{}", stage.port);
        let spillway = stage.spillway(&name, &stage.ca_and_certificate(), "")?;
        for (required, is_let_in) in [(quoted.clone(), true), (format!("{quoted}."), false)] {
            stage.server.sql(&format!(
                "CREATE USER said@'%' IDENTIFIED BY '{PASSWORD}' REQUIRE SUBJECT '{required}'"
            ))?;
            let credentials =
                Credentials { tls: Some(Arc::clone(&client)), ..Credentials::new("said", PASSWORD, None) };
            let login = raw::login(stage.server.port, &credentials)?;
            same!(login.is_ok(), is_let_in, "{required}: {:?}", login.err());
            spillway.reload_accounts()?;
            // Without the ticket of the other one.
            let tls = Some(stage.nodes.trusted_by(&TLS13, Some(&issued))?);
            let login = raw::login(stage.port, &Credentials { tls, ..credentials })?;
            same!(login.is_ok(), is_let_in, "{required}, through Spillway: {:?}", login.err());
            if !is_let_in {
                spillway.wait_log("the account requires the subject")?;
            }
            stage.server.sql("DROP USER said@'%'")?;
        }
    }
    Ok(())
}

fn big_packets() -> Verdict {
    let stage = Stage::new("node-tls-big", &["127.0.0.1"], &[])?;
    let _spillway = stage.spillway("spillway-node-tls-big", &stage.ca(), "")?;
    for tls in [false, true] {
        let mut session = stage.login("app", tls, false)?.map_err(|refusal| format!("{refusal:?}"))?;
        for size in [10_usize, 16_384, 100_000, 20_000_000] {
            let sql = format!("SELECT LENGTH('{}')", "x".repeat(size));
            same!(first_value(&session.query(&sql)?)?, size.to_string(), "a statement of {size} bytes");
        }
        let sql = "WITH RECURSIVE n AS (SELECT 1 AS i UNION ALL SELECT i + 1 FROM n WHERE i < 64) \
                   SELECT REPEAT(CHAR(65 + i % 26), 500000 + i) FROM n";
        let rows: usize = session.query(sql)?.iter().map(Vec::len).sum();
        ensure!(rows > 32_000_000, "{rows} bytes came");
    }
    Ok(())
}

/// A link with TLS cannot go to another worker: it is closed, and who waits opens its own.
fn sessions_that_wait_for_a_link() -> Verdict {
    let stage = Stage::new("node-tls-wait", &["127.0.0.1"], &[])?;
    let _spillway = stage.spillway("spillway-node-tls-wait", &stage.ca(), "links = { max = 1 }")?;
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(|| -> Outcome<()> {
                    for _ in 0..5 {
                        let mut session = stage.session()?;
                        same!(first_value(&session.query("SELECT 1")?)?, "1", "an answer");
                        session.command(&[1])?;
                    }
                    Ok(())
                })
            })
            .collect();
        threads.into_iter().try_for_each(|thread| thread.join().map_err(|_| "a panic".to_owned())?)
    })
}

fn another_authority_after_a_reload() -> Verdict {
    let mut stage = Stage::new("node-tls-renew", &["127.0.0.1"], &[])?;
    let spillway = stage.spillway("spillway-node-tls-renew", &stage.ca(), "")?;
    drop(stage.session()?);
    let successor = Authority::new("successor")?;
    write(&stage.directory, "nodes.pem", &successor.pem)?;
    let answer = spillway.ask("reload config")?;
    ensure!(answer.contains("tls certificates renewed"), "{answer}");
    wait_for("the end of trust", PATIENCE, || match stage.login("app", false, false)? {
        Ok(_) => Err("a session is still served".to_owned()),
        Err(_) => Ok(()),
    })?;
    let issued = successor.server_called(&["127.0.0.1"])?;
    stage.server.file("node.crt", &issued.certificate)?;
    stage.server.file("node.key", &issued.key)?;
    stage.server.stop()?;
    stage.server.start(&[])?;
    wait_for("the renewed node", PATIENCE, || stage.session().map(drop))
}

/// Under TLS the node takes the password itself, with a cold cache too, and from clients with and without TLS.
fn mysql_passwords() -> Verdict {
    let server = Server::prepare_mysql("node-tls-mysql", &["--require-secure-transport=ON"])?;
    let stage = Stage::before(server, "node-tls-mysql", &["127.0.0.1"])?;
    stage.server.sql(&format!(
        "CREATE USER cold@'%' IDENTIFIED WITH caching_sha2_password BY '{PASSWORD}';
         CREATE USER old@'%' IDENTIFIED WITH sha256_password BY '{PASSWORD}';"
    ))?;
    let spillway = stage.spillway("spillway-node-tls-mysql", &stage.ca(), "")?;
    for user in ["cold", "cold", "old", "app"] {
        let mut session = stage
            .login(user, true, false)?
            .map_err(|refusal| format!("{user}: {refusal:?}\n{}", spillway.log_tail(5)))?;
        let who = first_value(&session.query("SELECT CURRENT_USER()")?)?;
        same!(who, format!("{user}@%"), "the account");
    }
    let refusal = stage.login("cold", false, false)?.err();
    same!(refusal.map(|r| r.code), Some(3159), "the server demands TLS of everybody");
    Ok(())
}

/// A service of PAM, for as long as it is held.
struct PamService(PathBuf);

const PAM_SERVICES: &str = "/etc/pam.d";

fn may_add_pam_services() -> bool {
    workspace::current_user() == "root" && fs::metadata(PAM_SERVICES).is_ok()
}

impl PamService {
    fn new(name: &str, check: &str) -> Outcome<Self> {
        let path = PathBuf::from(PAM_SERVICES).join(name);
        let lines = format!(
            "auth required pam_exec.so quiet expose_authtok /bin/sh {check}\naccount required pam_permit.so\n"
        );
        fs::write(&path, lines).map_err(|e| e.to_string())?;
        Ok(Self(path))
    }
}

impl Drop for PamService {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// Passwords as they are typed: only where nobody can read them on the whole way, and the node is who it should be.
fn pam_passwords() -> Verdict {
    let stage = Stage::new("node-tls-pam", &["127.0.0.1"], &["--plugin-load-add=auth_pam_v1"])?;
    let check = format!("[ \"$(tr -d '\\000')\" = '{PASSWORD}' ] || exit 1\n");
    let check = stage.server.file("check", &check)?;
    let service = format!("spillway-test-{}", std::process::id());
    let _service = PamService::new(&service, &check)?;
    stage.server.sql(&format!("CREATE USER typed@'%' IDENTIFIED VIA pam USING '{service}'"))?;
    let ca = format!("--ssl-ca={}", stage.file("nodes.pem"));
    let ask = |port, password: &str, options: &[&str]| {
        let mut printed =
            Program::new(port, "typed", password, None).run(options, "SELECT CURRENT_USER()")?;
        printed.errors = printed.errors.replace(&port.to_string(), "PORT");
        Ok::<_, String>(printed)
    };
    let encrypted = ["--ssl", ca.as_str(), "--ssl-verify-server-cert"];
    let direct = ask(stage.server.port, PASSWORD, &encrypted)?;
    ensure!(direct.output.contains("typed@%"), "directly: {direct:?}");
    {
        let spillway = stage.spillway("spillway-node-tls-pam", &stage.ca(), "")?;
        let printed = ask(stage.port, PASSWORD, &encrypted)?;
        ensure!(printed.output.contains("typed@%"), "{printed:?}\n{}", spillway.log_tail(3));
        let wrong = ask(stage.port, "wrong", &encrypted)?;
        same!(wrong, ask(stage.server.port, "wrong", &encrypted)?, "a wrong password");
        let plain = ask(stage.port, PASSWORD, &["--skip-ssl"])?;
        ensure!(plain.errors.contains("1045"), "a client without TLS: {plain:?}");
        let answer = spillway.ask("explain login typed 127.0.0.1 --transport tls")?;
        ensure!(answer.contains("relayed") && answer.contains("let in as"), "{answer}");
        let answer = spillway.ask("explain login typed 127.0.0.1")?;
        ensure!(answer.contains("cannot be verified here"), "{answer}");
        ensure!(!spillway.log().contains(PASSWORD), "a password is in the log");
    }
    let spillway = stage.spillway("spillway-node-tls-pam-none", "verify = \"none\"", "")?;
    let printed = ask(stage.port, PASSWORD, &encrypted)?;
    ensure!(printed.errors.contains("1045"), "a node that nobody vouches for: {printed:?}");
    let answer = spillway.ask("show permissiveness")?;
    ensure!(answer.contains("typed@%"), "{answer}");
    Ok(())
}
