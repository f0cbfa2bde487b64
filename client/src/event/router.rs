//! Routing key → segment, as segments come and go (pure).

use sarit_proto::ids::SegmentId;
use sarit_proto::key_range::{KeyPosition, KeyRange, route, tiles};

use super::Owner;

/// Which segment each key's events go to. Always covers all keys.
///
/// While neighbours are being merged, the segment that takes over may own keys here that another one
/// has not given up yet. Each segment's keys move only when it has said itself that it is sealed: so a
/// key's events stay in order.
#[derive(Debug)]
pub(crate) struct Router {
    /// Sorted, without gap or overlap; one segment may own several.
    ranges: Vec<KeyRange>,
    /// The segment of the range at the same index.
    segments: Vec<SegmentId>,
}

impl Router {
    /// Creates a router, or `None` if the segments don't cover all keys exactly once.
    pub(crate) fn new(owners: &[Owner]) -> Option<Self> {
        let mut owners = owners.to_vec();
        owners.sort_by_key(|owner| owner.keys);
        let ranges: Vec<_> = owners.iter().map(|owner| owner.keys).collect();
        tiles(&ranges, KeyRange::FULL).then(|| Self {
            ranges,
            segments: owners.iter().map(|owner| owner.segment).collect(),
        })
    }

    /// Returns the segment that takes events at `position`.
    pub(crate) fn segment(&self, position: KeyPosition) -> SegmentId {
        let index = route(&self.ranges, position).expect("the ranges end with the key space");
        self.segments[index]
    }

    /// Gives the keys of `ended` to `successors`. Returns false, with nothing changed, if they don't
    /// cover those keys.
    pub(crate) fn replace(&mut self, ended: SegmentId, successors: &[Owner]) -> bool {
        let mut owners = Vec::with_capacity(self.ranges.len() + successors.len());
        for (&keys, &segment) in self.ranges.iter().zip(&self.segments) {
            if segment != ended {
                owners.push(Owner { segment, keys });
                continue;
            }
            owners.extend(successors.iter().filter_map(|successor| {
                Some(Owner {
                    segment: successor.segment,
                    keys: KeyRange::new(
                        successor.keys.start().max(keys.start()),
                        successor.keys.end().min(keys.end()),
                    )?,
                })
            }));
        }
        match Self::new(&owners) {
            Some(router) => {
                *self = router;
                true
            }
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(number: i32, start: f64, end: f64) -> Owner {
        Owner {
            segment: id(number),
            keys: KeyRange::from_f64(start, end).expect("a range"),
        }
    }

    fn id(number: i32) -> SegmentId {
        SegmentId::new(0, number)
    }

    fn at(router: &Router, position: f64) -> SegmentId {
        router.segment(KeyPosition::from_f64(position).expect("a position"))
    }

    #[test]
    fn segments_with_a_gap_or_an_overlap_make_no_router() {
        assert!(Router::new(&[]).is_none());
        assert!(Router::new(&[owner(0, 0.0, 0.4), owner(1, 0.5, 1.0)]).is_none());
        assert!(Router::new(&[owner(0, 0.0, 0.6), owner(1, 0.5, 1.0)]).is_none());
    }

    #[test]
    fn a_key_goes_to_the_segment_that_owns_it_in_any_order_given() {
        let router = Router::new(&[owner(1, 0.5, 1.0), owner(0, 0.0, 0.5)]).expect("all keys");
        assert_eq!(at(&router, 0.0), id(0));
        assert_eq!(at(&router, 0.49), id(0));
        assert_eq!(at(&router, 0.51), id(1));
        assert_eq!(at(&router, 0.999), id(1));
    }

    #[test]
    fn a_split_gives_the_keys_to_both_halves() {
        let mut router = Router::new(&[owner(0, 0.0, 0.5), owner(1, 0.5, 1.0)]).expect("all keys");
        assert!(router.replace(id(1), &[owner(2, 0.5, 0.75), owner(3, 0.75, 1.0)]));
        assert_eq!(
            [0.2, 0.6, 0.9].map(|position| at(&router, position)),
            [id(0), id(2), id(3)]
        );
    }

    #[test]
    fn a_merge_moves_only_the_keys_of_the_segment_that_ended() {
        let mut router = Router::new(&[owner(0, 0.0, 0.5), owner(1, 0.5, 1.0)]).expect("all keys");
        let merged = [owner(2, 0.0, 1.0)];
        assert!(router.replace(id(0), &merged));
        assert_eq!([0.2, 0.8].map(|p| at(&router, p)), [id(2), id(1)]);
        assert!(router.replace(id(1), &merged));
        assert_eq!([0.2, 0.8].map(|p| at(&router, p)), [id(2), id(2)]);
        assert!(router.replace(id(2), &[owner(3, 0.0, 0.1), owner(4, 0.1, 1.0)]));
        assert_eq!(
            [0.05, 0.2, 0.8].map(|p| at(&router, p)),
            [id(3), id(4), id(4)]
        );
    }

    #[test]
    fn successors_that_miss_keys_are_refused() {
        let mut router = Router::new(&[owner(0, 0.0, 1.0)]).expect("all keys");
        assert!(!router.replace(id(0), &[owner(1, 0.0, 0.5)]));
        assert!(!router.replace(id(0), &[]));
        assert_eq!(at(&router, 0.7), id(0), "nothing has changed");
    }
}
