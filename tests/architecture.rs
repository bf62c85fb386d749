//! The map in `src/lib.rs` is true: imports point up only, every outside crate has its doors, and
//! every file says what it is.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Modules by level; a module may use its own level and those before it.
const LEVELS: &[&[&str]] = &[
    &["ids", "lifecycle", "metrics"],
    &["wire", "sql", "fault", "tls"],
    &["config", "grants", "auth", "topology", "accounts", "routing"],
    &["net", "backend", "session", "monitor", "handover"],
    &["control", "console", "api"],
    &["app"],
    &["main"],
];

/// Modules that must stay pure: no sockets, no tasks, no clock of their own.
const PURE: &[&str] = &["wire", "sql", "fault", "tls", "grants", "auth", "routing"];

/// What pure modules must not name.
const EFFECTS: &[&str] = &["tokio::", "std::net::Tcp", "std::fs", "std::thread", "std::env"];

/// Which modules may use which outside crate. Crates that are not listed may be used nowhere.
const DOORS: &[(&str, &[&str])] = &[
    ("arc_swap", &["accounts", "topology", "session", "handover", "control", "console", "api", "app"]),
    ("aws_lc_rs", &["auth"]),
    ("axum", &["api"]),
    ("base64ct", &["auth"]),
    ("bitflags", &["wire"]),
    ("bytes", &["wire", "net", "backend", "session"]),
    ("clap", &["main"]),
    ("dns_lookup", &["net"]),
    ("ed25519_dalek", &["auth"]),
    ("getrandom", &["auth", "backend", "monitor", "handover"]),
    (
        "humantime",
        &["config", "backend", "session", "monitor", "handover", "control", "console", "api", "app"],
    ),
    ("ipnet", &["config"]),
    ("memchr", &["sql"]),
    ("ppp", &["net"]),
    ("prometheus_client", &["metrics"]),
    ("rustls", &["tls"]),
    ("serde", &["ids", "config", "grants", "topology", "handover", "control", "console", "api"]),
    ("serde_json", &["grants", "control", "console", "api"]),
    ("sha1", &["auth"]),
    ("sha2", &["auth", "grants"]),
    ("socket2", &["net", "backend"]),
    ("subtle", &["auth", "console", "api", "control"]),
    (
        "thiserror",
        &[
            "ids", "wire", "fault", "tls", "config", "grants", "topology", "routing", "net", "backend",
            "monitor", "control", "api", "app", "console",
        ],
    ),
    (
        "tokio",
        &[
            "lifecycle",
            "topology",
            "accounts",
            "net",
            "backend",
            "session",
            "monitor",
            "handover",
            "control",
            "console",
            "api",
            "app",
            "main",
        ],
    ),
    ("tokio_rustls", &["net"]),
    ("toml", &["config"]),
    ("tracing", &["net", "session", "monitor", "handover", "control", "console", "api", "app", "main"]),
    ("tracing_subscriber", &["main"]),
    ("x509_cert", &["tls"]),
    ("zeroize", &["auth", "config", "grants", "backend", "session", "monitor", "console"]),
];

/// Words that name no noun; a module called so is a drawer.
const DRAWERS: &[&str] = &["util", "utils", "common", "helpers", "types", "manager", "misc"];

/// Longest file, in lines, without its tests.
const LONGEST: usize = 600;

struct Source {
    path: PathBuf,
    module: String,
    lines: Vec<String>,
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("source folder") {
            let path = entry.expect("entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let relative = path.strip_prefix(&root).expect("below src");
                let first = relative.components().next().expect("name").as_os_str().to_string_lossy();
                let module = first.trim_end_matches(".rs").to_owned();
                let text = fs::read_to_string(&path).expect("readable source");
                let lines = text.lines().map(str::to_owned).collect();
                found.push(Source { path: relative.to_owned(), module, lines });
            }
        }
    }
    assert!(found.len() > 20, "the sources were not found");
    found
}

fn level(module: &str) -> Option<usize> {
    LEVELS.iter().position(|level| level.contains(&module))
}

/// The lines of a file outside comments, numbered from one, up to its unit tests.
fn code(source: &Source) -> impl Iterator<Item = (usize, &str)> {
    let is_tests = source.path.file_stem().is_some_and(|s| s == "tests")
        || source.path.components().any(|c| c.as_os_str() == "tests");
    let end = if is_tests {
        0
    } else {
        source.lines.iter().position(|l| l.trim() == "#[cfg(test)]").unwrap_or(source.lines.len())
    };
    source.lines[..end]
        .iter()
        .enumerate()
        .map(|(i, line)| (i + 1, line.trim()))
        .filter(|(_, line)| !line.starts_with("//"))
}

fn report(problems: &[String]) {
    assert!(problems.is_empty(), "\n{}\n", problems.join("\n"));
}

#[test]
fn every_module_has_a_level() {
    let mut problems = Vec::new();
    for source in sources() {
        if source.module != "lib" && level(&source.module).is_none() {
            problems.push(format!("src/{}:1: module {} has no level", source.path.display(), source.module));
        }
    }
    report(&problems);
}

#[test]
fn imports_point_up_only() {
    let mut problems = Vec::new();
    for source in sources().iter().filter(|s| s.module != "lib" && s.module != "main") {
        let own = level(&source.module).expect("level");
        for (number, line) in code(source) {
            for used in line.split("crate::").skip(1) {
                let names: Vec<&str> = if let Some(list) = used.strip_prefix('{') {
                    list.split([',', '}']).map(str::trim).collect()
                } else {
                    vec![used]
                };
                for name in names {
                    let name: String =
                        name.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                    if let Some(theirs) = level(&name)
                        && theirs > own
                    {
                        problems.push(format!(
                            "src/{}:{number}: {} (level {}) uses {name} (level {})",
                            source.path.display(),
                            source.module,
                            own + 1,
                            theirs + 1
                        ));
                    }
                }
            }
        }
    }
    report(&problems);
}

#[test]
fn modules_of_one_level_use_each_other_one_way() {
    let mut uses: BTreeMap<(String, String), String> = BTreeMap::new();
    for source in sources().iter().filter(|s| level(&s.module).is_some()) {
        for (number, line) in code(source) {
            for used in line.split("crate::").skip(1) {
                let name: String = used.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                if name != source.module && level(&name).is_some() {
                    let at = format!("src/{}:{number}", source.path.display());
                    uses.entry((source.module.clone(), name)).or_insert(at);
                }
            }
        }
    }
    let problems: Vec<String> = uses
        .iter()
        .filter(|((a, b), _)| a < b)
        .filter_map(|((a, b), at)| {
            let back = uses.get(&(b.clone(), a.clone()))?;
            Some(format!("{at}: {a} uses {b}, and {b} uses {a} at {back}"))
        })
        .collect();
    report(&problems);
}

#[test]
fn outside_crates_are_used_behind_their_doors() {
    let mut problems = Vec::new();
    for source in sources().iter().filter(|s| s.module != "lib") {
        for (number, line) in code(source) {
            for (krate, doors) in DOORS {
                let named = line.match_indices(krate).any(|(at, _)| {
                    let before = line[..at].chars().next_back();
                    let after = &line[at + krate.len()..];
                    let is_start = before.is_none_or(|c| !c.is_alphanumeric() && c != '_' && c != ':');
                    is_start
                        && (after.starts_with("::") || (after.starts_with(';') && line.starts_with("use ")))
                });
                if named && !doors.contains(&source.module.as_str()) {
                    problems.push(format!(
                        "src/{}:{number}: {} is used only in {}",
                        source.path.display(),
                        krate,
                        doors.join(", ")
                    ));
                }
            }
        }
    }
    report(&problems);
}

#[test]
fn every_dependency_has_a_door() {
    let manifest = include_str!("../Cargo.toml");
    let section = manifest.split("[dependencies]").nth(1).expect("dependencies");
    let section = section.split("\n[").next().expect("section");
    let mut problems = Vec::new();
    for line in section.lines().filter(|l| l.contains('=') && !l.starts_with('#')) {
        let name = line.split('=').next().expect("name").trim().replace('-', "_");
        if !DOORS.iter().any(|(krate, _)| *krate == name) {
            problems.push(format!("Cargo.toml: {name} has no door in tests/architecture.rs"));
        }
        if !line.contains('#') {
            problems.push(format!("Cargo.toml: {name} has no reason behind it"));
        }
    }
    report(&problems);
}

#[test]
fn decisions_have_no_effects() {
    let mut problems = Vec::new();
    for source in sources().iter().filter(|s| PURE.contains(&s.module.as_str())) {
        for (number, line) in code(source) {
            for effect in EFFECTS {
                if line.contains(effect) {
                    problems
                        .push(format!("src/{}:{number}: {effect} in a pure module", source.path.display()));
                }
            }
        }
    }
    report(&problems);
}

#[test]
fn every_file_says_what_it_is() {
    let mut problems = Vec::new();
    for source in sources() {
        let stem = source.path.file_stem().expect("name").to_string_lossy().into_owned();
        let is_tests = stem == "tests" || source.path.components().any(|c| c.as_os_str() == "tests");
        if !is_tests && !source.lines.first().is_some_and(|l| l.starts_with("//! ")) {
            problems.push(format!("src/{}:1: the first line is not its //! line", source.path.display()));
        }
        if DRAWERS.contains(&stem.as_str()) {
            problems.push(format!("src/{}:1: {stem} is a drawer, not a noun", source.path.display()));
        }
        let lines = code(&source).last().map_or(0, |(number, _)| number);
        if lines > LONGEST {
            problems.push(format!("src/{}:{lines}: longer than {LONGEST} lines", source.path.display()));
        }
    }
    report(&problems);
}

#[test]
fn the_map_names_every_module() {
    let map = include_str!("../src/lib.rs");
    for module in LEVELS.iter().flat_map(|l| l.iter()).filter(|m| **m != "main") {
        assert!(map.contains(&format!("[`{module}`]")), "src/lib.rs does not name {module}");
        assert!(map.contains(&format!("pub mod {module};")), "src/lib.rs has no module {module}");
    }
}
