//! A group's checkpoints, as its readers note them (pure): one is complete once every reader that was
//! online when it began has said where it was.

use std::collections::{BTreeMap, BTreeSet};

/// Offsets by segment name.
pub(super) type Positions = BTreeMap<String, i64>;

/// In the name of a checkpoint that only serves to find a stream cut.
const SILENT: &str = "_SILENT_";

/// The checkpoints that have not ended, oldest first, and the last one that has.
#[derive(Debug, Default)]
pub(super) struct Checkpoints {
    pending: Vec<Pending>,
    last: Option<Positions>,
}

#[derive(Debug)]
struct Pending {
    id: String,
    /// Those that have said nothing yet.
    readers: BTreeSet<String>,
    positions: Positions,
}

impl Checkpoints {
    /// What a compacted log says: those begun, in order, each with its readers and positions.
    pub(super) fn restored(
        ids: Vec<String>,
        mut readers: BTreeMap<String, BTreeSet<String>>,
        mut positions: BTreeMap<String, Positions>,
        last: Positions,
    ) -> Self {
        let pending = ids.into_iter().filter_map(|id| {
            // One that no reader owes anything is complete.
            let readers = readers.remove(&id)?;
            let positions = positions.remove(&id).unwrap_or_default();
            Some(Pending {
                id,
                readers,
                positions,
            })
        });
        Self {
            pending: pending.collect(),
            last: Some(last).filter(|last| !last.is_empty()),
        }
    }

    /// Where the group was at the last complete one.
    pub(super) fn last(&self) -> Option<&Positions> {
        self.last.as_ref()
    }

    /// One begins; `unassigned` is where the segments are that nobody reads. Without readers it leads to
    /// nothing.
    pub(super) fn begin(&mut self, id: String, readers: BTreeSet<String>, unassigned: Positions) {
        if !readers.is_empty() && self.pending.iter().all(|pending| pending.id != id) {
            self.pending.push(Pending {
                id,
                readers,
                positions: unassigned,
            });
        }
    }

    /// A reader says where it is.
    pub(super) fn arrived(&mut self, id: &str, reader: &str, positions: &Positions) {
        let Some(at) = self.pending.iter().position(|pending| pending.id == id) else {
            return;
        };
        let pending = &mut self.pending[at];
        if !pending.readers.remove(reader) {
            return;
        }
        pending.positions.extend(positions.clone());
        if pending.readers.is_empty() {
            let complete = self.pending.remove(at);
            if !complete.id.contains(SILENT) {
                self.last = Some(complete.positions);
            }
        }
    }

    /// A reader goes, and leaves its segments at these positions.
    pub(super) fn left(&mut self, reader: &str, positions: &Positions) {
        let ids: Vec<_> = self
            .pending
            .iter()
            .map(|pending| pending.id.clone())
            .collect();
        for id in ids {
            self.arrived(&id, reader, positions);
        }
    }

    /// Those before this one are given up.
    pub(super) fn clear_before(&mut self, id: &str) {
        if let Some(at) = self.pending.iter().position(|pending| pending.id == id) {
            self.pending.drain(..at);
        }
    }

    /// All that were asked for are given up.
    pub(super) fn clear_outstanding(&mut self) {
        self.pending.retain(|pending| pending.id.contains(SILENT));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(pairs: &[(&str, i64)]) -> Positions {
        pairs
            .iter()
            .map(|(segment, offset)| ((*segment).to_owned(), *offset))
            .collect()
    }

    fn readers(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn a_checkpoint_is_complete_when_every_reader_has_said_where_it_is_or_has_gone() {
        let mut checkpoints = Checkpoints::default();
        checkpoints.begin("c".to_owned(), readers(&["x", "y"]), at(&[("free", 7)]));
        checkpoints.arrived("c", "x", &at(&[("a", 1)]));
        assert_eq!(checkpoints.last(), None);
        checkpoints.arrived("c", "x", &at(&[("a", 2)]));
        checkpoints.left("y", &at(&[("b", 3)]));
        assert_eq!(
            checkpoints.last(),
            Some(&at(&[("a", 1), ("b", 3), ("free", 7)]))
        );
    }

    #[test]
    fn what_is_silent_or_given_up_is_no_place_to_go_back_to() {
        let mut checkpoints = Checkpoints::default();
        for id in ["c_SILENT_", "old", "new", "asked"] {
            checkpoints.begin(id.to_owned(), readers(&["x"]), Positions::new());
        }
        checkpoints.arrived("c_SILENT_", "x", &at(&[("a", 1)]));
        checkpoints.clear_before("new");
        checkpoints.arrived("old", "x", &at(&[("a", 2)]));
        assert_eq!(checkpoints.last(), None);
        checkpoints.arrived("new", "x", &at(&[("a", 3)]));
        checkpoints.clear_outstanding();
        checkpoints.arrived("asked", "x", &at(&[("a", 4)]));
        assert_eq!(checkpoints.last(), Some(&at(&[("a", 3)])));
    }
}
