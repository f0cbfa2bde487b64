//! Readers that go through history in order: found by where they read last, and served by fetching
//! what comes next before they ask.
//!
//! The window begins at 256 KiB and doubles up to 8 MiB with every read that goes on where the last one
//! of the same segment ended. When half of it has been read, what lacks is fetched in pieces as large as
//! a request may be: one block at a time would cost a request for each.
//!
//! What is fetched ahead takes credit of the process until it is read. A reader may hold as much as it
//! leaves free, which gives all who read at the same time equal shares without counting them (Choudhury
//! and Hahne, "Dynamic queue length thresholds for shared-memory packet switches", 1998): if a few held
//! all of it, theirs would make room for others' before they came to it. Without credit nothing is fetched,
//! and nobody waits.

use std::collections::{HashMap, VecDeque};
use std::ops::Range;
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
    /// By where they are expected next.
    next: HashMap<(Sid, u64), Reader, Seeded>,
    /// In the order they came. May name readers that went on.
    order: VecDeque<(Sid, u64)>,
}

#[derive(Clone, Copy, Debug)]
struct Reader {
    /// Bytes that are worth fetching ahead of it; 0 as long as it read only once.
    window: u64,
    /// Where what was fetched for it ends.
    fetched: u64,
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

    /// Notes a read of `[from, to)` and returns what behind it is worth fetching now, which may be nothing.
    /// `free` bytes of credit are left.
    fn note(&self, sid: Sid, from: u64, to: u64, free: u64) -> Range<u64> {
        let mut readers = self.readers.lock();
        let reader = match readers.next.remove(&(sid, from)) {
            Some(reader) => Reader {
                window: (2 * reader.window).clamp(WINDOW_MIN, WINDOW_MAX),
                fetched: reader.fetched.max(to),
            },
            None => Reader {
                window: 0,
                fetched: to,
            },
        };
        readers.next.insert((sid, to), reader);
        readers.order.push_back((sid, to));
        while readers.order.len() > READERS_MAX {
            if let Some(oldest) = readers.order.pop_front() {
                readers.next.remove(&oldest);
            }
        }
        let held = reader.fetched - to;
        let share = reader.window.min((held + free) / 2);
        let end = if held > share / 2 { 0 } else { to + share };
        reader.fetched..end.max(reader.fetched)
    }

    /// Notes that the reader expected at `next` has everything fetched until `fetched`.
    fn fetched(&self, sid: Sid, next: u64, fetched: u64) {
        if let Some(reader) = self.readers.lock().next.get_mut(&(sid, next)) {
            reader.fetched = fetched;
        }
    }
}

/// What one request fetches: some blocks of a pack, one behind the other.
struct Wanted {
    id: PackId,
    first: u32,
    count: u32,
    /// Where in the segment the first of them begins.
    offset: u64,
}

/// Notes a read of `[from, to)` and, if it went on where another ended, fetches what comes next, of which
/// `extents` say where it lies.
pub(crate) fn go_on(shared: &Arc<Shared>, extents: &[Extent], sid: Sid, from: u64, to: u64) {
    let free = shared.memory.packs().free_ahead();
    let range = shared.ahead.note(sid, from, to, free);
    if !range.is_empty() {
        let fetched = fetch(shared, extents, range);
        shared.ahead.fetched(sid, to, fetched);
    }
}

/// Has the blocks fetched that hold `range` of a segment, as far as there is credit. Returns how far that was.
fn fetch(shared: &Arc<Shared>, extents: &[Extent], range: Range<u64>) -> u64 {
    let (wanted, end) = wanted(shared, extents, range);
    if wanted.is_empty() {
        return end;
    }
    let mut fetches = shared.ahead.fetches.lock();
    while fetches.try_join_next().is_some() {}
    for Wanted {
        id,
        first,
        count,
        offset,
    } in wanted
    {
        let Some(credit) = shared.memory.packs().read_ahead(count) else {
            return offset;
        };
        if fetches.len() >= FETCHES_MAX {
            return offset;
        }
        // Only what it needs: it must not keep the container alive.
        let (memory, owner, container) = (shared.memory.clone(), shared.owner, shared.id.0);
        let Some(tier) = shared.tier.clone() else {
            return offset;
        };
        fetches.spawn(async move {
            let Ok(name) = id.name(container) else {
                return;
            };
            let key = PackKey { owner, id };
            // Whoever reads it finds the error again.
            let got = memory
                .packs()
                .get_ahead(&tier.store, name, key, first, credit)
                .await;
            if let Err(error) = got {
                tracing::debug!(%error, "nothing was fetched ahead");
            }
        });
    }
    end
}

/// Returns the requests for blocks of `range` that are not here yet, and where the extents end in it.
fn wanted(shared: &Shared, extents: &[Extent], range: Range<u64>) -> (Vec<Wanted>, u64) {
    let together = u32::try_from(READ_BYTES_MAX / BLOCK_BYTES).expect("is small");
    let mut wanted: Vec<Wanted> = Vec::new();
    let mut end = range.start;
    for extent in extents {
        let Medium::Pack(id) = extent.place.medium() else {
            break;
        };
        let (start, stop) = (extent.offset.max(range.start), extent.end().min(range.end));
        if start >= stop {
            continue;
        }
        end = stop;
        let part = extent.part(start..stop);
        let position = u64::from(part.position);
        let owner = shared.owner;
        let key = PackKey { owner, id };
        for number in block(position)..=block(position + u64::from(part.length) - 1) {
            if shared.memory.packs().has(key, number) {
                continue;
            }
            match wanted.last_mut() {
                Some(last)
                    if last.id == id
                        && last.first + last.count == number
                        && last.count < together =>
                {
                    last.count += 1;
                }
                Some(last) if last.id == id && last.first + last.count > number => {}
                _ => {
                    let begins = u64::from(number) * BLOCK_BYTES;
                    let offset = start + begins.saturating_sub(position);
                    wanted.push(Wanted {
                        id,
                        first: number,
                        count: 1,
                        offset,
                    });
                }
            }
        }
    }
    (wanted, end)
}

fn block(position: u64) -> u32 {
    u32::try_from(position / BLOCK_BYTES).expect("a pack has fewer than 2^32 bytes")
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLENTY: u64 = 1 << 30;

    #[test]
    fn a_reader_in_order_gets_a_growing_window_others_none() {
        let ahead = Ahead::new(Seeded(1));
        let sid = Sid(1);
        let note = |sid, from, to| ahead.note(sid, from, to, PLENTY);
        assert_eq!(note(sid, 0, 100), 100..100);
        assert_eq!(note(sid, 100, 200), 200..200 + WINDOW_MIN);
        assert!(note(sid, 5000, 5100).is_empty());
        assert!(note(Sid(2), 200, 300).is_empty());
        assert_eq!(note(sid, 200, 300), 300..300 + 2 * WINDOW_MIN);
        let mut window = 0;
        for at in 3..20 {
            let range = note(sid, at * 100, at * 100 + 100);
            window = range.end - range.start;
        }
        assert_eq!(window, WINDOW_MAX);
    }

    #[test]
    fn more_is_fetched_when_half_of_it_was_read() {
        let (ahead, sid) = (Ahead::new(Seeded(1)), Sid(1));
        let (step, mut at, mut fetched, mut fetches) = (WINDOW_MIN, 0, 0, Vec::new());
        for _ in 0..200 {
            let range = ahead.note(sid, at, at + step, PLENTY);
            at += step;
            if range.is_empty() {
                continue;
            }
            assert_eq!(
                range.start,
                at.max(fetched),
                "nothing twice, nothing left out"
            );
            fetched = range.end;
            ahead.fetched(sid, at, fetched);
            fetches.push(range.end - range.start);
        }
        assert!(fetched > at, "it stays ahead");
        assert!(fetches[7..].iter().all(|bytes| *bytes >= WINDOW_MAX / 2));
    }

    #[test]
    fn readers_share_the_credit_equally() {
        const CREDIT: u64 = 32 << 20;
        const STEP: u64 = WINDOW_MIN;
        for readers in [1, 4, 16] {
            let ahead = Ahead::new(Seeded(1));
            let mut ends = vec![0; readers];
            let held = |ends: &[u64], at: u64| ends.iter().map(|end| end.saturating_sub(at)).sum();
            for at in (0..400).map(|round| round * STEP) {
                for reader in 0..readers {
                    let sid = Sid(reader as u64);
                    let free = CREDIT.saturating_sub(held(&ends, at));
                    let range = ahead.note(sid, at, at + STEP, free);
                    if !range.is_empty() {
                        ends[reader] = range.end;
                        ahead.fetched(sid, at + STEP, range.end);
                    }
                }
                let most: u64 = held(&ends, at + STEP);
                assert!(most <= CREDIT, "{readers} readers hold {most} bytes");
            }
            let at = 400 * STEP;
            let fair = (CREDIT / (readers as u64 + 1)).min(WINDOW_MAX);
            for end in &ends {
                let held = end - at;
                assert!((fair / 4..=2 * fair).contains(&held), "{held} of {fair}");
            }
        }
    }

    #[test]
    fn what_there_was_no_credit_for_is_fetched_later() {
        let (ahead, sid) = (Ahead::new(Seeded(1)), Sid(1));
        ahead.note(sid, 0, 100, PLENTY);
        assert_eq!(ahead.note(sid, 100, 200, PLENTY).start, 200);
        ahead.fetched(sid, 200, 1200);
        assert_eq!(ahead.note(sid, 200, 300, PLENTY).start, 1200);
        ahead.fetched(sid, 300, 1200);
        assert!(ahead.note(sid, 300, 400, 0).is_empty());
    }

    #[test]
    fn only_so_many_readers_are_remembered() {
        let ahead = Ahead::new(Seeded(1));
        for at in 0..10_000 {
            ahead.note(Sid(at), 0, 1, PLENTY);
        }
        let readers = ahead.readers.lock();
        assert!(readers.next.len() <= READERS_MAX && readers.order.len() <= READERS_MAX);
    }
}
