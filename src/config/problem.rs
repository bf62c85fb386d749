//! What is wrong with a configuration, where, and what was expected instead.

use std::cell::RefCell;
use std::fmt;
use std::path::{Path, PathBuf};

/// A place in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// The line, counted from one.
    pub line: usize,
    /// The column in characters, counted from one.
    pub column: usize,
}

/// One thing that is wrong. `Display` gives it as one line, without the column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The configuration file.
    pub file: PathBuf,
    /// Where in the file; `None` when the file as a whole is meant.
    pub position: Option<Position>,
    /// The path of the key, such as `service.app.route`; empty when no single key is meant.
    pub key: String,
    /// What is wrong.
    pub message: String,
    /// What would have been right.
    pub expected: Option<String>,
    /// The known word that the misspelt one most resembles.
    pub suggestion: Option<String>,
}

/// Everything that is wrong with a configuration, in the order of the file; never empty. `Display` gives one line for
/// each problem.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigErrors {
    problems: Vec<Problem>,
}

impl ConfigErrors {
    /// The problems, at least one, in the order of the file.
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    pub(super) fn unreadable(file: &Path, why: &str) -> Self {
        Self::whole_file(file, format!("can not be read: {why}"))
    }

    /// The last resort should a value ever be refused without a report of its own.
    pub(super) fn unexplained(file: &Path) -> Self {
        Self::whole_file(file, "is not a complete configuration".to_owned())
    }

    fn whole_file(file: &Path, message: String) -> Self {
        let problem = Problem {
            file: file.to_owned(),
            position: None,
            key: String::new(),
            message,
            expected: None,
            suggestion: None,
        };
        Self { problems: vec![problem] }
    }
}

impl std::error::Error for ConfigErrors {}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problem) in self.problems.iter().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            problem.fmt(f)?;
        }
        Ok(())
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if let Some(position) = self.position {
            write!(f, ":{}", position.line)?;
        }
        if !self.key.is_empty() {
            write!(f, ": {}", self.key)?;
        }
        write!(f, ": {}", self.message)?;
        if let Some(expected) = &self.expected {
            write!(f, "; expected {expected}")?;
        }
        if let Some(suggestion) = &self.suggestion {
            write!(f, " (did you mean \"{suggestion}\"?)")?;
        }
        Ok(())
    }
}

/// A key and where it stands in the text.
#[derive(Clone, Debug)]
pub(super) struct Place {
    /// Offset in bytes from the start of the text.
    pub(super) at: usize,
    /// The path of the key.
    pub(super) key: String,
}

/// How far a problem can be trusted when the text around it is broken.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Weight {
    /// The text is not TOML here.
    Syntax,
    /// The value itself is wrong, whatever the rest of the file says.
    Local,
    /// Wrong by what the rest of the file says, or fails to say.
    Whole,
}

/// What a reading of one text has found so far. Methods take `&self`, so that every reader can hold it.
pub(super) struct Report<'t> {
    origin: &'t Path,
    text: &'t str,
    /// Where each line starts. Looked up rather than counted, for a file that is no TOML at all may have a problem in
    /// each of very many lines.
    lines: Vec<usize>,
    problems: RefCell<Vec<(usize, Weight, Problem)>>,
    warnings: RefCell<Vec<(usize, String)>>,
}

impl<'t> Report<'t> {
    pub(super) fn new(origin: &'t Path, text: &'t str) -> Self {
        let lines =
            std::iter::once(0).chain(text.match_indices('\n').map(|(newline, _)| newline + 1)).collect();
        Self { origin, text, lines, problems: RefCell::default(), warnings: RefCell::default() }
    }

    /// A value that is wrong by itself.
    pub(super) fn wrong(&self, place: &Place, message: impl Into<String>, expected: impl Into<String>) {
        self.suggest(place, message, expected, None);
    }

    /// A value that is wrong by itself, with the word that was probably meant.
    pub(super) fn suggest(
        &self,
        place: &Place,
        message: impl Into<String>,
        expected: impl Into<String>,
        suggestion: Option<&str>,
    ) {
        self.add(Weight::Local, place, message.into(), Some(expected.into()), suggestion);
    }

    /// A thing that is absent, or wrong because of another place in the file.
    pub(super) fn conflict(
        &self,
        place: &Place,
        message: impl Into<String>,
        expected: impl Into<Option<String>>,
        suggestion: Option<&str>,
    ) {
        self.add(Weight::Whole, place, message.into(), expected.into(), suggestion);
    }

    /// What the TOML parser says. Its messages tell what it expected, never what it read.
    pub(super) fn syntax(&self, error: &toml::de::Error) {
        let span = error.span().unwrap_or(0..0);
        let place = Place { at: span.start, key: String::new() };
        if error.message() == "duplicate key" {
            let key = self.text.get(span).filter(|key| is_plain(key));
            let message =
                key.map_or_else(|| "duplicate key".to_owned(), |key| format!("duplicate key {key}"));
            let expected = "each key once in its table".to_owned();
            self.add(Weight::Local, &place, message, Some(expected), None);
            return;
        }
        let (what, expected) = match error.message().split_once(", expected ") {
            Some((what, expected)) => (what, Some(expected.to_owned())),
            None => (error.message(), None),
        };
        self.add(Weight::Syntax, &place, format!("TOML syntax: {what}"), expected, None);
    }

    /// Something allowed but unwise.
    pub(super) fn warn(&self, place: &Place, message: &str) {
        let line = self.position(place.at).line;
        let text = format!("{}:{line}: {}: {message}", self.origin.display(), place.key);
        self.warnings.borrow_mut().push((place.at, text));
    }

    /// The line of a place, for messages that point to a second place.
    pub(super) fn line(&self, place: &Place) -> usize {
        self.position(place.at).line
    }

    /// Ends the reading: the warnings if nothing is wrong, otherwise everything that is.
    ///
    /// From the first syntax error on, the table that the parser recovered may be anything, so only what is wrong by
    /// itself before that place is worth telling besides.
    pub(super) fn finish(self) -> Result<Vec<String>, ConfigErrors> {
        let mut problems = self.problems.into_inner();
        let broken = problems.iter().filter(|(_, w, _)| *w == Weight::Syntax).map(|(at, ..)| *at).min();
        if let Some(broken) = broken {
            problems.retain(|(at, weight, _)| match weight {
                Weight::Syntax => true,
                Weight::Local => *at < broken,
                Weight::Whole => false,
            });
        }
        if problems.is_empty() {
            let mut warnings = self.warnings.into_inner();
            warnings.sort_by_key(|(at, _)| *at);
            return Ok(warnings.into_iter().map(|(_, text)| text).collect());
        }
        problems.sort_by_key(|(at, ..)| *at);
        let mut problems: Vec<Problem> = problems.into_iter().map(|(.., problem)| problem).collect();
        problems.dedup();
        Err(ConfigErrors { problems })
    }

    fn add(
        &self,
        weight: Weight,
        place: &Place,
        message: String,
        expected: Option<String>,
        suggestion: Option<&str>,
    ) {
        let problem = Problem {
            file: self.origin.to_owned(),
            position: Some(self.position(place.at)),
            key: place.key.clone(),
            message,
            expected,
            suggestion: suggestion.map(str::to_owned),
        };
        self.problems.borrow_mut().push((place.at, weight, problem));
    }

    fn position(&self, at: usize) -> Position {
        let at = self.text.floor_char_boundary(at);
        // The line that starts at or before `at`: the first one starts at 0, so there is one.
        let line = self.lines.partition_point(|start| *start <= at).max(1);
        let column = self.text[self.lines[line - 1]..at].chars().count() + 1;
        Position { line, column }
    }
}

/// A text from the file as it may stand in a message. A missing quote can make a text swallow its neighbours, and an
/// address may be written with a password in it; so what looks like more than one plain value is not repeated.
pub(super) fn shown(text: &str) -> String {
    if is_plain(text) { format!("\"{text}\"") } else { "the given text".to_owned() }
}

fn is_plain(text: &str) -> bool {
    const LONGEST: usize = 80;
    text.len() <= LONGEST
        && !text.contains(|c: char| c.is_control() || matches!(c, '"' | '\'' | '=' | '@' | '\\'))
}

impl Place {
    /// The place `at` of the key `name` within this one.
    pub(super) fn child(&self, name: &str, at: usize) -> Self {
        let bare =
            !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
        let name = if bare && is_plain(name) {
            name.to_owned()
        } else if is_plain(name) {
            format!("\"{name}\"")
        } else {
            "?".to_owned()
        };
        Self { at, key: if self.key.is_empty() { name } else { format!("{}.{name}", self.key) } }
    }
}
