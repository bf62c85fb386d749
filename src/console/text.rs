//! Answers as text for people: aligned tables, one line for each thing.
//!
//! Names of users and schemas, and the words of servers, come from outside. No control character of theirs reaches
//! the operator's terminal.

use std::fmt::Write as _;
use std::time::Duration;

use serde_json::Value;

use crate::control::OperationError;
use crate::control::answer::{Answer, Cell, Column, Done, Explanation, Table};

/// The longest value that is printed, in characters.
const WIDEST: usize = 1_000;

/// A list of several texts is cut when it is longer than this, in characters.
const WIDEST_LIST: usize = 60;

/// An answer, every line ended.
pub(super) fn answer(answer: &Answer) -> String {
    match answer {
        Answer::Rows(rows) => table(&rows.table()),
        Answer::Version(row) => table(&row.table()),
        Answer::Done(Done { result, changes }) => {
            let mut out = format!("{}\n", clean(result));
            for change in changes {
                let _ = writeln!(out, "  {}", clean(change));
            }
            out
        }
        Answer::Explained(list) => list.iter().map(explanation).collect(),
        Answer::Quit => "bye\n".to_owned(),
    }
}

/// A refusal, every line beginning with `error: `.
pub(super) fn refusal(error: &OperationError) -> String {
    let mut out = format!("error: {}\n", clean(&error.message));
    for detail in &error.details {
        let _ = writeln!(out, "error:   {}", clean(detail));
    }
    out
}

fn explanation(of: &Explanation) -> String {
    let mut out = format!("{}\n  {}\n", of.command, of.help);
    let widest = of.arguments.iter().map(|(usage, _)| usage.len()).max().unwrap_or_default();
    for (usage, help) in &of.arguments {
        let _ = writeln!(out, "  {usage:widest$}  {help}");
    }
    if let Some(api) = &of.api {
        let _ = writeln!(out, "  API: {api}");
    }
    out
}

fn table(table: &Table) -> String {
    let titles = table.columns.iter().map(|c| c.title.to_owned()).collect();
    let row = |values: &Vec<Value>| table.columns.iter().zip(values).map(|(c, v)| cell(c, v)).collect();
    let lines: Vec<Vec<String>> = std::iter::once(titles).chain(table.rows.iter().map(row)).collect();
    let width = |i: usize| lines.iter().map(|line| line[i].chars().count()).max().unwrap_or_default();
    let widths: Vec<usize> = (0..table.columns.len()).map(width).collect();
    let mut out = String::new();
    for line in &lines {
        let mut text = String::new();
        for ((column, value), width) in table.columns.iter().zip(line).zip(&widths) {
            let gap = " ".repeat(width - value.chars().count());
            let is_number = matches!(column.cell, Cell::Number | Cell::Seconds | Cell::MaybeSeconds);
            text.push_str(if text.is_empty() { "" } else { "  " });
            if is_number {
                text.push_str(&gap);
            }
            text.push_str(value);
            if !is_number {
                text.push_str(&gap);
            }
        }
        out.push_str(text.trim_end());
        out.push('\n');
    }
    if table.rows.is_empty() {
        out.push_str("(none)\n");
    }
    out
}

fn cell(column: &Column, value: &Value) -> String {
    match (column.cell, value) {
        (_, Value::Null) => "-".to_owned(),
        (Cell::YesNo, Value::Bool(yes)) => if *yes { "yes" } else { "no" }.to_owned(),
        (Cell::Seconds | Cell::MaybeSeconds, value) => {
            let seconds = Duration::from_secs(value.as_u64().unwrap_or_default());
            humantime::format_duration(seconds).to_string().replace(' ', "")
        }
        (Cell::Texts, Value::Array(texts)) => list(texts),
        (_, Value::String(text)) if text.is_empty() => "''".to_owned(),
        (_, Value::String(text)) => clean(text),
        (_, value) => value.to_string(),
    }
}

/// The texts, as many as fit; when some do not, how many there are in all.
fn list(texts: &[Value]) -> String {
    let mut out = String::new();
    for text in texts.iter().filter_map(Value::as_str) {
        let next = clean(text);
        if !out.is_empty() && out.chars().count() + next.chars().count() > WIDEST_LIST {
            let _ = write!(out, ", … ({} in all)", texts.len());
            return out;
        }
        out.push_str(if out.is_empty() { "" } else { ", " });
        out.push_str(&next);
    }
    if out.is_empty() { "-".to_owned() } else { out }
}

/// The text on one line, bounded, with everything escaped that a terminal might obey.
fn clean(text: &str) -> String {
    let mut out = String::new();
    for (i, c) in text.chars().enumerate() {
        if i == WIDEST {
            out.push('…');
            break;
        }
        // The second half: characters that change the direction of the text around them.
        let obeyed = c.is_control()
            || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        if obeyed {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::answer::{AccountRow, ListenerRow, Rows, SessionRow};
    use proptest::prelude::*;

    fn session(user: &str) -> SessionRow {
        SessionRow {
            id: 7,
            user: Some(user.to_owned()),
            client: "127.0.0.1:40000".to_owned(),
            tls: None,
            service: "app".to_owned(),
            cluster: None,
            node: None,
            schema: Some(String::new()),
            statements: 12_345,
            in_transaction: true,
            pin: None,
            age_seconds: 3723,
        }
    }

    #[test]
    fn columns_are_aligned() {
        let text = answer(&Answer::Rows(Rows::Sessions(vec![session("app"), session("somebody")])));
        assert_eq!(
            text,
            "id  user      client           tls  service  cluster  node  schema  statements  transaction  pin     age\n \
             7  app       127.0.0.1:40000  -    app      -        -     ''           12345  yes          -    1h2m3s\n \
             7  somebody  127.0.0.1:40000  -    app      -        -     ''           12345  yes          -    1h2m3s\n"
        );
        let row = ListenerRow { address: "unix:/a".into(), service: "app".into(), state: "listening" };
        let text = answer(&Answer::Rows(Rows::Listeners(vec![row])));
        assert_eq!(text, "address  service  state\nunix:/a  app      listening\n");
        assert!(answer(&Answer::Rows(Rows::Sessions(Vec::new()))).ends_with("age\n(none)\n"));
    }

    #[test]
    fn a_list_is_cut_with_its_size() {
        let row = AccountRow {
            cluster: "c".into(),
            user: "u".into(),
            host: "%".into(),
            plugins: (0..50).map(|i| format!("plugin{i}")).collect(),
            locked: false,
            default_role: None,
            problem: None,
        };
        let text = answer(&Answer::Rows(Rows::Accounts(vec![row])));
        assert!(text.contains("plugin0, plugin1") && text.contains("… (50 in all)"), "{text}");
    }

    #[test]
    fn an_error_is_marked_on_every_line() {
        let mut error = OperationError::bad_request("two things");
        error.details = vec!["one\nhalf".to_owned(), "two".to_owned()];
        assert_eq!(refusal(&error), "error: two things\nerror:   one\\nhalf\nerror:   two\n");
    }

    proptest! {
        #[test]
        fn nothing_from_outside_moves_the_cursor(user in any::<String>()) {
            let text = answer(&Answer::Rows(Rows::Sessions(vec![session(&user)])));
            prop_assert_eq!(text.lines().count(), 2);
            prop_assert!(text.chars().all(|c| c == '\n' || !c.is_control()));
        }
    }
}
