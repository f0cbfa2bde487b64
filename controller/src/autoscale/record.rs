//! What is kept of a stream's load, so that a restart forgets a minute at most. Written whole, not part
//! of the stream's truth: a hint, and a damaged one is dropped.

use bytes::Bytes;
use prost::Message;
use sarit_proto::ids::SegmentId;
use sarit_proto::key_range::KeyRange;
use sarit_proto::load::Rates;

use super::decide::Origin;
use crate::store::records::{self, Damaged};

/// The value of a stream's load row.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct SavedLoads {
    /// When, milliseconds since the Unix epoch.
    #[prost(uint64, tag = "1")]
    pub(crate) saved_ms: u64,
    /// The active segments.
    #[prost(message, repeated, tag = "2")]
    pub(crate) segments: Vec<SavedSegment>,
    /// Whose load it is, `scope/stream`.
    #[prost(string, tag = "3")]
    pub(crate) stream: String,
}

/// One active segment.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct SavedSegment {
    #[prost(int64, tag = "1")]
    pub(crate) id: i64,
    /// Over 10 s, 60 s, 10 min.
    #[prost(float, tag = "2")]
    short: f32,
    #[prost(float, tag = "3")]
    middle: f32,
    #[prost(float, tag = "4")]
    long: f32,
    /// When it began, and until when it is left alone because of one hot key.
    #[prost(uint64, tag = "5")]
    pub(crate) since_ms: u64,
    #[prost(uint64, tag = "6")]
    pub(crate) hot_until_ms: u64,
    /// The split that it came from; parts 0 is none.
    #[prost(double, tag = "7")]
    origin_start: f64,
    #[prost(double, tag = "8")]
    origin_end: f64,
    #[prost(uint32, tag = "9")]
    origin_parts: u32,
}

impl SavedSegment {
    pub(super) fn new(
        id: SegmentId,
        rates: Rates,
        (since_ms, hot_until_ms): (u64, u64),
        origin: Option<Origin>,
    ) -> Self {
        let range = origin.map(|origin| origin.range);
        Self {
            id: id.0,
            short: rates.short,
            middle: rates.middle,
            long: rates.long,
            since_ms,
            hot_until_ms,
            origin_start: range.map_or(0.0, |range| range.start().to_f64()),
            origin_end: range.map_or(0.0, |range| range.end().to_f64()),
            origin_parts: origin.map_or(0, |origin| origin.parts),
        }
    }

    /// Puts back what was kept; the shortest average is not worth keeping.
    pub(super) fn restore(&self, rates: &mut Rates, origin: &mut Option<Origin>) {
        let kept = Rates {
            now: self.short,
            short: self.short,
            middle: self.middle,
            long: self.long,
        };
        if kept.is_sane() {
            *rates = kept;
        }
        let range = KeyRange::from_f64(self.origin_start, self.origin_end).ok();
        let parts = self.origin_parts;
        *origin = range
            .filter(|_| parts > 1)
            .map(|range| Origin { range, parts });
    }
}

impl SavedLoads {
    /// Returns the row's bytes.
    pub(crate) fn encode(&self) -> Bytes {
        records::encode(self)
    }

    /// Reads a row.
    pub(crate) fn decode(value: &Bytes) -> Result<Self, Damaged> {
        records::decode("load", value)
    }
}
