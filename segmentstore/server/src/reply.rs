//! Refusals → wire replies, and the reasons for which a connection is closed instead.
//!
//! A refusal is answered wherever the protocol has a reply for it, because a close hits everyone who
//! shares the connection and makes clients repeat the request without end. Only an unknown outcome
//! closes: the client then reconnects and asks for its last event number.

use sarit_container::Error;
use sarit_proto::wire;
use sarit_proto::wire::Reply;
use sarit_proto::wire::reply::{
    ErrorMessage, NoSuchSegment, OperationUnsupported, SegmentAlreadyExists,
    SegmentAttributeUpdated, SegmentIsSealed, SegmentIsTruncated, TableKeyBadVersion,
    TableKeyDoesNotExist, TableSegmentNotEmpty, WrongHost,
};

/// `ErrorMessage`: the request makes no sense.
const ILLEGAL_ARGUMENT: i32 = 0;
/// `ErrorMessage`: anything else.
const UNSPECIFIED: i32 = -1;

/// Why a connection ends.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Close {
    /// The peer closed it, or it broke.
    #[error("closed by the peer")]
    Peer,
    /// The bytes can't be trusted any more.
    #[error(transparent)]
    Malformed(#[from] wire::Error),
    /// The peer speaks none of our versions.
    #[error("no version in common: the peer speaks {low} to {high}")]
    Version {
        /// The peer's highest.
        high: i32,
        /// The peer's lowest.
        low: i32,
    },
    /// An append of a writer that was never set up here.
    #[error("append without set-up")]
    NotSetUp,
    /// An append larger than any frame of the log, of a writer that is still being set up.
    #[error("append too large")]
    TooLarge,
    /// An event number went backwards.
    #[error("event number went backwards")]
    EventNumber,
    /// A frame did not arrive in time.
    #[error("no whole frame within the time limit")]
    FrameTimeout,
    /// The peer does not take its replies.
    #[error("the peer does not read its replies")]
    Stalled,
    /// The server is stopping.
    #[error("the server is stopping")]
    Stopping,
    /// What became of a request is unknown: its container stops.
    #[error("the container is stopping")]
    Container,
    /// A container answered something else than what it was asked.
    #[error("outcome does not fit the operation")]
    Confused,
}

impl Close {
    /// Returns a word for the metrics.
    pub(crate) fn cause(&self) -> &'static str {
        match self {
            Self::Peer => "peer",
            Self::Malformed(_) => "malformed",
            Self::Version { .. } => "version",
            Self::NotSetUp => "not_set_up",
            Self::EventNumber => "event_number",
            Self::TooLarge => "too_large",
            Self::FrameTimeout => "frame_timeout",
            Self::Stalled => "stalled",
            Self::Stopping => "stopping",
            Self::Container => "container",
            Self::Confused => "confused",
        }
    }

    /// Returns whether the peer broke the protocol, rather than left.
    pub(crate) fn is_fault(&self) -> bool {
        !matches!(self, Self::Peer | Self::Stopping)
    }
}

/// What a refusal's reply repeats of the request.
pub(crate) struct Refused<'a> {
    pub(crate) request_id: i64,
    pub(crate) segment: &'a str,
    /// Event number of an append, offset of a read or truncation, else −1.
    pub(crate) offset: i64,
}

impl Refused<'_> {
    /// Returns the reply for an error.
    ///
    /// # Errors
    /// The close that has to do instead.
    pub(crate) fn reply(&self, error: Error) -> Result<Reply, Close> {
        let (request_id, offset) = (self.request_id, self.offset);
        let (segment, stack_trace) = (self.segment.to_owned(), String::new());
        Ok(match error {
            Error::NoSuchSegment(_) => NoSuchSegment {
                request_id,
                segment,
                stack_trace,
                offset,
            }
            .into(),
            Error::SegmentExists(_) => SegmentAlreadyExists {
                request_id,
                segment,
                stack_trace,
            }
            .into(),
            Error::SegmentSealed(_) => SegmentIsSealed {
                request_id,
                segment,
                stack_trace,
                offset,
            }
            .into(),
            Error::SegmentTruncated { start, .. } | Error::BadOffset { start, .. } => {
                let start_offset = start.0 as i64;
                SegmentIsTruncated {
                    request_id,
                    segment,
                    start_offset,
                    stack_trace,
                    offset,
                }
                .into()
            }
            Error::KeyDoesNotExist(_) => TableKeyDoesNotExist {
                request_id,
                segment,
                stack_trace,
            }
            .into(),
            Error::KeyBadVersion(_) => TableKeyBadVersion {
                request_id,
                segment,
                stack_trace,
            }
            .into(),
            Error::AttributeMismatch(_) => SegmentAttributeUpdated {
                request_id,
                success: false,
            }
            .into(),
            Error::TableNotEmpty(_) => TableSegmentNotEmpty {
                request_id,
                segment,
                stack_trace,
            }
            .into(),
            Error::Unsupported { operation, .. } => unsupported(request_id, operation),
            Error::InvalidArgument(message) => {
                Self::illegal_argument(request_id, self.segment, message)
            }
            // Only conditional appends can meet it, and they have a reply of their own.
            error @ Error::WrongOffset { .. } => {
                Self::unspecified(request_id, self.segment, error.to_string())
            }
            Error::Stopping
            | Error::OutcomeUnknown
            | Error::Wal(_)
            | Error::Index(_)
            | Error::Storage(_)
            | Error::DamagedIndex(_)
            | Error::Broken { .. } => {
                return Err(Close::Container);
            }
        })
    }

    /// Returns the reply to a request that makes no sense.
    pub(crate) fn illegal_argument(request_id: i64, segment: &str, message: String) -> Reply {
        let (segment, error_code) = (segment.to_owned(), ILLEGAL_ARGUMENT);
        ErrorMessage {
            request_id,
            segment,
            message,
            error_code,
        }
        .into()
    }

    /// Returns the reply to a request that can't be served for a reason the protocol has no word for.
    pub(crate) fn unspecified(request_id: i64, segment: &str, message: String) -> Reply {
        let (segment, error_code) = (segment.to_owned(), UNSPECIFIED);
        ErrorMessage {
            request_id,
            segment,
            message,
            error_code,
        }
        .into()
    }
}

/// Returns the reply to what this server does not do.
pub(crate) fn unsupported(request_id: i64, operation: &str) -> Reply {
    let (operation, stack_trace) = (operation.to_owned(), String::new());
    OperationUnsupported {
        request_id,
        operation,
        stack_trace,
    }
    .into()
}

/// Returns the reply about a segment of another store. Which one is the controller's to say: the
/// official server names none either, and clients ask `getURI` again.
pub(crate) fn wrong_host(request_id: i64, segment: &str) -> Reply {
    WrongHost {
        request_id,
        segment: segment.to_owned(),
        correct_host: String::new(),
        stack_trace: String::new(),
    }
    .into()
}

/// Returns a refusal once more, for a later append of the same writer.
pub(crate) fn repeat(refusal: &Reply, id: i64, event_number: i64) -> Reply {
    let mut again = refusal.clone();
    match &mut again {
        Reply::SegmentIsSealed(reply) => (reply.request_id, reply.offset) = (id, event_number),
        Reply::NoSuchSegment(reply) => (reply.request_id, reply.offset) = (id, event_number),
        Reply::ErrorMessage(reply) => reply.request_id = id,
        Reply::OperationUnsupported(reply) => reply.request_id = id,
        _ => {}
    }
    again
}

/// Returns a word for the metrics if a reply reports that something was not done.
pub(crate) fn refusal(reply: &Reply) -> Option<&'static str> {
    match reply {
        Reply::WrongHost(_) => Some("wrong_host"),
        Reply::SegmentIsSealed(_) => Some("segment_is_sealed"),
        Reply::SegmentAlreadyExists(_) => Some("segment_already_exists"),
        Reply::NoSuchSegment(_) => Some("no_such_segment"),
        Reply::InvalidEventNumber(_) => Some("invalid_event_number"),
        Reply::SegmentIsTruncated(_) => Some("segment_is_truncated"),
        Reply::OperationUnsupported(_) => Some("operation_unsupported"),
        Reply::AuthTokenCheckFailed(_) => Some("auth_token_check_failed"),
        Reply::ErrorMessage(_) => Some("error_message"),
        Reply::TableSegmentNotEmpty(_) => Some("table_segment_not_empty"),
        Reply::TableKeyDoesNotExist(_) => Some("table_key_does_not_exist"),
        Reply::TableKeyBadVersion(_) => Some("table_key_bad_version"),
        Reply::ConditionalCheckFailed(_) => Some("conditional_check_failed"),
        _ => None,
    }
}
