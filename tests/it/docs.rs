//! The pages keep their promises: every SQL block is registered, every setting is listed, and the
//! README's commands are the ones the gate runs.
//!
//! A page's blocks are one script in order, from an empty catalog. A block marked `sql error`
//! begins with a comment that names the code it must fail with, and leaves nothing behind.

use tidemill_contract::{FaultClass, Result};
use tidemill_sql::catalog::Catalog;
use tidemill_sql::parse::{Parsed, Statement, parse_script};

use crate::tidy::{files, text};

#[test]
fn every_sql_block_registers() {
    let mut faults = Vec::new();
    let mut blocks_seen = 0;
    for page in files("md") {
        let mut catalog = Catalog::new();
        for block in blocks(&text(&page)) {
            blocks_seen += 1;
            let mut trial = catalog.clone();
            let outcome = register(&mut trial, &block.sql);
            let place = format!("{page}:{}", block.line);
            match (outcome, block.expected_code()) {
                (Ok(()), None) => catalog = trial,
                (Ok(()), Some(code)) => faults.push(format!("{place}: no error, not {code}")),
                (Err(error), None) => faults.push(format!("{place}: {error}")),
                (Err(error), Some(code)) if error.code != code => {
                    faults.push(format!("{place}: not {code} but {error}"));
                }
                (Err(_), Some(_)) => {}
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    assert!(blocks_seen > 10, "only {blocks_seen} blocks were found");
}

#[test]
fn the_gate_runs_what_the_readme_says() {
    let readme = text("README.md");
    let gate = text(".ci/run");
    for (marker, command) in [
        ("demo", "cargo run --release -- demo"),
        ("demo-once", "cargo run --release -- demo --once"),
        ("test", "cargo test --release"),
    ] {
        let block = format!("<!-- ci: {marker} -->\n```sh\n{command}\n```\n");
        assert!(readme.contains(&block), "README.md lacks:\n{block}");
    }
    for marker in ["demo-once", "test"] {
        assert!(gate.contains(&format!("readme_command {marker}")), ".ci/run skips {marker}");
    }
}

#[test]
fn every_setting_is_listed() {
    let page = text("docs/config.md");
    for key in tidemill::config::KEYS {
        let default = key.default.map_or_else(String::new, |default| format!("`{default}`"));
        let row = format!("| `{}` | {default} | {} |", key.path, key.help);
        assert!(page.contains(&row), "docs/config.md lacks the row: {row}");
    }
    let rows = page.lines().filter(|line| line.starts_with("| `")).count();
    // The one row more is the free-form `kafka.properties.*`.
    assert_eq!(rows, tidemill::config::KEYS.len() + 1, "docs/config.md lists something unknown");
}

#[test]
fn every_class_of_fault_is_listed() {
    let page = text("docs/dead-letters.md");
    for class in FaultClass::ALL {
        let listed = page.lines().any(|line| {
            line.starts_with(&format!("| `{class}` |"))
                && line.ends_with(&format!("| {} |", class.help()))
        });
        assert!(listed, "docs/dead-letters.md lacks {class}: {}", class.help());
    }
}

/// A fenced block of SQL.
struct Block {
    line: usize,
    is_error: bool,
    sql: String,
}

impl Block {
    fn expected_code(&self) -> Option<&str> {
        let comment = self.sql.lines().next().and_then(|line| line.strip_prefix("-- "));
        self.is_error.then(|| comment.expect("an error block begins with -- CODE"))
    }
}

fn blocks(page: &str) -> Vec<Block> {
    let mut blocks: Vec<Block> = Vec::new();
    let mut inside = false;
    for (number, line) in page.lines().enumerate() {
        match (inside, line) {
            (false, "```sql" | "```sql error") => {
                inside = true;
                let is_error = line.ends_with("error");
                blocks.push(Block { line: number + 1, is_error, sql: String::new() });
            }
            (true, "```") => inside = false,
            (true, line) => {
                if let Some(block) = blocks.last_mut() {
                    block.sql.push_str(line);
                    block.sql.push('\n');
                }
            }
            (false, _) => {}
        }
    }
    blocks
}

/// Reads a script and registers it, options of connectors included.
fn register(catalog: &mut Catalog, sql: &str) -> Result<()> {
    for parsed in parse_script(sql)? {
        check_connectors(&parsed)?;
        catalog.apply(&parsed)?;
    }
    Ok(())
}

fn check_connectors(parsed: &Parsed) -> Result<()> {
    match &parsed.statement {
        // A table with no watermark and no computed column may be a sink's.
        Statement::CreateSource(create) if create.spec.watermark.is_some() => {
            tidemill_connectors::sources::validate(&create.spec)
        }
        Statement::CreateSink(create) => tidemill_connectors::sinks::validate(&create.spec),
        _ => Ok(()),
    }
}
