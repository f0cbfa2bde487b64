//! What a container tells about segments and about itself.

use bytes::Bytes;
use sarit_proto::ids::{AttributeId, Offset};

/// What a segment holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Bytes.
    Stream,
    /// Entries with keys.
    Table {
        /// Length of every key in bytes; 0 allows any.
        key_length: u16,
    },
}

/// An attribute to set with a merge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttributeUpdate {
    /// Which.
    pub id: AttributeId,
    /// Its value afterwards.
    pub value: i64,
    /// The value it must have before, `NULL_ATTRIBUTE` for none; without this anything will do.
    pub expected: Option<i64>,
}

/// What is durable about a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentInfo {
    /// Offset behind the last byte.
    pub length: Offset,
    /// First offset that can be read.
    pub start: Offset,
    /// Whether it takes no more appends.
    pub sealed: bool,
    /// When it was last changed, in milliseconds since the Unix epoch.
    pub last_modified_ms: i64,
    /// What it holds.
    pub kind: Kind,
}

/// What is durable about a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableInfo {
    /// Offset behind the last entry, as versions count.
    pub length: Offset,
    /// First offset, always 0.
    pub start: Offset,
    /// Number of entries.
    pub entries: u64,
    /// Length of every key in bytes; 0 for any.
    pub key_length: u16,
}

/// The outcome of a read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Read {
    /// Bytes from the offset asked for on.
    pub data: Bytes,
    /// Whether there was nothing behind them.
    pub at_tail: bool,
    /// Whether there never will be: the segment is sealed.
    pub end_of_segment: bool,
}

impl Read {
    /// Returns what a reader gets whose wait is over.
    pub(crate) fn nothing_yet() -> Self {
        Self {
            data: Bytes::new(),
            at_tail: true,
            end_of_segment: false,
        }
    }
}

/// What a container counts; totals since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ContainerStats {
    /// Segments.
    pub segments: u64,
    /// Segments in memory.
    pub resident: u64,
    /// Segments that changed since the last checkpoint.
    pub changed: u64,
    /// Checkpoints.
    pub checkpoints: u64,
    /// Segments brought back into memory.
    pub loads: u64,
    /// Segments let go from memory.
    pub evictions: u64,
    /// Number of the oldest frame the log is kept from.
    pub log_kept_from: u64,
    /// Appends that got a place.
    pub appends: u64,
    /// Their bytes.
    pub append_bytes: u64,
    /// Repeated appends that were not written again.
    pub duplicates: u64,
    /// Frames that became durable.
    pub frames: u64,
    /// Their bytes.
    pub frame_bytes: u64,
    /// Frames on their way to the log.
    pub frames_in_flight: u64,
    /// Batches of appends waiting for their place in the order.
    pub inbox: u64,
    /// Readers parked at the tail.
    pub waiters: u64,
    /// Segments that became the end of another one.
    pub merges: u64,
    /// Merges remembered, so that they can be asked for again; about 100 bytes of memory each.
    pub merges_remembered: u64,
    /// Ends of appends that are known, 24 bytes of memory each.
    pub boundaries: u64,
    /// Runs of segments in the log and in packs, 24 bytes of memory each.
    pub extents: u64,
    /// Bytes read back from the log for readers.
    pub reread_bytes: u64,
    /// Bytes given to readers from frames in memory.
    pub served_frames: u64,
    /// Bytes given to readers from the log.
    pub served_log: u64,
    /// Bytes given to readers from packs.
    pub served_packs: u64,
    /// Packs that segments refer to.
    pub packs: u64,
    /// Bytes of segments that lie in the log only.
    pub unflushed: u64,
    /// Bytes of packs written for what lay in the log.
    pub flushed_bytes: u64,
    /// Packs that were not stored at the first try.
    pub flush_failures: u64,
    /// Entries in tables.
    pub table_entries: u64,
    /// Memory they take.
    pub table_bytes: u64,
}
