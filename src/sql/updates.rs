//! Which statements of a text the servers count as updates (`MAX_UPDATES_PER_HOUR`).
//!
//! Both products go by the kind of statement, whether it changes anything or not. What is not certain here is told to be no
//! update.

use super::lexer::{Backslash, Lexer, Token};

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

/// The tokens of a text from somewhere on.
#[derive(Clone)]
struct Tokens<'a> {
    lexer: Lexer,
    rest: &'a [u8],
}

impl Tokens<'_> {
    fn next(&mut self) -> Option<Token<'_>> {
        self.lexer.next(&mut self.rest, true)
    }

    /// The next token in lower case, if it is a word.
    fn next_word(&mut self) -> Option<Vec<u8>> {
        match self.next() {
            Some(Token::Word(word)) => Some(word.to_ascii_lowercase()),
            _ => None,
        }
    }

    /// Goes behind the next semicolon. Whether there is one.
    fn pass_semicolon(&mut self) -> bool {
        while let Some(token) = self.next() {
            if token == Token::Other(b';') {
                return true;
            }
        }
        false
    }
}

/// Looks at a text. `whole`: nothing of it is missing; otherwise only its first statement is looked at.
pub fn statements(sql: &[u8], whole: bool, backslash: Backslash) -> Statements {
    let mut found = Statements { known: 0, updates: 0 };
    let mut tokens = Tokens { lexer: Lexer::new(backslash), rest: sql };
    loop {
        let word = match tokens.next() {
            Some(Token::Other(b';')) if found.known > 0 => continue,
            Some(Token::Word(word)) => word.to_ascii_lowercase(),
            // One that nobody knows is a statement, too; the end is none behind another one.
            first => {
                found.known += u8::from(first.is_some() || found.known == 0);
                return found;
            }
        };
        if is_update(&word, tokens.clone()) {
            found.updates |= 1 << found.known;
        }
        found.known += 1;
        let goes_on = whole && found.known < MOST && is_single(&word, tokens.clone());
        if !goes_on || !tokens.pass_semicolon() {
            return found;
        }
    }
}

fn is_one_of(word: &[u8], words: &[&str]) -> bool {
    words.iter().any(|known| known.as_bytes() == word)
}

fn is_update(word: &[u8], mut behind: Tokens<'_>) -> bool {
    if is_one_of(word, UPDATES) {
        return true;
    }
    let objects = match word {
        b"create" => CREATED,
        b"alter" => ALTERED,
        b"drop" => DROPPED,
        b"load" => &["data", "xml"],
        // MariaDB counts all but the one of everything.
        b"revoke" => return behind.next_word().is_some_and(|word| word != b"all"),
        _ => return false,
    };
    behind.next_word().is_some_and(|word| is_one_of(&word, objects))
}

fn is_single(word: &[u8], mut behind: Tokens<'_>) -> bool {
    if word == b"begin" {
        // Otherwise it may begin a block of statements.
        return match behind.next() {
            Some(Token::Other(b';')) => true,
            Some(Token::Word(next)) => next.eq_ignore_ascii_case(b"work"),
            _ => false,
        };
    }
    is_one_of(word, UPDATES) || is_one_of(word, SINGLE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// One letter for each statement that is known.
    fn of(sql: &str) -> String {
        let found = statements(sql.as_bytes(), true, Backslash::Escapes);
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
        // Where it is not known what a backslash means, nothing behind it is an update.
        let unclear = statements(b"select 'a\\'; insert into t values (1)", true, Backslash::Unknown);
        assert!(!(0..MOST).any(|number| unclear.is_update(number)));
        assert_eq!(of(&"select 1;".repeat(100)).len(), 16);
        assert_eq!(statements(b"insert into t values (1); select 'an", false, Backslash::Unknown).known, 1);
    }

    proptest! {
        #[test]
        fn no_input_panics(text: Vec<u8>, whole: bool) {
            let found = statements(&text, whole, Backslash::Unknown);
            prop_assert!((1..=MOST).contains(&found.known));
        }

        #[test]
        fn no_text_panics(text in "[a-z ;']{0,40}") {
            prop_assert!((1..=MOST).contains(&statements(text.as_bytes(), true, Backslash::Unknown).known));
        }
    }
}
