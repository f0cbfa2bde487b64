//! Where appends of a segment ended, now and then: enough to find the boundary of an event near an
//! offset without reading.
//!
//! At least [`STEP`] bytes apart, and in a segment of more than 2 GiB at least 1/2048 of what it holds:
//! so a segment of 16 TiB that grew from nothing has some 20,000, of 24 bytes each.

use super::Segment;

/// Fewest bytes between two; tests have small segments.
const STEP: u64 = if cfg!(test) { 64 } else { 1 << 20 };
/// Parts into which a large segment is divided.
const PARTS: u64 = 2048;

/// The end of an append.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Boundary {
    pub(crate) offset: u64,
    /// The segment's number of events up to there.
    pub(crate) events: i64,
    /// When it was written, by the wall clock of whoever owned it.
    pub(crate) time_ms: i64,
}

impl Segment {
    /// Notes that an append ends here, if the last one noted is far enough away.
    pub(crate) fn note_boundary(&mut self, time_ms: i64) {
        self.note(Boundary {
            offset: self.length,
            events: self.events,
            time_ms,
        });
    }

    fn note(&mut self, boundary: Boundary) {
        let last = self.boundaries.last().map_or(self.start, |b| b.offset);
        let step = STEP.max((boundary.offset - self.start) / PARTS);
        if boundary.offset >= last.max(self.start) + step {
            self.boundaries.push(boundary);
        }
    }

    /// Takes over the boundaries of a segment that became the end of this one, which began at `base`
    /// after `events` events.
    pub(crate) fn absorb_boundaries(&mut self, source: &Self, base: u64, events: i64) {
        for boundary in &source.boundaries {
            self.note(Boundary {
                offset: base + boundary.offset,
                events: events.saturating_add(boundary.events),
                time_ms: boundary.time_ms,
            });
        }
    }

    /// Returns the first known boundary at or behind an offset, or the length.
    pub(crate) fn locate(&self, offset: u64) -> u64 {
        let below = self.boundaries.partition_point(|b| b.offset < offset);
        self.boundaries.get(below).map_or(self.length, |b| b.offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Kind;

    fn grown(to: u64, by: u64) -> Segment {
        let mut segment = Segment::new("s".into(), Kind::Stream);
        while segment.length < to {
            segment.length += by;
            segment.events += 1;
            segment.note_boundary(7);
        }
        segment
    }

    #[test]
    fn an_offset_is_located_at_the_next_noted_boundary_or_the_end() {
        let segment = grown(1000, 30);
        assert_eq!(segment.boundaries[0].offset, 90);
        assert_eq!(segment.boundaries[0].events, 3);
        assert_eq!((segment.locate(0), segment.locate(90)), (90, 90));
        assert_eq!(segment.locate(91), 180);
        assert_eq!(segment.locate(1015), 1020);
        assert_eq!(segment.locate(5000), 1020);
    }

    #[test]
    fn a_large_segment_has_few_boundaries() {
        let segment = grown(1 << 30, 1 << 10);
        assert!(
            segment.boundaries.len() < 30_000,
            "{}",
            segment.boundaries.len()
        );
        let found = segment.locate(1 << 29);
        assert!((1 << 29..(1 << 29) + (1 << 19)).contains(&found));
    }

    #[test]
    fn boundaries_follow_a_merge_and_a_truncation() {
        let (mut target, source) = (grown(300, 100), grown(200, 100));
        target.absorb_boundaries(&source, target.length, target.events);
        target.length += source.length;
        let offsets: Vec<_> = target
            .boundaries
            .iter()
            .map(|b| (b.offset, b.events))
            .collect();
        assert_eq!(offsets, [(100, 1), (200, 2), (300, 3), (400, 4), (500, 5)]);
        target.truncate(200, &mut Default::default());
        assert_eq!(target.boundaries[0].offset, 300);
        assert_eq!(target.locate(200), 300);
    }
}
