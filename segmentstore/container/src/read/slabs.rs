//! Memory for blocks of packs: pieces of three sizes that are used again and again.
//!
//! Blocks are kept for long, are many, and go one by one. Left to the allocator, each thread that ever
//! read one has pages of its own for each size, which stay taken as long as anything lies in them: what
//! the process takes is then a multiple of what is in use. So blocks lie here, and what they are
//! charged is what they take. Small ones are left to the allocator.

use std::sync::{Arc, Weak};

use bytes::Bytes;
use parking_lot::Mutex;
use sarit_storage::BLOCK_BYTES;

/// Sizes of pieces, each twice the one before; the last one holds any block.
const SIZES: [usize; 3] = [
    BLOCK_BYTES as usize / 4,
    BLOCK_BYTES as usize / 2,
    BLOCK_BYTES as usize,
];
/// What has at most so many bytes is left to the allocator.
const SMALL: usize = SIZES[0] / 2;

/// Pieces of memory. Clones are the same ones.
#[derive(Clone, Debug)]
pub(crate) struct Slabs(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    free_max: usize,
    free: Mutex<Free>,
}

#[derive(Debug, Default)]
struct Free {
    bytes: usize,
    /// By size.
    pieces: [Vec<Box<[u8]>>; SIZES.len()],
}

/// A piece on loan; dropping it gives it back.
#[derive(Debug)]
pub(crate) struct Slab {
    memory: Box<[u8]>,
    len: usize,
    home: Weak<Inner>,
}

/// Returns how many bytes of memory a block of `len` bytes takes.
pub(crate) fn memory_bytes(len: usize) -> usize {
    size(len).map_or(len, |at| SIZES[at])
}

fn size(len: usize) -> Option<usize> {
    if len <= SMALL {
        return None;
    }
    SIZES.iter().position(|size| len <= *size)
}

impl Slabs {
    /// Keeps at most `free_max` bytes that nobody uses.
    pub(crate) fn new(free_max: usize) -> Self {
        Self(Arc::new(Inner {
            free_max,
            free: Mutex::default(),
        }))
    }

    /// Returns a piece of `len` bytes with anything in it.
    pub(crate) fn take(&self, len: usize) -> Slab {
        let kept = size(len).and_then(|at| {
            let mut free = self.0.free.lock();
            let piece = free.pieces[at].pop()?;
            free.bytes -= piece.len();
            Some(piece)
        });
        let fresh = || vec![0; memory_bytes(len)].into_boxed_slice();
        Slab {
            memory: kept.unwrap_or_else(fresh),
            len,
            home: Arc::downgrade(&self.0),
        }
    }

    /// Returns the bytes that nobody uses.
    #[cfg(test)]
    fn free_bytes(&self) -> usize {
        self.0.free.lock().bytes
    }
}

impl Slab {
    /// Makes it immutable; it goes back when the last user is gone.
    pub(crate) fn freeze(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for Slab {
    fn as_ref(&self) -> &[u8] {
        &self.memory[..self.len]
    }
}

impl AsMut<[u8]> for Slab {
    fn as_mut(&mut self) -> &mut [u8] {
        &mut self.memory[..self.len]
    }
}

impl Drop for Slab {
    fn drop(&mut self) {
        let (Some(home), Some(at)) = (self.home.upgrade(), size(self.len)) else {
            return;
        };
        let mut free = home.free.lock();
        if free.bytes + self.memory.len() <= home.free_max {
            free.bytes += self.memory.len();
            free.pieces[at].push(std::mem::take(&mut self.memory));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_piece_is_used_again_for_what_fits_its_size() {
        let slabs = Slabs::new(1 << 20);
        let mut slab = slabs.take(SIZES[1] - 5);
        slab.as_mut().fill(7);
        let address = slab.as_ref().as_ptr();
        let bytes = slab.freeze();
        assert_eq!(bytes, vec![7; SIZES[1] - 5]);
        let part = bytes.slice(10..20);
        drop(bytes);
        assert_eq!(slabs.free_bytes(), 0, "a part of it is in use");
        drop(part);
        assert_eq!(slabs.free_bytes(), SIZES[1]);
        let again = slabs.take(SIZES[1]);
        assert_eq!(again.as_ref().as_ptr(), address);
        assert_eq!(again.as_ref().len(), SIZES[1]);
        assert_eq!(slabs.free_bytes(), 0);
    }

    #[test]
    fn no_more_is_kept_than_the_bound_and_small_ones_never() {
        let slabs = Slabs::new(2 * SIZES[2]);
        let taken: Vec<_> = (0..5).map(|_| slabs.take(SIZES[2])).collect();
        drop(taken);
        assert_eq!(slabs.free_bytes(), 2 * SIZES[2]);
        drop(slabs.take(SMALL));
        assert_eq!(slabs.free_bytes(), 2 * SIZES[2]);
    }

    #[test]
    fn what_a_block_takes_is_at_most_twice_its_bytes() {
        for len in [1, SMALL, SMALL + 1, SIZES[0] + 1, SIZES[1] + 1, SIZES[2]] {
            let slab = Slabs::new(0).take(len);
            assert_eq!(slab.memory.len(), memory_bytes(len));
            assert!((len..=2 * len).contains(&memory_bytes(len)), "{len}");
        }
    }
}
