//! Why a row could not be taken: its bytes, the stage that refused it, a class and the words.
//!
//! The class is for machines: it never changes its name, so rows with one cause group together.
//! The reason is for people. A fault never stops the rows beside it.

use bytes::Bytes;

/// Why a row could not be taken, with its raw bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowFault {
    /// The bytes as read.
    pub raw: Bytes,
    /// Stage that refused it: `read`, `decode`, `check`, `time`.
    pub stage: &'static str,
    /// What kind of fault it is.
    pub class: FaultClass,
    /// What is wrong with it.
    pub reason: String,
}

macro_rules! classes {
    ($($variant:ident, $name:literal, $help:literal;)*) => {
        /// The class of a fault. `docs/dead-letters.md` lists them.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum FaultClass { $(#[doc = $help] $variant),* }

        impl FaultClass {
            /// All classes.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// The name, as it stands in the column `class`.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),* }
            }

            /// One sentence for people.
            pub fn help(self) -> &'static str {
                match self { $(Self::$variant => $help),* }
            }
        }
    };
}

classes! {
    Empty, "empty", "No bytes, or white space only.";
    TooLarge, "too-large", "Longer than 16 MiB; not decoded.";
    ByteOrderMark, "byte-order-mark", "Begins with the byte order mark of UTF-8.";
    Encoding, "encoding", "Text in UTF-16 or UTF-32.";
    Compressed, "compressed", "Bytes of gzip, zstd, xz or lz4.";
    Framed, "framed", "Begins with a zero byte, as the header of a schema registry does.";
    NotUtf8, "not-utf8", "Not valid UTF-8.";
    NotObject, "not-object", "JSON, but an array or a single value at the top.";
    Incomplete, "incomplete", "The JSON ends too early.";
    SeveralDocuments, "several-documents", "More than one JSON value.";
    TrailingData, "trailing-data", "Something else follows the JSON object.";
    Syntax, "syntax", "Not JSON.";
    Escape, "escape", "A wrong escape in a string, or half of a surrogate pair.";
    TooDeep, "too-deep", "Nested deeper than 128 levels.";
    TooManyKeys, "too-many-keys", "More than 65,536 keys.";
    Shape, "shape", "An object or array where a value is declared, or the other way round.";
    Type, "type", "A value that is not of the column's type.";
    Range, "range", "A value its type cannot hold.";
    Missing, "missing", "A NOT NULL column without a value.";
    Computed, "computed", "A computed column failed on the row.";
    NoTime, "no-time", "The event time is NULL.";
    Future, "future", "The event time lies too far in the future.";
    Fields, "fields", "A CSV row with another number of fields.";
}

impl std::fmt::Display for FaultClass {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}
