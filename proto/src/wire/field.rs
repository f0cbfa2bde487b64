//! How each type of field is written. All integers are big-endian.

use std::borrow::Cow;

use bytes::{Buf as _, Bytes};

use super::codec::Encoder;
use crate::ids::{AttributeId, WriterId};

/// Why a field could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldError {
    /// The payload ends too early.
    Short,
    /// The bytes mean nothing.
    Invalid(&'static str),
}

/// A value that can stand in a frame.
pub trait Field: Sized {
    /// Reads it off the front of `bytes`.
    ///
    /// # Errors
    /// [`FieldError`]; the frame is then useless.
    fn get(bytes: &mut Bytes) -> Result<Self, FieldError>;
    /// Returns the bytes it takes.
    fn size(&self) -> usize;
    /// Writes it.
    fn put(&self, out: &mut Encoder);
}

macro_rules! integers {
    ($($type:ty),*) => {$(
        impl Field for $type {
            fn get(bytes: &mut Bytes) -> Result<Self, FieldError> {
                const SIZE: usize = size_of::<$type>();
                let raw = *bytes.first_chunk::<SIZE>().ok_or(FieldError::Short)?;
                bytes.advance(SIZE);
                Ok(<$type>::from_be_bytes(raw))
            }
            fn size(&self) -> usize {
                size_of::<$type>()
            }
            fn put(&self, out: &mut Encoder) {
                out.put_slice(&self.to_be_bytes());
            }
        }
    )*};
}
integers!(u8, u16, i32, i64, u128);

macro_rules! ids {
    ($($type:ident),*) => {$(
        impl Field for $type {
            fn get(bytes: &mut Bytes) -> Result<Self, FieldError> {
                u128::get(bytes).map($type)
            }
            fn size(&self) -> usize {
                16
            }
            fn put(&self, out: &mut Encoder) {
                self.0.put(out);
            }
        }
    )*};
}
ids!(WriterId, AttributeId);

/// Written as 0 or 1. Any other byte is read as true, which is what the Java client does.
impl Field for bool {
    fn get(bytes: &mut Bytes) -> Result<Self, FieldError> {
        Ok(u8::get(bytes)? != 0)
    }

    fn size(&self) -> usize {
        1
    }

    fn put(&self, out: &mut Encoder) {
        out.put_u8((*self).into());
    }
}

/// A string: `u16` length and Java's modified UTF-8 (NUL as two bytes, supplementary characters as two
/// surrogates of three bytes each).
impl Field for String {
    fn get(bytes: &mut Bytes) -> Result<Self, FieldError> {
        let length = usize::from(u16::get(bytes)?);
        if bytes.len() < length {
            return Err(FieldError::Short);
        }
        let raw = bytes.split_to(length);
        decode_modified_utf8(&raw).ok_or(FieldError::Invalid("string"))
    }

    fn size(&self) -> usize {
        2 + modified_utf8(self).len()
    }

    fn put(&self, out: &mut Encoder) {
        let raw = modified_utf8(self);
        // `modified_utf8` cuts what is longer.
        out.put_slice(&(raw.len() as u16).to_be_bytes());
        out.put_slice(&raw);
    }
}

/// At most as many bytes as the length field can say: a longer text is cut behind its last whole
/// character. Names never get there by themselves, but a name of a client's can: characters that it
/// sent in four bytes take six in our answer.
fn modified_utf8(text: &str) -> Cow<'_, [u8]> {
    const MAX: usize = u16::MAX as usize;
    if text.len() <= MAX && text.bytes().all(|byte| byte != 0 && byte < 0x80) {
        return Cow::Borrowed(text.as_bytes());
    }
    let mut out = Vec::new();
    for character in text.chars() {
        let before = out.len();
        encode_modified_utf8(character, &mut out);
        if out.len() > MAX {
            out.truncate(before);
            break;
        }
    }
    Cow::Owned(out)
}

fn encode_modified_utf8(character: char, out: &mut Vec<u8>) {
    for unit in character.encode_utf16(&mut [0; 2]) {
        let unit = *unit;
        match unit {
            0x01..=0x7F => out.push(unit as u8),
            0 | 0x80..=0x7FF => out.extend([0xC0 | (unit >> 6) as u8, 0x80 | (unit & 0x3F) as u8]),
            _ => out.extend([
                0xE0 | (unit >> 12) as u8,
                0x80 | (unit >> 6 & 0x3F) as u8,
                0x80 | (unit & 0x3F) as u8,
            ]),
        }
    }
}

/// Also takes standard UTF-8 of four bytes, which the Rust client writes.
fn decode_modified_utf8(raw: &[u8]) -> Option<String> {
    if let Ok(text) = std::str::from_utf8(raw) {
        return Some(text.to_owned());
    }
    let mut units = Vec::with_capacity(raw.len());
    let mut rest = raw.iter().map(|byte| u16::from(*byte));
    let continuation = |rest: &mut dyn Iterator<Item = u16>| {
        rest.next()
            .filter(|byte| byte & 0xC0 == 0x80)
            .map(|byte| byte & 0x3F)
    };
    while let Some(first) = rest.next() {
        units.push(match first {
            0x00..=0x7F => first,
            0xC0..=0xDF => (first & 0x1F) << 6 | continuation(&mut rest)?,
            0xE0..=0xEF => {
                (first & 0x0F) << 12 | continuation(&mut rest)? << 6 | continuation(&mut rest)?
            }
            _ => return None,
        });
    }
    String::from_utf16(&units).ok()
}

/// Bytes behind an `i32` length.
impl Field for Bytes {
    fn get(bytes: &mut Bytes) -> Result<Self, FieldError> {
        let length =
            usize::try_from(i32::get(bytes)?).map_err(|_| FieldError::Invalid("length"))?;
        if bytes.len() < length {
            return Err(FieldError::Short);
        }
        Ok(bytes.split_to(length))
    }

    fn size(&self) -> usize {
        4 + self.len()
    }

    fn put(&self, out: &mut Encoder) {
        (self.len() as i32).put(out);
        out.put_payload(self);
    }
}

/// Everything up to the end of the payload.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rest(pub Bytes);

impl Field for Rest {
    fn get(bytes: &mut Bytes) -> Result<Self, FieldError> {
        Ok(Self(bytes.split_to(bytes.len())))
    }

    fn size(&self) -> usize {
        self.0.len()
    }

    fn put(&self, out: &mut Encoder) {
        out.put_payload(&self.0);
    }
}

/// A whole event frame inside another frame: type 0, length, bytes. The header is part of the value,
/// because it is part of what is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventFrame(pub Bytes);

impl Field for EventFrame {
    fn get(bytes: &mut Bytes) -> Result<Self, FieldError> {
        let mut header = bytes.clone();
        if i32::get(&mut header)? != 0 {
            return Err(FieldError::Invalid("event type"));
        }
        let length = usize::try_from(i32::get(&mut header)?);
        let length = length.map_err(|_| FieldError::Invalid("event length"))?;
        if header.len() < length {
            return Err(FieldError::Short);
        }
        Ok(Self(bytes.split_to(8 + length)))
    }

    fn size(&self) -> usize {
        self.0.len()
    }

    fn put(&self, out: &mut Encoder) {
        out.put_payload(&self.0);
    }
}

/// Most elements of a list. An empty string has two bytes on the wire and 24 in memory, so that a frame of
/// the largest size would take hundreds of MB; what carries lists has thousands of elements at most.
pub const ELEMENTS_MAX: usize = 1 << 18;

/// A list: `i32` count and elements, at most [`ELEMENTS_MAX`].
impl<T: Field> Field for Vec<T> {
    fn get(bytes: &mut Bytes) -> Result<Self, FieldError> {
        let count = usize::try_from(i32::get(bytes)?).map_err(|_| FieldError::Invalid("count"))?;
        // Every element takes at least a byte, so a claimed count never reserves more than was sent.
        if count > bytes.len() {
            return Err(FieldError::Short);
        }
        if count > ELEMENTS_MAX {
            return Err(FieldError::Invalid("count"));
        }
        let mut list = Vec::new();
        for _ in 0..count {
            list.push(T::get(bytes)?);
        }
        Ok(list)
    }

    fn size(&self) -> usize {
        4 + self.iter().map(Field::size).sum::<usize>()
    }

    fn put(&self, out: &mut Encoder) {
        (self.len() as i32).put(out);
        for element in self {
            element.put(out);
        }
    }
}

macro_rules! fields {
    ($($(#[$doc:meta])* $name:ident { $($(#[$fdoc:meta])* $field:ident: $type:ty),* $(,)? })*) => {$(
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct $name { $($(#[$fdoc])* pub $field: $type),* }
        impl Field for $name {
            fn get(bytes: &mut Bytes) -> Result<Self, FieldError> {
                Ok(Self { $($field: <$type>::get(bytes)?),* })
            }
            fn size(&self) -> usize {
                0 $(+ self.$field.size())*
            }
            fn put(&self, out: &mut Encoder) {
                $(self.$field.put(out);)*
            }
        }
    )*};
}

fields! {
    /// A change of an attribute that goes with a merge.
    AttributeUpdate {
        /// The attribute.
        attribute_id: AttributeId,
        /// 1 replace, 4 replace if equal to `old_value`.
        update_type: u8,
        /// The value afterwards.
        new_value: i64,
        /// The value expected before, for type 4.
        old_value: i64,
    }
    /// A source of a batch merge and the target's length after it.
    MergedSource {
        /// The segment that was merged and is gone.
        source: String,
        /// The target's length behind it.
        target_length: i64,
    }
    /// A key and its value in a table segment.
    TableEntry {
        /// The key and its version.
        key: TableKey,
        /// The value.
        value: TableValue,
    }
    /// A piece of a segment in long-term storage.
    StorageChunk {
        /// Length according to metadata.
        length_in_metadata: i64,
        /// Length of the object.
        length_in_storage: i64,
        /// Offset of its first byte in the segment.
        start_offset: i64,
        /// The object's name.
        name: String,
        /// Whether the object is there.
        exists: bool,
    }
}

/// A key in a table segment: `i32` total, `i32` length, bytes, version. An empty key has no version on
/// the wire (a quirk of the Java client, both ways).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableKey {
    /// The key.
    pub key: Bytes,
    /// Its version, [`TableKey::NO_VERSION`] or [`TableKey::NOT_EXISTS`].
    pub version: i64,
}

impl TableKey {
    /// No condition.
    pub const NO_VERSION: i64 = i64::MIN;
    /// The key must be absent, or, in a reply, is.
    pub const NOT_EXISTS: i64 = -1;
}

impl Field for TableKey {
    fn get(bytes: &mut Bytes) -> Result<Self, FieldError> {
        let total =
            usize::try_from(i32::get(bytes)?).map_err(|_| FieldError::Invalid("key size"))?;
        let key = Bytes::get(bytes)?;
        if total != 12 + key.len() {
            return Err(FieldError::Invalid("key size"));
        }
        let version = if key.is_empty() {
            Self::NO_VERSION
        } else {
            i64::get(bytes)?
        };
        Ok(Self { key, version })
    }

    fn size(&self) -> usize {
        8 + self.key.len() + if self.key.is_empty() { 0 } else { 8 }
    }

    fn put(&self, out: &mut Encoder) {
        (12 + self.key.len() as i32).put(out);
        self.key.put(out);
        if !self.key.is_empty() {
            self.version.put(out);
        }
    }
}

/// A value in a table segment: `i32` total, `i32` length, bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TableValue(pub Bytes);

impl Field for TableValue {
    fn get(bytes: &mut Bytes) -> Result<Self, FieldError> {
        let total = usize::try_from(i32::get(bytes)?);
        let value = Bytes::get(bytes)?;
        if total != Ok(4 + value.len()) {
            return Err(FieldError::Invalid("value size"));
        }
        Ok(Self(value))
    }

    fn size(&self) -> usize {
        8 + self.0.len()
    }

    fn put(&self, out: &mut Encoder) {
        (4 + self.0.len() as i32).put(out);
        self.0.put(out);
    }
}

/// The part of a table iterator that the client chooses. Absent parts are empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IteratorArgs {
    /// Where the previous page ended, for hash tables.
    pub continuation_token: Bytes,
    /// Deprecated and ignored.
    pub prefix: Bytes,
    /// First key, inclusive, for tables of fixed key length.
    pub from_key: Bytes,
    /// Last key, inclusive.
    pub to_key: Bytes,
}

impl Field for IteratorArgs {
    fn get(bytes: &mut Bytes) -> Result<Self, FieldError> {
        let mut next = || {
            if bytes.len() < 4 {
                Ok(Bytes::new())
            } else {
                Bytes::get(bytes)
            }
        };
        Ok(Self {
            continuation_token: next()?,
            prefix: next()?,
            from_key: next()?,
            to_key: next()?,
        })
    }

    fn size(&self) -> usize {
        self.continuation_token.size()
            + self.prefix.size()
            + self.from_key.size()
            + self.to_key.size()
    }

    fn put(&self, out: &mut Encoder) {
        self.continuation_token.put(out);
        self.prefix.put(out);
        self.from_key.put(out);
        self.to_key.put(out);
    }
}

/// Reads a field that old peers leave out: `default` if no byte of it is there.
pub(super) fn get_or<T: Field>(bytes: &mut Bytes, default: T) -> Result<T, FieldError> {
    if bytes.is_empty() {
        Ok(default)
    } else {
        T::get(bytes)
    }
}
