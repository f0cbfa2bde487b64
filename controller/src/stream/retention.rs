//! Where a stream may be cut off: the decision, on values.
//!
//! A policy keeps at least a minimum (of bytes, or of time) and at most a maximum. Cuts at the tail are
//! recorded as time passes; what is dropped is what lies before one of them. Reader groups that
//! subscribe hold it up: nothing is dropped that one of them has not read, up to the maximum.

use super::stream_cuts::{Cut, StreamCut};

/// What is bounded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    /// Bytes between cut and tail.
    Bytes,
    /// Milliseconds since the cut was at the tail.
    Milliseconds,
}

/// How much is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Policy {
    pub(crate) unit: Unit,
    /// At least this.
    pub(crate) min: i64,
    /// At most this, if a subscriber holds it up.
    pub(crate) max: i64,
}

/// A cut that once was at the tail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Recorded {
    /// When, in milliseconds since the Unix epoch.
    pub(crate) at_ms: i64,
    /// Bytes of the stream before it, since its creation.
    pub(crate) size: i64,
    pub(crate) cut: Cut,
}

/// How far all subscribers have read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Bound<'a> {
    pub(crate) placed: &'a StreamCut,
    /// Bytes between it and the tail.
    pub(crate) retained: i64,
}

/// Where to cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Choice {
    /// At this recorded cut.
    Recorded(usize),
    /// Where the subscribers are.
    Bound,
}

/// What the tail is like now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tail {
    pub(crate) now_ms: i64,
    /// Bytes of the stream since its creation.
    pub(crate) size: i64,
}

/// How many cuts a policy's minimum is divided into: the precision of retention, and the bound of what
/// is recorded.
const CUTS_PER_MINIMUM: i64 = 256;

impl Policy {
    /// Returns how much would be kept with a cut there.
    fn kept(self, cut: &Recorded, tail: Tail) -> i64 {
        match self.unit {
            Unit::Bytes => tail.size.saturating_sub(cut.size),
            Unit::Milliseconds => tail.now_ms.saturating_sub(cut.at_ms),
        }
    }

    /// Returns whether a cut at the tail is worth recording after the last one.
    pub(crate) fn is_worth_recording(self, last: Option<&Recorded>, tail: Tail) -> bool {
        let Some(last) = last else {
            return true;
        };
        let step = (self.min / CUTS_PER_MINIMUM).max(1);
        tail.size > last.size && self.kept(last, tail) >= step
    }

    /// Decides where to cut, if anywhere. `cuts` are those recorded and not cut off, oldest first, each
    /// with its place in the stream.
    pub(crate) fn decide(
        self,
        cuts: &[(Recorded, StreamCut)],
        tail: Tail,
        bound: Option<&Bound<'_>>,
    ) -> Option<Choice> {
        let enough = |(cut, _): &&(Recorded, StreamCut)| self.kept(cut, tail) >= self.min;
        let newest = cuts.iter().rposition(|cut| enough(&cut));
        let Some(bound) = bound else {
            return newest.map(Choice::Recorded);
        };
        if self.is_over(cuts, tail, bound) {
            let capped = cuts
                .iter()
                .position(|(cut, _)| self.kept(cut, tail) <= self.max);
            // Even the oldest cut within the maximum must leave the minimum.
            let newest = newest?;
            return Some(Choice::Recorded(
                capped.map_or(newest, |capped| newest.min(capped)),
            ));
        }
        let unread_is_enough = match self.unit {
            Unit::Bytes => bound.retained >= self.min,
            Unit::Milliseconds => {
                newest.is_some_and(|newest| cuts[newest].1.is_at_or_after(bound.placed))
            }
        };
        if unread_is_enough {
            return Some(Choice::Bound);
        }
        let read = |(_, placed): &(Recorded, StreamCut)| {
            cfg!(planted = "truncate_past_subscriber") || bound.placed.is_at_or_after(placed)
        };
        let read = cuts.iter().rposition(|cut| enough(&cut) && read(cut));
        read.map(Choice::Recorded)
    }

    /// Returns whether the subscribers hold up more than the maximum: what they have not read lies
    /// before a cut of that age, so it is older.
    fn is_over(self, cuts: &[(Recorded, StreamCut)], tail: Tail, bound: &Bound<'_>) -> bool {
        match self.unit {
            Unit::Bytes => bound.retained > self.max,
            Unit::Milliseconds => cuts.iter().any(|(cut, placed)| {
                self.kept(cut, tail) >= self.max && placed.is_at_or_after(bound.placed)
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use sarit_proto::ids::SegmentId;

    use super::*;
    use crate::stream::epoch::{Epoch, Epochs};

    fn history() -> Epochs {
        Epochs::new(vec![Epoch::first(2, 0, 0).unwrap().as_first()]).unwrap()
    }

    /// A cut of two segments.
    fn placed(low: i64, high: i64) -> (Cut, StreamCut) {
        let cut = Cut::from([(SegmentId::new(0, 0), low), (SegmentId::new(0, 1), high)]);
        let placed = StreamCut::new(&cut, &history()).unwrap();
        (cut, placed)
    }

    fn recorded(at_ms: i64, low: i64, high: i64) -> (Recorded, StreamCut) {
        let (cut, placed) = placed(low, high);
        let size = low + high;
        (Recorded { at_ms, size, cut }, placed)
    }

    fn cuts() -> Vec<(Recorded, StreamCut)> {
        let steps = [(10, 5, 5), (20, 10, 10), (30, 15, 15), (40, 20, 20)];
        let steps = steps.into_iter();
        steps
            .map(|(at, low, high)| recorded(at, low, high))
            .collect()
    }

    const TAIL: Tail = Tail {
        now_ms: 50,
        size: 50,
    };

    fn decided(unit: Unit, min: i64, max: i64, bound: Option<(i64, i64)>) -> Option<Choice> {
        let place = bound.map(|(low, high)| placed(low, high).1);
        let retained = bound.map_or(0, |(low, high)| TAIL.size - low - high);
        let bound = place.as_ref().map(|placed| Bound { placed, retained });
        Policy { unit, min, max }.decide(&cuts(), TAIL, bound.as_ref())
    }

    #[test]
    fn without_subscribers_the_newest_cut_that_leaves_the_minimum_is_taken() {
        use Choice::Recorded as At;
        assert_eq!(decided(Unit::Bytes, 20, i64::MAX, None), Some(At(2)));
        assert_eq!(decided(Unit::Bytes, 41, i64::MAX, None), None);
        assert_eq!(decided(Unit::Milliseconds, 25, i64::MAX, None), Some(At(1)));
        assert_eq!(decided(Unit::Milliseconds, 41, i64::MAX, None), None);
    }

    #[test]
    fn subscribers_hold_it_up_to_the_maximum() {
        use Choice::Recorded as At;
        for unit in [Unit::Bytes, Unit::Milliseconds] {
            // All read: the minimum counts.
            assert_eq!(decided(unit, 10, 100, Some((25, 25))), Some(At(3)));
            // Between minimum and maximum: where they are.
            assert_eq!(decided(unit, 10, 100, Some((6, 7))), Some(Choice::Bound));
            // Too far behind: the maximum counts.
            assert_eq!(decided(unit, 10, 25, Some((6, 7))), Some(At(2)));
            // Ahead in one segment, behind in the other: the newest cut that both have read.
            assert_eq!(decided(unit, 28, 100, Some((12, 11))), Some(At(1)));
        }
    }

    proptest! {
        /// Whatever is written, read and asked for: the minimum is kept, and nothing unread is dropped
        /// that is not over the maximum.
        #[test]
        fn decisions_keep_the_minimum_and_what_is_unread(
            steps in proptest::collection::vec((1..20_i64, 0..50_i64, 0..50_i64), 1..40),
            min in 0..300_i64, more in 0..300_i64,
            read in proptest::option::of((0..60_i64, 0..60_i64)),
            bytes: bool,
        ) {
            let (mut now, mut low, mut high) = (0, 0, 0);
            let mut cuts = Vec::new();
            for (time, a, b) in steps {
                (now, low, high) = (now + time, low + a, high + b);
                cuts.push(recorded(now, low, high));
            }
            let tail = Tail { now_ms: now + 1, size: low + high };
            let unit = if bytes { Unit::Bytes } else { Unit::Milliseconds };
            let policy = Policy { unit, min, max: min + more };
            let read = read.map(|(a, b)| (low * a / 60, high * b / 60));
            let place = read.map(|(a, b)| placed(a, b).1);
            let retained = read.map_or(0, |(a, b)| tail.size - a - b);
            let bound = place.as_ref().map(|placed| Bound { placed, retained });
            match policy.decide(&cuts, tail, bound.as_ref()) {
                Some(Choice::Recorded(index)) => {
                    prop_assert!(policy.kept(&cuts[index].0, tail) >= policy.min);
                    if let Some(bound) = &bound {
                        let dropped_unread = !bound.placed.is_at_or_after(&cuts[index].1);
                        let late = |(cut, at): &(Recorded, StreamCut)| {
                            policy.kept(cut, tail) >= policy.max && at.is_at_or_after(bound.placed)
                        };
                        let over = if bytes { retained > policy.max } else { cuts.iter().any(late) };
                        prop_assert!(!dropped_unread || over);
                    }
                }
                Some(Choice::Bound) => {
                    prop_assert!(bound.is_some());
                    if bytes { prop_assert!(retained >= policy.min); }
                }
                None => {}
            }
        }
    }
}
