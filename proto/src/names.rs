//! What scopes, streams and segments are called, and the text forms of those names.
//!
//! A segment of a stream is `scope/stream/NUMBER.#epoch.EPOCH`; a transaction's and a transient segment
//! hang their own suffix behind that. Two rules for the parts of a name: [`ScopeName::new`] and
//! [`StreamName::new`] admit what may be *created*; `occurring` admits what may *occur* in requests
//! (table segments of clients are named `NAME_kvtable` and no controller ever created them). Neither
//! admits anything that could leave its place in a path.
//!
//! The segment store takes segments under any text; only [`primary`] looks into it.

use std::fmt;
use std::str::FromStr;

use crate::ids::{SegmentId, TransactionId, WriterId};

/// The scope of what the system keeps for itself; segments in it are placed by their full name.
pub const SYSTEM_SCOPE: &str = "_system";
/// In front of a reader group's name: the stream of its state, in the group's scope.
pub const READER_GROUP_PREFIX: &str = "_RG";
/// In front of a stream's name: the stream of its watermarks, in the same scope.
pub const MARK_PREFIX: &str = "_MARK";
/// Behind a key-value table's name: the "stream" its segments belong to.
pub const TABLE_SUFFIX: &str = "_kvtable";

/// Longest scope or stream name that may be created, in bytes.
pub const NAME_BYTES_MAX: usize = 255;
/// Longest part of a name that may occur: the longest creatable one with a prefix or suffix of ours.
const OCCURRING_BYTES_MAX: usize = NAME_BYTES_MAX + 16;

const EPOCH: &str = ".#epoch.";
const TRANSACTION: &str = "#transaction.";
const TRANSIENT: &str = "#transient.";
/// Digits of a 128-bit id in a name.
const ID_DIGITS: usize = 32;

/// Why a text is no name. Refused: the caller's mistake.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing there.
    #[error("{kind} is empty")]
    Empty {
        /// What the text should name.
        kind: &'static str,
    },
    /// Longer than allowed.
    #[error("{kind} has {bytes} bytes, at most {max} are allowed")]
    Long {
        /// What the text should name.
        kind: &'static str,
        /// Its length.
        bytes: usize,
        /// The limit.
        max: usize,
    },
    /// `.` or `..`.
    #[error("{kind} must not be {text:?}")]
    Dots {
        /// What the text should name.
        kind: &'static str,
        /// The text.
        text: String,
    },
    /// A character that has no place in it.
    #[error("{kind} {text:?} contains {character:?}; {allowed}")]
    Character {
        /// What the text should name.
        kind: &'static str,
        /// The text.
        text: String,
        /// The first character that does not fit.
        character: char,
        /// What would.
        allowed: &'static str,
    },
    /// The parts of a longer name are not there.
    #[error("{text:?} is not of the form {form}")]
    Form {
        /// The text.
        text: String,
        /// What it should look like.
        form: &'static str,
    },
}

macro_rules! part {
    ($(#[$doc:meta])* $name:ident, $kind:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(String);

        impl $name {
            /// Takes a name that may be created: letters, digits, `.` and `-`, behind at most one
            /// leading underscore (names with one are internal).
            ///
            /// # Errors
            /// What is wrong with the text.
            pub fn new(text: impl Into<String>) -> Result<Self, NameError> {
                check_creatable($kind, text.into()).map(Self)
            }

            /// Takes a name that may occur in a request although nothing of that name can be created:
            /// also with underscores anywhere.
            ///
            /// # Errors
            /// What is wrong with the text.
            pub fn occurring(text: impl Into<String>) -> Result<Self, NameError> {
                check_occurring($kind, text.into()).map(Self)
            }

            /// Returns the text.
            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// Returns whether it is not a user's: it starts with an underscore.
            pub fn is_internal(&self) -> bool {
                self.0.starts_with('_')
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = NameError;

            /// Same as `new`.
            fn from_str(text: &str) -> Result<Self, NameError> {
                Self::new(text)
            }
        }
    };
}

part!(
    /// The name of a scope.
    ScopeName,
    "scope name"
);
part!(
    /// The name of a stream within its scope.
    StreamName,
    "stream name"
);

impl ScopeName {
    /// Returns the scope of internal things.
    pub fn system() -> Self {
        Self(SYSTEM_SCOPE.to_owned())
    }
}

impl StreamName {
    /// Returns the stream that keeps this one's watermarks.
    pub fn mark(&self) -> Self {
        Self(format!("{MARK_PREFIX}{self}"))
    }

    /// Returns the stream that keeps a reader group's state.
    pub fn of_reader_group(group: &Self) -> Self {
        Self(format!("{READER_GROUP_PREFIX}{group}"))
    }

    /// Returns the "stream" that a key-value table's segments belong to.
    pub fn of_table(table: &Self) -> Self {
        Self(format!("{table}{TABLE_SUFFIX}"))
    }

    /// Returns the name of the reader group whose state this stream keeps, if it is such a stream.
    pub fn reader_group(&self) -> Option<&str> {
        self.0.strip_prefix(READER_GROUP_PREFIX)
    }

    /// Returns the name of the stream whose watermarks this one keeps, if it is such a stream.
    pub fn marked(&self) -> Option<&str> {
        self.0.strip_prefix(MARK_PREFIX)
    }

    /// Returns the name of the key-value table whose segments these are, if it is such a "stream".
    pub fn table(&self) -> Option<&str> {
        self.0.strip_suffix(TABLE_SUFFIX)
    }
}

/// A stream and its scope. Text form `scope/stream`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ScopedStream {
    /// The scope.
    pub scope: ScopeName,
    /// The stream.
    pub stream: StreamName,
}

impl ScopedStream {
    /// Puts the name of one of its segments together.
    pub fn segment(&self, id: SegmentId) -> StreamSegment {
        StreamSegment {
            stream: self.clone(),
            id,
        }
    }

    /// Returns the stream that keeps this one's watermarks.
    pub fn mark(&self) -> Self {
        Self {
            scope: self.scope.clone(),
            stream: self.stream.mark(),
        }
    }
}

impl fmt::Display for ScopedStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.scope, self.stream)
    }
}

impl FromStr for ScopedStream {
    type Err = NameError;

    /// Takes names that may occur.
    fn from_str(text: &str) -> Result<Self, NameError> {
        let (scope, stream) = text
            .split_once('/')
            .ok_or_else(|| form(text, "scope/stream"))?;
        Ok(Self {
            scope: ScopeName::occurring(scope)?,
            stream: StreamName::occurring(stream)?,
        })
    }
}

/// A segment of a stream. Text form `scope/stream/NUMBER.#epoch.EPOCH`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamSegment {
    /// The stream.
    pub stream: ScopedStream,
    /// Which of its segments.
    pub id: SegmentId,
}

impl StreamSegment {
    /// Returns the name of this segment's part in a transaction. For that the id must be the
    /// *transaction's* epoch with this segment's number; no segment with that id need exist.
    pub fn transaction(&self, transaction: TransactionId) -> SegmentName {
        SegmentName::Transaction {
            parent: self.clone(),
            transaction,
        }
    }
}

impl fmt::Display for StreamSegment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.stream, self.id)
    }
}

impl FromStr for StreamSegment {
    type Err = NameError;

    /// A missing epoch is epoch 0.
    fn from_str(text: &str) -> Result<Self, NameError> {
        const FORM: &str = "scope/stream/NUMBER.#epoch.EPOCH";
        let wrong = || form(text, FORM);
        let (stream, id) = text.rsplit_once('/').ok_or_else(wrong)?;
        let (number, epoch) = id.split_once(EPOCH).unwrap_or((id, "0"));
        let number = parse_number(number).ok_or_else(wrong)?;
        let epoch = parse_number(epoch).ok_or_else(wrong)?;
        Ok(Self {
            stream: stream.parse()?,
            id: SegmentId::new(epoch, number),
        })
    }
}

/// Any segment name that has a meaning.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SegmentName {
    /// A stream's own.
    Stream(StreamSegment),
    /// A transaction's part for one segment: `PARENT#transaction.` and 32 hex digits.
    Transaction {
        /// Number of the segment it will be merged into, epoch of the transaction.
        parent: StreamSegment,
        /// The transaction.
        transaction: TransactionId,
    },
    /// One that dies with its connection: `PARENT#transient.`, 32 hex digits, `.`, 32 hex digits.
    Transient {
        /// The segment it will be merged into.
        parent: StreamSegment,
        /// Who asked for it.
        writer: WriterId,
        /// Tells one writer's transient segments apart.
        nonce: u128,
    },
}

impl fmt::Display for SegmentName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stream(segment) => segment.fmt(f),
            Self::Transaction {
                parent,
                transaction,
            } => write!(f, "{parent}{TRANSACTION}{:032x}", transaction.0),
            Self::Transient {
                parent,
                writer,
                nonce,
            } => write!(f, "{parent}{TRANSIENT}{:032x}.{nonce:032x}", writer.0),
        }
    }
}

impl FromStr for SegmentName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        if let Some((parent, suffix)) = split_transaction(text) {
            let id = parse_id(suffix);
            let id = id.ok_or_else(|| form(text, "SEGMENT#transaction.ID, ID 32 hex digits"))?;
            return Ok(Self::Transaction {
                parent: parent.parse()?,
                transaction: TransactionId(id),
            });
        }
        if let Some((parent, suffix)) = split_transient(text) {
            let ids = suffix.split_once('.');
            let ids = ids.and_then(|(writer, nonce)| parse_id(writer).zip(parse_id(nonce)));
            let (writer, nonce) = ids
                .ok_or_else(|| form(text, "SEGMENT#transient.WRITER.NONCE, each 32 hex digits"))?;
            return Ok(Self::Transient {
                parent: parent.parse()?,
                writer: WriterId(writer),
                nonce,
            });
        }
        text.parse().map(Self::Stream)
    }
}

/// Returns the name of the new transient segment for a parent of any name.
pub fn transient_segment(parent: &str, writer: WriterId, nonce: u128) -> String {
    format!("{parent}{TRANSIENT}{:032x}.{nonce:032x}", writer.0)
}

/// Returns the part of a segment's name that decides where it lives: without transaction, transient and
/// epoch suffixes, so that a segment, its transactions, and its successors of the same number are
/// neighbours and can be merged. Segments of the system scope count with their full name.
pub fn primary(segment: &str) -> &str {
    if is_internal(segment) {
        return segment;
    }
    let parent = split_transaction(segment).or_else(|| split_transient(segment));
    let parent = parent.map_or(segment, |(parent, _)| parent);
    match parent.rsplit_once(EPOCH) {
        Some((primary, epoch)) if parse_number(epoch).is_some() => primary,
        _ => parent,
    }
}

/// Returns whether it is a transaction's segment.
pub fn is_transaction(segment: &str) -> bool {
    split_transaction(segment).is_some()
}

/// Returns whether it is a segment that dies with its connection.
pub fn is_transient(segment: &str) -> bool {
    split_transient(segment).is_some()
}

/// Returns whether it is a segment of the system scope.
pub fn is_internal(segment: &str) -> bool {
    segment
        .strip_prefix(SYSTEM_SCOPE)
        .is_some_and(|rest| rest.starts_with('/'))
}

/// The last `#transaction.` counts, if an id can stand behind it.
fn split_transaction(segment: &str) -> Option<(&str, &str)> {
    segment
        .rsplit_once(TRANSACTION)
        .filter(|(_, id)| id.len() >= ID_DIGITS)
}

fn split_transient(segment: &str) -> Option<(&str, &str)> {
    segment
        .rsplit_once(TRANSIENT)
        .filter(|(_, ids)| ids.len() > 2 * ID_DIGITS)
}

/// Takes exactly what printing gives: no sign, no leading zero.
fn parse_number(digits: &str) -> Option<i32> {
    let canonical = digits.bytes().all(|byte| byte.is_ascii_digit())
        && (digits == "0" || !digits.starts_with('0'));
    canonical.then(|| digits.parse().ok()).flatten()
}

fn parse_id(digits: &str) -> Option<u128> {
    let canonical = digits.len() == ID_DIGITS
        && digits
            .bytes()
            .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    canonical
        .then(|| u128::from_str_radix(digits, 16).ok())
        .flatten()
}

fn check_creatable(kind: &'static str, text: String) -> Result<String, NameError> {
    let body = text.strip_prefix('_').unwrap_or(&text);
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-');
    let misfit = body.chars().find(|c| !fits(*c));
    check_shape(kind, &text, NAME_BYTES_MAX)?;
    if let Some(character) = misfit {
        let allowed = "allowed are letters, digits, '.' and '-', behind at most one leading '_'";
        return Err(NameError::Character {
            kind,
            text,
            character,
            allowed,
        });
    }
    if body.is_empty() {
        return Err(form(&text, "_NAME"));
    }
    Ok(text)
}

fn check_occurring(kind: &'static str, text: String) -> Result<String, NameError> {
    check_shape(kind, &text, OCCURRING_BYTES_MAX)?;
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    let misfit = text.chars().find(|c| !fits(*c));
    if let Some(character) = misfit {
        let allowed = "allowed are letters, digits, '.', '-' and '_'";
        return Err(NameError::Character {
            kind,
            text,
            character,
            allowed,
        });
    }
    Ok(text)
}

fn check_shape(kind: &'static str, text: &str, max: usize) -> Result<(), NameError> {
    if text.is_empty() {
        return Err(NameError::Empty { kind });
    }
    if text.len() > max {
        return Err(NameError::Long {
            kind,
            bytes: text.len(),
            max,
        });
    }
    if matches!(text, "." | "..") {
        return Err(NameError::Dots {
            kind,
            text: text.to_owned(),
        });
    }
    Ok(())
}

fn form(text: &str, form: &'static str) -> NameError {
    NameError::Form {
        text: text.to_owned(),
        form,
    }
}

#[cfg(test)]
mod tests;
