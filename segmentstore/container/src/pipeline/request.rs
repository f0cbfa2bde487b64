//! What can be asked of the sequencer.

use std::sync::Arc;

use bytes::Bytes;
use sarit_proto::ids::AttributeId;
use sarit_proto::wire::field::{TableEntry, TableKey};
use sarit_storage::PackId;

use super::reply::{Caller, Destination};
use crate::index::entries::Applied;
use crate::operation::{ATTRIBUTE, SOURCE};
use crate::residents::Pin;
use crate::{AppendOp, AttributeUpdate, Error, Kind, Offset};

/// What waits while the log is full: it would fill it further.
#[derive(Debug)]
pub(crate) enum Filler {
    /// Appends of one connection, in order.
    Appends(Arc<Destination>, std::vec::IntoIter<AppendOp>),
    /// What is not [exempt](Wish::is_exempt), like new entries of a table.
    Request(Request),
}

/// One operation of a [`Filler`].
pub(super) enum Next {
    Append(Arc<Destination>, AppendOp),
    Request(Request),
}

impl Next {
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Append(_, AppendOp::Setup { .. }) => 0,
            Self::Append(_, AppendOp::Append { data, .. }) => data.len(),
            Self::Request(request) => request.wish.bytes(),
        }
    }
}

/// Everything that is not an append.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) segment: Arc<str>,
    pub(crate) wish: Wish,
    /// Of all segments it names; held until what it writes is durable.
    pub(crate) pins: Vec<Pin>,
}

/// What to do with the segment, and whom to tell.
#[derive(Debug)]
pub(crate) enum Wish {
    Create(Kind, Vec<(AttributeId, i64)>, Caller<()>),
    Seal(Caller<Offset>),
    Truncate(Offset, Caller<()>),
    Delete {
        empty_table: bool,
        caller: Caller<()>,
    },
    UpdateAttribute(AttributeId, i64, i64, Caller<bool>),
    OverwriteAttributes(Vec<(AttributeId, i64)>, Caller<()>),
    TableUpdate(Vec<TableEntry>, Option<i64>, Caller<Vec<i64>>),
    TableRemove(Vec<TableKey>, Option<i64>, Caller<()>),
    /// Notes that bytes lie in a pack, which is stored.
    Place {
        compact: bool,
        pack: PackId,
        /// Bytes of all runs.
        size: u64,
        /// Where they lie, as in the record.
        runs: Bytes,
        caller: Caller<()>,
    },
    CheckpointEnd(Applied, Caller<()>),
    Merge {
        sources: Vec<Arc<str>>,
        updates: Vec<AttributeUpdate>,
        /// Whether a source that is not there counts as merged.
        lenient: bool,
        caller: Caller<Vec<Offset>>,
    },
}

impl Wish {
    /// Returns whether it may use the log's reserve: it makes room, or is needed before what does, and
    /// there are only so many. Whatever clients can ask for without end waits as appends do, or an
    /// outage of long-term storage would end with nothing left to note the first pack with.
    pub(crate) fn is_exempt(&self) -> bool {
        match self {
            Self::Seal(..)
            | Self::Truncate(..)
            | Self::Delete { .. }
            | Self::Place { .. }
            | Self::CheckpointEnd(..) => true,
            Self::Create(..)
            | Self::UpdateAttribute(..)
            | Self::OverwriteAttributes(..)
            | Self::TableUpdate(..)
            | Self::TableRemove(..)
            | Self::Merge { .. } => false,
        }
    }

    /// Returns whether the container itself asks.
    #[cfg(test)]
    pub(super) fn is_own(&self) -> bool {
        matches!(self, Self::CheckpointEnd(..) | Self::Place { .. })
    }

    /// Returns the segments it names beside the one it is addressed to.
    pub(crate) fn others(&self) -> &[Arc<str>] {
        match self {
            Self::Merge { sources, .. } => sources,
            _ => &[],
        }
    }

    /// Answers that nothing was done.
    pub(super) fn refuse(self) {
        const STOPPING: Error = Error::Stopping;
        // Callers that have gone do not want to know.
        match self {
            Self::Create(.., caller)
            | Self::Truncate(_, caller)
            | Self::Delete { caller, .. }
            | Self::OverwriteAttributes(_, caller)
            | Self::CheckpointEnd(_, caller)
            | Self::TableRemove(.., caller)
            | Self::Place { caller, .. } => drop(caller.send(Err(STOPPING))),
            Self::Seal(caller) => drop(caller.send(Err(STOPPING))),
            Self::UpdateAttribute(.., caller) => drop(caller.send(Err(STOPPING))),
            Self::TableUpdate(.., caller) => drop(caller.send(Err(STOPPING))),
            Self::Merge { caller, .. } => drop(caller.send(Err(STOPPING))),
        }
    }

    /// Returns about how many bytes its record will have, not less but for small change.
    pub(super) fn bytes(&self) -> usize {
        let key = |key: &TableKey| 8 + key.key.len();
        match self {
            Self::TableUpdate(entries, ..) => entries
                .iter()
                .map(|entry| key(&entry.key) + entry.value.0.len())
                .sum(),
            Self::TableRemove(keys, ..) => keys.iter().map(key).sum(),
            Self::Create(_, attributes, _) | Self::OverwriteAttributes(attributes, _) => {
                attributes.len() * ATTRIBUTE
            }
            Self::Merge {
                sources, updates, ..
            } => sources.len() * SOURCE + updates.len() * ATTRIBUTE,
            Self::Place { runs, .. } => runs.len(),
            Self::Seal(_)
            | Self::Truncate(..)
            | Self::Delete { .. }
            | Self::UpdateAttribute(..)
            | Self::CheckpointEnd(..) => 0,
        }
    }
}
