//! Why a call did not do what was asked.
//!
//! Three kinds: *refused* (the request is wrong or its object is not there: don't repeat it),
//! *unavailable* ([`Error::is_retryable`]: the levels that retry have done so until their deadline),
//! *broken* (the peer does not speak the protocol). Errors are cheap to clone, because one lost
//! connection fails everything that waited on it.

use std::io;
use std::sync::Arc;

use crate::connection::Endpoint;

/// Anything this crate reports.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// No connection could be made.
    #[error("cannot connect to {endpoint}")]
    Connect {
        /// Where to.
        endpoint: Endpoint,
        /// What the network said.
        source: Arc<io::Error>,
    },
    /// The connection ended. What was sent may or may not have been done.
    #[error("connection to {endpoint} lost: {reason}")]
    Disconnected {
        /// Where to.
        endpoint: Endpoint,
        /// How it ended.
        reason: String,
    },
    /// No reply came in time. It may still be done.
    #[error("no reply from {endpoint} to {what} in {after_ms} ms")]
    Timeout {
        /// Who did not answer.
        endpoint: Endpoint,
        /// The request.
        what: &'static str,
        /// How long we waited, in milliseconds.
        after_ms: u64,
    },
    /// The request reached the wire, the reply did not come back, and asking again could do it twice.
    #[error("{what} may or may not have been done")]
    OutcomeUnknown {
        /// The request.
        what: &'static str,
    },
    /// Events were sent, the connection was lost, and then the segment was truncated away, which alone
    /// could tell whether it had them. Writing them again could be the second time.
    #[error(
        "{events} events may or may not have been written: segment {segment} was deleted before they were acknowledged"
    )]
    EventsInDoubt {
        /// How many.
        events: usize,
        /// The segment they were sent to.
        segment: String,
    },
    /// The segment store does not own the segment (any more).
    #[error("segment {segment} is not served by {endpoint}")]
    WrongHost {
        /// The segment.
        segment: String,
        /// Who was asked.
        endpoint: Endpoint,
    },
    /// The segment was never there, or is deleted or truncated away.
    #[error("segment {0} does not exist")]
    NoSuchSegment(String),
    /// The segment takes no more appends or changes.
    #[error("segment {0} is sealed")]
    SegmentSealed(String),
    /// The offset is below what is kept, or outside of the segment.
    #[error("offset {given} of segment {segment} is not there, it starts at {start}")]
    SegmentTruncated {
        /// The segment.
        segment: String,
        /// The offset asked for.
        given: i64,
        /// The first offset kept (for conditional table operations: the length).
        start: i64,
    },
    /// The table segment still has entries.
    #[error("table segment {0} is not empty")]
    TableNotEmpty(String),
    /// A version was given for a key that is not there.
    #[error("a key with a version is missing in table segment {0}")]
    KeyDoesNotExist(String),
    /// A key has another version than the given one.
    #[error("a key in table segment {0} has another version")]
    KeyBadVersion(String),
    /// The peer cannot do it.
    #[error("{0} is not supported by the server")]
    Unsupported(String),
    /// The peer refused it, in its own words.
    #[error("{what} refused: {message}")]
    Refused {
        /// The request.
        what: &'static str,
        /// The peer's reason.
        message: String,
    },
    /// The peer wants other credentials.
    #[error("{what} refused: no permission ({message})")]
    Unauthorized {
        /// The request.
        what: &'static str,
        /// The peer's reason.
        message: String,
    },
    /// The peer does not speak the protocol as we know it.
    #[error("{endpoint} broke the protocol: {what}")]
    Protocol {
        /// Who.
        endpoint: Endpoint,
        /// How.
        what: String,
    },
    /// The controller can't be reached or can't answer now.
    #[error("controller unavailable for {what}: {message}")]
    Unavailable {
        /// The call.
        what: &'static str,
        /// What came instead of an answer.
        message: String,
    },
    /// What the call is about is not there.
    #[error("{what}: not found ({message})")]
    NotFound {
        /// The call.
        what: &'static str,
        /// The peer's reason.
        message: String,
    },
    /// No such scope: create it first.
    #[error("scope {0} does not exist; create it first")]
    NoSuchScope(String),
    /// No such stream: create it first.
    #[error("stream {0} does not exist; create it first")]
    NoSuchStream(String),
    /// No such reader group.
    #[error("reader group {0} does not exist")]
    NoSuchGroup(String),
    /// A reader group's log is not as the Java client writes it.
    #[error("the log of reader group {group} cannot be understood: {why}")]
    NotAGroup {
        /// The group.
        group: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A reader group was to begin where its last checkpoint was, and has none.
    #[error("reader group {0} has no complete checkpoint")]
    NoCheckpoint(String),
    /// A reader group was given a position in a stream that it does not read.
    #[error("reader group {group} does not read stream {stream}")]
    NotInGroup {
        /// The group.
        group: String,
        /// The stream.
        stream: String,
    },
    /// No such key-value table: create it first.
    #[error("table {0} does not exist; create it first")]
    NoSuchTable(String),
    /// A key has not the length that all keys of the table have.
    #[error("a key of {given} bytes, the table's keys have {wanted}")]
    KeyLength {
        /// Its length.
        given: usize,
        /// Theirs.
        wanted: usize,
    },
    /// The scope still has streams, tables or reader groups: delete them first, or all at once with
    /// `Controller::delete_scope_recursive`.
    #[error(
        "scope {0} is not empty; delete what is in it first, or all at once with a recursive deletion"
    )]
    ScopeNotEmpty(String),
    /// Only a sealed stream can be deleted: seal it first.
    #[error("stream {0} is not sealed; seal it before deleting it")]
    StreamNotSealed(String),
    /// The stream takes no more events or changes.
    #[error("stream {0} is sealed")]
    StreamSealed(String),
    /// No such transaction: it never was, or ended so long ago that it was forgotten.
    #[error("stream {stream} has no transaction {transaction}")]
    NoSuchTransaction {
        /// The stream.
        stream: String,
        /// The transaction.
        transaction: String,
    },
    /// The transaction was ended: by somebody else, or because its lease was over.
    #[error("transaction {transaction} is {status}")]
    TransactionEnded {
        /// The transaction.
        transaction: String,
        /// What has become of it.
        status: String,
    },
    /// A segment to replace takes no events now, the stream is being scaled, or would have fewer segments
    /// than its policy wants.
    #[error(
        "stream {0} cannot be scaled like that now: a segment to replace has been replaced already, another change is \
         under way, or its policy wants more segments"
    )]
    ScaleRefused(String),
    /// The name breaks the rules for names.
    #[error("{0:?} is not a valid name: letters, digits, '.' and '-', at most 255 of them")]
    InvalidName(String),
    /// An event is larger than an event may be.
    #[error("event of {bytes} bytes, at most {max} are allowed")]
    EventTooLarge {
        /// Its size.
        bytes: usize,
        /// The limit.
        max: usize,
    },
    /// Bytes in a stream are no events: it was not written by an event writer.
    #[error("segment {segment} holds no event at offset {offset}")]
    NotAnEvent {
        /// The segment.
        segment: String,
        /// Where.
        offset: i64,
    },
    /// A segment was truncated away while it was read: events behind the offset may have been missed.
    #[error("segment {segment} was truncated away, it was read up to offset {offset}")]
    SegmentGone {
        /// The segment.
        segment: String,
        /// Everything before was read.
        offset: i64,
    },
    /// Reading has ended before keys that a stream cut does not cover: they would be missed.
    #[error("the stream cut that reading began at misses keys that segment {0} takes over")]
    CutIncomplete(String),
    /// A setting leaves no room to work.
    #[error("setting {0}")]
    Config(&'static str),
    /// An address is not `tcp://host:port`.
    #[error("{0:?} is not an address like tcp://127.0.0.1:9090")]
    Address(String),
    /// The client, writer or reader was closed.
    #[error("closed")]
    Closed,
}

impl Error {
    /// Whether the same request may succeed if sent again, here or to the next owner. For a request
    /// that must not be done twice, ask first what became of it.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Connect { .. }
            | Self::Disconnected { .. }
            | Self::Timeout { .. }
            | Self::OutcomeUnknown { .. }
            | Self::WrongHost { .. }
            | Self::Unavailable { .. } => true,
            Self::NoSuchSegment(_)
            | Self::SegmentSealed(_)
            | Self::SegmentTruncated { .. }
            | Self::TableNotEmpty(_)
            | Self::KeyDoesNotExist(_)
            | Self::KeyBadVersion(_)
            | Self::Unsupported(_)
            | Self::Refused { .. }
            | Self::Unauthorized { .. }
            | Self::Protocol { .. }
            | Self::NotFound { .. }
            | Self::NoSuchScope(_)
            | Self::NoSuchStream(_)
            | Self::ScopeNotEmpty(_)
            | Self::StreamNotSealed(_)
            | Self::StreamSealed(_)
            | Self::ScaleRefused(_)
            | Self::NoSuchTable(_)
            | Self::NoSuchGroup(_)
            | Self::NotAGroup { .. }
            | Self::NoCheckpoint(_)
            | Self::NotInGroup { .. }
            | Self::KeyLength { .. }
            | Self::NoSuchTransaction { .. }
            | Self::TransactionEnded { .. }
            | Self::InvalidName(_)
            | Self::EventTooLarge { .. }
            | Self::NotAnEvent { .. }
            | Self::EventsInDoubt { .. }
            | Self::SegmentGone { .. }
            | Self::CutIncomplete(_)
            | Self::Config(_)
            | Self::Address(_)
            | Self::Closed => false,
        }
    }
}
