//! How our hash tables hash.
//!
//! Seeded, so that clients cannot choose names or writer ids that collide, and equal in equal simulated
//! worlds. Multiply and fold: every lookup on the way of an append goes through here, and the keys are
//! short.

use std::hash::{BuildHasher, Hasher};

/// Makes hashers that start from one seed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seeded(pub(crate) u64);

/// One hash on its way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Folding(u64);

/// Odd, with bits all over.
const FACTOR: u64 = 0x9E37_79B9_7F4A_7C15;

impl BuildHasher for Seeded {
    type Hasher = Folding;

    fn build_hasher(&self) -> Folding {
        Folding(self.0 ^ FACTOR)
    }
}

impl Folding {
    fn fold(&mut self, word: u64) {
        let product = u128::from(self.0 ^ word) * u128::from(FACTOR);
        // The state goes in again, so that a word equal to it does not wipe out what came before.
        self.0 = self.0.rotate_left(23) ^ (product as u64) ^ ((product >> 64) as u64);
    }
}

impl Hasher for Folding {
    fn write(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<8>();
        for word in words {
            self.fold(u64::from_le_bytes(*word));
        }
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        self.fold(u64::from_le_bytes(last) ^ (bytes.len() as u64) << 56);
    }

    fn write_u8(&mut self, value: u8) {
        self.fold(value.into());
    }

    fn write_u64(&mut self, value: u64) {
        self.fold(value);
    }

    fn write_u128(&mut self, value: u128) {
        self.fold(value as u64);
        self.fold((value >> 64) as u64);
    }

    fn write_usize(&mut self, value: usize) {
        self.fold(value as u64);
    }

    fn finish(&self) -> u64 {
        let mut last = *self;
        last.fold(FACTOR);
        last.0
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Buckets that `keys` hash to, of 1024, by the lowest and by the highest bits.
    fn spread(seed: u64, keys: impl Iterator<Item = Vec<u8>>) -> (usize, usize) {
        let hashes: Vec<_> = keys.map(|key| Seeded(seed).hash_one(key)).collect();
        let low: BTreeSet<_> = hashes.iter().map(|hash| hash & 1023).collect();
        let high: BTreeSet<_> = hashes.iter().map(|hash| hash >> 54).collect();
        (low.len(), high.len())
    }

    #[test]
    fn names_and_numbers_spread_evenly() {
        // 1,024 random throws into 1,024 buckets hit about 647 of them.
        for seed in 0..20 {
            let names = (0..1024).map(|n| format!("scope/stream/{n}.#epoch.0").into_bytes());
            let numbers = (0..1024_u64).map(|n| n.to_le_bytes().to_vec());
            let shifted = (0..1024_u64).map(|n| (n << 50).to_le_bytes().to_vec());
            for (low, high) in [
                spread(seed, names),
                spread(seed, numbers),
                spread(seed, shifted),
            ] {
                assert!(low > 560 && high > 560, "{seed}: {low} {high}");
            }
        }
    }

    #[test]
    fn the_seed_decides() {
        let hash = |seed: u64| Seeded(seed).hash_one("segment");
        assert_eq!(hash(1), hash(1));
        assert_ne!(hash(1), hash(2));
    }
}
