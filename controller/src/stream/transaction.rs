//! A transaction's states, and how long it may stay open.
//!
//! ```text
//! Open ─▶ Committing ─▶ Committed
//!   └───▶ Aborting ───▶ Aborted
//! ```
//! Committing and Aborting are accepted and durable: they lead to their end, whatever happens.

/// Where a transaction is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// It takes events.
    Open,
    /// Its events will become visible.
    Committing,
    /// They are.
    Committed,
    /// Its events will be thrown away.
    Aborting,
    /// They are.
    Aborted,
}

/// What a caller wants of an open transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Commit,
    Abort,
}

/// What that leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// It is to be recorded.
    Take,
    /// It was recorded before.
    Already,
    /// It ends otherwise.
    Refuse,
}

impl State {
    /// Decides on a wish to end it.
    pub(crate) fn end(self, wanted: End) -> Step {
        match (self, wanted) {
            (Self::Open, _) => Step::Take,
            (Self::Committing | Self::Committed, End::Commit) => Step::Already,
            (Self::Aborting | Self::Aborted, End::Abort) => Step::Already,
            (Self::Committing | Self::Committed, End::Abort) => Step::Refuse,
            (Self::Aborting | Self::Aborted, End::Commit) => Step::Refuse,
        }
    }
}

/// Bounds of leases and lives, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bounds {
    pub(crate) lease_min_ms: i64,
    pub(crate) lease_max_ms: i64,
    pub(crate) life_max_ms: i64,
}

/// Why a lease is not given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LeaseRefusal {
    /// Longer than allowed.
    TooLong,
    /// The transaction would get older than allowed.
    TooOld,
}

/// How many leases long a life may be, as the official server has it.
const LEASES_PER_LIFE: i64 = 1000;

impl Bounds {
    /// Returns when a transaction that begins now must have ended, or why its lease is none.
    pub(crate) fn life(self, lease_ms: i64, now_ms: i64) -> Result<i64, String> {
        let Self {
            lease_min_ms: min,
            lease_max_ms: max,
            ..
        } = self;
        if !(min..=max).contains(&lease_ms) {
            return Err(format!(
                "a lease of {lease_ms} ms, allowed are {min} to {max} ms"
            ));
        }
        let life = lease_ms
            .saturating_mul(LEASES_PER_LIFE)
            .min(self.life_max_ms);
        Ok(now_ms.saturating_add(life))
    }

    /// Returns for how long from now a transaction is kept open; nothing or less ends it at once.
    pub(crate) fn renewed(
        self,
        lease_ms: i64,
        now_ms: i64,
        ends_ms: i64,
    ) -> Result<u64, LeaseRefusal> {
        if lease_ms > self.lease_max_ms {
            return Err(LeaseRefusal::TooLong);
        }
        if now_ms.saturating_add(lease_ms) > ends_ms {
            return Err(LeaseRefusal::TooOld);
        }
        Ok(u64::try_from(lease_ms).unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds {
        lease_min_ms: 10,
        lease_max_ms: 600,
        life_max_ms: 50_000,
    };

    #[test]
    fn what_was_accepted_stays_accepted_and_the_other_is_refused() {
        use State::{Aborted, Aborting, Committed, Committing, Open};
        for state in [Committing, Committed] {
            assert_eq!(state.end(End::Commit), Step::Already);
            assert_eq!(state.end(End::Abort), Step::Refuse);
        }
        for state in [Aborting, Aborted] {
            assert_eq!(state.end(End::Abort), Step::Already);
            assert_eq!(state.end(End::Commit), Step::Refuse);
        }
        assert_eq!(Open.end(End::Commit), Step::Take);
        assert_eq!(Open.end(End::Abort), Step::Take);
    }

    #[test]
    fn leases_have_bounds_and_so_has_life() {
        assert_eq!(BOUNDS.life(10, 5), Ok(10_005));
        assert_eq!(BOUNDS.life(600, 5), Ok(50_005));
        assert!(BOUNDS.life(9, 5).is_err() && BOUNDS.life(601, 5).is_err());
        assert!(BOUNDS.life(-1, 5).is_err() && BOUNDS.life(i64::MAX, 5).is_err());
        assert_eq!(BOUNDS.renewed(600, 0, 600), Ok(600));
        assert_eq!(BOUNDS.renewed(601, 0, 9_999), Err(LeaseRefusal::TooLong));
        assert_eq!(BOUNDS.renewed(600, 1, 600), Err(LeaseRefusal::TooOld));
        assert_eq!(BOUNDS.renewed(-5, 0, 600), Ok(0));
    }
}
