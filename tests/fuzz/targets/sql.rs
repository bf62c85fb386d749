//! The lexer and what statements do. All that is said of a text must hold for texts that differ only in what servers pass
//! over.
#![no_main]

use libfuzzer_sys::fuzz_target;
use spillway::sql::{self, Effect, Lexer, Token};
use spillway_fuzz::bounded;

fuzz_target!(|text: &[u8]| bounded(text, || statement(text)));

fn statement(text: &[u8]) {
    let tokens: Vec<Token<'_>> = Lexer::new(text).collect();
    assert!(tokens.len() <= text.len());
    if let Some(at) = tokens.iter().position(|token| *token == Token::Invalid) {
        assert_eq!(at + 1, tokens.len(), "nothing is guessed behind what is not understood");
    }
    // Each token is a piece of the text, and they stand one behind the other.
    let mut from = 0;
    for token in &tokens {
        let (Token::Word(piece) | Token::Quoted { text: piece, .. }) = token else { continue };
        let at = piece.as_ptr() as usize - text.as_ptr() as usize;
        assert!(at >= from && at + piece.len() <= text.len());
        from = at + piece.len();
    }
    // What was read before a text ends is what is read where it goes on, but for the token at the end.
    let begun = &text[..text.len() / 2];
    let begun: Vec<Token<'_>> = Lexer::new(begun).collect();
    let sure = begun.len().saturating_sub(1);
    assert!(tokens.len() >= sure && begun[..sure] == tokens[..sure], "{begun:?} {tokens:?}");

    let effect = sql::classify(text);
    let is_use = matches!(effect, Effect::Use(_));
    assert_eq!(sql::used_schema(text).map(Effect::Use), Some(effect.clone()).filter(|_| is_use));
    if tokens.last() == Some(&Token::Invalid) {
        assert!(matches!(effect, Effect::Unknown(_)), "{effect:?} of {tokens:?}");
    }
    if matches!(effect, Effect::Unknown(_) | Effect::Locked | Effect::Cleared(_)) {
        assert!(!sql::may_be_repeated(text, &effect), "{effect:?}");
    }
    let facts = |text: &[u8]| {
        let effect = sql::classify(text);
        (
            sql::may_be_repeated(text, &effect),
            sql::loads_local_file(text),
            sql::counts_found_rows(text),
            sql::names_user_variable(text),
            effect,
        )
    };
    let plain = facts(text);
    for before in [&b" \t\n"[..], b"/* a comment */", b"# a line\n", b"-- a line\n"] {
        assert_eq!(facts(&[before, text].concat()), plain, "with {before:?} before it");
    }
    assert_eq!(facts(&[text, b" "].concat()), plain, "with a blank behind it");
    // A version comment is one in this case only.
    if text.windows(4).any(|piece| piece.eq_ignore_ascii_case(b"/*m!")) {
        return;
    }
    // Words are the same in any case; names are not.
    let (lower, upper) = (facts(&text.to_ascii_lowercase()), facts(&text.to_ascii_uppercase()));
    let folded = |effect: Effect| match effect {
        Effect::Use(schema) => Effect::Use(schema.to_ascii_lowercase()),
        other => other,
    };
    assert_eq!((lower.0, lower.1, lower.2, lower.3), (upper.0, upper.1, upper.2, upper.3));
    assert_eq!(folded(lower.4), folded(upper.4));
}
