//! Text to values, exactly or not at all.
//!
//! Nothing here rounds silently except a decimal with more fraction digits than declared, which
//! is rounded half away from zero as in every SQL database.

use std::fmt::Display;
use std::str::FromStr;

use arrow::compute::kernels::cast_utils::string_to_datetime;
use arrow::datatypes::TimeUnit;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use chrono::Utc;
use tidemill_contract::FaultClass;

use super::EpochUnit;

/// Why a text is not a value of its type.
#[derive(Debug, Clone, Copy)]
pub(super) struct Misfit {
    pub(super) class: FaultClass,
    /// Follows the value in the reason.
    pub(super) what: &'static str,
}

/// The text does not spell such a value.
pub(super) const fn wrong(what: &'static str) -> Misfit {
    Misfit { class: FaultClass::Type, what }
}

/// It does, but the type cannot hold it.
const fn beyond(what: &'static str) -> Misfit {
    Misfit { class: FaultClass::Range, what }
}

pub(super) const OUT_OF_RANGE: Misfit = beyond("is out of range");

/// The largest integer every smaller of which a double holds exactly.
const DOUBLE_EXACT_MAX: f64 = 9_007_199_254_740_992.0;

/// arrow's errors begin with their kind, which tells a reader of the fault nothing.
pub(super) fn strip_prefix(message: &str) -> &str {
    message
        .strip_prefix("Json error: ")
        .or_else(|| message.strip_prefix("Parser error: "))
        .unwrap_or(message)
}

pub(super) fn boolean(text: &str) -> Result<bool, Misfit> {
    match text {
        "true" => Ok(true),
        "false" => Ok(false),
        _ if text.eq_ignore_ascii_case("true") => Ok(true),
        _ if text.eq_ignore_ascii_case("false") => Ok(false),
        _ => Err(wrong("is neither true nor false")),
    }
}

/// An integer; `5.0` and `5e3` are integers too, `5.5` is not.
pub(super) fn integer<T: FromStr + TryFrom<i64> + Display>(text: &str) -> Result<T, Misfit> {
    if let Ok(value) = text.parse() {
        return Ok(value);
    }
    const NOT_AN_INTEGER: Misfit = wrong("is not an integer");
    let value: f64 = text.trim().parse().map_err(|_| NOT_AN_INTEGER)?;
    if value.is_infinite() && text.contains(|c: char| c.is_ascii_digit()) {
        return Err(OUT_OF_RANGE);
    }
    if value.fract() != 0.0 || !value.is_finite() {
        return Err(NOT_AN_INTEGER);
    }
    if value.abs() > DOUBLE_EXACT_MAX {
        return Err(OUT_OF_RANGE);
    }
    #[allow(clippy::cast_possible_truncation)]
    T::try_from(value as i64).map_err(|_| OUT_OF_RANGE)
}

pub(super) fn float(text: &str) -> Result<f64, Misfit> {
    let value: f64 = text.trim().parse().map_err(|_| wrong("is not a number"))?;
    if value.is_finite() { Ok(value) } else { Err(beyond("is not a finite number")) }
}

/// Digits that a `u64` holds whatever they are.
const SMALL_DIGITS: usize = 18;

/// A decimal as [`decimal`] reads it, if it is as most are: a few digits, no more of a fraction than
/// the scale has, no exponent.
fn small_decimal(text: &str, precision: u8, scale: i8) -> Option<i128> {
    let (is_negative, digits) = match text.as_bytes() {
        [b'-', digits @ ..] => (true, digits),
        digits => (false, digits),
    };
    let (mut value, mut seen, mut point) = (0_u64, 0, None);
    for byte in digits {
        match byte {
            b'0'..=b'9' if seen < SMALL_DIGITS => {
                value = value * 10 + u64::from(byte - b'0');
                seen += 1;
            }
            b'.' if point.is_none() && seen > 0 => point = Some(seen),
            _ => return None,
        }
    }
    let fraction = seen - point.unwrap_or(seen);
    if seen == 0 || point.is_some() && fraction == 0 {
        return None;
    }
    let missing = usize::try_from(scale).ok()?.checked_sub(fraction)?;
    let unscaled = i128::from(value) * 10_i128.checked_pow(u32::try_from(missing).ok()?)?;
    let fits = unscaled < 10_i128.pow(u32::from(precision.min(38)));
    fits.then_some(if is_negative { -unscaled } else { unscaled })
}

/// A decimal as the unscaled integer of the given scale.
pub(super) fn decimal(text: &str, precision: u8, scale: i8) -> Result<i128, Misfit> {
    if let Some(small) = small_decimal(text, precision, scale) {
        return Ok(small);
    }
    const NOT_A_NUMBER: Misfit = wrong("is not a decimal number");
    const TOO_LARGE: Misfit = beyond("has too many digits");
    let scale = i32::from(scale);
    let text = text.trim();
    let (negative, digits) = match text.as_bytes() {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        all => (false, all),
    };
    let exponent_at = digits.iter().position(|byte| matches!(byte, b'e' | b'E'));
    let (mantissa, exponent) = match exponent_at {
        None => (digits, 0),
        Some(at) => {
            let text = std::str::from_utf8(&digits[at + 1..]).map_err(|_| NOT_A_NUMBER)?;
            (&digits[..at], exponent(text).ok_or(NOT_A_NUMBER)?)
        }
    };
    let (mut value, mut fraction, mut seen, mut point) = (0_i128, 0_i32, false, false);
    for byte in mantissa {
        match byte {
            b'0'..=b'9' => {
                seen = true;
                if point && exponent_at.is_none() && fraction > scale {
                    continue; // one digit beyond the scale decides the rounding
                }
                fraction += i32::from(point);
                value = value
                    .checked_mul(10)
                    .and_then(|value| value.checked_add(i128::from(byte - b'0')))
                    .ok_or(TOO_LARGE)?;
            }
            b'.' if !point => point = true,
            _ => return Err(NOT_A_NUMBER),
        }
    }
    if !seen {
        return Err(NOT_A_NUMBER);
    }
    let unscaled = shift(value, scale.saturating_sub(fraction).saturating_add(exponent));
    let unscaled = unscaled.ok_or(TOO_LARGE)?;
    if unscaled >= 10_i128.pow(u32::from(precision.min(38))) {
        return Err(TOO_LARGE);
    }
    Ok(if negative { -unscaled } else { unscaled })
}

/// An exponent; one that no number can have counts as the largest.
fn exponent(text: &str) -> Option<i32> {
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let largest = if text.starts_with('-') { i32::MIN / 2 } else { i32::MAX / 2 };
    Some(text.parse().unwrap_or(largest))
}

/// `value * 10^by` of a non-negative value, rounded half up; `None` if it does not fit.
fn shift(value: i128, by: i32) -> Option<i128> {
    if value == 0 {
        return Some(0);
    }
    let places = by.unsigned_abs();
    if by >= 0 {
        return 10_i128.checked_pow(places).and_then(|power| value.checked_mul(power));
    }
    let Some(power) = 10_i128.checked_pow(places) else {
        return Some(0);
    };
    let (whole, rest) = (value / power, value % power);
    Some(if rest >= power - rest { whole + 1 } else { whole })
}

/// A point in time: ISO 8601 or `yyyy-MM-dd HH:mm:ss[.f]` (UTC unless an offset is given), or a
/// number since the epoch.
pub(super) fn timestamp(text: &str, unit: TimeUnit, epoch: EpochUnit) -> Result<i64, Misfit> {
    let text = text.trim();
    let micros = if let Ok(number) = text.parse::<i64>() {
        match epoch {
            EpochUnit::Seconds => number.checked_mul(1_000_000).ok_or(OUT_OF_RANGE)?,
            EpochUnit::Millis => number.checked_mul(1000).ok_or(OUT_OF_RANGE)?,
            EpochUnit::Micros => number,
            EpochUnit::Nanos if unit == TimeUnit::Nanosecond => return Ok(number),
            EpochUnit::Nanos => number.div_euclid(1000),
        }
    } else if let Ok(time) = string_to_datetime(&Utc, text) {
        if unit == TimeUnit::Nanosecond {
            return time.timestamp_nanos_opt().ok_or(OUT_OF_RANGE);
        }
        time.timestamp_micros()
    } else {
        let number: f64 = text.parse().map_err(|_| wrong("is not a point in time"))?;
        let micros = number
            * match epoch {
                EpochUnit::Seconds => 1e6,
                EpochUnit::Millis => 1e3,
                EpochUnit::Micros => 1.0,
                EpochUnit::Nanos => 1e-3,
            };
        if !micros.is_finite() || micros.abs() > DOUBLE_EXACT_MAX {
            return Err(OUT_OF_RANGE);
        }
        #[allow(clippy::cast_possible_truncation)]
        let micros = micros.round() as i64;
        micros
    };
    match unit {
        TimeUnit::Second => Ok(micros.div_euclid(1_000_000)),
        TimeUnit::Millisecond => Ok(micros.div_euclid(1000)),
        TimeUnit::Microsecond => Ok(micros),
        TimeUnit::Nanosecond => micros.checked_mul(1000).ok_or(OUT_OF_RANGE),
    }
}

pub(super) fn binary(text: &str) -> Result<Vec<u8>, Misfit> {
    STANDARD.decode(text).map_err(|_| wrong("is not base64"))
}
