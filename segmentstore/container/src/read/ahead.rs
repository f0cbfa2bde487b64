//! Readers that go through history in order: found by where they read last, and served by fetching
//! what comes next before they ask.
//!
//! The window begins at 256 KiB and doubles up to 8 MiB with every read that goes on where the last one
//! of the same segment ended. What is fetched ahead has a budget of its own in the process; without
//! credit nothing is fetched, and nobody waits.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use parking_lot::Mutex;
use sarit_storage::{BLOCK_BYTES, PackId, READ_BYTES_MAX};
use tokio::task::JoinSet;

use super::blocks::PackKey;
use crate::shared::Shared;
use crate::state::{Extent, Medium, Seeded, Sid};

/// Bytes fetched ahead of a reader.
const WINDOW_MIN: u64 = 256 << 10;
const WINDOW_MAX: u64 = 8 << 20;
/// Readers remembered.
const READERS_MAX: usize = 4096;
/// Fetches under way for one container.
const FETCHES_MAX: usize = 64;

/// The readers of one container.
#[derive(Debug)]
pub(crate) struct Ahead {
    readers: Mutex<Readers>,
    fetches: Mutex<JoinSet<()>>,
}

#[derive(Debug)]
struct Readers {
    /// Where a reader is expected next, and its window.
    next: HashMap<(Sid, u64), u64, Seeded>,
    /// In the order they came. May name readers that went on.
    order: VecDeque<(Sid, u64)>,
}

impl Ahead {
    pub(crate) fn new(hasher: Seeded) -> Self {
        Self {
            readers: Mutex::new(Readers {
                next: HashMap::with_hasher(hasher),
                order: VecDeque::new(),
            }),
            fetches: Mutex::default(),
        }
    }

    /// Notes a read of `[from, to)` and returns how many bytes behind it are worth fetching.
    pub(crate) fn note(&self, sid: Sid, from: u64, to: u64) -> u64 {
        let mut readers = self.readers.lock();
        let window = match readers.next.remove(&(sid, from)) {
            Some(0) => WINDOW_MIN,
            Some(window) => (2 * window).min(WINDOW_MAX),
            None => 0,
        };
        readers.next.insert((sid, to), window);
        readers.order.push_back((sid, to));
        while readers.order.len() > READERS_MAX {
            if let Some(oldest) = readers.order.pop_front() {
                readers.next.remove(&oldest);
            }
        }
        window
    }
}

/// Fetches blocks of `[from, from + window)`, of which `extents` say where they lie.
pub(crate) fn fetch(shared: &Arc<Shared>, extents: &[Extent], from: u64, window: u64) {
    let mut wanted: Vec<(PackId, u32, u32)> = Vec::new();
    let end = from.saturating_add(window);
    for extent in extents {
        let Medium::Pack(id) = extent.place.medium() else {
            break;
        };
        let (start, stop) = (extent.offset.max(from), extent.end().min(end));
        if start >= stop {
            continue;
        }
        let part = extent.part(start..stop);
        let position = u64::from(part.position);
        let first = block(position);
        let last = block(position + u64::from(part.length) - 1);
        let owner = shared.owner;
        let key = PackKey { owner, id };
        for number in first..=last {
            if shared.memory.packs().has(key, number) {
                continue;
            }
            let together = u32::try_from(READ_BYTES_MAX / BLOCK_BYTES).expect("is small");
            match wanted.last_mut() {
                Some((same, first, count))
                    if *same == id && *first + *count == number && *count < together =>
                {
                    *count += 1;
                }
                Some((same, first, count)) if *same == id && *first + *count > number => {}
                _ => wanted.push((id, number, 1)),
            }
        }
    }
    if wanted.is_empty() {
        return;
    }
    let mut fetches = shared.ahead.fetches.lock();
    while fetches.try_join_next().is_some() {}
    for (id, first, count) in wanted {
        let bytes = u64::from(count) * BLOCK_BYTES;
        let Some(permit) = shared.memory.packs().read_ahead(bytes) else {
            return;
        };
        if fetches.len() >= FETCHES_MAX {
            return;
        }
        // Only what it needs: it must not keep the container alive.
        let (memory, owner, container) = (shared.memory.clone(), shared.owner, shared.id.0);
        let Some(tier) = shared.tier.clone() else {
            return;
        };
        fetches.spawn(async move {
            let _permit = permit;
            let Ok(name) = id.name(container) else {
                return;
            };
            let key = PackKey { owner, id };
            // Whoever reads it finds the error again.
            let got = memory
                .packs()
                .get(&tier.store, name, key, first, count)
                .await;
            if let Err(error) = got {
                tracing::debug!(%error, "nothing was fetched ahead");
            }
        });
    }
}

fn block(position: u64) -> u32 {
    u32::try_from(position / BLOCK_BYTES).expect("a pack has fewer than 2^32 bytes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_in_order_gets_a_growing_window_others_none() {
        let ahead = Ahead::new(Seeded(1));
        let sid = Sid(1);
        assert_eq!(ahead.note(sid, 0, 100), 0);
        assert_eq!(ahead.note(sid, 100, 200), WINDOW_MIN);
        assert_eq!(ahead.note(sid, 5000, 5100), 0);
        assert_eq!(ahead.note(Sid(2), 200, 300), 0);
        assert_eq!(ahead.note(sid, 200, 300), 2 * WINDOW_MIN);
        let mut window = 0;
        for at in 3..20 {
            window = ahead.note(sid, at * 100, at * 100 + 100);
        }
        assert_eq!(window, WINDOW_MAX);
    }

    #[test]
    fn only_so_many_readers_are_remembered() {
        let ahead = Ahead::new(Seeded(1));
        for at in 0..10_000 {
            ahead.note(Sid(at), 0, 1);
        }
        let readers = ahead.readers.lock();
        assert!(readers.next.len() <= READERS_MAX && readers.order.len() <= READERS_MAX);
    }
}
