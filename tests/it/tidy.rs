//! Rules of the house that a compiler does not know, as tests: crate arrows, sizes, module docs,
//! kinds that stay at home, documents in step with the code.
//!
//! Reads the checkout as text; never runs or parses anything as Rust. A rule that needs an
//! exception names it in a constant here, with the reason.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use tidemill_connectors::failpoint;
use tidemill_contract::metric;

/// Crate folder → crates of ours it may depend on.
const ARROWS: &[(&str, &[&str])] = &[
    ("pipeline/contract", &[]),
    ("sql", &["tidemill-contract"]),
    ("connectors", &["tidemill-contract"]),
    ("pipeline/runtime", &["tidemill-contract", "tidemill-sql", "tidemill-connectors"]),
    (
        "pipeline/server",
        &["tidemill-contract", "tidemill-sql", "tidemill-connectors", "tidemill-runtime"],
    ),
    (
        "tests",
        &[
            "tidemill",
            "tidemill-contract",
            "tidemill-sql",
            "tidemill-connectors",
            "tidemill-runtime",
        ],
    ),
    ("benches", &["tidemill-contract", "tidemill-sql", "tidemill-connectors", "tidemill-runtime"]),
];

/// The whole allow-list of the contract: it must stay light, everyone waits for it.
const CONTRACT_DEPENDENCIES: &[&str] =
    &["arrow-array", "arrow-schema", "async-trait", "bytes", "serde", "serde_json", "thiserror"];

/// Crate folder → libraries it must not see.
const FORBIDDEN_DEPENDENCIES: &[(&str, &[&str])] = &[
    (
        "sql",
        &["rdkafka", "object_store", "deltalake-core", "reqwest", "axum", "metrics", "tracing"],
    ),
    ("connectors", &["datafusion", "axum", "clap", "metrics"]),
    ("pipeline/runtime", &["rdkafka", "deltalake-core", "axum", "clap", "reqwest"]),
    ("pipeline/server", &["rdkafka", "deltalake-core", "object_store", "datafusion"]),
];

/// Lines of one source file, tests not counted.
const FILE_LINES_MAX: usize = 500;
/// Lines of one file of tests.
const TEST_FILE_LINES_MAX: usize = 800;
/// Files over the limit: path and the size they may not grow beyond. Only ever shrinks.
const LARGE_FILES: &[(&str, usize)] = &[];
/// Files with unsafe code, and why there is no other way.
const UNSAFE: &[(&str, &str)] = &[
    ("benches/src/receive.rs", "the same for the program that only receives"),
    (
        "connectors/src/log/kafka/batch.rs",
        "records in batches; the client's crate has no such call",
    ),
    ("pipeline/server/src/allocator.rs", "an option of the allocator's C library"),
];
/// Lines of the contract crate, all files.
const CONTRACT_LINES_MAX: usize = 2000;

/// Where the name of a source, sink or window kind may stand as a literal besides its own folder,
/// and why.
const KIND_EXCEPTIONS: &[(&str, &str)] = &[
    // The URL scheme `file`, not the connector.
    ("connectors/src/store/mod.rs", "file"),
    // The command-line option `--file`.
    ("pipeline/server/src/cli/sql.rs", "file"),
];

/// Codes that several crates give for the same thing: option values, a name that does not exist,
/// data loss, a bucket or file that does not answer.
const SHARED_CODES: &[&str] =
    &["TM111", "TM112", "TM113", "TM301", "TM501", "TM530", "TM551", "TM561"];

#[test]
fn crates_depend_one_way() {
    let mut faults = Vec::new();
    for (folder, allowed) in ARROWS {
        let dependencies = dependencies(folder);
        for ours in dependencies.iter().filter(|name| name.starts_with("tidemill")) {
            if !allowed.contains(&ours.as_str()) {
                faults.push(format!("{folder} must not depend on {ours}"));
            }
        }
        let forbidden = FORBIDDEN_DEPENDENCIES.iter().find(|(name, _)| name == folder);
        for name in forbidden.map_or(&[][..], |(_, names)| names) {
            if dependencies.contains(*name) {
                faults.push(format!("{folder} must not depend on {name}"));
            }
        }
    }
    for name in dependencies("pipeline/contract") {
        if !CONTRACT_DEPENDENCIES.contains(&name.as_str()) {
            faults.push(format!("the contract must not depend on {name}"));
        }
    }
    let members: BTreeSet<_> = ARROWS.iter().map(|(folder, _)| (*folder).to_string()).collect();
    let manifests: BTreeSet<_> = files("toml")
        .into_iter()
        .filter_map(|path| path.strip_suffix("/Cargo.toml").map(str::to_string))
        .collect();
    assert_eq!(members, manifests, "a crate has no line in ARROWS, or a line no crate");
    none("dependencies", &faults);
}

#[test]
fn there_is_one_binary() {
    let mains: Vec<_> = files("rs")
        .into_iter()
        .filter(|path| path.ends_with("src/main.rs") || path.contains("/src/bin/"))
        .collect();
    assert_eq!(mains, ["pipeline/server/src/main.rs"]);
    assert!(text("pipeline/server/src/main.rs").lines().count() <= 60, "main stays thin");
}

#[test]
fn files_stay_small() {
    let mut faults = Vec::new();
    let allowed: BTreeMap<_, _> = LARGE_FILES.iter().copied().collect();
    for path in files("rs") {
        let text = text(&path);
        let (lines, limit) = if is_test(&path) {
            (text.lines().count(), TEST_FILE_LINES_MAX)
        } else {
            (own_lines(&text), FILE_LINES_MAX)
        };
        match allowed.get(path.as_str()) {
            Some(_) if lines <= limit => faults.push(format!("{path}: delete from LARGE_FILES")),
            Some(&ceiling) if lines > ceiling => {
                faults.push(format!("{path}: {lines} lines, grew beyond its ceiling {ceiling}"));
            }
            None if lines > limit => faults.push(format!("{path}: {lines} lines, limit {limit}")),
            _ => {}
        }
    }
    let contract: usize = files("rs")
        .iter()
        .filter(|path| path.starts_with("pipeline/contract/"))
        .map(|path| text(path).lines().count())
        .sum();
    if contract > CONTRACT_LINES_MAX {
        faults.push(format!("the contract has {contract} lines, limit {CONTRACT_LINES_MAX}"));
    }
    none("sizes", &faults);
}

#[test]
fn every_file_says_what_it_is() {
    let faults: Vec<_> =
        files("rs").into_iter().filter(|path| !text(path).starts_with("//!")).collect();
    none("files that do not start with //!", &faults);
}

#[test]
fn nothing_is_left_for_later() {
    let words = [
        concat!("to", "do!("),
        concat!("unimple", "mented!("),
        concat!("TO", "DO"),
        concat!("FIX", "ME"),
        concat!("XX", "X"),
    ];
    let mut faults = Vec::new();
    for extension in ["rs", "md", "toml", "sh", "sql"] {
        for path in files(extension) {
            for (number, line) in text(&path).lines().enumerate() {
                if words.iter().any(|word| line.contains(word)) {
                    faults.push(format!("{path}:{}: {}", number + 1, line.trim()));
                }
            }
        }
    }
    none("left for later", &faults);
}

/// Adding a kind is a new file and one line in a table: no other code may know its name.
#[test]
fn unsafe_code_is_listed() {
    let allows = |path: &String| text(path).lines().any(|l| l.starts_with("#![allow(unsafe_code"));
    let found: Vec<String> = files("rs").into_iter().filter(allows).collect();
    let listed: Vec<&str> = UNSAFE.iter().map(|(path, _)| *path).collect();
    assert_eq!(found, listed);
}

#[test]
fn kinds_stay_at_home() {
    let mut faults = Vec::new();
    for (home, scope) in [
        ("connectors/src/sources", &["connectors/src", "pipeline"][..]),
        ("connectors/src/sinks", &["connectors/src", "pipeline"]),
        ("sql/src/window", &["sql/src", "pipeline/runtime"]),
    ] {
        for (kind, names) in kinds(home) {
            for path in files("rs").into_iter().filter(|path| !is_test(path)) {
                if !scope.iter().any(|folder| path.starts_with(folder)) || at_home(&path, &kind) {
                    continue;
                }
                let text = text(&path);
                for name in &names {
                    let excepted = KIND_EXCEPTIONS.contains(&(path.as_str(), name.as_str()));
                    if !excepted && own_text(&text).contains(&format!("\"{name}\"")) {
                        faults.push(format!("{path} names the kind \"{name}\" of {home}"));
                    }
                }
            }
        }
    }
    none("kinds that left home", &faults);
}

#[test]
fn metrics_are_documented() {
    let page = text("docs/metrics.md");
    let mut faults = Vec::new();
    for metric in metric::ALL {
        let labels: Vec<_> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
        let row = format!(
            "| `{}` | {} | {} | {} |",
            metric.name,
            metric.kind,
            labels.join(", "),
            metric.help
        );
        if !page.contains(&row) {
            faults.push(format!("docs/metrics.md lacks the row: {row}"));
        }
    }
    let known: BTreeSet<_> = metric::ALL.iter().map(|metric| metric.name).collect();
    for line in page.lines().filter(|line| line.starts_with("| `tidemill_")) {
        let name = line.split('`').nth(1).unwrap_or_default();
        if !known.contains(name) {
            faults.push(format!("docs/metrics.md describes {name}, which does not exist"));
        }
    }
    none("metrics", &faults);
}

#[test]
fn error_codes_are_documented() {
    let used: BTreeSet<_> =
        source_files().iter().flat_map(|path| codes(own_text(&text(path)), '"')).collect();
    let mut documented = BTreeMap::<String, usize>::new();
    for line in text("docs/errors.md").lines() {
        if let Some(code) = line.strip_prefix("| `TM").and_then(|rest| rest.split('`').next()) {
            *documented.entry(format!("TM{code}")).or_default() += 1;
        }
    }
    let mut faults = Vec::new();
    for code in &used {
        if !documented.contains_key(code) {
            faults.push(format!("{code} is not in docs/errors.md"));
        }
    }
    for (code, times) in documented {
        if !used.contains(&code) {
            faults.push(format!("docs/errors.md describes {code}, which no code gives"));
        }
        if times > 1 {
            faults.push(format!("docs/errors.md describes {code} {times} times"));
        }
    }
    none("error codes", &faults);
}

/// A code is looked up by people: it may not mean one thing here and another there.
#[test]
fn an_error_code_means_one_thing() {
    let mut crates = BTreeMap::<String, BTreeSet<String>>::new();
    for path in source_files() {
        let home = path.split("/src/").next().unwrap_or_default();
        for code in codes(own_text(&text(&path)), '"') {
            crates.entry(code).or_default().insert(home.to_string());
        }
    }
    crates.retain(|code, homes| homes.len() > 1 && !SHARED_CODES.contains(&code.as_str()));
    let faults: Vec<_> = crates
        .into_iter()
        .map(|(code, homes)| format!("{code} is given by {homes:?}; take a free code"))
        .collect();
    none("codes with several meanings", &faults);
}

/// A fail point that is reached at two places, or at none, would leave a step without a test.
#[test]
fn each_fail_point_has_one_place() {
    let phases = ["feed", "ingest", "upload", "commit", "publish", "recover", "clean"];
    let mut places = BTreeMap::<String, Vec<String>>::new();
    for path in source_files().iter().filter(|path| !path.ends_with("/failpoint.rs")) {
        for phase in phases {
            let source = text(path);
            for (at, _) in own_text(&source).match_indices(&format!("\"{phase}.")) {
                let name = source[at + 1..].split('"').next().unwrap_or_default().to_string();
                places.entry(name).or_default().push(path.clone());
            }
        }
    }
    let mut faults = Vec::new();
    for name in failpoint::ALL {
        match places.remove(*name).as_deref() {
            Some([_]) => {}
            Some(several) => faults.push(format!("{name} is at several places: {several:?}")),
            None => faults.push(format!("{name} is nowhere")),
        }
    }
    for (name, paths) in places {
        faults.push(format!("{name} in {paths:?} is not in failpoint::ALL"));
    }
    assert!(failpoint::ALL.len() >= 25);
    none("fail points", &faults);
}

#[test]
fn links_lead_somewhere() {
    let mut faults = Vec::new();
    for path in files("md") {
        let folder = Path::new(&path).parent().map(Path::to_path_buf).unwrap_or_default();
        for target in links(&text(&path)) {
            let target = target.split('#').next().unwrap_or_default();
            let outside = target.contains("://") || target.starts_with("mailto:");
            if !target.is_empty() && !outside && !root().join(&folder).join(target).exists() {
                faults.push(format!("{path} links to {target}, which does not exist"));
            }
        }
    }
    none("links", &faults);
}

#[test]
fn scripts_stop_at_the_first_error() {
    let mut scripts = files("sh");
    scripts.push(".ci/run".to_string());
    let faults: Vec<_> =
        scripts.into_iter().filter(|path| !text(path).contains("\nset -euo pipefail\n")).collect();
    none("scripts without set -euo pipefail", &faults);
}

/// The checkout.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_path_buf()
}

/// A file of the checkout as text.
pub(crate) fn text(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// All files of the checkout with this extension, as sorted relative paths.
pub(crate) fn files(extension: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![root()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if path.is_dir() {
                if !name.starts_with('.') && name != "target" && !name.starts_with("tidemill-data")
                {
                    folders.push(path);
                }
            } else if path.extension().is_some_and(|found| found == extension) {
                let relative = path.strip_prefix(root()).unwrap();
                found.push(relative.to_string_lossy().into_owned());
            }
        }
    }
    found.sort();
    found
}

fn source_files() -> Vec<String> {
    files("rs").into_iter().filter(|path| !is_test(path)).collect()
}

fn is_test(path: &str) -> bool {
    path.starts_with("tests/")
        || path.contains("/tests/")
        || path.ends_with("/tests.rs")
        || path.starts_with("benches/")
}

/// The text before the first `#[cfg(test)]`.
fn own_text(text: &str) -> &str {
    text.split("#[cfg(test)]").next().unwrap_or_default()
}

fn own_lines(text: &str) -> usize {
    own_text(text).lines().count()
}

/// The names in a manifest's dependency tables, dev-dependencies included.
fn dependencies(folder: &str) -> BTreeSet<String> {
    let mut inside = false;
    let mut names = BTreeSet::new();
    for line in text(&format!("{folder}/Cargo.toml")).lines() {
        if line.starts_with('[') {
            inside = line.trim_matches(['[', ']']).ends_with("dependencies");
        } else if inside
            && let Some((name, _)) = line.split_once(['.', ' ', '='])
            && !name.is_empty()
            && !name.starts_with('#')
        {
            names.insert(name.to_string());
        }
    }
    names
}

/// Each kind under a folder: module name → names users may write.
fn kinds(home: &str) -> BTreeMap<String, BTreeSet<String>> {
    let mut kinds = BTreeMap::<String, BTreeSet<String>>::new();
    for path in files("rs").into_iter().filter(|path| path.starts_with(home)) {
        let rest = path[home.len() + 1..].trim_end_matches(".rs");
        let module = rest.split('/').next().unwrap_or_default();
        for line in text(&path).lines() {
            let Some((_, names)) =
                line.split_once("names: &[").or_else(|| line.split_once("name: \""))
            else {
                continue;
            };
            // `names: &["a", "b"]` lists them between quotes, `name: "a"` starts inside one.
            let first = usize::from(line.contains("names: &["));
            let list = names.split(']').next().unwrap_or_default();
            let taken = if first == 1 { usize::MAX } else { 1 };
            let quoted = list.split('"').skip(first).step_by(2).take(taken);
            kinds.entry(module.to_string()).or_default().extend(quoted.map(str::to_string));
        }
    }
    kinds.retain(|_, names| !names.is_empty());
    assert!(!kinds.is_empty() || !root().join(home).exists(), "{home}: no kinds found");
    kinds
}

/// Whether a path is in a kind's own module (a source and a sink may share a name).
fn at_home(path: &str, kind: &str) -> bool {
    ["connectors/src/sources", "connectors/src/sinks", "sql/src/window"].iter().any(|home| {
        path.starts_with(&format!("{home}/{kind}/")) || path == format!("{home}/{kind}.rs")
    })
}

/// Error codes that stand right after `before`.
fn codes(text: &str, before: char) -> Vec<String> {
    text.match_indices(&format!("{before}TM"))
        .filter_map(|(at, _)| text.get(at + 1..at + 6))
        .filter(|code| code[2..].bytes().all(|byte| byte.is_ascii_digit()))
        .map(str::to_string)
        .collect()
}

/// Targets of `[text](target)` outside code blocks.
fn links(text: &str) -> Vec<String> {
    let mut targets = Vec::new();
    let mut code = false;
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            code = !code;
        }
        if code {
            continue;
        }
        for part in line.split("](").skip(1) {
            targets.extend(part.split(')').next().map(str::to_string));
        }
    }
    targets
}

fn none(what: &str, faults: &[String]) {
    assert!(faults.is_empty(), "{what}:\n  {}", faults.join("\n  "));
}
