//! Events: `writer` spreads them over a stream's segments by routing key, `reader` reads all segments of
//! a stream. Both follow the stream as its segments end and others take over.

pub(crate) mod frontier;
pub mod reader;
pub(crate) mod router;
#[cfg(test)]
mod testing;
pub mod writer;

use std::fmt::Debug;

use futures_util::future::BoxFuture;
use sarit_proto::ids::SegmentId;
use sarit_proto::key_range::KeyRange;

use crate::Error;
use crate::segment::Locate;

pub use reader::{EventReader, From, ReadEvent, Until};
pub use writer::{Ack, EventWriter};

/// A segment and the keys it owns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The segment.
    pub segment: SegmentId,
    /// Its keys.
    pub keys: KeyRange,
}

/// A segment that takes over from others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Successor {
    /// The segment and its keys.
    pub owner: Owner,
    /// All segments it takes over from: it may be read once they have been.
    pub predecessors: Vec<SegmentId>,
}

/// What writers and readers of one stream ask the controller.
pub(crate) trait Topology: Locate + Debug + Send + Sync {
    /// Returns who takes over from a segment that has ended; nobody if the stream is sealed. Retries.
    fn successors(&self, segment: SegmentId) -> BoxFuture<'_, Result<Vec<Successor>, Error>>;

    /// Returns the full name of a segment.
    fn segment_name(&self, segment: SegmentId) -> String;
}
