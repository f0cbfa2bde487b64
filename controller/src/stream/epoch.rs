//! Which segments were active when: a stream's epochs, and the successors that follow from them.
//!
//! An epoch is a set of segments whose ranges tile the key space. The next one replaces some of them;
//! the others go on. What is kept is each change: what ends, what begins. Everything a client asks
//! about order (successors, predecessors, what lies before what) is answered from the list of changes,
//! also for segments that are long deleted.

use std::collections::{BTreeMap, BTreeSet};

use sarit_proto::ids::SegmentId;
use sarit_proto::key_range::{KeyRange, tiles, union};

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

    /// Returns whether a segment is active in it.
    pub(crate) fn has(&self, id: SegmentId) -> bool {
        self.segments.iter().any(|segment| segment.id == id)
    }

    /// Returns the first epoch as a change of nothing.
    pub(crate) fn as_first(&self) -> Transition {
        Transition {
            number: self.number,
            reference: self.reference,
            created_ms: self.created_ms,
            sealed: Vec::new(),
            added: self.segments.clone(),
        }
    }
}

/// A segment and the segments of the epoch before that it takes keys from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Successor {
    pub(crate) segment: Segment,
    pub(crate) predecessors: Vec<SegmentId>,
}

/// What begins and what ends with an epoch. What it costs depends on the change, not on the number of
/// segments that go on, so a long history stays small and can be kept for ever.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Transition {
    /// The epoch that begins.
    pub(crate) number: i32,
    /// The epoch it repeats; its own number unless a rolling commit made it.
    pub(crate) reference: i32,
    /// Milliseconds since the Unix epoch.
    pub(crate) created_ms: i64,
    /// The segments that end; none with the first epoch.
    pub(crate) sealed: Vec<Segment>,
    /// The segments that begin, with the same keys.
    pub(crate) added: Vec<Segment>,
}

impl Transition {
    /// Returns whether a segment ends with this change.
    pub(crate) fn ends(&self, id: SegmentId) -> bool {
        self.sealed.iter().any(|segment| segment.id == id)
    }

    /// Returns who takes over the keys of a segment that ends with this change.
    pub(crate) fn successors(&self, id: SegmentId) -> Vec<Successor> {
        let Some(ended) = self.sealed.iter().find(|segment| segment.id == id) else {
            return Vec::new();
        };
        let heirs = self.added.iter();
        let heirs = heirs.filter(|heir| heir.range.overlaps(ended.range));
        let successor = |heir: &Segment| {
            let before = self.sealed.iter();
            let before = before.filter(|segment| segment.range.overlaps(heir.range));
            Successor {
                segment: *heir,
                predecessors: before.map(|segment| segment.id).collect(),
            }
        };
        heirs.map(successor).collect()
    }

    /// Returns the epoch that follows `before`.
    ///
    /// # Errors
    /// What does not fit together; then the records are damaged.
    pub(crate) fn apply(&self, before: &Epoch) -> Result<Epoch, String> {
        let known: BTreeSet<SegmentId> = before.segments.iter().map(|s| s.id).collect();
        if self.number != before.number + 1 || !self.sealed.iter().all(|s| known.contains(&s.id)) {
            return Err(format!(
                "epoch {} does not follow {}",
                self.number, before.number
            ));
        }
        let ended: BTreeSet<SegmentId> = self.sealed.iter().map(|s| s.id).collect();
        let mut segments = before.segments.clone();
        segments.retain(|segment| !ended.contains(&segment.id));
        segments.extend_from_slice(&self.added);
        segments.sort_unstable_by_key(|segment| segment.range);
        let ranges: Vec<_> = segments.iter().map(|segment| segment.range).collect();
        if !tiles(&ranges, KeyRange::FULL) {
            return Err(format!("epoch {} does not tile", self.number));
        }
        Ok(Epoch {
            number: self.number,
            reference: self.reference,
            created_ms: self.created_ms,
            segments,
        })
    }
}

/// Returns the same segments as they are called in another epoch.
pub(crate) fn repeated(segments: &[Segment], epoch: i32) -> Vec<Segment> {
    let segments = segments.iter();
    segments
        .map(|segment| Segment {
            id: SegmentId::new(epoch, segment.id.number()),
            range: segment.range,
        })
        .collect()
}

/// All epochs of a stream, oldest first, never none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Epochs {
    transitions: Vec<Transition>,
    active: BTreeMap<KeyRange, Segment>,
}

impl Epochs {
    /// Takes a history as it was stored: numbered from 0 without a gap, each change replacing what is
    /// there by what covers the same keys.
    ///
    /// # Errors
    /// What is wrong with it; then the records are damaged.
    pub(crate) fn new(transitions: Vec<Transition>) -> Result<Self, String> {
        let mut history = Self {
            transitions: Vec::with_capacity(transitions.len()),
            active: BTreeMap::new(),
        };
        for transition in transitions {
            history.push(transition)?;
        }
        match history.transitions.is_empty() {
            true => Err("a stream without an epoch".to_owned()),
            false => Ok(history),
        }
    }

    /// Adds the next epoch.
    ///
    /// # Errors
    /// Why it cannot follow; then nothing changed that counts.
    pub(crate) fn push(&mut self, transition: Transition) -> Result<(), String> {
        let number = transition.number;
        let wrong = |what: &str| Err(format!("epoch {number} {what}"));
        if number != self.len() {
            return wrong("is out of order");
        }
        let ranges = |segments: &[Segment]| {
            let ranges: Vec<_> = segments.iter().map(|segment| segment.range).collect();
            union(&ranges)
        };
        let sealed = match self.transitions.is_empty() {
            true => Some(vec![KeyRange::FULL]),
            false => ranges(&transition.sealed),
        };
        if sealed.is_none() || sealed != ranges(&transition.added) {
            return wrong("does not tile");
        }
        for segment in &transition.sealed {
            if self.active.remove(&segment.range) != Some(*segment) {
                return wrong("ends what was not active");
            }
        }
        let added = transition.added.iter();
        self.active
            .extend(added.map(|segment| (segment.range, *segment)));
        self.transitions.push(transition);
        Ok(())
    }

    /// Returns how many there are.
    pub(crate) fn len(&self) -> i32 {
        i32::try_from(self.transitions.len()).unwrap_or(i32::MAX)
    }

    /// Returns the segments a stream begins with.
    pub(crate) fn first(&self) -> &[Segment] {
        &self.transitions.first().expect("never none").added
    }

    /// Returns the changes, oldest first.
    pub(crate) fn transitions(&self) -> &[Transition] {
        &self.transitions
    }

    /// Returns an epoch, put together from the changes up to it.
    pub(crate) fn at(&self, number: i32) -> Option<Epoch> {
        let count = usize::try_from(number).ok()? + 1;
        let changes = self.transitions.get(..count)?;
        let last = changes.last()?;
        let mut segments = BTreeMap::new();
        for change in changes {
            for segment in &change.sealed {
                segments.remove(&segment.range);
            }
            segments.extend(change.added.iter().map(|segment| (segment.range, *segment)));
        }
        Some(Epoch {
            number,
            reference: last.reference,
            created_ms: last.created_ms,
            segments: segments.into_values().collect(),
        })
    }

    /// Returns every segment there ever was, by id.
    pub(crate) fn segments(&self) -> BTreeMap<SegmentId, Segment> {
        let all = self.transitions.iter().flat_map(|change| &change.added);
        all.map(|segment| (segment.id, *segment)).collect()
    }

    /// Returns the lowest segment number never used, or `None` if there is none.
    pub(crate) fn next_number(&self) -> Option<i32> {
        let all = self.transitions.iter().flat_map(|change| &change.added);
        let numbers = all.map(|segment| segment.id.number());
        numbers.max().and_then(|number| number.checked_add(1))
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

    fn change(number: i32, sealed: Vec<Segment>, added: Vec<Segment>) -> Transition {
        Transition {
            number,
            reference: number,
            created_ms: 0,
            sealed,
            added,
        }
    }

    /// One segment, split into halves, the lower of which is split again; then all merged.
    pub(crate) fn history() -> Epochs {
        let whole = segment(0, 0, 0.0, 1.0);
        let (lower, upper) = (segment(1, 1, 0.0, 0.5), segment(1, 2, 0.5, 1.0));
        let (first, second) = (segment(2, 3, 0.0, 0.25), segment(2, 4, 0.25, 0.5));
        let merged = segment(3, 5, 0.0, 1.0);
        Epochs::new(vec![
            change(0, vec![], vec![whole]),
            change(1, vec![whole], vec![lower, upper]),
            change(2, vec![lower], vec![first, second]),
            change(3, vec![first, second, upper], vec![merged]),
        ])
        .unwrap()
    }

    fn heirs(history: &Epochs, of: SegmentId) -> Vec<(SegmentId, Vec<SegmentId>)> {
        let changes = history.transitions().iter();
        let successors = changes.flat_map(|change| change.successors(of));
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
    fn any_epoch_can_be_put_together_again() {
        let history = history();
        let ids = |number| {
            let epoch = history.at(number).unwrap();
            epoch.segments.iter().map(|s| s.id).collect::<Vec<_>>()
        };
        assert_eq!(ids(0), [id(0, 0)]);
        assert_eq!(ids(2), [id(2, 3), id(2, 4), id(1, 2)]);
        assert_eq!(ids(3), [id(3, 5)]);
        assert_eq!(history.at(4), None);
        assert_eq!(history.at(-1), None);
        for number in 1..4 {
            let change = &history.transitions()[usize::try_from(number).unwrap()];
            let before = history.at(number - 1).unwrap();
            assert_eq!(change.apply(&before).ok(), history.at(number));
        }
    }

    #[test]
    fn a_history_with_a_gap_is_refused() {
        let first = Epoch::first(2, 0, 0).unwrap().as_first();
        let mut gap = first.clone();
        gap.added.pop();
        assert!(Epochs::new(vec![gap]).is_err());
        assert!(Epochs::new(vec![]).is_err());
        assert!(Epochs::new(vec![first.clone(), first.clone()]).is_err());
        let stranger = segment(0, 7, 0.0, 0.5);
        let ends = change(1, vec![stranger], vec![segment(1, 8, 0.0, 0.5)]);
        assert!(Epochs::new(vec![first.clone(), ends]).is_err());
        let narrow = change(1, first.added.clone(), vec![segment(1, 8, 0.0, 0.5)]);
        assert!(Epochs::new(vec![first, narrow]).is_err());
    }

    proptest! {
        #[test]
        fn the_first_epoch_tiles_the_key_space(count in 1..2000_usize, from in 0..1_000_000_i32) {
            let epoch = Epoch::first(count, from, 0).unwrap();
            prop_assert_eq!(epoch.segments.len(), count);
            let last = epoch.segments.last().unwrap().range.end().to_f64();
            prop_assert_eq!(last, 1.0);
            prop_assert!(Epochs::new(vec![epoch.as_first()]).is_ok());
        }
    }
}
