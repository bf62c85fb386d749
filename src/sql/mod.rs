//! Just enough SQL: a lexer that cannot be fooled by comments, and what a statement does to its session.
//!
//! Only what is positively recognised is given a meaning. Everything else is
//! [`Effect::Unknown`], and unknown means that the session stays where it is.

mod lexer;

pub use lexer::{Lexer, Token};

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
    /// Anything else; the word that says why, such as `CREATE` or `CALL`.
    Unknown(&'static str),
}

/// Functions that neither read nor leave anything in the session. A call of any other function is
/// unknown: it may take a lock, set a variable or be somebody's stored function.
const HARMLESS: &[&str] = &[
    "abs",
    "avg",
    "ceil",
    "ceiling",
    "char_length",
    "coalesce",
    "concat",
    "concat_ws",
    "connection_id",
    "count",
    "curdate",
    "current_date",
    "current_role",
    "current_time",
    "current_timestamp",
    "current_user",
    "curtime",
    "database",
    "date",
    "date_add",
    "date_format",
    "date_sub",
    "day",
    "exists",
    "floor",
    "format",
    "from_unixtime",
    "greatest",
    "group_concat",
    "hour",
    "if",
    "ifnull",
    "in",
    "json_extract",
    "json_object",
    "least",
    "left",
    "length",
    "lower",
    "lpad",
    "ltrim",
    "max",
    "md5",
    "min",
    "minute",
    "mod",
    "month",
    "now",
    "nullif",
    "over",
    "rand",
    "replace",
    "right",
    "round",
    "row_number",
    "rpad",
    "rtrim",
    "schema",
    "second",
    "sha1",
    "sha2",
    "sleep",
    "substr",
    "substring",
    "sum",
    "sysdate",
    "trim",
    "unix_timestamp",
    "upper",
    "user",
    "using",
    "utc_timestamp",
    "uuid",
    "values",
    "version",
    "year",
    "cast",
    "convert",
    "and",
    "or",
    "not",
    "as",
    "from",
    "join",
    "where",
    "select",
    "on",
    "union",
    "all",
    "any",
    "some",
    "varchar",
    "decimal",
    "char",
    "interval",
    "by",
    "when",
    "then",
    "else",
    "case",
    "between",
    "like",
    "is",
    "key",
    "having",
    "distinct",
];

/// Words that leave something behind wherever they stand.
const LEAVES_SOMETHING: &[&str] =
    &["sql_calc_found_rows", "nextval", "lastval", "setval", "outfile", "dumpfile", "procedure", "returning"];

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
        return if set_is_plain(lexer) { Effect::Set } else { Effect::Unknown("SET") };
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
            let inserts = matches!(name, "INSERT" | "REPLACE");
            return if leaves_nothing(lexer, inserts) { Effect::None } else { Effect::Unknown(name) };
        }
    }
    for plain in ["begin", "commit", "rollback", "start", "desc", "describe"] {
        if eq(word, plain) {
            // Whether a transaction is open is told by the status flags of the reply.
            return if single_statement(lexer) { Effect::None } else { Effect::Unknown("statements") };
        }
    }
    Effect::Unknown(name_of(word))
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

fn eq(word: &[u8], lower: &str) -> bool {
    word.eq_ignore_ascii_case(lower.as_bytes())
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

/// `SET` of session variables, names or character set to literals or words.
fn set_is_plain(lexer: Lexer<'_>) -> bool {
    let mut ended = false;
    let mut previous_at = false;
    for token in lexer {
        if ended && token != Token::Other(b';') {
            return false;
        }
        match token {
            Token::Word(word) => {
                let forbidden = ["global", "persist", "persist_only", "password", "role", "default", "statement"]
                    .iter()
                    .any(|w| eq(word, w))
                    // SET TRANSACTION is for the next transaction only.
                    || eq(word, "transaction");
                if forbidden {
                    return false;
                }
                previous_at = false;
            }
            Token::SystemVariable => previous_at = true,
            Token::Quoted { .. } | Token::Number => previous_at = false,
            Token::Other(b'=' | b',' | b':' | b'.' | b'-' | b'+') => {}
            Token::Other(b';') => ended = true,
            // User variables, expressions, calls.
            Token::UserVariable | Token::Other(_) | Token::Invalid => return false,
        }
    }
    !previous_at
}

/// A statement without variables, `INTO`, locks or calls of unknown functions.
///
/// In `INSERT` and `REPLACE` the table's name, which a list of columns may follow like arguments, stands
/// before the values.
fn leaves_nothing(lexer: Lexer<'_>, inserts: bool) -> bool {
    enum Last<'a> {
        Word(&'a [u8]),
        QuotedName,
        Other,
    }
    let mut ended = false;
    let mut before_values = inserts;
    let mut last = Last::Other;
    for token in lexer {
        if ended && token != Token::Other(b';') {
            return false;
        }
        match token {
            Token::UserVariable | Token::Invalid => return false,
            Token::Word(word) => {
                if LEAVES_SOMETHING.iter().any(|w| eq(word, w)) || (eq(word, "into") && !before_values) {
                    return false;
                }
                if ["values", "value", "select", "set"].iter().any(|w| eq(word, w)) {
                    before_values = false;
                }
                last = Last::Word(word);
                continue;
            }
            Token::Other(b'(') if !before_values => match last {
                Last::Word(word) if !HARMLESS.iter().any(|f| eq(word, f)) => return false,
                Last::QuotedName => return false,
                Last::Word(_) | Last::Other => {}
            },
            Token::Quoted { quote: b'`', .. } => {
                last = Last::QuotedName;
                continue;
            }
            Token::Other(b';') => ended = true,
            Token::SystemVariable | Token::Quoted { .. } | Token::Number | Token::Other(_) => {}
        }
        last = Last::Other;
    }
    true
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
            "SET character set latin1",
            "SET @@session.time_zone = '+00:00';",
        ] {
            assert_eq!(classify(text.as_bytes()), Effect::Set, "{text}");
        }
        for text in [
            "SET @x = 1",
            "SET GLOBAL max_connections = 5",
            "SET sql_mode = concat(@@sql_mode, ',ANSI')",
            "SET ROLE admin",
            "SET PASSWORD = 'x'",
            "SET TRANSACTION ISOLATION LEVEL READ COMMITTED",
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
            "INSERT INTO `t` (a) SELECT a FROM s WHERE a IN (1)",
            "REPLACE INTO t SET a = 1",
            "UPDATE t SET a = a + 1 WHERE id = 3",
            "DELETE FROM t WHERE id = 3",
            "BEGIN",
            "START TRANSACTION READ ONLY",
            "commit",
            "",
        ] {
            assert_eq!(classify(text.as_bytes()), Effect::None, "{text}");
        }
    }

    #[test]
    fn what_may_leave_something_is_unknown() {
        for text in [
            "SELECT GET_LOCK('a', 1)",
            "SELECT @x := 1",
            "SELECT a INTO @b FROM t",
            "SELECT a INTO OUTFILE '/tmp/x' FROM t",
            "SELECT SQL_CALC_FOUND_ROWS a FROM t",
            "SELECT my_function(1)",
            "SELECT `my_function`(1)",
            "INSERT INTO t (a) VALUES (my_function(1))",
            "INSERT INTO t (a) VALUES (@x)",
            "SELECT 1; SELECT GET_LOCK('a', 1)",
            "CREATE TEMPORARY TABLE t (a int)",
            "LOCK TABLES t READ",
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
}
