//! Just enough SQL: a lexer that cannot be fooled by comments, and what a statement does to its session.
//!
//! Only what is positively recognised is given a meaning. Everything else is
//! [`Effect::Unknown`], and unknown means that the session stays where it is.

mod harmless;
mod kill;
mod lexer;
mod updates;

pub use kill::{Kill, kill};
pub use lexer::{Lexer, Token};
pub use updates::{Statements, statements};

use harmless::HARMLESS;

/// What a statement leaves behind in its session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Nothing that another link would lack, apart from what the status flags tell.
    None,
    /// `USE schema`.
    Use(Vec<u8>),
    /// Session variables set to plain values: repeating the statement on another link has the
    /// same effect there.
    Set,
    /// Nothing that outlives the next statement: it reads or leaves the values that a statement leaves for the one behind it
    /// (`FOUND_ROWS()`, `ROW_COUNT()`, `LAST_INSERT_ID()`). The word that it begins with.
    Recalls(&'static str),
    /// Tables stay locked until [`Effect::Unlocked`].
    Locked,
    /// `UNLOCK TABLES`.
    Unlocked,
    /// Something that another link would lack, and that a reset of the connection (`COM_RESET_CONNECTION`) takes away:
    /// user variables, user locks, temporary tables. The word that says why, such as `CREATE TEMPORARY TABLE`.
    Cleared(&'static str),
    /// Anything else; the word that says why, such as `CREATE` or `CALL`.
    Unknown(&'static str),
}

/// Functions of the server's own that do leave something, all of which a reset of the connection takes away.
const CLEARED: &[&str] = &[
    "get_lock",
    "is_free_lock",
    "is_used_lock",
    "lastval",
    "nextval",
    "release_all_locks",
    "release_lock",
    "setval",
];

/// Functions of the server's own that tell what the statement before left.
const RECALLS: &[&str] = &["found_rows", "last_insert_id", "row_count"];

/// Words that leave something behind wherever they stand, until a reset of the connection.
const LEAVES_SOMETHING: &[&str] = &["nextval", "lastval", "setval", "outfile", "dumpfile", "returning"];

/// First words of statements that change data definitions, accounts or tables' files, and nothing in the session.
const DEFINES: &[&str] = &["create", "alter", "drop", "rename", "kill", "truncate"];

/// The same where the next word is `TABLE`; otherwise they run a statement.
const SERVES_TABLES: &[&str] = &["analyze", "check", "optimize", "repair"];

/// Words in a `SET` statement that change more than the session, or what a reset of the connection leaves as it is:
/// `MariaDB` 10.11 keeps the role and the profiles of earlier statements.
const NOT_OF_THE_SESSION: &[&str] = &[
    "global",
    "persist",
    "persist_only",
    "password",
    "role",
    "statement",
    "profiling",
    "profiling_history_size",
    "resource",
];

/// Variables that the next statement or transaction uses up: setting them again later would have another effect.
const USED_UP: &[&str] =
    &["gtid_next", "gtid_seq_no", "identity", "insert_id", "last_insert_id", "rand_seed1", "rand_seed2"];

/// The same where `@@` without a scope stands before them.
const USED_UP_WITHOUT_SCOPE: &[&str] =
    &["transaction_isolation", "transaction_read_only", "tx_isolation", "tx_read_only"];

/// Reads one text command and tells its effect. `sql` must be the whole text.
///
/// Several statements in one text are unknown unless all but the first are empty.
pub fn classify(sql: &[u8]) -> Effect {
    let mut lexer = Lexer::new(sql);
    let Some(first) = lexer.next() else { return Effect::None };
    let Token::Word(word) = first else { return Effect::Unknown("statement") };
    if eq(word, "use") {
        return use_schema(lexer);
    }
    if eq(word, "set") {
        return setting(lexer);
    }
    for (plain, name) in [
        ("select", "SELECT"),
        ("insert", "INSERT"),
        ("update", "UPDATE"),
        ("delete", "DELETE"),
        ("replace", "REPLACE"),
        ("show", "SHOW"),
    ] {
        if eq(word, plain) {
            return left_behind(lexer, name);
        }
    }
    for (alone, effect) in [
        // Whether a transaction is open, and with it its savepoints, is told by the status flags of the reply.
        ("begin", Effect::None),
        ("commit", Effect::None),
        ("rollback", Effect::None),
        ("savepoint", Effect::None),
        ("release", Effect::None),
        // Words of privileges, which are words of statements elsewhere, are no statements here.
        ("grant", Effect::None),
        ("revoke", Effect::None),
    ] {
        if eq(word, alone) {
            return if single_statement(lexer) { effect } else { Effect::Unknown("statements") };
        }
    }
    // The same first words begin statements about replicas, backups and plans, too.
    for (word_before, words_behind, effect) in [
        ("start", &["transaction"][..], Effect::None),
        ("lock", &["table", "tables"], Effect::Locked),
        ("unlock", &["table", "tables"], Effect::Unlocked),
    ] {
        if eq(word, word_before) {
            let plain =
                matches!(lexer.clone().next(), Some(Token::Word(w)) if words_behind.iter().any(|b| eq(w, b)));
            return if plain && single_statement(lexer) { effect } else { Effect::Unknown(name_of(word)) };
        }
    }
    if eq(word, "desc") || eq(word, "describe") {
        return if names_table(lexer) { Effect::None } else { Effect::Unknown("EXPLAIN") };
    }
    for (reading, name) in [("with", "WITH"), ("do", "DO")] {
        if eq(word, reading) {
            return left_behind(lexer, name);
        }
    }
    if eq(word, "create") && is_temporary_table(lexer.clone()) {
        return Effect::Cleared("CREATE TEMPORARY TABLE");
    }
    let defines = DEFINES.iter().any(|w| eq(word, w))
        || SERVES_TABLES.iter().any(|w| eq(word, w))
            && matches!(lexer.clone().next(), Some(Token::Word(next)) if eq(next, "table"));
    if defines && runs_nothing(lexer) { Effect::None } else { Effect::Unknown(name_of(word)) }
}

/// Whether what stands behind `DESCRIBE` is a table and perhaps a column. Everything else explains a statement, which may
/// run it or put its plan into a variable.
fn names_table(lexer: Lexer<'_>) -> bool {
    const EXPLAINED: &[&str] = &[
        "analyze",
        "delete",
        "extended",
        "for",
        "format",
        "insert",
        "into",
        "partitions",
        "replace",
        "select",
        "table",
        "update",
        "values",
        "with",
    ];
    let plain = |token| match token {
        Token::Word(word) => !EXPLAINED.iter().any(|w| eq(word, w)),
        Token::Quoted { .. } | Token::Other(b'.' | b'%' | b';') => true,
        _ => false,
    };
    lexer.clone().all(plain) && single_statement(lexer)
}

/// Whether a statement that begins with one of [`DEFINES`] is only that: it holds no query or call that would be run at once,
/// makes nothing that belongs to the session, and leaves the default schema alone.
fn runs_nothing(lexer: Lexer<'_>) -> bool {
    const NOT_THESE: &[&str] = &[
        "select",
        "with",
        "values",
        "call",
        "execute",
        "prepare",
        "begin",
        "temporary",
        "database",
        "schema",
        "role",
    ];
    let plain = |token| match token {
        Token::Word(word) => !NOT_THESE.iter().any(|w| eq(word, w)),
        Token::UserVariable => false,
        _ => true,
    };
    lexer.clone().all(plain) && single_statement(lexer)
}

/// Whether a statement that reads can be run a second time as if it had not run before: its first reply was lost.
///
/// `effect` is the text's.
pub fn may_be_repeated(sql: &[u8], effect: &Effect) -> bool {
    match effect {
        Effect::Set | Effect::Use(_) => true,
        Effect::None => begins_with(sql, &["select", "show", "desc", "describe", "begin", "start"]),
        _ => false,
    }
}

/// The schema of a `USE` statement, if the text is one. Cheaper than [`classify`]: any other text is
/// given up at its first word.
pub fn used_schema(sql: &[u8]) -> Option<Vec<u8>> {
    let mut lexer = Lexer::new(sql);
    match lexer.next()? {
        Token::Word(word) if eq(word, "use") => match use_schema(lexer) {
            Effect::Use(schema) => Some(schema),
            _ => None,
        },
        _ => None,
    }
}

/// Whether a statement of the text loads a file of the client (`LOAD DATA LOCAL INFILE`). What stands in a version comment
/// does not count.
pub fn loads_local_file(sql: &[u8]) -> bool {
    let mut lexer = Lexer::new(sql);
    let several = sql.contains(&b';');
    let mut begins = true;
    while let Some(token) = lexer.next() {
        match token {
            Token::Word(word) if begins && eq(word, "load") => {
                let mut words = lexer.clone().filter_map(|token| match token {
                    Token::Word(word) if !eq(word, "low_priority") && !eq(word, "concurrent") => Some(word),
                    Token::Word(_) => None,
                    _ => Some(&b""[..]),
                });
                let mut is =
                    |wanted: &[&str]| words.next().is_some_and(|word| wanted.iter().any(|w| eq(word, w)));
                if is(&["data", "xml"]) && is(&["local"]) && is(&["infile"]) {
                    return true;
                }
                begins = false;
            }
            Token::Invalid => return false,
            Token::Other(b';') => begins = true,
            _ if !several => return false,
            _ => begins = false,
        }
    }
    false
}

/// Whether a statement counts the rows that it would have without its `LIMIT`.
pub fn counts_found_rows(sql: &[u8]) -> bool {
    Lexer::new(sql).any(|token| matches!(token, Token::Word(word) if eq(word, "sql_calc_found_rows")))
}

/// Whether a statement names a user variable.
pub fn names_user_variable(sql: &[u8]) -> bool {
    Lexer::new(sql).any(|token| token == Token::UserVariable)
}

/// Whether the first word of a text is one of `words`, which are in lower case.
pub fn begins_with(sql: &[u8], words: &[&str]) -> bool {
    matches!(Lexer::new(sql).next(), Some(Token::Word(first)) if words.iter().any(|word| eq(first, word)))
}

fn eq(word: &[u8], lower: &str) -> bool {
    word.eq_ignore_ascii_case(lower.as_bytes())
}

/// The text of a token that is a word.
fn name_of_word(token: Option<Token<'_>>) -> Option<&[u8]> {
    match token {
        Some(Token::Word(word)) => Some(word),
        _ => None,
    }
}

fn name_of(word: &[u8]) -> &'static str {
    const NAMES: &[&str] = &[
        "ALTER",
        "ANALYZE",
        "BINLOG",
        "CALL",
        "CHANGE",
        "CREATE",
        "DEALLOCATE",
        "DO",
        "DROP",
        "EXECUTE",
        "EXPLAIN",
        "FLUSH",
        "GRANT",
        "HANDLER",
        "KILL",
        "LOAD",
        "LOCK",
        "OPTIMIZE",
        "PREPARE",
        "RELEASE",
        "RENAME",
        "RESET",
        "REVOKE",
        "SAVEPOINT",
        "START",
        "TRUNCATE",
        "UNLOCK",
        "WITH",
        "XA",
    ];
    NAMES.iter().find(|n| word.eq_ignore_ascii_case(n.as_bytes())).copied().unwrap_or("statement")
}

fn use_schema(mut lexer: Lexer<'_>) -> Effect {
    let schema = match lexer.next() {
        Some(Token::Word(word)) => word.to_vec(),
        Some(Token::Quoted { quote: b'`', text }) => unquote(text),
        _ => return Effect::Unknown("USE"),
    };
    if single_statement(lexer) { Effect::Use(schema) } else { Effect::Unknown("statements") }
}

/// Doubled quotes inside a quoted name stand for one.
fn unquote(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.iter();
    while let Some(b) = bytes.next() {
        out.push(*b);
        if *b == b'`' {
            bytes.next();
        }
    }
    out
}

/// Nothing but semicolons follows a semicolon.
fn single_statement(lexer: Lexer<'_>) -> bool {
    let mut ended = false;
    for token in lexer {
        match token {
            Token::Other(b';') => ended = true,
            Token::Invalid => return false,
            _ if ended => return false,
            _ => {}
        }
    }
    true
}

/// `SET`: of session variables, names or character set to literals or words it can be repeated.
fn setting(lexer: Lexer<'_>) -> Effect {
    const UNKNOWN: Effect = Effect::Unknown("SET");
    let mut ended = false;
    let mut plain = true;
    let mut last = Last::Other;
    // SET TRANSACTION is for the next transaction only.
    let of_session = matches!(lexer.clone().next(), Some(Token::Word(word)) if eq(word, "session"));
    let mut value_of = Target::None;
    let mut target = Target::Setting;
    for token in lexer {
        if ended && token != Token::Other(b';') {
            return UNKNOWN;
        }
        let before = std::mem::replace(&mut last, Last::Other);
        match token {
            Token::Invalid => return UNKNOWN,
            Token::Word(word) => {
                let is_one_of = |words: &[&str]| words.iter().any(|w| eq(word, w));
                let names_variable = target == Target::Setting && value_of == Target::None;
                if is_one_of(NOT_OF_THE_SESSION) || names_variable && is_one_of(USED_UP) {
                    return UNKNOWN;
                }
                plain &= !(matches!(before, Last::SystemVariable) && is_one_of(USED_UP_WITHOUT_SCOPE));
                // A default differs between nodes.
                plain &= (of_session || !eq(word, "transaction")) && !eq(word, "default");
                // What is a word for a setting may be a value of the moment for a variable.
                plain &= value_of != Target::UserVariable
                    || ["null", "true", "false"].iter().any(|literal| eq(word, literal));
                last = before.word(word);
            }
            Token::Other(b';') => ended = true,
            Token::Other(b'(') if before.is_foreign_call() => return UNKNOWN,
            Token::Other(b'.') => last = Last::Dot,
            Token::Other(b'=') => value_of = target,
            Token::Other(b',') => (value_of, target) = (Target::None, Target::Setting),
            Token::UserVariable if value_of == Target::None => target = Target::UserVariable,
            Token::SystemVariable if value_of == Target::None => last = Last::SystemVariable,
            Token::Other(b':' | b'-' | b'+') | Token::Number | Token::Quoted { quote: b'\'', .. } => {}
            Token::Quoted { .. } => last = Last::QuotedName,
            // Values of other variables, expressions.
            Token::UserVariable | Token::SystemVariable | Token::Other(_) => plain = false,
        }
    }
    if plain { Effect::Set } else { Effect::Cleared("SET") }
}

/// What a part of a `SET` statement assigns to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Target {
    /// Nothing yet: the name comes first.
    None,
    /// A variable of the server's, or something like `NAMES`.
    Setting,
    /// `@name`.
    UserVariable,
}

/// The token before an opening parenthesis tells whether a function is called, and whose.
#[derive(Clone, Copy)]
enum Last<'a> {
    Word(&'a [u8]),
    /// The last part of `schema.name`, which is nobody's built-in function.
    Qualified,
    /// Quoted by `"`, too: whether that quotes a name depends on the SQL mode.
    QuotedName,
    Dot,
    SystemVariable,
    Other,
}

impl<'a> Last<'a> {
    fn word(self, word: &'a [u8]) -> Self {
        if matches!(self, Self::Dot) { Self::Qualified } else { Self::Word(word) }
    }

    /// Whether a parenthesis now begins the arguments of a function that may be a stored one.
    fn is_foreign_call(self) -> bool {
        match self {
            Self::Word(word) => !HARMLESS.iter().chain(CLEARED).chain(RECALLS).any(|f| eq(word, f)),
            Self::Qualified | Self::QuotedName => true,
            Self::Dot | Self::SystemVariable | Self::Other => false,
        }
    }

    fn calls_one_of(self, functions: &[&str]) -> bool {
        matches!(self, Self::Word(word) if functions.iter().any(|f| eq(word, f)))
    }
}

/// What a statement that reads or changes rows leaves in the session: nothing, if it has no variables, `INTO`, locks
/// or calls of unknown functions.
///
/// In `INSERT` and `REPLACE` the table's name, which a list of columns may follow like arguments, stands
/// before the values.
fn left_behind(lexer: Lexer<'_>, name: &'static str) -> Effect {
    let mut ended = false;
    let mut before_values = matches!(name, "INSERT" | "REPLACE");
    let (mut leaves, mut recalls) = (false, false);
    let mut last = Last::Other;
    for token in lexer {
        if ended && token != Token::Other(b';') {
            return Effect::Unknown(name);
        }
        let before = std::mem::replace(&mut last, Last::Other);
        match token {
            Token::Invalid => return Effect::Unknown(name),
            // An assignment to a user variable.
            Token::Other(b':') => leaves = true,
            Token::Word(word) => {
                if eq(word, "procedure") {
                    return Effect::Unknown(name);
                }
                recalls |= eq(word, "sql_calc_found_rows");
                leaves |= (eq(word, "value") && matches!(before, Last::Word(w) if eq(w, "next")))
                    || LEAVES_SOMETHING.iter().any(|w| eq(word, w))
                    || (eq(word, "into") && !before_values);
                if ["values", "value", "select", "set"].iter().any(|w| eq(word, w)) {
                    before_values = false;
                }
                last = before.word(word);
            }
            Token::Other(b'(') if !before_values => {
                if before.is_foreign_call() {
                    return Effect::Unknown(name);
                }
                leaves |= before.calls_one_of(CLEARED);
                recalls |= before.calls_one_of(RECALLS);
            }
            Token::Other(b'.') => last = Last::Dot,
            Token::Quoted { quote: b'`' | b'"', .. } => last = Last::QuotedName,
            Token::Other(b';') => ended = true,
            Token::UserVariable
            | Token::SystemVariable
            | Token::Quoted { .. }
            | Token::Number
            | Token::Other(_) => {}
        }
    }
    match (leaves, recalls) {
        (true, _) => Effect::Cleared(name),
        (false, true) => Effect::Recalls(name),
        (false, false) => Effect::None,
    }
}

/// `CREATE TEMPORARY TABLE` without a query, which could call anything.
fn is_temporary_table(mut lexer: Lexer<'_>) -> bool {
    let is = |token: Option<Token<'_>>, wanted: &str| matches!(token, Some(Token::Word(w)) if eq(w, wanted));
    is(lexer.next(), "temporary")
        && is(lexer.next(), "table")
        && lexer.clone().all(|token| !is(Some(token), "select") && !is(Some(token), "with"))
        && single_statement(lexer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

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
        for text in
            ["SELECT a FROM t", "show tables", "BEGIN", "START TRANSACTION", "USE shop", "SET NAMES utf8"]
        {
            assert!(may_be_repeated(text.as_bytes(), &classify(text.as_bytes())), "{text}");
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
            assert!(!may_be_repeated(text.as_bytes(), &classify(text.as_bytes())), "{text}");
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

    #[test]
    fn loading_a_file_of_the_client_is_recognised() {
        for text in [
            "LOAD DATA LOCAL INFILE 'f' INTO TABLE t",
            "load /* so */ data low_priority local infile 'f' into table t",
            "LOAD XML CONCURRENT LOCAL INFILE 'f' INTO TABLE t",
            "CREATE TABLE t (a INT); LOAD DATA LOCAL INFILE 'f' INTO TABLE t; SELECT 1",
        ] {
            assert!(loads_local_file(text.as_bytes()), "{text}");
        }
        for text in [
            "",
            "LOAD DATA INFILE 'f' INTO TABLE local",
            "SELECT 'LOAD DATA LOCAL INFILE'",
            "SELECT 1 -- ; LOAD DATA LOCAL INFILE 'f' INTO TABLE t",
            "SELECT load FROM data; SELECT local FROM infile",
            "/*!50000 LOAD DATA LOCAL INFILE 'f' INTO TABLE t */",
        ] {
            assert!(!loads_local_file(text.as_bytes()), "{text}");
        }
    }
}
