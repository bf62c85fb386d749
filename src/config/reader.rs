//! Typed reading of a TOML table by hand: every value knows its place, and every key that nobody asked for is found.

use std::cell::RefCell;
use std::ops::RangeInclusive;
use std::time::Duration;

use toml::de::{DeTable, DeValue};

use super::problem::{Place, Report, shown};
use super::suggest::nearest;

/// A table with a fixed set of keys. It remembers which ones were asked for; [`Section::finish`] reports the others.
pub(super) struct Section<'a> {
    report: &'a Report<'a>,
    pub(super) place: Place,
    table: &'a DeTable<'a>,
    asked: RefCell<Vec<&'static str>>,
}

/// One value and its place.
pub(super) struct Field<'a> {
    report: &'a Report<'a>,
    pub(super) place: Place,
    value: &'a DeValue<'a>,
}

/// One entry of a table whose keys are the operator's own words.
pub(super) struct Entry<'a> {
    pub(super) key: &'a str,
    /// Where the key stands, which is the entry's own path.
    pub(super) place: Place,
    pub(super) value: Field<'a>,
}

// === impl Section ===

impl<'a> Section<'a> {
    /// The whole file.
    pub(super) fn root(report: &'a Report<'a>, table: &'a DeTable<'a>) -> Self {
        Self { report, place: Place { at: 0, key: String::new() }, table, asked: RefCell::default() }
    }

    /// The value of `key`, if given.
    pub(super) fn get(&self, key: &'static str) -> Option<Field<'a>> {
        self.asked.borrow_mut().push(key);
        let (name, value) = self.table.get_key_value(key)?;
        Some(Field::new(self.report, &self.place, key, name.span().start, value))
    }

    /// The value of `key`; that it is absent is reported.
    pub(super) fn require(&self, key: &'static str, expected: &str) -> Option<Field<'a>> {
        let field = self.get(key);
        if field.is_none() {
            self.report.conflict(&self.place_of(key), "missing", expected.to_owned(), None);
        }
        field
    }

    /// The value of `key` as `read` sees it, or `default` when it is absent. `None`: wrong, and reported.
    pub(super) fn or<T>(
        &self,
        key: &'static str,
        default: T,
        read: impl FnOnce(&Field<'a>) -> Option<T>,
    ) -> Option<T> {
        match self.get(key) {
            Some(field) => read(&field),
            None => Some(default),
        }
    }

    /// The place where `key` would stand.
    pub(super) fn place_of(&self, key: &str) -> Place {
        self.place.child(key, self.place.at)
    }

    /// Reports every key that was never asked for.
    pub(super) fn finish(&self) {
        let mut known = self.asked.borrow().clone();
        known.sort_unstable();
        known.dedup();
        for key in self.table.keys() {
            let name: &str = key.get_ref();
            if known.binary_search(&name).is_err() {
                let place = self.place.child(name, key.span().start);
                let expected = format!("one of: {}", known.join(", "));
                self.report.suggest(&place, "unknown key", expected, nearest(name, known.iter().copied()));
            }
        }
    }
}

// === impl Field ===

impl<'a> Field<'a> {
    fn new(
        report: &'a Report<'a>,
        parent: &Place,
        name: &str,
        name_at: usize,
        value: &'a toml::Spanned<DeValue<'a>>,
    ) -> Self {
        // A table may be spread over the file: its name is the best place that it has.
        let at = if value.get_ref().is_table() { name_at } else { value.span().start };
        Self { report, place: parent.child(name, at), value: value.get_ref() }
    }

    /// Reports that the value is of another type than `expected`.
    pub(super) fn wrong_type(&self, expected: &str) {
        let found = match self.value {
            DeValue::String(_) => "found a string",
            DeValue::Integer(_) => "found an integer",
            DeValue::Float(_) => "found a float",
            DeValue::Boolean(_) => "found a boolean",
            DeValue::Datetime(_) => "found a date or time",
            DeValue::Array(_) => "found a list",
            DeValue::Table(_) => "found a table",
        };
        self.report.wrong(&self.place, found, expected);
    }

    /// Reports that the value is of the right type but wrong.
    pub(super) fn wrong(&self, message: impl Into<String>, expected: impl Into<String>) {
        self.report.wrong(&self.place, message, expected);
    }

    pub(super) fn is_table(&self) -> bool {
        self.value.is_table()
    }

    /// A table with a fixed set of keys.
    pub(super) fn section(&self) -> Option<Section<'a>> {
        let DeValue::Table(table) = self.value else {
            self.wrong_type("a table");
            return None;
        };
        Some(Section { report: self.report, place: self.place.clone(), table, asked: RefCell::default() })
    }

    /// A table whose keys are the operator's own words, in the order of the file.
    pub(super) fn entries(&self, expected: &str) -> Option<Vec<Entry<'a>>> {
        let DeValue::Table(table) = self.value else {
            self.wrong_type(expected);
            return None;
        };
        let entry = |(key, value): (&'a toml::Spanned<_>, &'a toml::Spanned<DeValue<'a>>)| {
            let name: &'a std::borrow::Cow<'a, str> = key.get_ref();
            let at = key.span().start;
            let place = self.place.child(name, at);
            Entry { key: name, place, value: Field::new(self.report, &self.place, name, at, value) }
        };
        let mut entries: Vec<_> = table.iter().map(entry).collect();
        entries.sort_by_key(|entry| entry.place.at);
        Some(entries)
    }

    /// A list; its elements have the list's own path and their own line.
    pub(super) fn list(&self, expected: &str) -> Option<Vec<Field<'a>>> {
        let DeValue::Array(array) = self.value else {
            self.wrong_type(expected);
            return None;
        };
        let element = |value: &'a toml::Spanned<DeValue<'a>>| Field {
            report: self.report,
            place: Place { at: value.span().start, key: self.place.key.clone() },
            value: value.get_ref(),
        };
        Some(array.iter().map(element).collect())
    }

    /// A string of any content.
    pub(super) fn string(&self, expected: &str) -> Option<&'a str> {
        let text = self.value.as_str();
        if text.is_none() {
            self.wrong_type(expected);
        }
        text
    }

    /// A string that `parse` takes; `what` names it in a message.
    pub(super) fn parsed<T, E>(
        &self,
        what: &str,
        expected: &str,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<T> {
        let text = self.string(expected)?;
        let value = parse(text).ok();
        if value.is_none() {
            self.wrong(format!("{} is not {what}", shown(text)), expected);
        }
        value
    }

    /// One of a few words; `noun` names their sort in a message.
    pub(super) fn word<T: Copy>(&self, noun: &str, words: &[(&str, T)]) -> Option<T> {
        let expected = one_of(words.iter().map(|(word, _)| *word));
        let text = self.string(&expected)?;
        if let Some((_, value)) = words.iter().find(|(word, _)| *word == text) {
            return Some(*value);
        }
        let suggestion = nearest(text, words.iter().map(|(word, _)| *word));
        self.report.suggest(&self.place, format!("unknown {noun} {}", shown(text)), expected, suggestion);
        None
    }

    pub(super) fn boolean(&self) -> Option<bool> {
        let value = self.value.as_bool();
        if value.is_none() {
            self.wrong_type("true or false");
        }
        value
    }

    /// An integer within `range`.
    pub(super) fn integer<T>(&self, range: RangeInclusive<T>) -> Option<T>
    where
        T: Copy + PartialOrd + std::fmt::Display + TryFrom<i128>,
    {
        let expected = format!("an integer from {} to {}", range.start(), range.end());
        let DeValue::Integer(integer) = self.value else {
            self.wrong_type(&expected);
            return None;
        };
        let value = i128::from_str_radix(integer.as_str(), integer.radix()).ok();
        let value = value.and_then(|value| T::try_from(value).ok()).filter(|value| range.contains(value));
        if value.is_none() {
            self.wrong("out of range", expected);
        }
        value
    }

    /// A number within `range`, written with or without a fraction.
    pub(super) fn share(&self, range: RangeInclusive<f64>) -> Option<f64> {
        let expected = format!("a number from {:?} to {:?}", range.start(), range.end());
        let value = match self.value {
            DeValue::Float(float) => float.as_str().parse::<f64>().ok(),
            DeValue::Integer(integer) if integer.radix() == 10 => integer.as_str().parse::<f64>().ok(),
            _ => {
                self.wrong_type(&expected);
                return None;
            }
        };
        // NaN is in no range.
        let value = value.filter(|value| range.contains(value));
        if value.is_none() {
            self.wrong("out of range", expected);
        }
        value
    }

    /// A duration within `range`.
    pub(super) fn duration(&self, range: RangeInclusive<Duration>) -> Option<Duration> {
        self.duration_where(&format!("from {} to {}", human(*range.start()), human(*range.end())), |value| {
            range.contains(&value)
        })
    }

    #[expect(
        clippy::option_option,
        reason = "the outer one is a problem reported, as everywhere in this module"
    )]
    /// A duration within `range`, or `None` for a duration of zero, which stands for `meaning`.
    pub(super) fn duration_or_zero(
        &self,
        range: RangeInclusive<Duration>,
        meaning: &str,
    ) -> Option<Option<Duration>> {
        let limits =
            format!("from {} to {}, or \"0s\" ({meaning})", human(*range.start()), human(*range.end()));
        let value = self.duration_where(&limits, |value| value.is_zero() || range.contains(&value))?;
        Some(Some(value).filter(|value| !value.is_zero()))
    }

    fn duration_where(&self, limits: &str, within: impl Fn(Duration) -> bool) -> Option<Duration> {
        let expected = format!("a duration such as \"250ms\", \"1s\" or \"5m\", {limits}");
        let value = self.parsed("a duration", &expected, humantime::parse_duration)?;
        if !within(value) {
            self.wrong("out of range", expected);
            return None;
        }
        Some(value)
    }
}

/// "one of: a, b".
pub(super) fn one_of<'a>(words: impl IntoIterator<Item = &'a str>) -> String {
    format!("one of: {}", words.into_iter().collect::<Vec<_>>().join(", "))
}

/// A duration as the file writes it.
pub(super) fn human(duration: Duration) -> String {
    humantime::format_duration(duration).to_string()
}
