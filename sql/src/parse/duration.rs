//! Interval literals: `INTERVAL '5' SECOND`, `INTERVAL '5 seconds'`, `INTERVAL '1' MONTH`.
//!
//! Exact integer arithmetic; what is no whole number of microseconds is refused, never rounded.
//! A day has 24 hours: event time is UTC.

use std::fmt;

use datafusion::sql::sqlparser::ast::{Expr, Spanned, UnaryOperator, Value};
use tidemill_contract::{Error, Micros, Result, Span};

use super::script::byte_span;

/// A length of time: calendar months plus exact microseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Interval {
    /// Calendar months.
    pub months: i32,
    /// Microseconds.
    pub micros: Micros,
}

impl fmt::Display for Interval {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.months, self.micros) {
            (0, micros) => write!(f, "{micros} us"),
            (months, 0) => write!(f, "{months} months"),
            (months, micros) => write!(f, "{months} months {micros} us"),
        }
    }
}

const MICROSECOND: (i32, Micros) = (0, 1);
const MILLISECOND: (i32, Micros) = (0, 1_000);
const SECOND: (i32, Micros) = (0, 1_000_000);
const MINUTE: (i32, Micros) = (0, 60 * 1_000_000);
const HOUR: (i32, Micros) = (0, 3_600 * 1_000_000);
const DAY: (i32, Micros) = (0, 86_400 * 1_000_000);
const WEEK: (i32, Micros) = (0, 7 * 86_400 * 1_000_000);
const MONTH: (i32, Micros) = (1, 0);
const QUARTER: (i32, Micros) = (3, 0);
const YEAR: (i32, Micros) = (12, 0);

/// Reads an interval literal, with an optional minus before it.
///
/// # Errors
/// `TM121` if the expression is no interval literal or its amount cannot be represented.
pub fn parse_interval(expr: &Expr) -> Result<Interval> {
    let span = byte_span(expr.span());
    match expr {
        Expr::Nested(inner) => parse_interval(inner),
        Expr::UnaryOp { op: UnaryOperator::Minus, expr: inner } => {
            let interval = parse_interval(inner)?;
            let months = interval.months.checked_neg().ok_or_else(|| too_large(span))?;
            let micros = interval.micros.checked_neg().ok_or_else(|| too_large(span))?;
            Ok(Interval { months, micros })
        }
        Expr::Interval(interval) => {
            if interval.last_field.is_some() {
                return Err(Error::invalid("TM121", "interval ranges are not supported")
                    .at(span)
                    .help("write one unit, such as INTERVAL '90' SECOND"));
            }
            let text = literal(&interval.value).ok_or_else(|| not_an_interval(span))?;
            match &interval.leading_field {
                Some(unit) => parse_terms(&format!("{text} {unit}"), 1, span),
                None => parse_terms(&text, usize::MAX, span),
            }
        }
        _ => Err(not_an_interval(span)),
    }
}

fn literal(value: &Expr) -> Option<String> {
    let Expr::Value(value) = value else {
        return None;
    };
    match &value.value {
        Value::SingleQuotedString(text) | Value::Number(text, _) => Some(text.clone()),
        _ => None,
    }
}

/// Reads `amount unit [amount unit …]`, at most `most` pairs.
fn parse_terms(text: &str, most: usize, span: Option<Span>) -> Result<Interval> {
    let mut total = Interval::default();
    let mut words = text.split_whitespace();
    let mut terms = 0;
    while let Some(amount) = words.next() {
        // "5s" and "5 s" are the same.
        let digits = amount.len() - amount.trim_start_matches(is_amount).len();
        let (amount, glued) = amount.split_at(digits);
        let unit = if glued.is_empty() { words.next() } else { Some(glued) };
        let Some(unit) = unit else {
            return Err(Error::invalid("TM121", format!("interval '{text}' has no unit"))
                .at(span)
                .help("write the unit after or inside the quotes: INTERVAL '5' SECOND"));
        };
        let scale = unit_scale(unit).ok_or_else(|| unknown_unit(text, unit, span))?;
        let term = scaled(amount, scale, text, span)?;
        total.months = total.months.checked_add(term.months).ok_or_else(|| too_large(span))?;
        total.micros = total.micros.checked_add(term.micros).ok_or_else(|| too_large(span))?;
        terms += 1;
    }
    if terms == 0 || terms > most {
        return Err(unreadable(text, span));
    }
    Ok(total)
}

fn is_amount(character: char) -> bool {
    character.is_ascii_digit() || matches!(character, '+' | '-' | '.')
}

fn unit_scale(unit: &str) -> Option<(i32, Micros)> {
    Some(match unit.to_ascii_lowercase().as_str() {
        "us" | "microsecond" | "microseconds" => MICROSECOND,
        "ms" | "millisecond" | "milliseconds" => MILLISECOND,
        "s" | "sec" | "secs" | "second" | "seconds" => SECOND,
        "m" | "min" | "mins" | "minute" | "minutes" => MINUTE,
        "h" | "hour" | "hours" => HOUR,
        "d" | "day" | "days" => DAY,
        "w" | "week" | "weeks" => WEEK,
        "mon" | "mons" | "month" | "months" => MONTH,
        "quarter" | "quarters" => QUARTER,
        "y" | "year" | "years" => YEAR,
        _ => return None,
    })
}

/// `amount` (a decimal with an optional sign) times a unit.
fn scaled(amount: &str, scale: (i32, Micros), text: &str, span: Option<Span>) -> Result<Interval> {
    let (negative, digits) = match amount.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, amount.strip_prefix('+').unwrap_or(amount)),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let fraction = fraction.trim_end_matches('0');
    let is_number = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    if digits.is_empty() || digits == "." || !is_number(whole) || !is_number(fraction) {
        return Err(unreadable(text, span));
    }
    if fraction.len() > 15 {
        return Err(inexact(text, span));
    }
    let denominator = 10_i128.pow(u32::try_from(fraction.len()).unwrap_or(0));
    let joined: i128 = format!("0{whole}{fraction}").parse().map_err(|_| too_large(span))?;
    let times = |unit: i128| -> Result<i128> {
        let product = joined.checked_mul(unit).ok_or_else(|| too_large(span))?;
        if product % denominator != 0 {
            return Err(inexact(text, span));
        }
        Ok(if negative { -(product / denominator) } else { product / denominator })
    };
    Ok(Interval {
        months: i32::try_from(times(i128::from(scale.0))?).map_err(|_| too_large(span))?,
        micros: Micros::try_from(times(i128::from(scale.1))?).map_err(|_| too_large(span))?,
    })
}

fn not_an_interval(span: Option<Span>) -> Error {
    Error::invalid("TM121", "expected an interval literal")
        .at(span)
        .help("write for example INTERVAL '5' SECOND or INTERVAL '5 seconds'")
}

fn unreadable(text: &str, span: Option<Span>) -> Error {
    Error::invalid("TM121", format!("'{text}' is not an interval"))
        .at(span)
        .help("write for example INTERVAL '5' SECOND or INTERVAL '1 hour 30 minutes'")
}

fn unknown_unit(text: &str, unit: &str, span: Option<Span>) -> Error {
    Error::invalid("TM121", format!("interval '{text}' has the unknown unit '{unit}'"))
        .at(span)
        .help("units are microsecond, millisecond, second, minute, hour, day, week, month, year")
}

fn inexact(text: &str, span: Option<Span>) -> Error {
    Error::invalid("TM121", format!("interval '{text}' is not a whole number of microseconds"))
        .at(span)
        .because("months and years take whole numbers, other units at most microseconds")
        .help("use a smaller unit")
}

fn too_large(span: Option<Span>) -> Error {
    Error::invalid("TM121", "the interval is too long").at(span).help("use a shorter one")
}
