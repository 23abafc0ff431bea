//! One line of the shop's data, and the JSON it becomes.

use std::io::Read;

use chrono::NaiveDate;
use csv::{Reader, StringRecord};
use serde::Serialize;
use tidemill_contract::{Error, Result};

/// The JSON fields, in the order of the data's columns.
pub(super) const FIELDS: &[&str] = &[
    "invoice",
    "stock_code",
    "description",
    "quantity",
    "invoice_date",
    "unit_price",
    "customer_id",
    "country",
];

/// An order line as the data has it; one is used for all lines.
#[derive(Debug, Default)]
pub(super) struct Line {
    fields: StringRecord,
    seconds: i64,
}

fn damaged(what: impl std::fmt::Display) -> Error {
    Error::corrupt("TM553", format!("the shop's data is damaged: {what}"))
}

impl Line {
    /// Takes the next line of the data; false at its end.
    pub(super) fn read(&mut self, data: &mut Reader<impl Read>) -> Result<bool> {
        if !data.read_record(&mut self.fields).map_err(damaged)? {
            return Ok(false);
        }
        if self.fields.len() != FIELDS.len() {
            return Err(damaged("wrong number of columns"));
        }
        self.seconds = seconds(&self.fields[4]).ok_or_else(|| damaged("a date is no date"))?;
        Ok(true)
    }

    /// `yyyy-MM`.
    pub(super) fn month(&self) -> &str {
        self.fields[4].get(..7).unwrap_or_default()
    }

    /// When it was sold, seconds since the epoch.
    pub(super) fn seconds(&self) -> i64 {
        self.seconds
    }

    /// Writes the JSON object. Quantities and customers are whole numbers that the data writes
    /// with a `.0`; prices stay exactly as written.
    pub(super) fn write(&self, out: &mut Vec<u8>) -> Result<()> {
        let whole = |text: &'_ str| text.strip_suffix(".0").map_or(text.len(), str::len);
        let (description, quantity, customer) = (&self.fields[2], &self.fields[3], &self.fields[6]);
        let some = |text: &'_ str| !text.is_empty();
        json(out, "{\"invoice\":", &self.fields[0])?;
        json(out, ",\"stock_code\":", &self.fields[1])?;
        json(out, ",\"description\":", some(description).then_some(description))?;
        plain(out, ",\"quantity\":", &quantity[..whole(quantity)]);
        json(out, ",\"invoice_date\":", &self.fields[4])?;
        plain(out, ",\"unit_price\":", &self.fields[5]);
        json(out, ",\"customer_id\":", some(customer).then_some(&customer[..whole(customer)]))?;
        json(out, ",\"country\":", &self.fields[7])?;
        plain(out, "}", "");
        Ok(())
    }
}

fn json(out: &mut Vec<u8>, name: &str, value: impl Serialize) -> Result<()> {
    plain(out, name, "");
    serde_json::to_writer(out, &value).map_err(|_| damaged("no JSON"))
}

fn plain(out: &mut Vec<u8>, name: &str, text: &str) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(text.as_bytes());
}

/// Seconds since the epoch of `yyyy-MM-dd HH:mm:ss` in UTC.
fn seconds(text: &str) -> Option<i64> {
    let bytes = text.as_bytes();
    let is_cut = |at: usize, by: u8| bytes.get(at) == Some(&by);
    let cuts = [(4, b'-'), (7, b'-'), (10, b' '), (13, b':'), (16, b':')];
    if bytes.len() != 19 || !cuts.iter().all(|(at, by)| is_cut(*at, *by)) {
        return None;
    }
    let number = |from: usize, to: usize| {
        bytes[from..to].iter().try_fold(0_u32, |number, digit| {
            digit.is_ascii_digit().then(|| number * 10 + u32::from(digit - b'0'))
        })
    };
    let year = i32::try_from(number(0, 4)?).ok()?;
    let day = NaiveDate::from_ymd_opt(year, number(5, 7)?, number(8, 10)?)?;
    let time = day.and_hms_opt(number(11, 13)?, number(14, 16)?, number(17, 19)?)?;
    Some(time.and_utc().timestamp())
}
