//! The lexer and what statements do. All that is said of a text must hold for texts that differ only in what servers pass
//! over.
#![no_main]

use libfuzzer_sys::fuzz_target;
use spillway::sql::{self, Backslash, Effect, Judge, Judgement, Lexer, Token};
use spillway_fuzz::bounded;

const BACKSLASHES: [Backslash; 3] = [Backslash::Escapes, Backslash::Itself, Backslash::Unknown];

fuzz_target!(|text: &[u8]| {
    let cut = text.first().map_or(0, |first| usize::from(*first) % (text.len() + 1));
    for backslash in BACKSLASHES {
        bounded(text, || statement(text, cut, backslash));
    }
});

/// A token on its own.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Owned {
    Word(Vec<u8>),
    Quoted(u8, Vec<u8>),
    Invalid,
    Other(String),
}

/// The tokens of a text that comes in these pieces, and whether it mattered what a backslash means.
fn tokens(pieces: &[&[u8]], backslash: Backslash) -> (Vec<Owned>, bool) {
    let (mut lexer, mut found) = (Lexer::new(backslash), Vec::new());
    for (number, piece) in pieces.iter().enumerate() {
        let mut rest = *piece;
        while let Some(token) = lexer.next(&mut rest, number + 1 == pieces.len()) {
            found.push(match token {
                Token::Word(word) => Owned::Word(word[..word.len().min(sql::LONGEST_NAME)].to_vec()),
                Token::Quoted { quote, text } => {
                    Owned::Quoted(quote, text[..text.len().min(sql::LONGEST_NAME)].to_vec())
                }
                Token::Invalid => Owned::Invalid,
                other => Owned::Other(format!("{other:?}")),
            });
        }
    }
    (found, lexer.relied_on_backslash())
}

fn judged(pieces: &[&[u8]], backslash: Backslash) -> Judgement {
    let mut judge = Judge::new(backslash);
    for (number, piece) in pieces.iter().enumerate() {
        judge.read(piece, number + 1 == pieces.len());
    }
    judge.end()
}

fn statement(text: &[u8], cut: usize, backslash: Backslash) {
    let (whole, relied) = tokens(&[text], backslash);
    assert!(whole.len() <= text.len());
    if let Some(at) = whole.iter().position(|token| *token == Owned::Invalid) {
        assert_eq!(at + 1, whole.len(), "nothing is guessed behind what is not understood");
    }
    // However the text is cut, it is the same.
    let (begin, end) = text.split_at(cut.min(text.len()));
    assert_eq!(tokens(&[begin, end], backslash), (whole.clone(), relied));
    let judgement = sql::judge(text, backslash);
    assert_eq!(judged(&[begin, end], backslash), judgement);
    let bytes: Vec<&[u8]> = text.chunks(1).collect();
    assert_eq!(judged(if bytes.is_empty() { &[b""] } else { &bytes }, backslash), judgement);
    // What backslashes mean either matters or does not; of what is not understood nothing is said.
    assert_eq!(judgement.relied_on_backslash(), relied);
    if !relied && !matches!(judgement.effect, Effect::Unknown(_)) {
        for other in BACKSLASHES {
            assert_eq!(sql::judge(text, other).effect, judgement.effect);
        }
    }
    if whole.last() == Some(&Owned::Invalid) {
        assert!(matches!(judgement.effect, Effect::Unknown(_)), "{judgement:?} of {whole:?}");
    }
    if matches!(judgement.effect, Effect::Unknown(_) | Effect::Locked | Effect::Cleared(_)) {
        assert!(!judgement.may_be_repeated(), "{judgement:?}");
    }
    let is_use = |effect: &Effect| matches!(effect, Effect::Use(_));
    let plain = sql::judge(text, Backslash::Unknown).effect;
    assert_eq!(sql::used_schema(text).map(Effect::Use), Some(plain).filter(is_use));

    let updates = sql::statements(text, true, backslash);
    assert!((1..=16).contains(&updates.known));
    let facts = |text: &[u8]| {
        let updates = sql::statements(text, true, backslash);
        let judgement = sql::judge(text, backslash);
        (judgement, updates, sql::loads_local_file(text, backslash), sql::names_user_variable(text))
    };
    let plain = facts(text);
    for before in [&b" \t\n"[..], b"/* a comment */", b"# a line\n", b"-- a line\n"] {
        assert_eq!(facts(&[before, text].concat()), plain, "with {before:?} before it");
    }
    // A version comment is one in this case only.
    if text.windows(4).any(|piece| piece.eq_ignore_ascii_case(b"/*m!")) {
        return;
    }
    // Words are the same in any case; names are not.
    let (lower, upper) = (facts(&text.to_ascii_lowercase()), facts(&text.to_ascii_uppercase()));
    let folded = |judgement: Judgement| match judgement.effect {
        Effect::Use(schema) => Effect::Use(schema.to_ascii_lowercase()),
        other => other,
    };
    assert_eq!((lower.1, lower.2, lower.3), (upper.1, upper.2, upper.3));
    assert_eq!(folded(lower.0), folded(upper.0));
}
