//! What a container answers when it does not do what it was asked, by what the caller does about it.

use std::sync::Arc;

use sarit_proto::ids::Offset;

/// A refusal, an interruption, or a broken log.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// The segment is not there, or not any more.
    #[error("segment {0} does not exist")]
    NoSuchSegment(Arc<str>),
    /// The name is taken.
    #[error("segment {0} exists")]
    SegmentExists(Arc<str>),
    /// The segment takes no more appends; ask the controller for its successors.
    #[error("segment {0} is sealed")]
    SegmentSealed(Arc<str>),
    /// The bytes were truncated away; read from `start`.
    #[error("segment {segment} starts at {start:?}, {given:?} is below")]
    SegmentTruncated {
        /// The segment.
        segment: Arc<str>,
        /// Its first offset that can be read.
        start: Offset,
        /// The offset asked for.
        given: Offset,
    },
    /// A conditional append met another length than it expected.
    #[error("append to {segment} at {expected:?}, its length is {actual:?}")]
    WrongOffset {
        /// The segment.
        segment: Arc<str>,
        /// The length the writer expected.
        expected: Offset,
        /// The length it had at the append's place in the order.
        actual: Offset,
    },
    /// A truncation or a conditional table operation outside of `[start, length]`.
    #[error("offset {given} of segment {segment}, which has {start:?} to {length:?}")]
    BadOffset {
        /// The segment.
        segment: Arc<str>,
        /// Its first offset.
        start: Offset,
        /// Its length.
        length: Offset,
        /// The offset asked for.
        given: i64,
    },
    /// A conditional table operation names a key that is not there.
    #[error("a key given with a version is not in table {0}")]
    KeyDoesNotExist(Arc<str>),
    /// A conditional table operation names another version than the key has.
    #[error("a key of table {0} has another version than expected")]
    KeyBadVersion(Arc<str>),
    /// An attribute to be set with a merge has another value than expected; nothing was merged.
    #[error("an attribute of segment {0} has another value than expected")]
    AttributeMismatch(Arc<str>),
    /// The table was to be deleted only if empty.
    #[error("table {0} is not empty")]
    TableNotEmpty(Arc<str>),
    /// The kind of segment does not allow the operation.
    #[error("{operation} is not supported by segment {segment}")]
    Unsupported {
        /// The segment.
        segment: Arc<str>,
        /// What was asked for, in the protocol's words.
        operation: &'static str,
    },
    /// The request makes no sense; do not repeat it.
    #[error("{0}")]
    InvalidArgument(String),
    /// The container is stopping or has stopped; nothing was done. Ask its next owner.
    #[error("container is stopping")]
    Stopping,
    /// The container failed before it knew. The next owner knows.
    #[error("the operation may or may not be durable")]
    OutcomeUnknown,
    /// The log failed; the container ends, and only recovery can tell what is durable.
    #[error("log: {0}")]
    Wal(#[from] sarit_wal::Error),
    /// The index cannot be read or written now; nothing is lost, since the log has everything.
    #[error("index: {0}")]
    Index(Arc<str>),
    /// The index holds what this release cannot have written, or not what the log needs.
    #[error("damaged index: {0}")]
    DamagedIndex(Arc<str>),
    /// Long-term storage failed, or holds something else than was written.
    #[error("long-term storage: {0}")]
    Storage(sarit_storage::StoreError),
    /// The log holds a frame that this release cannot have written in this place. Nothing was changed.
    #[error("frame {frame} of the log does not fit the state before it: {what}")]
    Broken {
        /// Number of the frame.
        frame: u64,
        /// What does not fit.
        what: &'static str,
    },
}

impl Error {
    /// Returns whether the same request may succeed if sent again, here or to the next owner.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Stopping | Self::OutcomeUnknown | Self::Wal(_) | Self::Index(_) => true,
            Self::NoSuchSegment(_)
            | Self::SegmentExists(_)
            | Self::SegmentSealed(_)
            | Self::SegmentTruncated { .. }
            | Self::WrongOffset { .. }
            | Self::BadOffset { .. }
            | Self::KeyDoesNotExist(_)
            | Self::KeyBadVersion(_)
            | Self::AttributeMismatch(_)
            | Self::TableNotEmpty(_)
            | Self::Unsupported { .. }
            | Self::InvalidArgument(_)
            | Self::DamagedIndex(_)
            | Self::Broken { .. } => false,
            Self::Storage(error) => error.is_retryable(),
        }
    }
}
