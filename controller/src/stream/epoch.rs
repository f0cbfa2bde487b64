//! Which segments were active when: a stream's epochs, and the successors that follow from them.
//!
//! An epoch is a set of segments whose ranges tile the key space. The next one replaces some of them;
//! the others go on. Everything a client asks about order (successors, predecessors, what lies before
//! what) is answered from the list of epochs, also for segments that are long deleted.

use std::collections::BTreeMap;

use sarit_proto::ids::SegmentId;
use sarit_proto::key_range::{KeyRange, tiles};

/// A segment and the keys it owns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Segment {
    pub(crate) id: SegmentId,
    pub(crate) range: KeyRange,
}

/// A stream's active segments between two scalings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Epoch {
    /// 0 for the first.
    pub(crate) number: i32,
    /// The epoch this one repeats; its own number unless a rolling commit made it.
    pub(crate) reference: i32,
    /// Milliseconds since the Unix epoch.
    pub(crate) created_ms: i64,
    /// Sorted by range.
    pub(crate) segments: Vec<Segment>,
}

impl Epoch {
    /// Makes the first epoch: `count` equal ranges, numbered from `first_number` on. `None` if there
    /// are not so many ranges or numbers.
    pub(crate) fn first(count: usize, first_number: i32, created_ms: i64) -> Option<Self> {
        let last = i32::try_from(count).ok()?.checked_add(first_number)?;
        let ranges = KeyRange::FULL.split(count)?;
        let segments = (first_number..last)
            .zip(ranges)
            .map(|(number, range)| Segment {
                id: SegmentId::new(0, number),
                range,
            })
            .collect();
        Some(Self {
            number: 0,
            reference: 0,
            created_ms,
            segments,
        })
    }

    fn has(&self, id: SegmentId) -> bool {
        self.segments.iter().any(|segment| segment.id == id)
    }
}

/// A segment and the segments of the epoch before that it takes keys from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Successor {
    pub(crate) segment: Segment,
    pub(crate) predecessors: Vec<SegmentId>,
}

/// All epochs of a stream, oldest first, never none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Epochs(Vec<Epoch>);

impl Epochs {
    /// Takes a history as it was stored: numbered from 0 without a gap, each tiling the key space.
    ///
    /// # Errors
    /// What is wrong with it; then the records are damaged.
    pub(crate) fn new(epochs: Vec<Epoch>) -> Result<Self, String> {
        if epochs.is_empty() {
            return Err("a stream without an epoch".to_owned());
        }
        for (number, epoch) in (0..).zip(&epochs) {
            let ranges: Vec<_> = epoch.segments.iter().map(|s| s.range).collect();
            if epoch.number != number || !tiles(&ranges, KeyRange::FULL) {
                return Err(format!("epoch {number} is missing or does not tile"));
            }
        }
        Ok(Self(epochs))
    }

    /// Returns how many there are.
    pub(crate) fn len(&self) -> i32 {
        i32::try_from(self.0.len()).unwrap_or(i32::MAX)
    }

    /// Returns the oldest.
    pub(crate) fn first(&self) -> &Epoch {
        self.0.first().expect("never none")
    }

    /// Returns every segment there ever was, by id.
    pub(crate) fn segments(&self) -> BTreeMap<SegmentId, Segment> {
        let all = self.0.iter().flat_map(|epoch| &epoch.segments);
        all.map(|segment| (segment.id, *segment)).collect()
    }

    /// Returns the lowest segment number never used, or `None` if there is none.
    pub(crate) fn next_number(&self) -> Option<i32> {
        let numbers = self.segments().into_keys().map(SegmentId::number);
        numbers.max().and_then(|number| number.checked_add(1))
    }

    /// Returns who takes over the keys of a segment: none while it is active, if the stream ended with
    /// it, and if it is unknown.
    pub(crate) fn successors(&self, id: SegmentId) -> Vec<Successor> {
        let Some(last) = self.0.iter().rposition(|epoch| epoch.has(id)) else {
            return Vec::new();
        };
        let (before, Some(next)) = (&self.0[last], self.0.get(last + 1)) else {
            return Vec::new();
        };
        let range = before.segments.iter().find(|segment| segment.id == id);
        let range = range.expect("the epoch has it").range;
        let heirs = next
            .segments
            .iter()
            .filter(|heir| heir.range.overlaps(range));
        heirs
            .map(|heir| Successor {
                segment: *heir,
                predecessors: before
                    .segments
                    .iter()
                    .filter(|segment| segment.range.overlaps(heir.range))
                    .map(|segment| segment.id)
                    .collect(),
            })
            .collect()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    fn id(epoch: i32, number: i32) -> SegmentId {
        SegmentId::new(epoch, number)
    }

    fn segment(epoch: i32, number: i32, start: f64, end: f64) -> Segment {
        let range = KeyRange::from_f64(start, end).unwrap();
        Segment {
            id: id(epoch, number),
            range,
        }
    }

    /// One segment, split into halves, the lower of which is split again; then all merged.
    pub(crate) fn history() -> Epochs {
        let epoch = |number, segments| Epoch {
            number,
            reference: number,
            created_ms: 0,
            segments,
        };
        Epochs::new(vec![
            epoch(0, vec![segment(0, 0, 0.0, 1.0)]),
            epoch(1, vec![segment(1, 1, 0.0, 0.5), segment(1, 2, 0.5, 1.0)]),
            epoch(
                2,
                vec![
                    segment(2, 3, 0.0, 0.25),
                    segment(2, 4, 0.25, 0.5),
                    segment(1, 2, 0.5, 1.0),
                ],
            ),
            epoch(3, vec![segment(3, 5, 0.0, 1.0)]),
        ])
        .unwrap()
    }

    fn heirs(history: &Epochs, of: SegmentId) -> Vec<(SegmentId, Vec<SegmentId>)> {
        let successors = history.successors(of).into_iter();
        successors.map(|s| (s.segment.id, s.predecessors)).collect()
    }

    #[test]
    fn successors_take_over_in_the_next_epoch_without_the_segment() {
        let history = history();
        let parent = vec![id(0, 0)];
        let split = vec![(id(1, 1), parent.clone()), (id(1, 2), parent)];
        assert_eq!(heirs(&history, id(0, 0)), split);
        let again = vec![(id(2, 3), vec![id(1, 1)]), (id(2, 4), vec![id(1, 1)])];
        assert_eq!(heirs(&history, id(1, 1)), again);
        let merged = vec![(id(3, 5), vec![id(2, 3), id(2, 4), id(1, 2)])];
        assert_eq!(heirs(&history, id(1, 2)), merged);
        assert_eq!(heirs(&history, id(3, 5)), []);
        assert_eq!(heirs(&history, id(7, 7)), []);
    }

    #[test]
    fn numbers_go_on_behind_the_highest_ever_used() {
        assert_eq!(history().next_number(), Some(6));
        let offset = Epoch::first(3, 7, 0).unwrap();
        let ids: Vec<_> = offset.segments.iter().map(|s| s.id.number()).collect();
        assert_eq!(ids, [7, 8, 9]);
        assert_eq!(Epoch::first(2, i32::MAX - 1, 0), None);
        assert_eq!(Epoch::first(0, 0, 0), None);
    }

    #[test]
    fn a_history_with_a_gap_is_refused() {
        let first = Epoch::first(2, 0, 0).unwrap();
        let mut gap = first.clone();
        gap.segments.pop();
        assert!(Epochs::new(vec![gap]).is_err());
        assert!(Epochs::new(vec![]).is_err());
        assert!(Epochs::new(vec![first.clone(), first]).is_err());
    }

    proptest! {
        #[test]
        fn the_first_epoch_tiles_the_key_space(count in 1..2000_usize, from in 0..1_000_000_i32) {
            let epoch = Epoch::first(count, from, 0).unwrap();
            prop_assert_eq!(epoch.segments.len(), count);
            let last = epoch.segments.last().unwrap().range.end().to_f64();
            prop_assert_eq!(last, 1.0);
            prop_assert!(Epochs::new(vec![epoch]).is_ok());
        }
    }
}
