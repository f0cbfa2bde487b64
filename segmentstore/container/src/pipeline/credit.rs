//! How memory is shared out, and what an operation is charged (pure).

/// Credit of one connection.
pub(crate) const CONNECTION_BYTES: u64 = 8 << 20;
/// Smallest budget that works.
const BUDGET_BYTES_MIN: u64 = 16 << 20;
/// Largest credit: semaphores count with 32 bits.
const CREDIT_BYTES_MAX: u64 = 1 << 30;

/// The parts of a budget, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shares {
    /// Operations on their way to the log.
    pub(crate) operations: u64,
    /// Frames kept for readers at the tail.
    pub(crate) frames: u64,
    /// Buffers that the log keeps warm.
    pub(crate) warm: u64,
    /// Frames read back from the log.
    pub(crate) blocks: u64,
    /// Blocks of packs.
    pub(crate) packs: u64,
    /// What replies on their way hold of packs and of the log.
    pub(crate) replies: u64,
    /// Data on its way to long-term storage.
    pub(crate) uploads: u64,
    /// The index: what it read, and what is on its way to it.
    pub(crate) index: u64,
}

impl Shares {
    /// Divides a budget.
    pub(crate) fn of(bytes: u64) -> Self {
        let bytes = bytes.max(BUDGET_BYTES_MIN);
        Self {
            // A quarter, of which each takes twice its bytes: as it came, and in the frame it goes into.
            operations: (bytes / 8).min(CREDIT_BYTES_MAX),
            frames: bytes / 100 * 26,
            warm: bytes / 100 * 6,
            blocks: bytes / 100 * 5,
            packs: bytes / 100 * 15,
            replies: (bytes / 100 * 5).min(CREDIT_BYTES_MAX),
            uploads: (bytes / 100 * 8).min(CREDIT_BYTES_MAX),
            index: bytes / 10,
        }
    }
}

/// Returns what an operation of `bytes` takes of a credit of `capacity`: at most all of it, so that an
/// operation larger than the credit gets through when it is alone.
pub(crate) fn charge(bytes: u64, capacity: u64) -> u32 {
    u32::try_from(bytes.min(capacity).min(CREDIT_BYTES_MAX)).expect("bounded by CREDIT_BYTES_MAX")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_stay_within_the_budget() {
        for bytes in [0, 1 << 20, 256 << 20, 1 << 40] {
            let shares = Shares::of(bytes);
            let read = shares.blocks + shares.packs + shares.replies;
            let frames = shares.frames + shares.warm + shares.uploads;
            let sum = 2 * shares.operations + frames + read + shares.index;
            assert!(sum <= bytes.max(BUDGET_BYTES_MIN), "{bytes}: {shares:?}");
        }
    }

    #[test]
    fn an_operation_larger_than_the_credit_takes_all_of_it() {
        assert_eq!(charge(9 << 20, CONNECTION_BYTES), 8 << 20);
        assert_eq!(charge(100, CONNECTION_BYTES), 100);
        assert_eq!(charge(u64::MAX, u64::MAX), 1 << 30);
    }
}
