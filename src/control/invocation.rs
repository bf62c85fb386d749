//! An operation with its arguments: from a line of the console, or from named values of a request.

use super::operation::{Argument, Kind, OPERATIONS, Operation};
use super::refusal::OperationError;
use super::suggestion::nearest;

/// An operation with arguments that are known, complete and of the right kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invocation {
    operation: &'static Operation,
    arguments: Vec<(&'static str, String)>,
}

impl Invocation {
    /// Takes named values, as a request has them.
    ///
    /// # Errors
    /// A value that the operation does not know or that is given twice, one that is missing, or one of the wrong
    /// kind; the message names it and says what was expected.
    pub fn new(
        operation: &'static Operation,
        given: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, OperationError> {
        let mut arguments: Vec<(&'static str, String)> = Vec::new();
        for (name, value) in given {
            let Some(argument) = operation.arguments.iter().find(|a| a.name == name) else {
                return Err(unknown_field(operation, &name));
            };
            if arguments.iter().any(|(known, _)| *known == argument.name) {
                return Err(OperationError::bad_request(format!("field {:?} is given twice", argument.name)));
            }
            check(argument, &value)?;
            arguments.push((argument.name, value));
        }
        let missing =
            operation.arguments.iter().find(|a| a.required && !arguments.iter().any(|(n, _)| *n == a.name));
        match missing {
            Some(argument) => Err(OperationError::bad_request(format!(
                "field {:?} is missing; expected {}",
                argument.name,
                argument.kind.expected()
            ))),
            None => Ok(Self { operation, arguments }),
        }
    }

    /// Takes a line of the console; none when the line is blank. A word may be shortened as long as it stays clear.
    ///
    /// # Errors
    /// What is wrong with the line, with a hint.
    pub fn parse(line: &str) -> Result<Option<Self>, OperationError> {
        let tokens: Vec<&str> = line.split_whitespace().collect();
        if tokens.is_empty() {
            return Ok(None);
        }
        let (candidates, used) = narrow(&tokens)?;
        let operation = match candidates[..] {
            [operation] if operation.words.len() == used => operation,
            _ => return Err(incomplete(&candidates, used)),
        };
        let (named, rest) = named(operation, &tokens[used..])?;
        let mut rest = rest.iter();
        let mut arguments = Vec::new();
        for argument in operation.arguments {
            if let Some((_, value)) = named.iter().find(|(name, _)| *name == argument.name) {
                check(argument, value)?;
                arguments.push((argument.name, value.clone()));
                continue;
            }
            let value = match argument.kind {
                Kind::Command => {
                    let words: Vec<&str> = rest.by_ref().copied().collect();
                    Some(words.join(" ")).filter(|words| !words.is_empty())
                }
                Kind::Flag => None,
                Kind::Text => rest.next().map(|word| unquoted(word).to_owned()),
                _ => rest.next().map(|word| (*word).to_owned()),
            };
            match value {
                Some(value) => {
                    check(argument, &value)?;
                    arguments.push((argument.name, value));
                }
                None if argument.required => {
                    let message = format!("missing {}; usage: {}", argument.usage(), operation.usage());
                    return Err(OperationError::bad_request(message));
                }
                None => {}
            }
        }
        if let Some(surplus) = rest.next() {
            let message = format!("unexpected word {}; usage: {}", shown(surplus), operation.usage());
            return Err(OperationError::bad_request(message));
        }
        Ok(Some(Self { operation, arguments }))
    }

    /// The operation.
    pub fn operation(&self) -> &'static Operation {
        self.operation
    }

    /// The value of an argument, if it was given.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.arguments.iter().find(|(known, _)| *known == name).map(|(_, value)| value.as_str())
    }

    /// The values in the order in which they were given, for the log.
    pub(super) fn values(&self) -> String {
        self.arguments.iter().map(|(_, value)| value.as_str()).collect::<Vec<_>>().join(" ")
    }
}

/// The value of a flag that is given.
const SET: &str = "true";

/// Values of arguments, by their names.
type Values = Vec<(&'static str, String)>;

/// Arguments that are given as `--name value`, flags, and the tokens that are left.
fn named<'t>(operation: &Operation, tokens: &[&'t str]) -> Result<(Values, Vec<&'t str>), OperationError> {
    let (mut named, mut rest) = (Vec::new(), Vec::new());
    let mut tokens = tokens.iter();
    while let Some(token) = tokens.next() {
        if !token.starts_with("--") {
            rest.push(*token);
            continue;
        }
        let Some(argument) = operation.arguments.iter().find(|a| a.option() == **token) else {
            let message = format!("unknown option {}; usage: {}", shown(token), operation.usage());
            return Err(OperationError::bad_request(message));
        };
        if argument.kind == Kind::Flag {
            named.push((argument.name, SET.to_owned()));
            continue;
        }
        let Some(value) = tokens.next() else {
            let message = format!("{token}: a value is missing; usage: {}", operation.usage());
            return Err(OperationError::bad_request(message));
        };
        named.push((argument.name, unquoted(value).to_owned()));
    }
    Ok((named, rest))
}

/// `''` stands for an empty text.
fn unquoted(word: &str) -> &str {
    if word == "''" { "" } else { word }
}

/// The operations whose first words are these tokens, and how many words that took. At least one operation.
pub(super) fn narrow(tokens: &[&str]) -> Result<(Vec<&'static Operation>, usize), OperationError> {
    let mut candidates: Vec<&'static Operation> = OPERATIONS.iter().collect();
    for (depth, token) in tokens.iter().enumerate() {
        let mut words: Vec<&'static str> =
            candidates.iter().filter_map(|o| o.words.get(depth).copied()).collect();
        if words.is_empty() {
            return Ok((candidates, depth));
        }
        words.sort_unstable();
        words.dedup();
        let typed = token.to_ascii_lowercase();
        let fitting: Vec<&str> = words.iter().filter(|w| w.starts_with(&typed)).copied().collect();
        let word = match fitting[..] {
            [word] => word,
            _ if fitting.contains(&typed.as_str()) => &typed,
            [] => return Err(unknown_word(&candidates[0].words[..depth], token, &words)),
            _ => {
                let message = format!("{} may mean {}; type help", shown(token), fitting.join(" or "));
                return Err(OperationError::bad_request(message));
            }
        };
        candidates.retain(|o| o.words.get(depth).is_some_and(|w| *w == word));
    }
    Ok((candidates, tokens.len()))
}

fn unknown_word(before: &[&str], token: &str, words: &[&'static str]) -> OperationError {
    let hint = nearest(token, words).map(|word| format!(" did you mean {word:?}?")).unwrap_or_default();
    OperationError::bad_request(if before.is_empty() {
        format!("unknown command {};{hint} type help", shown(token))
    } else {
        let known = words.join(", ");
        format!("unknown word {} after {:?};{hint} expected one of: {known}", shown(token), before.join(" "))
    })
}

fn incomplete(candidates: &[&'static Operation], used: usize) -> OperationError {
    let before = candidates[0].words[..used].join(" ");
    let next: Vec<&str> = candidates.iter().filter_map(|o| o.words.get(used).copied()).collect();
    OperationError::bad_request(format!(
        "incomplete command {before:?}; expected one of: {}",
        next.join(", ")
    ))
}

fn unknown_field(operation: &Operation, name: &str) -> OperationError {
    let known: Vec<&str> = operation.arguments.iter().map(|a| a.name).collect();
    let expected = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
    OperationError::bad_request(format!("unknown field {}; expected {expected}", shown(name)))
}

/// Whether the value is of the argument's kind. Names need not exist; that is found out when the operation runs.
fn check(argument: &Argument, value: &str) -> Result<(), OperationError> {
    let good = match argument.kind {
        Kind::Word(words) => words.contains(&value),
        Kind::Session => value.parse::<u64>().is_ok(),
        Kind::Cluster | Kind::Node => !value.is_empty(),
        Kind::Flag => value == SET,
        Kind::Command | Kind::Text => true,
    };
    if good {
        return Ok(());
    }
    let hint = match argument.kind {
        Kind::Word(words) => nearest(value, words).map(|word| format!("; did you mean {word:?}?")),
        _ => None,
    };
    Err(OperationError::bad_request(format!(
        "{}: {} is wrong; expected {}{}",
        argument.name,
        shown(value),
        argument.kind.expected(),
        hint.unwrap_or_default()
    )))
}

/// A word of the caller's for a message: quoted, without control characters, and not too long.
pub(super) fn shown(text: &str) -> String {
    const LONGEST: usize = 64;
    let mut short: String = text.chars().take(LONGEST).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    format!("{short:?}")
}
