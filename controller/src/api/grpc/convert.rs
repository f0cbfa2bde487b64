//! Between messages and values: names, errors, segments.

use sarit_proto::controller::{ScopeInfo, SegmentId, SegmentRange, StreamInfo};
use sarit_proto::ids;
use sarit_proto::names::{NameError, ScopeName, ScopedStream, StreamName};
use tonic::Status;
use tracing::error;

use crate::store::catalog;
use crate::stream::epoch::Segment;
use crate::tasks;

impl From<tasks::Error> for Status {
    fn from(error: tasks::Error) -> Self {
        match error {
            tasks::Error::Invalid(reason) => Self::invalid_argument(reason),
            tasks::Error::Unavailable(reason) => Self::unavailable(reason),
            tasks::Error::Overloaded => Self::resource_exhausted(error.to_string()),
            tasks::Error::Metadata(error) => error.into(),
        }
    }
}

impl From<catalog::Error> for Status {
    fn from(error: catalog::Error) -> Self {
        match error {
            catalog::Error::Store(error) => Self::unavailable(error.to_string()),
            catalog::Error::Damaged(error) => {
                error!(%error, "metadata is damaged");
                Self::data_loss(error.to_string())
            }
        }
    }
}

/// Turns a name that cannot be into the status for it.
pub(super) fn invalid(error: NameError) -> Status {
    Status::invalid_argument(error.to_string())
}

/// Reads the name of a scope that may exist.
pub(super) fn scope_name(scope: &str) -> Result<ScopeName, Status> {
    ScopeName::occurring(scope).map_err(invalid)
}

/// Reads the name of a scope that may exist, from a message that must be there.
pub(super) fn scope_of(info: Option<&ScopeInfo>) -> Result<ScopeName, Status> {
    scope_name(info.map_or("", |info| &info.scope))
}

/// Reads the name of a stream that may exist.
pub(super) fn stream_of(info: Option<&StreamInfo>) -> Result<ScopedStream, Status> {
    let (scope, stream) = info.map_or(("", ""), |info| (&info.scope, &info.stream));
    Ok(ScopedStream {
        scope: scope_name(scope)?,
        stream: StreamName::occurring(stream).map_err(invalid)?,
    })
}

/// The status for a stream that does not exist, where the reply has none.
pub(super) fn no_stream(stream: &ScopedStream) -> Status {
    Status::not_found(format!("stream {stream} does not exist"))
}

/// The status for a scope that does not exist, where the reply has none.
pub(super) fn no_scope(scope: &ScopeName) -> Status {
    Status::not_found(format!("scope {scope} does not exist"))
}

pub(super) fn stream_info(stream: &ScopedStream) -> StreamInfo {
    StreamInfo {
        scope: stream.scope.to_string(),
        stream: stream.stream.to_string(),
        access_operation: 0,
    }
}

pub(super) fn segment_id(stream: &ScopedStream, id: ids::SegmentId) -> SegmentId {
    SegmentId {
        stream_info: Some(stream_info(stream)),
        segment_id: id.0,
    }
}

pub(super) fn segment_range(stream: &ScopedStream, segment: &Segment) -> SegmentRange {
    SegmentRange {
        segment_id: Some(segment_id(stream, segment.id)),
        min_key: segment.range.start().to_f64(),
        max_key: segment.range.end().to_f64(),
    }
}
