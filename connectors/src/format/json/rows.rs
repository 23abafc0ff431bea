//! JSON objects straight into typed columns: one pass over the bytes, no tape, no tree.
//!
//! Why it is fast: producers write the fields of a topic's rows in one order. The reader remembers
//! the bytes of each key, quotes and colon included, and compares them as a whole (speculation on
//! the layout as in Mison, Li et al., VLDB 2017; here always verified, since every byte is checked
//! anyway). Values of no declared column are checked and passed.
//!
//! Why it gives the same answers as the general path: it takes only what `syntax` takes, and reads
//! texts with the same functions. Whatever else it meets it refuses, and the general path decides.

use std::borrow::Cow;
use std::collections::HashMap;

use arrow::array::ArrayRef;
use arrow::datatypes::{FieldRef, Schema};
use tidemill_contract::{Error, Result};

use super::EpochUnit;
use super::cells::{Cells, cells};
use super::convert::{Mark, Marks};
use super::syntax::{PAYLOAD_BYTES_MAX, Scanner};

/// Fields whose place is remembered.
const LAYOUT_MAX: usize = 1024;
/// Longest key that is: what is remembered must stay small whoever writes the rows.
const KEY_BYTES_MAX: usize = 256;
/// Fields that a row may leave out at one place without a look at the key's text.
const LEFT_OUT_MAX: usize = 4;

/// Gathers rows in columns.
#[derive(Debug)]
pub(super) struct RowReader {
    columns: Vec<Column>,
    by_name: HashMap<String, usize>,
    layout: Vec<Predicted>,
    /// Texts of the row being read that had escapes.
    unescaped: Vec<String>,
    marks: Marks,
    /// Rows gathered since the columns were given out, and all in all.
    rows: usize,
    all_rows: u64,
}

#[derive(Debug)]
struct Column {
    name: String,
    is_nullable: bool,
    cells: Box<dyn Cells>,
    slot: Slot,
}

/// What the row being read has for a column.
#[derive(Debug, Clone, Copy)]
enum Slot {
    /// Nothing, or null.
    Null,
    /// This part of the payload.
    Text(usize, usize),
    /// This one of the texts that had escapes.
    Unescaped(usize),
}

/// A field of the last rows.
#[derive(Debug)]
struct Predicted {
    /// From the key's first quote to its colon.
    key: Box<[u8]>,
    /// Its first and its last eight bytes, which may overlap.
    ends: Option<(u64, u64)>,
    column: Option<usize>,
}

impl Predicted {
    fn new(key: &[u8], column: Option<usize>) -> Self {
        let ends = (key.len() <= 16).then(|| ends(key, key.len())).flatten();
        Self { key: key.into(), ends, column }
    }

    /// The key is the next in `rest`. Most keys are two words, which are compared without a call.
    #[inline]
    fn begins(&self, rest: &[u8]) -> bool {
        match self.ends {
            Some(own) => ends(rest, self.key.len()) == Some(own),
            None => rest.starts_with(&self.key),
        }
    }
}

/// The first and the last eight of so many bytes, `None` if there are fewer.
#[inline]
fn ends(bytes: &[u8], length: usize) -> Option<(u64, u64)> {
    let key = bytes.get(..length)?;
    let (first, last) = (key.first_chunk()?, key.last_chunk()?);
    Some((u64::from_le_bytes(*first), u64::from_le_bytes(*last)))
}

/// What was gathered.
pub(super) struct Gathered {
    pub(super) columns: Vec<ArrayRef>,
    pub(super) marks: Marks,
}

impl RowReader {
    /// A reader of rows with these columns, `None` if one of them is nested.
    pub(super) fn new(physical: &Schema, epoch: EpochUnit) -> Option<Self> {
        let column = |field: &FieldRef| {
            Some(Column {
                name: field.name().clone(),
                is_nullable: field.is_nullable(),
                cells: cells(field.data_type(), epoch)?,
                slot: Slot::Null,
            })
        };
        let columns = physical.fields().iter().map(column).collect::<Option<Vec<Column>>>()?;
        let names = columns.iter().map(|column| column.name.clone());
        let by_name = names.zip(0..).collect();
        let (layout, unescaped) = (Vec::new(), Vec::new());
        Some(Self {
            columns,
            by_name,
            layout,
            unescaped,
            marks: Marks::new(),
            rows: 0,
            all_rows: 0,
        })
    }

    /// Rows taken so far.
    pub(super) fn rows(&self) -> u64 {
        self.all_rows
    }

    /// Takes a row; false if the general path must decide what it is.
    pub(super) fn take(&mut self, payload: &[u8]) -> bool {
        let Some(text) = self.scan(payload) else { return false };
        for column in &mut self.columns {
            let text = match column.slot {
                Slot::Null => {
                    column.cells.push_null();
                    if !column.is_nullable {
                        self.marks.entry(self.rows).or_insert_with(|| Mark::missing(&column.name));
                    }
                    continue;
                }
                Slot::Text(from, to) => text.get(from..to).unwrap_or_default(),
                Slot::Unescaped(index) => &self.unescaped[index],
            };
            if let Err(misfit) = column.cells.push(text) {
                let mark = || Mark::misfit(&column.name, text, misfit);
                self.marks.entry(self.rows).or_insert_with(mark);
            }
        }
        self.rows += 1;
        self.all_rows += 1;
        true
    }

    /// Gives out the columns and begins new ones.
    pub(super) fn finish(&mut self) -> Result<Gathered> {
        let mut columns = Vec::with_capacity(self.columns.len());
        for column in &mut self.columns {
            let array = column.cells.finish();
            columns.push(
                array.map_err(|e| Error::internal(format!("column '{}': {e}", column.name)))?,
            );
        }
        self.rows = 0;
        Ok(Gathered { columns, marks: std::mem::take(&mut self.marks) })
    }

    /// Finds the values of a row; of a repeated key the last counts.
    fn scan<'a>(&mut self, payload: &'a [u8]) -> Option<&'a str> {
        if payload.len() > PAYLOAD_BYTES_MAX {
            return None;
        }
        let text = std::str::from_utf8(payload).ok()?;
        for column in &mut self.columns {
            column.slot = Slot::Null;
        }
        self.unescaped.clear();
        let mut scanner = Scanner::new(payload);
        if !scanner.enter() {
            return None;
        }
        let mut place = 0;
        scanner.skip_space();
        if scanner.peek() == Some(b'}') {
            scanner.at += 1;
        } else {
            loop {
                let column = self.key(&mut scanner, payload, &mut place)?;
                let slot = self.value(&mut scanner, payload, column.is_some())?;
                if let Some(column) = column {
                    self.columns[column].slot = slot;
                }
                scanner.skip_space();
                let next = scanner.peek()?;
                scanner.at += 1;
                match next {
                    b',' => scanner.skip_space(),
                    b'}' => break,
                    _ => return None,
                }
            }
        }
        scanner.skip_space();
        scanner.peek().is_none().then_some(text)
    }

    /// Passes a key; the column it names, if any.
    fn key(
        &mut self,
        scanner: &mut Scanner<'_>,
        payload: &[u8],
        place: &mut usize,
    ) -> Option<Option<usize>> {
        let start = scanner.at;
        let rest = payload.get(start..)?;
        for index in *place..*place + LEFT_OUT_MAX {
            let Some(predicted) = self.layout.get(index) else { break };
            if predicted.begins(rest) {
                *place = index + 1;
                return scanner.pass_key(predicted.key.len()).then_some(predicted.column);
            }
        }
        scanner.key().ok()?;
        let key = payload.get(start..scanner.at)?;
        // The colon ends it, and nothing but space is between that and the quote.
        let quoted = key.get(..=key.iter().rposition(|byte| *byte == b'"')?)?;
        let name: Cow<'_, str> = serde_json::from_slice(quoted).ok()?;
        let column = self.by_name.get(name.as_ref()).copied();
        if key.len() <= KEY_BYTES_MAX {
            self.remember(*place, Predicted::new(key, column));
        }
        *place += 1;
        Some(column)
    }

    fn remember(&mut self, place: usize, predicted: Predicted) {
        if let Some(known) = self.layout.get_mut(place) {
            *known = predicted;
        } else if self.layout.len() < LAYOUT_MAX {
            self.layout.push(predicted);
        }
    }

    /// Passes a value; where its text is, if somebody wants it.
    fn value(
        &mut self,
        scanner: &mut Scanner<'_>,
        payload: &[u8],
        is_wanted: bool,
    ) -> Option<Slot> {
        scanner.skip_space();
        let start = scanner.at;
        let first = scanner.peek()?;
        if scanner.pass_simple() {
            let quote = usize::from(first == b'"');
            return Some(Slot::Text(start + quote, scanner.at - quote));
        }
        match first {
            b'"' => {
                let has_escapes = scanner.text().ok()?;
                if has_escapes && is_wanted {
                    let quoted = payload.get(start..scanner.at)?;
                    self.unescaped.push(serde_json::from_slice(quoted).ok()?);
                    return Some(Slot::Unescaped(self.unescaped.len() - 1));
                }
                Some(Slot::Text(start + 1, scanner.at - 1))
            }
            b'-' | b'0'..=b'9' => {
                scanner.number().ok()?;
                Some(Slot::Text(start, scanner.at))
            }
            b't' => scanner.literal(b"true").ok().map(|()| Slot::Text(start, scanner.at)),
            b'f' => scanner.literal(b"false").ok().map(|()| Slot::Text(start, scanner.at)),
            b'n' => scanner.literal(b"null").ok().map(|()| Slot::Null),
            // No scalar: for a declared column it does not fit, and what to say is decided there.
            b'{' | b'[' if is_wanted => None,
            _ => scanner.value().ok().map(|()| Slot::Null),
        }
    }
}
