//! Which container a segment lives in, and which containers a segment store owns.
//!
//! Containers own contiguous ranges of slots, all of nearly the same size, lowest first; a segment
//! store owns a contiguous range of containers. Controller and stores reckon with the same functions:
//! what the controller answers is what a store serves. Stored placements depend on them: never change
//! them.

use std::fmt;
use std::str::FromStr;

use crate::hash::slot;
use crate::ids::ContainerId;

/// Slots that all containers together own.
pub const SLOTS: u32 = 1 << 16;

/// Returns the container, of `containers`, that owns a segment of any name.
///
/// # Panics
/// If there is no container, or more than [`SLOTS`].
pub fn container(segment: &str, containers: u32) -> ContainerId {
    owner(slot(segment), containers)
}

fn owner(slot: u16, containers: u32) -> ContainerId {
    assert!((1..=SLOTS).contains(&containers), "{containers} containers");
    ContainerId(u32::from(slot) * containers / SLOTS)
}

/// The containers `[start, end)`, at least one. Text form: `0..2`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContainerRange {
    start: u32,
    end: u32,
}

impl ContainerRange {
    /// Returns `[start, end)`, or nothing if no container is in it.
    pub fn new(start: u32, end: u32) -> Option<Self> {
        (start < end).then_some(Self { start, end })
    }

    /// The first one.
    pub fn start(self) -> u32 {
        self.start
    }

    /// The one behind the last.
    pub fn end(self) -> u32 {
        self.end
    }

    /// Returns how many there are.
    pub fn count(self) -> u32 {
        self.end - self.start
    }

    /// Returns whether a container is one of them.
    pub fn contains(self, id: ContainerId) -> bool {
        (self.start..self.end).contains(&id.0)
    }

    /// Returns whether a container is in both.
    pub fn overlaps(self, other: Self) -> bool {
        self.start < other.end && other.start < self.end
    }

    /// Returns whether these are all there are.
    pub fn is_all_of(self, containers: u32) -> bool {
        self.start == 0 && self.end == containers
    }
}

impl fmt::Display for ContainerRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}..{}", self.start, self.end)
    }
}

/// A text is no range of containers.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no range of containers: write the first one and the one behind the last, as 0..2"
)]
pub struct RangeError(String);

impl FromStr for ContainerRange {
    type Err = RangeError;

    fn from_str(text: &str) -> Result<Self, RangeError> {
        let parsed = || {
            let (start, end) = text.split_once("..")?;
            Self::new(start.trim().parse().ok()?, end.trim().parse().ok()?)
        };
        parsed().ok_or_else(|| RangeError(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_container_owns_one_range_of_slots() {
        for containers in [1, 3, 4, 8, 4096] {
            let owners: Vec<_> = (0..=u16::MAX)
                .map(|slot| owner(slot, containers).0)
                .collect();
            assert!(owners.is_sorted());
            assert_eq!((owners[0], owners[65_535]), (0, containers - 1));
            let mut different = owners.clone();
            different.dedup();
            assert_eq!(different.len(), containers as usize);
        }
    }

    #[test]
    fn a_segments_epochs_and_transactions_are_neighbours() {
        let home = container("scope/stream/3.#epoch.0", 64);
        assert_eq!(container("scope/stream/3.#epoch.7", 64), home);
        let transaction = format!("scope/stream/3.#epoch.2#transaction.{:032x}", 77);
        assert_eq!(container(&transaction, 64), home);
    }

    #[test]
    fn a_range_is_written_as_it_is_read() {
        for text in ["0..2", "7..4096"] {
            assert_eq!(text.parse::<ContainerRange>().unwrap().to_string(), text);
        }
        for text in [
            "",
            "..",
            "2",
            "2..2",
            "3..2",
            "0..=2",
            "-1..2",
            "0..4294967296",
        ] {
            assert!(text.parse::<ContainerRange>().is_err(), "{text}");
        }
    }

    #[test]
    fn neighbours_do_not_overlap() {
        let range = |start, end| ContainerRange::new(start, end).unwrap();
        assert!(!range(0, 2).overlaps(range(2, 4)));
        assert!(range(0, 3).overlaps(range(2, 4)));
        assert!(range(1, 2).overlaps(range(0, 4)));
        assert!(range(0, 2).contains(ContainerId(1)) && !range(0, 2).contains(ContainerId(2)));
        assert!(range(0, 4).is_all_of(4) && !range(1, 4).is_all_of(4));
    }
}
