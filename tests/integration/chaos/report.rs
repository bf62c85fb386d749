//! What the clients of a load saw, as numbers: gaps, errors, and whether every acknowledged row is there.

use super::load::{Diary, Records, Role, SCHEMA, Trouble, rows_of};
use crate::harness::Outcome;
use crate::harness::server::Server;
use crate::{Verdict, ensure, same};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::time::{Duration, Instant};

impl Diary {
    /// Every time between two answers, from and to; the last one goes on to the client's own end.
    fn gaps(&self) -> impl Iterator<Item = (Instant, Instant)> {
        let ends = self.acknowledged.iter().map(|(_, at)| *at).chain([self.ended]);
        ends.scan(self.began, |last, at| Some((std::mem::replace(last, at), at)))
    }

    /// Compares with the numbers of the rows that are there.
    fn compare(&self, rows: &BTreeSet<u32>) -> Verdict {
        let whole;
        let rows = if self.role == Role::Transactor {
            whole = self.whole(rows)?;
            &whole
        } else {
            rows
        };
        let acknowledged = || self.acknowledged.iter().map(|(number, _)| *number);
        let lost: Vec<u32> = acknowledged().filter(|number| !rows.contains(number)).collect();
        ensure!(lost.is_empty(), "acknowledged rows of a {:?} are lost: {lost:?}", self.role);
        let sent: BTreeSet<u32> = acknowledged().chain(self.unknown.iter().copied()).collect();
        let more: Vec<&u32> = rows.difference(&sent).collect();
        ensure!(more.is_empty(), "rows that nobody sent: {more:?}");
        // With the table's key a statement that is done twice is refused the second time.
        let twice = self.troubles.iter().find(|trouble| trouble.text.contains("error 1062"));
        ensure!(twice.is_none(), "done twice: {}", twice.map_or("", |trouble| &trouble.text));
        Ok(())
    }

    /// The numbers of the transactions whose rows are there, each with all that it wrote.
    fn whole(&self, rows: &BTreeSet<u32>) -> Outcome<BTreeSet<u32>> {
        let numbers: BTreeSet<u32> = rows.iter().map(|row| row.div_ceil(2)).collect();
        let half: Vec<&u32> =
            numbers.iter().filter(|number| !rows_of(**number).iter().all(|row| rows.contains(row))).collect();
        ensure!(half.is_empty(), "transactions are half done: {half:?}");
        let undone: Vec<&u32> = self.broken.iter().filter(|number| numbers.contains(number)).collect();
        ensure!(undone.is_empty(), "transactions without a COMMIT are done: {undone:?}");
        Ok(numbers)
    }

    /// Whether a transaction that was acknowledged was open all that time.
    fn was_open(&self, from: Instant, to: Instant) -> bool {
        let ends = self.acknowledged.iter().map(|(_, at)| *at);
        self.opened.iter().zip(ends).any(|(began, ended)| *began < from && to < ended)
    }
}

impl Records {
    fn of(&self, role: Role) -> impl Iterator<Item = &Diary> {
        self.diaries.iter().filter(move |diary| diary.role == role)
    }

    /// The longest gap that a client in this role saw in a phase, of those that began, ended or went on in it.
    pub(super) fn gap(&self, role: Role, phase: &str) -> Duration {
        let starts = self.phases.iter().map(|(_, at)| *at);
        let ends = starts.skip(1).map(Some).chain([None]);
        let (from, to) = self
            .phases
            .iter()
            .zip(ends)
            .find_map(|((name, from), to)| (*name == phase).then_some((*from, to)))
            .unwrap_or_else(|| panic!("there was no phase {phase}"));
        let gaps = self.of(role).flat_map(Diary::gaps);
        let within = gaps.filter(|(start, end)| *end >= from && to.is_none_or(|to| *start < to));
        within.map(|(start, end)| end - start).max().unwrap_or_default()
    }

    /// What Spillway adds to the longest gap of the servers themselves.
    pub(super) fn added(&self, phase: &str) -> Duration {
        self.gap(Role::Writer, phase).saturating_sub(self.gap(Role::Direct, phase))
    }

    /// How long after `event` the last of the writers was served.
    pub(super) fn served_after(&self, event: Instant) -> Option<Duration> {
        let first = |diary: &Diary| diary.acknowledged.iter().map(|(_, at)| *at).find(|at| *at >= event);
        let firsts: Option<Vec<Instant>> = self.of(Role::Writer).map(first).collect();
        firsts?.into_iter().max().map(|at| at - event)
    }

    pub(super) fn troubles(&self, role: Role) -> Vec<&Trouble> {
        self.of(role).flat_map(|diary| &diary.troubles).collect()
    }

    /// Fails if Spillway added more than `limit` to the longest gap of the servers themselves.
    pub(super) fn added_at_most(&self, phase: &str, limit: Duration) -> Verdict {
        let added = self.added(phase);
        ensure!(added <= limit, "{phase}: Spillway adds {added:.2?} to the gap of the servers");
        Ok(())
    }

    /// Nobody but writers was told of an error, and each writer of `per_writer` at most: statements that may have had an
    /// effect are not sent twice.
    pub(super) fn no_error_but(&self, per_writer: usize) -> Verdict {
        self.idle.as_ref().map_err(|reason| format!("the idle session: {reason}"))?;
        let read = self.troubles(Role::Reader);
        ensure!(read.is_empty(), "readers were told: {}", kinds(&read));
        for diary in self.of(Role::Writer) {
            let troubles: Vec<_> = diary.troubles.iter().collect();
            ensure!(troubles.len() <= per_writer, "a writer was told: {}", kinds(&troubles));
        }
        Ok(())
    }

    /// At most so many transactions of each client failed: those that were open when something happened to their node.
    pub(super) fn no_transaction_failed_but(&self, per_client: usize) -> Verdict {
        for diary in self.of(Role::Transactor) {
            let troubles: Vec<_> = diary.troubles.iter().collect();
            ensure!(
                troubles.len() <= per_client,
                "a client with transactions was told: {}",
                kinds(&troubles)
            );
        }
        Ok(())
    }

    /// No transaction failed any more from then on.
    pub(super) fn no_transaction_failed_after(&self, event: Instant) -> Verdict {
        let late: Vec<_> = self.of(Role::Transactor).flat_map(|diary| &diary.troubles).collect();
        let late: Vec<_> = late.into_iter().filter(|trouble| trouble.at > event).collect();
        ensure!(late.is_empty(), "too late, clients with transactions were told: {}", kinds(&late));
        Ok(())
    }

    /// Transactions failed only when a phase began, for half a second at most: whoever tries again at once may begin on the
    /// same node again, until Spillway has seen what became of it.
    pub(super) fn transactions_failed_only_at_first(&self) -> Verdict {
        const SEEN: Duration = Duration::from_millis(500);
        let is_first =
            |trouble: &Trouble| self.phases.iter().any(|(_, at)| (*at..*at + SEEN).contains(&trouble.at));
        let late: Vec<_> = self.of(Role::Transactor).flat_map(|diary| &diary.troubles).collect();
        let late: Vec<_> = late.into_iter().filter(|trouble| !is_first(trouble)).collect();
        ensure!(late.is_empty(), "too late, clients with transactions were told: {}", kinds(&late));
        Ok(())
    }

    /// How many clients had a transaction open all that time, which was acknowledged later.
    pub(super) fn finished_later(&self, from: Instant, to: Instant) -> usize {
        self.of(Role::Transactor).filter(|diary| diary.was_open(from, to)).count()
    }

    /// Every acknowledged row is on the node, and no row that nobody sent.
    pub(super) fn check(&self, node: &Server) -> Verdict {
        for diary in self.diaries.iter().filter(|diary| diary.role != Role::Reader) {
            let rows =
                node.sql(&format!("SELECT number FROM {SCHEMA}.ledger WHERE client = {}", diary.client))?;
            let rows: BTreeSet<u32> =
                rows.lines().map(str::parse).collect::<Result<_, _>>().map_err(|e| format!("{e}"))?;
            diary.compare(&rows).map_err(|reason| format!("{}: {reason}", node.name))?;
        }
        Ok(())
    }

    /// Prints what was seen, and how soon writers were served after `event`.
    pub(super) fn print(&self, scenario: &str, event: Option<Instant>) -> Verdict {
        let mut text = format!("\n{scenario}\n");
        for (phase, _) in self.phases.iter().skip(1) {
            let (writers, readers) = (self.gap(Role::Writer, phase), self.gap(Role::Reader, phase));
            let _ =
                write!(text, "  {phase:<12} longest gap of writers {writers:.2?}, of readers {readers:.2?}");
            if self.of(Role::Direct).next().is_some() {
                let (direct, added) = (self.gap(Role::Direct, phase), self.added(phase));
                let _ = write!(text, "; without Spillway {direct:.2?}: {added:.2?} added");
            }
            text.push('\n');
        }
        if let Some(after) = event.and_then(|event| self.served_after(event)) {
            let _ = writeln!(text, "  the last writer was served {after:.2?} after the node took writes");
        }
        let count = |role| self.of(role).map(|diary| diary.acknowledged.len()).sum::<usize>();
        let unknown: usize = self.of(Role::Writer).map(|diary| diary.unknown.len()).sum();
        let _ = writeln!(
            text,
            "  {} rows acknowledged, {unknown} unknown, {} read, {} written without Spillway",
            count(Role::Writer),
            count(Role::Reader),
            count(Role::Direct)
        );
        let sum = |of: fn(&Diary) -> usize| self.of(Role::Transactor).map(of).sum::<usize>();
        let _ = writeln!(
            text,
            "  {} transactions acknowledged, {} broke before COMMIT, {} unknown",
            count(Role::Transactor),
            sum(|diary| diary.broken.len()),
            sum(|diary| diary.unknown.len())
        );
        for (name, role) in [
            ("writers", Role::Writer),
            ("transactions", Role::Transactor),
            ("readers", Role::Reader),
            ("without Spillway", Role::Direct),
        ] {
            let told = self.troubles(role);
            if !told.is_empty() {
                let _ = writeln!(text, "  {name} were told: {}", self.dated(&told));
            }
        }
        if let Err(reason) = &self.idle {
            let _ = writeln!(text, "  the idle session: {reason}");
        }
        super::say(&text)
    }

    /// Errors by kind, with the time from the first event to the first of them.
    fn dated(&self, troubles: &[&Trouble]) -> String {
        let event = self.phases.get(1).map_or(self.phases[0].1, |(_, at)| *at);
        let first = troubles.iter().map(|trouble| trouble.at).min();
        let after = first.map(|at| at.saturating_duration_since(event)).unwrap_or_default();
        format!("{} (the first after {after:.2?})", kinds(troubles))
    }
}

fn kinds(troubles: &[&Trouble]) -> String {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for trouble in troubles {
        *counts.entry(&trouble.text).or_default() += 1;
    }
    let counted: Vec<String> = counts.iter().map(|(text, count)| format!("{count} x {text}")).collect();
    counted.join("; ")
}

/// The report notices what it is there for.
pub(super) fn notices_what_is_wrong() -> Verdict {
    let start = Instant::now();
    let at = |milliseconds| start + Duration::from_millis(milliseconds);
    let diary = |role, answers: &[(u32, u64)], troubles: &[&str]| Diary {
        role,
        client: 1,
        began: start,
        ended: at(1000),
        acknowledged: answers.iter().map(|(number, after)| (*number, at(*after))).collect(),
        unknown: vec![3],
        broken: Vec::new(),
        opened: Vec::new(),
        troubles: troubles.iter().map(|text| Trouble { at: at(500), text: (*text).to_owned() }).collect(),
    };
    let writer = diary(Role::Writer, &[(1, 10), (2, 20), (4, 620), (5, 990)], &[]);
    for rows in [&[1, 2, 4, 5][..], &[1, 2, 3, 4, 5]] {
        writer.compare(&rows.iter().copied().collect())?;
    }
    for (rows, told, wanted) in [
        (&[1, 3, 4, 5][..], "", "lost: [2]"),
        (&[1, 2, 4, 5, 6], "", "nobody sent: [6]"),
        (&[1, 2, 3, 4, 5], "error 1062: Duplicate entry", "done twice"),
    ] {
        let writer = diary(Role::Writer, &[(1, 10), (2, 20), (4, 620), (5, 990)], &[told]);
        let verdict = writer.compare(&rows.iter().copied().collect());
        ensure!(verdict.as_ref().is_err_and(|reason| reason.contains(wanted)), "{wanted}: {verdict:?}");
    }
    let transactions = || Diary {
        broken: vec![4],
        opened: vec![start, at(30)],
        ..diary(Role::Transactor, &[(1, 10), (2, 620)], &[])
    };
    for rows in [&[1, 2, 3, 4][..], &[1, 2, 3, 4, 5, 6]] {
        transactions().compare(&rows.iter().copied().collect())?;
    }
    for (rows, wanted) in [
        (&[1, 2][..], "lost: [2]"),
        (&[1, 2, 3], "half done: [2]"),
        (&[1, 2, 3, 4, 6], "half done: [3]"),
        (&[1, 2, 3, 4, 7, 8], "without a COMMIT are done: [4]"),
        (&[1, 2, 3, 4, 9, 10], "nobody sent: [5]"),
    ] {
        let verdict = transactions().compare(&rows.iter().copied().collect());
        ensure!(verdict.as_ref().is_err_and(|reason| reason.contains(wanted)), "{wanted}: {verdict:?}");
    }
    for (from, to, open) in [(5, 8, true), (5, 15, false), (20, 25, false), (25, 35, false), (35, 600, true)]
    {
        same!(transactions().was_open(at(from), at(to)), open, "a transaction from {from} to {to} ms");
    }
    let told = Diary { troubles: vec![Trouble { at: start, text: "gone".to_owned() }], ..transactions() };
    let records = Records { diaries: vec![told], phases: Vec::new(), idle: Ok(()) };
    records.no_error_but(0)?;
    records.no_transaction_failed_but(1)?;
    ensure!(records.no_transaction_failed_but(0).is_err(), "a transaction failed");
    let direct = diary(Role::Direct, &[(1, 15), (2, 415), (4, 700), (5, 980)], &[]);
    let records = Records {
        diaries: vec![writer, direct],
        phases: vec![("before", start), ("after", at(100))],
        idle: Ok(()),
    };
    same!(records.gap(Role::Writer, "after"), Duration::from_millis(600), "the longest gap");
    same!(records.gap(Role::Writer, "before"), Duration::from_millis(600), "it began before");
    same!(records.added("after"), Duration::from_millis(200), "beyond that without Spillway");
    same!(records.served_after(at(30)), Some(Duration::from_millis(590)), "the first answer");
    same!(records.served_after(at(995)), None, "no answer any more");
    records.no_error_but(0)?;
    let told = diary(Role::Reader, &[], &["error 1927: gone"]);
    let records = Records { diaries: vec![told], phases: Vec::new(), idle: Ok(()) };
    ensure!(records.no_error_but(1).is_err(), "a reader was told of an error");
    Ok(())
}
