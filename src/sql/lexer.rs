//! Splits a text into tokens the way the servers do, as far as classification needs it.
//!
//! The text may come in pieces that are cut anywhere: what a cut leaves open is carried to the next piece, in bounded
//! memory. Comments are passed over. Version comments (`/*! ... */`, `/*M! ... */`) are code for some servers and
//! not for others, so a text that holds one is not guessed at: it ends in [`Token::Invalid`].

use memchr::{memchr, memchr2};

/// Longest name whose text a token tells, in bytes; of a longer one, that it is longer. The servers' longest have 64
/// characters.
pub const LONGEST_NAME: usize = 256;

/// Bytes of a token that are carried from one piece to the next: so many that the closing quote may be taken off and what is
/// left still shows that the name is too long.
const CARRIED: usize = LONGEST_NAME + 2;

/// One token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Token<'a> {
    /// An unquoted word: keyword or name.
    Word(&'a [u8]),
    /// Text in quotes, without them; quotes and escapes inside are as written. Of a text that was cut, the beginning.
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
    /// A quote or comment that does not end, a version comment, a text between dollar signs, or a NUL byte: nobody should
    /// guess.
    Invalid,
}

/// What a backslash means between single quotes. Between double quotes it depends on `ANSI_QUOTES`, too.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Backslash {
    /// The byte behind it belongs to the text, whatever it is.
    Escapes,
    /// Itself: `NO_BACKSLASH_ESCAPES` is in force.
    Itself,
    /// One or the other. A text in which that matters is nobody's to guess.
    #[default]
    Unknown,
}

/// Gives the tokens of a text, piece by piece.
#[derive(Debug, Clone)]
pub struct Lexer {
    backslash: Backslash,
    within: Within,
    /// What a backslash means made a difference, or may have.
    relied: bool,
    /// The beginning of a word or text in quotes that a cut goes through.
    carried: Vec<u8>,
}

/// What the next byte belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Within {
    /// Nothing that was begun.
    Blank,
    /// A word of which some was carried. `digits`: it has only digits so far; `ascii`: no bytes beyond ASCII.
    Word {
        digits: bool,
        ascii: bool,
    },
    Quoted {
        quote: u8,
        behind: Behind,
    },
    /// `-`
    Dash,
    /// `--`
    Dashes,
    /// `/`
    Slash,
    /// `/*`
    CommentStart,
    /// `/*M`
    CommentStartM,
    Comment {
        star: bool,
    },
    /// A comment up to the end of the line.
    Line,
    /// `@`
    At,
    /// Nothing that counts: [`Token::Invalid`] was given.
    Over,
}

/// What the last byte of a text in quotes was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Behind {
    Text,
    /// The next byte is escaped.
    Backslash,
    /// The end, or half of a doubled quote.
    Quote,
}

/// How far a text in quotes goes.
enum Reach {
    /// It ends with the quote before this position.
    Ends(usize),
    /// All of the piece belongs to it.
    GoesOn(Behind),
    Invalid,
}

impl Lexer {
    /// Starts before the first byte.
    pub fn new(backslash: Backslash) -> Self {
        Self { backslash, within: Within::Blank, relied: false, carried: Vec::new() }
    }

    /// Whether the tokens so far could have been others if backslashes meant something else.
    pub fn relied_on_backslash(&self) -> bool {
        self.relied
    }

    /// The next token that ends in this piece; none: the piece is used up. `rest`: what is left of the piece. `last`: nothing
    /// comes behind it.
    #[expect(
        clippy::inline_always,
        reason = "a statement has many tokens, and handing one over costs as much as finding it"
    )]
    #[inline(always)]
    pub fn next<'t, 'a: 't>(&'t mut self, rest: &mut &'a [u8], last: bool) -> Option<Token<'t>> {
        loop {
            let next = rest.first().copied();
            if next.is_none() && !last {
                return None;
            }
            match self.within {
                Within::Blank => {
                    let mut first = next?;
                    while is_blank(first) {
                        *rest = &rest[1..];
                        match rest.first() {
                            Some(next) => first = *next,
                            None => return None,
                        }
                    }
                    if is_word(first) {
                        let (word, behind) = split_word(rest);
                        *rest = behind;
                        if !behind.is_empty() || last {
                            if is_doubtful(word, word.len() <= LONGEST_NAME || word.is_ascii()) {
                                return Some(self.invalid(rest));
                            }
                            return Some(word_token(word, is_number(word)));
                        }
                        self.carried.clear();
                        self.carry(word);
                        self.within = Within::Word { digits: is_number(word), ascii: word.is_ascii() };
                        return None;
                    }
                    *rest = &rest[1..];
                    match first {
                        b'\'' | b'"' | b'`' => {
                            self.carried.clear();
                            self.within = Within::Quoted { quote: first, behind: Behind::Text };
                        }
                        b'#' => self.within = Within::Line,
                        b'-' => self.within = Within::Dash,
                        b'/' => self.within = Within::Slash,
                        b'@' => self.within = Within::At,
                        0 => return Some(self.invalid(rest)),
                        other => return Some(Token::Other(other)),
                    }
                }
                Within::Word { digits, ascii } => {
                    let (word, behind) = split_word(rest);
                    *rest = behind;
                    self.carry(word);
                    let (digits, ascii) = (digits && is_number(word), ascii && word.is_ascii());
                    if behind.is_empty() && !last {
                        self.within = Within::Word { digits, ascii };
                        return None;
                    }
                    if is_doubtful(&self.carried, ascii) {
                        return Some(self.invalid(rest));
                    }
                    self.within = Within::Blank;
                    return Some(word_token(&self.carried, digits));
                }
                Within::Quoted { quote, behind } => match self.reach(quote, behind, rest, last) {
                    Reach::Invalid => return Some(self.invalid(rest)),
                    Reach::GoesOn(behind) => {
                        self.carry(rest);
                        *rest = &[];
                        self.within = Within::Quoted { quote, behind };
                    }
                    Reach::Ends(end) => {
                        let (text, behind) = rest.split_at(end);
                        *rest = behind;
                        self.within = Within::Blank;
                        if self.carried.is_empty() {
                            return Some(Token::Quoted { quote, text: &text[..end - 1] });
                        }
                        self.carry(text);
                        let (_, text) = self.carried.split_last().unwrap_or((&0, &[]));
                        return Some(Token::Quoted { quote, text });
                    }
                },
                Within::Dash => {
                    if next != Some(b'-') {
                        self.within = Within::Blank;
                        return Some(Token::Other(b'-'));
                    }
                    self.within = Within::Dashes;
                    *rest = &rest[1..];
                }
                // Two dashes begin a comment only before white space, a control character or the end.
                Within::Dashes if next.is_none_or(|b| is_blank(b) || b != 0 && b.is_ascii_control()) => {
                    self.within = Within::Line;
                }
                // In some character sets it is a blank.
                Within::Dashes if next.is_some_and(|b| !b.is_ascii()) => return Some(self.invalid(rest)),
                Within::Dashes => {
                    self.within = Within::Dash;
                    return Some(Token::Other(b'-'));
                }
                Within::Line => {
                    let Some(end) = memchr(b'\n', rest) else {
                        *rest = &[];
                        return None;
                    };
                    *rest = &rest[end + 1..];
                    self.within = Within::Blank;
                }
                Within::Slash => {
                    if next != Some(b'*') {
                        self.within = Within::Blank;
                        return Some(Token::Other(b'/'));
                    }
                    self.within = Within::CommentStart;
                    *rest = &rest[1..];
                }
                Within::CommentStart if next == Some(b'M') => {
                    self.within = Within::CommentStartM;
                    *rest = &rest[1..];
                }
                Within::CommentStart | Within::CommentStartM if matches!(next, None | Some(b'!')) => {
                    return Some(self.invalid(rest));
                }
                Within::CommentStart | Within::CommentStartM => {
                    self.within = Within::Comment { star: false };
                }
                Within::Comment { star: true } if next == Some(b'/') => {
                    self.within = Within::Blank;
                    *rest = &rest[1..];
                }
                Within::Comment { .. } => match memchr(b'*', rest) {
                    // Another star, or one behind other bytes.
                    Some(at) => {
                        self.within = Within::Comment { star: true };
                        *rest = &rest[at + 1..];
                    }
                    None if last => return Some(self.invalid(rest)),
                    None => {
                        self.within = Within::Comment { star: false };
                        *rest = &[];
                    }
                },
                Within::At => {
                    self.within = Within::Blank;
                    if next != Some(b'@') {
                        return Some(Token::UserVariable);
                    }
                    *rest = &rest[1..];
                    return Some(Token::SystemVariable);
                }
                Within::Over => {
                    *rest = &[];
                    return None;
                }
            }
        }
    }

    /// How far the text in quotes goes on in `rest`.
    fn reach(&mut self, quote: u8, mut behind: Behind, rest: &[u8], last: bool) -> Reach {
        let escapes = quote != b'`' && self.backslash != Backslash::Itself;
        // With `ANSI_QUOTES`, what stands between double quotes is a name, in which a backslash is itself.
        let unclear = quote == b'"' || self.backslash == Backslash::Unknown;
        self.relied |= self.backslash == Backslash::Itself && quote != b'`';
        let mut at = 0;
        loop {
            match behind {
                Behind::Text => {
                    let open = &rest[at..];
                    let found = if escapes { memchr2(quote, b'\\', open) } else { memchr(quote, open) };
                    let Some(found) = found else {
                        return if last { Reach::Invalid } else { Reach::GoesOn(behind) };
                    };
                    behind = if open[found] == quote { Behind::Quote } else { Behind::Backslash };
                    at += found + 1;
                }
                Behind::Backslash => {
                    match rest.get(at) {
                        None if last => return Reach::Invalid,
                        None => return Reach::GoesOn(behind),
                        Some(escaped) if *escaped == quote && unclear => return Reach::Invalid,
                        Some(escaped) => {
                            self.relied |= *escaped == quote;
                            at += 1;
                        }
                    }
                    behind = Behind::Text;
                }
                Behind::Quote => {
                    match rest.get(at) {
                        None if !last => return Reach::GoesOn(behind),
                        Some(doubled) if *doubled == quote => at += 1,
                        None | Some(_) => return Reach::Ends(at),
                    }
                    behind = Behind::Text;
                }
            }
        }
    }

    fn carry(&mut self, bytes: &[u8]) {
        let room = CARRIED - self.carried.len();
        self.carried.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }

    fn invalid(&mut self, rest: &mut &[u8]) -> Token<'static> {
        *rest = &[];
        self.within = Within::Over;
        Token::Invalid
    }
}

const fn is_blank(b: u8) -> bool {
    matches!(b, b' ' | b'\t' | b'\n' | b'\r' | 0x0B | 0x0C)
}

/// Which bytes words and numbers are made of.
static IN_WORDS: [bool; 256] = {
    let mut table = [false; 256];
    let mut b = 0;
    while b < 256 {
        let byte = b as u8;
        table[b] = byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'$' || byte >= 0x80;
        b += 1;
    }
    table
};

#[inline]
fn is_word(b: u8) -> bool {
    IN_WORDS[usize::from(b)]
}

fn is_number(word: &[u8]) -> bool {
    word.iter().all(u8::is_ascii_digit)
}

fn split_word(bytes: &[u8]) -> (&[u8], &[u8]) {
    bytes.split_at(bytes.iter().position(|b| !is_word(*b)).unwrap_or(bytes.len()))
}

/// Whether nobody should guess where a word ends. `MySQL` takes a text between two `$$` or `$tag$` from 8.0.34 on, for the body of
/// a function; and what a long word has of bytes beyond ASCII, which are blanks in some character sets, may not be there.
#[inline]
fn is_doubtful(word: &[u8], ascii: bool) -> bool {
    let begins_text = || word[1..].contains(&b'$') || word.len() > LONGEST_NAME;
    word.len() > LONGEST_NAME && !ascii || word[0] == b'$' && begins_text()
}

fn word_token(word: &[u8], digits: bool) -> Token<'_> {
    if digits { Token::Number } else { Token::Word(word) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A token that outlives its lexer, as text.
    fn owned(token: Token<'_>) -> String {
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        match token {
            Token::Word(word) => text(word),
            Token::Quoted { quote, text: inside } => format!("{}{}", quote as char, text(inside)),
            Token::Number => "number".to_owned(),
            Token::UserVariable => "@".to_owned(),
            Token::SystemVariable => "@@".to_owned(),
            Token::Other(byte) => format!("other {}", byte as char),
            Token::Invalid => "invalid".to_owned(),
        }
    }

    fn in_pieces(pieces: &[&[u8]], backslash: Backslash) -> Vec<String> {
        let mut lexer = Lexer::new(backslash);
        let mut found = Vec::new();
        for (i, piece) in pieces.iter().enumerate() {
            let mut rest = *piece;
            while let Some(token) = lexer.next(&mut rest, i + 1 == pieces.len()) {
                found.push(owned(token));
            }
            assert!(rest.is_empty());
            assert!(lexer.carried.len() <= CARRIED);
        }
        found
    }

    fn tokens(text: &str) -> Vec<String> {
        in_pieces(&[text.as_bytes()], Backslash::Unknown)
    }

    #[test]
    fn comments_are_no_tokens_but_version_comments_are_not_guessed() {
        assert_eq!(tokens("a/* b */c -- d\n#e\nf--1"), ["a", "c", "f", "other -", "other -", "number"]);
        assert_eq!(tokens("a /*!50000 b */"), ["a", "invalid"]);
        assert_eq!(tokens("a /*M!50000 b */"), ["a", "invalid"]);
        assert_eq!(tokens("a /*M b */ c /***/d/*/*/e"), ["a", "c", "d", "e"]);
        assert_eq!(tokens("a /* b"), ["a", "invalid"]);
        assert_eq!(tokens("a /*/"), ["a", "invalid"]);
        assert_eq!(tokens("a --"), ["a"]);
        assert_eq!(tokens("a ---"), ["a", "other -"]);
    }

    #[test]
    fn what_begins_a_comment_behind_two_dashes_is_what_the_servers_take() {
        assert_eq!(tokens("a --\u{1}'\n b -- '"), ["a", "b"]);
        assert_eq!(tokens("a --\u{7F}'\n b -- '"), ["a", "b"]);
        assert_eq!(tokens("a --\0'\n b -- '").last().map(String::as_str), Some("invalid"));
        // A blank in latin1.
        assert_eq!(in_pieces(&[b"a --\xA0'\n b -- '"], Backslash::Escapes), ["a", "invalid"]);
    }

    #[test]
    fn texts_between_dollar_signs_are_not_guessed() {
        assert_eq!(tokens("a $$ ' $$; b -- '"), ["a", "invalid"]);
        assert_eq!(tokens("a $tag$ ' $tag$; b -- '"), ["a", "invalid"]);
        assert_eq!(tokens(&format!("a ${}$ ' b", "x".repeat(1000))), ["a", "invalid"]);
        assert_eq!(tokens("$a b$$ c$d$e"), ["$a", "b$$", "c$d$e"]);
    }

    #[test]
    fn quotes_hide_what_is_inside() {
        assert_eq!(tokens("'a;b' \"c''d\" `e``f`"), ["'a;b", "\"c''d", "`e``f"]);
        assert_eq!(tokens(r"'a\\b'"), [r"'a\\b"]);
        assert_eq!(tokens(r"`a\` b"), [r"`a\", "b"]);
    }

    #[test]
    fn what_a_backslash_means_is_asked_only_where_it_matters() {
        let escaped = br"'it\'s' b";
        assert_eq!(in_pieces(&[escaped], Backslash::Unknown), ["invalid"]);
        assert_eq!(in_pieces(&[escaped], Backslash::Escapes), [r"'it\'s", "b"]);
        assert_eq!(in_pieces(&[escaped], Backslash::Itself), [r"'it\", "s", "invalid"]);
        assert_eq!(in_pieces(&[br"'it\' b"], Backslash::Itself), [r"'it\", "b"]);
        // It may be a name.
        let double = br#""it\"s""#;
        assert_eq!(in_pieces(&[double], Backslash::Escapes), ["invalid"]);
        assert_eq!(in_pieces(&[double], Backslash::Itself), [r#""it\"#, "s", "invalid"]);
    }

    #[test]
    fn a_cut_at_any_place_changes_nothing() {
        for text in [
            r"SELECT select_1 12 34a $x `na``me` 'it''s' 'it\'s' '\\' '' '''' 'a\nb' é",
            "\"dou\"\"ble\" \"\\x\" '\"' \"'\" `'` x'4D'",
            "a-b--1 -- gone\nc --\td\ne - --x - ---\nf # g ' \nh",
            "a/b /* c */ d /**/ e /***/ f /*/ g */ h /*M i */ j /* M! */k",
            "@a @@b @`c` @'d' @ @@ @@@x",
            "a /*! b */ c",
            "a /*M! b */ c",
            "a /* never",
            "a 'never",
            r"a 'never\'",
            r"a '\",
            "a \0 b",
            "a --\u{1}' \n b --é' c",
            "a $$ b",
            "a $b c$$ $d$",
            "a;b(1,2.5,NULL)",
            "a --",
            "a -",
            "a /",
            "a @",
            "a @@",
            "",
        ] {
            for backslash in [Backslash::Escapes, Backslash::Itself, Backslash::Unknown] {
                let text = text.as_bytes();
                let whole = in_pieces(&[text], backslash);
                for first in 0..=text.len() {
                    let (a, b) = text.split_at(first);
                    assert_eq!(in_pieces(&[a, b], backslash), whole, "{:?}", String::from_utf8_lossy(text));
                    // With nothing between, and nothing behind.
                    assert_eq!(in_pieces(&[a, &[], b, &[]], backslash), whole);
                    for second in 0..=b.len() {
                        let (b, c) = b.split_at(second);
                        assert_eq!(in_pieces(&[a, b, c], backslash), whole);
                    }
                }
                let bytes: Vec<&[u8]> = text.chunks(1).collect();
                if !bytes.is_empty() {
                    assert_eq!(in_pieces(&bytes, backslash), whole);
                }
            }
        }
    }

    #[test]
    fn of_a_long_token_only_the_beginning_is_carried() {
        let name = "x".repeat(1000);
        for text in [name.clone(), format!("`{name}`"), format!("'{name}'")] {
            let (a, b) = text.as_bytes().split_at(500);
            let found = in_pieces(&[a, b, b" end"], Backslash::Unknown);
            assert_eq!(found.len(), 2, "{found:?}");
            assert!((LONGEST_NAME + 1..600).contains(&found[0].len()), "{}", found[0].len());
        }
        let blank = format!("0x{}\u{A0}into", "4".repeat(1000));
        for cut in [0, 1, 500, 1001] {
            let (a, b) = blank.as_bytes().split_at(cut);
            assert_eq!(in_pieces(&[a, b], Backslash::Unknown), ["invalid"]);
        }
        let digits = "1".repeat(1000);
        let (a, b) = digits.as_bytes().split_at(500);
        assert_eq!(in_pieces(&[a, b], Backslash::Unknown), ["number"]);
        assert_ne!(in_pieces(&[a, b, b"x"], Backslash::Unknown), ["number"]);
    }
}
