//! What may be scaled into what, and the epoch that results.

use std::collections::BTreeSet;

use sarit_proto::ids::SegmentId;
use sarit_proto::key_range::{KeyRange, union};

use super::config::SEGMENTS_MAX;
use super::epoch::{Epoch, Segment, Transition};

/// Segments to replace, and the ranges of those that take over, in the order they get their numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Scaling {
    pub(crate) sealed: BTreeSet<SegmentId>,
    pub(crate) ranges: Vec<KeyRange>,
}

/// Why a stream is not scaled so.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    /// Someone else was faster, or the caller knows an old state.
    #[error("segment {0} is not active")]
    NotActive(SegmentId),
    /// The policy asks for more.
    #[error("the stream would have {left} segments, its policy asks for at least {least}")]
    TooFew { left: usize, least: usize },
    /// More than an epoch holds.
    #[error("the stream would have {0} segments, at most {SEGMENTS_MAX} are allowed")]
    TooMany(usize),
    /// Keys would be left over or covered twice.
    #[error("the new ranges do not cover the keys of the sealed segments exactly once")]
    NotTiling,
    /// All segment numbers or epochs of this stream are used up.
    #[error("the stream has used up its segment numbers")]
    UsedUp,
}

/// Returns the change that replaces segments of `active` as wanted; new segments are numbered from
/// `next_number` on. `least` is the policy's minimum: nothing goes below it, but what is below it
/// already may grow.
pub(crate) fn plan(
    active: &Epoch,
    wanted: &Scaling,
    least: usize,
    next_number: i32,
    now_ms: i64,
) -> Result<Transition, Refusal> {
    if wanted.sealed.is_empty() || wanted.ranges.is_empty() {
        return Err(Refusal::NotTiling);
    }
    if let Some(id) = wanted.sealed.iter().find(|id| !active.has(**id)) {
        return Err(Refusal::NotActive(*id));
    }
    let sealed = active.segments.iter();
    let sealed: Vec<Segment> = sealed
        .filter(|segment| wanted.sealed.contains(&segment.id))
        .copied()
        .collect();
    let before: Vec<KeyRange> = sealed.iter().map(|segment| segment.range).collect();
    let covered = union(&wanted.ranges);
    if covered.is_none() || covered != union(&before) {
        return Err(Refusal::NotTiling);
    }
    let left = active.segments.len() - sealed.len() + wanted.ranges.len();
    if left < least && left < active.segments.len() {
        return Err(Refusal::TooFew { left, least });
    }
    if left > usize::try_from(SEGMENTS_MAX).unwrap_or(usize::MAX) {
        return Err(Refusal::TooMany(left));
    }
    let number = active.number.checked_add(1).ok_or(Refusal::UsedUp)?;
    let count = i32::try_from(wanted.ranges.len()).map_err(|_| Refusal::UsedUp)?;
    let last = next_number.checked_add(count).ok_or(Refusal::UsedUp)?;
    let added = (next_number..last).zip(&wanted.ranges);
    let added = added.map(|(new, range)| Segment {
        id: SegmentId::new(number, new),
        range: *range,
    });
    Ok(Transition {
        number,
        reference: number,
        created_ms: now_ms,
        sealed,
        added: added.collect(),
    })
}

/// Returns the scaling that replaces all of `active` by `count` equal ranges.
pub(crate) fn evenly(active: &Epoch, count: usize) -> Option<Scaling> {
    Some(Scaling {
        sealed: active.segments.iter().map(|segment| segment.id).collect(),
        ranges: KeyRange::FULL.split(count)?,
    })
}

impl Scaling {
    /// Returns whether `made` is what this led to. The order of the ranges does not count: clients keep
    /// them in maps, and repeat a request in another order.
    pub(crate) fn led_to(&self, made: &Transition) -> bool {
        let sealed: BTreeSet<SegmentId> = made.sealed.iter().map(|segment| segment.id).collect();
        let ranges: BTreeSet<KeyRange> = made.added.iter().map(|segment| segment.range).collect();
        let wanted: BTreeSet<KeyRange> = self.ranges.iter().copied().collect();
        made.number == made.reference && sealed == self.sealed && ranges == wanted
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::stream::epoch::Epochs;

    fn range(start: f64, end: f64) -> KeyRange {
        KeyRange::from_f64(start, end).unwrap()
    }

    fn scaling(sealed: &[i32], ranges: &[(f64, f64)]) -> Scaling {
        let sealed = sealed.iter().map(|number| SegmentId::new(0, *number));
        let ranges = ranges.iter().map(|(start, end)| range(*start, *end));
        Scaling {
            sealed: sealed.collect(),
            ranges: ranges.collect(),
        }
    }

    fn refused(wanted: &Scaling) -> Refusal {
        let active = Epoch::first(2, 0, 0).unwrap();
        plan(&active, wanted, 2, 2, 7).unwrap_err()
    }

    #[test]
    fn new_ranges_cover_exactly_the_sealed_ones() {
        for ranges in [
            &[(0.0, 0.4)][..],
            &[(0.0, 0.3), (0.2, 0.5)],
            &[(0.0, 0.25), (0.25, 0.6)],
            &[],
        ] {
            assert_eq!(refused(&scaling(&[0], ranges)), Refusal::NotTiling);
        }
        assert_eq!(refused(&scaling(&[], &[(0.0, 0.5)])), Refusal::NotTiling);
        let unknown = scaling(&[0, 7], &[(0.0, 0.5)]);
        assert_eq!(refused(&unknown), Refusal::NotActive(SegmentId::new(0, 7)));
    }

    #[test]
    fn the_policy_s_minimum_holds_but_does_not_keep_a_stream_from_growing() {
        let merge = scaling(&[0, 1], &[(0.0, 1.0)]);
        assert_eq!(refused(&merge), Refusal::TooFew { left: 1, least: 2 });
        let active = Epoch::first(2, 0, 0).unwrap();
        let split = scaling(&[0], &[(0.0, 0.25), (0.25, 0.5)]);
        assert!(plan(&active, &split, 10, 2, 7).is_ok());
        assert!(plan(&active, &merge, 1, 2, 7).is_ok());
    }

    #[test]
    fn numbers_follow_the_order_of_the_ranges() {
        let active = Epoch::first(2, 0, 0).unwrap();
        let split = scaling(&[1], &[(0.75, 1.0), (0.5, 0.75)]);
        let made = plan(&active, &split, 2, 2, 7).unwrap();
        assert_eq!(made.added[0].id, SegmentId::new(1, 2));
        assert_eq!(made.added[0].range, range(0.75, 1.0));
        assert_eq!(made.added[1].id, SegmentId::new(1, 3));
        assert!(split.led_to(&made));
        assert!(scaling(&[1], &[(0.5, 0.75), (0.75, 1.0)]).led_to(&made));
        assert!(!scaling(&[1], &[(0.5, 0.7), (0.7, 1.0)]).led_to(&made));
        assert_eq!(plan(&active, &split, 2, i32::MAX, 7), Err(Refusal::UsedUp));
    }

    proptest! {
        /// Whatever is split and merged in whatever order, each epoch tiles and each key has an heir.
        #[test]
        fn every_history_of_scalings_is_one(steps in proptest::collection::vec((0..8_usize, 1..4_usize, 1..4_usize), 0..20)) {
            let mut active = Epoch::first(3, 0, 0).unwrap();
            let mut history = Epochs::new(vec![active.as_first()]).unwrap();
            for (first, merged, parts) in steps {
                let first = first % active.segments.len();
                let chosen = active.segments.iter().skip(first).take(merged);
                let chosen: Vec<Segment> = chosen.copied().collect();
                let whole = KeyRange::new(chosen[0].range.start(), chosen.last().unwrap().range.end());
                let Some(ranges) = whole.unwrap().split(parts) else { continue };
                let wanted = Scaling { sealed: chosen.iter().map(|s| s.id).collect(), ranges };
                let next = history.next_number().unwrap();
                let made = plan(&active, &wanted, 1, next, 0).unwrap();
                active = made.apply(&active).unwrap();
                history.push(made.clone()).unwrap();
                prop_assert_eq!(history.at(active.number).unwrap(), active.clone());
                for ended in &made.sealed {
                    let heirs = made.successors(ended.id);
                    let over: Vec<KeyRange> = heirs.iter().map(|h| h.segment.range).collect();
                    let union = union(&over).unwrap();
                    prop_assert!(union.len() == 1 && union[0].start() <= ended.range.start());
                    prop_assert!(union[0].end() >= ended.range.end());
                }
            }
        }
    }
}
