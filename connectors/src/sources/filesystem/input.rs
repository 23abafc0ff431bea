//! Bytes of a file, decompressed while they are read.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use tidemill_contract::Result;

use super::unreadable;

const BUFFER_BYTES: usize = 256 << 10;

/// How a file is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Compression {
    None,
    Gzip,
    Xz,
    Zstd,
}

impl Compression {
    pub(super) fn named(name: &str) -> Option<Self> {
        match name {
            "none" => Some(Self::None),
            "gz" | "gzip" => Some(Self::Gzip),
            "xz" => Some(Self::Xz),
            "zst" | "zstd" => Some(Self::Zstd),
            _ => None,
        }
    }

    /// By the extension.
    pub(super) fn of(path: &Path) -> Self {
        let extension = path.extension().and_then(|extension| extension.to_str());
        extension
            .filter(|extension| *extension != "none")
            .and_then(|extension| Self::named(&extension.to_lowercase()))
            .unwrap_or(Self::None)
    }
}

/// The plain bytes of a file.
pub(super) type Input = BufReader<Box<dyn Read + Send>>;

pub(super) fn open(path: &Path, compression: Compression) -> Result<Input> {
    let file = File::open(path).map_err(|e| unreadable(path, &e))?;
    let raw = BufReader::with_capacity(BUFFER_BYTES, file);
    let plain: Box<dyn Read + Send> = match compression {
        Compression::None => {
            return Ok(BufReader::with_capacity(BUFFER_BYTES, Box::new(raw.into_inner())));
        }
        Compression::Gzip => Box::new(flate2::read::MultiGzDecoder::new(raw)),
        Compression::Xz => Box::new(liblzma::read::XzDecoder::new_multi_decoder(raw)),
        Compression::Zstd => Box::new(
            zstd::stream::read::Decoder::with_buffer(raw).map_err(|e| unreadable(path, &e))?,
        ),
    };
    Ok(BufReader::with_capacity(BUFFER_BYTES, plain))
}
