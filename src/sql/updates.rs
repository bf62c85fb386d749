//! Which statements of a text the servers count as updates (`MAX_UPDATES_PER_HOUR`).
//!
//! Both products go by the kind of statement, whether it changes anything or not. What is not certain here is told to be no
//! update.

use super::lexer::{Lexer, Token};
use super::{eq, name_of_word};

/// Most statements of one text that are told apart.
const MOST: u8 = 16;

/// The statements of a text, as far as each of them has exactly one result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Statements {
    /// How many are known: one at least.
    pub known: u8,
    updates: u16,
}

impl Statements {
    /// Whether the statement is an update.
    pub fn is_update(self, number: u8) -> bool {
        number < MOST && self.updates & (1 << number) != 0
    }
}

/// Statements that are updates by their first word.
const UPDATES: &[&str] =
    &["insert", "update", "delete", "replace", "truncate", "rename", "grant", "optimize"];

/// What statements that begin with `CREATE`, `ALTER` and `DROP` are about when they are updates on every server.
const CREATED: &[&str] = &[
    "table",
    "temporary",
    "database",
    "schema",
    "view",
    "user",
    "role",
    "index",
    "unique",
    "fulltext",
    "procedure",
    "function",
    "aggregate",
    "trigger",
    "event",
    "sequence",
];
const ALTERED: &[&str] = &["table", "view", "user", "procedure", "function", "event", "sequence"];
const DROPPED: &[&str] = &[
    "table",
    "tables",
    "temporary",
    "database",
    "schema",
    "view",
    "index",
    "procedure",
    "function",
    "event",
    "trigger",
    "user",
    "sequence",
];

/// First words of statements that have one result and hold no others, beside [`UPDATES`].
const SINGLE: &[&str] = &[
    "select",
    "show",
    "set",
    "use",
    "do",
    "commit",
    "rollback",
    "start",
    "savepoint",
    "release",
    "drop",
    "revoke",
    "lock",
    "unlock",
    "load",
    "desc",
    "describe",
    "explain",
    "with",
    "prepare",
    "deallocate",
    "values",
    "table",
];

/// Looks at a text. `whole`: nothing of it is missing; otherwise only its first statement is looked at.
pub fn statements(sql: &[u8], whole: bool) -> Statements {
    let mut found = Statements { known: 0, updates: 0 };
    let mut lexer = Lexer::new(sql);
    loop {
        let first = lexer.next();
        if matches!(first, Some(Token::Other(b';'))) && found.known > 0 {
            continue;
        }
        let Some(Token::Word(word)) = first else {
            // One that nobody knows is a statement, too; the end is none behind another one.
            found.known += u8::from(first.is_some() || found.known == 0);
            return found;
        };
        if is_update(word, lexer.clone()) {
            found.updates |= 1 << found.known;
        }
        found.known += 1;
        let goes_on = whole && found.known < MOST && is_single(word, lexer.clone());
        if !goes_on || !lexer.any(|token| token == Token::Other(b';')) {
            return found;
        }
    }
}

fn is_update(word: &[u8], mut behind: Lexer<'_>) -> bool {
    let is_one_of = |word: &[u8], words: &[&str]| words.iter().any(|w| eq(word, w));
    if is_one_of(word, UPDATES) {
        return true;
    }
    let mut next = || name_of_word(behind.next());
    let objects = match () {
        () if eq(word, "create") => CREATED,
        () if eq(word, "alter") => ALTERED,
        () if eq(word, "drop") => DROPPED,
        () if eq(word, "load") => &["data", "xml"],
        // MariaDB counts all but the one of everything.
        () if eq(word, "revoke") => return next().is_some_and(|word| !eq(word, "all")),
        () => return false,
    };
    next().is_some_and(|word| is_one_of(word, objects))
}

fn is_single(word: &[u8], mut behind: Lexer<'_>) -> bool {
    if eq(word, "begin") {
        // Otherwise it may begin a block of statements.
        return match behind.next() {
            Some(Token::Other(b';')) => true,
            Some(Token::Word(next)) => eq(next, "work"),
            _ => false,
        };
    }
    UPDATES.iter().chain(SINGLE).any(|w| eq(word, w))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// One letter for each statement that is known.
    fn of(sql: &str) -> String {
        let found = statements(sql.as_bytes(), true);
        (0..found.known).map(|number| if found.is_update(number) { 'u' } else { 'q' }).collect()
    }

    #[test]
    fn what_both_servers_count_as_updates_is_known() {
        for text in [
            "INSERT INTO t VALUES (1)",
            "/* so */ update t SET a = 1",
            "delete from nosuch",
            "replace t values (1)",
            "truncate t",
            "load data local infile 'f' into table t",
            "LOAD XML INFILE 'f' INTO TABLE t",
            "rename table a to b",
            "create table t (a int)",
            "create temporary table t (a int)",
            "create unique index i on t (a)",
            "create user u",
            "alter table t add b int",
            "alter user u account lock",
            "drop table if exists t",
            "drop view v",
            "drop database d",
            "grant select on t to u",
            "revoke select on t from u",
            "optimize table t",
        ] {
            assert_eq!(of(text), "u", "{text}");
        }
    }

    #[test]
    fn what_is_an_update_on_some_servers_or_on_none_is_no_update() {
        for text in [
            "",
            "-- nothing",
            "select 1",
            "(select 1)",
            "call p()",
            "execute s",
            "prepare s from 'insert into t values (1)'",
            "begin not atomic insert into t values (1); end",
            "explain update t set a = 1",
            "analyze table t",
            "with x as (select 1) update t set a = 1",
            "/*!50000 insert */ into t values (1)",
            "load index into cache t",
            "create server s foreign data wrapper mysql options (host 'x')",
            "alter database d upgrade data directory name",
            "drop prepare s",
            "drop server s",
            "drop role r",
            "revoke all privileges, grant option from u",
            "set password = 'x'",
            "set statement max_statement_time = 1 for insert into t values (1)",
            "insertion",
        ] {
            assert_eq!(of(text), "q", "{text}");
        }
    }

    #[test]
    fn statements_of_one_text_are_told_apart_while_each_has_one_result() {
        for (text, found) in [
            ("select 1;", "q"),
            ("select 1;; ; -- end", "q"),
            ("begin; insert into t values (';'); commit", "quq"),
            ("BEGIN WORK; delete from t;", "qu"),
            ("insert into t values (1); /*!50000 insert into t values (2) */", "uq"),
            ("insert into t values (1); (select 1); insert into t values (2)", "uq"),
            ("call p(); insert into t values (1)", "q"),
            ("create procedure p() begin insert into t values (1); end; select 1", "u"),
            ("insert into t values ('a\\'); insert into t values (1)", "u"),
        ] {
            assert_eq!(of(text), found, "{text}");
        }
        assert_eq!(of(&"select 1;".repeat(100)).len(), 16);
        assert_eq!(statements(b"insert into t values (1); select 'an", false).known, 1);
    }

    proptest! {
        #[test]
        fn no_input_panics(text: Vec<u8>, whole: bool) {
            let found = statements(&text, whole);
            prop_assert!((1..=MOST).contains(&found.known));
        }

        #[test]
        fn no_text_panics(text in "[a-z ;']{0,40}") {
            prop_assert!((1..=MOST).contains(&statements(text.as_bytes(), true).known));
        }
    }
}
