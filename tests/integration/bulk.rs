//! Much at once: large values, large files, clients that leave in the middle, many clients.

use crate::harness::client::Login;
use crate::harness::{Outcome, PATIENCE, process, wait_for, workspace};
use crate::lab::{self, PASSWORD};
use crate::raw::{self, Credentials, query};
use crate::statements::{block_on, options};
use crate::{Verdict, ensure, same, trial};
use libtest_mimic::Trial;
use mysql_async::Conn;
use mysql_async::prelude::Queryable;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("bulk::blob_of_20_mib", || blob(20)),
        trial("bulk::blob_of_40_mib", || blob(40)),
        trial("bulk::blob_prepared", blob_prepared),
        trial("bulk::blob_on_galera", blob_on_galera),
        trial("bulk::load_data_local", load_data_local),
        trial("bulk::load_data_local_missing_file", load_data_local_missing_file),
        trial("bulk::client_leaves_in_mid_result", client_leaves_in_mid_result),
        trial("bulk::client_leaves_in_mid_query", client_leaves_in_mid_query),
        trial("bulk::client_that_does_not_read", client_that_does_not_read),
        trial("bulk::client_that_reads_slowly", client_that_reads_slowly),
        trial("bulk::five_hundred_clients", five_hundred_clients),
        trial("bulk::many_short_connections", many_short_connections),
    ]
}

fn blob(mebibytes: usize) -> Verdict {
    let output = lab::solo()?.ways.python(
        "blobs.py",
        "app",
        "lab",
        &[&format!("blob{mebibytes}"), &mebibytes.to_string()],
    )?;
    ensure!(output.contains(&format!("came back {}", mebibytes << 20)), "{output}");
    ensure!(output.contains("True after"), "{output}");
    Ok(())
}

fn blob_on_galera() -> Verdict {
    let pair = lab::pair()?;
    let galera = pair.share_galera()?;
    let ways = lab::Ways { direct: galera.nodes[0].port, proxied: pair.shop };
    ways.python("blobs.py", "app", "shop", &["big", "20"]).map(drop)
}

/// Large values as parameters and as columns of the binary protocol.
fn blob_prepared() -> Verdict {
    lab::solo()?.ways.agree("40 MiB through a prepared statement", |port| {
        block_on(async move {
            let text = |error: mysql_async::Error| error.to_string();
            let mut connection = Conn::new(options(port, "app", Some("lab"))).await.map_err(text)?;
            connection
                .query_drop("CREATE OR REPLACE TABLE prepared_blob (data LONGBLOB)")
                .await
                .map_err(text)?;
            let mut seed = 1_u32;
            let blob: Vec<u8> = std::iter::repeat_with(|| {
                seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (seed >> 24) as u8
            })
            .take(40 << 20)
            .collect();
            connection.exec_drop("INSERT INTO prepared_blob VALUES (?)", (&blob,)).await.map_err(text)?;
            let back: Option<(Vec<u8>, String)> = connection
                .exec_first("SELECT data, SHA1(data) FROM prepared_blob", ())
                .await
                .map_err(text)?;
            let (back, digest) = back.ok_or("no row")?;
            ensure!(back == blob, "{} bytes came back changed", back.len());
            connection.query_drop("DROP TABLE prepared_blob").await.map_err(text)?;
            connection.disconnect().await.map_err(text)?;
            Ok(digest)
        })
    })?;
    Ok(())
}

/// A file of `rows` lines for LOAD DATA.
fn data_file(name: &str, rows: usize) -> Outcome<PathBuf> {
    let mut text = String::new();
    for row in 0..rows {
        writeln!(text, "{row}\tline {row} {}", "abcdefghij".repeat(15)).map_err(|e| e.to_string())?;
    }
    let path = workspace::directory("files")?.join(name);
    std::fs::write(&path, text).map_err(|e| e.to_string())?;
    Ok(path)
}

fn load_data_local() -> Verdict {
    let ways = lab::solo()?.ways;
    let small = data_file("small", 10)?;
    let large = data_file("large", 250_000)?;
    for (path, rows) in [(&small, 10), (&large, 250_000)] {
        let name = path.display();
        let sql = format!(
            "CREATE OR REPLACE TABLE infile_rows (id INT PRIMARY KEY, text VARCHAR(200));
             LOAD DATA LOCAL INFILE '{name}' INTO TABLE infile_rows; SELECT ROW_COUNT();
             SELECT COUNT(*), SUM(id), SUM(CRC32(text)) FROM infile_rows; DROP TABLE infile_rows"
        );
        let printed = ways.mariadb("app", Some("lab"), &["--local-infile=1"], &sql)?;
        ensure!(printed.output.contains(&format!("\n{rows}\t")), "{printed:?}");
        let output = ways.python("infile.py", "app", "lab", &["infile_py", &name.to_string()])?;
        ensure!(output.contains(&format!("loaded {rows}")), "{output}");
    }
    Ok(())
}

fn load_data_local_missing_file() -> Verdict {
    let sql = "CREATE TEMPORARY TABLE t (id INT); LOAD DATA LOCAL INFILE '/no/such/file' INTO TABLE t; SELECT 'alive'";
    let printed = lab::solo()?.ways.mariadb("app", Some("lab"), &["--local-infile=1", "--force"], sql)?;
    ensure!(printed.output.contains("alive") && !printed.errors.is_empty(), "{printed:?}");
    // A client that does not allow it is asked for nothing.
    let sql = "CREATE TEMPORARY TABLE t (id INT); LOAD DATA LOCAL INFILE '/etc/hostname' INTO TABLE t; SELECT 'alive'";
    let printed = lab::solo()?.ways.mariadb("app", Some("lab"), &["--local-infile=0", "--force"], sql)?;
    ensure!(printed.output.contains("alive") && !printed.errors.is_empty(), "{printed:?}");
    Ok(())
}

/// How many threads of the server run or ran a statement with this mark.
fn threads_with(mark: &str) -> Outcome<String> {
    lab::solo()?.server.sql(&format!(
        "SELECT COUNT(*) FROM information_schema.PROCESSLIST WHERE INFO LIKE '%{mark}%' AND ID <> CONNECTION_ID()"
    ))
}

fn thread_gone(id: &str) -> Verdict {
    let server = &lab::solo()?.server;
    let count = format!("SELECT COUNT(*) FROM information_schema.PROCESSLIST WHERE ID = {id}");
    server.wait_sql(&count, "0", PATIENCE)
}

fn client_leaves_in_mid_result() -> Verdict {
    let ways = lab::solo()?.ways;
    for port in [ways.direct, ways.proxied] {
        let mut session = raw::login(port, &Credentials::new("app", PASSWORD, Some("lab")))?
            .map_err(|e| format!("{e:?}"))?;
        let id = raw::first_value(&session.query("SELECT CONNECTION_ID()")?)?;
        session.command(&query(
            "SELECT seq, REPEAT('x', 1000) /* leaves in result */ FROM seq_1_to_1000000000",
        ))?;
        for _ in 0..1000 {
            session.packet()?;
        }
        ensure!(threads_with("leaves in result")? == "1", "the server does not run the statement");
        drop(session);
        thread_gone(&id).map_err(|reason| {
            format!("port {port} of {ways:?}: {reason}", ways = (ways.direct, ways.proxied))
        })?;
    }
    Ok(())
}

fn client_leaves_in_mid_query() -> Verdict {
    let ways = lab::solo()?.ways;
    for port in [ways.direct, ways.proxied] {
        // Half a packet, then gone.
        let mut session = raw::login(port, &Credentials::new("app", PASSWORD, Some("lab")))?
            .map_err(|e| format!("{e:?}"))?;
        let id = raw::first_value(&session.query("SELECT CONNECTION_ID()")?)?;
        session.write(&[0xff, 0xff, 0xff, 0x00, 0x03])?;
        session.write(&vec![b'x'; 5 << 20])?;
        drop(session);
        thread_gone(&id).map_err(|reason| format!("port {port}: {reason}"))?;
    }
    Ok(())
}

/// Memory of a Spillway in MiB.
fn resident_mib(own: &lab::Private) -> Outcome<u64> {
    Ok(process::resident(own.spillway.pid())? >> 20)
}

fn client_that_does_not_read() -> Verdict {
    let own = lab::private_solo("spillway-slow-client", "")?;
    let before = resident_mib(&own)?;
    let mut sessions = Vec::new();
    for _ in 0..20 {
        let mut session = raw::login(own.port, &Credentials::new("app", PASSWORD, Some("lab")))?
            .map_err(|e| format!("{e:?}"))?;
        session.command(&query("SELECT REPEAT('x', 60000000), seq FROM seq_1_to_1000"))?;
        sessions.push(session);
    }
    std::thread::sleep(Duration::from_secs(3));
    let after = resident_mib(&own)?;
    ensure!(after < before + 64, "20 clients that do not read took {before} → {after} MiB");
    // They were only waiting: one of them reads on and gets its first row whole.
    let session = &mut sessions[0];
    for _ in 0..4 {
        session.packet()?;
    }
    let row = session.packet()?;
    ensure!(row.len() > 60_000_000, "a row of {} bytes", row.len());
    let after = resident_mib(&own)?;
    ensure!(after < before + 64, "after a row of 60 MB: {before} → {after} MiB");
    Ok(())
}

/// A result of 1 GiB for a client that stops and goes, at several speeds: Spillway holds none of it.
fn client_that_reads_slowly() -> Verdict {
    const ROWS: usize = 1024;
    let own = lab::private_solo("spillway-slow-reader", "")?;
    let mut session = raw::login(own.port, &Credentials::new("app", PASSWORD, Some("lab")))?
        .map_err(|e| format!("{e:?}"))?;
    let before = resident_mib(&own)?;
    session.command(&query(&format!("SELECT REPEAT('x', 1 << 20) FROM seq_1_to_{ROWS}")))?;
    for _ in 0..3 {
        session.packet()?;
    }
    let mut most = before;
    for row in 0..ROWS {
        let length = session.packet()?.len();
        ensure!(length > 1 << 20, "row {row} has {length} bytes");
        match row {
            0 | 300 | 301 => std::thread::sleep(Duration::from_secs(1)),
            100..200 => std::thread::sleep(Duration::from_millis(10)),
            _ => {}
        }
        if row % 20 < 2 {
            most = most.max(resident_mib(&own)?);
        }
    }
    same!(session.packet()?[0], 0xfe, "what ends the rows");
    ensure!(most < before + 8, "a result of 1 GiB took {before} → {most} MiB");
    Ok(())
}

fn five_hundred_clients() -> Verdict {
    let ways = lab::solo()?.ways;
    for port in [ways.direct, ways.proxied] {
        let clients = async move {
            let all_in = Arc::new(tokio::sync::Barrier::new(500));
            let mut tasks = tokio::task::JoinSet::new();
            for number in 0..500_u32 {
                let all_in = Arc::clone(&all_in);
                tasks.spawn(async move {
                    let connection = Conn::new(options(port, "app", Some("lab"))).await;
                    all_in.wait().await;
                    let mut connection = connection.map_err(|e| format!("client {number}: {e}"))?;
                    let text = |e: mysql_async::Error| format!("client {number}: {e}");
                    connection.exec_drop("SET @mine = ?", (number,)).await.map_err(text)?;
                    for round in 0..5_u32 {
                        let row: Option<(u32, u32, String)> = connection
                            .exec_first("SELECT @mine, ?, REPEAT('z', ?)", (round, number * 10))
                            .await
                            .map_err(text)?;
                        let wanted = (number, round, "z".repeat(number as usize * 10));
                        if row.as_ref() != Some(&wanted) {
                            return Err(format!("client {number} got another's answer"));
                        }
                    }
                    let thread: Option<u64> =
                        connection.query_first("SELECT CONNECTION_ID()").await.map_err(text)?;
                    all_in.wait().await;
                    connection.disconnect().await.map_err(text)?;
                    thread.ok_or_else(|| "no connection id".to_owned())
                });
            }
            let mut threads = Vec::new();
            while let Some(answer) = tasks.join_next().await {
                threads.push(answer.map_err(|e| e.to_string())??);
            }
            Ok(threads)
        };
        let answers = block_on(async move {
            let limit = 3 * PATIENCE;
            tokio::time::timeout(limit, clients)
                .await
                .unwrap_or_else(|_| Err(format!("not done within {limit:?}")))
        })
        .map_err(|reason| format!("port {port}: {reason}"))?;
        let distinct: std::collections::HashSet<_> = answers.iter().collect();
        same!((answers.len(), distinct.len()), (500, 500), "answers and sessions of the server");
    }
    Ok(())
}

fn many_short_connections() -> Verdict {
    let solo = lab::solo()?;
    let workers: Vec<_> = (0..4)
        .map(|_| {
            std::thread::spawn(move || {
                for _ in 0..100 {
                    let mut session =
                        raw::login(solo.ways.proxied, &Credentials::new("app", PASSWORD, Some("lab")))?
                            .map_err(|e| format!("{e:?}"))?;
                    same!(raw::first_value(&session.query("SELECT 42")?)?, "42", "answer");
                }
                Ok::<_, String>(())
            })
        })
        .collect();
    for worker in workers {
        worker.join().map_err(|_| "a worker panicked")??;
    }
    // Closed sessions leave nothing behind.
    wait_for("the sessions end", PATIENCE, || {
        let listed = solo.spillway.get("/v1/sessions")?;
        let all = listed["sessions"].as_array().map_or(0, Vec::len);
        if all < 600 { Ok(()) } else { Err(format!("{all} sessions are still listed")) }
    })?;
    Login::new(solo.ways.proxied, "app", PASSWORD, None).query("SELECT 1").map(drop)
}
