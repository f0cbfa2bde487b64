//! Segment → slot → container.
//!
//! Containers own contiguous ranges of slots, all of nearly the same size, lowest first. Which slot a
//! segment has is the business of `sarit_proto::hash`. Membership is static: every container is here.

use sarit_proto::hash::slot;
use sarit_proto::ids::ContainerId;

/// Slots that all containers together own.
pub(crate) const SLOTS: u32 = 1 << 16;

/// Which container owns a segment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Routing {
    containers: u32,
}

impl Routing {
    /// # Panics
    /// If there is no container, or more than slots; the data directory was checked before.
    pub(crate) fn new(containers: u32) -> Self {
        assert!((1..=SLOTS).contains(&containers), "{containers} containers");
        Self { containers }
    }

    /// Returns the owner of a segment of any name.
    pub(crate) fn container(&self, segment: &str) -> ContainerId {
        self.owner(slot(segment))
    }

    fn owner(&self, slot: u16) -> ContainerId {
        ContainerId(u32::from(slot) * self.containers / SLOTS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_container_owns_one_range_of_slots() {
        for containers in [1, 3, 4, 8, 4096] {
            let routing = Routing::new(containers);
            let owners: Vec<_> = (0..=u16::MAX).map(|slot| routing.owner(slot).0).collect();
            assert!(owners.is_sorted());
            assert_eq!((owners[0], owners[65_535]), (0, containers - 1));
            let mut different = owners.clone();
            different.dedup();
            assert_eq!(different.len(), containers as usize);
        }
    }

    #[test]
    fn a_segments_epochs_and_transactions_are_neighbours() {
        let routing = Routing::new(64);
        let home = routing.container("scope/stream/3.#epoch.0");
        assert_eq!(routing.container("scope/stream/3.#epoch.7"), home);
        let transaction = format!("scope/stream/3.#epoch.2#transaction.{:032x}", 77);
        assert_eq!(routing.container(&transaction), home);
    }
}
