//! Before the first client: `spillway check`, exit codes, clusters that cannot be reached.

use crate::harness::client::{Printed, run_with_input};
use crate::harness::proxy::Spillway;
use crate::harness::server::Server;
use crate::harness::workspace::{directory, free_port};
use crate::harness::{Outcome, PATIENCE, wait_for};
use crate::lab::{self, PASSWORD};
use crate::raw::{self, Credentials, first_value};
use crate::{Verdict, ensure, same, trial};
use libtest_mimic::Trial;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("startup::check", check),
        trial("startup::wrong_configuration_opens_nothing", wrong_configuration_opens_nothing),
        trial("startup::check_live", check_live),
        trial("startup::address_in_use", address_in_use),
        trial("startup::unreachable_cluster", unreachable_cluster),
        trial("startup::without_accounts_until_they_come", without_accounts_until_they_come),
        trial(
            "startup::monitor_password_from_file_and_environment",
            monitor_password_from_file_and_environment,
        ),
    ]
}

fn check_file(name: &str, configuration: &str, options: &[&str]) -> Outcome<Printed> {
    let file = directory("check")?.join(name);
    std::fs::write(&file, configuration).map_err(|e| e.to_string())?;
    let mut command = std::process::Command::new(lab::binary());
    command.arg("check").args(options).arg("-c").arg(&file);
    run_with_input(&mut command, b"")
}

fn all(printed: &Printed) -> String {
    format!("{}\n{}", printed.output, printed.errors)
}

fn check() -> Verdict {
    let right = check_file("right.toml", &lab::solo_toml(free_port()?, "")?, &[])?;
    same!(right.code, Some(0), "{right:?}");
    // All errors at once, each with its line.
    let wrong = "[cluster.a]\nkind = \"galara\"\nnodes = { n1 = \"127.0.0.1:99999\" }\nmonitor = { user = \"m\", password = \"p\" }\n\
                 \n[service.s]\nlisten = [\"127.0.0.1:4000\"]\nroute = \"cluster:b\"\nnodde = \"any\"\n";
    let printed = check_file("wrong.toml", wrong, &[])?;
    same!(printed.code, Some(64), "{printed:?}");
    let text = all(&printed);
    for word in ["wrong.toml:2", "galera", "wrong.toml:3", "99999", "wrong.toml:8", "wrong.toml:9", "nodde"] {
        ensure!(text.contains(word), "no {word:?} in:\n{text}");
    }
    let printed = check_file("broken.toml", "[cluster.a\nkind = ", &[])?;
    same!(printed.code, Some(64), "{printed:?}");
    let mut command = std::process::Command::new(lab::binary());
    let printed = run_with_input(command.args(["check", "-c", "/no/such/file"]), b"")?;
    same!(printed.code, Some(64), "{printed:?}");
    Ok(())
}

fn wrong_configuration_opens_nothing() -> Verdict {
    let port = free_port()?;
    let configuration = lab::solo_toml(port, "[log]\nlevel = 7\n")?;
    let mut spillway = Spillway::launch(lab::binary(), "spillway-wrong", &configuration)?;
    let status = spillway.wait(PATIENCE)?;
    same!(status.code(), Some(64), "exit code; {}", spillway.log_tail(20));
    ensure!(std::net::TcpStream::connect(("127.0.0.1", port)).is_err(), "the port is open");
    Ok(())
}

fn check_live() -> Verdict {
    let right = check_file("live.toml", &lab::solo_toml(free_port()?, "")?, &["--live"])?;
    same!(right.code, Some(0), "{right:?}");
    let server = Server::standalone("grants", &["--skip-name-resolve"])?;
    let nodes = format!("{{ only = \"{}\" }}", server.address());
    let configuration = lab::cluster_toml("lacking", "static", &nodes)
        + &lab::service_toml("s", free_port()?, "route = \"cluster:lacking\"");
    // No account at all.
    let printed = check_file("lacking.toml", &configuration, &["--live"])?;
    ensure!(printed.code != Some(0), "without an account: {printed:?}");
    // One grant is missing: the statement that is printed, when run, is enough.
    server.create_monitor()?;
    server.sql("REVOKE SELECT ON mysql.procs_priv FROM spillway@'%'")?;
    let printed = check_file("lacking.toml", &configuration, &["--live"])?;
    ensure!(printed.code != Some(0), "without a grant: {printed:?}");
    let text = all(&printed);
    let at = text.find("GRANT ").ok_or_else(|| format!("no GRANT in:\n{text}"))?;
    let statement = text[at..].lines().next().unwrap_or_default().trim();
    ensure!(statement.contains("procs_priv"), "not the missing grant: {statement}");
    server.sql(statement)?;
    let printed = check_file("lacking.toml", &configuration, &["--live"])?;
    same!(printed.code, Some(0), "after {statement}: {printed:?}");
    // Who changes the writer needs more.
    server.sql("CREATE USER changer@'%' IDENTIFIED BY 'changer-secret'; GRANT RELOAD, BINLOG MONITOR ON *.* TO changer@'%'")?;
    let lines = "handover = { user = \"changer\", password = \"changer-secret\" }";
    let configuration = lab::cluster_with("lacking", "multi-primary", &nodes, lines)
        + &lab::service_toml("s", free_port()?, "route = \"cluster:lacking\"");
    let text = all(&check_file("lacking.toml", &configuration, &["--live"])?);
    let at = text.find("GRANT ").ok_or_else(|| format!("no GRANT in:\n{text}"))?;
    let statement = text[at..].lines().next().unwrap_or_default().trim();
    same!(
        statement,
        "GRANT READ_ONLY ADMIN, CONNECTION ADMIN, SLAVE MONITOR ON *.* TO 'changer'@'%';",
        "{text}"
    );
    server.sql(statement)?;
    let printed = check_file("lacking.toml", &configuration, &["--live"])?;
    same!(printed.code, Some(0), "after {statement}: {printed:?}");
    Ok(())
}

fn address_in_use() -> Verdict {
    let solo = lab::solo()?;
    let mut spillway =
        Spillway::launch(lab::binary(), "spillway-in-use", &lab::solo_toml(solo.ways.proxied, "")?)?;
    let status = spillway.wait(PATIENCE)?;
    same!(status.code(), Some(69), "exit code; {}", spillway.log_tail(20));
    let log = spillway.log();
    ensure!(log.contains(&solo.ways.proxied.to_string()), "the address is not named: {log}");
    Ok(())
}

/// The configuration of two clusters of which one is not there yet.
fn half_there(port: u16, missing: u16, runtime: &str) -> Outcome<String> {
    Ok(lab::solo_toml(port, "")?
        + &lab::cluster_toml("later", "static", &format!("{{ only = \"127.0.0.1:{missing}\" }}"))
        + &lab::service_toml("later", free_port()?, "route = \"cluster:later\"")
        + "[runtime]\n"
        + runtime)
}

fn unreachable_cluster() -> Verdict {
    let configuration = half_there(free_port()?, free_port()?, "start_timeout = \"3s\"\n")?;
    let mut spillway = Spillway::launch(lab::binary(), "spillway-unreachable", &configuration)?;
    let status = spillway.wait(PATIENCE)?;
    same!(status.code(), Some(69), "exit code; {}", spillway.log_tail(20));
    let log = spillway.log();
    ensure!(log.contains("later"), "the cluster is not named: {log}");
    Ok(())
}

fn without_accounts_until_they_come() -> Verdict {
    let mut server = Server::prepare("later", &["--skip-name-resolve"])?;
    let (port, later) = (free_port()?, free_port()?);
    let configuration = lab::solo_toml(port, "")?
        + &lab::cluster_toml("later", "static", &format!("{{ only = \"{}\" }}", server.address()))
            .replace("kind = \"static\"", "kind = \"static\"\naccounts_refresh = \"1s\"")
        + &lab::service_toml("later", later, "route = \"cluster:later\"")
        + "[runtime]\nstart_without_accounts = true\nstart_timeout = \"3s\"\n";
    let mut spillway = Spillway::launch(lab::binary(), "spillway-later", &configuration)?;
    // The cluster that is there serves; the other refuses, and says why.
    wait_for("the other cluster serves", PATIENCE, || {
        let session = raw::login(port, &Credentials::new("app", PASSWORD, None))?;
        first_value(&session.map_err(|refusal| format!("{refusal:?}"))?.query("SELECT 1")?)
    })
    .map_err(|reason| format!("{reason}\n{}", spillway.log_tail(30)))?;
    ensure!(spillway.ended().is_none(), "it ended");
    let refusal = raw::login(later, &Credentials::new("app", PASSWORD, None))?.err();
    let refusal = refusal.ok_or("a session without accounts")?;
    ensure!(refusal.message.contains("later"), "the cluster is not named: {refusal:?}");
    server.start(&[])?;
    server.create_monitor()?;
    server.sql("CREATE USER app@'%' IDENTIFIED BY 'app-secret'")?;
    wait_for("accounts come", PATIENCE, || {
        let session = raw::login(later, &Credentials::new("app", PASSWORD, None))?;
        first_value(&session.map_err(|refusal| format!("{refusal:?}"))?.query("SELECT 1")?)
    })
    .map_err(|reason| format!("{reason}\n{}", spillway.log_tail(30)))
    .map(drop)
}

fn monitor_password_from_file_and_environment() -> Verdict {
    let file = directory("secrets")?.join("monitor.password");
    std::fs::write(&file, "monitor-secret\n").map_err(|e| e.to_string())?;
    let inline = "password = \"monitor-secret\"";
    let port = free_port()?;
    let by_file =
        lab::solo_toml(port, "")?.replace(inline, &format!("password_file = \"{}\"", file.display()));
    let spillway = Spillway::start(lab::binary(), "spillway-by-file", &by_file)?;
    drop(spillway);
    let by_environment =
        lab::solo_toml(port, "")?.replace(inline, "password_env = \"SPILLWAY_TEST_PASSWORD\"");
    let path = directory("check")?.join("environment.toml");
    std::fs::write(&path, by_environment).map_err(|e| e.to_string())?;
    let mut command = std::process::Command::new(lab::binary());
    command.args(["check", "--live", "-c"]).arg(&path);
    let without = run_with_input(&mut command, b"")?;
    ensure!(without.code != Some(0), "without the variable: {without:?}");
    let with = run_with_input(command.env("SPILLWAY_TEST_PASSWORD", "monitor-secret"), b"")?;
    same!(with.code, Some(0), "with the variable: {with:?}");
    Ok(())
}
