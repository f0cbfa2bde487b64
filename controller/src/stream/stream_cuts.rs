//! Positions across a stream: which cuts are possible, which comes first, what lies between two.
//!
//! At every routing key the segments of a stream follow each other in the order of their creation
//! epochs. So a cut, which has one segment per key, is compared key range by key range: a later epoch
//! is further on, and within one segment the higher offset.

use std::collections::BTreeMap;

use sarit_proto::ids::SegmentId;
use sarit_proto::key_range::{KeyRange, tiles};

use super::epoch::{Epochs, Segment};

/// The offset that stands for "all of the segment".
pub(crate) const WHOLE_SEGMENT: i64 = -1;

/// One offset per segment, as a client gave it.
pub(crate) type Cut = BTreeMap<SegmentId, i64>;

/// Why a cut is none of this stream.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CutError {
    /// Nothing in it.
    #[error("the stream cut is empty")]
    Empty,
    /// A negative number where none can be.
    #[error("the stream cut has offset {offset} in segment {raw}")]
    Malformed { raw: i64, offset: i64 },
    /// A segment the stream never had.
    #[error("the stream cut names segment {0}, which this stream never had")]
    Unknown(SegmentId),
    /// The segments leave keys out, or have keys in common.
    #[error("the segments of the stream cut do not cover every routing key exactly once")]
    NotTiling,
}

/// Checks numbers that came from outside.
pub(crate) fn parse(raw: &BTreeMap<i64, i64>) -> Result<Cut, CutError> {
    let entries = raw.iter().map(|(&raw, &offset)| {
        let id = SegmentId::parse(raw).filter(|_| offset >= WHOLE_SEGMENT);
        let id = id.ok_or(CutError::Malformed { raw, offset })?;
        Ok((id, offset))
    });
    entries.collect()
}

/// A cut of a certain stream: known segments that tile the key space.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StreamCut(Vec<(Segment, i64)>);

impl StreamCut {
    /// Places a cut in a stream.
    pub(crate) fn new(cut: &Cut, epochs: &Epochs) -> Result<Self, CutError> {
        Self::among(cut, &epochs.segments())
    }

    /// Places a cut among all the segments a stream ever had.
    pub(crate) fn among(cut: &Cut, known: &BTreeMap<SegmentId, Segment>) -> Result<Self, CutError> {
        if cut.is_empty() {
            return Err(CutError::Empty);
        }
        let entries = cut.iter().map(|(id, offset)| {
            let segment = known.get(id).ok_or(CutError::Unknown(*id))?;
            Ok((*segment, *offset))
        });
        let entries: Vec<_> = entries.collect::<Result<_, _>>()?;
        let ranges: Vec<KeyRange> = entries.iter().map(|(segment, _)| segment.range).collect();
        if !tiles(&ranges, KeyRange::FULL) {
            return Err(CutError::NotTiling);
        }
        Ok(Self(entries))
    }

    /// Returns where an untruncated stream begins.
    pub(crate) fn head(epochs: &Epochs) -> Self {
        let segments = epochs.first().iter();
        Self(segments.map(|segment| (*segment, 0)).collect())
    }

    /// Returns the segments and offsets.
    pub(crate) fn offsets(&self) -> impl Iterator<Item = (SegmentId, i64)> {
        self.0.iter().map(|(segment, offset)| (segment.id, *offset))
    }

    /// Returns whether nothing of this cut is before `other`.
    pub(crate) fn is_at_or_after(&self, other: &Self) -> bool {
        self.0.iter().all(|(mine, my_offset)| {
            let overlapping = other.0.iter();
            let mut overlapping =
                overlapping.filter(|(theirs, _)| theirs.range.overlaps(mine.range));
            overlapping.all(|(theirs, their_offset)| {
                if mine.id == theirs.id {
                    rank(*my_offset) >= rank(*their_offset)
                } else {
                    mine.id.epoch() > theirs.id.epoch()
                }
            })
        })
    }

    /// Returns the segments that lie wholly before this cut.
    pub(crate) fn segments_before(&self, epochs: &Epochs) -> Vec<SegmentId> {
        let all = epochs.segments().into_values();
        all.filter(|segment| {
            let mut over = self.0.iter();
            let mut over = over
                .by_ref()
                .filter(|(s, _)| s.range.overlaps(segment.range));
            over.all(|(s, _)| s.id.epoch() > segment.id.epoch())
        })
        .map(|segment| segment.id)
        .collect()
    }

    /// Returns every segment that has a position at or after `from` and at or before `to`, in the order
    /// of creation; `to` missing means the tail.
    pub(crate) fn between(from: &Self, to: Option<&Self>, epochs: &Epochs) -> Vec<SegmentId> {
        let all = epochs.segments().into_values();
        let within = |segment: &Segment| {
            from.at(segment.range).any(|(first, common)| {
                let started = first.id == segment.id || first.id.epoch() < segment.id.epoch();
                let Some(to) = to else { return started };
                let mut ends = to.at(common);
                started
                    && ends.any(|(last, _)| {
                        last.id == segment.id || last.id.epoch() > segment.id.epoch()
                    })
            })
        };
        all.filter(within).map(|segment| segment.id).collect()
    }

    /// Returns the cut's segments that share keys with `range`, and which.
    fn at(&self, range: KeyRange) -> impl Iterator<Item = (&Segment, KeyRange)> {
        self.0.iter().filter_map(move |(segment, _)| {
            let start = segment.range.start().max(range.start());
            let end = segment.range.end().min(range.end());
            KeyRange::new(start, end).map(|common| (segment, common))
        })
    }
}

/// Returns, at each key, the earliest of what the cuts name; nothing if there are none. What is no cut of
/// this stream, but perhaps of an earlier one of that name, says nothing about it.
pub(crate) fn earliest(cuts: &[Cut], epochs: &Epochs) -> Option<(Cut, StreamCut)> {
    let known = epochs.segments();
    // In the order of creation: an earlier segment has all keys it shares with a later one.
    let mut lowest = BTreeMap::new();
    let cuts = cuts.iter();
    let cuts = cuts.filter(|cut| StreamCut::among(cut, &known).is_ok());
    for (id, offset) in cuts.flatten() {
        let lower = lowest.entry(*id).or_insert(*offset);
        if rank(*offset) < rank(*lower) {
            *lower = *offset;
        }
    }
    let mut cut = Cut::new();
    let mut taken: Vec<KeyRange> = Vec::new();
    for (id, offset) in lowest {
        let range = known.get(&id)?.range;
        if !taken.iter().any(|other| other.overlaps(range)) {
            taken.push(range);
            cut.insert(id, offset);
        }
    }
    let placed = StreamCut::new(&cut, epochs).ok()?;
    Some((cut, placed))
}

/// "All of the segment" is behind every offset in it.
fn rank(offset: i64) -> i64 {
    if offset == WHOLE_SEGMENT {
        i64::MAX
    } else {
        offset
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stream::epoch::tests::history;

    fn cut(entries: &[(i32, i32, i64)]) -> Cut {
        let entries = entries.iter();
        entries
            .map(|(epoch, number, offset)| (SegmentId::new(*epoch, *number), *offset))
            .collect()
    }

    fn placed(entries: &[(i32, i32, i64)]) -> StreamCut {
        StreamCut::new(&cut(entries), &history()).unwrap()
    }

    fn numbers(ids: &[SegmentId]) -> Vec<i32> {
        ids.iter().map(|id| id.number()).collect()
    }

    #[test]
    fn only_known_segments_that_tile_make_a_cut() {
        let history = history();
        let refused = |entries| StreamCut::new(&cut(entries), &history).unwrap_err();
        assert_eq!(refused(&[]), CutError::Empty);
        assert_eq!(
            refused(&[(9, 9, 0)]),
            CutError::Unknown(SegmentId::new(9, 9))
        );
        assert_eq!(refused(&[(1, 1, 0)]), CutError::NotTiling);
        assert_eq!(refused(&[(0, 0, 0), (1, 1, 0)]), CutError::NotTiling);
        placed(&[(2, 3, 0), (2, 4, 5), (1, 2, 7)]);
        placed(&[(1, 1, 0), (1, 2, -1)]);
    }

    #[test]
    fn numbers_below_minus_one_are_malformed() {
        assert!(parse(&BTreeMap::from([(0, -1)])).is_ok());
        assert!(parse(&BTreeMap::from([(0, -2)])).is_err());
        assert!(parse(&BTreeMap::from([(-5, 0)])).is_err());
    }

    #[test]
    fn cuts_are_ordered_key_by_key() {
        let start = placed(&[(0, 0, 10)]);
        let middle = placed(&[(1, 1, 5), (1, 2, 5)]);
        let mixed = placed(&[(2, 3, 0), (2, 4, 0), (1, 2, 4)]);
        assert!(middle.is_at_or_after(&start) && !start.is_at_or_after(&middle));
        assert!(!mixed.is_at_or_after(&middle) && !middle.is_at_or_after(&mixed));
        assert!(middle.is_at_or_after(&middle));
        assert!(placed(&[(0, 0, -1)]).is_at_or_after(&start));
        assert!(!start.is_at_or_after(&placed(&[(0, 0, -1)])));
    }

    #[test]
    fn between_has_both_ends_and_every_path() {
        let history = history();
        let start = placed(&[(0, 0, 10)]);
        let mixed = placed(&[(2, 3, 0), (2, 4, 0), (1, 2, 4)]);
        let ids = StreamCut::between(&start, Some(&mixed), &history);
        assert_eq!(numbers(&ids), [0, 1, 2, 3, 4]);
        let ids = StreamCut::between(&mixed, None, &history);
        assert_eq!(numbers(&ids), [2, 3, 4, 5]);
        let lower = placed(&[(1, 1, 5), (1, 2, 5)]);
        let ids = StreamCut::between(&lower, Some(&lower), &history);
        assert_eq!(numbers(&ids), [1, 2]);
        let head = StreamCut::head(&history);
        let ids = StreamCut::between(&head, None, &history);
        assert_eq!(numbers(&ids), [0, 1, 2, 3, 4, 5]);
    }

    #[test]
    fn the_earliest_of_several_cuts_is_found_key_by_key() {
        let history = history();
        let early = |cuts: &[Cut]| earliest(cuts, &history).map(|(cut, _)| cut);
        let (parent, children) = (cut(&[(0, 0, 7)]), cut(&[(1, 1, 5), (1, 2, 6)]));
        assert_eq!(early(&[children.clone(), parent.clone()]), Some(parent));
        let mixed = cut(&[(2, 3, 1), (2, 4, 2), (1, 2, 4)]);
        let both = cut(&[(1, 1, 5), (1, 2, 4)]);
        assert_eq!(early(&[mixed, children]), Some(both));
        assert_eq!(early(&[]), None);
        assert_eq!(early(&[cut(&[(9, 9, 0)])]), None);
        // What is no cut of this stream says nothing about it.
        let known = cut(&[(1, 1, 5), (1, 2, 4)]);
        for strange in [cut(&[(9, 9, 0)]), cut(&[(0, 0, 1), (1, 2, 4)])] {
            assert_eq!(early(&[strange, known.clone()]), Some(known.clone()));
        }
    }

    #[test]
    fn what_lies_before_a_cut_is_what_its_keys_have_left_behind() {
        let history = history();
        let mixed = placed(&[(2, 3, 0), (2, 4, 0), (1, 2, 4)]);
        assert_eq!(numbers(&mixed.segments_before(&history)), [0, 1]);
        assert_eq!(
            numbers(&placed(&[(0, 0, 9)]).segments_before(&history)),
            [0; 0]
        );
        let all = placed(&[(3, 5, 0)]).segments_before(&history);
        assert_eq!(numbers(&all), [0, 1, 2, 3, 4]);
    }
}
