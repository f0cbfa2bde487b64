//! How far a reader of a whole stream has got, and which segments come next (pure).
//!
//! A segment is started when all its predecessors have ended. Segments that take over together are
//! started together: so at any moment the segments being read, and those ended whose successors still
//! wait, cover every key exactly once, and their offsets are a stream cut.

use std::collections::{BTreeMap, BTreeSet};

use sarit_proto::ids::{Offset, SegmentId};
use sarit_proto::stream_cut::SegmentPosition;

/// The front line of a reader through a stream.
#[derive(Debug, Default)]
pub(crate) struct Frontier {
    /// Being read, with the offset of the next event.
    active: BTreeMap<SegmentId, SegmentPosition>,
    /// Read to the end, with that end; their successors have not all started.
    ended: BTreeMap<SegmentId, SegmentPosition>,
    /// Known but not started, with their predecessors.
    waiting: BTreeMap<SegmentId, BTreeSet<SegmentId>>,
}

impl Frontier {
    /// Starts reading `segment` at `position`.
    pub(crate) fn start(&mut self, segment: SegmentId, position: SegmentPosition) {
        self.active.insert(segment, position);
    }

    /// Waits with `segment` until `predecessors` have ended.
    pub(crate) fn wait(&mut self, segment: SegmentId, predecessors: Vec<SegmentId>) {
        self.waiting
            .insert(segment, predecessors.into_iter().collect());
    }

    /// Everything before `position` has been read.
    pub(crate) fn advance(&mut self, segment: SegmentId, position: SegmentPosition) {
        if let Some(at) = self.active.get_mut(&segment) {
            *at = position;
        }
    }

    /// `segment` has been read to its end; `successors` take over, each from all its predecessors.
    /// Returns what starts now, at offset 0; the caller reads it.
    pub(crate) fn end(
        &mut self,
        segment: SegmentId,
        successors: impl IntoIterator<Item = (SegmentId, Vec<SegmentId>)>,
    ) -> Vec<SegmentId> {
        let Some(end) = self.active.remove(&segment) else {
            return Vec::new();
        };
        self.ended.insert(segment, end);
        let mut follows = false;
        for (successor, predecessors) in successors {
            follows = true;
            if !self.active.contains_key(&successor) && !self.ended.contains_key(&successor) {
                self.waiting
                    .insert(successor, predecessors.into_iter().collect());
            }
        }
        let mut started = Vec::new();
        for successor in self.waiting.keys().copied().collect::<Vec<_>>() {
            if let Some((together, before)) = self.startable(successor) {
                for predecessor in before {
                    self.ended.remove(&predecessor);
                }
                for segment in together {
                    self.waiting.remove(&segment);
                    self.start(segment, SegmentPosition::At(Offset(0)));
                    started.push(segment);
                }
            }
        }
        // All its successors were started before: it was in a cut together with them.
        if follows
            && !self
                .waiting
                .values()
                .any(|before| before.contains(&segment))
        {
            self.ended.remove(&segment);
        }
        started
    }

    /// Returns who starts together with `successor` and whom they replace, if all of those have ended.
    fn startable(
        &self,
        successor: SegmentId,
    ) -> Option<(BTreeSet<SegmentId>, BTreeSet<SegmentId>)> {
        let mut before = self.waiting.get(&successor)?.clone();
        let mut together = BTreeSet::from([successor]);
        loop {
            let size = together.len();
            for (&segment, predecessors) in &self.waiting {
                if !predecessors.is_disjoint(&before) {
                    together.insert(segment);
                    before.extend(predecessors);
                }
            }
            if together.len() == size {
                break;
            }
        }
        let all_ended = before
            .iter()
            .all(|segment| self.ended.contains_key(segment));
        all_ended.then_some((together, before))
    }

    /// Returns a segment that still waits. When nothing is being read any more, it waits in vain: for a
    /// predecessor that the cut which reading began at has left out.
    pub(crate) fn waiting(&self) -> Option<SegmentId> {
        self.waiting.keys().next().copied()
    }

    /// Returns how many segments are being read.
    pub(crate) fn active(&self) -> usize {
        self.active.len()
    }

    /// Returns where the reader is: one offset per segment, covering every key once.
    pub(crate) fn cut(&self) -> BTreeMap<SegmentId, SegmentPosition> {
        let mut cut = self.active.clone();
        cut.extend(&self.ended);
        cut
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(offset: u64) -> SegmentPosition {
        SegmentPosition::At(Offset(offset))
    }

    fn id(number: i32) -> SegmentId {
        SegmentId::new(0, number)
    }

    fn ids(numbers: &[i32]) -> Vec<SegmentId> {
        numbers.iter().copied().map(id).collect()
    }

    fn successor(number: i32, predecessors: &[i32]) -> (SegmentId, Vec<SegmentId>) {
        (id(number), ids(predecessors))
    }

    fn reading(numbers: &[i32]) -> Frontier {
        let mut frontier = Frontier::default();
        for number in numbers {
            frontier.start(id(*number), at(0));
        }
        frontier
    }

    fn cut(frontier: &Frontier) -> Vec<(i32, i64)> {
        let cut = frontier.cut();
        cut.iter()
            .map(|(id, position)| (id.number(), position.to_raw()))
            .collect()
    }

    #[test]
    fn a_split_starts_both_halves_and_leaves_the_cut() {
        let mut frontier = reading(&[0, 1]);
        frontier.advance(id(0), at(70));
        let started = frontier.end(id(0), [successor(2, &[0]), successor(3, &[0])]);
        assert_eq!(started, ids(&[2, 3]));
        assert_eq!(cut(&frontier), [(1, 0), (2, 0), (3, 0)]);
    }

    #[test]
    fn a_merged_segment_waits_for_all_its_predecessors() {
        let mut frontier = reading(&[0, 1]);
        frontier.advance(id(0), at(10));
        frontier.advance(id(1), at(20));
        assert_eq!(frontier.end(id(0), [successor(2, &[0, 1])]), []);
        assert_eq!(cut(&frontier), [(0, 10), (1, 20)], "the ended one stays");
        assert_eq!(frontier.end(id(1), [successor(2, &[0, 1])]), ids(&[2]));
        assert_eq!(cut(&frontier), [(2, 0)]);
    }

    #[test]
    fn segments_that_share_a_predecessor_start_together() {
        // 0 and 1 become 2, 3 and 4, where 3 takes keys from both.
        let mut frontier = reading(&[0, 1]);
        let of_0 = [successor(2, &[0]), successor(3, &[0, 1])];
        assert_eq!(
            frontier.end(id(0), of_0),
            [],
            "2 alone would overlap 0 in a cut"
        );
        let of_1 = [successor(3, &[0, 1]), successor(4, &[1])];
        assert_eq!(frontier.end(id(1), of_1), ids(&[2, 3, 4]));
        assert_eq!(cut(&frontier), [(2, 0), (3, 0), (4, 0)]);
    }

    #[test]
    fn the_end_of_a_sealed_stream_stays_in_the_cut() {
        let mut frontier = reading(&[0]);
        frontier.advance(id(0), at(99));
        assert_eq!(frontier.end(id(0), []), []);
        assert_eq!(frontier.active(), 0);
        assert_eq!(cut(&frontier), [(0, 99)]);
    }

    #[test]
    fn a_segment_already_being_read_is_not_started_again() {
        let mut frontier = reading(&[0, 2]);
        frontier.advance(id(2), at(5));
        let started = frontier.end(id(0), [successor(2, &[0]), successor(3, &[0])]);
        assert_eq!(started, ids(&[3]));
        assert_eq!(cut(&frontier), [(2, 5), (3, 0)]);
        let mut frontier = reading(&[0, 2]);
        frontier.advance(id(2), at(5));
        assert_eq!(frontier.end(id(0), [successor(2, &[0])]), []);
        assert_eq!(cut(&frontier), [(2, 5)]);
    }
}
