//! What an operator does: console, HTTP API, reload, drain, stop.

use crate::harness::client::Login;
use crate::harness::proxy::{API_TOKEN, CONSOLE_PASSWORD, Console, Spillway, http};
use crate::harness::workspace::{directory, free_port};
use crate::harness::{Outcome, PATIENCE, wait_for};
use crate::lab::{self, PASSWORD};
use crate::raw::{self, Credentials, Raw, Shape, first_value};
use crate::{Verdict, ensure, same, trial};
use libtest_mimic::Trial;
use std::time::{Duration, Instant};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("operations::console_looks", console_looks),
        trial("operations::console_login", console_login),
        trial("operations::command_line", command_line),
        trial("operations::api_looks", api_looks),
        trial("operations::api_needs_the_token", api_needs_the_token),
        trial("operations::metrics", metrics),
        trial("operations::drain_and_maintenance", drain_and_maintenance),
        trial("operations::state_survives_a_restart", state_survives_a_restart),
        trial("operations::kill_session", kill_session),
        trial("operations::accounts_come_and_go", accounts_come_and_go),
        trial("operations::reload_configuration", reload_configuration),
        trial("operations::stop_drains", stop_drains),
        trial("operations::stop_has_a_deadline", stop_has_a_deadline),
        trial("operations::unix_socket_listener", unix_socket_listener),
        trial("operations::no_secret_in_the_log", no_secret_in_the_log),
    ]
}

fn session(port: u16) -> Outcome<Raw> {
    raw::login(port, &Credentials::new("app", PASSWORD, Some("lab")))?
        .map_err(|refusal| format!("{refusal:?}"))
}

/// The same commands from a shell, by the console that the configuration names.
fn command_line() -> Verdict {
    let own = lab::private_solo("spillway-ctl", "")?;
    let ctl = |words: &[&str]| {
        let mut command = std::process::Command::new(lab::binary());
        command.arg("ctl").arg("-c").arg(own.spillway.file()).args(words);
        crate::harness::client::run_with_input(&mut command, b"")
    };
    for (words, code, wanted) in [
        (&["show", "nodes"][..], 0, "lab"),
        (&["show nodes"], 0, "lab"),
        (&["explain", "login", "app", "127.0.0.1", "lab"], 0, "verdict"),
        (&["explain", "login", "nobody", "10.1.2.3"], 0, "refused"),
        (&["set", "node", "lab", "solo", "drain"], 0, "drain"),
        (&["set", "node", "lab", "solo", "enabled"], 0, "enabled"),
        (&["kill", "session", "999999"], 1, "error: "),
        (&["dance"], 1, "error: "),
        (&["quit"], 0, ""),
        (&["switch", "lab", "--dry-run"], 1, "error: "),
    ] {
        let printed = ctl(words)?;
        same!(printed.code, Some(code), "{words:?}: {printed:?}");
        let (said, silent) =
            if code == 0 { (&printed.output, &printed.errors) } else { (&printed.errors, &printed.output) };
        ensure!(said.contains(wanted) && silent.is_empty(), "{words:?}: {printed:?}");
        ensure!(!said.contains("spillway> "), "a prompt: {said}");
    }
    let without = directory("ctl")?.join("without.toml");
    std::fs::write(&without, lab::solo_toml(free_port()?, "")?).map_err(|e| e.to_string())?;
    let mut command = std::process::Command::new(lab::binary());
    let printed =
        crate::harness::client::run_with_input(command.args(["ctl", "-c"]).arg(&without).arg("help"), b"")?;
    same!(printed.code, Some(69), "{printed:?}");
    ensure!(printed.errors.contains("admin.console"), "{printed:?}");
    Ok(())
}

fn console_looks() -> Verdict {
    let own = lab::private_solo("spillway-console", "")?;
    let mut open = session(own.port)?;
    let mut console = own.spillway.console()?;
    for (command, words) in [
        ("help", &["show nodes", "set node", "kill session", "reload accounts", "reload config", "quit"][..]),
        ("show clusters", &["lab", "static"]),
        ("show nodes", &["solo", "lab", "enabled", "127.0.0.1:"]),
        ("show sessions", &["app", "lab", "solo"]),
        ("show accounts", &["app", "nopass", "locked", "lab"]),
        ("show listeners", &["127.0.0.1:", "lab"]),
        ("show version", &[env!("CARGO_PKG_VERSION")]),
    ] {
        let answer = console.command(command)?;
        for word in words {
            ensure!(answer.contains(word), "no {word:?} in the answer to {command:?}:\n{answer}");
        }
        ensure!(!answer.contains(PASSWORD), "a password in the answer to {command:?}");
    }
    for wrong in [
        "nonsense",
        "show",
        "show nothing",
        "set node lab nowhere drain",
        "set node lab solo sideways",
        "kill session x",
    ] {
        let answer = console.command(wrong)?;
        ensure!(answer.to_lowercase().contains("error"), "{wrong:?} is answered {answer:?}");
    }
    // An empty line is no command, and no harm.
    console.command("")?;
    console.send("quit")?;
    ensure!(console.closed(), "quit does not close");
    same!(first_value(&open.query("SELECT 1")?)?, "1", "the client did not notice");
    Ok(())
}

fn console_login() -> Verdict {
    let solo = lab::solo()?;
    let port = solo.spillway.console_port;
    for wrong in ["wrong", "", "console-secre", "console-secret2"] {
        ensure!(Console::login(port, wrong).is_err(), "{wrong:?} was accepted");
    }
    same!(Console::login(port, CONSOLE_PASSWORD)?.command("show version")?.is_empty(), false, "version");
    Ok(())
}

fn api_looks() -> Verdict {
    let own = lab::private_solo("spillway-api", "")?;
    let mut open = session(own.port)?;
    let clusters = own.spillway.get("/v1/clusters")?;
    ensure!(clusters.to_string().contains("\"lab\""), "{clusters}");
    let node = own.spillway.node("lab", "solo")?;
    same!(node["address"], lab::solo()?.server.address().to_string(), "{node}");
    same!(
        (&node["role"], &node["desired"], &node["observed"]),
        (&"writer".into(), &"enabled".into(), &"up".into()),
        "{node}"
    );
    let sessions = own.spillway.get("/v1/sessions")?;
    let all = sessions["sessions"].as_array().cloned().unwrap_or_default();
    same!(all.len(), 1, "{sessions}");
    for (key, value) in
        [("user", "app"), ("service", "lab"), ("cluster", "lab"), ("node", "solo"), ("schema", "lab")]
    {
        same!(all[0][key], value, "{sessions}");
    }
    let client = open.stream.local_addr().map_err(|e| e.to_string())?.to_string();
    ensure!(sessions.to_string().contains(&client), "the client {client} is not in {sessions}");
    open.query("USE lab2")?;
    wait_for("the schema is seen", PATIENCE, || {
        let sessions = own.spillway.get("/v1/sessions")?;
        if sessions["sessions"][0]["schema"] == "lab2" { Ok(()) } else { Err(sessions.to_string()) }
    })?;
    let accounts = own.spillway.get("/v1/accounts")?.to_string();
    ensure!(accounts.contains("nopass") && accounts.contains("tableonly"), "{accounts}");
    // No hash of a password leaves by this door.
    let hash = lab::solo()?.server.sql("SELECT PASSWORD('app-secret')")?;
    ensure!(!accounts.to_uppercase().contains(hash.trim_start_matches('*')), "hashes in /v1/accounts");
    drop(open);
    wait_for("the session is gone", PATIENCE, || {
        let sessions = own.spillway.get("/v1/sessions")?;
        if sessions["sessions"].as_array().is_some_and(Vec::is_empty) {
            Ok(())
        } else {
            Err(sessions.to_string())
        }
    })
}

fn api_needs_the_token() -> Verdict {
    let port = lab::solo()?.spillway.api_port;
    for (method, path, body) in [
        ("GET", "/v1/clusters", None),
        ("GET", "/v1/nodes", None),
        ("GET", "/v1/sessions", None),
        ("GET", "/v1/accounts", None),
        ("PUT", "/v1/clusters/lab/nodes/solo/state", Some("{\"state\":\"drain\"}")),
        ("DELETE", "/v1/sessions/1", None),
        ("POST", "/v1/reload", Some("{\"what\":\"accounts\"}")),
    ] {
        for token in [None, Some("wrong"), Some(""), Some("api-token-secre")] {
            let answer = http(port, method, path, token, body)?;
            same!(answer.status, 401, "{method} {path} with {token:?}: {}", answer.body);
        }
    }
    for path in ["/live", "/ready"] {
        same!(http(port, "GET", path, None, None)?.status, 200, "{path}");
    }
    let spillway = &lab::solo()?.spillway;
    same!(spillway.api("GET", "/v1/nothing", None)?.status, 404, "an unknown path");
    same!(spillway.api("POST", "/v1/clusters", Some("{}"))?.status, 405, "a wrong method");
    same!(
        spillway.api("PUT", "/v1/clusters/lab/nodes/nowhere/state", Some("{\"state\":\"drain\"}"))?.status,
        404,
        "no such node"
    );
    same!(spillway.api("DELETE", "/v1/sessions/999999999", None)?.status, 404, "no such session");
    for wrong in ["{\"state\":\"sideways\"}", "{}", "nonsense", "{\"state\":1}"] {
        let answer = spillway.api("PUT", "/v1/clusters/lab/nodes/solo/state", Some(wrong))?;
        ensure!(
            (400..500).contains(&answer.status),
            "{wrong} is answered {}: {}",
            answer.status,
            answer.body
        );
    }
    same!(spillway.node("lab", "solo")?["desired"], "enabled", "nothing was changed");
    Ok(())
}

fn metrics() -> Verdict {
    let own = lab::private_solo("spillway-metrics", "")?;
    session(own.port)?.query("SELECT 1")?;
    let refused = raw::login(own.port, &Credentials::new("app", "wrong", None))?;
    ensure!(refused.is_err(), "a wrong password was accepted");
    let text = || {
        let with_token = own.spillway.api("GET", "/metrics", None)?;
        same!(with_token.status, 200, "{}", with_token.body);
        Ok::<_, String>(with_token.body)
    };
    let body = text()?;
    let samples: Vec<&str> = body.lines().filter(|line| !line.starts_with('#') && !line.is_empty()).collect();
    ensure!(samples.len() > 3, "hardly a metric: {body}");
    for sample in &samples {
        ensure!(sample.starts_with("spillway_"), "{sample:?} has no prefix");
        let value = sample.rsplit(' ').next().and_then(|word| word.parse::<f64>().ok());
        ensure!(value.is_some(), "{sample:?} has no number");
    }
    for word in ["session", "node", "lab"] {
        ensure!(samples.iter().any(|sample| sample.contains(word)), "nothing about {word} in {body}");
    }
    ensure!(body.trim_end().ends_with("# EOF"), "the text does not end with # EOF: {body}");
    same!(http(own.spillway.api_port, "GET", "/metrics", Some(API_TOKEN), None)?.status, 200, "again");
    Ok(())
}

fn drain_and_maintenance() -> Verdict {
    let own = lab::private_solo("spillway-drain", "")?;
    let mut open = session(own.port)?;
    let answer = own.spillway.ask("set node lab solo drain")?;
    ensure!(!answer.to_lowercase().contains("error"), "{answer}");
    same!(own.spillway.node("lab", "solo")?["desired"], "drain", "desired state");
    same!(own.spillway.node("lab", "solo")?["observed"], "up", "observed state stays apart");
    let refusal = raw::login(own.port, &Credentials::new("app", PASSWORD, None))?.err();
    let refusal = refusal.ok_or("a drained node took a session")?;
    same!(refusal.code, 1040, "{refusal:?}");
    ensure!(refusal.message.contains("lab") && refusal.message.contains("drain"), "{}", refusal.message);
    same!(first_value(&open.query("SELECT 'stays'")?)?, "stays", "a session on a drained node");

    let answer =
        own.spillway.api("PUT", "/v1/clusters/lab/nodes/solo/state", Some("{\"state\":\"enabled\"}"))?;
    ensure!((200..300).contains(&answer.status), "{} {}", answer.status, answer.body);
    let mut second = session(own.port)?;

    let answer =
        own.spillway.api("PUT", "/v1/clusters/lab/nodes/solo/state", Some("{\"state\":\"maintenance\"}"))?;
    ensure!((200..300).contains(&answer.status), "{} {}", answer.status, answer.body);
    let start = Instant::now();
    for session in [&mut open, &mut second] {
        session.stream.set_read_timeout(Some(PATIENCE)).map_err(|e| e.to_string())?;
        while session.unasked_packet().is_ok() {}
    }
    ensure!(start.elapsed() < PATIENCE, "sessions outlive maintenance");
    ensure!(
        raw::login(own.port, &Credentials::new("app", PASSWORD, None))?.is_err(),
        "in maintenance, and yet a session"
    );
    own.spillway.ask("set node lab solo enabled")?;
    same!(first_value(&session(own.port)?.query("SELECT 1")?)?, "1", "enabled again");
    Ok(())
}

fn state_survives_a_restart() -> Verdict {
    let state = directory("state")?.join("state.json");
    let more = format!("[runtime]\nstate_file = \"{}\"\n", state.display());
    let mut own = lab::private_solo("spillway-state", &more)?;
    own.spillway.ask("set node lab solo drain")?;
    own.spillway.terminate()?;
    own.spillway.wait(PATIENCE)?;
    drop(own);
    let port = free_port()?;
    let again = lab::solo_toml(port, &more)?;
    let mut spillway = Spillway::launch(lab::binary(), "spillway-state-again", &again)?;
    // Its only node is drained, so it serves, but is not ready for clients.
    wait_for("the phase serving", PATIENCE, || {
        let answer = spillway.api("GET", "/ready", None)?;
        let serving = answer.status == 503 && answer.body.contains("\"phase\":\"serving\"");
        if serving { Ok(()) } else { Err(format!("{} {}", answer.status, answer.body)) }
    })?;
    same!(spillway.node("lab", "solo")?["desired"], "drain", "after the restart");
    ensure!(
        raw::login(port, &Credentials::new("app", PASSWORD, None))?.is_err(),
        "a drained node took a session"
    );
    spillway.ask("set node lab solo enabled")?;
    spillway.wait_ready(PATIENCE)?;
    session(port).map(drop)
}

fn kill_session() -> Verdict {
    let own = lab::private_solo("spillway-kill", "")?;
    let id = |user: &str| -> Outcome<u64> {
        let sessions = own.spillway.get("/v1/sessions")?;
        let all = sessions["sessions"].as_array().cloned().unwrap_or_default();
        let one = all.iter().find(|entry| entry["user"] == user);
        one.and_then(|entry| entry["id"].as_u64())
            .ok_or_else(|| format!("no session of {user} in {sessions}"))
    };
    let login = |user| {
        raw::login(own.port, &Credentials::new(user, PASSWORD, None))?
            .map_err(|refusal| format!("{refusal:?}"))
    };
    let (mut first, mut second, mut bystander) = (login("app")?, login("other")?, login("reader")?);
    let server_thread = first_value(&first.query("SELECT CONNECTION_ID()")?)?;
    first.command(&raw::query("SELECT SLEEP(60)"))?;
    let answer = own.spillway.ask(&format!("kill session {}", id("app")?))?;
    ensure!(!answer.to_lowercase().contains("error"), "{answer}");
    let answer = own.spillway.api("DELETE", &format!("/v1/sessions/{}", id("other")?), None)?;
    ensure!((200..300).contains(&answer.status), "{} {}", answer.status, answer.body);
    for (session, name) in [(&mut first, "by console"), (&mut second, "by API")] {
        // Less than the statement takes that runs.
        let limit = PATIENCE / 2;
        session.stream.set_read_timeout(Some(limit)).map_err(|e| e.to_string())?;
        let start = Instant::now();
        while session.unasked_packet().is_ok() {}
        ensure!(start.elapsed() < limit, "killed {name}, but still open");
    }
    same!(first_value(&bystander.query("SELECT 1")?)?, "1", "the session beside");
    let count = format!(
        "SELECT COUNT(*) FROM information_schema.PROCESSLIST WHERE ID = {server_thread} AND COMMAND <> 'Killed'"
    );
    lab::solo()?.server.wait_sql(&count, "0", PATIENCE)
}

fn accounts_come_and_go() -> Verdict {
    let solo = lab::solo()?;
    // Not refreshed by time, so that it is the reload which is seen.
    let port = free_port()?;
    let configuration = lab::solo_toml(port, "")?
        .replace("kind = \"static\"", "kind = \"static\"\naccounts_refresh = \"0s\"");
    let spillway =
        crate::harness::proxy::Spillway::start(lab::binary(), "spillway-accounts", &configuration)?;
    let enters = |user: &str, password: &str| -> Outcome<Result<(), u16>> {
        Ok(raw::login(port, &Credentials::new(user, password, None))?
            .map(drop)
            .map_err(|refusal| refusal.code))
    };
    same!(enters("comes", PASSWORD)?, Err(1045), "before it exists");
    solo.server.sql("CREATE USER comes@'%' IDENTIFIED BY 'app-secret'")?;
    spillway.reload_accounts()?;
    same!(enters("comes", PASSWORD)?, Ok(()), "after the reload");
    solo.server.sql("ALTER USER comes@'%' IDENTIFIED BY 'changed-secret'")?;
    // Even before any reload the server is the last judge: the old password opens nothing.
    ensure!(enters("comes", PASSWORD)?.is_err(), "the old password still opens");
    let answer = spillway.api("POST", "/v1/reload", Some("{\"what\":\"accounts\"}"))?;
    ensure!((200..300).contains(&answer.status), "{} {}", answer.status, answer.body);
    same!(enters("comes", PASSWORD)?, Err(1045), "the old password after the reload");
    same!(enters("comes", "changed-secret")?, Ok(()), "the new password after the reload");
    solo.server.sql("DROP USER comes@'%'")?;
    ensure!(enters("comes", "changed-secret")?.is_err(), "a dropped account opens before the reload");
    spillway.reload_accounts()?;
    same!(enters("comes", "changed-secret")?, Err(1045), "a dropped account after the reload");
    ensure!(!spillway.ask("show accounts")?.contains("comes"), "a dropped account is still shown");
    Ok(())
}

fn reload_configuration() -> Verdict {
    let own = lab::private_solo("spillway-reload", "")?;
    let mut open = session(own.port)?;
    let second = free_port()?;
    let wider = lab::solo_toml(own.port, &lab::service_toml("second", second, "route = \"cluster:lab\""))?;
    // A wrong file changes nothing.
    own.spillway.rewrite(&wider.replace("cluster:lab", "cluster:nowhere"))?;
    let answer = own.spillway.ask("reload config")?;
    ensure!(answer.to_lowercase().contains("error") && answer.contains("nowhere"), "{answer}");
    same!(first_value(&session(own.port)?.query("SELECT 1")?)?, "1", "after a wrong file");
    own.spillway.rewrite(&wider)?;
    let answer = own.spillway.ask("reload config")?;
    ensure!(answer.contains("second"), "the change is not shown: {answer}");
    same!(first_value(&session(second)?.query("SELECT 1")?)?, "1", "the new listener");
    // And back, by the API: the listener closes, what is open stays.
    let mut on_second = session(second)?;
    own.spillway.rewrite(&lab::solo_toml(own.port, "")?)?;
    let answer = own.spillway.api("POST", "/v1/reload", Some("{\"what\":\"config\"}"))?;
    ensure!((200..300).contains(&answer.status), "{} {}", answer.status, answer.body);
    wait_for("the listener closes", PATIENCE, || {
        if std::net::TcpStream::connect(("127.0.0.1", second)).is_err() {
            Ok(())
        } else {
            Err("open".to_owned())
        }
    })?;
    same!(first_value(&open.query("SELECT 1")?)?, "1", "an old session");
    same!(first_value(&on_second.query("SELECT 1")?)?, "1", "a session of the closed listener");
    Ok(())
}

fn stop_drains() -> Verdict {
    let mut own = lab::private_solo("spillway-stop", "[runtime]\ndrain_timeout = \"2m\"\n")?;
    let mut open = session(own.port)?;
    open.query("BEGIN")?;
    own.spillway.terminate()?;
    wait_for("the listener closes", PATIENCE, || {
        if std::net::TcpStream::connect(("127.0.0.1", own.port)).is_err() {
            Ok(())
        } else {
            Err("open".to_owned())
        }
    })?;
    same!(first_value(&open.query("SELECT 'still served'")?)?, "still served", "while draining");
    ensure!(own.spillway.ended().is_none(), "it did not wait");
    open.query("COMMIT")?;
    open.command(&[0x01])?;
    let start = Instant::now();
    drop(open);
    let status = own.spillway.wait(PATIENCE)?;
    same!(status.code(), Some(0), "exit code; {}", own.spillway.log_tail(20));
    ensure!(start.elapsed() < PATIENCE, "it did not end with its last session");
    Ok(())
}

fn stop_has_a_deadline() -> Verdict {
    let mut own = lab::private_solo("spillway-deadline", "[runtime]\ndrain_timeout = \"2s\"\n")?;
    let mut open = session(own.port)?;
    open.command(&raw::query("SELECT SLEEP(60)"))?;
    let start = Instant::now();
    own.spillway.terminate()?;
    let status = own.spillway.wait(PATIENCE)?;
    same!(status.code(), Some(0), "exit code; {}", own.spillway.log_tail(20));
    ensure!(start.elapsed() >= Duration::from_millis(1900), "it ended after {:?}", start.elapsed());
    ensure!(open.unasked_packet().is_err() || open.unasked_packet().is_err(), "the session is still open");
    Ok(())
}

fn unix_socket_listener() -> Verdict {
    let socket = directory("sockets")?.join("app.sock");
    let more =
        format!("[service.local]\nlisten = [\"unix:{}\"]\nroute = \"cluster:lab\"\n", socket.display());
    let own = lab::private_solo("spillway-unix", &more)?;
    let mut command = std::process::Command::new("mariadb");
    command.args(["--no-defaults", "--batch", "--skip-column-names", "--user=app", "lab"]);
    command.arg(format!("--socket={}", socket.display())).env("MYSQL_PWD", PASSWORD);
    let printed = crate::harness::client::run_with_input(&mut command, b"SELECT word FROM greeting")?;
    same!(printed.clone().success()?.trim(), "hello", "through the socket");
    // Not `localhost`: a row for local sockets of the server must not open here.
    let admin = crate::harness::workspace::current_user();
    let mut command = std::process::Command::new("mariadb");
    command.args([
        "--no-defaults",
        "--batch",
        &format!("--user={admin}"),
        &format!("--socket={}", socket.display()),
    ]);
    let printed = crate::harness::client::run_with_input(&mut command, b"SELECT CURRENT_USER()")?;
    ensure!(printed.code != Some(0), "the administrator's socket login opened: {printed:?}");
    drop(own);
    Ok(())
}

fn no_secret_in_the_log() -> Verdict {
    let own = lab::private_solo("spillway-secrets", "[log]\nlevel = \"trace\"\nformat = \"json\"\n")?;
    session(own.port)?.query("SELECT 'in-a-statement'")?;
    let refused = raw::login(own.port, &Credentials::new("app", "wrong-password", None))?;
    ensure!(refused.is_err(), "a wrong password was accepted");
    ensure!(Console::login(own.spillway.console_port, "wrong-console").is_err(), "a wrong console password");
    own.spillway.get("/v1/nodes")?;
    Login::new(own.port, "app", PASSWORD, None).query("SELECT 1")?;
    // All that sessions leave in it is there, and the last line is whole.
    let log = wait_for("the log", PATIENCE, || {
        let log = own.spillway.log();
        let (completed, refused) =
            (log.matches("session completed").count(), log.matches("session ended").count());
        if completed >= 2 && refused >= 1 && log.ends_with('\n') { Ok(log) } else { Err(log) }
    })?;
    ensure!(log.lines().count() > 3, "hardly a log: {log}");
    for line in log.lines() {
        ensure!(serde_json::from_str::<serde_json::Value>(line).is_ok(), "not JSON: {line}");
    }
    let hash = lab::solo()?.server.sql("SELECT PASSWORD('app-secret')")?;
    for secret in [
        PASSWORD,
        "wrong-password",
        CONSOLE_PASSWORD,
        API_TOKEN,
        "monitor-secret",
        "in-a-statement",
        hash.trim_start_matches('*'),
    ] {
        ensure!(!log.contains(secret), "{secret:?} is in the log");
    }
    // The ping of a session is no secret, but a session must have been logged.
    ensure!(log.contains("app"), "no word of the session: {log}");
    same!(session(own.port)?.exchange(&[0x0e], Shape::Packet)?.len(), 1, "ping");
    Ok(())
}
