//! How far a server has come: sets of GTIDs, and coordinates in a binary log; pure.

use std::collections::BTreeMap;
use std::fmt;

/// Transactions by the stream that they belong to, as ranges of numbers in ascending order that do not touch.
///
/// | notation | stream | ranges |
/// |---|---|---|
/// | a position of `MariaDB`, `0-1-100` | the domain | from 1 to the last number |
/// | `gtid_binlog_state` of `MariaDB`, `0-1-90,0-2-100` | domain and server | from 1 to the last number |
/// | a set of `MySQL`, `uuid:1-5:7` or `uuid:tag:1-5` | source and tag | as they are |
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Gtids(BTreeMap<String, Vec<(u64, u64)>>);

/// A place in the binary log of one server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Coordinates {
    /// The file's name, such as `binlog.000012`.
    pub(super) file: String,
    /// In bytes.
    pub(super) offset: u64,
}

// === impl Gtids ===

impl Gtids {
    /// What a position of `MariaDB` stands for, such as `@@gtid_current_pos`.
    pub(super) fn of_position(text: &str) -> Option<Self> {
        Self::of_triples(text, |domain, _| domain.to_owned())
    }

    /// What `@@gtid_binlog_state` of `MariaDB` stands for.
    pub(super) fn of_state(text: &str) -> Option<Self> {
        Self::of_triples(text, |domain, server| format!("{domain}-{server}"))
    }

    fn of_triples(text: &str, stream: impl Fn(&str, &str) -> String) -> Option<Self> {
        let mut all = Self::default();
        for gtid in items(text) {
            let mut parts = gtid.split('-');
            let (domain, server, number) = (parts.next()?, parts.next()?, parts.next()?);
            all.add(stream(domain, server), 1, number.parse().ok()?);
        }
        Some(all)
    }

    /// What a set of `MySQL` stands for, such as `@@gtid_executed`.
    pub(super) fn of_set(text: &str) -> Option<Self> {
        let mut all = Self::default();
        for item in items(text) {
            let mut parts = item.split(':').map(str::trim);
            let source = parts.next()?.to_ascii_lowercase();
            let mut stream = source.clone();
            for part in parts {
                // A tag begins with a letter or an underscore, and ends where the next one begins.
                if part.starts_with(|c: char| c.is_ascii_digit()) {
                    let (first, last) = part.split_once('-').unwrap_or((part, part));
                    all.add(stream.clone(), first.parse().ok()?, last.parse().ok()?);
                } else {
                    stream = format!("{source}:{part}");
                }
            }
        }
        Some(all)
    }

    fn add(&mut self, stream: String, first: u64, last: u64) {
        if last < first {
            return;
        }
        let ranges = self.0.entry(stream).or_default();
        ranges.push((first, last));
        ranges.sort_unstable();
        let mut merged: Vec<(u64, u64)> = Vec::with_capacity(ranges.len());
        for (first, last) in ranges.drain(..) {
            match merged.last_mut() {
                Some(before) if first <= before.1.saturating_add(1) => before.1 = before.1.max(last),
                _ => merged.push((first, last)),
            }
        }
        *ranges = merged;
    }

    /// Both together.
    #[must_use]
    pub(super) fn with(&self, other: &Self) -> Self {
        let mut all = self.clone();
        for (stream, first, last) in other.ranges() {
            all.add(stream.to_owned(), first, last);
        }
        all
    }

    /// What is here and not there.
    #[must_use]
    pub(super) fn without(&self, other: &Self) -> Self {
        let mut rest = Self::default();
        for (stream, mut first, last) in self.ranges() {
            for (from, to) in other.0.get(stream).into_iter().flatten() {
                if *to < first || *from > last {
                    continue;
                }
                if *from > first {
                    rest.add(stream.to_owned(), first, from - 1);
                }
                first = to.saturating_add(1);
            }
            rest.add(stream.to_owned(), first, last);
        }
        rest
    }

    /// Whether everything of the other is here.
    pub(super) fn covers(&self, other: &Self) -> bool {
        other.without(self).is_empty()
    }

    /// Only the streams that `wanted` says.
    #[must_use]
    pub(super) fn only(&self, wanted: impl Fn(&str) -> bool) -> Self {
        Self(
            self.0.iter().filter(|(stream, _)| wanted(stream)).map(|(s, r)| (s.clone(), r.clone())).collect(),
        )
    }

    /// The same in streams of other names.
    #[must_use]
    pub(super) fn renamed(&self, name: impl Fn(&str) -> String) -> Self {
        Self(self.0.iter().map(|(stream, ranges)| (name(stream), ranges.clone())).collect())
    }

    /// Whether there is no transaction.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn ranges(&self) -> impl Iterator<Item = (&str, u64, u64)> {
        self.0.iter().flat_map(|(stream, ranges)| {
            ranges.iter().map(move |(first, last)| (stream.as_str(), *first, *last))
        })
    }
}

impl fmt::Display for Gtids {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words: Vec<String> =
            self.ranges()
                .map(|(stream, first, last)| {
                    if first == last {
                        format!("{stream}:{first}")
                    } else {
                        format!("{stream}:{first}-{last}")
                    }
                })
                .collect();
        f.write_str(if words.is_empty() { "none" } else { "" })?;
        f.write_str(&words.join(","))
    }
}

/// The items of a list with commas, without blanks and line breaks.
fn items(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|item| !item.is_empty())
}

// === impl Coordinates ===

impl Coordinates {
    /// Whether the other place, in the log of the same server, is here or before.
    pub(super) fn reaches(&self, other: &Self) -> bool {
        match (self.number(), other.number()) {
            (Some(own), Some(others)) => (own, self.offset) >= (others, other.offset),
            _ => self.file == other.file && self.offset >= other.offset,
        }
    }

    /// The number of the file. It gets more digits after 999999.
    fn number(&self) -> Option<u64> {
        self.file.rsplit_once('.')?.1.parse().ok()
    }
}

impl fmt::Display for Coordinates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(text: &str) -> Gtids {
        Gtids::of_set(text).expect("a set")
    }

    #[test]
    fn positions_of_mariadb_compare_by_domain() {
        let position = |text| Gtids::of_position(text).expect("a position");
        assert!(position("0-1-100,7-2-5").covers(&position("0-2-100")));
        assert!(!position("0-1-100").covers(&position("0-1-101")));
        assert!(!position("0-1-100").covers(&position("0-1-1,7-2-5")));
        assert!(position("").is_empty() && position("0-1-1").covers(&position("")));
        assert_eq!(Gtids::of_position("0-1"), None);
        assert_eq!(Gtids::of_position("0-1-x"), None);
    }

    #[test]
    fn transactions_that_only_one_server_has_are_named() {
        let state = |text| Gtids::of_state(text).expect("a state");
        // The old primary, server 1, wrote five more that nobody got; the new one went on with the same numbers.
        let rest = state("0-1-105").without(&state("0-1-100,0-2-110"));
        assert_eq!(rest.to_string(), "0-1:101-105");
        assert!(state("0-1-100").without(&state("0-1-100,0-2-110")).is_empty());
    }

    #[test]
    fn sets_of_mysql_are_sets() {
        let all = set("AAAA:1-5:7:9-10,\n bbbb:1-3");
        assert!(all.covers(&set("aaaa:2-4:7")) && !all.covers(&set("aaaa:6")));
        let rest = set("aaaa:1-10").without(&set("aaaa:3-4:8"));
        assert_eq!(rest.to_string(), "aaaa:1-2,aaaa:5-7,aaaa:9-10");
        assert_eq!(set("aaaa:1-3").with(&set("aaaa:4-6,bbbb:1")).to_string(), "aaaa:1-6,bbbb:1");
        assert_eq!(set("aaaa:1-3:tag:1-2:9"), set("aaaa:1-3,aaaa:tag:1-2:9"));
        assert_ne!(set("aaaa:tag:1"), set("aaaa:1"));
        assert_eq!(Gtids::of_set("aaaa:1-x"), None);
        assert_eq!(set("").to_string(), "none");
    }

    #[test]
    fn coordinates_compare_by_the_number_of_the_file() {
        let at = |file: &str, offset| Coordinates { file: file.to_owned(), offset };
        assert!(at("binlog.000010", 4).reaches(&at("binlog.000009", 900)));
        assert!(at("binlog.1000000", 4).reaches(&at("binlog.999999", 900)));
        assert!(!at("binlog.000009", 4).reaches(&at("binlog.000009", 5)));
        assert!(!at("", 4).reaches(&at("binlog.000001", 4)));
    }
}
