//! `KILL` of a connection or of what it runs, by its number.

/// `KILL [HARD | SOFT] [CONNECTION | QUERY] number`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kill {
    /// Whether only the statement is to end.
    pub is_query: bool,
    /// The number of the connection.
    pub number: u32,
    /// The words before the number.
    words: String,
}

impl Kill {
    /// The same for another connection.
    pub fn text_for(&self, number: u32) -> String {
        format!("{} {number}", self.words)
    }
}

/// Reads a text that is nothing else than that, as clients send it: without comments, and from the first byte on.
pub fn kill(sql: &[u8]) -> Option<Kill> {
    const LONGEST: usize = 100;
    if sql.first()? | 0x20 != b'k' || sql.len() > LONGEST {
        return None;
    }
    let text = std::str::from_utf8(sql).ok()?;
    let text = text.trim_end_matches(|c: char| c == ';' || c.is_ascii_whitespace());
    let (words, number) = text.rsplit_once(|c: char| c.is_ascii_whitespace())?;
    if !number.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let number = number.parse().ok()?;
    let lower = words.to_ascii_lowercase();
    let mut all = lower.split_ascii_whitespace().peekable();
    if all.next()? != "kill" {
        return None;
    }
    all.next_if(|word| matches!(*word, "hard" | "soft"));
    let what = all.next_if(|word| matches!(*word, "connection" | "query"));
    // KILL QUERY ID names a query, not a connection.
    all.next().is_none().then(|| Kill { is_query: what == Some("query"), number, words: words.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_clients_send_is_understood() {
        for (text, is_query, again) in [
            ("KILL 5", false, "KILL 9"),
            ("KILL QUERY 5", true, "KILL QUERY 9"),
            ("kill connection 5;", false, "kill connection 9"),
            ("KILL HARD QUERY 5 ; ", true, "KILL HARD QUERY 9"),
            ("Kill soft\n connection\t5", false, "Kill soft\n connection 9"),
        ] {
            let found = kill(text.as_bytes()).expect(text);
            assert_eq!((found.number, found.is_query), (5, is_query), "{text}");
            assert_eq!(found.text_for(9), again);
        }
    }

    #[test]
    fn what_is_anything_else_is_not() {
        for text in [
            "",
            "kill",
            "KILL QUERY ID 5",
            "KILL USER 5",
            "KILL QUERY 5; SELECT 1",
            "KILL 5 + 1",
            "KILL (5)",
            "KILL -5",
            "KILL 4294967296",
            "KILL QUERY HARD 5",
            "KILL /* 6 */ 5",
            " KILL 5",
            "KILLED 5",
        ] {
            assert_eq!(kill(text.as_bytes()), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_input_panics(text: Vec<u8>) {
            let _ = kill(&text);
        }
    }
}
