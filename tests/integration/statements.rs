//! What ordinary clients do: the `mariadb` program, `PyMySQL` and `mysql_async`.

use crate::harness::Outcome;
use crate::lab::{self, PASSWORD};
use crate::{Verdict, ensure, same, trial};
use libtest_mimic::Trial;
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Opts, OptsBuilder, Params, Row, TxOpts, Value};
use std::future::Future;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("statements::mariadb_client", mariadb_client),
        trial("statements::pymysql", pymysql),
        trial("statements::prepared", prepared),
        trial("statements::transactions_and_errors", transactions_and_errors),
        trial("statements::change_user_and_reset", change_user_and_reset),
        trial("statements::connection_attributes", connection_attributes),
        trial("statements::binlog_dump", binlog_dump),
        trial("statements::on_galera", on_galera),
        trial("statements::on_replication", on_replication),
    ]
}

/// Runs a future to its end on a runtime of its own.
pub(crate) fn block_on<T>(future: impl Future<Output = Outcome<T>>) -> Outcome<T> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|e| e.to_string())?
        .block_on(future)
}

/// Options of `mysql_async` for a login at 127.0.0.1.
pub(crate) fn options(port: u16, user: &str, schema: Option<&str>) -> Opts {
    OptsBuilder::default()
        .ip_or_hostname("127.0.0.1")
        .tcp_port(port)
        .user(Some(user))
        .pass(Some(PASSWORD))
        .db_name(schema)
        .prefer_socket(false)
        .into()
}

/// An error as a server says it: number, SQLSTATE, text.
fn server_error(error: &mysql_async::Error) -> String {
    match error {
        mysql_async::Error::Server(error) => format!("{} {} {}", error.code, error.state, error.message),
        other => format!("{other:?}"),
    }
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

fn mariadb_client() -> Verdict {
    let solo = lab::solo()?;
    let sql = "SELECT word FROM greeting; SELECT DATABASE(), CURRENT_USER(); USE lab2; SELECT DATABASE();
        CREATE OR REPLACE TABLE by_client (id INT AUTO_INCREMENT PRIMARY KEY, v VARCHAR(30));
        INSERT INTO by_client (v) VALUES ('one'), ('two'), (NULL); SELECT * FROM by_client;
        SELECT wrong; SELECT 'not reached'";
    let printed = solo.ways.mariadb("app", Some("lab"), &[], sql)?;
    same!(printed.code, Some(1), "a wrong statement ends the client");
    ensure!(printed.errors.contains("ERROR 1054 (42S22)"), "{}", printed.errors);
    ensure!(printed.output.contains("hello"), "{}", printed.output);
    let sql = "SELECT 1; SELECT wrong; SELECT 'reached'; SHOW WARNINGS;
        delimiter //
        CREATE OR REPLACE PROCEDURE lab.p() BEGIN SELECT 1; SELECT 2; SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT='own'; END//
        delimiter ;
        CALL lab.p(); SHOW CREATE PROCEDURE lab.p; DROP PROCEDURE lab.p; status_is_not_a_word;
        SELECT REPEAT('long', 100000);";
    let printed = solo.ways.mariadb("app", Some("lab"), &["--force", "--table", "--show-warnings"], sql)?;
    ensure!(printed.output.contains("reached"), "{}", printed.output);
    ensure!(
        printed.errors.contains("ERROR 1644 (45000)") && printed.errors.contains("own"),
        "{}",
        printed.errors
    );
    // The heading of a column carries type and flags.
    solo.ways.mariadb(
        "app",
        Some("lab"),
        &["--column-type-info", "--table"],
        "SELECT * FROM greeting; SELECT 1.5, NULL, NOW() > 0",
    )?;
    // Without a schema.
    solo.ways.mariadb(
        "app",
        None,
        &[],
        "SELECT DATABASE(); SHOW DATABASES; SELECT * FROM lab.greeting; USE closed",
    )?;
    Ok(())
}

fn pymysql() -> Verdict {
    let output = lab::solo()?.ways.python("statements.py", "app", "lab", &["py_"])?;
    for expected in ["error after rows", "'still here'", "'alive'", "(1205,", "水"] {
        ensure!(output.contains(expected), "no {expected} in {output}");
    }
    Ok(())
}

fn prepared() -> Verdict {
    let answers = lab::solo()?.ways.agree("prepared statements", |port| {
        block_on(async move {
            let mut said = Vec::new();
            let mut connection = Conn::new(options(port, "app", Some("lab"))).await.map_err(text)?;
            connection
                .query_drop(
                    "CREATE OR REPLACE TABLE prepared (id INT PRIMARY KEY, v VARCHAR(50), b LONGBLOB, d DOUBLE, t DATETIME(6))",
                )
                .await
                .map_err(text)?;
            let insert = connection.prep("INSERT INTO prepared VALUES (?, ?, ?, ?, ?)").await.map_err(text)?;
            said.push(format!("{} parameters", insert.num_params()));
            for id in 0..40_u8 {
                let values = vec![
                    Value::from(id),
                    if id % 5 == 0 { Value::NULL } else { Value::from(format!("name {id} 水")) },
                    Value::from(vec![id; usize::from(id) * 1000]),
                    Value::from(f64::from(id) / 3.0),
                    Value::Date(2026, 11, 24, 1, 2, id, 123_456),
                ];
                connection.exec_drop(&insert, Params::Positional(values)).await.map_err(text)?;
                said.push(format!("{} {:?}", connection.affected_rows(), connection.last_insert_id()));
            }
            let select = "SELECT id, v, SHA1(b), d, t FROM prepared WHERE id >= ? AND id < ? ORDER BY id";
            for bounds in [(0, 40), (10, 12), (100, 200)] {
                let rows: Vec<Row> = connection.exec(select, bounds).await.map_err(text)?;
                said.extend(rows.into_iter().map(|row| format!("{:?}", row.unwrap())));
            }
            // Many statements open at once, used in another order than they were made.
            let mut statements = Vec::new();
            for number in 0..30 {
                statements.push(connection.prep(format!("SELECT ? + {number}")).await.map_err(text)?);
            }
            for statement in statements.iter().rev() {
                let sum: Option<i64> = connection.exec_first(statement, (1000,)).await.map_err(text)?;
                said.push(format!("{sum:?}"));
            }
            for statement in statements.into_iter().step_by(2) {
                connection.close(statement).await.map_err(text)?;
            }
            let error = connection.prep("SELECT wrong FROM prepared").await;
            said.push(error.map_or_else(|e| server_error(&e), |_| "no error".to_owned()));
            let error = connection.exec_drop(&insert, (1, "twice", "", 0.5, "2026-01-01")).await;
            said.push(error.map_or_else(|e| server_error(&e), |()| "no error".to_owned()));
            // A procedure through the binary protocol gives several results.
            connection
                .query_drop("CREATE OR REPLACE PROCEDURE twice(n INT) BEGIN SELECT n; SELECT n * 2, 'two'; END")
                .await
                .map_err(text)?;
            let mut result = connection.exec_iter("CALL twice(?)", (21,)).await.map_err(text)?;
            while !result.is_empty() {
                let rows: Vec<Row> = result.collect().await.map_err(text)?;
                said.push(format!("{:?}", rows.into_iter().map(Row::unwrap).collect::<Vec<_>>()));
            }
            drop(result);
            connection.query_drop("DROP PROCEDURE twice; DROP TABLE prepared").await.map_err(text)?;
            connection.disconnect().await.map_err(text)?;
            Ok(said)
        })
    })?;
    ensure!(answers.iter().any(|line| line.contains("1062 23000")), "no duplicate key in {answers:?}");
    ensure!(answers.iter().any(|line| line.contains("Int(42)")), "no second result in {answers:?}");
    Ok(())
}

fn transactions_and_errors() -> Verdict {
    lab::solo()?.ways.agree("transactions", |port| {
        block_on(async move {
            let mut said = Vec::new();
            let mut one = Conn::new(options(port, "app", Some("lab"))).await.map_err(text)?;
            let mut two = Conn::new(options(port, "app", Some("lab"))).await.map_err(text)?;
            one.query_drop("CREATE OR REPLACE TABLE account (id INT PRIMARY KEY, n INT); INSERT INTO account VALUES (1, 10), (2, 20)")
                .await
                .map_err(text)?;
            let mut transaction = one.start_transaction(TxOpts::default()).await.map_err(text)?;
            transaction.exec_drop("UPDATE account SET n = n - ? WHERE id = ?", (5, 1)).await.map_err(text)?;
            let seen: Vec<(i32, i32)> = two.query("SELECT * FROM account").await.map_err(text)?;
            said.push(format!("outside {seen:?}"));
            transaction.commit().await.map_err(text)?;
            let seen: Vec<(i32, i32)> = two.query("SELECT * FROM account").await.map_err(text)?;
            said.push(format!("committed {seen:?}"));
            // A deadlock: the server picks one of the two, and rolls only that one back.
            one.query_drop("BEGIN; UPDATE account SET n = 0 WHERE id = 1").await.map_err(text)?;
            two.query_drop("BEGIN; UPDATE account SET n = 0 WHERE id = 2").await.map_err(text)?;
            let (first, second) = tokio::join!(
                one.query_drop("UPDATE account SET n = 1 WHERE id = 2"),
                two.query_drop("UPDATE account SET n = 1 WHERE id = 1")
            );
            let mut errors: Vec<String> =
                [first, second].into_iter().filter_map(Result::err).map(|e| server_error(&e)).collect();
            said.append(&mut errors);
            one.query_drop("ROLLBACK").await.map_err(text)?;
            two.query_drop("ROLLBACK").await.map_err(text)?;
            let seen: Vec<(i32, i32)> = two.query("SELECT * FROM account").await.map_err(text)?;
            said.push(format!("after the deadlock {seen:?}"));
            // An open transaction of a client that leaves is rolled back.
            one.query_drop("BEGIN; UPDATE account SET n = 77 WHERE id = 1").await.map_err(text)?;
            one.disconnect().await.map_err(text)?;
            two.query_drop("SET innodb_lock_wait_timeout = 10").await.map_err(text)?;
            let seen: Vec<(i32, i32)> = two.query("SELECT * FROM account FOR UPDATE").await.map_err(text)?;
            said.push(format!("after the client left {seen:?}"));
            two.query_drop("DROP TABLE account").await.map_err(text)?;
            two.disconnect().await.map_err(text)?;
            ensure!(said.iter().any(|line| line.starts_with("1213 40001")), "no deadlock: {said:?}");
            Ok(said)
        })
    })?;
    Ok(())
}

fn change_user_and_reset() -> Verdict {
    lab::solo()?.ways.agree("change user, reset", |port| {
        block_on(async move {
            let mut said = Vec::new();
            let mut connection = Conn::new(options(port, "app", Some("lab"))).await.map_err(text)?;
            connection.query_drop("SET @a = 1").await.map_err(text)?;
            said.push(format!("reset {:?}", connection.reset().await.map_err(text)?));
            let row: Option<(Option<i64>, String)> =
                connection.query_first("SELECT @a, DATABASE()").await.map_err(text)?;
            said.push(format!("{row:?}"));
            let to_other = mysql_async::ChangeUserOpts::default()
                .with_user(Some("other".to_owned()))
                .with_pass(Some(PASSWORD.to_owned()))
                .with_db_name(Some("lab2".to_owned()));
            connection.change_user(to_other).await.map_err(text)?;
            let row: Option<(String, String)> =
                connection.query_first("SELECT CURRENT_USER(), DATABASE()").await.map_err(text)?;
            said.push(format!("{row:?}"));
            let error = connection.query_drop("SELECT * FROM lab.greeting").await;
            said.push(error.map_or_else(|e| server_error(&e), |()| "other read lab".to_owned()));
            connection.disconnect().await.map_err(text)?;
            ensure!(said.iter().any(|line| line.contains("other@%")), "{said:?}");
            ensure!(said.iter().any(|line| line.starts_with("1142 ")), "{said:?}");
            Ok(said)
        })
    })?;
    Ok(())
}

fn connection_attributes() -> Verdict {
    // _pid differs from run to run; the others say who the client is.
    let printed = lab::solo()?.ways.mariadb(
        "app",
        None,
        &[],
        "SELECT ATTR_NAME, ATTR_VALUE FROM performance_schema.session_account_connect_attrs \
         WHERE PROCESSLIST_ID = CONNECTION_ID() AND ATTR_NAME <> '_pid' ORDER BY ORDINAL_POSITION",
    )?;
    for attribute in ["_client_name", "program_name", "_client_version", "_os"] {
        ensure!(printed.output.contains(attribute), "no {attribute} in {:?}", printed.output);
    }
    Ok(())
}

fn binlog_dump() -> Verdict {
    let printed = lab::solo()?.ways.agree("mariadb-binlog", |port| {
        let mut command = std::process::Command::new("mariadb-binlog");
        command.args(["--no-defaults", "--read-from-remote-server", "--host=127.0.0.1", "--protocol=tcp"]);
        command.args([&format!("--port={port}"), "--user=replica", &format!("--password={PASSWORD}")]);
        command.arg("binlog.000001");
        let mut printed = crate::harness::client::run_with_input(&mut command, b"")?;
        printed.errors.clear();
        Ok(printed)
    })?;
    same!(printed.code, Some(0), "mariadb-binlog ends well");
    ensure!(printed.output.contains("CREATE DATABASE lab2"), "no events: {}", printed.output);
    Ok(())
}

fn on_galera() -> Verdict {
    let pair = lab::pair()?;
    let galera = pair.share_galera()?;
    let ways = lab::Ways { direct: galera.nodes[0].port, proxied: pair.shop };
    // What Galera answers differently from a plain server it must answer both ways; auto-increment steps depend
    // on the node, so no generated keys here.
    let sql = "SELECT * FROM item; CREATE OR REPLACE TABLE behaviour (id INT PRIMARY KEY, v VARCHAR(20));
        BEGIN; INSERT INTO behaviour VALUES (1, 'a'), (2, 'b'); COMMIT; SELECT * FROM behaviour;
        SELECT @@wsrep_on, VARIABLE_VALUE FROM information_schema.GLOBAL_STATUS WHERE VARIABLE_NAME = 'wsrep_ready';
        BEGIN; DELETE FROM behaviour; ROLLBACK; SELECT COUNT(*) FROM behaviour; DROP TABLE behaviour";
    let printed = ways.mariadb("app", Some("shop"), &[], sql)?;
    ensure!(printed.code == Some(0) && printed.output.contains("lamp"), "{printed:?}");
    Ok(())
}

fn on_replication() -> Verdict {
    let pair = lab::pair()?;
    let replication = pair.share_replication()?;
    let ways = lab::Ways { direct: replication.nodes[0].port, proxied: pair.crm };
    let sql = "SELECT * FROM customer; SELECT @@read_only, @@port;
        CREATE OR REPLACE TABLE behaviour (id INT AUTO_INCREMENT PRIMARY KEY, v VARCHAR(20));
        INSERT INTO behaviour (v) VALUES ('a'), ('b'); SELECT * FROM behaviour; DROP TABLE behaviour";
    let printed = ways.mariadb("app", Some("crm"), &[], sql)?;
    ensure!(printed.code == Some(0) && printed.output.contains("Ada"), "{printed:?}");
    Ok(())
}
