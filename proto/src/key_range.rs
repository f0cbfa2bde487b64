//! Points in the key space `[0, 1)` and ranges of it.
//!
//! A point is an IEEE double, because that is what the controller's API carries and what every client
//! compares: 1/3 has no exact fixed-point form, but its double is one number that all sides agree on.
//! Doubles in `[0, 1]` are exact binary fractions; they are compared exactly, never with a tolerance,
//! and go to the wire and back unchanged.

use std::fmt;

/// A point in `[0, 1]`; 1 only as the end of a range.
///
/// Kept as the double's bits: for numbers that are not negative these sort like the numbers.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyPosition(u64);

impl KeyPosition {
    /// The lowest point.
    pub const ZERO: Self = Self(0);
    /// The end of the key space.
    pub const ONE: Self = Self(1.0_f64.to_bits());

    /// Takes a number from the wire, or `None` if it is not in `[0, 1]`. Negative zero becomes zero.
    pub fn from_f64(number: f64) -> Option<Self> {
        (0.0..=1.0)
            .contains(&number)
            .then(|| Self((number + 0.0).to_bits()))
    }

    /// Returns `fraction` / 2⁵², exactly.
    ///
    /// # Panics
    /// If `fraction` is not below 2⁵².
    pub(crate) fn from_fraction(fraction: u64) -> Self {
        assert!(
            fraction < 1 << 52,
            "a fraction of 52 bits, got {fraction:#x}"
        );
        Self((fraction as f64 / (1_u64 << 52) as f64).to_bits())
    }

    /// Returns the number for the wire.
    pub fn to_f64(self) -> f64 {
        f64::from_bits(self.0)
    }
}

impl fmt::Debug for KeyPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.to_f64(), f)
    }
}

impl fmt::Display for KeyPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.to_f64(), f)
    }
}

/// Two numbers that are no range of keys.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
#[error("[{start}, {end}) is not a range within [0, 1)")]
pub struct KeyRangeError {
    /// The lower one.
    pub start: f64,
    /// The upper one.
    pub end: f64,
}

/// The keys a segment owns: `[start, end)`, never empty.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyRange {
    start: KeyPosition,
    end: KeyPosition,
}

impl KeyRange {
    /// All keys.
    pub const FULL: Self = Self {
        start: KeyPosition::ZERO,
        end: KeyPosition::ONE,
    };

    /// Takes `[start, end)`, or `None` if that is empty.
    pub fn new(start: KeyPosition, end: KeyPosition) -> Option<Self> {
        (start < end).then_some(Self { start, end })
    }

    /// Takes a range from the wire.
    ///
    /// # Errors
    /// If a number is outside of `[0, 1]`, or `start` is not below `end`.
    pub fn from_f64(start: f64, end: f64) -> Result<Self, KeyRangeError> {
        KeyPosition::from_f64(start)
            .zip(KeyPosition::from_f64(end))
            .and_then(|(start, end)| Self::new(start, end))
            .ok_or(KeyRangeError { start, end })
    }

    /// Returns the lowest point of the range.
    pub fn start(self) -> KeyPosition {
        self.start
    }

    /// Returns the point behind the range.
    pub fn end(self) -> KeyPosition {
        self.end
    }

    /// Returns how much of the key space the range is, in `(0, 1]`. Rounded: for weighing, not for proof.
    pub fn width(self) -> f64 {
        self.end.to_f64() - self.start.to_f64()
    }

    /// Returns whether the point lies in `[start, end)`. To choose the segment of a key, use [`route`].
    pub fn contains(self, position: KeyPosition) -> bool {
        self.start <= position && position < self.end
    }

    /// Returns whether the ranges have a point in common.
    pub fn overlaps(self, other: Self) -> bool {
        self.start < other.end && other.start < self.end
    }

    /// Splits into `parts` ranges of equal width, lowest first, that tile this one. The full range gives
    /// `[i/n, (i+1)/n)`. `None` if `parts` is 0 or the range is too narrow for so many.
    pub fn split(self, parts: usize) -> Option<Vec<Self>> {
        let bound = |i: usize| {
            if i == parts {
                return Some(self.end);
            }
            let (i, n) = (i as f64, parts as f64);
            let number = if self == Self::FULL {
                i / n
            } else {
                self.start.to_f64() + self.width() * (i / n)
            };
            KeyPosition::from_f64(number)
        };
        if parts == 0 {
            return None;
        }
        (0..parts)
            .map(|i| Self::new(bound(i)?, bound(i + 1)?))
            .collect()
    }

    /// Joins two ranges, one of which ends where the other starts.
    pub fn join(self, other: Self) -> Option<Self> {
        if self.end == other.start {
            Self::new(self.start, other.end)
        } else if other.end == self.start {
            Self::new(other.start, self.end)
        } else {
            None
        }
    }
}

impl fmt::Debug for KeyRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}, {})", self.start, self.end)
    }
}

impl fmt::Display for KeyRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// Returns whether the ranges, in any order, cover `whole` without gap or overlap.
pub fn tiles(ranges: &[KeyRange], whole: KeyRange) -> bool {
    union(ranges) == Some(vec![whole])
}

/// Returns what the ranges cover together, joined where they touch, lowest first; `None` if two of them
/// overlap. Two sets of ranges cover the same keys exactly if their unions are equal.
pub fn union(ranges: &[KeyRange]) -> Option<Vec<KeyRange>> {
    let mut sorted = ranges.to_vec();
    sorted.sort_unstable();
    let mut joined: Vec<KeyRange> = Vec::new();
    for range in sorted {
        match joined.last_mut() {
            Some(last) if range.start < last.end => return None,
            Some(last) if range.start == last.end => last.end = range.end,
            _ => joined.push(range),
        }
    }
    Some(joined)
}

/// Returns the index of the range that a key's events go to: the first whose end is not below the
/// position. `ranges` must be sorted; `None` only if they end before the position.
///
/// A position that is exactly a bound belongs to the range *below* it: so do the official clients, and
/// all writers of a stream must agree.
pub fn route(ranges: &[KeyRange], position: KeyPosition) -> Option<usize> {
    let index = ranges.partition_point(|range| range.end < position);
    (index < ranges.len()).then_some(index)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn range(start: f64, end: f64) -> KeyRange {
        KeyRange::from_f64(start, end).expect("a range")
    }

    fn ranges() -> impl Strategy<Value = KeyRange> {
        (0.0..=1.0, 0.0..=1.0).prop_filter_map("empty", |(a, b): (f64, f64)| {
            KeyRange::from_f64(a.min(b), a.max(b)).ok()
        })
    }

    #[test]
    fn numbers_outside_of_the_key_space_are_refused() {
        for number in [-0.1, 1.000_001, f64::NAN, f64::INFINITY, -f64::MIN_POSITIVE] {
            assert_eq!(KeyPosition::from_f64(number), None, "{number}");
            assert!(
                KeyRange::from_f64(0.0, number).is_err()
                    && KeyRange::from_f64(number, 1.0).is_err()
            );
        }
        assert!(KeyRange::from_f64(0.5, 0.5).is_err() && KeyRange::from_f64(0.6, 0.5).is_err());
        assert_eq!(KeyPosition::from_f64(-0.0), Some(KeyPosition::ZERO));
    }

    #[test]
    fn thirds_are_the_doubles_that_clients_compare() {
        let thirds = KeyRange::FULL.split(3).expect("thirds");
        assert_eq!(
            thirds,
            [
                range(0.0, 1.0 / 3.0),
                range(1.0 / 3.0, 2.0 / 3.0),
                range(2.0 / 3.0, 1.0)
            ]
        );
        assert_eq!(
            thirds[0].end().to_f64().to_bits(),
            (1.0_f64 / 3.0).to_bits()
        );
    }

    #[test]
    fn a_range_too_narrow_is_not_split() {
        let bound = KeyPosition(KeyPosition::ONE.0 - 1);
        let narrow = KeyRange::new(bound, KeyPosition::ONE).expect("a range");
        assert_eq!(narrow.split(2), None);
        assert_eq!(narrow.split(1), Some(vec![narrow]));
        assert_eq!(KeyRange::FULL.split(0), None);
    }

    #[test]
    fn a_key_on_a_bound_goes_to_the_range_below() {
        let halves = KeyRange::FULL.split(2).expect("halves");
        let at = |number| route(&halves, KeyPosition::from_f64(number).expect("a point"));
        assert_eq!(
            [at(0.0), at(0.5), at(0.500_000_1), at(1.0)],
            [Some(0), Some(0), Some(1), Some(1)]
        );
        assert_eq!(route(&halves[..1], KeyPosition::ONE), None);
    }

    #[test]
    fn gaps_and_overlaps_do_not_tile() {
        let (a, b, c) = (range(0.0, 0.3), range(0.3, 0.6), range(0.6, 1.0));
        assert!(tiles(&[c, a, b], KeyRange::FULL));
        assert!(!tiles(&[a, c], KeyRange::FULL));
        assert!(!tiles(&[a, b, c, b], KeyRange::FULL));
        assert!(!tiles(&[], KeyRange::FULL));
        assert!(tiles(&[a, b], range(0.0, 0.6)));
        assert_eq!(union(&[c, a]), Some(vec![a, c]));
        assert_eq!(union(&[range(0.2, 0.4), a]), None);
    }

    proptest! {
        #[test]
        fn numbers_go_to_the_wire_and_back_unchanged(number in 0.0..=1.0_f64) {
            let position = KeyPosition::from_f64(number).expect("in range");
            prop_assert_eq!(position.to_f64().to_bits(), number.to_bits());
        }

        #[test]
        fn positions_sort_like_numbers(a in 0.0..=1.0_f64, b in 0.0..=1.0_f64) {
            let order = KeyPosition::from_f64(a).cmp(&KeyPosition::from_f64(b));
            prop_assert_eq!(Some(order), a.partial_cmp(&b));
        }

        #[test]
        fn the_parts_of_a_split_tile_the_whole(whole in ranges(), parts in 1..300_usize) {
            if let Some(split) = whole.split(parts) {
                prop_assert_eq!(split.len(), parts);
                prop_assert!(tiles(&split, whole));
                let joined = split.iter().copied().reduce(|a, b| a.join(b).expect("neighbours"));
                prop_assert_eq!(joined, Some(whole));
            } else {
                prop_assert!(whole.width() < 1e-12);
            }
        }

        #[test]
        fn every_position_is_in_one_part_and_routed_to_one(fraction in 0..1_u64 << 52, parts in 1..300_usize) {
            let position = KeyPosition::from_fraction(fraction);
            let split = KeyRange::FULL.split(parts).expect("wide enough");
            prop_assert_eq!(split.iter().filter(|part| part.contains(position)).count(), 1);
            let routed = split[route(&split, position).expect("covered")];
            prop_assert!(routed.contains(position) || routed.end() == position);
        }

        #[test]
        fn ranges_overlap_if_they_share_their_higher_start(a in ranges(), b in ranges()) {
            let start = a.start().max(b.start());
            prop_assert_eq!(a.overlaps(b), a.contains(start) && b.contains(start));
            prop_assert_eq!(a.overlaps(b), union(&[a, b]).is_none());
        }

        #[test]
        fn only_neighbours_join(a in ranges(), b in ranges()) {
            let joined = a.join(b);
            prop_assert_eq!(joined, b.join(a));
            prop_assert_eq!(joined.is_some(), a.end() == b.start() || b.end() == a.start());
        }
    }
}
