//! Frames in memory, those of all containers together, oldest out first.
//!
//! Two of these exist per process: frames as they were written, for readers at the tail, and frames
//! read back from the log, for readers behind. Whatever is not here is in the log.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use sarit_wal::Frame;

use crate::metrics::Level;
use crate::state::Seeded;

/// Memory of an entry beside its frame, about.
const ENTRY_OVERHEAD: u64 = 320;

/// Which container's frame: owners get a number of their own each time they open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Key {
    owner: u64,
    frame: u64,
}

/// A bounded store of frames.
#[derive(Debug)]
pub(crate) struct Frames {
    bytes_max: u64,
    next_owner: AtomicU64,
    level: Level,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    bytes: u64,
    frames: HashMap<Key, Frame, Seeded>,
    /// In the order they came. May name frames that are gone.
    order: VecDeque<Key>,
}

impl Frames {
    /// Holds at most `bytes_max` bytes, and says by the metric `name` how many there are.
    pub(crate) fn new(bytes_max: u64, name: &'static str) -> Self {
        Self {
            bytes_max,
            level: Level::new(name, None),
            next_owner: AtomicU64::new(0),
            inner: Mutex::new(Inner {
                bytes: 0,
                frames: HashMap::with_hasher(Seeded(0)),
                order: VecDeque::new(),
            }),
        }
    }

    /// Returns a number that no other owner has.
    pub(crate) fn owner(&self) -> u64 {
        self.next_owner.fetch_add(1, Ordering::Relaxed)
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.level.get()
    }

    /// Keeps a frame and lets the oldest go until all fit.
    pub(crate) fn insert(&self, owner: u64, frame: Frame) {
        let key = Key {
            owner,
            frame: frame.number().0,
        };
        let mut inner = self.inner.lock();
        let size = size(&frame);
        if inner.frames.insert(key, frame).is_none() {
            inner.bytes += size;
            inner.order.push_back(key);
        }
        while inner.bytes > self.bytes_max
            && let Some(oldest) = inner.order.pop_front()
        {
            if let Some(frame) = inner.frames.remove(&oldest) {
                inner.bytes -= self::size(&frame);
            }
        }
        self.level.set(inner.bytes);
    }

    /// Returns a frame if it is here.
    pub(crate) fn get(&self, owner: u64, frame: u64) -> Option<Frame> {
        self.inner.lock().frames.get(&Key { owner, frame }).cloned()
    }

    /// Lets all frames of an owner go.
    pub(crate) fn forget(&self, owner: u64) {
        let mut inner = self.inner.lock();
        let Inner {
            bytes,
            frames,
            order,
        } = &mut *inner;
        order.retain(|key| {
            let keep = key.owner != owner;
            if !keep && let Some(frame) = frames.remove(key) {
                *bytes -= size(&frame);
            }
            keep
        });
        self.level.set(*bytes);
    }
}

fn size(frame: &Frame) -> u64 {
    frame.memory_bytes() as u64 + ENTRY_OVERHEAD
}
