//! Randomness from one seed, split per component so that one component's use does not shift another's.

use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng as _, RngExt as _, SeedableRng as _};

/// A source of randomness. Clones share one sequence; [`Rng::split`] starts a sequence of its own.
/// Not for secrets.
#[derive(Clone)]
pub struct Rng(Arc<Mutex<StdRng>>);

impl Rng {
    /// Creates a source seeded by the operating system.
    #[allow(clippy::disallowed_methods, reason = "this is where randomness enters")]
    pub fn from_os() -> Self {
        Self(Arc::new(Mutex::new(StdRng::from_rng(&mut rand::rng()))))
    }

    /// Creates the source that `seed` determines.
    pub fn seeded(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(StdRng::seed_from_u64(seed))))
    }

    /// Starts an independent sequence, itself determined by this one.
    pub fn split(&self) -> Self {
        Self::seeded(self.u64())
    }

    /// Returns a uniform 64-bit number.
    pub fn u64(&self) -> u64 {
        self.0.lock().next_u64()
    }

    /// Returns a uniform 128-bit number.
    pub fn u128(&self) -> u128 {
        (u128::from(self.u64()) << 64) | u128::from(self.u64())
    }

    /// Returns a uniform number in `[0, 1)`.
    pub fn f64(&self) -> f64 {
        self.0.lock().random()
    }

    /// Returns a uniform number in `[0, bound)`.
    ///
    /// # Panics
    /// If `bound` is 0.
    pub fn below(&self, bound: u64) -> u64 {
        self.0.lock().random_range(0..bound)
    }

    /// Returns true with the given probability, clamped to `[0, 1]`.
    pub fn chance(&self, probability: f64) -> bool {
        self.f64() < probability
    }

    /// Fills `bytes` at random.
    pub fn fill(&self, bytes: &mut [u8]) {
        self.0.lock().fill_bytes(bytes);
    }
}

impl fmt::Debug for Rng {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Rng")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_seed_gives_one_sequence() {
        let (a, b) = (Rng::seeded(7), Rng::seeded(7));
        assert_eq!(a.u128(), b.u128());
        assert_eq!(a.split().u64(), b.split().u64());
        assert_ne!(Rng::seeded(8).u64(), Rng::seeded(7).u64());
    }
}
