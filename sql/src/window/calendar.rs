//! Grids of equally long steps: a fixed length, or a number of calendar months (UTC).
//!
//! It never looks at time zones other than UTC and never allocates.

use std::fmt;

use tidemill_contract::{Error, Micros, Result, Span};

const DAY: Micros = 86_400_000_000;

/// A length of time: calendar months or microseconds, never both.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Step {
    /// Calendar months.
    pub months: i32,
    /// Microseconds.
    pub micros: Micros,
}

impl Step {
    /// A step must be positive and of one unit.
    pub(crate) fn check(self, span: Option<Span>) -> Result<()> {
        if self.months != 0 && self.micros != 0 {
            return Err(Error::invalid("TM211", "a window interval cannot mix months and days")
                .at(span)
                .help("use months or years alone, or days and smaller units"));
        }
        if self.months < 0 || self.micros < 0 || (self.months == 0 && self.micros == 0) {
            return Err(Error::invalid("TM211", "a window interval must be positive").at(span));
        }
        Ok(())
    }

    /// The number of whole steps `<= time` on the grid that starts at the epoch plus `offset`.
    pub(crate) fn index(self, time: Micros, offset: Micros) -> i64 {
        let time = time.saturating_sub(offset);
        if self.months == 0 {
            time.div_euclid(self.micros)
        } else {
            month_of(time).div_euclid(i64::from(self.months))
        }
    }

    /// Where step number `index` begins.
    pub(crate) fn start(self, index: i64, offset: Micros) -> Micros {
        let start = if self.months == 0 {
            index.saturating_mul(self.micros)
        } else {
            start_of_month(index.saturating_mul(i64::from(self.months)))
        };
        start.saturating_add(offset)
    }

    /// `time` plus this length; months are added to the calendar date (clamped to month end).
    pub(crate) fn after(self, time: Micros, offset: Micros) -> Micros {
        if self.months == 0 {
            return time.saturating_add(self.micros);
        }
        let local = time.saturating_sub(offset);
        let month = month_of(local);
        let into_month = local - start_of_month(month);
        let target = month + i64::from(self.months);
        let length = start_of_month(target + 1) - start_of_month(target);
        let day = (into_month / DAY).min(length / DAY - 1);
        (start_of_month(target) + day * DAY + into_month % DAY).saturating_add(offset)
    }

    /// An upper bound in microseconds.
    pub(crate) fn longest(self) -> Micros {
        if self.months == 0 { self.micros } else { i64::from(self.months).saturating_mul(31 * DAY) }
    }

    /// Lower bound of this length.
    fn shortest(self) -> Micros {
        if self.months == 0 { self.micros } else { i64::from(self.months).saturating_mul(28 * DAY) }
    }

    /// Upper bound of how many of `part` begin within this length.
    pub(crate) fn over(self, part: Self) -> i64 {
        if self.months != 0 && part.months != 0 {
            return i64::from((self.months - 1) / part.months) + 1;
        }
        (self.longest().saturating_sub(1) / part.shortest().max(1)).saturating_add(1)
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.months, self.micros) {
            (0, micros) if micros % DAY == 0 => write!(f, "{}d", micros / DAY),
            (0, micros) if micros % 1_000_000 == 0 => write!(f, "{}s", micros / 1_000_000),
            (0, micros) => write!(f, "{micros}us"),
            (months, _) => write!(f, "{months}mon"),
        }
    }
}

/// Months since January 1970 of a point in time.
fn month_of(time: Micros) -> i64 {
    let (year, month) = civil(time.div_euclid(DAY));
    (year - 1970) * 12 + month - 1
}

/// First microsecond of month `month` (months since January 1970).
fn start_of_month(month: i64) -> Micros {
    // The range of a timestamp in microseconds is about +-292,000 years.
    let month = month.clamp(-3_500_000, 3_500_000);
    let year = 1970 + month.div_euclid(12);
    days_from_civil(year, month.rem_euclid(12) + 1).saturating_mul(DAY)
}

/// Year and month of a day number. Source: Howard Hinnant, "chrono-Compatible Low-Level Date
/// Algorithms", `civil_from_days`.
fn civil(days: i64) -> (i64, i64) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month)
}

/// Day number of the first of a month. Source: as [`civil`], `days_from_civil`.
fn days_from_civil(year: i64, month: i64) -> i64 {
    let year = year - i64::from(month <= 2);
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * (if month > 2 { month - 3 } else { month + 9 }) + 2) / 5;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}
