//! The segment store's TCP protocol, version 16.
//!
//! A frame is `type: i32 | length: i32 | payload`, big-endian. [`codec`] cuts a byte stream into
//! frames and joins replies into one, [`command`] and [`reply`] are the frames' contents, [`append`]
//! puts append blocks together. Names here are the protocol's own.
//!
//! Source: Pravega's wire protocol as described in `docs/formats/wire.md`.

pub mod append;
pub mod codec;
pub mod command;
pub mod field;
pub mod reply;

pub use codec::{BY_REFERENCE_MIN, Encoder, FrameDecoder, RawFrame};
pub use command::Command;
pub use reply::Reply;

/// The version we speak; 17 promises `LocateOffset`.
pub const VERSION: i32 = 17;
/// The oldest version we can talk to.
pub const OLDEST_VERSION: i32 = 5;
/// Bytes of type and length in front of every payload.
pub const HEADER: usize = 8;
/// Largest payload: a whole frame, header included, has at most 2²⁴ − 1 bytes.
pub const PAYLOAD_MAX: usize = 0x00FF_FFFF - HEADER;

/// Why bytes could not be read as a frame. The stream can't be trusted after it: close.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The payload ends inside a field that is not optional.
    #[error("{command} ends inside a field")]
    Short {
        /// The frame's name.
        command: &'static str,
    },
    /// A length, count or flag is impossible.
    #[error("{command} has an invalid {what}")]
    Invalid {
        /// The frame's name.
        command: &'static str,
        /// What is wrong.
        what: &'static str,
    },
    /// The length field is negative or too large.
    #[error("frame of type {code} claims {length} bytes, at most {PAYLOAD_MAX} are allowed")]
    Length {
        /// The frame's type.
        code: i32,
        /// The length it claims.
        length: i32,
    },
    /// The type is unknown, or not one that this side may receive.
    #[error("unknown frame type {0}")]
    Unknown(i32),
    /// An append block does not add up.
    #[error("append block: {0}")]
    Block(&'static str),
}

#[cfg(test)]
mod tests;
