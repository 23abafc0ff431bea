//! The bugs in `tests/seeded_bugs` still fit the source, so that `tests/seeded_bugs/run` can plant
//! them. What they are for: a test suite that lets a planted bug pass proves nothing.

use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use crate::tidy::{files, root, text};

#[test]
fn every_patch_still_applies() {
    let patches: Vec<String> =
        files("patch").into_iter().filter(|path| path.starts_with("tests/seeded_bugs/")).collect();
    assert!(patches.len() >= 12, "{patches:?}");
    let mut faults = Vec::new();
    for path in &patches {
        let patch = text(path);
        let filter = patch.lines().find_map(|line| line.strip_prefix("Caught by: "));
        if filter.is_none_or(|filter| !is_test(filter)) {
            faults.push(format!("{path} names no test: {filter:?}"));
        }
        // In a copy of the files it touches: the checkout need not be a repository.
        let copy = TempDir::new().unwrap();
        for touched in patch.lines().filter_map(|line| line.strip_prefix("--- a/")) {
            let to = copy.path().join(touched);
            std::fs::create_dir_all(to.parent().unwrap_or(Path::new("."))).unwrap();
            std::fs::copy(root().join(touched), to).unwrap();
        }
        let file = root().join(path);
        let mut git = Command::new("git");
        git.args(["apply", "--check", "--verbose"]).arg(&file).current_dir(copy.path());
        let output = git.env("GIT_CEILING_DIRECTORIES", copy.path()).output().unwrap();
        if !output.status.success() {
            faults.push(format!("{path}: {}", String::from_utf8_lossy(&output.stderr)));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// A filter names a module or the beginning of a test in it.
fn is_test(filter: &str) -> bool {
    let mut parts = filter.split("::").filter(|part| !part.is_empty());
    let Some(mut folder) = parts.next().map(|part| format!("tests/it/{part}")) else {
        return false;
    };
    for part in parts {
        let module = root().join(format!("{folder}.rs"));
        let found = std::fs::read_dir(root().join(&folder)).into_iter().flatten();
        let names = found.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        if let Some(name) = names.filter(|name| name.starts_with(part)).min() {
            folder = format!("{folder}/{}", name.trim_end_matches(".rs"));
        } else {
            let source = std::fs::read_to_string(module).unwrap_or_default();
            return source.contains(&format!("fn {part}"));
        }
    }
    true
}
