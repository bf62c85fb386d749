//! What statements do to their sessions.

use super::*;
use proptest::prelude::*;

fn classify(sql: &[u8]) -> Effect {
    judge(sql, Backslash::Unknown).effect
}

#[test]
fn a_schema_is_found_behind_comments_and_quotes() {
    for text in
        ["use shop", " \n/* hello */ USE `shop` ;", "# c\nUse shop;", "-- c\n use/**/shop", "use `shop`"]
    {
        assert_eq!(classify(text.as_bytes()), Effect::Use(b"shop".to_vec()), "{text}");
        assert_eq!(used_schema(text.as_bytes()).as_deref(), Some(&b"shop"[..]), "{text}");
    }
    assert_eq!(classify(b"use `a``b`"), Effect::Use(b"a`b".to_vec()));
}

#[test]
fn what_looks_like_use_but_is_more_is_unknown() {
    for text in ["use shop; drop table t", "/*! use shop */", "use", "use 'shop'"] {
        assert!(matches!(classify(text.as_bytes()), Effect::Unknown(_)), "{text}");
        assert_eq!(used_schema(text.as_bytes()), None, "{text}");
    }
    assert_eq!(used_schema(b"select 'use shop'"), None);
}

#[test]
fn plain_settings_can_be_repeated() {
    for text in [
        "SET NAMES utf8mb4",
        "set names 'utf8mb4' collate utf8mb4_bin",
        "SET AUTOCOMMIT = 0",
        "set session sql_mode='ANSI', @@wait_timeout = 28800",
        "SET transaction_isolation = 'SERIALIZABLE', @@session.transaction_read_only = 1",
        "SET sql_mode = \"ANSI\"",
        "SET character set latin1",
        "SET @@session.time_zone = '+00:00';",
        "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED",
        "SET @x = 1",
        "SET @x := 'a', @y = -2.5, sql_mode = ANSI, @z = NULL",
        "SET @insert_id = 5",
    ] {
        assert_eq!(classify(text.as_bytes()), Effect::Set, "{text}");
    }
    for text in [
        "SET @x = @y",
        "SET @x = @@sql_mode",
        "SET sql_mode = @@session.sql_mode",
        "SET @x = CURRENT_TIMESTAMP",
        "SET @x = 1 + 1, @y = now()",
        "SET sql_mode = concat(@@sql_mode, ',ANSI')",
        "SET TRANSACTION ISOLATION LEVEL READ COMMITTED",
        "SET @@transaction_read_only = 1",
        "SET autocommit = 1, @@tx_isolation = 'SERIALIZABLE'",
        "SET NAMES DEFAULT",
        "SET @a = (SELECT max(b) FROM t)",
    ] {
        assert_eq!(classify(text.as_bytes()), Effect::Cleared("SET"), "{text}");
    }
    for text in [
        "SET GLOBAL max_connections = 5",
        "SET insert_id = 5",
        "SET @@session.gtid_next = 'AUTOMATIC'",
        "SET @x = \"my_function\"(1)",
        "SET RESOURCE GROUP batch",
        "SET sql_mode = lab.concat(@@sql_mode, ',ANSI')",
        "SET @x = my_function(1)",
        "SET @x = (SELECT `my_function`(1))",
        "SET ROLE admin",
        "SET profiling = 1",
        "SET @@session.profiling = 1",
        "SET PASSWORD = 'x'",
        "SET autocommit = 0; CREATE TEMPORARY TABLE t (a int)",
        "SET STATEMENT max_statement_time=1 FOR SELECT 1",
    ] {
        assert_eq!(classify(text.as_bytes()), Effect::Unknown("SET"), "{text}");
    }
}

#[test]
fn ordinary_queries_leave_nothing() {
    for text in [
        "select @@version_comment limit 1",
        "SELECT DATABASE()",
        "show databases",
        "SELECT a, count(*) FROM t WHERE b IN (1,2) GROUP BY a",
        "INSERT INTO t (a, b) VALUES (1, now())",
        "INSERT INTO t (a) VALUES (@x)",
        "SELECT @x, @`y`",
        "INSERT INTO `t` (a) SELECT a FROM s WHERE a IN (1)",
        "REPLACE INTO t SET a = 1",
        "UPDATE t SET a = a + 1 WHERE id = 3",
        "DELETE FROM t WHERE id = 3",
        "BEGIN",
        "START TRANSACTION READ ONLY",
        "commit",
        "SAVEPOINT a",
        "WITH x AS (SELECT 1) SELECT * FROM x",
        "TRUNCATE TABLE t",
        "CREATE TABLE t (id int primary key, name varchar(20), key k (name))",
        "ALTER TABLE t ADD COLUMN c int DEFAULT 5",
        "DROP TABLE IF EXISTS t",
        "GRANT SELECT ON shop.* TO 'app'@'%'",
        "ANALYZE TABLE t",
        "DESC shop.`t` 'a%'",
        "describe \"t\" a;",
        "SELECT \"a\" IN (\"b\"), concat(\"c\", \"d\")",
        "",
    ] {
        assert_eq!(classify(text.as_bytes()), Effect::None, "{text}");
    }
}

#[test]
fn what_a_reset_takes_away_is_told_apart() {
    for text in [
        "SELECT GET_LOCK('a', 1)",
        "SELECT @x := 1",
        "SELECT a INTO @b FROM t",
        "SELECT a INTO OUTFILE '/tmp/x' FROM t",
        "UPDATE t SET a = (@x := a + 1)",
        "CREATE TEMPORARY TABLE t (a int)",
    ] {
        assert!(matches!(classify(text.as_bytes()), Effect::Cleared(_)), "{text}");
    }
}

#[test]
fn what_only_the_next_statement_sees_is_told_apart() {
    for text in ["SELECT SQL_CALC_FOUND_ROWS a FROM t", "SELECT LAST_INSERT_ID()", "DO ROW_COUNT()"] {
        assert!(matches!(classify(text.as_bytes()), Effect::Recalls(_)), "{text}");
    }
    assert_eq!(classify(b"LOCK TABLES t READ"), Effect::Locked);
    assert_eq!(classify(b"unlock tables"), Effect::Unlocked);
    assert!(matches!(classify(b"SELECT LAST_INSERT_ID(), GET_LOCK('a', 1)"), Effect::Cleared(_)));
}

#[test]
fn only_what_changes_nothing_is_repeated() {
    for text in ["SELECT a FROM t", "show tables", "BEGIN", "START TRANSACTION", "USE shop", "SET NAMES utf8"]
    {
        assert!(judge(text.as_bytes(), Backslash::Unknown).may_be_repeated(), "{text}");
    }
    for text in [
        "INSERT INTO t VALUES (1)",
        "UPDATE t SET a = a + 1",
        "COMMIT",
        "SELECT my_function(1)",
        "SELECT LAST_INSERT_ID()",
        "SELECT a INTO OUTFILE '/tmp/x' FROM t",
        "WITH x AS (SELECT 1) DELETE FROM t",
        "DROP TABLE t",
        "DO 1",
        "START SLAVE",
        "SELECT \"my_function\"(1)",
    ] {
        assert!(!judge(text.as_bytes(), Backslash::Unknown).may_be_repeated(), "{text}");
    }
}

#[test]
fn what_may_leave_something_is_unknown() {
    for text in [
        "SELECT my_function(1)",
        "SELECT `my_function`(1)",
        "SELECT lab.now()",
        "SELECT lab . now()",
        "INSERT INTO t (a) VALUES (my_function(1))",
        "SELECT 1; SELECT GET_LOCK('a', 1)",
        "CREATE TEMPORARY TABLE t SELECT my_function(1)",
        "CREATE TEMPORARY TABLE t (a int); SET ROLE admin",
        "DO my_function(1)",
        "LOCK TABLES t READ; SET ROLE admin",
        "LOCK INSTANCE FOR BACKUP",
        "UNLOCK INSTANCE",
        "START SLAVE",
        "START REPLICA SQL_THREAD",
        "START GROUP_REPLICATION",
        "SELECT \"my_function\"(1)",
        "SELECT \"lab\".\"my_function\" (1)",
        "INSERT INTO t (a) VALUES (\"my_function\"(1))",
        "DESC SELECT my_function(1)",
        "DESC ANALYZE UPDATE t SET a = 1",
        "DESCRIBE FORMAT = JSON INTO @x SELECT 1",
        "XA START 'a'",
        "DROP DATABASE lab",
        "CREATE TABLE t SELECT my_function(1)",
        "CREATE PROCEDURE p() SELECT 1",
        "DROP TABLE t; SET ROLE admin",
        "ANALYZE UPDATE t SET a = my_function(1)",
        "ALTER EVENT e DO CALL p()",
        "EXECUTE IMMEDIATE 'SET ROLE admin'",
        "CALL p()",
        "PREPARE s FROM 'select 1'",
        "/*! SET @x = 1 */",
        "SELECT /*!50000 GET_LOCK('a', 1) */",
        "(SELECT 1)",
        "SELECT 'unterminated",
    ] {
        assert!(matches!(classify(text.as_bytes()), Effect::Unknown(_)), "{text}");
    }
}

#[test]
fn words_that_the_servers_see_are_seen() {
    let unknown = |text: &[u8]| {
        let found = classify(text);
        assert!(matches!(found, Effect::Unknown(_)), "{} {found:?}", String::from_utf8_lossy(text));
    };
    for text in [
        &b"SELECT 1.5into @a"[..],
        b"SELECT .5INTO @a",
        b"SELECT 1e1into @a",
        b"SELECT 1E+1into @a",
        b"SELECT \\Ninto @a",
        // In latin1.
        b"SELECT 1 into\xA0@a",
        b"SELECT 1\xA0into @a",
        b"SELECT 0x41\xA0into @a",
        b"SET autocommit = 1,\xA0insert_id = 5",
        b"CREATE TABLE t (a int) max_rows=1e1select get_lock('a', 1) a",
        b"SELECT 1 --\x01'\n, get_lock(0x61, f()) -- '",
        b"CREATE FUNCTION f() RETURNS INT LANGUAGE JAVASCRIPT AS $$ ' $$; SET @a = 1 -- '",
    ] {
        unknown(text);
    }
    unknown(format!("SELECT 1.{}into @a", "1".repeat(300)).as_bytes());
    for text in ["SELECT 1.5, 1e1, 1e10, 0x41, 2fa, \\N FROM t", "SELECT größe FROM café", "SELECT voilà"]
    {
        assert_eq!(classify(text.as_bytes()), Effect::None, "{text}");
    }
    assert_eq!(classify(format!("INSERT INTO t VALUES (0x{})", "41".repeat(500)).as_bytes()), Effect::None);
}

#[test]
fn what_is_computed_at_once_is_seen_wherever_it_stands() {
    assert_eq!(
        classify(b"INSERT INTO t TABLE u ORDER BY get_lock('a', 1) LIMIT 1"),
        Effect::Cleared("INSERT")
    );
    for text in [
        "KILL QUERY get_lock('a', 1) + 9",
        "CREATE EVENT e ON SCHEDULE AT now() + INTERVAL get_lock('a', 1) DAY DO DELETE FROM t",
        "ALTER EVENT e ON SCHEDULE EVERY get_lock('a', 1) DAY",
    ] {
        assert!(matches!(classify(text.as_bytes()), Effect::Unknown(_)), "{text}");
    }
    assert_eq!(classify(b"INSERT INTO t (a, b) VALUES (1, 2)"), Effect::None);
}

#[test]
fn a_variable_in_quotes_is_the_same_variable() {
    for text in [
        "SET `insert_id` = 5",
        "SET sql_mode = '', SESSION `Insert_Id` = 5",
        "SET @@`rand_seed1` = 5",
        "SET @@session.`profiling` = 1",
        "SET \"gtid_next\" = 'AUTOMATIC'",
        "SET profiling = 1",
    ] {
        assert!(matches!(classify(text.as_bytes()), Effect::Unknown(_)), "{text}");
    }
    assert_eq!(classify(b"SET @@`transaction_isolation` = 'SERIALIZABLE'"), Effect::Cleared("SET"));
    for text in [
        "SET `sql_mode` = 'ANSI'",
        "SET @`insert_id` = 5",
        "SET `transaction_isolation` = 'SERIALIZABLE'",
        "SET @a = \"insert_id\"",
    ] {
        assert_eq!(classify(text.as_bytes()), Effect::Set, "{text}");
    }
}

#[test]
fn a_character_set_that_may_hide_backslashes_is_seen_however_it_is_written() {
    for (text, may) in [
        ("SET NAMES gbk", true),
        ("SET NAMES 'Big5' COLLATE big5_bin", true),
        (r"SET NAMES 'gb\k'", true),
        ("SET CHARACTER SET sjis", true),
        ("SET CHAR SET sjis", true),
        ("SET CHARSET cp932", true),
        ("SET character_set_client = 28", true),
        ("SET autocommit = 1, @@session.`character_set_client` := 0x67626b", true),
        ("SET character_set_client = 'gb' 'k'", true),
        ("SET character_set_client = @old", true),
        ("SET NAMES DEFAULT", true),
        ("SET NAMES utf8mb4 COLLATE utf8mb4_bin, autocommit = 1", false),
        ("SET NAMES 'latin1'", false),
        ("SET CHARACTER SET utf8", false),
        ("SET character_set_client = utf8mb4, character_set_results = NULL", false),
        ("SET @a = 'gbk', sql_mode = 28", false),
    ] {
        assert_eq!(may_choose_shifting(text.as_bytes(), Backslash::Escapes), may, "{text}");
    }
}

#[test]
fn a_user_variable_may_stand_behind_a_quote_that_is_not_understood() {
    assert!(names_user_variable(br"SET sql_mode = 'it\'s', @a = 1"));
    assert!(!names_user_variable(b"SET sql_mode = 'its', autocommit = 1"));
}

proptest! {
    #[test]
    fn no_input_panics(text: Vec<u8>) {
        let _ = classify(&text);
        let _ = used_schema(&text);
    }

    #[test]
    fn any_sql_like_text_is_classified_alike_in_any_case(text in "[a-zA-Z @`'();,=*/#!-]{0,60}") {
        let lower = classify(text.to_ascii_lowercase().as_bytes());
        let upper = classify(text.to_ascii_uppercase().as_bytes());
        prop_assert_eq!(std::mem::discriminant(&lower), std::mem::discriminant(&upper));
    }
}

/// The judgement of a text that comes cut at these places.
fn judge_cut(sql: &[u8], cuts: &[usize], backslash: Backslash) -> Judgement {
    let mut judge = Judge::new(backslash);
    let mut from = 0;
    for cut in cuts {
        judge.read(&sql[from..*cut], false);
        from = *cut;
    }
    judge.read(&sql[from..], true);
    judge.end()
}

/// Beginnings, and what may follow in any order, sensible or not.
const BEGINNINGS: &[&str] = &[
    "select ",
    "SELECT SQL_CALC_FOUND_ROWS ",
    "insert into t (a, b) values ",
    "INSERT INTO `t` SET a = ",
    "replace t values ",
    "update t set a = ",
    "set ",
    "SET SESSION ",
    "set @@",
    "use ",
    "show ",
    "create temporary table t ",
    "create ",
    "alter table t ",
    "lock tables t ",
    "unlock tables",
    "start transaction ",
    "begin ",
    "desc ",
    "analyze table ",
    "do ",
    "with x as (",
    "call p ",
    "/* hint */ ",
    "",
];
const PARTS: &[&str] = &[
    "(1, 'abc', 2.5),",
    "('it''s', \"a\"\"b\", NULL)",
    r"'it\'s',",
    r"'\\',",
    r#""\"","#,
    "_binary'\x01\\\x27\\0',",
    "0x4D,",
    "`na``me`",
    "now()",
    "GET_LOCK('a', 1)",
    "last_insert_id()",
    "row_count ( )",
    "FOUND_ROWS()",
    "my_function(1)",
    "`my_function`(1)",
    "lab.now()",
    "@x := 1",
    "@@session.sql_mode",
    "@`y`",
    "= 1",
    ", ",
    ";",
    " into @b",
    "into outfile '/tmp/x'",
    "next value for s",
    "/* c; 'd */",
    "/*! e */",
    "-- f\n",
    "# g'\n",
    "--1",
    "names utf8mb4",
    "sql_mode = 'ANSI'",
    "transaction isolation level read committed",
    "insert_id = 5",
    "from t where a in (1)",
    " returning a",
    "procedure analyse()",
    "select 1",
    "shop",
    "\0",
    "\u{e9}",
    "'open",
    "/* open",
];

proptest! {
    #[test]
    fn a_text_in_pieces_is_judged_as_in_one(
        beginning in prop::sample::select(BEGINNINGS),
        parts in prop::collection::vec((prop::sample::select(PARTS), prop::bool::ANY), 0..12),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
        backslash in prop::sample::select(&[Backslash::Escapes, Backslash::Itself, Backslash::Unknown][..]),
    ) {
        let mut text = beginning.to_owned();
        for (part, blank) in parts {
            text += part;
            text += if blank { " " } else { "" };
        }
        let text = text.as_bytes();
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(text.len() + 1)).collect();
        cuts.sort_unstable();
        let whole = judge(text, backslash);
        prop_assert_eq!(judge_cut(text, &cuts, backslash), whole.clone());
        let all: Vec<usize> = (0..text.len()).collect();
        prop_assert_eq!(judge_cut(text, &all, backslash), whole);
    }

    #[test]
    fn any_bytes_in_pieces_are_judged_as_in_one(text in "[a-z @`'\"().;,=*/#!M\\\\\n-]{0,40}", cut in any::<prop::sample::Index>()) {
        for backslash in [Backslash::Escapes, Backslash::Itself, Backslash::Unknown] {
            let whole = judge(text.as_bytes(), backslash);
            let cut = cut.index(text.len() + 1);
            prop_assert_eq!(judge_cut(text.as_bytes(), &[cut], backslash), whole);
        }
    }
}

#[test]
fn what_stands_at_the_end_of_a_long_text_counts() {
    let rows = "(1, 'abc'), ".repeat(10_000);
    for (end, effect) in [
        ("(2, 'def')", Effect::None),
        ("(2, now())", Effect::None),
        ("(2, GET_LOCK('a', 1))", Effect::Cleared("INSERT")),
        ("(2, @x := 1)", Effect::Cleared("INSERT")),
        ("(2, my_function(1))", Effect::Unknown("INSERT")),
        ("(2, LAST_INSERT_ID())", Effect::Recalls("INSERT")),
        ("(2, 'def'); SET ROLE admin", Effect::Unknown("INSERT")),
        ("(2, 'def", Effect::Unknown("INSERT")),
    ] {
        let text = format!("INSERT INTO t (a, b) VALUES {rows}{end}");
        for piece in [1, 7, 4096, 65_536, 1 << 24] {
            let cuts: Vec<usize> = (0..text.len()).step_by(piece).collect();
            let judged = judge_cut(text.as_bytes(), &cuts, Backslash::Unknown);
            assert_eq!(judged.effect, effect, "{end} in pieces of {piece}");
        }
    }
}

#[test]
fn a_name_that_no_server_takes_is_not_kept() {
    let (name, cut) = ("x".repeat(LONGEST_NAME), LONGEST_NAME / 2);
    for (text, known) in [
        (format!("USE {name}"), true),
        (format!("USE `{name}`"), true),
        (format!("USE {name}x"), false),
        (format!("USE `{name}x`"), false),
    ] {
        let whole = judge(text.as_bytes(), Backslash::Unknown);
        assert_eq!(whole.effect == Effect::Use(name.clone().into_bytes()), known);
        assert_eq!(matches!(whole.effect, Effect::Unknown("USE")), !known);
        assert_eq!(judge_cut(text.as_bytes(), &[cut], Backslash::Unknown), whole);
    }
}

#[test]
fn escaped_quotes_hide_nothing_where_backslashes_are_known() {
    let effect = |sql: &str, backslash| judge(sql.as_bytes(), backslash).effect;
    let text = r"INSERT INTO t VALUES ('it\'s')";
    assert_eq!(effect(text, Backslash::Escapes), Effect::None);
    assert_eq!(effect(text, Backslash::Unknown), Effect::Unknown("INSERT"));
    assert_eq!(effect(text, Backslash::Itself), Effect::Unknown("INSERT"));
    // The same bytes, in two ways.
    let text = r"SELECT '\', @x := 1, '\'";
    assert_eq!(effect(text, Backslash::Itself), Effect::Cleared("SELECT"));
    assert_eq!(effect(text, Backslash::Escapes), Effect::Unknown("SELECT"));
    let text = r"SELECT '\', @x := 1, ''";
    assert_eq!(effect(text, Backslash::Escapes), Effect::Unknown("SELECT"));
    let text = r"SELECT '\', @x := 1, \''";
    assert_eq!(effect(text, Backslash::Escapes), Effect::None);
}

#[test]
fn what_a_statement_names_of_the_one_before() {
    let looks_back = |sql: &str| judge(sql.as_bytes(), Backslash::Unknown).looks_back();
    for sql in ["SELECT FOUND_ROWS()", "DO row_count()", "SET @x = ROW_COUNT()"] {
        assert!(looks_back(sql), "{sql}");
    }
    for sql in ["SELECT 'row_count', LAST_INSERT_ID()", "SELECT SQL_CALC_FOUND_ROWS a FROM t", "SELECT 1"] {
        assert!(!looks_back(sql), "{sql}");
    }
    let counts = |sql: &str| judge(sql.as_bytes(), Backslash::Unknown).counts_found_rows();
    assert!(counts("SELECT SQL_CALC_FOUND_ROWS a FROM t") && !counts("SELECT FOUND_ROWS()"));
}

#[test]
fn loading_a_file_of_the_client_is_recognised() {
    for text in [
        "LOAD DATA LOCAL INFILE 'f' INTO TABLE t",
        "load /* so */ data low_priority local infile 'f' into table t",
        "LOAD XML CONCURRENT LOCAL INFILE 'f' INTO TABLE t",
        "CREATE TABLE t (a INT); LOAD DATA LOCAL INFILE 'f' INTO TABLE t; SELECT 1",
        r"INSERT INTO t VALUES ('it\'s'); LOAD DATA LOCAL INFILE 'f' INTO TABLE t",
    ] {
        assert!(loads_local_file(text.as_bytes(), Backslash::Escapes), "{text}");
    }
    for text in [
        "",
        "LOAD DATA INFILE 'f' INTO TABLE local",
        "SELECT 'LOAD DATA LOCAL INFILE'",
        "SELECT 1 -- ; LOAD DATA LOCAL INFILE 'f' INTO TABLE t",
        "SELECT load FROM data; SELECT local FROM infile",
        "/*!50000 LOAD DATA LOCAL INFILE 'f' INTO TABLE t */",
    ] {
        assert!(!loads_local_file(text.as_bytes(), Backslash::Escapes), "{text}");
    }
}
