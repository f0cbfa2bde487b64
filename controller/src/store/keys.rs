//! The key space on one screen. Names cannot contain `/`; tags cannot contain NUL.
//!
//! ```text
//! s/{scope}                              Scope: also, whether it is being deleted with all that is in it
//! n/{scope}/{stream}                     Name: the stream's id, and whether clients may see it
//! d/{scope}/{stream}                     Deleted: the segment number its next incarnation starts with
//! t/{stream id}/conf                     Config
//! t/{stream id}/state                    StreamState
//! t/{stream id}/trunc                    Truncation, if it ever was truncated
//! t/{stream id}/active                   ActiveEpoch, from the first scaling on
//! t/{stream id}/e/{epoch: 8 hex digits}  EpochRecord: what begins and ends with it
//! load/{stream id}                       SavedLoads (`autoscale::record`), a hint
//! placement                              Placement (`placement::record`): how many containers stores share
//! wm/{stream id}                         MarksRecord (`watermarks::record`), from the first note on
//! wmw/{stream id}/{writer}               MarkRecord: what a writer noted last
//! w/{stream id}                          Work: the unfinished task, at most one, so the stream's lock;
//!                                        also under a table's id, and that of a scope's deletion
//! x/{stream id}/o/{transaction id}       Transaction that has not ended
//! x/{stream id}/c/{order: 16 hex digits} Queued: a transaction to be committed, in this order
//! xd/{day}/{stream id}/{transaction id}  Ended: how it ended; days are dropped whole
//! cut/{stream id}/{ms: 16 hex digits}    RecordedCut: where the tail was then, for retention
//! ret/{scope}/{stream}                   (empty) a stream to be retained; may be stale: Config decides
//! tag/{scope}/{tag} NUL {stream}         (empty) may be stale: the stream's Config decides
//! kvt/{scope}/{table}                    Table
//! rg/{scope}/{group}                     ReaderGroup
//! sub/{scope}/{stream}/{scope}/{group}   Subscriber; may be stale: the group's record decides
//! ```

use std::fmt;

use sarit_proto::ids::TransactionId;
use sarit_proto::names::{ScopeName, ScopedStream, StreamName};

/// The identity of a stream from creation to deletion; a new one for the same name has another.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct StreamId(pub(crate) u128);

impl StreamId {
    /// Makes one of 48 bits of time and 80 of chance (laid out as UUID version 7 does, RFC 9562 §5.7, but for
    /// its version bits): what is created together lies together, so a store pages in what it needs once.
    pub(crate) fn new(now_ms: i64, random: u128) -> Self {
        Self(u128::from(now_ms.cast_unsigned()) << 80 | random >> 48)
    }

    /// Takes 32 hex digits.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let digits = Some(text).filter(|text| text.len() == 32)?;
        u128::from_str_radix(digits, 16).ok().map(Self)
    }
}

impl fmt::Display for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

pub(crate) const PLACEMENT: &str = "placement";
pub(crate) const SCOPES: &str = "s/";
pub(crate) const WORK: &str = "w/";

pub(crate) fn scope(scope: &ScopeName) -> String {
    format!("{SCOPES}{scope}")
}

pub(crate) fn names_in(scope: &ScopeName) -> String {
    format!("n/{scope}/")
}

pub(crate) fn name(stream: &ScopedStream) -> String {
    format!("n/{stream}")
}

pub(crate) fn deleted(stream: &ScopedStream) -> String {
    format!("d/{stream}")
}

pub(crate) fn config(id: StreamId) -> String {
    format!("t/{id}/conf")
}

pub(crate) fn state(id: StreamId) -> String {
    format!("t/{id}/state")
}

pub(crate) fn truncation(id: StreamId) -> String {
    format!("t/{id}/trunc")
}

pub(crate) fn active(id: StreamId) -> String {
    format!("t/{id}/active")
}

pub(crate) fn epochs(id: StreamId) -> String {
    format!("t/{id}/e/")
}

pub(crate) fn epoch(id: StreamId, number: i32) -> String {
    format!("t/{id}/e/{number:08x}")
}

pub(crate) const LOADS: &str = "load/";

pub(crate) fn load(id: StreamId) -> String {
    format!("{LOADS}{id}")
}

pub(crate) const MARKS: &str = "wm/";

pub(crate) fn marks(id: StreamId) -> String {
    format!("{MARKS}{id}")
}

pub(crate) fn writer_marks(id: StreamId) -> String {
    format!("wmw/{id}/")
}

pub(crate) fn writer_mark(id: StreamId, writer: &str) -> String {
    format!("{}{writer}", writer_marks(id))
}

pub(crate) fn work(id: StreamId) -> String {
    format!("{WORK}{id}")
}

/// Everything about transactions that have not ended.
pub(crate) const TRANSACTIONS: &str = "x/";
/// Everything about transactions that have.
pub(crate) const ENDED: &str = "xd/";

pub(crate) fn transactions(id: StreamId) -> String {
    format!("x/{id}/o/")
}

pub(crate) fn transaction(id: StreamId, transaction: TransactionId) -> String {
    format!("x/{id}/o/{:032x}", transaction.0)
}

pub(crate) fn queue(id: StreamId) -> String {
    format!("x/{id}/c/")
}

pub(crate) fn queued(id: StreamId, order: u64) -> String {
    format!("x/{id}/c/{order:016x}")
}

pub(crate) fn ended_on(day: i64) -> String {
    format!("{ENDED}{day:08x}/")
}

pub(crate) fn ended_of(day: i64, id: StreamId) -> String {
    format!("{ENDED}{day:08x}/{id}/")
}

pub(crate) fn ended(day: i64, id: StreamId, transaction: TransactionId) -> String {
    format!("{ENDED}{day:08x}/{id}/{:032x}", transaction.0)
}

/// Streams with a retention policy.
pub(crate) const RETENTION: &str = "ret/";

pub(crate) fn retention(stream: &ScopedStream) -> String {
    format!("{RETENTION}{stream}")
}

pub(crate) fn cuts(id: StreamId) -> String {
    format!("cut/{id}/")
}

pub(crate) fn cut(id: StreamId, at_ms: i64) -> String {
    format!("cut/{id}/{at_ms:016x}")
}

pub(crate) fn tagged(scope: &ScopeName, tag: &str) -> String {
    format!("tag/{scope}/{tag}\0")
}

pub(crate) fn tag(stream: &ScopedStream, tag: &str) -> String {
    format!("{}{}", tagged(&stream.scope, tag), stream.stream)
}

pub(crate) fn tables_in(scope: &ScopeName) -> String {
    format!("kvt/{scope}/")
}

pub(crate) fn table(scope: &ScopeName, table: &StreamName) -> String {
    format!("{}{table}", tables_in(scope))
}

pub(crate) fn groups_in(scope: &ScopeName) -> String {
    format!("rg/{scope}/")
}

pub(crate) fn group(scope: &ScopeName, group: &StreamName) -> String {
    format!("{}{group}", groups_in(scope))
}

pub(crate) fn subscribers(stream: &ScopedStream) -> String {
    format!("sub/{stream}/")
}

pub(crate) fn subscriber(stream: &ScopedStream, subscriber: &str) -> String {
    format!("{}{subscriber}", subscribers(stream))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::KEY_BYTES_MAX;

    #[test]
    fn the_longest_keys_are_within_the_limit() {
        let scope = ScopeName::new("s".repeat(255)).unwrap();
        let stream = StreamName::new("t".repeat(255)).unwrap();
        let stream = ScopedStream { scope, stream };
        let longest = [
            tag(&stream.mark(), &"t".repeat(256)),
            subscriber(&stream.mark(), &stream.to_string()),
        ];
        for key in longest {
            assert!(key.len() <= KEY_BYTES_MAX, "{} bytes", key.len());
        }
    }
}
