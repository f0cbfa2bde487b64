//! What is kept of writers' marks and of the last watermark.

use std::collections::BTreeMap;

use prost::Message;
use sarit_proto::ids::{Offset, SegmentId};
use sarit_proto::key_range::KeyRange;
use sarit_proto::watermark::Watermark;

use super::rule::Mark;

/// One writer's row.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct MarkRecord {
    #[prost(int64, tag = "1")]
    time: i64,
    /// Segment id to offset.
    #[prost(btree_map = "int64, int64", tag = "2")]
    position: BTreeMap<i64, i64>,
    #[prost(int64, tag = "3")]
    noted_ms: i64,
    #[prost(bool, tag = "4")]
    gone: bool,
}

impl MarkRecord {
    pub(super) fn of(mark: &Mark) -> Self {
        Self {
            time: mark.time,
            position: mark
                .position
                .iter()
                .map(|(id, offset)| (id.0, *offset))
                .collect(),
            noted_ms: mark.noted_ms,
            gone: mark.gone,
        }
    }

    pub(super) fn mark(self) -> Mark {
        let position = self.position.into_iter();
        Mark {
            time: self.time,
            position: position
                .map(|(id, offset)| (SegmentId(id), offset))
                .collect(),
            noted_ms: self.noted_ms,
            gone: self.gone,
        }
    }
}

/// A stream's row: the last watermark, whether it is in the mark stream or about to be.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct MarksRecord {
    /// `scope/stream`.
    #[prost(string, tag = "1")]
    pub(crate) stream: String,
    /// How many watermarks there were; 0 is none.
    #[prost(int64, tag = "2")]
    pub(crate) number: i64,
    #[prost(int64, tag = "3")]
    lower: i64,
    #[prost(int64, tag = "4")]
    upper: i64,
    #[prost(message, repeated, tag = "5")]
    cut: Vec<CutRecord>,
    /// Whether it may still have to be appended.
    #[prost(bool, tag = "6")]
    pub(crate) pending: bool,
    /// Where the mark stream may be cut off next, and after that: beginnings of watermarks.
    #[prost(uint64, tag = "7")]
    pub(crate) older: u64,
    #[prost(uint64, tag = "8")]
    pub(crate) newer: u64,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct CutRecord {
    #[prost(int64, tag = "1")]
    id: i64,
    #[prost(double, tag = "2")]
    start: f64,
    #[prost(double, tag = "3")]
    end: f64,
    #[prost(uint64, tag = "4")]
    offset: u64,
}

impl MarksRecord {
    pub(super) fn new(stream: String) -> Self {
        Self {
            stream,
            ..Self::default()
        }
    }

    /// Returns the last watermark.
    pub(super) fn watermark(&self) -> Option<Watermark> {
        let cut = self.cut.iter().filter_map(|part| {
            let range = KeyRange::from_f64(part.start, part.end).ok()?;
            Some((SegmentId(part.id), range, Offset(part.offset)))
        });
        (self.number > 0).then(|| Watermark {
            lower: self.lower,
            upper: self.upper,
            cut: cut.collect(),
        })
    }

    /// Makes `watermark` the last one, to be appended.
    pub(super) fn next(&self, watermark: &Watermark) -> Self {
        let part = |(id, range, offset): &(SegmentId, KeyRange, Offset)| CutRecord {
            id: id.0,
            start: range.start().to_f64(),
            end: range.end().to_f64(),
            offset: offset.0,
        };
        Self {
            number: self.number + 1,
            lower: watermark.lower,
            upper: watermark.upper,
            cut: watermark.cut.iter().map(part).collect(),
            pending: true,
            ..self.clone()
        }
    }
}
