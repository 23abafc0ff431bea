//! JSON lines: each line that is not blank is a row, passed on as it is.
//!
//! Whether it is JSON, and fits the columns, the decoder says.

use std::io::{BufRead, Read};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use tidemill_contract::{FaultClass, Result, RowFault, SourceRow};

use super::input::Input;
use super::{CHUNK_BYTES, CHUNK_ROWS, ROW_BYTES_MAX, RowReader, unreadable};

pub(super) struct JsonLines {
    input: Input,
    path: PathBuf,
    row: u64,
}

impl JsonLines {
    pub(super) fn open(input: Input, path: &Path) -> Self {
        Self { input, path: path.to_owned(), row: 0 }
    }

    /// The next line without its end, `None` at the end of the file. A line that is too long is
    /// cut and the rest of it skipped.
    fn line(&mut self) -> Result<Option<(Vec<u8>, bool)>> {
        let fail = |e| unreadable(&self.path, &e);
        let mut line = Vec::new();
        let limit = ROW_BYTES_MAX as u64;
        let read = self.input.by_ref().take(limit).read_until(b'\n', &mut line).map_err(fail)?;
        if read == 0 {
            return Ok(None);
        }
        let too_long = read == ROW_BYTES_MAX && line.last() != Some(&b'\n');
        if too_long {
            self.input.skip_until(b'\n').map_err(|e| unreadable(&self.path, &e))?;
        }
        while matches!(line.last(), Some(b'\n' | b'\r')) {
            line.pop();
        }
        Ok(Some((line, too_long)))
    }
}

impl RowReader for JsonLines {
    fn read(&mut self) -> Result<Vec<SourceRow>> {
        let mut rows = Vec::new();
        let mut bytes = 0;
        while rows.len() < CHUNK_ROWS && bytes < CHUNK_BYTES {
            let Some((line, too_long)) = self.line()? else {
                break;
            };
            if line.iter().all(u8::is_ascii_whitespace) {
                continue;
            }
            bytes += line.len();
            let raw = Bytes::from(line);
            let payload = if too_long {
                let reason = format!("the line is longer than {ROW_BYTES_MAX} bytes");
                Err(RowFault { raw, stage: "read", class: FaultClass::TooLarge, reason })
            } else {
                Ok(raw)
            };
            rows.push(SourceRow { row: self.row, key: None, payload });
            self.row += 1;
        }
        Ok(rows)
    }
}
