//! Splits a text into tokens the way the servers do, as far as classification needs it.
//!
//! Comments are passed over. Version comments (`/*! ... */`, `/*M! ... */`) are code for some servers and
//! not for others, so a text that holds one is not guessed at: it ends in [`Token::Invalid`].

/// One token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Token<'a> {
    /// An unquoted word: keyword or name.
    Word(&'a [u8]),
    /// Text in quotes, without them; quotes and escapes inside are as written.
    Quoted {
        /// `'`, `"` or a backtick.
        quote: u8,
        /// What stands between the quotes.
        text: &'a [u8],
    },
    /// A number.
    Number,
    /// `@name` or the `@` of one.
    UserVariable,
    /// `@@`, before a system variable.
    SystemVariable,
    /// Any other byte.
    Other(u8),
    /// A quote or comment that does not end, a version comment, or a NUL byte: nobody should guess.
    Invalid,
}

/// Iterates over the tokens of a text.
#[derive(Debug, Clone)]
pub struct Lexer<'a> {
    rest: &'a [u8],
}

impl<'a> Lexer<'a> {
    /// Starts at the first byte.
    pub fn new(text: &'a [u8]) -> Self {
        Self { rest: text }
    }

    /// Passes over white space and comments. False: a comment that is code or has no end.
    fn skip_blank(&mut self) -> bool {
        loop {
            match self.rest {
                [b' ' | b'\t' | b'\n' | b'\r' | 0x0B | 0x0C, tail @ ..] => self.rest = tail,
                // Two dashes begin a comment only before white space or the end.
                [b'-', b'-'] => self.rest = &[],
                [b'#', ..] | [b'-', b'-', b' ' | b'\t' | b'\n' | b'\r' | 0x0B | 0x0C, ..] => self.skip_line(),
                [b'/', b'*', b'!', ..] | [b'/', b'*', b'M', b'!', ..] => return false,
                [b'/', b'*', tail @ ..] => match tail.windows(2).position(|w| w == b"*/") {
                    Some(end) => self.rest = &tail[end + 2..],
                    None => return false,
                },
                _ => return true,
            }
        }
    }

    fn skip_line(&mut self) {
        let end = self.rest.iter().position(|b| *b == b'\n').map_or(self.rest.len(), |n| n + 1);
        self.rest = &self.rest[end..];
    }

    fn take_while(&mut self, wanted: impl Fn(u8) -> bool) -> &'a [u8] {
        let end = self.rest.iter().position(|b| !wanted(*b)).unwrap_or(self.rest.len());
        let (taken, rest) = self.rest.split_at(end);
        self.rest = rest;
        taken
    }

    fn quoted(&mut self, quote: u8) -> Token<'a> {
        let text = &self.rest[1..];
        let mut at = 0;
        while let Some(b) = text.get(at) {
            // Whether a backslash escapes depends on the SQL mode; a text in which that matters is
            // nobody's to guess.
            if *b == b'\\' && quote != b'`' {
                at += 1;
                if text.get(at).is_some_and(|next| *next == quote) {
                    self.rest = &[];
                    return Token::Invalid;
                }
            } else if *b == quote {
                if text.get(at + 1) != Some(&quote) {
                    self.rest = &text[at + 1..];
                    return Token::Quoted { quote, text: &text[..at] };
                }
                at += 1;
            }
            at += 1;
        }
        self.rest = &[];
        Token::Invalid
    }
}

fn is_word(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b == b'_' || b == b'$' || b >= 0x80
}

impl<'a> Iterator for Lexer<'a> {
    type Item = Token<'a>;

    fn next(&mut self) -> Option<Token<'a>> {
        if !self.skip_blank() {
            self.rest = &[];
            return Some(Token::Invalid);
        }
        let first = *self.rest.first()?;
        Some(match first {
            0 => {
                self.rest = &[];
                Token::Invalid
            }
            b'\'' | b'"' | b'`' => self.quoted(first),
            b'@' => {
                if self.rest.get(1) == Some(&b'@') {
                    self.rest = &self.rest[2..];
                    Token::SystemVariable
                } else {
                    self.rest = &self.rest[1..];
                    Token::UserVariable
                }
            }
            b if is_word(b) => {
                let word = self.take_while(is_word);
                if word.iter().all(u8::is_ascii_digit) { Token::Number } else { Token::Word(word) }
            }
            other => {
                self.rest = &self.rest[1..];
                Token::Other(other)
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(text: &str) -> Vec<Token<'_>> {
        Lexer::new(text.as_bytes()).collect()
    }

    #[test]
    fn comments_are_no_tokens_but_version_comments_are_not_guessed() {
        assert_eq!(
            tokens("a/* b */c -- d\n#e\nf--1"),
            [
                Token::Word(b"a"),
                Token::Word(b"c"),
                Token::Word(b"f"),
                Token::Other(b'-'),
                Token::Other(b'-'),
                Token::Number,
            ]
        );
        assert_eq!(tokens("a /*!50000 b */"), [Token::Word(b"a"), Token::Invalid]);
        assert_eq!(tokens("a /* b"), [Token::Word(b"a"), Token::Invalid]);
    }

    #[test]
    fn quotes_hide_what_is_inside() {
        assert_eq!(
            tokens("'a;b' \"c''d\" `e``f`"),
            [
                Token::Quoted { quote: b'\'', text: b"a;b" },
                Token::Quoted { quote: b'"', text: b"c''d" },
                Token::Quoted { quote: b'`', text: b"e``f" },
            ]
        );
        assert_eq!(tokens(r"'it\'s'"), [Token::Invalid]);
        assert_eq!(tokens(r"'a\\b'"), [Token::Quoted { quote: b'\'', text: br"a\\b" }]);
    }
}
