//! Sessions that go on at another node, without their clients noticing.

use crate::harness::cluster::{Galera, Replication};
use crate::harness::proxy::Spillway;
use crate::harness::workspace::free_port;
use crate::harness::{Outcome, PATIENCE, wait_for};
use crate::lab::{self, PASSWORD};
use crate::raw::{self, Credentials, Raw, Refusal, Shape, first_value};
use crate::{Verdict, ensure, same, trial};
use libtest_mimic::Trial;
use sha1::{Digest, Sha1};
use std::time::{Duration, Instant};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("moves::a_drained_session_takes_everything_along", a_drained_session_takes_everything_along),
        trial("moves::what_is_pinned_stays_and_is_named", what_is_pinned_stays_and_is_named),
        trial("moves::long_statements_are_no_pins", long_statements_are_no_pins),
        trial("moves::the_end_of_a_long_statement_counts", the_end_of_a_long_statement_counts),
        trial("moves::maintenance_ends_what_cannot_move", maintenance_ends_what_cannot_move),
        trial("moves::a_killed_node_is_not_noticed", a_killed_node_is_not_noticed),
        trial("moves::a_demoted_primary_is_left", a_demoted_primary_is_left),
        trial("moves::writes_wait_for_a_writer", writes_wait_for_a_writer),
        trial("moves::what_stayed_behind_is_refused", what_stayed_behind_is_refused),
        trial("moves::a_client_that_goes_frees_its_place", a_client_that_goes_frees_its_place),
        trial("moves::waiting_is_nobodys_slowness", waiting_is_nobodys_slowness),
    ]
}

/// A Spillway of the test's own in front of `shop`.
struct Front {
    spillway: Spillway,
    port: u16,
}

fn front(name: &str, kind: &str, nodes: &str, moves: &str) -> Outcome<Front> {
    let port = free_port()?;
    let configuration = lab::cluster_with("shop", kind, nodes, &format!("moves = {{ {moves} }}\n"))
        + &lab::service_toml("shop", port, "route = \"cluster:shop\"");
    let spillway = Spillway::start(lab::binary(), name, &configuration)?;
    spillway.wait_all_serve()?;
    Ok(Front { spillway, port })
}

fn galera_front(name: &str, galera: &Galera, moves: &str) -> Outcome<Front> {
    front(name, "galera", &galera.toml_nodes(), moves)
}

fn replication_front(name: &str, replication: &Replication, moves: &str) -> Outcome<Front> {
    front(name, "replication", &replication.toml_nodes(), moves)
}

fn session(port: u16, schema: &str) -> Outcome<Raw> {
    raw::login(port, &Credentials::new("app", PASSWORD, Some(schema)))?
        .map_err(|refusal| format!("{refusal:?}"))
}

fn served_by(session: &mut Raw) -> Outcome<u16> {
    first_value(&session.query("SELECT @@port")?)?.parse().map_err(|_| "no port".to_owned())
}

pub(crate) fn value(session: &mut Raw, sql: &str) -> Outcome<String> {
    first_value(&session.query(sql)?)
}

/// Runs a statement that must not fail.
pub(crate) fn run(session: &mut Raw, sql: &str) -> Outcome<()> {
    let reply = session.query(sql)?;
    if reply[0].first() == Some(&0xff) {
        return Err(format!("{sql}: {:?}", Refusal::parse(&reply[0])?));
    }
    Ok(())
}

pub(crate) fn prepare(session: &mut Raw, sql: &str) -> Outcome<u32> {
    let reply = session.exchange(&[&[0x16], sql.as_bytes()].concat(), Shape::Prepare)?;
    match &reply[0][..] {
        [0, a, b, c, d, ..] => Ok(u32::from_le_bytes([*a, *b, *c, *d])),
        error => Err(format!("{sql}: {:?}", Refusal::parse(error)?)),
    }
}

/// Runs a prepared statement with integers and gives the text in its only column. `typed`: whether the command says that
/// they are integers.
pub(crate) fn execute(session: &mut Raw, statement: u32, values: &[i64], typed: bool) -> Outcome<String> {
    let mut command = vec![0x17];
    command.extend(statement.to_le_bytes());
    command.extend([0, 1, 0, 0, 0, 0, u8::from(typed)]);
    if typed {
        command.extend(values.iter().flat_map(|_| [8, 0]));
    }
    command.extend(values.iter().flat_map(|value| value.to_le_bytes()));
    let reply = session.exchange(&command, Shape::Results)?;
    match &reply[0][..] {
        [0xff, ..] => Err(format!("{:?}", Refusal::parse(&reply[0])?)),
        _ => raw::text_value(reply.get(3).and_then(|row| row.get(2..)).ok_or("no row")?),
    }
}

fn close(session: &mut Raw, statement: u32) -> Outcome<()> {
    session.command(&[&[0x19], &statement.to_le_bytes()[..]].concat())
}

impl Front {
    fn set(&self, node: &str, state: &str) -> Outcome<()> {
        let answer = self.spillway.ask(&format!("set node shop {node} {state}"))?;
        if answer.contains("rror") { Err(answer) } else { Ok(()) }
    }

    /// Waits until the pin of the only session is told to be one with this word, or none.
    fn wait_pin(&self, wanted: Option<&str>) -> Outcome<()> {
        wait_for(&format!("the pin {wanted:?}"), PATIENCE, || {
            let sessions = self.spillway.get("/v1/sessions")?;
            let pin = sessions["sessions"][0]["pin"].as_str();
            let is_it = match wanted {
                None => pin.is_none(),
                Some(word) => pin.is_some_and(|pin| pin.contains(word)),
            };
            if is_it { Ok(()) } else { Err(sessions.to_string()) }
        })
    }

    /// Waits until so many sessions are held.
    fn wait_held(&self, wanted: u64) -> Outcome<()> {
        wait_for("the number of those who wait", PATIENCE, || {
            let metrics = self.spillway.api("GET", "/metrics", None)?.body;
            let held = metrics.lines().find(|line| line.starts_with("spillway_cluster_sessions_held"));
            let held = held.and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or(0);
            if held == wanted { Ok(()) } else { Err(format!("{held}, not {wanted}")) }
        })
    }
}

fn node_at(pair: &Galera, port: u16) -> Outcome<String> {
    let node = pair.nodes.iter().find(|node| node.port == port);
    Ok(node.ok_or_else(|| format!("{port} is no node"))?.name.clone())
}

/// Waits until the only session is on another node than `not`, without a word of its client.
fn wait_moved_in_silence(front: &Front, not: &str) -> Outcome<()> {
    wait_for("the session moves", PATIENCE, || {
        let sessions = front.spillway.get("/v1/sessions")?;
        let node = sessions["sessions"][0]["node"].as_str().unwrap_or(not).to_owned();
        if node == not { Err(sessions.to_string()) } else { Ok(()) }
    })
}

/// Waits until the session is served by another node than `not`, without an error on the way.
fn wait_moved(front: &Front, session: &mut Raw, not: u16) -> Outcome<u16> {
    let start = Instant::now();
    loop {
        let now = served_by(session)?;
        if now != not {
            return Ok(now);
        }
        if start.elapsed() > PATIENCE {
            return Err(format!("still on {not}; {}", front.spillway.ask("show sessions")?));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn a_drained_session_takes_everything_along() -> Verdict {
    let galera = lab::pair()?.own_galera()?;
    let front = galera_front("spillway-moves", &galera, "")?;
    let mut session = session(front.port, "shop")?;
    let first = served_by(&mut session)?;
    for sql in [
        "CREATE TABLE IF NOT EXISTS counted (id INT AUTO_INCREMENT PRIMARY KEY, word VARCHAR(20))",
        "SET NAMES latin1",
        "SET SESSION sql_mode = 'ANSI_QUOTES'",
        "SET @word = 'kept', @number = 7",
        "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED",
        "INSERT INTO counted (word) VALUES ('one')",
        // The key that a statement gives itself is in its OK packet, and is not what LAST_INSERT_ID() tells.
        "REPLACE INTO counted (id, word) VALUES (900001, 'two')",
    ] {
        run(&mut session, sql)?;
    }
    let inserted = value(&mut session, "SELECT LAST_INSERT_ID()")?;
    ensure!(inserted != "0", "nothing was inserted");
    let before = [
        value(&mut session, "SELECT @@character_set_client")?,
        value(&mut session, "SELECT @@sql_mode")?,
        value(&mut session, "SELECT @@tx_isolation")?,
    ];
    let sum = prepare(&mut session, "SELECT CAST(? + ? AS CHAR)")?;
    let word = prepare(&mut session, "SELECT CONCAT(DATABASE(), ?)")?;
    same!(execute(&mut session, sum, &[20, 22], true)?, "42", "prepared, before");
    front.set(&node_at(&galera, first)?, "drain")?;
    let second = wait_moved(&front, &mut session, first)?;
    ensure!(second != first, "not moved");
    same!(value(&mut session, "SELECT DATABASE()")?, "shop", "schema");
    same!(value(&mut session, "SELECT @word")?, "kept", "user variable");
    same!(value(&mut session, "SELECT LAST_INSERT_ID()")?, inserted, "the last id");
    let after = [
        value(&mut session, "SELECT @@character_set_client")?,
        value(&mut session, "SELECT @@sql_mode")?,
        value(&mut session, "SELECT @@tx_isolation")?,
    ];
    same!(after, before, "settings");
    // The types of the parameters were told to the first node only.
    same!(execute(&mut session, sum, &[1, 2], false)?, "3", "prepared, without types");
    same!(execute(&mut session, sum, &[3, 4], true)?, "7", "prepared, with types");
    // The numbers of the node are its own; the client's stay apart.
    let third = prepare(&mut session, "SELECT CAST(1 + ? AS CHAR)")?;
    ensure!(third != sum && third != word, "number {third} was given twice");
    same!(execute(&mut session, third, &[1], true)?, "2", "prepared on the second node");
    close(&mut session, sum)?;
    same!(execute(&mut session, word, &[5], true)?, "shop5", "the other statement");
    // And back.
    front.set(&node_at(&galera, first)?, "enabled")?;
    front.set(&node_at(&galera, second)?, "drain")?;
    wait_moved(&front, &mut session, second)?;
    same!(execute(&mut session, third, &[4], false)?, "5", "prepared, on the third link");
    same!(execute(&mut session, word, &[6], false)?, "shop6", "prepared, on the third link");
    Ok(())
}

fn what_is_pinned_stays_and_is_named() -> Verdict {
    let galera = lab::pair()?.own_galera()?;
    let front = galera_front("spillway-pinned", &galera, "")?;
    let mut session = session(front.port, "shop")?;
    let first = served_by(&mut session)?;
    let name = node_at(&galera, first)?;
    for (pinned, released, pin) in [
        ("BEGIN", "COMMIT", "transaction"),
        ("LOCK TABLES item READ", "UNLOCK TABLES", "locked"),
        ("SELECT SQL_CALC_FOUND_ROWS name FROM item LIMIT 1", "SELECT FOUND_ROWS()", "FOUND_ROWS"),
    ] {
        run(&mut session, pinned)?;
        let at = served_by_if_free(&mut session, pin)?;
        front.set(&name, "drain")?;
        front.wait_pin(Some(pin)).map_err(|reason| format!("{pinned}: {reason}"))?;
        std::thread::sleep(Duration::from_millis(300));
        if let Some(at) = at {
            same!(served_by(&mut session)?, at, "a session with a pin has moved");
        }
        run(&mut session, released)?;
        let second = wait_moved(&front, &mut session, first)?;
        front.wait_pin(None)?;
        front.set(&name, "enabled")?;
        front.set(&node_at(&galera, second)?, "drain")?;
        let back = wait_moved(&front, &mut session, second)?;
        front.set(&node_at(&galera, second)?, "enabled")?;
        if back != first {
            front.set(&node_at(&galera, back)?, "drain")?;
            wait_moved(&front, &mut session, back)?;
            front.set(&node_at(&galera, back)?, "enabled")?;
        }
    }
    Ok(())
}

/// Bytes of all values, the same for the same seed.
fn noise(mut seed: u32, length: usize) -> Vec<u8> {
    std::iter::repeat_with(|| {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (seed >> 24) as u8
    })
    .take(length)
    .collect()
}

/// As client libraries write bytes between single quotes.
fn escaped(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len() + bytes.len() / 16);
    for byte in bytes {
        match byte {
            0 => out.extend(b"\\0"),
            b'\n' => out.extend(b"\\n"),
            b'\r' => out.extend(b"\\r"),
            0x1A => out.extend(b"\\Z"),
            b'\'' | b'"' | b'\\' => out.extend([b'\\', *byte]),
            other => out.push(*other),
        }
    }
    out
}

/// `INSERT` of one blob as text.
fn insert_blob(id: u32, blob: &[u8]) -> Vec<u8> {
    [format!("INSERT INTO blobs VALUES ({id}, _binary'").as_bytes(), &escaped(blob), b"')"].concat()
}

/// `INSERT` of rows of about so many bytes together, that ends in `end`.
fn insert_rows(from: u32, bytes: usize, end: &str) -> (String, u32) {
    let mut sql = "INSERT INTO blobs (id, data) VALUES ".to_owned();
    let mut id = from;
    while sql.len() < bytes {
        sql.extend(["(", &id.to_string(), ", 'it\\'s row \"", &id.to_string(), "\"'), "]);
        id += 1;
    }
    (sql + end, id - from)
}

/// Sends a command whose reply is an OK packet.
fn done(session: &mut Raw, command: &[u8]) -> Outcome<()> {
    let reply = session.exchange(command, Shape::Results)?;
    match reply[0].first() {
        Some(0) => Ok(()),
        _ => Err(format!("{:?}", Refusal::parse(&reply[0])?)),
    }
}

/// `COM_STMT_EXECUTE` of an `INSERT` with a number and a blob. `blob`: none where it was sent before.
fn execute_insert(session: &mut Raw, statement: u32, id: u32, blob: Option<&[u8]>) -> Outcome<()> {
    let mut command = vec![0x17];
    command.extend(statement.to_le_bytes());
    command.extend([0, 1, 0, 0, 0, 0, 1, 3, 0, 0xFC, 0]);
    command.extend(id.to_le_bytes());
    if let Some(blob) = blob {
        command.push(0xFD);
        command.extend_from_slice(&(blob.len() as u32).to_le_bytes()[..3]);
        command.extend_from_slice(blob);
    }
    done(session, &command)
}

fn long_statements_are_no_pins() -> Verdict {
    let galera = lab::pair()?.own_galera()?;
    let front = galera_front("spillway-long", &galera, "")?;
    let mut session = session(front.port, "shop")?;
    let text = |sql: &[u8]| [&[3], sql].concat();
    let mut node = String::new();
    let mut blobs: Vec<(u32, Vec<u8>)> = Vec::new();
    let mut rows = 0;
    let insert = "INSERT INTO blobs VALUES (?, ?)";
    let mut statement = None;
    // The first statement of a session tells backslashes apart, too; and the first one behind a move.
    for round in [0_u32, 100_000] {
        if round == 0 {
            galera.nodes[0].sql("CREATE OR REPLACE TABLE shop.blobs (id INT PRIMARY KEY, data LONGBLOB)")?;
        }
        for (id, length) in [(1, 1 << 20), (2, 20 << 20)] {
            let (id, blob) = (round + id, noise(round + id, length));
            done(&mut session, &text(&insert_blob(id, &blob)))?;
            front
                .wait_pin(None)
                .map_err(|reason| format!("after a blob of {length} bytes in round {round}: {reason}"))?;
            blobs.push((id, blob));
        }
        let (sql, count) = insert_rows(round + 1_000, 200_000, &format!("({}, 'last')", round + 999));
        done(&mut session, &text(sql.as_bytes()))?;
        rows += count + 1;
        front.wait_pin(None).map_err(|reason| format!("after many rows: {reason}"))?;
        let statement = match statement {
            Some(statement) => statement,
            None => *statement.insert(prepare(&mut session, insert)?),
        };
        let (id, blob) = (round + 3, noise(round + 3, 1 << 20));
        execute_insert(&mut session, statement, id, Some(&blob))?;
        front.wait_pin(None).map_err(|reason| format!("after an execution: {reason}"))?;
        blobs.push((id, blob));
        let (id, blob) = (round + 4, noise(round + 4, 1 << 20));
        for part in blob.chunks(600_000) {
            session.command(&[&[0x18], &statement.to_le_bytes()[..], &[1, 0], part].concat())?;
        }
        execute_insert(&mut session, statement, id, None)?;
        front.wait_pin(None).map_err(|reason| format!("after data in parts: {reason}"))?;
        blobs.push((id, blob));
        // A statement of 16 MiB - 1 fills its packet, and an empty one ends it.
        let (id, head) = (round + 5, format!("INSERT INTO blobs VALUES ({}, '", round + 5));
        let blob = b"x".repeat(0xFF_FF_FF - 1 - head.len() - 2);
        done(&mut session, &text(&[head.as_bytes(), &blob, b"')"].concat()))?;
        front.wait_pin(None).map_err(|reason| format!("after a full packet: {reason}"))?;
        blobs.push((id, blob));
        node = node_at(&galera, served_by(&mut session)?)?;
        front.set(&node, "drain")?;
        wait_moved_in_silence(&front, &node)?;
        front.set(&node, "enabled")?;
    }
    ensure!(node_at(&galera, served_by(&mut session)?)? != node, "it did not move");
    for (id, blob) in &blobs {
        let digest = Sha1::digest(blob).iter().fold(0_u64, |sum, byte| (sum << 8) | u64::from(*byte));
        let sql = format!("SELECT RIGHT(SHA1(data), 16) FROM blobs WHERE id = {id}");
        same!(value(&mut session, &sql)?, format!("{digest:016x}"), "blob {id} of {} bytes", blob.len());
    }
    let count = value(&mut session, "SELECT COUNT(*) FROM blobs")?;
    same!(count, (rows as usize + blobs.len()).to_string(), "rows");
    let odd = "SELECT COUNT(*) FROM blobs WHERE data = CONCAT('it\\'s row \"', id, '\"')";
    same!(value(&mut session, odd)?, (rows - 2).to_string(), "rows as they were sent");
    front.wait_pin(None).map_err(|reason| format!("no pin at the end: {reason}"))?;
    run(&mut session, "DROP TABLE blobs")
}

fn the_end_of_a_long_statement_counts() -> Verdict {
    let galera = lab::pair()?.own_galera()?;
    let front = galera_front("spillway-long-end", &galera, "")?;
    let mut session = session(front.port, "shop")?;
    galera.nodes[0].sql("CREATE OR REPLACE TABLE shop.blobs (id INT PRIMARY KEY, data LONGBLOB)")?;
    let long = "x".repeat(100_000);
    for (sql, mode, pin) in [
        (insert_rows(1, 100_000, "(0, @x := 'a')").0, "", "INSERT"),
        (format!("SELECT LENGTH('{long}'), GET_LOCK('spillway', 1)"), "", "SELECT"),
        // Where backslashes are themselves, the lock is not part of a text.
        (format!("SELECT '{long}\\', GET_LOCK('spillway', 1), '\\'"), "NO_BACKSLASH_ESCAPES", "SELECT"),
    ] {
        run(&mut session, &format!("SET sql_mode = '{mode}'"))?;
        front.wait_pin(None).map_err(|reason| format!("before {pin}: {reason}"))?;
        run(&mut session, &sql)?;
        front.wait_pin(Some(pin))?;
        let at = served_by(&mut session)?;
        let node = node_at(&galera, at)?;
        front.set(&node, "drain")?;
        std::thread::sleep(Duration::from_millis(300));
        same!(served_by(&mut session)?, at, "a session with a pin has moved");
        // A reset takes away what it left.
        done(&mut session, &[0x1F])?;
        wait_moved_in_silence(&front, &node)?;
        front.set(&node, "enabled")?;
    }
    // The same bytes, where the whole is one text.
    run(&mut session, "SET sql_mode = ''")?;
    run(&mut session, &format!("SELECT '{long}\\', GET_LOCK(1), \\''"))?;
    front.wait_pin(None).map_err(|reason| format!("a text that looks like a lock: {reason}"))?;
    run(&mut session, "DROP TABLE blobs")
}

/// Where the session is; none where asking would take its pin away.
fn served_by_if_free(session: &mut Raw, pin: &str) -> Outcome<Option<u16>> {
    if pin == "FOUND_ROWS" { Ok(None) } else { served_by(session).map(Some) }
}

fn maintenance_ends_what_cannot_move() -> Verdict {
    let galera = lab::pair()?.own_galera()?;
    let front = galera_front("spillway-maintained", &galera, "maintenance_timeout = \"1s\"")?;
    let (mut free, mut pinned) = (session(front.port, "shop")?, session(front.port, "shop")?);
    let first = served_by(&mut free)?;
    run(&mut pinned, "CREATE TEMPORARY TABLE mine (a INT)")?;
    let start = Instant::now();
    front.set(&node_at(&galera, first)?, "maintenance")?;
    wait_moved(&front, &mut free, first)?;
    let words = pinned.unasked_packet()?;
    ensure!(start.elapsed() >= Duration::from_millis(800), "it was ended after {:?}", start.elapsed());
    let text = String::from_utf8_lossy(&words).into_owned();
    ensure!(text.contains("maintenance") && text.contains("CREATE TEMPORARY TABLE"), "{text}");
    // The one that left in time is not ended at the deadline.
    std::thread::sleep(Duration::from_secs(1));
    ensure!(served_by(&mut free)? != first, "it went back");
    Ok(())
}

fn a_killed_node_is_not_noticed() -> Verdict {
    let mut galera = lab::pair()?.own_galera()?;
    let front = galera_front("spillway-unnoticed", &galera, "")?;
    let mut idle = session(front.port, "shop")?;
    let mut busy = session(front.port, "shop")?;
    let mut writing = session(front.port, "shop")?;
    let first = served_by(&mut idle)?;
    run(&mut idle, "SET @word = 'kept'")?;
    run(&mut writing, "BEGIN")?;
    // A read of which nothing has come back yet is run again.
    busy.command(&raw::query("SELECT SLEEP(2), 'read'"))?;
    std::thread::sleep(Duration::from_millis(300));
    let number = galera.nodes.iter().position(|node| node.port == first).ok_or("no such node")?;
    galera.nodes[number].kill();
    let verdict = (|| {
        let reply = busy.reply(Shape::Results)?;
        same!(first_value(&reply)?, "0", "a read whose node was killed");
        let start = Instant::now();
        let second = served_by(&mut idle)?;
        ensure!(second != first, "a dead node serves");
        ensure!(start.elapsed() < Duration::from_secs(5), "it took {:?}", start.elapsed());
        same!(value(&mut idle, "SELECT @word")?, "kept", "user variable");
        let words = String::from_utf8_lossy(&writing.unasked_packet()?).into_owned();
        ensure!(words.contains("a transaction is open"), "{words}");
        Ok(())
    })();
    galera.rejoin(number)?;
    galera.wait_size(3)?;
    verdict
}

fn a_demoted_primary_is_left() -> Verdict {
    let pair = lab::pair()?;
    let replication = pair.own_replication()?;
    let front = replication_front("spillway-demoted", &replication, "hold = \"30s\"")?;
    let (primary, replica) = (&replication.nodes[0], &replication.nodes[1]);
    let mut session = session(front.port, "crm")?;
    same!(served_by(&mut session)?, primary.port, "on the primary");
    let verdict = (|| {
        primary.sql("SET GLOBAL read_only = 1")?;
        // By hand, some time later.
        let promotion = std::thread::scope(|scope| {
            let promoted = scope.spawn(|| {
                std::thread::sleep(Duration::from_millis(400));
                replica.sql("STOP SLAVE; SET GLOBAL read_only = 0")
            });
            let written = run(&mut session, "INSERT INTO customer VALUES (77, 'Grace')");
            promoted.join().map_err(|_| "the promotion panicked".to_owned())?.map(|_| ())?;
            written
        });
        promotion?;
        same!(served_by(&mut session)?, replica.port, "on the new primary");
        same!(replica.sql("SELECT name FROM crm.customer WHERE id = 77")?, "Grace", "the row is there");
        same!(primary.sql("SELECT COUNT(*) FROM crm.customer WHERE id = 77")?, "0", "and nowhere else");
        Ok(())
    })();
    replica
        .sql("DELETE FROM crm.customer WHERE id = 77; SET GLOBAL read_only = 1; RESET MASTER; START SLAVE")?;
    primary.sql("SET GLOBAL read_only = 0")?;
    replication.wait_caught_up()?;
    verdict
}

fn writes_wait_for_a_writer() -> Verdict {
    let pair = lab::pair()?;
    let replication = pair.own_replication()?;
    let front = replication_front("spillway-held", &replication, "hold = \"30s\", max_held = 1")?;
    let primary = &replication.nodes[0];
    let verdict = (|| {
        primary.sql("SET GLOBAL read_only = 1")?;
        wait_for("no writer", PATIENCE, || {
            let node = front.spillway.node("shop", &primary.name)?;
            if node["role"] == "writer" { Err(node.to_string()) } else { Ok(()) }
        })?;
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| session(front.port, "crm").and_then(|mut s| served_by(&mut s)));
            let verdict = (|| {
                front.wait_held(1)?;
                // One may wait; the next one hears at once that there is no node.
                let start = Instant::now();
                let second = raw::login(front.port, &Credentials::new("app", PASSWORD, Some("crm")))?;
                let refusal = second.err().ok_or("two sessions were held where one may be")?;
                same!(refusal.code, 1040, "{refusal:?}");
                ensure!(start.elapsed() < Duration::from_secs(10), "it was held for {:?}", start.elapsed());
                Ok(())
            })();
            primary.sql("SET GLOBAL read_only = 0")?;
            let served = waiting.join().map_err(|_| "a session panicked".to_owned())??;
            verdict?;
            same!(served, primary.port, "held until there was a writer");
            Ok(())
        })
    })();
    primary.sql("SET GLOBAL read_only = 0")?;
    verdict
}

fn what_stayed_behind_is_refused() -> Verdict {
    let galera = lab::pair()?.own_galera()?;
    let front = galera_front("spillway-forgotten", &galera, "")?;
    let mut session = session(front.port, "shop")?;
    let mut node = node_at(&galera, served_by(&mut session)?)?;
    let counted = prepare(&mut session, "SELECT CAST(FOUND_ROWS() AS CHAR)")?;
    let sum = prepare(&mut session, "SELECT CAST(? + 1 AS CHAR)")?;
    // As the last one that was prepared, so that Spillway does not know whose types these are.
    same!(execute(&mut session, u32::MAX, &[1], true)?, "2", "the last one");
    let mut move_away = |session: &mut Raw| -> Outcome<()> {
        run(session, "SELECT 1 UNION SELECT 2")?;
        front.set(&node, "drain")?;
        wait_moved_in_silence(&front, &node)?;
        front.set(&node, "enabled")?;
        let sessions = front.spillway.get("/v1/sessions")?;
        sessions["sessions"][0]["node"].as_str().unwrap_or_default().clone_into(&mut node);
        Ok(())
    };
    let forgets = |refused: Outcome<String>| match refused {
        Err(reason) if reason.contains("1105") && reason.contains("no longer on") => Ok(()),
        other => Err(format!("{other:?}")),
    };
    move_away(&mut session)?;
    forgets(execute(&mut session, counted, &[], false))?;
    // Asking again does not help, but the session is as it was.
    forgets(execute(&mut session, counted, &[], false))?;
    forgets(
        session
            .query("SELECT ROW_COUNT()")
            .and_then(|reply| Err(format!("{:?}", Refusal::parse(&reply[0])?))),
    )?;
    let lost = execute(&mut session, sum, &[5], false);
    ensure!(lost.as_ref().is_err_and(|reason| reason.contains("1615")), "{lost:?}");
    same!(execute(&mut session, sum, &[5], true)?, "6", "with its types");
    run(&mut session, "SELECT 1 UNION SELECT 2 UNION SELECT 3")?;
    same!(execute(&mut session, counted, &[], false)?, "3", "of a statement on this node");
    move_away(&mut session)?;
    forgets(
        session
            .query("SELECT FOUND_ROWS()")
            .and_then(|reply| Err(format!("{:?}", Refusal::parse(&reply[0])?))),
    )?;
    same!(execute(&mut session, sum, &[8], false)?, "9", "the types are known now");
    Ok(())
}

fn a_client_that_goes_frees_its_place() -> Verdict {
    let pair = lab::pair()?;
    let replication = pair.own_replication()?;
    let front = replication_front("spillway-held-gone", &replication, "hold = \"1m\", max_held = 1")?;
    let primary = &replication.nodes[0];
    let (mut goes, mut stays) = (session(front.port, "crm")?, session(front.port, "crm")?);
    let write = "UPDATE customer SET name = name WHERE id = -1";
    run(&mut goes, write)?;
    let verdict = (|| {
        primary.sql("SET GLOBAL read_only = 1")?;
        goes.command(&raw::query(write))?;
        let held = |wanted| front.wait_held(wanted);
        held(1)?;
        drop(goes);
        held(0)?;
        // So with one that has not even logged in.
        wait_for("no writer", PATIENCE, || {
            let node = front.spillway.node("shop", &primary.name)?;
            if node["role"] == "writer" { Err(node.to_string()) } else { Ok(()) }
        })?;
        let stream = raw::connect(front.port, std::net::Ipv4Addr::LOCALHOST)?;
        let end = stream.try_clone().map_err(|e| e.to_string())?;
        std::thread::scope(|scope| {
            let login =
                scope.spawn(|| raw::login_over(stream, &Credentials::new("app", PASSWORD, Some("crm"))));
            let counted = held(1);
            end.shutdown(std::net::Shutdown::Both).map_err(|e| e.to_string())?;
            let ended = login.join().map_err(|_| "a login panicked".to_owned())?;
            ensure!(ended.is_err(), "it was let in");
            counted
        })?;
        held(0)?;
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| run(&mut stays, write));
            held(1)?;
            primary.sql("SET GLOBAL read_only = 0")?;
            waiting.join().map_err(|_| "a session panicked".to_owned())?
        })
    })();
    primary.sql("SET GLOBAL read_only = 0")?;
    verdict
}

fn waiting_is_nobodys_slowness() -> Verdict {
    let pair = lab::pair()?;
    let replication = pair.own_replication()?;
    let start = |name: &str, hold: &str| {
        let port = free_port()?;
        let moves = format!("moves = {{ hold = \"{hold}\" }}\n");
        let configuration = lab::cluster_with("shop", "replication", &replication.toml_nodes(), &moves)
            + &lab::service_toml("shop", port, "route = \"cluster:shop\"")
            + "[runtime]\nhandshake_timeout = \"2s\"\n";
        Ok::<_, String>(Front { spillway: Spillway::start(lab::binary(), name, &configuration)?, port })
    };
    let front = start("spillway-held-long", "2s")?;
    let patient = start("spillway-held-longer", "1m")?;
    let primary = &replication.nodes[0];
    let (mut there, mut changes) = (session(front.port, "crm")?, session(patient.port, "crm")?);
    let write = "UPDATE customer SET name = name WHERE id = -1";
    run(&mut there, write)?;
    let verdict = (|| {
        primary.sql("SET GLOBAL read_only = 1")?;
        // Each of its statements waits, not only the first.
        for _ in 0..2 {
            let start = Instant::now();
            let reply = there.query(write)?;
            same!(Refusal::parse(&reply[0])?.code, 1290, "{reply:?}");
            ensure!(start.elapsed() > Duration::from_millis(1800), "it waited for {:?}", start.elapsed());
        }
        std::thread::scope(|scope| {
            let start = Instant::now();
            let login = scope.spawn(|| session(patient.port, "crm"));
            let change = scope.spawn(|| changes.change_user("app", PASSWORD, "crm"));
            std::thread::sleep(Duration::from_millis(2600));
            let held = patient.wait_held(2);
            primary.sql("SET GLOBAL read_only = 0")?;
            login.join().map_err(|_| "a login panicked".to_owned())??;
            ensure!(start.elapsed() > Duration::from_millis(2500), "it did not wait");
            let change = change.join().map_err(|_| "a change panicked".to_owned())??;
            ensure!(change.is_ok(), "COM_CHANGE_USER: {change:?}");
            held
        })
    })();
    primary.sql("SET GLOBAL read_only = 0")?;
    verdict.map_err(|reason| {
        format!("{reason}\n{}\n{}", front.spillway.log_tail(10), patient.spillway.log_tail(10))
    })
}
