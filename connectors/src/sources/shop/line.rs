//! One line of the shop's data, and the JSON it becomes.

use std::io::Write;

use chrono::NaiveDateTime;
use csv::ByteRecord;
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

/// An order line as the data has it.
#[derive(Debug)]
pub(super) struct Line {
    fields: Vec<String>,
    seconds: i64,
}

fn damaged(what: &str) -> Error {
    Error::corrupt("TM553", format!("the shop's data is damaged: {what}"))
}

impl Line {
    pub(super) fn read(record: &ByteRecord) -> Result<Self> {
        if record.len() != FIELDS.len() {
            return Err(damaged("wrong number of columns"));
        }
        let mut fields = Vec::with_capacity(FIELDS.len());
        for field in record {
            let text = std::str::from_utf8(field).map_err(|_| damaged("invalid UTF-8"))?;
            fields.push(text.to_owned());
        }
        let time = NaiveDateTime::parse_from_str(&fields[4], "%Y-%m-%d %H:%M:%S")
            .map_err(|_| damaged("a date is no date"))?;
        Ok(Self { fields, seconds: time.and_utc().timestamp() })
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
    pub(super) fn write(&self, mut out: impl Write) -> Result<()> {
        let json = |text: &str| serde_json::to_string(text).map_err(|_| damaged("no JSON"));
        let whole = |text: &str| text.strip_suffix(".0").unwrap_or(text).to_owned();
        let customer = match self.fields[6].as_str() {
            "" => "null".to_owned(),
            text => json(&whole(text))?,
        };
        let description = match self.fields[2].as_str() {
            "" => "null".to_owned(),
            text => json(text)?,
        };
        write!(
            out,
            "{{\"invoice\":{},\"stock_code\":{},\"description\":{description},\"quantity\":{},\
             \"invoice_date\":{},\"unit_price\":{},\"customer_id\":{customer},\"country\":{}}}",
            json(&self.fields[0])?,
            json(&self.fields[1])?,
            whole(&self.fields[3]),
            json(&self.fields[4])?,
            self.fields[5],
            json(&self.fields[7])?,
        )
        .map_err(|e| Error::internal(format!("cannot write a shop line: {e}")))
    }
}
