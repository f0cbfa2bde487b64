//! One segment: its progress, its flags, and where its bytes lie.

use std::sync::Arc;

use sarit_proto::ids::{AttributeId, NULL_ATTRIBUTE};

use super::writers::Numbers;
use crate::Kind;
use crate::tables::Table;

/// A segment's number inside its container: given out once, in rising order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Sid(pub(crate) u64);

/// Where a run of a segment's bytes lies in the log. 24 bytes: long logs have millions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Extent {
    /// Offset of the first byte in the segment.
    pub(crate) offset: u64,
    pub(crate) frame: u64,
    /// Position of the first byte in the frame's body.
    pub(crate) position: u32,
    pub(crate) length: u32,
}

impl Extent {
    /// Returns the offset behind its last byte.
    pub(crate) fn end(&self) -> u64 {
        self.offset + u64::from(self.length)
    }
}

/// A segment as of the last frame applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Segment {
    pub(crate) name: Arc<str>,
    pub(crate) kind: Kind,
    /// First offset that can be read.
    pub(crate) start: u64,
    /// Offset behind the last byte; for a table, behind the last version.
    pub(crate) length: u64,
    pub(crate) sealed: bool,
    /// When it was last changed, by the wall clock of whoever owned it.
    pub(crate) modified_ms: i64,
    /// Events appended, or `NULL_ATTRIBUTE` for a table: one of the attributes, in a place of its own
    /// because every append moves it.
    pub(crate) events: i64,
    /// The other attributes, the writers' last event numbers among them.
    pub(crate) numbers: Numbers,
    /// Where the bytes `[start, length)` lie, lowest first, without gap.
    pub(crate) tail: Vec<Extent>,
    pub(crate) table: Option<Box<Table>>,
}

impl Segment {
    pub(crate) fn new(name: Arc<str>, kind: Kind) -> Self {
        let table = match kind {
            Kind::Stream => None,
            Kind::Table { .. } => Some(Box::default()),
        };
        Self {
            name,
            kind,
            start: 0,
            length: 0,
            sealed: false,
            modified_ms: 0,
            events: if table.is_some() { NULL_ATTRIBUTE } else { 0 },
            numbers: Numbers::default(),
            tail: Vec::new(),
            table,
        }
    }

    /// Returns an attribute's value, [`NULL_ATTRIBUTE`] if it is unset.
    pub(crate) fn attribute(&self, id: AttributeId) -> i64 {
        if id == AttributeId::EVENT_COUNT {
            self.events
        } else {
            self.numbers.get(id).unwrap_or(NULL_ATTRIBUTE)
        }
    }

    /// Sets an attribute; [`NULL_ATTRIBUTE`] unsets it.
    pub(crate) fn set_attribute(&mut self, id: AttributeId, value: i64) {
        if id == AttributeId::EVENT_COUNT {
            self.events = value;
        } else {
            self.numbers.set(id, value);
        }
    }

    /// Adds to the number of events.
    pub(crate) fn count_events(&mut self, events: u32) {
        let before = if self.events == NULL_ATTRIBUTE {
            0
        } else {
            self.events
        };
        self.events = before.saturating_add(i64::from(events));
    }

    /// Adds bytes at the end. Bytes that follow the last ones in the same frame lengthen its extent.
    pub(crate) fn push(&mut self, extent: Extent) {
        self.length = extent.end();
        if extent.length == 0 {
            return;
        }
        match self.tail.last_mut() {
            Some(last)
                if last.frame == extent.frame && last.position + last.length == extent.position =>
            {
                last.length += extent.length;
            }
            _ => self.tail.push(extent),
        }
    }

    /// Drops what lies below `start`.
    pub(crate) fn truncate(&mut self, start: u64) {
        self.start = start;
        let dead = self.tail.partition_point(|extent| extent.end() <= start);
        self.tail.drain(..dead);
        if self.tail.capacity() > 4 * self.tail.len().max(4) {
            self.tail.shrink_to_fit();
        }
    }

    /// Returns the extents from the one that holds `offset` on.
    pub(crate) fn extents_from(&self, offset: u64) -> &[Extent] {
        let below = self.tail.partition_point(|extent| extent.end() <= offset);
        &self.tail[below..]
    }
}
