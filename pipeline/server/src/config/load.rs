//! Reads the layers: defaults, file, environment, flags. Unknown keys are errors at their place.

use std::path::{Path, PathBuf};

use tidemill_contract::{Error, Span};
use toml::de::{DeTable, DeValue};

use super::{Config, KEYS, Key, Kind, Origin, PROPERTIES, value};

/// The file read when no `--config` is given.
const DEFAULT_FILE: &str = "tidemill.toml";
/// The prefix of environment variables that set keys.
const PREFIX: &str = "TIDEMILL__";

/// A wrong configuration, with the file's text when the error has a place in it.
#[derive(Debug)]
pub struct ConfigError {
    /// What is wrong.
    pub error: Box<Error>,
    /// File name and text.
    pub file: Option<(PathBuf, String)>,
}

impl From<Error> for ConfigError {
    fn from(error: Error) -> Self {
        Self { error: Box::new(error), file: None }
    }
}

/// Resolves the configuration. `file`: an explicit one must exist, else `./tidemill.toml` if there
/// is one. `flags`: path, value and the flag's name, for flags that were given.
///
/// # Errors
/// The first unknown key or unfit value, with its place.
pub fn load(
    file: Option<&Path>,
    flags: &[(&str, Option<String>, &'static str)],
) -> Result<Config, ConfigError> {
    let mut config = Config::default();
    for key in KEYS {
        if let Some(default) = key.default {
            config.values.insert(key.path.into(), (default.into(), Origin::Default));
        }
    }
    match file {
        Some(path) => read_file(&mut config, path)?,
        None if Path::new(DEFAULT_FILE).is_file() => {
            read_file(&mut config, Path::new(DEFAULT_FILE))?;
        }
        None => {}
    }
    read_environment(&mut config, std::env::vars())?;
    for (path, value, flag) in flags {
        if let Some(value) = value {
            let kind = find(path).map_or(Kind::Text, |key| key.kind);
            value::check(kind, value).map_err(|mut error| {
                error.message = format!("{flag}: {}", error.message);
                error
            })?;
            config.values.insert((*path).to_string(), (value.clone(), Origin::Flag(flag)));
        }
    }
    Ok(config)
}

fn read_file(config: &mut Config, path: &Path) -> Result<(), ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|error| {
        Error::invalid("TM800", format!("cannot read the configuration {}", path.display()))
            .because(error.to_string())
    })?;
    let origin = Origin::File(path.to_path_buf());
    let outcome = match DeTable::parse(&text) {
        Ok(table) => read_table(config, "", table.get_ref(), &origin),
        Err(error) => Err(Error::invalid("TM800", error.message().to_string())
            .at(error.span().map(|range| Span { start: range.start, end: range.end }))),
    };
    outcome.map_err(|error| ConfigError {
        error: Box::new(error),
        file: Some((path.to_path_buf(), text)),
    })
}

fn read_table(
    config: &mut Config,
    prefix: &str,
    table: &DeTable<'_>,
    origin: &Origin,
) -> Result<(), Error> {
    for (name, value) in table {
        let path = format!("{prefix}{}", name.get_ref());
        let name_span = Span { start: name.span().start, end: name.span().end };
        let section = format!("{path}.");
        let is_section = section == PROPERTIES
            || (!path.starts_with(PROPERTIES)
                && KEYS.iter().any(|key| key.path.starts_with(&section)));
        match value.get_ref() {
            DeValue::Table(inner) if is_section || path.starts_with(PROPERTIES) => {
                read_table(config, &section, inner, origin)?;
            }
            scalar => {
                let key = find(&path);
                if key.is_none() && !path.starts_with(PROPERTIES) {
                    return Err(unknown(&path).at(Some(name_span)));
                }
                let at = Span { start: value.span().start, end: value.span().end };
                let text = scalar_text(scalar, key).map_err(|error| error.at(Some(at)))?;
                config.values.insert(path, (text, origin.clone()));
            }
        }
    }
    Ok(())
}

fn scalar_text(scalar: &DeValue<'_>, key: Option<&Key>) -> Result<String, Error> {
    let text = match scalar {
        DeValue::String(text) => text.to_string(),
        DeValue::Integer(number) => number.as_str().to_string(),
        DeValue::Boolean(flag) => flag.to_string(),
        other => {
            let found = other.type_str();
            return Err(Error::invalid("TM803", format!("a {found} does not fit here"))
                .help("give a string, a whole number, true or false"));
        }
    };
    value::check(key.map_or(Kind::Text, |key| key.kind), &text)?;
    Ok(text)
}

fn read_environment(
    config: &mut Config,
    variables: impl Iterator<Item = (String, String)>,
) -> Result<(), Error> {
    for (name, text) in variables {
        let Some(rest) = name.strip_prefix(PREFIX) else {
            continue;
        };
        let path = rest.to_ascii_lowercase().replace("__", ".");
        // librdkafka properties are dotted, and a variable's name cannot be.
        let path = match path.strip_prefix(PROPERTIES) {
            Some(property) => format!("{PROPERTIES}{}", property.replace('_', ".")),
            None => path,
        };
        let key = find(&path);
        if key.is_none() && !path.starts_with(PROPERTIES) {
            let mut error = unknown(&path);
            error.message = format!("environment variable {name}: {}", error.message);
            return Err(error);
        }
        value::check(key.map_or(Kind::Text, |key| key.kind), &text).map_err(|mut error| {
            error.message = format!("environment variable {name} does not fit: {}", error.message);
            error
        })?;
        config.values.insert(path, (text, Origin::Environment(name)));
    }
    Ok(())
}

fn find(path: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.path == path)
}

/// The error for an unknown key, with the nearest known one.
fn unknown(path: &str) -> Error {
    let error = Error::invalid("TM801", format!("unknown setting `{path}`"));
    let last = path.rsplit('.').next().unwrap_or(path);
    let near = KEYS
        .iter()
        .map(|key| {
            let name = key.path.rsplit('.').next().unwrap_or(key.path);
            (distance(path, key.path).min(distance(last, name)), key.path)
        })
        .min()
        .filter(|(steps, _)| *steps <= 2);
    match near {
        Some((_, candidate)) => error.help(format!("did you mean `{candidate}`?")),
        None => error.help("`tidemill config show --all` lists every setting"),
    }
}

/// Edit distance (insert, delete, replace).
fn distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (i, a) in left.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in right.iter().enumerate() {
            let replace = diagonal + usize::from(a != *b);
            diagonal = row[j + 1];
            row[j + 1] = replace.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[right.len()]
}
