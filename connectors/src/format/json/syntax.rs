//! Is a payload one JSON object, to the letter of RFC 8259?
//!
//! Why before the tape: arrow's tokeniser lets missing and spare commas pass, stops at nothing
//! that nests, and says little about what is wrong. What passes here is read the same way by every
//! JSON library, so a view agrees with whatever else reads the topic. One pass, no recursion, no
//! memory but a few words.

use tidemill_contract::FaultClass;

/// Longest payload that is decoded: what a feed takes as one row, and far beyond Kafka's default.
pub(super) const PAYLOAD_BYTES_MAX: usize = 16 << 20;
/// Deepest nesting: what one bit a level in a `u128` can follow, and what other parsers take.
const DEPTH_MAX: u32 = 128;
/// Most keys of one payload, all levels together.
const KEYS_MAX: u32 = 65_536;

/// First bytes that betray another kind of data.
const SIGNATURES: &[(&[u8], FaultClass, &str)] = &[
    (b"\xEF\xBB\xBF", FaultClass::ByteOrderMark, "the payload begins with a byte order mark"),
    (b"\xFF\xFE", FaultClass::Encoding, "the payload is UTF-16 or UTF-32"),
    (b"\xFE\xFF", FaultClass::Encoding, "the payload is UTF-16"),
    (b"\0\0\xFE\xFF", FaultClass::Encoding, "the payload is UTF-32"),
    (b"{\0", FaultClass::Encoding, "the payload is UTF-16 or UTF-32"),
    (b"\0{", FaultClass::Encoding, "the payload is UTF-16"),
    (b"\0\0\0{", FaultClass::Encoding, "the payload is UTF-32"),
    (b"\x1F\x8B", FaultClass::Compressed, "the payload is compressed with gzip"),
    (b"\x28\xB5\x2F\xFD", FaultClass::Compressed, "the payload is compressed with zstd"),
    (b"\xFD7zXZ\0", FaultClass::Compressed, "the payload is compressed with xz"),
    (b"\x04\x22\x4D\x18", FaultClass::Compressed, "the payload is compressed with lz4"),
    (b"\0", FaultClass::Framed, "the payload begins with a zero byte, as a schema registry's does"),
];

/// Why a payload is not taken.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Flaw {
    pub(super) class: FaultClass,
    pub(super) reason: String,
}

fn flaw<T>(class: FaultClass, reason: impl Into<String>) -> Result<T, Flaw> {
    Err(Flaw { class, reason: reason.into() })
}

/// Checks a payload.
pub(super) fn check(payload: &[u8]) -> Result<(), Flaw> {
    if payload.len() > PAYLOAD_BYTES_MAX {
        let length = payload.len();
        let reason = format!("the payload has {length} bytes, more than {PAYLOAD_BYTES_MAX}");
        return flaw(FaultClass::TooLarge, reason);
    }
    let signature = SIGNATURES.iter().find(|(bytes, ..)| payload.starts_with(bytes));
    if let Some((_, class, reason)) = signature {
        return flaw(*class, *reason);
    }
    if let Err(error) = std::str::from_utf8(payload) {
        let reason = format!("byte {} is not valid UTF-8", error.valid_up_to());
        return flaw(FaultClass::NotUtf8, reason);
    }
    let mut scanner = Scanner::new(payload);
    scanner.skip_space();
    let Some(first) = scanner.peek() else {
        return flaw(FaultClass::Empty, "the payload is empty");
    };
    scanner.value()?;
    scanner.skip_space();
    if scanner.peek().is_some() {
        let at = scanner.at;
        let more = scanner.value().is_ok();
        return if more {
            flaw(FaultClass::SeveralDocuments, format!("another JSON value begins at byte {at}"))
        } else {
            flaw(FaultClass::TrailingData, format!("something follows the JSON value at byte {at}"))
        };
    }
    let what = match first {
        b'{' => return Ok(()),
        b'[' => "an array",
        b'"' => "a string",
        b't' | b'f' => "a boolean",
        b'n' => "null",
        _ => "a number",
    };
    flaw(FaultClass::NotObject, format!("the payload is {what}, not a JSON object"))
}

/// A place in the payload and what is open there.
pub(super) struct Scanner<'a> {
    bytes: &'a [u8],
    pub(super) at: usize,
    depth: u32,
    /// The depth at which a value ends.
    base: u32,
    /// One bit a level, the innermost lowest: 1 for an object, 0 for an array.
    objects: u128,
    keys: u32,
}

impl<'a> Scanner<'a> {
    /// At the begin of a payload.
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0, depth: 0, base: 0, objects: 0, keys: 0 }
    }

    /// Enters the object that is the payload: values from here on are those of its keys. False if
    /// it is none.
    pub(super) fn enter(&mut self) -> bool {
        self.skip_space();
        if self.peek() != Some(b'{') {
            return false;
        }
        self.at += 1;
        (self.depth, self.base, self.objects) = (1, 1, 1);
        true
    }

    /// Passes a string without escapes or a whole number that ends where a value may end, the
    /// usual values; false if it is something else, and nothing is passed.
    #[inline]
    pub(super) fn pass_simple(&mut self) -> bool {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let length = match rest {
            [b'"', text @ ..] => match find_special(text) {
                Some(length) if text.get(length) == Some(&b'"') => length + 2,
                _ => return false,
            },
            [first @ b'0'..=b'9', ..] => {
                let digits = rest.iter().position(|byte| !byte.is_ascii_digit());
                match digits.map(|length| (length, rest.get(length))) {
                    Some((length, Some(b',' | b'}'))) if *first != b'0' || length == 1 => length,
                    _ => return false,
                }
            }
            _ => return false,
        };
        self.at += length;
        true
    }

    /// Passes a key and its colon that are known to be well formed; false if there are too many.
    #[inline]
    pub(super) fn pass_key(&mut self, length: usize) -> bool {
        self.at += length;
        self.keys += 1;
        self.keys <= KEYS_MAX
    }

    #[inline]
    pub(super) fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    #[inline]
    pub(super) fn skip_space(&mut self) {
        while let Some(b' ' | b'\n' | b'\r' | b'\t') = self.peek() {
            self.at += 1;
        }
    }

    /// One value with everything in it.
    pub(super) fn value(&mut self) -> Result<(), Flaw> {
        loop {
            self.skip_space();
            let opened = match self.peek() {
                Some(b'{') => self.open(true)?,
                Some(b'[') => self.open(false)?,
                Some(b'"') => self.string().map(|()| false)?,
                Some(b'-' | b'0'..=b'9') => self.number().map(|()| false)?,
                Some(b't') => self.literal(b"true").map(|()| false)?,
                Some(b'f') => self.literal(b"false").map(|()| false)?,
                Some(b'n') => self.literal(b"null").map(|()| false)?,
                Some(_) => return self.unexpected("a value"),
                None => return incomplete(),
            };
            if !opened && self.close()? {
                return Ok(());
            }
        }
    }

    /// Enters an object or array; true if a value comes next, false if it was empty.
    fn open(&mut self, is_object: bool) -> Result<bool, Flaw> {
        if self.depth == DEPTH_MAX {
            let reason = format!("nested deeper than {DEPTH_MAX} levels at byte {}", self.at);
            return flaw(FaultClass::TooDeep, reason);
        }
        self.at += 1;
        self.skip_space();
        let end = if is_object { b'}' } else { b']' };
        if self.peek() == Some(end) {
            self.at += 1;
            return Ok(false);
        }
        self.depth += 1;
        self.objects = self.objects << 1 | u128::from(is_object);
        if is_object {
            self.key()?;
        }
        Ok(true)
    }

    /// After a value: leaves what ends here. True if that was all, false if a value comes next.
    fn close(&mut self) -> Result<bool, Flaw> {
        while self.depth > self.base {
            self.skip_space();
            let in_object = self.objects & 1 == 1;
            match (self.peek(), in_object) {
                (Some(b','), _) => {
                    self.at += 1;
                    if in_object {
                        self.skip_space();
                        self.key()?;
                    }
                    return Ok(false);
                }
                (Some(b'}'), true) | (Some(b']'), false) => {
                    self.at += 1;
                    self.depth -= 1;
                    self.objects >>= 1;
                }
                (Some(_), true) => return self.unexpected("',' or '}'"),
                (Some(_), false) => return self.unexpected("',' or ']'"),
                (None, _) => return incomplete(),
            }
        }
        Ok(true)
    }

    /// A key and its colon.
    pub(super) fn key(&mut self) -> Result<(), Flaw> {
        self.keys += 1;
        if self.keys > KEYS_MAX {
            return flaw(FaultClass::TooManyKeys, format!("more than {KEYS_MAX} keys"));
        }
        match self.peek() {
            Some(b'"') => self.string()?,
            Some(_) => return self.unexpected("a key in double quotes"),
            None => return incomplete(),
        }
        self.skip_space();
        match self.peek() {
            Some(b':') => self.at += 1,
            Some(_) => return self.unexpected("':'"),
            None => return incomplete(),
        }
        Ok(())
    }

    fn string(&mut self) -> Result<(), Flaw> {
        self.text().map(|_| ())
    }

    /// A string; true if it has escapes.
    pub(super) fn text(&mut self) -> Result<bool, Flaw> {
        self.at += 1;
        let mut has_escapes = false;
        loop {
            let rest = self.bytes.get(self.at..).unwrap_or_default();
            let Some(length) = find_special(rest) else { return incomplete() };
            self.at += length;
            match rest[length] {
                b'"' => {
                    self.at += 1;
                    return Ok(has_escapes);
                }
                b'\\' => {
                    has_escapes = true;
                    self.escape()?;
                }
                control => {
                    let reason =
                        format!("control character {control} in a string, byte {}", self.at);
                    return flaw(FaultClass::Syntax, reason);
                }
            }
        }
    }

    fn escape(&mut self) -> Result<(), Flaw> {
        let start = self.at;
        let bad = |what: &str| flaw(FaultClass::Escape, format!("{what} at byte {start}"));
        match self.bytes.get(self.at + 1) {
            None => return incomplete(),
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => self.at += 2,
            Some(b'u') => match self.unit(start)? {
                None => return bad("an escape without four hex digits"),
                Some(0xDC00..=0xDFFF) => return bad("the second half of a surrogate pair"),
                Some(0xD800..=0xDBFF) => {
                    self.at += 6;
                    match self.unit(self.at)? {
                        Some(0xDC00..=0xDFFF) => self.at += 6,
                        _ => return bad("the first half of a surrogate pair"),
                    }
                }
                Some(_) => self.at += 6,
            },
            Some(_) => return bad("an unknown escape"),
        }
        Ok(())
    }

    /// The code unit of the escape with four hex digits at `start`, `None` if there is none.
    fn unit(&self, start: usize) -> Result<Option<u16>, Flaw> {
        let Some(text) = self.bytes.get(start..start + 6) else {
            // Cut in the middle of an escape: the string has no end either.
            let is_open = !self.bytes.get(start..).unwrap_or_default().contains(&b'"');
            return if is_open { incomplete() } else { Ok(None) };
        };
        let digits = text.strip_prefix(b"\\u").filter(|hex| hex.iter().all(u8::is_ascii_hexdigit));
        let digits = digits.and_then(|hex| std::str::from_utf8(hex).ok());
        Ok(digits.and_then(|hex| u16::from_str_radix(hex, 16).ok()))
    }

    /// No leading zeros, no bare points.
    pub(super) fn number(&mut self) -> Result<(), Flaw> {
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        match self.peek() {
            Some(b'0') => self.at += 1,
            Some(b'1'..=b'9') => self.digits(),
            Some(_) => return self.unexpected("a digit"),
            None => return incomplete(),
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.some_digits()?;
        }
        if let Some(b'e' | b'E') = self.peek() {
            self.at += 1;
            if let Some(b'+' | b'-') = self.peek() {
                self.at += 1;
            }
            self.some_digits()?;
        }
        match self.peek() {
            Some(byte) if byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'+' | b'-') => {
                self.unexpected("the end of the number")
            }
            _ => Ok(()),
        }
    }

    fn some_digits(&mut self) -> Result<(), Flaw> {
        match self.peek() {
            Some(b'0'..=b'9') => {
                self.digits();
                Ok(())
            }
            Some(_) => self.unexpected("a digit"),
            None => incomplete(),
        }
    }

    fn digits(&mut self) {
        while let Some(b'0'..=b'9') = self.peek() {
            self.at += 1;
        }
    }

    pub(super) fn literal(&mut self, word: &[u8]) -> Result<(), Flaw> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        if rest.starts_with(word) {
            self.at += word.len();
            return Ok(());
        }
        if word.starts_with(rest) {
            return incomplete();
        }
        self.unexpected("a value")
    }

    fn unexpected<T>(&self, wanted: &str) -> Result<T, Flaw> {
        // The payload is valid UTF-8 and every step ends between two characters.
        let rest = self.bytes.get(self.at..).and_then(|rest| std::str::from_utf8(rest).ok());
        let found = rest.and_then(|rest| rest.chars().next()).unwrap_or('\u{FFFD}');
        flaw(FaultClass::Syntax, format!("expected {wanted} at byte {}, found {found:?}", self.at))
    }
}

fn incomplete<T>() -> Result<T, Flaw> {
    flaw(FaultClass::Incomplete, "the JSON ends too early")
}

/// The first byte that ends a string or needs a look: a quote, a backslash or a control character.
///
/// Eight bytes at a time; in each of the three tests a byte that is found has its highest bit set,
/// and a borrow can only mark bytes above one that is found (Mycroft's test for a zero byte).
#[inline]
fn find_special(bytes: &[u8]) -> Option<usize> {
    const ONES: u64 = u64::MAX / 0xFF;
    const HIGHEST: u64 = ONES << 7;
    let below = |word: u64, least: u64| word.wrapping_sub(ONES * least) & !word & HIGHEST;
    let (words, rest) = bytes.as_chunks::<8>();
    for (index, word) in words.iter().enumerate() {
        let word = u64::from_le_bytes(*word);
        let quote = below(word ^ (ONES * u64::from(b'"')), 1);
        let escape = below(word ^ (ONES * u64::from(b'\\')), 1);
        let found = quote | escape | below(word, 0x20);
        if found != 0 {
            return Some(index * 8 + found.trailing_zeros() as usize / 8);
        }
    }
    let special = |byte: &u8| matches!(byte, b'"' | b'\\' | 0..=0x1F);
    rest.iter().position(special).map(|at| words.len() * 8 + at)
}
