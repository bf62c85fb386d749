//! The result as a table for people and as a list for programs.

use std::fmt::Write as _;

use serde::Serialize;

use crate::workload::{Kind, WORKLOADS};

/// The medians of one workload on one target.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Figures {
    pub(crate) workload: &'static str,
    pub(crate) target: String,
    /// Statements per second.
    pub(crate) qps: Option<f64>,
    /// 99th percentile, in milliseconds.
    pub(crate) p99_ms: Option<f64>,
    /// The proxy's own CPU time per statement, in microseconds; none for `direct`.
    pub(crate) cpu_us_per_query: Option<f64>,
    /// Resident memory that one idle session adds, in kB.
    pub(crate) rss_kb_per_session: Option<f64>,
    /// What each round gave, in their order; empty for idle sessions.
    #[serde(skip)]
    pub(crate) rounds: Vec<Round>,
}

/// One run of a load on one target.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Round {
    pub(crate) qps: f64,
    pub(crate) p99_ms: f64,
    pub(crate) cpu_us_per_query: Option<f64>,
}

/// The middle value; of an even number the mean of both in the middle. None of nothing.
pub(crate) fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        n if n % 2 == 1 => Some(values[middle]),
        _ => Some(f64::midpoint(values[middle - 1], values[middle])),
    }
}

/// A Markdown document: one table for loads with ratios to HAProxy and to direct, one for idle sessions.
pub(crate) fn markdown(figures: &[Figures], about: &[String]) -> String {
    let mut out = String::from("# Spillway's benchmark\n\n");
    for line in about {
        let _ = writeln!(out, "* {line}");
    }
    out.push_str(
        "\nAbsolute numbers depend on the machine. The targets took turns: a ratio is the median of the ratios within \
         each round.\n\n\
         | workload | target | queries/s | × HAProxy | × direct | p99 ms | × HAProxy | CPU µs/query | × HAProxy |\n\
         |---|---|---:|---:|---:|---:|---:|---:|---:|\n",
    );
    for workload in WORKLOADS.iter().filter(|w| matches!(w.kind, Kind::Load { .. })) {
        let rows: Vec<&Figures> = figures.iter().filter(|f| f.workload == workload.name).collect();
        let of = |target: &str| rows.iter().find(|f| f.target == target);
        for row in &rows {
            // Within each round, since a machine has better and worse moments; then the middle one.
            let ratio = |base: &str, value: fn(&Round) -> Option<f64>| {
                let base = of(base)?;
                let pairs = row.rounds.iter().zip(&base.rounds);
                let ratios = pairs.filter_map(|(mine, other)| Some(value(mine)? / value(other)?));
                median(ratios.filter(|ratio| ratio.is_finite()).collect())
            };
            let _ = writeln!(
                out,
                "| {} | {} | {} | {} | {} | {} | {} | {} | {} |",
                workload.title,
                row.target,
                number(row.qps, 0),
                number(ratio("haproxy", |round| Some(round.qps)), 2),
                number(ratio("direct", |round| Some(round.qps)), 2),
                number(row.p99_ms, 2),
                number(ratio("haproxy", |round| Some(round.p99_ms)), 2),
                number(row.cpu_us_per_query, 1),
                number(ratio("haproxy", |round| round.cpu_us_per_query), 2),
            );
        }
    }
    out.push_str("\n| workload | target | kB RSS per session |\n|---|---|---:|\n");
    for workload in WORKLOADS.iter().filter(|w| matches!(w.kind, Kind::Idle(_))) {
        for row in figures.iter().filter(|f| f.workload == workload.name) {
            let memory = number(row.rss_kb_per_session, 1);
            let _ = writeln!(out, "| {} | {} | {memory} |", workload.title, row.target);
        }
    }
    out
}

fn number(value: Option<f64>, digits: usize) -> String {
    value.map_or_else(|| "–".to_owned(), |v| format!("{v:.digits$}"))
}
