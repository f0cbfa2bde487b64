//! The memory frames are built in, kept warm for reuse.
//!
//! Touching a fresh page costs more than copying into a known one, so a buffer goes back to the pool
//! when the last user of its frame is gone. The pool keeps a bounded number of bytes; what does not
//! fit is freed. A small frame built in a large buffer is copied out, so that whoever keeps frames
//! does not keep mostly empty memory.

use std::mem;
use std::sync::{Arc, Weak};

use bytes::{Buf as _, BufMut, Bytes, BytesMut};
use parking_lot::Mutex;

use crate::record::{BLOCK, FRAME_HEADER, Frame, FrameHeader, LANE_HEADER, crc32c};

/// Buffers below this many bytes are left to the allocator, which keeps such memory warm itself.
const POOLED_MIN: usize = 16 << 10;
/// From this size on a buffer is aligned, at the cost of a block.
const ALIGNED_MIN: usize = 64 << 10;
/// A buffer this many times larger than needed is not handed out, nor kept for a frame.
const WASTE_MAX: usize = 4;

/// Warm buffers for frames. Clones are the same pool.
#[derive(Clone, Debug)]
pub struct FramePool(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    bytes_max: usize,
    free: Mutex<Free>,
}

#[derive(Debug, Default)]
struct Free {
    bytes: usize,
    buffers: Vec<BytesMut>,
}

/// A buffer on loan; dropping it gives it back.
struct Loan {
    buffer: BytesMut,
    pool: Weak<Inner>,
}

impl AsRef<[u8]> for Loan {
    fn as_ref(&self) -> &[u8] {
        &self.buffer
    }
}

impl Drop for Loan {
    fn drop(&mut self) {
        if let Some(pool) = self.pool.upgrade() {
            pool.give(mem::take(&mut self.buffer));
        }
    }
}

impl Inner {
    fn give(&self, buffer: BytesMut) {
        let capacity = buffer.capacity();
        let mut free = self.free.lock();
        if capacity >= POOLED_MIN && free.bytes + capacity <= self.bytes_max {
            free.bytes += capacity;
            free.buffers.push(buffer);
        }
    }

    /// Takes the smallest buffer that fits without waste.
    fn take(&self, capacity: usize) -> Option<BytesMut> {
        let fits = capacity..=capacity.max(POOLED_MIN).saturating_mul(WASTE_MAX);
        let mut free = self.free.lock();
        let found = free.buffers.iter().enumerate();
        let found = found.filter(|(_, buffer)| fits.contains(&buffer.capacity()));
        let at = found.min_by_key(|(_, buffer)| buffer.capacity())?.0;
        let buffer = free.buffers.swap_remove(at);
        free.bytes -= buffer.capacity();
        Some(buffer)
    }
}

impl FramePool {
    /// Creates a pool that keeps at most `bytes_max` bytes that nobody uses.
    pub fn new(bytes_max: usize) -> Self {
        Self(Arc::new(Inner {
            bytes_max,
            free: Mutex::default(),
        }))
    }

    /// Returns a builder with room for a body of `capacity` bytes, warm if possible.
    pub fn builder(&self, capacity: usize) -> FrameBuilder {
        FrameBuilder::start(
            self.buffer(capacity + FRAME_HEADER),
            Arc::downgrade(&self.0),
        )
    }

    /// Returns the unused bytes it holds.
    pub fn free_bytes(&self) -> usize {
        self.0.free.lock().bytes
    }

    fn buffer(&self, capacity: usize) -> BytesMut {
        self.0.take(capacity).unwrap_or_else(|| fresh(capacity))
    }
}

/// Allocates a buffer. A large one begins as far into a block of memory as the first frame of a lane write
/// does into one of the file: then the device can take the frame from where it lies. A buffer that
/// comes back to the pool lies as it did.
fn fresh(capacity: usize) -> BytesMut {
    if capacity < ALIGNED_MIN {
        return BytesMut::with_capacity(capacity);
    }
    let block = usize::try_from(BLOCK).expect("a block is small");
    let mut buffer = BytesMut::with_capacity(capacity + block);
    let skipped = (LANE_HEADER + block - buffer.as_ptr() as usize % block) % block;
    buffer.put_bytes(0, skipped);
    buffer.advance(skipped);
    buffer
}

/// A frame being built: room for the header, then the body its owner writes.
#[derive(Debug)]
pub struct FrameBuilder {
    head: BytesMut,
    body: BytesMut,
    pool: Weak<Inner>,
}

impl FrameBuilder {
    /// Creates a builder with room for a body of `capacity` bytes, without a pool.
    pub fn with_capacity(capacity: usize) -> Self {
        Self::start(
            BytesMut::with_capacity(capacity + FRAME_HEADER),
            Weak::new(),
        )
    }

    fn start(mut whole: BytesMut, pool: Weak<Inner>) -> Self {
        whole.clear();
        whole.put_bytes(0, FRAME_HEADER);
        let body = whole.split_off(FRAME_HEADER);
        Self {
            head: whole,
            body,
            pool,
        }
    }

    /// Returns the body to write into. It grows beyond its capacity at the cost of a copy.
    pub fn body(&mut self) -> &mut BytesMut {
        &mut self.body
    }

    /// Returns the bytes written so far.
    pub fn body_len(&self) -> usize {
        self.body.len()
    }

    /// Returns the bytes that still fit without growing.
    pub fn remaining(&self) -> usize {
        self.body.capacity() - self.body.len()
    }

    /// Throws away what was written and keeps the memory.
    pub fn reset(&mut self) {
        self.body.clear();
    }

    /// Returns the checksum of the body.
    pub(crate) fn body_crc(&self) -> u32 {
        crc32c(&self.body)
    }

    /// Puts the header in front and makes the frame immutable.
    pub(crate) fn finish(mut self, header: FrameHeader) -> Frame {
        let (bytes, crc) = header.encode();
        self.head.copy_from_slice(&bytes);
        let mut whole = self.head;
        whole.unsplit(self.body);
        if whole.capacity() > whole.len().saturating_mul(WASTE_MAX) {
            let pool = self.pool.upgrade().map(FramePool);
            let len = whole.len();
            let mut small = match &pool {
                Some(pool) if len >= POOLED_MIN => pool.buffer(len),
                _ => BytesMut::with_capacity(len),
            };
            small.clear();
            small.extend_from_slice(&whole);
            if let Some(pool) = pool {
                pool.0.give(whole);
            }
            whole = small;
        }
        let memory = whole.capacity();
        let whole = if self.pool.strong_count() > 0 && memory >= POOLED_MIN {
            Bytes::from_owner(Loan {
                buffer: whole,
                pool: self.pool,
            })
        } else {
            whole.freeze()
        };
        Frame::new(header, crc, whole, memory)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{FrameNo, LogId, WalEpoch};

    fn finish(builder: FrameBuilder) -> Frame {
        let header = FrameHeader {
            log: LogId(0),
            body_len: u32::try_from(builder.body_len()).unwrap(),
            epoch: WalEpoch(1),
            number: FrameNo(1),
            first_seq: 0,
            durable: 0,
            ops: 1,
            body_crc: builder.body_crc(),
            prev_crc: 0,
        };
        builder.finish(header)
    }

    #[test]
    fn a_buffer_returns_when_the_last_slice_of_its_frame_is_gone() {
        let pool = FramePool::new(1 << 20);
        let mut builder = pool.builder(40_000);
        builder.body().put_bytes(7, 30_000);
        let address = builder.body().as_ptr();
        let frame = finish(builder);
        assert!(Frame::decode(frame.whole.clone()).is_some());
        let slice = frame.body().slice(10..20);
        drop(frame);
        assert_eq!(pool.free_bytes(), 0);
        assert_eq!(slice, [7; 10][..]);
        drop(slice);
        assert_eq!(pool.free_bytes(), 40_064);
        assert_eq!(pool.builder(40_000).body().as_ptr(), address);
        assert_eq!(pool.free_bytes(), 0);
    }

    #[test]
    fn a_large_frame_lies_in_memory_as_in_the_file_also_in_a_buffer_that_was_used() {
        let pool = FramePool::new(1 << 24);
        for len in [100_000, 1 << 20, 70_000, 1 << 20, 100_001] {
            let mut builder = pool.builder(len);
            builder.body().put_bytes(1, len);
            let frame = finish(builder);
            let address = frame.whole.as_ptr() as usize;
            assert_eq!(address % BLOCK as usize, LANE_HEADER, "{len}");
            assert!(Frame::decode(frame.whole.clone()).is_some());
        }
    }

    #[test]
    fn a_small_frame_gives_its_large_buffer_back_at_once() {
        let pool = FramePool::new(1 << 20);
        let mut builder = pool.builder(1 << 19);
        builder.body().put_slice(b"small");
        let frame = finish(builder);
        assert!(pool.free_bytes() >= (1 << 19) + FRAME_HEADER);
        assert!(frame.memory_bytes() < 128);
        assert_eq!(frame.body(), "small");
    }

    #[test]
    fn a_body_may_outgrow_its_buffer_and_the_pool_stays_bounded() {
        let pool = FramePool::new(100_000);
        let frames: Vec<_> = (0..8)
            .map(|_| {
                let mut builder = pool.builder(16 << 10);
                builder.body().put_bytes(1, 50_000);
                finish(builder)
            })
            .collect();
        assert!(frames.iter().all(|frame| frame.body().len() == 50_000));
        assert!(
            frames
                .iter()
                .all(|f| Frame::decode(f.whole.clone()).is_some())
        );
        drop(frames);
        assert!(pool.free_bytes() <= 100_000);
    }
}
