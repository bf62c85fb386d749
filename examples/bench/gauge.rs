//! What a process has used: CPU time and resident memory of it and its descendants, from /proc.

use std::collections::HashMap;
use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::harness::Outcome;

/// Microseconds in one tick of `/proc/PID/stat`: `USER_HZ` is 100 on every Linux that runs here.
const TICK_US: u64 = 10_000;

/// CPU time of a process tree so far, user and system together, in microseconds, exact to a tick.
pub(crate) fn cpu_us(pid: u32) -> Outcome<u64> {
    let mut total = 0;
    for pid in tree(pid) {
        let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { continue };
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let field = |n: usize| fields.get(n).and_then(|f| f.parse::<u64>().ok()).unwrap_or(0);
        // utime, stime, cutime, cstime.
        total += (field(11) + field(12) + field(13) + field(14)) * TICK_US;
    }
    if total == 0 && !fs::exists(format!("/proc/{pid}")).unwrap_or(false) {
        return Err(format!("process {pid} is gone"));
    }
    Ok(total)
}

/// Resident memory of a process tree, in kB.
pub(crate) fn rss_kb(pid: u32) -> Outcome<u64> {
    let mut total = 0;
    for pid in tree(pid) {
        let Ok(status) = fs::read_to_string(format!("/proc/{pid}/status")) else { continue };
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        total += line.and_then(|l| l.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0);
    }
    if total == 0 { Err(format!("process {pid} is gone")) } else { Ok(total) }
}

/// The system calls of a process by name, the most frequent first, while `work` runs, and what `work` gave. Counted by
/// strace, under which everything is slow.
pub(crate) fn system_calls<T>(
    pid: u32,
    work: impl FnOnce() -> Outcome<T>,
) -> Outcome<(Vec<(String, u64)>, T)> {
    let mut strace = Command::new("strace");
    strace.args(["-f", "-c", "-q", "-U", "name,calls", "-p", &pid.to_string()]);
    let tracer = strace.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
    let tracer = tracer.map_err(|e| format!("strace: {e}"))?;
    // It attaches within a moment, or not at all.
    std::thread::sleep(Duration::from_secs(1));
    let given = work();
    // Interrupted, it lets the process go and prints what it counted.
    let interrupted = Command::new("kill").args(["-INT", &tracer.id().to_string()]).status();
    let output = tracer.wait_with_output().map_err(|e| format!("strace: {e}"))?;
    let (given, text) = (given?, String::from_utf8_lossy(&output.stderr).into_owned());
    interrupted.map_err(|e| format!("kill: {e}"))?;
    let count = |line: &str| {
        let (name, calls) = line.trim().split_once(char::is_whitespace)?;
        Some((name.to_owned(), calls.trim().parse::<u64>().ok()?)).filter(|(name, _)| name != "total")
    };
    let mut calls: Vec<(String, u64)> = text.lines().filter_map(count).collect();
    calls.sort_by_key(|(_, calls)| std::cmp::Reverse(*calls));
    if calls.is_empty() {
        return Err(text.lines().next().unwrap_or("strace said nothing").to_owned());
    }
    Ok((calls, given))
}

/// A process and all of its descendants.
fn tree(root: u32) -> Vec<u32> {
    let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else { continue };
        let parent = stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(1)?.parse().ok());
        if let Some(parent) = parent {
            children.entry(parent).or_default().push(pid);
        }
    }
    let mut found = vec![root];
    let mut at = 0;
    while let Some(pid) = found.get(at) {
        found.extend(children.get(pid).cloned().unwrap_or_default());
        at += 1;
    }
    found
}
