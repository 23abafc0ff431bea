//! `CREATE ALERT name ON view WHEN condition [FOR n WINDOWS] [BY column, …] [SEVERITY 'level']
//! [NOTIFY channel, …]`: the clauses after the condition in any order, each at most once.

use datafusion::sql::sqlparser::tokenizer::Token;
use tidemill_contract::{Error, Result, Severity};

use super::cursor::Cursor;
use super::suggest::closest;
use super::{AlertSpec, CreateAlert};

/// Longest streak: bounds what a typing mistake can do.
const MAX_WINDOWS: u32 = 100_000;
const LEVELS: &[(&str, Severity)] =
    &[("info", Severity::Info), ("warning", Severity::Warning), ("critical", Severity::Critical)];

/// Reads what follows `CREATE ALERT`.
pub(super) fn create(cursor: &mut Cursor<'_>) -> Result<CreateAlert> {
    let if_not_exists = cursor.if_not_exists();
    let name = cursor.new_name("an alert")?;
    cursor.expect("ON")?;
    let view = cursor.reference("a view")?;
    cursor.expect("WHEN")?;
    let start = cursor.position();
    let condition = cursor.expression()?;
    let (text, span) = cursor.text_since(start);
    let mut spec = AlertSpec {
        name,
        view,
        condition,
        condition_text: text.to_owned(),
        for_windows: 1,
        by: Vec::new(),
        severity: Severity::Warning,
        notify: Vec::new(),
        span: Some(span),
    };
    clauses(cursor, &mut spec)?;
    Ok(CreateAlert { spec, if_not_exists })
}

fn clauses(cursor: &mut Cursor<'_>, spec: &mut AlertSpec) -> Result<()> {
    const WORDS: &[&str] = &["FOR", "BY", "SEVERITY", "NOTIFY"];
    let mut seen: Vec<&str> = Vec::new();
    while !cursor.at_end() {
        let Some(word) = WORDS.iter().find(|word| cursor.is_word(0, word)) else {
            return Err(cursor.expected_one_of(WORDS));
        };
        let span = cursor.span();
        if seen.contains(word) {
            return Err(Error::invalid("TM123", format!("{word} is given twice"))
                .at(Some(span))
                .help("remove one of them"));
        }
        seen.push(word);
        cursor.take();
        match *word {
            "FOR" => spec.for_windows = for_windows(cursor)?,
            "BY" => spec.by = names(cursor, "a column")?,
            "SEVERITY" => spec.severity = severity(cursor)?,
            _ => spec.notify = names(cursor, "a channel")?,
        }
    }
    Ok(())
}

fn for_windows(cursor: &mut Cursor<'_>) -> Result<u32> {
    let span = cursor.span();
    let Token::Number(text, _) = cursor.peek(0) else {
        return Err(cursor.expected("a number of windows").help("write FOR 3 WINDOWS"));
    };
    cursor.take();
    let windows: u32 = text.parse().unwrap_or(0);
    if !(1..=MAX_WINDOWS).contains(&windows) {
        return Err(Error::invalid("TM123", format!("an alert cannot wait for {text} windows"))
            .at(Some(span))
            .help(format!("write a whole number from 1 to {MAX_WINDOWS}")));
    }
    if cursor.eat("WINDOWS") || cursor.eat("WINDOW") {
        return Ok(windows);
    }
    Err(cursor.expected_one_of(&["WINDOWS"]))
}

fn names(cursor: &mut Cursor<'_>, what: &str) -> Result<Vec<String>> {
    let mut names: Vec<String> = Vec::new();
    loop {
        let span = cursor.span();
        let name = cursor.reference(what)?;
        if names.contains(&name) {
            return Err(Error::invalid("TM123", format!("'{name}' is named twice"))
                .at(Some(span))
                .help("remove one of them"));
        }
        names.push(name);
        if !cursor.eat_token(&Token::Comma) {
            return Ok(names);
        }
    }
}

fn severity(cursor: &mut Cursor<'_>) -> Result<Severity> {
    let span = cursor.span();
    let word = match cursor.peek(0) {
        Token::SingleQuotedString(text) => text,
        Token::Word(word) => word.value,
        _ => {
            return Err(cursor.expected("a severity").help("write SEVERITY 'critical'"));
        }
    };
    if let Some((_, level)) = LEVELS.iter().find(|(name, _)| name.eq_ignore_ascii_case(&word)) {
        cursor.take();
        return Ok(*level);
    }
    let names: Vec<&str> = LEVELS.iter().map(|(name, _)| *name).collect();
    let error = Error::invalid("TM123", format!("unknown severity '{word}'")).at(Some(span));
    Err(match closest(&word, &names) {
        Some(candidate) => error.help(format!("did you mean '{candidate}'?")),
        None => error.help(format!("severities are {}", names.join(", "))),
    })
}
