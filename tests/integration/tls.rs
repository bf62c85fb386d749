//! TLS between clients and Spillway: who gets in, what passes, and what fails closed.

use crate::harness::client::Login;
use crate::harness::proxy::Spillway;
use crate::harness::{Outcome, PATIENCE, wait_for, workspace};
use crate::lab::{self, PASSWORD};
use crate::raw::{self, Credentials, Raw, Refusal, Shape, capability, first_value};
use crate::{Verdict, ensure, same, trial};
use libtest_mimic::Trial;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, RevokedCertParams, SerialNumber,
    date_time_ymd,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::version::{TLS12, TLS13};
use rustls::{CipherSuite, ClientConfig, HandshakeKind, RootCertStore, SupportedProtocolVersion};
use sha1::{Digest, Sha1};
use sha2::Sha256;
use std::fs;
use std::io::{Read, Write};
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("tls::login_in_both_versions", login_in_both_versions),
        trial("tls::mariadb_client_verifies_the_certificate", mariadb_client_verifies_the_certificate),
        trial("tls::wrong_password", wrong_password),
        trial("tls::optional_for_plain_clients", optional_for_plain_clients),
        trial("tls::required_refuses_plain_clients", required_refuses_plain_clients),
        trial("tls::client_certificate", client_certificate),
        trial("tls::accounts_that_require_tls", accounts_that_require_tls),
        trial("tls::the_certificate_is_vouched_for", the_certificate_is_vouched_for),
        trial("tls::change_user", change_user),
        trial("tls::big_result", big_result),
        trial("tls::big_statement", big_statement),
        trial("tls::last_words_arrive", last_words_arrive),
        trial("tls::renewed_certificate", renewed_certificate),
        trial("tls::plaintext_behind_the_request_fails_closed", plaintext_behind_the_request_fails_closed),
        trial("tls::a_client_that_only_claims_tls", a_client_that_only_claims_tls),
    ]
}

// === certificates ===

/// An authority that issues certificates.
pub(crate) struct Authority {
    pub(crate) pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate and its key as PEM.
pub(crate) struct Issued {
    pub(crate) certificate: String,
    pub(crate) key: String,
}

fn text(e: impl std::fmt::Display) -> String {
    e.to_string()
}

impl Authority {
    pub(crate) fn new(name: &str) -> Outcome<Self> {
        Self::until(name, 4096)
    }

    /// One that is good until the beginning of a year.
    pub(crate) fn until(name: &str, year: i32) -> Outcome<Self> {
        let mut params = CertificateParams::new(Vec::new()).map_err(text)?;
        params.not_after = date_time_ymd(year, 1, 1);
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().map_err(text)?;
        let pem = params.self_signed(&key).map_err(text)?.pem();
        Ok(Self { pem, issuer: Issuer::new(params, key) })
    }

    fn issue(&self, usage: ExtendedKeyUsagePurpose, names: &[&str]) -> Outcome<Issued> {
        let mut subject = DistinguishedName::new();
        subject.push(DnType::CommonName, names.concat());
        self.issue_for(usage, names, subject)
    }

    fn issue_for(
        &self,
        usage: ExtendedKeyUsagePurpose,
        names: &[&str],
        subject: DistinguishedName,
    ) -> Outcome<Issued> {
        let names: Vec<_> = names.iter().map(|&name| name.to_owned()).collect();
        let mut params = CertificateParams::new(names).map_err(text)?;
        params.distinguished_name = subject;
        params.extended_key_usages.push(usage);
        let key = KeyPair::generate().map_err(text)?;
        let certificate = params.signed_by(&key, &self.issuer).map_err(text)?.pem();
        Ok(Issued { certificate, key: key.serialize_pem() })
    }

    pub(crate) fn server(&self) -> Outcome<Issued> {
        self.server_called(&["localhost", "127.0.0.1"])
    }

    /// A certificate for a server with these names.
    pub(crate) fn server_called(&self, names: &[&str]) -> Outcome<Issued> {
        self.issue(ExtendedKeyUsagePurpose::ServerAuth, names)
    }

    pub(crate) fn client(&self) -> Outcome<Issued> {
        self.client_called("client")
    }

    /// A certificate for a client with this common name.
    pub(crate) fn client_called(&self, name: &str) -> Outcome<Issued> {
        self.issue(ExtendedKeyUsagePurpose::ClientAuth, &[name])
    }

    /// A certificate for a client with this subject.
    pub(crate) fn client_for(&self, subject: DistinguishedName) -> Outcome<Issued> {
        self.issue_for(ExtendedKeyUsagePurpose::ClientAuth, &["client"], subject)
    }

    /// A certificate for a client, and a list as PEM that revokes the certificate of another one, which comes second.
    pub(crate) fn client_and_revoked(&self) -> Outcome<(Issued, Issued, String)> {
        let issue = |number: u64| -> Outcome<Issued> {
            let mut params = CertificateParams::new(vec!["client".to_owned()]).map_err(text)?;
            params.distinguished_name = DistinguishedName::new();
            params.distinguished_name.push(DnType::CommonName, "client");
            params.extended_key_usages.push(ExtendedKeyUsagePurpose::ClientAuth);
            params.serial_number = Some(SerialNumber::from(number));
            let key = KeyPair::generate().map_err(text)?;
            let certificate = params.signed_by(&key, &self.issuer).map_err(text)?.pem();
            Ok(Issued { certificate, key: key.serialize_pem() })
        };
        let revoked = RevokedCertParams {
            serial_number: SerialNumber::from(8),
            revocation_time: date_time_ymd(2024, 1, 1),
            reason_code: None,
            invalidity_date: None,
        };
        let list = CertificateRevocationListParams {
            this_update: date_time_ymd(2024, 1, 1),
            next_update: date_time_ymd(4000, 1, 1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: vec![revoked],
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let list = list.signed_by(&self.issuer).map_err(text)?.pem().map_err(text)?;
        Ok((issue(7)?, issue(8)?, list))
    }

    /// A client that trusts this authority.
    pub(crate) fn trusted_by(
        &self,
        version: &'static SupportedProtocolVersion,
        own: Option<&Issued>,
    ) -> Outcome<Arc<ClientConfig>> {
        self.trusted_with(|_| true, version, own)
    }

    /// A client that trusts this authority and offers the cipher suites that `offered` picks.
    pub(crate) fn trusted_with(
        &self,
        offered: fn(CipherSuite) -> bool,
        version: &'static SupportedProtocolVersion,
        own: Option<&Issued>,
    ) -> Outcome<Arc<ClientConfig>> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.pem.as_bytes()).map_err(text)?).map_err(text)?;
        let mut provider = rustls::crypto::ring::default_provider();
        provider.cipher_suites.retain(|suite| offered(suite.suite()));
        let builder = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(&[version])
            .map_err(text)?
            .with_root_certificates(roots);
        let client = match own {
            Some(own) => builder
                .with_client_auth_cert(
                    vec![CertificateDer::from_pem_slice(own.certificate.as_bytes()).map_err(text)?],
                    PrivateKeyDer::from_pem_slice(own.key.as_bytes()).map_err(text)?,
                )
                .map_err(text)?,
            None => builder.with_no_client_auth(),
        };
        Ok(Arc::new(client))
    }
}

// === a Spillway with TLS ===

/// A Spillway with TLS in front of the plain server, and its certificates.
struct Own {
    spillway: Spillway,
    port: u16,
    directory: PathBuf,
    servers: Authority,
    clients: Authority,
}

pub(crate) fn write(directory: &Path, name: &str, content: &str) -> Outcome<()> {
    let path = directory.join(name);
    fs::write(&path, content).map_err(text)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).map_err(text)
}

impl Own {
    /// `lines` are added to `[service.lab.tls]`.
    fn start(name: &str, lines: &str) -> Outcome<Self> {
        let directory = workspace::directory(&format!("{name}-files"))?;
        let (servers, clients) = (Authority::new("servers")?, Authority::new("clients")?);
        let issued = servers.server()?;
        write(&directory, "tls.crt", &issued.certificate)?;
        write(&directory, "tls.key", &issued.key)?;
        write(&directory, "servers.pem", &servers.pem)?;
        write(&directory, "clients.pem", &clients.pem)?;
        let files = directory.display();
        let tls = format!(
            "[service.lab.tls]\ncertificate = \"{files}/tls.crt\"\nkey = \"{files}/tls.key\"\n{}\n",
            lines.replace("DIR", &files.to_string())
        );
        let lab::Private { spillway, port } = lab::private_solo(name, &tls)?;
        Ok(Self { spillway, port, directory, servers, clients })
    }

    fn attempt(&self, credentials: Credentials<'_>, client: &Arc<ClientConfig>) -> Outcome<raw::Login> {
        raw::login(self.port, &Credentials { tls: Some(Arc::clone(client)), ..credentials })
    }

    /// A session over TLS 1.3 as `user`.
    fn session(&self, user: &str, schema: Option<&str>) -> Outcome<Raw> {
        let client = self.servers.trusted_by(&TLS13, None)?;
        self.attempt(Credentials::new(user, PASSWORD, schema), &client)?.map_err(|r| format!("{r:?}"))
    }

    fn file(&self, name: &str) -> String {
        self.directory.join(name).display().to_string()
    }

    /// What the `mariadb` program prints for `sql`, with these options for TLS.
    fn mariadb(&self, user: &str, password: &str, options: &[&str], sql: &str) -> Outcome<(i32, String)> {
        let printed = Login::new(self.port, user, password, None).run(options, sql)?;
        Ok((printed.code.unwrap_or(-1), format!("{}{}", printed.output, printed.errors).trim().to_owned()))
    }

    /// The field `tls` of the one session.
    fn shown(&self) -> Outcome<serde_json::Value> {
        let sessions = self.spillway.get("/v1/sessions")?;
        Ok(sessions["sessions"][0]["tls"].clone())
    }

    /// Waits until nobody is there.
    fn wait_empty(&self) -> Outcome<()> {
        wait_for("the sessions are gone", PATIENCE, || {
            let sessions = self.spillway.get("/v1/sessions")?;
            let is_empty = sessions["sessions"].as_array().is_some_and(Vec::is_empty);
            if is_empty { Ok(()) } else { Err(sessions.to_string()) }
        })
    }
}

const WHO: &str = "SELECT CONCAT(CURRENT_USER(), ' ', USER(), ' ', IFNULL(DATABASE(), '-'))";

// === logins ===

fn login_in_both_versions() -> Verdict {
    let own = Own::start("spillway-tls", "")?;
    for (version, name) in [(&TLS12, "TLSv1.2"), (&TLS13, "TLSv1.3")] {
        let client = own.servers.trusted_by(version, None)?;
        for kind in [HandshakeKind::Full, HandshakeKind::Resumed] {
            let login = own.attempt(Credentials::new("app", PASSWORD, Some("lab")), &client)?;
            let mut session = login.map_err(|refusal| format!("{refusal:?}"))?;
            same!(first_value(&session.query(WHO)?)?, "app@% app@127.0.0.1 lab", "{name}");
            same!(session.tls.as_ref().and_then(|t| t.handshake_kind()), Some(kind), "{name}");
            let shown = own.shown()?;
            ensure!(shown.as_str().is_some_and(|s| s.starts_with(name)), "{shown}");
            ensure!(own.spillway.ask("show sessions")?.contains(name), "{name} is not in the console");
            session.command(&[0x01])?;
            drop(session);
            own.wait_empty()?;
        }
    }
    // A client that just goes away is no error either.
    let session = own.session("app", None)?;
    drop(session);
    own.wait_empty()?;
    let log = own.spillway.log();
    ensure!(!log.contains("session ended"), "an end that is none of a fault is logged as one:\n{log}");
    Ok(())
}

fn mariadb_client_verifies_the_certificate() -> Verdict {
    let own = Own::start("spillway-tls-client", "")?;
    let (ca, other) =
        (format!("--ssl-ca={}", own.file("servers.pem")), format!("--ssl-ca={}", own.file("clients.pem")));
    let verify = "--ssl-verify-server-cert";
    same!(
        own.mariadb("app", PASSWORD, &["--ssl", &ca, verify, "--skip-column-names"], WHO)?,
        (0, "app@% app@127.0.0.1 -".to_owned()),
        "with the right authority"
    );
    let (code, said) = own.mariadb("app", PASSWORD, &["--ssl", &other, verify], WHO)?;
    ensure!(code == 1 && said.contains("2026"), "with another authority: {said}");
    let (code, said) =
        own.mariadb("app", PASSWORD, &["--ssl", &ca, verify, "--tls-version=TLSv1.2"], "\\s")?;
    ensure!(code == 0 && said.contains("Cipher in use is ECDHE"), "{said}");
    Ok(())
}

fn wrong_password() -> Verdict {
    let own = Own::start("spillway-tls-wrong", "")?;
    let client = own.servers.trusted_by(&TLS13, None)?;
    for (user, password, schema) in [
        ("app", "wrong", None),
        ("app", "", Some("lab")),
        ("nobody", PASSWORD, None),
        ("app", PASSWORD, Some("closed")),
    ] {
        let credentials = Credentials::new(user, password, schema);
        let plain = raw::login(own.port, &credentials)?.err();
        let tls = own.attempt(credentials, &client)?.err();
        ensure!(plain.is_some(), "{user} is let in");
        same!(plain, tls, "{user} {password} {schema:?}");
    }
    let ca = format!("--ssl-ca={}", own.file("servers.pem"));
    let (code, said) = own.mariadb("app", "wrong", &["--ssl", &ca, "--ssl-verify-server-cert"], WHO)?;
    same!(
        (code, said.as_str()),
        (1, "ERROR 1045 (28000): Access denied for user 'app'@'127.0.0.1' (using password: YES)"),
        "what the client prints"
    );
    Ok(())
}

fn optional_for_plain_clients() -> Verdict {
    let own = Own::start("spillway-tls-optional", "")?;
    let mut plain = raw::login(own.port, &Credentials::new("app", PASSWORD, Some("lab")))?
        .map_err(|refusal| format!("{refusal:?}"))?;
    ensure!(plain.offered & capability::SSL != 0, "TLS is not offered");
    same!(first_value(&plain.query(WHO)?)?, "app@% app@127.0.0.1 lab", "without TLS");
    same!(own.shown()?, serde_json::Value::Null, "what operators see");
    let without = raw::login(lab::solo()?.ways.proxied, &Credentials::new("app", PASSWORD, None))?
        .map_err(|refusal| format!("{refusal:?}"))?;
    same!(without.offered & capability::SSL, 0, "a service without TLS offers none");
    Ok(())
}

fn required_refuses_plain_clients() -> Verdict {
    let own = Own::start("spillway-tls-required", "required = true")?;
    let text = "Connections using insecure transport are prohibited while --require_secure_transport=ON.";
    // Before the password is looked at.
    for password in [PASSWORD, "wrong"] {
        let refusal = raw::login(own.port, &Credentials::new("app", password, None))?.err();
        let wanted = Refusal { code: 3159, state: Some("08004".to_owned()), message: text.to_owned() };
        same!(refusal, Some(wanted), "without TLS");
    }
    let (code, said) = own.mariadb("app", PASSWORD, &[], WHO)?;
    same!((code, said), (1, format!("ERROR 3159 (08004): {text}")), "what the client prints");
    same!(first_value(&own.session("app", None)?.query("SELECT 1")?)?, "1", "with TLS");
    Ok(())
}

fn client_certificate() -> Verdict {
    let own = Own::start("spillway-tls-mutual", "client_ca = \"DIR/clients.pem\"")?;
    let known = own.clients.client()?;
    write(&own.directory, "client.crt", &known.certificate)?;
    write(&own.directory, "client.key", &known.key)?;
    let stranger = Authority::new("strangers")?.client()?;
    for version in [&TLS12, &TLS13] {
        for identity in [Some(&known), None] {
            let client = own.servers.trusted_by(version, identity)?;
            for _ in 0..2 {
                let login = own.attempt(Credentials::new("app", PASSWORD, None), &client)?;
                let mut session = login.map_err(|refusal| format!("{refusal:?}"))?;
                same!(first_value(&session.query("SELECT 1")?)?, "1", "asked, not demanded");
            }
        }
        // Case 94, of another authority.
        let client = own.servers.trusted_by(version, Some(&stranger))?;
        let refused = own.attempt(Credentials::new("app", PASSWORD, None), &client);
        ensure!(refused.is_err(), "a certificate that nobody vouches for was accepted");
    }
    let options = ["ca=servers.pem", "cert=client.crt", "key=client.key"].map(|option| {
        let (name, file) = option.split_once('=').unwrap_or_default();
        format!("--ssl-{name}={}", own.file(file))
    });
    let options: Vec<&str> =
        options.iter().map(String::as_str).chain(["--ssl", "--skip-column-names"]).collect();
    same!(own.mariadb("app", PASSWORD, &options, "SELECT 1")?, (0, "1".to_owned()), "the client program");
    Ok(())
}

/// The client's side is good enough for these accounts and the link is not: the node says no, Spillway does not.
fn accounts_that_require_tls() -> Verdict {
    let own = Own::start("spillway-tls-accounts", "client_ca = \"DIR/clients.pem\"")?;
    let known = own.clients.client()?;
    let refused_by_the_node = |log: &str| log.matches("node solo of cluster lab: refused").count();
    let with = own.servers.trusted_by(&TLS13, Some(&known))?;
    let without = own.servers.trusted_by(&TLS13, None)?;
    for (user, client, by_node) in [
        ("secure", &without, true),
        ("secure", &with, true),
        ("certified", &without, false),
        ("certified", &with, true),
    ] {
        let before = own.spillway.log();
        let refusal = own.attempt(Credentials::new(user, PASSWORD, None), client)?.err();
        same!(refusal.map(|r| r.code), Some(1045), "{user}");
        own.wait_empty()?;
        let log = own.spillway.log();
        same!(refused_by_the_node(&log) > refused_by_the_node(&before), by_node, "{user}\n{log}");
        let reason = "the account requires a client certificate";
        same!(log.matches(reason).count() > before.matches(reason).count(), !by_node, "{user}\n{log}");
    }
    Ok(())
}

/// What an OK packet has behind header, rows, ids, status and warnings.
pub(crate) fn information(session: &Raw) -> Vec<u8> {
    session.ok.get(7..).unwrap_or_default().to_vec()
}

/// The same where it vouches for the certificate of the other side, for an account of `mysql_native_password`.
pub(crate) fn vouching(session: &Raw) -> Outcome<Vec<u8>> {
    let stage2 = Sha1::digest(Sha1::digest(PASSWORD));
    let shown = session.tls.as_ref().and_then(|tls| tls.peer_certificates()).and_then(<[_]>::first);
    let certificate = Sha256::digest(shown.ok_or("no certificate")?);
    let digest = Sha256::new()
        .chain_update(stage2)
        .chain_update(&session.scramble)
        .chain_update(certificate)
        .finalize();
    let hex = format!("{:X}", bytes::Bytes::copy_from_slice(&digest));
    Ok([&b"A\x01"[..], hex.as_bytes()].concat())
}

/// By the digest that MariaDB's servers send from 11.4 on, and its clients compare.
fn the_certificate_is_vouched_for() -> Verdict {
    let own = Own::start("spillway-tls-vouched", "")?;
    for _ in 0..2 {
        let mut session = own.session("app", Some("lab"))?;
        same!(information(&session), vouching(&session)?, "the information of the OK packet");
        ensure!(session.change_user("other", PASSWORD, "lab2")?.is_ok(), "COM_CHANGE_USER");
        ensure!(!information(&session).contains(&1), "after COM_CHANGE_USER: {:?}", session.ok);
        session.command(&[1])?;
    }
    let plain = raw::login(own.port, &Credentials::new("app", PASSWORD, Some("lab")))?
        .map_err(|r| format!("{r:?}"))?;
    ensure!(information(&plain).is_empty(), "without TLS: {:?}", plain.ok);
    Ok(())
}

fn change_user() -> Verdict {
    let own = Own::start("spillway-tls-change", "")?;
    let mut session = own.session("app", Some("lab"))?;
    let who = "SELECT CONCAT(CURRENT_USER(), ' ', IFNULL(DATABASE(), '-'))";
    same!(session.change_user("other", PASSWORD, "lab2")?, Ok(()), "to another user");
    same!(first_value(&session.query(who)?)?, "other@% lab2", "afterwards");
    let refusal = session.change_user("other", "wrong", "")?;
    same!(refusal.map_err(|r| r.code), Err(1045), "a wrong password");
    // The client's TLS is known here too: it is the node that lacks it.
    let refusal = session.change_user("secure", PASSWORD, "")?;
    same!(refusal.map_err(|r| r.code), Err(1045), "an account that requires TLS");
    same!(first_value(&session.query(who)?)?, "other@% lab2", "after the refusals");
    let metrics = own.spillway.api("GET", "/metrics", None)?.body;
    ensure!(metrics.contains("\"access_denied\"") && !metrics.contains("\"tls_required\""), "{metrics}");
    Ok(())
}

// === bytes ===

fn big_result() -> Verdict {
    let own = Own::start("spillway-tls-big", "")?;
    let sql = "WITH RECURSIVE n AS (SELECT 1 AS i UNION ALL SELECT i + 1 FROM n WHERE i < 64) \
               SELECT i, REPEAT(CHAR(65 + i % 26), 500000 + i) FROM n";
    let (code, plain) = own.mariadb("app", PASSWORD, &[], sql)?;
    ensure!(code == 0 && plain.len() > 32_000_000, "{} bytes", plain.len());
    let ca = format!("--ssl-ca={}", own.file("servers.pem"));
    for version in ["--tls-version=TLSv1.2", "--tls-version=TLSv1.3"] {
        let (code, tls) = own.mariadb("app", PASSWORD, &["--ssl", &ca, version], sql)?;
        ensure!(code == 0 && tls == plain, "{version}: the result differs ({} bytes)", tls.len());
    }
    Ok(())
}

fn big_statement() -> Verdict {
    let own = Own::start("spillway-tls-upload", "")?;
    let mut session = own.session("app", None)?;
    for size in [10_usize, 16_384, 100_000, 12_000_000] {
        let sql = format!("SELECT LENGTH('{}')", "x".repeat(size));
        same!(first_value(&session.query(&sql)?)?, size.to_string(), "a statement with {size} bytes");
    }
    Ok(())
}

fn last_words_arrive() -> Verdict {
    let own = Own::start("spillway-tls-kill", "")?;
    let mut session = own.session("app", None)?;
    let sessions = own.spillway.get("/v1/sessions")?;
    let answer = own.spillway.ask(&format!("kill session {}", sessions["sessions"][0]["id"]))?;
    ensure!(!answer.to_lowercase().contains("error"), "{answer}");
    let words = Refusal::parse(&session.unasked_packet()?)?;
    same!(words.code, 1927, "{words:?}");
    // TLS's own goodbye follows, so that nobody can cut the connection unnoticed.
    let end = session.unasked_packet();
    ensure!(end.as_ref().is_err_and(|e| !e.contains("close_notify")), "{end:?}");
    Ok(())
}

fn renewed_certificate() -> Verdict {
    let own = Own::start("spillway-tls-renewal", "")?;
    let mut old = own.session("app", None)?;
    let successor = Authority::new("successor")?;
    let enters = |authority: &Authority| -> Outcome<bool> {
        let client = authority.trusted_by(&TLS13, None)?;
        Ok(own.attempt(Credentials::new("app", PASSWORD, None), &client).is_ok_and(|login| login.is_ok()))
    };
    same!((enters(&own.servers)?, enters(&successor)?), (true, false), "before the renewal");
    // Half of a renewal changes nothing.
    let issued = successor.server()?;
    write(&own.directory, "tls.crt", &issued.certificate)?;
    let answer = own.spillway.ask("reload config")?;
    ensure!(answer.contains("service.lab.tls.key: the file is not the key of the certificate"), "{answer}");
    same!((enters(&own.servers)?, enters(&successor)?), (true, false), "after half of it");
    write(&own.directory, "tls.key", &issued.key)?;
    own.spillway.hang_up()?;
    wait_for("the new certificate", PATIENCE, || {
        if enters(&successor)? { Ok(()) } else { Err(own.spillway.log_tail(5)) }
    })?;
    same!(enters(&own.servers)?, false, "the old certificate is still served");
    own.spillway.wait_log("service lab: tls certificate renewed")?;
    same!(first_value(&old.query("SELECT 1")?)?, "1", "the session from before");
    Ok(())
}

// === what fails closed ===

/// Reads until the other side closes, or resets, the connection.
fn rest(stream: &mut impl Read) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut block = [0; 4096];
    while let Ok(n @ 1..) = stream.read(&mut block) {
        bytes.extend_from_slice(&block[..n]);
    }
    bytes
}

fn greeted(port: u16) -> Outcome<std::net::TcpStream> {
    let mut stream = raw::connect(port, Ipv4Addr::LOCALHOST)?;
    stream.set_read_timeout(Some(PATIENCE)).map_err(text)?;
    let mut header = [0; 4];
    stream.read_exact(&mut header).map_err(text)?;
    let size = u32::from_le_bytes([header[0], header[1], header[2], 0]) as usize;
    stream.read_exact(&mut vec![0; size]).map_err(text)?;
    Ok(stream)
}

fn plaintext_behind_the_request_fails_closed() -> Verdict {
    let own = Own::start("spillway-tls-injection", "")?;
    let request = raw::frame(&raw::response_head(capability::USUAL | capability::SSL), &mut 1);
    let head = raw::response_head(capability::USUAL | capability::SSL);
    let response = raw::frame(&[&head[..], b"nopass\0\0mysql_native_password\0"].concat(), &mut 2);
    let command = raw::frame(&raw::query("DO SLEEP(0)"), &mut 0);
    let mut hello = Vec::new();
    let client = own.servers.trusted_by(&TLS13, None)?;
    let mut connection =
        rustls::ClientConnection::new(client, "localhost".try_into().map_err(text)?).map_err(text)?;
    connection.write_tls(&mut hello).map_err(text)?;
    for (what, sent) in [
        ("a response", [&request[..], &response].concat()),
        ("a response and TLS", [&request[..], &response, &hello].concat()),
        ("a command", [&request[..], &command].concat()),
        ("a command and TLS", [&request[..], &command, &hello].concat()),
        ("another request", [&request[..], &request].concat()),
    ] {
        let mut stream = greeted(own.port)?;
        stream.write_all(&sent).map_err(text)?;
        let said = rest(&mut stream);
        // An alert of TLS or nothing: no packet of the protocol.
        ensure!(said.is_empty() || (said[0] == 21 && said.len() == 7), "{what}: {said:?}");
    }
    wait_for("five lines of the log", PATIENCE, || {
        let log = own.spillway.log();
        if log.matches("TLS handshake").count() == 5 { Ok(()) } else { Err(log) }
    })?;
    // TLS that begins in the same segment as the request is what it seems to be.
    let mut stream = greeted(own.port)?;
    stream.write_all(&[&request[..], &hello].concat()).map_err(text)?;
    let mut block = [0; 5];
    stream.read_exact(&mut block).map_err(text)?;
    same!(block[0], 22, "a handshake record");
    drop(stream);
    // A request within TLS is no response.
    let client = own.servers.trusted_by(&TLS13, None)?;
    let mut connection =
        rustls::ClientConnection::new(client, "localhost".try_into().map_err(text)?).map_err(text)?;
    let mut stream = greeted(own.port)?;
    stream.write_all(&request).map_err(text)?;
    let mut tls = rustls::Stream::new(&mut connection, &mut stream);
    tls.write_all(&raw::frame(&head, &mut 2)).map_err(text)?;
    let said = rest(&mut tls);
    same!(said.get(3..7), Some(&[3, 0xff, 0x13, 0x04][..]), "{said:?}");
    let mut alive = own.session("app", None)?;
    ensure!(!alive.exchange(&[0x0e], Shape::Packet)?.is_empty(), "no answer to a ping");
    Ok(())
}

fn a_client_that_only_claims_tls() -> Verdict {
    let own = Own::start("spillway-tls-claim", "")?;
    // The whole response in the clear, with the flag that asks for TLS.
    let head = raw::response_head(capability::USUAL | capability::SSL);
    let response = [&head[..], b"nopass\0\0mysql_native_password\0"].concat();
    let mut stream = greeted(own.port)?;
    stream.write_all(&raw::frame(&response, &mut 1)).map_err(text)?;
    let said = rest(&mut stream);
    let refusal = Refusal::parse(said.get(4..).unwrap_or_default())?;
    same!((refusal.code, said[3]), (1043, 2), "{refusal:?}");
    Ok(())
}
